"""tcp_mgm: what counts for the connections between given addresses, from a table."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Sequence
from typing import Any, Final

from opensipspy import sip
from opensipspy.db import Column, Database, DatabaseError, DbValue, Table, as_int, as_text, auto_id
from opensipspy.module import MiError, Module, Param, ParamError, StartError, mi_command
from opensipspy.module.paths import ALIAS_ALWAYS, PathSettings, TcpPaths

LOG: Final = logging.getLogger(__name__)

COLUMNS: Final = (
    "id",
    "proto",
    "remote_addr",
    "remote_port",
    "local_addr",
    "local_port",
    "priority",
    "attrs",
    "connect_timeout",
    "con_lifetime",
    "msg_read_timeout",
    "send_threshold",
    "no_new_conn",
    "alias_mode",
    "keepalive",
    "keepcount",
    "keepidle",
    "keepinterval",
)
TCP_TABLE: Final = Table(
    "tcp_mgm",
    2,
    (
        auto_id(),
        Column("proto", "string", 8, default="any"),
        Column("remote_addr", "string", 43, null=True, default=None),
        Column("remote_port", "unsigned int", default="0"),
        Column("local_addr", "string", 43, null=True, default=None),
        Column("local_port", "unsigned int", default="0"),
        Column("priority", "int", default="0"),
        Column("attrs", "string", 255, null=True, default=None),
        Column("connect_timeout", "unsigned int", default="100"),
        Column("con_lifetime", "unsigned int", default="120"),
        Column("msg_read_timeout", "unsigned int", default="4"),
        Column("send_threshold", "unsigned int", default="0"),
        Column("no_new_conn", "unsigned int", default="0"),
        Column("alias_mode", "unsigned int", default="0"),
        Column("keepalive", "unsigned int", default="1"),
        Column("keepcount", "unsigned int", default="9"),
        Column("keepidle", "unsigned int", default="7200"),
        Column("keepinterval", "unsigned int", default="75"),
    ),
    (),
)
TEXTS: Final = ("proto", "remote_addr", "local_addr", "attrs")
STREAMS: Final = (sip.PROTO_TCP, sip.PROTO_TLS, sip.PROTO_WS, sip.PROTO_WSS)
MAX_PORT: Final = 65535
CHUNKS: Final = "max_msg_chunks"

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class Path:
    """One row: between which addresses it counts, and what."""

    __slots__ = ("local", "local_port", "priority", "proto", "remote", "remote_port", "settings")

    def __init__(
        self,
        proto: int,
        remote: IPNetwork | None,
        remote_port: int,
        local: str,
        local_port: int,
        priority: int,
        settings: PathSettings,
    ) -> None:
        """proto, ports 0, remote None and local "" stand for any."""
        self.proto = proto
        self.remote = remote
        self.remote_port = remote_port
        self.local = local
        self.local_port = local_port
        self.priority = priority
        self.settings = settings

    def order(self) -> tuple[int, ...]:
        """The lowest priority first, then the more exact in each part (the manual's rules, in its order)."""
        return (
            self.priority,
            int(self.proto == 0),
            -self.remote.prefixlen if self.remote is not None else 1,
            int(self.remote_port == 0),
            int(not self.local),
            int(self.local_port == 0),
        )

    def fits(self, proto: int, local: str, local_port: int, remote: str, remote_port: int) -> bool:
        return (
            self.proto in (0, proto)
            and self.remote_port in (0, remote_port)
            and self.local_port in (0, local_port)
            and self.local in ("", local)
            and (self.remote is None or ipaddress.ip_address(remote.partition("%")[0]) in self.remote)
        )


class PathTable(TcpPaths):
    """The rows in the order in which they are tried."""

    def __init__(self) -> None:
        self.paths: list[Path] = []

    def replace(self, paths: Sequence[Path]) -> None:
        self.paths = sorted(paths, key=Path.order)

    def find(self, proto: int, local: str, local_port: int, remote: str, remote_port: int) -> PathSettings | None:
        for path in self.paths:
            if path.fits(proto, local, local_port, remote, remote_port):
                return path.settings
        return None


class TcpMgm(Module):
    """Set time-outs, aliases and keep-alives of TCP, TLS and WebSocket connections by who is at their ends.

    A row that fits a connection takes the place of the global parameters tcp_*; the first one that fits counts: the
    lowest priority, then the most exact. Rows count for connections made after they were read. `send_threshold` is
    kept and has no effect: sending never waits for the peer.
    """

    tables = (TCP_TABLE,)

    alias_mode_col = Param(str, "alias_mode", "Column: 0 never, 1 as the peer asks (RFC 5923), 2 always reuse.")
    attrs_col = Param(str, "attrs", "Column of further attributes: max_msg_chunks=NUMBER.")
    con_lifetime_col = Param(str, "con_lifetime", "Column: seconds that an idle connection lives.")
    connect_timeout_col = Param(str, "connect_timeout", "Column: milliseconds that connecting may take.")
    db_table = Param(str, "tcp_mgm", "The table.")
    db_url = Param(str, None, "The database; the global db_default_url when not set.")
    direction_col = Param(str, "direction", "Accepted; the table has no such column.")
    id_col = Param(str, "id", "Column of the row's number.")
    keepalive_col = Param(str, "keepalive", "Column: 1 for TCP keep-alives.")
    keepcount_col = Param(str, "keepcount", "Column: keep-alives without an answer that end the connection.")
    keepidle_col = Param(str, "keepidle", "Column: seconds of silence before the first keep-alive.")
    keepinterval_col = Param(str, "keepinterval", "Column: seconds between keep-alives.")
    local_addr_col = Param(str, "local_addr", "Column: our address; NULL or any for all.")
    local_port_col = Param(str, "local_port", "Column: our port, 0 for all.")
    msg_read_timeout_col = Param(str, "msg_read_timeout", "Column: seconds that a message may take to arrive.")
    no_new_conn_col = Param(str, "no_new_conn", "Column: 1 opens no connection.")
    priority_col = Param(str, "priority", "Column: rows with a lower number are tried first.")
    proto_col = Param(str, "proto", "Column: any, tcp, tls, ws or wss.")
    remote_addr_col = Param(str, "remote_addr", "Column: the peer's address or network; NULL or any for all.")
    remote_port_col = Param(str, "remote_port", "Column: the peer's port, 0 for all.")
    send_threshold_col = Param(str, "send_threshold", "Column: microseconds that sending may take; it never waits.")

    def __init__(self, **params: Any) -> None:
        self.table = PathTable()
        self._database: Database | None = None
        super().__init__(**params)

    def api(self) -> TcpPaths:
        return self.table

    async def start(self) -> None:
        url = self.db_url or getattr(self.core.globals, "db_default_url", None)
        if not url:
            raise ParamError(self.name, "db_url", "is needed")
        try:
            self._database = self.core.database(url)
            self.table.replace(await self._load())
        except (DatabaseError, ValueError) as error:
            raise StartError(f"tcp_mgm: {error}") from error

    async def _load(self) -> list[Path]:
        """All rows. Raises DatabaseError, ValueError."""
        assert self._database is not None
        columns = [getattr(self, f"{column}_col") for column in COLUMNS]
        return [read_path(row) for row in await self._database.select(self.db_table, columns)]

    @mi_command("tcp_mgm:reload", aliases=("tcp_reload",))
    async def reload_paths(self) -> str:
        """Read the table again. With a row that cannot be, all stay as they are."""
        try:
            self.table.replace(await self._load())
        except (DatabaseError, ValueError) as error:
            LOG.error("tcp_mgm: %s", error)
            raise MiError(500, "Failed to reload", str(error)) from error
        return "OK"


def read_path(row: Sequence[DbValue]) -> Path:
    """One row of the table, columns as in COLUMNS. Raises ValueError."""
    values: dict[str, DbValue] = dict(zip(COLUMNS, row, strict=True))
    number = {name: 0 if value is None else as_int(value) for name, value in values.items() if name not in TEXTS}
    text = {name: "" if values[name] is None else as_text(values[name]).strip() for name in TEXTS}
    place = f"row {number['id']}"
    proto = 0 if text["proto"].lower() in ("any", "") else sip.proto_number(text["proto"].lower())
    if proto not in (0, *STREAMS):
        raise ValueError(f"{place}: {text['proto']!r} is no protocol over TCP")
    if not (0 <= number["remote_port"] <= MAX_PORT and 0 <= number["local_port"] <= MAX_PORT):
        raise ValueError(f"{place}: a port is out of range")
    remote_text, local = ("" if text[name].lower() == "any" else text[name] for name in ("remote_addr", "local_addr"))
    remote = ipaddress.ip_network(remote_text.strip("[]"), strict=False) if remote_text else None
    if local:
        local = str(ipaddress.ip_address(local.strip("[]")))
        if remote is not None and remote.version != ipaddress.ip_address(local).version:
            raise ValueError(f"{place}: the addresses are of different families")
    if not 0 <= number["alias_mode"] <= ALIAS_ALWAYS:
        raise ValueError(f"{place}: alias_mode is 0, 1 or 2")
    settings = PathSettings(
        connect_timeout_s=max(1, number["connect_timeout"]) / 1000,
        lifetime_s=max(1, number["con_lifetime"]),
        message_time_s=max(1, number["msg_read_timeout"]),
        no_new_connection=number["no_new_conn"] != 0,
        alias_mode=number["alias_mode"],
        keepalive=number["keepalive"] != 0,
        keepalive_idle_s=number["keepidle"],
        keepalive_interval_s=number["keepinterval"],
        keepalive_count=number["keepcount"],
        max_chunks=chunks(text["attrs"], place),
    )
    return Path(proto, remote, number["remote_port"], local, number["local_port"], number["priority"], settings)


def chunks(attrs: str, place: str) -> int:
    """The value of max_msg_chunks among "name=value;...", -1 when it is not there. Raises ValueError."""
    found = -1
    for part in filter(None, (part.strip() for part in attrs.split(";"))):
        name, _, value = part.partition("=")
        if name.strip() != CHUNKS or not value.strip().isdigit():
            raise ValueError(f"{place}: attribute {part!r} is not known, or its value is no number")
        found = int(value)
    return found
