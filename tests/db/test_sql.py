"""The text of statements."""

from __future__ import annotations

import pytest

from opensipspy.db import Delete, Insert, InsertUpdate, Replace, SqlText, Update, numbered_marks


@pytest.mark.parametrize(
    ("sql", "numbered"),
    [
        ("SELECT ?", "SELECT $1"),
        ("a = ? AND b = ? -- why?\nAND c = ?", "a = $1 AND b = $2 -- why?\nAND c = $3"),
        ("'?' \"?\" `?` /* ? */ ?", "'?' \"?\" `?` /* ? */ $1"),
        ("'it''s ?' ?", "'it''s ?' $1"),
        ("'never closed ?", "'never closed ?"),
        ("/* never closed ?", "/* never closed ?"),
        ("--?", "--?"),
        ("a - ? / ?", "a - $1 / $2"),
        ("", ""),
    ],
)
def test_marks_are_numbered_outside_of_texts(sql: str, numbered: str) -> None:
    assert numbered_marks(sql) == numbered


@pytest.mark.parametrize(
    ("write", "sql", "args"),
    [
        (Insert("t", {"a": 1, "b": None}), 'INSERT INTO "t" ("a", "b") VALUES (?, ?)', [1, None]),
        (Update("t", {"a": 1}, (("b", ">", 2),)), 'UPDATE "t" SET "a" = ? WHERE "b" > ?', [1, 2]),
        (
            Delete("t", (("a", "=", None), ("b", "!=", None))),
            'DELETE FROM "t" WHERE "a" IS NULL AND "b" IS NOT NULL',
            [],
        ),
        (Replace("t", {"a": 1}), 'REPLACE INTO "t" ("a") VALUES (?)', [1]),
        (
            InsertUpdate("t", {"a": 1, "b": 2}, ("a",)),
            'INSERT INTO "t" ("a", "b") VALUES (?, ?) ON CONFLICT ("a") DO UPDATE SET "b" = excluded."b"',
            [1, 2],
        ),
        (InsertUpdate("t", {"a": 1}, ("a",)), 'INSERT INTO "t" ("a") VALUES (?) ON CONFLICT ("a") DO NOTHING', [1]),
    ],
)
def test_writes(write: Insert | Update | Delete | Replace | InsertUpdate, sql: str, args: list[object]) -> None:
    assert SqlText().write(write) == (sql, args)


def test_a_select() -> None:
    sql, args = SqlText().select("t", ("a", "b"), (("c", "like", "x%"),), "a desc, b", 5)
    assert sql == 'SELECT "a", "b" FROM "t" WHERE "c" like ? ORDER BY "a" desc, "b" LIMIT ?'
    assert args == ["x%", 5]
    assert SqlText().select("t", (), (), "", 0) == ('SELECT * FROM "t"', [])
