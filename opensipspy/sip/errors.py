"""What the parser says about bytes that are not SIP, and how much it is ready to read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opensipspy.sip.message import Message

# Status of a ParseError whose packet cannot be answered: it is dropped and counted.
DROP: Final = 0


class ParseError(ValueError):
    """The peer's bytes break the grammar or a limit.

    reason: what is wrong, fit for a log and for a reason phrase. offset: where in the parsed text, 0 when unknown.
    status: the SIP status that the sender deserves; DROP (0) when no reply can be made. message: the message as far as
    it was understood, when a reply can be built from it (RFC 3261 §8.2.6.2 needs Via, From, To, Call-ID, CSeq).
    """

    def __init__(self, reason: str, offset: int = 0, status: int = 400) -> None:
        super().__init__(reason)
        self.reason: str = reason
        self.offset: int = offset
        self.status: int = status
        self.message: Message | None = None


class Limits:
    """How much of one message is read before it is refused. Sizes in bytes.

    head: start line and headers. body: the body. headers: header lines (a folded one counts once). values: elements of
    comma lists in all headers of one kind. parameters: of one URI or header element.
    """

    __slots__ = ("body", "head", "headers", "parameters", "values")

    def __init__(
        self, head: int = 32768, body: int = 65536, headers: int = 256, values: int = 256, parameters: int = 64
    ) -> None:
        self.head: int = head
        self.body: int = body
        self.headers: int = headers
        self.values: int = values
        self.parameters: int = parameters


DEFAULT_LIMITS: Final = Limits()
