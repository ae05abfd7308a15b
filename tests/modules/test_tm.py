"""t_newtran, t_relay, t_reply and what follows from them: the proxy core of RFC 3261 section 16."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from opensipspy import sip
from opensipspy.module import LocateError, NoSocketError, ParamError, Target
from opensipspy.modules.tm import Tm
from opensipspy.modules.tm.flow import MOST_ANSWERS
from opensipspy.script import kinds
from opensipspy.script.patterns import Pattern
from opensipspy.script.run import VIA_FORCE_RPORT, VIA_LOCAL_RPORT, Branch, Run

from .tm_bench import BOB, CAROL, DAVE, TmBench


def tag_of(message: sip.Message) -> str:
    return message.to_tag


# -- a call ------------------------------------------------------------------------------------------------------------


def test_a_call_is_answered_acknowledged_and_forgotten() -> None:
    """RFC 3261 §16: 100 at once, INVITE on, 180 and 200 back, ACK end to end without a transaction."""
    bench = TmBench()
    run = bench.invite()
    trying, invite = bench.take()
    assert (trying.status, trying.to_tag) == (100, "")
    assert invite.method == "INVITE"
    assert [via.host for via in invite.vias] == ["127.0.0.1", "192.0.2.10"]
    assert bench.answer(invite, 100)
    assert bench.words() == []
    assert bench.answer(invite, 180)
    assert bench.answer(invite, 200)
    ringing, ok = bench.take()
    assert (ringing.status, ok.status) == (180, 200)
    assert [via.host for via in ok.vias] == ["192.0.2.10"]
    ack = bench.ack("b1", branch="z9hG4bK-ack")
    assert bench.call("t_check_trans", ack) == -2
    assert bench.call("t_relay", ack) == 1
    assert bench.words() == ["ACK 192.0.2.20"]
    assert ack.transaction is None
    bench.run_out()
    assert (bench.stat("UAS_transactions"), bench.stat("2xx_transactions"), bench.stat("relayed_replies")) == (1, 1, 2)
    assert bench.stat("inuse_transactions") == 0
    assert bench.core.pending_timers == 0
    assert run.handled


def test_no_100_when_the_script_wants_to_send_it_itself() -> None:
    """tm manual, auto_100trying."""
    bench = TmBench(auto_100trying=0)
    bench.invite()
    assert bench.words() == ["INVITE 192.0.2.20"]


def test_a_retransmitted_invite_repeats_the_last_reply() -> None:
    """RFC 3261 §17.2.1; t_newtran and t_check_trans end the script, as the C server's do, and t_relay does not."""
    bench = TmBench()
    bench.invite()
    invite = bench.take()[1]
    bench.answer(invite, 180)
    bench.words()
    for function, result in (("t_newtran", 0), ("t_check_trans", 0), ("t_relay", 1)):
        assert bench.call(function, bench.run()) == result
        assert bench.words() == ["180"]


def test_a_retransmitted_200_leaves_exactly_as_the_first() -> None:
    """RFC 6026 §7.2; the reply route is not run again, yet its edits stay."""
    bench = TmBench()
    seen: list[int] = []

    def mark(run: Run) -> int:
        seen.append(run.msg.status)
        run.edits.append("X-Seen: yes\r\n")
        return 1

    bench.onreply("mark", mark)
    bench.invite(arm={"t_on_reply": "mark"})
    invite = bench.take()[1]
    bench.answer(invite, 200)
    first = bench.core.sent[-1].data
    assert b"X-Seen: yes" in first
    bench.answer(invite, 200)
    assert bench.core.sent[-1].data == first
    assert seen == [200]


def test_several_2xx_from_beyond_one_branch_all_reach_the_caller() -> None:
    """RFC 3261 §16.7 step 5: every 2xx is forwarded; they differ in their To tag."""
    bench = TmBench()
    bench.invite()
    invite = bench.take()[1]
    bench.answer(invite, 200, to_tag="b1")
    bench.answer(invite, 200, to_tag="b2")
    assert [tag_of(msg) for msg in bench.take()] == ["b1", "b2"]


def test_a_failure_is_acknowledged_on_both_hops() -> None:
    """RFC 3261 §17.1.1.3: our ACK downstream at once; the caller's ACK ends here and stops the retransmissions."""
    bench = TmBench()
    bench.invite()
    invite = bench.take()[1]
    bench.answer(invite, 486)
    ack, busy = bench.take()
    assert (ack.method, ack.via.branch) == ("ACK", invite.via.branch)
    assert busy.status == 486
    bench.core.advance(0.5)
    assert bench.words() == ["486"]
    caller_ack = bench.ack("b1")
    assert bench.call("t_check_trans", caller_ack) == 1
    assert bench.call("t_relay", caller_ack) == 1
    bench.core.advance(1.0)
    assert bench.words() == []
    bench.run_out()
    assert bench.stat("4xx_transactions") == 1


def test_a_lost_ack_leaves_nothing_behind() -> None:
    """RFC 3261 §17.2.1, timer H."""
    bench = TmBench()
    bench.invite()
    bench.answer(bench.take()[1], 404)
    bench.run_out()
    assert bench.stat("retransmission_rpl_T2") > 5


def test_the_invite_is_resent_until_something_comes_back() -> None:
    """RFC 3261 §17.1.1.2, and the statistics of it."""
    bench = TmBench(fr_timeout=10)
    bench.invite()
    bench.words()
    bench.core.advance(8)
    assert bench.words() == ["INVITE 192.0.2.20"] * 4
    names = ("retransmission_req_T1_1", "retransmission_req_T1_2", "retransmission_req_T1_3", "retransmission_req_T2")
    assert [bench.stat(name) for name in names] == [1, 1, 1, 1]


def test_a_silent_callee_gives_408_after_fr_timeout() -> None:
    """RFC 3261 §16.8, §17.1.1.2 timer B; the reply has a To tag of ours."""
    bench = TmBench(fr_timeout=5)
    bench.invite()
    bench.words()
    bench.core.advance(4.9)
    assert "408" not in bench.words()
    bench.core.advance(0.2)
    (timeout,) = [msg for msg in bench.take() if not msg.is_request]
    assert (timeout.status, timeout.reason) == (408, "Request Timeout")
    assert timeout.to_tag
    assert (bench.stat("timeout_finalresponse"), bench.stat("timeout_finalresponse_inv")) == (1, 1)
    bench.run_out()


def test_a_callee_that_only_rings_is_cancelled_and_gives_408() -> None:
    """RFC 3261 §16.8: fr_inv_timeout is timer C."""
    bench = TmBench(fr_inv_timeout=20)
    bench.invite()
    invite = bench.take()[1]
    bench.answer(invite, 180)
    bench.words()
    bench.core.advance(20.1)
    cancel, timeout = bench.take()
    assert (cancel.method, cancel.via.branch, cancel.cseq_number) == ("CANCEL", invite.via.branch, 1)
    assert timeout.status == 408
    bench.answer(cancel, 200)
    bench.answer(invite, 487)
    assert "ACK 192.0.2.20" in bench.words()
    assert (bench.stat("timeout_finalresponse"), bench.stat("timeout_finalresponse_inv")) == (0, 1)
    bench.run_out()


def test_a_non_invite_that_nobody_answers_gets_no_408() -> None:
    """RFC 4320 §4.2: a 408 to a non-INVITE would only come too late."""
    bench = TmBench()
    run = bench.run("MESSAGE")
    assert bench.call("t_relay", run) == 1
    bench.end(run)
    assert bench.words() == ["MESSAGE 192.0.2.20"]
    bench.core.advance(31)
    assert set(bench.words()) == {"MESSAGE 192.0.2.20"}
    bench.run_out()


def test_a_non_invite_is_carried_over_and_back() -> None:
    """RFC 3261 §17.1.2, §17.2.2."""
    bench = TmBench()
    run = bench.run("MESSAGE")
    bench.call("t_relay", run)
    (message,) = bench.take()
    bench.answer(message, 200)
    assert bench.words() == ["200"]
    assert bench.call("t_relay", bench.run("MESSAGE")) == 1
    assert bench.words() == ["200"]
    bench.run_out()


def test_a_503_becomes_a_500_on_its_way_up() -> None:
    """RFC 3261 §16.7 step 6: a 503 speaks of the next hop only."""
    bench = TmBench()
    bench.invite()
    bench.answer(bench.take()[1], 503)
    assert bench.words() == ["ACK 192.0.2.20", "500"]


def test_a_503_passes_when_the_operator_wants_it() -> None:
    """Core parameter disable_503_translation."""
    bench = TmBench(globals={"disable_503_translation": True})
    bench.invite()
    bench.answer(bench.take()[1], 503)
    assert bench.words() == ["ACK 192.0.2.20", "503"]


# -- CANCEL ------------------------------------------------------------------------------------------------------------


def test_cancel_after_180_ends_the_call_with_487() -> None:
    """RFC 3261 §9.2, §16.10: 200 for the CANCEL, CANCEL downstream, 487 for the INVITE."""
    bench = TmBench()
    run = bench.invite()
    invite = bench.take()[1]
    bench.answer(invite, 180)
    bench.words()
    assert bench.cancel() == 1
    ok, cancel = bench.take()
    assert (ok.status, ok.cseq_method) == (200, "CANCEL")
    assert cancel.method == "CANCEL"
    assert cancel.via.branch == invite.via.branch
    assert bench.call("t_was_cancelled", run) == 1
    bench.answer(cancel, 200)
    bench.answer(invite, 487)
    assert bench.words() == ["ACK 192.0.2.20", "487"]
    bench.run_out()


def test_cancel_before_any_provisional_waits_for_one() -> None:
    """RFC 3261 §9.1."""
    bench = TmBench()
    bench.invite()
    invite = bench.take()[1]
    bench.cancel()
    assert bench.words() == ["200"]
    bench.answer(invite, 100)
    assert bench.words() == ["CANCEL 192.0.2.20"]
    bench.answer(invite, 487)
    assert bench.words() == ["ACK 192.0.2.20", "487"]


def test_a_cancelled_call_that_nobody_ever_answers_ends_with_487() -> None:
    """The caller gave up: 487, not 408, is what it waits for (RFC 3261 §9.2)."""
    bench = TmBench(fr_timeout=3)
    bench.invite()
    bench.cancel()
    bench.take()
    bench.core.advance(3.1)
    assert [word for word in bench.words() if word.isdigit()] == ["487"]
    bench.run_out()


def test_cancel_after_the_200_has_no_effect() -> None:
    """RFC 3261 §9.2: the CANCEL is answered, the call stands."""
    bench = TmBench()
    run = bench.invite()
    bench.answer(bench.take()[1], 200)
    bench.words()
    assert bench.cancel() == 1
    assert bench.words() == ["200"]
    assert not bench.transaction(run).cancelled


def test_a_200_that_crosses_the_cancel_reaches_the_caller() -> None:
    """RFC 3261 §9.1: the UAS may have answered before the CANCEL came."""
    bench = TmBench()
    bench.invite()
    invite = bench.take()[1]
    bench.answer(invite, 180)
    bench.cancel()
    bench.words()
    bench.answer(invite, 200)
    assert bench.words() == ["200"]


def test_a_repeated_cancel_gets_its_200_again() -> None:
    """RFC 3261 §9.2: CANCEL has a server transaction of its own."""
    bench = TmBench()
    bench.invite()
    bench.cancel()
    bench.words()
    assert bench.call("t_check_trans", bench.run("CANCEL")) == 0
    assert bench.words() == ["200"]


def test_the_200_for_a_cancel_has_the_to_tag_of_the_invite() -> None:
    """RFC 3261 §9.2: the tags of both replies made here should be the same."""
    bench = TmBench()
    run = bench.run()
    bench.call("t_newtran", run)
    bench.words()
    bench.cancel()
    ok, terminated = bench.take()
    assert (ok.status, terminated.status) == (200, 487)
    assert ok.to_tag == terminated.to_tag != ""


def test_cancel_without_an_invite_is_not_known() -> None:
    """t_check_trans is false for it; relayed all the same it becomes a request of its own."""
    bench = TmBench()
    assert bench.cancel() == -1
    assert bench.words() == []


def test_cancel_while_the_script_still_waits_gives_487_at_once() -> None:
    """RFC 3261 §9.2: nothing was sent yet, so there is nothing to wait for; a later t_relay finds it over."""
    bench = TmBench()
    run = bench.run()
    bench.call("t_newtran", run)
    bench.cancel()
    assert bench.words() == ["100", "200", "487"]
    assert bench.call("t_relay", run) == -3
    assert bench.words() == []
    bench.run_out()
    bench.words()
    # However long the script waits: nobody is called for a caller who has hung up.
    assert bench.call("t_relay", run) == -3
    assert bench.words() == []


def test_the_reason_of_a_cancel_is_passed_on_when_asked() -> None:
    """t_relay flag pass-reason-hdr, RFC 3326."""
    bench = TmBench()
    bench.invite()
    invite = bench.take()[1]
    bench.answer(invite, 180)
    bench.words()
    run = bench.run("CANCEL", headers='Reason: SIP;cause=200;text="Call completed elsewhere"\r\n')
    bench.call("t_relay", run, "pass-reason-hdr")
    cancel = bench.take()[1]
    assert cancel.value(sip.H_REASON) == 'SIP;cause=200;text="Call completed elsewhere"'


def test_a_redirection_has_the_destinations_of_the_script() -> None:
    """RFC 3261 §8.3: the Request-URI that the script chose and its branches, with their q, are the Contact of a 3xx."""
    bench = TmBench()
    run = bench.run()
    run.ruri, run.q = CAROL, 700
    run.branches = [Branch(DAVE)]
    assert bench.call("t_reply", run, 302, "Moved") == 1
    assert bench.take()[-1].value(sip.H_CONTACT) == f"<{CAROL}>;q=0.7, <{DAVE}>"


def test_a_redirection_that_chooses_nothing_has_no_contact() -> None:
    """Neither the caller's own Request-URI, nor the branch that has failed."""
    bench = TmBench()
    assert bench.call("t_reply", bench.run(), 300, "Multiple Choices") == 1
    assert not bench.take()[-1].has(sip.H_CONTACT)

    def moved(run: Run) -> int:
        if run.msg.has(sip.H_SUBJECT):
            run.ruri = DAVE
        return int(bench.call("t_reply", run, 302, "Moved"))

    bench.failure("moved", moved)
    for branch, headers, contact in (("z9hG4bK-2", "", ""), ("z9hG4bK-3", "Subject: x\r\n", f"<{DAVE}>")):
        run = bench.run(via=f"SIP/2.0/UDP 192.0.2.10:5060;branch={branch}", headers=headers)
        run.ruri = CAROL
        bench.call("t_on_failure", run, "moved")
        bench.call("t_relay", run)
        bench.answer(bench.take()[1], 486)
        assert bench.take()[-1].value(sip.H_CONTACT) == contact


def test_an_answer_that_follows_a_failure_reaches_the_caller() -> None:
    """RFC 3261 §16.7 step 5: the next proxy gave up and said so, and then the phone answered all the same; the two ends
    settle it (ACK and BYE). Copies of the answer go the same way."""
    bench = TmBench()
    bench.invite()
    invite = bench.take()[1]
    bench.answer(invite, 480)
    assert bench.words() == ["ACK 192.0.2.20", "480"]
    bench.ack("b1")
    assert bench.answer(invite, 200, to_tag="late")
    assert bench.answer(invite, 200, to_tag="late")
    first, copy = bench.take()
    assert (first.status, first.to_tag) == (copy.status, copy.to_tag) == (200, "late")
    assert bench.stat("relayed_replies") == 3  # the 480, and each 200 that went upstream
    assert (bench.stat("4xx_transactions"), bench.stat("2xx_transactions")) == (1, 0)
    bench.run_out()


def test_two_answers_are_one_transaction() -> None:
    """tm manual, 2xx_transactions: both are relayed (RFC 3261 §16.7 step 5), the transaction counts once."""
    bench = TmBench()
    bench.invite(CAROL)
    bob, carol = bench.take()[1:]
    bench.answer(bob, 200)
    bench.answer(carol, 200, to_tag="c1")
    assert (bench.stat("2xx_transactions"), bench.stat("relayed_replies")) == (1, 2)


def test_the_branch_that_failed_last_and_the_one_whose_reply_counts() -> None:
    """tm manual: $T_branch_idx is the former, $tm.branch.uri the latter."""
    bench = TmBench()
    seen: list[Any] = []

    def look(run: Run) -> int:
        names = ("$T_branch_idx", "$tm.branch.uri", "$T_reply_code")
        seen.append(tuple(bench.core.read(name, run) for name in names))
        return 1

    bench.failure("look", look)
    bench.invite(CAROL, arm={"t_on_failure": "look"})
    bob, carol = bench.take()[1:]
    bench.answer(bob, 404)
    bench.answer(carol, 486, to_tag="c1")
    assert seen == [(1, BOB, 404)]


def test_no_reply_yet_is_0() -> None:
    """tm manual, $T_branch_last_reply_code; $tm.branch.last_received is NULL then."""
    bench = TmBench()
    seen: list[Any] = []

    def look(run: Run) -> int:
        for name in ("$T_branch_last_reply_code", "$tm.branch.last_received"):
            seen.extend(bench.core.read(name, run, index=at) for at in (0, 1, 2))
        return 1

    bench.onreply("look", look)
    bench.invite(CAROL, arm={"t_on_reply": "look"})
    bob = bench.take()[1]
    bench.answer(bob, 183)
    bench.answer(bob, 180)
    # A reply route sees what came before the reply at hand, as in OpenSIPS.
    assert seen == [0, 0, None, None, None, None, 183, 0, None, 183, None, None]


def test_a_branch_that_gave_no_answer_in_time_shows_the_408_that_was_made_of_it() -> None:
    """tm manual, $T_branch_last_reply_code, as OpenSIPS counts it in a failure_route."""
    bench = TmBench()
    seen: list[Any] = []

    def look(run: Run) -> int:
        seen.extend(bench.core.read("$tm.branch.last_received", run, index=at) for at in (0, 1))
        return 1

    bench.failure("look", look)
    bench.invite(CAROL, arm={"t_on_failure": "look"})
    bench.answer(bench.take()[1], 404)
    bench.run_out()
    assert seen == [404, 408]


def test_a_phone_is_told_that_the_call_was_completed_elsewhere() -> None:
    """RFC 3326 §3.1: with that reason it shows no missed call."""
    bench = TmBench()
    bench.invite(CAROL)
    bob, carol = bench.take()[1:]
    bench.answer(bob, 180)
    bench.words()
    bench.answer(carol, 200, to_tag="c1")
    cancel = next(msg for msg in bench.take() if msg.method == "CANCEL" and msg.is_request)
    assert cancel.value(sip.H_REASON) == 'SIP ;cause=200 ;text="Call completed elsewhere"'


def test_a_phone_is_told_that_a_call_was_answered_here() -> None:
    """RFC 3326 §3.1: an answer of the script's own is one, too."""
    bench = TmBench()
    run = bench.invite()
    bench.answer(bench.take()[1], 180)
    bench.words()
    bench.call("t_reply", run, 200, "OK")
    cancel = next(msg for msg in bench.take() if msg.method == "CANCEL" and msg.is_request)
    assert "cause=200" in cancel.value(sip.H_REASON)


def test_a_phone_is_told_that_the_caller_gave_up() -> None:
    """RFC 3326: the reason of OpenSIPS, for a CANCEL that has none to pass on, also when it was held back (§9.1)."""
    bench = TmBench()
    bench.invite(CAROL)
    bob, carol = bench.take()[1:]
    bench.answer(bob, 180)
    bench.words()
    bench.cancel()
    bench.answer(carol, 180)
    cancels = [msg for msg in bench.take() if msg.method == "CANCEL" and msg.is_request]
    assert [msg.value(sip.H_REASON) for msg in cancels] == ['SIP;cause=487;text="ORIGINATOR_CANCEL"'] * 2


def test_a_phone_is_told_that_it_rang_for_too_long() -> None:
    """RFC 3326; timer C of RFC 3261 §16.8."""
    bench = TmBench(fr_inv_timeout=5)
    bench.invite()
    bench.answer(bench.take()[1], 180)
    bench.words()
    bench.core.advance(5.5)
    cancel = next(msg for msg in bench.take() if msg.method == "CANCEL" and msg.is_request)
    assert cancel.value(sip.H_REASON) == 'SIP;cause=480;text="NO_ANSWER"'


def test_a_6xx_gives_the_others_no_reason() -> None:
    """RFC 3261 §16.7 step 5: nobody took the call, and nobody gave it up."""
    bench = TmBench()
    bench.invite(CAROL)
    bob, carol = bench.take()[1:]
    bench.answer(bob, 180)
    bench.words()
    bench.answer(carol, 603, to_tag="c1")
    cancel = next(msg for msg in bench.take() if msg.method == "CANCEL" and msg.is_request)
    assert not cancel.has(sip.H_REASON)


def test_the_script_can_give_its_own_reason_to_a_cancel() -> None:
    """t_add_cancel_reason."""
    bench = TmBench()
    bench.invite()
    bench.answer(bench.take()[1], 180)
    bench.words()
    run = bench.run("CANCEL")
    assert bench.call("t_add_cancel_reason", run, "Reason: SIP ;cause=26\r\n") == 1
    bench.call("t_relay", run)
    assert bench.take()[1].value(sip.H_REASON) == "SIP ;cause=26"
    assert bench.call("t_add_cancel_reason", bench.run(), "Reason: SIP\r\n") == -1


# -- forking -----------------------------------------------------------------------------------------------------------


def test_the_first_answer_of_a_parallel_fork_cancels_the_others() -> None:
    """RFC 3261 §16.7 step 10."""
    bench = TmBench()
    bench.invite(CAROL)
    _, bob, carol = bench.take()
    assert bob.via.branch != carol.via.branch
    bench.answer(bob, 180)
    bench.answer(carol, 180)
    bench.words()
    bench.answer(carol, 200)
    cancel, ok = bench.take()
    assert (cancel.method, cancel.source.address, ok.status) == ("CANCEL", "192.0.2.20", 200)
    bench.answer(bob, 487)
    assert bench.words() == ["ACK 192.0.2.20"]
    bench.run_out()
    assert bench.stat("2xx_transactions") == 1


def test_a_2xx_of_another_branch_that_crosses_the_cancel_is_forwarded() -> None:
    """RFC 3261 §16.7 step 5: after the first 2xx too."""
    bench = TmBench()
    bench.invite(CAROL)
    _, bob, carol = bench.take()
    bench.answer(bob, 180)
    bench.answer(carol, 200, to_tag="c1")
    bench.words()
    bench.answer(bob, 200, to_tag="b1")
    assert [tag_of(msg) for msg in bench.take()] == ["b1"]


def test_the_best_answer_is_chosen_when_all_have_failed() -> None:
    """RFC 3261 §16.7 step 6: the lowest class; within 4xx what tells how to ask again."""
    bench = TmBench()
    bench.invite(CAROL, DAVE)
    _, bob, carol, dave = bench.take()
    bench.answer(bob, 500)
    bench.answer(carol, 486)
    assert "486" not in bench.words()
    bench.answer(dave, 404)
    assert bench.words() == ["ACK 192.0.2.40", "404"]


def test_a_6xx_cancels_the_others_and_wins() -> None:
    """RFC 3261 §16.7 step 5: 6xx stops all branches, yet waits for them to end."""
    bench = TmBench()
    bench.invite(CAROL)
    _, bob, carol = bench.take()
    bench.answer(carol, 180)
    bench.words()
    bench.answer(bob, 603)
    assert bench.words() == ["ACK 192.0.2.20", "CANCEL 192.0.2.30"]
    bench.answer(carol, 487)
    assert bench.words() == ["ACK 192.0.2.30", "603"]


def test_all_challenges_of_a_fork_are_collected() -> None:
    """RFC 3261 §16.7 step 7."""
    bench = TmBench()
    bench.invite(CAROL)
    _, bob, carol = bench.take()
    bench.answer(bob, 407, headers='Proxy-Authenticate: Digest realm="b", nonce="1"\r\n')
    bench.answer(carol, 401, headers='WWW-Authenticate: Digest realm="c", nonce="2"\r\n')
    challenge = bench.take()[-1]
    assert challenge.status == 401
    assert challenge.value(sip.H_WWW_AUTHENTICATE) == 'Digest realm="c", nonce="2"'
    assert challenge.value(sip.H_PROXY_AUTHENTICATE) == 'Digest realm="b", nonce="1"'


def test_a_branch_that_cannot_be_sent_does_not_harm_the_others() -> None:
    """RFC 3261 §16.9: it counts for nothing as long as another was sent."""
    bench = TmBench()
    run = bench.run()
    run.branches = [Branch("sip:nobody@unknown.invalid")]
    assert bench.call("t_relay", run) == 1
    invite = bench.take()[1]
    bench.answer(invite, 486)
    assert bench.words()[-1] == "486"


def test_nobody_waits_for_a_minor_branch() -> None:
    """tm manual, minor_branch_flag."""
    bench = TmBench(minor_branch_flag="MINOR")
    asyncio.run(bench.tm.start())
    run = bench.run()
    run.branches = [Branch(CAROL, flags=bench.core.flags.mask("branch", "MINOR"))]
    bench.call("t_relay", run)
    _, bob, carol = bench.take()
    bench.answer(carol, 183)
    bench.words()
    bench.answer(bob, 486)
    assert bench.words() == ["ACK 192.0.2.20", "CANCEL 192.0.2.30", "486"]


@pytest.mark.parametrize("in_failure", [False, True])
def test_a_call_with_minor_branches_only_waits_for_the_first_of_them(in_failure: bool) -> None:
    """tm manual, minor_branch_flag: nothing goes upstream, and no failure_route runs, before one has ended."""
    bench = TmBench(minor_branch_flag="MINOR")
    asyncio.run(bench.tm.start())
    minor = bench.core.flags.mask("branch", "MINOR")
    failures: list[Any] = []

    def fork(run: Run) -> None:
        run.branch_flags |= minor
        run.branches = [Branch(CAROL, flags=minor)]
        assert bench.call("t_relay", run) == 1

    def again(run: Run) -> int:
        failures.append(bench.core.read("$T_reply_code", run))
        fork(run)
        return 1

    def seen(run: Run) -> int:
        failures.append(bench.core.read("$T_reply_code", run))
        return 1

    bench.failure("again", again)
    bench.failure("seen", seen)
    run = bench.run()
    if in_failure:
        bench.call("t_on_failure", run, "again")
        bench.call("t_relay", run)
        bench.answer(bench.take()[1], 404)
        bench.call("t_on_failure", run, "seen")
        _, bob, carol = bench.take()
    else:
        bench.call("t_on_failure", run, "seen")
        fork(run)
        _, bob, carol = bench.take()
    assert failures == ([404] if in_failure else [])
    bench.answer(carol, 183)
    assert bench.words() == ["183"]
    bench.answer(bob, 486)
    assert bench.words() == ["ACK 192.0.2.20", "CANCEL 192.0.2.30", "486"]
    assert failures[-1] == 486


def test_no_cancel_when_the_caller_wants_all_answers() -> None:
    """RFC 3841 §9.1, t_relay flag allow-no-cancel."""
    bench = TmBench()
    run = bench.run(headers="Request-Disposition: no-cancel\r\n")
    run.branches = [Branch(CAROL)]
    bench.call("t_relay", run, "allow-no-cancel")
    _, bob, carol = bench.take()
    bench.answer(bob, 180)
    bench.answer(carol, 200, to_tag="c1")
    assert "CANCEL 192.0.2.20" not in bench.words()
    bench.answer(bob, 200, to_tag="b1")
    assert bench.words() == ["200"]


# -- routes ------------------------------------------------------------------------------------------------------------


def test_a_branch_route_changes_only_its_branch() -> None:
    """tm manual, t_on_branch."""
    bench = TmBench()

    def mark(run: Run) -> int:
        run.edits.append(f"X-Branch: {run.branch_index}\r\n")
        assert bench.core.read("$T_branch_idx", run) == run.branch_index
        assert bench.core.read("$T_ruri", run) == run.ruri
        return 1

    bench.branch("mark", mark)
    bench.invite(CAROL, arm={"t_on_branch": "mark"})
    _, bob, carol = bench.take()
    assert [header.value for header in bob.named("X-Branch")] == ["0"]
    assert [header.value for header in carol.named("X-Branch")] == ["1"]


def test_drop_in_a_branch_route_discards_the_branch() -> None:
    """tm manual, t_on_branch."""
    bench = TmBench()

    def pick(run: Run) -> int:
        run.dropped = run.ruri == BOB
        return 0

    bench.branch("pick", pick)
    bench.invite(CAROL, arm={"t_on_branch": "pick"})
    assert bench.words() == ["100", "INVITE 192.0.2.30"]


def test_all_branches_dropped_is_a_failure_of_t_relay() -> None:
    """-3, and 500 upstream when t_relay made the transaction itself (unless no-auto-477)."""
    bench = TmBench()

    def drop(run: Run) -> int:
        run.dropped = True
        return 0

    bench.branch("drop", drop)
    run = bench.run()
    bench.call("t_on_branch", run, "drop")
    assert bench.call("t_relay", run) == 1
    assert bench.words() == ["100", "500"]
    silent = bench.run(via="SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK-2")
    bench.call("t_on_branch", silent, "drop")
    assert bench.call("t_relay", silent, "no-auto-477") == -3
    assert bench.words() == ["100"]
    bench.end(silent)
    bench.run_out()


def test_a_failure_route_sends_the_call_elsewhere() -> None:
    """tm manual, t_on_failure: serial forking; the failed answer never reaches the caller."""
    bench = TmBench()
    seen: list[Any] = []

    def voicemail(run: Run) -> int:
        seen.append((run.kind, run.ruri, run.reply.status if run.reply else 0, bench.core.read("$T_reply_code", run)))
        assert bench.call("t_check_status", run, Pattern("486|408")) == 1
        run.ruri = CAROL
        assert bench.call("t_relay", run) == 1
        return 1

    bench.failure("voicemail", voicemail)
    bench.invite(arm={"t_on_failure": "voicemail"})
    bench.answer(bench.take()[1], 486)
    ack, carol = bench.take()
    assert (ack.method, carol.source.address) == ("ACK", "192.0.2.30")
    bench.answer(carol, 200)
    assert bench.words() == ["200"]
    assert seen == [(kinds.FAILURE, BOB, 486, 486)]
    bench.run_out()


def test_a_failure_route_is_run_once_unless_it_is_armed_again() -> None:
    """tm manual, t_on_failure."""
    bench = TmBench()
    rounds: list[int] = []

    def retry(run: Run) -> int:
        rounds.append(len(rounds))
        if len(rounds) == 1:
            bench.call("t_on_failure", run, "retry")
        run.ruri = CAROL
        bench.call("t_relay", run)
        return 1

    bench.failure("retry", retry)
    bench.invite(arm={"t_on_failure": "retry"})
    bench.answer(bench.take()[1], 486)
    bench.answer(bench.take()[1], 404)
    bench.answer(bench.take()[1], 480)
    assert bench.words() == ["ACK 192.0.2.30", "480"]
    assert rounds == [0, 1]


def test_a_failure_route_may_answer_itself() -> None:
    """tm manual: t_reply in a failure route."""
    bench = TmBench()

    def sorry(run: Run) -> int:
        assert bench.call("t_local_replied", run, "last") == 1
        assert bench.call("t_local_replied", run, "all") == 1
        return int(bench.call("t_reply", run, 480, "Try later"))

    bench.failure("sorry", sorry)
    bench.invite(arm={"t_on_failure": "sorry"})
    bench.take()
    bench.core.advance(30.1)
    replies = [msg for msg in bench.take() if not msg.is_request]
    assert [(msg.status, msg.reason) for msg in replies] == [(480, "Try later")]
    bench.run_out()


def test_a_failure_route_does_not_fork_on_after_a_6xx() -> None:
    """RFC 3261 §16.7 step 5; disable_6xx_block lifts it."""
    for params, result in (({}, -3), ({"disable_6xx_block": 1}, 1)):
        bench = TmBench(**params)
        results: list[Any] = []

        def retry(run: Run, bench: TmBench = bench, results: list[Any] = results) -> int:
            run.ruri = CAROL
            results.append(bench.call("t_relay", run))
            return 1

        bench.failure("retry", retry)
        bench.invite(arm={"t_on_failure": "retry"})
        bench.answer(bench.take()[1], 603)
        assert results == [result]
        assert ("603" in bench.words()) == (result < 0)


def test_a_cancelled_call_runs_its_failure_route_but_cannot_go_on() -> None:
    """tm manual, t_was_cancelled; t_relay gives -3."""
    bench = TmBench()
    results: list[Any] = []

    def route(run: Run) -> int:
        results.append(bench.call("t_was_cancelled", run))
        results.append(bench.call("t_relay", run))
        return 1

    bench.failure("route", route)
    bench.invite(arm={"t_on_failure": "route"})
    invite = bench.take()[1]
    bench.answer(invite, 180)
    bench.cancel()
    bench.words()
    bench.answer(invite, 487)
    assert bench.words() == ["ACK 192.0.2.20", "487"]
    assert results == [1, -3]


def test_a_caller_who_cancels_hears_487_though_another_branch_had_failed_before() -> None:
    """RFC 3261 §16.7 step 6 leaves the choice within a class; records of cancelled calls say 487, as in OpenSIPS."""
    bench = TmBench()
    codes: list[Any] = []

    def look(run: Run) -> int:
        codes.append(bench.core.read("$T_reply_code", run))
        return 1

    bench.failure("look", look)
    bench.invite(CAROL, arm={"t_on_failure": "look"})
    _, bob, carol = bench.take()
    bench.answer(bob, 404)
    bench.answer(carol, 180)
    bench.cancel()
    bench.words()
    bench.answer(carol, 487, to_tag="c1")
    assert bench.words() == ["ACK 192.0.2.30", "487"]
    assert codes == [487]


def test_a_cancel_for_another_request_than_an_invite_is_answered_and_has_no_effect() -> None:
    """RFC 3261 §9.2: 200 whatever the method of the matching request is, which goes on; 481 is for unknown ones."""
    bench = TmBench()
    run = bench.run("MESSAGE")
    bench.call("t_relay", run)
    message = bench.take()[0]
    assert bench.cancel() == 1
    assert bench.words() == ["200"]
    assert not bench.transaction(run).cancelled
    bench.answer(message, 202)
    assert bench.words() == ["202"]
    other = bench.run("CANCEL", via="SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK-other")
    assert bench.call("t_check_trans", other) == -1


def test_a_phone_that_answers_under_ever_new_tags_takes_no_more_memory() -> None:
    """RFC 6026 §7.1: each of its 2xx goes upstream, but not every one is kept for its copies."""
    bench = TmBench()
    run = bench.invite()
    invite = bench.take()[1]
    for number in range(100):
        bench.answer(invite, 200, to_tag=f"t{number}")
    assert bench.words() == ["200"] * 100
    kept = bench.transaction(run).branches[0].to_tags
    assert kept is not None
    assert len(kept) == MOST_ANSWERS
    for number in (0, 99):
        bench.answer(invite, 200, to_tag=f"t{number}")
    assert [msg.to_tag for msg in bench.take()] == ["t0", "t99"]


def test_reply_routes_of_the_branch_and_of_the_transaction_run_in_that_order() -> None:
    """tm manual, t_on_reply."""
    bench = TmBench()
    seen: list[tuple[str, int]] = []

    def note(name: str) -> Any:
        def route(run: Run) -> int:
            seen.append((name, run.msg.status))
            assert bench.call("t_check_status", run, Pattern("^1")) == (1 if run.msg.status < 200 else -1)
            return 1

        return route

    bench.onreply("branch", note("branch"))
    bench.onreply("all", note("all"))
    bench.branch("arm", lambda run: bench.call("t_on_reply", run, "branch") if run.ruri == CAROL else 1)
    bench.invite(CAROL, arm={"t_on_reply": "all", "t_on_branch": "arm"})
    _, bob, carol = bench.take()
    bench.answer(bob, 180)
    bench.answer(carol, 183)
    assert seen == [("all", 180), ("branch", 183), ("all", 183)]


@pytest.mark.parametrize(("status", "forwarded"), [(183, []), (200, ["200"])])
def test_drop_in_a_reply_route_stops_provisional_replies_only(status: int, forwarded: list[str]) -> None:
    """tm manual, t_on_reply."""
    bench = TmBench()

    def drop(run: Run) -> int:
        run.dropped = True
        return 0

    bench.onreply("drop", drop)
    bench.invite(arm={"t_on_reply": "drop"})
    invite = bench.take()[1]
    bench.answer(invite, status)
    assert bench.words() == forwarded


def test_reply_routes_see_the_avps_of_the_transaction_only_in_mode_1() -> None:
    """tm manual, onreply_avp_mode."""
    for mode, value in ((0, None), (1, ["x"])):
        bench = TmBench(onreply_avp_mode=mode)
        seen: list[Any] = []

        def look(run: Run, seen: list[Any] = seen) -> int:
            seen.append(run.avps.get("a"))
            return 1

        bench.onreply("look", look)
        run = bench.run()
        run.avps["a"] = ["x"]
        bench.call("t_on_reply", run, "look")
        bench.call("t_relay", run)
        bench.answer(bench.take()[1], 180)
        assert seen == [value]


def test_a_failure_route_begins_as_the_request_came() -> None:
    """As in OpenSIPS since 3.1: a voicemail that is chosen by its host is not called at the address of the phone that
    did not answer, nor through its Path, its socket or with its flags."""
    bench = TmBench()

    def voicemail(run: Run) -> int:
        seen = (run.ruri, run.dst_uri, run.path, run.q, run.branch_flags, run.socket_out)
        assert seen == (run.msg.ruri, "", "", -1, 0, None)
        run.ruri = DAVE
        return int(bench.call("t_relay", run))

    bench.failure("voicemail", voicemail)
    run = bench.run()
    run.ruri, run.dst_uri, run.path = CAROL, "sip:192.0.2.99:5090", "<sip:192.0.2.99:5090;lr>"
    run.q, run.branch_flags, run.socket_out = 300, 2, bench.core.sockets[0]
    bench.call("t_on_failure", run, "voicemail")
    bench.call("t_relay", run)
    bench.end(run)
    sent = bench.take()[1]
    assert (sent.ruri, sent.source.address) == (CAROL, "192.0.2.99")
    bench.answer(sent, 486)
    (again,) = [msg for msg in bench.take() if msg.method == "INVITE" and msg.is_request]
    assert (again.ruri, again.source.address, again.routes) == (DAVE, "192.0.2.40", [])


def test_message_and_branch_flags_travel_with_the_transaction() -> None:
    """tm manual, per-branch flags."""
    bench = TmBench()
    seen: list[tuple[int, int]] = []

    def look(run: Run) -> int:
        seen.append((run.msg_flags, run.branch_flags))
        run.msg_flags |= 4
        run.branch_flags |= 8
        return 1

    bench.onreply("look", look)
    bench.failure("look", look)
    run = bench.run()
    run.msg_flags = 1
    run.branch_flags = 2
    bench.call("t_on_reply", run, "look")
    bench.call("t_on_failure", run, "look")
    bench.call("t_relay", run)
    bench.answer(bench.take()[1], 486)
    assert seen == [(1, 2), (5, 0)], "a failure_route begins without the flags of the branch that failed"


# -- waiting -----------------------------------------------------------------------------------------------------------


class Gate:
    """Something a route waits for."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    async def route(self, run: Run) -> int:
        await self.event.wait()
        return 1


def test_replies_that_overtake_a_waiting_reply_route_keep_their_meaning() -> None:
    """A 183 whose route waits is not sent behind the 200 that came meanwhile."""

    async def play() -> None:
        bench = TmBench()
        gate = Gate()

        async def route(run: Run) -> int:
            return await gate.route(run) if run.msg.status < 200 else 1

        bench.onreply("slow", route)
        bench.invite(arm={"t_on_reply": "slow"})
        invite = bench.take()[1]
        bench.answer(invite, 183)
        assert bench.words() == []
        bench.answer(invite, 200)
        assert bench.words() == ["200"]
        gate.event.set()
        await bench.core.settle()
        assert bench.words() == []
        bench.run_out()

    asyncio.run(play())


def test_a_cancel_that_comes_while_a_failure_route_waits_ends_the_call() -> None:
    """RFC 3261 §16.10: no new branch after a CANCEL."""

    async def play() -> None:
        bench = TmBench()
        gate = Gate()
        results: list[Any] = []

        async def route(run: Run) -> int:
            await gate.event.wait()
            run.ruri = CAROL
            results.append(bench.call("t_relay", run))
            return 1

        bench.failure("slow", route)
        bench.invite(arm={"t_on_failure": "slow"})
        bench.answer(bench.take()[1], 486)
        bench.words()
        bench.cancel()
        assert bench.words() == ["200"]
        gate.event.set()
        await bench.core.settle()
        assert results == [-3]
        assert bench.words() == ["486"]
        bench.run_out()

    asyncio.run(play())


def test_a_branch_route_that_waits_does_not_hold_up_the_other_branch() -> None:
    """t_relay waits for all, the branches do not wait for each other."""

    async def play() -> None:
        bench = TmBench()
        gate = Gate()

        async def route(run: Run) -> int:
            return await gate.route(run) if run.ruri == BOB else 1

        bench.branch("slow", route)
        run = bench.run()
        run.branches = [Branch(CAROL)]
        bench.call("t_on_branch", run, "slow")
        relaying = bench.call("t_relay", run)
        assert bench.words() == ["100", "INVITE 192.0.2.30"]
        gate.event.set()
        assert await relaying == 1
        assert bench.words() == ["INVITE 192.0.2.20"]
        await bench.core.settle()

    asyncio.run(play())


def waiting_lookup(bench: TmBench, uri: str, targets: list[Target]) -> asyncio.Event:
    """Make the look-up of a URI wait for the event."""
    found = asyncio.Event()

    async def later() -> list[Target]:
        await found.wait()
        return targets

    ordinary = bench.core.locate

    def locate(wanted: Any, proto: int = 0) -> Any:
        return later() if str(wanted) == uri else ordinary(wanted, proto)

    bench.core.locate = locate  # type: ignore[method-assign]
    return found


def target(address: str, bench: TmBench, proto: int = sip.PROTO_UDP) -> Target:
    peer = sip.Peer(proto, address, 5060)
    socket = bench.core.choose_socket(peer)
    assert socket is not None
    return Target(peer, socket)


def test_a_cancel_that_comes_while_a_name_is_looked_up_keeps_the_invite_back() -> None:
    """RFC 3261 §9.2: the branch is never sent, the answer is 487."""

    async def play() -> None:
        bench = TmBench()
        found = waiting_lookup(bench, "sip:bob@example.org", [target("192.0.2.20", bench)])
        run = bench.run(ruri="sip:bob@example.org")
        relaying = bench.call("t_relay", run)
        bench.words()
        waiting = asyncio.ensure_future(relaying)
        await asyncio.sleep(0)
        bench.cancel(ruri="sip:bob@example.org")
        found.set()
        assert await waiting == 1
        assert bench.words() == ["200", "487"]
        bench.run_out()

    asyncio.run(play())


# -- DNS failover ------------------------------------------------------------------------------------------------------


def failover_bench(**params: Any) -> TmBench:
    bench = TmBench(**params)
    bench.core.located["sip:bob@example.org"] = [target("192.0.2.20", bench), target("192.0.2.21", bench)]
    return bench


def test_a_503_tries_the_next_address_of_the_name() -> None:
    """RFC 3263 §4.3: the same request in a new client transaction."""
    bench = failover_bench()
    bench.invite(ruri="sip:bob@example.org")
    first = bench.take()[1]
    bench.answer(first, 503)
    ack, second = bench.take()
    assert (ack.method, second.method, second.source.address) == ("ACK", "INVITE", "192.0.2.21")
    assert second.via.branch != first.via.branch
    bench.answer(second, 200)
    assert bench.words() == ["200"]
    bench.run_out()


def test_a_silent_address_is_followed_by_the_next() -> None:
    """RFC 3263 §4.3: a time-out without any reply counts as failure; timer F or B per address."""
    bench = failover_bench(fr_timeout=2)
    bench.invite(ruri="sip:bob@example.org")
    bench.words()
    bench.core.advance(2.1)
    words = bench.words()
    assert words[-1] == "INVITE 192.0.2.21"
    assert "408" not in words
    bench.core.advance(2.1)
    assert [word for word in bench.words() if word.isdigit()] == ["408"]
    bench.run_out()


def test_an_address_that_cannot_be_sent_to_is_skipped_at_once() -> None:
    """RFC 3263 §4.3: transport failure."""
    bench = failover_bench()
    ordinary = bench.core.send

    def send(data: bytes, where: Target, on_failure: Any = None) -> bool:
        return where.peer.address != "192.0.2.20" and ordinary(data, where, on_failure)

    failed: list[sip.Peer] = []
    bench.core.send = send  # type: ignore[method-assign]
    bench.core.destination_failed = failed.append  # type: ignore[method-assign]
    bench.invite(ruri="sip:bob@example.org")
    assert bench.words() == ["100", "INVITE 192.0.2.21"]
    assert [peer.address for peer in failed] == ["192.0.2.20"], "the next call need not try it"


def test_a_connection_that_fails_later_leads_to_the_next_address() -> None:
    """RFC 3261 §17.1.4, RFC 3263 §4.3."""
    bench = TmBench(tcp=True)
    bench.core.located["sip:bob@example.org"] = [
        target("192.0.2.20", bench, sip.PROTO_TCP),
        target("192.0.2.21", bench, sip.PROTO_TCP),
    ]
    bench.invite(ruri="sip:bob@example.org")
    failed = bench.core.sent[1].on_failure
    assert failed is not None
    bench.words()
    failed()
    assert bench.words() == ["INVITE 192.0.2.21"]
    later = bench.core.sent
    assert later == []


def test_a_connection_that_is_lost_leads_to_the_next_address() -> None:
    """RFC 3261 §17.1.4: without an answer over it, what left by the connection has failed; other ports are others'."""
    bench = TmBench(tcp=True)
    bench.core.located["sip:bob@example.org"] = [
        target("192.0.2.20", bench, sip.PROTO_TCP),
        target("192.0.2.21", bench, sip.PROTO_TCP),
    ]
    bench.invite(ruri="sip:bob@example.org")
    bench.words()
    flow = bench.tm.flow
    flow.disconnected(sip.PROTO_TCP, "192.0.2.20", (5061,), 7)
    flow.disconnected(sip.PROTO_TLS, "192.0.2.20", (5060,), 7)
    assert bench.words() == []
    flow.disconnected(sip.PROTO_TCP, "192.0.2.20", (40000, 5060), 7)
    assert bench.words() == ["INVITE 192.0.2.21"]
    flow.disconnected(sip.PROTO_TCP, "192.0.2.20", (40000, 5060), 7)
    assert bench.words() == []
    flow.disconnected(sip.PROTO_TCP, "192.0.2.21", (5060,), 8)
    assert bench.words() == ["477"]
    assert flow._on_connections == {}


def test_a_call_that_rings_outlives_its_connection() -> None:
    """RFC 3261 §18.2.2: the callee answers over a new one."""
    bench = TmBench(tcp=True)
    bench.core.located["sip:bob@example.org"] = [target("192.0.2.20", bench, sip.PROTO_TCP)]
    bench.invite(ruri="sip:bob@example.org")
    invite = bench.take()[1]
    bench.answer(invite, 180)
    bench.tm.flow.disconnected(sip.PROTO_TCP, "192.0.2.20", (5060,), 7)
    assert bench.words() == ["180"]
    bench.answer(invite, 200)
    assert bench.words() == ["200"]
    assert bench.tm.flow._on_connections == {}
    bench.run_out()


def test_a_call_that_rings_keeps_what_its_cancel_needs() -> None:
    """RFC 3261 §9.1 and §17.1.1.3: half a minute later CANCEL and ACK still look like the INVITE that left."""
    bench = TmBench()
    bench.invite(body="v=0\r\n", headers="Contact: <sip:alice@192.0.2.10>\r\nX-Long: yes\r\n")
    invite = bench.take()[1]
    bench.answer(invite, 180)
    bench.core.advance(30)
    bench.words()
    bench.cancel()
    sent = bench.take()
    cancel = next(msg for msg in sent if msg.is_request)
    assert (cancel.method, cancel.ruri, cancel.via.branch) == ("CANCEL", invite.ruri, invite.via.branch)
    assert (cancel.from_tag, cancel.call_id, cancel.cseq_number, cancel.body) == ("a1", invite.call_id, 1, b"")
    bench.answer(invite, 487)
    ack, final = bench.take()
    assert (ack.method, ack.via.branch, ack.to_tag) == ("ACK", invite.via.branch, "b1")
    assert (final.status, final.call_id, final.via.branch) == (487, invite.call_id, "z9hG4bK-1")
    bench.run_out()


def test_no_dns_failover_tries_the_first_address_only() -> None:
    """t_relay flag no-dns-failover."""
    bench = failover_bench()
    run = bench.run(ruri="sip:bob@example.org")
    bench.call("t_relay", run, "no-dns-failover")
    bench.answer(bench.take()[1], 503)
    assert bench.words() == ["ACK 192.0.2.20", "500"]


def test_a_name_that_does_not_resolve_gives_minus_4_or_476() -> None:
    """tm manual, t_relay: the script hears of it when it made the transaction, else the caller does."""
    bench = TmBench()
    bench.core.located["sip:bob@gone.example"] = LocateError("no such name")
    run = bench.run(ruri="sip:bob@gone.example")
    assert bench.call("t_relay", run) == 1
    assert bench.words() == ["100", "476"]
    own = bench.run(ruri="sip:bob@gone.example", via="SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK-2")
    bench.call("t_newtran", own)
    assert bench.call("t_relay", own) == -4
    assert bench.call("t_reply", own, 404, "Gone") == 1
    assert bench.words() == ["100", "404"]
    bench.run_out()


def test_a_destination_that_no_socket_fits_gives_minus_6_or_477() -> None:
    """tm manual, t_relay: an address of the other family, or a protocol that the script has no socket for."""
    bench = TmBench()
    bench.core.located["sip:bob@[2001:db8::1]"] = NoSocketError("no listening socket fits")
    assert bench.call("t_relay", bench.run(ruri="sip:bob@[2001:db8::1]")) == 1
    assert bench.words() == ["100", "477"]
    own = bench.run(ruri="sip:bob@[2001:db8::1]", via="SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK-2")
    assert bench.call("t_relay", own, "no-auto-477") == -6
    bench.words()


def test_nothing_can_be_sent_gives_minus_6_or_477() -> None:
    """tm manual, t_relay."""
    bench = TmBench()
    run = bench.run()
    bench.call("t_newtran", run)
    bench.core.accept_sends = False
    assert bench.call("t_relay", run) == -6


# -- destinations ------------------------------------------------------------------------------------------------------


def test_the_outbound_proxy_is_used_when_no_destination_is_set() -> None:
    """tm manual, t_relay: $du counts more than the parameter; the Request-URI stays."""
    bench = TmBench()
    run = bench.run()
    bench.call("t_relay", run, None, "192.0.2.99:5070")
    sent = bench.core.sent[1]
    assert (sent.target.peer.address, sent.target.peer.port) == ("192.0.2.99", 5070)
    assert sent.data.startswith(f"INVITE {BOB} SIP/2.0".encode())
    other = bench.run(via="SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK-2")
    other.dst_uri = "sip:192.0.2.98"
    bench.call("t_relay", other, None, "udp:192.0.2.99:5070")
    assert bench.core.sent[3].target.peer.address == "192.0.2.98"


def test_a_path_becomes_a_route_and_the_next_hop() -> None:
    """RFC 3327 §5.3."""
    bench = TmBench()
    run = bench.run()
    run.path = "<sip:192.0.2.50;lr>"
    bench.call("t_relay", run)
    invite = bench.take()[1]
    assert invite.source.address == "192.0.2.50"
    assert invite.value(sip.H_ROUTE) == "<sip:192.0.2.50;lr>"


def test_headers_attached_to_the_transaction_are_in_all_its_requests() -> None:
    """tm manual, t_add_hdrs: branches, CANCELs, hop-by-hop ACKs."""
    bench = TmBench()
    run = bench.run()
    assert bench.call("t_add_hdrs", run, "X-Origin: 1.1.1.1\r\n") == 1
    bench.call("t_relay", run)
    invite = bench.take()[1]
    bench.answer(invite, 180)
    bench.cancel()
    bench.answer(invite, 487)
    sent = [invite, *(msg for msg in bench.take() if msg.is_request)]
    assert [msg.method for msg in sent] == ["INVITE", "CANCEL", "ACK"]
    assert all(msg.named("X-Origin")[0].value == "1.1.1.1" for msg in sent)
    assert bench.call("t_add_hdrs", run, "X: 1\r\n\r\nINVITE") == -1


def test_t_replicate_sends_a_copy_that_the_caller_hears_nothing_of() -> None:
    """tm manual, t_replicate."""
    bench = TmBench()
    run = bench.run("REGISTER", "sip:example.org")
    assert bench.call("t_replicate", run, CAROL) == 1
    (copy,) = bench.take()
    assert (copy.method, copy.ruri, copy.source.address) == ("REGISTER", "sip:example.org", "192.0.2.30")
    bench.answer(copy, 200)
    assert bench.words() == []
    assert bench.call("t_reply", run, 200, "OK") == 1
    assert bench.words() == ["200"]
    bench.run_out()


# -- replies made here -------------------------------------------------------------------------------------------------


def test_t_reply_makes_the_transaction_and_keeps_one_to_tag() -> None:
    """RFC 3261 §8.2.6.2: all replies of one transaction have the same To tag, retransmissions too."""
    bench = TmBench()
    run = bench.run()
    assert bench.call("t_reply", run, 183, "Wait") == 1
    assert bench.call("t_reply", run, 486, "Busy") == 1
    trying, progress, busy = bench.take()
    assert (trying.status, progress.status, busy.status) == (100, 183, 486)
    assert progress.to_tag == busy.to_tag != ""
    assert bench.call("t_check_trans", bench.run()) == 0
    (again,) = bench.take()
    assert again.to_tag == busy.to_tag
    assert bench.call("t_reply", run, 404, "Too late") == -1
    assert bench.core.read("$T_reply_code", run) == 486
    ack = bench.ack(busy.to_tag)
    assert bench.call("t_check_trans", ack) == 1
    bench.run_out()


def test_a_200_made_here_is_repeated_until_its_ack_which_ends_here() -> None:
    """RFC 3261 §13.3.1.4."""
    bench = TmBench()
    run = bench.run()
    bench.call("t_reply", run, 200, "OK")
    ok = bench.take()[1]
    bench.core.advance(0.5)
    assert bench.words() == ["200"]
    ack = bench.ack(ok.to_tag, branch="z9hG4bK-ack")
    assert bench.call("t_relay", ack) == 1
    bench.core.advance(5)
    assert bench.words() == []
    bench.run_out()


def test_t_reply_with_body_carries_the_body_and_the_scripts_headers() -> None:
    """tm manual, t_reply_with_body."""
    bench = TmBench()
    run = bench.run()
    run.reply_edits.append("Content-Type: application/sdp\r\n")
    assert bench.call("t_reply_with_body", run, 200, "OK", "v=0\r\n") == 1
    ok = bench.take()[1]
    assert (ok.body, ok.content_type) == (b"v=0\r\n", "application/sdp")


def test_a_final_reply_of_the_script_cancels_the_branches() -> None:
    """Nobody may go on ringing for a call that is over."""
    bench = TmBench()
    run = bench.invite()
    invite = bench.take()[1]
    bench.answer(invite, 180)
    bench.words()
    assert bench.call("t_reply", run, 480, "Enough") == 1
    assert bench.words() == ["480", "CANCEL 192.0.2.20"]
    bench.answer(invite, 487)
    assert bench.words() == ["ACK 192.0.2.20"]
    bench.run_out()


def test_a_transaction_that_the_script_leaves_alone_is_let_go() -> None:
    """Nobody would ever answer it; its retransmission counts as new."""
    bench = TmBench()
    run = bench.run()
    assert bench.call("t_newtran", run) == 1
    assert bench.call("t_newtran", run) == -1
    bench.end(run)
    assert bench.stat("inuse_transactions") == 0
    assert bench.call("t_newtran", bench.run()) == 1


def test_a_call_parked_with_a_provisional_waits_for_its_answer() -> None:
    """tm manual, t_reply_by_callid: UAS calls are answered later, or time out."""
    bench = TmBench(fr_inv_timeout=60)
    run = bench.run()
    bench.call("t_reply", run, 180, "Ringing")
    bench.end(run)
    bench.words()
    bye = bench.run("BYE", cseq=2)
    assert bench.call("t_reply_by_callid", bye, 487, "Request Terminated", None, "1") == 1
    assert bench.words() == ["487"]
    assert bench.call("t_reply_by_callid", bye, 487, "Request Terminated", None, "1") == -1
    parked = bench.run(via="SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK-2")
    bench.call("t_reply", parked, 180, "Ringing")
    bench.end(parked)
    bench.words()
    bench.core.advance(60.1)
    assert "408" in bench.words()
    bench.run_out()


def test_old_clients_are_matched_without_branches() -> None:
    """RFC 3261 §17.2.3, RFC 2543: Request-URI, tags, Call-ID, CSeq and topmost Via; the ACK by the To tag too."""
    bench = TmBench()
    via = "SIP/2.0/UDP 192.0.2.10:5060"
    run = bench.run(via=via)
    bench.call("t_reply", run, 486, "Busy")
    busy = bench.take()[1]
    assert bench.call("t_check_trans", bench.run(via=via)) == 0
    assert bench.words() == ["486"]
    assert bench.call("t_check_trans", bench.run(via=via, cseq=2)) == -1
    stranger = bench.run("ACK", via=via, to="<sip:bob@example.org>;tag=other")
    assert bench.call("t_check_trans", stranger) == -2
    ack = bench.run("ACK", via=via, to=f"<sip:bob@example.org>;tag={busy.to_tag}")
    assert bench.call("t_check_trans", ack) == 1


def test_old_clients_may_change_the_request_uri_when_the_operator_says_so() -> None:
    """tm manual, ruri_matching and via1_matching."""
    strict, lax = TmBench(), TmBench(ruri_matching=0, via1_matching=0)
    for bench, result in ((strict, -1), (lax, 0)):
        bench.call("t_newtran", bench.run(via="SIP/2.0/UDP 192.0.2.10:5060"))
        changed = bench.run(ruri=CAROL, via="SIP/2.0/UDP 192.0.2.11:5060")
        assert bench.call("t_check_trans", changed) == result


# -- late branches -----------------------------------------------------------------------------------------------------


def test_a_transaction_waits_for_branches_to_be_injected() -> None:
    """tm manual, t_wait_for_new_branches and t_inject_branches."""
    bench = TmBench()
    run = bench.run()
    bench.call("t_newtran", run)
    assert bench.call("t_wait_for_new_branches", run) == 1
    bench.call("t_relay", run)
    bob = bench.take()[1]
    assert bench.core.read("$tm.branch.type", run, index=0) == "phone"
    assert bench.core.read("$tm.branch.type", run, index=1) == "sip"
    bench.answer(bob, 404)
    assert bench.words() == ["ACK 192.0.2.20"]
    run.ruri = CAROL
    assert bench.call("t_inject_branches", run, "msg") == 1
    (carol,) = bench.take()
    assert carol.source.address == "192.0.2.30"
    bench.answer(carol, 200)
    assert bench.words() == ["200"]
    assert bench.call("t_inject_branches", run, "msg") == -1 or bench.transaction(run).answered
    bench.run_out()


def test_waiting_ends_when_the_last_branch_was_injected() -> None:
    """tm manual, t_wait_for_new_branches(branches)."""
    bench = TmBench()
    run = bench.run()
    bench.call("t_newtran", run)
    bench.call("t_wait_for_new_branches", run, 1)
    bench.end(run)
    bench.words()
    assert bench.call("t_inject_branches", run, "msg") == 1
    (bob,) = bench.take()
    bench.answer(bob, 486)
    assert bench.words() == ["ACK 192.0.2.20", "486"]


def test_waiting_ends_when_the_script_says_so() -> None:
    """tm manual, t_wait_no_more_branches."""
    bench = TmBench()
    run = bench.run()
    bench.call("t_newtran", run)
    bench.call("t_wait_for_new_branches", run)
    bench.call("t_relay", run)
    bench.answer(bench.take()[1], 486)
    assert bench.words() == ["ACK 192.0.2.20"]
    assert bench.call("t_wait_no_more_branches", run) == 1
    assert bench.words() == ["486"]


def test_waiting_ends_with_fr_inv_timeout() -> None:
    """tm manual: the time-out of the transaction; the best real answer wins."""
    bench = TmBench(fr_inv_timeout=10)
    run = bench.run()
    bench.call("t_newtran", run)
    bench.call("t_wait_for_new_branches", run)
    bench.call("t_relay", run)
    bench.answer(bench.take()[1], 486)
    bench.words()
    bench.core.advance(10.1)
    assert bench.words() == ["486"]
    bench.run_out()


# -- asking ------------------------------------------------------------------------------------------------------------


def test_timeouts_can_be_set_per_request_and_while_it_rings() -> None:
    """tm manual, $T_fr_timeout and $T_fr_inv_timeout."""
    bench = TmBench()
    bench.onreply("shorter", lambda run: bench.core.write("$T_fr_inv_timeout", run, 7) or 1)
    run = bench.run()
    assert bench.core.read("$T_fr_timeout", run) == 30
    bench.core.write("$T_fr_timeout", run, 3)
    assert bench.core.read("$T_fr_timeout", run) == 3
    bench.core.write("$T_fr_timeout", run, None)
    assert bench.core.read("$T_fr_timeout", run) == 30
    bench.core.write("$T_fr_timeout", run, -1)
    assert bench.core.read("$T_fr_timeout", run) == 30
    bench.core.write("$T_fr_timeout", run, "4")
    bench.call("t_on_reply", run, "shorter")
    bench.call("t_relay", run)
    invite = bench.take()[1]
    bench.answer(invite, 180)
    bench.words()
    bench.core.advance(7.1)
    assert bench.words() == ["CANCEL 192.0.2.20", "408"]


def test_values_of_a_branch_stay_with_it() -> None:
    """tm manual, $bavp, $tm.branch.attr, $tm.branch.flag."""
    bench = TmBench()
    core = bench.core
    seen: list[Any] = []

    def prepare(run: Run) -> int:
        core.write("$bavp", run, run.ruri, "uri")
        core.write("$tm.branch.attr", run, f"n{run.branch_index}", "name")
        if run.ruri == CAROL:
            core.write("$tm.branch.flag", run, 1, "GW")
        return 1

    def look(run: Run) -> int:
        seen.append((core.read("$bavp", run, "uri"), core.read("$tm.branch.attr", run, "name")))
        seen.append(core.read("$tm.branch.flags", run))
        seen.append(core.read("$tm.branch.uri", run, index=0))
        seen.append(core.read("$T_branch_last_reply_code", run))
        assert bench.call("t_get_branch_idx_by_attr", run, "name", "n0") == 1
        assert bench.call("t_get_branch_idx_by_attr", run, "name", "n9") == -1
        return 1

    bench.branch("prepare", prepare)
    bench.onreply("look", look)
    bench.invite(CAROL, arm={"t_on_branch": "prepare", "t_on_reply": "look"})
    carol = bench.take()[2]
    bench.answer(carol, 183)
    assert seen == [(CAROL, "n1"), "GW", BOB, 0]


def test_t_cancel_branch_ends_one_or_all() -> None:
    """tm manual, t_cancel_branch: this one, "o" the others, "a" all."""
    for flags, cancelled in ((None, ["192.0.2.30"]), ("o", ["192.0.2.20"]), ("a", ["192.0.2.20", "192.0.2.30"])):
        bench = TmBench()

        def route(run: Run, bench: TmBench = bench, flags: str | None = flags) -> int:
            return int(bench.call("t_cancel_branch", run, flags)) if run.msg.status == 183 else 1

        bench.onreply("end", route)
        bench.invite(CAROL, arm={"t_on_reply": "end"})
        _, bob, carol = bench.take()
        bench.answer(bob, 180)
        bench.words()
        bench.answer(carol, 183)
        assert [msg.source.address for msg in bench.take() if msg.method == "CANCEL" and msg.is_request] == cancelled


def test_flags_changed_after_t_newtran_are_flushed_on_demand() -> None:
    """tm manual, t_flush_flags."""
    bench = TmBench()
    run = bench.run()
    assert bench.call("t_flush_flags", run) == -1
    bench.call("t_newtran", run)
    run.msg_flags = 6
    assert bench.call("t_flush_flags", run) == 1
    assert bench.transaction(run).flags == 6


def test_t_id_is_one_text_for_all_routes_of_a_transaction() -> None:
    """tm manual, $T_id."""
    bench = TmBench()
    ids: list[Any] = []
    bench.onreply("look", lambda run: ids.append(bench.core.read("$T_id", run)) or 1)
    run = bench.run()
    assert bench.core.read("$T_id", run) is None
    bench.call("t_on_reply", run, "look")
    bench.call("t_relay", run)
    bench.answer(bench.take()[1], 180)
    assert ids == [bench.core.read("$T_id", run)]


@pytest.mark.parametrize("syn_branch", [0, 1])
def test_branches_survive_a_restart_when_they_are_computed(syn_branch: int) -> None:
    """tm manual, syn_branch: 0 gives the same branch for the same request."""
    branches = set()
    for seed in (1, 2):
        bench = TmBench(syn_branch=syn_branch)
        bench.core.random.seed(seed)
        bench.invite()
        branches.add(bench.take()[1].via.branch)
    assert len(branches) == (1 if syn_branch == 0 else 2)


def test_a_reply_with_a_guessed_branch_is_not_taken() -> None:
    """Only who saw the request knows the label."""
    bench = TmBench()
    bench.invite()
    invite = bench.take()[1]
    for wrong in ("z9hG4bK1.2.0", invite.via.branch + "1", invite.via.branch[:-1] + "7", "z9hG4bK", "x"):
        text = invite.head.replace(invite.via.branch, wrong)
        forged = sip.parse_message((text + "\r\n").encode(), invite.source, invite.socket)
        assert not bench.answer(forged, 200)
    assert bench.words() == []


def test_times_that_make_no_sense_are_refused_at_load() -> None:
    """A script error, not a server that hangs."""
    for params in ({"fr_timeout": 0}, {"T1_timer": 0}, {"wt_timer": -1}, {"fr_inv_timeout": 10**9}):
        with pytest.raises(ParamError):
            TmBench(**params)


def test_missing_look_on_routes_are_found_at_start() -> None:
    """tm manual, local_request_route and local_reply_route."""
    bench = TmBench(local_request_route="nowhere")
    with pytest.raises(ParamError):
        asyncio.run(bench.tm.start())
    assert Tm.name == "tm"


def test_rport_is_answered_and_asked_for_as_the_script_says() -> None:
    """RFC 3581; force_rport() may come after t_newtran(), add_local_rport() is for our own Via."""
    bench = TmBench()
    run = bench.run(via="SIP/2.0/UDP 192.0.2.10:5099;branch=z9hG4bK-1")
    bench.call("t_newtran", run)
    assert bench.core.sent[-1].target.peer.port == 5099
    run.via_flags = VIA_FORCE_RPORT | VIA_LOCAL_RPORT
    bench.call("t_relay", run)
    invite = bench.take()[1]
    assert invite.via.rport == 0
    assert invite.vias[1].rport == 5060
    bench.answer(invite, 486)
    assert bench.core.sent[-1].target.peer.port == 5060


def test_a_copy_that_nobody_can_be_sent_leaves_nothing_behind() -> None:
    """t_replicate to a name that does not resolve."""
    bench = TmBench()
    assert bench.call("t_replicate", bench.run("REGISTER"), "sip:gone.invalid") == -4
    bench.run_out()


def test_transactions_are_limited_and_the_limit_is_shown() -> None:
    """Section 21.5.4: 503 with Retry-After; what is open already goes on."""
    bench = TmBench()
    bench.tm.flow.most_transactions = 1
    first = bench.run()
    assert bench.call("t_relay", first) == 1
    bench.take()
    second = bench.run(call_id="another", via="SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKanother")
    assert bench.call("t_relay", second) == 1
    [refusal] = bench.take()
    assert refusal.status == 503
    assert refusal.named("Retry-After")
    assert len(bench.tm.flow.layer) == 1
    # The ACK for it goes no further, though no transaction is there that it belongs to (§17.1.1.3).
    ack = bench.run("ACK", call_id="another", to=f"<sip:bob@example.org>;tag={refusal.to_tag}")
    assert bench.call("t_check_trans", ack) == 1
    bench.call("t_relay", ack)
    assert bench.words() == []
    assert bench.tm.refused_transactions.value == 1
    assert bench.tm.transactions_limit.read() == 1


def test_a_request_that_waits_for_long_can_still_be_answered_and_cancelled() -> None:
    """What was parsed of it is let go meanwhile (section 16.10, 17.1.1.2)."""
    bench = TmBench()
    bench.invite()
    [_, invite] = bench.take()
    bench.core.advance(0.5)
    assert bench.words() == ["INVITE 192.0.2.20"]
    bench.answer(invite, 180, "Ringing")
    assert bench.words() == ["180"]
    bench.cancel()
    canceling, cancel = bench.take()
    assert canceling.status == 200
    assert cancel.method == "CANCEL"
    bench.answer(invite, 487, "Request Terminated")
    assert bench.words() == ["ACK 192.0.2.20", "487"]


def test_what_was_parsed_of_a_request_comes_back_when_it_is_asked_for() -> None:
    bench = TmBench()
    run = bench.run()
    before = (str(run.msg.from_), run.msg.via.branch, run.msg.uri.host)
    run.msg.forget_parsed()
    assert (str(run.msg.from_), run.msg.via.branch, run.msg.uri.host) == before


def test_a_failure_route_may_answer_a_non_invite_that_timed_out() -> None:
    """RFC 4320 section 4.2 keeps the server from it, not the operator."""
    bench = TmBench(fr_timeout=5)
    seen: list[int] = []

    def late(run: Run) -> int:
        seen.append(bench.call("t_check_status", run, Pattern("408")))
        return int(bench.call("t_reply", run, 504, "Too late"))

    bench.failure("late", late)
    run = bench.run("OPTIONS")
    bench.call("t_on_failure", run, "late")
    assert bench.call("t_relay", run) == 1
    bench.end(run)
    bench.core.advance(6)
    assert seen == [1]
    assert bench.words()[-1] == "504"
    bench.run_out()


@pytest.mark.parametrize(("restart", "timed_out"), [(1, False), (0, True)])
def test_each_provisional_starts_the_wait_again_unless_told_otherwise(restart: int, timed_out: bool) -> None:
    """`restart_fr_on_each_reply`; section 16.7 step 2 (timer C)."""
    bench = TmBench(fr_inv_timeout=10, restart_fr_on_each_reply=restart)
    bench.invite()
    invite = bench.take()[1]
    for _ in range(3):
        bench.answer(invite, 180, "Ringing")
        bench.core.advance(4)
    assert ("CANCEL 192.0.2.20" in bench.words()) == timed_out


@pytest.mark.parametrize("edit", ["nothing", "one line", "the body"])
def test_a_request_that_nobody_answers_leaves_each_time_as_the_first(edit: str) -> None:
    """RFC 3261 §17.1.1.2: the very same request; only what tells it from the received one is kept meanwhile."""
    bench = TmBench()
    text = "X-A: \u00fc\r\nSubject: two\r\n lines\r\n" + "".join(f"X-{i}: {'v' * 20}\r\n" for i in range(8))
    run = bench.run(headers=text, body="v=0\r\n" * 20)
    if edit == "one line":
        start, end = run.msg.value_place(sip.H_MAX_FORWARDS)
        run.edits.replace(start, end, "69")
    elif edit == "the body":
        run.edits.set_body(b"changed", None)
    assert bench.call("t_relay", run) == 1
    bench.end(run)
    first = bench.core.sent[-1].data
    bench.core.sent.clear()
    bench.core.advance(29)
    run.edits.append("X-Late: not in this copy\r\n")
    assert [one.data for one in bench.core.sent] == [first] * 5
    branch = bench.transaction(run).branches[0]
    folded = edit != "the body"
    assert (branch.rest is not None, len(branch.data) < len(first)) == (folded, folded)
    # Who takes the call late is cancelled, and acknowledged, as if all were there.
    invite = sip.parse_message(first, bench.core.sent[0].target.peer, bench.core.sent[0].target.socket)
    bench.core.sent.clear()
    bench.core.advance(2)
    assert bench.words() == ["408", "408"]  # the second by timer G
    bench.answer(invite, 180)
    (cancel,) = bench.take()
    assert (cancel.method, cancel.ruri, cancel.via.branch) == ("CANCEL", invite.ruri, invite.via.branch)
    bench.answer(invite, 487)
    (ack,) = bench.take()
    assert (ack.method, ack.via.branch, ack.to_tag) == ("ACK", invite.via.branch, "b1")
    bench.run_out()


def test_the_100_that_was_sent_by_itself_leaves_again_as_the_first() -> None:
    """RFC 3261 §17.2.1: a retransmission of the request has the last provisional response again."""
    bench = TmBench()
    run = bench.invite()
    first = bench.core.sent[0].data
    bench.core.advance(5)
    for _ in range(2):
        bench.core.sent.clear()
        assert bench.call("t_newtran", bench.run()) == 0
        assert [one.data for one in bench.core.sent] == [first]
    assert bench.transaction(run).last_reply == b""


def test_a_100_of_the_script_is_what_leaves_again() -> None:
    bench = TmBench()
    run = bench.invite()
    assert bench.call("t_reply", run, 100, "Wait a little") == 1
    first = bench.core.sent[-1].data
    bench.core.sent.clear()
    assert bench.call("t_newtran", bench.run()) == 0
    assert [one.data for one in bench.core.sent] == [first]
