"""`core:reload_routes` a thousand times on a running server: `python -m bench.reloads`.

Told are the time of one and what is left behind: memory, and the programs and routes that are still alive. Ends with
status 1 when memory has grown by more than `--growth` after the first tenth, or when an old program is alive.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import tempfile
import time
from pathlib import Path

from bench.load import free_port
from bench.load_script import NEEDED, script
from opensipspy.script.program import Program, RouteCode
from opensipspy.server.figures import resident_bytes
from opensipspy.server.launch import open_logs
from opensipspy.server.load import load
from opensipspy.server.options import Options
from opensipspy.server.server import Server


def alive(kind: type) -> int:
    gc.collect()
    return sum(1 for each in gc.get_objects() if isinstance(each, kind))


async def measure(arguments: argparse.Namespace, path: Path) -> int:
    settings = Options()
    settings.script, settings.workdir, settings.log_stderr = str(path), str(path.parent), True
    loaded = load(settings)
    server = Server(settings, loaded, open_logs(settings, loaded), asyncio.get_running_loop())
    await server.start()
    settle = max(arguments.times // 10, 1)
    programs = routes = first = 0
    started = time.process_time()
    for number in range(arguments.times):
        await server.core.mi.call("core:reload_routes", None)
        if number == settle - 1:
            programs, routes, first = alive(Program), alive(RouteCode), resident_bytes()
    took = (time.process_time() - started) / arguments.times
    left = alive(Program), alive(RouteCode)
    growth = resident_bytes() / first - 1
    await server.shut_down()
    print(f"{arguments.times} reloads, {took * 1000:.1f} ms of processor time each")
    print(f"memory {first >> 10} KiB after {settle}, {growth:+.1%} at the end")
    print(f"programs {programs} then, {left[0]} now; routes {routes} then, {left[1]} now")
    return 0 if left == (programs, routes) and growth <= arguments.growth else 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.reloads", description=__doc__)
    parser.add_argument("--times", type=int, default=1000)
    parser.add_argument("--lines", type=int, default=150, help="length of the script")
    parser.add_argument("--growth", type=float, default=0.02)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        path = Path(name) / "opensips.cfg"
        text = script(["proto_udp", *NEEDED], arguments.lines)
        path.write_text(text.replace("127.0.0.1:5060", f"127.0.0.1:{free_port()}"), encoding="utf-8")
        return asyncio.run(measure(arguments, path))


if __name__ == "__main__":
    sys.exit(main())
