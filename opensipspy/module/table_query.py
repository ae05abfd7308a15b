"""Questions to tables while a message waits: versions are checked at the first one, the log hears of failures."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from opensipspy.db import Condition, Database, DatabaseError, DbValue
from opensipspy.script.run import Run, Value
from opensipspy.sip import Message, ParseError, Uri, parse_uri

LOG: Final = logging.getLogger(__name__)

LONGEST_URI: Final = 1024
MOST_ROWS: Final = 1000


class TableQuery:
    """Reads rows of tables that have one version, which the script may name."""

    def __init__(self, database: Database, version: int) -> None:
        self.database = database
        self._version = version
        self._checked: set[str] = set()

    async def rows(
        self, table: str, columns: Sequence[str], where: Sequence[Condition], limit: int = MOST_ROWS
    ) -> list[tuple[DbValue, ...]] | None:
        """The rows; None when the database could not answer."""
        try:
            if table not in self._checked:
                await self.database.check_version(table, self._version)
                self._checked.add(table)
            return await self.database.select(table, columns, where, limit=limit)
        except DatabaseError as error:
            # That it cannot be reached the database tells once by itself.
            if not error.transient:
                LOG.error("%s", error)
            return None


def request_of(run: Run) -> Message:
    """The request that a route works for, in a failure route as well."""
    return run.request if run.request is not None else run.msg


def is_uri(text: str) -> bool:
    """Whether what a table holds can be a Request-URI: no white space or control character, not too long."""
    if len(text) > LONGEST_URI or any(char <= " " or char in '<>"\x7f' for char in text):
        return False
    try:
        parse_uri(text)
    except ParseError:
        return False
    return True


def stripped(domain: str, prefix: str | None) -> str:
    """A domain without a prefix that the table does not have ("sip." for example); case does not count."""
    if prefix and len(prefix) < len(domain) and domain[: len(prefix)].lower() == prefix.lower():
        return domain[len(prefix) :]
    return domain


def uri_of(text: str) -> Uri | None:
    try:
        return parse_uri(text)
    except ParseError:
        return None


def script_value(value: DbValue) -> Value:
    """What a column's value is in a script."""
    if value is None or isinstance(value, int | str):
        return value
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def parse_loads(text: str) -> list[tuple[str, str]]:
    """(AVP, column) of each part of a load_credentials parameter, "$avp(name)=column;column2". Raises ValueError."""
    found = []
    for item in (part.strip() for part in text.split(";")):
        if not item:
            continue
        left, equals, right = (part.strip() for part in item.partition("="))
        avp, column = (left, right) if equals else (f"$avp({left})", left)
        if not column or not avp.startswith("$avp(") or not avp.endswith(")") or len(avp) < len("$avp(x)"):
            raise ValueError(f'"{item}" is not of the form $avp(name)=column or column')
        found.append((avp[len("$avp(") : -1].strip(), column))
    return found
