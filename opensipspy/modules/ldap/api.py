"""What other modules ask of `ldap`: searches by session and parameters, and the values of what was found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from opensipspy.script.run import Run

FOUND_NOTHING = -1
FAILED = -2

SCOPES = frozenset({"base", "one", "onelevel", "sub", "subtree"})


@runtime_checkable
class LdapApi(Protocol):
    """Results belong to the run that searched; each search takes the place of the one before."""

    def has_session(self, name: str) -> bool:
        """Whether the configuration file has this session."""

    async def search(
        self, run: Run, session: str, dn: str, scope: str, filter_text: str, attributes: Sequence[str] = ()
    ) -> int:
        """The number of entries; FOUND_NOTHING for none, FAILED when the directory cannot be asked. filter_text:
        RFC 4515, its values escaped by `escape`."""

    def values(self, run: Run, attribute: str) -> list[str] | None:
        """The values of an attribute of the current entry, [] when it has none; None when there was no search."""

    def escape(self, text: str) -> str:
        """A text as a value in a filter (RFC 4515 §3)."""
