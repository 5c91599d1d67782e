"""A fault: a name, a sentence, arguments, and its effect on one request.

A fault acts at one of three places: it answers instead of the application (`answer`), it changes a reply on
its way to the connection (`edited`, `head`, `part`, `end`), or it affects connections (`begin`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Annotated, Any, ClassVar, Protocol

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from server.config.values import matching

MAX_WAIT_S = 3600


@dataclass(frozen=True, slots=True)
class Wait:
    """Send nothing for this long."""

    seconds: float


class Ending(Enum):
    """How a connection ends early: closed (FIN) or reset (RST)."""

    CLOSE = "close"
    RESET = "reset"


# Steps to carry out on a connection, in order; bytes are sent.
Step = bytes | Wait | Ending
Steps = Iterable[Step]


@dataclass(frozen=True, slots=True)
class Head:
    """A reply's status line and headers."""

    first: bytes
    headers: tuple[tuple[bytes, bytes], ...]

    @property
    def wire(self) -> bytes:
        return b"\r\n".join((self.first, *(b"%b: %b" % pair for pair in self.headers), b"", b""))

    def get(self, name: bytes) -> bytes:
        return next((value for key, value in self.headers if key == name), b"")

    def having(self, name: bytes, value: bytes) -> Head:
        """The same with another value of an existing header."""
        headers = tuple((key, value if key == name else old) for key, old in self.headers)
        return replace(self, headers=headers)


@dataclass(frozen=True, slots=True)
class Part:
    """One frame of a stream, or the whole body of another reply. head: of the same reply.

    num_before: number of earlier frames with a choice, which usually have one token each. follows_token:
    whether it is the first frame after that number of them.
    """

    data: bytes
    head: Head
    is_whole: bool = True
    num_before: int = 0
    follows_token: bool = True

    @property
    def wire(self) -> bytes:
        """The bytes to send. Empty for no data: an empty chunk would end the body."""
        if self.head.get(b"transfer-encoding") == b"chunked" and self.data:
            return b"%x\r\n%b\r\n" % (len(self.data), self.data)
        return self.data

    def of(self, data: bytes) -> Part:
        return replace(self, data=data)

    def comes_after(self, num_tokens: int) -> bool:
        """Whether this is the place after this many tokens. A whole reply, whose tokens come at once,
        is one place."""
        return self.is_whole or (self.num_before == num_tokens and self.follows_token)

    def halves(self) -> tuple[bytes, bytes]:
        middle = (len(self.wire) + 1) // 2
        return self.wire[:middle], self.wire[middle:]


@dataclass(frozen=True, slots=True)
class Asked:
    """What faults and rules use of a request. keys: the bearer token, and the name of its key. prompts: those
    that are text."""

    method: str = ""
    path: str = ""
    request_id: str = ""
    keys: tuple[str, ...] = ()
    model: str = ""
    prompts: tuple[str, ...] = ()
    stream: bool = False


class Reach(Protocol):
    """Effects of a fault beyond one reply."""

    def close_port(self, seconds: float) -> None:
        """Close the port from now on, for this long."""

    def reset_next(self, count: int) -> None:
        """Reset the next connections as soon as they are made."""

    def end_at_reuse(self) -> None:
        """End this connection as soon as another request comes on it."""


class Fault(BaseModel):
    """One fault with its arguments. The first argument may follow the name directly: `stall=2s`.

    A subclass's docstring is its description for users: one sentence, which also says what happens to a whole
    reply if it mentions frames.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str]
    example: ClassVar[str]

    def __str__(self) -> str:
        return " ".join((self.name, *(f"{name}={value}" for name, value in self)))

    def answer(self, asked: Asked) -> Response | None:
        """A reply instead of the application's, or None; or raises the failure that is the reply."""
        return None

    def begin(self, reach: Reach) -> None:
        """Called when the request begins to be answered."""

    def edited(self, part: Part) -> bytes:
        """The content of a part. A whole reply's content-length is adjusted."""
        return part.data

    def head(self, head: Head) -> Steps:
        yield head.wire

    def part(self, part: Part) -> Steps:
        yield part.wire

    def end(self, last: bytes) -> Steps:
        """Steps after the last part. last: the chunk that ends a chunked body, else empty."""
        yield last


UNITS_S = {"": 1.0, "s": 1.0, "ms": 0.001, "m": 60.0}


def _seconds(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|)", value, re.ASCII)
    if match is None or (seconds := float(match[1]) * UNITS_S[match[2]]) > MAX_WAIT_S:
        raise PydanticCustomError("words", "it should be a time: 500ms, 2s or 1m, at most an hour")
    return seconds


Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0, le=MAX_WAIT_S)]
Tokens = Annotated[int, Field(ge=0, le=1_000_000)]


def one_of(*numbers: int) -> AfterValidator:
    """A validator: one of these numbers, which an error message lists."""
    words = f"{', '.join(map(str, numbers[:-1]))} or {numbers[-1]}"

    def check(number: int) -> int:
        if number not in numbers:
            raise PydanticCustomError("words", "it should be {words}", {"words": words})
        return number

    return AfterValidator(check)


Word = Annotated[str, matching(r"[!-~]+", "printable ASCII without spaces")]


def after() -> Any:
    return Field(default=0, description="tokens that are sent before")
