"""The words of the language, with OpenSIPS's lexical forms: nested comments, two kinds of strings, numbers in three
bases, addresses, and variables that run to their matching parenthesis.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Iterator
from typing import Final

from lark import Token
from lark.lexer import Lexer, LexerState

from opensipspy.script.errors import ERROR, WARNING, Finding
from opensipspy.script.preprocess import Source

KEYWORDS: Final = {
    "and": "AND",
    "or": "OR",
    "not": "NOT",
    "if": "IF",
    "else": "ELSE",
    "while": "WHILE",
    "for": "FOR",
    "in": "IN",
    "switch": "SWITCH",
    "case": "CASE",
    "default": "DEFAULT",
    "break": "BREAK",
    "exit": "EXIT",
    "drop": "DROP",
    "return": "RETURN",
    "route": "ROUTE",
    "async": "ASYNC",
    "launch": "LAUNCH",
    "assert": "ASSERT",
    "error": "ERROR",
    "log": "LOG",
    "xlog": "XLOG",
    "xdbg": "XDBG",
    "null": "NULL",
    "NULL": "NULL",
    "loadmodule": "LOADMODULE",
    "modparam": "MODPARAM",
    "failure_route": "BLOCK",
    "onreply_route": "BLOCK",
    "branch_route": "BLOCK",
    "error_route": "BLOCK",
    "local_route": "BLOCK",
    "startup_route": "BLOCK",
    "timer_route": "BLOCK",
    "event_route": "BLOCK",
}
BOOLEANS: Final = {"yes": 1, "true": 1, "on": 1, "enable": 1, "no": 0, "false": 0, "off": 0, "disable": 0}

OPERATORS: Final = {
    "==": "EQ",
    "!=": "NE",
    "=~": "MATCH",
    "!~": "NOTMATCH",
    "<=": "LE",
    ">=": "GE",
    "<<": "SHL",
    ">>": "SHR",
    "&&": "AND",
    "||": "OR",
    ":=": "COLONEQ",
    "+=": "PLUSEQ",
    "-=": "MINUSEQ",
    "*=": "MULEQ",
    "/=": "DIVEQ",
    "%=": "MODEQ",
    "&=": "ANDEQ",
    "|=": "OREQ",
    "^=": "XOREQ",
    "=": "ASSIGN",
    "<": "LT",
    ">": "GT",
    "!": "NOT",
    "+": "PLUS",
    "-": "MINUS",
    "*": "STAR",
    "/": "SLASH",
    "%": "PERCENT",
    "&": "AMP",
    "|": "PIPE",
    "^": "CARET",
    "~": "TILDE",
    "(": "LPAR",
    ")": "RPAR",
    "[": "LSQB",
    "]": "RSQB",
    "{": "LBRACE",
    "}": "RBRACE",
    ",": "COMMA",
    ";": "SEMI",
    ":": "COLON",
    ".": "DOT",
}

MOST_OPEN_STRINGS: Final = 20
MAX_DIGITS: Final = 64
_IDENTIFIER: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_NUMBER: Final = re.compile(r"0x[0-9A-Fa-f]+|[0-9]+")
_IPV4: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![0-9.])")
_MASK: Final = re.compile(r"/(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9]{1,3}|[0-9A-Fa-f:]*::[0-9A-Fa-f:]*)(?![0-9.])")
_IPV6: Final = re.compile(r"\[[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*\]|[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*")
_COMMENT_MARK: Final = re.compile(r"/\*|\*/")
_SPACE: Final = re.compile(r"[ \t\r\f\v\n]+")
# Where a variable ends when it stands outside parentheses.
_VARIABLE_END: Final = frozenset(" \t\r\n\f\v;,)=+-/*%&|^~<>!{}[]\"'#:@?\\`")
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t", "a": "\a", '"': '"', "\\": "\\"}
_OCTAL: Final = re.compile(r"[0-7]{2,3}")
_HEX: Final = re.compile(r"x([0-9A-Fa-f]{1,2})")


def signed(value: int) -> int:
    """A number as the 32 bits with a sign that the language has."""
    return ((value + 0x80000000) & 0xFFFFFFFF) - 0x80000000


def comment_end(text: str, start: int, end: int = sys.maxsize) -> int:
    """The offset after the `/* */` comment at `start`, -1 when it is not closed before `end`; they nest."""
    depth = 0
    for mark in _COMMENT_MARK.finditer(text, start, min(end, len(text))):
        depth += 1 if mark.group() == "/*" else -1
        if depth == 0:
            return mark.end()
    return -1


class Scanner:
    """One pass over the text. What it cannot read becomes a finding, and the pass goes on behind it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.text = source.text
        self.findings: list[Finding] = []
        self._starts = [0]
        at = self.text.find("\n")
        while at >= 0:
            self._starts.append(at + 1)
            at = self.text.find("\n", at + 1)
        self._line = 1
        # Offsets of strings that are taken to end on their own line because their quote is missing.
        self._open: set[int] = set()

    def scan(self) -> list[Token]:
        """All words of the text. A string without its closing quote is told where it begins.

        Such a string swallows lines and ends where the next one begins, right before a word. It is then taken to end
        on its own line, and the words are read again.
        """
        tokens = list(self.tokens())
        for _ in range(MOST_OPEN_STRINGS):
            culprit = next((token for token in tokens if self._runs_into_a_word(token)), None)
            if culprit is None:
                break
            self._open.add(culprit.start_pos or 0)
            self.findings = []
            tokens = list(self.tokens())
        return tokens

    def _runs_into_a_word(self, token: Token) -> bool:
        if token.type != "STRING" or token.line == token.end_line or token.start_pos in self._open:
            return False
        follower = self.text[token.end_pos : (token.end_pos or 0) + 1]
        return follower.isalnum() or follower in ("$", "_", "%")

    def _place(self, offset: int) -> tuple[int, int]:
        """Line and column, both from 1. Offsets mostly grow, so the line is looked for near the last one."""
        line = self._line if self._starts[self._line - 1] <= offset else 1
        while line < len(self._starts) and self._starts[line] <= offset:
            line += 1
        self._line = line
        return line, offset - self._starts[line - 1] + 1

    def token(self, kind: str, value: object, start: int, end: int) -> Token:
        line, col = self._place(start)
        end_line, end_col = self._place(end)
        # Lark's Token is a str; the value proper of a number or string travels beside its text.
        token = Token(kind, self.text[start:end], start, line, col, end_line, end_col, end)
        token.value = value
        return token

    def _report(self, start: int, end: int, code: str, message: str, hint: str = "", severity: str = ERROR) -> None:
        line, col = self._place(start)
        end_line, end_col = self._place(end)
        self.findings.append(Finding(self.source.place(line, col, end_line, end_col), severity, code, message, hint))

    def tokens(self) -> Iterator[Token]:
        text, length = self.text, len(self.text)
        at = 0
        while at < length:
            char = text[at]
            space = _SPACE.match(text, at)
            if space is not None:
                at = space.end()
                continue
            if char == "#":
                end = text.find("\n", at)
                at = length if end < 0 else end + 1
            elif char == "/" and text.startswith("/*", at):
                at = self._comment(at)
            elif char == "\\" and text[at + 1 : at + 2] in ("\n", "\r"):
                at += 2
            elif char == '"':
                value, end = self._double(at)
                yield self.token("STRING", value, at, end)
                at = end
            elif char == "'":
                end = text.find("'", at + 1)
                if end < 0 or at in self._open:
                    value, end = self._ended_on_line(at)
                    yield self.token("STRING", value, at, end)
                    at = end
                    continue
                yield self.token("STRING", text[at + 1 : end], at, end + 1)
                at = end + 1
            elif char == "$":
                end = self._variable(at)
                yield self.token("VAR", text[at:end], at, end)
                at = end
            else:
                token = self._word(at)
                if token is None:
                    # The C server passes over it as well. A run of them is one finding.
                    end = at + 1
                    while end < length and not (
                        text[end].isspace() or (text[end].isascii() and text[end].isprintable())
                    ):
                        end += 1
                    shown = repr(char) if end == at + 1 else f"{char!r} and what follows"
                    self._report(at, end, "bad-character", f"{shown} has no meaning here", severity=WARNING)
                    at = end
                    continue
                yield token
                assert token.end_pos is not None
                at = token.end_pos

    def _comment(self, start: int) -> int:
        """Past a `/* */` comment; they nest."""
        end = comment_end(self.text, start)
        if end >= 0:
            return end
        self._report(start, start + 2, "open-comment", "this comment is not closed", "add */")
        return len(self.text)

    def _double(self, start: int) -> tuple[str, int]:
        """The value of a double-quoted string and the offset after it."""
        text, at = self.text, start + 1
        if start in self._open:
            return self._ended_on_line(start)
        parts: list[str] = []
        while True:
            quote, back = text.find('"', at), text.find("\\", at)
            if quote < 0:
                return self._ended_on_line(start)
            if back < 0 or back > quote:
                parts.append(text[at:quote])
                return "".join(parts), quote + 1
            parts.append(text[at:back])
            follow = text[back + 1 : back + 2]
            hexadecimal, octal = _HEX.match(text, back + 1), _OCTAL.match(text, back + 1)
            if follow in _ESCAPES:
                parts.append(_ESCAPES[follow])
                at = back + 2
            elif follow == "\n":
                at = back + 2
            elif hexadecimal is not None:
                parts.append(chr(int(hexadecimal.group(1), 16)))
                at = hexadecimal.end()
            elif octal is not None:
                parts.append(chr(int(octal.group(), 8) & 0xFF))
                at = octal.end()
            else:
                parts.append("\\")
                at = back + 1

    def _ended_on_line(self, start: int) -> tuple[str, int]:
        """A string whose quote is missing: it ends before the brackets and semicolons at the end of its line."""
        quote = self.text[start]
        self._report(start, start + 1, "open-string", "this string is not closed", f"add {quote}")
        end = self.text.find("\n", start)
        line = self.text[start + 1 : end if end >= 0 else len(self.text)]
        value = line.rstrip(" \t\r;,(){}[]")
        return value, start + 1 + len(value)

    def _variable(self, start: int) -> int:
        """The offset after a variable: its matching `)`, or the first character that cannot be part of a name."""
        text = self.text
        at = start + 1
        if text.startswith("$$", start):
            return start + 2
        while at < len(text):
            char = text[at]
            if char == "(":
                depth = 0
                for here in range(at, len(text)):
                    if text[here] == "(":
                        depth += 1
                    elif text[here] == ")":
                        depth -= 1
                        if depth == 0:
                            return here + 1
                    elif text[here] == "\n" and text.find(")", here) < 0:
                        break
                self._report(start, at + 1, "open-variable", "')' of this variable is missing")
                at += 1
                while at < len(text) and text[at] not in _VARIABLE_END:
                    at += 1
                return at
            if char in _VARIABLE_END:
                break
            at += 1
        return at

    def _word(self, at: int) -> Token | None:
        text = self.text
        address = self._address(at)
        if address is not None:
            return address
        number = _NUMBER.match(text, at)
        if number is not None:
            return self._number(number, at)
        word = _IDENTIFIER.match(text, at)
        if word is not None:
            name = word.group()
            if name in BOOLEANS:
                return self.token("INT", BOOLEANS[name], at, word.end())
            if name == "mem" and text.startswith("mem-group", at):
                return self.token("ID", "mem-group", at, at + len("mem-group"))
            return self.token(KEYWORDS.get(name, "ID"), name, at, word.end())
        two = OPERATORS.get(text[at : at + 2])
        if two is not None:
            return self.token(two, text[at : at + 2], at, at + 2)
        one = OPERATORS.get(text[at])
        return self.token(one, text[at], at, at + 1) if one is not None else None

    def _number(self, found: re.Match[str], at: int) -> Token:
        digits = found.group()
        if len(digits) > MAX_DIGITS:
            self._report(at, found.end(), "number-size", f"a number of {len(digits)} digits")
            value = 0
        elif digits.startswith("0x"):
            value = int(digits, 16)
        elif digits.startswith("0") and digits.strip("01234567") == "":
            value = int(digits, 8)
        else:
            value = int(digits)
        if value > 0xFFFFFFFF:
            self._report(
                at, found.end(), "number-size", f"{digits} does not fit an integer of 32 bits", severity=WARNING
            )
        # As the C server keeps it: 32 bits with a sign.
        value = signed(value)
        return self.token("INT", value, at, found.end())

    def _address(self, at: int) -> Token | None:
        text = self.text
        found = _IPV4.match(text, at)
        if found is None:
            found = _IPV6.match(text, at)
            if found is None:
                return None
            try:
                ipaddress.IPv6Address(found.group().strip("[]"))
            except ValueError:
                return None
        mask = _MASK.match(text, found.end())
        if mask is not None:
            return self.token("NET", found.group() + mask.group(), at, mask.end())
        return self.token("IP", found.group(), at, found.end())


class TokenLexer(Lexer):
    """Hands tokens that were scanned before to Lark."""

    __future_interface__ = 2

    def __init__(self, conf: object) -> None:
        """conf: Lark's; the words are not described in the grammar."""

    def lex(self, lexer_state: LexerState, parser_state: object) -> Iterator[Token]:
        return iter(())
