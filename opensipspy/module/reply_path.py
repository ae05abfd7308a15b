"""What a script decided about the replies to its request, for whoever builds them."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

from opensipspy import sip
from opensipspy.module.core import Target
from opensipspy.script.run import VIA_FORCE_RPORT, VIA_REPLY_TO_VIA, Run

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


def take_reply_additions(run: Run, code: int, headers: str, body: bytes) -> tuple[str, bytes]:
    """Headers and body of a reply with what the script added; a final reply uses them up."""
    if run.reply_edits:
        headers += "".join(run.reply_edits)
        if code >= 200:
            run.reply_edits.clear()
    if not body and run.ctx:
        found = run.ctx.get(REPLY_BODY)
        if isinstance(found, bytes):
            body = found
            if code >= 200:
                del run.ctx[REPLY_BODY]
    return headers, body


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
