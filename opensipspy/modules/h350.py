"""SIP accounts in a directory with H.350 objects (ITU-T H.350, H.350.4, H.350.6), found through the module `ldap`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from opensipspy.module import Module, Param, StartError, WritableVar, script_function
from opensipspy.modules.ldap.api import SCOPES, LdapApi
from opensipspy.script.kinds import BRANCH, FAILURE, LOCAL, ONREPLY, REQUEST
from opensipspy.script.run import Run, VarRef

ROUTES: Final = REQUEST | FAILURE | ONREPLY | BRANCH | LOCAL
FAILED: Final = -1
FOUND_NOTHING: Final = -2
# The functions of ldap use these numbers the other way round.
OF_LDAP: Final = {-1: FOUND_NOTHING, -2: FAILED}

# target-URI type[:argument] (H.350.6): busy, no answer, unconditionally, not found.
PREFERENCE: Final = re.compile(r"\s*(\S+)\s+([A-Za-z]{1,32})(?::(\d{1,9}))?\s*")
MOST_VALUES: Final = 1000


class H350(Module):
    """Look up accounts, call forwarding and service levels in an H.350 directory."""

    name = "h350"
    requires = ("ldap",)

    ldap_session = Param(str, "", "The session of the module ldap that holds the H.350 objects.")
    base_dn = Param(str, "", "Where searches begin.")
    search_scope = Param(str, "one", '"one", "base" or "sub".')

    ldap: LdapApi

    async def start(self) -> None:
        self.ldap = self.core.api("ldap", LdapApi)  # type: ignore[type-abstract]
        if self.search_scope not in SCOPES:
            raise StartError(f"search_scope is one, base or sub, not {self.search_scope}")
        if not self.ldap.has_session(self.ldap_session):
            raise StartError(f"ldap_session: the configuration file of ldap has no session {self.ldap_session!r}")

    async def _find(self, run: Run, attribute: str, value: str | None) -> int:
        if value is None:
            self.core.log.error("h350: what %s should be is NULL", attribute)
            return FAILED
        filter_text = f"(&(objectClass=SIPIdentity)({attribute}={self.ldap.escape(value)}))"
        found = await self.ldap.search(run, self.ldap_session, self.base_dn, self.search_scope, filter_text)
        return OF_LDAP.get(found, found)

    @script_function(routes=ROUTES)
    async def h350_sipuri_lookup(self, run: Run, sip_uri: str | None) -> int:
        """Find the object whose SIPIdentitySIPURI is sip_uri.

        Returns how many there are, -2 for none, -1 when the directory cannot be asked, or sip_uri is NULL.
        ldap_result() and the other functions of this module read what was found.
        """
        return await self._find(run, "SIPIdentitySIPURI", sip_uri)

    @script_function(routes=ROUTES)
    async def h350_auth_lookup(
        self,
        run: Run,
        auth_username: str | None,
        username_avp: Annotated[VarRef, WritableVar()],
        pwd_avp: Annotated[VarRef, WritableVar()],
    ) -> int:
        """Fetch the digest account of a user for pv_www_authorize() and pv_proxy_authorize().

        Returns 1, -2 when there is no such account, -1 when the directory cannot be asked.
        """
        found = await self._find(run, "SIPIdentityUserName", auth_username)
        if found < 0:
            return found
        names = self.ldap.values(run, "SIPIdentityUserName")
        passwords = self.ldap.values(run, "SIPIdentityPassword")
        if not names or not passwords:
            return FOUND_NOTHING
        username_avp.set(run, names[0])
        pwd_avp.set(run, passwords[0])
        return 1

    @script_function(routes=ROUTES)
    def h350_result_call_preferences(self, run: Run, avp_name_prefix: str | None) -> int:
        """Turn callPreferenceURI of the object found into AVPs.

        The AVP named by the prefix and a letter is the target: b (busy), n (no answer), u (always) or f (not found);
        with "_t" behind the letter it is the time after which that counts, in seconds. Returns how many rules there
        are, -2 for none, -1 without a search.
        """
        values = self.ldap.values(run, "callPreferenceURI")
        if values is None or avp_name_prefix is None:
            return FAILED
        count = 0
        for value in values[:MOST_VALUES]:
            rule = PREFERENCE.fullmatch(value)
            if rule is None:
                continue
            name = avp_name_prefix + rule[2]
            push(run, name, rule[1])
            if rule[3]:
                push(run, f"{name}_t", int(rule[3]) // 1000)
            count += 1
        return count or FOUND_NOTHING

    @script_function(routes=ROUTES)
    def h350_result_service_level(self, run: Run, avp_name_prefix: str | None) -> int:
        """Set an AVP of value 1 for each SIPIdentityServiceLevel, its name behind the prefix.

        Returns how many, -2 for none, -1 without a search.
        """
        values = self.ldap.values(run, "SIPIdentityServiceLevel")
        if values is None or avp_name_prefix is None:
            return FAILED
        for value in values[:MOST_VALUES]:
            push(run, avp_name_prefix + value, 1)
        return min(len(values), MOST_VALUES) or FOUND_NOTHING


def push(run: Run, name: str, value: Any) -> None:
    """One more value of an AVP."""
    run.avps.setdefault(name, []).append(value)
