"""LDAP URLs of scripts (RFC 4516, the host being the name of a session) and the escapes of filters (RFC 4515)."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote

FILTER_ESCAPES: Final = {
    **str.maketrans({"*": "\\2a", "(": "\\28", ")": "\\29", "\\": "\\5c", "\0": "\\00"}),
    # Octets that are no UTF-8, which a filter can only hold escaped.
    **{0xDC00 + octet: f"\\{octet:02x}" for octet in range(0x80, 0x100)},
}
# "%" would begin an escape of the URL, by which a parenthesis could come in.
URL_ESCAPES: Final = str.maketrans({"?": "%3F", "%": "%25"})
SCOPES: Final = {"": "base", "base": "base", "one": "one", "onelevel": "one", "sub": "sub", "subtree": "sub"}
ALL: Final = "(objectClass=*)"
LONGEST: Final = 16_384


class LdapUrl:
    """session, dn, attributes (empty: all), scope (base, one or sub) and filter."""

    __slots__ = ("attributes", "dn", "filter", "scope", "session")

    def __init__(self, session: str, dn: str, attributes: tuple[str, ...], scope: str, filter_text: str) -> None:
        self.session = session
        self.dn = dn
        self.attributes = attributes
        self.scope = scope
        self.filter = filter_text


def parse_ldap_url(text: str) -> LdapUrl:
    """Raises ValueError. White space around the parts, as from a text over several lines, does not count."""
    if len(text) > LONGEST:
        raise ValueError("the LDAP URL is too long")
    scheme, colon, rest = text.strip().partition("://")
    if not colon or scheme.lower() != "ldap":
        raise ValueError("an LDAP URL begins with ldap://")
    session, _, path = rest.partition("/")
    parts = [unquote(part, errors="surrogateescape").strip() for part in path.split("?")]
    if len(parts) > 4:
        raise ValueError("an LDAP URL has four parts at most: dn?attributes?scope?filter")
    dn, attributes, scope, filter_text = [*parts, "", "", ""][:4]
    if scope.lower() not in SCOPES:
        raise ValueError(f"{scope[:40]!r} is no scope: base, one or sub")
    if filter_text and not filter_text.startswith("("):
        filter_text = f"({filter_text})"
    names = tuple(name.strip() for name in attributes.split(",") if name.strip())
    return LdapUrl(unquote(session).strip(), dn, names, SCOPES[scope.lower()], filter_text or ALL)


def escape_filter(text: str) -> str:
    """A text as a value in a filter."""
    return text.translate(FILTER_ESCAPES)


def escape_filter_url(text: str) -> str:
    """A text as a value in the filter of a URL."""
    return escape_filter(text).translate(URL_ESCAPES)
