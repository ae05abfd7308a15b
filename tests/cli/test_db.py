"""`opensipspy db`."""

from __future__ import annotations

import argparse
import sqlite3
from pathlib import Path

import pytest

from opensipspy.cli import db


def call(*words: str) -> int:
    parser = argparse.ArgumentParser()
    db.configure(parser)
    return db.run(parser.parse_args(words))


def test_create_makes_the_tables_of_the_modules_and_says_which(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    url = f"sqlite:{tmp_path / 'x.sqlite'}"
    assert call("create", "--url", url, "--modules", "usrloc", "domain") == 0
    assert "made version, domain, location" in capsys.readouterr().out
    connection = sqlite3.connect(tmp_path / "x.sqlite")
    assert dict(connection.execute("SELECT * FROM version")) == {"location": 1013, "domain": 4}
    connection.close()
    assert call("create", "--url", url, "--modules", "usrloc", "domain") == 0
    assert "all of them are there" in capsys.readouterr().out


def test_create_as_a_function_is_idempotent(tmp_path: Path):
    url = f"sqlite://{tmp_path / 'x.sqlite'}"
    made = db.create(url, None)
    assert {"version", "location", "domain"} <= set(made)
    assert db.create(url, None) == []


def test_show_tells_what_is_missing_and_what_is_old(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "x.sqlite"
    url = f"sqlite:{file}"
    db.create(url, ["usrloc"])
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE version SET table_version = 12")
    connection.close()
    assert call("show", "--url", url, "--modules", "usrloc", "domain") == 1
    shown = capsys.readouterr().out
    assert "version 12, needed is 1013" in shown
    assert "missing (version 4)" in shown
    assert call("create", "--url", url, "--modules", "usrloc") == 1
    assert "nothing was changed" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["nothing", "nosuchdriver://u:secret@h/db", "sqlite:/no/such/folder/x.sqlite"])
def test_a_url_that_does_not_work_is_one_line_without_password(url: str, capsys: pytest.CaptureFixture[str]):
    assert call("create", "--url", url, "--modules", "usrloc") == 1
    told = capsys.readouterr().err
    assert told.startswith("opensipspy db: ")
    assert told.count("\n") == 1
    assert "secret" not in told
