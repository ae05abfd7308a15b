"""One message in a script: what the routes read and change while they run.

The received text never changes. A `Run` holds the destination, the flags, the branch set, the variables and the notes
of edits; the server applies them when a copy of the message leaves. This is the hottest object of the server, and one
stays with each open transaction: what every script touches are plain attributes, and a list or a dict is made when
something is put into it or asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from opensipspy.script import kinds
from opensipspy.sip import Edits, Message, Socket, proto_name

if TYPE_CHECKING:
    from opensipspy.script.services import ScriptServices

Value = int | str | None

# `$(avp(x)[*])` and `$(avp(x)[append])`; every other index is None or an int.
INDEX_ALL: Final = "*"
INDEX_APPEND: Final = "append"
Index = int | str | None

# `Run.via_flags`: what force_rport(), add_local_rport() and set_via_handling() asked for.
VIA_FORCE_RPORT: Final = 1  # answer the source port although the Via has no rport (RFC 3581)
VIA_LOCAL_RPORT: Final = 2  # put rport into our own Via
VIA_REPLY_TO_VIA: Final = 4  # answer the Via's address, not the packet's

# q in thousandths; the value of a branch that names none.
Q_UNSPECIFIED: Final = -1


class Branch:
    """One more destination of the message beside its Request-URI (RFC 3261 §16.6).

    uri: the Request-URI of the branch. dst_uri: the next hop, "" for the URI itself. q: thousandths, -1 when none.
    path: the Path value turned into Route headers, "" for none. flags: branch flags. attrs: `$msg.branch.attr(...)`.
    """

    __slots__ = ("attrs", "dst_uri", "flags", "path", "q", "socket", "uri")

    def __init__(
        self,
        uri: str,
        dst_uri: str = "",
        q: int = Q_UNSPECIFIED,
        path: str = "",
        flags: int = 0,
        socket: Socket | None = None,
    ) -> None:
        self.uri: str = uri
        self.dst_uri: str = dst_uri
        self.q: int = q
        self.path: str = path
        self.flags: int = flags
        self.socket: Socket | None = socket
        self.attrs: dict[str, Value] | None = None


class Run:
    """One message in one route, with everything that belongs to it.

    msg: the message the route runs for. request, reply: in reply and failure routes, the transaction's request and the
    reply at hand (`$(<request>ru)`, `$(<reply>rs)`). ruri, dst_uri, path, q, branch_flags, socket_out: the main
    branch; dst_uri and path are "" when unset, q is in thousandths and -1 when unset. branches: further ones.
    avps: a stack per name, top last, shared with the transaction. vars: `$var`. params: a stack of the parameters of
    the routes being run; an entry is a tuple (`route(name, a, b)`) or a dict by name (event routes). route_stack:
    (kind, name) of the routes being run, innermost last. return_values: what followed the code in the last
    `return(code, a, b, ...)`.
    via_flags: VIA_* bits. advertised_address ("" none), advertised_port (0 none): what our Via shows for this message.
    reply_edits: header lines, each with CRLF, for replies made here to this request. handled: a reply or a copy left.
    max_forwards: what leaves in Max-Forwards once the script has counted it down, -1 before.
    Views of one run (`for_branch`) share its avps, vars, ctx and reply_edits.
    """

    __slots__ = (
        "_avps",
        "_branches",
        "_ctx",
        "_origin",
        "_params",
        "_reply_edits",
        "_return_values",
        "_route_stack",
        "_vars",
        "advertised_address",
        "advertised_port",
        "branch_flags",
        "branch_index",
        "dropped",
        "dst_uri",
        "edits",
        "error_class",
        "error_code",
        "error_info",
        "error_level",
        "error_reason",
        "exited",
        "handled",
        "kind",
        "max_forwards",
        "msg",
        "msg_flags",
        "path",
        "program",
        "q",
        "reply",
        "request",
        "retcode",
        "ruri",
        "services",
        "socket_out",
        "transaction",
        "via_flags",
    )

    def __init__(
        self,
        msg: Message,
        kind: int = kinds.REQUEST,
        program: object = None,
        services: ScriptServices | None = None,
    ) -> None:
        self.msg: Message = msg
        self.kind: int = kind
        self.program: object = program
        self.services: ScriptServices | None = services
        self.request: Message | None = msg if msg.is_request else None
        self.reply: Message | None = None if msg.is_request else msg
        self.ruri: str = msg.ruri
        self.dst_uri: str = ""
        self.path: str = ""
        self.q: int = Q_UNSPECIFIED
        self.socket_out: Socket | None = None
        self.msg_flags: int = 0
        self.branch_flags: int = 0
        self.via_flags: int = 0
        self.advertised_address: str = ""
        self.advertised_port: int = 0
        self.edits: Edits = Edits()
        self.max_forwards: int = -1
        self.retcode: int = 1
        self.transaction: object = None
        self.branch_index: int = 0
        self.error_class: int = 0
        self.error_level: int = 0
        self.error_info: str = ""
        self.error_code: int = 0
        self.error_reason: str = ""
        # The run whose avps, vars, ctx and reply_edits this one shares.
        self._origin: Run | None = None
        self._branches: list[Branch] | None = None
        self._reply_edits: list[str] | None = None
        self._avps: dict[str, list[Value]] | None = None
        self._vars: dict[str, Value] | None = None
        self._return_values: list[Value] | None = None
        self._params: list[tuple[Value, ...] | dict[str, Value]] | None = None
        self._route_stack: list[tuple[int, str]] | None = None
        self._ctx: dict[str, object] | None = None
        # Side by side, compiled they share eight bytes; there are many of these objects.
        self.handled: bool = False
        self.dropped: bool = False
        self.exited: bool = False

    @property
    def branches(self) -> list[Branch]:
        found = self._branches
        if found is None:
            found = self._branches = []
        return found

    @branches.setter
    def branches(self, value: list[Branch]) -> None:
        self._branches = value

    @property
    def return_values(self) -> list[Value]:
        found = self._return_values
        if found is None:
            found = self._return_values = []
        return found

    @return_values.setter
    def return_values(self, value: list[Value]) -> None:
        self._return_values = value

    @property
    def params(self) -> list[tuple[Value, ...] | dict[str, Value]]:
        found = self._params
        if found is None:
            found = self._params = []
        return found

    @params.setter
    def params(self, value: list[tuple[Value, ...] | dict[str, Value]]) -> None:
        self._params = value

    @property
    def route_stack(self) -> list[tuple[int, str]]:
        found = self._route_stack
        if found is None:
            found = self._route_stack = []
        return found

    @route_stack.setter
    def route_stack(self, value: list[tuple[int, str]]) -> None:
        self._route_stack = value

    @property
    def reply_edits(self) -> list[str]:
        found = self._reply_edits
        if found is None:
            found = self._reply_edits = [] if self._origin is None else self._origin.reply_edits
        return found

    @reply_edits.setter
    def reply_edits(self, value: list[str]) -> None:
        self._reply_edits = value

    @property
    def avps(self) -> dict[str, list[Value]]:
        found = self._avps
        if found is None:
            found = self._avps = {} if self._origin is None else self._origin.avps
        return found

    @avps.setter
    def avps(self, value: dict[str, list[Value]]) -> None:
        self._avps = value

    @property
    def vars(self) -> dict[str, Value]:
        found = self._vars
        if found is None:
            found = self._vars = {} if self._origin is None else self._origin.vars
        return found

    @vars.setter
    def vars(self, value: dict[str, Value]) -> None:
        self._vars = value

    @property
    def ctx(self) -> dict[str, object]:
        found = self._ctx
        if found is None:
            found = self._ctx = {} if self._origin is None else self._origin.ctx
        return found

    @ctx.setter
    def ctx(self, value: dict[str, object]) -> None:
        self._ctx = value

    def noted(self, key: str) -> object:
        """What stands in `ctx`, None for nothing; no dict is made for the answer."""
        found = self._ctx
        if found is not None:
            return found.get(key)
        return None if self._origin is None else self._origin.noted(key)

    def for_branch(self, branch: Branch, index: int = 0) -> Run:
        """The view of one outgoing branch: own edits, destination and flags; `$avp` and `$var` are shared."""
        view = Run(self.msg, kinds.BRANCH, self.program, self.services)
        view.ruri = branch.uri
        view.dst_uri = branch.dst_uri
        view.path = branch.path
        view.q = branch.q
        view.socket_out = branch.socket if branch.socket is not None else self.socket_out
        view.branch_flags = branch.flags
        view.branch_index = index
        view.msg_flags = self.msg_flags
        view.via_flags = self.via_flags
        view.max_forwards = self.max_forwards
        view.advertised_address = self.advertised_address
        view.advertised_port = self.advertised_port
        view.edits = self.edits.fork()
        view._share(self)
        view.transaction = self.transaction
        return view

    def _share(self, origin: Run) -> None:
        """Have what is put into one be seen in the other."""
        self._origin = origin
        self._reply_edits = origin._reply_edits
        self._avps = origin._avps
        self._vars = origin._vars
        self._ctx = origin._ctx

    def rest(self) -> None:
        """Take as little room as possible: the request waits, perhaps for long, and no route is at work on it."""
        if not self._branches:
            self._branches = None
        if not self._params:
            self._params = None
        if not self._route_stack:
            self._route_stack = None
        notes = self.edits.notes
        if notes is not None:
            self.edits.notes = notes[:]

    def for_reply(self, reply: Message, kind: int = kinds.ONREPLY) -> Run:
        """The view of a reply to this request: `$avp`, flags and transaction shared, the reply as message."""
        view = Run(reply, kind, self.program, self.services)
        view.request = self.msg
        view.reply = reply
        view.msg_flags = self.msg_flags
        view.avps = self.avps
        view.transaction = self.transaction
        return view

    def detached(self) -> Run:
        """A view that goes on by itself beside the script (launch()): the same message, everything else a copy."""
        view = self.for_branch(self.main_branch(), self.branch_index)
        view.kind = self.kind
        view.request = self.request
        view.reply = self.reply
        view._branches = None if self._branches is None else list(self._branches)
        view.avps = {name: list(stack) for name, stack in self.avps.items()}
        view.vars = dict(self.vars)
        view.ctx = dict(self.ctx)
        view.reply_edits = list(self.reply_edits)
        view.params = list(self.params)
        view.route_stack = list(self.route_stack)
        return view

    def via_value(self, socket: Socket, branch: str) -> str:
        """The Via of a copy that leaves by a socket, without the header's name: what set_advertised_address(),
        set_advertised_port() and add_local_rport() asked for is in it."""
        if self.advertised_address or self.advertised_port:
            host = self.advertised_address or socket.via_host
            value = (
                f"SIP/2.0/{proto_name(socket.proto).upper()} {host}:{self.advertised_port or socket.via_port};branch="
            )
        else:
            value = socket.via_prefix
        value += branch
        return value + ";rport" if self.via_flags & VIA_LOCAL_RPORT else value

    def added_branches(self) -> list[Branch] | None:
        """The further branches, None when there are none."""
        return self._branches

    def drop_branches(self) -> None:
        """The further branches were used; the list that held them stays with whoever has it."""
        self._branches = None

    def main_branch(self) -> Branch:
        """The Request-URI with its attributes as a `Branch`."""
        return Branch(self.ruri, self.dst_uri, self.q, self.path, self.branch_flags, self.socket_out)

    def param(self, index: int) -> Value:
        """`$param(index)` of the route being run, counted from 1; NULL when there is none."""
        frames = self._params
        if not frames:
            return None
        frame = frames[-1]
        if isinstance(frame, tuple):
            return frame[index - 1] if 0 < index <= len(frame) else None
        return list(frame.values())[index - 1] if 0 < index <= len(frame) else None

    def context(self, name: str) -> Run | None:
        """What `<request>` or `<reply>` means here; None when there is no such message."""
        message = self.request if name == "request" else self.reply
        if message is None:
            return None
        if message is self.msg and (name == "reply" or self.kind != kinds.FAILURE):
            return self  # a failure_route begins anew; there `<request>` is the request as the main route left it
        owner = getattr(self.transaction, "run", None)
        if isinstance(owner, Run) and owner.msg is message:
            return owner
        view = Run(message, self.kind, self.program, self.services)
        view._share(self)
        view._reply_edits = []
        view.transaction = self.transaction
        return view


class VarRef:
    """A variable handed to a function that reads or writes it.

    text: as the script spells it. get(run) and set(run, value); replace(run, value) is `:=` (an AVP's whole stack).
    name: the constant name in parentheses, "" when it is not constant or absent.
    """

    __slots__ = ("get", "name", "replace", "set", "text", "variable")

    def __init__(
        self,
        text: str,
        variable: str,
        name: str,
        get: Callable[[Run], Value],
        set: Callable[[Run, Value], None],
        replace: Callable[[Run, Value], None],
    ) -> None:
        self.text: str = text
        self.variable: str = variable
        self.name: str = name
        self.get: Callable[[Run], Value] = get
        self.set: Callable[[Run, Value], None] = set
        self.replace: Callable[[Run, Value], None] = replace

    @property
    def is_avp(self) -> bool:
        return self.variable == "$avp"
