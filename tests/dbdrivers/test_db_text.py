"""db_text: the format of its files, db_mode, dump and reload (db_text manual page)."""

from __future__ import annotations

import asyncio
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from opensipspy.db import Column, Database, DatabaseError, Table, Update, as_text, auto_id, parse_url
from opensipspy.dbdrivers.db_text import DbText
from opensipspy.module import MiError
from opensipspy.module.testing import FakeCore
from opensipspy.modules.acc import ACC
from tests.modules.asynchronous import in_loop

SAMPLE = (
    "id(int,auto) name(str) flag(double) desc(str,null)\n"
    "1:nick:0.34:a\\tgood\\: friend\n"
    "2:cole:-3.75:colleague\n"
    "3:bob:2.50:\n"
)


def driver(**params: Any) -> DbText:
    return FakeCore().add(DbText(**params))


def folder_with(tmp_path: Path, **files: str) -> Path:
    for name, text in files.items():
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    return tmp_path


def open_folder(module: DbText, folder: Path) -> Database:
    return module.open_database(parse_url(f"text://{folder}"))


async def rows(database: Database, table: str, *columns: str) -> list[Any]:
    return await database.select(table, columns)


@in_loop
async def test_the_format_of_the_manual(tmp_path: Path) -> None:
    database = open_folder(driver(), folder_with(tmp_path, people=SAMPLE))
    assert await rows(database, "people", "id", "name", "flag", "desc") == [
        (1, "nick", 0.34, "a\tgood: friend"),
        (2, "cole", -3.75, "colleague"),
        (3, "bob", 2.5, None),
    ]
    await database.insert("people", {"name": "eve\n:\\\0", "flag": 1})
    await database.close()
    assert (tmp_path / "people").read_text() == SAMPLE.replace("2.50", "2.5") + "4:eve\\n\\:\\\\\\0:1.0:\n"


@in_loop
async def test_what_was_not_changed_is_not_written(tmp_path: Path) -> None:
    folder_with(tmp_path, people=SAMPLE, other="name(str)\nx\n")
    database = open_folder(driver(), tmp_path)
    await database.update("other", {"name": "y"}, ())
    before = os.stat(tmp_path / "people").st_mtime_ns
    await database.close()
    assert (tmp_path / "people").read_text() == SAMPLE
    assert os.stat(tmp_path / "people").st_mtime_ns == before
    assert (tmp_path / "other").read_text() == "name(str)\ny\n"


@in_loop
async def test_permissions_of_a_file_are_kept(tmp_path: Path) -> None:
    folder_with(tmp_path, other="name(str)\nx\n")
    (tmp_path / "other").chmod(0o640)
    database = open_folder(driver(), tmp_path)
    await database.delete("other")
    await database.close()
    assert os.stat(tmp_path / "other").st_mode & 0o777 == 0o640
    assert sorted(os.listdir(tmp_path)) == ["other"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "line 1"),
        ("name", "line 1"),
        ("name(str", "line 1"),
        ("name(zebra)", "line 1"),
        ("name(str) name(int)", "two columns name"),
        ("name(str,auto)", "cannot be auto"),
        ("a(int) b(str)\n1", "line 2: 1 fields for 2 columns"),
        ("a(int) b(str)\n1:2:3:4", "line 2: 4 fields"),
        ("a(int) b(str)\n1:x\nx:y\n", "line 3: column a"),
        ("a(int) b(str)\n1:\\q\n", "line 2: column b: \\\\q is no escape"),
        ("a(int) b(str)\n1:\\", "line 2: column b"),
    ],
)
@in_loop
async def test_a_bad_file_is_told_with_its_line(tmp_path: Path, text: str, reason: str) -> None:
    database = open_folder(driver(), folder_with(tmp_path, people=text))
    with pytest.raises(DatabaseError, match=reason) as caught:
        await rows(database, "people")
    assert not caught.value.transient
    await database.close()
    assert (tmp_path / "people").read_text() == text


@in_loop
async def test_bytes_that_are_no_text_survive(tmp_path: Path) -> None:
    wild = b"name(str)\ncaf\xe9 \xff\n"
    (tmp_path / "people").write_bytes(wild)
    database = open_folder(driver(), tmp_path)
    [(found,)] = await rows(database, "people", "name")
    assert as_text(found).encode("utf-8", "surrogateescape") == b"caf\xe9 \xff"
    await database.execute([Update("people", {"name": "x"}, (("name", "=", "nobody"),))])
    await database.close()
    assert (tmp_path / "people").read_bytes() == wild


@in_loop
async def test_a_missing_folder_may_come(tmp_path: Path) -> None:
    database = open_folder(driver(), tmp_path / "late")
    with pytest.raises(DatabaseError) as caught:
        await rows(database, "people")
    assert caught.value.transient
    folder = tmp_path / "late"
    folder.mkdir()
    folder_with(folder, people=SAMPLE)
    assert len(await rows(database, "people")) == 3
    await database.close()


@in_loop
async def test_dump_writes_at_once(tmp_path: Path) -> None:
    module = driver()
    database = open_folder(module, folder_with(tmp_path, other="name(str)\nx\n"))
    await database.insert("other", {"name": "y"})
    assert (tmp_path / "other").read_text() == "name(str)\nx\n"
    assert await module.core.mi.call("db_text:dump", {}) == "OK"
    assert (tmp_path / "other").read_text() == "name(str)\nx\ny\n"
    await database.close()


@in_loop
async def test_reload(tmp_path: Path) -> None:
    module = driver()
    database = open_folder(module, folder_with(tmp_path, one="name(str)\nx\n", two="name(str)\ny\n"))
    assert await rows(database, "one", "name") == [("x",)]
    folder_with(tmp_path, one="name(str)\nX\n", two="name(str)\nY\n")
    assert await rows(database, "one", "name") == [("x",)]
    call = module.core.mi.call
    await call("db_text:reload", {"db_name": str(tmp_path), "table_name": "one"})
    assert [await rows(database, table, "name") for table in ("one", "two")] == [[("X",)], [("y",)]]
    folder_with(tmp_path, one="broken\n", two="name(str)\nZ\n")
    with pytest.raises(MiError, match="table one: line 1"):
        await call("db_text:reload", {})
    assert [await rows(database, table, "name") for table in ("one", "two")] == [[("X",)], [("Z",)]]
    for params in ({"db_name": "/nowhere"}, {"db_name": str(tmp_path), "table_name": "three"}):
        with pytest.raises(MiError, match="not in use"):
            await call("db_text:reload", params)
    await database.close()


@in_loop
async def test_db_mode_1_sees_a_changed_file(tmp_path: Path) -> None:
    database = open_folder(driver(db_mode=1), folder_with(tmp_path, one="name(str)\nx\n"))
    assert await rows(database, "one", "name") == [("x",)]
    folder_with(tmp_path, one="name(str)\nlonger\n")
    assert await rows(database, "one", "name") == [("longer",)]
    (tmp_path / "one").unlink()
    assert await rows(database, "one", "name") == [("longer",)]
    await database.close()


def test_times_are_seconds_since_1970(tmp_path: Path) -> None:
    table = Table("calls", 1, (auto_id(), Column("time", "datetime")), ())

    async def run() -> None:
        module = driver()
        module.declared = {"calls": table}
        url = parse_url(f"text://{tmp_path}")
        assert await module.create_tables(url, [table]) == ["version", "calls"]
        database = module.open_database(url)
        await database.insert("calls", {"time": "2026-02-28 23:59:58"})
        await database.close()
        [_, line] = (tmp_path / "calls").read_text().splitlines()
        assert line.startswith("1:17723")
        again = module.open_database(url)
        assert await again.select("calls", ("time",)) == [("2026-02-28 23:59:58",)]
        await again.close()

    asyncio.run(run())


@pytest.mark.parametrize("url", ["text:", "text://", "text://user@host/x"])
def test_urls_that_cannot_be_right(url: str) -> None:
    with pytest.raises(DatabaseError, match="names a folder"):
        driver().open_database(parse_url(url))


@pytest.mark.parametrize("value", ["1\n2:forged", "x:y", "", b"\xff", 1.5, float("inf")])
@in_loop
async def test_nobody_forges_a_row_through_a_column_of_numbers(tmp_path: Path, value: Any) -> None:
    """SQLite, which memory is made of, takes any text for a number: the file must not."""
    database = open_folder(driver(), folder_with(tmp_path, people="id(int) name(str)\n1:anna\n"))
    with pytest.raises(DatabaseError) as caught:
        await database.insert("people", {"id": value, "name": "bert"})
    assert not caught.value.transient
    with pytest.raises(DatabaseError):
        await database.raw("UPDATE people SET id = 'one' || char(10) || '7:forged'")
    await database.close()
    assert (tmp_path / "people").read_text() == "id(int) name(str)\n1:anna\n"


@in_loop
async def test_a_number_beyond_64_bits_is_told(tmp_path: Path) -> None:
    database = open_folder(driver(), folder_with(tmp_path, people="id(int)\n99999999999999999999\n"))
    for _ in range(2):
        with pytest.raises(DatabaseError, match="too large"):
            await rows(database, "people")
    await database.close()


@in_loop
async def test_times_in_files_of_opensips(tmp_path: Path) -> None:
    """OpenSIPS makes its text tables with times as int: they stay so, and are times for the modules."""
    when = datetime(2026, 1, 2, 3, 4, 5)
    folder = folder_with(tmp_path, acc="callid(string) time(int)\nold:86400\n")
    module = driver()
    module.declared = {ACC.name: ACC}
    database = open_folder(module, folder)
    await database.insert("acc", {"callid": "new", "time": when})
    [[text]] = await database.select("acc", ("time",), (("callid", "=", "new"),))
    assert text == "2026-01-02 03:04:05"
    await database.close()
    lines = (tmp_path / "acc").read_text().splitlines()
    assert lines == ["callid(string) time(int)", "old:86400", f"new:{int(when.timestamp())}"]


@in_loop
async def test_tables_are_made_as_opensips_reads_them(tmp_path: Path) -> None:
    """It numbers rows by int columns; scripts/dbtext has long for contact_id only."""
    url = parse_url(f"text://{tmp_path}")
    await DbText().create_tables(url, [ACC])
    assert (tmp_path / "acc").read_text().startswith("id(int,auto) method(string) ")
    assert (tmp_path / "version").read_text() == "table_name(string) table_version(int)\nacc:7\n"
