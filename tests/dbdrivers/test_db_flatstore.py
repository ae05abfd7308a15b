"""db_flatstore: names of files, records, rotation, full disks (db_flatstore manual page)."""

from __future__ import annotations

import os
import resource
import signal
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from opensipspy.db import DatabaseError, Delete, Insert, Replace, Update, parse_url
from opensipspy.dbdrivers.db_flatstore import DbFlatstore, FlatDatabase
from opensipspy.module import ParamError
from opensipspy.module.testing import FakeCore
from opensipspy.script.declare import VariableDecl
from tests.modules.asynchronous import in_loop


def opened(folder: Path, **params: Any) -> tuple[DbFlatstore, FlatDatabase]:
    core = FakeCore()
    module = core.add(DbFlatstore(**params))
    return module, module.open_database(parse_url(f"flatstore:{folder}"))


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.iterdir())}


@in_loop
async def test_records(tmp_path: Path) -> None:
    _, database = opened(tmp_path)
    await database.check_version("acc", 8)
    await database.ping()
    await database.insert("acc", {"method": "INVITE", "code": 200, "ms": 1.5, "none": None, "blob": b"a\x00b"})
    await database.insert("acc", {"method": "BYE", "time": datetime.fromtimestamp(1767225600)})
    await database.insert("missed_calls", {"method": "INVITE"})
    await database.close()
    assert content(tmp_path) == {
        "acc_1.log": "INVITE|200|1.500000||a\\x00b\nBYE|1767225600\n",
        "missed_calls_1.log": "INVITE\n",
    }
    assert os.stat(tmp_path / "acc_1.log").st_mode & 0o777 == 0o640


@in_loop
async def test_nobody_forges_a_record(tmp_path: Path) -> None:
    _, database = opened(tmp_path)
    wild = b"caf\xe9".decode("utf-8", "surrogateescape")
    await database.insert("acc", {"a": "x|y\r\nBYE|sip:0900", "b": "back\\slash\t", "c": "é", "d": wild})
    await database.close()
    assert (tmp_path / "acc_1.log").read_text() == (
        "x\\x7Cy\\x0D\\x0ABYE\\x7Csip:0900|back\\x5Cslash\\x09|\\xC3\\xA9|caf\\xE9\n"
    )


@in_loop
async def test_names_of_files(tmp_path: Path) -> None:
    core = FakeCore()
    core.catalogue.add_variable(VariableDecl("$hour", "core", lambda run, name, index: "2/3"))
    module = core.add(DbFlatstore(single_file=1, prefix="x-", suffix=".$hour/", delimiter=";"))
    database = module.open_database(parse_url(f"flatstore:{tmp_path}"))
    await database.insert("acc", {"a": 1, "b": 2})
    await database.close()
    assert content(tmp_path) == {"x-acc.2_3_": "1;2\n"}
    with pytest.raises(ParamError, match="unknown variable"):
        FakeCore().add(DbFlatstore(suffix="$nothing"))


@in_loop
async def test_rotation(tmp_path: Path) -> None:
    module, database = opened(tmp_path)
    await database.insert("acc", {"a": 1})
    (tmp_path / "acc_1.log").rename(tmp_path / "old")
    await database.insert("acc", {"a": 2})
    assert await module.core.mi.call("db_flatstore:rotate", {}) == "OK"
    assert content(tmp_path) == {"old": "1\n2\n"}
    await database.insert("acc", {"a": 3})
    await database.close()
    assert content(tmp_path) == {"acc_1.log": "3\n", "old": "1\n2\n"}


@in_loop
async def test_a_full_disk_leaves_no_half_record(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, database = opened(tmp_path)
    await database.insert("acc", {"a": "first"})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(DatabaseError) as caught:
            await database.execute([Insert("acc", {"a": "x" * 60}), Insert("acc", {"a": "y" * 60})])
        assert caught.value.transient
        assert content(tmp_path) == {"acc_1.log": "first\n"}
        database.write_later(Insert("acc", {"a": "z" * 200}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    await database.close()
    assert content(tmp_path) == {"acc_1.log": "first\n" + "z" * 200 + "\n"}
    assert sum("is not available" in record.getMessage() for record in caplog.records) == 1


@in_loop
async def test_a_missing_folder_may_come(tmp_path: Path) -> None:
    _, database = opened(tmp_path / "late")
    with pytest.raises(DatabaseError) as caught:
        await database.insert("acc", {"a": 1})
    assert caught.value.transient
    (tmp_path / "late").mkdir()
    await database.insert("acc", {"a": 1})
    await database.close()


@in_loop
async def test_it_only_takes_new_rows(tmp_path: Path) -> None:
    _, database = opened(tmp_path)
    for write in (Update("acc", {"a": 1}, ()), Delete("acc"), Replace("acc", {"a": 1}), Insert("../x", {"a": 1})):
        with pytest.raises(DatabaseError) as caught:
            await database.execute([write])
        assert not caught.value.transient
    with pytest.raises(DatabaseError, match="searched"):
        await database.select("acc", ("a",))
    with pytest.raises(DatabaseError, match="statements"):
        await database.raw("SELECT 1")
    await database.close()
    with pytest.raises(DatabaseError, match="closed"):
        await database.insert("acc", {"a": 1})
    assert content(tmp_path) == {}


@pytest.mark.parametrize("delimiter", ["", "ab", "\n", "é"])
def test_delimiters_that_cannot_be(delimiter: str) -> None:
    with pytest.raises(ParamError, match="one printable character"):
        DbFlatstore(delimiter=delimiter)


@pytest.mark.parametrize("url", ["flatstore:", "flatstore://user@h/x"])
def test_urls_that_cannot_be_right(url: str) -> None:
    with pytest.raises(DatabaseError, match="names a folder"):
        FakeCore().add(DbFlatstore()).open_database(parse_url(url))
