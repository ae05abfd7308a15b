"""RADIUS packets (RFC 2865, RFC 2866) with Message-Authenticator (RFC 3579 §3.2)."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import struct
from collections.abc import Iterator
from typing import Final

from opensipspy.aaa import AaaError, AaaValue, Attributes
from opensipspy.dbdrivers.aaa_radius.dictionary import DIGEST_PARTS, Attribute, Dictionary

ACCESS_REQUEST: Final = 1
ACCESS_ACCEPT: Final = 2
ACCESS_REJECT: Final = 3
ACCOUNTING_REQUEST: Final = 4
ACCOUNTING_RESPONSE: Final = 5
ACCESS_CHALLENGE: Final = 11
HEADER: Final = 20
MAX_PACKET: Final = 4096
MAX_VALUE: Final = 253
USER_PASSWORD: Final = 2
VENDOR_SPECIFIC: Final = 26
MESSAGE_AUTHENTICATOR: Final = 80
DIGEST_ATTRIBUTES: Final = 207
TEXTS: Final = ("string", "text")
NUMBERS: Final = {"integer": 4, "date": 4, "time_delta": 4, "short": 2, "byte": 1, "integer64": 8, "signed": 4}


def _octets(attribute: Attribute, value: AaaValue) -> bytes:
    name, kind = attribute.name, attribute.kind
    if kind in NUMBERS:
        try:
            return int(value).to_bytes(NUMBERS[kind], "big", signed=kind == "signed")
        except (OverflowError, ValueError) as error:
            raise AaaError(f"the value of {name} is no {kind}") from error
    if kind in ("ipaddr", "ipv6addr") and isinstance(value, str):
        try:
            return ipaddress.ip_address(value).packed
        except ValueError as error:
            raise AaaError(f"the value of {name} is no address") from error
    if isinstance(value, bytes):
        return value
    try:
        return str(value).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        # Half of a surrogate pair, which JSON's escapes can bring into a script.
        raise AaaError(f"the value of {name} is no text") from error


def _item(number: int, data: bytes, name: str, limit: int = MAX_VALUE) -> bytes:
    if len(data) > limit:
        raise AaaError(f"the value of {name} has {len(data)} octets, more than {limit}")
    return bytes((number, len(data) + 2)) + data


def _hidden(password: bytes, secret: bytes, authenticator: bytes) -> bytes:
    """RFC 2865 §5.2."""
    if len(password) > 128:
        raise AaaError("User-Password has more than 128 octets")
    padded = password.ljust(max(16, -(-len(password) // 16) * 16), b"\0")
    result, last = b"", authenticator
    for at in range(0, len(padded), 16):
        mask = hashlib.md5(secret + last, usedforsecurity=False).digest()
        last = bytes(a ^ b for a, b in zip(padded[at : at + 16], mask, strict=True))
        result += last
    return result


def fitted(dictionary: Dictionary, attributes: Attributes) -> tuple[list[tuple[str, AaaValue]], list[str]]:
    """The attributes with long texts cut, without those of unfit values; the names of both."""
    kept: list[tuple[str, AaaValue]] = []
    changed: list[str] = []
    for name, value in attributes:
        found = dictionary.attribute(name)
        try:
            if found is None:
                raise AaaError(f"the dictionary has no attribute {name}")
            data = _octets(found, value)
        except AaaError:
            changed.append(name)
            continue
        limit = MAX_VALUE - 6 if found.vendor else MAX_VALUE
        if len(data) > limit:
            changed.append(name)
            # No half character is left at the end.
            value = data[:limit].decode("utf-8", "ignore") if found.kind in TEXTS else data[:limit]
        kept.append((name, value))
    return kept, changed


def encode(dictionary: Dictionary, attributes: Attributes, secret: bytes, authenticator: bytes) -> bytes:
    """The attributes of a request. Raises AaaError for unknown ones and for values that do not fit."""
    parts = []
    for name, value in attributes:
        found = dictionary.attribute(name)
        if found is None:
            raise AaaError(f"the dictionary has no attribute {name}")
        data = _octets(found, value)
        if not data and found.number != USER_PASSWORD:
            continue  # RFC 2865 §5: what is empty is left out
        if found.vendor:
            inner = _item(found.number, data, name, MAX_VALUE - 6)
            parts.append(_item(VENDOR_SPECIFIC, struct.pack("!I", found.vendor) + inner, name))
        elif DIGEST_PARTS < found.number <= DIGEST_PARTS + 10:
            parts.append(_item(DIGEST_ATTRIBUTES, _item(found.number - DIGEST_PARTS, data, name, MAX_VALUE - 2), name))
        elif not 0 < found.number < 256:
            raise AaaError(f"{name} is no attribute of packets")
        elif found.number == USER_PASSWORD:
            parts.append(_item(USER_PASSWORD, _hidden(data, secret, authenticator), name))
        else:
            parts.append(_item(found.number, data, name))
    return b"".join(parts)


def access_request(number: int, attributes: bytes, secret: bytes, authenticator: bytes) -> bytes:
    """An Access-Request, Message-Authenticator first, as servers ask for against forged replies (CVE-2024-3596)."""
    length = HEADER + 18 + len(attributes)
    head = struct.pack("!BBH", ACCESS_REQUEST, number, _checked(length)) + authenticator
    start = bytes((MESSAGE_AUTHENTICATOR, 18))
    seal = hmac.digest(secret, head + start + bytes(16) + attributes, "md5")
    return head + start + seal + attributes


def accounting_request(number: int, attributes: bytes, secret: bytes) -> bytes:
    """RFC 2866 §3: the authenticator is a digest over the packet."""
    head = struct.pack("!BBH", ACCOUNTING_REQUEST, number, _checked(HEADER + len(attributes)))
    seal = hashlib.md5(head + bytes(16) + attributes + secret, usedforsecurity=False).digest()
    return head + seal + attributes


def _checked(length: int) -> int:
    if length > MAX_PACKET:
        raise AaaError(f"the request has {length} octets, more than {MAX_PACKET}")
    return length


def items(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(number, start, end) of the value of each attribute; raises ValueError for what is cut off."""
    at = HEADER
    while at < len(data):
        if at + 2 > len(data) or data[at + 1] < 2 or at + data[at + 1] > len(data):
            raise ValueError("an attribute is cut off")
        yield data[at], at + 2, at + data[at + 1]
        at += data[at + 1]


def check_reply(data: bytes, secret: bytes, authenticator: bytes) -> bytes | None:
    """The packet without padding; None unless it answers the request of that authenticator."""
    if len(data) < HEADER:
        return None
    length = int.from_bytes(data[2:4], "big")
    if not HEADER <= length <= min(len(data), MAX_PACKET):
        return None
    data = data[:length]
    seal = hashlib.md5(data[:4] + authenticator + data[HEADER:] + secret, usedforsecurity=False).digest()
    if not hmac.compare_digest(seal, data[4:HEADER]):
        return None
    try:
        for number, start, end in items(data):
            if number == MESSAGE_AUTHENTICATOR:
                blank = data[:4] + authenticator + data[HEADER:start] + bytes(16) + data[end:]
                if end - start != 16 or not hmac.compare_digest(hmac.digest(secret, blank, "md5"), data[start:end]):
                    return None
    except ValueError:
        return None
    return data


def is_sealed(data: bytes) -> bool:
    """Whether a checked reply has a Message-Authenticator."""
    return any(number == MESSAGE_AUTHENTICATOR for number, _, _ in items(data))


def decode(dictionary: Dictionary, data: bytes) -> list[tuple[str, AaaValue]]:
    """The attributes of a checked reply that the dictionary knows."""
    found: list[tuple[str, AaaValue]] = []
    for number, start, end in items(data):
        value, vendor = data[start:end], 0
        if number == VENDOR_SPECIFIC and len(value) >= 6 and value[5] == len(value) - 4:
            vendor, number, value = int.from_bytes(value[:4], "big"), value[4], value[6:]
        attribute = dictionary.by_number(vendor, number)
        if attribute is not None:
            found.append((attribute.name, _value(attribute.kind, value)))
    return found


def _value(kind: str, data: bytes) -> AaaValue:
    if kind in NUMBERS:
        return int.from_bytes(data, "big", signed=kind == "signed")
    if kind in ("ipaddr", "ipv6addr") and len(data) in (4, 16):
        return str(ipaddress.ip_address(data))
    return data.decode("utf-8", "surrogateescape") if kind in TEXTS else data
