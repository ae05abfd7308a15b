"""POSIX extended regular expressions, as scripts write them, on the `regex` package with a limit on matching time.

What differs from Python's dialect is rewritten: bracket expressions (`[[:alpha:]]`, `[]a]`, a backslash that is plain),
`{` where no repetition can be meant, and the meaning of `^` and `$`. With `lines` (REG_NEWLINE) those match at the ends
of lines too, and neither `.` nor `[^...]` matches a line feed; without, the text is one piece.
GNU's `\\w \\W \\s \\S \\b \\B \\< \\> \\' \\`` keep their meaning there.
"""

from __future__ import annotations

import re
from typing import Any, Final

import regex

# A search that needs longer than this is given up: a script must not hang on what a peer sent.
MATCH_SECONDS: Final = 0.25
# Anchors, escaped marks, plain characters, any character, plain sets, groups, alternatives and repetition.
_READ_ALIKE: Final = re.compile(
    r"(?:\\[AZ]|\\[^\w\s]|[A-Za-z0-9 _@:;=,!%<>/-]|\(\?s:\.\)|\[\^?(?:[A-Za-z0-9_@+.-]|\\[^\w\s])+\]"
    r"|\((?!\?)|[?*+|)]|\{\d+(?:,\d*)?\})*"
)
MAX_PATTERN: Final = 8192

_CLASSES: Final = {
    "alpha": "a-zA-Z",
    "digit": "0-9",
    "alnum": "a-zA-Z0-9",
    "upper": "A-Z",
    "lower": "a-z",
    "space": r" \t\n\r\f\v",
    "blank": r" \t",
    "punct": r"!-/:-@\[-`{-~",
    "print": r" -~",
    "graph": r"!-~",
    "cntrl": r"\x00-\x1f\x7f",
    "xdigit": "0-9A-Fa-f",
}


def _bracket(text: str, start: int, lines: bool) -> tuple[str, int]:
    """Translate the bracket expression that opens at `start`; returns it and the offset after it."""
    out = ["["]
    at = start + 1
    if text.startswith("^", at):
        out.append("^\\n" if lines else "^")
        at += 1
    opening = len(out)
    first = True
    while at < len(text):
        char = text[at]
        if char == "]" and not first:
            out.append("]")
            return "".join(out), at + 1
        first = False
        if char == "[" and text[at + 1 : at + 2] in (":", ".", "="):
            mark = text[at + 1]
            end = text.find(f"{mark}]", at + 2)
            if end < 0:
                raise ValueError("unfinished class in a bracket expression")
            name = text[at + 2 : end]
            if mark == ":":
                if name not in _CLASSES:
                    raise ValueError(f"unknown character class [:{name}:]")
                out.append(_CLASSES[name])
            elif len(name) == 1:
                out.append(regex.escape(name))
            else:
                raise ValueError(f"unknown collating element {name!r}")
            at = end + 2
        elif char == "-":
            # At either end a hyphen is itself; between two characters it makes a range.
            between = len(out) > opening and not text.startswith("]", at + 1)
            out.append("-" if between else r"\-")
            at += 1
        else:
            out.append("\\" + char if char in r"\[]&~|" else char)
            at += 1
    raise ValueError("unfinished bracket expression")


def translate(text: str, lines: bool = False) -> str:
    """A POSIX extended expression in the dialect of the `regex` package. Raises ValueError when it is malformed."""
    out: list[str] = []
    at = 0
    atom = False  # whether something stands before that can be repeated
    depth = 0
    while at < len(text):
        char = text[at]
        at += 1
        if char == "\\":
            if at >= len(text):
                raise ValueError("trailing backslash")
            char = text[at]
            at += 1
            if char in "wWsSbB" or char in "123456789":
                out.append("\\" + char)
            elif char == "<":
                out.append(r"\b(?=\w)")
            elif char == ">":
                out.append(r"\b(?<=\w)")
            elif char == "`":
                out.append(r"\A")
            elif char == "'":
                out.append(r"\Z")
            else:
                out.append(regex.escape(char))
            atom = True
        elif char == "[":
            part, at = _bracket(text, at - 1, lines)
            out.append(part)
            atom = True
        elif char == "$":
            out.append("(?m:$)" if lines else r"\Z")
            atom = False
        elif char == "^":
            out.append("(?m:^)" if lines else r"\A")
            atom = False
        elif char == "(":
            out.append("(")
            depth += 1
            atom = False
        elif char == ")":
            if depth == 0:
                out.append(r"\)")
            else:
                out.append(")")
                depth -= 1
            atom = True
        elif char == "|":
            out.append("|")
            atom = False
        elif char == "{":
            end = text.find("}", at)
            body = text[at:end] if end >= 0 else ""
            low, comma, high = body.partition(",")
            if atom and body and (low or comma) and (low + high).isdigit():
                if max(int(low or 0), int(high or 0)) > 32767:
                    raise ValueError("a repetition count is too large")
                out.append("{" + (low or "0") + comma + high + "}")
                at = end + 1
            else:
                out.append(r"\{")
                atom = True
        elif char in "*+?":
            if not atom:
                # GNU takes a star that has nothing to repeat as itself.
                out.append("\\" + char)
                atom = True
            else:
                # A second operator repeats the whole before it; Python would read `*?` as lazy and `*+` as possessive.
                while at < len(text) and text[at] in "*+?":
                    char = "*" if char != text[at] else char
                    at += 1
                out.append(char)
        else:
            if char == ".":
                out.append("[^\\n]" if lines else "(?s:.)")
            else:
                out.append(regex.escape(char, special_only=True))
            atom = True
    if depth:
        raise ValueError("missing )")
    return "".join(out)


def _harmless_length(translated: str) -> int:
    """The longest text that an expression cannot spend much time on, 0 when that cannot be told.

    Without repetition a search is linear, each repetition of a single atom adds a power; a repeated group or a back
    reference may take exponential time. Watching the clock costs several times what a short search does.
    """
    repeats = 0
    at = 0
    before = ""
    while at < len(translated):
        char = translated[at]
        if char == "\\":
            if translated[at + 1].isdigit():
                return 0
            at += 1
        elif char == "[":
            at += 1
            while translated[at] != "]":
                at += 2 if translated[at] == "\\" else 1
        elif char in "*+{":
            if before == ")" and not translated.startswith("(?s:.)", at - 6):
                return 0
            repeats += 1
        before = char
        at += 1
    return (1 << 20, 512, 64)[repeats] if repeats < 3 else 0


def _faster_search(translated: str, ignore_case: bool) -> Any:
    """The search of Python's own `re`, which takes half the time, where it reads the expression as `regex` does; else
    None. It watches no clock."""
    if _READ_ALIKE.fullmatch(translated) is None or "--" in translated:
        return None
    try:
        return re.compile(translated, re.ASCII | (re.IGNORECASE if ignore_case else 0)).search
    except re.error:
        return None


class Pattern:
    """One compiled expression. text: as written. Searches raise TimeoutError after `MATCH_SECONDS`."""

    __slots__ = ("_compiled", "_harmless", "_search", "_search_harmless", "text")

    def __init__(self, text: str, ignore_case: bool = True, lines: bool = False) -> None:
        if len(text) > MAX_PATTERN:
            raise ValueError(f"a pattern may have {MAX_PATTERN} characters")
        self.text: str = text
        translated = translate(text, lines)
        flags = regex.ASCII | (regex.IGNORECASE if ignore_case else 0)
        try:
            self._compiled: Any = regex.compile(translated, flags)
        except regex.error as error:
            raise ValueError(str(error)) from None
        self._search: Any = self._compiled.search
        self._harmless: int = _harmless_length(translated)
        self._search_harmless: Any = _faster_search(translated, ignore_case) or self._search

    def search(self, text: str) -> bool:
        """Whether the expression is found anywhere in the text."""
        if len(text) <= self._harmless:
            return self._search_harmless(text) is not None
        return self._search(text, timeout=MATCH_SECONDS) is not None

    def find(self, text: str, start: int = 0) -> Any:
        """The first match object from `start`, or None: `.start() .end() .group(n) .groups()`."""
        return self._search(text, start, timeout=MATCH_SECONDS)

    @property
    def groups(self) -> int:
        """The number of capturing groups."""
        count: int = self._compiled.groups
        return count


class PatternCache:
    """Compiled expressions by text, for those that are known only at run time; at most `size` are kept."""

    def __init__(self, size: int = 256) -> None:
        self._size: int = size
        self._kept: dict[tuple[str, bool, bool], Pattern] = {}

    def get(self, text: str, ignore_case: bool = True, lines: bool = False) -> Pattern:
        """Raises ValueError when the expression is malformed."""
        key = (text, ignore_case, lines)
        pattern = self._kept.get(key)
        if pattern is None:
            pattern = Pattern(text, ignore_case, lines)
            if len(self._kept) >= self._size:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = pattern
        return pattern
