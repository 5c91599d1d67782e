"""A manifest's signatures: required, missing, another's, changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from bundle.keys import make_keys, read_private_key, seal_text
from sealed.failures import BundleError, SiteError
from sealed.manifest import SIGNATURE
from sealed.signature import digest_line, read_public_key, read_sealed, require_signature, signers

MANIFEST = b'{"format": 1}'


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder with two pairs of keys, old and new."""
    for name in ("old", "new"):
        make_keys(tmp_path / name)
    return tmp_path


def signed_by(keys: Path, *names: str) -> str:
    return seal_text(MANIFEST, [read_private_key(keys / f"{name}.key", str) for name in names])


def test_a_signature_of_a_trusted_key_is_enough(keys: Path) -> None:
    """While keys change a bundle has two signatures, and a site may trust either key or both."""
    old, new = (read_public_key(keys / f"{name}.pub") for name in ("old", "new"))
    both = signed_by(keys, "old", "new")
    assert require_signature(MANIFEST, both, [new]) == new
    assert require_signature(MANIFEST, both, [old]) == old
    assert require_signature(MANIFEST, signed_by(keys, "new"), [old, new]) == new
    assert signers(both) == [old.id, new.id]


@pytest.mark.parametrize(
    ("signed", "manifest", "words"),
    [
        ((), MANIFEST, "not signed"),
        (("old",), MANIFEST, "somebody else's"),
        (("new",), MANIFEST + b" ", "does not fit this manifest"),
    ],
)
def test_no_other_signature_will_do(keys: Path, signed: tuple[str, ...], manifest: bytes, words: str) -> None:
    """None at all, another key's, and the right key's over another manifest: each is told apart."""
    with pytest.raises(BundleError, match=words):
        require_signature(manifest, signed_by(keys, *signed), [read_public_key(keys / "new.pub")])


def test_garbage_is_no_signature(keys: Path) -> None:
    """Lines that say nothing are passed over."""
    text = digest_line(MANIFEST) + "ed25519 x !\ned25519\nrsa x eA==\ned25519 \x1b[2J eA==\n"
    assert signers(text) == []  # which is printed
    with pytest.raises(BundleError, match="not signed"):
        require_signature(MANIFEST, text, [read_public_key(keys / "new.pub")])


def test_a_manifest_without_its_digest_is_refused(whole: Path) -> None:
    """Damage shows without any key."""
    (whole / SIGNATURE).unlink()
    with pytest.raises(BundleError, match=rf"{SIGNATURE}: missing"):
        read_sealed(whole)


def test_what_is_no_public_key_is_told(keys: Path, tmp_path: Path) -> None:
    """A private key, another algorithm's, a missing file, any text."""
    rsa = generate_private_key(65537, 2048).public_key()
    pem = rsa.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "rsa.pub").write_bytes(pem)
    (tmp_path / "bytes.pub").write_bytes(b"\xff\xfe")
    for name, words in (
        ("old.key", "is a private key"),
        ("rsa.pub", "not an Ed25519 public key"),
        ("bytes.pub", "not an Ed25519 public key"),
        ("none.pub", "cannot read"),
    ):
        with pytest.raises(SiteError, match=words):
            read_public_key(keys / name)
