"""The observed requests of all clients, in order of arrival."""

from __future__ import annotations

import hashlib
import itertools
import re
import time
from collections import deque
from collections.abc import Iterator, Mapping

from server.contract.request import parse_request
from server.contract.unsupported import NEUTRAL
from server.errors import RequestFailure
from twin.verdict.attempt import Attempt

CASE = "x-verbatim-case"  # a request header with the name of its test case
MOST_ATTEMPTS = 10_000  # the oldest ones are forgotten
SHOWN_BODY_CHARS = 400
SECRET = re.compile(r"authorization|api[-_]?key|token|secret|cookie", re.IGNORECASE)
# Headers by which clients mark a retry.
RETRY_COUNTS = ("x-stainless-retry-count", "x-retry-count", "retry-count", "x-retry-attempt")
IDEMPOTENT = ("idempotency-key", "x-idempotency-key")


class Eyes:
    """Keeps the last MOST_ATTEMPTS requests."""

    def __init__(self) -> None:
        self._attempts: deque[Attempt] = deque(maxlen=MOST_ATTEMPTS)
        self._numbers = itertools.count(1)
        self._connections = itertools.count(1)

    def connection(self) -> int:
        """The number of a new connection."""
        return next(self._connections)

    def came(
        self, connection: int, method: str, path: str, query: str, headers: Mapping[str, str]
    ) -> Attempt:
        """The head of a request has come."""
        attempt = Attempt(
            number=next(self._numbers),
            came=time.monotonic(),
            wall_time=time.time(),
            client=client_of(headers),
            connection=connection,
            method=method,
            path=path,
            query=without_secrets(query),
            headers={name: "…" if SECRET.search(name) else value for name, value in headers.items()},
            says_retry=_says_retry(headers),
        )
        self._attempts.append(attempt)
        return attempt

    def body_came(self, attempt: Attempt, body: bytes) -> None:
        """The rest of the request has come."""
        text = b"%b %b\n%b" % (attempt.method.encode(), attempt.path.encode(), body)
        attempt.fingerprint = hashlib.blake2b(text, digest_size=12).hexdigest()
        shown = body.decode("utf-8", "replace")
        attempt.body = shown if len(shown) <= SHOWN_BODY_CHARS else shown[:SHOWN_BODY_CHARS] + "…"
        if attempt.is_completion:
            attempt.problems = problems_of(body)

    def attempts(self, client: str = "") -> list[Attempt]:
        """The attempts of one client, or of all."""
        return [one for one in self._attempts if client in ("", one.client)]

    def clients(self) -> list[str]:
        return list(dict.fromkeys(one.client for one in self._attempts))

    def forget(self, client: str = "") -> None:
        kept = [one for one in self._attempts if client and one.client != client]
        self._attempts.clear()
        self._attempts.extend(kept)


def client_of(headers: Mapping[str, str]) -> str:
    """The test case that a request names, else a digest of its key, which does not reveal it."""
    if case := headers.get(CASE):
        return case
    key = headers.get("authorization", "")
    return f"key-{hashlib.sha256(key.encode()).hexdigest()[:8]}" if key else "anonymous"


def problems_of(body: bytes) -> list[str]:
    """What is wrong with a completion request's body, by the contract; empty: nothing."""
    try:
        request = parse_request(body)
    except RequestFailure as failure:
        return [failure.message]
    unknown = [name for name in request.model_extra or {} if name not in NEUTRAL]
    return [f"{name} is not a field of the contract" for name in unknown]


def _says_retry(headers: Mapping[str, str]) -> bool:
    counts: Iterator[str] = (headers.get(name, "0") for name in RETRY_COUNTS)
    return any(count not in ("", "0") for count in counts) or any(name in headers for name in IDEMPOTENT)


def without_secrets(query: str) -> str:
    """A URL's query, without the values of keys."""
    parts = (part.partition("=") for part in query.split("&") if part)
    return "&".join(
        f"{name}=…" if SECRET.search(name) or name == "key" else name + eq + value
        for name, eq, value in parts
    )
