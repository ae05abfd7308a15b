"""db_http against a server that speaks its protocol in front of SQLite (db_http manual, "Server specifications")."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote

import pytest

from opensipspy.db import Database, DatabaseError, Delete, Insert, InsertUpdate, Replace, parse_url
from opensipspy.dbdrivers.db_http import DbHttp, Dialect
from opensipspy.module import ParamError
from opensipspy.module.testing import FakeCore
from tests.modules.asynchronous import in_loop

aiohttp = pytest.importorskip("aiohttp")
web = pytest.importorskip("aiohttp.web")

TABLE = "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT, age INTEGER, size REAL, photo BLOB)"
KINDS = {"id": "int", "name": "string", "age": "int", "size": "double", "photo": "blob", "table_version": "int"}


class Server:
    """The protocol's other end."""

    def __init__(self) -> None:
        self.memory = sqlite3.connect(":memory:")
        self.memory.execute(TABLE)
        self.seen: list[tuple[str, str, str]] = []
        self.status = 200
        self.answer: str | None = None
        self.challenge = ""
        self.respond: Any = None

    async def handle(self, request: Any) -> Any:
        text = request.url.raw_query_string if request.method == "GET" else await request.text()
        if self.respond is not None:
            await self.respond(request)
        self.seen.append((request.method, request.path, text))
        if self.challenge and "Authorization" not in request.headers:
            return web.Response(status=401, headers={"WWW-Authenticate": self.challenge})
        if self.status != 200:
            return web.Response(status=self.status, text="it went wrong")
        if self.answer is not None:
            return web.Response(text=self.answer)
        form = {name: value for name, _, value in (part.partition("=") for part in text.split("&"))}
        try:
            return web.Response(body=self.run(request.path.strip("/").rpartition("/")[2], form))
        except sqlite3.Error as error:
            return web.Response(status=500, text=str(error))

    def run(self, table: str, form: dict[str, str]) -> bytes:
        def values(name: str) -> list[Any]:
            words = [unquote(word, errors="surrogateescape") for word in form[name].split(",")] if name in form else []
            return [None if word == "\0" else word for word in words]

        where = " AND ".join(
            f"{key} IS NULL" if value is None else f"{key} {op} ?"
            for key, op, value in zip(values("k"), values("op"), values("v"), strict=False)
        )
        condition = f" WHERE {where}" if where else ""
        bound = [value for value in values("v") if value is not None]
        kind = form.get("query_type", "")
        if kind in ("insert", "replace"):
            marks = ",".join("?" * len(values("v")))
            self.memory.execute(
                f"{kind} INTO {table} ({','.join(values('k'))}) VALUES ({marks})",
                values("v"),
            )
            return b"1"
        if kind == "delete":
            self.memory.execute(f"DELETE FROM {table}{condition}", bound)
            return b""
        if kind == "update":
            settings = ",".join(f"{key} = ?" for key in values("uk"))
            self.memory.execute(f"UPDATE {table} SET {settings}{condition}", values("uv") + bound)
            return b""
        if kind == "custom":
            cursor = self.memory.execute(values("q")[0])
            names = [column[0] for column in cursor.description]
        else:
            names = values("c") or list(KINDS)[:5]
            order = f" ORDER BY {values('o')[0]}" if "o" in form else ""
            cursor = self.memory.execute(f"SELECT {','.join(names)} FROM {table}{condition}{order}", bound)
        lines = [";".join(KINDS.get(name, "string") for name in names)]
        lines += [";".join(self.cell(value) for value in row) for row in cursor.fetchall()]
        return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")

    @staticmethod
    def cell(value: Any) -> str:
        text = (
            ""
            if value is None
            else value.decode("utf-8", "surrogateescape")
            if isinstance(value, bytes)
            else str(value)
        )
        return f"|{text.replace('|', '||')}|" if any(char in text for char in ";\n|") else text


@asynccontextmanager
async def serving(path: str = "", account: str = "", **params: Any) -> AsyncIterator[tuple[Server, Database]]:
    server = Server()
    runner = web.ServerRunner(web.Server(server.handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    database = FakeCore().add(DbHttp(**params)).open_database(parse_url(f"http://{account}127.0.0.1:{port}{path}"))
    try:
        yield server, database
    finally:
        await database.close()
        await runner.cleanup()


@in_loop
async def test_rows_go_in_and_come_back() -> None:
    async with serving("/some/where") as (server, database):
        nasty = "a;b|c\nd,e&f=g%h ü 😀 ' \""
        await database.insert("people", {"id": 1, "name": nasty, "age": None, "size": 1.5})
        await database.insert("people", {"id": 2, "name": "", "age": 7})
        assert await database.select("people", ("id", "name", "age", "size"), (("name", "=", nasty),)) == [
            (1, nasty, None, 1.5)
        ]
        assert await database.select("people", ("name",), (("age", "=", None),)) == [(nasty,)]
        assert await database.update("people", {"age": 8}, (("id", ">=", 2), ("name", "=", ""))) == 1
        assert await database.select("people", ("age",), (), "id desc", 1) == [(8,)]
        assert await database.delete("people", (("id", "=", 2),)) == 1
        assert [row[0] for row in await database.select("people", ("id",))] == [1]
    assert server.seen[1] == ("POST", "/some/where/people", "k=id,name,age&v=2,,7&query_type=insert")
    assert server.seen[3] == ("GET", "/some/where/people/", "k=age&op=%3D&v=%00&c=name")
    assert server.seen[4][2] == "k=id,name&op=%3E%3D,%3D&v=2,&uk=age&uv=8&query_type=update"


@in_loop
async def test_what_the_server_does_not_have_is_not_sent() -> None:
    async with serving() as (server, database):
        for write in (Replace("people", {"id": 1}), InsertUpdate("people", {"id": 1}, ("id",))):
            with pytest.raises(DatabaseError, match="cap_") as caught:
                await database.execute([Insert("people", {"id": 9}), write])
            assert not caught.value.transient
        with pytest.raises(DatabaseError, match="cap_raw_query"):
            await database.raw("SELECT 1")
        assert server.seen == []
    async with serving(cap_replace=1, cap_insert_update=1, cap_raw_query=1) as (server, database):
        await database.replace("people", {"id": 1, "name": "a"})
        await database.replace("people", {"id": 1, "name": "b"})
        assert await database.raw("SELECT id, name FROM people") == [(1, "b")]
        server.answer = ""
        await database.insert_update("people", {"id": 1}, ("id",))
        assert server.seen[-1][2] == "k=id&v=1&query_type=insert_update"


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (
            "int;string;blob\n6;|ana;maria|;1000\n100;mine;10002030\n",
            [(6, "ana;maria", b"1000"), (100, "mine", b"10002030")],
        ),
        ("int;string;blob\n3;mine;|some||more;|\n", [(3, "mine", b"some|more;")]),
        ("date;double;bigint\n2026-01-02 03:04:05;1.5;\n", [None]),
        ("int\n", []),
        ("", []),
        ("string\n\nx", [("",), ("x",)]),
    ],
)
@in_loop
async def test_replies_of_the_manual(text: str, rows: list[Any]) -> None:
    async with serving() as (server, database):
        server.answer = text
        found = await database.select("people", ("id",))
        assert len(found) == 1 if rows == [None] else found == rows


@pytest.mark.parametrize("text", ["colour\nred\n", "int\nx\n", "int;int\n1\n", "string\n|open\n", "date\nsoon\n"])
@in_loop
async def test_replies_that_cannot_be_read(text: str) -> None:
    async with serving() as (server, database):
        server.answer = text
        with pytest.raises(DatabaseError, match="cannot be read") as caught:
            await database.select("people", ("id",))
        assert not caught.value.transient


@in_loop
async def test_others_do_not_wait_while_a_large_answer_is_read() -> None:
    """10 MB of quotes: read beside the event loop, and every octet is there."""
    async with serving() as (server, database):
        server.answer = "string;blob\n|" + "||" * 2_500_000 + "|;" + "x" * 5_000_000 + "\n"
        turns = 0
        done = asyncio.ensure_future(database.select("people", ("name",)))
        while not done.done():
            await asyncio.sleep(0.001)
            turns += 1
        assert await done == [("|" * 2_500_000, b"x" * 5_000_000)]
        assert turns > 20


@in_loop
async def test_an_answer_of_too_many_cells_is_refused() -> None:
    async with serving() as (server, database):
        server.answer = "int\n" + "\n" * 1_000_001
        with pytest.raises(DatabaseError, match="more than 1000000 cells"):
            await database.select("people", ("id",))


@pytest.mark.parametrize(("status", "transient"), [(500, False), (404, False), (401, False), (503, True), (302, False)])
@in_loop
async def test_statuses(status: int, transient: bool) -> None:
    async with serving() as (server, database):
        server.status = status
        with pytest.raises(DatabaseError, match=str(status)) as caught:
            await database.insert("people", {"id": 1})
        assert caught.value.transient is transient
        assert database.available is not transient


@pytest.mark.parametrize(
    "challenge", ['Basic realm="x"', 'Digest realm="x", nonce="abc", qop="auth", algorithm=SHA-256, Basic realm="x"']
)
@in_loop
async def test_credentials_are_sent_when_asked_for(challenge: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(account="user:geheim@") as (server, database):
        await database.insert("people", {"id": 1})
        server.challenge = challenge
        await database.insert("people", {"id": 2})
        assert len(await database.select("people", ("id",))) == 2
        assert "geheim" not in str(database.url) + caplog.text


@in_loop
async def test_a_server_that_is_away_or_silent() -> None:
    async with serving(timeout=50) as (server, database):
        never = asyncio.Event()

        async def silent(request: Any) -> Any:
            await never.wait()

        server.respond = silent
        with pytest.raises(DatabaseError, match="no answer in 50 ms") as caught:
            await database.insert("people", {"id": 1})
        assert caught.value.transient
        never.set()
    for target in ("http://127.0.0.1:1", "http://[::1]:1/x"):
        database = FakeCore().add(DbHttp(timeout=1000)).open_database(parse_url(target))
        with pytest.raises(DatabaseError) as caught:
            await database.ping()
        assert caught.value.transient
        await database.close()
        with pytest.raises(DatabaseError, match="closed"):
            await database.ping()


@pytest.mark.parametrize("name", ["a&query_type=delete", "a,b", "a b", ""])
@in_loop
async def test_a_name_that_cannot_be_is_not_sent(name: str) -> None:
    async with serving() as (server, database):
        for attempt in (
            database.select(name, ("id",)),
            database.select("people", (name,)),
            database.select("people", ("id",), ((name, "=", 1),)),
            database.select("people", ("id",), (("id", "=;", 1),)),
            database.insert("people", {name: 1}),
            database.execute([Delete(name)]),
        ):
            with pytest.raises(DatabaseError):
                await attempt
        assert server.seen == []


def test_delimiters() -> None:
    assert Dialect(",", ";", "'").rows("a,'b'',;';c,d") == [["a", "b',;"], ["c", "d"]]
    for name in ("field_delimiter", "row_delimiter", "quote_delimiter", "value_delimiter"):
        with pytest.raises(ParamError, match="one character"):
            DbHttp(**{name: "ab"})
