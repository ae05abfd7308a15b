"""Matching and the response context: which transaction a message belongs to, and what its answers add up to."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from opensipspy import sip
from opensipspy.transaction import FINISHED, FORWARD, NOTHING, Branch, Settings, Transaction
from opensipspy.transaction.ident import MAX_BRANCHES

from .timeline import Bench, ack, client, play, recv, request, respond, server, start


def context(branches: int = 2, method: str = "INVITE", settings: Settings | None = None) -> tuple[Bench, list[Branch]]:
    """A transaction with branches that were sent."""
    bench = server(method, settings=settings)
    return bench, [bench.add_branch(0.0) for _ in range(branches)]


def settle(bench: Bench, branch: Branch, status: int) -> int:
    """A response of a branch, through its machine and into the context."""
    msg = bench.reply_message(status, branch, to_tag=f"b{branch.index}")
    if status >= 300:
        branch.reply = msg
    bench.receive(msg, 1.0)
    return bench.layer.settle(branch, status, 1.0)


def transaction(bench: Bench) -> Transaction:
    assert bench.transaction is not None
    return bench.transaction


# -- matching requests -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, True),
        ({"branch": "z9hG4bK-other"}, False),
        ({"via": "SIP/2.0/UDP 192.0.2.11:5060"}, False),
        ({"via": "SIP/2.0/UDP 192.0.2.10:5070"}, False),
        ({"method": "OPTIONS"}, False),
        ({"method": "CANCEL"}, False),
        ({"ruri": "sip:other@example.org", "cseq": 9, "call_id": "x"}, True),
    ],
)
def test_requests_are_matched_by_branch_sent_by_and_method(given: dict[str, object], found: bool) -> None:
    """RFC 3261 §17.2.3: nothing else counts once the branch has the cookie."""
    bench = server("INVITE")
    msg = request(**{"method": "INVITE", **given})  # type: ignore[arg-type]
    assert (bench.layer.find(msg) is bench.transaction) == found


def test_an_ack_of_the_same_hop_and_a_cancel_belong_to_the_invite() -> None:
    """RFC 3261 §17.2.3, §9.2."""
    bench = server("INVITE")
    assert bench.layer.find(request("ACK")) is bench.transaction
    assert bench.layer.find_cancelled(request("CANCEL")) is bench.transaction
    assert server("MESSAGE").layer.find_cancelled(request("CANCEL")) is None


def test_an_ack_for_a_2xx_made_here_is_found_by_its_dialog() -> None:
    """RFC 3261 §13.2.2.4: it has a branch of its own."""
    bench = play(server("INVITE"), [(0.0, respond(200, local=True), ["200"])])
    stray = request("ACK", "z9hG4bK-new", to="<sip:bob@example.org>;tag=t1")
    assert bench.layer.find(stray) is None
    assert bench.layer.find_local_2xx(stray) is bench.transaction
    assert bench.layer.find_local_2xx(request("ACK", "z9hG4bK-new", to="<sip:bob@example.org>;tag=t2")) is None
    assert server("INVITE").layer.find_local_2xx(stray) is None


def test_a_client_that_puts_the_invites_branch_into_the_ack_for_a_2xx_is_let_through() -> None:
    """RFC 6026 §7.1: in ACCEPTED an ACK goes to the transaction user."""
    play(server("INVITE"), [(0.0, respond(200), ["200"]), (0.1, ack, ["pass ack"])])


# -- matching replies ------------------------------------------------------------------------------------------------


def test_replies_find_their_branch_and_their_method() -> None:
    """RFC 3261 §17.1.3: branch parameter and CSeq method."""
    bench, (first, second) = context()
    assert bench.layer.match_reply(bench.reply_message(200, first)) is first
    assert bench.layer.match_reply(bench.reply_message(200, second)) is second
    assert bench.layer.match_reply(bench.reply_message(200, first, method="MESSAGE")) is None
    assert bench.layer.match_reply(bench.reply_message(200, first, method="CANCEL")) is None
    bench.receive(bench.reply_message(180, first), 0.1)
    bench.layer.cancel(first, 0.2)
    assert bench.layer.match_reply(bench.reply_message(200, first, method="CANCEL")) is first.cancel


@pytest.mark.parametrize(
    "branch", ["z9hG4bK", "z9hG4bK.", "z9hG4bKx.y.0", "other", "z9hG4bK1.2", "z9hG4bK1.2.99999", "z9hG4bK1.2.-1"]
)
def test_branches_that_we_never_made_match_nothing(branch: str) -> None:
    """Hostile or stray replies fall through."""
    bench, _ = context()
    text = (
        f"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 192.0.2.1:5060;branch={branch}\r\nFrom: <sip:a@b>;tag=1\r\n"
        "To: <sip:a@b>;tag=2\r\nCall-ID: c1@example.com\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
    )
    msg = sip.parse_message(
        text.encode(),
        sip.Peer(sip.PROTO_UDP, "192.0.2.66", 5060),
        bench.reply_message(200, transaction(bench).branches[0]).socket,
    )
    assert bench.layer.match_reply(msg) is None


def test_a_reply_to_a_branch_that_was_not_sent_matches_nothing() -> None:
    """A guess that comes before the request leaves."""
    bench = client("INVITE")
    assert bench.layer.match_reply(bench.reply_message(200)) is None


def test_ids_do_not_repeat_even_when_the_random_numbers_do() -> None:
    """The label is drawn again."""

    class Stuck:
        def __init__(self) -> None:
            self.numbers = [5, 5, 5, 6]

        def getrandbits(self, bits: int, /) -> int:
            return self.numbers.pop(0)

    bench = Bench()
    bench.layer._random = Stuck()
    ids = [bench.layer.create_local("INVITE", "same", 0.0).id for _ in range(2)]
    assert len(set(ids)) == 2
    assert len({name.partition(".")[0] for name in ids}) == 1


# -- response context ------------------------------------------------------------------------------------------------


def test_provisional_responses_go_up_but_100_does_not() -> None:
    """RFC 3261 §16.7 step 5."""
    bench, (first, second) = context()
    assert settle(bench, first, 100) == NOTHING
    assert settle(bench, first, 180) == FORWARD
    assert settle(bench, second, 183) == FORWARD
    respond(200)(bench, 1.0)
    assert bench.layer.settle(second, 180, 1.0) == NOTHING


def test_failures_wait_until_the_last_branch_has_ended() -> None:
    """RFC 3261 §16.7 step 5 and 6."""
    bench, (first, second) = context()
    assert settle(bench, first, 486) == NOTHING
    assert settle(bench, second, 404) == FINISHED
    assert bench.layer.winner(transaction(bench)) is second


def test_a_2xx_goes_up_at_once_and_ends_the_others() -> None:
    """RFC 3261 §16.7 step 5 and 10."""
    bench, (first, second) = context()
    settle(bench, second, 180)
    bench.out.clear()
    assert settle(bench, first, 200) == FORWARD
    assert bench.out == ["deliver 200", "CANCEL"]
    respond(200)(bench, 1.0)
    assert settle(bench, second, 487) == NOTHING


def test_a_late_2xx_goes_up_after_the_first_and_after_a_failure() -> None:
    """RFC 3261 §16.7 step 5: "after a final response has been sent" any 2xx to an INVITE still goes on."""
    bench, (first, second) = context()
    settle(bench, first, 200)
    respond(200)(bench, 1.0)
    assert settle(bench, second, 200) == FORWARD
    failed, (only,) = context(1)
    respond(480)(failed, 1.0)
    assert settle(failed, only, 200) == FORWARD


def test_a_6xx_cancels_at_once_and_is_sent_when_all_have_ended() -> None:
    """RFC 3261 §16.7 step 5: it is not forwarded immediately."""
    bench, (first, second) = context()
    settle(bench, second, 180)
    bench.out.clear()
    assert settle(bench, first, 603) == NOTHING
    assert "CANCEL" in bench.out
    assert transaction(bench).no_more
    assert settle(bench, second, 487) == FINISHED
    assert bench.layer.winner(transaction(bench)) is first


def test_only_the_latest_set_of_branches_counts() -> None:
    """Serial forking: what failed before the failure route has had its say."""
    bench, (first,) = context(1)
    settle(bench, first, 401)
    transaction(bench).first = 1
    second = bench.add_branch(2.0)
    assert settle(bench, second, 500) == FINISHED
    assert bench.layer.winner(transaction(bench)) is second


def test_a_2xx_to_a_non_invite_counts_once() -> None:
    """RFC 3261 §16.7 step 5: further 2xx are forwarded for INVITE only."""
    bench, (first, second) = context(method="MESSAGE")
    assert settle(bench, first, 200) == FORWARD
    respond(200)(bench, 1.0)
    assert settle(bench, second, 200) == NOTHING


def test_there_is_a_most_of_branches() -> None:
    """A script that forks in a loop does not eat the memory."""
    bench = server("INVITE")
    for _ in range(MAX_BRANCHES):
        assert bench.layer.add_branch(transaction(bench), "sip:x@192.0.2.20") is not None
    assert bench.layer.add_branch(transaction(bench), "sip:x@192.0.2.20") is None


# -- the end ---------------------------------------------------------------------------------------------------------


def test_nothing_is_deleted_while_a_route_works_on_it() -> None:
    """tm manual, delete_timer: it is tried again."""
    bench = server("MESSAGE")
    transaction(bench).busy = 1
    play(bench, [(0.0, respond(200), ["200"]), (6.0, lambda b, now: b.layer.wake(now), [])])
    assert len(bench.layer) == 1
    transaction(bench).busy = 0
    bench.layer.wake(8.0)
    assert len(bench.layer) == 0


def test_an_answered_transaction_keeps_little() -> None:
    """The request, the script's state and received replies go as soon as all have ended."""
    bench, (first,) = context(1)
    transaction(bench).run = object()
    settle(bench, first, 200)
    bench.layer.compact(transaction(bench))
    assert transaction(bench).request is not None
    respond(200)(bench, 1.0)
    bench.layer.compact(transaction(bench))
    kept = transaction(bench)
    assert (kept.request, kept.run, first.data, first.reply) == (None, None, b"", None)


def test_many_pending_transactions_take_little_memory_and_leave_none() -> None:
    """Less than 4 kB each beside the request itself; all is released when their time is up."""
    count = 2000
    bench = Bench()
    msg = request()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(count):
        made = bench.layer.create(msg, f"key-{number}", 0.0)
        made.request = None
        bench.transaction = made
        bench.add_branch(0.0)
        bench.out.clear()
        bench.wire.clear()
    each = (tracemalloc.get_traced_memory()[0] - before) / count
    tracemalloc.stop()
    assert each < 3000
    assert len(bench.layer) == count
    for made in bench.layer.transactions():
        bench.layer.reply(made, 408, b"408", "t", True, 30.0)
    at = bench.layer.next_wake()
    while at is not None:
        bench.layer.wake(at)
        at = bench.layer.next_wake()
    assert len(bench.layer) == 0
    assert bench.layer.pending_timers == 0


def test_an_ended_transaction_needs_no_collector() -> None:
    """Thousands end each second: a cycle among the machines of one would stay in memory until gc looks for it."""

    def alive() -> int:
        return sum(isinstance(thing, Transaction | Branch) for thing in gc.get_objects())

    def life() -> None:
        bench, (first, second) = context(2)
        settle(bench, first, 486)
        settle(bench, second, 200)
        respond(200)(bench, 1.0)
        at = bench.layer.next_wake()
        while at is not None:
            bench.layer.wake(at)
            at = bench.layer.next_wake()
        assert len(bench.layer) == 0
        del bench.transaction

    gc.collect()
    gc.disable()
    try:
        before = alive()
        for _ in range(10):
            life()
        assert alive() == before
    finally:
        gc.enable()


def test_replies_of_a_local_request_are_delivered_like_any_other() -> None:
    """A request made here has a branch and no server side."""
    play(client("OPTIONS"), [(0.0, start, ["OPTIONS"]), (0.1, recv(200), ["deliver 200"]), (5.1, recv(200), [])])
