"""The choice of the response to send upstream (RFC 3261 section 16.7 step 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from opensipspy.sip import H_PROXY_AUTHENTICATE, H_WWW_AUTHENTICATE, Message
from opensipspy.transaction.state import Branch

# "responses that provide information affecting resubmission of this request"
_HELPFUL: Final = frozenset({401, 407, 415, 420, 484})


def preference(status: int) -> int:
    """How much a final status is worth to the caller, lower is better.

    A 6xx settles the matter; then the lowest class counts. Within 4xx those come first that tell how to ask again, and
    408 last; within 5xx a 503 comes last, for it speaks of one next hop only.
    """
    family = status // 100
    if family == 6:
        return status - 600
    rank = family * 10000 + status
    if status in _HELPFUL:
        return rank - 1000
    if status in (408, 503):
        return rank + 1000
    return rank


def best_branch(branches: Sequence[Branch]) -> Branch:
    """The branch whose final response goes upstream.

    branches: all ended, at least one. The oldest wins among equals; a branch without signalling wins only when there
    is no other. Raises ValueError when empty.
    """
    best: Branch | None = None
    best_rank = 0
    for branch in branches:
        rank = preference(branch.status) + (1_000_000 if branch.phony else 0)
        if best is None or rank < best_rank:
            best, best_rank = branch, rank
    if best is None:
        raise ValueError("no branch to choose from")
    return best


def collected_challenges(branches: Sequence[Branch], best: Branch) -> str:
    """Header lines of the challenges that the other 401 and 407 responses carry (section 16.7 step 7).

    The caller can then answer all of them in one go. "" when `best` is no challenge or there are no others.
    """
    if best.status not in (401, 407):
        return ""
    lines: list[str] = []
    for branch in branches:
        if branch is best or branch.status not in (401, 407) or branch.reply is None:
            continue
        lines.extend(_challenges(branch.reply))
    return "".join(lines)


def _challenges(reply: Message) -> list[str]:
    return [
        f"{name}: {header.value}\r\n"
        for kind, name in ((H_WWW_AUTHENTICATE, "WWW-Authenticate"), (H_PROXY_AUTHENTICATE, "Proxy-Authenticate"))
        for header in reply.all(kind)
    ]
