"""Nonces: when they were made, what for, and that they were made here and are used once (RFC 7616 §3.3, §5.4, §5.5).

A nonce is base64 of: time of making (seconds, 4 bytes), a number that is its own (8 bytes), algorithm and qop it was
offered with (1 byte each), and 16 bytes of keyed BLAKE2s (RFC 7693 §2.9) over all that, which takes a third of the time
of HMAC-SHA256. So nothing is kept for a challenge that nobody answers; only nonces that led to a correct response are
remembered, until they would be stale anyway.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from binascii import Error, a2b_base64, b2a_base64
from typing import Final

from mypy_extensions import mypyc_attr

FIELDS: Final = struct.Struct(">IQBB")
MAC_BYTES: Final = 16
LENGTH: Final = FIELDS.size + MAC_BYTES
TEXT_LENGTH: Final = 4 * LENGTH // 3
"""Characters of a nonce: its length is a multiple of three, so that base64 pads nothing."""
CLOCK_SLACK_S: Final = 5
"""How far the clocks of two servers with one secret may be apart."""
MAX_USED: Final = 1_000_000
"""Nonces remembered as used in one lifetime; when they are that many, further ones are refused."""


@mypyc_attr(acyclic=True)
class Nonce:
    """A nonce that was made with our secret. made: seconds since 1970. algorithm and qop: as given to `make`."""

    __slots__ = ("algorithm", "made", "number", "qop")

    def __init__(self, made: int, number: int, algorithm: int, qop: int) -> None:
        self.made: int = made
        self.number: int = number
        self.algorithm: int = algorithm
        self.qop: int = qop

    def is_fresh(self, now: float, lifetime_s: int) -> bool:
        return -CLOCK_SLACK_S <= now - self.made <= lifetime_s


class Nonces:
    """Makes and reads nonces of one secret, and knows which were used."""

    def __init__(self, secret: bytes) -> None:
        self._key: bytes = hashlib.sha256(secret).digest()  # BLAKE2s takes 32 bytes and no more
        self._used: set[int] = set()
        self._used_before: set[int] = set()
        self._turn_at: float = 0.0

    def make(self, now: float, number: int, algorithm: int, qop: int) -> str:
        """A new nonce; `number` is one that no other has (64 random bits)."""
        fields = FIELDS.pack(int(now), number, algorithm, qop)
        return b2a_base64(fields + self._mac(fields), newline=False).decode("ascii")

    def read(self, text: str) -> Nonce | None:
        """The fields of a nonce; None when it is not one of ours, however it came to be so."""
        if len(text) != TEXT_LENGTH or not text.isascii():
            return None
        try:
            data = a2b_base64(text, strict_mode=True)
        except Error:
            return None
        if len(data) != LENGTH:
            return None
        fields = data[: FIELDS.size]
        if not hmac.compare_digest(self._mac(fields), data[FIELDS.size :]):
            return None
        made, number, algorithm, qop = FIELDS.unpack(fields)
        return Nonce(made, number, algorithm, qop)

    def is_used(self, nonce: Nonce) -> bool:
        """Whether a correct response came with this nonce before."""
        return nonce.number in self._used or nonce.number in self._used_before

    def use(self, nonce: Nonce, now: float, lifetime_s: int) -> bool:
        """Use the nonce up; False when it was used before, or when too many are in use to remember one more."""
        if now >= self._turn_at:
            # Two generations: a number is forgotten between one and two lifetimes after its use, when it is stale.
            elapsed_both = now >= self._turn_at + lifetime_s + CLOCK_SLACK_S
            self._used_before = set() if elapsed_both else self._used
            self._used = set()
            self._turn_at = now + lifetime_s + CLOCK_SLACK_S
        if self.is_used(nonce) or len(self._used) >= MAX_USED:
            return False
        self._used.add(nonce.number)
        return True

    def _mac(self, fields: bytes) -> bytes:
        return hashlib.blake2s(fields, digest_size=MAC_BYTES, key=self._key).digest()
