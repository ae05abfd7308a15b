"""The one error that a database operation ends with."""

from __future__ import annotations


class DatabaseError(Exception):
    """The database refused, or could not be reached.

    transient: the same operation may succeed later (server down, file locked or missing, disk full); False for what
    stays wrong: a syntax error, a missing table or column, a broken constraint. duplicate: a unique key exists already.
    uncertain: a write may have been done all the same, as only its answer is missing. The text never holds a password.
    """

    def __init__(
        self, reason: str, *, transient: bool = False, duplicate: bool = False, uncertain: bool = False
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.transient = transient
        self.duplicate = duplicate
        self.uncertain = uncertain


class RefusedError(DatabaseError):
    """The server lives, but gives no further connection: it has too many, or the account is wrong by now."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, transient=True)
