"""A model gets another engine while requests run on it, and then another model comes in its place. The tests
follow each other on one server."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import psutil
import pytest
import yaml

from tests.serving import CAPITAL, TINY, VERBATIM, Client, Server, serving, tiny_model, wait_for

pytestmark = pytest.mark.engine

NUM_STREAMS = 4


# With several processes, what holds for one has to hold in each.
@pytest.fixture(scope="module", params=[pytest.param(1, marks=pytest.mark.long), 2])
def server(
    request: pytest.FixtureRequest, tiny_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    config = {"models": [tiny_model(tiny_path, max_model_len=512)], "workers": request.param}
    with serving(tmp_path_factory.mktemp("reload"), config) as server:
        server.wait_ready()
        yield server


def change(server: Server, **keys: object) -> None:
    """Keys of its model, by a reload."""
    file = server.log.with_name("models.yaml")
    config = yaml.safe_load(file.read_text())
    config["models"][0] |= keys
    file.write_text(yaml.safe_dump(config))
    port = server.url().rpartition(":")[2]
    subprocess.run([*VERBATIM, "reload", "--port", port], check=True, timeout=120)


def engine_of(server: Server) -> psutil.Process:
    return max(server.engines(), key=lambda process: process.memory_info().rss)


def test_streams_go_on_in_the_next_engine(server: Server) -> None:
    """Greedy and seeded ones, to the texts of undisturbed ones, in each process that answers; and the engine
    before is gone then."""
    url, done, before = server.url(), Event(), engine_of(server)

    def text(k: int) -> str:
        fields = {"prompt": f"{CAPITAL} {k}", "temperature": k % 2, "repetition_penalty": 1.1}
        with Client(url, "any", TINY) as client:
            chunks = client.chunks(**fields, seed=k, max_tokens=250, ignore_eos=True)
        return "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])

    def differing(k: int) -> list[str]:
        """Of streams one after another."""
        texts = []
        while not done.is_set():
            texts.append(text(k))
        return [one for one in texts if one != undisturbed[k]]

    with ThreadPoolExecutor(NUM_STREAMS) as pool:
        undisturbed = list(pool.map(text, range(NUM_STREAMS)))
        streams = [pool.submit(differing, k) for k in range(NUM_STREAMS)]
        try:
            change(server, max_num_seqs=100)
        finally:
            done.set()
        assert [stream.result() for stream in streams] == [[]] * NUM_STREAMS
    with Client(url, "any", TINY) as client:
        assert client.metric(f'verbatim_resumed_total{{engine="0",model="{TINY}"}}') >= NUM_STREAMS
    wait_for(lambda: not before.is_running(), 30)


def test_requests_end_before_their_model_does(server: Server) -> None:
    """In each process that answers, while another model has come in its place; then its engine is gone."""
    url, before = server.url(), engine_of(server)

    def reply(k: int, name: str = TINY) -> tuple[int, str]:
        with Client(url, "any", name) as client:
            answer = client.ask(prompt=f"{CAPITAL} {k}", seed=k, max_tokens=300, ignore_eos=True)
        is_good = answer.status_code == 200
        return answer.status_code, answer.json()["choices"][0]["text"] if is_good else answer.text

    def differing(k: int) -> list[tuple[int, str]]:
        """Of replies one after another, until the model is gone."""
        replies = []
        while (found := reply(k))[0] != 404:
            replies.append(found)
        return [one for one in replies if one != undisturbed[k]]

    with ThreadPoolExecutor(NUM_STREAMS) as pool:
        undisturbed = list(pool.map(reply, range(NUM_STREAMS)))
        asking = [pool.submit(differing, k) for k in range(NUM_STREAMS)]
        change(server, id="comes")
        assert [one.result() for one in asking] == [[]] * NUM_STREAMS
        assert list(pool.map(reply, range(NUM_STREAMS), ["comes"] * NUM_STREAMS)) == undisturbed
    wait_for(lambda: not before.is_running(), 30)
