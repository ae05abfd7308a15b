"""What `tm` lets a script do with branches, timers and other calls, in a running server with phones around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

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
loadmodule "rr.so"
loadmodule "sipmsgops.so"
modparam("tm", "fr_timeout", 3)
modparam("tm", "fr_inv_timeout", 20)
route {
	if (is_method("CANCEL")) {
		t_add_cancel_reason("Reason: SIP;cause=487;text=\\"given up\\"\\r\\n");
		t_relay();
		exit;
	}
	if (is_method("ACK") && t_check_trans()) {
		t_relay();
		exit;
	}
	if (has_totag()) {
		loose_route();
		t_relay();
		exit;
	}
	if (is_method("INFO")) {
		if (t_reply_by_callid(603, "Not today", $hdr(X-Call), "1"))
			sl_send_reply(200, "OK");
		else
			sl_send_reply(481, "No such call");
		exit;
	}
	record_route();
	$var(case) = $rU;
	$ru = "sip:a@127.0.0.1:@a@";
	switch ($var(case)) {
	case "parallel":
		append_msg_branch("sip:b@127.0.0.1:@b@");
		t_on_branch("mark");
		t_on_reply("show");
		break;
	case "serial":
		append_msg_branch("sip:b@127.0.0.1:@b@", "0.3");
		append_msg_branch("sip:c@127.0.0.1:@c@", "0.8");
		$ru_q = 500;
		serialize_branches(1);
		next_branches();
		t_on_failure("next");
		break;
	case "late":
		t_on_reply("inject");
		t_newtran();
		t_wait_for_new_branches(1);
		break;
	case "alone":
		append_msg_branch("sip:b@127.0.0.1:@b@");
		t_on_reply("alone");
		break;
	case "copy":
		t_replicate("sip:c@127.0.0.1:@c@");
		break;
	case "quick":
		$T_fr_timeout = 1;
		t_on_failure("other");
		break;
	}
	if (!t_relay())
		send_reply(500, "Cannot relay");
}
branch_route[mark] {
	$bavp(who) = "branch " + $T_branch_idx;
	if ($T_branch_idx == 1)
		setbflag("second");
	append_hf("X-Branch: $T_branch_idx\\r\\n");
}
onreply_route[show] {
	if (isbflagset("second"))
		append_hf("X-Second: yes\\r\\n");
	append_hf("X-Who: $bavp(who)\\r\\n");
}
onreply_route[inject] {
	if ($rs == 183) {
		append_msg_branch("sip:b@127.0.0.1:@b@");
		t_inject_branches("msg", "last");
	}
}
onreply_route[alone] {
	if ($rs == 183)
		t_cancel_branch("o");
}
failure_route[next] {
	if (t_check_status("486") && next_branches()) {
		t_on_failure("next");
		t_relay();
	}
}
failure_route[other] {
	if (t_check_status("408") && t_local_replied("all")) {
		$ru = "sip:b@127.0.0.1:@b@";
		t_relay();
	}
}
"""


class Site:
    """The server, a caller and three callees."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.caller, self.a, self.b, self.c = self.phones = [Phone(name, ("127.0.0.1", port)) for name in "xabc"]

    def invite(self, case: str, *headers: str) -> str:
        """Send an INVITE for one case of the script."""
        text = self.caller.request("INVITE", f"sip:{case}@127.0.0.1:{self.port}", headers=headers)
        self.caller.send(text)
        return text

    def fails(self, text: str, status: int, *skip: int) -> Received:
        """The caller hears a final failure and acknowledges it."""
        final = self.caller.expect(status, skip=(100, *skip))
        self.caller.send(self.caller.ack(final, text))
        return final

    def refuse(self, callee: Phone, invite: Received, status: int, *skip: int | str) -> None:
        callee.send(callee.reply(invite, status, "No"))
        callee.expect("ACK", skip=("INVITE", *skip))


@pytest.fixture
def site(start_server: Callable[..., ServerProcess], free_port: Callable[[], int]) -> Iterator[Site]:
    made = Site(free_port())
    text = SCRIPT.replace("@port@", str(made.port))
    for phone in (made.a, made.b, made.c):
        text = text.replace(f"@{phone.user}@", str(phone.port))
    start_server(text)
    yield made
    for phone in made.phones:
        phone.close()


def test_parallel_branches_have_routes_flags_and_variables_of_their_own(site: Site) -> None:
    """RFC 3261 §16.6; tm manual, t_on_branch, $T_branch_idx, $bavp; the best failure goes upstream (§16.7)."""
    text = site.invite("parallel")
    first, second = site.a.expect("INVITE"), site.b.expect("INVITE")
    assert (first["X-Branch"], second["X-Branch"]) == ("0", "1")
    site.b.send(site.b.reply(second, 180, "Ringing"))
    ringing = site.caller.expect(180)
    assert (ringing["X-Who"], ringing["X-Second"]) == ("branch 1", "yes")
    site.a.send(site.a.reply(first, 180, "Ringing"))
    ringing = site.caller.expect(180)
    assert (ringing["X-Who"], ringing.get("X-Second")) == ("branch 0", "")
    site.refuse(site.a, first, 486)
    site.refuse(site.b, second, 404)
    assert site.fails(text, 404)["X-Who"] == "branch 1"


def test_serial_branches_are_tried_by_their_q(site: Site) -> None:
    """Core manual, serialize_branches and next_branches: the highest q first, the next one after a failure."""
    text = site.invite("serial")
    for phone in (site.c, site.a):
        site.refuse(phone, phone.expect("INVITE"), 486)
    last = site.b.expect("INVITE")
    site.b.send(site.b.reply(last, 200))
    final = site.caller.expect(200)
    site.caller.send(site.caller.ack(final, text))
    site.b.expect("ACK")


def test_a_branch_joins_while_another_rings(site: Site) -> None:
    """tm manual, t_wait_for_new_branches and t_inject_branches: the late one answers, the early one is cancelled."""
    text = site.invite("late")
    early = site.a.expect("INVITE")
    site.a.send(site.a.reply(early, 183, "Progress"))
    late = site.b.expect("INVITE")
    assert early["Via"].partition(".")[2] != late["Via"].partition(".")[2]
    site.b.send(site.b.reply(late, 200))
    final = site.caller.expect(200, skip=(100, 183))
    site.caller.send(site.caller.ack(final, text))
    site.b.expect("ACK")
    cancel = site.a.expect("CANCEL", skip=("INVITE",))
    site.a.send(site.a.reply(cancel, 200))
    site.refuse(site.a, early, 487, "CANCEL")


def test_a_call_without_branches_that_joined_ends_with_the_last(site: Site) -> None:
    text = site.invite("late")
    early = site.a.expect("INVITE")
    site.a.send(site.a.reply(early, 183, "Progress"))
    late = site.b.expect("INVITE")
    site.refuse(site.a, early, 486)
    site.refuse(site.b, late, 480)
    site.fails(text, 480, 183)


def test_one_branch_ends_all_others(site: Site) -> None:
    """tm manual, t_cancel_branch("o")."""
    site.invite("alone")
    first, second = site.a.expect("INVITE"), site.b.expect("INVITE")
    site.b.send(site.b.reply(second, 180, "Ringing"))
    site.caller.expect(180)
    site.a.send(site.a.reply(first, 183, "Progress"))
    cancel = site.b.expect("CANCEL", skip=("INVITE",))
    site.b.send(site.b.reply(cancel, 200))
    site.refuse(site.b, second, 487, "CANCEL")
    site.a.send(site.a.reply(first, 200))
    site.caller.expect(200, skip=(183,))


def test_nobody_hears_of_a_copy(site: Site) -> None:
    """tm manual, t_replicate: whatever the copy's receiver says, only the original's answer counts."""
    text = site.invite("copy")
    original, copy = site.a.expect("INVITE"), site.c.expect("INVITE")
    site.refuse(site.c, copy, 600)
    site.a.send(site.a.reply(original, 200))
    final = site.caller.expect(200)
    site.caller.send(site.caller.ack(final, text))
    site.a.expect("ACK")


def test_a_silent_branch_is_left_for_another_after_its_own_time(site: Site) -> None:
    """tm manual, $T_fr_timeout and t_local_replied; fr_timeout itself would end the test."""
    text = site.invite("quick")
    site.a.expect("INVITE")
    other = site.b.expect("INVITE", 2.8)
    site.refuse(site.b, other, 486)
    site.fails(text, 486)


def test_a_call_is_answered_from_another_message(site: Site) -> None:
    """tm manual, t_reply_by_callid: the caller hears it, and the phone that rings is cancelled."""
    text = site.invite("other")
    invite = site.a.expect("INVITE")
    site.a.send(site.a.reply(invite, 180, "Ringing"))
    site.caller.expect(180)
    number = Received(text.encode(), ("", 0))["Call-ID"]
    site.b.send(site.b.request("INFO", f"sip:x@127.0.0.1:{site.port}", headers=(f"X-Call: {number}",)))
    site.b.expect(200)
    assert site.fails(text, 603).first == "SIP/2.0 603 Not today"
    site.a.expect("CANCEL", skip=("INVITE",))
    site.b.send(site.b.request("INFO", f"sip:x@127.0.0.1:{site.port}", headers=("X-Call: unknown",)))
    site.b.expect(481)


def test_the_caller_gives_up_and_the_phone_hears_why(site: Site) -> None:
    """RFC 3326 and tm manual, t_add_cancel_reason; after the CANCEL's 200 the INVITE ends with 487 (RFC 3261 §9.2)."""
    text = site.invite("other")
    invite = site.a.expect("INVITE")
    site.a.send(site.a.reply(invite, 180, "Ringing"))
    site.caller.expect(180)
    site.caller.send(site.caller.cancel(text))
    cancel = site.a.expect("CANCEL", skip=("INVITE",))
    assert cancel["Reason"] == 'SIP;cause=487;text="given up"'
    assert cancel["Via"] == invite["Via"]
    site.a.send(site.a.reply(cancel, 200))
    site.refuse(site.a, invite, 487, "CANCEL")
    final = site.caller.expect(487, skip=(100, 200))
    site.caller.send(site.caller.ack(final, text))


def test_reliable_provisional_replies_and_updates_pass(site: Site) -> None:
    """RFC 3262 and RFC 3311: PRACK and UPDATE travel in the early dialog as any other request."""
    text = site.invite("other", "Supported: 100rel")
    invite = site.a.expect("INVITE")
    progress = site.a.reply(invite, 183, "Progress").replace("Contact:", "Require: 100rel\r\nRSeq: 7\r\nContact:")
    site.a.send(progress)
    early = site.caller.expect(183)
    assert (early["RSeq"], early["Require"]) == ("7", "100rel")
    for number, method in ((2, "PRACK"), (3, "UPDATE")):
        site.caller.send(site.caller.in_dialog(method, text, early, cseq=number))
        asked = site.a.expect(method, skip=("INVITE",))
        site.a.send(site.a.reply(asked, 200))
        site.caller.expect(200, skip=(183,))
    site.a.send(site.a.reply(invite, 200))
    final = site.caller.expect(200, skip=(183,))
    site.caller.send(site.caller.ack(final, text))
    site.a.expect("ACK")
