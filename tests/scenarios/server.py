"""The whole server as a child process, as an operator starts it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def shipped(name: str) -> str:
    """The text of a shipped script, from the package that is under test."""
    code = "import opensipspy.scripts as s, sys; sys.stdout.write(s.__path__[0])"
    folder = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return (Path(folder) / name).read_text(encoding="utf-8")


class ServerProcess:
    """`python -m opensipspy -f SCRIPT -F -E -w FOLDER`; says when it is ready through the sd_notify protocol."""

    start_limit_s = 90.0
    stop_limit_s = 30.0

    def __init__(self, script: Path, folder: Path, arguments: Sequence[str] = ()) -> None:
        self.script = script
        self.folder = folder
        self.arguments = tuple(arguments)
        self.log_path = folder / f"{script.stem}.{os.getpid()}.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def command(self) -> list[str]:
        """What is run."""
        server = [sys.executable, "-m", "opensipspy", "-f", str(self.script), "-F", "-E", "-w", str(self.folder)]
        return [*server, *self.arguments]

    def start(self, *, wait: bool = True) -> None:
        """Start, and with `wait` return only when every socket is open. Raises with the log when it ends before."""
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        name = f"\0opensipspy-test-{os.getpid()}-{id(self)}"
        notify.bind(name)
        notify.settimeout(0.1)
        environment = {**os.environ, "NOTIFY_SOCKET": "@" + name[1:], "PYTHONUNBUFFERED": "1"}
        with notify, self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                cwd=Path(__file__).resolve().parents[2],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )
            waited = 0.0
            while wait:
                try:
                    if b"READY=1" in notify.recv(4096):
                        return
                except TimeoutError:
                    waited += 0.1
                assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.log_text()}"
                assert waited < self.start_limit_s, f"not ready after {waited:.0f} s:\n{self.log_text()}"

    def log_text(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int | None:
        """Ask it to end and return its exit status; None when it was never started."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)
            try:
                self.process.wait(self.stop_limit_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"did not stop in {self.stop_limit_s} s:\n{self.log_text()}") from None
        return self.process.returncode

    def kill(self) -> None:
        """End it as a crash would: no signal handler runs."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def wait(self, limit_s: float = 90.0) -> int:
        assert self.process is not None
        return self.process.wait(limit_s)
