"""A process in reserve takes the place of an engine that was killed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import yaml

from tests.serving import CAPITAL, TINY, VERBATIM, Client, Server, serving, tiny_model, wait_for

pytestmark = pytest.mark.engine

# An engine that imports vLLM has nothing like it; one that has it waits.
IMPORTED_BYTES = 3e8
IDLE_S = 1.0


@pytest.fixture(scope="module")
def server(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    config = {"models": [tiny_model(tiny_path, standby=True)]}
    with serving(tmp_path_factory.mktemp("standby"), config) as server:
        server.wait_ready()
        yield server


def hosts(server: Server) -> list[psutil.Process]:
    """The engine's process and the one in reserve, oldest first."""
    return sorted(psutil.Process(server.process.pid).children(), key=lambda process: process.create_time())


def waits(process: psutil.Process) -> bool:
    """Whether it has imported vLLM and does nothing more."""
    before = process.cpu_times()
    time.sleep(IDLE_S)
    return process.memory_info().rss > IMPORTED_BYTES and process.cpu_times()[:2] == before[:2]


@pytest.mark.long
def test_the_process_in_reserve_is_the_next_engine(server: Server) -> None:
    """A stream goes on in it, to the text of an undisturbed one; then there is another in reserve."""
    fields = {"prompt": CAPITAL, "max_tokens": 200, "ignore_eos": True, "temperature": 0}
    with Client(server.url(), "any", TINY) as client, ThreadPoolExecutor(1) as pool:
        wait_for(lambda: len(hosts(server)) == 2 and waits(hosts(server)[1]), 60)
        engine, spare = hosts(server)
        undisturbed = client.choice(**fields)["text"]
        asked = pool.submit(client.choice, **fields)
        wait_for(lambda: client.running(TINY) == 1, 30)
        engine.kill()
        assert asked.result()["text"] == undisturbed
        wait_for(lambda: len(hosts(server)) == 2, 30)
    assert hosts(server)[0].pid == spare.pid


@pytest.mark.long
def test_another_engine_has_one_of_its_own(server: Server) -> None:
    """After a reload neither the engine before nor what it had in reserve is there any more."""
    wait_for(lambda: len(hosts(server)) == 2, 30)
    before = hosts(server)
    file = server.log.with_name("models.yaml")
    changed = yaml.safe_load(file.read_text())
    changed["models"][0]["max_num_seqs"] = 100
    file.write_text(yaml.safe_dump(changed))
    port = server.url().rpartition(":")[2]
    subprocess.run([*VERBATIM, "reload", "--port", port], check=True, timeout=120)
    wait_for(lambda: len(hosts(server)) == 2, 30)
    assert not {process.pid for process in before} & {process.pid for process in hosts(server)}
    with Client(server.url(), "any", TINY) as client:
        assert client.complete(max_tokens=5)["usage"]["completion_tokens"] == 5


@pytest.mark.long
def test_none_is_left(server: Server) -> None:
    """The one in reserve ends with its server."""
    wait_for(lambda: len(hosts(server)) == 2, 30)
    left = hosts(server)
    server.process.terminate()
    server.process.wait(30)
    assert not [process for process in left if process.is_running()]
