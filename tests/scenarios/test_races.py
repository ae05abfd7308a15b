"""Messages that cross, come twice or do not come at all: what every phone around a proxy hears in the end."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.scenarios.peer import Phone, Received
from tests.scenarios.server import ServerProcess

pytestmark = pytest.mark.scenario

# One server for all tests: each has phones of its own, which the request names. The script waits for as long as a
# name server or a database may.
SCRIPT = """
log_level=2
socket=udp:127.0.0.1:@port@
loadmodule "proto_udp.so"
loadmodule "signaling.so"
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "rr.so"
loadmodule "sipmsgops.so"
loadmodule "cfgutils.so"
modparam("tm", "fr_timeout", 2)
modparam("tm", "fr_inv_timeout", 20)
route {
	if (is_method("CANCEL")) {
		if (t_check_trans())
			t_relay();
		exit;
	}
	if (is_method("ACK") && t_check_trans()) {
		t_relay();
		exit;
	}
	if (has_totag()) {
		loose_route();
		if (!t_relay())
			send_reply(500, "Cannot relay");
		exit;
	}
	if (is_method("INVITE"))
		record_route();
	$var(case) = $rU;
	$ru = $hdr(X-A);
	switch ($var(case)) {
	case "both":
		append_msg_branch($hdr(X-B));
		break;
	case "wait":
		t_newtran();
		async(sleep(1), late);
		exit;
	case "next":
		t_on_failure("wait");
		break;
	case "here":
		t_reply(200, "Here");
		exit;
	}
	t_relay();
}
route[late] {
	t_relay();
}
failure_route[wait] {
	async(sleep(1), next);
}
route[next] {
	$ru = $hdr(X-B);
	t_relay();
}
"""


class Site:
    """The server, a caller and two callees."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.caller, self.a, self.b = self.phones = [Phone(name, ("127.0.0.1", port)) for name in "xab"]

    def ask(self, method: str, case: str = "a") -> str:
        headers = tuple(f"X-{p.user.upper()}: sip:{p.user}@127.0.0.1:{p.port}" for p in (self.a, self.b))
        text = self.caller.request(method, f"sip:{case}@127.0.0.1:{self.port}", headers=headers)
        self.caller.send(text)
        return text

    def invite(self, case: str = "a") -> str:
        return self.ask("INVITE", case)

    def acknowledge(self, text: str, status: int, *skip: int) -> Received:
        """The caller hears a final response and acknowledges it."""
        final = self.caller.expect(status, skip=(100, 180, *skip))
        self.caller.send(self.caller.ack(final, text))
        return final

    def ring(self, callee: Phone, invite: Received) -> None:
        callee.send(callee.reply(invite, 180, "Ringing"))
        self.caller.expect(180)

    def refuse(self, callee: Phone, invite: Received, status: int, *skip: int | str) -> None:
        callee.send(callee.reply(invite, status, "No"))
        callee.expect("ACK", skip=("INVITE", *skip))

    def give_up(self, text: str) -> None:
        self.caller.send(self.caller.cancel(text))
        assert self.caller.expect(200)["CSeq"].endswith("CANCEL")


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("races")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        chosen = int(probe.getsockname()[1])
    path = folder / "opensips.cfg"
    path.write_text(SCRIPT.replace("@port@", str(chosen)), encoding="utf-8")
    server = ServerProcess(path, folder)
    server.start()
    yield chosen
    server.stop()
    assert "Traceback" not in server.log_text(), server.log_text()


@pytest.fixture
def site(port: int) -> Iterator[Site]:
    made = Site(port)
    yield made
    for phone in made.phones:
        phone.close()


def test_a_cancel_before_any_response_is_held_back(site: Site) -> None:
    """RFC 3261 §9.1: no CANCEL before a provisional response; the INVITE goes on being sent until one comes."""
    text = site.invite()
    invite = site.a.expect("INVITE")
    site.give_up(text)
    site.a.expect("INVITE")
    site.a.send(site.a.reply(invite, 100, "Trying"))
    cancel = site.a.expect("CANCEL", skip=("INVITE",))
    assert (cancel["Via"], cancel.request_uri) == (invite["Via"], invite.request_uri)
    site.a.send(site.a.reply(cancel, 200))
    site.refuse(site.a, invite, 487, "CANCEL")
    site.acknowledge(text, 487)


def test_a_cancel_for_a_phone_that_says_nothing_ends_the_call(site: Site) -> None:
    """RFC 3261 §9.2 and timer B: 487 to the caller although nobody ever answered."""
    text = site.invite()
    site.a.expect("INVITE")
    site.give_up(text)
    site.acknowledge(text, 487)


def test_a_cancel_that_comes_again_is_answered_again(site: Site) -> None:
    """RFC 3261 §17.2.2: the copy has the first one's answer, and the callee hears of it once."""
    text = site.invite()
    invite = site.a.expect("INVITE")
    site.ring(site.a, invite)
    for _ in range(3):
        site.give_up(text)
    cancel = site.a.expect("CANCEL", skip=("INVITE",))
    site.a.send(site.a.reply(cancel, 200))
    site.refuse(site.a, invite, 487)
    site.acknowledge(text, 487)


def test_an_answer_that_crosses_the_cancel_is_an_answer(site: Site) -> None:
    """RFC 3261 §9.1: the caller gets the 200, acknowledges it and hangs up; the 481 for the CANCEL is nobody's."""
    text = site.invite()
    invite = site.a.expect("INVITE")
    site.ring(site.a, invite)
    site.give_up(text)
    cancel = site.a.expect("CANCEL", skip=("INVITE",))
    site.a.send(site.a.reply(invite, 200))
    site.a.send(site.a.reply(cancel, 481, "No such transaction"))
    answer = site.acknowledge(text, 200)
    assert answer["CSeq"] == "1 INVITE"
    site.a.expect("ACK", skip=("CANCEL",))
    site.caller.send(site.caller.in_dialog("BYE", text, answer))
    bye = site.a.expect("BYE", skip=("CANCEL",))
    site.a.send(site.a.reply(bye, 200))
    assert site.caller.expect(200)["CSeq"] == "2 BYE"


def test_two_phones_that_answer_at_once_are_both_heard(site: Site) -> None:
    """RFC 3261 §16.7 step 5 and RFC 6026 §7.1: each 2xx goes to the caller, who hangs up on one of the two."""
    text = site.invite("both")
    invites = [(site.a, site.a.expect("INVITE")), (site.b, site.b.expect("INVITE"))]
    for phone, invite in invites:
        phone.send(phone.reply(invite, 200))
    answers = [site.acknowledge(text, 200), site.acknowledge(text, 200)]
    assert {answer["To"].partition("tag=")[2] for answer in answers} == {f"t{site.a.port}", f"t{site.b.port}"}
    for phone, _ in invites:
        phone.expect("ACK", skip=("CANCEL", "INVITE"))
    unwanted = next(answer for answer in answers if answer["To"].endswith(f"t{site.b.port}"))
    site.caller.send(site.caller.in_dialog("BYE", text, unwanted))
    bye = site.b.expect("BYE", skip=("CANCEL",))
    site.b.send(site.b.reply(bye, 200))
    assert site.caller.expect(200)["CSeq"] == "2 BYE"


def test_an_answer_that_comes_after_the_time_out_still_reaches_the_caller(site: Site) -> None:
    """RFC 3261 §16.7 step 5: after a final response any 2xx is forwarded all the same; the dialog is the two ends'."""
    text = site.invite()
    invite = site.a.expect("INVITE")
    site.acknowledge(text, 408)
    site.a.send(site.a.reply(invite, 200))
    answer = site.acknowledge(text, 200)
    site.a.expect("ACK", skip=("INVITE",))
    site.caller.send(site.caller.in_dialog("BYE", text, answer))
    site.a.expect("BYE")


def test_a_phone_that_rings_after_the_time_out_is_told(site: Site) -> None:
    """RFC 3261 §16.8: nobody waits for it any more."""
    text = site.invite()
    invite = site.a.expect("INVITE")
    site.acknowledge(text, 408)
    site.a.send(site.a.reply(invite, 180, "Ringing"))
    cancel = site.a.expect("CANCEL", skip=("INVITE",))
    site.a.send(site.a.reply(cancel, 200))
    site.refuse(site.a, invite, 487, "CANCEL")
    site.caller.expect_nothing()


def test_copies_of_an_invite_make_one_call(site: Site) -> None:
    """RFC 3261 §17.2.1: in PROCEEDING, after a failure and after an answer a copy brings the last response again."""
    text = site.invite()
    invite = site.a.expect("INVITE")
    site.ring(site.a, invite)
    site.caller.send(text)
    site.caller.expect(180)
    site.refuse(site.a, invite, 486)
    site.caller.expect(486)
    site.caller.send(text)
    site.acknowledge(text, 486)
    site.caller.send(text)
    site.a.expect_nothing()


def test_a_copy_of_an_answered_invite_is_absorbed(site: Site) -> None:
    """RFC 6026 §7.1: ACCEPTED absorbs the INVITE; the callee repeats its 2xx, and each copy of that is forwarded."""
    text = site.invite()
    invite = site.a.expect("INVITE")
    site.a.send(site.a.reply(invite, 200))
    site.caller.expect(200)
    site.caller.send(text)
    site.caller.expect_nothing()
    site.a.send(site.a.reply(invite, 200))
    site.acknowledge(text, 200)
    site.a.expect("ACK", skip=("INVITE",))


def test_copies_of_an_invite_while_the_script_waits(site: Site) -> None:
    """RFC 3261 §17.2.3, §17.2.1: three copies are one request, and each hears 100 before the script goes on."""
    text = site.invite("wait")
    site.caller.send(text)
    site.caller.send(text)
    for _ in range(3):
        site.caller.expect(100)
    invite = site.a.expect("INVITE")
    site.refuse(site.a, invite, 486)
    site.a.expect_nothing()
    site.acknowledge(text, 486)


def test_a_cancel_while_the_script_waits(site: Site) -> None:
    """RFC 3261 §9.2: the call ends with 487, and no phone rings."""
    text = site.invite("wait")
    site.give_up(text)
    site.acknowledge(text, 487)
    site.a.expect_nothing()


def test_a_cancel_while_the_failure_route_waits(site: Site) -> None:
    """RFC 3261 §16.10: nobody is called who was not called before; what the phone said is what the caller hears."""
    text = site.invite("next")
    site.refuse(site.a, site.a.expect("INVITE"), 486)
    site.give_up(text)
    site.acknowledge(text, 486)
    site.b.expect_nothing()


def test_a_bye_that_overtakes_the_ack(site: Site) -> None:
    """RFC 3261 §15.1.1 forbids it to no proxy: both pass, in the order that they came."""
    text = site.invite()
    invite = site.a.expect("INVITE")
    site.a.send(site.a.reply(invite, 200))
    answer = site.caller.expect(200)
    site.caller.send(site.caller.in_dialog("BYE", text, answer))
    bye = site.a.expect("BYE")
    site.a.send(site.a.reply(bye, 200))
    assert site.caller.expect(200)["CSeq"] == "2 BYE"
    site.caller.send(site.caller.ack(answer, text))
    assert site.a.expect("ACK")["CSeq"] == "1 ACK"


def test_both_hang_up_at_once(site: Site) -> None:
    text = site.invite()
    invite = site.a.expect("INVITE")
    site.a.send(site.a.reply(invite, 200))
    answer = site.acknowledge(text, 200)
    site.a.expect("ACK")
    site.caller.send(site.caller.in_dialog("BYE", text, answer))
    site.a.send(site.a.callee_request("BYE", invite))
    there, back = site.a.expect("BYE"), site.caller.expect("BYE")
    site.a.send(site.a.reply(there, 200))
    site.caller.send(site.caller.reply(back, 481, "Gone"))
    site.caller.expect(200)
    site.a.expect(481)


def test_both_change_the_session_at_once(site: Site) -> None:
    """RFC 3261 §14.1: two INVITEs of one dialog are two transactions, and 491 is for the two ends."""
    text = site.invite()
    invite = site.a.expect("INVITE")
    site.a.send(site.a.reply(invite, 200))
    answer = site.acknowledge(text, 200)
    site.a.expect("ACK")
    site.caller.send(site.caller.in_dialog("INVITE", text, answer))
    site.a.send(site.a.callee_request("INVITE", invite))
    there, back = site.a.expect("INVITE"), site.caller.expect("INVITE", skip=(100,))
    site.a.send(site.a.reply(there, 491, "Request Pending"))
    site.caller.send(site.caller.reply(back, 491, "Request Pending"))
    assert site.caller.expect(491, skip=("ACK", "INVITE", 100))["CSeq"] == "2 INVITE"
    assert site.a.expect(491, skip=("ACK", "INVITE", 100))["CSeq"] == "1 INVITE"


def test_a_failure_is_repeated_until_it_is_acknowledged(site: Site) -> None:
    """RFC 3261 §17.2.1: timer G; the ACK of this hop ends here."""
    text = site.invite()
    site.refuse(site.a, site.a.expect("INVITE"), 486)
    site.caller.expect(486)
    site.acknowledge(text, 486)
    site.caller.expect_nothing(1.2)
    site.a.expect_nothing(0.1)


def test_a_failure_that_comes_again_is_acknowledged_again(site: Site) -> None:
    """RFC 3261 §17.1.1.2: COMPLETED; the caller hears it once."""
    text = site.invite()
    invite = site.a.expect("INVITE")
    site.refuse(site.a, invite, 486)
    site.acknowledge(text, 486)
    site.refuse(site.a, invite, 486)
    site.caller.expect_nothing()


def test_an_answer_made_here_is_repeated_until_its_ack(site: Site) -> None:
    """RFC 3261 §13.3.1.4: the ACK of a 2xx is the end of the repetitions."""
    text = site.invite("here")
    first, second = site.caller.expect(200), site.caller.expect(200)
    assert first["To"] == second["To"]
    ack = text.replace("INVITE", "ACK").replace(f"<sip:here@127.0.0.1:{site.port}>", first["To"], 1)
    site.caller.send(ack.replace("branch=z9hG4bK", "branch=z9hG4bKack"))
    site.caller.expect_nothing(2.5)


def test_a_6xx_ends_the_other_branches(site: Site) -> None:
    """RFC 3261 §16.7 step 5: the others are cancelled, and 6xx is chosen whatever they say."""
    text = site.invite("both")
    first, second = site.a.expect("INVITE"), site.b.expect("INVITE")
    site.ring(site.b, second)
    site.refuse(site.a, first, 603)
    cancel = site.b.expect("CANCEL", skip=("INVITE",))
    site.b.send(site.b.reply(cancel, 200))
    site.refuse(site.b, second, 487, "CANCEL")
    site.acknowledge(text, 603)


def test_an_answer_that_crosses_a_6xx_wins(site: Site) -> None:
    """RFC 3261 §16.7 step 5: a 2xx is forwarded at once."""
    text = site.invite("both")
    first, second = site.a.expect("INVITE"), site.b.expect("INVITE")
    site.ring(site.b, second)
    site.refuse(site.a, first, 603)
    site.b.expect("CANCEL", skip=("INVITE",))
    site.b.send(site.b.reply(second, 200))
    site.acknowledge(text, 200)
    site.b.expect("ACK", skip=("CANCEL",))


@pytest.mark.parametrize(("other", "heard"), [(486, 486), (503, 500), (501, 501)])
def test_a_503_speaks_of_the_next_hop_only(site: Site, other: int, heard: int) -> None:
    """RFC 3261 §16.7 step 6: another response is chosen when there is one, else the caller hears 500."""
    text = site.invite("both")
    first, second = site.a.expect("INVITE"), site.b.expect("INVITE")
    site.refuse(site.a, first, 503)
    site.refuse(site.b, second, other)
    site.acknowledge(text, heard)


def test_a_request_that_nobody_answers_ends_in_silence(site: Site) -> None:
    """RFC 4320 §4.2: no 408 for what is no INVITE; it could only come after the caller's own time-out."""
    site.ask("MESSAGE")
    site.a.expect("MESSAGE")
    site.caller.expect_nothing(2.8)


def test_an_answer_to_a_request_that_comes_too_late_goes_nowhere(site: Site) -> None:
    """RFC 4320 §4.2: the transaction is over, and no transaction would know the response."""
    site.ask("MESSAGE")
    message = site.a.expect("MESSAGE")
    site.a.expect_nothing_but("MESSAGE", 2.6)
    site.a.send(site.a.reply(message, 200))
    site.caller.expect_nothing()


def test_a_copy_of_a_request_brings_its_answer_again(site: Site) -> None:
    """RFC 3261 §17.2.2: TRYING absorbs, COMPLETED answers."""
    text = site.ask("MESSAGE")
    message = site.a.expect("MESSAGE")
    site.caller.send(text)
    site.a.send(site.a.reply(message, 200))
    site.caller.expect(200)
    site.caller.send(text)
    site.caller.expect(200)
    site.a.expect_nothing()


def test_a_cancel_for_what_is_no_invite_changes_nothing(site: Site) -> None:
    """RFC 3261 §9.2: the CANCEL is answered 200, whatever it means, and the MESSAGE goes on."""
    text = site.ask("MESSAGE")
    message = site.a.expect("MESSAGE")
    site.give_up(text)
    site.a.send(site.a.reply(message, 200))
    assert site.caller.expect(200)["CSeq"] == "1 MESSAGE"
    site.a.expect_nothing_but("MESSAGE", 0.5)
