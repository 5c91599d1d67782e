"""Regular expressions of the configuration: each has to compile, and to be done with in time.

Python's engine tries one way after another: of some patterns, `(a+)+$` say, there are so many that a short
text takes for ever. Those are found by trial, with texts that are made of what the pattern itself names: what
passes is fast with those, which is no proof for all others (server/journal/scrubber.py).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

# What takes longer than that, for a text of at most so many characters, is too slow. Texts grow slowly, so
# that the first that takes too long does not take much longer.
LIMIT_S, LENGTH, GROWTH = 0.03, 500, 1.15
MAX_PIECES = 12  # of which texts are made
ESCAPED = {"d": "1", "w": "a", "s": " ", "D": "a", "W": "-", "S": "a", "b": " "}


def slow_text(pattern: re.Pattern[str]) -> str | None:
    """The beginning of a text that the pattern is too slow with; None: none was found. Takes a few ms."""
    for piece in _pieces(pattern.pattern):
        count = 1
        while count * len(piece) <= LENGTH:
            text = piece * count + "\x00"  # no match at the end: all ways are tried
            began = time.thread_time()
            pattern.sub("", text)
            if time.thread_time() - began > LIMIT_S:
                return piece * 4
            count = max(count + 1, int(count * GROWTH))
    return None


def _pieces(pattern: str) -> Iterator[str]:
    """What a text may consist of that this pattern has to do with."""
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
            "words", "it is no regular expression: {why}", {"why": str(error)}
        ) from None
    if pattern.fullmatch(""):
        raise PydanticCustomError("words", "it should find something: it fits nothing at all too")
    if (slow := slow_text(pattern)) is not None:
        words = 'it takes too long for texts like "{slow}…"'
        raise PydanticCustomError("words", words, {"slow": slow})
    return text


Redacted = Annotated[str, AfterValidator(_check)]
