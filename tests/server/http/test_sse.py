from __future__ import annotations

import json
import re

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.base import TopLogprobs
from server.errors import InvalidRequest
from server.generation.contest import Outcome
from server.generation.logprobs import Logprobs
from server.generation.outputs import Choice, Delta, Usage
from server.http.sse import DONE, Reply, Stream, error_frame

REPLY = Reply("0123", 1700000000, "a/b")
HEAD = b'{"id":"0123","object":"text_completion","created":1700000000,"model":"a/b",'
NULL = b'"logprobs":null,"finish_reason":null}'
USAGE = b'{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}'


def chunk(choice: bytes, usage: bytes = b"") -> bytes:
    return (
        b"data: "
        + HEAD
        + b'"choices":['
        + choice
        + b"]"
        + (b',"usage":' + usage if usage else b"")
        + b"}\n\n"
    )


def stream(include_usage: bool | None = None, *, continuous: bool = False, num_choices: int = 1) -> Stream:
    return Stream(REPLY, num_choices, 3, include_usage=include_usage, continuous=continuous)


def test_reply() -> None:
    """A reply has the keys of the contract, in its order, and nothing else."""
    body = REPLY.body([Choice(0, "é\n", None, "stop")], Usage(3, 2))
    choice = '{"index":0,"text":"é\\n","logprobs":null,"finish_reason":"stop"}'.encode()
    assert body == HEAD + b'"choices":[' + choice + b'],"usage":' + USAGE + b"}"


def test_candidates() -> None:
    """Where they are asked for they are the last key: which was given up and when, which is which choice."""
    outcomes = [
        Outcome(2, "given_up", None, -3.5),
        Outcome(1, "stop", 0, float("-inf")),
        Outcome(0, "length"),
    ]
    told = json.loads(REPLY.body([], Usage(3, 2), outcomes, 2))
    assert list(told)[-2:] == ["usage", "candidates"]
    names = ("prompt_index", "number", "mean_logprob", "completion_tokens", "finish_reason")
    names += ("given_up_after", "choice")
    assert [tuple(one.values()) for one in told["candidates"]] == [
        (0, 0, -3.5, 2, None, 2, None),
        (0, 1, -9999.0, 1, "stop", None, 0),
        (1, 0, None, 0, "length", None, None),
    ]
    assert {tuple(one) for one in told["candidates"]} == {names}


def test_logprobs() -> None:
    """The four arrays, with null for the first token of an echoed prompt."""
    logprobs = Logprobs(["a", "bytes:\\xff"], TopLogprobs(1, [1], [-0.5]), [0, 1], first_id=0)
    expected = (
        rb'"logprobs":{"tokens":["a","bytes:\\xff"],"token_logprobs":[null,-0.5],'
        rb'"top_logprobs":[null,{"bytes:\\xff":-0.5}],"text_offset":[0,1]}'
    )
    assert expected in REPLY.body([Choice(0, "a", logprobs, "stop")], Usage(1, 1))


def test_default_usage() -> None:
    """Unless asked otherwise the last chunk, which has a choice, has the usage; the others have no key."""
    frames = stream().frames([Delta(0, "a", num_tokens=1), Delta(0, "b", None, "length", 1)])
    first = chunk(b'{"index":0,"text":"a",' + NULL)
    last = chunk(b'{"index":0,"text":"b","logprobs":null,"finish_reason":"length"}', USAGE)
    assert frames == first + last + DONE


def test_include_usage() -> None:
    """When asked for, every chunk says null, and one more without choices says the usage."""
    frames = stream(True).frames([Delta(0, "a", num_tokens=1), Delta(0, "b", None, "length", 1)])
    first = chunk(b'{"index":0,"text":"a",' + NULL, b"null")
    last = chunk(b'{"index":0,"text":"b","logprobs":null,"finish_reason":"length"}', b"null")
    assert frames == first + last + chunk(b"", USAGE) + DONE


def test_continuous_usage() -> None:
    """continuous_usage_stats: every chunk has the usage so far."""
    made = stream(True, continuous=True)
    frames = made.frames([Delta(0, "a", num_tokens=1), Delta(0, "", None, "stop", 1)])
    assert re.findall(rb'"total_tokens":(\d+)', frames) == [b"4", b"5", b"5"]


def test_no_usage() -> None:
    """include_usage false: no usage at all."""
    frames = stream(False).frames([Delta(0, "a", None, "stop", 2)])
    assert frames == chunk(b'{"index":0,"text":"a","logprobs":null,"finish_reason":"stop"}') + DONE


def test_nothing_to_say() -> None:
    """A token that completes no character makes no chunk, but counts."""
    made = stream()
    assert made.frames([Delta(0, "", num_tokens=1)]) == b""
    assert made.frames([Delta(0, "é", None, "stop", 1)]).count(USAGE) == 1


@pytest.mark.parametrize("include_usage", [None, True, False])
def test_the_last_choice_ends_the_stream(include_usage: bool | None) -> None:
    """[DONE] and the usage come once, after the last of several choices has finished."""
    made = stream(include_usage, num_choices=2)
    first = made.frames([Delta(1, "a", None, "stop", 1)])
    last = made.frames([Delta(0, "b", None, "stop", 1)])
    assert (DONE in first, b'"usage":{' in first) == (False, False)
    assert (last.count(DONE), last.endswith(DONE), last.count(USAGE)) == (1, True, include_usage is not False)


def test_error_frame() -> None:
    """A failure after the first byte is one frame with the flat error and the object."""
    assert error_frame(InvalidRequest("no", "n")) == (
        b'data: {"code":400,"reason":"INVALID_REQUEST_BODY","message":"no","metadata":{"field":"n"},'
        b'"error":{"message":"no","type":"invalid_request_error","param":"n","code":"INVALID_REQUEST_BODY"}}\n\n'
    )


@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\n\r\u2028\u2029\x85\x00\ufeff")))
def test_no_text_breaks_a_frame(text: str) -> None:
    """Whatever the text, a frame is one line and an empty one, and the text comes back."""
    frames = stream().frames([Delta(0, text, None, "stop")]).removesuffix(DONE)
    assert frames.startswith(b"data: {")
    assert frames.endswith(b"}\n\n")
    assert not set(b"\r\n") & set(frames[:-2])
    assert orjson.loads(frames[len(b"data: ") :])["choices"][0]["text"] == text


@given(st.floats(min_value=-9999.0, allow_infinity=False))
def test_numbers_come_back(value: float) -> None:
    """A log-probability is the same float after it was written and read."""
    body = REPLY.body(
        [Choice(0, "", Logprobs(["a"], TopLogprobs(1, [0], [value]), [0]), "stop")], Usage(1, 1)
    )
    logprobs = orjson.loads(body)["choices"][0]["logprobs"]
    assert logprobs["token_logprobs"][0] == logprobs["top_logprobs"][0]["a"] == value
