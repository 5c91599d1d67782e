"""Which model an adapter is for, where nobody has written it down: by its own words and by the shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from server.config.directories import found_below, is_adapter, is_model
from server.errors import ConfigurationError
from server.weights.adapters import Adapter, Base, check_adapter, names_it, trained_on


def adapters_of(directories: Sequence[Path], parents: Sequence[Path]) -> dict[str, Path]:
    """By id: these folders, by their names, and those below `parents`, by their paths there."""
    found: dict[str, Path] = {}
    below = [pair for parent in parents for pair in found_below(parent, is_adapter)]
    for name, path in [*((one.resolve().name, one) for one in directories), *below]:
        if any(character.isspace() for character in name):
            raise ConfigurationError(f"{path}: the name of an adapter has no spaces; rename the folder.")
        if name in found:
            raise ConfigurationError(
                f"{found[name]} and {path} would both be the adapter {name}; rename one of the folders."
            )
        found[name] = path
    return found


def models_named(adapters: Iterable[Path]) -> list[Path]:
    """The folders of models that adapters say they were trained on, where these are folders of this machine.
    Raises ConfigurationError where one is not."""
    folders: dict[Path, None] = {}
    for path in adapters:
        told = trained_on(path)
        if not told or not is_model(Path(told)):
            of = f" of {told}" if told else ""
            raise ConfigurationError(
                f"{path} is a LoRA adapter{of}, and no model is named for it: `verbatim init MODEL_DIRECTORY"
                f" {path}`."
            )
        folders[Path(told).resolve()] = None
    return list(folders)


def placed(adapters: Mapping[str, Path], bases: Mapping[str, Base]) -> dict[str, list[Adapter]]:
    """The adapters of each model, by its id. Raises ConfigurationError for one that has no place, or more
    than one."""
    places: dict[str, list[Adapter]] = {model: [] for model in bases}
    for name, path in adapters.items():
        if name in bases:
            raise ConfigurationError(
                f"{path} would have the id {name}, which is a model's; rename the folder."
            )
        model, adapter = _place(name, path, bases)
        places[model].append(adapter)
    return places


def _place(name: str, path: Path, bases: Mapping[str, Base]) -> tuple[str, Adapter]:
    """The only model that the adapter names, or else the only one whose shapes fit."""
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
        says = f"it says that it was trained on {told}" if told else "it does not say on which it was trained"
        raise ConfigurationError(
            f"adapter {name} fits {' and '.join(fits)}, and {says}: name its model alone with it, and put the"
            " others into the file by hand."
        )
    return fits.popitem()
