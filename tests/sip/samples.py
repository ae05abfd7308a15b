"""Endpoints and messages that the tests of this folder share."""

from __future__ import annotations

from typing import Final

from opensipspy.sip import PROTO_TCP, PROTO_UDP, Message, Peer, Socket, parse_message

HERE: Final = Socket(PROTO_UDP, "198.51.100.1", 5060)
HERE_TCP: Final = Socket(PROTO_TCP, "198.51.100.1", 5060)
THERE: Final = Peer(PROTO_UDP, "192.0.2.9", 40000)
THERE_TCP: Final = Peer(PROTO_TCP, "192.0.2.9", 40000, 7)

INVITE: Final = (
    b"INVITE sip:bob@biloxi.example.com SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP pc33.atlanta.example.com:5066;branch=z9hG4bKnashds8\r\n"
    b"Via: SIP/2.0/UDP 10.1.1.1;branch=z9hG4bKolder\r\n"
    b"Max-Forwards: 70\r\n"
    b"Record-Route: <sip:p1.example.com;lr>\r\n"
    b"To: Bob <sip:bob@biloxi.example.com>\r\n"
    b'From: "Alice" <sip:alice@atlanta.example.com>;tag=1928301774\r\n'
    b"Call-ID: a84b4c76e66710@pc33.atlanta.example.com\r\n"
    b"CSeq: 314159 INVITE\r\n"
    b"Contact: <sip:alice@pc33.atlanta.example.com>\r\n"
    b"User-Agent: Phone 1.2.3\r\n"
    b"Content-Type: application/sdp\r\n"
    b"Content-Length: 5\r\n\r\nv=0\r\n"
)
REPLY: Final = (
    b"SIP/2.0 180 Ringing\r\n"
    b"Via: SIP/2.0/UDP 198.51.100.1:5060;branch=z9hG4bKmine\r\n"
    b"Via: SIP/2.0/UDP pc33.atlanta.example.com:5066;branch=z9hG4bKnashds8;received=192.0.2.9;rport=40000\r\n"
    b"To: Bob <sip:bob@biloxi.example.com>;tag=a6c85cf\r\n"
    b"From: Alice <sip:alice@atlanta.example.com>;tag=1928301774\r\n"
    b"Call-ID: a84b4c76e66710@pc33.atlanta.example.com\r\n"
    b"CSeq: 314159 INVITE\r\n"
    b"Content-Length: 0\r\n\r\n"
)


def parse(data: bytes, source: Peer = THERE, socket: Socket = HERE) -> Message:
    return parse_message(data, source, socket)


def request(*lines: str, start: str = "OPTIONS sip:bob@example.com SIP/2.0", body: bytes = b"") -> bytes:
    """A request with the mandatory headers and further lines before them."""
    method = start.split(" ")[0]
    head = [
        start,
        *lines,
        "Via: SIP/2.0/UDP 192.0.2.9:40000;branch=z9hG4bK1",
        "From: <sip:alice@example.com>;tag=1",
        "To: <sip:bob@example.com>",
        "Call-ID: c1",
        f"CSeq: 1 {method}",
        "Max-Forwards: 70",
    ]
    return "\r\n".join(head).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body
