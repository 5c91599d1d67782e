"""`verbatim checksums` writes what `verbatim serve` and `check` compare with."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest

from server.errors import ConfigurationError
from server.weights.adapters import CONFIG, WEIGHTS, Base, check_adapter
from server.weights.checkpoint import verify_checksums
from tests.adapters import SHAPES, write_adapter
from tests.server.test_cli import directory, verbatim

__all__ = ["directory"]


def test_every_file_has_its_digest(directory: Path) -> None:
    """Also one in a folder, but nothing that tools leave in hidden ones, nor the list itself."""
    (directory / "more").mkdir()
    (directory / "more" / "a").write_bytes(b"a")
    (directory / ".cache").mkdir()
    (directory / ".cache" / "b").write_bytes(b"b")
    for _ in range(2):
        assert verbatim("checksums", str(directory)).exit_code == 0
    listed = json.loads((directory / "checksums.json").read_text())
    assert set(listed) == {"config.json", "model.safetensors", "more/a", "tokenizer.json"}
    assert listed["more/a"] == sha256(b"a").hexdigest()
    assert verify_checksums(directory, {}) == 4


def test_a_changed_file_is_named(directory: Path) -> None:
    """--verify ends with 2 then."""
    verbatim("checksums", str(directory))
    assert verbatim("checksums", "--verify", str(directory)).stdout == "3 checksums match\n"
    (directory / "config.json").write_text("{}")
    result = verbatim("checksums", "--verify", str(directory))
    assert result.exit_code == 2
    assert "config.json is not the expected file" in result.stderr


def test_an_adapter_has_two(tmp_path: Path) -> None:
    """Not what its training has left beside them. What is served later is compared with them."""
    path = write_adapter(tmp_path / "tone")
    (path / "optimizer.pt").write_bytes(b"o")
    (path / "checkpoint-1").mkdir()
    (path / "checkpoint-1" / "adapter_config.json").write_bytes(b"c")
    assert verbatim("checksums", str(path)).stdout.endswith("checksums.json: 2 files\n")
    assert set(json.loads((path / "checksums.json").read_text())) == {CONFIG, WEIGHTS}
    base = Base(tmp_path, ("base",), {f"{name}.weight": shape for name, shape in SHAPES.items()})
    check_adapter("a", path, base, {})
    config = json.loads((path / CONFIG).read_text())
    (path / CONFIG).write_text(json.dumps(config | {"lora_alpha": 99}))
    with pytest.raises(ConfigurationError, match=r"adapter_config\.json is not the expected file"):
        check_adapter("a", path, base, {})


def test_an_adapter_of_pickles(tmp_path: Path) -> None:
    """What has no safetensors is not served, and gets no checksums."""
    path = write_adapter(tmp_path / "tone")
    (path / WEIGHTS).rename(path / "adapter_model.bin")
    result = verbatim("checksums", str(path))
    assert (result.exit_code, (path / "checksums.json").exists()) == (2, False)
    assert "pickle weights only" in result.stderr


def test_a_folder_that_is_neither(directory: Path, tmp_path: Path) -> None:
    """Nobody would read the list; what is in it is named."""
    (tmp_path / "all").mkdir()
    result = verbatim("checksums", str(tmp_path / "all"))
    assert (result.exit_code, list((tmp_path / "all").iterdir())) == (2, [])
    assert "neither a model nor an adapter: it has no config.json" in result.stderr
    write_adapter(tmp_path / "all" / "tone")
    assert "It contains tone" in verbatim("checksums", str(tmp_path / "all")).stderr


def test_nothing_to_compare_with(directory: Path) -> None:
    """The command that would write it is said."""
    result = verbatim("checksums", "--verify", str(directory))
    assert result.exit_code == 2
    assert "run `verbatim checksums`" in result.stderr
