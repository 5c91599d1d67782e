"""Verifies an Ed25519 signature, as in RFC 8032 (5.1.7).

Everywhere else, the library cryptography does this. But a site has to check a bundle's signature before any
package of it is installed; Python's standard library has no verifier, and `openssl` is missing on some
machines and does not support Ed25519 on others. Only public data is processed here (a public key, a
signature, a message), so the time may depend on it. Tested against the RFC's vectors
and against cryptography.
"""

from __future__ import annotations

import hashlib

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493  # the order of the base point
D = -121665 * pow(121666, -1, P) % P
SQRT_MINUS_1 = pow(2, (P - 1) // 4, P)

Point = tuple[int, int, int, int]  # extended coordinates (X, Y, Z, T): x = X/Z, y = Y/Z, x·y = T/Z


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the 64-byte signature of the message was made by the 32-byte key. Never raises because
    of their content."""
    if len(public_key) != 32 or len(signature) != 64:
        return False
    key, r = _decompress(public_key), _decompress(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if key is None or r is None or s >= L:
        return False
    digest = hashlib.sha512(signature[:32] + public_key + message).digest()
    h = int.from_bytes(digest, "little") % L
    return _equal(_multiply(s, BASE), _add(r, _multiply(h, key)))


def _add(p: Point, q: Point) -> Point:
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def _multiply(factor: int, point: Point) -> Point:
    result: Point = (0, 1, 1, 0)
    while factor:
        if factor & 1:
            result = _add(result, point)
        point = _add(point, point)
        factor >>= 1
    return result


def _equal(p: Point, q: Point) -> bool:
    return (p[0] * q[2] - q[0] * p[2]) % P == 0 and (p[1] * q[2] - q[1] * p[2]) % P == 0


def _decompress(encoded: bytes) -> Point | None:
    """The point from 32 bytes: y, and the sign of x in the highest bit. None if there is no such point."""
    y = int.from_bytes(encoded, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    if y >= P:
        return None
    x_squared = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    if x_squared == 0:
        return None if sign else (0, y, 1, 0)
    x = pow(x_squared, (P + 3) // 8, P)
    if (x * x - x_squared) % P:
        x = x * SQRT_MINUS_1 % P
    if (x * x - x_squared) % P:
        return None
    x = P - x if x & 1 != sign else x
    return x, y, 1, x * y % P


def _base() -> Point:
    point = _decompress((4 * pow(5, -1, P) % P).to_bytes(32, "little"))
    assert point
    return point


BASE = _base()
