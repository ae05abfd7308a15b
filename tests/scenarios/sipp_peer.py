"""SIPp as a peer: one of our scenario files, run as a child process."""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path

SCENARIOS = Path(__file__).resolve().parent / "sipp"


class Sipp:
    """One SIPp process. `finish()` waits for it and asserts that every call was as its scenario says."""

    def __init__(
        self,
        scenario: str,
        target: str,
        folder: Path,
        *,
        port: int,
        calls: int = 1,
        rate: int = 1,
        keys: dict[str, str] | None = None,
        username: str = "",
        password: str = "",
        transport: str = "u1",
        limit_s: int = 60,
        extra: tuple[str, ...] = (),
    ) -> None:
        """scenario: file name below tests/scenarios/sipp; target: "host:port"; keys: `[name]` words of the file."""
        self.name = f"{scenario}-{port}"
        self.limit_s = limit_s
        self.output = folder / f"{self.name}.out"
        self.messages = folder / f"{self.name}.messages"
        self.errors = folder / f"{self.name}.errors"
        self.statistics = folder / f"{self.name}.csv"
        command = ["sipp", target, "-sf", str(SCENARIOS / f"{scenario}.xml"), "-i", "127.0.0.1", "-p", str(port)]
        command += ["-m", str(calls), "-r", str(rate), "-t", transport, "-nostdin", "-timeout", f"{limit_s}s"]
        command += ["-timeout_error", "-trace_err", "-error_file", str(self.errors)]
        command += ["-trace_msg", "-message_file", str(self.messages)]
        command += ["-trace_stat", "-stf", str(self.statistics), "-fd", "1"]
        if username:
            command += ["-au", username, "-ap", password, "-s", username]
        for key, value in (keys or {}).items():
            command += ["-key", key, value]
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(
                [*command, *extra], cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )

    def wait(self) -> int:
        return self.process.wait(self.limit_s + 15)

    def finish(self) -> None:
        """Wait for the end; SIPp's status 0 means that all calls followed the scenario."""
        status = self.wait()
        assert status == 0, f"sipp {self.name} ended with {status}\n{self.report()}"

    def report(self) -> str:
        """What went wrong, as SIPp saw it."""
        parts = []
        for path in (self.errors, self.messages):
            if path.exists():
                parts.append(f"--- {path.name}\n" + path.read_text(encoding="utf-8", errors="replace")[-6000:])
        return "\n".join(parts)

    def counters(self) -> dict[str, str]:
        """The last row of SIPp's statistics file, by column name."""
        with self.statistics.open(encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines, delimiter=";"))
        return {k: v for k, v in rows[-1].items() if k}

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
