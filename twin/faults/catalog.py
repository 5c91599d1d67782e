"""All faults: their names in text form (`stall=2s after=3`), and their description."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from server.config.yamlfile import explain, nearest
from twin.faults import answers, cuts, edits, pace, ports
from twin.faults.fault import Fault

ALL: tuple[type[Fault], ...] = (
    answers.Status,
    answers.Html,
    answers.Redirect,
    ports.Refuse,
    ports.ResetConnections,
    ports.CloseAtReuse,
    cuts.CutBeforeHeaders,
    cuts.CutAfterHeaders,
    cuts.CutAfterTokens,
    cuts.CutInFrame,
    cuts.CutInCharacter,
    cuts.Reset,
    cuts.ShortBody,
    cuts.LongBody,
    pace.Stall,
    pace.SlowHeaders,
    pace.OneByte,
    edits.ErrorFrame,
    edits.BadJson,
    edits.Comment,
    edits.NoDone,
    edits.FinishTwice,
    edits.FinishMissing,
    edits.UsageMissing,
    edits.ContentType,
)
FAULTS = {kind.name: kind for kind in ALL}


def parse(text: str) -> Fault:
    """Parse `NAME`, `NAME=VALUE` or `NAME ARGUMENT=VALUE …`; the value after the name is
    the first argument's.

    Arguments are separated by a space or a comma. Raises ValueError, whose message says what is wrong and
    what is possible.
    """
    first, *words = re.split(r"[\s,]+", text.strip(" \t,"))
    name, sign, value = first.partition("=")
    kind = FAULTS.get(name)
    if kind is None:
        raise ValueError(f'there is no fault "{name}"{nearest(name, FAULTS)}')
    if sign:
        words.insert(0, f"{next(iter(kind.model_fields), '')}={value}")
    given = _given(kind, words)
    for argument, field in kind.model_fields.items():
        if field.is_required() and argument not in given:
            raise ValueError(f"{name}: {argument} is missing; for example {kind.example}")
    try:
        return kind(**given)
    except ValidationError as error:
        raise ValueError(explain(error.errors()[0], kind, name)) from None


def _given(kind: type[Fault], words: Sequence[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for word in words:
        argument, sign, value = word.partition("=")
        if not kind.model_fields:
            raise ValueError(f"{kind.name} has no arguments.")
        if argument not in kind.model_fields:
            raise ValueError(
                f'{kind.name} has no argument "{argument}"{nearest(argument, kind.model_fields)}'
            )
        if not sign:
            raise ValueError(f"{kind.name}: {argument} needs a value, as {argument}=VALUE.")
        if argument in given:
            raise ValueError(f"{kind.name}: {argument} is given twice.")
        given[argument] = value
    return given


def described() -> list[dict[str, Any]]:
    """The description of the faults in GET /simulator/faults."""
    return [
        {
            "name": kind.name,
            "description": sentence(kind),
            "arguments": [
                {"name": name, "description": what}
                | ({"required": True} if field.is_required() else {"default": field.default})
                for name, field, what in _arguments(kind)
            ],
            "example": kind.example,
        }
        for kind in ALL
    ]


def table() -> str:
    """The table of faults in docs/faults.md."""
    lines = ["| fault | arguments | example |", "|---|---|---|"]
    for kind in ALL:
        arguments = "<br>".join(
            f"`{name}`: {what} ({'required' if field.is_required() else f'default {_shown(field.default)}'})"
            for name, field, what in _arguments(kind)
        )
        lines.append(f"| **`{kind.name}`**<br>{sentence(kind)} | {arguments} | `{kind.example}` |")
    return "\n".join(lines)


def sentence(kind: type[Fault]) -> str:
    return " ".join((kind.__doc__ or "").split())


def _arguments(kind: type[Fault]) -> Iterator[tuple[str, FieldInfo, str]]:
    for name, field in kind.model_fields.items():
        yield name, field, field.description or ""


def _shown(default: Any) -> str:
    return "none" if default is None else f"{default:g}" if isinstance(default, float) else str(default)
