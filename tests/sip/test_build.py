"""Building with edits: what leaves, octet for octet."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensipspy.sip import (
    H_CONTENT_LENGTH,
    H_CONTENT_TYPE,
    H_USER_AGENT,
    H_VIA,
    PROTO_UDP,
    Edits,
    ParseError,
    Peer,
    build_ack,
    build_cancel,
    build_forwarded_reply,
    build_reply,
    build_request,
    reply_destination,
)
from tests.sip.samples import HERE, HERE_TCP, INVITE, REPLY, THERE_TCP, parse, request

VIA = "SIP/2.0/UDP 198.51.100.1:5060;branch=z9hG4bKnew"


def header_lines(data: bytes) -> list[bytes]:
    return data.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]


@pytest.mark.parametrize(
    ("via", "expected"),
    [
        ("192.0.2.9:40000;branch=z1", "192.0.2.9:40000;branch=z1"),
        ("192.0.2.9;rport;branch=z1", "192.0.2.9;rport=40000;received=192.0.2.9;branch=z1"),
        ("phone.example.com;branch=z1", "phone.example.com;branch=z1;received=192.0.2.9"),
        ("10.0.0.1;branch=z1;received=1.2.3.4", "10.0.0.1;branch=z1;received=192.0.2.9"),
        ("10.0.0.1;branch=z1;received=192.0.2.8", "10.0.0.1;branch=z1;received=192.0.2.9"),
        ("10.0.0.1 ; RPORT ;branch=z1", "10.0.0.1;branch=z1;rport=40000;received=192.0.2.9"),
    ],
)
def test_received_and_rport_are_filled_in(via: str, expected: str) -> None:
    """RFC 3261 §18.2.1, RFC 3581 §4; a received that the sender invented is replaced."""
    data = request("v: SIP/2.0/UDP " + via)
    sent = build_request(parse(data), None, "sip:next@example.com", VIA, HERE)
    assert header_lines(sent)[:2] == [b"Via: " + VIA.encode(), b"v: SIP/2.0/UDP " + expected.encode()]
    assert sent.startswith(b"OPTIONS sip:next@example.com SIP/2.0\r\n")
    edits = Edits()
    edits.append("X-More: 1\r\n")
    sent = build_request(parse(data), edits, "sip:next@example.com", VIA, HERE)
    assert header_lines(sent)[:2] == [b"Via: " + VIA.encode(), b"v: SIP/2.0/UDP " + expected.encode()]


def test_force_rport_adds_what_was_not_asked_for() -> None:
    msg = parse(INVITE)
    msg.force_rport = True
    assert b"z9hG4bKnashds8;rport=40000;received=192.0.2.9\r\n" in build_reply(msg, 100)
    assert reply_destination(msg).port == 40000


def test_reply_destination() -> None:
    """RFC 3261 §18.2.2."""
    assert reply_destination(parse(INVITE)) == Peer(PROTO_UDP, "192.0.2.9", 5066)
    assert reply_destination(parse(INVITE, THERE_TCP, HERE_TCP)) is THERE_TCP
    maddr = request("Via: SIP/2.0/UDP 192.0.2.9;maddr=224.2.0.1")
    assert reply_destination(parse(maddr)) == Peer(PROTO_UDP, "224.2.0.1", 5060)
    assert reply_destination(parse(REPLY)) == Peer(PROTO_UDP, "192.0.2.9", 40000)


def test_edits_are_applied_in_place() -> None:
    msg = parse(INVITE)
    agent = msg.first(H_USER_AGENT)
    assert agent is not None
    edits = Edits()
    edits.prepend("Record-Route: <sip:198.51.100.1;lr>\r\n")
    edits.append(lambda came, leaves: f"X-Out: {leaves.text}\r\n")
    edits.insert_before(agent, "X-Before: 1\r\n")
    edits.insert_after(agent, "X-After: 1\r\n")
    edits.replace(agent.value_start, agent.value_end, "Other")
    lines = header_lines(build_request(msg, edits, msg.ruri, VIA, HERE_TCP))
    assert lines[0] == b"Via: " + VIA.encode()
    assert lines[1] == b"Record-Route: <sip:198.51.100.1;lr>"
    at = lines.index(b"User-Agent: Other")
    assert lines[at - 1 : at + 2] == [b"X-Before: 1", b"User-Agent: Other", b"X-After: 1"]
    assert lines[-1] == b"X-Out: tcp:198.51.100.1:5060"


def test_later_note_on_the_same_range_counts() -> None:
    msg = parse(INVITE)
    agent = msg.first(H_USER_AGENT)
    assert agent is not None
    edits = Edits()
    edits.replace(agent.start, agent.end, "User-Agent: one\r\n")
    branch = edits.fork()
    branch.replace(agent.start, agent.end, "User-Agent: two\r\n")
    assert b"User-Agent: two" in build_request(msg, branch, msg.ruri, VIA, HERE)
    assert b"User-Agent: one" in build_request(msg, edits, msg.ruri, VIA, HERE)
    edits.remove(agent)
    assert b"User-Agent" not in build_request(msg, edits, msg.ruri, VIA, HERE)


def test_new_body_brings_its_length_and_type() -> None:
    msg = parse(INVITE)
    edits = Edits()
    edits.set_body(b"hello", "text/plain")
    sent = parse(build_request(msg, edits, msg.ruri, VIA, HERE))
    assert (sent.body, sent.content_type, sent.content_length) == (b"hello", "text/plain", 5)
    assert sent.count(H_CONTENT_LENGTH) == 1
    edits.set_body(b"", "")
    sent = parse(build_request(msg, edits, msg.ruri, VIA, HERE))
    assert (sent.body, sent.has(H_CONTENT_TYPE), sent.content_length) == (b"", False, 0)


def test_stream_gets_a_content_length() -> None:
    """RFC 3261 §20.14."""
    msg = parse(request(body=b"xyz"))
    assert b"Content-Length" not in build_request(msg, None, msg.ruri, VIA, HERE)
    assert b"Content-Length: 3\r\n\r\nxyz" in build_request(msg, None, msg.ruri, VIA, HERE_TCP)


def test_forwarded_reply_loses_only_its_top_via() -> None:
    assert build_forwarded_reply(parse(REPLY), None, HERE) == REPLY.replace(
        b"Via: SIP/2.0/UDP 198.51.100.1:5060;branch=z9hG4bKmine\r\n", b""
    )
    joined = REPLY.replace(b"z9hG4bKmine\r\nVia: ", b"z9hG4bKmine , ")
    sent = build_forwarded_reply(parse(joined), None, HERE)
    assert sent.split(b"\r\n")[1].startswith(b"Via: SIP/2.0/UDP pc33")


def test_reply_with_another_status() -> None:
    msg = parse(REPLY)
    msg.set_status(183, "Progress")
    assert build_forwarded_reply(msg, None, HERE).startswith(b"SIP/2.0 183 Progress\r\nVia: SIP/2.0/UDP pc33")
    edits = Edits()
    edits.append("X: 1\r\n")
    assert build_forwarded_reply(msg, edits, HERE).startswith(b"SIP/2.0 183 Progress\r\nVia: SIP/2.0/UDP pc33")


def test_reply_of_our_own() -> None:
    """RFC 3261 §8.2.6.2: all Via in order, From, To with our tag, Call-ID, CSeq; §12.1.1: Record-Route."""
    reply = parse(build_reply(parse(INVITE), 200, to_tag="mine", headers="Contact: <sip:us>\r\n", server="us"))
    assert reply.count(H_VIA) == 2
    assert (reply.to_tag, reply.from_tag) == ("mine", "1928301774")
    assert [r.uri for r in reply.record_routes] == ["sip:p1.example.com;lr"]
    refusal = parse(build_reply(parse(INVITE), 486, to_tag="mine"))
    assert refusal.record_routes == []
    assert refusal.reason == "Busy Here"
    assert parse(build_reply(parse(INVITE), 100, to_tag="mine")).to_tag == ""


COPIED_LINES = (
    "Via: SIP/2.0/UDP 192.0.2.9:40000;branch=z9hG4bK1", "v: SIP/2.0/UDP 10.0.0.1;rport;branch=z2", "From: <sip:a@b>",
    "f: <sip:a@b>;tag=1", "To: <sip:c@d>", "t: <sip:c@d>  ", "To: <sip:c@d>;tag=x", "To: <sip:c@d>\r\n ", "To: <broken",
    "Call-ID: c1", "i: c2", "CSeq: 1 INVITE", "Record-Route: <sip:r;lr>", "Timestamp: 54", "Subject: none", "X: 1",
)  # fmt: skip


@given(st.lists(st.sampled_from(COPIED_LINES), max_size=12), st.sampled_from([100, 183, 200, 404]), st.booleans())
def test_reply_copies_each_line_of_its_kind_as_it_came(lines: list[str], status: int, tagged: bool) -> None:
    """RFC 3261 §8.2.6.2, §12.1.1, §16.7: whatever else a request has, and however often."""
    msg = parse("\r\n".join(["INVITE sip:c@d SIP/2.0", COPIED_LINES[0], *lines, "", ""]).encode())
    expected = []
    seen = set()
    for line in (COPIED_LINES[0], *lines):
        name = {"v": "Via", "f": "From", "t": "To", "i": "Call-ID"}.get(line.split(":")[0], line.split(":")[0])
        once = name in ("From", "To", "Call-ID", "CSeq")
        if (once and name in seen) or name in ("Subject", "X"):
            continue
        if (name == "Timestamp" and status != 100) or (name == "Record-Route" and not 100 < status < 300):
            continue
        seen.add(name)
        if name == "To" and tagged and status > 100 and "tag" not in line and "broken" not in line:
            line = line.rstrip() + ";tag=ours"
        expected.append(line)
    copied = "\r\n".join([f"SIP/2.0 {status} Said", *expected])
    sent = build_reply(msg, status, "Said", "ours" if tagged else "")
    assert sent.decode() == copied + "\r\nContent-Length: 0\r\n\r\n"


def test_ack_and_cancel_of_a_request_we_sent() -> None:
    """RFC 3261 §17.1.1.3 and §9.1."""
    msg = parse(INVITE)
    edits = Edits()
    edits.prepend("Route: <sip:next;lr>\r\n")
    sent = build_request(msg, edits, "sip:bob@192.0.2.4", VIA, HERE)
    ack = parse(build_ack(sent, parse(REPLY)))
    assert (ack.method, ack.ruri, ack.cseq_number, ack.cseq_method) == ("ACK", "sip:bob@192.0.2.4", 314159, "ACK")
    assert (ack.to_tag, ack.count(H_VIA), ack.via.branch) == ("a6c85cf", 1, "z9hG4bKnew")
    cancel = parse(build_cancel(sent, "Reason: SIP;cause=200\r\n"))
    assert (cancel.method, cancel.to_tag, cancel.via.branch) == ("CANCEL", "", "z9hG4bKnew")
    assert cancel.routes[0].uri == "sip:next;lr"


VALUE = st.binary(max_size=40).map(lambda b: b.replace(b"\r", b"").replace(b"\n", b""))


@given(names=st.lists(st.tuples(st.from_regex(r"X-[A-Za-z0-9.!%*_+`'~-]{1,12}", fullmatch=True), VALUE), max_size=8),
       body=st.binary(max_size=60))  # fmt: skip
def test_whatever_came_in_goes_out(names: list[tuple[str, bytes]], body: bytes) -> None:
    """A request that is only forwarded keeps every octet behind the new Via, UTF-8 or not."""
    extra = b"".join(name.encode() + b" : " + value + b"\r\n" for name, value in names)
    head, _, _ = request().partition(b"\r\n\r\n")
    data = head + b"\r\n" + extra + b"\r\n" + body
    try:
        msg = parse(data)
    except ParseError as error:
        raise AssertionError(error.reason) from error
    sent = build_request(msg, None, msg.ruri, VIA, HERE)
    assert sent.replace(b"Via: " + VIA.encode() + b"\r\n", b"", 1) == data
    assert [h.value.encode("utf-8", "surrogateescape") for h in msg.headers[-len(names) :]][: len(names)] == [
        value.strip(b" \t") for _, value in names
    ]
