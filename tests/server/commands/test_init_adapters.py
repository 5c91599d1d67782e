"""`verbatim init` writes adapters under the models that they were trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.adapters import Q, write_adapter, write_safetensors
from tests.server.engine.test_fit import directory
from tests.server.test_cli import verbatim

__all__ = ["directory"]
NARROW, WIDE = (8, 4), (16, 4)  # rows and columns of the module that adapters change


def model(path: Path, like: Path, shape: tuple[int, int]) -> Path:
    path.mkdir(parents=True)
    config = json.loads((like / "config.json").read_text())
    more = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 64}
    (path / "config.json").write_text(json.dumps(config | more))
    (path / "tokenizer.json").write_text("{}")
    write_safetensors(path / "model.safetensors", {f"{Q}.weight": shape})
    return path


@pytest.fixture
def folder(directory: Path, tmp_path: Path) -> Path:
    """Two models, of which each is another adapter's."""
    folder = tmp_path / "here"
    model(folder / "models" / "narrow", directory, NARROW)
    model(folder / "models" / "wide", directory, WIDE)
    return folder


def init(folder: Path, *names: str) -> tuple[int, str]:
    """Exit code, and the file or what is said instead."""
    out = folder / "models.yaml"
    paths = [str(folder / name) for name in names]
    result = verbatim("init", *paths, "--out", str(out), "--gpu-memory", "8GiB")
    return result.exit_code, out.read_text() if out.exists() else result.stderr


def written(text: str) -> dict[str, list[str]]:
    models = yaml.safe_load(text)["models"]
    return {one["id"]: [adapter["id"] for adapter in one.get("adapters", [])] for one in models}


def test_each_under_its_model(folder: Path) -> None:
    """By the shapes where the model that it names is not here; checked, and served as it is written."""
    write_adapter(folder / "adapters" / "a", {Q: NARROW})
    write_adapter(folder / "adapters" / "b", {Q: WIDE}, base_model_name_or_path=None)
    code, text = init(folder, "models", "adapters")
    assert (code, written(text)) == (0, {"narrow": ["a"], "wide": ["b"]})
    assert '{id: "a", path: "adapters/a"}  # rank 2, 0.0 MB' in text
    result = verbatim("check", "--config", str(folder / "models.yaml"), "--gpu-memory", "8GiB")
    assert result.exit_code == 0, result.stdout


def test_by_its_own_words(directory: Path, folder: Path) -> None:
    """Where several models have its shapes, the one that it names, with its organization or without."""
    model(folder / "models" / "twin", directory, NARROW)
    write_adapter(folder / "tone", {Q: NARROW}, base_model_name_or_path="org/Twin")
    code, text = init(folder, "models", "tone")
    assert (code, written(text)["twin"]) == (0, ["tone"])


def test_several_places(directory: Path, folder: Path) -> None:
    """None is chosen."""
    model(folder / "models" / "twin", directory, NARROW)
    write_adapter(folder / "tone", {Q: NARROW})
    code, said = init(folder, "models", "tone")
    assert code == 2
    assert "adapter tone fits narrow and twin, and it was trained on org/base" in said


def test_no_place(folder: Path) -> None:
    """What is wrong with each model is said."""
    write_adapter(folder / "tone", {Q: (32, 4)})
    code, said = init(folder, "models", "tone")
    assert code == 2
    assert "adapter tone fits none of the models. narrow: " in said
    assert "8 × 4 in the model" in said
    assert "16 × 4 in the model" in said


def test_the_model_that_it_names_is_wrong(folder: Path) -> None:
    """Its shapes fit another one, which is not taken in silence."""
    write_adapter(folder / "tone", {Q: WIDE}, base_model_name_or_path="org/narrow")
    code, said = init(folder, "models", "tone")
    assert code == 2
    assert "adapter tone: " in said
    assert "trained on another model?" in said


def test_an_adapter_alone(folder: Path) -> None:
    """Its model is found where it says, if that is a folder here; else it has to be named."""
    path = folder / "tone"
    write_adapter(path, {Q: NARROW}, base_model_name_or_path=str(folder / "models" / "narrow"))
    assert written(init(folder, "tone")[1]) == {"narrow": ["tone"]}
    (folder / "models.yaml").unlink()
    write_adapter(path, {Q: NARROW})
    code, said = init(folder, "tone")
    assert code == 2
    assert f"{path} is a LoRA adapter of org/base, and its base model is not given" in said


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("x/tone", "y/tone"), "would both have the adapter id tone"),
        (("x/narrow",), "have the adapter id narrow, but a model has this id"),
        (("x/a name",), "the name of an adapter may not contain spaces"),
    ],
    ids=str,
)
def test_names_that_cannot_be(folder: Path, names: tuple[str, ...], words: str) -> None:
    """The folder is to be renamed."""
    for name in names:
        write_adapter(folder / name, {Q: NARROW})
    code, said = init(folder, "models", *names)
    assert code == 2
    assert words in said
