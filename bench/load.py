"""SIPp as the load: one run at one rate, and the search for the highest rate that a server sustains."""

from __future__ import annotations

import csv
import hashlib
import socket
import sqlite3
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench.servers import Server

HERE = Path(__file__).resolve().parent
SHARED = HERE.parent / "tests" / "scenarios" / "sipp"
USERS = 1000


@dataclass
class Load:
    """What one run showed. cpu_us: microseconds of the server's processor time for each call. setup_p99_ms: from the
    INVITE to its 200, of 99 in 100 calls; 0.0 where it was not asked for."""

    rate: int
    calls: int
    failed: int
    retransmissions: int
    cpu_us: float
    elapsed_s: float
    setup_p99_ms: float = 0.0

    @property
    def sustained(self) -> bool:
        """At most 0.1 % of the calls failed under 1 % of the messages were sent again, and SIPp kept the rate."""
        if self.elapsed_s > self.calls / self.rate * 1.2 + 1:
            return False
        return self.failed <= self.calls // 1000 and self.retransmissions < self.calls // 100 + 1


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def make_users(folder: Path) -> tuple[Path, Path]:
    """A SQLite file with the table `subscriber`, and SIPp's file of users."""
    database, users = folder / "users.sqlite", folder / "users.csv"
    rows, lines = [], ["SEQUENTIAL"]
    for number in range(USERS):
        name, password = f"user{number}", f"secret{number}"
        ha1 = hashlib.md5(f"{name}:127.0.0.1:{password}".encode()).hexdigest()
        rows.append((number, name, "127.0.0.1", "", "", ha1, "", "", None))
        lines.append(f"{name};[authentication username={name} password={password}];")
    with sqlite3.connect(database) as connection:
        connection.execute(
            "CREATE TABLE subscriber (id INTEGER PRIMARY KEY, username CHAR(64), domain CHAR(64), password CHAR(25),"
            " cr_preferred_password CHAR(25), ha1 CHAR(64), ha1_sha256 CHAR(64), ha1_sha512t256 CHAR(64),"
            " rpid CHAR(64), UNIQUE (username, domain))"
        )
        connection.executemany("INSERT INTO subscriber VALUES (?,?,?,?,?,?,?,?,?)", rows)
        connection.execute("CREATE TABLE version (table_name CHAR(32) UNIQUE, table_version INTEGER)")
        connection.execute("INSERT INTO version VALUES ('subscriber', 8)")
    connection.close()
    users.write_text("\n".join(lines) + "\n", encoding="ascii")
    return database, users


def sipp(folder: Path, scenario: Path, target: str, port: int, *options: str) -> subprocess.Popen[bytes]:
    command = ["taskset", "-c", "1", "sipp", target, "-sf", str(scenario), "-i", "127.0.0.1", "-p", str(port)]
    command += ["-nostdin", "-trace_stat", "-stf", str(folder / f"{scenario.stem}-{port}.csv"), "-fd", "1"]
    command += ["-max_socket", "65000", *options]
    return subprocess.Popen(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def run_load(
    server: Server, scenario: str, uas: int, users: Path, rate: int, calls: int, *, times: bool = False
) -> Load:
    """`calls` calls at `rate` calls a second; with `times` SIPp writes down how long each set-up took."""
    folder = Path(tempfile.mkdtemp(prefix="sipp-", dir=server.folder))
    port = free_port()
    target = f"127.0.0.1:{server.port}"
    helper = None
    options = ["-m", str(calls), "-r", str(rate), "-timeout", f"{calls // rate + 10}s", "-d", "0"]
    file = HERE / "sipp" / "options.xml"
    if scenario == "invite":
        file = SHARED / "call.xml"
        options += ["-key", "callee", "callee"]
        helper = sipp(folder, SHARED / "answer.xml", target, uas)
    elif scenario == "register":
        file = HERE / "sipp" / "register.xml"
        options += ["-inf", str(users)]
    if times:
        options += ["-trace_rtt", "-rtt_freq", "1000"]
    before, started = server.cpu_s(), time.monotonic()
    client = sipp(folder, file, target, port, *options)
    try:
        client.wait(calls // rate + 20)
    except subprocess.TimeoutExpired:
        pass  # far above what the server or SIPp can do: the calls that did not end count as failed
    finally:
        for process in (client, helper):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
    used, elapsed = server.cpu_s() - before, time.monotonic() - started
    with (folder / f"{file.stem}-{port}.csv").open(encoding="utf-8") as lines:
        row = list(csv.DictReader(lines, delimiter=";"))[-1]
    good = int(row["SuccessfulCall(C)"])
    return Load(
        rate, calls, calls - good, int(row["Retransmissions(C)"]), used / max(good, 1) * 1e6, elapsed, p99(folder)
    )


def p99(folder: Path) -> float:
    """Milliseconds that 99 in 100 of the times in SIPp's files do not exceed; 0.0 without any."""
    found = []
    for file in folder.glob("*_rtt.csv"):
        with file.open(encoding="utf-8") as lines:
            found += [float(row["response_time_ms"]) for row in csv.DictReader(lines, delimiter=";")]
    return sorted(found)[len(found) * 99 // 100] if found else 0.0


def highest_rate(server: Server, scenario: str, uas: int, users: Path, start: int, seconds: int) -> Load:
    """Raise the rate by a quarter until the server no longer sustains it; the best run that it did."""
    best: Load | None = None
    rate = start
    for _ in range(16):
        load = run_load(server, scenario, uas, users, rate, rate * seconds)
        if not load.sustained:
            if best is not None:
                break
            rate //= 2
            if rate < 50:
                return load
            continue
        best = load
        rate = rate * 5 // 4
    assert best is not None
    return best
