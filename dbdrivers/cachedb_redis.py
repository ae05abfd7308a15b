"""Redis and Valkey, through redis-py: a single server, one chosen by Sentinel, or a cluster.

The URL is `redis:group://user:password@host:port/database?options`. Several hosts are tried in turn. Options:
`socket=PATH` (a Unix socket), `sentinel=NAME` (the hosts are Sentinels, NAME is the master's name), and with `use_tls`
`tls_domain=NAME` (a client domain of tls_mgm), or without that module `tls_ca=FILE`, `tls_cert=FILE`, `tls_key=FILE`,
`tls_verify=no`. Whether the server belongs to a cluster is asked at
the connection; one that is reached by a Unix socket or by Sentinel never does.

What is asked of a single server in one turn of the event loop travels as one pipeline. A server that is away is tried
again with growing pauses; meanwhile every operation fails at once.

`map_*` keep a set of subkeys under the key and a hash `{key}:subkey` for each; numbers come back as text. Columns by
RediSearch (`ftsearch_*`) are not there.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final

from opensipspy.cachedb import (
    CacheDbDriver,
    CacheError,
    CacheUrl,
    CacheValue,
    Limits,
    Map,
    Pairs,
    RemoteCacheDb,
    to_bytes,
    to_counter,
    to_text,
    words_of,
)
from opensipspy.module import Module, Param, StartError, Stat, mi_command
from opensipspy.module.tls import TlsDomains

DEFAULT_PORT: Final = 6379
SENTINEL_PORT: Final = 26379
CLUSTER_AT_ONCE: Final = 32
"""Commands under way in a cluster: each has a connection of its own, and redis-py refuses when they run out."""
MAX_BATCH: Final = 256
"""Commands of one pipeline."""
MAX_QUERY: Final = 1 << 20
LONGEST_S: Final = 2**40
"""Redis counts in milliseconds, and refuses a time that does not fit: a counter would have been changed by then."""
STATEFUL: Final = frozenset(
    {
        "ASKING",
        "AUTH",
        "DISCARD",
        "EXEC",
        "HELLO",
        "MONITOR",
        "MULTI",
        "PSUBSCRIBE",
        "PSYNC",
        "PUNSUBSCRIBE",
        "QUIT",
        "READONLY",
        "READWRITE",
        "RESET",
        "SELECT",
        "SSUBSCRIBE",
        "SUBSCRIBE",
        "SUNSUBSCRIBE",
        "SYNC",
        "UNSUBSCRIBE",
        "UNWATCH",
        "WATCH",
    }
)
"""Commands after which a connection has another meaning, or brings what nobody asked for."""
STATEFUL_CLIENT: Final = frozenset({"CACHING", "NO-EVICT", "NO-TOUCH", "REPLY", "SETNAME", "TRACKING"})
NEEDS: Final = "cachedb_redis needs the Python package redis: pip install 'opensipspy[redis]'"
# How the client begins the errors of a pipeline: with the whole command.
OF_PIPELINE: Final = re.compile(r"Command # \d+ \(.*\) of pipeline caused error: (?:ERR )?", re.DOTALL)
# What servers say of a command without its arguments.
KNOWN_WORDS: Final = re.compile(
    r"(?:ERR )?(?:WRONGTYPE )?"
    r"(?:Operation against a key holding the wrong kind of value|(?:hash )?value is not an integer(?: or out of range)?"
    r"|increment or decrement would overflow|syntax error|unknown (?:sub)?command|invalid expire time"
    r"|wrong number of arguments|command not allowed when used memory|(?:DB )?index is out of range|no such key"
    r"|Error running script)"
)
CODE: Final = re.compile("[A-Z]{2,20}")
OPTIONS: Final = frozenset({"socket", "sentinel", "tls_ca", "tls_cert", "tls_domain", "tls_key", "tls_verify"})


class Node:
    """What was asked of one server."""

    __slots__ = ("errors", "last", "moved", "queries")

    def __init__(self) -> None:
        self.queries = 0
        self.errors = 0
        self.moved = 0
        self.last = -1.0


class Totals:
    """The counters of the driver, shared by its stores."""

    __slots__ = ("failed", "moved", "queries", "refreshes")

    def __init__(self, queries: Any, failed: Any, moved: Any, refreshes: Any) -> None:
        self.queries = queries
        self.failed = failed
        self.moved = moved
        self.refreshes = refreshes


class RedisStore(RemoteCacheDb):
    """A Redis server or cluster behind a URL."""

    maps = True

    def __init__(
        self,
        url: CacheUrl,
        limits: Limits,
        settings: dict[str, Any],
        totals: Totals,
        wall: Callable[[], float],
        context: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        """settings: what every connection gets. wall: seconds since 1970. context: of a TLS domain, asked for at each
        connection; raises LookupError."""
        super().__init__(url, limits)
        self._settings = settings
        self._totals = totals
        self._wall = wall
        self._context = context
        self._client: Any = None
        self._redis: Any = None
        self._queue: list[tuple[tuple[bytes | int | str, ...], asyncio.Future[Any]]] = []
        self._sending: set[asyncio.Task[None]] = set()
        self._last_host = -1
        self._turn = asyncio.Semaphore(CLUSTER_AT_ONCE)
        self.cluster = False
        self.nodes: dict[tuple[str, int], Node] = {}
        self.refreshes = 0
        self.refreshed_at = 0

    # --- the client

    async def open_client(self) -> None:
        self._redis = importlib.import_module("redis")
        asyncio_redis = importlib.import_module("redis.asyncio")
        retry = importlib.import_module("redis.asyncio.retry")
        backoff = importlib.import_module("redis.backoff")
        options = self.url.options
        once = {"retry": retry.Retry(backoff.NoBackoff(), 0), "protocol": 2, **self._settings}
        database = database_number(self.url)
        if options.get("socket"):
            await self._use(asyncio_redis.Redis(unix_socket_path=options["socket"], db=database, **unix(once)))
            return
        if options.get("sentinel"):
            sentinel = importlib.import_module("redis.asyncio.sentinel")
            hosts = [(host, port or SENTINEL_PORT) for host, port in self.url.hosts]
            plain = {key: value for key, value in once.items() if key not in ("username", "password")}
            found = sentinel.Sentinel(hosts, sentinel_kwargs=plain, **once)
            for watcher in found.sentinels:
                self._secure(watcher.connection_pool)
            try:
                await self._use(found.master_for(options["sentinel"], db=database))
            finally:
                for watcher in found.sentinels:
                    await watcher.aclose()
            return
        await self._open_first(asyncio_redis, once, database)
        if self.cluster:
            few = retry.Retry(backoff.ExponentialBackoff(cap=0.2, base=0.02), 3)
            await self._open_cluster(asyncio_redis, {**once, "retry": few})

    async def _open_first(self, asyncio_redis: Any, settings: dict[str, Any], database: int) -> None:
        """The first of the hosts that answers, beginning with the one after the last that did."""
        hosts = self.url.hosts or (("localhost", 0),)
        failure: Exception | None = None
        for step in range(len(hosts)):
            number = (self._last_host + 1 + step) % len(hosts)
            host, port = hosts[number]
            try:
                await self._use(asyncio_redis.Redis(host=host, port=port or DEFAULT_PORT, db=database, **settings))
            except (self._redis.RedisError, OSError) as error:
                await self.close_client()
                failure = error
            else:
                self._last_host = number - 1  # the same first, next time
                await self._ask_topology()
                return
        if failure is not None:
            raise failure

    async def _use(self, client: Any) -> None:
        self._client = client
        self._secure(client.connection_pool)
        # Answers stay as the server gave them.
        client.response_callbacks.clear()
        await client.execute_command("PING")

    def _secure(self, holder: Any) -> None:
        """Let the connections of a pool or node use the TLS domain: redis-py itself takes files only."""
        if self._context is not None:
            holder.connection_class = secured(holder.connection_class, self._context)

    async def _ask_topology(self) -> None:
        try:
            slots = await self._client.execute_command("CLUSTER SLOTS")
        except self._redis.ResponseError:
            self.cluster = False  # "cluster support disabled"
        else:
            self.cluster = isinstance(slots, list)

    async def _open_cluster(self, asyncio_redis: Any, settings: dict[str, Any]) -> None:
        first = self._client.connection_pool.connection_kwargs
        host, port = first["host"], first["port"]
        await self.close_client()
        self._client = asyncio_redis.RedisCluster(host=host, port=port, **settings)
        manager = self._client.nodes_manager
        for node in manager.startup_nodes.values():
            self._secure(node)
            manager.connection_kwargs["connection_class"] = node.connection_class
        manager.__class__ = self._counting(type(manager))
        await self._client.initialize()

    def _counting(self, base: Any) -> Any:
        """redis-py's keeper of the topology, which also tells us what it does: it has no hook for that."""
        store = self

        class Counting(base):  # type: ignore[misc]
            __slots__ = ()

            async def initialize(self, *args: Any, **kwargs: Any) -> None:
                await super().initialize(*args, **kwargs)
                store.refreshes += 1
                store.refreshed_at = int(store._wall())
                store._totals.refreshes.inc()

            async def move_slot(self, error: Any) -> None:
                store._totals.moved.inc()
                store.node_of(error.host, error.port).moved += 1
                await super().move_slot(error)

        return Counting

    async def close_client(self) -> None:
        client, self._client = self._client, None
        for task in list(self._sending):
            task.cancel()
        if client is not None:
            await client.aclose()
            pool = getattr(client, "connection_pool", None)
            if pool is not None:
                await pool.disconnect()

    async def greet(self) -> None:
        await self._command("PING")

    def explain(self, error: Exception) -> CacheError | None:
        redis = self._redis.exceptions
        if isinstance(error, redis.ReadOnlyError | redis.ClusterDownError | redis.RedisClusterException):
            # A master that has become a replica, a cluster that has lost one: look for the right one again.
            return CacheError(f"{self.url}: {words(error)}", transient=True)
        if isinstance(error, redis.InvalidResponse):
            return CacheError(f"{self.url}: an answer that cannot be read", transient=True)
        if isinstance(error, redis.ConnectionError | redis.TimeoutError | OSError):
            return CacheError(f"{self.url}: {words(error)}", transient=True)
        if isinstance(error, redis.RedisError | ValueError | LookupError | TypeError | AttributeError):
            # The latter for answers of a kind that the command does not have.
            return CacheError(f"{self.url}: {refusal(error)}")
        return None

    # --- commands

    def node_of(self, host: str, port: int) -> Node:
        return self.nodes.setdefault((host, port), Node())

    def _node_for(self, args: tuple[bytes | int | str, ...]) -> Node:
        """The server that a command goes to, for the counters."""
        if self.cluster and len(args) > 1 and isinstance(args[1], bytes):
            owners = self._client.nodes_manager.slots_cache.get(self._client.keyslot(args[1]))
            if owners:
                return self.node_of(owners[0].host, owners[0].port)
        return self.node_of(*self.address)

    @property
    def address(self) -> tuple[str, int]:
        """Of a single server."""
        pool = getattr(self._client, "connection_pool", None)
        kwargs = pool.connection_kwargs if pool is not None else {}
        if kwargs.get("path"):
            return str(kwargs["path"]), 0
        return str(kwargs.get("host", self.url.host)), int(kwargs.get("port", self.url.port) or DEFAULT_PORT)

    async def _command(self, *args: bytes | int | str) -> Any:
        """One command; on a single server it shares a pipeline with the others of this turn of the loop."""
        if self._client is None:
            raise self._redis.ConnectionError("the connection was closed")
        node = self._node_for(args)
        try:
            if self.cluster:
                async with self._turn:
                    result = await self._client.execute_command(*args)
            else:
                result = await self._enqueue(args)
        except Exception:
            self._totals.failed.inc()
            node.errors += 1
            raise
        self._totals.queries.inc()
        node.queries += 1
        node.last = self._wall()
        return result

    def _enqueue(self, args: tuple[bytes | int | str, ...]) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._queue.append((args, future))
        if len(self._queue) == 1:
            loop.call_soon(self._flush)
        return future

    def _flush(self) -> None:
        queue, self._queue = self._queue, []
        for start in range(0, len(queue), MAX_BATCH):
            task = asyncio.get_running_loop().create_task(self._send(queue[start : start + MAX_BATCH]))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send(self, batch: list[tuple[tuple[bytes | int | str, ...], asyncio.Future[Any]]]) -> None:
        try:
            if self._client is None:
                raise self._redis.ConnectionError("the connection was closed")
            if len(batch) == 1:
                results = [await self._client.execute_command(*batch[0][0])]
            else:
                async with self._client.pipeline(transaction=False) as pipe:
                    for args, _ in batch:
                        pipe.execute_command(*args)
                    results = await pipe.execute(raise_on_error=False)
        except asyncio.CancelledError:
            results = [self._redis.ConnectionError("the connection was closed")] * len(batch)
        except Exception as error:  # noqa: BLE001 - whoever asked gets it
            results = [error] * len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue  # whoever asked has stopped waiting
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    # --- the contract

    async def fetch(self, key: str) -> str | None:
        return self._text(await self.ask(lambda: self._command("GET", to_bytes(key)), "GET"))

    def _text(self, answer: Any) -> str | None:
        """The answer to a GET; raises CacheError."""
        if answer is None:
            return None
        if not isinstance(answer, bytes):
            raise CacheError(f"{self.url}: the answer to GET is a {type(answer).__name__}")
        return to_text(answer)

    async def store(self, key: str, value: str | int, expire_s: int = 0) -> None:
        args: list[bytes | int | str] = ["SET", to_bytes(key), to_bytes(str(value))]
        if expire_s > 0:
            args += ["EX", min(expire_s, LONGEST_S)]
        await self.ask(lambda: self._command(*args), "SET")

    async def remove(self, key: str) -> bool:
        return bool(await self.ask(lambda: self._command("DEL", to_bytes(key)), "DEL"))

    async def add(self, key: str, amount: int, expire_s: int = 0) -> int:
        name = to_bytes(key)

        async def work() -> Any:
            if expire_s <= 0:
                return await self._command("INCRBY", name, amount)
            results: Any = await asyncio.gather(
                self._command("INCRBY", name, amount),
                self._command("EXPIRE", name, min(expire_s, LONGEST_S)),
                return_exceptions=True,
            )
            for result in results:
                if isinstance(result, BaseException):
                    raise result
            return results[0]

        return to_counter(await self._number(work))

    async def _number(self, work: Callable[[], Awaitable[Any]]) -> int:
        answer = await self.ask(work, "INCRBY", repeatable=False)
        if not isinstance(answer, int):
            raise CacheError(f"{self.url}: the answer to INCRBY is no number")
        return answer

    async def fetch_counter(self, key: str) -> int | None:
        found = await self.fetch(key)
        return None if found is None else to_counter(found)

    async def raw_query(self, query: str) -> list[list[CacheValue]]:
        if len(query) > MAX_QUERY:
            raise CacheError(f"{self.url}: a raw query has at most {MAX_QUERY} characters")
        try:
            command, *args = words_of(query)
        except ValueError as error:
            raise CacheError(f"{self.url}: {error}") from error
        command = command.upper()
        if command in STATEFUL:
            raise CacheError(f"{self.url}: {command} changes the connection, which others use too")
        if command == "CLIENT" and args and args[0].upper() in STATEFUL_CLIENT:
            raise CacheError(f"{self.url}: CLIENT {args[0].upper()} changes the connection, which others use too")
        octets = [to_bytes(arg) for arg in args]
        return rows_of(await self.ask(lambda: self._command(command, *octets), command[:32], repeatable=False))

    async def truncate(self) -> None:
        await self.ask(lambda: self._everywhere("FLUSHDB"), "FLUSHDB")

    async def _everywhere(self, command: str) -> None:
        if self.cluster:
            await asyncio.gather(*(node.execute_command(command) for node in self._client.get_primaries()))
        else:
            await self._command(command)

    async def map_get(self, key: str) -> Map:
        async def work() -> Map:
            members = await self._command("SMEMBERS", to_bytes(key))
            names = sorted(members)
            hashes = await asyncio.gather(*(self._command("HGETALL", entry_name(key, name)) for name in names))
            return {to_text(name): pairs_of(found) for name, found in zip(names, hashes, strict=True)}

        return await self.ask(work, "HGETALL")

    async def map_set(self, key: str, subkey: str, pairs: Pairs) -> None:
        name = entry_name(key, to_bytes(subkey))
        setting: list[bytes] = []
        gone = [to_bytes(field) for field, value in pairs.items() if value is None]
        for field, value in pairs.items():
            if value is not None:
                setting += [to_bytes(field), to_bytes(str(value))]

        async def work() -> None:
            commands = [self._command("SADD", to_bytes(key), to_bytes(subkey))]
            if setting:
                commands.append(self._command("HSET", name, *setting))
            if gone:
                commands.append(self._command("HDEL", name, *gone))
            await asyncio.gather(*commands)

        await self.ask(work, "HSET")

    async def map_remove(self, key: str, subkey: str = "") -> None:
        async def work() -> None:
            if subkey:
                name = to_bytes(subkey)
                await asyncio.gather(
                    self._command("SREM", to_bytes(key), name), self._command("DEL", entry_name(key, name))
                )
                return
            members = await self._command("SMEMBERS", to_bytes(key))
            await asyncio.gather(
                *(self._command("DEL", entry_name(key, name)) for name in members), self._command("DEL", to_bytes(key))
            )

        await self.ask(work, "DEL")

    # --- management

    async def refresh(self) -> str:
        """Ask a cluster for its topology again; the outcome in a word."""
        if not self.cluster:
            return "skipped (not cluster mode)"
        try:
            await self.ask(lambda: self._client.nodes_manager.initialize(), "CLUSTER SLOTS")
        except CacheError:
            return "error"
        return "ok"

    def describe(self) -> dict[str, Any]:
        """As `redis_cluster_info` shows a connection."""
        found: dict[str, Any] = {"group": self.url.group, "url": str(self.url)}
        found["mode"] = "cluster" if self.cluster else "single"
        if self.url.options.get("socket"):
            found["transport"] = "unix"
            found["socket"] = self.url.options["socket"]
        found["topology_refreshes"] = self.refreshes
        found["last_topology_refresh"] = self.refreshed_at
        connected = self._client is not None and self.available
        if self.cluster and self._client is not None:
            found["cluster_command"] = "SLOTS"
            cache = self._client.nodes_manager.slots_cache
            nodes = []
            for node in self._client.get_nodes():
                owned = sum(1 for owners in cache.values() if owners and owners[0] is node)
                nodes.append(self._describe_node(node.host, node.port, connected, owned))
            found["nodes"] = nodes
            found["total_slots_mapped"] = len(cache)
        else:
            found["nodes"] = [self._describe_node(*self.address, connected, None)]
        return found

    def _describe_node(self, host: str, port: int, connected: bool, slots: int | None) -> dict[str, Any]:
        node = self.node_of(host, port)
        found: dict[str, Any] = {"ip": host, "port": port, "status": "connected" if connected else "disconnected"}
        if slots is not None:
            found["slots_assigned"] = slots
        found |= {"queries": node.queries, "errors": node.errors, "moved": node.moved}
        found["last_activity"] = int(self._wall() - node.last) if node.last >= 0 else -1
        return found

    async def ping_nodes(self) -> list[dict[str, Any]]:
        """As `redis_ping_nodes` shows the servers of a connection."""
        if self._client is None or not self.available:
            host, port = self.address
            return [{"ip": host, "port": port, "status": "disconnected", "latency_us": -1}]
        if not self.cluster:
            return [await self._ping_one(*self.address, self._client)]
        return await asyncio.gather(*(self._ping_one(n.host, n.port, n) for n in self._client.get_nodes()))

    async def _ping_one(self, host: str, port: int, client: Any) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            async with asyncio.timeout(self.limits.query_s):
                await client.execute_command("PING")
        except (self._redis.RedisError, OSError):  # a time-out is an OSError
            return {"ip": host, "port": port, "status": "unreachable", "latency_us": -1}
        latency = int((loop.time() - begun) * 1e6)
        return {"ip": host, "port": port, "status": "reachable", "latency_us": latency}


class CachedbRedis(CacheDbDriver, Module):
    """Keep keys and values in Redis: one server, Sentinel's master, or a cluster."""

    name = "cachedb_redis"
    kind = "cachedb"
    schemes = ("redis",)
    wants = ("tls_mgm",)

    cachedb_url = Param(str, None, "redis:group://user:password@host:port/database.", repeated=True, func=True)
    connect_timeout = Param(int, 5000, "Longest wait for a connection.", unit="ms")
    lazy_connect = Param(int, 0, "1 connects at the first operation, not at the start.")
    query_timeout = Param(int, 5000, "Longest wait for an answer.", unit="ms")
    redis_keepalive = Param(int, 10, "How often the kernel probes idle connections; 0 never.", unit="s")
    shutdown_on_error = Param(int, 0, "1 gives the start up when a server cannot be reached.")
    use_tls = Param(int, 0, "1 uses TLS, with the tls_domain of the URL or its files tls_ca, tls_cert and tls_key.")

    redis_queries = Stat("Commands that succeeded.")
    redis_queries_failed = Stat("Commands that failed.")
    redis_moved = Stat("Commands that a node of a cluster sent to another one for good.")
    redis_topology_refreshes = Stat("How often the nodes of clusters were asked for.")

    async def start(self) -> None:
        if importlib.util.find_spec("redis") is None:
            raise StartError(NEEDS)
        await asyncio.to_thread(importlib.import_module, "redis.asyncio")
        for url in self._urls:
            context = self._context_of(url)
            if context is not None:
                try:
                    context()
                except LookupError as error:
                    raise StartError(f"{url}: tls_domain {url.options['tls_domain']}: {error}") from error
        if self.lazy_connect:
            return
        failures = await self.connect_all(self.core.cachedb)
        if failures and self.shutdown_on_error:
            raise StartError(str(failures[0]))

    def check_url(self, url: CacheUrl) -> None:
        database_number(url)
        unknown = sorted(set(url.options) - OPTIONS)
        if unknown:
            raise CacheError(f"no such option: {unknown[0]}; there are {', '.join(sorted(OPTIONS))}")
        if "socket" in url.options and len(url.hosts) > 1:
            raise CacheError("a Unix socket cannot be combined with several hosts")
        if "sentinel" in url.options and not url.hosts:
            raise CacheError("with sentinel=NAME the hosts of the URL are Sentinels")

    def open_store(self, url: CacheUrl) -> RedisStore:
        self.check_url(url)
        limits = Limits(max(self.connect_timeout, 1) / 1000, max(self.query_timeout, 1) / 1000)
        totals = Totals(self.redis_queries, self.redis_queries_failed, self.redis_moved, self.redis_topology_refreshes)
        return RedisStore(url, limits, self.settings(url), totals, self.core.time, self._context_of(url))

    def _context_of(self, url: CacheUrl) -> Callable[[], ssl.SSLContext] | None:
        """What gives the context of the URL's TLS domain; None without one."""
        name = url.options.get("tls_domain", "")
        if not self.use_tls or not name:
            return None
        return lambda: self.core.api("tls_mgm", TlsDomains).client_context(name)  # type: ignore[type-abstract]

    def settings(self, url: CacheUrl) -> dict[str, Any]:
        """What every connection of a URL is opened with."""
        found: dict[str, Any] = {
            "socket_connect_timeout": max(self.connect_timeout, 1) / 1000,
            "socket_timeout": max(self.query_timeout, 1) / 1000,
            "socket_keepalive": self.redis_keepalive > 0,
        }
        if self.redis_keepalive > 0:
            found["socket_keepalive_options"] = {
                socket.TCP_KEEPIDLE: self.redis_keepalive,
                socket.TCP_KEEPINTVL: self.redis_keepalive,
                socket.TCP_KEEPCNT: 3,
            }
        if url.password:
            found["password"] = url.password
            if url.user:
                found["username"] = url.user
        if self.use_tls and "socket" not in url.options:
            options = url.options
            found["ssl"] = True
            found["ssl_ca_certs"] = options.get("tls_ca") or None
            found["ssl_certfile"] = options.get("tls_cert") or None
            found["ssl_keyfile"] = options.get("tls_key") or None
            if options.get("tls_verify") == "no":
                found["ssl_cert_reqs"] = "none"
                found["ssl_check_hostname"] = False
        return found

    def _stores(self, group: str | None) -> list[RedisStore]:
        stores = (self.core.cachedb(url.text) for url in self._urls if group in (None, url.group))
        return [store for store in stores if isinstance(store, RedisStore)]

    @mi_command("cachedb_redis:redis_cluster_info", params=((), ("group",)), named_params_only=True)
    def mi_cluster_info(self, group: str | None = None) -> list[dict[str, Any]]:
        """Show connections: single servers and the nodes of clusters, with what was asked of them."""
        return [store.describe() for store in self._stores(group)]

    @mi_command("cachedb_redis:redis_cluster_refresh", params=((), ("group",)), named_params_only=True)
    async def mi_cluster_refresh(self, group: str | None = None) -> list[dict[str, Any]]:
        """Ask clusters for their nodes and slots again."""
        return [{"group": store.url.group, "status": await store.refresh()} for store in self._stores(group)]

    @mi_command("cachedb_redis:redis_ping_nodes", params=((), ("group",)), named_params_only=True)
    async def mi_ping_nodes(self, group: str | None = None) -> list[dict[str, Any]]:
        """Ask every server for a sign of life."""
        return [{"group": store.url.group, "nodes": await store.ping_nodes()} for store in self._stores(group)]


def secured(base: Any, context: Callable[[], ssl.SSLContext]) -> Any:
    """A class of connections of redis-py, with our own TLS context."""

    class Secured(base):  # type: ignore[misc]
        def _connection_arguments(self) -> Any:
            return {**super()._connection_arguments(), "ssl": context()}

    return Secured


def database_number(url: CacheUrl) -> int:
    """Raises CacheError."""
    if not url.database:
        return 0
    if not url.database.isascii() or not url.database.isdigit() or len(url.database) > 5:
        raise CacheError("the path of a Redis URL is the number of a database")
    return int(url.database)


def unix(settings: dict[str, Any]) -> dict[str, Any]:
    """Without what a Unix socket does not have."""
    return {k: v for k, v in settings.items() if not k.startswith(("socket_keepalive", "ssl"))}


def words(error: Exception) -> str:
    return " ".join(OF_PIPELINE.sub("", str(error)).split())[:300] or type(error).__name__


def refusal(error: Exception) -> str:
    """What may be shown of a refused command: servers repeat its arguments, which may be secrets."""
    text = words(error)
    found = KNOWN_WORDS.match(text)
    if found:
        return found[0]
    code = text.partition(" ")[0]
    return code if CODE.fullmatch(code) else type(error).__name__


def entry_name(key: str, subkey: bytes) -> bytes:
    """The hash of an entry of a map; the braces keep all of a map on one node of a cluster."""
    return b"{" + to_bytes(key) + b"}:" + subkey


def pairs_of(found: Any) -> dict[str, str | int]:
    """HGETALL's answer; a cluster's client gives a dict, a single server's the plain list."""
    if isinstance(found, dict):
        return {to_text(name): to_text(value) for name, value in found.items()}
    return {to_text(found[i]): to_text(found[i + 1]) for i in range(0, len(found), 2)}


def plain(value: Any) -> CacheValue:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, bytes):
        return to_text(value)
    return "OK" if value is True else str(value)


def rows_of(answer: Any) -> list[list[CacheValue]]:
    """One row of one column for each element of an answer, none for nil; what lies deeper is left out."""
    if answer is None:
        return []
    if isinstance(answer, dict):
        answer = [part for pair in answer.items() for part in pair]
    if isinstance(answer, set | frozenset):
        answer = sorted(answer)
    if isinstance(answer, list | tuple):
        return [[plain(item)] for item in answer if not isinstance(item, list | tuple | dict | set)]
    return [[plain(answer)]]
