"""What `tm` offers to other modules.

tm = core.api("tm", TmApi)
tm.on(RESPONSE_OUT, self.account)               # every transaction
tm.transaction(run).on(DESTROYED, self.forget)  # one transaction
reply = await tm.request("OPTIONS", "sip:gw.example.org", "<sip:me@example.org>", "<sip:gw.example.org>")
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from opensipspy.transaction import (
    CANCELLED,
    DESTROYED,
    FAILURE,
    LOCAL_COMPLETED,
    REQUEST_IN,
    RESPONSE_IN,
    RESPONSE_OUT,
    Branch,
    Callback,
    Transaction,
)

if TYPE_CHECKING:
    from opensipspy.script.run import Run
    from opensipspy.sip import Message, Socket

__all__ = [
    "CANCELLED",
    "DESTROYED",
    "FAILURE",
    "LOCAL_COMPLETED",
    "REQUEST_IN",
    "RESPONSE_IN",
    "RESPONSE_OUT",
    "Branch",
    "Callback",
    "Reply",
    "TmApi",
    "Transaction",
]


class Reply:
    """The final answer to a request that was made here; `message` is None when it was made here too (408, 477 ...)."""

    __slots__ = ("message", "reason", "status")

    def __init__(self, status: int, reason: str, message: Message | None = None) -> None:
        self.status = status
        self.reason = reason
        self.message = message


class TmApi(ABC):
    """Transactions as other modules see them.

    A callback gets (transaction, what, reply, status):
      REQUEST_IN       the Run of a request that just got its transaction, None, 0
      RESPONSE_IN      the Run of a reply from a branch, before its routes; the reply; its status
      RESPONSE_OUT     the Run of the request, the reply that went upstream (None when made here), its status
      FAILURE          the Run of the request, the winning reply or None, its status: before the failure_route
      LOCAL_COMPLETED  the Run of a request made here, its final reply or None, its status
      CANCELLED        the Run of the request, None, 0: the caller sent a CANCEL that found the call unanswered
      DESTROYED        None, None, the last status that went upstream
    """

    @abstractmethod
    def transaction(self, run: Run) -> Transaction | None:
        """The transaction that a route runs for; None when there is none yet."""

    @abstractmethod
    def new_transaction(self, run: Run) -> int:
        """As `t_newtran()`: 1 made (or there already), 0 a retransmission was dealt with and the script ends."""

    @abstractmethod
    def reply(self, run: Run, code: int, reason: str, headers: str = "", body: bytes = b"") -> int:
        """As `t_reply()`, with more header lines (each with CRLF). 1 sent, negative when not."""

    @abstractmethod
    def local_tag(self, run: Run) -> str:
        """The To tag of replies made here within the transaction of `run`; "" when there is none."""

    @abstractmethod
    def on(self, event: int, callback: Callback) -> None:
        """Call `callback(transaction, what, reply, status)` at each such event of any transaction."""

    @abstractmethod
    async def request(
        self,
        method: str,
        ruri: str,
        from_: str,
        to: str,
        headers: str = "",
        body: bytes = b"",
        next_hop: str | None = None,
        socket: Socket | None = None,
        context: str = "",
    ) -> Reply:
        """Send a request made here and wait for its final reply; never raises for what the network does.

        from_, to: header values ("<sip:a@b>;tag=x"); a From without tag gets one. headers: further complete lines;
        Call-ID and CSeq there are used instead of new ones.
        """
