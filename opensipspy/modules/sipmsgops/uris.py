"""Functions on the Request-URI and on URIs in general."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opensipspy.module import script_function
from opensipspy.script.kinds import BRANCH, FAILURE, LOCAL, REQUEST
from opensipspy.script.run import Run
from opensipspy.sip import ParseError, Uri, parse_uri

if TYPE_CHECKING:
    from opensipspy.module import Core

RURI: Final = REQUEST | FAILURE | BRANCH | LOCAL
UNSAFE: Final = frozenset('<>"\r\n \t?;')
E164_DIGITS: Final = 15


def is_e164(user: str) -> bool:
    """A plus and 2 to 15 digits (ITU-T E.164)."""
    digits = user[1:]
    return user.startswith("+") and 2 <= len(digits) <= E164_DIGITS and digits.isascii() and digits.isdigit()


def with_params(uri: Uri, params: str) -> str:
    """The text of a URI with other parameters (raw, with their leading `;`)."""
    headers = f"?{uri.headers}" if uri.headers else ""
    base = uri.text[: len(uri.text) - len(headers) - len(uri.params)]
    return f"{base}{params}{headers}"


class UriFunctions:
    """The part of sipmsgops that works on URIs."""

    core: Core

    @script_function(routes=RURI)
    def ruri_has_param(self, run: Run, param: str, value: str | None = None) -> int:
        """Tell whether the Request-URI has the parameter: with that value, or without any when none is given."""
        uri = self._ruri(run)
        found = uri.param(param.lower()) if uri is not None else None
        return 1 if found is not None and found.lower() == (value or "").lower() else -1

    @script_function(routes=RURI)
    def ruri_add_param(self, run: Run, param: str) -> int:
        """Add "name=value" to the parameters of the Request-URI."""
        uri = self._ruri(run)
        param = param.removeprefix(";")
        if uri is None or not param or not UNSAFE.isdisjoint(param):
            return -1
        run.ruri = with_params(uri, f"{uri.params};{param}")
        return 1

    @script_function(routes=RURI)
    def ruri_del_param(self, run: Run, param: str) -> int:
        """Take a parameter off the Request-URI. Returns -1 when it is not there."""
        uri = self._ruri(run)
        wanted = param.lower()
        if uri is None or uri.param(wanted) is None:
            return -1
        kept = [p for p in uri.params.split(";")[1:] if p.partition("=")[0].lower() != wanted]
        run.ruri = with_params(uri, "".join(f";{p}" for p in kept))
        return 1

    @script_function(routes=RURI)
    def ruri_tel2sip(self, run: Run) -> int:
        """Turn a tel: Request-URI into a sip: URI at the domain of From (RFC 3261 §19.1.6); others stay as they are."""
        if run.ruri[:4].lower() != "tel:":
            return 1
        try:
            uri = parse_uri(run.ruri)
            domain = parse_uri(run.msg.from_.uri).host_text
        except ParseError:
            return -1
        if not domain:
            return -1
        run.ruri = f"sip:{uri.user}{uri.params}@{domain};user=phone"
        return 1

    @script_function(routes=REQUEST | FAILURE | LOCAL)
    def is_uri_user_e164(self, run: Run, uri: str) -> int:
        """Tell whether the user part of a URI is an E.164 number: a plus and 2 to 15 digits."""
        try:
            return 1 if is_e164(parse_uri(uri).user) else -1
        except ParseError:
            return -1

    @staticmethod
    def _ruri(run: Run) -> Uri | None:
        try:
            return parse_uri(run.ruri)
        except ParseError:
            return None
