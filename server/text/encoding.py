"""A prompt's text as token ids: adds the post-processor's tokens, truncates, tells where each token is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, Protocol

import tokenizers

Side = Literal["left", "right"]
# Where the text of each token begins, and where it ends, in the prompt's characters.
Places = tuple[list[int], list[int]]
CONTINUATION = bytes(range(0x80, 0xC0))  # UTF-8: bytes that begin no character


class Encoding(Protocol):
    """What both libraries make of a text. special_tokens_mask: 1: the post-processor added this id."""

    @property
    def ids(self) -> list[int]: ...

    @property
    def special_tokens_mask(self) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class Reading:
    """How to read a prompt. keep: the largest number of its tokens; None: all. side: where tokens are cut
    off. adds_special: add the tokens of the model's post-processor, such as a BOS. parses_special: names of
    special tokens become these tokens; otherwise they are text. single_bos: a text that begins with the BOS
    gets no second one. with_starts: see Encoded."""

    keep: int | None = None
    side: Side = "left"
    adds_special: bool = True
    parses_special: bool = True
    single_bos: bool = False
    with_starts: bool = False


PLAIN = Reading()


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt's ids. is_whole: nothing was cut off. starts: where the text of each token begins in the
    prompt's characters, if asked for; ends: where it ends. had_two: a second BOS was left out.

    A token inside a character begins where the character does. A token added by the post-processor stands
    between its neighbours.
    """

    ids: list[int]
    is_whole: bool = True
    starts: list[int] | None = None
    ends: list[int] | None = None
    had_two: bool = False

    @property
    def spans(self) -> list[tuple[int, int]] | None:
        """(start, end) of each token, if asked for."""
        return (
            None if self.starts is None or self.ends is None else [*zip(self.starts, self.ends, strict=True)]
        )


def encoded(encoding: Encoding, places: Places | None, how: Reading, bos_id: int | None) -> Encoded:
    """A library's result, read as asked for. places: given if how.with_starts."""
    ids, is_added = encoding.ids, encoding.special_tokens_mask
    has_two = how.single_bos and ids[:2] == [bos_id, bos_id] and bool(is_added[0]) and not is_added[1]
    first = 1 if has_two else 0
    if how.keep is None or len(ids) - first <= how.keep:
        starts, ends = places or (None, None)
        return Encoded(ids[first:], True, starts and starts[first:], ends and ends[first:], has_two)
    return Encoded(_cut(ids[first:], is_added[first:], how.keep, how.side), is_whole=False, had_two=has_two)


def _cut(ids: list[int], is_added: list[int], keep: int, side: Side) -> list[int]:
    """Cut off tokens of the prompt before tokens such as a BOS are added, so that the BOS stays."""
    own = [k for k, added in enumerate(is_added) if not added]
    excess = len(ids) - keep
    if side == "right":
        first = own[-excess:][0] if own else len(ids)
        return [i for k, (i, added) in enumerate(zip(ids, is_added, strict=True)) if added or k < first][
            :keep
        ]
    left_out = own[:excess]
    last = left_out[-1] if left_out else -1
    return [i for k, (i, added) in enumerate(zip(ids, is_added, strict=True)) if added or k > last][-keep:]


def places_of(encoding: tokenizers.Encoding) -> Places:
    """The places that the library tokenizers gives."""
    starts, ends, start, end = list[int](), list[int](), 0, 0
    for (first, behind), is_added in zip(encoding.offsets, encoding.special_tokens_mask, strict=True):
        start = max(start, end if is_added else first)
        end = max(end, behind)
        starts.append(start)
        ends.append(start if is_added else max(start, behind))
    return starts, ends


def places_in(text: str, parts: Sequence[bytes]) -> Places | None:
    """The same from the bytes of each token, without those that were added. None: they are not the text,
    because a normalizer has changed it."""
    if b"".join(parts) != text.encode():
        return None
    # The characters that begin in each part
    sizes = map(len, parts) if text.isascii() else (len(part.translate(None, CONTINUATION)) for part in parts)
    starts = list(accumulate(sizes, initial=0))
    ends = starts[1:]
    del starts[-1]
    if not text.isascii():  # a token inside a character begins where the character does
        starts = [
            start - (part != b"" and part[0] in CONTINUATION)
            for start, part in zip(starts, parts, strict=True)
        ]
    return starts, ends
