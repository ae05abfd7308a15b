"""The contract between modules that ask AAA servers and drivers that reach them.

A driver is the module `aaa_SCHEME`; what it offers to others is an `AaaDriver`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

AaaValue = str | int | bytes
Attributes = Sequence[tuple[str, AaaValue]]
"""Attributes by their name in the dictionary, in their order; a name may come more than once."""


class AaaError(Exception):
    """No answer, or a request that cannot be made. transient: no server answered. sent: but one may have it."""

    def __init__(self, reason: str, transient: bool = False, sent: bool = False) -> None:
        super().__init__(reason)
        self.transient = transient
        self.sent = sent


class Ticket:
    """A record over all attempts to hand it over. again: a server may have it already.

    marks: what the protocol tells a copy by; texts and numbers, that they may be written down.
    """

    __slots__ = ("again", "marks")

    def __init__(self, marks: dict[str, str | int] | None = None, again: bool = False) -> None:
        self.marks = marks if marks is not None else {}
        self.again = again


class AaaReply:
    """An answer. accepted: the server granted what was asked."""

    __slots__ = ("accepted", "attributes")

    def __init__(self, accepted: bool, attributes: list[tuple[str, AaaValue]]) -> None:
        self.accepted = accepted
        self.attributes = attributes

    def all(self, name: str) -> list[AaaValue]:
        """The values of an attribute."""
        name = name.lower()
        return [value for known, value in self.attributes if known.lower() == name]


class AaaClient(ABC):
    """The servers behind one URL."""

    @abstractmethod
    def check(self, names: Iterable[str]) -> None:
        """Raises AaaError naming the attributes that the dictionary lacks."""

    @abstractmethod
    def value(self, attribute: str, name: str) -> int:
        """The number of a named value of an attribute; raises AaaError."""

    def fitted(self, attributes: Attributes) -> tuple[Attributes, list[str]]:
        """What of them a packet can hold, and the names of those that were cut or left out for that.

        For records: a peer's overlong text must not cost the whole of it. Questions are never cut.
        """
        return attributes, []

    @abstractmethod
    async def authenticate(self, attributes: Attributes) -> AaaReply:
        """Ask whether something is granted. Raises AaaError."""

    def ticket(self) -> Ticket:
        """For a new record that is handed over as often as it takes."""
        return Ticket()

    @abstractmethod
    async def account(self, attributes: Attributes, ticket: Ticket | None = None) -> AaaReply:
        """Hand over an accounting record; returns when a server has taken it. Raises AaaError.

        ticket: the record's own, the same at each attempt.
        """


class AaaDriver(ABC):
    """What the module `aaa_SCHEME` offers."""

    @abstractmethod
    async def open_client(self, url: str) -> AaaClient:
        """The client for a URL; who names the same URL shares one. Raises AaaError for files that are wrong."""


class Finder(Protocol):
    """The part of the core that is needed here."""

    def api(self, name: str, cls: Any) -> Any: ...


async def open_client(core: Finder, url: str) -> AaaClient:
    """The client for an `aaa_url`, "radius:FILE". Raises AaaError, also when the driver's module is not loaded."""
    scheme, colon, rest = url.partition(":")
    if not colon or not scheme.isalnum() or not rest:
        raise AaaError("an AAA URL is of the form radius:FILE")
    try:
        driver: AaaDriver = core.api(f"aaa_{scheme}", AaaDriver)
    except LookupError as error:
        raise AaaError(f'{error} (loadmodule "aaa_{scheme}.so" is missing?)') from error
    return await driver.open_client(url)
