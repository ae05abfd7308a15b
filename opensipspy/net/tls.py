"""TLS inside our own connections: bytes of the network in, bytes of the peer out, without a socket and without waiting.

`ssl.SSLObject` works on two buffers, so that a connection under TLS is the same object with the same bounded queues,
limits and time-outs as one without. The name that a client asks for (SNI) is read from its ClientHello before TLS
begins: the domain that fits brings all its parameters, versions, ciphers and whether a certificate is wanted, which
changing the context in the middle of a handshake would not.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import ClassVar, Final

from opensipspy import sip
from opensipspy.module.tls import TlsDomain, TlsDomains, TlsSession
from opensipspy.net.tcp import Budget, Secure, TcpConnection, TcpSettings, TcpTransport
from opensipspy.net.transport import Deliver, Hint, LayerError

HANDSHAKE_RECORD: Final = 22
CLIENT_HELLO: Final = 1
RECORD_HEAD: Final = 5
LONGEST_RECORD: Final = 16384
SERVER_NAME: Final = 0
HOST_NAME: Final = 0
LONGEST_NAME: Final = 255
# How much of a stream may come before the ClientHello is whole.
LONGEST_HELLO: Final = 32768
# Records that it may be cut into; what has come is read from its beginning each time.
MOST_RECORDS: Final = 32
READ_BYTES: Final = 65536
# A fatal alert, unrecognized_name (RFC 6066 §3), in a record of TLS 1.2.
UNRECOGNIZED_NAME: Final = b"\x15\x03\x03\x00\x02\x02\x70"

ChooseServer = Callable[[str], TlsDomain | None]
"""The server domain for a name that a client asks for, "" when it asks for none."""


class TlsError(LayerError):
    """The connection cannot go on; the text says why. What `outgoing()` still holds tells the peer."""


class TlsLayer(TlsSession):
    """One end of one TLS connection.

    `start()` and `feed()` move it; after each of them `outgoing()` is to be sent. `ready` once the handshake is done.
    `ended`: the peer has said that nothing more comes.
    """

    def __init__(
        self, domain: TlsDomain | None = None, server_name: str = "", *, choose: ChooseServer | None = None
    ) -> None:
        """domain: of a connection that we open, to be checked and asked for as `server_name`; choose: of the others."""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._alert = b""
        self._hello = b""
        self._choose = choose
        self._ssl: ssl.SSLObject | None = None
        self.ready = False
        self.ended = False
        # What the client asked for, or we asked for.
        self.server_name = server_name
        if domain is not None:
            self.domain = domain
            self._ssl = domain.context.wrap_bio(
                self._incoming, self._outgoing, server_side=False, server_hostname=server_name or None
            )

    def start(self) -> None:
        """Begin the handshake of a connection that we opened. Raises TlsError."""
        self._handshake()

    def outgoing(self) -> bytes:
        """What has to be sent now."""
        if self._alert:
            alert, self._alert = self._alert, b""
            return alert
        return self._outgoing.read()

    def feed(self, data: bytes) -> bytes:
        """Take what came from the network; what the peer said in it, b"" while there is nothing whole. TlsError."""
        if self._ssl is None:
            if not self._opened(data):
                return b""
        else:
            self._incoming.write(data)
        if not self.ready and not self._handshake():
            return b""
        return self._read()

    def _opened(self, data: bytes) -> bool:
        """Whether the ClientHello is whole, so that the domain is known."""
        self._hello += data
        name = client_hello_name(self._hello)
        if name is None:
            return False
        assert self._choose is not None
        self.server_name = name
        domain = self._choose(name)
        if domain is None:
            self._alert = UNRECOGNIZED_NAME
            raise TlsError(f"no TLS domain fits {name!r}" if name else "no TLS domain fits a client without SNI")
        self.domain = domain
        self._ssl = domain.context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._incoming.write(self._hello)
        self._hello = b""
        return True

    def _handshake(self) -> bool:
        assert self._ssl is not None
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise TlsError(reason_of(error)) from error
        self.ready = True
        return True

    def _read(self) -> bytes:
        assert self._ssl is not None
        pieces = []
        while True:
            try:
                piece = self._ssl.read(READ_BYTES)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                self.ended = True
                break
            except ssl.SSLError as error:
                raise TlsError(reason_of(error)) from error
            if not piece:
                self.ended = True
                break
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def wrap(self, data: bytes) -> bytes:
        """Bytes for the network that say `data` to the peer. Raises TlsError."""
        assert self._ssl is not None
        try:
            self._ssl.write(data)
        except ssl.SSLError as error:
            raise TlsError(reason_of(error)) from error
        return self._outgoing.read()

    def farewell(self) -> bytes:
        """What says to the peer that nothing more comes (close_notify)."""
        if self._ssl is None or not self.ready:
            return b""
        try:
            self._ssl.unwrap()
        except ssl.SSLError:
            # Its own answer is not waited for.
            pass
        return self._outgoing.read()

    def session(self) -> TlsSession | None:
        """What is known of it; None before a peer has said whom it wants to reach."""
        return None if self._ssl is None else self

    # -- TlsSession

    @property
    def version(self) -> str:
        return (self._ssl.version() if self._ssl is not None else None) or ""

    @property
    def cipher(self) -> tuple[str, int]:
        found = self._ssl.cipher() if self._ssl is not None else None
        return (found[0], found[2]) if found is not None else ("", 0)

    @property
    def peer_certificate(self) -> bytes:
        # Before the handshake is done, it is not given out.
        found = self._ssl.getpeercert(binary_form=True) if self._ssl is not None and self.ready else None
        return found or b""

    @property
    def verified(self) -> bool:
        # With verification on, a certificate that does not pass ends the handshake.
        return self.ready and self.domain.context.verify_mode != ssl.CERT_NONE and bool(self.peer_certificate)


def reason_of(error: ssl.SSLError) -> str:
    """An error of OpenSSL in the words of its tables."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the peer's certificate does not pass: {error.verify_message}"
    return (error.reason or str(error)).lower().replace("_", " ")


def client_hello_name(data: bytes) -> str | None:
    """The host name in the ClientHello that a stream begins with, "" when it names none, None while more has to come.

    RFC 8446 §4.1.2, RFC 6066 §3. Raises TlsError when the stream begins with something else.
    """
    hello = bytearray()
    at = 0
    need = 4
    records = 0
    while len(hello) < need:
        records += 1
        if records > MOST_RECORDS:
            raise TlsError("a ClientHello in too many records")
        if len(data) > at and data[at] != HANDSHAKE_RECORD:
            raise TlsError("what comes is not TLS")
        if len(data) < at + RECORD_HEAD:
            return None
        length = int.from_bytes(data[at + 3 : at + 5], "big")
        if not 0 < length <= LONGEST_RECORD or data[at + 1] != 3:
            raise TlsError("what comes is not TLS")
        hello += data[at + RECORD_HEAD : at + RECORD_HEAD + length]
        if hello and hello[0] != CLIENT_HELLO:
            raise TlsError("what comes is no ClientHello")
        if len(hello) >= 4:
            need = 4 + int.from_bytes(hello[1:4], "big")
            if need > LONGEST_HELLO:
                raise TlsError("a ClientHello that is too long")
        if len(hello) < need and len(data) < at + RECORD_HEAD + length:
            return None
        at += RECORD_HEAD + length
    try:
        return _server_name(bytes(hello[4:need]))
    except IndexError:
        raise TlsError("a ClientHello that ends too early") from None


def _server_name(hello: bytes) -> str:
    at = 2 + 32
    at += 1 + hello[at]
    at += 2 + _number(hello, at)
    at += 1 + hello[at]
    if at >= len(hello):
        return ""
    end = at + 2 + _number(hello, at)
    at += 2
    while at + 4 <= min(end, len(hello)):
        kind, length = _number(hello, at), _number(hello, at + 2)
        at += 4
        if kind == SERVER_NAME:
            # A list of which one kind of entry was ever defined.
            if length < 5 or hello[at + 2] != HOST_NAME:
                return ""
            size = _number(hello, at + 3)
            name = hello[at + 5 : at + 5 + size]
            if len(name) != size or size > LONGEST_NAME:
                raise TlsError("a server name that cannot be read")
            return name.decode("ascii", "replace").rstrip(".").lower()
        at += length
    return ""


def _number(data: bytes, at: int) -> int:
    return data[at] << 8 | data[at + 1]


class TlsTransport(TcpTransport):
    """SIP over TLS (RFC 3261 §26.2.1): TCP with a domain of `domains` for each connection."""

    proto: ClassVar[int] = sip.PROTO_TLS
    shakes_hands: ClassVar[bool] = True

    def __init__(
        self,
        deliver: Deliver,
        loop: asyncio.AbstractEventLoop,
        domains: TlsDomains,
        settings: TcpSettings | None = None,
        budget: Budget | None = None,
        *,
        check_reuse: bool = False,
    ) -> None:
        """check_reuse: a connection of ours carries only messages for which its own domain would be chosen."""
        super().__init__(deliver, loop, settings, budget)
        self._domains = domains
        self._check_reuse = check_reuse

    def make_secure(self, connection: TcpConnection) -> Secure | None:
        socket = connection.socket
        if not connection.outgoing:
            return TlsLayer(choose=lambda name: self._domains.server_domain(socket.address, socket.port, name))
        hint = connection.hint
        domain = self._client_domain(connection.peer.address, connection.peer.port, hint)
        if domain is None:
            raise LayerError("no TLS client domain fits")
        return TlsLayer(domain, hint.sip_domain if hint is not None else "")

    def _client_domain(self, address: str, port: int, hint: Hint | None) -> TlsDomain | None:
        if hint is None:
            return self._domains.client_domain(address, port)
        return self._domains.client_domain(address, port, hint.sip_domain, hint.tls_domain)

    def reusable(self, connection: TcpConnection, hint: Hint | None) -> bool:
        if not self._check_reuse or not connection.outgoing or not isinstance(connection.secure, TlsLayer):
            return True
        wanted = self._client_domain(connection.peer.address, connection.peer.port, hint)
        return wanted is not None and wanted.name == connection.secure.domain.name
