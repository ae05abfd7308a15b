"""What happened to a message, in order: the statements that ran with their values, what was asked, logged and sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from opensipspy.script.probes import Point, Watch
from opensipspy.script.run import Run
from opensipspy.server.console import shown

STATEMENT_RAN: Final = "statement"
CONDITION: Final = "condition"
CASE: Final = "case"
RESULT: Final = "result"
WRITE: Final = "write"
LOG: Final = "log"
SENT: Final = "sent"
LOOKUP: Final = "lookup"
TIMER: Final = "timer"
EVENT: Final = "event"
# A script that goes round in circles must not fill the memory of whoever tests it.
MOST_ENTRIES: Final = 200_000
LONGEST: Final = 300


class Entry(NamedTuple):
    """One thing that happened. depth: how many routes deep; file, line, route: "" and 0 for what is not of the script.

    text: what; answer: with which outcome, "" when that says nothing.
    """

    at_s: float
    kind: str
    text: str
    answer: str = ""
    file: str = ""
    line: int = 0
    route: str = ""
    depth: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without what is empty."""
        made = {name: value for name, value in self._asdict().items() if value not in ("", 0)}
        made["at_s"] = round(self.at_s, 6)
        return made


class Journal(Watch):
    """Notes everything, and counts what coverage wants to know. now: the clock, seconds."""

    values = True

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self.entries: list[Entry] = []
        self.truncated = False
        # Statements and cases: how often; conditions: how often false, how often true.
        self.passed: dict[int, int] = {}
        self.outcomes: dict[int, list[int]] = {}
        # The first run that was seen since it was last taken away.
        self.run: Run | None = None
        self._now = now
        self._read: list[str] = []

    def add(self, kind: str, text: str, answer: str = "", point: Point | None = None, depth: int = 0) -> None:
        """Note one thing."""
        if len(self.entries) >= MOST_ENTRIES:
            self.truncated = True
            return
        if point is None:
            self.entries.append(Entry(self._now(), kind, text, answer))
        else:
            self.entries.append(Entry(self._now(), kind, text, answer, point.file, point.line, point.route, depth))

    def insert(self, index: int, kind: str, text: str) -> None:
        """Note what came before entry `index`."""
        self.entries.insert(index, Entry(self._now(), kind, text))

    # -- the watch

    def statement(self, run: Run, number: int) -> None:
        self.passed[number] = self.passed.get(number, 0) + 1
        if self.run is None:
            self.run = run
        self._read.clear()
        point = self.points[number]
        self.add(STATEMENT_RAN, point.text, "", point, len(run.route_stack))

    def condition(self, run: Run, number: int, outcome: Any) -> Any:
        true = outcome > 0 if isinstance(outcome, int) else bool(outcome)
        self.outcomes.setdefault(number, [0, 0])[true] += 1
        point = self.points[number]
        answer = "true" if true else "error, taken as false" if outcome == -1 and outcome is not True else "false"
        last = self.entries[-1] if self.entries else None
        if last is not None and last.kind == RESULT and last.text.removesuffix(")") in point.text:
            # The condition is the call: one line tells both.
            del self.entries[-1]
            answer += f" (returned {last.answer})"
        self.add(CONDITION, point.text, answer + self._taken(), point, len(run.route_stack))
        return outcome

    def case(self, run: Run, first: int, entry: int) -> None:
        number = first + entry
        self.passed[number] = self.passed.get(number, 0) + 1
        point = self.points[number]
        self.add(CASE, point.text, "taken" + self._taken(), point, len(run.route_stack))

    def value(self, run: Run, text: str, value: Any) -> Any:
        if text.endswith("="):
            self._read.clear()
            self.add(WRITE, text, clip(shown(value)))
        elif len(self._read) < 20:
            # A format's text is shown by what came out of it.
            self._read.append(clip(f"{text} = {shown(value)}" if text.startswith("$") else shown(value)))
        return value

    def result(self, run: Run, name: str, result: int) -> None:
        self.add(RESULT, f"{name}()", f"{result}{self._taken()}")

    def _taken(self) -> str:
        """The values read since the last time, in brackets."""
        if not self._read:
            return ""
        told = "  [" + ", ".join(dict.fromkeys(self._read)) + "]"
        self._read.clear()
        return told

    # -- read back

    def lines_run(self, start: int = 0) -> list[tuple[str, int, str]]:
        """(file, line, route) of the statements from entry `start` on, each line once in a row."""
        found: list[tuple[str, int, str]] = []
        for entry in self.entries[start:]:
            if entry.kind == STATEMENT_RAN:
                place = (entry.file, entry.line, entry.route)
                if not found or found[-1] != place:
                    found.append(place)
        return found


def clip(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def render(entries: Iterable[Entry], lines_of: Callable[[str], Sequence[str]], main: str = "") -> list[str]:
    """The entries as lines to read. main: the file whose name is not told."""
    out: list[str] = []
    route, file, line = "", main, 0
    for entry in entries:
        if entry.kind == STATEMENT_RAN:
            if (entry.route, entry.file) != (route, file):
                route, file, line = entry.route, entry.file, 0
                out.append(f"  {route}" + (f"  ({file})" if file != main else ""))
            source = lines_of(entry.file)
            # A second statement of the same line is told by itself.
            whole = 0 < entry.line <= len(source) and entry.line != line
            text = source[entry.line - 1].strip() if whole else entry.text
            line = entry.line
            out.append(f"  {entry.line:5}  {'  ' * entry.depth}{text}")
        elif entry.kind in (CONDITION, CASE):
            out.append(f"           {'  ' * entry.depth}? {entry.text}: {entry.answer}")
        elif entry.kind == RESULT:
            out.append(f"           = {entry.text} returned {entry.answer}")
        elif entry.kind == WRITE:
            out.append(f"           = {entry.text} {entry.answer}")
        elif entry.kind == LOOKUP:
            out.append(f"  ask      {entry.text} -> {entry.answer}")
        elif entry.kind in (LOG, EVENT):
            out.append(f"  {entry.kind:7}  {entry.text}")
        elif entry.kind == TIMER:
            out.append(f"  timer    {entry.at_s:.3f} s  {entry.text}")
            route, line = "", 0
        else:
            out.append(f"  {entry.kind:7}  {entry.at_s:.3f} s  {entry.text}")
    return out
