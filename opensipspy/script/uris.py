"""URIs and header texts as core variables, functions and transformations take them apart and change them."""

from __future__ import annotations

from opensipspy.script.run import Q_UNSPECIFIED, Run
from opensipspy.sip import NameAddr, ParseError, Uri, parse_uri


def parse(text: str) -> Uri | None:
    """The URI in a text, None when there is none that can be read."""
    try:
        return parse_uri(text)
    except ParseError:
        return None


def shown_name(address: NameAddr) -> str:
    """The display name as it is written, quotes and escapes included; "" when there is none."""
    if not address.bracketed:
        return ""
    return address.text[: address.uri_start - address.start].rstrip().removesuffix("<").strip()


class UriCache:
    """Parsed URIs by text, the last `size` different ones; a URI taken from here is only read."""

    __slots__ = ("_kept", "_size")

    def __init__(self, size: int = 512) -> None:
        self._size: int = size
        self._kept: dict[str, Uri | None] = {}

    def parse(self, text: str) -> Uri | None:
        kept = self._kept
        if text in kept:
            return kept[text]
        uri = parse(text)
        if len(kept) >= self._size:
            del kept[next(iter(kept))]
        kept[text] = uri
        return uri


def build(uri: Uri, user: str, password: str, host_text: str, port: str, params: str, headers: str) -> str:
    """A SIP URI from its parts; a part that is "" is left out."""
    text = uri.scheme + ":"
    if user:
        text += f"{user}:{password}@" if password else f"{user}@"
    text += host_text
    if port:
        text += ":" + port
    text += params
    return f"{text}?{headers}" if headers else text


def without_param(params: str, name: str) -> str:
    """ ";a;b=c" without one parameter."""
    kept = [piece for piece in params.split(";")[1:] if piece.partition("=")[0].lower() != name]
    return "".join(f";{piece}" for piece in kept)


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def is_safe(text: str) -> bool:
    """Whether a text may become part of a URI: no white space, control characters or brackets of a header."""
    return not any(char <= " " or char in '<>"\x7f' for char in text)


def rewritten(
    text: str,
    user: str | None = None,
    password: str | None = None,
    host: str | None = None,
    port: str | None = None,
) -> str:
    """A SIP URI with parts replaced; None keeps a part, "" removes it. A new host drops the maddr parameter.

    Raises ValueError when there is nothing that can be changed, or when the result is no URI.
    """
    uri = parse(text)
    if uri is None or uri.opaque:
        raise ValueError(f"{text!r} is not a SIP URI")
    if uri.scheme == "tel":
        if host is not None or port is not None or not user:
            raise ValueError("a tel URI has a number and nothing else to change")
        return f"tel:{user}{uri.params}"
    new_user = uri.user if user is None else user
    new_password = uri.password if password is None else password
    new_host = uri.host_text if host is None else bracketed(host)
    new_port = (str(uri.port) if uri.port else "") if port is None else port
    if new_port and not (new_port.isascii() and new_port.isdigit() and 0 < int(new_port) < 65536):
        raise ValueError(f"{new_port!r} is not a port")
    if not new_host:
        raise ValueError("the host of a URI cannot be empty")
    if ("@" in new_host) or not is_safe(new_user + new_password + new_host):
        raise ValueError("white space or a forbidden character in a part of a URI")
    params = uri.params if host is None else without_param(uri.params, "maddr")
    result = build(uri, new_user, new_password, new_host, new_port, params, uri.headers)
    if parse(result) is None:
        raise ValueError(f"{result!r} is not a URI")
    return result


def contact(uri: str, q: int) -> str:
    """A URI as an element of a Contact header, with its q in thousandths."""
    return f"<{uri}>" if q == Q_UNSPECIFIED else f"<{uri}>;q={q_text(q)}"


def q_text(q: int) -> str:
    """A q in thousandths as RFC 3261 writes it: "1", "0.5", "0.25"; "" when there is none."""
    if q < 0:
        return ""
    if q >= 1000:
        return "1"
    return f"0.{q:03d}".rstrip("0").rstrip(".") if q else "0"


def parse_q(text: str) -> int:
    """The thousandths of a q "0", "0.5", "1.000" (RFC 3261 §20.10). Raises ValueError."""
    whole, _, part = text.strip().partition(".")
    if whole not in ("", "0", "1") or len(part) > 3 or (part and not (part.isascii() and part.isdigit())):
        raise ValueError(f"{text!r} is not a q value")
    if not whole and not part:
        raise ValueError(f"{text!r} is not a q value")
    value = int(whole or "0") * 1000 + int((part + "000")[:3])
    if value > 1000:
        raise ValueError(f"{text!r} is above 1")
    return value


def split_list(text: str) -> list[str]:
    """The elements of a comma list: quoted strings and <...> hold their commas, empty elements are dropped."""
    if "," not in text:
        element = text.strip()
        return [element] if element else []
    found: list[str] = []
    start = at = 0
    while True:
        comma = text.find(",", at)
        if comma < 0:
            break
        quote, angle = text.find('"', at, comma), text.find("<", at, comma)
        if quote >= 0 and (angle < 0 or quote < angle):
            at = quoted_end(text, quote)
        elif angle >= 0:
            close = text.find(">", angle)
            at = close + 1 if close >= 0 else len(text)
        else:
            found.append(text[start:comma].strip())
            start = at = comma + 1
    found.append(text[start:].strip())
    return [element for element in found if element]


def quoted_end(text: str, at: int) -> int:
    """The offset after the quoted string that opens at `at`, the text's end when it stays open."""
    at += 1
    while at < len(text):
        char = text[at]
        if char == "\\":
            at += 2
        elif char == '"':
            return at + 1
        else:
            at += 1
    return len(text)


def unquote(text: str) -> str:
    """A quoted string without its quotes and backslashes; any other text as it is."""
    if len(text) < 2 or not (text.startswith('"') and text.endswith('"')):
        return text
    inner = text[1:-1]
    if "\\" not in inner:
        return inner
    out: list[str] = []
    at = 0
    while at < len(inner):
        if inner[at] == "\\" and at + 1 < len(inner):
            at += 1
        out.append(inner[at])
        at += 1
    return "".join(out)


def params(text: str, separator: str = ";") -> list[tuple[str, str | None]]:
    """ "a=1;b;c="x;y"" as pairs in order; the value is None without "=", quotes are taken off."""
    found: list[tuple[str, str | None]] = []
    start = at = 0
    pieces: list[str] = []
    while at < len(text):
        if text[at] == '"':
            at = quoted_end(text, at)
            continue
        if text[at] == separator:
            pieces.append(text[start:at])
            start = at + 1
        at += 1
    pieces.append(text[start:])
    for piece in pieces:
        name, equals, value = piece.partition("=")
        name = name.strip()
        if name:
            found.append((name, unquote(value.strip()) if equals else None))
    return found


def auth_params(text: str) -> dict[str, str]:
    """The parameters of a challenge "Digest realm="x", nonce="y"" by lower-case name."""
    scheme, _, rest = text.strip().partition(" ")
    if scheme.lower() != "digest":
        return {}
    found: dict[str, str] = {}
    for element in split_list(rest):
        name, equals, value = element.partition("=")
        if equals:
            found.setdefault(name.strip().lower(), unquote(value.strip()))
    return found


def change(
    run: Run,
    user: str | None = None,
    password: str | None = None,
    host: str | None = None,
    port: str | None = None,
) -> None:
    """Rewrite parts of the Request-URI. Raises ValueError, see `rewritten`."""
    run.ruri = rewritten(run.ruri, user, password, host, port)


def change_destination(run: Run, host: str | None = None, port: str | None = None) -> None:
    """Rewrite host or port of the destination URI; without one a host makes "sip:host". Raises ValueError."""
    if run.dst_uri:
        run.dst_uri = rewritten(run.dst_uri, host=host, port=port)
    elif host is not None:
        run.dst_uri = rewritten(f"sip:{bracketed(host)}")
    else:
        raise ValueError("there is no destination URI whose port could be set")
