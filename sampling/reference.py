"""The specification of sampling: one function per transform, in the order of application, NumPy float64.

Every fast form is tested against these functions. Shapes: logits [vocab_size] float64; a function returns a
new array. A banned token has the logit -inf and stays banned through every transform. NaN, +inf or nothing
but -inf comes only from a broken model, or a request that has banned every token: `probabilities` raises
ValueError for it.

Order: allowed tokens, bad words, logit bias, repetition, frequency, presence, temperature, min_p, top_k,
top_p, draw. Bias adds and penalties scale, so the two do not commute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sampling import noise

Logits = npt.NDArray[np.float64]  # [vocab_size]

GREEDY = 1e-5  # a temperature below it is 0, as in vLLM
# Token ids that are drawn among together. Another value would draw other tokens for the same seeds. A row of
# 32,000 to 152,000 tokens has 125 to 594 blocks, so that both races have a few hundred runners.
BLOCK = 256
# The logit of a token that would complete a bad word. It is finite, so that the token can come if nothing
# else may, as with a grammar; and so low that no bias, penalty or temperature brings it back, or overflows.
UNWANTED = -(2.0**106)  # -8e31


@dataclass(frozen=True, slots=True)
class Transforms:
    """A request's parameters; the defaults are neutral: with them a transform returns its input."""

    logit_bias: Mapping[int, float] = field(default_factory=dict)
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    temperature: float = 1.0
    min_p: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    allowed_token_ids: Sequence[int] = ()
    bad_words: Sequence[Sequence[int]] = ()


def allowed(logits: Logits, token_ids: Sequence[int]) -> Logits:
    """Bans all tokens but these. Neutral: (). Source: vLLM's allowed_token_ids.

    First of all, so that a bias or a penalty changes what is left.
    """
    if not token_ids:
        return logits.copy()
    kept = np.full_like(logits, -np.inf)
    kept[list(token_ids)] = logits[list(token_ids)]
    return kept


def bad_words(logits: Logits, words: Sequence[Sequence[int]], output: Sequence[int]) -> Logits:
    """The last token of each word whose other tokens the output ends with gets the logit UNWANTED, unless it
    has a lower one. Neutral: (). The prompt does not count. Source: vLLM's bad_words, which bans it.
    """
    kept = logits.copy()
    for *before, last in words:
        if len(before) <= len(output) and list(output[len(output) - len(before) :]) == before:
            kept[last] = min(kept[last], UNWANTED)
    return kept


def logit_bias(logits: Logits, bias: Mapping[int, float]) -> Logits:
    """logits[id] + bias[id]. Neutral: {}. -inf stays -inf. Source: OpenAI's completions reference.

    Every token at -100 is no ban: a sum of equal biases cancels in the softmax.
    """
    biased = logits.copy()
    for token_id, value in bias.items():
        biased[token_id] += value
    return biased


def repetition(logits: Logits, seen: Sequence[int], penalty: float) -> Logits:
    """For each token of prompt or output, once: logit / penalty if logit > 0, else logit × penalty. Neutral:
    1.

    0 stays 0 and -inf stays -inf. A penalty below 1 makes repetition likelier. Source: Keskar et al. 2019
    (CTRL), as in transformers' RepetitionPenaltyLogitsProcessor and vLLM.
    """
    penalised = logits.copy()
    for token_id in set(seen):
        logit = penalised[token_id]
        penalised[token_id] = logit / penalty if logit > 0 else logit * penalty
    return penalised


def frequency(logits: Logits, output: Sequence[int], penalty: float) -> Logits:
    """logit - penalty × (times in the output). Neutral: 0. The prompt does not count. Source: OpenAI."""
    penalised = logits.copy()
    for token_id in output:
        penalised[token_id] -= penalty
    return penalised


def presence(logits: Logits, output: Sequence[int], penalty: float) -> Logits:
    """logit - penalty if the token is in the output at all. Neutral: 0. The prompt does not count. Source:
    OpenAI."""
    penalised = logits.copy()
    for token_id in set(output):
        penalised[token_id] -= penalty
    return penalised


def temperature(logits: Logits, value: float) -> Logits:
    """logits / value. Neutral: 1. Below GREEDY: only the first of the largest logits stays, the
    others are banned."""
    if value < GREEDY:
        greedy = np.full_like(logits, -np.inf)
        greedy[np.argmax(logits)] = 0.0
        return greedy
    return logits / value


def min_p(logits: Logits, value: float) -> Logits:
    """Bans tokens less likely than value × the likeliest, after temperature. Neutral: 0. At 1, ties of the
    largest stay.

    In logits: bans logit < max + ln(value). Source: Nguyen et al. 2024; transformers' MinPLogitsWarper.
    """
    if value == 0.0:
        return logits.copy()
    return np.where(logits < logits.max() + np.log(value), -np.inf, logits)


def top_k(logits: Logits, k: int) -> Logits:
    """Keeps the k largest logits, and no more: of equal ones the lower ids come first. Neutral: 0, and
    k ≥ vocab_size.

    So k = 1 is greedy. Source: Fan et al. 2018.
    """
    if k <= 0 or k >= len(logits):
        return logits.copy()
    kept = logits.copy()
    kept[_likeliest_first(logits)[k:]] = -np.inf
    return kept


def top_p(logits: Logits, p: float) -> Logits:
    """Keeps the smallest set of likeliest tokens whose probabilities sum to at least p. Neutral: 1. The
    likeliest always stays.

    Of equally likely tokens the lower ids come first. Source: Holtzman et al. 2019.
    """
    if p >= 1.0:
        return logits.copy()
    order = _likeliest_first(logits)
    sum_before = np.cumsum(softmax(logits)[order])[:-1]
    kept = logits.copy()
    kept[order[1:][sum_before >= p]] = -np.inf
    return kept


def _likeliest_first(logits: Logits) -> npt.NDArray[np.int64]:
    """Token ids by their logits; of equal ones the lower ids first."""
    return np.argsort(-logits, kind="stable")


def apply(logits: Logits, params: Transforms, prompt: Sequence[int], output: Sequence[int]) -> Logits:
    """All transforms in order. prompt, output: token ids so far; a resumed request's earlier
    output is output."""
    logits = allowed(logits, params.allowed_token_ids)
    logits = bad_words(logits, params.bad_words, output)
    logits = logit_bias(logits, params.logit_bias)
    logits = repetition(logits, [*prompt, *output], params.repetition_penalty)
    logits = frequency(logits, output, params.frequency_penalty)
    logits = presence(logits, output, params.presence_penalty)
    logits = temperature(logits, params.temperature)
    logits = min_p(logits, params.min_p)
    logits = top_k(logits, params.top_k)
    return top_p(logits, params.top_p)


def softmax(logits: Logits) -> npt.NDArray[np.float64]:
    """exp(logits) over their sum; [vocab_size]."""
    exponentials: Logits = np.exp(logits - logits.max())
    exponentials /= exponentials.sum()
    return exponentials


def probabilities(
    logits: Logits, params: Transforms, prompt: Sequence[int] = (), output: Sequence[int] = ()
) -> npt.NDArray[np.float64]:
    """The distribution that the next token is drawn from; [vocab_size], sums to 1.

    Raises ValueError where there is none: NaN or +inf among the logits, or every token banned.
    """
    if np.isnan(logits).any() or np.isposinf(logits).any() or np.isneginf(logits).all():
        raise ValueError("the logits are no distribution")
    return softmax(apply(logits, params, prompt, output))


def draw(distribution: npt.NDArray[np.float64], seed: int, position: int) -> int:
    """The token that follows `position` generated ones. Two races in which the likely run fast: first of
    blocks of BLOCK token ids, then of the tokens of the block that has won.

    A runner of probability p needs the time E / p, with a number E of the exponential distribution of its
    own (noise.py), so that it wins with a chance of p over the sum of all. Of equal times the lower number
    wins. A token without probability never does.

    Why races: where logits are rounded a little otherwise, in another batch say, times move as little, and
    another one wins only where two were as near. One number of [0, 1) laid along the probabilities would fall
    on another of the many unlikely tokens. Why two: a number E for every token would cost more than all else.
    """
    num_blocks = -(-len(distribution) // BLOCK)
    sums = np.add.reduceat(distribution, np.arange(num_blocks) * BLOCK)
    ids = np.arange(len(distribution), dtype=np.uint64).reshape(-1)
    key = noise.key(np.array([seed], np.uint64), np.array([position], np.uint64))
    block = int(np.argmax(sums / noise.exponential(key, noise.FIRST_BLOCK + ids[:num_blocks])))
    inside = slice(block * BLOCK, (block + 1) * BLOCK)
    return block * BLOCK + int(np.argmax(distribution[inside] / noise.exponential(key, ids[inside])))
