"""What is written: parts, signatures, nothing that a site would refuse."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bundle.seal import check_installable, clear, part_sizes, sign
from sealed.manifest import Entry, Manifest, parse, read_bytes, to_bytes
from server.errors import ConfigurationError

KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in range(2)]


def signatures(bundle: Path) -> set[str]:
    return {path.name for path in bundle.iterdir() if path.suffix in (".sshsig", ".ed25519")}


def test_the_first_part_leaves_room_for_the_installer() -> None:
    """The first disk takes what lies beside the parts as well; a size that has no room is refused."""
    sizes = part_sizes(1000, 300)
    assert [next(sizes) for _ in range(3)] == [700, 1000, 1000]
    with pytest.raises(ConfigurationError, match="--part-size"):
        next(part_sizes(300, 300))


def test_signing_anew_leaves_no_other_signature(whole: Path) -> None:
    """Two keys have files of their own, and one that signs no more leaves none behind."""
    data = read_bytes(whole)
    assert sign(whole, data, KEYS)
    assert signatures(whole) == {
        "install.sh.sshsig", "install.sh.ed25519", "install.sh.2.sshsig", "install.sh.2.ed25519",
    }  # fmt: skip
    assert not sign(whole, data, KEYS)
    assert sign(whole, data, KEYS[1:])
    assert signatures(whole) == {"install.sh.sshsig", "install.sh.ed25519"}


def test_leftovers_are_removed_and_strangers_told(whole: Path) -> None:
    """Parts and wheels of an earlier run go; what somebody else put there is named, and stays."""
    manifest = parse(read_bytes(whole))
    for name in ("part-0001", ".part-0002.partial"):
        (whole / name).write_bytes(b"")
    shutil.copy(whole / manifest.pip.path, whole / "wheels/pip-0-py3-none-any.whl")
    clear(whole, manifest)
    assert not list(whole.glob("*part-*"))
    (whole / "notes.txt").write_text("")
    with pytest.raises(ConfigurationError, match=r"notes\.txt is not part of the bundle"):
        clear(whole, manifest)
    assert (whole / "notes.txt").exists()


def test_nothing_is_made_that_no_site_would_install(whole: Path) -> None:
    """Where it is made it can be mended, at a site it cannot."""
    manifest: Manifest = parse(read_bytes(whole))
    check_installable(to_bytes(manifest))
    strange = (*manifest.files, Entry("models/m/" + "x" * 201, 0, "0" * 64))
    with pytest.raises(ConfigurationError, match="no site could install this bundle"):
        check_installable(to_bytes(replace(manifest, files=strange)))
