"""What a transport is: sockets of one protocol that take messages in and let messages out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opensipspy.sip import Peer, Socket

Deliver = Callable[[bytes, "Peer", "Socket"], None]
"""Takes one message: the bytes, where they came from and the listening point they came to."""


class SocketOptions:
    """What the words of one `socket=` line ask of the system: tos (-1 for the global value), reuse_port (several
    processes may listen there, and connections of ours leave from there), fragments (datagrams larger than the path
    allows are cut instead of refused), allow_proxy and send_proxy (the PROXY protocol, in and out)."""

    __slots__ = ("allow_proxy", "fragments", "reuse_port", "send_proxy", "tos")

    def __init__(
        self,
        *,
        tos: int = -1,
        reuse_port: bool = False,
        fragments: bool = False,
        allow_proxy: bool = False,
        send_proxy: bool = False,
    ) -> None:
        self.tos: int = tos
        self.reuse_port: bool = reuse_port
        self.fragments: bool = fragments
        self.allow_proxy: bool = allow_proxy
        self.send_proxy: bool = send_proxy


def socket_options(words: Mapping[str, int | str]) -> SocketOptions | None:
    """What the words of a `socket=` line mean for the system; None when nothing."""
    if not words.keys() & {"tos", "reuse_port", "frag", "proxy", "allow_proxy", "send_proxy"}:
        return None
    return SocketOptions(
        tos=int(words.get("tos", -1)),
        reuse_port="reuse_port" in words,
        fragments="frag" in words,
        allow_proxy="allow_proxy" in words or "proxy" in words,
        send_proxy="send_proxy" in words or "proxy" in words,
    )


class LayerError(Exception):
    """What stands between the network and the messages of a connection failed; the text says why."""


class Hint:
    """What a message is for, as far as that matters to a connection that has to be opened for it.

    source: who sent the request that leaves. sip_domain, tls_domain: what the script says about TLS, "" when nothing.
    """

    __slots__ = ("peer", "sip_domain", "source", "tls_domain")

    def __init__(self, peer: Peer, source: Peer | None = None, sip_domain: str = "", tls_domain: str = "") -> None:
        self.peer = peer
        self.source = source
        self.sip_domain = sip_domain
        self.tls_domain = tls_domain

    def fits(self, peer: Peer) -> bool:
        """Whether it was said about a message to `peer`."""
        return self.peer.address == peer.address and self.peer.port == peer.port


class Transport(ABC):
    """The sockets of one protocol. `net.Network` finds the transport of a `Socket` by its protocol."""

    def configure(self, socket: Socket, options: SocketOptions) -> None:  # noqa: B027 - not every transport has any
        """Take the options of a listening point that is bound afterwards."""

    def reaches(self, peer: Peer) -> bool:
        """Whether a message to `peer` can leave without a new connection."""
        return True

    @abstractmethod
    def bind(self, socket: Socket) -> None:
        """Open the listening point, so that peers reach it; what arrives waits in the kernel. Raises OSError."""

    @abstractmethod
    def serve(self) -> None:
        """Begin to take what arrives at all listening points."""

    def admit(self, socket: Socket) -> None:
        """Begin to take what arrives at one listening point that was bound while others serve."""
        raise LookupError(f"{socket.text}: not while the server runs")

    def unbind(self, socket: Socket) -> None:
        """Close one listening point; connections that came to it stay. Raises LookupError for one that is not open."""
        raise LookupError(f"{socket.text}: not while the server runs")

    @abstractmethod
    def send(self, data: bytes, peer: Peer, socket: Socket, on_failure: Callable[[], None] | None) -> bool:
        """Let one message out. False when it certainly does not leave; a later failure calls `on_failure`."""

    @abstractmethod
    def pause(self) -> None:
        """Stop taking new peers' messages; what is being sent goes on."""

    @abstractmethod
    async def close(self) -> None:
        """Close everything, after what is queued has had a short chance to leave."""

    @abstractmethod
    def waiting(self) -> int:
        """Bytes that have arrived or wait to leave and were not handled yet."""
