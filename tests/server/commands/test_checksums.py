"""`verbatim checksums` writes what `verbatim serve` and `check` compare with."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from server.weights.checkpoint import verify_checksums
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


def test_nothing_to_compare_with(directory: Path) -> None:
    """The command that would write it is said."""
    result = verbatim("checksums", "--verify", str(directory))
    assert result.exit_code == 2
    assert "run `verbatim checksums`" in result.stderr
