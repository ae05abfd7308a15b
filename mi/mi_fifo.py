"""Management commands over a named pipe: `:reply_pipe:{"jsonrpc": "2.0", ...}`."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import stat
from pathlib import Path
from typing import Final

from opensipspy.module import Param, StartError, Timer
from opensipspy.module.door import MiDoor, group_id, user_id

REQUEST_LIMIT: Final = 65536
"""Bytes of one request."""
NAME_LIMIT: Final = 200
"""Bytes of a reply pipe's name."""
RUNNING_LIMIT: Final = 64
"""Requests that are answered at the same time; the pipe is not read while there are more."""
READ_SIZE: Final = 65536
PARTIAL_S: Final = 5.0
"""How long the rest of a request may take to arrive."""
OPEN_RETRY_S: Final = 0.05
OPEN_RETRIES: Final = 40
"""A client opens its reply pipe only after it has written the request."""
WRITE_S: Final = 10.0
"""How long a reader may take to make room for the next piece of an answer."""

_WHITE: Final = b" \t\r\n"
_FORBIDDEN_IN_NAME: Final = frozenset(b"./\\\0")

# Where a request begins, whatever came before: no JSON text has a name in colons before an object with such a member.
_BEGIN: Final = re.compile(
    rb':[^./\\\0: \t\r\n]{0,200}:[ \t\r\n]*\[?[ \t\r\n]*\{[ \t\r\n]*"(?:jsonrpc|method|id|params)"'
)

IDLE, NAME, BODY, JSON, SKIP = range(5)


class Request:
    """One request as it was framed: `reply` is the reply pipe's name, "" when no answer is wanted."""

    __slots__ = ("body", "reply")

    def __init__(self, reply: str, body: bytes) -> None:
        self.reply = reply
        self.body = body


class Framer:
    """Cuts the bytes of the pipe into requests; what is none is skipped to the end of its line or of its write.

    A request ends where its JSON value ends, so it may arrive in pieces and several may arrive at once. A client that
    never finishes its request holds up nobody: the beginning of the next one ends it.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self._state = IDLE
        self._name = bytearray()
        self._body = bytearray()
        self._depth = 0
        self._quoted = False
        self._escaped = False

    @property
    def partial(self) -> bool:
        """Whether a request has begun and not ended."""
        return self._state in (NAME, BODY, JSON)

    def reset(self) -> None:
        """Forget what has begun."""
        self._state = IDLE
        self._name.clear()
        self._body.clear()

    def _refuse(self, reason: str) -> None:
        self.errors.append(reason)
        self.reset()
        self._state = SKIP

    def feed(self, data: bytes) -> list[Request]:
        """The requests that are complete now."""
        found: list[Request] = []
        if self._state == SKIP:
            self._state = IDLE
        at = 0
        for begin in _BEGIN.finditer(data):
            self._read(data[at : begin.start()], found)
            at = begin.start()
            if self.partial:
                self.errors.append("its end did not arrive before the next one")
            self.reset()
        self._read(data[at:], found)
        return found

    def _read(self, data: bytes, found: list[Request]) -> None:
        for byte in data:
            state = self._state
            if state == JSON:
                self._json(byte, found)
            elif state == IDLE:
                if byte == 0x3A:
                    self._state = NAME
                elif byte not in _WHITE:
                    self._refuse("a request begins with ':'")
            elif state == NAME:
                if byte == 0x3A:
                    self._state = BODY
                elif byte in _FORBIDDEN_IN_NAME or byte in _WHITE or len(self._name) >= NAME_LIMIT:
                    self._refuse("the reply pipe's name is no plain file name")
                else:
                    self._name.append(byte)
            elif state == BODY:
                if byte in b"{[":
                    self._state = JSON
                    self._depth = 0
                    self._quoted = self._escaped = False
                    self._json(byte, found)
                elif byte not in _WHITE:
                    self._refuse("the command is no JSON object")
            elif byte == 0x0A:
                self._state = IDLE

    def _json(self, byte: int, found: list[Request]) -> None:
        self._body.append(byte)
        if self._quoted:
            if self._escaped:
                self._escaped = False
            elif byte == 0x5C:
                self._escaped = True
            elif byte == 0x22:
                self._quoted = False
            elif byte == 0x0A:
                # No JSON text has a line end there: the rest of a broken request must not swallow the next one.
                self._refuse("a line end inside a string")
        elif byte == 0x22:
            self._quoted = True
        elif byte in b"{[":
            self._depth += 1
        elif byte in b"}]":
            self._depth -= 1
            if self._depth == 0:
                found.append(Request(self._name.decode("utf-8", "surrogateescape"), bytes(self._body)))
                self.reset()
                return
        if len(self._body) > REQUEST_LIMIT:
            self._refuse(f"a request has at most {REQUEST_LIMIT} bytes")


class MiFifo(MiDoor):
    """Management commands over a named pipe."""

    fifo_name = Param(str, "/tmp/opensips_fifo", "Path of the pipe that commands are written to.")
    fifo_mode = Param(int, 0o660, "Permissions of the pipe.")
    fifo_user = Param((int, str), None, "Owner of the pipe, by name or number.")
    fifo_group = Param((int, str), None, "Group of the pipe, by name or number.")
    reply_dir = Param(str, "/tmp/", "Folder that the clients make their reply pipes in.")

    check = Timer(30, "recreate_if_gone")

    def __init__(self, **params: object) -> None:
        self._fd = -1
        self._framer = Framer()
        self._inside = 0
        self._reading = False
        self._partial: asyncio.TimerHandle | None = None
        super().__init__(**params)

    async def start(self) -> None:
        await super().start()
        if not 0 < self.fifo_mode <= 0o777:
            raise StartError(f"mi_fifo: fifo_mode {self.fifo_mode:o} is no file mode")
        if not Path(self.reply_dir).is_dir():  # noqa: ASYNC240 - once, at the start
            raise StartError(f"mi_fifo: reply_dir {self.reply_dir} is no folder")
        try:
            self._make_folder()
            self._create()
        except OSError as error:
            raise StartError(f"mi_fifo: {self.fifo_name}: {error.strerror or error}") from error

    async def stop(self) -> None:
        self._close(remove=True)

    def _make_folder(self) -> None:
        """Make the pipe's own folder when only that is missing: /run is empty after a boot."""
        folder = Path(self.fifo_name).parent
        if folder.is_dir() or not folder.parent.is_dir():
            return
        folder.mkdir(mode=0o755)
        user, group = user_id(self.fifo_user), group_id(self.fifo_group)
        if user != -1 or group != -1:
            os.chown(folder, user, group)
        self.core.log.info("mi_fifo: made the folder %s", folder)

    def _create(self) -> None:
        """Make the pipe anew and read from it. Raises OSError."""
        user, group = user_id(self.fifo_user), group_id(self.fifo_group)
        try:
            found = os.lstat(self.fifo_name)
        except FileNotFoundError:
            pass
        else:
            if not stat.S_ISFIFO(found.st_mode):
                raise FileExistsError(0, "exists and is no pipe")
            os.unlink(self.fifo_name)
        os.mkfifo(self.fifo_name, 0o600)
        # Open for both: with a writer of our own the pipe never reports its end. Not through a link, and rights are
        # set on what was opened: the folder may be one that others write to.
        fd = os.open(self.fifo_name, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if not stat.S_ISFIFO(os.fstat(fd).st_mode):
                raise FileExistsError(0, "was replaced by something that is no pipe")
            if user != -1 or group != -1:
                os.fchown(fd, user, group)
            os.fchmod(fd, self.fifo_mode)
        except OSError:
            os.close(fd)
            raise
        self._fd = fd
        self._resume()

    def _close(self, *, remove: bool) -> None:
        if self._partial is not None:
            self._partial.cancel()
            self._partial = None
        if self._fd < 0:
            return
        self._pause()
        ours = self._is_in_place()
        os.close(self._fd)
        self._fd = -1
        self._framer.reset()
        if remove and ours:
            os.unlink(self.fifo_name)

    def _is_in_place(self) -> bool:
        """Whether the path still leads to the pipe that is read."""
        try:
            there, here = os.lstat(self.fifo_name), os.fstat(self._fd)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def recreate_if_gone(self) -> None:
        """Somebody may have deleted or replaced the pipe (a cleaner of the temporary folder)."""
        if self._fd >= 0 and self._is_in_place():
            return
        if self._fd >= 0:
            self.core.log.info("mi_fifo: %s is gone, making it anew", self.fifo_name)
        self._close(remove=False)
        try:
            self._create()
        except (OSError, StartError) as error:
            self.core.log.error("mi_fifo: %s cannot be made: %s", self.fifo_name, error)

    # --- requests

    def _resume(self) -> None:
        if not self._reading and self._fd >= 0:
            asyncio.get_running_loop().add_reader(self._fd, self._readable)
            self._reading = True

    def _pause(self) -> None:
        if self._reading:
            asyncio.get_running_loop().remove_reader(self._fd)
            self._reading = False

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, READ_SIZE)
        except BlockingIOError:
            return
        for request in self._framer.feed(data):
            self._inside += 1
            self.core.spawn(self._serve(request), "mi_fifo request")
        for reason in self._framer.errors:
            self.core.log.warning("mi_fifo: request dropped: %s", reason)
        self._framer.errors.clear()
        if self._partial is not None:
            self._partial.cancel()
            self._partial = None
        if self._framer.partial:
            self._partial = asyncio.get_running_loop().call_later(PARTIAL_S, self._give_up)
        if self._inside >= RUNNING_LIMIT:
            self._pause()

    def _give_up(self) -> None:
        self._partial = None
        self._framer.reset()
        self.core.log.warning("mi_fifo: request dropped: its end did not arrive")

    async def _serve(self, request: Request) -> None:
        try:
            response = await self.answer(request.body)
            if response is not None and request.reply:
                await self._reply(request.reply, response + b"\n")
        except OSError as error:
            self.core.log.warning("mi_fifo: no answer through %r: %s", request.reply, error.strerror or error)
        finally:
            self._inside -= 1
            if self._inside < RUNNING_LIMIT:
                self._resume()

    async def _reply(self, name: str, data: bytes) -> None:
        fd = await self._open_reply(os.path.join(self.reply_dir, name))
        try:
            view = memoryview(data)
            while view:
                try:
                    view = view[os.write(fd, view) :]
                except BlockingIOError:
                    await asyncio.wait_for(_writable(fd), WRITE_S)
        finally:
            os.close(fd)

    @staticmethod
    async def _open_reply(path: str) -> int:
        """The writing end of the client's pipe. Raises OSError when it is no pipe of its own or nobody reads it."""
        for attempt in range(OPEN_RETRIES):
            if not stat.S_ISFIFO(os.lstat(path).st_mode):
                raise OSError(0, "it is no pipe")
            try:
                fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError as error:
                # ENXIO: the client has not opened its end yet.
                if error.errno != errno.ENXIO or attempt == OPEN_RETRIES - 1:
                    raise
                await asyncio.sleep(OPEN_RETRY_S)
                continue
            found = os.fstat(fd)
            if not stat.S_ISFIFO(found.st_mode) or found.st_nlink > 1:
                os.close(fd)
                raise OSError(0, "it is no pipe of its own")
            return fd
        raise OSError(0, "nobody reads it")


async def _writable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def room() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(fd, room)
    try:
        await ready
    finally:
        loop.remove_writer(fd)
