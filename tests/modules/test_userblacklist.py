"""Prefixes of numbers that may not be called."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from opensipspy.management import MiError
from opensipspy.module import Module
from opensipspy.modules.userblacklist import GLOBAL_TABLE, USER_TABLE, UserBlacklist
from tests.modules.memory_database import MemoryDatabase
from tests.modules.tables import URL, House, change, make_tables, play


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The rows of the manual's examples."""
    path = tmp_path / "lists.sqlite"
    make_tables(path, USER_TABLE, GLOBAL_TABLE)
    change(
        path,
        "INSERT INTO globalblacklist (prefix, whitelist) VALUES (?, ?)",
        [("", "0"), ("1", "1"), ("123456", "0"), ("123455787", "0")],
    )
    change(
        path,
        "INSERT INTO userblacklist (username, domain, prefix, whitelist) VALUES (?, ?, ?, ?)",
        [
            ("49721123456788", "", "1234", "0"),
            ("49721123456788", "", "123456788", "1"),
            ("494675231", "test", "499034132", "0"),
            ("odd", "", "12x", "0"),
            ("odd", "", "99", "0"),
        ],
    )
    return path


def lists(**params: object) -> Module:
    module = UserBlacklist(db_url=URL, **params)
    for function in module.functions():
        if function.name == "check_blacklist":
            # As the script that names the table does, at load.
            fixup = function.params[0].fixup
            assert fixup is not None
            assert fixup("globalblacklist") == "globalblacklist"
            with pytest.raises(ValueError, match="empty"):
                fixup("")
    return module


@pytest.mark.parametrize(
    ("user", "result"),
    [
        ("2", -1),
        ("1", 1),
        ("12345", 1),
        ("+1-23", 1),
        ("1234567", -1),
        ("123455787", -1),
        ("12345578", 1),
        ("alice", -1),
        ("1" * 32, -1),
        ("", -1),
    ],
)
def test_a_table_for_all(table: Path, user: str, result: int):
    async def scenario(house: House) -> None:
        house.new(ruri=f"sip:{user}@example.org" if user else "sip:example.org")
        assert house.core.call("check_blacklist", house.run, "globalblacklist") == result

    play(table, lists, scenario)


@pytest.mark.parametrize(
    ("user", "domain", "number", "use_domain", "result"),
    [
        ("49721123456788", "", "12345", 1, -1),
        ("49721123456788", "", "+123-456788", 1, 1),
        ("49721123456788", "", "5", 1, 1),
        ("49721123456788", "x", "12345", 1, 1),
        ("49721123456788", "x", "12345", 0, -1),
        ("494675231", "test", "4990341321", 1, -1),
        ("nobody' OR 1=1 --", "", "12345", 1, 1),
        ("49721123456788", "", "1" * 32, 1, -1),
        ("odd", "", "995", 1, -1),
        ("odd", "", "12", 1, 1),
    ],
)
def test_prefixes_of_a_user(table: Path, user: str, domain: str, number: str, use_domain: int, result: int):
    async def scenario(house: House) -> None:
        house.new()
        assert await house.ask("check_user_blacklist", user, domain, number) == result
        assert await house.ask("check_user_blacklist", user, domain, number, "userblacklist") == result
        house.new(ruri=f"sip:{number}@example.org")
        assert await house.ask("check_user_blacklist", user, domain) == result

    play(table, lambda: lists(use_domain=use_domain), scenario)


def test_reload(table: Path, caplog: pytest.LogCaptureFixture):
    async def scenario(house: House) -> None:
        house.new(ruri="sip:77@example.org")
        assert await house.ask("check_blacklist", "globalblacklist") == -1
        change(table, "INSERT INTO globalblacklist (prefix, whitelist) VALUES ('77', '1'), ('7x', '1')")
        assert await house.mi("reload_blacklist") == "OK"
        assert await house.ask("check_blacklist", "globalblacklist") == 1
        change(table, "DROP TABLE globalblacklist")
        with pytest.raises(MiError, match="cannot reload blacklist"):
            await house.mi("userblacklist:reload")
        assert await house.ask("check_blacklist", "globalblacklist") == 1

    with caplog.at_level(logging.WARNING):
        play(table, lists, scenario)
    assert any("1 of 6 rows are skipped; the first: row 6: prefix '7x' has other" in m for m in caplog.messages)


def test_what_is_not_known_is_not_allowed():
    """While the database has never answered, and where a table has no name that was seen at load."""
    database = MemoryDatabase({}, userblacklist=2, globalblacklist=2)
    database.away = True

    async def scenario(house: House) -> None:
        house.new(ruri="sip:1@example.org")
        assert await house.ask("check_blacklist", "globalblacklist") == -1
        assert await house.ask("check_blacklist", "unknown") == -1
        assert await house.ask("check_user_blacklist", "a", "b", "1") == -1

    play(database, lists, scenario)
