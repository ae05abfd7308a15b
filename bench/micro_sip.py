"""Microseconds for the steps of `sip/` on one core: `python bench/micro_sip.py`. Compiled when the build is."""

from __future__ import annotations

import timeit
from collections.abc import Callable

from opensipspy import sip
from opensipspy.sip import message

BODY = b"v=0\r\no=- 1 1 IN IP4 192.0.2.9\r\ns=-\r\nc=IN IP4 192.0.2.9\r\nt=0 0\r\nm=audio 49170 RTP/AVP 0 8 101\r\n"
INVITE = (
    b"INVITE sip:bob@biloxi.example.com SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP 192.0.2.9:40000;rport;branch=z9hG4bKnashds8\r\n"
    b"Max-Forwards: 70\r\nRecord-Route: <sip:p1.example.com;lr>\r\nTo: Bob <sip:bob@biloxi.example.com>\r\n"
    b'From: "Alice" <sip:alice@atlanta.example.com>;tag=1928301774\r\n'
    b"Call-ID: a84b4c76e66710@pc33.atlanta.example.com\r\nCSeq: 314159 INVITE\r\n"
    b"Contact: <sip:alice@pc33.atlanta.example.com>\r\nUser-Agent: Phone 1.2.3 (build 12345)\r\n"
    b"Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, INFO\r\nSupported: replaces, timer, 100rel\r\n"
    b"Session-Expires: 1800\r\nContent-Type: application/sdp\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)
HERE = sip.Socket(sip.PROTO_UDP, "198.51.100.1", 5060)
THERE = sip.Peer(sip.PROTO_UDP, "192.0.2.9", 40000)
VIA = HERE.via_prefix + "z9hG4bK1"


def parse() -> sip.Message:
    return sip.parse_message(INVITE, THERE, HERE)


def parse_and_rebuild() -> bytes:
    msg = parse()
    assert (msg.via.branch, msg.from_tag, msg.to_tag, msg.cseq_number) is not None
    return sip.build_request(msg, None, "sip:bob@192.0.2.4", VIA, HERE)


def validate() -> None:
    sip.validate_request(parse())


def parse_and_reply() -> bytes:
    return sip.build_reply(parse(), 180, to_tag="a")


def rebuild_with_edits() -> bytes:
    msg = parse()
    edits = sip.Edits()
    edits.prepend("Record-Route: <sip:198.51.100.1;lr>\r\n")
    edits.append("X-More: 1\r\n")
    return sip.build_request(msg, edits, msg.ruri, VIA, HERE)


def uri() -> sip.Uri:
    return sip.parse_uri("sip:bob@biloxi.example.com:5060;transport=udp")


def measure(name: str, step: Callable[[], object], rounds: int = 5000) -> None:
    best = min(timeit.repeat(step, number=rounds, repeat=5))
    print(f"{name:<42} {best / rounds * 1e6:7.2f} us")


def main() -> None:
    form = "plain Python" if message.__file__.endswith(".py") else "compiled"
    print(f"INVITE of {len(INVITE)} octets, {form}")
    measure("parse", parse)
    measure("parse, validate", validate)
    measure("parse, Via From To CSeq, rebuild", parse_and_rebuild)
    measure("parse, rebuild with two edits", rebuild_with_edits)
    measure("parse, reply 180", parse_and_reply)
    measure("URI", uri)


if __name__ == "__main__":
    main()
