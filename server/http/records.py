"""Makes the journal's record of a completion request that has ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec.structs import fields

from server.contract.params import GenerationParams
from server.contract.request import CompletionRequest
from server.generation.candidates import Generation
from server.http.journaling import Journal, Notes
from server.http.state import Exchange
from server.journal.entry import Candidate, Entry, Fault
from server.observe.trail import Mark, Step, Trail

MAX_NAME_CHARS = 200  # characters of the name of an unknown model
CLIENT_LEFT = 499  # nginx's status for a client that left before the reply
# Fields of a request that each record has, and fields that a record has only if they are not neutral.
ALWAYS = (
    *("max_tokens", "n", "best_of", "temperature", "top_p", "top_k", "min_p"),
    *("frequency_penalty", "presence_penalty", "repetition_penalty"),
)
SOMETIMES = (
    *("min_tokens", "echo", "ignore_eos", "skip_special_tokens", "return_token_ids", "return_candidates"),
    *("truncate_prompt_tokens", "truncation_side", "add_special_tokens", "parse_special"),
)
NEUTRAL = {one.name: one.default for one in fields(GenerationParams)}
FIELDS = CompletionRequest.model_fields.keys() - {"model"}
UNKEPT = "cache_salt"  # a secret of the client, never recorded


def note(journal: Journal, exchange: Exchange) -> None:
    """Add the record to the journal."""
    entry = entry_of(exchange)
    notes, num_chars = exchange.notes, 0
    if notes is not None and notes.settings.prompts:
        entry.request, num_chars = _request(notes, entry)
    if notes is not None and notes.texts:
        num_chars += _add_texts(entry, notes)
    journal.add(entry, num_chars)


def entry_of(exchange: Exchange) -> Entry:
    total_s = time.monotonic() - exchange.started
    came = datetime.now(UTC) - timedelta(seconds=total_s)
    entry = Entry(
        id=exchange.request_id,
        time=f"{came:%Y-%m-%dT%H:%M:%S}.{came.microsecond // 1000:03d}Z",
        key=exchange.key.name,
        model=exchange.model,
        status=exchange.status,
        total_s=round(total_s, 4),
        user=exchange.user,
        path=exchange.path,
        reason=exchange.reason,
        gone=exchange.status == CLIENT_LEFT,
        trace=exchange.following.trace.id if exchange.following is not None else "",
    )
    if exchange.first_byte is not None:
        entry.first_s = round(exchange.first_byte - exchange.started, 4)
    if exchange.usage is not None:
        entry.prompt_tokens = exchange.usage.prompt_tokens
        entry.completion_tokens = exchange.usage.completion_tokens
    entry.client = exchange.client
    if exchange.notes is not None:
        _add_notes(entry, exchange.notes, exchange.started)
    return entry


def _add_notes(entry: Entry, notes: Notes, started: float) -> None:
    wanted, generation = notes.wanted, notes.generation
    if not entry.model:
        entry.model = wanted.model[:MAX_NAME_CHARS]
    if notes.base:
        entry.model, entry.adapter = notes.base, entry.model
    entry.given = sorted(wanted.model_fields_set & FIELDS)
    entry.stream = bool(wanted.stream)
    if generation is None:
        return
    entry.params = _params(generation, wanted)
    for outcome in generation.outcomes():
        entry.candidates.append(Candidate(outcome.num_tokens, outcome.finish, outcome.choice))
    for number, trail in enumerate(generation.trails or ()):
        entry.faults += _faults(number, trail, started)
        if (first := _sent(trail)) is not None and number < len(entry.candidates):
            entry.candidates[number].cached = first.engine.cached_tokens if first.engine is not None else None
            waited_s = first.at - started + _in_engine(first)
            entry.queue_s = round(min(waited_s, waited_s if entry.queue_s is None else entry.queue_s), 4)
    entry.cached_tokens = _cached(entry, generation.params.best_of)


def _params(generation: Generation, wanted: CompletionRequest) -> dict[str, Any]:
    params = generation.params
    values: dict[str, Any] = {name: getattr(params, name) for name in ALWAYS}
    values["seed"] = generation.seed
    if params.num_logprobs is not None:
        values["logprobs"] = params.num_logprobs
    values |= {name: value for name in SOMETIMES if (value := getattr(params, name)) != NEUTRAL[name]}
    if not params.include_stop:
        values["include_stop_str_in_output"] = False
    if wanted.priority is not None:
        values["priority"] = wanted.priority
    return values


def _sent(trail: Trail) -> Mark | None:
    return next((mark for mark in trail.marks if mark.step is Step.SENT), None)


def _in_engine(sent: Mark) -> float:
    """Seconds that the request waited in the engine."""
    engine = sent.engine
    return engine.scheduled - engine.queued if engine is not None and engine.scheduled else 0.0


def _faults(number: int, trail: Trail, started: float) -> Iterator[Fault]:
    replica, fault, lost_at = 0, None, 0.0
    for mark in trail.marks:
        if mark.step is Step.SENT:
            replica = mark.replica
        elif mark.step is Step.LOST:
            fault, lost_at = Fault(number, replica, mark.cause, round(mark.at - started, 4)), mark.at
            yield fault
        elif mark.step is Step.BEGAN and fault is not None:
            fault.resumed_s, fault = round(mark.at - lost_at, 4), None


def _cached(entry: Entry, best_of: int) -> int | None:
    """Prompt tokens that the engine found in its prefix cache: for each prompt, the smallest number
    of its candidates."""
    total = 0
    for start in range(0, len(entry.candidates), best_of):
        prompts = entry.candidates[start : start + best_of]
        if (least := min((one.cached for one in prompts if one.cached is not None), default=None)) is None:
            return None
        total += least
    return total if entry.candidates else None


def _request(notes: Notes, entry: Entry) -> tuple[dict[str, Any], int]:
    """(fields as the client wrote them, number of characters in them)."""
    wanted = notes.wanted
    asked = wanted.model_dump(include=wanted.model_fields_set & (FIELDS | {"model"}))
    asked.pop(UNKEPT, None)
    prompt = asked["prompt"]
    texts = [prompt] if isinstance(prompt, str) else [one for one in prompt if isinstance(one, str)]
    if not texts and notes.settings.redact:
        del asked["prompt"]
        entry.redacted.append("prompt")
    sizes = sum(len(one) if isinstance(one, str | list) else 1 for one in prompt)
    return asked, sum(map(len, texts)) if texts else 8 * sizes


def _add_texts(entry: Entry, notes: Notes) -> int:
    num_chars = 0
    for candidate in entry.candidates:
        if candidate.choice is not None and (parts := notes.texts.get(candidate.choice)) is not None:
            candidate.text = "".join(parts)
            candidate.token_ids = notes.token_ids.get(candidate.choice)
            num_chars += len(candidate.text)
    return num_chars
