"""Max-Breadth in `tm`: what a request may be divided into, here and behind us (RFC 5393 §5)."""

from __future__ import annotations

import pytest

from opensipspy import sip
from opensipspy.script.run import Branch, Run

from .test_tm import failover_bench
from .tm_bench import CAROL, DAVE, TmBench

THREE = (CAROL, DAVE)


def breadths(bench: TmBench) -> list[str]:
    """What left as Max-Breadth with each INVITE since the last time, "-" for none."""
    return [msg.value(sip.H_MAX_BREADTH) or "-" for msg in bench.take() if msg.is_request and msg.method == "INVITE"]


@pytest.mark.parametrize(
    ("incoming", "shares"),
    [
        ("9", ["3", "3", "3"]),
        ("60", ["20", "20", "20"]),
        ("5", ["2", "2", "1"]),
        ("3", ["1", "1", "1"]),
        ("4000000000", ["20", "20", "20"]),
        ("99999999999999999999", ["20", "20", "20"]),
        ("many", ["20", "20", "20"]),
    ],
)
def test_the_branches_share_what_came_in(incoming: str, shares: list[str]) -> None:
    """RFC 5393 §5.3.3: their sum is never more, and no more than 60 whatever somebody wishes for."""
    bench = TmBench()
    bench.invite(*THREE, headers=f"Max-Breadth: {incoming}\r\n")
    assert breadths(bench) == shares


def test_one_branch_has_all_of_it() -> None:
    bench = TmBench()
    bench.invite(headers="max-breadth: 7\r\n")
    assert breadths(bench) == ["7"]


def test_a_request_without_it_stays_without_it() -> None:
    bench = TmBench()
    bench.invite(*THREE)
    assert breadths(bench) == ["-"] * 3


def test_it_leaves_once() -> None:
    """RFC 5393 §5.3.3: a single header field; of several the least counts."""
    bench = TmBench()
    bench.invite(headers="Max-Breadth: 30\r\nMax-Breadth: 4\r\n")
    (invite,) = (msg for msg in bench.take() if msg.method == "INVITE" and msg.is_request)
    assert [header.value for header in invite.all(sip.H_MAX_BREADTH)] == ["4"]


@pytest.mark.parametrize(("incoming", "more"), [("2", THREE), ("1", (CAROL,)), ("0", ())])
def test_a_fork_that_is_too_broad_is_refused(incoming: str, more: tuple[str, ...]) -> None:
    """RFC 5393 §5.3.3 and §5.3.4: 440, and nobody is called."""
    bench = TmBench()
    run = bench.run(headers=f"Max-Breadth: {incoming}\r\n")
    run.branches = [Branch(uri) for uri in more]
    assert bench.call("t_relay", run) == 1
    trying, refused = bench.take()
    assert (trying.status, refused.status, refused.reason) == (100, 440, "Max-Breadth Exceeded")
    bench.run_out()


def test_a_script_that_made_the_transaction_is_told() -> None:
    """It may answer 302 or try one after the other instead (RFC 5393 §5.3.3)."""
    bench = TmBench()
    run = bench.run(headers="Max-Breadth: 1\r\n")
    run.branches = [Branch(CAROL)]
    bench.call("t_newtran", run)
    bench.words()
    assert bench.call("t_relay", run) == -7
    assert bench.call("t_relay", run) == 1
    assert breadths(bench) == ["1"]


def test_who_is_tried_next_has_all_of_it_again() -> None:
    """RFC 5393 §5.3.3.1: a share is free once its branch has ended."""
    bench = TmBench()

    def elsewhere(run: Run) -> int:
        run.branches = [Branch(DAVE)]
        run.ruri = CAROL
        return int(bench.call("t_relay", run))

    bench.failure("elsewhere", elsewhere)
    bench.invite(arm={"t_on_failure": "elsewhere"}, headers="Max-Breadth: 2\r\n")
    invite = bench.take()[1]
    assert invite.value(sip.H_MAX_BREADTH) == "2"
    bench.answer(invite, 486)
    assert breadths(bench) == ["1", "1"]


def test_another_address_of_the_same_name_takes_its_share_over() -> None:
    """RFC 3263 §4.3 in the terms of RFC 5393: the branch that failed has ended."""
    bench = failover_bench()
    run = bench.run(ruri="sip:bob@example.org", headers="Max-Breadth: 5\r\n")
    run.branches = [Branch(CAROL)]
    bench.call("t_relay", run)
    first, carol = (msg for msg in bench.take() if msg.is_request)
    bench.answer(first, 503)
    (again,) = (msg for msg in bench.take() if msg.method == "INVITE" and msg.is_request)
    assert (first.value(sip.H_MAX_BREADTH), carol.value(sip.H_MAX_BREADTH)) == ("3", "2")
    assert again.value(sip.H_MAX_BREADTH) == "3"
    bench.answer(carol, 180)
    late = bench.run()
    late.transaction = run.transaction
    late.branches = []
    late.ruri = DAVE
    bench.words()
    assert bench.call("t_inject_branches", late, "msg") == -3, "all of it is in use"
    assert bench.words() == []


def test_branches_that_come_late_find_something_left() -> None:
    """tm manual, t_wait_for_new_branches: half of what there is waits for them."""
    bench = TmBench()
    run = bench.run(headers="Max-Breadth: 8\r\n")
    bench.call("t_newtran", run)
    bench.call("t_wait_for_new_branches", run)
    bench.call("t_relay", run)
    assert breadths(bench) == ["4"]
    for uri, share in ((CAROL, "2"), (DAVE, "1")):
        late = bench.run()
        late.transaction = run.transaction
        late.branches = []
        late.ruri = uri
        assert bench.call("t_inject_branches", late, "msg") == 1
        assert breadths(bench) == [share]
