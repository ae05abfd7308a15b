"""SQL from the script: raw and structured queries, and AVPs kept in tables.

What a structured function is given (columns, conditions, values) reaches the database bound, never as a part of the
statement's text, and the names of tables and columns are checked: a value from a message cannot change what a statement
does. Variables in the JSON of these functions are escaped where they stand in a string of it, and are checked where
they stand outside (see `jsontext`): {s.escape.common}, which the manual asks for, does no harm there but is not needed.
An argument with JSON that is NULL fails the function, it is not left out. What a variable given in place of a source,
an AVP's name or a list of variables holds is never expanded. `sql_query()` and `sql_query_one()` take a statement;
what stands within quotes there is escaped as the database wants it (see `statement`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final

from opensipspy.db import (
    OPERATORS,
    Column,
    Condition,
    Database,
    DatabaseError,
    DbValue,
    Delete,
    Index,
    Insert,
    Replace,
    Table,
    Update,
    Write,
    as_int,
    as_text,
    auto_id,
)
from opensipspy.module import (
    Fixup,
    Module,
    NoExpand,
    Omittable,
    Param,
    ParamError,
    WritableVar,
    script_function,
)
from opensipspy.modules.sqlops.jsontext import Json, JsonText
from opensipspy.modules.sqlops.parse import (
    DOMAIN,
    USER,
    Name,
    Scheme,
    Source,
    columns_of,
    filter_of,
    numbered_url,
    plain_name,
    plain_targets,
    row_of,
    variable_list,
)
from opensipspy.modules.sqlops.statement import Query, StatementText
from opensipspy.script.declare import Catalogue
from opensipspy.script.run import Run, Value, VarRef
from opensipspy.sip import ParseError, parse_uri

USR_PREFERENCES: Final = Table(
    "usr_preferences",
    3,
    (
        auto_id(),
        Column("uuid", "string", 64, default=""),
        Column("username", "string", 64, default="0"),
        Column("domain", "string", 64, default=""),
        Column("attribute", "string", 32, default=""),
        Column("type", "int", 11, default="0"),
        Column("value", "string", 128, default=""),
        Column("last_modified", "datetime", default="1900-01-01 00:00:01"),
    ),
    (
        Index("ua_idx", ("uuid", "attribute")),
        Index("uda_idx", ("username", "domain", "attribute")),
        Index("value_idx", ("value",)),
    ),
)

FAILED: Final = -1
EMPTY: Final = -2
NULL_TEXT: Final = "<null>"
"""How an AVP that is filled by a result shows NULL."""
INTEGER_VALUE: Final = 1
"""Bit of the type column: the value is an integer."""
MAX_NAME: Final = 64
"""Characters of an AVP's name with its prefix."""
INT32: Final = 1 << 31


class KeptText(str):
    """The text of an AVP that a table holds already, and the AVP's name."""

    __slots__ = ("avp",)

    avp: str


class KeptNumber(int):
    """The number of an AVP that a table holds already, and the AVP's name."""

    avp: str


def kept(avp: str, value: Value) -> Value:
    """The value with a note that it need not be stored again under this name."""
    found: KeptText | KeptNumber = KeptNumber(value) if isinstance(value, int) else KeptText(value)
    found.avp = avp
    return found


AvpList = Annotated[list[VarRef] | None, NoExpand(), Fixup("avps", "string", at_call="avps_given")]
VariableList = Annotated[
    list[VarRef], NoExpand(), WritableVar(), Fixup("variables_to_write", "string", at_call="variables_given")
]
DatabaseId = Annotated[int | None, Fixup("known_database", "int")]
JsonParam = Annotated[Json, Fixup(JsonText, "string", takes_format=True)]
OptionalJson = Annotated[Json | None, Fixup(JsonText, "string", takes_format=True)]
OmittableJson = Annotated[Json | None, Omittable(), Fixup(JsonText, "string", takes_format=True)]
QueryParam = Annotated[Query, Fixup(StatementText, "string", takes_format=True)]
SourceParam = Annotated[Source, NoExpand(), Fixup("source", "string", at_call="source_given")]
NameParam = Annotated[Name, NoExpand(), Fixup("avp_name", "string", at_call="avp_name_given")]
NameOrSchemeParam = Annotated[
    Name, NoExpand(), Fixup("avp_name_or_scheme", "string", at_call="avp_name_or_scheme_given")
]


class Sqlops(Module):
    """Query and change SQL tables from the script, and keep AVPs of users in them."""

    name = "sqlops"
    tables = (USR_PREFERENCES,)

    attribute_column = Param(str, "attribute", "Column with the AVP's name.")
    bigint_to_str = Param(int, 0, "1 gives integers that do not fit into 32 bits as strings.")
    db_scheme = Param(str, None, "name:element=value;... describes a table of another shape.", func=True)
    db_url = Param(str, None, 'A database; "1 mysql://..." has the number 1, else it is 0.', func=True)
    domain_column = Param(str, "domain", "Column with the domain.")
    ps_id_max_buf_len = Param(
        int, 1024, "Taken for compatibility: the drivers find prepared statements without a buffer.", unit="bytes"
    )
    type_column = Param(str, "type", "Column with the type of an AVP.")
    use_domain = Param(int, 1, "1 tells users of different domains apart.")
    username_column = Param(str, "username", "Column with the user.")
    usr_table = Param(str, "usr_preferences", "Table of AVPs when a function names none.")
    uuid_column = Param(str, "uuid", "Column with the unique identifier of a user.")
    value_column = Param(str, "value", "Column with the AVP's value.")

    def __init__(self, **params: Any) -> None:
        self._urls: dict[int, str] = {}
        self._schemes: dict[str, Scheme] = {}
        self._databases: dict[int, Database] = {}
        super().__init__(**params)

    def set_db_url(self, value: str) -> None:
        number, url = numbered_url(value)
        if number in self._urls:
            raise ValueError(f"number {number} is given twice")
        self._urls[number] = url

    def set_db_scheme(self, value: str) -> None:
        scheme = Scheme(value)
        if scheme.name.lower() in self._schemes:
            raise ValueError(f"scheme {scheme.name} is given twice")
        self._schemes[scheme.name.lower()] = scheme

    def declare(self, catalogue: Catalogue) -> None:
        """Keep the catalogue: variables in parameters are parsed while the script is checked."""
        self._catalogue = catalogue
        super().declare(catalogue)

    async def start(self) -> None:
        if 0 not in self._urls:
            default = getattr(self.core.globals, "db_default_url", None)
            if not default:
                raise ParamError(self.name, "db_url", "is needed")
            self._urls[0] = default
        for number, url in self._urls.items():
            try:
                self._databases[number] = self.core.database(url)
            except DatabaseError as error:
                raise ParamError(self.name, "db_url", str(error)) from error

    # --- what is prepared at load

    def avps(self, text: str) -> list[VarRef]:
        """ "$avp(a);$avp(b)" """
        found = variable_list(text, self._catalogue)
        for spec in found:
            if spec.decl.name != "$avp":
                raise ValueError(f"{spec.text} is no AVP")
        return [spec.reference() for spec in found]

    def variables_to_write(self, text: str) -> list[VarRef]:
        """ "$var(a);$avp(b)" """
        return [spec.reference() for spec in variable_list(text, self._catalogue)]

    def known_database(self, number: int) -> int:
        """The number of a database that there is."""
        if number and number not in self._urls:
            raise ValueError(f"no db_url has the number {number}")
        return number

    def source(self, text: str) -> Source:
        return Source(text, self._catalogue)

    def avp_name(self, text: str) -> Name:
        return Name(text, self._catalogue, None)

    def avp_name_or_scheme(self, text: str) -> Name:
        return Name(text, self._catalogue, self._schemes)

    # --- what variables hold at the call

    def avps_given(self, text: str) -> list[VarRef]:
        return [spec.reference() for spec in plain_targets(text, self._catalogue, ("$avp",))]

    def variables_given(self, text: str) -> list[VarRef]:
        return [spec.reference() for spec in plain_targets(text, self._catalogue, ("$avp", "$var"))]

    def source_given(self, text: str) -> Source:
        return Source(text, None)

    def avp_name_given(self, text: str) -> Name:
        return plain_name(self.avp_name(text))

    def avp_name_or_scheme_given(self, text: str) -> Name:
        return plain_name(self.avp_name_or_scheme(text))

    # --- raw statements

    @script_function(async_ok=True)
    async def sql_query(
        self,
        run: Run,
        query: QueryParam,
        res_col_avps: AvpList = None,
        db_id: DatabaseId = None,
    ) -> int:
        """Run a statement in the database's own language; all rows go to AVPs, the first row on top, NULL as "<null>".

        A variable within quotes stays there, whatever it holds; others have to be checked by the script. Without
        res_col_avps the columns go to $avp(1), $avp(2)... Returns 1, -2 without a row, -1 on failure.
        """
        return self._to_avps(run, await self._raw(query, db_id), res_col_avps)

    @script_function(async_ok=True)
    async def sql_query_one(
        self,
        run: Run,
        query: QueryParam,
        res_col_vars: VariableList | None = None,
        db_id: DatabaseId = None,
    ) -> int:
        """Run a statement in the database's own language; the first row goes to variables, NULL as NULL.

        There must be a variable for each column. Returns 1, -2 without a row, -1 on failure.
        """
        return self._to_variables(run, await self._raw(query, db_id), res_col_vars or [])

    async def _raw(self, query: Query | None, db_id: int | None) -> list[tuple[DbValue, ...]] | None:
        database = self._databases[db_id or 0]
        sql = "" if query is None else query.text(database.backslashes)
        if not sql:
            self.core.log.error("sqlops: the query is empty")
            return None
        try:
            return await database.raw(sql)
        except DatabaseError as error:
            # The statement may hold what a caller sent: it stays out of the log.
            self.core.log.error("sqlops: query: %s", error)
            return None

    # --- structured statements

    @script_function()
    async def sql_select(
        self,
        run: Run,
        columns: OmittableJson,
        table: str,
        filter: OptionalJson = None,
        order: str | None = None,
        res_col_avps: AvpList = None,
        db_id: DatabaseId = None,
    ) -> int:
        """Read rows of a table into AVPs, the first row on top, NULL as "<null>".

        columns: '["a","b"]', all when left out. filter: '[{"a":"x"},{"b":{">":3}}]'. order: a column. Without
        res_col_avps the columns go to $avp(1), $avp(2)... Returns 1, -2 without a row, -1 on failure.
        """
        return self._to_avps(run, await self._select(columns, table, filter, order, 0, db_id), res_col_avps)

    @script_function()
    async def sql_select_one(
        self,
        run: Run,
        columns: OmittableJson,
        table: Annotated[str | None, Omittable()],
        filter: JsonParam,
        order: Annotated[str | None, Omittable()],
        res_col_vars: VariableList,
        db_id: DatabaseId = None,
    ) -> int:
        """Read the first row of a table into variables, NULL as NULL; parameters as in sql_select.

        There must be a variable for each column. Without a table it is usr_table. Returns 1, -2, or -1.
        """
        rows = await self._select(columns, table or self.usr_table, filter, order, 1, db_id)
        return self._to_variables(run, rows, res_col_vars)

    async def _select(
        self,
        columns: Json | None,
        table: str | None,
        conditions: Json | None,
        order: str | None,
        limit: int,
        db_id: int | None,
    ) -> list[tuple[DbValue, ...]] | None:
        try:
            names = "" if columns is None else columns.text()
            wanted = columns_of(names) if names else []
            where = self._where(conditions)
            return await self._databases[db_id or 0].select(table or "", wanted, where, order or "", limit)
        except (ValueError, DatabaseError) as error:
            self.core.log.error("sqlops: select from %s: %s", table, error)
            return None

    @script_function()
    async def sql_update(
        self, run: Run, columns: JsonParam, table: str, filter: OptionalJson = None, db_id: DatabaseId = None
    ) -> int:
        """Set columns ('[{"a":1},{"b":"x"}]') of the rows that a filter finds, of all rows without one. 1 or -1."""
        try:
            write = Update(table or "", row_of(columns.text()), self._where(filter))
        except ValueError as error:
            return self._refused("update", table, error)
        return await self._write(db_id, "update", write)

    @script_function()
    async def sql_insert(self, run: Run, table: str, columns: JsonParam, db_id: DatabaseId = None) -> int:
        """Add a row ('[{"a":1},{"b":"x"}]'). 1 or -1."""
        try:
            write = Insert(table or "", row_of(columns.text()))
        except ValueError as error:
            return self._refused("insert", table, error)
        return await self._write(db_id, "insert", write)

    @script_function()
    async def sql_replace(self, run: Run, table: str, columns: JsonParam, db_id: DatabaseId = None) -> int:
        """Put a row ('[{"a":1},{"b":"x"}]') in place of any that has the same unique key. 1 or -1."""
        try:
            write = Replace(table or "", row_of(columns.text()))
        except ValueError as error:
            return self._refused("replace", table, error)
        return await self._write(db_id, "replace", write)

    @script_function()
    async def sql_delete(self, run: Run, table: str, filter: OptionalJson = None, db_id: DatabaseId = None) -> int:
        """Remove the rows that a filter finds, all rows without one. 1 or -1."""
        try:
            write = Delete(table or "", self._where(filter))
        except ValueError as error:
            return self._refused("delete", table, error)
        return await self._write(db_id, "delete", write)

    @staticmethod
    def _where(text: Json | None) -> list[Condition]:
        where = filter_of(None if text is None else text.text())
        for _, operator, _ in where:
            if operator not in OPERATORS:
                raise ValueError(f"{operator!r} is none of {' '.join(sorted(OPERATORS))}")
        return where

    def _refused(self, what: str, table: str | None, error: ValueError) -> int:
        self.core.log.error("sqlops: %s of %s: %s", what, table, error)
        return FAILED

    async def _write(self, db_id: int | None, what: str, *writes: Write) -> int:
        try:
            await self._databases[db_id or 0].execute(writes)
        except DatabaseError as error:
            self.core.log.error("sqlops: %s of %s: %s", what, writes[0].table, error)
            return FAILED
        return 1

    # --- results

    def _to_avps(self, run: Run, rows: list[tuple[DbValue, ...]] | None, avps: list[VarRef] | None) -> int:
        if rows is None:
            return FAILED
        if not rows or not rows[0]:
            return EMPTY
        if avps:
            # Columns without an AVP are left out.
            for row in reversed(rows):
                for avp, value in zip(avps, row, strict=False):
                    avp.set(run, NULL_TEXT if value is None else self._script_value(value))
            return 1
        for row in reversed(rows):
            for number, value in enumerate(row, 1):
                shown = NULL_TEXT if value is None else self._script_value(value)
                run.avps.setdefault(str(number), []).append(shown)
        return 1

    def _to_variables(self, run: Run, rows: list[tuple[DbValue, ...]] | None, variables: Sequence[VarRef]) -> int:
        if rows is None:
            return FAILED
        if not rows or not rows[0]:
            return EMPTY
        row = rows[0]
        if len(variables) < len(row):
            self.core.log.error("sqlops: %d columns for %d variables", len(row), len(variables))
            return FAILED
        for variable, value in zip(variables, row, strict=False):
            variable.set(run, None if value is None else self._script_value(value))
        return 1

    def _script_value(self, value: DbValue) -> Value:
        """A column's value: integers of 32 bits, times as seconds since 1970, fractions and the rest as text."""
        if isinstance(value, int):
            value = int(value)
            if -INT32 <= value < INT32:
                return value
            # The script's integers wrap, as everywhere in it.
            return str(value) if self.bigint_to_str else ((value + INT32) & (2 * INT32 - 1)) - INT32
        if isinstance(value, datetime):
            try:
                return int(value.timestamp())
            except (OverflowError, OSError, ValueError):
                return 0
        if isinstance(value, float):
            return f"{value:.8f}"
        return as_text(value)

    # --- AVPs in tables

    @script_function()
    async def sql_avp_load(
        self,
        run: Run,
        source: SourceParam,
        name: NameOrSchemeParam,
        db_id: DatabaseId = None,
        prefix: str | None = None,
    ) -> int:
        """Load AVPs of a user from a table. -1 when none was found.

        source: "$fu", "$tu/username", "$avp(uuid)", "text". name: "$avp(x)", "*", with "/table" or "/$scheme". prefix:
        goes before the names of the AVPs.
        """
        where = self._user(run, source, name.scheme)
        attribute = name.attribute(run)
        if where is None or (not attribute and not name.every):
            return FAILED
        scheme = name.scheme
        columns = [self.value_column]
        if scheme is not None:
            columns = [scheme.columns.get("value_col", self.value_column)]
            table = scheme.columns.get("table", self.usr_table)
        else:
            columns += [self.attribute_column, self.type_column]
            table = name.table or self.usr_table
            if not name.every:
                where.append((self.attribute_column, "=", attribute))
        try:
            rows = await self._databases[db_id or 0].select(table, columns, where)
        except DatabaseError as error:
            self.core.log.error("sqlops: AVPs of %s: %s", table, error)
            return FAILED
        found = 0
        for row in rows:
            try:
                self._add_loaded(run, row, scheme, "" if name.every else attribute, prefix or "")
                found += 1
            except ValueError as error:
                self.core.log.warning("sqlops: a row of %s is left out: %s", table, error)
        return 1 if found else FAILED

    def _add_loaded(
        self, run: Run, row: tuple[DbValue, ...], scheme: Scheme | None, attribute: str, prefix: str
    ) -> None:
        if any(value is None for value in row):
            raise ValueError("it holds NULL")
        integer = scheme.integers if scheme is not None else bool(as_int(row[2]) & INTEGER_VALUE)
        avp = prefix + (attribute or as_text(row[1]))
        if not avp or len(avp) > MAX_NAME:
            raise ValueError(f"an AVP's name has 1 to {MAX_NAME} characters")
        value: Value = as_text(row[0])
        if integer:
            value = as_int(row[0])
            if not -INT32 <= value < INT32:
                raise ValueError("the number has more than 32 bits")
        run.avps.setdefault(avp, []).append(kept(avp, value))

    @script_function()
    async def sql_avp_store(
        self,
        run: Run,
        source: SourceParam,
        name: NameParam,
        db_id: DatabaseId = None,
    ) -> int:
        """Store AVPs of a user in a table: those that were not loaded from one or stored before. -1 when none was."""
        user = self._user(run, source, None)
        attribute = name.attribute(run)
        if user is None or (not attribute and not name.every):
            return FAILED
        row: dict[str, DbValue] = {self.uuid_column: "", self.username_column: "", self.domain_column: ""}
        row.update((column, value) for column, _, value in user)
        table = name.table or self.usr_table
        fresh = []
        for avp in list(run.avps) if name.every else [attribute]:
            for value in run.avps.get(avp, []):
                if value is not None and getattr(value, "avp", None) != avp:
                    fresh.append((avp, value))
        if not fresh:
            return FAILED
        writes = [
            Insert(
                table,
                {
                    **row,
                    self.attribute_column: avp,
                    self.value_column: str(value),
                    self.type_column: INTEGER_VALUE if isinstance(value, int) else 0,
                },
            )
            for avp, value in fresh
        ]
        if await self._write(db_id, "insert", *writes) < 0:
            return FAILED
        for avp, value in fresh:
            stack = run.avps.get(avp, [])
            for at, there in enumerate(stack):
                # The script may have gone on with the stack elsewhere while this waited.
                if there is value:
                    stack[at] = kept(avp, value)
                    break
        return 1

    @script_function()
    async def sql_avp_delete(
        self,
        run: Run,
        source: SourceParam,
        name: NameParam,
        db_id: DatabaseId = None,
    ) -> int:
        """Remove a user's AVPs from a table. 1, also when there were none, or -1 on failure."""
        where = self._user(run, source, None)
        attribute = name.attribute(run)
        if where is None or (not attribute and not name.every):
            return FAILED
        if not name.every:
            where.append((self.attribute_column, "=", attribute))
        return await self._write(db_id, "delete", Delete(name.table or self.usr_table, where))

    def _user(self, run: Run, source: Source, scheme: Scheme | None) -> list[Condition] | None:
        """The conditions that find a user's rows; None, with a line in the log, when the source does not name one."""
        value = source.value(run)
        if value is None or value == "":
            self.core.log.error("sqlops: %s has no value", source.text)
            return None
        own = scheme.columns if scheme is not None else {}
        if not source.parts:
            return [(own.get("uuid_col", self.uuid_column), "=", str(value))]
        try:
            uri = parse_uri(str(value))
        except ParseError:
            self.core.log.error("sqlops: the value of %s is no URI", source.text)
            return None
        where: list[Condition] = []
        if source.parts & USER:
            if not uri.user:
                self.core.log.error("sqlops: the URI of %s has no user", source.text)
                return None
            where.append((own.get("username_col", self.username_column), "=", uri.user))
        if source.parts == DOMAIN or (source.parts & DOMAIN and self.use_domain):
            where.append((own.get("domain_col", self.domain_column), "=", uri.host_text))
        return where
