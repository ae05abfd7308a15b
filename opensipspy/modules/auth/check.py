"""Challenges, and credentials that answer them, up to the password: compiled, as every REGISTER passes here twice.

What the module's parameters say is written into the `Checker` when the module starts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from mypy_extensions import mypyc_attr

from opensipspy.modules.auth.nonce import Nonce, Nonces
from opensipspy.script.run import Run
from opensipspy.sip import M_ACK, M_CANCEL, M_REGISTER, Credentials, Header, ParseError, digest

# What the authorize functions return to the script.
AUTHORIZED: Final = 1
INVALID_USER: Final = -1
INVALID_PASSWORD: Final = -2
STALE_NONCE: Final = -3
NO_CREDENTIALS: Final = -4
GENERIC_ERROR: Final = -5
# Never seen by a script: broken credentials are answered with 400.
BAD_CREDENTIALS: Final = -6

# Digest algorithms by number, from the weakest; the -sess forms differ in what they make of the HA1.
MD5: Final = 0
MD5_SESS: Final = 1
SHA256: Final = 2
SHA256_SESS: Final = 3
SHA512_256: Final = 4
SHA512_256_SESS: Final = 5
ALGORITHM_NAMES: Final = ("MD5", "MD5-sess", "SHA-256", "SHA-256-sess", "SHA-512-256", "SHA-512-256-sess")
ALGORITHMS: Final = {name.lower(): number for number, name in enumerate(ALGORITHM_NAMES)}

# Bits of a mask of qop options.
AUTH: Final = 1
AUTH_INT: Final = 2
QOP_NAMES: Final = ("", "auth", "auth-int", "auth,auth-int")
"""By mask."""

CONTEXT: Final = "auth"
"""Key in `run.ctx`; the value is an `AuthState`."""
SHOWN: Final = "core.credentials"
"""Key in `run.ctx`: (message, credentials) that variables such as $au show."""
MAX_FIELD: Final = 512
"""Characters in one field of the credentials."""


@mypyc_attr(acyclic=True)
class Attempt:
    """Credentials with a fresh nonce of ours, whose response is still to be checked.

    domain: of the credentials' user name, or else their realm. algorithm: one of the numbers above. nonce: None for
    one that is not ours.
    """

    __slots__ = ("algorithm", "credentials", "domain", "header", "nonce", "realm", "user")

    def __init__(
        self,
        header: Header,
        credentials: Credentials,
        realm: str,
        user: str,
        domain: str,
        algorithm: int,
        nonce: Nonce | None,
    ) -> None:
        self.header: Header = header
        self.credentials: Credentials = credentials
        self.realm: str = realm
        self.user: str = user
        self.domain: str = domain
        self.algorithm: int = algorithm
        self.nonce: Nonce | None = nonce


@mypyc_attr(acyclic=True)
class AuthState:
    """What is known about the credentials of one request."""

    __slots__ = ("authorized", "stale")

    def __init__(self) -> None:
        self.authorized: Attempt | None = None
        self.stale: bool = False


def state_of(run: Run) -> AuthState:
    """The state of a request, made when there is none yet."""
    found = run.ctx.get(CONTEXT)
    if isinstance(found, AuthState):
        return found
    made = AuthState()
    run.ctx[CONTEXT] = made
    return made


def qop_bit(name: str) -> int:
    """The bit of a qop in any case; 0 for none and for one that is not known."""
    if name == "auth":
        return AUTH
    name = name.lower()
    return AUTH if name == "auth" else AUTH_INT if name == "auth-int" else 0


def is_whole(credentials: Credentials) -> bool:
    """Whether there is all that a digest needs (RFC 7616 §3.4); what is empty may be wrong, but it is there."""
    if not credentials.username:
        return False
    if not credentials.nonce and credentials.param("nonce") is None:
        return False
    if not credentials.response and credentials.param("response") is None:
        return False
    return not credentials.qop or bool(credentials.nc and (credentials.cnonce or credentials.param("cnonce") == ""))


class Checker:
    """Makes challenges and finds their answers. lifetime_s: of a nonce; reusable: a nonce serves more than once."""

    __slots__ = ("_clock", "_log", "_nonces", "_number", "lifetime_s", "realm_prefix", "reusable")

    def __init__(
        self,
        secret: bytes,
        clock: Callable[[], float],
        number: Callable[[int], int],
        log: logging.Logger,
        *,
        lifetime_s: int = 30,
        reusable: bool = False,
        realm_prefix: str = "",
    ) -> None:
        """clock: seconds since 1970. number: of so many random bits."""
        self._nonces: Nonces = Nonces(secret)
        self._clock: Callable[[], float] = clock
        self._number: Callable[[int], int] = number
        self._log: logging.Logger = log
        self.lifetime_s: int = lifetime_s
        self.reusable: bool = reusable
        self.realm_prefix: str = realm_prefix

    def realm(self, run: Run) -> str:
        """The realm for "": the domain of To in REGISTER, of From in others, without the prefix; "" for none."""
        msg = run.msg
        try:
            address = msg.to if msg.method_id == M_REGISTER else msg.from_
            domain = address.parsed_uri().host_text
        except ParseError:
            return ""
        return domain.removeprefix(self.realm_prefix) or domain

    def challenge_lines(self, run: Run, header: str, realm: str, qop: int, algorithms: tuple[int, ...]) -> str:
        """One header line for each algorithm, in their order. qop: a mask."""
        stale = state_of(run).stale
        made = int(self._clock())
        names = QOP_NAMES[qop]
        lines = ""
        for algorithm in algorithms:
            nonce = self._nonces.make(made, self._number(64), algorithm, qop)
            value = digest.challenge(realm, nonce, names, ALGORITHM_NAMES[algorithm], "", stale)
            lines += header + ": " + value + "\r\n"
        return lines

    def begin(self, run: Run, kind: int, realm: str) -> Attempt | int:
        """`AuthApi.begin`; BAD_CREDENTIALS for what deserves a 400."""
        msg = run.msg
        if msg.method_id & (M_ACK | M_CANCEL):
            # RFC 3261 §22.1: neither can be challenged.
            return AUTHORIZED
        headers = msg.all(kind)
        if not realm:
            realm = self.realm(run)
            if not realm:
                return GENERIC_ERROR
        if not headers:
            return NO_CREDENTIALS
        found = self._find(run, headers, realm.lower())
        if isinstance(found, Attempt):
            nonce = found.nonce
            if nonce is None or not self._acceptable(run, found, nonce):
                state_of(run).stale = True
                return STALE_NONCE
        return found

    def _find(self, run: Run, headers: list[Header], realm: str) -> Attempt | int:
        """The first credentials for the realm, which is lower case."""
        for header in headers:
            try:
                credentials = digest.parse_credentials(header.value)
            except ParseError as error:
                if header.value[:6].lower() != "digest":
                    # Nothing, or something of another scheme.
                    continue
                self._log.info("auth: %s in credentials from %s", error.reason, run.msg.source.text)
                return BAD_CREDENTIALS
            if not credentials.is_digest or credentials.realm.lower() != realm:
                continue
            algorithm = MD5
            if credentials.algorithm and credentials.algorithm != "MD5":
                number = ALGORITHMS.get(credentials.algorithm.lower())
                if number is None:
                    continue
                algorithm = number
            if not is_whole(credentials):
                return BAD_CREDENTIALS
            if (
                len(credentials.username) > MAX_FIELD
                or len(credentials.realm) > MAX_FIELD
                or len(credentials.uri) > MAX_FIELD
                or len(credentials.nonce) > MAX_FIELD
                or len(credentials.cnonce) > MAX_FIELD
            ):
                return GENERIC_ERROR
            user, domain = credentials.username, credentials.realm
            at = user.rfind("@")
            if at >= 0:
                user, domain = user[:at], user[at + 1 :]
            nonce = self._nonces.read(credentials.nonce)
            return Attempt(header, credentials, credentials.realm, user, domain, algorithm, nonce)
        return NO_CREDENTIALS

    def _acceptable(self, run: Run, attempt: Attempt, nonce: Nonce) -> bool:
        """Whether the nonce is fresh, unused, and offered for this algorithm and qop (so that none was taken away)."""
        if nonce.algorithm != attempt.algorithm or not nonce.is_fresh(self._clock(), self.lifetime_s):
            return False
        qop = attempt.credentials.qop
        # RFC 7616 §3.4: clients of RFC 2069 know no qop; they take the place of those that answer with "auth".
        if ((qop_bit(qop) if qop else AUTH) & nonce.qop) == 0 and (qop or nonce.qop):
            return False
        if self.reusable or not self._nonces.is_used(nonce):
            return True
        before = state_of(run).authorized
        # The script may ask twice about one request.
        return before is not None and before.header is attempt.header

    def finish(self, run: Run, attempt: Attempt, secret: str, plain: bool) -> int:
        """`AuthApi.finish`."""
        # An empty password column is no password that a peer could know.
        if not secret:
            return INVALID_PASSWORD
        credentials = attempt.credentials
        if plain:
            secret = digest.ha1(credentials.username, credentials.realm, secret, ALGORITHM_NAMES[attempt.algorithm])
        msg = run.msg
        if not digest.verify(credentials, secret, msg.method, msg.body):
            return INVALID_PASSWORD
        return self.accept(run, attempt)

    def accept(self, run: Run, attempt: Attempt) -> int:
        """`AuthApi.accept`."""
        state = state_of(run)
        before = state.authorized
        if before is None or before.header is not attempt.header:
            nonce = attempt.nonce
            if nonce is None:
                return GENERIC_ERROR
            # Asked again after the password was looked up: another request may have used the nonce meanwhile.
            if not self.reusable and not self._nonces.use(nonce, self._clock(), self.lifetime_s):
                state.stale = True
                return STALE_NONCE
            state.authorized = attempt
            # A peer may add others' credentials before these: the script sees whose were found right.
            run.ctx[SHOWN] = (run.msg, attempt.credentials)
        return AUTHORIZED
