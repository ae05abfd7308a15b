"""What the auth module offers to modules that know where passwords are kept (auth_db, auth_aaa, ...)."""

from __future__ import annotations

from abc import ABC, abstractmethod

from opensipspy.modules.auth.check import (
    ALGORITHM_NAMES,
    AUTHORIZED,
    GENERIC_ERROR,
    INVALID_PASSWORD,
    INVALID_USER,
    MD5,
    MD5_SESS,
    NO_CREDENTIALS,
    SHA256,
    SHA256_SESS,
    SHA512_256,
    SHA512_256_SESS,
    STALE_NONCE,
    Attempt,
)
from opensipspy.script.run import Run
from opensipspy.sip import Credentials

__all__ = [
    "ALGORITHM_NAMES",
    "AUTHORIZED",
    "GENERIC_ERROR",
    "INVALID_PASSWORD",
    "INVALID_USER",
    "MD5",
    "MD5_SESS",
    "NO_CREDENTIALS",
    "SHA256",
    "SHA256_SESS",
    "SHA512_256",
    "SHA512_256_SESS",
    "STALE_NONCE",
    "Attempt",
    "AuthApi",
]


class AuthApi(ABC):
    """Digest authentication in two steps, with the look-up of the password between them."""

    @abstractmethod
    def begin(self, run: Run, kind: int, realm: str) -> Attempt | int:
        """Find the credentials for a realm in headers of `kind` (H_AUTHORIZATION, H_PROXY_AUTHORIZATION).

        realm: "" for the domain of To (REGISTER) or From. Returns the code for the script when there is nothing to
        check: AUTHORIZED for requests that carry no credentials by their nature (ACK, CANCEL), 0 when the credentials
        were broken, which was answered with 400.
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
