"""Checks a request's grammar before an engine gets it."""

from __future__ import annotations

import asyncio

from server.contract.request import CompletionRequest
from server.contract.structured import field_of, refused
from server.engine.served import ServedModel


async def check_grammar(source: str, request: CompletionRequest, model: ServedModel) -> None:
    """Check the grammar in a thread, because a large one takes time. Raises InvalidRequest."""
    tokenizer = model.tokenizer
    loop = asyncio.get_running_loop()
    if problem := await loop.run_in_executor(tokenizer.threads, tokenizer.grammars.problem, source):
        raise refused(field_of(request), problem)
