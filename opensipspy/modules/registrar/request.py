"""What a REGISTER asks for, understood and held against the limits (RFC 3261 §10.3 step 6)."""

from __future__ import annotations

from random import Random
from typing import Final

from mypy_extensions import mypyc_attr

from opensipspy.modules.registrar.old_flags import SAVE, unknown_flag
from opensipspy.modules.registrar.refusal import SERVICE_UNAVAILABLE, Refusal, bad_request
from opensipspy.modules.usrloc.api import ALL_METHODS, Contact, methods_mask
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
)

MAX_CALL_ID: Final = 255
MAX_USER_AGENT: Final = 255
MAX_PATH: Final = 255

PATH_IGNORED: Final = -1
PATH_OFF: Final = 0
PATH_LAZY: Final = 1
PATH_STRICT: Final = 2
NO_TAGS: Final[frozenset[str]] = frozenset()


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
            raise unknown_flag(name, SAVE)
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


@mypyc_attr(acyclic=True)
class Asked:
    """One Contact of the request. expires_s: what remains after the limits, 0 removes; -1 for one that never ends."""

    __slots__ = ("expires_s", "name_addr", "q", "uri")

    def __init__(self, name_addr: NameAddr, uri: Uri, expires_s: int, q: int) -> None:
        self.name_addr: NameAddr = name_addr
        self.uri: Uri = uri
        self.expires_s: int = expires_s
        self.q: int = q


@mypyc_attr(acyclic=True)
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
        self.supported: frozenset[str] = NO_TAGS
        self.kept: list[Contact] = []
        self.retransmission: bool = False


def option_tags(message: Message, kind: int) -> frozenset[str]:
    """The option tags of all headers of a kind (Supported, Require), lower case."""
    tags: set[str] = set()
    for header in message.all(kind):
        for word in header.value.split(","):
            tags.add(word.strip().lower())
    tags.discard("")
    return frozenset(tags) if tags else NO_TAGS


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
            found.path = ", ".join([header.value for header in message.all(H_PATH)])
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
        found.methods = methods_mask(",".join([header.value for header in allow]))
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
        uri = contact.parsed_uri()
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
