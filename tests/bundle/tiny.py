"""A bundle like a real one, but tiny: a command that tells a version, a package, a model of a few bytes."""

from __future__ import annotations

import ensurepip
import platform
import shutil
from collections.abc import Iterator, Sequence
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


def pip_wheel() -> Path:
    """The pip that comes with Python: no network is needed for it."""
    return next((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"))


def tiny_items(work: Path, weights: bytes = b"weights" * 1000) -> list[Item]:
    """The payload."""
    source = work / "source"
    (source / "wheels").mkdir(parents=True)
    (source / MODEL).mkdir(parents=True)
    command = {"tinycommand.py": f"def main():\n    print({SAYS!r})\n"}
    rules = {"verbatim-1.0.data/data/share/verbatim/deploy/prometheus/alerts.yml": "groups: []\n"}
    make_wheel(
        source / "wheels", "verbatim", command | rules, "[console_scripts]\nverbatim = tinycommand:main\n"
    )
    make_wheel(source / "wheels", "tinydep", {"tinydep.py": "x = 1\n" * 500})
    shutil.copy(pip_wheel(), source / "wheels")
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
    **target: object,
) -> Path:
    """The folder of a bundle that is made under `work`."""
    items, out = tiny_items(work, weights), work / "bundle"
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
