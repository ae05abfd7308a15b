"""What of a server's words may be shown: a refused value may be a password, and servers like to repeat values.

The texts of the servers' errors are known by their patterns. The names that they tell (tables, columns, keys) are
kept, the values left out; of a text that no pattern fits, nothing is shown, and drivers name the error by its number.
"""

from __future__ import annotations

import re
import sqlite3
from typing import Final

MOST_WORDS: Final = 500
"""Characters of a server's error."""

_NAME: Final = r"[\w$#.\-]{1,200}"
_QUOTED: Final = rf"[`'\"]{_NAME}[`'\"](?:\.[`'\"]{_NAME}[`'\"]){{0,2}}"
_ANY: Final = rf"(?:{_QUOTED}|{_NAME})"

# What ODBC puts before the server's words, and behind them.
_BEFORE: Final = re.compile(r"(?:\[[^\]]{0,100}\]\s*)*(?:ERROR:\s*)?")
_BEHIND: Final = r"(?:;? ?\(\d{1,9}\))*(?: ?\(\w+\))?"

# Texts that begin so; what follows may hold values.
_BEGINNINGS: Final = re.compile(
    "|".join(
        (
            # PostgreSQL
            rf'duplicate key value violates unique constraint "{_NAME}"',
            rf'conflicting key value violates exclusion constraint "{_NAME}"',
            rf'null value in column "{_NAME}"(?: of relation "{_NAME}")? violates not-null constraint',
            rf'new row for relation "{_NAME}" violates check constraint "{_NAME}"',
            rf'(?:insert or update|update or delete) on table "{_NAME}" violates foreign key constraint "{_NAME}"',
            rf'column "{_NAME}" is of type [\w ]+ but expression is of type [\w ]+',
            rf'column "{_NAME}" of relation "{_NAME}" does not exist',
            rf"column {_ANY} does not exist",
            rf'relation "{_NAME}" does not exist',
            rf"permission denied for [a-z ]+ {_NAME}",
            r"value too long for type [a-z ]+\(\d+\)",
            r"(?:integer|smallint|bigint|numeric field|value) (?:out of range|overflow)",
            r"invalid input syntax for (?:type )?[a-z ]+(?=:|$)",
            r"syntax error(?= at |$)",
            r'(?:invalid byte sequence for encoding|character with byte sequence [0-9a-fx ]{1,40} in encoding) "\w+"',
            # SQLite
            rf"(?:UNIQUE|NOT NULL) constraint failed: {_NAME}(?:, {_NAME})*",
            r"CHECK constraint failed: [\w$#. \-]{1,200}",
            r"FOREIGN KEY constraint failed",
            rf"table {_NAME} (?:has no column named {_NAME}|already exists|has \d+ columns but \d+ values)",
            rf"{_NAME}: cannot open shared object file",
            # MySQL and MariaDB
            r"You have an error in your SQL syntax",
            rf"Table {_QUOTED} doesn't exist",
            rf"The table {_QUOTED} is full",
            rf"Field {_QUOTED} doesn't have a default value",
            rf"CONSTRAINT {_QUOTED} failed for {_QUOTED}",
            # Oracle
            rf"ORA-\d+: (?:unique|check|integrity) constraint \({_NAME}\) violated",
            rf"ORA-01400: cannot insert NULL into \({_QUOTED}\)",
            rf"ORA-00942: table or view (?:{_QUOTED} )?does not exist",
            rf"ORA-00904: {_QUOTED}: invalid identifier",
            rf"ORA-12899: value too large for column {_QUOTED} \(actual: \d+, maximum: \d+\)",
        )
    )
)

# Whole texts, and what is told of them. A value may hold anything, the beginnings of other texts too: what stands
# behind a value is looked for at the end of the text.
_WHOLE: Final = tuple(
    (re.compile(pattern + _BEHIND, re.DOTALL), shown)
    for pattern, shown in (
        (rf"Duplicate entry '.*' for key ({_QUOTED})", r"Duplicate entry for key \1"),
        (rf"Incorrect ([\w ]+) value: '.*' for column ({_QUOTED}) at row (\d+)", r"Incorrect \1 value for column \2"),
        (r"Truncated incorrect (\w+) value: '.*'", r"Truncated incorrect \1 value"),
        (r"Incorrect (\w+) value: '.*'", r"Incorrect \1 value"),
        (
            rf"((?:Data too long|Out of range value|Data truncated) for column {_QUOTED}) at row \d+",
            r"\1",
        ),
        (rf"(Column {_QUOTED} cannot be null)", r"\1"),
        (rf"(Unknown column {_QUOTED} in '[\w ]+')", r"\1"),
        (rf"(no such (?:table|column|function): {_NAME})", r"\1"),
        (r'(?:near ".*": |)(syntax error)', r"\1"),
        (r'(unrecognized token): ".*', r"\1"),
        (r"(incomplete input)", r"\1"),
        (r"(datatype mismatch)", r"\1"),
    )
)


def one_line(text: object) -> str:
    """Words without the control characters that would make further lines of a log."""
    return " ".join(str(text).split())[:MOST_WORDS]


def without_values(text: object) -> str:
    """What a server says, without the values in it; "" for a text that is not known."""
    words = " ".join(str(text).split())
    words = words[match.end() :] if (match := _BEFORE.match(words)) else words
    for pattern, shown in _WHOLE:
        if found := pattern.fullmatch(words):
            return found.expand(shown)[:MOST_WORDS]
    found = _BEGINNINGS.match(words)
    return found[0][:MOST_WORDS] if found else ""


def sqlite_words(error: Exception) -> str:
    """What may be shown of an error of SQLite. The words of two kinds may come from a statement."""
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(code, int) and code & 0xFF in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT):
        return without_values(error) or str(getattr(error, "sqlite_errorname", type(error).__name__))
    return type(error).__name__ if isinstance(error, ValueError) else one_line(error)
