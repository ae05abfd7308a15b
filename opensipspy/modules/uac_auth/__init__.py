"""Logins for requests that others challenge, kept in one place for the modules that send such requests.

Digest authentication as in RFC 3261 §22, RFC 7616 and RFC 8760; see `api.py` for what modules use.
"""

from __future__ import annotations

from typing import Any, Final

from opensipspy.module import Module, Param, ParamError
from opensipspy.modules.uac_auth.api import Login, UacAuthApi
from opensipspy.script.declare import VarRef
from opensipspy.script.run import Run
from opensipspy.script.varsyntax import parse_variable

AVP_PARAMS: Final = ("auth_realm_avp", "auth_username_avp", "auth_password_avp")


class UacAuth(Module, UacAuthApi):
    """Keep user names and passwords for requests that other servers challenge."""

    name = "uac_auth"

    credential = Param(
        str,
        None,
        "USER:REALM:PASSWORD for requests of ours; the password may be 0x and the HA1 in hexadecimal.",
        repeated=True,
        func=True,
    )
    auth_realm_avp = Param(str, None, "The AVP that may hold a realm; with auth_username_avp and auth_password_avp.")
    auth_username_avp = Param(str, None, "The AVP that holds the user name for that realm.")
    auth_password_avp = Param(str, None, "The AVP that holds the password, or 0x and the HA1.")

    def __init__(self, **params: Any) -> None:
        self._logins: dict[str, Login] = {}
        self._avps: tuple[VarRef, VarRef, VarRef] | None = None
        super().__init__(**params)

    def api(self) -> UacAuthApi:
        return self

    def set_credential(self, value: str) -> None:
        """One login. A realm may hold colons (an IPv6 address), a user name and a password may not be empty."""
        user, _, rest = value.partition(":")
        realm, colon, password = rest.partition(":")
        if rest.startswith("["):
            address, bracket, password = rest.partition("]:")
            realm, colon = address + "]", bracket
        if not user or not colon or not realm or not password:
            # The value stays out of the message: it holds a secret.
            raise ValueError("is to be user:realm:password")
        self._logins[realm] = Login(user, realm, password)

    async def start(self) -> None:
        given = [param for param in AVP_PARAMS if getattr(self, param)]
        if not given:
            return
        if len(given) != len(AVP_PARAMS):
            missing = next(param for param in AVP_PARAMS if param not in given)
            raise ParamError(self.name, missing, f"is needed with {given[0]}")
        realm, user, password = (self._avp(param) for param in AVP_PARAMS)
        self._avps = (realm, user, password)

    def _avp(self, param: str) -> VarRef:
        spec: str = getattr(self, param)
        try:
            found = parse_variable(spec, 0, self.core.catalogue)
        except ValueError as error:
            raise ParamError(self.name, param, str(error)) from error
        if found.end != len(spec):
            raise ParamError(self.name, param, f"{spec} is more than a variable")
        return found.reference()

    def login(self, run: Run | None, realm: str) -> Login | None:
        if run is not None and self._avps is not None:
            known, user, password = (avp.get(run) for avp in self._avps)
            if known is not None and user is not None and password is not None and str(known) == realm:
                return Login(str(user), realm, str(password))
        return self._logins.get(realm)

    def cnonce(self) -> str:
        return f"{self.core.random.getrandbits(96):024x}"
