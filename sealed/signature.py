"""Who made a bundle: the signatures of its manifest, and the public keys that a site trusts.

manifest.json.sig begins with the line `sha256 - HEX`, the digest of manifest.json, so that damage shows
without any key. Then there is a line for each signature, `ed25519 KEY-ID BASE64`, over the bytes of
manifest.json; there are two while one key replaces another. Keys are PEM files, which openssl makes
and reads too.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sealed import ed25519
from sealed.failures import BundleError, SiteError
from sealed.files import UnreadableError, open_file
from sealed.manifest import MANIFEST, SIGNATURE, read_bytes

ALGORITHM = "ed25519"
KEY_ID = re.compile(r"[0-9a-f]{16}")
MOST_SIGNATURE_BYTES = 1 << 16  # enough for some hundred signatures
# the beginning of an Ed25519 SubjectPublicKeyInfo, up to the key itself
DER_PREFIX = bytes.fromhex("302a300506032b6570032100")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One key, and the file that it was read from."""

    raw: bytes
    file: str

    @property
    def id(self) -> str:
        return key_id(self.raw)


def key_id(raw: bytes) -> str:
    """A short id of a public key, for people to compare."""
    return hashlib.sha256(raw).hexdigest()[:16]


def read_public_key(path: Path) -> PublicKey:
    """A public key from its PEM file. Raises SiteError for anything else."""
    try:
        lines = path.read_text("ascii").split("\n")
    except OSError as error:
        raise SiteError(f"cannot read the public key {path}: {error.strerror}.") from error
    except UnicodeDecodeError:
        lines = []
    inner = [line.strip() for line in lines if line.strip() and not line.startswith("-----")]
    try:
        der = base64.b64decode("".join(inner), validate=True)
    except binascii.Error:
        der = b""
    if "PRIVATE KEY" in "".join(lines):
        raise SiteError(
            f"{path} is a private key. A site needs the public key, NAME.pub; keep the private key where"
            " bundles are made."
        )
    if len(der) != len(DER_PREFIX) + 32 or not der.startswith(DER_PREFIX):
        raise SiteError(
            f"{path} is not an Ed25519 public key in PEM; `verbatim bundle keygen NAME` makes NAME.pub."
        )
    return PublicKey(der[len(DER_PREFIX) :], str(path))


def digest_line(manifest: bytes) -> str:
    return f"sha256 - {hashlib.sha256(manifest).hexdigest()}\n"


def signature_line(raw_key: bytes, signature: bytes) -> str:
    return f"{ALGORITHM} {key_id(raw_key)} {base64.b64encode(signature).decode()}\n"


def read_sealed(folder: Path) -> tuple[bytes, str]:
    """(the bytes of manifest.json, which match the digest in manifest.json.sig; the text of the latter).
    Raises BundleError."""
    manifest = read_bytes(folder)
    try:
        with open_file(folder / SIGNATURE) as file:
            text = file.read(MOST_SIGNATURE_BYTES).decode("ascii", errors="replace")
    except FileNotFoundError:
        raise BundleError(f"{SIGNATURE}: missing") from None
    except UnreadableError as error:
        raise BundleError(f"{folder / SIGNATURE}: {error}.") from error
    if not text.startswith(digest_line(manifest)):
        raise BundleError(f"{MANIFEST}: altered, or {SIGNATURE} is: their digests differ. Copy both again.")
    return manifest, text


def signers(text: str) -> list[str]:
    """The ids of the keys that a signature file names; the signatures are not checked."""
    return [key for key, _ in _signatures(text)]


def _signatures(text: str) -> Iterator[tuple[str, bytes]]:
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == ALGORITHM and KEY_ID.fullmatch(words[1]):
            try:
                yield words[1], base64.b64decode(words[2], validate=True)
            except binascii.Error:
                continue


def require_signature(manifest: bytes, text: str, keys: Iterable[PublicKey]) -> PublicKey:
    """The trusted key whose signature is on the manifest. Raises BundleError if there is none."""
    trusted, named = list(keys), list(_signatures(text))
    for key in trusted:
        for _, signature in named:
            if ed25519.verify(key.raw, manifest, signature):
                return key
    wanted = " or ".join(f"{key.file} ({key.id})" for key in trusted)
    if not named:
        raise BundleError(f"{SIGNATURE}: this bundle is not signed, but a signature by {wanted} is required.")
    ours = {key.id for key in trusted} & {key for key, _ in named}
    if ours:
        raise BundleError(
            f"{SIGNATURE}: the signature by key {', '.join(sorted(ours))} does not fit this {MANIFEST}. One"
            " of the two was damaged or replaced."
        )
    found = ", ".join(key for key, _ in named)
    raise BundleError(
        f"{SIGNATURE}: signed by {found}, but a signature by {wanted} is required. The bundle is somebody"
        " else's, or its sender has a new key: ask for the public key, by another way than the bundle's."
    )
