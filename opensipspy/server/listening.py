"""From `socket=` lines to listening points: hosts to addresses, ports by default, what they are advertised as."""

from __future__ import annotations

import ipaddress
import socket as os_socket
from collections.abc import Mapping, Sequence
from typing import Final

from opensipspy import sip
from opensipspy.net import SocketOptions, expand, is_address, socket_options
from opensipspy.server.services import split_destination
from opensipspy.sip import Socket

ANY: Final = "*"
BIN: Final = "bin"
MOST_SOCKETS: Final = 256


class ListenError(Exception):
    """A listening point cannot be what the operator wrote."""


class Listen:
    """One `socket=` line or `-l` flag. proto 0 stands for each protocol that is loaded; port 0 for its default."""

    def __init__(
        self,
        proto: int,
        host: str,
        port: int = 0,
        *,
        advertised_address: str = "",
        advertised_port: int = 0,
        tag: str = "",
        subdomains: bool = False,
        options: Mapping[str, int | str] | None = None,
    ) -> None:
        self.proto = proto
        self.host = host
        self.port = port
        self.advertised_address = advertised_address
        self.advertised_port = advertised_port
        self.tag = tag
        self.subdomains = subdomains
        # Further words of the line, with their values.
        self.options: Mapping[str, int | str] = options or {}

    @property
    def text(self) -> str:
        return f"{sip.proto_name(self.proto) or '*'}:{self.host}:{self.port or ''}".rstrip(":")


class Planned:
    """A listening point to be bound, the name it was written with when that was no address, and whether the
    subdomains of its names are ours too."""

    def __init__(self, socket: Socket, name: str, subdomains: bool, options: SocketOptions | None = None) -> None:
        self.socket = socket
        self.name = name
        self.subdomains = subdomains
        self.options = options


def listening_protocol(name: str) -> int:
    """The number of a protocol that can be listened on, 0 for an unknown one."""
    return sip.PROTO_BIN if name.lower() == BIN else sip.proto_number(name)


def parse_listen(text: str) -> Listen:
    """A `-l` value, "[proto:]host[:port]"; raises ListenError."""
    head, _, rest = text.partition(":")
    if head.strip().lower() == BIN and rest:
        _, host, port = split_destination(rest)
        proto = sip.PROTO_BIN
    else:
        proto, host, port = split_destination(text)
    if not host:
        raise ListenError(f"{text!r} is no [protocol:]address[:port]")
    return Listen(proto, host, port)


def plan(
    lines: Sequence[Listen], ports: Mapping[int, int], *, advertised_address: str = "", advertised_port: int = 0
) -> list[Planned]:
    """The listening points of all lines, in their order; raises ListenError.

    ports: protocol -> default port, of the protocols whose module is loaded. advertised_*: for those without their own.
    """
    found: list[Planned] = []
    seen: set[tuple[int, str, int]] = set()
    for line in lines:
        protocols = [line.proto] if line.proto else [proto for proto in ports if proto != sip.PROTO_BIN]
        for proto in protocols:
            if proto not in ports:
                name = sip.proto_name(proto)
                raise ListenError(f'{line.text}: nothing serves {name}: loadmodule "proto_{name}.so" is missing')
            port = line.port or ports[proto]
            for address in addresses_of(line.host):
                key = (proto, address, port)
                if key in seen:
                    continue
                seen.add(key)
                socket = Socket(
                    proto,
                    address,
                    port,
                    line.advertised_address or advertised_address or None,
                    line.advertised_port or advertised_port,
                    line.tag,
                )
                socket.anycast = "anycast" in line.options
                named = "" if is_address(line.host) or line.host == ANY else line.host
                found.append(Planned(socket, named, line.subdomains, socket_options(line.options)))
    if len(found) > MOST_SOCKETS:
        raise ListenError(f"{len(found)} listening points are more than the {MOST_SOCKETS} that are allowed")
    return found


def addresses_of(host: str) -> list[str]:
    """Addresses behind a host, "*", an interface or a host name, which is looked up: the start may wait for it."""
    try:
        found = expand(host)
    except OSError as error:
        raise ListenError(f"{host}: {error.strerror}") from error
    if found:
        return found
    try:
        answers = os_socket.getaddrinfo(host, None, type=os_socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        raise ListenError(f"{host}: no address, interface or name that resolves ({error})") from error
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))[:1]


def reverse_names(address: str) -> list[str]:
    """Names that the system knows for one of our addresses (`auto_aliases`); [] when there are none."""
    try:
        name, aliases, _ = os_socket.gethostbyaddr(address)
    except OSError:
        return []
    return [text for text in (name, *aliases) if not _is_literal(text)]


def _is_literal(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
