"""Records of calls in the queue to a database: when the server is told to stop, and when its disk is full."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from opensipspy.cli import main
from opensipspy.db import DbDriver, parse_url
from opensipspy.dbdrivers.db_mysql import DbMysql
from opensipspy.dbdrivers.db_postgres import DbPostgres
from tests.backends import MariadbServer, PostgresServer
from tests.ports import free_port
from tests.scenarios.server import ServerProcess

SCRIPT = """
log_level=2
stderror_enabled=yes
socket=udp:127.0.0.1:{port}
loadmodule "proto_udp.so"
loadmodule "db_{kind}.so"
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "acc.so"
modparam("acc", "db_url", "{url}")
route {{ acc_db_request("taken", "acc"); sl_send_reply(200, "OK"); }}
"""
OPTIONS = (
    "OPTIONS sip:x@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{port};branch=z9hG4bKx{number}\r\n"
    "From: <sip:a@b>;tag=1\r\nTo: <sip:x@b>\r\nCall-ID: {number}\r\nCSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\n"
    "Content-Length: 0\r\n\r\n"
)
COUNT = 400


def accepted(phone: socket.socket, numbers: range) -> set[int]:
    """Send so many requests, a few at a time; those that were answered with 200, their records taken."""
    answered = set()
    for number in numbers:
        phone.send(OPTIONS.format(port=phone.getsockname()[1], number=number).encode())
        if number % 10 == 9:
            for _ in range(10):
                found = re.search(rb"^SIP/2\.0 200 .*?^Call-ID: (\d+)", phone.recv(4096), re.DOTALL | re.MULTILINE)
                assert found is not None
                answered.add(int(found[1]))
    return answered


@pytest.mark.parametrize("database", ["answers", "silent", "away"])
def test_each_record_is_written_or_told_to_be_lost(database: str, tmp_path: Path) -> None:
    pytest.importorskip("asyncpg", reason="needs the package asyncpg")
    if PostgresServer.programs() is None:
        pytest.skip(f"needs the package {PostgresServer.package}")
    store = PostgresServer()
    try:
        store.prepare()
        store.start()
        url = store.url("records")
        assert main.main(["db", "create", "--url", url, "--modules", "acc"]) == 0
        port = free_port()
        script = tmp_path / "records.cfg"
        script.write_text(SCRIPT.format(port=port, url=url, kind="postgres"), encoding="utf-8")
        server = ServerProcess(script, tmp_path)
        server.start()
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as phone:
                phone.connect(("127.0.0.1", port))
                phone.settimeout(20)
                taken = accepted(phone, range(COUNT))
                if database == "silent":
                    store.signal(signal.SIGSTOP)
                elif database == "away":
                    store.kill()
                taken |= accepted(phone, range(COUNT, 2 * COUNT))
        finally:
            assert server.stop() == 0
        if database == "silent":
            store.signal(signal.SIGCONT)
        elif database == "away":
            store.start()
        rows = asyncio.run(records(url))
        log = server.log_text()
    finally:
        store.stop()
    assert len(rows) == len(set(rows))
    told = re.findall(r"lost writes: (\d+)(?:; (\d+) of them may have been done)?", log)
    lost, perhaps = (int(told[-1][0]), int(told[-1][1] or 0)) if told else (0, 0)
    assert lost - perhaps <= len(taken) - len(taken & set(rows)) <= lost
    assert (lost > 0) == (database != "answers"), log


async def records(url: str, driver: DbDriver | None = None) -> list[int]:
    """The numbers of the records; what was under way when the server left may come a moment later."""
    database = (driver or DbPostgres()).open_database(parse_url(url))
    try:
        while driver is None and (
            await database.raw("SELECT count(*) FROM pg_stat_activity WHERE state = 'active'")
        ) != [(1,)]:
            pass
        return [int(str(row[0])) for row in await database.select("acc", ("callid",))]
    finally:
        await database.close()


@pytest.fixture(params=["postgres", "mysql"])
def small(request: pytest.FixtureRequest) -> Iterator[tuple[str, DbDriver, PostgresServer | MariadbServer]]:
    """A database on a disk of its own that is soon full."""
    postgres = request.param == "postgres"
    kind = PostgresServer if postgres else MariadbServer
    pytest.importorskip("asyncpg" if postgres else "asyncmy")
    if kind.programs() is None:
        pytest.skip(f"needs the package {kind.package}")
    if os.getuid() != 0:
        pytest.skip("only root can mount a file system")
    server = kind()
    mount = ["mount", "-t", "tmpfs", "-o", "size=260m,mode=755", "tmpfs", str(server.folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        if server.account:
            shutil.chown(server.folder, server.account)
        server.prepare()
        server.start()
        yield request.param, DbPostgres() if postgres else DbMysql(), server
    finally:
        subprocess.run(["umount", "-l", str(server.folder)], check=True)
        server.stop()


def test_a_full_disk_keeps_the_records_waiting(
    small: tuple[str, DbDriver, PostgresServer | MariadbServer], tmp_path: Path
) -> None:
    """Calls go on, one line tells why, and every record arrives once there is room again."""
    kind, driver, store = small
    url = store.url("records")
    assert main.main(["db", "create", "--url", url, "--modules", "acc"]) == 0
    port = free_port()
    script = tmp_path / "full.cfg"
    script.write_text(SCRIPT.format(port=port, url=url, kind=kind), encoding="utf-8")
    server = ServerProcess(script, tmp_path)
    server.start()
    filler = store.folder / "filler"
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as phone:
            phone.connect(("127.0.0.1", port))
            phone.settimeout(20)
            with filler.open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(65536))
                except OSError:
                    pass  # full
            taken = accepted(phone, range(2000))
            while "writes are waiting" not in server.log_text():
                more = len(taken)
                taken |= accepted(phone, range(more, more + 500))
                assert more < 20_000
            filler.unlink()
            while len(rows := asyncio.run(records(url, driver))) < len(taken):
                pass
    finally:
        assert server.stop() == 0
    assert sorted(rows) == sorted(taken)
    assert server.log_text().count("writes are waiting") == 1
