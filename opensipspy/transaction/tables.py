"""The four transaction machines of RFC 3261 section 17 with RFC 6026, as tables.

There are four machines: INVITE client (figure 5), non-INVITE client (figure 6), INVITE server (figure 7) and
non-INVITE server (figure 8). A table maps (state, input) to (effects, next state); a pair that is not listed changes
nothing, which is how retransmissions are absorbed. Inputs are what the network, the layer above ("TU") or a timer does
to the machine; effects are carried out by `layer.TransactionLayer`, in order, after the state has changed.

A machine has two timers at most at a time, so it has two slots: one that resends (A, E, G) and one that ends the state
(B, C, D, F, H, I, J, K, L, M). The long timers therefore share one input: the state tells which of them it is, and
the rows below name it as the RFCs do.

What did not fit the figures, and why:

* CANCEL is an input of the INVITE client machine, because section 9.1 makes it depend on the state: before a
  provisional response it has to be held back (HELD), after one it goes out and the machine waits a limited time for
  the final response (CANCELLING).
* ABANDONED is a branch that the proxy gave up on (timer B, timer C) while its peer may still answer: a late final
  response has to be acknowledged, a late 2xx has to be forwarded, a late provisional one shows that the peer rings and
  has to be told to stop.
* A 2xx may follow a failure: a proxy further on gave a branch up, said so, and then that phone answered. It is
  forwarded, as the one of a branch that was given up here.
* A 2xx that we made ourselves has to be repeated by us until its ACK comes (section 13.3.1.4); a forwarded one is
  repeated by the far end.
"""

from __future__ import annotations

from typing import Final

# States. One numbering, so that a state alone tells what a trace shows.
INITIAL: Final = 0
CALLING: Final = 1
HELD: Final = 2
TRYING: Final = 3
PROCEEDING: Final = 4
CANCELLING: Final = 5
ABANDONED: Final = 6
COMPLETED: Final = 7
CONFIRMED: Final = 8
ACCEPTED: Final = 9
TERMINATED: Final = 10

STATE_NAMES: Final = (
    "initial", "calling", "held", "trying", "proceeding", "cancelling", "abandoned",
    "completed", "confirmed", "accepted", "terminated",
)  # fmt: skip

# Inputs.
START: Final = 0
TIMER_RESEND: Final = 1
TIMER_A: Final = TIMER_RESEND
TIMER_E: Final = TIMER_RESEND
TIMER_G: Final = TIMER_RESEND
TIMER_END: Final = 2
TIMER_B: Final = TIMER_END
TIMER_C: Final = TIMER_END
TIMER_D: Final = TIMER_END
TIMER_F: Final = TIMER_END
TIMER_H: Final = TIMER_END
TIMER_I: Final = TIMER_END
TIMER_J: Final = TIMER_END
TIMER_K: Final = TIMER_END
TIMER_L: Final = TIMER_END
TIMER_M: Final = TIMER_END
TIMER_LIMIT: Final = TIMER_END
PROVISIONAL: Final = 3
FINAL_2XX: Final = 4
FINAL_OTHER: Final = 5
TRANSPORT_ERROR: Final = 6
CANCEL: Final = 7
REQUEST: Final = 8
ACK: Final = 9
TU_1XX: Final = 10
TU_2XX: Final = 11
TU_2XX_LOCAL: Final = 12
TU_FINAL: Final = 13

INPUT_NAMES: Final = (
    "start", "timer resend", "timer end", "1xx", "2xx", "3xx-6xx", "transport error", "cancel",
    "request", "ack", "tu 1xx", "tu 2xx", "tu local 2xx", "tu 3xx-6xx",
)  # fmt: skip
INPUTS: Final = 16

# Effects.
SEND: Final = 1  # the client's request, the first time
RESEND: Final = 2  # the client's request or the server's last response, again
DELIVER: Final = 3  # hand the response to the layer above
SEND_ACK: Final = 4  # acknowledge a 3xx-6xx hop by hop (17.1.1.3)
SEND_CANCEL: Final = 5  # once: a CANCEL with its own client transaction (9.1)
TIMEOUT: Final = 6  # tell the layer above that nobody answered in time
FAILED: Final = 7  # tell the layer above that the transport failed
RESPOND: Final = 8  # send the TU's response and keep it for retransmissions
NO_ACK: Final = 9  # tell the layer above that a final response was never acknowledged
PASS_ACK: Final = 10  # the ACK belongs to the dialog: it goes on, end to end
START_A: Final = 11
START_E: Final = 12
START_G: Final = 13
DOUBLE_A: Final = 14
DOUBLE_E: Final = 15
RESTART_E: Final = 16  # in PROCEEDING the interval is T2
DOUBLE_G: Final = 17
STOP_G: Final = 18
# From here on: timers that end a state.
START_B: Final = 20
START_C: Final = 21
START_D: Final = 22
START_F: Final = 23
START_H: Final = 24
START_I: Final = 25
START_J: Final = 26
START_K: Final = 27
START_L: Final = 28
START_M: Final = 29
START_LIMIT: Final = 30  # 64*T1 after a CANCEL (9.1)
START_LINGER: Final = 31  # how long a late answer to a given-up branch is still understood
FIRST_END: Final = START_B

# What an input asks of whoever brought it, as bits.
ASK_DELIVER: Final = 1
ASK_TIMEOUT: Final = 2
ASK_FAILED: Final = 4
_ASKED: Final = {DELIVER: ASK_DELIVER, PASS_ACK: ASK_DELIVER, TIMEOUT: ASK_TIMEOUT, FAILED: ASK_FAILED}

Table = dict[tuple[int, int], tuple[tuple[int, ...], int]]

INVITE_CLIENT: Final[Table] = {
    (INITIAL, START):            ((SEND, START_A, START_B), CALLING),
    (CALLING, TIMER_A):          ((RESEND, DOUBLE_A), CALLING),
    (CALLING, TIMER_B):          ((START_LINGER, TIMEOUT), ABANDONED),
    (CALLING, PROVISIONAL):      ((START_C, DELIVER), PROCEEDING),
    (CALLING, FINAL_2XX):        ((START_M, DELIVER), ACCEPTED),
    (CALLING, FINAL_OTHER):      ((SEND_ACK, START_D, DELIVER), COMPLETED),
    (CALLING, TRANSPORT_ERROR):  ((FAILED,), TERMINATED),
    (CALLING, CANCEL):           ((), HELD),
    (HELD, TIMER_A):             ((RESEND, DOUBLE_A), HELD),
    (HELD, TIMER_B):             ((START_LINGER, TIMEOUT), ABANDONED),
    (HELD, PROVISIONAL):         ((SEND_CANCEL, START_LIMIT, DELIVER), CANCELLING),
    (HELD, FINAL_2XX):           ((START_M, DELIVER), ACCEPTED),
    (HELD, FINAL_OTHER):         ((SEND_ACK, START_D, DELIVER), COMPLETED),
    (HELD, TRANSPORT_ERROR):     ((FAILED,), TERMINATED),
    (PROCEEDING, TIMER_C):       ((SEND_CANCEL, START_LIMIT, TIMEOUT), ABANDONED),
    (PROCEEDING, PROVISIONAL):   ((START_C, DELIVER), PROCEEDING),
    (PROCEEDING, FINAL_2XX):     ((START_M, DELIVER), ACCEPTED),
    (PROCEEDING, FINAL_OTHER):   ((SEND_ACK, START_D, DELIVER), COMPLETED),
    (PROCEEDING, CANCEL):        ((SEND_CANCEL, START_LIMIT), CANCELLING),
    (CANCELLING, TIMER_LIMIT):   ((TIMEOUT,), TERMINATED),
    (CANCELLING, PROVISIONAL):   ((DELIVER,), CANCELLING),
    (CANCELLING, FINAL_2XX):     ((START_M, DELIVER), ACCEPTED),
    (CANCELLING, FINAL_OTHER):   ((SEND_ACK, START_D, DELIVER), COMPLETED),
    (ABANDONED, TIMER_LIMIT):    ((), TERMINATED),
    (ABANDONED, PROVISIONAL):    ((SEND_CANCEL, START_LIMIT), ABANDONED),
    (ABANDONED, FINAL_2XX):      ((START_M, DELIVER), ACCEPTED),
    (ABANDONED, FINAL_OTHER):    ((SEND_ACK, START_D), COMPLETED),
    (COMPLETED, FINAL_OTHER):    ((SEND_ACK,), COMPLETED),
    (COMPLETED, FINAL_2XX):      ((START_M, DELIVER), ACCEPTED),
    (COMPLETED, TRANSPORT_ERROR): ((), TERMINATED),
    (COMPLETED, TIMER_D):        ((), TERMINATED),
    (ACCEPTED, FINAL_2XX):       ((DELIVER,), ACCEPTED),
    (ACCEPTED, TIMER_M):         ((), TERMINATED),
}  # fmt: skip
"""RFC 3261 figure 5 and section 9.1; ACCEPTED from RFC 6026 section 7.2; timer C from section 16.8."""

CLIENT: Final[Table] = {
    (INITIAL, START):               ((SEND, START_E, START_F), TRYING),
    (TRYING, TIMER_E):              ((RESEND, DOUBLE_E), TRYING),
    (TRYING, TIMER_F):              ((TIMEOUT,), TERMINATED),
    (TRYING, PROVISIONAL):          ((DELIVER,), PROCEEDING),
    (TRYING, FINAL_2XX):            ((START_K, DELIVER), COMPLETED),
    (TRYING, FINAL_OTHER):          ((START_K, DELIVER), COMPLETED),
    (TRYING, TRANSPORT_ERROR):      ((FAILED,), TERMINATED),
    (PROCEEDING, TIMER_E):          ((RESEND, RESTART_E), PROCEEDING),
    (PROCEEDING, TIMER_F):          ((TIMEOUT,), TERMINATED),
    (PROCEEDING, PROVISIONAL):      ((DELIVER,), PROCEEDING),
    (PROCEEDING, FINAL_2XX):        ((START_K, DELIVER), COMPLETED),
    (PROCEEDING, FINAL_OTHER):      ((START_K, DELIVER), COMPLETED),
    (PROCEEDING, TRANSPORT_ERROR):  ((FAILED,), TERMINATED),
    (COMPLETED, TIMER_K):           ((), TERMINATED),
}  # fmt: skip
"""RFC 3261 figure 6."""

INVITE_SERVER: Final[Table] = {
    (PROCEEDING, REQUEST):       ((RESEND,), PROCEEDING),
    (PROCEEDING, TU_1XX):        ((RESPOND,), PROCEEDING),
    (PROCEEDING, TU_2XX):        ((RESPOND, START_L), ACCEPTED),
    (PROCEEDING, TU_2XX_LOCAL):  ((RESPOND, START_L, START_G), ACCEPTED),
    (PROCEEDING, TU_FINAL):      ((RESPOND, START_H, START_G), COMPLETED),
    (COMPLETED, REQUEST):        ((RESEND,), COMPLETED),
    (COMPLETED, TIMER_G):        ((RESEND, DOUBLE_G), COMPLETED),
    (COMPLETED, TIMER_H):        ((NO_ACK,), TERMINATED),
    (COMPLETED, ACK):            ((START_I,), CONFIRMED),
    (CONFIRMED, TIMER_I):        ((), TERMINATED),
    (ACCEPTED, TU_2XX):          ((RESPOND,), ACCEPTED),
    (ACCEPTED, TU_2XX_LOCAL):    ((RESPOND,), ACCEPTED),
    (ACCEPTED, TIMER_G):         ((RESEND, DOUBLE_G), ACCEPTED),
    (ACCEPTED, ACK):             ((STOP_G, PASS_ACK), ACCEPTED),
    (ACCEPTED, TIMER_L):         ((), TERMINATED),
}  # fmt: skip
"""RFC 3261 figure 7 with ACCEPTED from RFC 6026 section 7.1. A transport error leaves the machine where it is, so that
the next retransmission of the request brings the response out again (RFC 6026 section 7.1 lets it live)."""

SERVER: Final[Table] = {
    (TRYING, TU_1XX):        ((RESPOND,), PROCEEDING),
    (TRYING, TU_2XX):        ((RESPOND, START_J), COMPLETED),
    (TRYING, TU_FINAL):      ((RESPOND, START_J), COMPLETED),
    (PROCEEDING, REQUEST):   ((RESEND,), PROCEEDING),
    (PROCEEDING, TU_1XX):    ((RESPOND,), PROCEEDING),
    (PROCEEDING, TU_2XX):    ((RESPOND, START_J), COMPLETED),
    (PROCEEDING, TU_FINAL):  ((RESPOND, START_J), COMPLETED),
    (COMPLETED, REQUEST):    ((RESEND,), COMPLETED),
    (COMPLETED, TIMER_J):    ((), TERMINATED),
}  # fmt: skip
"""RFC 3261 figure 8."""


class Row:
    """What one input does in one state.

    asked: ASK_... bits of the effects that the caller carries out; effects: the others, in their order.
    """

    __slots__ = ("asked", "effects", "state")

    def __init__(self, effects: tuple[int, ...], state: int) -> None:
        self.effects: tuple[int, ...] = tuple([effect for effect in effects if effect not in _ASKED])
        self.state: int = state
        self.asked: int = 0
        for effect in effects:
            self.asked |= _ASKED.get(effect, 0)


def rows(table: Table) -> list[Row | None]:
    """The table by `state * INPUTS + input`, for a lookup without a tuple."""
    flat: list[Row | None] = [None] * ((TERMINATED + 1) * INPUTS)
    for (state, event), (effects, following) in table.items():
        flat[state * INPUTS + event] = Row(effects, following)
    return flat
