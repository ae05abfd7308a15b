"""Where log lines go: standard error or syslog, by OpenSIPS's levels, without ever making the server wait.

Everything in the house logs through `logging`; one handler turns records into lines and hands them to sinks. A sink
that cannot take a line at once (a full pipe, a syslog daemon that is busy) loses lines and counts them. A line that
comes again and again within a short time is written a few times and then summed up, so that a flood of bad packets does
not become a flood of logs.
"""

from __future__ import annotations

import json
import logging
import os
import re
import select
import socket as os_socket
import stat
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, Final

from opensipspy.management import LogConsumer

# OpenSIPS's numbers (log_level), and the level of Python's logging each stands for.
L_ALERT: Final = -3
L_CRIT: Final = -2
L_ERR: Final = -1
L_WARN: Final = 1
L_NOTICE: Final = 2
L_INFO: Final = 3
L_DBG: Final = 4

NOTICE: Final = 25
ALERT: Final = 60
TO_PYTHON: Final = {
    L_ALERT: ALERT,
    L_CRIT: logging.CRITICAL,
    L_ERR: logging.ERROR,
    L_WARN: logging.WARNING,
    L_NOTICE: NOTICE,
    L_INFO: logging.INFO,
    L_DBG: logging.DEBUG,
}
NAMES: Final = {
    L_ALERT: "ALERT",
    L_CRIT: "CRITICAL",
    L_ERR: "ERROR",
    L_WARN: "WARNING",
    L_NOTICE: "NOTICE",
    L_INFO: "INFO",
    L_DBG: "DBG",
}
# syslog(3) severities.
SEVERITIES: Final = {L_ALERT: 1, L_CRIT: 2, L_ERR: 3, L_WARN: 4, L_NOTICE: 5, L_INFO: 6, L_DBG: 7}
FACILITIES: Final = {
    "LOG_KERN": 0,
    "LOG_USER": 1,
    "LOG_MAIL": 2,
    "LOG_DAEMON": 3,
    "LOG_AUTH": 4,
    "LOG_SYSLOG": 5,
    "LOG_LPR": 6,
    "LOG_NEWS": 7,
    "LOG_UUCP": 8,
    "LOG_CRON": 9,
    "LOG_AUTHPRIV": 10,
    "LOG_FTP": 11,
    **{f"LOG_LOCAL{n}": 16 + n for n in range(8)},
}
COLOUR: Final = re.compile(r"(\x1b\[[0-9]{1,2}(?:;[0-9]{1,2}){0,2}m)")
SYSLOG_SOCKET: Final = "/dev/log"

# A line may be written this often in one window; further copies are only counted.
REPEATS: Final = 20
WINDOW_S: Final = 10.0
MOST_TEMPLATES: Final = 512
LINE_BYTES: Final = 8192
# What may wait for a reader of standard error that is slow; the oldest lines are kept, they tell how it began.
BACKLOG_BYTES: Final = 1 << 20


def from_python(levelno: int) -> int:
    """OpenSIPS's number for a level of Python's logging."""
    if levelno >= ALERT:
        return L_ALERT
    if levelno >= logging.CRITICAL:
        return L_CRIT
    if levelno >= logging.ERROR:
        return L_ERR
    if levelno >= logging.WARNING:
        return L_WARN
    if levelno >= NOTICE:
        return L_NOTICE
    return L_INFO if levelno >= logging.INFO else L_DBG


def clamp(level: int) -> int:
    """The nearest level there is; 0 is none of them and stands for errors."""
    if level == 0:
        return L_ERR
    return max(L_ALERT, min(L_DBG, level))


def printable(text: str, *, colours: bool = False) -> str:
    """A text as one line: control characters that a peer could send to forge lines or drive a terminal are shown.

    colours: the sequences that `$C(..)` makes stay what they are (`xlog_force_color`).
    """
    if text.isprintable():
        return text
    if colours:
        pieces = COLOUR.split(text)
        return "".join(piece if i % 2 else printable(piece) for i, piece in enumerate(pieces))
    return "".join(c if c.isprintable() or c == "\t" else _escaped(c) for c in text)


def _escaped(char: str) -> str:
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"
    return f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}"


class Sink(LogConsumer):
    """Takes finished lines. level_filter: highest level it wants, 0 for all. style: plain_text, json or json_cee."""

    name = ""

    def __init__(self, level_filter: int = 0, style: str = "plain_text") -> None:
        self.level_filter = level_filter
        self.muted = False
        self.style = style
        self.lost = 0

    def wants(self, level: int) -> bool:
        return not self.muted and (self.level_filter == 0 or level <= self.level_filter)

    def write(self, level: int, text: str, fields: dict[str, Any]) -> None:
        raise NotImplementedError

    def reopen(self) -> None:
        """Begin anew with what may have been replaced (HUP)."""

    def flush(self) -> None:
        """Write what waits, as far as that is possible at once."""

    def close(self) -> None:
        self.flush()

    def styled(self, level: int, text: str, fields: dict[str, Any]) -> str:
        if self.style == "plain_text":
            return f"{fields['prefix']}{NAMES[level]}:{fields['name']}: {text}"
        document = json.dumps(
            {
                "time": fields["time"],
                "pid": fields["pid"],
                "level": NAMES[level],
                "module": fields["name"],
                "message": text,
                **({"prefix": fields["prefix"]} if fields["prefix"] else {}),
            },
            ensure_ascii=False,
        )
        return f"@cee: {document}" if self.style == "json_cee" else document


class StreamSink(Sink):
    """Standard error, or standard output when the script says `log_stdout`."""

    name = "stderror"

    def __init__(self, descriptor: int, level_filter: int = 0, style: str = "plain_text") -> None:
        super().__init__(level_filter, style)
        self._descriptor = descriptor
        self._backlog = bytearray()
        # A pipe that is said to be writable takes PIPE_BUF bytes without blocking; setting O_NONBLOCK instead would
        # change the descriptor for everybody who shares it.
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._path = file_behind(descriptor)

    def reopen(self) -> None:
        """Write to a new file of the same name when the log is a file: the old one may have been moved away."""
        if not self._path:
            return
        try:
            opened = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError:
            # Rights were given up, or the root is another one by now: the old file goes on.
            self.lost += 1
            return
        os.dup2(opened, self._descriptor)
        os.close(opened)

    def write(self, level: int, text: str, fields: dict[str, Any]) -> None:
        line = self.styled(level, text, fields)
        if self.style == "plain_text":
            line = f"{fields['clock']} [{fields['pid']}] {line}"
        data = line[:LINE_BYTES].encode("utf-8", "backslashreplace") + b"\n"
        if len(self._backlog) + len(data) > BACKLOG_BYTES:
            self.lost += 1
            return
        self._backlog += data
        self.flush()

    def flush(self) -> None:
        while self._backlog:
            try:
                if not self._poll.poll(0):
                    return
                written = os.write(self._descriptor, self._backlog[: select.PIPE_BUF])
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                # Nobody reads any more (a closed terminal or pipe).
                self.lost += 1
                self._backlog.clear()
                return
            del self._backlog[:written]


def file_behind(descriptor: int) -> str:
    """The path of the regular file behind a descriptor; "" for a terminal, a pipe or what cannot be told."""
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        pass
    return ""


class SyslogSink(Sink):
    """The system's log daemon, over its datagram socket, with messages as RFC 3164 shapes them."""

    name = "syslog"

    def __init__(
        self,
        name: str,
        facility: str = "LOG_DAEMON",
        level_filter: int = 0,
        style: str = "plain_text",
        address: str = SYSLOG_SOCKET,
    ) -> None:
        super().__init__(level_filter, style)
        self._name = name
        self._facility = FACILITIES.get(facility.upper(), FACILITIES["LOG_DAEMON"])
        self._address = address
        self._os: os_socket.socket | None = None

    def write(self, level: int, text: str, fields: dict[str, Any]) -> None:
        facility = FACILITIES.get(fields["facility"].upper(), self._facility)
        line = f"<{facility * 8 + SEVERITIES[level]}>{self._name}[{fields['pid']}]: " + self.styled(level, text, fields)
        data = line[:LINE_BYTES].encode("utf-8", "backslashreplace")
        for _ in range(2):
            if self._os is None and not self._connect():
                break
            assert self._os is not None
            try:
                self._os.send(data)
                return
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                # The daemon was restarted: its new socket is another one.
                self.reopen()
        self.lost += 1

    def _connect(self) -> bool:
        made = os_socket.socket(os_socket.AF_UNIX, os_socket.SOCK_DGRAM)
        made.setblocking(False)
        try:
            made.connect(self._address)
        except OSError:
            made.close()
            return False
        self._os = made
        return True

    def reopen(self) -> None:
        if self._os is not None:
            self._os.close()
            self._os = None

    def close(self) -> None:
        self.reopen()


class Repeats:
    """Counts equal lines (equal before their arguments are put in) in windows of time."""

    def __init__(self, now: Callable[[], float], limit: int = REPEATS, window_s: float = WINDOW_S) -> None:
        self._now = now
        self._limit = limit
        self._window_s = window_s
        self._seen: dict[tuple[str, int, str], list[float]] = {}

    def admit(self, key: tuple[str, int, str]) -> tuple[bool, int]:
        """(whether to write the line, how many were left out in the window before it)."""
        now = self._now()
        entry = self._seen.get(key)
        if entry is None or now - entry[0] >= self._window_s:
            left_out = int(entry[1]) - self._limit if entry is not None else 0
            if entry is None and len(self._seen) >= MOST_TEMPLATES:
                self._seen.pop(next(iter(self._seen)))
            self._seen[key] = [now, 1.0]
            return True, max(0, left_out)
        entry[1] += 1.0
        return entry[1] <= self._limit, 0


class LogHandler(logging.Handler):
    """Gives every record of the process to the sinks."""

    def __init__(self, sinks: list[Sink], prefix: str = "", now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.sinks = sinks
        self.prefix = f"{prefix}:" if prefix else ""
        # Whether lines of the script keep their colours.
        self.colours = False
        self._repeats = Repeats(now)
        self._debug = False

    def emit(self, record: logging.LogRecord) -> None:
        level = from_python(record.levelno)
        # xlog() lines are the operator's own: he decides how many. Of accounting, every line counts.
        script = getattr(record, "script", False) or getattr(record, "accounting", False)
        if level != L_DBG and not script:
            admitted, left_out = self._repeats.admit((record.name, record.levelno, str(record.msg)))
            if not admitted:
                return
        else:
            left_out = 0
        try:
            text = record.getMessage()
        except (TypeError, ValueError) as error:
            text = f"{record.msg!r} with {record.args!r}: {error}"
        text = printable(text.rstrip("\r\n"), colours=self.colours and script)
        if left_out:
            text += f" (and {left_out} more like it before)"
        name = record.name.removeprefix("opensipspy.").removeprefix("modules.")
        facility = getattr(record, "facility", "")
        self._write(level, text, name, record.created, str(facility))
        if record.exc_info and record.exc_info[0] is not None:
            for line in "".join(traceback.format_exception(*record.exc_info)).splitlines():
                self._write(level, printable(line), name, record.created)

    def _write(self, level: int, text: str, name: str, created: float, facility: str = "") -> None:
        fields = {
            "facility": facility,
            "pid": os.getpid(),
            "name": name,
            "prefix": self.prefix,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(created)),
            "clock": time.strftime("%b %d %H:%M:%S", time.localtime(created)),
        }
        for sink in self.sinks:
            if sink.wants(level):
                sink.write(level, text, fields)


class Logs:
    """The logging of one server: levels that can change at run time, and the sinks."""

    def __init__(self, logger: logging.Logger, sinks: list[Sink], level: int = L_NOTICE, prefix: str = "") -> None:
        self.configured_level = clamp(level)
        self.level = self.configured_level
        self.handler = LogHandler(sinks, prefix)
        self._logger = logger
        logger.handlers = [self.handler]
        self._before = logger.level, logger.propagate
        logger.propagate = False
        self.set_level(level)

    def set_level(self, level: int | None) -> None:
        """Write lines up to this OpenSIPS level; None restores the configured one."""
        self.level = self.configured_level if level is None else clamp(level)
        self._logger.setLevel(TO_PYTHON[self.level])

    def reopen(self) -> None:
        for sink in self.handler.sinks:
            sink.reopen()

    def flush(self) -> None:
        for sink in self.handler.sinks:
            sink.flush()

    def close(self) -> None:
        for sink in self.handler.sinks:
            sink.close()
        self._logger.removeHandler(self.handler)
        # Another server of this process, or a program around it, finds the logger as it was.
        level, self._logger.propagate = self._before
        self._logger.setLevel(level)

    @property
    def lost(self) -> int:
        """Lines that no sink could take."""
        return sum(sink.lost for sink in self.handler.sinks)


def standard_error_sink(level_filter: int = 0, style: str = "plain_text", *, stdout: bool = False) -> StreamSink:
    """The sink on the process's own descriptor."""
    stream = sys.stdout if stdout else sys.stderr
    return StreamSink(stream.fileno(), level_filter, style)
