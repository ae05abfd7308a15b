"""A ladder diagram of SIP messages in plain text: a column for each party, an arrow for each message."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH = 34


class Ladder:
    """Collects what the phones sent and received, in order of time, and draws it."""

    def __init__(self, columns: Sequence[str]) -> None:
        """columns: the parties from left to right."""
        self._columns = list(columns)
        self._rows: list[tuple[float, int, int, str]] = []

    def note(self, at_s: float, source: str, destination: str, label: str) -> None:
        """One message at a moment (seconds, any zero): from column to column, with its first line in short."""
        self._rows.append((at_s, self._columns.index(source), self._columns.index(destination), label))

    def draw(self) -> str:
        """The diagram; times are seconds since the first message."""
        if not self._rows:
            return ""
        rows = sorted(self._rows, key=lambda row: row[0])
        start = rows[0][0]
        width = max(WIDTH, *(len(label) + 6 for _, _, _, label in rows))
        lines = [" " * 8 + "".join(name.center(width) for name in self._columns)]
        centres = [8 + width * index + width // 2 for index in range(len(self._columns))]
        for at_s, source, destination, label in rows:
            left, right = sorted((centres[source], centres[destination]))
            line = [" "] * (centres[-1] + 1)
            for centre in centres:
                line[centre] = "|"
            text = f" {label} ".center(right - left - 1, "-")
            line[left + 1 : right] = list(text)
            if source < destination:
                line[right - 1] = ">"
            else:
                line[left + 1] = "<"
            lines.append(f"{at_s - start:7.3f} " + "".join(line)[8:].rstrip())
        return "\n".join(lines)
