"""A server whose users and records are FreeRADIUS's: digest for REGISTER and INVITE, and the accounts of a call."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends import FreeradiusServer, free_port
from tests.scenarios.peer import Phone
from tests.scenarios.server import ServerProcess

pytestmark = pytest.mark.scenario

USERS = """alice@127.0.0.1 Cleartext-Password := "zanzibar"
\tSIP-AVP += "tariff:gold"

bob Cleartext-Password := "pin", Calling-Station-Id == "alice"
\tReply-Message := "premium"
"""
KINDS = ["Start", "Interim-Update", "Interim-Update", "Stop"]
SCRIPT = """
log_level=3
stderror_enabled=yes
socket=udp:127.0.0.1:{port}
loadmodule "proto_udp.so"
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "rr.so"
loadmodule "sipmsgops.so"
loadmodule "signaling.so"
loadmodule "auth.so"
loadmodule "aaa_radius.so"
loadmodule "auth_aaa.so"
loadmodule "acc.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
modparam("aaa_radius", "radius_config", "{radius}")
modparam("aaa_radius", "sets", "question = (User-Name=$var(name), User-Password=$var(pin), Calling-Station-Id=$fU)")
modparam("aaa_radius", "sets", "answer = (Reply-Message=$avp(class))")
modparam("aaa_radius", "sets", "record = (Acct-Status-Type=$var(type), Acct-Session-Id=$ci, User-Name=$fU)")
modparam("auth_aaa", "aaa_url", "radius:{radius}")
modparam("acc", "aaa_url", "radius:{radius}")
modparam("acc", "extra_fields", "aaa: tariff->Called-Station-Id")

route {{
    if ($rm == "REGISTER") {{
        if (!aaa_www_authorize("127.0.0.1")) {{
            www_challenge("127.0.0.1", "auth");
            exit;
        }}
        append_to_reply("X-Tariff: $avp(tariff)\\r\\n");
        save("location");
        exit;
    }}
    if ($rm == "OPTIONS") {{
        $var(name) = "bob";
        $var(pin) = $rU;
        if ($hdr(X-Form) == "async")
            async(radius_send_auth("question", "answer"), asked);
        radius_send_auth("question", "answer");
        route(asked);
        exit;
    }}
    if (has_totag()) {{
        loose_route();
        if ($rm == "UPDATE") {{
            $var(type) = 3;
            if ($hdr(X-Form) == "async")
                async(radius_send_acct("record"), relay);
            radius_send_acct("record");
        }} else if ($rm == "BYE")
            do_accounting("aaa");
        route(relay);
        exit;
    }}
    if ($rm == "ACK")
        exit;
    if (!aaa_proxy_authorize("127.0.0.1")) {{
        proxy_challenge("127.0.0.1", "auth");
        exit;
    }}
    consume_credentials();
    do_accounting("aaa", "failed");
    $acc_extra(tariff) = $avp(tariff);
    record_route();
    $du = "sip:127.0.0.1:{callee}";
    route(relay);
}}

route[asked] {{
    $var(result) = $rc;
    switch ($var(result)) {{
        case 1:
            sl_send_reply(200, "$avp(class)");
            break;
        case -2:
            sl_send_reply(403, "Refused");
            break;
        default:
            sl_send_reply(500, "Nobody answers");
    }}
    exit;
}}

route[relay] {{
    t_relay();
    exit;
}}
"""


@pytest.fixture
def radius() -> Iterator[FreeradiusServer]:
    if FreeradiusServer.programs() is None:
        pytest.skip("FreeRADIUS is missing: apt-get install freeradius")
    server = FreeradiusServer()
    server.prepare(USERS)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def records(radius: FreeradiusServer, count: int) -> list[dict[str, str]]:
    """The records of FreeRADIUS once there are so many."""
    end = time.monotonic() + 20.0
    while len(radius.records()) < count:
        assert time.monotonic() < end, radius.records()
        time.sleep(0.02)
    return radius.records()


def asked(phone: Phone, port: int, pin: str, form: str) -> str:
    phone.send(phone.request("OPTIONS", f"sip:{pin}@127.0.0.1:{port}", headers=(f"X-Form: {form}",)))
    return phone.receive(10.0).first.partition(" ")[2]


def restart(radius: FreeradiusServer) -> None:
    (radius.folder / "log" / "stdout").unlink()
    radius.start()


def call(caller: Phone, callee: Phone, port: int, radius: FreeradiusServer, *, away: bool = False) -> None:
    """An INVITE that is challenged, an UPDATE in both forms, and the BYE. away: the server is when the call ends."""
    before = len(radius.records())
    uri = f"sip:bob@127.0.0.1:{port}"
    first = caller.request("INVITE", uri)
    call_id = first.partition("Call-ID: ")[2].partition("\r\n")[0]
    caller.send(first)
    challenge = caller.expect(407)
    caller.send(caller.ack(challenge, first))
    credentials = caller.authorization(challenge, "INVITE", uri)
    invite = caller.request("INVITE", uri, call_id=call_id, cseq=2, headers=(credentials,))
    caller.send(invite)
    seen = callee.expect("INVITE", 10.0)
    assert not seen.all("Proxy-Authorization")
    callee.send(callee.reply(seen, 200, "OK"))
    answer = caller.expect(200)
    caller.send(caller.ack(answer, invite))
    callee.expect("ACK")
    records(radius, before + 1)
    routes = tuple(f"Route: {route}" for route in reversed(answer.all("Record-Route")))
    target = answer["Contact"].split("<")[1].split(">")[0]
    for cseq, method, form in ((3, "UPDATE", "plain"), (4, "UPDATE", "async"), (5, "BYE", "")):
        if away and method == "BYE":
            radius.kill()
        headers = (*routes, f"X-Form: {form}")
        caller.send(caller.request(method, target, to=answer["To"], call_id=call_id, cseq=cseq, headers=headers))
        callee.send(callee.reply(callee.expect(method), 200, "OK"))
        assert caller.expect(200)["CSeq"] == f"{cseq} {method}"


def test_users_and_records_of_freeradius(radius: FreeradiusServer, tmp_path: Path) -> None:
    """RFC 2865, RFC 2866: who may register and call, and Start, Interim-Update and Stop of the call."""
    port = free_port()
    server_address = ("127.0.0.1", port)
    caller, callee = Phone("alice", server_address, password="zanzibar"), Phone("bob", server_address)
    stranger = Phone("alice", server_address, password="guess")
    script = tmp_path / "radius.cfg"
    conf = radius.url.partition(":")[2]
    script.write_text(SCRIPT.format(port=port, radius=conf, callee=callee.port), encoding="utf-8")
    server = ServerProcess(script, tmp_path)
    server.start()
    try:
        reply = caller.register()
        assert (reply.status, reply["X-Tariff"]) == (200, "gold")
        assert stranger.register().status == 401
        for form in ("plain", "async"):
            assert asked(caller, port, "pin", form) == "200 premium"
            assert asked(caller, port, "wrong", form) == "403 Refused"
        call(caller, callee, port, radius)
        found = records(radius, 4)
        assert [record["Acct-Status-Type"] for record in found] == KINDS
        assert len({record["Acct-Session-Id"] for record in found}) == 1
        assert found[0]["Called-Station-Id"] == "gold"
        assert found[0]["Sip-Response-Code"] == "200"

        # The server dies in the middle of a call: the script hears of it, and the record comes once it is back.
        call(caller, callee, port, radius, away=True)
        for form in ("plain", "async"):
            assert asked(caller, port, "pin", form) == "500 Nobody answers"
        restart(radius)
        found = records(radius, 8)
        assert [record["Acct-Status-Type"] for record in found[4:]] == KINDS
        assert int(found[7]["Acct-Delay-Time"]) > 0
        assert asked(caller, port, "pin", "plain") == "200 premium"
        assert server.stop() == 0
        log = server.log_text()
        assert log.count(f"127.0.0.1:{radius.port} does not answer") == 1
        assert log.count(f"127.0.0.1:{radius.port} answers again") == 1
        assert "testing123" not in log
        assert "zanzibar" not in log
    finally:
        server.stop()
        for phone in (caller, callee, stranger):
            phone.close()
