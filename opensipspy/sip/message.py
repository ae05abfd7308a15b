"""One SIP message as it arrived (RFC 3261 §7).

The head is decoded once, cut into lines once, and never changes. A header is a place in it: its kind and where it
starts. Everything else (values, Via, addresses, numbers) is parsed on first use and kept. Text is UTF-8 with
surrogateescape, so that octets which are not UTF-8 leave as they came.

Structured headers are parsed in `flat`, a copy of the head of the same length in which folded lines are joined by
spaces; without folding it is the head itself. So every offset fits both, and the head of a forwarded message is joined
from slices of what was received.
"""

from __future__ import annotations

from typing import Any, Final

from mypy_extensions import mypyc_attr

from opensipspy.sip.digest import Credentials, parse_credentials
from opensipspy.sip.endpoints import PROTO_TCP, PROTO_TLS, PROTO_UDP, Peer, Socket
from opensipspy.sip.errors import DEFAULT_LIMITS, DROP, Limits, ParseError
from opensipspy.sip.memo import NO_LAYOUTS, Layout, Memo
from opensipspy.sip.nameaddr import NameAddr, name_addr_in, name_addrs_in, usual_name_addr
from opensipspy.sip.shape import Shape
from opensipspy.sip.tables import (
    COMPACT_NAMES,
    H_CALL_ID,
    H_CONTACT,
    H_CONTENT_LENGTH,
    H_CONTENT_TYPE,
    H_CSEQ,
    H_EXPIRES,
    H_FROM,
    H_MAX_FORWARDS,
    H_OTHER,
    H_PATH,
    H_RECORD_ROUTE,
    H_ROUTE,
    H_TO,
    H_USER_AGENT,
    H_VIA,
    HEADER_NAMES,
    M_ACK,
    M_INVITE,
    M_OTHER,
    METHOD_IDS,
    SPELLINGS,
    header_kind,
)
from opensipspy.sip.text import SPACES, USUAL_NUMBERS, find_unquoted, is_token, number, small_number
from opensipspy.sip.uri import Uri, parse_uri
from opensipspy.sip.via import Via, broken_via_in, known_via, via_in, vias_in

ABSENT: Final = -1
_UNREAD: Final = -2
_SPACE: Final = 32
_AFTER_NAME: Final = ": \t"
# More than Max-Forwards can say.
_TOO_MANY: Final = 256
# What stands once in every message, as bits.
_ONCE: Final = 1 << H_FROM | 1 << H_TO | 1 << H_CALL_ID | 1 << H_CSEQ
_HIGHEST_CSEQ: Final = 2147483647
_HIGHEST_32: Final = 4294967295


@mypyc_attr(acyclic=True)
class Header:
    """One header of a message: where it is, and what it says.

    name: as received. kind: H_... value: without folding and outer white space. start, end: of the whole header, its
    folded lines and last CRLF included. value_start, value_end: of the value, outer white space left out.
    """

    __slots__ = ("end", "kind", "name", "start", "value", "value_end", "value_start")

    def __init__(
        self, name: str, kind: int, value: str, start: int, end: int, value_start: int, value_end: int
    ) -> None:
        self.name: str = name
        self.kind: int = kind
        self.value: str = value
        self.start: int = start
        self.end: int = end
        self.value_start: int = value_start
        self.value_end: int = value_end

    def __repr__(self) -> str:
        return f"Header({self.name}: {self.value})"


# Places that are not known yet, of messages that are not read or were told to forget.
_NO_PLACES: Final[list[int]] = []
# Kinds up to this one have the place of their first header in a list of their own: what nearly every message is asked.
_LAST_INDEXED: Final = H_USER_AGENT
_NOT_FOUND: Final = (ABSENT,) * (_LAST_INDEXED + 1)


class Message:
    """A request or a reply; made by parse_message.

    head: start line and headers, each with its CRLF, without the blank line. body: cut to Content-Length. method: of
    the request line, of CSeq in a reply. ruri: as received, "" in a reply. status: 0 in a request. data_len: octets
    received. via_text: the top Via with received and rport filled in, kept by build; via_changed: it differs then.
    force_rport: answer to the port the request came from even when its Via did not ask (the script's force_rport()).
    """

    __slots__ = (
        "_call_id",
        "_contact_star",
        "_contacts",
        "_content_length",
        "_cseq_method",
        "_cseq_number",
        "_expires",
        "_firsts",
        "_flat",
        "_from",
        "_from_tag",
        "_headers",
        "_kinds",
        "_max_forwards",
        "_paths",
        "_plain",
        "_record_routes",
        "_repeated",
        "_routes",
        "_starts",
        "_to",
        "_to_tag",
        "_uri",
        "_usual",
        "_via",
        "_vias",
        "_widths",
        "body",
        "data_len",
        "first_line_end",
        "force_rport",
        "head",
        "is_request",
        "limits",
        "memo",
        "method",
        "method_id",
        "reason",
        "ruri",
        "ruri_end",
        "ruri_start",
        "socket",
        "source",
        "status",
        "status_line",
        "transaction_key",
        "version",
        "via_changed",
        "via_text",
    )

    def __init__(
        self, head: str, body: bytes, source: Peer, socket: Socket, limits: Limits, memo: Memo | None = None
    ) -> None:
        self.head: str = head
        self.body: bytes = body
        self.source: Peer = source
        self.socket: Socket = socket
        self.limits: Limits = limits
        self.memo: Memo | None = memo
        self.method: str = ""
        self.method_id: int = M_OTHER
        self.ruri: str = ""
        self.ruri_start: int = 0
        self.ruri_end: int = 0
        self.version: str = "SIP/2.0"
        self.status: int = 0
        self.reason: str = ""
        # The start line of a reply whose status was changed, "" to leave it as received.
        self.status_line: str = ""
        self.data_len: int = 0
        # Of the start line, its CRLF included; the first header starts here.
        self.first_line_end: int = 0
        # Headers in order: kinds (below 256), how much of each is name, colon and the one space that nearly everybody
        # writes behind it, starts with one more at the end of the head. The lists are replaced, never changed:
        # messages of one layout share them. By kind, up to _LAST_INDEXED: the first header, and a bit for those that
        # came more than once.
        self._kinds: bytes = b""
        self._firsts: list[int] = _NO_PLACES
        self._repeated: int = 0
        self._widths: list[int] = _NO_PLACES
        self._starts: list[int] = _NO_PLACES
        self._headers: list[Header | None] | None = None
        self._flat: str = head
        # Kept by what is asked for
        self._via: Via | None = None
        self._vias: list[Via] | None = None
        self._from: NameAddr | None = None
        self._to: NameAddr | None = None
        self._from_tag: str | None = None
        self._to_tag: str | None = None
        self._uri: Uri | None = None
        self._contacts: list[NameAddr] | None = None
        self._routes: list[NameAddr] | None = None
        self._record_routes: list[NameAddr] | None = None
        self._paths: list[NameAddr] | None = None
        self._call_id: str | None = None
        self._cseq_number: int = _UNREAD
        self._cseq_method: str = ""
        self._max_forwards: int = _UNREAD
        self._expires: int = _UNREAD
        self._content_length: int = _UNREAD
        # The top Via with received and rport filled in, made by build for a reply or a copy.
        self.via_text: str | None = None
        # Of the server transaction, made when it is first looked for.
        self.transaction_key: str = ""
        # Side by side, compiled they share eight bytes; many messages wait.
        self.is_request: bool = True
        self.force_rport: bool = False
        self.via_changed: bool = False
        self._contact_star: bool = False
        # Whether there is neither a quoted string nor a tab in it, so that nobody has to look for them.
        self._plain: bool = '"' not in head and "\t" not in head
        # Whether all that `read_usual` reads has been read.
        self._usual: bool = False

    def __repr__(self) -> str:
        if self.is_request:
            return f"Message({self.method} {self.ruri})"
        return f"Message({self.status} {self.reason})"

    def received(self) -> bytes:
        """The bytes that it was read from, up to the end of the body."""
        return self.head.encode("utf-8", "surrogateescape") + b"\r\n" + self.body

    def forget_parsed(self) -> None:
        """Let go of what was parsed, the places of the headers included; it is parsed again when it is asked for again.
        More than half of the memory of a request that only waits for its answer."""
        if self.memo is not None:
            self._kinds = self.memo.one_order(self._kinds)
        self._firsts = _NO_PLACES
        self._widths = _NO_PLACES
        self._starts = _NO_PLACES
        self._call_id = None
        self._headers = None
        self._via = None
        self._vias = None
        self._from = None
        self._to = None
        self._from_tag = None
        self._to_tag = None
        self._uri = None
        self._contacts = None
        self._routes = None
        self._record_routes = None
        self._paths = None
        self.via_text = None

    def set_status(self, status: int, reason: str) -> None:
        """Forward this reply with another status and reason; both show at once in the attributes too."""
        self.status = status
        self.reason = reason
        self.status_line = f"SIP/2.0 {status} {reason}\r\n"

    # Headers as text

    def starts(self) -> list[int]:
        """Where each header starts in the head, and where the last one ends."""
        if not self._starts:  # after `forget_parsed`: the headers are where they were
            _read_headers(self)
        return self._starts

    def _index(self, kind: int) -> int:
        """The first header of a kind, ABSENT for none."""
        if kind <= _LAST_INDEXED:
            firsts = self._firsts
            if not firsts:
                if not self._kinds:
                    return ABSENT
                _read_headers(self)  # after `forget_parsed`
                firsts = self._firsts
            return firsts[kind]
        kinds = self._kinds
        return kinds.index(kind) if kind in kinds else ABSENT

    def _value_range(self, index: int) -> tuple[int, int]:
        starts = self._starts
        if not starts:
            starts = self.starts()
        head = self._flat
        start = starts[index] + self._widths[index]
        end = starts[index + 1] - 2
        if start < end and ord(head[start]) > _SPACE and ord(head[end - 1]) > _SPACE:
            return start, end
        while start < end and head[start] in SPACES:
            start += 1
        while end > start and head[end - 1] in SPACES:
            end -= 1
        return start, end

    def _text(self, start: int, end: int) -> str:
        """A value with each fold (CRLF and white space) turned into one space."""
        text = self.head[start:end]
        if self._flat is not self.head and "\r\n" in text:
            text = " ".join([line.strip(SPACES) for line in text.split("\r\n")])
        return text

    def _header(self, index: int) -> Header:
        made = self._headers
        if made is None:
            made = [None] * len(self._kinds)
            self._headers = made
        found = made[index]
        if found is None:
            value_start, value_end = self._value_range(index)
            start = self._starts[index]
            name = self.head[start : start + self._widths[index]].rstrip(_AFTER_NAME)
            found = Header(
                name,
                self._kinds[index],
                self._text(value_start, value_end),
                start,
                self._starts[index + 1],
                value_start,
                value_end,
            )
            made[index] = found
        return found

    @property
    def flat(self) -> str:
        """The head with folds turned into as many spaces: what offsets of parsed parts refer to."""
        return self._flat

    @property
    def headers(self) -> list[Header]:
        """Every header in the order received."""
        return [self._header(i) for i in range(len(self._kinds))]

    def has(self, kind: int) -> bool:
        """True when a header of the kind is there."""
        return kind in self._kinds

    def count(self, kind: int) -> int:
        """How many header fields of the kind there are; the elements of one comma list count once."""
        return self._kinds.count(kind)

    def first(self, kind: int) -> Header | None:
        """The first header of a kind."""
        index = self._index(kind)
        return self._header(index) if index >= 0 else None

    def all(self, kind: int) -> list[Header]:
        """Every header of a kind, in order."""
        kinds = self._kinds
        return [self._header(i) for i in range(len(kinds)) if kinds[i] == kind]

    def named(self, name: str) -> list[Header]:
        """Every header of a name in any case, long or compact, known or not."""
        kind = header_kind(name)
        if kind != H_OTHER:
            return self.all(kind)
        wanted = name.lower()
        kinds = self._kinds
        found: list[Header] = []
        for i in range(len(kinds)):
            if kinds[i] == H_OTHER:
                header = self._header(i)
                if header.name.lower() == wanted:
                    found.append(header)
        return found

    def value(self, kind: int) -> str:
        """The value of the first header of a kind, "" when there is none."""
        index = self._index(kind)
        if index < 0:
            return ""
        start, end = self._value_range(index)
        return self._text(start, end)

    def value_place(self, kind: int) -> tuple[int, int]:
        """Where the value of the first header of a kind starts and ends in the head; (-1, -1) when there is none."""
        index = self._index(kind)
        return self._value_range(index) if index >= 0 else (-1, -1)

    def header_range(self, kind: int) -> tuple[int, int]:
        """Where the first header of a kind starts and ends in the head, CRLF included; (-1, -1) when there is none."""
        index = self._index(kind)
        if index < 0:
            return -1, -1
        starts = self._starts
        if not starts:
            starts = self.starts()
        return starts[index], starts[index + 1]

    def top_via_cut(self) -> tuple[int, int]:
        """The range to leave out for the top Via to be gone: the header, or its first element and the comma."""
        index = self._index(H_VIA)
        if index < 0:
            raise ParseError("no Via", 0, DROP)
        starts = self.starts()
        via = self._via
        flat = self._flat
        if via is not None and via.end == starts[index + 1] - 2:
            return starts[index], starts[index + 1]
        if via is not None and via.start == starts[index] + self._widths[index] and flat[via.end] == ",":
            start, end = via.start, starts[index + 1] - 2
            comma = via.end
        else:
            start, end = self._value_range(index)
            comma = find_unquoted(flat, ",", start, end)
            if comma < 0:
                return starts[index], starts[index + 1]
        comma += 1
        while comma < end and flat[comma] in SPACES:
            comma += 1
        return start, comma

    # Parsed on first use; each raises ParseError when the header is broken

    @property
    def uri(self) -> Uri:
        """The received Request-URI taken apart."""
        found = self._uri
        if found is None:
            memo = self.memo
            if memo is None:
                found = parse_uri(self.ruri, self.ruri_start)
            else:
                found = memo.uris.parse(self.ruri, self.ruri_start)
            self._uri = found
        return found

    @property
    def via(self) -> Via:
        """The topmost Via element. ParseError with status DROP when there is none: nothing can be answered."""
        found = self._via
        if found is None:
            index = self._index(H_VIA)
            if index < 0:
                raise ParseError("no Via", 0, DROP)
            start, end = self._value_range(index)
            flat = self._flat
            comma = flat.find(",", start, end) if self._plain else find_unquoted(flat, ",", start, end)
            found = via_in(flat, start, end if comma < 0 else comma, self.memo, self._plain)
            self._via = found
        return found

    @property
    def vias(self) -> list[Via]:
        """Every Via element, topmost first."""
        found = self._vias
        if found is None:
            found = []
            for i in range(len(self._kinds)):
                if self._kinds[i] == H_VIA:
                    start, end = self._value_range(i)
                    found += vias_in(self._flat, start, end, self.limits.values)
            self._vias = found
        return found

    def _address(self, kind: int, what: str) -> NameAddr:
        index = self._index(kind)
        if index < 0:
            raise ParseError("no " + what)
        start, end = self._value_range(index)
        return name_addr_in(self._flat, start, end, self._plain)

    @property
    def from_(self) -> NameAddr:
        """From."""
        found = self._from
        if found is None:
            found = self._address(H_FROM, "From")
            self._from = found
        return found

    @property
    def to(self) -> NameAddr:
        """To."""
        found = self._to
        if found is None:
            found = self._address(H_TO, "To")
            self._to = found
        return found

    @property
    def from_tag(self) -> str:
        """The tag of From, "" for none."""
        found = self._from_tag
        if found is None:
            found = self.from_.tag
            self._from_tag = found
        return found

    @property
    def to_tag(self) -> str:
        """The tag of To, "" for none."""
        found = self._to_tag
        if found is None:
            found = self.to.tag
            self._to_tag = found
        return found

    def read_usual(self) -> bool:
        """Parse at once what every message is judged and matched by: Via, From, To, Call-ID, CSeq and Max-Forwards.

        False when one of them but Max-Forwards is missing, there more than once, or not written as nearly everybody
        does; it is then parsed, and refused or not, when it is asked for.
        """
        if self._usual:
            return True
        firsts = self._firsts
        if not firsts or self._repeated & _ONCE or self._flat is not self.head:
            return False
        plain = self._plain
        starts = self._starts
        widths = self._widths
        head = self.head
        via = firsts[H_VIA]
        sender = firsts[H_FROM]
        to = firsts[H_TO]
        call_id = firsts[H_CALL_ID]
        if via < 0 or sender < 0 or to < 0 or call_id < 0:
            return False
        try:
            start = starts[via] + widths[via]
            end = starts[via + 1] - 2
            if not plain:
                self.via  # noqa: B018
            elif self._via is None and head.find(",", start, end) < 0:
                self._via = via_in(head, start, end, self.memo, True)
            start = starts[sender] + widths[sender]
            end = starts[sender + 1] - 2
            found = usual_name_addr(head, start, end) if plain and start < end else None
            self._from = name_addr_in(head, start, end) if found is None else found
            start = starts[to] + widths[to]
            end = starts[to + 1] - 2
            found = usual_name_addr(head, start, end) if plain and start < end else None
            self._to = name_addr_in(head, start, end) if found is None else found
            if self._cseq_number == _UNREAD:
                self._read_cseq()
        except ParseError:
            return False
        text = head[starts[call_id] + widths[call_id] : starts[call_id + 1] - 2]
        if not text or " " in text or (not plain and "\t" in text):
            return False
        self._call_id = text
        place = firsts[H_MAX_FORWARDS]
        if place >= 0:
            hops = USUAL_NUMBERS.get(head[starts[place] + widths[place] : starts[place + 1] - 2], _TOO_MANY)
            if hops < _TOO_MANY:
                self._max_forwards = hops
        self._usual = self._via is not None
        return self._usual

    @property
    def call_id(self) -> str:
        """Call-ID, "" when there is none."""
        found = self._call_id
        if found is None:
            found = self.value(H_CALL_ID)
            self._call_id = found
        return found

    def _read_cseq(self) -> None:
        firsts = self._firsts
        index = firsts[H_CSEQ] if firsts else self._index(H_CSEQ)
        if index < 0:
            raise ParseError("no CSeq")
        text = self._flat
        starts = self._starts
        start = starts[index] + self._widths[index]
        end = starts[index + 1] - 2
        digits, _, method = text[start:end].partition(" ")
        found = USUAL_NUMBERS.get(digits, ABSENT)
        if found < 0:
            start, end = self._value_range(index)
            space = text.find(" ", start, end)
            method = text[space + 1 : end]
            found = small_number(text, start, space) if space > 0 else ABSENT
        if found >= 0 and (method == self.method or method in METHOD_IDS):
            # One text for both, in a request that waits for its answer.
            self._cseq_method = self.method if method == self.method else method
            self._cseq_number = found
            return
        space = text.find(" ", start, end)
        digits = text[start:space] if space > 0 else ""
        if not digits.isdigit() or (method != self.method and method not in METHOD_IDS):
            # More white space, or a method of its own.
            parts = text[start:end].split()
            if len(parts) != 2 or (parts[1] not in METHOD_IDS and not is_token(parts[1])):
                raise ParseError("CSeq is not a number and a method", start)
            digits, method = parts[0], parts[1]
        self._cseq_method = self.method if method == self.method else method
        self._cseq_number = number(digits, _HIGHEST_CSEQ, "CSeq", start)

    @property
    def cseq_number(self) -> int:
        """The number of CSeq (RFC 3261 §8.1.1.5: below 2**31)."""
        if self._cseq_number == _UNREAD:
            self._read_cseq()
        return self._cseq_number

    @property
    def cseq_method(self) -> str:
        """The method of CSeq."""
        if self._cseq_number == _UNREAD:
            self._read_cseq()
        return self._cseq_method

    def addresses(self, kind: int) -> list[NameAddr]:
        """The addresses of every header of a kind, comma lists cut; not kept."""
        found: list[NameAddr] = []
        for i in range(len(self._kinds)):
            if self._kinds[i] == kind:
                start, end = self._value_range(i)
                found += name_addrs_in(self._flat, start, end, self.limits.values)
                if len(found) > self.limits.values:
                    raise ParseError("too many addresses in " + HEADER_NAMES[kind], start)
        return found

    def _read_contacts(self) -> list[NameAddr]:
        stars = 0
        for i in range(len(self._kinds)):
            if self._kinds[i] == H_CONTACT:
                start, end = self._value_range(i)
                if end - start == 1 and self._flat[start] == "*":
                    stars += 1
        if stars:
            if self.count(H_CONTACT) > 1:
                raise ParseError("Contact: * beside another Contact", self._starts[self._index(H_CONTACT)])
            self._contact_star = True
            found: list[NameAddr] = []
        else:
            found = self.addresses(H_CONTACT)
        self._contacts = found
        return found

    @property
    def contacts(self) -> list[NameAddr]:
        """Every Contact; empty for none and for `Contact: *`."""
        found = self._contacts
        return self._read_contacts() if found is None else found

    @property
    def contact_star(self) -> bool:
        """True for `Contact: *` (RFC 3261 §10.2.2)."""
        if self._contacts is None:
            self._read_contacts()
        return self._contact_star

    @property
    def routes(self) -> list[NameAddr]:
        """Every Route element, topmost first."""
        found = self._routes
        if found is None:
            found = self.addresses(H_ROUTE)
            self._routes = found
        return found

    @property
    def record_routes(self) -> list[NameAddr]:
        """Every Record-Route element, topmost first."""
        found = self._record_routes
        if found is None:
            found = self.addresses(H_RECORD_ROUTE)
            self._record_routes = found
        return found

    @property
    def paths(self) -> list[NameAddr]:
        """Every Path element, topmost first (RFC 3327)."""
        found = self._paths
        if found is None:
            found = self.addresses(H_PATH)
            self._paths = found
        return found

    def _number(self, kind: int, highest: int) -> int:
        index = self._index(kind)
        if index < 0:
            return ABSENT
        start, end = self._value_range(index)
        found = small_number(self._flat, start, end)
        if 0 <= found <= highest:
            return found
        return number(self._flat[start:end], highest, HEADER_NAMES[kind], start)

    @property
    def max_forwards(self) -> int:
        """Max-Forwards, ABSENT (-1) when there is none (RFC 3261 §20.22: 0 to 255)."""
        if self._max_forwards == _UNREAD:
            self._max_forwards = self._number(H_MAX_FORWARDS, 255)
        return self._max_forwards

    @property
    def expires(self) -> int:
        """Expires in seconds, ABSENT (-1) when there is none; more than 2**32-1 counts as that (RFC 3261 §20.19)."""
        if self._expires == _UNREAD:
            text = self.value(H_EXPIRES)
            if not text:
                self._expires = ABSENT
            elif not text.isascii() or not text.isdigit():
                raise ParseError("Expires is not a number", self.value_place(H_EXPIRES)[0])
            else:
                digits = text.lstrip("0") or "0"
                self._expires = _HIGHEST_32 if len(digits) > 10 else min(int(digits), _HIGHEST_32)
        return self._expires

    @property
    def content_length(self) -> int:
        """Content-Length as the sender wrote it, ABSENT (-1) when there is none."""
        if self._content_length == _UNREAD:
            self._content_length = self._number(H_CONTENT_LENGTH, _HIGHEST_32)
        return self._content_length

    @property
    def content_type(self) -> str:
        """Content-Type, "" when there is none."""
        return self.value(H_CONTENT_TYPE)

    def credentials(self, kind: int) -> list[Credentials]:
        """Credentials or challenges of every header of a kind (H_AUTHORIZATION, H_WWW_AUTHENTICATE ...)."""
        found: list[Credentials] = []
        for i in range(len(self._kinds)):
            if self._kinds[i] == kind:
                start, end = self._value_range(i)
                credentials = parse_credentials(self._flat[start:end], start)
                credentials.header = self._header(i)
                found.append(credentials)
        return found


def parse_message(
    data: bytes, source: Peer, socket: Socket, limits: Limits = DEFAULT_LIMITS, memo: Memo | None = None
) -> Message:
    """Bytes of one datagram, or of one message cut from a stream, to a Message.

    memo: what is remembered of earlier messages, for texts that come again. Raises ParseError only: its status is DROP
    when no reply can be made, else `.message` holds what was understood.
    """
    length = len(data)
    if data[:1] == b"\r" and data[:2] == b"\r\n":
        # RFC 3261 §7.5: empty lines before the start line are ignored.
        data = data.lstrip(b"\r\n")
    raw, blank, body = data.partition(b"\r\n\r\n")
    if not blank and raw[-2:] == b"\r\n":
        raw = raw[:-2]
    if len(raw) > limits.head:
        raise ParseError("head is larger than the limit", limits.head, DROP)
    if not raw:
        raise ParseError("empty packet", 0, DROP)
    head = raw.decode("utf-8", "surrogateescape") + "\r\n"
    msg = Message(head, body, source, socket, limits, memo)
    msg.data_len = length
    try:
        if memo is None or not memo.shape_after or not blank or not _read_known(msg, memo):
            _read_start_line(msg)
            _read_headers(msg)
            if not blank:
                raise ParseError("no empty line after the headers", len(head))
        if msg._content_length != len(body) or len(body) > limits.body:
            _read_body(msg)
        if not msg.is_request:
            msg.method = msg.cseq_method
            msg.method_id = METHOD_IDS.get(msg.method, M_OTHER)
    except ParseError as error:
        mended = _with_line_ends(data) if source.proto == PROTO_UDP else b""
        if mended:
            msg = parse_message(mended, source, socket, limits, memo)
            msg.data_len = length
            return msg
        _attach(error, msg)
        raise
    return msg


def _with_line_ends(data: bytes) -> bytes:
    """A datagram whose header lines all end in a bare LF, with the CRLF of RFC 3261 §7; else b"".

    Simple tools write so, and OpenSIPS reads it. There is one way to read it, and it leaves with CRLF. Where CRLF and
    LF are mixed, readers may differ about what is a header: that stays refused.
    """
    head, blank, body = data.lstrip(b"\n").partition(b"\n\n")
    start, _, _ = head.partition(b"\n")
    if not blank or b"\r" in head or not (start.endswith(b" SIP/2.0") or start.startswith(b"SIP/2.0 ")):
        return b""
    return head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + body


def _read_known(msg: Message, memo: Memo) -> bool:
    """Read a message at once whose like was seen before; False, and nothing read, when it is not quite alike."""
    head = msg.head
    word = head[: head.find(" ")]
    if word == "SIP/2.0":
        word = head[:11]
    for layout in memo.shapes.get(word, NO_LAYOUTS):
        shape = layout.shape
        if shape is None:
            continue
        match = shape.match(head)
        if match is not None:
            # A CR alone would be a line end for a sloppier reader downstream.
            if head.count("\r") != shape.lines or shape.lines > msg.limits.headers + 1:
                return False
            return _take_shape(msg, memo, layout, shape, match)
    return False


def _take_shape(msg: Message, memo: Memo, layout: Layout, shape: Shape, match: Any) -> bool:
    """Note what the expression of a layout found in the head of a message."""
    target, sent_by, branch, params, from_tag, to_tag, call_id, number_, method, hops, length = match.group(
        *shape.wanted
    )
    if shape.method:
        method = shape.method
        msg.method = method
        msg.method_id = METHOD_IDS[method]
        msg.ruri = target
        start = len(method) + 1
        msg.ruri_start = start
        msg.ruri_end = start + len(target)
    else:
        if method not in METHOD_IDS:
            return False
        msg.is_request = False
        msg.status = shape.status
        msg.reason = target
    start, end = match.span(shape.via)
    hop = None if params else memo.hops.get(sent_by)
    if hop is not None:
        msg._via = known_via(hop, branch, start, end)
        msg._usual = True
    starts = list(map(match.start, shape.marks))
    msg.first_line_end = starts[0]
    starts.append(len(msg.head))
    msg._starts = starts
    msg._kinds = layout.kinds
    msg._widths = layout.widths
    msg._firsts = layout.firsts
    msg._repeated = layout.repeated
    msg._from_tag = from_tag or ""
    msg._to_tag = to_tag or ""
    msg._call_id = call_id
    msg._cseq_number = int(number_)
    msg._cseq_method = method
    if shape.has_hops:
        msg._max_forwards = int(hops)
    if shape.has_length:
        msg._content_length = int(length)
    if hop is None:
        try:
            msg.via  # noqa: B018 - its hop is remembered for the next one
        except ParseError:
            return True  # judged when it is asked for
        msg._usual = True
    return True


def _read_start_line(msg: Message) -> None:
    head = msg.head
    space = head.find(" ")
    if space > 0 and _read_request_line(msg, space):
        return
    end = head.find("\r\n")
    msg.first_line_end = end + 2
    line = head[:end]
    parts = line.split(" ")
    if line[:4].upper() == "SIP/":
        _read_status_line(msg, line)
        return
    if len(parts) == 3:
        msg.method = parts[0]
        msg.ruri = parts[1]
        msg.version = parts[2]
        msg.ruri_start = len(parts[0]) + 1
        msg.ruri_end = msg.ruri_start + len(parts[1])
        msg.method_id = METHOD_IDS.get(msg.method, M_OTHER)
        if msg.version == "SIP/2.0" and parts[1] and (msg.method_id != M_OTHER or is_token(msg.method)):
            return
    else:
        # One space too many somewhere; read on to be able to answer (RFC 4475 §3.1.2.8 to 3.1.2.10).
        msg.method = parts[0]
        msg.method_id = METHOD_IDS.get(msg.method, M_OTHER)
        msg.version = line.rstrip(SPACES).rpartition(" ")[2]
    version = msg.version.upper()
    if not version.startswith("SIP/"):
        raise ParseError("not SIP", 0, DROP)
    if not is_token(msg.method):
        raise ParseError("method is not a token")
    if len(parts) != 3:
        _read_headers(msg)
        raise ParseError("request line is not method, URI, version", len(parts[0]))
    if not parts[1]:
        _read_headers(msg)
        raise ParseError("no Request-URI", len(parts[0]))
    if version != "SIP/2.0":
        _read_headers(msg)
        raise ParseError("SIP version is not 2.0", msg.ruri_end + 1, 505)


def _read_request_line(msg: Message, space: int) -> bool:
    """Read the request line as nearly everybody writes it; False when it is another one, or something else."""
    head = msg.head
    method = head[:space]
    known = METHOD_IDS.get(method, 0)
    if not known:
        return False
    end = head.find(" ", space + 1)
    if end <= space + 1 or head[end : end + 10] != " SIP/2.0\r\n":
        return False
    ruri = head[space + 1 : end]
    if "\n" in ruri:
        return False
    # Of these many may be open for long: they share one text.
    msg.method = "INVITE" if known == M_INVITE else method
    msg.method_id = known
    msg.ruri = ruri
    msg.ruri_start = space + 1
    msg.ruri_end = end
    msg.first_line_end = end + 10
    return True


def _read_status_line(msg: Message, line: str) -> None:
    msg.is_request = False
    msg.version = line[:7]
    if line[:8].upper() != "SIP/2.0 ":
        raise ParseError("SIP version is not 2.0", 0, DROP)
    code = line[8:11]
    if len(code) != 3 or not code.isascii() or not code.isdigit() or (len(line) > 11 and line[11] != " "):
        raise ParseError("status is not three digits", 8, DROP)
    msg.status = int(code)
    if not 100 <= msg.status <= 699:
        raise ParseError("status is not from 100 to 699", 8, DROP)
    msg.reason = line[12:]


def _read_headers(msg: Message) -> None:
    """Find every header: its kind and where it starts."""
    head = msg.head
    try:
        if _read_lines(msg, head.splitlines()):
            return
    except ParseError:
        pass  # judged below, by lines that only CRLF ends
    lines = head.split("\r\n")
    lines.pop()
    if len(lines) > 4 * msg.limits.headers + 1:
        raise ParseError("more header lines than the limit", msg.first_line_end, DROP)
    # Each CRLF was cut at; any other CR or LF would be a line end for a sloppier reader downstream.
    if head.count("\n") != len(lines) or head.count("\r") != len(lines):
        _find_stray(head)
    _read_lines(msg, lines)


def _read_lines(msg: Message, lines: list[str]) -> bool:
    """Note the headers in the lines of a head. False, and nothing noted, when something but CRLF ended one of them."""
    memo = msg.memo
    if memo is None:
        return _read_names(msg, lines, 0)
    purpose = (msg.method_id if msg.is_request else msg.status) << 8 | len(lines)
    for layout in memo.layouts(purpose):
        if _has_layout(msg, lines, layout):
            return True
    return _read_names(msg, lines, purpose)


def _has_layout(msg: Message, lines: list[str], layout: Layout) -> bool:
    """Note the headers if they have the same names as those of an earlier message, spelled alike."""
    names = layout.names
    if len(names) != len(lines) or len(names) > msg.limits.headers + 1:
        return False
    starts: list[int] = []
    position = 0
    for line, name in zip(lines, names):  # noqa: B905 - of one length; compiled without an object for each pair
        # Up to its colon a line says which header it is; a folded one starts with no name.
        if not line.startswith(name):
            return False
        position += len(line) + 2
        starts.append(position)
    if position != len(msg.head):
        return False
    memo = msg.memo
    if memo is not None and memo.shape_after:
        memo.count_layout(layout, msg.method if msg.is_request else "", msg.status)
    msg._kinds = layout.kinds
    msg._widths = layout.widths
    msg._starts = starts
    msg._firsts = layout.firsts
    msg._repeated = layout.repeated
    return True


def _read_names(msg: Message, lines: list[str], purpose: int) -> bool:
    """Note the headers in the lines of a head, line by line, and remember their layout."""
    kinds: list[int] = []
    widths: list[int] = []
    starts: list[int] = []
    names: list[str] = [""]
    firsts = list(_NOT_FOUND)
    repeated = 0
    position = len(lines[0]) + 2
    folded = False
    count = 0
    if len(lines) > 4 * msg.limits.headers + 1:
        raise ParseError("more header lines than the limit", position, DROP)
    spellings = SPELLINGS
    for i in range(1, len(lines)):
        line = lines[i]
        colon = line.find(":")
        kind = spellings.get(line[:colon], ABSENT) if colon > 0 else ABSENT
        if kind < 0:
            if line[:1] == " " or line[:1] == "\t":
                if not count:
                    raise ParseError("folded line before the first header", position)
                folded = True
                position += len(line) + 2
                continue
            kind = _odd_name(line, colon, position)
        kinds.append(kind)
        starts.append(position)
        width = colon + 2 if line[colon + 1 : colon + 2] == " " else colon + 1
        widths.append(width)
        names.append(line[:width])
        if kind <= _LAST_INDEXED:
            if firsts[kind] < 0:
                firsts[kind] = count
            else:
                repeated |= 1 << kind
        count += 1
        position += len(line) + 2
    if count > msg.limits.headers:
        raise ParseError("more headers than the limit", position, DROP)
    head = msg.head
    if position != len(head):
        return False
    starts.append(position)
    order = bytes(kinds)
    msg._kinds = order
    msg._widths = widths
    msg._starts = starts
    msg._firsts = firsts
    msg._repeated = repeated
    if folded:
        msg._flat = head.replace("\r\n ", "   ").replace("\r\n\t", "   ")
    elif msg.memo is not None:
        msg.memo.keep_layout(purpose, Layout(names, order, widths, firsts, repeated))
    return True


def _find_stray(head: str) -> None:
    rest = head.replace("\r\n", "  ")
    offset = rest.find("\n")
    if offset < 0:
        offset = rest.find("\r")
    raise ParseError("CR or LF outside a line end", offset)


def _odd_name(line: str, colon: int, position: int) -> int:
    """The kind of a header whose name is in no usual spelling. ParseError when it is no name at all."""
    if colon <= 0:
        raise ParseError("line is not a header", position)
    name = line[:colon].rstrip(" \t")
    if not is_token(name):
        raise ParseError("header name is not a token", position)
    kind = SPELLINGS.get(name)
    if kind is None:
        kind = SPELLINGS.get(name.lower(), H_OTHER)
    return kind


def _read_body(msg: Message) -> None:
    """Cut the body to Content-Length (RFC 3261 §18.3)."""
    if msg._firsts[H_CONTENT_LENGTH] >= 0:
        place = msg._firsts[H_CONTENT_LENGTH]
        text = msg.head[msg._starts[place] + msg._widths[place] : msg._starts[place + 1] - 2]
        length = USUAL_NUMBERS.get(text, ABSENT)
        if length >= 0:
            msg._content_length = length
        else:
            length = msg.content_length
        if msg._repeated >> H_CONTENT_LENGTH & 1:
            for header in msg.all(H_CONTENT_LENGTH):
                if number(header.value, _HIGHEST_32, "Content-Length", header.value_start) != length:
                    raise ParseError("two Content-Length that differ", header.start)
        body = msg.body
        if length < len(body):
            msg.body = body[:length]
        elif length > len(body):
            raise ParseError("body is shorter than Content-Length", len(msg.head))
    elif msg.body and (msg.source.proto == PROTO_TCP or msg.source.proto == PROTO_TLS):
        raise ParseError("no Content-Length on a stream", len(msg.head))
    if len(msg.body) > msg.limits.body:
        raise ParseError("body is larger than the limit", len(msg.head), 513)


def _attach(error: ParseError, msg: Message) -> None:
    """Decide whether a broken message can be answered, and hand it over when it can.

    A reply follows the top Via and copies From, To, Call-ID and CSeq as far as they are there (RFC 3261 §8.2.6.2, RFC
    4475 §3.3.1); a reply or an ACK is never answered.
    """
    if error.status == DROP or not msg.is_request or msg.method_id == M_ACK:
        error.status = DROP
        return
    if not msg._starts:
        # They were not looked for, or the loop stopped at a broken line.
        _salvage_headers(msg)
    if not salvage_via(msg):
        error.status = DROP
        return
    error.message = msg


def salvage_via(msg: Message) -> bool:
    """Make the top Via of a refused message readable, perhaps without its parameters; False when it cannot be."""
    try:
        return bool(msg.via.host)
    except ParseError:
        index = msg._index(H_VIA)
        if index < 0:
            return False
    start, end = msg._value_range(index)
    try:
        msg._via = broken_via_in(msg._flat, start, end)
    except ParseError:
        return False
    return True


def _salvage_headers(msg: Message) -> None:
    """Read headers again, leaving out lines that are none, from a head rewritten without them.

    Only for a message that is refused: a reply to it needs the mandatory headers, wherever the broken line is.
    """
    lines = msg.head.split("\r\n")
    kept = [lines[0]]
    good = False
    for line in lines[1:]:
        if "\n" in line or "\r" in line:
            good = False
            continue
        if line[:1] == " " or line[:1] == "\t":
            if good:
                kept.append(line)
            continue
        colon = line.find(":")
        good = colon > 0 and is_token(line[:colon].rstrip(" \t"))
        if good:
            kept.append(line)
    if len(kept) > msg.limits.headers:
        kept = kept[: msg.limits.headers]
    kept[0] = kept[0].replace("\n", " ").replace("\r", " ")
    msg.head = "\r\n".join(kept) + "\r\n"
    msg._flat = msg.head
    msg.first_line_end = len(kept[0]) + 2
    _read_headers(msg)


def compact_name(kind: int) -> str:
    """The compact form of a kind, "" when it has none."""
    for letter, number_ in COMPACT_NAMES.items():
        if number_ == kind:
            return letter
    return ""
