"""A cluster of three nodes with two front ends, for all tests of a file: they take parts of it away."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.nodes import Nodes, ray_nodes
from tests.cluster.streams import Streams, wait_replicas
from tests.serving import Server, serving, tiny_model


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if find_spec("ray") is None:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="Ray is not installed"))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    script = Path(__file__).parents[1] / "tiny_llama.py"
    subprocess.run([sys.executable, script, folder], check=True)
    return folder


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A head without engines, and two nodes for one each."""
    with ray_nodes(0, 1, 1) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def config(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of every front end. One of the keys has a limit."""
    file = tmp_path_factory.mktemp("keys") / "keys.txt"
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("key", "tight", "ops")}
    words = {"key": "", "tight": "requests_per_minute=4", "ops": "roles=admin"}
    file.write_text("".join(f"{name} {digests[name]} {more}\n" for name, more in words.items()))
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
