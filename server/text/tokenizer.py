"""A model's tokenizer: prompts to ids, ids to bytes and names, and which ids are special.

A token is bytes, text is what they decode to. So it does not matter where a tokenizer cuts, and concatenating
the tokens of a completion gives its text.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import tokenizers

from server.errors import ConfigurationError
from server.text.encoding import PLAIN, Encoded, Reading, encoded
from server.text.files import read_files
from server.text.fill_in import FillIn, find, without_control
from server.text.grammars import Grammars
from server.text.tables import byte_level, sentencepiece, text_of, token_names

MAX_THREADS = min(8, os.cpu_count() or 1)
NO_SPACE = {"prepend_scheme": "never"}


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A model's tokenizer as the two tables a server needs.

    table: bytes of every token id; empty for ids of a vocabulary padded beyond the tokenizer. texts: the same
    as text, None where a token is not whole characters. names: every token as logprobs show it: its text, or
    bytes:\\xNN… where it is not whole UTF-8 by itself or another token has the same text; unique. special:
    ids that skip_special_tokens leaves out of the text. special_ids: of those that the model has, by what
    they are written as. eos_ids: ids that end a completion. strips_space: whether decoding drops one leading
    space (SentencePiece's dummy prefix). grammars: those that a text may have to follow. fill_in: how
    the model fills in between two texts. unparsed: an encoder to which special tokens' names are text, made
    when it is first asked for. said: what the log has been told once. threads: where long texts are
    tokenized, for all requests.
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
    unparsed: Callable[[], tokenizers.Tokenizer]
    said: set[str] = field(default_factory=set)
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(MAX_THREADS, "tokenizer"))

    def encode(self, text: str) -> list[int]:
        """The ids of a prompt, with the tokens that the model's own post-processor adds (a BOS, say)."""
        return self.encoder.encode(text).ids

    def ids_of(self, text: str) -> list[int]:
        """The ids of a text that stands inside of another."""
        return _ids_of(self.encoder, text)

    def encode_all(self, texts: list[str], how: Reading = PLAIN) -> list[Encoded]:
        """The prompts of a request."""
        encoder = self.encoder if how.parses_special else self.unparsed()
        encode = encoder.encode_batch if how.with_starts else encoder.encode_batch_fast
        found = encode(texts, add_special_tokens=how.adds_special)
        return [encoded(encoding, how, self.bos_id) for encoding in found]

    def prompt_bytes(self, ids: Sequence[int], *, skip_special: bool) -> list[bytes]:
        """What each id of a prompt contributes to its text."""
        parts = [b"" if skip_special and i in self.special else self.table[i] for i in ids]
        if self.strips_space:
            first = next((k for k, part in enumerate(parts) if part), None)
            if first is not None and parts[first].startswith(b" "):
                parts[first] = self.encoder.decode([ids[first]], skip_special_tokens=False).encode()
        return parts


def load_tokenizer(directory: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer of a model directory, padded to the model's vocabulary.

    Raises ConfigurationError for files that cannot be read, a tokenizer that decodes in a way this server
    does not know, and one that puts tokens around a prompt which the model does not have.
    """
    files = read_files(directory, vocab_size)
    encoder = files.encoder
    if strange := [i for i in encoder.encode("").ids if i >= vocab_size]:
        raise ConfigurationError(
            f"{directory / 'tokenizer.json'} puts the token id {strange[0]} around every prompt, but the"
            f" model has {vocab_size} tokens; its post_processor belongs to another model"
        )
    _keep_spans_whole(encoder)
    decoder = json.loads(encoder.to_str())["decoder"] or {}
    parts = {part.get("type"): part for part in [decoder, *decoder.get("decoders", [])]}
    vocab, added = encoder.get_vocab(with_added_tokens=True), encoder.get_added_tokens_decoder()
    content = _content(encoder, parts)
    if not content:
        raise _unknown_decoder(directory, f"has a decoder of type {decoder.get('type')}")
    table = tuple(content.get(i, b"") for i in range(max(vocab_size, max(vocab.values()) + 1)))
    # By what the library leaves out: it remembers more tokens as special than it says.
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
        unparsed=cache(partial(without_control, encoder)),
    )
    texts = [i for i in range(len(table)) if tokenizer.texts[i]]
    if b"".join(tokenizer.prompt_bytes(texts, skip_special=False)).decode() != encoder.decode(texts, False):
        raise _unknown_decoder(directory, "has a decoder that does more than this server does")
    return tokenizer


def _ids_of(encoder: tokenizers.Tokenizer, text: str) -> list[int]:
    return encoder.encode(text, add_special_tokens=False).ids


def _content(encoder: tokenizers.Tokenizer, parts: Collection[str]) -> dict[int, bytes]:
    """Each token's bytes by its id; none where no part of the decoder is known. parts: their types."""
    vocab = {i: token for token, i in encoder.get_vocab(with_added_tokens=True).items()}
    # As the library writes them, which is not always what it looks for.
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
    """Some post-processors take the space at a token's start out of its span, though the token has it."""
    if encoder.post_processor is not None:
        state = encoder.post_processor.__getstate__().replace(b'"trim_offsets":true', b'"trim_offsets":false')
        processor = encoder.post_processor
        processor.__setstate__(state)
        encoder.post_processor = processor
