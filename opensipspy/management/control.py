"""What the core's management commands need from the server; `server/` implements these, one per ability it has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Sequence

from opensipspy.management.registry import Json


class ProcessInfo:
    """One process of the server: number, process id, and what it does ("SIP receiver udp:127.0.0.1:5060")."""

    __slots__ = ("id", "pid", "type")

    def __init__(self, id: int, pid: int, type: str) -> None:
        self.id = id
        self.pid = pid
        self.type = type


class ServerControl(ABC):
    """The server itself. Log levels are OpenSIPS's: -3 alert to 4 debug."""

    argv: Sequence[str]
    started_at: float
    """Wall clock, seconds since 1970."""
    version: str
    """As the Server header shows it: `opensipspy (0.1.0 (x86_64/linux))`."""

    @abstractmethod
    def time(self) -> float:
        """Wall clock, seconds since 1970."""

    @abstractmethod
    def processes(self) -> Sequence[ProcessInfo]:
        """Running processes, the main one first."""

    @abstractmethod
    def log_level(self, pid: int) -> int:
        """The log level of a process."""

    @abstractmethod
    def set_log_level(self, level: int, pid: int | None = None) -> None:
        """Set the level of one process, or of all."""

    @abstractmethod
    def xlog_level(self) -> int:
        """The level up to which the script's xlog writes."""

    @abstractmethod
    def set_xlog_level(self, level: int) -> None:
        """Set the level up to which the script's xlog writes."""

    @abstractmethod
    def stop(self) -> None:
        """Begin an orderly end, as a TERM signal does; returns at once."""

    @abstractmethod
    async def reload_routes(self) -> None:
        """Replace the script's routes; raises MiError with the findings when the new script is broken."""


class TcpControl(ABC):
    """Connections of the stream transports."""

    @abstractmethod
    def connections(self, proto: str | None) -> Sequence[dict[str, Json]]:
        """Open connections, of one protocol ("tcp", "tls", "ws", "wss") or all.

        Each: ID, Type, State, Remote "ip:port", Local "ip:port", Lifetime.
        """

    @abstractmethod
    def close(self, address: str, port: int) -> int:
        """Close the connections to a remote address; how many there were."""

    def close_connection(self, number: int) -> bool:
        """Close the connection with the ID that the list shows; False when there is none."""
        return False

    def close_of(self, proto: str, address: str, port: int) -> int:
        """Close the connections of one protocol to a remote address; how many there were."""
        return self.close(address, port)


class CacheControl(ABC):
    """Key-value stores by name (`local`, `redis:group`). LookupError: no such store; OSError: it does not answer."""

    @abstractmethod
    def fetch(self, system: str, key: str) -> str | Awaitable[str | None] | None:
        """The value of a key, None when there is none."""

    @abstractmethod
    def store(self, system: str, key: str, value: str, expire_s: int) -> Awaitable[None] | None:
        """Keep a value; expire_s 0 keeps it for ever."""

    @abstractmethod
    def remove(self, system: str, key: str) -> Awaitable[None] | None:
        """Forget a key."""


class LogConsumer(ABC):
    """One place that log lines go to ("stderror", "syslog", "event")."""

    level_filter: int
    """Highest level let through; 0 lets the log level decide."""
    muted: bool
