"""Many streams at once, whose texts depend on nothing but the request."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

from tests.serving import TINY, Client, fold, wait_for

NUM_STREAMS = 64
NUM_TOKENS = 200


@dataclass
class Stream:
    """What came of one. pause_s: the longest time between two of its tokens."""

    text: str
    pause_s: float


class Streams:
    """One each for the numbers 0 and up, spread over the front ends. Begun when made."""

    def __init__(self, urls: Sequence[str], count: int = NUM_STREAMS, num_tokens: int = NUM_TOKENS) -> None:
        self._pool = ThreadPoolExecutor(count)
        self._num_tokens = num_tokens
        self._futures: list[Future[Stream]] = [
            self._pool.submit(self._one, urls[number % len(urls)], number) for number in range(count)
        ]

    def results(self) -> list[str | BaseException]:
        """The text of each, or what has gone wrong with it, when all have ended."""
        self._pool.shutdown()
        return [one.exception() or one.result().text for one in self._futures]

    @property
    def num_done(self) -> int:
        return sum(one.done() for one in self._futures)

    @property
    def longest_pause_s(self) -> float:
        """Of those that have ended well."""
        done = [one.result() for one in self._futures if one.done() and not one.exception()]
        return max((one.pause_s for one in done), default=0.0)

    def _one(self, url: str, number: int) -> Stream:
        fields = {
            "model": TINY,
            "prompt": f"Story number {number}:",
            "max_tokens": self._num_tokens,
            "min_tokens": self._num_tokens,
            "temperature": 1,
            "seed": number,
            "stream": True,
        }
        chunks: list[dict[str, Any]] = []
        pause_s, last = 0.0, 0.0
        with (
            Client(url, "key", TINY) as client,
            client.stream("POST", "/v3/openai/completions", json=fields) as response,
        ):
            assert response.status_code == 200, response.read()
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    now = time.monotonic()
                    pause_s = max(pause_s, now - last) if last else 0.0
                    last = now
                    chunks.append(json.loads(line.removeprefix("data: ")))
        (choice,) = fold(chunks)
        assert choice["finish_reason"] == "length"
        return Stream(str(choice["text"]), pause_s)


def replicas(url: str) -> dict[str, dict[str, Any]]:
    """Of the model, as /ready shows them."""
    body = httpx.get(url + "/ready", timeout=60, verify=False).json()  # noqa: S501
    model = body["models"][TINY]
    found: dict[str, dict[str, Any]] = model.get("replicas") or {"0": model | {"running": 0}}
    return found


def wait_replicas(url: str, count: int, within_s: float = 90.0) -> None:
    """Until so many are ready."""
    wait_for(lambda: num_ready(url) == count, within_s, every_s=0.1)


def num_ready(url: str) -> int:
    return sum(one["phase"] == "ready" for one in replicas(url).values())


def wait_running(url: str, count: int = 1) -> None:
    """Until each of the replicas that are ready works on so many of this front end's jobs."""

    def busy() -> bool:
        return all(one["running"] >= count for one in replicas(url).values() if one["phase"] == "ready")

    wait_for(busy, 30)
