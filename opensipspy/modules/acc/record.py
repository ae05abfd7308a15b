"""One accounting record, before it is written anywhere."""

from __future__ import annotations

from typing import Final

from opensipspy.script.run import Value
from opensipspy.sip import reason_phrase

ANSWERED: Final = "transaction answered"
MISSED: Final = "call missed"
REQUEST: Final = "request accounted"


class Record:
    """The fixed fields of one record. time, created: seconds since 1970. in_dialog: the request had a To tag."""

    __slots__ = (
        "callid",
        "created",
        "extra",
        "from_tag",
        "in_dialog",
        "kind",
        "legs",
        "method",
        "sip_code",
        "sip_reason",
        "time",
        "to_tag",
    )

    def __init__(
        self,
        kind: str,
        method: str,
        from_tag: str,
        to_tag: str,
        callid: str,
        sip_code: str,
        sip_reason: str,
        time: float,
        created: float,
        extra: dict[str, Value],
        legs: list[dict[str, Value]],
        in_dialog: bool = False,
    ) -> None:
        self.kind = kind
        self.method = method
        self.from_tag = from_tag
        self.to_tag = to_tag
        self.callid = callid
        self.sip_code = sip_code
        self.sip_reason = sip_reason
        self.time = time
        self.created = created
        self.extra = extra
        self.legs = legs
        self.in_dialog = in_dialog

    @property
    def setuptime(self) -> int:
        """Seconds from the request to this record."""
        return max(0, int(self.time) - int(self.created))

    def line(self, extra: list[tuple[str, str]], legs: list[tuple[str, str]]) -> str:
        """The record as one line of a log. extra, legs: (tag, name) of what else is written."""
        items: list[tuple[str, Value]] = []
        if self.kind == MISSED:
            items += [("created", int(self.created)), ("setuptime", self.setuptime)]
        items += [
            ("timestamp", int(self.time)),
            ("method", self.method),
            ("from_tag", self.from_tag),
            ("to_tag", self.to_tag),
            ("call_id", self.callid),
            ("code", self.sip_code),
            ("reason", self.sip_reason),
            *((name, self.extra.get(tag)) for tag, name in extra),
            *((name, leg.get(tag)) for leg in self.legs for tag, name in legs),
        ]
        return f"ACC: {self.kind}: " + ";".join(f"{name}={'' if value is None else value}" for name, value in items)


def split_comment(comment: str) -> tuple[str, str]:
    """ "404 Nobody home" as code and reason; "000" for a comment that names no code."""
    code, _, reason = comment.strip().partition(" ")
    if len(code) == 3 and code.isascii() and code.isdigit():
        return code, reason.strip() or reason_phrase(int(code))
    return "000", comment.strip()


def first_line(reply: bytes, status: int) -> str:
    """The reason phrase of a reply as it was sent; the usual one when there is none."""
    parts = reply[:512].split(b"\r\n", 1)[0].split(b" ", 2)
    if len(parts) == 3 and parts[1] == str(status).encode():
        return parts[2].decode("utf-8", "surrogateescape")
    return reason_phrase(status)
