"""Values of the request's fields: which are accepted, and which are a 400 that names field and range.

The rules are made from conform/rules/table.py, one for each field and kind of mistake.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from conform.rules import table
from conform.rules.profiles import differences
from conform.subject.budget import Cost, most_tokens
from conform.subject.ends import require, shown
from conform.subject.refusal import LONG_TOKENS, expected_tokens, refuses, refuses_each
from conform.subject.rule import Rule, rule
from conform.subject.server import Subject

SOME_SIZE = 1000  # a vocabulary's, where it is not known: of no edge then
NO_ID = 10**8  # in no vocabulary, where its size is not known


def rows_of(field: str, kind: str, vocab_size: int | None) -> list[tuple[Any, str]]:
    """(refused values of the field, words of the message). kind: range or type."""
    if kind == "range":
        return table.OUT_OF_RANGE.get(field, [])
    ranged = {id(value) for value, _ in table.OUT_OF_RANGE.get(field, [])}
    refused = (row for row in table.refused(vocab_size or NO_ID) if row != table.NO_TEMPLATE)
    rows = [row[1:] for row in refused if row[0] == field]
    return [
        (value, words if vocab_size or str(NO_ID - 1) not in words else "")
        for value, words in rows
        if id(value) not in ranged
    ]


def _base(field: str) -> table.Body:
    return table.BASE | ({"max_tokens": 1} if field in ("n", "best_of") else {})


def _refuses(field: str, kind: str, subject: Subject) -> None:
    refuses_each(subject, rows_of(field, kind, subject.vocab_size), field, _base(field))


def _most(bodies: list[table.Body]) -> Cost:
    """The cost of these requests, if the server answers every one."""
    return Cost(len(bodies), sum(expected_tokens(table.BASE | body) for body in bodies))


def refused() -> Iterator[Rule]:
    fields = dict.fromkeys(field for field, _, _ in table.refused(SOME_SIZE))
    for field in fields:
        for kind, what in (("range", "outside of its range"), ("type", "of a wrong type or form")):
            if rows := rows_of(field, kind, SOME_SIZE):
                yield Rule(
                    f"values.{field.replace('_', '-')}.{kind}",
                    f"A value of `{field}` {what} is a 400 that names the field, never clamped.",
                    _most([_base(field) | {field: value} for value, _ in rows]),
                    partial(_refuses, field, kind),
                    differences(field, kind),
                )


def accepted() -> Iterator[Rule]:
    for field in dict.fromkeys(_name(body) for body, _ in table.accepted(SOME_SIZE)):
        bodies = [body for body, _ in table.accepted(SOME_SIZE) if _name(body) == field]
        yield Rule(
            f"values.{field.replace('_', '-')}.accepted",
            f"Values at the limits of `{field}` are accepted."
            if field != "unknown"
            else "An unknown field is ignored.",
            _most(bodies),
            partial(_accepts, field),
            differences(field, "accepted"),
        )


def _accepts(field: str, subject: Subject) -> None:
    bodies = [body for body, _ in table.accepted(subject.vocab_size or SOME_SIZE) if _name(body) == field]
    wrong = []
    for body in bodies:
        response = subject.ask(**table.BASE | body)
        if response.status_code != 200:
            wrong.append(f"{shown(body)}: {response.status_code} {shown(response.text)}")
    require(not wrong, "; ".join(wrong[:3]))


def _name(body: table.Body) -> str:
    """The field of a row of the table."""
    named = [name for name in body if name not in ("stream", "max_tokens", "functions")] or list(body)
    return "unknown" if "functions" in body else named[0] if named else "prompt"


def together() -> Iterator[Rule]:
    for name, (body, field, words) in zip(table.TOGETHER_NAMES, table.TOGETHER, strict=True):
        cost = _most([body])
        yield Rule(
            f"values.{name}",
            f"`{shown(body, 120)}` is a 400 that names `{field}`."
            if len(str(body)) < 120
            else f"More candidates than a server can be asked for are a 400 that names `{field}`.",
            cost,
            partial(_refuses_together, body, field, words),
            differences(name, "together"),
            hard=most_tokens(table.BASE | body) > LONG_TOKENS,
        )


def _refuses_together(body: table.Body, field: str, words: str, subject: Subject) -> None:
    refuses(subject, table.BASE | body, field, words)


RULES = (*refused(), *accepted(), *together())


@rule("values.null-is-not-given", requests=2, tokens=2 * 60)
def null_is_not_given(subject: Subject) -> None:
    """`null` for an optional field means the same as leaving it out."""
    fields = {field for field, _, _ in table.refused(SOME_SIZE)} - {"model", "prompt"}
    plain = subject.choice(seed=1)
    seen = subject.choice(**{**dict.fromkeys(sorted(fields)), "seed": 1})
    require(seen == plain, f"{shown(seen)} is not {shown(plain)}")


@rule("values.max-tokens-default", requests=1, tokens=60)
def max_tokens_default(subject: Subject) -> None:
    """A request without `max_tokens` gets 16 tokens."""
    count = subject.complete(ignore_eos=True)["usage"]["completion_tokens"]
    require(count == 16, f"{count} tokens")


REFUSED_FOR_EVER: dict[str, Any] = {
    "use_beam_search": True,
    "length_penalty": 0.5,
    "prompt_embeds": "AAAA",
    "guided_choice": ["a", "b"],
    "logits_processors": ["a"],
}


@rule(
    "values.nothing-is-ignored",
    requests=len(REFUSED_FOR_EVER),
    tokens=len(REFUSED_FOR_EVER) * 8,
    differs={
        "openai": "they are a 400, as all unknown fields are",
        "vllm": "unknown and removed fields are ignored",
    },
)
def nothing_is_ignored(subject: Subject) -> None:
    """A field of other servers that would change the text is a 400 that names it; it is never ignored."""
    for field, value in REFUSED_FOR_EVER.items():
        refuses(subject, table.BASE | {field: value}, field)


@rule("values.user-is-not-shown", requests=1, tokens=20)
def user_is_not_shown(subject: Subject) -> None:
    """`user` is accepted, and does not appear in the reply."""
    text = str(subject.complete(**table.BASE, user="somebody-7"))
    require("somebody-7" not in text, shown(text))
