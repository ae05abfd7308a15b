"""acc: which records are made, when, and where they end up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest

from opensipspy.db import Database
from opensipspy.module import Module, ParamError, StartError
from opensipspy.module.testing import START_TIME, FakeCore, make_run, reply, request
from opensipspy.modules.acc import ACC, MISSED_CALLS, Acc
from opensipspy.modules.rr import Rr
from opensipspy.modules.tm.api import FAILURE as TM_FAILURE
from opensipspy.modules.tm.api import RESPONSE_OUT, Callback, TmApi, Transaction
from opensipspy.script.kinds import FAILURE, ONREPLY
from opensipspy.script.run import Run
from tests.modules.memory_database import MemoryDatabase

URL = "sqlite:test"
DIALOG = "<sip:bob@example.org>;tag=b1"
Lines = Callable[[], list[str]]


class FakeTm(Module):
    """Transactions whose events the test plays."""

    name = "tm"

    def __init__(self) -> None:
        super().__init__()
        self.callbacks: list[tuple[int, Callback]] = []

    def on(self, event: int, callback: Callback) -> None:
        self.callbacks.append((event, callback))

    def api(self) -> TmApi:
        fake = self

        class Api(TmApi):
            def transaction(self, run: Run) -> Transaction | None:
                return None

            def new_transaction(self, run: Run) -> int:
                return 1

            def reply(self, run: Run, code: int, reason: str, headers: str = "", body: bytes = b"") -> int:
                return 1

            def local_tag(self, run: Run) -> str:
                return "local"

            def on(self, event: int, callback: Callback) -> None:
                fake.on(event, callback)

            async def request(self, *args: Any, **more: Any) -> Any:
                raise NotImplementedError

        return Api()


class Call:
    """One INVITE, or another request, and what becomes of it."""

    def __init__(self, core: FakeCore, text: str = "") -> None:
        self.core = core
        self.run = make_run(text or request(), core=core)
        self.transaction = Transaction(self.run.msg.method, self.run.msg.method == "INVITE")
        self.transaction.run = self.run
        self.run.transaction = self.transaction

    def do(self, function: str, *args: Any) -> int:
        params = self.core.catalogue.functions[function].params
        ready = [p.fixup(a) if p.fixup is not None and a is not None else a for p, a in zip(params, args, strict=False)]
        result: int = self.core.call(function, self.run, *ready)
        return result

    def _fire(self, event: int, status: int, reason: str, tag: str, body: str) -> None:
        tm = self.core.module("tm")
        assert isinstance(tm, FakeTm)
        message = None
        if tag:
            text = reply(
                status, reason, method=self.run.msg.method, headers=f"To: <sip:bob@example.org>;tag={tag}", body=body
            )
            message = make_run(text, ONREPLY).msg
        else:
            self.transaction.last_reply = f"SIP/2.0 {status} {reason}\r\nVia: x\r\n\r\n".encode()
        for wanted, callback in tm.callbacks:
            if wanted == event:
                callback(self.transaction, self.run, message, status)

    def answered(self, status: int, reason: str = "OK", tag: str = "b1", body: str = "") -> None:
        """A reply went upstream; without a tag it was made here."""
        self._fire(RESPONSE_OUT, status, reason, tag, body)

    def failed(self, status: int, reason: str = "Busy", tag: str = "b1") -> None:
        """All destinations have failed; the failure route comes next."""
        self._fire(TM_FAILURE, status, reason, tag, "")


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Lines]:
    """Asked for the accounting lines of the log so far, without what they begin with."""
    with caplog.at_level(1):
        yield lambda: [
            text.removeprefix("ACC: ") for text in (r.getMessage() for r in caplog.records) if text.startswith("ACC: ")
        ]


def loaded(databases: dict[str, Database] | None = None, **params: Any) -> FakeCore:
    core = FakeCore(databases=databases)
    core.add(FakeTm())
    core.add(Rr())
    asyncio.run(core.add(Acc(**params)).start())
    return core


def line(kind: str = "transaction answered", code: str = "200", reason: str = "OK", **more: str) -> str:
    fields = {"method": "INVITE", "from_tag": "a1", "to_tag": "b1", "call_id": "call-1@example.com"} | more
    extra = fields.pop("extra", "")
    text = ";".join(f"{name}={value}" for name, value in fields.items())
    missed = f"created={int(START_TIME)};setuptime=0;" if kind == "call missed" else ""
    return f"{kind}: {missed}timestamp={int(START_TIME)};{text};code={code};reason={reason}{extra}"


# --- transactions


def test_a_call_is_accounted_once(lines: Lines) -> None:
    """The manual: when the final response of the transaction went out; retransmissions and forks add nothing."""
    call = Call(loaded())
    assert call.do("do_accounting", "log") == 1
    assert call.do("do_accounting", "log") == 1
    call.answered(180, "Ringing", body="")
    call.answered(200)
    call.answered(200)
    call.answered(200, tag="b2")
    assert lines() == [line()]


def test_nothing_is_accounted_without_a_mark(lines: Lines) -> None:
    """The manual: do_accounting() is what marks."""
    call = Call(loaded())
    call.answered(200)
    assert lines() == []


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (None, []),
        ("failed", [line(code="486", reason="Busy Here")]),
        ("missed", [line("call missed", code="486", reason="Busy Here")]),
        (
            "missed|failed",
            [line("call missed", code="486", reason="Busy Here"), line(code="486", reason="Busy Here")],
        ),
    ],
)
def test_failures_by_flag(flags: str | None, expected: list[str], lines: Lines) -> None:
    """The manual: failed accounts the transaction, missed the call; without either nothing is written."""
    call = Call(loaded())
    call.do("do_accounting", "log", flags)
    call.failed(486, "Busy Here")
    call.answered(486, "Busy Here")
    assert lines() == expected


def test_missed_counts_once_until_it_is_set_again(lines: Lines) -> None:
    """The manual: the flag is gone after the first missed call; a failure route may set it again."""
    call = Call(loaded())
    call.do("do_accounting", "log", "missed")
    call.failed(408, "Timeout")
    call.failed(486, "Busy")
    call.run.kind = FAILURE
    call.do("do_accounting", "log", "missed")
    call.failed(480, "Away")
    call.answered(480, "Away")
    assert lines() == [
        line("call missed", code="408", reason="Timeout"),
        line("call missed", code="480", reason="Away"),
    ]


def test_a_reply_made_here_has_its_reason_and_tag(lines: Lines) -> None:
    """A call to somebody who is not registered: the script's own 404."""
    call = Call(loaded())
    call.do("do_accounting", "log", "missed")
    call.answered(404, "Nobody home", tag="")
    assert lines() == [line("call missed", code="404", reason="Nobody home", to_tag="local")]


def test_only_invites_are_missed(lines: Lines) -> None:
    """A failed BYE is no missed call."""
    call = Call(loaded(), request("BYE", to=DIALOG))
    call.do("do_accounting", "log", "missed")
    call.answered(481, "Gone")
    assert lines() == []


def test_early_media(lines: Lines) -> None:
    """early_media: a provisional reply with a body, once; 180 without one is not."""
    call = Call(loaded(early_media=1))
    call.do("do_accounting", "log")
    call.answered(180, "Ringing")
    call.answered(183, "Progress", body="v=0")
    call.answered(183, "Progress", body="v=0")
    call.answered(200)
    assert lines() == [line(code="183", reason="Progress"), line()]


@pytest.mark.parametrize(("report", "count"), [(0, 0), (1, 1)])
def test_cancel(report: int, count: int, lines: Lines, caplog: pytest.LogCaptureFixture) -> None:
    """report_cancels: CANCEL transactions are accounted only when asked for."""
    call = Call(loaded(report_cancels=report), request("CANCEL"))
    call.do("do_accounting", "log")
    call.answered(200, tag="")
    assert caplog.text.count("method=CANCEL") == count


def test_dropping(lines: Lines) -> None:
    """The manual: everything, one back-end, or only its flags."""
    core = loaded()
    call = Call(core)
    assert call.do("drop_accounting") == -1
    call.do("do_accounting", "log|evi", "missed|failed")
    assert call.do("drop_accounting", "log", "missed") == 1
    call.failed(486)
    call.answered(486, "Busy")
    assert lines() == [line(code="486", reason="Busy")]
    call = Call(core)
    call.do("do_accounting", "log", "missed|failed")
    call.do("drop_accounting")
    call.failed(486)
    call.answered(486)
    assert lines() == [line(code="486", reason="Busy")]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("paper",), "paper"),
        (("aaa",), "aaa_url"),
        (("log", "cdr"), "dialog"),
        (("log", "late"), "late"),
        (("log|",), '""'),
    ],
)
def test_what_cannot_be_done_is_found_at_load(args: tuple[str, ...], words: str) -> None:
    """A back-end or flag that does not work is a finding, not a quiet loss."""
    with pytest.raises(ValueError, match=words):
        Call(loaded()).do("do_accounting", *args)


# --- direction


@pytest.mark.parametrize(
    ("detect", "ftag", "from_tag", "to_tag"),
    [(1, "a1", "a1", "b1"), (1, "b1", "b1", "a1"), (0, "b1", "a1", "b1")],
)
def test_direction(detect: int, ftag: str, from_tag: str, to_tag: str, lines: Lines) -> None:
    """detect_direction: a BYE from the callee is accounted with the tags of the call."""
    core = loaded(detect_direction=detect)
    call = Call(core, request("BYE", to=DIALOG, headers=f"Route: <sip:127.0.0.1:5060;lr;ftag={ftag}>"))
    core.call("loose_route", call.run)
    call.do("do_accounting", "log")
    call.answered(200)
    assert lines() == [line(method="BYE", from_tag=from_tag, to_tag=to_tag)]


# --- fields and legs


FIELDS = {
    "extra_fields": "log: src->Source; dst",
    "leg_fields": "log:who",
}


def test_extra_fields(lines: Lines) -> None:
    """The manual: $acc_extra(tag) is written under its name; what was not set is empty; it lasts into replies."""
    core = loaded(**FIELDS)
    call = Call(core)
    core.write("$acc_extra", call.run, "10.0.0.1", "src")
    call.do("do_accounting", "log")
    in_reply = call.run.for_reply(make_run(reply(180, "Ringing"), ONREPLY).msg)
    assert core.read("$acc_extra", in_reply, "src") == "10.0.0.1"
    core.write("$acc_extra", in_reply, 7, "dst")
    call.answered(200)
    assert lines() == [line(extra=";Source=10.0.0.1;dst=7;who=")]


def test_legs(lines: Lines) -> None:
    """The manual: a new leg is NULL; legs are numbered from 0, and from -1 backwards."""
    core = loaded(**FIELDS)
    call = Call(core)
    assert core.read("$acc_current_leg", call.run) is None
    assert call.do("acc_new_leg") == -1
    call.do("do_accounting", "log")
    core.write("$acc_leg", call.run, "A", "who")
    assert call.do("acc_new_leg") == 1
    assert core.read("$acc_leg", call.run, "who") is None
    core.write("$acc_leg", call.run, "B", "who", -1)
    assert core.read("$acc_current_leg", call.run) == 1
    assert [core.read("$acc_leg", call.run, "who", i) for i in (0, 1, -1, -2, 2, -3)] == [
        "A",
        "B",
        "B",
        "A",
        None,
        None,
    ]
    call.answered(200)
    assert lines() == [line(extra=";Source=;dst=;who=A;who=B")]


@pytest.mark.parametrize("name", ["$acc_extra", "$acc_leg"])
def test_unknown_tags_are_found_at_load(name: str) -> None:
    """A tag that no parameter defines."""
    core = loaded(**FIELDS)
    with pytest.raises(ValueError, match="nope"):
        core.read(name, Call(core).run, "nope")


@pytest.mark.parametrize("text", ["paper: a", "log: a->", "log: ->b", "log: a b", "db: a->x; b->x", "db: a->x'--"])
def test_broken_definitions_are_refused(text: str) -> None:
    """extra_fields and leg_fields: names that could be columns, each once."""
    with pytest.raises(ParamError):
        Acc(extra_fields=text)


# --- database


def test_rows() -> None:
    """The columns of the tables acc and missed_calls, with those of the operator: empty where the script says NULL."""
    database = MemoryDatabase()
    core = loaded(
        {URL: database}, db_url=URL, extra_fields="db: src->src_ip", leg_fields="db:who", acc_callid_column="cid"
    )
    call = Call(core)
    call.do("do_accounting", "db", "missed", "my_acc")
    core.write("$acc_extra", call.run, "10.0.0.1", "src")
    core.write("$acc_leg", call.run, "A", "who")
    call.do("acc_new_leg")
    core.advance(4)

    async def scenario() -> None:
        call.failed(486)
        call.answered(200)
        acc = core.module("acc")
        assert acc is not None
        await acc.stop()

    asyncio.run(scenario())
    when = datetime.fromtimestamp(START_TIME + 4)
    row = {"method": "INVITE", "from_tag": "a1", "to_tag": "b1", "cid": "call-1@example.com", "time": when}
    missed = row | {
        "sip_code": "486",
        "sip_reason": "Busy",
        "setuptime": 4,
        "created": datetime.fromtimestamp(START_TIME),
    }
    answered = row | {"sip_code": "200", "sip_reason": "OK"}
    assert database.tables == {
        "missed_calls": [missed | {"src_ip": "10.0.0.1", "who": who} for who in ("A", "")],
        "my_acc": [answered | {"src_ip": "10.0.0.1", "who": who} for who in ("A", "")],
    }


def test_the_columns_are_those_of_the_tables() -> None:
    """Every column that is written exists in the tables that are created."""
    for table in (ACC, MISSED_CALLS):
        names = {column.name for column in table.columns}
        assert {"method", "from_tag", "to_tag", "callid", "sip_code", "sip_reason", "time"} <= names
        assert {"setuptime", "created"} <= names


def test_an_outage_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Records made while the database is away are written when it is back, in order."""
    database = MemoryDatabase()
    core = loaded({URL: database}, db_url=URL)

    async def scenario() -> None:
        database.away = True
        for number in range(20):
            call = Call(core, request(call_id=f"call-{number}"))
            call.do("do_accounting", "db")
            call.answered(200)
        await asyncio.sleep(0)
        assert database.queued == 20
        database.away = False
        await database.flush()

    asyncio.run(scenario())
    assert [row["callid"] for row in database.tables["acc"]] == [f"call-{number}" for number in range(20)]
    assert caplog.text.count("not available") <= 1


def test_a_stop_without_database_tells_what_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    """What the database never took is counted in an alarm."""
    database = MemoryDatabase()
    core = loaded({URL: database}, db_url=URL)

    async def scenario() -> None:
        database.away = True
        call = Call(core)
        call.do("do_accounting", "db")
        call.answered(200)
        acc = core.module("acc")
        assert acc is not None
        await acc.stop()

    asyncio.run(scenario())
    alarms = [record for record in caplog.records if record.levelno >= logging.CRITICAL]
    assert ["(1)" in alarm.getMessage() for alarm in alarms] == [True]


def test_a_full_queue_writes_the_record_to_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bounded queue: what does not fit is in the log, in full, counted, and told as an alarm until it is over."""
    monkeypatch.setattr("opensipspy.db.database.MAX_QUEUED_WRITES", 1)
    database = MemoryDatabase()
    core = loaded({URL: database}, db_url=URL)

    async def scenario() -> None:
        database.away = True
        for number in range(3):
            call = Call(core, request(call_id=f"call-{number}"))
            call.do("do_accounting", "db")
            call.answered(200)
        acc, group = core.module("acc"), core.status.group("acc")
        assert isinstance(acc, Acc)
        assert group is not None
        assert not group["main"].ready
        assert group["main"].details.startswith("2 records are in the log only")
        assert (acc.lost_records.read(), acc.queued_writes.read()) == (2, 1)
        database.away = False
        await database.flush()
        call = Call(core, request(call_id="call-3"))
        call.do("do_accounting", "db")
        call.answered(200)
        assert group["main"].ready
        await database.flush()

    asyncio.run(scenario())
    assert [row["callid"] for row in database.tables["acc"]] == ["call-0", "call-3"]
    assert "call_id=call-1;code=200" in caplog.text
    assert "call_id=call-2;code=200" in caplog.text


def test_records_that_the_database_refuses_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """A table that is not there, or a value that does not fit: told with the write, and by number at the end."""
    database = MemoryDatabase()
    core = loaded({URL: database}, db_url=URL)

    async def scenario() -> None:
        database.refuses = True
        for number in range(3):
            call = Call(core, request(call_id=f"call-{number}"))
            call.do("do_accounting", "db")
            call.answered(200)
        acc = core.module("acc")
        assert isinstance(acc, Acc)
        await database.flush()
        assert acc.refused_writes.read() == 3
        await acc.stop()

    asyncio.run(scenario())
    assert "the database refused 3 writes" in caplog.text


def test_long_identifiers_fit_a_strict_back_end() -> None:
    """A peer cannot stay out of the records with a Call-ID that the column does not take."""
    database = MemoryDatabase()
    url = "mysql://db"
    core = loaded({url: database}, db_url=url)
    call = Call(core, request(call_id="c" * 500))
    call.do("do_accounting", "db")

    async def scenario() -> None:
        call.answered(200)
        await database.flush()

    asyncio.run(scenario())
    assert database.tables["acc"][0]["callid"] == "c" * 64


# --- events


def heard(core: FakeCore) -> list[tuple[str, dict[str, Any]]]:
    events: list[tuple[str, dict[str, Any]]] = []
    for name in ("E_ACC_EVENT", "E_ACC_MISSED_EVENT"):
        core.events.listen(name, lambda name, params: events.append((name, dict(params))))
    return events


def test_events() -> None:
    """E_ACC_EVENT for transactions, E_ACC_MISSED_EVENT for missed calls, each once, with the extra fields."""
    core = loaded(extra_fields="evi: src->source")
    events = heard(core)
    call = Call(core)
    call.do("do_accounting", "evi", "missed|failed")
    core.write("$acc_extra", call.run, "x", "src")
    call.answered(486, "Busy")
    call = Call(core)
    call.do("do_accounting", "evi")
    call.answered(200)
    names = [name for name, _ in events]
    assert names == ["E_ACC_MISSED_EVENT", "E_ACC_EVENT", "E_ACC_EVENT"]
    assert [params["sip_code"] for _, params in events] == ["486", "486", "200"]
    assert events[2][1] == {
        "method": "INVITE",
        "from_tag": "a1",
        "to_tag": "b1",
        "callid": "call-1@example.com",
        "sip_code": "200",
        "sip_reason": "OK",
        "time": int(START_TIME),
        "source": "",
    }
    assert events[0][1]["source"] == "x"
    assert events[0][1]["setuptime"] == 0


# --- at once


@pytest.mark.parametrize(
    ("comment", "code", "reason"),
    [
        ("404 Nobody home", "404", "Nobody home"),
        ("480", "480", "Temporarily Unavailable"),
        ("rejected by policy", "000", "rejected by policy"),
        ("", "000", ""),
    ],
)
def test_a_record_at_once(comment: str, code: str, reason: str, lines: Lines) -> None:
    """The manual: a code and a reason phrase, without any mark."""
    call = Call(loaded())
    assert call.do("acc_log_request", comment) == 1
    assert lines() == [line("request accounted", code=code, reason=reason, to_tag="")]


def test_a_row_and_an_event_at_once() -> None:
    """The manual: the table is the second parameter; the event depends on the code."""
    database = MemoryDatabase()
    core = loaded({URL: database}, db_url=URL)
    events = heard(core)
    call = Call(core)

    async def scenario() -> None:
        assert call.do("acc_db_request", "403 No", "my_table") == 1
        await database.flush()

    asyncio.run(scenario())
    assert [(row["sip_code"], row["sip_reason"]) for row in database.tables["my_table"]] == [("403", "No")]
    call.do("acc_evi_request", "200 Fine")
    call.do("acc_evi_request", "403 No")
    call.do("acc_evi_request", "no code")
    assert [name for name, _ in events] == ["E_ACC_EVENT", "E_ACC_MISSED_EVENT", "E_ACC_MISSED_EVENT"]
    assert Call(loaded()).do("acc_db_request", "403 No", "t") == -1


def test_level_and_facility(caplog: pytest.LogCaptureFixture) -> None:
    """log_level and log_facility go with each record; nonsense is refused."""
    call = Call(loaded(log_level=1, log_facility="LOG_LOCAL3"))
    with caplog.at_level(logging.WARNING):
        call.do("acc_log_request", "200 OK")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.__dict__["facility"] == "LOG_LOCAL3"
    with pytest.raises(ParamError, match="LOG_NONSENSE"):
        Acc(log_facility="LOG_NONSENSE")
    with pytest.raises(ParamError, match="log_level"):
        Acc(log_level=9)


@pytest.mark.parametrize("default", [None, "sqlite::memory:"])
def test_records_for_a_database_need_one(default: str | None) -> None:
    """acc manual, db_url: the global db_default_url when it is not set."""
    acc = Acc()
    acc.core = FakeCore(globals={"db_default_url": default})
    assert acc.backends("log|db") == acc.backends("db") | acc.backends("log")
    assert acc._database_url() == (default or "")
    if default is None:
        acc.core.add(FakeTm())
        with pytest.raises(StartError, match="db_url of acc, or db_default_url"):
            asyncio.run(acc.start())
