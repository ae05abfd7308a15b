"""The JSON of sqlops' functions with variables in it: what a variable holds cannot change what the script says.

`'[{"username": "$tU"}, {"age": {">": $var(n)}}]'`: a variable within a string of the JSON is text of that string. One
outside is JSON itself: at the place of a value or a key a number, a string in quotes or null, else whole members
(`[$var(conditions)]`). An argument that is one variable is the whole JSON.
"""

from __future__ import annotations

import json
from typing import Final

from opensipspy.script.formats import FormatString, VarSpec
from opensipspy.script.run import Run, Value
from opensipspy.script.transformations import s_unescape_common
from opensipspy.script.varsyntax import Reader

WITHIN: Final = 1
"""In a string."""
SCALAR: Final = 2
"""Where a value or a key stands."""
MEMBERS: Final = 3
"""Where members of an array or object stand."""

NULL_TEXT: Final = "<null>"
ESCAPED: Final = "s.escape.common"


class Json:
    """What an argument with JSON is at a call: its text, or what is wrong with it."""

    __slots__ = ("_text", "_wrong")

    def __init__(self, text: str, wrong: str = "") -> None:
        self._text = text
        self._wrong = wrong

    def __str__(self) -> str:
        return self._text

    def text(self) -> str:
        """The JSON. Raises ValueError when a variable holds what cannot stand in its place."""
        if self._wrong:
            raise ValueError(self._wrong)
        return self._text


class JsonText:
    """An argument with JSON, parsed at load."""

    __slots__ = ("_format", "_parts")

    def __init__(self, text: FormatString) -> None:
        self._format = text
        self._parts: list[tuple[str, Reader | None, int, str]] = []
        inside, valued = False, False
        for index, part in enumerate(text.parts):
            if not isinstance(part, VarSpec):
                inside, valued, open_escape = place_behind(part, inside, valued)
                self._parts.append((part + "\\" * open_escape, None, 0, ""))
                continue
            follows = "".join(other if isinstance(other, str) else "$" for other in text.parts[index + 1 :]).lstrip()
            place = WITHIN if inside else SCALAR if valued or follows.startswith(":") else MEMBERS
            self._parts.append((part.text, escaped_reader(part) if inside else part.reader(), place, part.text))

    def __call__(self, run: Run) -> Json:
        try:
            return Json(self._value(run))
        except ValueError as error:
            return Json("", str(error))

    def _value(self, run: Run) -> str:
        if self._format.constant is not None:
            return self._format.constant
        if self._format.single is not None:
            whole = self._format.value(run)
            if whole is None:
                raise ValueError(
                    f"{self._format.single.text} is NULL; leave the argument out to mean every row or column"
                )
            return whole
        return "".join(
            text if read is None else placed(read(run), place, name) for text, read, place, name in self._parts
        )


def escaped_reader(spec: VarSpec) -> Reader:
    """How a variable within a string is read. The manual asks for {s.escape.common} there, which JSON of the C server
    takes away again: it is done without, as the value is escaped here."""
    read = spec.reader()
    if not is_escaped(spec):
        return read

    def plain(run: Run) -> Value:
        value = read(run)
        return None if value is None else s_unescape_common(value, [])

    return plain


def is_escaped(spec: VarSpec) -> bool:
    """Whether {s.escape.common} is the last that is done to a variable."""
    calls = spec.transformations
    return bool(calls) and f"{calls[-1].decl.cls}.{calls[-1].decl.name}" == ESCAPED


def place_behind(text: str, inside: bool, valued: bool) -> tuple[bool, bool, bool]:
    """Where JSON is behind a text: whether within a string, behind the colon of a member, and behind a lone backslash
    (which would undo the first escape of what follows)."""
    at = 0
    while at < len(text):
        letter = text[at]
        if letter == '"':
            inside = not inside
        elif inside:
            at += letter == "\\"
        elif letter == ":":
            valued = True
        elif letter in ",{}[]":
            valued = False
        at += 1
    return inside, valued, at > len(text)


def placed(value: Value, place: int, name: str) -> str:
    """What a variable brings into the JSON; raises ValueError."""
    if place == WITHIN:
        return json.dumps(NULL_TEXT if value is None else str(value), ensure_ascii=False)[1:-1]
    if value is None:
        raise ValueError(f"{name} is NULL, which no JSON can be made of")
    if isinstance(value, int):
        return str(value)
    if place == SCALAR:
        if not is_scalar(value):
            raise ValueError(f"{name} is outside quotes and neither a number, a JSON string nor null")
    elif not is_balanced(value):
        raise ValueError(f"{name} is outside quotes and no JSON")
    return value


def is_scalar(text: str) -> bool:
    """Whether a text is one JSON value that is no array and no object."""
    try:
        return not isinstance(json.loads(text), list | dict)
    except (ValueError, RecursionError):
        return False


def is_balanced(text: str) -> bool:
    """Whether all strings, arrays and objects that a text opens end in it, and no others."""
    opened: list[str] = []
    at = 0
    inside = False
    while at < len(text):
        letter = text[at]
        if letter == '"':
            inside = not inside
        elif inside:
            at += letter == "\\"
        elif letter in "{[":
            opened.append("}" if letter == "{" else "]")
        elif letter in "}]" and (not opened or opened.pop() != letter):
            return False
        at += 1
    return not inside and not opened
