from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from server.errors import ConfigurationError
from server.weights.checkpoint import check_checkpoint, verify_checksums

CONFIG = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 64, "vocab_size": 10}


def safetensors(num_bytes: int = 8) -> bytes:
    header = json.dumps(
        {"__metadata__": {}, "w": {"dtype": "U8", "shape": [num_bytes], "data_offsets": [0, num_bytes]}}
    ).encode()
    return len(header).to_bytes(8, "little") + header + bytes(num_bytes)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(safetensors())
    return tmp_path


def refusal(directory: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        check_checkpoint(directory)
    return caught.value.message


def test_whole_directory(directory: Path) -> None:
    """A whole directory is described: architecture, size, context and vocabulary."""
    found = check_checkpoint(directory)
    assert (found.architecture.names, found.architecture.longest) == (("LlamaForCausalLM",), 64)
    assert found.num_bytes == len(safetensors())


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("config.json", "no config.json"),
        ("tokenizer.json", "no tokenizer.json"),
        ("model.safetensors", "no weights"),
    ],
)
def test_missing_file(directory: Path, file: str, words: str) -> None:
    """A file that every model needs is missed by name."""
    (directory / file).unlink()
    assert words in refusal(directory)


def test_no_directory(tmp_path: Path) -> None:
    """A directory that is not there is named."""
    assert "does not exist" in refusal(tmp_path / "none")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickle_weights_alone(directory: Path, name: str) -> None:
    """Pickle weights alone are refused, with the reason and the way to convert them."""
    (directory / "model.safetensors").rename(directory / name)
    message = refusal(directory)
    assert name in message
    assert "save_pretrained" in message


def test_pickle_beside_safetensors(directory: Path) -> None:
    """Pickle weights beside safetensors do no harm: nobody reads them."""
    (directory / "pytorch_model.bin").write_bytes(b"")
    assert check_checkpoint(directory).weights == (directory / "model.safetensors",)


def test_missing_shard(directory: Path) -> None:
    """A shard that the index names and the directory lacks is named."""
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks 1 of 2 weight files" in refusal(directory)
    assert "model-2.safetensors" in refusal(directory)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        safetensors()[:-1],
        safetensors()[:20],
        safetensors() + b"x",
        b"version https://git-lfs.github.com/spec/v1\n",
    ],
)
def test_damaged_weights(directory: Path, content: bytes) -> None:
    """A weight file that was cut short, grew, or is a Git LFS pointer is damaged."""
    (directory / "model.safetensors").write_bytes(content)
    assert "is damaged" in refusal(directory)


@pytest.mark.parametrize("header", [b"[]", b"{", b'{"w": {}}', b'{"w": {"data_offsets": 5}}'])
def test_nonsense_header(directory: Path, header: bytes) -> None:
    """A header of the right length that says nothing is damage too, not a crash."""
    (directory / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert "is damaged" in refusal(directory)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_config_is_not_an_object(directory: Path, text: str) -> None:
    """A config.json that is no JSON object is named."""
    (directory / "config.json").write_text(text)
    assert "config.json" in refusal(directory)


def test_simulated_needs_no_weights(directory: Path) -> None:
    """Without weights, tokenizer and configuration are enough."""
    (directory / "model.safetensors").unlink()
    assert check_checkpoint(directory, weights=False).weights == ()


def test_checksums_match(directory: Path) -> None:
    """Every file with a digest is read to its end, and the progress says so."""
    heard: list[tuple[str, int, int]] = []
    digest = hashlib.sha256(safetensors()).hexdigest().upper()
    (directory / "checksums.json").write_text(
        json.dumps({"tokenizer.json": hashlib.sha256(b"{}").hexdigest()})
    )
    assert verify_checksums(directory, {"model.safetensors": digest}, lambda *step: heard.append(step)) == 2
    size = len(safetensors())
    assert heard == [("tokenizer.json", 2, 2), ("model.safetensors", size, size)]


@pytest.mark.parametrize("name", ["config.json", "none", "../outside"])
def test_checksums_differ(directory: Path, name: str) -> None:
    """A file that differs, is missing, or is outside of the directory is named."""
    with pytest.raises(ConfigurationError, match=name):
        verify_checksums(directory, {name: "0" * 64})


def test_configured_digest_wins(directory: Path) -> None:
    """A digest in models.yaml goes before the one in checksums.json."""
    (directory / "checksums.json").write_text(json.dumps({"tokenizer.json": "0" * 64}))
    assert verify_checksums(directory, {"tokenizer.json": hashlib.sha256(b"{}").hexdigest()}) == 1
