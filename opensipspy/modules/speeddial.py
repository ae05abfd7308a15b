"""Short numbers of each user, from a table that is asked for each time."""

from __future__ import annotations

from typing import Final

from opensipspy.db import Column, Condition, Index, Table, auto_id
from opensipspy.module import Module, Param, script_function
from opensipspy.module.table_cache import cell_text, open_database, own_or_default_url
from opensipspy.module.table_query import LONGEST_URI, TableQuery, is_uri, request_of, stripped, uri_of
from opensipspy.script.kinds import REQUEST
from opensipspy.script.run import Run
from opensipspy.sip import ParseError

SPEED_DIAL_TABLE: Final = Table(
    "speed_dial",
    3,
    (
        auto_id(),
        Column("username", "string", 64, default=""),
        Column("domain", "string", 64, default=""),
        Column("sd_username", "string", 64, default=""),
        Column("sd_domain", "string", 64, default=""),
        Column("new_uri", "string", 255, default=""),
        Column("fname", "string", 64, default=""),
        Column("lname", "string", 64, default=""),
        Column("description", "string", 64, default=""),
    ),
    (Index("speed_dial_idx", ("username", "domain", "sd_domain", "sd_username"), unique=True),),
)


class SpeedDial(Module):
    """Replace a short number by the address that the caller has given it."""

    name = "speeddial"
    tables = (SPEED_DIAL_TABLE,)

    db_url = Param(str, "mysql://opensipsro:opensipsro@localhost/opensips", "The database.")
    user_column = Param(str, "username", "Column of the owner.")
    domain_column = Param(str, "domain", "Column of the owner's domain.")
    sd_user_column = Param(str, "sd_username", "Column of the short number.")
    sd_domain_column = Param(str, "sd_domain", "Column of the short number's domain.")
    new_uri_column = Param(str, "new_uri", "Column of the address.")
    domain_prefix = Param(str, None, "Left out at the front of domains before the table is asked.")
    use_domain = Param(int, 0, "1: the owner's domain counts, 2: that of the short number, too.")

    async def start(self) -> None:
        database = open_database(self, own_or_default_url(self, self.db_url))
        self._query = TableQuery(database, SPEED_DIAL_TABLE.version or 0)

    @script_function(routes=REQUEST)
    async def sd_lookup(self, run: Run, table: str, owner: str | None = None) -> int:
        """Put the address that the user of the Request-URI is short for in its place.

        owner: the URI of who has given it, without it that of From. Returns 1, or -1: none, no URI, or no answer.
        """
        try:
            caller = request_of(run).from_.parsed_uri() if owner is None else uri_of(owner)
        except ParseError:
            caller = None
        dialled = uri_of(run.ruri)
        if caller is None or dialled is None:
            return -1
        where: list[Condition] = [(self.user_column, "=", caller.user)]
        if self.use_domain >= 1:
            where.append((self.domain_column, "=", stripped(caller.host_text, self.domain_prefix)))
        where.append((self.sd_user_column, "=", dialled.user))
        if self.use_domain >= 2:
            where.append((self.sd_domain_column, "=", stripped(dialled.host_text, self.domain_prefix)))
        rows = await self._query.rows(table, (self.new_uri_column,), where, 1)
        if not rows or rows[0][0] is None:
            return -1
        try:
            uri = cell_text(rows[0][0], self.new_uri_column, most=LONGEST_URI)
            if not uri[:5].lower().startswith(("sip:", "sips:", "tel:")):
                uri = "sip:" + uri
            if not is_uri(uri):
                raise ValueError(f"{uri!r} is no URI")
        except ValueError as error:
            self.core.log.error("speeddial: a row of table %s cannot be used: %s", table, error)
            return -1
        run.ruri = uri
        return 1
