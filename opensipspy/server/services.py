"""What the script's own functions and variables ask of the server."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final

from opensipspy import sip
from opensipspy.cachedb import CacheDbs, InstantCacheDb
from opensipspy.events import SubscribeError
from opensipspy.module import LocateError, Target
from opensipspy.net import TcpTransport
from opensipspy.script.run import Run, Value
from opensipspy.script.services import ScriptServices
from opensipspy.server.blacklists import make_rule
from opensipspy.server.core import ServerCore
from opensipspy.server.logs import TO_PYTHON, Logs, clamp
from opensipspy.sip import Peer, Socket

SCRIPT_LOG: Final = logging.getLogger("opensipspy.script")
SCRIPT_LINE: Final = {"script": True}

# A stateless branch begins like this: the magic cookie, then a mark that no transaction of ours uses.
BRANCH_PREFIX: Final = "z9hG4bKsl."


class Services(ScriptServices):
    """`ScriptServices` on the running server."""

    _core: ServerCore
    _logs: Logs

    def __init__(self, xlog_level: int, arguments: dict[str, str], blacklists: Iterable[str] = ()) -> None:
        """blacklists: names of the lists that the script defines."""
        super().__init__()
        # Until the services are part of a server.
        self._now: Callable[[], float] = time.monotonic
        self._time: Callable[[], float] = time.time
        self._xlog_configured = clamp(xlog_level)
        self._xlog = self._xlog_configured
        self._arguments = arguments
        self._process_id = os.getpid()
        self._blacklist_names = frozenset(blacklists)
        # Known before there is a server: the checker asks whether a script's stores are there.
        self.cachedbs = CacheDbs()

    def attach(self, core: ServerCore, logs: Logs) -> None:
        """Become part of a server: nothing but the start arguments can be asked for before."""
        self._core = core
        self._logs = logs
        self._now, self._time = core.now, core.time
        core.cachedbs = self.cachedbs

    # -- the world

    def log(self, level: int, text: str) -> None:
        level = clamp(level)
        if level <= self._logs.level:
            SCRIPT_LOG.log(TO_PYTHON[level], "%s", text, extra=SCRIPT_LINE)

    def xlog(self, level: int, text: str) -> None:
        # xlog_level alone decides about these lines, so they go past the logger's own level.
        level = TO_PYTHON[clamp(level)]
        SCRIPT_LOG.handle(SCRIPT_LOG.makeRecord(SCRIPT_LOG.name, level, "", 0, text, (), None, None, SCRIPT_LINE))

    def now(self) -> float:
        return self._now()

    def time(self) -> float:
        return self._time()

    def log_level(self) -> int:
        return self._logs.level

    def set_log_level(self, level: int | None) -> None:
        self._logs.set_level(level)

    def xlog_level(self) -> int:
        return self._xlog

    def set_xlog_level(self, level: int | None) -> None:
        self._xlog = self._xlog_configured if level is None else clamp(level)

    def process_id(self) -> int:
        return self._process_id

    def start_argument(self, name: str) -> Value:
        return self._arguments.get(name)

    def abort(self, reason: str) -> None:
        self._core.abort(reason)

    def spawn(self, work: Coroutine[Any, Any, object]) -> None:
        self._core.spawn(work, "launch")

    async def within(self, work: Awaitable[int], limit_s: float) -> int:
        return await self._core.wait(work, limit_s)

    # -- addresses

    def is_myself(self, host: str, port: int = 0, proto: int = 0) -> bool:
        return self._core.identity.is_myself(host, port, proto)

    def find_socket(self, text: str) -> Socket | None:
        if text[:5].lower() == "bond:":
            return self._bond(text[5:])
        for socket in self._core.sockets:
            if text in (socket.text, socket.tag) and text:
                return socket
        proto, host, port = split_destination(text)
        if not host:
            return None
        for socket in self._core.sockets:
            if proto not in (0, socket.proto) or port not in (0, socket.port):
                continue
            if host.strip("[]") == socket.address or host == socket.advertised_address:
                return socket
        return None

    def _bond(self, name: str) -> Socket | None:
        """The bond of that name, None when the script has none. Its sockets may come and go while the server runs."""
        names = self._core.globals.bonds.get(name)
        if names is None:
            return None
        found = (self.find_socket(member) for member in names if member[:5].lower() != "bond:")
        return sip.bond(name, [socket for socket in found if socket is not None])

    def socket_in_bond(self, socket: str, bond: str) -> bool | None:
        found = self.find_socket(socket)
        members = self._core.globals.bonds.get(bond)
        if found is None or members is None:
            return None
        return any(self.find_socket(member) is found for member in members)

    def resolve(self, name: str, family: int = 0) -> str | None:
        resolver = self._core.resolver
        if resolver is None:
            return None
        found = resolver.addresses(name, family)
        if isinstance(found, list):
            return found[0] if found else None
        # The answer is not known yet: it will be in the cache when the script asks again.
        self._core.spawn(_consume(found), f"look-up of {name}")
        return None

    # -- sending

    def forward(self, run: Run, destination: str) -> int | Awaitable[int]:
        msg = run.msg
        if not msg.is_request:
            return -1
        try:
            found = self._locate(run, destination)
        except LocateError as error:
            SCRIPT_LOG.error("forward: %s, Call-ID %s", error, msg.call_id)
            return -1
        if isinstance(found, list):
            return self._forward_to(run, found)
        return self._forward_later(run, found)

    def _locate(self, run: Run, destination: str) -> list[Target] | Awaitable[list[Target]]:
        if not destination:
            return self._core.locate(run.dst_uri or run.ruri)
        proto, host, port = split_destination(destination)
        if not host:
            raise LocateError(f"{destination!r} is no destination")
        return self._core.locate_host(host, port, proto)

    async def _forward_later(self, run: Run, found: Awaitable[list[Target]]) -> int:
        try:
            return self._forward_to(run, await found)
        except LocateError as error:
            SCRIPT_LOG.error("forward: %s, Call-ID %s", error, run.msg.call_id)
            return -1

    def _forward_to(self, run: Run, targets: list[Target]) -> int:
        target = targets[0]
        socket = self._core.choose_socket(target.peer, run.socket_out, run.msg.socket)
        if socket is None:
            return -1
        via = run.via_value(socket, self._branch(run))
        data = sip.build_request(run.msg, run.edits, run.ruri, via, socket)
        if self._core.barred(run, target.peer, data):
            SCRIPT_LOG.warning("forward: a blacklist bars %s, Call-ID %s", target.peer.text, run.msg.call_id)
            return -1
        run.handled = True
        connect = not self._core.no_connection_branch & run.branch_flags
        if not self._core.send(data, Target(target.peer, socket, connect)):
            return -1
        self._core.counters.fwd_requests.inc()
        return 1

    def _branch(self, run: Run) -> str:
        """The same for every copy of a request, so that the next hop sees retransmissions (RFC 3261 §16.11)."""
        msg = run.msg
        return BRANCH_PREFIX + self._core.digest(
            f"{msg.via.branch}|{msg.call_id}|{msg.from_tag}|{msg.cseq_number}|{run.ruri}"
        )

    def send(self, run: Run, destination: str, headers: str) -> int | Awaitable[int]:
        proto, host, port = split_destination(destination)
        if not host:
            return -1
        try:
            found = self._core.locate_host(host, port, proto)
        except LocateError as error:
            SCRIPT_LOG.error("send: %s", error)
            return -1
        msg = run.msg
        data = (msg.head + headers + "\r\n").encode("utf-8", "surrogateescape") + msg.body
        if isinstance(found, list):
            return self._send_to(data, found)

        async def later() -> int:
            try:
                return self._send_to(data, await found)
            except LocateError as error:
                SCRIPT_LOG.error("send: %s", error)
                return -1

        return later()

    def _send_to(self, data: bytes, targets: list[Target]) -> int:
        return 1 if self._core.send(data, targets[0]) else -1

    # -- blacklists

    def blacklist_known(self, name: str) -> bool:
        return name in self._blacklist_names

    def blacklist_names(self) -> frozenset[str]:
        return self._blacklist_names

    def blacklist_defaults(self) -> frozenset[str]:
        return self._core.blacklists.defaults()

    def blacklist_add(self, name: str, address: str, port: int, proto: str, pattern: str, expire_s: int) -> int:
        lists = self._core.blacklists
        try:
            lists.put(lists.lists[name], make_rule(address, port, proto, pattern), expire_s)
        except ValueError as error:
            SCRIPT_LOG.error("add_blacklist_rule: %s", error)
            return -1
        return 1

    def blacklist_delete(self, name: str, address: str, port: int, proto: str, pattern: str) -> int:
        lists = self._core.blacklists
        try:
            return 1 if lists.take(lists.lists[name], make_rule(address, port, proto, pattern)) else -1
        except ValueError as error:
            SCRIPT_LOG.error("del_blacklist_rule: %s", error)
            return -1

    def blacklist_check(self, name: str, address: str, port: int, proto: str, pattern: str) -> int:
        lists = self._core.blacklists
        try:
            return 1 if lists.check(lists.lists[name], address, port, proto, pattern) is not None else -1
        except ValueError as error:
            SCRIPT_LOG.error("check_blacklist_rule: %s", error)
            return -1

    # -- key-value stores

    def cache_known(self, storage: str) -> bool:
        return self.cachedbs.known(storage)

    def cache_fetch(self, storage: str, key: str) -> str | Awaitable[str | None] | None:
        store = self.cachedbs.named(storage)
        return store.fetch_now(key) if isinstance(store, InstantCacheDb) else store.fetch(key)

    def cache_counter(self, storage: str, key: str) -> int | Awaitable[int | None] | None:
        store = self.cachedbs.named(storage)
        return store.fetch_counter_now(key) if isinstance(store, InstantCacheDb) else store.fetch_counter(key)

    def cache_store(self, storage: str, key: str, value: str, expire_s: int) -> Awaitable[None] | None:
        store = self.cachedbs.named(storage)
        if isinstance(store, InstantCacheDb):
            store.store_now(key, value, expire_s)
            return None
        return store.store(key, value, expire_s)

    def cache_remove(self, storage: str, key: str) -> bool | Awaitable[bool]:
        store = self.cachedbs.named(storage)
        return store.remove_now(key) if isinstance(store, InstantCacheDb) else store.remove(key)

    def cache_add(self, storage: str, key: str, amount: int, expire_s: int) -> int | Awaitable[int]:
        store = self.cachedbs.named(storage)
        if isinstance(store, InstantCacheDb):
            return store.add_now(key, amount, expire_s)
        return store.add(key, amount, expire_s)

    def cache_raw(self, storage: str, query: str) -> Awaitable[list[list[Value]]]:
        return self.cachedbs.named(storage).raw_query(query)

    # -- connections

    def tcp_alias(self, run: Run, port: int) -> int:
        transport = self._core.network.transport(run.msg.source.proto)
        if not isinstance(transport, TcpTransport):
            return -1
        return 1 if transport.add_alias(run.msg.source, port) else -1

    def tcp_close(self, address: str) -> int:
        streams = self._core.network.streams()
        if address.strip().isdigit():
            return 1 if any(stream.close_number(int(address)) for stream in streams) else -1
        proto, host, port = split_destination(address)
        found = [
            stream.close_peer(Peer(stream.proto, host.strip("[]"), port))
            for stream in streams
            if proto in (0, stream.proto)
        ]
        return 1 if any(found) else -1

    def proxied(self, run: Run) -> dict[str, str | int] | None:
        return self._core.proxied(run.msg.source)

    # -- events and status

    def raise_event(self, name: str, params: list[tuple[str, Value]]) -> int:
        hub = self._core.events
        if hub.event(name) is None:
            hub.declare(name)
        if not hub.wanted(name):
            return -1
        hub.raise_event(name, {key or str(index): value for index, (key, value) in enumerate(params)})
        return 1

    def subscribe_event(self, name: str, socket: str, expire_s: int) -> int:
        try:
            self._core.events.subscribe(name, socket, expire_s or None)
        except SubscribeError as error:
            SCRIPT_LOG.error("subscribe_event: %s", error)
            return -1
        return 1

    def status(self, group: str, identifier: str) -> int:
        members = self._core.status.group(group)
        found = members.get(identifier or "main") if members is not None else None
        return found.status if found is not None else 0


async def _consume(found: Awaitable[list[str]]) -> None:
    await found


def split_destination(text: str) -> tuple[int, str, int]:
    """(protocol, host, port) of "[proto:]host[:port]"; 0 for what is missing, host "" when the text is none."""
    rest = text.strip()
    proto = 0
    head, colon, tail = rest.partition(":")
    if colon and sip.proto_number(head):
        proto, rest = sip.proto_number(head), tail
    if rest.startswith("["):
        host, bracket, tail = rest.partition("]")
        if not bracket:
            return 0, "", 0
        host, port_text = host[1:], tail.removeprefix(":")
    elif rest.count(":") > 1:
        host, port_text = rest, ""
    else:
        host, _, port_text = rest.partition(":")
    if not host or (port_text and not port_text.isdigit()):
        return 0, "", 0
    port = int(port_text) if port_text else 0
    return (proto, host, port) if port <= 65535 else (0, "", 0)
