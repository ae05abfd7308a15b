"""Follow redirects: the Contacts of 3xx replies, filtered and by preference, become destinations of the same call.

RFC 3261 §16.7 step 4 (a proxy may recurse on 3xx), §16.5 (no URI twice in the target set), §8.1.3.4 (order by q).
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from opensipspy.module import Fixup, Module, Param, ParamError, Wants, script_function
from opensipspy.modules.tm.api import TmApi, Transaction
from opensipspy.script.kinds import FAILURE
from opensipspy.script.patterns import Pattern
from opensipspy.script.run import Branch, Run
from opensipspy.sip import Edits, Message, ParseError, Uri, parse_uri, uri_equal

MOST_FILTERS: Final = 6
MOST_CONTACTS: Final = 16
"""Contacts of one reply that are looked at: a hostile answer shall not fork a call without end."""
MOST_BRANCHES: Final = 64
"""Branches of one transaction."""
LOWEST_Q: Final = 10
"""Thousandths: a Contact without q comes after those that have one, as OpenSIPS has it."""
ACCEPT: Final = "accept"
DENY: Final = "deny"
FILTERS: Final = "uac_redirect"
"""Key in `run.ctx`: the `Filters` of a failure_route."""
RESETS: Final = {
    "": (False, False),
    "reset_all": (True, True),
    "reset_default": (True, False),
    "reset_added": (False, True),
}
"""What the flags of a filter drop: (the default one, those that were added)."""


def resets(text: str) -> tuple[bool, bool]:
    """The flags of set_accept_filter() and set_deny_filter(), read at load."""
    found = RESETS.get(text.strip().lower())
    if found is None:
        raise ValueError(f'the flags are "reset_all", "reset_default", "reset_added" or "", not "{text}"')
    return found


Resets = Annotated[tuple[bool, bool], Fixup(resets, "string")]


class Filters:
    """The filters of one run of a failure_route, which `edits` tells from the next run for the same call."""

    __slots__ = ("accept", "deny", "edits")

    def __init__(self, edits: Edits, accept: Pattern | None, deny: Pattern | None) -> None:
        self.edits = edits
        self.accept = [accept]
        self.deny = [deny]


def add_filter(patterns: list[Pattern | None], pattern: Pattern, resets: tuple[bool, bool]) -> bool:
    """Add a filter behind the default one, which is the first entry and None when there is none."""
    default, added = resets
    kept = 0 if added else len(patterns) - 1
    if kept + 2 > MOST_FILTERS:
        return False
    if added:
        del patterns[1:]
    if default:
        patterns[0] = None
    patterns.append(pattern)
    return True


class UacRedirect(Module):
    """Follow the Contacts of 3xx replies."""

    name = "uac_redirect"
    requires = ("tm",)
    wants = (Wants("acc"),)

    default_filter = Param(str, ACCEPT, "What happens to a Contact that no filter matches: accept or deny.")
    accept_filter = Param(str, None, "Regular expression of Contacts to follow.")
    deny_filter = Param(str, None, "Regular expression of Contacts not to follow, where the default is accept.")

    def __init__(self, **params: Any) -> None:
        self._accept: Pattern | None = None
        self._deny: Pattern | None = None
        super().__init__(**params)

    def set_param(self, name: str, value: object) -> None:
        super().set_param(name, value)
        if self.default_filter not in (ACCEPT, DENY):
            raise ParamError(self.name, "default_filter", f"is accept or deny, not {self.default_filter!r}")
        self._accept = self._compiled("accept_filter", self.accept_filter)
        self._deny = self._compiled("deny_filter", self.deny_filter)

    def _compiled(self, param: str, text: str | None) -> Pattern | None:
        try:
            return Pattern(text) if text else None
        except ValueError as error:
            raise ParamError(self.name, param, str(error)) from error

    async def start(self) -> None:
        self._tm = self.core.api("tm", TmApi)  # type: ignore[type-abstract]

    # --- filters

    def _filters(self, run: Run) -> Filters:
        filters = run.ctx.get(FILTERS)
        if not isinstance(filters, Filters) or filters.edits is not run.edits:
            filters = run.ctx[FILTERS] = Filters(run.edits, self._accept, self._deny)
        return filters

    @script_function(routes=FAILURE)
    def set_accept_filter(self, run: Run, filter: Pattern, flags: Resets) -> int:
        """Follow Contacts that match, in this run of the route.

        flags: reset_all, reset_default or reset_added drops earlier accept filters. Returns -1 when six are combined
        already.
        """
        return self._added(self._filters(run).accept, filter, flags)

    @script_function(routes=FAILURE)
    def set_deny_filter(self, run: Run, filter: Pattern, flags: Resets) -> int:
        """Do not follow Contacts that match, in this run of the route; flags as in set_accept_filter()."""
        return self._added(self._filters(run).deny, filter, flags)

    def _added(self, patterns: list[Pattern | None], filter: Pattern, flags: tuple[bool, bool]) -> int:
        if add_filter(patterns, filter, flags):
            return 1
        self.core.log.error("uac_redirect: no more than %d filters can be combined", MOST_FILTERS)
        return -1

    def _passes(self, filters: Filters, uri: str) -> bool:
        try:
            if any(pattern is not None and pattern.search(uri) for pattern in filters.accept):
                return True
            if self.default_filter == DENY:
                return False
            return not any(pattern is not None and pattern.search(uri) for pattern in filters.deny)
        except TimeoutError:
            self.core.log.error("uac_redirect: a filter took too long for %r, which is not followed", uri)
            return False

    # --- following

    @script_function(routes=FAILURE)
    def get_redirects(self, run: Run, max_total: int | None = None, max_branch: int | None = None) -> int:
        """Make the Contacts of all 3xx replies the destinations of the call; the script sends it, with t_relay().

        max_total, max_branch: the most Contacts in all, and of one reply; 0 is no limit. Within a reply the highest q
        comes first. Returns 1, or -1 when there was nothing to follow.
        """
        transaction = self._tm.transaction(run)
        total, each = max_total or 0, max_branch or 0
        if transaction is None or total < 0 or each < 0:
            self.core.log.error("uac_redirect: get_redirects needs a transaction, and limits from 0")
            return -1
        left = MOST_BRANCHES - len(transaction.branches) - len(run.branches)
        left = min(left, total) if total else left
        found: list[tuple[int, str]] = []
        tried = self._tried(transaction)
        filters = self._filters(run)
        for branch in transaction.branches[transaction.first :]:
            if branch.reply is None or not 300 <= branch.last_received <= 399:
                continue
            most = min(each or MOST_CONTACTS, MOST_CONTACTS, left - len(found))
            found += self._contacts(branch.reply, filters, tried, most)
        if not found:
            return -1
        run.q, run.ruri = found[0]
        run.branches.extend(Branch(uri, q=q) for q, uri in found[1:])
        return 1

    @staticmethod
    def _tried(transaction: Transaction) -> list[Uri]:
        tried = []
        for branch in transaction.branches:
            try:
                tried.append(parse_uri(branch.uri))
            except ParseError:
                continue  # what is no URI cannot be named by a Contact
        return tried

    def _contacts(self, reply: Message, filters: Filters, tried: list[Uri], most: int) -> list[tuple[int, str]]:
        """(q in thousandths, URI) of the Contacts to follow, best first; they are added to `tried`."""
        try:
            contacts = reply.contacts[:MOST_CONTACTS]
        except ParseError as error:
            self.core.log.info("uac_redirect: %s in a Contact from %s", error.reason, reply.source.text)
            return []
        ranked = [(contact.q if contact.q >= 0 else LOWEST_Q, contact.uri) for contact in contacts]
        ranked.sort(key=lambda entry: -entry[0])
        found: list[tuple[int, str]] = []
        for q, text in ranked:
            if len(found) >= most:
                break
            try:
                uri = parse_uri(text)
                if uri.headers:
                    # RFC 3261 §19.1.1: they have no place in a Request-URI.
                    uri = parse_uri(text[: -len(uri.headers) - 1])
            except ParseError as error:
                self.core.log.info("uac_redirect: %s in a Contact from %s", error.reason, reply.source.text)
                continue
            if uri.scheme not in ("sip", "sips") or not self._passes(filters, text):
                continue
            # RFC 3261 §16.5: a target that was tried already would come back for ever.
            if not any(uri_equal(uri, other) for other in tried):
                tried.append(uri)
                found.append((q, str(uri)))
        return found
