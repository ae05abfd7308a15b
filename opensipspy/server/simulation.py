"""A whole server in memory: no sockets, and a clock that moves only when it is told to.

The script, the modules and the steps of a message are the real ones. Packets are handed in and what would have been
sent is kept; thirty seconds of `fr_inv_timeout` take as long as the timers due in them. Modules that are doors
to the world (management pipes, HTTP) are loaded and checked but not opened.

    with Simulation("opensips.cfg") as site:
        sent = site.receive("OPTIONS sip:127.0.0.1 SIP/2.0\\r\\n...")
        site.advance(30)
"""

from __future__ import annotations

import asyncio
import logging
import selectors
import sys
import time
from collections.abc import Callable, Iterable
from types import FrameType, TracebackType
from typing import Any, Final, NamedTuple

from opensipspy import sip
from opensipspy.net import DnsClient, Record, Resolver, ResolverSettings
from opensipspy.net.transport import Deliver, Transport
from opensipspy.server.errors import LoadError
from opensipspy.server.load import Loaded, load
from opensipspy.server.logs import L_DBG, Logs, Sink
from opensipspy.server.options import Options
from opensipspy.server.server import Server
from opensipspy.sip import Peer, Socket

# The clock of a simulation begins here unless it is told otherwise: 2026-01-01 00:00:00 UTC.
EPOCH: Final = 1_767_225_600.0
# How long real work that a message waits for (a database, a lookup) may take before `receive` gives up on it.
REAL_LIMIT_S: Final = 5.0
TURN_S: Final = 1e-5
DOORS: Final = ("opensipspy.mi.", "opensipspy.modules.httpd")
PROTOCOLS: Final = (sip.PROTO_UDP, sip.PROTO_TCP, sip.PROTO_TLS, sip.PROTO_WS, sip.PROTO_WSS)


class Sent(NamedTuple):
    """One message that left. at_s: seconds of the simulation's clock."""

    data: bytes
    peer: Peer
    socket: Socket
    at_s: float

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", "surrogateescape")

    @property
    def first_line(self) -> str:
        return self.text.partition("\r\n")[0]

    @property
    def message(self) -> sip.Message:
        """The message as its receiver would read it."""
        return sip.parse_message(self.data, Peer(self.socket.proto, self.socket.address, self.socket.port), self.socket)


class Step(NamedTuple):
    """One line of the script that ran: its file and line, and the route it stands in."""

    file: str
    line: int
    route: str


class Clock:
    """A clock that is set forward by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0
        # Timers may move the clock this far and no further.
        self.target_s = 0.0

    def now(self) -> float:
        return self.now_s

    def wall(self) -> float:
        return EPOCH + self.now_s


class JumpingSelector(selectors.DefaultSelector):
    """Waits for real events only when no timer of the simulated time may fall due instead."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        left = self._clock.target_s - self._clock.now_s
        if ready or timeout == 0:
            # A turn takes a moment: timers that are due to the tick and not yet to the clock must not spin.
            self._clock.now_s += min(TURN_S, max(left, 0.0))
            return ready
        if left > 0:
            self._clock.now_s += left if timeout is None else min(timeout, left)
            return []
        return super().select(0.001)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on a `Clock`."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(JumpingSelector(clock))
        self._virtual = clock

    def time(self) -> float:
        return self._virtual.now_s


class MemoryTransport(Transport):
    """Keeps what is sent."""

    def __init__(self, sent: list[Sent], clock: Clock, deliver: Deliver, unreachable: set[str]) -> None:
        self._sent = sent
        self._clock = clock
        self._deliver = deliver
        self._unreachable = unreachable

    def bind(self, socket: Socket) -> None:
        return None

    def serve(self) -> None:
        return None

    def pause(self) -> None:
        return None

    async def close(self) -> None:
        return None

    def waiting(self) -> int:
        return 0

    def send(self, data: bytes, peer: Peer, socket: Socket, on_failure: Callable[[], None] | None) -> bool:
        if f"{peer.address}:{peer.port}" in self._unreachable:
            return False
        self._sent.append(Sent(data, peer, socket, self._clock.now_s))
        return True


class MadeUpDns(DnsClient):
    """Answers from a table: (name, kind) -> records."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], list[Record]] = {}

    async def query(self, name: str, kind: str) -> list[Record]:
        return self.records.get((name.lower(), kind), [])


class Lines(Sink):
    """Keeps the log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def write(self, level: int, text: str, fields: dict[str, Any]) -> None:
        self.lines.append(self.styled(level, text, fields))


class SimulatedServer(Server):
    """The server without sockets, signals and doors."""

    memory: Callable[[int], Transport]
    dns: DnsClient

    def _start_resolver(self) -> None:
        settings = ResolverSettings(
            protocols=self.network.protocols(),
            v4=any(not socket.is_v6 for socket in self.core.sockets),
            v6=any(socket.is_v6 for socket in self.core.sockets),
        )
        self.core.resolver = Resolver(self.dns, settings, self.core.now, self.core.random, {})

    def _open_sockets(self) -> None:
        for proto in PROTOCOLS:
            self.network.add_transport(proto, self.memory(proto))
        for listen in self.loaded.listen(self.options):
            host = "127.0.0.1" if listen.host in ("*", "") else listen.host
            socket = Socket(
                listen.proto,
                host,
                listen.port or sip.default_port(listen.proto),
                listen.advertised_address or None,
                listen.advertised_port,
                listen.tag,
            )
            self.network.bind(socket)
            self.core.identity.add_socket(socket, listen.host)
        for alias in self.loaded.aliases():
            proto, host, port, *rest = alias
            self.core.identity.add(host, port, proto, *rest)

    def open_doors(self) -> list[str]:
        """The names of the modules that would open something."""
        return [name for name, module in self.loaded.modules.items() if type(module).__module__.startswith(DOORS)]


class Simulation:
    """One simulated server on one script. Use it as a context; it is not safe for threads.

    path: the script. text: its text instead of the file's. functions: script functions to replace by Python ones,
    `name -> fn(run, *args) -> int`. arguments: what `$argv(name)` reads. preprocessor: the command of `-p`.
    Raises server.errors.LoadError with every finding when the script is wrong.
    """

    def __init__(
        self,
        path: str,
        *,
        text: str | None = None,
        functions: dict[str, Callable[..., int]] | None = None,
        arguments: dict[str, str] | None = None,
        preprocessor: str = "",
    ) -> None:
        self.clock = Clock()
        self.sent: list[Sent] = []
        self.steps: list[Step] = []
        self.always_trace = False
        self.unreachable: set[str] = set()
        self.dns = MadeUpDns()
        self._lines = Lines()
        self._logger = logging.getLogger("opensipspy")
        self.options = Options()
        self.options.script, self.options.text, self.options.preprocessor = path, text, preprocessor
        self.options.arguments = dict(arguments or {})
        self.loaded: Loaded = load(self.options)
        _replace(self.loaded, functions or {})
        self.loop = VirtualLoop(self.clock)
        self._logs: Logs | None = None
        self.server: SimulatedServer | None = None

    # -- life

    def __enter__(self) -> Simulation:
        self._logs = Logs(self._logger, [self._lines], L_DBG if self.loaded.globals.debug_mode else self._level())
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._start())
        except BaseException:
            self._end()
            raise
        return self

    def _level(self) -> int:
        return int(self.loaded.globals.log_level)

    async def _start(self) -> None:
        assert self._logs is not None
        server = SimulatedServer(self.options, self.loaded, self._logs, self.loop, self.clock.now, self.clock.wall)
        server.memory = lambda proto: MemoryTransport(self.sent, self.clock, server.steps.receive, self.unreachable)
        server.dns = self.dns
        for name in server.open_doors():
            # Loaded for the checker's sake; a test opens no pipe and no port.
            del server.core.modules[name]
        self.server = server
        await server.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.server is not None:
                self.loop.run_until_complete(self.server.shut_down())
        finally:
            self._end()

    def _end(self) -> None:
        if self._logs is not None:
            self._logs.close()
        asyncio.set_event_loop(None)
        self.loop.close()

    # -- what a test does

    @property
    def log(self) -> list[str]:
        """The lines that the server wrote, `xlog()` among them."""
        return self._lines.lines

    @property
    def core(self) -> Any:
        assert self.server is not None, "the simulation has not begun: use it in a with statement"
        return self.server.core

    def module(self, name: str) -> Any:
        """A loaded module, to look into it or to change it."""
        return self.loaded.modules[name]

    def receive(
        self, message: str | bytes, source: str = "udp:192.0.2.1:5060", to: str = "", *, trace: bool = False
    ) -> list[Sent]:
        """Let one message arrive and run until nothing is left to do now; returns what was sent meanwhile.

        source: "proto:address:port". to: the text of the listening socket, "" for the first of the protocol. Line ends
        of a text may be bare. trace: note every line of the script that runs in `steps`.
        """
        data = message if isinstance(message, bytes) else wire(message)
        peer = parse_peer(source)
        socket = self._socket(peer.proto, to)
        before = len(self.sent)

        def deliver() -> None:
            assert self.server is not None
            if not (trace or self.always_trace):
                self.server.steps.receive(data, peer, socket)
                return
            with Tracer(self.steps, self.loaded.script.files):
                self.server.steps.receive(data, peer, socket)

        self.loop.run_until_complete(self._settle(deliver))
        return self.sent[before:]

    def advance(self, seconds: float) -> list[Sent]:
        """Let time pass; returns what was sent meanwhile."""
        before = len(self.sent)
        if self.always_trace:
            with Tracer(self.steps, self.loaded.script.files):
                self.loop.run_until_complete(self._pass(seconds))
        else:
            self.loop.run_until_complete(self._pass(seconds))
        return self.sent[before:]

    def command(self, name: str, params: dict[str, Any] | list[Any] | None = None) -> Any:
        """Run a management command."""
        return self.loop.run_until_complete(self.core.mi.call(name, params))

    def resolve(self, name: str, *addresses: str, ttl_s: float = 60.0) -> None:
        """Let a host name have these addresses."""
        for address in addresses:
            kind = "AAAA" if ":" in address else "A"
            self.dns.records.setdefault((name.lower(), kind), []).append(Record(address, ttl_s))

    def service(self, name: str, *targets: tuple[int, int, int, str], ttl_s: float = 60.0) -> None:
        """Let an SRV name such as "_sip._udp.example.com" have (priority, weight, port, target) records."""
        records = self.dns.records.setdefault((name.lower(), "SRV"), [])
        for priority, weight, port, target in targets:
            records.append(Record(target, ttl_s, priority=priority, weight=weight, port=port))

    def _socket(self, proto: int, text: str) -> Socket:
        for socket in self.core.sockets:
            if socket.text == text or (not text and socket.proto == proto):
                return socket  # type: ignore[no-any-return]
        raise LookupError(f"the script listens on no {text or sip.proto_name(proto)} socket")

    async def _settle(self, work: Callable[[], None]) -> None:
        """Do something, then let everything run that does not need time to pass."""
        work()
        end = time.monotonic() + REAL_LIMIT_S
        while True:
            for _ in range(10):
                await asyncio.sleep(0)
            stepper = self.core.stepper
            if not stepper.suspended or time.monotonic() > end:
                return
            # Something real is waited for, or a timer of the simulated time: the former ends by itself.
            if not await self._something_real(stepper):
                return

    async def _something_real(self, stepper: Any) -> bool:
        """Whether a suspended run goes on without the clock."""
        before = stepper.suspensions, len(stepper.suspended), len(self.sent)
        limit = time.monotonic() + 0.25
        while time.monotonic() < limit:
            await asyncio.sleep(0)
            if before != (stepper.suspensions, len(stepper.suspended), len(self.sent)):
                return True
            # The thread of an embedded database needs the processor too.
            self.loop._selector.select(0.001)  # type: ignore[attr-defined]
        return False

    async def _pass(self, seconds: float) -> None:
        clock = self.clock
        clock.target_s = clock.now_s + seconds
        reached = asyncio.Event()
        handle = self.loop.call_at(clock.target_s, reached.set)
        try:
            await reached.wait()
        finally:
            handle.cancel()
            clock.target_s = clock.now_s
        await self._settle(lambda: None)


class Tracer:
    """Notes each line of the script that runs while it is entered."""

    def __init__(self, steps: list[Step], files: Iterable[str]) -> None:
        self._steps = steps
        self._files = frozenset(files)

    def __enter__(self) -> None:
        self._before = sys.gettrace()
        sys.settrace(self._call)

    def __exit__(self, *error: object) -> None:
        sys.settrace(self._before)

    def _call(self, frame: FrameType, event: str, arg: Any) -> Any:
        return self._line if frame.f_code.co_filename in self._files else None

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            step = Step(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
            # One statement is several instructions; it is told once.
            if not self._steps or self._steps[-1] != step:
                self._steps.append(step)
        return self._line


def wire(text: str) -> bytes:
    """A message written in a test: lines lose their indentation and get CRLF, a missing blank line is added.

    The first empty line ends the head. What needs its white space, such as a folded header, is given as bytes.
    """
    lines = text.strip().replace("\r\n", "\n").split("\n")
    head: list[str] = []
    for line in lines:
        if not line.strip():
            break
        head.append(line.strip())
    body = [line.strip() for line in lines[len(head) + 1 :]]
    return "\r\n".join([*head, "", "\r\n".join(body)]).encode("utf-8", "surrogateescape")


def parse_peer(text: str) -> Peer:
    """ "udp:192.0.2.1:5060" as a peer; raises ValueError."""
    proto, _, rest = text.partition(":")
    host, _, port = rest.rpartition(":")
    number = sip.proto_number(proto)
    if not number or not port.isdigit():
        raise ValueError(f"{text!r} is no proto:address:port")
    return Peer(number, host.strip("[]"), int(port))


def _replace(loaded: Loaded, functions: dict[str, Callable[..., int]]) -> None:
    """Put Python functions in the place of script functions; the checker has seen the real ones."""
    slots = {recipe[1]: slot for slot, recipe in loaded.program.image.recipes.items() if recipe[0] == "call"}
    for name, call in functions.items():
        decl = loaded.catalogue.function(name)
        if decl is None:
            raise LoadError(f"there is no script function {name} to replace")
        for route in loaded.program.all_routes():
            environment = getattr(route.fn, "__globals__", {})
            if name in slots:
                environment[slots[name]] = _awaited(call) if decl.waits == "always" else call


def _awaited(call: Callable[..., int]) -> Callable[..., Any]:
    async def waiting(*args: Any) -> int:
        return call(*args)

    return waiting
