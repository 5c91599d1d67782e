"""Chooses the tokens of one step: with sampling/reference.py, or for all plain rows together with
the same formulas.

A row is plain if its request has no penalties, bias and the like: its distribution only depends on the last
tokens, and is cached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sampling import noise, reference
from sampling.reference import BLOCK, GREEDY, Logits, Transforms
from server.contract.params import GenerationParams
from server.engine.base import TopLogprobs
from twin.language.model import CONTEXT, Language

# Added to all log-probabilities, which changes no distribution: the likely logits of a real model are above 0
# too, where a repetition_penalty divides.
LIKELY = 12.0
NEUTRAL = (1.0, 0.0, 0, 1.0)  # changes nothing
MEMORY_BYTES = 64 * 2**20  # of the cache; with more, the kernel has more pages to find

Mask: TypeAlias = npt.NDArray[np.bool_]
Before: TypeAlias = tuple[int, ...]  # the last CONTEXT token ids
Shape: TypeAlias = tuple[float, float, int, float]  # temperature, min_p, top_k, top_p


@dataclass(slots=True)
class Row:
    """One row to draw for. tokens: of the prompt, then, from num_prompt on, generated ones. held_back: ids
    that may not come yet. shape: from `shape_of`. mask: [vocab_size] bool, tokens that a grammar allows;
    None: all."""

    tokens: list[int]
    num_prompt: int
    transforms: Transforms
    seed: int
    shape: Shape | None = None
    held_back: tuple[int, ...] = ()
    mask: Mask | None = None

    @property
    def before(self) -> Before:
        return tuple(self.tokens[-CONTEXT:])

    @property
    def position(self) -> int:
        return len(self.tokens) - self.num_prompt


def transforms_of(params: GenerationParams) -> Transforms:
    return Transforms(
        logit_bias=params.logit_bias,
        repetition_penalty=params.repetition_penalty,
        frequency_penalty=params.frequency_penalty,
        presence_penalty=params.presence_penalty,
        temperature=params.temperature,
        min_p=params.min_p,
        top_k=params.top_k,
        top_p=params.top_p,
        allowed_token_ids=params.allowed_token_ids,
        bad_words=params.bad_words,
    )


def shape_of(transforms: Transforms) -> Shape | None:
    """The parameters of a plain row's distribution; None: the row is not plain."""
    penalties = transforms.repetition_penalty, transforms.frequency_penalty, transforms.presence_penalty
    if transforms.logit_bias or transforms.allowed_token_ids or transforms.bad_words:
        return None
    if penalties != (1.0, 0.0, 0.0):
        return None
    return transforms.temperature, transforms.min_p, transforms.top_k, transforms.top_p


class Distribution:
    """A distribution of the next token, prepared for draws. blocks: [num_blocks, BLOCK] probabilities, with
    zeros at the end. sums: [num_blocks]. likeliest: the lowest of the likeliest ids."""

    __slots__ = ("blocks", "likeliest", "sums")

    def __init__(self, probabilities: npt.NDArray[np.float64]) -> None:
        num_blocks = -(-len(probabilities) // BLOCK)
        self.sums = np.add.reduceat(probabilities, np.arange(num_blocks) * BLOCK)
        padded = np.zeros(num_blocks * BLOCK)
        padded[: len(probabilities)] = probabilities
        self.blocks = padded.reshape(num_blocks, BLOCK)
        self.likeliest = int(probabilities.argmax())


class Sampler:
    """Draws from a language model by the rules of sampling/reference.py."""

    def __init__(self, language: Language) -> None:
        self.language = language
        self._most_kept = max(1, MEMORY_BYTES // (8 * language.vocab_size))
        self._logits: dict[Before, Logits] = {}
        self._distributions: dict[tuple[Before, Shape], Distribution] = {}

    def choose(self, rows: Sequence[Row]) -> list[int]:
        """The next token of each row."""
        chosen = [0] * len(rows)
        drawn: list[tuple[int, Distribution]] = []
        for k, row in enumerate(rows):
            if row.shape is None or row.held_back or row.mask is not None:
                chosen[k] = self._by_reference(row)
                continue
            distribution = self._distribution(row.before, row.shape, row.transforms)
            if row.transforms.temperature < GREEDY:
                chosen[k] = distribution.likeliest
            else:
                drawn.append((k, distribution))
        if drawn:
            ids = _draw([one for _, one in drawn], [rows[k] for k, _ in drawn])
            for (k, _), token_id in zip(drawn, ids, strict=True):
                chosen[k] = token_id
        return chosen

    def warm_up(self) -> None:
        """Run the code once that initializes libraries on first use."""
        neutral, penalised = Transforms(), Transforms(repetition_penalty=2.0, top_k=5, top_p=0.5)
        self.choose([Row([0, 0], 2, one, 0, shape_of(one)) for one in (neutral, neutral, penalised)])
        self.logprobs((0, 0), 0, 5)

    def logprobs(
        self, before: Before, token_id: int, num: int, mask: Mask | None = None, named: Sequence[int] = ()
    ) -> tuple[list[int], list[float]]:
        """As a position of TopLogprobs: the token itself, then the num likeliest or those that are
        named. mask: as Row's; what it
        leaves sums to 1, as with vLLM."""
        values = self._raw(before)
        if mask is not None:
            values = np.where(mask, values, -np.inf)
            values -= np.log(np.exp(values).sum())
        if named:
            return [token_id, *named], values[[token_id, *named]].tolist()
        likeliest = np.argpartition(-values, num)[:num] if num < len(values) else np.arange(len(values))
        likeliest = likeliest[np.lexsort((likeliest, -values[likeliest]))]
        ids = [token_id, *likeliest.tolist()]
        return ids, values[ids].tolist()

    def prompt_logprobs(self, prompt_ids: Sequence[int], num: int) -> TopLogprobs:
        """The log-probabilities of each token but the first."""
        found = TopLogprobs(1 + num)
        for k in range(1, len(prompt_ids)):
            before = tuple(prompt_ids[max(0, k - CONTEXT) : k])
            found.extend(TopLogprobs(1 + num, *self.logprobs(before, prompt_ids[k], num)))
        return found

    def _raw(self, before: Before) -> Logits:
        """The language model's logits, which are log-probabilities: their softmax does not change them."""
        found = self._logits.get(before)
        if found is None:
            found = np.log(self.language.probabilities(before))
            _keep(self._logits, before, found, self._most_kept)
        return found

    def _distribution(self, before: Before, shape: Shape, transforms: Transforms) -> Distribution:
        """The distribution of a plain row."""
        key = before, shape
        found = self._distributions.get(key)
        if found is None:
            if shape == NEUTRAL:  # as in the reference, except for the last bits
                probabilities = self.language.probabilities(before)
            else:
                probabilities = reference.probabilities(self._raw(before), transforms)
            found = Distribution(probabilities)
            _keep(self._distributions, key, found, self._most_kept)
        return found

    def _by_reference(self, row: Row) -> int:
        logits = self._raw(row.before) + LIKELY
        if row.mask is not None:
            logits[~row.mask] = -np.inf
        if row.held_back:
            logits[[*row.held_back]] = -np.inf
        prompt, output = row.tokens[: row.num_prompt], row.tokens[row.num_prompt :]
        distribution = reference.probabilities(logits, row.transforms, prompt, output)
        if row.transforms.temperature < GREEDY:
            return int(distribution.argmax())
        return reference.draw(distribution, row.seed, row.position)


def _draw(distributions: Sequence[Distribution], rows: Sequence[Row]) -> list[int]:
    """reference.draw of each row."""
    seeds = np.array([row.seed for row in rows], np.uint64)
    positions = np.array([row.position for row in rows], np.uint64)
    keys = noise.key(seeds, positions)[:, None]
    sums = np.stack([one.sums for one in distributions])
    numbers = np.arange(sums.shape[1], dtype=np.uint64)
    block = (sums / noise.exponential(keys, noise.FIRST_BLOCK + numbers)).argmax(axis=1)
    inside = np.stack([one.blocks[k] for one, k in zip(distributions, block, strict=True)])
    ids = block[:, None].astype(np.uint64) * np.uint64(BLOCK) + np.arange(BLOCK, dtype=np.uint64)
    place = (inside / noise.exponential(keys, ids)).argmax(axis=1)
    drawn: list[int] = (block * BLOCK + place).tolist()
    return drawn


def _keep(kept: dict[Any, Any], key: object, value: object, most: int) -> None:
    """Keep a value in the cache, in place of the oldest one if it is full."""
    if len(kept) >= most:
        del kept[next(iter(kept))]
    kept[key] = value
