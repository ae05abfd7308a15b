"""What a REGISTER asks for, and what becomes of the user's contacts (RFC 3261 §10.3 steps 6 and 7)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from opensipspy.modules.registrar.refusal import SERVICE_UNAVAILABLE, Refusal, bad_request
from opensipspy.modules.usrloc.api import (
    ALL_METHODS,
    MATCH_CONTACT_CALLID,
    Change,
    Contact,
    Record,
    methods_mask,
)
from opensipspy.sip import (
    H_ALLOW,
    H_PATH,
    H_SUPPORTED,
    H_USER_AGENT,
    Message,
    NameAddr,
    ParseError,
    Socket,
    Uri,
    parse_uri,
    unescape,
    uri_equal,
)

MAX_CALL_ID: Final = 255
MAX_USER_AGENT: Final = 255
MAX_PATH: Final = 255
MAX_INSTANCE: Final = 255

PATH_IGNORED: Final = -1
PATH_OFF: Final = 0
PATH_LAZY: Final = 1
PATH_STRICT: Final = 2


class SaveFlags:
    """The flag list of `save()`. -1 and None mean that the module's parameter holds."""

    __slots__ = (
        "force",
        "match_param",
        "matching_mode",
        "max_contacts",
        "max_expires",
        "memory_only",
        "min_expires",
        "no_reply",
        "only_request_contacts",
        "path_mode",
        "path_received",
        "socket_header",
    )

    def __init__(self) -> None:
        self.memory_only: bool = False
        self.no_reply: bool = False
        self.socket_header: bool = False
        self.force: bool = False
        self.only_request_contacts: bool = False
        self.path_mode: int = PATH_IGNORED
        self.path_received: bool = False
        self.max_contacts: int = -1
        self.min_expires: int = -1
        self.max_expires: int = -1
        self.matching_mode: int = -1
        self.match_param: str = ""


def parse_save_flags(text: str | None) -> SaveFlags:
    """Raises ValueError with the word that is wrong."""
    flags = SaveFlags()
    for item in (text or "").split(","):
        name, _, value = (part.strip() for part in item.partition("="))
        if not name:
            continue
        if name == "memory-only":
            flags.memory_only = True
        elif name == "no-reply":
            flags.no_reply = True
        elif name == "socket-header":
            flags.socket_header = True
        elif name == "path-strict":
            flags.path_mode = PATH_STRICT
        elif name == "path-lazy":
            flags.path_mode = PATH_LAZY
        elif name == "path-off":
            flags.path_mode = PATH_OFF
        elif name == "path-received":
            flags.path_received = True
        elif name == "force-registration":
            flags.force = True
        elif name == "only-request-contacts":
            flags.only_request_contacts = True
        elif name in ("max-contacts", "min-expires", "max-expires"):
            if not value.isascii() or not value.isdigit():
                raise ValueError(f"{name} takes a number, not {value!r}")
            setattr(flags, name.replace("-", "_"), int(value))
        elif name == "matching-mode":
            if value in ("0", "1"):
                flags.matching_mode = int(value)
            elif value.startswith("<") and value.endswith(">") and len(value) > 2:
                flags.match_param = value[1:-1].lower()
            else:
                raise ValueError(f"matching-mode takes 0, 1 or <name of a URI parameter>, not {value!r}")
        else:
            raise ValueError(f"unknown flag {name!r}")
    return flags


class Settings:
    """What the module's parameters say about expiry, q and limits. Times are seconds."""

    __slots__ = (
        "allow_dup_cseq",
        "cseq_delay",
        "default_expires",
        "default_q",
        "deviation",
        "matching_mode",
        "max_contact_len",
        "max_contacts",
        "max_expires",
        "min_expires",
        "pn_params",
        "retry_after",
    )

    def __init__(self) -> None:
        self.allow_dup_cseq: bool = True
        self.cseq_delay: int = 20
        self.default_expires: int = 3600
        self.default_q: int = -1
        self.deviation: int = 0
        self.matching_mode: int = 0
        self.max_contact_len: int = 255
        self.max_contacts: int = 0
        self.max_expires: int = 0
        self.min_expires: int = 60
        self.retry_after: int = 0
        self.pn_params: tuple[str, ...] = ()

    def unavailable(self, detail: str) -> Refusal:
        retry = f"Retry-After: {self.retry_after}\r\n" if self.retry_after > 0 else ""
        return Refusal(*SERVICE_UNAVAILABLE, detail, retry)


class Asked:
    """One Contact of the request. expires_s: what remains after the limits, 0 removes; -1 for one that never ends."""

    __slots__ = ("expires_s", "name_addr", "q", "uri")

    def __init__(self, name_addr: NameAddr, uri: Uri, expires_s: int, q: int) -> None:
        self.name_addr: NameAddr = name_addr
        self.uri: Uri = uri
        self.expires_s: int = expires_s
        self.q: int = q


class Registration:
    """A REGISTER request as far as it has been understood. star: `Contact: *` with `Expires: 0`."""

    __slots__ = (
        "aor",
        "asked",
        "attr",
        "callid",
        "cflags",
        "cseq",
        "kept",
        "methods",
        "path",
        "received",
        "retransmission",
        "shtag",
        "socket",
        "star",
        "supported",
        "user_agent",
    )

    def __init__(self, aor: str) -> None:
        self.aor: str = aor
        self.asked: list[Asked] = []
        self.star: bool = False
        self.callid: str = ""
        self.cseq: int = 0
        self.path: str = ""
        self.received: str = ""
        self.user_agent: str = ""
        self.methods: int = ALL_METHODS
        self.socket: Socket | None = None
        self.cflags: int = 0
        self.attr: str = ""
        self.shtag: str = ""
        self.supported: frozenset[str] = frozenset()
        self.kept: list[Contact] = []
        self.retransmission: bool = False


def option_tags(message: Message, kind: int) -> frozenset[str]:
    """The option tags of all headers of a kind (Supported, Require), lower case."""
    return frozenset(
        word.strip().lower() for header in message.all(kind) for word in header.value.split(",") if word.strip()
    )


def read_request(
    message: Message, aor: str, flags: SaveFlags, settings: Settings, random: Random, expires_of: int = -1
) -> Registration:
    """Understand a REGISTER; raises Refusal.

    expires_of: seconds that a main registrar granted, instead of what the request asked for; -1 when there is none.
    """
    found = Registration(aor)
    try:
        contacts, found.star = message.contacts, message.contact_star
        found.callid, found.cseq = message.call_id, message.cseq_number
        header_expires = message.expires
        if flags.path_mode != PATH_IGNORED:
            found.path = ", ".join(header.value for header in message.all(H_PATH))
    except ParseError as error:
        raise bad_request(f"the request cannot be understood: {error.reason}") from error
    if len(found.callid) > MAX_CALL_ID:
        raise bad_request("the Call-ID is too long")
    if len(found.path) > MAX_PATH:
        raise bad_request("the Path is too long")
    if found.star:
        # RFC 3261 §10.3 step 6: the star stands alone, and only to remove everything.
        if header_expires != 0:
            raise bad_request("a star in Contact needs Expires: 0")
        if contacts:
            raise bad_request("a star in Contact stands alone")
    user_agent = message.first(H_USER_AGENT)
    found.user_agent = user_agent.value[:MAX_USER_AGENT] if user_agent is not None else ""
    allow = message.all(H_ALLOW)
    if allow:
        found.methods = methods_mask(",".join(header.value for header in allow))
    found.supported = option_tags(message, H_SUPPORTED)
    if found.path and flags.path_mode == PATH_STRICT and "path" not in found.supported:
        # RFC 3327 §5.3: the phone has to know that its requests will take this way.
        raise Refusal(420, "Bad Extension", "no support for path indicated", "Unsupported: path\r\n")
    for contact in contacts:
        found.asked.append(_asked(contact, header_expires, flags, settings, random, expires_of))
    return found


def _asked(
    contact: NameAddr, header_expires: int, flags: SaveFlags, settings: Settings, random: Random, expires_of: int
) -> Asked:
    if len(contact.uri) > settings.max_contact_len:
        raise bad_request("a Contact is too long")
    try:
        uri = parse_uri(contact.uri)
        own = contact.expires
        q_text = contact.param("q")
        q = contact.q
    except ParseError as error:
        raise bad_request(f"a Contact cannot be understood: {error.reason}") from error
    if uri.scheme in ("sip", "sips") and not uri.host:
        raise bad_request("a Contact without a host")
    if q_text is not None and q < 0:
        raise bad_request("a q value that is none")
    if expires_of >= 0:
        expires = expires_of
    elif own >= 0:
        expires = own
    elif header_expires >= 0:
        expires = header_expires
    else:
        expires = settings.default_expires
    if expires > 0:
        expires = _limit(expires, flags, settings, random)
    return Asked(contact, uri, expires, q if q_text is not None else settings.default_q)


def _limit(expires: int, flags: SaveFlags, settings: Settings, random: Random) -> int:
    if settings.deviation > 0:
        expires = max(1, expires + random.randint(-settings.deviation, settings.deviation))
    low = flags.min_expires if flags.min_expires >= 0 else settings.min_expires
    high = flags.max_expires if flags.max_expires >= 0 else settings.max_expires
    if low > 0:
        expires = max(expires, low)
    if high > 0:
        expires = min(expires, high)
    return expires


def plan(
    asked: Registration,
    record: Record | None,
    flags: SaveFlags,
    settings: Settings,
    now: int,
    new_id: Callable[[], int],
    pn_flags: Callable[[Asked], tuple[int, int]] | None = None,
) -> Change:
    """What has to change so that the user's contacts are as asked; raises Refusal, and then nothing changes.

    Fills `asked.kept` with the contacts that stand after it, in the order of the record, for the answer.
    pn_flags: for a contact, (its flags, seconds before its end to wake it), with push notifications.
    """
    change = Change(asked.aor, memory_only=flags.memory_only)
    standing = record.valid(now) if record is not None else []
    if asked.star:
        for contact in standing:
            # A binding of another Call-ID goes whatever its CSeq (step 6).
            if contact.callid == asked.callid and asked.cseq <= contact.cseq:
                _check_order(asked, contact, settings, now)
        change.deletes = standing
        return change
    known = Standing(standing, asked.callid, flags, settings)
    for one in asked.asked:
        old = known.match(one, standing)
        outdated = old is not None and old.callid == asked.callid and asked.cseq <= old.cseq
        if old is not None and outdated and _check_order(asked, old, settings, now):
            asked.retransmission = True
            continue
        if one.expires_s == 0:
            if old is not None and old not in change.deletes:
                change.deletes.append(old)
            continue
        made = _contact(asked, one, now, flags, pn_flags)
        if old is None:
            again = _listed_twice(change.inserts, one)
            if again is not None:
                change.inserts.remove(again)
            change.inserts.append(made)
        else:
            made.contact_id = old.contact_id
            made.kv = old.kv
            made.latency = old.latency
            change.updates = [pair for pair in change.updates if pair[0] is not old]
            change.updates.append((old, made))
    if asked.retransmission and not change:
        asked.kept = standing
        return change
    _check_count(change, standing, flags, settings)
    for contact in change.inserts:
        contact.contact_id = new_id()
    asked.kept = _after(change, standing)
    if record is not None and len(standing) < len(record.contacts):
        # What has run out goes now, before the timer: it may be the same phone as a new contact.
        change.deletes += [contact for contact in record.contacts if not contact.valid(now)]
    return change


def _listed_twice(inserts: Sequence[Contact], one: Asked) -> Contact | None:
    for made in inserts:
        if made.uri == one.name_addr.uri:
            return made
    return None


def _after(change: Change, standing: Sequence[Contact]) -> list[Contact]:
    replaced = {id(old): new for old, new in change.updates}
    gone = {id(contact) for contact in change.deletes}
    kept = [replaced.get(id(c), c) for c in standing if id(c) not in gone]
    kept += change.inserts
    return sorted(kept, key=lambda c: -c.q)


def _check_order(asked: Registration, old: Contact, settings: Settings, now: int) -> bool:
    """The request is no newer than the binding (RFC 3261 §10.3 step 7): True for a retransmission, else Refusal.

    False when the parameters let a repeated CSeq through as a new registration.
    """
    if asked.cseq == old.cseq:
        if settings.cseq_delay > 0 and now - old.last_modified <= settings.cseq_delay:
            return True
        if settings.allow_dup_cseq:
            return False
    raise bad_request("Invalid CSeq number")


class Standing:
    """The bindings that a user has, to be asked which of them a Contact speaks of (RFC 3261 §10.3 step 7, §19.1.4).

    URIs are taken apart only when the same text is not found, and each once: a request may name many contacts.
    """

    __slots__ = ("_by_address", "_by_text", "_contacts", "_flags", "_settings")

    def __init__(self, contacts: Sequence[Contact], callid: str, flags: SaveFlags, settings: Settings) -> None:
        mode = flags.matching_mode if flags.matching_mode >= 0 else settings.matching_mode
        if mode == MATCH_CONTACT_CALLID:
            self._contacts = [contact for contact in contacts if contact.callid == callid]
        else:
            self._contacts = list(contacts)
        self._flags = flags
        self._settings = settings
        self._by_text: dict[str, Contact] = {contact.uri: contact for contact in self._contacts}
        self._by_address: dict[tuple[str, str], list[Contact]] | None = None

    def match(self, one: Asked, contacts: Sequence[Contact]) -> Contact | None:
        """The existing binding of `one`; contacts: all of the user's, for matching by parameters."""
        if self._flags.match_param:
            return _match_params(contacts, one, (self._flags.match_param,))
        if self._settings.pn_params:
            found = _match_params(contacts, one, self._settings.pn_params)
            if found is not None:
                return found
        same = self._by_text.get(one.name_addr.uri)
        if same is not None or not self._contacts:
            return same
        for contact in self._addresses().get(_address(one.uri), ()):
            if uri_equal(contact.uri, one.uri):
                return contact
        return None

    def _addresses(self) -> dict[tuple[str, str], list[Contact]]:
        """Contacts by user and host: only those of the same can be equal."""
        found = self._by_address
        if found is None:
            found = self._by_address = {}
            for contact in self._contacts:
                try:
                    address = _address(parse_uri(contact.uri))
                except ParseError:
                    continue  # a contact that another program wrote need not be a URI
                found.setdefault(address, []).append(contact)
        return found


def _address(uri: Uri) -> tuple[str, str]:
    # A host in IPv6 can be written in several ways: uri_equal decides.
    return unescape(uri.user), "" if uri.is_v6 else uri.host.lower()


def _match_params(contacts: Sequence[Contact], one: Asked, names: Sequence[str]) -> Contact | None:
    wanted = [one.uri.param(name) for name in names]
    if None in wanted:
        return None
    for contact in contacts:
        try:
            uri = parse_uri(contact.uri)
        except ParseError:
            continue
        if [uri.param(name) for name in names] == wanted:
            return contact
    return None


def _contact(
    asked: Registration,
    one: Asked,
    now: int,
    flags: SaveFlags,
    pn_flags: Callable[[Asked], tuple[int, int]] | None,
) -> Contact:
    instance = one.name_addr.param("+sip.instance") or ""
    bits, wake_before = pn_flags(one) if pn_flags is not None else (0, 0)
    expires = now + one.expires_s
    return Contact(
        one.name_addr.uri,
        expires,
        q=one.q,
        callid=asked.callid,
        cseq=asked.cseq,
        flags=bits,
        cflags=asked.cflags,
        received=asked.received,
        path=asked.path,
        user_agent=asked.user_agent,
        socket=asked.socket,
        methods=asked.methods,
        last_modified=now,
        sip_instance=instance[:MAX_INSTANCE],
        attr=asked.attr,
        shtag=asked.shtag,
        refresh_at=max(now, expires - wake_before) if wake_before else 0,
    )


def _check_count(change: Change, standing: Sequence[Contact], flags: SaveFlags, settings: Settings) -> None:
    most = flags.max_contacts if flags.max_contacts >= 0 else settings.max_contacts
    if most <= 0:
        return
    too_many = len(standing) - len(change.deletes) + len(change.inserts) - most
    if too_many <= 0 or not change.inserts:
        return
    if not flags.force or len(change.inserts) > most:
        raise settings.unavailable("too many registered contacts")
    updated = {id(old) for old, _ in change.updates} | {id(c) for c in change.deletes}
    oldest = sorted((c for c in standing if id(c) not in updated), key=lambda c: c.last_modified)
    if len(oldest) < too_many:
        raise settings.unavailable("too many registered contacts")
    change.deletes += oldest[:too_many]
