"""Accounting: a record for every transaction that a script marks: to the log, a database, AAA servers, or as an event.

do_accounting() only marks. The record is made when the transaction tells that its final response went upstream, once;
a missed call when all destinations of an INVITE have failed, before the failure route can try others. Records for the
database go through its write-behind queue, which is retried while the database is away; what cannot even be queued
is written to the log in full, as an alarm, so that no record vanishes without a trace: the statistic `lost_records`
counts them, and the status report of the group `acc` (E_CORE_SR_STATUS_CHANGED) tells when it begins and when it ends.
So do records for AAA servers, which wait while none of them answers, up to 50,000.

`aaa_queue_file` names a file that keeps those that wait for longer than a second or two: what no server had taken when
this one was stopped, or killed, the next start sends, with Acct-Delay-Time. Without it they are in the log. What was
under way while the server was killed may come twice: with the same Acct-Session-Id, Acct-Status-Type and
Event-Timestamp, over Diameter with the same Session-Id and the T flag (RFC 6733 §9.4).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

from opensipspy.aaa import AaaError, open_client
from opensipspy.db import Column, Database, DatabaseError, DbValue, Index, Insert, Table, auto_id
from opensipspy.module import (
    Event,
    Fixup,
    Module,
    Param,
    ParamError,
    Requires,
    StartError,
    Stat,
    Wants,
    script_function,
    variable,
)
from opensipspy.modules.rr.api import RrApi
from opensipspy.modules.tm.api import FAILURE as TM_FAILURE
from opensipspy.modules.tm.api import LOCAL_COMPLETED, RESPONSE_OUT, TmApi, Transaction
from opensipspy.script.declare import Index as VarIndex
from opensipspy.script.kinds import BRANCH, FAILURE, LOCAL, REQUEST
from opensipspy.script.run import Run, Value
from opensipspy.sip import M_ACK, M_CANCEL, M_INVITE, Message

from .aaa import FIXED, Reports
from .columns import Widths
from .fields import BACKENDS, MAX_LEGS, Context, Fields
from .record import ANSWERED, MISSED, Record, first_line, split_comment
from .record import REQUEST as REQUEST_RECORD
from .spool import Spool, SpoolError

CONTEXT: Final = "acc"
"""Key in `run.ctx`; the value is a `Context`."""
ROUTES: Final = REQUEST | FAILURE | BRANCH | LOCAL
LOG, DB, EVI, AAA = (1 << place for place in range(len(BACKENDS)))
STATUS_GROUP: Final = "acc"
STATUS_READY: Final = 1
STATUS_LOSING: Final = -1
ALL_BACKENDS: Final = LOG | DB | EVI | AAA
FLAGS: Final = {"missed": 1, "failed": 2}
SIZES: Final = {"method": 16, "from_tag": 64, "to_tag": 64, "callid": 64, "sip_code": 3, "sip_reason": 32}
FACILITIES: Final = frozenset(
    {f"LOG_LOCAL{n}" for n in range(8)}
    | {"LOG_AUTH", "LOG_AUTHPRIV", "LOG_CRON", "LOG_DAEMON", "LOG_FTP", "LOG_KERN", "LOG_LPR", "LOG_MAIL", "LOG_NEWS"}
    | {"LOG_SYSLOG", "LOG_USER", "LOG_UUCP"}
)
# log_level counts as the script does; Python's logging has no notice of its own.
LEVELS: Final = {
    -3: 60,
    -2: logging.CRITICAL,
    -1: logging.ERROR,
    1: logging.WARNING,
    2: 25,
    3: logging.INFO,
    4: logging.DEBUG,
}


def _columns(*more: Column) -> tuple[Column, ...]:
    return (
        auto_id(),
        Column("method", "string", SIZES["method"], default=""),
        Column("from_tag", "string", SIZES["from_tag"], default=""),
        Column("to_tag", "string", SIZES["to_tag"], default=""),
        Column("callid", "string", SIZES["callid"], default=""),
        Column("sip_code", "string", SIZES["sip_code"], default=""),
        Column("sip_reason", "string", SIZES["sip_reason"], default=""),
        Column("time", "datetime"),
        *more,
        Column("setuptime", "unsigned int", 11, default="0"),
        Column("created", "datetime", null=True, default=None),
    )


ACC: Final = Table(
    "acc",
    7,
    _columns(
        Column("duration", "unsigned int", 11, default="0"), Column("ms_duration", "unsigned int", 11, default="0")
    ),
    (Index("callid_idx", ("callid",)),),
)
MISSED_CALLS: Final = Table("missed_calls", 5, _columns(), (Index("callid_idx", ("callid",)),))

EVENT_PARAMS: Final = ("method", "from_tag", "to_tag", "callid", "sip_code", "sip_reason", "time")


class Acc(Module):
    """Write call and event records."""

    name = "acc"
    requires = (Requires("tm"), Requires("rr", param="detect_direction"))
    wants = (Wants("rr"),)
    tables = (ACC, MISSED_CALLS)

    early_media = Param(int, 0, "1 accounts provisional replies with a body, too.")
    report_cancels = Param(int, 0, "1 accounts CANCEL transactions.")
    detect_direction = Param(
        int, 0, "1 swaps the tags of requests from callee to caller, so that they stay those of the call."
    )
    extra_fields = Param(str, "0", "Extra fields: backend: tag->name; tag... Repeat it for each back-end.", func=True)
    leg_fields = Param(
        str, "0", "Fields of call legs: backend: tag->name; tag... Repeat it for each back-end.", func=True
    )
    log_level = Param(int, 2, "Level of records in the log.")
    log_facility = Param(str, "LOG_DAEMON", "Syslog facility of records.")
    aaa_url = Param(str, None, "The AAA servers, radius:FILE or diameter:FILE; without it nothing goes to any.")
    aaa_queue_file = Param(str, None, "Keeps records while no AAA server answers; a name beside the script, or a path.")
    service_type = Param(int, -1, "Service-Type of records; -1: the dictionary's Sip-Session.")
    db_url = Param(str, None, "The database; the global db_default_url when not set; without both none is written to.")
    db_table_acc = Param(str, "acc", "Table of transactions.")
    db_table_missed_calls = Param(str, "missed_calls", "Table of missed calls.")
    acc_method_column = Param(str, "method", "Column of the method.")
    acc_from_tag_column = Param(str, "from_tag", "Column of the From tag.")
    acc_to_tag_column = Param(str, "to_tag", "Column of the To tag.")
    acc_callid_column = Param(str, "callid", "Column of the Call-ID.")
    acc_sip_code_column = Param(str, "sip_code", "Column of the status.")
    acc_sip_reason_column = Param(str, "sip_reason", "Column of the reason phrase.")
    acc_time_column = Param(str, "time", "Column of the time of the record.")

    lost_records = Stat(
        "Rows that the database's full queue and records that AAA servers did not take; the log has them.",
        no_reset=True,
    )
    refused_writes = Stat("Writes that the database of the records refused for good.", computed="refused")
    queued_writes = Stat("Writes that the database of the records does not have yet.", computed="waiting")
    queued_reports = Stat("Records that the AAA servers do not have yet.", computed="unfinished")
    kept_reports = Stat("Those of them that are on disk.", computed="kept")

    answered_event = Event("E_ACC_EVENT", params=(*EVENT_PARAMS, "evi_extra", "multi_leg_info"))
    missed_event = Event(
        "E_ACC_MISSED_EVENT", params=(*EVENT_PARAMS, "evi_extra", "multi_leg_info", "created", "setuptime")
    )

    def __init__(self, **params: Any) -> None:
        self._extra = Fields()
        self._legs = Fields()
        self._db: Database | None = None
        self._widths: Widths | None = None
        self._reports: Reports | None = None
        self._rr: RrApi | None = None
        self._alarmed = False
        super().__init__(**params)

    def set_extra_fields(self, value: str) -> None:
        if value not in ("", "0"):
            self._extra.add(value)

    def set_leg_fields(self, value: str) -> None:
        if value not in ("", "0"):
            self._legs.add(value)

    def set_param(self, name: str, value: object) -> None:
        super().set_param(name, value)
        if name == "log_level" and self.log_level not in LEVELS:
            raise ParamError(self.name, name, f"is one of {', '.join(map(str, LEVELS))}, not {self.log_level}")
        if name == "log_facility" and self.log_facility not in FACILITIES:
            raise ParamError(self.name, name, f"{self.log_facility} is no syslog facility")

    # Whether the script asks for records in a database: known before the globals of the script are.
    _asks_database = False

    async def start(self) -> None:
        self._tm = self.core.api("tm", TmApi)  # type: ignore[type-abstract]
        self._tm.on(RESPONSE_OUT, self._on_response)
        self._tm.on(LOCAL_COMPLETED, self._on_response)
        self._tm.on(TM_FAILURE, self._on_failure)
        if self.detect_direction:
            self._rr = self.core.api("rr", RrApi)  # type: ignore[type-abstract]
        url = self._database_url()
        if self._asks_database and not url:
            raise StartError("db accounting needs the parameter db_url of acc, or db_default_url")
        if url:
            self._db = self.core.database(url)
            self._widths = Widths(self._db, self.core.log)
            for table in (self.db_table_acc, self.db_table_missed_calls):
                self._learn(table)
        if self.aaa_url:
            try:
                client = await open_client(self.core, self.aaa_url)
                client.check(
                    (*FIXED, *(name for fields in (self._extra, self._legs) for _, name in fields.names["aaa"]))
                )
                spool = Spool(Path(self.core.script_folder, self.aaa_queue_file)) if self.aaa_queue_file else None
                reports = Reports(self.core, client, self.service_type, self._aaa_line, self._not_reported, spool)
            except AaaError as error:
                raise ParamError(self.name, "aaa_url", str(error)) from error
            try:
                await reports.start()
            except SpoolError as error:
                raise ParamError(self.name, "aaa_queue_file", str(error)) from error
            self._reports = reports
        elif self._extra.names["aaa"] or self._legs.names["aaa"]:
            raise ParamError(self.name, "aaa_url", "is needed for extra_fields and leg_fields of aaa")

    async def stop(self) -> None:
        """Write what is queued; tell how many records nobody took."""
        if self._reports is not None:
            await self._reports.stop()
        if self._db is not None:
            try:
                await self._db.flush()
            except DatabaseError as error:
                self.core.log.critical(
                    "acc: the database did not take the last writes (%d): %s", self._db.queued, error
                )
        if self.lost_records.read():
            self.core.log.critical("acc: %d records went to the log only", self.lost_records.read())
        if self.refused():
            self.core.log.critical("acc: the database refused %d writes, as the log told", self.refused())

    def waiting(self) -> int:
        return self._db.queued if self._db is not None else 0

    def unfinished(self) -> int:
        return self._reports.waiting if self._reports is not None else 0

    def kept(self) -> int:
        return self._reports.kept if self._reports is not None else 0

    def refused(self) -> int:
        return self._db.lost_writes if self._db is not None else 0

    def _database_url(self) -> str:
        """ "" when records go to no database."""
        return self.db_url or getattr(self.core.globals, "db_default_url", None) or ""

    # --- marking

    def backends(self, text: str) -> int:
        """A "log|db|evi|aaa" argument as a mask, read at load."""
        mask = 0
        for word in text.split("|"):
            word = word.strip().lower()
            if word not in BACKENDS:
                raise ValueError(f'"{word}" is no accounting back-end: those are {", ".join(BACKENDS)}')
            if word == "db":
                self._asks_database = True
            if word == "aaa" and not self.aaa_url:
                raise ValueError("aaa accounting needs the parameter aaa_url of acc")
            mask |= 1 << BACKENDS.index(word)
        return mask

    @staticmethod
    def flags(text: str) -> int:
        """A "missed|failed" argument as a mask, read at load."""
        mask = 0
        for word in text.split("|"):
            word = word.strip().lower()
            if word == "cdr":
                raise ValueError("cdr needs the dialog module, which does not account yet")
            if word not in FLAGS:
                raise ValueError(f'"{word}" is no accounting flag: those are {", ".join(FLAGS)}')
            mask |= FLAGS[word]
        return mask

    @script_function(routes=ROUTES)
    def do_accounting(
        self,
        run: Run,
        type: Annotated[int, Fixup("backends", "string")],
        flags: Annotated[int | None, Fixup("flags", "string")] = None,
        table: str | None = None,
    ) -> int:
        """Mark the transaction for accounting; calls add up.

        type: "log|db|evi|aaa". flags: "missed" also records calls that were missed, "failed" also responses from 300
        on. table: of the database, instead of db_table_acc.
        """
        if run.msg.method_id & M_ACK or (run.msg.method_id & M_CANCEL and not self.report_cancels):
            return 1
        context = self._context(run)
        context.started = True
        context.plain |= type
        if flags:
            if flags & FLAGS["missed"]:
                context.missed |= type
            if flags & FLAGS["failed"]:
                context.failed |= type
        if table:
            context.table = table
        return 1

    @script_function(routes=ROUTES)
    def drop_accounting(
        self,
        run: Run,
        type: Annotated[int | None, Fixup("backends", "string")] = None,
        flags: Annotated[int | None, Fixup("flags", "string")] = None,
    ) -> int:
        """Take marks back: all, those of some back-ends, or only their flags."""
        context = self._known(run)
        if context is None or not context.started:
            return -1
        mask = ALL_BACKENDS if type is None else type
        if flags:
            if flags & FLAGS["missed"]:
                context.missed &= ~mask
            if flags & FLAGS["failed"]:
                context.failed &= ~mask
        else:
            context.plain &= ~mask
            context.missed &= ~mask
            context.failed &= ~mask
        return 1

    @script_function(routes=ROUTES)
    def acc_new_leg(self, run: Run) -> int:
        """Start a new call leg with all of its fields NULL. -1 without leg_fields or do_accounting()."""
        context = self._known(run)
        if not self._legs.tags or context is None or not context.started or len(context.legs) >= MAX_LEGS:
            return -1
        context.legs.append({})
        return 1

    # --- at once

    @script_function(routes=ROUTES)
    def acc_log_request(self, run: Run, comment: str | None) -> int:
        """Write a record about the request to the log now. comment: "404 Nobody home". -1 when it is NULL."""
        if comment is None:
            return self._no_argument("acc_log_request")
        self._log(self._request_record(run, comment))
        return 1

    @script_function(routes=ROUTES)
    def acc_db_request(self, run: Run, comment: str | None, table: str | None) -> int:
        """Write a record about the request to a table now. -1 without a database, or without a comment."""
        if comment is None or table is None:
            return self._no_argument("acc_db_request")
        if self._db is None:
            self.core.log.error("acc: acc_db_request needs the parameter db_url, or db_default_url")
            return -1
        return 1 if self._insert(self._request_record(run, comment), table, missed=False) else -1

    @script_function(routes=ROUTES)
    def acc_aaa_request(self, run: Run, comment: str | None) -> int:
        """Give a record about the request to the AAA servers now. -1 without any, and when too many records wait."""
        if comment is None:
            return self._no_argument("acc_aaa_request")
        if self._reports is None:
            self.core.log.error("acc: acc_aaa_request needs the parameter aaa_url")
            return -1
        return 1 if self._report(self._request_record(run, comment)) else -1

    @script_function(routes=ROUTES)
    def acc_evi_request(self, run: Run, comment: str | None) -> int:
        """Raise E_ACC_EVENT about the request now, or E_ACC_MISSED_EVENT when the comment's code is not below 300."""
        if comment is None:
            return self._no_argument("acc_evi_request")
        record = self._request_record(run, comment)
        self._raise(record, missed=not 0 < int(record.sip_code) < 300)
        return 1

    def _no_argument(self, function: str) -> int:
        self.core.log.error("acc: an argument of %s() is NULL", function)
        return -1

    # --- variables

    def extra_tag(self, tag: str) -> str:
        """A tag of $acc_extra, checked at load."""
        return self._extra.check(tag)

    def leg_tag(self, tag: str) -> str:
        """A tag of $acc_leg, checked at load."""
        return self._legs.check(tag)

    @variable("$acc_extra", name_arg=True, parse_name="extra_tag")
    def acc_extra(self, run: Run, name: str, index: VarIndex) -> Value:
        """An extra field of the record."""
        context = self._known(run)
        return context.extra.get(name) if context is not None else None

    @acc_extra.setter
    def set_acc_extra(self, run: Run, name: str, index: VarIndex, value: Value) -> None:
        self._context(run).extra[name] = value

    @variable("$acc_leg", name_arg=True, index=True, parse_name="leg_tag")
    def acc_leg(self, run: Run, name: str, index: VarIndex) -> Value:
        """A field of a call leg: of the current one, or by number, from the end when it is negative."""
        leg = self._leg(self._known(run), index)
        return leg.get(name) if leg is not None else None

    @acc_leg.setter
    def set_acc_leg(self, run: Run, name: str, index: VarIndex, value: Value) -> None:
        leg = self._leg(self._known(run), index)
        if leg is None:
            self.core.log.error("acc: $acc_leg(%s): no such leg, or no do_accounting() before", name)
        else:
            leg[name] = value

    @variable("$acc_current_leg")
    def acc_current_leg(self, run: Run, name: object, index: VarIndex) -> Value:
        """The number of the current call leg, from 0; NULL without do_accounting()."""
        context = self._known(run)
        return len(context.legs) - 1 if context is not None and context.started else None

    @staticmethod
    def _leg(context: Context | None, index: VarIndex) -> dict[str, Value] | None:
        if context is None or not context.started:
            return None
        at = -1 if index is None else index
        if not isinstance(at, int) or not -len(context.legs) <= at < len(context.legs):
            return None
        return context.legs[at]

    # --- transactions

    def _on_response(self, transaction: Transaction, run: Any, reply: Message | None, status: int) -> None:
        context = run.ctx.get(CONTEXT) if isinstance(run, Run) else None
        if not isinstance(context, Context) or context.done or not context.started:
            return
        if status < 200:
            if self.early_media and reply is not None and reply.body and not context.early:
                context.early = True
                self._write(
                    context.plain, self._record(ANSWERED, transaction, run, context, reply, status), context.table
                )
            return
        context.done = True
        if status >= 300:
            self._missed(transaction, run, context, reply, status)
        wanted = context.plain & (context.failed if status >= 300 else ALL_BACKENDS)
        if wanted:
            self._write(wanted, self._record(ANSWERED, transaction, run, context, reply, status), context.table)

    def _on_failure(self, transaction: Transaction, run: Any, reply: Message | None, status: int) -> None:
        context = run.ctx.get(CONTEXT) if isinstance(run, Run) else None
        if isinstance(context, Context) and context.started and not context.done and status >= 300:
            self._missed(transaction, run, context, reply, status)

    def _missed(self, transaction: Transaction, run: Run, context: Context, reply: Message | None, status: int) -> None:
        """Record a missed call; the mark goes, so that a failure route decides whether the next miss counts again."""
        wanted, context.missed = context.missed, 0
        if wanted and run.msg.method_id & M_INVITE:
            record = self._record(MISSED, transaction, run, context, reply, status)
            if wanted & LOG:
                self._log(record)
            if wanted & DB:
                self._insert(record, self.db_table_missed_calls, missed=True)
            if wanted & EVI:
                self._raise(record, missed=True)
            if wanted & AAA:
                self._report(record)

    def _write(self, wanted: int, record: Record, table: str) -> None:
        if wanted & LOG:
            self._log(record)
        if wanted & DB:
            self._insert(record, table or self.db_table_acc, missed=False)
        if wanted & EVI:
            # Also when it failed: E_ACC_MISSED_EVENT tells of the miss itself, so that nothing is told twice.
            self._raise(record, missed=False)
        if wanted & AAA:
            self._report(record)

    # --- records

    def _record(
        self, kind: str, transaction: Transaction, run: Run, context: Context, reply: Message | None, status: int
    ) -> Record:
        if reply is not None:
            reason, to_tag = reply.reason, reply.to_tag
        else:
            reason = first_line(transaction.last_reply, status)
            to_tag = run.msg.to_tag or self._tm.local_tag(run)
        return self._make(kind, run, to_tag, f"{status:03d}", reason, context)

    def _request_record(self, run: Run, comment: str) -> Record:
        code, reason = split_comment(comment)
        to_tag = run.reply.to_tag if run.kind == FAILURE and run.reply is not None else run.msg.to_tag
        return self._make(REQUEST_RECORD, run, to_tag, code, reason, self._known(run))

    def _make(self, kind: str, run: Run, to_tag: str, code: str, reason: str, context: Context | None) -> Record:
        msg = run.msg
        from_tag = msg.from_tag
        if self._rr is not None and msg.to_tag and self._rr.is_upstream(run):
            from_tag, to_tag = to_tag, from_tag
        now = self.core.time()
        return Record(
            kind,
            msg.method,
            from_tag,
            to_tag,
            msg.call_id,
            code,
            reason,
            now,
            context.created if context is not None else now,
            dict(context.extra) if context is not None else {},
            [dict(leg) for leg in context.legs] if context is not None and self._legs.tags else [{}],
            bool(msg.to_tag),
        )

    def _log(self, record: Record) -> None:
        line = record.line(self._extra.names["log"], self._legs.names["log"])
        # script: as the operator's own lines, records are never left out as repeats.
        extra = {"script": True, "facility": self.log_facility}
        self.core.log.log(LEVELS[self.log_level], "%s", line, extra=extra)

    def _insert(self, record: Record, table: str, missed: bool) -> bool:
        """Queue a row for each leg. False when the database's queue is full: then the log has the record."""
        if self._db is None or self._widths is None:
            return False
        self._learn(table)
        rows = [Insert(table, self._widths.fitted(table, row)) for row in self._rows(record, missed)]
        try:
            self._db.write_later(*rows)
        except DatabaseError as error:
            line = record.line(self._extra.names["db"], self._legs.names["db"])
            self._lose(line, len(rows), f"not in table {table}: {error}")
            return False
        self._take_again()
        return True

    def _learn(self, table: str) -> None:
        if self._widths is not None and self._widths.claim(table):
            self.core.spawn(self._widths.learn(table), f"acc: columns of {table}")

    def _report(self, record: Record) -> bool:
        """Hand a record to the AAA servers, all legs in it. False when it is lost: then the log has it."""
        if self._reports is None:
            return False
        more = [(name, record.extra.get(tag)) for tag, name in self._extra.names["aaa"]]
        more += [(name, leg.get(tag)) for leg in record.legs for tag, name in self._legs.names["aaa"]]
        if not self._reports.send(record, more):
            return False
        self._take_again()
        return True

    def _aaa_line(self, record: Record) -> str:
        return record.line(self._extra.names["aaa"], self._legs.names["aaa"])

    def _not_reported(self, line: str, why: str) -> None:
        self._lose(line, 1, f"not with the AAA servers: {why}")

    def _lose(self, line: str, count: int, why: str) -> None:
        self.lost_records.inc(count)
        self._alarmed = True
        details = f"{self.lost_records.read()} records are in the log only: {why}"
        self.core.status.set_status(STATUS_GROUP, STATUS_LOSING, details)
        alarm = {"script": True, "facility": self.log_facility}
        self.core.log.critical("acc: %s: %s", why, line, extra=alarm)

    def _take_again(self) -> None:
        if self._alarmed:
            self._alarmed = False
            self.core.status.set_status(STATUS_GROUP, STATUS_READY, "records are taken again")

    def _rows(self, record: Record, missed: bool) -> Iterable[dict[str, DbValue]]:
        row: dict[str, DbValue] = {
            self.acc_method_column: self._fit("method", record.method),
            self.acc_from_tag_column: self._fit("from_tag", record.from_tag),
            self.acc_to_tag_column: self._fit("to_tag", record.to_tag),
            self.acc_callid_column: self._fit("callid", record.callid),
            self.acc_sip_code_column: record.sip_code,
            self.acc_sip_reason_column: self._fit("sip_reason", record.sip_reason),
            self.acc_time_column: datetime.fromtimestamp(int(record.time)),
        }
        if missed:
            row["setuptime"] = record.setuptime
            row["created"] = datetime.fromtimestamp(int(record.created))
        for tag, column in self._extra.names["db"]:
            row[column] = _written(record.extra.get(tag))
        legs = self._legs.names["db"]
        if not legs:
            return [row]
        return [{**row, **{column: _written(leg.get(tag)) for tag, column in legs}} for leg in record.legs]

    def _fit(self, column: str, text: str) -> str:
        """A text that the column takes: a strict back-end would refuse the whole record for a peer's long Call-ID."""
        if self._database_url().startswith("sqlite"):
            return text
        return text[: SIZES[column]]

    def _raise(self, record: Record, missed: bool) -> None:
        event = self.missed_event if missed else self.answered_event
        if not event.wanted:
            return
        legs = self._legs.names["evi"]
        for leg in record.legs if legs else [{}]:
            params: dict[str, Value] = {
                "method": record.method,
                "from_tag": record.from_tag,
                "to_tag": record.to_tag,
                "callid": record.callid,
                "sip_code": record.sip_code,
                "sip_reason": record.sip_reason,
                "time": int(record.time),
            }
            params |= {name: _written(record.extra.get(tag)) for tag, name in self._extra.names["evi"]}
            params |= {name: _written(leg.get(tag)) for tag, name in legs}
            if missed:
                params |= {"created": int(record.created), "setuptime": record.setuptime}
            event(**params)

    # --- context

    def _known(self, run: Run) -> Context | None:
        """The context of the message, or of the transaction that its route runs for."""
        context = run.ctx.get(CONTEXT)
        if not isinstance(context, Context):
            owner = getattr(run.transaction, "run", None)
            context = owner.ctx.get(CONTEXT) if isinstance(owner, Run) else None
        return context if isinstance(context, Context) else None

    def _context(self, run: Run) -> Context:
        context = self._known(run)
        if context is None:
            context = run.ctx[CONTEXT] = Context(self.core.time())
        return context


def _written(value: Value) -> str | int:
    """A field that the script left NULL is empty in a record, as in the C server: operators' columns are NOT NULL."""
    return "" if value is None else value
