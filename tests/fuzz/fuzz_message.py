"""Mutates known messages and feeds them to every parser of `sip/`: only ParseError may come out.

`python -m tests.fuzz.fuzz_message --seconds 60 --seed 1`; exits with 1 and prints the octets at the first finding.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from random import Random
from typing import Final

from opensipspy.sip import (
    DEFAULT_LIMITS,
    H_AUTHORIZATION,
    H_CALL_ID,
    H_FROM,
    H_PROXY_AUTHORIZATION,
    H_WWW_AUTHENTICATE,
    PROTO_TCP,
    PROTO_UDP,
    Edits,
    Message,
    ParseError,
    Peer,
    Socket,
    StreamFramer,
    build_ack,
    build_cancel,
    build_forwarded_reply,
    build_reply,
    build_request,
    parse_message,
    parse_name_addr_list,
    parse_uri,
    parse_via_list,
    reply_destination,
    uri_equal,
    validate_reply,
    validate_request,
)
from tests.sip.samples import INVITE, REPLY
from tests.sip.torture import MESSAGES

CORPUS: Final = (
    *MESSAGES.values(),
    INVITE,
    REPLY,
    b"REGISTER sips:[2001:db8::1]:5061;transport=tcp SIP/2.0\r\nv: SIP/2.0/TLS [2001:db8::9]:5061;rport;branch=z9hG4bK"
    b";ttl=1;maddr=224.2.0.1\r\nf: <tel:+1-201-555-0123;phone-context=x>;tag=1\r\nt: sip:a@b\r\ni: x\r\n"
    b"CSeq: 1 REGISTER\r\n"
    b'm: *\r\nAuthorization: Digest username="a\\"b", realm="r", nonce="n", uri="sip:b", response="00", qop=auth, '
    b'nc=00000001, cnonce="c", algorithm=SHA-256\r\nProxy-Authorization: Bearer abc==\r\nExpires: 3600\r\n'
    b'Path: <sip:p;lr>,<sip:q;lr>\r\nl: 0\r\n\r\n',
)  # fmt: skip
# Pieces that mean something to a SIP parser; mutations sprinkle them in.
TOKENS: Final = (
    b"\r\n", b"\r\n ", b"\n", b"\r", b"\0", b'"', b"\\", b"<", b">", b",", b";", b":", b"=", b"@", b"%", b"%00", b"%zz",
    b"[", b"]", b"[::1]", b"::", b"/", b"?", b"*", b" ", b"\t", b"SIP/2.0", b"SIP/2.0/UDP ", b"Via: ", b"v:",
    b"Content-Length: ", b"l:-1", b"Contact: ", b"CSeq:", b"99999999999999999999999", b"-1", b"0", b";tag=",
    b";branch=",
    b";rport", b";received=", b";maddr=", b";lr", b"sip:", b"sips:", b"tel:", b"\xff", b"\xc3\xa9", b"\xed\xa0\x80",
    b"\xe2\x80\xa8", b"\xc2\xa0", b"\xd9\xa1", b"Digest ", b"nc=", b"*" * 300, b";a" * 80, b",<sip:a>" * 300,
    b"\r\n\r\n",
)  # fmt: skip

HERE: Final = Socket(PROTO_UDP, "198.51.100.1", 5060)
HERE_TCP: Final = Socket(PROTO_TCP, "198.51.100.1", 5060)
UDP_PEER: Final = Peer(PROTO_UDP, "192.0.2.9", 40000)
TCP_PEER: Final = Peer(PROTO_TCP, "192.0.2.9", 40000, 1)
PARTS: Final = (
    "from_", "to", "from_tag", "to_tag", "call_id", "cseq_number", "contacts", "contact_star", "routes",
    "record_routes", "paths", "max_forwards", "expires", "content_length", "content_type", "uri", "via", "vias",
    "headers",
)  # fmt: skip


def mutate(random: Random, data: bytes) -> bytes:
    """One to eight random changes: cut, doubled, replaced, sprinkled, or crossed with another message."""
    for _ in range(random.randint(1, 8)):
        size = len(data)
        start = random.randrange(size + 1)
        end = min(size, start + int(random.expovariate(0.1)))
        choice = random.randrange(7)
        if choice == 0:
            data = data[:start] + data[end:]
        elif choice == 1:
            data = data[:start] + data[start:end] + data[start:]
        elif choice == 2:
            data = data[:start] + bytes((random.randrange(256),)) + data[start + 1 :]
        elif choice in {3, 4}:
            data = data[:start] + random.choice(TOKENS) + data[start:]
        elif choice == 5:
            data = data[:start] + random.choice(TOKENS) + data[end:]
        else:
            other = random.choice(CORPUS)
            cut = random.randrange(len(other))
            data = data[:start] + other[cut : cut + 120] + data[end:]
    return data[:100_000]


def touch(msg: Message) -> None:
    """Ask a message for everything it can tell."""
    for part in PARTS:
        try:
            getattr(msg, part)
        except ParseError:
            continue
    for kind in (H_AUTHORIZATION, H_PROXY_AUTHORIZATION, H_WWW_AUTHENTICATE):
        try:
            msg.credentials(kind)
        except ParseError:
            continue
    for header in msg.headers:
        assert msg.head[header.start : header.start + len(header.name)] == header.name
        assert header.end > header.start
        try:
            for address in parse_name_addr_list(header.value):
                uri = address.parsed_uri()
                assert uri_equal(uri, address.uri)
                assert (uri.proto, uri.lr, uri.aor(), address.q, address.expires) is not None
        except ParseError:
            continue


def check(data: bytes, random: Random) -> None:
    """Everything that a server does with bytes of a stranger. Raises when something else than ParseError comes out."""
    source, socket = (UDP_PEER, HERE) if random.random() < 0.7 else (TCP_PEER, HERE_TCP)
    try:
        msg = parse_message(data, source, socket)
        validate_request(msg) if msg.is_request else validate_reply(msg)
    except ParseError as error:
        check_refusal(error)
        return
    touch(msg)
    if msg.is_request:
        check_request(msg)
    else:
        sent = build_forwarded_reply(msg, None, HERE_TCP)
        assert sent.endswith(msg.body)


def check_refusal(error: ParseError) -> None:
    """Each error with a status can be answered."""
    assert error.status == 0 or 400 <= error.status < 700
    if error.status:
        assert error.message is not None
        assert build_reply(error.message, error.status, to_tag="x").endswith(b"\r\n\r\n")
        reply_destination(error.message)
        touch(error.message)


def check_request(msg: Message) -> None:
    reply_destination(msg)
    sent = build_request(msg, None, msg.ruri, "SIP/2.0/UDP 198.51.100.1;branch=z9hG4bKx", HERE)
    again = parse_message(sent, UDP_PEER, HERE)
    assert again.body == msg.body
    assert len(again.headers) == len(msg.headers) + 1
    assert again.call_id == msg.call_id
    reply = parse_message(build_reply(msg, 486, to_tag="x"), UDP_PEER, HERE)
    assert reply.to_tag
    assert parse_message(build_ack(sent, reply), UDP_PEER, HERE).method == "ACK"
    assert parse_message(build_cancel(sent), UDP_PEER, HERE).cseq_number == msg.cseq_number
    edits = Edits()
    for header in msg.headers:
        if header.kind not in {H_FROM, H_CALL_ID}:
            edits.remove(header)
    edits.append("X-New: 1\r\n")
    edits.set_body(b"new", "text/plain")
    assert build_request(msg, edits, msg.ruri, "", HERE).endswith(b"\r\n\r\nnew")


def check_stream(data: bytes, random: Random) -> None:
    """Random cuts of a stream never exceed the limits, and never give more than went in."""
    framer = StreamFramer()
    position = 0
    out = 0
    try:
        while position < len(data):
            step = random.randint(1, 400)
            out += sum(len(frame) for frame in framer.feed(data[position : position + step]))
            position += step
            assert framer.pending <= DEFAULT_LIMITS.head + DEFAULT_LIMITS.body + 404
    except ParseError:
        return
    # A ping in two segments counts twice its second half.
    assert out <= 2 * len(data)


def check_text(data: bytes) -> None:
    text = data[:2000].decode("utf-8", "surrogateescape")
    for parser in (parse_uri, parse_name_addr_list, parse_via_list):
        try:
            parser(text)
        except ParseError:
            continue


def run(seed: int, seconds: float = 0.0, iterations: int = 0) -> int:
    """Fuzz for a time or a number of rounds; the number of rounds. Raises at the first finding."""
    random = Random(seed)
    end = time.monotonic() + seconds
    rounds = 0
    while (iterations and rounds < iterations) or (not iterations and time.monotonic() < end):
        data = mutate(random, random.choice(CORPUS))
        try:
            check(data, random)
            check_stream(data + random.choice(CORPUS), random)
            start = random.randrange(len(data) + 1)
            check_text(data[start : start + 200])
        except Exception as error:
            error.add_note(f"seed {seed}, round {rounds}: {data!r}")
            raise
        rounds += 1
    return rounds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    try:
        rounds = run(options.seed, seconds=options.seconds)
    except Exception:  # noqa: BLE001 - a finding of any kind is printed and ends with status 1
        traceback.print_exc()
        return 1
    print(f"{rounds} messages, no finding")
    return 0


if __name__ == "__main__":
    sys.exit(main())
