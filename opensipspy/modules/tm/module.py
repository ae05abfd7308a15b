"""The script functions of `tm`."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Annotated, Final

from opensipspy import sip
from opensipspy.module import Fixup, Flags, ReplyCode, RouteName, WritableVar, script_function
from opensipspy.modules.tm.anycast import TmAnycast
from opensipspy.modules.tm.commands import TmCommands
from opensipspy.modules.tm.flow import (
    E_UNSPEC,
    FLAG_BITS,
    MAX_HEADERS,
    REPLICATE,
    armed,
    branch_of,
    proxy_uri,
    transaction_of,
)
from opensipspy.modules.tm.uac import is_token, name_addr
from opensipspy.modules.tm.variables import TmVariables
from opensipspy.modules.tm.writes import TmWrites
from opensipspy.script.kinds import BRANCH, FAILURE, LOCAL, ONREPLY, REQUEST
from opensipspy.script.patterns import Pattern
from opensipspy.script.run import Branch as Destination
from opensipspy.script.run import Run, VarRef

RELAY_FLAGS: Final = ("no-auto-477", "no-dns-failover", "pass-reason-hdr", "allow-no-cancel")
OLD_RELAY_FLAGS: Final = {
    "0x02": "no-auto-477",
    "0x04": "no-dns-failover",
    "0x08": "pass-reason-hdr",
    "0x10": "allow-no-cancel",
}
LOCAL_REPLIES: Final = ("all", "branch", "last")
ANYWHERE: Final = REQUEST | FAILURE | ONREPLY | BRANCH
MAX_BODY: Final = 65535


def flag_bits(text: str) -> int:
    """The bits of a comma-separated flag list. Raises ValueError for a word that is not known."""
    bits = 0
    for word in text.split(",") if text else ():
        bit = FLAG_BITS.get(word.strip())
        if bit is None:
            old = OLD_RELAY_FLAGS.get(word.strip().lower())
            if old is not None:
                raise ValueError(f"{word.strip()!r}: numbers are not taken any more, write {old}")
            raise ValueError(f"{word.strip()!r} is none of the flags {', '.join(RELAY_FLAGS)}")
        bits |= bit
    return bits


def outbound(text: str) -> str:
    """The URI of an outbound proxy, "[proto:]host[:port]". Raises ValueError."""
    if not text:
        return ""
    uri = proxy_uri(text)
    sip.parse_uri(uri)
    return uri


def whose(text: str) -> str:
    """What t_local_replied() looks at. Raises ValueError."""
    if text not in LOCAL_REPLIES:
        raise ValueError(f"{text!r} is none of {', '.join(LOCAL_REPLIES)}")
    return text


def injected(text: str) -> str:
    """Where t_inject_branches() takes branches from. Raises ValueError."""
    if text != "msg":
        raise ValueError(f'branches are taken from "msg", not from {text!r}: there is no event_routing here')
    return text


RelayFlags = Annotated[int, Flags(RELAY_FLAGS), Fixup(flag_bits)]


class Tm(TmVariables, TmCommands, TmWrites, TmAnycast):
    """Keep SIP transactions: forking, failure routes, retransmissions, requests made here (RFC 3261 section 16, 17).

    A request other than INVITE that nobody answers in time ends without a reply: its client has given up by then, and a
    408 would only make elements on the way count a failure that is none (RFC 4320 section 4.2; the C server sends it).
    A failure_route sees the 408 all the same, and may answer what it likes.

    At most `transactions_limit` transactions are open at once. Beyond that requests get 503 with Retry-After.
    """

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

        A retransmission gets the last reply again and ends the script. True for a CANCEL whose request is known and
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
            return 1 if layer.find_cancelled(msg) is not None or layer.find_uncancellable(msg) is not None else -1
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
        self,
        run: Run,
        flags: RelayFlags | None = None,
        outbound_proxy: Annotated[str | None, Fixup(outbound)] = None,
    ) -> int | Awaitable[int]:
        """Send the request to its destinations, with a transaction.

        Returns 1 sent; -1 internal error, -2 bad message, -3 no destination or already cancelled, -4 unresolvable,
        -5 filtered, -6 nothing could be sent, -7 Max-Breadth leaves too little for so many branches (RFC 5393 §5).
        1 as well for a retransmission, for an ACK that ends here, and when the caller was told of the failure.
        """
        result = self.flow.relay(run, flags or 0, outbound_proxy or "")
        return (result or 1) if isinstance(result, int) else self._relayed(result)

    async def _relayed(self, waiting: Awaitable[int]) -> int:
        return await waiting or 1

    @script_function(routes=REQUEST | FAILURE)
    def t_replicate(self, run: Run, URI: str, flags: RelayFlags | None = None) -> int | Awaitable[int]:
        """Send a copy of the request to `URI` and the script's further branches; the caller hears nothing of it.

        The copy has the Request-URI of the request: `URI` only says where it goes.
        """
        msg = run.msg
        if not msg.is_request or msg.method in ("ACK", "CANCEL"):
            return E_UNSPEC
        found = transaction_of(run)
        copy = run.for_branch(Destination(run.ruri, URI), 0)
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
        result = self.flow.relay_set(transaction, copy, (flags or 0) | REPLICATE, "", False)
        run.handled = handled
        if isinstance(result, int) and result <= 0:
            self.flow.layer.release(transaction, self.core.now())
        return result

    @script_function(routes=REQUEST | FAILURE)
    def t_reply(self, run: Run, code: ReplyCode, reason_phrase: str) -> int:
        """Answer the request within its transaction, which is made when there is none."""
        return self.flow.reply(run, code, reason_phrase or sip.reason_phrase(code), "", b"")

    @script_function(routes=REQUEST | FAILURE)
    def t_reply_with_body(self, run: Run, code: ReplyCode, reason_phrase: str, body: str) -> int:
        """Answer the request with a body; its Content-Type is added with append_to_reply()."""
        data = body.encode("utf-8", "surrogateescape")
        if len(data) > MAX_BODY:
            return E_UNSPEC
        return self.flow.reply(run, code, reason_phrase or sip.reason_phrase(code), "", data)

    @script_function(routes=REQUEST)
    def t_reply_by_callid(
        self, run: Run, code: ReplyCode, reason_phrase: str, callid: str | None = None, cseq: str | None = None
    ) -> int:
        """Answer an INVITE found by Call-ID and CSeq number, by default those of this message."""
        wanted = callid or run.msg.call_id
        number = cseq if cseq is not None else str(run.msg.cseq_number)
        found = self.find_invite(wanted, number.split(" ")[0])
        if found is None or not 200 <= code <= 699:
            return E_UNSPEC
        return 1 if self.flow.reply_locally(found, code, reason_phrase, found.run) else E_UNSPEC

    # -- asking --------------------------------------------------------------------------------------------------

    @script_function(routes=ANYWHERE)
    def t_check_status(self, run: Run, re: Pattern) -> int:
        """Whether the status matches: of the reply at hand, of the winning one, or of the last one sent."""
        status = self.status_of(run)
        return 1 if status and re.search(str(status)) else E_UNSPEC

    @script_function(routes=ANYWHERE)
    def t_local_replied(self, run: Run, reply: Annotated[str, Fixup(whose)]) -> int:
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
    def t_inject_branches(
        self, run: Run, source: Annotated[str, Fixup(injected)], flags: str | None = None
    ) -> int | Awaitable[int]:
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
            from_value, to_value = name_addr(from_), name_addr(to)
        except sip.ParseError:
            return E_UNSPEC
        if not is_token(method):
            return E_UNSPEC
        made = self.request(method, RURI, from_value, to_value, headers, data, context=ctx or "")
        self.core.spawn(made, f"tm {method}")
        return 1
