"""The tested server: a client, a model, and what a few requests have shown about it."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import Any

import httpx

from conform.subject.budget import Cost
from conform.subject.client import Client, reply_of, stream_of
from conform.subject.ends import ConformError, Skipped, Unmet, require, shown
from conform.subject.frames import Json

PROMPT = "The capital of France is"
# A prompt whose continuation does not repeat itself with any model, and is the same each time.
PLAIN: dict[str, Any] = {"temperature": 0, "frequency_penalty": 2, "presence_penalty": 2, "max_tokens": 12}
UNKNOWN_ID = 2**31 - 1  # not in any vocabulary
IDS = ((300, 500), (400, 700), (350, 650), (450, 750))  # words, or parts of words, in any vocabulary
PAIRS = (*IDS, *((b, a) for a, b in IDS))
COST = Cost(3 + 4 * len(PAIRS), 700)
OTHER_SHAPES = (Unmet, IndexError, KeyError, TypeError, ValueError)  # exceptions for a reply of another form


@dataclass(frozen=True, slots=True)
class Duel:
    """Two tokens between which a bias decides, and how far apart they are.

    first: how much likelier a is than b after the prompt, as a natural logarithm; second: the same after the
    prompt and a.
    """

    prompt: list[int]
    a: int
    b: int
    name_a: str
    name_b: str
    first: float
    second: float

    def bias(self, lead: float, level: float = 50) -> dict[str, float]:
        """A bias with which no third token is chosen, and a leads by `lead` at the first position."""
        return {str(self.a): level + lead - self.first, str(self.b): level}


@dataclass(frozen=True, slots=True)
class Subject:
    """entry: of the model in the list of models. key: whether a key was given. text, tokens: the model's
    answer to PROMPT with PLAIN; tokens is empty if the server returns no logprobs."""

    client: Client
    profile: str
    model: str
    entry: Json
    listed: list[Json]
    key: bool
    context_size: int | None = None
    vocab_size: int | None = None
    text: str = ""
    tokens: tuple[str, ...] = ()
    duel_or_none: Duel | None = None

    def body(self, **fields: Any) -> Json:
        return {"model": self.model, "prompt": PROMPT} | fields

    def ask(self, **fields: Any) -> httpx.Response:
        """The response to a request with these fields, whatever its status."""
        return self.client.post(self.body(**fields))

    def complete(self, **fields: Any) -> Json:
        return reply_of(self.ask(**fields))

    def choices(self, **fields: Any) -> list[Json]:
        choices = self.complete(**fields).get("choices")
        require(isinstance(choices, list) and choices, f"no choices: {shown(choices)}")
        return list(choices or [])

    def choice(self, **fields: Any) -> Json:
        """The only choice of the reply."""
        choices = self.choices(**fields)
        require(len(choices) == 1, f"{len(choices)} choices where one was asked for")
        return choices[0]

    def scored(self, **fields: Any) -> Json:
        """The log-probabilities of the only choice."""
        self.need_logprobs()
        logprobs = self.choice(**fields).get("logprobs")
        require(isinstance(logprobs, dict), f"logprobs were asked for and are {shown(logprobs)}")
        return dict(logprobs or {})

    def chunks(self, **fields: Any) -> list[Json]:
        return stream_of(self.ask(stream=True, **fields))

    def need_logprobs(self) -> None:
        if not self.tokens:
            raise Skipped("the server returns no logprobs")

    def duel(self) -> Duel:
        self.need_logprobs()
        if self.duel_or_none is None:
            raise Skipped("found no two tokens between which a logit_bias decides")
        return self.duel_or_none

    def need_key(self) -> None:
        if not self.key:
            raise Skipped("needs a valid key: --key")

    def small_context(self, most: int = 512) -> int:
        """The context size, if it is small enough to fill. Raises Skipped."""
        if self.context_size is None:
            raise Skipped("the model's entry does not state the context size")
        if self.context_size > most:
            raise Skipped(
                f"the model's context is {self.context_size} tokens; this rule is skipped above {most},"
                " because it would cost too much"
            )
        return self.context_size


def learn(client: Client, profile: str, listed: list[Json], model: str | None, key: bool) -> Subject:
    """Learn about the server with some twenty small requests. Raises ConformError if a plain one fails."""
    if model is None and not listed:
        raise ConformError("the server lists no models: name one with --model")
    name = model or str(listed[0]["id"])
    entry = next((entry for entry in listed if entry["id"] == name), {})
    client.budget.open(COST)
    subject = Subject(client, profile, name, entry, listed, key)
    try:
        text = str(subject.choice(**PLAIN)["text"])
    except (Unmet, KeyError, httpx.TransportError) as failure:
        raise ConformError(f"a plain request for {name} fails: {failure or type(failure).__name__}") from None
    tokens: tuple[str, ...] = ()
    with contextlib.suppress(*OTHER_SHAPES):
        tokens = tuple(subject.choice(**PLAIN, logprobs=1)["logprobs"]["tokens"])
    size = entry.get("context_size") or entry.get("max_model_len")
    return Subject(
        client,
        profile,
        name,
        entry,
        listed,
        key,
        context_size=size if isinstance(size, int) else None,
        vocab_size=_vocab_size(subject),
        text=text,
        tokens=tokens,
        duel_or_none=_duel(subject) if tokens else None,
    )


def _vocab_size(subject: Subject) -> int | None:
    """The vocabulary size, from the message that refuses an id outside of any vocabulary."""
    found = re.search(r"between 0 and (\d+)", subject.ask(prompt=[UNKNOWN_ID], max_tokens=1).text)
    return int(found[1]) + 1 if found else None


def _duel(subject: Subject) -> Duel | None:
    """The first pair of tokens whose difference is about the same at both positions."""
    for a, b in PAIRS:
        with contextlib.suppress(*OTHER_SHAPES):
            prompt = [320, a, 330]
            (name_a, a1), (_, a2) = _forced(subject, prompt, a, 2)
            ((name_b, b1),) = _forced(subject, prompt, b, 1)
            ((_, b2),) = _forced(subject, [*prompt, a], b, 1)
            if abs((a1 - b1) - (a2 - b2)) < 1.2 and name_a != name_b:
                return Duel(prompt, a, b, name_a, name_b, a1 - b1, a2 - b2)
    return None


def _forced(subject: Subject, prompt: list[int], token_id: int, count: int) -> list[tuple[str, float]]:
    """(name, log-probability) of a token forced by a bias, each time."""
    bias = {str(token_id): 100}
    logprobs = subject.choice(prompt=prompt, max_tokens=count, temperature=0, logprobs=0, logit_bias=bias)[
        "logprobs"
    ]
    return list(zip(logprobs["tokens"], logprobs["token_logprobs"], strict=True))
