"""A vLLM executor that computes nothing: after its prompt, every request gets one random token in each step.

Everything around it is real: the scheduler, the engine process, the transport, the front end. So the cost of
a front end can be measured alone. To use it, set in engine_args `distributed_executor_backend:
benchmarks.idle_executor.IdleExecutor`. The environment variable VERBATIM_IDLE_STEP names a file with the
duration of a step, a float64 of seconds, which a benchmark can change while the engine runs.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import torch
from vllm.v1.executor.abstract import Executor
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.outputs import LogprobsLists, LogprobsTensors, ModelRunnerOutput

from benchmarks.servers import STEP_FILE

FIRST_ID, LAST_ID = 1000, 40_000  # ordinary words of the built-in model's vocabulary


class IdleExecutor(Executor):  # type: ignore[misc]  # vLLM is not type-checked
    """One process, no worker, no model."""

    def _init_executor(self) -> None:
        with Path(os.environ[STEP_FILE]).open("r+b") as file:
            self._step = mmap.mmap(file.fileno(), 8)
        self._prompt_len: dict[str, int] = {}
        self._num_logprobs: dict[str, int] = {}
        # Requests whose prompt is scored: its tokens but the first, and log-probabilities a token
        self._scored: dict[str, tuple[list[int], int]] = {}
        self._draw = np.random.default_rng(0)

    def determine_available_memory(self) -> list[int]:
        return [2**30]

    def get_kv_cache_specs(self) -> list[dict[str, Any]]:
        block_size = self.cache_config.block_size
        spec = FullAttentionSpec(block_size=block_size, num_kv_heads=1, head_size=8, dtype=torch.bfloat16)
        return [{"layer": spec}]

    def get_supported_kv_cache_layouts(self) -> list[list[str]]:
        return [["LBNHC"]]

    def collective_rpc(self, method: Any, *args: Any, **kwargs: Any) -> list[Any]:
        return [None]

    def initialize_from_config(self, kv_cache_configs: Any) -> None:
        pass

    def compile_or_warm_up_model(self) -> None:
        pass

    @property
    def supported_tasks(self) -> tuple[str, ...]:
        return ("generate",)

    def check_health(self) -> None:
        pass

    def shutdown(self) -> None:
        pass

    def execute_model(self, scheduler_output: Any, non_block: bool = False) -> Any:
        until = time.monotonic() + struct.unpack("d", self._step[:8])[0]
        output = self._output(scheduler_output)
        while (left := until - time.monotonic()) > 0:
            time.sleep(left)
        if not non_block:
            return output
        done: Future[ModelRunnerOutput] = Future()
        done.set_result(output)
        return done

    def _output(self, scheduled: Any) -> ModelRunnerOutput:
        for req_id in scheduled.finished_req_ids:
            self._prompt_len.pop(req_id, None)
            self._num_logprobs.pop(req_id, None)
        computed = {}
        for new in scheduled.scheduled_new_reqs:
            self._prompt_len[new.req_id] = len(new.prompt_token_ids)
            if new.sampling_params.logprobs is not None:
                self._num_logprobs[new.req_id] = new.sampling_params.logprobs
            if new.sampling_params.prompt_logprobs is not None:
                wanted = new.sampling_params.prompt_logprobs
                self._scored[new.req_id] = new.prompt_token_ids[1:], wanted
            computed[new.req_id] = new.num_computed_tokens
        cached = scheduled.scheduled_cached_reqs
        computed |= dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        req_ids = list(scheduled.num_scheduled_tokens)
        tokens = self._draw.integers(FIRST_ID, LAST_ID, len(req_ids)).tolist()
        sampled = [
            [token] if computed[r] + scheduled.num_scheduled_tokens[r] >= self._prompt_len[r] else []
            for r, token in zip(req_ids, tokens, strict=True)
        ]
        return ModelRunnerOutput(
            req_ids=req_ids,
            req_id_to_index={r: k for k, r in enumerate(req_ids)},
            sampled_token_ids=sampled,
            logprobs=self._logprobs(tokens, max(self._num_logprobs.values())) if self._num_logprobs else None,
            prompt_logprobs_dict={
                r: self._prompt_logprobs(*self._scored.pop(r))
                for r, token in zip(req_ids, sampled, strict=True)
                if token and r in self._scored
            },
        )

    def _prompt_logprobs(self, tokens: list[int], num_logprobs: int) -> LogprobsTensors:
        """Of a whole prompt but its first token."""
        drawn = self._logprobs(tokens, num_logprobs)
        return LogprobsTensors(*(torch.from_numpy(part) for part in drawn[:3]))

    def _logprobs(self, tokens: list[int], num_logprobs: int) -> LogprobsLists:
        """Random values in descending order, the sampled token's own first."""
        shape = (len(tokens), 1 + num_logprobs)
        token_ids = self._draw.integers(FIRST_ID, LAST_ID, shape, np.int32)
        token_ids[:, 0] = tokens
        values = -np.sort(self._draw.exponential(3.0, shape), axis=1).astype(np.float32)
        return LogprobsLists(token_ids, values, np.ones(len(tokens), np.int32))
