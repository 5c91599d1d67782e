"""Our transforms as a logits processor of vLLM's V1 model runner: every CPU run, and CUDA where V2 is
switched off."""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from sampling.batch import Batch, Row, RowParams
from sampling.patches_v1 import patch
from sampling.transforms import Transforms


class SamplingProcessor(LogitsProcessor):  # type: ignore[misc]  # vLLM is not type-checked
    """Parameters come in SamplingParams.extra_args under RowParams' names; vLLM's own stay neutral.

    `num_output_before` in extra_args says how many trailing prompt ids were generated before the request was
    resumed.
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        patch()  # here, as vLLM makes a processor in each of its processes that runs a model
        self._batch = Batch()
        pinned = is_pin_memory and device.type != "cpu"
        self._transforms = Transforms(self._batch, device, pinned=pinned)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is not None:
            for number in batch_update.removed:
                self._batch.remove(number)
            for number, params, prompt, output in batch_update.added:
                self._batch.put(number, _row(params, prompt, output))
            for source, target, direction in batch_update.moved:
                self._batch.move(source, target, swap=direction is MoveDirectionality.SWAP)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        # Only here the last step's tokens are taken in: with async scheduling they are known just now.
        return self._transforms.apply(logits)


def _row(params: Any, prompt: list[int] | None, output: list[int]) -> Row | None:
    extra = params.extra_args or {}
    row_params = RowParams.from_extra_args(extra, params.temperature)
    if row_params.is_neutral:
        return None
    prompt = prompt or []
    border = len(prompt) - extra.get("num_output_before", 0)
    return Row(row_params, prompt[:border], prompt[border:], output)
