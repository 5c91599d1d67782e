"""Finds the base model of each adapter: by the name in the adapter's configuration, or by the shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from server.config.directories import found_below, is_adapter, is_model
from server.errors import ConfigurationError
from server.weights.adapters import Adapter, Base, check_adapter, names_it, trained_on


def adapters_of(directories: Sequence[Path], parents: Sequence[Path]) -> dict[str, Path]:
    """Adapter id -> folder. The id of one of `directories` is its name; of a folder below one of `parents`,
    its path from there. Raises ConfigurationError."""
    found: dict[str, Path] = {}
    below = [pair for parent in parents for pair in found_below(parent, is_adapter)]
    for name, path in [*((one.resolve().name, one) for one in directories), *below]:
        if any(character.isspace() for character in name):
            raise ConfigurationError(
                f"{path}: the name of an adapter may not contain spaces; rename the folder."
            )
        if name in found:
            raise ConfigurationError(
                f"{found[name]} and {path} would both have the adapter id {name}; rename one of the folders."
            )
        found[name] = path
    return found


def models_named(adapters: Iterable[Path]) -> list[Path]:
    """The folders of the base models that the adapters name. Raises ConfigurationError if an adapter names
    none, or none that is a folder of this machine."""
    folders: dict[Path, None] = {}
    for path in adapters:
        told = trained_on(path)
        if not told or not is_model(Path(told)):
            of = f" of {told}" if told else ""
            raise ConfigurationError(
                f"{path} is a LoRA adapter{of}, and its base model is not given; run `verbatim init"
                f" MODEL_DIRECTORY {path}`."
            )
        folders[Path(told).resolve()] = None
    return list(folders)


def placed(adapters: Mapping[str, Path], bases: Mapping[str, Base]) -> dict[str, list[Adapter]]:
    """Model id -> its adapters. Raises ConfigurationError for an adapter that fits no model, or several."""
    places: dict[str, list[Adapter]] = {model: [] for model in bases}
    for name, path in adapters.items():
        if name in bases:
            raise ConfigurationError(
                f"{path} would have the adapter id {name}, but a model has this id; rename the folder."
            )
        model, adapter = _place(name, path, bases)
        places[model].append(adapter)
    return places


def _place(name: str, path: Path, bases: Mapping[str, Base]) -> tuple[str, Adapter]:
    """The only model that the adapter names, else the only one whose shapes fit."""
    told = trained_on(path)
    named = {model: base for model, base in bases.items() if told and names_it(told, base)}
    fits: dict[str, Adapter] = {}
    problems: list[ConfigurationError] = []
    tried = named or bases
    for model, base in tried.items():
        try:
            fits[model] = check_adapter(name, path, base, {}, warns=len(tried) == 1)
        except ConfigurationError as error:
            problems.append(error)
    if not fits:
        if len(tried) == 1:
            raise problems[0]
        reasons = "; ".join(
            f"{model}: {error.message.removeprefix(f'adapter {name}: ')}"
            for model, error in zip(tried, problems, strict=True)
        )
        raise ConfigurationError(f"adapter {name} fits none of the models. {reasons}")
    if len(fits) > 1:
        says = f"it was trained on {told}" if told else "it does not name its base model"
        raise ConfigurationError(
            f"adapter {name} fits {' and '.join(fits)}, and {says}. Run `verbatim init` with one of these"
            " models"
            " and the adapter, and add the other models to the file by hand."
        )
    return fits.popitem()
