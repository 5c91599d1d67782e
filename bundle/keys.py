"""The keys that sign bundles, and the signatures.

They sign the manifest, which `install.sh` and `verbatim verify` check (sealed/signature.py), and install.sh,
which the site's own tools check before anything of the bundle runs: `ssh-keygen -Y verify` and `openssl
pkeyutl -verify`.
"""

from __future__ import annotations

import base64
import hashlib
import os
import struct
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealed.manifest import SCRIPT
from sealed.signature import digest_line, key_id, signature_line
from server.errors import ConfigurationError

SSH_IDENTITY, SSH_NAMESPACE = "verbatim", "verbatim-bundle"
MOST_KEYS = 9  # each key has files of its own, numbered from the second on: sealed.manifest.DETACHED

Passphrase = Callable[[Path], str]  # returns the passphrase of the key in this file


def make_keys(name: Path, passphrase: str = "") -> tuple[list[Path], str]:
    """Write NAME.key, readable only for its owner, NAME.pub and NAME.allowed; existing files
    are not replaced.

    Returns the three paths, and the key's id. The last file has the same public key for
    `ssh-keygen -Y verify`.
    """
    private, public, allowed = (name.with_name(f"{name.name}.{end}") for end in ("key", "pub", "allowed"))
    for path in (private, public, allowed):
        if path.exists():
            raise ConfigurationError(
                f"{path} exists already, and every bundle signed with it would become worthless. Choose"
                " another name."
            )
    key = Ed25519PrivateKey.generate()
    locked = serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else None
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        locked or serialization.NoEncryption(),
    )
    try:
        with os.fdopen(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secret)
        public.write_bytes(
            key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        allowed.write_text(allowed_signer(key) + "\n")
    except OSError as error:
        raise ConfigurationError(f"cannot write {error.filename}: {error.strerror}.") from error
    return [private, public, allowed], key_id(raw_public(key))


def read_private_key(path: Path, passphrase: Passphrase) -> Ed25519PrivateKey:
    """Read a private key. `passphrase` is called if the key is protected."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"--sign: cannot read {path}: {error.strerror}.") from error
    key: object
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except TypeError:
        key = _unlock(path, data, passphrase(path))
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(
            f"--sign: {path} is not an Ed25519 private key in PEM; `verbatim bundle keygen NAME` makes"
            " NAME.key."
        )
    return key


def _unlock(path: Path, data: bytes, passphrase: str) -> object:
    try:
        return serialization.load_pem_private_key(data, passphrase.encode())
    except (ValueError, TypeError):  # an empty passphrase raises a TypeError
        raise ConfigurationError(f"--sign: the passphrase of {path} is wrong.") from None


def raw_public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def allowed_signer(key: Ed25519PrivateKey) -> str:
    """The key's line of an allowed_signers file."""
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return f'{SSH_IDENTITY} namespaces="{SSH_NAMESPACE}" {public.decode()}'


def seal_text(manifest: bytes, keys: Sequence[Ed25519PrivateKey]) -> str:
    """The text of manifest.json.sig."""
    lines = [signature_line(raw_public(key), key.sign(manifest)) for key in keys]
    return digest_line(manifest) + "".join(lines)


def detached(script: bytes, keys: Sequence[Ed25519PrivateKey]) -> dict[str, bytes]:
    """The signatures of install.sh, by file name: two for each key."""
    found = {}
    for number, key in enumerate(keys, 1):
        name = SCRIPT if number == 1 else f"{SCRIPT}.{number}"
        found[f"{name}.sshsig"] = ssh_signature(key, script)
        found[f"{name}.ed25519"] = key.sign(script)
    return found


def ssh_signature(key: Ed25519PrivateKey, message: bytes) -> bytes:
    """A signature as `ssh-keygen -Y sign` makes it: OpenSSH's PROTOCOL.sshsig."""
    kind = "ssh-ed25519"
    named = _strings(SSH_NAMESPACE, "", "sha512")
    signed = key.sign(b"SSHSIG" + named + _strings(hashlib.sha512(message).digest()))
    public = _strings(kind, raw_public(key))
    blob = b"SSHSIG" + struct.pack(">I", 1) + _strings(public) + named + _strings(_strings(kind, signed))
    lines = textwrap.wrap(base64.b64encode(blob).decode(), 70)
    return "\n".join(["-----BEGIN SSH SIGNATURE-----", *lines, "-----END SSH SIGNATURE-----", ""]).encode()


def _strings(*parts: str | bytes) -> bytes:
    """SSH's strings: the length, then the bytes."""
    data = (part.encode() if isinstance(part, str) else part for part in parts)
    return b"".join(struct.pack(">I", len(part)) + part for part in data)
