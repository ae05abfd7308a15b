"""acc: records for AAA servers, with FreeRADIUS and with servers that are away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from opensipspy.aaa import AaaClient, AaaDriver, AaaError, AaaReply, Attributes, Ticket
from opensipspy.dbdrivers.aaa_radius import AaaRadius
from opensipspy.module import Module, ParamError
from opensipspy.module.testing import START_TIME, FakeCore, request
from opensipspy.modules.acc import Acc
from opensipspy.modules.acc.aaa import LANES
from opensipspy.modules.rr import Rr
from tests.backends import FreeradiusServer
from tests.modules.test_acc import Call, FakeTm

DIALOG = "<sip:bob@example.org>;tag=b1"


class FakeClient(AaaClient):
    """Servers that take records, are away, or refuse those of a name."""

    def __init__(self) -> None:
        self.away = False
        self.refuses = ""
        self.taken: list[dict[str, object]] = []
        self.asked = asyncio.Event()

    def check(self, names: Any) -> None:
        missing = [name for name in names if name.startswith("Unknown")]
        if missing:
            raise AaaError(f"the dictionary has no attribute {missing[0]}")

    def value(self, attribute: str, name: str) -> int:
        return {"Start": 1, "Stop": 2, "Alive": 3, "Failed": 15, "Sip-Session": 15}[name]

    async def authenticate(self, attributes: Attributes) -> AaaReply:
        raise NotImplementedError

    async def account(self, attributes: Attributes, ticket: Ticket | None = None) -> AaaReply:
        self.asked.set()
        if self.away:
            raise AaaError("no server answers", transient=True)
        record = dict(attributes)
        if record["Acct-Session-Id"] == self.refuses:
            raise AaaError("the request has 5000 octets")
        self.taken.append(record)
        return AaaReply(True, [])


class AaaFake(Module, AaaDriver):
    name = "aaa_fake"

    def __init__(self) -> None:
        super().__init__()
        self.client = FakeClient()

    def api(self) -> AaaDriver:
        return self

    async def open_client(self, url: str) -> AaaClient:
        return self.client


async def loaded(driver: Module, **params: Any) -> tuple[FakeCore, Acc]:
    core = FakeCore()
    core.add(driver)
    core.add(FakeTm())
    core.add(Rr())
    extra = params.pop("extra", ())
    acc = core.add(Acc(**params))
    for name, value in extra:
        acc.set_param(name, value)
    await acc.start()
    return core, acc


async def turns() -> None:
    """Let tasks go on until they wait for a timer."""
    for _ in range(10):
        await asyncio.sleep(0)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - what is waited for is in a file of FreeRADIUS
            await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def radius() -> Iterator[FreeradiusServer]:
    if FreeradiusServer.programs() is None:
        pytest.skip("FreeRADIUS is missing: apt-get install freeradius")
    server = FreeradiusServer()
    server.prepare("")
    try:
        server.start()
        yield server
    finally:
        server.stop()


def test_freeradius_takes_the_records_of_a_call(radius: FreeradiusServer) -> None:
    """RFC 2866 §5.1: Start for the call, Interim-Update within it, Stop for its BYE, and Failed for one that failed."""

    async def scenario() -> None:
        fields = (
            ("extra_fields", "aaa: caller->Calling-Station-Id; port->NAS-Port"),
            ("leg_fields", "aaa: to->Called-Station-Id"),
        )
        core, acc = await loaded(AaaRadius(), aaa_url=radius.url, extra=fields)
        call = Call(core)
        call.do("do_accounting", "aaa")
        core.write("$acc_extra", call.run, "alice" + "é" * 200, "caller")
        core.write("$acc_extra", call.run, "no number", "port")
        core.write("$acc_leg", call.run, "bob", "to")
        assert call.do("acc_new_leg") == 1
        core.write("$acc_leg", call.run, "carol", "to")
        call.answered(200)
        call = Call(core, request("INVITE", to=DIALOG))
        call.do("do_accounting", "aaa")
        call.answered(200)
        call = Call(core, request("BYE", to=DIALOG))
        call.do("do_accounting", "aaa")
        call.answered(200)
        call = Call(core, request())
        call.do("do_accounting", "aaa", "missed")
        call.failed(486)
        call.answered(486)
        assert call.do("acc_aaa_request", "404 Nobody home") == 1
        await until(lambda: len(radius.records()) == 5)
        await acc.stop()
        assert acc.lost_records.read() == 0
        records = radius.records()
        kinds = [(record["Acct-Status-Type"], record["Sip-Response-Code"]) for record in records]
        assert kinds == [
            ("Start", "200"),
            ("Interim-Update", "200"),
            ("Stop", "200"),
            ("Failed", "486"),
            ("Failed", "404"),
        ]
        first = records[0]
        assert first["Acct-Session-Id"] == "call-1@example.com"
        assert (first["Sip-From-Tag"], first["Sip-To-Tag"], first["Method-Of-Sip"]) == ("a1", "b1", "1")
        assert (first["Service-Type"], first["Sip-Call-Created"]) == ("IAPP-Register", str(int(START_TIME)))
        assert records[2]["Method-Of-Sip"] == "8"
        detail = (radius.folder / "log" / "detail").read_text("utf-8")
        assert detail.count("Called-Station-Id") == 2
        # What does not fit is cut, at 253 octets and between characters, and what is no number is left out.
        assert first["Calling-Station-Id"] == "alice" + "é" * 124
        assert first.get("NAS-Port") != "no number"
        driver = core.module("aaa_radius")
        assert driver is not None
        await driver.stop()

    asyncio.run(scenario())


def test_a_server_killed_under_load_gets_every_record(radius: FreeradiusServer) -> None:
    """kill -9 in the middle of 600 records: each of them is there at the end, once or, its answer lost, twice."""
    wanted = {f"load-{number}" for number in range(600)}

    def taken() -> set[str]:
        return {record["Acct-Session-Id"] for record in radius.records()} & wanted

    async def scenario() -> None:
        core, acc = await loaded(AaaRadius(), aaa_url=radius.url)
        for place, call_id in enumerate(sorted(wanted)):
            assert Call(core, request(call_id=call_id)).do("acc_aaa_request", "200 OK") == 1
            if place == 300:
                await until(lambda: len(taken()) > 50)
                radius.kill()
                (radius.folder / "log" / "stdout").unlink()
        await turns()
        await asyncio.to_thread(radius.start)

        def done() -> bool:
            core.advance(1.0)
            return not acc.unfinished()

        await until(done)
        assert taken() == wanted
        await acc.stop()
        assert acc.lost_records.read() == 0
        driver = core.module("aaa_radius")
        assert driver is not None
        await driver.stop()

    asyncio.run(scenario())


def test_an_outage_loses_nothing_and_keeps_the_order(caplog: pytest.LogCaptureFixture) -> None:
    """RFC 2866 §2: a record that no server acknowledged is sent again, until one does."""

    async def scenario() -> None:
        driver = AaaFake()
        client = driver.client
        core, acc = await loaded(driver, aaa_url="fake:x", service_type=77)
        client.away = True
        for code in (180, 200):
            call = Call(core)
            call.do("do_accounting", "aaa")
            call.do("acc_aaa_request", f"{code} Something")
        await client.asked.wait()
        await turns()
        assert (acc.queued_reports.read(), acc.unfinished()) == (2, 2)
        for _ in range(3):
            client.asked.clear()
            core.advance(30.0)
            await client.asked.wait()
            await turns()
        client.away = False
        core.advance(30.0)
        await turns()
        assert [record["Sip-Response-Code"] for record in client.taken] == [180, 200]
        assert client.taken[0]["Service-Type"] == 77
        assert acc.unfinished() == 0
        await acc.stop()

    asyncio.run(scenario())
    assert "acc:" not in caplog.text


def test_a_record_that_is_never_acknowledged_holds_up_no_other_call() -> None:
    """RFC 2866 §2: a server that cannot write a record does not answer; those of other calls pass it, its own wait."""
    base = "poison"
    same = next(f"c{number}" for number in range(10_000) if (hash(f"c{number}") - hash(base)) % LANES == 0)
    other = next(f"d{number}" for number in range(10_000) if (hash(f"d{number}") - hash(base)) % LANES)

    async def scenario() -> None:
        driver = AaaFake()
        client = driver.client
        core, acc = await loaded(driver, aaa_url="fake:x")
        taken = client.account

        async def account(attributes: Attributes, ticket: Ticket | None = None) -> AaaReply:
            if dict(attributes)["Acct-Session-Id"] == base:
                await turns()
                raise AaaError("no server answers", transient=True)
            return await taken(attributes)

        client.account = account  # type: ignore[method-assign]
        for name in (base, same, base, same):
            assert Call(core, request(call_id=name)).do("acc_aaa_request", "200 OK") == 1
        for _ in range(8):
            # Another call shows that the servers are there, while the first waits for its answer.
            assert Call(core, request(call_id=other)).do("acc_aaa_request", "200 OK") == 1
            await turns()
            await turns()
            core.advance(60.0)
            await turns()
            await turns()
        assert [record["Acct-Session-Id"] for record in client.taken if record["Acct-Session-Id"] != other] == [
            same
        ] * 2
        assert acc.unfinished() == 2
        await acc.stop()

    asyncio.run(scenario())


def test_what_no_server_takes_is_in_the_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, too many, or still waiting when the server stops: each record is in the log in full, and counted."""
    monkeypatch.setattr("opensipspy.modules.acc.aaa.MAX_WAITING", 2)

    async def scenario() -> None:
        driver = AaaFake()
        client = driver.client
        core, acc = await loaded(driver, aaa_url="fake:x")
        client.refuses = "bad"
        assert Call(core, request(call_id="bad")).do("acc_aaa_request", "200 OK") == 1
        await turns()
        assert acc.lost_records.read() == 1
        group = core.status.group("acc")
        assert group is not None
        assert not group["main"].ready
        client.away = True
        results = [Call(core, request(call_id=f"c-{n}")).do("acc_aaa_request", "200 OK") for n in range(3)]
        assert results == [1, 1, -1]
        await turns()
        await acc.stop()
        assert acc.lost_records.read() == 4

    asyncio.run(scenario())
    for call_id in ("bad", "c-0", "c-1", "c-2"):
        assert f"call_id={call_id};code=200" in caplog.text
    assert "4 records went to the log only" in caplog.text


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"aaa_url": "fake"}, "of the form"),
        ({"aaa_url": "radius:x"}, "aaa_radius"),
        ({"aaa_url": "fake:x", "extra": (("extra_fields", "aaa: a->Unknown-A"),)}, "Unknown-A"),
        ({"extra": (("extra_fields", "aaa: a"),)}, "is needed"),
    ],
)
def test_what_is_wrong_is_told_at_start(params: dict[str, Any], words: str) -> None:
    """The manual: aaa_url is needed, and each attribute has to be in the dictionary."""
    with pytest.raises(ParamError, match=words):
        asyncio.run(loaded(AaaFake(), **params))


def test_without_servers() -> None:
    """The manual: without aaa_url there is no AAA accounting."""

    async def scenario() -> None:
        core, _ = await loaded(AaaFake())
        assert Call(core).do("acc_aaa_request", "200 OK") == -1

    asyncio.run(scenario())
