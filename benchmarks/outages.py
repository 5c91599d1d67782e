"""What outages cost in a Ray cluster: kills one part after another of three nodes under 64 streams.

It measures how many streams finish, whether any of their tokens is wrong, how long they pause, and when the
cluster is whole again. All nodes are on this machine (as in tests/cluster), with real engines on the CPU and
a tiny model: the pauses are those of Ray and of the server, not those of loading a large model.

python -m benchmarks.outages --model DIRECTORY --json benchmarks/results/outages-cpu.json
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from benchmarks.report import machine, table, write
from tests.cluster.nodes import ACTOR, KEEPER, Nodes, engines, named, ray_nodes
from tests.cluster.streams import NUM_STREAMS, Streams, num_ready, wait_replicas, wait_running
from tests.serving import Server, serving, tiny_model

WITHOUT_HEAD_S = 100.0  # longer than whoever is silent is taken for gone
AGAIN_S = 180.0  # for all to be as before
# So that the cluster outlives its head: its state is on the head's disk, and nodes wait for it.
STORAGE = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_rpc_server_reconnect_timeout_s": "600"}


class Outages:
    """front_ends: two, of which the first one's streams are watched too."""

    def __init__(self, nodes: Nodes, front_ends: list[Server], console: Console) -> None:
        self.nodes = nodes
        self._urls = [one.url() for one in front_ends]
        self._console = console
        self.expected = Streams(self._urls).results()
        self.cells: list[dict[str, Any]] = []

    def measure(self, part: str, kill: Callable[[], Any], again: Callable[[], Any] = lambda: None) -> None:
        """again: what a person does then, before all can be as before."""
        wait_replicas(self._urls[0], 2, AGAIN_S)
        streams = Streams(self._urls)
        wait_running(self._urls[0])
        killed_at = time.monotonic()
        kill()
        texts = streams.results()
        again()
        wait_replicas(self._urls[0], 2, AGAIN_S)
        self.cells.append(
            {
                "part": part,
                "streams": len(texts),
                "finished": sum(isinstance(one, str) for one in texts),
                "wrong": sum(
                    isinstance(one, str) and one != other
                    for one, other in zip(texts, self.expected, strict=True)
                ),
                "longest_pause_s": round(streams.longest_pause_s, 2),
                "whole_again_s": round(time.monotonic() - killed_at, 1),
            }
        )
        self._console.print(self.cells[-1])

    def go_on(self, seconds: float) -> None:
        """Requests for so long, all of which have to be answered as ever."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert Streams(self._urls).results() == self.expected
            time.sleep(1)


def on(nodes: Nodes, title: str) -> psutil.Process:
    """The first such process, on whichever node."""
    return next(one for node in nodes.nodes for one in named(node, title))


def agent(server: Server) -> psutil.Process:
    return next(one for one in server.engines() if "server.engine.ray.agent" in one.cmdline())


def node_with_engine(nodes: Nodes) -> int:
    """The last one: its number."""
    return max(number for number, node in enumerate(nodes.nodes) if engines(node))


def run(model: Path, console: Console) -> list[dict[str, Any]]:
    folder = Path(tempfile.mkdtemp())
    config = {"models": [tiny_model(model, replicas=2)]}
    environ = STORAGE | {"RAY_gcs_storage_path": str(folder / "gcs")}
    with contextlib.ExitStack() as stack:
        nodes = stack.enter_context(ray_nodes(0, 1, 1, environ=environ))
        flags = ("--cluster", nodes.address)
        first = stack.enter_context(serving(folder / "first", config, *flags))
        second = stack.enter_context(serving(folder / "second", config, *flags))
        for server in (first, second):
            wait_replicas(server.url(), 2, AGAIN_S)
        outages = Outages(nodes, [first, second], console)
        outages.measure("nothing", lambda: None)
        outages.measure("an engine's process", lambda: engines(nodes.nodes[1])[0].kill())
        stopped = engines(nodes.nodes[1])[0]
        outages.measure("an engine's process, stopped", lambda: stopped.send_signal(signal.SIGSTOP))
        outages.measure("an actor", lambda: named(nodes.nodes[1], ACTOR)[0].kill())
        outages.measure("the keeper", lambda: on(nodes, KEEPER).kill())
        outages.measure("a front end's agent", lambda: agent(first).kill())
        with serving(folder / "third", config, *flags) as third:
            wait_replicas(third.url(), 2, AGAIN_S)
            Streams([third.url()], 16)
            outages.measure("another front end", third.process.kill)
        number = node_with_engine(nodes)
        outages.measure(
            "a raylet, and another node joins", nodes.nodes[number].find("raylet").kill, lambda: nodes.add(1)
        )
        number = node_with_engine(nodes)
        outages.measure("a whole node, and another joins", nodes.nodes[number].kill, lambda: nodes.add(1))
        back: list[Callable[[], None]] = []

        def again() -> None:
            outages.go_on(WITHOUT_HEAD_S)
            back[0]()

        part = f"the head, started again after {WITHOUT_HEAD_S:.0f} s"
        outages.measure(part, lambda: back.append(nodes.kill_head()), again)
        outages.measure("an engine's process, after that", lambda: engines(nodes.nodes[-1])[0].kill())
        assert num_ready(second.url()) == 2
        return outages.cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="directory that tests/tiny_llama.py wrote")
    parser.add_argument("--json", type=Path, help="where to write the results")
    arguments = parser.parse_args()
    console = Console(soft_wrap=True)
    cells = run(arguments.model, console)
    rows = [
        [str(one[key]) for key in ("part", "finished", "wrong", "longest_pause_s", "whole_again_s")]
        for one in cells
    ]
    columns = ("killed", f"of {NUM_STREAMS} finished", "wrong", "longest pause, s", "whole again after, s")
    console.print(table("64 streams over two front ends, two replicas on two nodes", columns, rows))
    if arguments.json:
        write(arguments.json, {"machine": machine("outages"), "cells": cells})


if __name__ == "__main__":
    main()
