"""contract.md's stream: frames, chunks, usage, and that it folds to the reply, over HTTP."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from tests.serving import CAPITAL, SMOL, TINY, Client, assert_alike, fold, frames

pytestmark = pytest.mark.engine

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 6}
ASKED: list[dict[str, Any]] = [
    GREEDY,
    {"echo": True, "logprobs": 2, **GREEDY},
    {"model": TINY, "n": 3, "temperature": 1.2, "seed": 7, "logprobs": 1, "max_tokens": 12},
    {"model": TINY, "n": 4, "temperature": 1, "seed": 1, "logprobs": 0, "max_tokens": 100},
    {"model": TINY, "prompt": [[5], [6, 7], [8]], "n": 2, "temperature": 1, "seed": 2, "max_tokens": 9},
    {"stop": ["ris.", "x"], "logprobs": 1, **GREEDY},
    {"stop": "ris.", "include_stop_str_in_output": False, "logprobs": 1, **GREEDY},
    {"stop": "Parisian", "include_stop_str_in_output": False, **GREEDY},
    {"max_tokens": 0, "echo": True, "logprobs": 1},
    {"max_tokens": 0},
    {"logit_bias": {"2": 100}, **GREEDY},
    {
        "model": TINY,
        "prompt": ["naïve 🦊", "日本語"],
        "echo": True,
        "logprobs": 3,
        "temperature": 1,
        "seed": 1,
        "max_tokens": 10,
    },
]


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_folded_stream_is_the_reply(client: Client, asked: dict[str, Any]) -> None:
    """Field by field, for the same seed; the usage too."""
    reply = client.complete(**asked)
    chunks = client.chunks(**asked)
    assert_alike(fold(chunks), reply["choices"])
    assert chunks[-1]["usage"] == reply["usage"]


def test_bytes_are_data_frames_and_nothing_else(client: Client) -> None:
    """`data: {json}` and a blank line, comments at most; `data: [DONE]` ends it."""
    text = client.ask(stream=True, **GREEDY).text
    assert re.fullmatch(r"((data: \{[^\r\n]*\}|:[^\r\n]*)\n\n)+data: \[DONE\]\n\n", text)


def test_headers_keep_proxies_from_buffering(client: Client) -> None:
    """And name the type that SDKs look for."""
    headers = client.ask(stream=True, **GREEDY).headers
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-request-id"]


def test_chunks_of_a_reply_share_their_head(client: Client) -> None:
    """id, created and model are the same in all, and the keys are the documented ones."""
    chunks = client.chunks(n=2, stream_options={"include_usage": True}, **GREEDY)
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}) == 1
    assert re.fullmatch("[0-9a-f]{32}", chunks[0]["id"])
    assert (chunks[0]["model"], chunks[0]["object"]) == (SMOL, "text_completion")
    assert all(set(chunk) == {"id", "object", "created", "model", "choices", "usage"} for chunk in chunks)


def test_chunks_come_while_the_text_is_made(client: Client) -> None:
    """Not all at the end: 40 tokens come one by one."""
    body = {"model": SMOL, "prompt": CAPITAL, "max_tokens": 40, "ignore_eos": True, "stream": True}
    with client.stream("POST", "/v1/completions", json=body) as response:
        arrivals = [time.monotonic() for _ in response.iter_raw()]
    assert len(arrivals) > 20
    assert arrivals[len(arrivals) // 2] - arrivals[0] > 0.2 * (arrivals[-1] - arrivals[0])


def test_usage_rides_on_the_last_chunk_with_a_choice(client: Client) -> None:
    """Without stream_options: no chunk has empty choices, and only the last one has a usage."""
    chunks = client.chunks(n=2, **GREEDY)
    assert all(chunk["choices"] for chunk in chunks)
    assert [chunk for chunk in chunks if "usage" in chunk] == chunks[-1:]
    assert chunks[-1]["usage"] == {"prompt_tokens": 5, "completion_tokens": 12, "total_tokens": 17}


def test_include_usage_adds_one_chunk(client: Client) -> None:
    """Every chunk has "usage": null, and one more with empty choices has it."""
    *chunks, last = client.chunks(n=2, stream_options={"include_usage": True}, **GREEDY)
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 5, "completion_tokens": 12, "total_tokens": 17}


def test_include_usage_false_means_none(client: Client) -> None:
    """No usage at all."""
    chunks = client.chunks(stream_options={"include_usage": False}, **GREEDY)
    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)


def test_stream_options_of_nulls_say_nothing(client: Client) -> None:
    """null is "not given" here too."""
    for options in (None, {}, {"include_usage": None}):
        assert client.chunks(stream_options=options, **GREEDY)[-1]["usage"]["completion_tokens"] == 6


def test_continuous_usage_counts_up(client: Client) -> None:
    """continuous_usage_stats, with include_usage, puts the usage so far on every chunk."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    counts = [
        chunk["usage"]["completion_tokens"] for chunk in client.chunks(stream_options=options, **GREEDY)
    ]
    assert counts == sorted(counts)
    assert counts[-2:] == [6, 6]
    assert counts[0] < 6


def test_each_choice_finishes_once(client: Client) -> None:
    """finish_reason is null until a choice's last chunk."""
    chunks = client.chunks(model=TINY, n=4, temperature=1, seed=3, max_tokens=20)
    ends = [choice["index"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
    assert sorted(ends) == [0, 1, 2, 3]


def test_characters_are_never_split(client: Client) -> None:
    """A character of several tokens comes whole, with the last of them; only the end may cut one."""
    chunks = client.chunks(prompt="🦊" * 12, temperature=0, max_tokens=8, logprobs=0)
    *parts, last = [chunk["choices"][0] for chunk in chunks]
    assert {part["text"] for part in parts} == {"", "🦊"}
    assert last["text"] in ("🦊", "\ufffd")
    assert all(part["logprobs"]["tokens"][0].startswith("bytes:") for part in parts)


def test_possible_start_of_a_left_out_stop_is_held_back(client: Client) -> None:
    """No chunk shows a part of the sequence, and what turns out not to be one is shown after all."""
    left_out: dict[str, Any] = {"include_stop_str_in_output": False, **GREEDY}
    texts = [chunk["choices"][0]["text"] for chunk in client.chunks(stop="Paris.", **left_out)]
    assert "".join(texts) == " "
    texts = [chunk["choices"][0]["text"] for chunk in client.chunks(stop="Paris!", **left_out)]
    assert "".join(texts) == " Paris.\n\nThe answer"


def test_included_stop_holds_nothing_back(client: Client) -> None:
    """Text that will be shown in any case is shown at once."""
    texts = [chunk["choices"][0]["text"] for chunk in client.chunks(stop="Paris!", **GREEDY)]
    assert texts[0] == " Paris"


def test_refusal_before_the_first_token_has_its_status(client: Client) -> None:
    """A request for a stream that cannot begin is answered as any other."""
    response = client.ask(stream=True, temperature=9)
    assert (response.status_code, response.json()["reason"]) == (400, "INVALID_REQUEST_BODY")
    assert response.headers["content-type"] == "application/json"


def test_every_frame_is_json(client: Client) -> None:
    """Line breaks of the text are escaped."""
    text = client.ask(stream=True, **GREEDY).text
    parts = [json.loads(frame)["choices"][0]["text"] for frame in frames(text)[:-1]]
    assert "\n" in "".join(parts)
