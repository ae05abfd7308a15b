"""Digest authentication against a table of subscribers, and look-ups in the table that maps URIs to credentials."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Annotated, Any, Final

from opensipspy.db import (
    Column,
    Condition,
    Database,
    DatabaseError,
    DbValue,
    Index,
    PreparedSelect,
    Table,
    auto_id,
)
from opensipspy.module import Fixup, Module, Param, ParamError, Requires, WritableVar, script_function
from opensipspy.module.table_query import parse_loads, script_value
from opensipspy.modules.auth.api import (
    AUTHORIZED,
    GENERIC_ERROR,
    INVALID_USER,
    SHA256,
    SHA256_SESS,
    SHA512_256,
    SHA512_256_SESS,
    Attempt,
    AuthApi,
)
from opensipspy.script.declare import VarRef
from opensipspy.script.kinds import FAILURE, LOCAL, REQUEST
from opensipspy.script.run import Run
from opensipspy.sip import H_AUTHORIZATION, H_PROXY_AUTHORIZATION, ParseError, parse_uri

SUBSCRIBER_VERSION: Final = 8
URI_VERSION: Final = 2
MAX_SELECTS: Final = 64
"""Statements kept ready, one for each subscriber table and column of passwords."""

SUBSCRIBER: Final = Table(
    "subscriber",
    SUBSCRIBER_VERSION,
    (
        auto_id(),
        Column("username", "string", 64, default=""),
        Column("domain", "string", 64, default=""),
        Column("password", "string", 25, default=""),
        Column("ha1", "string", 64, default=""),
        Column("ha1_sha256", "string", 64, default=""),
        Column("ha1_sha512t256", "string", 64, default=""),
    ),
    (
        Index("account_idx", ("username", "domain"), unique=True),
        Index("username_idx", ("username",)),
    ),
)
URI: Final = Table(
    "uri",
    URI_VERSION,
    (
        auto_id(),
        Column("username", "string", 64, default=""),
        Column("domain", "string", 64, default=""),
        Column("uri_user", "string", 64, default=""),
        Column("last_modified", "datetime", default="1900-01-01 00:00:01"),
    ),
    (Index("account_idx", ("username", "domain", "uri_user"), unique=True),),
)

SubscriberTable = Annotated[str, Fixup("subscriber_table", "string")]
UriTable = Annotated[str, Fixup("uri_table", "string")]


class AuthDb(Module):
    """Check digest credentials with passwords from a database."""

    name = "auth_db"
    requires = (Requires("auth"),)
    tables = (SUBSCRIBER, URI)

    db_url = Param(str, "mysql://opensipsro:opensipsro@localhost/opensips", "URL of the database.")
    calculate_ha1 = Param(int, 0, "1: password_column holds plain passwords; 0: the columns hold HA1 hashes.")
    use_domain = Param(int, 1, "1 looks subscribers up by user and domain, 0 by user only.")
    load_credentials = Param(str, "", "Columns to put into AVPs: $avp(name)=column;column...", func=True)
    skip_version_check = Param(int, 0, "1 uses tables of any layout.")
    user_column = Param(str, "username", "Column with the user in subscriber tables.")
    domain_column = Param(str, "domain", "Column with the domain in subscriber tables.")
    password_column = Param(str, "ha1", "Column with the MD5 HA1 hash, or with the plain password.")
    hash_column_sha256 = Param(str, "ha1_sha256", "Column with the SHA-256 HA1 hash.")
    hash_column_sha512t256 = Param(str, "ha1_sha512t256", "Column with the SHA-512/256 HA1 hash.")
    uri_user_column = Param(str, "username", "Column with the authentication user in uri tables.")
    uri_domain_column = Param(str, "domain", "Column with the domain in uri tables.")
    uri_uriuser_column = Param(str, "uri_user", "Column with the URI's user in uri tables.")

    def __init__(self, **params: Any) -> None:
        self._load: list[tuple[str, str]] = []
        self._checked: set[str] = set()
        self._named: set[tuple[str, int]] = set()
        self._started = False
        self._selects: dict[tuple[str, str], PreparedSelect] = {}
        super().__init__(**params)

    def set_load_credentials(self, value: str) -> None:
        self._load = parse_loads(value)

    async def start(self) -> None:
        self._auth = self.core.api("auth", AuthApi)  # type: ignore[type-abstract]
        url = self.db_url
        if not self.given("db_url"):
            url = getattr(self.core.globals, "db_default_url", "") or url
        if not url:
            raise ParamError(self.name, "db_url", "is needed")
        self._db: Database = self.core.database(url)
        await self._db.ready()
        self._started = True
        self.core.spawn(self._check_named(), "auth_db: versions of tables")

    def subscriber_table(self, name: str) -> str:
        """A subscriber table; those that the script names are looked at when the server starts."""
        return self._name(name, SUBSCRIBER_VERSION)

    def uri_table(self, name: str) -> str:
        """A uri table; those that the script names are looked at when the server starts."""
        return self._name(name, URI_VERSION)

    def _name(self, name: str, version: int) -> str:
        if not self._started:
            self._named.add((name, version))
        return name

    async def _check_named(self) -> None:
        """Tell at once what each login would be told."""
        for table, version in sorted(self._named):
            try:
                await self._check_version(table, version)
            except DatabaseError as error:
                self._tell(error)

    # --- credentials

    @script_function(routes=REQUEST)
    def www_authorize(self, run: Run, realm: str, table: SubscriberTable) -> int | Awaitable[int]:
        """Check the Authorization credentials against a subscriber table.

        realm: "" for the domain of To (REGISTER) or From. Returns 1, or -1 invalid user, -2 invalid password, -3 stale
        nonce, -4 no credentials, -5 other errors (the database among them); 0, which ends the script, when the
        credentials were broken and the answer is 400.
        """
        return self._authorize(run, H_AUTHORIZATION, realm, table)

    @script_function(routes=REQUEST)
    def proxy_authorize(self, run: Run, realm: str, table: SubscriberTable) -> int | Awaitable[int]:
        """Check the Proxy-Authorization credentials against a subscriber table. As www_authorize."""
        return self._authorize(run, H_PROXY_AUTHORIZATION, realm, table)

    def _authorize(self, run: Run, kind: int, realm: str, table: str) -> int | Awaitable[int]:
        attempt = self._auth.begin(run, kind, realm)
        if isinstance(attempt, int):
            return attempt
        column = self.password_column if attempt.algorithm < SHA256 else self._secret_column(attempt)
        select = self._selects.get((table, column))
        if select is not None:
            if self.use_domain:
                rows = select.rows_now(attempt.user, attempt.domain)
            else:
                rows = select.rows_now(attempt.user)
            if rows is not None:
                return self._judge(run, attempt, rows)
        return self._authorize_waiting(run, attempt, table, select)

    async def _authorize_waiting(self, run: Run, attempt: Attempt, table: str, select: PreparedSelect | None) -> int:
        try:
            if select is None:
                select = await self._prepare(table, self._secret_column(attempt))
            values = (attempt.user, attempt.domain) if self.use_domain else (attempt.user,)
            rows = await select.rows(*values)
        except DatabaseError as error:
            self._tell(error)
            return GENERIC_ERROR
        return self._judge(run, attempt, rows)

    async def _prepare(self, table: str, secret_column: str) -> PreparedSelect:
        await self._check_version(table, SUBSCRIBER_VERSION)
        columns = [secret_column, *(column for _, column in self._load)]
        conditions = [(self.user_column, "=")]
        if self.use_domain:
            conditions.append((self.domain_column, "="))
        if len(self._selects) >= MAX_SELECTS:
            self._selects.clear()
        made = self._selects[table, secret_column] = self._db.prepare(table, columns, conditions, limit=1)
        return made

    def _judge(self, run: Run, attempt: Attempt, rows: list[tuple[DbValue, ...]]) -> int:
        """What comes of the credentials with the user's row, if there is one."""
        if not rows:
            return INVALID_USER
        row = rows[0]
        secret = row[0]
        if not isinstance(secret, str):
            secret = str(script_value(secret) or "")
        code = self._auth.finish(run, attempt, secret, bool(self.calculate_ha1))
        if code == AUTHORIZED and self._load:
            for (avp, _), value in zip(self._load, row[1:], strict=True):
                if value is not None and value != "":
                    run.avps.setdefault(avp, []).append(script_value(value))
        return code

    def _secret_column(self, attempt: Attempt) -> str:
        if not self.calculate_ha1:
            if attempt.algorithm in (SHA256, SHA256_SESS):
                return self.hash_column_sha256
            if attempt.algorithm in (SHA512_256, SHA512_256_SESS):
                return self.hash_column_sha512t256
        return self.password_column

    # --- URIs

    @script_function(routes=REQUEST)
    async def db_is_to_authorized(self, run: Run, table: UriTable) -> int:
        """Tell whether a uri table lets the user of To be used with the credentials that were found correct."""
        return await self._is_authorized(run, run.msg.to.uri, table)

    @script_function(routes=REQUEST)
    async def db_is_from_authorized(self, run: Run, table: UriTable) -> int:
        """Tell whether a uri table lets the user of From be used with the credentials that were found correct."""
        return await self._is_authorized(run, run.msg.from_.uri, table)

    async def _is_authorized(self, run: Run, uri: str, table: str) -> int:
        credentials = self._auth.authorized(run)
        if credentials is None:
            self.core.log.error("auth_db: no credentials were authorized before")
            return -1
        try:
            user = parse_uri(uri).user
        except ParseError:
            return -1
        auth_user, at, domain = credentials.username.rpartition("@")
        where: list[Condition] = [
            (self.uri_user_column, "=", auth_user if at else credentials.username),
            (self.uri_uriuser_column, "=", user),
        ]
        if self.use_domain:
            where.append((self.uri_domain_column, "=", domain if at else credentials.realm))
        rows = await self._select(table, URI_VERSION, [self.uri_user_column], where)
        return 1 if rows else -1

    @script_function(routes=REQUEST | FAILURE | LOCAL)
    async def db_does_uri_exist(self, run: Run, uri: str, table: SubscriberTable) -> int:
        """Tell whether user@domain of a URI is in a subscriber table. -1 also without user or without database."""
        try:
            parsed = parse_uri(uri or "")
        except ParseError:
            return -1
        if not parsed.user:
            return -1
        where: list[Condition] = [(self.user_column, "=", parsed.user)]
        if self.use_domain:
            where.append((self.domain_column, "=", parsed.host_text))
        return 1 if await self._select(table, SUBSCRIBER_VERSION, [self.user_column], where) else -1

    @script_function(routes=REQUEST | FAILURE | LOCAL)
    async def db_get_auth_id(
        self,
        run: Run,
        table: UriTable,
        uri: str,
        auth: Annotated[VarRef, WritableVar("avp")],
        realm: Annotated[VarRef, WritableVar("avp")],
    ) -> int:
        """Find the authentication user and realm of a URI in a uri table and put them into two AVPs."""
        try:
            parsed = parse_uri(uri or "")
        except ParseError:
            return -1
        if not parsed.user:
            return -1
        where: list[Condition] = [(self.uri_uriuser_column, "=", parsed.user)]
        if self.use_domain:
            where.append((self.uri_domain_column, "=", parsed.host_text))
        rows = await self._select(table, URI_VERSION, [self.uri_user_column, self.uri_domain_column], where)
        if not rows:
            return -1
        auth.set(run, script_value(rows[0][0]))
        realm.set(run, script_value(rows[0][1]))
        return 1

    async def _select(
        self, table: str, version: int, columns: list[str], where: list[Condition]
    ) -> list[tuple[DbValue, ...]] | None:
        """At most one row; None when the database could not answer. The log is told by the database or here."""
        try:
            await self._check_version(table, version)
            return await self._db.select(table, columns, where, limit=1)
        except DatabaseError as error:
            self._tell(error)
            return None

    async def _check_version(self, table: str, version: int) -> None:
        if not self.skip_version_check and table not in self._checked:
            await self._db.check_version(table, version)
            self._checked.add(table)

    def _tell(self, error: DatabaseError) -> None:
        if not error.transient:  # of others the database tells
            self.core.log.error("auth_db: %s", error)
