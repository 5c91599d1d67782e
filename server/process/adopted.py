"""Each worker reports its progress in a file of its own, in the folder that the processes share.

A pipe leads to a worker, but none back; what the main process has to know is little and rare.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from pydantic import BaseModel


class Adopted(BaseModel):
    """generation: of the settings that the worker uses. leaving: numbers of removed models of which it still
    has requests."""

    generation: int
    leaving: list[int] = []


def tell(folder: Path, worker: int, adopted: Adopted) -> None:
    """Write the report. A full disk does not end the worker."""
    with contextlib.suppress(OSError):
        new = folder / f".adopted-{worker}"
        new.write_text(adopted.model_dump_json(), "utf-8")
        new.replace(_file(folder, worker))


def told(folder: Path, worker: int) -> Adopted | None:
    """The report of a worker; None: there is none yet."""
    try:
        return Adopted.model_validate_json(_file(folder, worker).read_text("utf-8"))
    except (OSError, ValueError):
        return None


def forget(folder: Path, worker: int) -> None:
    """Remove the report of a worker that has ended."""
    with contextlib.suppress(OSError):
        _file(folder, worker).unlink(missing_ok=True)


def _file(folder: Path, worker: int) -> Path:
    return folder / f"adopted-{worker}"
