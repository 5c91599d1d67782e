"""The prompts of a request as token ids that fit the model."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from server.config.settings import ModelSettings
from server.contract.params import GenerationParams
from server.contract.request import CompletionRequest
from server.engine.served import ServedModel
from server.errors import InvalidRequest
from server.generation.outputs import PromptText
from server.text.tokenizer import Tokenizer

# About 5 ms of tokenizing; from here on it is done in a thread, which does not hold the GIL.
LONG_CHARS = 20_000


async def encode_prompts(
    request: CompletionRequest, params: GenerationParams, model: ServedModel
) -> list[PromptText]:
    """The prompts of a request.

    Raises InvalidRequest for too many, a token id outside the vocabulary or too many tokens.
    """
    given = request.prompt
    # The contract has seen to it that the items are of one kind.
    prompts: list[Any] = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    _check_count(len(prompts), params, model.settings)
    if isinstance(prompts[0], str):
        texts = _filled_in(prompts, request.suffix, model.settings)
        encoded = await _encode(texts, model.tokenizer)
    elif request.suffix:
        raise InvalidRequest("suffix must be empty where the prompt is not text", "suffix")
    else:
        encoded = [PromptText(ids) for ids in prompts]
    for prompt in encoded:
        _check_ids(prompt.ids, model.vocab_size)
    return [_fitted(prompt, params, model.context_size) for prompt in encoded]


def _check_count(count: int, params: GenerationParams, model: ModelSettings) -> None:
    if count > model.limits.prompts:
        raise InvalidRequest(
            f"prompt ({count} prompts) must be at most {model.limits.prompts} prompts", "prompt"
        )
    if count * params.best_of > model.limits.candidates:
        raise InvalidRequest(
            f"prompt ({count} prompts × {params.best_of} candidates) must ask for at most "
            f"{model.limits.candidates} candidates",
            "prompt",
        )


def _filled_in(texts: list[str], suffix: str | None, model: ModelSettings) -> list[str]:
    if not suffix or model.suffix_template is None:
        return texts
    before, between, after = re.split(r"\{prefix\}|\{suffix\}", model.suffix_template)
    if model.suffix_template.index("{prefix}") < model.suffix_template.index("{suffix}"):
        return [before + text + between + suffix + after for text in texts]
    return [before + suffix + between + text + after for text in texts]


async def _encode(texts: list[str], tokenizer: Tokenizer) -> list[PromptText]:
    if sum(map(len, texts)) > LONG_CHARS:
        encoded = await asyncio.to_thread(tokenizer.encode_many, texts)
    else:
        encoded = tokenizer.encode_many(texts)
    return [PromptText(ids or _bos(tokenizer), text) for ids, text in zip(encoded, texts, strict=True)]


def _bos(tokenizer: Tokenizer) -> list[int]:
    if tokenizer.bos_id is None:
        raise InvalidRequest(
            'prompt (current value: "") must not be empty: this model has no token for a text\'s beginning',
            "prompt",
        )
    return [tokenizer.bos_id]


def _check_ids(ids: list[int], vocab_size: int) -> None:
    """An id beyond the embedding kills an engine. A tokenizer may have one that its model lacks."""
    if (largest := max(ids)) >= vocab_size:
        place = ids.index(largest)
        raise InvalidRequest(
            f"prompt (token id {largest} at position {place}) must be between 0 and {vocab_size - 1}",
            "prompt",
        )


def _fitted(prompt: PromptText, params: GenerationParams, context_size: int) -> PromptText:
    keep = params.truncate_prompt_tokens
    if keep == -1:
        keep = max(1, context_size - params.max_tokens)
    if keep is not None and len(prompt.ids) > keep:
        prompt = PromptText(prompt.ids[-keep:])
    total = len(prompt.ids) + params.max_tokens
    if total > context_size:
        raise InvalidRequest(
            f"This model's maximum context length is {context_size} tokens, however you requested {total} "
            f"tokens ({len(prompt.ids)} in your prompt; {params.max_tokens} for the completion). Please "
            "reduce your prompt or max_tokens.",
            "prompt" if len(prompt.ids) > context_size else "max_tokens",
        )
    return prompt
