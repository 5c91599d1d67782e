"""Model folders, served on a real engine as `verbatim init` has written them down, and without that."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.serving import CAPITAL, VERBATIM, Client, serving

pytestmark = pytest.mark.engine


@pytest.mark.long
def test_what_init_has_written_is_served(tiny_path: Path, tmp_path: Path) -> None:
    """With the context and the memory that it has chosen."""
    shutil.copytree(tiny_path, tmp_path / "models" / "mine")
    file = tmp_path / "models.yaml"
    command = [*VERBATIM, "init", tmp_path / "models", "--out", file]
    subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[2])
    config = yaml.safe_load(file.read_text())
    config["models"][0]["path"] = str(tmp_path / "models" / "mine")
    with serving(tmp_path / "server", config | {"port": 0}) as server, Client(server.url(), "any") as client:
        server.wait_ready()
        assert client.choice(model="mine", prompt=CAPITAL, max_tokens=3)["finish_reason"] == "length"
        assert client.get("/v1/models/mine").json()["context_size"] == 2048
