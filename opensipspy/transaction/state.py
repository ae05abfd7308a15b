"""What is kept for one transaction: its server side, and a client side for each branch.

Only bytes that are still needed are kept: a branch that ended keeps its ACK, a transaction that ended keeps the last
response it sent, and `forget_heavy` drops the request, the script's state and the received replies.

Compiled, these classes are unknown to the collector of cycles (`acyclic`): with a hundred thousand of them each of its
rounds would hold up every call. The circles they form (transaction and branches, run and transaction) are opened when a
transaction ends, in `TransactionLayer._end` and `forget_heavy`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from mypy_extensions import mypyc_attr

from opensipspy.sip import Edits, Message, Socket
from opensipspy.transaction.tables import INITIAL, TERMINATED
from opensipspy.transaction.timers import Timed

# What happens to a transaction, for those who asked with `Transaction.on` or the module's interface.
REQUEST_IN: Final = 0
RESPONSE_IN: Final = 1
RESPONSE_OUT: Final = 2
FAILURE: Final = 3
LOCAL_COMPLETED: Final = 4
CANCELLED: Final = 5
DESTROYED: Final = 6
EVENTS: Final = 7

Callback = Callable[["Transaction", Any, Any, int], None]
"""callback(transaction, run or request, reply or None, status)."""


class Settings:
    """Times in seconds; names from RFC 3261 table 4 and the `tm` manual."""

    __slots__ = (
        "answer_non_invite_timeout",
        "block_6xx",
        "delete_s",
        "fr_inv_timeout_s",
        "fr_timeout_s",
        "restart_fr",
        "ruri_matching",
        "syn_branch",
        "t1_s",
        "t2_s",
        "t4_s",
        "via1_matching",
        "wait_s",
    )

    def __init__(self) -> None:
        self.t1_s: float = 0.5
        self.t2_s: float = 4.0
        self.t4_s: float = 5.0
        self.fr_timeout_s: float = 30.0
        self.fr_inv_timeout_s: float = 120.0
        self.wait_s: float = 5.0
        self.delete_s: float = 2.0
        self.restart_fr: bool = True
        self.block_6xx: bool = True
        self.syn_branch: bool = True
        self.ruri_matching: bool = True
        self.via1_matching: bool = True
        # RFC 4320 section 4.2: nobody sends a 408 to a non-INVITE, its client has given up by itself.
        self.answer_non_invite_timeout: bool = False


# Less is not worth an object of its own.
_LEAST_SAVED: Final = 128


@mypyc_attr(acyclic=True)
class Rest:
    """What a request that left has in common with the one that was received: two runs of text, and what stands between.

    Most copies differ in their start line, our Via and Max-Forwards, at or near the top. begin: where the common text
    begins in the copy. saved: whether enough is in common; the rest is undefined otherwise.
    """

    __slots__ = ("_end", "_from", "_middle", "_second", "_source", "begin", "saved")

    def __init__(self, source: Message, data: bytes) -> None:
        self._source: Message = source
        received = source.received()
        second = common_end(received, data)
        # The line in which they differ stays as it is, and all above is compared anew.
        line = data.rfind(b"\n", 0, len(data) - second) + 1
        end = received.rfind(b"\n", 0, len(received) - second) + 1
        first = common_end(received[:end], data[:line])
        self.begin: int = line - first
        self._from: int = end - first
        self._end: int = end
        self._middle: bytes = data[line : len(data) - second]
        self._second: int = len(received) - second
        self.saved: bool = first + second >= _LEAST_SAVED and data[self.begin :] == self.text()

    def text(self) -> bytes:
        """The part of the copy behind `begin`."""
        received = self._source.received()
        return received[self._from : self._end] + self._middle + received[self._second :]


def common_end(one: bytes, other: bytes) -> int:
    """How many bytes at the end of both are the same."""
    least = 0
    most = min(len(one), len(other))
    while least < most:
        size = (least + most + 1) // 2
        if one[len(one) - size :] == other[len(other) - size :]:
            least = size
        else:
            most = size - 1
    return least


@mypyc_attr(allow_interpreted_subclasses=True, acyclic=True)
class Client(Timed):
    """A client transaction: a request that was sent and waits for its final response.

    data: the request as it left, b"" when it cannot be needed again; only its beginning when there is a `rest`.
    target: where it went (opaque here). reliable: whether the transport retransmits by itself. sends: how often the
    request left.
    """

    __slots__ = ("ack", "branch", "data", "invite", "reliable", "rest", "sends", "state", "target", "transaction")

    def __init__(self, transaction: Transaction, invite: bool) -> None:
        super().__init__()
        self.transaction: Transaction = transaction
        self.branch: Branch | None = None
        self.state: int = INITIAL
        self.data: bytes = b""
        self.rest: Rest | None = None
        self.ack: bytes = b""
        self.target: Any = None
        self.sends: int = 0
        # Side by side, compiled they share eight bytes; there are many of these objects.
        self.invite: bool = invite
        self.reliable: bool = False

    def sent(self) -> bytes:
        """The request as it left."""
        return self.data if self.rest is None else self.data + self.rest.text()

    def fold(self) -> None:
        """Keep only what tells the request as it left from the one that was received: nobody answers, and it stays."""
        request = self.transaction.request
        if request is None or self.rest is not None:
            return
        rest = Rest(request, self.data)
        if rest.saved:
            self.data = self.data[: rest.begin]
            self.rest = rest

    def drop_data(self) -> None:
        """The request cannot be needed again."""
        self.data = b""
        self.rest = None


@mypyc_attr(allow_interpreted_subclasses=True, acyclic=True)
class Branch(Client):
    """One destination of a transaction and what came of it (RFC 3261 section 16.6 and 16.7).

    status: the final response that counts for the choice of the best one, 0 while it is awaited. last_received: the
    last status that came over the network, 0 none. local: the final response was made here. phony: no signalling at
    all, only a reason to wait. discarded: its outcome counts for nothing. minor: nobody waits for it. targets: where
    else the same request can go, best first.
    """

    __slots__ = (
        "attrs",
        "avps",
        "cancel",
        "cancelled",
        "discarded",
        "dst_uri",
        "edits",
        "flags",
        "index",
        "last_received",
        "local",
        "minor",
        "on_reply",
        "path",
        "phony",
        "q",
        "reason",
        "reply",
        "run",
        "socket",
        "status",
        "targets",
        "to_tags",
        "uri",
    )

    def __init__(self, transaction: Transaction, index: int, uri: str) -> None:
        super().__init__(transaction, transaction.invite)
        self.branch = self
        self.index: int = index
        self.uri: str = uri
        self.dst_uri: str = ""
        self.path: str = ""
        self.q: int = -1
        self.flags: int = 0
        self.socket: Socket | None = None
        self.status: int = 0
        self.reason: str = ""
        self.last_received: int = 0
        self.reply: Message | None = None
        self.edits: Edits | None = None
        self.cancel: Client | None = None
        self.targets: list[Any] | None = None
        self.run: Any = None
        self.on_reply: str = ""
        self.attrs: dict[str, int | str | None] | None = None
        self.avps: dict[str, list[int | str | None]] | None = None
        # To tags of the 2xx responses that were let through, and the bytes of the last one: a retransmission has to
        # look exactly like the first, whatever the script does to a message.
        self.to_tags: dict[str, bytes] | None = None
        # Side by side, compiled they share eight bytes; there are many of these objects.
        self.local: bool = False
        self.phony: bool = False
        self.discarded: bool = False
        self.minor: bool = False
        self.cancelled: bool = False

    @property
    def pending(self) -> bool:
        """Whether its final response is still awaited."""
        return self.status < 200


@mypyc_attr(allow_interpreted_subclasses=True, acyclic=True)
class Transaction(Timed):
    """The server side of a transaction and its response context.

    id: the text that names it in Via branches, "hash.label" in hexadecimal. local: there is no upstream, the request
    was made here. run: the script's state of the request (opaque here). uas_status: the last status sent upstream, or
    the final status of a local request. busy: script routes that are at work on it. first: index of the first branch of
    the latest set. waiting: more branches may be added when all have ended. last_final: index of the branch that failed
    last, which is not always the one whose reply counts.
    """

    __slots__ = (
        "acked",
        "branches",
        "busy",
        "callbacks",
        "cancel_reason",
        "cancelled",
        "context",
        "dialog_key",
        "final",
        "first",
        "flags",
        "fr_inv_timeout_s",
        "fr_timeout_s",
        "gone",
        "hash",
        "headers",
        "id",
        "in_failure",
        "invite",
        "keep_pending",
        "key",
        "last_final",
        "last_local",
        "last_reply",
        "local",
        "method",
        "no_dns_failover",
        "no_more",
        "on_branch",
        "on_failure",
        "on_reply",
        "reliable",
        "reply_to_tag",
        "request",
        "request_tag",
        "run",
        "state",
        "to_tag",
        "uas_status",
        "upstream",
        "waiting",
    )

    def __init__(self, method: str, invite: bool) -> None:
        super().__init__()
        self.method: str = method
        self.state: int = INITIAL
        self.id: str = ""
        self.hash: int = 0
        self.key: str = ""
        self.dialog_key: str = ""
        self.request: Message | None = None
        self.request_tag: str = ""
        self.run: Any = None
        self.context: Any = None
        # upstream
        self.upstream: Any = None
        self.last_reply: bytes = b""
        self.uas_status: int = 0
        self.to_tag: str = ""
        self.reply_to_tag: str = ""
        # downstream
        self.branches: list[Branch] = []
        self.first: int = 0
        self.last_final: int = 0
        self.final: Branch | None = None
        self.cancel_reason: str = ""
        self.waiting: int = 0
        self.headers: str = ""
        # the script
        self.flags: int = 0
        self.fr_timeout_s: float = 0.0
        self.fr_inv_timeout_s: float = 0.0
        self.on_branch: str = ""
        self.on_failure: str = ""
        self.on_reply: str = ""
        self.busy: int = 0
        self.callbacks: list[tuple[int, Callback]] | None = None
        # Side by side, compiled they share eight bytes; there are many of these objects.
        self.invite: bool = invite
        self.local: bool = False
        self.reliable: bool = False
        self.last_local: bool = False
        self.acked: bool = False
        self.cancelled: bool = False
        self.no_more: bool = False
        self.keep_pending: bool = False
        self.no_dns_failover: bool = False
        self.in_failure: bool = False
        self.gone: bool = False

    def on(self, event: int, callback: Callback) -> None:
        """Call `callback(transaction, run or request, reply or None, status)` at each such event of this one."""
        if self.callbacks is None:
            self.callbacks = []
        self.callbacks.append((event, callback))

    @property
    def label(self) -> str:
        """The part of the id that tells it from others with the same hash."""
        return self.id.partition(".")[2]

    @property
    def answered(self) -> bool:
        """Whether a final response went upstream, or a local request got its own."""
        return self.uas_status >= 200

    @property
    def pending(self) -> bool:
        """Whether a branch still waits for its final response that others wait for.

        Nobody waits for a minor branch, except while no other one of the latest set has ended: it may be the only one.
        """
        rings = False
        for branch in self.branches:
            if branch.status < 200:
                if not branch.minor:
                    return True
                rings = True
        return rings and all(b.status < 200 or b.discarded for b in self.branches[self.first :])

    @property
    def ended(self) -> bool:
        """Whether no machine of it has anything left to do."""
        if self.state != TERMINATED:
            return False
        for branch in self.branches:
            if branch.state != TERMINATED:
                return False
            if branch.cancel is not None and branch.cancel.state != TERMINATED:
                return False
        return True

    def forget_heavy(self) -> None:
        """Drop what only an open transaction needs: the request, the script's state, received replies."""
        self.request = None
        self.run = None
        self.context = None
        for branch in self.branches:
            branch.run = None
            branch.reply = None
            branch.edits = None
            branch.targets = None
            branch.attrs = None
            branch.avps = None
            if branch.state == TERMINATED:
                branch.drop_data()
