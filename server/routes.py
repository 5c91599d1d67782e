"""The routes. Each is a paragraph: find the model, build the parameters, start, respond."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse

from server.border import EventStream, exchange_of
from server.contract import CompletionRequest, parse_request
from server.disconnect import ClientLeft, unless_client_leaves
from server.errors import ModelNotFound, RequestTimeout, RequestTooLarge
from server.generation import Generation
from server.models import ServedModel
from server.openapi import (
    COMPLETION_EXTRA,
    COMPLETION_RESPONSES,
    MODEL_RESPONSES,
    MODELS_RESPONSES,
    READY_RESPONSES,
    WITH_KEY,
    Model,
    ModelList,
)
from server.outputs import Delta, fold
from server.params import StreamParams, resolve, resolve_stream
from server.prompts import encode_prompts
from server.sse import Reply, Stream
from server.state import State

# The hosted service answers under the first four alike; /v1 is for everyone else.
PREFIXES = ("/v3/openai", "/v3/openai/v1", "/openai/v1", "/openai", "/v1")

api = APIRouter()
operations = APIRouter(tags=["operations"])


@api.post(
    "/completions", responses=COMPLETION_RESPONSES, openapi_extra=COMPLETION_EXTRA, response_class=Response
)
async def create_completion(request: Request) -> Response:
    state, exchange = state_of(request), exchange_of(request.scope)
    exchange.key = state.keyring.authenticate(request.headers.get("authorization"))
    state.check_accepting()
    state.limits.admit(exchange.key)
    wanted = parse_request(await _body(request, state.settings.max_body_bytes))
    model = state.model(wanted.model, exchange.key)
    exchange.model, exchange.user = model.id, wanted.user or ""
    generation, how = await _generation(wanted, model, exchange.request_id)
    exchange.usage = generation.usage
    reply = Reply(uuid.uuid4().hex, int(time.time()), wanted.model)
    deadline = _deadline(state.settings.request_timeout_s)
    if how.stream:
        return await _streamed(request, generation, reply, how, deadline)
    return await _whole(request, generation, reply, deadline)


@api.get("/models", response_model=ModelList, responses=MODELS_RESPONSES, openapi_extra=WITH_KEY)
async def list_models(request: Request) -> Response:
    state = state_of(request)
    state.keyring.authenticate(request.headers.get("authorization"))
    return JSONResponse({"object": "list", "data": [model.entry() for model in state.models.values()]})


@api.get("/models/{model_id:path}", response_model=Model, responses=MODEL_RESPONSES, openapi_extra=WITH_KEY)
async def get_model(request: Request, model_id: str) -> Response:
    state = state_of(request)
    state.keyring.authenticate(request.headers.get("authorization"))
    model = state.models.get(model_id)
    if model is None:
        raise ModelNotFound(model_id)
    return JSONResponse(model.entry())


@operations.get("/health")
async def health() -> Response:
    return JSONResponse({"status": "ok"})


@operations.get("/ready", responses=READY_RESPONSES)
async def ready(request: Request) -> Response:
    state = state_of(request)
    models = {model.id: _progress(model) for model in state.models.values()}
    status = "draining" if state.draining else "ready" if state.ready else "starting"
    headers = {} if state.ready else {"retry-after": "5"}
    return JSONResponse({"status": status, "models": models}, 200 if state.ready else 503, headers)


@operations.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    state = state_of(request)
    for model in state.models.values():
        state.metrics.ready.labels(model.id).set(model.engine.status.ready)
        state.metrics.restarts.labels(model.id).set(model.engine.restarts)
    state.metrics.in_flight.set(state.in_flight)
    return Response(state.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


def state_of(request: Request) -> State:
    state: State = request.app.state.server
    return state


async def _body(request: Request, limit: int) -> bytes:
    """The body, refused before it is read whole when it is over the limit."""
    too_large = RequestTooLarge(
        f"the body is over the limit of {limit} bytes", metadata={"max_body_bytes": str(limit)}
    )
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length) > limit:
        raise too_large
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise too_large
            parts.append(part)
    except ClientDisconnect:
        raise ClientLeft from None
    return b"".join(parts)


async def _generation(
    wanted: CompletionRequest, model: ServedModel, request_id: str
) -> tuple[Generation, StreamParams]:
    params = resolve(wanted, model.settings, model.vocab_size)
    how = resolve_stream(wanted)
    prompts = await encode_prompts(wanted, params, model)
    model.engine.check_room(len(prompts) * params.best_of)
    return Generation(request_id, prompts, params, model.engine, model.tokenizer), how


async def _whole(request: Request, generation: Generation, reply: Reply, deadline: float | None) -> Response:
    async def collect() -> list[Delta]:
        async with _in_time(deadline):
            return [delta async for batch in generation.deltas() for delta in batch]

    deltas = await unless_client_leaves(request.receive, collect())
    choices = fold(generation.num_choices, deltas)
    return Response(reply.body(choices, generation.usage), media_type="application/json")


async def _streamed(
    request: Request, generation: Generation, reply: Reply, how: StreamParams, deadline: float | None
) -> Response:
    """The reply starts with the first batch, so that what fails before a token has its own HTTP status."""
    batches = generation.deltas()
    first = await unless_client_leaves(request.receive, _next(batches, deadline))
    stream = Stream(
        reply,
        generation.num_choices,
        generation.usage.prompt_tokens,
        include_usage=how.include_usage,
        continuous=how.continuous_usage,
    )

    async def written() -> AsyncIterator[bytes]:
        batch = first
        while batch:
            if frames := stream.frames(batch):
                yield frames
            batch = await _next(batches, deadline)

    return EventStream(written(), generation.close)


async def _next(batches: AsyncIterator[list[Delta]], deadline: float | None) -> list[Delta]:
    """The next batch; an empty one after the last."""
    async with _in_time(deadline):
        return await anext(batches, [])


def _deadline(timeout_s: float) -> float | None:
    return asyncio.get_running_loop().time() + timeout_s if timeout_s else None


@contextlib.asynccontextmanager
async def _in_time(deadline: float | None) -> AsyncIterator[None]:
    """Raises RequestTimeout in its body when the deadline, of the loop's clock, passes. None: no deadline."""
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError:
        raise RequestTimeout("the request took longer than this server allows (request_timeout_s)") from None


def _progress(model: ServedModel) -> dict[str, object]:
    status = model.engine.status
    progress: dict[str, object] = {
        "phase": status.phase,
        "seconds": round(time.monotonic() - model.engine.phase_since, 1),
    }
    if status.total:
        progress |= {"done": status.done, "total": status.total}
    if status.detail:
        progress["detail"] = status.detail
    return progress
