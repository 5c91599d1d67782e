"""The prompts of a request as token ids that fit the model."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from typing import Any

from server.config.model import ModelSettings
from server.contract.params import GenerationParams
from server.contract.request import CompletionRequest
from server.engine.served import ServedModel
from server.errors import InvalidRequest
from server.generation.outputs import PromptText
from server.text.encoding import Encoded, Reading
from server.text.long import part, tokens_at_least
from server.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

# About 5 ms with the slower library. Longer texts are tokenized in a thread, which does not hold the GIL.
LONG_CHARS = 20_000
BOS_TWICE = "a BOS was left out"  # key in Tokenizer.said


async def encode_prompts(
    request: CompletionRequest, params: GenerationParams, model: ServedModel
) -> list[PromptText]:
    """The prompts of a request as token ids.

    Raises InvalidRequest for too many prompts, a token id outside the vocabulary, or too many tokens.
    """
    given = request.prompt
    # The contract has checked that all items are of one kind.
    prompts: list[Any] = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    _check_count(len(prompts), params, model.settings)
    if isinstance(prompts[0], str) and request.suffix and not model.settings.suffix_template:
        encoded = await _with_suffix(prompts, request.suffix, params, model)
    elif isinstance(prompts[0], str):
        encoded = await _encode(_filled_in(prompts, request.suffix, model.settings), params, model)
    elif request.suffix:
        raise InvalidRequest("suffix must be empty when the prompt is token ids", "suffix")
    else:
        keep = _keep(params, model.context_size)
        encoded = [PromptText(_sliced(ids, keep, params)) for ids in prompts]
    for prompt in encoded:
        _check_ids(prompt.ids, model.vocab_size)
        if len(prompt.ids) + params.max_tokens > model.context_size:
            raise _too_long(len(prompt.ids), params, model.context_size)
    return encoded


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


async def _with_suffix(
    texts: list[str], suffix: str, params: GenerationParams, model: ServedModel
) -> list[PromptText]:
    """Put the texts between the marks of the fill-in-the-middle template. Marks are ids, and texts contain
    none: a user's text is not control."""
    fill_in, tokenizer = model.tokenizer.fill_in, model.tokenizer
    assert fill_in is not None, "the contract has seen to it"
    if params.truncate_prompt_tokens is not None:
        raise InvalidRequest(
            "truncate_prompt_tokens must be left out with suffix, because it would cut off the marks of the"
            " fill-in-the-middle template",
            "truncate_prompt_tokens",
        )

    def read() -> list[PromptText]:
        for text in texts:
            _check_length(text + suffix, params, model)
        return [PromptText(fill_in.ids(tokenizer.unparsed(), text, suffix)) for text in texts]

    return await asyncio.get_running_loop().run_in_executor(tokenizer.threads, read)


def _filled_in(texts: list[str], suffix: str | None, model: ModelSettings) -> list[str]:
    if not suffix or not model.suffix_template:
        return texts
    before, between, after = re.split(r"\{prefix\}|\{suffix\}", model.suffix_template)
    if model.suffix_template.index("{prefix}") < model.suffix_template.index("{suffix}"):
        return [before + text + between + suffix + after for text in texts]
    return [before + suffix + between + text + after for text in texts]


async def _encode(texts: list[str], params: GenerationParams, model: ServedModel) -> list[PromptText]:
    """Tokenize texts, in threads if it takes long. A few threads serve all requests, a part at a time."""
    # Otherwise an encoder may have to be made
    if sum(map(len, texts)) <= LONG_CHARS and params.parse_special:
        return _tokenized(texts, params, model)
    loop, encoded = asyncio.get_running_loop(), list[PromptText]()
    for group in _groups(texts):
        encoded += await loop.run_in_executor(model.tokenizer.threads, _tokenized, group, params, model)
    return encoded


def _groups(texts: list[str]) -> Iterator[list[str]]:
    """Groups of consecutive texts, up to LONG_CHARS together; a longer text is alone."""
    group, size = list[str](), 0
    for text in texts:
        if group and size + len(text) > LONG_CHARS:
            yield group
            group, size = [], 0
        group.append(text)
        size += len(text)
    yield group


def _tokenized(texts: list[str], params: GenerationParams, model: ServedModel) -> list[PromptText]:
    """Tokenize texts. If a text is too long, only as much as shows it; if it is truncated, only the
    part that stays."""
    tokenizer, room = model.tokenizer, model.context_size - params.max_tokens
    keep = _keep(params, model.context_size)
    if keep is None or keep > room:
        for text in texts:
            _check_length(text, params, model)
        parts = texts
    else:
        parts = [part(tokenizer, text, keep, params.truncation_side) for text in texts]
    how = Reading(
        keep,
        params.truncation_side,
        params.add_special_tokens,
        params.parse_special,
        model.settings.single_bos,
        with_starts=params.echo and params.num_logprobs is not None,
    )
    encoded = tokenizer.encode_all(parts, how)
    _note_two(encoded, model)
    return [_prompt(*each, tokenizer) for each in zip(texts, parts, encoded, strict=True)]


def _check_length(text: str, params: GenerationParams, model: ServedModel) -> None:
    room = model.context_size - params.max_tokens
    if (count := tokens_at_least(model.tokenizer, text, room)) is not None:
        raise _too_long(count, params, model.context_size, more="at least ")


def _note_two(encoded: list[Encoded], model: ServedModel) -> None:
    """Log once per model that a second BOS was left out."""
    said = model.tokenizer.said
    if BOS_TWICE not in said and any(one.had_two for one in encoded):
        said.add(BOS_TWICE)
        log.info(
            "model %s: prompts that begin with the BOS token do not get a second one (single_bos)",
            model.id,
        )


def _prompt(text: str, read: str, encoded: Encoded, tokenizer: Tokenizer) -> PromptText:
    if not encoded.ids:
        return PromptText(_bos(tokenizer), text, [0])
    if encoded.is_whole and len(read) == len(text):
        return PromptText(encoded.ids, text, encoded.starts)
    return PromptText(encoded.ids)


def _keep(params: GenerationParams, context_size: int) -> int | None:
    """The largest number of tokens of a prompt that stay; None: all."""
    if params.truncate_prompt_tokens == -1:
        return max(1, context_size - params.max_tokens)
    return params.truncate_prompt_tokens


def _sliced(ids: list[int], keep: int | None, params: GenerationParams) -> list[int]:
    if keep is None:
        return ids
    return ids[:keep] if params.truncation_side == "right" else ids[-keep:]


def _bos(tokenizer: Tokenizer) -> list[int]:
    if tokenizer.bos_id is None:
        raise InvalidRequest(
            'prompt (current value: "") must not be empty: this model has no token for a text\'s beginning',
            "prompt",
        )
    return [tokenizer.bos_id]


def _check_ids(ids: list[int], vocab_size: int) -> None:
    """An id beyond the embedding kills an engine. A tokenizer may have ids that its model lacks."""
    if (largest := max(ids)) >= vocab_size:
        place = ids.index(largest)
        raise InvalidRequest(
            f"prompt (token id {largest} at position {place}) must be between 0 and {vocab_size - 1}",
            "prompt",
        )


def _too_long(count: int, params: GenerationParams, context_size: int, *, more: str = "") -> InvalidRequest:
    return InvalidRequest(
        f"This model's maximum context length is {context_size} tokens, however you requested "
        f"{more}{count + params.max_tokens} tokens ({more}{count} in your prompt; {params.max_tokens} for "
        "the completion). Please reduce your prompt or max_tokens.",
        "prompt" if count > context_size else "max_tokens",
    )
