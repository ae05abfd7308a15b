"""Calls that are accounted while the database goes away: `python -m bench.accounting`.

SIPp's calls (INVITE, 200, ACK, BYE) pass a proxy that accounts INVITE and BYE in a database. In the middle PostgreSQL
is killed (SIGKILL) and started again; SQLite, which has no server, is locked by another program for as long. Both
transactions of each of SIPp's calls must be there, exactly once, by the Call-ID that SIPp gave them. Ends with status 1
when one is missing or there twice.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from bench.load import free_port
from opensipspy.db import Table, parse_url
from opensipspy.db.schema import VERSION_TABLE
from opensipspy.dbdrivers.db_postgres import DbPostgres
from opensipspy.dbdrivers.db_sqlite import DbSqlite
from opensipspy.modules.acc import ACC, MISSED_CALLS
from tests.backends import PostgresServer
from tests.scenarios.server import ServerProcess
from tests.scenarios.sipp_peer import Sipp

AWAY_S: Final = 3.0
SETTLE_S: Final = 60.0
SCRIPT: Final = """
log_level=3
stderror_enabled=yes
socket=udp:127.0.0.1:{port}
loadmodule "proto_udp.so"
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "rr.so"
loadmodule "sipmsgops.so"
loadmodule "signaling.so"
loadmodule "{driver}.so"
loadmodule "acc.so"
modparam("acc", "db_url", "{url}")

route {{
    if (is_method("INVITE|BYE"))
        do_accounting("db");
    if (has_totag()) {{
        if (!loose_route()) {{
            sl_send_reply(404, "Not here");
            exit;
        }}
        t_relay();
        exit;
    }}
    record_route();
    $du = "sip:127.0.0.1:{callee}";
    t_relay();
}}
"""


class SqliteHouse:
    """A file, and another program that locks it."""

    driver = "db_sqlite"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "acc.sqlite"
        self.url = f"sqlite:{self.path}"

    def start(self) -> None:
        asyncio.run(DbSqlite().create_tables(parse_url(self.url), TABLES))

    def interrupt(self) -> None:
        link = sqlite3.connect(self.path, isolation_level=None)
        link.execute("BEGIN EXCLUSIVE")
        time.sleep(AWAY_S)
        link.execute("ROLLBACK")
        link.close()

    def stop(self) -> None:
        pass


class PostgresHouse:
    """A server that is killed."""

    driver = "db_postgres"

    def __init__(self, folder: Path) -> None:
        self.server = PostgresServer()
        self.url = self.server.url("accounting")

    def start(self) -> None:
        self.server.prepare()
        self.server.start()
        asyncio.run(DbPostgres().create_tables(parse_url(self.url), TABLES))

    def interrupt(self) -> None:
        self.server.kill()
        time.sleep(AWAY_S)
        self.server.start()

    def stop(self) -> None:
        self.server.stop()


TABLES: Final[tuple[Table, ...]] = (VERSION_TABLE, ACC, MISSED_CALLS)
HOUSES: Final[dict[str, Any]] = {"sqlite": SqliteHouse, "postgres": PostgresHouse}


async def records(house: Any) -> Counter[tuple[str, str]]:
    """How often each (method, Call-ID) is in the table."""
    driver = DbSqlite() if isinstance(house, SqliteHouse) else DbPostgres()
    database = driver.open_database(parse_url(house.url))
    try:
        rows = await database.select("acc", ("method", "callid", "sip_code"))
    finally:
        await database.close()
    return Counter((str(method), str(callid)) for method, callid, code in rows if str(code) == "200")


def play(kind: str, calls: int, rate: int, interrupted: bool) -> bool:
    """One run; prints its figures and tells whether all was right."""
    with tempfile.TemporaryDirectory(prefix="opensipspy-") as name:
        folder = Path(name)
        house = HOUSES[kind](folder)
        port, callee, caller = free_port(), free_port(), free_port()
        server = answering = calling = None
        try:
            house.start()
            script = folder / "accounting.cfg"
            script.write_text(
                SCRIPT.format(port=port, callee=callee, driver=house.driver, url=house.url), encoding="utf-8"
            )
            server = ServerProcess(script, folder)
            server.start()
            limit_s = calls // rate + 120
            proxy = f"127.0.0.1:{port}"
            quiet = ("-nd",)
            answering = Sipp("answer", proxy, folder, port=callee, calls=calls, rate=rate, limit_s=limit_s, extra=quiet)
            calling = Sipp(
                "call",
                proxy,
                folder,
                port=caller,
                calls=calls,
                rate=rate,
                limit_s=limit_s,
                keys={"callee": "bob"},
                extra=(*quiet, "-d", "500", "-l", "5000", "-cid_str", "%u-bench@%s"),
            )
            begun = time.monotonic()
            if interrupted:
                time.sleep(calls / rate / 2)
                house.interrupt()
            status = calling.wait()
            took = time.monotonic() - begun
            counters = calling.counters()
            good = int(counters["SuccessfulCall(C)"])
            truth = {(method, f"{n}-bench@127.0.0.1") for n in range(1, calls + 1) for method in ("INVITE", "BYE")}
            end = time.monotonic() + SETTLE_S
            found = asyncio.run(records(house))
            while sum(found.values()) < len(truth) and time.monotonic() < end:
                time.sleep(0.2)
                found = asyncio.run(records(house))
            stopped = server.stop()
            found = asyncio.run(records(house))
        finally:
            for peer in (calling, answering):
                if peer is not None:
                    peer.stop()
            if server is not None and server.process is not None and server.process.poll() is None:
                os.kill(server.pid, signal.SIGKILL)
                server.process.wait()
            house.stop()
        missing = [key for key in truth if not found[key]]
        twice = [key for key, count in found.items() if count > 1]
        strange = [key for key in found if key not in truth]
        how = "interrupted" if interrupted else "undisturbed"
        print(
            f"{kind}, {how}: {good} of {calls} calls in {took:.1f} s (SIPp's status {status}, {rate} calls/s), "
            f"{sum(found.values())} records, missing {len(missing)}, twice {len(twice)}, strange {len(strange)}; "
            f"the server ended with {stopped}",
            flush=True,
        )
        for line in server.log_text().splitlines() if server is not None else ():
            if "database" in line:
                print("   ", line[:200], flush=True)
        return not missing and not twice and not strange and good == calls


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.accounting", description=__doc__)
    parser.add_argument("kinds", nargs="*", default=list(HOUSES), metavar="sqlite|postgres")
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--rate", type=int, default=150)
    parser.add_argument("--undisturbed", action="store_true", help="the database stays")
    arguments = parser.parse_args()
    results = [play(kind, arguments.calls, arguments.rate, not arguments.undisturbed) for kind in arguments.kinds]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
