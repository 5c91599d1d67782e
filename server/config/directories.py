"""Models given as folders, without a configuration: `verbatim serve DIRECTORY` and `--model-dir`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from server.errors import ConfigurationError

log = logging.getLogger(__name__)

GROUP = "all"
MARK = "config.json"  # a folder with this file is a model
ADAPTER_MARK = (
    "adapter_config.json"  # a folder with this file, and without that of a model, is a LoRA adapter
)


def is_model(directory: Path) -> bool:
    return (directory / MARK).is_file()


def is_adapter(directory: Path) -> bool:
    return (directory / ADAPTER_MARK).is_file() and not (directory / MARK).is_file()


def models_of(
    directories: Sequence[Path], parents: Sequence[Path], problem_of: Callable[[Path], str]
) -> dict[str, Any]:
    """The keys of a configuration that serves these folders, and the models below `parents`.

    The id of a model is its folder's name, or its path below one of `parents`. problem_of: why a folder
    cannot be served; empty: it can. A model below `parents` that cannot be served is left out and logged,
    because somebody may still be copying it. Raises ConfigurationError.
    """
    models: dict[str, Path] = {}
    for directory in directories:
        if not is_model(directory):
            raise ConfigurationError(_no_model(directory))
        name = directory.resolve().name
        if name in models:
            raise ConfigurationError(
                f"{models[name]} and {directory} would both have the model id {name}; rename one of the"
                " folders."
            )
        models[name] = directory
    for name, directory in (found for parent in parents for found in found_below(parent)):
        if name in models:
            continue
        if problem := problem_of(directory):
            log.warning("%s is left out: %s", directory, problem)
        elif any(character.isspace() for character in name):
            log.warning(
                "%s is left out: the name of a model may not contain spaces; rename the folder", directory
            )
        else:
            models[name] = directory
    if not models:
        raise ConfigurationError(
            f"no folder in {', '.join(map(str, parents))} is a model that can be served; a model needs"
            f" {MARK}, tokenizer.json and weights."
        )
    return {"models": [{"id": name, "path": str(path.resolve())} for name, path in models.items()]}


def sharing_memory(keys: dict[str, Any]) -> dict[str, Any]:
    """The same models, each loaded on demand, as many at a time as fit into memory."""
    models = [model | {"load": "on_demand"} for model in keys["models"]]
    return keys | {"models": models, "groups": {GROUP: {"models": [model["id"] for model in models]}}}


def found_below(parent: Path, looks: Callable[[Path], bool] = is_model) -> Iterator[tuple[str, Path]]:
    """(id, folder) of each folder below parent that `looks` like a model, also one level
    deeper, as ORGANIZATION/MODEL."""
    if not parent.is_dir():
        raise ConfigurationError(f"the model folder {parent} does not exist.")
    for folder in _folders(parent):
        if looks(folder):
            yield folder.name, folder
        else:
            for inner in _folders(folder):
                if looks(inner):
                    yield f"{folder.name}/{inner.name}", inner


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))


def _no_model(directory: Path) -> str:
    if not directory.is_dir():
        return f"the model directory {directory} does not exist."
    if is_adapter(directory):
        return (
            f"{directory} is a LoRA adapter, which is served together with its base model: list it under"
            f" `adapters` of that model in models.yaml, or let `verbatim init MODEL_DIRECTORY {directory}`"
            " write it there."
        )
    below = [name for name, _ in found_below(directory)]
    if below:
        return (
            f"{directory} is not a model, but contains {', '.join(below[:3])}: use --model-dir {directory}."
        )
    return f"{directory} has no {MARK}; is it a model in Hugging Face's layout?"
