"""What parsing remembers between messages, and that peers cannot make it grow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensipspy.sip import H_CALL_ID, H_CSEQ, H_FROM, H_TO, Memo, Message, ParseError, parse_message
from opensipspy.sip.memo import MOST_ALIKE, MOST_HOPS, MOST_LAYOUTS, MOST_ORDERS
from opensipspy.sip.uri import LONGEST_KEPT
from tests.sip.samples import HERE, THERE, request

VIA = b"192.0.2.9:40000"


def parse_with(memo: Memo, data: bytes) -> Message:
    return parse_message(data, THERE, HERE, memo=memo)


def test_the_second_message_of_a_peer_says_what_the_first_did() -> None:
    memo = Memo()
    first, second = (parse_with(memo, request()) for _ in range(2))
    assert first.via.host == second.via.host == "192.0.2.9"
    assert (second.via.port, second.via.branch) == (40000, first.via.branch)
    assert first.uri is second.uri
    assert list(memo.hops) == ["SIP/2.0/UDP " + VIA.decode()]


@pytest.mark.parametrize("sent_by", [b"a_b:c", b"192.0.2.9:70000", b"[2001:db8::g]:5060", b"a b:5060"])
def test_a_broken_hop_is_refused_every_time(sent_by: bytes) -> None:
    memo = Memo()
    for _ in range(2):
        with pytest.raises(ParseError):
            _ = parse_with(memo, request().replace(VIA, sent_by)).via
    assert not memo.hops


def test_what_is_remembered_is_bounded() -> None:
    memo = Memo()
    for number in range(3 * MOST_HOPS):
        assert parse_with(memo, request().replace(VIA, b"h%d" % number)).via.host == f"h{number}"
        assert len(memo.hops) <= MOST_HOPS
    long = "a" * LONGEST_KEPT + ".example.com"
    assert parse_with(memo, request().replace(VIA, long.encode())).via.host == long
    assert long not in memo.hops
    assert memo.uris.parse(f"sip:{long}") is not memo.uris.parse(f"sip:{long}")


def test_requests_that_wait_share_the_order_of_their_headers_as_far_as_it_is_bounded() -> None:
    memo = Memo()
    one, other = bytes([1, 2, 3]), bytes([1, 2, 3])
    assert memo.one_order(one) is one
    assert memo.one_order(other) is one
    for number in range(2 * MOST_ORDERS):
        kinds = bytes([number % 256, number // 256])
        assert memo.one_order(kinds) == kinds
    assert len(memo.orders) == MOST_ORDERS
    long = bytes(LONGEST_KEPT + 1)
    assert memo.one_order(long) == long
    assert len(memo.orders) == MOST_ORDERS


START_LINES = ("OPTIONS sip:a@example.com SIP/2.0", "INVITE sip:a@example.com SIP/2.0", "SIP/2.0 200 OK")
# Names in usual, odd and compact spelling, with white space before the colon, folded, and such as are none.
HEADER_STARTS = (
    "Via:", "v:", "VIA :", "vIa:", "From:", "f\t:", "To:", "t:", "TO:", "Call-ID:", "i:", "Call-Id:", "CSeq:",
    "Max-Forwards:", "Content-Length:", "l:", "Contact:", "m:", "X-Mine:", "X-Mine :", "x-mine:", " folded:", "\tVia:",
    "Via", ":", "Fro\u00e4m:", "",
)  # fmt: skip
VALUES = (
    " SIP/2.0/UDP 192.0.2.9;branch=z9hG4bK1",
    " <sip:a@example.com>;tag=1",
    "0",
    " 1 OPTIONS",
    "",
    " a\x0bb",
    " \n",
)
header_lines = st.lists(st.tuples(st.sampled_from(HEADER_STARTS), st.sampled_from(VALUES)).map("".join), max_size=6)
heads = st.tuples(st.sampled_from(START_LINES), header_lines).map(lambda it: "\r\n".join((it[0], *it[1], "", "")))


def understood(memo: Memo | None, data: bytes) -> object:
    """All that is known of the headers of a message, or of why it is refused."""
    try:
        msg = parse_message(data, THERE, HERE, memo=memo)
    except ParseError as error:
        return error.reason, error.offset, error.status
    headers = [(h.kind, h.name, h.value, h.start, h.value_start, h.value_end, h.end) for h in msg.headers]
    found = [(first.start, msg.count(kind)) for kind in range(256) if (first := msg.first(kind)) is not None]
    return headers, found, msg.flat, msg.starts()


@given(st.lists(heads, max_size=6), heads)
def test_what_was_seen_before_changes_nothing_of_what_is_read(before: list[str], head: str) -> None:
    """RFC 3261 §7.3: names in any case and compact form, white space before the colon, folded lines."""
    memo = Memo()
    data = head.encode()
    for earlier in (*before, head):
        understood(memo, earlier.encode())
    assert understood(memo, data) == understood(None, data)


def test_messages_of_one_layout_share_what_is_known_of_it_as_far_as_it_is_bounded() -> None:
    memo = Memo()
    one, other = (parse_with(memo, request()) for _ in range(2))
    assert one._widths is other._widths
    assert one._kinds is other._kinds
    lines = request().split(b"\r\n")
    for number in range(2 * MOST_LAYOUTS):
        # Another name, and every now and then another number of headers.
        more = [b"X-%d: 1" % number] * (1 + number // 10)
        parse_with(memo, b"\r\n".join([lines[0], *more, *lines[1:]]))
        kept = memo._layouts.values()
        assert sum(len(alike) for alike in kept) <= MOST_LAYOUTS
        assert max(len(alike) for alike in kept) <= MOST_ALIKE
    for more in ([b"X-" + b"n" * 60 + b": 1"], [b"X-1: 1"] * 50):
        data = b"\r\n".join([lines[0], *more, *lines[1:]])
        one, other = parse_with(memo, data), parse_with(memo, data)
        assert one._widths is not other._widths


ROUTING_VALUES = (
    " SIP/2.0/UDP 192.0.2.9;branch=z9hG4bK1",
    "  SIP/2.0/UDP 192.0.2.9:40000 ; branch=z9hG4bK1;rport \t",
    " SIP/2.0/UDP 192.0.2.9;branch=z9hG4bK1  ",
    " SIP/2.0/UDP 192.0.2.9;branch=z9hG4bK1,SIP/2.0/TCP b.example.com",
    ' SIP/2.0/UDP 192.0.2.9;x="a,b";branch=z9hG4bK1',
    " SIP/2.0/UDP",
    " <sip:a@example.com>;tag=1",
    "<sip:a@example.com>",
    "   <sip:a@example.com>;tag=1  ",
    ' "A, <b>" <sip:a@example.com>;tag=1',
    " <sip:a@<b>>;tag=1",
    " <sip:a@example.com>;tag=a b",
    " <>",
    " sip:a@example.com;tag=2",
    "\tc1@example.com ",
    " c 1",
    " 1 OPTIONS",
    " 0007  OPTIONS",
    " 12345 INVITE\t",
    " 99999999999 OPTIONS",
    " 70",
    " 256",
    "  08 ",
    "",
)
WANTED = {
    "Via": (0, 5),
    "From": (6, 13),
    "To": (6, 13),
    "Call-ID": (14, 15),
    "CSeq": (16, 19),
    "Max-Forwards": (20, 22),
}
"""Which of these values belong to which header."""


def values_of(name: str) -> st.SearchStrategy[str]:
    first, last = WANTED[name]
    fitting = st.sampled_from(ROUTING_VALUES[first : last + 1])
    return st.one_of(fitting, fitting, fitting, st.sampled_from(ROUTING_VALUES)).map(lambda value: f"{name}:{value}")


usual_lines = st.tuples(*(values_of(name) for name in WANTED)).map(list)
more_lines = st.lists(st.sampled_from(list(WANTED)).flatmap(values_of), max_size=2)
routing_lines = st.tuples(usual_lines, more_lines).flatmap(lambda it: st.permutations(it[0] + it[1]))
routing_heads = st.tuples(st.sampled_from(START_LINES), routing_lines).map(
    lambda it: "\r\n".join((it[0], *it[1], "", ""))
)


def asked(msg: Message, name: str) -> object:
    try:
        found = getattr(msg, name)
    except ParseError as error:
        return error.reason, error.offset, error.status
    places = getattr(found, "start", 0), getattr(found, "end", 0), getattr(found, "uri_start", 0)
    return repr(found), places, getattr(found, "uri_end", 0), getattr(found, "tag", ""), getattr(found, "rport", 0)


@given(st.lists(routing_heads, max_size=3), routing_heads)
def test_what_is_read_at_once_is_what_would_be_read_one_by_one(before: list[str], head: str) -> None:
    """RFC 3261 §8.1.1: what every message must have, in the usual writing and in others that are legal or broken."""
    memo = Memo()
    messages: list[Message] = []
    for text in (*before, head, head):
        try:
            messages.append(parse_with(memo, text.encode()))
        except ParseError:
            continue
        usual = messages[-1].read_usual()
    if len(messages) < 2:
        return
    lazy, eager = messages[-2:]
    if (lazy.head, eager.head) != (head, head):
        return
    lazy.forget_parsed()
    lazy._cseq_number, lazy._max_forwards = -2, -2
    names = ("via", "from_", "to", "call_id", "cseq_number", "cseq_method", "max_forwards", "content_length")
    assert {name: asked(eager, name) for name in names} == {name: asked(lazy, name) for name in names}
    if usual:
        assert all(eager.count(kind) == 1 for kind in (H_FROM, H_TO, H_CALL_ID, H_CSEQ))
        assert eager.call_id
        assert eager.via.host
