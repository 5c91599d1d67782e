"""Checks of values that only the model or its settings can judge. Each raises InvalidRequest."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

from server.contract.request import shown
from server.errors import InvalidRequest

# Ids that may end a candidate and may not come before min_tokens. vLLM has room for this many in each of its
# slots (LogitBiasState of its V2 runner), and one more would crash the engine. We do not use its tables for
# bias, allowed tokens and bad words: our bias has no fixed size.
MAX_HELD_BACK = 128
DECIMAL = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)
MAX_LOGPROB_IDS = 128  # vLLM has room for this many in each of its slots
# The first is vLLM's limit; the second limits a word's length, so that tokenizing the words takes no time.
MAX_BAD_WORDS, MAX_BAD_WORD_CHARS = 128, 256


def bounded(name: str, value: int, limit: int) -> int:
    if value > limit:
        raise InvalidRequest(f"{name} (current value: {value}) must be between 1 and {limit}", name)
    return value


def stops(stop: str | list[str] | None, limit: int) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if len(stops) > limit:
        raise InvalidRequest(
            f"stop (current value: {shown(stop)}) must have at most {limit} sequences", "stop"
        )
    if "" in stops:
        raise InvalidRequest(f"stop (current value: {shown(stop)}) must not contain an empty string", "stop")
    return tuple(stops)


def logit_bias(bias: dict[str, float], vocab_size: int) -> dict[int, float]:
    for key in bias:
        if not DECIMAL.fullmatch(key) or int(key) >= vocab_size:
            raise InvalidRequest(
                f"logit_bias (current key: {shown(key)}) must have token ids between 0 and {vocab_size - 1} "
                "as keys, written as decimal strings",
                "logit_bias",
            )
    return {int(key): value for key, value in bias.items()}


def stop_token_ids(ids: list[int], vocab_size: int, limit: int | None) -> tuple[int, ...]:
    for token_id in ids:
        if token_id >= vocab_size:
            raise InvalidRequest(
                f"stop_token_ids (current value: {token_id}) must be between 0 and {vocab_size - 1}",
                "stop_token_ids",
            )
    different = tuple(dict.fromkeys(ids))
    if limit is not None and len(different) > limit:
        raise InvalidRequest(
            f"stop_token_ids ({len(different)} different ids) must be at most {limit} ids with min_tokens:"
            f" an engine can hold back {MAX_HELD_BACK} ids, the model's own end tokens included",
            "stop_token_ids",
        )
    return different


def truncation(value: int | None) -> int | None:
    if value == 0:
        raise InvalidRequest(
            "truncate_prompt_tokens (current value: 0) must be 1 or more, or -1 for what fits",
            "truncate_prompt_tokens",
        )
    return value


def allowed_token_ids(ids: list[int] | None, vocab_size: int, held_back: Collection[int]) -> tuple[int, ...]:
    """Check allowed_token_ids. held_back: ids that may not come first."""
    if ids is None:
        return ()
    different = tuple(dict.fromkeys(ids))
    if outside := [i for i in different if i >= vocab_size]:
        raise InvalidRequest(
            f"allowed_token_ids (current value: {outside[0]}) must be between 0 and {vocab_size - 1}",
            "allowed_token_ids",
        )
    if set(different) <= set(held_back):
        raise InvalidRequest(
            f"allowed_token_ids (current value: {shown(ids)}) must have an id that does not end the text:"
            " with min_tokens, an end token may not come first",
            "allowed_token_ids",
        )
    return different


def logprob_token_ids(
    ids: list[int] | None, vocab_size: int, *, logprobs: int | None, echo: bool
) -> tuple[int, ...]:
    """Check logprob_token_ids. As in vLLM, they need logprobs and do not apply to prompt tokens."""
    different = tuple(dict.fromkeys(ids or ()))
    if not different:
        return ()
    name = "logprob_token_ids"
    if len(different) > MAX_LOGPROB_IDS:
        raise InvalidRequest(f"{name} ({len(different)} ids) must be at most {MAX_LOGPROB_IDS}", name)
    if max(different) >= vocab_size:
        raise InvalidRequest(
            f"{name} (current value: {max(different)}) must be between 0 and {vocab_size - 1}", name
        )
    if logprobs is None or echo:
        raise InvalidRequest(f"{name} must be left out without logprobs, and together with echo", name)
    return different


def bad_words(
    words: list[str], vocab_size: int, ids_of: Callable[[str], Sequence[int]]
) -> tuple[tuple[int, ...], ...]:
    """The words as token ids, as vLLM tokenizes them: at the beginning of a text, and after a space if that
    gives as many tokens."""
    if len(words) > MAX_BAD_WORDS:
        raise InvalidRequest(f"bad_words ({len(words)} words) must be at most {MAX_BAD_WORDS}", "bad_words")
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        if not word.strip() or len(word) > MAX_BAD_WORD_CHARS:
            raise InvalidRequest(
                f"bad_words (current value: {shown(word)}) must be words of 1 to {MAX_BAD_WORD_CHARS}"
                " characters",
                "bad_words",
            )
        plain, spaced = (tuple(ids_of(space + word.lstrip())) for space in ("", " "))
        found[plain] = None
        if len(spaced) == len(plain) and spaced[:1] != plain[:1]:
            found[spaced] = None
        if max((*plain, *spaced), default=vocab_size) >= vocab_size:
            raise InvalidRequest(
                f"bad_words (current value: {shown(word)}) must consist of tokens of the model", "bad_words"
            )
    return tuple(found)
