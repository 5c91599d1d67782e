"""(request, model) -> GenerationParams: the only place where defaults are resolved.

Precedence: request > model (models.yaml) > contract. A value is never None here if a neutral value exists,
and nobody checks it again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

import msgspec

from server.config.model import ModelSettings
from server.contract import values
from server.contract.request import CompletionRequest, shown
from server.contract.structured import grammar_of
from server.contract.unsupported import refuse_unsupported
from server.errors import InvalidRequest
from server.text.encoding import Side

log = logging.getLogger(__name__)
T = TypeVar("T")
IdsOf = Callable[[str], Sequence[int]]


# Made for each request; with so many fields it takes a fifth of a dataclass's time to make
class GenerationParams(msgspec.Struct, frozen=True, gc=False):
    """The parameters that all candidates of a request share. Neutral values: penalties 0 and 1, top_p 1,
    top_k 0, min_p 0."""

    max_tokens: int = 16
    min_tokens: int = 0
    n: int = 1
    best_of: int = 1
    give_up: bool = True  # end candidates that cannot be among the n best any more
    pause: bool = False  # let the worse half wait until more is known of the better one
    seed: int | None = None  # None: a new one for each request
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}  # msgspec copies it for each object
    allowed_token_ids: tuple[int, ...] = ()  # empty: all are allowed
    bad_words: tuple[tuple[int, ...], ...] = ()  # as token ids
    grammar: str | None = None  # in the notation of text/grammars.py; None: any text
    logprob_token_ids: tuple[int, ...] = ()  # empty: the most likely tokens are returned
    num_logprobs: int | None = None  # None: not asked for; 0: only the sampled token's
    echo: bool = False
    stop: tuple[str, ...] = ()
    include_stop: bool = True
    stop_token_ids: tuple[int, ...] = ()
    silent_ends: frozenset[int] = frozenset()  # those of stop_ids whose text is never returned
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    return_token_ids: bool = False
    return_candidates: bool = False  # only where some are not choices
    cache_salt: str | None = None  # only requests with the same salt share cached prompts
    truncate_prompt_tokens: int | None = None  # -1: to what fits
    truncation_side: Side = "left"
    add_special_tokens: bool = True
    parse_special: bool = True


@dataclass(frozen=True, slots=True)
class StreamParams:
    """How the reply is sent. include_usage None: the usage is on the last chunk that has a choice. interval:
    tokens of a choice in each chunk."""

    stream: bool = False
    include_usage: bool | None = None
    continuous_usage: bool = False
    interval: int = 1


def resolve(
    request: CompletionRequest,
    model: ModelSettings,
    vocab_size: int,
    eos_ids: Collection[int] = (),
    special_ids: Mapping[str, int] = MappingProxyType({}),
    ids_of: IdsOf = lambda text: (),
    fill_in_ends: Collection[int] | None = None,
) -> GenerationParams:
    """The parameters of a request to a model. Raises InvalidRequest for values that only the model can judge.

    eos_ids: the model's end tokens. special_ids: name -> id of the special tokens; a stop sequence that is
    such a name stops at the id, because the token may have no text. ids_of: the token ids of a text in the
    middle of another. fill_in_ends: ids that end a fill-in before a suffix; None: the tokenizer has none.
    """
    if request.model_extra and (unknown := refuse_unsupported(request.model_extra)):
        _unknown_fields(unknown, strict=model.strict_fields)
    defaults, limits = model.defaults, model.limits
    n = values.bounded("n", _first(request.n, 1), limits.n)
    best_of = n if request.best_of is None else values.bounded("best_of", request.best_of, limits.best_of)
    if best_of < n:
        raise InvalidRequest(
            f"best_of (current value: {best_of}) must be between n ({n}) and {limits.best_of}", "best_of"
        )
    if best_of > n and request.stream:
        raise InvalidRequest(
            f"best_of (current value: {best_of}) must be n ({n}) in a stream, because ranking needs all"
            " candidates to be complete",
            "best_of",
        )
    max_tokens = _first(request.max_tokens, defaults.max_tokens)
    min_tokens = _first(request.min_tokens, 0)
    if min_tokens > max_tokens:
        raise InvalidRequest(
            f"min_tokens (current value: {min_tokens}) must be between 0 and max_tokens ({max_tokens})",
            "min_tokens",
        )
    fills_in = bool(request.suffix) and model.suffix_template is None and fill_in_ends is not None
    silent_ends = frozenset(fill_in_ends or ()) if fills_in else frozenset[int]()
    if request.suffix and not (model.suffix_template or fills_in):
        raise InvalidRequest(
            f"suffix (current value: {shown(request.suffix)}) must be empty: model {model.id} has no "
            "fill-in-the-middle template",
            "suffix",
        )
    stops = values.stops(request.stop, limits.stop)
    stop_ids = [special_ids[stop] for stop in stops if stop in special_ids]
    own_ends = () if request.ignore_eos else eos_ids
    stop_token_ids = values.stop_token_ids(
        [*(request.stop_token_ids or []), *stop_ids, *sorted(silent_ends)],
        vocab_size,
        limit=values.MAX_HELD_BACK - len(own_ends) if min_tokens else None,
    )
    held_back = {*stop_token_ids, *own_ends} if min_tokens else set()
    return GenerationParams(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        n=n,
        best_of=best_of,
        give_up=model.best_of.give_up,
        pause=model.best_of.pause,
        seed=request.seed,
        temperature=_first(request.temperature, defaults.temperature),
        top_p=_first(request.top_p, defaults.top_p),
        top_k=max(0, _first(request.top_k, defaults.top_k)),
        min_p=_first(request.min_p, defaults.min_p),
        frequency_penalty=_first(request.frequency_penalty, defaults.frequency_penalty),
        presence_penalty=_first(request.presence_penalty, defaults.presence_penalty),
        repetition_penalty=_first(request.repetition_penalty, defaults.repetition_penalty),
        logit_bias=values.logit_bias(request.logit_bias or {}, vocab_size),
        allowed_token_ids=values.allowed_token_ids(request.allowed_token_ids, vocab_size, held_back),
        bad_words=values.bad_words(request.bad_words or [], vocab_size, ids_of),
        grammar=grammar_of(request),
        logprob_token_ids=values.logprob_token_ids(
            request.logprob_token_ids, vocab_size, logprobs=request.logprobs, echo=bool(request.echo)
        ),
        num_logprobs=request.logprobs,
        echo=bool(request.echo),
        stop=stops,
        include_stop=_first(request.include_stop_str_in_output, model.include_stop_text),
        stop_token_ids=stop_token_ids,
        silent_ends=silent_ends,
        ignore_eos=bool(request.ignore_eos),
        skip_special_tokens=_first(request.skip_special_tokens, True),
        return_token_ids=bool(request.return_token_ids),
        return_candidates=bool(request.return_candidates) and best_of > n,
        cache_salt=request.cache_salt,
        truncate_prompt_tokens=values.truncation(request.truncate_prompt_tokens),
        truncation_side=_first(request.truncation_side, "left"),
        add_special_tokens=_first(request.add_special_tokens, True),
        parse_special=_first(request.parse_special, True),
    )


def resolve_stream(request: CompletionRequest, least_interval: int = 1) -> StreamParams:
    """How to send the reply. Raises InvalidRequest for stream_options without stream."""
    options = request.stream_options
    interval = max(least_interval, request.stream_interval or 1)
    if options is None:
        return StreamParams(stream=bool(request.stream), interval=interval)
    if not request.stream:
        raise InvalidRequest("stream_options must be null unless stream is true", "stream_options")
    return StreamParams(
        True, options.include_usage, bool(options.include_usage and options.continuous_usage_stats), interval
    )


def candidate_seed(seed: int, prompt_index: int, candidate_index: int) -> int:
    """The seed of one candidate: 62 bits of a hash, so that no two candidates share random numbers.

    seed + i would not do: the second candidate of seed 42 would be the first of seed 43.
    """
    text = f"{seed}/{prompt_index}/{candidate_index}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 2


def _first(given: T | None, default: T) -> T:
    return default if given is None else given


def _unknown_fields(names: list[str], *, strict: bool) -> None:
    if strict:
        raise InvalidRequest(
            f"{names[0]} is not a field of this endpoint, and strict_fields of this model refuses unknown"
            " fields",
            names[0],
        )
    log.debug("ignored unknown fields: %s", ", ".join(names))
