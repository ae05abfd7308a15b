"""Body variables: `$rb`, `$cT` and the SDP family `$sdp`, `$sdp.line`, `$sdp.session`, `$sdp.stream`.

The names of the SDP family are paths: a stream, a line and a token, each "prefix[index]", parted by "/" ("\\/" is a
slash in a prefix). A prefix matches without regard to case, an empty one matches anything. Tokens stand after the "x="
of the line, or after the line's prefix when that ends in ":", and are parted by white space or ";".
"""

from __future__ import annotations

from typing import Final

from opensipspy import sip
from opensipspy.script import bodies
from opensipspy.script.declare import Catalogue, VariableDecl
from opensipspy.script.run import INDEX_ALL, Index, Run, Value
from opensipspy.script.runtime import report
from opensipspy.script.services import ScriptServices
from opensipspy.script.variables import DELIMITER, body_text

INSERT: Final = "insert"
INSERT_AFTER: Final = "insertAfter"
MAX_LINES: Final = 2048
_TOKEN_ENDS: Final = " \t;"


class Match:
    """ "prefix[index]": the index-th thing that begins with the prefix."""

    __slots__ = ("index", "prefix")

    def __init__(self, text: str) -> None:
        self.prefix: str = text
        self.index: int = 0
        if text.endswith("]"):
            opened = text.rfind("[")
            digits = text[opened + 1 : -1].strip()
            if opened < 0 or not (digits.isascii() and digits.isdigit()) or len(digits) > 6:
                raise ValueError(f"{text!r}: an index is a number in brackets")
            self.prefix = text[:opened]
            self.index = int(digits)
        self.prefix = self.prefix.replace("\\/", "/").lower()

    def fits(self, text: str) -> bool:
        return text[: len(self.prefix)].lower() == self.prefix


class Path:
    """The inner name of an SDP variable, taken apart."""

    __slots__ = ("line", "stream", "token")

    def __init__(self, text: str, with_stream: bool) -> None:
        pieces = _split(text)
        self.stream: Match | None = None
        if with_stream:
            self.stream = Match(pieces.pop(0))
            if not pieces:
                pieces.append("")
        if len(pieces) > 2:
            raise ValueError(f"{text!r} has too many parts")
        self.line: Match = Match(pieces[0])
        self.token: Match | None = Match(pieces[1]) if len(pieces) > 1 else None


def _split(text: str) -> list[str]:
    """Split at each "/" that no backslash protects."""
    pieces = [""]
    at = 0
    while at < len(text):
        if text.startswith("\\/", at):
            pieces[-1] += "\\/"
            at += 2
            continue
        if text[at] == "/":
            pieces.append("")
        else:
            pieces[-1] += text[at]
        at += 1
    return pieces


class Description:
    """The lines of an SDP body, and its line end."""

    __slots__ = ("end", "last_ended", "lines")

    def __init__(self, text: str) -> None:
        self.end: str = "\r\n" if "\r\n" in text else "\n"
        self.lines: list[str] = text.split(self.end)
        self.last_ended: bool = self.lines[-1] == ""
        if self.last_ended:
            self.lines.pop()

    def text(self) -> str:
        return self.end.join(self.lines) + (self.end if self.last_ended else "")

    def bounds(self, path: Path, session: bool) -> tuple[int, int] | None:
        """The range of lines a path looks in; None when its stream does not exist."""
        lines = self.lines
        if path.stream is not None:
            left = path.stream.index
            for at, line in enumerate(lines):
                if line[:2] == "m=" and path.stream.fits(line[2:]):
                    if left:
                        left -= 1
                        continue
                    return at, self._next_stream(at + 1)
            return None
        return 0, self._next_stream(0) if session else len(lines)

    def _next_stream(self, at: int) -> int:
        while at < len(self.lines) and self.lines[at][:2] != "m=":
            at += 1
        return at

    def find(self, path: Path, session: bool) -> int:
        """The number of the line a path means, -1 when there is none."""
        bounds = self.bounds(path, session)
        if bounds is None:
            return -1
        start, end = bounds
        left = path.line.index
        if not path.line.prefix:
            return start + left if start + left < end else -1
        for at in range(start, end):
            if path.line.fits(self.lines[at]):
                if left == 0:
                    return at
                left -= 1
        return -1


def _token(line: str, path: Path) -> tuple[int, int] | None:
    """The range of the token in a line."""
    wanted = path.token
    if wanted is None:
        return None
    prefix = path.line.prefix
    at = len(prefix) if prefix.endswith(":") else 2
    left = wanted.index
    while at < len(line):
        while at < len(line) and line[at] in _TOKEN_ENDS:
            at += 1
        end = at
        while end < len(line) and line[end] not in _TOKEN_ENDS:
            end += 1
        if at < end and wanted.fits(line[at:end]):
            if left == 0:
                return at, end
            left -= 1
        at = end
    return None


class BodyVariables:
    """The getters and setters."""

    def __init__(self, services: ScriptServices, catalogue: Catalogue) -> None:
        self.services: ScriptServices = services
        self.catalogue: Catalogue = catalogue

    # -- $rb and $cT

    def mime(self, name: str) -> object:
        kind, slash, subtype = name.strip().lower().partition("/")
        if not slash or not kind or not subtype:
            raise ValueError("a body is named as type/subtype")
        return f"{kind}/{subtype}"

    def get_body(self, run: Run, name: str | None, index: Index) -> Value:
        if not run.msg.body:
            return None
        if name is None and (index is None or index == INDEX_ALL):
            return body_text(run.msg.body)
        found = [part for part in bodies.message_parts(run) if name is None or part.mime == name]
        at = 0 if index is None or isinstance(index, str) else index
        if not -len(found) <= at < len(found):
            return None
        part = found[at]
        return body_text(run.msg.body[part.start : part.end])

    def get_content_type(self, run: Run, name: object, index: Index) -> Value:
        main = run.msg.value(sip.H_CONTENT_TYPE)
        if index is None:
            return main or None
        inner: list[str] = []
        if main.lower().startswith("multipart/"):
            inner = [part.content_type for part in bodies.message_parts(run)]
        if index == INDEX_ALL:
            return DELIMITER.join([main, *inner]) if main else None
        return inner[index] if isinstance(index, int) and -len(inner) <= index < len(inner) else None

    # -- the SDP family

    def get_sdp(self, run: Run, name: object, index: Index) -> Value:
        return bodies.sdp(run)

    def set_sdp(self, run: Run, name: object, index: Index, value: Value) -> None:
        if value is not None and (not isinstance(value, str) or not value.startswith("v=")):
            return report(run, "an SDP body begins with v=")
        bodies.set_sdp(run, value)
        return None

    def line_path(self, name: str) -> object:
        return Path(name, with_stream=False)

    def stream_path(self, name: str) -> object:
        return Path(name, with_stream=True)

    def get_line(self, run: Run, path: Path, index: Index) -> Value:
        return self._get(run, path, False)

    def get_session(self, run: Run, path: Path, index: Index) -> Value:
        return self._get(run, path, True)

    def _get(self, run: Run, path: Path, session: bool) -> Value:
        text = bodies.sdp(run)
        if text is None:
            return None
        description = Description(text)
        at = description.find(path, session)
        if at < 0:
            return None
        line = description.lines[at]
        if path.token is None:
            return line
        place = _token(line, path)
        return line[place[0] : place[1]] if place is not None else None

    def get_stream_index(self, run: Run, path: Path, index: Index) -> Value:
        """The number, in the whole description, of the line that a stream's path finds."""
        text = bodies.sdp(run)
        if text is None:
            return None
        description = Description(text)
        bounds = description.bounds(path, False)
        if bounds is None:
            return None
        if path.token is None:
            at = description.find(path, False)
            return at if at >= 0 else None
        for at in range(*bounds):
            line = description.lines[at]
            if path.line.fits(line) and _token(line, path) is not None:
                return at
        return None

    def set_line(self, run: Run, path: Path, index: Index, value: Value) -> None:
        self._set(run, path, index, value, False)

    def set_session(self, run: Run, path: Path, index: Index, value: Value) -> None:
        self._set(run, path, index, value, True)

    def _set(self, run: Run, path: Path, index: Index, value: Value, session: bool) -> None:
        text = bodies.sdp(run)
        if text is None:
            return report(run, "the message has no SDP body")
        new = None if value is None else str(value).rstrip("\r\n")
        if new is not None and ("\n" in new or "\r" in new):
            return report(run, "a line of an SDP body cannot hold a line feed")
        description = Description(text)
        lines = description.lines
        at = description.find(path, session)
        if at < 0 and index == INSERT and not path.line.prefix:
            # One place behind the last line is where a line can still be inserted.
            bounds = description.bounds(path, session)
            if bounds is not None and bounds[0] + path.line.index == bounds[1]:
                at = bounds[1]
        if at < 0:
            return report(run, "no line of the SDP body matches")
        if len(lines) >= MAX_LINES and index in (INSERT, INSERT_AFTER):
            return report(run, f"an SDP body has at most {MAX_LINES} lines here")
        if path.token is not None:
            place = _token(lines[at], path)
            if place is None:
                return report(run, "no token of the SDP line matches")
            lines[at] = _with_token(lines[at], place, path.token, new)
        elif new is None:
            del lines[at]
        elif index == INSERT:
            lines.insert(at, new)
        elif index == INSERT_AFTER:
            lines.insert(at + 1, new)
        else:
            lines[at] = new
        bodies.set_sdp(run, description.text())
        return None

    def register(self) -> None:
        """Make all of them known."""
        add = self.catalogue.add_variable
        words = (INSERT, INSERT_AFTER)
        add(VariableDecl("$rb", "core", self.get_body, None, "optional", True, parse_name=self.mime))
        add(VariableDecl("$cT", "core", self.get_content_type, None, index=True))
        add(VariableDecl("$sdp", "core", self.get_sdp, self.set_sdp, "optional", False, True))
        for name, get, set_, parse in (
            ("$sdp.line", self.get_line, self.set_line, self.line_path),
            ("$sdp.stream", self.get_line, self.set_line, self.stream_path),
            ("$sdp.session", self.get_session, self.set_session, self.line_path),
        ):
            add(VariableDecl(name, "core", get, set_, True, True, True, parse_name=parse, index_words=words))
        add(VariableDecl("$sdp.stream.idx", "core", self.get_stream_index, None, True, parse_name=self.stream_path))


def _with_token(line: str, place: tuple[int, int], wanted: Match, new: str | None) -> str:
    """The line with a token set behind its prefix, or taken out with the separator before it."""
    start, end = place
    if new is not None:
        return line[:start] + line[start : start + len(wanted.prefix)] + new + line[end:]
    before = line[:start].rstrip(_TOKEN_ENDS)
    if len(before) == len(line[:start]):
        return before + line[end:].lstrip(_TOKEN_ENDS)
    return before + line[end:]
