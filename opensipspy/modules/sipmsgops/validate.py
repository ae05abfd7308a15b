"""Whether a message keeps to RFC 3261: the headers it has to have, and their form where that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Final

from opensipspy.module import Fixup, script_function
from opensipspy.script.declare import VarRef
from opensipspy.script.kinds import BRANCH, FAILURE, ONREPLY, REQUEST
from opensipspy.script.run import Run
from opensipspy.sip import (
    H_ALLOW,
    H_CALL_ID,
    H_CONTACT,
    H_CONTENT_LENGTH,
    H_CONTENT_TYPE,
    H_CSEQ,
    H_FROM,
    H_MAX_FORWARDS,
    H_MIN_EXPIRES,
    H_PATH,
    H_PROXY_AUTHENTICATE,
    H_RECORD_ROUTE,
    H_ROUTE,
    H_TO,
    H_UNSUPPORTED,
    H_VIA,
    H_WWW_AUTHENTICATE,
    M_CANCEL,
    M_INVITE,
    M_NOTIFY,
    M_REFER,
    M_REGISTER,
    M_SUBSCRIBE,
    M_UPDATE,
    PROTO_UDP,
    Message,
    ParseError,
    Uri,
    parse_uri,
)

from .sdp import Session

if TYPE_CHECKING:
    from opensipspy.module import Core

CHECK_SDP: Final = 1
CHECK_HEADERS: Final = 2
NO_MAX_FORWARDS: Final = 4
CHECK_RURI: Final = 8
CHECK_FROM: Final = 16
CHECK_TO: Final = 32
CHECK_CONTACT: Final = 64
FLAGS: Final = {
    "s": CHECK_SDP,
    "h": CHECK_HEADERS,
    "m": NO_MAX_FORWARDS,
    "r": CHECK_RURI,
    "f": CHECK_FROM,
    "t": CHECK_TO,
    "c": CHECK_CONTACT,
}

# Requests and 2xx replies whose Contact is mandatory (RFC 3261 table 2, RFC 6665, 3311, 3515).
CONTACT_IN_REQUESTS: Final = M_INVITE | M_SUBSCRIBE | M_NOTIFY | M_UPDATE | M_REFER
CONTACT_IN_REPLIES: Final = M_INVITE | M_SUBSCRIBE | M_UPDATE
# RFC 3261 §25.1 user: unreserved, user-unreserved and the percent of an escape; no quotes, no brackets.
USER_MARKS: Final = frozenset("-_.!~*'()&=+$,;?/%#")
HOST_MARKS: Final = frozenset("-._:[]")

# What each reply has to carry (RFC 3261 §21.4): status -> (header, code, words).
IN_REPLIES: Final = {
    405: (H_ALLOW, -16, "no Allow header in a 405 reply"),
    423: (H_MIN_EXPIRES, -17, "no Min-Expires header in a 423 reply"),
    407: (H_PROXY_AUTHENTICATE, -18, "no Proxy-Authenticate header in a 407 reply"),
    420: (H_UNSUPPORTED, -19, "no Unsupported header in a 420 reply"),
    401: (H_WWW_AUTHENTICATE, -20, "no WWW-Authenticate header in a 401 reply"),
}
MANDATORY: Final = (
    (H_CALL_ID, -3, "no Call-ID header"),
    (H_CSEQ, -7, "no CSeq header"),
    (H_FROM, -8, "no From header"),
    (H_TO, -9, "no To header"),
    (H_VIA, -10, "no Via header"),
)


class Invalid(Exception):
    """What is wrong: the code for the script, and words."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def validation_flags(text: str) -> int:
    """sipmsg_validate's flags as a mask."""
    mask = 0
    for letter in text.lower():
        if letter not in FLAGS:
            raise ValueError(f'"{letter}" is no flag: those are {", ".join(FLAGS)}')
        mask |= FLAGS[letter]
    return mask


def validate(msg: Message, flags: int) -> None:
    """Raises Invalid at the first thing that is wrong."""
    for kind, code, reason in MANDATORY:
        if msg.first(kind) is None:
            raise Invalid(code, reason)
    _check_length(msg)
    if msg.method_id != M_CANCEL and msg.body:
        if msg.first(H_CONTENT_TYPE) is None:
            raise Invalid(-21, "no Content-Type header")
        if flags & CHECK_SDP and msg.content_type.partition(";")[0].strip().lower() == "application/sdp":
            _check_sdp(msg.body)
    if flags & CHECK_HEADERS:
        _check_headers(msg)
    if flags & CHECK_TO:
        _check_address(msg, H_TO, (-22, -23, -29), "To")
    if flags & CHECK_FROM:
        _check_address(msg, H_FROM, (-24, -25, -28), "From")
    if msg.is_request:
        _check_request(msg, flags)
    else:
        _check_reply(msg, flags)


def _check_request(msg: Message, flags: int) -> None:
    if flags & CHECK_RURI:
        _check_uri(msg.ruri, (-11, -12, -27), "the Request-URI")
    if not flags & NO_MAX_FORWARDS and msg.first(H_MAX_FORWARDS) is None:
        raise Invalid(-13, "no Max-Forwards header")
    _check_contact(msg, flags, bool(msg.method_id & CONTACT_IN_REQUESTS))
    if msg.method_id != M_REGISTER and msg.first(H_PATH) is not None:
        raise Invalid(-15, "Path header in a request that is no REGISTER")


def _check_reply(msg: Message, flags: int) -> None:
    needed = IN_REPLIES.get(msg.status)
    if needed is not None and msg.method_id != M_CANCEL and not (msg.status == 423 and msg.method_id != M_REGISTER):
        kind, code, reason = needed
        if msg.first(kind) is None:
            raise Invalid(code, reason)
    _check_contact(msg, flags, msg.status // 100 == 2 and bool(msg.method_id & CONTACT_IN_REPLIES))


def _check_length(msg: Message) -> None:
    if msg.first(H_CONTENT_LENGTH) is None:
        if msg.source.proto != PROTO_UDP:
            raise Invalid(-4, "no Content-Length header")
        return
    try:
        length = msg.content_length
    except ParseError as error:
        raise Invalid(-5, error.reason) from error
    # RFC 3261 §18.3: bytes after the body of a datagram were dropped when it was read; missing ones were refused.
    if length != len(msg.body):
        raise Invalid(-5, f"Content-Length is {length}, the body has {len(msg.body)} bytes")


def _check_sdp(body: bytes) -> None:
    try:
        session = Session(body)
    except ValueError as error:
        raise Invalid(-6, f"session description: {error}") from error
    for line in [*session.session, *(line for stream in session.streams for line in stream.lines)]:
        if len(line) < 2 or line[1] != "=" or not line[0].isalpha():
            raise Invalid(-6, f"session description: {line[:40]!r} is no line of one")
    types = {line[0] for line in session.session}
    for wanted in "vos":
        if wanted not in types:
            raise Invalid(-6, f"session description: no {wanted}= line")
    for stream in session.streams:
        if not stream.formats or not stream.port.partition("/")[0].isdigit():
            raise Invalid(-6, "session description: unreadable m= line")


def _check_headers(msg: Message) -> None:
    readers: tuple[tuple[str, Callable[[], object]], ...] = (
        ("Via", lambda: msg.vias),
        ("From", lambda: msg.from_),
        ("To", lambda: msg.to),
        ("CSeq", lambda: msg.cseq_number),
        ("Contact", lambda: msg.contacts),
        ("Max-Forwards", lambda: msg.max_forwards),
        ("Expires", lambda: msg.expires),
        ("Route", lambda: msg.routes if msg.first(H_ROUTE) else None),
        ("Record-Route", lambda: msg.record_routes if msg.first(H_RECORD_ROUTE) else None),
    )
    for name, read in readers:
        try:
            read()
        except ParseError as error:
            raise Invalid(-2, f"{name}: {error.reason}") from error


def _check_address(msg: Message, kind: int, codes: tuple[int, int, int], name: str) -> None:
    try:
        address = msg.to if kind == H_TO else msg.from_
    except ParseError as error:
        raise Invalid(codes[0], f"{name}: {error.reason}") from error
    _check_uri(address.uri, codes, name)


def _check_uri(text: str, codes: tuple[int, int, int], name: str) -> Uri:
    try:
        uri = parse_uri(text)
    except ParseError as error:
        raise Invalid(codes[0], f"{name}: {error.reason}") from error
    if uri.scheme in ("sip", "sips"):
        if not all(c.isascii() and (c.isalnum() or c in HOST_MARKS) for c in uri.host) or uri.host.startswith(
            ("-", ".")
        ):
            raise Invalid(codes[1], f"{name}: bad host")
        if not all(c.isascii() and (c.isalnum() or c in USER_MARKS) for c in uri.user):
            raise Invalid(codes[2], f"{name}: bad user")
    return uri


def _check_contact(msg: Message, flags: int, needed: bool) -> None:
    if msg.first(H_CONTACT) is None:
        if needed:
            raise Invalid(-14, "no Contact header")
        return
    if not flags & CHECK_CONTACT:
        return
    try:
        if msg.contact_star:
            if not msg.is_request or msg.method_id != M_REGISTER:
                raise Invalid(-30, "Contact is * in a message that is no REGISTER")
            if msg.expires != 0:
                raise Invalid(-26, "Contact is * in a REGISTER that does not remove (Expires is not 0)")
            return
        contacts = msg.contacts
    except ParseError as error:
        raise Invalid(-26, f"Contact: {error.reason}") from error
    for contact in contacts:
        try:
            parse_uri(contact.uri)
        except ParseError as error:
            raise Invalid(-26, f"Contact: {error.reason}") from error


class ValidateFunctions:
    """The part of sipmsgops that judges messages."""

    core: Core

    @script_function(routes=REQUEST | FAILURE | ONREPLY | BRANCH)
    def sipmsg_validate(
        self,
        run: Run,
        flags: Annotated[int | None, Fixup(validation_flags, "string")] = None,
        result_pvar: VarRef | None = None,
    ) -> int:
        """Check the message against RFC 3261; the first mistake's words go into `result_pvar`.

        flags: "s" the SDP body, "h" the form of headers, "r" Request-URI, "f" From, "t" To, "c" Contact, "m" no
        Max-Forwards needed. Returns 1, or a code of the manual from -1 to -30 for what is wrong.
        """
        try:
            validate(run.msg, flags or 0)
        except Invalid as invalid:
            self.core.log.info("sipmsgops: invalid message from %s: %s", run.msg.source.text, invalid.reason)
            if result_pvar is not None:
                result_pvar.set(run, invalid.reason)
            return invalid.code
        except ParseError as error:
            if result_pvar is not None:
                result_pvar.set(run, error.reason)
            return -2
        if result_pvar is not None:
            result_pvar.set(run, "")
        return 1
