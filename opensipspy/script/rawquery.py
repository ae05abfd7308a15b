"""Queries in a store's own language that know which of their pieces variables brought.

A variable may hold what a stranger sent: the store places such a piece by what the script has written around it, so
that it stays one argument, or within its quotes. A query that is one variable is the script's own work altogether.
"""

from __future__ import annotations

from collections.abc import Callable

from opensipspy.script.run import Run, Value
from opensipspy.script.varsyntax import FormatString, Reader, VarSpec

NULL_TEXT = "<null>"

Piece = tuple[str, bool]
"""A text, and whether a variable brought it."""


class RawQuery(str):
    """The text of a query, and its pieces."""

    __slots__ = ("pieces",)
    pieces: tuple[Piece, ...]

    @classmethod
    def of(cls, pieces: tuple[Piece, ...]) -> RawQuery:
        made = cls("".join([text for text, _ in pieces]))
        made.pieces = pieces
        return made


def raw_query(text: FormatString) -> Callable[[Run], str | None]:
    """The fixup of an argument with a query, for `ParamDecl.takes_format`; NULL is None."""
    if text.constant is not None or text.single is not None:
        return text.value
    readers: list[str | Reader] = [part.reader() if isinstance(part, VarSpec) else part for part in text.parts]

    def made(run: Run) -> str:
        return RawQuery.of(
            tuple((part, False) if isinstance(part, str) else (shown(part(run)), True) for part in readers)
        )

    return made


def shown(value: Value) -> str:
    return NULL_TEXT if value is None else str(value)
