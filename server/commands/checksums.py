"""`verbatim checksums`: what a model's files are, for others to see that theirs are the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from server.commands.progress import bars, progress
from server.errors import ConfigurationError
from server.weights.checkpoint import CHECKSUMS, digest_of, verify_checksums


def checksums(
    directory: Annotated[Path, typer.Argument(help="Of the model.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare with the checksums.json that is there.")
    ] = False,
) -> None:
    """Write checksums.json beside a model's weights: the SHA-256 of each of its files.

    `verbatim serve` compares the files with it before an engine starts, and `verbatim check` does.
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
        paths = sorted(path for path in directory.rglob("*") if path.is_file() and is_ours(path, directory))
        if not paths:
            raise ConfigurationError(f"{directory} has no files.")
        digests = {path.relative_to(directory).as_posix(): digest_of(path, report) for path in paths}
    try:
        file.write_text(json.dumps(digests, indent=2) + "\n", "utf-8")
    except OSError as error:
        raise ConfigurationError(f"cannot write {file}: {error.strerror or error}.") from error
    print(f"{file}: {len(digests)} files")


def is_ours(path: Path, directory: Path) -> bool:
    """Whether it is the model's, not what tools leave beside it (.cache, .git)."""
    parts = path.relative_to(directory).parts
    return path.name != CHECKSUMS and not any(part.startswith(".") for part in parts)
