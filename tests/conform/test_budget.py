"""What a run may cost is stated before, and kept."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from conform.subject.budget import MOST_RETRIES, Cost, most_tokens
from conform.subject.client import GLIMPSE_TOKENS
from conform.subject.ends import OverBudget
from tests.conform.canned import REPLY, USED, client_of

ASKED = {"model": "m", "prompt": [1, 2, 3], "max_tokens": 7}


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        (ASKED, 10),
        ({"prompt": "abc"}, 4 + 16),  # a token before it, and 16 that were not asked for
        ({"prompt": ["a", "bc"], "max_tokens": 1, "n": 3}, 2 + 3 + 2 * 3),
        ({"prompt": [[1], [2, 3]], "max_tokens": 2, "n": 2, "best_of": 4}, 3 + 2 * 4 * 2),
        ({"prompt": "🦊", "max_tokens": 0}, 5),
        ({"prompt": 5, "max_tokens": "x", "n": True}, 1 + 16),
        (b"no object", 0),
    ],
)
def test_most_tokens_of_a_request(body: Any, tokens: int) -> None:
    """Prompts by their bytes, and max_tokens of each candidate of each prompt."""
    assert most_tokens(body) == tokens


@pytest.mark.parametrize("allowance", [Cost(0, 100), Cost(1, 9)])
def test_nothing_is_sent_beyond_the_budget(allowance: Cost) -> None:
    """Neither a request too many nor one that might take too many tokens reaches the server."""
    sent: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json=REPLY)

    client = client_of(handler, allowance)
    for ask in (client.post, client.arrivals, client.glimpse):
        with pytest.raises(OverBudget, match="it would have used"):
            ask(ASKED)
    assert not sent


def test_what_was_not_used_is_given_back() -> None:
    """By the usage of the reply; a refusal costs no tokens."""
    client = client_of()
    client.post(ASKED)
    assert client.budget.used == Cost(1, USED)
    client = client_of(lambda _: httpx.Response(400, json={"message": "no"}))
    client.post(ASKED)
    assert client.budget.used == Cost(1, 0)


def test_a_reply_without_usage_costs_all() -> None:
    """Nothing is taken to be free."""
    client = client_of(lambda _: httpx.Response(200, text="no JSON"))
    client.post(ASKED)
    assert client.budget.used == Cost(1, 10)


def test_usage_of_a_stream() -> None:
    """Is in one of its chunks."""
    stream = 'data: {"choices": []}\n\ndata: {"usage": {"total_tokens": 4}}\n\ndata: [DONE]\n\n'
    headers = {"content-type": "text/event-stream"}
    client = client_of(lambda _: httpx.Response(200, text=stream, headers=headers))
    client.post(ASKED)
    assert client.budget.used == Cost(1, 4)


def test_a_glimpse_reads_no_further() -> None:
    """Of a request that should be refused, a server that answers it has to make one piece alone."""
    read = []

    def stream() -> Any:
        for number in range(1000):
            read.append(number)
            yield b"data: {}\n\n"

    client = client_of(lambda _: httpx.Response(200, content=stream()))
    client.glimpse({"prompt": [1], "max_tokens": 10**9})
    assert read == [0]
    assert client.budget.used == Cost(1, 1 + GLIMPSE_TOKENS)


def test_a_429_is_obeyed() -> None:
    """The request is sent again after Retry-After, so often in a run and no more."""
    sent = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(429, headers={"retry-after": "0"})

    client = client_of(handler)
    assert client.post(ASKED).status_code == 429
    assert client.get("/models").status_code == 429
    assert len(sent) == MOST_RETRIES + 2


def test_costs_add_up() -> None:
    """And are said in words."""
    assert str(Cost(1, 2) + Cost(3, 4000)) == "4 requests and 4,002 tokens"
