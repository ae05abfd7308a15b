"""What `uac_auth` offers to modules whose requests are challenged.

credentials = core.api("uac_auth", UacAuthApi)
login = credentials.login(run, challenge.realm)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Final

from opensipspy.script.run import Run
from opensipspy.sip import Credentials, ParseError, digest

# RFC 8760 §2.1 and the -sess forms of RFC 7616 §3.4.2, in lower case.
ALGORITHMS: Final = frozenset(("md5", "md5-sess", "sha-256", "sha-256-sess", "sha-512-256", "sha-512-256-sess"))
HEX: Final = frozenset("0123456789abcdef")
MOST_CHALLENGES: Final = 32
LONGEST_FIELD: Final = 1024


class Login:
    """A user name with its password for one realm. password: plain, or "0x" and the HA1 in hexadecimal."""

    __slots__ = ("password", "realm", "user")

    def __init__(self, user: str, realm: str, password: str) -> None:
        self.user = user
        self.realm = realm
        self.password = password

    def __repr__(self) -> str:
        # These land in logs: nothing of the secret.
        return f"Login({self.user!r} for {self.realm!r})"

    def ha1(self, realm: str, algorithm: str) -> str | None:
        """The HA1 for an algorithm; None when what is known was made with a hash of another length."""
        stored = self.password[2:].lower()
        if self.password[:2].lower() != "0x" or len(stored) not in (32, 64) or not HEX.issuperset(stored):
            return digest.ha1(self.user, realm, self.password, algorithm)
        length = 32 if algorithm.lower() in ("", "md5", "md5-sess") else 64
        return stored if len(stored) == length else None


class UacAuthApi(ABC):
    """Logins by realm, and answers to challenges."""

    @abstractmethod
    def login(self, run: Run | None, realm: str) -> Login | None:
        """What to answer a realm with: the AVPs of `run` first, then the parameter `credential`; None without."""

    @abstractmethod
    def cnonce(self) -> str:
        """A fresh value for the parameter of that name."""


def algorithm_names(text: str) -> frozenset[str]:
    """A comma list of algorithms in lower case; raises ValueError. Empty for ""."""
    found = frozenset(filter(None, (name.strip().lower() for name in text.split(","))))
    unknown = sorted(found - ALGORITHMS)
    if unknown:
        raise ValueError(f'"{unknown[0]}" is no digest algorithm: those are MD5, SHA-256 and SHA-512-256, with -sess')
    return found


def read_challenges(values: Iterable[str], algorithms: frozenset[str] = frozenset()) -> list[Credentials]:
    """The digest challenges that can be answered, in the order of the headers.

    A client answers the first one of a realm that it supports (RFC 8760 §2.4). algorithms: those to consider, in lower
    case; empty for all. What cannot be read is left out: the peer's fault must not keep the others from being used.
    """
    wanted = algorithms or ALGORITHMS
    found: list[Credentials] = []
    for count, value in enumerate(values):
        if count >= MOST_CHALLENGES:
            break
        try:
            challenge = digest.parse_credentials(value)
        except ParseError:
            continue
        if not challenge.is_digest or not challenge.nonce or challenge.param("realm") is None:
            continue
        if max(len(challenge.realm), len(challenge.nonce), len(challenge.opaque)) > LONGEST_FIELD:
            continue
        if (challenge.algorithm.lower() or "md5") in wanted and chosen_qop(challenge) is not None:
            found.append(challenge)
    return found


def chosen_qop(challenge: Credentials) -> str | None:
    """The protection to answer with: auth before auth-int; "" when none was offered, None for none that is known."""
    if challenge.param("qop") is None:
        return ""
    offered = [name.strip().lower() for name in challenge.qop.split(",")]
    return next((name for name in ("auth", "auth-int") if name in offered), None)


def is_stale(challenge: Credentials) -> bool:
    """Whether the answer was right and only its nonce too old (RFC 7616 §3.3)."""
    return (challenge.param("stale") or "").lower() == "true"


def answer(
    challenge: Credentials, login: Login, method: str, uri: str, body: bytes, cnonce: str, count: int = 1
) -> str | None:
    """The value of an Authorization or Proxy-Authorization header (RFC 7616 §3.4).

    uri: the Request-URI as it leaves. count: how often the nonce was used, this time included. None when the login
    holds the HA1 of another algorithm, or something that cannot stand in a header.
    """
    ha1 = login.ha1(challenge.realm, challenge.algorithm)
    if ha1 is None or any(char in login.user + challenge.realm + uri for char in "\r\n"):
        return None
    made = Credentials()
    made.scheme = "Digest"
    made.username = login.user
    made.realm = challenge.realm
    made.nonce = challenge.nonce
    made.uri = uri
    made.algorithm = challenge.algorithm
    made.opaque = challenge.opaque
    made.qop = chosen_qop(challenge) or ""
    if made.qop or made.algorithm.lower().endswith("-sess"):
        made.cnonce = cnonce
    if made.qop:
        made.nc = f"{count:08x}"
    made.response = digest.response(ha1, method, uri, made.nonce, made.qop, made.nc, made.cnonce, made.algorithm, body)
    text = digest.authorization(made)
    if made.cnonce and not made.qop:
        # Without qop the general form has no cnonce, which the session key needs.
        text += f', cnonce="{made.cnonce}"'
    return text


def answer_all(
    challenges: Iterable[Credentials],
    find: Callable[[str], Login | None],
    make: Callable[[Credentials, Login], str | None],
) -> list[tuple[Credentials, str]]:
    """One answer for each realm: the first challenge of it that a login fits. Challenges of other realms stay open."""
    found: list[tuple[Credentials, str]] = []
    done: set[str] = set()
    for challenge in challenges:
        realm = challenge.realm
        if realm in done:
            continue
        login = find(realm)
        text = make(challenge, login) if login is not None else None
        if text is not None:
            done.add(realm)
            found.append((challenge, text))
    return found
