"""From a URI to an address of record, the key under which contacts are kept (RFC 3261 §10.3 step 5)."""

from __future__ import annotations

from opensipspy.modules.registrar.refusal import Refusal, bad_request
from opensipspy.sip import ParseError, Uri, parse_uri, unescape


class AorRules:
    """How a URI becomes an AOR: with or without its domain, letters' case, realm prefix and lengths."""

    __slots__ = ("case_sensitive", "max_aor", "max_domain", "max_user", "realm_prefix", "use_domain")

    def __init__(
        self,
        use_domain: bool = True,
        case_sensitive: bool = True,
        realm_prefix: str = "",
        max_user: int = 64,
        max_domain: int = 64,
        max_aor: int = 256,
    ) -> None:
        self.use_domain = use_domain
        self.case_sensitive = case_sensitive
        self.realm_prefix = realm_prefix.lower()
        self.max_user = max_user
        self.max_domain = max_domain
        self.max_aor = max_aor

    def aor(self, uri: str) -> str:
        """The AOR of a URI's text; raises Refusal (400 for no usable URI, 500 for one that is too long)."""
        try:
            return self.of(parse_uri(uri))
        except ParseError as error:
            raise bad_request(f"no usable address of record: {error.reason}") from error

    def of(self, uri: Uri) -> str:
        """As `aor`, for a parsed URI. Escapes in the user part are undone; the domain is lower case."""
        user = unescape(uri.user)
        if "\r" in user or "\n" in user or "\0" in user:
            raise bad_request("the user part holds control characters")
        domain = uri.host_text.lower()
        if self.realm_prefix and domain.startswith(self.realm_prefix) and len(domain) > len(self.realm_prefix):
            domain = domain[len(self.realm_prefix) :]
        if len(user) > self.max_user or len(domain) > self.max_domain:
            raise Refusal(500, "Server Internal Error", "the address of record is too long")
        if not user and not self.use_domain:
            raise bad_request("the address of record has no user part")
        aor = f"{user}@{domain}" if self.use_domain else user
        if len(aor) > self.max_aor:
            raise Refusal(500, "Server Internal Error", "the address of record is too long")
        return aor if self.case_sensitive else aor.lower()
