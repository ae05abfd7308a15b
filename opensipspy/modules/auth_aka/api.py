"""What auth_aka and the modules that fetch authentication vectors ask of one another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence


class AvManager(ABC):
    """A source of authentication vectors."""

    @abstractmethod
    async def fetch(
        self, realm: str, public_identity: str, private_identity: str, resync: bytes | None, algorithms: Sequence[str]
    ) -> None:
        """Fetch one vector for each algorithm, and hand each to `AkaApi.add`, or count it with `AkaApi.fail`.

        resync: RAND and AUTS of a phone whose sequence numbers are ahead (3GPP TS 33.102 §6.3.5), None without.
        """


class AkaApi(ABC):
    """The store of authentication vectors."""

    @abstractmethod
    def manage(self, name: str, manager: AvManager) -> None:
        """Make a source of vectors known under a name, the `av_mgm` of the challenge functions."""

    @abstractmethod
    def add(
        self,
        public_identity: str,
        private_identity: str,
        authenticate: str,
        authorize: str,
        confidentiality_key: str,
        integrity_key: str,
        algorithms: Sequence[str] = (),
    ) -> None:
        """Store a vector: RAND and AUTN, XRES, CK and IK, all in hexadecimal. ValueError for anything else.

        algorithms: those it may be used for, none for any.
        """

    @abstractmethod
    def fail(self, public_identity: str, private_identity: str, count: int = 1) -> bool:
        """So many vectors will not come; False when nobody knows the user."""
