"""Makes the spans of a request from recorded times, its parameters and its result.

The names follow OpenTelemetry's conventions for HTTP and for generative AI, and vLLM's names where it has
them; others begin with `verbatim.`.
"""

from __future__ import annotations

from itertools import pairwise

import orjson
from starlette.types import Scope

from server.generation.candidates import Generation
from server.http.following import Admitted, Following
from server.http.state import Exchange
from server.observe.spans import Span, Value
from server.observe.trail import Mark, Step, Trail

MAX_TEXT_CHARS, MAX_TEXTS = 8192, 32  # limits of prompts and texts, if they are included
MAX_CANDIDATES = 32  # candidates of a request that get spans
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# The phases of a candidate; each may come several times. resumption: from the loss of its engine until the
# next one works on it. pause: from when it is paused until it is in the queue again.
NAMES = {
    **dict.fromkeys((Step.QUEUED, Step.LOADING, Step.PUT_BACK), "queue"),
    **dict.fromkeys((Step.LOST, Step.RECALLED), "resumption"),
    Step.PAUSED: "pause",
    Step.SENT: "prefill",
    Step.BEGAN: "decode",
}
WAITING = ("queue", "resumption")


def span_of(
    exchange: Exchange, following: Following, scope: Scope, ended: float, *, with_text: bool = False
) -> Span:
    """The span of a request with its child spans. ended: time.monotonic. with_text: include
    prompts and texts."""
    method = scope["method"] if scope["method"] in METHODS else "_OTHER"
    route = following.route
    span = Span(f"{method} {route}" if method in METHODS else f"HTTP {route}", exchange.started, ended)
    span.attributes = {
        "http.request.method": method,
        "http.route": route,
        "url.path": exchange.path,
        "url.scheme": scope.get("scheme", "http"),
        "network.protocol.version": scope.get("http_version", "1.1"),
        "http.response.status_code": exchange.status,
        "verbatim.request_id": exchange.request_id,
    }
    if exchange.key.name:
        span.attributes["verbatim.key"] = exchange.key.name
    if exchange.reason:
        span.attributes["error.type"] = exchange.reason
        # A status below 500 is the client's fault, so not an error of the server; a stream always has 200.
        if exchange.status >= 500 or exchange.status == 200:
            span.error = exchange.reason
    if exchange.first_byte is not None:
        span.events.append(("first byte", exchange.first_byte))
    if route.endswith("/completions"):
        _add_completion(span, exchange, following, with_text=with_text)
    return span


def _add_completion(span: Span, exchange: Exchange, following: Following, *, with_text: bool) -> None:
    span.attributes |= {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "verbatim",
        "gen_ai.request.id": exchange.request_id,
    }
    if exchange.model:
        span.attributes["gen_ai.request.model"] = exchange.model
    if (admitted := following.admitted) is None:
        span.inner.append(Span("admission", span.start, span.end, error=span.error))
        return
    span.inner.append(Span("admission", span.start, admitted.at))
    span.attributes |= _asked(admitted) | _said(span, exchange, admitted)
    if with_text:
        span.attributes |= _texts(admitted.generation, following.trails[:MAX_CANDIDATES])
    candidates = [_candidate(trail) for trail in following.trails[:MAX_CANDIDATES] if trail.marks]
    if len(candidates) == 1:  # the phases are then the request's own children
        span.inner += candidates[0].inner
        span.attributes |= candidates[0].attributes
    else:
        span.inner += candidates
    firsts = [mark.at for trail in following.trails for mark in trail.marks if mark.step is Step.BEGAN]
    if firsts:
        span.attributes["gen_ai.latency.time_to_first_token"] = min(firsts) - span.start


def _asked(admitted: Admitted) -> dict[str, Value]:
    """The request's parameters, without text."""
    params = admitted.generation.params
    asked: dict[str, Value] = {
        "gen_ai.request.max_tokens": params.max_tokens,
        "gen_ai.request.temperature": params.temperature,
        "gen_ai.request.top_p": params.top_p,
        "gen_ai.request.top_k": params.top_k,
        "gen_ai.request.frequency_penalty": params.frequency_penalty,
        "gen_ai.request.presence_penalty": params.presence_penalty,
        "gen_ai.request.stream": admitted.how.stream,
        "gen_ai.request.n": params.n,
        "gen_ai.usage.num_sequences": admitted.generation.num_candidates,
        "verbatim.request.best_of": params.best_of,
        "verbatim.request.num_prompts": admitted.generation.num_prompts,
        "verbatim.request.num_stop_sequences": len(params.stop),
    }
    if params.n > 1:
        asked["gen_ai.request.choice.count"] = params.n
    if params.seed is not None:
        asked["gen_ai.request.seed"] = params.seed
    return asked


def _said(span: Span, exchange: Exchange, admitted: Admitted) -> dict[str, Value]:
    """The result: status, finish reasons, usage."""
    usage, reasons = admitted.generation.usage, admitted.generation.finish_reasons
    said: dict[str, Value] = {
        "gen_ai.response.id": admitted.reply_id,
        "gen_ai.response.model": exchange.model,
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "gen_ai.usage.prompt_tokens": usage.prompt_tokens,
        "gen_ai.usage.completion_tokens": usage.completion_tokens,
        "gen_ai.latency.e2e": span.end - span.start,
    }
    if reasons:
        said["gen_ai.response.finish_reasons"] = [reasons[index] for index in sorted(reasons)]
    if admitted.how.stream and exchange.first_byte is not None:
        said["gen_ai.response.time_to_first_chunk"] = exchange.first_byte - span.start
    return said


def _texts(generation: Generation, trails: list[Trail]) -> dict[str, Value]:
    """The prompts as tokenized, and the candidates as generated, including text after a stop sequence."""
    prompts, texts = generation.prompt_texts(), [generation.text_of(one.token_ids) for one in trails]
    return {
        "gen_ai.input.messages": _messages("user", prompts),
        "gen_ai.output.messages": _messages("assistant", texts),
    }


def _messages(role: str, texts: list[str]) -> str:
    """Messages in the form of the conventions."""
    parts = ([{"type": "text", "content": text[:MAX_TEXT_CHARS]}] for text in texts[:MAX_TEXTS])
    return orjson.dumps([{"role": role, "parts": part} for part in parts]).decode()


def _candidate(trail: Trail) -> Span:
    phases = _phases(trail)
    span = Span("candidate", trail.marks[0].at, trail.marks[-1].at, inner=phases)
    times = dict.fromkeys(NAMES.values(), 0.0)
    for phase in phases:
        times[phase.name] += phase.end - phase.start
    span.attributes = {
        "verbatim.candidate.prompt": trail.prompt,
        "verbatim.candidate.number": trail.number,
        "verbatim.candidate.output_tokens": len(trail.token_ids),
        "verbatim.candidate.ended_by": "engine" if trail.by_engine else "server",
        "verbatim.engines_lost": sum(mark.step is Step.LOST for mark in trail.marks),
        "gen_ai.latency.time_in_queue": times["queue"],
        "gen_ai.latency.time_in_model_prefill": times["prefill"],
        "gen_ai.latency.time_in_model_decode": times["decode"],
        "gen_ai.latency.time_in_model_inference": times["prefill"] + times["decode"],
    }
    return span


def _phases(trail: Trail) -> list[Span]:
    """The phases in order, without gaps, up to the last mark."""
    phases: list[Span] = []
    for mark, later in pairwise(trail.marks):
        name, at = NAMES[mark.step], mark.at
        if phases and mark.step is not Step.BEGAN:
            phases[-1].events.append((str(mark.step), at))
            if name in WAITING and phases[-1].name in WAITING:
                continue
        if mark.step is Step.SENT:
            at = _taken_up(mark, later.at)
        phases.append(Span(name, at, at))
        if mark.step is Step.SENT:
            phases[-1].attributes["verbatim.replica"] = mark.replica
    for phase, end in zip(phases, [*(one.start for one in phases[1:]), trail.marks[-1].at], strict=True):
        phase.end = end
    return phases


def _taken_up(mark: Mark, later: float) -> float:
    """When the engine began to work on what it was sent. The clock of an engine on another machine
    is not used."""
    told = mark.engine.scheduled if mark.engine is not None else 0.0
    return told if mark.at <= told <= later else mark.at
