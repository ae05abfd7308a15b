"""Keys and values in the server's own memory, by collection.

A collection is a dictionary; the sizes of hash tables that `cache_collections` gives are checked and mean nothing else.
Expired keys are gone at once for those who ask, and leave the memory every `cache_clean_period`.

With `enable_restart_persistency` the collections are written to a file beside the one that the global parameter
`restart_persistency_cache_file` names, with `.cachedb_local` after its name: at each cleaning and at the stop of the
server, atomically, readable by the owner only. It has one JSON array a line: first `["opensipspy-cachedb-local", 1]`,
then `[collection, key, value, expires]`, expires in seconds since 1970, 0 for never. Maps are not kept.

With `cluster_id` the collections with `/r` after their name are the same on all nodes of a cluster, OpenSIPS' among
them: what is stored, removed, added to and subtracted from is sent to all, and a node that starts gets everything from
another one. The last write counts; two at the same time may end differently on two nodes. Maps, and the removal of
keys by pattern, stay where they are.
"""

from __future__ import annotations

import asyncio
import fnmatch
import json
import logging
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from opensipspy.cachedb import CacheDbDriver, CacheError, CacheUrl, InstantCacheDb, Map, Pairs, to_counter
from opensipspy.cluster import (
    Capability,
    ClusterApi,
    ClusterUser,
    Packet,
    PacketError,
    PacketWriter,
    SyncWriter,
)
from opensipspy.management import MiError
from opensipspy.module import Module, Omittable, Param, ParamError, Requires, Timer, mi_command, script_function
from opensipspy.script.kinds import BRANCH, FAILURE, LOCAL, ONREPLY, REQUEST, STARTUP
from opensipspy.script.run import Run

LOG: Final = logging.getLogger(__name__)

T = TypeVar("T")

DEFAULT: Final = "default"
LARGEST_SIZE: Final = 30
"""Of a hash table, as a power of two."""
MAX_BYTES: Final = 1 << 30
"""Of keys and values in all collections."""
ENTRY_BYTES: Final = 200
"""What an entry costs beside its key and value."""
MAX_GLOB: Final = 1024
SLICE: Final = 20_000
"""Keys looked at in one turn of the event loop."""
SYNC_PORTION: Final = 100_000
"""Characters sent to a node that starts in one turn of the event loop."""
SUFFIX: Final = ".cachedb_local"
HEADER: Final = ["opensipspy-cachedb-local", 1]
CAPABILITY: Final = "cachedb-local-repl"
# Kinds and version of the packets between nodes.
STORED: Final = 1
REMOVED: Final = 2
VERSION: Final = 1
PERSISTENCY: Final = ("none", "sync-from-cluster")
LONGEST_LIFE_S: Final = 2**31 - 1

Entry = tuple[str, float]
"""A value, and when it expires on the clock that never jumps; 0 for never."""


class Memory:
    """How much all collections hold."""

    __slots__ = ("used",)

    def __init__(self) -> None:
        self.used = 0


class Collection:
    """Named keys and values."""

    def __init__(self, name: str, memory: Memory, now: Callable[[], float]) -> None:
        self.name = name
        self.entries: dict[str, Entry] = {}
        self.maps: dict[str, Map] = {}
        # Where its changes are told, None for one that is only here.
        self.replica: Replica | None = None
        self._memory = memory
        self._now = now

    def get(self, key: str) -> str | None:
        entry = self.entries.get(key)
        if entry is None:
            return None
        if entry[1] and entry[1] <= self._now():
            self.drop(key)
            return None
        return entry[0]

    def put(self, key: str, value: str, expires: float) -> None:
        old = self.entries.get(key)
        grown = len(value) - len(old[0]) if old is not None else len(key) + len(value) + ENTRY_BYTES
        if grown > 0 and self._memory.used + grown > MAX_BYTES:
            raise CacheError(f"local: the collections hold {MAX_BYTES >> 20} MB already")
        self._memory.used += grown
        self.entries[key] = value, expires

    def drop(self, key: str) -> bool:
        entry = self.entries.pop(key, None)
        if entry is None:
            return False
        self._memory.used -= len(key) + len(entry[0]) + ENTRY_BYTES
        return True

    def matching(self, glob: str) -> list[str]:
        """The living keys that a pattern of `*`, `?` and `[...]` fits."""
        now = self._now()
        prefix = re.split(r"[*?\[]", glob, maxsplit=1)[0]
        fits = re.compile(fnmatch.translate(glob)).match
        return [
            key
            for key, (_, expires) in self.entries.items()
            if key.startswith(prefix) and (not expires or expires > now) and fits(key)
        ]

    def clear(self) -> None:
        for key in list(self.entries):
            self.drop(key)
        self.maps.clear()


class LocalStore(InstantCacheDb):
    """A collection behind a URL."""

    maps = True

    def __init__(self, url: CacheUrl, collection: Collection, now: Callable[[], float]) -> None:
        super().__init__(url)
        self._collection = collection
        self._now = now

    def _expires(self, expire_s: int) -> float:
        return self._now() + expire_s if expire_s > 0 else 0.0

    def fetch_now(self, key: str) -> str | None:
        self.operations += 1
        return self._collection.get(key)

    def store_now(self, key: str, value: str | int, expire_s: int = 0) -> None:
        self.operations += 1
        collection = self._collection
        collection.put(key, str(value), self._expires(expire_s))
        if collection.replica is not None:
            collection.replica.stored(collection, key)

    def remove_now(self, key: str) -> bool:
        self.operations += 1
        there = self._collection.get(key) is not None
        self._collection.drop(key)
        if self._collection.replica is not None:
            self._collection.replica.removed(self._collection, key)
        return there

    def add_now(self, key: str, amount: int, expire_s: int = 0) -> int:
        self.operations += 1
        old = self._collection.get(key)
        value = to_counter((to_counter(old) if old is not None else 0) + amount)
        kept = self._collection.entries[key][1] if old is not None else 0.0
        self._collection.put(key, str(value), self._expires(expire_s) or kept)
        if self._collection.replica is not None:
            self._collection.replica.stored(self._collection, key)
        return value

    def fetch_counter_now(self, key: str) -> int | None:
        value = self.fetch_now(key)
        return None if value is None else to_counter(value)

    async def map_get(self, key: str) -> Map:
        return {subkey: dict(pairs) for subkey, pairs in self._collection.maps.get(key, {}).items()}

    async def map_set(self, key: str, subkey: str, pairs: Pairs) -> None:
        entry = self._collection.maps.setdefault(key, {}).setdefault(subkey, {})
        for name, value in pairs.items():
            if value is None:
                entry.pop(name, None)
            else:
                entry[name] = value

    async def map_remove(self, key: str, subkey: str = "") -> None:
        if not subkey:
            self._collection.maps.pop(key, None)
            return
        entries = self._collection.maps.get(key, {})
        entries.pop(subkey, None)
        if not entries:
            self._collection.maps.pop(key, None)

    async def truncate(self) -> None:
        self._collection.clear()


class TimedStore(LocalStore):
    """A collection that tells of operations that take long."""

    def __init__(self, url: CacheUrl, collection: Collection, now: Callable[[], float], slow_s: float) -> None:
        super().__init__(url, collection, now)
        self._slow_s = slow_s

    def _timed(self, what: str, work: Callable[[], T]) -> T:
        begun = time.perf_counter()
        try:
            return work()
        finally:
            taken = time.perf_counter() - begun
            if taken > self._slow_s:
                self.slow += 1
                LOG.warning("%s: %s took %d us", self.url, what, taken * 1e6)

    def fetch_now(self, key: str) -> str | None:
        return self._timed("fetch", lambda: super(TimedStore, self).fetch_now(key))

    def store_now(self, key: str, value: str | int, expire_s: int = 0) -> None:
        self._timed("store", lambda: super(TimedStore, self).store_now(key, value, expire_s))

    def remove_now(self, key: str) -> bool:
        return self._timed("remove", lambda: super(TimedStore, self).remove_now(key))

    def add_now(self, key: str, amount: int, expire_s: int = 0) -> int:
        return self._timed("add", lambda: super(TimedStore, self).add_now(key, amount, expire_s))


class Replica(ClusterUser):
    """Keeps collections the same on all nodes of a cluster. kept: keys of the file of the last run."""

    def __init__(self, collections: dict[str, Collection], now: Callable[[], float]) -> None:
        self.place: Capability | None = None
        self.kept: dict[str, set[str]] = {}
        self._collections = collections
        self._now = now

    def _fields(self, collection: Collection, key: str) -> PacketWriter:
        value, expires = collection.entries[key]
        left_s = min(max(1, math.ceil(expires - self._now())), LONGEST_LIFE_S) if expires else 0
        packet = PacketWriter(CAPABILITY, STORED, VERSION)
        return packet.text(collection.name).text(key).text(value).number(left_s)

    def stored(self, collection: Collection, key: str) -> None:
        """A key has a new value here."""
        self._tell(key, lambda: self._fields(collection, key))

    def removed(self, collection: Collection, key: str) -> None:
        """A key was removed here."""
        self._tell(key, lambda: PacketWriter(CAPABILITY, REMOVED, VERSION).text(collection.name).text(key))

    def _tell(self, key: str, make: Callable[[], PacketWriter]) -> None:
        if self.place is None:
            return
        try:
            self.place.broadcast(make())
        except PacketError as error:
            LOG.warning("cachedb_local: key %s is not replicated: %s", key[:80], error)

    def _collection(self, packet: Packet) -> Collection | None:
        """The collection that a packet names; None when it is only here. Raises PacketError."""
        name = packet.text()
        found = self._collections.get(name)
        if found is None:
            raise PacketError(f"there is no collection {name[:64]}")
        return found if found.replica is self else None

    def _store(self, packet: Packet) -> None:
        collection = self._collection(packet)
        key, value, left_s = packet.text(), packet.text(), packet.number()
        if left_s < 0:
            raise PacketError(f"a key lives for {left_s} s")
        if collection is None:
            return
        self.kept.get(collection.name, set()).discard(key)
        try:
            collection.put(key, value, self._now() + left_s if left_s else 0.0)
        except CacheError as error:
            raise PacketError(str(error)) from error

    def on_packet(self, packet: Packet, source: int) -> None:
        if packet.kind == STORED:
            self._store(packet)
        elif packet.kind == REMOVED:
            collection, key = self._collection(packet), packet.text()
            if collection is not None:
                collection.drop(key)
        else:
            raise PacketError(f"{packet.kind} is no kind of packet of {CAPABILITY}")

    async def on_sync_request(self, node_id: int, sync: SyncWriter) -> None:
        """Another node has started: it gets all keys, a slice at a time."""
        for collection in list(self._collections.values()):
            if collection.replica is not self:
                continue
            portion = 0
            for key in list(collection.entries):
                value = collection.get(key)
                if value is None:
                    continue
                try:
                    sync.add(self._fields(collection, key))
                except PacketError as error:
                    LOG.warning("cachedb_local: key %s is not sent to node %d: %s", key[:80], node_id, error)
                portion += ENTRY_BYTES + len(value)
                if portion > SYNC_PORTION:
                    portion = 0
                    await sync.room()
                    await asyncio.sleep(0)

    def on_sync_chunk(self, chunk: Packet, source: int) -> None:
        self._store(chunk)

    def on_synced(self, source: int) -> None:
        """What this node kept over its restart and no other one knows is out of date."""
        for name, keys in self.kept.items():
            for key in keys:
                self._collections[name].drop(key)
        self.kept.clear()


class CachedbLocal(CacheDbDriver, Module):
    """Keep keys and values in the server's memory."""

    name = "cachedb_local"
    kind = "cachedb"
    schemes = ("local",)
    requires = (Requires("clusterer", param="cluster_id"),)
    wants = ("clusterer",)

    cache_clean_period = Param(int, 600, "How often expired keys leave the memory.", unit="s")
    cache_collections = Param(
        str,
        None,
        '"name=size; name/r": collections beside "default"; /r ones are shared, sizes mean nothing.',
        func=True,
    )
    cachedb_url = Param(
        str, None, '"local:group:///collection": what scripts call "local:group".', repeated=True, func=True
    )
    enable_restart_persistency = Param(int, 0, "1 keeps the collections in a file over a restart.")

    cluster_id = Param(int, 0, "The cluster whose nodes share the collections with /r; 0 none.")
    cluster_persistency = Param(
        str, "sync-from-cluster", "none: a node starts empty; sync-from-cluster: with what another node has."
    )
    exec_threshold = Param(int, 0, "Operations that take longer are logged; 0 none.", unit="us")

    cleaning = Timer("cache_clean_period", "clean")

    def __init__(self, **params: Any) -> None:
        self._memory = Memory()
        self._collections: dict[str, Collection] = {}
        self._replicated: list[str] = []
        self._writing = threading.Lock()
        self._make(DEFAULT)
        super().__init__(**params)

    def set_cache_collections(self, text: str) -> None:
        for word in text.split(";"):
            if not word.strip():
                continue
            name, equals, size = (part.strip() for part in word.partition("="))
            name, slash, flag = name.partition("/")
            if not name or (slash and flag != "r"):
                raise ValueError(f"{word.strip()!r} is not name, name/r or name=size")
            if equals and not (size.isascii() and size.isdigit() and len(size) < 3 and int(size) <= LARGEST_SIZE):
                raise ValueError(f"the size of {name} is a power of two, 0 to {LARGEST_SIZE}, not {size!r}")
            if slash:
                self._replicated.append(name)
            self._make(name)

    def _make(self, name: str) -> None:
        if name not in self._collections:
            self._collections[name] = Collection(name, self._memory, self._now)

    def _now(self) -> float:
        return self.core.now()

    async def start(self) -> None:
        if self.cluster_persistency not in PERSISTENCY:
            raise ParamError(self.name, "cluster_persistency", f"is {' or '.join(PERSISTENCY)}")
        if self._replicated and not self.cluster_id:
            names = ", ".join(self._replicated)
            self.core.log.warning("cachedb_local: collection %s is not replicated: there is no cluster_id", names)
        for url in self._urls:
            self._collection_of(url)
        if self.enable_restart_persistency:
            await self._read_file()
        if self.cluster_id:
            self._join()

    def _join(self) -> None:
        """Share the collections with the cluster."""
        replica = Replica(self._collections, self._now)
        from_cluster = self.cluster_persistency != PERSISTENCY[0]
        for name in self._replicated:
            collection = self._collections[name]
            collection.replica = replica
            if from_cluster:
                replica.kept[name] = set(collection.entries)
        try:
            cluster = self.core.api("clusterer", ClusterApi)  # type: ignore[type-abstract]
            replica.place = cluster.join(CAPABILITY, self.cluster_id, replica, startup_sync=from_cluster)
        except LookupError as error:
            raise ParamError(self.name, "cluster_id", str(error)) from error

    async def stop(self) -> None:
        if self.enable_restart_persistency:
            await self._write_file()

    # --- stores

    def script_urls(self) -> list[CacheUrl]:
        # Without a URL of its own, "local" is the default collection.
        return [CacheUrl("local", text="local:///"), *self._urls]

    def open_store(self, url: CacheUrl) -> LocalStore:
        collection = self._collection_of(url)
        if self.exec_threshold > 0:
            return TimedStore(url, collection, self._now, self.exec_threshold / 1e6)
        return LocalStore(url, collection, self._now)

    def _collection_of(self, url: CacheUrl) -> Collection:
        found = self._collections.get(url.database or DEFAULT)
        if found is None:
            raise CacheError(f"{url}: collection {url.database} is not in cache_collections")
        return found

    async def clean(self) -> None:
        """Drop expired keys, a slice at a time."""
        for collection in self._collections.values():
            keys = list(collection.entries)
            for start in range(0, len(keys), SLICE):
                for key in keys[start : start + SLICE]:
                    collection.get(key)
                await asyncio.sleep(0)
        if self.enable_restart_persistency:
            await self._write_file()

    # --- keys by pattern

    def _chosen(self, name: str | None, glob: str) -> tuple[Collection, list[str]]:
        """Raises LookupError for a collection that is not there, ValueError for a pattern that is too long."""
        if len(glob) > MAX_GLOB:
            raise ValueError(f"a pattern has at most {MAX_GLOB} characters")
        collection = self._collections[name or DEFAULT]
        return collection, collection.matching(glob)

    @script_function(routes=REQUEST | FAILURE | ONREPLY | BRANCH | LOCAL | STARTUP)
    def cache_remove_chunk(self, run: Run, collection: Annotated[str | None, Omittable()], glob: str) -> int:
        """Remove the keys of a collection that a pattern such as `call_*` fits; -1 when there is no such collection."""
        try:
            chosen, keys = self._chosen(collection, glob)
        except (LookupError, ValueError) as error:
            self.core.log.error("cache_remove_chunk: no collection %s", error)
            return -1
        for key in keys:
            chosen.drop(key)
        return 1

    @mi_command(
        "cachedb_local:remove_chunk", aliases=("cache_remove_chunk",), params=(("glob",), ("glob", "collection"))
    )
    def mi_remove_chunk(self, glob: str, collection: str | None = None) -> str:
        """Remove the keys that a pattern fits."""
        chosen, keys = self._asked(collection, glob)
        for key in keys:
            chosen.drop(key)
        return "OK"

    @mi_command("cachedb_local:fetch_chunk", aliases=("cache_fetch_chunk",), params=(("glob",), ("glob", "collection")))
    def mi_fetch_chunk(self, glob: str, collection: str | None = None) -> dict[str, Any]:
        """Show the keys that a pattern fits, with their values."""
        chosen, keys = self._asked(collection, glob)
        return {"keys": [{"name": key, "value": chosen.entries[key][0]} for key in keys]}

    def _asked(self, name: str | None, glob: str) -> tuple[Collection, list[str]]:
        try:
            return self._chosen(name, glob)
        except LookupError:
            raise MiError(404, "Collection not found") from None
        except ValueError as error:
            raise MiError(400, str(error)) from error

    # --- over a restart

    @property
    def _file(self) -> Path:
        name = getattr(self.core.globals, "restart_persistency_cache_file", "") or ".restart_persistency.cache"
        return Path(str(name) + SUFFIX)

    async def _write_file(self) -> None:
        shift = self.core.time() - self.core.now()
        snapshot = [(c.name, list(c.entries.items())) for c in self._collections.values()]
        try:
            await asyncio.to_thread(self._write, lines(snapshot, shift, self.core.now()))
        except OSError as error:
            self.core.log.error("cachedb_local: %s cannot be written: %s", self._file, error.strerror or error)

    def _write(self, content: Iterator[str]) -> None:
        # A cleaning that the stop of the server has cut short may still be writing.
        with self._writing:
            write_file(self._file, content)

    async def _read_file(self) -> None:
        try:
            records = await asyncio.to_thread(read_file, self._file)
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            self.core.log.error("cachedb_local: %s is not used: %s", self._file, error)
            return
        wall, now = self.core.time(), self.core.now()
        unknown = 0
        for name, key, value, expires in records:
            collection = self._collections.get(name)
            if collection is None:
                unknown += 1
            elif not expires or expires > wall:
                collection.put(key, value, now + expires - wall if expires else 0.0)
        if unknown:
            self.core.log.warning("cachedb_local: %d kept keys are of collections that are not there", unknown)


def lines(snapshot: list[tuple[str, list[tuple[str, Entry]]]], shift: float, now: float) -> Iterator[str]:
    """The lines of the file; shift: from the clock that never jumps to the wall clock."""
    yield json.dumps(HEADER)
    for name, entries in snapshot:
        for key, (value, expires) in entries:
            if not expires or expires > now:
                # Escapes keep a line a line, and octets that are no text.
                yield json.dumps([name, key, value, round(expires + shift, 3) if expires else 0])


def write_file(path: Path, content: Iterator[str]) -> None:
    """Replace the file at once or not at all; raises OSError. A part of it does not stay behind on a full disk."""
    part = path.with_name(path.name + ".part")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
            for line in content:
                file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def read_file(path: Path) -> list[tuple[str, str, str, float]]:
    """(collection, key, value, expires) of each line. Raises OSError, and ValueError for another kind of file."""
    if path.stat().st_size > 8 * MAX_BYTES:
        raise ValueError("it is too large")
    found = []
    with open(path, encoding="ascii") as file:
        if json.loads(file.readline() or "null") != HEADER:
            raise ValueError("it is not a file of cachedb_local")
        for number, line in enumerate(file, 2):
            record = json.loads(line)
            match record:
                case [str(name), str(key), str(value), int() | float() as expires]:
                    found.append((name, key, value, float(expires)))
                case _:
                    raise ValueError(f"line {number} is no record")
    return found
