"""What parsing remembers between messages, and that peers cannot make it grow."""

from __future__ import annotations

import pytest

from opensipspy.sip import Memo, Message, ParseError, parse_message
from opensipspy.sip.memo import MOST_HOPS, MOST_ORDERS
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
    assert list(memo.hops) == [VIA.decode()]


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
