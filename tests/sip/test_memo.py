"""What parsing remembers between messages, and that peers cannot make it grow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensipspy.sip import Memo, Message, ParseError, parse_message
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


@pytest.mark.parametrize("sent_by", [b"a_b:c", b"192.0.2.9:0", b"[2001:db8::g]:5060", b"a b:5060"])
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
    return headers, found, msg.flat, msg.has_all_mandatory, msg.starts()


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
