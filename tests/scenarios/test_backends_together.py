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


ASYNC_BODY = """
route {{
    if ($rm == "OPTIONS") {{
        sl_send_reply(200, "quick");
        exit;
    }}
    $var(name) = "alice";
    $var(password) = "secret";
    if ($hdr(X-How) == "plain") {{
        {plain}
        $avp(code) = $rc;
        route(told);
    }} else
        async({plain_call}, resumed);
}}

route[resumed] {{
    $avp(code) = $rc;
    route(told);
}}

route[told] {{
    {after}
    sl_send_reply(200, "$avp(code) $avp({name})");
}}
"""
CALLS = {
    "mysql": """sql_query_one("SELECT value FROM people WHERE name = 'alice'", "$avp(mysql)")""",
    "postgres": """sql_query_one("SELECT value FROM people WHERE name = 'alice'", "$avp(postgres)", 1)""",
    "ldap": 'ldap_search("ldap://directory/dc=example,dc=com?cn?sub?(uid=alice)")',
    "radius": 'radius_send_auth("question", "answer")',
}
AFTER = {"ldap": 'ldap_result("cn", $avp(ldap));'}


@pytest.mark.parametrize("name", sorted(CALLS))
def test_plain_and_async_forms_give_the_same_while_the_server_is_stalled(
    back_ends: BackEnds, tmp_path: Path, name: str
) -> None:
    """The same code and the same result, in time and after a stall, and others are answered meanwhile."""
    port = free_port()
    phone = Phone("alice", ("127.0.0.1", port))
    call = CALLS[name]
    text = ASYNC_BODY.format(plain=f"{call};", plain_call=call, after=AFTER.get(name, ""), name=name)
    server = ServerProcess(back_ends.script(tmp_path, port, text), tmp_path)
    server.start()

    def ask(how: str) -> None:
        phone.send(phone.request("MESSAGE", f"sip:bob@127.0.0.1:{port}", headers=(f"X-How: {how}",)))

    def told() -> str:
        return phone.expect(200).first.partition(" 200 ")[2]

    try:
        found = []
        for how in ("plain", "async"):
            ask(how)
            found.append(told())
            back_ends.server(name).signal(signal.SIGSTOP)
            ask(how)
            for _ in range(5):
                phone.send(phone.request("OPTIONS", f"sip:127.0.0.1:{port}"))
                assert told() == "quick"
            back_ends.server(name).signal(signal.SIGCONT)
            found.append(told())
        assert found == [f"1 alice of {name}"] * 4
        assert server.stop() == 0
    finally:
        phone.close()
        server.stop()
