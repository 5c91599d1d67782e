"""A model gets another engine while requests run on it."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
import yaml

from tests.serving import CAPITAL, TINY, VERBATIM, Client, serving, tiny_model, wait_for

pytestmark = pytest.mark.engine

NUM_STREAMS = 4
# With several processes, what holds for one has to hold in each.
WORKERS = [pytest.param(1, marks=pytest.mark.long), 2]


@pytest.mark.parametrize("workers", WORKERS)
def test_streams_go_on_in_the_next_engine(tiny_path: Path, tmp_path: Path, workers: int) -> None:
    """Greedy and seeded ones, to the texts of undisturbed ones, in each process that answers; and the engine
    before is gone then."""
    model = tiny_model(tiny_path, max_model_len=512)
    config = {"host": "127.0.0.1", "port": 0, "models": [model], "workers": workers}
    with serving(tmp_path, config) as server:
        server.wait_ready()
        url, done = server.url(), Event()
        before = max(server.engines(), key=lambda process: process.memory_info().rss)

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
            changed = config | {"models": [model | {"max_num_seqs": 100}]}
            (tmp_path / "models.yaml").write_text(yaml.safe_dump(changed))
            try:
                command = [*VERBATIM, "reload", "--port", url.rpartition(":")[2]]
                subprocess.run(command, check=True, timeout=120)
            finally:
                done.set()
            assert [stream.result() for stream in streams] == [[]] * NUM_STREAMS
        with Client(url, "any", TINY) as client:
            assert client.metric(f'verbatim_resumed_total{{engine="0",model="{TINY}"}}') >= NUM_STREAMS
        wait_for(lambda: not before.is_running(), 30)


@pytest.mark.parametrize("workers", WORKERS)
def test_requests_end_before_their_model_does(tiny_path: Path, tmp_path: Path, workers: int) -> None:
    """In each process that answers, while another model has come in its place; then its engine is gone."""
    model = tiny_model(tiny_path, max_model_len=512)
    config = {"host": "127.0.0.1", "port": 0, "models": [model], "workers": workers}
    with serving(tmp_path, config) as server:
        server.wait_ready()
        url = server.url()
        before = max(server.engines(), key=lambda process: process.memory_info().rss)

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
            (tmp_path / "models.yaml").write_text(
                yaml.safe_dump(config | {"models": [model | {"id": "comes"}]})
            )
            command = [*VERBATIM, "reload", "--port", url.rpartition(":")[2]]
            subprocess.run(command, check=True, timeout=120)
            assert [one.result() for one in asking] == [[]] * NUM_STREAMS
            assert list(pool.map(reply, range(NUM_STREAMS), ["comes"] * NUM_STREAMS)) == undisturbed
        wait_for(lambda: not before.is_running(), 30)
