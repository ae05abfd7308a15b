"""From `socket=` lines to listening points."""

from __future__ import annotations

import pytest

from opensipspy import sip
from opensipspy.server.listening import Listen, ListenError, parse_listen, plan

UDP, TCP = sip.PROTO_UDP, sip.PROTO_TCP
PORTS = {UDP: 5060, TCP: 5062}


def texts(*lines: Listen, **advertised: object) -> list[str]:
    return [planned.socket.text for planned in plan(lines, PORTS, **advertised)]  # type: ignore[arg-type]


def test_the_modules_give_the_ports_that_are_missing() -> None:
    assert texts(Listen(UDP, "192.0.2.1"), Listen(TCP, "192.0.2.1"), Listen(UDP, "192.0.2.1", 5070)) == [
        "udp:192.0.2.1:5060",
        "tcp:192.0.2.1:5062",
        "udp:192.0.2.1:5070",
    ]


def test_no_protocol_means_every_loaded_one() -> None:
    assert texts(Listen(0, "192.0.2.1")) == ["udp:192.0.2.1:5060", "tcp:192.0.2.1:5062"]


def test_a_socket_that_is_named_twice_is_opened_once() -> None:
    assert texts(Listen(UDP, "127.0.0.1"), Listen(UDP, "localhost")) == ["udp:127.0.0.1:5060"]


def test_advertised_addresses_of_the_line_win() -> None:
    found = plan(
        [
            Listen(UDP, "192.0.2.1", advertised_address="sip.example.com", advertised_port=5090, tag="public"),
            Listen(UDP, "192.0.2.2"),
        ],
        PORTS,
        advertised_address="198.51.100.7",
    )
    assert (found[0].socket.via_host, found[0].socket.via_port, found[0].socket.tag) == (
        "sip.example.com",
        5090,
        "public",
    )
    assert (found[1].socket.via_host, found[1].socket.via_port) == ("198.51.100.7", 5060)


def test_a_protocol_without_its_module_is_an_error() -> None:
    with pytest.raises(ListenError, match="proto_tls"):
        plan([Listen(sip.PROTO_TLS, "192.0.2.1")], PORTS)


def test_a_name_that_does_not_resolve_is_an_error() -> None:
    with pytest.raises(ListenError, match="no address"):
        plan([Listen(UDP, "does-not-exist.invalid")], PORTS)


def test_the_command_line_s_form() -> None:
    line = parse_listen("tcp:[::1]:5070")
    assert (line.proto, line.host, line.port) == (TCP, "::1", 5070)
    line = parse_listen("eth0")
    assert (line.proto, line.host, line.port) == (0, "eth0", 0)
    for text in ("", "udp:", "udp:x:port", "udp:x:70000", "[::1"):
        with pytest.raises(ListenError):
            parse_listen(text)
