"""Changes of From, To and CSeq as notes on a message, and the way back for its replies."""

from __future__ import annotations

from typing import Final

from opensipspy.sip import H_CSEQ, Edits, Message, NameAddr, Note, Socket, is_token, quote

HIGHEST_CSEQ: Final = 2**31 - 1
LONGEST_DISPLAY: Final = 256


class AddressChange:
    """What From or To is to say; an Edits note finds it again when it is changed once more.

    header: "From" or "To". display: as it is written, quotes included; "" for none.
    """

    __slots__ = ("display", "header", "uri")

    def __init__(self, header: str, display: str, uri: str) -> None:
        self.header = header
        self.display = display
        self.uri = uri

    def __call__(self, in_socket: Socket, out_socket: Socket) -> str:
        return f"{self.display} <{self.uri}>" if self.display else f"<{self.uri}>"


class CseqChange:
    """How much is added to the number of CSeq."""

    __slots__ = ("number", "plus")

    def __init__(self, number: int, plus: int) -> None:
        self.number = number
        self.plus = plus

    def __call__(self, in_socket: Socket, out_socket: Socket) -> str:
        return str(self.number + self.plus)


def address(msg: Message, header: str) -> NameAddr:
    """From or To of a message. Raises ParseError."""
    return msg.from_ if header == "From" else msg.to


def address_range(msg: Message, found: NameAddr) -> tuple[int, int]:
    """Where display and URI stand in the head, with the brackets and without the parameters."""
    if not found.bracketed:
        return found.uri_start, found.uri_end
    return found.start, msg.head.index(">", found.uri_end) + 1


def display_text(text: str) -> str:
    """A display name as a header has it: a token or a quoted string stays, everything else is quoted."""
    text = text[:LONGEST_DISPLAY]
    if not text or is_token(text):
        return text
    inner = text[1:-1]
    quoted = len(text) >= 2 and text[0] == text[-1] == '"'
    if quoted and '"' not in inner and "\\" not in inner and "\r" not in inner and "\n" not in inner:
        return text
    return quote(inner.replace('\\"', '"') if quoted else text)


def _find(edits: Edits, kind: type, header: str = "") -> Note | None:
    """The innermost note of a kind of change, for one header."""
    at: Edits | None = edits
    while at is not None:
        for note in reversed(at.notes or ()):
            if isinstance(note.deferred, kind) and getattr(note.deferred, "header", "") == header:
                return note
        at = at.parent
    return None


def change_address(msg: Message, edits: Edits, header: str, display: str | None, uri: str) -> None:
    """Note another display (None keeps it) and another URI ("" keeps it). Raises ParseError."""
    found = address(msg, header)
    start, end = address_range(msg, found)
    note = _find(edits, AddressChange, header)
    if note is not None and isinstance(note.deferred, AddressChange):
        before = note.deferred
        edits.supersede(note, AddressChange(header, before.display if display is None else display, uri or before.uri))
        return
    if display is None:
        display = msg.head[start : found.uri_start - 1].strip() if found.bracketed else ""
    edits.replace(start, end, AddressChange(header, display, uri or found.uri))


def current_uri(msg: Message, edits: Edits, header: str) -> str:
    """The URI that From or To leaves with. Raises ParseError."""
    note = _find(edits, AddressChange, header)
    changed = note.deferred if note is not None else None
    return changed.uri if isinstance(changed, AddressChange) else address(msg, header).uri


def raise_cseq(msg: Message, edits: Edits, by: int) -> bool:
    """Note a higher CSeq number, on top of what was added before. False when there is no such number."""
    header = msg.first(H_CSEQ)
    number = msg.cseq_number
    note = _find(edits, CseqChange)
    before = note.deferred if note is not None else None
    plus = by + (before.plus if isinstance(before, CseqChange) else 0)
    if header is None or not 0 <= number + plus <= HIGHEST_CSEQ:
        return False
    if note is not None:
        edits.supersede(note, CseqChange(number, plus))
    else:
        start, end = cseq_range(msg)
        edits.replace(start, end, CseqChange(number, plus))
    return True


def cseq_plus(edits: Edits) -> int:
    """What is added to the number of CSeq."""
    note = _find(edits, CseqChange)
    change = note.deferred if note is not None else None
    return change.plus if isinstance(change, CseqChange) else 0


def cseq_range(msg: Message) -> tuple[int, int]:
    """Where the number of CSeq stands in the head."""
    header = msg.first(H_CSEQ)
    assert header is not None
    digits = len(msg.head[header.value_start : header.value_end].split(maxsplit=1)[0])
    return header.value_start, header.value_start + digits


class Original:
    """From, To and CSeq as the sender of a request wrote them, for replies; None for what was not changed."""

    __slots__ = ("cseq", "from_", "to")

    def __init__(self) -> None:
        self.from_: str | None = None
        self.to: str | None = None
        self.cseq: int | None = None

    def keep(self, msg: Message, header: str) -> None:
        """Remember one of "From", "To" and "CSeq" of a request. Raises ParseError."""
        if header == "CSeq":
            self.cseq = msg.cseq_number
            return
        start, end = address_range(msg, address(msg, header))
        if header == "From":
            self.from_ = msg.head[start:end]
        else:
            self.to = msg.head[start:end]

    def restore(self, reply: Message, edits: Edits) -> None:
        """Note the original in a reply (RFC 3261 §8.2.6.2: From and CSeq equal those of the request). Raises
        ParseError."""
        for header, text in (("From", self.from_), ("To", self.to)):
            if text is not None:
                start, end = address_range(reply, address(reply, header))
                if reply.head[start:end] != text:
                    edits.replace(start, end, text)
        if self.cseq is not None and reply.cseq_number != self.cseq:
            start, end = cseq_range(reply)
            edits.replace(start, end, str(self.cseq))
