"""Requests made here: their text, the ACK for their 2xx, and what management clients read about their replies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opensipspy import sip

if TYPE_CHECKING:
    from random import Random

    from opensipspy.sip import Message


def token(random: Random, bits: int = 96) -> str:
    """An unpredictable token for a Call-ID or a tag."""
    return f"{random.getrandbits(bits):0{bits // 4}x}"


def header_lines(text: str) -> list[tuple[str, str]]:
    """(name, value) of complete header lines; folded ones are joined. Raises ValueError for a line without a colon."""
    found: list[tuple[str, str]] = []
    for line in text.replace("\r\n", "\n").split("\n"):
        if not line.strip():
            continue
        if line[0] in " \t":
            if not found:
                raise ValueError("the first header line is a continuation")
            name, value = found[-1]
            found[-1] = (name, f"{value} {line.strip()}")
            continue
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise ValueError(f"{line[:40]!r} is no header line")
        found.append((name.strip(), value.strip()))
    return found


def split_headers(text: str) -> tuple[dict[str, str], str]:
    """Headers that a request must have once, by lower-case long name, and the text of all others."""
    once: dict[str, str] = {}
    rest: list[str] = []
    for name, value in header_lines(text):
        long_name = {"f": "from", "t": "to", "i": "call-id", "l": "content-length"}.get(name.lower(), name.lower())
        if long_name in ("from", "to", "call-id", "cseq", "content-length", "max-forwards"):
            once[long_name] = value
        else:
            rest.append(f"{name}: {value}\r\n")
    return once, "".join(rest)


def with_tag(value: str, tag: str) -> str:
    """A From value with a tag; one that has a tag is left alone."""
    parsed = sip.parse_name_addr(value)
    if parsed.tag:
        return value
    if "<" not in value:
        value = f"<{value}>"
    return f"{value};tag={tag}"


def request_text(
    method: str, ruri: str, from_: str, to: str, call_id: str, cseq: int, headers: str, body: bytes, via: str
) -> bytes:
    """A complete request; `via` is the value of its only Via header."""
    head = (
        f"{method} {ruri} SIP/2.0\r\nVia: {via}\r\nFrom: {from_}\r\nTo: {to}\r\nCall-ID: {call_id}\r\n"
        f"CSeq: {cseq} {method}\r\nMax-Forwards: 70\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("utf-8", "surrogateescape") + body


def ack_for_2xx(request: Message, reply: Message, via: str) -> tuple[bytes, str]:
    """The ACK for a 2xx to our INVITE and the URI to send it to (RFC 3261 section 13.2.2.4, 12.2.1.1)."""
    remote = reply.contacts[0].uri if reply.contacts else request.ruri
    # The reply lists the proxies from the far end back to us.
    routes = list(reversed(reply.record_routes))
    ruri = remote
    hop = remote
    lines: list[str] = [f"Route: <{address.uri}>\r\n" for address in routes]
    if routes:
        hop = routes[0].uri
        if not sip.parse_uri(hop).lr:  # a strict router wants itself in the Request-URI
            ruri = hop
            lines = [*lines[1:], f"Route: <{remote}>\r\n"]
    from_ = request.first(sip.H_FROM)
    to = reply.first(sip.H_TO)
    text = (
        f"ACK {ruri} SIP/2.0\r\nVia: {via}\r\n{''.join(lines)}From: {from_.value if from_ else ''}\r\n"
        f"To: {to.value if to else ''}\r\nCall-ID: {request.call_id}\r\nCSeq: {request.cseq_number} ACK\r\n"
        "Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    )
    return text.encode("utf-8", "surrogateescape"), hop


def is_token(method: str) -> bool:
    """Whether a text can be a method (RFC 3261 section 25.1), of a sane length."""
    return 0 < len(method) <= 32 and method.isascii() and all(c.isalnum() or c in "-.!%*_+`'~" for c in method)


def name_addr(text: str) -> str:
    """A header value from "[display ]URI"."""
    display, _, uri = text.strip().rpartition(" ")
    uri = uri.strip("<>")
    sip.parse_uri(uri)
    if not display:
        return f"<{uri}>"
    return f'"{display.strip(chr(34))}" <{uri}>'
