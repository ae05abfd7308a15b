"""Digest authentication (RFC 3261 §22, RFC 7616, RFC 8760): credentials, challenges, and the arithmetic.

Pure: nonces are made and remembered by modules. Algorithms: MD5, SHA-256, SHA-512-256, each with -sess.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Final

from opensipspy.sip.errors import ParseError
from opensipspy.sip.text import SPACES, find_unquoted, is_token, quote, skip_quoted, unquote

if TYPE_CHECKING:
    from opensipspy.sip.message import Header

# hashlib's names by the names of RFC 8760 in upper case, without -SESS.
_HASHES: Final = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}
_PARAMETER_LIMIT: Final = 64
_LENGTH_LIMIT: Final = 16_384
# Lower-case tokens, which need no second look.
_USUAL_NAMES: Final = frozenset(
    ("username", "realm", "nonce", "uri", "response", "algorithm", "qop", "nc", "cnonce", "opaque", "stale")
)


class Credentials:
    """The value of an Authorization, Proxy-Authorization, WWW-Authenticate or Proxy-Authenticate header.

    scheme: as written ("Digest"). params: flat list of lower-case name, value without quotes, ... algorithm: as
    written, "" when absent (MD5 then). nc: eight hexadecimal digits as written. user, domain: username cut at "@".
    header: where it stood, when it came with a message.
    """

    __slots__ = (
        "algorithm",
        "cnonce",
        "domain",
        "header",
        "nc",
        "nonce",
        "opaque",
        "params",
        "qop",
        "realm",
        "response",
        "scheme",
        "token",
        "uri",
        "user",
        "username",
    )

    def __init__(self) -> None:
        self.scheme: str = ""
        self.params: list[str] = []
        self.username: str = ""
        self.user: str = ""
        self.domain: str = ""
        self.realm: str = ""
        self.nonce: str = ""
        self.uri: str = ""
        self.response: str = ""
        self.algorithm: str = ""
        self.qop: str = ""
        self.nc: str = ""
        self.cnonce: str = ""
        self.opaque: str = ""
        # What follows the scheme when it is no list of parameters (Bearer, Basic).
        self.token: str = ""
        self.header: Header | None = None

    def __repr__(self) -> str:
        # Nothing of the secret part: these land in logs.
        return f"Credentials({self.scheme} username={self.username!r} realm={self.realm!r})"

    def param(self, name: str) -> str | None:
        """The value of a parameter without quotes, None when it is absent. name: lower case."""
        params = self.params
        for i in range(0, len(params), 2):
            if params[i] == name:
                return params[i + 1]
        return None

    @property
    def is_digest(self) -> bool:
        """True for the Digest scheme in any case."""
        return self.scheme.lower() == "digest"


def parse_credentials(text: str, offset: int = 0) -> Credentials:
    """Parse credentials or a challenge. ParseError when the grammar is broken or a parameter stands twice."""
    found = Credentials()
    text = text.strip(SPACES)
    end = len(text)
    space = text.find(" ")
    tab = text.find("\t", 0, space if space >= 0 else end)
    if tab >= 0:
        space = tab
    if space < 0:
        space = end
    found.scheme = text[:space]
    if not is_token(found.scheme):
        raise ParseError("no authentication scheme", offset)
    i = space
    if not found.is_digest and text.find("=", i) < 0:
        found.token = text[i:].strip(SPACES)
        return found
    if found.scheme.lower() in ("basic", "bearer"):
        found.token = text[i:].strip(SPACES)
        return found
    if end > _LENGTH_LIMIT:
        raise ParseError("authentication parameters are too long", offset)
    seen: set[str] = set()
    while i < end:
        after = _read_usual(found, text, i, end, seen)
        if after > 0:
            i = after
            continue
        comma = find_unquoted(text, ",", i, end)
        stop = end if comma < 0 else comma
        _read_parameter(found, text, i, stop, offset, seen)
        i = stop + 1
    if found.params and text[-1] == ",":
        raise ParseError("empty authentication parameter", offset + end)
    return found


def _read_parameter(found: Credentials, text: str, start: int, end: int, offset: int, seen: set[str]) -> None:
    equal = text.find("=", start, end)
    if equal < 0:
        raise ParseError("authentication parameter without a value", offset + start)
    name = text[start:equal].strip(SPACES)
    value = text[equal + 1 : end].strip(SPACES)
    if name not in _USUAL_NAMES:
        if not is_token(name):
            raise ParseError("name of an authentication parameter is not a token", offset + start)
        name = name.lower()
    if value[:1] == '"':
        if "\\" not in value and value.find('"', 1) == len(value) - 1 > 0:
            value = value[1:-1]
        elif skip_quoted(value, 0, len(value)) != len(value):
            raise ParseError("text after a quoted string", offset + equal)
        else:
            value = unquote(value)
    if len(found.params) >= 2 * _PARAMETER_LIMIT:
        raise ParseError("too many authentication parameters", offset + start)
    if name in seen:
        raise ParseError("authentication parameter stands twice", offset + start)
    _keep(found, name, value, seen)


def _read_usual(found: Credentials, text: str, i: int, end: int, seen: set[str]) -> int:
    """Read a parameter written as nearly all are: a usual name, no space before "=", no escape in the value.

    Returns where the next one begins, behind the comma; 0 for any other, which is left to `_read_parameter`.
    """
    while i < end and text[i] == " ":
        i += 1
    equal = text.find("=", i, end)
    if equal < 0:
        return 0
    name = text[i:equal]
    if name not in _USUAL_NAMES or name in seen:
        return 0
    start = equal + 1
    if start < end and text[start] == '"':
        start += 1
        stop = text.find('"', start, end)
        after = stop + 1
        if stop < 0 or (after < end and text[after] != ","):
            return 0
        value = text[start:stop]
        if "\\" in value:
            return 0
    else:
        stop = text.find(",", start, end)
        if stop < 0:
            stop = end
        after = stop
        value = text[start:stop].strip(SPACES)
        if '"' in value:
            return 0
    _keep(found, name, value, seen)
    return after + 1


def _keep(found: Credentials, name: str, value: str, seen: set[str]) -> None:
    seen.add(name)
    found.params.append(name)
    found.params.append(value)
    if name == "username":
        found.username = value
        at = value.find("@")
        found.user = value if at < 0 else value[:at]
        found.domain = "" if at < 0 else value[at + 1 :]
    elif name == "realm":
        found.realm = value
    elif name == "nonce":
        found.nonce = value
    elif name == "uri":
        found.uri = value
    elif name == "response":
        found.response = value
    elif name == "algorithm":
        found.algorithm = value
    elif name == "qop":
        found.qop = value
    elif name == "nc":
        found.nc = value
    elif name == "cnonce":
        found.cnonce = value
    elif name == "opaque":
        found.opaque = value


def _base(algorithm: str) -> str:
    name = algorithm.upper() or "MD5"
    return name[:-5] if name.endswith("-SESS") else name


def is_known_algorithm(algorithm: str) -> bool:
    """True for MD5, SHA-256, SHA-512-256 and their -sess forms in any case, and for "" (MD5)."""
    return _base(algorithm) in _HASHES


def hash_hex(algorithm: str, data: bytes) -> str:
    """The hash of an algorithm in lower-case hexadecimal. ValueError for one that is not known."""
    if algorithm == "MD5" or not algorithm:
        return hashlib.md5(data, usedforsecurity=False).hexdigest()
    name = _HASHES.get(_base(algorithm))
    if name is None:
        raise ValueError("unknown digest algorithm " + algorithm)
    if name == "md5":
        return hashlib.md5(data, usedforsecurity=False).hexdigest()
    if name == "sha256":
        return hashlib.sha256(data).hexdigest()
    return hashlib.new(name, data).hexdigest()


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def ha1(username: str, realm: str, password: str, algorithm: str = "") -> str:
    """H(username:realm:password), what servers store instead of a password; -sess makes no difference here."""
    return hash_hex(algorithm, _octets(username + ":" + realm + ":" + password))


def response(
    ha1_hex: str,
    method: str,
    uri: str,
    nonce: str,
    qop: str = "",
    nc: str = "",
    cnonce: str = "",
    algorithm: str = "",
    body: bytes = b"",
) -> str:
    """The response to a challenge (RFC 7616 §3.4.1), qop "" for the form of RFC 2069.

    ha1_hex: from ha1(); for a -sess algorithm the session key is made from it here. body: for qop auth-int.
    """
    if algorithm != "MD5" and algorithm.upper().endswith("-SESS"):
        ha1_hex = hash_hex(algorithm, _octets(ha1_hex + ":" + nonce + ":" + cnonce))
    request = method + ":" + uri
    if qop != "auth" and qop.lower() == "auth-int":
        request += ":" + hash_hex(algorithm, body)
    ha2 = hash_hex(algorithm, _octets(request))
    if qop:
        text = ":".join((ha1_hex, nonce, nc, cnonce, qop, ha2))
    else:
        text = ":".join((ha1_hex, nonce, ha2))
    return hash_hex(algorithm, _octets(text))


def verify(credentials: Credentials, ha1_hex: str, method: str, body: bytes = b"") -> bool:
    """True when the response fits the stored hash; compared in constant time. False for an unknown algorithm or qop."""
    if credentials.algorithm != "MD5" and not is_known_algorithm(credentials.algorithm):
        return False
    qop = credentials.qop
    if qop and (
        not credentials.nc
        or (not credentials.cnonce and credentials.param("cnonce") is None)
        or (qop != "auth" and qop.lower() not in ("auth", "auth-int"))
    ):
        return False
    expected = response(
        ha1_hex.lower(),
        method,
        credentials.uri,
        credentials.nonce,
        qop,
        credentials.nc,
        credentials.cnonce,
        credentials.algorithm,
        body,
    )
    return hmac.compare_digest(_octets(expected), _octets(credentials.response.lower()))


def challenge(
    realm: str, nonce: str, qop: str = "auth", algorithm: str = "", opaque: str = "", stale: bool = False
) -> str:
    """The value of a WWW-Authenticate or Proxy-Authenticate header. qop: "", "auth", "auth-int" or "auth,auth-int"."""
    parts = ["Digest realm=", quote(realm), ", nonce=", quote(nonce)]
    if opaque:
        parts.append(", opaque=" + quote(opaque))
    if stale:
        parts.append(", stale=true")
    if algorithm:
        parts.append(", algorithm=" + algorithm)
    if qop:
        parts.append(', qop="' + qop + '"')
    return "".join(parts)


def authorization(credentials: Credentials) -> str:
    """The value of an Authorization or Proxy-Authorization header from filled-in credentials (for requests of ours)."""
    parts = [
        "Digest username=" + quote(credentials.username),
        "realm=" + quote(credentials.realm),
        "nonce=" + quote(credentials.nonce),
        "uri=" + quote(credentials.uri),
        'response="' + credentials.response + '"',
    ]
    if credentials.algorithm:
        parts.append("algorithm=" + credentials.algorithm)
    if credentials.opaque:
        parts.append("opaque=" + quote(credentials.opaque))
    if credentials.qop:
        parts.append("qop=" + credentials.qop)
        parts.append("nc=" + credentials.nc)
        parts.append("cnonce=" + quote(credentials.cnonce))
    return ", ".join(parts)
