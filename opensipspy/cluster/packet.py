"""BIN packets, in which the nodes of a cluster talk: a header, the name of a capability, a kind, and fields.

    "P4CK"  length of the whole (4 octets)  version (2)  length of the name (2)  name  kind (4)  fields

Numbers stand in the order of x86 and ARM, the low octet first. A field is a number of 4 octets or a text of up to
65,535 octets behind its length of 2. Nothing tells the fields apart: sender and receiver know their order.
"""

from __future__ import annotations

import struct
from typing import Final

MARKER: Final = b"P4CK"
HEADER_BYTES: Final = 10
# The shortest: a capability of one letter and no fields.
LEAST_BYTES: Final = HEADER_BYTES + 2 + 1 + 4
# What the C server takes: its buffer of 65,535 octets less what it keeps free for the address of the packet.
MOST_BYTES: Final = 65515
MOST_TEXT: Final = 65535

_LENGTH: Final = struct.Struct("<I")
_VERSION: Final = struct.Struct("<H")
_SHORT: Final = struct.Struct("<H")
_INT: Final = struct.Struct("<i")
_LOWEST: Final = -(1 << 31)
_HIGHEST: Final = (1 << 31) - 1


class PacketError(ValueError):
    """A packet does not hold what was expected, or would not fit."""


class PacketWriter:
    """Builds a packet field by field. capability: who takes it. kind, version: what that capability makes of them."""

    __slots__ = ("_body", "capability", "kind", "version")

    def __init__(self, capability: str, kind: int, version: int = 0) -> None:
        self.capability = capability
        self.kind = kind
        self.version = version
        self._body = bytearray()

    def __len__(self) -> int:
        """Octets of the whole packet so far."""
        return HEADER_BYTES + 2 + len(self.capability.encode()) + 4 + len(self._body)

    def number(self, value: int) -> PacketWriter:
        """Add a number of 32 bits, signed. Raises PacketError for a larger one."""
        if not _LOWEST <= value <= _HIGHEST:
            raise PacketError(f"{value} has more than 32 bits")
        self._body += _INT.pack(value)
        return self

    def text(self, value: str | bytes) -> PacketWriter:
        """Add a text. Raises PacketError for one that is too long."""
        data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
        if len(data) > MOST_TEXT:
            raise PacketError(f"a text of {len(data)} octets is longer than {MOST_TEXT}")
        self._body += _SHORT.pack(len(data))
        self._body += data
        return self

    def raw(self, data: bytes) -> PacketWriter:
        """Add fields that are packed already."""
        self._body += data
        return self

    def fields(self) -> bytes:
        """All fields so far."""
        return bytes(self._body)

    def data(self) -> bytes:
        """The packet. Raises PacketError when it is too long."""
        name = self.capability.encode()
        size = HEADER_BYTES + 2 + len(name) + 4 + len(self._body)
        if size > MOST_BYTES:
            raise PacketError(f"a packet of {size} octets is longer than {MOST_BYTES}")
        head = MARKER + _LENGTH.pack(size) + _VERSION.pack(self.version & 0xFFFF) + _SHORT.pack(len(name)) + name
        return head + _INT.pack(self.kind) + bytes(self._body)


class Packet:
    """A packet that was received, read from the front field by field, its last numbers from the back."""

    __slots__ = ("_at", "_data", "_end", "_start", "capability", "kind", "version")

    _at: int
    _end: int

    def __init__(self, data: bytes) -> None:
        """data: one whole packet. Raises PacketError."""
        size = packet_bytes(data)
        if not size or size != len(data):
            raise PacketError(f"a packet of {size} octets came as {len(data)}")
        self._data = data
        self.version: int = _VERSION.unpack_from(data, 8)[0]
        name_bytes = _SHORT.unpack_from(data, HEADER_BYTES)[0]
        at = HEADER_BYTES + 2 + name_bytes
        if at + 4 > size:
            raise PacketError("the name of the capability is longer than the packet")
        self.capability: str = data[HEADER_BYTES + 2 : at].decode("utf-8", "surrogateescape")
        self.kind: int = _INT.unpack_from(data, at)[0]
        self._start = self._at = at + 4
        self._end = size

    @property
    def left(self) -> int:
        """Octets that were not read yet."""
        return self._end - self._at

    def number(self) -> int:
        """The next number. Raises PacketError when there is none."""
        at = self._at
        if at + 4 > self._end:
            raise PacketError("a number is missing")
        self._at = at + 4
        found: int = _INT.unpack_from(self._data, at)[0]
        return found

    def octets(self) -> bytes:
        """The next text as it came. Raises PacketError when there is none."""
        at = self._at + 2
        if at > self._end:
            raise PacketError("a text is missing")
        end = at + _SHORT.unpack_from(self._data, at - 2)[0]
        if end > self._end:
            raise PacketError("a text is longer than the packet")
        self._at = end
        return self._data[at:end]

    def text(self) -> str:
        """The next text. Raises PacketError when there is none."""
        return self.octets().decode("utf-8", "surrogateescape")

    def count(self, most: int) -> int:
        """The next number, which says how many of something follow. Raises PacketError unless it is 0 to `most`."""
        number = self.number()
        if not 0 <= number <= most:
            raise PacketError(f"{number} of a list are not 0 to {most}")
        return number

    def last_number(self) -> int:
        """Take the last number off. Raises PacketError when there is none."""
        if self._end - 4 < self._at:
            raise PacketError("the packet has no address")
        self._end -= 4
        found: int = _INT.unpack_from(self._data, self._end)[0]
        return found

    def rest(self) -> bytes:
        """Everything that was not read yet, which counts as read."""
        at, self._at = self._at, self._end
        return self._data[at : self._end]

    def part(self, size: int) -> Packet:
        """The next `size` octets as fields of their own. Raises PacketError when there are not so many."""
        if not 0 <= size <= self.left:
            raise PacketError(f"a part of {size} octets is not there")
        found = object.__new__(Packet)
        found._data = self._data
        found.version, found.capability, found.kind = self.version, self.capability, self.kind
        found._start = found._at = self._at
        self._at += size
        found._end = self._at
        return found

    def fields(self) -> bytes:
        """All fields but those that were taken off the end, read or not."""
        return self._data[self._start : self._end]


def packet_bytes(data: bytes) -> int:
    """How long the packet is that begins here; 0 while its length has not come. Raises PacketError for no packet."""
    if data[:4] != MARKER[: len(data)]:
        raise PacketError("no BIN packet")
    if len(data) < HEADER_BYTES:
        return 0
    size: int = _LENGTH.unpack_from(data, 4)[0]
    if not LEAST_BYTES <= size <= MOST_BYTES:
        raise PacketError(f"a packet of {size} octets, {LEAST_BYTES} to {MOST_BYTES} are possible")
    return size
