"""One message in a script: what the routes read and change while they run.

The received text never changes. A `Run` holds the destination, the flags, the branch set, the variables and the notes
of edits; the server applies them when a copy of the message leaves. This is the hottest object of the server: plain
attributes, no properties on what every script touches.
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
    """

    __slots__ = (
        "advertised_address",
        "advertised_port",
        "avps",
        "branch_flags",
        "branch_index",
        "branches",
        "ctx",
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
        "msg",
        "msg_flags",
        "params",
        "path",
        "program",
        "q",
        "reply",
        "reply_edits",
        "request",
        "retcode",
        "return_values",
        "route_stack",
        "ruri",
        "services",
        "socket_out",
        "transaction",
        "vars",
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
        self.branches: list[Branch] = []
        self.edits: Edits = Edits()
        self.reply_edits: list[str] = []
        self.avps: dict[str, list[Value]] = {}
        self.vars: dict[str, Value] = {}
        self.retcode: int = 1
        self.return_values: list[Value] = []
        self.params: list[tuple[Value, ...] | dict[str, Value]] = []
        self.route_stack: list[tuple[int, str]] = []
        self.handled: bool = False
        self.dropped: bool = False
        self.exited: bool = False
        self.transaction: object = None
        self.branch_index: int = 0
        self.ctx: dict[str, object] = {}
        self.error_class: int = 0
        self.error_level: int = 0
        self.error_info: str = ""
        self.error_code: int = 0
        self.error_reason: str = ""

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
        view.advertised_address = self.advertised_address
        view.advertised_port = self.advertised_port
        view.edits = self.edits.fork()
        view.reply_edits = self.reply_edits
        view.avps = self.avps
        view.vars = self.vars
        view.ctx = self.ctx
        view.transaction = self.transaction
        return view

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
        view.branches = list(self.branches)
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

    def main_branch(self) -> Branch:
        """The Request-URI with its attributes as a `Branch`."""
        return Branch(self.ruri, self.dst_uri, self.q, self.path, self.branch_flags, self.socket_out)

    def param(self, index: int) -> Value:
        """`$param(index)` of the route being run, counted from 1; NULL when there is none."""
        if not self.params:
            return None
        frame = self.params[-1]
        if isinstance(frame, tuple):
            return frame[index - 1] if 0 < index <= len(frame) else None
        return list(frame.values())[index - 1] if 0 < index <= len(frame) else None

    def context(self, name: str) -> Run | None:
        """What `<request>` or `<reply>` means here; None when there is no such message."""
        message = self.request if name == "request" else self.reply
        if message is None:
            return None
        if message is self.msg:
            return self
        owner = getattr(self.transaction, "run", None)
        if isinstance(owner, Run) and owner.msg is message:
            return owner
        view = Run(message, self.kind, self.program, self.services)
        view.avps = self.avps
        view.vars = self.vars
        view.ctx = self.ctx
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
