"""acc: records for AAA servers that wait on disk, over a stop and a kill of the server, full disks, broken files."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from opensipspy.aaa import AaaError, AaaReply, Attributes, Ticket
from opensipspy.module import ParamError
from opensipspy.module.testing import FakeCore, request
from opensipspy.modules.acc import Acc
from opensipspy.modules.acc import spool as spools
from opensipspy.modules.acc.aaa import LANES
from opensipspy.modules.acc.spool import Spool, SpoolError, Waiting
from tests.diameter_peers import Other, success, until, write_files
from tests.modules.test_aaa_diameter import AaaDiameter, free_port, peer_text
from tests.modules.test_acc import Call
from tests.modules.test_acc_aaa import AaaFake, FakeClient, loaded, turns


class Marking(FakeClient):
    """Servers that see by which marks a record comes."""

    def __init__(self) -> None:
        super().__init__()
        self.made = 0
        self.tickets: list[tuple[object, bool]] = []

    def ticket(self) -> Ticket:
        self.made += 1
        return Ticket({"session": f"s{self.made}"})

    async def account(self, attributes: Attributes, ticket: Ticket | None = None) -> AaaReply:
        assert ticket is not None
        self.tickets.append((ticket.marks["session"], ticket.again))
        try:
            return await super().account(attributes)
        except AaaError as error:
            error.sent = True
            raise


async def house(path: Path, away: bool = False) -> tuple[FakeCore, Acc, Marking]:
    driver = AaaFake()
    driver.client = client = Marking()
    client.away = away
    core, acc = await loaded(driver, aaa_url="fake:x", aaa_queue_file=str(path))
    return core, acc, client


def report(core: FakeCore, *names: str) -> None:
    for name in names:
        assert Call(core, request(call_id=name)).do("acc_aaa_request", "200 OK") == 1


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await scenario()

    asyncio.run(whole())


async def kept(core: FakeCore, acc: Acc, count: int) -> None:
    """Once so many records are on disk."""

    def ready() -> bool:
        core.advance(1.0)
        return acc.kept_reports.read() == count

    await until(ready)


def test_what_waits_at_the_stop_is_sent_by_the_next_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """RFC 2866 §5.2, §2: sent until a server acknowledges, with Acct-Delay-Time; not one record is lost or doubled."""
    path = tmp_path / "records"

    async def scenario() -> None:
        core, acc, client = await house(path, away=True)
        report(core, "a", "b", "c\udcff")
        await client.asked.wait()
        await acc.stop()
        assert acc.lost_records.read() == 0
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert "3 records wait in" in caplog.text

        core, acc, client = await house(path)
        core.wall += 77
        await turns()
        assert len(client.taken) == 3
        assert {record["Acct-Session-Id"] for record in client.taken} == {"a", "b", "c\udcff"}
        # A server may have them: each is the copy of what was sent before.
        assert sorted(client.tickets) == [("s1", True), ("s2", True), ("s3", True)]
        assert acc.unfinished() == 0
        await acc.stop()
        assert path.read_bytes() == b""

    play(scenario)


def test_the_delay_counts_from_the_record(tmp_path: Path) -> None:
    async def scenario() -> None:
        core, acc, client = await house(tmp_path / "records", away=True)
        report(core, "a")
        await client.asked.wait()
        await acc.stop()
        line = json.loads((tmp_path / "records").read_text("ascii"))
        line["t"] -= 60
        (tmp_path / "records").write_text(json.dumps(line) + "\n", "ascii")
        core, acc, client = await house(tmp_path / "records")
        await turns()
        assert client.taken[0]["Acct-Delay-Time"] == 60
        await acc.stop()

    play(scenario)


def test_what_waits_is_on_disk_before_a_kill(tmp_path: Path) -> None:
    """No orderly end: what waited for longer than two seconds is there; what a server took meanwhile is not."""
    path = tmp_path / "records"

    async def scenario() -> None:
        core, acc, client = await house(path, away=True)
        report(core, *(f"c{number}" for number in range(20)))
        await kept(core, acc, 20)
        killed = path.read_bytes()
        client.away = False
        core.advance(60.0)
        await until(lambda: not acc.unfinished())
        await kept(core, acc, 0)
        await until(lambda: path.read_bytes() == b"")
        await acc.stop()

        # The last line is half written.
        path.write_bytes(killed[:-30])
        core, acc, client = await house(path)
        await turns()
        assert len({record["Acct-Session-Id"] for record in client.taken}) == 19
        assert len(client.taken) == 19
        await acc.stop()
        assert len(path.with_name("records.unread").read_bytes().splitlines()) == 1

    play(scenario)


def test_records_that_are_done_are_not_sent_again(tmp_path: Path) -> None:
    """The journal says which of them a server took, also while others still wait."""
    path = tmp_path / "records"

    async def scenario() -> None:
        core, acc, client = await house(path, away=True)
        report(core, "a", "b")
        await kept(core, acc, 2)

        async def only_a(attributes: Attributes, ticket: Ticket | None = None) -> AaaReply:
            if dict(attributes)["Acct-Session-Id"] == "a":
                return AaaReply(True, [])
            raise AaaError("no server answers", transient=True)

        client.account = only_a  # type: ignore[method-assign]
        core.advance(60.0)
        await until(lambda: acc.unfinished() == 1)
        core.advance(1.0)
        await until(lambda: b"done" in path.read_bytes())
        copy = tmp_path / "copy"
        copy.write_bytes(path.read_bytes())
        await acc.stop()
        core, acc, client = await house(copy)
        await turns()
        assert [record["Acct-Session-Id"] for record in client.taken] == ["b"]
        await acc.stop()

    play(scenario)


def test_records_that_are_taken_at_once_touch_no_disk(tmp_path: Path) -> None:
    async def scenario() -> None:
        core, acc, client = await house(tmp_path / "records")
        before = os.stat(tmp_path / "records").st_mtime_ns
        report(core, *"abc")
        await turns()
        core.advance(5.0)
        await turns()
        assert len(client.taken) == 3
        assert os.stat(tmp_path / "records").st_mtime_ns == before
        await acc.stop()

    play(scenario)


def test_a_full_disk_is_told_and_the_records_are_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing of a half-written line stays; when there is room again, they are written."""
    path = tmp_path / "records"
    room = [0]

    def write(number: int, data: memoryview) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= 1
        return os.pwrite(number, data[:50], os.fstat(number).st_size) if room[0] < 5 else real(number, data)

    real = os.write

    async def scenario() -> None:
        core, acc, client = await house(path, away=True)
        monkeypatch.setattr(spools.os, "write", write)
        room[0] = 3
        report(core, "a")
        for _ in range(3):
            core.advance(1.0)
            await until(lambda: "No space left on device; records wait in memory only" in caplog.text)
        assert path.read_bytes() == b""
        room[0] = 1000
        await kept(core, acc, 1)
        assert "records are written again" in caplog.text
        room[0] = 0
        report(core, "b")
        await client.asked.wait()
        await acc.stop()
        assert acc.lost_records.read() == 1
        group = core.status.group("acc")
        assert group is not None
        assert not group["main"].ready

    play(scenario)
    assert "call_id=b;code=200" in caplog.text
    assert "call_id=a;code=200" not in caplog.text
    assert caplog.text.count("No space left") == 2


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"nonsense",
        b"[]",
        b"7",
        b'{"n":1}',
        b'{"n":"x","t":1,"line":"","marks":{},"attributes":[]}',
        b'{"n":1,"t":1,"line":"","marks":{},"attributes":[["a"]]}',
        b'{"n":1,"t":1,"line":"","marks":{},"attributes":[["a",[]]]}',
        b'{"n":1,"t":1,"line":"","marks":{},"attributes":[["a","zz","hex"]]}',
        b'{"done":7}',
        b'{"done":[[]]}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_lines_that_are_none_are_set_aside(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "records"
    good = Waiting([("Acct-Session-Id", "x"), ("Class", b"\0\xff")], 5.0, Ticket({"a": 1}), None, "the line")
    good.number = 3
    path.write_bytes(line + b"\n" + good.encoded())
    spool = Spool(path)
    (found,) = spool.open()
    assert found.attributes == good.attributes
    assert (found.number, found.time, found.line, found.ticket.marks, found.ticket.again) == (
        3,
        5.0,
        "the line",
        {"a": 1},
        True,
    )
    assert spool.unread == 1
    assert path.with_name("records.unread").read_bytes() == line + b"\n"
    spool.close()
    again = Spool(path)
    assert (len(again.open()), again.unread) == (1, 0)
    again.close()


@pytest.mark.parametrize("fails", [False, True])
def test_the_journal_is_written_anew_when_most_of_it_is_over(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where that cannot be done, as in a folder of somebody else, the old one goes on, and nothing comes twice."""
    monkeypatch.setattr(spools, "SPARE", 5)
    path = tmp_path / "records"

    async def scenario() -> None:
        core, acc, client = await house(path, away=True)
        # Those behind one that nobody takes would wait for it, as the records of one call do.
        names = [f"c{number}" for number in range(40) if (hash(f"c{number}") - hash("stays")) % LANES]
        report(core, "stays", *names)
        await kept(core, acc, len(names) + 1)
        if fails:

            def refuse(number: int) -> None:
                raise OSError(errno.EACCES, "Permission denied")

            monkeypatch.setattr(spools.os, "fsync", refuse)

        async def others(attributes: Attributes, ticket: Ticket | None = None) -> AaaReply:
            if dict(attributes)["Acct-Session-Id"] == "stays":
                raise AaaError("no server answers", transient=True)
            return AaaReply(True, [])

        client.account = others  # type: ignore[method-assign]
        core.advance(60.0)
        await until(lambda: acc.unfinished() == 1)
        await kept(core, acc, 1)
        core.advance(1.0)
        if fails:
            await until(lambda: "cannot be written anew" in caplog.text)
        else:
            await until(lambda: len(path.read_bytes().splitlines()) == 1)
        await acc.stop()
        monkeypatch.undo()
        core, acc, client = await house(path)
        await turns()
        assert [record["Acct-Session-Id"] for record in client.taken] == ["stays"]
        await acc.stop()

    play(scenario)


def test_what_is_too_long_for_the_journal_is_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its size is bounded."""
    monkeypatch.setattr(spools, "MAX_FILE", 1000)

    async def scenario() -> None:
        core, acc, client = await house(tmp_path / "records", away=True)
        report(core, *(f"c{number}" for number in range(10)))
        await client.asked.wait()
        await acc.stop()
        lost = acc.lost_records.read()
        assert 0 < lost < 10
        assert f"has no room for {lost} records" in caplog.text
        core, acc, client = await house(tmp_path / "records")
        await turns()
        assert len(client.taken) == 10 - lost
        await acc.stop()

    play(scenario)


def test_two_servers_do_not_share_a_journal(tmp_path: Path) -> None:
    first = Spool(tmp_path / "records")
    first.open()
    with pytest.raises(SpoolError, match="another server"):
        Spool(tmp_path / "records").open()
    first.close()
    second = Spool(tmp_path / "records")
    second.open()
    second.close()


@pytest.mark.parametrize("name", ["missing/records", ".", "link"])
def test_a_journal_that_cannot_be_made_stops_the_start(name: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ParamError, match="aaa_queue_file"):
        asyncio.run(house(tmp_path / name))


def test_diameter_marks_what_may_be_a_copy(tmp_path: Path) -> None:
    """RFC 6733 §3, §9.4: one Session-Id and End-to-End Identifier over all attempts, and the T flag from the second."""

    async def scenario() -> None:
        port = free_port()

        async def run(scene: Callable[[FakeCore, Acc, AaaDiameter], Awaitable[Any]]) -> None:
            folder = tmp_path
            url = write_files(folder, peer_text("hss.t.test", port))
            driver = AaaDiameter(answer_timeout=100)
            core, acc = await loaded(driver, aaa_url=url, aaa_queue_file=str(tmp_path / "records"), service_type=15)
            core.now = asyncio.get_running_loop().time  # type: ignore[method-assign]
            await scene(core, acc, driver)
            await acc.stop()
            await driver.stop()

        silent = Other("hss.t.test")
        silent.node.config.port = port
        await silent.node.start()

        async def first(core: FakeCore, acc: Acc, driver: AaaDiameter) -> None:
            assert driver.node is not None
            await asyncio.wait_for(driver.node.wait_open("hss.t.test"), 10)
            report(core, "a")

            def asked() -> bool:
                core.advance(1.0)
                return bool(silent.held)

            await until(asked)

        await run(first)
        await silent.node.stop()
        original = silent.held[0].message

        other = Other("hss.t.test", success)
        other.node.config.port = port
        await other.node.start()

        async def second(core: FakeCore, acc: Acc, driver: AaaDiameter) -> None:
            def taken() -> bool:
                core.advance(1.0)
                return not acc.unfinished()

            await until(taken)

        await run(second)
        copy = other.held[0].message
        assert (copy.text(263), copy.end_to_end) == (original.text(263), original.end_to_end)
        assert original.flags & 0x10 == 0
        assert copy.flags & 0x10
        await other.node.stop()

    asyncio.run(scenario())


def test_diameter_marks_nothing_that_was_never_sent(tmp_path: Path) -> None:
    """RFC 6733 §3: the T flag must not be set the first time that a message is sent."""

    async def scenario() -> None:
        port = free_port()
        driver = AaaDiameter(answer_timeout=10_000)
        url = write_files(tmp_path, peer_text("hss.t.test", port))
        core, acc = await loaded(driver, aaa_url=url, service_type=15)
        core.now = asyncio.get_running_loop().time  # type: ignore[method-assign]
        report(core, "a")
        await turns()
        assert acc.unfinished() == 1
        other = Other("hss.t.test", success)
        other.node.config.port = port
        await other.node.start()

        def taken() -> bool:
            core.advance(1.0)
            return not acc.unfinished()

        await until(taken, 20.0)
        assert [held.message.flags & 0x10 for held in other.held] == [0]
        await acc.stop()
        await driver.stop()
        await other.node.stop()

    asyncio.run(scenario())
