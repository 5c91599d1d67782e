"""contract.md's stream where the rules (conform/) would have to know what the model says."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serving import Client, assert_alike, fold

pytestmark = pytest.mark.engine

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 6}
ASKED: list[dict[str, Any]] = [
    {"stop": ["ris.", "x"], "logprobs": 1, **GREEDY},
    {"stop": "ris.", "include_stop_str_in_output": False, "logprobs": 1, **GREEDY},
    {"stop": "Parisian", "include_stop_str_in_output": False, **GREEDY},
    {"logit_bias": {"2": 100}, **GREEDY},  # the end of the text
]


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_folded_stream_is_the_reply(client: Client, asked: dict[str, Any]) -> None:
    """Field by field, for the same seed; the usage too."""
    reply = client.complete(**asked)
    chunks = client.chunks(**asked)
    assert_alike(fold(chunks), reply["choices"])
    assert chunks[-1]["usage"] == reply["usage"]


def test_characters_are_never_split(client: Client) -> None:
    """A character of several tokens comes whole, with the last of them; only the end may cut one."""
    chunks = client.chunks(prompt="🦊" * 12, temperature=0, max_tokens=8, logprobs=0)
    *parts, last = [chunk["choices"][0] for chunk in chunks]
    # A chunk may have more than one token when the server is busy
    assert all(part["text"].strip("🦊") == "" for part in parts)
    assert last["text"].removesuffix("\ufffd").strip("🦊") == ""
    assert "🦊" in "".join(part["text"] for part in (*parts, last))
    assert all(part["logprobs"]["tokens"][0].startswith("bytes:") for part in parts)


def test_included_stop_holds_nothing_back(client: Client) -> None:
    """Text that will be shown in any case is shown at once."""
    texts = [chunk["choices"][0]["text"] for chunk in client.chunks(stop="Paris!", **GREEDY)]
    assert texts[0].startswith(" Paris")
