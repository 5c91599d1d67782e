"""A model's tokenizer: prompts to ids, ids to bytes and names, and which ids are special.

A token is bytes, text is what they decode to. So it does not matter where a tokenizer cuts, and concatenating
the tokens of a completion gives its text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import tokenizers

from server.errors import ConfigurationError

BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")
NO_SPACE = {"prepend_scheme": "never"}


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A model's tokenizer as the two tables a server needs.

    table: bytes of every token id; empty for ids of a vocabulary padded beyond the tokenizer. texts: the same
    as text, None where a token is not whole characters. names: every
    token as logprobs show it: its text, or bytes:\\xNN… where it is not whole UTF-8 by itself or another
    token has the same text; unique. special: ids that skip_special_tokens leaves out of the text. eos_ids:
    ids that end a completion. strips_space: whether decoding drops one leading space (SentencePiece's dummy
    prefix).
    """

    encoder: tokenizers.Tokenizer
    table: tuple[bytes, ...]
    texts: tuple[str | None, ...]
    names: tuple[str, ...]
    special: frozenset[int]
    bos_id: int | None
    eos_ids: tuple[int, ...]
    strips_space: bool

    def encode(self, text: str) -> list[int]:
        """The ids of a prompt, with the tokens that the model's own post-processor adds (a BOS, say)."""
        return self.encoder.encode(text).ids

    def encode_many(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.encoder.encode_batch_fast(texts)]

    def prompt_bytes(self, ids: Iterable[int], *, skip_special: bool) -> list[bytes]:
        """What each id of a prompt contributes to its text."""
        parts = [b"" if skip_special and i in self.special else self.table[i] for i in ids]
        if self.strips_space:
            first = next((k for k, part in enumerate(parts) if part), None)
            if first is not None and parts[first].startswith(b" "):
                parts[first] = parts[first][1:]
        return parts


def load_tokenizer(directory: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer of a model directory, padded to the model's vocabulary.

    Raises ConfigurationError where tokenizer.json is missing or decodes in a way this server does not know.
    """
    try:
        encoder = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    except Exception as error:  # noqa: BLE001  # the library raises nothing finer
        raise ConfigurationError(f"{directory / 'tokenizer.json'} cannot be read: {error}") from None
    encoder.no_padding()
    encoder.no_truncation()
    decoder = json.loads(encoder.to_str())["decoder"] or {}
    parts = {part.get("type"): part for part in [decoder, *decoder.get("decoders", [])]}
    added = encoder.get_added_tokens_decoder()
    vocab = encoder.get_vocab(with_added_tokens=True)
    if "ByteLevel" in parts:
        content = {i: token.encode() if i in added else _byte_level(token) for token, i in vocab.items()}
    elif parts.keys() & {"ByteFallback", "Metaspace"}:
        content = {i: _sentencepiece(token) for token, i in vocab.items()}
    else:
        raise ConfigurationError(
            f"{directory / 'tokenizer.json'} has a decoder of type {decoder.get('type')}; supported are "
            "ByteLevel, ByteFallback and Metaspace"
        )
    table = tuple(content.get(i, b"") for i in range(max(vocab_size, max(vocab.values()) + 1)))
    names = _special_names(directory)
    return Tokenizer(
        encoder=encoder,
        table=table,
        texts=tuple(map(_text, table)),
        names=_names(table, {i for token, i in vocab.items() if BYTE_TOKEN.fullmatch(token)}),
        special=frozenset(i for i, token in added.items() if token.special),
        bos_id=_bos_id(names, encoder, directory),
        eos_ids=_eos_ids(names, encoder, directory),
        strips_space="Strip" in parts or parts.get("Metaspace", NO_SPACE)["prepend_scheme"] != "never",
    )


def _byte_level(token: str) -> bytes:
    table = _byte_of_char()
    return b"".join(bytes([table[char]]) if char in table else char.encode() for char in token)


@lru_cache(maxsize=1)
def _byte_of_char() -> dict[str, int]:
    """GPT-2's table: bytes that print stand for themselves, the others for U+0100 and so on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + k): b for k, b in enumerate(others)}


def _sentencepiece(token: str) -> bytes:
    if match := BYTE_TOKEN.fullmatch(token):
        return bytes.fromhex(match[1])
    return token.replace("\u2581", " ").encode()


def _text(token: bytes) -> str | None:
    try:
        return token.decode()
    except UnicodeDecodeError:
        return None


def _names(table: Sequence[bytes], byte_ids: set[int]) -> tuple[str, ...]:
    """A name for each token that no other has.

    SentencePiece has a token for the byte 0x41 beside the one for "A", which keeps the plain name. A token
    without bytes, or with the bytes of several others, is known by its id alone.
    """
    names = [""] * len(table)
    seen: set[str] = set()
    for token_id in sorted(range(len(table)), key=byte_ids.__contains__):
        token = table[token_id]
        name = _text(token)
        if not name or name in seen:
            name = "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)
        if not token or name in seen:
            name = f"token_id:{token_id}"
        seen.add(name)
        names[token_id] = name
    return tuple(names)


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


def _bos_id(names: dict[str, str], encoder: tokenizers.Tokenizer, directory: Path) -> int | None:
    if "bos_token" in names and (token_id := encoder.token_to_id(names["bos_token"])) is not None:
        return token_id
    bos = _read_json(directory / "config.json").get("bos_token_id")
    return bos if isinstance(bos, int) else None


def _eos_ids(names: dict[str, str], encoder: tokenizers.Tokenizer, directory: Path) -> tuple[int, ...]:
    """Every id that any of the model's files calls an end of sequence, as vLLM does."""
    found: list[int | None] = []
    if "eos_token" in names:
        found.append(encoder.token_to_id(names["eos_token"]))
    for file in ("generation_config.json", "config.json"):
        eos = _read_json(directory / file).get("eos_token_id")
        found += eos if isinstance(eos, list) else [eos]
    return tuple(dict.fromkeys(i for i in found if isinstance(i, int)))
