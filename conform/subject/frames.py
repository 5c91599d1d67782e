"""Reads a stream as a client does: bytes to frames, and chunks to choices."""

from __future__ import annotations

import json
from typing import Any

from conform.subject.ends import Unmet, require, shown

Json = dict[str, Any]
DONE = "[DONE]"


def data_of(text: str) -> list[str]:
    """The data of each frame, without comments. Raises Unmet for any other frame."""
    require(text.endswith("\n\n"), f"the stream does not end with an empty line: {shown(text[-80:])}")
    frames = [frame for frame in text.split("\n\n")[:-1] if not frame.startswith(":")]
    for frame in frames:
        require(frame.startswith("data: "), f"a frame is not a data line: {shown(frame)}")
    return [frame.removeprefix("data: ") for frame in frames]


def chunks_of(text: str) -> list[Json]:
    """The chunks of a correct stream."""
    data = data_of(text)
    require(data and data[-1] == DONE, f"the last frame is not [DONE]: {shown(text[-120:])}")
    return [object_of(frame) for frame in data[:-1]]


def object_of(text: str) -> Json:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Unmet(f"not a JSON object: {shown(text)}")
    return value


def fold(chunks: list[Json]) -> list[Json]:
    """The choices from chunks: texts and arrays are joined, the last finish_reason counts."""
    choices: dict[int, Json] = {}
    for part in (choice for chunk in chunks for choice in chunk["choices"]):
        new = {"index": part["index"], "text": "", "logprobs": None, "finish_reason": None}
        choice = choices.setdefault(part["index"], new)
        require(choice["finish_reason"] is None, f"choice {part['index']} continues after its finish_reason")
        choice["text"] += part["text"]
        choice["finish_reason"] = part.get("finish_reason")
        for name, values in (part.get("logprobs") or {}).items():
            choice["logprobs"] = choice["logprobs"] or {}
            choice["logprobs"].setdefault(name, []).extend(values or [])
    return [choices[index] for index in sorted(choices)]


def as_bytes(token: str) -> bytes:
    """The bytes of a token in a reply: its text, or the bytes that it spells; empty for a padding row of the
    vocabulary, which has an id as its name."""
    if token.startswith("token_id:"):
        return b""
    if token.startswith("bytes:"):
        return bytes.fromhex(token.removeprefix("bytes:").replace("\\x", ""))
    return token.encode()


def is_whole(data: bytes) -> bool:
    """Whether it is complete UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
