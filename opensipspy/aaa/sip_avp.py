"""SIP-AVP attributes of replies, which become AVPs of the script."""

from __future__ import annotations

from opensipspy.aaa.client import AaaReply


def sip_avps(reply: AaaReply) -> list[tuple[str, str | int]]:
    """(name, value) of each `[#]name:text` or `[#]name#number`; what has another form is left out."""
    found: list[tuple[str, str | int]] = []
    for value in reply.all("SIP-AVP"):
        text = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
        by_number = text.startswith("#")
        text = text.removeprefix("#")
        at = next((place for place, char in enumerate(text) if char in ":#"), -1)
        if at < 1 or (by_number and not text[:at].isdecimal()):
            continue
        name, rest = text[:at], text[at + 1 :]
        if text[at] == ":":
            found.append((name, rest))
        elif rest.isascii() and rest.removeprefix("-").isdecimal():
            found.append((name, int(rest)))
    return found
