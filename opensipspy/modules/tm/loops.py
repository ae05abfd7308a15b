"""Requests that come round in a circle (RFC 3261 §16.3 step 4, RFC 5393 §4.2).

A Via with a branch of ours tells that the request was here before. When the transaction of that visit is still open and
everything that routing can depend on is as it was then (Request-URI, Route, tags, Call-ID, CSeq, and where it came
from), it would be routed the same way again: a loop, in which a proxy that forks doubles the requests with each round.
What was changed on its way, as by a forwarding or by an application server behind us, is a spiral and
goes on; the loop that comes from it is seen one round later.

The state of the open transaction is compared, so that no hash has to stand in the branch parameter.
"""

from __future__ import annotations

from typing import Final

from opensipspy import sip
from opensipspy.sip import Message
from opensipspy.transaction import Transaction, TransactionLayer
from opensipspy.transaction.ident import COOKIE, split_branch

PARAMETER: Final = "branch="
MOST_VIAS: Final = 70  # as many hops as Max-Forwards allows, RFC 3261 §20.22
ENDS: Final = ";, \t\r\n"


def looped(layer: TransactionLayer, msg: Message) -> bool:
    """Whether a new request is one that is on its way through here already."""
    via = msg.via
    if msg.count(sip.H_VIA) == 1 and via.end + 2 == msg.header_range(sip.H_VIA)[1]:
        # Straight from a phone: its Via, the only one, is parsed already.
        return _is_open(layer, msg, via.branch)
    headers = msg.all(sip.H_VIA)
    seen = 0
    for header in headers:
        text = header.value
        at = text.find(COOKIE)
        while at >= 0:
            seen += 1
            if seen > MOST_VIAS:
                return False
            if text[at - len(PARAMETER) : at].lower() == PARAMETER:
                end = at
                while end < len(text) and text[end] not in ENDS:
                    end += 1
                if _is_open(layer, msg, text[at:end]):
                    return True
            at = text.find(COOKIE, at + 1)
    return False


def _is_open(layer: TransactionLayer, msg: Message, branch: str) -> bool:
    """Whether a branch parameter is that of an open transaction of the same request."""
    transaction_id, _ = split_branch(branch)
    found = layer.find_id(transaction_id) if transaction_id else None
    return found is not None and same_request(found, msg)


def same_request(transaction: Transaction, msg: Message) -> bool:
    """Whether a request would be routed as the one of an open transaction was."""
    old = transaction.request
    return (
        old is not None
        and old.ruri == msg.ruri
        and old.method == msg.method
        and old.call_id == msg.call_id
        and old.cseq_number == msg.cseq_number
        and old.from_tag == msg.from_tag
        and old.to_tag == msg.to_tag
        and old.source.address == msg.source.address
        and old.source.port == msg.source.port
        and old.source.proto == msg.source.proto
        and routes(old) == routes(msg)
    )


def routes(msg: Message) -> list[str]:
    """The Route header fields as they came."""
    return [header.value for header in msg.all(sip.H_ROUTE)]
