"""What the auth module offers to modules that know where passwords are kept (auth_db, auth_aaa, ...)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

from opensipspy.script.run import Run
from opensipspy.sip import Credentials, Header

# What the authorize functions return to the script.
AUTHORIZED: Final = 1
INVALID_USER: Final = -1
INVALID_PASSWORD: Final = -2
STALE_NONCE: Final = -3
NO_CREDENTIALS: Final = -4
GENERIC_ERROR: Final = -5

# Digest algorithms by number, from the weakest; the -sess forms differ in what they make of the HA1.
MD5: Final = 0
MD5_SESS: Final = 1
SHA256: Final = 2
SHA256_SESS: Final = 3
SHA512_256: Final = 4
SHA512_256_SESS: Final = 5
ALGORITHM_NAMES: Final = ("MD5", "MD5-sess", "SHA-256", "SHA-256-sess", "SHA-512-256", "SHA-512-256-sess")


class Attempt:
    """Credentials with a fresh nonce of ours, whose response is still to be checked.

    domain: of the credentials' user name, or else their realm. algorithm: one of the numbers above.
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
        nonce: object,
    ) -> None:
        self.header = header
        self.credentials = credentials
        self.realm = realm
        self.user = user
        self.domain = domain
        self.algorithm = algorithm
        self.nonce = nonce


class AuthApi(ABC):
    """Digest authentication in two steps, with the look-up of the password between them."""

    @abstractmethod
    def begin(self, run: Run, kind: int, realm: str) -> Attempt | int:
        """Find the credentials for a realm in headers of `kind` (H_AUTHORIZATION, H_PROXY_AUTHORIZATION).

        realm: "" for the domain of To (REGISTER) or From. Returns the code for the script when there is nothing to
        check: AUTHORIZED for requests that carry no credentials by their nature (ACK, CANCEL).
        """

    @abstractmethod
    def finish(self, run: Run, attempt: Attempt, secret: str, plain: bool) -> int:
        """Check the response. secret: the password when `plain`, else HA1 for the attempt's algorithm, in hex.

        Returns AUTHORIZED, INVALID_PASSWORD, STALE_NONCE (used in the meantime) or GENERIC_ERROR.
        """

    @abstractmethod
    def accept(self, run: Run, attempt: Attempt) -> int:
        """Take a response as right that another server checked. Returns AUTHORIZED, STALE_NONCE or GENERIC_ERROR."""

    @abstractmethod
    def authorized(self, run: Run) -> Credentials | None:
        """The credentials that were found correct, None before."""
