"""Short numbers from the speed_dial table."""

from __future__ import annotations

from pathlib import Path

import pytest

from opensipspy.modules.speeddial import SPEED_DIAL_TABLE, SpeedDial
from tests.modules.memory_database import MemoryDatabase
from tests.modules.tables import URL, House, change, make_tables, play

ALICE = "<sip:alice@example.com>;tag=1"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "speed.sqlite"
    make_tables(path, SPEED_DIAL_TABLE)
    change(
        path,
        "INSERT INTO speed_dial (username, domain, sd_username, sd_domain, new_uri) VALUES (?, ?, ?, ?, ?)",
        [
            ("alice", "example.com", "11", "example.com", "sip:bob@example.org"),
            ("alice", "example.com", "12", "example.com", "carol@example.org;x=y"),
            ("alice", "example.net", "13", "example.com", "sips:dan@example.org"),
            ("alice", "example.com", "14", "example.com", "sip:x@y\r\nEvil: 1"),
            ("bob", "example.com", "11", "example.com", "sip:alice@example.org"),
        ],
    )
    return path


@pytest.mark.parametrize(
    ("ruri", "owner", "use_domain", "result"),
    [
        ("sip:11@any.example", None, 0, "sip:bob@example.org"),
        ("sip:11@any.example", None, 1, "sip:bob@example.org"),
        ("sip:11@any.example", None, 2, None),
        ("sip:11@sd.example.com", None, 2, "sip:bob@example.org"),
        ("sip:12@any.example", None, 0, "sip:carol@example.org;x=y"),
        ("sip:13@any.example", None, 0, "sips:dan@example.org"),
        ("sip:13@any.example", None, 1, None),
        ("sip:14@any.example", None, 0, None),
        ("sip:11@any.example", "sip:bob@example.com", 1, "sip:alice@example.org"),
        ("sip:11@any.example", "nonsense", 1, None),
        ("sip:99@any.example", None, 0, None),
    ],
)
def test_look_up(table: Path, ruri: str, owner: str | None, use_domain: int, result: str | None):
    async def scenario(house: House) -> None:
        run = house.new(ruri=ruri, from_=ALICE)
        assert await house.ask("sd_lookup", "speed_dial", owner) == (1 if result else -1)
        assert run.ruri == (result or ruri)

    play(table, lambda: SpeedDial(db_url=URL, use_domain=use_domain, domain_prefix="sd."), scenario)


def test_a_database_that_is_away_finds_nothing():
    database = MemoryDatabase({}, speed_dial=3)
    database.away = True

    async def scenario(house: House) -> None:
        house.new()
        assert await house.ask("sd_lookup", "speed_dial") == -1

    play(database, lambda: SpeedDial(db_url=URL), scenario)
