"""The life of a request that has a transaction: relaying, replies, failure routes and their order.

`transaction/` decides, this file acts: it builds and sends messages, runs the script's routes, which may wait, between
two steps of a machine, and tells other modules what happens. Whatever waits keeps its transaction (`busy`) and looks at
it anew afterwards, for a CANCEL, a 2xx or a timer may have come in between.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from opensipspy import sip
from opensipspy.module import CancelHandle, LocateError, NoSocketError, Target
from opensipspy.module.reply_path import (
    NO_CONNECTION_FOR_BRANCH,
    NO_CONNECTION_FOR_REPLIES,
    connection_flag,
    reply_target,
    take_reply_additions,
    warning,
)
from opensipspy.modules.tm.breadth import BREADTH, Breadth, breadth_of
from opensipspy.modules.tm.loops import looped
from opensipspy.script import kinds
from opensipspy.script.run import Branch as Destination
from opensipspy.script.run import Run
from opensipspy.script.variables_branch import main_branch
from opensipspy.transaction import (
    CANCELLED,
    COMPLETED_ELSEWHERE,
    DESTROYED,
    EVENTS,
    FAILURE,
    FINISHED,
    FORWARD,
    LOCAL_COMPLETED,
    ORIGINATOR_CANCEL,
    REQUEST_IN,
    RESPONSE_IN,
    RESPONSE_OUT,
    Branch,
    Callback,
    Client,
    Hooks,
    Settings,
    Transaction,
    TransactionLayer,
    collected_challenges,
)
from opensipspy.transaction.ident import COOKIE, call_hash
from opensipspy.transaction.tables import ABANDONED, INITIAL, TERMINATED

if TYPE_CHECKING:
    from opensipspy.module import Core, Counter
    from opensipspy.modules.tm.local import TmLocal
    from opensipspy.sip import Edits, Message, Socket

# Script results of t_relay(), from the manual.
E_UNSPEC: Final = -1
E_BAD_REQUEST: Final = -2
E_NO_DESTINATION: Final = -3
E_BAD_ADDRESS: Final = -4
E_BLOCKED: Final = -5
E_SEND: Final = -6
E_BREADTH: Final = -7

# What the caller hears when nothing could be sent and the script did not make the transaction itself; worded as the C
# server words it.
FAILURE_REPLIES: Final = {
    E_UNSPEC: (500, "Server error occurred (1/TM)"),
    E_BAD_REQUEST: (400, "Bad Request (400/TM)"),
    E_NO_DESTINATION: (500, "No destination available (18/TM)"),
    E_BAD_ADDRESS: (476, "Unresolvable destination (476/TM)"),
    E_BLOCKED: (473, "Filtered destination (473/TM)"),
    E_SEND: (477, "Send failed (477/TM)"),
    E_BREADTH: (440, "Max-Breadth Exceeded"),
}

NO_AUTO_477: Final = 1
NO_DNS_FAILOVER: Final = 2
PASS_REASON: Final = 4
ALLOW_NO_CANCEL: Final = 8
REPLICATE: Final = 16

FLAG_BITS: Final = {
    "no-auto-477": NO_AUTO_477,
    "no-dns-failover": NO_DNS_FAILOVER,
    "pass-reason-hdr": PASS_REASON,
    "allow-no-cancel": ALLOW_NO_CANCEL,
}

CONTEXT: Final = "tm"
"""Key in `Run.ctx` of what the script armed before there is a transaction."""

ERROR_REPLY: Final = "error_reply"
"""Key in `Run.ctx` of the (code, reason) that describes the last failure; `sl_reply_error()` sends it."""

LAST_RECEIVED: Final = "tm_last_received"
"""Key in `Run.ctx` of a reply route: the status that came before the reply at hand."""

MOST_TRANSACTIONS: Final = 200_000
"""As many may be open at once; at 4 kB each that is 0.8 GB."""

RETRY_AFTER_S: Final = 5

TRYING_REASON: Final = "Giving it a try"

MAX_HEADERS: Final = 16384
"""Most characters of header lines that a script may attach to one transaction."""

MOST_ANSWERS: Final = 64
"""2xx of different phones that are kept for one branch; the copies of further ones pass the script anew."""


class Armed:
    """What the script asked for before the transaction was made."""

    __slots__ = ("fr_inv_timeout_s", "fr_timeout_s", "headers", "on_branch", "on_failure", "on_reply", "reason")

    def __init__(self) -> None:
        self.on_branch: str = ""
        self.on_failure: str = ""
        self.on_reply: str = ""
        self.fr_timeout_s: float = 0.0
        self.fr_inv_timeout_s: float = 0.0
        self.headers: str = ""
        self.reason: str = ""


def armed(run: Run) -> Armed:
    """The notes of a run that has no transaction yet."""
    found = run.noted(CONTEXT)
    if isinstance(found, Armed):
        return found
    made = Armed()
    run.ctx[CONTEXT] = made
    return made


def transaction_of(run: Run) -> Transaction | None:
    """The transaction a route runs for."""
    found = run.transaction
    return found if isinstance(found, Transaction) and not found.gone else None


def branch_of(run: Run) -> Branch | None:
    """The branch that a branch, reply or failure route runs for."""
    transaction = transaction_of(run)
    if transaction is None or run.kind not in (kinds.BRANCH, kinds.ONREPLY, kinds.FAILURE):
        return None
    index = run.branch_index
    return transaction.branches[index] if 0 <= index < len(transaction.branches) else None


class BranchRoute:
    """A branch route at work, and who waits for its end. Like all call-backs here no closure: a compiled one refers to
    itself, and what it refers to would be left to the collector of cycles."""

    __slots__ = ("ended", "future")

    def __init__(self) -> None:
        self.ended: bool = False
        self.future: asyncio.Future[None] | None = None

    def done(self, view: Run, result: int) -> None:
        """The route has ended."""
        self.ended = True
        if self.future is not None and not self.future.done():
            self.future.set_result(None)


class Flow(Hooks):
    """All transactions of a server and what is done with them."""

    def __init__(self, tm: TmLocal, core: Core, settings: Settings) -> None:
        self.tm: TmLocal = tm
        self.core: Core = core
        self.layer: TransactionLayer = TransactionLayer(settings, self, core.random)
        self._ticks: list[int] = self.layer.ticks
        self.most_transactions: int = MOST_TRANSACTIONS
        self.minor_flag: int = 0
        self.no_connection_branch: int = connection_flag(core, "branch", NO_CONNECTION_FOR_BRANCH)
        self.no_connection_reply: int = connection_flag(core, "message", NO_CONNECTION_FOR_REPLIES)
        self.tag_prefix: str = f"{core.random.getrandbits(48):012x}"
        self._globals: object = None
        self._dns_failover: bool = True
        self._warns: bool = False
        self._server_line: str = ""
        # What every call counts, without the way through the module.
        self._counts: bool = bool(tm.enable_stats)
        self._uas: Counter = tm.uas_transactions
        self._received: Counter = tm.received_replies
        self._relayed_replies: Counter = tm.relayed_replies
        self._local_replies: Counter = tm.local_replies
        self._finals: list[Counter] = [tm.final_2xx, tm.final_3xx, tm.final_4xx, tm.final_5xx, tm.final_6xx]
        self._callbacks: list[list[Callback]] = [[] for _ in range(EVENTS)]
        # Requests without a final reply, by the protocol, address and port of the connection that they left by.
        self._on_connections: dict[tuple[int, str, int], dict[Client, None]] = {}
        core.on_disconnect(self.disconnected)
        self._wake_handle: CancelHandle | None = None
        self._wake_tick: int = 0

    def _read_globals(self) -> None:
        """What the script's globals say about requests and replies made here: read once for each script."""
        found = self.core.globals
        self._dns_failover = not getattr(found, "disable_dns_failover", False)
        self._warns = bool(getattr(found, "sip_warning", False))
        self._server_line = self.tm.server_line()
        self._globals = found

    # -- time ----------------------------------------------------------------------------------------------------

    def arm(self) -> None:
        """Have `wake` called in time for the earliest timer; called after each step."""
        ticks = self._ticks
        if self._wake_handle is not None:
            if not ticks or self._wake_tick <= ticks[0]:
                return
            self._wake_handle.cancel()
            self._wake_handle = None
        at = self.layer.next_wake()
        if at is None:
            return
        self._wake_tick = ticks[0]
        self._wake_handle = self.core.call_later(max(0.0, at - self.core.now()), self._wake)

    def _wake(self) -> None:
        self._wake_handle = None
        try:
            self.layer.wake(self.core.now())
        finally:
            self.arm()

    def close(self) -> None:
        """Stop the clock."""
        if self._wake_handle is not None:
            self._wake_handle.cancel()
            self._wake_handle = None

    # -- events --------------------------------------------------------------------------------------------------

    def on(self, event: int, callback: Callback) -> None:
        self._callbacks[event].append(callback)

    def fire(self, event: int, transaction: Transaction, what: Any, reply: Message | None, status: int) -> None:
        """Tell the other modules; what goes wrong in one is logged and keeps no other from hearing it."""
        for callback in self._callbacks[event]:
            self._tell(callback, transaction, what, reply, status)
        if transaction.callbacks is not None:
            for wanted, callback in list(transaction.callbacks):
                if wanted == event:
                    self._tell(callback, transaction, what, reply, status)

    def _tell(self, callback: Callback, transaction: Transaction, what: Any, reply: Any, status: int) -> None:
        try:
            callback(transaction, what, reply, status)
        except Exception:
            self.core.log.exception("tm: a callback failed")

    # -- requests ------------------------------------------------------------------------------------------------

    def new_transaction(self, run: Run) -> int:
        """1 there is a transaction now, 0 nothing is left to do for this message, negative it cannot have one."""
        if transaction_of(run) is not None:
            return 1
        msg = run.msg
        if not msg.is_request:
            return E_BAD_REQUEST
        if msg.method == "ACK":
            return 0 if self.absorb_ack(msg) else 1
        if run.transaction is not None:
            # It was answered, by a CANCEL perhaps, and is over: the script has waited for too long.
            return E_NO_DESTINATION
        layer = self.layer
        key = layer.key_of(msg)
        old = layer.find(msg, key)
        now = self.core.now()
        if old is not None:
            layer.retransmission(old, now)
            return 0
        if looped(layer, msg):
            return self._refuse_loop(run)
        if len(layer) >= self.most_transactions:
            return self._refuse(run)
        transaction = layer.create(msg, key, now)
        transaction.upstream = reply_target(run)
        transaction.reliable = msg.source.proto != sip.PROTO_UDP
        transaction.run = run
        transaction.flags = run.msg_flags
        run.transaction = transaction
        self._take_armed(run, transaction)
        if self._counts:
            self._uas.value += 1
        self.fire(REQUEST_IN, transaction, run, None, 0)
        if transaction.invite and self.tm.auto_100trying and self.reply_locally(transaction, 100, TRYING_REASON):
            transaction.last_reply = b""  # `trying` makes it once more
        self.arm()
        return 1

    def _refuse(self, run: Run) -> int:
        """One transaction more would be too many: the caller is told to come again, and nothing is kept of it."""
        msg = run.msg
        self.tm.refused_transactions.inc()
        self.core.log.warning("tm: %d transactions are open, a request is refused", len(self.layer))
        headers = f"Retry-After: {RETRY_AFTER_S}\r\n{warning(self.core, msg, run)}"
        tag = "" if msg.to_tag else f"{self.tag_prefix}-{call_hash(msg.call_id):x}"
        data = sip.build_reply(msg, 503, "Service Unavailable", tag, headers, b"", "", self.tm.server_line())
        self.core.send(data, reply_target(run))
        run.handled = True
        return 0

    def _refuse_loop(self, run: Run) -> int:
        """A request that comes round in a circle ends here (RFC 5393 section 4.2.2)."""
        msg = run.msg
        self.core.log.warning("tm: a %s for %s comes round in a circle, call %s", msg.method, msg.ruri, msg.call_id)
        headers = warning(self.core, msg, run)
        tag = "" if msg.to_tag else f"{self.tag_prefix}-{call_hash(msg.call_id):x}"
        data = sip.build_reply(msg, 482, "Loop Detected", tag, headers, b"", "", self.tm.server_line())
        self.core.send(data, reply_target(run))
        run.handled = True
        return 0

    def _take_armed(self, run: Run, transaction: Transaction) -> None:
        found = run.noted(CONTEXT)
        if isinstance(found, Armed):
            transaction.on_branch = found.on_branch
            transaction.on_failure = found.on_failure
            transaction.on_reply = found.on_reply
            transaction.fr_timeout_s = found.fr_timeout_s
            transaction.fr_inv_timeout_s = found.fr_inv_timeout_s
            transaction.headers = found.headers

    def absorb_ack(self, msg: Message) -> bool:
        """Whether an ACK ends here: it acknowledges a failure, or a 2xx that was made here."""
        now = self.core.now()
        found = self.layer.find(msg)
        if found is not None and found.invite and self.layer.acknowledge(found, now):
            self.arm()
            return True
        local = self.layer.find_local_2xx(msg)
        if local is None:
            # Of a reply that was made here without a transaction, or whose transaction is over, the ACK ends here, too.
            return msg.to_tag.startswith(self.tag_prefix)
        self.layer.acknowledge(local, now)
        self.arm()
        return True

    def copy_came(self, run: Run) -> None:
        """A request came again while its script waits: what its sender was told, 100 mostly, is told once more."""
        transaction = transaction_of(run)
        if transaction is not None and not transaction.local:
            self.layer.retransmission(transaction, self.core.now())
            self.arm()

    def release_unused(self, run: Run) -> None:
        """The script has ended: a transaction that nothing was sent for would never end, so it is let go."""
        transaction = transaction_of(run)
        if transaction is None or transaction.uas_status >= 200 or transaction.busy:
            return
        for branch in transaction.branches:
            if not branch.discarded:
                return
        if transaction.uas_status > 100:
            self.wait_for_branches(transaction, 0)
            return
        self.core.log.warning("tm: the script made a transaction for %s and left it", transaction.method)
        self.layer.release(transaction, self.core.now())

    # -- relaying ------------------------------------------------------------------------------------------------

    def relay(self, run: Run, flags: int, proxy: str) -> int | Awaitable[int]:
        """t_relay(): 1 sent, 0 nothing is left to do, negative one of E_*."""
        msg = run.msg
        if run.kind == kinds.FAILURE or not msg.is_request:
            transaction = transaction_of(run)
            if transaction is None:
                return E_UNSPEC
            return self.relay_set(transaction, run, flags, proxy, False)
        if msg.method == "ACK":
            return 0 if self.absorb_ack(msg) else self._forward_ack(run, proxy)
        transaction = transaction_of(run)
        if msg.method == "CANCEL":
            meant = self.layer.find_cancelled(msg) or self.layer.find_uncancellable(msg)
            if meant is not None:
                return self._relay_cancel(run, meant, flags)
        made = transaction is None
        if transaction is None:
            result = self.new_transaction(run)
            transaction = transaction_of(run)
            if result <= 0 or transaction is None:
                return result
        return self.relay_set(transaction, run, flags, proxy, made)

    def _relay_cancel(self, run: Run, invite: Transaction, flags: int) -> int:
        """Answer a CANCEL and pass it on along every branch that rings (RFC 3261 section 16.10, 9.2)."""
        result = self.new_transaction(run)
        transaction = transaction_of(run)
        if result <= 0 or transaction is None:
            return result
        now = self.core.now()
        run.handled = True
        transaction.to_tag = self.tag_of(invite)
        self.reply_locally(transaction, 200, "canceling", run)
        if not invite.invite or invite.answered or invite.cancelled:
            return 1
        reason = armed(run).reason
        if not reason and flags & PASS_REASON:
            reason = "".join(f"Reason: {header.value}\r\n" for header in run.msg.all(sip.H_REASON))
        self.cancel_call(invite, reason, now)
        self.arm()
        return 1

    def cancel_call(self, invite: Transaction, reason: str, now: float) -> None:
        """The caller gave up: cancel all branches; without any, the answer is 487 at once.

        reason: a Reason header for the CANCELs, a complete line; "" says who gave up (RFC 3326).
        """
        invite.cancelled = True
        invite.no_more = True
        invite.cancel_reason = reason or ORIGINATOR_CANCEL
        invite.busy += 1
        self.fire(CANCELLED, invite, invite.run, None, 0)
        self.layer.cancel_pending(invite, now)
        ringing = False
        phonies = []
        for branch in invite.branches:
            if branch.status < 200:
                if branch.phony:
                    phonies.append(branch)
                else:
                    ringing = True
        for branch in phonies:
            self.layer.end_phony(branch, now)
            self.settle_local(branch, 487, "Request Terminated")
        if not ringing and not phonies and not invite.in_failure and not invite.answered:
            self.reply_locally(invite, 487, "Request Terminated")
        self.layer.unbusy(invite, now)

    def destinations(self, run: Run) -> list[Destination]:
        """Where a request goes: its Request-URI and the branches the script added."""
        found = [main_branch(run)] if run.ruri else []
        more = run.added_branches()
        if more is not None:
            found += more
        return found

    def relay_set(self, transaction: Transaction, run: Run, flags: int, proxy: str, made: bool) -> int | Awaitable[int]:
        if (
            transaction.uas_status >= 200
            or transaction.cancelled
            or (transaction.no_more and self.layer.settings.block_6xx)
        ):
            return E_NO_DESTINATION
        destinations = self.destinations(run)
        run.drop_branches()
        transaction.flags = run.msg_flags
        if self.core.globals is not self._globals:
            self._read_globals()
        if flags & NO_DNS_FAILOVER or not self._dns_failover:
            transaction.no_dns_failover = True
        if flags & ALLOW_NO_CANCEL:
            transaction.keep_pending = any(
                "no-cancel" in header.value.lower() for header in run.msg.named("Request-Disposition")
            )
        first = len(transaction.branches)
        added: list[Branch] = []
        for destination in destinations:
            branch = self.add(transaction, run, destination)
            if branch is not None:
                added.append(branch)
        if not added:
            return E_NO_DESTINATION
        old_first = transaction.first
        transaction.first = first
        run.handled = True
        if run.via_flags and run.msg is transaction.request and not transaction.local:
            transaction.upstream = reply_target(run)
        transaction.busy += 1
        if run.msg.has(sip.H_MAX_BREADTH) and self.share_breadth(transaction, added) < len(added):
            for branch in added:
                self.layer.discard(branch, self.core.now())
            return self._relayed(transaction, run, [E_BREADTH], flags, made, old_first)
        results: list[int] = []
        waiting: list[Awaitable[int]] = []
        for branch in added:
            result = self.launch(branch, proxy)
            if isinstance(result, int):
                results.append(result)
            else:
                waiting.append(result)
        if waiting:
            return self._relay_rest(transaction, run, results, waiting, flags, made, old_first)
        return self._relayed(transaction, run, results, flags, made, old_first)

    async def _relay_rest(
        self,
        transaction: Transaction,
        run: Run,
        results: list[int],
        waiting: list[Awaitable[int]],
        flags: int,
        made: bool,
        old_first: int,
    ) -> int:
        for found in await self.core.wait(asyncio.gather(*waiting, return_exceptions=True)):
            if isinstance(found, BaseException):
                self.core.log.error("tm: a branch could not be prepared", exc_info=found)
                results.append(E_UNSPEC)
            else:
                results.append(found)
        for branch in transaction.branches[transaction.first :]:
            if branch.state == INITIAL:  # its preparation raised
                self.layer.discard(branch, self.core.now())
        return self._relayed(transaction, run, results, flags, made, old_first)

    def _relayed(
        self, transaction: Transaction, run: Run, results: Sequence[int], flags: int, made: bool, old_first: int
    ) -> int:
        """What t_relay() tells the script once every branch was tried."""
        now = self.core.now()
        if max(results) > 0:
            # Others may all have ended while the slowest was being prepared.
            self.layer.unbusy(transaction, now)
            self.finish_if_over(transaction)
            self.arm()
            return 1
        transaction.first = old_first
        result = min(results, key=lambda code: (code == E_NO_DESTINATION, code))
        if transaction.cancelled and not transaction.answered and not transaction.in_failure:
            self.reply_locally(transaction, 487, "Request Terminated")
            result = 0
        elif transaction.answered:
            result = 0
        elif made and not flags & (NO_AUTO_477 | REPLICATE):
            code, reason = FAILURE_REPLIES.get(result, FAILURE_REPLIES[E_UNSPEC])
            self.reply_locally(transaction, code, reason, run)
            result = 0
        else:
            run.handled = False
            if transaction.local:
                self.layer.release(transaction, now)
            run.ctx[ERROR_REPLY] = FAILURE_REPLIES.get(result, FAILURE_REPLIES[E_UNSPEC])
        self.layer.unbusy(transaction, now)
        self.arm()
        return result

    def add(self, transaction: Transaction, run: Run, destination: Destination) -> Branch | None:
        """One more branch, not sent yet."""
        branch = self.layer.add_branch(transaction, destination.uri)
        if branch is None:
            self.core.log.warning("tm: no more than %d branches", len(transaction.branches))
            return None
        view = run.for_branch(destination, branch.index)
        view.request = transaction.request
        view.transaction = transaction
        branch.run = view
        branch.attrs = destination.attrs
        branch.flags = destination.flags
        return branch

    def share_breadth(self, transaction: Transaction, added: Sequence[Branch]) -> int:
        """Divide what Max-Breadth leaves among new branches; how many of them, the first ones, may be sent."""
        run: Run = transaction.run
        found = breadth_of(run)
        most = found.share(transaction, [branch.index for branch in added])
        if most < len(added):
            self.core.log.info("tm: Max-Breadth allows %d of %d branches of %s", most, len(added), run.msg.call_id)
        for branch in added[:most]:
            found.note(branch.run, branch.index)
        return most

    def launch(self, branch: Branch, proxy: str) -> int | Awaitable[int]:
        """Run the branch route, find the targets and send: at once when nothing has to be waited for."""
        name = branch.transaction.on_branch
        route = self.route(kinds.BRANCH, name, branch.run) if name else None
        if route is None:
            return self._locate(branch, proxy)
        waiting = BranchRoute()
        self.core.run_route(route, branch.run, waiting.done)
        if waiting.ended:
            return self._after_branch_route(branch, proxy)
        waiting.future = asyncio.get_running_loop().create_future()
        return self._launch_later(branch, proxy, waiting.future)

    async def _launch_later(self, branch: Branch, proxy: str, waiter: asyncio.Future[None]) -> int:
        await waiter
        result = self._after_branch_route(branch, proxy)
        return result if isinstance(result, int) else await result

    def _after_branch_route(self, branch: Branch, proxy: str) -> int | Awaitable[int]:
        if branch.run.dropped:
            self.layer.discard(branch, self.core.now())
            return E_NO_DESTINATION
        return self._locate(branch, proxy)

    def _locate(self, branch: Branch, proxy: str) -> int | Awaitable[int]:
        view: Run = branch.run
        branch.uri = view.ruri
        branch.dst_uri = view.dst_uri
        branch.path = view.path
        branch.q = view.q
        branch.flags = view.branch_flags
        branch.socket = view.socket_out
        branch.minor = bool(self.minor_flag & view.branch_flags)
        try:
            hop = next_hop(view, proxy)
            found = self.core.locate(hop, 0 if hop is proxy else sip.forced_proto(view.socket_out, hop))
        except (LocateError, sip.ParseError) as error:
            return self._unlocated(branch, error)
        if isinstance(found, list):
            return self.send_branch(branch, found)
        return self._locate_later(branch, found)

    async def _locate_later(self, branch: Branch, waiting: Awaitable[list[Target]]) -> int:
        try:
            found = await waiting
        except LocateError as error:
            return self._unlocated(branch, error)
        return self.send_branch(branch, found)

    def _unlocated(self, branch: Branch, error: Exception) -> int:
        self.core.log.info("tm: no way to %s: %s", branch.dst_uri or branch.uri, error)
        self.layer.discard(branch, self.core.now())
        return E_SEND if isinstance(error, NoSocketError) else E_BAD_ADDRESS

    def send_branch(self, branch: Branch, targets: list[Target]) -> int:
        """Try the targets in order until one takes the request (RFC 3263 section 4.3)."""
        transaction = branch.transaction
        if branch.cancelled or transaction.uas_status >= 200 or transaction.cancelled:
            self.layer.discard(branch, self.core.now())
            return E_NO_DESTINATION
        if transaction.no_dns_failover:
            targets = targets[:1]
        now = self.core.now()
        view: Run = branch.run
        result = E_BAD_ADDRESS
        for place, target in enumerate(targets):
            if branch.socket is not None or target.socket is not view.msg.socket:
                socket = self.core.choose_socket(target.peer, branch.socket, view.msg.socket)
                if socket is not None and socket is not target.socket:
                    target = Target(target.peer, socket)
            if self.no_connection_branch & branch.flags:
                target = Target(target.peer, target.socket, connect=False)
            branch.targets = targets[place + 1 :] if place + 1 < len(targets) else None
            try:
                data = self.build(branch, target.socket)
            except (ValueError, TypeError) as error:
                self.core.log.error("tm: the request for %s cannot be built: %s", branch.uri, error)
                self.layer.discard(branch, self.core.now())
                return E_BAD_REQUEST
            if self.core.barred(view, target.peer, data):
                self.core.log.info("tm: a blacklist bars %s", target.peer.text)
                result = E_BLOCKED
                continue
            branch.state = INITIAL
            if self.layer.start(branch, data, target, target.peer.proto != sip.PROTO_UDP, now):
                branch.socket = target.socket
                if branch.targets is None:
                    branch.run = None
                self.arm()
                return 1
            result = E_SEND
            if branch.targets is not None:
                self.core.destination_failed(target.peer)
        self.layer.discard(branch, self.core.now())
        return result

    def build(self, branch: Branch, socket: Socket) -> bytes:
        """The request as it leaves on a branch."""
        view: Run = branch.run
        edits: Edits = view.edits
        headers = branch.transaction.headers
        if branch.path or headers:
            edits = edits.fork()
            if branch.path:
                edits.prepend(f"Route: {branch.path}\r\n")
            if headers:
                edits.append(headers)
        via = view.via_value(socket, self.layer.via_branch(branch))
        return sip.build_request(view.msg, edits, branch.uri, via, socket)

    def fail_over(self, branch: Branch) -> bool:
        """Send the same request to the next target of its name, as a new branch (RFC 3263 section 4.3)."""
        transaction = branch.transaction
        if not branch.targets or branch.run is None or transaction.no_dns_failover:
            return False
        if transaction.cancelled or transaction.answered or branch.cancelled:
            return False
        failed: Target = branch.target
        self.core.destination_failed(failed.peer)
        following = self.layer.add_branch(transaction, branch.uri)
        if following is None:
            return False
        following.dst_uri = branch.dst_uri
        following.path = branch.path
        following.q = branch.q
        following.flags = branch.flags
        following.socket = branch.run.socket_out
        following.minor = branch.minor
        following.on_reply = branch.on_reply
        following.attrs = branch.attrs
        following.avps = branch.avps
        following.run = branch.run
        following.run.branch_index = following.index
        breadth = following.run.noted(BREADTH)
        if isinstance(breadth, Breadth):
            breadth.move(branch.index, following.index)
        targets, branch.targets, branch.run = branch.targets, None, None
        return self.send_branch(following, targets) > 0

    # -- ACK for a 2xx: end to end, no transaction (RFC 3261 section 13.2.2.4, 16.11) ------------------------------

    def _forward_ack(self, run: Run, proxy: str) -> int | Awaitable[int]:
        try:
            hop = next_hop(run, proxy)
            found = self.core.locate(hop, 0 if hop is proxy else sip.forced_proto(run.socket_out, hop))
        except (LocateError, sip.ParseError) as error:
            self.core.log.info("tm: no way for the ACK to %s: %s", run.ruri, error)
            return E_SEND if isinstance(error, NoSocketError) else E_BAD_ADDRESS
        if isinstance(found, list):
            return self._send_ack(run, found)
        return self._forward_ack_later(run, found)

    async def _forward_ack_later(self, run: Run, waiting: Awaitable[list[Target]]) -> int:
        try:
            found = await self.core.wait(waiting)
        except LocateError as error:
            self.core.log.info("tm: no way for the ACK to %s: %s", run.ruri, error)
            return E_SEND if isinstance(error, NoSocketError) else E_BAD_ADDRESS
        return self._send_ack(run, found)

    def _send_ack(self, run: Run, targets: list[Target]) -> int:
        if not targets:
            return E_BAD_ADDRESS
        target = targets[0]
        socket = self.core.choose_socket(target.peer, run.socket_out, run.msg.socket) or target.socket
        msg = run.msg
        # Retransmissions of one ACK leave with the same branch, as section 16.11 wants it from stateless proxies.
        seed = f"{msg.via.branch}\n{msg.from_tag}\n{msg.to_tag}\n{msg.cseq_number}\n{run.ruri}"
        label = zlib.crc32(seed.encode("utf-8", "surrogateescape"))
        branch = f"{COOKIE}{call_hash(msg.call_id):x}.{label:x}.0"
        edits = run.edits
        if run.path:
            edits = edits.fork()
            edits.prepend(f"Route: {run.path}\r\n")
        try:
            data = sip.build_request(msg, edits, run.ruri, run.via_value(socket, branch), socket)
        except (ValueError, TypeError) as error:
            self.core.log.error("tm: the ACK for %s cannot be built: %s", run.ruri, error)
            return E_BAD_REQUEST
        run.handled = True
        return 1 if self.core.send(data, Target(target.peer, socket)) else E_SEND

    # -- replies -------------------------------------------------------------------------------------------------

    def receive_reply(self, run: Run) -> bool:
        """A reply from the network; True when it belongs to a transaction here."""
        msg = run.msg
        layer = self.layer
        client = layer.match_reply(msg)
        if client is None:
            return False
        if self._counts:
            self._received.value += 1
        now = self.core.now()
        branch = client.branch
        before = branch.last_received if branch is not None else 0
        if not layer.receive_reply(client, msg, now):
            self.arm()
            return True
        if branch is None:
            return True
        transaction = branch.transaction
        transaction.busy += 1
        run.transaction = transaction
        run.request = transaction.request
        run.reply = msg
        run.kind = kinds.ONREPLY
        run.branch_index = branch.index
        run.branch_flags = branch.flags
        run.msg_flags = transaction.flags
        if branch.on_reply or transaction.on_reply:
            run.ctx[LAST_RECEIVED] = before
        if transaction.run is not None:
            # The script may have been loaded anew since the request came.
            run.program = transaction.run.program
            if self.tm.onreply_avp_mode:
                run.avps = transaction.run.avps
        self.fire(RESPONSE_IN, transaction, run, msg, msg.status)
        if branch.on_reply or transaction.on_reply:
            self._reply_route(branch, run, branch.on_reply, transaction.on_reply)
        else:
            self._reply_routed(branch, run)
        return True

    def _reply_route(self, branch: Branch, run: Run, name: str, then: str) -> None:
        """Run the branch's own reply route, then the transaction's; drop stops a provisional reply only."""
        if not name:
            name, then = then, ""
        route = self.route(kinds.ONREPLY, name, run)
        if route is None:
            if then:
                self._reply_route(branch, run, then, "")
            else:
                self._reply_routed(branch, run)
            return

        self.core.run_route(route, run, partial(self._reply_route_ended, branch, then))

    def _reply_route_ended(self, branch: Branch, then: str, run: Run, result: int) -> None:
        if run.dropped and run.msg.status < 200:
            self._keep_flags(branch, run)
            self.layer.unbusy(branch.transaction, self.core.now())
            self.arm()
            return
        run.dropped = False
        run.exited = False
        if then:
            self._reply_route(branch, run, then, "")
        else:
            self._reply_routed(branch, run)

    def _keep_flags(self, branch: Branch, run: Run) -> None:
        branch.flags = run.branch_flags
        branch.transaction.flags = run.msg_flags

    def _reply_routed(self, branch: Branch, run: Run) -> None:
        """The script has seen the reply: what it means for the transaction."""
        transaction = branch.transaction
        self._keep_flags(branch, run)
        msg = run.msg
        status = msg.status
        if status >= 300 and branch.status < 200:
            branch.reply = msg
            branch.reason = msg.reason
            branch.edits = run.edits
            branch.local = False
            if status == 503 and self.fail_over(branch):
                branch.discarded = True
        now = self.core.now()
        decision = self.layer.settle(branch, status, now)
        if decision == FORWARD:
            self._forward(branch, run)
        elif decision == FINISHED:
            self.finish(transaction)
        self.layer.unbusy(transaction, now)
        self.layer.compact(transaction)
        self.arm()

    def _forward(self, branch: Branch, run: Run) -> None:
        """Pass a provisional reply or a 2xx upstream."""
        transaction = branch.transaction
        msg = run.msg
        if transaction.local:
            self._complete_local(transaction, msg.status, msg.reason, msg, branch)
            return
        data = sip.build_forwarded_reply(msg, run.edits, transaction.upstream.socket)
        status = msg.status
        to_tag = msg.to_tag
        if 200 <= status < 300 and transaction.invite:
            if branch.to_tags is None:
                branch.to_tags = {}
            if len(branch.to_tags) < MOST_ANSWERS:
                branch.to_tags[to_tag] = data
        more = transaction.uas_status >= 200  # another phone has answered as well: the transaction counts once
        if self.layer.reply(transaction, status, data, to_tag, False, self.core.now()):
            self._replied(transaction, status, msg, more)
        elif status >= 200:
            # The caller has heard a failure; that a phone has answered all the same is for the two ends to settle.
            self.send_reply(transaction, data)
            if self._counts:
                self._relayed_replies.value += 1

    def _replied(self, transaction: Transaction, status: int, reply: Message | None, more: bool = False) -> None:
        """A reply went upstream: count it and tell the others. more: it is not the first final one."""
        if self._counts:
            if reply is not None:
                self._relayed_replies.value += 1
            if status >= 200 and not more:
                self._count_final(status)
        self.fire(RESPONSE_OUT, transaction, transaction.run, reply, status)

    def _count_final(self, status: int) -> None:
        self._finals[min(status // 100, 6) - 2].value += 1

    # -- failures ------------------------------------------------------------------------------------------------

    def settle_local(self, branch: Branch, status: int, reason: str) -> None:
        """A branch ended without an answer of its own."""
        transaction = branch.transaction
        transaction.busy += 1
        if branch.status < 200:
            branch.local = True
            branch.reason = reason
        now = self.core.now()
        if self.layer.settle(branch, status, now) == FINISHED:
            self.finish(transaction)
        self.layer.unbusy(transaction, now)
        self.layer.compact(transaction)
        self.arm()

    def finish_if_over(self, transaction: Transaction) -> None:
        """Go on with a transaction whose branches ended while something else kept it."""
        if transaction.gone or transaction.uas_status >= 200 or transaction.state == TERMINATED or transaction.pending:
            return
        if transaction.branches[transaction.first :]:
            self.finish(transaction)

    def finish(self, transaction: Transaction) -> None:
        """All branches have ended badly: the failure route has its chance, then the best answer goes upstream."""
        if transaction.in_failure or transaction.answered:
            return  # the failure route that is at work looks again when it ends
        winner = self.layer.winner(transaction)
        run: Run | None = transaction.run
        if transaction.local or run is None:
            self._relay_winner(transaction, winner)
            return
        status = self._status_of(transaction, winner)
        self.fire(FAILURE, transaction, run, winner.reply, status)
        route = self.route(kinds.FAILURE, transaction.on_failure, run)
        transaction.on_failure = ""
        if route is None or transaction.answered:
            self._relay_winner(transaction, winner)
            return
        transaction.in_failure = True
        transaction.busy += 1
        # Its own view of the request: the main route may still be waiting for something with its own.
        # It begins as the request came, as in OpenSIPS: a new destination inherits nothing of the branch that failed.
        view = run.for_branch(Destination(run.msg.ruri), winner.index)
        view.socket_out = None
        view.kind = kinds.FAILURE
        view.request = transaction.request
        view.reply = winner.reply
        view.msg_flags = transaction.flags
        ended = partial(self._failure_route_ended, transaction, winner, len(transaction.branches))
        self.core.run_route(route, view, ended)

    def _failure_route_ended(
        self, transaction: Transaction, winner: Branch, branches: int, run: Run, result: int
    ) -> None:
        transaction.in_failure = False
        transaction.flags = run.msg_flags
        if not transaction.answered and not transaction.pending:
            if transaction.first >= branches:  # a new set was sent and has ended already
                self.finish(transaction)
            else:
                self._relay_winner(transaction, winner)
        self.layer.unbusy(transaction, self.core.now())
        self.layer.compact(transaction)
        self.arm()

    def _status_of(self, transaction: Transaction, winner: Branch) -> int:
        """What the caller hears of a failure: who cancelled a call that nobody answered gets 487."""
        if transaction.cancelled and winner.local:
            return 487
        return winner.status

    def _relay_winner(self, transaction: Transaction, winner: Branch) -> None:
        status = self._status_of(transaction, winner)
        reply = winner.reply
        if transaction.local:
            self._complete_local(transaction, status, winner.reason, reply, winner)
            return
        settings = self.layer.settings
        if reply is None or winner.local:
            if status == 408 and not transaction.invite and not settings.answer_non_invite_timeout:
                self.layer.release(transaction, self.core.now())
                return
            reason = "Request Terminated" if status == 487 else winner.reason or sip.reason_phrase(status)
            self.reply_locally(transaction, status, reason)
            return
        edits = winner.edits if winner.edits is not None else sip.Edits()
        others = collected_challenges(transaction.branches[transaction.first :], winner)
        if others:
            edits = edits.fork()
            edits.append(others)
        data = sip.build_forwarded_reply(reply, edits, transaction.upstream.socket)
        if status == 503 and not getattr(self.core.globals, "disable_503_translation", False):
            # Section 16.7 step 6: a 503 speaks of the next hop, not of this server.
            status = 500
            data = b"SIP/2.0 500 Server Internal Error" + data[data.index(b"\r\n") :]
        if self.layer.reply(transaction, status, data, reply.to_tag, False, self.core.now()):
            self._replied(transaction, status, reply)

    # -- replies made here ---------------------------------------------------------------------------------------

    def tag_of(self, transaction: Transaction) -> str:
        """The To tag of replies made here: one for all replies of a transaction (RFC 3261 section 8.2.6.2)."""
        if not transaction.to_tag:
            transaction.to_tag = f"{self.tag_prefix}-{transaction.id}"
        return transaction.to_tag

    def reply_locally(
        self,
        transaction: Transaction,
        code: int,
        reason: str,
        run: Run | None = None,
        headers: str = "",
        body: bytes = b"",
        content_type: str = "",
        to_tag: str = "",
    ) -> bool:
        """Answer a request here; a final answer cancels the branches that still ring."""
        request = transaction.request
        if request is None or transaction.local:
            return False
        if run is not None:
            headers, body = take_reply_additions(run, code, headers, body)
            if run.via_flags and run.msg is request:  # force_rport() may have come after t_newtran()
                transaction.upstream = reply_target(run)
        if self.core.globals is not self._globals:
            self._read_globals()
        if self._warns:
            headers += warning(self.core, request, run)
        tag = "" if code == 100 else to_tag or self.tag_of(transaction)
        data = sip.build_reply(request, code, reason, tag, headers, body, content_type, self._server_line)
        now = self.core.now()
        if not self.layer.reply(transaction, code, data, request.to_tag or tag, True, now):
            return False
        if self._counts:
            self._local_replies.value += 1
        self._replied(transaction, code, None)
        self.tm.show_reply(transaction, data)
        if code >= 200:
            self.layer.cancel_pending(transaction, now)
            for branch in transaction.branches:
                if branch.phony and branch.status < 200:
                    branch.status = 487
                    self.layer.end_phony(branch, now)
            if transaction.busy == 0:
                self.layer.compact(transaction)
        self.arm()
        return True

    def reply(self, run: Run, code: int, reason: str, headers: str, body: bytes, content_type: str = "") -> int:
        """t_reply(): 1 sent, 0 it was a retransmission, -1 not."""
        if not 100 <= code <= 699:
            return E_UNSPEC
        result = self.new_transaction(run)
        transaction = transaction_of(run)
        if transaction is None:
            return 0 if result == 0 else E_UNSPEC
        if transaction.method == "ACK":
            return E_UNSPEC
        run.handled = True
        if not self.reply_locally(transaction, code, reason, run, headers, body, content_type):
            return E_UNSPEC
        return 1

    # -- waiting for branches ------------------------------------------------------------------------------------

    def wait_for_branches(self, transaction: Transaction, most: int) -> bool:
        """Keep the transaction open for branches to come; `most` 0 means any number."""
        transaction.waiting = most if most > 0 else -1
        for branch in transaction.branches:
            if branch.phony and branch.status < 200:
                return True
        added = self.layer.add_phony(transaction, self.core.now())
        self.arm()
        return added is not None

    def wait_no_more(self, transaction: Transaction) -> None:
        """Do not wait for further branches: without any that rings, the transaction ends now."""
        transaction.waiting = 0
        for branch in transaction.branches:
            if branch.phony and branch.status < 200:
                self.layer.end_phony(branch, self.core.now())
                self.settle_local(branch, 408, "Request Timeout")

    def inject(self, transaction: Transaction, run: Run, source: Run, cancel: bool, last: bool) -> int | Awaitable[int]:
        """Add the destinations of `source` to an open transaction and send to them."""
        if transaction.answered or transaction.cancelled or transaction.request is None:
            return E_NO_DESTINATION
        now = self.core.now()
        destinations = self.destinations(source)
        if cancel:
            transaction.cancel_reason = COMPLETED_ELSEWHERE
            self.layer.cancel_pending(transaction, now)
        added = [b for b in (self.add(transaction, run, d) for d in destinations) if b is not None]
        if transaction.request.has(sip.H_MAX_BREADTH):
            most = self.share_breadth(transaction, added)
            for branch in added[most:]:
                self.layer.discard(branch, now)
            added = added[:most]
        if transaction.waiting > 0:
            transaction.waiting -= min(transaction.waiting, len(added))
            last = last or transaction.waiting == 0
        results = [self.launch(branch, "") for branch in added]
        waiting = [r for r in results if not isinstance(r, int)]
        sent = any(isinstance(r, int) and r > 0 for r in results)
        if waiting:
            return self._inject_rest(transaction, waiting, sent, last)
        if last:
            self.wait_no_more(transaction)
        return 1 if sent else E_NO_DESTINATION

    async def _inject_rest(
        self, transaction: Transaction, waiting: Sequence[Awaitable[int]], sent: bool, last: bool
    ) -> int:
        transaction.busy += 1
        for found in await self.core.wait(asyncio.gather(*waiting, return_exceptions=True)):
            sent = sent or (isinstance(found, int) and found > 0)
        self.layer.unbusy(transaction, self.core.now())
        if last:
            self.wait_no_more(transaction)
        return 1 if sent else E_NO_DESTINATION

    # -- requests made here --------------------------------------------------------------------------------------

    def _complete_local(
        self, transaction: Transaction, status: int, reason: str, reply: Message | None, branch: Branch
    ) -> None:
        if not self.layer.reply(transaction, status, b"", "", reply is None, self.core.now()):
            return
        if status < 200:
            if self.tm.pass_provisional_replies:
                self.fire(RESPONSE_OUT, transaction, transaction.run, reply, status)
            return
        again = transaction.invite and status < 300 and reply is not None
        if again and reply is not None:
            ack = self.tm.dialog_ack(branch, reply)
            if branch.to_tags is None:
                branch.to_tags = {}
            if len(branch.to_tags) < MOST_ANSWERS:
                branch.to_tags[reply.to_tag] = ack
        if self._counts:
            self._count_final(status)
        self.fire(LOCAL_COMPLETED, transaction, transaction.run, reply, status)
        completed: Callable[[int, str, Message | None], None] | None = transaction.context
        if completed is not None:
            transaction.context = None
            completed(status, reason, reply)

    # -- what the layer asks -------------------------------------------------------------------------------------

    def send_request(self, client: Client, data: bytes) -> bool:
        target: Target = client.target
        if not client.reliable:
            return self.core.send(data, target)
        sent = self.core.send(data, target, lambda: self._send_failed(client))
        if sent and client.state < ABANDONED:
            peer = target.peer
            key = (peer.proto, peer.address, peer.port)
            waiting = self._on_connections.get(key)
            if waiting is None:
                waiting = self._on_connections[key] = {}
            waiting[client] = None
        return sent

    def waits_no_more(self, client: Client) -> None:
        target: Target | None = client.target
        if target is None:
            return
        peer = target.peer
        key = (peer.proto, peer.address, peer.port)
        waiting = self._on_connections.get(key)
        if waiting is not None and client in waiting:
            del waiting[client]
            if not waiting:
                del self._on_connections[key]

    def disconnected(self, proto: int, address: str, ports: tuple[int, ...], connection: int) -> None:
        """A connection is gone: requests that nobody has answered yet have failed (RFC 3261 section 17.1.4).

        A call that rings goes on: its callee answers over a new connection (section 18.2.2), and timer C is running.
        """
        for port in ports:
            waiting = self._on_connections.get((proto, address, port))
            if waiting is None:
                continue
            for client in list(waiting):
                if client.target.peer.connection in (0, connection):
                    self._send_failed(client)

    def _send_failed(self, client: Client) -> None:
        self.layer.transport_error(client, self.core.now())
        self.arm()

    def send_reply(self, transaction: Transaction, data: bytes) -> bool:
        target: Target = transaction.upstream
        if self.no_connection_reply & transaction.flags:
            target = Target(target.peer, target.socket, connect=False)
        return self.core.send(data, target)

    def timed_out(self, branch: Branch, now: float) -> None:
        transaction = branch.transaction
        if transaction.answered:
            self.settle_local(branch, 408, "Request Timeout")
            return
        silent = branch.last_received == 0
        if not branch.phony:
            if silent:
                self.tm.count_silent()
            if transaction.invite:
                self.tm.count_unanswered()
        transaction.busy += 1
        if silent and not branch.phony and self.fail_over(branch):
            branch.discarded = True
        self.settle_local(branch, 408, "Request Timeout")
        self.layer.unbusy(transaction, now)

    def transport_failed(self, branch: Branch, now: float) -> None:
        transaction = branch.transaction
        transaction.busy += 1
        if self.fail_over(branch):
            branch.discarded = True
        # Section 16.9: a failed transport counts as 503; 477 is what this family of servers says of it.
        self.settle_local(branch, 477, "Send failed (477/TM)")
        self.layer.unbusy(transaction, now)

    def not_acknowledged(self, transaction: Transaction) -> None:
        self.core.log.debug("tm: no ACK for the %d of %s", transaction.uas_status, transaction.id)

    def repeated_2xx(self, branch: Branch, msg: Message) -> None:
        self.tm.resend_dialog_ack(branch, msg)

    def relayed_again(self, transaction: Transaction) -> None:
        if self._counts:
            self._relayed_replies.value += 1

    def resent_request(self, client: Client) -> None:
        self.tm.count_resent_request(client.sends - 1)
        request = client.transaction.request
        if request is not None and client.sends == 2:
            # The next hop is slow or gone: this may take long.
            self._rest(client.transaction, request)

    def trying(self, transaction: Transaction) -> bytes:
        request = transaction.request
        if request is None:
            return b""
        warned = warning(self.core, request) if self._warns else ""
        data = sip.build_reply(request, 100, TRYING_REASON, "", warned, b"", "", self._server_line)
        request.forget_parsed()
        return data

    def rests(self, branch: Branch) -> None:
        transaction = branch.transaction
        if transaction.request is not None:
            self._rest(transaction, transaction.request)

    def _rest(self, transaction: Transaction, request: Message) -> None:
        """What takes memory is dropped while nothing happens."""
        if transaction.busy:
            return
        request.forget_parsed()
        run: Run | None = transaction.run
        if run is not None:
            run.rest()

    def resent_reply(self, transaction: Transaction) -> None:
        self.tm.count_resent_reply()

    def destroyed(self, transaction: Transaction) -> None:
        self.fire(DESTROYED, transaction, None, None, transaction.uas_status)

    # -- helpers -------------------------------------------------------------------------------------------------

    def unfinished(self) -> int:
        """Transactions that somebody waits for: not answered yet, or held by a route that is at work."""
        return sum(1 for found in self.layer.transactions() if found.busy or not found.answered)

    def route(self, kind: int, name: str, run: Run | None = None) -> Any:
        """A route by kind and name, of the version of the script that `run` began with; None when there is none."""
        program: Any = run.program if run is not None and run.program is not None else self.core.program
        if not name or program is None:
            return None
        return program.route(kind, name)


def next_hop(run: Run, proxy: str = "") -> str:
    """The URI to send to: destination URI, outbound proxy, first Path hop, else the Request-URI."""
    if run.dst_uri:
        return run.dst_uri
    if proxy:
        return proxy
    if run.path:
        hops = sip.parse_name_addr_list(run.path)
        if hops:
            return hops[0].uri
    return run.ruri


def proxy_uri(text: str) -> str:
    """An outbound proxy "[proto:]host[:port]" as a URI."""
    if text.lower().startswith(("sip:", "sips:")):
        return text
    proto, colon, rest = text.partition(":")
    if colon and sip.proto_number(proto) and not rest.startswith(":"):
        return f"sip:{rest};transport={proto.lower()}"
    return f"sip:{text}"
