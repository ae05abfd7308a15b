"""`opensipspy demo`: a whole call in ten seconds, with nothing to install.

Starts the server on free ports in a temporary folder, registers two phones with digest, lets one call the other, holds
the call for a second, hangs up, and prints the ladder of what crossed the wire.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import Process
from pathlib import Path

from opensipspy.cli import quickstart
from opensipspy.demo import Ladder, Phone

SUMMARY = "start a server, place a call between two built-in phones, and draw it"
LIMIT_S = 20.0
HOLD_S = 1.0
HOST = "127.0.0.1"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--verbose", action="store_true", help="print each message whole, and the server's log")


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


def script_for(port: int, http_port: int, folder: Path) -> str:
    """The shipped script on other ports, its management doors inside the temporary folder."""
    shipped = Path(__file__).resolve().parent.parent / "scripts" / "opensips.cfg"
    text = shipped.read_text(encoding="utf-8")
    text = text.replace(f"{HOST}:5060", f"{HOST}:{port}").replace('"port", 8888', f'"port", {http_port}')
    return text.replace('"reply_dir", "/tmp/"', f'"reply_dir", "{folder}/"')


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


async def start_server(folder: Path, script: Path, log: Path) -> Process:
    """Start the server and wait until it says that it is ready (sd_notify). Raises RuntimeError with its log."""
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.setblocking(False)
    notify.bind(str(folder / "notify"))
    environment = {**os.environ, "NOTIFY_SOCKET": str(folder / "notify")}
    command = [sys.executable, "-m", "opensipspy", "-f", str(script), "-F", "-E", "-w", str(folder)]
    loop = asyncio.get_running_loop()
    with notify, open(log, "wb") as output:  # noqa: ASYNC230 - one open() before anything runs
        process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output, env=environment)
        ready = asyncio.create_task(loop.sock_recv(notify, 4096))
        ended = asyncio.create_task(process.wait())
        await asyncio.wait({ready, ended}, timeout=LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
        started = ready.done()
        for task in (ready, ended):
            task.cancel()
    if not started:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise RuntimeError(f"the server did not start, its log is\n{await asyncio.to_thread(read, log)}")
    return process


async def play(port: int, users: dict[str, str], ladder: Ladder, verbose: bool) -> None:
    """Register both phones and place the call."""
    first, second = (Phone(user, password, HOST, port, ladder, verbose=verbose) for user, password in users.items())
    async with first, second:
        await first.register()
        await second.register()
        ringing = asyncio.create_task(second.answer())
        call = await first.call(second.user)
        await ringing
        await asyncio.sleep(HOLD_S)
        leaving = asyncio.create_task(second.wait_for_bye())
        await first.hang_up(call)
        await leaving


async def demonstrate(folder: Path, users: dict[str, str], verbose: bool) -> int:
    """Start the server on the prepared folder, play the call, draw it."""
    port, http_port = free_port(), free_port()
    script, log = folder / "opensips.cfg", folder / "log"
    script.write_text(script_for(port, http_port, folder), encoding="utf-8")
    print(f"Starting a server on udp:{HOST}:{port} with {script.name} ...", flush=True)
    try:
        process = await start_server(folder, script, log)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    ladder = Ladder([next(iter(users)), "opensipspy", list(users)[1]])
    failure = ""
    try:
        async with asyncio.timeout(LIMIT_S):
            await play(port, users, ladder, verbose)
    except (TimeoutError, RuntimeError) as error:
        failure = str(error) or "the call did not end in time"
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()
    print(ladder.draw())
    if verbose or failure:
        print(await asyncio.to_thread(read, log), file=sys.stderr)
    if failure:
        print(f"The demonstration failed: {failure}", file=sys.stderr)
        return 1
    print("\nBoth phones registered with digest authentication, talked for a second and hung up.")
    print("Next: `make run`, then register two phones of your own; `scripts/opensips.cfg` is the script you saw.")
    return 0


def run(args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="opensipspy-demo-") as name:
        users = quickstart.prepare(Path(name))
        return asyncio.run(demonstrate(Path(name), users, args.verbose))
