"""Parsing a message: RFC 3261 §7, §18.3, §25.1."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensipspy.sip import (
    H_CALL_ID,
    H_CONTACT,
    H_MAX_FORWARDS,
    H_ROUTE,
    H_SUBJECT,
    H_SUPPORTED,
    M_INVITE,
    Limits,
    ParseError,
    parse_message,
    parse_name_addr,
    parse_name_addr_list,
    parse_via,
    validate_reply,
    validate_request,
)
from tests.sip.samples import HERE, HERE_TCP, INVITE, REPLY, THERE, THERE_TCP, parse, request


def test_what_an_invite_says() -> None:
    msg = parse(INVITE)
    assert (msg.is_request, msg.method, msg.method_id, msg.ruri) == (True, "INVITE", M_INVITE, msg.uri.text)
    assert (msg.via.host, msg.via.port, msg.via.branch, msg.via.rport) == (
        "pc33.atlanta.example.com", 5066, "z9hG4bKnashds8", -1,
    )  # fmt: skip
    assert msg.head[msg.vias[1].start : msg.vias[1].end] == "SIP/2.0/UDP 10.1.1.1;branch=z9hG4bKolder"
    assert (msg.from_.display, msg.from_tag, msg.to_tag) == ("Alice", "1928301774", "")
    assert (msg.max_forwards, msg.expires, msg.content_length, msg.body) == (70, -1, 5, b"v=0\r\n")
    assert msg.content_type == "application/sdp"
    assert msg.data_len == len(INVITE)


def test_a_datagram_with_bare_line_feeds_leaves_with_crlf() -> None:
    """RFC 3261 §7 wants CRLF. What simple tools write has one meaning all the same, as long as all lines end alike."""
    folded = INVITE.replace(b"\r\nTo:", b"\r\nSubject: one\r\n two\r\nTo:")
    head, _, body = folded.partition(b"\r\n\r\n")
    for text, form in ((head, body), (head, b"--b\r\n\r\nx"), (head, b"--b\n\nx\n")):
        length = b"Content-Length: %d" % len(form)
        text = text.replace(b"Content-Length: 5", length)
        msg = parse(text.replace(b"\r\n", b"\n") + b"\n\n" + form)
        assert msg.head == text.decode() + "\r\n"
        assert msg.body == form
        assert msg.data_len == len(text.replace(b"\r\n", b"\n")) + 2 + len(form)
    reply = parse(b"\n" + REPLY.replace(b"\r\n", b"\n"))
    assert (reply.status, reply.method) == (180, "INVITE")


@pytest.mark.parametrize("uri", ["urn:service:sos", "URN:service:sos.fire", "urn:nena:service:sos", "tel:+1-555-0100"])
def test_an_emergency_call_reaches_the_script(uri: str) -> None:
    """RFC 5031 §4: where a service is found is for the proxy to find out, so it is no unsupported scheme."""
    msg = parse(request(start=f"INVITE {uri} SIP/2.0"))
    validate_request(msg)
    assert msg.uri.host == uri.lower().partition("service:")[2]


@pytest.mark.parametrize(
    "uri", ["urn:isbn:0451450523", "urn:service:", "urn:service:a b", "urn:service:<x>", "http://x/"]
)
def test_what_is_no_service_is_refused(uri: str) -> None:
    with pytest.raises(ParseError) as caught:
        validate_request(parse(request(start=f"INVITE {uri} SIP/2.0")))
    assert caught.value.status in (400, 416)


@pytest.mark.parametrize(
    "name", ["Жанна Б", "José", "Andr\udce9", "Sales (day)", "100@pbx", "a/b & c = [d]", "J.R. O'Neil"]
)
def test_a_display_name_without_its_quotes(name: str) -> None:
    """RFC 4475 §3.1.2.15 lets an element take what is meant: phones leave out the quotes of names in other letters."""
    found = parse_name_addr(f"{name} <sip:a@example.com>;tag=1")
    assert (found.display, found.uri, found.tag) == (name, "sip:a@example.com", "1")


@pytest.mark.parametrize("name", ["Bell, Alexander", "sip:eve@example.com", "a;tag=2", 'a "b"', "a\\b", "a\0b", "a>b"])
def test_a_display_name_with_two_meanings_is_refused(name: str) -> None:
    with pytest.raises(ParseError):
        parse_name_addr(f"{name} <sip:a@example.com>;tag=1")


def test_port_zero_in_a_via_is_none() -> None:
    """RFC 3261 §18.2.2 has a port to answer to when there is none, and RFC 3581 asks for none."""
    via = parse_via("SIP/2.0/UDP 192.0.2.9:0;rport;branch=z9hG4bK1")
    assert (via.host, via.port, via.branch) == ("192.0.2.9", 0, "z9hG4bK1")


def test_line_feeds_among_line_ends_are_refused() -> None:
    """One reader's header would be another's text: nothing is guessed, and on a stream only CRLF ends a line."""
    plain = INVITE.replace(b"\r\n", b"\n")
    for data in (
        INVITE.replace(b"\r\nTo:", b"\nTo:"),
        plain.replace(b"\nTo:", b"\r\nTo:"),
        plain.replace(b"\nTo:", b"\rTo:"),
        plain.replace(b"\n", b"\r\n", 1),
    ):
        with pytest.raises(ParseError):
            parse(data)
    with pytest.raises(ParseError):
        parse_message(plain, THERE_TCP, HERE_TCP)


def test_method_of_a_reply_is_that_of_cseq() -> None:
    msg = parse(REPLY)
    assert (msg.is_request, msg.status, msg.reason, msg.method) == (False, 180, "Ringing", "INVITE")


def test_headers_are_found_by_any_spelling() -> None:
    msg = parse(request("k: a", "SUPPORTED: b", "supported : c", "X-Other: d", "x-oTHER: e"))
    assert [h.value for h in msg.all(H_SUPPORTED)] == ["a", "b", "c"]
    assert msg.named("k") == msg.named("Supported") == msg.all(H_SUPPORTED)
    assert [h.name for h in msg.named("x-other")] == ["X-Other", "x-oTHER"]
    assert msg.first(H_CONTACT) is None
    assert msg.value(H_CONTACT) == ""


def test_each_header_spans_its_lines() -> None:
    msg = parse(request("Subject: one\r\n\ttwo\r\n three"))
    header = msg.headers[0]
    assert header.value == "one two three"
    assert msg.head[header.start : header.end] == "Subject: one\r\n\ttwo\r\n three\r\n"
    assert msg.head[header.value_start : header.value_end] == "one\r\n\ttwo\r\n three"


@pytest.mark.parametrize("between", ["\u2028", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_crlf_ends_a_header(between: str) -> None:
    """What ends lines in other texts is part of a value (RFC 3261 §25.1, TEXT-UTF8)."""
    msg = parse(request(f"Subject: one{between}two", "X-Last: 1"))
    assert msg.named("Subject")[0].value == f"one{between}two"
    assert msg.named("X-Last")[0].value == "1"


@pytest.mark.parametrize("between", [" ", "  ", "\t", " \t ", "\t ", "\r\n "])
def test_any_white_space_parts_number_and_method_of_cseq(between: str) -> None:
    msg = parse(request().replace(b"1 OPTIONS", f"1{between}OPTIONS".encode()))
    assert (msg.cseq_number, msg.cseq_method) == (1, "OPTIONS")


def test_contact_star() -> None:
    """RFC 3261 §10.2.2."""
    msg = parse(request("Contact: *"))
    assert (msg.contact_star, msg.contacts) == (True, [])
    both = parse(request("Contact: *", "m: <sip:a@b>"))
    with pytest.raises(ParseError):
        both.contacts  # noqa: B018


def test_list_with_commas_in_names_and_uris() -> None:
    found = parse_name_addr_list('"A, \\"B" <sip:a,b@c;x=1>;q=0.75;expires=60 , sip:d@e;q=1')
    assert [(a.display, a.uri, a.q, a.expires) for a in found] == [
        ('A, "B', "sip:a,b@c;x=1", 750, 60), ("", "sip:d@e", 1000, -1),
    ]  # fmt: skip
    assert str(found[1]) == "sip:d@e;q=1"


def test_ipv6_via() -> None:
    via = parse_via("SIP/2.0/TLS [2001:db8::9:1]:5061;received=2001:db8::1;rport=99;branch=z9hG4bKx")
    assert (via.host, via.host_text, via.port) == ("2001:db8::9:1", "[2001:db8::9:1]", 5061)
    assert (via.received, via.rport) == ("2001:db8::1", 99)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0\0\0\0", b"\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"SIP/2.0 99 X\r\n\r\n",
        b"SIP/2.0 abc X\r\n\r\n",
        b"SIP/3.0 200 OK\r\n\r\n", b"OPTIONS sip:a SIP/2.0\r\n\r\n", b"x" * 70000,
        request().replace(b"192.0.2.9:40000", b"a_b:c"),
        request(start="ACK sip:a@b SIP/2.0").replace(b"1 ACK", b"x ACK"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_dropped(data: bytes) -> None:
    with pytest.raises(ParseError) as caught:
        validate_request(parse(data))
    assert caught.value.status == 0


@pytest.mark.parametrize(
    "line",
    [
        "no colon", ": no name", "Bad Name: x", "X: a\nVia: smuggled", "X: a\rb", "Content-Length: 1",
        "Content-Length: x",
        "From: <sip:second@example.com>;tag=2", "Max-Forwards: 256", "Max-Forwards: 7\u0661",
    ],
)  # fmt: skip
def test_broken_lines_deserve_400(line: str) -> None:
    """Also a bare CR or LF: it would be a line end for a sloppier reader downstream."""
    with pytest.raises(ParseError) as caught:
        validate_request(parse(request(line)))
    assert caught.value.status == 400
    assert caught.value.message is not None
    assert caught.value.message.call_id == "c1"


def test_stream_message_with_a_body_needs_its_length() -> None:
    with pytest.raises(ParseError) as caught:
        parse(request(body=b"x"), THERE_TCP, HERE_TCP)
    assert caught.value.status == 400
    assert parse(request(body=b"x")).body == b"x"


def test_limits() -> None:
    many = request(*[f"X-{n}: 1" for n in range(300)])
    with pytest.raises(ParseError):
        parse(many)
    with pytest.raises(ParseError):
        parse_message(request(), THERE, HERE, Limits(head=50))
    with pytest.raises(ParseError) as caught:
        parse_message(INVITE, THERE, HERE, Limits(body=2))
    assert caught.value.status == 513
    routes = parse(request("Route: " + ",".join(["<sip:a;lr>"] * 300)))
    with pytest.raises(ParseError):
        routes.routes  # noqa: B018


@given(st.binary(max_size=400))
def test_any_bytes_parse_or_are_a_parse_error(data: bytes) -> None:
    for packet in (data, b"OPTIONS sip:a SIP/2.0\r\n" + data, INVITE[:200] + data):
        status, answerable = 0, False
        try:
            parse(packet)
        except ParseError as error:
            status, answerable = error.status, error.message is not None
        assert (status != 0) == answerable


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_a_parse_error(text: str) -> None:
    for candidate in (text, f"<{text}>", f'"{text}" <sip:a>', f"<sip:a>;{text}"):
        try:
            found = parse_name_addr(candidate)
        except ParseError:
            continue
        assert found.uri in candidate


def test_headers_are_found_again_after_what_was_parsed_was_forgotten() -> None:
    text = (
        "INVITE sip:b@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n"
        "Subject: one\r\n two\r\nFrom: <sip:a@example.com>;tag=1\r\nTo: <sip:b@example.com>\r\nCall-ID: c1\r\n"
        "CSeq: 7 INVITE\r\nX-Own: x\r\n\r\n"
    )
    msg = parse(text.encode())
    for ask in (
        lambda: msg.value(H_CALL_ID),
        lambda: msg.value(H_SUBJECT),
        lambda: [header.value for header in msg.headers],
        lambda: msg.value_place(H_MAX_FORWARDS),
        lambda: msg.first(H_ROUTE),
        lambda: msg.top_via_cut(),
        lambda: (msg.starts(), msg.from_tag, msg.cseq_method),
        lambda: [header.value for header in msg.named("X-Own")],
    ):
        before = ask()
        msg.forget_parsed()
        assert ask() == before


def test_of_two_tags_the_first_one_is_that_of_the_dialog() -> None:
    """RFC 3261 §7.3.1 forbids it; a phone that puts its own behind that of the dialog is understood all the same."""
    text = (
        "SIP/2.0 401 Unauthorized\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\nFrom: <sip:a@example.com>;tag=1\r\n"
        "To: <sip:b@example.com>;tag=dialog;tag=own\r\nCall-ID: c1\r\nCSeq: 2 BYE\r\nContent-Length: 0\r\n\r\n"
    )
    msg = parse(text.encode())
    validate_reply(msg)
    assert msg.to_tag == "dialog"
    assert msg.to.text.endswith(";tag=dialog;tag=own")
    broken = parse(text.replace("tag=own", 'tag="x y"').encode())
    with pytest.raises(ParseError):
        validate_reply(broken)
