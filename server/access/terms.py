"""What a key may: roles and models, limits, its share of the work, and how urgent its requests may be.

Each of them is what the key's own line says, else what its group says, else what all keys have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from pydantic import ValidationError

from server.config.sections import KeyGroup, KeyTerms, RateLimits, Role
from server.config.yamlfile import nearest
from server.errors import AccessDenied

TERMS = tuple(KeyTerms.model_fields)
LISTS = ("roles", "models")  # with commas between
NUMBERS = tuple(name for name in TERMS if name not in LISTS)
NAMES = ("expires", "group", *TERMS)

HOW_TO_BE_ADMIN = (
    "`verbatim keys new NAME --role admin` makes one, roles=admin after a key's SHA-256 in api_keys_file"
    " makes it one, and so does roles: [admin] of its group in key_groups"
)


@dataclass(frozen=True, slots=True)
class Key:
    """Who asks. name: the key's, never the secret; the same in every process. models: that it may use; None:
    every one. weight: its share of the work when keys compete. lowest_priority: the most urgent that its
    requests may ask for; lower ones come first. The limits are of all its requests together; 0 is none."""

    name: str
    weight: float = 1.0
    lowest_priority: int = 0
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    concurrent_requests: int = 0
    roles: tuple[Role, ...] = ("infer",)
    models: tuple[str, ...] | None = None

    def may_use(self, model: str) -> bool:
        """As far as the key says itself: the model may name those that it lets in."""
        return self.models is None or model in self.models

    def check(self, role: Role) -> None:
        """Raises AccessDenied for a key that has not this role."""
        if role not in self.roles:
            how = f"; {HOW_TO_BE_ADMIN}" if role == "admin" else ""
            raise AccessDenied(
                f"this takes an API key with the role {role}, and {self.name} has"
                f" {', '.join(self.roles)}{how}"
            )


NOBODY = Key("")  # until it is known


@dataclass(frozen=True, slots=True)
class Line:
    """What may follow the digest in a key's line. expires: the last day, in UTC, on which it works."""

    expires: date | None = None
    group: str | None = None
    own: KeyTerms = field(default_factory=KeyTerms)


PLAIN = Line()


@dataclass(frozen=True, slots=True)
class Rules:
    """What models.yaml says of keys."""

    limits: RateLimits = field(default_factory=RateLimits)
    groups: Mapping[str, KeyGroup] = field(default_factory=dict)

    def key(self, name: str, line: Line = PLAIN) -> Key:
        """The key of that name. A group that its line names goes before one that names the key."""
        if line.group is not None:
            group = self.groups[line.group]
        else:
            group = next((group for group in self.groups.values() if name in group.keys), KeyGroup())
        values = self.limits.model_dump() | _given(group) | _given(line.own)
        return Key(name, lowest_priority=values.pop("priority", 0), **values)

    def check_group(self, name: str) -> None:
        """Raises ValueError for one that there is not."""
        if name not in self.groups:
            known = nearest(name, self.groups).rstrip(".") if self.groups else ", which are not set"
            raise ValueError(f'no group "{name}" is in key_groups of models.yaml{known}')


def _given(terms: KeyTerms) -> dict[str, Any]:
    return terms.model_dump(include=set(TERMS), exclude_none=True)


def parse_line(words: Sequence[str]) -> Line:
    """Raises ValueError that says what is wrong, but quotes nothing that might be a secret."""
    texts: dict[str, str] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or name not in NAMES:
            raise ValueError(
                "after the SHA-256 may come expires=YYYY-MM-DD, group=NAME, roles=infer,admin, models=ID,ID,"
                f" and a number each for {', '.join(NUMBERS)}, nothing else"
            )
        if name in texts:
            raise ValueError(f"{name} is there twice")
        texts[name] = text
    expires, group = texts.pop("expires", None), texts.pop("group", None)
    try:
        own = KeyTerms.model_validate({name: _value(name, text) for name, text in texts.items()})
    except ValidationError as error:
        (first, *_) = error.errors()
        name = str(first["loc"][0])
        words_of = first["msg"].replace("Input should be", "it should be")
        raise ValueError(f'{name} is "{texts[name]}"; {words_of}') from None
    return Line(None if expires is None else parse_day(expires), group, own)


def _value(name: str, text: str) -> object:
    """Text that is no number stays text, for the check to refuse."""
    if name in LISTS:
        return text.split(",")
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def parse_day(text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date()
    except ValueError:
        raise ValueError(f'"{text}" is not a day written YYYY-MM-DD') from None
