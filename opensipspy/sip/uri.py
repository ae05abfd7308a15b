"""SIP, SIPS and tel URIs (RFC 3261 §19.1, RFC 3966): taken apart, compared, and put together again."""

from __future__ import annotations

from typing import Final

from mypy_extensions import mypyc_attr

from opensipspy.sip.endpoints import PROTO_NONE, PROTO_TLS, PROTO_UDP, proto_number
from opensipspy.sip.errors import ParseError
from opensipspy.sip.text import escapes_are_valid, is_digits, is_host, is_ipv6, is_token, number, unescape

# Characters of a URI that a cache keeps: longer ones are rare, and nobody is to fill the memory with them.
LONGEST_KEPT: Final = 256
# Parameters that must be on both sides or on none (RFC 3261 §19.1.4).
_COMPARED: Final = ("user", "ttl", "method", "maddr")
# RFC 5031 §4, and what North American emergency networks use (NENA i3).
_SERVICES: Final = ("service:", "nena:service:")
_TEL_VISUAL: Final = str.maketrans("", "", "-.()")
_TEL_DIGITS: Final = frozenset("0123456789abcdefABCDEF*#-.()")
# Characters that mean something else when they are not escaped: "%41" is "A", but "%3b" is not ";".
_RESERVED: Final = frozenset(";/?:@&=+$,%")


@mypyc_attr(acyclic=True)
class Uri:
    """One URI.

    text: as it was given. scheme: lower case. user, password: escapes kept, "" when absent; for tel: user is the
    number. host: without brackets, as written; "" for tel: and unknown schemes. port: 0 when absent. params: raw with
    the leading ";" ("" for none). headers: raw without "?". opaque: what follows a scheme other than sip, sips and tel;
    of a service (urn:service:sos) the host is its name.
    """

    __slots__ = (
        "_params",
        "headers",
        "host",
        "host_text",
        "is_v6",
        "opaque",
        "params",
        "password",
        "port",
        "scheme",
        "text",
        "user",
    )

    def __init__(self) -> None:
        self.text: str = ""
        self.scheme: str = "sip"
        self.user: str = ""
        self.password: str = ""
        self.host: str = ""
        self.host_text: str = ""
        self.is_v6: bool = False
        self.port: int = 0
        self.params: str = ""
        self.headers: str = ""
        self.opaque: str = ""
        self._params: list[str] | None = None

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return "Uri(" + self.text + ")"

    def param_list(self) -> list[str]:
        """Parameters as a flat list: lower-case name, value ("" when there is none), name, value, ..."""
        found = self._params
        if found is None:
            found = []
            if self.params:
                for piece in self.params.split(";"):
                    if piece:
                        name, _, value = piece.partition("=")
                        found.append(name.lower())
                        found.append(value)
            self._params = found
        return found

    def param(self, name: str) -> str | None:
        """The value of a parameter as written, "" when it has none, None when it is absent. name: lower case."""
        if not self.params:
            return None
        params = self.param_list()
        for i in range(0, len(params), 2):
            if params[i] == name:
                return params[i + 1]
        return None

    @property
    def transport(self) -> str:
        """The transport parameter in lower case, "" when it is absent."""
        return (self.param("transport") or "").lower()

    @property
    def proto(self) -> int:
        """The transport that the URI names: its parameter, TLS for sips, PROTO_NONE when it leaves the choice."""
        found = proto_number(self.transport) if self.params else PROTO_NONE
        if self.scheme == "sips" and found != PROTO_NONE and found <= PROTO_TLS:
            # "sips:x;transport=tcp" means TLS over TCP (RFC 3261 §26.2.2); UDP with sips does not exist.
            return PROTO_TLS if found != PROTO_UDP else PROTO_NONE
        if self.scheme == "sips" and found == PROTO_NONE:
            return PROTO_TLS
        return found

    @property
    def lr(self) -> bool:
        """True when the loose router flag is there, in whatever form ("lr", "lr=on")."""
        return self.param("lr") is not None

    def aor(self) -> str:
        """ "user@host" (host only when there is no user), the key of registrations and subscribers; number for tel:."""
        if self.scheme == "tel":
            return self.user
        if self.user:
            return self.user + "@" + self.host_text
        return self.host_text

    def host_port(self) -> str:
        """ "host" or "host:port", brackets where needed."""
        if self.port:
            return self.host_text + ":" + str(self.port)
        return self.host_text


def _has_forbidden(text: str) -> bool:
    """Whether there is a character that can be in no URI, escaped or not. Each search is a few instructions."""
    return " " in text or "<" in text or ">" in text or '"' in text or "\r" in text or "\n" in text or "\t" in text


def parse_uri(text: str, offset: int = 0) -> Uri:
    """Take a URI apart. ParseError when the grammar is broken; a scheme that is not known is kept in `opaque`.

    offset: added to the offsets of errors.
    """
    uri = Uri()
    uri.text = text
    colon = text.find(":")
    if colon <= 0:
        raise ParseError("URI without a scheme", offset)
    scheme = text[:colon]
    if _has_forbidden(text):
        raise ParseError("character that cannot be in a URI", offset)
    if scheme != "sip":
        scheme = scheme.lower()
        uri.scheme = scheme
        if scheme == "tel":
            _parse_tel(uri, text, colon + 1, offset)
            return uri
        if scheme != "sips" and scheme != "sip":
            if not is_token(scheme) or not scheme[0].isalpha():
                raise ParseError("URI scheme is not a word", offset)
            if colon + 1 == len(text):
                raise ParseError("URI with nothing after the scheme", offset)
            uri.opaque = text[colon + 1 :]
            if scheme == "urn":
                _note_service(uri)
            return uri
    if "%" in text and not escapes_are_valid(text):
        raise ParseError("bad escape in a URI", offset + text.index("%"))

    start = colon + 1
    at = text.find("@", start)
    if at >= 0:
        if at == start:
            raise ParseError("URI with an empty user", offset + at)
        password = text.find(":", start, at)
        if password >= 0:
            if password == start:
                raise ParseError("URI with an empty user", offset + at)
            uri.user = text[start:password]
            uri.password = text[password + 1 : at]
        else:
            uri.user = text[start:at]
        start = at + 1
        if text.find("@", start) >= 0:
            raise ParseError("URI with two '@'", offset + start)

    end = len(text)
    question = text.find("?", start)
    if question >= 0:
        uri.headers = text[question + 1 :]
        end = question
    semicolon = text.find(";", start, end)
    if semicolon >= 0:
        uri.params = text[semicolon:end]
        end = semicolon
        # A ";" with nothing after it is written by some phones, in Contact: what is sent to them in a call has it too.
        if ";=" in uri.params:
            raise ParseError("URI parameter without a name", offset + semicolon)
        if uri.params.count(";") > 64:
            raise ParseError("too many URI parameters", offset + semicolon)

    if start < end and text[start] == "[":
        close = text.find("]", start, end)
        if close < 0:
            raise ParseError("IPv6 address is not closed", offset + start)
        uri.host = text[start + 1 : close]
        uri.host_text = text[start : close + 1]
        uri.is_v6 = True
        if not is_ipv6(uri.host):
            raise ParseError("bad IPv6 address", offset + start)
        if close + 1 < end:
            if text[close + 1] != ":":
                raise ParseError("text after an IPv6 address", offset + close)
            uri.port = _port(text[close + 2 : end], offset + close + 2)
        return uri
    port = text.find(":", start, end)
    if port >= 0:
        uri.port = _port(text[port + 1 : end], offset + port + 1)
        end = port
    host = text[start:end]
    if not host or not is_host(host):
        raise ParseError("bad host in a URI", offset + start)
    uri.host = host
    uri.host_text = host
    return uri


def _note_service(uri: Uri) -> None:
    """The host of `urn:service:sos` is what is asked for, as in OpenSIPS; other urn: URIs have none."""
    name = uri.opaque.lower()
    for prefix in _SERVICES:
        if name.startswith(prefix) and is_host(name[len(prefix) :]):
            uri.host = uri.opaque[len(prefix) :]
            uri.host_text = uri.host


def _port(text: str, offset: int) -> int:
    """The port of a URI. 0, which phones write that do not know theirs, is as if there were none."""
    return number(text, 65535, "port", offset)


def _parse_tel(uri: Uri, text: str, start: int, offset: int) -> None:
    """The part after "tel:" (RFC 3966 §3)."""
    end = len(text)
    semicolon = text.find(";", start)
    if semicolon >= 0:
        uri.params = text[semicolon:]
        end = semicolon
        if ";;" in uri.params or uri.params[-1] == ";" or ";=" in uri.params:
            raise ParseError("tel URI parameter without a name", offset + semicolon)
    subscriber = text[start:end]
    digits = subscriber[1:] if subscriber.startswith("+") else subscriber
    for char in digits:
        if char not in _TEL_DIGITS:
            raise ParseError("character that cannot be in a telephone number", offset + start)
    if not digits.translate(_TEL_VISUAL):
        raise ParseError("tel URI without a number", offset + start)
    uri.user = subscriber


class UriCache:
    """Remembers the last URIs that were parsed; those of one server repeat (its own, its subscribers', its gateways').

    A `Uri` of the cache is shared: nobody changes it. size: entries kept; the oldest half goes when it is full.
    """

    __slots__ = ("_found", "size")

    def __init__(self, size: int = 1024) -> None:
        self.size: int = size
        self._found: dict[str, Uri] = {}

    def parse(self, text: str, offset: int = 0) -> Uri:
        """As parse_uri; neither errors nor long texts are remembered."""
        found = self._found.get(text)
        if found is None:
            found = parse_uri(text, offset)
            if len(text) > LONGEST_KEPT:
                return found
            if len(self._found) >= self.size:
                for old in list(self._found)[: self.size // 2 + 1]:
                    del self._found[old]
            self._found[text] = found
        return found


def _canonical(text: str, fold: bool) -> str:
    """A form in which equal parts are equal texts: escapes of unreserved characters undone, others in upper case."""
    if "%" not in text:
        return text.lower() if fold else text
    pieces = text.split("%")
    out = [pieces[0].lower() if fold else pieces[0]]
    for piece in pieces[1:]:
        code = int(piece[:2], 16)
        char = chr(code)
        rest = piece[2:]
        if 0x20 < code < 0x7F and char not in _RESERVED:
            out.append(char.lower() if fold else char)
        else:
            out.append("%" + piece[:2].upper())
        out.append(rest.lower() if fold else rest)
    return "".join(out)


def _same_headers(a: str, b: str) -> bool:
    """Header components match in any order; a header on one side only makes a difference."""
    if a == b:
        return True
    left = sorted(_header_key(piece) for piece in a.split("&"))
    right = sorted(_header_key(piece) for piece in b.split("&"))
    return left == right


def _header_key(piece: str) -> tuple[str, str]:
    name, _, value = piece.partition("=")
    return _canonical(name, True), _canonical(value, False)


def uri_equal(a: Uri | str, b: Uri | str) -> bool:
    """RFC 3261 §19.1.4 for sip and sips, RFC 3966 §4 for tel; other schemes as text. ParseError for what is no URI."""
    one = parse_uri(a) if isinstance(a, str) else a
    two = parse_uri(b) if isinstance(b, str) else b
    if one.scheme != two.scheme:
        return False
    if one.text == two.text:
        return True
    if one.scheme == "tel":
        return _tel_equal(one, two)
    if one.scheme != "sip" and one.scheme != "sips":
        return one.opaque == two.opaque
    if one.port != two.port or not _same_host(one, two):
        return False
    if _canonical(one.user, False) != _canonical(two.user, False):
        return False
    if _canonical(one.password, False) != _canonical(two.password, False):
        return False
    if one.params or two.params:
        left = _param_map(one)
        right = _param_map(two)
        for name, value in left.items():
            other = right.get(name)
            if other is None:
                # A parameter on one side only is ignored, but for those that change where a request goes; a transport
                # that is left out is not the same as one that is named.
                if name in _COMPARED or name == "transport":
                    return False
            elif value != other:
                return False
        for name in right:
            if name not in left and (name in _COMPARED or name == "transport"):
                return False
    return _same_headers(one.headers, two.headers)


def _same_host(one: Uri, two: Uri) -> bool:
    if one.is_v6 != two.is_v6:
        return False
    if one.is_v6:
        return _ipv6_groups(one.host) == _ipv6_groups(two.host)
    return one.host.lower().rstrip(".") == two.host.lower().rstrip(".")


def _ipv6_groups(text: str) -> list[str]:
    """The eight groups of a valid IPv6 address without leading zeros, so that two spellings compare equal."""
    head, gap, tail = text.lower().partition("::")
    left = _groups(head)
    right = _groups(tail)
    if gap:
        left += ["0"] * (8 - len(left) - len(right))
    return left + right


def _groups(text: str) -> list[str]:
    out: list[str] = []
    if not text:
        return out
    for group in text.split(":"):
        if "." in group:
            a, b, c, d = (int(part) for part in group.split("."))
            out.append(f"{a * 256 + b:x}")
            out.append(f"{c * 256 + d:x}")
        else:
            out.append(group.lstrip("0") or "0")
    return out


def _param_map(uri: Uri) -> dict[str, str]:
    params = uri.param_list()
    return {_canonical(params[i], True): _canonical(params[i + 1], True) for i in range(0, len(params), 2)}


def _tel_equal(one: Uri, two: Uri) -> bool:
    if one.user.translate(_TEL_VISUAL).lower() != two.user.translate(_TEL_VISUAL).lower():
        return False
    left = _param_map(one)
    right = _param_map(two)
    if left.keys() != right.keys():
        return False
    for name, value in left.items():
        other = right[name]
        if value == other:
            continue
        # Extensions and global contexts are numbers: visual separators do not count (RFC 3966 §4).
        is_number = name == "ext" or (name == "phone-context" and value.startswith("+"))
        if not is_number or value.translate(_TEL_VISUAL) != other.translate(_TEL_VISUAL):
            return False
    return True


def uri_user(text: str) -> str:
    """The user of a URI with its escapes undone, for comparison with names that people typed."""
    return unescape(parse_uri(text).user)


def is_global_number(user: str) -> bool:
    """True for "+" and digits, visual separators apart (RFC 3966 §5.1.4)."""
    digits = user.translate(_TEL_VISUAL)
    return digits.startswith("+") and is_digits(digits[1:])
