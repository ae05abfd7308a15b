"""The body of a message as it stands after the changes made so far, and its parts (RFC 2046 §5.1)."""

from __future__ import annotations

from typing import Final

from opensipspy.script.run import Run
from opensipspy.sip import H_CONTENT_TYPE

MAX_PARTS: Final = 64
BOUNDARY: Final = "opensipspy-part"


class Part:
    """One part: its header lines (each with CRLF), its type in lower case without parameters, its content."""

    __slots__ = ("content", "headers", "mime")

    def __init__(self, headers: str, mime: str, content: bytes) -> None:
        self.headers = headers
        self.mime = mime
        self.content = content


class Body:
    """A whole body and its Content-Type value ("" for none)."""

    __slots__ = ("content", "content_type")

    def __init__(self, content_type: str, content: bytes) -> None:
        self.content_type = content_type
        self.content = content

    @property
    def mime(self) -> str:
        return plain_type(self.content_type)

    @property
    def is_multipart(self) -> bool:
        return self.mime.startswith("multipart/")

    def parts(self) -> list[Part]:
        """The parts of a multipart body, else the body as the only one; empty for an empty body."""
        if not self.content:
            return []
        if self.is_multipart:
            boundary = type_param(self.content_type, "boundary")
            if boundary:
                return split(self.content, boundary)
        return [Part(f"Content-Type: {self.content_type}\r\n", self.mime, self.content)]


def body_now(run: Run) -> Body:
    """The body with the changes made so far."""
    content = run.edits.body
    if content is None:
        return Body(run.msg.value(H_CONTENT_TYPE), run.msg.body)
    content_type = run.edits.content_type
    return Body(run.msg.value(H_CONTENT_TYPE) if content_type is None else content_type, content)


def plain_type(text: str) -> str:
    """A Content-Type without parameters, in lower case."""
    return text.partition(";")[0].strip().lower()


def type_param(text: str, name: str) -> str:
    """A parameter of a Content-Type, unquoted; "" when it is absent."""
    for item in text.split(";")[1:]:
        key, _, value = item.partition("=")
        if key.strip().lower() == name:
            return value.strip().strip('"')
    return ""


def split(content: bytes, boundary: str) -> list[Part]:
    """The parts between the delimiter lines; at most MAX_PARTS, text around them is dropped."""
    delimiter = b"--" + boundary.encode("utf-8", "surrogateescape")
    found: list[Part] = []
    for piece in (b"\r\n" + content).split(b"\r\n" + delimiter, MAX_PARTS + 1)[1 : MAX_PARTS + 1]:
        if piece.startswith(b"--"):
            break
        piece = piece.lstrip(b" \t")
        if not piece.startswith(b"\r\n"):
            continue
        head, _, inner = (
            piece[2:].partition(b"\r\n\r\n") if not piece.startswith(b"\r\n\r\n") else (b"", b"", piece[4:])
        )
        headers = head.decode("utf-8", "surrogateescape")
        mime = "text/plain"
        for line in headers.split("\r\n"):
            name, _, value = line.partition(":")
            if name.strip().lower() in ("content-type", "c"):
                mime = plain_type(value)
        found.append(Part(headers + "\r\n" if headers else "", mime, inner))
    return found


def join(parts: list[Part], content_type: str) -> Body:
    """A body of these parts: plain for one that needs no more than its type, multipart for several.

    content_type: of the body that the parts come from; a multipart one keeps its kind and boundary.
    """
    if not parts:
        return Body("", b"")
    if not plain_type(content_type).startswith("multipart/"):
        if len(parts) == 1:
            return Body(_own_type(parts[0]), parts[0].content)
        content_type = ""
    boundary = type_param(content_type, "boundary") or _free_boundary(parts)
    if not content_type:
        content_type = f'multipart/mixed;boundary="{boundary}"'
    delimiter = b"--" + boundary.encode("utf-8", "surrogateescape")
    lines = []
    for part in parts:
        lines.append(delimiter + b"\r\n" + part.headers.encode("utf-8", "surrogateescape") + b"\r\n" + part.content)
    return Body(content_type, b"\r\n".join(lines) + b"\r\n" + delimiter + b"--\r\n")


def _own_type(part: Part) -> str:
    for line in part.headers.split("\r\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() in ("content-type", "c"):
            return value.strip()
    return part.mime


def _free_boundary(parts: list[Part]) -> str:
    number = 0
    while any(f"{BOUNDARY}-{number}".encode() in part.content for part in parts):
        number += 1
    return f"{BOUNDARY}-{number}"
