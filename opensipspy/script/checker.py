"""What can be known to be wrong before the first message: names, arities, types, route kinds, routes.

All findings of a script come out in one pass over its tree. Errors keep the server from starting; warnings do not.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from opensipspy.script import kinds, runtime, tree
from opensipspy.script.declare import INDEX_ALL, MAX_SUGGESTIONS, NEAR, Catalogue, FunctionDecl, ParamDecl
from opensipspy.script.errors import ERROR, TOO_DEEP, WARNING, Finding, Pos, in_order, silenced
from opensipspy.script.known import MODULES, Known
from opensipspy.script.names import removed_function, removed_keyword, removed_variable
from opensipspy.script.parse import Script
from opensipspy.script.patterns import Pattern
from opensipspy.script.rules import Variables, never_added, never_equal, not_listening, open_relays
from opensipspy.script.varsyntax import VariableError, VarSpec, parse_format_text, parse_variable
from opensipspy.script.walk import statements_of

MAX_ARGUMENTS: Final = 8
MAX_ROUTE_ARGUMENTS: Final = 7
_ITERATORS: Final = ("$var", "$avp", "$json")
_ENDING: Final = (tree.Exit, tree.Drop, tree.Return, tree.Break)
# Words of the language that look like a function to whoever calls them so.
_STATEMENT_NAMES: Final = frozenset(
    {"xlog", "xdbg", "log", "route", "exit", "drop", "return", "assert", "error", "async", "launch"}
)

ModuleOf = Callable[[str], str]


def _nowhere(name: str) -> str:
    return ""


def check(
    script: Script,
    catalogue: Catalogue,
    module_of: ModuleOf = _nowhere,
    absent: Iterable[str] = (),
    used: Iterable[tuple[int, str]] = (),
) -> list[Finding]:
    """All findings of a parsed script, by place.

    module_of(name): the module that has a function which the catalogue lacks, "" when none is known. absent: modules
    that the script loads and this server does not have: that is said where they are loaded, not at each use. used:
    (kind, name) of routes that modules run because a parameter names them.
    """
    if script.compiled:
        return []
    catalogue.suggestions.clear()
    checker = _Checker(script, catalogue, module_of, tuple(absent))
    checker.run_by_modules = frozenset(used)
    checker.run()
    found = checker.findings
    wrong = {(finding.file, finding.line) for finding in script.findings if finding.severity == ERROR}
    about_globals = set(script.about_globals)
    if all(finding in about_globals for finding in script.findings if finding.severity == ERROR):
        found += checker.rules()
        if wrong:
            # A wrong socket= line opens nothing that could be named.
            found = [finding for finding in found if finding.code != "no-socket"]
    else:
        # What is missing from a script that could not be read whole says nothing.
        found = [
            finding
            for finding in found
            if finding.severity == ERROR and finding.code != "no-route" and (finding.file, finding.line) not in wrong
        ]
    return silenced(in_order([*script.findings, *found]), script.file_lines)


class _Checker:
    def __init__(self, script: Script, catalogue: Catalogue, module_of: ModuleOf, absent: Sequence[str]) -> None:
        self.absent = Known(tuple(absent))
        self.known = Known(tuple(MODULES))
        # What unknown functions may have meant, by their names.
        self.guesses: dict[str, str] = {}
        self.script = script
        self.catalogue = catalogue
        self.module_of = module_of
        self.findings: list[Finding] = []
        self.named: dict[int, dict[str, tree.Block]] = {kind: {} for kind in kinds.KINDS}
        # The kinds of route that a block may run in: its own, and those of its callers.
        self.runs_in: dict[int, int] = {}
        self.used: set[int] = set()
        self.run_by_modules: frozenset[tuple[int, str]] = frozenset()
        self.variables = Variables()

    def error(self, pos: Pos, code: str, message: str, hint: str = "") -> None:
        self.findings.append(Finding(pos, ERROR, code, message, hint))

    def warn(self, pos: Pos, code: str, message: str, hint: str = "") -> None:
        self.findings.append(Finding(pos, WARNING, code, message, hint))

    # -- the whole script

    def rules(self) -> list[Finding]:
        """What shows only when routes are looked at together; asked after run()."""
        found: list[Finding] = []
        try:
            found += open_relays(self.named[kinds.REQUEST])
        except RecursionError:
            # The depth is told by run() already.
            return found
        return found + self.variables.findings(self.script)

    def run(self) -> None:
        for block in self.script.blocks:
            earlier = self.named[block.kind].get(block.name)
            if earlier is not None:
                what = f"{kinds.kind_keyword(block.kind)}[{block.name}]" if block.name else "this route"
                where = f"the first stands at {earlier.pos.file}:{earlier.pos.line}"
                self.error(block.name_pos, "duplicate-route", f"{what} is defined twice", where)
                continue
            self.named[block.kind][block.name] = block
        if not self.named[kinds.REQUEST].get("") and not self.named[kinds.ONREPLY]:
            place = Pos(self.script.path, 1, 1)
            self.error(place, "no-route", "the script has no main route: route { ... }")
        self._spread_kinds()
        for block in self.script.blocks:
            try:
                self._block(block)
            except RecursionError:
                self.error(block.name_pos, "nesting", TOO_DEEP)
        self._unused()

    def _spread_kinds(self) -> None:
        """A named route runs in every kind of route that calls it, at whatever distance."""
        for block in self.script.blocks:
            own = 0 if block.kind == kinds.REQUEST and block.name else block.kind
            self.runs_in[id(block)] = own
        changed = True
        while changed:
            changed = False
            for block in self.script.blocks:
                here = self.runs_in[id(block)]
                for target in self._targets(block):
                    before = self.runs_in[id(target)]
                    if before | here != before:
                        self.runs_in[id(target)] = before | here
                        changed = True

    def _targets(self, block: tree.Block) -> list[tree.Block]:
        found: list[tree.Block] = []
        routes = self.named[kinds.REQUEST]
        for node in statements_of(block.body):
            names: list[tree.Text | tree.Var] = []
            if isinstance(node, tree.RouteCall):
                names.append(node.name)
            elif isinstance(node, tree.Async) or (isinstance(node, tree.Launch) and node.route is not None):
                assert node.route is not None
                names.append(node.route)
            for name in names:
                if isinstance(name, tree.Var) or "$" in name.value:
                    # Known only at run time: it can be any of them.
                    found += [each for each in routes.values() if each.name]
                else:
                    target = routes.get("" if name.value == "0" else name.value)
                    if target is not None:
                        found.append(target)
        return found

    def _unused(self) -> None:
        """Named routes that nothing can reach, as far as that can be known: modules run routes too."""
        if self.absent:
            return
        for block in self.script.blocks:
            if (block.kind, block.name) in self.run_by_modules:
                self.used.add(id(block))
        reached = {id(b) for b in self.script.blocks if not (b.kind == kinds.REQUEST and b.name) or id(b) in self.used}
        todo = [block for block in self.script.blocks if id(block) in reached]
        while todo:
            for target in self._targets(todo.pop()):
                if id(target) not in reached:
                    reached.add(id(target))
                    todo.append(target)
        twice = {id(b) for b in self.script.blocks if self.named[b.kind].get(b.name) is not b}
        armed = kinds.FAILURE | kinds.BRANCH | kinds.ONREPLY
        for block in self.script.blocks:
            if id(block) in twice:
                continue
            if id(block) not in reached and id(block) not in self.used:
                self.warn(block.name_pos, "unused-route", f"no statement calls route[{block.name}]")
            elif block.kind & armed and block.name and id(block) not in self.used:
                what = f"{kinds.kind_keyword(block.kind)}[{block.name}]"
                self.warn(block.name_pos, "unused-route", f"no statement arms {what}")

    # -- blocks and statements

    def _block(self, block: tree.Block) -> None:
        if block.kind == kinds.EVENT and block.name and self.catalogue.events:
            self._event(block)
        self.block = block
        self._body(block.body, loop=False)

    def _event(self, block: tree.Block) -> None:
        if self.absent.module_of(block.name):
            return
        if block.name not in self.catalogue.events and block.name.startswith("E_"):
            near = self.catalogue.suggest("event", block.name)
            # Events may be made by raise_event() too, so that an unknown name is no error.
            hint = f"did you mean {near}?" if near else "raise_event() can raise it"
            self.warn(block.name_pos, "unknown-event", f"no loaded module raises {block.name}", hint)

    def _body(self, body: Sequence[tree.Stm], loop: bool) -> None:
        for index, statement in enumerate(body):
            self._statement(statement, loop)
            if _ends(statement) and index + 1 < len(body):
                after = body[index + 1]
                stray = isinstance(statement, tree.Break) and not loop
                if not isinstance(after, tree.Break) and not stray:
                    why = "every way through the statement before it ends the route"
                    if isinstance(statement, _ENDING):
                        why = f"'{type(statement).__name__.lower()}' stands before it"
                    self.warn(after.pos, "unreachable", f"this is never reached: {why}")
                for rest in body[index + 1 :]:
                    self._statement(rest, loop)
                break

    def _statement(self, node: tree.Stm, loop: bool) -> None:
        if isinstance(node, tree.If):
            self._expression(node.condition)
            self._assigns(node.condition)
            self._body(node.then, loop)
            self._body(node.otherwise, loop)
        elif isinstance(node, tree.While):
            self._expression(node.condition)
            self._assigns(node.condition)
            self._body(node.body, True)
        elif isinstance(node, tree.For):
            spec = self._variable(node.target, written=True)
            if spec is not None and spec.decl.name not in _ITERATORS:
                self.error(node.target.pos, "iterator", "for() takes $var, $avp or $json as its iterator")
            self._writable(spec, node.target)
            source = self._variable(node.source)
            if source is not None and source.decl.index and source.index != INDEX_ALL:
                hint = f"over all values: {_indexed(node.source.text)}"
                self.warn(node.source.pos, "no-rounds", f"without [*] the loop over {source.text} is skipped", hint)
            self._body(node.body, True)
        elif isinstance(node, tree.Switch):
            self._variable(node.subject)
            self._cases(node)
        elif isinstance(node, tree.Break):
            if not loop:
                self.error(node.pos, "break", "break outside of switch, while and for")
        elif isinstance(node, tree.Async):
            self._async(node.call, node.route, node)
        elif isinstance(node, tree.Launch):
            self._async(node.call, node.route, node)
            if node.param is not None:
                self._format(node.param)
        else:
            self._expression(node)

    def _assigns(self, condition: Any) -> None:
        """A `=` in a condition is an assignment; `:=` is taken as meant so."""
        if isinstance(condition, tree.Not):
            self._assigns(condition.operand)
        elif isinstance(condition, tree.Logic):
            self._assigns(condition.left)
            self._assigns(condition.right)
        elif isinstance(condition, tree.Assign) and condition.op == "=":
            wrong = next((f for f in reversed(self.findings) if f.pos == condition.target.pos), None)
            if wrong is not None:
                # It cannot be written either: one finding, with the likely cure.
                self.findings.remove(wrong)
                self.findings.append(wrong._replace(hint="a comparison is =="))
                return
            what = f"this assigns to {condition.target.text} and compares nothing"
            self.warn(condition.pos, "assignment", what, "a comparison is ==")

    def _cases(self, node: tree.Switch) -> None:
        seen: set[object] = set()
        for case in node.cases:
            value = case.value.value if case.value is not None else None
            if case.value is not None and value in seen:
                self.warn(case.value.pos, "duplicate-case", f"case {value!r} stands twice; the first is taken")
            seen.add(value)
            self._body(case.body, True)

    # -- expressions

    def _expression(self, node: Any) -> None:
        if isinstance(node, tree.Call | tree.Assign):
            unheard = not_listening(node, self.script)
            if unheard:
                self.warn(unheard[0], "no-socket", unheard[1], unheard[2])
        if isinstance(node, tree.Call):
            self._call(node)
        elif isinstance(node, tree.Var):
            self._variable(node)
        elif isinstance(node, tree.RouteCall):
            self._route_call(node)
        elif isinstance(node, tree.Assign):
            spec = self._variable(node.target, written=True)
            self._writable(spec, node.target)
            if isinstance(node.value, tree.Null) and node.op not in ("=", ":="):
                self.error(node.value.pos, "null", f"NULL cannot stand behind {node.op}", "only = and := take it")
            self._expression(node.value)
        elif isinstance(node, tree.Compare):
            self._comparison(node)
        elif isinstance(node, tree.Not | tree.BitNot):
            self._expression(node.operand)
        elif isinstance(node, tree.Logic | tree.Binary):
            self._expression(node.left)
            self._expression(node.right)
            reason = never_added(node, self.catalogue) if isinstance(node, tree.Binary) else None
            if reason:
                self.warn(node.right.pos, "never-added", reason[0], reason[1])
        elif isinstance(node, tree.Group):
            self._body(node.body, False)
        elif isinstance(node, tree.Return):
            if node.value is not None:
                self._expression(node.value)
            for value in node.more:
                self._expression(value)
        elif isinstance(node, tree.Log):
            self._log(node)
        elif isinstance(node, tree.Assert):
            self._expression(node.condition)
        elif isinstance(node, tree.Word):
            self._word(node)
        elif isinstance(node, tree.If | tree.While | tree.For | tree.Switch | tree.Break | tree.Async | tree.Launch):
            self._statement(node, False)

    def _word(self, node: tree.Word) -> None:
        old = removed_keyword(node.name) or removed_function(node.name)
        message = old[0] if old else f"'{node.name}' is no value"
        hint = old[1] if old else f'a text needs quotes: "{node.name}"'
        self.error(node.pos, "removed" if old else "bare-word", message, hint)

    def _comparison(self, node: tree.Compare) -> None:
        self._variable(node.left)
        right = node.right
        if node.op in ("=~", "!~"):
            if isinstance(right, tree.Text):
                try:
                    Pattern(right.value)
                except ValueError as error:
                    self.error(right.pos, "regex", f"bad regular expression: {error}")
                return
            if not isinstance(right, tree.Var):
                self.error(right.pos, "type", f"'{node.op}' needs a string or a variable on its right")
                return
        if isinstance(right, tree.Null | tree.Net) and node.op not in ("==", "!="):
            what = "NULL" if isinstance(right, tree.Null) else "an address"
            self.error(right.pos, "type", f"{what} can be compared with == and != only")
        if isinstance(right, tree.Net):
            try:
                runtime.parse_network(right.text)
            except ValueError as error:
                self.error(right.pos, "network", f"{right.text} is no address or network: {error}")
            return
        self._expression(right)
        reason = never_equal(node, self.catalogue)
        if reason:
            self.warn(right.pos, "never-equal", reason[0], reason[1])

    def _variable(self, node: tree.Var, written: bool = False) -> VarSpec | None:
        try:
            spec = parse_variable(node.text, 0, self.catalogue, node.pos.file, node.pos.line)
        except VariableError as error:
            self._variable_error(error, node.pos, 0)
            return None
        if written:
            self.variables.written(spec, node.pos)
        else:
            self.variables.read(spec, node.pos)
        if spec.end < len(node.text):
            # The C server passes over it without a word.
            rest = node.text[spec.end :]
            self.warn(node.pos, "variable-syntax", f"{rest!r} is not part of {spec.text} and does nothing")
        return spec

    def _variable_error(self, error: VariableError, pos: Pos, offset: int) -> None:
        """A mistake inside a text that begins at `pos`; `offset` is of its first character behind the quote."""
        message, hint, code = error.message, error.hint, error.code
        if code == "unknown-variable":
            name = message.removeprefix("unknown variable ")
            if self.absent.module_of(name) or self.absent.module_of(name.partition(".")[0]):
                return
            old = removed_variable(name)
            if old is not None:
                code, (message, hint) = "removed", old
            elif not hint and any(name in words.split() for words in MODULES.values()):
                home = next(module for module, words in MODULES.items() if name in words.split())
                hint = f"it comes with module {home}"
        elif code == "unknown-transformation":
            cls = "{" + message.partition("{")[2].partition(".")[0].rstrip("}") + "}"
            if self.absent.module_of(cls):
                return
        col = pos.col + offset + error.start
        same_line = pos.end_line in (0, pos.line)
        place = Pos(pos.file, pos.line, col, pos.line, pos.col + offset + error.end) if same_line else pos
        self.error(place, code, message, hint)

    def _writable(self, spec: VarSpec | None, node: tree.Var) -> None:
        if spec is None or spec.writable:
            return
        if spec.transformations:
            self.error(node.pos, "read-only", "a variable with a transformation cannot be written")
        elif spec.context:
            self.error(node.pos, "read-only", f"a variable of <{spec.context}> cannot be written")
        else:
            self.error(node.pos, "read-only", f"{spec.decl.name} cannot be written")

    def _format(self, node: tree.Text) -> None:
        try:
            text = parse_format_text(node.value, self.catalogue, node.pos.file, node.pos.line)
        except VariableError as error:
            self._variable_error(error, node.pos, 1)
            return
        for spec in text.variables():
            self.variables.read(spec, _inside(node, spec.start, spec.end))

    def _log(self, node: tree.Log) -> None:
        self._format(node.text)
        if isinstance(node.level, tree.Text):
            if node.level.value.startswith("$"):
                pos = node.level.pos._replace(col=node.level.pos.col + 1)
                self._variable(tree.Var(pos, node.level.value))
                return
            try:
                runtime.level_of(node.level.value)
            except ValueError:
                words = "L_ALERT, L_CRIT, L_ERR, L_WARN, L_NOTICE, L_INFO, L_DBG"
                self.error(node.level.pos, "log-level", f"{node.level.value!r} is no log level", f"one of {words}")

    # -- calls

    def _async(self, call: tree.Call, route: tree.Text | None, node: tree.Stm) -> None:
        decl = self._declared(call)
        word = "async" if isinstance(node, tree.Async) else "launch"
        if decl is not None:
            if not decl.async_ok and not decl.async_only and decl.waits == "no":
                self.error(call.pos, "async", f"{call.name}() has nothing to wait for, so {word}() cannot take it")
            self._arguments(call, decl)
        if route is not None and "$" not in route.value:
            target = self.named[kinds.REQUEST].get("" if route.value == "0" else route.value)
            if target is None:
                self._missing_route(route, kinds.REQUEST)

    def _declared(self, node: tree.Call) -> FunctionDecl | None:
        decl = self.catalogue.function(node.name)
        if decl is not None:
            return decl
        place = Pos(node.pos.file, node.pos.line, node.pos.col, node.pos.line, node.pos.col + len(node.name))
        if self.absent.module_of(node.name):
            self.variables.unknown()
            for arg in node.args:
                if isinstance(arg, tree.Var):
                    self._variable(arg, written=True)
                elif isinstance(arg, tree.Text):
                    self.variables.mentioned(arg.value)
                    # It may be the name of a route.
                    self.used.update(id(named[arg.value]) for named in self.named.values() if arg.value in named)
            return None
        # Whatever it is, it may set variables.
        self.variables.unknown()
        module = self.module_of(node.name)
        old = removed_function(node.name)
        if module:
            hint = f'add loadmodule "{module}.so"'
            self.error(place, "not-loaded", f"{node.name}() is a function of module {module}, not loaded", hint)
        elif old is not None:
            self.error(place, "removed", *old)
        elif self.known.module_of(node.name):
            self.error(place, "unknown-function", *self._elsewhere(node.name))
        else:
            hint = self._guess(node.name)
            self.error(place, "unknown-function", f"unknown function {node.name}", hint)
        for arg in node.args:
            if isinstance(arg, tree.Var):
                self._variable(arg, written=True)
            elif arg is not None and not isinstance(arg, tree.Word):
                self._argument_names(arg)
        return None

    def _guess(self, name: str) -> str:
        """What an unknown function may have meant, "" when nothing is near."""
        if name not in self.guesses:
            if len(self.guesses) >= MAX_SUGGESTIONS:
                return ""
            near = self.catalogue.suggest("function", name)
            if near is None:
                near = next(iter(difflib.get_close_matches(name, _STATEMENT_NAMES, n=1, cutoff=NEAR)), None)
            if near is None:
                other = difflib.get_close_matches(name, self.known.functions(), n=1, cutoff=NEAR)
                near = f"{other[0]} of module {self.known.module_of(other[0])}" if other else None
            self.guesses[name] = f"did you mean {near}?" if near else ""
        return self.guesses[name]

    def _elsewhere(self, name: str) -> tuple[str, str]:
        """(message, hint) for a function of OpenSIPS that this server does not have."""
        module = self.known.module_of(name)
        if module in self.catalogue.modules or any(f.module == module for f in self.catalogue.functions.values()):
            return f"{name}() of module {module} does not exist here yet", ""
        return f"{name}() is a function of module {module}, which this server does not have", ""

    def _argument_names(self, arg: Any) -> None:
        if isinstance(arg, tree.Text):
            self._format(arg)
        else:
            self._expression(arg)

    def _call(self, node: tree.Call) -> None:
        decl = self._declared(node)
        if decl is None:
            return
        if decl.async_only:
            hint = f"async({node.name}(...), resume_route)"
            self.error(node.pos, "async-only", f"{node.name}() can be called in async() and launch() only", hint)
        else:
            self._allowed_here(node, decl)
        self._arguments(node, decl)

    def _allowed_here(self, node: tree.Call, decl: FunctionDecl) -> None:
        wrong = self.runs_in[id(self.block)] & ~decl.routes
        if not wrong:
            return
        names = [kinds.kind_keyword(kind) for kind in kinds.KINDS if kind & wrong]
        where = " and ".join(names)
        if self.block.kind & wrong == wrong:
            message = f"{node.name}() cannot be called in {where}"
        else:
            message = f"{node.name}() cannot be called in {where}, from where route[{self.block.name}] is reached"
        allowed = ", ".join(kinds.kind_keyword(kind) for kind in kinds.KINDS if kind & decl.routes)
        self.error(node.pos, "route-kind", message, f"allowed in {allowed}" if allowed else "")

    def _arguments(self, node: tree.Call, decl: FunctionDecl) -> None:
        self.variables.called(node.name)
        args = list(node.args)
        while args and args[-1] is None:
            args.pop()
        most, least = len(decl.params), decl.least
        if len(node.args) > MAX_ARGUMENTS:
            self.error(node.pos, "arity", f"a function takes at most {MAX_ARGUMENTS} arguments")
        if len(args) > most:
            extra = args[most]
            place = extra.pos if extra is not None else node.pos
            count = f"at most {most} argument{'s' * (most != 1)}" if most else "no arguments"
            self.error(place, "arity", f"{decl.name} takes {count}", signature(decl))
        elif len(args) < least or any(
            arg is None and not param.optional for arg, param in zip(args, decl.params, strict=False)
        ):
            count = f"at least {least} argument{'s' * (least != 1)}"
            self.error(node.pos, "arity", f"{decl.name} needs {count}", signature(decl))
        for index, (arg, param) in enumerate(zip(args, decl.params, strict=False)):
            if arg is not None:
                self._argument(decl, index, param, arg)
        for arg in args[most:]:
            if arg is not None:
                self._argument_names(arg)

    def _argument(self, decl: FunctionDecl, index: int, param: ParamDecl, arg: Any) -> None:
        what = f"argument {index + 1} of {decl.name} ({param.name})"
        if isinstance(arg, tree.Word):
            self._word(arg)
            return
        if param.type == "var":
            self._var_argument(what, param, arg)
            return
        if isinstance(arg, tree.Var):
            if param.static:
                self.error(arg.pos, "type", f"{what} must be a constant")
            self._variable(arg)
            return
        if isinstance(arg, tree.Null):
            if not param.optional:
                self.error(arg.pos, "type", f"{what} cannot be NULL")
            return
        if param.type == "int":
            if isinstance(arg, tree.Text):
                self._int_text(what, arg)
                return
        elif isinstance(arg, tree.Number):
            self.error(arg.pos, "type", f"{what} must be a string, not a number", f'"{arg.value}"')
            return
        if isinstance(arg, tree.Text) and (param.verbatim or param.fixup is not None):
            self.variables.mentioned(arg.value)
        if isinstance(arg, tree.Text) and not param.verbatim:
            before = len(self.findings)
            self._format(arg)
            if len(self.findings) > before or param.takes_format:
                return
        self._constant(decl, param, arg, what)

    def _int_text(self, what: str, arg: tree.Text) -> None:
        text = arg.value
        hint = f"write {text} without quotes" if text.lstrip("-").isdigit() or text.startswith("$") else ""
        self.error(arg.pos, "type", f"{what} must be a number or a variable, not a string", hint)

    def _var_argument(self, what: str, param: ParamDecl, arg: Any) -> None:
        if not isinstance(arg, tree.Var):
            self.error(arg.pos, "type", f"{what} must be a variable")
            return
        spec = self._variable(arg, written=True)
        if spec is None:
            return
        if param.must_be == "avp" and spec.decl.name != "$avp":
            self.error(arg.pos, "type", f"{what} must be an $avp(name)")
        elif param.must_be.startswith("writable") and not spec.writable:
            self.error(arg.pos, "read-only", f"{what} must be a variable that can be written")

    def _constant(self, decl: FunctionDecl, param: ParamDecl, arg: Any, what: str) -> None:
        """What preparation says of a constant argument."""
        value = arg.value
        if isinstance(arg, tree.Text) and not param.verbatim and "$" in value:
            constant = parse_format_text(value, self.catalogue).constant
            if constant is None:
                return
            value = constant
        if param.route_kind and isinstance(value, str):
            self._named_route(param.route_kind, arg, value)
        if param.fixup is not None:
            try:
                param.fixup(value)
            except ValueError as error:
                self.error(arg.pos, "argument", f"{what}: {error}")
        elif param.type == "regex":
            try:
                Pattern(str(value), lines=True)
            except ValueError as error:
                self.error(arg.pos, "regex", f"{what}: bad regular expression: {error}")

    def _named_route(self, kind: int, arg: tree.Text, name: str) -> None:
        block = self.named[kind].get(name)
        if block is not None:
            self.used.add(id(block))
            return
        self._missing_route(tree.Text(arg.pos, name), kind)

    def _missing_route(self, name: tree.Text, kind: int) -> None:
        keyword = kinds.kind_keyword(kind)
        near = difflib.get_close_matches(name.value, [n for n in self.named[kind] if n], n=1, cutoff=NEAR)
        hint = f"did you mean {near[0]}?" if near else ""
        if not hint and kind != kinds.REQUEST and name.value in self.named[kinds.REQUEST]:
            hint = f"there is a route[{name.value}], but it is no {keyword}"
        self.error(name.pos, "missing-route", f"there is no {keyword}[{name.value}]", hint)

    def _route_call(self, node: tree.RouteCall) -> None:
        name = node.name
        if isinstance(name, tree.Var):
            self._variable(name)
        elif "$" in name.value:
            self._format(name)
        elif ("" if name.value == "0" else name.value) not in self.named[kinds.REQUEST]:
            self._missing_route(name, kinds.REQUEST)
        if len(node.args) > MAX_ROUTE_ARGUMENTS:
            self.error(
                node.args[MAX_ROUTE_ARGUMENTS].pos, "arity", f"route() passes at most {MAX_ROUTE_ARGUMENTS} values"
            )
        for arg in node.args:
            self._expression(arg)


def _inside(node: tree.Text, start: int, end: int) -> Pos:
    """The place of a part of a text; of the whole text when it goes over lines."""
    pos = node.pos
    if pos.end_line not in (0, pos.line):
        return pos
    return Pos(pos.file, pos.line, pos.col + 1 + start, pos.line, pos.col + 1 + end)


def _ends(statement: tree.Stm) -> bool:
    """Whether nothing behind a statement in the same block can be reached."""
    if isinstance(statement, tree.If):
        halves = (statement.then, statement.otherwise)
        return all(half and any(_ends(each) for each in half) for half in halves)
    return isinstance(statement, _ENDING)


def _indexed(text: str) -> str:
    """A variable with `[*]` behind it."""
    return f"$({text[1:]}[*])" if not text.startswith("$(") else f"{text[:-1]}[*])"


def signature(decl: FunctionDecl) -> str:
    """A function as the manual writes it: `t_relay([flags], [outbound_proxy])`."""
    shown = [f"[{param.name}]" if param.optional else param.name for param in decl.params]
    return f"{decl.name}({', '.join(shown)})"
