"""A record of the journal: one completion request, as one line of JSON.

Fields without a default are in each line; the others are left out where they say nothing. docs/journal.md
explains each of them. A reader ignores fields that it does not know.
"""

from __future__ import annotations

from typing import Any

import msgspec

VERSION = 1


class Fault(msgspec.Struct, omit_defaults=True, gc=False):
    """A candidate has lost its place on an engine.

    candidate: its number among the request's. replica: of the engine. at_s: seconds after the request came.
    tokens: that it had then. resumed_s: until its next token came; none where it has not gone on.
    """

    candidate: int
    replica: int
    cause: str
    at_s: float
    tokens: int = 0
    resumed_s: float | None = None


class Candidate(msgspec.Struct, omit_defaults=True, gc=False):
    """One of the request's candidates. Those of the first prompt come first, best_of for each prompt.

    tokens: generated, as `usage` counts them. finish: stop, length, or given_up where best_of has ended it
    early; none: it was cut off. choice: the index of the choice that it became. cached: tokens of its prompt
    that the engine had in its prefix cache. text, token_ids: of a choice, where they are kept.
    """

    tokens: int
    finish: str | None = None
    choice: int | None = None
    cached: int | None = None
    text: str | None = None
    token_ids: list[int] | None = None


class Entry(msgspec.Struct, omit_defaults=True, gc=False):
    """A request that has ended, well or not.

    time: when it came, UTC. status: HTTP's; 499: the client has left. reason: of an error, also one that came
    after the status. prompt_tokens, completion_tokens: as `usage` says them. queue_s: until its first
    candidate was worked on by an engine. first_s: until the reply's first byte. total_s: until its last.
    given: names of the fields that the request had. params: the values in force. adapter: the one that was
    asked for, of the model. request: its fields as the client wrote them. redacted: names of what a pattern
    has changed in it, or was left out for it. client: the address.
    """

    id: str
    time: str
    key: str
    model: str
    status: int
    total_s: float
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int | None = None
    adapter: str = ""
    user: str = ""
    path: str = ""
    stream: bool = False
    reason: str = ""
    gone: bool = False
    queue_s: float | None = None
    first_s: float | None = None
    given: list[str] = []
    params: dict[str, Any] = {}
    candidates: list[Candidate] = []
    faults: list[Fault] = []
    request: dict[str, Any] | None = None
    redacted: list[str] = []
    client: str = ""
    v: int = VERSION

    @property
    def is_error(self) -> bool:
        """Whether the server has answered with an error, before the reply's first byte or after it."""
        return bool(self.reason) and not self.gone

    @property
    def day(self) -> str:
        """On which it came, UTC."""
        return self.time[:10]


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Entry).decode
