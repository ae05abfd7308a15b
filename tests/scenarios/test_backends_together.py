"""One script that asks MariaDB, PostgreSQL, Redis, MongoDB, LDAP and RADIUS in a single call."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends import free_port
from tests.scenarios.back_ends import BackEnds
from tests.scenarios.peer import Phone
from tests.scenarios.server import ServerProcess

pytestmark = pytest.mark.scenario

BODY = """
route {{
    if (has_totag()) {{
        loose_route();
        t_relay();
        exit;
    }}
    if ($rm == "OPTIONS") {{
        sl_send_reply(200, "quick");
        exit;
    }}
    {calls}
    {headers}
    record_route();
    $du = "sip:127.0.0.1:{callee}";
    t_relay();
}}
"""


@pytest.fixture(scope="module")
def back_ends() -> Iterator[BackEnds]:
    servers = BackEnds()
    try:
        servers.start()
        yield servers
    finally:
        servers.stop()


def body(names: tuple[str, ...], callee: int) -> str:
    calls = "\n    ".join(f"route({name});" for name in names)
    headers = "\n    ".join(f'append_hf("X-{name}: $avp({name})\\r\\n");' for name in names)
    return BODY.format(calls=calls, headers=headers, callee=callee)


def test_a_single_call_asks_all_of_them(back_ends: BackEnds, tmp_path: Path) -> None:
    """The callee sees what each of them knows; while one is stalled, other requests are answered at once."""
    port = free_port()
    caller, callee = Phone("alice", ("127.0.0.1", port)), Phone("bob", ("127.0.0.1", port))
    script = back_ends.script(tmp_path, port, body(back_ends.names, callee.port))
    server = ServerProcess(script, tmp_path)
    server.start()
    try:
        caller.send(caller.request("INVITE", f"sip:bob@127.0.0.1:{port}"))
        invite = callee.expect("INVITE")
        assert {name: invite[f"X-{name}"] for name in back_ends.names} == {
            name: f"alice of {name}" for name in back_ends.names
        }
        callee.send(callee.reply(invite, 486, "Busy here"))
        callee.expect("ACK")
        caller.expect(486)

        for name in back_ends.names:
            back_ends.server(name).signal(signal.SIGSTOP)
            waiting = caller.request("INVITE", f"sip:bob@127.0.0.1:{port}")
            caller.send(waiting)
            for _ in range(5):
                caller.send(caller.request("OPTIONS", f"sip:127.0.0.1:{port}"))
                answer = caller.expect(200)
                assert answer.status == 200
            back_ends.server(name).signal(signal.SIGCONT)
            invite = callee.expect("INVITE", 10.0)
            others = [other for other in back_ends.names if other != name]
            assert {other: invite[f"X-{other}"] for other in others} == {other: f"alice of {other}" for other in others}
            callee.send(callee.reply(invite, 486, "Busy here"))
            callee.expect("ACK")
            caller.expect(486)
        assert server.stop() == 0
    finally:
        caller.close()
        callee.close()
        server.stop()
