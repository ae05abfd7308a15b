"""What parsing remembers from one message to the next: texts that come again, taken apart once.

A server sees the same Request-URIs and the same peers over and over. What is remembered is bounded in number and in
length, whatever peers send.
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import mypyc_attr

from opensipspy.sip.shape import Shape, shape_of
from opensipspy.sip.uri import LONGEST_KEPT, UriCache

MOST_HOPS: Final = 1024
MOST_ORDERS: Final = 256
# Layouts in all, and of those tried for one message; headers of one, and characters of a header's name in it.
MOST_LAYOUTS: Final = 256
MOST_ALIKE: Final = 4
MOST_NAMES: Final = 48
LONGEST_NAME: Final = 48
# After how many messages of one layout its expression is made, which takes as long as reading forty of them.
SHAPE_AFTER: Final = 50
# Of those tried for one message. The engine finds out soon that one does not fit.
MOST_SHAPES: Final = 8
# Compiled, the readers of `message` are faster than the regular expression engine.
INTERPRETED: Final = __file__.endswith(".py")


@mypyc_attr(acyclic=True)
class Hop:
    """What a Via begins with: transport in upper case, host without brackets, host_text with, port 0 when absent."""

    __slots__ = ("host", "host_text", "port", "transport")

    def __init__(self, transport: str, host: str, host_text: str, port: int) -> None:
        self.transport: str = transport
        self.host: str = host
        self.host_text: str = host_text
        self.port: int = port


@mypyc_attr(acyclic=True)
class Layout:
    """Which headers a message has, in their order: what the next one of the same phone, for the same purpose, will
    have too.

    names: as received, with what stands before the colon, and the colon. kinds, firsts, repeated: what a `Message`
    keeps of them. widths: the lengths of the names. seen: how many messages had it. shape: what reads them at once.
    """

    __slots__ = ("firsts", "kinds", "names", "repeated", "seen", "shape", "widths")

    def __init__(self, names: list[str], kinds: bytes, widths: list[int], firsts: list[int], repeated: int) -> None:
        self.names: list[str] = names
        self.kinds: bytes = kinds
        self.widths: list[int] = widths
        self.firsts: list[int] = firsts
        self.repeated: int = repeated
        self.seen: int = 0
        self.shape: Shape | None = None


# What is handed out where nothing is known.
NO_LAYOUTS: Final[list[Layout]] = []


class Memo:
    """One for each place where messages come in. Nobody changes what it hands out.

    shape_after: how many messages of one layout make an expression worth while, 0 where none ever is.
    """

    __slots__ = ("_layouts", "_layouts_kept", "hops", "orders", "shape_after", "shapes", "uris")

    def __init__(self, shape_after: int = SHAPE_AFTER if INTERPRETED else 0) -> None:
        self.shape_after: int = shape_after
        # The layouts that have one, by what their messages begin with: a method, or "SIP/2.0" and a status.
        self.shapes: dict[str, list[Layout]] = {}
        self.uris: UriCache = UriCache()
        self.hops: dict[str, Hop] = {}
        self.orders: dict[bytes, bytes] = {}
        self._layouts: dict[int, list[Layout]] = {}
        self._layouts_kept: int = 0

    def layouts(self, purpose: int) -> list[Layout]:
        """Those of earlier messages of one purpose (method or status, and number of lines), the latest first."""
        return self._layouts.get(purpose, NO_LAYOUTS)

    def count_layout(self, layout: Layout, method: str, status: int) -> None:
        """A message had it, a request of this method or a reply of this status."""
        layout.seen += 1
        if layout.seen != self.shape_after:
            return
        layout.shape = shape_of(layout.names, layout.kinds, layout.repeated, method, status)
        if layout.shape is None:
            return
        alike = self.shapes.setdefault(method or f"SIP/2.0 {status}", [])
        alike.insert(0, layout)
        if len(alike) > MOST_SHAPES:
            last = alike.pop()
            last.shape = None
            last.seen = 0

    def keep_layout(self, purpose: int, layout: Layout) -> None:
        """Remember one that was not among `layouts(purpose)`."""
        if len(layout.names) > MOST_NAMES:
            return
        for name in layout.names:
            if len(name) > LONGEST_NAME:
                return
        if self._layouts_kept >= MOST_LAYOUTS:
            self._layouts.clear()
            self.shapes.clear()
            self._layouts_kept = 0
        alike = self._layouts.get(purpose)
        if alike is None:
            self._layouts[purpose] = [layout]
            self._layouts_kept += 1
        elif len(alike) < MOST_ALIKE:
            alike.insert(0, layout)
            self._layouts_kept += 1
        else:
            alike.insert(0, layout)
            alike.pop()

    def one_order(self, kinds: bytes) -> bytes:
        """The same kinds of headers in the same order, of a message before if there was one: requests that wait share
        them, for phones of one make write alike."""
        found = self.orders.get(kinds)
        if found is not None:
            return found
        if len(kinds) <= LONGEST_KEPT and len(self.orders) < MOST_ORDERS:
            self.orders[kinds] = kinds
        return kinds

    def keep_hop(self, text: str, hop: Hop) -> None:
        """Remember what the protocol and the sent-by of a Via say."""
        if len(text) > LONGEST_KEPT:
            return
        if len(self.hops) >= MOST_HOPS:
            for old in list(self.hops)[: MOST_HOPS // 2]:
                del self.hops[old]
        self.hops[text] = hop
