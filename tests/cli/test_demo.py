"""`opensipspy demo` and `opensipspy quickstart`, run as a newcomer runs them."""

from __future__ import annotations

import json
import re
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest


def opensipspy(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "opensipspy", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.scenario
def test_the_demo_shows_a_whole_call(tmp_path: Path) -> None:
    done = opensipspy("demo", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    labels = [" ".join(re.findall(r"[A-Z0-9][A-Za-z0-9]*", line[8:])) for line in done.stdout.splitlines()]
    order = [
        "REGISTER",
        "401 Unauthorized",
        "200 OK",
        "INVITE",
        "407 Proxy Authentication Required",
        "ACK",
        "180 Ringing",
    ]
    at = -1
    for label in [*order, "200 OK", "ACK", "BYE", "200 OK"]:
        at = labels.index(label, at + 1)
    assert list(tmp_path.iterdir()) == [], "the demonstration leaves nothing behind"


def test_quickstart_keeps_its_subscribers_and_their_passwords(tmp_path: Path) -> None:
    first = opensipspy("quickstart", "--directory", "site", "--prepare-only", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    secrets = tmp_path / "site" / "demo-subscribers.json"
    known = json.loads(secrets.read_text())
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
    for user, password in known.items():
        assert f"sip:{user}@127.0.0.1   password {password}" in first.stdout
    again = opensipspy("quickstart", "--directory", "site", "--prepare-only", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads(secrets.read_text()) == known
    with sqlite3.connect(tmp_path / "site" / "opensipspy.sqlite") as connection:
        rows = connection.execute("SELECT username, password, length(ha1) FROM subscriber ORDER BY 1").fetchall()
    connection.close()
    assert rows == [("alice", "", 32), ("bob", "", 32)]
