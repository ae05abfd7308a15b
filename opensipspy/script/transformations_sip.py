"""The transformations that take SIP texts apart: `{uri.*}`, `{via.*}`, `{nameaddr.*}`, `{param.*}`, `{sdp.*}`.

A part that is not there, or a text that cannot be read, gives NULL; nothing here raises.
"""

from __future__ import annotations

from collections.abc import Callable

from opensipspy.script import uris
from opensipspy.script.declare import Catalogue, TransformationApply, TransformationDecl
from opensipspy.script.run import Value
from opensipspy.script.transformations import text_of
from opensipspy.script.variables import or_null
from opensipspy.sip import NameAddr, ParseError, Uri, Via, parse_name_addr_list, parse_via_list

# -- {uri.*}


def _uri(part: Callable[[Uri], Value]) -> TransformationApply:
    def apply(value: Value, args: list[Value]) -> Value:
        uri = uris.parse(text_of(value))
        return part(uri) if uri is not None else None

    return apply


def _uri_param(name: str) -> TransformationApply:
    """A parameter's value, "" when it has none."""
    return _uri(lambda uri: uri.param(name))


def uri_any_param(value: Value, args: list[Value]) -> Value:
    """{uri.param,name}"""
    uri = uris.parse(text_of(value))
    return uri.param(text_of(args[0]).lower()) if uri is not None else None


def _uri_flag(name: str) -> TransformationApply:
    """The value of a parameter that mostly has none; NULL then, and without the parameter."""
    return _uri(lambda uri: or_null(uri.param(name) or ""))


# -- {via.*}


def _via(part: Callable[[Via], Value]) -> TransformationApply:
    def apply(value: Value, args: list[Value]) -> Value:
        try:
            vias = parse_via_list(text_of(value))
        except ParseError:
            return None
        return part(vias[0]) if vias else None

    return apply


def via_any_param(value: Value, args: list[Value]) -> Value:
    """{via.param,name}"""
    return _via(lambda via: via.param(text_of(args[0]).lower()))(value, args)


def _via_rport(via: Via) -> Value:
    return via.param("rport")


def _protocol(at: int) -> TransformationApply:
    """The name and version in "SIP/2.0/UDP host"."""

    def apply(value: Value, args: list[Value]) -> Value:
        words = text_of(value).split("/", 2)
        return or_null(words[at].strip()) if len(words) == 3 else None

    return apply


def via_comment(value: Value, args: list[Value]) -> Value:
    """The "(comment)" after a Via, as RFC 2543 had it; it is no part of RFC 3261's."""
    text = text_of(value)
    opened, closed = text.find("("), text.rfind(")")
    return text[opened + 1 : closed] if 0 <= opened < closed else None


# -- {nameaddr.*}: the first argument is the index


def _addresses(value: Value) -> list[NameAddr]:
    try:
        return parse_name_addr_list(text_of(value))
    except ParseError:
        return []


def _address(value: Value, args: list[Value]) -> NameAddr | None:
    found = _addresses(value)
    index = args[0] if args else 0
    return found[index] if isinstance(index, int) and -len(found) <= index < len(found) else None


def _nameaddr(part: Callable[[NameAddr], Value]) -> TransformationApply:
    def apply(value: Value, args: list[Value]) -> Value:
        address = _address(value, args)
        return part(address) if address is not None else None

    return apply


def nameaddr_param(value: Value, args: list[Value]) -> Value:
    """{nameaddr.param,name}"""
    address = _address(value, args)
    return address.param(text_of(args[1]).lower()) if address is not None and len(args) > 1 else None


# -- {param.*}: "a=1;b=2"


def param_value(value: Value, args: list[Value]) -> Value:
    """{param.value,name}: "" for a parameter without a value."""
    wanted = text_of(args[0]).lower()
    for name, found in uris.params(text_of(value)):
        if name.lower() == wanted:
            return found or ""
    return None


def param_exist(value: Value, args: list[Value]) -> Value:
    """{param.exist,name}: 1 or 0."""
    return 0 if param_value(value, args) is None else 1


def _param_at(value: Value, index: Value) -> tuple[str, str | None] | None:
    found = uris.params(text_of(value))
    return found[index] if isinstance(index, int) and -len(found) <= index < len(found) else None


def param_value_at(value: Value, args: list[Value]) -> Value:
    """{param.valueat,index}"""
    pair = _param_at(value, args[0])
    return (pair[1] or "") if pair is not None else None


def param_name(value: Value, args: list[Value]) -> Value:
    """{param.name,index}"""
    pair = _param_at(value, args[0])
    return pair[0] if pair is not None else None


def param_count(value: Value, args: list[Value]) -> Value:
    text = text_of(value)
    return len(uris.params(text)) if text else None


# -- {sdp.*} (RFC 4566 §5)


def _lines(text: str) -> list[str]:
    return [line for line in text.replace("\r\n", "\n").split("\n") if line]


def sdp_line(value: Value, args: list[Value]) -> Value:
    """{sdp.line,start[,index]}: the line that begins so, counted from 0 (negative from the end)."""
    start = text_of(args[0])
    index = args[1] if len(args) > 1 else 0
    if not isinstance(index, int):
        return None
    found = [line for line in _lines(text_of(value)) if line.startswith(start)]
    return found[index] if -len(found) <= index < len(found) else None


def _streams(text: str) -> tuple[str, list[str]]:
    """The session part and each media section of a description, their line ends kept."""
    pieces: list[list[str]] = [[]]
    for line in text.splitlines(keepends=True):
        if line.startswith("m="):
            pieces.append([])
        pieces[-1].append(line)
    return "".join(pieces[0]), ["".join(piece) for piece in pieces[1:]]


def _stream_at(streams: list[str], which: str) -> int:
    """The place of a media section named by its number or its kind ("audio"), -1 when there is none."""
    if which.lstrip("-").isdigit() and which.isascii() and len(which) < 8:
        number = int(which)
        number += len(streams) if number < 0 else 0
        return number if 0 <= number < len(streams) else -1
    for at, stream in enumerate(streams):
        if stream.startswith(f"m={which} "):
            return at
    return -1


def sdp_stream(value: Value, args: list[Value]) -> Value:
    """{sdp.stream,which}: one media section, by number from 0 or by kind."""
    _session, streams = _streams(text_of(value))
    at = _stream_at(streams, text_of(args[0]).strip())
    return streams[at] if at >= 0 else None


def sdp_stream_delete(value: Value, args: list[Value]) -> Value:
    """{sdp.stream-delete,which}: the description without a media section by number, or without all of a kind; NULL when
    there is none."""
    session, streams = _streams(text_of(value))
    which = text_of(args[0]).strip()
    at = _stream_at(streams, which)
    if at < 0:
        return None
    if streams[at].startswith(f"m={which} "):
        return session + "".join(stream for stream in streams if not stream.startswith(f"m={which} "))
    del streams[at]
    return session + "".join(streams)


# -- the table


def register(catalogue: Catalogue) -> None:
    """Make them known."""

    def add(cls: str, name: str, apply: TransformationApply, *params: str) -> None:
        catalogue.add_transformation(TransformationDecl(cls, name, params, apply, doc=(apply.__doc__ or "").strip()))

    for name, part in (
        ("user", lambda uri: or_null(uri.user)),
        ("passwd", lambda uri: or_null(uri.password)),
        ("host", lambda uri: or_null(uri.host_text)),
        ("domain", lambda uri: or_null(uri.host_text)),
        ("port", lambda uri: uri.port or None),
        ("params", lambda uri: or_null(uri.params.removeprefix(";"))),
        ("headers", lambda uri: or_null(uri.headers)),
        ("schema", lambda uri: uri.scheme),
    ):
        add("uri", name, _uri(part))
    for name in ("transport", "ttl", "maddr", "method"):
        add("uri", name, _uri_param(name))
    add("uri", "uparam", _uri_param("user"))
    add("uri", "lr", _uri_flag("lr"))
    add("uri", "r2", _uri_flag("r2"))
    add("uri", "param", uri_any_param, "string")

    for name, part_of_via in (
        ("transport", lambda via: via.transport),
        ("host", lambda via: or_null(via.host_text)),
        ("domain", lambda via: or_null(via.host_text)),
        ("port", lambda via: via.port or None),
        ("params", lambda via: or_null(via.params.removeprefix(";"))),
        ("branch", lambda via: or_null(via.branch)),
        ("received", lambda via: or_null(via.received)),
        ("rport", _via_rport),
    ):
        add("via", name, _via(part_of_via))
    add("via", "name", _protocol(0))
    add("via", "version", _protocol(1))
    add("via", "comment", via_comment)
    add("via", "param", via_any_param, "string")

    add("nameaddr", "name", _nameaddr(lambda address: or_null(uris.shown_name(address))), "number?")
    add("nameaddr", "uri", _nameaddr(lambda address: or_null(address.uri)), "number?")
    add("nameaddr", "len", _nameaddr(lambda each: len(each.text.removesuffix(each.params).rstrip())), "number?")
    add("nameaddr", "params", _nameaddr(lambda address: or_null(address.params.removeprefix(";"))), "number?")
    add("nameaddr", "param", nameaddr_param, "number?", "string")

    add("param", "value", param_value, "string")
    add("param", "exist", param_exist, "string")
    add("param", "exists", param_exist, "string")
    add("param", "valueat", param_value_at, "number")
    add("param", "name", param_name, "number")
    add("param", "count", param_count)

    add("sdp", "line", sdp_line, "string", "number?")
    add("sdp", "stream", sdp_stream, "string")
    add("sdp", "stream-delete", sdp_stream_delete, "string")
