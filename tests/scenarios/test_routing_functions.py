"""Functions of `rr`, `uac`, `path`, `options`, `maxfwd` that no other scenario has, and Max-Breadth, by phones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.ports import free_port
from tests.scenarios.peer import Phone, Received
from tests.scenarios.server import ServerProcess

pytestmark = pytest.mark.scenario

SCRIPT = """
log_level=2
socket=udp:127.0.0.1:@port@
loadmodule "proto_udp.so"
loadmodule "signaling.so"
loadmodule "sl.so"
loadmodule "tm.so"
modparam("tm", "fr_timeout", 5)
loadmodule "rr.so"
loadmodule "maxfwd.so"
loadmodule "options.so"
modparam("options", "accept", "application/sdp")
modparam("options", "support", "path")
loadmodule "path.so"
loadmodule "sipmsgops.so"
loadmodule "uac.so"
modparam("uac", "restore_mode", "manual")
modparam("uac", "restore_passwd", "any words")
route {
	if (is_method("ACK") && t_check_trans()) {
		t_relay();
		exit;
	}
	if (has_totag()) {
		if (!loose_route()) {
			sl_send_reply(404, "Not here");
			exit;
		}
		if (check_route_param("who=trunk"))
			append_hf("X-Who: trunk\\r\\n");
		if (is_direction("upstream"))
			append_hf("X-Direction: up\\r\\n");
		else
			append_hf("X-Direction: down\\r\\n");
		uac_restore_from();
		uac_restore_to();
		t_relay();
		exit;
	}
	if (is_method("OPTIONS")) {
		if (!options_reply())
			sl_send_reply(484, "Not for me");
		exit;
	}
	switch ($hdr(X-Case)) {
	case "few":
		mf_process_maxfwd_header(20);
		if (is_maxfwd_lt(5)) {
			sl_send_reply(483, "Too few hops");
			exit;
		}
		break;
	case "hidden":
		record_route();
		add_rr_param(";who=trunk");
		uac_replace_from("Nobody", "sip:nobody@hidden.test");
		uac_replace_to("Somebody", "sip:somebody@hidden.test");
		break;
	case "preset":
		record_route_preset("127.0.0.1:@port@;room=5");
		break;
	case "counted":
		t_newtran();
		uac_inc_cseq(7);
		break;
	case "path":
		add_path("edge");
		break;
	case "received":
		add_path_received();
		break;
	case "broad":
		append_msg_branch("$hdr(X-B)");
		break;
	}
	$ru = $hdr(X-A);
	t_relay();
}
"""


class Site:
    """The server, a caller and two callees."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.caller, self.a, self.b = self.phones = [Phone(name, ("127.0.0.1", port)) for name in "xab"]

    def request(self, method: str, case: str, *more: str, max_forwards: int = 70) -> str:
        """A request for a; it knows the way to both."""
        ways = tuple(f"X-{phone.user.upper()}: sip:{phone.user}@127.0.0.1:{phone.port}" for phone in (self.a, self.b))
        headers = (f"X-Case: {case}", *ways, *more)
        text = self.caller.request(method, "sip:a@home.test", headers=headers, max_forwards=max_forwards)
        self.caller.send(text)
        return text


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("routing")
    number = free_port()
    (folder / "opensips.cfg").write_text(SCRIPT.replace("@port@", str(number)))
    server = ServerProcess(folder / "opensips.cfg", folder)
    server.start()
    yield number
    server.stop()
    assert "Traceback" not in server.log_text(), server.log_text()


@pytest.fixture
def site(port: int) -> Iterator[Site]:
    made = Site(port)
    yield made
    for phone in made.phones:
        phone.close()


def name_of(header: str) -> str:
    """From or To without its tag."""
    return header.partition(";tag")[0]


def test_names_of_a_call_are_put_back_by_the_script(site: Site) -> None:
    """uac manual, restore_mode manual: replies by themselves, requests with uac_restore_from() and uac_restore_to();
    rr manual: add_rr_param() is found by check_route_param(), is_direction() tells who speaks."""
    text = site.request("INVITE", "hidden")
    mine = Received(text.encode(), ("", 0))
    invite = site.a.expect("INVITE")
    assert name_of(invite["From"]) == "Nobody <sip:nobody@hidden.test>"
    assert name_of(invite["To"]) == "Somebody <sip:somebody@hidden.test>"
    assert ";who=trunk" in invite["Record-Route"]
    site.a.send(site.a.reply(invite, 200))
    final = site.caller.expect(200)
    assert (final["From"], name_of(final["To"])) == (mine["From"], mine["To"])
    site.caller.send(site.caller.ack(final, text))
    assert site.a.expect("ACK")["X-Direction"] == "down"
    site.caller.send(site.caller.in_dialog("INFO", text, final))
    info = site.a.expect("INFO")
    assert (info["X-Direction"], info["X-Who"]) == ("down", "trunk")
    assert (name_of(info["From"]), name_of(info["To"])) == ("<sip:nobody@hidden.test>", "<sip:somebody@hidden.test>")
    site.a.send(site.a.reply(info, 200))
    assert site.caller.expect(200)["From"] == mine["From"]
    site.a.send(site.a.callee_request("BYE", invite))
    bye = site.caller.expect("BYE")
    assert (bye["X-Direction"], bye["X-Who"]) == ("up", "trunk")
    # URIs come back; the display names of the callee's own headers are not known to be ours.
    assert (name_of(bye["From"]), name_of(bye["To"])) == (f"Somebody {mine['To']}", f"Nobody {name_of(mine['From'])}")
    site.caller.send(site.caller.reply(bye, 200))
    assert site.a.expect(200)["From"] == f"{invite['To']};tag=t{site.a.port}"


def test_a_preset_record_route(site: Site) -> None:
    """rr manual, record_route_preset: what the script says stands there, and the dialog comes back by it."""
    text = site.request("INVITE", "preset")
    invite = site.a.expect("INVITE")
    assert invite["Record-Route"].startswith(f"<sip:127.0.0.1:{site.port};room=5;lr")
    site.a.send(site.a.reply(invite, 200))
    final = site.caller.expect(200)
    site.caller.send(site.caller.ack(final, text))
    assert site.a.expect("ACK").all("Route") == []
    site.caller.send(site.caller.in_dialog("BYE", text, final))
    site.a.send(site.a.reply(site.a.expect("BYE"), 200))
    site.caller.expect(200)


def test_a_number_that_is_moved_on(site: Site) -> None:
    """uac manual, uac_inc_cseq: the callee sees the higher number, the caller its own."""
    text = site.request("INVITE", "counted")
    invite = site.a.expect("INVITE")
    assert invite["CSeq"] == "8 INVITE"
    site.a.send(site.a.reply(invite, 486, "Busy"))
    assert site.a.expect("ACK")["CSeq"] == "8 ACK"
    busy = site.caller.expect(486)
    assert busy["CSeq"] == "1 INVITE"
    site.caller.send(site.caller.ack(busy, text))


@pytest.mark.parametrize("case", ["path", "received"])
def test_a_registration_goes_through_an_edge_proxy(site: Site, case: str) -> None:
    """RFC 3327 §5.2: the registrar learns the way; `received` tells where the phone really is."""
    site.request("REGISTER", case, "Supported: path", "Path: <sip:inner.test;lr>")
    register = site.a.expect("REGISTER")
    ours, inner = register.all("Path")
    assert inner == "<sip:inner.test;lr>"
    if case == "path":
        assert ours == f"<sip:edge@127.0.0.1:{site.port};lr>"
    else:
        assert ours.startswith(f"<sip:127.0.0.1:{site.port};")
        assert f"received=sip:127.0.0.1:{site.caller.port}" in ours.replace("%3A", ":").replace("%3a", ":")
    site.a.send(site.a.reply(register, 200))
    site.caller.expect(200)


def test_what_the_server_can_do(site: Site) -> None:
    """RFC 3261 §11.2, options manual: 200 with Accept and Supported; only for the server itself."""
    site.caller.send(site.caller.request("OPTIONS", f"sip:127.0.0.1:{site.port}"))
    found = site.caller.expect(200)
    assert (found["Accept"], found["Accept-Language"], found["Supported"]) == ("application/sdp", "en", "path")
    site.caller.send(site.caller.request("OPTIONS", f"sip:user@127.0.0.1:{site.port}"))
    site.caller.expect(484)


@pytest.mark.parametrize(("hops", "passes"), [(6, True), (5, False), (1, False)])
def test_too_few_hops_left(site: Site, hops: int, passes: bool) -> None:
    """maxfwd manual, is_maxfwd_lt: what leaves is compared, one hop less than what came."""
    site.request("MESSAGE", "few", max_forwards=hops)
    if not passes:
        site.caller.expect(483)
        return
    message = site.a.expect("MESSAGE")
    assert message["Max-Forwards"] == str(hops - 1)
    site.a.send(site.a.reply(message, 200))
    site.caller.expect(200)


def test_a_fork_with_its_breadth(site: Site) -> None:
    """RFC 5393 §5.3.3: two callees share five, and a fork of two is too broad for one."""
    text = site.request("INVITE", "broad", "Max-Breadth: 5")
    invites = [phone.expect("INVITE") for phone in (site.a, site.b)]
    assert [invite["Max-Breadth"] for invite in invites] == ["3", "2"]
    for phone, invite in zip((site.a, site.b), invites, strict=True):
        phone.send(phone.reply(invite, 486, "Busy"))
        phone.expect("ACK")
    site.caller.send(site.caller.ack(site.caller.expect(486), text))
    text = site.request("INVITE", "broad", "Max-Breadth: 1")
    final = site.caller.expect(440)
    assert final.first == "SIP/2.0 440 Max-Breadth Exceeded"
    site.caller.send(site.caller.ack(final, text))
    for phone in (site.a, site.b):
        phone.expect_nothing(0.1)


def test_a_stranger_with_a_to_tag(site: Site) -> None:
    """RFC 3261 §16.4: without a Route of ours there is no dialog here."""
    with closing(Phone("m", ("127.0.0.1", site.port))) as stranger:
        stranger.send(stranger.request("BYE", "sip:a@home.test", to="<sip:a@home.test>;tag=1"))
        stranger.expect(404)
