"""The transformations of strings, addresses and lists: `{s.*}`, `{ip.*}`, `{csv.*}`, `{re.subst}`.

Those that take SIP texts apart (`{uri.*}`, `{via.*}`, `{nameaddr.*}`, `{param.*}`, `{sdp.*}`) are in
transformations_sip.py. What cannot be done gives NULL; nothing here raises.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from opensipspy.script import uris
from opensipspy.script.declare import Catalogue, TransformationApply, TransformationDecl
from opensipspy.script.formats import parse_format
from opensipspy.script.patterns import Pattern, PatternCache
from opensipspy.script.run import Run, Value
from opensipspy.script.runtime import wrap
from opensipspy.script.services import ScriptServices

# No transformation makes a text longer than this.
MAX_TEXT: Final = 65535

_UNRESERVED: Final = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.!~*'()"
)  # RFC 3261 §25.1: unreserved = alphanum / mark
_USER_SAFE: Final = _UNRESERVED | frozenset("&=+$,;?/")
_PARAM_SAFE: Final = _UNRESERVED | frozenset("[]/:&+$")
# SQL and log text: what {s.escape.common} protects with a backslash.
_COMMON: Final = {"'": "\\'", '"': '\\"', "\\": "\\\\", "\0": "\\0"}


def text_of(value: Value) -> str:
    """The value as text; NULL never comes here."""
    return value if isinstance(value, str) else str(value)


def octets(value: Value) -> bytes:
    return text_of(value).encode("utf-8", "surrogateescape")


def from_octets(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def to_int(text: str) -> int:
    """The number a text begins with, as C's strtol reads it ("12ab" is 12); 0 when it begins with none."""
    stripped = text.lstrip(" \t")
    sign = -1 if stripped.startswith("-") else 1
    digits = stripped[1:] if stripped[:1] in ("-", "+") else stripped
    end = 0
    while end < len(digits) and "0" <= digits[end] <= "9" and end < 20:
        end += 1
    return wrap(sign * int(digits[:end])) if end else 0


def _number(value: Value) -> int | None:
    """A whole number, NULL for a text that is none."""
    if isinstance(value, int):
        return value
    text = text_of(value).strip()
    body = text[1:] if text[:1] in ("-", "+") else text
    return int(text) if body.isascii() and body.isdigit() and len(body) <= 20 else None


# -- strings: whole


def s_len(value: Value, args: list[Value]) -> Value:
    text = text_of(value)
    return len(text) if text.isascii() else len(octets(text))


def s_int(value: Value, args: list[Value]) -> Value:
    if isinstance(value, int):
        return value
    text = text_of(value)
    return 0 if text[:1] in (" ", "\t") else to_int(text)


def _digest(name: str) -> TransformationApply:
    def apply(value: Value, args: list[Value]) -> Value:
        return hashlib.new(name, octets(value), usedforsecurity=False).hexdigest()

    return apply


def _keyed_digest(name: str) -> TransformationApply:
    def apply(value: Value, args: list[Value]) -> Value:
        return hmac.new(octets(args[0]), octets(value), name).hexdigest()

    return apply


def s_crc32(value: Value, args: list[Value]) -> Value:
    """The CRC-32 without the last inversion that others make, as OpenSIPS has it."""
    return str(zlib.crc32(octets(value)) ^ 0xFFFFFFFF)


def s_encode_hexa(value: Value, args: list[Value]) -> Value:
    data = octets(value)
    return data.hex() if len(data) * 2 <= MAX_TEXT else None


def s_decode_hexa(value: Value, args: list[Value]) -> Value:
    """The octets of pairs of digits; a digit left over at the end counts for nothing."""
    text = text_of(value)
    text = text[: len(text) // 2 * 2]
    if any(c not in "0123456789abcdefABCDEF" for c in text):
        return None
    return from_octets(bytes.fromhex(text))


def s_dec2hex(value: Value, args: list[Value]) -> Value:
    number = _number(value)
    return f"{number & 0xFFFFFFFF:x}" if number is not None else None


def s_hex2dec(value: Value, args: list[Value]) -> Value:
    text = text_of(value).removeprefix("0x")
    if not text:
        return 0
    if any(c not in "0123456789abcdefABCDEF" for c in text) or len(text) > 16:
        return None
    return wrap(int(text, 16))


def s_b64encode(value: Value, args: list[Value]) -> Value:
    data = octets(value)
    return base64.b64encode(data).decode("ascii") if len(data) <= MAX_TEXT * 3 // 4 else None


def s_b64decode(value: Value, args: list[Value]) -> Value:
    """As many characters as can be decoded; anything that is no Base64 ends it."""
    data = octets(value).rstrip(b"=")
    end = len(data) - len(data.lstrip(_BASE64))
    data = data[:end]
    if len(data) % 4 == 1:
        data = data[:-1]
    return from_octets(binascii.a2b_base64(data + b"=" * (-len(data) % 4)))


def s_xor(value: Value, args: list[Value]) -> Value:
    data, key = octets(value), octets(args[0])
    if not key:
        return None
    mixed = bytes(byte ^ key[at % len(key)] for at, byte in enumerate(data))
    return from_octets(mixed)


def s_tolower(value: Value, args: list[Value]) -> Value:
    text = text_of(value)
    return text.lower() if text.isascii() else from_octets(octets(text).lower())


def s_toupper(value: Value, args: list[Value]) -> Value:
    text = text_of(value)
    return text.upper() if text.isascii() else from_octets(octets(text).upper())


_BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_BLANKS: Final = " \t\r\n"


def s_trim(value: Value, args: list[Value]) -> Value:
    return text_of(value).strip(_BLANKS)


def s_triml(value: Value, args: list[Value]) -> Value:
    return text_of(value).lstrip(_BLANKS)


def s_trimr(value: Value, args: list[Value]) -> Value:
    return text_of(value).rstrip(_BLANKS)


def s_reverse(value: Value, args: list[Value]) -> Value:
    return text_of(value)[::-1]


def s_date2unix(value: Value, args: list[Value]) -> Value:
    """The seconds since 1970 of an RFC 3261 §20.17 date "Sat, 13 Nov 2010 23:29:00 GMT"."""
    try:
        date = parsedate_to_datetime(text_of(value))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return int((date - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())


# -- strings: parts


def s_substr(value: Value, args: list[Value]) -> Value:
    """{s.substr,offset,length}: a negative offset counts from the end; a length of 0, or beyond the end, goes to the
    end; a negative one leaves so many characters at the end out."""
    text = text_of(value)
    offset, length = args[0], args[1]
    if not isinstance(offset, int) or not isinstance(length, int):
        return None
    start = offset if offset >= 0 else len(text) + offset
    if not 0 <= start < len(text):
        return None
    if length > 0:
        return text[start : start + length]
    if length == 0:
        return text[start:]
    return text[start : len(text) + length] if len(text) + length >= start else None


def s_select(value: Value, args: list[Value]) -> Value:
    """{s.select,index,separator}: a negative index counts from the end, -1 is the last; NULL when there is none."""
    index, separator = args[0], text_of(args[1])
    if not isinstance(index, int) or not separator:
        return None
    fields = text_of(value).split(separator)
    return fields[index] if -len(fields) <= index < len(fields) else None


def _offset(start: int, length: int) -> int:
    """A search offset: a negative one counts from the end, around as often as it takes."""
    return start if start >= 0 or not length else start % length


def s_index(value: Value, args: list[Value]) -> Value:
    """{s.index,text,offset}: the place of a text at or after an offset; NULL when it is not there."""
    text, needle = text_of(value), text_of(args[0])
    start = args[1] if len(args) > 1 else 0
    if not isinstance(start, int):
        return None
    at = text.find(needle, _offset(start, len(text)))
    return at if at >= 0 else None


def s_rindex(value: Value, args: list[Value]) -> Value:
    """{s.rindex,text,offset}: the last place of a text at or before an offset; NULL when it is not there."""
    text, needle = text_of(value), text_of(args[0])
    start = args[1] if len(args) > 1 else len(text)
    if not isinstance(start, int):
        return None
    at = text.rfind(needle, 0, _offset(start, len(text)) + len(needle))
    return at if at >= 0 else None


def s_fill_left(value: Value, args: list[Value]) -> Value:
    """{s.fill.left,text,length}: put the text before it until it is as long; a longer one stays."""
    text, filler, length = text_of(value), text_of(args[0]), args[1]
    if not isinstance(length, int) or not filler or length > MAX_TEXT:
        return None
    missing = length - len(text)
    return (filler * (missing // len(filler) + 1))[-missing:] + text if missing > 0 else text


def s_fill_right(value: Value, args: list[Value]) -> Value:
    """{s.fill.right,text,length}: put the text after it until it is as long; a longer one stays."""
    text, filler, length = text_of(value), text_of(args[0]), args[1]
    if not isinstance(length, int) or not filler or length > MAX_TEXT:
        return None
    missing = length - len(text)
    return text + (filler * (missing // len(filler) + 1))[:missing] if missing > 0 else text


def s_width(value: Value, args: list[Value]) -> Value:
    """Exactly as long: spaces after it, or cut."""
    width = args[0]
    if not isinstance(width, int) or not 0 < width <= MAX_TEXT:
        return None
    return text_of(value).ljust(width)[:width]


# -- strings: escapes


def _escape(safe: frozenset[str]) -> TransformationApply:
    def apply(value: Value, args: list[Value]) -> Value:
        out: list[str] = []
        for byte in octets(value):
            char = chr(byte)
            # A control character or an octet above ASCII belongs in no URI a script builds (RFC 3261 §25.1).
            if byte < 32 or byte > 126:
                return None
            out.append(char if char in safe else f"%{byte:02x}")
        return "".join(out)

    return apply


def _unescape(value: Value, args: list[Value]) -> Value:
    text = text_of(value)
    if "%" not in text:
        return text
    pieces = text.split("%")
    out = [pieces[0].encode("utf-8", "surrogateescape")]
    for piece in pieces[1:]:
        digits = piece[:2]
        if len(digits) < 2 or any(c not in "0123456789abcdefABCDEF" for c in digits):
            return None
        byte = int(digits, 16)
        if byte < 32 or byte > 126:
            return None
        out.append(bytes([byte]) + piece[2:].encode("utf-8", "surrogateescape"))
    return from_octets(b"".join(out))


def s_escape_common(value: Value, args: list[Value]) -> Value:
    return "".join(_COMMON.get(char, char) for char in text_of(value))


def s_unescape_common(value: Value, args: list[Value]) -> Value:
    text = text_of(value)
    out: list[str] = []
    at = 0
    while at < len(text):
        char = text[at]
        if char == "\\" and at + 1 < len(text) and text[at + 1] in "'\"\\0":
            at += 1
            char = "\0" if text[at] == "0" else text[at]
        out.append(char)
        at += 1
    return "".join(out)


# -- addresses


def _ip(value: Value) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    text = text_of(value)
    try:
        return ipaddress.ip_address(text[1:-1] if text.startswith("[") and text.endswith("]") else text)
    except ValueError:
        return None


def ip_pton(value: Value, args: list[Value]) -> Value:
    address = _ip(value)
    return from_octets(address.packed) if address is not None else None


def ip_ntop(value: Value, args: list[Value]) -> Value:
    """The address of 4 or 16 octets; IPv6 in eight groups of capital digits, as OpenSIPS writes it."""
    data = octets(value)
    if len(data) == 4:
        return str(ipaddress.IPv4Address(data))
    if len(data) != 16:
        return None
    return ":".join(f"{data[at] << 8 | data[at + 1]:X}" for at in range(0, 16, 2))


def ip_isip(value: Value, args: list[Value]) -> Value:
    if value == "":
        return None
    return 1 if _ip(value) is not None else 0


def ip_isip4(value: Value, args: list[Value]) -> Value:
    if value == "":
        return None
    address = _ip(value)
    return 1 if address is not None and address.version == 4 else 0


def ip_isip6(value: Value, args: list[Value]) -> Value:
    if value == "":
        return None
    address = _ip(value)
    return 1 if address is not None and address.version == 6 else 0


_PRIVATE: Final = tuple(
    ipaddress.IPv4Network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8")
)


def ip_isprivate(value: Value, args: list[Value]) -> Value:
    """1 for an IPv4 address of RFC 1918 or RFC 6598 or a loopback one, 0 for anything else but an empty text."""
    if value == "":
        return None
    address = _ip(value)
    if not isinstance(address, ipaddress.IPv4Address):
        return 0
    return 1 if any(address in network for network in _PRIVATE) else 0


def ip_family(value: Value, args: list[Value]) -> Value:
    """ "INET" or "INET6" of an address in network order, as {ip.pton} makes it."""
    length = len(octets(value))
    return "INET" if length == 4 else "INET6" if length == 16 else None


def ip_matches(value: Value, args: list[Value]) -> Value:
    """1 when the address lies in "network/prefix", 0 when not; NULL for another family or no address."""
    address = _ip(value)
    try:
        network = ipaddress.ip_network(text_of(args[0]), strict=False)
    except ValueError:
        return None
    if address is None or address.version != network.version:
        return None
    return 1 if address in network else 0


# -- comma lists


def csv_count(value: Value, args: list[Value]) -> Value:
    text = text_of(value)
    return len(csv_items(text)) if text else None


def csv_items(text: str) -> list[str]:
    """The fields of a comma list; a quoted one keeps its commas and quotes."""
    found: list[str] = []
    start = at = 0
    while at < len(text):
        if text[at] == '"':
            at = uris.quoted_end(text, at)
            continue
        if text[at] == ",":
            found.append(text[start:at].strip())
            start = at + 1
        at += 1
    found.append(text[start:].strip())
    return found


def csv_value(value: Value, args: list[Value]) -> Value:
    """The field at an index; negative counts from the end; NULL outside."""
    index = args[0]
    items = csv_items(text_of(value))
    return items[index] if isinstance(index, int) and -len(items) <= index < len(items) else None


# -- substitution


class Substitution:
    """One "/expression/replacement/flags" (any delimiter): flags g all, i without case, s over several lines.

    The replacement takes `\\0` to `\\9`, and variables (`$ru`, `$(...)`) when `expand` made a format of it.
    """

    def __init__(self, text: str, patterns: PatternCache) -> None:
        if len(text) < 3:
            raise ValueError("an expression needs the form /expression/replacement/flags")
        mark = text[0]
        if mark in "\\ \t" or mark.isalnum():
            raise ValueError(f"{mark!r} cannot separate the parts of an expression")
        parts: list[str] = []
        current: list[str] = []
        at = 1
        while at < len(text) and len(parts) < 2:
            char = text[at]
            if char == "\\" and at + 1 < len(text):
                # A delimiter that is escaped is itself.
                current.append(text[at + 1] if text[at + 1] == mark else char + text[at + 1])
                at += 2
                continue
            if char == mark:
                parts.append("".join(current))
                current = []
            else:
                current.append(char)
            at += 1
        if len(parts) < 2:
            raise ValueError(f"the last {mark!r} of an expression is missing")
        self.all: bool = False
        ignore_case = whole_text = False
        for flag in text[at:].strip():
            if flag == "g":
                self.all = True
            elif flag == "i":
                ignore_case = True
            elif flag == "s":
                whole_text = True
            else:
                raise ValueError(f"unknown flag {flag!r} of an expression")
        self.pattern: Pattern = patterns.get(parts[0], ignore_case, lines=not whole_text)
        self.replacement: str = parts[1]

    def replace(self, text: str, expand: Callable[[str], str] | None = None) -> str | None:
        """The text with the first match or all of them replaced; None without a match.

        Raises ValueError for a match of nothing, which OpenSIPS does not replace either, and TimeoutError.
        """
        out: list[str] = []
        at = 0
        found = False
        template = expand(self.replacement) if expand is not None else self.replacement
        while at <= len(text):
            match = self.pattern.find(text, at)
            if match is None:
                break
            if match.end() == match.start():
                raise ValueError("the expression matches the empty text")
            found = True
            out.append(text[at : match.start()])
            out.append(_fill(template, match.groups(default=""), match.group(0)))
            at = match.end()
            if not self.all or sum(map(len, out)) > MAX_TEXT:
                break
        if not found:
            return None
        out.append(text[at:])
        return "".join(out)[:MAX_TEXT]


def _fill(template: str, groups: tuple[str, ...], whole: str) -> str:
    out: list[str] = []
    at = 0
    while at < len(template):
        char = template[at]
        if char == "\\" and at + 1 < len(template):
            at += 1
            char = template[at]
            if "0" <= char <= "9":
                number = int(char)
                out.append(whole if number == 0 else groups[number - 1] if number <= len(groups) else "")
            else:
                out.append({"n": "\n", "r": "\r", "t": "\t"}.get(char, char))
        else:
            out.append(char)
        at += 1
    return "".join(out)


def re_subst(patterns: PatternCache) -> TransformationApply:
    """{re.subst,/expression/replacement/flags}: the value itself when there is no match, NULL for the empty text."""

    def apply(value: Value, args: list[Value]) -> Value:
        text = text_of(value)
        if not text:
            return None
        try:
            replaced = Substitution(text_of(args[0]), patterns).replace(text)
        except (ValueError, TimeoutError):
            return None
        return text if replaced is None else replaced

    return apply


# -- what needs the server


def s_eval(catalogue: Catalogue) -> Callable[[Run, Value, list[Value]], Value]:
    """{s.eval}: the value as a format, evaluated for the message at hand."""

    def apply(run: Run, value: Value, args: list[Value]) -> Value:
        try:
            return parse_format(text_of(value), catalogue)(run)
        except ValueError:
            return None

    return apply


def ip_resolve(services: ScriptServices, family: int) -> TransformationApply:
    """{ip.resolve}: the address of a host name that is known without waiting."""

    def apply(value: Value, args: list[Value]) -> Value:
        address = _ip(value)
        if address is not None:
            return str(address) if family in (0, address.version) else None
        return services.resolve(text_of(value), family)

    return apply


# -- the table


def register(catalogue: Catalogue, services: ScriptServices) -> None:
    """Make them known."""

    def add(cls: str, name: str, apply: Callable[..., Value], *params: str, with_run: bool = False) -> None:
        doc = (apply.__doc__ or "").strip()
        catalogue.add_transformation(TransformationDecl(cls, name, params, apply, doc=doc, with_run=with_run))

    for name, plain in _PLAIN.items():
        add("s", name, plain)
    for name in ("md5", "sha1", "sha224", "sha256", "sha384", "sha512"):
        add("s", name, _digest(name))
        if name != "md5":
            add("s", f"{name}_hmac", _keyed_digest(name), "string")
    add("s", "escape.user", _escape(_USER_SAFE))
    add("s", "escape.param", _escape(_PARAM_SAFE))
    add("s", "unescape.user", _unescape)
    add("s", "unescape.param", _unescape)
    add("s", "eval", s_eval(catalogue), with_run=True)
    add("s", "xor", s_xor, "string")
    add("s", "fill.left", s_fill_left, "string", "number")
    add("s", "fill.right", s_fill_right, "string", "number")
    add("s", "index", s_index, "string", "number?")
    add("s", "rindex", s_rindex, "string", "number?")
    add("s", "select", s_select, "number", "char")
    add("s", "substr", s_substr, "number", "number")
    add("s", "width", s_width, "number")
    for name, plain in _ADDRESSES.items():
        add("ip", name, plain)
    add("ip", "matches", ip_matches, "string")
    add("ip", "resolve", ip_resolve(services, 0))
    add("ip", "resolve4", ip_resolve(services, 4))
    add("ip", "resolve6", ip_resolve(services, 6))
    add("csv", "count", csv_count)
    add("csv", "value", csv_value, "number")
    add("re", "subst", re_subst(services.patterns), "string")


_PLAIN: Final[dict[str, TransformationApply]] = {
    "b64decode": s_b64decode,
    "b64encode": s_b64encode,
    "crc32": s_crc32,
    "date2unix": s_date2unix,
    "dec2hex": s_dec2hex,
    "decode.hexa": s_decode_hexa,
    "encode.hexa": s_encode_hexa,
    "escape.common": s_escape_common,
    "hex2dec": s_hex2dec,
    "int": s_int,
    "len": s_len,
    "reverse": s_reverse,
    "tolower": s_tolower,
    "toupper": s_toupper,
    "trim": s_trim,
    "triml": s_triml,
    "trimr": s_trimr,
    "unescape.common": s_unescape_common,
}

_ADDRESSES: Final[dict[str, TransformationApply]] = {
    "family": ip_family,
    "isip": ip_isip,
    "isip4": ip_isip4,
    "isip6": ip_isip6,
    "isprivate": ip_isprivate,
    "ntop": ip_ntop,
    "pton": ip_pton,
}
