"""SIPp's own scenarios, those it brings along, on both sides of this server: calls as SIPp's authors think they are."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.scenarios.peer import until
from tests.scenarios.server import ServerProcess

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.skipif(shutil.which("sipp") is None, reason="sipp is missing: apt-get install sip-tester"),
]

# SIPp's callers do not look at Record-Route: each request goes to its Request-URI.
SCRIPT = """
log_level=3
stderror_enabled=yes
syslog_enabled=no
socket=udp:127.0.0.1:PORT
socket=tcp:127.0.0.1:PORT
loadmodule "proto_udp.so"
loadmodule "proto_tcp.so"
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "maxfwd.so"
loadmodule "sipmsgops.so"
loadmodule "signaling.so"
route {
    if (!mf_process_maxfwd_header(10)) {
        send_reply(483, "Too Many Hops");
        exit;
    }
    if (is_method("ACK") && t_check_trans()) {
        t_relay();
        exit;
    }
    t_check_trans();
    t_relay();
}
"""
CALLS = 5
LIMIT_S = 30


class Players:
    """SIPp processes; `finish` waits for all, each of which must have seen what it expects."""

    def __init__(self, folder: Path, proxy: int) -> None:
        self.folder = folder
        self.proxy = f"127.0.0.1:{proxy}"
        self.processes: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(self, scenario: str, port: int, remote: int = 0, *extra: str, calls: int = CALLS) -> None:
        """remote: the port of the other side, which is called through the proxy; 0 for one that is called."""
        command = ["sipp", "-sn", scenario, "-i", "127.0.0.1", "-p", str(port), "-m", str(calls), "-nostdin", *extra]
        command += ["-timeout", f"{LIMIT_S}s", "-timeout_error", "-trace_err", "-error_file", f"{scenario}.errors"]
        if remote:
            command += ["-rsa", self.proxy, f"127.0.0.1:{remote}"]
        with (self.folder / f"{scenario}.out").open("wb") as out:
            process = subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        self.processes.append((scenario, process))

    def finish(self) -> None:
        for scenario, process in self.processes:
            status = process.wait(LIMIT_S + 15)
            errors = self.folder / f"{scenario}.errors"
            told = errors.read_text(encoding="utf-8", errors="replace")[-4000:] if errors.exists() else ""
            assert status == 0, f"{scenario} ended with {status}\n{told}"

    def stop(self) -> None:
        for _, process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()


@pytest.fixture
def players(
    tmp_path: Path, free_port: Callable[[], int], start_server: Callable[..., ServerProcess]
) -> Iterator[Players]:
    port = free_port()
    start_server(SCRIPT.replace("PORT", str(port)))
    made = Players(tmp_path, port)
    yield made
    made.stop()


@pytest.mark.parametrize("transport", ["u1", "un", "t1", "tn"])
@pytest.mark.parametrize("caller", ["uac", "regexp"])
def test_caller_and_callee(players: Players, free_port: Callable[[], int], caller: str, transport: str) -> None:
    """RFC 3261 §13 and §15 with SIPp at both ends, over UDP and from TCP to UDP: INVITE, ACK, pause, BYE."""
    there = free_port()
    more = ("-max_socket", "64") if transport.endswith("n") else ()
    players.start("uas", there, 0)  # over UDP, which its URI leads to
    players.start(caller, free_port(), there, "-t", transport, "-d", "100", *more)
    players.finish()


def test_third_party_call_control(players: Players, free_port: Callable[[], int]) -> None:
    """RFC 3725 §4.1: a controller calls one, and the other with what the first offered; nobody offers twice."""
    controller, one, other = free_port(), free_port(), free_port()
    between = ("-3pcc", f"127.0.0.1:{controller}")
    players.start("3pcc-A", one, 0)
    players.start("3pcc-B", other, 0)
    players.start("3pcc-C-B", free_port(), other, *between)
    # The other half of the controller listens for this one; to try it out would be to take its place.
    row = f":{controller:04X} 00000000:0000 0A"
    until(lambda: row in Path("/proc/net/tcp").read_text(encoding="ascii"), what="the controller's second half")
    players.start("3pcc-C-A", free_port(), one, *between)
    players.finish()
