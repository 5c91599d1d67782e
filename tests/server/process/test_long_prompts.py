"""Prompts of eight million characters, which no model takes: what they cost a server that refuses them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from tests.helpers import byte_level, model_directory
from tests.serving import serving

CONTEXT_SIZE = 8192
NUM_CLIENTS = 12
TEXT = "hello world, once upon a time " * 270_000


@contextmanager
def watched(process: psutil.Process) -> Iterator[list[int]]:
    """The bytes that the process has in memory, again and again."""
    seen, over = [process.memory_info().rss], threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            seen.append(process.memory_info().rss)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def test_refused_without_tokenizing_all_of_it(tmp_path: Path) -> None:
    """A dozen of them at once, in three seconds of one core and in less than 1 GB."""
    path = model_directory(tmp_path / "model", byte_level())
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": CONTEXT_SIZE}))
    body = json.dumps({"model": "m", "prompt": TEXT, "max_tokens": 1})
    headers = {"authorization": "Bearer key", "content-type": "application/json"}
    models = [{"id": "m", "path": str(path), "engine": "simulated"}]
    with serving(tmp_path / "server", {"models": models}) as server:
        server.wait_ready()
        process, url = psutil.Process(server.process.pid), server.url() + "/v1/completions"
        before = sum(process.cpu_times()[:2])

        def ask(_: int) -> httpx.Response:
            return httpx.post(url, content=body, headers=headers, timeout=60)

        with watched(process) as memory, ThreadPoolExecutor(NUM_CLIENTS) as clients:
            replies = list(clients.map(ask, range(NUM_CLIENTS)))
        cpu_s = sum(process.cpu_times()[:2]) - before
    for reply in replies:
        assert reply.status_code == 400
        assert f"maximum context length is {CONTEXT_SIZE} tokens, however you requested" in reply.text
        assert "at least" in reply.text
    assert max(memory) < 1e9
    assert cpu_s < 3
