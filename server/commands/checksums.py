"""`verbatim checksums`: digests of the files of a model or an adapter, to detect later changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from server.commands.progress import bars, progress
from server.config.directories import ADAPTER_MARK, MARK, found_below, is_adapter, is_model
from server.errors import ConfigurationError
from server.weights.adapters import weights_of
from server.weights.checkpoint import CHECKSUMS, digest_of, verify_checksums


def checksums(
    directory: Annotated[Path, typer.Argument(help="Directory of the model or adapter.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare the files with the checksums.json that is there.")
    ] = False,
) -> None:
    """Write checksums.json beside the weights, with the SHA-256 of each file of the model or adapter.

    `verbatim serve` and `verbatim check` compare the files with it.
    """
    if not directory.is_dir():
        raise ConfigurationError(f"the model directory {directory} does not exist.")
    file = directory / CHECKSUMS
    with progress() as shown:
        report = bars(shown)
        if verify:
            if not file.is_file():
                raise ConfigurationError(
                    f"{directory} has no {CHECKSUMS}; run `verbatim checksums` to write it."
                )
            print(f"{verify_checksums(directory, {}, report)} checksums match")
            return
        paths = files_of(directory)
        digests = {path.relative_to(directory).as_posix(): digest_of(path, report) for path in paths}
    try:
        file.write_text(json.dumps(digests, indent=2) + "\n", "utf-8")
    except OSError as error:
        raise ConfigurationError(f"cannot write {file}: {error.strerror or error}.") from error
    print(f"{file}: {len(digests)} files")


def files_of(directory: Path) -> list[Path]:
    """The files to take digests of. Raises ConfigurationError if the folder is no model and no adapter."""
    if is_adapter(directory):  # training leaves other files beside the two, which no server reads
        return [directory / ADAPTER_MARK, weights_of(directory)]
    if not is_model(directory):
        below = [name for looks in (is_model, is_adapter) for name, _ in found_below(directory, looks)]
        inside = f". It contains {', '.join(below[:3])}; give these one by one." if below else "."
        raise ConfigurationError(
            f"{directory} is neither a model nor an adapter: it has no {MARK} and no {ADAPTER_MARK}{inside}"
        )
    return sorted(path for path in directory.rglob("*") if path.is_file() and is_ours(path, directory))


def is_ours(path: Path, directory: Path) -> bool:
    """Whether the file belongs to the model; tools leave others beside it (.cache, .git)."""
    parts = path.relative_to(directory).parts
    return path.name != CHECKSUMS and not any(part.startswith(".") for part in parts)
