"""A kernel that has SCTP, played with datagrams over loopback: what one-to-many sockets of Linux say, in their form."""

from __future__ import annotations

import asyncio
import socket
import struct
from types import ModuleType
from typing import Any

import pytest

from opensipspy.net import sctp
from tests.server.house import PATIENCE_S

NOTIFICATION = 0x8000
UP, LOST, RESTART, SHUT, CANNOT_START = range(5)
# Before what a peer sends, when it is not one whole message.
TOLD = b"\x00told"


def change(state: int, association: int = 1) -> bytes:
    """struct sctp_assoc_change (RFC 6458 §6.1.1)."""
    return struct.pack("=HHIHHHHi", 0x8001, 0, 20, state, 0, 10, 10, association)


class OneToMany:
    """One socket of SOCK_SEQPACKET over SCTP."""

    def __init__(self, kernel: Kernel, family: int) -> None:
        self.kernel = kernel
        self.options: dict[tuple[int, int], Any] = {}
        self.aborted: list[tuple[int, str]] = []
        self.backlog = 0
        self._os = socket.socket(family, socket.SOCK_DGRAM)

    def setblocking(self, flag: bool) -> None:
        assert not flag
        self._os.setblocking(False)

    def setsockopt(self, level: int, name: int, value: Any) -> None:
        if level == socket.IPPROTO_SCTP and name in self.kernel.refused:
            raise OSError(92, "Protocol not available")
        self.options[level, name] = value

    def bind(self, address: tuple[str, int]) -> None:
        self._os.bind(address)

    def listen(self, backlog: int) -> None:
        self.backlog = backlog

    def fileno(self) -> int:
        return self._os.fileno()

    def close(self) -> None:
        self._os.close()

    def recvmsg(self, size: int) -> tuple[bytes, list[Any], int, Any]:
        if self.kernel.receive_errors:
            raise self.kernel.receive_errors.pop()
        data, address = self._os.recvfrom(65535)
        flags = socket.MSG_EOR
        if data.startswith(TOLD):
            flags, repeat, port = struct.unpack_from("=III", data, len(TOLD))
            data = data[len(TOLD) + 12 :] * repeat
            address = (address[0], port or address[1]) if port != 1 else (address[0], 0)
        assert len(data) <= size
        return data, [], flags, address

    def sendto(self, data: bytes, address: tuple[str, int]) -> int:
        if self.kernel.send_errors:
            raise self.kernel.send_errors.pop()
        return self._os.sendto(data, address)

    def sendmsg(self, buffers: list[bytes], ancillary: list[tuple[int, int, bytes]], flags: int, address: Any) -> int:
        assert (buffers, flags) == ([], 0)
        ((level, kind, info),) = ancillary
        assert (level, kind) == (socket.IPPROTO_SCTP, 1)
        found = struct.unpack("=HHHxxIIIIIi", info)
        assert found[2] == 4, "SCTP_ABORT"
        self.aborted.append((found[-1], address[0]))
        return 0


class Kernel(ModuleType):
    """The module `socket` of a system with SCTP. refused: options that its kernel does not know."""

    def __init__(self, refused: tuple[int, ...] = ()) -> None:
        super().__init__("socket")
        self.refused = refused
        self.made: list[OneToMany] = []
        self.send_errors: list[OSError] = []
        self.receive_errors: list[OSError] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(socket, name)

    def socket(self, family: int, kind: int, proto: int) -> OneToMany:
        """What bind() asks for."""
        assert (kind, proto) == (socket.SOCK_SEQPACKET, socket.IPPROTO_SCTP)
        self.made.append(OneToMany(self, family))
        return self.made[-1]


class Far:
    """A peer; what it sends arrives as one message unless it says otherwise."""

    def __init__(self, port: int) -> None:
        self._os = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._os.bind(("127.0.0.1", 0))
        self._os.connect(("127.0.0.1", port))
        self._os.setblocking(False)
        self.port = self._os.getsockname()[1]

    def send(self, data: bytes) -> None:
        self._os.send(data)

    def piece(self, data: bytes, *, repeat: int = 1, last: bool = False) -> None:
        """A part of a message, `repeat` times in a row."""
        self._os.send(TOLD + struct.pack("=III", socket.MSG_EOR if last else 0, repeat, 0) + data)

    def becomes(self, state: int, *, port: int = 0, association: int = 1) -> None:
        """The kernel tells of the association with this peer, or with one at another port."""
        data = change(state, association)
        self._os.send(TOLD + struct.pack("=III", NOTIFICATION | socket.MSG_EOR, 1, port) + data)

    def tells(self, data: bytes) -> None:
        """Some other notification."""
        self._os.send(TOLD + struct.pack("=III", NOTIFICATION | socket.MSG_EOR, 1, 0) + data)

    def from_nowhere(self, data: bytes) -> None:
        """A message from port 0."""
        self._os.send(TOLD + struct.pack("=III", socket.MSG_EOR, 1, 1) + data)

    async def receive(self) -> bytes:
        """What we send to it."""
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self._os, 65535), PATIENCE_S)

    def close(self) -> None:
        self._os.close()


def play_kernel(monkeypatch: pytest.MonkeyPatch, refused: tuple[int, ...] = ()) -> Kernel:
    """Give SCTP to the transport."""
    made = Kernel(refused)
    monkeypatch.setattr(sctp, "os_socket", made)
    return made
