"""Notes of what to change in a message when a copy of it leaves. The message itself never changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from opensipspy.sip.endpoints import Socket
from opensipspy.sip.message import Header, Message

# A text that depends on the way out: called with the socket the message came in by and the one it leaves by.
Deferred = Callable[[Socket, Socket], str]

# At the end of the headers: the offset is not known before the message is.
_AT_END: Final = -1
_AT_START: Final = -2


class Note:
    """Text to stand in place of the range start to end of the head; start == end inserts.

    instead: an earlier note, of a parent perhaps, that does not count where this one does.
    """

    __slots__ = ("deferred", "end", "instead", "start", "text")

    def __init__(self, start: int, end: int, text: str, deferred: Deferred | None) -> None:
        self.start: int = start
        self.end: int = end
        self.text: str = text
        self.deferred: Deferred | None = deferred
        self.instead: Note | None = None


class Edits:
    """Notes on one message, in the order in which they were made.

    Offsets are those of the received head. Inserted text goes in front of what stands at its offset, later insertions
    at one offset after earlier ones. A range that is removed takes insertions inside it along, but not those at its
    edges. Of two replacements of the same range the later one counts. Header text is whole lines, each with its CRLF.
    """

    __slots__ = ("_body", "_content_type", "notes", "parent")

    def __init__(self, parent: Edits | None = None) -> None:
        self.parent: Edits | None = parent
        self.notes: list[Note] | None = None
        self._body: bytes | None = None
        # None keeps the Content-Type that is there.
        self._content_type: str | None = None

    def __bool__(self) -> bool:
        """True when there is something to change."""
        return self.changes()

    def changes(self) -> bool:
        """Whether there is something to change."""
        return self.notes is not None or self._body is not None or (self.parent is not None and self.parent.changes())

    def fork(self) -> Edits:
        """Edits of a branch: what is noted there is seen only by it; notes here, also later ones, by both."""
        return Edits(self)

    def _note(self, start: int, end: int, text: str | Deferred) -> None:
        if isinstance(text, str):
            note = Note(start, end, text, None)
        else:
            note = Note(start, end, "", text)
        if self.notes is None:
            self.notes = [note]
        else:
            self.notes.append(note)

    def remove(self, header: Header) -> None:
        """Leave a whole header out."""
        self._note(header.start, header.end, "")

    def remove_range(self, start: int, end: int) -> None:
        """Leave a range of the head out."""
        self._note(start, end, "")

    def replace(self, start: int, end: int, text: str | Deferred) -> None:
        """Put a text in place of a range of the head."""
        self._note(start, end, text)

    def insert(self, offset: int, text: str | Deferred) -> None:
        """Put a text in front of what stands at an offset."""
        self._note(offset, offset, text)

    def insert_before(self, header: Header, text: str | Deferred) -> None:
        """Put header lines in front of a header."""
        self._note(header.start, header.start, text)

    def insert_after(self, header: Header, text: str | Deferred) -> None:
        """Put header lines behind a header."""
        self._note(header.end, header.end, text)

    def prepend(self, text: str | Deferred) -> None:
        """Put header lines before the first header (behind the Via that we add)."""
        self._note(_AT_START, _AT_START, text)

    def append(self, text: str | Deferred) -> None:
        """Put header lines after the last header."""
        self._note(_AT_END, _AT_END, text)

    def supersede(self, note: Note, text: str | Deferred) -> None:
        """Put a text where an earlier note, here or of a parent, has its own: other children keep that one."""
        made = Note(note.start, note.end, text, None) if isinstance(text, str) else Note(note.start, note.end, "", text)
        made.instead = note
        if self.notes is None:
            self.notes = [made]
        else:
            self.notes.append(made)

    def set_body(self, body: bytes, content_type: str | None = None) -> None:
        """Send another body. content_type: None keeps the header, "" removes it; an empty body removes it too."""
        self._body = body
        self._content_type = content_type

    def all_notes(self) -> list[Note]:
        """Notes of the parents and then our own."""
        parent = self.parent
        if parent is None:
            own = list(self.notes) if self.notes is not None else []
            for note in own:
                if note.instead is not None:
                    return counting(own)
            return own
        found = parent.all_notes()
        if self.notes is not None:
            found += self.notes
            for note in self.notes:
                if note.instead is not None:
                    return counting(found)
        return found

    def new_body(self) -> bytes | None:
        """The body that will leave, None when it is the received one."""
        edits: Edits | None = self
        while edits is not None:
            if edits._body is not None:
                return edits._body
            edits = edits.parent
        return None

    @property
    def body(self) -> bytes | None:
        """`new_body`."""
        return self.new_body()

    @property
    def content_type(self) -> str | None:
        """The Content-Type that goes with a new body: None keeps the received one, "" is none."""
        edits: Edits | None = self
        while edits is not None:
            if edits._body is not None:
                return edits._content_type
            edits = edits.parent
        return None


def counting(notes: list[Note]) -> list[Note]:
    """The notes that count: a superseded one gives its place in the order to the one that supersedes it."""
    found: list[Note] = []
    for note in notes:
        instead = note.instead
        if instead is not None:
            for i in range(len(found)):
                if found[i] is instead:
                    found[i] = note
                    break
            else:
                found.append(note)
        else:
            found.append(note)
    return found


def apply_notes(msg: Message, notes: list[Note], in_socket: Socket, out_socket: Socket) -> str:
    """The headers of a message (no start line, no blank line) with notes applied.

    notes: in order of making; those before the first header (start line) are left out here but for insertions by
    prepend.
    """
    head = msg.head
    begin = msg.first_line_end
    size = len(head)
    ordered: list[tuple[int, bool, int, Note]] = []
    count = 0
    for note in notes:
        start = note.start
        if start < begin:
            start = size if start == _AT_END else begin
        # At one offset insertions come before what takes the place of a range.
        ordered.append((start, note.end > note.start, count, note))
        count += 1
    if count > 1:
        ordered.sort()
    pieces: list[str] = []
    position = begin
    # The range that was replaced last, and where its text is.
    last: Note | None = None
    last_piece = 0
    for start, is_range, _, note in ordered:
        if start < position:
            if is_range and last is not None and start == last.start and note.end == last.end:
                pieces[last_piece] = note.text if note.deferred is None else note.deferred(in_socket, out_socket)
            elif is_range and note.end > position:
                # Overlaps what is gone already: the rest of it goes too.
                position = min(note.end, size)
            continue
        if start > position:
            pieces.append(head[position:start])
            position = start
        pieces.append(note.text if note.deferred is None else note.deferred(in_socket, out_socket))
        if is_range:
            position = min(note.end, size)
            last = note
            last_piece = len(pieces) - 1
    if position < size:
        pieces.append(head[position:])
    return "".join(pieces)
