"""PostgreSQL: what it has beside what every driver does. The rest is in test_conformance.py."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from opensipspy.cli import main
from opensipspy.db import Column, Database, DatabaseError, Index, Replace, Table, Update, auto_id, parse_url
from opensipspy.dbdrivers.db_postgres import DbPostgres
from opensipspy.module import StartError
from opensipspy.server.simulation import Simulation
from tests.backends import PostgresServer

THINGS = Table(
    "things",
    1,
    (
        auto_id(),
        Column("code", "string", 10),
        Column("label", "string", 10, null=True, default=None),
        Column("note", "string", 10, default="none"),
    ),
    (Index("code_idx", ("code",), unique=True), Index("label_idx", ("label",), unique=True)),
)

Play = Callable[[Callable[[Database], Coroutine[Any, Any, None]]], None]


@pytest.fixture
def play(postgres_server: PostgresServer, request: pytest.FixtureRequest) -> Play:
    url = parse_url(postgres_server.url(f"own_{abs(hash(request.node.nodeid))}"))
    asyncio.run(DbPostgres().create_tables(url, [THINGS]))

    def run(scenario: Callable[[Database], Coroutine[Any, Any, None]]) -> None:
        async def inside() -> None:
            database = DbPostgres().open_database(url)
            try:
                await scenario(database)
            finally:
                await database.close()

        asyncio.run(inside())

    return run


def test_replace_makes_room_by_every_unique_key(play: Play) -> None:
    """PostgreSQL has no REPLACE: whatever has one of the row's keys goes, and defaults come back."""

    async def scenario(database: Database) -> None:
        await database.insert("things", {"code": "a", "label": "x", "note": "old"})
        await database.insert("things", {"code": "b", "label": "y", "note": "old"})
        await database.insert("things", {"code": "c", "label": None, "note": "old"})
        await database.replace("things", {"code": "a", "label": "y"})
        await database.replace("things", {"code": "d", "label": None})
        rows = await database.select("things", ("code", "label", "note"), order="code")
        assert rows == [("a", "y", "none"), ("c", None, "old"), ("d", None, "none")]
        with pytest.raises(DatabaseError):
            await database.execute([Replace("things", {"code": "c", "note": "x" * 99})])
        assert len(await database.select("things", ("code",))) == 3

    play(scenario)


def test_an_error_does_not_show_the_row(play: Play) -> None:
    """The server's DETAIL holds the row's values, passwords among them."""

    async def scenario(database: Database) -> None:
        await database.insert("things", {"code": "geheim"})
        with pytest.raises(DatabaseError, match="unique") as caught:
            await database.insert("things", {"code": "geheim"})
        assert "geheim" not in str(caught.value)
        with pytest.raises(DatabaseError, match="null value") as caught:
            await database.insert("things", {"code": None, "label": "geheim"})
        assert "geheim" not in str(caught.value)

    play(scenario)


def test_a_table_that_is_changed_meanwhile(play: Play) -> None:
    """Statements prepared before are prepared again."""

    async def scenario(database: Database) -> None:
        await database.insert("things", {"code": "a"})
        assert await database.select("things", (), (("code", "=", "a"),)) == [(1, "a", None, "none")]
        await database.raw("ALTER TABLE things ADD COLUMN extra INTEGER DEFAULT 5")
        assert await database.select("things", (), (("code", "=", "a"),)) == [(1, "a", None, "none", 5)]
        assert await database.execute([Update("things", {"note": "new"}, (("code", "=", "a"),))]) == [1]

    play(scenario)


@pytest.mark.parametrize("value", ["one", "", 1.5, b"\xff"])
def test_a_value_of_the_wrong_kind_fails_for_good(play: Play, value: Any) -> None:
    async def scenario(database: Database) -> None:
        with pytest.raises(DatabaseError) as caught:
            await database.select("things", ("code",), (("id", "=", value),))
        assert not caught.value.transient
        assert await database.select("things", ("code",)) == []

    play(scenario)


def test_types_beyond_the_usual(play: Play) -> None:
    async def scenario(database: Database) -> None:
        [row] = await database.raw(
            "SELECT true, 12345678901234567890::numeric, 1.25::numeric, '192.0.2.1'::inet, ARRAY[1,2], "
            "'{\"a\": 1}'::jsonb, '2026-01-02'::date"
        )
        assert row[:3] == (1, 12345678901234567890, 1.25)
        assert [str(value) for value in row[3:]] == ["192.0.2.1", "[1, 2]", '{"a": 1}', "2026-01-02"]
        assert await database.raw("SELECT ?::bool, ?::timestamptz IS NOT NULL", (1, "2026-01-02 03:04:05")) == [(1, 1)]

    play(scenario)


def test_tls(secure_postgres: PostgresServer, postgres_server: PostgresServer, certificate: tuple[Path, Path]) -> None:
    """use_tls=1: where the server has it; with tls_ca always, and only with a certificate that it signed."""

    async def encrypted(url: str, **params: Any) -> object:
        database = DbPostgres(**params).open_database(parse_url(url))
        try:
            return (await database.raw("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"))[0][0]
        finally:
            await database.close()

    url, plain = secure_postgres.url("postgres"), postgres_server.url("postgres")
    assert asyncio.run(encrypted(url)) == 0
    assert asyncio.run(encrypted(url, use_tls=1)) == 1
    assert asyncio.run(encrypted(plain, use_tls=1)) == 0
    assert asyncio.run(encrypted(f"{url}?tls_ca={certificate[0]}", use_tls=1)) == 1
    with pytest.raises(DatabaseError):
        asyncio.run(encrypted(f"{plain}?tls_ca={certificate[0]}", use_tls=1))
    with pytest.raises(DatabaseError, match=r"certificate"):
        asyncio.run(encrypted(f"{url}?tls_ca=/etc/ssl/certs/ca-certificates.crt", use_tls=1))


def test_the_command_line_makes_and_shows_the_tables(
    postgres_server: PostgresServer, capsys: pytest.CaptureFixture[str]
) -> None:
    url = postgres_server.url("by_hand")
    assert main.main(["db", "create", "--url", url, "--modules", "auth_db", "sqlops"]) == 0
    assert "made version, subscriber, uri, usr_preferences" in capsys.readouterr().out
    assert main.main(["db", "create", "--url", url, "--modules", "auth_db", "sqlops"]) == 0
    assert main.main(["db", "show", "--url", url, "--modules", "auth_db"]) == 0
    assert "subscriber           version 8" in capsys.readouterr().out


def test_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StartError, match=r"opensipspy\[postgres\]"):
        asyncio.run(DbPostgres().start())
    monkeypatch.setitem(sys.modules, "asyncpg", None)

    async def ask() -> None:
        database = DbPostgres().open_database(parse_url("postgres://a@127.0.0.1/b"))
        try:
            await database.ping()
        finally:
            await database.close()

    with pytest.raises(DatabaseError, match=r"opensipspy\[postgres\]"):
        asyncio.run(ask())


def test_a_script_with_three_databases(
    postgres_server: PostgresServer, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """SQLite, PostgreSQL and MariaDB in the same route."""
    mariadb_server = request.getfixturevalue("mariadb_server")
    urls = [f"sqlite:{tmp_path}/one", postgres_server.url("three"), mariadb_server.url("three")]
    for url in urls:
        assert main.main(["db", "create", "--url", url, "--modules", "sqlops"]) == 0
    script = tmp_path / "opensips.cfg"
    script.write_text(
        f"""
log_level=3
socket=udp:127.0.0.1:5060
loadmodule "proto_udp.so"
loadmodule "db_sqlite.so"
loadmodule "db_postgres.so"
loadmodule "db_mysql.so"
loadmodule "sqlops.so"
modparam("sqlops", "db_url", "{urls[0]}")
modparam("sqlops", "db_url", "1 {urls[1]}")
modparam("sqlops", "db_url", "2 {urls[2]}")
route {{
    $var(i) = 0;
    while ($var(i) < 3) {{
        $avp(x) = $fU + " in " + $var(i);
        sql_avp_store("$fu", "$avp(x)", $var(i));
        $avp(x) := NULL;
        sql_avp_load("$fu", "$avp(x)", $var(i));
        sql_query_one("SELECT count(*), max(value) FROM usr_preferences", "$var(n);$var(v)", $var(i));
        xlog("@ $avp(x) $var(n) $var(v)\\n");
        $var(i) = $var(i) + 1;
    }}
}}
""",
        encoding="utf-8",
    )
    with Simulation(str(script), network=True) as site:
        site.receive("""
            MESSAGE sip:bob@example.org SIP/2.0
            Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKm1
            From: <sip:o'hara@example.com>;tag=1
            To: <sip:bob@example.org>
            Call-ID: m1
            CSeq: 1 MESSAGE
            Max-Forwards: 70
        """)
        shown = [line.partition("@ ")[2] for line in site.log if "@ " in line]
    assert shown == [f"o'hara in {number} 1 o'hara in {number}" for number in range(3)]


def test_names_are_kept_as_opensips_writes_them(postgres_server: PostgresServer) -> None:
    """Without quotes, which PostgreSQL turns into small letters: both servers use the same tables."""
    url = parse_url(postgres_server.url("names"))
    key = Index("aor_idx", ("aor", "binding_URI"), unique=True)
    columns = (auto_id(), Column("aor", "string", 64), Column("binding_URI", "string", 64))

    async def run() -> None:
        await DbPostgres().create_tables(url, [Table("registrant", 3, columns, (key,))])
        database = DbPostgres().open_database(url)
        try:
            await database.raw("INSERT INTO registrant (aor, binding_URI) VALUES ('a', 'b')")
            await database.replace("registrant", {"aor": "a", "binding_URI": "b"})
            assert await database.select("registrant", ("binding_URI",), (("binding_URI", "=", "b"),)) == [("b",)]
            assert await database.raw("SELECT count(*) FROM registrant WHERE binding_uri = 'b'") == [(1,)]
        finally:
            await database.close()

    asyncio.run(run())
