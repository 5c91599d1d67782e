"""A Ray cluster in one box: a head and further nodes, each a raylet of its own on loopback."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.serving import wait_for

START_S = 60.0
# As Ray and vLLM name their processes.
ENGINE, ACTOR, KEEPER = "VLLM::EngineCore", "ray::EngineActor", "ray::Keeper"
NODE = (sys.executable, "-m", "server.engine.ray.node")
# A node that is gone is noticed within seconds.
ENVIRON = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "4",
}


@dataclass
class Node:
    """One node: `ray start --block`, and what that has started. log: what it has said."""

    process: subprocess.Popen[bytes]
    log: Path

    def wait_up(self) -> None:
        def up() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return "Ray runtime started" in self.log.read_text()

        wait_for(up, START_S)

    def find(self, name: str) -> psutil.Process:
        """The process of it whose program has that name: raylet, gcs_server."""
        found = [one for one in self.processes() if Path(one.cmdline()[0]).name == name]
        assert found, f"{self.log.read_text()}: no {name}"
        return found[0]

    def processes(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def kill(self) -> None:
        """All of it at once, as when a machine loses its power."""
        for one in [*self.processes(), psutil.Process(self.process.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.wait()


@dataclass
class Nodes:
    """port: of the head."""

    folder: Path
    port: int
    environ: dict[str, str]
    nodes: list[Node] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def kill_head(self) -> Callable[[], None]:
        """As when its machine loses its power. Returns what starts its GCS again, with the same storage: a
        whole node would not start here, because it finds the others' processes and takes them for its own."""
        gcs = self.nodes[0].find("gcs_server")
        command, environ = gcs.cmdline(), gcs.environ()
        self.nodes[0].kill()

        def again() -> None:
            with (self.folder / "gcs.log").open("wb") as out:
                process = subprocess.Popen(
                    command, stdout=out, stderr=subprocess.STDOUT, env=environ, start_new_session=True
                )
            self.nodes[0] = Node(process, self.folder / "gcs.log")

        return again

    def add(self, num_cpus: int = 1, *more: str) -> Node:
        """A further node; the first one is the head."""
        head = ["--head", "--port", str(self.port)]
        where = ["--address", self.address] if self.nodes else head
        log = self.folder / f"node-{len(self.nodes)}.log"
        command = [*NODE, *where, "--node-ip-address", "127.0.0.1", "--num-cpus", str(num_cpus)]
        command += ["--num-gpus", "0", "--object-store-memory", "80000000", *more]
        # Of its own: else two that start at once collide.
        command += ["--temp-dir", str(self.folder / str(len(self.nodes)))]
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, env=self.environ, start_new_session=True
            )
        node = Node(process, log)
        self.nodes.append(node)

        if len(self.nodes) == 1:
            node.wait_up()
        return node


@contextlib.contextmanager
def ray_nodes(*num_cpus: int, environ: dict[str, str] | None = None) -> Iterator[Nodes]:
    """A cluster of as many nodes. Its folder has a short name, for the sockets in it."""
    folder = Path(tempfile.mkdtemp(prefix="vray-", dir="/tmp"))
    nodes = Nodes(folder, free_port(), {**os.environ, **ENVIRON, **(environ or {})})
    try:
        for count in num_cpus:
            nodes.add(count)
        for node in nodes.nodes:
            node.wait_up()
        yield nodes
    finally:
        for node in nodes.nodes:
            with contextlib.suppress(psutil.NoSuchProcess):
                node.kill()
        shutil.rmtree(folder, ignore_errors=True)


def engines(node: Node) -> list[psutil.Process]:
    """The processes of engines on that node."""
    return named(node, ENGINE)


def named(node: Node, title: str) -> list[psutil.Process]:
    """The processes on that node whose title begins so."""
    found = []
    for process in node.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.cmdline()[:1] and process.cmdline()[0].startswith(title):
                found.append(process)
    return found


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
