"""Digest authentication of requests (RFC 7616, RFC 8760, RFC 3261 §22): challenges, nonces, and checked responses.

Where passwords are kept is other modules' business (`auth.api`); here they come from script variables only.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Final

from opensipspy.module import Fixup, Module, Param, ParamError, Requires, script_function
from opensipspy.modules.auth.api import ALGORITHM_NAMES, GENERIC_ERROR, INVALID_USER, MD5, Attempt, AuthApi
from opensipspy.modules.auth.check import ALGORITHMS, BAD_CREDENTIALS, Checker, qop_bit, state_of
from opensipspy.script.declare import VarRef
from opensipspy.script.kinds import BRANCH, FAILURE, REQUEST
from opensipspy.script.run import Run
from opensipspy.script.varsyntax import parse_variable
from opensipspy.sip import (
    H_AUTHORIZATION,
    H_PROXY_AUTHORIZATION,
    M_ACK,
    M_CANCEL,
    Credentials,
    ParseError,
    parse_uri,
)

SECRET_LENGTH: Final = 32
MD5_ONLY: Final = (MD5,)
E164_DIGITS: Final = 15


def qop_options(text: str) -> int:
    """The qop argument of a challenge, "auth,auth-int", as a mask; 0 for none ("" and "0")."""
    mask = 0
    for name in text.split(","):
        name = name.strip().lower()
        if name and name != "0":
            bit = qop_bit(name)
            if not bit:
                raise ValueError(f'"{name}" is no qop: those are auth and auth-int')
            mask |= bit
    return mask


def algorithm_list(text: str) -> tuple[int, ...]:
    """The algorithms argument of a challenge, strongest first (RFC 8760 §2.4); MD5 when it is empty."""
    found = set()
    for name in text.split(","):
        name = name.strip().lower()
        if name:
            if name not in ALGORITHMS:
                raise ValueError(f'"{name}" is no digest algorithm: those are {", ".join(ALGORITHM_NAMES)}')
            found.add(ALGORITHMS[name])
    return tuple(sorted(found, reverse=True)) or (MD5,)


Qop = Annotated[int | None, Fixup(qop_options, "string")]
Algorithms = Annotated[tuple[int, ...] | None, Fixup(algorithm_list, "string")]


class Auth(Module, AuthApi):
    """Challenge user agents for digest credentials and check what they answer."""

    name = "auth"
    requires = (Requires("signaling"),)

    secret = Param(
        str, None, "What nonces are made with, exactly 32 characters; a random one at each start when not set."
    )
    nonce_expire = Param(int, 30, "How long a nonce can be answered.", unit="s")
    disable_nonce_check = Param(
        int, 0, "1 lets a nonce be used again while it is fresh: for several servers of one name."
    )
    username_spec = Param(
        str, None, "The variable that holds the user name for pv_www_authorize and pv_proxy_authorize."
    )
    password_spec = Param(str, None, "The variable that holds the password, or the HA1.")
    calculate_ha1 = Param(int, 0, "1: password_spec holds the password; 0: it holds the HA1.")
    realm_prefix = Param(str, "", "Prefix taken off the domain when it becomes the realm.")
    rpid_avp = Param(str, "$avp(rpid)", "The AVP with the URI for Remote-Party-ID.")
    rpid_prefix = Param(str, "", "What stands before the URI in Remote-Party-ID.")
    rpid_suffix = Param(str, ";party=calling;id-type=subscriber;screen=yes", "What stands after it.")

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self._checker: Checker
        self._username: VarRef | None = None
        self._password: VarRef | None = None
        self._rpid: VarRef | None = None

    def _secret_bytes(self) -> bytes:
        if self.secret is None:
            return secrets.token_bytes(SECRET_LENGTH)
        return self.secret.encode("utf-8", "surrogateescape")

    def set_param(self, name: str, value: object) -> None:
        super().set_param(name, value)
        if name == "secret" and self.secret is not None and len(self.secret) != SECRET_LENGTH:
            # The value stays out of the message: it is a secret.
            raise ParamError(self.name, "secret", f"has {len(self.secret)} characters", f"needs {SECRET_LENGTH}")
        if name == "nonce_expire" and self.nonce_expire < 1:
            raise ParamError(self.name, "nonce_expire", "is at least 1 second")

    def api(self) -> AuthApi:
        """The interface for other modules."""
        return self

    async def start(self) -> None:
        self._checker = Checker(
            self._secret_bytes(),
            self.core.time,
            self.core.random.getrandbits,
            self.core.log,
            lifetime_s=self.nonce_expire,
            reusable=bool(self.disable_nonce_check),
            realm_prefix=self.realm_prefix,
        )
        self._username = self._variable("username_spec", self.username_spec)
        self._password = self._variable("password_spec", self.password_spec)
        self._rpid = self._variable("rpid_avp", self.rpid_avp)

    # --- challenges

    @script_function(routes=REQUEST)
    def www_challenge(self, run: Run, realm: str, qop: Qop = None, algorithms: Algorithms = None) -> int:
        """Answer 401 with one WWW-Authenticate header for each algorithm, strongest first.

        realm: "" for the domain of To (REGISTER) or From. Returns 0, which ends the script; -1 when no answer was sent.
        """
        return self._challenge(run, 401, "Unauthorized", "WWW-Authenticate", realm, qop, algorithms)

    @script_function(routes=REQUEST)
    def proxy_challenge(self, run: Run, realm: str, qop: Qop = None, algorithms: Algorithms = None) -> int:
        """Answer 407 with one Proxy-Authenticate header for each algorithm, strongest first. As www_challenge."""
        return self._challenge(run, 407, "Proxy Authentication Required", "Proxy-Authenticate", realm, qop, algorithms)

    def _challenge(
        self,
        run: Run,
        code: int,
        reason: str,
        header: str,
        realm: str,
        qop: int | None,
        algorithms: tuple[int, ...] | None,
    ) -> int:
        realm = realm or self._checker.realm(run)
        if not realm:
            return 0 if self.core.send_reply(run, 400, "Bad Request") > 0 else -1
        lines = self._checker.challenge_lines(run, header, realm, qop or 0, algorithms or MD5_ONLY)
        return 0 if self.core.send_reply(run, code, reason, lines) > 0 else -1

    # --- authorization

    @script_function(routes=REQUEST)
    def pv_www_authorize(self, run: Run, realm: str) -> int:
        """Check the Authorization credentials against the variables username_spec and password_spec.

        Returns 1, or -1 invalid user, -2 invalid password, -3 stale nonce, -4 no credentials, -5 other errors; 0, which
        ends the script, when the credentials were broken and the answer is 400.
        """
        return self._authorize(run, H_AUTHORIZATION, realm)

    @script_function(routes=REQUEST)
    def pv_proxy_authorize(self, run: Run, realm: str) -> int:
        """Check the Proxy-Authorization credentials. As pv_www_authorize."""
        return self._authorize(run, H_PROXY_AUTHORIZATION, realm)

    def _authorize(self, run: Run, kind: int, realm: str) -> int:
        if self._username is None or self._password is None:
            self.core.log.error("auth: username_spec and password_spec have to be set for pv_..._authorize")
            return GENERIC_ERROR
        attempt = self.begin(run, kind, realm)
        if isinstance(attempt, int):
            return attempt
        user = self._username.get(run)
        if user is None or str(user) != attempt.user:
            return INVALID_USER
        password = self._password.get(run)
        if password is None:
            return GENERIC_ERROR
        return self.finish(run, attempt, str(password), bool(self.calculate_ha1))

    def begin(self, run: Run, kind: int, realm: str) -> Attempt | int:
        found = self._checker.begin(run, kind, realm)
        if isinstance(found, int) and found == BAD_CREDENTIALS:
            return 0 if self.core.send_reply(run, 400, "Bad Request") > 0 else GENERIC_ERROR
        return found

    def finish(self, run: Run, attempt: Attempt, secret: str, plain: bool) -> int:
        return self._checker.finish(run, attempt, secret, plain)

    def accept(self, run: Run, attempt: Attempt) -> int:
        return self._checker.accept(run, attempt)

    def authorized(self, run: Run) -> Credentials | None:
        attempt = state_of(run).authorized
        return attempt.credentials if attempt is not None else None

    @script_function(routes=REQUEST)
    def consume_credentials(self, run: Run) -> int:
        """Remove the credentials that were found correct, so that no other hop sees them. Returns -1 without such."""
        attempt = state_of(run).authorized
        if attempt is None:
            if not run.msg.method_id & (M_ACK | M_CANCEL):
                self.core.log.error("auth: consume_credentials: no credentials were authorized")
            return -1
        run.edits.remove(attempt.header)
        return 1

    # --- Remote-Party-ID

    @script_function(routes=REQUEST)
    def is_rpid_user_e164(self, run: Run) -> int:
        """Tell whether the user part of the URI in rpid_avp is an E.164 number: a plus and up to 15 digits."""
        text = self._rpid_text(run)
        if not text:
            return -1
        inside = text.partition("<")[2].partition(">")[0] or text
        try:
            user = parse_uri(inside).user if ":" in inside else inside
        except ParseError:
            return -1
        digits = user[1:]
        return 1 if user[:1] == "+" and digits.isascii() and digits.isdigit() and len(digits) <= E164_DIGITS else -1

    @script_function(routes=REQUEST | FAILURE | BRANCH)
    def append_rpid_hf(self, run: Run, prefix: str | None = None, suffix: str | None = None) -> int:
        """Add Remote-Party-ID: `prefix`, the URI in rpid_avp, `suffix`; the parameters' values when they are not given.

        Returns -1 when the AVP holds nothing.
        """
        text = self._rpid_text(run)
        before = self.rpid_prefix if prefix is None else prefix
        after = self.rpid_suffix if suffix is None else suffix
        value = f"{before}{text}{after}"
        if not text or "\r" in value or "\n" in value:
            return -1
        run.edits.append(f"Remote-Party-ID: {value}\r\n")
        return 1

    def _rpid_text(self, run: Run) -> str:
        value = self._rpid.get(run) if self._rpid is not None else None
        return "" if value is None else str(value)

    # --- details

    def _variable(self, param: str, spec: str | None) -> VarRef | None:
        """The variable written in a parameter; None for an empty one."""
        if not spec:
            return None
        try:
            found = parse_variable(spec, 0, self.core.catalogue)
            if found.end != len(spec):
                raise ValueError(f"{spec} is more than a variable")
            return found.reference()
        except ValueError as error:
            raise ParamError(self.name, param, str(error)) from error
