"""A bundle like a real one, but tiny: a command that tells a version, a package, a model of a few bytes."""

from __future__ import annotations

import ensurepip
import functools
import io
import marshal
import platform
import zipfile
from collections.abc import Iterator, Sequence
from importlib.util import MAGIC_NUMBER, source_hash
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bundle.contents import Item, entry_of
from bundle.seal import cut, installer, place_whole, sign
from sealed import manifest as manifests
from sealed.manifest import Entry, Manifest, Target
from tests.wheels import make_wheel

ROOT = Path(__file__).parents[2]
PYTHON = ".".join(platform.python_version_tuple()[:2])
MODEL = "models/tiny"
SAYS = "verbatim 0 of a tiny bundle"


def published_pip() -> Path:
    """The pip that comes with Python: no network is needed for it."""
    return next((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"))


@functools.cache
def quick_pip() -> tuple[str, bytes]:
    """The same with its modules' byte code beside them: a wheel's name and content. Python does not have to
    compile all of pip in each installation, which takes more time than the rest of it."""
    content = io.BytesIO()
    with (
        zipfile.ZipFile(published_pip()) as wheel,
        zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as quick,
    ):
        for one in wheel.infolist():
            name, source = one.filename, wheel.read(one)
            quick.writestr(one, source)
            if name.endswith(".py"):
                code = marshal.dumps(compile(source, name, "exec", dont_inherit=True))
                # PEP 552: the header of byte code that is not compared with its source
                header = MAGIC_NUMBER + bytes([1, 0, 0, 0]) + source_hash(source)
                quick.writestr(zipfile.ZipInfo(f"{name}c", one.date_time), header + code)
    return published_pip().name, content.getvalue()


def tiny_items(work: Path, weights: bytes = b"weights" * 1000, pip: Path | None = None) -> list[Item]:
    """The payload; with quick_pip, unless another is named."""
    source = work / "source"
    (source / "wheels").mkdir(parents=True)
    (source / MODEL).mkdir(parents=True)
    command = {"tinycommand.py": f"def main():\n    print({SAYS!r})\n"}
    rules = {"verbatim-1.0.data/data/share/verbatim/deploy/prometheus/alerts.yml": "groups: []\n"}
    make_wheel(
        source / "wheels", "verbatim", command | rules, "[console_scripts]\nverbatim = tinycommand:main\n"
    )
    make_wheel(source / "wheels", "tinydep", {"tinydep.py": "x = 1\n" * 500})
    name, content = (pip.name, pip.read_bytes()) if pip else quick_pip()
    (source / "wheels" / name).write_bytes(content)
    (source / MODEL / "model.safetensors").write_bytes(weights)
    (source / MODEL / "config.json").write_bytes(b"{}")
    (source / MODEL / "empty.txt").write_bytes(b"")
    (source / "models.yaml").write_text("models: []\n")
    paths = sorted(path for path in source.rglob("*") if path.is_file())
    return [Item(entry_of(str(path.relative_to(source)), path.read_bytes()), path) for path in paths]


def tiny_bundle(
    work: Path,
    *,
    part_bytes: int = 0,
    keys: Sequence[Ed25519PrivateKey] = (),
    weights: bytes = b"weights" * 1000,
    created: str = "2026-01-01T00:00:00+00:00",
    pip: Path | None = None,
    **target: object,
) -> Path:
    """The folder of a bundle that is made under `work`."""
    items, out = tiny_items(work, weights, pip), work / "bundle"
    out.mkdir()
    loose = installer(ROOT, PYTHON)
    for name, data in loose.items():
        (out / name).write_bytes(data)
    parts: Sequence[Entry] = ()
    if part_bytes:
        parts = cut(items, out, every(part_bytes), lambda _: None)
    else:
        place_whole(items, out, lambda _: None)
    manifest = Manifest(
        version="0",
        created=created,
        recipe="0" * 64,
        target=Target(
            **{"device": "cpu", "python": PYTHON, "machine": platform.machine(), "glibc": "2.17"}
            | {"profile": "full"}
            | target  # type: ignore[arg-type]
        ),
        installed_bytes=sum(item.entry.size for item in items),
        environment={"VERBATIM_TINY": "it's set"},
        loose=tuple(entry_of(name, data) for name, data in loose.items()),
        files=tuple(item.entry for item in items),
        parts=tuple(parts),
    )
    reseal(out, manifests.to_bytes(manifest), keys)
    return out


def reseal(bundle: Path, manifest: bytes, keys: Sequence[Ed25519PrivateKey] = ()) -> None:
    """Give a bundle this manifest, as who has the keys could."""
    (bundle / manifests.MANIFEST).write_bytes(manifest)
    sign(bundle, manifest, keys)


def every(size: int) -> Iterator[int]:
    while True:
        yield size


def flip(path: Path, index: int) -> None:
    """Alter one bit of one byte."""
    data = bytearray(path.read_bytes())
    data[index] ^= 1
    path.write_bytes(data)
