"""What other modules do with registered contacts: `core.api("usrloc", Location)`.

An address of record (AOR) is text as the registrar makes it: "user@domain", or "user" without `use_domain`. A *domain*
is a named set of AORs ("location"), as scripts name it in `save("location")`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager

from opensipspy.modules.usrloc.contact import (
    ALL_METHODS,
    CS_DIRTY,
    CS_NEW,
    CS_SYNC,
    DELETE,
    EXPIRE,
    FL_MEM,
    FL_PN,
    INSERT,
    MATCH_CONTACT,
    MATCH_CONTACT_CALLID,
    METHOD_BITS,
    METHOD_OTHER,
    STATE_NAMES,
    UPDATE,
    Change,
    Contact,
    Record,
    method_bit,
    methods_mask,
    q_text,
)

__all__ = [
    "ALL_METHODS",
    "CS_DIRTY",
    "CS_NEW",
    "CS_SYNC",
    "DELETE",
    "EXPIRE",
    "FL_MEM",
    "FL_PN",
    "INSERT",
    "MATCH_CONTACT",
    "MATCH_CONTACT_CALLID",
    "METHOD_BITS",
    "METHOD_OTHER",
    "STATE_NAMES",
    "UPDATE",
    "Callback",
    "Change",
    "Contact",
    "Domain",
    "Location",
    "Record",
    "StoreError",
    "Waitable",
    "method_bit",
    "methods_mask",
    "q_text",
]


class StoreError(Exception):
    """The change was not made: the database does not take it now."""


class Domain(ABC):
    """The contacts of one domain. `waits`: whether `commit` and `find` have to be awaited."""

    name: str
    waits_to_write: bool
    waits_to_read: bool

    @abstractmethod
    def get(self, aor: str) -> Record | None:
        """The record in memory. Always None where no contacts are kept in memory: see `find`."""

    @abstractmethod
    async def find(self, aor: str) -> Record | None:
        """The record, from the database where memory does not hold it. Raises StoreError."""

    @abstractmethod
    def changing(self, aor: str) -> AbstractAsyncContextManager[Record | None]:
        """Hold the AOR against other changes: `async with domain.changing(aor) as record`. Raises StoreError."""

    @abstractmethod
    def commit_now(self, change: Change) -> None:
        """Make a change where `waits_to_write` is False (or the change is `memory_only`)."""

    @abstractmethod
    async def commit(self, change: Change) -> None:
        """Make a change, in `changing`. Raises StoreError when nothing of it happened."""

    @abstractmethod
    def records(self) -> Iterator[Record]:
        """All records in memory; the set must not be changed meanwhile."""

    @abstractmethod
    async def all_records(self) -> list[Record]:
        """All records wherever they are kept. Raises StoreError."""


Callback = Callable[[str, "Domain", str, Contact], None]
"""callback(what, domain, aor, contact); what: INSERT, UPDATE, DELETE or EXPIRE."""


class Location(ABC):
    """The user location service."""

    use_domain: int
    matching_mode: int
    cseq_delay: int
    nat_bflag: str | None

    @property
    @abstractmethod
    def nat_flag(self) -> int:
        """The branch flag that marks contacts behind a NAT, as a mask; 0 when `nat_bflag` is not set."""

    @abstractmethod
    def domain(self, name: str) -> Domain:
        """The domain of that name, made when it is new."""

    @abstractmethod
    async def open_domain(self, name: str) -> Domain:
        """As `domain`, with its contacts loaded."""

    @abstractmethod
    def domains(self) -> list[Domain]:
        """All domains in use."""

    @abstractmethod
    def new_contact_id(self) -> int:
        """A number that no other contact has."""

    @abstractmethod
    def on(self, callback: Callback) -> None:
        """Be told of each contact that comes, changes or goes."""

    @abstractmethod
    def set_latency(self, domain: Domain, aor: str, contact: Contact, latency_us: int) -> None:
        """A ping of the contact came back after `latency_us` microseconds."""

    @abstractmethod
    def raise_refresh(self, domain: Domain, aor: str, contact: Contact, reason: str, req_callid: str = "") -> None:
        """Ask for the contact to be woken (event E_UL_CONTACT_REFRESH)."""


Waitable = Awaitable[int] | int
