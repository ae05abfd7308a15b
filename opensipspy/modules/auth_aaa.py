"""Digest authentication by AAA servers (draft-sterman-aaa-sip-00), and look-ups of users there.

SIP-AVP attributes of replies become AVPs: `name:text`, `name#number`, with `#` in front for numbered names.
"""

from __future__ import annotations

from typing import Any, Final

from opensipspy.aaa import AaaClient, AaaError, AaaReply, AaaValue, open_client, sip_avps
from opensipspy.module import Module, Param, ParamError, Requires, script_function
from opensipspy.module.table_query import uri_of
from opensipspy.modules.auth.api import ALGORITHM_NAMES, GENERIC_ERROR, INVALID_PASSWORD, AuthApi
from opensipspy.script.kinds import LOCAL, REQUEST
from opensipspy.script.run import Run
from opensipspy.sip import H_AUTHORIZATION, H_PROXY_AUTHORIZATION, ParseError

INTERNAL_ERROR: Final = -2


class AuthAaa(Module):
    """Check digest credentials with an AAA server."""

    name = "auth_aaa"
    requires = (Requires("auth"),)

    aaa_url = Param(str, None, "The AAA servers: radius:FILE or diameter:FILE.")
    auth_service_type = Param(int, 15, "Service-Type of authentication.")
    check_service_type = Param(int, 10, "Service-Type of aaa_does_uri_exist and aaa_does_uri_user_exist.")
    use_ruri_flag = Param(str, None, "Flag of messages whose Request-URI counts instead of the credentials' URI.")
    digest_qop_name = Param(str, "Digest-QoP", "Attribute of the quality of protection.")

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self._ruri_mask = 0

    async def start(self) -> None:
        self._auth = self.core.api("auth", AuthApi)  # type: ignore[type-abstract]
        if not self.aaa_url:
            raise ParamError(self.name, "aaa_url", "is needed")
        if self.use_ruri_flag and self.use_ruri_flag != "NULL":
            self._ruri_mask = self.core.flags.mask("message", self.use_ruri_flag)
        try:
            self._aaa: AaaClient = await open_client(self.core, self.aaa_url)
            self._aaa.check(("User-Name", "Digest-Response", "Sip-Uri-User", "Sip-Uri-Host", self.digest_qop_name))
        except AaaError as error:
            raise ParamError(self.name, "aaa_url", str(error)) from error

    @script_function(routes=REQUEST)
    async def aaa_www_authorize(self, run: Run, realm: str, uri_user: str | None = None) -> int:
        """Have the AAA server check the Authorization credentials.

        realm: "" for the domain of To (REGISTER) or From. uri_user: sent as Sip-Uri-User; the user of To by default.
        Returns 1, or -2 refused, -3 stale nonce, -4 no credentials, -5 other errors (no answer among them).
        """
        return await self._authorize(run, H_AUTHORIZATION, realm, uri_user)

    @script_function(routes=REQUEST)
    async def aaa_proxy_authorize(self, run: Run, realm: str, uri_user: str | None = None) -> int:
        """Have the AAA server check the Proxy-Authorization credentials. As aaa_www_authorize."""
        return await self._authorize(run, H_PROXY_AUTHORIZATION, realm, uri_user)

    async def _authorize(self, run: Run, kind: int, realm: str, uri_user: str | None) -> int:
        attempt = self._auth.begin(run, kind, realm)
        if isinstance(attempt, int):
            return attempt
        found = attempt.credentials
        if uri_user is None:
            try:
                uri_user = run.msg.to.parsed_uri().user
            except ParseError:
                return GENERIC_ERROR
        name = found.username if "@" in found.username else f"{found.username}@{found.realm}"
        attributes: list[tuple[str, AaaValue]] = [
            ("User-Name", name),
            ("Digest-Username", found.username),
            ("Digest-Realm", found.realm),
            ("Digest-Nonce", found.nonce),
            ("Digest-URI", run.ruri if run.msg_flags & self._ruri_mask else found.uri),
            ("Digest-Method", run.msg.method),
            ("Digest-Algorithm", ALGORITHM_NAMES[attempt.algorithm]),
        ]
        if found.qop:
            attributes += [
                (self.digest_qop_name, found.qop.lower()),
                ("Digest-Nonce-Count", found.nc),
                ("Digest-CNonce", found.cnonce),
            ]
        attributes += [
            ("Digest-Response", found.response),
            ("Service-Type", self.auth_service_type),
            ("Sip-Uri-User", uri_user),
            ("Acct-Session-Id", run.msg.call_id),
        ]
        reply = await self._ask(attributes)
        if reply is None:
            return GENERIC_ERROR
        if not reply.accepted:
            return INVALID_PASSWORD
        code = self._auth.accept(run, attempt)
        if code > 0:
            self._load(run, reply)
        return code

    @script_function(routes=REQUEST | LOCAL)
    async def aaa_does_uri_exist(self, run: Run, sip_uri: str | None = None) -> int:
        """Ask whether user@host of a URI is a local user; the Request-URI by default.

        Returns 1, -1 there is none, -2 an error.
        """
        return await self._exists(run, sip_uri, with_host=True)

    @script_function(routes=REQUEST | LOCAL)
    async def aaa_does_uri_user_exist(self, run: Run, sip_uri: str | None = None) -> int:
        """Ask whether the user of a URI is a local user, whatever its host. As aaa_does_uri_exist."""
        return await self._exists(run, sip_uri, with_host=False)

    async def _exists(self, run: Run, text: str | None, with_host: bool) -> int:
        uri = uri_of(run.ruri if text is None else text)
        if uri is None or not uri.user:
            return INTERNAL_ERROR
        attributes: list[tuple[str, AaaValue]] = [("User-Name", uri.user)]
        if with_host:
            attributes.append(("Sip-Uri-Host", uri.host_text))
        attributes += [("Service-Type", self.check_service_type), ("Acct-Session-Id", run.msg.call_id)]
        reply = await self._ask(attributes)
        if reply is None:
            return INTERNAL_ERROR
        if not reply.accepted:
            return -1
        self._load(run, reply)
        return 1

    async def _ask(self, attributes: list[tuple[str, AaaValue]]) -> AaaReply | None:
        try:
            return await self._aaa.authenticate(attributes)
        except AaaError as error:
            if not error.transient:
                self.core.log.error("auth_aaa: %s", error)
            return None

    @staticmethod
    def _load(run: Run, reply: AaaReply) -> None:
        for name, value in sip_avps(reply):
            run.avps.setdefault(name, []).append(value)
