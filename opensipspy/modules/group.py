"""Groups that users are in: by name from a table or AAA servers asked each time, by expressions kept in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

from opensipspy.aaa import AaaClient, AaaError, open_client, sip_avps
from opensipspy.db import Column, Condition, DbValue, Index, Table, auto_id
from opensipspy.module import Module, Param, ParamError, Wants, WritableVar, script_function
from opensipspy.module.table_cache import TableCache, cell_int, cell_text, open_database
from opensipspy.module.table_query import LONGEST_URI, TableQuery, request_of, uri_of
from opensipspy.modules.auth.api import AuthApi
from opensipspy.script.kinds import BRANCH, FAILURE, LOCAL, REQUEST
from opensipspy.script.patterns import Pattern
from opensipspy.script.run import Run, VarRef
from opensipspy.sip import ParseError

GROUP_TABLE: Final = Table(
    "grp",
    3,
    (
        auto_id(),
        Column("username", "string", 64, default=""),
        Column("domain", "string", 64, default=""),
        Column("grp", "string", 64, default=""),
        Column("last_modified", "datetime", default="1900-01-01 00:00:01"),
    ),
    (Index("account_group_idx", ("username", "domain", "grp"), unique=True),),
)
EXPRESSION_TABLE: Final = Table(
    "re_grp",
    2,
    (
        auto_id(),
        Column("reg_exp", "string", 128, default=""),
        Column("group_id", "int", 11, default="0"),
    ),
    (Index("group_idx", ("group_id",)),),
)
NO_DATABASE: Final = -5
NOT_A_MEMBER: Final = -6
NO_CREDENTIALS: Final = -4
NOT_GRANTED: Final = -12
AAA_ATTRIBUTES: Final = ("User-Name", "Sip-Group", "Service-Type", "Acct-Session-Id")
ROUTES: Final = REQUEST | FAILURE | BRANCH | LOCAL

Expressions = list[tuple[Pattern, int]]


def add_expression(expressions: Expressions, cells: Sequence[DbValue]) -> None:
    """Take (expression, group id); raises ValueError."""
    text = cell_text(cells[0], "reg_exp")
    expressions.append((Pattern(text, ignore_case=True, lines=True), cell_int(cells[1], "group_id", 0, 0x7FFFFFFF)))


class Group(Module):
    """Tell which groups a user is in."""

    name = "group"
    wants = (Wants("auth"),)
    tables = (GROUP_TABLE, EXPRESSION_TABLE)

    db_url = Param(str, None, "The database; the global db_default_url when not set.")
    table = Param(str, "grp", "Table of the groups' members.")
    user_column = Param(str, "username", "Column of the user.")
    domain_column = Param(str, "domain", "Column of the domain.")
    group_column = Param(str, "grp", "Column of the group.")
    use_domain = Param(int, 1, "0: the user's domain does not count.")
    re_table = Param(str, None, "Table of expressions; none are used without it.")
    re_exp_column = Param(str, "reg_exp", "Column of the expression over sip:user@domain.")
    re_gid_column = Param(str, "group_id", "Column of the group's number.")
    multiple_gid = Param(int, 1, "0: only the first group that fits is told.")
    aaa_url = Param(str, None, "The AAA servers for aaa_is_user_in(): radius:FILE or diameter:FILE.")

    async def start(self) -> None:
        self._query: TableQuery | None = None
        self._expressions: TableCache[Expressions] | None = None
        self._aaa: AaaClient | None = None
        if self.aaa_url:
            await self._open_aaa(self.aaa_url)
        if self.aaa_url and not self.db_url and not self._default_url:
            return
        database = open_database(self, self.db_url)
        self._query = TableQuery(database, GROUP_TABLE.version or 0)
        if self.re_table:
            self._expressions = TableCache(
                self.core,
                database,
                self.re_table,
                EXPRESSION_TABLE.version or 0,
                (self.re_exp_column, self.re_gid_column),
                list,
                add_expression,
                # The manual: expressions are tried in the reverse of the table's order.
                finish=lambda expressions: expressions.reverse(),
                key=False,
            )
            await self._expressions.start()

    @property
    def _default_url(self) -> str | None:
        """The database that modules use when they name none."""
        return getattr(self.core.globals, "db_default_url", None)

    async def _open_aaa(self, url: str) -> None:
        try:
            self._aaa = await open_client(self.core, url)
            self._aaa.check(AAA_ATTRIBUTES)
            self._service = self._aaa.value("Service-Type", "Group-Check")
        except AaaError as error:
            raise ParamError(self.name, "aaa_url", str(error)) from error

    async def stop(self) -> None:
        if self._expressions is not None:
            self._expressions.stop()

    def _user(self, run: Run, uri: str) -> tuple[str, str] | None:
        """(user, domain) of what the script names; None when there is none."""
        kind = (uri or "").lower()
        if kind == "credentials":
            return self._authorized(run)
        try:
            if kind == "from":
                parsed = request_of(run).from_.parsed_uri()
            elif kind == "to":
                parsed = request_of(run).to.parsed_uri()
            else:
                found = uri_of(run.ruri if kind == "request-uri" else uri or "")
                if found is None:
                    return None
                parsed = found
        except ParseError:
            return None
        return (parsed.user, parsed.host_text) if parsed.user else None

    def _authorized(self, run: Run) -> tuple[str, str] | None:
        try:
            credentials = self.core.api("auth", AuthApi).authorized(run)  # type: ignore[type-abstract]
        except LookupError:
            credentials = None
        if credentials is None:
            self.core.log.error("group: no credentials were authorized before")
            return None
        user = credentials.username.partition("@")[0]
        return (user, credentials.realm) if user else None

    @script_function(routes=ROUTES)
    async def db_is_user_in(self, run: Run, uri: str, group: str) -> int:
        """Whether the user of a URI is in a group of the table.

        uri: a URI, or Request-URI, To, From or Credentials. Returns 1, -1 there is no user, -5 the database does not
        answer, -6 the user is not in the group.
        """
        if self._query is None:
            self.core.log.error("group: db_is_user_in() needs the parameter db_url")
            return NO_DATABASE
        who = self._user(run, uri)
        if who is None:
            return -1
        where: list[Condition] = [(self.user_column, "=", who[0]), (self.group_column, "=", group or "")]
        if self.use_domain:
            where.append((self.domain_column, "=", who[1]))
        rows = await self._query.rows(self.table, (self.group_column,), where, 1)
        if rows is None:
            return NO_DATABASE
        return 1 if rows else NOT_A_MEMBER

    @script_function(routes=ROUTES)
    def db_get_user_group(self, run: Run, uri: str, output_avp: Annotated[VarRef, WritableVar("avp")]) -> int:
        """Put the numbers of the groups whose expression fits sip:user@domain into an AVP.

        uri: as in db_is_user_in(). Returns how many they are, or -1 for none.
        """
        if self._expressions is None:
            self.core.log.error("group: db_get_user_group() needs the parameter re_table")
            return -1
        who = self._user(run, uri)
        text = "" if who is None else f"sip:{who[0]}@{who[1]}"
        if not text or len(text) > LONGEST_URI:
            return -1
        found = 0
        for pattern, number in self._expressions.data:
            try:
                if not pattern.search(text):
                    continue
            except TimeoutError:
                self.core.log.error("group: the expression %.80s takes too long", pattern.text)
                return -1
            output_avp.set(run, number)
            found += 1
            if not self.multiple_gid:
                break
        return found or -1

    @script_function(routes=ROUTES)
    async def aaa_is_user_in(self, run: Run, uri: str, group: str) -> int:
        """Ask the AAA servers whether the user of a URI is in a group.

        uri: as in db_is_user_in(). Returns 1, -1 there is no user or no group, -4 no credentials were authorized,
        -12 the user is not in the group, or no server answers.
        """
        if self._aaa is None:
            self.core.log.error("group: aaa_is_user_in() needs the parameter aaa_url")
            return NOT_GRANTED
        who = self._user(run, uri)
        if who is None:
            return NO_CREDENTIALS if (uri or "").lower() == "credentials" else -1
        if not group:
            return -1
        try:
            reply = await self._aaa.authenticate(
                [
                    ("User-Name", f"{who[0]}@{who[1]}" if self.use_domain else who[0]),
                    ("Sip-Group", group),
                    ("Service-Type", self._service),
                    ("Acct-Session-Id", run.msg.call_id),
                ]
            )
        except AaaError as error:
            if not error.transient:
                self.core.log.error("group: %s", error)
            return NOT_GRANTED
        if not reply.accepted:
            return NOT_GRANTED
        for name, value in sip_avps(reply):
            run.avps.setdefault(name, []).append(value)
        return 1
