"""From files to one text: `include_file`, `import_file` and the external preprocessor, with the way back kept.

Every line of the text remembers the file and line it came from, so that findings and tracebacks name those.
"""

from __future__ import annotations

import os
import re
import subprocess
from typing import Final

from opensipspy.script.errors import ERROR, Finding, Pos, ScriptErrors

MAX_DEPTH: Final = 20
MAX_BYTES: Final = 16 * 1024 * 1024
PREPROCESSOR_LIMIT_S: Final = 60
_INCLUDE: Final = re.compile(r"""^[ \t]*(include_file|import_file)[ \t]+(["'])(.*?)\2[ \t]*;?[ \t]*(?:#.*)?$""")
_BROKEN_INCLUDE: Final = re.compile(r"^[ \t]*(include_file|import_file)\b")
# What m4 and cpp write to say where the next line came from: `#line 7 "file"`, `# 7 "file"`.
_SYNC: Final = re.compile(r'^#(?:line)?[ \t]+([0-9]+)(?:[ \t]+"([^"]*)")?.*$')


class Source:
    """The whole text of a script. origins[n] is the (file, line) of line n, from 0; files: all that were read."""

    def __init__(self, path: str) -> None:
        self.path: str = path
        self.lines: list[str] = []
        self.origins: list[tuple[str, int]] = []
        self.files: list[str] = []
        self._read: dict[str, list[str]] = {}

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"

    def place(self, line: int, col: int, end_line: int = 0, end_col: int = 0) -> Pos:
        """The place in its own file of a line (from 1) and column of the whole text."""
        file, own = self.origins[min(line, len(self.origins)) - 1] if self.origins else (self.path, 1)
        end_line = end_line or line
        last_file, last = self.origins[min(end_line, len(self.origins)) - 1] if self.origins else (self.path, 1)
        if last_file != file:
            last, end_col = own, 0
        return Pos(file, own, col, last, end_col or col + 1)

    def file_lines(self, file: str) -> list[str]:
        """The lines of a file as it was read."""
        return self._read.get(file, [])

    # -- reading

    def add_file(self, path: str, depth: int = 0, at: Pos | None = None) -> None:
        here = at or Pos(path, 1, 1)
        if depth > MAX_DEPTH:
            raise ScriptErrors([Finding(here, ERROR, "include-depth", f"files include each other {MAX_DEPTH} deep")])
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            reason = f"cannot read {path}: {error.strerror or error}"
            raise ScriptErrors([Finding(here, ERROR, "unreadable", reason)], self.file_lines) from None
        if len(data) > MAX_BYTES:
            raise ScriptErrors([Finding(here, ERROR, "too-long", f"{path} is longer than {MAX_BYTES} bytes")])
        self.files.append(path)
        # Some editors begin a file with a byte order mark.
        self.add_text(data.decode("utf-8", "surrogateescape").removeprefix("\ufeff"), path, depth)

    def add_text(self, text: str, path: str, depth: int = 0) -> None:
        lines = text.replace("\r\n", "\n").split("\n")
        if lines and not lines[-1]:
            lines.pop()
        self._read[path] = lines
        for number, line in enumerate(lines, 1):
            found = _INCLUDE.match(line)
            if found is None:
                if _BROKEN_INCLUDE.match(line):
                    where = Pos(path, number, 1, number, len(line) + 1)
                    word = line.split()[0]
                    hint = f'{word} "path", alone on its line'
                    raise ScriptErrors(
                        [Finding(where, ERROR, "include-syntax", f"{word} needs a quoted path", hint)], self.file_lines
                    )
                self.lines.append(line)
                self.origins.append((path, number))
                continue
            name = found.group(3)
            where = Pos(path, number, found.start(3) + 1, number, found.end(3) + 1)
            # First against the working directory, then beside the file that includes it.
            beside = os.path.join(os.path.dirname(path), name)
            self.add_file(name if os.path.exists(name) or os.path.isabs(name) else beside, depth + 1, where)
        if sum(map(len, self.lines)) > MAX_BYTES:
            raise ScriptErrors([Finding(Pos(path, 1, 1), ERROR, "too-long", f"more than {MAX_BYTES} bytes in all")])


def read_source(path: str, preprocessor: str = "", text: str | None = None) -> Source:
    """Read a script with everything it includes. Raises ScriptErrors.

    preprocessor: a shell command that reads the whole text and writes what is to be used (`-p`). text: what to use
    instead of the content of `path`.
    """
    source = Source(path)
    if text is None:
        source.add_file(path)
    else:
        source.add_text(text, path)
    return _preprocessed(source, preprocessor) if preprocessor else source


def _preprocessed(source: Source, command: str) -> Source:
    where = Pos(source.path, 1, 1)
    try:
        done = subprocess.run(
            command,
            shell=True,
            input=source.text.encode("utf-8", "surrogateescape"),
            capture_output=True,
            timeout=PREPROCESSOR_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        reason = f"the preprocessor did not end within {PREPROCESSOR_LIMIT_S} s"
        raise ScriptErrors([Finding(where, ERROR, "preprocessor", reason)]) from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()[-500:]
        reason = f"the preprocessor ended with status {done.returncode}" + (f": {said}" if said else "")
        raise ScriptErrors([Finding(where, ERROR, "preprocessor", reason)])
    result = Source(source.path)
    result.files = source.files
    result._read = dict(source._read)
    file, number = source.path, 0
    output = done.stdout.decode("utf-8", "surrogateescape").split("\n")
    same = len(output) - 1 == len(source.lines)
    synced = False
    for index, line in enumerate(output[:-1] if output and not output[-1] else output):
        sync = _SYNC.match(line)
        if sync is not None:
            synced = True
            number = int(sync.group(1)) - 1
            file = sync.group(2) or file
            continue
        number += 1
        result.lines.append(line)
        # Without line marks a text of as many lines as before is taken to have kept them.
        origin = source.origins[index] if same and not synced and index < len(source.origins) else (file, number)
        result.origins.append(origin)
    if not same and not synced:
        result._read[source.path] = list(result.lines)
    return result
