"""Servers that answer late, in pieces, garbled or not at all, through a wire that the test holds in its hand."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from opensipspy.db import Column, DatabaseError, Index, Insert, PooledDatabase, RefusedError, Table, auto_id, parse_url
from opensipspy.dbdrivers.db_mysql import DbMysql
from opensipspy.dbdrivers.db_postgres import DbPostgres
from tests.dbdrivers.wire import Wire

THINGS = Table(
    "hostile_things",
    1,
    (
        auto_id(),
        Column("name", "string", 64, default=""),
        Column("age", "int", 11, null=True, default=None),
        Column("photo", "binary", null=True, default=None),
    ),
    (Index("name_idx", ("name",), unique=True),),
)
COUNT = 40
SHORT_S = 0.5
# How texts from messages hold a byte that is no UTF-8, and what JSON may bring.
BYTE = chr(0xDCFF)
HALF = chr(0xD800)

Scenario = Callable[[PooledDatabase, Wire], Awaitable[None]]


class Server:
    """A real server with a table of things."""

    def __init__(self, kind: type[Any], server: Any, name: str) -> None:
        self.kind = kind
        self.server = server
        self.name = name

    def url(self, port: int = 0, account: str = "") -> str:
        text = self.server.url(self.name, account) if account else self.server.url(self.name)
        return str(text).replace(f":{self.server.port}/", f":{port or self.server.port}/")

    def open(self, port: int = 0, account: str = "") -> PooledDatabase:
        found: PooledDatabase = self.kind().open_database(parse_url(self.url(port, account)))
        return found

    def direct(self, *statements: str) -> None:
        """Run statements as the administrator."""

        async def run() -> None:
            database = self.open()
            try:
                for statement in statements:
                    await database.raw(statement)
            finally:
                await database.close()

        asyncio.run(run())

    def play(self, scenario: Scenario, account: str = "") -> None:
        """With a database whose bytes go through a wire."""

        async def run() -> None:
            async with asyncio.timeout(60), Wire(self.server.port) as wire:
                database = self.open(wire.port, account)
                try:
                    await scenario(database, wire)
                finally:
                    wire.spoil = None
                    wire.release()
                    await database.close()

        asyncio.run(run())


@pytest.fixture(params=["postgres", "mysql"])
def real(request: pytest.FixtureRequest) -> Server:
    kind, fixture = (DbPostgres, "postgres_server") if request.param == "postgres" else (DbMysql, "mariadb_server")
    made = Server(kind, request.getfixturevalue(fixture), "hostile")

    async def fill() -> None:
        database = made.open()
        rows = [{"name": f"n{n}", "age": n, "photo": bytes([n]) * 500} for n in range(COUNT)]
        await database.insert_many(THINGS.name, rows)
        await database.close()

    asyncio.run(made.kind().create_tables(parse_url(made.url()), [THINGS]))
    made.direct("DELETE FROM hostile_things")
    asyncio.run(fill())
    return made


async def name_of(database: PooledDatabase, age: int) -> Any:
    [[name]] = await database.select(THINGS.name, ("name",), (("age", "=", age),))
    return name


async def all_rows(database: PooledDatabase) -> list[tuple[Any, ...]]:
    return list(await database.select(THINGS.name, ("name", "age", "photo"), order="age"))


async def until(condition: Callable[[], bool]) -> None:
    while True:
        if condition():
            return
        await asyncio.sleep(0.01)


def lines(caplog: pytest.LogCaptureFixture, text: str) -> int:
    return sum(text in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("raw", [False, True], ids=["select", "raw"])
def test_a_late_answer_is_nobodys(real: Server, raw: bool) -> None:
    """The connection whose answer did not come in time is thrown away; the others go on meanwhile."""

    async def asked(database: PooledDatabase, age: int) -> Any:
        if not raw:
            return await name_of(database, age)
        [[name]] = await database.raw(f"SELECT name FROM hostile_things WHERE age = {age}")
        return name

    async def scenario(database: PooledDatabase, wire: Wire) -> None:
        await asyncio.gather(*(asked(database, age) for age in range(4)))
        links = wire.links
        assert len(links) >= 2
        database._limits.query_s = SHORT_S
        links[0].passing.clear()
        found = await asyncio.gather(*(asked(database, age) for age in range(COUNT)), return_exceptions=True)
        late = [error for error in found if isinstance(error, BaseException)]
        assert len(late) == 1
        assert isinstance(late[0], DatabaseError)
        assert late[0].transient
        assert "no answer to" in str(late[0])
        assert [name for name in found if isinstance(name, str)] == [
            f"n{age}" for age in range(COUNT) if isinstance(found[age], str)
        ]
        links[0].passing.set()
        database._limits.query_s = 10
        assert await asyncio.gather(*(asked(database, age) for age in range(COUNT))) == [f"n{n}" for n in range(COUNT)]
        await links[0].ended.wait()
        assert database.available
        assert database.queries >= COUNT

    real.play(scenario)


def test_a_late_answer_to_a_write_may_have_been_done(real: Server) -> None:
    """It is told as uncertain, it is not done again by itself, and the next write is not taken for it."""

    async def scenario(database: PooledDatabase, wire: Wire) -> None:
        assert await database.update(THINGS.name, {"age": 100}, (("age", "<", 7),)) == 7
        database._limits.query_s = SHORT_S
        wire.hold()
        with pytest.raises(DatabaseError) as caught:
            await database.update(THINGS.name, {"age": 200}, (("age", "=", 100),))
        assert caught.value.uncertain
        assert caught.value.transient
        wire.release()
        database._limits.query_s = 10
        assert await database.update(THINGS.name, {"photo": b""}, (("age", "=", 9),)) == 1

    real.play(scenario)


def test_an_end_in_mid_result(real: Server, caplog: pytest.LogCaptureFixture) -> None:
    """A read is done again on another connection, and is never short of rows; a write is told as uncertain."""

    async def scenario(database: PooledDatabase, wire: Wire) -> None:
        whole = await all_rows(database)
        assert len(whole) == COUNT
        size = wire.links[-1].sent
        for cut in [1, 4, 5, 17, 100, 999, 5000, 15000, size]:
            await database.ping()
            link = wire.links[-1]
            link.cut_at = link.sent + cut
            assert await all_rows(database) == whole
        assert await database.update(THINGS.name, {"age": 1003}, (("age", "=", 5000),)) == 0
        link = wire.links[-1]
        link.cut_at = link.sent + 3
        with pytest.raises(DatabaseError) as caught:
            await database.update(THINGS.name, {"age": 1003}, (("age", "=", 3),))
        assert caught.value.transient
        assert caught.value.uncertain
        rows = await all_rows(database)
        assert sum(age == 1003 for _, age, _ in rows) + sum(age == 3 for _, age, _ in rows) == 1

    real.play(scenario)
    assert lines(caplog, "is not available") == 0


@pytest.mark.parametrize("seed", range(3))
def test_garbled_answers(real: Server, seed: int) -> None:
    """Whatever the client library makes of them: an error of the database, and then it serves again."""
    chance = random.Random(seed)

    async def scenario(database: PooledDatabase, wire: Wire) -> None:
        whole = await all_rows(database)
        for _ in range(25):
            first = chance.randrange(0, 700)
            bit = 1 << chance.randrange(8)

            def spoil(at: int, data: bytes, first: int = first, bit: int = bit) -> bytes:
                if at <= first < at + len(data):
                    changed = bytearray(data)
                    changed[first - at] ^= bit
                    return bytes(changed)
                return data

            database._limits.query_s = database._limits.connect_s = SHORT_S
            wire.spoil = spoil
            for link in wire.links:
                link.sent = 0
            sql = "SELECT name, age, photo FROM hostile_things ORDER BY age"
            for found in await asyncio.gather(all_rows(database), database.raw(sql), return_exceptions=True):
                assert isinstance(found, list | DatabaseError)
                assert isinstance(found, list) or len(str(found).splitlines()) == 1
            wire.spoil = None
            wire.cut()
            database._limits.query_s = database._limits.connect_s = 10
            await until(lambda: database._returning is None)
            assert await all_rows(database) == whole

    real.play(scenario)


def test_a_garbled_greeting(real: Server) -> None:
    """While the server's first words make no sense it is away; it is used once they do."""

    async def scenario(database: PooledDatabase, wire: Wire) -> None:
        database._limits.connect_s = SHORT_S
        wire.spoil = lambda at, data: bytes(255 - byte for byte in data)
        with pytest.raises(DatabaseError) as caught:
            await database.ping()
        assert caught.value.transient
        assert not database.available
        wire.spoil = None
        database._limits.connect_s = 10
        await until(lambda: database.available)
        assert len(await all_rows(database)) == COUNT

    real.play(scenario)


# --- a server that gives no further connection


@pytest.fixture
def limited(real: Server) -> Iterator[Server]:
    """With an account "few", which has a password and may open two connections."""
    if real.kind is DbPostgres:
        made = ["CREATE ROLE few LOGIN CONNECTION LIMIT 2", "GRANT ALL ON ALL TABLES IN SCHEMA public TO few"]
        made += ["GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO few"]
        ends = ["DROP OWNED BY few", "DROP ROLE few"]
    else:
        made = ["CREATE USER few IDENTIFIED BY 'secret' WITH MAX_USER_CONNECTIONS 2", "GRANT ALL ON hostile.* TO few"]
        ends = ["DROP USER few"]
    real.direct(*made)
    yield real
    real.direct(*ends)


def test_too_many_connections(limited: Server, caplog: pytest.LogCaptureFixture) -> None:
    """The connections that there are do all the work; one line tells why."""

    async def scenario(database: PooledDatabase, wire: Wire) -> None:
        for _ in range(3):
            found = await asyncio.gather(*(name_of(database, age) for age in range(COUNT)))
            assert found == [f"n{age}" for age in range(COUNT)]
        assert len(wire.links) == 2
        assert database.available

    limited.play(scenario, "few:secret")
    assert lines(caplog, "gives no further connection") == 1
    assert lines(caplog, "is not available") == 0
    assert "secret" not in caplog.text


def test_an_account_that_is_closed_while_in_use(limited: Server, caplog: pytest.LogCaptureFixture) -> None:
    """What is connected goes on; when that ends the database is away, and it is used again with the account."""
    if limited.kind is DbPostgres:
        change, back = "ALTER ROLE few NOLOGIN", "ALTER ROLE few LOGIN"
    else:
        change, back = "SET PASSWORD FOR few = PASSWORD('other')", "SET PASSWORD FOR few = PASSWORD('secret')"

    async def scenario(database: PooledDatabase, wire: Wire) -> None:
        assert await name_of(database, 1) == "n1"
        administrator = limited.open()
        try:
            await administrator.raw(change)
            assert await asyncio.gather(*(name_of(database, age) for age in range(9))) == [f"n{n}" for n in range(9)]
            wire.cut()
            with pytest.raises(RefusedError) as caught:
                await asyncio.gather(*(name_of(database, age) for age in range(9)))
            assert caught.value.transient
            assert not database.available
            await administrator.raw(back)
            await until(lambda: database.available)
            assert await name_of(database, 1) == "n1"
        finally:
            await administrator.close()

    limited.play(scenario, "few:secret")
    assert lines(caplog, "is not available") == 1
    assert lines(caplog, "is available again") == 1
    assert "secret" not in caplog.text


# --- a server that only reads


def test_writes_wait_for_a_server_that_only_reads(real: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Those that nobody waits for are kept, and the operator is told once; who waits hears it at once."""
    if real.kind is DbPostgres:
        on, off = (f"ALTER DATABASE hostile SET default_transaction_read_only = {state}" for state in ("on", "off"))
        account = ""
    else:
        on, off = "SET GLOBAL read_only = 1", "SET GLOBAL read_only = 0"
        real.direct("CREATE USER plain", "GRANT SELECT, INSERT ON hostile.* TO plain")
        account = "plain:"

    async def scenario(database: PooledDatabase, wire: Wire) -> None:
        administrator = real.open()
        try:
            await administrator.raw(on)
            assert await name_of(database, 1) == "n1"
            with pytest.raises(DatabaseError) as caught:
                await database.insert(THINGS.name, {"name": "now"})
            assert caught.value.transient
            database.write_later(*[Insert(THINGS.name, {"name": f"later {n}"}) for n in range(20)])
            await until(lambda: lines(caplog, "20 writes are waiting") == 1)
            assert database.queued == 20
            await administrator.raw(off)
        finally:
            await administrator.close()
        wire.cut()  # the setting is one of new connections
        await until(lambda: database.queued == 0)
        assert len(await all_rows(database)) == COUNT + 20

    try:
        real.play(scenario, account)
    finally:
        if account:
            real.direct(off, "DROP USER plain")
    assert lines(caplog, "writes are waiting") == 1
    assert lines(caplog, "queued writes are taken again") == 1


# --- texts that a server cannot hold


@pytest.mark.parametrize("name", [f"a{BYTE}b", f"a{HALF}b"], ids=["no UTF-8", "half a pair"])
def test_a_queued_row_with_bytes_that_are_no_text_is_kept(
    real: Server, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A caller does not stay out of the accounts with a byte that the column refuses."""

    async def scenario(database: PooledDatabase, wire: Wire) -> None:
        database.write_later(
            Insert(THINGS.name, {"name": "before", "age": 900}),
            Insert(THINGS.name, {"name": name, "age": 901}),
            Insert(THINGS.name, {"name": "behind", "age": 902}),
        )
        await database.flush()
        [[kept]] = await database.select(THINGS.name, ("name",), (("age", "=", 901),))
        assert kept == "a\\xffb" if BYTE in name else "a\\xed\\xa0\\x80b"
        assert len(await database.select(THINGS.name, ("name",), (("age", ">=", 900),))) == 3
        assert database.lost_writes == 0

    real.play(scenario)
    assert lines(caplog, "is lost") == 0


def test_nul_in_a_queued_row_is_kept(real: Server) -> None:
    """PostgreSQL has no NUL in texts, MySQL has."""

    async def scenario(database: PooledDatabase, wire: Wire) -> None:
        database.write_later(Insert(THINGS.name, {"name": "a\0b", "age": 901}))
        await database.flush()
        [[kept]] = await database.select(THINGS.name, ("name",), (("age", "=", 901),))
        assert kept == ("a\\x00b" if real.kind is DbPostgres else "a\0b")

    real.play(scenario)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("name", f"geheim{BYTE}"),
        ("name", f"geheim{HALF}"),
        ("age", "geheim"),
        ("age", 1 << 70),
        ("age", -(1 << 63) - 1),
        ("name", "geheim" * 100),
    ],
    ids=["no UTF-8", "half a pair", "text for a number", "71 bits", "beyond -63", "too long"],
)
def test_a_value_that_never_fits_leaves_the_connection(real: Server, column: str, value: Any) -> None:
    """Refused for good, in one line that does not show it; the next operation goes through the same connection."""

    async def scenario(database: PooledDatabase, wire: Wire) -> None:
        assert await name_of(database, 1) == "n1"
        for work in (
            database.insert(THINGS.name, {column: value}),
            database.insert_many(THINGS.name, [{column: value}]),
        ):
            with pytest.raises(DatabaseError) as caught:
                await work
            assert not caught.value.transient
            assert len(str(caught.value).splitlines()) == 1
            if real.kind is DbPostgres:
                assert "geheim" not in str(caught.value)
        assert await name_of(database, 1) == "n1"
        assert wire.connections == 1

    real.play(scenario)


def test_a_raw_select_is_not_sent_twice(real: Server) -> None:
    """It may change data: who sends it learns that its answer is missing."""
    postgres = real.kind is DbPostgres
    real.direct("DROP SEQUENCE IF EXISTS drawn", f"CREATE SEQUENCE drawn {'' if postgres else 'NOCACHE'}")
    draw = "SELECT nextval('drawn'), pg_sleep(0.5)" if postgres else "SELECT NEXTVAL(drawn), SLEEP(0.5)"
    look = "SELECT last_value FROM drawn" if postgres else "SELECT next_not_cached_value - 1 FROM drawn"

    async def scenario(database: PooledDatabase, wire: Wire) -> None:
        await database.raw(draw)
        other = real.open()
        try:
            drawing = asyncio.ensure_future(database.raw(draw))
            while await other.raw(look) != [(2,)]:
                pass  # until it has drawn
            wire.cut()
            with pytest.raises(DatabaseError) as caught:
                await drawing
            assert caught.value.uncertain
            assert await database.raw(look) == [(2,)]
        finally:
            await other.close()

    real.play(scenario)
