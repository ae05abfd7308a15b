"""Whole scripts in memory: parsed, checked, compiled and run on one message, with functions that tell what ran."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from opensipspy.script import Finding, Program, ScriptErrors, check, compile_script, kinds, parse_script
from opensipspy.script.core import build_catalogue
from opensipspy.script.declare import Catalogue, EventDecl, FunctionDecl, ParamDecl
from opensipspy.script.formats import FormatString
from opensipspy.script.parse import Script
from opensipspy.script.patterns import Pattern
from opensipspy.script.run import Run, Value, VarRef
from opensipspy.sip import PROTO_UDP, Peer, parse_message
from tests.script.fakes import INVITE, UDP_SOCKET, FakeServices

NAME = "test.cfg"


class LabServices(FakeServices):
    """Keeps what launch() starts, until the test runs it."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[Coroutine[Any, Any, object]] = []

    def spawn(self, work: Coroutine[Any, Any, object]) -> None:
        self.started.append(work)


class Lab:
    """The core's catalogue with the functions of a module "lab" in `_declare`."""

    def __init__(self) -> None:
        self.services = LabServices()
        self.catalogue: Catalogue = build_catalogue(self.services)
        self.notes: list[Any] = []
        self._declare()

    # -- the module

    def _add(self, name: str, call: Any, *params: ParamDecl, routes: int = kinds.ALL, **more: Any) -> None:
        self.catalogue.add_function(FunctionDecl(name, "lab", params, routes, call, **more))

    def _declare(self) -> None:
        number = ParamDecl("number", "int")
        self._add("note", self._note, ParamDecl("what"))
        self._add("give", self._give, number)
        self._add("later", self._later, number, waits="always", async_ok=True)
        self._add("maybe", self._maybe, number, waits="maybe", async_ok=True)
        self._add("asked", self._later, number, waits="always", async_only=True)
        self._add("arm", self._note, ParamDecl("route", static=True, route_kind=kinds.FAILURE))
        self._add("even", self._note, ParamDecl("number", fixup=_even))
        self._add("into", self._into, ParamDecl("result", "var", must_be="writable variable"))
        optional = (ParamDecl("b", optional=True), ParamDecl("c", "int", optional=True))
        self._add("omit", self._omit, ParamDecl("a"), *optional)
        self._add("find", self._find, ParamDecl("pattern", "regex"))
        self._add("raw", self._note, ParamDecl("text", no_expand=True))
        self._add("told", self._note, ParamDecl("text", no_expand=True, fixup=str.upper, at_call=str.swapcase))
        self._add("filled", self._omit, ParamDecl("text", optional=True, fixup=_filler, takes_format=True), number)
        self._add(
            "filled_later",
            self._noted_later,
            ParamDecl("text", fixup=_filler, takes_format=True),
            waits="always",
            async_ok=True,
        )
        self._add("request", self._request, routes=kinds.REQUEST)
        self._add("breaks", self._breaks)
        self.catalogue.add_event(EventDecl("E_LAB", "lab", ("x",)))

    def _note(self, run: Run, what: object) -> int:
        self.notes.append(what)
        return 1

    def _give(self, run: Run, number: int) -> int:
        self.notes.append(number)
        return number

    async def _later(self, run: Run, number: int) -> int:
        await asyncio.sleep(0)
        self.notes.append(f"later {number}")
        return number

    async def _noted_later(self, run: Run, what: object) -> int:
        await asyncio.sleep(0)
        return self._note(run, what)

    def _maybe(self, run: Run, number: int) -> int | Awaitable[int]:
        return number if number > 0 else self._later(run, number)

    def _into(self, run: Run, result: VarRef) -> int:
        result.set(run, 7)
        return 1

    def _omit(self, run: Run, *args: Value) -> int:
        self.notes.append(args)
        return 1

    def _find(self, run: Run, pattern: Pattern) -> int:
        return 1 if pattern.search("alpha\nbeta") else -1

    def _request(self, run: Run) -> int:
        return 1

    def _breaks(self, run: Run) -> int:
        raise RuntimeError("the function broke")

    # -- the pipeline

    def parse(self, text: str) -> Script:
        return parse_script(NAME, text=text)

    def findings(self, text: str, path: str = NAME) -> list[Finding]:
        """What is wrong with a script, by place; whichever stage says it."""
        try:
            return check(parse_script(path, text=text), self.catalogue)
        except ScriptErrors as errors:
            return errors.findings

    def compile(self, text: str) -> Program:
        script = self.parse(text)
        wrong = [f for f in check(script, self.catalogue) if f.severity == "error"]
        assert not wrong, "\n".join(f.render(script.file_lines) for f in wrong)
        return compile_script(script, self.catalogue)

    def new_run(self, program: Program, kind: int = kinds.REQUEST) -> Run:
        message = parse_message(INVITE.encode(), Peer(PROTO_UDP, "198.51.100.7", 5099), UDP_SOCKET)
        return Run(message, kind, program, self.services)

    def run(self, text: str) -> int:
        """Run a script's main route on an INVITE; what it returns. `last` is the run."""
        program = self.compile(text)
        self.last = self.new_run(program)
        assert program.main is not None
        result = program.main.fn(self.last)
        value = asyncio.run(_ended(result)) if program.main.is_async else result
        assert isinstance(value, int)
        return value

    def body(self, statements: str) -> list[Any]:
        """What the statements of a main route note."""
        self.notes.clear()
        self.run(f"route {{\n{statements}\n}}\n")
        return list(self.notes)

    def value(self, expression: str) -> Value:
        """The value of an expression, by way of `$var(v)`."""
        self.run(f"route {{ $var(v) = {expression}; }}")
        return self.last.vars.get("v")

    def holds(self, condition: str, before: str = "") -> bool:
        """Whether an if takes a condition."""
        return bool(self.body(f'{before} if ({condition}) note("yes"); else note("no");')[-1] == "yes")

    @property
    def log(self) -> str:
        return "\n".join(line for _level, line in self.services.lines)


def _even(value: Value) -> int:
    number = int(value or "")
    if number % 2:
        raise ValueError(f"{number} is odd")
    return number


def _filler(text: FormatString) -> Callable[[Run], str]:
    """Shows the values of variables in brackets."""

    def fill(run: Run) -> str:
        return "".join(part if isinstance(part, str) else f"[{part.reader()(run)}]" for part in text.parts)

    return fill


async def _ended(coroutine: Coroutine[Any, Any, int]) -> int:
    return await coroutine
