"""The script's view of `tm`: functions, variables, parameters, management commands and statistics."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Annotated, Any, Final

from opensipspy import sip
from opensipspy.module import (
    Flags,
    LocateError,
    MiError,
    Module,
    Param,
    ParamError,
    RouteName,
    Stat,
    Target,
    WritableVar,
    mi_command,
    script_function,
    variable,
)
from opensipspy.modules.tm.api import Reply, TmApi
from opensipspy.modules.tm.flow import (
    E_BAD_ADDRESS,
    E_NO_DESTINATION,
    E_UNSPEC,
    FLAG_BITS,
    MAX_HEADERS,
    REPLICATE,
    Flow,
    armed,
    branch_of,
    proxy_uri,
    transaction_of,
)
from opensipspy.modules.tm.uac import ack_for_2xx, request_text, split_headers, token, with_tag
from opensipspy.script.kinds import BRANCH, FAILURE, LOCAL, ONREPLY, REQUEST
from opensipspy.script.patterns import Pattern
from opensipspy.script.run import INDEX_ALL, INDEX_APPEND, Index, Run, Value, VarRef
from opensipspy.script.run import Branch as Destination
from opensipspy.transaction import Branch, Callback, Settings, Transaction
from opensipspy.transaction.tables import INITIAL, TERMINATED

if TYPE_CHECKING:
    from opensipspy.module import Core
    from opensipspy.sip import Message, Socket

RELAY_FLAGS: Final = ("no-auto-477", "no-dns-failover", "pass-reason-hdr", "allow-no-cancel")
ANYWHERE: Final = REQUEST | FAILURE | ONREPLY | BRANCH
MAX_TIMEOUT_S: Final = 86400
MAX_BODY: Final = 65535


def flag_bits(text: str) -> int:
    """The bits of a comma-separated flag list; words that are not known were found at load."""
    bits = 0
    for word in text.split(","):
        bits |= FLAG_BITS.get(word.strip(), 0)
    return bits


def seconds(name: str, value: int, least: float, scale: float = 1.0) -> float:
    """A time parameter; raises ParamError when it is out of range."""
    if not least <= value * scale <= MAX_TIMEOUT_S:
        raise ParamError("tm", name, f"{value} is out of range")
    return value * scale


class Tm(Module, TmApi):
    """Keep SIP transactions: forking, failure routes, retransmissions, requests made here (RFC 3261 section 16, 17)."""

    name = "tm"

    T1_timer = Param(int, 500, "First retransmission interval.", unit="ms")
    T2_timer = Param(int, 4000, "Longest retransmission interval.", unit="ms")
    auto_100trying = Param(int, 1, "Send 100 as soon as an INVITE has its transaction.")
    delete_timer = Param(int, 2, "How long to wait before trying again to delete one that a route works on.", unit="s")
    disable_6xx_block = Param(int, 0, "Let a failure route go on to other destinations after a 6xx.")
    enable_stats = Param(int, 1, "Count what happens.")
    fr_inv_timeout = Param(int, 120, "Longest wait for the final reply to an INVITE that rings.", unit="s")
    fr_timeout = Param(int, 30, "Longest wait for the first reply, and for the ACK of a failure.", unit="s")
    local_reply_route = Param(str, None, "Request route that is shown each reply made here; it may only look.")
    local_request_route = Param(str, None, "Request route that is shown each request made here; it may only look.")
    minor_branch_flag = Param((int, str), None, "Branch flag of branches that nobody waits for.")
    onreply_avp_mode = Param(int, 0, "1: reply routes see and change the AVPs of the transaction.")
    pass_provisional_replies = Param(int, 0, "Tell the modules that sent a request of its provisional replies too.")
    restart_fr_on_each_reply = Param(int, 1, "Start fr_inv_timeout again with each provisional reply.")
    ruri_matching = Param(int, 1, "Compare the Request-URI when an old client sends no RFC 3261 branch.")
    syn_branch = Param(int, 1, "0: branches are computed from the request, so that a restart does not change them.")
    timer_partitions = Param(int, 1, "Accepted and without effect: one timer wheel serves all transactions.")
    via1_matching = Param(int, 1, "Compare the topmost Via when an old client sends no RFC 3261 branch.")
    wt_timer = Param(int, 5, "How long an ended transaction still absorbs retransmissions.", unit="s")

    received_replies = Stat("Replies received for transactions.")
    relayed_replies = Stat("Replies passed upstream.")
    local_replies = Stat("Replies made here.")
    uas_transactions = Stat("Transactions of received requests.", name="UAS_transactions")
    uac_transactions = Stat("Transactions of requests made here.", name="UAC_transactions")
    final_2xx = Stat("Transactions that ended with 2xx.", name="2xx_transactions")
    final_3xx = Stat("Transactions that ended with 3xx.", name="3xx_transactions")
    final_4xx = Stat("Transactions that ended with 4xx.", name="4xx_transactions")
    final_5xx = Stat("Transactions that ended with 5xx.", name="5xx_transactions")
    final_6xx = Stat("Transactions that ended with 6xx.", name="6xx_transactions")
    inuse_transactions = Stat("Transactions in memory.", no_reset=True, computed="count_transactions")
    retransmission_req_T1_1 = Stat("First retransmissions of requests.")
    retransmission_req_T1_2 = Stat("Second retransmissions of requests.")
    retransmission_req_T1_3 = Stat("Third retransmissions of requests.")
    retransmission_req_T2 = Stat("Further retransmissions of requests.")
    retransmission_rpl_T2 = Stat("Retransmissions of final replies.")
    timeout_finalresponse = Stat("Branches that gave no sign of life in time.")
    timeout_finalresponse_inv = Stat("INVITE branches without a final reply in time.")

    flow: Flow

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self._hash_totals: dict[int, int] = {}

    # -- life ----------------------------------------------------------------------------------------------------

    def bind(self, core: Core) -> None:
        super().bind(core)
        self.flow = Flow(self, core, self.settings())
        core.on_reply(self.flow.receive_reply)
        core.after_script(self.flow.release_unused)

    def settings(self) -> Settings:
        """The parameters as the transaction layer takes them; raises ParamError."""
        made = Settings()
        made.t1_s = seconds("T1_timer", self.T1_timer, 0.01, 0.001)
        made.t2_s = seconds("T2_timer", self.T2_timer, 0.01, 0.001)
        made.fr_timeout_s = seconds("fr_timeout", self.fr_timeout, 1)
        made.fr_inv_timeout_s = seconds("fr_inv_timeout", self.fr_inv_timeout, 1)
        made.wait_s = seconds("wt_timer", self.wt_timer, 1)
        made.delete_s = seconds("delete_timer", self.delete_timer, 1)
        made.restart_fr = bool(self.restart_fr_on_each_reply)
        made.block_6xx = not self.disable_6xx_block
        made.syn_branch = bool(self.syn_branch)
        made.ruri_matching = bool(self.ruri_matching)
        made.via1_matching = bool(self.via1_matching)
        return made

    async def start(self) -> None:
        if self.minor_branch_flag is not None:
            self.flow.minor_flag = self.core.flags.mask("branch", str(self.minor_branch_flag))
        for param in ("local_request_route", "local_reply_route"):
            wanted = getattr(self, param)
            if wanted and self.core.program is not None and self.flow.route(REQUEST, wanted) is None:
                raise ParamError("tm", param, f"there is no route[{wanted}]")

    async def stop(self) -> None:
        self.flow.close()

    # -- counting ------------------------------------------------------------------------------------------------

    def count_transactions(self) -> int:
        """`inuse_transactions`."""
        return len(self.flow.layer)

    def count_uas(self) -> None:
        if self.enable_stats:
            self.uas_transactions.value += 1

    def count_received(self) -> None:
        if self.enable_stats:
            self.received_replies.value += 1

    def count_relayed(self) -> None:
        if self.enable_stats:
            self.relayed_replies.value += 1

    def count_local(self) -> None:
        if self.enable_stats:
            self.local_replies.value += 1

    def count_final(self, status: int) -> None:
        if not self.enable_stats:
            return
        family = status // 100
        if family == 2:
            self.final_2xx.value += 1
        elif family == 3:
            self.final_3xx.value += 1
        elif family == 4:
            self.final_4xx.value += 1
        elif family == 5:
            self.final_5xx.value += 1
        else:
            self.final_6xx.value += 1

    def count_resent_request(self, times: int) -> None:
        if not self.enable_stats:
            return
        if times == 1:
            self.retransmission_req_T1_1.value += 1
        elif times == 2:
            self.retransmission_req_T1_2.value += 1
        elif times == 3:
            self.retransmission_req_T1_3.value += 1
        else:
            self.retransmission_req_T2.value += 1

    def count_resent_reply(self) -> None:
        if self.enable_stats:
            self.retransmission_rpl_T2.value += 1

    def count_silent(self) -> None:
        if self.enable_stats:
            self.timeout_finalresponse.value += 1

    def count_unanswered(self) -> None:
        if self.enable_stats:
            self.timeout_finalresponse_inv.value += 1

    def server_line(self) -> str:
        """The value of the Server header of replies made here; "" when the script turned it off."""
        if not getattr(self.core.globals, "server_signature", True):
            return ""
        # The script gives the whole line, name included.
        return str(getattr(self.core.globals, "server_header", "") or "").removeprefix("Server:").strip()

    # -- interface for modules -----------------------------------------------------------------------------------

    def transaction(self, run: Run) -> Transaction | None:
        return transaction_of(run)

    def new_transaction(self, run: Run) -> int:
        return self.flow.new_transaction(run)

    def reply(self, run: Run, code: int, reason: str, headers: str = "", body: bytes = b"") -> int:
        return self.flow.reply(run, code, reason, headers, body)

    def local_tag(self, run: Run) -> str:
        found = transaction_of(run)
        return self.flow.tag_of(found) if found is not None else ""

    def on(self, event: int, callback: Callback) -> None:
        self.flow.on(event, callback)

    # -- creating and finding ------------------------------------------------------------------------------------

    @script_function(routes=REQUEST)
    def t_newtran(self, run: Run) -> int:
        """Make the transaction of the request; for an INVITE 100 is sent at once.

        A retransmission gets the last reply again and ends the script. False when there is a transaction already.
        """
        if transaction_of(run) is not None:
            return E_UNSPEC
        return self.flow.new_transaction(run)

    @script_function(routes=REQUEST | BRANCH)
    def t_check_trans(self, run: Run) -> int:
        """Whether the request belongs to a transaction.

        A retransmission gets the last reply again and ends the script. True for a CANCEL whose INVITE is known and
        for the ACK of a failure; -2 for the end-to-end ACK of a 2xx, -1 for everything else.
        """
        msg = run.msg
        layer = self.flow.layer
        if not msg.is_request:
            return E_UNSPEC
        if msg.method == "ACK":
            return 1 if self.flow.absorb_ack(msg) else -2
        current = transaction_of(run)
        if msg.method == "CANCEL":
            repeated = None if current is not None else layer.find(msg)
            if repeated is not None:
                layer.retransmission(repeated, self.core.now())
                return 0
            return 1 if layer.find_cancelled(msg) is not None else -1
        if current is not None:
            return 1 if run.kind == BRANCH else -1
        found = layer.find(msg)
        if found is None:
            return -1
        layer.retransmission(found, self.core.now())
        return 0

    # -- arming --------------------------------------------------------------------------------------------------

    @script_function(routes=ANYWHERE)
    def t_on_branch(self, run: Run, branch_route: Annotated[str, RouteName(BRANCH)]) -> int:
        """Run `branch_route` for each branch before it is sent; `drop` there discards the branch."""
        found = transaction_of(run)
        if found is not None:
            found.on_branch = branch_route
        else:
            armed(run).on_branch = branch_route
        return 1

    @script_function(routes=ANYWHERE | LOCAL)
    def t_on_failure(self, run: Run, failure_route: Annotated[str, RouteName(FAILURE)]) -> int:
        """Run `failure_route` once when all branches have failed, before the answer goes upstream."""
        found = transaction_of(run)
        if found is not None:
            found.on_failure = failure_route
        else:
            armed(run).on_failure = failure_route
        return 1

    @script_function(routes=ANYWHERE | LOCAL)
    def t_on_reply(self, run: Run, reply_route: Annotated[str, RouteName(ONREPLY)]) -> int:
        """Run `reply_route` for each reply; armed in a branch route, for the replies of that branch only."""
        found = transaction_of(run)
        if found is None:
            armed(run).on_reply = reply_route
            return 1
        branch = branch_of(run) if run.kind == BRANCH else None
        if branch is not None:
            branch.on_reply = reply_route
        else:
            found.on_reply = reply_route
        return 1

    @script_function(routes=REQUEST)
    def t_add_hdrs(self, run: Run, sip_hdrs: str) -> int:
        """Attach complete header lines to all requests of the transaction: branches, CANCELs, hop-by-hop ACKs."""
        if not sip_hdrs:
            return E_UNSPEC
        lines = sip_hdrs if sip_hdrs.endswith("\r\n") else sip_hdrs + "\r\n"
        found = transaction_of(run)
        before = found.headers if found is not None else armed(run).headers
        if len(before) + len(lines) > MAX_HEADERS or "\r\n\r\n" in lines:
            return E_UNSPEC
        if found is not None:
            found.headers = before + lines
        else:
            armed(run).headers = before + lines
        return 1

    @script_function(routes=REQUEST)
    def t_add_cancel_reason(self, run: Run, Reason_hdr: str) -> int:
        """Give the CANCELs that a relayed CANCEL causes this Reason header, a complete line."""
        if run.msg.method != "CANCEL" or len(Reason_hdr) > MAX_HEADERS or "\r\n\r\n" in Reason_hdr:
            return E_UNSPEC
        armed(run).reason = Reason_hdr if Reason_hdr.endswith("\r\n") else Reason_hdr + "\r\n"
        return 1

    @script_function(routes=REQUEST | BRANCH)
    def t_flush_flags(self, run: Run) -> int:
        """Copy the message flags into a transaction that was made before they changed."""
        found = transaction_of(run)
        if found is None:
            return E_UNSPEC
        found.flags = run.msg_flags
        return 1

    # -- sending -------------------------------------------------------------------------------------------------

    @script_function(routes=REQUEST | FAILURE)
    def t_relay(
        self, run: Run, flags: Annotated[str | None, Flags(RELAY_FLAGS)] = None, outbound_proxy: str | None = None
    ) -> int | Awaitable[int]:
        """Send the request to its destinations, with a transaction.

        Returns 1 sent; -1 internal error, -2 bad message, -3 no destination or already cancelled, -4 unresolvable,
        -5 filtered, -6 nothing could be sent.
        """
        proxy = proxy_uri(outbound_proxy) if outbound_proxy else ""
        return self.flow.relay(run, flag_bits(flags or ""), proxy)

    @script_function(routes=REQUEST | FAILURE)
    def t_replicate(
        self, run: Run, URI: str, flags: Annotated[str | None, Flags(RELAY_FLAGS)] = None
    ) -> int | Awaitable[int]:
        """Send a copy of the request to `URI` and the script's further branches; the caller hears nothing of it."""
        msg = run.msg
        if not msg.is_request or msg.method in ("ACK", "CANCEL"):
            return E_UNSPEC
        found = transaction_of(run)
        copy = run.for_branch(Destination(URI), 0)
        copy.branches = list(run.branches)
        copy.ctx = {}
        transaction = self.flow.layer.create_local(msg.method, msg.call_id, self.core.now())
        transaction.request = msg
        transaction.run = copy
        transaction.flags = run.msg_flags
        if found is not None:
            transaction.fr_timeout_s = found.fr_timeout_s
        copy.transaction = transaction
        handled = run.handled
        result = self.flow.relay_set(transaction, copy, flag_bits(flags or "") | REPLICATE, "", False)
        run.handled = handled
        if isinstance(result, int) and result <= 0:
            self.flow.layer.release(transaction, self.core.now())
        return result

    @script_function(routes=REQUEST | FAILURE)
    def t_reply(self, run: Run, code: int, reason_phrase: str) -> int:
        """Answer the request within its transaction, which is made when there is none."""
        return self.flow.reply(run, code, reason_phrase or sip.reason_phrase(code), "", b"")

    @script_function(routes=REQUEST | FAILURE)
    def t_reply_with_body(self, run: Run, code: int, reason_phrase: str, body: str) -> int:
        """Answer the request with a body; its Content-Type is added with append_to_reply()."""
        data = body.encode("utf-8", "surrogateescape")
        if len(data) > MAX_BODY:
            return E_UNSPEC
        return self.flow.reply(run, code, reason_phrase or sip.reason_phrase(code), "", data)

    @script_function(routes=REQUEST)
    def t_reply_by_callid(
        self, run: Run, code: int, reason_phrase: str, callid: str | None = None, cseq: str | None = None
    ) -> int:
        """Answer an INVITE found by Call-ID and CSeq number, by default those of this message."""
        wanted = callid or run.msg.call_id
        number = cseq if cseq is not None else str(run.msg.cseq_number)
        found = self._find_invite(wanted, number.split(" ")[0])
        if found is None or not 200 <= code <= 699:
            return E_UNSPEC
        return 1 if self.flow.reply_locally(found, code, reason_phrase, found.run) else E_UNSPEC

    def _find_invite(self, call_id: str, cseq: str) -> Transaction | None:
        for found in self.flow.layer.transactions():
            request = found.request
            if request is None or not found.invite or found.answered:
                continue
            if request.call_id == call_id and str(request.cseq_number) == cseq:
                return found
        return None

    # -- asking --------------------------------------------------------------------------------------------------

    @script_function(routes=ANYWHERE)
    def t_check_status(self, run: Run, re: Pattern) -> int:
        """Whether the status matches: of the reply at hand, of the winning one, or of the last one sent."""
        status = self._status(run)
        return 1 if status and re.search(str(status)) else E_UNSPEC

    def _status(self, run: Run) -> int:
        if run.kind == ONREPLY:
            return run.msg.status
        found = transaction_of(run)
        if found is None:
            return 0
        branch = branch_of(run)
        if run.kind == FAILURE and branch is not None:
            return branch.status
        if run.kind == BRANCH and branch is not None:
            return branch.last_received
        return found.uas_status

    @script_function(routes=ANYWHERE)
    def t_local_replied(self, run: Run, reply: str) -> int:
        """Whether replies were made here: "all" of them, those of the latest set ("branch"), or the "last" one."""
        found = transaction_of(run)
        if found is None:
            return E_UNSPEC
        if reply == "all":
            return 1 if all(branch.last_received == 0 for branch in found.branches) else E_UNSPEC
        if reply == "branch":
            latest = found.branches[found.first :]
            return 1 if all(branch.last_received == 0 for branch in latest) else E_UNSPEC
        if reply == "last":
            branch = branch_of(run)
            if run.kind == FAILURE and branch is not None:
                return 1 if branch.local else E_UNSPEC
            return 1 if found.uas_status and found.last_local else E_UNSPEC
        return E_UNSPEC

    @script_function(routes=ANYWHERE)
    def t_was_cancelled(self, run: Run) -> int:
        """Whether the caller cancelled the INVITE."""
        found = transaction_of(run)
        return 1 if found is not None and found.cancelled else E_UNSPEC

    @script_function(routes=ONREPLY)
    def t_cancel_branch(self, run: Run, flags: str | None = None) -> int:
        """Cancel branches that ring: this one, "a" all, "o" all others."""
        found = transaction_of(run)
        branch = branch_of(run)
        if found is None or branch is None or not found.invite:
            return E_UNSPEC
        now = self.core.now()
        letters = flags or ""
        if "a" in letters:
            self.flow.layer.cancel_pending(found, now)
        elif "o" in letters:
            self.flow.layer.cancel_pending(found, now, branch)
        elif not letters:
            if branch.status < 200:
                self.flow.layer.cancel(branch, now)
        else:
            return E_UNSPEC
        self.flow.arm()
        return 1

    @script_function(routes=FAILURE | ONREPLY | BRANCH)
    def t_get_branch_idx_by_attr(
        self,
        run: Run,
        attr: str,
        val_str: str | None = None,
        val_int: int | None = None,
        result_var: Annotated[VarRef | None, WritableVar()] = None,
        offset: int | None = None,
    ) -> int:
        """Find the first branch, from index `offset` on, that has the attribute with the value, if one is given."""
        found = transaction_of(run)
        if found is None:
            return E_UNSPEC
        for branch in found.branches[max(0, offset or 0) :]:
            if branch.attrs is None or attr not in branch.attrs:
                continue
            value = branch.attrs[attr]
            if (val_str is not None and value != val_str) or (val_int is not None and value != val_int):
                continue
            if result_var is not None:
                result_var.set(run, branch.index)
            return 1
        return E_UNSPEC

    # -- late branches -------------------------------------------------------------------------------------------

    @script_function(routes=REQUEST)
    def t_wait_for_new_branches(self, run: Run, branches: int | None = None) -> int:
        """Keep the transaction open for injected branches, at most `branches` of them, until fr_inv_timeout."""
        found = transaction_of(run)
        if found is None or not found.invite or found.answered:
            return E_UNSPEC
        return 1 if self.flow.wait_for_branches(found, branches or 0) else E_UNSPEC

    @script_function(routes=ANYWHERE)
    def t_wait_no_more_branches(self, run: Run) -> int:
        """Do not wait for injected branches any longer."""
        found = transaction_of(run)
        if found is None:
            return E_UNSPEC
        self.flow.wait_no_more(found)
        return 1

    @script_function(routes=REQUEST | ONREPLY)
    def t_inject_branches(self, run: Run, source: str, flags: str | None = None) -> int | Awaitable[int]:
        """Add the message's destinations ("msg") to its open transaction and send to them.

        flags: "cancel" ends the branches that ring first, "last" waits for no further ones.
        """
        found = transaction_of(run)
        if found is None or found.run is None or source != "msg":
            return E_UNSPEC
        words = {word.strip() for word in (flags or "").replace("|", ",").split(",")}
        letters = flags or ""
        cancel = "cancel" in words or letters in ("c", "cl", "lc")
        last = "last" in words or letters in ("l", "cl", "lc")
        return self.flow.inject(found, found.run, run, cancel, last)

    # -- requests made here --------------------------------------------------------------------------------------

    @script_function()
    def t_new_request(
        self,
        run: Run,
        method: str,
        RURI: str,
        from_: str,
        to: str,
        body: str | None = None,
        ctx: str | None = None,
    ) -> int:
        """Send a request of our own and do not wait for its reply.

        from, to: "[display ]URI". body: "content/type text". ctx: what local_route sees as $avp(uac_ctx).
        """
        headers, data = "", b""
        if body:
            kind, _, text = body.partition(" ")
            headers = f"Content-Type: {kind}\r\n"
            data = text.encode("utf-8", "surrogateescape")
        try:
            sip.parse_uri(RURI)
            from_value, to_value = _name_addr(from_), _name_addr(to)
        except sip.ParseError:
            return E_UNSPEC
        if not _is_token(method):
            return E_UNSPEC
        made = self.request(method, RURI, from_value, to_value, headers, data, context=ctx or "")
        self.core.spawn(made, f"tm {method}")
        return 1

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
        try:
            found = self.core.locate(next_hop or ruri)
            targets = found if isinstance(found, list) else await found
        except (LocateError, sip.ParseError) as error:
            return Reply(478, f"Unresolvable destination: {error}")
        if not targets:
            return Reply(478, "Unresolvable destination")
        chosen = self.core.choose_socket(targets[0].peer, socket) or targets[0].socket
        try:
            once, rest = split_headers(headers)
            call_id = once.get("call-id") or f"{token(self.core.random)}@{chosen.via_host}"
            cseq = int(once["cseq"].split()[0]) if "cseq" in once else 10
            from_value = with_tag(once.get("from", from_), token(self.core.random, 64))
            placeholder = chosen.via_prefix + "z9hG4bK0"
            text = request_text(method, ruri, from_value, once.get("to", to), call_id, cseq, rest, body, placeholder)
            own = sip.Peer(chosen.proto, chosen.address, chosen.port)
            msg = sip.parse_message(text, own, chosen)
        except (ValueError, IndexError) as error:
            return Reply(400, f"Bad request: {error}")
        run = Run(msg, LOCAL, self.core.program, self._services())
        if context:
            run.avps["uac_ctx"] = [context]
        transaction = self.flow.layer.create_local(method, call_id, self.core.now())
        transaction.request = msg
        transaction.run = run
        run.transaction = transaction
        if self.enable_stats:
            self.uac_transactions.value += 1
        transaction.busy += 1
        try:
            await self._local_route(run)
            placed = msg.first(sip.H_VIA)
            if placed is not None:
                run.edits.remove(placed)
            return await self._send_local(transaction, run, targets, next_hop or "", socket)
        finally:
            self.flow.layer.unbusy(transaction, self.core.now())
            self.flow.arm()

    def _services(self) -> Any:
        """What core functions of a route made here need; a core made for tests has none."""
        return getattr(self.core, "services", None)

    async def _local_route(self, run: Run) -> None:
        """Let local_route and the looking-on route see the request."""
        program = self.core.program
        local = program.route(LOCAL, "") if program is not None else None
        if local is not None:
            await self._run(local, run)
        if self.local_request_route:
            shown = self.flow.route(REQUEST, self.local_request_route)
            if shown is not None:
                await self._run(shown, Run(run.msg, REQUEST, program, self._services()))

    async def _run(self, route: Any, run: Run) -> None:
        over = asyncio.Event()
        self.core.run_route(route, run, lambda ended, result: over.set())
        await over.wait()

    async def _send_local(
        self, transaction: Transaction, run: Run, targets: list[Target], proxy: str, socket: Socket | None
    ) -> Reply:
        transaction.flags = run.msg_flags
        changed = run.ruri != run.msg.ruri or run.dst_uri
        if changed:
            try:
                found = self.core.locate(run.dst_uri or proxy or run.ruri)
                targets = found if isinstance(found, list) else await found
            except (LocateError, sip.ParseError) as error:
                return Reply(478, f"Unresolvable destination: {error}")
        destination = run.main_branch()
        destination.socket = run.socket_out or socket
        branch = self.flow.add(transaction, run, destination)
        if branch is None:
            return Reply(500, "Server Internal Error")
        branch.on_reply = ""
        branch.socket = destination.socket
        result: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def completed(status: int, reason: str, reply: Message | None) -> None:
            if not result.done():
                result.set_result(Reply(status, reason, reply))

        transaction.context = completed
        sent = self.flow.send_branch(branch, targets)
        if sent <= 0:
            transaction.context = None
            return Reply(478 if sent == E_BAD_ADDRESS else 477, "Send failed (477/TM)")
        return await result

    def dialog_ack(self, branch: Branch, reply: Message) -> bytes:
        """Acknowledge a 2xx to an INVITE made here; gives the bytes to send again when it comes again."""
        request = branch.transaction.request
        target: Target = branch.target
        if request is None:
            return b""
        via = f"{target.socket.via_prefix}z9hG4bK{branch.transaction.id}.{token(self.core.random, 32)}"
        data, hop = ack_for_2xx(request, reply, via)
        try:
            found = self.core.locate(hop)
        except (LocateError, sip.ParseError):
            found = [target]
        if isinstance(found, list):
            # Kept on the branch for retransmissions: its own request is not needed any more.
            branch.targets = found[:1]
            self.core.send(data, found[0] if found else target)
        else:
            self.core.spawn(self._ack_later(branch, data, found, target), "tm ACK")
        return data

    async def _ack_later(self, branch: Branch, data: bytes, waiting: Awaitable[list[Target]], target: Target) -> None:
        try:
            found = await waiting
        except LocateError:
            found = [target]
        branch.targets = found[:1]
        self.core.send(data, found[0] if found else target)

    def resend_dialog_ack(self, branch: Branch, msg: Message) -> None:
        """A 2xx came again, so its ACK was lost."""
        data = branch.to_tags.get(msg.to_tag) if branch.to_tags is not None else None
        if data:
            self.core.send(data, branch.targets[0] if branch.targets else branch.target)

    def show_reply(self, transaction: Transaction, data: bytes) -> None:
        """Run local_reply_route, if any, for a reply made here."""
        if not self.local_reply_route:
            return
        route = self.flow.route(REQUEST, self.local_reply_route)
        if route is None:
            return
        target: Target = transaction.upstream
        msg = sip.parse_message(data, target.peer, target.socket)
        shown = Run(msg, REQUEST, self.core.program, self._services())
        self.core.run_route(route, shown, lambda run, result: None)

    # -- variables -----------------------------------------------------------------------------------------------

    @variable("$T_branch_idx")
    def t_branch_idx(self, run: Run, name: object, index: Index) -> Value:
        """Index of the branch at hand, from 0; NULL outside of branch, reply and failure routes."""
        branch = branch_of(run)
        return branch.index if branch is not None else None

    @variable("$T_reply_code")
    def t_reply_code(self, run: Run, name: object, index: Index) -> Value:
        """Status of the reply at hand, of the winning one, or of the last one sent; 0 when there is none."""
        return self._status(run)

    @variable("$T_branch_last_reply_code", index=True)
    def t_branch_last_reply_code(self, run: Run, name: object, index: Index) -> Value:
        """Last status received on a branch, by default the one at hand."""
        branch = self._branch(run, index)
        if branch is None or branch.last_received == 0:
            return None
        return branch.last_received

    @variable("$T_fr_timeout", writable=True)
    def t_fr_timeout(self, run: Run, name: object, index: Index) -> Value:
        """Seconds to wait for the first reply; NULL restores the parameter."""
        found = transaction_of(run)
        value = found.fr_timeout_s if found is not None else armed(run).fr_timeout_s
        return int(value or self.fr_timeout)

    @t_fr_timeout.setter
    def set_t_fr_timeout(self, run: Run, name: object, index: Index, value: Value) -> None:
        found = transaction_of(run)
        wanted = self._timeout(value)
        if wanted is None:
            return
        if found is not None:
            found.fr_timeout_s = wanted
        else:
            armed(run).fr_timeout_s = wanted

    @variable("$T_fr_inv_timeout", writable=True)
    def t_fr_inv_timeout(self, run: Run, name: object, index: Index) -> Value:
        """Seconds to wait for the final reply of an INVITE that rings; NULL restores the parameter."""
        found = transaction_of(run)
        value = found.fr_inv_timeout_s if found is not None else armed(run).fr_inv_timeout_s
        return int(value or self.fr_inv_timeout)

    @t_fr_inv_timeout.setter
    def set_t_fr_inv_timeout(self, run: Run, name: object, index: Index, value: Value) -> None:
        found = transaction_of(run)
        wanted = self._timeout(value)
        if wanted is None:
            return
        if found is not None:
            self.flow.layer.set_fr_inv_timeout(found, wanted, self.core.now())
            self.flow.arm()
        else:
            armed(run).fr_inv_timeout_s = wanted

    def _timeout(self, value: Value) -> float | None:
        """Seconds that a script gave, 0 for NULL; None, and a line in the log, when it is no good."""
        if value is None:
            return 0.0
        try:
            wanted = int(value)
        except ValueError:
            wanted = 0
        if not 0 < wanted <= MAX_TIMEOUT_S:
            self.core.log.error("tm: %r is no time-out in seconds", value)
            return None
        return float(wanted)

    @variable("$T_id")
    def t_id(self, run: Run, name: object, index: Index) -> Value:
        """Identity of the transaction, an opaque text."""
        found = transaction_of(run)
        return found.id if found is not None else None

    @variable("$T_ruri")
    def t_ruri(self, run: Run, name: object, index: Index) -> Value:
        """Request-URI of the branch at hand."""
        found = transaction_of(run)
        if found is None:
            return None
        branch = branch_of(run)
        if branch is not None:
            return branch.run.ruri if run.kind == BRANCH and branch.run is not None else branch.uri
        return run.ruri if run.kind == REQUEST else None

    @variable("$bavp", name_arg=True, index=True)
    def bavp(self, run: Run, name: str, index: Index) -> Value:
        """A value, or a stack of values, that belongs to one branch."""
        branch = branch_of(run)
        stack = branch.avps.get(name) if branch is not None and branch.avps is not None else None
        if not stack:
            return None
        if index == INDEX_ALL:
            return ";".join("" if value is None else str(value) for value in reversed(stack))
        if isinstance(index, str):
            return None
        at = -1 - (index or 0)
        return stack[at] if -len(stack) <= at < len(stack) else None

    @bavp.setter
    def set_bavp(self, run: Run, name: str, index: Index, value: Value) -> None:
        branch = branch_of(run)
        if branch is None:
            return
        if branch.avps is None:
            branch.avps = {}
        stack = branch.avps.setdefault(name, [])
        if index == INDEX_ALL:
            stack[:] = [] if value is None else [value]
        elif index == INDEX_APPEND:
            stack.insert(0, value)
        elif index is None and value is not None:
            stack.append(value)
        elif index is None or isinstance(index, int):
            at = -1 - (index if isinstance(index, int) else 0)
            if -len(stack) <= at < len(stack):
                if value is None:
                    del stack[at]
                else:
                    stack[at] = value
        if not stack:
            del branch.avps[name]

    @bavp.replacer
    def replace_bavp(self, run: Run, name: str, index: Index, value: Value) -> None:
        self.set_bavp(run, name, INDEX_ALL, value)

    def _branch(self, run: Run, index: Index) -> Branch | None:
        """The branch of an index: absolute, from the end when negative, "N/active" within the latest set."""
        found = transaction_of(run)
        if found is None:
            return None
        if index is None:
            return branch_of(run)
        branches = found.branches
        if isinstance(index, str):
            number, _, scope = index.partition("/")
            if scope not in ("", "all", "active") or not number.lstrip("-").isdigit():
                return None
            if scope == "active":
                branches = branches[found.first :]
            index = int(number)
        return branches[index] if -len(branches) <= index < len(branches) else None

    def _sent_branch(self, run: Run, index: Index) -> Branch | None:
        """As `_branch`; NULL for the one that is just being prepared in its branch route."""
        branch = self._branch(run, index)
        return None if branch is not None and branch.state == INITIAL else branch

    @variable("$tm.branch.uri", index=True)
    def branch_uri(self, run: Run, name: object, index: Index) -> Value:
        """Request-URI of a branch."""
        branch = self._sent_branch(run, index)
        return branch.uri if branch is not None else None

    @variable("$tm.branch.duri", index=True)
    def branch_duri(self, run: Run, name: object, index: Index) -> Value:
        """Destination URI of a branch."""
        branch = self._sent_branch(run, index)
        return (branch.dst_uri or None) if branch is not None else None

    @variable("$tm.branch.path", index=True)
    def branch_path(self, run: Run, name: object, index: Index) -> Value:
        """Path of a branch."""
        branch = self._sent_branch(run, index)
        return (branch.path or None) if branch is not None else None

    @variable("$tm.branch.q", index=True)
    def branch_q(self, run: Run, name: object, index: Index) -> Value:
        """q of a branch, in thousandths."""
        branch = self._sent_branch(run, index)
        return branch.q if branch is not None and branch.q >= 0 else None

    @variable("$tm.branch.socket", index=True)
    def branch_socket(self, run: Run, name: object, index: Index) -> Value:
        """Socket that a branch was sent from, "proto:ip:port"."""
        branch = self._sent_branch(run, index)
        return branch.socket.text if branch is not None and branch.socket is not None else None

    @variable("$tm.branch.flags", index=True)
    def branch_flags(self, run: Run, name: object, index: Index) -> Value:
        """Names of the branch flags that are set, separated by commas."""
        branch = self._sent_branch(run, index)
        return ",".join(self.core.flags.names("branch", branch.flags)) if branch is not None else None

    @variable("$tm.branch.flag", index=True, name_arg=True, writable=True)
    def branch_flag(self, run: Run, name: str, index: Index) -> Value:
        """One branch flag by its name: 1 or 0."""
        branch = self._branch(run, index)
        if branch is None:
            return None
        flags = run.branch_flags if branch is branch_of(run) else branch.flags
        return 1 if flags & self.core.flags.mask("branch", name) else 0

    @branch_flag.setter
    def set_branch_flag(self, run: Run, name: str, index: Index, value: Value) -> None:
        branch = self._branch(run, index)
        if branch is None:
            return
        bit = self.core.flags.mask("branch", name)
        on = bool(value) and value != "0"
        branch.flags = branch.flags | bit if on else branch.flags & ~bit
        if branch is branch_of(run):  # the route's own view is copied back when it ends
            run.branch_flags = branch.flags

    @variable("$tm.branch.attr", index=True, name_arg=True, writable=True)
    def branch_attr(self, run: Run, name: str, index: Index) -> Value:
        """An attribute of a branch: any name, one value."""
        branch = self._branch(run, index)
        return branch.attrs.get(name) if branch is not None and branch.attrs is not None else None

    @branch_attr.setter
    def set_branch_attr(self, run: Run, name: str, index: Index, value: Value) -> None:
        branch = self._branch(run, index)
        if branch is None:
            return
        if branch.attrs is None:
            branch.attrs = {}
        if value is None:
            branch.attrs.pop(name, None)
        else:
            branch.attrs[name] = value

    @variable("$tm.branch.last_received", index=True)
    def branch_last_received(self, run: Run, name: object, index: Index) -> Value:
        """Last status received on a branch."""
        branch = self._sent_branch(run, index)
        return branch.last_received or None if branch is not None else None

    @variable("$tm.branch.type", index=True)
    def branch_type(self, run: Run, name: object, index: Index) -> Value:
        """ "sip", or "phone" for one without signalling that only waits for others."""
        branch = self._sent_branch(run, index)
        if branch is None:
            return None
        return "phone" if branch.phony else "sip"

    # -- management ----------------------------------------------------------------------------------------------

    @mi_command("tm:hash", aliases=("t_hash",), params=((),))
    def mi_hash(self) -> Any:
        """How many transactions each entry of the hash table holds now; entries without any are left out."""
        counts: dict[int, int] = {}
        for found in self.flow.layer.transactions():
            counts[found.hash] = counts.get(found.hash, 0) + 1
        return {"Entries": [{"index": at, "Current": count} for at, count in sorted(counts.items())]}

    @mi_command(
        "tm:reply",
        aliases=("t_reply",),
        params=(
            ("code", "reason", "trans_id", "to_tag"),
            ("code", "reason", "trans_id", "to_tag", "new_headers"),
            ("code", "reason", "trans_id", "to_tag", "body"),
            ("code", "reason", "trans_id", "to_tag", "new_headers", "body"),
        ),
        types={
            "body": "string",
            "code": "int",
            "new_headers": "string",
            "reason": "string",
            "to_tag": "string",
            "trans_id": "string",
        },
        named_params_only=True,
    )
    def mi_reply(
        self, code: int, reason: str, trans_id: str, to_tag: str, new_headers: str = "", body: str = ""
    ) -> str:
        """Answer a received request: trans_id is "hash:label" in decimal, or $T_id."""
        if not 100 <= code <= 699:
            raise MiError(400, "Invalid reply code")
        found = self.flow.layer.find_id(_transaction_id(trans_id))
        if found is None or found.local:
            raise MiError(404, "Transaction not found")
        try:
            once, rest = split_headers(new_headers)
        except ValueError as error:
            raise MiError(400, f"Bad headers: {error}") from error
        if once:
            raise MiError(400, f"Bad headers: {next(iter(once))} cannot be given")
        data = body.encode("utf-8", "surrogateescape")
        if not self.flow.reply_locally(found, code, reason, found.run, rest, data, "", to_tag):
            raise MiError(500, "Reply failed")
        return "OK"

    @mi_command(
        "tm:uac_cancel",
        aliases=("t_uac_cancel",),
        params=(("callid", "cseq"),),
        types={"callid": "string", "cseq": "string"},
    )
    def mi_uac_cancel(self, callid: str, cseq: str) -> str:
        """Cancel an INVITE by its Call-ID and CSeq ("1 INVITE")."""
        found = self._find_invite(callid, cseq.split(" ")[0])
        if found is None:
            raise MiError(481, "No such transaction")
        self.flow.layer.cancel_pending(found, self.core.now())
        self.flow.arm()
        return "OK"

    @mi_command(
        "tm:uac_dlg",
        aliases=("t_uac_dlg",),
        params=(
            ("method", "ruri", "headers"),
            ("method", "ruri", "headers", "next_hop"),
            ("method", "ruri", "headers", "socket"),
            ("method", "ruri", "headers", "body"),
            ("method", "ruri", "headers", "next_hop", "socket"),
            ("method", "ruri", "headers", "next_hop", "body"),
            ("method", "ruri", "headers", "socket", "body"),
            ("method", "ruri", "headers", "next_hop", "socket", "body"),
        ),
        types={
            "body": "string",
            "headers": "string",
            "method": "string",
            "next_hop": "string",
            "ruri": "string",
            "socket": "string",
        },
        named_params_only=True,
    )
    async def mi_uac_dlg(
        self, method: str, ruri: str, headers: str, next_hop: str = "", socket: str = "", body: str = ""
    ) -> Any:
        """Send a request and give its final reply; `headers` has at least From and To."""
        if not _is_token(method) or method in ("ACK", "CANCEL"):
            raise MiError(400, "Invalid method")
        try:
            sip.parse_uri(ruri)
        except sip.ParseError as error:
            raise MiError(400, "Invalid ruri") from error
        if next_hop and next_hop != ".":
            try:
                sip.parse_uri(next_hop)
            except sip.ParseError as error:
                raise MiError(400, "Invalid next_hop") from error
        chosen = None
        if socket and socket != ".":
            chosen = next((s for s in self.core.sockets if socket in (s.text, s.tag)), None)
            if chosen is None:
                raise MiError(404, "Local socket not found")
        lines = _unescape(headers)
        once = self._checked_headers(method, lines, bool(body))
        reply = await self.request(
            method,
            ruri,
            once["from"],
            once["to"],
            lines,
            body.encode("utf-8", "surrogateescape"),
            next_hop if next_hop != "." and next_hop else None,
            chosen,
        )
        answer: dict[str, Any] = {"Status": f"{reply.status} {reply.reason}"}
        if reply.message is not None:
            answer["Message"] = reply.message.head
        return answer

    def _checked_headers(self, method: str, lines: str, has_body: bool) -> dict[str, str]:
        try:
            once, rest = split_headers(lines)
        except ValueError as error:
            raise MiError(400, "Bad headers") from error
        if "content-length" in once:
            raise MiError(400, "Content-Length disallowed")
        for name in ("to", "from"):
            if name not in once:
                raise MiError(400, f"{name.capitalize()} missing")
        if has_body and "content-type:" not in rest.lower():
            raise MiError(400, "Content-Type missing")
        if "cseq" in once:
            number, _, of = once["cseq"].partition(" ")
            if not number.isascii() or not number.isdigit() or int(number) >= 1 << 31:
                raise MiError(400, "Bad CSeq number")
            if of.strip() != method:
                raise MiError(400, "CSeq method mismatch")
        return once


def _transaction_id(text: str) -> str:
    """A transaction id as the layer has it, from "hash:label" in decimal or from its own form."""
    first, colon, second = text.partition(":")
    if colon and first.isascii() and first.isdigit() and second.isascii() and second.isdigit():
        return f"{int(first):x}.{int(second):x}"
    return text


def _is_token(method: str) -> bool:
    return 0 < len(method) <= 32 and method.isascii() and all(c.isalnum() or c in "-.!%*_+`'~" for c in method)


def _name_addr(text: str) -> str:
    """A header value from "[display ]URI"."""
    display, _, uri = text.strip().rpartition(" ")
    uri = uri.strip("<>")
    sip.parse_uri(uri)
    if not display:
        return f"<{uri}>"
    return f'"{display.strip(chr(34))}" <{uri}>'


def _unescape(headers: str) -> str:
    """Header lines as command line clients send them: "\\r\\n" may be spelled out."""
    return headers.replace("\\r\\n", "\r\n").replace("\\n", "\r\n")


__all__ = ["E_NO_DESTINATION", "TERMINATED", "Tm"]
