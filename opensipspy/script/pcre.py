"""Perl compatible expressions by the `regex` package: \\Q...\\E is rewritten before, and searches have a time limit."""

from __future__ import annotations

from typing import Any, Final

import regex

LONGEST_PATTERN: Final = 8192
# Each may double the ways in which an expression is tried.
MOST_BRANCHES: Final = 8
MOST_PREFIXES: Final = 64


def unquoted(text: str) -> str:
    """The expression with \\Q...\\E written as escaped characters."""
    out: list[str] = []
    at = 0
    while at < len(text):
        if text.startswith("\\Q", at):
            end = text.find("\\E", at + 2)
            end = len(text) if end < 0 else end
            out.append(regex.escape(text[at + 2 : end], special_only=True, literal_spaces=False))
            at = end + 2
        elif text[at] == "\\" and at + 1 < len(text):
            out.append(text[at : at + 2])
            at += 2
        else:
            out.append(text[at])
            at += 1
    return "".join(out)


def compiled(text: str, flags: int = 0) -> Any:
    """A compiled expression; raises ValueError with what is wrong with it."""
    if len(text) > LONGEST_PATTERN:
        raise ValueError(f"an expression has at most {LONGEST_PATTERN} characters")
    try:
        return regex.compile(unquoted(text), flags | regex.VERSION0)
    except (regex.error, OverflowError, RecursionError) as error:
        raise ValueError(str(error)) from None


def is_simple(text: str) -> bool:
    """Whether a search is surely short: few alternatives, nothing repeated any number of times but, in an anchored
    expression, one single character.

    Such searches need no clock, which costs several times what they do themselves.
    """
    if text.count("|") + text.count("?") > MOST_BRANCHES:
        return False
    repeats = 0
    before = ""
    at = 0
    while at < len(text):
        char = text[at]
        if char == "\\":
            at += 1
            following = text[at : at + 1]
            # A letter or a digit that is escaped may be a class, an assertion or a reference.
            if following.isalnum() and following not in "dDwWsSnrt":
                return False
        elif char == "[":
            at += 1
            if text[at : at + 1] == "^":
                at += 1
            if text[at : at + 1] == "]":
                at += 1
            while at < len(text) and text[at] != "]":
                at += 2 if text[at] == "\\" else 1
            if at >= len(text):
                return False
        elif char in "*+?{":
            if before in ")*+?}" or text.startswith("(?", at - 1):
                return False
            if char == "{":
                end = text.find("}", at)
                if end < 0:
                    return False
                repeats += not text[at + 1 : end].isdigit()
                at = end
                char = "}"
            elif char != "?":
                repeats += 1
            if repeats > 1:
                return False
        before = char
        at += 1
    # Tried from each character of the text, a repetition would take the square of its length.
    return not repeats or text.startswith("^")


def literal_prefixes(text: str) -> list[str]:
    """Texts of which one begins each match of an anchored expression, [] when that cannot be told.

    `^0040` gives ["0040"], `^(00|\\+)40` gives ["0040", "+40"], `^4[0-9]` gives ["4"].
    """
    if not text.startswith("^") or "(?" in text or _alternatives_outside(text):
        return []
    prefixes = [""]
    at = 1
    while at < len(text):
        char = text[at]
        if char == "(" and not text.startswith("(?", at):
            end = text.find(")", at)
            several = text[at + 1 : end].split("|") if end > 0 else []
            words = [_literal(word) for word in several]
            if not words or None in words or text[end + 1 : end + 2] in ("?", "*", "+", "{"):
                break
            if len(prefixes) * len(words) > MOST_PREFIXES:
                break
            prefixes = [prefix + (word or "") for prefix in prefixes for word in words]
            at = end + 1
            continue
        length = 2 if char == "\\" else 1
        literal = _literal(text[at : at + length])
        if not literal or text[at + length : at + length + 1] in ("?", "*", "{"):
            break
        prefixes = [prefix + literal for prefix in prefixes]
        at += length
        if text[at : at + 1] == "+":
            break
    return prefixes if all(prefixes) else []


def _literal(text: str) -> str | None:
    out = []
    at = 0
    while at < len(text):
        char = text[at]
        if char == "\\":
            at += 1
            char = text[at : at + 1]
            if not char or char.isalnum():
                return None
        elif char in "^$.[]()*+?{}|":
            return None
        out.append(char)
        at += 1
    return "".join(out)


def _alternatives_outside(text: str) -> bool:
    """Whether a `|` parts the whole expression."""
    depth = 0
    at = 0
    while at < len(text):
        char = text[at]
        if char == "\\":
            at += 1
        elif char == "[":
            end = text.find("]", at + 2)
            at = len(text) if end < 0 else end
        elif char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
        elif char == "|" and depth <= 0:
            return True
        at += 1
    return False
