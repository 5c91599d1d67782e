"""`verbatim init` writes a file that `verbatim check` and `verbatim serve` take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from server.config.loading import load_settings
from tests.server.engine.test_fit import directory
from tests.server.test_cli import verbatim

__all__ = ["directory"]
MANY = 2**40


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "written" / "models.yaml"


def test_file_is_a_configuration(directory: Path, tmp_path: Path, out: Path) -> None:
    """Of the model that is there, by its folder's name, with a path from the file's folder."""
    _with_context(directory, 2048)
    out.parent.mkdir()
    result = verbatim("init", str(directory), "--out", str(out), "--gpu-memory", "8GiB")
    assert result.exit_code == 0, result.stderr
    (model,) = load_settings(out, {}, {}).models
    assert (model.id, model.directory.resolve(), model.max_model_len) == (directory.name, directory, 2048)
    assert f"path: {json.dumps('..')}" in out.read_text()
    assert verbatim("check", "--config", str(out), "--gpu-memory", "8GiB").exit_code == 0


def test_context_is_cut_to_what_fits(directory: Path, out: Path) -> None:
    """Where the model's own is longer than the memory, with the number beside it."""
    _with_context(directory, MANY)
    out.parent.mkdir()
    verbatim("init", str(directory), "--out", str(out), "--gpu-memory", "8GiB")
    (model,) = load_settings(out, {}, {}).models
    assert model.max_model_len
    assert 1024 <= model.max_model_len < MANY
    assert f"its own is {MANY}" in out.read_text()
    assert verbatim("check", "--config", str(out), "--gpu-memory", "8GiB").exit_code == 0


def test_several_share_the_memory(directory: Path, tmp_path: Path, out: Path) -> None:
    """All models of a folder, each with its part of the GPU."""
    _with_context(directory, 64)
    for name in ("one", "two"):
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        for file in ("config.json", "tokenizer.json", "model.safetensors"):
            (folder / file).write_bytes((directory / file).read_bytes())
    out.parent.mkdir()
    verbatim("init", str(tmp_path / "models"), "--out", str(out), "--gpu-memory", "8GiB")
    written = yaml.safe_load(out.read_text())["models"]
    assert [(one["id"], one["gpu_memory_utilization"]) for one in written] == [("one", 0.45), ("two", 0.45)]


def test_nothing_is_written_over(directory: Path, out: Path) -> None:
    """Unless that is asked for."""
    _with_context(directory, 64)
    out.parent.mkdir()
    out.write_text("mine")
    result = verbatim("init", str(directory), "--out", str(out))
    assert (result.exit_code, out.read_text()) == (2, "mine")
    assert "--force" in result.stderr
    assert verbatim("init", str(directory), "--out", str(out), "--force").exit_code == 0
    assert out.read_text() != "mine"


def test_model_that_cannot_be_served(tmp_path: Path, out: Path) -> None:
    """Named with what it lacks."""
    result = verbatim("init", str(tmp_path / "none"), "--out", str(out))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "does not exist" in result.stderr


def _with_context(directory: Path, num_tokens: int) -> None:
    file = directory / "config.json"
    more = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": num_tokens}
    file.write_text(json.dumps(json.loads(file.read_text()) | more))
