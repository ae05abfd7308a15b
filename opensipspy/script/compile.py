"""Tree to bytecode: each route becomes one Python function whose code carries the lines and columns of the script.

A route that cannot reach a waiting call becomes a plain function, any other a coroutine. A condition is flattened: the
calls in it are statements before it, because a call that returns 0 ends the script where it stands. Constants are
prepared at load; the code names them as globals (`_g7`), made by the recipes of `program.Builder`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Sequence
from types import CodeType
from typing import TYPE_CHECKING, Any, Final, cast

from opensipspy.script import kinds, runtime, tree
from opensipspy.script.declare import Catalogue, FunctionDecl, ParamDecl
from opensipspy.script.errors import ERROR, TOO_DEEP, Finding, Pos, ScriptErrors
from opensipspy.script.program import BadRecipe, Image, Program, Recipe, RouteImage
from opensipspy.script.tree import Expr, Stm
from opensipspy.script.varsyntax import VarSpec, parse_format_text, parse_variable
from opensipspy.script.walk import calls_of, route_calls_of, statements_of

if TYPE_CHECKING:
    # A kept program passes through here too, and needs no parser.
    from opensipspy.script.parse import Script

_BINARY: Final = {
    "+": "_op_add",
    "-": "_op_sub",
    "*": "_op_mul",
    "/": "_op_div",
    "%": "_op_mod",
    "&": "_op_and",
    "|": "_op_or",
    "^": "_op_xor",
    "<<": "_op_shl",
    ">>": "_op_shr",
}
# What script_trace() calls the assignments.
_ASSIGNMENTS: Final = {
    "=": "equal",
    ":=": "colon-eq",
    "+=": "plus-eq",
    "-=": "minus-eq",
    "*=": "mult-eq",
    "/=": "div-eq",
    "%=": "modulo-eq",
    "&=": "b-and-eq",
    "|=": "b-or-eq",
    "^=": "b-xor-eq",
}
# Scripts that call it, and only those, are compiled so that each statement can be logged.
TRACER: Final = "script_trace"
# Numbers that stand in a URI as text: text can be put behind them.
_PORTS: Final = frozenset({"$rp", "$op", "$dp", "$(rp)", "$(op)", "$(dp)"})
_ENDS: Final = (tree.Exit, tree.Drop, tree.Return, tree.Break, tree.Async)


def compile_script(script: Any, catalogue: Catalogue) -> Program:
    """Compile a checked script for one server. script: from `parse_script` or `ProgramCache.load`.

    Raises ScriptErrors for what only shows here, and BadRecipe for a kept program that does not fit this server any
    more: parse the script then.
    """
    if script.compiled:
        return Program(script.image, catalogue)
    return compile_with(Compiler(script, catalogue))


def compile_with(compiler: Compiler) -> Program:
    """The program that a compiler makes; tools bring compilers of their own (see probes.py). Raises ScriptErrors."""
    image = compiler.image()
    try:
        return Program(image, compiler.catalogue)
    except BadRecipe as error:
        # The checker prepares every constant, so only what depends on the time or the place comes here.
        script = compiler.script
        pos = Pos(error.file or script.path, error.line or 1, 1)
        raise ScriptErrors([Finding(pos, ERROR, "constant", str(error))], script.file_lines) from error


class Compiler:
    """Compiles all routes of one script; recipes are shared between them."""

    def __init__(self, script: Script, catalogue: Catalogue) -> None:
        self.script = script
        self.catalogue = catalogue
        self.recipes: dict[str, Recipe] = {}
        self._slots: dict[Recipe, str] = {}
        self.uses_code = _reads(script, "rc", "retcode")
        self.uses_values = _reads(script, "return")
        self.traced = any(call.name == TRACER for block in script.blocks for call in calls_of(block.body))
        self.slots = {id(block): f"_r{number}" for number, block in enumerate(script.blocks)}
        self.named = {block.name: block for block in reversed(script.blocks) if block.kind == kinds.REQUEST}
        self.error_block = next((block for block in script.blocks if block.kind == kinds.ERROR), None)
        self.waiting = self._colour()

    def image(self) -> Image:
        routes: list[RouteImage] = []
        seen: set[tuple[int, str]] = set()
        findings: list[Finding] = []
        for block in self.script.blocks:
            if (block.kind, block.name) in seen:
                continue
            seen.add((block.kind, block.name))
            try:
                code = self.emitter(block).code()
            except SyntaxError as error:
                # CPython nests loops 20 deep, and every switch and while is one.
                pos = Pos(block.pos.file, error.lineno or block.pos.line, error.offset or 1)
                findings.append(Finding(pos, ERROR, "nesting", f"loops and switches are nested too deep: {error.msg}"))
                continue
            except RecursionError:
                findings.append(Finding(block.name_pos, ERROR, "nesting", TOO_DEEP))
                continue
            is_async = id(block) in self.waiting
            slot = self.slots[id(block)]
            routes.append(RouteImage(block.kind, block.name, block.interval_s, is_async, slot, code))
        if findings:
            raise ScriptErrors(findings, self.script.file_lines)
        return Image(routes, self.recipes, self.script.globals)

    def emitter(self, block: tree.Block) -> RouteEmitter:
        """What makes the code of one route."""
        return RouteEmitter(self, block)

    def slot(self, *recipe: Any) -> str:
        """The global name of what a recipe makes; the same recipe has one name."""
        found = self._slots.get(recipe)
        if found is None:
            found = self._slots[recipe] = f"_g{len(self._slots)}"
            self.recipes[found] = recipe
        return found

    # -- colours

    def _colour(self) -> set[int]:
        """The ids of the blocks that may wait: they call what waits, or a route that may."""
        waiting: set[int] = set()
        blocks = self.script.blocks
        direct = {id(block): self._waits_itself(block) for block in blocks}
        calls = {id(block): list(route_calls_of(block.body)) for block in blocks}
        asserting = {id(block) for block in blocks if self._asserts(block)}
        changed = True
        while changed:
            changed = False
            any_named = any(id(block) in waiting for block in self.named.values())
            for block in blocks:
                if id(block) in waiting:
                    continue
                reached = direct[id(block)] or (id(block) in asserting and id(self.error_block) in waiting)
                for call in calls[id(block)]:
                    if isinstance(call, tree.Var) or "$" in call.value:
                        reached = reached or any_named
                    else:
                        target = self.named.get(_route_name(call.value))
                        reached = reached or (target is not None and id(target) in waiting)
                if reached:
                    waiting.add(id(block))
                    changed = True
        return waiting

    def _asserts(self, block: tree.Block) -> bool:
        """Whether the block may go to error_route by itself."""
        if not self.script.globals.enable_asserts or self.error_block is None:
            return False
        return any(isinstance(node, tree.Assert) for node in statements_of(block.body))

    def _waits_itself(self, block: tree.Block) -> bool:
        if any(isinstance(node, tree.Async) for node in statements_of(block.body)):
            return True
        for call in calls_of(block.body):
            decl = self.catalogue.function(call.name)
            if decl is not None and decl.waits != "no":
                return True
        return False


def _route_name(name: str) -> str:
    return "" if name == "0" else name


def _reads(script: Script, *names: str) -> bool:
    """Whether one of these variables stands anywhere: else nothing needs to be left for it."""
    words = [start + name for name in names for start in ("$", "$(")]
    return any(word in line for line in script.source.lines for word in words)


class RouteEmitter:
    """Emits one route. Statements go to the innermost open list; `_value` and `_condition` may put some before them."""

    def __init__(self, compiler: Compiler, block: tree.Block) -> None:
        self.c = compiler
        self.block = block
        self.is_async = id(block) in compiler.waiting
        self.out: list[ast.stmt] = []
        self._temporaries = 0
        self._pos = block.pos
        # How long the call that is being emitted may wait; 0: as long as it likes.
        self._limit_s = 0
        # For each loop and switch around: the name that is -5 once `break` has left it, "" when nobody asks.
        self._left: list[str] = []

    def code(self) -> CodeType:
        self._route_body()
        _keep_variables(self.out)
        arguments = ast.arguments([], [ast.arg("run")], None, [], [], None, [])
        kind = ast.AsyncFunctionDef if self.is_async else ast.FunctionDef
        function = kind(name="route", args=arguments, body=self.out, decorator_list=[], returns=None)
        self._at(function, self.block.pos)
        module = ast.Module([function], [])
        compiled = compile(module, self.block.pos.file, "exec", dont_inherit=True, optimize=0)
        inner = next(const for const in compiled.co_consts if isinstance(const, CodeType))
        shown = kinds.kind_keyword(self.block.kind) + (f"[{self.block.name}]" if self.block.name else "")
        return inner.replace(co_name=shown, co_qualname=shown)

    def _route_body(self) -> None:
        """A named route that ends without `return` has the result of its last statement; others have 1."""
        body = self.block.body
        if body and isinstance(body[-1], _ENDS):
            self._body(body)
        elif self.block.kind == kinds.REQUEST and self.block.name and has_result(body):
            result = self._result(body)
            self._no_values()
            self._emit(ast.Return(result))
        else:
            self._body(body)
            self._no_values()
            self._emit(ast.Return(ast.Constant(1)))

    def _no_values(self) -> None:
        """What an earlier route handed over with its return is gone."""
        if self.c.uses_values:
            self._set_run("return_values", ast.List([], ast.Load()))

    def _result(self, statements: Sequence[Stm]) -> ast.expr:
        """Emit statements; the expression is the result of the last one."""
        if not has_result(statements):
            self._body(statements)
            return ast.Constant(1 if statements else -1)
        self._body(statements[:-1])
        last = statements[-1]
        self._pos = last.pos
        if isinstance(last, tree.Call):
            return self._function(last)
        if isinstance(last, tree.RouteCall):
            return self._route(last)
        result = self._temporary()
        self._set(result, ast.Constant(1))
        if isinstance(last, tree.If):
            condition = self._condition(last.condition)
            branches = []
            for part in (last.then, last.otherwise):
                outer = self._collect()
                if part:
                    value = self._result(part)
                    if not isinstance(part[-1], _ENDS) and not isinstance(value, ast.Constant):
                        self._set(result, value)
                branches.append(self._release(outer))
            self._emit(ast.If(condition, branches[0] or [ast.Pass()], branches[1]), last.pos)
        elif isinstance(last, tree.Switch):
            self._stm_switch(last, result)
        elif isinstance(last, tree.While):
            self._stm_while(last, result)
        elif isinstance(last, tree.For):
            self._stm_for(last, result)
        else:
            self._guarded(last, lambda: self._assign(cast("tree.Assign", last)), result)
        return self._name(result)

    # -- small tools

    def _at(self, node: Any, pos: Pos) -> Any:
        """Give a node and all below it that has none the place of the script.

        A node with a place has been here before, and so has all below it.
        """
        line, col = pos.line, pos.col - 1
        end_line, end_col = line, col
        if pos.end_line and (pos.end_line, pos.end_col) > (line, pos.col):
            end_line, end_col = pos.end_line, pos.end_col - 1
        waiting = [node]
        while waiting:
            each = waiting.pop()
            if each._attributes:
                if hasattr(each, "lineno"):
                    continue
                each.lineno, each.col_offset, each.end_lineno, each.end_col_offset = line, col, end_line, end_col
            for name in each._fields:
                value = getattr(each, name, None)
                if isinstance(value, ast.AST):
                    waiting.append(value)
                elif isinstance(value, list):
                    waiting += [item for item in value if isinstance(item, ast.AST)]
        return node

    def _emit(self, statement: ast.stmt, pos: Pos | None = None) -> None:
        self.out.append(self._at(statement, pos or self._pos))

    def _name(self, name: str) -> ast.Name:
        return ast.Name(name, ast.Load())

    def _global(self, *recipe: Any) -> ast.Name:
        return self._name(self.c.slot(*recipe))

    def _call(self, name: str, *args: ast.expr) -> ast.Call:
        return ast.Call(self._name(name), list(args), [])

    @property
    def _run(self) -> ast.Name:
        return self._name("run")

    def _set(self, name: str, value: ast.expr) -> None:
        self._emit(ast.Assign([ast.Name(name, ast.Store())], value))

    def _set_run(self, attribute: str, value: ast.expr) -> None:
        self._emit(ast.Assign([ast.Attribute(self._run, attribute, ast.Store())], value))

    def _temporary(self) -> str:
        self._temporaries += 1
        return f"t{self._temporaries}"

    def _inside(self, statements: Sequence[Stm]) -> list[ast.stmt]:
        """Emit statements into a list of their own; never empty."""
        outer, self.out = self.out, []
        self._body(statements)
        inner, self.out = self.out, outer
        return inner or [self._at(ast.Pass(), self._pos)]

    def _collect(self) -> list[ast.stmt]:
        outer, self.out = self.out, []
        return outer

    def _release(self, outer: list[ast.stmt]) -> list[ast.stmt]:
        inner, self.out = self.out, outer
        return inner

    # -- statements

    def _body(self, statements: Iterable[Stm]) -> None:
        for statement in statements:
            self._pos = statement.pos
            if self.c.traced:
                place = ast.Constant(f"{statement.pos.file}:{statement.pos.line}")
                self._emit(ast.Expr(self._call("_trace", self._run, place, ast.Constant(self._action(statement)))))
            getattr(self, f"_stm_{type(statement).__name__.lower()}")(statement)
            if isinstance(statement, _ENDS):
                break

    def _action(self, node: Stm) -> str:
        """What script_trace() calls a statement: "module t_relay", "core xlog", "assign equal"."""
        if isinstance(node, tree.Call):
            decl = self.c.catalogue.function(node.name)
            return f"{'core' if decl is None or decl.module == 'core' else 'module'} {node.name}"
        if isinstance(node, tree.Assign):
            return f"assign {_ASSIGNMENTS[node.op]}"
        if isinstance(node, tree.Log):
            return f"core {node.keyword}"
        if isinstance(node, tree.Async):
            return f"async {node.call.name}"
        if isinstance(node, tree.Launch):
            return f"launch {node.call.name}"
        if isinstance(node, tree.For):
            return "core for-each"
        return "core " + ("route" if isinstance(node, tree.RouteCall) else type(node).__name__.lower())

    def _stm_call(self, node: tree.Call) -> None:
        self._function(node)

    def _stm_assign(self, node: tree.Assign) -> None:
        self._guarded(node, lambda: self._assign(node))

    def _guarded(self, node: Any, emit: Callable[[], None], result: str = "") -> None:
        """What calculates may fail: the statement is then not carried out, and the script goes on.

        result: the variable that is -1 after a failure.
        """
        if not _may_fail(node):
            emit()
            return
        outer = self._collect()
        emit()
        body = self._release(outer)
        failed: ast.expr = self._call("_not_evaluated", self._run, self._name("error"))
        if result:
            note: ast.stmt = ast.Assign([ast.Name(result, ast.Store())], failed)
        elif self.c.uses_code:
            note = ast.Assign([ast.Attribute(self._run, "retcode", ast.Store())], failed)
        else:
            note = ast.Expr(failed)
        handler = ast.ExceptHandler(self._name("_EvaluationError"), "error", [note])
        self._emit(ast.Try(body or [ast.Pass()], [handler], [], []), node.pos)

    def _assign(self, node: tree.Assign) -> None:
        spec = self._spec(node.target)
        value = self._value(node.value)
        if node.op not in ("=", ":="):
            value = self._call("_compound", ast.Constant(node.op[:-1]), self._read(node.target), value)
        self._write(spec, node.target, value, node.op == ":=")
        self._code_is(ast.Constant(1))

    def _write(self, spec: VarSpec, target: tree.Var, value: ast.expr, replace: bool = False) -> None:
        inline = None if replace and spec.decl.replace is not None else spec.inline_target()
        if inline is not None:
            place = _without_place(ast.parse(inline, mode="eval").body)
            assert isinstance(place, ast.Subscript | ast.Attribute)
            place.ctx = ast.Store()
            self._emit(ast.Assign([place], value))
            return
        kind = "replace" if replace else "write"
        setter = self._global(kind, target.text, target.pos.file, target.pos.line)
        self._emit(ast.Expr(ast.Call(setter, [self._run, value], [])))

    def _code_is(self, value: ast.expr) -> None:
        if self.c.uses_code:
            self._set_run("retcode", value)

    def _stm_if(self, node: tree.If) -> None:
        condition = self._condition(node.condition)
        then = self._inside(node.then)
        outer = self._collect()
        if not node.then:
            self._code_is(ast.Constant(1))
            then = self._release(outer) or then
            outer = self._collect()
        if node.otherwise:
            self._body(node.otherwise)
        else:
            # An if that does not hold is what ran last: it is 0 for $rc.
            self._code_is(ast.Constant(0))
        otherwise = self._release(outer)
        self._pos = node.pos
        self._emit(ast.If(condition, then, otherwise))

    def _stm_while(self, node: tree.While, result: str = "") -> None:
        rounds = self._temporary()
        limit = int(self.c.script.globals.max_while_loops)
        outer = self._collect()
        condition = self._condition(node.condition)
        self._emit(ast.If(_negated(condition), [ast.Break()], []), node.condition.pos)
        self._left.append(result)
        self._body(node.body)
        self._left.pop()
        body = self._release(outer)
        spent = self._at(ast.Expr(self._call("_rounds", self._run, ast.Constant(limit))), node.pos)
        each = self._call("range", ast.Constant(limit))
        self._emit(ast.For(ast.Name(rounds, ast.Store()), each, body, [spent]), node.pos)

    def _stm_for(self, node: tree.For, result: str = "") -> None:
        item = self._temporary()
        each = self._global("each", node.source.text, node.source.pos.file, node.source.pos.line)
        limit = ast.Constant(int(self.c.script.globals.max_while_loops))
        outer = self._collect()
        target = self._spec(node.target)
        # A value that stands for a piece of JSON goes over as that piece.
        self._write(target, node.target, self._name(item), target.decl.name == "$json")
        self._left.append(result)
        self._body(node.body)
        self._left.pop()
        body = self._release(outer)
        loop = ast.For(ast.Name(item, ast.Store()), ast.Call(each, [self._run, limit], []), body, [])
        self._emit(loop, node.pos)

    def _stm_switch(self, node: tree.Switch, result: str = "") -> None:
        """result: the name that takes what the last statement that runs results in."""
        value, entry = self._temporary(), self._temporary()
        self._set(value, self._read(node.subject))
        self._code_is(ast.Constant(1))
        default = len(node.cases)
        # One round of a loop, left at the first case that fits: however many there are, they do not nest.
        search: list[ast.stmt] = []
        for index, case in enumerate(node.cases):
            if case.value is None:
                default = index
                continue
            if isinstance(case.value, tree.Number):
                test = self._call("_case", self._name(value), ast.Constant(case.value.value), ast.Constant(""))
            else:
                folded = runtime.lower(case.value.value)
                test = self._call(
                    "_equal_text", self._name(value), ast.Constant(case.value.value), ast.Constant(folded)
                )
            hit: list[ast.stmt] = [ast.Assign([ast.Name(entry, ast.Store())], ast.Constant(index)), ast.Break()]
            search.append(self._at(ast.If(test, hit, []), case.pos))
        missed: list[ast.stmt] = [ast.Assign([ast.Name(entry, ast.Store())], ast.Constant(default)), ast.Break()]
        self._emit(ast.While(ast.Constant(True), [*search, *missed], []), node.pos)
        # One round of a loop, so that `break` leaves it; a case without break falls into the next.
        body: list[ast.stmt] = []
        self._left.append(result)
        for index, case in enumerate(node.cases):
            outer = self._collect()
            if result and case.body:
                found = self._result(case.body)
                if not isinstance(case.body[-1], _ENDS):
                    self._set(result, found)
            else:
                self._body(case.body)
            inner = self._release(outer) or [self._at(ast.Pass(), self._pos)]
            reached = ast.Compare(self._name(entry), [ast.LtE()], [ast.Constant(index)])
            body.append(self._at(ast.If(reached, inner, []), case.pos))
        self._left.pop()
        body.append(self._at(ast.Break(), node.pos))
        self._pos = node.pos
        self._emit(ast.While(ast.Constant(True), body, []))

    def _stm_break(self, node: tree.Break) -> None:
        # As a result, `break` is the C server's number for "not carried out".
        if self._left and self._left[-1]:
            self._set(self._left[-1], ast.UnaryOp(ast.USub(), ast.Constant(5)))
        self._code_is(ast.UnaryOp(ast.USub(), ast.Constant(5)))
        self._emit(ast.Break())

    def _stm_exit(self, node: tree.Exit) -> None:
        self._set_run("exited", ast.Constant(True))
        self._emit(ast.Return(ast.Constant(0)))

    def _stm_drop(self, node: tree.Drop) -> None:
        self._set_run("dropped", ast.Constant(True))
        self._set_run("exited", ast.Constant(True))
        self._emit(ast.Return(ast.Constant(0)))

    def _stm_return(self, node: tree.Return) -> None:
        if node.more:
            values = [self._value(value) for value in node.more]
            self._set_run("return_values", ast.List(values, ast.Load()))
        else:
            self._no_values()
        if node.value is None:
            code: ast.expr = ast.Constant(1)
        elif isinstance(node.value, tree.Number):
            code = ast.Constant(node.value.value)
        else:
            code = self._call("_code", self._value(node.value))
        self._emit(ast.Return(code))

    def _stm_routecall(self, node: tree.RouteCall) -> None:
        self._route(node)

    def _stm_log(self, node: tree.Log) -> None:
        self._log(node)
        self._code_is(ast.Constant(1))

    def _log(self, node: tree.Log) -> None:
        text = self._global("format", node.text.value, node.text.pos.file, node.text.pos.line)
        if node.keyword == "xdbg":
            level: ast.expr = ast.Constant(runtime.L_DBG)
        elif node.level is None:
            usual = int(self.c.script.globals.xlog_print_level)
            level = ast.Constant(usual if node.keyword == "xlog" else runtime.L_DBG)
        elif isinstance(node.level, tree.Number):
            level = ast.Constant(node.level.value)
        elif node.level.value.startswith("$"):
            dynamic = self._read(tree.Var(node.level.pos, node.level.value))
            self._emit(ast.Expr(self._call("_xlog_dynamic", self._run, dynamic, text)))
            return
        else:
            level = ast.Constant(runtime.level_of(node.level.value))
        self._emit(ast.Expr(self._call("_xlog", self._run, level, text)))

    def _stm_errorstm(self, node: tree.ErrorStm) -> None:
        said = f"error({node.kind!r}, {node.reason!r}) does nothing"
        self._emit(ast.Expr(self._call("_report", self._run, ast.Constant(said))))

    def _stm_assert(self, node: tree.Assert) -> None:
        settings = self.c.script.globals
        if not settings.enable_asserts:
            return
        condition = self._condition(node.condition)
        said = ast.Constant(node.message or "the condition is false")
        failed = self._call("_assert", self._run, said, ast.Constant(bool(settings.abort_on_assert)))
        outer = self._collect()
        block = self.c.error_block
        if block is None:
            self._emit(ast.Expr(failed))
        else:
            call: ast.expr = ast.Call(self._name(self.c.slots[id(block)]), [self._run], [])
            if id(block) in self.c.waiting:
                call = ast.Await(call)
            self._emit(ast.If(failed, [ast.Expr(call)], []))
        self._emit(ast.Return(ast.Constant(0)))
        self._emit(ast.If(_negated(condition), self._release(outer), []))

    def _stm_async(self, node: tree.Async) -> None:
        """The resume route goes on when the function is done; nothing behind the statement runs."""
        self._limit_s = node.timeout_s
        result = self._invoke(node.call)
        self._limit_s = 0
        self._set_run("retcode", result)
        self._enter_route(node.route, ast.Tuple([], ast.Load()))
        self._set_run("exited", ast.Constant(True))
        self._emit(ast.Return(ast.Constant(0)))

    def _stm_launch(self, node: tree.Launch) -> None:
        """A coroutine of its own: the function, then the report route."""
        outer, was_async = self._collect(), self.is_async
        self.is_async = True
        # What the statement says is read when it runs, not when the work begins.
        names: list[str] = []
        values: list[ast.expr] = []
        result = self._invoke(node.call, (names, values))
        self._set_run("retcode", result)
        if node.route is not None:
            params: list[ast.expr] = []
            if node.param is not None:
                names.append(self._temporary())
                text = self._global("format", node.param.value, node.param.pos.file, node.param.pos.line)
                values.append(ast.Call(text, [self._run], []))
                params.append(self._name(names[-1]))
            self._enter_route(node.route, ast.Tuple(params, ast.Load()))
        self._emit(ast.Return(ast.Constant(0)))
        body, self.is_async = self._release(outer), was_async
        name = self._temporary()
        given = [ast.arg("run"), *map(ast.arg, names)]
        arguments = ast.arguments([], given, None, [], [], None, values)
        work = ast.AsyncFunctionDef(name=name, args=arguments, body=body, decorator_list=[], returns=None)
        self._emit(work)
        self._emit(ast.Expr(self._call("_launch", self._run, self._name(name))))
        self._code_is(ast.Constant(1))

    # -- calls

    def _ends_on_zero(self, result: str) -> None:
        """0 ends the script as exit does."""
        is_zero = ast.Compare(self._name(result), [ast.Eq()], [ast.Constant(0)])
        exited = ast.Assign([ast.Attribute(self._run, "exited", ast.Store())], ast.Constant(True))
        self._emit(ast.If(is_zero, [exited, ast.Return(ast.Constant(0))], []))

    def _function(self, node: tree.Call) -> ast.expr:
        """Emit a call; the expression is its result, which is not 0."""
        result = self._invoke(node)
        assert isinstance(result, ast.Name)
        self._ends_on_zero(result.id)
        self._code_is(self._name(result.id))
        return self._name(result.id)

    def _invoke(self, node: tree.Call, ahead: tuple[list[str], list[ast.expr]] | None = None) -> ast.expr:
        """Emit a call. ahead: names and values that take the arguments which are read before, for launch()."""
        decl = self.c.catalogue.function(node.name)
        assert decl is not None  # the checker has seen it
        self._pos = node.pos
        result = self._temporary()
        given = self._arguments(decl, node, ahead)
        outer = self._collect()
        call: ast.expr = ast.Call(self._global("call", decl.name), [self._run, *given.expressions], [])
        if decl.waits == "always":
            call = self._awaited(call)
        self._set(result, call)
        if decl.waits == "maybe":
            klass = ast.Attribute(self._name(result), "__class__", ast.Load())
            waits = ast.Compare(klass, [ast.IsNot()], [self._name("int")])
            again = ast.Assign([ast.Name(result, ast.Store())], self._awaited(self._name(result)))
            self._emit(ast.If(waits, [again], []))
        body = self._release(outer)
        if given.may_fail:
            bad = self._call("_bad", self._run, ast.Constant(node.name), self._name("error"))
            handler = ast.ExceptHandler(
                self._name("_BadArgument"), "error", [ast.Assign([ast.Name(result, ast.Store())], bad)]
            )
            self._emit(ast.Try(body, [handler], [], []))
        else:
            self.out += body
        return self._name(result)

    def _awaited(self, work: ast.expr) -> ast.expr:
        if self._limit_s > 0:
            work = self._call("_within", self._run, work, ast.Constant(self._limit_s))
        return ast.Await(work)

    def _arguments(self, decl: FunctionDecl, node: tree.Call, ahead: tuple[list[str], list[ast.expr]] | None) -> _Given:
        given = _Given(ahead)
        args = list(node.args)
        while args and args[-1] is None:
            args.pop()
        for index, (param, arg) in enumerate(zip(decl.params, args, strict=False)):
            given.expressions.append(
                ast.Constant(None) if arg is None else self._argument(decl, index, param, arg, given)
            )
        return given

    def _argument(self, decl: FunctionDecl, index: int, param: ParamDecl, arg: Expr, given: _Given) -> ast.expr:
        if param.type == "var":
            assert isinstance(arg, tree.Var)
            return self._global("ref", arg.text, arg.pos.file, arg.pos.line)
        if isinstance(arg, tree.Null):
            return ast.Constant(None)
        constant = None if param.takes_format else self._constant(param, arg)
        if constant is not None:
            if param.fixup is not None:
                return self._global("fixed", decl.name, index, constant)
            if param.type == "regex":
                return self._global("pattern", constant, True)
            return ast.Constant(constant)
        if param.takes_format:
            assert isinstance(arg, tree.Text | tree.Var)
            text = arg.text if isinstance(arg, tree.Var) else arg.value
            prepared = self._global("formatted", decl.name, index, text, arg.pos.file, arg.pos.line)
            value: ast.expr = ast.Call(prepared, [self._run], [])
        else:
            value = self._dynamic(param, arg)
        if given.ahead is not None:
            names, values = given.ahead
            names.append(self._temporary())
            values.append(value)
            value = self._name(names[-1])
        if param.type == "int" and param.fixup is None:
            given.may_fail = True
            return self._call("_int", value)
        if not param.takes_format and (param.fixup is not None or param.type == "regex"):
            given.may_fail = True
            maker = self._global("fixup", decl.name, index) if param.fixup is not None else self._global("patterns")
            if param.optional:
                # NULL for an optional parameter is a parameter left out.
                name = self._temporary()
                taken = ast.NamedExpr(ast.Name(name, ast.Store()), value)
                missing = ast.Compare(taken, [ast.Is()], [ast.Constant(None)])
                return ast.IfExp(missing, ast.Constant(None), ast.Call(maker, [self._name(name)], []))
            return ast.Call(maker, [value], [])
        return value

    def _constant(self, param: ParamDecl, arg: Expr) -> str | int | None:
        """The value of an argument that no variable stands in; None for any other."""
        if isinstance(arg, tree.Number):
            return arg.value
        if isinstance(arg, tree.Word):
            return arg.name
        if isinstance(arg, tree.Text):
            if param.verbatim or "$" not in arg.value:
                return arg.value
            return parse_format_text(arg.value, self.c.catalogue, arg.pos.file, arg.pos.line).constant
        return None

    def _dynamic(self, param: ParamDecl, arg: Expr) -> ast.expr:
        """An argument that is read at the call: a str or None for a string parameter."""
        if isinstance(arg, tree.Var):
            value = self._read(arg)
            return value if param.type == "int" else self._call("_text", value)
        assert isinstance(arg, tree.Text)
        return ast.Call(self._global("value", arg.value, arg.pos.file, arg.pos.line), [self._run], [])

    def _route(self, node: tree.RouteCall) -> ast.expr:
        """Emit route(name, ...); the expression is its result, which is not 0."""
        self._pos = node.pos
        result = self._enter_route(node.name, ast.Tuple([self._value(arg) for arg in node.args], ast.Load()))
        self._ends_on_zero(result)
        self._code_is(self._name(result))
        return self._name(result)

    def _enter_route(self, name: tree.Text | tree.Var, params: ast.expr) -> str:
        """Emit the call of a route; the name of the variable that holds its result."""
        result = self._temporary()
        if isinstance(name, tree.Text) and "$" not in name.value:
            self._static_route(name.value, params, result)
        else:
            self._dynamic_route(name, params, result)
        return result

    def _static_route(self, name: str, params: ast.expr, result: str) -> None:
        block = self.c.named[_route_name(name)]
        kind, shown = ast.Constant(kinds.REQUEST), ast.Constant(block.name)
        too_deep = ast.UnaryOp(ast.Not(), self._call("_enter", self._run, kind, shown, params))
        self._emit(ast.If(too_deep, [ast.Return(ast.Constant(0))], []))
        call: ast.expr = ast.Call(self._name(self.c.slots[id(block)]), [self._run], [])
        if id(block) in self.c.waiting:
            call = ast.Await(call)
        self._set(result, call)
        self._emit(ast.Expr(self._call("_leave", self._run)))

    def _dynamic_route(self, name: tree.Text | tree.Var, params: ast.expr, result: str) -> None:
        found = self._temporary()
        if isinstance(name, tree.Var):
            value = self._read(name)
        else:
            value = ast.Call(self._global("value", name.value, name.pos.file, name.pos.line), [self._run], [])
        self._set(found, self._call("_by_name", self._run, value))
        self._set(result, ast.UnaryOp(ast.USub(), ast.Constant(1)))
        outer = self._collect()
        shown = ast.Attribute(self._name(found), "name", ast.Load())
        too_deep = ast.UnaryOp(ast.Not(), self._call("_enter", self._run, ast.Constant(kinds.REQUEST), shown, params))
        self._emit(ast.If(too_deep, [ast.Return(ast.Constant(0))], []))
        self._set(result, ast.Call(ast.Attribute(self._name(found), "fn", ast.Load()), [self._run], []))
        if self.is_async:
            waits = ast.Attribute(self._name(found), "is_async", ast.Load())
            again = ast.Assign([ast.Name(result, ast.Store())], ast.Await(self._name(result)))
            self._emit(ast.If(waits, [again], []))
        self._emit(ast.Expr(self._call("_leave", self._run)))
        body = self._release(outer)
        self._emit(ast.If(ast.Compare(self._name(found), [ast.IsNot()], [ast.Constant(None)]), body, []))

    # -- values

    def _spec(self, node: tree.Var) -> VarSpec:
        return parse_variable(node.text, 0, self.c.catalogue, node.pos.file, node.pos.line)

    def _read(self, node: tree.Var) -> ast.expr:
        spec = self._spec(node)
        inline = spec.inline_expression()
        if inline is not None:
            return cast("ast.expr", self._at(_without_place(ast.parse(inline, mode="eval").body), node.pos))
        read = ast.Call(self._global("read", node.text, node.pos.file, node.pos.line), [self._run], [])
        return cast("ast.expr", self._at(read, node.pos))

    def _value(self, node: Expr) -> ast.expr:
        """An expression for a value; calls in it are emitted before."""
        if isinstance(node, tree.Text | tree.Number):
            return ast.Constant(node.value)
        if isinstance(node, tree.Null):
            return ast.Constant(None)
        if isinstance(node, tree.Var):
            return self._read(node)
        if isinstance(node, tree.Binary):
            known = _folded(node)
            if known is not None:
                return ast.Constant(known)
            left = self._value(node.left)
            outer = self._collect()
            right = self._value(node.right)
            before = self._release(outer)
            if before:
                # A call on the right must not change what stands on the left.
                name = self._temporary()
                self._set(name, left)
                left = self._name(name)
                self.out += before
            name = _BINARY[node.op]
            if node.op == "+" and isinstance(node.left, tree.Var) and node.left.text in _PORTS:
                name = "_op_add_to_port"
            elif node.op == "+" and isinstance(node.right, tree.Var):
                # A number in a variable is also the text of its digits; one that is written or calculated is not.
                name = "_op_add_variable"
            # Division logs what it meets and goes on.
            operands = [self._run, left, right] if node.op in ("/", "%") else [left, right]
            return cast("ast.expr", self._at(self._call(name, *operands), node.pos))
        if isinstance(node, tree.BitNot):
            known = _folded(node)
            return self._call("_bit_not", self._value(node.operand)) if known is None else ast.Constant(known)
        if isinstance(node, tree.Compare):
            return self._comparison(node)
        if isinstance(node, tree.Call):
            return self._function(node)
        if isinstance(node, tree.RouteCall):
            return self._route(node)
        self._body([cast("Stm", node)])
        return ast.Constant(1)

    # -- conditions

    def _condition(self, node: Expr) -> ast.expr:
        """An expression that is true or false; calls in it are emitted before.

        A comparison may end in an error, which is neither: `!` keeps it and `||` stops at it (see `_verdict`).
        """
        self._pos = node.pos
        if isinstance(node, tree.Call | tree.RouteCall):
            result = self._function(node) if isinstance(node, tree.Call) else self._route(node)
            return ast.Compare(result, [ast.Gt()], [ast.Constant(0)])
        if isinstance(node, tree.Compare):
            return self._truth_of(node, negated=False)
        if isinstance(node, tree.Not):
            if isinstance(node.operand, tree.Compare):
                return self._truth_of(node.operand, negated=True)
            if _may_err(node.operand):
                return ast.Compare(self._verdict(node.operand), [ast.Eq()], [ast.Constant(0)])
            return _negated(self._condition(node.operand))
        if isinstance(node, tree.Logic):
            if node.op == "or" and _may_err(node.left):
                return ast.Compare(self._verdict(node), [ast.Gt()], [ast.Constant(0)])
            return self._logic(node, self._condition)
        if isinstance(node, tree.Var):
            return self._read(node)
        if isinstance(node, tree.Number):
            return ast.Constant(node.value != 0)
        if isinstance(node, tree.Binary | tree.BitNot):
            return self._calculated(node)
        if isinstance(node, tree.Group):
            return ast.Compare(self._result(node.body), [ast.Gt()], [ast.Constant(0)])
        if isinstance(node, tree.Assign | tree.If):
            return ast.Compare(self._result((node,)), [ast.Gt()], [ast.Constant(0)])
        if isinstance(node, tree.Text):
            return ast.Constant(bool(node.value))
        self._body([cast("Stm", node)])
        return ast.Constant(True)

    def _verdict(self, node: Expr) -> ast.expr:
        """A condition as 1, 0 or -1 (error)."""
        self._pos = node.pos
        if isinstance(node, tree.Compare):
            return self._comparison(node)
        if not _may_err(node):
            return self._condition(node)
        if isinstance(node, tree.Not):
            return self._call("_negate", self._verdict(node.operand))
        assert isinstance(node, tree.Logic)
        return self._logic(node, self._verdict)

    def _calculated(self, node: tree.Binary | tree.BitNot) -> ast.expr:
        """`[ arithmetic ]` as a condition: false when it cannot be carried out."""
        result = self._temporary()
        self._set(result, ast.Constant(None))

        def emit() -> None:
            self._set(result, self._value(node))

        self._guarded(node, emit)
        return self._name(result)

    def _logic(self, node: tree.Logic, part: Callable[[Expr], ast.expr]) -> ast.expr:
        """`&&` and `||`; part: what makes an operand, `_condition` or `_verdict`."""
        left = part(node.left)
        outer = self._collect()
        right = part(node.right)
        before = self._release(outer)
        exact = part == self._verdict
        if not before and not exact:
            operator: ast.boolop = ast.And() if node.op == "and" else ast.Or()
            return cast("ast.expr", self._at(ast.BoolOp(operator, [left, right]), node.pos))
        result = self._temporary()
        self._pos = node.pos
        self._set(result, left)
        before.append(self._at(ast.Assign([ast.Name(result, ast.Store())], right), node.right.pos))
        test: ast.expr = self._name(result)
        if exact:
            test = ast.Compare(test, [ast.Eq()], [ast.Constant(1 if node.op == "and" else 0)])
        elif node.op == "or":
            test = ast.UnaryOp(ast.Not(), test)
        self._emit(ast.If(test, before, []))
        return self._name(result)

    def _truth_of(self, node: tree.Compare, negated: bool) -> ast.expr:
        """A comparison as a truth value. What cannot be compared is false, negated or not."""
        right = node.right
        if isinstance(right, tree.Null) and node.op in ("==", "!="):
            same = (node.op == "==") != negated
            operator: ast.cmpop = ast.Is() if same else ast.IsNot()
            return cast(
                "ast.expr", self._at(ast.Compare(self._read(node.left), [operator], [ast.Constant(None)]), node.pos)
            )
        if isinstance(right, tree.Text) and node.op in ("==", "!="):
            folded = runtime.lower(right.value)
            # Most often both are the same text, or the function is needed for another case of letters.
            value = self._temporary()
            first = ast.NamedExpr(ast.Name(value, ast.Store()), self._read(node.left))
            same_text = ast.Compare(first, [ast.Eq()], [ast.Constant(right.value)])
            folding = self._call("_equal_text", self._name(value), ast.Constant(right.value), ast.Constant(folded))
            equal = ast.BoolOp(ast.Or(), [same_text, folding])
            wanted = (node.op == "==") != negated
            return cast("ast.expr", self._at(equal if wanted else ast.UnaryOp(ast.Not(), equal), node.pos))
        if isinstance(right, tree.Number):
            return self._number_test(node, right.value, negated)
        result = self._comparison(node)
        operator = ast.Eq() if negated else ast.Gt()
        return cast("ast.expr", self._at(ast.Compare(result, [operator], [ast.Constant(0)]), node.pos))

    def _number_test(self, node: tree.Compare, number: int, negated: bool) -> ast.expr:
        """`$variable op number` as a truth value: at once for a number, by the rules of `compare_int` for the rest."""
        value = self._temporary()
        first = ast.NamedExpr(ast.Name(value, ast.Store()), self._read(node.left))
        is_number = ast.Compare(self._call("_type", first), [ast.Is()], [self._name("_number")])
        at_once: ast.expr = ast.Compare(self._name(value), [_PYTHON_OPERATORS[node.op]()], [ast.Constant(number)])
        if negated:
            at_once = ast.UnaryOp(ast.Not(), at_once)
        op = ast.Constant(runtime.COMPARISONS[node.op])
        result = self._call("_compare_int", self._run, op, self._name(value), ast.Constant(number))
        judged = ast.Compare(result, [ast.Eq() if negated else ast.Gt()], [ast.Constant(0)])
        return cast("ast.expr", self._at(ast.IfExp(is_number, at_once, judged), node.pos))

    def _comparison(self, node: tree.Compare) -> ast.expr:
        """A comparison as 1, 0 or -1."""
        left, right = self._read(node.left), node.right
        if node.op in ("=~", "!~"):
            name = "_match" if node.op == "=~" else "_not_match"
            if isinstance(right, tree.Text):
                call = self._call(name, self._run, left, self._global("pattern", right.value, False))
            else:
                call = self._call(f"{name}_dynamic", self._run, left, self._value(right))
        elif isinstance(right, tree.Text):
            op = ast.Constant(runtime.COMPARISONS[node.op])
            call = self._call("_compare_text", self._run, op, left, ast.Constant(right.value))
        elif isinstance(right, tree.Number):
            op = ast.Constant(runtime.COMPARISONS[node.op])
            call = self._call("_compare_int", self._run, op, left, ast.Constant(right.value))
        elif isinstance(right, tree.Net):
            op = ast.Constant(runtime.COMPARISONS[node.op])
            call = self._call("_compare_net", self._run, op, left, self._global("net", right.text))
        else:
            op = ast.Constant(runtime.COMPARISONS[node.op])
            call = self._call("_compare", self._run, op, left, self._value(right))
        return cast("ast.expr", self._at(call, node.pos))


_PYTHON_OPERATORS: Final[dict[str, type[ast.cmpop]]] = {
    "==": ast.Eq,
    "!=": ast.NotEq,
    "<": ast.Lt,
    ">": ast.Gt,
    "<=": ast.LtE,
    ">=": ast.GtE,
}


class _VariablesKept(ast.NodeTransformer):
    """Puts a local name in the place of `run.vars`, but for functions inside, whose run is another one."""

    def __init__(self) -> None:
        self.count = 0

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if node.attr == "vars" and isinstance(node.value, ast.Name) and node.value.id == "run":
            self.count += 1
            return ast.copy_location(ast.Name("_vars", ast.Load()), node)
        return self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return node


def _keep_variables(body: list[ast.stmt]) -> None:
    """Look up the dict of `$var` once in a route: it stays the same while the route runs."""
    kept = _VariablesKept()
    for index, statement in enumerate(body):
        body[index] = kept.visit(statement)
    if kept.count:
        found = ast.Attribute(ast.Name("run", ast.Load()), "vars", ast.Load())
        look_up = ast.Assign([ast.Name("_vars", ast.Store())], found)
        # It stands on the line of what follows, so that whoever steps through the script does not meet it.
        for node in ast.walk(look_up):
            ast.copy_location(node, body[0])
        body.insert(0, look_up)


class _Given:
    """The arguments of one call as expressions; may_fail: some raise BadArgument."""

    def __init__(self, ahead: tuple[list[str], list[ast.expr]] | None) -> None:
        self.ahead = ahead
        self.expressions: list[ast.expr] = []
        self.may_fail = False


def _may_fail(node: Any) -> bool:
    """Whether the statement calculates: an operator may meet what it cannot take."""
    if isinstance(node, tree.Assign):
        return node.op not in ("=", ":=") or _may_fail(node.value)
    return isinstance(node, tree.Binary | tree.BitNot) and _folded(node) is None


def _folded(node: Expr) -> str | int | None:
    """The value of what has no variable in it, so that it is calculated once; None for anything else, and for what
    cannot be calculated: that is said when the statement is reached."""
    if isinstance(node, tree.Number | tree.Text):
        return node.value
    try:
        if isinstance(node, tree.Binary):
            left, right = _folded(node.left), _folded(node.right)
            return None if left is None or right is None else runtime.BINARY[node.op](left, right)
        if isinstance(node, tree.BitNot):
            operand = _folded(node.operand)
            return None if operand is None else runtime.bit_not(operand)
    except runtime.EvaluationError:
        pass
    return None


def _without_place(root: ast.expr) -> ast.expr:
    """An expression that was made from text, without the places it had there."""
    for each in ast.walk(root):
        if each._attributes:
            del each.lineno, each.col_offset, each.end_lineno, each.end_col_offset  # type: ignore[attr-defined]
    return root


def _may_err(node: Expr) -> bool:
    """Whether a condition may be neither true nor false: a comparison in it may meet a value it cannot compare."""
    if isinstance(node, tree.Compare):
        return not (isinstance(node.right, tree.Null | tree.Text) and node.op in ("==", "!="))
    if isinstance(node, tree.Logic):
        return _may_err(node.left) or _may_err(node.right)
    return isinstance(node, tree.Not) and _may_err(node.operand)


def has_result(statements: Sequence[Stm]) -> bool:
    """Whether the last statement decides what a route or a group without `return` results in; else that is 1."""
    if not statements:
        return False
    last = statements[-1]
    if isinstance(last, tree.If):
        return has_result(last.then) or has_result(last.otherwise)
    if isinstance(last, tree.Switch):
        return any(_breaks(case.body) or has_result(case.body) for case in last.cases)
    if isinstance(last, tree.While | tree.For):
        return _breaks(last.body)
    return isinstance(last, tree.Call | tree.RouteCall) or (isinstance(last, tree.Assign) and _may_fail(last))


def _breaks(statements: Sequence[Stm]) -> bool:
    """Whether a `break` in these statements leaves the loop or switch around them."""
    for statement in statements:
        if isinstance(statement, tree.Break):
            return True
        if isinstance(statement, tree.If) and (_breaks(statement.then) or _breaks(statement.otherwise)):
            return True
    return False


def _negated(condition: ast.expr) -> ast.expr:
    """`not` of a condition, without a second `not` and without turning a comparison into two steps."""
    if isinstance(condition, ast.UnaryOp) and isinstance(condition.op, ast.Not):
        return condition.operand
    if isinstance(condition, ast.Compare) and len(condition.ops) == 1 and isinstance(condition.ops[0], ast.Gt):
        condition.ops[0] = ast.LtE()
        return condition
    return ast.UnaryOp(ast.Not(), condition)
