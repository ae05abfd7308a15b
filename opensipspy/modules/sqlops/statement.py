"""The raw statements of sqlops with variables in them: a value within quotes cannot end them.

`"SELECT ha1 FROM subscriber WHERE username='$tU'"`: what a caller sends stays in the quotes, by the rules of the
database that is asked. {s.escape.common}, which the manual asks for, writes escapes of MySQL; in PostgreSQL and SQLite
a quote ends a text all the same. So it is undone within quotes, and the value escaped for the database. A value outside
of quotes, and a statement that is one variable, are the script's own. One that has the database's escapes already is
taken as it is.
"""

from __future__ import annotations

import re
from typing import Final

from opensipspy.modules.sqlops.jsontext import NULL_TEXT, escaped_reader, is_escaped
from opensipspy.script.formats import FormatString, VarSpec
from opensipspy.script.run import Run, Value
from opensipspy.script.varsyntax import Reader

QUOTES: Final = "'\"`"
LINE_COMMENT: Final = "--"
COMMENT: Final = "/*"
PREFIX: Final = re.compile(r"(?:^|\W)(?:E|U&)$", re.IGNORECASE)
"""Before a quote it makes a backslash special in PostgreSQL: E'...', U&'...'."""

State = tuple[str, bool]
"""The quote or comment that is open, "" for none, and whether a backslash is special in it."""


class Query:
    """A statement at a call: its variables are read, its text depends on the database."""

    __slots__ = ("_statement", "_values")

    def __init__(self, statement: StatementText, values: list[Value]) -> None:
        self._statement = statement
        self._values = values

    def __str__(self) -> str:
        return self.text(False)

    def text(self, backslashes: bool | None) -> str:
        """For a database where a backslash in quotes is an escape, is none, or where that is not known (None)."""
        return self._statement.filled(self._values, backslashes)


class StatementText:
    """An argument with a statement, parsed at load."""

    __slots__ = ("_constant", "_exact", "_parts", "_readers", "_states", "_whole")

    def __init__(self, text: FormatString) -> None:
        self._constant = text.constant
        self._whole = text.single is not None
        self._parts: tuple[str | None, ...] = tuple(part if isinstance(part, str) else None for part in text.parts)
        plain, special = states(text, False), states(text, True)
        self._states: tuple[list[State], list[State]] = (plain, special)
        variables = text.variables()
        # What was escaped in the place itself is known without its escapes: they are made anew.
        self._exact = [
            is_escaped(spec) and one[0] != "" and other[0] != ""
            for spec, one, other in zip(variables, plain, special, strict=True)
        ]
        self._readers: list[Reader] = [
            escaped_reader(spec) if exact else spec.reader() for spec, exact in zip(variables, self._exact, strict=True)
        ]

    def __call__(self, run: Run) -> Query:
        return Query(self, [read(run) for read in self._readers])

    def filled(self, values: list[Value], backslashes: bool | None) -> str:
        """The statement with the values in their places."""
        if self._constant is not None:
            return self._constant
        if self._whole:
            return "" if values[0] is None else str(values[0])
        unknown = backslashes is None
        opened = self._states[0 if backslashes is False else 1]
        out: list[str] = []
        number = 0
        for part in self._parts:
            if part is None:
                value = values[number]
                text = NULL_TEXT if value is None else str(value)
                out.append(within(text, opened[number], unknown, self._exact[number]))
                number += 1
            else:
                out.append(part)
        return "".join(out)


def states(text: FormatString, backslashes: bool) -> list[State]:
    """What is open where each variable stands."""
    found: list[State] = []
    state: State = ("", False)
    for part in text.parts:
        if isinstance(part, VarSpec):
            found.append(state)
        else:
            state = state_behind(part, state, backslashes)
    return found


def state_behind(text: str, state: State, backslashes: bool) -> State:
    """What is open behind a part of a statement."""
    opened, special = state
    at = 0
    while at < len(text):
        letter = text[at]
        if opened == LINE_COMMENT:
            if letter == "\n":
                opened = ""
        elif opened == COMMENT:
            if text.startswith("*/", at):
                opened = ""
                at += 1
        elif opened:
            if letter == opened:
                opened = ""
            elif letter == "\\" and special:
                at += 1
        elif letter in QUOTES:
            opened = letter
            special = letter != "`" and (backslashes or PREFIX.search(text[max(0, at - 3) : at]) is not None)
        elif text.startswith((LINE_COMMENT, COMMENT), at):
            opened = text[at : at + 2]
            at += 1
        at += 1
    return opened, special


def within(value: str, state: State, unknown: bool, exact: bool) -> str:
    """A value in its place: it does not end what is open there. exact: it has no escapes of its own."""
    opened, special = state
    if not opened:
        return value
    if opened == LINE_COMMENT:
        return value.replace("\n", " ").replace("\r", " ")
    if opened == COMMENT:
        return value.replace("*/", "* /")
    if not exact and stays(value, opened, special) and (not unknown or stays(value, opened, False)):
        return value
    if special:
        value = value.replace("\\", "\\\\")
    return value.replace(opened, opened * 2)


def stays(value: str, quote: str, special: bool) -> bool:
    """Whether a value does not end the quotes it stands in, as it is."""
    at = 0
    while at < len(value):
        letter = value[at]
        if letter == "\\" and special:
            at += 1
            if at == len(value):
                return False
        elif letter == quote:
            at += 1
            if value[at : at + 1] != quote:
                return False
        at += 1
    return True
