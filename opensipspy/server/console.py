"""Expressions of the script language read at run time: what a debugger's user types, and the conditions of breakpoints.

An expression is a variable (`$ru`), a text with variables in quotes (`"$fU at $si"`), a condition (`$rU == "bob" &&
is_method("INVITE")`) or statements (`$var(x) = 1;`). They mean what they mean in a route of the script.
"""

from __future__ import annotations

import inspect
from typing import Any, Final

from opensipspy import script as language
from opensipspy.script.declare import Catalogue
from opensipspy.script.errors import ERROR, ScriptErrors
from opensipspy.script.run import Run, Value
from opensipspy.script.varsyntax import VariableError, VarSpec, parse_format_text, parse_variable

FILE: Final = "<console>"
LONGEST: Final = 4096
CONDITION: Final = "route {{\nif ({}) {{ return(1); }}\nreturn(-1);\n}}\n"
STATEMENTS: Final = "route {{ {}\nreturn(1);\n}}\n"


class ExpressionError(ValueError):
    """The text is no expression; says why."""


class Expression:
    """One expression, ready to be read for any run. `result` is a value; conditions give True or False."""

    def __init__(self, text: str, catalogue: Catalogue, *, harmless: bool = False) -> None:
        """harmless: take variables only, which have no effect. Raises ExpressionError."""
        # In one line, so that it holds no include_file.
        self.text = " ".join(text.split("\n")).strip()
        self._catalogue = catalogue
        self._read: Any = None
        self._route: Any = None
        self._condition = False
        if not self.text or len(self.text) > LONGEST:
            raise ExpressionError("an expression has 1 to 4096 characters")
        if not self._as_value() and not harmless:
            self._as_script()
        elif self._read is None:
            raise ExpressionError(f"{self.text!r} is no variable")

    def _as_value(self) -> bool:
        text = self.text
        try:
            if text.startswith("$"):
                spec = parse_variable(text, 0, self._catalogue, FILE, 1)
                if spec.end == len(text):
                    self._read = spec.reader()
            elif len(text) > 1 and text[0] == text[-1] == '"' and '"' not in text[1:-1]:
                self._read = parse_format_text(text[1:-1], self._catalogue, FILE, 1).value
        except VariableError as error:
            raise ExpressionError(error.message) from error
        except ValueError as error:
            raise ExpressionError(str(error)) from error
        return self._read is not None

    def _as_script(self) -> None:
        try:
            self._route = self._compiled(CONDITION.format(self.text))
            self._condition = True
        except ExpressionError as error:
            try:
                self._route = self._compiled(STATEMENTS.format(self.text.rstrip(";") + ";"))
            except ExpressionError:
                raise error from None

    def _compiled(self, text: str) -> Any:
        # Names of flags that a mistake mentions are forgotten again.
        kept = self._catalogue.flags.snapshot()
        try:
            script = language.parse_script(FILE, "", text)
            if len(script.blocks) != 1:
                raise ExpressionError("unexpected '}'")
            findings = language.check(script, self._catalogue)
            wrong = [finding for finding in findings if finding.severity == ERROR]
            if wrong:
                raise ScriptErrors(wrong, script.file_lines)
            return language.compile_script(script, self._catalogue).main
        except ScriptErrors as errors:
            self._catalogue.flags.restore(kept)
            first = next(finding for finding in errors.findings if finding.severity == ERROR)
            hint = f" ({first.hint})" if first.hint else ""
            raise ExpressionError(first.message + hint) from errors

    async def result(self, run: Run) -> Value | bool:
        """The value for a run. An `exit` in it does not end the run."""
        if self._read is not None:
            value: Value = self._read(run)
            return value
        exited, dropped = run.exited, run.dropped
        try:
            code = self._route.fn(run)
            if inspect.isawaitable(code):
                code = await code
        finally:
            run.exited, run.dropped = exited, dropped
        return code > 0 if self._condition else int(code)


def variable(text: str, catalogue: Catalogue) -> VarSpec:
    """A variable by its text. Raises ExpressionError."""
    try:
        spec = parse_variable(text, 0, catalogue, FILE, 1)
    except ValueError as error:
        raise ExpressionError(str(error)) from error
    if spec.end != len(text):
        raise ExpressionError(f"{text!r} is no variable")
    return spec


def shown(value: object) -> str:
    """A value as a debugger shows it."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return '"' + str(value).replace("\r", "\\r").replace("\n", "\\n") + '"'
