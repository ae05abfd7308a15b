"""Rules that look at a script as a whole: who may be relayed, what is read and never set, what can never be equal.

All of them give warnings, and each is built to be silent when in doubt: a checker that cries wolf is switched off.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from opensipspy.script import tree
from opensipspy.script.declare import NEAR, Catalogue
from opensipspy.script.errors import WARNING, Finding, Pos
from opensipspy.script.varsyntax import VariableError, VarSpec, parse_variable

if TYPE_CHECKING:
    from opensipspy.script.parse import Script

# -- open relay
#
# A request is relayed openly when it can reach t_relay() or forward() with its destination as the sender wrote it and
# nobody has asked who he is or where it goes. The main route is walked with one state for each way through it:
#   CHECKED   some check of sender or destination stood on the way, or the script chose the destination itself. What
#             was checked in one half of an if is trusted behind it: methods are often told apart before.
#   INSIDE    the request belongs to a dialog or transaction: true only where a condition has just said so.

CHECKED: Final = 1
INSIDE: Final = 2
State = int | None  # None: no way leads here.

_RELAYS: Final = frozenset({"t_relay", "forward"})
# The argument that names a destination, from 0: with it, it is not the sender who chooses.
_CHOSEN_BY: Final = {"t_relay": 1, "forward": 0}
_CHECKS: Final = frozenset(
    {
        "is_myself", "is_domain_local", "is_from_local", "is_uri_host_local", "db_is_from_authorized",
        "db_is_to_authorized", "db_does_uri_exist", "db_get_auth_id", "check_address", "check_source_address",
        "get_source_group", "allow_routing", "allow_uri", "goes_to_gw", "is_from_gw", "do_routing", "use_next_gw",
        "route_to_gw", "route_to_carrier", "load_balance", "is_registered", "is_contact_registered",
        "is_ip_registered", "is_peer_verified", "dp_translate", "enum_query", "isn_query", "i_enum_query",
        "next_branches", "sethost", "sethostport", "seturi", "setdsturi", "cache_fetch", "exec", "call_control",
        "aaa_does_uri_exist", "aaa_does_uri_user_exist", "is_from_user_enum", "verify_destination", "verify_source",
        "stir_shaken_verify", "verify", "match_url", "trie_search", "check_route_param", "mc_compress",
        "cc_handle_call", "fix_nated_register", "is_user_in", "emergency_call", "pcre_match_group",
    }
)  # fmt: skip
_CHECK_BEGIN: Final = (
    "ds_", "lb_", "dr_", "cr_", "sql_", "rest_", "ldap_", "python_", "perl_", "lua_", "cgrates_", "b2b_", "aaa_",
    "osp", "jwt_", "rl_", "carrier", "stir_", "topology_hiding", "mid_registrar_lookup", "dp_",
)  # fmt: skip
_CHECK_END: Final = ("authorize", "lookup", "is_user_in")
_INSIDE: Final = frozenset(
    {"has_totag", "loose_route", "match_dialog", "validate_dialog", "topology_hiding_match", "t_check_trans"}
)
_INSIDE_METHODS: Final = frozenset({"ACK", "CANCEL"})
_ORIGIN: Final = frozenset(
    {"$si", "$src_ip", "$ru", "$ruri", "$rd", "$ruri.domain", "$fd", "$from.domain", "$socket_in", "$au", "$du",
     "$duri", "$dd", "$ds", "$rb", "$sp", "$hdr"}
)  # fmt: skip
_DESTINATION: Final = frozenset(
    {"$ru", "$ruri", "$rd", "$ruri.domain", "$du", "$duri", "$msg.branch.uri", "$msg.branch.duri", "$branch"}
)
_BASE: Final = re.compile(r"\$\(?(?:<\w+>)?([A-Za-z_.]*[A-Za-z_])")


def open_relays(routes: Mapping[str, tree.Block]) -> list[Finding]:
    """A warning at the first statement of the main route, or of what it calls, that relays anything to anywhere."""
    main = routes.get("")
    if main is None:
        return []
    walk = _Relays(routes)
    walk.route(main, 0)
    if walk.first is None:
        return []
    message = f"{walk.first.name}() can relay any request of anybody to anywhere: no check stands on the way to it"
    hint = "ask who sends or where it goes, e.g. with is_myself(), check_address() or proxy_authorize()"
    return [Finding(walk.first.pos, WARNING, "open-relay", message, hint)]


def _joined(one: State, other: State) -> State:
    if one is None:
        return other
    if other is None:
        return one
    return (one | other) & CHECKED | one & other & INSIDE


def _base(text: str) -> str:
    """The name of a variable as it is spelled, with its `$`."""
    found = _BASE.match(text)
    return f"${found.group(1)}" if found else ""


class _Relays:
    def __init__(self, routes: Mapping[str, tree.Block]) -> None:
        self.routes = routes
        self.first: tree.Call | None = None
        self.known: dict[tuple[str, int], State] = {}
        self.returns: list[State] = [None]
        self.breaks: list[State] = [None]

    def route(self, block: tree.Block, state: int) -> State:
        key = (block.name, state)
        if key in self.known:
            return self.known[key]
        # A route that calls itself adds nothing on its second round.
        self.known[key] = None
        self.returns.append(None)
        self.breaks.append(None)
        end = self.body(block.body, state)
        self.breaks.pop()
        self.known[key] = _joined(end, self.returns.pop())
        return self.known[key]

    def body(self, body: Sequence[tree.Stm], state: State) -> State:
        for statement in body:
            if state is None:
                return None
            state = self.statement(statement, state)
        return state

    def statement(self, node: Any, state: int) -> State:
        if isinstance(node, tree.If):
            true, false = self.condition(node.condition, state)
            return _joined(self.body(node.then, true), self.body(node.otherwise, false))
        if isinstance(node, tree.Exit | tree.Drop):
            return None
        if isinstance(node, tree.Return):
            self.returns[-1] = _joined(self.returns[-1], state)
            return None
        if isinstance(node, tree.Break):
            self.breaks[-1] = _joined(self.breaks[-1], state)
            return None
        if isinstance(node, tree.While | tree.For):
            self.breaks.append(None)
            entered: State = state
            if isinstance(node, tree.While):
                entered, _ = self.condition(node.condition, state)
            after = self.body(node.body, entered)
            return _joined(_joined(state, after), self.breaks.pop())
        if isinstance(node, tree.Switch):
            return self.switch(node, state)
        if isinstance(node, tree.Async):
            true, false = self.condition(node.call, state)
            target = self.routes.get("" if node.route.value == "0" else node.route.value)
            passed = _joined(true, false)
            if target is not None and passed is not None:
                self.route(target, passed)
            return None
        true, false = self.condition(node, state)
        return _joined(true, false)

    def switch(self, node: tree.Switch, state: int) -> State:
        if _base(node.subject.text) in _ORIGIN:
            state |= CHECKED
        method = _base(node.subject.text) == "$rm"
        self.breaks.append(None)
        # What none of the cases takes goes on as it came.
        end: State = state if all(case.value is not None for case in node.cases) else None
        through: State = None
        for case in node.cases:
            inside = method and isinstance(case.value, tree.Text) and case.value.value in _INSIDE_METHODS
            through = self.body(case.body, _joined(state | INSIDE if inside else state, through))
        return _joined(_joined(end, through), self.breaks.pop())

    def condition(self, node: Any, state: int) -> tuple[State, State]:
        """The states where a condition holds and where it does not."""
        if isinstance(node, tree.Not):
            true, false = self.condition(node.operand, state)
            return false, true
        if isinstance(node, tree.Logic):
            true, false = self.condition(node.left, state)
            again = true if node.op == "and" else false
            if again is None:
                return true, false
            right, wrong = self.condition(node.right, again)
            if node.op == "and":
                return right, _joined(false, wrong)
            return _joined(true, right), wrong
        if isinstance(node, tree.Call):
            return self.call(node, state)
        if isinstance(node, tree.Compare):
            return self.compare(node, state)
        if isinstance(node, tree.Var) and _base(node.text) in _ORIGIN:
            return state | CHECKED, state | CHECKED
        if isinstance(node, tree.Assign):
            if isinstance(node.value, tree.Call | tree.Compare | tree.Binary):
                self.condition(node.value, state)
            if _base(node.target.text) in _DESTINATION:
                state |= CHECKED
            return state, state
        if isinstance(node, tree.RouteCall):
            end = self.called(node, state)
            return end, end
        if isinstance(node, tree.Group):
            end = self.body(node.body, state)
            return end, end
        if isinstance(node, tree.If | tree.Return | tree.Exit | tree.Drop):
            end = self.statement(node, state)
            return end, end
        return state, state

    def called(self, node: tree.RouteCall, state: int) -> State:
        if isinstance(node.name, tree.Var) or "$" in node.name.value:
            end: State = None
            for name, block in self.routes.items():
                if name:
                    end = _joined(end, self.route(block, state))
            return end
        target = self.routes.get("" if node.name.value == "0" else node.name.value)
        return state if target is None else self.route(target, state)

    def call(self, node: tree.Call, state: int) -> tuple[State, State]:
        name = node.name
        if name in _RELAYS:
            chosen = _CHOSEN_BY[name]
            if not state and not (len(node.args) > chosen and node.args[chosen] is not None) and self.first is None:
                self.first = node
        elif name in _CHECKS or name.startswith(_CHECK_BEGIN) or name.endswith(_CHECK_END):
            return state | CHECKED, state | CHECKED
        elif name in _INSIDE:
            return state | INSIDE, state
        elif name == "is_method" and node.args and isinstance(node.args[0], tree.Text):
            methods = {word.strip().upper() for word in node.args[0].value.split("|")}
            return (state | INSIDE if methods <= _INSIDE_METHODS else state), state
        return state, state

    def compare(self, node: tree.Compare, state: int) -> tuple[State, State]:
        name = _base(node.left.text)
        if name in _ORIGIN and not isinstance(node.right, tree.Null):
            return state | CHECKED, state | CHECKED
        right = node.right
        if name == "$rm" and isinstance(right, tree.Text) and right.value.upper() in _INSIDE_METHODS:
            return (state | INSIDE, state) if node.op == "==" else (state, state | INSIDE)
        return state, state


# -- variables that are read and never set

_KINDS: Final = ("$var", "$avp")
_MENTION: Final = re.compile(r"\$\(?(?:<\w+>)?(var|avp)\(([^()$]*)\)")
# Functions that set AVPs whose names are not in the script.
_FREE_SETTERS: Final = (
    "sql_avp_", "avp_", "aaa_", "radius_", "python_", "perl_", "lua_", "ldap_", "load_", "cache_raw_query",
    "cgrates_", "launch_darkly", "mi", "b2b_", "fs_", "osp", "cpl_",
)  # fmt: skip


# Programs in other languages set what they like.
_FOREIGN: Final = ("python_", "perl_", "lua_")


class Variables:
    """What a script reads and sets of `$var(name)` and `$avp(name)`, gathered while it is checked."""

    def __init__(self) -> None:
        self._read: dict[tuple[str, str], Pos] = {}
        self._set: set[tuple[str, str]] = set()
        self._any: set[str] = set()

    def read(self, spec: VarSpec, pos: Pos) -> None:
        """Note that a variable is read, with those inside its name and index."""
        for nested in spec.nested():
            self.read(nested, pos)
        name = spec.constant_name
        if spec.decl.name in _KINDS and name is not None and not spec.context:
            self._read.setdefault((spec.decl.name, name), pos)

    def written(self, spec: VarSpec, pos: Pos) -> None:
        """Note that a variable is set here, or may be by a function it is handed to."""
        for nested in spec.nested():
            self.read(nested, pos)
        if spec.decl.name not in _KINDS:
            return
        name = spec.constant_name
        if name is None:
            self._any.add(spec.decl.name)
        else:
            self._set.add((spec.decl.name, name))

    def mentioned(self, text: str) -> None:
        """Note variables in a text whose meaning only a module knows."""
        for kind, name in _MENTION.findall(text):
            self._set.add((f"${kind}", name))

    def called(self, function: str) -> None:
        """Note a call of a function: some set AVPs by themselves."""
        if function.startswith(_FREE_SETTERS):
            self._any.add("$avp")
        if function.startswith(_FOREIGN):
            self._any.add("$var")

    def unknown(self) -> None:
        """Note that something may set any AVP."""
        self._any.add("$avp")

    def findings(self, script: Script) -> list[Finding]:
        """A warning where each variable is read first that nothing sets."""
        for param in script.modparams:
            if isinstance(param.value, str):
                self.mentioned(param.value)
                if param.name.endswith("avp"):
                    self._set.add(("$avp", param.value))
        found = []
        for (kind, name), pos in self._read.items():
            if kind in self._any or (kind, name) in self._set:
                continue
            near = _nearest(name, [other for k, other in self._set if k == kind])
            hint = f"did you mean {kind}({near})?" if near else ""
            found.append(Finding(pos, WARNING, "never-set", f"{kind}({name}) is read here and set nowhere", hint))
        return found


def _nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=NEAR)
    return near[0] if near else ""


# -- what can never be equal

# Variables whose value is a text, or NULL; a comparison with a number is an error at run time, and so never true.
_TEXTS: Final = frozenset(
    {
        "$ru", "$ruri", "$rU", "$ruri.user", "$rd", "$ruri.domain", "$du", "$duri", "$dd", "$fu", "$from", "$fU",
        "$from.user", "$fd", "$from.domain", "$fn", "$tu", "$to", "$tU", "$to.user", "$td", "$to.domain", "$tn", "$ci",
        "$ct", "$cT", "$ua", "$si", "$src_ip", "$rr", "$rt", "$au", "$aU", "$ar", "$ad", "$ou", "$oU", "$od", "$hdr",
        "$pu", "$pU", "$pd", "$di", "$ft", "$tt", "$cs",
    }
)  # fmt: skip
_NUMBERS: Final = frozenset({"$ml", "$Ts", "$Tsm", "$rs", "$sp", "$mi"})
_TEXT_STEPS: Final = frozenset(
    {"s.substr", "s.select", "s.tolower", "s.toupper", "uri.user", "uri.host", "uri.domain", "re.subst"}
)
_NUMBER_STEPS: Final = frozenset({"s.len", "s.int", "s.index", "s.rindex"})


def never_equal(node: tree.Compare, catalogue: Catalogue) -> tuple[str, str] | None:
    """(message, hint) for a comparison of a text with a number; None when the two may meet."""
    right = node.right
    if not isinstance(right, tree.Number | tree.Text) or node.op in ("=~", "!~"):
        return None
    try:
        spec = parse_variable(node.left.text, 0, catalogue, node.pos.file, node.pos.line)
    except VariableError:
        return None
    name = spec.decl.name
    steps = [f"{call.decl.cls}.{call.decl.name}" for call in spec.transformations]
    if isinstance(right, tree.Number):
        if steps[-1] in _TEXT_STEPS if steps else name in _TEXTS:
            message = f"{spec.text} is a text and {right.value} a number: such a comparison is never true"
            return message, f'a text: "{right.value}"; a number: $({spec.text.strip("$()")}{{s.int}})'
        return None
    number = steps[-1] in _NUMBER_STEPS if steps else name in _NUMBERS
    if number and node.op in ("==", "!=") and not re.fullmatch(r"[+-]?[0-9]+|.*\$.*", right.value):
        return f"{spec.text} is a number and never equal to {right.value!r}", ""
    return None


def never_added(node: tree.Binary, catalogue: Catalogue) -> tuple[str, str] | None:
    """(message, hint) for a `+` that has no result: a text and a number that is written, or the other way round."""
    if node.op != "+":
        return None
    if isinstance(node.right, tree.Number):
        if _is_text(node.left, catalogue):
            return "a text takes no number: this has no result", f'as text: "{node.right.value}"'
    elif isinstance(node.right, tree.Text) and isinstance(node.left, tree.Number):
        return "a number takes no text: this has no result", f'as text: "{node.left.value}"'
    return None


def _is_text(node: tree.Expr, catalogue: Catalogue) -> bool:
    """Whether a value is a text for certain (or NULL)."""
    if isinstance(node, tree.Text):
        return True
    if isinstance(node, tree.Binary):
        return node.op == "+" and _is_text(node.left, catalogue)
    if not isinstance(node, tree.Var):
        return False
    try:
        spec = parse_variable(node.text, 0, catalogue, node.pos.file, node.pos.line)
    except VariableError:
        return False
    steps = [f"{call.decl.cls}.{call.decl.name}" for call in spec.transformations]
    return steps[-1] in _TEXT_STEPS if steps else spec.decl.name in _TEXTS


# -- sockets that nobody opened

_LISTENING: Final = re.compile(r"(?:([a-z]+):)?(\[[0-9A-Fa-f:.]+\]|[0-9]+(?:\.[0-9]+){3})(?::([0-9]+))?", re.ASCII)
_EVERY_ADDRESS: Final = frozenset({"0.0.0.0", "::", "[::]", "*"})


def not_listening(node: tree.Stm, script: Script) -> tuple[Pos, str, str] | None:
    """(place, message, hint) where a message is to leave from a socket, written as an address, that no `socket=` opens.
    None as soon as anything is given by a name, an interface or a module."""
    if isinstance(node, tree.Assign) and node.target.text == "$socket_out" and isinstance(node.value, tree.Text):
        wanted = node.value
    elif isinstance(node, tree.Call) and node.name == "force_send_socket" and len(node.args) == 1:
        argument = node.args[0]
        if not isinstance(argument, tree.Text):
            return None
        wanted = argument
    else:
        return None
    bonds = script.globals.bonds
    if wanted.value[:5].lower() == "bond:" and wanted.value[5:] not in bonds:
        hint = "it has " + ", ".join(f"bond:{name}" for name in list(bonds)[:4]) if bonds else ""
        return wanted.pos, f"the script has no {wanted.value}: the message leaves from another socket", hint
    found = _LISTENING.fullmatch(wanted.value)
    opened = script.globals.sockets
    if found is None or not opened or any("sockets_mgm" in line.name for line in script.loadmodules):
        return None
    proto, host, port = found.group(1) or "", found.group(2), int(found.group(3) or 0)
    for each in opened:
        shown = f"{each.proto}:{each.host}"
        if each.host in _EVERY_ADDRESS or not _LISTENING.fullmatch(shown):
            return None
        same_port = not port or port in each.ports or port == each.as_port or not each.ports
        if host in (each.host, each.as_host) and proto in ("", each.proto) and same_port:
            return None
    hint = "it opens " + ", ".join(dict.fromkeys(f"{each.proto}:{each.host}" for each in opened[:4]))
    return wanted.pos, f"the script opens no socket {wanted.value}: the message leaves from another one", hint
