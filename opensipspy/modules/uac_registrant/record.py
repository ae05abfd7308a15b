"""One registration at a registrar elsewhere: what it is about, and how it stands (RFC 3261 §10.2)."""

from __future__ import annotations

import zlib
from typing import Final

from opensipspy.sip import Message, NameAddr, ParseError, Socket, Uri, parse_name_addr, parse_uri, uri_equal

NOT_REGISTERED: Final = 0
REGISTERING: Final = 1
AUTHENTICATING: Final = 2
REGISTERED: Final = 3
REGISTER_TIMEOUT: Final = 4
INTERNAL_ERROR: Final = 5
WRONG_CREDENTIALS: Final = 6
REGISTRAR_ERROR: Final = 7
UNREGISTERING: Final = 8
AUTHENTICATING_UNREGISTER: Final = 9

STATE_NAMES: Final = (
    "NOT_REGISTERED_STATE",
    "REGISTERING_STATE",
    "AUTHENTICATING_STATE",
    "REGISTERED_STATE",
    "REGISTER_TIMEOUT_STATE",
    "INTERNAL_ERROR_STATE",
    "WRONG_CREDENTIALS_STATE",
    "REGISTRAR_ERROR_STATE",
    "UNREGISTERING_STATE",
    "AUTHENTICATING_UNREGISTER_STATE",
)
WAITING: Final = frozenset((REGISTERING, AUTHENTICATING, UNREGISTERING, AUTHENTICATING_UNREGISTER))
"""A reply is on its way, or never comes."""
FAILED: Final = frozenset((REGISTER_TIMEOUT, INTERNAL_ERROR, WRONG_CREDENTIALS, REGISTRAR_ERROR))

LONGEST_EXPIRES_S: Final = 2**31 - 1
LEAST_MIN_EXPIRES_S: Final = 5
"""A registrar that asks for less has another reason to refuse."""

Key = tuple[str, str, str]
"""Address of record, contact, registrar."""


class Details:
    """What an operator says of a registration; nothing in it can break out of a header. Raises ValueError.

    params: of the contact, each with its leading ";". expires_s: the time that is asked for. tag: a sharing tag and its
    cluster; only where that is active is it registered.
    """

    __slots__ = (
        "aor",
        "contact",
        "enabled",
        "expires_s",
        "params",
        "password",
        "proxy",
        "registrar",
        "socket",
        "tag",
        "third_party",
        "user",
    )

    def __init__(
        self,
        aor: str,
        contact: str,
        registrar: str,
        *,
        proxy: str = "",
        third_party: str = "",
        user: str = "",
        password: str = "",
        params: str = "",
        expires_s: int = 3600,
        socket: Socket | None = None,
        enabled: bool = True,
        tag: tuple[str, int] | None = None,
    ) -> None:
        for name, uri in (("AOR", aor), ("contact", contact), ("registrar", registrar)):
            check_uri(name, uri)
        for name, uri in (("proxy", proxy), ("third party registrant", third_party)):
            if uri:
                check_uri(name, uri)
        if params and (not params.startswith(";") or parsed_contact(contact, params) is None):
            raise ValueError("the binding parameters are not of the form ;name=value")
        if not 0 < expires_s <= LONGEST_EXPIRES_S:
            raise ValueError(f"{expires_s} s is no time to be registered for")
        self.aor = aor
        self.contact = contact
        self.registrar = registrar
        self.proxy = proxy
        self.third_party = third_party
        self.user = user
        self.password = password
        self.params = params
        self.expires_s = expires_s
        self.socket = socket
        self.enabled = enabled
        self.tag = tag

    def __repr__(self) -> str:
        return f"Details({self.aor!r}, {self.contact!r}, {self.registrar!r})"

    @property
    def key(self) -> Key:
        return self.aor, self.contact, self.registrar

    @property
    def single(self) -> bool:
        """Whether the binding is to be the only one of its address: it names an instance (RFC 5626 §4.2)."""
        found = parsed_contact(self.contact, self.params)
        return found is not None and found.param("reg-id") is not None and found.param("+sip.instance") is not None


def check_uri(name: str, text: str) -> Uri:
    """A SIP URI that can stand between < and >; raises ValueError."""
    try:
        uri = parse_uri(text)
    except ParseError as error:
        raise ValueError(f"the {name} is no URI: {error.reason}") from error
    if uri.scheme not in ("sip", "sips") or any(char in '<>"\r\n\t ' for char in text):
        raise ValueError(f"the {name} is no SIP URI")
    return uri


def parsed_contact(uri: str, params: str) -> NameAddr | None:
    """A contact with its parameters; None when they cannot be read."""
    if "\r" in params or "\n" in params:
        return None
    try:
        found = parse_name_addr(f"<{uri}>{params}")
        found.param_list()
    except ParseError:
        return None
    return found


class Registrant:
    """A registration and its state. due_at: on the wall clock, when it is to be renewed or tried again; 0 for now.

    call_id, cseq: one Call-ID for all requests to a registrar, rising numbers (RFC 3261 §10.2). from_tag: one for all,
    too: what answers a challenge has the From of the request that was challenged (§8.1.3.5). leaving: what failed
    was to take the binding away. gone: the record was deleted while a reply was awaited.
    """

    __slots__ = (
        "bucket",
        "busy",
        "call_id",
        "cseq",
        "details",
        "due_at",
        "expires_s",
        "from_tag",
        "gone",
        "last_sent_at",
        "leaving",
        "peer",
        "state",
        "wanted_s",
    )

    def __init__(self, details: Details, buckets: int, call_id: str, from_tag: str) -> None:
        self.details = details
        self.bucket = zlib.crc32(details.aor.encode("utf-8", "surrogateescape")) % buckets
        self.state = NOT_REGISTERED
        self.call_id = call_id
        self.from_tag = from_tag
        self.cseq = 0
        self.expires_s = details.expires_s
        self.wanted_s = details.expires_s
        self.due_at = 0.0
        self.last_sent_at = 0.0
        self.peer = ""
        self.busy = False
        self.leaving = False
        self.gone = False

    @property
    def identifier(self) -> str:
        """Its name among the status reports."""
        aor, contact, registrar = self.details.key
        return f"aor={aor};contact={contact};registrar={registrar}"

    def contact_line(self, expires_s: int) -> str:
        return f"Contact: <{self.details.contact}>{self.details.params};expires={expires_s}\r\n"

    def granted_s(self, reply: Message) -> int:
        """For how long the registrar keeps the binding (RFC 3261 §10.2.4); what was asked for when it does not say.

        Raises ParseError.
        """
        own = parse_uri(self.details.contact)
        for contact in reply.contacts:
            if contact.expires > 0 and uri_equal(parse_uri(contact.uri), own):
                return min(contact.expires, LONGEST_EXPIRES_S)
        return reply.expires if reply.expires > 0 else self.wanted_s
