"""Authentication vectors and the arithmetic of AKA digests (RFC 3310, RFC 4169). Pure: the time is handed in."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from typing import Final

from opensipspy.sip import digest

HASHES: Final = {
    "md5": "md5",
    "md5-sess": "md5",
    "sha-256": "sha256",
    "sha-256-sess": "sha256",
    "sha-512-256": "sha512_256",
    "sha-512-256-sess": "sha512_256",
}
BASES: Final = ("MD5", "MD5-sess", "SHA-256", "SHA-256-sess", "SHA-512-256", "SHA-512-256-sess")
ALGORITHMS: Final = tuple(f"AKAv{version}-{base}" for version in (1, 2) for base in BASES)
NAMES: Final = {name.lower(): name for name in ALGORITHMS}
V2_LABEL: Final = b"http-digest-akav2-password"
RAND_SIZE: Final = 16
AUTS_SIZE: Final = 14
AUTHENTICATE_SIZE: Final = 32
MAX_RES: Final = 16
"""Octets of XRES (3GPP TS 33.102 §6.3.7)."""
KEY_SIZE: Final = 16
MAX_VECTORS: Final = 64
"""Vectors of one user."""
MAX_USERS: Final = 1_000_000

NEW: Final = 0
USING: Final = 1


class Vector:
    """One vector. nonce: RAND and AUTN in base64. algorithms: empty for any; algorithm: what it was given out for.

    since: when it came, or was given out.
    """

    __slots__ = (
        "algorithm",
        "algorithms",
        "confidentiality_key",
        "integrity_key",
        "last_use",
        "nonce",
        "response",
        "since",
        "state",
    )

    def __init__(
        self,
        authenticate: str,
        authorize: str,
        confidentiality_key: str,
        integrity_key: str,
        algorithms: Sequence[str],
        now: float,
    ) -> None:
        challenge = _hex("authenticate", authenticate, AUTHENTICATE_SIZE, AUTHENTICATE_SIZE)
        self.nonce = base64.b64encode(challenge).decode("ascii")
        self.response = _hex("authorize", authorize, 1, MAX_RES)
        self.confidentiality_key = _hex("confidentiality-key", confidentiality_key, KEY_SIZE, KEY_SIZE).hex()
        self.integrity_key = _hex("integrity-key", integrity_key, KEY_SIZE, KEY_SIZE).hex()
        self.algorithms = algorithm_list(",".join(algorithms)) if algorithms else ()
        self.algorithm = ""
        self.state = NEW
        self.since = now
        # The nonce count that was seen last, and with which request.
        self.last_use: tuple[int, str, int] = (0, "", 0)

    def __repr__(self) -> str:
        # Nothing of what is in it: that is all secret.
        return f"Vector({self.algorithm or 'unused'})"

    def password(self, algorithm: str) -> str:
        """What stands for the password in the digest, any octets written as surrogates."""
        version, _, base = algorithm.lower().partition("-")
        secret = self.response
        if version == "akav2":
            # RFC 4169 §3.1
            key = secret + bytes.fromhex(self.integrity_key) + bytes.fromhex(self.confidentiality_key)
            secret = base64.b64encode(hmac.new(key, V2_LABEL, HASHES[base]).digest())
        return secret.decode("utf-8", "surrogateescape")

    def verify(self, credentials: digest.Credentials, method: str, body: bytes) -> bool:
        """Whether a response is right; compared in constant time."""
        if credentials.qop.lower() not in ("", "auth", "auth-int"):
            return False
        if credentials.qop and (not credentials.nc or not credentials.cnonce):
            return False
        base = credentials.algorithm.partition("-")[2]
        expected = digest.response(
            digest.ha1(credentials.username, credentials.realm, self.password(credentials.algorithm), base),
            method,
            credentials.uri,
            credentials.nonce,
            credentials.qop,
            credentials.nc,
            credentials.cnonce,
            base,
            body,
        )
        given = credentials.response.lower().encode("utf-8", "surrogateescape")
        return hmac.compare_digest(expected.encode("ascii"), given)

    def is_next_use(self, count: str, call_id: str, cseq: int) -> bool:
        """Whether a nonce count follows the last one (RFC 7616 §3.3); the same request may be checked again."""
        use = (int(count, 16) if count else 0, call_id, cseq)
        if use == self.last_use:
            return True
        if self.last_use[1] and use[0] <= self.last_use[0]:
            return False
        self.last_use = use
        return True


class User:
    """The vectors of one pair of identities. failures: vectors that will not come."""

    __slots__ = ("failures", "vectors")

    def __init__(self) -> None:
        self.vectors: list[Vector] = []
        self.failures = 0

    def take(self, algorithm: str, now: float) -> Vector | None:
        """Give out the oldest unused vector for an algorithm."""
        for vector in self.vectors:
            if vector.state == NEW and (not vector.algorithms or algorithm in vector.algorithms):
                vector.state = USING
                vector.algorithm = algorithm
                vector.since = now
                return vector
        return None

    def given_out(self, nonce: str, algorithm: str) -> Vector | None:
        """The vector that a nonce was made of, when it was given out for this algorithm."""
        for vector in self.vectors:
            if vector.state == USING and vector.nonce == nonce and vector.algorithm == algorithm:
                return vector
        return None


def resync(nonce: str, auts: str) -> bytes:
    """RAND and AUTS, as 3GPP TS 29.229 §6.3.11 wants them. ValueError when either is malformed."""
    try:
        challenge = base64.b64decode(nonce, validate=True)
        tokens = base64.b64decode(auts, validate=True)
    except ValueError:
        raise ValueError("nonce and auts are base64") from None
    if len(challenge) < RAND_SIZE or len(tokens) != AUTS_SIZE:
        raise ValueError(f"auts has {len(tokens)} octets, it needs {AUTS_SIZE}")
    return challenge[:RAND_SIZE] + tokens


def algorithm_list(text: str) -> tuple[str, ...]:
    """Names of AKA algorithms, separated by commas, as they are written. ValueError for others."""
    found = []
    for word in text.split(","):
        name = NAMES.get(word.strip().lower())
        if name is None:
            raise ValueError(f'"{word.strip()}" is no AKA algorithm: those are {", ".join(ALGORITHMS)}')
        if name not in found:
            found.append(name)
    return tuple(found)


def _hex(name: str, text: str | None, least: int, most: int) -> bytes:
    try:
        found = bytes.fromhex(text or "")
    except ValueError:
        # The value stays out of the message: it is a secret.
        raise ValueError(f"{name} is hexadecimal") from None
    if not least <= len(found) <= most:
        raise ValueError(f"{name} has {len(found)} octets")
    return found
