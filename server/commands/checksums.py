"""`verbatim checksums`: what the files of a model or an adapter are, to see later that they are the same."""

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
        bool, typer.Option("--verify", help="Compare with the checksums.json that is there.")
    ] = False,
) -> None:
    """Write checksums.json beside the weights: the SHA-256 of a model's files, or of an adapter's two.

    From then on `verbatim serve` and `verbatim check` compare the files with it.
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
    """Raises ConfigurationError for a folder that is neither: nobody would compare its files."""
    if is_adapter(directory):  # a training leaves much beside the two, that no server reads
        return [directory / ADAPTER_MARK, weights_of(directory)]
    if not is_model(directory):
        below = [name for looks in (is_model, is_adapter) for name, _ in found_below(directory, looks)]
        inside = f"; it has {', '.join(below[:3])} in it: name each by itself." if below else "."
        raise ConfigurationError(
            f"{directory} has no {MARK} and no {ADAPTER_MARK}: it is neither a model nor an adapter{inside}"
        )
    return sorted(path for path in directory.rglob("*") if path.is_file() and is_ours(path, directory))


def is_ours(path: Path, directory: Path) -> bool:
    """Whether it is the model's, not what tools leave beside it (.cache, .git)."""
    parts = path.relative_to(directory).parts
    return path.name != CHECKSUMS and not any(part.startswith(".") for part in parts)
