"""Groups by name and by expression."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from opensipspy.module import Module
from opensipspy.modules.auth.api import Attempt, AuthApi
from opensipspy.modules.group import EXPRESSION_TABLE, GROUP_TABLE, Group
from opensipspy.script.run import Run, Value, VarRef
from opensipspy.sip import Credentials, digest
from tests.modules.memory_database import MemoryDatabase
from tests.modules.tables import URL, House, change, make_tables, play


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "groups.sqlite"
    make_tables(path, GROUP_TABLE, EXPRESSION_TABLE)
    change(
        path,
        "INSERT INTO grp (username, domain, grp) VALUES (?, ?, ?)",
        [("alice", "example.com", "ld"), ("bob", "example.org", "ld"), ("bob", "example.org", "local")],
    )
    change(
        path,
        "INSERT INTO re_grp (reg_exp, group_id) VALUES (?, ?)",
        [("^sip:[a-m]", 1), ("@EXAMPLE\\.com$", 2), ("(", 3), ("^sip:bob@", 4)],
    )
    return path


def groups(**params: Any) -> Group:
    return Group(db_url=URL, **params)


@pytest.mark.parametrize(
    ("uri", "group", "use_domain", "result"),
    [
        ("From", "ld", 1, 1),
        ("from", "local", 1, -6),
        ("To", "local", 1, 1),
        ("Request-URI", "ld", 1, 1),
        ("sip:alice@example.net", "ld", 1, -6),
        ("sip:alice@example.net", "ld", 0, 1),
        ("sip:example.net", "ld", 0, -1),
        ("nonsense", "ld", 1, -1),
        ("sip:alice'--@example.com", "ld", 1, -6),
        ("Credentials", "ld", 1, -1),
    ],
)
def test_members(table: Path, uri: str, group: str, use_domain: int, result: int):
    async def scenario(house: House) -> None:
        house.new()
        assert await house.ask("db_is_user_in", uri, group) == result

    play(table, lambda: groups(use_domain=use_domain), scenario)


class SomeAuth(Module, AuthApi):
    """Credentials of alice were found correct."""

    name = "auth"

    def begin(self, run: Run, kind: int, realm: str) -> Attempt | int:
        raise AssertionError

    def finish(self, run: Run, attempt: Attempt, secret: str, plain: bool) -> int:
        raise AssertionError

    def accept(self, run: Run, attempt: Attempt) -> int:
        raise AssertionError

    def authorized(self, run: Run) -> Credentials | None:
        return run.ctx.get("credentials")  # type: ignore[return-value]


def test_the_user_of_credentials(table: Path):
    async def scenario(house: House) -> None:
        house.core.add(SomeAuth())
        run = house.new()
        assert await house.ask("db_is_user_in", "Credentials", "ld") == -1
        run.ctx["credentials"] = digest.parse_credentials(
            'Digest username="alice", realm="example.com", nonce="n", uri="sip:x", response="0"'
        )
        assert await house.ask("db_is_user_in", "Credentials", "ld") == 1

    play(table, groups, scenario)


def collector(found: list[Value]) -> VarRef:
    def put(run: Run, value: Value) -> None:
        found.append(value)

    return VarRef("$avp(g)", "$avp", "g", lambda run: None, put, put)


@pytest.mark.parametrize(
    ("uri", "several", "numbers"),
    [
        ("From", 1, [2, 1]),
        ("From", 0, [2]),
        ("To", 1, [4, 1]),
        ("sip:zoe@example.org", 1, []),
        ("sip:example.com", 1, []),
    ],
)
def test_groups_by_expression(table: Path, uri: str, several: int, numbers: list[int]):
    """The manual: records are tried in the reverse of the order that the table has."""

    async def scenario(house: House) -> None:
        house.new()
        found: list[Value] = []
        assert await house.ask("db_get_user_group", uri, collector(found)) == (len(numbers) or -1)
        assert found == numbers

    play(table, lambda: groups(re_table="re_grp", multiple_gid=several), scenario)


def test_without_expressions_there_is_no_number(table: Path, caplog: pytest.LogCaptureFixture):
    async def scenario(house: House) -> None:
        house.new()
        assert await house.ask("db_get_user_group", "From", collector([])) == -1

    play(table, groups, scenario)
    assert any("needs the parameter re_table" in m for m in caplog.messages)


def test_a_database_that_is_away():
    database = MemoryDatabase({}, grp=3)
    database.away = True

    async def scenario(house: House) -> None:
        house.new()
        assert await house.ask("db_is_user_in", "From", "ld") == -5

    play(database, groups, scenario)
