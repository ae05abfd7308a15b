"""Tables are filled by others: rows of any types, NULLs, octets that are no text, and 10 MB cells.

SQLite keeps in a column whatever it is given, so its tables are made here without types and without NOT NULL. A module
that loads a table takes the rows that it can and tells of the others in a line each; it never fails, nor does a
function that asks for a row.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opensipspy.db import Table, parse_url
from opensipspy.dbdrivers.db_sqlite import DbSqlite
from opensipspy.module import StartError, find_module
from opensipspy.module.testing import FakeCore, make_run, request
from tests.modules.tables import URL

LOADED: dict[str, dict[str, Any]] = {
    "config": {},
    "dialplan": {},
    "domain": {"db_mode": 1},
    "group": {},
    "permissions": {},
    "tcp_mgm": {},
    "tls_mgm": {"tls_library": "none"},
    "trie": {},
    "userblacklist": {},
    "usrloc": {"working_mode_preset": "single-instance-sql-write-back"},
}
STRICT = {"tcp_mgm", "tls_mgm"}
# module -> (parameters, what is called for a message)
ASKED: dict[str, tuple[str, tuple[Any, ...]]] = {
    "alias_db": ("alias_db_lookup", ("dbaliases",)),
    "domain": ("is_from_local", ()),
    "domainpolicy": ("dp_can_connect", ()),
    "group": ("db_is_user_in", ("From", "g")),
    "speeddial": ("sd_lookup", ("speed_dial",)),
}


class Told(logging.Handler):
    """Keeps the warnings and errors, and pytest from them: they hold octets that its report cannot carry."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def told() -> Iterator[Told]:
    handler, logger = Told(), logging.getLogger("opensipspy")
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


class RawText(bytes):
    """A cell of type text whose octets are in another character set."""


def cells() -> st.SearchStrategy[Any]:
    words = ["", "0", "1", "-1", "any", "alice", "example.com", "sip:alice@example.com", "192.0.2.1", "10.0.0.0/8"]
    words += [
        "^(",
        "(a+)+$",
        ".*",
        "%s %n",
        "20260101T000000",
        "x" * 5000,
        "a\0b",
        "sip:\r\nVia: x",
        "2026-01-01",
        ";;=",
    ]
    return st.one_of(
        st.none(),
        st.sampled_from(words),
        st.integers(-(2**63), 2**63 - 1),
        st.integers(-3, 400),
        st.floats(),
        st.text(st.characters(exclude_categories=("Cs",)), max_size=30),
        st.binary(max_size=30),
        st.sampled_from([RawText(b"caf\xe9"), RawText(b"\xff\xfe\x00"), b"\xff" * 100]),
    )


def fill(path: Path, tables: tuple[Table, ...], rows: list[list[Any]]) -> None:
    """Tables without types; each gets the same rows, cut to its columns."""
    path.unlink(missing_ok=True)
    link = sqlite3.connect(path)
    link.execute("CREATE TABLE version (table_name, table_version)")
    for table in tables:
        names = [column.name for column in table.columns]
        link.execute(f"CREATE TABLE {table.name} ({', '.join(names)})")
        link.execute("INSERT INTO version VALUES (?, ?)", (table.name, table.version))
        for row in rows:
            some = row[: len(names)]
            marks = ", ".join("CAST(? AS TEXT)" if isinstance(cell, RawText) else "?" for cell in some)
            values = [bytes(cell) if isinstance(cell, RawText) else cell for cell in some]
            link.execute(f"INSERT INTO {table.name} ({', '.join(names[: len(some)])}) VALUES ({marks})", values)
    link.commit()
    link.close()


def play(path: Path, name: str, params: dict[str, Any], ask: tuple[str, tuple[Any, ...]] | None = None) -> None:
    """Start the module on the file, call one of its functions, and stop it."""

    async def run() -> None:
        database = DbSqlite(busy_timeout=10).open_database(parse_url(f"sqlite:{path}"))
        core = FakeCore(databases={URL: database})
        module = core.add(find_module(name)(db_url=URL, **params))
        try:
            refusal = ""
            try:
                await module.launch()
            except StartError as error:
                if name not in STRICT:
                    raise
                refusal = str(error)
            # What secures or limits connections is right as a whole, or the server does not start and says why.
            assert len(refusal.splitlines()) < 2
            assert len(refusal) < 2000
            if refusal:
                return
            if ask is not None:
                function, arguments = ask
                result = core.call(function, make_run(request(), core=core), *arguments)
                if inspect.isawaitable(result):
                    await result
            await core.settle()
        finally:
            await module.shutdown()
            await database.close()

    asyncio.run(asyncio.wait_for(run(), 60))


def check_log(told: Told, lines: int) -> None:
    """No traceback, no line that is longer than a screen, and not more than so many lines."""
    assert [ascii(record.getMessage()) for record in told.records if record.exc_info] == []
    assert len(told.records) <= lines, "\n".join(ascii(record.getMessage())[:200] for record in told.records)
    assert max((len(record.getMessage()) for record in told.records), default=0) < 2000


WILD = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.parametrize("name", sorted(LOADED))
def test_a_table_of_anything_is_loaded(name: str, tmp_path: Path, told: Told) -> None:
    tables = find_module(name).tables
    width = max(len(table.columns) for table in tables)

    @WILD
    @given(st.lists(st.lists(cells(), min_size=width, max_size=width), min_size=1, max_size=4))
    def load(rows: list[list[Any]]) -> None:
        told.records.clear()
        fill(tmp_path / "wild", tables, rows)
        play(tmp_path / "wild", name, LOADED[name])
        check_log(told, len(rows) * len(tables) + 2)

    load()


@pytest.mark.parametrize("name", sorted(ASKED))
def test_a_row_of_anything_is_answered(name: str, tmp_path: Path, told: Told) -> None:
    tables = find_module(name).tables
    width = max(len(table.columns) for table in tables)

    @WILD
    @given(st.lists(st.lists(cells(), min_size=width, max_size=width), min_size=1, max_size=4))
    def ask(rows: list[list[Any]]) -> None:
        told.records.clear()
        # The columns that are asked by are what the message has: the row is found.
        run = make_run(request())
        assert run.msg is not None
        found = [
            [
                {"username": "alice", "domain": "example.com", "alias_username": "bob", "sd_username": "bob"}.get(
                    column.name, cell
                )
                for column, cell in zip(tables[0].columns, row, strict=False)
            ]
            for row in rows
        ]
        fill(tmp_path / "wild", tables, found)
        play(tmp_path / "wild", name, {}, ASKED[name])
        check_log(told, len(rows) * len(tables) + 4)

    ask()


@pytest.mark.parametrize("name", sorted(LOADED))
def test_cells_of_ten_megabytes(name: str, tmp_path: Path, told: Told) -> None:
    tables = find_module(name).tables
    width = max(len(table.columns) for table in tables)
    large = "x" * (10 << 20)
    rows = [[large if place == column else 1 for column in range(width)] for place in range(width)][1:4]
    fill(tmp_path / "wild", tables, rows)
    play(tmp_path / "wild", name, LOADED[name])
    check_log(told, len(rows) * len(tables) + 2)
