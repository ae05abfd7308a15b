"""The PROXY protocol's headers, both versions, whole and in pieces, and what only looks like one."""

from __future__ import annotations

import socket
import struct

import pytest

from opensipspy.net.proxy_protocol import V2_START, ProxyError, read_header, write_header

V1 = b"PROXY TCP4 192.0.2.1 198.51.100.9 5070 5060\r\n"


def v2(family: int, addresses: bytes, command: int = 0x21, more: bytes = b"") -> bytes:
    body = addresses + more
    return V2_START + bytes((command, family)) + struct.pack("!H", len(body)) + body


V2 = v2(0x11, socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.9") + struct.pack("!HH", 5070, 5060))
V2_V6 = v2(
    0x21,
    socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::2")
    + struct.pack("!HH", 1, 2),
    more=b"\x04\x00\x01x",
)


@pytest.mark.parametrize("header", [V1, V2])
def test_the_ends_are_read(header: bytes) -> None:
    """§2.1 and §2.2 of the specification; what follows is not touched."""
    length, proxied = read_header(header + b"OPTIONS")
    assert length == len(header)
    assert proxied is not None
    assert proxied.facts() == {
        "src_ip": "192.0.2.1",
        "src_port": 5070,
        "dst_ip": "198.51.100.9",
        "dst_port": 5060,
        "af": "INET",
    }


def test_ipv6_and_options_of_version_2() -> None:
    length, proxied = read_header(V2_V6)
    assert length == len(V2_V6)
    assert proxied is not None
    assert (proxied.src_ip, proxied.dst_port, proxied.facts()["af"]) == ("2001:db8::1", 2, "INET6")


@pytest.mark.parametrize("header", [V1, V2, V2_V6])
def test_a_header_may_come_in_pieces(header: bytes) -> None:
    for size in range(len(header)):
        assert read_header(header[:size]) == (-1, None)


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ffff::1 ::2 1 2\r\n", v2(0, b"", 0x20)])
def test_a_header_may_say_nothing(header: bytes) -> None:
    """A health check of the proxy itself (LOCAL, UNKNOWN): the connection's own ends count."""
    assert read_header(header) == (len(header), None)


@pytest.mark.parametrize("data", [b"OPTIONS sip:x SIP/2.0\r\n", b"\r\n\r\nOPTIONS", b"\x16\x03\x01", b"PROXIES"])
def test_no_header_is_needed(data: bytes) -> None:
    assert read_header(data) == (0, None)


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY TCP4 192.0.2.1\r\n",
        b"PROXY TCP4 192.0.2.999 192.0.2.1 1 2\r\n",
        b"PROXY TCP6 192.0.2.9 192.0.2.1 1 2\r\n",
        b"PROXY TCP4 192.0.2.9 192.0.2.1 1 70000\r\n",
        b"PROXY TCP4 192.0.2.9 192.0.2.1 1 x\r\n",
        b"PROXY " + b"x" * 200,
        v2(0x11, b"\x00" * 8),
        v2(0x11, b"\x00" * 4000),
        V2_START + b"\x31\x11\x00\x00",
    ],
)
def test_what_lies_ends_the_connection(data: bytes) -> None:
    with pytest.raises(ProxyError):
        read_header(data)


def test_what_we_write_can_be_read() -> None:
    length, proxied = read_header(write_header(("2001:db8::5", 7), ("::1", 5060)))
    assert length > 0
    assert proxied is not None
    assert (proxied.src_ip, proxied.src_port, proxied.dst_ip) == ("2001:db8::5", 7, "::1")
    assert write_header(("192.0.2.1", 1), ("::1", 2)) == b"PROXY UNKNOWN\r\n"
