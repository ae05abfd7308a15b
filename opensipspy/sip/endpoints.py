"""Transports by number, our listening points and remote ends, as SIP shows them. No operating system sockets here."""

from __future__ import annotations

from typing import Final

from mypy_extensions import mypyc_attr

PROTO_NONE: Final = 0
PROTO_UDP: Final = 1
PROTO_TCP: Final = 2
PROTO_TLS: Final = 3
PROTO_SCTP: Final = 4
PROTO_WS: Final = 5
PROTO_WSS: Final = 6
# No transport of SIP: no word of Via or of URIs leads to it.
PROTO_BIN: Final = 8
# Of a bond: it has whatever protocols its sockets have.
PROTO_BOND: Final = 9

PROTO_NAMES: Final = ("", "udp", "tcp", "tls", "sctp", "ws", "wss", "", "bin")
PROTO_NUMBERS: Final = {
    "udp": PROTO_UDP,
    "tcp": PROTO_TCP,
    "tls": PROTO_TLS,
    "sctp": PROTO_SCTP,
    "ws": PROTO_WS,
    "wss": PROTO_WSS,
    "UDP": PROTO_UDP,
    "TCP": PROTO_TCP,
    "TLS": PROTO_TLS,
    "SCTP": PROTO_SCTP,
    "WS": PROTO_WS,
    "WSS": PROTO_WSS,
}


_SECURE: Final = (PROTO_TLS, PROTO_WSS)


def bond(name: str, members: list[Socket]) -> Socket:
    """Several sockets under one name, `socket = bond:NAME {...}`."""
    made = Socket(PROTO_BOND, name, 0)
    made.text = "bond:" + name
    made.members = members
    return made


def forced_proto(socket: Socket | None, uri: str) -> int:
    """The protocol that a socket to send from asks for, 0 when it leaves that to the URI of the next hop.

    As in OpenSIPS the socket counts more than the URI's `transport`; but a sips: URI never leaves unprotected (RFC 3261
    §26.2.2).
    """
    if socket is None or socket.proto == PROTO_BOND:
        return PROTO_NONE
    if socket.proto not in _SECURE and uri[:5].lower() == "sips:":
        return PROTO_NONE
    return socket.proto


def proto_name(proto: int) -> str:
    """The lower-case name of a transport number, "" for an unknown one."""
    if 0 < proto <= PROTO_BIN:
        return PROTO_NAMES[proto]
    return ""


def proto_number(name: str) -> int:
    """The number of a transport's name in any case, PROTO_NONE (0) for an unknown one."""
    found = PROTO_NUMBERS.get(name)
    if found is None:
        found = PROTO_NUMBERS.get(name.lower(), PROTO_NONE)
    return found


def default_port(proto: int) -> int:
    """5061 for TLS and secure WebSocket (80 and 443 are HTTP's, not SIP's, default), else 5060 (RFC 3261 §19.1.2)."""
    if proto in _SECURE:
        return 5061
    return 5060


def is_reliable(proto: int) -> bool:
    """False for UDP only: the transport delivers or reports failure (RFC 3261 §17)."""
    return proto != PROTO_UDP


def bracketed(address: str) -> str:
    """An IPv6 address in brackets, anything else as it is."""
    if ":" in address and not address.startswith("["):
        return "[" + address + "]"
    return address


class Socket:
    """A listening point. address: without brackets. advertised_*: what Via and Record-Route show instead, when set.

    index: the place in the server's list of sockets, for tables keyed by socket. anycast: whether other servers listen
    at the same address. members: the sockets of a bond (`PROTO_BOND`), which is nothing to listen on but a choice of
    where to send from: the first member that fits the destination.
    """

    __slots__ = (
        "address",
        "advertised_address",
        "advertised_port",
        "anycast",
        "host_text",
        "index",
        "is_v6",
        "members",
        "port",
        "proto",
        "tag",
        "text",
        "via_host",
        "via_port",
        "via_prefix",
    )

    def __init__(
        self,
        proto: int,
        address: str,
        port: int,
        advertised_address: str | None = None,
        advertised_port: int = 0,
        tag: str = "",
        index: int = 0,
    ) -> None:
        self.proto: int = proto
        self.address: str = address.strip("[]")
        self.port: int = port
        self.advertised_address: str | None = advertised_address or None
        self.advertised_port: int = advertised_port
        self.tag: str = tag
        self.index: int = index
        self.anycast: bool = False
        self.members: list[Socket] | None = None
        self.is_v6: bool = ":" in self.address
        self.host_text: str = bracketed(self.address)
        self.text: str = proto_name(proto) + ":" + self.host_text + ":" + str(port)
        self.via_host: str = bracketed(advertised_address) if advertised_address else self.host_text
        self.via_port: int = advertised_port or port
        # "SIP/2.0/UDP host:port;branch=": the constant part of each Via that leaves here.
        self.via_prefix: str = f"SIP/2.0/{proto_name(proto).upper()} {self.via_host}:{self.via_port};branch="

    def __repr__(self) -> str:
        return "Socket(" + self.text + ")"


@mypyc_attr(acyclic=True)
class Peer:
    """A remote end. address: without brackets. connection: the number of the stream it is seen on, 0 for datagrams."""

    __slots__ = ("address", "connection", "port", "proto")

    def __init__(self, proto: int, address: str, port: int, connection: int = 0) -> None:
        self.proto: int = proto
        self.address: str = address
        self.port: int = port
        self.connection: int = connection

    @property
    def text(self) -> str:
        """ "udp:192.0.2.1:5060", an IPv6 address in brackets."""
        return proto_name(self.proto) + ":" + bracketed(self.address) + ":" + str(self.port)

    def __repr__(self) -> str:
        return "Peer(" + self.text + ")"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Peer):
            return NotImplemented
        return (
            self.proto == other.proto
            and self.address == other.address
            and self.port == other.port
            and self.connection == other.connection
        )

    def __hash__(self) -> int:
        return hash((self.proto, self.address, self.port, self.connection))
