"""Carries out the tables: the steps of a transaction, between which the script's routes may run and wait.

A request:  find -> retransmission | create -> [script] -> add_branch, start -> reply
A reply:    match_reply -> receive_reply (machine: absorbs, acknowledges) -> [onreply_route] -> settle (response
            context) -> FORWARD: reply | FINISHED: [failure_route] -> winner, reply

Nothing here reads a clock, opens a socket or waits. All times are seconds of one clock, handed in as `now`.
"""

from __future__ import annotations

from typing import Final, Protocol

from mypy_extensions import mypyc_attr

from opensipspy.sip import Message, ParseError, build_ack, build_cancel, shorten_sent
from opensipspy.transaction import tables as t_
from opensipspy.transaction.best import best_branch
from opensipspy.transaction.ident import (
    MAX_BRANCHES,
    branch_parameter,
    call_hash,
    dialog_key,
    has_cookie,
    hexadecimal,
    safe_label,
    server_key,
    split_branch,
)
from opensipspy.transaction.state import Branch, Client, Settings, Transaction
from opensipspy.transaction.tables import (
    ABANDONED,
    ACCEPTED,
    ASK_DELIVER,
    ASK_FAILED,
    ASK_TIMEOUT,
    COMPLETED,
    DOUBLE_A,
    DOUBLE_E,
    DOUBLE_G,
    FIRST_END,
    INPUTS,
    NO_ACK,
    PROCEEDING,
    RESEND,
    RESPOND,
    RESTART_E,
    SEND,
    SEND_ACK,
    SEND_CANCEL,
    START_A,
    START_B,
    START_C,
    START_D,
    START_E,
    START_F,
    START_G,
    START_H,
    START_L,
    START_LIMIT,
    START_LINGER,
    START_M,
    STOP_G,
    TERMINATED,
)
from opensipspy.transaction.timers import NEVER, SLACK, Timed, Wheel

LABELS_DRAWN: Final = 64

# Reason headers of CANCELs (RFC 3326 section 3), as scripts and phones know them from OpenSIPS.
COMPLETED_ELSEWHERE: Final = 'Reason: SIP ;cause=200 ;text="Call completed elsewhere"\r\n'
NO_ANSWER: Final = 'Reason: SIP;cause=480;text="NO_ANSWER"\r\n'
ORIGINATOR_CANCEL: Final = 'Reason: SIP;cause=487;text="ORIGINATOR_CANCEL"\r\n'

# What `receive_reply` found.
ABSORBED: Final = 0
DELIVERED: Final = 1

# What `settle` decided.
NOTHING: Final = 0
FORWARD: Final = 1
FINISHED: Final = 2


# Requests that a CANCEL may name although it cannot stop them.
_NOT_CANCELLED: Final = (
    "OPTIONS",
    "REGISTER",
    "MESSAGE",
    "BYE",
    "INFO",
    "UPDATE",
    "PRACK",
    "SUBSCRIBE",
    "NOTIFY",
    "REFER",
    "PUBLISH",
)


class Random(Protocol):
    """A source of unpredictable numbers."""

    def getrandbits(self, bits: int, /) -> int: ...


@mypyc_attr(allow_interpreted_subclasses=True)
class Hooks:
    """What the layer asks of the one who owns it."""

    def send_request(self, client: Client, data: bytes) -> bool:
        """Send to `client.target`; False when it certainly does not leave."""
        raise NotImplementedError

    def send_reply(self, transaction: Transaction, data: bytes) -> bool:
        """Send to `transaction.upstream`."""
        raise NotImplementedError

    def timed_out(self, branch: Branch, now: float) -> None:
        """A branch had no final response in time; it counts as 408 (section 16.7 step 5)."""

    def transport_failed(self, branch: Branch, now: float) -> None:
        """A branch could not be sent, as was found out later."""

    def not_acknowledged(self, transaction: Transaction) -> None:
        """Timer H: the ACK for a negative response never came."""

    def repeated_2xx(self, branch: Branch, msg: Message) -> None:
        """A 2xx of a local request came again: its ACK was lost."""

    def relayed_again(self, transaction: Transaction) -> None:
        """A copy of a 2xx that had gone upstream went there, too."""

    def resent_request(self, client: Client) -> None:
        """A request was retransmitted; `client.sends` counts."""

    def trying(self, transaction: Transaction) -> bytes:
        """The 100 once more that was sent by itself, b"" when that cannot be."""
        return b""

    def waits_no_more(self, client: Client) -> None:
        """A request over a reliable transport has its final response, or was given up; called once or more often."""

    def rests(self, branch: Branch) -> None:
        """A branch has had a provisional response and rings on: what takes memory may be dropped now."""

    def resent_reply(self, transaction: Transaction) -> None:
        """A final response was retransmitted because of its timer."""

    def destroyed(self, transaction: Transaction) -> None:
        """The transaction ended; nothing finds it any more."""


class TransactionLayer:
    """All transactions of one server."""

    def __init__(self, settings: Settings, hooks: Hooks, random: Random) -> None:
        self.settings: Settings = settings
        self.hooks: Hooks = hooks
        self._random: Random = random
        # Further parameters of Via behind the branch of each request.
        self.via_suffix: str = ""
        self._servers: dict[str, Transaction] = {}
        self._by_id: dict[str, Transaction] = {}
        self._by_dialog: dict[str, Transaction] = {}
        self._labels: list[str] = []
        self._wheel: Wheel = Wheel()
        self._invite_client: list[t_.Row | None] = t_.rows(t_.INVITE_CLIENT)
        self._client: list[t_.Row | None] = t_.rows(t_.CLIENT)
        self._invite_server: list[t_.Row | None] = t_.rows(t_.INVITE_SERVER)
        self._server: list[t_.Row | None] = t_.rows(t_.SERVER)

    def __len__(self) -> int:
        return len(self._by_id)

    def transactions(self) -> list[Transaction]:
        """All of them; for management commands, the list is a copy."""
        return list(self._by_id.values())

    @property
    def pending_timers(self) -> int:
        return len(self._wheel)

    # -- matching ------------------------------------------------------------------------------------------------

    def key_of(self, msg: Message) -> str:
        """The key of the server transaction a request belongs to; an ACK's is that of its INVITE."""
        found = msg.transaction_key
        if not found:
            method = "INVITE" if msg.method == "ACK" else msg.method
            found = server_key(msg, method, self.settings.ruri_matching, self.settings.via1_matching)
            msg.transaction_key = found
        return found

    def find(self, msg: Message, key: str = "") -> Transaction | None:
        """The transaction that a request is a retransmission of, or that an ACK of this hop belongs to."""
        found = self._servers.get(key or self.key_of(msg))
        if found is not None and not has_cookie(msg.via.branch):
            tag = found.reply_to_tag if msg.method == "ACK" else found.request_tag
            if msg.to_tag != tag:
                return None
        return found

    def find_cancelled(self, msg: Message) -> Transaction | None:
        """The INVITE transaction that a CANCEL means (section 9.2)."""
        settings = self.settings
        return self._servers.get(server_key(msg, "INVITE", settings.ruri_matching, settings.via1_matching))

    def find_uncancellable(self, msg: Message) -> Transaction | None:
        """The transaction of another method that a CANCEL means: it is answered 200 and has no effect (section 9.2)."""
        settings = self.settings
        for method in _NOT_CANCELLED:
            found = self._servers.get(server_key(msg, method, settings.ruri_matching, settings.via1_matching))
            if found is not None:
                return found
        return None

    def find_local_2xx(self, msg: Message) -> Transaction | None:
        """The INVITE transaction whose 2xx, made here, an ACK acknowledges (section 13.3.1.4)."""
        if not self._by_dialog:
            return None
        found = self._by_dialog.get(dialog_key(msg.call_id, msg.cseq_number, msg.from_tag))
        return found if found is not None and found.reply_to_tag == msg.to_tag else None

    def find_id(self, transaction_id: str) -> Transaction | None:
        """The transaction of an id ("hash.label")."""
        return self._by_id.get(transaction_id)

    def match_reply(self, msg: Message) -> Client | None:
        """The client transaction of a reply: branch parameter and CSeq method (section 17.1.3)."""
        via = msg.via
        transaction_id, index = split_branch(via.branch)
        found = self._by_id.get(transaction_id)
        if found is None or index >= len(found.branches):
            return None
        branch = found.branches[index]
        if branch.state == t_.INITIAL:
            return None
        if msg.method == found.method:
            return branch
        return branch.cancel if msg.method == "CANCEL" else None

    # -- server side ---------------------------------------------------------------------------------------------

    def create(self, msg: Message, key: str, now: float) -> Transaction:
        """A new server transaction; the caller has looked for an old one and fills in `upstream` and `reliable`."""
        transaction = Transaction(msg.method, msg.method == "INVITE")
        transaction.request = msg
        transaction.request_tag = msg.to_tag
        transaction.key = key
        transaction.state = t_.PROCEEDING if transaction.invite else t_.TRYING
        self._register(transaction, msg.call_id, "" if self.settings.syn_branch else safe_label(msg))
        self._servers[key] = transaction
        return transaction

    def create_local(self, method: str, call_id: str, now: float) -> Transaction:
        """A transaction for a request made here: it has no upstream, only a branch."""
        transaction = Transaction(method, method == "INVITE")
        transaction.local = True
        transaction.state = t_.TERMINATED
        self._register(transaction, call_id, "")
        return transaction

    def _register(self, transaction: Transaction, call_id: str, label: str) -> None:
        transaction.hash = call_hash(call_id)
        prefix = hexadecimal(transaction.hash) + "."
        name = prefix + (label or self._label())
        while name in self._by_id:
            name = prefix + self._label()
        transaction.id = name
        self._by_id[name] = transaction

    def _label(self) -> str:
        """32 unpredictable bits in hexadecimal. Many are drawn at once: each draw is a system call."""
        if not self._labels:
            text = f"{self._random.getrandbits(32 * LABELS_DRAWN):0{8 * LABELS_DRAWN}x}"
            self._labels = [text[at : at + 8] for at in range(0, len(text), 8)]
        return self._labels.pop()

    def retransmission(self, transaction: Transaction, now: float) -> None:
        """The request came again: the last response goes out again, if there is one."""
        self._server_input(transaction, t_.REQUEST, b"", now)

    def acknowledge(self, transaction: Transaction, now: float) -> bool:
        """An ACK came. True when it ends here, False when it goes on end to end (RFC 6026 section 7.1)."""
        effects = self._server_input(transaction, t_.ACK, b"", now)
        return not effects & ASK_DELIVER

    def reply(self, transaction: Transaction, status: int, data: bytes, to_tag: str, local: bool, now: float) -> bool:
        """Send a response upstream. False when the machine does not take it any more (section 17.2.1, 17.2.2)."""
        if transaction.local:
            if transaction.uas_status >= 200 and status >= 300:
                return False
            transaction.uas_status = status
            transaction.last_local = local
            return True
        if status < 200:
            event = t_.TU_1XX
        elif status >= 300:
            event = t_.TU_FINAL
        else:
            event = t_.TU_2XX_LOCAL if local and transaction.invite else t_.TU_2XX
        table = self._invite_server if transaction.invite else self._server
        if table[transaction.state * t_.INPUTS + event] is None:
            return False
        transaction.uas_status = status
        transaction.last_local = local
        if to_tag:
            transaction.reply_to_tag = to_tag
        if event == t_.TU_2XX_LOCAL and transaction.request is not None:
            request = transaction.request
            transaction.dialog_key = dialog_key(request.call_id, request.cseq_number, request.from_tag)
            self._by_dialog[transaction.dialog_key] = transaction
        self._server_input(transaction, event, data, now)
        return True

    def _server_input(self, transaction: Transaction, event: int, data: bytes, now: float) -> int:
        table = self._invite_server if transaction.invite else self._server
        row = table[transaction.state * INPUTS + event]
        if row is None:
            return 0
        transaction.state = row.state
        settings = self.settings
        for effect in row.effects:
            if effect >= FIRST_END:
                self._start_server_timer(transaction, effect, now)
            elif effect == RESPOND:
                transaction.last_reply = data
                self.hooks.send_reply(transaction, data)
            elif effect == RESEND:
                last = transaction.last_reply
                if not last and transaction.uas_status == 100:
                    last = self.hooks.trying(transaction)
                if last:
                    self.hooks.send_reply(transaction, last)
                    if event == t_.TIMER_G:
                        self.hooks.resent_reply(transaction)
            elif effect == START_G:
                # A 2xx made here is repeated over any transport: a later hop may be one that loses it (13.3.1.4).
                if event == t_.TU_2XX_LOCAL or not transaction.reliable:
                    transaction.resend_s = settings.t1_s
                    transaction.resend_at = now + settings.t1_s
            elif effect == DOUBLE_G:
                transaction.resend_s = min(transaction.resend_s * 2, settings.t2_s)
                transaction.resend_at = now + transaction.resend_s
            elif effect == STOP_G:
                transaction.resend_at = NEVER
                transaction.acked = True
            elif effect == NO_ACK:
                self.hooks.not_acknowledged(transaction)
        if transaction.state == TERMINATED:
            self._wheel.disarm(transaction)
            self._end(transaction, now)
        else:
            self._wheel.arm(transaction)
        return row.asked

    def _start_server_timer(self, transaction: Transaction, effect: int, now: float) -> None:
        settings = self.settings
        transaction.resend_at = NEVER
        if effect == START_L:
            transaction.end_at = now + 64 * settings.t1_s
        elif effect == START_H:
            transaction.end_at = now + settings.fr_timeout_s
        elif transaction.reliable:  # timers I and J are zero
            transaction.state = TERMINATED
        else:
            transaction.end_at = now + settings.wait_s

    # -- client side ---------------------------------------------------------------------------------------------

    def add_branch(self, transaction: Transaction, uri: str) -> Branch | None:
        """Make room for one more destination; None when there are too many. It is sent by `start`."""
        if len(transaction.branches) >= MAX_BRANCHES:
            return None
        branch = Branch(transaction, len(transaction.branches), uri)
        if transaction.branches:
            transaction.branches.append(branch)
        else:
            transaction.branches = [branch]  # mostly the only one: without room for more
        return branch

    def add_phony(self, transaction: Transaction, now: float) -> Branch | None:
        """A branch without signalling that keeps the transaction open until `fr_inv_timeout`."""
        branch = self.add_branch(transaction, "")
        if branch is not None:
            branch.phony = True
            branch.local = True
            branch.state = t_.PROCEEDING
            branch.end_at = now + (transaction.fr_inv_timeout_s or self.settings.fr_inv_timeout_s)
            self._wheel.arm(branch)
        return branch

    def end_phony(self, branch: Branch, now: float) -> None:
        """Take a branch without signalling out of the game; the caller settles it."""
        branch.state = t_.TERMINATED
        self._wheel.disarm(branch)

    def via_branch(self, branch: Branch) -> str:
        """The branch parameter for the Via header of a branch, and what else stands behind it."""
        return branch_parameter(branch.transaction.id, branch.index) + self.via_suffix

    def start(self, client: Client, data: bytes, target: object, reliable: bool, now: float) -> bool:
        """Send the request of a branch. False when it cannot leave; the branch has then ended."""
        client.data = data
        client.target = target
        client.reliable = reliable
        return not self._client_input(client, t_.START, None, now) & ASK_FAILED

    def discard(self, branch: Branch, now: float) -> None:
        """End a branch that was never sent; its outcome counts for nothing."""
        branch.state = t_.TERMINATED
        branch.discarded = True
        branch.local = True
        if branch.status < 200:
            branch.status = 487 if branch.cancelled else 477
        self._wheel.disarm(branch)
        self._end(branch.transaction, now)

    def receive_reply(self, client: Client, msg: Message, now: float) -> int:
        """Feed the machine. DELIVERED when the layer above has to look at the reply, else ABSORBED.

        The layer above keeps the transaction `busy` while it looks, for this may have been its last machine's end.
        """
        status = msg.status
        branch = client.branch
        if branch is not client or branch is None:  # the answer to a CANCEL says nothing about the INVITE (9.1)
            self._client_input(client, _reply_input(status), msg, now)
            self._end(client.transaction, now)
            return ABSORBED
        if not branch.phony:
            branch.last_received = status
        known = branch.to_tags
        if client.state == t_.ACCEPTED and known is not None and 200 <= status < 300 and msg.to_tag in known:
            again = known[msg.to_tag]
            if client.transaction.local:
                self.hooks.repeated_2xx(branch, msg)
            elif again:
                self.hooks.send_reply(client.transaction, again)
                self.hooks.relayed_again(client.transaction)
            return ABSORBED
        return self._client_input(client, _reply_input(status), msg, now) & ASK_DELIVER

    def transport_error(self, client: Client, now: float) -> None:
        """The network found out later that the request did not leave (section 17.1.4)."""
        if self._client_input(client, t_.TRANSPORT_ERROR, None, now) & ASK_FAILED and client.branch is client:
            self.hooks.transport_failed(client.branch, now)
        self._end(client.transaction, now)

    def cancel(self, branch: Branch, now: float) -> None:
        """Cancel one branch: at once, or as soon as a provisional response allows it (section 9.1)."""
        if branch.cancelled or not branch.invite:
            return
        branch.cancelled = True
        if not branch.phony:
            self._client_input(branch, t_.CANCEL, None, now)

    def cancel_pending(self, transaction: Transaction, now: float, keep: Branch | None = None) -> None:
        """Cancel every branch that still waits for its final response."""
        for branch in transaction.branches:
            if branch is not keep and branch.status < 200 and not branch.phony:
                self.cancel(branch, now)

    def set_fr_inv_timeout(self, transaction: Transaction, seconds: float, now: float) -> None:
        """Change timer C of a transaction, also of the branches for which it runs already."""
        transaction.fr_inv_timeout_s = seconds
        for branch in transaction.branches:
            if branch.state == t_.PROCEEDING and branch.invite:
                branch.end_at = now + (seconds or self.settings.fr_inv_timeout_s)
                self._wheel.arm(branch)

    def _client_input(self, client: Client, event: int, msg: Message | None, now: float) -> int:
        table = self._invite_client if client.invite else self._client
        before = client.state
        row = table[before * INPUTS + event]
        if row is None:
            return 0
        client.state = row.state
        settings = self.settings
        asked = row.asked
        for effect in row.effects:
            if effect >= FIRST_END:
                if effect != START_C or before != PROCEEDING or settings.restart_fr:
                    self._start_client_timer(client, effect, now)
            elif effect == SEND:
                client.sends = 1
                if not self.hooks.send_request(client, client.data):
                    client.state = TERMINATED
                    asked |= ASK_FAILED
            elif effect in (START_A, START_E):
                if not client.reliable:
                    client.resend_s = settings.t1_s
                    client.resend_at = now + settings.t1_s
            elif effect == SEND_ACK:
                self._send_ack(client, msg)
            elif effect == RESEND:
                client.sends += 1
                self.hooks.send_request(client, client.sent())
                self.hooks.resent_request(client)
                if client.sends == 2 and client.invite:
                    client.fold()
            elif effect == DOUBLE_A:
                client.resend_s *= 2
                client.resend_at = now + client.resend_s
            elif effect == DOUBLE_E:
                client.resend_s = min(client.resend_s * 2, settings.t2_s)
                client.resend_at = now + client.resend_s
            elif effect == RESTART_E:
                client.resend_s = settings.t2_s
                client.resend_at = now + client.resend_s
            elif effect == SEND_CANCEL:
                self._send_cancel(client, now)
        state = client.state
        if state >= ABANDONED and client.reliable:
            self.hooks.waits_no_more(client)
        if state == TERMINATED:
            client.drop_data()
            client.ack = b""
            self._wheel.disarm(client)
            if not asked:
                self._end(client.transaction, now)
        else:
            if state == ACCEPTED or (state == COMPLETED and not client.invite):
                client.drop_data()
            self._wheel.arm(client)
        return asked

    def _start_client_timer(self, client: Client, effect: int, now: float) -> None:
        settings = self.settings
        transaction = client.transaction
        if effect in (START_B, START_F):
            client.end_at = now + (transaction.fr_timeout_s or settings.fr_timeout_s)
            return
        client.resend_at = NEVER
        if effect == START_C:
            client.end_at = now + (transaction.fr_inv_timeout_s or settings.fr_inv_timeout_s)
        elif effect == START_LINGER:
            client.end_at = now + settings.wait_s
        elif effect in (START_LIMIT, START_M):
            client.end_at = now + 64 * settings.t1_s
        elif client.reliable:  # timers D and K are zero
            client.state = TERMINATED
        elif effect == START_D:
            client.end_at = now + 64 * settings.t1_s
        else:
            client.end_at = now + settings.t4_s

    def _send_ack(self, client: Client, msg: Message | None) -> None:
        if not client.ack and msg is not None and client.data:
            try:
                client.ack = build_ack(client.sent(), msg, client.transaction.headers)
            except ParseError:
                # The script made its copy of the request unreadable; the peer cannot have understood it either.
                return
            client.drop_data()
        if client.ack:
            self.hooks.send_request(client, client.ack)

    def _send_cancel(self, client: Client, now: float) -> None:
        branch = client.branch
        if branch is None or branch.cancel is not None or branch.phony:
            return
        branch.cancelled = True
        transaction = branch.transaction
        try:
            data = build_cancel(branch.sent(), _reason(branch) + transaction.headers)
        except ParseError:
            return
        cancel = Client(transaction, False)
        cancel.branch = branch
        branch.cancel = cancel
        self.start(cancel, data, branch.target, branch.reliable, now)

    # -- response context ----------------------------------------------------------------------------------------

    def settle(self, branch: Branch, status: int, now: float) -> int:
        """What a response means for the whole transaction (section 16.7 steps 4, 5 and 10).

        The caller has noted `branch.reply` or `branch.local`. FORWARD: this one goes upstream now. FINISHED: all
        branches have ended, `winner` tells which response counts. NOTHING: wait, or it is too late.
        """
        transaction = branch.transaction
        answered = transaction.uas_status >= 200
        if status < 200:
            return NOTHING if status == 100 or answered or branch.status >= 200 else FORWARD
        if status < 300:
            branch.status = status
            transaction.final = branch
            if answered and (not transaction.invite or (transaction.local and transaction.uas_status >= 300)):
                return NOTHING
            if not transaction.keep_pending:
                self.cancel_pending(transaction, now, branch)
                self._drop_phonies(transaction, now)
            return FORWARD
        if branch.status >= 200:
            return NOTHING
        branch.status = status
        transaction.last_final = branch.index
        if answered:
            return NOTHING
        if status >= 600 and self.settings.block_6xx:
            transaction.no_more = True
            self.cancel_pending(transaction, now, branch)
            self._drop_phonies(transaction, now)
        if transaction.pending:
            return NOTHING
        for other in transaction.branches:
            if other.status < 200:  # only minor ones are left
                self.cancel(other, now)
                other.status = 487
                other.local = True
        return FINISHED

    def _drop_phonies(self, transaction: Transaction, now: float) -> None:
        for branch in transaction.branches:
            if branch.phony and branch.status < 200:
                branch.status = 487
                self.end_phony(branch, now)

    def winner(self, transaction: Transaction) -> Branch:
        """The branch whose response counts, among the latest set (section 16.7 step 6).

        A caller who cancelled hears the 487 of a branch, though another one had failed before with something else.
        """
        latest = transaction.branches[transaction.first :]
        ended = [b for b in latest if not b.discarded] or latest
        best: Branch | None = None
        if transaction.cancelled:
            for branch in ended:
                if branch.status == 487 and not branch.phony:
                    best = branch
                    break
        if best is None:
            best = best_branch(ended)
        transaction.final = best
        return best

    # -- end -----------------------------------------------------------------------------------------------------

    def release(self, transaction: Transaction, now: float) -> None:
        """Let go of a transaction that nobody will answer; its request then counts as never seen."""
        if not transaction.local and transaction.state != t_.TERMINATED:
            transaction.state = t_.TERMINATED
            self._wheel.disarm(transaction)
        self._end(transaction, now)

    def compact(self, transaction: Transaction) -> None:
        """Drop what an answered transaction does not need while it lingers for retransmissions."""
        if transaction.uas_status < 200 or transaction.busy:
            return
        for branch in transaction.branches:
            if branch.status < 200:
                return
        transaction.forget_heavy()

    def unbusy(self, transaction: Transaction, now: float) -> None:
        """One route less is at work on the transaction."""
        transaction.busy -= 1
        if transaction.busy == 0:
            self._end(transaction, now)

    def _end(self, transaction: Transaction, now: float) -> None:
        if transaction.state != TERMINATED or transaction.gone or not transaction.ended:
            return
        if transaction.busy:
            transaction.end_at = now + self.settings.delete_s
            self._wheel.arm(transaction)
            return
        transaction.gone = True
        self._wheel.disarm(transaction)
        del self._by_id[transaction.id]
        if transaction.key and self._servers.get(transaction.key) is transaction:
            del self._servers[transaction.key]
        if transaction.dialog_key and self._by_dialog.get(transaction.dialog_key) is transaction:
            del self._by_dialog[transaction.dialog_key]
        self.hooks.destroyed(transaction)
        transaction.forget_heavy()
        transaction.callbacks = None
        # Its machines refer to each other and back: without that the last one who asks frees them all.
        for branch in transaction.branches:
            if branch.cancel is not None:
                branch.cancel.branch = None
            branch.branch = None
        transaction.branches = []
        transaction.final = None

    # -- time ----------------------------------------------------------------------------------------------------

    @property
    def ticks(self) -> list[int]:
        """Always the same list. Its first number is not later than the tick of the next timer; it is empty when none
        runs. To look at it is cheaper than `next_wake`."""
        return self._wheel.ticks

    def next_wake(self) -> float | None:
        """When `wake` has to be called, None when no timer runs."""
        return self._wheel.next_wake()

    def wake(self, now: float) -> None:
        """Fire the timers that are due."""
        due: list[Timed] = self._wheel.due(now)
        for machine in due:
            if isinstance(machine, Client):
                self._wake_client(machine, now)
            elif isinstance(machine, Transaction):
                self._wake_server(machine, now)

    def _wake_client(self, client: Client, now: float) -> None:
        limit = now + SLACK
        if client.end_at != NEVER and client.end_at <= limit:
            client.end_at = NEVER
            client.resend_at = NEVER
            branch = client.branch
            if branch is client and branch is not None and branch.phony:
                self.end_phony(branch, now)
                self.hooks.timed_out(branch, now)
                return
            asked = self._client_input(client, t_.TIMER_END, None, now)
            if asked & ASK_TIMEOUT:
                if branch is client and branch is not None:
                    self.hooks.timed_out(branch, now)
                # An ended CANCEL or an answer that nobody awaits leaves nothing to be told.
                self._end(client.transaction, now)
        elif client.resend_at != NEVER and client.resend_at <= limit:
            client.resend_at = NEVER
            self._client_input(client, t_.TIMER_RESEND, None, now)
        else:
            if client.state == t_.PROCEEDING and client.invite:
                self._rest(client)
            self._wheel.arm(client)

    def _rest(self, client: Client) -> None:
        """The bucket of timer A has come, and timer C runs instead: the peer rings, which may take long.

        An INVITE is not sent again after a provisional response (17.1.1.2), so only what its ACK and its CANCEL copy
        is kept.
        """
        branch = client.branch
        if branch is None or branch is not client or client.transaction.local:
            return
        if client.data:
            try:
                client.data = shorten_sent(client.sent())
                client.rest = None
            except ParseError:
                return  # what the script made of its copy is kept as it is
        self.hooks.rests(branch)

    def _wake_server(self, transaction: Transaction, now: float) -> None:
        limit = now + SLACK
        if transaction.end_at != NEVER and transaction.end_at <= limit:
            transaction.end_at = NEVER
            transaction.resend_at = NEVER
            if transaction.state == t_.TERMINATED:
                self._end(transaction, now)
            else:
                self._server_input(transaction, t_.TIMER_END, b"", now)
        elif transaction.resend_at != NEVER and transaction.resend_at <= limit:
            transaction.resend_at = NEVER
            self._server_input(transaction, t_.TIMER_RESEND, b"", now)
        else:
            self._wheel.arm(transaction)


def _reason(branch: Branch) -> str:
    """The Reason header of a CANCEL (RFC 3326): a phone that is told so does not show a call answered elsewhere as
    missed."""
    transaction = branch.transaction
    final = transaction.final
    if 200 <= transaction.uas_status < 300 or (final is not None and 200 <= final.status < 300):
        return COMPLETED_ELSEWHERE
    if not transaction.cancel_reason and branch.state == t_.ABANDONED:
        return NO_ANSWER
    return transaction.cancel_reason


def _reply_input(status: int) -> int:
    if status < 200:
        return t_.PROVISIONAL
    return t_.FINAL_2XX if status < 300 else t_.FINAL_OTHER
