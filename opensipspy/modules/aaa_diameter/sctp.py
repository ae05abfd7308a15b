"""Diameter over SCTP (RFC 6733 §2.1.1): one-to-one sockets of the kernel, each message one message of SCTP.

All go over stream 0; unordered, so that one that is lost holds up none behind it, once the peer has shown that the
connection is open at its end. The kernel sends heartbeats and retransmits; options that it refuses are done without.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket as os_socket
import struct
from collections import deque
from typing import Final

from opensipspy.modules.aaa_diameter.codec import MAX_MESSAGE, DiameterError
from opensipspy.modules.aaa_diameter.wire import READ_SIZE, Wire

BACKLOG: Final = 128
CONNECT_S: Final = 5.0
"""How long an association may take to come about, before TCP is tried."""
PPID: Final = 46
"""The payload is Diameter in clear text (RFC 6733 §2.1.1)."""
ATTEMPTS: Final = 3
ATTEMPT_MS: Final = 1000
RETRANSMISSIONS: Final = 5
UNORDERED: Final = 1
DRAIN: Final = 16
"""Messages of one association that are worked on in one turn of the loop."""

# Of Linux's <linux/sctp.h> (RFC 6458 §8.1); Python names none of them.
SCTP_ASSOCINFO: Final = 1
SCTP_INITMSG: Final = 2
SCTP_NODELAY: Final = 3
SCTP_DEFAULT_SEND_PARAM: Final = 10
# streams out, streams in, attempts, longest wait in ms
INIT_MESSAGE: Final = struct.Struct("=HHHH")
# association, retransmissions, peer's addresses, its window, our window, life of a cookie
ASSOCIATION_PARAMS: Final = struct.Struct("=iHHIII")
# stream, ssn, flags, ppid (in network order), context, time to live in ms, tsn, cumtsn, association
SNDRCV_INFO: Final = struct.Struct("=HHHxxIIIIIi")


def available() -> bool:
    """Whether the kernel has SCTP."""
    try:
        _socket(os_socket.AF_INET).close()
    except OSError:
        return False
    return True


def _socket(family: int) -> os_socket.socket:
    try:
        return os_socket.socket(family, os_socket.SOCK_STREAM, os_socket.IPPROTO_SCTP)
    except OSError as error:
        if error.errno in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT):
            raise OSError(error.errno, "this kernel has no SCTP (Linux: load its module sctp)") from None
        raise


def _prepared(family: int, streams: int) -> os_socket.socket:
    made = _socket(family)
    made.setblocking(False)
    level = os_socket.IPPROTO_SCTP
    wishes: tuple[tuple[int, int | bytes], ...] = (
        (SCTP_NODELAY, 1),
        (SCTP_INITMSG, INIT_MESSAGE.pack(streams, streams, ATTEMPTS, ATTEMPT_MS)),
        (SCTP_ASSOCINFO, ASSOCIATION_PARAMS.pack(0, RETRANSMISSIONS, 0, 0, 0, 0)),
    )
    for name, value in wishes:
        with contextlib.suppress(OSError):
            made.setsockopt(level, name, value)
    return made


class SctpWire(Wire):
    """One association."""

    kind = "SCTP"
    whole = True

    def __init__(self, made: os_socket.socket) -> None:
        super().__init__(str(made.getpeername()[0]), str(made.getsockname()[0]))
        self._socket = made
        self._loop = asyncio.get_running_loop()
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._over = False
        self._messages = 0
        self._reading: asyncio.Future[None] | None = None
        self._empty: asyncio.Future[None] | None = None
        self._send_with(0)

    def _send_with(self, flags: int) -> None:
        # A kernel that refuses it sends in order and names no payload, which every receiver understands.
        with contextlib.suppress(OSError):
            info = SNDRCV_INFO.pack(0, 0, flags, os_socket.htonl(PPID), 0, 0, 0, 0, 0)
            self._socket.setsockopt(os_socket.IPPROTO_SCTP, SCTP_DEFAULT_SEND_PARAM, info)

    def heard(self) -> None:
        self._send_with(UNORDERED)

    # --- in

    async def read(self) -> bytes:
        parts = bytearray()
        while not self._over:
            try:
                data, _ancillary, flags, _address = self._socket.recvmsg(READ_SIZE)
            except (BlockingIOError, InterruptedError):
                await self._readable()
                continue
            if not data:
                break
            parts += data
            if len(parts) > MAX_MESSAGE:
                raise DiameterError(f"a message of more than {MAX_MESSAGE} octets")
            if flags & os_socket.MSG_EOR:
                self._messages += 1
                if not self._messages % DRAIN:
                    # What has come already is read without waiting: others get their turn.
                    await asyncio.sleep(0)
                return bytes(parts)
        return b""

    async def _readable(self) -> None:
        self._reading = self._loop.create_future()
        self._loop.add_reader(self._socket.fileno(), _wake, self._reading)
        try:
            await self._reading
        finally:
            self._reading = None
            if not self._over:
                self._loop.remove_reader(self._socket.fileno())

    # --- out

    def write(self, data: bytes) -> None:
        if self._over:
            return
        if not self._queue:
            if self._sent(data):
                return
            self._loop.add_writer(self._socket.fileno(), self._writable)
        self._queue.append(data)
        self._size += len(data)

    def _sent(self, data: bytes) -> bool:
        """Whether a message left; a broken association drops it, as reading will tell."""
        try:
            # All of a message is taken, or nothing.
            self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            pass
        return True

    def _writable(self) -> None:
        while self._queue and self._sent(self._queue[0]):
            self._size -= len(self._queue.popleft())
        if not self._queue:
            self._loop.remove_writer(self._socket.fileno())
            if self._empty is not None:
                _wake(self._empty)

    def waiting(self) -> int:
        return self._size

    async def drain(self) -> None:
        while self._queue and not self._over:
            self._empty = self._loop.create_future()
            try:
                await self._empty
            finally:
                self._empty = None

    def abort(self) -> None:
        if self._over:
            return
        self._over = True
        number = self._socket.fileno()
        self._loop.remove_reader(number)
        self._loop.remove_writer(number)
        # The kernel still delivers what it has taken, then shuts the association down.
        self._socket.close()
        self._queue.clear()
        self._size = 0
        for waiting in (self._reading, self._empty):
            if waiting is not None:
                _wake(waiting)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def connect(host: str, port: int, streams: int) -> SctpWire:
    """An association with a peer, with the first of its addresses that answers. OSError, TimeoutError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=os_socket.SOCK_STREAM)
    failure: OSError = OSError(f"{host} has no address")
    for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
        made = _prepared(family, streams)
        try:
            async with asyncio.timeout(CONNECT_S):
                await _connected(made, address)
            return SctpWire(made)
        except TimeoutError:
            made.close()
            failure = TimeoutError(errno.ETIMEDOUT, "no answer over SCTP")
        except OSError as error:
            made.close()
            failure = error
        except BaseException:
            made.close()
            raise
    raise failure


async def _connected(made: os_socket.socket, address: object) -> None:
    loop = asyncio.get_running_loop()
    code = made.connect_ex(address)  # type: ignore[arg-type]
    if code in (errno.EINPROGRESS, errno.EINTR):
        done: asyncio.Future[None] = loop.create_future()
        loop.add_writer(made.fileno(), _wake, done)
        try:
            await done
        finally:
            loop.remove_writer(made.fileno())
        code = made.getsockopt(os_socket.SOL_SOCKET, os_socket.SO_ERROR)
    if code:
        raise OSError(code, f"{errno.errorcode.get(code, code)} over SCTP")


def listen(address: str, port: int, streams: int) -> os_socket.socket:
    """A socket that takes associations. OSError when there is no SCTP or the port is taken."""
    is_v6 = ":" in address
    made = _prepared(os_socket.AF_INET6 if is_v6 else os_socket.AF_INET, streams)
    try:
        made.setsockopt(os_socket.SOL_SOCKET, os_socket.SO_REUSEADDR, 1)
        if is_v6:
            made.setsockopt(os_socket.IPPROTO_IPV6, os_socket.IPV6_V6ONLY, 1)
        made.bind((address, port))
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def accept(listening: os_socket.socket) -> SctpWire | None:
    """The next association, if there is one. OSError when the system has no room for it."""
    try:
        made, _ = listening.accept()
    except (BlockingIOError, InterruptedError, ConnectionError):
        return None
    made.setblocking(False)
    try:
        return SctpWire(made)
    except OSError:
        # It was over before we looked.
        made.close()
        return None
