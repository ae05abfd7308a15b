"""What scripts write for sqlops: database URLs with a number, sources, AVP names with a table, schemes, JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from opensipspy.db import Condition, DbValue
from opensipspy.script.declare import Catalogue
from opensipspy.script.run import Run, Value
from opensipspy.script.varsyntax import VarSpec, parse_variable

MAX_JSON: Final = 1024 * 1024
"""Characters of a JSON text that a function takes."""
MAX_MEMBERS: Final = 2000
"""Columns or conditions in one."""

ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)

USER: Final = 1
DOMAIN: Final = 2
PARTS: Final = (("domain", DOMAIN), ("username", USER), ("uri", USER | DOMAIN), ("uuid", 0))
URI_VARIABLES: Final = frozenset({"$ru", "$fu", "$tu", "$ou"})
ALL_NAMES: Final = frozenset("sSiIaA*")
SCHEME_COLUMNS: Final = frozenset({"uuid_col", "username_col", "domain_col", "value_col", "table"})


def whole_variable(text: str, catalogue: Catalogue) -> VarSpec:
    """The variable that the text is; raises ValueError when it is none, or more than one."""
    spec = parse_variable(text, 0, catalogue)
    if spec.end != len(text):
        raise ValueError(f"{text} is more than one variable")
    return spec


def variable_list(text: str, catalogue: Catalogue) -> list[VarSpec]:
    """ "$var(a); $avp(b)", with semicolons, commas or only white space between; raises ValueError."""
    found: list[VarSpec] = []
    at = 0
    while True:
        while at < len(text) and text[at] in " \t\r\n;,":
            at += 1
        if at == len(text):
            return found
        if text[at] != "$":
            raise ValueError(f"a variable is expected at {text[at:]!r}")
        spec = parse_variable(text, at, catalogue)
        if not spec.writable:
            raise ValueError(f"{spec.text} cannot be written")
        found.append(spec)
        at = spec.end


def plain_targets(text: str, catalogue: Catalogue, names: tuple[str, ...]) -> list[VarSpec]:
    """The list in a variable's value: variables of these names, with nothing in them to expand. Raises ValueError."""
    found = variable_list(text, catalogue)
    for spec in found:
        if spec.decl.name not in names or spec.name_format is not None or isinstance(spec.index, VarSpec):
            raise ValueError(f"a list of {' and '.join(names)} with constant names is needed")
    return found


def plain_name(name: Name) -> Name:
    """A name that a variable's value gave; raises ValueError when there is something in it to expand."""
    if not name.constant:
        raise ValueError("the name of an AVP has variables in it")
    return name


def numbered_url(text: str) -> tuple[int, str]:
    """ "1 postgres://..." or "postgres://...", which is number 0. Raises ValueError."""
    text = text.strip()
    number, _, url = text.partition(" ")
    if not text[:1].isdigit():
        number, url = "0", text
    if not (number.isascii() and number.isdigit()) or len(number) > 9 or not url.strip():
        raise ValueError('takes a URL, or a number and a URL: "1 mysql://..."')
    return int(number), url.strip()


class Source:
    """Whose AVPs: `$fu/username`. parts: 0 for the UUID column, else USER and DOMAIN of a URI.

    Without a catalogue the text is what a variable holds: it names nothing, whatever it begins with.
    """

    __slots__ = ("_read", "parts", "text")

    def __init__(self, text: str, catalogue: Catalogue | None) -> None:
        value, slash, part = text.rpartition("/") if _has_part(text) else (text, "", "")
        self.text = text if catalogue is not None else "the source"
        self.parts = dict(PARTS)[part.lower()] if slash else 0
        if catalogue is not None and value.startswith("$"):
            spec = whole_variable(value, catalogue)
            if not slash and spec.decl.name in URI_VARIABLES and not spec.transformations:
                self.parts = USER | DOMAIN
            self._read = spec.reader()
        else:
            if not value:
                raise ValueError("a source is missing")
            self._read = lambda run: value

    def value(self, run: Run) -> Value:
        return self._read(run)


def _has_part(text: str) -> bool:
    """Whether the text ends in a part of a source. A variable may hold slashes itself, a constant may not."""
    _, slash, part = text.rpartition("/")
    if not slash:
        return False
    if part.lower() in dict(PARTS):
        return True
    if not text.startswith("$") or not text.endswith((")", "}")):
        raise ValueError(f"{'/' + part!r} is none of {', '.join('/' + name for name, _ in PARTS)}")
    return False


class Scheme:
    """A table of another shape. Columns that are not named are the module's own."""

    __slots__ = ("columns", "integers", "name")

    def __init__(self, text: str) -> None:
        name, colon, rest = text.partition(":")
        self.name = name.strip()
        self.columns: dict[str, str] = {}
        self.integers = False
        if not colon or not self.name or not rest.strip():
            raise ValueError("takes name:element=value;element=value...")
        typed = False
        for item in rest.split(";"):
            if not item.strip():
                continue
            key, equals, value = (part.strip() for part in item.partition("="))
            key = key.lower()
            if not equals or not value:
                raise ValueError(f"{item.strip()!r} is not of the form element=value")
            if key == "value_type":
                if value.lower() not in ("integer", "string") or typed:
                    raise ValueError("value_type is given once, as integer or string")
                typed, self.integers = True, value.lower() == "integer"
            elif key not in SCHEME_COLUMNS:
                raise ValueError(f"{key} is none of {', '.join(sorted(SCHEME_COLUMNS))}, value_type")
            elif key in self.columns:
                raise ValueError(f"{key} is given twice")
            else:
                self.columns[key] = value


class Name:
    """Which AVPs, and where: `$avp(x)`, `$avp(x)/table`, `$avp(x)/$scheme`, `*/table`.

    every: all names. table: "" for usr_table.
    """

    __slots__ = ("_constant", "_format", "every", "scheme", "table")

    def __init__(self, text: str, catalogue: Catalogue, schemes: dict[str, Scheme] | None) -> None:
        """schemes: by name in lower case; None where a function takes none."""
        self.scheme: Scheme | None = None
        self._constant: str = ""
        self._format = None
        rest = text
        if text.startswith("$"):
            spec = parse_variable(text, 0, catalogue)
            if spec.decl.name != "$avp" or spec.transformations or spec.index is not None:
                raise ValueError(f"{spec.text} is not of the form $avp(name)")
            self.every = False
            self._constant = spec.constant_name or ""
            self._format = spec.name_format
            rest = text[spec.end :]
        else:
            flag, slash, table = text.partition("/")
            rest = slash + table
            self.every = True
            if flag[:1] not in ALL_NAMES or not flag or (flag[1:] and not flag[1:].isdigit()):
                raise ValueError(f"{flag!r} is neither $avp(name) nor *, s or i")
        if rest and (not rest.startswith("/") or len(rest.removeprefix("/").removeprefix("$")) == 0):
            raise ValueError(f"{rest!r} is not of the form /table")
        self.table = rest.removeprefix("/")
        if self.table.startswith("$"):
            if schemes is None:
                raise ValueError("a scheme cannot be used here")
            if self.every:
                raise ValueError("a scheme needs the name of an AVP")
            self.scheme = schemes.get(self.table[1:].lower())
            if self.scheme is None:
                raise ValueError(f"there is no scheme {self.table[1:]}")

    @property
    def constant(self) -> bool:
        """Whether there is no variable in it."""
        return self._format is None

    def attribute(self, run: Run) -> str:
        """The AVP's name, "" when there is none (all names, or a name whose variables are empty)."""
        if self._format is None:
            return self._constant
        single = self._format.single
        value = single.reader()(run) if single is not None else self._format(run)
        return "" if value is None else str(value)


# --- JSON


def columns_of(text: str) -> list[str]:
    """Of '["a","b"]'; raises ValueError."""
    members = _array(text, "columns")
    if not all(isinstance(member, str) and member for member in members):
        raise ValueError("columns are an array of names")
    return members


def row_of(text: str) -> dict[str, DbValue]:
    """Of '[{"a":1},{"b":"x"}]'; raises ValueError."""
    row: dict[str, DbValue] = {}
    for member in _objects(text, "columns"):
        for column, value in member.items():
            if isinstance(value, dict):
                if list(value) != ["="]:
                    raise ValueError(f"column {column} takes a value, or an object with the operator =")
                value = value["="]
            row[column] = _value(column, value)
    if not row:
        raise ValueError("columns are missing")
    return row


def filter_of(text: str | None) -> list[Condition]:
    """Of '[{"a":"x"},{"b":{"!=":null}}]'; None is no condition. Raises ValueError."""
    if text is None:
        return []
    if not text.strip():
        # A variable that happens to be empty must not mean every row.
        raise ValueError("a filter is empty; leave it out to mean every row")
    found: list[Condition] = []
    for member in _objects(text, "a filter"):
        for column, value in member.items():
            if isinstance(value, dict):
                if not value:
                    raise ValueError(f"column {column} has no operator")
                found += [(column, operator.strip().lower(), _value(column, one)) for operator, one in value.items()]
            else:
                found.append((column, "=", _value(column, value)))
    return found


def _objects(text: str, what: str) -> Sequence[dict[str, Any]]:
    members = _array(text, what)
    if not all(isinstance(member, dict) and member for member in members):
        raise ValueError(f"{what} is an array of objects")
    return members


def _array(text: str, what: str) -> list[Any]:
    if len(text) > MAX_JSON:
        raise ValueError(f"{what}: more than {MAX_JSON} characters of JSON")
    if "\\'" in text:
        # {s.escape.common} makes it of a ' where JSON knows no such escape; the C server's reader takes it.
        text = ESCAPE.sub(lambda escape: escape[1] if escape[1] == "'" else escape[0], text)
    try:
        members = json.loads(text, parse_constant=_no_constant, strict=False)
    except json.JSONDecodeError as error:
        raise ValueError(f"{what}: no JSON ({error.msg} at character {error.pos + 1})") from None
    except RecursionError:
        raise ValueError(f"{what}: the JSON is too deep") from None
    if not isinstance(members, list):
        raise ValueError(f"{what}: a JSON array is needed")
    if len(members) > MAX_MEMBERS:
        raise ValueError(f"{what}: more than {MAX_MEMBERS} members")
    return members


def _value(column: str, value: Any) -> DbValue:
    if value is None or (isinstance(value, str | int | float) and not isinstance(value, bool)):
        return value
    raise ValueError(f"column {column}: a string, a number or null is needed")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")
