"""proto_hep: copies of what happens for collectors (Homer and others) in HEP packets over UDP, TCP and TLS."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from ssl import SSLContext
from typing import TYPE_CHECKING, Any, Final

from opensipspy.management import Json
from opensipspy.module import Module, Param, ParamError, StartError, script_function
from opensipspy.module.tls import TlsDomains
from opensipspy.module.tracing import ConnectionReport, ConnectionSink, Ends, TraceSink
from opensipspy.modules.proto_hep.packet import (
    CONTROL,
    CORRELATION,
    EXTRA_CORRELATION,
    IP_TCP,
    MI,
    TRANSPORT,
    Capture,
    pack,
)
from opensipspy.modules.proto_hep.sender import Destination, Limits, Sender
from opensipspy.script.kinds import BRANCH, FAILURE, LOCAL, ONREPLY, REQUEST

if TYPE_CHECKING:
    from opensipspy.script.run import Run

DEFAULT_PORT: Final = 9060
LONGEST_TEXT: Final = 1024
"""Characters of one part of a copy of a management command."""
# Where a copy says that something went from and to when it crossed no network.
HERE: Final = ("127.0.0.1", 0)
THERE: Final = ("127.0.0.2", 0)

_ID: Final = re.compile(r"\[\s*(?P<name>[^\s\]]+)\s*\]\s*(?P<rest>.*)", re.DOTALL)
_PLACE: Final = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?")


def parse_hep_id(text: str) -> Destination:
    """`[name] host:port; transport=tcp; version=3`; raises ValueError."""
    found = _ID.fullmatch(text.strip())
    if found is None:
        raise ValueError("write it as `[name] host:port; transport=udp; version=3`")
    place, *words = (part.strip() for part in found["rest"].split(";"))
    where = _PLACE.fullmatch(place)
    if where is None:
        raise ValueError(f"{place!r} is no host:port")
    port = int(where["port"] or DEFAULT_PORT)
    if not 0 < port < 65536:
        raise ValueError("a port is a number from 1 to 65535")
    given: dict[str, str] = {}
    for word in filter(None, words):
        key, equals, value = (part.strip().lower() for part in word.partition("="))
        if not equals or key not in ("transport", "version") or key in given:
            raise ValueError(f"{word!r}: transport= and version= are known, each once")
        given[key] = value
    version = given.get("version", "3")
    if version not in ("1", "2", "3"):
        raise ValueError("version is 1, 2 or 3")
    transport = given.get("transport", "tcp" if version == "3" else "udp")
    if transport not in ("udp", "tcp", "tls"):
        raise ValueError("transport is udp, tcp or tls")
    if version != "3":
        # As OpenSIPS does it: the two older versions have no packet that a stream could be cut into.
        transport = "udp"
    return Destination(found["name"], where["v6"] or where["host"], port, transport, int(version))


class ProtoHep(Module, TraceSink, ConnectionSink):
    """Send HEP packets to collectors: what happens to connections, correlations of calls, management commands.

    Packets are sent only; there are no `socket=hep_...` listening points. A collector that is away delays nothing:
    packets wait in a queue that has an end, and what does not fit is dropped.
    """

    name = "proto_hep"

    hep_id = Param(
        str,
        None,
        "A collector: `[name] host:port; transport=udp|tcp|tls; version=1|2|3`. TCP and version 3 when not said; 1 and "
        "2 always leave over UDP, and no script function or command uses them.",
        repeated=True,
        func=True,
    )
    homer5_on = Param(int, 1, "1: texts as Homer 5 reads them, joined with homer5_delim. 0: JSON, for Homer 6.")
    homer5_delim = Param(str, ":", "What stands between the parts of a text for Homer 5.")
    hep_capture_id = Param(int, 1, "The number by which collectors know this server, 0 to 65535.")
    hep_send_timeout = Param(
        int,
        100,
        "Without `hep_async`: how long a connection may stay unable to take data that waits for it before it is "
        "closed.",
        unit="ms",
    )
    hep_async = Param(int, 1, "Connect and write without blocking. The server never blocks, whatever the value.")
    hep_async_max_postponed_chunks = Param(
        int, 32, "How many packets may wait for a collector; more are dropped, and a connection that stalls is closed."
    )
    hep_async_local_write_timeout = Param(
        int,
        10,
        "How long the C server tries to write at once; writing is handed to the system at once here.",
        unit="ms",
    )
    hep_max_retries = Param(int, 5, "After how many failures in a row a collector is left alone for a while.")
    hep_retry_cooldown = Param(int, 3600, "For how long a collector that failed too often is left alone.", unit="s")

    def __init__(self, **params: Any) -> None:
        self.destinations: dict[str, Destination] = {}
        self.senders: dict[str, Sender] = {}
        super().__init__(**params)

    def set_hep_id(self, value: str) -> None:
        try:
            destination = parse_hep_id(value)
        except ValueError as error:
            raise ParamError(self.name, "hep_id", str(error)) from None
        if destination.name in self.destinations:
            raise ParamError(self.name, "hep_id", f"{destination.name!r} is defined twice")
        self.destinations[destination.name] = destination

    async def start(self) -> None:
        if not 0 <= self.hep_capture_id < 65536:
            raise StartError("proto_hep: hep_capture_id is a number from 0 to 65535")
        limits = Limits(
            self.hep_async_max_postponed_chunks,
            0.0 if self.hep_async else self.hep_send_timeout / 1000,
            self.hep_max_retries,
            float(self.hep_retry_cooldown),
        )
        for destination in self.destinations.values():
            if destination.transport == "tls" and self.core.module("tls_mgm") is None:
                raise StartError(f"proto_hep: {destination.name!r} is reached over TLS, which needs tls_mgm")
            self.senders[destination.name] = Sender(self.core, destination, limits, self._context)

    async def stop(self) -> None:
        for sender in self.senders.values():
            await sender.close()
            if sender.dropped:
                self.core.log.warning("proto_hep: %d packets to %s dropped", sender.dropped, sender.destination.name)

    def _context(self, address: str, port: int) -> SSLContext | None:
        # The rule that an abstract class is no type argument is for constructors; this is a look-up by class.
        domains = self.core.api("tls_mgm", TlsDomains)  # type: ignore[type-abstract]
        domain = domains.client_domain(address, port)
        return None if domain is None else domain.context

    def takes(self, destination: str) -> bool:
        found = self.destinations.get(destination)
        return found is not None and found.version == 3

    def _send(self, sender: Sender, capture: Capture) -> bool:
        try:
            data = pack(capture, sender.destination.version, self.hep_capture_id)
        except ValueError as error:
            sender.dropped += 1
            self.core.log.info("proto_hep: %s", error)
            return False
        return sender.put(data)

    def trace_mi(
        self, destination: str, door: str, method: str, params: Json, response: Json, ends: Ends | None = None
    ) -> None:
        """Send two packets with one correlation: the command, its door and its parameters, then what was answered."""
        sender = self.senders.get(destination)
        if sender is None or sender.destination.version != 3:
            why = "no such hep_id" if sender is None else "HEP 1 and 2 carry no management commands"
            self.core.log.warning("%s: trace_destination %r: %s", door, destination, why)
            return
        chunks = ((CORRELATION, b"MICORR" + b64encode(self.core.random.getrandbits(144).to_bytes(18))),)
        # Collectors know the doors by the names that OpenSIPS gives them: "datagram", "http".
        asked = {"command": method, "backend": door.removeprefix("mi_")}
        texts = _texts(params)
        if texts:
            asked["parameters"] = texts
        source, there = ends or (HERE, THERE)
        for parts in (asked, {"reply": json.dumps(response, default=str)}):
            cut = {name: text[:LONGEST_TEXT] for name, text in parts.items()}
            self._send(sender, Capture(source, there, IP_TCP, MI, self.core.time(), self._payload(cut), chunks))
            # What was answered went the other way.
            source, there = there, source

    def trace_connection(self, destination: str, report: ConnectionReport) -> None:
        sender = self.senders.get(destination)
        if sender is None:
            return
        chunks = ((CORRELATION, report.correlation.encode()),)
        payload = self._payload(report.parts)
        moment = self.core.time()
        self._send(sender, Capture(report.remote, report.local, report.protocol, TRANSPORT, moment, payload, chunks))

    def _payload(self, parts: Mapping[str, str]) -> bytes:
        text = self.homer5_delim.join(parts.values()) if self.homer5_on else json.dumps(dict(parts))
        return text.encode("utf-8", "surrogateescape")

    @script_function(routes=REQUEST | FAILURE | ONREPLY | BRANCH | LOCAL)
    def correlate(self, run: Run, hep_id: str, type1: str, correlation1: str, type2: str, correlation2: str) -> int:
        """Tell a collector that two things it knows by two ids belong together, such as two calls by their Call-IDs.

        Homer 5 takes one id, that whose type begins with "sip". Returns 1; -1 when there is no such collector of HEP 3,
        when a text is empty, when both types are the same, when Homer 5 is told of no "sip", or when too much waits.
        """
        sender = self.senders.get(hep_id or "")
        if sender is None or sender.destination.version != 3:
            self.core.log.error("correlate(): no hep_id %r of version 3", hep_id)
            return -1
        if not (type1 and correlation1 and type2 and correlation2) or type1 == type2:
            self.core.log.error("correlate(): two different types and two ids are needed")
            return -1
        ids = {type1: correlation1, type2: correlation2}
        if not self.homer5_on:
            chunk = (EXTRA_CORRELATION, json.dumps(ids).encode())
        else:
            named = [text for kind, text in ids.items() if kind.startswith("sip")]
            if not named:
                self.core.log.error('correlate(): Homer 5 needs a type that begins with "sip"')
                return -1
            chunk = (CORRELATION, named[-1].encode("utf-8", "surrogateescape"))
        capture = Capture(HERE, THERE, IP_TCP, CONTROL, self.core.time(), b"", (chunk,))
        return 1 if self._send(sender, capture) else -1


def _texts(params: Json) -> str:
    """The numbers and texts among the parameters of a command, joined with commas."""
    values = params.values() if isinstance(params, dict) else params if isinstance(params, list) else ()
    kept = (value for value in values if isinstance(value, (str, int)) and not isinstance(value, bool))
    return ",".join(str(value) for value in kept)


__all__ = ["ProtoHep", "parse_hep_id"]
