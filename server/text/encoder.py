"""Texts to ids by fastokens, which takes a fiftieth to a half of the time of the library tokenizers.

It gives the same ids (tests/server/text/test_encoder.py, benchmarks/encoders.py), but cannot read every
tokenizer, nor every text: then the library tokenizers does.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import threading
from collections.abc import Iterator, Sequence

import fastokens
import tokenizers

log = logging.getLogger(__name__)

# So many tokens are compared: it takes 50 ms.
NUM_COMPARED = 20_000
TOKENS_PER_TEXT = 40


class FastEncoder:
    """fastokens for one tokenizer. A thread loads it when the first text comes, so that it takes memory only
    where texts are read. Until then, 0.2 to 3 s, and if it cannot be used, it reads none.

    library: the tokenizer. table: the bytes of its tokens. name: of the tokenizer, for the log.
    """

    def __init__(self, library: tokenizers.Tokenizer, table: Sequence[bytes], name: object) -> None:
        self._library = library
        self._table = table
        self._name = name
        self._encoder: fastokens.Tokenizer | None = None
        self._is_begun = False

    @property
    def is_loaded(self) -> bool:
        return self._encoder is not None

    def encode(self, text: str, adds_special: bool) -> fastokens.Encoding | None:
        """None: the library has to read this text."""
        if self._encoder is not None:
            return _encode(self._encoder, text, adds_special)
        if not self._is_begun:
            self._is_begun = True
            with contextlib.suppress(RuntimeError):  # no more threads: the library goes on
                # Not a daemon: a process that ended within fastokens would be aborted.
                threading.Thread(target=self.load, name="fastokens").start()
        return None

    def load(self) -> None:
        """Load it, and use it if it reads the model's tokens as the library does."""
        self._is_begun = True
        if not self._library.encode_special_tokens:  # this is not in the tokenizer's file
            self._encoder = self._compared()
            _give_memory_back()

    def _compared(self) -> fastokens.Tokenizer | None:
        try:
            encoder = fastokens.Tokenizer.from_json_str(self._library.to_str())
        except ValueError as error:
            log.info("%s: prompts are tokenized without fastokens, because %s", self._name, error)
            return None
        for text in _texts(self._table):
            found = _encode(encoder, text, adds_special=True)
            if found is not None and found.ids != self._library.encode(text).ids:
                log.warning("%s: fastokens is not used, because it tokenizes %r otherwise", self._name, text)
                return None
        return encoder


def _texts(table: Sequence[bytes]) -> Iterator[str]:
    """Texts made of the vocabulary's tokens, from everywhere in it, with and without spaces between them."""
    step = max(1, len(table) // NUM_COMPARED)
    tokens = [token.decode(errors="replace") for token in table[::step]]
    for first in range(0, len(tokens), TOKENS_PER_TEXT):
        between = " " if first % (2 * TOKENS_PER_TEXT) else ""
        yield between.join(tokens[first : first + TOKENS_PER_TEXT])


def _encode(encoder: fastokens.Tokenizer, text: str, adds_special: bool) -> fastokens.Encoding | None:
    try:
        return encoder.encode(text, adds_special)
    except ValueError:  # such as a byte that the vocabulary lacks
        return None


def _give_memory_back() -> None:
    """Return to the kernel what reading a tokenizer's file takes for a while, 50 to 450 MB: glibc would keep
    it. Other C libraries have no such function."""
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
