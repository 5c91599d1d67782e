"""Long texts: tokenizes only as much of a text as shows that it is too long, or gives one end of it.

Tokenizing 1.5 MB takes a second and 60 MB of memory.
"""

from __future__ import annotations

import re

from server.text.encoding import Side
from server.text.tokenizer import Tokenizer

PIECE_CHARS = 20_000
CHARS_PER_TOKEN = 6  # more than in most texts
SLACK = 64  # tokens that a cut text may have in excess: a word, a long run of spaces, a special token
WORD_END = re.compile(r"\S(?=\s)")


def tokens_at_least(tokenizer: Tokenizer, text: str, limit: int) -> int | None:
    """A lower bound of the text's tokens, if it is found to be above `limit`.

    None: there may be fewer. It tokenizes piece by piece, until the answer is known.
    """
    if len(text) <= max(PIECE_CHARS, CHARS_PER_TOKEN * limit):
        return None  # tokenizing the whole text costs less
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
    """A part of the text that contains its last num_tokens tokens if the left side is cut off, else
    its first ones."""
    size = PIECE_CHARS + CHARS_PER_TOKEN * num_tokens
    while size < len(text):
        found = text[_word_end(text, len(text) - size) :] if side == "left" else text[: _word_end(text, size)]
        (encoded,) = tokenizer.encode_all([found])
        if len(encoded.ids) > num_tokens + SLACK:
            return found
        size *= 2
    return text


def _word_end(text: str, place: int) -> int:
    """The end of the first word at or after that place: words are tokenized separately, with the spaces
    before them."""
    found = WORD_END.search(text, place, place + PIECE_CHARS)
    return found.end() if found else place
