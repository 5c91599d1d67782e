"""The end of making a bundle: the installer, the payload whole or in parts, the manifest, the signatures."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bundle.prune import EPOCH
from bundle.site.manifest import Entry
from bundle.site.payload import CHUNK_BYTES
from server.errors import ConfigurationError

INSTALLER = ("bundle/__init__.py", "bundle/site/*.py", "server/__init__.py", "server/errors.py")
MAIN = "from bundle.site.cli import main\n\nmain()\n"
UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30}
SMALLEST_PART = 1 << 20  # manifest.json, which is not cut, has to fit beside the first part

Heard = Callable[[int], None]  # bytes so far


@dataclass(frozen=True, slots=True)
class Item:
    """A file of the payload, and where its bytes are now."""

    entry: Entry
    source: Path


def parse_size(text: str) -> int:
    """60MiB, 4.7GB or a number of bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?)?B?", text.strip().upper())
    if not found:
        raise ConfigurationError(f"--part-size: {text} is not a size such as 60MiB, 650MB or 4GiB.")
    size = int(float(found[1]) * UNITS[found[2] or ""])
    if size < SMALLEST_PART:
        raise ConfigurationError(f"--part-size: {text} is too small; the least is 1MiB.")
    return size


def installer(root: Path) -> bytes:
    """install.pyz: the modules that run at the site, the same bytes every time."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(zipfile.ZipInfo("__main__.py", EPOCH), MAIN)
        for pattern in INSTALLER:
            for path in sorted(root.glob(pattern)):
                name = path.relative_to(root).as_posix()
                archive.writestr(zipfile.ZipInfo(name, EPOCH), path.read_bytes())
    return data.getvalue()


def install_script(root: Path, pyz: bytes, python: str) -> bytes:
    text = (root / "bundle/site/install.sh").read_text("utf-8")
    digest = hashlib.sha256(pyz).hexdigest()
    return text.replace("@PYZ_SHA256@", digest).replace("@PYTHON_VERSION@", python).encode()


def entry_of(path: str, data: bytes) -> Entry:
    return Entry(path, len(data), hashlib.sha256(data).hexdigest())


def write_if_new(path: Path, data: bytes) -> None:
    """Replace a file in one step, unless it has that content."""
    if not path.is_file() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.partial")
        temporary.write_bytes(data)
        temporary.replace(path)


def place_whole(items: Sequence[Item], folder: Path, heard: Heard) -> None:
    """Every file under its own name; one that is there and whole stays."""
    done = 0
    for item in items:
        target = folder / item.entry.path
        if item.source != target and not _is(target, item.entry):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}.partial")
            with temporary.open("wb") as out, item.source.open("rb") as file:
                shutil.copyfileobj(file, out, CHUNK_BYTES)
            if not _is(temporary, item.entry):
                raise ConfigurationError(
                    f"{item.source} changed while it was copied; run the same command again."
                )
            temporary.replace(target)
        done += item.entry.size
        heard(done)


def _is(path: Path, entry: Entry) -> bool:
    if not path.is_file() or path.stat().st_size != entry.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256


def cut(items: Sequence[Item], folder: Path, sizes: Iterator[int], heard: Heard) -> list[Entry]:
    """The payload as parts of these sizes."""
    parts: list[Entry] = []
    stream, done, rest = _stream(items), 0, b""
    while rest or (rest := next(stream, b"")):
        name, left, digest = f"part-{len(parts) + 1:04}", next(sizes), hashlib.sha256()
        target, size = folder / name, 0
        temporary = folder / f".{name}.partial"
        with temporary.open("wb") as out:
            while left and (rest or (rest := next(stream, b""))):
                piece, rest = rest[:left], rest[left:]
                digest.update(piece)
                out.write(piece)
                size, left, done = size + len(piece), left - len(piece), done + len(piece)
                heard(done)
        temporary.replace(target)
        parts.append(Entry(name, size, digest.hexdigest()))
    return parts


def _stream(items: Sequence[Item]) -> Iterator[bytes]:
    for item in items:
        digest = hashlib.sha256()
        with item.source.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                yield chunk
        if digest.hexdigest() != item.entry.sha256:
            raise ConfigurationError(
                f"{item.source} changed while it was copied; run the same command again."
            )


def part_sizes(part_bytes: int, head_bytes: int) -> Iterator[int]:
    """The first part leaves room for what lies beside it on the first carrier."""
    if head_bytes >= part_bytes:
        raise ConfigurationError(
            f"--part-size: the installer and the manifest alone take {head_bytes} bytes; choose at least"
            " twice that."
        )
    yield part_bytes - head_bytes
    while True:
        yield part_bytes
