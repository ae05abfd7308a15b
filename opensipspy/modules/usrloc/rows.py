"""Contacts as rows of the location table. Rows are written by others too: a bad one is a ValueError, never a crash."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from sys import intern
from typing import Final

from opensipspy.db import Column, DbValue, Table, as_float, as_int, as_text
from opensipspy.modules.usrloc.api import ALL_METHODS, CS_SYNC, Contact
from opensipspy.script.declare import FlagNames
from opensipspy.sip import Socket

LOCATION_TABLE: Final = Table(
    "location",
    1013,
    (
        Column("contact_id", "unsigned long", 10, primary=True, autoincrement=True),
        Column("username", "string", 64, default=""),
        Column("domain", "string", 64, null=True, default=None),
        Column("contact", "text"),
        Column("received", "string", 255, null=True, default=None),
        Column("path", "string", 255, null=True, default=None),
        Column("expires", "unsigned int", 10),
        Column("q", "float", "10,2", default="1.0"),
        Column("callid", "string", 255, default="Default-Call-ID"),
        Column("cseq", "int", 11, default="13"),
        Column("last_modified", "datetime", default="1900-01-01 00:00:01"),
        Column("flags", "int", 11, default="0"),
        Column("cflags", "string", 255, null=True, default=None),
        Column("user_agent", "string", 255, default=""),
        Column("socket", "string", 64, null=True, default=None),
        Column("methods", "int", 11, null=True, default=None),
        Column("sip_instance", "string", 255, null=True, default=None),
        Column("kv_store", "text", 512, null=True, default=None),
        Column("attr", "string", 255, null=True, default=None),
    ),
)

FIELDS: Final = tuple(column.name for column in LOCATION_TABLE.columns)
"""The fields in the order of the table; parameters of the module may give the columns other names."""

LARGEST_ID: Final = (1 << 63) - 1
LARGEST_TIME: Final = 1 << 40


class Rows:
    """Turns contacts into rows and back. columns: field -> the column's name."""

    def __init__(
        self,
        columns: Mapping[str, str],
        use_domain: bool,
        flags: FlagNames,
        sockets: Callable[[], Sequence[Socket]],
    ) -> None:
        self.columns = [columns[field] for field in FIELDS]
        self.column = dict(columns)
        self.use_domain = use_domain
        self.flags = flags
        self.sockets = sockets

    def split(self, aor: str) -> tuple[str, str | None]:
        """(username, domain) of an AOR; the domain is None where it is not kept."""
        if not self.use_domain:
            return aor, None
        user, _, domain = aor.rpartition("@")
        return user, domain

    def row(self, aor: str, contact: Contact) -> dict[str, DbValue]:
        """The row of a contact."""
        user, domain = self.split(aor)
        values: tuple[DbValue, ...] = (
            contact.contact_id,
            user,
            domain,
            contact.uri,
            contact.received or None,
            contact.path or None,
            contact.expires,
            contact.q / 1000 if contact.q >= 0 else -1.0,
            contact.callid,
            contact.cseq,
            datetime.fromtimestamp(contact.last_modified),
            contact.flags,
            " ".join(self.flags.names("branch", contact.cflags)),
            contact.user_agent,
            contact.socket.text if contact.socket is not None else None,
            contact.methods,
            contact.sip_instance or None,
            json.dumps(contact.kv) if contact.kv else None,
            contact.attr or None,
        )
        return dict(zip(self.columns, values, strict=True))

    def read(self, row: Sequence[DbValue], regenerate: Callable[[], int] | None = None) -> tuple[str, Contact, bool]:
        """(AOR, contact, whether its id is new). Raises ValueError with what is wrong.

        regenerate: gives a number to a row whose own is unusable; without it such a row is refused.
        """
        cells = dict(zip(FIELDS, row, strict=True))
        user = as_text(cells["username"])
        domain = as_text(cells["domain"])
        if self.use_domain and not domain:
            raise ValueError("no domain")
        aor = f"{user}@{domain.lower()}" if self.use_domain else user
        if not aor:
            raise ValueError("no username")
        uri = as_text(cells["contact"])
        if not uri or "\r" in uri or "\n" in uri:
            raise ValueError("no usable contact")
        renewed = False
        contact_id = cells["contact_id"]
        if not isinstance(contact_id, int) or not 0 < contact_id <= LARGEST_ID:
            if regenerate is None:
                raise ValueError("contact_id is broken; see regen_broken_contactid")
            contact_id, renewed = regenerate(), True
        expires = as_int(cells["expires"])
        if not 0 <= expires <= LARGEST_TIME:
            raise ValueError("expires is out of range")
        q = as_float(cells["q"]) if cells["q"] is not None else -1.0
        methods = as_int(cells["methods"]) if cells["methods"] is not None else ALL_METHODS
        contact = Contact(
            uri,
            expires,
            contact_id=contact_id,
            received=one_line(as_text(cells["received"])),
            path=one_line(as_text(cells["path"])),
            q=-1 if q < 0 else min(1000, round(q * 1000)),
            callid=one_line(as_text(cells["callid"])),
            cseq=as_int(cells["cseq"]),
            flags=as_int(cells["flags"]) if cells["flags"] is not None else 0,
            cflags=self._branch_flags(as_text(cells["cflags"])),
            user_agent=intern(one_line(as_text(cells["user_agent"]))),
            socket=self._socket(as_text(cells["socket"])),
            methods=methods,
            last_modified=_time(cells["last_modified"]),
            sip_instance=one_line(as_text(cells["sip_instance"])),
            attr=as_text(cells["attr"]),
            kv=_key_values(as_text(cells["kv_store"])),
            state=CS_SYNC,
        )
        return aor, contact, renewed

    def _branch_flags(self, names: str) -> int:
        mask = 0
        for name in names.replace(",", " ").split():
            mask |= int(name) if name.isascii() and name.isdigit() else self.flags.mask("branch", name)
        return mask & 0xFFFFFFFF

    def _socket(self, text: str) -> Socket | None:
        if text:
            for socket in self.sockets():
                if text in (socket.text, socket.tag):
                    return socket
        return None


def one_line(text: str) -> str:
    """The text where it may stand in a header: a line end in it would begin a header of its own."""
    if "\r" in text or "\n" in text:
        raise ValueError("a line end inside a value")
    return text


def _time(value: DbValue) -> int:
    if isinstance(value, datetime):
        return int(value.timestamp())
    if isinstance(value, int):
        return value
    try:
        return int(datetime.fromisoformat(as_text(value)).timestamp())
    except (ValueError, OverflowError, OSError):
        return 0


def _key_values(text: str) -> dict[str, str] | None:
    if not text:
        return None
    found = json.loads(text)  # JSONDecodeError is a ValueError
    if not isinstance(found, dict):
        raise ValueError("kv_store holds no object")
    return {key: value if isinstance(value, str) else str(value) for key, value in found.items()} or None
