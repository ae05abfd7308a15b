"""Management commands and statistics: one registry, JSON-RPC 2.0 for every door that carries them."""

from .control import CacheControl, LogConsumer, ProcessInfo, ServerControl, TcpControl
from .core_commands import (
    CacheCommands,
    CoreCommands,
    EventCommands,
    LogConsumerCommands,
    MemoryCommands,
    StatisticsCommands,
    StatusCommands,
    TcpCommands,
)
from .registry import (
    AMBIGUOUS_METHOD,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    SERVER_ERROR,
    CommandDecl,
    Json,
    MiError,
    Registry,
)
from .statistics import Computed, Counter, Statistics, UnknownStatistic
from .status import StatusReports

__all__ = [
    "AMBIGUOUS_METHOD",
    "INTERNAL_ERROR",
    "INVALID_PARAMS",
    "INVALID_REQUEST",
    "METHOD_NOT_FOUND",
    "PARSE_ERROR",
    "SERVER_ERROR",
    "CacheCommands",
    "CacheControl",
    "CommandDecl",
    "Computed",
    "CoreCommands",
    "Counter",
    "EventCommands",
    "Json",
    "LogConsumer",
    "LogConsumerCommands",
    "MemoryCommands",
    "MiError",
    "ProcessInfo",
    "Registry",
    "ServerControl",
    "Statistics",
    "StatisticsCommands",
    "StatusCommands",
    "StatusReports",
    "TcpCommands",
    "TcpControl",
    "UnknownStatistic",
]
