"""The torture messages of RFC 4475, section by section, as a proxy has to take them."""

from __future__ import annotations

import pytest

from opensipspy.sip import (
    H_CONTACT,
    H_OTHER,
    H_SUBJECT,
    M_OTHER,
    PROTO_TCP,
    Edits,
    Message,
    ParseError,
    Peer,
    StreamFramer,
    build_forwarded_reply,
    build_reply,
    build_request,
    parse_message,
    unescape,
    uri_equal,
    validate_reply,
    validate_request,
)
from tests.sip.samples import HERE, THERE
from tests.sip.torture import MESSAGES

VALID_REQUESTS = [
    "wsinv",  # 3.1.1.1
    "intmeth",  # 3.1.1.2
    "esc01",  # 3.1.1.3
    "escnull",  # 3.1.1.4
    "esc02",  # 3.1.1.5
    "lwsdisp",  # 3.1.1.6
    "longreq",  # 3.1.1.7
    "dblreq",  # 3.1.1.8
    "semiuri",  # 3.1.1.9
    "transports",  # 3.1.1.10
    "mpart01",  # 3.1.1.11
    "baddate",  # 3.1.2.12: the date means nothing to a proxy
    "badbranch",  # 3.2.1: falls back to RFC 2543 matching
    "unksm2",  # 3.3.4
    "bext01",  # 3.3.5: Proxy-Require is judged by the proxy, not by the parser
    "invut",  # 3.3.6
    "regaut01",  # 3.3.7
    "zeromf",  # 3.3.11
    "cparam01",  # 3.3.12
    "cparam02",  # 3.3.13
    "regescrt",  # 3.3.14
    "sdp01",  # 3.3.15
    "inv2543",  # 3.4.1
]
VALID_REPLIES = ["unreason", "noreason", "bcast"]  # 3.1.1.12, 3.1.1.13, 3.3.10
REFUSED = [
    ("badinv01", 400),  # 3.1.2.1
    ("clerr", 400),  # 3.1.2.2
    ("ncl", 400),  # 3.1.2.3
    ("scalar02", 400),  # 3.1.2.4
    ("quotbal", 400),  # 3.1.2.6
    ("ltgtruri", 400),  # 3.1.2.7
    ("lwsruri", 400),  # 3.1.2.8
    ("lwsstart", 400),  # 3.1.2.9
    ("trws", 400),  # 3.1.2.10
    ("escruri", 400),  # 3.1.2.11
    ("badaspec", 400),  # 3.1.2.14
    ("baddn", 400),  # 3.1.2.15
    ("badvers", 505),  # 3.1.2.16
    ("mismatch01", 400),  # 3.1.2.17
    ("mismatch02", 501),  # 3.1.2.18
    ("insuf", 400),  # 3.3.1
    ("unkscm", 416),  # 3.3.2
    ("novelsc", 416),  # 3.3.3
    ("multi01", 400),  # 3.3.8
    ("mcl01", 400),  # 3.3.9
]


def take(name: str) -> Message:
    msg = parse_message(MESSAGES[name], THERE, HERE)
    if msg.is_request:
        validate_request(msg)
    else:
        validate_reply(msg)
    return msg


@pytest.mark.parametrize("name", VALID_REQUESTS)
def test_well_formed_request_is_forwarded_byte_exact(name: str) -> None:
    """RFC 3261 §16.6: a proxy adds its Via (and received to the one below) and leaves every other octet."""
    msg = take(name)
    sent = build_request(msg, None, msg.ruri, "SIP/2.0/UDP 198.51.100.1;branch=z9hG4bKnew", HERE)
    start, _, rest = MESSAGES[name].partition(b"\r\n")
    added = b"Via: SIP/2.0/UDP 198.51.100.1;branch=z9hG4bKnew\r\n"
    assert sent.startswith(start + b"\r\n" + added)
    tail = sent[len(start) + 2 + len(added) :]
    for fill in (b";rport=40000;received=192.0.2.9", b";received=192.0.2.9"):
        tail = tail.replace(fill, b";rport" if b"rport" in fill else b"", 1)
    expected = rest
    if name == "dblreq":
        # The octets behind the body are noise (RFC 3261 §18.3).
        expected = rest[: rest.index(b"\r\n\r\n") + 4]
    assert tail == expected


@pytest.mark.parametrize("name", VALID_REPLIES)
def test_well_formed_reply_is_forwarded_without_its_top_via(name: str) -> None:
    msg = take(name)
    sent = build_forwarded_reply(msg, None, HERE)
    via = msg.head[msg.vias[0].start - 5 : msg.vias[0].end + 2].encode()
    assert sent == MESSAGES[name].replace(via, b"", 1)


@pytest.mark.parametrize(("name", "status"), REFUSED)
def test_broken_request_is_answered(name: str, status: int) -> None:
    """A refusal carries the status of the case and goes where the Via says."""
    with pytest.raises(ParseError) as caught:
        take(name)
    error = caught.value
    assert error.status == status
    assert error.message is not None
    reply = build_reply(error.message, error.status, error.reason, to_tag="t1")
    assert reply.startswith(b"SIP/2.0 %d " % status)
    assert b"\r\nVia: " in reply
    assert reply.endswith(b"\r\nContent-Length: 0\r\n\r\n")
    if name != "insuf":
        assert b"\r\nCSeq:" in reply
        assert b"\r\nFrom:" in reply


@pytest.mark.parametrize("name", ["scalarlg", "bigcode"])
def test_broken_reply_is_dropped(name: str) -> None:
    """§3.1.2.5, §3.1.2.19: an element receiving this response will simply discard it."""
    with pytest.raises(ParseError) as caught:
        take(name)
    assert caught.value.status == 0
    assert caught.value.message is None


def test_every_message_of_the_rfc_is_tested() -> None:
    tested = set(VALID_REQUESTS) | set(VALID_REPLIES) | {name for name, _ in REFUSED}
    tested |= {"scalarlg", "bigcode", "regbadct"}
    assert tested == set(MESSAGES)


def test_3_1_1_1_short_tortuous_invite() -> None:
    msg = take("wsinv")
    assert msg.uri.param("unknownparam") == ""
    assert msg.to.uri == "sip:vivekg@chair-dnrc.example.com"
    assert msg.to_tag == "1918181833n"
    assert msg.from_.display == 'J Rosenberg \\"'
    assert msg.from_tag == "98asjd8"
    assert (msg.max_forwards, msg.cseq_number, msg.cseq_method) == (68, 9, "INVITE")
    assert [(v.transport, v.host, v.branch) for v in msg.vias] == [
        ("UDP", "192.0.2.2", "390skdjuw"),
        ("TCP", "spindle.example.com", "z9hG4bK9ikj8"),
        ("UDP", "192.168.255.111", "z9hG4bK30239"),
    ]
    assert msg.has(H_SUBJECT)
    assert msg.value(H_SUBJECT) == ""
    assert msg.named("newfangledheader")[0].value == "newfangled value continued newfangled value"
    assert msg.named("UnknownHeaderWithUnusualValue")[0].value == ";;,,;;,;"
    assert msg.routes[0].parsed_uri().param("unknown-no-value") == ""
    contact = msg.contacts[0]
    assert contact.display == 'Quoted string ""'
    assert contact.param("newparam") == "newvalue"
    assert contact.param("secondparam") == ""
    assert contact.q == 330
    assert len(msg.body) == 150


def test_3_1_1_2_wide_range_of_valid_characters() -> None:
    msg = take("intmeth")
    assert msg.method == "!interesting-Method0123456789_*+`.%indeed'~"
    assert msg.method_id == M_OTHER
    assert msg.uri.user == "1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"
    assert msg.uri.password == "&it+has=1,weird!*pas$wo~d_too.(doesn't-it)"
    assert msg.to.display == "BEL:\x07 NUL:\x00 DEL:\x7f"
    assert msg.from_.display == "token1~` token2'+_ token3*%!.-"
    assert msg.from_tag == "_token~1'+`*%!-."
    assert msg.call_id == "intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{"


def test_3_1_1_3_valid_use_of_escapes() -> None:
    msg = take("esc01")
    assert unescape(msg.uri.user) == "sips:user@example.com"
    assert uri_equal(msg.to.uri, "sip:user@example.com")
    contact = msg.contacts[0].parsed_uri()
    assert contact.param("n%61me") == "v%61lue%25%34%31"
    # "value%41" once unescaped, not "valueA".
    assert unescape("v%61lue%25%34%31") == "value%41"


def test_3_1_1_4_escaped_nulls() -> None:
    msg = take("escnull")
    assert unescape(msg.to.parsed_uri().user) == "null-\0-null"
    one, two = (c.uri for c in msg.contacts)
    assert not uri_equal(one, two)


def test_3_1_1_5_percent_where_it_is_not_an_escape() -> None:
    msg = take("esc02")
    assert msg.method == "RE%47IST%45R"
    assert msg.to.display == "%Z%45"
    assert len(msg.contacts) == 2
    assert msg.named("C%6Fntact")[0].kind == H_OTHER


def test_3_1_1_8_extra_octets_are_ignored() -> None:
    assert take("dblreq").body == b""


def test_3_1_1_9_semicolon_in_the_user() -> None:
    msg = take("semiuri")
    assert unescape(msg.uri.user) == "user;par=u@example.net"
    assert msg.uri.host == "example.com"
    assert not msg.uri.params


def test_3_1_1_10_unknown_transports() -> None:
    assert [via.transport for via in take("transports").vias] == ["UDP", "SCTP", "TLS", "UNKNOWN", "TCP"]


def test_3_1_1_11_binary_body() -> None:
    msg = take("mpart01")
    assert len(msg.body) == 553
    assert b"\0" in msg.body


def test_3_1_1_12_unusual_reason() -> None:
    assert take("unreason").reason.startswith("= 2**3 * 5**2 но сто")
    assert take("noreason").reason == ""


@pytest.mark.parametrize("name", ["ncl", "mcl01"])
def test_3_1_2_3_framing_error_on_a_stream(name: str) -> None:
    """The head comes out so that a 400 can be sent; the stream cannot be followed any longer."""
    framer = StreamFramer()
    (head,) = framer.feed(MESSAGES[name])
    assert framer.error is not None
    with pytest.raises(ParseError):
        framer.feed(b"")
    with pytest.raises(ParseError) as caught:
        parse_message(head, Peer(PROTO_TCP, "192.0.2.9", 5060), HERE)
    assert caught.value.status == 400


def test_3_1_2_2_short_body_on_a_stream_waits() -> None:
    framer = StreamFramer()
    assert framer.feed(MESSAGES["clerr"]) == []
    assert framer.pending == len(MESSAGES["clerr"])


def test_3_1_2_13_contact_with_question_mark_needs_brackets() -> None:
    """The proxy forwards; the registrar that reads the Contact refuses with 400."""
    msg = parse_message(MESSAGES["regbadct"], THERE, HERE)
    validate_request(msg)
    with pytest.raises(ParseError) as caught:
        msg.contacts  # noqa: B018
    assert caught.value.status == 400


def test_3_3_11_max_forwards_zero_is_seen() -> None:
    assert take("zeromf").max_forwards == 0


def test_3_3_12_contact_parameter_and_uri_parameter() -> None:
    one = take("cparam01").contacts[0]
    assert one.param("unknownparam") == ""
    assert one.uri == "sip:+19725552222@gw1.example.net"
    two = take("cparam02").contacts[0]
    assert two.params == ""
    assert two.parsed_uri().param("unknownparam") == ""


def test_3_3_14_escaped_header_in_contact() -> None:
    msg = take("regescrt")
    assert msg.contacts[0].parsed_uri().headers == "Route=%3Csip:sip.example.com%3E"


def test_3_4_1_rfc_2543_invite() -> None:
    msg = take("inv2543")
    assert msg.via.branch == ""
    assert msg.from_tag == ""
    assert msg.to.uri == "sip:+16505552222@ss1.example.net"
    assert msg.to.param("user") == "phone"


def test_edits_on_a_folded_message() -> None:
    """A folded header is removed with all of its lines."""
    msg = take("wsinv")
    edits = Edits()
    for header in msg.all(H_CONTACT):
        edits.remove(header)
    sent = build_request(msg, edits, msg.ruri, "", HERE)
    assert b"Quoted string" not in sent
    assert b"secondparam" not in sent
    assert b"\r\n\r\nv=0" in sent
