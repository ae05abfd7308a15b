"""The computed statistics of the core: load, memory, queues, limits. Nothing is asked of the server before one is read,
so that the list can be shown without a server too.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from opensipspy import sip
from opensipspy.net import SctpTransport, TcpTransport

if TYPE_CHECKING:
    from opensipspy.management import Statistics
    from opensipspy.server.server import Server

NET: Final = ("udp", "tcp", "tls")
SPANS: Final = (("load", 1), ("load1m", 60), ("load10m", 600))
KIB: Final = 1024


class Figures:
    """Declares the statistics on `stats` and answers them from `server`."""

    def __init__(self, stats: Statistics, server: Server) -> None:
        self._stats = stats
        self._server = server

    def declare(self) -> None:
        self._declare_core()
        self._declare_memory()
        self._declare_limits()

    def _declare_core(self) -> None:
        add = self._stats.computed
        add("core", "timestamp", self._uptime_s, help="Seconds since the start.")
        for name in NET:
            number = sip.proto_number(name)
            add("net", f"waiting_{name}", partial(self._waiting, number), help=f"Bytes that wait for {name}.")
        for name, seconds in SPANS:
            shown = f"{seconds} s" if seconds < 60 else f"{seconds // 60} min"
            # There is one process, so the whole server's load is its load.
            for suffix in ("", "-all", "-proc-0"):
                add("load", name + suffix, partial(self._load, seconds), help=f"CPU use of the last {shown}, percent.")
        add("load", "processes_number", lambda: 1, help="Processes of the server.")
        add("dns", "dns_total_queries", lambda: self._resolver("queries"), help="Questions to name servers.")
        add("dns", "dns_slow_queries", lambda: self._server.slow_lookups, help="Those that exceeded the threshold.")
        add("dns", "dns_failed_queries", lambda: self._resolver("failures"), help="Questions without an answer.")

    def _declare_memory(self) -> None:
        """The C server's memory pools stand for the machine's memory and what this process has of it, in bytes."""
        figures: dict[str, tuple[Callable[[], int], str]] = {
            "total_size": (lambda: memory_pages("SC_PHYS_PAGES"), "Memory of the machine."),
            "used_size": (resident_bytes, "Memory of the process."),
            "real_used_size": (resident_bytes, "Memory of the process, Python included."),
            "max_used_size": (peak_bytes, "The most that the process ever had."),
            "free_size": (lambda: memory_pages("SC_AVPHYS_PAGES"), "Memory of the machine that nobody uses."),
        }
        for name, (function, text) in figures.items():
            self._stats.computed("shmem", name, function, help=text)
            self._stats.computed("pkmem", f"0-{name}", function, help=text)

    def _declare_limits(self) -> None:
        server = self._server
        gauges: dict[str, tuple[Callable[[], int], str]] = {
            "suspended_runs": (lambda: len(server.core.stepper.suspended), "Runs of routes that wait."),
            "suspended_runs_limit": (lambda: server.core.stepper.most_suspended, "As many may wait."),
            "suspended_runs_refused": (lambda: server.core.stepper.refused, "Runs ended because too many waited."),
            "suspended_runs_timed_out": (lambda: server.core.stepper.timed_out, "Runs ended because they waited long."),
            "pending_timers": (lambda: server.core.pending_timers, "Timers of the server and its modules."),
            "log_lines_lost": (lambda: server.logs.lost, "Lines that standard error or syslog did not take."),
            "memory_kib": (lambda: peak_bytes() // KIB, "The most memory that the process ever had."),
            "udp_send_errors": (lambda: self._traffic("udp", "send_errors"), "Datagrams the system refused."),
            "udp_dropped_out": (lambda: self._traffic("udp", "dropped_out"), "Datagrams the full queue did not take."),
            "tcp_connections": (lambda: self._tcp(lambda t: len(t.connections())), "Open TCP connections."),
            "tcp_connections_limit": (lambda: self._budget(lambda t: t.settings.max_connections), "The most of them."),
            "tcp_per_source_limit": (lambda: self._budget(lambda t: t.settings.max_per_source), "From one address."),
            "tcp_connections_refused": (lambda: self._streams("refused"), "Connections beyond the limits."),
            "tcp_framing_errors": (lambda: self._tcp(lambda t: t.framing_errors), "Streams that were no SIP."),
            "tcp_failed_handshakes": (lambda: self._tcp(lambda t: t.failed_handshakes), "TLS and WebSocket, failed."),
            "tcp_handshakes": (lambda: self._budget(lambda t: t.budget.handshakes), "Handshakes of peers going on."),
            "tcp_send_errors": (lambda: self._streams("send_errors"), "Messages that could not be sent."),
            "tcp_dropped_out": (lambda: self._streams("dropped_out"), "Peers given up as they did not read."),
            "tcp_turns": (lambda: self._budget(lambda t: t.turns.waiting), "Connections that wait for their turn."),
            "sctp_associations": (lambda: self._sctp(lambda t: t.associations), "Open SCTP associations."),
            "sctp_associations_refused": (lambda: self._traffic("sctp", "refused"), "Associations beyond the limit."),
            "sctp_send_errors": (lambda: self._traffic("sctp", "send_errors"), "Messages the system refused."),
        }
        for name, (function, text) in gauges.items():
            self._stats.computed("server", name, function, help=text)

    def _uptime_s(self) -> int:
        return int(self._server.core.time() - self._server.control.started_at)

    def _waiting(self, proto: int) -> int:
        return self._server.network.waiting(proto)

    def _load(self, seconds: int) -> int:
        return self._server.load(seconds)

    def _resolver(self, name: str) -> int:
        resolver = self._server.core.resolver
        return int(getattr(resolver, name)) if resolver is not None else 0

    def _traffic(self, proto: str, name: str) -> int:
        transport = self._server.network.transport(sip.proto_number(proto))
        traffic = getattr(transport, "traffic", None)
        return int(getattr(traffic, name, 0))

    def _streams(self, name: str) -> int:
        """A count of `Traffic`, of all protocols over TCP."""
        return sum(int(getattr(transport.traffic, name)) for transport in self._server.network.streams())

    def _tcp(self, figure: Callable[[TcpTransport], int]) -> int:
        return sum(figure(transport) for transport in self._server.network.streams())

    def _sctp(self, figure: Callable[[SctpTransport], int]) -> int:
        transport = self._server.network.transport(sip.PROTO_SCTP)
        return figure(transport) if isinstance(transport, SctpTransport) else 0

    def _budget(self, figure: Callable[[TcpTransport], int]) -> int:
        """What all protocols over TCP have in common."""
        return next((figure(transport) for transport in self._server.network.streams()), 0)


def memory_pages(name: str) -> int:
    """A number of pages that the system knows by name, in bytes; 0 where it does not."""
    try:
        return os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0


def resident_bytes() -> int:
    """Memory of this process; its peak on systems that do not tell the present figure."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return peak_bytes()


def peak_bytes() -> int:
    """The most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB
