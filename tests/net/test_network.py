"""The choice of the socket to send from."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from opensipspy import sip
from opensipspy.net import Network, Transport
from opensipspy.sip import Peer, Socket

UDP, TCP = sip.PROTO_UDP, sip.PROTO_TCP


class Quiet(Transport):
    """Sockets that exist only here."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Peer, Socket]] = []
        self.open: list[int] = []
        self.admitted: list[int] = []

    def bind(self, socket: Socket) -> None:
        self.open.append(socket.port)

    def admit(self, socket: Socket) -> None:
        self.admitted.append(socket.port)

    def unbind(self, socket: Socket) -> None:
        self.open.remove(socket.port)

    def serve(self) -> None: ...

    def send(self, data: bytes, peer: Peer, socket: Socket, on_failure: Callable[[], None] | None) -> bool:
        self.sent.append((data, peer, socket))
        return True

    def pause(self) -> None: ...

    async def close(self) -> None: ...

    def waiting(self) -> int:
        return 7


def network(*sockets: tuple[int, str], mhomed: bool = False) -> Network:
    made = Network(mhomed=mhomed)
    made.add_transport(UDP, Quiet())
    made.add_transport(TCP, Quiet())
    for proto, address in sockets:
        made.bind(Socket(proto, address, 5060))
    return made


def chosen(made: Network, proto: int, address: str, forced: Socket | None = None) -> str:
    found = made.choose_socket(Peer(proto, address, 5060), forced)
    return found.text if found is not None else ""


def test_protocol_and_family_decide() -> None:
    made = network((UDP, "192.0.2.1"), (TCP, "192.0.2.1"), (UDP, "2001:db8::1"))
    assert chosen(made, UDP, "198.51.100.1") == "udp:192.0.2.1:5060"
    assert chosen(made, TCP, "198.51.100.1") == "tcp:192.0.2.1:5060"
    assert chosen(made, UDP, "2001:db8::9") == "udp:[2001:db8::1]:5060"
    assert chosen(made, TCP, "2001:db8::9") == ""
    assert chosen(made, sip.PROTO_TLS, "198.51.100.1") == ""


def test_a_forced_socket_wins_when_it_fits() -> None:
    made = network((UDP, "192.0.2.1"), (UDP, "192.0.2.2"), (TCP, "192.0.2.2"))
    assert chosen(made, UDP, "198.51.100.1", made.sockets[1]) == "udp:192.0.2.2:5060"
    # Another protocol: from the same address, when it has one.
    assert chosen(made, UDP, "198.51.100.1", made.sockets[2]) == "udp:192.0.2.2:5060"
    assert chosen(made, TCP, "198.51.100.1", made.sockets[0]) == "tcp:192.0.2.2:5060"


def test_the_first_socket_of_a_bond_that_fits() -> None:
    """Core manual, socket: "bond"."""
    made = network((UDP, "192.0.2.1"), (UDP, "192.0.2.2"), (TCP, "192.0.2.2"), (UDP, "2001:db8::1"))
    both = sip.bond("both", [made.sockets[2], made.sockets[1]])
    assert chosen(made, UDP, "198.51.100.1", both) == "udp:192.0.2.2:5060"
    assert chosen(made, TCP, "198.51.100.1", both) == "tcp:192.0.2.2:5060"
    assert chosen(made, UDP, "2001:db8::9", both) == "udp:[2001:db8::1]:5060"
    assert chosen(made, UDP, "198.51.100.1", sip.bond("none", [])) == "udp:192.0.2.1:5060"


def test_loopback_is_for_this_machine() -> None:
    made = network((UDP, "127.0.0.1"), (UDP, "192.0.2.1"))
    assert chosen(made, UDP, "198.51.100.1") == "udp:192.0.2.1:5060"
    assert chosen(made, UDP, "127.0.0.9") == "udp:127.0.0.1:5060"
    assert chosen(network((UDP, "127.0.0.1")), UDP, "198.51.100.1") == "udp:127.0.0.1:5060"


def test_mhomed_asks_the_routing_table() -> None:
    """To 127.0.0.1 the system sends from 127.0.0.1, whichever socket comes first."""
    made = network((UDP, "127.0.0.2"), (UDP, "127.0.0.1"), mhomed=True)
    assert chosen(made, UDP, "127.0.0.1") == "udp:127.0.0.1:5060"


def test_no_transport_for_a_protocol() -> None:
    made = network()
    with pytest.raises(LookupError):
        made.bind(Socket(sip.PROTO_TLS, "192.0.2.1", 5061))
    assert not made.send(b"", Peer(sip.PROTO_TLS, "192.0.2.1", 1), Socket(sip.PROTO_TLS, "192.0.2.1", 5061))
    assert made.waiting(UDP) == 7
    assert made.waiting(sip.PROTO_TLS) == 0


def test_sockets_come_and_go_while_the_server_runs() -> None:
    """A socket that is bound later takes messages at once; one that is closed is chosen no more."""
    made = Network()
    quiet = Quiet()
    made.add_transport(UDP, quiet)
    first, second = Socket(UDP, "192.0.2.1", 5060), Socket(UDP, "192.0.2.1", 5070)
    made.bind(first)
    made.serve()
    generation = made.generation
    made.bind(second)
    assert quiet.admitted == [5070]
    assert made.generation > generation
    made.unbind(first)
    assert (quiet.open, made.sockets, second.index) == ([5070], [second], 0)
    assert chosen(made, UDP, "198.51.100.1") == "udp:192.0.2.1:5070"
    with pytest.raises(LookupError):
        made.unbind(first)
    with pytest.raises(LookupError):
        made.unbind(Socket(sip.PROTO_TLS, "192.0.2.1", 5061))
