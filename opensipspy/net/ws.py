"""WebSocket inside our own connections (RFC 6455, RFC 7118): bytes in, SIP messages out, without a socket.

The frames are the work of the library `websockets` in its form without input and output; only who uses this file needs
it, so that `opensipspy.net` does not import it. Compression is never
negotiated: a few octets could stand for any number. A message may come in several frames, never beyond the limits.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, ClassVar, Final

from websockets.client import ClientProtocol
from websockets.frames import Opcode
from websockets.server import ServerProtocol
from websockets.typing import Origin, Subprotocol
from websockets.uri import WebSocketURI

from opensipspy import sip
from opensipspy.module.tls import TlsDomains
from opensipspy.net.tcp import Budget, TcpConnection, TcpSettings, TcpTransport, Web
from opensipspy.net.tls import TlsTransport
from opensipspy.net.transport import Deliver, LayerError
from opensipspy.sip import DEFAULT_LIMITS, DROP, PING, PONG, Limits, ParseError

SUBPROTOCOL: Final = "sip"
VERSION_HEADER: Final = "Sec-WebSocket-Version"
VERSION: Final = "13"
# The request of a browser with its cookies is far below.
LONGEST_HANDSHAKE: Final = 16384
GOING_AWAY: Final = 1001
INVALID_DATA: Final = 1007
# Frames that one message may come in; empty ones count too.
MOST_FRAMES: Final = 64


class WebSocketFramer:
    """One end of one WebSocket connection; stands where `sip.StreamFramer` stands for TCP.

    After `start()` and `feed()`, `outgoing()` is to be sent. `ready` once the handshake is done. `ended`: the peer has
    closed. feed() raises ParseError when the connection must be closed; with `error` set, it does the next time.
    """

    def __init__(
        self,
        limits: Limits = DEFAULT_LIMITS,
        *,
        server: bool = True,
        host: str = "",
        port: int = 0,
        resource: str = "/",
        secure: bool = False,
        require_origin: bool = True,
        keep_handshake: bool = False,
    ) -> None:
        """host, port, resource, secure: what is asked for when we are the client (server=False)."""
        self.limits = limits
        self.error: ParseError | None = None
        self.ready = False
        self.ended = False
        self._server = server
        self._require_origin = require_origin
        self._handshake_bytes = 0
        self._keeps_handshake = keep_handshake
        self._handshake = (b"", b"")
        # Whether the message that comes is a text.
        self._text = False
        self._parts: list[bytes] = []
        logger = logging.Logger("websockets")
        # It would write a line about each connection that is none; the reason is in our own.
        logger.disabled = True
        size = limits.head + limits.body + len(PING)
        subprotocols = [Subprotocol(SUBPROTOCOL)]
        self._protocol: Any
        if server:
            self._protocol = ServerProtocol(subprotocols=subprotocols, max_size=size, logger=logger)
        else:
            uri = WebSocketURI(secure, host, port, resource, "", None, None)
            scheme = "https" if secure else "http"
            shown = f"[{host}]" if ":" in host else host
            self._protocol = ClientProtocol(
                uri,
                origin=Origin(f"{scheme}://{shown}:{port}"),
                subprotocols=subprotocols,
                max_size=size,
                logger=logger,
            )

    def start(self) -> None:
        """Ask for the connection, as a client."""
        request = self._protocol.connect()
        if self._keeps_handshake:
            self._handshake = (request.serialize(), b"")
        self._protocol.send_request(request)

    def outgoing(self) -> bytes:
        """What has to be sent now."""
        pieces = self._protocol.data_to_send()
        # An empty piece says that the connection ends there.
        return b"".join(pieces)

    def take_handshake(self) -> tuple[bytes, bytes]:
        """The request and the reply of the handshake, as far as they are there and were to be kept; only once."""
        found, self._handshake = self._handshake, (b"", b"")
        return found

    @property
    def pending(self) -> int:
        """Octets of a message that is not whole yet."""
        return len(self._protocol.reader.buffer) + sum(map(len, self._parts))

    def feed(self, data: bytes) -> list[bytes]:
        """Take what came and return what became whole: messages, and PING and PONG of RFC 5626."""
        if self.error is not None:
            raise self.error
        protocol = self._protocol
        if not self.ready:
            self._handshake_bytes += len(data)
            if self._handshake_bytes > LONGEST_HANDSHAKE and b"\r\n\r\n" not in data[:LONGEST_HANDSHAKE]:
                raise ParseError("a WebSocket handshake without an end", 0, DROP)
        protocol.receive_data(data)
        found: list[bytes] = []
        try:
            for event in protocol.events_received():
                if hasattr(event, "opcode"):
                    self._take(event, found)
                else:
                    self._shake(event)
        except ParseError as error:
            self.error = error
            if not found:
                raise
            return found
        failed = protocol.handshake_exc or protocol.parser_exc
        if failed is not None:
            self.error = ParseError(f"WebSocket: {failed}", 0, DROP)
            if not found:
                raise self.error
        return found

    def _shake(self, event: Any) -> None:
        """The first message of the other end, in HTTP. Raises ParseError when the connection does not come about."""
        protocol = self._protocol
        reason = ""
        if self._server:
            if self._require_origin and "Origin" not in event.headers:
                response = protocol.reject(403, "The header Origin is missing.\n")
                reason = "no Origin"
            elif event.headers.get_all("Upgrade") and event.headers.get_all(VERSION_HEADER) != [VERSION]:
                # RFC 6455 section 4.4: the client is told which version would do.
                response = protocol.reject(426, f"Version {VERSION} of WebSocket is spoken here.\n")
                response.headers["Upgrade"] = "websocket"
                response.headers[VERSION_HEADER] = VERSION
                reason = "another version"
            else:
                response = protocol.accept(event)
            # Nobody needs our clock.
            del response.headers["Date"]
            if self._keeps_handshake:
                self._handshake = (event.serialize(), response.serialize())
            protocol.send_response(response)
        else:
            if self._keeps_handshake:
                self._handshake = (self._handshake[0], event.serialize())
            if protocol.handshake_exc is None and protocol.subprotocol != SUBPROTOCOL:
                reason = "the server does not speak SIP"
        if protocol.handshake_exc is not None:
            reason = str(protocol.handshake_exc)
        if reason:
            raise ParseError(f"WebSocket: {reason}", 0, DROP)
        self.ready = True

    def _take(self, frame: Any, found: list[bytes]) -> None:
        """One frame. Raises ParseError."""
        opcode = frame.opcode
        if opcode is Opcode.CLOSE:
            self.ended = True
            return
        if opcode is Opcode.PING or opcode is Opcode.PONG:
            return
        if opcode is not Opcode.CONT:
            self._text = opcode is Opcode.TEXT
        if not frame.fin or self._parts:
            if len(self._parts) >= MOST_FRAMES:
                raise ParseError(f"WebSocket: a message in more than {MOST_FRAMES} frames", 0, DROP)
            self._parts.append(bytes(frame.data))
            if not frame.fin:
                return
            message = b"".join(self._parts)
            self._parts = []
        else:
            message = bytes(frame.data)
        if self._text and not message.isascii() and not _is_utf8(message):
            # RFC 6455 section 8.1
            self._protocol.fail(INVALID_DATA, "a text is not UTF-8")
            raise ParseError("WebSocket: a text is not UTF-8", 0, DROP)
        # Keep-alives are those of the stream below, or WebSocket's own; a CRLF alone is accepted as they are.
        if message in (PING, PONG):
            found.append(PING if message == PING else PONG)
        elif message:
            found.append(message)

    def wrap(self, data: bytes) -> bytes:
        """Bytes for the network that bring one message to the peer (RFC 7118 §5), as text where it is UTF-8.

        Raises LayerError when the connection is closed.
        """
        if not self.ready or self.ended or self.error is not None:
            raise LayerError("the WebSocket is closed")
        if data.isascii() or _is_utf8(data):
            self._protocol.send_text(data)
        else:
            self._protocol.send_binary(data)
        return self.outgoing()

    def farewell(self) -> bytes:
        """What closes the connection in order (RFC 6455 §7)."""
        if self.ready and not self.ended and self.error is None:
            self._protocol.send_close(GOING_AWAY)
        return self.outgoing()


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


class WsTransport(TcpTransport):
    """SIP over WebSocket (RFC 7118)."""

    proto: ClassVar[int] = sip.PROTO_WS
    shakes_hands: ClassVar[bool] = True

    def __init__(
        self,
        deliver: Deliver,
        loop: asyncio.AbstractEventLoop,
        settings: TcpSettings | None = None,
        budget: Budget | None = None,
        *,
        resource: str = "/",
        require_origin: bool = True,
    ) -> None:
        """resource: what our own connections ask for; require_origin: whether browsers' Origin must be there."""
        super().__init__(deliver, loop, settings, budget)
        self._resource = resource
        self._require_origin = require_origin

    def make_web(self, connection: TcpConnection) -> Web | None:
        return _framer(connection, self._resource, self._require_origin, secure=False)


class WssTransport(TlsTransport):
    """SIP over WebSocket over TLS."""

    proto: ClassVar[int] = sip.PROTO_WSS

    def __init__(
        self,
        deliver: Deliver,
        loop: asyncio.AbstractEventLoop,
        domains: TlsDomains,
        settings: TcpSettings | None = None,
        budget: Budget | None = None,
        *,
        resource: str = "/",
        require_origin: bool = True,
        check_reuse: bool = False,
    ) -> None:
        super().__init__(deliver, loop, domains, settings, budget, check_reuse=check_reuse)
        self._resource = resource
        self._require_origin = require_origin

    def make_web(self, connection: TcpConnection) -> Web | None:
        return _framer(connection, self._resource, self._require_origin, secure=True)


def _framer(connection: TcpConnection, resource: str, require_origin: bool, *, secure: bool) -> WebSocketFramer:
    tracer = connection.owner.tracer
    return WebSocketFramer(
        connection.settings.limits,
        server=not connection.outgoing,
        host=connection.peer.address,
        port=connection.peer.port,
        resource=resource,
        secure=secure,
        require_origin=require_origin,
        keep_handshake=tracer is not None and tracer.active,
    )
