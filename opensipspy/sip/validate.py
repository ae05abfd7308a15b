"""What a request must have before a proxy works on it (RFC 3261 §8.1.1, §16.3), beyond the syntax of its lines."""

from __future__ import annotations

from typing import Final

from opensipspy.sip.errors import DROP, ParseError
from opensipspy.sip.message import Message, salvage_via
from opensipspy.sip.tables import (
    H_CALL_ID,
    H_CSEQ,
    H_FROM,
    H_MAX_FORWARDS,
    H_TO,
    HEADER_NAMES,
    M_ACK,
    M_OTHER,
)

# What stands exactly once in every message.
_MANDATORY: Final = (H_FROM, H_TO, H_CALL_ID, H_CSEQ)


def validate_request(msg: Message) -> None:
    """Check the headers that routing rests on; ParseError with the status the sender deserves.

    Via parses; From, To, Call-ID and CSeq stand exactly once and parse; the method of CSeq is the request's; the
    Request-URI parses (400) and has a scheme that can be routed or names a service (416); Max-Forwards is 0 to 255 and
    stands once. After it `via`, `uri`, `from_`, `to`, `call_id`, `cseq_*` and `max_forwards` of the message raise
    nothing. A Max-Forwards of 0 (483), Proxy-Require (420) and loops are for the script and the proxy to judge.
    """
    try:
        _check_request(msg)
    except ParseError as error:
        if error.status == DROP or msg.method_id == M_ACK or not salvage_via(msg):
            error.status = DROP
        else:
            error.message = msg
        raise


def _check_request(msg: Message) -> None:
    if not msg.read_usual():
        _check_mandatory(msg)
    if msg.cseq_method != msg.method:
        # RFC 4475 §3.1.2.18: a method that nobody knows is refused as such.
        status = 501 if msg.method_id == M_OTHER else 400
        raise ParseError("method of CSeq is not the method of the request", 0, status)
    if msg._repeated >> H_MAX_FORWARDS & 1:
        raise ParseError("more than one Max-Forwards")
    msg.max_forwards  # noqa: B018
    uri = msg.uri
    if uri.headers:
        # RFC 3261 §19.1.1: headers have no place in a Request-URI, and must not slip into a forwarded one.
        raise ParseError("Request-URI with headers", msg.ruri_start)
    scheme = uri.scheme
    # A service (urn:service:sos is the emergency call, RFC 5031) has a host: where it goes is for the script to say.
    if scheme != "sip" and scheme != "sips" and scheme != "tel" and not uri.host:
        raise ParseError("unsupported URI scheme", msg.ruri_start, 416)


def _check_mandatory(msg: Message) -> None:
    msg.via  # noqa: B018 - parsed here so that nothing later meets a broken one
    for kind in _MANDATORY:
        if not msg.has(kind):
            raise ParseError("no " + HEADER_NAMES[kind])
        if msg._repeated >> kind & 1:
            raise ParseError("more than one " + HEADER_NAMES[kind])
    if not msg.call_id:
        raise ParseError("Call-ID is empty")
    msg.from_  # noqa: B018
    msg.to  # noqa: B018


def validate_reply(msg: Message) -> None:
    """Check the headers that a reply is matched by; ParseError, whose status is always DROP."""
    if msg.read_usual():
        return
    try:
        for kind in _MANDATORY:
            if msg._repeated >> kind & 1 or not msg.has(kind):
                raise ParseError("not exactly one " + HEADER_NAMES[kind])
        msg.via  # noqa: B018
        msg.from_  # noqa: B018
        msg.to  # noqa: B018
        msg.cseq_number  # noqa: B018
    except ParseError as error:
        error.status = DROP
        raise
