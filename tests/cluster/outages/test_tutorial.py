"""docs/cluster.md, from one machine to three, as it is written: three raylets in the place of machines."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from tests.cluster.nodes import ENVIRON, Node, engines, free_port
from tests.cluster.streams import num_ready, replicas, wait_replicas
from tests.serving import TINY, VERBATIM, Client, Server, tiny_model, wait_for

PAGE = (Path(__file__).parents[3] / "docs/cluster.md").read_text("utf-8")
COMMAND = re.compile(r"^(one|two|three)\$ (.*)$", re.MULTILINE)
# What a machine has of its own, and what one machine gives to three.
NODE = "--node-ip-address 127.0.0.1 --num-cpus 1 --num-gpus 0 --object-store-memory 80000000"

pytestmark = pytest.mark.timeout(280)


class Machines:
    """Runs the commands of the page, in its order. servers: the front ends that it has started."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.commands = COMMAND.findall(PAGE)
        self.nodes: dict[str, Node] = {}
        self.servers: dict[str, Server] = {}
        self._folder, self._stack = folder, stack
        self._port = free_port()
        self._temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vray-", dir="/tmp")))

    def url(self, machine: str) -> str:
        """Of its front end, from here."""
        return self.servers[machine].url().replace("0.0.0.0", "127.0.0.1")  # noqa: S104

    def next(self) -> None:
        machine, command = self.commands.pop(0)
        words = shlex.split(command.removesuffix("&").replace("one:6379", f"127.0.0.1:{self._port}"))
        assert words[0] == "verbatim"
        log, environ = self._folder / f"{machine}-{words[1]}.txt", {**os.environ, **ENVIRON}
        if words[1] == "node":
            port = [] if "--join" in words else ["--port", str(self._port)]
            more = [*port, "--", *NODE.split(), "--temp-dir", str(self._temporary / machine)]
        else:
            more = ["--port", "0"]
            environ["RAY_ADDRESS"] = f"127.0.0.1:{self._port}"  # others of this machine may be found too
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*VERBATIM, *words[1:], *more],
                cwd=self._folder,
                env=environ,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if words[1] == "node":
            self.nodes[machine] = Node(process, log)
            self._stack.callback(self.nodes[machine].kill)
        else:
            self.servers[machine] = Server(process, log)
            self._stack.callback(process.wait, 60)
            self._stack.callback(process.terminate)


@pytest.fixture
def machines(model: Path, tmp_path: Path) -> Iterator[Machines]:
    with contextlib.ExitStack() as stack:
        config = {"models": [tiny_model(model, replicas=2)]}
        (tmp_path / "models.yaml").write_text(yaml.safe_dump(config))
        (tmp_path / "api-keys.txt").write_text(f"key {hashlib.sha256(b'key').hexdigest()}\n")
        yield Machines(tmp_path, stack)


def test_from_one_machine_to_three(machines: Machines) -> None:
    """Each step does what the page says of it."""
    machines.next()
    machines.next()
    url = machines.url("one")
    wait_replicas(url, 1)
    wait_for(lambda: "no node has a free" in str(replicas(url)), 30)
    with Client(url, "key", TINY) as client:
        text = client.choice(max_tokens=20, temperature=0)["text"]

    machines.next()
    wait_replicas(url, 2)
    assert [len(engines(machines.nodes[name])) for name in ("one", "two")] == [1, 1]

    machines.next()
    machines.next()
    other = machines.url("three")
    wait_replicas(other, 2)
    assert engines(machines.nodes["three"]) == []
    with Client(other, "key", TINY) as client:
        assert client.choice(max_tokens=20, temperature=0)["text"] == text
    (machine, command) = machines.commands.pop(0)
    assert (machine, command) == ("three", "curl http://three:8000/ready")
    assert httpx.get(other + "/ready", verify=False).json()["status"] == "ready"  # noqa: S501

    for name in ("one", "three"):
        machines.servers[name].process.terminate()
        assert machines.servers[name].process.wait(60) == 0
        assert num_ready(other) == 2 if name == "one" else True
    assert [len(engines(machines.nodes[name])) for name in ("one", "two", "three")] == [0, 0, 0]
    assert machines.commands == []
