"""Tables as modules declare them. A back-end's driver turns a `Table` into its own SQL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

TYPES: Final = frozenset(
    {
        "binary",
        "char",
        "datetime",
        "double",
        "float",
        "int",
        "string",
        "text",
        "unsigned int",
        "unsigned long",
        "unsigned short",
    }
)
INTEGER_TYPES: Final = frozenset({"int", "unsigned int", "unsigned long", "unsigned short"})
TEXT_TYPES: Final = frozenset({"char", "string", "text"})


class _NoDefault:
    __slots__ = ()

    def __repr__(self) -> str:
        return "NO_DEFAULT"


NO_DEFAULT: Final = _NoDefault()
"""The column declares no default; None is the default NULL."""

Default = str | int | float | None | _NoDefault
Size = int | str | None


class Column:
    """One column. type: a word of `TYPES`. size: characters or digits ("10,2" for digits with a fraction)."""

    __slots__ = ("autoincrement", "default", "name", "null", "primary", "size", "type")

    def __init__(
        self,
        name: str,
        type: str,
        size: Size = None,
        *,
        null: bool = False,
        default: Default = NO_DEFAULT,
        primary: bool = False,
        autoincrement: bool = False,
    ) -> None:
        if type not in TYPES:
            raise ValueError(f"column {name}: unknown type {type!r}")
        self.name = name
        self.type = type
        self.size = size
        self.null = null
        self.default = default
        self.primary = primary
        self.autoincrement = autoincrement


class Index:
    """An index over `columns`, in their order; its name is unique within the table."""

    __slots__ = ("columns", "name", "unique")

    def __init__(self, name: str, columns: Sequence[str], *, unique: bool = False) -> None:
        self.name = name
        self.columns = tuple(columns)
        self.unique = unique


class Table:
    """A table. version: the number that the `version` table holds for it, None for that table itself."""

    __slots__ = ("columns", "indexes", "name", "version")

    def __init__(
        self, name: str, version: int | None, columns: Iterable[Column], indexes: Iterable[Index] = ()
    ) -> None:
        self.name = name
        self.version = version
        self.columns = tuple(columns)
        self.indexes = tuple(indexes)
        known = {c.name for c in self.columns}
        for index in self.indexes:
            if not known.issuperset(index.columns):
                raise ValueError(f"table {name}: index {index.name} names a column that the table does not have")

    def __repr__(self) -> str:
        return f"<Table {self.name} version {self.version}>"


VERSION_TABLE: Final = Table(
    "version",
    None,
    (
        Column("table_name", "string", 32),
        Column("table_version", "unsigned int", default="0"),
    ),
    (Index("t_name_idx", ("table_name",), unique=True),),
)
"""Which version of its layout each table has."""


def auto_id(name: str = "id") -> Column:
    """The numbered primary key that most tables begin with."""
    return Column(name, "unsigned int", 10, primary=True, autoincrement=True)
