"""Functions, variables and commands of `tm` that no other scenario has, with phones around a running server."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.scenarios.peer import Phone, Received
from tests.scenarios.server import ServerProcess
from tests.scenarios.test_transports_live import mi

pytestmark = pytest.mark.scenario

SCRIPT = """
log_level=2
stderror_enabled=yes
syslog_enabled=no
socket=udp:127.0.0.1:@port@
loadmodule "proto_udp.so"
loadmodule "signaling.so"
loadmodule "sl.so"
loadmodule "tm.so"
modparam("tm", "fr_timeout", 3)
modparam("tm", "fr_inv_timeout", 20)
modparam("tm", "tw_append", "more: ua=$ua; to=$rU")
loadmodule "sipmsgops.so"
loadmodule "httpd.so"
modparam("httpd", "ip", "127.0.0.1")
modparam("httpd", "port", @http@)
loadmodule "mi_http.so"
route {
	if (is_method("CANCEL")) {
		t_relay();
		exit;
	}
	if (is_method("ACK")) {
		t_check_trans();
		exit;
	}
	$var(case) = $rU;
	$ru = $hdr(X-A);
	switch ($var(case)) {
	case "body":
		append_to_reply("Content-Type: text/plain\\r\\nX-Made: here\\r\\n");
		t_reply_with_body(488, "Not like this", "G.711 only\\n");
		exit;
	case "headers":
		t_add_hdrs("X-Account: 7\\r\\n");
		break;
	case "flags":
		t_newtran();
		setflag("seen");
		t_flush_flags();
		t_on_reply("flag");
		break;
	case "branches":
		append_msg_branch($hdr(X-B));
		t_on_branch("name");
		t_on_failure("look");
		break;
	case "wait":
		t_newtran();
		t_wait_for_new_branches();
		t_on_reply("enough");
		break;
	case "cancelled":
		t_on_failure("cancelled");
		break;
	case "socket":
		t_newtran();
		t_reply(180, "Ringing");
		if (!t_write_unix("voicemail/more", $hdr(X-Socket)))
			t_reply(500, "Nobody listens");
		exit;
	case "fifo":
		t_newtran();
		t_reply(180, "Ringing");
		if (!t_write_req("voicemail/more", $hdr(X-Socket)))
			t_reply(500, "Nobody listens");
		exit;
	case "times":
		$T_fr_inv_timeout = 1;
		break;
	}
	t_relay();
}
branch_route[name] {
	$tm.branch.attr(name) = "leg" + $T_branch_idx;
	if ($T_branch_idx == 1)
		$tm.branch.flag(gateway) = 1;
}
onreply_route[flag] {
	if (isflagset("seen"))
		append_hf("X-Seen: yes\\r\\n");
}
onreply_route[enough] {
	t_wait_no_more_branches();
}
failure_route[look] {
	t_get_branch_idx_by_attr("name", "leg1", , $var(found));
	$var(text) = "found=" + $var(found) + " attr=" + $(tm.branch.attr(name)[0]) + " uri=" + $(tm.branch.uri[1]);
	$var(text) = $var(text) + " last=" + $(tm.branch.last_received[0]) + "/" + $(tm.branch.last_received[1]);
	$var(text) = $var(text) + " type=" + $(tm.branch.type[0]) + " socket=" + $(tm.branch.socket[0]);
	$var(text) = $var(text) + " flags=" + $(tm.branch.flags[1]) + " flag=" + $(tm.branch.flag(gateway)[1]);
	$var(text) = $var(text) + " active=" + $(tm.branch.last_received[0/active]) + "/" + $(tm.branch.uri[-1/active]);
	$var(text) = $var(text) + " all=" + $(tm.branch.last_received[$var(found)/all]);
	$var(text) = $var(text) + " ruri=" + $T_ruri + " code=" + $T_reply_code + "/" + $(T_branch_last_reply_code[1]);
	append_to_reply("X-Look: $var(text)\\r\\nX-Id: $T_id\\r\\n");
	t_reply(480, "Looked");
}
failure_route[cancelled] {
	if (t_was_cancelled())
		append_to_reply("X-Cancelled: yes\\r\\n");
	t_reply(487, "Request Terminated");
}
"""


class House:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.http = free_port(), free_port()
        text = SCRIPT.replace("@port@", str(self.port)).replace("@http@", str(self.http))
        (folder / "opensips.cfg").write_text(text)
        self.server = ServerProcess(folder / "opensips.cfg", folder)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Site:
    """A caller and two callees at the server of all tests."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.caller, self.a, self.b = self.phones = [Phone(name, ("127.0.0.1", house.port)) for name in "xab"]

    def invite(self, case: str, *more: str) -> str:
        headers = tuple(f"X-{p.user.upper()}: sip:{p.user}@127.0.0.1:{p.port}" for p in (self.a, self.b))
        text = self.caller.request("INVITE", f"sip:{case}@127.0.0.1:{self.house.port}", headers=(*headers, *more))
        self.caller.send(text)
        return text

    def fails(self, text: str, status: int) -> Received:
        final = self.caller.expect(status, skip=(100, 180))
        self.caller.send(self.caller.ack(final, text))
        return final

    def refuse(self, callee: Phone, invite: Received, status: int, *skip: str) -> Received:
        callee.send(callee.reply(invite, status, "No"))
        return callee.expect("ACK", skip=("INVITE", *skip))

    def command(self, name: str, **params: object) -> object:
        return mi(self.house.http, name, **params)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    made = House(tmp_path_factory.mktemp("functions"))
    made.server.start()
    yield made
    made.server.stop()
    assert "Traceback" not in made.server.log_text(), made.server.log_text()


@pytest.fixture
def site(house: House) -> Iterator[Site]:
    made = Site(house)
    yield made
    for phone in made.phones:
        phone.close()


def test_a_reply_with_a_body_and_headers(site: Site) -> None:
    """tm manual, t_reply_with_body."""
    final = site.fails(site.invite("body"), 488)
    assert (final["Content-Type"], final["X-Made"], final.body) == ("text/plain", "here", b"G.711 only\n")


def test_headers_of_the_transaction_are_in_all_its_requests(site: Site) -> None:
    """tm manual, t_add_hdrs: INVITE, CANCEL and the ACK of this hop."""
    text = site.invite("headers")
    invite = site.a.expect("INVITE")
    site.a.send(site.a.reply(invite, 180, "Ringing"))
    site.caller.expect(180)
    site.caller.send(site.caller.cancel(text))
    cancel = site.a.expect("CANCEL")
    ack = site.refuse(site.a, invite, 487, "CANCEL")
    assert (invite["X-Account"], cancel["X-Account"], ack["X-Account"]) == ("7", "7", "7")
    site.caller.expect(200)
    site.fails(text, 487)


def test_flags_set_after_the_transaction_was_made(site: Site) -> None:
    """tm manual, t_flush_flags."""
    text = site.invite("flags")
    site.refuse(site.a, site.a.expect("INVITE"), 486)
    assert site.fails(text, 486)["X-Seen"] == "yes"


def test_a_failure_route_looks_at_its_branches(site: Site) -> None:
    """tm manual, t_get_branch_idx_by_attr, $tm.branch.*, $T_ruri, $T_id, $T_branch_last_reply_code."""
    text = site.invite("branches")
    first, second = site.a.expect("INVITE"), site.b.expect("INVITE")
    site.refuse(site.a, first, 486)
    site.refuse(site.b, second, 404)
    final = site.fails(text, 480)
    values = dict(item.split("=", 1) for item in final["X-Look"].split(" "))
    assert values.pop("socket") == f"udp:127.0.0.1:{site.house.port}"
    assert values == {
        "found": "1",
        "attr": "leg0",
        "uri": second.request_uri,
        "last": "486/404",
        "type": "sip",
        "active": f"486/{second.request_uri}",
        "all": "404",
        "flags": "gateway",
        "flag": "1",
        "ruri": second.request_uri,
        "code": "404/404",
    }
    assert final["X-Id"].replace(".", "").isalnum()


def test_nobody_waits_for_further_branches(site: Site) -> None:
    """tm manual, t_wait_no_more_branches: the call ends with the branch that is there."""
    text = site.invite("wait")
    site.refuse(site.a, site.a.expect("INVITE"), 486)
    site.fails(text, 486)


def test_a_failure_route_knows_that_the_caller_gave_up(site: Site) -> None:
    """tm manual, t_was_cancelled."""
    text = site.invite("cancelled")
    invite = site.a.expect("INVITE")
    site.a.send(site.a.reply(invite, 180, "Ringing"))
    site.caller.expect(180)
    site.caller.send(site.caller.cancel(text))
    site.caller.expect(200)
    site.refuse(site.a, invite, 487, "CANCEL")
    assert site.fails(text, 487)["X-Cancelled"] == "yes"


def test_a_call_that_only_rings_ends_after_its_own_time(site: Site) -> None:
    """tm manual, $T_fr_inv_timeout; RFC 3261 §16.8: timer C ends with a CANCEL."""
    text = site.invite("times")
    invite = site.a.expect("INVITE")
    site.a.send(site.a.reply(invite, 180, "Ringing"))
    site.fails(text, 408)
    site.refuse(site.a, invite, 487, "CANCEL")


@pytest.mark.parametrize("case", ["socket", "fifo"])
def test_another_program_answers_the_call(site: Site, case: str) -> None:
    """tm manual, t_write_unix, t_write_req, tm:reply: a call is told, line by line, to who answers it over `mi`."""
    path = site.house.folder / case
    if case == "socket":
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as reader:
            reader.bind(str(path))
            reader.settimeout(10)
            text = site.invite(case, f"X-Socket: {path}", "User-Agent: phone")
            told = reader.recv(65535).decode()
    else:
        os.mkfifo(path)
        descriptor = os.open(path, os.O_RDWR)
        with os.fdopen(descriptor, "rb", buffering=0) as pipe:
            text = site.invite(case, f"X-Socket: {path}", "User-Agent: phone")
            assert select.select([pipe], [], [], 10)[0]
            told = pipe.read(65535).decode()
    lines = told.split("\n")
    assert lines[1:3] == ["sip_request.voicemail", "INVITE"]
    assert "ua: phone" in lines
    assert site.command("tm:reply", code=486, reason="Full", trans_id=lines[15], to_tag="mailbox") == "OK"
    final = site.fails(text, 486)
    assert final.first == "SIP/2.0 486 Full"
    assert final["To"].endswith(";tag=mailbox")


def test_commands_see_and_end_a_call(site: Site) -> None:
    """tm manual, tm:hash and tm:uac_cancel."""
    text = site.invite("plain")
    invite = site.a.expect("INVITE")
    site.a.send(site.a.reply(invite, 180, "Ringing"))
    site.caller.expect(180)
    shown = site.command("tm:hash")
    assert isinstance(shown, list)
    assert sum(entry["Current"] for entry in shown) >= 1
    number = Received(text.encode(), ("", 0))["Call-ID"]
    site.command("tm:uac_cancel", callid=number, cseq="1 INVITE")
    cancel = site.a.expect("CANCEL")
    site.a.send(site.a.reply(cancel, 200))
    site.refuse(site.a, invite, 487, "CANCEL")
    site.fails(text, 487)
