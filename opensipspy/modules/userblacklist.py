"""Numbers that may not be called: by prefixes of each user, asked for each time, and by tables kept in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

from opensipspy.db import Column, Condition, DatabaseError, DbValue, Index, Table, auto_id
from opensipspy.management.registry import Json
from opensipspy.module import Fixup, MiError, Module, Param, mi_command, script_function
from opensipspy.module.table_cache import TableCache, cell_int, cell_text, open_database, own_or_default_url
from opensipspy.module.table_query import TableQuery, uri_of
from opensipspy.script.kinds import FAILURE, REQUEST
from opensipspy.script.run import Run

VERSION: Final = 2
USER_TABLE: Final = Table(
    "userblacklist",
    VERSION,
    (
        auto_id(),
        Column("username", "string", 64, default=""),
        Column("domain", "string", 64, default=""),
        Column("prefix", "string", 64, default=""),
        Column("whitelist", "char", 1, default="0"),
    ),
    (Index("userblacklist_idx", ("username", "domain", "prefix")),),
)
GLOBAL_TABLE: Final = Table(
    "globalblacklist",
    VERSION,
    (
        auto_id(),
        Column("prefix", "string", 64, default=""),
        Column("whitelist", "char", 1, default="0"),
        Column("description", "string", 255, null=True, default=None),
    ),
    (Index("globalblacklist_idx", ("prefix",)),),
)
COLUMNS: Final = ("prefix", "whitelist")
LONGEST_NUMBER: Final = 31
LONGEST_PREFIX: Final = 64
MOST_PREFIXES: Final = 100_000
DIGITS: Final = frozenset("0123456789")


class Prefixes:
    """Prefixes of numbers and whether they are allowed; the longest that fits decides."""

    def __init__(self) -> None:
        self._allowed: dict[str, bool] = {}
        self._longest = 0

    def add(self, cells: Sequence[DbValue]) -> None:
        """Take (prefix, whitelist); raises ValueError."""
        prefix = cell_text(cells[0], "prefix", most=LONGEST_PREFIX).strip()
        if not DIGITS.issuperset(prefix):
            raise ValueError(f"prefix {prefix!r} has other characters than digits")
        self._allowed[prefix] = cell_int(cells[1], "whitelist", 0, 9) > 0
        self._longest = max(self._longest, len(prefix))

    def allows(self, number: str) -> bool:
        """A number that no prefix fits is allowed."""
        for length in range(min(len(number), self._longest), -1, -1):
            allowed = self._allowed.get(number[:length])
            if allowed is not None:
                return allowed
        return True


def digits_of(text: str) -> str:
    return "".join([char for char in text if char in DIGITS])


class UserBlacklist(Module):
    """Black and white lists of numbers, for each user and for all."""

    name = "userblacklist"
    tables = (USER_TABLE, GLOBAL_TABLE)

    db_url = Param(str, "mysql://opensipsro:opensipsro@localhost/opensips", "The database.")
    db_table = Param(str, "userblacklist", "Table of check_user_blacklist() when the script names none.")
    use_domain = Param(int, 1, "0: the user's domain does not count.")

    def __init__(self, **params: Any) -> None:
        self._named: list[str] = []
        self._caches: dict[str, TableCache[Prefixes]] = {}
        super().__init__(**params)

    async def start(self) -> None:
        self._database = open_database(self, own_or_default_url(self, self.db_url))
        self._query = TableQuery(self._database, VERSION)
        for table in self._named:
            await self._cache(table).start()

    def _cache(self, table: str) -> TableCache[Prefixes]:
        cache = self._caches[table] = TableCache(
            self.core, self._database, table, VERSION, COLUMNS, Prefixes, Prefixes.add, key=False
        )
        return cache

    async def stop(self) -> None:
        for cache in self._caches.values():
            cache.stop()

    def _use_table(self, table: str) -> str:
        """A table that the script names is loaded at the start."""
        if not table:
            raise ValueError("the table's name is empty")
        if table not in self._named:
            self._named.append(table)
        return table

    def _number(self, run: Run, number: str | None) -> str | None:
        """The digits of a number, or of the user of the Request-URI; None when there is none."""
        if number is None:
            uri = uri_of(run.ruri)
            number = uri.user if uri is not None else ""
            if not number:
                return None
        return digits_of(number) if len(number) <= LONGEST_NUMBER else None

    @script_function(routes=REQUEST | FAILURE)
    async def check_user_blacklist(
        self, run: Run, user: str | None, domain: str | None, number: str | None = None, table: str | None = None
    ) -> int:
        """Whether a user may call a number: the longest prefix of his that fits decides.

        number: without it the user of the Request-URI; only digits count. Returns 1 allowed or not listed, -1
        forbidden, no number, or no answer from the database.
        """
        digits = self._number(run, number)
        # Nobody's list forbids nothing: a user that is NULL is none.
        if digits is None or user is None or (self.use_domain and domain is None):
            return -1
        where: list[Condition] = [("username", "=", user)]
        if self.use_domain:
            where.append(("domain", "=", domain))
        name = table or self.db_table
        rows = await self._query.rows(name, COLUMNS, where, MOST_PREFIXES)
        if rows is None:
            return -1
        prefixes = Prefixes()
        for row in rows:
            try:
                prefixes.add(row)
            except ValueError as error:
                self.core.log.warning("userblacklist: a row of table %s for %s is skipped: %s", name, user, error)
        return 1 if prefixes.allows(digits) else -1

    @script_function(routes=REQUEST | FAILURE)
    def check_blacklist(self, run: Run, table: Annotated[str, Fixup("_use_table")]) -> int:
        """Whether the user of the Request-URI may be called by a table in memory: the longest prefix that fits decides.

        Returns 1 allowed or not listed, -1 forbidden, no number, or the table has not been loaded.
        """
        cache = self._caches.get(table)
        digits = self._number(run, None)
        if cache is None or not cache.loaded or digits is None:
            return -1
        return 1 if cache.data.allows(digits) else -1

    @mi_command("userblacklist:reload", aliases=("reload_blacklist",))
    async def reload_tables(self) -> Json:
        """Read the tables in memory again; what is there serves until then, and on when that fails."""
        for cache in self._caches.values():
            try:
                await cache.load()
            except DatabaseError as error:
                raise MiError(500, "cannot reload blacklist", str(error)) from error
        return "OK"
