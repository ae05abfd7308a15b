"""Max-Breadth: how many branches a request may have at a time, here and at all proxies behind (RFC 5393 §5).

The branches of a request share what it came with, and each one's share is given back when it has ended, so that those
who are tried one after the other have all of it. A fork that needs more than is left is refused with 440. A request
without the header is passed on without one: it would leave changed otherwise, and the limits on branches and loops
hold for it all the same.
"""

from __future__ import annotations

from typing import Final

from opensipspy import sip
from opensipspy.script.run import Run
from opensipspy.sip import Message
from opensipspy.transaction import Transaction

HIGHEST: Final = 60
"""What RFC 5393 §5.3.3 recommends as the most; whoever sends more gets this."""

DIGITS: Final = 10

BREADTH: Final = "tm.breadth"
"""Key in `Run.ctx` of a transaction's Breadth."""


class Breadth:
    """What a request may still be divided into. shares: by the number of the branch."""

    __slots__ = ("limit", "shares")

    def __init__(self, limit: int) -> None:
        self.limit: int = limit
        self.shares: dict[int, int] = {}

    def share(self, transaction: Transaction, indexes: list[int]) -> int:
        """Divide what is left among new branches; how many of them, the first ones, have a share.

        While a transaction waits for branches to come, half is kept for those.
        """
        left = self.limit
        for branch in transaction.branches:
            if branch.status < 200 and not branch.discarded:
                left -= self.shares.get(branch.index, 0)
        count = min(len(indexes), left)
        if count <= 0:
            return 0
        if transaction.waiting and left // 2 >= count:
            left //= 2
        for place in range(count):
            self.shares[indexes[place]] = left // count + (1 if place < left % count else 0)
        return count

    def move(self, failed: int, following: int) -> None:
        """A branch is tried anew as another: it has the share of the one that failed."""
        share = self.shares.pop(failed, 0)
        if share:
            self.shares[following] = share

    def note(self, run: Run, index: int) -> None:
        """Have the header leave with the share of a branch, once, as the RFC wants it."""
        headers = run.msg.all(sip.H_MAX_BREADTH)
        run.edits.replace(headers[0].value_start, headers[0].value_end, str(self.shares[index]))
        for header in headers[1:]:
            run.edits.remove(header)


def breadth_of(run: Run) -> Breadth:
    """The Breadth of a request that has the header."""
    found = run.ctx.get(BREADTH)
    if isinstance(found, Breadth):
        return found
    made = Breadth(incoming(run.msg))
    run.ctx[BREADTH] = made
    return made


def incoming(msg: Message) -> int:
    """What a request came with, the least of several; one that is no number is overwritten with our own limit."""
    least = HIGHEST
    for header in msg.all(sip.H_MAX_BREADTH):
        text = header.value
        if len(text) <= DIGITS and text.isascii() and text.isdigit():
            least = min(least, int(text))
    return least
