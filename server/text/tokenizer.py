"""A model's tokenizer: prompts to ids, ids to bytes and names, and which ids are special.

A token is bytes, and text is what they decode to. So it does not matter where a tokenizer cuts: concatenating
the tokens of a completion gives its text.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import compress
from operator import not_
from pathlib import Path

import tokenizers

from server.errors import ConfigurationError
from server.text.encoder import FastEncoder
from server.text.encoding import PLAIN, Encoded, Reading, encoded, places_in, places_of
from server.text.files import read_files
from server.text.fill_in import FillIn, find, without_control
from server.text.grammars import Grammars
from server.text.tables import byte_level, sentencepiece, text_of, token_names

MAX_THREADS = min(8, os.cpu_count() or 1)
NO_SPACE = {"prepend_scheme": "never"}


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A model's tokenizer, as tables.

    table: bytes of every token id; empty for ids that only pad the vocabulary. texts: the same as text, None
    if a token is not whole characters. names: unique name of every token in logprobs: its text, or
    bytes:\\xNN… if it is not whole UTF-8 by itself or another token has the same text. special: ids that
    skip_special_tokens leaves out of the text. special_ids: name -> id of the special tokens of the model.
    eos_ids: ids that end a completion. strips_space: whether decoding drops one leading space
    (SentencePiece's dummy prefix). grammars: for structured outputs. fill_in: how the model fills in between
    two texts. fast: reads most texts instead of the encoder. unparsed: an encoder that reads names of
    special tokens as text, made when first needed. said: what was logged already, to log it once. threads:
    tokenize long texts of all requests.
    """

    encoder: tokenizers.Tokenizer
    table: tuple[bytes, ...]
    texts: tuple[str | None, ...]
    names: tuple[str, ...]
    special: frozenset[int]
    special_ids: Mapping[str, int]
    bos_id: int | None
    eos_ids: tuple[int, ...]
    strips_space: bool
    grammars: Grammars
    fill_in: FillIn | None
    fast: FastEncoder
    unparsed: Callable[[], tokenizers.Tokenizer]
    said: set[str] = field(default_factory=set)
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(MAX_THREADS, "tokenizer"))

    def encode(self, text: str) -> list[int]:
        """The ids of a prompt, with the tokens of the model's own post-processor, such as a BOS."""
        return self.encoder.encode(text).ids

    def ids_of(self, text: str) -> list[int]:
        """The ids of a text in the middle of another."""
        return _ids_of(self.encoder, text)

    def encode_all(self, texts: list[str], how: Reading = PLAIN) -> list[Encoded]:
        """The prompts of a request."""
        read = [self.read_fast(text, how) for text in texts]
        unread = [text for text, one in zip(texts, read, strict=True) if one is None]
        rest = iter(self.read_with_library(unread, how))
        return [next(rest) if one is None else one for one in read]

    def read_fast(self, text: str, how: Reading) -> Encoded | None:
        """A prompt, by the fast encoder. None: the library has to read it."""
        encoding = self.fast.encode(text, how.adds_special) if how.parses_special else None
        if encoding is None:
            return None
        if not how.with_starts:
            return encoded(encoding, None, how, self.bos_id)
        mask = encoding.special_tokens_mask
        parts = self.prompt_bytes(list(compress(encoding.ids, map(not_, mask))), skip_special=False)
        if b"" in parts:
            return None  # a space that stands only in front: the library says where
        if any(mask):
            own = iter(parts)
            parts = [b"" if added else next(own) for added in mask]
        places = places_in(text, parts)
        return encoded(encoding, places, how, self.bos_id) if places else None

    def read_with_library(self, texts: list[str], how: Reading) -> list[Encoded]:
        """The same as encode_all."""
        if not texts:
            return []
        encoder = self.encoder if how.parses_special else self.unparsed()
        encode = encoder.encode_batch if how.with_starts else encoder.encode_batch_fast
        return [
            encoded(one, places_of(one) if how.with_starts else None, how, self.bos_id)
            for one in encode(texts, add_special_tokens=how.adds_special)
        ]

    def prompt_bytes(self, ids: Sequence[int], *, skip_special: bool) -> list[bytes]:
        """The bytes that each id of a prompt adds to its text."""
        if skip_special:
            parts = [b"" if i in self.special else self.table[i] for i in ids]
        else:
            parts = list(map(self.table.__getitem__, ids))
        if self.strips_space:
            first = next((k for k, part in enumerate(parts) if part), None)
            if first is not None and parts[first].startswith(b" "):
                parts[first] = self.encoder.decode([ids[first]], skip_special_tokens=False).encode()
        return parts


def load_tokenizer(directory: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer of a model directory, padded to the model's vocabulary.

    Raises ConfigurationError for files that cannot be read, for a tokenizer whose decoder this server does
    not support, and for one that puts ids around a prompt which the model does not have.
    """
    files = read_files(directory, vocab_size)
    encoder = files.encoder
    if strange := [i for i in encoder.encode("").ids if i >= vocab_size]:
        raise ConfigurationError(
            f"{directory / 'tokenizer.json'} puts the token id {strange[0]} around every prompt, but the"
            f" model has only {vocab_size} tokens; its post_processor belongs to another model"
        )
    _keep_spans_whole(encoder)
    decoder = json.loads(encoder.to_str())["decoder"] or {}
    parts = {part.get("type"): part for part in [decoder, *decoder.get("decoders", [])]}
    vocab, added = encoder.get_vocab(with_added_tokens=True), encoder.get_added_tokens_decoder()
    content = _content(encoder, parts)
    if not content:
        raise _unknown_decoder(directory, f"has a decoder of type {decoder.get('type')}")
    table = tuple(content.get(i, b"") for i in range(max(vocab_size, max(vocab.values()) + 1)))
    # Special ids are found by what the library leaves out: it treats more tokens as special than it lists.
    special = frozenset(i for i in added if encoder.decode([i]) != encoder.decode([i], False))
    bos_id, eos_ids = files.bos_id, files.eos_ids
    tokenizer = Tokenizer(
        encoder=encoder,
        table=table,
        texts=tuple(map(text_of, table)),
        names=token_names(table, vocab),
        special=special,
        special_ids={added[i].content: i for i in special if i < vocab_size},
        bos_id=bos_id,
        eos_ids=eos_ids,
        grammars=Grammars(table[:vocab_size], special, bos_id, eos_ids, partial(_ids_of, encoder)),
        strips_space="Strip" in parts or parts.get("Metaspace", NO_SPACE)["prepend_scheme"] != "never",
        fill_in=find(encoder, vocab_size),
        fast=FastEncoder(encoder, table, directory / "tokenizer.json"),
        unparsed=cache(partial(without_control, encoder)),
    )
    texts = [i for i in range(len(table)) if tokenizer.texts[i]]
    if b"".join(tokenizer.prompt_bytes(texts, skip_special=False)).decode() != encoder.decode(texts, False):
        raise _unknown_decoder(directory, "has a decoder with steps that this server does not implement")
    return tokenizer


def _ids_of(encoder: tokenizers.Tokenizer, text: str) -> list[int]:
    return encoder.encode(text, add_special_tokens=False).ids


def _content(encoder: tokenizers.Tokenizer, parts: Collection[str]) -> dict[int, bytes]:
    """The bytes of each token by id; empty if no part of the decoder is known. parts: their types."""
    vocab = {i: token for token, i in encoder.get_vocab(with_added_tokens=True).items()}
    # As the library writes them, which may differ from what it searches for.
    added = {i: str(encoder.id_to_token(i)) for i in encoder.get_added_tokens_decoder()}
    if "ByteLevel" in parts:
        return {i: added[i].encode() if i in added else byte_level(token) for i, token in vocab.items()}
    if "ByteFallback" in parts or "Metaspace" in parts:
        return {i: sentencepiece(token) for i, token in (vocab | added).items()}
    return {}


def _unknown_decoder(directory: Path, problem: str) -> ConfigurationError:
    return ConfigurationError(
        f"{directory / 'tokenizer.json'} {problem}; supported are ByteLevel, ByteFallback and Metaspace"
    )


def _keep_spans_whole(encoder: tokenizers.Tokenizer) -> None:
    """Some post-processors exclude the space at a token's start from its span, although the
    token contains it."""
    if encoder.post_processor is not None:
        state = encoder.post_processor.__getstate__().replace(b'"trim_offsets":true', b'"trim_offsets":false')
        processor = encoder.post_processor
        processor.__setstate__(state)
        encoder.post_processor = processor
