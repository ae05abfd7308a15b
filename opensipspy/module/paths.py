"""What connections between given addresses are allowed: `tcp_mgm` knows it, the transports ask."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

ALIAS_NEVER: Final = 0
ALIAS_ASKED: Final = 1
ALIAS_ALWAYS: Final = 2


class PathSettings:
    """Takes the place of the script's global parameters. alias_mode: one of ALIAS_*; max_chunks -1: as it was."""

    def __init__(
        self,
        *,
        connect_timeout_s: float,
        lifetime_s: float,
        message_time_s: float,
        no_new_connection: bool,
        alias_mode: int,
        keepalive: bool,
        keepalive_idle_s: int,
        keepalive_interval_s: int,
        keepalive_count: int,
        max_chunks: int = -1,
    ) -> None:
        self.connect_timeout_s = connect_timeout_s
        self.lifetime_s = lifetime_s
        self.message_time_s = message_time_s
        self.no_new_connection = no_new_connection
        self.alias_mode = alias_mode
        self.keepalive = keepalive
        self.keepalive_idle_s = keepalive_idle_s
        self.keepalive_interval_s = keepalive_interval_s
        self.keepalive_count = keepalive_count
        self.max_chunks = max_chunks


class TcpPaths(ABC):
    """The paths of a server."""

    @abstractmethod
    def find(self, proto: int, local: str, local_port: int, remote: str, remote_port: int) -> PathSettings | None:
        """What counts for a connection between these ends, None when nothing special does."""
