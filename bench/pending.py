"""Memory and time with many open transactions: `python -m bench.pending --open 100000`.

The server runs in this process, as for `bench.own_time`. INVITEs are put in and left open: the first half rings, the
other half hears nothing. While they wait, whole calls are measured at 100, 1,000, ... open transactions, which shows
whether a call costs the same however many there are. Then the clock is put forward until every timer has run, and what
is left is counted. Ends with status 1 when a transaction is left, or with `--limit` when one takes more bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench.own_time import CALLEE, SDP, Bench, answer, call, request, start_server
from bench.servers import rss_bytes
from opensipspy.server.launch import COLLECTOR_THRESHOLDS
from opensipspy.sip import message

PROBES = 400
# Timer C of a branch that rings and 64*T1 for its CANCEL are over by then. The clock goes in steps of a tenth.
LONGEST_S = 400
STEP_S = 0.1


class Clock:
    """Real time, put forward by hand."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


def invite(bench: Bench, number: int, *, rings: bool) -> None:
    own = f"Contact: <sip:caller@127.0.0.1:5998;transport=UDP>\r\nContent-Type: application/sdp\r\n{FILLER}"
    to = "To: <sip:callee@127.0.0.1>\r\n"
    uri = f"sip:callee@127.0.0.1:{bench.port}"
    _, sent = bench.put("open", request("INVITE", uri, number, 1, to, own, SDP))
    if rings:
        bench.put("ring", answer(sent, "180 Ringing", f"Contact: <sip:127.0.0.1:{CALLEE}>\r\n"), CALLEE)


# With these an INVITE has the size that phones give it.
FILLER = (
    "Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, INFO\r\nSupported: replaces, timer, 100rel\r\n"
    "Session-Expires: 1800\r\nAccept: application/sdp\r\nP-Preferred-Identity: <sip:caller@127.0.0.1>\r\n"
)


def cost_of_a_call(bench: Bench, first: int) -> float:
    """Median microseconds of our own code for a whole call."""
    bench.times.clear()
    for number in range(first, first + PROBES):
        call(bench, number)
    return sum(statistics.median(times) for times in bench.times.values()) / 1000


async def measure(arguments: argparse.Namespace, folder: Path) -> int:
    clock = Clock()
    bench = await start_server("invite", folder, clock=clock)
    layer = bench.server.core.modules["tm"].flow.layer  # type: ignore[attr-defined]
    gc.set_threshold(*COLLECTOR_THRESHOLDS)
    pid = os.getpid()
    numbers = 10_000_000
    cost_of_a_call(bench, numbers)
    pass_time(bench, clock, LONGEST_S)
    gc.collect()
    before, opened = rss_bytes([pid]), 0
    marks = [mark for mark in (100, 1000, 10_000, 100_000) if mark <= arguments.open]
    print("plain Python" if message.__file__.endswith(".py") else "compiled")
    for mark in marks:
        while opened < mark:
            invite(bench, opened, rings=opened % 2 == 0)
            opened += 1
            if opened % 500 == 0:  # 5,000 a second: all are open before the first has waited for fr_timeout
                pass_time(bench, clock, STEP_S)
                bench.times.clear()
        pass_time(bench, clock, 1.0)
        numbers += PROBES
        took_us = cost_of_a_call(bench, numbers)
        each = (rss_bytes([pid]) - before) / (len(layer))
        print(f"{mark:7d} open ({len(layer)} in memory): {took_us:6.1f} us a call, {each:6.0f} bytes each")
    started = time.process_time()
    pass_time(bench, clock, LONGEST_S)
    left = len(layer)
    took_us = (time.process_time() - started) / max(1, opened) * 1e6
    print(f"{left} left when their time is up, {took_us:.0f} us each for all their timers")
    gc.collect()
    print(f"memory: {before >> 20} MiB before, {rss_bytes([pid]) >> 20} MiB after")
    await bench.server.shut_down()
    return 1 if left or (arguments.limit and each > arguments.limit) else 0


def pass_time(bench: Bench, clock: Clock, seconds: float) -> None:
    core = bench.server.core
    for _ in range(int(seconds / STEP_S)):
        clock.ahead_s += STEP_S
        core._turn()
        bench.forget_sent()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.pending", description=__doc__)
    parser.add_argument("--open", type=int, default=100_000)
    parser.add_argument("--limit", type=int, default=0, help="most bytes for one transaction")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        return asyncio.run(measure(arguments, Path(name)))


if __name__ == "__main__":
    sys.exit(main())
