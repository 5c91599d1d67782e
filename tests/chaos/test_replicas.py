"""What becomes of running requests when one of several engines is lost."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.chaos.faults import FAULTS, engines
from tests.chaos.conftest import NUM_REQUESTS, Subject, assert_gone, at_once, num_listening, subject
from tests.serving import TINY, tiny_model, wait_for

pytestmark = pytest.mark.engine

READY = 'verbatim_replica_ready{{engine="{}",model="' + TINY + '"}}'


@pytest.fixture(scope="module")
def pair(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    """Two engines of a model, and two processes that answer for both."""
    config = {"models": [tiny_model(tiny_path, replicas=2)], "workers": 2}
    with subject(tmp_path_factory.mktemp("x"), config) as pair:
        wait_for(lambda: num_listening(pair.port) == 2, 30)
        wait_for(lambda: _phases(pair) == {"ready"}, 30)
        pair.learn(NUM_REQUESTS, sampled=True)
        yield pair


def _phases(pair: Subject) -> set[str]:
    return {one["phase"] for one in pair.ready()["models"][TINY]["replicas"].values()}


@pytest.mark.parametrize("fault", ["kill -9", "SIGSTOP", "SIGSEGV"])
def test_every_reply_is_as_without_the_fault(pair: Subject, fault: str) -> None:
    """The model is ready all the while, and the replica comes back."""
    before, seen = engines(pair.pid), list[str]()
    assert len(before) == 2

    def happens() -> None:
        FAULTS[fault](pair.pid, pair.temporary, random.Random(1))
        wait_for(lambda: seen.append(pair.ready()["status"]) or _phases(pair) != {"ready"}, 10)

    assert pair.differences(at_once(pair.port, pair.bodies, happens)) == []
    wait_for(lambda: seen.append(pair.ready()["status"]) or _phases(pair) == {"ready"}, 60)
    assert set(seen) == {"ready"}
    assert_gone([one for one in before if one.pid not in {other.pid for other in engines(pair.pid)}])
    with pair.client() as client:
        assert [client.metric(READY.format(k)) for k in (0, 1)] == [1, 1]


def test_both_are_lost(pair: Subject) -> None:
    """Then requests wait for the first that is back."""

    def happens() -> None:
        for engine in engines(pair.pid):
            engine.send_signal(signal.SIGKILL)

    assert pair.differences(at_once(pair.port, pair.bodies, happens)) == []
    wait_for(lambda: _phases(pair) == {"ready"}, 60)
