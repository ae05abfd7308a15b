"""Listening points from a table, opened and closed while the server runs.

Each row is one point, `proto:address:port`, with an address and no name or interface. A reload closes what is not in
the table any more, opens what is new, and leaves the rest alone. Points of the script are not touched.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any, Final

from opensipspy.db import Column, Database, DatabaseError, DbValue, Table, auto_id
from opensipspy.module import MiError, Module, Param, ParamError, mi_command
from opensipspy.module.table_cache import TableCache, cell_text, open_database, own_or_default_url
from opensipspy.sip import Socket, default_port, proto_number

SOCKETS_TABLE: Final = Table(
    "sockets",
    1,
    (
        auto_id(),
        Column("socket", "string", 128),
        Column("advertised", "string", 128, null=True, default=None),
        Column("tag", "string", 128, null=True, default=None),
        Column("flags", "string", 128, null=True, default=None),
        Column("tos", "string", 32, null=True, default=None),
    ),
    (),
)
FLAGS: Final = frozenset(("reuse_port", "frag", "anycast", "allow_proxy", "send_proxy", "proxy"))
MOST_SOCKETS: Final = 10_000
HIGHEST_TOS: Final = 255
HIGHEST_PORT: Final = 65535

Row = tuple[str, str, str, str, str]
"""Socket, advertised, tag, flags, TOS: as the table has them."""


def split_port(text: str, default: int) -> tuple[str, int]:
    """Host and port of "host[:port]", IPv6 addresses in brackets. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):
        return text.strip("[]"), default
    if not port.isascii() or not port.isdigit() or not 0 < int(port[:6]) <= HIGHEST_PORT:
        raise ValueError(f"{text!r} has no port")
    return host.strip("[]"), int(port)


def read_socket(row: Row) -> tuple[Socket, dict[str, int | str]]:
    """The listening point of a row, with its options. Raises ValueError."""
    place, advertised, tag, flags, tos = row
    proto_text, colon, rest = place.strip().partition(":")
    proto = proto_number(proto_text.lower())
    if not colon or not proto:
        raise ValueError(f"{place!r} is no protocol:address:port")
    host, port = split_port(rest, default_port(proto))
    address = str(ipaddress.ip_address(host))
    words: dict[str, int | str] = {}
    for flag in filter(None, flags.lower().replace(",", " ").replace("|", " ").split()):
        if flag not in FLAGS:
            raise ValueError(f"{flag!r} is none of {', '.join(sorted(FLAGS))}")
        words[flag] = 1
    if tos.strip():
        number = words["tos"] = int(tos, 0)
        if not 0 <= number <= HIGHEST_TOS:
            raise ValueError(f"tos {tos} is not 0 to {HIGHEST_TOS}")
    as_host, as_port = split_port(advertised.strip(), 0) if advertised.strip() else ("", 0)
    if any(char in '<>"@;, \r\n\t' for char in as_host + tag):
        raise ValueError("the advertised address or the tag has a character that cannot be there")
    return Socket(proto, address, port, as_host or None, as_port, tag), words


class SocketsMgm(Module):
    """Listen where a table says, and follow the table on command."""

    name = "sockets_mgm"
    tables = (SOCKETS_TABLE,)

    db_url = Param(str, "mysql://opensips:opensipsrw@localhost/opensips", "The database.")
    table_name = Param(str, "sockets", "The table.")
    socket_column = Param(str, "socket", "Column: protocol:address:port.")
    advertised_column = Param(str, "advertised", "Column: host[:port] that others are told.")
    tag_column = Param(str, "tag", "Column: the socket's tag for scripts.")
    flags_column = Param(str, "flags", "Column: reuse_port, frag, proxy and others, with commas between.")
    tos_column = Param(str, "tos", "Column: the IP header's type of service.")
    max_sockets = Param(int, 100, "As many rows may there be.")
    processes = Param(int, 8, "Accepted and without effect: one loop serves all sockets.", func=True)

    def __init__(self, **params: Any) -> None:
        self._open: dict[Row, Socket] = {}
        self._failed: list[str] = []
        super().__init__(**params)

    def set_processes(self, value: int) -> None:
        """How many processes serve UDP sockets of the table; a number that no server has is refused."""
        if value < 1:
            raise ValueError("is at least 1")

    async def start(self) -> None:
        if not 0 < self.max_sockets <= MOST_SOCKETS:
            raise ParamError(self.name, "max_sockets", f"is not 1 to {MOST_SOCKETS}")
        database = open_database(self, own_or_default_url(self, self.db_url))
        self._table = self._reader(database)
        await self._table.start()

    async def stop(self) -> None:
        self._table.stop()

    def _reader(self, database: Database) -> TableCache[dict[Row, None]]:
        return TableCache(
            self.core,
            database,
            self.table_name,
            SOCKETS_TABLE.version or 0,
            (self.socket_column, self.advertised_column, self.tag_column, self.flags_column, self.tos_column),
            dict,
            self._add_row,
            finish=self._follow,
        )

    def _add_row(self, data: dict[Row, None], cells: Sequence[DbValue]) -> None:
        names = ("socket", "advertised", "tag", "flags", "tos")
        texts = [cell_text(cell, name, null="", most=255) for name, cell in zip(names, cells, strict=True)]
        row: Row = (texts[0], texts[1], texts[2], texts[3], texts[4])
        read_socket(row)
        if len(data) >= self.max_sockets:
            raise ValueError(f"max_sockets allows {self.max_sockets}")
        data[row] = None

    def _follow(self, rows: dict[Row, None]) -> None:
        """Close what is gone before what is new is opened: it may want the same port."""
        self._failed = []
        for row in [row for row in self._open if row not in rows]:
            socket = self._open.pop(row)
            try:
                self.core.close_socket(socket)
            except LookupError as error:
                self._note(row, str(error))
        for row in rows:
            if row in self._open:
                continue
            socket, words = read_socket(row)
            try:
                self.core.open_socket(socket, words)
            except OSError as error:
                self._note(row, error.strerror or str(error))
            except LookupError as error:
                self._note(row, f"no loaded module serves it ({error})")
            else:
                self._open[row] = socket

    def _note(self, row: Row, reason: str) -> None:
        self._failed.append(f"{row[0]}: {reason}")
        self.core.log.error("sockets_mgm: %s: %s", row[0], reason)

    @mi_command("sockets_mgm:reload", aliases=("sockets_reload",))
    async def reload_sockets(self) -> str:
        """Follow the table. An error names the sockets that could not be opened; all others are as the table says."""
        try:
            await self._table.load()
        except DatabaseError as error:
            self.core.log.error("sockets_mgm: %s", error)
            raise MiError(500, "Could not reload sockets", str(error)) from error
        if self._failed:
            raise MiError(500, "Could not reload sockets", list(self._failed))
        return "OK"

    @mi_command("sockets_mgm:list", aliases=("sockets_list",))
    def list_sockets(self) -> Any:
        """The sockets of the table that are open."""
        shown: list[dict[str, Any]] = []
        for (_, advertised, tag, flags, tos), socket in self._open.items():
            item: dict[str, Any] = {"socket": socket.text}
            if advertised:
                item["advertised"] = advertised
            if tag:
                item["tag"] = tag
            if flags:
                item["flags"] = flags
            if tos.strip():
                item["tos"] = int(tos, 0)
            shown.append(item)
        return shown
