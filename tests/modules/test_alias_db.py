"""Aliases from the dbaliases table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from opensipspy.module.testing import make_var
from opensipspy.modules.alias_db import ALIAS_TABLE, NO_DOMAIN, REVERSE, AliasDb, parse_flags
from tests.modules.memory_database import MemoryDatabase
from tests.modules.tables import URL, House, change, make_tables, play

INSERT = "INSERT INTO dbaliases (alias_username, alias_domain, username, domain) VALUES (?, ?, ?, ?)"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "aliases.sqlite"
    make_tables(path, ALIAS_TABLE)
    change(
        path,
        INSERT,
        [
            ("100", "example.org", "bob", "home.example"),
            ("sales", "example.org", "bob", "home.example"),
            ("sales", "example.net", "eve", "home.example"),
            ("bad", "example.org", "x\r\nEvil: 1", "home.example"),
            ("long", "example.org", "x" * 300, "home.example"),
        ],
    )
    return path


def aliases(**params: Any) -> AliasDb:
    return AliasDb(db_url=URL, **params)


@pytest.mark.parametrize(
    ("ruri", "flags", "params", "result"),
    [
        ("sip:100@example.org;transport=tcp", "", {}, "sip:bob@home.example"),
        ("sip:100@example.com", "", {}, None),
        ("sip:100@example.com", "d", {}, "sip:bob@home.example"),
        ("sip:100@SIP.example.org", "", {"domain_prefix": "sip."}, "sip:bob@home.example"),
        ("sip:eve@home.example", "r", {}, "sip:sales@example.net"),
        ("sip:bad@example.org", "", {}, None),
        ("sip:long@example.org", "", {}, None),
        ("sip:100' OR '1'='1@example.org", "", {}, None),
        ("tel:100", "", {}, None),
    ],
)
def test_the_request_uri_is_replaced(table: Path, ruri: str, flags: str, params: dict[str, Any], result: str | None):
    async def scenario(house: House) -> None:
        run = house.new()
        run.ruri = ruri
        asked = ("dbaliases", parse_flags(flags)) if flags else ("dbaliases",)
        assert await house.ask("alias_db_lookup", *asked) == (1 if result else -1)
        assert run.ruri == (result or ruri)
        assert run.branches == []

    play(table, lambda: aliases(**params), scenario)


def test_several_users_become_branches(table: Path):
    async def scenario(house: House) -> None:
        run = house.new(ruri="sip:sales@example.org")
        assert await house.ask("alias_db_lookup", "dbaliases", NO_DOMAIN) == 1
        assert sorted([run.ruri, *(branch.uri for branch in run.branches)]) == [
            "sip:bob@home.example",
            "sip:eve@home.example",
        ]
        assert [branch.q for branch in run.branches] == [0]

    play(table, lambda: aliases(append_branches=1), scenario)


def test_find_puts_the_user_into_a_variable(table: Path):
    async def scenario(house: House) -> None:
        run = house.new(ruri="sip:1@example.org")
        out = make_var("out")
        assert await house.ask("alias_db_find", "dbaliases", "sip:100@example.org", out) == 1
        assert run.vars["out"] == "sip:bob@home.example"
        assert await house.ask("alias_db_find", "dbaliases", "nonsense", out) == -1
        assert await house.ask("alias_db_find", "dbaliases", "sip:bob@home.example", out, REVERSE) == 1
        assert run.vars["out"] in ("sip:100@example.org", "sip:sales@example.org")
        assert run.ruri == "sip:1@example.org"

    play(table, aliases, scenario)


def test_a_database_that_is_away_or_old_finds_nothing(caplog: pytest.LogCaptureFixture):
    database = MemoryDatabase({"dbaliases": []}, dbaliases=1)

    async def scenario(house: House) -> None:
        house.new()
        assert await house.ask("alias_db_lookup", "dbaliases") == -1
        assert any("table dbaliases has version 1, 2 is needed" in m for m in caplog.messages)
        database.away = True
        assert await house.ask("alias_db_lookup", "dbaliases") == -1

    play(database, aliases, scenario)


def test_unknown_flags_are_found_at_load():
    with pytest.raises(ValueError, match="unknown flag 'x'"):
        parse_flags("rx")
