"""event_datagram: events as JSON-RPC notifications in UDP or UNIX datagrams."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from ipaddress import ip_address
from typing import Any, Final

from opensipspy.events.hub import Params, Transport
from opensipspy.module import Module

LARGEST: Final = 65457
"""Bytes of a datagram (the manual's limit)."""


def notification(name: str, params: Params) -> bytes:
    """The event as a JSON-RPC 2.0 notification."""
    text = json.dumps({"jsonrpc": "2.0", "method": name, "params": dict(params)}, default=str)
    return text.encode("utf-8", "surrogateescape")


class DatagramTransport(Transport):
    """What both kinds of datagram share: one socket that never blocks, made at the first event."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}

    def send(self, family: int, address: Any, data: bytes) -> None:
        """Hand one datagram to the system; raises OSError when it is too long or the system refuses it."""
        if len(data) > LARGEST:
            raise OSError(f"the event has {len(data)} bytes, a datagram holds {LARGEST}")
        opened = self._sockets.get(family)
        if opened is None:
            opened = socket.socket(family, socket.SOCK_DGRAM)
            opened.setblocking(False)
            self._sockets[family] = opened
        opened.sendto(data, address)

    def close(self) -> None:
        """Close the sockets."""
        for opened in self._sockets.values():
            opened.close()
        self._sockets.clear()


class UdpTransport(DatagramTransport):
    """`udp:host:port`."""

    scheme = "udp"

    def parse(self, address: str) -> str:
        """`host:port` with the host in lower case; an IPv6 address stands in brackets."""
        host, port = split_address(address)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def deliver(self, address: str, name: str, params: Params) -> None:
        """Send to the address, whose name is resolved each time without holding anybody up."""
        data = notification(name, params)
        host, port = split_address(address)
        try:
            ip = ip_address(host)
        except ValueError:
            loop = asyncio.get_running_loop()
            family, _, _, _, found = (await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM))[0]
            self.send(family, found, data)
        else:
            self.send(socket.AF_INET if ip.version == 4 else socket.AF_INET6, (host, port), data)


class UnixTransport(DatagramTransport):
    """`unix:/path/of/socket`."""

    scheme = "unix"

    def parse(self, address: str) -> str:
        """The path; one that no socket can have is refused."""
        if not address.strip() or "\0" in address or len(os.fsencode(address)) > 107:
            raise ValueError("the path of a UNIX socket has 1 to 107 bytes")
        return address

    def deliver(self, address: str, name: str, params: Params) -> None:
        """Send to the socket; a full one raises OSError, nobody waits for it."""
        self.send(socket.AF_UNIX, address, notification(name, params))


def split_address(address: str) -> tuple[str, int]:
    """(host without brackets, port); raises ValueError."""
    host, colon, port = address.strip().rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or len(port) > 5 or not 0 < int(port) < 65536:
        raise ValueError("host:port is needed, with a port from 1 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = str(ip_address(host[1:-1]))
    elif not host or ":" in host or any(c.isspace() for c in host):
        raise ValueError("the host is missing, or an IPv6 address is not in brackets")
    return host.lower(), int(port)


class EventDatagram(Module):
    """Send events to subscribers at `udp:host:port` and `unix:/path`."""

    name = "event_datagram"

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self._transports = (UdpTransport(), UnixTransport())

    def bind(self, core: Any) -> None:
        """Make the two schemes known."""
        super().bind(core)
        for transport in self._transports:
            core.events.add_transport(transport)

    async def stop(self) -> None:
        """Close the sockets."""
        for transport in self._transports:
            transport.close()
