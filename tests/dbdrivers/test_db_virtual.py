"""db_virtual: its modes, databases that fail and come back, its commands (db_virtual manual page)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from opensipspy.db import Condition, Database, DatabaseError, DbValue, Delete, Insert, Write, parse_url
from opensipspy.dbdrivers.db_virtual import DbVirtual
from opensipspy.module import MiError, ParamError
from opensipspy.module.testing import FakeCore
from tests.modules.asynchronous import in_loop


class OneDatabase(Database):
    """A database that answers with its own name, or fails."""

    def __init__(self, name: str) -> None:
        super().__init__(parse_url(f"sqlite:/{name}"))
        self.name = name
        self.error: DatabaseError | None = None
        self.asked = 0
        self.rows = True
        self.written: list[Write] = []

    def _answer(self) -> list[tuple[DbValue, ...]]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return [(self.name,)]

    async def select(
        self, table: str, columns: Sequence[str], where: Sequence[Condition] = (), order: str = "", limit: int = 0
    ) -> list[tuple[DbValue, ...]]:
        answer = self._answer()
        return answer if self.rows else []

    async def execute(self, writes: Sequence[Write]) -> list[int]:
        self._answer()
        self.written.extend(writes)
        return [1] * len(writes)

    async def raw(self, sql: str, args: Sequence[DbValue] = ()) -> list[tuple[DbValue, ...]]:
        return self._answer()


AWAY = DatabaseError("away", transient=True)
WRONG = DatabaseError("no such column")


class House:
    def __init__(self, mode: str, **params: Any) -> None:
        self.databases = [OneDatabase(name) for name in "abc"]
        self.core = FakeCore(databases={f"sqlite:/{one.name}": one for one in self.databases})
        self.module = DbVirtual(**params)
        self.module.set_param("db_urls", f"define set1 {mode}")
        for one in self.databases:
            self.module.set_param("db_urls", f"sqlite:/{one.name}")
        self.core.add(self.module)
        self.database = self.module.open_database(parse_url("virtual://set1"))

    async def read(self) -> str:
        return str((await self.database.select("t", ("x",)))[0][0])

    def asked(self) -> list[int]:
        return [one.asked for one in self.databases]

    def state(self) -> list[tuple[int, int, int]]:
        [group] = self.module.mi_get()["SETS"]  # type: ignore[call-overload, index]
        return [(one["can"], one["may"], one["r_rec"]) for one in group["DBS"]]


@in_loop
async def test_failover() -> None:
    house = House("FAILOVER")
    assert await house.read() == "a"
    house.databases[0].error = AWAY
    assert [await house.read() for _ in range(3)] == ["b", "b", "b"]
    assert house.databases[0].asked == 2, "not asked again before a probe reached it"
    house.databases[1].error = AWAY
    assert await house.database.execute([Insert("t", {"x": 1})]) == [1]
    assert house.asked() == [2, 4, 1]
    house.databases[2].error = AWAY
    for _ in range(2):
        with pytest.raises(DatabaseError) as caught:
            await house.read()
        assert caught.value.transient
    assert not house.database.available
    house.databases[1].error = None
    await house.module.probe()
    assert house.database.available
    assert await house.read() == "b"


@in_loop
async def test_round_robin() -> None:
    house = House("ROUND")
    assert [await house.read() for _ in range(4)] == ["a", "b", "c", "a"]
    house.databases[1].error = AWAY
    assert [await house.read() for _ in range(4)] == ["c", "c", "a", "c"]


@in_loop
async def test_parallel() -> None:
    house = House("PARALLEL")
    await house.database.insert("t", {"x": 1})
    assert house.asked() == [1, 1, 1]
    assert await house.read() == "a"
    assert house.asked() == [2, 1, 1]
    house.databases[0].error = AWAY
    await house.database.insert("t", {"x": 1})
    assert house.asked() == [3, 2, 2]
    assert await house.read() == "b"
    for one in house.databases:
        one.error = AWAY
    with pytest.raises(DatabaseError, match="away"):
        await house.database.insert("t", {"x": 1})


LOST = DatabaseError("the answer is missing", transient=True, uncertain=True)


@pytest.mark.parametrize("mode", ["FAILOVER", "ROUND"])
@pytest.mark.parametrize("there", [False, True], ids=["of its own", "of one cluster"])
@in_loop
async def test_a_write_whose_answer_is_missing(mode: str, there: bool) -> None:
    """It is redone on the next database unless that has the rows: nodes of one cluster have them once."""
    house = House(mode)
    first, second, third = house.databases
    first.error = LOST
    second.rows = there
    second.written.clear()
    assert await house.database.execute([Insert("t", {"x": 1})]) == [1]
    assert len(second.written) == (0 if there else 1)
    assert not third.asked
    assert house.state()[0] == (0, 1, 0)
    assert await house.database.execute([Delete("t")]) == [1]


@pytest.mark.parametrize("mode", ["FAILOVER", "ROUND"])
@in_loop
async def test_a_raw_statement_whose_answer_is_missing_is_not_redone(mode: str) -> None:
    """Nobody knows what it did. What was certainly not done is redone."""
    house = House(mode)
    house.databases[0].error = LOST
    with pytest.raises(DatabaseError) as caught:
        await house.database.raw("SELECT nextval('s')")
    assert caught.value.uncertain
    assert house.asked() == [1, 0, 0]
    house.databases[1].error = AWAY
    assert await house.database.raw("SELECT nextval('s')") == [("c",)]


@in_loop
async def test_parallel_raw_statements_go_everywhere() -> None:
    """Whatever they begin with."""
    house = House("PARALLEL")
    assert await house.database.raw("SELECT nextval('s')") == [("a",)]
    assert await house.database.raw("WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x") == [("a",)]
    assert house.asked() == [2, 2, 2]


@in_loop
async def test_every_answer_is_missing() -> None:
    """Who keeps the write knows that it may have been done."""
    house = House("FAILOVER")
    house.databases[0].error = LOST
    for one in house.databases[1:]:
        one.error = AWAY
    with pytest.raises(DatabaseError) as caught:
        await house.database.insert("t", {"x": 1})
    assert caught.value.uncertain


@pytest.mark.parametrize("mode", ["FAILOVER", "PARALLEL", "ROUND"])
@in_loop
async def test_a_wrong_statement_is_wrong_everywhere(mode: str) -> None:
    house = House(mode)
    for one in house.databases:
        one.error = WRONG
    with pytest.raises(DatabaseError, match="no such column"):
        await house.read()
    assert sum(house.asked()) == 1
    with pytest.raises(DatabaseError, match="no such column"):
        await house.database.insert("t", {"x": 1})
    assert house.state() == [(1, 1, 0)] * 3


@in_loop
async def test_writes_that_nobody_waits_for() -> None:
    house = House("FAILOVER")
    house.databases[0].error = AWAY
    house.database.write_later(Insert("t", {"x": 1}))
    await house.database.flush()
    assert house.asked() == [1, 1, 0]
    await house.database.close()
    with pytest.raises(DatabaseError, match="closed"):
        await house.read()


@in_loop
async def test_commands() -> None:
    house = House("FAILOVER", db_max_consec_retrys=0)
    call = house.core.mi.call
    assert await call("db_virtual:get", {}) == {
        "SETS": [
            {
                "index": 0,
                "name": "set1",
                "mode": "FAILOVER",
                "DBS": [
                    {"index": place, "name": f"sqlite:/{name}", "can": 1, "may": 1, "r_rec": 0}
                    for place, name in enumerate("abc")
                ],
            }
        ]
    }
    await call("db_virtual:set", {"set_index": 0, "db_url_index": 0, "may_use_db_flag": 0})
    assert await house.read() == "b"
    house.databases[1].error = AWAY
    assert await house.read() == "c"
    house.databases[1].error = None
    await house.module.probe()
    assert house.state() == [(1, 0, 0), (0, 1, 0), (1, 1, 0)], (
        "one failure more than db_max_consec_retrys: it stays out"
    )
    await call("db_virtual:set", {"set_index": 0, "db_url_index": 1, "may_use_db_flag": 1, "ingore_retries": 1})
    await house.module.probe()
    assert house.state()[1] == (1, 1, 1)
    for wrong in ((1, 0), (0, 3), (-1, 0), (0, -1)):
        with pytest.raises(MiError, match="no"):
            await call("db_set", {"set_index": wrong[0], "db_url_index": wrong[1], "may_use_db_flag": 1})


def test_passwords_are_hidden() -> None:
    one = OneDatabase("x")
    one.url = parse_url("mysql://u:geheim@h/d")
    module = DbVirtual()
    module.set_param("db_urls", "define s ROUND")
    module.set_param("db_urls", "mysql://u:geheim@h/d")
    assert "geheim" not in str(module.mi_get())
    FakeCore(databases={"mysql://u:geheim@h/d": one}).add(module).open_database(parse_url("virtual://s"))
    assert "geheim" not in str(module.mi_get())


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (("mysql://a/b",), "comes after define"),
        (("define x SOMEHOW",), "takes define"),
        (("define x",), "takes define"),
        (("define x ROUND", "define x ROUND"), "twice"),
        (("define x ROUND", "virtual://y"), "cannot hold"),
    ],
)
def test_parameters_that_cannot_be_right(values: tuple[str, ...], reason: str) -> None:
    module = DbVirtual()
    *good, bad = values
    for value in good:
        module.set_param("db_urls", value)
    with pytest.raises(ParamError, match=reason):
        module.set_param("db_urls", bad)


@pytest.mark.parametrize(("url", "reason"), [("virtual://other", "no set"), ("virtual://empty", "no database")])
def test_urls_that_cannot_be_right(url: str, reason: str) -> None:
    module = DbVirtual()
    module.set_param("db_urls", "define empty ROUND")
    with pytest.raises(DatabaseError, match=reason):
        FakeCore().add(module).open_database(parse_url(url))
