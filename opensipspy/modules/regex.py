"""Perl's regular expressions for scripts, single ones and groups of them from a file.

The `regex` package understands what scripts use of PCRE; \\Q...\\E is rewritten before. Every search has a time limit:
an expression that runs into it does not match.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import regex

from opensipspy.management.registry import Json
from opensipspy.module import (
    MiError,
    Module,
    Param,
    StartError,
    WritableVar,
    mi_command,
    script_function,
    transformation,
)
from opensipspy.script.declare import Catalogue, Value
from opensipspy.script.kinds import ALL, ERROR
from opensipspy.script.pcre import compiled
from opensipspy.script.run import Run, VarRef
from opensipspy.script.varsyntax import parse_variable

SEARCH_SECONDS: Final = 0.1
KEPT: Final = 256
MOST_TEXT: Final = 65_536
SUBST_FLAGS: Final = {"i": regex.IGNORECASE, "s": regex.DOTALL, "m": regex.MULTILINE, "x": regex.VERBOSE}

Piece = str | Callable[[Run, Any], str]
"""A part of a replacement: a text, or what gives it for a message and a match."""


def groups_of(text: str, most: int, largest: int) -> list[str]:
    """The expressions of a groups file, one for each "[number]" section; raises ValueError."""
    groups: list[list[str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line[0] in " \t#":
            continue
        if line[0] == "[":
            if len(groups) == most:
                raise ValueError(f"line {number}: more than max_groups = {most} groups")
            groups.append([])
        elif not groups:
            raise ValueError(f"line {number}: an expression before the first [number]")
        else:
            groups[-1].append(f"({line})")
            if sum(map(len, groups[-1])) + len(groups[-1]) + 1 > largest:
                raise ValueError(f"line {number}: the group is larger than group_max_size = {largest}")
    return ["(" + "|".join(group) + ")" for group in groups]


class Regex(Module):
    """Match with Perl compatible regular expressions."""

    name = "regex"

    file = Param(str, None, "File with groups of expressions; without it there are no groups.")
    max_groups = Param(int, 20, "Most groups in the file.")
    group_max_size = Param(int, 8192, "Largest group in the file.", unit="bytes")
    pcre_caseless = Param(int, 0, "1: matching does not look at the case.")
    pcre_multiline = Param(int, 0, "1: ^ and $ match at the lines of a text, too.")
    pcre_dotall = Param(int, 0, "1: the dot matches the end of a line, too.")
    pcre_extended = Param(int, 0, "1: white space and #comments in expressions do not count.")

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.groups: list[Any] = []
        self.kept: dict[tuple[str, int], Any] = {}
        self.templates: dict[str, list[Piece]] = {}

    @property
    def flags(self) -> int:
        chosen = (
            (self.pcre_caseless, regex.IGNORECASE),
            (self.pcre_multiline, regex.MULTILINE),
            (self.pcre_dotall, regex.DOTALL),
            (self.pcre_extended, regex.VERBOSE),
        )
        return sum(int(flag) for wanted, flag in chosen if wanted)

    async def start(self) -> None:
        if self.file:
            try:
                self.groups = await self._read()
            except (OSError, ValueError) as error:
                raise StartError(f"file {self.file}: {error}") from error

    async def _read(self) -> list[Any]:
        text = await asyncio.to_thread(Path(self.file or "").read_text, "utf-8", "surrogateescape")
        return [compiled(group, self.flags) for group in groups_of(text, self.max_groups, self.group_max_size)]

    def _pattern(self, text: str, flags: int) -> Any:
        key = (text, flags)
        found = self.kept.get(key)
        if found is None:
            found = compiled(text, flags)
            if len(self.kept) >= KEPT:
                del self.kept[next(iter(self.kept))]
            self.kept[key] = found
        return found

    def _search(self, pattern: Any, text: str) -> Any:
        try:
            return pattern.search(text, timeout=SEARCH_SECONDS)
        except TimeoutError:
            self.core.log.warning("regex: no answer of an expression within %s s", SEARCH_SECONDS)
            return None

    @script_function(routes=ALL & ~ERROR)
    def pcre_match(
        self, run: Run, string: str, pcre_regex: str, match: Annotated[VarRef | None, WritableVar()] = None
    ) -> int:
        """True when the text matches; `match` gets the part that does, NULL when none does.

        Returns 1 or -1; -4 when the expression is malformed.
        """
        try:
            found = self._search(self._pattern(pcre_regex, self.flags), string)
        except ValueError as error:
            self.core.log.error("pcre_match: %s", error)
            return -4
        if match is not None:
            match.set(run, None if found is None else found.group())
        return -1 if found is None else 1

    @script_function(routes=ALL & ~ERROR)
    def pcre_match_group(self, run: Run, string: str, group: int = 0) -> int:
        """True when the text matches an expression of that group of the file, counted from 0.

        Returns 1 or -1; -4 when there is no such group.
        """
        if not 0 <= group < len(self.groups):
            return -4
        return -1 if self._search(self.groups[group], string) is None else 1

    @transformation("pcre.subst", params=("string",), with_run=True)
    def pcre_subst(self, run: Run, value: Value, expression: str) -> Value:
        """The text after a substitution /pattern/replacement/flags; flags: i, s, m, x, g (all matches).

        The replacement takes `\\0` to `\\9`, `\\n`, `\\r`, `\\t`, `\\u` (the Request-URI) and variables.
        """
        text = "" if value is None else str(value)
        pattern_text, template, letters = parts_of(expression)
        flags, everywhere = self.flags, False
        for letter in letters:
            if letter == "g":
                everywhere = True
            elif letter in SUBST_FLAGS:
                flags |= int(SUBST_FLAGS[letter])
            else:
                raise ValueError(f"unknown flag {letter!r} of an expression")
        pieces = self._pieces(template)

        def fill(match: Any) -> str:
            return "".join(piece if isinstance(piece, str) else piece(run, match) for piece in pieces)

        try:
            pattern = self._pattern(pattern_text, flags)
            return str(pattern.sub(fill, text, count=0 if everywhere else 1, timeout=SEARCH_SECONDS))[:MOST_TEXT]
        except TimeoutError:
            self.core.log.warning("pcre.subst: no answer of an expression within %s s", SEARCH_SECONDS)
            return text

    def _pieces(self, template: str) -> list[Piece]:
        """What a replacement consists of; kept, as a script has few of them."""
        found = self.templates.get(template)
        if found is None:
            found = list(pieces_of(template, self.core.catalogue))
            if len(self.templates) >= KEPT:
                del self.templates[next(iter(self.templates))]
            self.templates[template] = found
        return found

    @mi_command(
        "regex:match",
        aliases=("regex_match",),
        params=(("string", "pcre_regex"),),
        types={"string": "string", "pcre_regex": "string"},
    )
    def mi_match(self, string: str, pcre_regex: str) -> Json:
        """Match a text with an expression."""
        try:
            found = self._search(compiled(pcre_regex, self.flags), string)
        except ValueError as error:
            raise MiError(400, "Bad expression", str(error)) from error
        return "Not Match" if found is None else "Match"

    @mi_command(
        "regex:match_group",
        aliases=("regex_match_group",),
        params=(("string", "group"),),
        types={"string": "string", "group": "string"},
    )
    def mi_match_group(self, string: str, group: str) -> Json:
        """Match a text with a group of the file."""
        if not (group.isascii() and group.isdigit() and len(group) < 6 and int(group) < len(self.groups)):
            raise MiError(400, "No such group")
        return "Not Match" if self._search(self.groups[int(group)], string) is None else "Match"

    @mi_command("regex:reload", aliases=("regex_reload",))
    async def mi_reload(self) -> Json:
        """Read the file again; the old groups stay when it is faulty."""
        if not self.file:
            raise MiError(400, "No file is set")
        try:
            self.groups = await self._read()
        except (OSError, ValueError) as error:
            raise MiError(500, "The file cannot be read", str(error)) from error
        return "OK"


def parts_of(expression: str) -> tuple[str, str, str]:
    """Pattern, replacement and flags of /pattern/replacement/flags; the first character separates them.

    Raises ValueError. The separator is itself after a backslash.
    """
    mark = expression[:1]
    if not mark or mark.isalnum() or mark in "\\ \t":
        raise ValueError("an expression needs the form /pattern/replacement/flags")
    parts = [part.replace("\\" + mark, mark) for part in regex.split(rf"(?<!\\){regex.escape(mark)}", expression[1:])]
    if len(parts) != 3:
        raise ValueError("an expression needs the form /pattern/replacement/flags")
    return parts[0], parts[1], parts[2].strip()


def pieces_of(template: str, catalogue: Catalogue) -> Iterator[Piece]:
    """The texts of a replacement, and the functions that give the others for a match."""
    at = start = 0
    while at < len(template):
        piece: Piece = ""
        end = at
        if template[at] == "\\" and at + 1 < len(template):
            piece, end = _escaped(template[at + 1]), at + 2
        elif template[at] == "$":
            try:
                spec = parse_variable(template, at, catalogue)
            except ValueError:
                # A dollar sign that starts no variable is one.
                spec = None
            if spec is not None:
                piece, end = _variable(spec.reader()), spec.end
        if end == at:
            at += 1
            continue
        yield template[start:at]
        yield piece
        at = start = end
    yield template[start:]


def _escaped(letter: str) -> Piece:
    if letter.isascii() and letter.isdigit():
        number = int(letter)
        return lambda _, match: str(match[number] or "") if number <= match.re.groups else ""
    if letter == "u":
        return lambda run, _: run.ruri or ""
    return {"n": "\n", "r": "\r", "t": "\t"}.get(letter, letter)


def _variable(read: Callable[[Run], Value]) -> Piece:
    def text(run: Run, _: Any) -> str:
        value = read(run)
        return "" if value is None else str(value)

    return text
