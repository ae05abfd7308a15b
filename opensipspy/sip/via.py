"""Via (RFC 3261 §20.42, RFC 3581)."""

from __future__ import annotations

from typing import Final

from mypy_extensions import mypyc_attr

from opensipspy.sip.errors import ParseError
from opensipspy.sip.memo import Hop, Memo
from opensipspy.sip.text import SPACES, is_host, is_ipv6, is_token, number, split_list, split_params, unquote

RPORT_ABSENT: Final = -1
RPORT_EMPTY: Final = 0
_BRANCH: Final = ";branch="
_BRANCH_NAME: Final = "branch"


@mypyc_attr(acyclic=True)
class Via:
    """One hop.

    transport: upper case. host: without brackets, host_text: with. port: 0 when absent. params: raw with the leading
    ";". branch, received: "" when absent. rport: RPORT_ABSENT, RPORT_EMPTY or the port. start, end: its range in the
    text.
    """

    __slots__ = (
        "_params",
        "branch",
        "end",
        "host",
        "host_text",
        "params",
        "params_start",
        "port",
        "received",
        "rport",
        "start",
        "transport",
    )

    def __init__(
        self,
        start: int,
        end: int,
        transport: str = "",
        host: str = "",
        host_text: str = "",
        port: int = 0,
        params: str = "",
        branch: str = "",
    ) -> None:
        self.start: int = start
        self.end: int = end
        self.transport: str = transport
        self.host: str = host
        self.host_text: str = host_text
        self.port: int = port
        self.params: str = params
        self.params_start: int = end - len(params)
        self.branch: str = branch
        self.received: str = ""
        self.rport: int = RPORT_ABSENT
        self._params: list[str] | None = None

    def __repr__(self) -> str:
        return f"Via({self.transport} {self.host_text}:{self.port}{self.params})"

    def param(self, name: str) -> str | None:
        """The value of a parameter without quotes, "" when it has none, None when it is absent. name: lower case."""
        params = self.param_list()
        for i in range(0, len(params), 2):
            if params[i] == name:
                return unquote(params[i + 1])
        return None

    def param_list(self) -> list[str]:
        """Parameters as a flat list: lower-case name, value as written ("" when there is none), name, value, ..."""
        found = self._params
        if found is None:
            found = [_BRANCH_NAME, self.branch] if self.branch else []
            self._params = found
        return found


def via_in(text: str, start: int, end: int, memo: Memo | None = None, plain: bool = False) -> Via:
    """Parse one via-parm in a range of a text. plain: there is no quote and no tab in it."""
    via = Via(start, end)
    semicolon = text.find(";", start, end)
    stop = end if semicolon < 0 else semicolon
    hop = memo.hops.get(text[start:stop]) if memo is not None else None
    if hop is None:
        while start < end and text[start] in SPACES:
            start += 1
        while end > start and text[end - 1] in SPACES:
            end -= 1
        via.start = start
        via.end = end
        via.params_start = end
        if semicolon < 0:
            stop = end
        sent = text[start:stop]
        after = _protocol(via, text, start, end)
        # What stands before the white space holds no semicolon.
        hop = _hop(via.transport, text, after + 1, stop)
        if memo is not None:
            memo.keep_hop(sent, hop)
    via.transport = hop.transport
    via.host = hop.host
    via.host_text = hop.host_text
    via.port = hop.port
    if semicolon >= 0:
        via.params_start = semicolon
        via.params = text[semicolon:end]
        branch = via.params[8:]
        if branch and via.params.startswith(_BRANCH) and _is_plain(branch, plain):
            # Nothing but a branch.
            via.branch = branch
        else:
            while text[end - 1] in SPACES:
                end -= 1
            via.end = end
            via.params = text[semicolon:end]
            _read_params(via, semicolon)
    return via


def known_via(hop: Hop, branch: str, start: int, end: int) -> Via:
    """A via-parm in a range of a text, of a hop that is remembered, with a branch and no other parameter."""
    return Via(start, end, hop.transport, hop.host, hop.host_text, hop.port, _BRANCH + branch, branch)


def _is_plain(value: str, plain: bool) -> bool:
    return ";" not in value and " " not in value and (plain or ('"' not in value and "\t" not in value))


def _protocol(via: Via, text: str, start: int, end: int) -> int:
    """The sent-protocol; the position of the white space after it."""
    if text.startswith("SIP/2.0/", start):
        after = text.find(" ", start + 8, end)
        if after < 0:
            raise ParseError("Via without a host", start)
        via.transport = text[start + 8 : after]
        if not via.transport.isalnum():
            after = _spaced_protocol(via, text, start, end)
    else:
        after = _spaced_protocol(via, text, start, end)
    if not via.transport.isupper():
        via.transport = via.transport.upper()
    return after


def _hop(transport: str, text: str, after: int, stop: int) -> Hop:
    """The sent-by in a range of a text, white space around it."""
    while after < stop and text[after] in SPACES:
        after += 1
    while stop > after and text[stop - 1] in SPACES:
        stop -= 1
    sent_by = text[after:stop]
    if not sent_by:
        raise ParseError("Via without a host", after)
    port = 0
    if sent_by[0] == "[":
        close = sent_by.find("]")
        if close < 0 or not is_ipv6(sent_by[1:close]):
            raise ParseError("bad IPv6 address in Via", after)
        rest = sent_by[close + 1 :].lstrip(SPACES)
        if rest:
            if rest[0] != ":":
                raise ParseError("text after the host of a Via", after)
            port = _via_port(rest[1:], after)
        return Hop(transport, sent_by[1:close], sent_by[: close + 1], port)
    colon = sent_by.find(":")
    if colon >= 0:
        port = _via_port(sent_by[colon + 1 :], after)
        sent_by = sent_by[:colon]
        if sent_by.endswith((" ", "\t")):
            sent_by = sent_by.rstrip(SPACES)
    if not sent_by or not is_host(sent_by):
        raise ParseError("bad host in Via", after)
    return Hop(transport, sent_by, sent_by, port)


def _read_params(via: Via, offset: int) -> None:
    params = split_params(via.params, offset)
    via._params = params
    for i in range(0, len(params), 2):
        name = params[i]
        if name == "branch":
            if via.branch:
                raise ParseError("two branch parameters in a Via", offset)
            via.branch = params[i + 1]
        elif name == "rport":
            value = params[i + 1]
            via.rport = number(value, 65535, "rport", offset) if value else RPORT_EMPTY
        elif name == "received":
            via.received = params[i + 1].strip("[]")


def _via_port(text: str, offset: int) -> int:
    """The port of a sent-by. 0, which phones write that do not know theirs, is as if there were none."""
    return number(text if text.isdigit() else text.strip(SPACES), 65535, "port of a Via", offset)


def broken_via_in(text: str, start: int, end: int) -> Via:
    """As much of a Via as a refusal needs: its host, whatever its version and parameters look like.

    Its range ends before the first ";" or ",". ParseError when even the host cannot be read.
    """
    cut = start
    while cut < end and text[cut] != ";" and text[cut] != ",":
        cut += 1
    version = text.find("/", start, cut) + 1
    slash = text.find("/", version, cut)
    if version <= 0 or slash < 0:
        raise ParseError("Via without SIP/2.0/transport", start)
    via = via_in("SIP/2.0" + text[slash:cut], 0, cut - slash + 7)
    via.start = start
    via.end = cut
    while via.end > start and text[via.end - 1] in SPACES:
        via.end -= 1
    via.params_start = via.end
    return via


def _spaced_protocol(via: Via, text: str, start: int, end: int) -> int:
    """The sent-protocol with white space around its slashes, or in another case; the position after it."""
    one = text.find("/", start, end)
    two = text.find("/", one + 1, end) if one >= 0 else -1
    if two < 0:
        raise ParseError("Via without SIP/2.0/transport", start)
    name = text[start:one].strip(SPACES)
    version = text[one + 1 : two].strip(SPACES)
    if name.upper() != "SIP" or version != "2.0":
        raise ParseError("Via of another protocol", start)
    i = two + 1
    while i < end and text[i] in SPACES:
        i += 1
    begin = i
    while i < end and text[i] not in SPACES:
        i += 1
    via.transport = text[begin:i]
    if not is_token(via.transport) or i == end:
        raise ParseError("Via without a transport or a host", begin)
    return i


def vias_in(text: str, start: int, end: int, limit: int = 256) -> list[Via]:
    """Parse a comma list of via-parms in a range of a text."""
    cuts = split_list(text, start, end, limit)
    return [via_in(text, cuts[i], cuts[i + 1]) for i in range(0, len(cuts), 2)]


def parse_via(text: str) -> Via:
    """Parse one via-parm. ParseError when it is none."""
    return via_in(text, 0, len(text))


def parse_via_list(text: str, limit: int = 256) -> list[Via]:
    """Parse the value of a Via header. ParseError when an element is none, or there are more than `limit`."""
    return vias_in(text, 0, len(text), limit)
