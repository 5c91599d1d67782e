"""What a model directory's files say of its tokenizer, and of the ids that begin and end a text."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from server.errors import ConfigurationError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """encoder: the tokenizer. bos_id: of the token for a text's beginning. eos_ids: ids that end a
    completion. Both are ids that the model has."""

    encoder: tokenizers.Tokenizer
    bos_id: int | None
    eos_ids: tuple[int, ...]


def read_files(directory: Path, vocab_size: int) -> TokenizerFiles:
    """The files of a model directory. vocab_size: the model's, which the tokenizer's may exceed.

    Raises ConfigurationError for files that cannot be read.
    """
    try:
        encoder = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    except Exception as error:  # noqa: BLE001  # the library raises nothing finer
        raise ConfigurationError(f"{directory / 'tokenizer.json'} cannot be read: {error}") from None
    encoder.no_padding()
    encoder.no_truncation()
    return TokenizerFiles(
        encoder=encoder,
        bos_id=next(iter(_ids("bos_token", encoder, directory, vocab_size)), None),
        eos_ids=_ids("eos_token", encoder, directory, vocab_size),
    )


def _ids(name: str, encoder: tokenizers.Tokenizer, directory: Path, vocab_size: int) -> tuple[int, ...]:
    """Every id that any of the files calls this, the tokenizer's first, as vLLM does.

    Only ids that the model has: any other kills an engine that looks for its logit.
    """
    found: list[int] = []
    token = _special_names(directory).get(name)
    named = {"tokenizer_config.json": None if token is None else encoder.token_to_id(token)}
    for file in ("generation_config.json", "config.json"):
        named[file] = _read_json(directory / file).get(f"{name}_id")
    for file, ids in named.items():
        for token_id in ids if isinstance(ids, list) else [ids]:
            if type(token_id) is int and 0 <= token_id < vocab_size:
                found.append(token_id)
            elif token_id is not None:
                log.warning(
                    "%s: %s is %r, which is no id of the model's %d tokens; it is left out",
                    directory / file,
                    name,
                    token_id,
                    vocab_size,
                )
    return tuple(dict.fromkeys(found))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ConfigurationError(f"{path} is not valid JSON: {error}") from None
    return content if isinstance(content, dict) else {}


def _special_names(directory: Path) -> dict[str, str]:
    """bos_token and eos_token of tokenizer_config.json, which writes each as a string or as an object."""
    config = _read_json(directory / "tokenizer_config.json")
    found = {}
    for name in ("bos_token", "eos_token"):
        token = config.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            found[name] = token
    return found
