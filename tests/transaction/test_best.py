"""The choice of the final response (RFC 3261 section 16.7 step 6)."""

from __future__ import annotations

import pytest

from opensipspy.transaction import Branch, Transaction, best_branch, collected_challenges

from .timeline import client


def branches(*statuses: int) -> list[Branch]:
    made = []
    owner = Transaction("INVITE", True)
    for index, status in enumerate(statuses):
        branch = Branch(owner, index, "sip:x@192.0.2.20")
        branch.status = status
        made.append(branch)
    return made


@pytest.mark.parametrize(
    ("statuses", "best"),
    [
        ((404, 603, 302), 603),
        ((500, 404, 302), 302),
        ((500, 486), 486),
        ((486, 401), 401),
        ((404, 407), 407),
        ((408, 486), 486),
        ((503, 500), 500),
        ((503, 504), 504),
        ((503,), 503),
        ((408, 500), 408),
        ((600, 606), 600),
    ],
)
def test_the_most_useful_answer_wins(statuses: tuple[int, ...], best: int) -> None:
    """6xx first, then the lowest class; what helps the caller to ask again before the rest of 4xx."""
    assert best_branch(branches(*statuses)).status == best


def test_the_oldest_of_equals_wins() -> None:
    """The order of arrival does not decide, the script's order does."""
    made = branches(486, 486)
    assert best_branch(made) is made[0]


def test_a_branch_without_signalling_wins_only_alone() -> None:
    """It merely waited."""
    made = branches(408, 500)
    made[0].phony = True
    assert best_branch(made) is made[1]
    assert best_branch(made[:1]) is made[0]


def test_there_has_to_be_one() -> None:
    """The caller looks first."""
    with pytest.raises(ValueError, match="no branch"):
        best_branch([])


def test_challenges_are_collected_from_the_others() -> None:
    """RFC 3261 §16.7 step 7: in the order of the branches, and only for a challenge."""
    bench = client("INVITE")
    assert bench.branch is not None
    made = branches(401, 407, 486)
    made[1].reply = bench.reply_message(407, headers="Proxy-Authenticate: a\r\nProxy-Authenticate: b\r\n")
    made[2].reply = bench.reply_message(486, headers="WWW-Authenticate: c\r\n")
    assert collected_challenges(made, made[0]) == "Proxy-Authenticate: a\r\nProxy-Authenticate: b\r\n"
    assert collected_challenges(made, made[2]) == ""
