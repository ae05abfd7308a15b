"""cachedb_redis beside the conformance suite: raw queries, Sentinel, clusters, accounts, TLS and commands."""

from __future__ import annotations

import asyncio
import importlib
import ssl
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from opensipspy.cachedb import CacheError, parse_url
from opensipspy.dbdrivers.cachedb_redis import CachedbRedis, RedisStore, rows_of
from opensipspy.module import Module, ParamError, StartError
from opensipspy.module.testing import FakeCore
from opensipspy.module.tls import TlsDomain, TlsDomains
from opensipspy.script.rawquery import RawQuery
from tests.backends import RedisCluster, RedisSentinel, RedisServer
from tests.dbdrivers.conftest import with_files


def play(urls: str | list[str], scenario: Callable[[FakeCore, Any], Awaitable[None]], **params: Any) -> None:
    """The scenario gets the core and the store of the first URL; the module has been started."""
    named = [urls] if isinstance(urls, str) else urls

    async def run() -> None:
        core = FakeCore()
        module = core.add(CachedbRedis(cachedb_url=named, **params))
        try:
            await module.start()
            await scenario(core, core.cachedb(named[0]))
        finally:
            await core.cachedbs.close()

    asyncio.run(asyncio.wait_for(run(), 60))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - the store tells nobody
        await asyncio.sleep(0.02)


# --- URLs


@pytest.mark.parametrize(
    "url",
    [
        "redis://h/notanumber",
        "redis://a,b/?socket=/x",
        "redis://h/?colour=red",
        "mysql://h/",
    ],
)
def test_urls_that_cannot_be_right_are_refused(url: str) -> None:
    with pytest.raises(ParamError):
        CachedbRedis(cachedb_url=url)


def test_connections_are_opened_as_the_parameters_say() -> None:
    module = CachedbRedis(query_timeout=200, connect_timeout=300, redis_keepalive=0)
    settings = module.settings(parse_url("redis:x://:secret@h/"))
    assert settings["password"] == "secret"
    assert "username" not in settings
    assert settings["socket_timeout"] == 0.2
    assert settings["socket_connect_timeout"] == 0.3
    assert settings["socket_keepalive"] is False
    assert module.settings(parse_url("redis:x://me:secret@h/"))["username"] == "me"


# --- raw queries


def test_raw_queries(redis_server: RedisServer) -> None:
    async def scenario(core: FakeCore, store: RedisStore) -> None:
        await store.truncate()
        assert await store.raw_query("HSET my_hash key1 'a value' key2 2") == [[2]]
        assert await store.raw_query("HGET my_hash key1") == [["a value"]]
        assert await store.raw_query("HGETALL my_hash") == [["key1"], ["a value"], ["key2"], ["2"]]
        assert await store.raw_query("hmget my_hash key1 nothing") == [["a value"], [None]]
        assert await store.raw_query("GET nothing") == [], "nil: the script sees -2"
        assert await store.raw_query(r"SET path C:\new\'x") == [["OK"]]
        assert await store.raw_query("GET path") == [[r"C:\new\'x"]], "a backslash and a quote within a word are data"
        assert await store.raw_query('SET json \'{"a": "b c"}\'') == [["OK"]]
        assert await store.raw_query("GET json") == [['{"a": "b c"}']]
        assert await store.raw_query("SET a 1") == [["OK"]]
        assert await store.raw_query("INCR a") == [[2]]
        for wrong in ("", "   ", "NOSUCHCOMMAND x", "GET 'open", "LPUSH my_hash x"):
            with pytest.raises(CacheError) as caught:
                await store.raw_query(wrong)
            assert not caught.value.transient
        assert store.available

    play(redis_server.url("g"), scenario)


def test_what_a_message_brings_is_one_argument(redis_server: RedisServer) -> None:
    async def scenario(core: FakeCore, store: RedisStore) -> None:
        await store.truncate()
        wild = "x y' z\" \\ \r\nDEL a\udcff\0"
        await store.raw_query(RawQuery.of((("HSET calls ", False), (wild, True), (" 1", False))))
        await store.raw_query(RawQuery.of((("HSET calls 'quoted ", False), (wild, True), ("' 2", False))))
        assert await store.raw_query("HGETALL calls") == [[wild], ["1"], [f"quoted {wild}"], ["2"]]

    play(redis_server.url("g"), scenario)


@pytest.mark.parametrize("query", ["SELECT 3", "multi", "SUBSCRIBE a", "CLIENT reply off", "MONITOR", "RESET", "QUIT"])
def test_the_shared_connection_stays_as_it_is(redis_server: RedisServer, query: str) -> None:
    async def scenario(core: FakeCore, store: RedisStore) -> None:
        await store.store("key", "value")
        with pytest.raises(CacheError, match="changes the connection"):
            await store.raw_query(query)
        assert await store.fetch("key") == "value"

    play(redis_server.url("g"), scenario)


# --- servers that do not keep to the protocol


class Liar:
    """Answers the greeting as Redis does, and then every command with `octets` after `delay_s`."""

    def __init__(self, octets: bytes = b"", delay_s: float = 0.0, *, ends: bool = False) -> None:
        self.octets = octets
        self.delay_s = delay_s
        self.ends = ends

    async def __aenter__(self) -> Liar:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis:liar://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"
        return self

    async def __aexit__(self, *details: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                words = []
                for _ in range(int(line[1:])):
                    size = int((await reader.readline())[1:])
                    words.append((await reader.readexactly(size + 2))[:-2])
                if words[0] in (b"PING", b"CLIENT"):
                    writer.write(b"+PONG\r\n")
                elif words[0] == b"CLUSTER":
                    writer.write(b"-ERR This instance has cluster support disabled\r\n")
                elif self.octets:
                    await asyncio.sleep(self.delay_s)
                    writer.write(self.octets)
                    if self.ends:
                        break
                else:
                    writer.write(b"$%d\r\n%b\r\n" % (len(words[1]), words[1]))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # it went
        finally:
            writer.close()


@pytest.mark.parametrize(
    "octets",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        bytes(range(256)),
        b"$-5\r\n",
        b"$99999999999999999999\r\nx",
        b"*1000000000\r\n",
        b"*2\r\n:1\r\n:2\r\n",
        b":7\r\n",
        b"+OK\r\n+OK\r\n+OK\r\n",
    ],
)
def test_octets_that_are_no_answer(octets: bytes) -> None:
    async def run() -> None:
        async with Liar(octets) as liar:
            core = FakeCore()
            module = core.add(CachedbRedis(cachedb_url=[liar.url], query_timeout=300))
            await module.start()
            store = core.cachedb(liar.url)
            for work in (store.fetch("a"), store.fetch_counter("b"), store.map_get("c")):
                try:
                    answer = await work
                except CacheError:
                    continue
                assert answer in ("OK", {}), "what else could be meant"
            liar.octets = b""
            await until(lambda: store.available)
            assert [await store.fetch(key) for key in ("a", "b", "a")] == ["a", "b", "a"]
            await core.cachedbs.close()

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.parametrize(("delay_s", "ends"), [(0.5, False), (0.0, True)])
def test_late_and_broken_answers_are_nobodys(delay_s: float, ends: bool, caplog: pytest.LogCaptureFixture) -> None:
    """What comes after the time-out, or is cut short, is never the answer to another question."""

    async def run() -> None:
        async with Liar(b"$5\r\nMa", delay_s, ends=ends) as liar:
            core = FakeCore()
            module = core.add(CachedbRedis(cachedb_url=[liar.url], query_timeout=200))
            await module.start()
            store = core.cachedb(liar.url)
            asked = await asyncio.gather(*(store.fetch(key) for key in "abc"), return_exceptions=True)
            assert all(isinstance(each, CacheError) and each.transient for each in asked)
            liar.octets = b""
            await until(lambda: store.available)
            for _ in range(5):
                assert await asyncio.gather(*(store.fetch(key) for key in "xyz")) == ["x", "y", "z"]
                await asyncio.sleep(delay_s / 4)
            await core.cachedbs.close()

    asyncio.run(asyncio.wait_for(run(), 60))
    assert sum("is not available" in record.getMessage() for record in caplog.records) == 1


def test_answers_become_rows_of_one_column() -> None:
    assert rows_of({b"a": b"1"}) == [["a"], ["1"]]
    assert rows_of({b"b", b"a"}) == [["a"], ["b"]]
    assert rows_of([b"a", [b"deeper"], 3, None]) == [["a"], [3], [None]]
    assert rows_of(True) == [["OK"]]


def test_a_line_break_is_no_command(redis_server: RedisServer) -> None:
    async def scenario(core: FakeCore, store: RedisStore) -> None:
        await store.truncate()
        key = "x\r\nSET injected 1\r\n"
        await store.store(key, "y\r\nSET injected 1\r\n")
        assert await store.fetch(key) == "y\r\nSET injected 1\r\n"
        assert await store.fetch("injected") is None

    play(redis_server.url("g"), scenario)


# --- hosts, accounts, sockets


def test_the_next_host_is_tried(redis_server: RedisServer) -> None:
    async def scenario(core: FakeCore, store: RedisStore) -> None:
        await store.store("key", "x")
        assert await store.fetch("key") == "x"

    play(f"redis:two://127.0.0.1:1,127.0.0.1:{redis_server.port}/", scenario)


def test_databases_are_apart(redis_server: RedisServer) -> None:
    async def scenario(core: FakeCore, store: RedisStore) -> None:
        await store.truncate()
        await store.store("key", "in 3")
        other = core.cachedb(redis_server.url("b", "/4"))
        await other.truncate()
        assert await other.fetch("key") is None
        assert await store.fetch("key") == "in 3"

    play([redis_server.url("a", "/3"), redis_server.url("b", "/4")], scenario)


@pytest.fixture
def locked_server(redis_server: RedisServer) -> Iterator[RedisServer]:
    server = RedisServer()
    try:
        server.prepare("--requirepass", "s3cret/@", "--unixsocket", str(server.folder / "s"))
        server.start()
        yield server
    finally:
        server.stop()


def test_passwords_and_unix_sockets(locked_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    port = locked_server.port
    right = f"redis:a://:s3cret%2F%40@127.0.0.1:{port}/"
    through = f"redis:b://:s3cret%2F%40@localhost/?socket={locked_server.folder / 's'}"

    async def scenario(core: FakeCore, store: RedisStore) -> None:
        await store.store("key", "x")
        other = core.cachedb(through)
        assert await other.fetch("key") == "x"
        shown = await core.mi_call("cachedb_redis:redis_cluster_info", {"group": "b"})
        assert shown[0]["transport"] == "unix"
        wrong = core.cachedb(f"redis:c://:wr0ng@127.0.0.1:{port}/")
        with pytest.raises(CacheError):
            await wrong.fetch("key")

    play([right, through], scenario)
    assert "wr0ng" not in caplog.text
    assert "s3cret" not in caplog.text


def test_tls(redis_server: RedisServer, certificate: tuple[Path, Path]) -> None:
    server = RedisServer()
    try:
        chain, key = with_files(server, *certificate)
        server.prepare(
            *("--tls-port", str(server.port), "--port", "0", "--tls-auth-clients", "no"),
            *("--tls-cert-file", chain, "--tls-key-file", key, "--tls-ca-cert-file", chain),
        )
        server.ready = lambda: super(RedisServer, server).ready()  # type: ignore[method-assign]
        server.start()
        verified = server.url("a", f"/?tls_ca={chain}")

        async def scenario(core: FakeCore, store: RedisStore) -> None:
            await store.store("key", "x")
            assert await store.fetch("key") == "x"
            with pytest.raises(CacheError):
                await core.cachedb(server.url("b")).fetch("key")  # signed by nobody that we know
            assert await core.cachedb(server.url("c", "/?tls_verify=no")).fetch("key") == "x"

        play(verified, scenario, use_tls=1)
    finally:
        server.stop()


class Domains(TlsDomains):
    """One client domain, "ours"."""

    def __init__(self, authority: str) -> None:
        self.asked = 0
        self._authority = authority

    def server_domain(self, address: str, port: int, name: str = "") -> TlsDomain | None:
        return None

    def client_domain(self, address: str, port: int, sip_domain: str = "", name: str = "") -> TlsDomain | None:
        return None

    def client_context(self, name: str) -> ssl.SSLContext:
        if name != "ours":
            raise LookupError("no such domain")
        self.asked += 1
        return ssl.create_default_context(cafile=self._authority)


class TlsMgm(Module):
    """Stands for tls_mgm."""

    name = "tls_mgm"

    def __init__(self, domains: Domains) -> None:
        super().__init__()
        self._domains = domains

    def api(self) -> object:
        return self._domains


@pytest.mark.parametrize("clustered", [False, True])
def test_tls_domains(redis_server: RedisServer, certificate: tuple[Path, Path], clustered: bool) -> None:
    server = RedisServer()
    try:
        chain, key = with_files(server, *certificate)
        more = ["--cluster-enabled", "yes", "--tls-cluster", "yes"] if clustered else []
        server.prepare(
            *("--tls-port", str(server.port), "--port", "0", "--tls-auth-clients", "no", *more),
            *("--tls-cert-file", chain, "--tls-key-file", key, "--tls-ca-cert-file", chain),
        )
        server.ready = lambda: super(RedisServer, server).ready()  # type: ignore[method-assign]
        server.start()
        domains = Domains(chain)

        async def run(url: str) -> None:
            core = FakeCore()
            core.add(TlsMgm(domains))
            module = core.add(CachedbRedis(cachedb_url=url, use_tls=1))
            try:
                await module.start()
                store = core.cachedb(url)
                assert isinstance(store, RedisStore)
                await store.store("key", "x")
                assert await store.fetch("key") == "x"
                assert store.cluster == clustered
            finally:
                await core.cachedbs.close()

        if clustered:
            command = ["redis-cli", "--tls", "--cacert", chain, "-p", str(server.port)]
            subprocess.run([*command, "cluster", "addslotsrange", "0", "16383"], check=True, capture_output=True)
            until_ok = [*command, "cluster", "info"]
            while b"cluster_state:ok" not in subprocess.run(until_ok, check=True, capture_output=True).stdout:
                time.sleep(0.05)
        asyncio.run(asyncio.wait_for(run(server.url("a", "/?tls_domain=ours")), 60))
        assert domains.asked > 1
        with pytest.raises(StartError, match="tls_domain theirs"):
            asyncio.run(asyncio.wait_for(run(server.url("a", "/?tls_domain=theirs")), 60))
    finally:
        server.stop()


# --- the start


def test_a_server_that_is_away_stops_the_start_only_when_wanted(redis_server: RedisServer) -> None:
    async def scenario(core: FakeCore, store: RedisStore) -> None:
        assert not store.available

    play("redis://127.0.0.1:1/", scenario)
    with pytest.raises(StartError):
        play("redis://127.0.0.1:1/", scenario, shutdown_on_error=1)

    async def lazy(core: FakeCore, store: RedisStore) -> None:
        assert store.available

    play("redis://127.0.0.1:1/", lazy, shutdown_on_error=1, lazy_connect=1)


# --- Sentinel


def test_sentinel_finds_the_master(redis_server: RedisServer) -> None:
    first, second, sentinel = RedisServer(), RedisServer(), RedisSentinel()
    try:
        first.start()
        second.prepare("--replicaof", "127.0.0.1", str(first.port))
        second.start()
        sentinel.watch(first)
        sentinel.start()

        async def scenario(core: FakeCore, store: RedisStore) -> None:
            await store.store("key", "x")
            assert (await store.raw_query("ROLE"))[0] == ["master"]
            assert store.address[1] == first.port or store.available
            # The old master is made a replica; the store looks for the new one.
            redis = importlib.import_module("redis.asyncio")
            new, old = redis.Redis(port=second.port), redis.Redis(port=first.port)
            watcher = redis.Redis(port=sentinel.port)
            try:
                await until_true(lambda: watcher.execute_command("SENTINEL REPLICAS", "main"))
                await until_true(lambda: shows(new, b"master_link_status:up"))
                await until_true(lambda: accepted(redis, watcher.execute_command("SENTINEL FAILOVER", "main")))
                # Until the store has found the new master its writes are refused, or reach the old one.
                await until_true(lambda: stored(store, new))
            finally:
                for client in (new, old, watcher):
                    await client.aclose()
            await store.store("after", "y")

        play(f"redis:ha://127.0.0.1:{sentinel.port}/?sentinel=main", scenario)
    finally:
        for server in (sentinel, first, second):
            server.stop()


async def until_true(ask: Callable[[], Awaitable[Any]]) -> None:
    while not await ask():  # noqa: ASYNC110 - servers are asked
        await asyncio.sleep(0.05)


async def shows(client: Any, line: bytes) -> bool:
    client.response_callbacks.clear()
    return line in await client.execute_command("INFO", "replication")


async def accepted(redis: Any, command: Awaitable[Any]) -> bool:
    try:
        await command
    except redis.ResponseError:
        return False
    return True


async def stored(store: RedisStore, master: Any) -> bool:
    try:
        await store.store("after", "y")
    except CacheError as error:
        if not error.transient:
            raise
        return False
    return await shows(master, b"role:master") and await master.execute_command("GET", "after") == b"y"


# --- clusters


def test_a_cluster_is_shown_refreshed_and_pinged(redis_cluster: RedisCluster) -> None:
    async def scenario(core: FakeCore, store: RedisStore) -> None:
        assert store.cluster
        await store.truncate()
        for number in range(30):
            await store.store(f"key{number}", str(number))
        [shown] = await core.mi_call("cachedb_redis:redis_cluster_info")
        assert shown["group"] == "c"
        assert shown["mode"] == "cluster"
        assert shown["total_slots_mapped"] == 16384
        assert sorted(node["port"] for node in shown["nodes"]) == sorted(n.port for n in redis_cluster.nodes)
        assert sum(node["slots_assigned"] for node in shown["nodes"]) == 16384
        assert sum(node["queries"] for node in shown["nodes"]) >= 30
        assert all(node["status"] == "connected" for node in shown["nodes"])
        before = shown["topology_refreshes"]
        assert await core.mi_call("cachedb_redis:redis_cluster_refresh") == [{"group": "c", "status": "ok"}]
        [shown] = await core.mi_call("cachedb_redis:redis_cluster_info")
        assert shown["topology_refreshes"] == before + 1
        [pinged] = await core.mi_call("cachedb_redis:redis_ping_nodes", {"group": "c"})
        assert [node["status"] for node in pinged["nodes"]] == ["reachable"] * 3
        assert await core.mi_call("cachedb_redis:redis_ping_nodes", {"group": "nobody"}) == []
        assert core.stats.read(["redis_queries"])["cachedb_redis:redis_queries"] >= 30

    play(redis_cluster.url("c"), scenario)


def test_a_slot_that_has_moved_is_followed(redis_cluster: RedisCluster) -> None:
    async def scenario(core: FakeCore, store: RedisStore) -> None:
        await store.truncate()
        key = "moving"
        slot = int(redis_cluster.ask(redis_cluster.nodes[0], "cluster", "keyslot", key))
        ids = {n.port: redis_cluster.ask(n, "cluster", "myid").strip() for n in redis_cluster.nodes}
        owner = store._client.nodes_manager.slots_cache[slot][0].port
        target = next(port for port in ids if port != owner)
        servers = {n.port: n for n in redis_cluster.nodes}

        def move(source: int, target: int) -> None:
            # In steps, as the cluster's own tool does it: who takes a slot that it imports has the last word on it
            # among the nodes, who go on telling each other what they know. The new owner first.
            redis_cluster.ask(servers[target], "cluster", "setslot", str(slot), "importing", ids[source])
            redis_cluster.ask(servers[source], "cluster", "setslot", str(slot), "migrating", ids[target])
            for port in sorted(servers, key=lambda port: port != target):
                redis_cluster.ask(servers[port], "cluster", "setslot", str(slot), "node", ids[target])

        move(owner, target)
        await store.store(key, "here")
        assert await store.fetch(key) == "here"
        assert core.stats.read(["redis_moved"])["cachedb_redis:redis_moved"] >= 1
        await store.remove(key)
        move(target, owner)

    play(redis_cluster.url("c"), scenario)


def test_a_single_server_is_shown(redis_server: RedisServer) -> None:
    async def scenario(core: FakeCore, store: RedisStore) -> None:
        await store.store("key", "x")
        with pytest.raises(CacheError):
            await store.add("key", 1)
        [shown] = await core.mi_call("cachedb_redis:redis_cluster_info", {"group": "g"})
        assert shown["mode"] == "single"
        [node] = shown["nodes"]
        assert (node["ip"], node["port"], node["status"]) == ("127.0.0.1", redis_server.port, "connected")
        assert node["errors"] == 1
        assert core.stats.read(["redis_queries_failed"])["cachedb_redis:redis_queries_failed"] == 1
        refreshed = await core.mi_call("cachedb_redis:redis_cluster_refresh", {"group": "g"})
        assert refreshed == [{"group": "g", "status": "skipped (not cluster mode)"}]
        [pinged] = await core.mi_call("cachedb_redis:redis_ping_nodes")
        assert pinged["nodes"][0]["status"] == "reachable"
        assert pinged["nodes"][0]["latency_us"] >= 0

    play(redis_server.url("g"), scenario)


# --- pipelines


def test_what_is_asked_in_one_turn_travels_together(redis_server: RedisServer) -> None:
    async def scenario(core: FakeCore, store: RedisStore) -> None:
        await store.truncate()
        await asyncio.gather(*(store.store(f"k{n}", str(n)) for n in range(100)))
        kwargs = store._client.connection_pool
        assert kwargs.max_connections > 1
        # All of them needed few connections: they shared pipelines.
        clients = (await store.raw_query("CLIENT LIST"))[0][0]
        assert str(clients).count("addr=") < 10
        # A command that fails spoils none of those that travel with it.
        await store.store("text", "abc")
        results = await asyncio.gather(
            store.add("text", 1), store.add("n", 1), store.fetch("k7"), return_exceptions=True
        )
        assert isinstance(results[0], CacheError)
        assert results[1:] == [1, "7"]

    play(redis_server.url("g"), scenario)
