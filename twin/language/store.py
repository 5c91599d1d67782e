"""Where language models are stored: the twin's own beside this file, others in the user's cache."""

from __future__ import annotations

import hashlib
import logging
import lzma
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers

from server.weights.builtin import cache_dir
from twin.language.model import Language
from twin.language.ngrams import Ngrams, count, load, save

log = logging.getLogger(__name__)

DATA = Path(__file__).parent / "data"  # made by scripts/language.py
TEXT, NGRAMS = "text.xz", "ngrams.npz"
END = "<|endoftext|>"
BETWEEN = "\0"  # separates paragraphs of the text


def own_language() -> Language:
    """The language model over the tokens of DATA."""
    return Language(load(DATA / NGRAMS))


def language_of(encoder: tokenizers.Tokenizer, vocab_size: int, end_id: int | None) -> Language:
    """The same text over the tokens of another model. end_id: the token that ends a paragraph, if any.

    The first time takes some seconds; then it is in the user's cache.
    """
    packed = (DATA / TEXT).read_bytes()
    digest = hashlib.sha256(packed + f"{vocab_size} {end_id} {encoder.to_str()}".encode()).hexdigest()
    file = cache_dir() / "languages" / f"{digest[:32]}.npz"
    try:
        return Language(load(file))
    except (OSError, ValueError, KeyError):
        pass  # not made yet, or incomplete
    text = lzma.decompress(packed).decode()
    ids = [k for k in tokens_of(encoder, paragraphs(text), end_id) if k < vocab_size]
    ngrams = count(np.asarray(ids, np.int64), vocab_size)
    try:
        _keep(ngrams, file)
    except OSError as error:
        log.warning("the language model could not be cached for the next start: %s", error)
    return Language(ngrams)


def paragraphs(text: str) -> list[str]:
    return text.split(BETWEEN)


def tokens_of(encoder: tokenizers.Tokenizer, texts: Sequence[str], end_id: int | None) -> list[int]:
    """The tokens of all texts in a row, each with its end token."""
    end = [] if end_id is None else [end_id]
    encodings = encoder.encode_batch_fast(list(texts), add_special_tokens=False)
    return [k for encoding in encodings for k in (*encoding.ids, *end)]


def _keep(ngrams: Ngrams, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(f".{os.getpid()}.npz")
    save(ngrams, new)
    new.replace(file)
