"""Contacts, the records that hold them, and changes of them: compiled, as every REGISTER makes one.

A `Contact` never changes: a new registration of it is a new object with the same `contact_id`. Only what the server
learns about it on the side (state of its row, ping latency) is written into it.
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import mypyc_attr

from opensipspy.sip import Socket

# State of a contact's row in the database.
CS_NEW: Final = 0
CS_SYNC: Final = 1
CS_DIRTY: Final = 2
STATE_NAMES: Final = ("CS_NEW", "CS_SYNC", "CS_DIRTY")

# Bits of `Contact.flags`.
FL_MEM: Final = 1
"""The contact lives in memory only: no row is written for it."""
FL_PN: Final = 4
"""The contact is woken by push notifications (RFC 8599)."""

# Methods as bits, as the column `methods` and the management commands show them.
METHOD_BITS: Final = {
    "INVITE": 1,
    "CANCEL": 2,
    "ACK": 4,
    "BYE": 8,
    "INFO": 16,
    "OPTIONS": 32,
    "UPDATE": 64,
    "REGISTER": 128,
    "MESSAGE": 256,
    "SUBSCRIBE": 512,
    "NOTIFY": 1024,
    "PRACK": 2048,
    "REFER": 4096,
    "PUBLISH": 8192,
}
METHOD_OTHER: Final = 16384
ALL_METHODS: Final = 32767

MATCH_CONTACT: Final = 0
MATCH_CONTACT_CALLID: Final = 1

INSERT: Final = "insert"
UPDATE: Final = "update"
DELETE: Final = "delete"
EXPIRE: Final = "expire"


@mypyc_attr(acyclic=True)
class Contact:
    """One binding (RFC 3261 §10). Nothing that it holds refers to it, so the collector need not walk 100,000 of them.

    expires: seconds since 1970, 0 for one that never ends. q: thousandths, -1 when not given. received: the URI that
    replies come back from, "" when it is the contact's own. path: the Path values as one header value. socket: where
    the registration arrived. methods: mask of `METHOD_BITS`. refresh_at: when to wake it, 0 for never. latency:
    microseconds of the last ping.
    """

    __slots__ = (
        "attr",
        "callid",
        "cflags",
        "contact_id",
        "cseq",
        "expires",
        "flags",
        "kv",
        "last_modified",
        "latency",
        "methods",
        "path",
        "q",
        "received",
        "refresh_at",
        "shtag",
        "sip_instance",
        "socket",
        "state",
        "uri",
        "user_agent",
    )

    def __init__(
        self,
        uri: str,
        expires: int,
        *,
        contact_id: int = 0,
        received: str = "",
        path: str = "",
        q: int = -1,
        callid: str = "",
        cseq: int = 0,
        flags: int = 0,
        cflags: int = 0,
        user_agent: str = "",
        socket: Socket | None = None,
        methods: int = ALL_METHODS,
        last_modified: int = 0,
        sip_instance: str = "",
        attr: str = "",
        kv: dict[str, str] | None = None,
        shtag: str = "",
        refresh_at: int = 0,
        latency: int = 0,
        state: int = CS_NEW,
    ) -> None:
        self.uri: str = uri
        self.expires: int = expires
        self.contact_id: int = contact_id
        self.received: str = received
        self.path: str = path
        self.q: int = q
        self.callid: str = callid
        self.cseq: int = cseq
        self.flags: int = flags
        self.cflags: int = cflags
        self.user_agent: str = user_agent
        self.socket: Socket | None = socket
        self.methods: int = methods
        self.last_modified: int = last_modified
        self.sip_instance: str = sip_instance
        self.attr: str = attr
        self.kv: dict[str, str] | None = kv
        self.shtag: str = shtag
        self.refresh_at: int = refresh_at
        self.latency: int = latency
        self.state: int = state

    def valid(self, now: float) -> bool:
        """Whether the binding still stands; `now` is wall-clock time."""
        return self.expires == 0 or self.expires > now

    def __repr__(self) -> str:
        return f"<Contact {self.uri} id {self.contact_id} expires {self.expires}>"


@mypyc_attr(acyclic=True)
class Record:
    """An AOR with its contacts, best q first (or newest first with `desc_time_order`)."""

    __slots__ = ("aor", "contacts", "kv")

    def __init__(self, aor: str) -> None:
        self.aor: str = aor
        self.contacts: list[Contact] = []
        self.kv: dict[str, str] | None = None

    def valid(self, now: float) -> list[Contact]:
        """The contacts whose time has not run out."""
        return [c for c in self.contacts if c.expires == 0 or c.expires > now]


@mypyc_attr(acyclic=True)
class Change:
    """What becomes of one AOR in one step: all of it happens or nothing.

    updates: (the contact as it is, what replaces it). memory_only: no row is written.
    """

    __slots__ = ("aor", "deletes", "inserts", "memory_only", "updates")

    def __init__(self, aor: str, *, memory_only: bool = False) -> None:
        self.aor: str = aor
        self.inserts: list[Contact] = []
        self.updates: list[tuple[Contact, Contact]] = []
        self.deletes: list[Contact] = []
        self.memory_only: bool = memory_only

    def __bool__(self) -> bool:
        return bool(self.inserts or self.updates or self.deletes)


def method_bit(method: str) -> int:
    """The bit of a method's name; METHOD_OTHER for one that is not in the table."""
    return METHOD_BITS.get(method, METHOD_OTHER)


def methods_mask(allow: str) -> int:
    """The mask for the value of an Allow header."""
    mask = 0
    for word in allow.split(","):
        name = word.strip()
        if name:
            mask |= METHOD_BITS.get(name.upper(), METHOD_OTHER)
    return mask


def q_text(q: int) -> str:
    """A q value as SIP writes it (RFC 3261 §25.1 qvalue): "0.5" for 500, "" when there is none."""
    if q < 0:
        return ""
    if q >= 1000:
        return "1"
    if q == 0:
        return "0"
    return f"0.{q:03d}".rstrip("0")
