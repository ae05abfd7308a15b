"""What a request must have before a proxy works on it (RFC 3261 §8.1.1, §16.3), beyond the syntax of its lines."""

from __future__ import annotations

from opensipspy.sip.errors import DROP, ParseError
from opensipspy.sip.message import Message
from opensipspy.sip.tables import (
    H_CALL_ID,
    H_CSEQ,
    H_FROM,
    H_MAX_FORWARDS,
    H_TO,
    H_VIA,
    HEADER_NAMES,
    M_ACK,
)


def validate_request(msg: Message) -> None:
    """Check the headers that routing rests on; ParseError with the status the sender deserves.

    Via parses; From, To, Call-ID and CSeq stand exactly once and parse; the method of CSeq is the request's; the
    Request-URI parses (400) and has a scheme that can be routed (416); Max-Forwards is 0 to 255 and stands once. After
    it `via`, `uri`, `from_`, `to`, `call_id`, `cseq_*` and `max_forwards` of the message raise nothing. A Max-Forwards
    of 0 (483), Proxy-Require (420) and loops are for the script and the proxy to judge.
    """
    try:
        _check_request(msg)
    except ParseError as error:
        if error.status == DROP or msg.method_id == M_ACK:
            error.status = DROP
        else:
            error.message = msg
        raise


def _check_request(msg: Message) -> None:
    kinds = msg._kinds
    if H_VIA not in kinds:
        raise ParseError("no Via", 0, DROP)
    _check_via(msg)
    for kind in (H_FROM, H_TO, H_CALL_ID, H_CSEQ):
        count = kinds.count(kind)
        if count != 1:
            if count == 0:
                # Without it no reply can be built that the sender would recognise.
                raise ParseError("no " + HEADER_NAMES[kind], 0, DROP)
            raise ParseError("more than one " + HEADER_NAMES[kind])
    if not msg.call_id:
        raise ParseError("Call-ID is empty")
    msg.from_  # noqa: B018 - parsed here so that nothing later meets a broken one
    msg.to  # noqa: B018
    if msg.cseq_method != msg.method:
        raise ParseError("method of CSeq is not the method of the request")
    if H_MAX_FORWARDS in kinds:
        if kinds.count(H_MAX_FORWARDS) > 1:
            raise ParseError("more than one Max-Forwards")
        msg.max_forwards  # noqa: B018
    scheme = msg.uri.scheme
    if scheme != "sip" and scheme != "sips" and scheme != "tel":
        raise ParseError("unsupported URI scheme", msg.ruri_start, 416)


def _check_via(msg: Message) -> None:
    try:
        via = msg.via
    except ParseError as error:
        # The way back is what cannot be read.
        error.status = DROP
        raise
    if not via.host:
        raise ParseError("Via without a host", via.start, DROP)


def validate_reply(msg: Message) -> None:
    """Check the headers that a reply is matched by; ParseError, whose status is always DROP."""
    try:
        kinds = msg._kinds
        for kind in (H_FROM, H_TO, H_CALL_ID, H_CSEQ):
            if kinds.count(kind) != 1:
                raise ParseError("not exactly one " + HEADER_NAMES[kind])
        msg.via  # noqa: B018
        msg.from_  # noqa: B018
        msg.to  # noqa: B018
        msg.cseq_number  # noqa: B018
    except ParseError as error:
        error.status = DROP
        raise
