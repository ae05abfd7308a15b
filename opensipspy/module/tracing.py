"""Copies of what happens, for a collector: `proto_hep` sends them, doors and transports have them to tell.

A transport tells of each connection what C servers of the same name tell, so that one collector reads both: that it was
accepted or connected, or failed to be; the names in the certificates; the handshake of WebSocket; and how it ended. All
of one connection has one correlation. Nothing waits for it, and no secret is among it: no key of TLS, and of a
handshake's headers only the values of those that are known to hold none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from opensipspy import sip
from opensipspy.management import Json, MiError
from opensipspy.module.blank import blank_run
from opensipspy.module.declarations import Param
from opensipspy.module.module import Module
from opensipspy.module.tls import TlsDomains, TlsSession
from opensipspy.script.kinds import REQUEST

if TYPE_CHECKING:
    from opensipspy.script.run import Run
    from opensipspy.sip import Peer, Socket

# What collectors are told that a connection speaks: a name, and the number that OpenSIPS puts in place of IP's.
PROTOCOLS: Final[Mapping[int, tuple[str, int]]] = {
    sip.PROTO_TCP: ("TCP", 6),
    sip.PROTO_TLS: ("TLS", 22),
    sip.PROTO_WS: ("WS", 50),
    sip.PROTO_WSS: ("WSS", 50),
}
ACCEPTED: Final = "ACCEPTED"
CONNECTED: Final = "CONNECTED"
CLOSED: Final = "CLOSED"
SUCCESS: Final = "SUCCESS"
FAILURE: Final = "FAILURE"

HIDDEN: Final = "..."
# Headers of a WebSocket handshake whose values are shown; any other may bring a cookie or a password.
SHOWN_HEADERS: Final = frozenset(
    {
        "host",
        "origin",
        "upgrade",
        "connection",
        "user-agent",
        "server",
        "content-type",
        "content-length",
        "sec-websocket-accept",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-version",
    }
)
SUBPROTOCOLS: Final = "sec-websocket-protocol"
LONGEST_HANDSHAKE: Final = 4096
LONGEST_REASON: Final = 512


class ConnectionReport:
    """One thing to tell of a connection.

    protocol: see PROTOCOLS. remote, local: its ends. parts: what happened, by the names that collectors show.
    """

    __slots__ = ("correlation", "local", "parts", "protocol", "remote")

    def __init__(
        self,
        protocol: int,
        remote: tuple[str, int],
        local: tuple[str, int],
        correlation: str,
        parts: Mapping[str, str],
    ) -> None:
        self.protocol = protocol
        self.remote = remote
        self.local = local
        self.correlation = correlation
        self.parts = parts


Ends = tuple[tuple[str, int], tuple[str, int]]
"""Address and port of who asks, and of who answers."""


class TraceSink(ABC):
    """A module that takes copies of management traffic (`proto_hep`), as `core.api("proto_hep", TraceSink)`."""

    @abstractmethod
    def trace_mi(
        self, destination: str, door: str, method: str, params: Json, response: Json, ends: Ends | None = None
    ) -> None:
        """Send a copy of one call to a destination that the module knows by name. ends: None for no network."""


class ConnectionSink(ABC):
    """A module that is told of connections (`proto_hep`), as `core.api("proto_hep", ConnectionSink)`."""

    @abstractmethod
    def takes(self, destination: str) -> bool:
        """Whether there is a destination of that name to which such reports can go."""

    @abstractmethod
    def trace_connection(self, destination: str, report: ConnectionReport) -> None:
        """Tell a destination of a connection; never waits."""


class TracedConnection(Protocol):
    """What a tracer has to know of a connection: `net.tcp.TcpConnection`.

    ready: all handshakes are done. ending: why it was closed. trace: the tracer's own.
    """

    outgoing: bool
    ready: bool
    ending: str
    trace: Any
    socket: Socket
    peer: Peer

    def local_end(self) -> tuple[str, int]: ...
    def session(self) -> TlsSession | None: ...
    def take_handshake(self) -> tuple[bytes, bytes]: ...


class ConnectionTracer(ABC):
    """Who is told of the connections of a transport."""

    @property
    @abstractmethod
    def active(self) -> bool:
        """Whether new connections are told of at the moment."""

    @abstractmethod
    def opened(self, connection: TracedConnection) -> None:
        """All handshakes of a connection are done."""

    @abstractmethod
    def lost(self, connection: TracedConnection) -> None:
        """A connection has gone, or did not come about. Called once for each."""


class Trace:
    """What a tracer knows of one connection. held: what waits until the filter route has spoken."""

    __slots__ = ("correlation", "held", "local", "wanted")

    def __init__(self, correlation: str, local: tuple[str, int]) -> None:
        self.correlation = correlation
        self.local = local
        self.wanted = True
        self.held: list[ConnectionReport] | None = None


class TracedTransport(Module, ConnectionTracer):
    """A module proto_* whose connections a collector can be told of."""

    wants = ("proto_hep",)
    protocol: int

    trace_destination = Param(
        str,
        None,
        "The `hep_id` of proto_hep that is told when connections are made, fail and end, with the names in their "
        "certificates and the handshake of WebSocket. Secrets are left out: keys of TLS, which OpenSIPS sends, and of "
        "handshakes all queries, cookies and headers that may bring passwords.",
    )
    trace_on = Param(int, 0, "Whether that begins with the start; a command switches it on and off later.")
    trace_filter_route = Param(
        str,
        None,
        "A route that is run for each connection while tracing is on, $si and $sp being its other end and $socket_in "
        "ours: where it ends with `drop`, the connection is not traced.",
    )

    def __init__(self, **params: Any) -> None:
        self._sink: ConnectionSink | None = None
        super().__init__(**params)

    def routes_used(self) -> Sequence[tuple[int, str]]:
        return [(REQUEST, self.trace_filter_route)] if self.trace_filter_route else []

    async def start(self) -> None:
        await super().start()
        if self.trace_destination is None:
            return
        try:
            # The rule that an abstract class is no type argument is for constructors; this is a look-up by class.
            sink = self.core.api("proto_hep", ConnectionSink)  # type: ignore[type-abstract]
        except LookupError:
            self.core.log.warning("%s: trace_destination needs the proto_hep module, nothing is traced", self.name)
            return
        if not sink.takes(self.trace_destination):
            self.core.log.warning(
                "%s: trace_destination: no hep_id %r of version 3, nothing is traced",
                self.name,
                self.trace_destination,
            )
            return
        self._sink = sink

    def switch_tracing(self, trace_mode: str | None) -> Json:
        """What the command NAME:trace does."""
        if trace_mode is None:
            return {f"{PROTOCOLS[self.protocol][0]} tracing": "on" if self.trace_on else "off"}
        mode = trace_mode.lower()
        if mode not in ("on", "off"):
            raise MiError(500, "Bad parameter value", "trace_mode should be 'on' or 'off'")
        self.trace_on = int(mode == "on")
        return "OK"

    # -- ConnectionTracer

    @property
    def active(self) -> bool:
        return self._sink is not None and self.trace_on != 0

    def opened(self, connection: TracedConnection) -> None:
        if self.active:
            text = "Successfully connected..." if connection.outgoing else "Connection accepted..."
            self._begin(connection, SUCCESS, text)

    def lost(self, connection: TracedConnection) -> None:
        if not self.active:
            return
        if connection.trace is None:
            if connection.ready:
                # It was opened while nothing was traced.
                return
            self._begin(connection, FAILURE, connection.ending)
        # Whoever was never connected is closed too, as C servers tell it.
        self._tell(connection, {"Event": CLOSED, "Status": SUCCESS, "Message": connection.ending})

    # -- reports

    def _begin(self, connection: TracedConnection, status: str, text: str) -> None:
        trace = Trace(str(self.core.random.getrandbits(64)), connection.local_end())
        connection.trace = trace
        route = self.core.program.route(REQUEST, self.trace_filter_route) if self.trace_filter_route else None
        if route is not None:
            trace.held = []
        asked, answered = connection.take_handshake()
        parts = self._names(connection.session())
        parts["Event"] = CONNECTED if connection.outgoing else ACCEPTED
        if asked:
            parts["Ws-Request"] = shown_handshake(asked)
        parts["Status"] = status
        if answered:
            parts["Ws-Reply"] = shown_handshake(answered)
        parts["Message"] = text
        self._tell(connection, parts)
        if route is not None:
            run = blank_run(self.core, REQUEST, connection.peer, connection.socket)
            # Nobody has asked anything: no route of errors and no failure answers it.
            run.handled = True
            self.core.run_route(route, run, lambda run, _: self._judged(trace, run))

    def _judged(self, trace: Trace, run: Run) -> None:
        held, trace.held = trace.held, None
        trace.wanted = not run.dropped
        for report in held or ():
            self._send(trace, report)

    def _tell(self, connection: TracedConnection, parts: Mapping[str, str]) -> None:
        trace: Trace = connection.trace
        name, number = PROTOCOLS[self.protocol]
        peer = connection.peer
        cut = {key: text[: LONGEST_REASON if key == "Message" else LONGEST_HANDSHAKE] for key, text in parts.items()}
        report = ConnectionReport(
            number, (peer.address, peer.port), trace.local, trace.correlation, {"Protocol": name, **cut}
        )
        if trace.held is not None:
            trace.held.append(report)
        else:
            self._send(trace, report)

    def _send(self, trace: Trace, report: ConnectionReport) -> None:
        if trace.wanted and self.active and self._sink is not None and self.trace_destination is not None:
            self._sink.trace_connection(self.trace_destination, report)

    def _names(self, session: TlsSession | None) -> dict[str, str]:
        """Of the certificates: "client" is the other end's and "server" ours, whoever has opened the connection."""
        if session is None:
            return {}
        domains = self.core.api("tls_mgm", TlsDomains)  # type: ignore[type-abstract]
        found: dict[str, str] = {}
        for whose, data in (("client", session.peer_certificate), ("server", session.domain.certificate.encode())):
            names = domains.names(data) if data else None
            if names is not None:
                found[f"{whose}-subject"], found[f"{whose}-issuer"] = (text[:LONGEST_REASON] for text in names)
        return found


def shown_handshake(data: bytes) -> str:
    """The head of a message of HTTP without what may be secret: queries, credentials, headers that nobody knows."""
    lines = data.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    first = lines[0].split(" ")
    if len(first) > 1 and "?" in first[1]:
        first[1] = f"{first[1].partition('?')[0]}?{HIDDEN}"
    shown = [" ".join(first)]
    for line in lines[1:]:
        name, _, value = line.partition(":")
        kind = name.strip().lower()
        if kind == SUBPROTOCOLS:
            # Browsers cannot set headers, so that tokens are put here.
            words = (word.strip() for word in value.split(","))
            value = ", ".join(word if word.lower() == "sip" else HIDDEN for word in words)
        elif kind not in SHOWN_HEADERS:
            value = HIDDEN
        shown.append(f"{name}: {value.strip()}")
    return "\r\n".join(shown) + "\r\n\r\n"


__all__ = [
    "ConnectionReport",
    "ConnectionSink",
    "ConnectionTracer",
    "Ends",
    "TraceSink",
    "TracedConnection",
    "TracedTransport",
    "shown_handshake",
]
