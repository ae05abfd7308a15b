"""Path: requests to a registered phone come back through us (RFC 3327), to where its REGISTER came from.

The socket that a copy leaves from is known only when the copy is built, so the Path text is a note with a function in
it. A REGISTER that changes sockets gets two Path headers, as Record-Route does (RFC 5658 §5); the address that it came
from stands in the one that faces the phone.
"""

from __future__ import annotations

from typing import Final

from opensipspy.module import Module, Param, Requires, script_function
from opensipspy.modules.rr.api import RrApi
from opensipspy.script.kinds import REQUEST
from opensipspy.script.run import Run
from opensipspy.sip import (
    H_PATH,
    PROTO_TLS,
    PROTO_UDP,
    PROTO_WS,
    PROTO_WSS,
    ParseError,
    Peer,
    Socket,
    Uri,
    parse_uri,
    proto_name,
    unescape,
)

SIP_PORT: Final = 5060
SIPS_PORT: Final = 5061
OTHER_PORTS: Final = frozenset({PROTO_TLS, PROTO_WS, PROTO_WSS})
"""Protocols whose port, when a URI does not say it, is not 5060."""


class PathLines:
    """The Path header of one request, or two of them, written when the outgoing socket of a copy is known."""

    __slots__ = ("double", "received", "user")

    def __init__(self, user: str, received: str, double: bool) -> None:
        self.user = user
        self.received = received
        self.double = double

    def __call__(self, in_socket: Socket, out_socket: Socket) -> str:
        out_uri = f"sip:{self.user}{place(out_socket)}"
        if self.double and differ(in_socket, out_socket):
            in_uri = f"sip:{self.user}{place(in_socket)}"
            return f"Path: <{out_uri};r2=on;lr>\r\nPath: <{in_uri};r2=on{self.received};lr>\r\n"
        return f"Path: <{out_uri}{self.received};lr>\r\n"


def differ(one: Socket, other: Socket) -> bool:
    """Whether a peer of one socket could not answer on the other."""
    return one is not other and (
        one.proto != other.proto or one.via_port != other.via_port or one.via_host != other.via_host
    )


def place(socket: Socket) -> str:
    """Where a listening point is, as a URI shows it: the usual port and the usual transport are left out."""
    port = "" if socket.via_port == SIP_PORT and socket.proto not in OTHER_PORTS else f":{socket.via_port}"
    transport = "" if socket.proto == PROTO_UDP else f";transport={proto_name(socket.proto)}"
    return f"{socket.via_host}{port}{transport}"


def received_param(source: Peer) -> str:
    """The address a request came from, as a URI parameter that holds a URI: its own `;` and `=` are escaped."""
    host = f"[{source.address}]" if ":" in source.address else source.address
    transport = "" if source.proto == PROTO_UDP else f"%3btransport%3d{proto_name(source.proto)}"
    return f";received=sip:{host}:{source.port}{transport}"


class Path(Module):
    """Add Path headers to registrations, and follow them back to phones behind NAT."""

    name = "path"
    requires = (Requires("rr", param="use_received"),)

    use_received = Param(int, 0, "1 makes loose_route() send to the `received` parameter of our own Route.")
    enable_double_path = Param(int, 1, "1 writes two Path headers when a request changes sockets.")

    async def start(self) -> None:
        if self.use_received:
            self.core.api("rr", RrApi).on_loose_route(self._follow)  # type: ignore[type-abstract]

    @script_function(routes=REQUEST)
    def add_path(self, run: Run, user: str | None = None) -> int:
        """Add a Path header with our outgoing address above those that are there (RFC 3327 §5.2).

        user: the user part of its URI. Returns 1, or -1 when `user` cannot stand in a URI.
        """
        return self._add(run, user or "", "")

    @script_function(routes=REQUEST)
    def add_path_received(self, run: Run, user: str | None = None) -> int:
        """Do as add_path(), with the address that the request came from as the parameter `received`."""
        return self._add(run, user or "", received_param(run.msg.source))

    def _add(self, run: Run, user: str, received: str) -> int:
        if user:
            if not is_user(user):
                self.core.log.error("path: %r cannot be the user of a URI", user)
                return -1
            user += "@"
        lines = PathLines(user, received, bool(self.enable_double_path))
        present = run.msg.first(H_PATH)
        if present is None:
            run.edits.append(lines)
        else:
            run.edits.insert_before(present, lines)
        return 1

    def _follow(self, run: Run, params: str) -> None:
        """loose_route() found our own Route: send to where its `received` points."""
        try:
            ours = parse_uri(f"sip:path.invalid{params}")
            received = ours.param("received")
            if received is None and ours.param("r2") is not None:
                received = self._second_received(run)
            if not received:
                return
            text = unescape(received)
            target = parse_uri(text)
        except ParseError as error:
            self.core.log.info("path: %s in a Route from %s", error.reason, run.msg.source.text)
            return
        if target.scheme in ("sip", "sips"):
            run.dst_uri = text

    def _second_received(self, run: Run) -> str | None:
        """`received` of the second of our two Route headers, which faces the phone."""
        routes = run.msg.routes
        if len(routes) < 2 or run.dst_uri == routes[1].uri:
            return None  # it is the next hop: rr does not take off two (enable_double_rr=0)
        second = parse_uri(routes[1].uri)
        if second.param("r2") is None or not self._is_mine(second):
            return None
        return second.param("received")

    def _is_mine(self, uri: Uri) -> bool:
        secure = uri.scheme == "sips" or uri.proto in (PROTO_TLS, PROTO_WSS)
        return self.core.is_myself(uri.host, uri.port or (SIPS_PORT if secure else SIP_PORT))


def is_user(text: str) -> bool:
    """Whether the text can stand before the `@` of a URI and is read there as it was written."""
    try:
        uri = parse_uri(f"sip:{text}@path.invalid")
    except ParseError:
        return False
    return uri.user == text and uri.host == "path.invalid" and not uri.params
