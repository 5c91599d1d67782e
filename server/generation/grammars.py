"""Whether a request's grammar is one, before an engine hears of it."""

from __future__ import annotations

import asyncio

from server.contract.request import CompletionRequest
from server.contract.structured import field_of, refused
from server.engine.served import ServedModel


async def check_grammar(source: str, request: CompletionRequest, model: ServedModel) -> None:
    """In a thread: a large one takes its time, and other requests go on. Raises InvalidRequest."""
    tokenizer = model.tokenizer
    loop = asyncio.get_running_loop()
    if problem := await loop.run_in_executor(tokenizer.threads, tokenizer.grammars.problem, source):
        raise refused(field_of(request), problem)
