"""What parsing remembers from one message to the next: texts that come again, taken apart once.

A server sees the same Request-URIs and the same peers over and over. What is remembered is bounded in number and in
length, whatever peers send.
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import mypyc_attr

from opensipspy.sip.uri import LONGEST_KEPT, UriCache

MOST_HOPS: Final = 1024
MOST_ORDERS: Final = 256


@mypyc_attr(acyclic=True)
class Hop:
    """The sent-by of a Via: host without brackets, host_text with, port 0 when absent."""

    __slots__ = ("host", "host_text", "port")

    def __init__(self, host: str, host_text: str, port: int) -> None:
        self.host: str = host
        self.host_text: str = host_text
        self.port: int = port


class Memo:
    """One for each place where messages come in. Nobody changes what it hands out."""

    __slots__ = ("hops", "orders", "uris")

    def __init__(self) -> None:
        self.uris: UriCache = UriCache()
        self.hops: dict[str, Hop] = {}
        self.orders: dict[bytes, bytes] = {}

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
        """Remember what a sent-by says."""
        if len(text) > LONGEST_KEPT:
            return
        if len(self.hops) >= MOST_HOPS:
            for old in list(self.hops)[: MOST_HOPS // 2]:
                del self.hops[old]
        self.hops[text] = hop
