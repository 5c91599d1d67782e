"""What becomes of running requests when one of several engines is lost."""

from __future__ import annotations

import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.chaos.faults import FAULTS, engines
from tests.chaos.conftest import NUM_REQUESTS, Subject, assert_gone, at_once, num_listening, subject
from tests.serving import TINY, VERBATIM, tiny_model, wait_for

pytestmark = pytest.mark.engine

READY = 'verbatim_replica_ready{{engine="{}",model="' + TINY + '"}}'


@pytest.fixture(scope="module")
def pair(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    """Two engines of a model, and two processes that answer for both."""
    with subject(tmp_path_factory.mktemp("x"), _config(tiny_path)) as pair:
        wait_for(lambda: num_listening(pair.port) == 2, 30)
        wait_for(lambda: _phases(pair) == {"ready"}, 30)
        pair.learn(NUM_REQUESTS, sampled=True)
        yield pair


def _config(tiny_path: Path, **model: Any) -> dict[str, Any]:
    return {"models": [tiny_model(tiny_path, **{"replicas": 2, **model})], "workers": 2}


Reloaded = Callable[..., None]


@pytest.fixture
def reloaded(pair: Subject, tiny_path: Path) -> Reloaded:
    """Have it read a configuration with other keys of the model."""

    def reload(**model: Any) -> None:
        config = {"host": "127.0.0.1", "port": 0} | _config(tiny_path, **model)
        (pair.temporary.parent / "models.yaml").write_text(yaml.safe_dump(config))
        subprocess.run([*VERBATIM, "reload", "--port", str(pair.port)], check=True, timeout=120)

    return reload


def _phases(pair: Subject) -> set[str]:
    return {one["phase"] for one in pair.ready()["models"][TINY]["replicas"].values()}


@pytest.mark.parametrize(
    "fault",
    [
        "kill -9",
        pytest.param("SIGSTOP", marks=pytest.mark.long),
        pytest.param("SIGSEGV", marks=pytest.mark.long),
    ],
)
def test_every_reply_is_as_without_the_fault(pair: Subject, fault: str) -> None:
    """The model is ready all the while, and the replica comes back."""
    before, seen = engines(pair.pid), list[str]()
    assert len(before) == 2

    def happens() -> None:
        FAULTS[fault](pair.pid, pair.temporary, random.Random(1))
        wait_for(lambda: seen.append(pair.ready()["status"]) or _phases(pair) != {"ready"}, 30)

    assert pair.differences(at_once(pair.port, pair.bodies, happens)) == []
    wait_for(lambda: seen.append(pair.ready()["status"]) or _phases(pair) == {"ready"}, 60)
    assert set(seen) == {"ready"}
    assert_gone([one for one in before if one.pid not in {other.pid for other in engines(pair.pid)}])
    with pair.client() as client:
        assert [client.metric(READY.format(k)) for k in (0, 1)] == [1, 1]


@pytest.mark.long
def test_both_are_lost(pair: Subject) -> None:
    """Then requests wait for the first that is back."""

    def happens() -> None:
        for engine in engines(pair.pid):
            engine.send_signal(signal.SIGKILL)

    assert pair.differences(at_once(pair.port, pair.bodies, happens)) == []
    wait_for(lambda: _phases(pair) == {"ready"}, 60)


@pytest.mark.long
def test_one_after_another_is_reloaded(pair: Subject, reloaded: Reloaded) -> None:
    """A new configuration takes one engine's place at a time: the model is ready all the while, and every
    reply as ever."""
    before, seen = {one.pid for one in engines(pair.pid)}, list[str]()

    def happens() -> None:
        with ThreadPoolExecutor(1) as pool:
            reloading = pool.submit(reloaded, max_num_seqs=100)
            wait_for(lambda: seen.append(pair.ready()["status"]) or reloading.done(), 60)
            reloading.result()

    assert pair.differences(at_once(pair.port, pair.bodies, happens)) == []
    assert set(seen) == {"ready"}
    assert before.isdisjoint({one.pid for one in engines(pair.pid)})


@pytest.mark.long
def test_fewer_and_more(pair: Subject, reloaded: Reloaded) -> None:
    """What a replica works on that is no more goes on in the others; one that is new takes its share."""
    reloaded()
    before = {one.pid for one in engines(pair.pid)}
    assert pair.differences(at_once(pair.port, pair.bodies, lambda: reloaded(replicas=1))) == []
    assert "replicas" not in pair.ready()["models"][TINY]
    (kept,) = engines(pair.pid)
    assert kept.pid in before
    assert pair.differences(at_once(pair.port, pair.bodies, lambda: reloaded(replicas=2))) == []
    wait_for(lambda: _phases(pair) == {"ready"}, 60)
    name = f'vllm:request_success_total{{engine="1",finished_reason="length",model_name="{TINY}"}}'
    with pair.client() as client:
        answered = client.metric(name)
        assert pair.differences(at_once(pair.port, pair.bodies)) == []
        assert client.metric(name) > answered
