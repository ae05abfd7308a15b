"""What a script decided about the replies to its request, for whoever builds them."""

from __future__ import annotations

import os
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from opensipspy import sip
from opensipspy.management import Counter
from opensipspy.module.target import Target
from opensipspy.script import uris
from opensipspy.script.run import VIA_FORCE_RPORT, VIA_REPLY_TO_VIA, Run
from opensipspy.transaction.ident import COOKIE

if TYPE_CHECKING:
    from opensipspy.module.core import Core

NO_CONNECTION_FOR_REPLIES: Final = "tcp_no_new_conn_rplflag"
NO_CONNECTION_FOR_BRANCH: Final = "tcp_no_new_conn_bflag"

_TAG_BITS: Final = 0xFFFFFFFFFFFF
# Of a branch with the cookie of RFC 3261: what is shorter is the same for several requests, whatever it promises.
_SHORTEST_UNIQUE: Final = 12
MOST_WARNING: Final = 1024
"""Characters of a Warning text: it holds two URIs that the peer chose, and a reply should fit into a datagram."""
REPLY_BODY: Final = "reply_body"
"""Key in `Run.ctx` of the body (bytes) that append_body_to_reply() left for a reply that brings none of its own."""


def reply_target(run: Run) -> Target:
    """Where replies to the request of `run` go (RFC 3261 §18.2.2, RFC 3581, force_rport, reply-to-via)."""
    msg = run.msg
    flags = run.via_flags
    if flags & VIA_FORCE_RPORT and not msg.force_rport:
        msg.force_rport = True
        msg.via_text = None
    if flags & VIA_REPLY_TO_VIA and msg.source.proto == sip.PROTO_UDP and _is_address(msg.via.host):
        via = msg.via
        return Target(sip.Peer(sip.PROTO_UDP, via.host, via.port or sip.default_port(sip.PROTO_UDP)), msg.socket)
    return Target(sip.reply_destination(msg), msg.socket)


def connection_flag(core: Core, kind: str, parameter: str) -> int:
    """The bit of the flag that a global parameter (`tcp_no_new_conn_bflag`, `tcp_no_new_conn_rplflag`) names: a message
    with it opens no connection. 0 when the script names none. kind: "message" or "branch"."""
    name = getattr(core.globals, parameter, "")
    return core.flags.mask(kind, str(name)) if name else 0


def redirection(run: Run) -> str:
    """The Contact line of a 3xx that is made here (RFC 3261 §8.3): the Request-URI, when the script has changed it, and
    the branches that it has added. "" when there are none."""
    found = [uris.contact(run.ruri, run.q)] if run.ruri and run.ruri != run.msg.ruri else []
    branches = run.added_branches()
    if branches:
        found += [uris.contact(branch.uri, branch.q) for branch in branches]
    return f"Contact: {', '.join(found)}\r\n" if found else ""


def take_reply_additions(run: Run, code: int, headers: str, body: bytes) -> tuple[str, bytes]:
    """Headers and body of a reply with what the script added; a final reply uses them up."""
    if 300 <= code < 400 and run.msg.is_request:
        headers += redirection(run)
    if run.reply_edits:
        headers += "".join(run.reply_edits)
        if code >= 200:
            run.reply_edits.clear()
    if not body:
        found = run.noted(REPLY_BODY)
        if isinstance(found, bytes):
            body = found
            if code >= 200:
                del run.ctx[REPLY_BODY]
    return headers, body


def warning(core: Core, msg: sip.Message, run: Run | None = None) -> str:
    """The Warning header line of a reply made here to `msg` (RFC 3261 §20.43) when `sip_warning` asks for it, else "".

    It tells a tester which server answered, where it took the request from and what it made of the Request-URI.
    """
    if not getattr(core.globals, "sip_warning", False):
        return ""
    try:
        vias = len(msg.vias)
    except sip.ParseError:
        vias = 0
    here, source = msg.socket, msg.source
    told = (
        f"Noisy feedback tells: pid={os.getpid()} req_src_ip={source.address} req_src_port={source.port} "
        f"in_uri={msg.ruri} out_uri={(run.ruri if run is not None else '') or msg.ruri} via_cnt=={vias}"
    )
    if len(told) > MOST_WARNING:
        core.log.warning("a reply goes without Warning: its text would have %d characters", len(told))
        return ""
    quoted = "".join(c if c >= " " else "?" for c in told).replace("\\", "\\\\").replace('"', '\\"')
    return f'Warning: 392 {here.via_host}:{here.via_port} "{quoted}"\r\n'


class Sent:
    """Counts of stateless replies: all, those of 1xx to 6xx, and the ACKs that came for them."""

    def __init__(self, every: Counter, by_class: tuple[Counter, ...], acks: Counter) -> None:
        self.all: Counter = every
        self.by_class: tuple[Counter, ...] = by_class
        self.acks: Counter = acks


class StatelessReplies:
    """Replies that no transaction keeps, each made from its request alone (RFC 3261 §8.2.7)."""

    def __init__(self, core: Core, sent: Sent | None = None) -> None:
        """sent: what counts the replies that leave, None to count none."""
        self._core: Core = core
        self._sent: Sent | None = sent
        # Hashes of Python are keyed by the process, but the user may have fixed that key.
        self._secret: str = f"{core.random.getrandbits(128):032x}\n"
        # The part of the To tag that tells our ACKs from others; it says nothing about the secret.
        self.prefix: str = f"{core.random.getrandbits(48):012x}."
        self._no_connection: int = connection_flag(core, "message", NO_CONNECTION_FOR_REPLIES)
        self._globals: object = None
        self._server: str = ""
        self._warns: bool = False

    def local_tag(self, run: Run) -> str:
        """The To tag of the replies to a request: the same for its retransmissions."""
        msg = run.msg
        try:
            via = msg.via
            branch = via.branch
            text = f"{self._secret}{msg.call_id}\n{msg.from_tag}\n{branch}"
            if len(branch) < _SHORTEST_UNIQUE or not branch.startswith(COOKIE):
                # The branch alone need not tell one request from the next (RFC 3261 §17.2.3).
                text = f"{text}\n{msg.cseq_number}\n{via.host}\n{via.port}"
        except sip.ParseError:
            # error_route answers a request that is broken in one of these.
            text = self._secret + msg.head
        return self.prefix + str(hash(text) & _TAG_BITS)

    def send(self, run: Run, code: int, reason: str, headers: str, body: bytes) -> bool:
        """Send a reply; False when it does not leave. headers: further complete lines."""
        core = self._core
        msg = run.msg
        if not 100 <= code <= 699 or not msg.is_request or msg.method_id == sip.M_ACK:
            return False
        if core.globals is not self._globals:
            self._read_globals()
        headers, body = take_reply_additions(run, code, headers, body)
        if self._warns:
            headers += warning(core, msg, run)
        target = reply_target(run)
        if self._no_connection & run.msg_flags:
            target = Target(target.peer, target.socket, connect=False)
        tag = self.local_tag(run) if code > 100 else ""
        if not core.send(sip.build_reply(msg, code, reason, tag, headers, body, "", self._server), target):
            return False
        run.handled = True
        if self._sent is not None:
            self._sent.all.value += 1
            self._sent.by_class[code // 100 - 1].value += 1
        return True

    def absorb_ack(self, run: Run) -> bool | None:
        """Before the script: an ACK whose To tag was made here ends here (RFC 3261 §17.1.1.3: it goes no further than
        the reply came)."""
        msg = run.msg
        if msg.method_id != sip.M_ACK or not msg.to_tag.startswith(self.prefix):
            return None
        if self._sent is not None:
            self._sent.acks.value += 1
        run.handled = True
        return False

    def _read_globals(self) -> None:
        """What the script's globals say about replies; they are read when the first one leaves."""
        found = self._core.globals
        self._server = ""
        if getattr(found, "server_signature", True):
            # The script gives the whole line, name included.
            self._server = str(getattr(found, "server_header", "") or "").removeprefix("Server:").strip()
        self._warns = bool(getattr(found, "sip_warning", False))
        self._globals = found


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
