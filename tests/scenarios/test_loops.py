"""Requests that come round in a circle end; those that were changed on their way go on (RFC 5393 §4.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.scenarios.peer import Phone
from tests.scenarios.server import ServerProcess

pytestmark = pytest.mark.scenario

SCRIPT = """
log_level=2
socket=udp:127.0.0.1:@port@
loadmodule "proto_udp.so"
loadmodule "signaling.so"
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "sipmsgops.so"
loadmodule "statistics.so"
modparam("tm", "fr_timeout", 5)
route {
	if (is_method("ACK")) {
		t_relay();
		exit;
	}
	update_stat("rounds", 1);
	switch ($rU) {
	case "fork":
		# each round makes two requests of one
		$du = "sip:127.0.0.1:@port@";
		append_msg_branch("sip:fork@127.0.0.1:@port@");
		break;
	case "first":
		$ru = "sip:second@127.0.0.1:@port@";
		break;
	case "second":
		$ru = "sip:a@127.0.0.1:@a@";
		break;
	case "service":
		if ($sp == @a@)
			$ru = "sip:b@127.0.0.1:@b@";
		else
			$du = "sip:127.0.0.1:@a@";
		break;
	}
	t_relay();
}
"""


class Site:
    def __init__(self, port: int) -> None:
        self.port = port
        self.caller, self.a, self.b = self.phones = [Phone(name, ("127.0.0.1", port)) for name in "xab"]

    def invite(self, user: str) -> str:
        text = self.caller.request("INVITE", f"sip:{user}@127.0.0.1:{self.port}")
        self.caller.send(text)
        return text


@pytest.fixture
def site(start_server: Callable[..., ServerProcess], free_port: Callable[[], int]) -> Iterator[Site]:
    made = Site(free_port())
    text = SCRIPT.replace("@port@", str(made.port))
    for phone in (made.a, made.b):
        text = text.replace(f"@{phone.user}@", str(phone.port))
    start_server(text)
    yield made
    for phone in made.phones:
        phone.close()


def test_a_fork_to_itself_does_not_double_with_each_round(site: Site) -> None:
    """RFC 5393 §3: without the check, seventy hops of two branches each would be 2^70 requests."""
    text = site.invite("fork")
    final = site.caller.expect(482, skip=(100,))
    site.caller.send(site.caller.ack(final, text))
    assert final.first == "SIP/2.0 482 Loop Detected"


def test_a_request_for_somebody_else_goes_on(site: Site) -> None:
    """A spiral: the same server, another Request-URI."""
    text = site.invite("first")
    invite = site.a.expect("INVITE")
    assert len(invite.all("Via")) == 3
    site.a.send(site.a.reply(invite, 200))
    site.caller.send(site.caller.ack(site.caller.expect(200, skip=(100,)), text))


def test_a_service_behind_the_proxy_may_send_it_back(site: Site) -> None:
    """The same Request-URI from somebody else: the script routes by the source, so that this is no loop."""
    text = site.invite("service")
    invite = site.a.expect("INVITE")
    # The application server is a proxy itself: its Via on top, the request as it came.
    head, _, rest = invite.raw.decode().partition("\r\n")
    back = f"{head}\r\nVia: SIP/2.0/UDP 127.0.0.1:{site.a.port};branch=z9hG4bKservice\r\n{rest}"
    site.a.send(back)
    callee = site.b.expect("INVITE")
    site.b.send(site.b.reply(callee, 486, "Busy"))
    site.b.expect("ACK")
    busy = site.a.expect(486, skip=(100,))
    lines = [line for line in busy.raw.decode().split("\r\n") if "z9hG4bKservice" not in line]
    site.a.send("\r\n".join(lines))
    final = site.caller.expect(486, skip=(100,))
    site.caller.send(site.caller.ack(final, text))
