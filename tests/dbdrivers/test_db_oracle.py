"""db_oracle with a stand-in for its client library in front of SQLite: no Oracle server can be had for tests."""

from __future__ import annotations

import re
import sqlite3
from types import SimpleNamespace
from typing import Any

import pytest

import opensipspy.dbdrivers.db_oracle as db_oracle
from opensipspy.db import (
    Column,
    Database,
    DatabaseError,
    Index,
    Insert,
    InsertUpdate,
    Replace,
    Table,
    Update,
    auto_id,
    parse_url,
)
from opensipspy.dbdrivers.db_oracle import DbOracle
from opensipspy.module import ParamError
from opensipspy.module.testing import FakeCore
from tests.modules.asynchronous import in_loop

PEOPLE = Table("people", 1, (auto_id(), Column("name", "string", 64)), (Index("name_idx", ("name",), unique=True),))


class OracleError(Exception):
    def __init__(self, code: int, text: str, full_code: str = "") -> None:
        super().__init__(SimpleNamespace(code=code, full_code=full_code or f"ORA-{code:05}", isrecoverable=False))
        self.text = text

    def __str__(self) -> str:
        return self.text


class Cursor:
    def __init__(self, house: House, cursor: sqlite3.Cursor) -> None:
        self.house = house
        self.cursor = cursor

    def __enter__(self) -> Cursor:
        return self

    def __exit__(self, *details: object) -> None:
        self.cursor.close()

    @property
    def description(self) -> Any:
        return self.cursor.description

    @property
    def rowcount(self) -> int:
        return self.cursor.rowcount

    async def execute(self, sql: str, args: list[Any]) -> None:
        self.house.statements.append(sql)
        if self.house.error is not None:
            error, self.house.error = self.house.error, None
            raise error
        sql = re.sub(r"FETCH FIRST (\d+) ROWS ONLY", r"LIMIT \1", sql)
        try:
            self.cursor.execute(sql, {str(number): value for number, value in enumerate(args, 1)})
        except sqlite3.IntegrityError as error:
            raise OracleError(1, f"ORA-00001: {error}") from error
        except sqlite3.Error as error:
            raise OracleError(942, f"ORA-00942: {error}") from error

    async def fetchall(self) -> list[Any]:
        return self.cursor.fetchall()


class House:
    """What stands for the module oracledb."""

    Error = OracleError

    def __init__(self) -> None:
        self.memory = sqlite3.connect(":memory:", isolation_level="DEFERRED")
        self.memory.execute("CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT UNIQUE, age INTEGER)")
        self.memory.execute("CREATE TABLE dual (dummy TEXT)")
        self.statements: list[str] = []
        self.error: Exception | None = None
        self.opened: list[dict[str, Any]] = []

    async def connect_async(self, **params: Any) -> House:
        self.opened.append(params)
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return self

    def cursor(self) -> Cursor:
        return Cursor(self, self.memory.cursor())

    async def commit(self) -> None:
        self.memory.commit()

    async def rollback(self) -> None:
        self.memory.rollback()

    async def close(self) -> None:
        return None


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> House:
    made = House()
    monkeypatch.setattr(db_oracle.importlib, "import_module", lambda name: made)
    monkeypatch.setattr(db_oracle.importlib.util, "find_spec", lambda name: made)
    return made


def opened(**params: Any) -> Database:
    module = FakeCore().add(DbOracle(**params))
    module.declared = {"people": PEOPLE}
    return module.open_database(parse_url("oracle://scott:tiger@db.example.com/sip"))


@in_loop
async def test_statements(house: House) -> None:
    database = opened()
    await database.insert("people", {"id": 1, "name": "anna"})
    await database.insert_many("people", [{"name": "bert"}, {"name": "carl"}])
    assert await database.select("people", ("name",), (("id", ">", 1), ("age", "=", None)), "name desc", 1) == [
        ("carl",)
    ]
    assert await database.update("people", {"age": 3}, (("name", "=", "carl"),)) == 1
    assert await database.raw("SELECT name, '?' FROM people WHERE age = ?;", (3,)) == [("carl", "?")]
    assert await database.delete("people", (("name", "=", "bert"),)) == 1
    await database.close()
    assert house.opened == [
        {"user": "scott", "password": "tiger", "host": "db.example.com", "port": 1521, "service_name": "sip"}
    ]
    assert house.statements == [
        "INSERT INTO people (id, name) VALUES (:1, :2)",
        "INSERT INTO people (name) VALUES (:1)",
        "INSERT INTO people (name) VALUES (:1)",
        "SELECT name FROM people WHERE id > :1 AND age IS NULL ORDER BY name desc FETCH FIRST 1 ROWS ONLY",
        "UPDATE people SET age = :1 WHERE name = :2",
        "SELECT name, '?' FROM people WHERE age = :1",
        "DELETE FROM people WHERE name = :1",
    ]


@in_loop
async def test_what_oracle_has_no_statement_for(house: House) -> None:
    database = opened()
    assert await database.execute(
        [
            InsertUpdate("people", {"name": "anna", "age": 1}, ("name",)),
            InsertUpdate("people", {"name": "anna", "age": 2}, ("name",)),
            InsertUpdate("people", {"name": "anna"}, ("name",)),
            Replace("people", {"name": "bert", "age": 1}),
            Replace("people", {"name": "bert"}),
        ]
    ) == [1, 1, 1, 1, 1]
    assert await database.select("people", ("name", "age"), (), "name") == [("anna", 2), ("bert", None)]
    await database.close()


@in_loop
async def test_all_or_nothing(house: House) -> None:
    database = opened()
    await database.insert("people", {"name": "anna"})
    with pytest.raises(DatabaseError) as caught:
        await database.execute([Update("people", {"age": 9}, ()), Insert("people", {"name": "anna"})])
    assert caught.value.duplicate
    assert not caught.value.transient
    assert await database.select("people", ("age",)) == [(None,)]
    await database.close()


@pytest.mark.parametrize(
    ("code", "transient", "attempts"), [(942, False, 1), (3113, True, 2), (60, True, 1), (1653, True, 1)]
)
@in_loop
async def test_errors(house: House, code: int, transient: bool, attempts: int) -> None:
    """A lost connection is opened again when nothing can have been done; the rest is as the number says."""
    database = opened()
    await database.ping()
    house.statements.clear()
    house.error = OracleError(code, f"ORA-{code:05}: words\nof the server")
    if attempts == 2:
        await database.insert("people", {"name": "anna"})
        assert len(house.opened) == 2
    else:
        with pytest.raises(DatabaseError, match=f"ORA-{code:05}") as caught:
            await database.insert("people", {"name": "anna"})
        assert caught.value.transient is transient
        assert len(house.opened) == 1
    assert len(house.statements) == attempts
    await database.close()


@in_loop
async def test_a_server_that_is_away(house: House, caplog: pytest.LogCaptureFixture) -> None:
    database = opened()
    house.error = OracleError(12541, "ORA-12541: no listener")
    with pytest.raises(DatabaseError) as caught:
        await database.ping()
    assert caught.value.transient
    assert "tiger" not in str(caught.value) + caplog.text
    await database.close()


@pytest.mark.parametrize(("name", "value"), [("timeout", "0.05"), ("timeout", "11"), ("reconnect", "soon")])
def test_times_that_cannot_be(name: str, value: str) -> None:
    with pytest.raises(ParamError, match=r"0\.1 to 10 seconds"):
        DbOracle(**{name: value})


def test_a_url_names_a_service() -> None:
    with pytest.raises(DatabaseError, match="names a service|needs the Python package"):  # noqa: RUF043
        DbOracle().open_database(parse_url("oracle://scott:tiger@host"))
