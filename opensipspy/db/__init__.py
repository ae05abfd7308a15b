"""SQL databases: the contract that modules use and drivers fulfil, and the declaration of tables."""

from .absent import TABLES as TABLES_OF_ABSENT_MODULES
from .database import (
    OPERATORS,
    Condition,
    Database,
    DbValue,
    Delete,
    Insert,
    InsertUpdate,
    PreparedSelect,
    Replace,
    Row,
    Update,
    Write,
)
from .driver import Databases, DbDriver
from .errors import DatabaseError, RefusedError
from .migration import OldTable, old_tables
from .pool import Limits, Link, LostError, PooledDatabase
from .schema import INTEGER_TYPES, NO_DEFAULT, VERSION_TABLE, Column, Index, Table, auto_id
from .sql import SqlText, check_single, literal, missing_tables, numbered_marks
from .url import DbUrl, parse_url
from .values import as_db_value, as_float, as_int, as_text, octets, sendable
from .words import one_line, sqlite_words, without_values

__all__ = [
    "INTEGER_TYPES",
    "NO_DEFAULT",
    "OPERATORS",
    "TABLES_OF_ABSENT_MODULES",
    "VERSION_TABLE",
    "Column",
    "Condition",
    "Database",
    "DatabaseError",
    "Databases",
    "DbDriver",
    "DbUrl",
    "DbValue",
    "Delete",
    "Index",
    "Insert",
    "InsertUpdate",
    "Limits",
    "Link",
    "LostError",
    "OldTable",
    "PooledDatabase",
    "PreparedSelect",
    "RefusedError",
    "Replace",
    "Row",
    "SqlText",
    "Table",
    "Update",
    "Write",
    "as_db_value",
    "as_float",
    "as_int",
    "as_text",
    "auto_id",
    "check_single",
    "literal",
    "missing_tables",
    "numbered_marks",
    "octets",
    "old_tables",
    "one_line",
    "parse_url",
    "sendable",
    "sqlite_words",
    "without_values",
]
