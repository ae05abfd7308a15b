"""Max-Forwards: one hop taken off, or the header added (RFC 3261 §16.3 step 3, §16.6 step 3, §20.22)."""

from __future__ import annotations

from typing import Annotated, Any, Final

from opensipspy.module import Module, Param, ParamError, between, script_function
from opensipspy.script.kinds import BRANCH, FAILURE, REQUEST
from opensipspy.script.run import Run
from opensipspy.sip import H_MAX_FORWARDS, Message, ParseError

HIGHEST: Final = 256
DIGITS: Final = 10
"""A longer number is no hop count; it would only cost time to read."""
UNREADABLE: Final = -2
Hops = Annotated[int, between(1, HIGHEST, "number of hops")]
SHORT: Final = tuple(str(value) for value in range(HIGHEST + 1))
"""Each value as text: as many requests as wait may have the same."""


def hops_left(msg: Message) -> int:
    """The number in Max-Forwards; -1 without the header, -2 when it is no number."""
    try:
        return msg.max_forwards
    except ParseError:
        # Above 255, which the server refuses before the script; a message from elsewhere may still be counted down.
        value = msg.value(H_MAX_FORWARDS)
    if len(value) > DIGITS or not (value.isascii() and value.isdigit()):
        return UNREADABLE
    return int(value)


class MaxFwd(Module):
    """Stop loops with Max-Forwards."""

    name = "maxfwd"

    max_limit = Param(int, HIGHEST, "Highest Max-Forwards let out, 1 to 256.", unit="hops")

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self._check_limit()

    def set_param(self, name: str, value: object) -> None:
        super().set_param(name, value)
        self._check_limit()

    def _check_limit(self) -> None:
        if not 1 <= self.max_limit <= HIGHEST:
            raise ParamError(self.name, "max_limit", f"is from 1 to {HIGHEST}, not {self.max_limit}")

    @script_function(routes=REQUEST)
    def mf_process_maxfwd_header(self, run: Run, max_value: Hops) -> int:
        """Take one hop off Max-Forwards, or add the header with `max_value`.

        Returns 1 decremented, 2 added, -1 no hop left, -2 unreadable or `max_value` is no hop count.
        """
        left = hops_left(run.msg)
        if left > 0:
            if run.max_forwards < 0:
                value = min(left - 1, self.max_limit)
                start, end = run.msg.value_place(H_MAX_FORWARDS)
                run.edits.replace(start, end, SHORT[value])
                run.max_forwards = value
            return 1
        if left == 0:
            return -1
        if left == UNREADABLE or not 0 <= max_value <= HIGHEST:
            return -2
        if run.max_forwards < 0:
            value = min(max_value, self.max_limit)
            run.edits.append(f"Max-Forwards: {value}\r\n")
            run.max_forwards = value
        return 2

    @script_function(routes=REQUEST | FAILURE | BRANCH)
    def is_maxfwd_lt(self, run: Run, max_value: Hops) -> int:
        """Compare Max-Forwards, as it will leave when it was processed before, with `max_value`.

        Returns 1 when it is less, -1 when it is not, -2 without the header, -3 when it is unreadable.
        """
        value = run.max_forwards
        if value < 0:
            value = hops_left(run.msg)
            if value < 0:
                return -2 if value == -1 else -3
        return 1 if value < max_value else -1
