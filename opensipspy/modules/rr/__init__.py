"""Record-Route and Route: staying on the path of a dialog, and following the path that a dialog has.

RFC 3261 §16.4 (route information preprocessing), §16.6 steps 4 and 6, §16.12 (examples); RFC 5658 for the two
Record-Route headers of a proxy that changes protocol, address or port.

The listening point that a copy leaves from is known only when the copy is built, branch by branch. So the
Record-Route text is a note with a function in it, which is asked with both sockets when a copy is written.
"""

from __future__ import annotations

from collections.abc import Callable
from logging import Logger
from typing import Annotated, Final

from opensipspy.module import Fixup, Module, Param, script_function, variable
from opensipspy.modules.rr.api import RouteCallback, RrApi
from opensipspy.script.declare import Index, Value
from opensipspy.script.kinds import BRANCH, FAILURE, REQUEST
from opensipspy.script.patterns import Pattern
from opensipspy.script.run import Run
from opensipspy.sip import (
    H_RECORD_ROUTE,
    H_ROUTE,
    PROTO_TLS,
    PROTO_UDP,
    PROTO_WSS,
    Edits,
    NameAddr,
    Note,
    ParseError,
    Socket,
    Uri,
    UriCache,
    parse_name_addr_list,
    parse_uri,
    proto_name,
)

CONTEXT: Final = "rr"
"""Key in `run.ctx`; the value is a `RouteState`."""
UPSTREAM: Final = 1
DOWNSTREAM: Final = 0
SIP_PORT: Final = 5060
SIPS_PORT: Final = 5061
UNSAFE: Final = frozenset('<>"\r\n \t?')
"""What would end the URI, or the header, that a parameter is written into."""


class RouteState:
    """What rr knows about one request.

    added: parameters for all copies. branch_added: parameters that a branch or failure route added for its own copies
    before it recorded them, by the notes of that route. params: of our own Route, None before.
    """

    __slots__ = ("added", "branch_added", "params")

    def __init__(self) -> None:
        self.added: list[str] = []
        self.branch_added: dict[Edits, list[str]] = {}
        self.params: str | None = None


class RecordRoute:
    """The Record-Route lines of one request, written when the outgoing socket of a copy is known.

    own: parameters of the copies of one route only; they take the place of those with the same names for all copies.
    """

    __slots__ = ("double", "extra", "ftag", "own", "scheme", "state", "user")

    def __init__(self, state: RouteState, scheme: str, user: str, ftag: str, extra: str, double: bool) -> None:
        self.state = state
        self.scheme = scheme
        self.user = user
        self.ftag = ftag
        self.extra = extra
        self.double = double
        self.own: list[str] = []

    def with_param(self, param: str) -> RecordRoute:
        """The same lines for some copies, with one parameter more."""
        made = RecordRoute(self.state, self.scheme, self.user, self.ftag, self.extra, self.double)
        made.own = put(self.own, param)
        return made

    def tail(self) -> str:
        """The parameters behind `lr`."""
        if not self.own:
            return f"{self.ftag}{self.extra}{''.join(self.state.added)}"
        added = self.state.added
        for param in self.own:
            added = put(added, param)
        return f"{self.ftag}{self.extra}{''.join(added)}"

    def __call__(self, in_socket: Socket, out_socket: Socket) -> str:
        tail = self.tail()
        out_uri = f"{self.scheme}{self.user}{place(out_socket, self.scheme)}"
        # RFC 5658 §5: one Record-Route for each side. The callee reads the upper one first, so it faces him.
        if self.double and differ(in_socket, out_socket):
            in_uri = f"{self.scheme}{self.user}{place(in_socket, self.scheme)}"
            return f"Record-Route: <{out_uri};lr;r2=on{tail}>\r\nRecord-Route: <{in_uri};lr;r2=on{tail}>\r\n"
        return f"Record-Route: <{out_uri};lr{tail}>\r\n"


class PresetRoute(RecordRoute):
    """Record-Route lines whose places the script gave. log: where to tell that they are not ours; None for nowhere."""

    __slots__ = ("inbound", "log", "outbound")

    def __init__(self, state: RouteState, user: str, ftag: str, outbound: str, inbound: str) -> None:
        super().__init__(state, "sip:", user, ftag, "", double=bool(inbound))
        self.outbound = outbound
        self.inbound = inbound
        self.log: Logger | None = None

    def with_param(self, param: str) -> PresetRoute:
        made = PresetRoute(self.state, self.user, self.ftag, self.outbound, self.inbound)
        made.log = self.log
        made.own = put(self.own, param)
        return made

    def __call__(self, in_socket: Socket, out_socket: Socket) -> str:
        tail = self.tail()
        if self.log is not None and out_socket.via_host not in self.outbound:
            self.log.warning("rr: preset Record-Route %s is not where %s sends from", self.outbound, out_socket.text)
        r2 = ";r2=on" if self.inbound else ""
        lines = f"Record-Route: <sip:{self.user}{self.outbound};lr{r2}{tail}>\r\n"
        if self.inbound:
            lines += f"Record-Route: <sip:{self.user}{self.inbound};lr{r2}{tail}>\r\n"
        return lines


def differ(one: Socket, other: Socket) -> bool:
    """Whether a peer of one socket could not answer on the other."""
    return one is not other and (
        one.proto != other.proto or one.via_port != other.via_port or one.via_host != other.via_host
    )


def place(socket: Socket, scheme: str) -> str:
    """host:port of a listening point as a URI shows it, with the transport parameter where UDP is not meant."""
    address = f"{socket.via_host}:{socket.via_port}"
    if socket.proto == PROTO_UDP or (scheme == "sips:" and socket.proto == PROTO_TLS):
        return address
    # RFC 3261 §26.2.2: with sips, TLS is understood and the parameter names what it runs on.
    name = "ws" if scheme == "sips:" and socket.proto == PROTO_WSS else proto_name(socket.proto)
    return f"{address};transport={name}"


def direction(text: str) -> int:
    """is_direction's argument, read at load."""
    folded = text.lower()
    if folded == "upstream":
        return UPSTREAM
    if folded == "downstream":
        return DOWNSTREAM
    raise ValueError(f'a direction is "upstream" or "downstream", not "{text}"')


def put(params: list[str], param: str) -> list[str]:
    """The list with one parameter more, in place of one of its name."""
    name = param.partition("=")[0].lower()
    return [other for other in params if other.partition("=")[0].lower() != name] + [param]


def with_semicolon(params: str) -> str:
    return params if not params or params.startswith(";") else ";" + params


def read_param(params: str, name: str) -> str | None:
    """One parameter of a `;name=value` list: "" without value, None when absent. Names are caseless."""
    wanted = name.lower()
    for item in params.split(";"):
        key, _, value = item.partition("=")
        if key.strip().lower() == wanted:
            return value.strip()
    return None


class Rr(Module, RrApi):
    """Put ourselves into the route set of dialogs, and route requests that carry one."""

    name = "rr"

    append_fromtag = Param(int, 1, "1 adds the From tag to Record-Route; is_direction() needs it.")
    enable_double_rr = Param(int, 1, "1 writes two Record-Route headers when a request changes sockets.")
    add_username = Param(int, 0, "1 adds the user part of the Request-URI to Record-Route.")
    enable_socket_mismatch_warning = Param(
        int, 1, "1 logs a warning when a preset or second Record-Route names none of our sockets."
    )

    def __init__(self, **params: object) -> None:
        self._callbacks: list[RouteCallback] = []
        # Route URIs are mostly our own.
        self._uris = UriCache(256)
        super().__init__(**params)

    def api(self) -> RrApi:
        """The interface for other modules."""
        return self

    # --- recording

    @script_function(routes=REQUEST | FAILURE | BRANCH)
    def record_route(self, run: Run, uri_params: str | None = None) -> int:
        """Add a Record-Route header before any other (RFC 3261 §16.6 step 4).

        uri_params: ";name=value" to add to its URI. Returns -1 when the request was already recorded, or when the
        parameters cannot stand in a URI.
        """
        extra = with_semicolon(uri_params or "")
        if not UNSAFE.isdisjoint(extra):
            self.core.log.error("rr: record_route: %r cannot stand in a URI", extra)
            return -1
        state = self._state(run)
        if not self._claim(run):
            return -1
        scheme = "sips:" if run.ruri[:5].lower() == "sips:" else "sip:"
        text = RecordRoute(
            state,
            scheme,
            self._user(run),
            self._ftag(run),
            extra,
            bool(self.enable_double_rr),
        )
        text.own = self._own_added(run, state)
        self._insert(run, text)
        return 1

    @script_function(routes=REQUEST | FAILURE | BRANCH)
    def record_route_preset(self, run: Run, string: str, string2: str | None = None) -> int:
        """Add Record-Route headers for `string` (outbound) and `string2` (inbound), each "host[:port][;params]".

        Returns -1 when the request was already recorded, or when a string cannot stand in a URI.
        """
        if not string or not UNSAFE.isdisjoint(string) or not UNSAFE.isdisjoint(string2 or ""):
            self.core.log.error("rr: record_route_preset: %r cannot stand in a URI", string2 if string else string)
            return -1
        state = self._state(run)
        if not self._claim(run):
            return -1
        text = PresetRoute(state, self._user(run), self._ftag(run), string, string2 or "")
        text.own = self._own_added(run, state)
        text.log = self.core.log if self.enable_socket_mismatch_warning else None
        self._insert(run, text)
        return 1

    @script_function(routes=REQUEST | FAILURE | BRANCH)
    def add_rr_param(self, run: Run, param: str) -> int:
        """Add ";name=value" to the Record-Route URI, before or after record_route().

        In a branch or failure route it counts for the copies of that route only. Returns -1 when it has another form.
        """
        return 1 if self.add_param(run, param) else -1

    def add_param(self, run: Run, param: str) -> bool:
        if not param.startswith(";") or len(param) < 2 or not UNSAFE.isdisjoint(param):
            self.core.log.error("rr: add_rr_param: %r is not of the form ;name=value", param)
            return False
        state = self._state(run)
        if run.kind not in (BRANCH, FAILURE):
            state.added.append(param)
            return True
        note = self._note(run)
        if note is None:
            own = state.branch_added.setdefault(run.edits, [])
            own.append(param)
        elif isinstance(note.deferred, RecordRoute):
            run.edits.supersede(note, note.deferred.with_param(param))
        return True

    def put_param(self, run: Run, param: str) -> bool:
        if run.kind not in (BRANCH, FAILURE):
            state = self._state(run)
            name = param.partition("=")[0].lower()
            state.added = [other for other in state.added if other.partition("=")[0].lower() != name]
        return self.add_param(run, param)

    def has_from_tag(self) -> bool:
        return bool(self.append_fromtag)

    def _note(self, run: Run) -> Note | None:
        """The note that writes Record-Route for the copies of this route."""
        edits: Edits | None = run.edits
        while edits is not None:
            for note in reversed(edits.notes or ()):
                if isinstance(note.deferred, RecordRoute):
                    return note
            edits = edits.parent
        return None

    # --- following

    @script_function(routes=REQUEST)
    def loose_route(self, run: Run) -> int:
        """Follow the Route headers of the request, from loose and strict routers (RFC 3261 §16.4, §16.12).

        Returns 1 when they decided where the request goes. -1 without Route, when a route is malformed, or when an
        initial request had nothing but our own address in them (which is then removed).
        """
        msg = run.msg
        if msg.first(H_ROUTE) is None:
            return -1
        try:
            ruri = msg.uri if run.ruri == msg.ruri else self._uris.parse(run.ruri)
            return self._follow(run, msg.routes, ruri, preloaded=not msg.to_tag)
        except ParseError as error:
            self.core.log.info("rr: loose_route: %s in a request from %s", error.reason, msg.source.text)
            return -1

    def _follow(self, run: Run, routes: list[NameAddr], ruri: Uri, preloaded: bool) -> int:
        if not routes:
            return -1
        uris = Uris(routes, self._uris)
        at = 0
        mine = self._is_mine(uris[0])
        own: str | None = None
        if not preloaded and self._is_mine(ruri) and (ruri.lr or not mine) and ruri.param("gr") is None:
            # RFC 3261 §16.4: a strict router put our own Record-Route into the Request-URI; the real one is last.
            own = with_semicolon(ruri.params)
            if self.enable_double_rr and mine and ruri.param("r2") is not None and uris[0].param("r2") is not None:
                self._leave_from(run, uris[0])
                at = 1
            else:
                run.socket_out = run.msg.socket
            if at >= len(routes):
                return -1
            run.ruri = routes[-1].uri
            keep = len(routes) - 1
            parse_uri(run.ruri)
        elif mine:
            own = with_semicolon(uris[0].params)
            at = 1
            keep = len(routes)
            if self.enable_double_rr and uris[0].param("r2") is not None and at < keep and self._is_mine(uris[1]):
                self._leave_from(run, uris[1])
                at = 2
            elif not preloaded:
                run.socket_out = run.msg.socket
        else:
            keep = len(routes)
        strict_target = ""
        if at < keep:
            if uris[at].lr:
                run.dst_uri = routes[at].uri
            else:
                # RFC 3261 §16.6 step 6: the next hop is a strict router, which wants itself in the Request-URI.
                strict_target = run.ruri
                run.ruri = routes[at].uri
                run.dst_uri = ""
                at += 1
        self._rewrite(run, routes, at, keep, strict_target)
        if own is not None:
            self._state(run).params = own
            for callback in self._callbacks:
                callback(run, own)
        return -1 if preloaded and own is not None and at >= keep and not strict_target else 1

    def _rewrite(self, run: Run, routes: list[NameAddr], first: int, end: int, last: str) -> None:
        """Note that only routes[first:end], and then `last`, leave with the request."""
        if first == 0 and end == len(routes) and not last:
            return
        at = 0
        headers = run.msg.all(H_ROUTE)
        single = len(headers) == len(routes)
        for header in headers:
            if single or first >= end:
                if not first <= at < end:
                    run.edits.remove(header)
                at += 1
                continue
            values = parse_name_addr_list(header.value)
            kept = [value for index, value in enumerate(values, at) if first <= index < end]
            at += len(values)
            if not kept:
                run.edits.remove(header)
            elif len(kept) < len(values):
                line = ", ".join(value.text for value in kept)
                run.edits.replace(header.value_start, header.value_end, line)
        if last:
            run.edits.insert_after(headers[-1], f"Route: <{last}>\r\n")

    def _is_mine(self, uri: Uri) -> bool:
        port = uri.port or (SIPS_PORT if uri.scheme == "sips" or uri.proto in (PROTO_TLS, PROTO_WSS) else SIP_PORT)
        return uri.scheme in ("sip", "sips") and self.core.is_myself(uri.host, port, 0)

    def _leave_from(self, run: Run, uri: Uri) -> None:
        """Send from the socket that the second of our two Record-Route headers named."""
        proto = uri.proto or PROTO_UDP
        for socket in self.core.sockets:
            if socket.proto == proto and uri.host_text in (socket.via_host, socket.host_text):
                port = uri.port or SIP_PORT
                if port in (socket.via_port, socket.port):
                    run.socket_out = socket
                    return
        if self.enable_socket_mismatch_warning:
            self.core.log.warning("rr: no socket for the second Record-Route %s", uri)

    # --- asking

    @script_function(routes=REQUEST)
    def check_route_param(self, run: Run, re: Pattern) -> int:
        """Search the parameters of our own Route URI, after loose_route()."""
        params = self.route_params(run)
        try:
            return 1 if params and re.search(params) else -1
        except TimeoutError:
            self.core.log.error("rr: check_route_param: the expression took too long")
            return -1

    @script_function(routes=REQUEST)
    def is_direction(self, run: Run, dir: Annotated[int, Fixup(direction, "string")]) -> int:
        """Tell whether the request runs "upstream" (to the caller) or "downstream", after loose_route()."""
        return 1 if self.is_upstream(run) == (dir == UPSTREAM) else -1

    @variable("$rr_params")
    def rr_params(self, run: Run, name: object, index: Index) -> Value:
        """The parameters of our own Route URI; NULL before loose_route()."""
        return self.route_params(run) or None

    def on_loose_route(self, callback: RouteCallback) -> None:
        self._callbacks.append(callback)

    def route_params(self, run: Run) -> str:
        state = run.ctx.get(CONTEXT)
        return state.params or "" if isinstance(state, RouteState) else ""

    def route_param(self, run: Run, name: str) -> str | None:
        return read_param(self.route_params(run), name)

    def is_upstream(self, run: Run) -> bool:
        ftag = self.route_param(run, "ftag")
        return bool(ftag) and ftag != run.msg.from_tag

    # --- details

    def _state(self, run: Run) -> RouteState:
        state = run.ctx.get(CONTEXT)
        if not isinstance(state, RouteState):
            state = run.ctx[CONTEXT] = RouteState()
        return state

    def _claim(self, run: Run) -> bool:
        """Let each copy be recorded once only: the headers would name us twice."""
        if self._note(run) is not None:
            self.core.log.error("rr: the request was already record-routed")
            return False
        return True

    def _own_added(self, run: Run, state: RouteState) -> list[str]:
        """What the branch or failure route has added so far, or the failure route that its branch comes from."""
        found: list[str] = []
        edits: Edits | None = run.edits if state.branch_added else None
        while edits is not None:
            found = state.branch_added.get(edits, []) + found
            edits = edits.parent
        return found

    def _ftag(self, run: Run) -> str:
        tag = run.msg.from_tag if self.append_fromtag else ""
        return f";ftag={tag}" if tag else ""

    def _user(self, run: Run) -> str:
        if not self.add_username:
            return ""
        try:
            user = parse_uri(run.ruri).user
        except ParseError:
            return ""
        return f"{user}@" if user else ""

    def _insert(self, run: Run, text: Callable[[Socket, Socket], str]) -> None:
        header = run.msg.first(H_RECORD_ROUTE)
        if header is None:
            run.edits.prepend(text)
        else:
            run.edits.insert_before(header, text)


class Uris:
    """Route URIs, parsed when they are looked at."""

    __slots__ = ("_cache", "_routes")

    def __init__(self, routes: list[NameAddr], cache: UriCache) -> None:
        self._routes = routes
        self._cache = cache

    def __getitem__(self, index: int) -> Uri:
        return self._cache.parse(self._routes[index].uri)
