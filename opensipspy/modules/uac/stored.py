"""Two URIs in a Record-Route parameter: what stood in the header before, and what stands there now.

The far end sends the parameter back with each request of the dialog, so that nothing has to be kept here. It may also
send something else: what does not decode to two URIs counts as absent. With a password the text is encrypted and
authenticated (the key stream starts from the authenticator, RFC 5297's idea), and bound to the Call-ID, so that it can
neither be read, nor changed, nor used in another call. base64url (RFC 4648 §5) needs no escapes in a URI.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final

from opensipspy.sip import ParseError, parse_uri

LONGEST_URI: Final = 512
LONGEST_TEXT: Final = 2048
TAG_BYTES: Final = 8
# parse_uri() refuses it, so it cannot be part of one.
SEPARATOR: Final = " "


def is_uri(text: str) -> bool:
    """Whether a text can stand between < and > of an address."""
    if not 0 < len(text) <= LONGEST_URI:
        return False
    try:
        parse_uri(text)
    except ParseError:
        return False
    return not any(char in '<>"\r\n\t ' for char in text)


def _key(password: str) -> bytes:
    return hashlib.sha256(b"uac restore\n" + password.encode("utf-8", "surrogateescape")).digest()


def _authenticator(key: bytes, plain: bytes, call_id: str) -> bytes:
    data = call_id.encode("utf-8", "surrogateescape") + b"\n" + plain
    return hashlib.blake2b(data, key=key, digest_size=TAG_BYTES).digest()


def _mixed(key: bytes, tag: bytes, data: bytes) -> bytes:
    stream = hashlib.shake_256(key + tag).digest(len(data))
    return bytes(a ^ b for a, b in zip(data, stream, strict=True))


def encode(original: str, new: str, password: str, call_id: str) -> str:
    """The value of the parameter. Both have passed is_uri()."""
    plain = f"{original}{SEPARATOR}{new}".encode("utf-8", "surrogateescape")
    if password:
        key = _key(password)
        tag = _authenticator(key, plain, call_id)
        plain = tag + _mixed(key, tag, plain)
    return base64.urlsafe_b64encode(plain).decode().rstrip("=")


def decode(text: str, password: str, call_id: str) -> tuple[str, str] | None:
    """The original and the new URI; None for anything that encode() has not made, as far as can be known."""
    if not 0 < len(text) <= LONGEST_TEXT or not text.isascii():
        return None
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    if password:
        key = _key(password)
        tag = data[:TAG_BYTES]
        data = _mixed(key, tag, data[TAG_BYTES:])
        if not hmac.compare_digest(tag, _authenticator(key, data, call_id)):
            return None
    original, separator, new = data.decode("utf-8", "surrogateescape").partition(SEPARATOR)
    return (original, new) if separator and is_uri(original) and is_uri(new) else None
