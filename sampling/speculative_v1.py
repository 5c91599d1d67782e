"""Speculative decoding with our sampling on vLLM's V1 model runner for CPUs; vLLM refuses the combination.

A draft token is accepted if it is the token that our sampling takes at its place, so the text is the same as
without drafts. vLLM's own rule for sampled tokens accepts others of the same distribution, which gives
another text.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from vllm.v1.outputs import LogprobsTensors, SamplerOutput
from vllm.v1.sample.rejection_sampler import PLACEHOLDER_TOKEN_ID
from vllm.v1.worker.cpu_worker import CPUWorker
from vllm.v1.worker.gpu_model_runner import count_nans_per_row, nans_to_dict

from sampling.runner_v1 import SamplingProcessor


class Worker(CPUWorker):  # type: ignore[misc]  # vLLM is not type-checked
    """vLLM's worker with a model runner that has our processor and our verification of drafts."""

    def init_device(self) -> None:
        super().init_device()
        runner, batch = self.model_runner, self.model_runner.input_batch
        processor = SamplingProcessor(self.vllm_config, self.device, is_pin_memory=False)
        batch.logitsprocs.non_argmax_invariant.append(processor)
        batch.logitsprocs_need_output_token_ids = True
        runner.rejection_sampler = verification = Verification(runner.sampler, processor)
        # vLLM counts NaN by row, and would blame another request if there are drafts.
        runner._get_nans_in_logits = lambda logits: nans_to_dict(
            verification.count_nans(logits), runner.input_batch.req_id_to_index
        )


class Verification:
    """Replaces vLLM's rejection sampler. A request has a row of logits for each of its drafts and one more.

    First the first rows of all requests are sampled, then the second rows of those whose first draft was
    right, and so on: each as in a step of its own, whose history is what has been accepted.
    """

    def __init__(self, sampler: Any, processor: SamplingProcessor) -> None:
        self._sampler, self._processor = sampler, processor
        # In the last step, by request: its first row, and how many of its rows were sampled.
        self._first, self._num_used = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def __call__(self, drafts: Any, draft_probs: Any, logits: torch.Tensor, sampling: Any) -> SamplerOutput:
        """drafts: vLLM's SpecDecodeMetadata. logits: [num_requests + num_drafts, vocab_size]. sampling:
        vLLM's SamplingMetadata, whose output_token_ids are the lists that the processors read."""
        num_drafts = np.array(drafts.num_draft_tokens)
        self._first = np.cumsum(num_drafts + 1) - (num_drafts + 1)
        self._num_used = np.ones_like(num_drafts)
        if not num_drafts.any():
            step: SamplerOutput = self._sampler(logits=logits, sampling_metadata=sampling)
            return step
        drafted = np.split(drafts.draft_token_ids.numpy(), np.cumsum(num_drafts)[:-1])
        texts = self._sampled(logits, [one.tolist() for one in drafted], sampling)
        self._num_used = np.array([len(text) for text in texts])
        tokens = np.full((len(texts), self._num_used.max()), PLACEHOLDER_TOKEN_ID, np.int32)
        is_used = np.arange(tokens.shape[1]) < self._num_used[:, None]
        tokens[is_used] = [token_id for text in texts for token_id in text]
        found = None
        if (num_logprobs := sampling.max_num_logprobs) is not None:
            found = self._logprobs(logits, num_logprobs, tokens, is_used)
        return SamplerOutput(torch.from_numpy(tokens), found)

    def _sampled(self, logits: torch.Tensor, drafts: list[list[int]], sampling: Any) -> list[list[int]]:
        """By request: its accepted drafts, and the token after them."""
        processors, outputs = [*sampling.logitsprocs.all], sampling.output_token_ids
        texts: list[list[int]] = [[] for _ in drafts]
        going = [*range(len(drafts))]
        rows = logits[torch.from_numpy(self._first)].float()  # one for each request, a copy
        while going:
            for processor in processors:
                processor.apply(rows)
            taken = self._sampler.greedy_sample(rows[going]).tolist()
            for number, token_id in zip(going, taken, strict=True):
                texts[number].append(token_id)
            going = [number for number in going if drafts[number][: len(texts[number])] == texts[number]]
            for number in going:
                outputs[number].append(texts[number][-1])
            rows[going] = logits[[self._first[number] + len(texts[number]) for number in going]].float()
            for processor in processors:
                processor.update_state(None)  # outputs are longer
            self._processor.restrict(going)
        self._processor.restrict(None)
        for output, text in zip(outputs, texts, strict=True):
            del output[len(output) - len(text) + 1 :]  # vLLM appends them itself
        return texts

    def _logprobs(
        self, logits: torch.Tensor, num_logprobs: int, tokens: Any, is_used: Any
    ) -> LogprobsTensors:
        """The log-probabilities of every place in tokens, as vLLM expects them; unused places
        have no value."""
        numbers, depths = np.nonzero(is_used)
        used = torch.from_numpy(self._first[numbers] + depths)
        self._processor.expect_logprobs(numbers.tolist())
        found = self._sampler.gather_logprobs(
            self._sampler.compute_logprobs(logits[used]),
            num_logprobs,
            torch.from_numpy(tokens[is_used]).long(),
        )
        places = torch.from_numpy(np.flatnonzero(is_used))
        return LogprobsTensors(
            *(part.new_zeros(tokens.size, *part.shape[1:]).index_copy(0, places, part) for part in found[:3])
        )

    def count_nans(self, logits: torch.Tensor | None) -> list[int]:
        """By request, in the rows that were sampled: rows after a wrong draft do not count."""
        if logits is None:
            return []
        counts = np.array(count_nans_per_row(logits).tolist())
        used = zip(self._first, self._num_used, strict=True)
        return [int(counts[first : first + num].sum()) for first, num in used]
