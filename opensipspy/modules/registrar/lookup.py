"""From the contacts of a user to the destinations of a request (RFC 3261 §16.5): filters, order, branches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from opensipspy.modules.registrar.old_flags import LOOKUP, unknown_flag
from opensipspy.modules.usrloc.api import Contact
from opensipspy.script.patterns import Pattern
from opensipspy.script.run import Branch, Run
from opensipspy.script.variables_branch import add_branch, set_main_branch
from opensipspy.sip import ParseError, parse_name_addr_list

FOUND: Final = 1
WOKEN: Final = 2
NOT_FOUND: Final = -1
METHOD_NOT_SUPPORTED: Final = -2
FAILED: Final = -3


class LookupFlags:
    """The flag list of `lookup()`. max_latency: microseconds, 0 for any."""

    __slots__ = (
        "branches_only",
        "expand_branches",
        "global_",
        "max_latency",
        "method_filtering",
        "no_branches",
        "sort_by_latency",
        "user_agent",
    )

    def __init__(self) -> None:
        self.method_filtering: bool = False
        self.no_branches: bool = False
        self.branches_only: bool = False
        self.expand_branches: bool = False
        self.global_: bool = False
        self.sort_by_latency: bool = False
        self.max_latency: int = 0
        self.user_agent: Pattern | None = None

    @property
    def filters(self) -> bool:
        return self.method_filtering or self.user_agent is not None or self.max_latency > 0 or self.sort_by_latency


def parse_lookup_flags(text: str | None) -> LookupFlags:
    """Raises ValueError with the word that is wrong."""
    flags = LookupFlags()
    rest = text or ""
    expression, ignore_case = "", False
    # The expression between slashes may hold commas and equal signs.
    before, found, after = rest.partition("ua-filtering")
    if found:
        opening = after.lstrip(" =")
        end = opening.rfind("/")
        if not opening.startswith("/") or end < 1:
            raise ValueError("ua-filtering takes /expression/")
        expression = opening[1:end]
        letters, _, more = opening[end + 1 :].partition(",")
        if letters.strip() not in ("", "i"):
            raise ValueError(f"ua-filtering: unknown letter {letters.strip()!r} after the expression")
        ignore_case = letters.strip() == "i"
        rest = before + "," + more
    for item in rest.split(","):
        name, _, value = (part.strip() for part in item.partition("="))
        if not name or name == "extended-regexp":  # expressions are always extended ones
            continue
        if name == "method-filtering":
            flags.method_filtering = True
        elif name == "no-branches":
            flags.no_branches = True
        elif name == "to-branches-only":
            flags.branches_only = True
        elif name == "branch":
            flags.expand_branches = True
        elif name == "global":
            flags.global_ = True
        elif name == "sort-by-latency":
            flags.sort_by_latency = True
        elif name == "case-insensitive":
            ignore_case = True
        elif name == "max-ping-latency":
            if not value.isascii() or not value.isdigit():
                raise ValueError(f"max-ping-latency takes microseconds, not {value!r}")
            flags.max_latency = int(value)
        else:
            raise unknown_flag(name, LOOKUP)
    if expression:
        flags.user_agent = Pattern(expression, ignore_case)
    return flags


def suitable(contacts: Sequence[Contact], method_bit: int, flags: LookupFlags) -> list[Contact]:
    """The contacts that pass the filters, in the order to try them."""
    chosen = []
    for contact in contacts:
        if flags.method_filtering and not contact.methods & method_bit:
            continue
        if flags.max_latency and contact.latency > flags.max_latency:
            continue
        if flags.user_agent is not None and not flags.user_agent.search(contact.user_agent):
            continue
        chosen.append(contact)
    if flags.sort_by_latency:
        chosen.sort(key=lambda c: c.latency)
    return chosen


def first_hop(contact: Contact) -> str:
    """Where a request for it goes first: the first Path URI (RFC 3327 §5.1), or where it came from; else ""."""
    if contact.path:
        try:
            return parse_name_addr_list(contact.path)[0].uri
        except ParseError:
            return contact.received  # the row of another program: better the address than nothing
    return contact.received


def branch_of(contact: Contact, attr_name: str = "", uri: str = "") -> Branch:
    """The destination that a contact is. uri: instead of the contact's own. attr_name: attribute that gets `attr`."""
    branch = Branch(uri or contact.uri, first_hop(contact), contact.q, contact.path, contact.cflags, contact.socket)
    if attr_name and contact.attr:
        branch.attrs = {attr_name: contact.attr}
    return branch


def put(run: Run, branches: Sequence[Branch], flags: LookupFlags) -> int:
    """Write the destinations into the request: the first as Request-URI, the others as branches."""
    rest = branches
    if not flags.branches_only:
        set_main_branch(run, branches[0])
        rest = () if flags.no_branches else branches[1:]
    for branch in rest:
        if not add_branch(run, branch):
            break
    return FOUND
