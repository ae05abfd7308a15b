"""A server whose script asks Redis: one that stalls or dies holds up nobody else."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends import RedisServer, free_port
from tests.scenarios.server import ServerProcess

pytestmark = pytest.mark.scenario

SCRIPT = """
log_level=3
socket=udp:127.0.0.1:{port}
loadmodule "proto_udp.so"
loadmodule "sl.so"
loadmodule "cachedb_redis.so"
modparam("cachedb_redis", "cachedb_url", "redis:main://127.0.0.1:{redis}/")
modparam("cachedb_redis", "query_timeout", 1500)
route {{
    if ($rm == "MESSAGE") {{
        $var(rc) = cache_add("redis:main", "calls", 1, 60, $var(n));
        sl_send_reply(200, "rc $var(rc)");
        exit;
    }}
    sl_send_reply(200, "quick");
}}
"""


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    pytest.importorskip("redis", reason="needs the package redis")
    if RedisServer.programs() is None:
        pytest.skip(f"needs the package {RedisServer.package}")
    server = RedisServer()
    try:
        server.start()
        yield server
    finally:
        server.signal(signal.SIGCONT)
        server.stop()


class Caller:
    """Sends requests and reads the reason phrases of their answers, in the order in which they come."""

    def __init__(self, port: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.connect(("127.0.0.1", port))
        self._socket.settimeout(30)
        self._number = 0

    def send(self, method: str) -> None:
        self._number += 1
        mine = self._socket.getsockname()[1]
        lines = [
            f"{method} sip:x@127.0.0.1 SIP/2.0",
            f"Via: SIP/2.0/UDP 127.0.0.1:{mine};branch=z9hG4bK-{self._number}",
            "From: <sip:a@example.com>;tag=1",
            "To: <sip:x@127.0.0.1>",
            f"Call-ID: {self._number}@test",
            f"CSeq: 1 {method}",
            "Max-Forwards: 70",
            "Content-Length: 0",
        ]
        self._socket.send("\r\n".join([*lines, "", ""]).encode())

    def answer(self) -> str:
        return self._socket.recv(4096).decode().partition("\r\n")[0].removeprefix("SIP/2.0 200 ")

    def close(self) -> None:
        self._socket.close()


def test_a_stalled_redis_holds_up_only_those_who_ask_it(redis: RedisServer, tmp_path: Path) -> None:
    script = tmp_path / "opensips.cfg"
    port = free_port()
    script.write_text(SCRIPT.format(port=port, redis=redis.port), encoding="utf-8")
    server = ServerProcess(script, tmp_path)
    server.start()
    caller = Caller(port)
    try:
        caller.send("MESSAGE")
        assert caller.answer() == "rc 1"
        redis.signal(signal.SIGSTOP)
        caller.send("MESSAGE")
        for _ in range(20):
            caller.send("OPTIONS")
        assert [caller.answer() for _ in range(20)] == ["quick"] * 20
        assert caller.answer() == "rc -1"
        # Now it is known to be away: the answer comes before those of later requests.
        caller.send("MESSAGE")
        assert caller.answer() == "rc -1"
        redis.signal(signal.SIGCONT)
        answered = ""
        while answered != "rc 1":
            caller.send("MESSAGE")
            answered = caller.answer()
        redis.kill()
        while answered != "rc -1":
            caller.send("MESSAGE")
            answered = caller.answer()
        log = server.log_text()
        assert log.count("is not available: ") == 2
        assert log.count("is available again") == 1
        assert "cache_add(" not in log
        assert server.stop() == 0
    finally:
        caller.close()
        server.stop()
