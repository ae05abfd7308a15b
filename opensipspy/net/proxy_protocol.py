"""The PROXY protocol: what a load balancer puts before a stream or a datagram to say for whom it speaks.

Versions 1 (one line of text) and 2 (binary) are read; version 1 is written. A header is no more than a claim of whoever
connects, so it is read only where the operator allows it (`allow_proxy_protocol` of a `socket=` line).
Source: https://www.haproxy.org/download/1.8/doc/proxy-protocol.txt
"""

from __future__ import annotations

import ipaddress
from typing import Final

V1_START: Final = b"PROXY "
V1_LONGEST: Final = 107
V2_START: Final = b"\r\n\r\n\x00\r\nQUIT\n"
V2_HEAD: Final = 16
# Addresses of both families and a few options; more is no header of a load balancer.
V2_LONGEST: Final = 2048
V2_LOCAL: Final = 0x20
V2_PROXY: Final = 0x21
# Address families of version 2, in the upper half of the byte, with the bytes of one address.
V2_FAMILIES: Final = {0x10: 4, 0x20: 16}


class ProxyError(ValueError):
    """What came looks like a header and is none."""


class Proxied:
    """For whom a proxy speaks: the real ends of the connection."""

    __slots__ = ("dst_ip", "dst_port", "src_ip", "src_port")

    def __init__(self, src_ip: str, src_port: int, dst_ip: str, dst_port: int) -> None:
        self.src_ip = src_ip
        self.src_port = src_port
        self.dst_ip = dst_ip
        self.dst_port = dst_port

    def facts(self) -> dict[str, str | int]:
        """As `$proxy_protocol` names them."""
        return {
            "src_ip": self.src_ip,
            "src_port": self.src_port,
            "dst_ip": self.dst_ip,
            "dst_port": self.dst_port,
            "af": "INET6" if ":" in self.src_ip else "INET",
        }


def read_header(data: bytes) -> tuple[int, Proxied | None]:
    """(length of the header in front of `data`, what it says).

    The length is 0 when there is none, -1 when more has to come before that is known. None: the header says nothing
    about the ends, as a health check of the proxy itself. Raises ProxyError.
    """
    if data[: len(V1_START)] == V1_START[: len(data)]:
        return _read_v1(data)
    if data[: len(V2_START)] == V2_START[: len(data)]:
        # A CRLFCRLF keep-alive begins like it; that much has to come before the two can be told apart.
        return _read_v2(data)
    return 0, None


def _read_v1(data: bytes) -> tuple[int, Proxied | None]:
    end = data.find(b"\r\n", 0, V1_LONGEST)
    if end < 0:
        if len(data) >= V1_LONGEST:
            raise ProxyError("a PROXY line without an end")
        return -1, None
    words = data[:end].decode("ascii", "replace").split(" ")
    if words[1] == "UNKNOWN":
        return end + 2, None
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6", "UDP4", "UDP6"):
        raise ProxyError("a PROXY line that cannot be read")
    return end + 2, _proxied(words[2], words[4], words[3], words[5], 6 if words[1].endswith("6") else 4)


def _proxied(src: str, src_port: str, dst: str, dst_port: str, version: int) -> Proxied:
    try:
        source, destination = ipaddress.ip_address(src), ipaddress.ip_address(dst)
    except ValueError as error:
        raise ProxyError("a PROXY header with a bad address") from error
    ports = [int(text) if text.isascii() and text.isdigit() and len(text) < 6 else -1 for text in (src_port, dst_port)]
    if {source.version, destination.version} != {version} or not all(0 <= port <= 65535 for port in ports):
        raise ProxyError("a PROXY header that contradicts itself")
    return Proxied(str(source), ports[0], str(destination), ports[1])


def _read_v2(data: bytes) -> tuple[int, Proxied | None]:
    if len(data) < V2_HEAD:
        return -1, None
    command, family = data[12], data[13]
    length = V2_HEAD + int.from_bytes(data[14:16], "big")
    if command not in (V2_LOCAL, V2_PROXY) or length > V2_LONGEST:
        raise ProxyError("a PROXY header that cannot be read")
    if len(data) < length:
        return -1, None
    size = V2_FAMILIES.get(family & 0xF0, 0)
    if command == V2_LOCAL or not size:
        return length, None
    if length < V2_HEAD + 2 * size + 4:
        raise ProxyError("a PROXY header that is too short")
    at = V2_HEAD
    source, destination = data[at : at + size], data[at + size : at + 2 * size]
    ports = data[at + 2 * size : at + 2 * size + 4]
    return length, Proxied(
        str(ipaddress.ip_address(source)),
        int.from_bytes(ports[:2], "big"),
        str(ipaddress.ip_address(destination)),
        int.from_bytes(ports[2:], "big"),
    )


def write_header(source: tuple[str, int], destination: tuple[str, int]) -> bytes:
    """A version 1 header: bytes that came from `source` to us, and now go to `destination`."""
    families = {ipaddress.ip_address(address).version for address, _ in (source, destination)}
    if len(families) > 1:
        return b"PROXY UNKNOWN\r\n"
    kind = f"TCP{families.pop()}"
    return f"PROXY {kind} {source[0]} {destination[0]} {source[1]} {destination[1]}\r\n".encode("ascii")
