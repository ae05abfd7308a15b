"""The transports of a server: what the modules proto_* say, made into sockets that can be opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from opensipspy import sip
from opensipspy.module import Module
from opensipspy.module.paths import TcpPaths
from opensipspy.module.tls import TlsDomains
from opensipspy.module.tracing import TracedTransport
from opensipspy.net import (
    BinTransport,
    Budget,
    Deliver,
    TcpSettings,
    TcpTransport,
    TlsTransport,
    Transport,
    UdpSettings,
    UdpTransport,
)
from opensipspy.net.sctp import SctpTransport
from opensipspy.server.errors import StartError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

NO: Final = ("0", "no", "off", "false", "")
NEEDS_WEBSOCKETS: Final = "the package websockets is missing: pip install 'opensipspy[ws]'"
# How many connections may wait to be taken where the script does not say: OpenSIPS's 10 are overrun by any burst, and
# who is left out tries again a second later.
BACKLOG: Final = 512
# What one node may keep waiting: whole tables are sent to one that has just started.
BIN_QUEUE_BYTES: Final = 16 << 20
# The least that one address may have open, and the least of handshakes at a time.
LEAST_CONNECTIONS: Final = 16


class Transports:
    """Makes the transport of each loaded module; connections of all protocols count against one budget."""

    def __init__(
        self, settings: Any, modules: Mapping[str, Module], deliver: Deliver, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._settings = settings
        self._modules = modules
        self._deliver = deliver
        self._loop = loop
        self._budget = Budget()

    def make(self, limits: sip.Limits, receive_buffer_bytes: int = 0) -> dict[int, Transport]:
        """Protocol -> transport. Raises StartError."""
        paths = self._paths()
        found: dict[int, Transport] = {}
        for name, make in (
            ("proto_udp", self._udp),
            ("proto_tcp", self._tcp),
            ("proto_tls", self._tls),
            ("proto_ws", self._ws),
            ("proto_wss", self._wss),
            ("proto_sctp", self._sctp),
            ("proto_bin", self._bin),
        ):
            module = self._modules.get(name)
            if module is not None:
                transport = make(module, limits, receive_buffer_bytes)
                if isinstance(transport, TcpTransport):
                    transport.paths = paths
                    if isinstance(module, TracedTransport) and module.trace_destination is not None:
                        transport.tracer = module
                found[module.protocol] = transport  # type: ignore[attr-defined]
        return found

    def _paths(self) -> TcpPaths | None:
        module = self._modules.get("tcp_mgm")
        offered = module.api() if module is not None else None
        return offered if isinstance(offered, TcpPaths) else None

    def _udp(self, module: Any, limits: sip.Limits, receive_buffer_bytes: int) -> Transport:
        settings = self._settings
        return UdpTransport(
            self._deliver,
            self._loop,
            UdpSettings(
                tos=int(settings.tos),
                receive_buffer_bytes=receive_buffer_bytes or int(settings.maxbuffer),
                multicast_ttl=int(settings.mcast_ttl),
                multicast_loopback=bool(settings.mcast_loopback),
            ),
        )

    def _sctp(self, module: Any, limits: sip.Limits, _: int) -> Transport:
        return SctpTransport(self._deliver, self._loop, max(1, int(self._settings.tcp_max_connections)))

    def _tcp(self, module: Any, limits: sip.Limits, _: int) -> Transport:
        settings = tcp_settings(self._settings, limits).but(
            max_postponed=max(1, int(module.tcp_async_max_postponed_chunks)),
            max_chunks=max(0, int(module.tcp_max_msg_chunks)),
            send_timeout_s=0.0 if module.tcp_async else milliseconds(module.tcp_send_timeout),
            crlf_pingpong=bool(module.tcp_crlf_pingpong),
        )
        return TcpTransport(self._deliver, self._loop, settings, self._budget)

    def _tls(self, module: Any, limits: sip.Limits, _: int) -> Transport:
        settings = tcp_settings(self._settings, limits)
        settings = settings.but(
            max_postponed=max(1, int(module.tls_async_max_postponed_chunks)),
            max_chunks=max(0, int(module.tls_max_msg_chunks)),
            send_timeout_s=0.0 if module.tls_async else milliseconds(module.tls_send_timeout),
            crlf_pingpong=bool(module.tls_crlf_pingpong),
            handshake_time_s=handshake_time(module, settings, "tls_handshake_timeout"),
        )
        return TlsTransport(
            self._deliver,
            self._loop,
            self._domains("proto_tls"),
            settings,
            self._budget,
            check_reuse=bool(module.cert_check_on_conn_reusage),
        )

    def _ws(self, module: Any, limits: sip.Limits, _: int) -> Transport:
        try:
            from opensipspy.net.ws import WsTransport
        except ImportError as error:
            raise StartError(f"proto_ws: {NEEDS_WEBSOCKETS}") from error
        settings = tcp_settings(self._settings, limits)
        settings = settings.but(
            max_chunks=max(0, int(module.ws_max_msg_chunks)),
            send_timeout_s=milliseconds(module.ws_send_timeout) if module.given("ws_send_timeout") else 0.0,
            handshake_time_s=handshake_time(module, settings, "ws_handshake_timeout"),
        )
        return WsTransport(
            self._deliver,
            self._loop,
            settings,
            self._budget,
            resource=module.ws_resource,
            require_origin=yes(module.require_origin),
        )

    def _wss(self, module: Any, limits: sip.Limits, _: int) -> Transport:
        try:
            from opensipspy.net.ws import WssTransport
        except ImportError as error:
            raise StartError(f"proto_wss: {NEEDS_WEBSOCKETS}") from error
        settings = tcp_settings(self._settings, limits)
        settings = settings.but(
            max_chunks=max(0, int(module.wss_max_msg_chunks)),
            send_timeout_s=milliseconds(module.wss_send_timeout) if module.given("wss_send_timeout") else 0.0,
            handshake_time_s=handshake_time(module, settings, "wss_handshake_timeout", "wss_tls_handshake_timeout"),
        )
        return WssTransport(
            self._deliver,
            self._loop,
            self._domains("proto_wss"),
            settings,
            self._budget,
            resource=module.wss_resource,
            require_origin=yes(module.require_origin),
            check_reuse=bool(module.cert_check_on_conn_reusage),
        )

    def _bin(self, module: Any, limits: sip.Limits, _: int) -> Transport:
        settings = tcp_settings(self._settings, limits).but(
            max_postponed=max(1, int(module.bin_async_max_postponed_chunks)),
            max_chunks=max(0, int(module.bin_max_msg_chunks)),
            send_timeout_s=0.0 if module.bin_async else milliseconds(module.bin_send_timeout),
            queue_bytes=BIN_QUEUE_BYTES,
        )
        made = BinTransport(module.received, self._loop, settings, self._budget, module.opened)
        module.measure(made.waiting)
        return made

    def _domains(self, name: str) -> TlsDomains:
        module = self._modules.get("tls_mgm")
        domains = module.api() if module is not None else None
        if not isinstance(domains, TlsDomains):
            raise StartError(f"module {name} needs the module tls_mgm")
        return domains


def tls_choices(module: Any) -> tuple[str, str]:
    """The names of the AVPs by which scripts choose the TLS client domain: by SIP domain, and by its own name."""
    if module is None:
        return "", ""
    return avp_name(module.client_sip_domain_avp), avp_name(module.client_tls_domain_avp)


def avp_name(text: str | None) -> str:
    """The bare name of "name", "$avp(name)" or "$bavp(name)"."""
    bare = (text or "").strip()
    if bare.startswith("$"):
        bare = bare.partition("(")[2].removesuffix(")")
    return bare


def milliseconds(value: int) -> float:
    return max(1, int(value)) / 1000


def yes(value: int | str) -> bool:
    """Whether a parameter that takes 1 and 0, or yes and no, is on."""
    return str(value).strip().lower() not in NO


def handshake_time(module: Module, settings: TcpSettings, *names: str) -> float:
    """The sum of the limits that the script sets, else the time that a message may take: 100 ms, the manual's default,
    are too short for peers far away."""
    if not any(module.given(name) for name in names):
        return settings.message_time_s
    return sum(milliseconds(getattr(module, name)) for name in names)


def tcp_settings(settings: Any, limits: sip.Limits) -> TcpSettings:
    """The limits of the script's global parameters."""
    most = max(1, int(settings.tcp_max_connections))
    share = max(LEAST_CONNECTIONS, most // 4)
    return TcpSettings(
        connect_timeout_s=milliseconds(settings.tcp_connect_timeout),
        lifetime_s=max(1, int(settings.tcp_connection_lifetime)),
        message_time_s=max(1, int(settings.tcp_max_msg_time)),
        max_connections=most,
        max_per_source=share,
        max_handshakes=share,
        backlog=max(1 if "tcp_socket_backlog" in settings.given else BACKLOG, int(settings.tcp_socket_backlog)),
        keepalive=bool(settings.tcp_keepalive),
        keepalive_idle_s=int(settings.tcp_keepidle),
        keepalive_interval_s=int(settings.tcp_keepinterval),
        keepalive_count=int(settings.tcp_keepcount),
        tos=int(settings.tos),
        limits=limits,
    )
