"""Session descriptions (RFC 8866) as lists of lines: codecs and streams found, moved and taken out.

Only the lines that change are touched; all others leave byte for byte as they came.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

MAX_LINES: Final = 4096

# RFC 3551 table 4 and 5: payload types that need no rtpmap.
STATIC: Final = {
    "0": ("PCMU", "8000"),
    "3": ("GSM", "8000"),
    "4": ("G723", "8000"),
    "5": ("DVI4", "8000"),
    "6": ("DVI4", "16000"),
    "7": ("LPC", "8000"),
    "8": ("PCMA", "8000"),
    "9": ("G722", "8000"),
    "10": ("L16", "44100"),
    "11": ("L16", "44100"),
    "12": ("QCELP", "8000"),
    "13": ("CN", "8000"),
    "14": ("MPA", "90000"),
    "15": ("G728", "8000"),
    "16": ("DVI4", "11025"),
    "17": ("DVI4", "22050"),
    "18": ("G729", "8000"),
    "25": ("CelB", "90000"),
    "26": ("JPEG", "90000"),
    "28": ("nv", "90000"),
    "31": ("H261", "90000"),
    "32": ("MPV", "90000"),
    "33": ("MP2T", "90000"),
    "34": ("H263", "90000"),
}
BY_FORMAT: Final = ("a=rtpmap:", "a=fmtp:", "a=rtcp-fb:")

CodecTest = Callable[[str, str], bool]
"""Called with a codec's name and clock rate."""


class Stream:
    """One media section: its lines, the m= line first."""

    __slots__ = ("formats", "lines", "media", "port", "transport")

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        fields = lines[0][2:].split()
        fields += [""] * (3 - len(fields))
        self.media, self.port, self.transport = fields[:3]
        self.formats = fields[3:]

    def codecs(self) -> list[tuple[str, str, str]]:
        """(format, name, clock rate) in the order of the m= line; a format of no known codec has "" for both."""
        mapped = {}
        for line in self.lines[1:]:
            if line.startswith("a=rtpmap:"):
                number, _, encoding = line[len("a=rtpmap:") :].strip().partition(" ")
                name, _, rest = encoding.strip().partition("/")
                mapped[number] = (name, rest.partition("/")[0])
        return [(number, *mapped.get(number, STATIC.get(number, ("", "")))) for number in self.formats]

    def direction(self) -> str:
        """The direction attribute of this section, "" when it has none."""
        for line in self.lines[1:]:
            if line in ("a=sendrecv", "a=sendonly", "a=recvonly", "a=inactive"):
                return line[2:]
        return ""

    def address(self) -> str:
        """The address of the section's own c= line, "" when it has none."""
        return connection(self.lines[1:])

    def set_formats(self, formats: list[str]) -> None:
        """Write the m= line with these formats."""
        self.formats = formats
        self.lines[0] = f"m={self.media} {self.port} {self.transport} {' '.join(formats)}"

    def forget(self, formats: set[str]) -> None:
        """Take formats out, with every attribute that names them."""
        kept = [number for number in self.formats if number not in formats]
        self.lines[1:] = [line for line in self.lines[1:] if not _names(line, formats)]
        if kept:
            self.set_formats(kept)
        else:
            # RFC 3264 §6: a stream that nobody can use is refused with port 0; the m= line still needs a format.
            self.port = "0"
            self.set_formats(self.formats[:1])


class Session:
    """A session description. Raises ValueError for what is none."""

    __slots__ = ("end", "newline", "session", "streams")

    def __init__(self, content: bytes) -> None:
        text = content.decode("utf-8", "surrogateescape")
        self.newline = "\r\n" if "\r\n" in text else "\n"
        lines = text.split(self.newline)
        if not lines[0].startswith("v="):
            raise ValueError("a session description starts with v=")
        if len(lines) > MAX_LINES:
            raise ValueError(f"more than {MAX_LINES} lines")
        self.end = 0
        while lines and not lines[-1]:
            lines.pop()
            self.end += 1
        self.session: list[str] = []
        self.streams: list[Stream] = []
        section = self.session
        starts: list[list[str]] = []
        for line in lines:
            if line.startswith("m="):
                section = []
                starts.append(section)
            section.append(line)
        self.streams = [Stream(one) for one in starts]

    def content(self) -> bytes:
        """The description as bytes."""
        lines = [*self.session, *(line for stream in self.streams for line in stream.lines)]
        return (self.newline.join(lines) + self.newline * self.end).encode("utf-8", "surrogateescape")

    def has_codec(self, test: CodecTest) -> bool:
        return any(test(name, clock) for stream in self.streams for _, name, clock in stream.codecs() if name)

    def delete_codecs(self, test: CodecTest) -> bool:
        changed = False
        for stream in self.streams:
            gone = {number for number, name, clock in stream.codecs() if name and test(name, clock)}
            if gone:
                stream.forget(gone)
                changed = True
        return changed

    def move_codecs(self, test: CodecTest, to_front: bool) -> bool:
        """Move codecs to the front or the back of their streams, in the order they had."""
        moved = False
        for stream in self.streams:
            codecs = stream.codecs()
            chosen = [number for number, name, clock in codecs if name and test(name, clock)]
            if chosen:
                # A set, since an m= line may name thousands.
                moved_ones = set(chosen)
                others = [number for number, _, _ in codecs if number not in moved_ones]
                stream.set_formats(chosen + others if to_front else others + chosen)
                moved = True
        return moved

    def delete_streams(self, test: Callable[[Stream], bool]) -> bool:
        kept = [stream for stream in self.streams if not test(stream)]
        changed = len(kept) < len(self.streams)
        self.streams = kept
        return changed

    def hold(self) -> int:
        """2: an audio stream is sendonly or inactive (RFC 3264 §8.4); 1: its address is null (RFC 2543); 0: neither."""
        common_address = connection(self.session)
        common_direction = ""
        for line in self.session:
            if line in ("a=sendonly", "a=recvonly", "a=inactive", "a=sendrecv"):
                common_direction = line[2:]
        for stream in self.streams:
            if stream.media.lower() != "audio" or stream.port == "0":
                continue
            if (stream.address() or common_address) in ("0.0.0.0", "::"):
                return 1
            if (stream.direction() or common_direction) in ("sendonly", "inactive"):
                return 2
        return 0


def connection(lines: list[str]) -> str:
    """The address of the first c= line, without its time to live; "" when there is none."""
    for line in lines:
        if line.startswith("c="):
            fields = line[2:].split()
            return fields[2].partition("/")[0] if len(fields) > 2 else ""
    return ""


def _names(line: str, formats: set[str]) -> bool:
    """Whether an attribute is about one of the formats."""
    for prefix in BY_FORMAT:
        if line.startswith(prefix):
            return line[len(prefix) :].split(" ", 1)[0].strip() in formats
    return False
