"""What the Diameter peer offers to other modules."""

from __future__ import annotations

from abc import ABC, abstractmethod

Avps = list[dict[str, object]]
"""AVPs in their order, each an object with one member; the value of a group is such a list again."""


class DiameterFailure(Exception):
    """A request without an answer. timed_out: it was sent, nothing came back in time. unreachable: no peer is there.

    sent: a peer may have got it.
    """

    def __init__(self, reason: str, timed_out: bool = False, unreachable: bool = False, sent: bool = False) -> None:
        super().__init__(reason)
        self.timed_out = timed_out
        self.unreachable = unreachable
        self.sent = sent or timed_out


class DiameterReply:
    """An answer. is_error: the peer says that the request failed. result: its Result-Code, 0 when it has none."""

    __slots__ = ("avps", "is_error", "result")

    def __init__(self, avps: Avps, is_error: bool, result: int) -> None:
        self.avps = avps
        self.is_error = is_error
        self.result = result


class DiameterApi(ABC):
    """Requests of any application that the dictionary knows."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """The Diameter identity of this server; "" before the peer is configured."""

    @abstractmethod
    def use(self, url: str) -> None:
        """Configure the peer with a URL (`diameter:FILE;extra-avps-file:FILE`), as `aaa_url` does.

        Called before requests are made, with `open` behind it. ValueError for a second, other URL, and for files that
        are wrong.
        """

    @abstractmethod
    async def open(self) -> None:
        """Connect and listen as `use` said; does not wait for peers."""

    @abstractmethod
    def knows_command(self, command: int) -> bool:
        """Whether the dictionary defines the request of a command code."""

    @abstractmethod
    def end_to_end(self) -> int:
        """A new End-to-End Identifier (RFC 6733 §3)."""

    @abstractmethod
    async def request(
        self, application: int, command: int, avps: Avps, end_to_end: int = 0, again: bool = False
    ) -> DiameterReply:
        """Send a request and wait for its answer, at most `answer_timeout`. Raises DiameterFailure.

        end_to_end: of a request that may be sent more than once; again: it may have been before (the T flag).
        """
