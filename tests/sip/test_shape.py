"""Messages read at once by the expression of a layout say what the slow readers say (RFC 3261 §7, §25)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opensipspy.sip import Limits, Memo, Message, ParseError, parse_message, validate_reply, validate_request
from opensipspy.sip.memo import MOST_LAYOUTS, MOST_SHAPES
from tests.sip.samples import HERE, HERE_TCP, INVITE, REPLY, THERE, THERE_TCP, request

REGISTER = (
    b"REGISTER sip:example.com SIP/2.0\r\nv: SIP/2.0/TCP 10.0.0.1:5060;branch=z9hG4bKa;rport;alias\r\n"
    b"Max-Forwards: 70\r\n"
    b'f: "Bob \xc3\xa9" <sip:bob@example.com:5061;user=phone>;tag=a+b\r\nt: <sip:bob@example.com>\r\ni: x@y\r\n'
    b'CSeq: 214748364 REGISTER\r\nAuthorization: Digest username="bob", realm="a,b"\r\nl: 0\r\nX-Odd : a\x0bb\r\n\r\n'
)
SAMPLES = (
    INVITE,
    REPLY,
    REGISTER,
    request(),
    request("Route: <sip:p@example.com;lr>", "Content-Length: 2", body=b"ab"),
)
ASKED = (
    "is_request", "method", "method_id", "ruri", "ruri_start", "ruri_end", "version", "status", "reason", "body",
    "first_line_end", "flat", "from_tag", "to_tag", "call_id", "cseq_number", "cseq_method", "max_forwards",
    "content_length", "data_len",
)  # fmt: skip
PARSED = ("via", "from_", "to", "uri")
PLACES = (
    "start", "end", "uri", "uri_start", "uri_end", "params", "params_start", "tag", "display", "text", "branch", "host",
    "host_text", "port", "rport", "received", "transport",
)  # fmt: skip


def asked(msg: Message, name: str) -> object:
    try:
        found = getattr(msg, name)
    except ParseError as error:
        return error.reason, error.offset, error.status
    if name in PARSED:
        pieces = found.param_list() if name == "via" else []
        return [getattr(found, place, None) for place in PLACES], pieces
    return found


def understood(memo: Memo | None, data: bytes, stream: bool = False, limits: Limits | None = None) -> object:
    """All that a message says, or why it is refused and what of it can be answered."""
    here, there = (HERE_TCP, THERE_TCP) if stream else (HERE, THERE)
    try:
        msg = parse_message(data, there, here, limits or Limits(), memo)
        if msg.is_request:
            validate_request(msg)
        else:
            validate_reply(msg)
    except ParseError as error:
        known = None if error.message is None else [asked(error.message, name) for name in (*ASKED, "via")]
        return error.reason, error.offset, error.status, known
    headers = [(h.kind, h.name, h.value, h.start, h.value_start, h.value_end, h.end) for h in msg.headers]
    first = [asked(msg, name) for name in (*ASKED, *PARSED)]
    msg.forget_parsed()
    # What waits for its answer is parsed again.
    assert [asked(msg, name) for name in (*ASKED, *PARSED)] == first
    return headers, first, msg.starts()


def trained(*samples: bytes, limits: Limits | None = None) -> Memo:
    memo = Memo(1)
    for sample in samples:
        for _ in range(3):
            understood(memo, sample, limits=limits)
    return memo


@pytest.mark.parametrize("data", SAMPLES)
def test_an_expression_is_made_for_what_phones_write(data: bytes) -> None:
    memo = trained(data)
    assert sum(len(alike) for alike in memo.shapes.values()) == 1
    msg = parse_message(data, THERE, HERE, memo=memo)
    assert msg._usual
    assert msg._from is None
    assert understood(memo, data) == understood(None, data)
    assert memo.shapes.keys() == {data.split(b" ")[0].decode() if msg.is_request else "SIP/2.0 180"}


INSERTED = st.one_of(
    st.sampled_from((
        b"\r", b"\n", b"\r\n", b"\r\n ", b"\r\n\t", b" ", b"  ", b"\t", b'"', b"\\", b"\x00", b"\x0b",
        b"\xc2\x85", b"\xff",
        b"\xe2\x80\xa8", b"<", b">", b";", b",", b":", b"=", b"@", b";tag=2", b";tag=", b";x", b";rport",
        b"0", b"9", b"99999",
        b"-", b"+", b"%", b"[", b"\xd9\xa3", b"\r\nTo: <sip:x@y>", b"\r\nl: 3", b"\r\nMax-Forwards: 1", b"\r\nVia: x",
        b", SIP/2.0/UDP h;branch=1", b'"a" ', b"A B <", b"?a=b", b"\r\n\r\n",
    )),
    st.binary(max_size=3),
)  # fmt: skip


@settings(max_examples=600)
@given(st.sampled_from(SAMPLES), st.data(), INSERTED, st.integers(0, 6), st.booleans())
def test_a_message_that_differs_in_one_place_is_read_as_if_alone(
    sample: bytes, draw: st.DataObject, inserted: bytes, left_out: int, stream: bool
) -> None:
    """RFC 3261 §7.3, §25.1: whatever stands in the place of a few octets of a message whose like is known."""
    place = draw.draw(st.integers(0, len(sample)))
    data = sample[:place] + inserted + sample[place + left_out :]
    assert understood(trained(sample), data, stream) == understood(None, data, stream)


VALUES = (
    b"<sip:a@example.com>", b"<sip:a@example.com>;tag=1", b'"A" <sip:a@example.com>;tag=1', b'"A"<sip:a@example.com>',
    b'"A \\" B" <sip:a@example.com>', b'"A"  <sip:a@example.com>', b"A B <sip:a@example.com>;tag=1", b"A <sip:a@b",
    b"<>", b"A  B <sip:a@example.com>", b"A\xc3\xa9 <sip:a@b>", b'"A\xc3\xa9" <sip:a@b>', b"sip:a@b;tag=1",
    b"<sip:a b@c>",
    b"<sip:a@b>;tag=1;x=2", b"<sip:a@b>;x=2;tag=1", b"<sip:a@b>; tag=1", b"<sip:a@b>;tag=a@b", b"<sip:a@b> ;tag=1", b"",
    b"<sip:<a@b>>", b'"A <sip:a@b>', b'<sip:"a"@b>', b"<sip:a@b>;tag=1;tag=2", b"a.b-c <sip:a@b>", b"A\t<sip:a@b>",
    b"SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKx", b"SIP/2.0/UDP 192.0.2.1 ;branch=z9hG4bKx",
    b"SIP/2.0/udp h:5060;branch=1;a=b",
    b"SIP / 2.0 / UDP h;branch=1", b"SIP/2.0/UDP  h;branch=1", b"SIP/2.0/UDP [2001:db8::1]:5060;branch=1;rport",
    b"SIP/2.0/UDP h;rport;branch=1", b"SIP/2.0/UDP h;branch=1,SIP/2.0/UDP g",
    b"SIP/2.0/UDP h;branch=1 , SIP/2.0/UDP g", b"SIP/2.0/UDP h",
    b"SIP/2.0/UDP h:0;branch=1",
    b"SIP/2.0/UDP h;branch=1;", b"SIP/2.0/UDP h;branch=1;branch=2", b"SIP/2.0/UDP a_b:c;branch=1",
    b"SIP/2.0/ h;branch=1",
    b"1 OPTIONS", b"1 INVITE", b"0001 OPTIONS", b"2147483648 OPTIONS", b"1  OPTIONS", b"1 NONSENSE",
    b"1 options", b"-1 OPTIONS",
    b"70", b"0", b"255", b"256", b"070", b"7 ", b" 7", b"1e3", b"2", b"02", b"3", b"a b", b"x@y", b"\xd9\xa3",
)  # fmt: skip
NAMES = (b"Via", b"From", b"To", b"Call-ID", b"CSeq", b"Max-Forwards", b"Content-Length", b"X")


@settings(max_examples=600)
@given(
    st.sampled_from((b"OPTIONS sip:b@example.com SIP/2.0", b"SIP/2.0 200 OK")),
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), min_size=1, max_size=3),
)
def test_other_values_of_known_headers_are_read_as_if_alone(start: bytes, changes: list[tuple[bytes, bytes]]) -> None:
    """RFC 3261 §20, §25.1: legal and broken values in the place of usual ones."""
    usual = {
        b"Via": b"SIP/2.0/UDP 192.0.2.9:40000;branch=z9hG4bK1",
        b"From": b"<sip:alice@example.com>;tag=1",
        b"To": b"<sip:bob@example.com>",
        b"Call-ID": b"c1",
        b"CSeq": b"1 OPTIONS",
        b"Max-Forwards": b"70",
        b"Content-Length": b"2",
        b"X": b"y",
    }

    def written(values: dict[bytes, bytes]) -> bytes:
        return b"\r\n".join([start, *(name + b": " + value for name, value in values.items()), b"", b"ab"])

    memo = trained(written(usual))
    data = written(usual | dict(changes))
    assert understood(memo, data) == understood(None, data)


def test_limits_hold_for_messages_whose_like_is_known() -> None:
    """More headers or a longer body than the limits of another place allow."""
    data = request("Content-Length: 2", body=b"ab")
    memo = trained(data)
    for limits in (Limits(headers=3), Limits(body=1), Limits(head=20)):
        found = understood(memo, data, limits=limits)
        assert found == understood(None, data, limits=limits)
        assert isinstance(found, tuple)
        assert "limit" in found[0]


def test_expressions_are_bounded_in_number() -> None:
    memo = Memo(1)
    lines = request().split(b"\r\n")
    for number in range(2 * MOST_LAYOUTS):
        data = b"\r\n".join([lines[0], *[b"X-%d: 1" % number] * (1 + number // 10), *lines[1:]])
        for _ in range(2):
            parse_message(data, THERE, HERE, memo=memo)
        assert all(len(alike) <= MOST_SHAPES for alike in memo.shapes.values())
        kept = [layout for alike in memo._layouts.values() for layout in alike]
        assert sum(layout.shape is not None for layout in kept) <= MOST_SHAPES


def test_a_long_value_takes_no_longer_than_its_length() -> None:
    """Values that nearly fit, of the size of a whole datagram, are given up on in one pass."""
    memo = trained(*SAMPLES)
    for sample in SAMPLES:
        for wrong in (b"A " * 30000, b'"' + b"a" * 60000, b";tag=" * 12000, b"SIP/2.0/" * 8000, b"<" + b"a" * 60000):
            for old in (
                b"<sip:bob@biloxi.example.com>",
                b"<sip:alice@example.com>",
                b"192.0.2.9:40000",
                b"198.51.100.1",
            ):
                data = sample.replace(old, wrong, 1)
                limits = Limits(head=65535)
                assert understood(memo, data, limits=limits) == understood(None, data, limits=limits)
