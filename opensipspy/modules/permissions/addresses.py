"""The address table in memory: which rows an address, a port and a protocol fit.

Networks are looked up by their length: one dict for each length that occurs, keyed by the bits of the network. An
address costs one look-up for hosts and one for each length, however many rows there are.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Sequence
from fnmatch import translate
from typing import Any, Final

from opensipspy.db import DbValue
from opensipspy.module.table_cache import cell_int, cell_text
from opensipspy.sip import proto_number

ANY_GROUP: Final = 0
ANY_PORT: Final = 0
ANY_PROTO: Final = 0
LONGEST_PATTERN: Final = 255
HIGHEST_GROUP: Final = 0xFFFFFFFF


def address_number(text: str) -> tuple[int, bool]:
    """(the address as a number, whether it is IPv6); raises ValueError. IPv6 may stand in brackets."""
    v6 = ":" in text
    try:
        if v6:
            bare = text[1:-1] if text[0] == "[" and text[-1] == "]" else text
            return int.from_bytes(socket.inet_pton(socket.AF_INET6, bare), "big"), True
        return int.from_bytes(socket.inet_pton(socket.AF_INET, text), "big"), False
    except (OSError, ValueError, UnicodeError):
        raise ValueError(f"{text!r} is no IP address") from None


def address_text(number: int, v6: bool) -> str:
    if v6:
        return socket.inet_ntop(socket.AF_INET6, number.to_bytes(16, "big"))
    return socket.inet_ntop(socket.AF_INET, number.to_bytes(4, "big"))


def protocol(text: str) -> int:
    """The number of a protocol, 0 for "any" and for no text; raises ValueError."""
    name = text.strip().lower()
    if name in ("", "any"):
        return ANY_PROTO
    number = proto_number(name)
    if not number:
        raise ValueError(f"{text!r} is no protocol")
    return number


def wildcard(pattern: str) -> Any:
    """A compiled shell wildcard, as fnmatch(3): `*`, `?`, `[...]`, a backslash takes the next character as it is."""
    parts = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\" and at + 1 < len(pattern):
            at += 1
            parts.append(f"[{pattern[at]}]")
        elif pattern.startswith("[^", at):
            parts.append("[!")
            at += 1
        else:
            parts.append(char)
        at += 1
    # A leading dot has to be there in the pattern, as in names of hidden files (FNM_PERIOD).
    hidden = "" if pattern.startswith((".", "\\.")) else r"(?!\.)"
    return re.compile(hidden + translate("".join(parts)))


class Row:
    """One row: an address or a network, and what it is good for. order: which row wins, the lowest."""

    __slots__ = ("group", "info", "length", "network", "order", "pattern", "port", "proto", "proto_name", "v6", "wild")

    def __init__(
        self,
        group: int,
        network: int,
        length: int,
        v6: bool,
        port: int,
        proto_name: str,
        pattern: str,
        info: str,
    ) -> None:
        bits = 128 if v6 else 32
        self.group = group
        self.network = network >> (bits - length) << (bits - length)
        self.length = length
        self.v6 = v6
        self.port = port
        self.proto = protocol(proto_name)
        self.proto_name = proto_name.strip().lower() if self.proto else "any"
        self.pattern = pattern
        self.wild: Any = wildcard(pattern).match if pattern else None
        self.info = info
        self.order = (0, 0, 0)

    @property
    def is_host(self) -> bool:
        return self.length == (128 if self.v6 else 32)

    @property
    def mask_text(self) -> str:
        """ "32" or "128" for a host, else the mask as an address."""
        if self.is_host:
            return str(self.length)
        bits = 128 if self.v6 else 32
        return address_text((1 << bits) - (1 << (bits - self.length)), self.v6)

    def fits(self, port: int, proto: int, text: str | None) -> bool:
        """Whether port, protocol and text (None: not asked for) are the row's."""
        return (
            (not self.port or self.port == port or not port)
            and (not self.proto or self.proto == proto or not proto)
            and (text is None or self.wild is None or self.wild(text) is not None)
        )


class Family:
    """The rows of one address family."""

    __slots__ = ("bits", "hosts", "lengths", "networks")

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.hosts: dict[int, list[Row]] = {}
        self.networks: dict[int, dict[int, list[Row]]] = {}
        self.lengths: list[tuple[int, dict[int, list[Row]]]] = []

    def add(self, row: Row) -> None:
        if row.length == self.bits:
            self.hosts.setdefault(row.network, []).append(row)
        else:
            of_length = self.networks.setdefault(row.length, {})
            of_length.setdefault(row.network >> (self.bits - row.length), []).append(row)

    def finish(self) -> None:
        """All rows are there: of those for one address the last of the table is asked first, as in the C server."""
        for rows in self.hosts.values():
            rows.reverse()
        for networks in self.networks.values():
            for rows in networks.values():
                rows.reverse()
        self.lengths = [(self.bits - length, self.networks[length]) for length in sorted(self.networks)]

    def first(self, address: int, port: int, proto: int, text: str | None) -> Row | None:
        """The row of the host itself, else of the widest network that has a fitting row."""
        rows = self.hosts.get(address)
        if rows is not None:
            for row in rows:
                if row.fits(port, proto, text):
                    return row
        for shift, networks in self.lengths:
            rows = networks.get(address >> shift)
            if rows is not None:
                for row in rows:
                    if row.fits(port, proto, text):
                        return row
        return None

    def lowest(self, address: int, port: int, proto: int, text: str | None) -> Row | None:
        """The fitting row of the lowest group; within a group as `first` chooses."""
        best: Row | None = None
        found = self.hosts.get(address)
        several = [] if found is None else [found]
        for shift, networks in self.lengths:
            found = networks.get(address >> shift)
            if found is not None:
                several.append(found)
        for rows in several:
            for row in rows:
                if (best is None or row.order < best.order) and row.fits(port, proto, text):
                    best = row
        return best


class AddressTable:
    """All rows of one partition."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._groups: dict[int, tuple[Family, Family]] = {}
        self._all = (Family(32), Family(128))

    def add(self, cells: Sequence[DbValue]) -> None:
        """Take (id, ip, group, mask, port, proto, pattern, info); raises ValueError."""
        _, ip, group, mask, port, proto, pattern, info = cells
        number, v6 = address_number(cell_text(ip, "ip").strip())
        row = Row(
            cell_int(group, "grp", 0, HIGHEST_GROUP),
            number,
            cell_int(mask, "mask", 0, 128 if v6 else 32),
            v6,
            cell_int(port, "port", 0, 65535),
            cell_text(proto, "proto"),
            cell_text(pattern, "pattern", null="", most=LONGEST_PATTERN),
            cell_text(info, "context_info", null=""),
        )
        row.order = (row.group, -1 if row.is_host else row.length, -len(self.rows))
        self.rows.append(row)
        families = self._groups.get(row.group)
        if families is None:
            families = self._groups[row.group] = (Family(32), Family(128))
        families[v6].add(row)
        self._all[v6].add(row)

    def finish(self) -> None:
        for families in (self._all, *self._groups.values()):
            for family in families:
                family.finish()

    def has_group(self, group: int) -> bool:
        return group in self._groups

    def find(self, group: int, address: str, port: int, proto: int, text: str | None) -> Row | None:
        """The row for an address; group 0 asks all groups, port and proto 0 fit each row. Raises ValueError."""
        number, v6 = address_number(address)
        if group == ANY_GROUP:
            return self._all[v6].lowest(number, port, proto, text)
        families = self._groups.get(group)
        return None if families is None else families[v6].first(number, port, proto, text)

    def listed(self, hosts: bool) -> Iterator[dict[str, str | int]]:
        """The hosts, or the networks, as the management commands show them: by group, then as read."""
        for row in sorted(self.rows, key=lambda row: row.group):
            if row.is_host == hosts:
                yield {
                    "grp": row.group,
                    "ip": address_text(row.network, row.v6),
                    "mask": row.mask_text,
                    "port": row.port,
                    "proto": row.proto_name,
                    "pattern": row.pattern,
                    "context_info": row.info,
                }
