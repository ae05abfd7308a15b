"""The process around the server: background, user, working directory, pid file, and who waits for it to be ready."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import socket as os_socket
from pathlib import Path
from typing import Final

# What the parent of a background server is told.
STARTED: Final = b"+"


class ProcessError(Exception):
    """The process cannot be arranged as the operator wants; the text says why."""


def detach() -> int:
    """Go to the background (two forks and a session of its own).

    Returns, in the server's process, the descriptor to report the start on with `report_started`. The first process
    never returns: it waits for the report and ends with 0, or with 1 when the server ended before.
    """
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        with open(reader, "rb") as pipe:
            started = pipe.read(1) == STARTED
        os._exit(0 if started else 1)
    os.close(reader)
    os.setsid()
    if os.fork():
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    return writer


def report_started(descriptor: int) -> None:
    """Tell the waiting parent that the server runs, and let go of the terminal."""
    with contextlib.suppress(OSError):
        os.write(descriptor, STARTED)
    os.close(descriptor)


def release_terminal(*, keep_stderr: bool) -> None:
    """Give standard output, and standard error when nothing is logged to it, to nobody."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    if not keep_stderr:
        os.dup2(null, 2)
    os.close(null)


class PidFile:
    """The file that tells the server's process id."""

    def __init__(self, path: str) -> None:
        self.path = Path(path).absolute()

    def write(self, number: int) -> None:
        """Raises ProcessError when another server lives behind the file, or when it cannot be written."""
        try:
            old = int(self.path.read_text(encoding="ascii").strip() or "0")
        except (FileNotFoundError, ValueError, UnicodeDecodeError):
            old = 0
        except OSError as error:
            raise ProcessError(f"pid file {self.path}: {error.strerror}") from error
        if old > 0 and old != number and process_lives(old):
            raise ProcessError(f"pid file {self.path}: process {old} is running")
        try:
            self.path.write_text(f"{number}\n", encoding="ascii")
        except OSError as error:
            raise ProcessError(f"pid file {self.path}: {error.strerror}") from error

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink()


def process_lives(number: int) -> bool:
    """Whether a process of that id exists."""
    try:
        os.kill(number, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return True


def find_ids(user: str, group: str) -> tuple[int, int]:
    """User and group id by name or number, -1 for "as it is". A user brings his own group. Raises ProcessError."""
    uid = gid = -1
    if user:
        try:
            entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
            uid, gid = entry.pw_uid, entry.pw_gid
        except KeyError:
            if not user.isdigit():
                raise ProcessError(f"there is no user {user!r}") from None
            uid = int(user)
    if group:
        try:
            gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise ProcessError(f"there is no group {group!r}") from None
    return uid, gid


def become(uid: int, gid: int, user: str) -> None:
    """Take on user and group for good. Raises ProcessError."""
    try:
        if gid >= 0 and gid != os.getgid():
            if os.getuid() == 0:
                os.setgroups([gid])
            os.setgid(gid)
        if uid >= 0 and uid != os.getuid():
            if user and not user.isdigit() and os.getuid() == 0:
                os.initgroups(user, gid if gid >= 0 else os.getgid())
            os.setuid(uid)
    except OSError as error:
        raise ProcessError(f"cannot become user {uid}, group {gid}: {error.strerror}") from error


def enter(folder: str, *, root: bool) -> None:
    """Make a folder the working directory, or the root of what the process sees. Raises ProcessError."""
    try:
        if root:
            os.chroot(folder)
            os.chdir("/")
        else:
            os.chdir(folder)
    except OSError as error:
        raise ProcessError(f"cannot {'change root' if root else 'change'} to {folder}: {error.strerror}") from error


class Readiness:
    """Tells the service manager how it goes (systemd's sd_notify protocol); silent when nobody asked."""

    def __init__(self, address: str) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address

    def tell(self, text: str) -> None:
        if not self._address:
            return
        with os_socket.socket(os_socket.AF_UNIX, os_socket.SOCK_DGRAM) as made, contextlib.suppress(OSError):
            made.setblocking(False)
            made.sendto(text.encode(), self._address)
