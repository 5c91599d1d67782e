"""What a key may do: roles, models, limits, its share of the work, and the priority of its requests.

Each term comes from the key's own line, else from its group, else from what applies to all keys.
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
LISTS = ("roles", "models")  # written with commas
NUMBERS = tuple(name for name in TERMS if name not in LISTS)
NAMES = ("expires", "group", *TERMS)

HOW_TO_BE_ADMIN = (
    "make an admin key with `verbatim keys new NAME --role admin`, or give this one the role: write"
    " roles=admin after its SHA-256 in api_keys_file, or roles: [admin] in its group of key_groups"
)


@dataclass(frozen=True, slots=True)
class Key:
    """The key of a request. name: the key's name, never the secret; the same in every process. models: those
    that it may use; None: all. weight: its share of the work when keys compete. lowest_priority: the smallest
    priority, which is the most urgent, that its requests may ask for. The limits apply to all its requests
    together; 0: no limit."""

    name: str
    weight: float = 1.0
    lowest_priority: int = 0
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    concurrent_requests: int = 0
    roles: tuple[Role, ...] = ("infer",)
    models: tuple[str, ...] | None = None

    def may_use(self, model: str) -> bool:
        """Whether the key's own terms allow the model. The model's allowed_keys are checked elsewhere."""
        return self.models is None or model in self.models

    def check(self, role: Role) -> None:
        """Raise AccessDenied if the key does not have this role."""
        if role not in self.roles:
            how = f"; {HOW_TO_BE_ADMIN}" if role == "admin" else ""
            raise AccessDenied(
                f"this needs an API key with the role {role}; {self.name} has only"
                f" {', '.join(self.roles)}{how}"
            )


NOBODY = Key("")  # until the key is known


@dataclass(frozen=True, slots=True)
class Line:
    """What may follow the digest in a key's line. expires: the last day, in UTC, on which it is valid."""

    expires: date | None = None
    group: str | None = None
    own: KeyTerms = field(default_factory=KeyTerms)


PLAIN = Line()


@dataclass(frozen=True, slots=True)
class Rules:
    """What models.yaml says about keys."""

    limits: RateLimits = field(default_factory=RateLimits)
    groups: Mapping[str, KeyGroup] = field(default_factory=dict)

    def key(self, name: str, line: Line = PLAIN) -> Key:
        """The key with that name. A group named in its line takes precedence over a group that
        lists the key."""
        if line.group is not None:
            group = self.groups[line.group]
        else:
            group = next((group for group in self.groups.values() if name in group.keys), KeyGroup())
        values = self.limits.model_dump() | _given(group) | _given(line.own)
        return Key(name, lowest_priority=values.pop("priority", 0), **values)

    def check_group(self, name: str) -> None:
        """Raise ValueError if there is no such group."""
        if name not in self.groups:
            known = nearest(name, self.groups).rstrip(".") if self.groups else ", which is not set"
            raise ValueError(f'key_groups of models.yaml has no group "{name}"{known}')


def _given(terms: KeyTerms) -> dict[str, Any]:
    return terms.model_dump(include=set(TERMS), exclude_none=True)


def parse_line(words: Sequence[str]) -> Line:
    """Parse the words after the digest. Raises ValueError, whose message quotes nothing that might
    be a secret."""
    texts: dict[str, str] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or name not in NAMES:
            raise ValueError(
                "after the SHA-256, a line may have expires=YYYY-MM-DD, group=NAME, roles=infer,admin,"
                f" models=ID,ID, numbers for {', '.join(NUMBERS)}, and nothing else"
            )
        if name in texts:
            raise ValueError(f"{name} is set twice")
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
    """A number if the text is one, else the text, which validation then refuses."""
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
