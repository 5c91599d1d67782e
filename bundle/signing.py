"""Keys and signatures, where bundles are made. The site's side is bundle/site/signature.py."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bundle.site.signature import key_id, signature_line
from server.errors import ConfigurationError


def make_keys(name: Path) -> tuple[Path, Path, str]:
    """Writes NAME.key, for its owner alone, and NAME.pub. Returns both and the key's id; replaces neither."""
    private, public = name.with_name(f"{name.name}.key"), name.with_name(f"{name.name}.pub")
    for path in (private, public):
        if path.exists():
            raise ConfigurationError(
                f"{path} is there already, and replacing it would make every bundle signed with it"
                " worthless. Choose"
                " another name."
            )
    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        with os.fdopen(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secret)
        public.write_bytes(
            key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
    except OSError as error:
        raise ConfigurationError(f"cannot write {error.filename}: {error.strerror}.") from error
    return private, public, key_id(raw_public(key))


def read_private_key(path: Path) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise ConfigurationError(f"--sign: cannot read {path}: {error.strerror}.") from error
    except TypeError:
        raise ConfigurationError(
            f"--sign: {path} is protected by a passphrase. Take it off for the time of signing, with"
            " `openssl pkey`."
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(
            f"--sign: {path} is not an Ed25519 private key in PEM; `verbatim bundle keygen NAME` makes"
            " NAME.key."
        )
    return key


def raw_public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def sign(key: Ed25519PrivateKey, manifest: bytes) -> str:
    """A line for manifest.json.sig."""
    return signature_line(raw_public(key), key.sign(manifest))
