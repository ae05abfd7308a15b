"""Streams: RFC 3261 §18.3, RFC 5626 §3.5.1."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensipspy.sip import PING, PONG, Limits, ParseError, StreamFramer
from tests.sip.samples import INVITE, REPLY


def test_messages_and_keepalives_in_one_read() -> None:
    assert StreamFramer().feed(INVITE + PING + REPLY + PONG + INVITE) == [INVITE, PING, REPLY, PONG, INVITE]


@given(cuts=st.lists(st.integers(1, len(INVITE + REPLY)), max_size=12))
def test_cuts_do_not_matter(cuts: list[int]) -> None:
    data = INVITE + REPLY
    framer = StreamFramer()
    found: list[bytes] = []
    position = 0
    for cut in [*sorted(cuts), len(data)]:
        found += framer.feed(data[position:cut])
        position = max(position, cut)
    assert found == [INVITE, REPLY]
    assert framer.pending == 0


def test_ping_in_two_segments_is_seen() -> None:
    framer = StreamFramer()
    assert framer.feed(b"\r\n") == [PONG]
    assert framer.feed(b"\r\n") == [PING]
    assert framer.feed(b"\r") == []
    assert framer.feed(b"\n\r\n") == [PING]


@pytest.mark.parametrize(
    "line", [b"l :\t5", b"CONTENT-LENGTH:5", b"Content-Length:\r\n 005", b"L: 5\r\nContent-Length: 5"]
)
def test_spellings_of_content_length(line: bytes) -> None:
    message = b"OPTIONS sip:a SIP/2.0\r\nVia: x\r\n" + line + b"\r\nX-Content-Length: 9\r\n\r\nhello"
    assert StreamFramer().feed(message + REPLY) == [message, REPLY]


@pytest.mark.parametrize("line", [b"l: -1", b"l: 5\r\nl: 6", b"l: five", b"X: 1", b"l: 99999999999999999999999"])
def test_length_that_cannot_be_followed_ends_the_stream(line: bytes) -> None:
    """What was whole is delivered, then the connection must be closed."""
    framer = StreamFramer()
    head = b"OPTIONS sip:a SIP/2.0\r\n" + line + b"\r\n\r\n"
    assert framer.feed(REPLY + head + b"rest") == [REPLY, head]
    assert framer.error is not None
    with pytest.raises(ParseError):
        framer.feed(b"more")


def test_limits_hold_against_endless_data() -> None:
    framer = StreamFramer(Limits(head=1000, body=50))
    for _ in range(1000 // 28):
        assert framer.feed(b"X-Header: slow and endless\r\n") == []
    assert framer.pending <= 1000
    with pytest.raises(ParseError):
        framer.feed(b"X-Header: slow and endless\r\n")
    assert framer.pending == 0
    big = StreamFramer(Limits(body=4))
    assert len(big.feed(INVITE)) == 1
    assert big.error is not None
    assert big.error.status == 513


def test_not_sip_between_messages() -> None:
    with pytest.raises(ParseError):
        StreamFramer().feed(b"\n\n")
