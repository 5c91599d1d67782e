"""When a fault comes: the rules of a file or of PUT /simulator/faults, and how often each has come.

One structure for both, as YAML and as JSON. A request's header X-Verbatim-Fault goes before all rules.
"""

from __future__ import annotations

import fnmatch
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from server.config.sections import Section
from server.config.yamlfile import MisplacedError, explain, location_of, read_yaml
from server.errors import ConfigurationError, InvalidRequest
from twin.faults.catalog import described, parse
from twin.faults.fault import Asked, Fault

Count = Annotated[int, Field(ge=1)]


def _known_fault(text: str) -> str:
    parse(text)
    return text


def _regex(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"prompt_regex is no regular expression: {error}") from None
    return text


class Match(Section):
    """Which requests. What is not given is not looked at, but for the path: a rule without one is about
    completions, so that probes of /ready are not counted."""

    where = "in match"

    key: str | None = Field(default=None, description="An API key, or the name of one.")
    path: str = Field(
        default="*/completions", description="A path, in which * matches anything; a single * is every path."
    )
    method: str | None = Field(default=None, description="For example `POST`.")
    model: str | None = Field(default=None, description="The requested model.")
    prompt: str | None = Field(default=None, description="The complete text of a prompt.")
    prompt_prefix: str | None = Field(default=None, description="The beginning of a prompt.")
    prompt_regex: Annotated[str, AfterValidator(_regex)] | None = Field(
        default=None, description="A regular expression that matches somewhere in a prompt."
    )
    stream: bool | None = Field(default=None, description="Whether a stream is requested.")

    def fits(self, asked: Asked) -> bool:
        return (
            self.key in (None, *asked.keys)
            and fnmatch.fnmatchcase(asked.path, self.path)
            and (self.method is None or self.method.upper() == asked.method)
            and self.model in (None, asked.model)
            and self.stream in (None, asked.stream)
            and self._fits_prompt(asked.prompts)
        )

    def _fits_prompt(self, prompts: Sequence[str]) -> bool:
        """A prompt of the request's does, or no rule is about prompts."""
        if self.prompt is self.prompt_prefix is self.prompt_regex is None:
            return True
        return any(
            self.prompt in (None, prompt)
            and prompt.startswith(self.prompt_prefix or "")
            and re.search(self.prompt_regex or "", prompt) is not None
            for prompt in prompts
        )


class Rule(Section):
    where = "in a rule"

    fault: Annotated[str, AfterValidator(_known_fault)] = Field(
        description="As in the header: `stall=2s after=3`."
    )
    match: Match = Field(default=Match(), description="Which requests; default: all completions.")
    share: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="Only this share of the matching requests, drawn with the seed."
    )
    nth: Count | None = Field(default=None, description="Only the n-th matching request.")
    every: Count | None = Field(default=None, description="Every n-th matching request.")
    first: Count | None = Field(default=None, description="The first n matching requests.")
    times: Count | None = Field(default=None, description="At most this many times.")
    for_s: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Only for this many seconds after the rule was set."
    )

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        given = [name for name in ("share", "nth", "every", "first") if getattr(self, name) is not None]
        if len(given) > 1:
            raise MisplacedError(f"a rule has one of share, nth, every and first, not {' and '.join(given)}")
        return self


class RuleSet(Section):
    seed: int | None = Field(
        default=None, description="With it, the same requests in the same order get the same faults."
    )
    rules: tuple[Rule, ...] = Field(
        default=(), strict=False, description="The first rule that applies is used."
    )


def read_rules(path: Path) -> RuleSet:
    """The rules of a YAML file. Raises ConfigurationError with the line of what is wrong."""
    file = read_yaml(path)
    try:
        return RuleSet.model_validate(file.data)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigurationError(explain(first, RuleSet, file.place(location_of(first)))) from None


def rules_of(message: Any) -> RuleSet:
    """The rules of a message in JSON. Raises InvalidRequest that names the place of what is wrong."""
    try:
        return RuleSet.model_validate(message)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in location_of(first)) or "the body"
        raise InvalidRequest(explain(first, RuleSet, place), place) from None


class ActiveRule:
    """A rule in use. seen: requests that matched. fired: those that got the fault."""

    def __init__(self, rule: Rule, draw: random.Random) -> None:
        self.rule = rule
        self.fault = parse(rule.fault)
        self.seen = self.fired = 0
        self._draw = draw
        self._since = monotonic()

    def applies(self, asked: Asked) -> bool:
        """Whether this request gets the fault; counts it."""
        if not self.rule.match.fits(asked):
            return False
        self.seen += 1
        is_chosen = self._is_chosen() and not self._is_over()
        self.fired += is_chosen
        return is_chosen

    def _is_chosen(self) -> bool:
        rule = self.rule
        if rule.share is not None:
            return self._draw.random() < rule.share
        if rule.nth is not None:
            return self.seen == rule.nth
        if rule.every is not None:
            return self.seen % rule.every == 0
        return rule.first is None or self.seen <= rule.first

    def _is_over(self) -> bool:
        rule = self.rule
        return (rule.times is not None and self.fired >= rule.times) or (
            rule.for_s is not None and monotonic() - self._since >= rule.for_s
        )

    def shown(self) -> dict[str, Any]:
        rule = self.rule.model_dump(mode="json", exclude_defaults=True)
        return rule | {"seen": self.seen, "fired": self.fired}


def _cannot_refuse(seconds: float) -> None:
    raise InvalidRequest("the fault refuse needs a port that this server may close", "fault")


class Faults:
    """The rules in use, and what faults change for the connections to come.

    num_resets: how many of the next ones are reset (connection.py). refuse: closes the port for so many
    seconds (listener.py).
    """

    def __init__(self, rules: RuleSet | None = None) -> None:
        self.num_resets = 0
        self.refuse: Callable[[float], None] = _cannot_refuse
        self.set(rules or RuleSet())

    def set(self, rules: RuleSet) -> None:
        """Go on with these rules instead, each from its beginning."""
        self.seed = rules.seed
        self.rules = [
            ActiveRule(rule, random.Random(None if rules.seed is None else f"{rules.seed}/{number}"))
            for number, rule in enumerate(rules.rules)
        ]

    def clear(self) -> None:
        self.num_resets = 0
        self.set(RuleSet())

    def choose(self, asked: Asked) -> Fault | None:
        """The fault of the first rule that applies. The rules after it do not see the request."""
        return next((rule.fault for rule in self.rules if rule.applies(asked)), None)

    def shown(self) -> dict[str, Any]:
        return {"seed": self.seed, "rules": [rule.shown() for rule in self.rules], "faults": described()}
