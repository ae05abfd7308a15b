"""Tables in text files, one file a table, one folder a database: OpenSIPS's dbtext format.

The files are loaded into an SQLite database in memory, so that conditions, orders, transactions and raw SQL are as they
are everywhere; what was changed is written back by `db_text:dump` and when the server stops, whole or not at all, to a
file that takes the old one's place. Meant for demonstrations and small devices: everything is in memory and a crash
loses what was not dumped, as with OpenSIPS.

A table's first line names its columns: `name(type,attribute)`, types int, long, double, str, string, blob and time,
attributes `auto` (numbered) and `null`. Fields are parted by `:`; an empty field is NULL where the column takes NULL,
else an empty text or 0. The format has no unique keys: a Replace compares the columns that the table's declaration says
are unique, an InsertUpdate the keys that it is given.
"""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from opensipspy.db import (
    INTEGER_TYPES,
    NO_DEFAULT,
    VERSION_TABLE,
    Column,
    Condition,
    Database,
    DatabaseError,
    DbDriver,
    DbUrl,
    DbValue,
    Delete,
    Insert,
    InsertUpdate,
    OldTable,
    Replace,
    SqlText,
    Table,
    Update,
    Write,
    as_text,
    literal,
    missing_tables,
    octets,
    old_tables,
    sendable,
    sqlite_words,
)
from opensipspy.management.registry import Json
from opensipspy.module import MiError, Module, Param, mi_command

MOST_BYTES: Final = 256 * 1024 * 1024
MOST_COLUMNS: Final = 256
MOST_FIELD: Final = 16 * 1024 * 1024
NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
COLUMN: Final = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]{0,63})\s*\(\s*([A-Za-z]+)\s*(?:,\s*([A-Za-z]+)[^)]*)?\)")
UNESCAPED: Final[Mapping[str, str]] = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", ":": ":", "0": "\0"}
ESCAPED: Final = str.maketrans(
    {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\", ":": "\\:", "\0": "\\0"},
)
# By the first letter, as OpenSIPS reads them.
KINDS: Final[Mapping[str, str]] = {
    "i": "int",
    "l": "long",
    "d": "double",
    "s": "str",
    "b": "blob",
    "t": "time",
}
WORDS: Final[Mapping[str, str]] = {"float": "double", "double": "double", "binary": "blob", "datetime": "time"}
"""Types of columns as the files that OpenSIPS brings have them; all texts are "string"."""
SQL_TYPES: Final[Mapping[str, str]] = {
    "int": "INTEGER",
    "long": "INTEGER",
    "double": "REAL",
    "str": "TEXT",
    "blob": "BLOB",
    "time": "TEXT",
}
NOT_FOUND: Final = 404
FAILED: Final = 500


class TextError(Exception):
    """A file is not as the format wants it; the text says where."""


class Field:
    """One column of a file."""

    __slots__ = ("auto", "kind", "name", "null", "word")

    def __init__(self, name: str, word: str, attribute: str) -> None:
        self.name = name
        self.word = word
        self.kind = KINDS[word[0].lower()]
        self.null = attribute[:1].lower() == "n"
        self.auto = attribute[:1].lower() == "a"

    @property
    def header(self) -> str:
        attribute = ",null" if self.null else ",auto" if self.auto else ""
        return f"{self.name}({self.word}{attribute})"

    def sql(self, declared: Column | None) -> str:
        """The column in memory. declared: where its default is taken from."""
        if self.auto:
            return f"`{self.name}` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL"
        column = f"`{self.name}` {SQL_TYPES[self.kind]} {self._check}"
        # A time in a file is a number: an empty field would be refused by OpenSIPS.
        default = {"int": "0", "long": "0", "double": "0", "time": "'1970-01-01 00:00:00'"}.get(self.kind, "''")
        if declared is not None and declared.default is not NO_DEFAULT:
            default = literal(declared)
            if self.null:
                return f"{column} DEFAULT {default}"
        return column if self.null else f"{column} NOT NULL DEFAULT {default}"

    @property
    def _check(self) -> str:
        """What memory must not take, as a file that holds it could not be read, or would have rows of its own."""
        if self.kind in ("int", "long"):
            rule = f"typeof(`{self.name}`) IN ('integer', 'null')"
        elif self.kind == "double":
            rule = f"typeof(`{self.name}`) IN ('real', 'integer', 'null')"
        else:
            rule = f"length(CAST(`{self.name}` AS BLOB)) <= {MOST_FIELD}"
        return f"CONSTRAINT `values of {self.name}` CHECK ({rule})"

    def read(self, text: str) -> DbValue:
        """The value of a field; raises ValueError."""
        if not text:
            if self.null:
                return None
            return "" if self.kind in ("str", "blob", "time") else 0
        if self.kind in ("int", "long"):
            return int(text)
        if self.kind == "double":
            return float(text)
        if self.kind == "time":
            number = text.isascii() and text.removeprefix("-").isdigit()
            return datetime.fromtimestamp(int(text)).isoformat(" ", "seconds") if number else unescape(text)
        plain = unescape(text)
        return octets(plain) if self.kind == "blob" else plain

    def write(self, value: Any) -> str:
        """The field of a value."""
        if value is None:
            return ""
        if self.kind == "time":
            try:
                return str(int(datetime.fromisoformat(as_text(value)).timestamp()))
            except (ValueError, OverflowError):
                return as_text(value).translate(ESCAPED)
        if self.kind in ("str", "blob") or isinstance(value, str | bytes):
            return as_text(value).translate(ESCAPED)
        return f"{value:.6g}" if isinstance(value, float) and self.kind != "double" else str(value)


def unescape(text: str) -> str:
    """Raises ValueError for an escape that is none."""
    if "\\" not in text:
        return text
    out = []
    letters = iter(text)
    for letter in letters:
        if letter == "\\":
            following = next(letters, "")
            if following not in UNESCAPED or not following:
                raise ValueError(f"\\{following} is no escape")
            letter = UNESCAPED[following]
        out.append(letter)
    return "".join(out)


def split_row(line: str) -> list[str]:
    """The fields of a line, still escaped."""
    if "\\" not in line:
        return line.split(":")
    fields = []
    start = at = 0
    while at < len(line):
        if line[at] == "\\":
            at += 2
            continue
        if line[at] == ":":
            fields.append(line[start:at])
            start = at + 1
        at += 1
    fields.append(line[start:])
    return fields


def parse_header(line: str) -> list[Field]:
    """The columns; raises TextError."""
    fields: list[Field] = []
    at = 0
    while line[at:].strip():
        found = COLUMN.match(line, at)
        if found is None or found[2][0].lower() not in KINDS:
            raise TextError(f"line 1, column {at + 1}: a column is name(type) or name(type,null|auto)")
        field = Field(found[1], found[2], found[3] or "")
        if any(field.name.lower() == other.name.lower() for other in fields):
            raise TextError(f"line 1: there are two columns {field.name}")
        if field.auto and (field.kind not in ("int", "long") or any(other.auto for other in fields)):
            raise TextError(f"line 1: {field.name} cannot be auto: one int column may be")
        fields.append(field)
        at = found.end()
    if not 0 < len(fields) <= MOST_COLUMNS:
        raise TextError(f"line 1: a table has 1 to {MOST_COLUMNS} columns")
    return fields


def parse_table(text: str, declared: Table | None = None) -> tuple[list[Field], list[list[DbValue]]]:
    """The columns and rows of a file; raises TextError. declared: knows which of its integers are times."""
    lines = text.split("\n")
    fields = parse_header(lines[0].rstrip("\r"))
    times = {column.name for column in declared.columns if column.type == "datetime"} if declared else set()
    for field in fields:
        if field.name in times and field.kind in ("int", "long"):  # so are they in files made by OpenSIPS
            field.kind = "time"
    rows = []
    for number, line in enumerate(lines[1:], 2):
        line = line.rstrip("\r")
        if not line and (len(fields) > 1 or number == len(lines)):
            continue
        cells = split_row(line)
        if len(cells) == len(fields) + 1 and not cells[-1]:
            cells.pop()  # a colon behind the last field
        if len(cells) != len(fields):
            raise TextError(f"line {number}: {len(cells)} fields for {len(fields)} columns")
        row: list[DbValue] = []
        for field, cell in zip(fields, cells, strict=True):
            if len(cell) > 2 * MOST_FIELD:  # every letter may be escaped
                raise TextError(f"line {number}: column {field.name} is too long")
            try:
                row.append(field.read(cell))
            except (ValueError, OverflowError, OSError) as error:
                why = f"no value of type {field.kind}" if field.kind in ("int", "long", "double") else error
                raise TextError(f"line {number}: column {field.name}: {why}") from error
        rows.append(row)
    return fields, rows


def lines_of(fields: Sequence[Field], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    yield " ".join(field.header for field in fields) + "\n"
    for row in rows:
        yield ":".join([field.write(value) for field, value in zip(fields, row, strict=True)]) + "\n"


def header_of(table: Table) -> list[Field]:
    """The columns of a file for a declared table."""
    fields = []
    auto = False
    for column in table.columns:
        flag = column.type == "char" and column.default is not NO_DEFAULT and str(column.default).isdigit()
        if flag or column.type in INTEGER_TYPES:
            # OpenSIPS numbers rows by int columns, and by long ones where its own tables have them. Its modules refuse
            # columns of other types: a flag of one letter is a number in its files, and no text a "str".
            word = "long" if column.type == "unsigned long" else "int"
        else:
            word = WORDS.get(column.type, "string")
        numbered = column.autoincrement and not auto
        auto = auto or numbered
        fields.append(Field(column.name, word, "auto" if numbered else "null" if column.null else ""))
    return fields


def folder_of(url: DbUrl) -> Path:
    """The folder; relative ones (`text://var/db`) begin where the server was started. Raises DatabaseError."""
    text = (url.host + url.path) if url.host else url.path
    while text.startswith("//"):
        text = text[1:]
    if not text or "\0" in text or url.user:
        raise DatabaseError(f"{url}: a db_text URL names a folder: text:///path")
    return Path(text).absolute()


class TextSql(SqlText):
    """Statements for the database in memory."""

    quote = "`"


TEXT: Final = TextSql()


def bound(value: DbValue) -> Any:
    return value.isoformat(" ", "seconds") if isinstance(value, datetime) else value


class TextDatabase(Database):
    """One folder. Used by one event loop; what is asked is answered at once, from memory."""

    def __init__(self, url: DbUrl, driver: DbDriver, *, fresh: bool = False) -> None:
        """driver: knows the declared tables. fresh: look at each use whether the file was changed (db_mode 1)."""
        super().__init__(url)
        self.folder = folder_of(url)
        self._declared = driver.declared
        self._keys = driver.unique_keys
        self._fresh = fresh
        self._memory: sqlite3.Connection | None = None
        self._fields: dict[str, list[Field]] = {}
        self._stamps: dict[str, tuple[int, int]] = {}
        self.modified: set[str] = set()
        self._closed = False

    # --- loading

    def _open(self) -> sqlite3.Connection:
        if self._closed:
            raise DatabaseError(f"{self.url}: closed")
        if self._memory is None:
            memory = sqlite3.connect(":memory:", isolation_level=None)
            memory.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
            self._memory = memory
            try:
                names = sorted(entry.name for entry in os.scandir(self.folder) if entry.is_file())
                for name in names:
                    if NAME.fullmatch(name):
                        self.load(name)
            except (OSError, DatabaseError) as error:
                memory.close()
                self._memory = None
                self._fields.clear()
                reason = error.strerror if isinstance(error, OSError) else error.reason
                failure = error if isinstance(error, DatabaseError) else None
                raise failure or DatabaseError(f"{self.url}: {reason}", transient=True) from error
        return self._memory

    def load(self, name: str) -> None:
        """Read a table's file, in place of what memory has of it. Raises DatabaseError; memory is unchanged then."""
        path = self.folder / name
        memory = self._memory
        assert memory is not None
        try:
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_BYTES:
                raise TextError("no plain file, or too large")
            declared = self._declared.get(name)
            fields, rows = parse_table(path.read_bytes().decode("utf-8", "surrogateescape"), declared)
        except OSError as error:
            raise DatabaseError(f"{self.url}: table {name}: {error.strerror}", transient=True) from error
        except TextError as error:
            raise DatabaseError(f"{self.url}: table {name}: {error}") from error
        quoted = TEXT.name(name)
        columns = {column.name: column for column in declared.columns} if declared else {}
        memory.execute("BEGIN")
        try:
            memory.execute(f"DROP TABLE IF EXISTS {quoted}")
            memory.execute(
                f"CREATE TABLE {quoted} ({', '.join(field.sql(columns.get(field.name)) for field in fields)})"
            )
            marks = ", ".join("?" * len(fields))
            memory.executemany(f"INSERT INTO {quoted} VALUES ({marks})", [self._row(fields, row) for row in rows])
            there = {field.name for field in fields}
            for number, key in enumerate(self._keys(name)):
                if there.issuperset(key):
                    names = ", ".join(TEXT.name(column) for column in key)
                    memory.execute(f"CREATE INDEX {TEXT.name(f'{name}_key_{number}')} ON {quoted} ({names})")
            memory.execute("COMMIT")
        except (sqlite3.Error, OverflowError) as error:
            memory.execute("ROLLBACK")
            raise DatabaseError(f"{self.url}: table {name}: {sqlite_words(error)}") from error
        self._fields[name] = fields
        self._stamps[name] = (status.st_mtime_ns, status.st_size)
        self.modified.discard(name)

    @staticmethod
    def _row(fields: Sequence[Field], row: Sequence[DbValue]) -> list[Any]:
        # An empty numbered field asks for the next number.
        return [None if field.auto and not value else encoded(value) for field, value in zip(fields, row, strict=True)]

    def tables(self) -> list[str]:
        """The tables that are in memory."""
        self._open()
        return sorted(self._fields)

    def _refresh(self, table: str) -> None:
        """In non-caching mode, a file that was changed is read again."""
        if not self._fresh:
            return
        try:
            status = os.stat(self.folder / table)
        except OSError:
            return  # the table in memory stays
        if self._stamps.get(table) != (status.st_mtime_ns, status.st_size):
            self.load(table)

    # --- the contract

    async def select(
        self, table: str, columns: Sequence[str], where: Sequence[Condition] = (), order: str = "", limit: int = 0
    ) -> list[tuple[DbValue, ...]]:
        self._open()
        sql, args = TEXT.select(table, columns, where, order, limit)
        self._refresh(table)
        return self._query(sql, args)

    @property
    def backslashes(self) -> bool | None:
        return False

    async def raw(self, sql: str, args: Sequence[DbValue] = ()) -> list[tuple[DbValue, ...]]:
        """SQL as SQLite has it. A table that it changes is written at the next dump."""
        memory = self._open()
        before = memory.total_changes
        rows = self._query(sql, args)
        if memory.in_transaction:
            memory.rollback()
            raise DatabaseError(f"{self.url}: a raw statement must not leave a transaction open")
        if memory.total_changes != before:
            self.modified.update(name for name in self._fields if re.search(rf"\b{name}\b", sql, re.IGNORECASE))
        return rows

    def _query(self, sql: str, args: Sequence[DbValue]) -> list[tuple[DbValue, ...]]:
        try:
            rows: list[tuple[DbValue, ...]] = self._open().execute(sql, [encoded(bound(a)) for a in args]).fetchall()
        except (sqlite3.Error, sqlite3.Warning, OverflowError) as error:
            raise self._failure(error) from error
        return rows

    def _failure(self, error: Exception) -> DatabaseError:
        return DatabaseError(f"{self.url}: {sqlite_words(error)}", duplicate="UNIQUE" in str(error))

    async def execute(self, writes: Sequence[Write]) -> list[int]:
        if not writes:
            return []
        memory = self._open()
        for table in {write.table for write in writes}:
            if table in self._fields:
                self._refresh(table)
        memory.execute("BEGIN")
        try:
            counts = [self._write(memory, write) for write in writes]
            memory.execute("COMMIT")
        except (sqlite3.Error, sqlite3.Warning, OverflowError, DatabaseError) as error:
            memory.execute("ROLLBACK")
            if isinstance(error, DatabaseError):
                raise
            raise self._failure(error) from error
        self.modified.update(write.table for write in writes)
        return counts

    def _write(self, memory: sqlite3.Connection, write: Write) -> int:
        if isinstance(write, InsertUpdate):
            where = [(key, "=", write.row[key]) for key in write.keys if key in write.row]
            rest = {column: value for column, value in write.row.items() if column not in write.keys}
            if self._count(memory, write.table, where):
                if rest:
                    self._run(memory, Update(write.table, rest, where))
                return 1
            return self._run(memory, Insert(write.table, write.row))
        if isinstance(write, Insert | Replace):
            for key in self._keys(write.table):
                values = [write.row.get(column) for column in key]
                if None in values:
                    continue  # NULL is equal to nothing, and a numbered column gets a number of its own
                where = [(column, "=", value) for column, value in zip(key, values, strict=True)]
                if isinstance(write, Replace):
                    self._run(memory, Delete(write.table, where))
                elif self._count(memory, write.table, where):
                    columns = ", ".join(key)
                    raise DatabaseError(f"{self.url}: table {write.table} has such {columns} already", duplicate=True)
            return self._run(memory, Insert(write.table, write.row))
        return self._run(memory, write)

    @staticmethod
    def _count(memory: sqlite3.Connection, table: str, where: Sequence[Condition]) -> int:
        sql, args = TEXT.select(table, (), where, "", 1)
        return len(memory.execute(sql, [encoded(bound(value)) for value in args]).fetchall())

    @staticmethod
    def _run(memory: sqlite3.Connection, write: Write) -> int:
        sql, args = TEXT.write(write)
        return memory.execute(sql, [encoded(bound(value)) for value in args]).rowcount

    # --- the files

    def dump(self) -> list[str]:
        """Write the tables that were changed; returns their names. Raises DatabaseError; others are written still."""
        if self._memory is None:
            return []
        written: list[str] = []
        failure: DatabaseError | None = None
        for name in sorted(self.modified & self._fields.keys()):
            fields = self._fields[name]
            columns = ", ".join(TEXT.name(field.name) for field in fields)
            rows = self._memory.execute(f"SELECT {columns} FROM {TEXT.name(name)} ORDER BY rowid").fetchall()
            try:
                self._stamps[name] = write_file(self.folder / name, fields, rows)
            except OSError as error:
                failure = DatabaseError(f"{self.url}: table {name}: {error.strerror}", transient=True)
                continue
            self.modified.discard(name)
            written.append(name)
        if failure is not None:
            raise failure
        return written

    async def close(self) -> None:
        if self._closed:
            return
        try:
            await super().close()
            self.dump()
        finally:
            self._closed = True
            if self._memory is not None:
                self._memory.close()
                self._memory = None


def encoded(value: Any) -> Any:
    """A value as SQLite takes it: text that is no UTF-8 becomes bytes."""
    return sendable(value) if isinstance(value, str) else value


def write_file(path: Path, fields: Sequence[Field], rows: Sequence[Sequence[Any]]) -> tuple[int, int]:
    """Put a whole file in the place of the old one, with its permissions; its time and size. Raises OSError."""
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o600
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.writelines(lines_of(fields, rows))
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), mode)
            status = os.fstat(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    return status.st_mtime_ns, status.st_size


class DbText(Module, DbDriver):
    """Keep tables in text files."""

    name = "db_text"
    kind = "sql"
    schemes = ("text",)

    db_mode = Param(int, 0, "0: files are read once. 1: a file that was changed is read again when it is used.")
    buffer_size = Param(int, 4096, "Longest field that OpenSIPS's reader takes; here a field may be 16 MiB long.")

    def __init__(self, **params: Any) -> None:
        self.databases: list[TextDatabase] = []
        super().__init__(**params)

    def open_database(self, url: DbUrl) -> TextDatabase:
        opened = TextDatabase(url, self, fresh=self.db_mode == 1)
        self.databases.append(opened)
        return opened

    async def create_tables(self, url: DbUrl, tables: Sequence[Table]) -> list[str]:
        return await asyncio.get_running_loop().run_in_executor(None, create_tables, url, tables)

    async def old_tables(self, url: DbUrl, tables: Sequence[Table]) -> list[OldTable]:
        return await asyncio.get_running_loop().run_in_executor(None, outdated, url, tables)

    async def migrate_table(self, url: DbUrl, old: OldTable) -> int:
        return await asyncio.get_running_loop().run_in_executor(None, migrate, url, old)

    # --- management

    @mi_command("db_text:dump", aliases=("dbt_dump",))
    def mi_dump(self) -> Json:
        """Write the tables that were changed to their files."""
        try:
            for database in self.databases:
                database.dump()
        except DatabaseError as error:
            raise MiError(FAILED, str(error)) from error
        return "OK"

    @mi_command(
        "db_text:reload",
        aliases=("dbt_reload",),
        params=((), ("db_name",), ("db_name", "table_name")),
        types={"db_name": "string", "table_name": "string"},
    )
    def mi_reload(self, db_name: str = "", table_name: str = "") -> Json:
        """Read the files again: all, those of a folder, or one. A table whose file is bad stays as it was."""
        wanted = Path(db_name).absolute() if db_name else None
        chosen = [database for database in self.databases if wanted is None or database.folder == wanted]
        if not chosen and db_name:
            raise MiError(NOT_FOUND, "this database is not in use")
        failures = []
        for database in chosen:
            try:
                names = [table_name] if table_name else database.tables()
            except DatabaseError as error:
                raise MiError(FAILED, str(error)) from error
            if table_name and table_name not in database.tables():
                raise MiError(NOT_FOUND, "this table is not in use")
            for name in names:
                try:
                    database.load(name)
                except DatabaseError as error:
                    failures.append(str(error))
        if failures:
            raise MiError(FAILED, "; ".join(failures[:10]))
        return "OK"


def create_tables(url: DbUrl, tables: Sequence[Table]) -> list[str]:
    """`DbDriver.create_tables`, in whatever thread. Files are readable by their owner only: they hold passwords."""
    folder = folder_of(url)
    made = []
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        there = {entry.name for entry in os.scandir(folder) if entry.is_file()}
        path = folder / VERSION_TABLE.name
        rows: list[list[DbValue]] = []
        fields = header_of(VERSION_TABLE)
        if VERSION_TABLE.name in there:
            fields, rows = parse_table(path.read_bytes().decode("utf-8", "surrogateescape"))
        else:
            made.append(VERSION_TABLE.name)
        versions = {as_text(row[0]): row[1] for row in rows if isinstance(row[1], int)}
        missing = missing_tables(url, tables, there, {name: v for name, v in versions.items() if isinstance(v, int)})
        for table in missing:
            write_file(folder / table.name, header_of(table), [])
            rows = [row for row in rows if as_text(row[0]) != table.name]
            rows.append([table.name, table.version])
            made.append(table.name)
        if made:
            write_file(path, fields, rows)
    except OSError as error:
        raise DatabaseError(f"{url}: {error.strerror}", transient=True) from error
    except TextError as error:
        raise DatabaseError(f"{url}: table version: {error}") from error
    return made


def read_file(url: DbUrl, name: str, declared: Table | None) -> tuple[list[Field], list[list[DbValue]]]:
    """The columns and rows of a table's file. Raises DatabaseError."""
    try:
        return parse_table((folder_of(url) / name).read_bytes().decode("utf-8", "surrogateescape"), declared)
    except OSError as error:
        raise DatabaseError(f"{url}: table {name}: {error.strerror}", transient=True) from error
    except TextError as error:
        raise DatabaseError(f"{url}: table {name}: {error}") from error


def outdated(url: DbUrl, tables: Sequence[Table]) -> list[OldTable]:
    """`DbDriver.old_tables`, in whatever thread."""
    try:
        names = {entry.name for entry in os.scandir(folder_of(url)) if entry.is_file()}
    except OSError as error:
        raise DatabaseError(f"{url}: {error.strerror}", transient=True) from error
    if VERSION_TABLE.name not in names:
        return []
    _, rows = read_file(url, VERSION_TABLE.name, VERSION_TABLE)
    versions = {as_text(name): version for name, version, *_ in rows if isinstance(version, int)}
    found = []
    for table, version in old_tables(tables, versions, names):
        fields, there = read_file(url, table.name, table)
        found.append(OldTable(table, version, [field.name for field in fields], len(there), names))
    return found


def migrate(url: DbUrl, old: OldTable) -> int:
    """`DbDriver.migrate_table`, in whatever thread: the old file gets a second name, then the new one its place."""
    table = old.table
    folder = folder_of(url)
    old_fields, old_rows = read_file(url, table.name, table)
    fields = header_of(table)
    place = {field.name.lower(): number for number, field in enumerate(old_fields)}
    rows = []
    for number, old_row in enumerate(old_rows, 1):
        row: list[DbValue] = []
        for column in table.columns:
            at = place.get(column.name.lower())
            value = old_row[at] if at is not None else fresh_value(column, number)
            if value is None and not column.null:
                value = fresh_value(column, number)
            row.append(value)
        rows.append([encoded(value) for value in row])
    check_unique(url, table, rows)
    try:
        # What could not be read back is not put in place of what can be read.
        parse_table("".join(lines_of(fields, rows)), table)
    except TextError as error:
        raise DatabaseError(f"{url}: table {table.name} cannot be upgraded: {error}; nothing was changed") from error
    version_fields, versions = read_file(url, VERSION_TABLE.name, VERSION_TABLE)
    backup = folder / old.backup
    try:
        os.link(folder / table.name, backup)
        try:
            write_file(folder / table.name, fields, rows)
            others = [row for row in versions if as_text(row[0]) != table.name]
            write_file(folder / VERSION_TABLE.name, version_fields, [*others, [table.name, table.version]])
        except BaseException:
            os.replace(backup, folder / table.name)
            raise
    except OSError as error:
        raise DatabaseError(f"{url}: table {table.name}: {error.strerror}", transient=True) from error
    return len(rows)


def check_unique(url: DbUrl, table: Table, rows: Sequence[Sequence[DbValue]]) -> None:
    """Raises DatabaseError when two rows have the same unique key."""
    names = [column.name for column in table.columns]
    keys = [tuple(column.name for column in table.columns if column.primary)]
    keys += [index.columns for index in table.indexes if index.unique]
    for key in filter(None, keys):
        places = [names.index(name) for name in key]
        seen = set()
        for row in rows:
            found = tuple([row[place] for place in places])
            if found in seen and None not in found:
                raise DatabaseError(f"{url}: table {table.name} has two rows of the same {', '.join(key)}")
            seen.add(found)


def fresh_value(column: Column, number: int) -> DbValue:
    """What a row gets in a column that it has no value for. number: of the row."""
    if column.autoincrement:
        return number
    if column.default is not NO_DEFAULT and (column.default is not None or column.null):
        return column.default  # type: ignore[return-value]
    if column.null:
        return None
    if column.type in INTEGER_TYPES or column.type in ("float", "double"):
        return 0
    return "1970-01-01 00:00:00" if column.type == "datetime" else ""
