"""Diversion headers (RFC 5806): who sent a call elsewhere, and why; the newest stands on top."""

from __future__ import annotations

from typing import Final

from opensipspy.module import Module, Param, script_function
from opensipspy.script.kinds import FAILURE, LOCAL, REQUEST
from opensipspy.script.run import Run
from opensipspy.sip import H_DIVERSION, H_VIA, Edits, Socket

ADDED: Final = "diversion"
"""Key in `run.ctx`: what add_diversion() noted first for this message."""
FORBIDDEN: Final = frozenset("\r\n\0")


class Added:
    """Lines that were added with the same edits, newest first; asked for when the message leaves."""

    __slots__ = ("edits", "lines")

    def __init__(self, edits: Edits, line: str) -> None:
        self.edits = edits
        self.lines = [line]

    def __call__(self, received_on: Socket | None, sent_from: Socket | None) -> str:
        return "".join(self.lines)


class Diversion(Module):
    """Add Diversion headers to calls that are sent elsewhere."""

    name = "diversion"

    suffix = Param(str, "", "Text after the header's own parameters, such as ;privacy=full.")

    @script_function(routes=REQUEST | FAILURE | LOCAL)
    def add_diversion(self, run: Run, reason: str, uri: str | None = None, counter: int | None = None) -> int:
        """Add a Diversion header above those that are there (RFC 5806 §4).

        uri: the diverting address, without it the Request-URI as it was received. Returns 1, or -1 when a text holds
        an end of line.
        """
        address = run.msg.ruri if uri is None else uri
        if not FORBIDDEN.isdisjoint(address + reason):
            return -1
        count = "" if counter is None else f";counter={counter}"
        line = f"Diversion: <{address}>;reason={reason}{count}{self.suffix}\r\n"
        added = run.ctx.get(ADDED)
        if isinstance(added, Added) and added.edits is run.edits:
            added.lines.insert(0, line)
            return 1
        newest = Added(run.edits, line)
        present = run.msg.first(H_DIVERSION)
        via = run.msg.first(H_VIA)
        if isinstance(added, Added) and via is not None:
            # This copy has edits of its own: what was noted for all copies stands further down.
            run.edits.insert_after(via, newest)
        elif present is not None:
            run.edits.insert_before(present, newest)
        else:
            run.edits.append(newest)
        if not isinstance(added, Added):
            run.ctx[ADDED] = newest
        return 1
