"""Tables of a tokenizer: the bytes of each id, and its name in logprobs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")


def byte_level(token: str) -> bytes:
    table = _byte_of_char()
    return b"".join(bytes([table[char]]) if char in table else char.encode() for char in token)


@lru_cache(maxsize=1)
def _byte_of_char() -> dict[str, int]:
    """GPT-2's table: printable bytes stand for themselves, the others for U+0100 and so on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + k): b for k, b in enumerate(others)}


def sentencepiece(token: str) -> bytes:
    if match := BYTE_TOKEN.fullmatch(token):
        return bytes.fromhex(match[1])
    return token.replace("\u2581", " ").encode()


def text_of(token: bytes) -> str | None:
    try:
        return token.decode()
    except UnicodeDecodeError:
        return None


def token_names(table: Sequence[bytes], vocab: Mapping[str, int]) -> tuple[str, ...]:
    """A unique name for each token.

    SentencePiece has a token for the byte 0x41 beside the one for "A", which gets the plain name. A token
    without bytes, or with the bytes of several others, is named by its id.
    """
    byte_ids = {i for token, i in vocab.items() if BYTE_TOKEN.fullmatch(token)}
    names = [""] * len(table)
    seen: set[str] = set()
    for token_id in sorted(range(len(table)), key=byte_ids.__contains__):
        token = table[token_id]
        name = text_of(token)
        if not name or name in seen:
            name = "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)
        if not token or name in seen:
            name = f"token_id:{token_id}"
        seen.add(name)
        names[token_id] = name
    return tuple(names)
