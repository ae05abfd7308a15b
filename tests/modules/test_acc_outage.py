"""Accounting into a real database that is killed in mid-load and comes back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest

from opensipspy.db import parse_url
from opensipspy.dbdrivers.db_postgres import DbPostgres
from opensipspy.module.testing import FakeCore, request
from opensipspy.modules.acc import ACC, MISSED_CALLS, Acc
from opensipspy.modules.rr import Rr
from tests.backends import PostgresServer
from tests.modules.test_acc import Call, FakeTm

CALLS = 1500
URL = "postgres:acc"


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    pytest.importorskip("asyncpg")
    if PostgresServer.programs() is None:
        pytest.skip(f"needs the package {PostgresServer.package}")
    started = PostgresServer()
    try:
        started.prepare()
        started.start()
        yield started
    finally:
        started.stop()


def test_each_call_has_one_record_after_kill_9(server: PostgresServer) -> None:
    """Every transaction is accounted once, although the database died while records were made."""
    url = parse_url(server.url("postgres"))

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        driver = DbPostgres()
        await driver.create_tables(url, [ACC, MISSED_CALLS])
        database = driver.open_database(url)
        core = FakeCore(databases={URL: database})
        core.add(FakeTm())
        core.add(Rr())
        acc = core.add(Acc(db_url=URL))
        await acc.start()

        async def calls(first: int, last: int) -> None:
            for number in range(first, last):
                call = Call(core, request(call_id=f"call-{number}"))
                call.do("do_accounting", "db", "missed|failed")
                if number % 5:
                    call.answered(200)
                else:
                    call.failed(486)
                    call.answered(486, "Busy")
                await asyncio.sleep(0)

        await calls(0, CALLS // 3)
        killing = loop.run_in_executor(None, server.kill)
        await calls(CALLS // 3, 2 * CALLS // 3)
        await killing
        assert acc.queued_writes.read() > 0
        starting = loop.run_in_executor(None, server.start)
        await calls(2 * CALLS // 3, CALLS)
        await starting
        async with asyncio.timeout(30):
            while database.queued:  # noqa: ASYNC110 - the queue has no event to wait for
                await asyncio.sleep(0.02)
        records = Counter(row[0] for row in await database.select("acc", ("callid",)))
        assert records == Counter(f"call-{number}" for number in range(CALLS))
        missed = Counter(row[0] for row in await database.select("missed_calls", ("callid",)))
        assert missed == Counter(f"call-{number}" for number in range(0, CALLS, 5))
        assert acc.lost_records.read() == 0
        await acc.stop()
        await database.close()

    asyncio.run(scenario())


def test_long_values_do_not_keep_a_call_out_of_the_records(
    server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A strict server refuses a row for one text that is too long: what a peer sends must not decide about that."""
    url = parse_url(server.url("postgres"))

    async def scenario() -> None:
        driver = DbPostgres()
        await driver.create_tables(url, [ACC, MISSED_CALLS])
        database = driver.open_database(url)
        await database.raw("ALTER TABLE acc ADD COLUMN agent VARCHAR(16) NOT NULL")
        await database.raw("ALTER TABLE acc ADD COLUMN note TEXT")
        core = FakeCore(databases={URL: database})
        core.add(FakeTm())
        core.add(Rr())
        acc = core.add(Acc(db_url=URL, extra_fields="db: agent; note"))
        await acc.start()
        await core.settle()
        for number, agent in enumerate(("phone/1", "x" * 10_000, "ü" * 17, "\udcff" * 20, None)):
            call = Call(core, request(call_id=f"call-{number}"))
            call.do("do_accounting", "db")
            core.write("$acc_extra", call.run, agent, "agent")
            core.write("$acc_extra", call.run, agent, "note")
            call.answered(200)
        await database.flush()
        rows = await database.select("acc", ("agent", "note"), order="id")
        assert [row[0] for row in rows] == ["phone/1", "x" * 16, "ü" * 16, ("\\xff" * 4), ""]
        assert rows[1][1] == "x" * 10_000
        assert acc.refused_writes.read() == 0
        await acc.stop()
        await database.close()

    asyncio.run(scenario())
    assert caplog.text.count("longer values of column agent of table acc are cut to 16") == 1
