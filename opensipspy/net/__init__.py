"""The only SIP sockets: UDP, TCP, TLS, WebSocket, SCTP, and name resolution.

Bytes come in, bytes go out, and nothing is decided here.
"""

from opensipspy.net.bin import BinTransport
from opensipspy.net.dns import (
    DnsClient,
    DnsError,
    NotFound,
    Place,
    Record,
    Resolver,
    ResolverSettings,
    name_servers,
    parse_hosts,
)
from opensipspy.net.interfaces import expand, is_address, local_addresses
from opensipspy.net.network import Network, is_loopback
from opensipspy.net.sctp import SctpTransport
from opensipspy.net.tcp import Budget, TcpConnection, TcpSettings, TcpTransport
from opensipspy.net.tls import TlsLayer, TlsTransport
from opensipspy.net.traffic import Traffic
from opensipspy.net.transport import Deliver, Hint, SocketOptions, Transport, socket_options
from opensipspy.net.udp import UdpSettings, UdpTransport

__all__ = [
    "BinTransport",
    "Budget",
    "Deliver",
    "DnsClient",
    "DnsError",
    "Hint",
    "Network",
    "NotFound",
    "Place",
    "Record",
    "Resolver",
    "ResolverSettings",
    "SctpTransport",
    "SocketOptions",
    "TcpConnection",
    "TcpSettings",
    "TcpTransport",
    "TlsLayer",
    "TlsTransport",
    "Traffic",
    "Transport",
    "UdpSettings",
    "UdpTransport",
    "expand",
    "is_address",
    "is_loopback",
    "local_addresses",
    "name_servers",
    "parse_hosts",
    "socket_options",
]
