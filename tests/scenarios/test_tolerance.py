"""What phones and simple tools write that is not quite SIP, through a proxy: calls go on, and what leaves is SIP."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.scenarios.peer import Phone
from tests.scenarios.server import ServerProcess

pytestmark = pytest.mark.scenario

SCRIPT = """
log_level=3
stderror_enabled=yes
syslog_enabled=no
socket=udp:127.0.0.1:PORT
loadmodule "proto_udp.so"
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "rr.so"
loadmodule "signaling.so"
loadmodule "sipmsgops.so"
route {
    if (has_totag()) {
        if (loose_route())
            t_relay();
        exit;
    }
    record_route();
    if ($ru =~ "^urn:service:sos")
        append_hf("X-Service: $rd\\r\\n");
    $du = $hdr(X-To);
    t_relay();
}
"""


@pytest.fixture
def pair(start_server: Callable[..., ServerProcess], free_port: Callable[[], int]) -> Iterator[tuple[Phone, Phone]]:
    """A caller and a callee with a proxy between them."""
    port = free_port()
    start_server(SCRIPT.replace("PORT", str(port)))
    caller, callee = Phone("alice", ("127.0.0.1", port)), Phone("bob", ("127.0.0.1", port))
    yield caller, callee
    caller.close()
    callee.close()


def way(callee: Phone) -> tuple[str, ...]:
    return (f"X-To: sip:127.0.0.1:{callee.port}",)


def test_bare_line_feeds_leave_as_crlf(pair: tuple[Phone, Phone]) -> None:
    """RFC 3261 §7: no line of what goes on, or back, ends in a bare LF."""
    caller, callee = pair
    caller.send(caller.request("OPTIONS", "sip:bob@example.com", headers=way(callee)).replace("\r\n", "\n"))
    there = callee.expect("OPTIONS")
    assert there.raw.count(b"\n") == there.raw.count(b"\r\n") > 5
    callee.send(callee.reply(there, 200))
    back = caller.expect(200)
    assert back.raw.count(b"\n") == back.raw.count(b"\r\n") > 5


def test_an_emergency_call_is_routed(pair: tuple[Phone, Phone]) -> None:
    """RFC 5031 §4: the Request-URI names the service; the script sends it where it is answered."""
    caller, callee = pair
    caller.send(caller.request("INVITE", "urn:service:sos.fire", headers=way(callee)))
    invite = callee.expect("INVITE")
    assert (invite.request_uri, invite["X-Service"]) == ("urn:service:sos.fire", "sos.fire")


@pytest.mark.parametrize("name", ["Жанна Б", "José (day)", "100@pbx"])
def test_names_without_quotes_go_on_as_they_came(pair: tuple[Phone, Phone], name: str) -> None:
    """RFC 4475 §3.1.2.15: it is clear what is meant."""
    caller, callee = pair
    caller.send(
        caller.request("INVITE", "sip:bob@example.com", to=f"{name} <sip:bob@example.com>", headers=way(callee))
    )
    assert callee.expect("INVITE")["To"] == f"{name} <sip:bob@example.com>"


@pytest.mark.parametrize("end", [";", ";transport=udp;"])
def test_a_call_ends_whose_contact_ends_in_a_semicolon(pair: tuple[Phone, Phone], end: str) -> None:
    """The BYE has the callee's Contact as its Request-URI, and must not be refused for it."""
    caller, callee = pair
    callee.contact = f"<sip:bob@127.0.0.1:{callee.port}{end}>"
    sent = caller.request("INVITE", "sip:bob@example.com", headers=way(callee))
    caller.send(sent)
    callee.send(callee.reply(callee.expect("INVITE"), 200))
    answer = caller.expect(200)
    caller.send(caller.ack(answer, sent))
    assert callee.expect("ACK", skip=("INVITE",)).request_uri.endswith(end)
    bye = caller.in_dialog("BYE", sent, answer)
    caller.send(bye)
    assert f"<{callee.expect('BYE', skip=('ACK', 'INVITE')).request_uri}>" == callee.contact
