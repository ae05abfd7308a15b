"""What is wrong with a script, as its writer should read it: place, source line, caret, cause, nearest name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from opensipspy.script.parse import Script

ERROR: Final = "error"
WARNING: Final = "warning"
NOTE: Final = "note"
# A file with more findings than this shows the first ones and the count of the rest.
MOST_SHOWN: Final = 200
# Of a longer line only the part around the place is shown.
WIDEST: Final = 160
# A comment that silences warnings of its own line, or of the next one when it stands alone.
_IGNORE: Final = re.compile(r"#\s*opensipspy:\s*ignore(?:\[([^\]]*)\])?")
TOO_DEEP: Final = "this is nested too deep: too many levels, or an if with too many else"


class Pos(NamedTuple):
    """A place in a file: line and column count from 1; end_line, end_col is the place after the last character."""

    file: str
    line: int
    col: int
    end_line: int = 0
    end_col: int = 0


class Finding(NamedTuple):
    """One thing to say about a script. severity: "error", "warning" or "note"; code: a lasting short name."""

    pos: Pos
    severity: str
    code: str
    message: str
    hint: str = ""

    @property
    def file(self) -> str:
        return self.pos.file

    @property
    def line(self) -> int:
        return self.pos.line

    @property
    def col(self) -> int:
        return self.pos.col

    def render(self, source: Callable[[str], Sequence[str]]) -> str:
        """The finding as text; `source(file)` gives the lines of a file, none when it cannot be read."""
        pos = self.pos
        head = f"{pos.file}:{pos.line}:{pos.col}: {self.severity}: {self.message}"
        if self.hint:
            head += f" ({self.hint})"
        lines = source(pos.file)
        if not 0 < pos.line <= len(lines):
            return head
        text = lines[pos.line - 1].rstrip("\r\n")
        start = max(0, pos.col - 1 - WIDEST // 2) if len(text) > WIDEST else 0
        # What is no text could do anything to a terminal.
        text = "".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in text[start : start + WIDEST])
        # Tabs stay tabs before the caret, so that it stands below its column on every terminal.
        lead = "".join("\t" if c == "\t" else " " for c in text[: pos.col - 1 - start])
        width = 1
        if pos.end_line == pos.line and pos.end_col > pos.col:
            width = min(pos.end_col, start + len(text) + 1) - pos.col
        return f"{head}\n    {text}\n    {lead}{'^' * max(width, 1)}"

    def as_dict(self) -> dict[str, object]:
        """For JSON output."""
        pos = self.pos
        return {
            "file": pos.file,
            "line": pos.line,
            "column": pos.col,
            "end_line": pos.end_line or pos.line,
            "end_column": pos.end_col or pos.col + 1,
            "severity": self.severity,
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
        }


class ScriptErrors(Exception):
    """A script that cannot run: all findings of it, not the first only.

    source: gives the lines of a file. script: what the parser could read in spite of them, None when that is nothing.
    """

    def __init__(
        self,
        findings: Iterable[Finding],
        source: Callable[[str], Sequence[str]] | None = None,
        script: Script | None = None,
    ) -> None:
        self.script: Script | None = script
        self.findings: list[Finding] = in_order(findings)
        self.source: Callable[[str], Sequence[str]] = source or (lambda file: ())
        super().__init__(f"{sum(f.severity == ERROR for f in self.findings)} errors in the script")

    def render(self) -> str:
        """All findings with their source lines, and a count."""
        return render(self.findings, self.source)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Each finding once, by file and place."""
    return sorted(set(findings), key=lambda f: (f.pos.file, f.pos.line, f.pos.col, f.severity, f.message))


def silenced(findings: Iterable[Finding], source: Callable[[str], Sequence[str]]) -> list[Finding]:
    """The findings without the warnings that a comment `# opensipspy: ignore[rule, ...]` takes back.

    The comment stands at the end of the line, or alone on the line above; without brackets it means every rule. Errors
    stay: a script that cannot run cannot be wished well.
    """
    kept: list[Finding] = []
    marks: dict[str, dict[int, frozenset[str]]] = {}
    for finding in findings:
        if finding.severity == ERROR:
            kept.append(finding)
            continue
        if finding.file not in marks:
            marks[finding.file] = _marks(source(finding.file))
        rules = marks[finding.file].get(finding.line, frozenset())
        if "*" not in rules and finding.code not in rules:
            kept.append(finding)
    return kept


def _marks(lines: Sequence[str]) -> dict[int, frozenset[str]]:
    """The rules that comments silence, by the line they are meant for."""
    found: dict[int, frozenset[str]] = {}
    for number, line in enumerate(lines, 1):
        mark = _IGNORE.search(line)
        if mark is None:
            continue
        words = frozenset(word.strip() for word in (mark.group(1) or "*").split(","))
        alone = not line[: mark.start()].strip()
        place = number + 1 if alone else number
        found[place] = found.get(place, frozenset()) | words
    return found


def has_errors(findings: Iterable[Finding]) -> bool:
    return any(f.severity == ERROR for f in findings)


def render(findings: Sequence[Finding], source: Callable[[str], Sequence[str]]) -> str:
    """Findings as text, one after the other, with their count at the end."""
    shown = [f.render(source) for f in findings[:MOST_SHOWN]]
    if len(findings) > MOST_SHOWN:
        shown.append(f"... and {len(findings) - MOST_SHOWN} more")
    errors = sum(f.severity == ERROR for f in findings)
    warnings = sum(f.severity == WARNING for f in findings)
    shown.append(f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}")
    return "\n".join(shown)
