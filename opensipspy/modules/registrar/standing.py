"""Which of a user's bindings a Contact speaks of (RFC 3261 §10.3 step 7, §19.1.4)."""

from __future__ import annotations

from collections.abc import Sequence

from opensipspy.modules.registrar.request import Asked, SaveFlags, Settings
from opensipspy.modules.usrloc.api import MATCH_CONTACT_CALLID, Contact
from opensipspy.sip import ParseError, Uri, parse_uri, unescape, uri_equal


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
