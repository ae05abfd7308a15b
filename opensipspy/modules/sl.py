"""Stateless replies, and the ACKs that follow them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from opensipspy import sip
from opensipspy.module import Module, Param, Stat, script_function
from opensipspy.module.reply_path import StatelessReplies
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

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self._by_class = (
            self.replies_1xx, self.replies_2xx, self.replies_3xx, self.replies_4xx, self.replies_5xx, self.replies_6xx,
        )  # fmt: skip

    def bind(self, core: Core) -> None:
        super().bind(core)
        self._replies = StatelessReplies(core)
        core.before_script(self._absorb_ack)

    def _absorb_ack(self, run: Run) -> bool | None:
        """An ACK whose To tag was made here ends here (section 17.1.1.3: it goes no further than the reply came)."""
        msg = run.msg
        if msg.method_id != sip.M_ACK or not msg.to_tag.startswith(self._replies.prefix):
            return None
        if self.enable_stats:
            self.received_ACKs.value += 1
        run.handled = True
        return False

    def local_tag(self, run: Run) -> str:
        """The To tag of stateless replies to a request: the same for its retransmissions (section 8.2.7)."""
        return self._replies.local_tag(run)

    def reply(self, run: Run, code: int, reason: str, headers: str = "", body: bytes = b"") -> int:
        """Send a reply without state: 1 sent, -1 not. headers: further complete lines."""
        if not self._replies.send(run, code, reason, headers, body):
            return -1
        if self.enable_stats:
            self.sent_replies.value += 1
            self._by_class[code // 100 - 1].value += 1
        return 1

    @script_function(routes=REQUEST | ERROR)
    def sl_send_reply(self, run: Run, code: int, reason: str) -> int:
        """Send a reply without state and without retransmissions."""
        return self.reply(run, code, reason or sip.reason_phrase(code))

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
