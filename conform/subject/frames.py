"""A stream as a client reads it: frames out of bytes, and the choices that chunks add up to."""

from __future__ import annotations

import json
from typing import Any

from conform.subject.ends import Unmet, require, shown

Json = dict[str, Any]
DONE = "[DONE]"


def data_of(text: str) -> list[str]:
    """The data of each frame, comments left out. A frame of anything else does not hold with the rules."""
    require(text.endswith("\n\n"), f"the stream does not end with an empty line: {shown(text[-80:])}")
    frames = [frame for frame in text.split("\n\n")[:-1] if not frame.startswith(":")]
    for frame in frames:
        require(frame.startswith("data: "), f"a frame that is no data line: {shown(frame)}")
    return [frame.removeprefix("data: ") for frame in frames]


def chunks_of(text: str) -> list[Json]:
    """The chunks of a stream that ends as it should."""
    data = data_of(text)
    require(data and data[-1] == DONE, f"the last frame is no [DONE]: {shown(text[-120:])}")
    return [object_of(frame) for frame in data[:-1]]


def object_of(text: str) -> Json:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Unmet(f"no JSON object: {shown(text)}")
    return value


def fold(chunks: list[Json]) -> list[Json]:
    """The choices that chunks add up to: texts and arrays one after the other, the last finish_reason."""
    choices: dict[int, Json] = {}
    for part in (choice for chunk in chunks for choice in chunk["choices"]):
        new = {"index": part["index"], "text": "", "logprobs": None, "finish_reason": None}
        choice = choices.setdefault(part["index"], new)
        require(choice["finish_reason"] is None, f"choice {part['index']} goes on after its finish_reason")
        choice["text"] += part["text"]
        choice["finish_reason"] = part.get("finish_reason")
        for name, values in (part.get("logprobs") or {}).items():
            choice["logprobs"] = choice["logprobs"] or {}
            choice["logprobs"].setdefault(name, []).extend(values or [])
    return [choices[index] for index in sorted(choices)]


def as_bytes(token: str) -> bytes:
    """What a token of a reply stands for: its text, or the bytes that it spells; a row of the vocabulary that
    is only padding, and has an id for a name, none."""
    if token.startswith("token_id:"):
        return b""
    if token.startswith("bytes:"):
        return bytes.fromhex(token.removeprefix("bytes:").replace("\\x", ""))
    return token.encode()


def is_whole(data: bytes) -> bool:
    """Whether it is UTF-8 to its end."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
