"""Our sampling as a logits processor of vLLM's V1 model runner: every CPU run, and CUDA if V2 is off."""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality
from vllm.v1.sample.sampler import Sampler

from sampling.asked_logprobs import AskedLogprobs
from sampling.bans import Ban, Bans
from sampling.batch import Batch, Row
from sampling.choice import Choice
from sampling.draws import Drawing, Draws
from sampling.params import RowParams
from sampling.transforms import Transforms


class SamplingProcessor(LogitsProcessor):  # type: ignore[misc]  # vLLM is not type-checked
    """Parameters come in SamplingParams.extra_args under RowParams' names; vLLM's own stay neutral, its
    temperature 0.

    `num_output_before` in extra_args says how many trailing prompt ids were generated before the request was
    resumed. vLLM's min_tokens, which bans end tokens, and its grammar mask run before this.
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._batch, self._draws = Batch(), Draws()
        pinned = is_pin_memory and device.type != "cpu"
        self._transforms = Transforms(self._batch, device, pinned=pinned)
        self._choice = Choice(self._draws, device, pinned=pinned)
        self._bans = Bans(device, pinned=pinned)
        self._asked = AskedLogprobs()
        self._asked.attach(Sampler)

    def is_argmax_invariant(self) -> bool:
        return False  # otherwise vLLM would skip it if all temperatures are 0, as they are

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        for number in batch_update.removed:
            self._batch.remove(number)
            self._draws.remove(number)
            self._bans.remove(number)
            self._asked.remove(number)
        for number, params, prompt, output in batch_update.added:
            self._put(number, params.extra_args or {}, prompt or [], output)
        for source, target, direction in batch_update.moved:
            for rows in (self._batch, self._draws, self._bans, self._asked):
                rows.move(source, target, swap=direction is MoveDirectionality.SWAP)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        self._asked.expect()
        # The last step's tokens are only taken in here: with async scheduling they are not known earlier.
        return self._choice.apply(self._transforms.apply(self._bans.apply(logits)))

    def restrict(self, numbers: list[int] | None) -> None:
        """From now on only these rows are drawn, and the others do not matter; None: all."""
        self._draws.restrict(numbers)

    def expect_logprobs(self, numbers: list[int]) -> None:
        """The next log-probabilities are of tokens of these rows."""
        self._asked.expect(numbers)

    def _put(self, number: int, extra: dict[str, Any], prompt: list[int], output: list[int]) -> None:
        params, num_before = RowParams.from_extra_args(extra), extra.get("num_output_before", 0)
        border = len(prompt) - num_before
        row = Row(params, prompt[:border], prompt[border:], output) if params.has_transforms else None
        self._batch.put(number, row)
        self._asked.put(number, params.logprob_token_ids)
        self._bans.put(number, Ban(params, prompt[border:], output) if params.has_bans else None)
        self._draws.put(number, Drawing(params, num_before, output) if params.is_drawn else None)
