"""Structured output in vLLM's engine: its own guidance backend with our tokenizer's tables, so that vLLM's
tokenizer is not loaded, and with the tokens that a resumed request had before."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from typing import Any

from server.observe.versions import CPU_BUILD, installed
from server.text.grammars import Grammars

NUM_THREADS = 2  # a grammar takes a few milliseconds, a large one a hundred


class Backend:
    """The interface of a backend that vLLM's manager uses for grammars."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size

    def allocate_token_bitmask(self, max_num_seqs: int) -> Any:
        from llguidance.torch import allocate_token_bitmask

        return allocate_token_bitmask(max_num_seqs, self._vocab_size)

    def destroy(self) -> None:
        """There is nothing to end."""


def make_grammars(manager: Any, grammars: Callable[[], Grammars]) -> None:
    """Patch vLLM's grammar manager to use these grammars, in threads of their own.

    grammars: takes half a second; called for the first grammar, which is the warm-up's. An engine that
    replaces a lost one is not warmed up: there, only the first request that needs a grammar waits.
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
    """The grammars, with the libraries imported that the first grammar's step needs; else all other requests
    would wait for the import."""
    found = grammars()
    found.tokenizer  # noqa: B018  # makes it now
    importlib.import_module("llguidance.torch")
    if installed(CPU_BUILD):
        importlib.import_module("xgrammar")  # vLLM's V1 runner masks logits with it
    return found


def _begun(ready: Callable[[], Grammars], request: Any) -> Any:
    """The grammar of a request, advanced by the tokens that it had before: vLLM's own object."""
    from vllm.v1.structured_output.backend_guidance import GuidanceGrammar

    params = request.sampling_params
    num_before = (params.extra_args or {}).get("num_output_before", 0)
    said = request.prompt_token_ids[len(request.prompt_token_ids) - num_before :]
    matcher, tokenizer = ready().begun(params.structured_outputs.grammar, said), ready().tokenizer
    return GuidanceGrammar(matcher, tokenizer, tokenizer.vocab_size)
