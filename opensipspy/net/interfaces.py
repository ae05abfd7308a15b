"""The addresses of this machine, and what `socket=udp:*` or `socket=udp:eth0` stands for."""

from __future__ import annotations

import fcntl
import ipaddress
import socket as os_socket
import struct
from array import array
from pathlib import Path
from typing import Final

SIOCGIFCONF: Final = 0x8912
IF_INET6: Final = Path("/proc/net/if_inet6")
LINK_SCOPE: Final = 0x20
# Room for the answer of the kernel; grown until it fits.
FIRST_BYTES: Final = 4096
MOST_BYTES: Final = 1 << 20


def local_addresses() -> list[tuple[str, str]]:
    """(interface, address) of every address of this machine, IPv4 first; link-local IPv6 ones are left out.

    A link-local address means nothing without its zone, which SIP cannot write (RFC 3261 §25.1).
    """
    return [*_v4_addresses(), *_v6_addresses()]


def _v4_addresses() -> list[tuple[str, str]]:
    entry_bytes = struct.calcsize("16s24s" if struct.calcsize("P") == 8 else "16s16s")
    size = FIRST_BYTES
    with os_socket.socket(os_socket.AF_INET, os_socket.SOCK_DGRAM) as probe:
        while True:
            room = array("B", bytes(size))
            request = struct.pack("iP", size, room.buffer_info()[0])
            used = int(struct.unpack("iP", fcntl.ioctl(probe.fileno(), SIOCGIFCONF, request))[0])
            if used < size - entry_bytes or size >= MOST_BYTES:
                break
            size *= 2
    data = room.tobytes()
    found = []
    for start in range(0, used, entry_bytes):
        name = data[start : start + 16].split(b"\0", 1)[0].decode("ascii", "replace")
        found.append((name.partition(":")[0], os_socket.inet_ntoa(data[start + 20 : start + 24])))
    return found


def _v6_addresses() -> list[tuple[str, str]]:
    if not IF_INET6.exists():
        return []
    found = []
    for line in IF_INET6.read_text(encoding="ascii").splitlines():
        fields = line.split()
        if len(fields) == 6 and int(fields[3], 16) != LINK_SCOPE:
            found.append((fields[5], str(ipaddress.IPv6Address(bytes.fromhex(fields[0])))))
    return found


def expand(name: str) -> list[str]:
    """The addresses behind the host part of a listening point: "*", an interface name, or the address itself.

    "*" and an interface give every address that fits, loopback ones last so that the first is one others can reach.
    Returns [] for a text that is neither; the caller resolves it as a host name.
    """
    text = name.strip("[]")
    try:
        return [str(ipaddress.ip_address(text))]
    except ValueError:
        pass
    addresses = local_addresses()
    if name != "*":
        return [address for interface, address in addresses if interface == name]
    return sorted((address for _, address in addresses), key=lambda a: ipaddress.ip_address(a).is_loopback)


def is_address(text: str) -> bool:
    """Whether a host is an address literal, with or without brackets."""
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True
