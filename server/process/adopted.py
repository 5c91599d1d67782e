"""How far a worker is with what it was told: a file of its own in the folder that the processes share.

A pipe leads to a worker, and none back; what the other process has to know of it is little, and seldom.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from pydantic import BaseModel


class Adopted(BaseModel):
    """generation: of the settings that it goes by. leaving: the numbers of models that are served no more, of
    which it has requests."""

    generation: int
    leaving: list[int] = []


def tell(folder: Path, worker: int, adopted: Adopted) -> None:
    """A disk that is full is no reason to end."""
    with contextlib.suppress(OSError):
        new = folder / f".adopted-{worker}"
        new.write_text(adopted.model_dump_json(), "utf-8")
        new.replace(_file(folder, worker))


def told(folder: Path, worker: int) -> Adopted | None:
    """None: nothing so far."""
    try:
        return Adopted.model_validate_json(_file(folder, worker).read_text("utf-8"))
    except (OSError, ValueError):
        return None


def forget(folder: Path, worker: int) -> None:
    """It has ended."""
    with contextlib.suppress(OSError):
        _file(folder, worker).unlink(missing_ok=True)


def _file(folder: Path, worker: int) -> Path:
    return folder / f"adopted-{worker}"
