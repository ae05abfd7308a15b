"""`opensipspy disasm`: the bytecode of a script's routes beside the lines that it comes from."""

from __future__ import annotations

import argparse
import dis
import sys
from collections.abc import Callable, Iterator, Sequence
from types import CodeType
from typing import Any, Final

from opensipspy.script import kinds
from opensipspy.script.program import RouteCode
from opensipspy.server.errors import LoadError
from opensipspy.server.load import load
from opensipspy.server.options import Options

SUMMARY: Final = "show the bytecode of a script's routes beside its source"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("script", metavar="FILE", help="routing script, - for standard input")
    parser.add_argument(
        "route", nargs="?", help='a route: relay, route[relay], failure_route[x], or "" for the main one'
    )
    parser.add_argument("-p", dest="preprocessor", metavar="COMMAND", default="", help="preprocess the script, e.g. m4")


def run(args: argparse.Namespace) -> int:
    options = Options()
    options.script, options.preprocessor, options.check_only = args.script, args.preprocessor, 1
    try:
        loaded = load(options)
    except LoadError as error:
        print(error, file=sys.stderr)
        return 1
    routes = loaded.program.all_routes()
    chosen = [route for route in routes if args.route is None or args.route in (route.name, shown_name(route))]
    if not chosen:
        names = ", ".join(shown_name(route) for route in routes)
        print(f"opensipspy disasm: there is no route {args.route!r}; the script has {names}", file=sys.stderr)
        return 1
    recipes = {slot: _recipe(recipe) for slot, recipe in loaded.program.image.recipes.items()}
    recipes |= {route.slot: f"route[{route.name}]" for route in loaded.program.image.routes}
    for route in chosen:
        print("\n".join(listing(route, loaded.script.file_lines, recipes)))
    return 0


def shown_name(route: RouteCode) -> str:
    """A route as the script writes it."""
    keyword = kinds.kind_keyword(route.kind)
    return f"{keyword}[{route.name}]" if route.name else keyword


def listing(route: RouteCode, source: Callable[[str], Sequence[str]], recipes: dict[str, str]) -> Iterator[str]:
    """The lines for one route. recipes: what the names of the code stand for."""
    colour = "a coroutine: it may wait" if route.is_async else "a plain function"
    yield f"{shown_name(route)}: {colour}, {len(route.code.co_code)} bytes of code"
    lines = source(route.code.co_filename)
    for code in (route.code, *_inner(route.code)):
        if code is not route.code:
            yield "  begun by launch():"
        last = 0
        for step in dis.get_instructions(code):
            line = step.positions.lineno if step.positions is not None else None
            if line is not None and line != last:
                last = line
                text = lines[line - 1].strip() if 0 < line <= len(lines) else ""
                yield f"{line:6}  {text}"
            note = step.argrepr
            meaning = recipes.get(step.argval) if isinstance(step.argval, str) else None
            yield f"{'':8}{step.offset:6} {step.opname:24} {note}" + (f"   # {meaning}" if meaning else "")
    yield ""


def _inner(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _inner(constant)


def _recipe(recipe: tuple[Any, ...]) -> str:
    kind, *rest = recipe
    if kind in ("fixed", "fixup", "formatted"):
        return f"{kind} " + " ".join(map(str, rest))
    return f"{kind} {rest[0]!r}" if rest else str(kind)
