"""Our verification of Ed25519 signatures against the RFC's vectors and against the library."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from bundle.keys import raw_public
from sealed.ed25519 import L, verify

# RFC 8032, 7.1: secret key, public key, message, signature of tests 1, 2, 3 and SHA(abc)
VECTORS = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        (
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
            "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
        ),
    ),
    (
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        (
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
            "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
        ),
        (
            "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b589"
            "09351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704"
        ),
    ),
]
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.mark.parametrize(("public", "message", "signature"), VECTORS)
def test_vectors_of_the_rfc(public: str, message: str, signature: str) -> None:
    """Signatures of RFC 8032 verify, and not for another message."""
    raw, said, signed = map(bytes.fromhex, (public, message, signature))
    assert verify(raw, said, signed)
    assert not verify(raw, said + b"x", signed)


@settings(max_examples=20)
@given(seed=st.binary(min_size=32, max_size=32), message=st.binary(max_size=200))
def test_what_the_library_signs_verifies(seed: bytes, message: bytes) -> None:
    """Every signature that cryptography makes."""
    key = Ed25519PrivateKey.from_private_bytes(seed)
    assert verify(raw_public(key), message, key.sign(message))


@settings(max_examples=60)
@given(bit=st.integers(0, 64 * 8 - 1))
def test_an_altered_signature_does_not(bit: int) -> None:
    """Any single bit of it."""
    signature = bytearray(KEY.sign(b"message"))
    signature[bit // 8] ^= 1 << bit % 8
    assert not verify(raw_public(KEY), b"message", bytes(signature))


def test_a_second_signature_cannot_be_made_from_the_first() -> None:
    """S + L passes the equation, and is refused by its size."""
    signature = KEY.sign(b"message")
    larger = (int.from_bytes(signature[32:], "little") + L).to_bytes(32, "little")
    assert not verify(raw_public(KEY), b"message", signature[:32] + larger)


@pytest.mark.parametrize("key", [b"", b"\xff" * 32, b"\x02" + b"\0" * 31, b"\1" + b"\0" * 30 + b"\x80"])
def test_no_key_is_refused(key: bytes) -> None:
    """Bytes that are no point of the curve."""
    assert not verify(key, b"message", KEY.sign(b"message"))
    assert not verify(raw_public(KEY), b"message", (key or b"\0").ljust(64, b"\xff"))
