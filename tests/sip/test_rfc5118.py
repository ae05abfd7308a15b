"""The messages of RFC 5118, which torture those who read IPv6 addresses, as a proxy has to take them."""

from __future__ import annotations

import pytest

from opensipspy.sip import ParseError, uri_equal, validate_request
from tests.sip.samples import parse

SDP = "v=0\r\no=assistant 971731711378798081 0 IN IP6 2001:db8::20\r\ns=-\r\n%s\r\nt=3338481189 3370017201\r\n%s"


def message(start: str, *vias: str, contact: str = '"Caller" <sip:caller@[2001:db8::1]>', body: str = "") -> bytes:
    """One of them: they differ in a few places, told here as the RFC has them."""
    lines = [
        f"{start} SIP/2.0",
        "To: sip:user@example.com",
        "From: sip:user@example.com;tag=81x2",
        *(f"Via: {via}" for via in vias or ("SIP/2.0/UDP [2001:db8::9:1];branch=z9hG4bKas3-111",)),
        "Call-ID: SSG9559905523997077@hlau_4100",
        "Max-Forwards: 70",
        f"Contact: {contact}",
        f"CSeq: 8612 {start.split()[0]}",
        *(["Content-Type: application/sdp"] if body else []),
        f"Content-Length: {len(body)}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


@pytest.mark.parametrize(
    ("uri", "host", "port"),
    [
        ("sip:[2001:db8::10]", "2001:db8::10", 0),  # 4.1
        ("sip:[2001:db8::10:5070]", "2001:db8::10:5070", 0),  # 4.3: what looks like a port is a part of the address
        ("sip:[2001:db8::10]:5070", "2001:db8::10", 5070),  # 4.4
    ],
)
def test_an_address_in_a_request_uri(uri: str, host: str, port: int) -> None:
    msg = parse(message("REGISTER " + uri))
    validate_request(msg)
    assert (msg.uri.host, msg.uri.port, msg.uri.is_v6) == (host, port, True)
    assert (msg.via.host, msg.via.port, msg.via.branch) == ("2001:db8::9:1", 0, "z9hG4bKas3-111")


def test_an_address_without_brackets_is_refused() -> None:
    """§4.2: nobody can say where the address ends and the port begins."""
    with pytest.raises(ParseError) as caught:
        validate_request(parse(message("REGISTER sip:2001:db8::10")))
    assert caught.value.status == 400
    assert caught.value.message is not None


@pytest.mark.parametrize("received", ["[2001:db8::9:255]", "2001:db8::9:255"])
def test_received_with_and_without_brackets(received: str) -> None:
    """§4.5: the grammar has none, some wrote them; both are the same address."""
    via = f"SIP/2.0/UDP [2001:db8::9:1];received={received};branch=z9hG4bKas3"
    msg = parse(message("OPTIONS sip:user@[2001:db8::10]", via))
    validate_request(msg)
    assert (msg.via.host, msg.via.received) == ("2001:db8::9:1", "2001:db8::9:255")


@pytest.mark.parametrize(
    ("address", "media"),
    [
        ("c=IN IP6 2001:db8::20", "m=audio 6000 RTP/AVP 2"),  # 4.6
        ("c=IN IP6 2001:db8::1", "m=audio 22334 RTP/AVP 0\r\nc=IN IP4 192.0.2.1"),  # 4.8
        ("c=IN IP6 ::ffff:192.0.2.10", "m=audio 6000 RTP/AVP 2"),  # 4.9
    ],
)
def test_addresses_in_a_session_description(address: str, media: str) -> None:
    """What is in the body goes on as it came."""
    body = SDP % (address, media + "\r\n")
    msg = parse(message("INVITE sip:user@[2001:db8::10]", body=body))
    validate_request(msg)
    assert msg.body == body.encode()


def test_many_addresses_in_the_headers() -> None:
    """§4.7: Via headers of both families."""
    vias = (
        "SIP/2.0/UDP [2001:db8::9:1]:6050;branch=z9hG4bKas3-111",
        "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKjhja8781hjuaij65144",
        "SIP/2.0/TCP [2001:db8::9:255];branch=z9hG4bK451jj;received=192.0.2.200",
    )
    msg = parse(message("BYE sip:user@host.example.net", *vias))
    validate_request(msg)
    assert [(via.host, via.port, via.received) for via in msg.vias] == [
        ("2001:db8::9:1", 6050, ""),
        ("192.0.2.1", 0, ""),
        ("2001:db8::9:255", 0, "192.0.2.200"),
    ]


def test_a_mapped_address_in_a_uri() -> None:
    """§4.9 and RFC 5954 §4.1: an IPv4 address at the end of an IPv6 address."""
    msg = parse(message("OPTIONS sip:user@[::ffff:192.0.2.2]", "SIP/2.0/UDP [::ffff:192.0.2.10]:19823;branch=z9hG4bKb"))
    validate_request(msg)
    assert (msg.uri.host, msg.via.host, msg.via.port) == ("::ffff:192.0.2.2", "::ffff:192.0.2.10", 19823)
    assert uri_equal("sip:user@[2001:db8::192.0.2.1]", "sip:user@[2001:DB8:0:0:0:0:c000:201]")


def test_three_colons_are_refused() -> None:
    """§4.10 shows what RFC 3261's grammar allowed by mistake; RFC 5954 took it back."""
    with pytest.raises(ParseError) as caught:
        validate_request(parse(message("OPTIONS sip:user@[2001:db8:::192.0.2.1]")))
    assert caught.value.status == 400
