"""Requests that belong to one hop: the ACK for a failure and the CANCEL, made from the bytes of the INVITE that left.

RFC 3261 section 17.1.1.3 and section 9.1: same Request-URI, same single Via, From, Call-ID, CSeq number and Route.
"""

from __future__ import annotations

from typing import Final

_WANTED: Final = {
    "via": 0, "v": 0, "from": 1, "f": 1, "to": 2, "t": 2, "call-id": 3, "i": 3, "cseq": 4, "route": 5,
}  # fmt: skip


class HopHeaders:
    """The lines of a request that its ACK and CANCEL repeat; each ends without CRLF."""

    __slots__ = ("call_id", "cseq", "from_", "routes", "ruri", "to", "via")

    def __init__(self, data: bytes) -> None:
        head = data.partition(b"\r\n\r\n")[0].decode("utf-8", "surrogateescape")
        lines = head.replace("\r\n ", " ").replace("\r\n\t", " ").split("\r\n")
        self.ruri: str = lines[0].split(" ")[1]
        self.via: str = ""
        self.from_: str = ""
        self.to: str = ""
        self.call_id: str = ""
        self.cseq: str = "0"
        self.routes: str = ""
        for line in lines[1:]:
            name, _, value = line.partition(":")
            kind = _WANTED.get(name.strip().lower(), -1)
            if kind == 0:
                if not self.via:
                    self.via = _first_of_list(value.strip())
            elif kind == 1:
                self.from_ = value.strip()
            elif kind == 2:
                self.to = value.strip()
            elif kind == 3:
                self.call_id = value.strip()
            elif kind == 4:
                self.cseq = value.split()[0]
            elif kind == 5:
                self.routes += f"Route: {value.strip()}\r\n"

    def request(self, method: str, to: str, headers: str) -> bytes:
        """A request of this hop without a body; `headers` are further complete lines."""
        text = (
            f"{method} {self.ruri} SIP/2.0\r\nVia: {self.via}\r\nFrom: {self.from_}\r\nTo: {to}\r\n"
            f"Call-ID: {self.call_id}\r\nCSeq: {self.cseq} {method}\r\n{self.routes}"
            f"Max-Forwards: 70\r\n{headers}Content-Length: 0\r\n\r\n"
        )
        return text.encode("utf-8", "surrogateescape")


def _first_of_list(value: str) -> str:
    """The first Via of a comma list; a comma inside quotes does not separate."""
    quoted = False
    position = 0
    while position < len(value):
        char = value[position]
        if char == "\\" and quoted:
            position += 1
        elif char == '"':
            quoted = not quoted
        elif char == "," and not quoted:
            return value[:position].rstrip()
        position += 1
    return value


def hop_ack(invite: bytes, to: str, headers: str = "") -> bytes:
    """The ACK for a 3xx-6xx: `to` is the To value of the response (section 17.1.1.3)."""
    return HopHeaders(invite).request("ACK", to, headers)


def hop_cancel(invite: bytes, headers: str = "") -> bytes:
    """The CANCEL of an INVITE that left (section 9.1)."""
    hop = HopHeaders(invite)
    return hop.request("CANCEL", hop.to, headers)
