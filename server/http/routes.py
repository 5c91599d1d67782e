"""The routes. Each is a paragraph: find the model, build the parameters, start, respond."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from server.access.keys import authorize
from server.access.terms import Key
from server.config.settings import Settings
from server.contract.params import StreamParams, resolve, resolve_stream
from server.contract.reply import ModelDetails, ModelList
from server.contract.request import CompletionRequest, parse_request
from server.engine.admission import check_room
from server.engine.base import Requester, Status
from server.engine.served import ServedModel
from server.errors import InvalidRequest
from server.generation.candidates import Generation
from server.generation.grammars import check_grammar
from server.generation.outputs import Delta, fold
from server.generation.prompts import encode_prompts
from server.http.body import read_body
from server.http.disconnect import unless_client_leaves
from server.http.entrance import next_stage
from server.http.expiry import end_of
from server.http.openapi import (
    ATTESTATION_RESPONSES,
    COMPLETION_EXTRA,
    COMPLETION_RESPONSES,
    HEALTH_RESPONSES,
    MODEL_RESPONSES,
    MODELS_RESPONSES,
    OF_MODEL,
    READY_RESPONSES,
    WITH_KEY,
)
from server.http.sse import Reply, Stream
from server.http.state import State, exchange_of
from server.http.streaming import EventStream
from server.observe.attestation import document_of


class Plain(APIRoute):
    """A route whose function takes the request and returns the response, with a description in /openapi.json.

    FastAPI's handling of arguments and results, which our routes do not need, would cost more than the rest
    of a request's way.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.app = self._answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


api = APIRouter(route_class=Plain)
operations = APIRouter(route_class=Plain, tags=["operations"])


@api.post(
    "/completions",
    responses=COMPLETION_RESPONSES,
    openapi_extra=COMPLETION_EXTRA,
    response_class=Response,
    response_model=None,
)
async def create_completion(request: Request) -> ASGIApp:
    state, exchange = state_of(request), exchange_of(request.scope)
    exchange.key = state.keyring.authenticate(request.headers.get("authorization"))
    exchange.key.check("infer")
    exchange.allowance = state.limits.of(exchange.key)
    state.check_accepting()
    exchange.allowance.begin()
    wanted = parse_request(await read_body(request, state.settings.max_body_bytes))
    notes = exchange.notes = state.journal.follow(wanted) if state.journal is not None else None
    model = state.model(wanted.model, exchange.key)
    exchange.model, exchange.user = model.id, wanted.user or ""
    requester = _requester(exchange.key, wanted.priority)
    generation, how = await _generation(wanted, model, exchange.request_id, requester, state.settings)
    exchange.allowance.reserve(generation.most_tokens)
    exchange.usage = generation.usage
    reply_id = secrets.token_hex(16)
    if exchange.following is not None:
        exchange.following.admit(generation, how, reply_id)
    if notes is not None:
        notes.begin(generation, how, model.parent)
    reply = Reply(reply_id, int(time.time()), wanted.model)
    deadline = _deadline(state.settings.request_timeout_s)
    if how.stream:
        stream = _stream(generation, reply, how)
        return EventStream(generation, stream, deadline, how.interval, state.settings.stream_interval_ms)
    response = await _whole(request, generation, reply, deadline)
    exchange.allowance.settle(generation.usage.total_tokens)
    return response


@api.get("/models", response_model=ModelList, responses=MODELS_RESPONSES, openapi_extra=WITH_KEY)
async def list_models(request: Request) -> Response:
    state = state_of(request)
    key = state.keyring.authenticate(request.headers.get("authorization"))
    shown = [one for model in state.models.values() for one in (model, *model.adapters.values())]
    return JSONResponse({"object": "list", "data": [one.entry() for one in shown if key.may_use(one.id)]})


@api.get(
    "/models/{model_id:path}", response_model=ModelDetails, responses=MODEL_RESPONSES, openapi_extra=OF_MODEL
)
async def get_model(request: Request) -> Response:
    state = state_of(request)
    key = state.keyring.authenticate(request.headers.get("authorization"))
    model = state.find(request.path_params["model_id"])
    authorize(key, model.id, ())
    return JSONResponse(model.details())


@operations.get("/health", responses=HEALTH_RESPONSES)
async def health(request: Request) -> Response:
    loop = state_of(request).loop
    if loop.is_well:
        return JSONResponse({"status": "ok"})
    return JSONResponse({"status": "stalled", "seconds": round(loop.last_stall_s, 1)}, 503)


@operations.get("/ready", responses=READY_RESPONSES)
async def ready(request: Request) -> Response:
    state = state_of(request)
    models = {model.id: _progress(model) for model in state.models.values()}
    status = "draining" if state.draining else "ready" if state.ready else "starting"
    if status == "starting" and any(model.engine.is_resuming for model in state.models.values()):
        status = "degraded"
    headers = {} if state.ready else {"retry-after": "5"}
    return JSONResponse({"status": status, "models": models}, 200 if state.ready else 503, headers)


@operations.get("/attestation", responses=ATTESTATION_RESPONSES, openapi_extra=WITH_KEY)
async def attestation(request: Request) -> Response:
    state = state_of(request)
    state.keyring.authenticate(request.headers.get("authorization"))
    return JSONResponse(document_of(state.attestation))


@operations.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    state = state_of(request)
    state.tell()
    for model in state.models.values():
        state.metrics.ready.labels(model.id).set(model.engine.status.ready)
        state.metrics.loads.tell(model.id, model.engine.state, model.engine.residence.size)
        state.metrics.restarts.labels(model.id).set(model.engine.restarts)
        for number, status in model.engine.statuses.items():
            state.metrics.replica_ready.labels(model.id, str(number)).set(status.ready)
    if (tls := state.settings.tls) is not None and (ends := end_of(tls.cert)) is not None:
        state.metrics.certificate_ends.labels(str(tls.cert)).set(ends.timestamp())
    state.metrics.keys_file_ok.set(state.keyring.is_whole)
    served = {model.id: model.engine.statuses for model in state.models.values()}
    return Response(state.metrics.render(served), media_type="text/plain; version=0.0.4; charset=utf-8")


def _requester(key: Key, priority: int | None) -> Requester:
    """The requester, which decides whose turn it is. Raises InvalidRequest for a priority that the key may
    not ask for."""
    if priority is None:
        priority = max(0, key.lowest_priority)
    if priority < key.lowest_priority:
        raise InvalidRequest(
            f"priority (current value: {priority}) must be {key.lowest_priority} or more for the API key"
            f" {key.name}",
            "priority",
        )
    return Requester(key.name, key.weight, priority)


def state_of(request: Request) -> State:
    state: State = request.app.state.server
    return state


async def _generation(
    wanted: CompletionRequest,
    model: ServedModel,
    request_id: str,
    requester: Requester,
    settings: Settings,
) -> tuple[Generation, StreamParams]:
    tokenizer = model.tokenizer
    ends = tokenizer.fill_in.ends if tokenizer.fill_in is not None else None
    known = tokenizer.eos_ids, tokenizer.special_ids, tokenizer.ids_of, ends
    params = resolve(wanted, model.settings, model.vocab_size, *known)
    if params.grammar is not None:
        await check_grammar(params.grammar, wanted, model)
    how = resolve_stream(wanted, settings.stream_interval)
    await next_stage()
    prompts = await encode_prompts(wanted, params, model)
    await next_stage()
    check_room(model.engine, len(prompts) * params.best_of, requester, settings.request_timeout_s)
    generation = Generation(request_id, prompts, params, model.engine, tokenizer, requester, model.adapter)
    return generation, how


async def _whole(request: Request, generation: Generation, reply: Reply, deadline: float | None) -> Response:
    deltas: list[Delta] = []
    try:
        work = generation.start(deltas.extend)
        await unless_client_leaves(request.scope, request.receive, work, deadline)
    finally:
        generation.close()
    await next_stage()
    choices = fold(generation.num_choices, deltas)
    outcomes = generation.outcomes() if generation.params.return_candidates else ()
    body = reply.body(choices, generation.usage, outcomes, generation.params.best_of)
    return Response(body, media_type="application/json")


def _stream(generation: Generation, reply: Reply, how: StreamParams) -> Stream:
    return Stream(
        reply,
        generation.num_choices,
        generation.usage.prompt_tokens,
        include_usage=how.include_usage,
        continuous=how.continuous_usage,
    )


def _deadline(timeout_s: float) -> float | None:
    return asyncio.get_running_loop().time() + timeout_s if timeout_s else None


def _progress(model: ServedModel) -> dict[str, object]:
    engine = model.engine
    progress = _phase(engine.status, engine.phase_since)
    if num_resuming := engine.work.num_resuming:
        progress["resuming"] = num_resuming
    residence = engine.residence
    progress["state"] = engine.state
    if residence.size:
        progress["size_bytes"] = residence.size
    if residence.num_before is not None:
        progress["waits_before"] = residence.num_before
    if residence.used_at is not None:
        progress["idle_seconds"] = round(time.monotonic() - residence.used_at, 1)
    if len(engine.supervisors) > 1:
        progress["replicas"] = {
            str(number): _phase(one.status, one.phase_since) | {"running": engine.work.num_placed(number)}
            for number, one in sorted(engine.supervisors.items())
        }
    return progress


def _phase(status: Status, since: float) -> dict[str, object]:
    phase: dict[str, object] = {"phase": status.phase, "seconds": round(time.monotonic() - since, 1)}
    if status.total:
        phase |= {"done": status.done, "total": status.total}
    if status.detail:
        phase["detail"] = status.detail
    return phase
