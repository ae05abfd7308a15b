"""Parameters, statistics and life of `tm`, and what it offers to other modules."""

from __future__ import annotations

from typing import Final

from opensipspy.module import Module, Param, ParamError, Stat
from opensipspy.modules.tm.api import TmApi
from opensipspy.modules.tm.flow import Flow, branch_of, transaction_of
from opensipspy.script.kinds import BRANCH, FAILURE, ONREPLY, REQUEST
from opensipspy.script.run import Run
from opensipspy.transaction import Callback, Settings, Transaction

MAX_TIMEOUT_S: Final = 86400


def seconds(name: str, value: int, least: float, scale: float = 1.0) -> float:
    """A time parameter; raises ParamError when it is out of range."""
    if not least <= value * scale <= MAX_TIMEOUT_S:
        raise ParamError("tm", name, f"{value} is out of range")
    return value * scale


class TmBase(Module, TmApi):
    """What scripts configure and operators read."""

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
    tw_append = Param(
        str, None, "More for t_write_req() and t_write_unix(): `name: [title=]variable; ...`.", repeated=True, func=True
    )
    unix_tx_timeout = Param(int, 2, "Longest wait for a full UNIX socket.", unit="s")
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
    refused_transactions = Stat("Requests answered 503 because too many transactions were open.")
    transactions_limit = Stat("As many transactions may be open.", no_reset=True, computed="most_transactions")
    retransmission_req_T1_1 = Stat("First retransmissions of requests.")
    retransmission_req_T1_2 = Stat("Second retransmissions of requests.")
    retransmission_req_T1_3 = Stat("Third retransmissions of requests.")
    retransmission_req_T2 = Stat("Further retransmissions of requests.")
    retransmission_rpl_T2 = Stat("Retransmissions of final replies.")
    timeout_finalresponse = Stat("Branches that gave no sign of life in time.")
    timeout_finalresponse_inv = Stat("INVITE branches without a final reply in time.")

    flow: Flow

    # -- life ----------------------------------------------------------------------------------------------------

    def set_param(self, name: str, value: object) -> None:
        super().set_param(name, value)
        self.settings()

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

    def routes_used(self) -> list[tuple[int, str]]:
        return [(REQUEST, name) for name in (self.local_request_route, self.local_reply_route) if name]

    def unfinished(self) -> int:
        """Transactions whose answer is still to come, or that a route works on."""
        return self.flow.unfinished()

    async def stop(self) -> None:
        self.flow.close()

    # -- counting; what every call counts, `Flow` does itself -----------------------------------------------------

    def count_transactions(self) -> int:
        """`inuse_transactions`."""
        return len(self.flow.layer)

    def most_transactions(self) -> int:
        """`transactions_limit`."""
        return self.flow.most_transactions

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

    # -- finding -------------------------------------------------------------------------------------------------

    def find_invite(self, call_id: str, cseq: str) -> Transaction | None:
        for found in self.flow.layer.transactions():
            request = found.request
            if request is None or not found.invite or found.answered:
                continue
            if request.call_id == call_id and str(request.cseq_number) == cseq:
                return found
        return None

    def status_of(self, run: Run) -> int:
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
