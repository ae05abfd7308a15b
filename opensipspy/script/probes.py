"""Scripts compiled so that somebody can watch them: coverage, the simulator and the debugger stand on this.

Such code tells a `Watch` of each statement before it runs, of each condition with its outcome, of the values that it
reads and writes, and of what functions return. A debugger may also hold a run before a statement: all routes are
coroutines then, so that the run which is held waits like one that asks a database, and the others go on. Scripts that
nobody watches are compiled as ever and pay nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from opensipspy.script import kinds, tree
from opensipspy.script.compile import Compiler, RouteEmitter, compile_with, has_result
from opensipspy.script.declare import Catalogue
from opensipspy.script.errors import Pos
from opensipspy.script.program import Program
from opensipspy.script.run import Run

if TYPE_CHECKING:
    from opensipspy.script.parse import Script
    from opensipspy.script.tree import Expr, Stm

STATEMENT: Final = "statement"
CONDITION: Final = "condition"
CASE: Final = "case"
# How much of a statement's or condition's text a point keeps.
LONGEST_TEXT: Final = 200


class Point:
    """A place of the script that is watched.

    kind: STATEMENT, CONDITION (true or false) or CASE (one way out of a switch). route: as "route[relay]". text: what
    stands there, in one line.
    """

    __slots__ = ("col", "file", "kind", "line", "route", "text")

    def __init__(self, kind: str, file: str, line: int, col: int, route: str, text: str) -> None:
        self.kind = kind
        self.file = file
        self.line = line
        self.col = col
        self.route = route
        self.text = text


class Watch:
    """Is told what a script does; this one takes no notice. Points are known by their number in `points`."""

    # Whether values and results of functions are told as well.
    values = False
    # Whether `halts` is asked before each statement; `statement` is not called then.
    halting = False

    def __init__(self) -> None:
        self.points: list[Point] = []

    def statement(self, run: Run, number: int) -> None:
        """A statement is about to run."""

    def condition(self, run: Run, number: int, outcome: Any) -> Any:
        """A condition came out; gives the outcome back. Above 0 is true."""
        return outcome

    def case(self, run: Run, first: int, entry: int) -> None:
        """A switch goes in at a case: points[first + entry]."""

    def value(self, run: Run, text: str, value: Any) -> Any:
        """A variable was read, or (text ends in "=") is about to get a value; gives the value back."""
        return value

    def result(self, run: Run, name: str, result: int) -> None:
        """A function of that name returned."""

    def halts(self, run: Run, number: int) -> bool:
        """Whether the run is held before this statement."""
        return False

    async def halt(self, run: Run, number: int) -> None:
        """Hold the run; it goes on when this returns."""

    def failing(self, run: Run, error: Exception) -> bool:
        """Whether the run is held because of an error that is about to end it."""
        return False

    async def halt_failed(self, run: Run, error: Exception) -> None:
        """Hold the run that is about to end."""

    def left(self, run: Run) -> None:
        """A route has ended; told when `halting`."""


def compile_watched(script: Script, catalogue: Catalogue, watch: Watch) -> Program:
    """Compile a checked script (never a kept one, which has no tree) so that `watch` is told. Raises ScriptErrors."""
    program = compile_with(WatchedCompiler(script, catalogue, watch))
    tell = {
        "_w_statement": watch.statement,
        "_w_condition": watch.condition,
        "_w_case": watch.case,
        "_w_value": watch.value,
        "_w_result": watch.result,
        "_w_halts": watch.halts,
        "_w_halt": watch.halt,
        "_w_failing": watch.failing,
        "_w_halt_failed": watch.halt_failed,
        "_w_left": watch.left,
        "_w_Exception": Exception,
    }
    for route in program.all_routes():
        # One environment serves all routes of a program.
        getattr(route.fn, "__globals__").update(tell)  # noqa: B009
        break
    return program


class WatchedCompiler(Compiler):
    """Compiles routes that tell a `Watch`."""

    def __init__(self, script: Script, catalogue: Catalogue, watch: Watch) -> None:
        self.watch = watch
        super().__init__(script, catalogue)

    def emitter(self, block: tree.Block) -> RouteEmitter:
        return WatchedEmitter(self, block)

    def _colour(self) -> set[int]:
        # Every statement is a place to wait when runs may be held.
        return {id(block) for block in self.script.blocks} if self.watch.halting else super()._colour()

    def text_at(self, pos: Pos) -> str:
        """What the script has at a place, in one line."""
        lines = self.script.file_lines(pos.file)
        if not 0 < pos.line <= len(lines):
            return ""
        if not pos.end_line or pos.end_line - pos.line > 20:
            text = lines[pos.line - 1][pos.col - 1 :]
        elif pos.end_line == pos.line:
            text = lines[pos.line - 1][pos.col - 1 : pos.end_col - 1]
        else:
            inner = lines[pos.line : min(pos.end_line - 1, len(lines))]
            last = lines[pos.end_line - 1][: pos.end_col - 1] if pos.end_line <= len(lines) else ""
            text = " ".join([lines[pos.line - 1][pos.col - 1 :], *inner, last])
        text = " ".join(text.split())
        # The place of `!(...)` and of `if (...)` ends before the last parenthesis.
        rest = lines[pos.end_line - 1][pos.end_col - 1 :] if 0 < pos.end_line <= len(lines) else ""
        if rest.lstrip().startswith(")") and text.count("(") > text.count(")"):
            text += ")"
        return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"

    def add(self, kind: str, node: Any, block: tree.Block, text: str = "") -> int:
        """A new point; its number."""
        pos = node.pos
        shown = kinds.kind_keyword(block.kind) + (f"[{block.name}]" if block.name else "")
        self.watch.points.append(Point(kind, pos.file, pos.line, pos.col, shown, text or self.text_at(pos)))
        return len(self.watch.points) - 1


class WatchedEmitter(RouteEmitter):
    """Emits one route with calls of the watch in it."""

    c: WatchedCompiler

    def _route_body(self) -> None:
        if not self.c.watch.halting:
            super()._route_body()
            return
        outer = self._collect()
        super()._route_body()
        body = self._release(outer)
        error = self._name("failure")
        held = ast.Expr(ast.Await(self._call("_w_halt_failed", self._run, error)))
        asked = ast.If(self._call("_w_failing", self._run, error), [held], [])
        handler = ast.ExceptHandler(self._name("_w_Exception"), "failure", [asked, ast.Raise()])
        left = ast.Expr(self._call("_w_left", self._run))
        self._emit(ast.Try(body, [handler], [], [left]), self.block.pos)

    def _body(self, statements: Any) -> None:
        for statement in statements:
            self._tell(statement)
            super()._body((statement,))
            if isinstance(statement, tree.Exit | tree.Drop | tree.Return | tree.Break | tree.Async):
                break

    def _result(self, statements: Sequence[Stm]) -> ast.expr:
        if not has_result(statements):
            return super()._result(statements)
        self._body(statements[:-1])
        self._tell(statements[-1])
        return super()._result(statements[-1:])

    def _tell(self, statement: Stm) -> None:
        self._pos = statement.pos
        number = ast.Constant(self.c.add(STATEMENT, statement, self.block))
        if self.c.watch.halting and self.is_async:
            held = ast.Expr(ast.Await(self._call("_w_halt", self._run, number)))
            self._emit(ast.If(self._call("_w_halts", self._run, number), [held], []))
        else:
            self._emit(ast.Expr(self._call("_w_statement", self._run, number)))

    # -- conditions

    def _condition(self, node: Expr) -> ast.expr:
        if not _is_leaf(node):
            return super()._condition(node)
        number = self.c.add(CONDITION, node, self.block)
        return self._outcome(node, number, super()._condition(node))

    def _verdict(self, node: Expr) -> ast.expr:
        if not isinstance(node, tree.Compare):
            return super()._verdict(node)
        number = self.c.add(CONDITION, node, self.block)
        return self._outcome(node, number, super()._verdict(node))

    def _outcome(self, node: Expr, number: int, outcome: ast.expr) -> ast.expr:
        told: ast.expr = self._at(self._call("_w_condition", self._run, ast.Constant(number), outcome), node.pos)
        return told

    def _stm_switch(self, node: tree.Switch, result: str = "") -> None:
        first = len(self.c.watch.points)
        for case in node.cases:
            self.c.add(CASE, case, self.block, _case_text(case))
        if all(case.value is not None for case in node.cases):
            self.c.add(CASE, node, self.block, "no case")
        # The base class names the value first, then the number of the case that was found.
        entry = f"t{self._temporaries + 2}"
        outer = self._collect()
        super()._stm_switch(node, result)
        body = self._release(outer)
        self.out += body[:-1]
        self._emit(ast.Expr(self._call("_w_case", self._run, ast.Constant(first), self._name(entry))), node.pos)
        self.out += body[-1:]

    # -- values

    def _read(self, node: tree.Var) -> ast.expr:
        return self._told_value(node.text, super()._read(node), node.pos)

    def _dynamic(self, param: Any, arg: Expr) -> ast.expr:
        value = super()._dynamic(param, arg)
        return self._told_value(arg.value, value, arg.pos) if isinstance(arg, tree.Text) else value

    def _write(self, spec: Any, target: tree.Var, value: ast.expr, replace: bool = False) -> None:
        super()._write(spec, target, self._told_value(f"{target.text} =", value, target.pos), replace)

    def _told_value(self, text: str, value: ast.expr, pos: Pos) -> ast.expr:
        if not self.c.watch.values:
            return value
        told: ast.expr = self._at(self._call("_w_value", self._run, ast.Constant(text), value), pos)
        return told

    def _invoke(self, node: tree.Call, ahead: tuple[list[str], list[ast.expr]] | None = None) -> ast.expr:
        result = super()._invoke(node, ahead)
        if self.c.watch.values:
            self._emit(ast.Expr(self._call("_w_result", self._run, ast.Constant(node.name), result)), node.pos)
        return result


def _is_leaf(node: Expr) -> bool:
    """Whether a condition is told as one: no `&&` or `||`, no `!` but of a comparison, no constant."""
    if isinstance(node, tree.Not):
        return isinstance(node.operand, tree.Compare)
    return isinstance(
        node,
        tree.Call
        | tree.RouteCall
        | tree.Compare
        | tree.Var
        | tree.Binary
        | tree.BitNot
        | tree.Group
        | tree.Assign
        | tree.If,
    )


def _case_text(case: tree.Case) -> str:
    if case.value is None:
        return "default"
    value = case.value.value
    return f"case {value}" if isinstance(value, int) else f'case "{value}"'
