"""What AVPs, commands and applications are called, and their values as JSON.

Known from the start are the AVPs of RFC 6733, those of RFC 4740 that carry digest credentials, and OpenSIPS' own;
files in the module's syntax (ATTRIBUTE, VENDOR, APPLICATION, REQUEST, ANSWER) add more. Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address
from typing import Final

from opensipspy.modules.aaa_diameter.codec import (
    MANDATORY,
    MAX_AVPS,
    MAX_DEPTH,
    Avp,
    DiameterError,
    decode_avps,
    encode_avps,
)

STRING: Final = "string"
HEX: Final = "hex"
IP: Final = "ip"
TIME: Final = "time"
GROUPED: Final = "grouped"
NUMBERS: Final = {
    "integer32": struct.Struct("!i"),
    "integer64": struct.Struct("!q"),
    "unsigned32": struct.Struct("!I"),
    "unsigned64": struct.Struct("!Q"),
    "float32": struct.Struct("!f"),
    "float64": struct.Struct("!d"),
}
# Words of a file -> kinds. What stands behind is looked at from its start, as the C module does: "integer" is 32 bits.
_KIND_WORDS: Final = (
    ("ip", IP),
    ("hex", HEX),
    ("time", TIME),
    ("utf8string", STRING),
    ("string", STRING),
    ("octetstring", STRING),
    ("unsigned64", "unsigned64"),
    ("unsigned", "unsigned32"),
    ("integer64", "integer64"),
    ("integer", "integer32"),
    ("float64", "float64"),
    ("float", "float32"),
    ("grouped", GROUPED),
)
POSITIONS: Final = frozenset(("FIXED_HEAD", "REQUIRED", "OPTIONAL"))
FAILED_AVP: Final = 279
NTP_OFFSET: Final = 2208988800
"""Seconds from 1900 to 1970 (RFC 6733 §4.3.1, Time)."""
MAX_RULES: Final = 128
MAX_APPLICATIONS: Final = 64
MAX_NAME: Final = 64

# RFC 6733 §4.5 and RFC 4740, RFC 5090, RFC 2865/2866, and those OpenSIPS defines; "-" behind: without the M flag.
BASE: Final = """
User-Name 1 string; Class 25 string; Session-Timeout 27 unsigned32; Proxy-State 33 string;
Acct-Session-Id 44 string; Acct-Multi-Session-Id 50 string; Event-Timestamp 55 time;
Acct-Interim-Interval 85 unsigned32; Host-IP-Address 257 address; Auth-Application-Id 258 unsigned32;
Acct-Application-Id 259 unsigned32; Vendor-Specific-Application-Id 260 grouped; Redirect-Host-Usage 261 unsigned32;
Redirect-Max-Cache-Time 262 unsigned32; Session-Id 263 string; Origin-Host 264 string;
Supported-Vendor-Id 265 unsigned32; Vendor-Id 266 unsigned32; Firmware-Revision 267 unsigned32 -;
Result-Code 268 unsigned32; Product-Name 269 string -; Session-Binding 270 unsigned32;
Session-Server-Failover 271 unsigned32; Multi-Round-Time-Out 272 unsigned32; Disconnect-Cause 273 unsigned32;
Auth-Request-Type 274 unsigned32; Auth-Grace-Period 276 unsigned32; Auth-Session-State 277 unsigned32;
Origin-State-Id 278 unsigned32; Failed-AVP 279 grouped; Proxy-Host 280 string; Error-Message 281 string -;
Route-Record 282 string; Destination-Realm 283 string; Proxy-Info 284 grouped; Re-Auth-Request-Type 285 unsigned32;
Accounting-Sub-Session-Id 287 unsigned64; Authorization-Lifetime 291 unsigned32; Redirect-Host 292 string;
Destination-Host 293 string; Error-Reporting-Host 294 string -; Termination-Cause 295 unsigned32;
Origin-Realm 296 string; Experimental-Result 297 grouped; Experimental-Result-Code 298 unsigned32;
Inband-Security-Id 299 unsigned32; Accounting-Record-Type 480 unsigned32;
Accounting-Realtime-Required 483 unsigned32; Accounting-Record-Number 485 unsigned32; Digest-Response 103 string;
Digest-Realm 104 string; Digest-Nonce 105 string; Digest-Response-Auth 106 string; Digest-Nextnonce 107 string;
Digest-Method 108 string; Digest-URI 109 string; Digest-QoP 110 string; Digest-Algorithm 111 string;
Digest-Entity-Body-Hash 112 string; Digest-CNonce 113 string; Digest-Nonce-Count 114 string;
Digest-Username 115 string; Digest-Opaque 116 string; Digest-Auth-Param 117 string; Digest-AKA-Auts 118 string;
Digest-Domain 119 string; Digest-Stale 120 string; Digest-HA1 121 string; SIP-AOR 122 string;
SIP-Server-URI 371 string; SIP-Auth-Data-Item 376 grouped; SIP-Authentication-Scheme 377 unsigned32;
SIP-Item-Number 378 unsigned32; SIP-Authorization 380 grouped; SIP-Number-Auth-Items 382 unsigned32;
SIP-Method 393 string; Service-Type 6 integer32 -; Acct-Status-Type 40 integer32; Sip-Method 204 integer32;
Sip-Response-Code 205 unsigned32; Sip-From-Tag 206 string; Sip-To-Tag 207 string; Sip-Uri-User 208 string;
Sip-Uri-Host 209 string; SIP-AVP 225 string; Sip-Call-Duration 227 unsigned32; Sip-Call-Setuptime 228 unsigned32;
Sip-Call-Created 229 unsigned32; Sip-Call-MSDuration 230 unsigned32; Transaction-Id 231 string
"""
CISCO: Final = 9


class DictionaryError(ValueError):
    """A line of a dictionary file that cannot be understood. line: its number, from 1."""

    def __init__(self, reason: str, line: int) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line


class Rule:
    """What a command or a group says about one AVP in it. limit: how often it may occur, -1 for any number."""

    __slots__ = ("limit", "name", "position")

    def __init__(self, name: str, position: str, limit: int) -> None:
        self.name = name
        self.position = position
        self.limit = limit


class AvpType:
    """One kind of AVP. kind: one of the constants above, or a key of NUMBERS."""

    __slots__ = ("code", "flags", "kind", "name", "rules", "vendor")

    def __init__(self, name: str, code: int, kind: str, vendor: int = 0, flags: int = MANDATORY) -> None:
        self.name = name
        self.code = code
        self.kind = kind
        self.vendor = vendor
        self.flags = flags
        self.rules: tuple[Rule, ...] = ()


class Application:
    """An application that can be used and is told to peers. vendor: 0 for none."""

    __slots__ = ("is_auth", "number", "vendor")

    def __init__(self, number: int, vendor: int, is_auth: bool) -> None:
        self.number = number
        self.vendor = vendor
        self.is_auth = is_auth


class Dictionary:
    """The AVPs, commands and applications that are known."""

    def __init__(self) -> None:
        self._by_name: dict[str, AvpType] = {}
        self._by_code: dict[tuple[int, int], AvpType] = {}
        self.vendors: dict[int, str] = {}
        self.applications: dict[int, Application] = {}
        self.requests: dict[int, tuple[Rule, ...]] = {}
        self.answers: dict[int, tuple[Rule, ...]] = {}
        for entry in BASE.split(";"):
            name, code, kind, *rest = entry.split()
            self.add(AvpType(name, int(code), kind, 0, 0 if rest else MANDATORY))
        self.vendors[CISCO] = "Cisco"
        self.add(AvpType("Cisco-AVPair", 1, STRING, CISCO, 0))
        # Accounting (RFC 6733 §9) and the SIP application (RFC 4740).
        self.applications[3] = Application(3, 0, False)
        self.applications[6] = Application(6, 0, True)
        self.requests[271] = self.answers[271] = ()
        self.requests[286] = self.answers[286] = ()

    # --- what is known

    def add(self, avp: AvpType) -> None:
        """Make an AVP known; a later one of the same name or code takes the place of an earlier one."""
        self._by_name[avp.name] = avp
        self._by_code[avp.vendor, avp.code] = avp

    def named(self, name: str) -> AvpType | None:
        """The AVP of a name, or of a number without a vendor."""
        found = self._by_name.get(name)
        if found is None and name.isascii() and name.isdigit() and len(name) <= 10:
            found = self._by_code.get((0, int(name)))
        return found

    def coded(self, code: int, vendor: int) -> AvpType | None:
        """The AVP of a code."""
        return self._by_code.get((vendor, code))

    # --- files

    def load(self, text: str) -> None:
        """Add what a file defines. Raises DictionaryError at the first line that is wrong."""
        lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
        rest = iter([(number, line) for number, line in lines if line and not line.startswith("#")])
        for number, line in rest:
            word = line.split(None, 1)[0]
            if word.upper() == "ATTRIBUTE":
                self._read_attribute(line, number, rest)
            elif word == "VENDOR":
                self._read_vendor(line, number)
            elif word in ("APPLICATION", "APPLICATION-AUTH", "APPLICATION-ACC"):
                self._read_application(word, line, number)
            elif word in ("REQUEST", "ANSWER"):
                parts = line.split(None, 2)
                if len(parts) < 3:
                    raise DictionaryError(f"{word} needs a code and a name", number)
                code = _number(parts[1], number, 0xFFFFFF)
                (self.requests if word == "REQUEST" else self.answers)[code] = self._read_rules(number, rest)
            else:
                raise DictionaryError(f"{word} is no keyword", number)

    def _read_attribute(self, line: str, number: int, rest: Iterator[tuple[int, str]]) -> None:
        _, name, code, *more = (*line.split(), "", "")[: max(3, len(line.split()))]
        if not name or not code:
            raise DictionaryError("ATTRIBUTE needs a name and a code", number)
        if len(name) > MAX_NAME:
            raise DictionaryError(f"a name of more than {MAX_NAME} characters", number)
        kind = STRING
        if more and more[0]:
            word = more[0].lower()
            found = next((kind for start, kind in _KIND_WORDS if word.startswith(start)), None)
            if found is None:
                raise DictionaryError(f"{more[0]} is no type", number)
            kind = found
        vendor = _number(more[1], number) if len(more) > 1 and more[1] else 0
        if not _number(code, number):
            raise DictionaryError("an AVP has no code 0", number)
        avp = AvpType(name, _number(code, number), kind, vendor)
        if kind == GROUPED:
            avp.rules = self._read_rules(number, rest)
        self.add(avp)

    def _read_vendor(self, line: str, number: int) -> None:
        parts = line.split(None, 2)
        if len(parts) < 3:
            raise DictionaryError("VENDOR needs a number and a name", number)
        self.vendors[_number(parts[1], number)] = parts[2]

    def _read_application(self, word: str, line: str, number: int) -> None:
        # "APPLICATION-AUTH 16777216/10415 3GPP Cx"; spaces may stand around the slash.
        left, slash, right = line[len(word) :].partition("/")
        if slash and left.strip().isdigit():
            parts = right.split(None, 1)
            code, vendor = left.strip(), _number(parts[0] if parts else "", number)
            if vendor not in self.vendors:
                raise DictionaryError(f"vendor {vendor} is not defined", number)
            name = parts[1] if len(parts) > 1 else ""
        else:
            _, code, name = [*line.split(None, 2), "", ""][:3]
            vendor = 0
        if not name:
            raise DictionaryError("an application needs a number and a name", number)
        if len(self.applications) >= MAX_APPLICATIONS:
            raise DictionaryError(f"more than {MAX_APPLICATIONS} applications", number)
        found = _number(code, number)
        self.applications.setdefault(found, Application(found, vendor, word == "APPLICATION-AUTH"))

    def _read_rules(self, number: int, rest: Iterator[tuple[int, str]]) -> tuple[Rule, ...]:
        rules: list[Rule] = []
        start = number
        for number, line in rest:
            if line.startswith("{"):
                continue
            if line.startswith("}"):
                break
            parts = [part.strip() for part in line.split("|")]
            if len(parts) != 3 or parts[1] not in POSITIONS:
                raise DictionaryError("expected NAME | REQUIRED or OPTIONAL or FIXED_HEAD | COUNT", number)
            if self.named(parts[0]) is None:
                raise DictionaryError(f"AVP {parts[0]} is not defined", number)
            if len(rules) >= MAX_RULES:
                raise DictionaryError(f"more than {MAX_RULES} AVPs", number)
            limit = -1 if parts[2] == "-1" else _number(parts[2], number)
            rules.append(Rule(parts[0], parts[1], limit))
        else:
            raise DictionaryError("the block has no end", start)
        return tuple(rules)

    # --- values

    def encode(self, items: object) -> list[Avp]:
        """AVPs from a JSON array of objects with one member each. DiameterError names what is wrong."""
        return self._encode(items, 0)

    def _encode(self, items: object, depth: int) -> list[Avp]:
        if not isinstance(items, list):
            raise DiameterError("AVPs are an array of objects")
        if depth > MAX_DEPTH or len(items) > MAX_AVPS:
            raise DiameterError("too many AVPs, or groups within groups")
        found = []
        for item in items:
            if not isinstance(item, dict) or len(item) != 1:
                raise DiameterError("an AVP is an object with one member")
            [(name, value)] = item.items()
            avp = self.named(name)
            if avp is None:
                raise DiameterError(f"AVP {ascii(name)[1:-1]} is not in the dictionary")
            found.append(Avp(avp.code, self._octets(avp, value, depth), avp.vendor, avp.flags))
        return found

    def make(self, name: str, value: object) -> Avp:
        """One AVP by its name."""
        return self.encode([{name: value}])[0]

    def _octets(self, avp: AvpType, value: object, depth: int) -> bytes:
        kind = avp.kind
        if kind == GROUPED:
            return encode_avps(self._encode(value, depth + 1))
        if kind in NUMBERS:
            return _pack(avp, value)
        if kind == TIME and isinstance(value, int | float):
            try:
                return struct.pack("!I", int(value) + NTP_OFFSET & 0xFFFFFFFF)
            except (OverflowError, ValueError):
                raise DiameterError(f"{avp.name} is a time") from None
        if not isinstance(value, str):
            raise DiameterError(f"{avp.name} is a string")
        if kind == HEX:
            try:
                return bytes.fromhex(value)
            except ValueError:
                raise DiameterError(f"{avp.name} is hexadecimal") from None
        if kind in (IP, "address"):
            try:
                address = ip_address(value)
            except ValueError:
                pass
            else:
                family = b"" if kind == IP else struct.pack("!H", 1 if address.version == 4 else 2)
                return family + address.packed
        try:
            return value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            # Half of a surrogate pair, which JSON's escapes can bring.
            raise DiameterError(f"{avp.name} is no text") from None

    def decode(self, avps: Iterable[Avp]) -> list[dict[str, object]]:
        """AVPs as JSON values, in their order; those that are not known are left out, as the C module does."""
        return self._decode(avps, 0, [MAX_AVPS])

    def _decode(
        self, avps: Iterable[Avp], depth: int, left: list[int], failed: bool = False
    ) -> list[dict[str, object]]:
        found: list[dict[str, object]] = []
        for avp in avps:
            left[0] -= 1
            if left[0] < 0:
                raise DiameterError(f"more than {MAX_AVPS} AVPs")
            known = self.coded(avp.code, avp.vendor)
            if known is None:
                continue
            if known.kind == GROUPED:
                if depth >= MAX_DEPTH:
                    raise DiameterError(f"groups deeper than {MAX_DEPTH}")
                inner = failed or (known.code == FAILED_AVP and not known.vendor)
                found.append({known.name: self._decode(decode_avps(avp.data), depth + 1, left, inner)})
                continue
            try:
                value = _value(known, avp.data)
            except DiameterError:
                # RFC 6733 §7.5: Failed-AVP may hold what has no valid value, or none at all.
                if not failed:
                    raise
                value = None
            found.append({known.name: value})
        return found

    def unknown(self, avps: Sequence[Avp]) -> Avp | None:
        """The first AVP that must be understood and is not (RFC 6733 §4.1, M flag)."""
        for avp in avps:
            if avp.flags & MANDATORY and self.coded(avp.code, avp.vendor) is None:
                return avp
        return None

    def missing(self, rules: Iterable[Rule], avps: Sequence[Avp]) -> AvpType | None:
        """The first AVP that a command needs and that is not there."""
        present = {(avp.vendor, avp.code) for avp in avps}
        for rule in rules:
            known = self.named(rule.name)
            if rule.position != "OPTIONAL" and known is not None and (known.vendor, known.code) not in present:
                return known
        return None


def _number(text: str, line: int, most: int = 0xFFFFFFFF) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) > most:
        raise DictionaryError(f"{text or 'nothing'} is no number here", line)
    return int(text)


def _pack(avp: AvpType, value: object) -> bytes:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DiameterError(f"{avp.name} is a number")
    try:
        return NUMBERS[avp.kind].pack(value if avp.kind.startswith("float") else int(value))
    except (struct.error, OverflowError, ValueError):
        raise DiameterError(f"{avp.name} does not fit {avp.kind}") from None


def _value(avp: AvpType, data: bytes) -> object:
    """The value of an AVP that is no group. DiameterError when its length is not that of its type."""
    number = NUMBERS.get(avp.kind)
    if number is not None:
        if len(data) != number.size:
            raise DiameterError(f"{avp.name} has {len(data)} octets")
        value = number.unpack(data)[0]
        # JSON has neither infinities nor NaN.
        return value if not isinstance(value, float) or value - value == 0 else None
    if avp.kind == TIME:
        if len(data) != 4:
            raise DiameterError(f"{avp.name} has {len(data)} octets")
        return int.from_bytes(data, "big") - NTP_OFFSET & 0xFFFFFFFF
    if avp.kind == HEX:
        return data.hex()
    address = data[2:] if avp.kind == "address" else data
    if avp.kind in (IP, "address") and len(address) in (4, 16):
        return str(ip_address(address))
    return data.decode("utf-8", "surrogateescape")
