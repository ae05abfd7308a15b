"""A whole server in memory: no sockets, and a clock that moves only when it is told to.

The script, the modules and the steps of a message are the real ones. Packets are handed in and what would have been
sent is kept; thirty seconds of `fr_inv_timeout` take as long as the timers due in them. Modules that are doors
to the world (management pipes, HTTP) are loaded and checked but not opened.

    with Simulation("opensips.cfg") as site:
        site.gateway("192.0.2.20:5060", 180, 200)
        sent = site.receive("INVITE sip:bob@example.org SIP/2.0\\r\\n...")
        assert sent.statuses == [100, 180, 200]
        site.advance(30)

What a script asks outside is answered from `Answers`; what has no answer there fails as it does when nobody is there.
Without `Answers` databases in files are the real ones, and nothing is reached through a network unless `network` says
so.
"""

from __future__ import annotations

import asyncio
import difflib
import errno
import inspect
import logging
import selectors
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Final, NamedTuple, NoReturn

from opensipspy import sip
from opensipspy.management import MiError
from opensipspy.net import DnsClient, Record, Resolver, ResolverSettings
from opensipspy.net.transport import Transport
from opensipspy.script import kinds
from opensipspy.script.run import Run, Value
from opensipspy.server import journal as noted
from opensipspy.server.answers import Answers, Gateway, Reply
from opensipspy.server.console import variable
from opensipspy.server.errors import LoadError
from opensipspy.server.journal import Journal
from opensipspy.server.load import Loaded, load
from opensipspy.server.logs import L_DBG, Logs, Sink
from opensipspy.server.memory_database import MemoryDatabases, conditions, rows_text
from opensipspy.server.options import Options
from opensipspy.server.server import Server
from opensipspy.sip import Peer, Socket

# The clock of a simulation begins here unless it is told otherwise: 2026-01-01 00:00:00 UTC.
EPOCH: Final = 1_767_225_600.0
# How long real work that a message waits for (a database, a lookup) may take before `receive` gives up on it.
REAL_LIMIT_S: Final = 30.0
# How often a run that does not move is looked at before it is taken to wait for the clock, with and without real
# back-ends; a millisecond or more lies between two looks. On a loaded machine time alone says nothing: it may have
# passed while neither we nor a thread of a database had the processor.
REAL_LOOKS: Final = 300
MADE_UP_LOOKS: Final = 20
TURN_S: Final = 1e-5
DOORS: Final = ("opensipspy.mi.", "opensipspy.modules.httpd")
PROTOCOLS: Final = (sip.PROTO_UDP, sip.PROTO_TCP, sip.PROTO_TLS, sip.PROTO_WS, sip.PROTO_WSS)
NO_NETWORK: Final = "a simulation has no network"
# What a route runs for when a test gives no message.
USUAL_MESSAGE: Final = """
    OPTIONS sip:service@127.0.0.1 SIP/2.0
    Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKtest
    From: <sip:test@127.0.0.1>;tag=test
    To: <sip:service@127.0.0.1>
    Call-ID: test
    CSeq: 1 OPTIONS
    Max-Forwards: 70
"""
SENT_BEFORE_ANSWER: Final = 2000


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

    @property
    def is_request(self) -> bool:
        return not self.data.startswith(b"SIP/")

    @property
    def status(self) -> int:
        """Of a reply; 0 for a request."""
        return 0 if self.is_request else int(self.data.split(None, 2)[1])

    @property
    def method(self) -> str:
        """Of a request; "" for a reply."""
        return self.first_line.partition(" ")[0] if self.is_request else ""

    @property
    def to(self) -> str:
        """Where it went: "192.0.2.20:5060"."""
        return self.peer.text.partition(":")[2]

    def header(self, name: str) -> str:
        """The value of the first header of that name, "" when there is none."""
        found = self.message.named(name)
        return found[0].value if found else ""


class Step(NamedTuple):
    """One line of the script that ran: its file and line, and the route it stands in."""

    file: str
    line: int
    route: str


class Lookup(NamedTuple):
    """Something that was asked outside. kind: "dns", "database", "http", "exec", "cache", "network".

    answered: False when nothing was there to answer it.
    """

    kind: str
    question: str
    answer: str
    answered: bool
    at_s: float


class Raised(NamedTuple):
    """An event that was raised."""

    name: str
    params: dict[str, object]
    at_s: float


class Outcome(list[Sent]):
    """What came of one message, one route or a stretch of time: the messages that were sent, and how it came to it.

    run: the first run of the script, None when none ran. returned: what a route gave back that was run by itself.
    """

    def __init__(self, site: Simulation, marks: tuple[int, int, int, int, int]) -> None:
        entries, sent, log, lookups, events = marks
        super().__init__(site.sent[sent:])
        self._site = site
        self.entries = site.journal.entries[entries:]
        self.log = site.log[log:]
        self.lookups = site.lookups[lookups:]
        self.events = site.events[events:]
        self.run: Run | None = site.journal.run
        self.returned: int | None = None

    @property
    def requests(self) -> list[Sent]:
        """The requests among what was sent, copies included."""
        return [sent for sent in self if sent.is_request]

    @property
    def replies(self) -> list[Sent]:
        return [sent for sent in self if not sent.is_request]

    @property
    def statuses(self) -> list[int]:
        """The statuses of the replies, in order."""
        return [sent.status for sent in self.replies]

    @property
    def reply(self) -> Sent:
        """The last reply; raises LookupError with the path of the message when there is none."""
        if not self.replies:
            raise LookupError("no reply was sent\n" + self.path)
        return self.replies[-1]

    @property
    def relayed(self) -> Sent:
        """The first request that was sent; raises LookupError with the path of the message when there is none."""
        if not self.requests:
            raise LookupError("no request was sent\n" + self.path)
        return self.requests[0]

    @property
    def routes(self) -> list[str]:
        """The routes that ran, in order, each once: "route", "route[relay]", "failure_route[missed]"."""
        return list(dict.fromkeys(entry.route for entry in self.entries if entry.route))

    @property
    def lines(self) -> list[int]:
        """The lines of the script that ran, in order."""
        return [entry.line for entry in self.entries if entry.kind == noted.STATEMENT_RAN]

    @property
    def exited(self) -> bool:
        return self.run is not None and self.run.exited

    @property
    def dropped(self) -> bool:
        return self.run is not None and self.run.dropped

    def value(self, text: str) -> Value:
        """What a variable has now: `value("$avp(account)")`, `value("$(ru{uri.user})")`."""
        if self.run is None:
            raise LookupError("no route ran")
        return variable(text, self._site.core.catalogue).reader()(self.run)

    @property
    def path(self) -> str:
        """Everything that happened, in lines of the script."""
        lines = noted.render(self.entries, self._site.lines_of, self._site.options.script)
        return "\n".join(lines) or "  no line of the script ran"


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

    def __init__(self, clock: Clock, refused: Callable[[str], None] | None) -> None:
        """refused: is told of each attempt to leave the process; None: they are allowed."""
        super().__init__(JumpingSelector(clock))
        self._virtual = clock
        self._refused = refused

    def time(self) -> float:
        return self._virtual.now_s

    def _refuse(self, what: str) -> NoReturn:
        assert self._refused is not None
        self._refused(what)
        raise ConnectionRefusedError(errno.ECONNREFUSED, NO_NETWORK)

    async def create_connection(self, *args: Any, **options: Any) -> Any:
        if self._refused is not None:
            self._refuse(f"connection to {' '.join(str(arg) for arg in args[1:3])}")
        return await super().create_connection(*args, **options)

    async def create_unix_connection(self, *args: Any, **options: Any) -> Any:
        if self._refused is not None:
            self._refuse(f"connection to {' '.join(str(arg) for arg in args[1:2])}")
        return await super().create_unix_connection(*args, **options)

    async def create_datagram_endpoint(self, *args: Any, **options: Any) -> Any:
        if self._refused is not None:
            self._refuse(f"datagrams to {options.get('remote_addr', 'anywhere')}")
        return await super().create_datagram_endpoint(*args, **options)

    async def sock_connect(self, sock: Any, address: Any) -> None:
        if self._refused is not None:
            self._refuse(f"connection to {address}")
        await super().sock_connect(sock, address)

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        if self._refused is not None:
            self._refuse(f"look-up of {host}")
        return await super().getaddrinfo(host, port, **options)

    async def subprocess_shell(self, *args: Any, **options: Any) -> Any:
        if self._refused is not None:
            self._refuse(f"program {args[1] if len(args) > 1 else ''}")
        return await super().subprocess_shell(*args, **options)

    async def subprocess_exec(self, *args: Any, **options: Any) -> Any:
        if self._refused is not None:
            self._refuse(f"program {args[1] if len(args) > 1 else ''}")
        return await super().subprocess_exec(*args, **options)


class MemoryTransport(Transport):
    """Keeps what is sent."""

    def __init__(self, leaves: Callable[[bytes, Peer, Socket], bool]) -> None:
        self._leaves = leaves

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
        return self._leaves(data, peer, socket)


class MadeUpDns(DnsClient):
    """Answers from a table: (name, kind) -> records."""

    def __init__(self, answers: Answers, told: Callable[[str, str, str, bool], None]) -> None:
        self.records = answers.names
        self._told = told

    async def query(self, name: str, kind: str) -> list[Record]:
        found = self.records.get((name.lower(), kind))
        known = found is not None or any(each == name.lower() for each, _ in self.records)
        shown = ", ".join(str(record.target) for record in found or ()) or "no such record"
        self._told("dns", f"{kind} {name}", shown if known else "no answer was given for this name", known)
        return list(found or ())


class Lines(Sink):
    """Keeps the log."""

    def __init__(self, told: Callable[[str], None]) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._told = told

    def write(self, level: int, text: str, fields: dict[str, Any]) -> None:
        line = self.styled(level, text, fields)
        self.lines.append(line)
        self._told(line)


class Peers:
    """The gateways of `Answers`: each request that reaches one is answered as was said."""

    def __init__(self, site: Simulation) -> None:
        self._site = site
        # Via branch -> the INVITE or other request that is being answered, and the replies still to come.
        self._open: dict[str, tuple[Sent, list[asyncio.TimerHandle], bool]] = {}
        self._tags = 0

    def request(self, sent: Sent, gateway: Gateway) -> None:
        if gateway.replies is None:
            return
        message = sent.message
        branch = message.via.branch
        if message.method_id == sip.M_ACK:
            return
        if message.method_id == sip.M_CANCEL:
            self._later(sent, Reply(200), 0.0)
            found = self._open.get(branch)
            if found is not None and not found[2]:
                for handle in found[1]:
                    handle.cancel()
                self._open[branch] = (found[0], [], True)
                self._later(found[0], Reply(487), 0.0)
            return
        if branch in self._open:
            # A copy: the first one is being answered.
            return
        if len(self._open) >= SENT_BEFORE_ANSWER:
            self._open.clear()
        replies = gateway.replies if not message.to_tag else [Reply(200)]
        if message.method_id != sip.M_INVITE:
            replies = [reply for reply in replies if reply.status >= 200] or [Reply(200)]
        handles: list[asyncio.TimerHandle] = []
        self._open[branch] = (sent, handles, False)
        at_s = 0.0
        for reply in replies:
            at_s += reply.after_s
            handles.append(self._later(sent, reply, at_s))

    def _later(self, sent: Sent, reply: Reply, delay_s: float) -> asyncio.TimerHandle:
        return self._site.loop.call_later(delay_s, self.answer, sent, reply)

    def answer(self, sent: Sent, reply: Reply) -> None:
        """Let a reply to a request arrive."""
        message = sent.message
        found = self._open.get(message.via.branch)
        if found is not None and reply.status >= 200 and message.method_id != sip.M_CANCEL:
            self._open[message.via.branch] = (found[0], found[1], True)
        headers = reply.headers
        host = f"[{sent.peer.address}]" if ":" in sent.peer.address else sent.peer.address
        if message.method_id == sip.M_INVITE and 101 <= reply.status < 300:
            headers += f"Contact: <sip:{host}:{sent.peer.port}>\r\n"
            routes = "".join(f"Record-Route: {route.value}\r\n" for route in message.named("Record-Route"))
            headers = routes + headers
        tag = f"gw-{host}-{message.via.branch[-8:]}" if reply.status > 100 else ""
        data = sip.build_reply(message, reply.status, reply.reason, tag, headers, reply.body.encode(), reply.type)
        self._site.arrives(data, sent.peer, sent.socket)


class SimulatedServer(Server):
    """The server without sockets, signals and doors."""

    memory: Callable[[int], Transport]
    dns: DnsClient

    def _start_resolver(self) -> None:
        settings = ResolverSettings(
            protocols=self.network.protocols(),
            v4=any(not socket.is_v6 for socket in self.core.sockets),
            v6=any(socket.is_v6 for socket in self.core.sockets),
            try_ipv6=bool(self.loaded.globals.dns_try_ipv6),
            try_naptr=bool(self.loaded.globals.dns_try_naptr),
        )
        self.core.resolver = Resolver(self.dns, settings, self.core.now, self.core.random, {})

    def _open_sockets(self) -> None:
        for proto in PROTOCOLS:
            self.network.add_transport(proto, self.memory(proto))
        for listen in self.loaded.listen(self.options):
            host = "127.0.0.1" if listen.host in ("*", "") else listen.host
            if listen.proto == sip.PROTO_BIN:
                # No other node of a cluster is there.
                door: Any = self.loaded.modules.get("proto_bin")
                if door is not None:
                    door.opened(Socket(listen.proto, host, listen.port or door.default_port))
                continue
            socket = Socket(
                listen.proto,
                host,
                listen.port or sip.default_port(listen.proto),
                listen.advertised_address or self.loaded.globals.advertised_address or None,
                listen.advertised_port or int(self.loaded.globals.advertised_port or 0),
                listen.tag,
            )
            socket.anycast = "anycast" in listen.options
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
    `name -> fn(run, *args) -> int`. arguments: what `$argv(name)` reads. preprocessor: the command of `-p`. answers:
    what the world says, an `Answers` or the path of an answers file; None: databases in files are real. network: let
    modules reach what is outside of the process.
    Raises server.errors.LoadError with every finding when the script is wrong, answers.AnswersError, OSError.
    """

    def __init__(
        self,
        path: str,
        *,
        text: str | None = None,
        functions: dict[str, Callable[..., int]] | None = None,
        arguments: dict[str, str] | None = None,
        preprocessor: str = "",
        answers: Answers | str | None = None,
        network: bool = False,
    ) -> None:
        self.clock = Clock()
        self.sent: list[Sent] = []
        self.lookups: list[Lookup] = []
        self.events: list[Raised] = []
        self.unreachable: set[str] = set()
        self.journal = Journal(self.clock.now)
        self.answers = Answers.read(answers) if isinstance(answers, str) else answers or Answers()
        self._made_up = answers is not None
        self._network = network
        self.dns = MadeUpDns(self.answers, self.look_up)
        self._peers = Peers(self)
        self._lines = Lines(lambda line: self.journal.add(noted.LOG, line))
        self._logger = logging.getLogger("opensipspy")
        self.options = Options()
        self.options.script, self.options.text, self.options.preprocessor = path, text, preprocessor
        self.options.arguments = dict(arguments or {})
        self.options.watch = self.journal
        self.loaded: Loaded = load(self.options)
        _replace(self.loaded, functions or {})
        self.loop = VirtualLoop(self.clock, None if network else self._no_network)
        self._logs: Logs | None = None
        self.server: SimulatedServer | None = None

    # -- life

    def __enter__(self) -> Simulation:
        self._logs = Logs(self._logger, [self._lines], L_DBG if self.loaded.globals.debug_mode else self._level())
        self._logs.handler.colours = bool(self.loaded.globals.xlog_force_color)
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
        server.memory = lambda proto: MemoryTransport(self._leaves)
        server.dns = self.dns
        for name in server.open_doors():
            # Loaded for the checker's sake; a test opens no pipe and no port.
            del server.core.modules[name]
        self.server = server
        self._listen_in()
        await server.start()
        for event in server.core.events.events():
            server.core.events.listen(event.name, self._raised)
        # What startup_route and the modules asked is not a message's business.
        self.journal.run = None

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

    # -- what the script's world says

    def _listen_in(self) -> None:
        """Stand between the modules and what they ask."""
        core = self.core
        told = self._database_told
        if self._made_up:
            tables = [table for module in self.loaded.modules.values() for table in module.tables]
            core.databases = MemoryDatabases(self.answers, tables, told)
        else:
            opened = core.databases.get
            core.databases.get = lambda url: _noted_database(opened(url), told)
        rest, programs = self.loaded.modules.get("rest_client"), self.loaded.modules.get("exec")
        inside = self._made_up or not self._network
        # Only here the inside of a module is replaced.
        if rest is not None and hasattr(rest, "_carry"):
            setattr(rest, "_carry", self._http if inside else self._noted_http(rest._carry))  # noqa: B010
        if programs is not None and hasattr(programs, "_execute"):
            execute = self._execute_of(programs) if inside else self._noted_program(programs._execute)
            setattr(programs, "_execute", execute)  # noqa: B010
        MemoryCaches(self.loaded.services, self.answers, self.look_up)
        plain = core.call_later

        def call_later(delay_s: float, fn: Callable[..., object], *args: Any) -> Any:
            return plain(delay_s, self._timed(fn), *args)

        core.call_later = call_later

    def _timed(self, fn: Callable[..., object]) -> Callable[..., object]:
        """A timer that is told of when something came of it."""

        def timer(*args: Any) -> object:
            before = len(self.journal.entries)
            result = fn(*args)
            if len(self.journal.entries) > before:
                self.journal.insert(before, noted.TIMER, _owner(fn))
            return result

        return timer

    def look_up(self, kind: str, question: str, answer: str, answered: bool) -> None:
        """Note what was asked outside."""
        self.lookups.append(Lookup(kind, question, answer, answered, self.clock.now_s))
        self.journal.add(noted.LOOKUP, f"{kind}: {noted.clip(question)}", noted.clip(answer))

    def _database_told(self, question: str, answer: str, answered: bool) -> None:
        shown = answer if answered else f"{answer} (the answers have nothing for it)" if self._made_up else answer
        self.look_up("database", question, shown, answered)

    def _no_network(self, what: str) -> None:
        self.look_up("network", what, f"refused: {NO_NETWORK}", False)

    def _noted_http(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        """rest_client's own request, told of."""

        async def carry(transfer: Any, method: str, url: str, *more: object) -> Any:
            code = await plain(transfer, method, url, *more)
            body = transfer.body.decode("utf-8", "replace")
            answer = f"{transfer.status} {noted.clip(body)}".rstrip() if code == 1 else f"failure {code}"
            self.look_up("http", f"{method} {url}", answer, code == 1)
            return code

        return carry

    def _noted_program(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        """exec's own program, told of."""

        async def execute(command: str, *more: object) -> Any:
            output = await plain(command, *more)
            self.look_up("exec", command, "it failed" if output is None else repr(output[0]), output is not None)
            return output

        return execute

    async def _http(self, transfer: Any, method: str, url: str, *more: object) -> int:
        """Stands for rest_client's request."""
        answer = self.answers.http_for(method, url)
        if answer is None:
            self.look_up("http", f"{method} {url}", "connection refused: no answer was given for this URL", False)
            return -1
        if answer.failure:
            self.look_up("http", f"{method} {url}", f"failure {answer.failure}", True)
            return answer.failure
        transfer.connected = True
        transfer.status, transfer.content_type = answer.status, answer.type or None
        transfer.body += answer.body.encode("utf-8", "surrogateescape")
        self.look_up("http", f"{method} {url}", f"{answer.status} {noted.clip(answer.body)}".rstrip(), True)
        return 1

    def _execute_of(self, module: Any) -> Callable[..., Any]:
        async def execute(
            command: str, stdin: str | None, out: bool, err: bool, *more: object
        ) -> tuple[bytes, bytes] | None:
            module._starting -= 1
            known, output = self.answers.command_for(command)
            if output is None:
                self.look_up("exec", command, "it cannot be run" + ("" if known else ": no answer was given"), known)
                return None
            self.look_up("exec", command, repr(output), True)
            return (output.encode("utf-8", "surrogateescape") if out else b""), b""

        return execute

    def _raised(self, name: str, params: Any) -> None:
        self.events.append(Raised(name, dict(params), self.clock.now_s))
        self.journal.add(noted.EVENT, f"{name} " + ", ".join(f"{key}={value}" for key, value in params.items()))

    def _leaves(self, data: bytes, peer: Peer, socket: Socket) -> bool:
        """A message is about to leave."""
        sent = Sent(data, peer, socket, self.clock.now_s)
        gateway = self.answers.gateway_for(peer.text) if sent.is_request else None
        if f"{peer.address}:{peer.port}" in self.unreachable or (gateway is not None and not gateway.reachable):
            self.look_up("network", f"{sent.first_line} to {peer.text}", "it cannot be sent there", True)
            return False
        self.sent.append(sent)
        self.journal.add(noted.SENT, f"{socket.text} -> {peer.text}  {sent.first_line}")
        if gateway is not None:
            self._peers.request(sent, gateway)
        return True

    def arrives(self, data: bytes, peer: Peer, socket: Socket) -> None:
        """A gateway's reply is there."""
        line = data.partition(b"\r\n")[0].decode("utf-8", "replace")
        self.journal.add("arrived", f"{peer.text} -> {socket.text}  {line}")
        assert self.server is not None
        self.server.steps.receive(data, peer, socket)

    # -- what a test does

    @property
    def log(self) -> list[str]:
        """The lines that the server wrote, `xlog()` among them."""
        return self._lines.lines

    @property
    def steps(self) -> list[Step]:
        """Each line of the script that ran."""
        return [Step(*place) for place in self.journal.lines_run()]

    @property
    def path(self) -> str:
        """Everything that has happened, in lines of the script."""
        return "\n".join(noted.render(self.journal.entries, self.lines_of, self.options.script))

    def lines_of(self, file: str) -> list[str]:
        """The lines of a file of the script."""
        return list(self.loaded.script.file_lines(file))

    @property
    def core(self) -> Any:
        if self.server is None:
            raise RuntimeError("the simulation has not begun: use it in a with statement")
        return self.server.core

    def module(self, name: str) -> Any:
        """A loaded module, to look into it or to change it."""
        return self.loaded.modules[name]

    def _marks(self) -> tuple[int, int, int, int, int]:
        self.journal.run = None
        return len(self.journal.entries), len(self.sent), len(self.log), len(self.lookups), len(self.events)

    def receive(self, message: str | bytes, source: str = "udp:192.0.2.1:5060", to: str = "") -> Outcome:
        """Let one message arrive and run until nothing is left to do now; returns what came of it.

        source: "proto:address:port". to: the text of the listening socket, "" for the first of the protocol. Line ends
        of a text may be bare.
        """
        data = message if isinstance(message, bytes) else wire(message)
        peer = parse_peer(source)
        socket = self._socket(peer.proto, to)
        marks = self._marks()

        def deliver() -> None:
            assert self.server is not None
            self.server.steps.receive(data, peer, socket)

        self.loop.run_until_complete(self._settle(deliver))
        return Outcome(self, marks)

    def reply_to(self, sent: Sent, status: int, reason: str = "", headers: str = "", body: str = "") -> Outcome:
        """Let the receiver of a request answer it; headers: lines, each with CRLF."""
        marks = self._marks()
        reply = Reply(status, reason, 0.0, headers, body, "application/sdp" if body else "")
        self.loop.run_until_complete(self._settle(lambda: self._peers.answer(sent, reply)))
        return Outcome(self, marks)

    def run(
        self,
        name: str = "",
        message: str | bytes = USUAL_MESSAGE,
        *,
        kind: str = "route",
        params: Iterable[Value] = (),
        variables: dict[str, Value] | None = None,
        source: str = "udp:192.0.2.1:5060",
        to: str = "",
    ) -> Outcome:
        """Let one route run by itself for a message, without the steps before it.

        kind: "route", "branch_route", "failure_route", "onreply_route", "error_route", "local_route", "startup_route",
        "timer_route" or "event_route". params: what `$param(1)`, ... read. variables: given before, `{"$var(x)": 1}`.
        There is no transaction: for what needs one let a message arrive and a gateway answer. Raises LookupError.
        """
        route = self._route(kind, name)
        data = message if isinstance(message, bytes) else wire(message)
        peer = parse_peer(source)
        msg = sip.parse_message(data, peer, self._socket(peer.proto, to))
        run = Run(msg, route.kind, self.core.program, self.core.services)
        for text, value in (variables or {}).items():
            variable(text, self.core.catalogue).writer()(run, value)
        if name:
            run.route_stack.append((route.kind, name))
        run.params.append(tuple(params))
        marks = self._marks()
        ended: list[int] = []
        begins = route.kind == kinds.REQUEST and msg.is_request

        def done(_: Run, result: int) -> None:
            ended.append(result)
            for callback in self.core.after if begins else ():
                callback(run)

        def work() -> None:
            for callback in self.core.before if begins else ():
                callback(run)
            self.core.run_route(route, run, done)

        self.loop.run_until_complete(self._settle(work))
        outcome = Outcome(self, marks)
        outcome.run = run
        outcome.returned = ended[0] if ended else None
        return outcome

    def _route(self, kind: str, name: str) -> Any:
        known = {kinds.kind_keyword(bit): bit for bit in kinds.KINDS}
        if kind not in known:
            raise LookupError(f"there is no kind of route {kind!r}, only {', '.join(known)}")
        route = self.core.program.route(known[kind], name)
        if route is None:
            names = sorted(self.core.program.routes(known[kind]))
            near = difflib.get_close_matches(name, names, n=1)
            hint = f", did you mean {near[0]!r}?" if near else f"; there are {names}" if names else ""
            raise LookupError(f"the script has no {kind}[{name}]{hint}")
        return route

    def advance(self, seconds: float) -> Outcome:
        """Let time pass; returns what came of it."""
        marks = self._marks()
        self.loop.run_until_complete(self._pass(seconds))
        return Outcome(self, marks)

    def command(self, name: str, params: dict[str, Any] | list[Any] | None = None) -> Any:
        """Run a management command."""
        return self.loop.run_until_complete(self.core.mi.call(name, params))

    def statistic(self, name: str) -> int:
        """The value of a statistic, "core:rcv_requests" or "rcv_requests". Raises LookupError."""
        try:
            found = self.command("get_statistics", {"statistics": [name]})
        except MiError as error:
            raise LookupError(f"there is no statistic {name!r}") from error
        return int(next(iter(found.values())))

    def resolve(self, name: str, *addresses: str) -> None:
        """Let a host name have these addresses."""
        self.answers.name(name, *addresses)

    def service(self, name: str, *targets: tuple[int, int, int, str]) -> None:
        """Let an SRV name such as "_sip._udp.example.com" have (priority, weight, port, target) records."""
        self.answers.service(name, *targets)

    def gateway(self, destination: str, *replies: int | dict[str, Any] | Reply | str) -> None:
        """Let "192.0.2.20:5060" answer requests: `180, {"status": 200, "after": 2}`, "silence" or "unreachable"."""
        self.answers.gateway(destination, *replies)

    def _socket(self, proto: int, text: str) -> Socket:
        for socket in self.core.sockets:
            if socket.text == text or (not text and socket.proto == proto):
                return socket  # type: ignore[no-any-return]
        there = ", ".join(socket.text for socket in self.core.sockets)
        raise LookupError(f"the script does not listen on {text or sip.proto_name(proto)}, but on {there or 'nothing'}")

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
        before = stepper.suspensions, len(stepper.suspended), len(self.journal.entries)
        for _ in range(MADE_UP_LOOKS if self._made_up else REAL_LOOKS):
            await asyncio.sleep(0)
            if before != (stepper.suspensions, len(stepper.suspended), len(self.journal.entries)):
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


class MemoryCaches:
    """Stands between the script and its key-value stores: those of `Answers` are held here, the others are asked."""

    def __init__(self, services: Any, answers: Answers, told: Callable[[str, str, str, bool], None]) -> None:
        self._answers = answers
        self._told = told
        self._plain = {
            name: getattr(services, name)
            for name in ("cache_known", "cache_fetch", "cache_counter", "cache_store", "cache_remove", "cache_add")
        }
        for name in self._plain:
            setattr(services, name, getattr(self, name.removeprefix("cache_")))

    def known(self, storage: str) -> bool:
        return storage in self._answers.caches or bool(self._plain["cache_known"](storage))

    def fetch(self, storage: str, key: str) -> Any:
        held = self._answers.caches.get(storage)
        found = self._plain["cache_fetch"](storage, key) if held is None else held.get(key)
        return self._note("fetch", storage, key, found)

    def counter(self, storage: str, key: str) -> Any:
        held = self._answers.caches.get(storage)
        if held is None:
            return self._note("counter", storage, key, self._plain["cache_counter"](storage, key))
        return self._note("counter", storage, key, int(held[key]) if key in held else None)

    def store(self, storage: str, key: str, value: str, expire_s: int) -> Any:
        held = self._answers.caches.get(storage)
        if held is None:
            return self._note(
                f"store {value!r}", storage, key, self._plain["cache_store"](storage, key, value, expire_s)
            )
        held[key] = value
        return self._note(f"store {value!r}", storage, key, None)

    def remove(self, storage: str, key: str) -> Any:
        held = self._answers.caches.get(storage)
        if held is None:
            return self._note("remove", storage, key, self._plain["cache_remove"](storage, key))
        return self._note("remove", storage, key, held.pop(key, None) is not None)

    def add(self, storage: str, key: str, amount: int, expire_s: int) -> Any:
        held = self._answers.caches.get(storage)
        if held is None:
            return self._note(f"add {amount}", storage, key, self._plain["cache_add"](storage, key, amount, expire_s))
        held[key] = str(int(held.get(key, 0)) + amount)
        return self._note(f"add {amount}", storage, key, int(held[key]))

    def _note(self, what: str, storage: str, key: str, result: Any) -> Any:
        if not inspect.isawaitable(result):
            self._told("cache", f"{storage}: {what} {key}", "done" if what[:5] == "store" else str(result), True)
            return result
        return self._note_later(what, storage, key, result)

    async def _note_later(self, what: str, storage: str, key: str, result: Any) -> Any:
        try:
            return self._note(what, storage, key, await result)
        except OSError as error:
            self._told("cache", f"{storage}: {what} {key}", str(error), False)
            raise


def _noted_database(database: Any, told: Callable[[str, str, bool], None]) -> Any:
    """A real database whose reads and writes are told of."""
    if getattr(database, "noted", False):
        return database
    select, execute, raw = database.select, database.execute, database.raw

    async def noted_select(table: str, columns: Any, where: Any = (), order: str = "", limit: int = 0) -> Any:
        question = f"{', '.join(columns) or '*'} from {table}{conditions(where)}"
        return await _told(select(table, columns, where, order, limit), question, rows_text)

    async def noted_execute(writes: Any) -> Any:
        question = ", ".join(f"{type(write).__name__.lower()} {write.table}" for write in writes)
        return await _told(execute(writes), question, lambda counts: f"{sum(counts)} rows")

    async def noted_raw(sql: str, args: Any = ()) -> Any:
        return await _told(raw(sql, args), sql, rows_text)

    async def _told(work: Any, question: str, shown: Callable[[Any], str]) -> Any:
        try:
            result = await work
        except Exception as error:
            told(question, str(error), False)
            raise
        told(question, shown(result), True)
        return result

    database.select, database.execute, database.raw, database.noted = noted_select, noted_execute, noted_raw, True
    return database


def _owner(fn: Any) -> str:
    """Whose timer a function is: the module's name."""
    inner = getattr(getattr(fn, "__self__", None), "_fn", fn)
    parts = str(getattr(inner, "__module__", "")).split(".")
    if parts[:2] == ["opensipspy", "modules"] and len(parts) > 2:
        return parts[2]
    return "timer_route" if parts[-1] == "routes" else parts[-1]


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
        formats = frozenset(index for index, param in enumerate(decl.params) if param.takes_format)
        if formats:
            call = _with_texts(call, formats)
        for route in loaded.program.all_routes():
            environment = getattr(route.fn, "__globals__", {})
            if name in slots:
                environment[slots[name]] = _awaited(call) if decl.waits == "always" else call


def _with_texts(call: Callable[..., int], formats: frozenset[int]) -> Callable[..., int]:
    """The function, given the text of a message for arguments that the real one makes out of a format itself."""

    def given(run: Run, *args: Any) -> int:
        return call(run, *(str(arg) if n in formats and arg is not None else arg for n, arg in enumerate(args)))

    return given


def _awaited(call: Callable[..., int]) -> Callable[..., Any]:
    async def waiting(*args: Any) -> int:
        return call(*args)

    return waiting
