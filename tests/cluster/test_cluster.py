"""Three nodes in one box, real engines on the CPU: where they run, who reaches them, what is lost when a part
dies. The nodes are processes on loopback, so what is not shown is a network that loses packets."""

from __future__ import annotations

import hashlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.nodes import Nodes, engines, ray_nodes
from tests.cluster.streams import Streams, num_ready, replicas, wait_replicas, wait_running
from tests.serving import TINY, Client, Server, serving, tiny_model, wait_for

pytestmark = pytest.mark.timeout(280)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A head without engines, and two nodes for one each."""
    with ray_nodes(0, 1, 1) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def config(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of every front end. One of the keys has a limit."""
    file = tmp_path_factory.mktemp("keys") / "keys.txt"
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("key", "tight")}
    file.write_text(f"key {digests['key']}\ntight {digests['tight']} requests_per_minute=4\n")
    return {"models": [tiny_model(model, replicas=2, max_model_len=1024)], "api_keys_file": str(file)}


@pytest.fixture(scope="module")
def first(nodes: Nodes, config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A front end."""
    with serving(tmp_path_factory.mktemp("first"), config, "--cluster", nodes.address) as server:
        wait_replicas(server.url(), 2)
        yield server


@pytest.fixture(scope="module")
def second(
    nodes: Nodes, config: dict[str, Any], first: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Another one."""
    with serving(tmp_path_factory.mktemp("second"), config, "--cluster", nodes.address) as server:
        wait_replicas(server.url(), 2)
        yield server


@pytest.fixture(scope="module")
def undisturbed(second: Server, first: Server) -> list[str | BaseException]:
    """What the streams say when nothing happens."""
    return Streams([first.url(), second.url()]).results()


def test_replicas_lie_where_there_is_room(nodes: Nodes, first: Server) -> None:
    """Ray places an engine on each node that has a free CPU, and none on the head, which has none."""
    assert [len(engines(node)) for node in nodes.nodes] == [0, 1, 1]


def test_front_ends_share_the_engines(nodes: Nodes, first: Server, second: Server) -> None:
    """Another front end starts none, and answers word for word the same."""
    assert [len(engines(node)) for node in nodes.nodes] == [0, 1, 1]
    texts = set()
    for server in (first, second):
        with Client(server.url(), "key", TINY) as client:
            texts.add(client.choice(max_tokens=30, seed=1, temperature=1)["text"])
    assert len(texts) == 1


def test_a_limit_holds_over_front_ends(first: Server, second: Server) -> None:
    """What a key has used on one front end is used on the other one a second later."""
    with Client(first.url(), "tight", TINY) as one, Client(second.url(), "tight", TINY) as other:
        statuses = [one.ask(max_tokens=1).status_code for _ in range(3)]
        time.sleep(2)
        statuses += [other.ask(max_tokens=1).status_code for _ in range(2)]
        time.sleep(2)
        statuses.append(one.ask(max_tokens=1).status_code)
    assert statuses == [200, 200, 200, 200, 429, 429]


def test_another_configuration_is_refused(
    nodes: Nodes, config: dict[str, Any], first: Server, model: Path, tmp_path: Path
) -> None:
    """A front end whose models are not those of the cluster does not start, and says what differs."""
    other = config | {"models": [tiny_model(model, replicas=2, max_model_len=1024, max_num_seqs=8)]}
    with serving(tmp_path, other, "--cluster", nodes.address) as server:
        assert server.process.wait(60) == 2
    assert "models[tests/tiny-llama].max_num_seqs is 256 there and 8 here" in server.said()


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


def test_a_node_that_is_lost_costs_no_stream(
    nodes: Nodes, first: Server, second: Server, undisturbed: list[str]
) -> None:
    """kill -9 of a raylet under 64 streams: they go on on the other node, and nothing in them is wrong. On
    the next node that joins, the replica is started again."""
    streams = Streams([first.url(), second.url()])
    wait_running(first.url())
    nodes.nodes[1].find("raylet").kill()
    assert streams.results() == undisturbed
    assert num_ready(first.url()) == 1
    wait_for(
        lambda: any("no node has" in one.get("detail", "") for one in replicas(first.url()).values()), 60
    )
    nodes.add(1).wait_up()
    wait_replicas(first.url(), 2)
    assert len(engines(nodes.nodes[3])) == 1


def test_the_last_front_end_ends_the_engines(nodes: Nodes, first: Server, second: Server) -> None:
    """While one is there they run; when the last has left nothing of them is left on any node."""
    second.process.send_signal(signal.SIGTERM)
    assert second.process.wait(60) == 0
    with Client(first.url(), "key", TINY) as client:
        client.complete(max_tokens=5)
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(60) == 0
    assert [len(engines(node)) for node in nodes.nodes[2:]] == [0, 0]
