"""Keys and signatures: made, required, missing, another's, changed."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from bundle.signing import make_keys, read_private_key, sign
from bundle.site.manifest import SIGNATURE
from bundle.site.signature import digest_line, read_public_key, read_sealed, require_signature, signers
from server.errors import BundleError, ConfigurationError

MANIFEST = b'{"format": 1}'


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder with two pairs of keys, old and new."""
    for name in ("old", "new"):
        make_keys(tmp_path / name)
    return tmp_path


def signed_by(keys: Path, *names: str) -> str:
    return digest_line(MANIFEST) + "".join(
        sign(read_private_key(keys / f"{name}.key"), MANIFEST) for name in names
    )


def test_a_private_key_is_its_owners_alone(keys: Path) -> None:
    """Nobody else may read it, and neither key is ever replaced."""
    assert stat.S_IMODE((keys / "old.key").stat().st_mode) == 0o600
    with pytest.raises(ConfigurationError, match=r"old\.key is there already"):
        make_keys(keys / "old")


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
        (("old",), MANIFEST, "another maker's"),
        (("new",), MANIFEST + b" ", "is not one of this manifest"),
    ],
)
def test_no_other_signature_will_do(keys: Path, signed: tuple[str, ...], manifest: bytes, words: str) -> None:
    """None at all, another key's, and the right key's over another manifest: each is told apart."""
    with pytest.raises(BundleError, match=words):
        require_signature(manifest, signed_by(keys, *signed), [read_public_key(keys / "new.pub")])


def test_garbage_is_no_signature(keys: Path) -> None:
    """Lines that say nothing are passed over."""
    text = digest_line(MANIFEST) + "ed25519 x !\ned25519\nrsa x eA==\n"
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
        with pytest.raises(ConfigurationError, match=words):
            read_public_key(keys / name)


def test_what_is_no_private_key_is_told(keys: Path, tmp_path: Path) -> None:
    """A public key, a missing file, one behind a passphrase."""
    secret = read_private_key(keys / "old.key").private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"x"),
    )
    (tmp_path / "locked.key").write_bytes(secret)
    for name, words in (
        ("old.pub", "not an Ed25519 private key"),
        ("none.key", "cannot read"),
        ("locked.key", "passphrase"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            read_private_key(keys / name)


def test_openssl_reads_the_keys(keys: Path) -> None:
    """They are plain PEM: `openssl pkey` knows both, where it is installed."""
    try:
        command = ["openssl", "pkey", "-in", str(keys / "old.key"), "-pubout"]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    assert told == (keys / "old.pub").read_text()
