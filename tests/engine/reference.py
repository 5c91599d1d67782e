"""What Hugging Face's transformers makes of the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


class Reference:
    """A forward pass of a model directory in float32, whatever type the weights are stored in.

    adapter: a directory of PEFT's, on top of it.
    """

    def __init__(self, path: Path, adapter: Path | None = None) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        # eager: the attention that transformers takes otherwise leaves out Gemma 2's soft cap.
        options = {"dtype": torch.float32, "attn_implementation": "eager"}
        model = AutoModelForCausalLM.from_pretrained(path, **options)
        if adapter is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, adapter)
        self._model = model.eval()

    def __call__(self, ids: list[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """[num_ids, vocab] float32: row i holds the log-probabilities of what follows ids[: i + 1]."""
        import torch

        with torch.inference_mode():
            logits = self._model(torch.tensor([ids])).logits[0]
        return np.asarray(torch.log_softmax(logits, -1))

    def scores(self, ids: list[int]) -> list[float]:
        """The log-probability of each id but the first, given those before it."""
        return self(ids)[np.arange(len(ids) - 1), ids[1:]].tolist()
