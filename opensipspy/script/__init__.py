"""The routing script language: text to bytecode, and the run time of a route.

    script = parse_script("opensips.cfg")          # tree, modules, global parameters; ScriptErrors with all of them
    findings = check(script, catalogue)            # names, types, route kinds
    program = compile_script(script, catalogue)    # routes as functions

The parser and the checker are loaded when they are first used: a start with a kept program needs neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from opensipspy.script.errors import ERROR, NOTE, WARNING, Finding, Pos, ScriptErrors, has_errors, in_order, render

if TYPE_CHECKING:
    from opensipspy.script.cache import CachedScript, ProgramCache
    from opensipspy.script.checker import check
    from opensipspy.script.compile import compile_script
    from opensipspy.script.globals import Globals
    from opensipspy.script.parse import Script, parse_script
    from opensipspy.script.program import Program, RouteCode

__all__ = [
    "ERROR",
    "NOTE",
    "WARNING",
    "CachedScript",
    "Finding",
    "Globals",
    "Pos",
    "Program",
    "ProgramCache",
    "RouteCode",
    "Script",
    "ScriptErrors",
    "check",
    "compile_script",
    "has_errors",
    "in_order",
    "parse_script",
    "render",
]

_HOMES: Final = {
    "CachedScript": "cache",
    "Globals": "globals",
    "Program": "program",
    "ProgramCache": "cache",
    "RouteCode": "program",
    "Script": "parse",
    "check": "checker",
    "compile_script": "compile",
    "parse_script": "parse",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"{__name__}.{home}"), name)
