"""Single processes of a cluster are killed under 64 streams; a whole node is in tests/cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cluster.nodes import Nodes, engines
from tests.cluster.streams import Streams, replicas, wait_replicas, wait_running
from tests.serving import Server, serving, wait_for

pytestmark = pytest.mark.timeout(280)


def test_a_front_end_that_is_killed_costs_the_others_nothing(
    nodes: Nodes,
    config: dict[str, Any],
    first: Server,
    second: Server,
    undisturbed: list[str],
    tmp_path: Path,
) -> None:
    """kill -9 of one, with streams of its own: what the others stream is as if nothing had been."""
    with serving(tmp_path, config, "--cluster", nodes.address) as third:
        wait_replicas(third.url(), 2)
        lost, kept = Streams([third.url()], 16, 480), Streams([first.url(), second.url()])
        wait_for(lambda: any(one["running"] for one in replicas(third.url()).values()), 30)
        third.process.kill()
        assert kept.results() == undisturbed
        assert all(isinstance(one, BaseException) for one in lost.results())


def test_an_engine_that_is_killed_costs_no_stream(
    nodes: Nodes, first: Server, second: Server, undisturbed: list[str]
) -> None:
    """kill -9 of an engine's process under 64 streams: they go on with the other replica, and nothing in them
    is wrong."""
    streams = Streams([first.url(), second.url()])
    wait_running(first.url())
    (engine,) = engines(nodes.nodes[1])
    engine.kill()
    assert streams.results() == undisturbed
    wait_replicas(first.url(), 2)


def test_an_actor_that_is_killed_costs_no_stream(
    nodes: Nodes, first: Server, second: Server, undisturbed: list[str]
) -> None:
    """kill -9 of the actor's process: its engine ends with it, and Ray starts both again."""
    streams = Streams([first.url(), second.url()])
    wait_running(first.url())
    (engine,) = engines(nodes.nodes[1])
    engine.parent().kill()  # type: ignore[union-attr]
    assert streams.results() == undisturbed
    wait_replicas(first.url(), 2)
    assert not engine.is_running()
