"""What Envoy makes of a user's id, computed without it: the name in the log, the bucket, the arm.

SipHash-2-4 is by its authors' paper, xxHash64 by the specification in its repository; `test_envoy_users` holds both against published vectors.
"""

from __future__ import annotations

from collections.abc import Mapping

MASK = 2**64 - 1
PRIMES = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)


def keyed(user: str, key: str) -> str:
    """SipHash-2-4 of *user* under *key* (32 hex digits, two numbers), as 16 hex digits."""
    k0, k1 = int(key[:16], 16), int(key[16:], 16)
    data = user.encode()
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]
    whole = len(data) // 8 * 8
    words = [int.from_bytes(data[at : at + 8], "little") for at in range(0, whole, 8)]
    words.append(int.from_bytes(data[whole:], "little") | (len(data) & 0xFF) << 56)
    for word in words:
        v[3] ^= word
        _rounds(v, 2)
        v[0] ^= word
    v[2] ^= 0xFF
    _rounds(v, 4)
    return f"{v[0] ^ v[1] ^ v[2] ^ v[3]:016x}"


def _rounds(v: list[int], count: int) -> None:
    for _ in range(count):
        v[0] = (v[0] + v[1]) & MASK
        v[1] = _rotated(v[1], 13) ^ v[0]
        v[0] = _rotated(v[0], 32)
        v[2] = (v[2] + v[3]) & MASK
        v[3] = _rotated(v[3], 16) ^ v[2]
        v[0] = (v[0] + v[3]) & MASK
        v[3] = _rotated(v[3], 21) ^ v[0]
        v[2] = (v[2] + v[1]) & MASK
        v[1] = _rotated(v[1], 17) ^ v[2]
        v[2] = _rotated(v[2], 32)


def xxhash64(data: bytes) -> int:
    """XxHash64 with seed 0 of fewer than 32 bytes, which is all that is hashed here."""
    assert len(data) < 32
    p1, p2, p3, p4, p5 = PRIMES
    value, at = p5 + len(data), 0
    while at + 8 <= len(data):
        lane = _rotated(int.from_bytes(data[at : at + 8], "little") * p2 & MASK, 31) * p1 & MASK
        value = (_rotated(value ^ lane, 27) * p1 + p4) & MASK
        at += 8
    if at + 4 <= len(data):
        value = (_rotated(value ^ int.from_bytes(data[at : at + 4], "little") * p1 & MASK, 23) * p2 + p3) & MASK
        at += 4
    for byte in data[at:]:
        value = _rotated(value ^ byte * p5 & MASK, 11) * p1 & MASK
    value = (value ^ value >> 33) * p2 & MASK
    value = (value ^ value >> 29) * p3 & MASK
    return value ^ value >> 32


def _rotated(value: int, by: int) -> int:
    value &= MASK
    return (value << by | value >> 64 - by) & MASK


def bucket(user: str, salt: str) -> int:
    """The bucket of *user*, 0 to 9,999, in the release with this *salt*; without one by the bare id, as older releases did."""
    return xxhash64((keyed(user, salt) if salt else user).encode()) % 10_000


def arm(weights: Mapping[str, float], bucket: int) -> str:
    """Who answers the *bucket*: shares in percent follow one another in their order."""
    end = 0.0
    for name, percent in weights.items():
        end += percent * 100
        if bucket < round(end):
            return name
    raise AssertionError(f"{dict(weights)} do not reach {bucket}")
