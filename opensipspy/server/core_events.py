"""The events of the core: slow messages, closed connections, log lines, changes of status."""

from __future__ import annotations

import os
from typing import Any, Final

from opensipspy import sip
from opensipspy.net import SctpTransport, TcpConnection
from opensipspy.server import profiling
from opensipspy.server.core import ServerCore
from opensipspy.server.logs import NAMES, Logs, Sink

# name -> parameters with their types.
EVENTS: Final = {
    "E_CORE_LOG": (
        ("time", "string"),
        ("pid", "int"),
        ("level", "string"),
        ("module", "string"),
        ("function", "string"),
        ("prefix", "string"),
        ("message", "string"),
    ),
    "E_CORE_SR_STATUS_CHANGED": (
        ("group", "string"),
        ("identifier", "string"),
        ("status", "int"),
        ("details", "string"),
        ("old_status", "int"),
    ),
    "E_CORE_TCP_DISCONNECT": (
        ("src_ip", "string"),
        ("src_port", "int"),
        ("dst_ip", "string"),
        ("dst_port", "int"),
        ("proto", "string"),
    ),
    "E_CORE_THRESHOLD": (("source", ""), ("time", "string"), ("extra", "")),
    profiling.EVENT: profiling.PARAMS,
}


class EventSink(Sink):
    """Log lines as events (`log_event_enabled`). A line that raising one causes is not raised again."""

    name = "event"

    def __init__(self, core: ServerCore, level_filter: int) -> None:
        super().__init__(level_filter)
        self._core = core
        self._raising = False

    def write(self, level: int, text: str, fields: dict[str, Any]) -> None:
        if self._raising or not self._core.events.wanted("E_CORE_LOG"):
            return
        self._raising = True
        try:
            self._core.events.raise_event(
                "E_CORE_LOG",
                {
                    "time": fields["clock"],
                    "pid": os.getpid(),
                    "level": NAMES[level],
                    "module": fields["name"],
                    "function": "",
                    "prefix": fields["prefix"].rstrip(":"),
                    "message": text,
                },
            )
        finally:
            self._raising = False


class CoreEvents:
    """Declares the events and raises those that no other part does."""

    def __init__(self, core: ServerCore, logs: Logs, settings: Any) -> None:
        self._core = core
        self._logs = logs
        self._settings = settings

    def register(self) -> None:
        for name, params in EVENTS.items():
            self._core.events.declare(name, params, module="core")
        for transport in self._core.network.streams():
            transport.on_lost = self._disconnected
        associations = self._core.network.transport(sip.PROTO_SCTP)
        if isinstance(associations, SctpTransport):
            associations.on_lost = self._core.association_lost
        if self._settings.log_event_enabled:
            self._logs.handler.sinks.append(EventSink(self._core, int(self._settings.log_event_level_filter)))

    def _disconnected(self, connection: TcpConnection) -> None:
        self._core.disconnected(connection)
        hub = self._core.events
        if not hub.wanted("E_CORE_TCP_DISCONNECT"):
            return
        source, destination = connection.peer, connection.socket
        hub.raise_event(
            "E_CORE_TCP_DISCONNECT",
            {
                "src_ip": source.address,
                "src_port": source.port,
                "dst_ip": destination.address,
                "dst_port": destination.port,
                "proto": sip.proto_name(source.proto),
            },
        )
