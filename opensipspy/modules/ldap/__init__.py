"""Searches in LDAP directories from the script, and their results as AVPs.

Sessions are described in an INI file, `config_file`. A search in a plain line makes this message wait and no other, as
in `async()`. A result belongs to the message whose script searched, and stays until its next search. What comes from a
message has to be escaped before it stands in a filter: `ldap_filter_url_encode()`, which also escapes `%` and NUL.
At most 1,000 entries of a search are taken, and 32 MB.

A directory that does not answer is tried again with growing pauses; meanwhile every search fails at once. The status
report of the group `ldap` shows for each session whether its directory is available.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

from opensipspy.module import Fixup, Module, Param, StartError, WritableVar, script_function
from opensipspy.modules.ldap.api import FAILED, FOUND_NOTHING
from opensipspy.modules.ldap.session import Entry, LdapError, Session, read_settings
from opensipspy.modules.ldap.url import escape_filter, escape_filter_url, parse_ldap_url
from opensipspy.script.kinds import ALL, ERROR
from opensipspy.script.patterns import PatternCache
from opensipspy.script.run import Run, VarRef
from opensipspy.script.transformations import Substitution

ROUTES: Final = ALL & ~ERROR
STATUS_GROUP: Final = "ldap"
"""Of status reports: a session each."""
AVAILABLE: Final = 1
AWAY: Final = -1
RESULT: Final = "ldap"
"""Key in `run.ctx`: the result of the last search."""

Subst = Annotated[Substitution | None, Fixup("substitution", "string")]


class Result:
    """What a search found, and which entry is looked at."""

    __slots__ = ("at", "entries")

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries
        self.at = 0


class Ldap(Module):
    """Search LDAP directories."""

    name = "ldap"

    config_file = Param(str, "/usr/local/etc/opensips/ldap.cfg", "The file that describes the sessions.")
    max_async_connections = Param(int, 30, "Connections of each session.")

    def __init__(self, **params: Any) -> None:
        self._sessions: dict[str, Session] = {}
        self._patterns = PatternCache()
        super().__init__(**params)

    async def start(self) -> None:
        try:
            settings = read_settings(Path(self.config_file))
        except ValueError as error:
            raise StartError(f"config_file {error}") from error
        await asyncio.to_thread(importlib.import_module, "ldap3")
        for name, each in settings.items():
            self.core.status.add(STATUS_GROUP, name, AVAILABLE, "not asked yet")
            self._sessions[name] = Session(each, self.max_async_connections, self._changed)

    def _changed(self, session: str, available: bool, reason: str) -> None:
        text = "available" if available else f"lost: {reason}"
        self.core.status.set_status(STATUS_GROUP, AVAILABLE if available else AWAY, text, session)
        self.core.status.report(STATUS_GROUP, text, session)

    async def stop(self) -> None:
        for session in self._sessions.values():
            await session.close()

    def substitution(self, text: str | None) -> Substitution | None:
        """Fixup of regex_subst. Raises ValueError."""
        return Substitution(text, self._patterns) if text else None

    # --- for other modules

    def has_session(self, name: str) -> bool:
        return name in self._sessions

    async def search(
        self, run: Run, session: str, dn: str, scope: str, filter_text: str, attributes: Sequence[str] = ()
    ) -> int:
        run.ctx.pop(RESULT, None)
        asked = self._sessions.get(session)
        if asked is None:
            self.core.log.error("ldap: config_file has no session %s", session)
            return FAILED
        try:
            entries = await asked.search(dn, scope, filter_text, attributes)
        except LdapError as error:
            if not error.away:
                self.core.log.error("ldap: %s: %s", session, error)
            return FAILED
        run.ctx[RESULT] = Result(entries)
        return len(entries) or FOUND_NOTHING

    def values(self, run: Run, attribute: str) -> list[str] | None:
        result = run.ctx.get(RESULT)
        if not isinstance(result, Result) or result.at >= len(result.entries):
            return None
        return result.entries[result.at].get(attribute.lower(), [])

    def escape(self, text: str) -> str:
        return escape_filter(text)

    # --- for scripts

    @script_function(routes=ROUTES, async_ok=True)
    async def ldap_search(self, run: Run, ldap_url: str) -> int:
        """Search by an LDAP URL whose host is the name of a session: ldap://session/dn?attributes?scope?filter.

        Returns the number of entries, -1 when there is none, -2 when the directory cannot be asked or the URL is wrong.
        """
        try:
            url = parse_ldap_url(ldap_url)
        except ValueError as error:
            run.ctx.pop(RESULT, None)
            self.core.log.error("ldap_search: %s", error)
            return FAILED
        return await self.search(run, url.session, url.dn, url.scope, url.filter, url.attributes)

    @script_function(routes=ROUTES)
    def ldap_result(
        self,
        run: Run,
        ldap_attr_name: str,
        avp_spec: Annotated[VarRef, WritableVar()],
        avp_type: str | None = None,
        regex_subst: Subst = None,
    ) -> int:
        """Write the values of an attribute into an AVP, one after the other.

        avp_type: "str" or "int"; with "int" only values that are whole numbers are written. regex_subst: values that it
        does not match are left out. Returns how many were written, -1 when there are none, -2 without a search.
        """
        values = self.values(run, ldap_attr_name)
        if values is None or avp_type not in (None, "", "str", "int"):
            return FAILED
        written = 0
        for value in values:
            text: str | None = value
            if regex_subst is not None:
                text = self._substituted(run, regex_subst, value)
            if text is None:
                continue
            if avp_type == "int":
                digits = text.strip()
                if not digits.removeprefix("-").removeprefix("+").isdecimal() or not digits.isascii():
                    continue
                avp_spec.set(run, int(digits))
            else:
                avp_spec.set(run, text)
            written += 1
        return written or FOUND_NOTHING

    @script_function(routes=ROUTES)
    def ldap_result_check(self, run: Run, ldap_attr_name: str, string_to_match: str, regex_subst: Subst = None) -> int:
        """Whether a value of an attribute, after regex_subst, is string_to_match.

        Returns 1, -1 when none is, -2 without a search.
        """
        values = self.values(run, ldap_attr_name)
        if values is None:
            return FAILED
        for value in values:
            text = value if regex_subst is None else self._substituted(run, regex_subst, value)
            if text == string_to_match:
                return 1
        return FOUND_NOTHING

    @script_function(routes=ROUTES)
    def ldap_result_next(self, run: Run) -> int:
        """Go on to the next entry. Returns 1, -1 when there is none, -2 without a search."""
        result = run.ctx.get(RESULT)
        if not isinstance(result, Result):
            return FAILED
        if result.at + 1 >= len(result.entries):
            return FOUND_NOTHING
        result.at += 1
        return 1

    @script_function(routes=ROUTES)
    def ldap_filter_url_encode(self, run: Run, string: str, avp_spec: Annotated[VarRef, WritableVar()]) -> int:
        """Escape a text for the filter of an LDAP URL (RFC 4515, RFC 4516). Returns 1."""
        avp_spec.set(run, escape_filter_url(string))
        return 1

    def _substituted(self, run: Run, subst: Substitution, value: str) -> str | None:
        """The value after a substitution; None when it does not match or takes too long."""
        try:
            found = subst.replace(value)
        except (ValueError, TimeoutError):
            self.core.log.error("ldap: a regular expression takes too long")
            return None
        return found
