"""Bodies as scripts see them: parts of a multipart (RFC 2046 §5.1), the SDP in it, and what replaces them."""

from __future__ import annotations

from typing import Final

from opensipspy.script import uris
from opensipspy.script.run import Run

SDP: Final = "application/sdp"
MAX_PARTS: Final = 64


class Part:
    """One part of a body. content_type: with its parameters, as written. start, end: its content in the body."""

    __slots__ = ("content_type", "end", "start")

    def __init__(self, content_type: str, start: int, end: int) -> None:
        self.content_type: str = content_type
        self.start: int = start
        self.end: int = end

    @property
    def mime(self) -> str:
        """ "type/subtype" in lower case."""
        return self.content_type.partition(";")[0].strip().lower()


def current_body(run: Run) -> bytes:
    """The body that leaves: the one set in the script, else the received one."""
    body = run.edits.body
    return run.msg.body if body is None else body


def current_type(run: Run) -> str:
    """The Content-Type that leaves, "" for none."""
    content_type = run.edits.content_type
    return run.msg.content_type if content_type is None else content_type


def set_body(run: Run, body: bytes, content_type: str | None = None) -> None:
    """Replace the body that leaves; content_type None keeps the one it has."""
    run.edits.set_body(body, run.edits.content_type if content_type is None else content_type)


def parts(content_type: str, body: bytes) -> list[Part]:
    """The parts of a multipart body, or the whole body as the one part; none when there is no body."""
    if not body:
        return []
    whole = Part(content_type, 0, len(body))
    if not whole.mime.startswith("multipart/"):
        return [whole]
    attributes = uris.params(content_type.partition(";")[2])
    boundary = next((value for name, value in attributes if name.lower() == "boundary"), None)
    if not boundary:
        return [whole]
    mark = b"--" + boundary.encode("utf-8", "surrogateescape")
    found: list[Part] = []
    at = body.find(mark)
    while at >= 0 and len(found) < MAX_PARTS:
        begin = at + len(mark)
        if body.startswith(b"--", begin):
            break
        line_end = body.find(b"\n", begin)
        following = body.find(b"\n" + mark, begin)
        if line_end < 0 or following < 0:
            break
        end = following - 1 if body[following - 1 : following] == b"\r" else following
        found.append(_part(body, line_end + 1, max(end, line_end + 1)))
        at = following + 1
    return found


def _part(body: bytes, start: int, end: int) -> Part:
    """One part: its headers end at the first empty line; text/plain when it names no type (RFC 2046 §5.1)."""
    content_type = "text/plain"
    at = start
    while at < end:
        line_end = body.find(b"\n", at, end)
        if line_end < 0:
            break
        line = body[at:line_end].rstrip(b"\r")
        at = line_end + 1
        if not line:
            return Part(content_type, at, end)
        name, colon, value = line.partition(b":")
        if colon and name.strip().lower() == b"content-type":
            content_type = value.strip().decode("utf-8", "surrogateescape")
    return Part(content_type, start, end)


def message_parts(run: Run) -> list[Part]:
    """The parts of the body that was received."""
    return parts(run.msg.content_type, run.msg.body)


def _sdp_part(run: Run, body: bytes) -> Part | None:
    for part in parts(current_type(run), body):
        if part.mime == SDP:
            return part
    return None


def sdp(run: Run) -> str | None:
    """The SDP of the message as it leaves, None when it has none."""
    body = current_body(run)
    part = _sdp_part(run, body)
    if part is None:
        return None
    return _text(body[part.start : part.end])


def set_sdp(run: Run, text: str | None) -> None:
    """Replace the SDP, inside a multipart too; None takes the body away."""
    body = current_body(run)
    if text is None:
        set_body(run, b"")
        return
    data = text.encode("utf-8", "surrogateescape")
    part = _sdp_part(run, body)
    if part is None:
        set_body(run, data, SDP)
    else:
        set_body(run, body[: part.start] + data + body[part.end :])


def _text(body: bytes) -> str:
    return body.decode("utf-8", "surrogateescape")
