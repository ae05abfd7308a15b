"""Which lines of routing scripts ran in tests, and which way their conditions went: text, HTML and lcov.

A line counts when a statement begins on it. A branch is one outcome: true or false of a condition that stands alone or
between `&&` and `||`, and each way into a switch, the way past it included.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from opensipspy.script.probes import CASE, STATEMENT
from opensipspy.server.journal import Journal

STYLE: Final = """
body{font:14px/1.4 sans-serif;margin:2em;color:#222;background:#fff}
table{border-collapse:collapse}td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #ddd}
td.n,th.n{text-align:right}pre{margin:0;line-height:1.45}
.l{display:block;white-space:pre;tab-size:4}.l b{display:inline-block;width:4em;color:#888;font-weight:normal}
.l i{display:inline-block;width:4.5em;color:#888;font-style:normal}
.y{background:#e6f6e6}.p{background:#fff5cc}.m{background:#fbdddd}.w{color:#a33;font-style:italic}
@media (prefers-color-scheme:dark){body{background:#1b1b1b;color:#ddd}td,th{border-color:#444}
.y{background:#173517}.p{background:#4a3f10}.m{background:#4f1d1d}.w{color:#f99}}
"""


class Branch:
    """One outcome. text: "is_method(...) was never false"."""

    def __init__(self, line: int, what: str, outcome: str) -> None:
        self.line = line
        self.what = what
        self.outcome = outcome
        self.count = 0

    @property
    def text(self) -> str:
        return f"{self.what} was never {self.outcome}"


class File:
    """The figures of one script file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.source: list[str] = []
        self.lines: dict[int, int] = {}
        self.branches: dict[tuple[int, int, str, str], Branch] = {}

    @property
    def name(self) -> str:
        """The path as it is seen from the working directory, when the file is below it."""
        path = Path(self.path)
        return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else self.path

    @property
    def missed_lines(self) -> list[int]:
        return sorted(line for line, count in self.lines.items() if not count)

    @property
    def missed_branches(self) -> list[Branch]:
        found = [branch for branch in self.branches.values() if not branch.count]
        return sorted(found, key=lambda branch: (branch.line, branch.text))

    @property
    def total(self) -> int:
        return len(self.lines) + len(self.branches)

    @property
    def covered(self) -> int:
        return self.total - len(self.missed_lines) - len(self.missed_branches)

    @property
    def percent(self) -> float:
        """Lines and branches together."""
        return 100 * self.covered / self.total if self.total else 100.0

    def of_line(self, line: int) -> list[Branch]:
        return [branch for branch in self.branches.values() if branch.line == line]


class Coverage:
    """The figures of all simulations that were added."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}

    def add(self, journal: Journal, sources: dict[str, list[str]]) -> None:
        """Add what one simulation's script did. sources: the lines of its files."""
        for number, point in enumerate(journal.points):
            file = self.files.get(point.file)
            if file is None:
                file = self.files[point.file] = File(point.file)
                file.source = sources.get(point.file, [])
            if point.kind == STATEMENT:
                file.lines[point.line] = file.lines.get(point.line, 0) + journal.passed.get(number, 0)
                continue
            if point.kind == CASE:
                counts = [("taken", journal.passed.get(number, 0))]
            else:
                false, true = journal.outcomes.get(number, (0, 0))
                counts = [("true", true), ("false", false)]
            for outcome, count in counts:
                key = (point.line, point.col, point.text, outcome)
                branch = file.branches.get(key)
                if branch is None:
                    branch = file.branches[key] = Branch(point.line, point.text, outcome)
                branch.count += count

    def as_data(self) -> dict[str, Any]:
        """The figures as plain data, for `merge` in another process."""
        return {
            file.path: {
                "source": [line.encode("utf-8", "replace").decode() for line in file.source],
                "lines": list(file.lines.items()),
                "branches": [[*key, branch.count] for key, branch in file.branches.items()],
            }
            for file in self.sorted_files()
        }

    def merge(self, data: dict[str, Any]) -> None:
        """Add the figures of another process."""
        for path, figures in data.items():
            file = self.files.setdefault(path, File(path))
            file.source = file.source or list(figures["source"])
            for line, count in figures["lines"]:
                file.lines[line] = file.lines.get(line, 0) + count
            for line, col, what, outcome, count in figures["branches"]:
                file.branches.setdefault((line, col, what, outcome), Branch(line, what, outcome)).count += count

    def sorted_files(self) -> list[File]:
        return [self.files[path] for path in sorted(self.files)]

    @property
    def percent(self) -> float:
        """Of all files; 100 when there is nothing."""
        total = sum(file.total for file in self.files.values())
        return 100 * sum(file.covered for file in self.files.values()) / total if total else 100.0

    # -- reports

    def text(self) -> list[str]:
        """A table, and below it what was missed."""
        files = self.sorted_files()
        width = max([len(file.name) for file in files], default=0)
        width = max(width, len("script"))
        head = f"{'script':{width}}  lines  missed  branches  missed    cover"
        out = [head, "-" * len(head)]
        for file in files:
            out.append(
                f"{file.name:{width}}  {len(file.lines):5}  {len(file.missed_lines):6}  {len(file.branches):8}  "
                f"{len(file.missed_branches):6}  {file.percent:6.1f} %"
            )
        if len(files) > 1:
            out.append(f"{'all':{width}}  {'':5}  {'':6}  {'':8}  {'':6}  {self.percent:6.1f} %")
        for file in files:
            missed = set(file.missed_lines)
            if missed:
                out.append(f"{file.name}: lines that never ran: {ranges(sorted(missed))}")
            # What never ran at all has no outcomes to miss.
            out += [
                f"{file.name}:{branch.line}: {branch.text}"
                for branch in file.missed_branches
                if branch.line not in missed
            ]
        return out

    def lcov(self) -> str:
        """The report as lcov's tools read it."""
        out = []
        for file in self.sorted_files():
            out.append(f"TN:\nSF:{file.path}")
            hit = 0
            block: dict[int, int] = {}
            for branch in sorted(file.branches.values(), key=lambda each: each.line):
                index = block[branch.line] = block.get(branch.line, -1) + 1
                # "-" is lcov's word for a line that was never reached.
                reached = any(each.count for each in file.of_line(branch.line))
                out.append(f"BRDA:{branch.line},0,{index},{branch.count if reached else '-'}")
                hit += bool(branch.count)
            if file.branches:
                out.append(f"BRF:{len(file.branches)}\nBRH:{hit}")
            out += [f"DA:{line},{count}" for line, count in sorted(file.lines.items())]
            out.append(f"LF:{len(file.lines)}\nLH:{len(file.lines) - len(file.missed_lines)}\nend_of_record")
        return "\n".join(out) + "\n"

    def html(self) -> str:
        """One page with every file, its lines coloured; it needs nothing else."""
        rows = "".join(
            f'<tr><td><a href="#f{number}">{html.escape(file.name)}</a></td><td class=n>{len(file.lines)}</td>'
            f"<td class=n>{len(file.missed_lines)}</td><td class=n>{len(file.branches)}</td>"
            f"<td class=n>{len(file.missed_branches)}</td><td class=n>{file.percent:.1f} %</td></tr>\n"
            for number, file in enumerate(self.sorted_files())
        )
        pages = "".join(
            f'<h2 id="f{number}">{html.escape(file.name)}</h2>\n<pre>{"".join(shown_lines(file))}</pre>\n'
            for number, file in enumerate(self.sorted_files())
        )
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Coverage of routing scripts</title>'
            f"<style>{STYLE}</style></head><body><h1>Coverage of routing scripts: {self.percent:.1f} %</h1>\n"
            "<p><span class=y>ran</span> <span class=p>ran, not every way</span> <span class=m>never ran</span></p>\n"
            "<table><tr><th>script</th><th class=n>lines</th><th class=n>missed</th><th class=n>branches</th>"
            f"<th class=n>missed</th><th class=n>cover</th></tr>\n{rows}</table>\n{pages}</body></html>\n"
        )

    def write(self, how: str) -> str:
        """Write "html:FILE" or "lcov:FILE"; returns the file's name. Raises ValueError, OSError."""
        kind, _, name = how.partition(":")
        if kind not in ("html", "lcov") or not name:
            raise ValueError(f"{how!r} is none of text, html:FILE and lcov:FILE")
        path = Path(name)
        if kind == "html" and (path.is_dir() or not path.suffix):
            path = path / "index.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.html() if kind == "html" else self.lcov(), encoding="utf-8", errors="surrogateescape")
        return str(path)


def shown_lines(file: File) -> Iterable[str]:
    for number, text in enumerate(file.source, 1):
        count = file.lines.get(number)
        missed = [branch.text for branch in file.of_line(number) if not branch.count]
        kind, note = "", ""
        if count is not None:
            kind = "m" if not count else "p" if missed else "y"
            note = html.escape("  ← " + "; ".join(missed)) if count and missed else ""
        elif missed and any(branch.count for branch in file.of_line(number)):
            kind, note = "p", html.escape("  ← " + "; ".join(missed))
        times = f"{count}×" if count else ""
        escaped = html.escape(text.encode("utf-8", "replace").decode())
        tail = f"<span class=w>{note}</span>" if note else ""
        yield f'<span class="l {kind}"><b>{number}</b><i>{times}</i>{escaped}{tail}</span>'


def ranges(lines: list[int]) -> str:
    """Line numbers in short: "3, 7-9"."""
    parts: list[list[int]] = []
    for line in lines:
        if parts and line == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], line]
        else:
            parts.append([line])
    return ", ".join("-".join(map(str, part)) for part in parts)
