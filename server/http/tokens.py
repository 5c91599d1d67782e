"""The routes …/tokenize and …/detokenize of a model's tokenizer, in vLLM's shapes."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from server.contract.reply import Detokenized, Tokenized
from server.contract.request import S, parse_body
from server.contract.tokens import DetokenizeRequest, TokenizeRequest
from server.engine.served import ServedModel
from server.errors import InvalidRequest
from server.generation.prompts import LONG_CHARS
from server.http.body import read_body
from server.http.openapi import DETOKENIZE_EXTRA, TOKENIZE_EXTRA, TOKENS_RESPONSES
from server.http.routes import Plain, state_of
from server.http.state import exchange_of
from server.text.encoding import Encoded, Reading

tokens = APIRouter(route_class=Plain)


@tokens.post("/tokenize", response_model=Tokenized, responses=TOKENS_RESPONSES, openapi_extra=TOKENIZE_EXTRA)
async def tokenize(request: Request) -> Response:
    wanted, model = await _asked(request, TokenizeRequest)
    how = Reading(
        adds_special=wanted.add_special_tokens is not False,
        parses_special=wanted.parse_special is not False,
        single_bos=model.settings.single_bos,
        with_starts=bool(wanted.return_token_offsets),
    )
    if len(wanted.prompt) <= LONG_CHARS and how.parses_special:
        (found,) = model.tokenizer.encode_all([wanted.prompt], how)
    else:
        loop, threads = asyncio.get_running_loop(), model.tokenizer.threads
        (found,) = await loop.run_in_executor(threads, model.tokenizer.encode_all, [wanted.prompt], how)
    return JSONResponse(_told(wanted, found, model))


@tokens.post(
    "/detokenize", response_model=Detokenized, responses=TOKENS_RESPONSES, openapi_extra=DETOKENIZE_EXTRA
)
async def detokenize(request: Request) -> Response:
    wanted, model = await _asked(request, DetokenizeRequest)
    if (largest := max(wanted.tokens, default=0)) >= model.vocab_size:
        raise InvalidRequest(
            f"tokens (current value: {largest}) must be between 0 and {model.vocab_size - 1}", "tokens"
        )
    text = b"".join(model.tokenizer.prompt_bytes(wanted.tokens, skip_special=False))
    return JSONResponse({"prompt": text.decode("utf-8", "replace")})


async def _asked(request: Request, shape: type[S]) -> tuple[S, ServedModel]:
    state, exchange = state_of(request), exchange_of(request.scope)
    exchange.key = state.keyring.authenticate(request.headers.get("authorization"))
    exchange.key.check("infer")
    exchange.allowance = state.limits.of(exchange.key)
    exchange.allowance.begin()
    wanted = parse_body(await read_body(request, state.settings.max_body_bytes), shape)
    model = state.model(wanted.model, exchange.key)
    exchange.model = model.id
    return wanted, model


def _told(wanted: TokenizeRequest, found: Encoded, model: ServedModel) -> dict[str, Any]:
    encoder = model.tokenizer.encoder
    told: dict[str, Any] = {
        "count": len(found.ids),
        "max_model_len": model.context_size,
        "tokens": found.ids,
        "token_strs": [encoder.id_to_token(i) for i in found.ids] if wanted.return_token_strs else None,
    }
    if wanted.return_token_offsets:
        told["token_offsets"] = found.spans
    return told
