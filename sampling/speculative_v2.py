"""Speculative decoding with our sampling on vLLM's V2 model runner.

There our processor gets the row of each draft token, and vLLM, whose temperature is 0, accepts a draft token
if it is the largest of its row: the token that would have come. vLLM 0.32.0 mixes up requests with several
rows in three places, which are corrected here: whose logits were NaN, the log-probabilities of tokens that a
request names, and the adapter of a row in the output layer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from vllm.v1.outputs import LogprobsTensors
from vllm.v1.worker.gpu.sample.logprob import compute_topk_scores
from vllm.v1.worker.gpu.spec_decode.rejection_sampler import RejectionSampler
from vllm.v1.worker.gpu_worker import Worker as GPUWorker


class Worker(GPUWorker):  # type: ignore[misc]  # vLLM is not type-checked
    """vLLM's worker with a model runner that has our verification of drafts."""

    def load_model(self, **how: Any) -> None:
        super().load_model(**how)
        runner = self.model_runner
        if runner.rejection_sampler is not None:  # otherwise another stage of the pipeline has it
            runner.rejection_sampler = Verification(runner.sampler, runner.speculative_config, runner.device)
        if runner.lora_config is not None:
            give_every_row_its_adapter(runner)


class Verification(RejectionSampler):  # type: ignore[misc]  # vLLM is not type-checked
    """vLLM's rejection sampler. A request has a row of logits for each of its drafts and one more; as many
    are used as tokens come from it."""

    def __call__(self, logits: torch.Tensor, batch: Any, *drafts: Any, **more: Any) -> Any:
        """logits: [num_rows, vocab_size]. batch: vLLM's InputBatch."""
        self._rows, self._num_told = batch.expanded_idx_mapping, 0
        self._num_named = self.sampler.logprob_token_ids_state.max_num_token_ids(batch.idx_mapping_np)
        found = super().__call__(logits, batch, *drafts, **more)
        if found.num_nans is not None:
            found.num_nans = by_request(found.num_nans, batch.cu_num_logits, found.num_sampled)
        return found

    def _get_logprobs_tensors(
        self,
        sampled: torch.Tensor,
        num_sampled: torch.Tensor,
        logits: torch.Tensor,  # [num_rows, vocab_size], of some requests: the next ones of the batch
        starts: torch.Tensor,  # [num_requests + 1]: of each request its first row
        *more: Any,
    ) -> LogprobsTensors | None:
        told = super()._get_logprobs_tensors(sampled, num_sampled, logits, starts, *more)
        slots = self._rows[self._num_told : self._num_told + len(logits)]
        self._num_told += len(logits)
        if told is None or not self._num_named:
            return told
        named = compute_topk_scores(  # as vLLM's sampler does without drafts
            logits,
            told.logprobs.shape[1] - 1,
            told.logprob_token_ids[:, 0].contiguous(),
            logprob_token_ids_state=self.sampler.logprob_token_ids_state,
            expanded_idx_mapping=slots,
            max_per_req_token_ids=self._num_named,
        )
        return told._replace(logprob_token_ids=named.logprob_token_ids, logprobs=named.logprobs)


def give_every_row_its_adapter(runner: Any) -> None:
    """Patch vLLM's runner to use the adapter of each row of logits. It uses one for each
    request, in order."""
    prepare, activate = runner.prepare_inputs, runner._set_active_loras
    batches: list[Any] = []  # the batch whose adapters are set next; empty while vLLM warms up

    def prepare_inputs(*args: Any, **kwargs: Any) -> Any:
        batches[:] = [prepare(*args, **kwargs)]
        return batches[0]

    def set_active_loras(of_requests: tuple[int, ...], *more: Any, **kwargs: Any) -> None:
        of_rows = of_requests
        for batch in batches:
            of_rows = tuple(np.repeat(of_requests, np.diff(batch.cu_num_logits_np)).tolist())
        batches.clear()
        activate(of_rows, *more, **kwargs)

    runner.prepare_inputs, runner._set_active_loras = prepare_inputs, set_active_loras


def by_request(
    counts: torch.Tensor,  # [num_rows] int32
    starts: torch.Tensor,  # [num_requests + 1] int32: of each request its first row
    num_used: torch.Tensor,  # [num_requests] int32
) -> torch.Tensor:  # [num_requests] int32
    """Sums over the rows that each request uses. vLLM takes the counts of the first rows for the requests',
    and would blame one for another's; rows after a wrong draft do not count."""
    sums = torch.nn.functional.pad(counts.cumsum(0, dtype=torch.int32), (1, 0))
    first = starts[:-1].long()
    return sums[first + num_used.long()] - sums[first]
