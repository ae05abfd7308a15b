"""Globally routable user agent URIs (RFC 5627): made for the answer to a REGISTER, recognised in a Request-URI.

A temporary GRUU hides whose it is: user part "tgruu." and base64url(nonce, text XOR key stream, check). The key stream
and the check come from the secret by SHA-256, so that nobody without it can read or invent one. The text names the AOR,
the instance and the Call-ID: a registration with a new Call-ID makes older ones worthless (§3.2), nothing matches them.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from random import Random
from typing import Final
from urllib.parse import quote

TEMPORARY: Final = "tgruu."
DEFAULT_SECRET: Final = "OpenSIPS"
NONCE_BYTES: Final = 6
CHECK_BYTES: Final = 8
SEPARATOR: Final = "\0"
LONGEST: Final = 2048

USER_MARKS: Final = "-_.!~*'()&=+$,;?/"
"""What stands unescaped in the user part of a URI beside letters and digits (RFC 3261 §25.1)."""
_URN_MARKS: Final = str.maketrans("", "", "-_.:+~")


class TemporaryGruu:
    """What a temporary GRUU stands for."""

    __slots__ = ("aor", "callid", "instance")

    def __init__(self, aor: str, instance: str, callid: str) -> None:
        self.aor = aor
        self.instance = instance
        self.callid = callid


def plain_instance(instance: str) -> str:
    """The value of +sip.instance without its angle brackets: "urn:uuid:..."."""
    return instance.strip().removeprefix("<").removesuffix(">")


def usable_instance(instance: str) -> bool:
    """Whether the instance can be a parameter of a URI as it is: a URN that needs no escapes."""
    plain = plain_instance(instance)
    return bool(plain) and plain.isascii() and plain.translate(_URN_MARKS).isalnum()


def public_gruu(aor: str, instance: str) -> str:
    """The user's address with the instance as `gr` parameter (RFC 5627 §5.1)."""
    user, _, domain = aor.rpartition("@")
    escaped = quote(user, safe=USER_MARKS, errors="surrogateescape")
    return f"sip:{escaped}@{domain};gr={plain_instance(instance)}"


def temporary_gruu(aor: str, instance: str, callid: str, host: str, secret: str, random: Random) -> str:
    """A new URI that leads to one registration and does not tell to whose."""
    text = SEPARATOR.join((aor, plain_instance(instance), callid)).encode("utf-8", "surrogateescape")
    nonce = random.randbytes(NONCE_BYTES)
    hidden = _xor(text, secret, nonce)
    user = urlsafe_b64encode(nonce + hidden + _check(secret, nonce + hidden)).decode().rstrip("=")
    return f"sip:{TEMPORARY}{user}@{host};gr"


def open_temporary(user: str, secret: str) -> TemporaryGruu | None:
    """What the user part of a temporary GRUU stands for; None for one that was not made with this secret."""
    text = user.removeprefix(TEMPORARY)
    if text == user or len(text) > LONGEST:
        return None
    try:
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (Base64Error, ValueError):
        return None
    body, check = data[:-CHECK_BYTES], data[-CHECK_BYTES:]
    if len(body) <= NONCE_BYTES or not hmac.compare_digest(check, _check(secret, body)):
        return None
    parts = _xor(body[NONCE_BYTES:], secret, body[:NONCE_BYTES]).decode("utf-8", "surrogateescape").split(SEPARATOR)
    return TemporaryGruu(*parts) if len(parts) == 3 else None


def _xor(data: bytes, secret: str, nonce: bytes) -> bytes:
    stream = b""
    key = secret.encode("utf-8", "surrogateescape")
    while len(stream) < len(data):
        stream += hashlib.sha256(key + nonce + len(stream).to_bytes(4, "big")).digest()
    return bytes(a ^ b for a, b in zip(data, stream, strict=False))


def _check(secret: str, data: bytes) -> bytes:
    return hmac.new(secret.encode("utf-8", "surrogateescape"), data, "sha256").digest()[:CHECK_BYTES]
