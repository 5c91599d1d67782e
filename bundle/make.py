"""The end of making a bundle: the bill of materials, the payload, the manifest, the signatures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bundle.bars import Report
from bundle.contents import Contents, made
from bundle.order import ROOT, Order
from bundle.profile import ENVIRONMENT
from bundle.sbom import bill
from bundle.sealing import (
    cut,
    entry_of,
    install_script,
    installer,
    part_sizes,
    place_whole,
    write_if_new,
)
from bundle.signing import sign
from bundle.site import manifest as manifests
from bundle.site.manifest import Manifest
from bundle.site.signature import digest_line
from bundle.work import created
from server import __version__

PART_ENTRY_BYTES = 200  # what a part takes in manifest.json, and some air


def seal(
    order: Order,
    recipe: str,
    contents: Contents,
    keys: Sequence[Ed25519PrivateKey],
    work: Path,
    report: Report,
) -> Manifest:
    """Put the bundle together out of what was gathered, the manifest and its signatures last."""
    began = created(work)
    text = bill(__version__, began, contents.carried, order.checksums, contents.removed)
    items = [made(manifests.SBOM, text, work), *contents.items]
    pyz = installer(ROOT)
    loose = {"install.pyz": pyz, "install.sh": install_script(ROOT, pyz, order.python)}
    manifest = Manifest(
        version=__version__,
        created=began,
        recipe=recipe,
        target=order.target,
        num_packages=len(contents.carried),  # ours in place of pip
        installed_bytes=contents.installed_bytes,
        environment=ENVIRONMENT[order.device],
        loose=tuple(entry_of(name, data) for name, data in loose.items()),
        files=tuple(item.entry for item in items),
    )
    total = sum(item.entry.size for item in items)

    def heard(done: int) -> None:
        report("putting together", done, total)

    if order.part_bytes:
        ahead = sum(map(len, loose.values())) + len(manifests.to_bytes(manifest)) + 200 * (1 + len(keys))
        ahead += PART_ENTRY_BYTES * (2 + total // order.part_bytes)
        parts = cut(items, order.out, part_sizes(order.part_bytes, ahead), heard)
        manifest = replace(manifest, parts=tuple(parts))
    else:
        place_whole(items, order.out, heard)
    for name, data in loose.items():
        write_if_new(order.out / name, data)
    (order.out / "install.sh").chmod(0o755)
    data = manifests.to_bytes(manifest)
    write_if_new(order.out / manifests.SIGNATURE, seal_text(data, keys).encode())
    write_if_new(order.out / manifests.MANIFEST, data)
    return manifest


def sign_anew(order: Order, keys: Sequence[Ed25519PrivateKey]) -> bool:
    """Give a finished bundle the signatures of these keys and no others. Whether that changed anything."""
    text = seal_text(manifests.read_bytes(order.out), keys)
    changed = (order.out / manifests.SIGNATURE).read_text() != text
    write_if_new(order.out / manifests.SIGNATURE, text.encode())
    return changed


def seal_text(manifest: bytes, keys: Sequence[Ed25519PrivateKey]) -> str:
    return digest_line(manifest) + "".join(sign(key, manifest) for key in keys)
