"""The servers under load: how each is started on a script, and how much processor time its processes took."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent / "scripts"
ROOT = Path(__file__).resolve().parent.parent
START_LIMIT_S = 20.0


def statements() -> tuple[str, str]:
    """About 100 statements for opensipspy or OpenSIPS, and the same in Kamailio's spelling."""
    lines = ["$var(a) = 1;", '$var(s) = "x";']
    for number in range(12):
        lines += [
            f"$var(a) = $var(a) + {number};",
            f"if ($var(a) > {number * 3})",
            f'    $var(s) = "caller {number} of $fU";',
            "else",
            "    $var(s) = $ru;",
            f'if ($rm == "OPTIONS" && $var(a) != {1000 + number})',
            f"    $avp(k{number}) = $var(s);",
            "$var(n) = $(var(s){s.len});",
            f'if ($ua =~ "^phone{number}")',
            f"    $var(b) = {number};",
        ]
    ours = "\n".join("\t" + line for line in lines)
    theirs = ours.replace("$avp(k", "$avp(s:k")
    return ours, theirs


def script_text(server: str, scenario: str, values: dict[str, str]) -> str:
    prefix = "kamailio_" if server == "kamailio" else ""
    if scenario == "script":
        ours, theirs = statements()
        body = 'loadmodule "sl.so"\nroute {\n' + ours + '\n\tsl_send_reply(200, "OK");\n}\n'
        if server == "kamailio":
            body = 'loadmodule "sl.so"\nloadmodule "pv.so"\nrequest_route {\n' + theirs
            body += '\n\tsl_send_reply("200", "OK");\n}\n'
    else:
        body = (SCRIPTS / f"{prefix}{scenario}.cfg").read_text(encoding="utf-8")
    text = (SCRIPTS / f"{prefix}head.cfg").read_text(encoding="utf-8") + body
    if server == "opensips":
        modules = Path(os.environ["OPENSIPS"]).resolve().parents[1] / "lib64" / "opensips" / "modules"
        text = f'mpath="{os.environ.get("OPENSIPS_MODULES", modules)}/"\n' + text
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    return text


def cpu_s(pids: list[int]) -> float:
    """Seconds that all threads of the processes have spent on a processor, to the nanosecond (schedstat)."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text(encoding="ascii").split()[0])
    return total / 1e9


def rss_bytes(pids: list[int]) -> int:
    pages = 0
    for pid in pids:
        pages += int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Server:
    """One server process group on one core.

    kind: "plain" and "compiled" are ours (the latter from the environment whose Python is `python`), "kamailio" and
    "opensips" the C peers.
    """

    def __init__(self, kind: str, scenario: str, values: dict[str, str], *, python: str = sys.executable) -> None:
        self.kind = kind
        self.port = int(values["PORT"])
        self.folder = Path(tempfile.mkdtemp(prefix="bench-"))
        script = self.folder / "bench.cfg"
        script.write_text(script_text(kind, scenario, values), encoding="utf-8")
        self.log = (self.folder / "log").open("wb")
        if kind == "kamailio":
            command = ["kamailio", "-DD", "-E", "-f", str(script), "-Y", str(self.folder), "-P", f"{self.folder}/pid"]
            command += ["-m", "1024", "-M", "16", "-x", "fm", "-X", "fm"]
        elif kind == "opensips":
            command = [os.environ["OPENSIPS"], "-f", str(script), "-F", "-m", "1024", "-M", "16"]
        else:
            command = [python, "-m", "opensipspy", "-f", str(script), "-F", "-E", "-w", str(self.folder)]
        self.process = subprocess.Popen(
            ["taskset", "-c", "0", *command],
            cwd=ROOT if kind == "plain" else self.folder,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        self._wait_until_it_answers()

    def _wait_until_it_answers(self) -> None:
        """Any answer to any request will do."""
        probe = (
            f"OPTIONS sip:127.0.0.1:{self.port} SIP/2.0\r\n"
            "Via: SIP/2.0/UDP 127.0.0.1:{port};rport;branch=z9hG4bKp\r\n"
            "From: <sip:p@p>;tag=1\r\nTo: <sip:p@p>\r\nCall-ID: probe\r\nCSeq: 1 OPTIONS\r\nMax-Forwards: 0\r\n"
            "Content-Length: 0\r\n\r\n"
        )
        end = time.monotonic() + START_LIMIT_S
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            sock.settimeout(0.2)
            while time.monotonic() < end:
                if self.process.poll() is not None:
                    break
                sock.sendto(probe.format(port=sock.getsockname()[1]).encode(), ("127.0.0.1", self.port))
                try:
                    sock.recv(65535)
                except OSError:
                    continue
                return
        said = self.log_text()[-3000:]
        self.stop()
        raise RuntimeError(f"{self.kind} does not answer:\n{said}")

    def log_text(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    def pids(self) -> list[int]:
        """The process and all its descendants."""
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            try:
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
            except OSError:
                continue
            todo += [int(child) for child in children]
        return found

    def cpu_s(self) -> float:
        return cpu_s(self.pids())

    def rss_bytes(self) -> int:
        return rss_bytes(self.pids())

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(8)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)
