"""Ids to text that grows, and never splits a character."""

from __future__ import annotations

import codecs

from server.text.tokenizer import Tokenizer


class Detokenizer:
    """Text that grows token by token and never splits a character. Bytes that are no UTF-8 become U+FFFD."""

    __slots__ = ("_pending", "_skip", "_table", "_texts")

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool) -> None:
        self._table = tokenizer.table
        self._texts = tokenizer.texts
        self._skip: frozenset[int] = tokenizer.special if skip_special else frozenset()
        self._pending = b""  # the beginning of a character

    def push(self, token_id: int) -> str:
        """The characters that this token completes."""
        if token_id in self._skip:
            return ""
        text = self._texts[token_id]
        if text is not None and not self._pending:  # nearly all tokens are whole characters
            return text
        return self.push_bytes(self._table[token_id])

    def push_bytes(self, part: bytes) -> str:
        part = self._pending + part
        text, num_bytes = codecs.utf_8_decode(part, "replace", False)
        self._pending = part[num_bytes:]
        return text

    def finish(self) -> str:
        """What is left of a character that was never completed."""
        part, self._pending = self._pending, b""
        return part.decode("utf-8", "replace")
