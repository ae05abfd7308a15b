"""Record-Route and Route: staying on the path of a dialog, and following the path that a dialog has.

RFC 3261 §16.4 (route information preprocessing), §16.6 steps 4 and 6, §16.12 (examples); RFC 5658 for the two
Record-Route headers of a proxy that changes protocol, address or port.

The listening point that a copy leaves from is known only when the copy is built, branch by branch. So the
Record-Route text is a note with a function in it, which is asked with both sockets when a copy is written.
"""

from __future__ import annotations

from typing import Annotated, Final

from opensipspy.module import Core, Fixup, Module, Param, script_function, variable
from opensipspy.modules.rr.api import RouteCallback, RrApi
from opensipspy.modules.rr.routing import (
    CONTEXT,
    UNSAFE,
    PresetRoute,
    RecordRoute,
    RouteState,
    Routing,
    add,
    insert,
    known_state,
    note_of,
    own_added,
    read_param,
    recorded_state,
    with_semicolon,
    without,
)
from opensipspy.script.declare import Index, Value
from opensipspy.script.kinds import BRANCH, FAILURE, REQUEST
from opensipspy.script.patterns import Pattern
from opensipspy.script.run import Run

__all__ = ["RecordRoute", "Rr"]

UPSTREAM: Final = 1
DOWNSTREAM: Final = 0


def direction(text: str) -> int:
    """is_direction's argument, read at load."""
    folded = text.lower()
    if folded == "upstream":
        return UPSTREAM
    if folded == "downstream":
        return DOWNSTREAM
    raise ValueError(f'a direction is "upstream" or "downstream", not "{text}"')


class Rr(Module, RrApi):
    """Put ourselves into the route set of dialogs, and route requests that carry one."""

    name = "rr"

    append_fromtag = Param(int, 1, "1 adds the From tag to Record-Route; is_direction() needs it.")
    enable_double_rr = Param(int, 1, "1 writes two Record-Route headers when a request changes sockets.")
    add_username = Param(int, 0, "1 adds the user part of the Request-URI to Record-Route.")
    ignore_user = Param(
        str, "", "A Route URI with this user part is somebody else's, though it is at our address; never recorded."
    )
    enable_socket_mismatch_warning = Param(
        int, 1, "1 logs a warning when a preset or second Record-Route names none of our sockets."
    )

    def bind(self, core: Core) -> None:
        super().bind(core)
        routing = self.routing = Routing(core)
        routing.append_fromtag = bool(self.append_fromtag)
        routing.double = bool(self.enable_double_rr)
        routing.add_username = bool(self.add_username)
        routing.ignored_user = self.ignore_user
        routing.warn = bool(self.enable_socket_mismatch_warning)

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
        return self.routing.record(run, extra)

    @script_function(routes=REQUEST | FAILURE | BRANCH)
    def record_route_preset(self, run: Run, string: str, string2: str | None = None) -> int:
        """Add Record-Route headers for `string` (outbound) and `string2` (inbound), each "host[:port][;params]".

        Returns -1 when the request was already recorded, or when a string cannot stand in a URI.
        """
        if not string or not UNSAFE.isdisjoint(string) or not UNSAFE.isdisjoint(string2 or ""):
            self.core.log.error("rr: record_route_preset: %r cannot stand in a URI", string2 if string else string)
            return -1
        routing = self.routing
        state = known_state(run)
        if not routing.claim(run):
            return -1
        text = PresetRoute(state, routing.user(run), routing.tagged(run), string, string2 or "")
        text.own = own_added(run, state)
        text.log = self.core.log if self.enable_socket_mismatch_warning else None
        insert(run, text)
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
        add(run, param)
        return True

    def put_param(self, run: Run, param: str) -> bool:
        if run.kind not in (BRANCH, FAILURE):
            state = recorded_state(run, note_of(run))
            state.added = without(state.added, param)
        return self.add_param(run, param)

    def has_from_tag(self) -> bool:
        return bool(self.append_fromtag)

    # --- following

    @script_function(routes=REQUEST)
    def loose_route(self, run: Run) -> int:
        """Follow the Route headers of the request, from loose and strict routers (RFC 3261 §16.4, §16.12).

        Returns 1 when they decided where the request goes. -1 without Route, when a route is malformed, or when an
        initial request had nothing but our own address in them (which is then removed).
        """
        return self.routing.loose_route(run)

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
        """The parameters of our own Route URI, "lr;ftag=1"; NULL before loose_route()."""
        return self.route_params(run).lstrip(";") or None

    def on_loose_route(self, callback: RouteCallback) -> None:
        self.routing.callbacks.append(callback)

    def route_params(self, run: Run) -> str:
        state = run.noted(CONTEXT)
        return state.params or "" if isinstance(state, RouteState) else ""

    def route_param(self, run: Run, name: str) -> str | None:
        return read_param(self.route_params(run), name)

    def is_upstream(self, run: Run) -> bool:
        ftag = self.route_param(run, "ftag")
        return bool(ftag) and ftag != run.msg.from_tag
