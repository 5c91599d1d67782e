"""Log-probabilities of tokens that a request names, for vLLM's V1 runner.

vLLM's own implementation takes the most likely tokens away from all other requests of the batch (0.32.0). So
here such a request asks for the same number of most likely tokens, which are then replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


class AskedLogprobs:
    """The rows of a batch that name tokens."""

    def __init__(self) -> None:
        self._rows: dict[int, list[int]] = {}
        self._due: dict[int, list[int]] = {}

    def put(self, number: int, token_ids: Sequence[int]) -> None:
        """Row `number` names these tokens; empty: it names none."""
        self.remove(number)
        if token_ids:
            self._rows[number] = [*token_ids]

    def remove(self, number: int) -> None:
        self._rows.pop(number, None)

    def move(self, source: int, target: int, *, swap: bool) -> None:
        """Row `source` becomes row `target`, and the other way round if swap."""
        moved, replaced = self._rows.pop(source, ()), self._rows.pop(target, ())
        self.put(target, moved)
        self.put(source, replaced if swap else ())

    def expect(self, numbers: Sequence[int] | None = None) -> None:
        """The next log-probabilities are of this batch's tokens, later ones of prompts. numbers: their rows,
        if there is not one for each."""
        self._due = self._rows
        if numbers is not None and self._rows:
            named = ((place, self._rows.get(number)) for place, number in enumerate(numbers))
            self._due = {place: token_ids for place, token_ids in named if token_ids}

    def attach(self, sampler: Any) -> None:
        """Patch vLLM's sampler class to put the named tokens in place."""
        gather = sampler.gather_logprobs

        def gathered(logprobs: torch.Tensor, num_logprobs: int, token_ids: torch.Tensor) -> Any:
            found = gather(logprobs, num_logprobs, token_ids)
            if self._due:
                self.fill(found.logprob_token_ids, found.logprobs, logprobs)
                self._due = {}
            return found

        sampler.gather_logprobs = staticmethod(gathered)

    def fill(self, token_ids: torch.Tensor, values: torch.Tensor, logprobs: torch.Tensor) -> None:
        """token_ids, values: [num_rows, 1 + most], the sampled token's first, changed in place. logprobs:
        [num_rows, vocab_size] float32."""
        for number, named in self._due.items():
            ids = torch.tensor(named, dtype=torch.int64, device=logprobs.device)
            token_ids[number, 1 : 1 + len(named)] = ids
            values[number, 1 : 1 + len(named)] = logprobs[number, ids]
