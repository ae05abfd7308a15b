"""Authentication vectors for auth_aka from an HSS, over Diameter Cx: Multimedia-Auth (3GPP TS 29.228, TS 29.229).

The AV manager is called `diameter`. The names of the AVPs are those of OpenSIPS' example file, which the
extra-avps-file of `aaa_url` has to define.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from opensipspy.module import Module, Param, ParamError, Requires
from opensipspy.modules.aaa_diameter.api import Avps, DiameterApi, DiameterFailure, DiameterReply
from opensipspy.modules.auth_aka.api import AkaApi, AvManager

CX: Final = 16777216
TGPP: Final = 10415
MULTIMEDIA_AUTH: Final = 303
NO_STATE_MAINTAINED: Final = 1
SUCCESS: Final = 2001
ITEM: Final = "3GPP-SIP-Auth-Data-Item"
PARTS: Final = ("3GPP-SIP-Authenticate", "3GPP-SIP-Authorization", "Confidentiality-Key", "Integrity-Key")


class AkaAvDiameter(Module, AvManager):
    """Fetch AKA authentication vectors from an HSS."""

    name = "aka_av_diameter"
    requires = (Requires("aaa_diameter"), Requires("auth_aka"))

    aaa_url = Param(str, None, "The connection to the HSS: diameter:FILE;extra-avps-file:FILE.")
    realm = Param(str, "diameter.test", "The realm of this server in requests (Origin-Realm).")
    server_uri = Param(str, "", 'The SIP URI of this server in requests; "sip:" and the realm when it is empty.')

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self._requests = 0

    async def start(self) -> None:
        self._aka = self.core.api("auth_aka", AkaApi)  # type: ignore[type-abstract]
        self._diameter = self.core.api("aaa_diameter", DiameterApi)  # type: ignore[type-abstract]
        if not self.aaa_url:
            raise ParamError(self.name, "aaa_url", "is needed")
        try:
            self._diameter.use(self.aaa_url)
        except ValueError as error:
            raise ParamError(self.name, "aaa_url", str(error)) from error
        if not self._diameter.knows_command(MULTIMEDIA_AUTH):
            raise ParamError(self.name, "aaa_url", f"needs an extra-avps-file with the request {MULTIMEDIA_AUTH}")
        await self._diameter.open()
        self._aka.manage("diameter", self)

    async def fetch(
        self, realm: str, public_identity: str, private_identity: str, resync: bytes | None, algorithms: Sequence[str]
    ) -> None:
        # One request for each algorithm, all at once.
        await asyncio.gather(
            *(self._fetch(realm, public_identity, private_identity, resync, name) for name in algorithms)
        )

    async def _fetch(self, realm: str, public: str, private: str, resync: bytes | None, algorithm: str) -> None:
        stored = 0
        try:
            reply = await self._diameter.request(
                CX, MULTIMEDIA_AUTH, self._question(realm, public, private, resync, algorithm)
            )
            if reply.is_error or reply.result != SUCCESS:
                self.core.log.warning("aka_av_diameter: no vectors for %s: %s", private, _reason(reply))
            else:
                stored = self._store(public, private, reply.avps)
        except DiameterFailure as error:
            self.core.log.error("aka_av_diameter: no vectors for %s: %s", private, error)
        if not stored:
            self._aka.fail(public, private)

    def _question(self, realm: str, public: str, private: str, resync: bytes | None, algorithm: str) -> Avps:
        """Multimedia-Auth-Request (TS 29.229 §6.1.7)."""
        self._requests += 1
        identity = self._diameter.identity
        # RFC 6733 §8.8
        session = f"{identity};{int(self.core.time())};{self.core.random.getrandbits(32)};{self._requests}"
        item: Avps = [{"3GPP-SIP-Authentication-Scheme": f"Digest-{algorithm}"}]
        if resync is not None:
            item.append({"3GPP-SIP-Authorization": resync.hex()})
        return [
            {"Session-Id": session},
            {"Vendor-Specific-Application-Id": [{"Vendor-Id": TGPP}, {"Auth-Application-Id": CX}]},
            {"Auth-Session-State": NO_STATE_MAINTAINED},
            {"Origin-Host": identity},
            {"Origin-Realm": self.realm},
            {"Destination-Realm": realm},
            {"User-Name": private},
            {"Public-Identity": public},
            {"3GPP-SIP-Number-Auth-Items": 1},
            {ITEM: item},
            {"Server-Name": self.server_uri or f"sip:{self.realm}"},
        ]

    def _store(self, public: str, private: str, avps: Avps) -> int:
        """Hand the vectors of an answer over, by their item numbers. Returns how many were good."""
        items: list[tuple[int, dict[str, object]]] = []
        for avp in avps:
            group = avp.get(ITEM)
            if isinstance(group, list):
                parts: dict[str, object] = {}
                for part in group:
                    parts.update(part)
                number = parts.get("3GPP-SIP-Item-Number")
                items.append((number if isinstance(number, int) else 0, parts))
        stored = 0
        for _, parts in sorted(items, key=lambda item: item[0]):
            scheme = str(parts.get("3GPP-SIP-Authentication-Scheme", "")).removeprefix("Digest-")
            try:
                challenge, response, ck, ik = (str(parts[name]) for name in PARTS)
                self._aka.add(public, private, challenge, response, ck, ik, (scheme,))
            except (KeyError, ValueError) as error:
                self.core.log.error("aka_av_diameter: a vector for %s is not usable: %s", private, error)
            else:
                stored += 1
        if not stored:
            self.core.log.warning("aka_av_diameter: the answer for %s holds no vector", private)
        return stored


def _reason(reply: DiameterReply) -> str:
    """What an answer says of itself: Result-Code, or the code of Experimental-Result (TS 29.229 §6.2)."""
    for avp in reply.avps:
        group = avp.get("Experimental-Result")
        if isinstance(group, list):
            for part in group:
                if "Experimental-Result-Code" in part:
                    return f"result {part['Experimental-Result-Code']}"
        if "Error-Message" in avp:
            return f"result {reply.result} ({str(avp['Error-Message'])[:200]})"
    return f"result {reply.result}"
