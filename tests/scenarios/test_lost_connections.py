"""A peer that accepts a connection, takes the request and goes away."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import closing

import pytest

from tests.scenarios.peer import Phone
from tests.scenarios.server import ServerProcess

pytestmark = pytest.mark.scenario

# What fr_timeout ends comes after every limit of the test.
SCRIPT = """
log_level=3
tcp_connect_timeout=5000
socket=udp:127.0.0.1:@port@
socket=tcp:127.0.0.1:@port@
loadmodule "proto_udp.so"
loadmodule "proto_tcp.so"
loadmodule "tm.so"
modparam("tm", "fr_timeout", 60)
route {
	t_on_failure("spare");
	t_relay();
}
failure_route[spare] {
	if ($rU == "spare" && t_local_replied("all")) {
		$ru = "sip:spare@127.0.0.1:@spare@";
		t_relay();
	}
}
"""


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
@pytest.mark.parametrize("user", ["spare", "nobody"])
def test_a_request_that_a_lost_connection_took_along(
    start_server: Callable[..., ServerProcess], free_port: Callable[[], int], method: str, user: str
) -> None:
    """RFC 3261 §16.9 and §17.1.4: the failure is known when the connection ends, and the script may go elsewhere."""
    port = free_port()
    address = ("127.0.0.1", port)
    with (
        closing(Phone("alice", address)) as alice,
        closing(Phone("spare", address)) as spare,
        closing(socket.create_server(("127.0.0.1", 0))) as listener,
    ):
        start_server(SCRIPT.replace("@port@", str(port)).replace("@spare@", str(spare.port)))
        listener.settimeout(30)
        uri = f"sip:{user}@127.0.0.1:{listener.getsockname()[1]};transport=tcp"
        alice.send(alice.request(method, uri))
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(30)
            assert connection.recv(65535).startswith(method.encode())
        if user == "spare":
            received = spare.expect(method)
            spare.send(spare.reply(received, 200))
            alice.expect(200)
        else:
            assert alice.expect(477).status == 477
