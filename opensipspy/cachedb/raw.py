"""What variables bring into a raw query, placed by the rules of the store's language: it ends no argument."""

from __future__ import annotations

import json
import re
from typing import Final

Piece = tuple[str, bool]
"""A text, and whether a variable brought it."""

BLANKS: Final = " \t\r\n"
QUOTES: Final = "'\""
WORD: Final = re.compile(r"[^ \t\r\n]+")
MAX_WORDS: Final = 100_000
IN_JSON: Final = re.compile(r'(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*')
"""What may stand in a JSON string as it is (RFC 8259 §7)."""


def pieces_of(query: str) -> tuple[Piece, ...]:
    """A script's query is a text that has `pieces`; any other text is one of the script's own."""
    pieces: tuple[Piece, ...] = getattr(query, "pieces", ((query, False),))
    return pieces


def words_of(query: str) -> list[str]:
    """The arguments of a command. One that begins with a quote ends at the next such quote; there are no escapes, so
    that a backslash is a backslash. What a variable brought is part of one argument, whatever is in it. Raises
    ValueError."""
    found: list[str] = []
    word: str | None = None
    quote = ""
    ended = False  # behind the quote that ends an argument
    for text, brought in pieces_of(query):
        if brought:
            if ended:
                raise ValueError("after a quote of the raw query there is no blank")
            word = text if word is None else word + text
            continue
        at = 0
        while at < len(text):
            if quote:
                end = text.find(quote, at)
                word = (word or "") + (text[at:] if end < 0 else text[at:end])
                if end < 0:
                    break
                quote, ended, at = "", True, end + 1
            elif text[at] in BLANKS:
                if word is not None:
                    found.append(word)
                word, ended = None, False
                at += 1
            elif ended:
                raise ValueError("after a quote of the raw query there is no blank")
            elif word is None and text[at] in QUOTES:
                word, quote = "", text[at]
                at += 1
            else:
                match = WORD.match(text, at)
                assert match is not None  # no blank is there
                word = (word or "") + match[0]
                at = match.end()
    if quote:
        raise ValueError("a quote of the raw query has no end")
    if word is not None:
        found.append(word)
    if not found:
        raise ValueError("the raw query is empty")
    if len(found) > MAX_WORDS:
        raise ValueError(f"a raw query has at most {MAX_WORDS} words")
    return found


def json_of(query: str) -> str:
    """The JSON of a query. What a variable brought within a string is escaped, unless it is already; as the value of a
    member it is JSON by itself. Raises ValueError."""
    out: list[str] = []
    inside = False
    last = ""  # before the variable, blanks apart
    for text, brought in pieces_of(query):
        if not brought:
            at = 0
            while at < len(text):
                if text[at] == '"':
                    inside = not inside
                elif inside and text[at] == "\\":
                    at += 1
                at += 1
            last = text.rstrip()[-1:] or last
        elif inside:
            if IN_JSON.fullmatch(text) is None:
                text = json.dumps(text, ensure_ascii=False)[1:-1]
        elif last == ":":
            try:
                json.loads(text)
            except (ValueError, RecursionError):
                raise ValueError("a variable outside quotes brings what is no JSON") from None
        out.append(text)
    return "".join(out)


def quoted_of(query: str) -> str:
    """A query in a language where a quote within quotes is written twice. What a variable brought does not end them."""
    out: list[str] = []
    opened = ""
    for text, brought in pieces_of(query):
        if not brought:
            for letter in text:
                if letter == opened:
                    opened = ""
                elif not opened and letter in QUOTES:
                    opened = letter
        elif opened and opened in text.replace(opened * 2, ""):
            text = text.replace(opened, opened * 2)
        out.append(text)
    return "".join(out)
