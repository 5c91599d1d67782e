"""Structured output in vLLM's engine: its own guidance backend, with our tokenizer's tables, so that vLLM's
tokenizer need not be loaded, and with what a resumed request has said before.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from typing import Any

from server.observe.versions import CPU_BUILD, installed
from server.text.grammars import Grammars

NUM_THREADS = 2  # each grammar takes a few milliseconds, a large one a hundred


class Backend:
    """What vLLM's manager asks of a backend once grammars are there."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size

    def allocate_token_bitmask(self, max_num_seqs: int) -> Any:
        from llguidance.torch import allocate_token_bitmask

        return allocate_token_bitmask(max_num_seqs, self._vocab_size)

    def destroy(self) -> None:
        """There is nothing to end."""


def make_grammars(manager: Any, grammars: Callable[[], Grammars]) -> None:
    """Have vLLM's manager of grammars, a class, make them of these, in threads of their own.

    grammars: takes half a second, and is called for the first grammar, which is the warm-up's. An engine that
    follows another one has none: there the first request that needs it waits, and no other.
    """
    threads, ready = ThreadPoolExecutor(NUM_THREADS, "grammars"), cache(partial(_ready, grammars))

    def grammar_init(self: Any, request: Any) -> None:
        if request.structured_output_request is None:
            return
        if self.backend is None:
            self.backend = Backend(self.vllm_config.model_config.get_vocab_size())
        begun: Future[Any] = threads.submit(_begun, ready, request)
        request.structured_output_request.grammar = begun

    manager.grammar_init = grammar_init


def _ready(grammars: Callable[[], Grammars]) -> Grammars:
    """With the libraries imported that the first grammar's step needs, or all other requests would wait."""
    found = grammars()
    found.tokenizer  # noqa: B018  # made now
    importlib.import_module("llguidance.torch")
    if installed(CPU_BUILD):
        importlib.import_module("xgrammar")  # with which vLLM's V1 runner masks logits
    return found


def _begun(ready: Callable[[], Grammars], request: Any) -> Any:
    """A request's grammar, where the request is in it: vLLM's own object."""
    from vllm.v1.structured_output.backend_guidance import GuidanceGrammar

    params = request.sampling_params
    num_before = (params.extra_args or {}).get("num_output_before", 0)
    said = request.prompt_token_ids[len(request.prompt_token_ids) - num_before :]
    matcher, tokenizer = ready().begun(params.structured_outputs.grammar, said), ready().tokenizer
    return GuidanceGrammar(matcher, tokenizer, tokenizer.vocab_size)
