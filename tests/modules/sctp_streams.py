"""A kernel that has one-to-one sockets of SCTP, played with local sockets that keep the bounds of messages."""

from __future__ import annotations

import errno
import itertools
import os
import socket
from types import ModuleType
from typing import Any

import pytest

from opensipspy.modules.aaa_diameter import sctp

HOST = "127.0.0.1"
SEND_PARAM = 10


class OneToOne:
    """One socket of SOCK_STREAM over SCTP: a listening one, or an association."""

    def __init__(self, kernel: Streams, made: socket.socket | None = None) -> None:
        self.kernel = kernel
        self.options: dict[tuple[int, int], Any] = {}
        self.history: list[bytes] = []
        self.sent: list[tuple[bytes, bytes]] = []
        self.peer: tuple[str, int] = (HOST, 0)
        self.own: tuple[str, int] = (HOST, 0)
        self._rest = b""
        self._os = made or socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def _place(self, address: tuple[str, int]) -> str:
        return f"\0{self.kernel.name}-{address[0]}-{address[1]}"

    def setblocking(self, flag: bool) -> None:
        assert not flag
        self._os.setblocking(False)

    def setsockopt(self, level: int, name: int, value: Any) -> None:
        if level == socket.IPPROTO_SCTP and name in self.kernel.refused:
            raise OSError(errno.ENOPROTOOPT, "Protocol not available")
        self.options[level, name] = value

    def getsockopt(self, level: int, name: int) -> int:
        assert (level, name) == (socket.SOL_SOCKET, socket.SO_ERROR)
        return self.kernel.connect_error

    def bind(self, address: tuple[str, int]) -> None:
        self.own = (address[0], address[1] or next(self.kernel.ports))
        self._os.bind(self._place(self.own))

    def listen(self, backlog: int) -> None:
        self._os.listen(backlog)

    def accept(self) -> tuple[OneToOne, tuple[str, int]]:
        if self.kernel.accept_errors:
            raise self.kernel.accept_errors.pop()
        made, _ = self._os.accept()
        found = OneToOne(self.kernel, made)
        found.own, found.peer = self.own, (HOST, next(self.kernel.ports))
        self.kernel.accepted.append(found)
        return found, found.peer

    def connect_ex(self, address: tuple[str, int]) -> int:
        self.peer = address[:2]
        if address[1] in self.kernel.silent:
            # Nothing ever becomes of it: a socket that takes nothing more.
            self._os.close()
            self._os, self._far = socket.socketpair()
            self._os.setblocking(False)
            while True:
                try:
                    self._os.send(bytes(65536))
                except BlockingIOError:
                    return errno.EINPROGRESS
        code = self._os.connect_ex(self._place(self.peer))
        if not code:
            self.kernel.connected.append(self)
        return errno.EINPROGRESS if self.kernel.slow and not code else code

    def getpeername(self) -> tuple[str, int]:
        return self.peer

    def getsockname(self) -> tuple[str, int]:
        return self.own

    def send(self, data: bytes) -> int:
        self._os.send(data)
        self.sent.append((data, self.options.get((socket.IPPROTO_SCTP, SEND_PARAM), b"")))
        return len(data)

    def recvmsg(self, size: int) -> tuple[bytes, list[Any], int, Any]:
        data = self._rest or self._os.recv(1 << 21)
        size = min(size, self.kernel.piece)
        found, self._rest = data[:size], data[size:]
        return found, [], 0 if self._rest else socket.MSG_EOR, None

    def fileno(self) -> int:
        return self._os.fileno()

    def close(self) -> None:
        self._os.close()
        if hasattr(self, "_far"):
            self._far.close()


class Streams(ModuleType):
    """The module `socket` of a system with SCTP.

    refused: options that its kernel does not know. silent: ports that never answer. slow: associations take a turn of
    the loop. piece: the most that one call hands over.
    """

    def __init__(self) -> None:
        super().__init__("socket")
        self.name = f"sctp-{os.getpid()}-{id(self)}"
        self.ports = itertools.count(40000)
        self.refused: tuple[int, ...] = ()
        self.silent: set[int] = set()
        self.slow = False
        self.connect_error = 0
        self.piece = 1 << 20
        self.accept_errors: list[OSError] = []
        self.connected: list[OneToOne] = []
        self.accepted: list[OneToOne] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(socket, name)

    def socket(self, family: int, kind: int, proto: int) -> OneToOne:
        """What connect() and listen() ask for."""
        assert family in (socket.AF_INET, socket.AF_INET6)
        assert (kind, proto) == (socket.SOCK_STREAM, socket.IPPROTO_SCTP)
        return OneToOne(self)


def play_streams(monkeypatch: pytest.MonkeyPatch) -> Streams:
    """Give SCTP to Diameter."""
    made = Streams()
    monkeypatch.setattr(sctp, "os_socket", made)
    return made
