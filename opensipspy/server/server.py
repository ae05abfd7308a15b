"""One running server: puts the parts together, starts them in order, and takes them down again.

Start: logs, sockets (so that what arrives waits in the kernel), modules, startup_route, then packets are taken.
Stop: new work is refused, what is running gets a moment to end, modules write what they hold, everything is closed.
Each phase of the stop has its share of `STOP_LIMIT_S`, so that the whole ends in time however a back-end behaves.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import resource
import signal
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from opensipspy import __version__, sip
from opensipspy.db import DbDriver
from opensipspy.management import (
    CacheCommands,
    CoreCommands,
    EventCommands,
    LogConsumerCommands,
    MemoryCommands,
    MiError,
    ProcessInfo,
    ServerControl,
    StatisticsCommands,
    StatusCommands,
    TcpCommands,
    TcpControl,
)
from opensipspy.module import Module
from opensipspy.net import (
    DnsClient,
    Network,
    Record,
    Resolver,
    ResolverSettings,
    TcpTransport,
    name_servers,
    parse_hosts,
)
from opensipspy.server.core import ServerCore
from opensipspy.server.core_events import CoreEvents
from opensipspy.server.errors import LoadError, StartError
from opensipspy.server.figures import Figures
from opensipspy.server.listening import ListenError, Planned, plan, reverse_names
from opensipspy.server.logs import NOTICE, Logs
from opensipspy.server.memory import dump as dump_memory
from opensipspy.server.options import Options
from opensipspy.server.process import PidFile, ProcessError, Readiness, become, enter, find_ids
from opensipspy.server.profiling import Profiler
from opensipspy.server.routes import Routes
from opensipspy.server.services import Services
from opensipspy.server.steps import Steps
from opensipspy.server.stores import NamedStores, count_queries, count_stores
from opensipspy.server.transports import Transports, tls_choices
from opensipspy.server.trouble import describe_failure
from opensipspy.sip import Peer

if TYPE_CHECKING:
    from opensipspy.server.load import Loaded

LOG: Final = logging.getLogger("opensipspy.core")

# The parts of a stop, in seconds; together below the 5 s that an operator is promised.
DRAIN_S: Final = 1.5
MODULES_S: Final = 1.5
DATABASES_S: Final = 1.0
CLOSE_S: Final = 0.5
LOAD_SAMPLE_S: Final = 1.0
HOSTS_FILE: Final = "/etc/hosts"
# The environment variable that names the DNS servers to ask instead of the system's.
NAME_SERVERS: Final = "OPENSIPSPY_NAME_SERVERS"
# The server's own status, which health checks ask for: a group with one identifier.
STATUS_GROUP: Final = "core"
STATUS_RUNNING: Final = 1
STATUS_INITIALIZING: Final = -1
STATUS_TERMINATING: Final = -2


class LazyDns(DnsClient):
    """Imports the resolver's library when the first name has to be asked for: most servers start without."""

    def __init__(
        self,
        servers: list[str],
        tries: int,
        timeout_s: float,
        took: Callable[[str, float], None],
        most_servers: int = 0,
    ) -> None:
        """servers: [] for those of the system. most_servers: how many of them are asked, 0 for all.

        took(name, seconds) is told of each question answered or given up.
        """
        self._servers = servers
        self._tries = tries
        self._timeout_s = timeout_s
        self._took = took
        self._most_servers = most_servers
        self._client: DnsClient | None = None

    async def query(self, name: str, kind: str) -> list[Record]:
        if self._client is None:
            from opensipspy.net.cares import CaresClient

            self._client = CaresClient(self._servers or None, self._tries, self._timeout_s, self._most_servers)
        started = time.monotonic()
        try:
            return await self._client.query(name, kind)
        finally:
            self._took(name, time.monotonic() - started)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()


class Control(ServerControl):
    """The server as the core's management commands see it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.argv = server.options.argv
        self.started_at = server.core.time()
        self.version = f"opensipspy ({__version__} ({platform.machine()}/{platform.system().lower()}))"

    def time(self) -> float:
        return self._server.core.time()

    def processes(self) -> list[ProcessInfo]:
        sockets = ", ".join(socket.text for socket in self._server.core.sockets)
        return [ProcessInfo(0, os.getpid(), f"SIP receiver {sockets}")]

    def _own(self, pid: int | None) -> None:
        if pid not in (None, os.getpid()):
            raise MiError(404, "Bad PID")

    def log_level(self, pid: int) -> int:
        self._own(pid)
        return self._server.logs.level

    def set_log_level(self, level: int, pid: int | None = None) -> None:
        self._own(pid)
        self._server.logs.set_level(level)

    def xlog_level(self) -> int:
        return self._server.services.xlog_level()

    def set_xlog_level(self, level: int) -> None:
        self._server.services.set_xlog_level(level)

    def stop(self) -> None:
        self._server.stop()

    async def reload_routes(self) -> None:
        try:
            await self._server.reload_routes()
        except LoadError as error:
            raise MiError(500, "the script is not valid", error.text) from error


class Connections(TcpControl):
    """The open TCP connections."""

    def __init__(self, network: Network, now: Callable[[], float]) -> None:
        self._network = network
        self._now = now

    def _transports(self, proto: str | None) -> list[TcpTransport]:
        wanted = sip.proto_number(proto) if proto else 0
        return [transport for transport in self._network.streams() if wanted in (0, transport.proto)]

    def connections(self, proto: str | None) -> list[dict[str, Any]]:
        return [
            {
                "ID": connection.number,
                "Type": sip.proto_name(connection.peer.proto),
                "State": "CONN_OK" if connection.ready else "CONN_CONNECTING",
                "Remote": connection.peer.text.partition(":")[2],
                "Local": connection.socket.text.partition(":")[2],
                "Lifetime": int(connection.ends_at() - transport.now()),
            }
            for transport in self._transports(proto)
            for connection in transport.connections()
        ]

    def close(self, address: str, port: int) -> int:
        return self.close_of("", address, port)

    def close_of(self, proto: str, address: str, port: int) -> int:
        closed = 0
        for transport in self._transports(proto):
            while transport.close_peer(Peer(transport.proto, address, port)):
                closed += 1
        return closed

    def close_connection(self, number: int) -> bool:
        return any(transport.close_number(number) for transport in self._transports(None))


class Server:
    """A server with a loaded script, from start to end. `run` returns the exit status."""

    def __init__(
        self,
        options: Options,
        loaded: Loaded,
        logs: Logs,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.options = options
        self.loaded = loaded
        self.logs = logs
        self.network = Network(mhomed=bool(loaded.globals.mhomed))
        self.core = ServerCore(loop, self.network, loaded.catalogue, clock, wall_clock)
        self.core.abort = self.abort
        self.profiler = Profiler(self.core)
        self.services: Services = loaded.services
        self.steps = Steps(self.core)
        self.core.receiver = self.steps.receive
        self.core.status.add(STATUS_GROUP, status=STATUS_INITIALIZING, details="initializing")
        self.routes = Routes(self.core)
        self._reloading = asyncio.Lock()
        self.control = Control(self)
        self.readiness = Readiness(os.environ.get("NOTIFY_SOCKET", ""))
        self.started: list[Module] = []
        self.exit_status = 0
        self.slow_lookups = 0
        self._stopping = asyncio.Event()
        self._pid_files: list[PidFile] = []
        self._cpu_marks: list[tuple[float, float]] = []
        self._prepare()

    def _prepare(self) -> None:
        core = self.core
        core.globals = self.loaded.globals
        core.script_folder = "" if self.options.script in ("", "-") else os.path.dirname(self.options.script)
        core.program = self.loaded.program
        core.services = self.services
        core.modules = self.loaded.modules
        core.blacklists.define(self.loaded.globals.blacklists, dns=not self.loaded.globals.disable_dns_blacklist)
        core.databases.configure(
            version_table=self.loaded.globals.db_version_table,
            buffered_writes=self.loaded.globals.query_buffer_size,
            flush_s=self.loaded.globals.query_flush_time,
        )
        for module in core.modules.values():
            core.databases.declare(module.tables)
            if isinstance(module, DbDriver):
                core.databases.add(module)
        self.services.attach(core, self.logs)
        settings = self.loaded.globals
        if not settings.server_header:
            settings.server_header = f"Server: {self.control.version}"
        if not settings.user_agent_header:
            settings.user_agent_header = f"User-Agent: {self.control.version}"
        self.steps.check_via = bool(settings.check_via) or self.options.check_via
        self.steps.forward_strays = forwards_strays(settings, core.program)
        self.steps.accept_aliases = bool(settings.tcp_accept_aliases)
        self.steps.slow_after_s = settings.exec_msg_threshold / 1e6

    # -- start

    async def main(self, ready: Callable[[], None]) -> int:
        """Start, serve until told to stop, and take everything down. Returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self.logs.reopen)
        # A peer that closes its end is an error of that write, not the end of the process.
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        try:
            await self.start()
        except (StartError, ListenError, ProcessError) as error:
            LOG.critical("%s", error)
            self.exit_status = 1
            await self.shut_down()
            return self.exit_status
        ready()
        self.readiness.tell("READY=1")
        LOG.log(NOTICE, "ready: %s", " ".join(socket.text for socket in self.core.sockets) or "no sockets")
        await self._stopping.wait()
        self.readiness.tell("STOPPING=1")
        LOG.log(NOTICE, "stopping")
        await self.drain()
        await self.shut_down()
        LOG.log(NOTICE, "stopped")
        return self.exit_status

    async def start(self) -> None:
        """Open the sockets, start the modules, run startup_route, and begin to take packets."""
        options = self.options
        uid, gid = find_ids(options.user, options.group)
        self._limit_process()
        self._open_sockets()
        if options.chroot or self.loaded.globals.chroot:
            enter(options.chroot or self.loaded.globals.chroot, root=True)
        if options.workdir or self.loaded.globals.wdir:
            enter(options.workdir or self.loaded.globals.wdir, root=False)
        self._write_pid_files()
        become(uid, gid, options.user)
        self._start_resolver()
        Figures(self.core.stats, self).declare()
        self._register_commands()
        await self._start_modules()
        self.routes.start()
        self.network.serve()
        self.core.every(LOAD_SAMPLE_S, self._every_second)
        self._every_second()
        self.core.status.set_status(STATUS_GROUP, STATUS_RUNNING, "running")
        self.core.status.report(STATUS_GROUP, "started, ready for requests")

    def _limit_process(self) -> None:
        if self.loaded.globals.disable_core_dump:
            resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        wanted = int(self.loaded.globals.open_files_limit)
        if wanted <= 0:
            return
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft >= wanted:
            return
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
        except (OSError, ValueError) as error:
            LOG.warning("open_files_limit=%d is not possible: %s", wanted, error)

    def _write_pid_files(self) -> None:
        for path, number in ((self.options.pid_file, os.getpid()), (self.options.pgid_file, os.getpgrp())):
            if path:
                file = PidFile(path)
                file.write(number)
                self._pid_files.append(file)

    def _open_sockets(self) -> None:
        settings = self.loaded.globals
        made = Transports(settings, self.loaded.modules, self.steps.receive, self.core.loop)
        for proto, transport in made.make(self.steps.limits, self.options.receive_buffer_bytes).items():
            self.network.add_transport(proto, transport)
        self.steps.alias_profiles = "tcp_mgm" in self.loaded.modules
        self.core.tls_choices = tls_choices(self.loaded.modules.get("tls_mgm"))
        for planned in plan(
            self.loaded.listen(self.options),
            self.loaded.ports(),
            advertised_address=self.options.advertised_address or settings.advertised_address or "",
            advertised_port=int(settings.advertised_port or 0),
        ):
            self._open(planned)
        if not self.core.sockets:
            raise StartError(
                "there is nothing to listen on: the script has no socket= line that fits a loaded protocol"
            )
        for proto, host, port, subdomains in self.loaded.aliases():
            self.core.identity.add(host, port, proto, subdomains)
        if settings.auto_aliases:
            for socket in self.core.sockets:
                for name in reverse_names(socket.address):
                    self.core.identity.add(name, socket.port, socket.proto)

    def _open(self, planned: Planned) -> None:
        socket = planned.socket
        try:
            self.network.bind(socket, planned.options)
            if socket.proto in (sip.PROTO_TLS, sip.PROTO_WSS) or (planned.options and planned.options.send_proxy):
                self.core.hinting = True
        except OSError as error:
            raise StartError(f"cannot listen on {socket.text}: {error.strerror or error}") from error
        except LookupError as error:
            raise StartError(f"cannot listen on {socket.text}: no transport for {error}") from error
        if socket.proto != sip.PROTO_BIN:
            self.core.identity.add_socket(socket, planned.name, planned.subdomains)

    def _start_resolver(self) -> None:
        settings = self.loaded.globals
        try:
            with open(HOSTS_FILE, encoding="utf-8", errors="replace") as file:
                hosts = parse_hosts(file.read())
        except OSError:
            hosts = {}
        try:
            servers = name_servers(os.environ.get(NAME_SERVERS, ""))
        except ValueError as error:
            raise StartError(f"environment variable {NAME_SERVERS}: {error}") from error
        tries, timeout_s = max(0, int(settings.dns_retr_no)), max(0.0, float(settings.dns_retr_time))
        self.core.resolver = Resolver(
            LazyDns(servers, tries, timeout_s, self._looked_up, max(0, int(settings.dns_servers_no))),
            ResolverSettings(
                protocols=self.network.protocols(),
                v4=any(not socket.is_v6 for socket in self.core.sockets),
                v6=any(socket.is_v6 for socket in self.core.sockets),
                try_ipv6=bool(settings.dns_try_ipv6),
                try_naptr=bool(settings.dns_try_naptr),
            ),
            self.core.now,
            self.core.random,
            hosts,
        )

    def _looked_up(self, name: str, took_s: float) -> None:
        """A name server was asked: too slow an answer is told (`exec_dns_threshold`)."""
        threshold_s = self.loaded.globals.exec_dns_threshold / 1e6
        if not 0 < threshold_s < took_s:
            return
        self.slow_lookups += 1
        took_us = int(took_s * 1e6)
        LOG.warning("the look-up of %s took %d us", name, took_us)
        self.core.events.raise_event("E_CORE_THRESHOLD", {"source": "dns", "time": str(took_us), "extra": name})

    async def _start_modules(self) -> None:
        self.core.find_repliers()
        for module in self.loaded.in_order():
            try:
                module.bind(self.core)
            except (ValueError, LookupError) as error:
                raise StartError(f"module {module.name}: {error}") from error
        for module in self.loaded.in_order():
            try:
                await module.launch()
            except asyncio.CancelledError:
                raise
            except Exception as error:
                raise StartError(f"module {module.name} does not start: {describe_failure(error)}") from error
            self.started.append(module)

    # -- management

    def _register_commands(self) -> None:
        core = self.core
        CoreCommands(core.mi, self.control).register()
        StatisticsCommands(core.mi, core.stats).register()
        EventCommands(core.mi, core.events, core.now).register()
        StatusCommands(core.mi, core.status).register()
        TcpCommands(core.mi, Connections(self.network, core.now)).register()
        MemoryCommands(core.mi, self.control, dump_memory).register()
        core.blacklists.register(core.mi)
        if core.cachedbs:
            CacheCommands(core.mi, NamedStores(core.cachedbs)).register()
            count_stores(core.stats, core.cachedbs)
        if any(isinstance(module, DbDriver) for module in core.modules.values()):
            count_queries(core.stats, core.databases)
        CoreEvents(core, self.logs, self.loaded.globals).register()
        self.profiler.look()
        LogConsumerCommands(core.mi, {sink.name: sink for sink in self.logs.handler.sinks}).register()

    def load(self, seconds: int) -> int:
        """Processor time of the last seconds in percent of one core."""
        if len(self._cpu_marks) < 2:
            return 0
        last = self._cpu_marks[-1]
        first = self._cpu_marks[max(0, len(self._cpu_marks) - 1 - seconds)]
        elapsed = last[0] - first[0]
        return min(100, int(100 * (last[1] - first[1]) / elapsed)) if elapsed > 0 else 0

    def _every_second(self) -> None:
        self._cpu_marks.append((time.monotonic(), time.process_time()))
        if len(self._cpu_marks) > 1200:
            del self._cpu_marks[:590]
        self.logs.flush()
        self.profiler.look()

    async def reload_routes(self) -> None:
        """Read the script again and use its routes from the next message on. Raises LoadError, and changes nothing.

        Reading takes long, so it is done beside the loop; the change itself is one step of the loop.
        """
        async with self._reloading:
            again = await asyncio.to_thread(self.loaded.reload, self.options)
            self.routes.replace(again.program)
            self.steps.forward_strays = forwards_strays(self.loaded.globals, again.program)
        for warning in again.warnings:
            LOG.warning("%s", warning)
        LOG.log(NOTICE, "the routes were loaded again")

    # -- stop

    def stop(self) -> None:
        """Begin an orderly end; returns at once."""
        self._stopping.set()

    def abort(self, reason: str) -> None:
        """End with exit status 1: the script says that going on would be worse (`abort_on_assert`)."""
        LOG.critical("the server ends: %s", reason)
        self.exit_status = 1
        self.stop()

    async def drain(self) -> None:
        """Take nothing new, and give what is running a moment to end."""
        self.core.status.set_status(STATUS_GROUP, STATUS_TERMINATING, "terminating")
        self.core.status.report(STATUS_GROUP, "terminating")
        self.steps.draining = True
        self.routes.close()
        for transport in self.network.streams():
            transport.pause()
        end = self.core.now() + DRAIN_S
        while self.core.now() < end and (self.core.stepper.suspended or self._unfinished()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        left = self._unfinished()
        if left:
            LOG.log(NOTICE, "%d transactions were not answered in time for the stop", left)
        self.network.pause()
        self.core.stepper.cancel_all()

    def _unfinished(self) -> int:
        """Work that modules would like to end before they are stopped."""
        count = 0
        for module in self.started:
            unfinished = getattr(module, "unfinished", None)
            if callable(unfinished):
                count += int(unfinished())
        return count

    async def shut_down(self) -> None:
        """Stop the modules, flush the databases and close the sockets, each within its share of time."""
        end = self.core.now() + MODULES_S
        for module in reversed(self.started):
            await self._within(module.shutdown(), max(0.1, end - self.core.now()), f"module {module.name}")
        self.started.clear()
        await self._within(self._close_databases(), DATABASES_S, "databases")
        await self.core.cancel_tasks()
        await self._within(self.network.close(), CLOSE_S, "sockets")
        if self.core.resolver is not None:
            await self._within(self.core.resolver.close(), CLOSE_S, "resolver")
        # What connections still hold gets one turn of the loop to leave.
        await asyncio.sleep(0)
        for file in self._pid_files:
            file.remove()
        self.logs.flush()

    async def _close_databases(self) -> None:
        # Queued writes of a database that stands on a store (db_cachedb) leave before the store is closed.
        for error in await self.core.databases.close():
            LOG.error("database: %s", error)
        for failure in await self.core.cachedbs.close():
            LOG.error("key-value store: %s", failure)

    async def _within(self, work: Awaitable[None], limit_s: float, name: str) -> None:
        try:
            await asyncio.wait_for(work, limit_s)
        except TimeoutError:
            LOG.error("%s did not end within %.1f s", name, limit_s)
        except Exception as error:  # noqa: BLE001 - the others are stopped all the same
            LOG.error("%s: %s", name, describe_failure(error))


def forwards_strays(settings: Any, program: Any) -> bool:
    """Whether replies without a transaction are forwarded: when the operator says so (`disable_stateless_fwd`), else
    when the script forwards requests without one. RFC 6026 §8.9 wants strays dropped otherwise."""
    if "disable_stateless_fwd" in settings.given:
        return not settings.disable_stateless_fwd
    return ("call", "forward") in program.image.recipes.values()
