"""Phones that sleep and are woken by push notifications (RFC 8599).

The registrar recognises them by the parameters of their contact (`pn-provider`, `pn-prid`, `pn-param`), tells them what
it supports in Feature-Caps (§4.1, §9), and asks for one to be woken with the event E_UL_CONTACT_REFRESH. The script
sends the notification itself.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from opensipspy.modules.registrar.refusal import Refusal
from opensipspy.modules.registrar.request import Asked
from opensipspy.modules.usrloc.api import FL_PN, Contact
from opensipspy.sip import ParseError, Uri, parse_uri, quote

PURR_BYTES: Final = 12


class Push:
    """What the `pn_*` parameters say. Times are seconds; providers: lower case, empty for any."""

    __slots__ = ("match_params", "pnsreg_interval", "providers", "purr", "skip_interval", "trigger_interval")

    def __init__(
        self,
        providers: str | None,
        match_params: str,
        pnsreg_interval: int,
        trigger_interval: int,
        skip_interval: int,
        purr: bool,
    ) -> None:
        self.providers = words(providers or "")
        self.match_params = words(match_params)
        self.pnsreg_interval = pnsreg_interval
        self.trigger_interval = trigger_interval
        self.skip_interval = skip_interval
        self.purr = purr

    def enabled_for(self, uri: Uri) -> bool:
        """Whether a contact asks to be woken; raises Refusal 555 for a provider that is not supported (§5)."""
        provider = uri.param("pn-provider")
        if provider is None:
            return False
        if provider and self.providers and provider.lower() not in self.providers:
            raise Refusal(555, "Push Notification Service Not Supported", "the provider is not supported")
        return all(uri.param(name) is not None for name in self.match_params)

    def flags(self, asked: Asked) -> tuple[int, int]:
        """(flags of the contact, seconds before its end to wake it)."""
        if asked.uri.scheme not in ("sip", "sips") or not self.enabled_for(asked.uri):
            return 0, 0
        return FL_PN, self.trigger_interval

    def feature_caps(self, uri: Uri, self_refreshing: bool, purr: str) -> str:
        """The Feature-Caps line for the answer to such a contact (§9)."""
        provider = uri.param("pn-provider") or ""
        names = (provider,) if provider else self.providers
        text = "".join(f";+sip.pns={quote(name)}" for name in names)
        if self_refreshing:
            text += f';+sip.pnsreg="{self.pnsreg_interval}"'
        if purr:
            text += f';+sip.pnspurr="{purr}"'
        return f"Feature-Caps: *{text}\r\n"

    def awake(self, contact: Contact, now: float) -> bool:
        """Whether the contact registered so lately that it need not be woken."""
        return self.skip_interval > 0 and now - contact.last_modified < self.skip_interval


def words(text: str) -> tuple[str, ...]:
    return tuple(word.strip().lower() for word in text.split(",") if word.strip())


def strip_params(uri: str, names: tuple[str, ...]) -> str:
    """The URI without the given parameters."""
    try:
        parsed = parse_uri(uri)
    except ParseError:
        return uri
    if not parsed.params:
        return uri
    kept = [p for p in parsed.params.split(";")[1:] if p.partition("=")[0].lower() not in names]
    return uri.replace(parsed.params, "".join(f";{p}" for p in kept), 1)


def purr_of(contact: Contact, secret: str) -> str:
    """The reference that stands for one registration in a dialog's Contact (§6.2.1); it does not tell whose."""
    key = secret.encode("utf-8", "surrogateescape")
    digest = hmac.new(key, contact.contact_id.to_bytes(8, "big"), "sha256").digest()[:PURR_BYTES]
    return hashlib.sha256(digest).hexdigest()[: 2 * PURR_BYTES]
