"""SIP peers over any transport, one socket each, for calls that are written out message by message."""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Iterator

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.typing import Origin, Subprotocol
from websockets.uri import parse_uri

from tests.scenarios.peer import Received

PATIENCE_S = 30.0


class Wire(ABC):
    """What brings messages to the server and back. address: our own end."""

    address: tuple[str, int]

    @abstractmethod
    def send(self, data: bytes) -> None: ...

    @abstractmethod
    def read(self) -> bytes: ...

    @abstractmethod
    def close(self) -> None: ...


class UdpWire(Wire):
    def __init__(self, server: tuple[str, int], local: str) -> None:
        self._socket = socket.socket(socket.AF_INET6 if ":" in local else socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((local, 0))
        self._socket.connect(server)
        self._socket.settimeout(PATIENCE_S)
        self.address = self._socket.getsockname()[:2]

    def send(self, data: bytes) -> None:
        self._socket.send(data)

    def read(self) -> bytes:
        return self._socket.recv(65535)

    def close(self) -> None:
        self._socket.close()


class StreamWire(Wire):
    def __init__(self, server: tuple[str, int], local: str, context: ssl.SSLContext | None = None) -> None:
        made = socket.create_connection(server, PATIENCE_S, (local, 0))
        self.address = made.getsockname()[:2]
        self._socket = context.wrap_socket(made) if context is not None else made
        self._buffer = b""

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def read(self) -> bytes:
        while True:
            head, blank, rest = self._buffer.partition(b"\r\n\r\n")
            if blank:
                lines = head.lower().split(b"\r\n")
                length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
                if len(rest) >= length:
                    self._buffer = rest[length:]
                    return head + blank + rest[:length]
            piece = self.receive()
            assert piece, f"closed after {self._buffer!r}"
            self._buffer += piece

    def receive(self) -> bytes:
        """Whatever comes next; b"" when the server has closed."""
        return self._socket.recv(65535)

    def close(self) -> None:
        self._socket.close()


class WebWire(Wire):
    """WebSocket on a stream that one thread reads and writes: ssl.SSLSocket does not bear two at a time."""

    def __init__(self, server: tuple[str, int], local: str, context: ssl.SSLContext | None = None) -> None:
        self._stream = StreamWire(server, local, context)
        self.address = self._stream.address
        host = f"[{server[0]}]" if ":" in server[0] else server[0]
        uri = parse_uri(f"{'ws' if context is None else 'wss'}://{host}:{server[1]}/")
        self._protocol = ClientProtocol(uri, origin=Origin("http://app.test"), subprotocols=[Subprotocol("sip")])
        self._messages: list[bytes] = []
        self._protocol.send_request(self._protocol.connect())
        self._flush()
        while self._protocol.state is State.CONNECTING:
            self._take()
        assert self._protocol.handshake_exc is None, self._protocol.handshake_exc
        assert self._protocol.subprotocol == "sip"

    def _flush(self) -> None:
        self._stream.send(b"".join(self._protocol.data_to_send()))

    def _take(self) -> None:
        """The next bytes of the server."""
        data = self._stream.receive()
        assert data, "closed"
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.BINARY):
                assert event.fin
                self._messages.append(bytes(event.data))
        self._flush()

    def send(self, data: bytes) -> None:
        self._protocol.send_text(data)
        self._flush()

    def read(self) -> bytes:
        while not self._messages:
            self._take()
        return self._messages.pop(0)

    def close(self) -> None:
        if self._protocol.state is State.OPEN:
            self._protocol.send_close()
            self._flush()
        self._stream.close()


def connect(proto: str, server: tuple[str, int], local: str, context: ssl.SSLContext) -> Wire:
    """A wire of a protocol; context: for those under TLS."""
    if proto == "udp":
        return UdpWire(server, local)
    secure = context if proto in ("tls", "wss") else None
    return WebWire(server, local, secure) if proto in ("ws", "wss") else StreamWire(server, local, secure)


class Dialog:
    """One side's view of a call."""

    def __init__(self, call_id: str, local: str, remote: str, target: str, routes: list[str], cseq: int) -> None:
        self.call_id = call_id
        self.local = local
        self.remote = remote
        self.target = target
        self.routes = routes
        self.cseq = cseq


class End:
    """A user agent on a wire. A browser's own name is in `.invalid`, as it has no address (RFC 7118 §5.2)."""

    def __init__(self, user: str, proto: str, wire: Wire) -> None:
        self.user = user
        self.proto = proto
        self.wire = wire
        host, port = wire.address
        shown = f"[{host}]" if ":" in host else host
        web = proto in ("ws", "wss")
        self.host = f"{user}.invalid" if web else f"{shown}:{port}"
        self.contact = f"sip:{user}@{self.host};transport={proto}"
        # Where the wire ends, as the script can send to it.
        self.destination = f"sip:{shown}:{port};transport={proto}"
        self._numbers: Iterator[int] = itertools.count(1)
        self._seen: set[bytes] = set()

    def receive(self) -> Received:
        """The next message but 100 and copies of what was seen."""
        while True:
            got = Received(self.wire.read(), ("", 0))
            if got.status != 100 and got.raw not in self._seen:
                self._seen.add(got.raw)
                return got

    def request(self, method: str, uri: str, lines: list[str], call_id: str, cseq: int) -> None:
        branch = f"z9hG4bK{self.user}{next(self._numbers)}"
        text = [
            f"{method} {uri} SIP/2.0",
            f"Via: SIP/2.0/{self.proto.upper()} {self.host};branch={branch};rport",
            "Max-Forwards: 70",
            f"Call-ID: {call_id}",
            f"CSeq: {cseq} {method}",
            *lines,
            f"Contact: <{self.contact}>",
            "Content-Length: 0",
            "",
            "",
        ]
        self.wire.send("\r\n".join(text).encode())

    def answer(self, request: Received, status: int, tag: str) -> None:
        lines = [f"SIP/2.0 {status} Status"]
        lines += [f"Via: {value}" for value in request.all("Via")]
        lines += [f"Record-Route: {value}" for value in request.all("Record-Route")]
        lines += [f"From: {request['From']}"]
        to = request["To"]
        lines += [f"To: {to}" if "tag=" in to else f"To: {to};tag={tag}"]
        lines += [f"Call-ID: {request['Call-ID']}", f"CSeq: {request['CSeq']}", f"Contact: <{self.contact}>"]
        self.wire.send("\r\n".join([*lines, "Content-Length: 0", "", ""]).encode())

    def in_dialog(self, method: str, dialog: Dialog) -> None:
        if method != "ACK":
            dialog.cseq += 1
        lines = [f"Route: {route}" for route in dialog.routes]
        lines += [f"From: {dialog.local}", f"To: {dialog.remote}"]
        self.request(method, dialog.target, lines, dialog.call_id, dialog.cseq)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.wire.close()


def flat(values: list[str]) -> list[str]:
    """The elements of header lines that may hold several."""
    return [part.strip() for value in values for part in value.split(",")]


def target_of(contact: str) -> str:
    return contact[contact.index("<") + 1 : contact.index(">")]
