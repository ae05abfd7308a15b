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


def test_migrate_prints_its_plan_asks_and_acts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "x.sqlite"
    words = ("migrate", "--url", f"sqlite:{file}", "--modules", "domain")
    db.create(f"sqlite:{file}", ["domain"])
    assert call(*words) == 0
    assert "nothing to upgrade" in capsys.readouterr().out
    connection = sqlite3.connect(file)
    connection.executescript(
        "UPDATE version SET table_version = 3 WHERE table_name = 'domain';"
        "ALTER TABLE domain DROP COLUMN attrs; INSERT INTO domain (domain) VALUES ('example.com');"
    )
    assert call(*words, "--dry-run") == 0
    plan = "domain: version 3 to 4, 1 rows; new columns attrs; the old table is kept as domain_v3"
    assert plan in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert call(*words) == 1
    assert "say --yes" in capsys.readouterr().out
    assert connection.execute("SELECT table_version FROM version WHERE table_name = 'domain'").fetchone() == (3,)
    assert call(*words, "--yes") == 0
    told = capsys.readouterr().out
    assert told.index(plan) < told.index("domain: version 4, 1 rows; once it serves, domain_v3 can be dropped")
    assert connection.execute("SELECT domain, attrs FROM domain").fetchall() == [("example.com", None)]
    connection.execute("UPDATE version SET table_version = 9 WHERE table_name = 'domain'")
    connection.commit()
    assert call(*words, "--yes") == 1
    assert "newer than 4; left alone" in capsys.readouterr().out
    connection.close()


def test_migrate_of_what_cannot_be_upgraded(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert call("migrate", "--url", f"flatstore:{tmp_path}", "--modules", "domain") == 1
    assert "tables of flatstore cannot be upgraded" in capsys.readouterr().err


def test_migrate_of_text_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The old file stays under another name; with a row that does not fit nothing is changed."""
    words = ("migrate", "--url", f"text:{tmp_path}", "--modules", "domain", "--yes")
    old = "id(int,auto) domain(string)\n1:example.com\n2:example.org\n"
    (tmp_path / "domain").write_text(old)
    (tmp_path / "version").write_text("table_name(string) table_version(int)\ndomain:3\nother:1\n")
    assert call(*words) == 0
    assert "domain: version 3 to 4, 2 rows; new columns attrs, " in capsys.readouterr().out
    assert (tmp_path / "domain_v3").read_text() == old
    lines = (tmp_path / "domain").read_text().splitlines()
    assert lines[0].startswith("id(int,auto) domain(string) attrs(string,null)")
    assert lines[1].startswith("1:example.com:")
    assert "domain:4" in (tmp_path / "version").read_text()
    assert "other:1" in (tmp_path / "version").read_text()
    assert call(*words) == 0
    assert "nothing to upgrade" in capsys.readouterr().out
    twice = "id(int,auto) domain(string)\n1:example.com\n2:example.com\n"
    (tmp_path / "domain").write_text(twice)
    (tmp_path / "version").write_text("table_name(string) table_version(int)\ndomain:3\n")
    assert call(*words) == 1
    assert "two rows of the same domain" in capsys.readouterr().err
    assert (tmp_path / "domain").read_text() == twice
    assert not (tmp_path / "domain_v3_2").exists()


def test_the_tables_of_modules_that_are_not_here_are_made_too(tmp_path: Path):
    """Database schema of OpenSIPS: one database for servers of both kinds; version rows as their modules want them."""
    names = {table.name: table for table in db.declared_tables(None)}
    assert {"dialog", "dispatcher", "dr_rules", "presentity", "cc_agents", "load_balancer", "sip_trace"} <= set(names)
    assert (names["dispatcher"].version, names["dialog"].version) == (9, 12)
    assert call("create", "--url", f"sqlite:{tmp_path / 'x.sqlite'}", "--modules", "drouting", "usrloc") == 0
    connection = sqlite3.connect(tmp_path / "x.sqlite")
    found = dict(connection.execute("SELECT table_name, table_version FROM version"))
    connection.close()
    assert set(found) == {"dr_carriers", "dr_gateways", "dr_groups", "dr_partitions", "dr_rules", "location"}
    assert found["dr_rules"] == names["dr_rules"].version
