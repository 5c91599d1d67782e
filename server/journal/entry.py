"""A record of the journal: one completion request, as one line of JSON.

Fields without a default are in each line; others are left out if they are empty. docs/journal.md explains
each field. A reader ignores unknown fields.
"""

from __future__ import annotations

from typing import Any

import msgspec

VERSION = 1


class Fault(msgspec.Struct, omit_defaults=True, gc=False):
    """A candidate has lost its place on an engine.

    candidate: its number among the request's. replica: of the engine. at_s: seconds after the request
    arrived. tokens: those it had then. resumed_s: seconds until its next token; none if it did not continue.
    """

    candidate: int
    replica: int
    cause: str
    at_s: float
    tokens: int = 0
    resumed_s: float | None = None


class Candidate(msgspec.Struct, omit_defaults=True, gc=False):
    """One of the request's candidates. Those of the first prompt come first, best_of for each prompt.

    tokens: generated, as `usage` counts them. finish: stop, length, or given_up if best_of ended it early;
    none: it was cut off. choice: the index of the choice that it became. cached: tokens of its prompt in the
    engine's prefix cache. text, token_ids: of a choice, if they are recorded.
    """

    tokens: int
    finish: str | None = None
    choice: int | None = None
    cached: int | None = None
    text: str | None = None
    token_ids: list[int] | None = None


class Entry(msgspec.Struct, omit_defaults=True, gc=False):
    """A request that has ended, with or without success.

    time: of its arrival, UTC. status: HTTP's; 499: the client has left. reason: of an error, even if it came
    after the status. prompt_tokens, completion_tokens: as in `usage`. queue_s: seconds until an engine worked
    on its first candidate. first_s: until the first byte of the reply. total_s: until the last. given: names
    of the request's fields. params: the values in force. adapter: the requested adapter of the model.
    request: its fields as the client wrote them. redacted: names of fields that a pattern changed, or that
    were left out for it. client: its address. trace: the id of its trace; empty: it has none.
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
    trace: str = ""
    v: int = VERSION

    @property
    def is_error(self) -> bool:
        """Whether the server answered with an error, before or after the first byte of the reply."""
        return bool(self.reason) and not self.gone

    @property
    def day(self) -> str:
        """The day of its arrival, UTC."""
        return self.time[:10]


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Entry).decode
