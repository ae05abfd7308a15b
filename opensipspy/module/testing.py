"""A server for the tests of modules: made-up clock, recorded sends and replies, real statistics, commands and events.

core = FakeCore()
module = core.add(MaxFwd(max_limit=10))
run = make_run(request("OPTIONS", headers="Max-Forwards: 0\\r\\n"), core=core)
assert core.call("mf_process_maxfwd_header", run, 10) == -1
"""

from __future__ import annotations

import asyncio
import heapq
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from ipaddress import ip_address
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

from opensipspy import sip
from opensipspy.cachedb import CacheDb, CacheDbDriver, CacheDbs
from opensipspy.events import Hub
from opensipspy.management import Registry, Statistics, StatusReports
from opensipspy.module.core import Core, DnsStore, LocateError, Naptr
from opensipspy.module.module import Module
from opensipspy.module.target import Target
from opensipspy.script.declare import Catalogue, VarRef
from opensipspy.script.kinds import REQUEST
from opensipspy.script.run import Run, Value

if TYPE_CHECKING:
    from opensipspy.db import Database
    from opensipspy.sip import Peer, Socket, Uri

T = TypeVar("T")
M = TypeVar("M", bound=Module)

START_TIME = 1_700_000_000.0
"""Wall clock of a new FakeCore, seconds since 1970."""


class Sent:
    """Something that was handed to the network."""

    __slots__ = ("data", "on_failure", "target")

    def __init__(self, data: bytes, target: Target, on_failure: Callable[[], None] | None) -> None:
        self.data = data
        self.target = target
        self.on_failure = on_failure

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", "surrogateescape")


class Replied:
    """An answer that a module asked for."""

    __slots__ = ("body", "code", "headers", "reason", "run")

    def __init__(self, run: Run, code: int, reason: str, headers: str, body: bytes) -> None:
        self.run = run
        self.code = code
        self.reason = reason
        self.headers = headers
        self.body = body


class FakeTimer:
    """A pending call of the made-up clock."""

    __slots__ = ("args", "at", "cancelled", "fn", "interval", "order")

    def __init__(
        self, at: float, order: int, fn: Callable[..., object], args: tuple[Any, ...], interval: float
    ) -> None:
        self.at = at
        self.order = order
        self.fn = fn
        self.args = args
        self.interval = interval
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def __lt__(self, other: FakeTimer) -> bool:
        return (self.at, self.order) < (other.at, other.order)


class FakeCore(Core):
    """`Core` without a network and without real time; what happened is in lists.

    sent: handed to the network. replies: asked for with `send_reply`. routes_run: routes that modules ran.
    located: URI text -> targets or an exception, for names that are no addresses. accept_sends: False makes `send`
    fail.
    naptrs, txts: name -> records or an exception. dns_store: what a module gave to keep_dns_answers().
    socket_words: the options of sockets that modules opened.
    """

    def __init__(
        self,
        *,
        sockets: Sequence[Socket] | None = None,
        databases: Mapping[str, Database] | None = None,
        globals: Mapping[str, Any] | None = None,
    ) -> None:
        self.globals = SimpleNamespace(**(globals or {}))
        self.program: Any = None
        self.catalogue = Catalogue()
        self.sockets = list(sockets) if sockets is not None else [sip.Socket(sip.PROTO_UDP, "127.0.0.1", 5060)]
        self.stats = Statistics()
        self.mi = Registry()
        self.status = StatusReports(self.time)
        self.clock = 1000.0
        self.wall = START_TIME
        self.events = Hub(now=self.now)
        self.flags = self.catalogue.flags
        self.random = Random(1)
        self.log = logging.getLogger("opensipspy.fake")
        self.modules: dict[str, Module] = {}
        self.databases = dict(databases or {})
        self.cachedbs = CacheDbs()
        self.located: dict[str, list[Target] | Exception] = {}
        self.naptrs: dict[str, list[Naptr] | Exception] = {}
        self.txts: dict[str, list[str] | Exception] = {}
        self.dns_store: DnsStore | None = None
        self.socket_words: dict[Socket, dict[str, int | str]] = {}
        self.aliases: set[str] = set()
        self.sent: list[Sent] = []
        self.replies: list[Replied] = []
        self.routes_run: list[Any] = []
        self.accept_sends = True
        self.reply_result = 1
        self.reply_handlers: list[Callable[[Run], bool | Awaitable[bool]]] = []
        self.before: list[Callable[[Run], bool | None]] = []
        self.after: list[Callable[[Run], None]] = []
        self.copies: list[Callable[[Run], None]] = []
        self.tasks: set[asyncio.Task[Any]] = set()
        self._timers: list[FakeTimer] = []
        self._order = 0

    # --- for tests

    def add(self, module: M) -> M:
        """Load a module: its declarations reach the catalogue, commands, statistics and events."""
        module.declare(self.catalogue)
        self.modules[module.name] = module
        module.bind(self)
        loaded: Module = module
        if isinstance(loaded, CacheDbDriver):
            self.cachedbs.add(loaded)
        return module

    def call(self, function: str, run: Run, *args: Any) -> Any:
        """Call a script function as the compiled script does; what an `async def` returns has to be awaited."""
        decl = self.catalogue.functions[function]
        assert run.kind & decl.routes, f"{function} is not allowed in this kind of route"
        return decl.call(run, *args)

    def read(self, variable: str, run: Run, name: Any = None, index: int | str | None = None) -> Value:
        """The value of a module's variable."""
        decl = self.catalogue.variables[variable.removeprefix("$")]
        return decl.get(run, decl.parse_name(name) if decl.parse_name and name is not None else name, index)

    def write(self, variable: str, run: Run, value: Value, name: Any = None, index: int | str | None = None) -> None:
        """Assign to a module's variable."""
        decl = self.catalogue.variables[variable.removeprefix("$")]
        assert decl.set is not None, f"{variable} cannot be written"
        decl.set(run, decl.parse_name(name) if decl.parse_name and name is not None else name, index, value)

    async def mi_call(self, command: str, params: Mapping[str, Any] | Sequence[Any] | None = None) -> Any:
        """Call a management command."""
        return await self.mi.call(command, params)

    def advance(self, seconds: float) -> None:
        """Let the made-up clocks go on; timers fire in order, each at its own time."""
        end = self.clock + seconds
        wall = self.wall - self.clock
        while self._timers and self._timers[0].at <= end:
            timer = heapq.heappop(self._timers)
            if timer.cancelled:
                continue
            self.clock = max(self.clock, timer.at)
            self.wall = wall + self.clock
            if timer.interval > 0:
                timer.at += timer.interval
                heapq.heappush(self._timers, timer)
            timer.fn(*timer.args)
        self.clock = end
        self.wall = wall + end

    async def settle(self) -> None:
        """Let everything that was spawned come to its end; failures are raised here."""
        while self.tasks:
            done, _ = await asyncio.wait(set(self.tasks))
            self.tasks -= done
            for task in done:
                task.result()

    @property
    def pending_timers(self) -> int:
        return sum(1 for timer in self._timers if not timer.cancelled)

    # --- Core

    def now(self) -> float:
        return self.clock

    def time(self) -> float:
        return self.wall

    def module(self, name: str) -> Module | None:
        return self.modules.get(name)

    def api(self, name: str, cls: type[T]) -> T:
        module = self.modules.get(name)
        offered = module.api() if module is not None else None
        if not isinstance(offered, cls):
            raise LookupError(f"module {name} is not loaded" if module is None else f"{name} offers no {cls.__name__}")
        return offered

    def send(self, data: bytes, target: Target, on_failure: Callable[[], None] | None = None) -> bool:
        if self.accept_sends:
            self.sent.append(Sent(data, target, on_failure))
        return self.accept_sends

    def locate(self, uri: Uri | str, proto: int = 0) -> list[Target] | Awaitable[list[Target]]:
        text = str(uri)
        if text in self.located:
            found = self.located[text]
            if isinstance(found, Exception):
                raise found
            return found
        parsed = sip.parse_uri(text)
        try:
            ip_address(parsed.host)
        except ValueError:
            raise LocateError(f"{parsed.host} is not known to this test") from None
        peer = sip.Peer(proto or parsed.proto or sip.PROTO_UDP, parsed.host, parsed.port or 5060)
        socket = self.choose_socket(peer)
        if socket is None:
            raise LocateError(f"no socket for {peer.text}")
        return [Target(peer, socket)]

    async def naptr(self, name: str) -> list[Naptr]:
        found = self.naptrs.get(name, [])
        if isinstance(found, Exception):
            raise found
        return found

    async def txt(self, name: str) -> list[str]:
        found = self.txts.get(name, [])
        if isinstance(found, Exception):
            raise found
        return found

    def keep_dns_answers(self, store: DnsStore) -> None:
        self.dns_store = store

    def open_socket(self, socket: Socket, words: Mapping[str, int | str]) -> None:
        if any(socket.text == other.text for other in self.sockets):
            raise OSError(98, "Address already in use")
        self.socket_words[socket] = dict(words)
        self.sockets.append(socket)

    def close_socket(self, socket: Socket) -> None:
        self.sockets.remove(socket)

    def choose_socket(self, peer: Peer, forced: Socket | None = None, received: Socket | None = None) -> Socket | None:
        v6 = ":" in peer.address
        members = forced.members if forced is not None and forced.members is not None else []
        for wanted in (forced, *members, received):
            if wanted is not None and wanted.proto == peer.proto and wanted.is_v6 == v6:
                return wanted
        return next((s for s in self.sockets if s.proto == peer.proto and s.is_v6 == v6), None)

    def is_myself(self, host: str, port: int = 0, proto: int = 0) -> bool:
        if host in self.aliases:
            return True
        return any(
            host in (s.address, s.host_text, s.advertised_address)
            and port in (0, s.port, s.advertised_port or s.port)
            and proto in (0, s.proto)
            for s in self.sockets
        )

    def call_later(self, delay_s: float, fn: Callable[..., object], *args: Any) -> FakeTimer:
        return self._schedule(delay_s, fn, args, 0.0)

    def every(self, interval_s: float, fn: Callable[[], object]) -> FakeTimer:
        if interval_s <= 0:
            raise ValueError("an interval is above 0")
        return self._schedule(interval_s, fn, (), interval_s)

    def _schedule(self, delay: float, fn: Callable[..., object], args: tuple[Any, ...], interval: float) -> FakeTimer:
        self._order += 1
        timer = FakeTimer(self.clock + delay, self._order, fn, args, interval)
        heapq.heappush(self._timers, timer)
        return timer

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coro, name=name)
        self.tasks.add(task)
        return task

    async def wait(self, awaitable: Awaitable[T], timeout_s: float | None = None) -> T:
        return await asyncio.wait_for(awaitable, timeout_s)

    def run_route(self, route: Any, run: Run, done: Callable[[Run, int], None]) -> None:
        self.routes_run.append(route)
        result = route.fn(run)
        if not inspect.iscoroutine(result):
            done(run, int(result))
            return
        try:
            waits_for = result.send(None)
        except StopIteration as ended:
            done(run, int(ended.value))
            return
        self.spawn(self._resume(result, waits_for, run, done), f"route {getattr(route, 'name', '')}")

    async def _resume(
        self, coro: Coroutine[Any, Any, int], waits_for: Any, run: Run, done: Callable[[Run, int], None]
    ) -> None:
        while True:
            if waits_for is None:
                await asyncio.sleep(0)
            else:
                waits_for._asyncio_future_blocking = False
                await asyncio.wait([waits_for])
            try:
                waits_for = coro.send(None)
            except StopIteration as ended:
                done(run, int(ended.value))
                return

    def on_reply(self, handler: Callable[[Run], bool | Awaitable[bool]]) -> None:
        self.reply_handlers.append(handler)

    def before_script(self, callback: Callable[[Run], bool | None]) -> None:
        self.before.append(callback)

    def after_script(self, callback: Callable[[Run], None]) -> None:
        self.after.append(callback)

    def on_copy(self, callback: Callable[[Run], None]) -> None:
        self.copies.append(callback)

    def send_reply(self, run: Run, code: int, reason: str, headers: str = "", body: bytes = b"") -> int:
        self.replies.append(Replied(run, code, reason, headers, body))
        run.handled = True
        return self.reply_result

    def database(self, url: str) -> Database:
        try:
            return self.databases[url]
        except KeyError:
            raise LookupError(f"this test has no database {url}; give FakeCore(databases=...)") from None

    def cachedb(self, url: str) -> CacheDb:
        return self.cachedbs.get(url)


def request(
    method: str = "INVITE",
    ruri: str = "sip:bob@example.org",
    *,
    headers: str = "",
    body: str = "",
    from_: str = "<sip:alice@example.com>;tag=a1",
    to: str = "<sip:bob@example.org>",
    call_id: str = "call-1@example.com",
    cseq: int = 1,
    via: str = "SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK-1",
    without: Iterable[str] = (),
) -> str:
    """The text of a well-formed request; `headers` are further complete lines, `without` leaves standard ones out."""
    lines = {
        "Via": via,
        "From": from_,
        "To": to,
        "Call-ID": call_id,
        "CSeq": f"{cseq} {method}",
        "Max-Forwards": "70",
    }
    extra = headers if not headers or headers.endswith("\r\n") else headers + "\r\n"
    named = {line.partition(":")[0].strip().lower() for line in extra.split("\r\n")}
    left_out = {name.lower() for name in without} | named
    kept = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if name.lower() not in left_out)
    size = len(body.encode("utf-8", "surrogateescape"))
    length = "" if "content-length" in left_out else f"Content-Length: {size}\r\n"
    return f"{method} {ruri} SIP/2.0\r\n{kept}{extra}{length}\r\n{body}"


def reply(status: int = 200, reason: str = "OK", *, method: str = "INVITE", headers: str = "", body: str = "") -> str:
    """The text of a well-formed reply to `request(method)`."""
    line, _, rest = request(method, headers=headers, body=body, without=("Max-Forwards",)).partition("\r\n")
    assert line.startswith(method)
    return f"SIP/2.0 {status} {reason}\r\n{rest}"


def make_run(
    text: str | bytes,
    kind: int = REQUEST,
    *,
    core: FakeCore | None = None,
    source: Peer | None = None,
    socket: Socket | None = None,
    program: object = None,
) -> Run:
    """A `Run` for the text of a message; line ends may be written as plain newlines."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    if b"\r\n" not in data:
        data = data.replace(b"\n", b"\r\n")
    here = socket or (core.sockets[0] if core else sip.Socket(sip.PROTO_UDP, "127.0.0.1", 5060))
    peer = source or sip.Peer(here.proto, "192.0.2.10", 5060)
    return Run(sip.parse_message(data, peer, here), kind, program)


def make_var(name: str = "x", value: Value = None) -> VarRef:
    """A `$var(name)` to hand to a function that writes into a variable; the value is in `run.vars[name]`."""

    def get(run: Run) -> Value:
        return run.vars.get(name, value)

    def put(run: Run, new: Value) -> None:
        run.vars[name] = new

    return VarRef(f"$var({name})", "$var", name, get, put, put)


__all__ = ["FakeCore", "FakeTimer", "Replied", "Sent", "make_run", "make_var", "reply", "request"]
