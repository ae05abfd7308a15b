"""force_rport, reply-to-via and what scripts add to replies."""

from __future__ import annotations

from opensipspy import sip
from opensipspy.module.reply_path import REPLY_BODY, reply_target, take_reply_additions
from opensipspy.module.testing import make_run, request
from opensipspy.script.run import VIA_FORCE_RPORT, VIA_REPLY_TO_VIA, Run


def behind_nat(via: str = "SIP/2.0/UDP 192.0.2.10:5070;branch=z9hG4bK-1") -> Run:
    return make_run(request("OPTIONS", via=via), source=sip.Peer(sip.PROTO_UDP, "203.0.113.7", 40000))


def test_a_reply_goes_to_the_packets_address_and_the_vias_port() -> None:
    """RFC 3261 §18.2.2."""
    peer = reply_target(behind_nat()).peer
    assert (peer.address, peer.port) == ("203.0.113.7", 5070)


def test_force_rport_answers_to_the_packets_port() -> None:
    """RFC 3581 §4, as if the client had asked; the copy of the Via shows it."""
    run = behind_nat()
    sip.received_via(run.msg)
    run.via_flags = VIA_FORCE_RPORT
    peer = reply_target(run).peer
    assert (peer.address, peer.port) == ("203.0.113.7", 40000)
    assert "rport=40000" in sip.received_via(run.msg)


def test_reply_to_via_answers_to_what_the_via_says() -> None:
    """Core manual, set_via_handling; a name in the Via is not looked up."""
    run = behind_nat()
    run.via_flags = VIA_REPLY_TO_VIA
    peer = reply_target(run).peer
    assert (peer.address, peer.port) == ("192.0.2.10", 5070)
    named = behind_nat("SIP/2.0/UDP phone.example:5070;branch=z9hG4bK-1")
    named.via_flags = VIA_REPLY_TO_VIA
    assert reply_target(named).peer.address == "203.0.113.7"


def test_what_a_script_adds_to_replies_is_used_up_by_the_final_one() -> None:
    """append_to_reply() and append_body_to_reply()."""
    run = behind_nat()
    run.reply_edits.append("X: 1\r\n")
    run.ctx[REPLY_BODY] = b"hello"
    assert take_reply_additions(run, 183, "Y: 2\r\n", b"") == ("Y: 2\r\nX: 1\r\n", b"hello")
    assert take_reply_additions(run, 200, "", b"own") == ("X: 1\r\n", b"own")
    assert take_reply_additions(run, 200, "", b"") == ("", b"hello")
    assert take_reply_additions(run, 200, "", b"") == ("", b"")
