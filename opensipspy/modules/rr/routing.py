"""The path of a message through rr: what is written for each request, and how its Route headers are followed.

In a file of its own because it is compiled; `Rr` declares what scripts see of it.
"""

from __future__ import annotations

from collections.abc import Callable
from logging import Logger
from typing import Final

from opensipspy.module import Core
from opensipspy.modules.rr.api import RouteCallback
from opensipspy.script.kinds import BRANCH, FAILURE
from opensipspy.script.run import Run
from opensipspy.sip import (
    H_RECORD_ROUTE,
    H_ROUTE,
    PROTO_TLS,
    PROTO_UDP,
    PROTO_WSS,
    Edits,
    Message,
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
SIP_PORT: Final = 5060
SIPS_PORT: Final = 5061
UNSAFE: Final = frozenset('<>"\r\n \t?')
"""What would end the URI, or the header, that a parameter is written into."""


class RouteState:
    """What rr knows about one request.

    added: parameters for all copies, None for none. branch_added: parameters that a branch or failure route added for
    its own copies before it recorded them, by the notes of that route. params: of our own Route, None before.
    """

    __slots__ = ("added", "branch_added", "params")

    def __init__(self) -> None:
        self.added: list[str] | None = None
        self.branch_added: dict[Edits, list[str]] | None = None
        self.params: str | None = None


class RecordRoute:
    """The Record-Route lines of one request, written when the outgoing socket of a copy is known.

    state: None until rr knows more of the request than that it is recorded, which is seldom. tagged: the
    request whose From tag is shown as `ftag`, None for no such parameter. own: parameters of the copies of one route
    only, None for none; they take the place of those with the same names for all copies.
    """

    __slots__ = ("double", "extra", "own", "scheme", "state", "tagged", "user")

    def __init__(
        self, state: RouteState | None, scheme: str, user: str, tagged: Message | None, extra: str, double: bool
    ) -> None:
        self.state: RouteState | None = state
        self.scheme: str = scheme
        self.user: str = user
        self.tagged: Message | None = tagged
        self.extra: str = extra
        self.double: bool = double
        self.own: list[str] | None = None

    def with_param(self, param: str) -> RecordRoute:
        """The same lines for some copies, with one parameter more."""
        made = RecordRoute(self.state, self.scheme, self.user, self.tagged, self.extra, self.double)
        made.own = put(self.own, param)
        return made

    def tail(self) -> str:
        """The parameters behind `lr`."""
        added = self.state.added if self.state is not None else None
        if self.own is not None:
            for param in self.own:
                added = put(added, param)
        tag = self.tagged.from_tag if self.tagged is not None else ""
        tail = f";ftag={tag}{self.extra}" if tag else self.extra
        return tail if added is None else tail + "".join(added)

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

    def __init__(
        self, state: RouteState | None, user: str, tagged: Message | None, outbound: str, inbound: str
    ) -> None:
        super().__init__(state, "sip:", user, tagged, "", double=bool(inbound))
        self.outbound: str = outbound
        self.inbound: str = inbound
        self.log: Logger | None = None

    def with_param(self, param: str) -> PresetRoute:
        made = PresetRoute(self.state, self.user, self.tagged, self.outbound, self.inbound)
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


def put(params: list[str] | None, param: str) -> list[str]:
    """The list with one parameter more, in place of one of its name."""
    return [*without(params, param), param]


def without(params: list[str] | None, param: str) -> list[str]:
    """The list without a parameter of this one's name."""
    if params is None:
        return []
    name = param.partition("=")[0].lower()
    return [other for other in params if other.partition("=")[0].lower() != name]


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


class Routing:
    """Records routes in requests and follows those that requests carry. Its switches are parameters of the module."""

    def __init__(self, core: Core) -> None:
        self.core: Core = core
        self.append_fromtag: bool = True
        self.double: bool = True
        self.add_username: bool = False
        self.ignored_user: str = ""
        self.warn: bool = True
        self.callbacks: list[RouteCallback] = []
        # Route URIs are mostly our own.
        self._uris: UriCache = UriCache(256)

    # --- recording

    def record(self, run: Run, extra: str) -> int:
        """Note a Record-Route header for the copies of this request; -1 when they have one."""
        state = known_state(run)
        if not self.claim(run):
            return -1
        scheme = "sips:" if run.ruri[:5].lower() == "sips:" else "sip:"
        text = RecordRoute(state, scheme, self.user(run), self.tagged(run), extra, self.double)
        text.own = own_added(run, state)
        insert(run, text)
        return 1

    def claim(self, run: Run) -> bool:
        """Let each copy be recorded once only: the headers would name us twice."""
        if note_of(run) is not None:
            self.core.log.error("rr: the request was already record-routed")
            return False
        return True

    def tagged(self, run: Run) -> Message | None:
        """The request, when its From tag is to be shown."""
        return run.msg if self.append_fromtag else None

    def user(self, run: Run) -> str:
        if not self.add_username:
            return ""
        try:
            user = parse_uri(run.ruri).user
        except ParseError:
            return ""
        if user and user == self.ignored_user:
            # It would not be known for ours when it comes back.
            user = ("y" if user[0] == "x" else "x") + user[1:]
        return f"{user}@" if user else ""

    # --- following

    def loose_route(self, run: Run) -> int:
        """1 the Route headers decided where the request goes, else -1 (RFC 3261 section 16.4)."""
        msg = run.msg
        if not msg.has(H_ROUTE):
            return -1
        try:
            ruri = msg.uri if run.ruri == msg.ruri else self._uris.parse(run.ruri)
            return self._follow(run, msg.routes, ruri, not msg.to_tag)
        except ParseError as error:
            self.core.log.info("rr: loose_route: %s in a request from %s", error.reason, msg.source.text)
            return -1

    def _follow(self, run: Run, routes: list[NameAddr], ruri: Uri, preloaded: bool) -> int:
        if not routes:
            return -1
        cache = self._uris
        top = cache.parse(routes[0].uri)
        at = 0
        mine = self._is_mine(top)
        own: str | None = None
        keep = len(routes)
        if not preloaded and self._is_mine(ruri) and (ruri.lr or not mine) and ruri.param("gr") is None:
            # RFC 3261 §16.4: a strict router put our own Record-Route into the Request-URI; the real one is last.
            own = with_semicolon(ruri.params)
            if self.double and mine and ruri.param("r2") is not None and top.param("r2") is not None:
                self._leave_from(run, top)
                at = 1
            else:
                run.socket_out = run.msg.socket
            if at >= keep:
                return -1
            run.ruri = routes[-1].uri
            keep -= 1
            parse_uri(run.ruri)
        elif mine:
            own = with_semicolon(top.params)
            at = 1
            second = cache.parse(routes[1].uri) if self.double and keep > 1 and top.param("r2") is not None else None
            if second is not None and self._is_mine(second):
                self._leave_from(run, second)
                at = 2
            elif not preloaded:
                run.socket_out = run.msg.socket
        strict_target = ""
        if at < keep:
            following = cache.parse(routes[at].uri)
            if following.lr:
                run.dst_uri = routes[at].uri
            elif own is None and following.scheme not in ("sip", "sips"):
                return -1  # nobody can be sent to: taken for a strict router, it would become the Request-URI
            else:
                # RFC 3261 §16.6 step 6: the next hop is a strict router, which wants itself in the Request-URI.
                strict_target = run.ruri
                run.ruri = routes[at].uri
                run.dst_uri = ""
                at += 1
        rewrite(run, routes, at, keep, strict_target)
        if own is not None:
            state_of(run).params = own
            for callback in self.callbacks:
                callback(run, own)
        return -1 if preloaded and own is not None and at >= keep and not strict_target else 1

    def _is_mine(self, uri: Uri) -> bool:
        if uri.scheme != "sip" and uri.scheme != "sips":
            return False
        port = uri.port
        if not port:
            port = SIPS_PORT if uri.scheme == "sips" or uri.proto in (PROTO_TLS, PROTO_WSS) else SIP_PORT
        if self.ignored_user and uri.user == self.ignored_user:
            return False
        host = uri.host
        if "maddr=" in uri.params:
            host = (uri.param("maddr") or host).strip("[]")
        return self.core.is_myself(host, port, 0)

    def _leave_from(self, run: Run, uri: Uri) -> None:
        """Send from the socket that the second of our two Record-Route headers named."""
        proto = uri.proto or PROTO_UDP
        for socket in self.core.sockets:
            if socket.proto == proto and uri.host_text in (socket.via_host, socket.host_text):
                port = uri.port or SIP_PORT
                if port in (socket.via_port, socket.port):
                    run.socket_out = socket
                    return
        if self.warn:
            self.core.log.warning("rr: no socket for the second Record-Route %s", uri)


def rewrite(run: Run, routes: list[NameAddr], first: int, end: int, last: str) -> None:
    """Note that only routes[first:end], and then `last`, leave with the request."""
    if first == 0 and end == len(routes) and not last:
        return
    if len(routes) == 1 and not last:
        start, end = run.msg.header_range(H_ROUTE)
        run.edits.remove_range(start, end)
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
            line = ", ".join([value.text for value in kept])
            run.edits.replace(header.value_start, header.value_end, line)
    if last:
        run.edits.insert_after(headers[-1], f"Route: <{last}>\r\n")


def state_of(run: Run) -> RouteState:
    """What rr knows about the request; made when there is nothing yet."""
    state = run.noted(CONTEXT)
    if isinstance(state, RouteState):
        return state
    made = RouteState()
    run.ctx[CONTEXT] = made
    return made


def known_state(run: Run) -> RouteState | None:
    """What rr knows about the request. A branch or failure route always has it: what the main route adds later counts
    for its lines too, and nothing leads there from those."""
    state = run.noted(CONTEXT)
    if isinstance(state, RouteState):
        return state
    return state_of(run) if run.kind == BRANCH or run.kind == FAILURE else None


def recorded_state(run: Run, note: Note | None) -> RouteState:
    """The state that the lines of a note are written from, or those that will be."""
    text = note.deferred if note is not None else None
    if not isinstance(text, RecordRoute):
        return state_of(run)
    if text.state is None:
        text.state = state_of(run)
    return text.state


def note_of(run: Run) -> Note | None:
    """The note that writes Record-Route for the copies of this route."""
    edits: Edits | None = run.edits
    while edits is not None:
        if edits.notes:
            for note in reversed(edits.notes):
                if isinstance(note.deferred, RecordRoute):
                    return note
        edits = edits.parent
    return None


def own_added(run: Run, state: RouteState | None) -> list[str] | None:
    """What the branch or failure route has added so far, or the failure route that its branch comes from."""
    by_route = state.branch_added if state is not None else None
    if by_route is None:
        return None
    found: list[str] = []
    edits: Edits | None = run.edits
    while edits is not None:
        found = by_route.get(edits, []) + found
        edits = edits.parent
    return found


def insert(run: Run, text: Callable[[Socket, Socket], str]) -> None:
    header = run.msg.first(H_RECORD_ROUTE)
    if header is None:
        run.edits.prepend(text)
    else:
        run.edits.insert_before(header, text)


def add(run: Run, param: str) -> None:
    """Put a parameter into Record-Route, also when that is noted already."""
    note = note_of(run)
    state = recorded_state(run, note)
    if run.kind not in (BRANCH, FAILURE):
        if state.added is None:
            state.added = [param]
        else:
            state.added.append(param)
        return
    if note is None:
        if state.branch_added is None:
            state.branch_added = {}
        state.branch_added.setdefault(run.edits, []).append(param)
    else:
        text = note.deferred
        if isinstance(text, RecordRoute):
            run.edits.supersede(note, text.with_param(param))
