"""Browsers at the shipped script: they register over WebSocket, are called by their names, and hang up."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.scenarios.server import ServerProcess, shipped
from tests.scenarios.wires import Dialog, End, connect, flat, target_of

pytestmark = pytest.mark.scenario


def register(end: End) -> None:
    """REGISTER with the End's own name, which is a contact that resolves nowhere."""
    lines = [f"From: <sip:{end.user}@localhost>;tag=r", f"To: <sip:{end.user}@localhost>", "Expires: 600"]
    end.request("REGISTER", "sip:localhost", lines, f"register-{end.user}", 1)
    answer = end.receive()
    assert answer.status == 200
    assert end.contact in answer["Contact"]


def call(caller: End, callee: End, number: int) -> None:
    """A call that the callee ends."""
    call_id, local, remote = f"call-{number}", f"<sip:{caller.user}@localhost>;tag=c", f"<sip:{callee.user}@localhost>"
    caller.request("INVITE", f"sip:{callee.user}@localhost", [f"From: {local}", f"To: {remote}"], call_id, 1)
    invite = callee.receive()
    assert (invite.method, invite.request_uri) == ("INVITE", callee.contact)
    callee.answer(invite, 180, "d")
    assert caller.receive().status == 180
    callee.answer(invite, 200, "d")
    ok = caller.receive()
    assert ok.status == 200
    ours = Dialog(call_id, local, ok["To"], target_of(ok["Contact"]), flat(ok.all("Record-Route"))[::-1], 1)
    theirs = Dialog(call_id, ok["To"], local, target_of(invite["Contact"]), flat(invite.all("Record-Route")), 100)
    caller.in_dialog("ACK", ours)
    assert callee.receive().method == "ACK"
    callee.in_dialog("BYE", theirs)
    bye = caller.receive()
    assert (bye.method, bye.request_uri) == ("BYE", caller.contact)
    caller.answer(bye, 200, "d")
    assert callee.receive().status == 200


def test_browsers_and_a_phone_call_each_other(
    tmp_path: Path, free_port: Callable[[], int], start_server: Callable[..., ServerProcess]
) -> None:
    """RFC 7118 §5 and Appendix B: a contact in `.invalid` is reached over the connection that registered it."""
    authority = Authority(tmp_path)
    ours = authority.issue("localhost")
    ports = {name: free_port() for name in ("udp", "tls", "ws", "wss")}
    text = shipped("tls_ws.cfg").replace("tls/cert.pem", str(ours.cert)).replace("tls/key.pem", str(ours.key))
    for name, old in (("udp", "5060"), ("tls", "5061"), ("ws", "8080"), ("wss", "8443")):
        text = text.replace(f"{name}:127.0.0.1:{old}", f"{name}:127.0.0.1:{ports[name]}")
    start_server(text)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(authority.path)

    def phone(user: str, proto: str) -> End:
        return End(user, proto, connect(proto, ("127.0.0.1", ports[proto]), "127.0.0.1", context))

    with closing(phone("alice", "ws")) as alice, closing(phone("bob", "wss")) as bob:
        with closing(phone("carol", "udp")) as carol:
            for end in (alice, bob, carol):
                register(end)
            for number, (caller, callee) in enumerate(((alice, bob), (bob, carol), (carol, alice))):
                call(caller, callee, number)
        # Who closes the page is gone at once: nobody waits for a time-out.
        bob.close()
        lines = ["From: <sip:alice@localhost>;tag=z", "To: <sip:bob@localhost>"]
        alice.request("INVITE", "sip:bob@localhost", lines, "late", 1)
        assert alice.receive().status in (404, 477, 476)
