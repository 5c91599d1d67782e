"""Puts a bundle together: the payload whole or in parts, the installer, the manifest, its signatures.

A file gets its own name only when it is complete, and the manifest comes last: the next run repairs what was
interrupted or damaged.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bundle.contents import EPOCH, Contents, Item, entry_of, made, write_if_new
from bundle.keys import detached, seal_text
from bundle.order import ROOT, Order
from bundle.sbom import bill
from bundle.wheels import Heard
from sealed import manifest as manifests
from sealed import payload
from sealed.failures import BundleError
from sealed.manifest import DETACHED, MANIFEST, PART, PROGRAM, SCRIPT, SIGNATURE, WHEEL, Entry, Manifest
from sealed.payload import CHUNK_BYTES, Report, is_file
from server import __version__
from server.errors import ConfigurationError

INSTALLER = ("bundle/__init__.py", "bundle/site/*.py", "sealed/*.py")
MAIN = "from bundle.site.cli import main\n\nmain()\n"
# If flashinfer is missing, vLLM must be told. Otherwise it compiles flashinfer's sampler at its first start,
# with nvcc of a CUDA toolkit, which a machine with only the driver does not have.
ENVIRONMENT: Mapping[str, Mapping[str, str]] = {"cpu": {}, "cuda": {"VLLM_USE_FLASHINFER_SAMPLER": "0"}}
PART_ENTRY_BYTES, KEY_BYTES = 200, 1000  # bytes of a part in manifest.json, and of a key's signatures


def seal(
    order: Order,
    began: str,  # when the first run began, UTC
    contents: Contents,
    keys: Sequence[Ed25519PrivateKey],
    work: Path,
    report: Report,
) -> Manifest:
    """Write the bundle from its contents, the manifest last."""
    out = order.out
    text = bill(__version__, began, contents.carried, order.checksums, contents.removed)
    items = [made(manifests.SBOM, text, work), *contents.items]
    loose = installer(ROOT, order.python)
    manifest = Manifest(
        version=__version__,
        created=began,
        recipe=order.recipe,
        target=order.target,
        installed_bytes=contents.installed_bytes,
        environment=ENVIRONMENT[order.device],
        loose=tuple(entry_of(name, data) for name, data in loose.items()),
        files=tuple(item.entry for item in items),
    )
    total = sum(item.entry.size for item in items)

    if order.part_bytes:
        ahead = (
            sum(map(len, loose.values())) + len(manifests.to_bytes(manifest)) + KEY_BYTES * (1 + len(keys))
        )
        ahead += PART_ENTRY_BYTES * (2 + total // order.part_bytes)
        parts = cut(items, out, part_sizes(order.part_bytes, ahead), lambda done: report(done, total))
        manifest = replace(manifest, parts=tuple(parts))
    else:
        place_whole(items, out, lambda done: report(done, total))
    for name, data in loose.items():
        write_if_new(out / name, data)
    (out / SCRIPT).chmod(0o755)
    data = manifests.to_bytes(manifest)
    check_installable(data)
    sign(out, data, keys)
    write_if_new(out / MANIFEST, data)
    return manifest


def check_installable(manifest: bytes) -> None:
    """Raise ConfigurationError for a bundle that every site would refuse, such as one with too
    long a name."""
    try:
        manifests.parse(manifest)
    except BundleError as error:
        raise ConfigurationError(f"no site could install this bundle: {error.message}") from error


def sign(out: Path, manifest: bytes, keys: Sequence[Ed25519PrivateKey]) -> bool:
    """Sign a bundle with exactly these keys. Returns whether that changed anything."""
    wanted = {SIGNATURE: seal_text(manifest, keys).encode(), **detached((out / SCRIPT).read_bytes(), keys)}
    there = [path for path in out.iterdir() if path.name == SIGNATURE or DETACHED.fullmatch(path.name)]
    if {path.name: path.read_bytes() for path in there} == wanted:
        return False
    for path in there:
        if path.name not in wanted:
            path.unlink()
    for name, data in wanted.items():
        write_if_new(out / name, data)
    return True


def clear(out: Path, manifest: Manifest) -> None:
    """Remove files of an earlier run; raises ConfigurationError for files of others."""
    for name in payload.unlisted(out, manifest):
        if PART.fullmatch(name) or WHEEL.fullmatch(name) or name.endswith(".partial"):
            (out / name).unlink()
        else:
            raise ConfigurationError(
                f"{out / name} is not part of the bundle, and sites refuse a bundle with extra files: move"
                " it away."
            )


def installer(root: Path, python: str) -> dict[str, bytes]:
    """install.sh and install.pyz, with the modules that run at the site: the same bytes every time."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(zipfile.ZipInfo("__main__.py", EPOCH), MAIN)
        for pattern in INSTALLER:
            for path in sorted(root.glob(pattern)):
                name = path.relative_to(root).as_posix()
                archive.writestr(zipfile.ZipInfo(name, EPOCH), path.read_bytes())
    program = data.getvalue()
    digest = hashlib.sha256(program).hexdigest()
    text = (root / "bundle/site/install.sh").read_text("utf-8")
    script = text.replace("@PYZ_SHA256@", digest).replace("@PYTHON_VERSION@", python).encode()
    return {PROGRAM: program, SCRIPT: script}


# ---- the payload -------------------------------------------------------------------------------------------


def place_whole(items: Sequence[Item], folder: Path, heard: Heard) -> None:
    """Write every file under its own name; complete ones stay."""
    done = 0
    for item in items:
        target = folder / item.entry.path
        if item.source != target and not is_file(target, item.entry):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}.partial")
            with temporary.open("wb") as out:
                for chunk in _read(item):
                    out.write(chunk)
            temporary.replace(target)
        done += item.entry.size
        heard(done)


def cut(items: Sequence[Item], folder: Path, sizes: Iterator[int], heard: Heard) -> list[Entry]:
    """Write the payload as parts of these sizes."""
    parts: list[Entry] = []
    stream, done, rest = (chunk for item in items for chunk in _read(item)), 0, b""
    while rest or (rest := next(stream, b"")):
        name, left, digest = f"part-{len(parts) + 1:04}", next(sizes), hashlib.sha256()
        temporary, size = folder / f".{name}.partial", 0
        with temporary.open("wb") as out:
            while left and (rest or (rest := next(stream, b""))):
                piece, rest = rest[:left], rest[left:]
                digest.update(piece)
                out.write(piece)
                size, left, done = size + len(piece), left - len(piece), done + len(piece)
                heard(done)
        temporary.replace(folder / name)
        parts.append(Entry(name, size, digest.hexdigest()))
    return parts


def _read(item: Item) -> Iterator[bytes]:
    digest = hashlib.sha256()
    with item.source.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            yield chunk
    if digest.hexdigest() != item.entry.sha256:
        raise ConfigurationError(f"{item.source} changed while it was copied; run the same command again.")


def part_sizes(part_bytes: int, head_bytes: int) -> Iterator[int]:
    """Sizes of parts. The first one leaves room for the files beside it on the first disk."""
    if head_bytes >= part_bytes:
        raise ConfigurationError(
            f"--part-size: installer and manifest alone take {head_bytes} bytes; choose at least twice that."
        )
    yield part_bytes - head_bytes
    while True:
        yield part_bytes
