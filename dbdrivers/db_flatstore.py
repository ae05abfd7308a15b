r"""Rows as lines at the end of text files: the fastest way to keep accounting records. It can insert and nothing else.

A table is the file `<prefix><table>_<worker><suffix>` in the folder of the URL (`<prefix><table><suffix>` with
single_file), its fields in the order in which the module writes them. What could be taken for a delimiter or a line's
end (a delimiter, a backslash, control characters, bytes outside of ASCII) is written as `\xHH`, so that whoever places
a call cannot forge a record. Times are seconds since 1970, NULL is an empty field.

Lines are appended by a thread, a batch in one system call. When the disk is full, the part of a batch that was written
is taken away again; writes that nobody waits for stay queued and are tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from opensipspy.db import Condition, Database, DatabaseError, DbDriver, DbUrl, DbValue, Insert, Table, Write, octets
from opensipspy.management.registry import Json
from opensipspy.module import Module, Param, ParamError, mi_command
from opensipspy.module.blank import blank_run
from opensipspy.script.declare import Catalogue
from opensipspy.script.formats import FormatString, parse_format
from opensipspy.script.kinds import STARTUP

MOST_FILES: Final = 1000
WORKER: Final = 1
NAME: Final = re.compile(r"[A-Za-z0-9_]{1,128}")


def escapes(delimiter: str) -> Mapping[int, str]:
    """What is not printed as it is, of the 256 bytes read as Latin-1."""
    return {code: f"\\x{code:02X}" for code in range(256) if not 0x20 <= code < 0x7F or chr(code) in ("\\", delimiter)}


class FlatDatabase(Database):
    """One folder."""

    def __init__(self, url: DbUrl, driver: DbFlatstore) -> None:
        super().__init__(url)
        text = url.host + url.path
        while text.startswith("//"):
            text = text[1:]
        if not text or "\0" in text or url.user:
            raise DatabaseError(f"{url}: a db_flatstore URL names a folder: flatstore:/path")
        self._folder = Path(text).absolute()
        self._driver = driver
        self._escapes = escapes(driver.delimiter)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="db_flatstore")
        self._files: dict[str, int] = {}
        self._closed = False

    async def select(
        self, table: str, columns: Sequence[str], where: Sequence[Condition] = (), order: str = "", limit: int = 0
    ) -> list[tuple[DbValue, ...]]:
        raise DatabaseError(f"{self.url}: flat files cannot be searched")

    async def raw(self, sql: str, args: Sequence[DbValue] = ()) -> list[tuple[DbValue, ...]]:
        raise DatabaseError(f"{self.url}: flat files take no statements")

    async def check_version(self, table: str, version: int) -> None:
        """Files have no layout of their own."""

    async def ping(self) -> None:
        """A folder always answers."""

    async def execute(self, writes: Sequence[Write]) -> list[int]:
        if not writes:
            return []
        if self._closed:
            raise DatabaseError(f"{self.url}: closed")
        lines: dict[str, list[str]] = {}
        for write in writes:
            if not isinstance(write, Insert):
                raise DatabaseError(f"{self.url}: flat files only take new rows")
            if not NAME.fullmatch(write.table):
                raise DatabaseError(f"{self.url}: {write.table!r} is no name of a table")
            lines.setdefault(write.table, []).append(self.line(write))
        batches = [(self._path(table), "".join(text).encode("ascii")) for table, text in lines.items()]
        running = asyncio.get_running_loop().run_in_executor(self._thread, self._append, batches)
        try:
            await running
        except DatabaseError as error:
            self.note_failure(error)
            raise
        self.note_success()
        return [1] * len(writes)

    def line(self, write: Insert) -> str:
        """The record of a row."""
        return self._driver.delimiter.join([self._field(value) for value in write.row.values()]) + "\n"

    def _field(self, value: Any) -> str:
        if value is None:
            return ""
        if isinstance(value, datetime):
            try:
                return str(int(value.timestamp()))
            except (ValueError, OverflowError):
                raise DatabaseError(f"{self.url}: a time that no clock shows") from None
        if isinstance(value, float):
            return f"{value:f}"
        if isinstance(value, int):
            return str(int(value))
        data = value if isinstance(value, bytes) else octets(str(value))
        return data.decode("latin-1").translate(self._escapes)

    def _path(self, table: str) -> str:
        return self._driver.file_name(self._folder, table)

    # --- in the thread

    def _append(self, batches: Sequence[tuple[str, bytes]]) -> None:
        """All of the batches or none. Raises DatabaseError."""
        done: list[tuple[int, int]] = []
        try:
            for path, data in batches:
                handle = self._open(path)
                before = os.fstat(handle).st_size
                done.append((handle, before))
                left = memoryview(data)
                while left:
                    left = left[os.write(handle, left) :]
                if self._driver.flush:
                    os.fdatasync(handle)
        except OSError as error:
            if not self._driver.single_file:  # other programs may have appended to a shared file
                with contextlib.suppress(OSError):
                    for handle, before in done:
                        os.ftruncate(handle, before)
            raise DatabaseError(f"{self.url}: {error.strerror}", transient=True) from error

    def _open(self, path: str) -> int:
        handle = self._files.get(path)
        if handle is None:
            if len(self._files) >= MOST_FILES:
                self._close_files()
            # Records tell who called whom.
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            self._files[path] = handle
        return handle

    def _close_files(self) -> None:
        for handle in self._files.values():
            os.close(handle)
        self._files.clear()

    async def rotate(self) -> None:
        """Close the files; the next record opens them anew, by their names of then."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close_files)

    async def close(self) -> None:
        if self._closed:
            return
        try:
            await super().close()
        finally:
            self._closed = True
            await self.rotate()
            self._thread.shutdown(wait=False)


class DbFlatstore(Module, DbDriver):
    """Append rows to text files."""

    name = "db_flatstore"
    kind = "sql"
    schemes = ("flatstore",)

    delimiter = Param(str, "|", "One character between fields.")
    flush = Param(int, 1, "1: each batch is on the disk before it counts as written; 0: the system decides.")
    prefix = Param(str, None, "Before the table's name; variables are read at the start and at each rotation.")
    suffix = Param(str, ".log", "Behind the table's name; variables as in prefix.")
    single_file = Param(int, 0, "1: all workers write to the same file.")

    def __init__(self, **params: Any) -> None:
        self.databases: list[FlatDatabase] = []
        self._formats: dict[str, FormatString] = {}
        self._texts: tuple[str, str] | None = None
        super().__init__(**params)

    def set_param(self, name: str, value: object) -> None:
        if name == "delimiter" and (len(str(value)) != 1 or not 0x20 <= ord(str(value)) < 0x7F):
            raise ParamError(self.name, "delimiter", "is one printable character")
        super().set_param(name, value)

    def declare(self, catalogue: Catalogue) -> None:
        super().declare(catalogue)
        for name in ("prefix", "suffix"):
            text = getattr(self, name) or ""
            try:
                self._formats[name] = parse_format(text, catalogue)
            except ValueError as error:
                raise ParamError(self.name, name, str(error)) from error

    async def start(self) -> None:
        self._ends()

    def _ends(self) -> tuple[str, str]:
        """prefix and suffix, their variables replaced; a "/" in them would lead out of the folder."""
        if self._texts is None:
            texts = []
            for name in ("prefix", "suffix"):
                text = self._formats[name](blank_run(self.core, STARTUP))
                texts.append(text.replace("/", "_").replace("\0", "_"))
            self._texts = (texts[0], texts[1])
        return self._texts

    def file_name(self, folder: Path, table: str) -> str:
        """The file of a table."""
        prefix, suffix = self._ends()
        return f"{folder}/{prefix}{table}{'' if self.single_file else f'_{WORKER}'}{suffix}"

    def open_database(self, url: DbUrl) -> FlatDatabase:
        opened = FlatDatabase(url, self)
        self.databases.append(opened)
        return opened

    async def create_tables(self, url: DbUrl, tables: Sequence[Table]) -> list[str]:
        raise DatabaseError(f"{url}: flat files need no tables; make the folder")

    @mi_command("db_flatstore:rotate")
    async def mi_rotate(self) -> Json:
        """Close all files; the next record opens them anew. Move them away before."""
        self._texts = None
        for database in self.databases:
            await database.rotate()
        return "OK"
