"""Gives vLLM plausible token ids, which its grammars take: nothing computed any, so whatever was in memory
would be taken for them. And has it call the fake runtime where it goes around what is preloaded.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

SMALLEST_VOCABULARY = 40_000


class Finder(importlib.abc.MetaPathFinder):
    """Changes one module when it is imported, and no other."""

    def __init__(self, name: str, patch: Callable[[Any], None]) -> None:
        self._name, self._patch = name, patch

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec, f"vLLM has no {name} any more"
        assert spec.loader
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self._patch(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def plausible_ids(module: Any) -> None:
    """One token a step and request, with an id that every vocabulary here has."""
    get_output = module.AsyncOutput.get_output_of_vllm = module.AsyncOutput.get_output

    def plausible(self: Any) -> Any:
        self.num_sampled_tokens_np[...] = 1
        self.sampled_token_ids %= SMALLEST_VOCABULARY
        return get_output(self)

    module.AsyncOutput.get_output = plausible


def accepted_ids(module: Any) -> None:
    """Whatever a grammar thinks of it: nothing kept the tokens within it."""
    manager = module.StructuredOutputManager
    manager.accept_tokens_of_vllm = manager.accept_tokens
    manager.accept_tokens = lambda *_: True


def fake_runtime(module: Any) -> None:
    """vLLM's sleep mode opens the library of the runtime that torch has loaded, and copies with that."""
    module.find_loaded_library = lambda _: os.environ["LD_PRELOAD"]


sys.meta_path.insert(0, Finder("vllm.distributed.device_communicators.cuda_wrapper", fake_runtime))
sys.meta_path.insert(0, Finder("vllm.v1.worker.gpu.async_utils", plausible_ids))
sys.meta_path.insert(0, Finder("vllm.v1.structured_output", accepted_ids))
