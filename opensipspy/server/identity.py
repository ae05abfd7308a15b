"""What counts as "us": the listening points, what they are advertised as, and the script's aliases."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from opensipspy import sip
from opensipspy.sip import Socket

# What a name or number is compared by is limited, so that a long hostile host costs nothing.
LONGEST_HOST: Final = 255


def folded(host: str) -> str:
    """A host in the one form that is compared: lower case, no brackets, no final dot, IPv6 in its short form."""
    text = host.strip("[]").rstrip(".").lower()
    if ":" in text and len(text) < 64:
        try:
            return str(ipaddress.IPv6Address(text))
        except ValueError:
            return text
    return text


class Identity:
    """Answers `is_myself`. An entry with port 0 or protocol 0 stands for any."""

    def __init__(self, sockets: Iterable[Socket] = ()) -> None:
        self._entries: dict[str, set[tuple[int, int]]] = {}
        self._above: set[str] = set()
        for socket in sockets:
            self.add_socket(socket)

    def add_socket(self, socket: Socket, name: str = "", subdomains: bool = False) -> None:
        """A listening point counts under its address, the name it was written with and its advertised address."""
        self.add(socket.address, socket.port, socket.proto)
        if name:
            self.add(name, socket.port, socket.proto, subdomains)
        if socket.advertised_address or socket.advertised_port:
            self.add(socket.advertised_address or socket.address, socket.via_port, socket.proto, subdomains)

    def remove_socket(self, socket: Socket, others: Iterable[Socket]) -> None:
        """A listening point is gone; what it shares with others stays ours."""
        entries = {(socket.address, socket.port)}
        if socket.advertised_address or socket.advertised_port:
            entries.add((socket.advertised_address or socket.address, socket.via_port))
        for host, port in entries:
            known = self._entries.get(folded(host))
            if known is not None:
                known.discard((socket.proto, port))
                if not known:
                    del self._entries[folded(host)]
        for other in others:
            if other is not socket:
                self.add_socket(other)

    def add(self, host: str, port: int = 0, proto: int = 0, subdomains: bool = False) -> None:
        """Make host[:port] ours (`alias`), with all names that end in .host when `subdomains`."""
        self._entries.setdefault(folded(host), set()).add((proto, port))
        if subdomains:
            self._above.add(folded(host))

    def _parent(self, host: str) -> str:
        """The alias that a name is a subdomain of, "" when there is none."""
        while self._above:
            host = host.partition(".")[2]
            if not host or host in self._above:
                return host
        return ""

    def is_myself(self, host: str, port: int = 0, proto: int = 0) -> bool:
        """Whether the host is ours; port 0 and proto 0 match any."""
        if len(host) > LONGEST_HOST:
            return False
        entries = self._entries.get(host)
        if entries is None:
            name = folded(host)
            entries = self._entries.get(name) or self._entries.get(self._parent(name))
            if entries is None:
                return False
        if port == 0 and proto == 0:
            return True
        for known_proto, known_port in entries:
            if (port in (0, known_port) or known_port == 0) and (proto in (0, known_proto) or known_proto == 0):
                return True
        return False

    def describe(self) -> list[str]:
        """The entries as "proto:host:port", with * for any."""
        return [
            f"{sip.proto_name(proto) or '*'}:{host}:{port or '*'}"
            for host, entries in self._entries.items()
            for proto, port in sorted(entries)
        ]
