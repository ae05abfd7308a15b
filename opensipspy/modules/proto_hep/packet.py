"""What leaves for a collector: packets of HEP 1, 2 and 3 (the "HEP3 network protocol specification" of 2016)."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

SIP: Final = 0x01
MI: Final = 0x57
TRANSPORT: Final = 0x59
CONTROL: Final = 0x60
"""Kinds of payload; those but SIP are OpenSIPS' own."""

IP_TCP: Final = 6
IP_UDP: Final = 17
FAMILIES: Final = {4: 2, 6: 10}
"""IP version to the number that stands for it in a packet, which is Linux' number of the address family."""

LONGEST: Final = 65507
"""Octets of a packet: what a UDP datagram holds over IPv4; the length of HEP 3 has 16 bits, too."""

EXTRA_CORRELATION: Final = 101
CORRELATION: Final = 0x11
PAYLOAD: Final = 0x0F


class Capture:
    """One thing to tell a collector of: from where to where it went, over which protocol of IP, when, and what it is.

    payload: what was sent. chunks: further chunks of HEP 3, (type, content). at: seconds since 1970.
    """

    __slots__ = ("at", "chunks", "destination", "kind", "payload", "protocol", "source")

    def __init__(
        self,
        source: tuple[str, int],
        destination: tuple[str, int],
        protocol: int,
        kind: int,
        at: float,
        payload: bytes = b"",
        chunks: tuple[tuple[int, bytes], ...] = (),
    ) -> None:
        self.source = source
        self.destination = destination
        self.protocol = protocol
        self.kind = kind
        self.at = at
        self.payload = payload
        self.chunks = chunks


def pack(capture: Capture, version: int, capture_id: int) -> bytes:
    """The packet; raises ValueError when it would be too long, or when the two addresses are of two families."""
    source, destination = ip_address(capture.source[0]), ip_address(capture.destination[0])
    if source.version != destination.version:
        raise ValueError("one address is of IPv4, the other of IPv6")
    build = _pack3 if version == 3 else _pack2 if version == 2 else _pack1
    data = build(capture, source, destination, capture_id)
    if len(data) > LONGEST:
        raise ValueError(f"a packet of HEP would have {len(data)} octets, {LONGEST} are the most")
    return data


def _moment(at: float) -> tuple[int, int]:
    micros = round(at * 1_000_000)
    return micros // 1_000_000, micros % 1_000_000


def _head(version: int, capture: Capture, source: IPv4Address | IPv6Address, packed: bytes) -> bytes:
    return struct.pack(
        ">BBBBHH",
        version,
        8 + len(packed),
        FAMILIES[source.version],
        capture.protocol,
        capture.source[1],
        capture.destination[1],
    )


def _pack1(
    capture: Capture, source: IPv4Address | IPv6Address, destination: IPv4Address | IPv6Address, capture_id: int
) -> bytes:
    addresses = source.packed + destination.packed
    return _head(1, capture, source, addresses) + addresses + capture.payload


def _pack2(
    capture: Capture, source: IPv4Address | IPv6Address, destination: IPv4Address | IPv6Address, capture_id: int
) -> bytes:
    addresses = source.packed + destination.packed
    # Agents send these in the order of their machine, and collectors expect that of a PC; the last two octets fill up.
    when = struct.pack("<IIHxx", *_moment(capture.at), capture_id)
    return _head(2, capture, source, addresses) + addresses + when + capture.payload


def _pack3(
    capture: Capture, source: IPv4Address | IPv6Address, destination: IPv4Address | IPv6Address, capture_id: int
) -> bytes:
    seconds, micros = _moment(capture.at)
    first = 3 if source.version == 4 else 5
    parts = [
        (1, struct.pack(">B", FAMILIES[source.version])),
        (2, struct.pack(">B", capture.protocol)),
        (7, struct.pack(">H", capture.source[1])),
        (8, struct.pack(">H", capture.destination[1])),
        (9, struct.pack(">I", seconds)),
        (10, struct.pack(">I", micros)),
        (11, struct.pack(">B", capture.kind)),
        (12, struct.pack(">I", capture_id)),
        (first, source.packed),
        (first + 1, destination.packed),
    ]
    if capture.payload:
        parts.append((PAYLOAD, capture.payload))
    parts.extend(capture.chunks)
    length = 6 + sum(6 + len(content) for _, content in parts)
    if length > LONGEST:
        raise ValueError(f"a packet of HEP would have {length} octets, {LONGEST} are the most")
    return b"HEP3" + struct.pack(">H", length) + b"".join(
        struct.pack(">HHH", 0, kind, 6 + len(content)) + content for kind, content in parts
    )  # fmt: skip
