"""Search and replace in the text of a message with POSIX extended regular expressions, as grep and sed do.

Expressions see the message as it was received, but for the body: that is the one with the changes made so far. In the
headers a change is noted for the copies that leave. `^` and `$` match at line ends, a dot no line feed, and case does
not count (REG_EXTENDED|REG_ICASE|REG_NEWLINE), unless a function says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Final

from opensipspy.module import Fixup, Module, NoExpand, script_function
from opensipspy.script.declare import Catalogue
from opensipspy.script.formats import parse_format
from opensipspy.script.kinds import BRANCH, FAILURE, LOCAL, ONREPLY, REQUEST
from opensipspy.script.patterns import Pattern
from opensipspy.script.run import Run, Value
from opensipspy.sip import ParseError, parse_uri

MESSAGE: Final = REQUEST | FAILURE | ONREPLY | BRANCH | LOCAL
URI_ROUTES: Final = REQUEST | FAILURE | ONREPLY | BRANCH
MAX_MATCHES: Final = 10_000
MAX_BODY: Final = 262_144
"""Characters that a body may grow to by replacing."""

Piece = str | int | Callable[[Run], Value]


def by_line(text: str) -> Pattern:
    """An expression for which line ends count."""
    return Pattern(text, lines=True)


def at_once(text: str) -> Pattern:
    """An expression that sees the whole text as one line."""
    return Pattern(text)


ByLine = Annotated[Pattern, Fixup(by_line, "regex")]
Expression = Annotated["Substitution", NoExpand(), Fixup("prepare", "string", at_call="prepare_given")]
AtOnce = Annotated[Pattern, Fixup(at_once, "regex")]


class Substitution:
    """One "/expression/replacement/flags" with any delimiter.

    flags: g replaces all matches, i ignores case, s lets a dot match line feeds. In the replacement \\0 to \\9 for the
    match and its groups, \\u for the Request-URI, \\n \\r \\t, and variables; those only where the script says them:
    without a catalogue a "$" is itself.
    """

    __slots__ = ("all", "pattern", "pieces")

    def __init__(self, text: str, catalogue: Catalogue | None) -> None:
        expression, replacement, flags = split_expression(text)
        unknown = set(flags) - set("gis")
        if unknown:
            raise ValueError(f'"{unknown.pop()}" is no flag of an expression: those are g, i and s')
        self.all = "g" in flags
        self.pattern = Pattern(expression, ignore_case="i" in flags, lines="s" not in flags)
        self.pieces: list[Piece] = []
        for part in (replacement,) if catalogue is None else parse_format(replacement, catalogue).parts:
            if isinstance(part, str):
                self.pieces += replacement_pieces(part, self.pattern.groups)
            else:
                self.pieces.append(part.reader())

    def text(self, run: Run, match: Any) -> str:
        """What takes the place of one match."""
        out = []
        for piece in self.pieces:
            if isinstance(piece, str):
                out.append(piece)
            elif isinstance(piece, int):
                out.append(match.group(piece) or "")
            else:
                value = piece(run)
                out.append("" if value is None else str(value))
        return "".join(out)

    def replace(self, run: Run, text: str) -> str | None:
        """The text with the first match, or all, replaced; None when nothing matches. May raise TimeoutError."""
        return replaced(text, self.pattern, lambda match: self.text(run, match), self.all)


def split_expression(text: str) -> tuple[str, str, str]:
    """The three parts of /expression/replacement/flags; an escaped delimiter is itself. Raises ValueError."""
    mark = text[:1]
    if not mark or mark.isalnum() or mark in "\\ \t":
        raise ValueError("an expression has the form /expression/replacement/flags")
    parts = [""]
    at = 1
    while at < len(text):
        char = text[at]
        if char == "\\" and at + 1 < len(text) and len(parts) < 3:
            parts[-1] += mark if text[at + 1] == mark else text[at : at + 2]
            at += 2
            continue
        if char == mark and len(parts) < 3:
            parts.append("")
        else:
            parts[-1] += char
        at += 1
    if len(parts) < 3 or not parts[0]:
        raise ValueError(f"an expression has the form {mark}expression{mark}replacement{mark}flags")
    return parts[0], parts[1], parts[2].strip()


def replacement_pieces(text: str, groups: int) -> Iterator[Piece]:
    """The literal text, group numbers and Request-URI of a replacement. Raises ValueError for a group that is not."""
    literal = ""
    at = 0
    while at < len(text):
        char = text[at]
        at += 1
        if char != "\\" or at == len(text):
            literal += char
            continue
        char = text[at]
        at += 1
        if char in "0123456789":
            if int(char) > groups:
                raise ValueError(f"the expression has {groups} groups, the replacement asks for \\{char}")
            yield literal
            yield int(char)
            literal = ""
        elif char == "u":
            yield literal
            yield lambda run: run.ruri
            literal = ""
        else:
            literal += {"n": "\n", "r": "\r", "t": "\t"}.get(char, char)
    yield literal


def matches(text: str, pattern: Pattern, start: int, all: bool) -> Iterator[Any]:
    """Match objects from `start` on, not overlapping; empty ones only when they are the first."""
    for _ in range(MAX_MATCHES):
        match = pattern.find(text, start)
        if match is None:
            return
        yield match
        if not all:
            return
        start = match.end() + (match.end() == match.start())
        if start > len(text):
            return


def replaced(text: str, pattern: Pattern, make: Callable[[Any], str], all: bool) -> str | None:
    """The text with matches replaced; None when nothing matches."""
    out = []
    at = 0
    for match in matches(text, pattern, 0, all):
        out += [text[at : match.start()], make(match)]
        at = match.end()
    if not out:
        return None
    out.append(text[at:])
    return "".join(out)


class TextOps(Module):
    """Search and replace in messages with regular expressions."""

    name = "textops"

    def declare(self, catalogue: Catalogue) -> None:
        """Keep the catalogue: expressions are prepared while the script is checked, before the module is bound."""
        self._catalogue = catalogue
        super().declare(catalogue)

    # --- searching

    @script_function(routes=MESSAGE)
    def search(self, run: Run, re: ByLine) -> int:
        """Search the whole message, the start line included."""
        return self._guarded(lambda: re.search(f"{run.msg.head}\r\n{body_text(run)}"))

    @script_function(routes=MESSAGE)
    def search_body(self, run: Run, re: ByLine) -> int:
        """Search the body."""
        return self._guarded(lambda: re.search(body_text(run)))

    @script_function(routes=MESSAGE)
    def search_append(self, run: Run, re: ByLine, txt: str) -> int:
        """Put `txt` after the first match in the headers or the body. -1 when nothing matches."""
        return self._anywhere(run, re, lambda match: match.group(0) + txt, all=False)

    @script_function(routes=MESSAGE)
    def search_append_body(self, run: Run, re: ByLine, txt: str) -> int:
        """Put `txt` after the first match in the body. -1 when nothing matches."""
        return self._guarded(lambda: self._in_body(run, re, lambda match: match.group(0) + txt, all=False))

    # --- replacing

    @script_function(routes=MESSAGE)
    def replace(self, run: Run, re: ByLine, txt: str) -> int:
        """Replace the first match in the headers or the body. -1 when nothing matches."""
        return self._anywhere(run, re, lambda match: txt, all=False)

    @script_function(routes=MESSAGE)
    def replace_all(self, run: Run, re: ByLine, txt: str) -> int:
        """Replace every match in the headers and the body. -1 when nothing matches."""
        return self._anywhere(run, re, lambda match: txt, all=True)

    @script_function(routes=MESSAGE)
    def replace_body(self, run: Run, re: ByLine, txt: str) -> int:
        """Replace the first match in the body. -1 when nothing matches."""
        return self._guarded(lambda: self._in_body(run, re, lambda match: txt, all=False))

    @script_function(routes=MESSAGE)
    def replace_body_all(self, run: Run, re: ByLine, txt: str) -> int:
        """Replace every match in the body, line by line. -1 when nothing matches."""
        return self._guarded(lambda: self._in_body(run, re, lambda match: txt, all=True))

    @script_function(routes=MESSAGE)
    def replace_body_atonce(self, run: Run, re: AtOnce, txt: str) -> int:
        """Replace every match in the body, which is seen as one line: "^.+$" is all of it. -1 when nothing matches."""
        return self._guarded(lambda: self._in_body(run, re, lambda match: txt, all=True))

    # --- substitution

    def prepare(self, text: str) -> Substitution:
        """The argument of the subst functions, read at load."""
        return Substitution(text, self._catalogue)

    def prepare_given(self, text: str) -> Substitution:
        """One that a variable holds: it may come from a message, and must not show other variables."""
        return Substitution(text, None)

    @script_function(routes=MESSAGE)
    def subst(self, run: Run, re_repl_flags: Expression) -> int:
        """Replace "/expression/replacement/flags" in the headers and the body. -1 when nothing matches."""
        return self._anywhere(run, re_repl_flags.pattern, lambda m: re_repl_flags.text(run, m), re_repl_flags.all)

    @script_function(routes=MESSAGE)
    def subst_body(self, run: Run, re_repl_flags: Expression) -> int:
        """Replace "/expression/replacement/flags" in the body. -1 when nothing matches."""
        given = re_repl_flags
        return self._guarded(lambda: self._in_body(run, given.pattern, lambda m: given.text(run, m), given.all))

    @script_function(routes=URI_ROUTES)
    def subst_uri(self, run: Run, re_repl_flags: Expression) -> int:
        """Replace "/expression/replacement/flags" in the Request-URI. -1 when nothing matches or no URI is left."""
        return self._guarded(lambda: self._in_ruri(run, re_repl_flags.replace(run, run.ruri)))

    @script_function(routes=URI_ROUTES)
    def subst_user(self, run: Run, re_repl_flags: Expression) -> int:
        """Replace "/expression/replacement/flags" in the user part of the Request-URI. As subst_uri."""
        return self._guarded(lambda: self._in_user(run, re_repl_flags))

    # --- details

    def _guarded(self, search: Callable[[], bool]) -> int:
        try:
            return 1 if search() else -1
        except TimeoutError:
            self.core.log.error("textops: an expression took too long")
            return -1

    def _anywhere(self, run: Run, pattern: Pattern, make: Callable[[Any], str], all: bool) -> int:
        """In the headers, and in the body: when all matches are wanted or the headers had none."""

        def change() -> bool:
            in_headers = self._in_headers(run, pattern, make, all)
            if in_headers and not all:
                return True
            return self._in_body(run, pattern, make, all) or in_headers

        return self._guarded(change)

    def _in_headers(self, run: Run, pattern: Pattern, make: Callable[[Any], str], all: bool) -> bool:
        head = run.msg.head
        found = False
        for match in list(matches(head, pattern, head.index("\r\n") + 2, all)):
            run.edits.replace(match.start(), match.end(), make(match))
            found = True
        return found

    @staticmethod
    def _in_body(run: Run, pattern: Pattern, make: Callable[[Any], str], all: bool) -> bool:
        text = body_text(run)
        if not text:
            return False
        changed = replaced(text, pattern, make, all)
        if changed is None or len(changed) > max(MAX_BODY, len(text)):
            return False
        run.edits.set_body(changed.encode("utf-8", "surrogateescape"), None)
        return True

    @staticmethod
    def _in_ruri(run: Run, text: str | None) -> bool:
        if not text:
            return False
        try:
            parse_uri(text)
        except ParseError:
            return False
        run.ruri = text
        return True

    def _in_user(self, run: Run, substitution: Substitution) -> bool:
        try:
            user = parse_uri(run.ruri).user
        except ParseError:
            return False
        changed = substitution.replace(run, user)
        if not user or changed is None:
            return False
        at = run.ruri.index(user, run.ruri.index(":") + 1)
        text = run.ruri[:at] + changed + run.ruri[at + len(user) :]
        return self._in_ruri(run, text if changed else run.ruri[:at] + run.ruri[at + len(user) + 1 :])


def body_text(run: Run) -> str:
    """The body with the changes made so far, as text."""
    body = run.edits.body
    return (run.msg.body if body is None else body).decode("utf-8", "surrogateescape")
