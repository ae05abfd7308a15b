"""Management commands and statistics: one registry, JSON-RPC 2.0 for every door that carries them."""

from .registry import (
    AMBIGUOUS_METHOD,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    CommandDecl,
    Json,
    MiError,
    Registry,
)
from .statistics import Computed, Counter, Statistics, UnknownStatistic

__all__ = [
    "AMBIGUOUS_METHOD",
    "INTERNAL_ERROR",
    "INVALID_PARAMS",
    "INVALID_REQUEST",
    "METHOD_NOT_FOUND",
    "PARSE_ERROR",
    "CommandDecl",
    "Computed",
    "Counter",
    "Json",
    "MiError",
    "Registry",
    "Statistics",
    "UnknownStatistic",
]
