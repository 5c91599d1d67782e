"""Three nodes in one box, real engines on the CPU: where they run, who reaches them, what is lost when a part
dies. The nodes are processes on loopback, so what is not shown is a network that loses packets."""

from __future__ import annotations

import signal
import time
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster.nodes import Nodes, engines
from tests.cluster.streams import Streams, num_ready, replicas, wait_replicas, wait_running
from tests.serving import TINY, Client, Server, serving, tiny_model, wait_for

pytestmark = pytest.mark.timeout(280)


def test_replicas_lie_where_there_is_room(nodes: Nodes, first: Server) -> None:
    """Ray places an engine on each node that has a free CPU, and none on the head, which has none."""
    assert [len(engines(node)) for node in nodes.nodes] == [0, 1, 1]


def test_the_nodes_are_named(first: Server) -> None:
    """An admin is told which node each replica is on. (Those of this box have one address.)"""
    headers = {"authorization": "Bearer ops"}
    details = httpx.get(f"{first.url()}/status/details", headers=headers).json()
    (found,) = details["nodes"].values()
    assert (found.keys(), len(set(found.values()))) == ({"0", "1"}, 1)
    ip_address(found["0"])


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
    assert "models[tests/tiny-llama].max_num_seqs is 256 in the cluster and 8 here" in server.said()


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
