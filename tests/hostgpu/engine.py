"""vLLM's engine as the server has it, in this process, on a simulated GPU, where it can be watched.

No kernel computes anything, so the tokens are chosen here, on the host: of a request with a grammar, one that
the mask of its row lets through. What vLLM's scheduler, its grammars and its runner make of them is real.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from server.config.model import ModelSettings
from server.contract.params import GenerationParams
from server.engine.base import Job
from server.engine.vllm.adapters import make_ready_for_adapters
from server.engine.vllm.grammars import make_grammars
from server.engine.vllm.host import engine_config
from server.engine.vllm.translate import core_request
from server.engine.vllm.wire import encode
from server.text.tokenizer import Tokenizer, load_tokenizer
from server.weights.adapters import Adapter
from server.weights.builtin import prepare
from tests.tiny_llama import make_tiny_llama

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
END = 2
LIKED = 40  # of so many tokens that a mask lets through, one is taken


def make_model(work: Path) -> Path:
    """With the built-in model's tokenizer."""
    source = prepare("smollm2-135m-instruct", lambda text, _: print(text))
    return make_tiny_llama(work / "model", tokenizer_from=source)


class Engine:
    """steps: of each, what `watch` has noted. texts: of each request, the tokens that came."""

    def __init__(self, model: Path, context_size: int = 256, **engine_args: Any) -> None:
        from vllm.v1.engine.core import EngineCore
        from vllm.v1.structured_output import StructuredOutputManager

        self.settings = ModelSettings(
            id="tiny",
            path=model,
            max_num_seqs=8,
            gpu_memory_utilization=0.01,
            engine_args={"enforce_eager": True, **engine_args},
        )
        self.config, executor = engine_config(self.settings, context_size)
        self.tokenizer: Tokenizer = load_tokenizer(model, self.config.model_config.get_vocab_size())
        make_grammars(StructuredOutputManager, lambda: self.tokenizer.grammars)
        StructuredOutputManager.accept_tokens = StructuredOutputManager.accept_tokens_of_vllm
        make_ready_for_adapters(EngineCore, self.config, self.settings.id)
        self.core = EngineCore(self.config, executor, log_stats=False)
        self.runner = self.core.model_executor.driver_worker.worker.model_runner
        self.texts: dict[str, list[int]] = {}
        self.finished: dict[str, Any] = {}
        self.sampled = Sampled(self.runner)

    def add(
        self,
        name: str,
        prompt: list[int],
        params: GenerationParams,
        max_tokens: int = 8,
        adapter: Adapter | None = None,
        **more: Any,
    ) -> None:
        from vllm.v1.engine import EngineCoreRequest

        job = Job(name, name, prompt, params, (END,), max_tokens, seed=1, adapter=adapter, **more)
        made = msgspec.msgpack.decode(encode(core_request(job)), type=EngineCoreRequest)
        self.texts[name] = []
        self.core.add_request(*self.core.preprocess_add_request(made))

    def text(self, name: str) -> str:
        parts = self.tokenizer.prompt_bytes(self.texts[name], skip_special=True)
        return b"".join(parts).decode("utf-8", "replace")

    def run(self, at_most: int = 400) -> int:
        """Until nothing is to be done; how many steps that took."""
        for number in range(at_most):
            if not (self.core.scheduler.has_requests() or self.core.batch_queue):
                return number
            outputs, has_run = self.core.step_fn()
            self.core.post_step(has_run)
            for output in (one for client in (outputs or {}).values() for one in client.outputs):
                self.texts[output.request_id] += output.new_token_ids
                self.finished[output.request_id] = output.finish_reason
        raise AssertionError(f"not done after {at_most} steps: {self.texts}")


class Sampled:
    """Chooses what a step has sampled. batch: the last step's, vLLM's InputBatch. masks: of its requests with
    a grammar, what each row lets through, [num_rows, num_words] int32. num_accepted: of a request's drafts.
    chosen: the tokens of each request, also those that the scheduler has not told yet.
    """

    def __init__(self, runner: Any) -> None:
        from vllm.v1.worker.gpu.async_utils import AsyncOutput

        self.batch: Any = None
        self.chosen: dict[str, list[int]] = {}
        self.masks: dict[str, np.ndarray[Any, Any]] = {}
        self.num_accepted: Callable[[str, int], int] = lambda name, num_drafts: num_drafts
        self._random = np.random.default_rng(0)
        self._wrap(runner)
        made, told = AsyncOutput.__init__, AsyncOutput.get_output_of_vllm

        def init(output: Any, *args: Any, **kwargs: Any) -> None:
            made(output, *args, **kwargs)
            output.of_step = self.batch, self.masks

        def get_output(output: Any) -> Any:
            self._choose(output, *output.of_step)
            return told(output)

        AsyncOutput.__init__, AsyncOutput.get_output = init, get_output

    def _wrap(self, runner: Any) -> None:
        sample, worker = runner.sample, runner.structured_outputs_worker
        apply = worker.apply_grammar_bitmask

        def watched_sample(hidden_states: Any, batch: Any, grammar_output: Any) -> Any:
            self.batch, self.masks = batch, {}
            return sample(hidden_states, batch, grammar_output)

        def watched_apply(logits: Any, batch: Any, names: list[str], bitmask: Any) -> None:
            start = 0
            for name in names:
                end = start + self._num_rows(batch, batch.req_ids.index(name))
                self.masks[name] = bitmask[start:end].copy()
                start = end
            assert start == len(bitmask)
            apply(logits, batch, names, bitmask)

        runner.sample, worker.apply_grammar_bitmask = watched_sample, watched_apply

    @staticmethod
    def _num_rows(batch: Any, number: int) -> int:
        return int(batch.cu_num_logits_np[number + 1] - batch.cu_num_logits_np[number])

    def _choose(self, output: Any, batch: Any, masks: dict[str, Any]) -> None:
        for number, name in enumerate(batch.req_ids):
            computed = batch.num_computed_tokens_np[number] + batch.num_scheduled_tokens[number]
            num_drafts = self._num_rows(batch, number) - 1
            is_in_prompt = computed - num_drafts < batch.prefill_len_np[number]
            num = 0 if is_in_prompt else 1 + min(num_drafts, self.num_accepted(name, num_drafts))
            output.num_sampled_tokens_np[number] = num
            rows = masks.get(name)
            for place in range(num):
                token_id = self._token(None if rows is None else rows[place])
                output.sampled_token_ids[number, place] = token_id
                self.chosen.setdefault(name, []).append(token_id)

    def _token(self, mask: np.ndarray[Any, Any] | None) -> int:
        if mask is None:
            return int(self._random.integers(100, 1000))
        allowed = allowed_by(mask)
        assert len(allowed), "a mask lets nothing through"
        return END if END in allowed else int(self._random.choice(allowed[:LIKED]))


def allowed_by(mask: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The ids that a row of a mask lets through."""
    return np.flatnonzero(np.unpackbits(mask.astype("<i4").view(np.uint8), bitorder="little"))
