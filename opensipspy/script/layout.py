"""The canonical layout of a script, as `opensipspy fmt` prints it: the same words and comments, set anew.

One statement a line, a tab for each level, `{` at the end of its line, one blank between words, comments at the end of
neighbouring lines aligned, no more than one empty line. Where the writer broke a long statement, it stays broken.
Strings, comments and `include_file` lines are copied as they are. Whatever the rules do, the result is compared with
the original word by word and comment by comment before it is handed out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from opensipspy.script.errors import Finding, ScriptErrors, has_errors
from opensipspy.script.lexer import Scanner, comment_end
from opensipspy.script.parse import parse_script
from opensipspy.script.preprocess import Source

if TYPE_CHECKING:
    from lark import Token

INDENT: Final = "\t"
# Comments at the end of lines that are longer than this are not waited for by their neighbours.
WIDEST_ALIGNED: Final = 60
_INCLUDE: Final = re.compile(r"^[ \t]*(?:include_file|import_file)\b")
_COMMENT: Final = re.compile(r"#[^\n]*|/\*")
_CALLED: Final = frozenset(
    {"ID", "ROUTE", "BLOCK", "XLOG", "XDBG", "LOG", "EXIT", "DROP", "RETURN", "ASYNC", "LAUNCH", "ASSERT", "ERROR",
     "MODPARAM", "NOT", "TILDE", "LPAR", "LSQB"}
)  # fmt: skip
_VALUES: Final = frozenset({"INT", "VAR", "STRING", "RPAR", "RSQB", "ID", "IP", "NET", "NULL"})
_TIGHT_BEFORE: Final = frozenset({"SEMI", "COMMA", "RPAR", "RSQB", "COLON"})
_TIGHT_AFTER: Final = frozenset({"LPAR", "LSQB", "NOT", "TILDE"})
_OPEN: Final = frozenset({"LPAR", "LSQB", "LBRACE"})
_CLOSE: Final = frozenset({"RPAR", "RSQB", "RBRACE"})


class LayoutError(Exception):
    """A script that is left as it is, because the new layout would not say the same."""


class Comment:
    """A comment. own_line: nothing but blanks stands before it; blank: an empty line stands before it."""

    __slots__ = ("blank", "own_line", "text")

    def __init__(self, text: str, own_line: bool, blank: bool) -> None:
        self.text = text
        self.own_line = own_line
        self.blank = blank


class Word:
    """A word of the script with the comments before it."""

    __slots__ = ("blank", "comments", "end", "kind", "newline", "start", "text", "value")

    def __init__(self, kind: str, text: str, value: object, start: int, end: int) -> None:
        self.kind = kind
        self.text = text
        self.value = value
        self.start = start
        self.end = end
        self.comments: list[Comment] = []
        self.newline = False
        self.blank = False


def masked(text: str) -> str:
    """The text with `include_file` lines as comments of the same length, so that one file is read for itself."""
    lines = text.split("\n")
    for index, line in enumerate(lines):
        found = _INCLUDE.match(line)
        if found is not None:
            lines[index] = re.sub(r"\S", "#", line, count=1)
    return "\n".join(lines)


def words_of(text: str, path: str) -> tuple[list[Word], list[Finding]]:
    """The words of one file with their comments, closed by a word of kind "END", and what the scanner found wrong."""
    seen = masked(text)
    source = Source(path)
    source.add_text(seen, path)
    scanner = Scanner(source)
    tokens: list[Token] = scanner.scan()
    found: list[Word] = []
    at = 0
    for token in tokens:
        start, end = token.start_pos or 0, token.end_pos or 0
        word = Word(token.type, text[start:end], token.value, start, end)
        _gap(text, seen, at, start, word)
        found.append(word)
        at = end
    last = Word("END", "", None, len(text), len(text))
    _gap(text, seen, at, len(text), last)
    found.append(last)
    return found, scanner.findings


def _gap(text: str, seen: str, start: int, end: int, word: Word) -> None:
    """What stands between two words: comments, line ends, empty lines. seen: the text with its includes masked."""
    at = start
    newlines = 0 if start else 1
    while True:
        mark = _COMMENT.search(seen, at, end)
        begin = mark.start() if mark is not None else end
        newlines += text.count("\n", at, begin)
        if mark is None:
            break
        at = _comment_end(seen, begin, end)
        word.comments.append(Comment(text[begin:at].rstrip(), newlines > 0, newlines > 1))
        newlines = 0
    word.newline = newlines > 0
    word.blank = newlines > 1


def _comment_end(text: str, begin: int, end: int) -> int:
    if not text.startswith("/*", begin):
        stop = text.find("\n", begin, end)
        return end if stop < 0 else stop
    stop = comment_end(text, begin, end)
    return end if stop < 0 else stop


def layout(text: str, path: str = "-") -> str:
    """The script in canonical layout.

    Raises ScriptErrors for a script with syntax errors, LayoutError when the result would not be the same script.
    """
    text = text.replace("\r\n", "\n")
    parse_script(path, text=masked(text))
    words, findings = words_of(text, path)
    if has_errors(findings):
        raise ScriptErrors(findings)
    result = _Printer(words, text).printed()
    _compare(words_of(text, path)[0], words_of(result, path)[0])
    return result


def _compare(before: Sequence[Word], after: Sequence[Word]) -> None:
    """Raise LayoutError unless two scripts have the same words and comments; a `;` may go where it says nothing."""

    def said(words: Sequence[Word]) -> list[tuple[str, str]]:
        return [(word.kind, word.text) for word in words if word.kind != "SEMI"]

    def noted(words: Sequence[Word]) -> list[str]:
        return [comment.text for word in words for comment in word.comments]

    if said(before) != said(after) or noted(before) != noted(after):
        raise LayoutError("the new layout would not say the same")


class _Line:
    """One line of the result. text: without its indentation; it may hold a string of several lines."""

    __slots__ = ("comment", "depth", "text")

    def __init__(self, depth: int, text: str, comment: str = "") -> None:
        self.depth = depth
        self.text = text
        self.comment = comment


class _Printer:
    def __init__(self, words: list[Word], text: str) -> None:
        self.words = words
        self.source = text
        self.at = 0
        self.depth = 0
        self.lines: list[_Line] = []

    def printed(self) -> str:
        while self.word.kind != "END":
            self._item()
        self._lead(self.word)
        while self.lines and not self.lines[-1].text and not self.lines[-1].comment:
            self.lines.pop()
        return "".join(f"{line}\n" for line in _aligned(self.lines))

    @property
    def word(self) -> Word:
        return self.words[self.at]

    # -- lines

    def _lead(self, word: Word, blank: bool = True) -> None:
        """The comments before a word, and the empty line that stood there."""
        for comment in word.comments:
            if not comment.own_line and self.lines and not self.lines[-1].comment and self._commentable():
                self.lines[-1].comment = comment.text
                continue
            if comment.blank and blank:
                self._empty()
            self.lines.append(_Line(self.depth, "", comment.text))
            blank = True
        if word.blank and blank:
            self._empty()
        word.comments = []

    def _commentable(self) -> bool:
        return bool(self.lines[-1].text)

    def _empty(self) -> None:
        if self.lines and (self.lines[-1].text or self.lines[-1].comment):
            self.lines.append(_Line(0, ""))

    def _drop_empty(self) -> None:
        while self.lines and not self.lines[-1].text and not self.lines[-1].comment:
            self.lines.pop()

    # -- items

    def _item(self) -> None:
        word = self.word
        if word.kind == "SEMI":
            # Behind a block or a line that needs none.
            self._skip(word)
            return
        if word.kind in ("ROUTE", "BLOCK"):
            self._lead(word)
            head = self._until("LBRACE")
            self._open(head)
            self._block()
            after = self.words[self.at]
            if after.kind != "END" or after.comments:
                self._gap_after_block(after)
        elif word.kind in ("LOADMODULE", "MODPARAM"):
            self._lead(word)
            self._run(self._top_end())
        else:
            self._lead(word)
            self._setting(self._top_end())

    def _skip(self, word: Word) -> None:
        """Leave a word out; what stands before it goes to the next."""
        self.at += 1
        self.word.comments[:0] = word.comments
        self.word.blank |= word.blank

    def _gap_after_block(self, after: Word) -> None:
        first = next((c for c in after.comments if c.own_line), None)
        if first is not None:
            first.blank = True
        else:
            after.blank = True

    def _top_end(self) -> int:
        """The index behind a loadmodule, modparam or global parameter."""
        index, depth = self.at + 1, 0
        while self.words[index].kind != "END":
            kind = self.words[index].kind
            if depth == 0:
                if kind == "SEMI":
                    return index + 1
                if kind in ("LOADMODULE", "MODPARAM", "BLOCK", "ROUTE"):
                    return index
                if self.words[index + 1].kind == "ASSIGN":
                    return index
            depth += (kind in _OPEN) - (kind in _CLOSE)
            index += 1
        return index

    def _setting(self, end: int) -> None:
        """A global parameter: its value has forms of its own and is copied."""
        words = self.words[self.at : end]
        self.at = end
        noted = any(word.comments for word in words[1:])
        for word in words:
            word.comments = []
        if noted or len(words) < 3:
            self._emit(self.source[words[0].start : words[-1].end])
            return
        self._emit(f"{words[0].text}={self.source[words[2].start : words[-1].end]}")

    # -- statements

    def _until(self, kind: str) -> list[Word]:
        """The words up to the first of a kind outside parentheses, that one left out."""
        begin, depth = self.at, 0
        while depth or self.word.kind != kind:
            depth += (self.word.kind in _OPEN) - (self.word.kind in _CLOSE)
            self.at += 1
        return self.words[begin : self.at]

    def _open(self, head: Sequence[Word]) -> None:
        """A head and the `{` that stands next."""
        brace = self.word
        self.at += 1
        text = self._joined(head)
        if brace.comments:
            self._emit(text)
            self._lead(brace, blank=False)
            self._emit("{")
        else:
            self._emit(f"{text} {{")

    def _block(self) -> None:
        """Statements up to `}`, with it."""
        self.depth += 1
        first = True
        while self.word.kind != "RBRACE":
            before = len(self.lines)
            self._statement(first)
            first = first and len(self.lines) == before
        self._close()

    def _close(self) -> None:
        brace = self.word
        self._lead(brace, blank=not self._just_opened())
        self._drop_empty()
        self.depth -= 1
        self.at += 1
        self._emit("}")

    def _just_opened(self) -> bool:
        return bool(self.lines) and self.lines[-1].text.endswith("{")

    def _statement(self, first: bool = False, prefix: str = "") -> None:
        """One statement. prefix: what stands before it on its line ("} else")."""
        word = self.word
        if not prefix:
            if word.kind == "SEMI":
                self._skip(word)
                return
            self._lead(word, blank=not first)
        if word.kind in ("IF", "WHILE", "FOR"):
            self._headed(prefix)
        elif word.kind == "SWITCH":
            self._switch(prefix)
        else:
            begin = self.at
            self._until("SEMI")
            end = self.at + 1
            self.at = begin
            self._run(end)

    def _headed(self, prefix: str) -> None:
        """`if`, `while` or `for` with its statement, and its else."""
        keyword = self.word
        begin = self.at
        self.at += 1
        self._parenthesis()
        head = self.words[begin : self.at]
        if prefix:
            keyword.comments = []
        self._body(head, prefix)
        if keyword.kind != "IF" or self.word.kind != "ELSE":
            return
        other = self.word
        self.at += 1
        lead = "else"
        if self.lines[-1].text == "}" and self.lines[-1].depth == self.depth and not other.comments:
            if not self.lines[-1].comment:
                self.lines.pop()
                lead = "} else"
        else:
            self._lead(other, blank=False)
        other.comments = []
        if self.word.kind == "IF" and not self.word.comments:
            self._headed(lead)
        else:
            self._body([], lead)

    def _parenthesis(self) -> None:
        """Past a pair of parentheses."""
        depth = 0
        while True:
            depth += (self.word.kind in _OPEN) - (self.word.kind in _CLOSE)
            self.at += 1
            if depth == 0:
                return

    def _body(self, head: Sequence[Word], prefix: str) -> None:
        """What follows the parenthesis of an if, or an else: a block or one statement."""
        text = self._joined(head)
        text = f"{prefix} {text}".strip() if prefix else text
        if self.word.kind == "LBRACE":
            brace = self.word
            self.at += 1
            if brace.comments:
                self._emit(text)
                self._lead(brace, blank=False)
                self._emit("{")
            else:
                self._emit(f"{text} {{")
            self._block()
            return
        if self.word.kind == "SEMI":
            if self.word.comments:
                self._emit(text)
                self._lead(self.word, blank=False)
                text = ""
            self.at += 1
            self._emit(f"{text};")
            return
        self._emit(text)
        self.depth += 1
        self._statement(first=True)
        self.depth -= 1

    def _switch(self, prefix: str) -> None:
        begin = self.at
        self.at += 1
        self._parenthesis()
        head = self.words[begin : self.at]
        if prefix:
            head[0].comments = []
        self._body_of_switch(head, prefix)

    def _body_of_switch(self, head: Sequence[Word], prefix: str) -> None:
        text = self._joined(head)
        brace = self.word
        self.at += 1
        text = f"{prefix} {text}" if prefix else text
        if brace.comments:
            self._emit(text)
            self._lead(brace, blank=False)
            self._emit("{")
        else:
            self._emit(f"{text} {{")
        self.depth += 1
        first = True
        while self.word.kind in ("CASE", "DEFAULT"):
            self._lead(self.word, blank=not first)
            first = False
            label = [*self._until("COLON"), self.word]
            self.at += 1
            self._emit(self._joined(label))
            self.depth += 1
            inner = True
            while self.word.kind not in ("CASE", "DEFAULT", "RBRACE"):
                before = len(self.lines)
                self._statement(inner)
                inner = inner and len(self.lines) == before
            self.depth -= 1
        self._close()

    # -- words to text

    def _run(self, end: int) -> None:
        """The words of one statement with its `;`."""
        words = self.words[self.at : end]
        self.at = end
        self._emit(self._joined(words))

    def _joined(self, words: Sequence[Word]) -> str:
        """Words with blanks between them; lines that the writer broke stay broken. Comments of the first are out."""
        parts: list[str] = []
        before: Word | None = None
        unary = False
        for word in words:
            if before is None:
                parts.append(word.text)
                before = word
                continue
            space = _spaced(before, word, unary)
            unary = word.kind in ("MINUS", "PLUS") and before.kind not in _VALUES
            broken = word.newline and word.kind not in _TIGHT_BEFORE
            for comment in word.comments:
                if comment.own_line:
                    parts.append(self._continued())
                    parts.append(comment.text)
                else:
                    parts.append(f" {comment.text}")
                space = True
                if comment.text[0] != "/":
                    broken = True
            if broken:
                parts.append(self._continued())
            elif space:
                parts.append(" ")
            parts.append(word.text)
            word.comments = []
            before = word
        return "".join(parts)

    def _continued(self) -> str:
        return "\n" + INDENT * (self.depth + 1)

    def _emit(self, text: str) -> None:
        self.lines.append(_Line(self.depth, text))


def _spaced(before: Word, word: Word, unary: bool) -> bool:
    """Whether a blank stands between two words; unary: the first is a sign."""
    if word.kind in _TIGHT_BEFORE or before.kind in _TIGHT_AFTER:
        return False
    if unary:
        return False
    if word.kind == "LPAR":
        return before.kind not in _CALLED
    if word.kind == "LSQB":
        return before.kind not in ("ROUTE", "BLOCK", "LPAR", "LSQB", "NOT")
    return True


def _aligned(lines: Sequence[_Line]) -> Iterator[str]:
    """The lines with their indentation; comments at the end of neighbouring lines begin in one column."""
    index = 0
    while index < len(lines):
        line = lines[index]
        if not line.text or not line.comment:
            yield (INDENT * line.depth + (line.text or line.comment)) if line.text or line.comment else ""
            index += 1
            continue
        end = index
        while end < len(lines) and lines[end].text and lines[end].comment and lines[end].depth == line.depth:
            end += 1
        group = lines[index:end]
        widths = [len(each.text.rpartition("\n")[2]) for each in group]
        width = max((w for w in widths if w <= WIDEST_ALIGNED), default=0)
        for each, own in zip(group, widths, strict=True):
            if "\n" in each.text:
                yield f"{INDENT * each.depth}{each.text} {each.comment}"
            else:
                yield f"{INDENT * each.depth}{each.text}{' ' * max(1, width - own + 2)}{each.comment}"
        index = end
