"""mqueue: pairs in, the oldest out, over a restart where that is asked for."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from opensipspy.db import DatabaseError, parse_url
from opensipspy.dbdrivers.db_sqlite import DbSqlite
from opensipspy.module import MiError, ParamError, StartError
from opensipspy.module.testing import FakeCore, make_run, request
from opensipspy.modules.mqueue import HIGHEST_SIZE, MQueue
from opensipspy.script.declare import Value
from opensipspy.script.kinds import TIMER
from opensipspy.script.run import Run

from .asynchronous import in_loop


def made(*queues: str) -> tuple[FakeCore, Run]:
    core = FakeCore()
    core.add(MQueue(mqueue=list(queues) or ["name=q"]))
    return core, make_run(request(), core=core)


def drained(core: FakeCore, run: Run, queue: str = "q") -> list[tuple[Value, Value]]:
    """Everything that is in the queue, as a script's while loop finds it."""
    found = []
    while core.call("mq_fetch", run, queue) > 0:
        found.append((core.read("$mqk", run, queue), core.read("$mqv", run, queue)))
    return found


def test_the_oldest_pair_comes_out_first() -> None:
    core, run = made()
    for key in ("a", "b", "a"):
        assert core.call("mq_add", run, "q", key, f"{key}-value") == 1
    assert core.call("mq_size", run, "q") == 3
    assert core.read("$mq_size", run, "q") == 3
    assert drained(core, run) == [("a", "a-value"), ("b", "b-value"), ("a", "a-value")]


def test_a_full_queue_loses_its_oldest_pair() -> None:
    core, run = made("name=q;size=2;")
    for key in "abc":
        core.call("mq_add", run, "q", key, "")
    assert [key for key, _ in drained(core, run)] == ["b", "c"]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (0, [("a", "1"), ("b", "2"), ("a", "3")]),
        (1, [("a", "1"), ("b", "2")]),
        (2, [("b", "2"), ("a", "3")]),
    ],
)
def test_addmode_decides_about_equal_keys(mode: int, expected: list[tuple[str, str]]) -> None:
    """The manual: all of them, the oldest, or the newest."""
    core, run = made(f"name=q;addmode={mode}")
    for key, value in (("a", "1"), ("b", "2"), ("a", "3")):
        assert core.call("mq_add", run, "q", key, value) == 1
    assert drained(core, run) == expected


def test_empty_and_unknown_queues_are_told_apart() -> None:
    """The manual: mq_fetch gives -2 and -1, mq_size -1 and -2."""
    core, run = made()
    assert core.call("mq_fetch", run, "q") == -2
    assert core.call("mq_fetch", run, "none") == -1
    assert core.call("mq_size", run, "q") == -1
    assert core.call("mq_size", run, "none") == -2
    assert core.call("mq_add", run, "none", "k", "v") == -1
    assert core.call("mq_pv_free", run, "none") == -1
    assert core.read("$mq_size", run, "q") == 0
    assert core.read("$mq_size", run, "none") is None


def test_the_fetched_pair_can_be_forgotten() -> None:
    core, run = made()
    core.call("mq_add", run, "q", "k", "v")
    core.call("mq_fetch", run, "q")
    assert core.call("mq_pv_free", run, "q") == 1
    assert core.read("$mqk", run, "q") is None
    assert core.read("$mqv", run, "q") is None


def test_a_fetch_that_finds_nothing_shows_nothing() -> None:
    core, run = made()
    core.call("mq_add", run, "q", "k", "v")
    assert drained(core, run) == [("k", "v")]
    assert core.read("$mqk", run, "q") is None


def test_what_one_route_puts_in_another_takes_out() -> None:
    """The use that the manual names: a timer_route takes what requests left; runs do not see each other's pair."""
    core, run = made()
    core.call("mq_add", run, "q", "first", "1")
    core.call("mq_add", run, "q", "second", "2")
    core.call("mq_fetch", run, "q")
    timer = make_run(request("OPTIONS"), TIMER, core=core)
    core.call("mq_fetch", timer, "q")
    assert core.read("$mqk", run, "q") == "first"
    assert core.read("$mqk", timer, "q") == "second"


def test_a_queue_without_a_size_still_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opensipspy.modules.mqueue.HIGHEST_SIZE", 2)
    core, run = made()
    assert [core.call("mq_add", run, "q", key, "") for key in "abc"] == [1, 1, -1]
    assert [key for key, _ in drained(core, run)] == ["a", "b"]


@pytest.mark.parametrize(
    "text",
    ["size=2", "name=q;colour=red", "name=q;size=x", "name=q;size=-1", "name=q;addmode=3", "name=q;dbmode=4",
     f"name=q;size={HIGHEST_SIZE + 1}"],
)  # fmt: skip
def test_a_definition_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(ParamError, match="mqueue"):
        MQueue(mqueue=[text])


def test_a_queue_is_defined_once() -> None:
    with pytest.raises(ParamError, match="twice"):
        MQueue(mqueue=["name=q", "name=q;size=3"])


# --- management


@in_loop
async def test_management_shows_sizes_and_takes_pairs() -> None:
    core, run = made("name=q", "name=other")
    for key in "abc":
        core.call("mq_add", run, "q", key, key.upper())
    assert await core.mi_call("mqueue:get_sizes") == {"Queue": [{"name": "q", "size": 3}, {"name": "other", "size": 0}]}
    assert await core.mi_call("mq_get_size", {"name": "q"}) == {"Queue": {"name": "q", "size": 3}}
    assert await core.mi_call("mqueue:fetch", {"name": "q"}) == {"Item": {"key": "a", "value": "A"}}
    assert await core.mi_call("mqueue:fetch", {"name": "q", "limit": 5}) == [
        {"key": "b", "value": "B"},
        {"key": "c", "value": "C"},
    ]
    assert await core.mi_call("mqueue:fetch", {"name": "q", "limit": 5}) == []


@in_loop
async def test_management_tells_what_is_wrong() -> None:
    core, _ = made()
    with pytest.raises(MiError, match="Empty queue"):
        await core.mi_call("mqueue:fetch", {"name": "q"})
    with pytest.raises(MiError, match="No such queue"):
        await core.mi_call("mqueue:get_size", {"name": "none"})
    with pytest.raises(MiError):
        await core.mi_call("mqueue:fetch", {"name": "q", "limit": 0})


# --- over a restart


def table(path: Path, rows: list[tuple[str, str]]) -> None:
    with closing(sqlite3.connect(path)) as made_by_hand, made_by_hand:
        made_by_hand.execute(
            'CREATE TABLE q (id INTEGER PRIMARY KEY AUTOINCREMENT, "key" VARCHAR(64) NOT NULL, val TEXT NOT NULL)'
        )
        made_by_hand.executemany('INSERT INTO q ("key", val) VALUES (?, ?)', rows)


def stored(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as reader:
        return list(reader.execute('SELECT "key", val FROM q ORDER BY id'))


@pytest.mark.parametrize(
    ("mode", "seen", "left"),
    [
        (0, [], [("old", "1")]),
        (1, [("old", "1")], [("new", "2")]),
        (2, [], [("old", "1"), ("new", "2")]),
        (3, [("old", "1")], []),
    ],
)
def test_dbmode_reads_at_the_start_and_writes_at_the_end(
    tmp_path: Path, mode: int, seen: list[tuple[str, str]], left: list[tuple[str, str]]
) -> None:
    """The manual: 1 both, 2 writes only, 3 reads only. What was read leaves the table."""
    path = tmp_path / "queues.sqlite"
    table(path, [("old", "1")])

    @in_loop
    async def check() -> None:
        database = DbSqlite().open_database(parse_url(f"sqlite:{path}"))
        core = FakeCore(databases={"sqlite:q": database})
        module = core.add(MQueue(db_url="sqlite:q", mqueue=[f"name=q;dbmode={mode}"]))
        await module.launch()
        run = make_run(request(), core=core)
        assert drained(core, run) == seen
        core.call("mq_add", run, "q", "new", "2")
        await module.shutdown()
        await database.close()

    check()
    assert stored(path) == left


@in_loop
async def test_a_dbmode_needs_a_database() -> None:
    core = FakeCore()
    module = core.add(MQueue(mqueue=["name=q;dbmode=1"]))
    with pytest.raises(StartError, match="db_url"):
        await module.launch()


def test_a_missing_table_stops_the_start(tmp_path: Path) -> None:
    @in_loop
    async def check() -> None:
        database = DbSqlite().open_database(parse_url(f"sqlite:{tmp_path / 'empty.sqlite'}"))
        core = FakeCore(databases={"sqlite:q": database})
        module = core.add(MQueue(db_url="sqlite:q", mqueue=["name=q;dbmode=1"]))
        with pytest.raises(DatabaseError):
            await module.launch()
        await database.close()

    check()
