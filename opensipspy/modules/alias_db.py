"""Aliases of users from a table, asked for each time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

from opensipspy.db import Column, Condition, Index, Table, auto_id
from opensipspy.module import Fixup, Module, Param, WritableVar, script_function
from opensipspy.module.table_cache import cell_text, open_database, own_or_default_url
from opensipspy.module.table_query import TableQuery, is_uri, stripped, uri_of
from opensipspy.script.kinds import BRANCH, FAILURE, LOCAL, ONREPLY, REQUEST, STARTUP
from opensipspy.script.run import Branch, Run, VarRef
from opensipspy.sip import Uri

ALIAS_TABLE: Final = Table(
    "dbaliases",
    2,
    (
        auto_id(),
        Column("alias_username", "string", 64, default=""),
        Column("alias_domain", "string", 64, default=""),
        Column("username", "string", 64, default=""),
        Column("domain", "string", 64, default=""),
    ),
    (
        Index("alias_idx", ("alias_username", "alias_domain"), unique=True),
        Index("target_idx", ("username", "domain")),
    ),
)

REVERSE: Final = 1
NO_DOMAIN: Final = 2
MOST_ALIASES: Final = 12
LOWEST_Q: Final = 0
LONGEST_PART: Final = 255


def parse_flags(text: str) -> int:
    """ "r": from the user to its alias; "d": the domain does not count. Raises ValueError."""
    flags = 0
    for char in text:
        if char not in "rd":
            raise ValueError(f"unknown flag {char!r}: r and d are known")
        flags |= REVERSE if char == "r" else NO_DOMAIN
    return flags


class AliasDb(Module):
    """Replace an alias by the user that it stands for."""

    name = "alias_db"
    tables = (ALIAS_TABLE,)

    db_url = Param(str, "mysql://opensipsro:opensipsro@localhost/opensips", "The database.")
    user_column = Param(str, "username", "Column of the user.")
    domain_column = Param(str, "domain", "Column of the user's domain.")
    alias_user_column = Param(str, "alias_username", "Column of the alias.")
    alias_domain_column = Param(str, "alias_domain", "Column of the alias's domain.")
    domain_prefix = Param(str, None, "Left out at the front of domains before the table is asked.")
    append_branches = Param(int, 0, "1: every user that an alias stands for is taken, the first as the destination.")

    async def start(self) -> None:
        database = open_database(self, own_or_default_url(self, self.db_url))
        self._query = TableQuery(database, ALIAS_TABLE.version or 0)

    async def _find(self, table: str, uri: Uri, flags: int, put: Callable[[str, int], None]) -> int:
        """Hand what the table has for `uri` to `put` with its number; -1 when there is nothing."""
        alias = (self.alias_user_column, self.alias_domain_column)
        user = (self.user_column, self.domain_column)
        known, wanted = (user, alias) if flags & REVERSE else (alias, user)
        where: list[Condition] = [(known[0], "=", uri.user)]
        if not flags & NO_DOMAIN:
            where.append((known[1], "=", stripped(uri.host_text, self.domain_prefix)))
        most = MOST_ALIASES if self.append_branches else 1
        rows = await self._query.rows(table, wanted, where, most)
        if not rows or rows[0][0] is None:
            return -1
        found = 0
        for name, domain in rows:
            try:
                parts = (cell_text(name, "user", most=LONGEST_PART), cell_text(domain, "domain", most=LONGEST_PART))
                made = f"sip:{parts[0]}@{parts[1]}"
                if not is_uri(made):
                    raise ValueError(f"{made!r} is no URI")
            except ValueError as error:
                self.core.log.error("alias_db: a row of table %s is skipped: %s", table, error)
                continue
            put(made, found)
            found += 1
        return 1 if found else -1

    @script_function(routes=REQUEST | FAILURE)
    async def alias_db_lookup(
        self, run: Run, table_name: str, flags: Annotated[int | None, Fixup(parse_flags)] = None
    ) -> int:
        """Put the user that the Request-URI is an alias of in its place; with append_branches further ones as branches.

        flags: "d" leaves the domain out, "r" looks from the user to its alias. Returns 1, or -1: none, or no answer.
        """
        uri = uri_of(run.ruri)
        if uri is None:
            return -1

        def put(made: str, number: int) -> None:
            if number == 0:
                run.ruri = made
            else:
                run.branches.append(Branch(made, q=LOWEST_Q))

        return await self._find(table_name, uri, flags or 0, put)

    @script_function(routes=REQUEST | FAILURE | ONREPLY | BRANCH | LOCAL | STARTUP)
    async def alias_db_find(
        self,
        run: Run,
        table_name: str,
        input_uri: str,
        output_var: Annotated[VarRef, WritableVar()],
        flags: Annotated[int | None, Fixup(parse_flags)] = None,
    ) -> int:
        """Put the user that a URI is an alias of into a variable; with append_branches all of them (an AVP takes many).

        flags: as in alias_db_lookup(). Returns 1, or -1: none, no URI, or no answer.
        """
        uri = uri_of(input_uri or "")
        if uri is None:
            self.core.log.error("alias_db: %r is no URI", (input_uri or "")[:80])
            return -1

        def put(made: str, number: int) -> None:
            if number == 0:
                output_var.replace(run, made)
            else:
                output_var.set(run, made)

        return await self._find(table_name, uri, flags or 0, put)
