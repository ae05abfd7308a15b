"""A compiled script: the code of its routes, and how to make the objects that the code names.

The code objects and the recipes are plain data, so that they can be kept between starts; the functions, variables and
patterns behind them are looked up in the catalogue of the server that runs them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterator
from types import CodeType, FunctionType
from typing import Any, Final

from opensipspy.script import kinds, runtime
from opensipspy.script.declare import Catalogue, FlagNames
from opensipspy.script.globals import Globals
from opensipspy.script.patterns import Pattern
from opensipspy.script.run import INDEX_ALL, Run, Value, VarRef
from opensipspy.script.varsyntax import FormatString, VarSpec, parse_format_text, parse_variable

MOST_FIXUPS_KEPT: Final = 1000
# $err.class and $err.level of a failed assert.
ASSERT_ERROR: Final = 4
CRITICAL: Final = 1

Recipe = tuple[Any, ...]


class RouteCode:
    """One compiled route. fn(run) gives an int, or a coroutine of one when `is_async`; 0: ended by exit or drop."""

    __slots__ = ("code", "fn", "interval_s", "is_async", "kind", "name")

    def __init__(self, kind: int, name: str, is_async: bool, fn: Callable[[Run], Any], interval_s: int = 0) -> None:
        self.kind: int = kind
        self.name: str = name
        self.is_async: bool = is_async
        self.fn: Callable[[Run], Any] = fn
        self.interval_s: int = interval_s
        self.code: CodeType = getattr(fn, "__code__", None)  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{kinds.kind_keyword(self.kind)}[{self.name}]>"


class BadArgument(Exception):
    """A value that a function cannot take; the call returns -1."""


class BadRecipe(Exception):
    """What the code names cannot be made on this server. file, line: where the script says it, "" and 0 unknown."""

    def __init__(self, recipe: Recipe, reason: ValueError) -> None:
        super().__init__(str(reason))
        self.file: str = ""
        self.line: int = 0
        if recipe[0] in ("format", "value", "read", "write", "replace", "ref", "each"):
            self.file, self.line = recipe[2:4]
        elif recipe[0] == "formatted":
            self.file, self.line = recipe[4:6]


class RouteImage:
    """What is kept of a route: its code and its place."""

    __slots__ = ("code", "interval_s", "is_async", "kind", "name", "slot")

    def __init__(self, kind: int, name: str, interval_s: int, is_async: bool, slot: str, code: CodeType) -> None:
        self.kind = kind
        self.name = name
        self.interval_s = interval_s
        self.is_async = is_async
        self.slot = slot
        self.code = code

    def as_data(self) -> tuple[Any, ...]:
        return (self.kind, self.name, self.interval_s, self.is_async, self.slot, self.code)


class Image:
    """Everything of a compiled script but the objects of one server.

    recipes: how to make what the code names (see `Builder`). message_flags, branch_flags: names in order of mention.
    """

    def __init__(self, routes: list[RouteImage], recipes: dict[str, Recipe], settings: Globals) -> None:
        self.routes = routes
        self.recipes = recipes
        self.settings = settings


class Program:
    """The routes of one script, ready to run on one server."""

    def __init__(self, image: Image, catalogue: Catalogue) -> None:
        self.image: Image = image
        self.globals: Globals = image.settings
        self.flags: FlagNames = catalogue.flags
        self._routes: dict[int, dict[str, RouteCode]] = {kind: {} for kind in kinds.KINDS}
        self._all: list[RouteCode] = []
        environment = Builder(catalogue, self).environment(image.recipes)
        for route in image.routes:
            fn = FunctionType(route.code, environment, route.slot)
            environment[route.slot] = fn
            made = RouteCode(route.kind, route.name, route.is_async, fn, route.interval_s)
            self._all.append(made)
            self._routes[route.kind].setdefault(route.name, made)
        self.main: RouteCode | None = self._routes[kinds.REQUEST].get("")

    def route(self, kind: int, name: str = "") -> RouteCode | None:
        """The route block of a kind and name, "" for the unnamed one; None when there is none."""
        return self._routes[kind].get("" if name == "0" and kind == kinds.REQUEST else name)

    def routes(self, kind: int) -> dict[str, RouteCode]:
        """All route blocks of a kind by name."""
        return self._routes[kind]

    def all_routes(self) -> list[RouteCode]:
        """Every route block in the order of the script."""
        return list(self._all)

    @property
    def timer_routes(self) -> list[tuple[int, RouteCode]]:
        """Each timer_route with its interval in seconds."""
        return [(route.interval_s, route) for route in self._all if route.kind == kinds.TIMER]

    @property
    def event_routes(self) -> list[tuple[str, RouteCode]]:
        """Each event_route with the name of its event."""
        return [(route.name, route) for route in self._all if route.kind == kinds.EVENT]


# -- what the code calls


def as_text(value: Value) -> str | None:
    """A value for a string parameter."""
    return str(value) if isinstance(value, int) else value


def as_int(value: Value) -> int:
    """A value for an int parameter; raises BadArgument when it is no number."""
    if isinstance(value, int):
        return value
    if value is not None:
        try:
            return int(value)
        except ValueError:
            pass
    raise BadArgument(f"a number is needed, not {value!r}" if value is not None else "a number is needed, not NULL")


def as_code(value: Value) -> int:
    """A value as a return code: a text counts as true, NULL as false."""
    if isinstance(value, int):
        return value
    return 1 if value is not None else -1


def bad_argument(run: Run, name: str, error: BadArgument) -> int:
    """The result of a call that was not carried out."""
    runtime.report(run, f"{name}(): {error}")
    return -1


def too_many_rounds(run: Run, limit: int) -> None:
    """A while loop was ended by `max_while_loops`."""
    runtime.report(run, f"the loop was ended after {limit} rounds (max_while_loops)")


def not_evaluated(run: Run, error: runtime.EvaluationError) -> int:
    """A statement was not carried out because an operator met what it cannot take; its result is -1."""
    runtime.report(run, str(error))
    return -1


def failed_assert(run: Run, condition: str, abort: bool) -> bool:
    """An assert() did not hold: the script of this message ends. True when error_route has to run before."""
    runtime.report(run, f"assertion failed: {condition}", runtime.L_CRIT)
    if abort:
        if run.services is not None:
            run.services.abort(f"assertion failed: {condition}")
        raise AssertionError(condition)
    run.exited = True
    run.error_class, run.error_level, run.error_info = ASSERT_ERROR, CRITICAL, "assertion failed"
    run.error_code, run.error_reason = 500, "server error"
    if run.kind == kinds.ERROR or (kinds.ERROR, "") in run.route_stack:
        return False
    run.route_stack.append((kinds.ERROR, ""))
    return True


def call_by_name(run: Run, name: Value) -> RouteCode | None:
    """The route that a variable names; None, and a line in the log, when there is none."""
    program = run.program
    text = runtime.to_text(name)
    route = program.route(kinds.REQUEST, text) if isinstance(program, Program) and name is not None else None
    if route is None:
        runtime.report(run, f"there is no route[{text}]")
    return route


def matches_case(value: Value, case: str | int, folded: str) -> bool:
    """Whether a switch takes a case: numbers by value, texts without regard to ASCII case."""
    if isinstance(case, int):
        return isinstance(value, int) and value == case
    return runtime.equal_text(value, case, folded)


async def within(run: Run, work: Awaitable[int], limit_s: int) -> int:
    """async() with a time limit: the result of the function, -1 when it took too long (it is then given up)."""
    if run.services is None:
        return await work
    try:
        return await run.services.within(work, limit_s)
    except TimeoutError:
        runtime.report(run, f"async(): no result within {limit_s} s")
        return -1


def start_in_background(run: Run, work: Callable[[Run], Coroutine[Any, Any, object]]) -> None:
    """launch(): the work goes on beside the script, on a view of the message of its own."""
    view = run.detached()
    if run.services is not None:
        run.services.spawn(work(view))


HELPERS: Final[dict[str, object]] = {
    "_enter": runtime.enter,
    "_leave": runtime.leave,
    "_text": as_text,
    "_int": as_int,
    "_code": as_code,
    "_bad": bad_argument,
    "_BadArgument": BadArgument,
    "_EvaluationError": runtime.EvaluationError,
    "_not_evaluated": not_evaluated,
    "_rounds": too_many_rounds,
    "_assert": failed_assert,
    "_by_name": call_by_name,
    "_case": matches_case,
    "_launch": start_in_background,
    "_within": within,
    "_compound": runtime.compound,
    "_compare": runtime.compare,
    "_compare_text": runtime.compare_text,
    "_compare_int": runtime.compare_int,
    "_number": int,
    "_type": type,
    "_compare_net": runtime.compare_net,
    "_equal_text": runtime.equal_text,
    "_match": runtime.match,
    "_not_match": runtime.not_match,
    "_match_dynamic": runtime.match_dynamic,
    "_not_match_dynamic": runtime.not_match_dynamic,
    "_xlog": runtime.xlog,
    "_xlog_dynamic": runtime.xlog_dynamic,
    "_report": runtime.report,
    "_trace": runtime.trace,
    "_bit_not": runtime.bit_not,
    "_negate": runtime.negate,
    "_op_add": runtime.add,
    "_op_add_to_port": runtime.add_to_port,
    "_op_add_variable": runtime.add_variable,
    "_op_sub": runtime.subtract,
    "_op_mul": runtime.multiply,
    "_op_div": runtime.quotient,
    "_op_mod": runtime.remainder,
    "_op_and": runtime.bit_and,
    "_op_or": runtime.bit_or,
    "_op_xor": runtime.bit_xor,
    "_op_shl": runtime.shift_left,
    "_op_shr": runtime.shift_right,
}


class Fixup:
    """A parameter's preparation for values that are known only at the call; results are kept."""

    __slots__ = ("_fixup", "_kept")

    def __init__(self, fixup: Callable[[Any], object]) -> None:
        self._fixup = fixup
        self._kept: dict[Value, object] = {}

    def __call__(self, value: Value) -> object:
        try:
            return self._kept[value]
        except KeyError:
            pass
        if value is None:
            raise BadArgument("the value is NULL")
        try:
            made = self._fixup(value)
        except ValueError as error:
            raise BadArgument(str(error)) from None
        if len(self._kept) >= MOST_FIXUPS_KEPT:
            self._kept.clear()
        self._kept[value] = made
        return made


class Builder:
    """Makes the objects that the code of a script names, out of their recipes.

    ("call", name)                function of the catalogue
    ("format", text, file, line)  the text for a run           ("value", ...) the same, NULL for a single NULL variable
    ("read", ...) ("write", ...) ("replace", ...) ("ref", ...) ("each", ...)   of a variable: text, file, line
    ("fixed", function, index, value)   a constant argument, prepared   ("fixup", function, index)  the preparation
    ("formatted", function, index, text, file, line)   an argument that is prepared as a format
    ("pattern", text, lines) ("patterns",)  a regular expression; one for each value, `lines` as in REG_NEWLINE
    ("net", text)                       a network
    """

    def __init__(self, catalogue: Catalogue, program: Program) -> None:
        self._catalogue = catalogue
        self._program = program

    def environment(self, recipes: dict[str, Recipe]) -> dict[str, Any]:
        made: dict[str, Any] = {"__builtins__": {"int": int, "range": range}, **HELPERS}
        for slot, recipe in recipes.items():
            try:
                made[slot] = self.make(recipe)
            except ValueError as error:
                raise BadRecipe(recipe, error) from error
        return made

    def make(self, recipe: Recipe) -> object:
        """The object of one recipe. Raises ValueError (VariableError, ...) when it cannot be made."""
        kind = recipe[0]
        if kind == "call":
            decl = self._catalogue.function(recipe[1])
            if decl is None:
                raise ValueError(f"unknown function {recipe[1]}")
            return decl.call
        if kind in ("format", "value"):
            text: FormatString = parse_format_text(recipe[1], self._catalogue, recipe[2], recipe[3])
            return text if kind == "format" else text.value
        if kind in ("read", "write", "replace", "ref", "each"):
            return self._variable(kind, parse_variable(recipe[1], 0, self._catalogue, recipe[2], recipe[3]))
        if kind in ("fixed", "fixup", "formatted"):
            return self._fixup(recipe)
        if kind == "pattern":
            return Pattern(recipe[1], lines=recipe[2])
        if kind == "patterns":
            return Fixup(lambda text: Pattern(text, lines=True))
        if kind == "net":
            return runtime.parse_network(recipe[1])
        raise ValueError(f"unknown recipe {kind}")

    def _fixup(self, recipe: Recipe) -> object:
        decl = self._catalogue.function(recipe[1])
        params = decl.params if decl is not None else ()
        param = params[recipe[2]] if recipe[2] < len(params) else None
        if param is None or param.fixup is None:
            raise ValueError(f"{recipe[1]} has no such parameter")
        if recipe[0] == "formatted":
            return param.fixup(parse_format_text(recipe[3], self._catalogue, recipe[4], recipe[5]))
        return param.fixup(recipe[3]) if recipe[0] == "fixed" else Fixup(param.at_call or param.fixup)

    def _variable(self, kind: str, spec: VarSpec) -> object:
        if kind == "read":
            return spec.reader()
        if kind == "write":
            return spec.writer()
        if kind == "replace":
            return spec.replacer()
        if kind == "ref":
            reference: VarRef = spec.reference()
            return reference
        return values_of(spec)


def values_of(spec: VarSpec) -> Callable[[Run, int], Iterator[Value]]:
    """The values of a variable one after the other, as for() takes them; read when asked for, at most `limit`."""
    get, name = spec.decl.get, spec.name
    name_format, parse_name, context = spec.name_format, spec.decl.parse_name, spec.context
    if spec.index != INDEX_ALL:

        def nothing(run: Run, limit: int) -> Iterator[Value]:
            runtime.report(run, f"for() needs the index [*], which {spec.text} does not have: skipped")
            return iter(())

        return nothing
    indexed = spec.decl.index

    def each(run: Run, limit: int) -> Iterator[Value]:
        if context:
            other = run.context(context)
            if other is None:
                return
            run = other
        inner: object = name
        if name_format is not None:
            text = name_format.value(run)
            if text is None:
                return
            inner = parse_name(text) if parse_name is not None else text
        for index in range(limit if indexed else 1):
            value = get(run, inner, index if indexed else None)
            if value is None:
                return
            yield value

    return each
