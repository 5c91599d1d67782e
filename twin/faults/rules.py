"""Rules that decide when a fault happens, from a file or PUT /simulator/faults, and their counters.

Both have the same structure, as YAML and as JSON. A request's header X-Verbatim-Fault overrides all rules.
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
        raise ValueError(f"prompt_regex is not a valid regular expression: {error}") from None
    return text


class Match(Section):
    """Which requests a rule is for. Keys that are not set do not matter, except the path: without one, the
    rule is for completions, so that probes of /ready do not count."""

    where = "in match"

    key: str | None = Field(default=None, description="An API key, or the name of one.")
    path: str = Field(
        default="*/completions", description="A path; * stands for any text, and alone for every path."
    )
    method: str | None = Field(default=None, description="Such as `POST`.")
    model: str | None = Field(default=None, description="The requested model.")
    prompt: str | None = Field(default=None, description="The whole text of a prompt.")
    prompt_prefix: str | None = Field(default=None, description="The beginning of a prompt.")
    prompt_regex: Annotated[str, AfterValidator(_regex)] | None = Field(
        default=None, description="A regular expression, searched in a prompt."
    )
    stream: bool | None = Field(default=None, description="Whether the request asks for a stream.")

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
        """Whether one of the request's prompts fits, or the rule does not ask for prompts."""
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
        description="The fault, as in the header: `stall=2s after=3`."
    )
    match: Match = Field(
        default=Match(), description="The requests that the rule is for; default: all completions."
    )
    share: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="A share of the matching requests, drawn with the seed."
    )
    nth: Count | None = Field(default=None, description="Only the n-th matching request.")
    every: Count | None = Field(default=None, description="Every n-th matching request.")
    first: Count | None = Field(default=None, description="The first n matching requests.")
    times: Count | None = Field(
        default=None, description="The largest number of times that the rule applies."
    )
    for_s: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Seconds that the rule applies, from when it was set."
    )

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        given = [name for name in ("share", "nth", "every", "first") if getattr(self, name) is not None]
        if len(given) > 1:
            raise MisplacedError(
                f"a rule may have only one of share, nth, every and first, and has {' and '.join(given)}"
            )
        return self


class RuleSet(Section):
    seed: int | None = Field(
        default=None, description="With it, the same requests in the same order get the same faults."
    )
    rules: tuple[Rule, ...] = Field(
        default=(), strict=False, description="The rules in order; the first that applies is used."
    )


def read_rules(path: Path) -> RuleSet:
    """The rules in a YAML file. Raises ConfigurationError with the line of the error."""
    file = read_yaml(path)
    try:
        return RuleSet.model_validate(file.data)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigurationError(explain(first, RuleSet, file.place(location_of(first)))) from None


def rules_of(message: Any) -> RuleSet:
    """The rules in a JSON message. Raises InvalidRequest, which names the place of the error."""
    try:
        return RuleSet.model_validate(message)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in location_of(first)) or "the body"
        raise InvalidRequest(explain(first, RuleSet, place), place) from None


class ActiveRule:
    """An active rule. seen: requests that matched. fired: those that got the fault."""

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
    raise InvalidRequest(
        "the fault refuse needs a server on a TCP port of its own, which it can close", "fault"
    )


class Faults:
    """The active rules, and the effects of faults on later connections.

    num_resets: how many of the next connections are reset (connection.py). refuse: closes the port for that
    many seconds (listener.py).
    """

    def __init__(self, rules: RuleSet | None = None) -> None:
        self.num_resets = 0
        self.refuse: Callable[[float], None] = _cannot_refuse
        self.set(rules or RuleSet())

    def set(self, rules: RuleSet) -> None:
        """Use these rules instead, with new counters."""
        self.seed = rules.seed
        self.rules = [
            ActiveRule(rule, random.Random(None if rules.seed is None else f"{rules.seed}/{number}"))
            for number, rule in enumerate(rules.rules)
        ]

    def clear(self) -> None:
        self.num_resets = 0
        self.set(RuleSet())

    def choose(self, asked: Asked) -> Fault | None:
        """The fault of the first rule that applies. Later rules do not see the request."""
        return next((rule.fault for rule in self.rules if rule.applies(asked)), None)

    def shown(self) -> dict[str, Any]:
        return {"seed": self.seed, "rules": [rule.shown() for rule in self.rules], "faults": described()}
