"""A run without a message from the network, for what is evaluated outside of calls: timer routes, names of files."""

from __future__ import annotations

from opensipspy import sip
from opensipspy.module.core import Core
from opensipspy.script.run import Run
from opensipspy.sip import Peer, Socket


def blank_run(core: Core, kind: int, source: Peer | None = None, socket: Socket | None = None) -> Run:
    """A run of a made-up request; `kind` is the kind of route that it is for.

    source, socket: where it is said to come from and to; from this server to itself when not given.
    """
    socket = socket or core.sockets[0]
    peer = source or Peer(socket.proto, socket.address, socket.port)
    text = (
        f"OPTIONS sip:{socket.host_text}:{socket.port} SIP/2.0\r\n"
        f"Via: {socket.via_prefix}z9hG4bKnone\r\n"
        f"From: <sip:{socket.host_text}>;tag=none\r\nTo: <sip:{socket.host_text}>\r\n"
        "Call-ID: none\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    )
    return Run(sip.parse_message(text.encode(), peer, socket), kind, core.program, core.services)
