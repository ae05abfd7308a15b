"""The only SIP sockets: UDP, TCP and name resolution. It takes bytes in, lets bytes out, and decides nothing."""

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
from opensipspy.net.tcp import TcpConnection, TcpSettings, TcpTransport
from opensipspy.net.transport import Deliver, SocketOptions, Traffic, Transport
from opensipspy.net.udp import UdpSettings, UdpTransport

__all__ = [
    "Deliver",
    "DnsClient",
    "DnsError",
    "Network",
    "NotFound",
    "Place",
    "Record",
    "Resolver",
    "ResolverSettings",
    "SocketOptions",
    "TcpConnection",
    "TcpSettings",
    "TcpTransport",
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
]
