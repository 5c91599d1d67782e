"""Turns ids into text that grows and never splits a character."""

from __future__ import annotations

import codecs

from server.text.tokenizer import Tokenizer


class Detokenizer:
    """Text that grows token by token and never splits a character. Bytes that are not UTF-8 become U+FFFD."""

    __slots__ = ("_pending", "_skip", "_table", "_texts")

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool) -> None:
        self._table = tokenizer.table
        self._texts = tokenizer.texts
        self._skip: frozenset[int] = tokenizer.special if skip_special else frozenset()
        self._pending = b""  # the beginning of a character

    @property
    def is_amid(self) -> bool:
        """Whether a character has begun that is not complete."""
        return bool(self._pending)

    def push(self, token_id: int) -> str:
        """The characters that this token completes."""
        if token_id in self._skip:
            return ""
        text = self._texts[token_id]
        if text is not None and not self._pending:  # most tokens are whole characters
            return text
        return self.push_bytes(self._table[token_id])

    def push_bytes(self, part: bytes) -> str:
        part = self._pending + part
        text, num_bytes = codecs.utf_8_decode(part, "replace", False)
        self._pending = part[num_bytes:]
        return text

    def num_given_up(self, part: bytes, *, is_last: bool = False) -> int:
        """How many of the characters that these bytes complete belong to earlier tokens: 1 if an earlier
        token began a character that these bytes do not continue, so that it becomes U+FFFD; else 0."""
        if not self._pending or not (part or is_last):
            return 0
        try:
            codecs.utf_8_decode(self._pending + part[:1], "strict", not part)
        except UnicodeDecodeError:
            return 1
        return 0

    def finish(self) -> str:
        """The rest of a character that was never completed."""
        part, self._pending = self._pending, b""
        return part.decode("utf-8", "replace")

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes that a token adds to the text."""
        return b"" if token_id in self._skip else self._table[token_id]
