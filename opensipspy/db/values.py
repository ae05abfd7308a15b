"""Reading what a row holds: rows are written by others, so that a column may hold anything."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from opensipspy.db.database import DbValue
from opensipspy.db.errors import DatabaseError


def as_text(value: DbValue) -> str:
    """The text of a value, "" for NULL. Bytes that are no UTF-8 are kept as surrogates."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return str(value)


def octets(text: str) -> bytes:
    """A text in UTF-8, with the bytes that were no text as they came.

    Raises DatabaseError for half a pair of surrogates, as JSON may bring: it stands for no byte.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise DatabaseError("half a pair of surrogates is no text") from None


def sendable(text: str) -> str | bytes:
    """A text, or its bytes when they are no UTF-8. Raises DatabaseError."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return octets(text)
    return text


def as_int(value: DbValue) -> int:
    """The whole number of a value; raises ValueError for what is none (NULL, text that is no number)."""
    if isinstance(value, int):
        return value
    if isinstance(value, float | str):
        try:
            return int(value)
        except OverflowError as error:
            raise ValueError("not a finite number") from error
    raise ValueError(f"{type(value).__name__} is not a number")


def as_float(value: DbValue) -> float:
    """The number of a value; raises ValueError for what is none."""
    if isinstance(value, int | float | str):
        number = float(value)
        if number == number and abs(number) != float("inf"):
            return number
    raise ValueError(f"{type(value).__name__} is not a number")


def as_db_value(value: object) -> DbValue:
    """What a client library gave for a column, as one of the types that modules know."""
    if value is None or isinstance(value, str | bytes | float):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, datetime):
        return value.astimezone().replace(tzinfo=None) if value.tzinfo is not None else value
    if isinstance(value, Decimal):
        return int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    return str(value)
