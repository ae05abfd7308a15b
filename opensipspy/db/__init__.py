"""SQL databases: the contract that modules use and drivers fulfil, and the declaration of tables."""

from .database import (
    OPERATORS,
    Condition,
    Database,
    DbValue,
    Delete,
    Insert,
    InsertUpdate,
    Replace,
    Row,
    Update,
    Write,
)
from .driver import Databases, DbDriver
from .errors import DatabaseError
from .schema import NO_DEFAULT, VERSION_TABLE, Column, Index, Table, auto_id
from .url import DbUrl, parse_url
from .values import as_float, as_int, as_text

__all__ = [
    "NO_DEFAULT",
    "OPERATORS",
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
    "Replace",
    "Row",
    "Table",
    "Update",
    "Write",
    "as_float",
    "as_int",
    "as_text",
    "auto_id",
    "parse_url",
]
