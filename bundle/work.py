"""The folder that a bundle is made in: what is there already, what is not finished, what is in the way."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from bundle.bars import Report
from bundle.order import Order
from bundle.site import manifest as manifests
from bundle.site import payload
from bundle.site.manifest import Manifest
from bundle.site.signature import read_sealed
from server.errors import BundleError, ConfigurationError

WORK, CREATED = ".work", "created"


def is_complete(order: Order, recipe: str, report: Report) -> bool:
    """Whether this very bundle lies there, and whole; whoever has signed it."""
    try:
        manifest = manifests.parse(read_sealed(order.out)[0])
    except BundleError:
        return False
    if manifest.recipe != recipe:
        return False
    return not payload.check(
        order.out, manifest, lambda done, total: report("checking what is there", done, total)
    )


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """A disk that is full or may not be written, said in one paragraph."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ConfigurationError(
                f"the disk of {out} is full. Free some space and run the same command again; it continues."
            ) from error
        raise ConfigurationError(
            f"cannot write {error.filename or out}: {error.strerror}. Name another directory with --out."
        ) from error


@contextmanager
def work_folder(order: Order, recipe: str) -> Iterator[Path]:
    """A folder in the bundle's for what is not finished; removed at the end. Raises ConfigurationError where
    something else lies there.
    """
    out = order.out
    out.mkdir(parents=True, exist_ok=True)
    note, before = out / WORK / "recipe", _made_before(out)
    ours = note.read_text() if note.is_file() else before.recipe if before else ""
    others = sorted(path.name for path in out.iterdir() if path.name != WORK)
    if others and ours != recipe:
        raise ConfigurationError(
            f"{out} has something else in it ({others[0]}), perhaps a bundle made with other options or of"
            " another version. Name an empty directory with --out, or remove this one first."
        )
    if ours != recipe:
        shutil.rmtree(out / WORK, ignore_errors=True)
    note.parent.mkdir(exist_ok=True)
    note.write_text(recipe)
    if before and before.recipe == recipe:
        (out / WORK / CREATED).write_text(before.created)
    yield out / WORK
    shutil.rmtree(out / WORK)


def _made_before(out: Path) -> Manifest | None:
    try:
        return manifests.parse(manifests.read_bytes(out))
    except BundleError:
        return None


def created(work: Path) -> str:
    """When the making began: the same in every run of it."""
    note = work / CREATED
    if not note.is_file():
        note.write_text(datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S+00:00"))
    return note.read_text()
