"""Regular expressions of the configuration: each must compile, and must be fast enough.

Python's engine backtracks: for some patterns, such as `(a+)+$`, a short text takes for ever. Such patterns
are found by trial, with texts made from the characters that the pattern names. A pattern that passes is fast
on these texts; other texts may still be slow (see server/journal/scrubber.py).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

# A pattern is too slow if it takes longer than this on a text of at most so many characters. The texts grow
# slowly, so that the first slow one does not take much longer.
LIMIT_S, LENGTH, GROWTH = 0.03, 500, 1.15
MAX_PIECES = 12  # pieces of which the texts are made
ESCAPED = {"d": "1", "w": "a", "s": " ", "D": "a", "W": "-", "S": "a", "b": " "}


def slow_text(pattern: re.Pattern[str]) -> str | None:
    """The beginning of a text on which the pattern is too slow; None: none was found. Takes a few ms."""
    for piece in _pieces(pattern.pattern):
        count = 1
        while count * len(piece) <= LENGTH:
            text = piece * count + "\x00"  # with no match at the end, all ways are tried
            began = time.thread_time()
            pattern.sub("", text)
            if time.thread_time() - began > LIMIT_S:
                return piece * 4
            count = max(count + 1, int(count * GROWTH))
    return None


def _pieces(pattern: str) -> Iterator[str]:
    """Pieces of text that concern this pattern."""
    named = [ESCAPED.get(found[1], found[1]) for found in re.finditer(r"\\(.)", pattern)]
    named += re.findall(r"[^\W_]|[@.,:/_ -]", re.sub(r"\\.|\{[^}]*\}", "", pattern))
    singles = list(dict.fromkeys((*named, "a", "1")))[:MAX_PIECES]
    yield from singles
    words = re.findall(r"\w{2,}", re.sub(r"\\.", " ", pattern))
    yield from list(dict.fromkeys(words))[:MAX_PIECES]
    yield from (first + second for first in singles[:4] for second in singles[:4] if first != second)


def _check(text: str) -> str:
    try:
        pattern = re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise PydanticCustomError(
            "words", "it is not a valid regular expression: {why}", {"why": str(error)}
        ) from None
    if pattern.fullmatch(""):
        raise PydanticCustomError("words", "it must not match the empty text")
    if (slow := slow_text(pattern)) is not None:
        words = 'it takes too long on texts like "{slow}…"'
        raise PydanticCustomError("words", words, {"slow": slow})
    return text


Redacted = Annotated[str, AfterValidator(_check)]
