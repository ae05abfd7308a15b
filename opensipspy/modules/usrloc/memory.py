"""The records of one domain in memory, and how a change is made to them: compiled, as every REGISTER is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opensipspy.management import Counter
from opensipspy.modules.usrloc.contact import (
    CS_DIRTY,
    CS_NEW,
    DELETE,
    FL_MEM,
    INSERT,
    UPDATE,
    Change,
    Contact,
    Record,
)

Notify = Callable[[str, Any, str, Contact | None], None]
"""notify(what, domain, aor, contact); contact None means the whole AOR."""


class Records:
    """Records by AOR. write_back: note in `pending` whose row is not as the contact is.

    domain: what `notify` is told as the domain. count: of the contacts.
    """

    __slots__ = ("_count", "_domain", "_new_id", "_newest_first", "_notify", "_write_back", "by_aor", "pending")

    def __init__(
        self,
        domain: object,
        count: Counter,
        notify: Notify,
        new_id: Callable[[], int],
        *,
        newest_first: bool = False,
        write_back: bool = False,
    ) -> None:
        self._domain: object = domain
        self._count: Counter = count
        self._notify: Notify = notify
        self._new_id: Callable[[], int] = new_id
        self._newest_first: bool = newest_first
        self._write_back: bool = write_back
        self.by_aor: dict[str, Record] = {}
        self.pending: dict[int, tuple[str, Contact | None]] = {}

    def number(self, change: Change) -> None:
        """Give each contact of a change its number: a new one its own, a changed one that of before."""
        for contact in change.inserts:
            if not contact.contact_id:
                contact.contact_id = self._new_id()
        for old, new in change.updates:
            new.contact_id = old.contact_id

    def apply(self, change: Change) -> None:
        """Make a change, and tell of it."""
        self.number(change)
        aor = change.aor
        record = self.by_aor.get(aor)
        if record is None:
            if not change.inserts and not change.updates:
                return
            record = self.by_aor[aor] = Record(aor)
            self._notify(INSERT, self._domain, aor, None)
        contacts = record.contacts
        for contact in change.deletes:
            if contact in contacts:
                contacts.remove(contact)
                self._count.dec()
                self._forget(aor, contact)
        for old, new in change.updates:
            # Its time may have run out while the database was writing: then it is a new one again.
            if old in contacts:
                contacts.remove(old)
            else:
                self._count.inc()
            self.place(record, new)
            self._remember(change, new, old.state)
        for contact in change.inserts:
            self.place(record, contact)
            self._count.inc()
            self._remember(change, contact, CS_NEW)
        self.tell(change)
        if not contacts:
            del self.by_aor[aor]
            self._notify(DELETE, self._domain, aor, None)

    def place(self, record: Record, contact: Contact) -> None:
        """Put a contact where its q wants it, behind those of the same."""
        contacts = record.contacts
        if self._newest_first:
            contacts.insert(0, contact)
            return
        at = len(contacts)
        while at and contacts[at - 1].q < contact.q:
            at -= 1
        if at == len(contacts):
            contacts.append(contact)
        else:
            contacts.insert(at, contact)

    def tell(self, change: Change) -> None:
        """Notify of each contact of a change."""
        for contact in change.deletes:
            self._notify(DELETE, self._domain, change.aor, contact)
        for _, new in change.updates:
            self._notify(UPDATE, self._domain, change.aor, new)
        for contact in change.inserts:
            self._notify(INSERT, self._domain, change.aor, contact)

    def _remember(self, change: Change, contact: Contact, old_state: int) -> None:
        if change.memory_only:
            contact.flags |= FL_MEM
        if self._write_back and not contact.flags & FL_MEM:
            contact.state = CS_NEW if old_state == CS_NEW else CS_DIRTY
            self.pending[contact.contact_id] = (change.aor, contact)

    def _forget(self, aor: str, contact: Contact) -> None:
        if self._write_back and not contact.flags & FL_MEM:
            if contact.state == CS_NEW:
                self.pending.pop(contact.contact_id, None)
            else:
                self.pending[contact.contact_id] = (aor, None)
