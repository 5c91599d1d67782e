"""A front end that does not get into a cluster says why, and what to do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cluster.nodes import free_port, ray_nodes
from tests.cluster.streams import wait_replicas
from tests.serving import serving, tiny_model

pytestmark = pytest.mark.timeout(280)
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}


def test_there_is_no_cluster(model: Path, tmp_path: Path) -> None:
    """It waits a while for a node that is about to start, and ends then."""
    config = {"models": [tiny_model(model)]}
    with serving(tmp_path, config, "--cluster", f"127.0.0.1:{free_port()}") as server:
        assert server.process.wait(60) == 2
    assert "Start a node here: `verbatim node`" in server.said()


def test_a_token_is_asked_for(model: Path, tmp_path: Path) -> None:
    """With Ray's token on the nodes, a front end that has it joins, and one without does not."""
    config = {"models": [tiny_model(model)]}
    without = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with ray_nodes(1, environ=TOKEN) as nodes:
        flags = ("--cluster", nodes.address)
        with serving(tmp_path / "with", config, *flags, environ=without | TOKEN) as server:
            wait_replicas(server.url(), 1)
            with serving(tmp_path / "without", config, *flags, environ=without) as stranger:
                assert stranger.process.wait(120) == 2
            assert "no Ray cluster answers" in stranger.said()
