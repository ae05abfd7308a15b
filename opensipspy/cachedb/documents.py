"""Stores of documents: reads and changes by the fields of documents, beside the keys and values of every store.

A collection holds documents, mappings of a field's name to its value. The SQL emulation (`db_cachedb`) stands on
it. Field names and values of filters are data: a driver escapes names and never lets a value become an operator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

Cell = None | int | float | str | bytes | datetime
Document = Mapping[str, Cell]
Filter = tuple[str, str, Cell]
"""(field, operator, value): the operator is one of `FILTERS`; nothing but "=" and "!=" meets a NULL."""

FILTERS: Final = frozenset({"=", "!=", "<", "<=", ">", ">=", "like"})


class AddDocument:
    """A new document, in place of old ones when `replaced` says which."""

    __slots__ = ("collection", "document", "replaced")

    def __init__(self, collection: str, document: Document, replaced: Sequence[Sequence[Filter]] = ()) -> None:
        """replaced: documents that meet every filter of one of these go first."""
        self.collection = collection
        self.document = document
        self.replaced = tuple(tuple(filters) for filters in replaced)


class ChangeDocuments:
    """New values for the documents that meet every filter.

    otherwise: when none does, there is a new document with the new values and these.
    """

    __slots__ = ("collection", "document", "otherwise", "where")

    def __init__(
        self, collection: str, document: Document, where: Sequence[Filter], otherwise: Document | None = None
    ) -> None:
        self.collection = collection
        self.document = document
        self.where = tuple(where)
        self.otherwise = otherwise


class RemoveDocuments:
    """No more documents that meet every filter; without a filter the collection is emptied."""

    __slots__ = ("collection", "where")

    def __init__(self, collection: str, where: Sequence[Filter] = ()) -> None:
        self.collection = collection
        self.where = tuple(where)


DocumentWrite = AddDocument | ChangeDocuments | RemoveDocuments


class DocumentStore(ABC):
    """What a store of documents can do more than others. Every operation raises `CacheError` only."""

    @abstractmethod
    async def find_documents(
        self,
        collection: str,
        fields: Sequence[str],
        where: Sequence[Filter] = (),
        order: Sequence[tuple[str, bool]] = (),
        limit: int = 0,
    ) -> list[dict[str, Cell]]:
        """The fields (all without any) of documents that meet every filter. order: (field, descending)."""

    @abstractmethod
    async def write_documents(self, writes: Sequence[DocumentWrite]) -> list[int]:
        """Do all of the writes or none where the server has transactions, else in their order up to the first that
        fails. Returns how many documents each found, added or removed."""

    @abstractmethod
    async def next_numbers(self, collection: str, count: int) -> int:
        """The first of `count` numbers that no document of the collection has been given, counted from 1."""

    @abstractmethod
    async def make_collection(
        self, collection: str, unique: Sequence[Sequence[str]], indexes: Sequence[Sequence[str]]
    ) -> None:
        """Make it with its indexes; harmless when it is there."""

    @abstractmethod
    async def collections(self) -> set[str]:
        """Their names."""
