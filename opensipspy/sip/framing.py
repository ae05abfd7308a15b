"""Cutting a byte stream into messages by Content-Length (RFC 3261 §18.3), and its keep-alives (RFC 5626 §3.5.1)."""

from __future__ import annotations

from typing import Final

from opensipspy.sip.errors import DEFAULT_LIMITS, DROP, Limits, ParseError

# Between messages: two empty lines ask for one, which answers.
PING: Final = b"\r\n\r\n"
PONG: Final = b"\r\n"

_SPACES: Final = b" \t\r\n"


class StreamFramer:
    """Collects what one connection delivers and gives back whole messages.

    feed() raises ParseError when the stream cannot be followed any longer: the connection must be closed. Messages
    that were whole before the break are returned first; then `error` is set, and the next feed() raises it. When the
    break is the Content-Length itself, the head is returned as the last message, so that its sender gets a 400.
    `pending` octets wait for the rest of their message; they never exceed the limits.
    """

    __slots__ = ("_buffer", "_half_ping", "_need", "_scanned", "error", "limits")

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self.limits: Limits = limits
        self.error: ParseError | None = None
        self._buffer: bytes = b""
        # Length of the message at the front of the buffer once its head is there, 0 before.
        self._need: int = 0
        # How far the buffer was searched for the end of the head.
        self._scanned: int = 0
        self._half_ping: bool = False

    @property
    def pending(self) -> int:
        """Octets of a message that is not whole yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Take what was read and return what became whole: messages, and PING and PONG themselves."""
        if self.error is not None:
            raise self.error
        found: list[bytes] = []
        buffer = self._buffer + data if self._buffer else data
        try:
            buffer = self._cut(buffer, found)
        except ParseError as error:
            self._buffer = b""
            self.error = error
            if not found:
                raise
            return found
        self._buffer = buffer
        return found

    def _cut(self, buffer: bytes, found: list[bytes]) -> bytes:
        """Cut messages off the front; what is left."""
        position = 0
        size = len(buffer)
        while position < size:
            need = self._need
            if need == 0:
                if buffer[position] == 13 or buffer[position] == 10:
                    after = self._keepalive(buffer, position, found)
                    if after == position:
                        break
                    position = after
                    continue
                self._half_ping = False
                end = buffer.find(PING, position + self._scanned)
                if end < 0:
                    waiting = size - position
                    if waiting > self.limits.head:
                        raise ParseError("head is larger than the limit", self.limits.head, DROP)
                    self._scanned = max(waiting - 3, 0)
                    break
                self._scanned = 0
                if end - position > self.limits.head:
                    raise ParseError("head is larger than the limit", self.limits.head, DROP)
                head = buffer[position : end + 4]
                try:
                    length = content_length(head)
                    if length > self.limits.body:
                        raise ParseError("body is larger than the limit", len(head), 513)
                except ParseError:
                    found.append(head)
                    raise
                need = len(head) + length
                self._need = need
            if size - position < need:
                break
            found.append(buffer[position : position + need])
            position += need
            self._need = 0
        return buffer[position:] if position else buffer

    def _keepalive(self, buffer: bytes, position: int, found: list[bytes]) -> int:
        """Empty lines between messages; the position after them, or the same one when more has to come."""
        if buffer[position] == 10:
            raise ParseError("line feed between messages", position, DROP)
        if buffer.startswith(PING, position):
            found.append(PING)
            self._half_ping = False
            return position + 4
        if buffer.startswith(PONG, position):
            if position + 2 == len(buffer) - 1 and buffer[position + 2] == 13:
                return position
            if self._half_ping:
                # The second half of a ping that came in two segments; the first was taken for a pong.
                found.append(PING)
                self._half_ping = False
            else:
                found.append(PONG)
                self._half_ping = position + 2 == len(buffer)
            return position + 2
        if position + 1 == len(buffer):
            return position
        raise ParseError("carriage return between messages", position, DROP)


def content_length(head: bytes) -> int:
    """Content-Length of a head (blank line included), found without parsing the rest. ParseError when absent or bad.

    Two that differ are an error: readers who disagree about the length see different messages.
    """
    lower = head.lower()
    length = -1
    name = b"\r\ncontent-length"
    position = 0
    for _ in range(2):
        position = lower.find(name)
        while position >= 0:
            i = position + len(name)
            while i < len(lower) and lower[i] in b" \t":
                i += 1
            if i < len(lower) and lower[i] == 58:
                value = _value(lower, i + 1)
                if length >= 0 and value != length:
                    raise ParseError("two Content-Length that differ", position)
                length = value
            position = lower.find(name, i)
        name = b"\r\nl"
    if length < 0:
        raise ParseError("no Content-Length on a stream", len(head))
    return length


def _value(head: bytes, start: int) -> int:
    end = start
    while True:
        end = head.find(b"\r\n", end)
        # A folded line goes on; the blank line at the end stops the search.
        if head[end + 2 : end + 3] in (b" ", b"\t"):
            end += 2
            continue
        break
    text = head[start:end].strip(_SPACES)
    if not text.isdigit() or len(text) > 20:
        raise ParseError("Content-Length is not a number", start)
    return int(text)
