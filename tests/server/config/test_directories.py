"""Models that are folders, without a models.yaml."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from server.config.directories import models_of, sharing_memory
from server.errors import ConfigurationError
from tests.adapters import write_adapter


def model(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    return path


def fine(_: Path) -> str:
    return ""


def ids(keys: dict[str, list[dict[str, str]]]) -> list[str]:
    return [one["id"] for one in keys["models"]]


def test_named_folders(tmp_path: Path) -> None:
    """Each is a model by its name, wherever it is."""
    folders = [model(tmp_path / "a" / "one"), model(tmp_path / "b" / "two")]
    keys = models_of(folders, [], fine)
    assert ids(keys) == ["one", "two"]
    assert [one["path"] for one in keys["models"]] == [str(folder.resolve()) for folder in folders]


def test_folders_of_a_folder(tmp_path: Path) -> None:
    """In order, also those below an organization's; what is no model, or hidden, is passed over."""
    for name in ("b", "a", "org/small", ".cache/x"):
        model(tmp_path / name)
    (tmp_path / "notes").mkdir()
    (tmp_path / "file").write_text("")
    assert ids(models_of([], [tmp_path], fine)) == ["a", "b", "org/small"]


def test_one_that_is_not_whole_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody may be copying it: the others are served, and the log says what is wrong with it."""
    model(tmp_path / "whole")
    model(tmp_path / "half")
    model(tmp_path / "a name")
    with caplog.at_level(logging.WARNING):
        found = models_of([], [tmp_path], lambda path: "no weights" if path.name == "half" else "")
    assert ids(found) == ["whole"]
    assert "half is left out: no weights" in caplog.text
    assert "a name is left out: the name of a model may not contain spaces" in caplog.text


def test_named_one_has_to_be_a_model(tmp_path: Path) -> None:
    """A folder of models, one that is no model, and none at all are told apart."""
    model(tmp_path / "inner")
    (tmp_path / "empty").mkdir()
    for folder, words in (
        (tmp_path, f"use --model-dir {tmp_path}"),
        (tmp_path / "empty", r"has no config\.json"),
        (tmp_path / "none", "does not exist"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            models_of([folder], [], fine)


def test_two_of_a_name(tmp_path: Path) -> None:
    """Clients could not tell them apart."""
    with pytest.raises(ConfigurationError, match="would both have the model id one"):
        models_of([model(tmp_path / "a" / "one"), model(tmp_path / "b" / "one")], [], fine)


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    """Where it goes instead is said."""
    path = write_adapter(tmp_path / "tone")
    with pytest.raises(ConfigurationError, match=r"is a LoRA adapter.*`verbatim init MODEL_DIRECTORY"):
        models_of([path], [], fine)


def test_no_model_in_a_folder(tmp_path: Path) -> None:
    """There has to be one to serve, and a folder to look in."""
    with pytest.raises(ConfigurationError, match="is a model that can be served"):
        models_of([], [tmp_path], fine)
    with pytest.raises(ConfigurationError, match="the model folder"):
        models_of([], [tmp_path / "none"], fine)


def test_several_share_memory(tmp_path: Path) -> None:
    """Each is loaded when it is asked for, all of them in one group."""
    keys = sharing_memory(models_of([model(tmp_path / "a"), model(tmp_path / "b")], [], fine))
    assert [one["load"] for one in keys["models"]] == ["on_demand"] * 2
    assert keys["groups"] == {"all": {"models": ["a", "b"]}}
