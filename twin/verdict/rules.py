"""The rules by which a client is judged. Each looks at everything that one client has sent, in order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise, zip_longest

from twin.verdict.attempt import Attempt

FINAL = (400, 401, 403, 404, 405, 413, 415)  # the same request cannot succeed later
BUSY = (429, 503)
WINDOW_S = 120.0  # seconds within which the same request counts as a retry
TOLERANCE_S = 0.15  # for clock differences and network delays
JITTER_S = 0.05  # a wait that is longer by less may be so by chance
MANY = 5  # connections or tries from which on it counts as a habit
KEY_HEADERS = ("x-api-key", "api-key", "x-auth-token")
KEY_PARAMETERS = ("key", "api_key", "apikey", "api-key", "token", "access_token")


class State(StrEnum):
    """NOT_TRIED: no request has tested the rule."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_TRIED = "not tried"


@dataclass(frozen=True, slots=True)
class Patience:
    """stall_s: after this long without a byte, a client should have given up. gives_up_s: how long after the
    Retry-After the next try may still come. most_tries: of one request."""

    stall_s: float = 30.0
    gives_up_s: float = 30.0
    most_tries: int = 6


USUAL = Patience()


@dataclass(slots=True)
class Seen:
    """What a rule has found. tried: how often it was tested. against: the violations."""

    tried: int = 0
    against: list[tuple[Attempt, str]] = field(default_factory=list)

    @property
    def state(self) -> State:
        return State.FAILED if self.against else State.PASSED if self.tried else State.NOT_TRIED


@dataclass(frozen=True, slots=True)
class Log:
    """The attempts of one client. now: time.monotonic."""

    attempts: list[Attempt]
    now: float
    patience: Patience = USUAL

    def same(self) -> Iterator[list[Attempt]]:
        """The tries of each request: equal method, path and body, each within WINDOW_S of the one before."""
        chains: dict[str, list[Attempt]] = {}
        for one in self.attempts:
            chain = chains.get(one.fingerprint, [])
            if chain and one.came - (chain[-1].over or chain[-1].came) > WINDOW_S:
                yield chains.pop(one.fingerprint)
                chain = []
            if one.fingerprint:
                chains.setdefault(one.fingerprint, chain).append(one)
        yield from chains.values()

    def tries(self) -> Iterator[tuple[Attempt, Attempt]]:
        """(a request, its next try)."""
        for chain in self.same():
            yield from pairwise(chain)


@dataclass(frozen=True, slots=True)
class Rule:
    id: str
    statement: str
    look: Callable[[Log, Seen], None]

    def judge(self, log: Log) -> Seen:
        seen = Seen()
        self.look(log, seen)
        return seen


RULES: list[Rule] = []


def rule(rule_id: str) -> Callable[[Callable[[Log, Seen], None]], Callable[[Log, Seen], None]]:
    """Make a rule of a function; its docstring is the rule's statement."""

    def add(look: Callable[[Log, Seen], None]) -> Callable[[Log, Seen], None]:
        assert look.__doc__ is not None, "a sentence"
        RULES.append(Rule(rule_id, " ".join(look.__doc__.split()), look))
        return look

    return add


@rule("retry.final")
def no_retry_of_what_is_final(log: Log, seen: Seen) -> None:
    """After a 400, 401, 403, 404, 405, 413 or 415 the same request is not sent again."""
    seen.tried += sum(one.status in FINAL for one in log.attempts)
    for one, again in log.tries():
        if one.status in FINAL and again.came > (one.over or one.came):
            seen.against.append((again, f"the same request had got a {one.status} (request {one.number})"))


@rule("retry.busy")
def retry_of_what_is_busy(log: Log, seen: Seen) -> None:
    """After a 429 or 503 the request is sent again."""
    for chain in log.same():
        for one in chain[:-1]:
            seen.tried += one.status in BUSY
        last = chain[-1]
        if last.status in BUSY:
            waits_s = (last.retry_after_s or 0.0) + log.patience.gives_up_s
            if len(chain) > 1:
                seen.tried += 1  # it has tried before, and may give up
            elif last.over is not None and log.now - last.over > waits_s:
                seen.tried += 1
                seen.against.append((last, f"it got a {last.status} and was not sent again"))


@rule("retry.after")
def waits_as_long_as_told(log: Log, seen: Seen) -> None:
    """The next attempt comes no earlier than Retry-After says."""
    for one, again in log.tries():
        if one.status in BUSY and one.retry_after_s and one.over is not None:
            seen.tried += 1
            waited_s = again.came - one.over
            if waited_s < one.retry_after_s - TOLERANCE_S:
                words = f"it came {waited_s:.2f} s after a {one.status} that said {one.retry_after_s:g} s"
                seen.against.append((again, words))


@rule("retry.backoff")
def waits_longer_each_time(log: Log, seen: Seen) -> None:
    """Without a Retry-After, later attempts wait longer than the first ones."""
    for chain in log.same():
        failed = [one for one in chain[:-1] if one.retry_after_s is None and _has_failed(one)]
        waits_s = [again.came - (one.over or one.came) for one, again in pairwise(chain) if one in failed]
        if len(waits_s) >= 2:
            seen.tried += 1
            if max(waits_s[1:]) < 1.2 * waits_s[0] + JITTER_S and max(waits_s) < 1.0:
                words = ", ".join(f"{wait_s:.2f}" for wait_s in waits_s)
                seen.against.append((chain[-1], f"its tries waited {words} s"))


@rule("retry.storm")
def no_storm(log: Log, seen: Seen) -> None:
    """A request is not sent more than six times."""
    for chain in log.same():
        tries = 1
        for one, again in pairwise(chain):
            tries = tries + 1 if _has_failed(one) else 1
            seen.tried += tries > 1
            if tries == log.patience.most_tries + 1:
                seen.against.append((again, f"it is try {tries} of the same request"))


@rule("retry.after-first-byte")
def no_silent_retry_of_what_has_begun(log: Log, seen: Seen) -> None:
    """If a part of the reply has arrived, the request is sent again only if it says so (a retry count, or
    an idempotency key): its tokens are paid for twice."""
    for one in log.attempts:
        seen.tried += one.has_begun and not one.is_complete and one.is_over
    for one, again in log.tries():
        if one.has_begun and not one.is_complete and one.is_over and not again.says_retry:
            seen.against.append((again, f"a part of its reply had come (request {one.number})"))


@rule("read.to-done")
def reads_to_done(log: Log, seen: Seen) -> None:
    """A stream is read to `[DONE]`, after its last token too."""
    for one in log.attempts:
        if one.is_stream and one.has_finished:
            seen.tried += 1
            if one.left is not None and not one.is_done:
                seen.against.append((one, "the connection was closed between the last token and [DONE]"))
            elif one.is_unread:
                seen.against.append((one, "the connection was closed with a part of the stream unread"))


@rule("read.whole")
def reads_what_comes(log: Log, seen: Seen) -> None:
    """A complete reply is read before its connection is closed."""
    for one in log.attempts:
        if one.is_complete and not one.is_stream:
            seen.tried += 1
            if one.is_unread:
                seen.against.append((one, "the connection was closed with the reply unread"))


@rule("wait.timeout")
def gives_up_in_time(log: Log, seen: Seen) -> None:
    """The client has a timeout: it does not wait for ever for a reply that stalls."""
    for one in log.attempts:
        pause_s = one.pause_s(log.now)
        if one.left is not None and one.left - (one.last_byte or one.came) > 1.0:
            seen.tried += 1
        elif pause_s > log.patience.stall_s:
            seen.tried += 1
            seen.against.append((one, f"it waited for {pause_s:.0f} s without a byte"))


@rule("cancel.closes")
def closes_what_it_gives_up(log: Log, seen: Seen) -> None:
    """If the client gives up a request and sends it again, it closes the old connection."""
    for one, again in log.tries():
        if one.connection != again.connection and (one.left is not None or not one.is_over):
            seen.tried += 1
            if one.left is None or one.left > again.came + TOLERANCE_S:
                words = f"request {one.number}, the same one, was still open on connection {one.connection}"
                seen.against.append((again, words))


@rule("connection.reuse")
def keeps_connections(log: Log, seen: Seen) -> None:
    """Requests that follow each other share a connection, because a new one costs a handshake."""
    alone = pairwise(_alone(log.attempts))
    following = [(one, again) for one, again in alone if one.is_complete and _may_be_kept(one)]
    if len(following) >= MANY - 1:
        seen.tried += 1
        if all(one.connection != again.connection for one, again in following):
            words = f"{len(following) + 1} requests in turn came on as many connections"
            seen.against.append((following[-1][1], words))


@rule("request.fields")
def known_fields_of_the_right_type(log: Log, seen: Seen) -> None:
    """A completion request has only fields of the contract, with their types and in their ranges."""
    for one in log.attempts:
        if one.is_completion and one.fingerprint:
            seen.tried += 1
            seen.against += [(one, problem) for problem in one.problems]


@rule("request.key-in-header")
def key_in_its_header(log: Log, seen: Seen) -> None:
    """The key is only in `Authorization: Bearer`, never in the query, which ends up in logs."""
    for one in log.attempts:
        places = [f"the header {name}" for name in KEY_HEADERS if name in one.headers]
        names = {part.partition("=")[0].lower() for part in one.query.split("&")}
        places += [f"the query's {name}" for name in KEY_PARAMETERS if name in names]
        seen.tried += "authorization" in one.headers or bool(places)
        seen.against += [(one, f"a key is in {place}") for place in places]


def _has_failed(one: Attempt) -> bool:
    return one.status != 200 or (one.is_over and not one.is_complete)


def _alone(attempts: list[Attempt]) -> list[Attempt]:
    """Attempts that came when no other was running, and ended before the next one came."""
    found, latest = [], 0.0  # latest: when the last of the earlier ones is over
    for one, following in zip_longest(attempts, attempts[1:]):
        over = one.over or math.inf
        if one.came >= latest and (following is None or following.came >= over):
            found.append(one)
        latest = max(latest, over)
    return found


def _may_be_kept(one: Attempt) -> bool:
    return one.cut is None and not one.is_unread and not one.fault
