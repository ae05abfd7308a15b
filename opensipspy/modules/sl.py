"""Stateless replies, and the ACKs that follow them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opensipspy import sip
from opensipspy.module import Module, Param, ReplyCode, Stat, script_function
from opensipspy.module.reply_path import Sent, StatelessReplies
from opensipspy.script.kinds import ERROR, REQUEST

if TYPE_CHECKING:
    from opensipspy.module import Core
    from opensipspy.script.run import Run

ERROR_REPLY: Final = "error_reply"
"""Key in `Run.ctx` of the (code, reason) that describes the last failure of a script function."""


class Sl(Module):
    """Answer requests without keeping state (RFC 3261 section 8.2.7)."""

    enable_stats = Param(int, 1, "Count the replies.")

    replies_1xx = Stat("Provisional replies sent.", name="1xx_replies")
    replies_2xx = Stat("2xx replies sent.", name="2xx_replies")
    replies_3xx = Stat("3xx replies sent.", name="3xx_replies")
    replies_4xx = Stat("4xx replies sent.", name="4xx_replies")
    replies_5xx = Stat("5xx replies sent.", name="5xx_replies")
    replies_6xx = Stat("6xx replies sent.", name="6xx_replies")
    sent_replies = Stat("Replies sent.")
    sent_err_replies = Stat("Replies sent by sl_reply_error().")
    received_ACKs = Stat("ACKs absorbed because they follow a stateless reply.")

    def bind(self, core: Core) -> None:
        super().bind(core)
        by_class = (
            self.replies_1xx, self.replies_2xx, self.replies_3xx, self.replies_4xx, self.replies_5xx, self.replies_6xx,
        )  # fmt: skip
        counts = Sent(self.sent_replies, by_class, self.received_ACKs) if self.enable_stats else None
        self._replies = StatelessReplies(core, counts)
        core.before_script(self._replies.absorb_ack)

    def local_tag(self, run: Run) -> str:
        """The To tag of stateless replies to a request: the same for its retransmissions (section 8.2.7)."""
        return self._replies.local_tag(run)

    def reply(self, run: Run, code: int, reason: str, headers: str = "", body: bytes = b"") -> int:
        """Send a reply without state: 1 sent, -1 not. headers: further complete lines."""
        return 1 if self._replies.send(run, code, reason, headers, body) else -1

    @script_function(routes=REQUEST | ERROR)
    def sl_send_reply(self, run: Run, code: ReplyCode, reason: str) -> int:
        """Send a reply without state and without retransmissions."""
        return 1 if self._replies.send(run, code, reason or sip.reason_phrase(code), "", b"") else -1

    @script_function(routes=REQUEST)
    def sl_reply_error(self, run: Run) -> int:
        """Send a reply that tells why the last function of the script failed; 500 when nothing is known."""
        found = run.ctx.get(ERROR_REPLY)
        code, reason = 500, "Server error occurred (1/SL)"
        if isinstance(found, tuple):
            code, reason = found[0], str(found[1]).replace("/TM)", "/SL)")
        elif 400 <= run.error_code <= 699:
            code, reason = run.error_code, run.error_reason or sip.reason_phrase(run.error_code)
        sent = self.reply(run, code, reason)
        if sent > 0 and self.enable_stats:
            self.sent_err_replies.value += 1
        return sent
