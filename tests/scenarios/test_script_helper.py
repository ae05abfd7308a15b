"""Calls through a script of three lines: script_helper does what every proxy has to."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.scenarios.peer import Phone, Received
from tests.scenarios.server import ServerProcess

pytestmark = pytest.mark.scenario

SCRIPT = """
log_level=3
stderror_enabled=yes
socket=udp:127.0.0.1:PORT
loadmodule "proto_udp.so"
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "rr.so"
loadmodule "sipmsgops.so"
loadmodule "script_helper.so"
route {
    append_hf("X-Main-Route: $rm\\r\\n");
    $ru = "sip:bob@127.0.0.1:BOB";
    t_relay();
}
"""


class Call:
    def __init__(self, alice: Phone, bob: Phone, port: int) -> None:
        self.alice = alice
        self.bob = bob
        self.invite = alice.request("INVITE", f"sip:bob@127.0.0.1:{port}")
        self.port = port

    def invited(self) -> Received:
        self.alice.send(self.invite)
        got = self.bob.expect("INVITE")
        assert got["X-Main-Route"] == "INVITE"
        assert f"127.0.0.1:{self.port}" in got["Record-Route"]
        return got


@pytest.fixture
def call(start_server: Callable[..., ServerProcess], free_port: Callable[[], int]) -> Iterator[Call]:
    port = free_port()
    alice, bob = Phone("alice", ("127.0.0.1", port)), Phone("bob", ("127.0.0.1", port))
    start_server(SCRIPT.replace("PORT", str(port)).replace("BOB", str(bob.port)))
    yield Call(alice, bob, port)
    alice.close()
    bob.close()


def test_requests_within_a_dialog_do_not_meet_the_main_route(call: Call) -> None:
    """RFC 3261 §16.12: they follow the route set in both directions."""
    alice, bob = call.alice, call.bob
    got = call.invited()
    bob.send(bob.reply(got, 200))
    final = alice.expect(200)
    alice.send(alice.ack(final, call.invite))
    assert not bob.expect("ACK").get("X-Main-Route")
    bob.send(bob.callee_request("INFO", got))
    info = alice.expect("INFO")
    assert not info.get("X-Main-Route")
    alice.send(alice.reply(info, 200))
    bob.expect(200)
    alice.send(alice.in_dialog("BYE", call.invite, final))
    bye = bob.expect("BYE")
    assert not bye.get("X-Main-Route")
    bob.send(bob.reply(bye, 200))
    assert alice.expect(200)["CSeq"].endswith("BYE")


def test_cancel_follows_its_invite_and_a_dialog_that_is_not_ours_is_refused(call: Call) -> None:
    """RFC 3261 §16.10 for CANCEL."""
    alice, bob = call.alice, call.bob
    got = call.invited()
    bob.send(bob.reply(got, 180, "Ringing"))
    alice.expect(180)
    alice.send(alice.cancel(call.invite))
    cancel = bob.expect("CANCEL")
    assert not cancel.get("X-Main-Route")
    assert alice.expect(200)["CSeq"].endswith("CANCEL")
    bob.send(bob.reply(cancel, 200))
    bob.send(bob.reply(got, 487, "Request Terminated"))
    failure = alice.expect(487)
    alice.send(alice.ack(failure, call.invite))
    bob.expect("ACK")
    stray = alice.request("BYE", f"sip:bob@127.0.0.1:{call.port}", to="<sip:bob@127.0.0.1>;tag=unknown")
    alice.send(stray)
    assert alice.expect(404)["CSeq"].endswith("BYE")
