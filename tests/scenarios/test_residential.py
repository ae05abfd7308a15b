"""Calls through a residential script without a database: registration, calls, and the races of RFC 3261."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.scenarios.peer import Phone, Received
from tests.scenarios.server import ServerProcess, shipped

pytestmark = pytest.mark.scenario

SDP = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 40000 RTP/AVP 8\r\n"


class Network:
    """One server and its phones."""

    def __init__(self, server: ServerProcess, port: int) -> None:
        self.server, self.address = server, ("127.0.0.1", port)
        self.phones: list[Phone] = []

    def phone(self, user: str, *, register: bool = True) -> Phone:
        phone = Phone(user, self.address)
        self.phones.append(phone)
        if register:
            assert phone.register().status == 200
        return phone


@pytest.fixture
def network(
    start_server: Callable[..., ServerProcess], free_port: Callable[[], int], tmp_path: Path
) -> Iterator[Callable[..., Network]]:
    made: list[Network] = []

    def make(**changes: str) -> Network:
        port = free_port()
        text = shipped("residential.cfg")
        text = text.replace("udp:127.0.0.1:5060", f"udp:127.0.0.1:{port}")
        text = text.replace("/tmp/opensips_fifo", str(tmp_path / "fifo"))
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        made.append(Network(start_server(text), port))
        return made[-1]

    yield make
    for each in made:
        for phone in each.phones:
            phone.close()


def ring(net: Network, caller: Phone, callee: Phone) -> tuple[str, Received]:
    """Send an INVITE and let the callee ring; the INVITE as sent and as received."""
    invite = caller.request("INVITE", f"sip:{callee.user}@127.0.0.1:{net.address[1]}", body=SDP)
    caller.send(invite)
    received = callee.expect("INVITE")
    callee.send(callee.reply(received, 180, "Ringing"))
    caller.expect(180)
    return invite, received


def answer(net: Network, caller: Phone, callee: Phone) -> tuple[str, Received, Received]:
    """A call up to the ACK: the INVITE as sent, as received, and the 200 as the caller saw it."""
    invite, received = ring(net, caller, callee)
    callee.send(callee.reply(received, 200, body=SDP))
    final = caller.expect(200, skip=(100, 180))
    caller.send(caller.ack(final, invite))
    callee.expect("ACK")
    return invite, received, final


def test_a_call_is_set_up_and_ended_by_the_caller(network: Callable[..., Network]) -> None:
    """RFC 3261 §4 and §16: INVITE, 100, 180, 200, ACK, BYE, 200 through a record-routing proxy."""
    net = network()
    alice, bob = net.phone("alice"), net.phone("bob")
    invite, received, final = answer(net, alice, bob)
    assert received.request_uri == f"sip:bob@127.0.0.1:{bob.port}"
    assert received["Max-Forwards"] == "69"
    assert len(received.all("Via")) == 2
    assert f"rport={alice.port}" in received.all("Via")[1]
    assert "127.0.0.1" in received["Record-Route"]
    assert "lr" in received["Record-Route"]
    assert received.body == SDP.encode()
    assert len(final.all("Via")) == 1

    alice.send(alice.in_dialog("BYE", invite, final))
    bye = bob.expect("BYE")
    assert bye.all("Route") == []
    bob.send(bob.reply(bye, 200))
    assert alice.expect(200)["CSeq"] == "2 BYE"


def test_the_callee_hangs_up(network: Callable[..., Network]) -> None:
    """RFC 3261 §15: BYE from the called side follows the recorded route back."""
    net = network()
    alice, bob = net.phone("alice"), net.phone("bob")
    _, received, _ = answer(net, alice, bob)
    bob.send(bob.callee_request("BYE", received))
    bye = alice.expect("BYE")
    assert bye.request_uri == f"sip:alice@127.0.0.1:{alice.port}"
    alice.send(alice.reply(bye, 200))
    assert bob.expect(200)["CSeq"] == "1 BYE"


def test_a_reinvite_passes_in_both_directions(network: Callable[..., Network]) -> None:
    """RFC 3261 §14: a re-INVITE is an INVITE transaction of its own inside the dialog."""
    net = network()
    alice, bob = net.phone("alice"), net.phone("bob")
    invite, received, final = answer(net, alice, bob)

    again = alice.in_dialog("INVITE", invite, final, body=SDP)
    alice.send(again)
    arrived = bob.expect("INVITE")
    bob.send(bob.reply(arrived, 200, body=SDP))
    second = alice.expect(200)
    alice.send(alice.in_dialog("ACK", invite, final))
    assert bob.expect("ACK")["CSeq"] == "2 ACK"
    assert second["CSeq"] == "2 INVITE"

    bob.send(bob.callee_request("INVITE", received))
    arrived = alice.expect("INVITE")
    alice.send(alice.reply(arrived, 200, body=SDP))
    assert bob.expect(200)["CSeq"] == "1 INVITE"
    bob.send(bob.callee_request("ACK", received))
    assert alice.expect("ACK")["CSeq"] == "1 ACK"


def test_a_retransmitted_invite_is_absorbed(network: Callable[..., Network]) -> None:
    """RFC 3261 §17.2.1: a repeated INVITE gets the last provisional reply again and goes no further."""
    net = network()
    alice, bob = net.phone("alice"), net.phone("bob")
    invite, received = ring(net, alice, bob)
    alice.send(invite)
    assert alice.expect(180)["CSeq"] == "1 INVITE"
    bob.expect_nothing(0.3)
    bob.send(bob.reply(received, 200, body=SDP))
    alice.expect(200, skip=(100, 180))


def test_an_unanswered_invite_is_sent_again(network: Callable[..., Network]) -> None:
    """RFC 3261 §17.1.1.2: timer A repeats the request, byte for byte, until a provisional comes."""
    net = network()
    alice, bob = net.phone("alice"), net.phone("bob")
    alice.send(alice.request("INVITE", f"sip:bob@127.0.0.1:{net.address[1]}", body=SDP))
    first, second = bob.expect("INVITE"), bob.expect("INVITE")
    assert first.raw == second.raw
    bob.send(bob.reply(first, 486, "Busy Here"))
    assert alice.expect(486)


def test_a_lost_200_is_repeated_by_the_callee_until_the_ack(network: Callable[..., Network]) -> None:
    """RFC 3261 §13.3.1.4 and RFC 6026 §7.1: each repetition of the 2xx passes, and the late ACK goes through."""
    net = network()
    alice, bob = net.phone("alice"), net.phone("bob")
    invite, received = ring(net, alice, bob)
    ok = bob.reply(received, 200, body=SDP)
    bob.send(ok)
    first = alice.expect(200, skip=(100, 180))
    bob.send(ok)
    second = alice.expect(200)
    assert first.raw == second.raw
    alice.send(alice.ack(second, invite))
    assert bob.expect("ACK")["CSeq"] == "1 ACK"


def test_a_lost_ack_of_a_failure_is_asked_for_again(network: Callable[..., Network]) -> None:
    """RFC 3261 §17.2.1: timer G repeats the final reply until the ACK, which goes no further."""
    net = network()
    alice, bob = net.phone("alice"), net.phone("bob")
    invite, received = ring(net, alice, bob)
    bob.send(bob.reply(received, 486, "Busy Here"))
    assert bob.expect("ACK")["CSeq"] == "1 ACK"
    first = alice.expect(486, skip=(100, 180))
    second = alice.expect(486)
    assert first.raw == second.raw
    alice.send(alice.ack(second, invite))
    alice.expect_nothing(1.5)
    bob.expect_nothing(0.1)


def test_a_cancel_before_ringing_waits_for_a_provisional(network: Callable[..., Network]) -> None:
    """RFC 3261 §9.1: no CANCEL leaves before the branch has answered provisionally."""
    net = network()
    alice, bob = net.phone("alice"), net.phone("bob")
    invite = alice.request("INVITE", f"sip:bob@127.0.0.1:{net.address[1]}", body=SDP)
    alice.send(invite)
    received = bob.expect("INVITE")
    alice.expect(100)
    alice.send(alice.cancel(invite))
    assert alice.expect(200)["CSeq"] == "1 CANCEL"
    bob.send(bob.reply(received, 180, "Ringing"))
    cancel = bob.expect("CANCEL", skip=("INVITE",))
    assert cancel["Via"] == received["Via"]
    bob.send(bob.reply(cancel, 200))
    bob.send(bob.reply(received, 487, "Request Terminated"))
    bob.expect("ACK", skip=("INVITE", "CANCEL"))
    final = alice.expect(487, skip=(100, 180))
    alice.send(alice.ack(final, invite))


def test_a_cancel_while_ringing(network: Callable[..., Network]) -> None:
    """RFC 3261 §9.2, §16.10: 200 for the CANCEL, CANCEL to the branch, 487 for the INVITE."""
    net = network()
    alice, bob = net.phone("alice"), net.phone("bob")
    invite, received = ring(net, alice, bob)
    alice.send(alice.cancel(invite))
    assert alice.expect(200)["CSeq"] == "1 CANCEL"
    cancel = bob.expect("CANCEL")
    bob.send(bob.reply(cancel, 200))
    bob.send(bob.reply(received, 487, "Request Terminated"))
    bob.expect("ACK")
    final = alice.expect(487)
    alice.send(alice.ack(final, invite))
    alice.expect_nothing(1.0)


def test_a_cancel_that_crosses_the_200_loses(network: Callable[..., Network]) -> None:
    """RFC 3261 §9.2: a CANCEL after the final reply has no effect on the INVITE."""
    net = network()
    alice, bob = net.phone("alice"), net.phone("bob")
    invite, received = ring(net, alice, bob)
    bob.send(bob.reply(received, 200, body=SDP))
    final = alice.expect(200)
    alice.send(alice.cancel(invite))
    assert alice.expect(200)["CSeq"] == "1 CANCEL"
    alice.send(alice.ack(final, invite))
    assert bob.expect("ACK")["CSeq"] == "1 ACK"
    bob.expect_nothing(0.3)


def test_a_fork_to_two_contacts_ends_the_other_when_one_answers(network: Callable[..., Network]) -> None:
    """RFC 3261 §16.7 step 10: the 2xx goes up at once and the pending branch is cancelled."""
    net = network()
    alice, desk, mobile = net.phone("alice"), net.phone("bob"), net.phone("bob")
    invite = alice.request("INVITE", f"sip:bob@127.0.0.1:{net.address[1]}", body=SDP)
    alice.send(invite)
    at_desk, at_mobile = desk.expect("INVITE"), mobile.expect("INVITE")
    assert at_desk["Via"] != at_mobile["Via"]
    desk.send(desk.reply(at_desk, 180, "Ringing"))
    mobile.send(mobile.reply(at_mobile, 180, "Ringing"))
    mobile.send(mobile.reply(at_mobile, 200, body=SDP))
    final = alice.expect(200, skip=(100, 180))
    assert f"tag=t{mobile.port}" in final["To"]
    cancel = desk.expect("CANCEL", skip=("INVITE",))
    desk.send(desk.reply(cancel, 200))
    desk.send(desk.reply(at_desk, 487, "Request Terminated"))
    desk.expect("ACK", skip=("CANCEL",))
    alice.send(alice.ack(final, invite))
    assert mobile.expect("ACK", skip=("INVITE",))["CSeq"] == "1 ACK"


def test_a_fork_sends_the_best_failure_upstream(network: Callable[..., Network]) -> None:
    """RFC 3261 §16.7 step 6: nothing goes up before all branches ended, then the lowest class."""
    net = network()
    alice, desk, mobile = net.phone("alice"), net.phone("bob"), net.phone("bob")
    alice.send(alice.request("INVITE", f"sip:bob@127.0.0.1:{net.address[1]}", body=SDP))
    at_desk, at_mobile = desk.expect("INVITE"), mobile.expect("INVITE")
    desk.send(desk.reply(at_desk, 503, "Service Unavailable"))
    desk.expect("ACK", skip=("INVITE",))
    mobile.send(mobile.reply(at_mobile, 180, "Ringing"))
    alice.expect(180)
    mobile.send(mobile.reply(at_mobile, 486, "Busy Here"))
    assert alice.expect(486, skip=(100, 180))


def test_a_busy_callee(network: Callable[..., Network]) -> None:
    """RFC 3261 §17.1.1.3: the failure goes up, and the ACK to the callee is the server's own."""
    net = network()
    alice, bob = net.phone("alice"), net.phone("bob")
    invite, received = ring(net, alice, bob)
    bob.send(bob.reply(received, 486, "Busy Here"))
    assert bob.expect("ACK")["Via"] == received["Via"]
    final = alice.expect(486)
    alice.send(alice.ack(final, invite))
    bob.expect_nothing(0.3)


def test_ringing_without_an_answer_ends_with_408(network: Callable[..., Network]) -> None:
    """RFC 3261 §16.8: after fr_inv_timeout the branch is cancelled and the caller gets 408."""
    net = network(**{'"fr_inv_timeout", 30': '"fr_inv_timeout", 2'})
    alice, bob = net.phone("alice"), net.phone("bob")
    invite, received = ring(net, alice, bob)
    cancel = bob.expect("CANCEL", 6.0)
    bob.send(bob.reply(cancel, 200))
    bob.send(bob.reply(received, 487, "Request Terminated"))
    bob.expect("ACK", skip=("CANCEL",))
    final = alice.expect(408, 6.0)
    alice.send(alice.ack(final, invite))
    alice.expect_nothing(1.0)


def test_a_silent_callee_ends_with_408(network: Callable[..., Network]) -> None:
    """RFC 3261 §17.1.1.2 timer B, as fr_timeout: nothing came back at all."""
    net = network(**{'"fr_timeout", 5': '"fr_timeout", 1'})
    alice, bob = net.phone("alice"), net.phone("bob")
    alice.send(alice.request("INVITE", f"sip:bob@127.0.0.1:{net.address[1]}", body=SDP))
    bob.expect("INVITE")
    assert alice.expect(408, 6.0)


def test_unknown_users_and_foreign_domains(network: Callable[..., Network]) -> None:
    """The script's own refusals: 404 for a user who is not registered, 403 for a relay between strangers."""
    net = network()
    alice = net.phone("alice")
    alice.send(alice.request("INVITE", f"sip:nobody@127.0.0.1:{net.address[1]}", body=SDP))
    assert alice.expect(404)
    stranger = Phone("mallory", net.address, domain="foreign.example")
    net.phones.append(stranger)
    stranger.send(stranger.request("INVITE", "sip:someone@elsewhere.example", body=SDP))
    assert stranger.expect(403)
    stranger.send(stranger.request("OPTIONS", f"sip:bob@127.0.0.1:{net.address[1]}", max_forwards=0))
    assert stranger.expect(483)


def test_requests_of_no_dialog_are_refused(network: Callable[..., Network]) -> None:
    """A To tag without our Route is not a call of ours (404); a preloaded Route is refused (403)."""
    net = network()
    alice = net.phone("alice")
    alice.send(alice.request("BYE", "sip:bob@elsewhere.example", to="<sip:bob@elsewhere.example>;tag=x"))
    assert alice.expect(404)
    route = f"Route: <sip:127.0.0.1:{net.address[1]};lr>, <sip:10.255.255.1;lr>"
    alice.send(alice.request("INVITE", "sip:bob@elsewhere.example", headers=(route,), body=SDP))
    assert alice.expect(403)


def test_a_contact_is_removed_by_expires_zero(network: Callable[..., Network]) -> None:
    """RFC 3261 §10.2.2."""
    net = network()
    alice, bob = net.phone("alice"), net.phone("bob")
    assert bob.register(expires=0).status == 200
    alice.send(alice.request("INVITE", f"sip:bob@127.0.0.1:{net.address[1]}", body=SDP))
    assert alice.expect(404)


GARBAGE = [
    b"",
    b"\r\n\r\n",
    b"\0" * 20,
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"INVITE\r\n\r\n",
    b"SIP/2.0 200\r\n\r\n",
    b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bKx\r\n\r\n",
    b"INVITE sip:a@b SIP/2.0\r\nVia:\r\nFrom:\r\nTo:\r\n\r\n",
    b"\xff\xfe\xfd" * 400,
    b"OPTIONS sip:a@b SIP/2.0\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
    b"OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=" + b"z" * 60000 + b"\r\n\r\n",
]


def test_garbage_is_dropped_and_the_server_goes_on(network: Callable[..., Network]) -> None:
    """What is not SIP gets no answer; what can be answered gets 400 (RFC 3261 §16.3); calls go on."""
    net = network()
    hostile, alice = net.phone("mallory", register=False), net.phone("alice", register=False)
    for data in GARBAGE:
        hostile.send(data)
    broken = alice.request("OPTIONS", "sip:bob@127.0.0.1").replace("Call-ID:", "X-Call-ID:")
    alice.send(broken)
    assert alice.expect(400)
    assert alice.register().status == 200
