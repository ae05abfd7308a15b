"""Trusted peers: a broker's AAA servers tell whether the source or the destination of a request is one.

What the broker sends as SIP-AVP becomes AVPs, among them the hash that the request to a peer carries in P-Request-Hash.
The dictionary of the aaa_url has to have SIP-Call-Id and SIP-Request-Hash, whose numbers are the broker's.
"""

from __future__ import annotations

from typing import Final

from opensipspy.aaa import AaaError, AaaValue, open_client, sip_avps
from opensipspy.module import Module, Param, ParamError, script_function
from opensipspy.module.table_query import uri_of
from opensipspy.script.kinds import BRANCH, FAILURE, LOCAL, REQUEST
from opensipspy.script.run import Run

HASH_HEADER: Final = "P-Request-Hash"
ATTRIBUTES: Final = ("User-Name", "SIP-URI-User", "SIP-From-Tag", "SIP-Call-Id", "SIP-Request-Hash", "Service-Type")
ROUTES: Final = REQUEST | FAILURE | BRANCH | LOCAL
TRUSTED: Final = 1
NOT_TRUSTED: Final = -1


class Peering(Module):
    """Ask a broker whether peers are trusted."""

    name = "peering"

    aaa_url = Param(str, None, "The AAA servers of the broker: radius:FILE or diameter:FILE.")
    verify_destination_service_type = Param(
        int, -1, "Service-Type of verify_destination(); -1: the dictionary's Sip-Verify-Destination."
    )
    verify_source_service_type = Param(
        int, -1, "Service-Type of verify_source(); -1: the dictionary's Sip-Verify-Source."
    )

    async def start(self) -> None:
        if not self.aaa_url:
            raise ParamError(self.name, "aaa_url", "is needed")
        try:
            self._aaa = await open_client(self.core, self.aaa_url)
            self._aaa.check(ATTRIBUTES)
            self._destination = self._service(self.verify_destination_service_type, "Sip-Verify-Destination")
            self._source = self._service(self.verify_source_service_type, "Sip-Verify-Source")
        except AaaError as error:
            raise ParamError(self.name, "aaa_url", str(error)) from error

    def _service(self, number: int, name: str) -> int:
        return number if number >= 0 else self._aaa.value("Service-Type", name)

    @script_function(routes=ROUTES)
    async def verify_destination(self, run: Run) -> int:
        """Ask whether a trusted peer serves the domain of the Request-URI.

        Returns 1, or -1 for no, and when nobody answers.
        """
        return await self._verify(run, self._destination, [])

    @script_function(routes=ROUTES)
    async def verify_source(self, run: Run) -> int:
        """Ask whether the request, which carries P-Request-Hash, comes from a trusted peer.

        Returns 1, or -1 for no, without that header, and when nobody answers.
        """
        found = run.msg.named(HASH_HEADER)
        if not found or not found[0].value:
            self.core.log.error("peering: verify_source: the request has no %s", HASH_HEADER)
            return NOT_TRUSTED
        return await self._verify(run, self._source, [("SIP-Request-Hash", found[0].value)])

    async def _verify(self, run: Run, service: int, more: list[tuple[str, AaaValue]]) -> int:
        uri = uri_of(run.ruri)
        if uri is None or not run.msg.from_tag or not run.msg.call_id:
            self.core.log.error("peering: a request without Request-URI, From tag or Call-ID cannot be verified")
            return NOT_TRUSTED
        attributes: list[tuple[str, AaaValue]] = [
            ("User-Name", uri.host_text),
            ("SIP-URI-User", uri.user),
            ("SIP-From-Tag", run.msg.from_tag),
            ("SIP-Call-Id", run.msg.call_id),
            *more,
            ("Service-Type", service),
        ]
        try:
            reply = await self._aaa.authenticate(attributes)
        except AaaError as error:
            if not error.transient:
                self.core.log.error("peering: %s", error)
            return NOT_TRUSTED
        if not reply.accepted:
            return NOT_TRUSTED
        for name, value in sip_avps(reply):
            run.avps.setdefault(name, []).append(value)
        return TRUSTED
