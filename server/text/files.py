"""A model directory's tokenizer from all its files, put together as transformers does, with the ids that
begin and end a text."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from server.errors import ConfigurationError
from server.weights.architecture import read_json

log = logging.getLogger(__name__)

ENDS = ("bos_token", "eos_token")
NAMED = (*ENDS, "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
EXTRA = "additional_special_tokens"
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """encoder: the tokenizer. bos_id: the token for a text's beginning. eos_ids: ids that end a completion.
    The model has all these ids."""

    encoder: Tokenizer
    bos_id: int | None
    eos_ids: tuple[int, ...]


def read_files(directory: Path, vocab_size: int) -> TokenizerFiles:
    """Read the files of a model directory. vocab_size: the model's; the tokenizer's may be larger.

    Raises ConfigurationError for files that cannot be read, and for a bos_token or eos_token that none of
    them has.
    """
    try:
        encoder = Tokenizer.from_file(str(directory / "tokenizer.json"))
    except Exception as error:  # noqa: BLE001  # the library raises no narrower class
        raise ConfigurationError(f"{directory / 'tokenizer.json'} cannot be read: {error}") from None
    encoder.no_padding()
    encoder.no_truncation()
    try:
        tokens = _add_tokens(encoder, directory, vocab_size)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{directory}: the tokenizer's files list its tokens in an unknown format: {error!r}"
        ) from error
    return TokenizerFiles(
        encoder=encoder,
        bos_id=next(iter(_ids("bos_token", tokens, directory, vocab_size)), None),
        eos_ids=_ids("eos_token", tokens, directory, vocab_size),
    )


def _add_tokens(encoder: Tokenizer, directory: Path, vocab_size: int) -> dict[str, int]:
    """Add the tokens of the other files, as transformers' TokenizersBackend does.

    A token keeps its id, and a new one gets the next id. Returns the ids of bos_token and eos_token.
    """
    config = _read_json(directory / "tokenizer_config.json")
    if "added_tokens_decoder" in config:
        listed = {int(i): _token(fields) for i, fields in config["added_tokens_decoder"].items()}
    else:  # older files
        more = _read_json(directory / "special_tokens_map.json")
        extra = config.get(EXTRA) or more.pop(EXTRA, None)
        config |= more
        special = {token.content for _, token in _special_tokens(config)}
        added = _read_json(directory / "added_tokens.json").items()
        listed = {i: AddedToken(t, special=t in special, normalized=t not in special) for t, i in added}
        config[EXTRA] = extra
    found = list(_special_tokens(config))
    for token in listed.values():
        token.special |= any(name and token.content == other.content for name, other in found)
    encoder.add_tokens([listed[i] for i in sorted(listed)])
    _warn_of_other_ids(encoder, listed, directory)
    for name, token in found:
        _add_named(encoder, name, token, directory, vocab_size)
    encoder.encode_special_tokens = config.get("split_special_tokens") is True
    ids = {name: encoder.token_to_id(token.content) for name, token in found if name in ENDS}
    return {name: token_id for name, token_id in ids.items() if token_id is not None}


def _add_named(encoder: Tokenizer, name: str, token: AddedToken, directory: Path, vocab_size: int) -> None:
    """Add a special token that is not one yet. A token that the model was never taught stays text."""
    is_there = encoder.token_to_id(token.content) is not None
    if name in ENDS and not is_there:
        raise ConfigurationError(
            f"{directory}: {name} is {token.content!r}, but the tokenizer has no such token; correct"
            " tokenizer_config.json or special_tokens_map.json, or add the missing file"
        )
    known = {other.content for other in encoder.get_added_tokens_decoder().values()}
    if token.content not in known and (is_there or _next_id(encoder) < vocab_size):
        encoder.add_special_tokens([token])


def _special_tokens(config: dict[str, Any]) -> Iterator[tuple[str, AddedToken]]:
    """The special tokens of a configuration with their names in it; those of a list have none."""
    named = {name: config[name] for name in NAMED if name in config}
    named |= {name: token for name, token in config.items() if name.endswith("_token") and name not in NAMED}
    unnamed: list[Any] = []
    for listed in (config.get("extra_special_tokens") or [], config.get(EXTRA) or []):
        if isinstance(listed, dict):
            named |= listed
        else:
            unnamed += listed
    for name, token in [*named.items(), *(("", token) for token in unnamed)]:
        fields = token if isinstance(token, dict) else {"content": token}
        if isinstance(fields.get("content"), str) and fields["content"]:
            yield name, _token({**fields, "special": True})


def _token(fields: dict[str, Any]) -> AddedToken:
    """A token as a file describes it."""
    return AddedToken(fields["content"], **{name: fields[name] for name in FLAGS if name in fields})


def _warn_of_other_ids(encoder: Tokenizer, listed: dict[int, AddedToken], directory: Path) -> None:
    for i, token in listed.items():
        if (given := encoder.token_to_id(token.content)) != i:
            log.warning(
                "%s: the token %r has the id %s, not %d as a file says", directory, token.content, given, i
            )


def _next_id(encoder: Tokenizer) -> int:
    """The id of the next new token."""
    last = max(encoder.get_added_tokens_decoder(), default=-1)
    return max(last + 1, encoder.get_vocab_size(with_added_tokens=False))


def _ids(name: str, tokens: dict[str, int], directory: Path, vocab_size: int) -> tuple[int, ...]:
    """Every id that one of the files gives this name, the tokenizer's first, as vLLM does.

    Only ids that the model has: any other id crashes an engine that looks for its logit.
    """
    found: list[int] = []
    named = {"tokenizer_config.json": tokens.get(name)}
    for file in ("generation_config.json", "config.json"):
        named[file] = _read_json(directory / file).get(f"{name}_id")
    for file, ids in named.items():
        for token_id in ids if isinstance(ids, list) else [ids]:
            if type(token_id) is int and 0 <= token_id < vocab_size:
                found.append(token_id)
            elif token_id is not None:
                log.warning(
                    "%s: %s is %r, which is not an id of the model's %d tokens; it is ignored",
                    directory / file,
                    name,
                    token_id,
                    vocab_size,
                )
    return tuple(dict.fromkeys(found))


def _read_json(path: Path) -> dict[str, Any]:
    """Empty if there is no such file, which is optional."""
    return read_json(path) if os.path.lexists(path) else {}
