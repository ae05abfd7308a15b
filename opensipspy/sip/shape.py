"""One expression for all messages of one layout: what the interpreter, where nothing is compiled, reads them with.

In plain Python a message costs what the interpreter does for each of its lines. Phones of one make write alike, so
the expression of an earlier message's layout finds, at the speed of the regular expression engine, where the lines
start and what every message is judged and matched by. It matches only what the readers of `message` would read
without a question, and what it does not match is left to them: it decides nothing by itself.

No part of an expression can match in two ways, so the time it takes is linear in the length of the head.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from mypy_extensions import mypyc_attr

from opensipspy.sip.tables import (
    H_CALL_ID,
    H_CONTENT_LENGTH,
    H_CSEQ,
    H_FROM,
    H_MAX_FORWARDS,
    H_TO,
    H_VIA,
)

# An address in brackets, perhaps with a name in front, and nothing behind it but a tag.
_ADDRESS: Final = r"""(?:"[^"\\\t\r\n]*" ?|[-.!%*_+`'~A-Za-z0-9 ]*)<[^<>" \t\r\n]+>(?:;tag=([-.!%*_+`'~A-Za-z0-9]+)|)"""
_VALUES: Final = {
    # Sent-protocol and sent-by, a branch, further parameters; and other hops behind a comma.
    H_VIA: r"""((SIP/2\.0/[^;, "\t\r\n]+ [^;, "\t\r\n]+);branch=([^;, "\t\r\n]+)(;[^,"\t\r\n]*|))(?:,.*|)""",
    H_FROM: _ADDRESS,
    H_TO: _ADDRESS,
    H_CALL_ID: r"([^ \t\r\n]+)",
    H_MAX_FORWARDS: r"(1?\d?\d)",
    H_CONTENT_LENGTH: r" *(0|[1-9]\d{0,5})",
}
_CSEQ_OF_REQUEST: Final = r"(\d{1,9}) "
_CSEQ_OF_REPLY: Final = r"(\d{1,9}) ([A-Z]+)"
# What stands exactly once in a message that an expression is made for; Via is different, as the first one counts.
_NEEDED: Final = (H_FROM, H_TO, H_CALL_ID, H_CSEQ)
_AT_MOST_ONCE: Final = (H_MAX_FORWARDS, H_CONTENT_LENGTH)


@mypyc_attr(acyclic=True)
class Shape:
    """The expression of one layout, and where in its match everything is.

    match: head to a match, or None. method: of the request, "" of a reply. status: of the reply. lines: of the head.
    marks: the groups that begin where a header does. via: the group of the top Via's value. wanted: the groups with
    what is read, in this order: Request-URI or reason, hop, branch and further parameters of the top Via, tags of From
    and To, Call-ID, number and, in a reply, method of CSeq, Max-Forwards, Content-Length; a group of 0 stands for what
    the layout does not have.
    """

    __slots__ = ("has_hops", "has_length", "lines", "marks", "match", "method", "status", "via", "wanted")

    def __init__(self, names: list[str], kinds: bytes, method: str, status: int) -> None:
        self.method: str = method
        self.status: int = status
        self.lines: int = len(names)
        start_line = re.escape(method) + r" ([^ \r\n]+) SIP/2\.0" if method else rf"SIP/2\.0 {status:03d} (.*)"
        pieces = [start_line, r"\r\n"]
        groups = 1
        found: dict[int, int] = {}
        marks: list[int] = []
        for name, kind in zip(names[1:], kinds, strict=True):
            groups += 1
            marks.append(groups)
            pieces.append("(" + re.escape(name) + ")")
            if kind in found or (kind not in _VALUES and kind != H_CSEQ):
                pieces.append(".*")
            else:
                found[kind] = groups + 1
                if kind == H_CSEQ:
                    value = _CSEQ_OF_REQUEST + re.escape(method) if method else _CSEQ_OF_REPLY
                else:
                    value = _VALUES[kind]
                groups += re.compile(value).groups
                pieces.append(value)
            pieces.append(r"\r\n")
        self.match: Callable[[str], Any] = re.compile("".join(pieces), re.ASCII).fullmatch
        self.marks: tuple[int, ...] = tuple(marks)
        self.via: int = found[H_VIA]
        self.has_hops: bool = H_MAX_FORWARDS in found
        self.has_length: bool = H_CONTENT_LENGTH in found
        cseq = found[H_CSEQ]
        self.wanted: tuple[int, ...] = (
            1,
            self.via + 1,
            self.via + 2,
            self.via + 3,
            found[H_FROM],
            found[H_TO],
            found[H_CALL_ID],
            cseq,
            0 if method else cseq + 1,
            found.get(H_MAX_FORWARDS, 0),
            found.get(H_CONTENT_LENGTH, 0),
        )


def shape_of(names: list[str], kinds: bytes, repeated: int, method: str, status: int) -> Shape | None:
    """The shape of messages with these headers; None when not all of them are read without a question.

    names: as in `Layout`, the first one is of no header. method: of a request, "" in a reply, which has a status.
    """
    if H_VIA not in kinds:
        return None
    for kind in _NEEDED:
        if kind not in kinds or repeated >> kind & 1:
            return None
    for kind in _AT_MOST_ONCE:
        if repeated >> kind & 1:
            return None
    return Shape(names, kinds, method, status)
