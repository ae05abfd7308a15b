"""Records for AAA servers on disk: those that wait for a server, so that they outlive a stop of this one.

A journal of JSON lines, readable by the owner only: `{"n": number, "t": time, "line": for the log, "marks": of the
driver, "attributes": [[name, value], ...]}` for a record that waits and `{"done": [numbers]}` for those that are over.
It is empty again once no record waits. Methods block: call them in a thread, one at a time.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from opensipspy.aaa import Ticket

from .record import Record

MAX_LINE: Final = 1 << 18
"""Octets of one record."""
MAX_FILE: Final = 1 << 28
"""Octets of the journal."""
SPARE: Final = 10_000
"""Lines about records that are over, before the journal is written anew."""
UNREAD: Final = ".unread"

Attributes = list[tuple[str, "str | int | bytes"]]


class SpoolError(Exception):
    """A journal that cannot be used."""


class Waiting:
    """A record that no server has taken. number: its own in the journal, 0 while it is not there."""

    __slots__ = ("attributes", "done", "line", "number", "record", "ticket", "time")

    def __init__(self, attributes: Attributes, time: float, ticket: Ticket, record: Record | None, line: str) -> None:
        self.attributes = attributes
        self.time = time
        self.ticket = ticket
        self.record = record
        self.line = line
        self.number = 0
        self.done = False

    def encoded(self) -> bytes:
        """Its line in the journal."""
        return _encoded(
            {
                "n": self.number,
                "t": self.time,
                "line": self.line,
                "marks": self.ticket.marks,
                "attributes": [
                    [name, value] if isinstance(value, str | int) else [name, value.hex(), "hex"]
                    for name, value in self.attributes
                ],
            }
        )


def _encoded(value: object) -> bytes:
    # Only ASCII: texts of peers that are not UTF-8 come through as they are.
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _decoded(found: dict[str, Any]) -> Waiting:
    attributes: Attributes = []
    for name, value, *kind in found["attributes"]:
        if not isinstance(name, str) or not isinstance(value, str | int):
            raise TypeError(f"{name!r} has no value")
        attributes.append((name, bytes.fromhex(str(value)) if kind else value))
    made = Waiting(attributes, float(found["t"]), Ticket(dict(found["marks"]), again=True), None, str(found["line"]))
    made.number = int(found["n"])
    return made


class Spool:
    """The journal. unread: lines that could not be read at the start; they are in a file beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unread = 0
        self._file = -1
        self._size = 0
        self._next = 1
        self._spare = 0

    def open(self) -> list[Waiting]:
        """Take the journal, and the records of the last run. Raises SpoolError."""
        try:
            self._file = self._locked(self.path)
            with open(self._file, "rb", closefd=False) as file:
                found = self._read(file)
            self._next = max((waiting.number for waiting in found), default=0) + 1
            self.rewrite(found)
        except OSError as error:
            self.close()
            raise SpoolError(f"{self.path}: {error.strerror}") from error
        except SpoolError:
            self.close()
            raise
        return found

    @staticmethod
    def _locked(path: Path) -> int:
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(number)
            raise SpoolError(f"{path}: another server uses it") from None
        return number

    def _read(self, lines: Iterable[bytes]) -> list[Waiting]:
        found: dict[int, Waiting] = {}
        bad: list[bytes] = []
        for line in lines:
            try:
                value = json.loads(line)
                if "done" in value:
                    for number in value["done"]:
                        found.pop(int(number), None)
                else:
                    waiting = _decoded(value)
                    found[waiting.number] = waiting
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                bad.append(line)
        self.unread = len(bad)
        if bad:
            beside = self.path.with_name(self.path.name + UNREAD)
            number = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with open(number, "wb") as file:
                file.write(b"\n".join(line.rstrip(b"\n") for line in bad) + b"\n")
        return [found[number] for number in sorted(found)]

    @property
    def crowded(self) -> bool:
        """Whether the journal should be written anew."""
        return self._spare > SPARE

    def keep(self, records: Sequence[Waiting], done: Sequence[int], left: int) -> list[Waiting]:
        """Write down records that wait, and that others do no more. left: how many wait in the journal then.

        Returns those for which there is no room. Raises OSError; the journal is as before then.
        """
        if not left and not records:
            os.ftruncate(self._file, 0)
            self._size = self._spare = 0
            return []
        lines = [_encoded({"done": list(done)})] if done else []
        size = self._size + sum(map(len, lines))
        refused, numbered = [], []
        for waiting in records:
            waiting.number = self._next
            line = waiting.encoded()
            if len(line) > MAX_LINE or size + len(line) > MAX_FILE:
                waiting.number = 0
                refused.append(waiting)
                continue
            self._next += 1
            size += len(line)
            lines.append(line)
            numbered.append(waiting)
        try:
            self._append(b"".join(lines))
        except OSError:
            for waiting in numbered:
                waiting.number = 0
            raise
        self._spare += len(done)
        return refused

    def _append(self, data: bytes) -> None:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._file, view) :]
            os.fdatasync(self._file)
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(data)

    def rewrite(self, records: Sequence[Waiting]) -> None:
        """Write the journal anew, with these records only. Raises OSError; the journal is as before then, and it is
        some time until it is `crowded` again.
        """
        self._spare = 0
        other = self.path.with_name(self.path.name + ".new")
        other.unlink(missing_ok=True)
        number = self._locked(other)
        try:
            with open(number, "wb", closefd=False) as file:
                for waiting in records:
                    file.write(waiting.encoded())
                file.flush()
                os.fsync(number)
                size = file.tell()
            other.replace(self.path)
        except OSError:
            os.close(number)
            other.unlink(missing_ok=True)
            raise
        os.close(self._file)
        self._file, self._size = number, size

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
