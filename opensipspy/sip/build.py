"""Bytes from messages: forwarded requests and replies, replies of our own, hop-by-hop ACK and CANCEL."""

from __future__ import annotations

from typing import Final

from opensipspy.sip.edits import Edits, Note, apply_notes
from opensipspy.sip.endpoints import PROTO_UDP, Peer, Socket, default_port, proto_number
from opensipspy.sip.errors import ParseError
from opensipspy.sip.message import Message, parse_message
from opensipspy.sip.tables import (
    H_CALL_ID,
    H_CONTENT_LENGTH,
    H_CONTENT_TYPE,
    H_CSEQ,
    H_FROM,
    H_RECORD_ROUTE,
    H_ROUTE,
    H_TIMESTAMP,
    H_TO,
    H_VIA,
    M_INVITE,
    M_NOTIFY,
    M_REFER,
    M_SUBSCRIBE,
    reason_phrase,
)
from opensipspy.sip.via import RPORT_ABSENT, Via

# Requests whose 101 to 299 replies carry the Record-Route set back (RFC 3261 §12.1.1, RFC 6665, RFC 3515).
_DIALOG_METHODS: Final = M_INVITE | M_SUBSCRIBE | M_REFER | M_NOTIFY
# 1 for each kind that a reply has of its request (RFC 3261 §8.2.6.1, §8.2.6.2), some of it in some replies only.
_COPIED: Final = bytes(
    kind in (H_VIA, H_FROM, H_TO, H_CALL_ID, H_CSEQ, H_RECORD_ROUTE, H_TIMESTAMP) for kind in range(256)
)
_HOP_COPIED: Final = (H_FROM, H_CALL_ID, H_ROUTE)
_SPACE: Final = 32
_DELETE: Final = 127
_MAX_FORWARDS: Final = "Max-Forwards: 70\r\n"


def received_via(msg: Message) -> str:
    """The top Via of a request with `received` and `rport` filled in (RFC 3261 §18.2.1, RFC 3581).

    The same text as received when nothing has to be added.
    """
    found = msg.via_text
    if found is not None:
        return found
    via = msg.via
    received = text = msg.head[via.start : via.end]
    source = msg.source
    asked = via.rport != RPORT_ABSENT or msg.force_rport
    if asked:
        if not via.received:
            rport = text.find(";rport")
            after = rport + 6
            if rport < 0 and via.rport == RPORT_ABSENT:
                text = f"{text};rport={source.port};received={source.address}"
            elif rport >= 0 and (after == len(text) or text[after] == ";") and '"' not in text:
                text = f"{text[:after]}={source.port};received={source.address}{text[after:]}"
            else:
                text = _rebuilt_via(via, source, True)
        else:
            text = _rebuilt_via(via, source, True)
    elif via.received:
        if via.received != source.address:
            text = _rebuilt_via(via, source, False)
    elif via.host != source.address:
        text = text + ";received=" + source.address
    msg.via_text = text
    msg.via_changed = text is not received
    return text


def _rebuilt_via(via: Via, source: Peer, with_rport: bool) -> str:
    pieces = ["SIP/2.0/", via.transport, " ", via.host_text]
    if via.port:
        pieces.append(":" + str(via.port))
    params = via.param_list()
    for i in range(0, len(params), 2):
        name = params[i]
        if name == "received" or (name == "rport" and with_rport):
            continue
        pieces.append(";" + name)
        if params[i + 1]:
            pieces.append("=" + params[i + 1])
    if with_rport:
        pieces.append(";rport=" + str(source.port))
    pieces.append(";received=" + source.address)
    return "".join(pieces)


def reply_destination(msg: Message) -> Peer:
    """Where a reply goes (RFC 3261 §18.2.2, RFC 3581 §4).

    For a request: back to its sender, by the same connection when there is one. For a reply on its way upstream: to its
    second Via; the address may be a name then. ParseError when there is no second Via.
    """
    if msg.is_request:
        source = msg.source
        if source.proto != PROTO_UDP:
            return source
        via = msg.via
        if via.rport != RPORT_ABSENT or msg.force_rport:
            return source
        maddr = via.param("maddr")
        port = via.port or default_port(PROTO_UDP)
        if not maddr and port == source.port:
            return source
        return Peer(PROTO_UDP, maddr.strip("[]") if maddr else source.address, port)
    vias = msg.vias
    if len(vias) < 2:
        raise ParseError("no second Via to follow", 0, 0)
    via = vias[1]
    proto = proto_number(via.transport)
    maddr = via.param("maddr")
    if proto == PROTO_UDP and maddr:
        address = maddr
    else:
        address = via.received or via.host
    port = via.rport if via.rport > 0 else via.port or default_port(proto)
    return Peer(proto, address.strip("[]"), port)


def _encoded(pieces: list[str], body: bytes) -> bytes:
    head = "".join(pieces).encode("utf-8", "surrogateescape")
    return head + body if body else head


def _length_line(msg: Message, out_socket: Socket) -> str:
    """The Content-Length line that an unchanged body lacks: a stream needs one (RFC 3261 §20.14), a datagram not."""
    if out_socket.proto != PROTO_UDP and not msg.has(H_CONTENT_LENGTH):
        return f"Content-Length: {len(msg.body)}\r\n"
    return ""


def _body_notes(msg: Message, body: bytes, kind: str | None, notes: list[Note]) -> bytes:
    """Notes that make Content-Type and Content-Length fit the new body; they come after the script's own."""
    if not body:
        kind = ""
    if kind is not None:
        types = msg.all(H_CONTENT_TYPE)
        line = "Content-Type: " + kind + "\r\n" if kind else ""
        if types:
            notes.append(Note(types[0].start, types[0].end, line, None))
        elif line:
            notes.append(Note(-1, -1, line, None))
    lengths = msg.all(H_CONTENT_LENGTH)
    line = f"Content-Length: {len(body)}\r\n"
    if lengths:
        notes.append(Note(lengths[0].start, lengths[0].end, line, None))
        for header in lengths[1:]:
            notes.append(Note(header.start, header.end, "", None))
    else:
        notes.append(Note(-1, -1, line, None))
    return body


def build_request(msg: Message, edits: Edits | None, ruri: str, via: str, out_socket: Socket) -> bytes:
    """A copy of a request as it leaves.

    via: the value of the new top Via ("SIP/2.0/UDP host:port;branch=..."), "" for none. The Via of the previous hop
    gets received and rport where it must. Everything that is not noted in `edits` leaves as it came.
    """
    head = msg.head
    top = msg.via
    fixed = received_via(msg)
    if edits is None or not edits.changes():
        pieces = [msg.method, " ", ruri]
        if via:
            pieces.append(" SIP/2.0\r\nVia: ")
            pieces.append(via)
            pieces.append("\r\n")
        else:
            pieces.append(" SIP/2.0\r\n")
        pieces.append(head[msg.first_line_end : top.start])
        pieces.append(fixed)
        pieces.append(head[top.end :])
        pieces.append(_length_line(msg, out_socket))
        pieces.append("\r\n")
        return _encoded(pieces, msg.body)
    notes = edits.all_notes()
    changed = edits.new_body()
    body = msg.body if changed is None else _body_notes(msg, changed, edits.content_type, notes)
    if msg.via_changed:
        notes.insert(0, Note(top.start, top.end, fixed, None))
    start = f"{msg.method} {ruri} SIP/2.0\r\n"
    if via:
        start = f"{start}Via: {via}\r\n"
    tail = _length_line(msg, out_socket) + "\r\n" if changed is None else "\r\n"
    return _encoded([start, apply_notes(msg, notes, msg.socket, out_socket), tail], body)


def build_forwarded_reply(msg: Message, edits: Edits | None, out_socket: Socket) -> bytes:
    """A copy of a reply as it leaves upstream: without its top Via, with edits applied."""
    head = msg.head
    cut_start, cut_end = msg.top_via_cut()
    start = msg.status_line or head[: msg.first_line_end]
    if edits is None or not edits.changes():
        before = head[msg.first_line_end : cut_start]
        return _encoded([start, before, head[cut_end:], _length_line(msg, out_socket), "\r\n"], msg.body)
    notes = edits.all_notes()
    changed = edits.new_body()
    body = msg.body if changed is None else _body_notes(msg, changed, edits.content_type, notes)
    notes.insert(0, Note(cut_start, cut_end, "", None))
    tail = _length_line(msg, out_socket) + "\r\n" if changed is None else "\r\n"
    return _encoded([start, apply_notes(msg, notes, msg.socket, out_socket), tail], body)


def build_reply(
    msg: Message,
    status: int,
    reason: str = "",
    to_tag: str = "",
    headers: str = "",
    body: bytes = b"",
    content_type: str = "",
    server: str = "",
) -> bytes:
    """A reply of our own to a request (RFC 3261 §8.2.6).

    reason: "" for the usual phrase. to_tag: added when To has none and the status is above 100. headers: further lines,
    each with its CRLF. server: the value of Server, "" for none. Also works for a request that is broken elsewhere, as
    long as it has the headers that are copied.
    """
    pieces = [f"SIP/2.0 {status} {reason or reason_phrase(status)}\r\n"]
    record_routes = 100 < status < 300 and (msg.method_id & _DIALOG_METHODS) != 0
    seen = 0
    head = msg.head
    top = msg.via
    kinds = msg._kinds
    starts = msg.starts()
    # What is copied as it came and not yet among the pieces: neighbours are copied together.
    begin = stop = msg.first_line_end
    for i in range(len(kinds)):
        kind = kinds[i]
        if not _COPIED[kind]:
            continue
        start = starts[i]
        if kind == H_VIA:
            if not seen & 1:
                seen |= 1
                fixed = received_via(msg)
                if msg.via_changed:
                    if start != stop:
                        pieces.append(head[begin:stop])
                        begin = start
                    pieces.append(head[begin : top.start])
                    pieces.append(fixed)
                    begin = top.end
                    stop = starts[i + 1]
                    continue
        elif kind in (H_FROM, H_CALL_ID, H_CSEQ):
            if seen & (1 << kind):
                continue
            seen |= 1 << kind
        elif kind == H_TO:
            if seen & (1 << kind):
                continue
            seen |= 1 << kind
            if to_tag and status > 100:
                cut = _tag_place(msg, i)
                if cut >= 0:
                    if start != stop:
                        pieces.append(head[begin:stop])
                        begin = start
                    pieces.append(head[begin:cut])
                    pieces.append(";tag=")
                    pieces.append(to_tag)
                    stop = starts[i + 1]
                    begin = stop - 2
                    continue
        elif (kind != H_RECORD_ROUTE or not record_routes) and (kind != H_TIMESTAMP or status != 100):
            continue
        if start != stop:
            pieces.append(head[begin:stop])
            begin = start
        stop = starts[i + 1]
    pieces.append(head[begin:stop])
    if headers:
        pieces.append(headers)
    if server:
        pieces.append("Server: ")
        pieces.append(server)
        pieces.append("\r\n")
    if body:
        if content_type:
            pieces.append("Content-Type: " + content_type + "\r\n")
        pieces.append(f"Content-Length: {len(body)}\r\n\r\n")
    else:
        pieces.append("Content-Length: 0\r\n\r\n")
    return _encoded(pieces, body)


def _tag_place(msg: Message, index: int) -> int:
    """Where a tag is to be put in the To at `index`; -1 when it has one."""
    try:
        if msg.to.tag:
            return -1
    except ParseError:
        # A To that cannot be read goes back as it came: the reply says 400 anyway.
        return -1
    starts = msg.starts()
    start = starts[index]
    end = starts[index + 1] - 2
    last = ord(msg.head[end - 1])
    if _SPACE < last < _DELETE:
        return end
    return start + len(msg.head[start:end].rstrip())


def _sent(request: bytes | Message) -> Message:
    if isinstance(request, Message):
        return request
    here = Socket(PROTO_UDP, "0.0.0.0", 0)
    return parse_message(request, Peer(PROTO_UDP, "0.0.0.0", 0), here)


def _hop_request(request: Message, method: str, to_line: str, headers: str) -> bytes:
    head = request.head
    kinds = request._kinds
    starts = request.starts()
    via = request.via
    pieces = [method, " ", request.ruri, " SIP/2.0\r\nVia: ", head[via.start : via.end], "\r\n"]
    for i in range(len(kinds)):
        kind = kinds[i]
        if kind in _HOP_COPIED:
            pieces.append(head[starts[i] : starts[i + 1]])
        elif kind == H_TO:
            pieces.append(to_line or head[starts[i] : starts[i + 1]])
    pieces.append(f"CSeq: {request.cseq_number} {method}\r\n")
    pieces.append(_MAX_FORWARDS)
    pieces.append(headers)
    pieces.append("Content-Length: 0\r\n\r\n")
    return _encoded(pieces, b"")


def build_ack(request: bytes | Message, reply: Message, headers: str = "") -> bytes:
    """The ACK for a final reply above 299 of an INVITE that we sent (RFC 3261 §17.1.1.3).

    request: the INVITE as it left. Its top Via, From, Call-ID, Route and Request-URI, the To of the reply.
    """
    to = reply.first(H_TO)
    line = reply.head[to.start : to.end] if to is not None else ""
    return _hop_request(_sent(request), "ACK", line, headers)


def build_cancel(request: bytes | Message, headers: str = "") -> bytes:
    """The CANCEL of a request that we sent (RFC 3261 §9.1). request: as it left. headers: lines such as Reason."""
    return _hop_request(_sent(request), "CANCEL", "", headers)


def shorten_sent(request: bytes) -> bytes:
    """What build_ack() and build_cancel() need of a request as it left; it cannot be sent again."""
    sent = _sent(request)
    return _hop_request(sent, sent.method, "", "")
