"""Small scanners shared by the header parsers: tokens, quoted strings, parameters, hosts (RFC 3261 §25.1).

They work on a text and a range of it, so that a header is never copied before the piece that is wanted.
"""

from __future__ import annotations

from typing import Final

from opensipspy.sip.errors import ParseError

# token = alphanum and these. An ASCII word with these taken out must be alphanumeric.
_TOKEN_MARKS: Final = str.maketrans("", "", "-.!%*_+`'~")
_HEX: Final = frozenset("0123456789abcdefABCDEF")
_ZERO: Final = 48
SPACES: Final = " \t\r\n"
# Parameter names that most messages hold; a lower-case token each, so that nothing has to be looked at twice.
_USUAL_NAMES: Final = frozenset(
    ("branch", "rport", "received", "tag", "lr", "transport", "expires", "q", "ftag", "r2", "user", "maddr", "alias")
)
# What Max-Forwards, CSeq and Content-Length mostly say.
USUAL_NUMBERS: Final = {str(value): value for value in range(1500)}


def is_token(text: str) -> bool:
    """True for a token of RFC 3261 §25.1: not empty, no separators, ASCII only."""
    if not text.isascii():
        return False
    if text.isalnum():
        return True
    rest = text.translate(_TOKEN_MARKS)
    return bool(text) and (not rest or rest.isalnum())


def is_digits(text: str) -> bool:
    """True for one or more of 0 to 9 (str.isdigit also takes digits of other scripts)."""
    return text.isascii() and text.isdigit()


def number(text: str, highest: int, what: str, offset: int = 0) -> int:
    """A decimal number from 0 to `highest`; ParseError when it is none or larger. Leading zeros are legal."""
    if not text.isascii() or not text.isdigit():
        raise ParseError(what + " is not a number", offset)
    # Compared by length first: int() of a megabyte of digits is slow, and refused by Python itself.
    if len(text) > 20 and len(text.lstrip("0")) > 20:
        raise ParseError(what + " is too large", offset)
    value = int(text)
    if value > highest:
        raise ParseError(what + " is too large", offset)
    return value


def small_number(text: str, start: int, end: int) -> int:
    """The number of one to nine digits that a range of a text is, -1 when it is anything else."""
    digits = text[start:end]
    if digits in USUAL_NUMBERS:
        return USUAL_NUMBERS[digits]
    if not 0 < end - start < 10:
        return -1
    value = 0
    for i in range(start, end):
        digit = ord(text[i]) - _ZERO
        if digit < 0 or digit > 9:
            return -1
        value = value * 10 + digit
    return value


def skip_spaces(text: str, start: int, end: int) -> int:
    """The first position in the range that is no linear white space, `end` when there is none."""
    while start < end and text[start] in SPACES:
        start += 1
    return start


def skip_quoted(text: str, start: int, end: int) -> int:
    """The position after the quoted string that opens at `start`; ParseError when it does not close."""
    i = start + 1
    while True:
        close = text.find('"', i, end)
        if close < 0:
            raise ParseError("quoted string is not closed", start)
        back = close
        while back > i and text[back - 1] == "\\":
            back -= 1
        if (close - back) & 1 == 0:
            return close + 1
        i = close + 1


def unquote(text: str) -> str:
    """The content of a quoted string without its quotes and escapes; other text as it is."""
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return text
    inner = text[1:-1]
    if "\\" not in inner:
        return inner
    pieces: list[str] = []
    i = 0
    while True:
        back = inner.find("\\", i)
        if back < 0 or back + 1 >= len(inner):
            pieces.append(inner[i:])
            return "".join(pieces)
        pieces.append(inner[i:back])
        pieces.append(inner[back + 1])
        i = back + 2


def quote(text: str) -> str:
    """A quoted string that stands for the text; what cannot be in one (line ends) becomes a space."""
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + text.replace("\r", " ").replace("\n", " ") + '"'


def find_unquoted(text: str, wanted: str, start: int, end: int) -> int:
    """The first `wanted` character in the range outside quoted strings, -1 when there is none."""
    while True:
        found = text.find(wanted, start, end)
        if found < 0:
            return -1
        quoted = text.find('"', start, found)
        if quoted < 0:
            return found
        start = skip_quoted(text, quoted, end)


def split_list(text: str, start: int, end: int, limit: int) -> list[int]:
    """Cut a comma list into elements, as a flat list of start, end, start, end, ...

    Commas inside quoted strings and inside <...> do not count. Empty elements (", ,") are kept for the element's parser
    to refuse. ParseError when there are more than `limit`.
    """
    if text.find(",", start, end) < 0:
        return [start, end]
    cuts: list[int] = []
    i = start
    begin = start
    while True:
        comma = text.find(",", i, end)
        if comma < 0:
            break
        quoted = text.find('"', i, comma)
        angle = text.find("<", i, comma)
        if quoted >= 0 and (angle < 0 or quoted < angle):
            i = skip_quoted(text, quoted, end)
            continue
        if angle >= 0:
            i = text.find(">", angle, end)
            if i < 0:
                raise ParseError("'<' is not closed", angle)
            i += 1
            continue
        cuts.append(begin)
        cuts.append(comma)
        if len(cuts) > 2 * limit:
            raise ParseError("too many elements in a list", begin)
        begin = comma + 1
        i = begin
    cuts.append(begin)
    cuts.append(end)
    return cuts


def split_params(text: str, offset: int, limit: int = 64) -> list[str]:
    """Parameters ";a=b;c" of a header element as a flat list of lower-case name, value ("" when there is none), ...

    Values keep their quotes. ParseError for an empty or impossible name, an empty value after "=", or text between.
    """
    found: list[str] = []
    if not text:
        return found
    if '"' in text:
        pieces = _split_quoted(text)
    else:
        pieces = text.split(";")
    if len(pieces) > limit + 1:
        raise ParseError("too many parameters", offset)
    if not pieces[0] and text.isascii() and " " not in text and "\t" not in text and '"' not in text:
        # Nothing to strip and nothing quoted: nearly every header.
        for i in range(1, len(pieces)):
            name, sign, value = pieces[i].partition("=")
            if sign and not value:
                raise ParseError("parameter without its value", offset)
            if name not in _USUAL_NAMES:
                if not is_token(name):
                    raise ParseError("parameter name is not a token", offset)
                if not name.islower():
                    name = name.lower()
            found.append(name)
            found.append(value)
        return found
    first = True
    for piece in pieces:
        if first:
            first = False
            if piece.strip(SPACES):
                raise ParseError("text before the parameters", offset)
            continue
        equal = piece.find("=")
        if equal < 0:
            name = piece.strip(SPACES)
            value = ""
        else:
            name = piece[:equal].strip(SPACES)
            value = piece[equal + 1 :].strip(SPACES)
            if not value:
                raise ParseError("parameter without its value", offset)
            if value[0] == '"' and (value[-1] != '"' or skip_quoted(value, 0, len(value)) != len(value)):
                raise ParseError("text after a quoted string", offset)
            if " " in value and value[0] != '"':
                raise ParseError("space inside a parameter", offset)
        if not is_token(name):
            raise ParseError("parameter name is not a token", offset)
        found.append(name if name.islower() else name.lower())
        found.append(value)
    return found


def _split_quoted(text: str) -> list[str]:
    pieces: list[str] = []
    begin = 0
    while True:
        cut = find_unquoted(text, ";", begin, len(text))
        if cut < 0:
            # A quote that does not close is found here too.
            find_unquoted(text, "\n", begin, len(text))
            last = text.find('"', begin)
            while last >= 0:
                last = text.find('"', skip_quoted(text, last, len(text)))
            pieces.append(text[begin:])
            return pieces
        pieces.append(text[begin:cut])
        begin = cut + 1


def get_param(params: list[str], name: str) -> str | None:
    """The value of a parameter in the flat list of split_params, None when it is absent. name: lower case."""
    for i in range(0, len(params), 2):
        if params[i] == name:
            return params[i + 1]
    return None


def is_host(text: str) -> bool:
    """True for a host name or an IPv4 address; an underscore is let through, as DNS does (RFC 2181 §11)."""
    if not text.isascii():
        return False
    rest = text.replace(".", "")
    if rest.isalnum():
        return text[0] != "." and ".." not in text
    rest = rest.replace("-", "").replace("_", "")
    return rest.isalnum() and text[0] != "." and ".." not in text


def is_ipv4(text: str) -> bool:
    """True for four decimal numbers below 256 with dots between."""
    parts = text.split(".")
    if len(parts) != 4:
        return False
    for part in parts:
        if not 0 < len(part) < 4 or not part.isascii() or not part.isdigit() or int(part) > 255:
            return False
    return True


def is_ipv6(text: str) -> bool:
    """True for an IPv6 address without brackets, with a zone (RFC 6874) or an IPv4 tail perhaps."""
    zone = text.find("%")
    if zone >= 0:
        text = text[:zone]
    if not 2 <= len(text) <= 45 or text.count(":") < 2:
        return False
    groups = text.split(":")
    tail = 0
    if "." in groups[-1]:
        if not is_ipv4(groups[-1]):
            return False
        groups.pop()
        tail = 2
    gap = text.find("::")
    if gap >= 0 and text.find("::", gap + 1) >= 0:
        return False
    filled = 0
    for group in groups:
        if not group:
            continue
        if len(group) > 4:
            return False
        for char in group:
            if char not in _HEX:
                return False
        filled += 1
    if gap < 0:
        return filled + tail == 8 and text[0] != ":" and text[-1] != ":"
    if (text[0] == ":" and gap != 0) or (text[-1] == ":" and gap != len(text) - 2):
        return False
    return filled + tail < 8


def unescape(text: str) -> str:
    """Text with %HH turned into characters; octets that are not UTF-8 stay as surrogates, a bad escape as it is."""
    if "%" not in text:
        return text
    raw = text.encode("utf-8", "surrogateescape")
    pieces = raw.split(b"%")
    out = [pieces[0]]
    for piece in pieces[1:]:
        if len(piece) >= 2 and chr(piece[0]) in _HEX and chr(piece[1]) in _HEX:
            out.append(bytes((int(piece[:2], 16),)))
            out.append(piece[2:])
        else:
            out.append(b"%")
            out.append(piece)
    return b"".join(out).decode("utf-8", "surrogateescape")


def escapes_are_valid(text: str) -> bool:
    """True when each "%" is followed by two hexadecimal digits."""
    i = text.find("%")
    while i >= 0:
        if i + 2 >= len(text) or text[i + 1] not in _HEX or text[i + 2] not in _HEX:
            return False
        i = text.find("%", i + 3)
    return True
