"""Diameter messages as octets (RFC 6733 §3, §4): the header, AVPs, and where one message ends on a stream.

Pure. Everything from outside has a limit: the length of a message, the number of its AVPs, their nesting.
"""

from __future__ import annotations

import struct
from typing import Final

VERSION: Final = 1
HEADER_SIZE: Final = 20
MAX_MESSAGE: Final = 1 << 20
"""Octets of a message; the length field would allow 16 MiB."""
MAX_FIRST: Final = 1 << 16
"""Octets of a message of somebody who has not said yet who he is."""
MAX_AVPS: Final = 4096
"""AVPs of one message, those in groups counted."""
MAX_DEPTH: Final = 16
"""Groups within groups."""

# Command flags (§3).
REQUEST: Final = 0x80
PROXIABLE: Final = 0x40
ERROR: Final = 0x20
RETRANSMITTED: Final = 0x10

# AVP flags (§4.1).
VENDOR: Final = 0x80
MANDATORY: Final = 0x40

CAPABILITIES_EXCHANGE: Final = 257
DEVICE_WATCHDOG: Final = 280
DISCONNECT_PEER: Final = 282
RELAY_APPLICATION: Final = 0xFFFFFFFF

SUCCESS: Final = 2001
COMMAND_UNSUPPORTED: Final = 3001
UNABLE_TO_DELIVER: Final = 3002
REALM_NOT_SERVED: Final = 3003
TOO_BUSY: Final = 3004
APPLICATION_UNSUPPORTED: Final = 3007
UNKNOWN_PEER: Final = 3010
ELECTION_LOST: Final = 4003
AVP_UNSUPPORTED: Final = 5001
MISSING_AVP: Final = 5005
NO_COMMON_APPLICATION: Final = 5010

_HEADER: Final = struct.Struct("!IIIII")
_AVP: Final = struct.Struct("!II")
_WORD: Final = struct.Struct("!I")


class DiameterError(ValueError):
    """Octets that are no Diameter message, or one above a limit."""


class Avp:
    """One attribute-value pair. data: the octets of its value, without padding. vendor: 0 for the IETF's own."""

    __slots__ = ("code", "data", "flags", "vendor")

    def __init__(self, code: int, data: bytes, vendor: int = 0, flags: int = MANDATORY) -> None:
        self.code = code
        self.data = data
        self.vendor = vendor
        self.flags = flags | VENDOR if vendor else flags & ~VENDOR

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Avp) and (self.code, self.data, self.vendor, self.flags) == (
            other.code,
            other.data,
            other.vendor,
            other.flags,
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        # Values stay out: keys and vectors are among them, and these land in logs.
        return f"Avp({self.code}/{self.vendor}, {len(self.data)} octets)"


class Message:
    """A request or an answer. hop_by_hop finds the request again on one connection, end_to_end finds duplicates."""

    __slots__ = ("application", "avps", "command", "end_to_end", "flags", "hop_by_hop")

    def __init__(
        self,
        command: int,
        application: int,
        flags: int,
        avps: list[Avp] | None = None,
        hop_by_hop: int = 0,
        end_to_end: int = 0,
    ) -> None:
        self.command = command
        self.application = application
        self.flags = flags
        self.avps = avps if avps is not None else []
        self.hop_by_hop = hop_by_hop
        self.end_to_end = end_to_end

    @property
    def is_request(self) -> bool:
        return bool(self.flags & REQUEST)

    @property
    def is_error(self) -> bool:
        return bool(self.flags & ERROR)

    def find(self, code: int, vendor: int = 0) -> Avp | None:
        """The first AVP of a code at the top level."""
        for avp in self.avps:
            if avp.code == code and avp.vendor == vendor:
                return avp
        return None

    def text(self, code: int) -> str:
        """The first AVP of a code as text; "" when it is absent."""
        avp = self.find(code)
        return "" if avp is None else avp.data.decode("utf-8", "surrogateescape")

    def number(self, code: int) -> int | None:
        """The first AVP of a code as Unsigned32; None when it is absent or of another size."""
        avp = self.find(code)
        return None if avp is None or len(avp.data) != 4 else int(_WORD.unpack(avp.data)[0])

    def __repr__(self) -> str:
        kind = "request" if self.is_request else "answer"
        return f"{kind} {self.command} of application {self.application}, {len(self.avps)} AVPs"


def encode_avps(avps: list[Avp]) -> bytes:
    """AVPs one after the other, each padded to four octets. DiameterError when one is too long."""
    parts = []
    for avp in avps:
        size = len(avp.data)
        head = 12 if avp.vendor else 8
        if head + size > MAX_MESSAGE:
            raise DiameterError(f"AVP {avp.code} has {size} octets")
        parts.append(_AVP.pack(avp.code, avp.flags << 24 | head + size))
        if avp.vendor:
            parts.append(_WORD.pack(avp.vendor))
        parts.append(avp.data)
        if size & 3:
            parts.append(b"\0" * (4 - (size & 3)))
    return b"".join(parts)


def encode(message: Message) -> bytes:
    """A message as it goes on the wire. DiameterError when it is above MAX_MESSAGE."""
    body = encode_avps(message.avps)
    size = HEADER_SIZE + len(body)
    if size > MAX_MESSAGE:
        raise DiameterError(f"the message has {size} octets, {MAX_MESSAGE} are the most")
    return (
        _HEADER.pack(
            VERSION << 24 | size,
            message.flags << 24 | message.command,
            message.application,
            message.hop_by_hop,
            message.end_to_end,
        )
        + body
    )


def decode_avps(data: bytes, limit: int = MAX_AVPS) -> list[Avp]:
    """The AVPs of a message or of a group; groups in it stay octets. DiameterError when they do not fit."""
    found: list[Avp] = []
    at, end = 0, len(data)
    while at < end:
        if end - at < 8:
            raise DiameterError("octets are left over behind the last AVP")
        if len(found) >= limit:
            raise DiameterError(f"more than {limit} AVPs")
        code, word = _AVP.unpack_from(data, at)
        flags, size = word >> 24, word & 0xFFFFFF
        head = 12 if flags & VENDOR else 8
        if size < head or at + size > end:
            raise DiameterError(f"AVP {code} has a length of {size}, {end - at} octets are left")
        vendor = int(_WORD.unpack_from(data, at + 8)[0]) if flags & VENDOR else 0
        avp = Avp(code, data[at + head : at + size], vendor, flags)
        # The flag stays as it came, though vendor 0 means the same as none.
        avp.flags = flags
        found.append(avp)
        at += size + 3 & ~3
    return found


def decode(data: bytes) -> Message:
    """One whole message. DiameterError for anything else."""
    if len(data) < HEADER_SIZE:
        raise DiameterError(f"{len(data)} octets are no message")
    first, second, application, hop_by_hop, end_to_end = _HEADER.unpack_from(data)
    check_start(first)
    if first & 0xFFFFFF != len(data):
        raise DiameterError(f"the message says it has {first & 0xFFFFFF} octets, these are {len(data)}")
    avps = decode_avps(data[HEADER_SIZE:])
    return Message(second & 0xFFFFFF, application, second >> 24, avps, hop_by_hop, end_to_end)


def check_start(word: int, most: int = MAX_MESSAGE) -> int:
    """The length in the first four octets of a message. DiameterError when they can start none."""
    size = word & 0xFFFFFF
    if word >> 24 != VERSION:
        raise DiameterError(f"version {word >> 24}")
    if size < HEADER_SIZE or size & 3 or size > most:
        raise DiameterError(f"a message of {size} octets")
    return size


class Framer:
    """Cuts what arrives on a stream into messages. most: octets of one."""

    __slots__ = ("_kept", "most")

    def __init__(self, most: int = MAX_MESSAGE) -> None:
        self.most = most
        self._kept = bytearray()

    @property
    def waiting(self) -> int:
        """Octets of a message that is not complete yet."""
        return len(self._kept)

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are complete now. DiameterError: no message can start here, the stream is lost."""
        kept = self._kept
        kept += data
        found = []
        at = 0
        while len(kept) - at >= 4:
            size = check_start(_WORD.unpack_from(kept, at)[0], self.most)
            if len(kept) - at < size:
                break
            found.append(bytes(kept[at : at + size]))
            at += size
        if at:
            del kept[:at]
        return found
