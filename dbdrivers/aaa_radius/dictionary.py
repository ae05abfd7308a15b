"""Dictionaries of RADIUS attributes, in the format of FreeRADIUS and of radiusclient.

The attributes of Digest-* keep the numbers of draft-sterman-aaa-sip-00 (206, and 207 with its parts) whatever a file
says: FreeRADIUS' digest module reads no others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from opensipspy.aaa import VALUES

MAX_DEPTH: Final = 8
MAX_LINES: Final = 500_000
DIGEST: Final = "digest-"
DIGEST_PARTS: Final = 1062
"""Numbers above this one, up to ten, are parts of attribute 207."""

BUILT_IN: Final = """
User-Name 1 string|User-Password 2 string|NAS-IP-Address 4 ipaddr|NAS-Port 5 integer|Service-Type 6 integer
Framed-IP-Address 8 ipaddr|Reply-Message 18 string|State 24 octets|Class 25 octets|Session-Timeout 27 integer
Idle-Timeout 28 integer|Called-Station-Id 30 string|Calling-Station-Id 31 string|NAS-Identifier 32 string
Acct-Status-Type 40 integer|Acct-Delay-Time 41 integer|Acct-Session-Id 44 string|Acct-Session-Time 46 integer
Acct-Terminate-Cause 49 integer|Event-Timestamp 55 date|NAS-Port-Type 61 integer|Message-Authenticator 80 octets
NAS-IPv6-Address 95 ipv6addr
Sip-Method 204 integer|Sip-Response-Code 205 integer|Sip-From-Tag 206 string|Sip-To-Tag 207 string
Sip-Uri-User 208 string|Sip-Uri-Host 209 string|Sip-Group 211 string|Sip-Rpid 213 string|SIP-AVP 225 string
Sip-Call-Duration 227 integer|Sip-Call-Setuptime 228 integer|Sip-Call-Created 229 integer
Sip-Call-MSDuration 230 integer
Digest-Response 206 string|Digest-Realm 1063 string|Digest-Nonce 1064 string|Digest-Method 1065 string
Digest-URI 1066 string|Digest-QoP 1067 string|Digest-Algorithm 1068 string|Digest-Body-Digest 1069 string
Digest-CNonce 1070 string|Digest-Nonce-Count 1071 string|Digest-Username 1072 string|Digest-User-Name 1072 string
"""


class DictionaryError(Exception):
    """A dictionary that cannot be read."""


class Attribute:
    """One attribute. vendor: 0 for none. kind: its type as the dictionary calls it."""

    __slots__ = ("kind", "name", "number", "vendor")

    def __init__(self, name: str, number: int, kind: str, vendor: int = 0) -> None:
        self.name = name
        self.number = number
        self.kind = kind
        self.vendor = vendor


class Dictionary:
    """Attributes by name, without regard to case, and by (vendor, number)."""

    def __init__(self) -> None:
        self._names: dict[str, Attribute] = {}
        self._numbers: dict[tuple[int, int], Attribute] = {}
        self._values: dict[str, dict[str, int]] = {name: dict(values) for name, values in VALUES.items()}
        self._vendors: dict[str, int] = {}
        self._lines = 0
        for item in BUILT_IN.replace("\n", "|").split("|"):
            if item:
                name, number, kind = item.split()
                self._add(Attribute(name, int(number), kind))

    def _add(self, attribute: Attribute) -> None:
        self._names[attribute.name.lower()] = attribute
        if not attribute.name.lower().startswith(DIGEST):
            self._numbers[attribute.vendor, attribute.number] = attribute

    def attribute(self, name: str) -> Attribute | None:
        return self._names.get(name.lower())

    def by_number(self, vendor: int, number: int) -> Attribute | None:
        return self._numbers.get((vendor, number))

    def value(self, attribute: str, name: str) -> int | None:
        return self._values.get(attribute.lower(), {}).get(name.lower())

    def read(self, path: Path, depth: int = 0) -> None:
        """Take a file and those it includes. Raises DictionaryError naming the line."""
        if depth > MAX_DEPTH:
            raise DictionaryError(f"{path}: more than {MAX_DEPTH} files include each other")
        try:
            text = path.read_text("utf-8", "surrogateescape")
        except OSError as error:
            raise DictionaryError(f"{path}: {error.strerror}") from error
        vendor = nested = 0
        for number, line in enumerate(text.splitlines(), 1):
            self._lines += 1
            if self._lines > MAX_LINES:
                raise DictionaryError(f"{path}: the dictionary has more than {MAX_LINES} lines")
            words = line.partition("#")[0].split()
            if not words:
                continue
            keyword = words[0].upper()
            try:
                if keyword in ("$INCLUDE", "INCLUDE", "$INCLUDE-"):
                    self._include(path.parent / words[1], keyword, depth)
                elif keyword == "VENDOR":
                    self._vendors[words[1].lower()] = int(words[2], 0)
                elif keyword == "BEGIN-VENDOR":
                    vendor = self._vendors[words[1].lower()]
                elif keyword == "END-VENDOR":
                    vendor = 0
                elif keyword in ("BEGIN-TLV", "END-TLV"):
                    nested += 1 if keyword == "BEGIN-TLV" else -1
                elif keyword == "ATTRIBUTE":
                    if not nested:
                        self._attribute(words, vendor)
                elif keyword == "VALUE":
                    self._values.setdefault(words[1].lower(), {})[words[2].lower()] = int(words[3], 0)
            except (IndexError, KeyError, ValueError) as error:
                raise DictionaryError(f"{path}, line {number}: {keyword} is not understood") from error

    def _include(self, path: Path, keyword: str, depth: int) -> None:
        if keyword != "$INCLUDE-" or path.is_file():
            self.read(path, depth + 1)

    def _attribute(self, words: list[str], vendor: int) -> None:
        name, number, kind = words[1], words[2], words[3].lower()
        if name.lower().startswith(DIGEST) or "." in number:
            return  # parts of structured attributes are nothing that SIP uses
        for word in words[4:]:
            for option in word.split(","):
                vendor = self._vendors.get(option.removeprefix("vendor=").lower(), vendor)
        self._add(Attribute(name, int(number, 0), kind.partition("[")[0], vendor))
