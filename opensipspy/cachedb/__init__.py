"""Key-value stores: the contract that scripts and modules use and drivers fulfil."""

from .documents import (
    FILTERS,
    AddDocument,
    Cell,
    ChangeDocuments,
    Document,
    DocumentStore,
    DocumentWrite,
    Filter,
    RemoveDocuments,
)
from .driver import CacheDbDriver, CacheDbs
from .errors import CacheError
from .raw import json_of, quoted_of, words_of
from .remote import Limits, RemoteCacheDb
from .store import (
    LARGEST_COUNTER,
    SMALLEST_COUNTER,
    CacheDb,
    CacheValue,
    InstantCacheDb,
    Map,
    Pairs,
    to_bytes,
    to_counter,
    to_text,
)
from .url import CacheUrl, parse_url

__all__ = [
    "FILTERS",
    "LARGEST_COUNTER",
    "SMALLEST_COUNTER",
    "AddDocument",
    "CacheDb",
    "CacheDbDriver",
    "CacheDbs",
    "CacheError",
    "CacheUrl",
    "CacheValue",
    "Cell",
    "ChangeDocuments",
    "Document",
    "DocumentStore",
    "DocumentWrite",
    "Filter",
    "InstantCacheDb",
    "Limits",
    "Map",
    "Pairs",
    "RemoteCacheDb",
    "RemoveDocuments",
    "json_of",
    "parse_url",
    "quoted_of",
    "to_bytes",
    "to_counter",
    "to_text",
    "words_of",
]
