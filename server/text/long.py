"""Long texts: how much of one has to be tokenized to know that it is too long, or to have one end of it.

Tokenizing takes a second and 60 MB for a megabyte and a half.
"""

from __future__ import annotations

import re

from server.text.encoding import Side
from server.text.tokenizer import Tokenizer

PIECE_CHARS = 20_000
CHARS_PER_TOKEN = 6  # more than most texts have
SLACK = (
    64  # tokens that a text may have in excess where it is cut: a word, a long run of spaces, a special token
)
WORD_END = re.compile(r"\S(?=\s)")


def tokens_at_least(tokenizer: Tokenizer, text: str, limit: int) -> int | None:
    """How many tokens the text has at least, where that is found to be more than `limit`.

    None: it may be fewer. Goes on piece by piece only until it is known.
    """
    if len(text) <= max(PIECE_CHARS, CHARS_PER_TOKEN * limit):
        return None  # tokenizing it once costs less
    count, start = 0, 0
    while start < len(text):
        end = _word_end(text, start + PIECE_CHARS)
        (piece,) = tokenizer.encode_all([text[start:end]])
        count += max(0, len(piece.ids) - SLACK)
        if count > limit:
            return count
        start = end
    return None


def part(tokenizer: Tokenizer, text: str, num_tokens: int, side: Side) -> str:
    """A part of the text that has its last tokens, so many of them, where others are left out on the left
    side; else its first ones."""
    size = PIECE_CHARS + CHARS_PER_TOKEN * num_tokens
    while size < len(text):
        found = text[_word_end(text, len(text) - size) :] if side == "left" else text[: _word_end(text, size)]
        (encoded,) = tokenizer.encode_all([found])
        if len(encoded.ids) > num_tokens + SLACK:
            return found
        size *= 2
    return text


def _word_end(text: str, place: int) -> int:
    """Where a word ends at that place or after it: words are tokenized alone, with the spaces before them."""
    found = WORD_END.search(text, place, place + PIECE_CHARS)
    return found.end() if found else place
