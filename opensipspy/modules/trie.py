"""trie: the longest prefix of a number among those of a table, kept in memory.

A set of prefixes is a dict and the list of lengths that occur in it: a look-up tries these lengths, longest first. In
Python that is faster than walking a tree digit by digit.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import Annotated, Any, Final

from opensipspy.db import Column, Database, DatabaseError, Table, as_int, as_text, auto_id
from opensipspy.management.registry import Json
from opensipspy.module import MiError, Module, Param, ParamError, StartError, WritableVar, mi_command, script_function
from opensipspy.script.kinds import BRANCH, FAILURE, LOCAL, ONREPLY, REQUEST
from opensipspy.script.run import Run, VarRef

TRIE_TABLE: Final = Table(
    "trie_table",
    1,
    (
        auto_id("ruleid"),
        Column("prefix", "string", 64),
        Column("attrs", "string", 255, null=True, default=None),
        Column("enabled", "int", 11, default="1"),
    ),
)
TRIE_PARTITIONS: Final = Table(
    "trie_partitions",
    1,
    (
        auto_id(),
        Column("partition_name", "string", 255),
        Column("db_url", "string", 255),
        Column("trie_table", "string", 255, null=True),
    ),
)

DIGITS: Final = "0123456789"
DEFAULT: Final = "default"
"""The partition where there is only one."""
MAX_PREFIX: Final = 64
"""Characters of a prefix, as the table has them."""
SLICE: Final = 5000
"""Rows taken in before other work has its turn."""
RETRY_S: Final = 5
"""How long a database that was away at the start is left alone before it is asked again."""


class Prefixes:
    """One loaded set. hash: of all rows, so that two servers can be compared."""

    __slots__ = ("attrs", "hash", "lengths")

    def __init__(self) -> None:
        self.attrs: dict[str, str] = {}
        self.lengths: list[int] = []
        self.hash = ""

    def put(self, prefix: str, attrs: str) -> None:
        self.attrs[prefix] = attrs
        if len(prefix) not in self.lengths:
            self.lengths.append(len(prefix))
            self.lengths.sort(reverse=True)

    def longest(self, number: str) -> str | None:
        """The longest prefix of the number that is in the set."""
        attrs = self.attrs
        for length in self.lengths:
            prefix = number[:length]
            if prefix in attrs and len(prefix) == length:
                return prefix
        return None


class Partition:
    """A named set with the table that it comes from. loaded_at: wall clock, 0 before the first time."""

    __slots__ = ("database", "loaded_at", "loading", "name", "prefixes", "table")

    def __init__(self, name: str, database: Database, table: str) -> None:
        self.name = name
        self.database = database
        self.table = table
        self.prefixes: Prefixes | None = None
        self.loaded_at = 0.0
        self.loading = 0


class Trie(Module):
    """Find the longest matching prefix of a number in tables that are kept in memory."""

    name = "trie"
    tables = (TRIE_TABLE, TRIE_PARTITIONS)

    db_url = Param(str, None, "The database without partitions; the global db_default_url when not set.")
    trie_table = Param(str, "trie_table", "The table of prefixes, and of partitions that name none.")
    no_concurrent_reload = Param(int, 0, "Whether a reload is refused while another one is running.")
    use_partitions = Param(int, 0, "Whether there are several sets, each with a name.")
    db_partitions_url = Param(str, None, "The database of the table that lists the partitions.")
    db_partitions_table = Param(str, "trie_partitions", "The table that lists the partitions.")
    extra_prefix_chars = Param(str, None, "ASCII characters that prefixes may have beside digits.")

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self._partitions: dict[str, Partition] = {}
        extra = self.extra_prefix_chars or ""
        if not extra.isascii():
            raise ParamError(self.name, "extra_prefix_chars", "are ASCII characters")
        self._characters = frozenset(DIGITS + extra)
        self._complained = False

    # --- life

    async def start(self) -> None:
        default_url = self.db_url or getattr(self.core.globals, "db_default_url", None)
        if self.use_partitions:
            if not self.db_partitions_url:
                raise ParamError(self.name, "db_partitions_url", "is needed with use_partitions")
            await self._find_partitions(self.db_partitions_url)
        elif not default_url:
            raise ParamError(self.name, "db_url", "is needed")
        else:
            self._partitions[DEFAULT] = Partition(DEFAULT, self._open(default_url), self.trie_table)
        for partition in self._partitions.values():
            try:
                await partition.database.check_version(partition.table, TRIE_TABLE.version or 0)
                await self._load(partition)
            except DatabaseError as error:
                if not error.transient:
                    raise StartError(f"trie: table {partition.table} cannot be read: {error}") from error
                self.core.log.error("trie: no prefixes for %s, the database is asked again: %s", partition.name, error)
                self.core.call_later(RETRY_S, self._retry, partition)

    async def _find_partitions(self, url: str) -> None:
        database = self._open(url)
        try:
            await database.check_version(self.db_partitions_table, TRIE_PARTITIONS.version or 0)
            rows = await database.select(self.db_partitions_table, ("partition_name", "db_url", "trie_table"))
        except DatabaseError as error:
            raise StartError(f"trie: table {self.db_partitions_table} cannot be read: {error}") from error
        for name, where, table in rows:
            self._partitions[as_text(name)] = Partition(
                as_text(name), self._open(as_text(where)), as_text(table) or self.trie_table
            )
        if not self._partitions:
            self.core.log.warning("trie: table %s lists no partitions", self.db_partitions_table)

    def _open(self, url: str) -> Database:
        try:
            return self.core.database(url)
        except DatabaseError as error:
            raise StartError(f"trie: {error}") from error

    def _retry(self, partition: Partition) -> None:
        if partition.prefixes is None:
            self.core.spawn(self._load_late(partition), "trie.load")

    async def _load_late(self, partition: Partition) -> None:
        try:
            await self._load(partition)
        except DatabaseError as error:
            self.core.log.info("trie: still no prefixes for %s: %s", partition.name, error)
            self.core.call_later(RETRY_S, self._retry, partition)

    async def _load(self, partition: Partition) -> None:
        """Read the table in place of what is in memory, which answers until then. Raises DatabaseError."""
        partition.loading += 1
        try:
            rows = await partition.database.select(partition.table, ("prefix", "attrs", "enabled"))
            new = Prefixes()
            digest = hashlib.md5(usedforsecurity=False)
            skipped, example = 0, ""
            for at, (prefix_value, attrs_value, enabled) in enumerate(rows):
                prefix, attrs = as_text(prefix_value).strip(), as_text(attrs_value)
                if at % SLICE == SLICE - 1:
                    await asyncio.sleep(0)
                try:
                    if enabled is not None and as_int(enabled) == 0:
                        continue
                    self._check(prefix)
                except ValueError as error:
                    skipped += 1
                    example = example or str(error)
                    continue
                new.put(prefix, attrs)
                digest.update(f"{prefix}\0{attrs}\0".encode("utf-8", "surrogateescape"))
            new.hash = digest.hexdigest()
            if skipped:
                self.core.log.warning("table %s: %d rows are skipped; the first: %s", partition.table, skipped, example)
            partition.prefixes = new
            partition.loaded_at = self.core.time()
        finally:
            partition.loading -= 1

    def _check(self, prefix: str) -> None:
        if not prefix or len(prefix) > MAX_PREFIX:
            raise ValueError(f"a prefix has 1 to {MAX_PREFIX} characters")
        if not self._characters.issuperset(prefix):
            raise ValueError(f"{prefix!r} has characters that prefixes do not have")

    # --- for scripts

    @script_function(routes=REQUEST | FAILURE | ONREPLY | BRANCH | LOCAL)
    def trie_search(
        self,
        run: Run,
        number: str,
        flags: str | None = None,
        trie_attrs_pvar: Annotated[VarRef | None, WritableVar("")] = None,
        match_prefix_pvar: Annotated[VarRef | None, WritableVar("")] = None,
        partition: str | None = None,
    ) -> int:
        """Find the longest prefix of a number; its attributes and the prefix itself are written.

        flags: L matches the whole number only. partition: needed with `use_partitions`. Returns 1 found, -1 not.
        """
        found = self._partitions.get(partition if partition is not None else DEFAULT)
        if found is None or (partition is None and self.use_partitions):
            if not self._complained:
                self._complained = True
                reason = "the partition is missing" if partition is None else f"there is no partition {partition!r}"
                self.core.log.error("trie_search(): %.200s", reason)
            return -1
        prefixes = found.prefixes
        if prefixes is None or not number:
            return -1
        prefix = prefixes.longest(number)
        if prefix is None or (flags and "L" in flags and len(prefix) != len(number)):
            return -1
        if trie_attrs_pvar is not None:
            trie_attrs_pvar.set(run, prefixes.attrs[prefix])
        if match_prefix_pvar is not None:
            match_prefix_pvar.set(run, prefix)
        return 1

    # --- management

    def _partition(self, name: str | None) -> Partition:
        if name is None:
            if self.use_partitions:
                raise MiError(400, "Missing parameter: 'partition_name'", "it is required when 'use_partitions' is set")
            name = DEFAULT
        found = self._partitions.get(name)
        if found is None:
            if not self.use_partitions:
                raise MiError(
                    400, "Invalid parameter: 'partition_name'", "without 'use_partitions' there is 'default' only"
                )
            raise MiError(404, "Partition not found")
        return found

    def _loaded(self, name: str | None) -> Prefixes:
        prefixes = self._partition(name).prefixes
        if prefixes is None:
            raise MiError(400, "No data")
        return prefixes

    @mi_command(
        "trie:reload",
        aliases=("trie_reload",),
        params=((), ("partition_name",)),
        types={"partition_name": "string"},
    )
    async def reload_partitions(self, partition_name: str | None = None) -> str:
        """Read the tables again, of one partition or of all."""
        chosen = list(self._partitions.values()) if partition_name is None else [self._partition(partition_name)]
        if self.no_concurrent_reload and any(partition.loading for partition in chosen):
            raise MiError(500, "Failed to reload", "another reload is in progress")
        for partition in chosen:
            try:
                await self._load(partition)
            except DatabaseError as error:
                self.core.log.error("trie:reload: %s: %s", partition.name, error)
                raise MiError(500, "Failed to reload", partition.name) from error
        return "OK"

    @mi_command(
        "trie:reload_status",
        aliases=("trie_reload_status",),
        params=((), ("partition_name",)),
        types={"partition_name": "string"},
    )
    def reload_status(self, partition_name: str | None = None) -> Json:
        """When each partition was last loaded, and a hash of what was."""
        if partition_name is not None:
            return self._status(self._partition(partition_name), named=True)
        if self.use_partitions:
            return {"Partitions": [self._status(p, named=True) for p in self._partitions.values()]}
        return self._status(self._partition(None), named=False)

    @staticmethod
    def _status(partition: Partition, *, named: bool) -> dict[str, Json]:
        status: dict[str, Json] = {"name": partition.name} if named else {}
        status["Date"] = time.ctime(partition.loaded_at) if partition.loaded_at else ""
        status["HASH"] = partition.prefixes.hash if partition.prefixes is not None else ""
        return status

    @mi_command(
        "trie:search",
        aliases=("trie_search",),
        params=(("number",), ("partition_name", "number")),
        types={"number": "string", "partition_name": "string"},
        named_params_only=True,
    )
    def search(self, number: str, partition_name: str | None = None) -> Json:
        """The longest prefix of a number and its attributes, or "No match"."""
        prefixes = self._loaded(partition_name)
        prefix = prefixes.longest(number)
        if prefix is None:
            return "No match"
        attrs = prefixes.attrs[prefix]
        return {"Matched Prefix": prefix, "ATTRS": attrs} if attrs else {"Matched Prefix": prefix}

    @mi_command(
        "trie:number_delete",
        aliases=("trie_number_delete",),
        params=(("partition_name", "number"),),
        types={"number": "array", "partition_name": "string"},
    )
    def number_delete(self, partition_name: str, number: list[Json]) -> str:
        """Take prefixes out of the memory; the table keeps them. Those that are not there are passed over."""
        prefixes = self._loaded(partition_name)
        for prefix in _texts(number, "number"):
            if prefixes.attrs.pop(prefix, None) is None:
                self.core.log.info("trie:number_delete: %.64s is not there", prefix)
        return "OK"

    @mi_command(
        "trie:number_upsert",
        aliases=("trie_number_upsert",),
        params=(("partition_name", "number", "attrs"),),
        types={"number": "array", "attrs": "array", "partition_name": "string"},
    )
    def number_upsert(self, partition_name: str, number: list[Json], attrs: list[Json]) -> str:
        """Put prefixes with their attributes into the memory, all or none; the table does not change."""
        prefixes = self._loaded(partition_name)
        names, values = _texts(number, "number"), _texts(attrs, "attrs")
        if len(names) != len(values):
            raise MiError(400, "Each number needs its attrs")
        for name in names:
            try:
                self._check(name)
            except ValueError as error:
                raise MiError(400, str(error)) from error
        for name, value in zip(names, values, strict=True):
            prefixes.put(name, value)
        return "OK"


def _texts(values: list[Json], name: str) -> list[str]:
    """The items of an array parameter as texts; numbers are the texts that they were typed as."""
    if any(isinstance(value, bool) or not isinstance(value, str | int) for value in values):
        raise MiError(400, f"{name} is an array of strings")
    return [str(value) for value in values]
