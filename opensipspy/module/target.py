"""Where a message goes. In a file of its own because it is compiled: each copy of a message has one."""

from __future__ import annotations

from mypy_extensions import mypyc_attr

from opensipspy.sip import Peer, Socket


@mypyc_attr(acyclic=True)
class Target:
    """Where a message goes: the remote end and the listening point it leaves from. connect: whether a connection may
    be opened for it (`tcp_no_new_conn_bflag`, `tcp_no_new_conn_rplflag`)."""

    __slots__ = ("connect", "peer", "socket")

    def __init__(self, peer: Peer, socket: Socket, connect: bool = True) -> None:
        self.peer: Peer = peer
        self.socket: Socket = socket
        self.connect: bool = connect

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Target) and self.peer == other.peer and self.socket is other.socket

    def __hash__(self) -> int:
        return hash((self.peer.proto, self.peer.address, self.peer.port))

    def __repr__(self) -> str:
        return f"<Target {self.peer.text} from {self.socket.text}>"
