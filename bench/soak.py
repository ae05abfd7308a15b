"""Many calls at a steady rate, with the server's memory sampled: `python -m bench.soak --calls 10000 --rate 100`.

Ends with status 1 when a call failed, or when the memory after the last call is more than `--growth` above that after
the first thousand.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.load import SHARED, free_port, sipp
from bench.servers import Server


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--rate", type=int, default=100)
    parser.add_argument("--growth", type=float, default=0.05, help="share by which memory may grow after 1,000 calls")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--compiled", action="store_true")
    arguments = parser.parse_args()
    uas, port = free_port(), free_port()
    kind = "compiled" if arguments.compiled else "plain"
    server = Server(kind, "invite", {"PORT": str(port), "UAS": str(uas)}, python=arguments.python)
    samples: list[tuple[float, int]] = []
    try:
        folder = Path(tempfile.mkdtemp(prefix="sipp-", dir=server.folder))
        target = f"127.0.0.1:{port}"
        helper = sipp(folder, SHARED / "answer.xml", target, uas)
        calls = ["-m", str(arguments.calls), "-r", str(arguments.rate), "-d", "0", "-key", "callee", "callee"]
        before, started = server.cpu_s(), time.monotonic()
        client = sipp(folder, SHARED / "call.xml", target, free_port(), *calls)
        while client.poll() is None:
            try:
                client.wait(1)
            except subprocess.TimeoutExpired:
                samples.append((time.monotonic() - started, server.rss_bytes()))
        used = server.cpu_s() - before
        helper.kill()
        helper.wait()
    finally:
        server.stop()
    warm_s = 1000 / arguments.rate
    # Transactions are kept for a while after their end (timers D, H, L, M: up to 32 s), so the plateau comes later.
    settled_s = warm_s + 40
    reference = next((rss for at, rss in samples if at >= settled_s), samples[-1][1])
    first = next((rss for at, rss in samples if at >= warm_s), samples[-1][1])
    last = samples[-1][1]
    growth = last / reference - 1
    print(f"calls {arguments.calls}  rate {arguments.rate}/s  sipp status {client.returncode}")
    print(f"CPU a call {used / arguments.calls * 1e6:.0f} us")
    print(f"memory after 1,000 calls {first >> 10} KiB, settled {reference >> 10} KiB, at the end {last >> 10} KiB")
    print(f"growth after settling {growth:.1%}")
    return 0 if client.returncode == 0 and growth <= arguments.growth else 1


if __name__ == "__main__":
    sys.exit(main())
