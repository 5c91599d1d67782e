"""Many streams at once, whose texts depend on nothing but the request."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx

from tests.serving import TINY, Client, fold, wait_for

NUM_STREAMS = 64
NUM_TOKENS = 200


class Streams:
    """One each for the numbers 0 and up, spread over the front ends. Begun when made."""

    def __init__(self, urls: Sequence[str], count: int = NUM_STREAMS, num_tokens: int = NUM_TOKENS) -> None:
        self._pool = ThreadPoolExecutor(count)
        self._num_tokens = num_tokens
        self._futures: list[Future[Any]] = [
            self._pool.submit(self._one, urls[number % len(urls)], number) for number in range(count)
        ]

    def results(self) -> list[str | Exception]:
        """The text of each, or what has gone wrong with it, when all have ended."""
        self._pool.shutdown()
        return [one.exception() or one.result() for one in self._futures]  # type: ignore[misc]

    @property
    def num_done(self) -> int:
        return sum(one.done() for one in self._futures)

    def _one(self, url: str, number: int) -> str:
        with Client(url, "key", TINY) as client:
            chunks = client.chunks(
                prompt=f"Story number {number}:",
                max_tokens=self._num_tokens,
                min_tokens=self._num_tokens,
                temperature=1,
                seed=number,
            )
        (choice,) = fold(chunks)
        assert choice["finish_reason"] == "length"
        return str(choice["text"])


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
