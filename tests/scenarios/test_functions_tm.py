"""Parameters, branch variables and statistics of `tm` and `sl` on running servers: one with the defaults, one where
every parameter is not its default."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from threading import Thread

import pytest

from tests.scenarios.functions import Site, way_to
from tests.scenarios.peer import Phone, Received, until

pytestmark = pytest.mark.scenario

ROUTES = """
route {
	if (is_method("ACK")) {
		t_check_trans();
		exit;
	}
	if (is_method("CANCEL")) {
		t_relay();
		exit;
	}
	switch ($hdr(X-Case)) {
	case "stateless":
		sl_send_reply($(hdr(X-Code){s.int}), "As asked");
		exit;
	case "error":
		sl_reply_error();
		exit;
	case "here":
		t_newtran();
		t_reply($(hdr(X-Code){s.int}), "As asked");
		exit;
	case "deaf":
		t_newtran();
		$var(round) = 0;
		while ($var(round) < 1000 && t_write_unix("voice/more", "@folder@/deaf"))
			$var(round) = $var(round) + 1;
		t_reply(500, "Nobody reads");
		exit;
	case "again":
		t_on_failure("again");
		break;
	case "minor":
		append_msg_branch($hdr(X-B));
		t_on_branch("minor");
		break;
	case "avp":
		$avp(story) = "route";
		t_on_reply("avp");
		t_on_failure("avp");
		break;
	case "branches":
		append_msg_branch("sip:third@home.test");
		$(msg.branch.path[1]) = "<" + $hdr(X-B) + ";lr>";
		$(msg.branch.duri[1]) = $hdr(X-B);
		$(msg.branch.q[1]) = 300;
		t_on_failure("look");
		break;
	}
	$ru = $hdr(X-A);
	t_relay();
}
branch_route[minor] {
	if ($T_branch_idx == 1)
		setbflag("minor");
}
onreply_route[avp] {
	$avp(story) = $avp(story) + " reply";
}
failure_route[avp] {
	t_reply(480, "$avp(story)");
}
failure_route[again] {
	$ru = $hdr(X-B);
	if (!t_relay())
		t_reply(480, "No more");
}
failure_route[look] {
	append_to_reply("X-Uri: $(tm.branch.uri[0]) $(tm.branch.uri[1])\\r\\n");
	append_to_reply("X-Duri: $(tm.branch.duri[0]) $(tm.branch.duri[1])\\r\\n");
	append_to_reply("X-Path: $(tm.branch.path[0]) $(tm.branch.path[1])\\r\\n");
	append_to_reply("X-Q: $(tm.branch.q[0]) $(tm.branch.q[1])\\r\\n");
	append_to_reply("X-Socket: $(tm.branch.socket[0]) $(tm.branch.socket[1])\\r\\n");
	append_to_reply("X-Type: $(tm.branch.type[0]) $(tm.branch.type[1])\\r\\n");
	append_to_reply("X-Last: $(tm.branch.last_received[0]) $(tm.branch.last_received[1])\\r\\n");
	t_reply(480, "Looked");
}
"""
USUAL = (
    """
modparam("tm", "fr_timeout", 2)
modparam("tm", "fr_inv_timeout", 2)
modparam("tm", "wt_timer", 1)
modparam("tm", "tw_append", "more: ua=$ua")
"""
    + ROUTES
)
UNUSUAL = (
    """
modparam("tm", "fr_timeout", 2)
modparam("tm", "fr_inv_timeout", 2)
modparam("tm", "T1_timer", 100)
modparam("tm", "T2_timer", 200)
modparam("tm", "auto_100trying", 0)
modparam("tm", "delete_timer", 1)
modparam("tm", "disable_6xx_block", 1)
modparam("tm", "enable_stats", 1)
modparam("tm", "local_request_route", "mine")
modparam("tm", "local_reply_route", "answered")
modparam("tm", "minor_branch_flag", "minor")
modparam("tm", "onreply_avp_mode", 1)
modparam("tm", "pass_provisional_replies", 1)
modparam("tm", "restart_fr_on_each_reply", 0)
modparam("tm", "ruri_matching", 0)
modparam("tm", "syn_branch", 0)
modparam("tm", "timer_partitions", 4)
modparam("tm", "tw_append", "more: ua=$ua")
modparam("tm", "unix_tx_timeout", 1)
modparam("tm", "via1_matching", 0)
modparam("tm", "wt_timer", 1)
route[mine] {
	xlog("made here: $rm $ru\\n");
}
route[answered] {
	xlog("answered here: $rs\\n");
}
"""
    + ROUTES
)

COUNTED = (
    """
modparam("tm", "fr_timeout", 2)
modparam("tm", "fr_inv_timeout", 2)
modparam("tm", "T1_timer", 100)
modparam("tm", "T2_timer", 200)
modparam("tm", "auto_100trying", 0)
modparam("tm", "tw_append", "more: ua=$ua")
"""
    + ROUTES
)


@pytest.fixture(scope="module")
def houses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Site]]:
    made = {
        "usual": Site(tmp_path_factory.mktemp("usual"), USUAL),
        "unusual": Site(tmp_path_factory.mktemp("unusual"), UNUSUAL),
        "counted": Site(tmp_path_factory.mktemp("counted"), COUNTED),
    }
    yield made
    for site in made.values():
        site.close()


@pytest.fixture
def usual(houses: dict[str, Site]) -> Iterator[Site]:
    yield houses["usual"]
    houses["usual"].hang_up()


@pytest.fixture
def unusual(houses: dict[str, Site]) -> Iterator[Site]:
    yield houses["unusual"]
    houses["unusual"].hang_up()


@pytest.fixture
def counted(houses: dict[str, Site]) -> Iterator[Site]:
    yield houses["counted"]
    houses["counted"].hang_up()


def ways(*phones: Phone) -> tuple[str, ...]:
    return tuple(f"X-{name}: {way_to(phone)}" for name, phone in zip("AB", phones, strict=False))


def call(site: Site, method: str, case: str, *callees: Phone) -> tuple[Phone, str]:
    """A caller who has sent a request, and what he sent."""
    caller = site.phone("caller")
    text = caller.request(method, f"sip:x@127.0.0.1:{site.port}", headers=(f"X-Case: {case}", *ways(*callees)))
    caller.send(text)
    return caller, text


def ends(caller: Phone, text: str, status: int) -> Received:
    """The final answer, acknowledged."""
    final = caller.expect(status, skip=(100, 180, 183))
    if " INVITE" in text:
        caller.send(caller.ack(final, text))
    return final


def copies(phone: Phone) -> int:
    """How many datagrams have come."""
    phone.socket.settimeout(0.2)
    number = 0
    while True:
        try:
            phone.socket.recv(65535)
        except TimeoutError:
            return number
        number += 1


def test_times_of_retransmission(usual: Site, unusual: Site) -> None:
    """RFC 3261 §17.1, T1_timer and T2_timer: how often a request is sent that nobody answers for two seconds."""
    for site, least, most in ((usual, 2, 3), (unusual, 7, 12)):
        silent = site.phone("silent")
        caller, text = call(site, "MESSAGE", "plain", silent)
        # RFC 4320 §4.2: no 408 to what is no INVITE; it is over when the transaction is.
        until(lambda site=site: site.statistics("tm")["inuse_transactions"] == 0)  # type: ignore[misc]
        assert least <= copies(silent) <= most
        caller.expect_nothing(0.05)
        assert " MESSAGE" in text


def test_a_100_of_the_server_itself(usual: Site, unusual: Site) -> None:
    """auto_100trying: the server says 100 by itself, or leaves it to the one it sends to (RFC 3261 §17.2.1)."""
    for site, first in ((usual, 100), (unusual, 183)):
        callee = site.phone("callee")
        caller, text = call(site, "INVITE", "plain", callee)
        invite = callee.expect("INVITE")
        callee.send(callee.reply(invite, 183, "Progress"))
        assert caller.receive().status == first
        callee.send(callee.reply(invite, 486, "Busy"))
        ends(caller, text, 486)


def test_another_attempt_after_a_6xx(usual: Site, unusual: Site) -> None:
    """disable_6xx_block (RFC 3261 §16.7 step 5): 6xx means that nobody else is asked, unless the script may."""
    for site, asked in ((usual, False), (unusual, True)):
        first, second = site.phone("first"), site.phone("second")
        caller, text = call(site, "INVITE", "again", first, second)
        invite = first.expect("INVITE")
        first.send(first.reply(invite, 603, "Decline"))
        first.expect("ACK", skip=("INVITE",))
        if asked:
            other = second.expect("INVITE")
            second.send(second.reply(other, 486, "Busy"))
            second.expect("ACK", skip=("INVITE",))
            ends(caller, text, 486)
        else:
            ends(caller, text, 480)
            second.expect_nothing(0.1)


def test_a_branch_that_nobody_waits_for(unusual: Site) -> None:
    """minor_branch_flag: when the other branches have failed, the minor one is cancelled."""
    first, second = unusual.phone("first"), unusual.phone("second")
    caller, text = call(unusual, "INVITE", "minor", first, second)
    invite, minor = first.expect("INVITE"), second.expect("INVITE")
    second.send(second.reply(minor, 180, "Ringing"))
    caller.expect(180)
    first.send(first.reply(invite, 486, "Busy"))
    cancel = second.expect("CANCEL", skip=("INVITE",))
    second.send(second.reply(cancel, 200))
    second.send(second.reply(minor, 487, "Cancelled"))
    ends(caller, text, 486)


def test_what_a_reply_route_does_to_avps(unusual: Site) -> None:
    """onreply_avp_mode 1: the reply route reads and changes the AVPs of the transaction."""
    callee = unusual.phone("callee")
    caller, text = call(unusual, "INVITE", "avp", callee)
    callee.send(callee.reply(callee.expect("INVITE"), 486, "Busy"))
    assert ends(caller, text, 480).first == "SIP/2.0 480 route reply"


def test_ringing_does_not_make_the_time_longer(unusual: Site) -> None:
    """restart_fr_on_each_reply 0: timer C runs from the first provisional reply, however often the phone rings."""
    callee = unusual.phone("callee")
    caller, text = call(unusual, "INVITE", "plain", callee)
    invite = callee.expect("INVITE")
    for _ in range(60):
        callee.send(callee.reply(invite, 183, "Progress"))
        callee.socket.settimeout(0.3)
        try:
            if Received(*callee.socket.recvfrom(65535)).first.startswith("CANCEL"):
                break
        except TimeoutError:
            continue
    else:
        raise AssertionError("rings for ever")
    ends(caller, text, 408)


def old_request(phone: Phone, uri: str, branch: str, number: int, callee: Phone) -> str:
    """As of RFC 2543: its branch says nothing, so that a transaction is told by its headers."""
    text = phone.request("INVITE", uri, to="<sip:x@home.test>", branch=branch, call_id=f"old{number}@{phone.port}")
    return text.replace("Max-Forwards", f"X-A: {way_to(callee)}\r\nMax-Forwards", 1)


@pytest.mark.parametrize(("which", "same"), [("usual", False), ("unusual", True)])
@pytest.mark.parametrize("changed", ["uri", "branch"])
def test_how_an_old_request_is_known_again(houses: dict[str, Site], which: str, same: bool, changed: str) -> None:
    """RFC 3261 §17.2.3; ruri_matching, via1_matching: whether the Request-URI and the topmost Via tell it, too."""
    site = houses[which]
    callee, caller = site.phone("callee"), site.phone("caller")
    number = 1 if changed == "uri" else 2
    uri, branch = f"sip:x@127.0.0.1:{site.port}", "1"
    first = old_request(caller, uri, branch, number, callee)
    caller.send(first)
    one = callee.expect("INVITE")
    callee.send(callee.reply(one, 180, "Ringing"))
    caller.expect(180)
    second = old_request(caller, uri + (";other" if changed == "uri" else ""), "2" if changed == "branch" else branch,
                         number, callee)  # fmt: skip
    caller.send(second)
    # A copy brings the last reply again; another request brings another INVITE.
    if same:
        caller.expect(180)
    else:
        other = one
        while other.all("Via")[0] == one.all("Via")[0]:
            other = callee.expect("INVITE")
        callee.send(callee.reply(other, 486, "Busy"))
    callee.send(callee.reply(one, 486, "Busy"))
    caller.expect(486, skip=(100, 180))
    site.hang_up()


@pytest.mark.parametrize(("which", "same"), [("usual", False), ("unusual", True)])
def test_branches_that_stay_the_same(houses: dict[str, Site], which: str, same: bool) -> None:
    """syn_branch 0: a request that comes again when its transaction is forgotten leaves with the branch it had."""
    site = houses[which]
    callee, caller = site.phone("callee"), site.phone("caller")
    text = caller.request("MESSAGE", f"sip:x@127.0.0.1:{site.port}", headers=ways(callee))
    caller.send(text)
    message = callee.expect("MESSAGE")
    callee.send(callee.reply(message, 200))
    caller.expect(200)
    caller.socket.settimeout(0.05)
    for _ in range(600):
        # As long as the transaction is known, a copy brings its answer again.
        caller.send(text)
        callee.socket.settimeout(0.05)
        try:
            other = Received(*callee.socket.recvfrom(65535))
            break
        except TimeoutError:
            continue
    else:
        raise AssertionError("the transaction does not end")
    callee.send(callee.reply(other, 200))
    assert (message.all("Via")[0] == other.all("Via")[0]) == same
    site.hang_up()


def test_a_program_that_does_not_read(unusual: Site) -> None:
    """unix_tx_timeout: whoever leaves the queue of the socket full loses the call, and nobody else does."""
    path = unusual.folder / "deaf"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as reader:
        reader.bind(str(path))
        caller, text = call(unusual, "INVITE", "deaf")
        other = unusual.phone("other")
        assert unusual.ask(other, "OPTIONS", "stateless", "X-Code: 200").status == 200
        assert ends(caller, text, 500).first == "SIP/2.0 500 Nobody reads"


def send_own(site: Site, callee: Phone) -> str:
    """Have the server send a MESSAGE; what the command gives back when it was answered."""
    shown: list[object] = []
    headers = f"From: <sip:me@home.test>\r\nTo: <{way_to(callee)}>\r\n"
    asking = Thread(
        target=lambda: shown.append(site.command("tm:uac_dlg", method="MESSAGE", ruri=way_to(callee), headers=headers))
    )
    asking.start()
    message = callee.expect("MESSAGE")
    callee.send(callee.reply(message, 202))
    asking.join(30)
    return str(shown)


def test_own_requests_and_replies_have_routes_by_other_names(unusual: Site) -> None:
    """local_request_route, local_reply_route: they are shown what a command sends, and what the server answers."""
    assert unusual.ask(unusual.phone("caller"), "MESSAGE", "here", "X-Code: 486").status == 486
    until(lambda: "answered here: 486" in unusual.server.log_text())
    callee = unusual.phone("callee")
    assert "202" in send_own(unusual, callee)
    until(lambda: f"made here: MESSAGE {way_to(callee)}" in unusual.server.log_text())


def test_what_a_failure_route_knows_of_its_branches(usual: Site) -> None:
    """$tm.branch.uri, .duri, .path, .q, .socket, .type, .last_received of a branch with a path and one without."""
    first, second = usual.phone("first"), usual.phone("second")
    caller, text = call(usual, "INVITE", "branches", first, second)
    one, two = first.expect("INVITE"), second.expect("INVITE")
    assert (two.request_uri, two["Route"]) == ("sip:third@home.test", f"<{way_to(second)};lr>")
    first.send(first.reply(one, 486, "Busy"))
    second.send(second.reply(two, 404, "Not Found"))
    final = ends(caller, text, 480)
    assert final["X-Uri"] == f"{way_to(first)} sip:third@home.test"
    assert final["X-Duri"] == f"<null> {way_to(second)}"
    assert final["X-Path"] == f"<null> <{way_to(second)};lr>"
    assert final["X-Q"] == "<null> 300"
    assert final["X-Socket"] == f"udp:127.0.0.1:{usual.port} udp:127.0.0.1:{usual.port}"
    assert (final["X-Type"], final["X-Last"]) == ("sip sip", "486 404")


CODES = {"2xx": 200, "3xx": 302, "4xx": 486, "5xx": 500, "6xx": 603}


def difference(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: value - before[name] for name, value in after.items() if value != before[name]}


@pytest.mark.parametrize("kind", CODES)
def test_statistics_of_a_relayed_call(counted: Site, kind: str) -> None:
    """tm manual, statistics: a transaction, its replies, and the class it ended with."""
    before = counted.statistics("tm")
    callee = counted.phone("callee")
    caller, text = call(counted, "INVITE", "plain", callee)
    invite = callee.expect("INVITE")
    assert counted.statistics("tm")["inuse_transactions"] == before["inuse_transactions"] + 1
    callee.send(callee.reply(invite, 180, "Ringing"))
    caller.expect(180)
    callee.send(callee.reply(invite, CODES[kind], "End"))
    ends(caller, text, CODES[kind])
    changes = difference(before, counted.statistics("tm"))
    # On a loaded machine something may have been sent again.
    changes = {name: value for name, value in changes.items() if not name.startswith(("retransmission", "inuse"))}
    assert changes == {"UAS_transactions": 1, "received_replies": 2, "relayed_replies": 2, f"{kind}_transactions": 1}


def test_statistics_of_what_was_answered_here(counted: Site) -> None:
    """tm manual: local_replies; an unanswered final reply is repeated (retransmission_rpl_T2)."""
    before = counted.statistics("tm")
    caller = counted.phone("caller")
    text = caller.request("INVITE", "sip:x@home.test", headers=("X-Case: here", "X-Code: 486"))
    caller.send(text)
    for _ in range(3):
        assert caller.receive().status == 486
    caller.send(caller.ack(Received(b"SIP/2.0 486 x\r\nTo: <sip:x@home.test>\r\n\r\n", ("", 0)), text))
    changes = difference(before, counted.statistics("tm"))
    assert changes["UAS_transactions"] == changes["local_replies"] == changes["4xx_transactions"] == 1
    assert changes["retransmission_rpl_T2"] >= 2
    assert "relayed_replies" not in changes


def test_statistics_of_a_call_that_nobody_answers(counted: Site) -> None:
    """tm manual: timeout_finalresponse, and each retransmission of the request by its number."""
    callee = counted.phone("callee")
    before = counted.statistics("tm")
    caller, text = call(counted, "INVITE", "plain", callee)
    ends(caller, text, 408)
    changes = difference(before, counted.statistics("tm"))
    assert changes["UAS_transactions"] == changes["timeout_finalresponse"] == changes["4xx_transactions"] == 1
    for name in ("T1_1", "T1_2", "T1_3"):
        assert changes[f"retransmission_req_{name}"] == 1
    assert changes["retransmission_req_T2"] >= 1
    assert changes["local_replies"] == 1


def test_statistics_of_a_call_that_only_rings(counted: Site) -> None:
    """tm manual: timeout_finalresponse_inv."""
    callee = counted.phone("callee")
    before = counted.statistics("tm")
    caller, text = call(counted, "INVITE", "plain", callee)
    invite = callee.expect("INVITE")
    callee.send(callee.reply(invite, 180, "Ringing"))
    ends(caller, text, 408)
    cancel = callee.expect("CANCEL", skip=("INVITE",))
    callee.send(callee.reply(cancel, 200))
    callee.send(callee.reply(invite, 487, "Cancelled"))
    changes = difference(before, counted.statistics("tm"))
    assert changes["timeout_finalresponse_inv"] == 1
    assert changes["4xx_transactions"] == 1


def test_statistics_of_own_requests(counted: Site) -> None:
    """tm manual: UAC_transactions."""
    before = counted.statistics("tm")
    send_own(counted, counted.phone("callee"))
    changes = difference(before, counted.statistics("tm"))
    assert changes["UAC_transactions"] == changes["2xx_transactions"] == changes["received_replies"] == 1
    assert "UAS_transactions" not in changes


@pytest.mark.parametrize("code", [100, 200, 302, 404, 500, 603])
def test_statistics_of_stateless_replies(usual: Site, code: int) -> None:
    """sl manual, statistics: each class of replies, and all."""
    before = usual.statistics("sl")
    caller = usual.phone("caller")
    text = caller.request("OPTIONS", "sip:x@home.test", headers=("X-Case: stateless", f"X-Code: {code}"))
    caller.send(text)
    assert caller.receive().status == code
    assert difference(before, usual.statistics("sl")) == {"sent_replies": 1, f"{code // 100}xx_replies": 1}


def test_statistics_of_stateless_errors(usual: Site) -> None:
    """sl manual: sent_err_replies; received_ACKs counts those that end here, told by the tag of the reply."""
    before = usual.statistics("sl")
    caller = usual.phone("caller")
    final = usual.ask(caller, "OPTIONS", "error")
    assert final.status >= 500
    changes = difference(before, usual.statistics("sl"))
    assert changes["sent_err_replies"] == 1
    before = usual.statistics("sl")
    assert usual.ask(caller, "INVITE", "stateless", "X-Code: 486").status == 486
    until(lambda: difference(before, usual.statistics("sl")).get("received_ACKs") == 1)
