"""The server as an operator starts it: a process, a script, signals, exit statuses."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scenarios.server import ServerProcess
from tests.server.house import free_port, request

ROOT = Path(__file__).resolve().parents[2]

MINIMAL = """
log_level=3
stderror_enabled=yes
socket=udp:127.0.0.1:{port}
socket=tcp:127.0.0.1:{port}
loadmodule "proto_udp.so"
loadmodule "proto_tcp.so"
loadmodule "sl.so"
route {{
	sl_send_reply(200, "OK");
}}
"""


def run(*arguments: str, text: str | None = None, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "opensipspy", *arguments],
        input=text,
        capture_output=True,
        text=True,
        timeout=30,
        cwd=cwd,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def ask(port: int, text: str = "") -> str:
    """One request over UDP and its answer."""
    with socket.socket(type=socket.SOCK_DGRAM) as peer:
        peer.settimeout(30)
        peer.connect(("127.0.0.1", port))
        peer.send((text or request()).encode())
        return peer.recv(65535).decode()


Start = Callable[..., ServerProcess]


def test_it_answers_over_udp_and_tcp(start_server: Start) -> None:
    port = free_port()
    start_server(MINIMAL.format(port=port))
    assert ask(port).startswith("SIP/2.0 200 OK")
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(request(via="SIP/2.0/TCP 127.0.0.1:5999").encode() * 2)
        answer = b""
        while answer.count(b"SIP/2.0 200 OK") < 2:
            answer += connection.recv(65535)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_term_and_int_end_it_with_0(start_server: Start, number: signal.Signals) -> None:
    server = start_server(MINIMAL.format(port=free_port()))
    assert server.stop(number) == 0


def test_hup_does_not_end_it(start_server: Start) -> None:
    port = free_port()
    server = start_server(MINIMAL.format(port=port))
    os.kill(server.pid, signal.SIGHUP)
    assert ask(port).startswith("SIP/2.0 200")
    assert server.stop() == 0


def test_a_broken_script_shows_every_finding_and_ends_with_1(tmp_path: Path) -> None:
    script = tmp_path / "broken.cfg"
    script.write_text(
        'socket=udp:127.0.0.1:5060\nloadmodule "proto_udp.so"\nloadmodule "sl.so"\nloadmodule "maxfw.so"\n'
        'modparam("sl", "enable_stat", 1)\nmodparam("nosuch", "x", 1)\n'
        'route {\n\tsl_send_repply(200, "OK");\n\tsl_send_reply(200);\n\troute(nowhere);\n}\n'
    )
    for flags in (("-F",), ("-c",), ("-C",)):
        ended = run("-f", str(script), *flags)
        assert ended.returncode == 1
        for line, text in (
            (4, "maxfwd"),
            (5, "enable_stats"),
            (6, "nosuch"),
            (8, "sl_send_reply"),
            (9, "sl_send_reply"),
        ):
            found = [row for row in ended.stderr.splitlines() if f"broken.cfg:{line}:" in row]
            assert found, f"line {line} is not complained about:\n{ended.stderr}"
            assert text in " ".join(found)
        assert "broken.cfg:10:" in ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_module_without_what_it_needs_is_a_finding(tmp_path: Path) -> None:
    script = tmp_path / "x.cfg"
    script.write_text(
        'socket=udp:127.0.0.1:5060\nloadmodule "proto_udp.so"\nloadmodule "registrar.so"\nroute { exit; }\n'
    )
    ended = run("-f", str(script), "-c")
    assert ended.returncode == 1
    assert "x.cfg:3:" in ended.stderr
    assert "usrloc" in ended.stderr


def test_checking_a_good_script_opens_nothing(tmp_path: Path) -> None:
    script = tmp_path / "good.cfg"
    with socket.socket(type=socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        script.write_text(MINIMAL.format(port=taken.getsockname()[1]))
        assert run("-f", str(script), "-c").returncode == 0
        ended = run("-f", str(script), "-F")
        assert ended.returncode == 1
        assert "cannot listen" in ended.stderr


def test_a_script_that_is_not_there(tmp_path: Path) -> None:
    ended = run("-f", str(tmp_path / "none.cfg"), "-F")
    assert ended.returncode == 1
    assert "none.cfg" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_script_can_come_from_standard_input() -> None:
    ended = run("-f", "-", "-c", text=MINIMAL.format(port=5060))
    assert ended.returncode == 0


def test_listening_points_of_the_command_line_win(start_server: Start) -> None:
    port, other = free_port(), free_port()
    start_server(MINIMAL.format(port=port), "-l", f"udp:127.0.0.1:{other}")
    assert ask(other).startswith("SIP/2.0 200")


def test_in_the_background_it_returns_when_it_listens(tmp_path: Path) -> None:
    port = free_port()
    script, pid_file = tmp_path / "b.cfg", tmp_path / "b.pid"
    script.write_text(MINIMAL.format(port=port))
    # Not a pipe: the server keeps standard error for its log, and a pipe would not end before it does.
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-m", "opensipspy", "-f", str(script), "-P", str(pid_file), "-w", str(tmp_path)]
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=30, cwd=ROOT, check=False
        )
    assert ended.returncode == 0, (tmp_path / "log").read_text()
    number = int(pid_file.read_text())
    try:
        assert ask(port).startswith("SIP/2.0 200")
        assert Path(f"/proc/{number}/cwd").resolve() == tmp_path.resolve()
    finally:
        os.kill(number, signal.SIGTERM)
        descriptor = os.pidfd_open(number)
        try:
            import select

            assert select.select([descriptor], [], [], 5)[0], "it must end within 5 s"
        finally:
            os.close(descriptor)
    assert not pid_file.exists()


def test_a_background_start_that_fails_ends_with_1(tmp_path: Path) -> None:
    script = tmp_path / "b.cfg"
    with socket.socket(type=socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        script.write_text(MINIMAL.format(port=taken.getsockname()[1]))
        ended = run("-f", str(script))
    assert ended.returncode == 1
    assert "cannot listen" in ended.stderr


def test_a_second_start_uses_the_compiled_script(start_server: Start, tmp_path: Path) -> None:
    os.environ["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    try:
        for _ in range(2):
            port = free_port()
            server = start_server(MINIMAL.format(port=port))
            assert ask(port).startswith("SIP/2.0 200")
            assert server.stop() == 0
        assert list((tmp_path / "cache").rglob("*"))
    finally:
        del os.environ["XDG_CACHE_HOME"]


def test_garbage_does_not_disturb_it(start_server: Start) -> None:
    port = free_port()
    server = start_server(MINIMAL.format(port=port))
    with socket.socket(type=socket.SOCK_DGRAM) as peer:
        for packet in (b"", b"\0" * 65000, os.urandom(1500), b"INVITE", b"\r\n", b"SIP/2.0\r\n\r\n"):
            peer.sendto(packet, ("127.0.0.1", port))
    assert ask(port).startswith("SIP/2.0 200")
    assert server.stop() == 0
    assert "Traceback" not in server.log_text()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("-u", "nobody-of-that-name"), "there is no user 'nobody-of-that-name'"),
        (("-l", "udp:host name"), "host name"),
        (("-l", "tls:127.0.0.1:5061"), "nothing serves tls"),
        (("-l", "udp:127.0.0.1:99999"), "99999"),
    ],
)
def test_a_check_looks_at_the_flags_too(flags: tuple[str, ...], told: str) -> None:
    ended = run("-f", "-", "-c", *flags, text=MINIMAL.format(port=5060))
    assert ended.returncode == 1, ended.stderr
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr
