"""CPU time per call of opensipspy beside C servers, with SIPp on the other core.

For each scenario the servers run in turn, `--rounds` times over (A B A B), one worker each, pinned to core 0; SIPp has
core 1. Two figures for each: at a low common rate, where every message costs a wake-up, and at the highest rate that
the server sustains. The table goes to standard output and to bench/results/.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from bench.load import Load, free_port, highest_rate, make_users, run_load
from bench.servers import Server

SCENARIOS = {
    "options": "stateless OPTIONS round trip",
    "invite": "record-routed INVITE call, stateful",
    "register": "REGISTER with digest, user in SQLite",
    "script": "about 100 statements, OPTIONS answered",
}
LOW_RATE = 200
START_RATE = {"options": 3000, "invite": 400, "register": 800, "script": 2000}
RESULTS = Path(__file__).resolve().parent / "results"


def measure(kind: str, scenario: str, arguments: argparse.Namespace, folder: Path) -> tuple[Load, Load]:
    """The run at the low rate and the one at the highest; a call's set-up time is that at 70 % of the highest."""
    database, users = make_users(folder)
    uas = free_port()
    values = {"PORT": str(free_port()), "UAS": str(uas), "DB": str(database).lstrip("/")}
    server = Server(kind, scenario, values, python=arguments.python)
    try:
        run_load(server, scenario, uas, users, LOW_RATE, LOW_RATE)
        low = run_load(server, scenario, uas, users, LOW_RATE, LOW_RATE * arguments.seconds)
        high = highest_rate(server, scenario, uas, users, START_RATE[scenario], arguments.seconds)
        if scenario == "invite":
            rate = high.rate * 7 // 10
            high.setup_p99_ms = run_load(
                server, scenario, uas, users, rate, rate * arguments.seconds, times=True
            ).setup_p99_ms
    finally:
        server.stop()
    return low, high


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--server", action="append", choices=["plain", "compiled", "kamailio", "opensips"])
    parser.add_argument("--scenario", action="append", choices=sorted(SCENARIOS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=4, help="length of each run")
    parser.add_argument(
        "--python", default=sys.executable, help="the Python of the environment with the compiled wheel"
    )
    arguments = parser.parse_args()
    for program in ("sipp", "taskset"):
        if shutil.which(program) is None:
            print(f"{program} is missing: apt-get install sip-tester util-linux", file=sys.stderr)
            return 2
    kinds = arguments.server or ["plain", *(["kamailio"] if shutil.which("kamailio") else [])]
    results: dict[str, dict[str, list[tuple[Load, Load]]]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        for scenario in arguments.scenario or list(SCENARIOS):
            for _ in range(arguments.rounds):
                for kind in kinds:
                    folder = Path(tempfile.mkdtemp(dir=name))
                    low, high = measure(kind, scenario, arguments, folder)
                    results.setdefault(scenario, {}).setdefault(kind, []).append((low, high))
                    print(
                        f"{scenario:9} {kind:9} low {low.cpu_us:7.1f} us   "
                        f"{high.rate:6d}/s {high.cpu_us:7.1f} us  failed {high.failed} again {high.retransmissions}",
                        file=sys.stderr,
                    )
    lines = [
        "| scenario | server | CPU a call at 200/s, µs | highest rate, /s | CPU a call there, µs |"
        " p99 of the set-up at 70 %, ms |",
        "|" + " --- |" * 6,
    ]
    for scenario, by_kind in results.items():
        for kind, runs in by_kind.items():
            low_us = statistics.median(low.cpu_us for low, _ in runs)
            high_us = statistics.median(high.cpu_us for _, high in runs)
            rate = max(high.rate for _, high in runs)
            setup = f"{statistics.median(high.setup_p99_ms for _, high in runs):.0f}" if scenario == "invite" else ""
            lines.append(f"| {SCENARIOS[scenario]} | {kind} | {low_us:.0f} | {rate} | {high_us:.0f} | {setup} |")
    print("\n".join(lines))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "latest.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = {
        scenario: {kind: [[vars(load) for load in pair] for pair in runs] for kind, runs in by_kind.items()}
        for scenario, by_kind in results.items()
    }
    (RESULTS / "latest.json").write_text(json.dumps({"machine": platform.machine(), "runs": data}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
