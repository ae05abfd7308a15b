"""The location table: working modes on real SQLite files, restarts, expiry on a made-up clock, management, events."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from opensipspy.management import MiError
from opensipspy.module import ParamError
from opensipspy.module.testing import make_var, request
from opensipspy.modules.usrloc import Usrloc
from opensipspy.modules.usrloc.api import Contact, q_text
from tests.modules.registration import House, bindings, make_table

ROOT = Path(__file__).resolve().parents[2]
THROUGH = {"working_mode_preset": "single-instance-sql-write-through"}
BACK = {"working_mode_preset": "single-instance-sql-write-back"}
SQL_ONLY = {"working_mode_preset": "sql-only"}
A = "sip:bob@192.0.2.4"
B = "sip:bob@192.0.2.5"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "location.sqlite"
    asyncio.run(make_table(path))
    return path


def play(scenario: Callable[[House], Coroutine[Any, Any, None]], **params: Any) -> None:
    async def run() -> None:
        async with House(**params) as house:
            await scenario(house)

    asyncio.run(run())


def rows(path: Path, columns: str = "contact") -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(path)
    found = connection.execute(f"SELECT {columns} FROM location ORDER BY contact").fetchall()
    connection.close()
    return found


def change(path: Path, sql: str, *args: Any) -> None:
    connection = sqlite3.connect(path)
    connection.execute(sql, args)
    connection.commit()
    connection.close()


# --- management: the shapes that management clients read


def test_dump_shows_domains_aors_and_contacts():
    async def scenario(house: House) -> None:
        await house.register(f"<{A}>;q=0.5;expires=300", headers="User-Agent: Phone\r\n")
        shown = await house.core.mi_call("usrloc:dump")
        contact = shown["Domains"][0]["AORs"][0]["Contacts"][0]
        assert contact.pop("ContactID").isdigit()
        assert shown == {
            "Domains": [
                {
                    "name": "location",
                    "hash_size": 512,
                    "AORs": [
                        {
                            "AOR": "bob@example.com",
                            "Contacts": [
                                {
                                    "Contact": A,
                                    "Expires": 300,
                                    "Q": "0.5",
                                    "Callid": "reg-1@phone",
                                    "Cseq": 1,
                                    "User-agent": "Phone",
                                    "State": "CS_NEW",
                                    "Flags": 0,
                                    "Cflags": "",
                                    "Socket": "udp:127.0.0.1:5060",
                                    "Methods": 32767,
                                }
                            ],
                        }
                    ],
                }
            ]
        }
        assert (await house.core.mi_call("ul_dump", {"brief": 1}))["Domains"][0]["AORs"] == [{"AOR": "bob@example.com"}]

    play(scenario)


def test_show_add_and_remove_by_management():
    async def scenario(house: House) -> None:
        call = house.core.mi_call
        args = {
            "table_name": "location",
            "aor": "bob@example.com",
            "contact": A,
            "expires": 0,
            "q": "0.7",
            "flags": 0,
            "cflags": 0,
            "methods": 32767,
        }
        assert await call("usrloc:add", args) == "OK"
        assert await call("usrloc:add", args | {"contact": B, "expires": 60, "q": "1"}) == "OK"
        shown = await call("usrloc:show_contact", {"table_name": "location", "aor": "bob@example.com"})
        assert [(c["Contact"], c["Expires"], c["Q"]) for c in shown["Contacts"]] == [
            (B, 60, "1"),
            (A, "permanent", "0.7"),
        ]
        assert await call("usrloc:add", args | {"expires": 30}) == "OK"
        assert len(await house.uris()) == 2
        where = {"table_name": "location", "aor": "bob@example.com"}
        assert await call("usrloc:rm_contact", where | {"contact": A}) == "OK"
        assert await house.uris() == [B]
        assert await call("usrloc:rm", where) == "OK"
        assert await house.dump() == {}

    play(scenario)


@pytest.mark.parametrize(
    ("command", "params", "code"),
    [
        ("usrloc:rm", {"table_name": "other", "aor": "bob@example.com"}, 404),
        ("usrloc:rm", {"table_name": "location", "aor": "bob"}, 400),
        ("usrloc:rm", {"table_name": "location", "aor": "bob@example.com"}, 404),
        ("usrloc:show_contact", {"table_name": "location", "aor": "bob@example.com"}, 404),
        ("usrloc:rm_contact", {"table_name": "location", "aor": "b@example.com", "contact": A}, 404),
        ("usrloc:sync", {"table_name": "location"}, 400),
        ("usrloc:cluster_sync", {}, 400),
    ],
)
def test_management_commands_refuse_with_a_code(command: str, params: dict[str, Any], code: int):
    async def scenario(house: House) -> None:
        with pytest.raises(MiError) as caught:
            await house.core.mi_call(command, params)
        assert caught.value.code == code

    play(scenario)


@pytest.mark.parametrize("wrong", [{"q": "2"}, {"q": "x"}, {"contact": "a\r\nb"}, {"contact": ""}, {"expires": -1}])
def test_add_refuses_bad_values(wrong: dict[str, Any]):
    async def scenario(house: House) -> None:
        args = {"table_name": "location", "aor": "b@e.org", "contact": A, "expires": 1, "q": "1"}
        with pytest.raises(MiError, match="Bad parameter value"):
            await house.core.mi_call("usrloc:add", args | {"flags": 0, "cflags": 0, "methods": 1} | wrong)

    play(scenario)


# --- time


def test_contacts_end_with_their_time_and_are_counted():
    async def scenario(house: House) -> None:
        await house.register(f"<{A}>;expires=60, <{B}>;expires=120")
        assert house.stat("location-contacts") == 2
        house.core.advance(60)
        await house.core.settle()
        assert await house.uris() == [B]
        assert (house.stat("location-expires"), house.stat("location-contacts")) == (1, 1)
        house.core.advance(60)
        await house.core.settle()
        assert await house.dump() == {}
        assert (house.stat("registered_users"), house.stat("location-users")) == (0, 0)

    play(scenario, usrloc={"timer_interval": 60})


def test_a_phone_that_comes_back_after_its_end_is_listed_once():
    async def scenario(house: House) -> None:
        await house.register(f"<{A}>;expires=60")
        house.core.advance(61)
        assert list(bindings(await house.register(f"<{A}>", cseq=2))) == [A]
        assert await house.uris() == [A]
        assert house.stat("location-contacts") == 1

    play(scenario, usrloc={"timer_interval": 1000})


def test_newest_first_when_asked():
    async def scenario(house: House) -> None:
        await house.register(f"<{A}>;q=1")
        await house.register(f"<{B}>;q=0.1", cseq=2)
        assert await house.uris() == [B, A]

    play(scenario, usrloc={"desc_time_order": 1})


# --- events


def test_events_tell_of_each_change():
    async def scenario(house: House) -> None:
        seen: list[tuple[str, dict[str, Any]]] = []
        for event in house.usrloc.events():
            house.core.events.listen(event.name, lambda name, params: seen.append((name, dict(params))))
        await house.register(f"<{A}>;q=0.5;expires=60")
        await house.register(f"<{A}>;expires=0", cseq=2)
        assert [name for name, _ in seen] == [
            "E_UL_AOR_INSERT",
            "E_UL_CONTACT_INSERT",
            "E_UL_CONTACT_DELETE",
            "E_UL_AOR_DELETE",
        ]
        assert seen[0][1] == {"domain": "location", "aor": "bob@example.com"}
        told = seen[1][1]
        assert (told["uri"], told["qval"], told["cseq"], told["callid"]) == (A, 5, 1, "reg-1@phone")
        assert told["expires"] == int(house.core.time()) + 60
        seen.clear()
        await house.register(f"<{A}>", cseq=3)
        await house.register(f"<{A}>", cseq=4)
        assert [name for name, _ in seen][-1] == "E_UL_CONTACT_UPDATE"

    play(scenario)


def test_latency_events_are_filtered():
    async def scenario(house: House) -> None:
        seen: list[int] = []
        house.core.events.listen("E_UL_LATENCY_UPDATE", lambda name, params: seen.append(params["latency"]))
        await house.register(f"<{A}>")
        domain = house.usrloc.domain("location")
        record = domain.get("bob@example.com")
        assert record is not None
        for latency in (100, 900, 950, 200):
            house.usrloc.set_latency(domain, record.aor, record.contacts[0], latency)
        assert seen == [900, 950, 200]
        assert (await house.dump())["bob@example.com"][0]["Ping-Latency"] == 200

    play(scenario, usrloc={"latency_event_min_us": 900, "latency_event_min_us_delta": 600})


# --- keys and values


def test_keys_are_kept_with_a_registered_user():
    async def scenario(house: House) -> None:
        run = house.run(request())
        call = house.core.call
        bob = "bob@example.com"
        assert call("ul_add_key", run, "location", bob, "route", "x") == -1
        await house.register(f"<{A}>")
        assert call("ul_add_key", run, "location", bob, "route", "x") == 1
        into = make_var("v")
        assert call("ul_get_key", run, "location", bob, "route", into) == 1
        assert run.vars["v"] == "x"
        shown = await house.core.mi_call("usrloc:dump")
        assert shown["Domains"][0]["AORs"][0]["KV-Store"] == '{"route": "x"}'
        assert call("ul_del_key", run, "location", bob, "route") == 1
        assert call("ul_get_key", run, "location", bob, "route", into) == -1
        assert call("ul_add_key", run, "location", bob, "route", "y") == 1
        assert call("ul_add_key", run, "location", bob, "route") == 1, "no value removes"
        assert call("ul_get_key", run, "location", bob, "route", into) == -1

    play(scenario, usrloc={"mi_dump_kv_store": 1})


# --- write-through


def test_write_through_has_the_row_before_the_answer(table: Path):
    async def scenario(house: House) -> None:
        assert (await house.register(f"<{A}>;q=0.25", headers="User-Agent: Phone\r\n")).code == 200
        assert rows(table, "username, domain, contact, q, callid, cseq, user_agent, socket, methods") == [
            ("bob", "example.com", A, 0.25, "reg-1@phone", 1, "Phone", "udp:127.0.0.1:5060", 32767)
        ]
        await house.register(f"<{A}>;q=1, <{B}>", cseq=2)
        assert rows(table, "contact, q, cseq") == [(A, 1.0, 2), (B, -1.0, 2)]
        assert (await house.dump())["bob@example.com"][0]["State"] == "CS_SYNC"
        await house.register(f"<{A}>;expires=0", cseq=3)
        assert rows(table) == [(B,)]
        await house.register("*", cseq=4, headers="Expires: 0\r\n")
        assert rows(table) == []

    play(scenario, usrloc=THROUGH, database=table)


def test_a_restart_shows_the_same_contacts(table: Path):
    async def before(house: House) -> None:
        def prepare(run: Any) -> None:
            run.branch_flags = house.core.flags.mask("branch", "NAT")

        await house.register(f"<{A}>;q=0.5;expires=600", prepare=prepare, headers="User-Agent: Ph\u00f6ne\r\n")
        await house.register(f"<{B}>;expires=30", user="sip:carol@example.com", callid="c")
        dumps.append(await house.core.mi_call("usrloc:dump"))

    async def after(house: House) -> None:
        dumps.append(await house.core.mi_call("usrloc:dump"))
        assert house.stat("location-contacts") == 2

    dumps: list[Any] = []
    play(before, usrloc=THROUGH, database=table)
    play(after, usrloc=THROUGH, database=table)
    assert dumps[0] == dumps[1]


def test_contacts_that_ran_out_meanwhile_are_not_loaded(table: Path):
    async def before(house: House) -> None:
        await house.register(f"<{A}>;expires=600, <{B}>;expires=60")

    play(before, usrloc=THROUGH, database=table)
    change(table, "UPDATE location SET expires = 1 WHERE contact = ?", B)

    async def after(house: House) -> None:
        assert await house.uris() == [A]
        assert house.database is not None
        await house.database.flush()
        assert rows(table) == [(A,)]

    play(after, usrloc=THROUGH, database=table)


CHILD = """
import asyncio, sys
from tests.modules.registration import House

async def main():
    through = {"working_mode_preset": "single-instance-sql-write-through"}
    house = await House(usrloc=through, database=sys.argv[1]).__aenter__()
    for n in range(1, 6):
        answer = await house.register(f"<sip:bob@192.0.2.{n}>", cseq=n)
        print(answer.code, flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


def test_what_was_answered_200_survives_kill_9(table: Path):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(table)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert child.stdout is not None
    assert [child.stdout.readline().strip() for _ in range(5)] == ["200"] * 5
    child.send_signal(signal.SIGKILL)
    child.communicate()

    async def after(house: House) -> None:
        assert sorted(await house.uris()) == [f"sip:bob@192.0.2.{n}" for n in range(1, 6)]

    play(after, usrloc=THROUGH, database=table)


def test_a_locked_table_is_503_and_changes_nothing(table: Path, caplog: pytest.LogCaptureFixture):
    """RFC 3261 §10.3 step 7: when the store fails, no binding changes. The log says so once each way."""

    async def scenario(house: House) -> None:
        await house.register(f"<{A}>")
        other = sqlite3.connect(table, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        for cseq in (2, 3):
            answer = await house.register(f"<{B}>, <{A}>;expires=0", cseq=cseq)
            assert (answer.code, answer.reason) == (503, "Service Unavailable")
            assert "Retry-After: 5\r\n" in answer.headers
        assert await house.uris() == [A]
        assert (await house.lookup())[0] == 1, "contacts in memory are found meanwhile"
        other.execute("ROLLBACK")
        other.close()
        assert list(bindings(await house.register(f"<{B}>, <{A}>;expires=0", cseq=4))) == [B]
        assert rows(table) == [(B,)]

    with caplog.at_level(logging.WARNING):
        play(scenario, usrloc=THROUGH, registrar={"retry_after": 5}, database=table)
    assert [("not available" in m, "available again" in m) for m in caplog.messages] == [(True, False), (False, True)]


def test_two_registrations_of_one_user_at_once_both_count(table: Path):
    async def scenario(house: House) -> None:
        async def one(number: int) -> int:
            run = house.run(
                request(
                    "REGISTER",
                    to="<sip:bob@example.com>",
                    call_id=f"c{number}",
                    headers=f"Contact: <sip:bob@192.0.2.{number}>",
                )
            )
            result: int = await house.core.call("save", run, "location")
            return result

        assert await asyncio.gather(*(one(n) for n in range(1, 21))) == [1] * 20
        assert len(rows(table)) == 20
        assert len(await house.uris()) == 20
        assert [len(bindings(r)) for r in house.core.replies] == list(range(1, 21))

    play(scenario, usrloc=THROUGH, database=table)


def test_the_limit_holds_for_registrations_at_once(table: Path):
    async def scenario(house: House) -> None:
        async def one(number: int) -> int:
            run = house.run(
                request(
                    "REGISTER",
                    to="<sip:bob@example.com>",
                    call_id=f"c{number}",
                    headers=f"Contact: <sip:bob@192.0.2.{number}>",
                )
            )
            result: int = await house.core.call("save", run, "location")
            return result

        assert sorted(await asyncio.gather(*(one(n) for n in range(5)))) == [-1, -1, 1, 1, 1]
        assert len(rows(table)) == 3

    play(scenario, usrloc=THROUGH, registrar={"max_contacts": 3}, database=table)


def test_memory_only_writes_no_row(table: Path):
    async def scenario(house: House) -> None:
        await house.register(f"<{A}>", flags="memory-only")
        assert await house.uris() == [A]
        assert rows(table) == []
        assert (await house.dump())["bob@example.com"][0]["Flags"] == 1
        assert await house.core.mi_call("usrloc:sync", {"table_name": "location"}) == "OK"
        assert rows(table) == []

    play(scenario, usrloc=THROUGH, database=table)


def test_expired_contacts_lose_their_row(table: Path):
    async def scenario(house: House) -> None:
        await house.register(f"<{A}>;expires=60, <{B}>;expires=600")
        house.core.advance(60)
        await house.core.settle()
        assert house.database is not None
        await house.database.flush()
        assert rows(table) == [(B,)]

    play(scenario, usrloc=THROUGH, database=table)


def test_the_server_starts_without_its_table_and_loads_it_later(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "location.sqlite"

    async def scenario(house: House) -> None:
        assert await house.dump() == {}
        assert (await house.register(f"<{B}>")).code == 503
        await make_table(path)
        change(
            path,
            "INSERT INTO location (contact_id, username, domain, contact, expires)"
            " VALUES (7, 'bob', 'example.com', ?, 0)",
            A,
        )
        house.core.advance(60)
        await house.core.settle()
        assert await house.uris() == [A]
        assert (await house.register(f"<{B}>", cseq=2)).code == 200

    with caplog.at_level(logging.WARNING):
        play(scenario, usrloc=THROUGH, database=path)
    assert sum("cannot be read" in m for m in caplog.messages) == 1
    assert sum("again" in m for m in caplog.messages) == 2, "the database, and the contacts"


# --- rows that others wrote


HOSTILE = [
    "(1, 'bob', 'example.com', 'sip:ok@192.0.2.1', 0, 0.5, 1)",
    "('x', 'bob', 'example.com', 'sip:id@192.0.2.1', 0, 0.5, 1)",
    "(-4, 'bob', 'example.com', 'sip:negative@192.0.2.1', 0, 0.5, 1)",
    "(2, 'bob', NULL, 'sip:nodomain@192.0.2.1', 0, 0.5, 1)",
    "(3, 'bob', 'example.com', '', 0, 0.5, 1)",
    "(4, 'bob', 'example.com', 'sip:x@192.0.2.1' || char(13) || char(10) || 'Evil: 1', 0, 0.5, 1)",
    "(5, 'bob', 'example.com', 'sip:when@192.0.2.1', 'soon', 0.5, 1)",
    "(6, 'bob', 'example.com', 'sip:never@192.0.2.1', 1e300, 0.5, 1)",
    "(7, 'bob', 'example.com', 'sip:q@192.0.2.1', 0, 'high', 1)",
    "(8, 'bob', 'example.com', 'sip:cseq@192.0.2.1', 0, 0.5, x'ff')",
    "(9, x'80ff', 'example.com', x'7369703a80ff403139322e302e322e39', 0, 0.5, 1)",
]


def hostile_table(path: Path) -> None:
    """The same columns without types or constraints: another program's table."""
    connection = sqlite3.connect(path)
    columns = [row[1] for row in connection.execute("PRAGMA table_info(location)")]
    connection.execute("DROP TABLE location")
    connection.execute(f"CREATE TABLE location ({', '.join(columns)}, UNIQUE (contact_id))")
    for row in HOSTILE:
        connection.execute(
            f"INSERT INTO location (contact_id, username, domain, contact, expires, q, cseq) VALUES {row}"
        )
    connection.commit()
    connection.close()


def test_rows_that_cannot_be_contacts_are_skipped_and_told_once(table: Path, caplog: pytest.LogCaptureFixture):
    hostile_table(table)

    async def scenario(house: House) -> None:
        assert await house.uris() == ["sip:ok@192.0.2.1"]
        assert house.usrloc.domain("location").skipped_rows == 9
        assert len(await house.dump()) == 2

    with caplog.at_level(logging.WARNING):
        play(scenario, usrloc=THROUGH, database=table)
    assert [m for m in caplog.messages if "skipped" in m] == [
        "table location: 9 rows are skipped; the first: contact_id is broken; see regen_broken_contactid"
    ]


def test_broken_contact_ids_are_renewed_when_asked(table: Path):
    hostile_table(table)

    async def scenario(house: House) -> None:
        assert len(await house.uris()) == 3
        assert house.database is not None
        await house.database.flush()
        ids = dict(rows(table, "contact, contact_id"))
        assert isinstance(ids["sip:id@192.0.2.1"], int)
        assert ids["sip:negative@192.0.2.1"] > 0
        assert ids["sip:ok@192.0.2.1"] == 1

    play(scenario, usrloc=THROUGH | {"regen_broken_contactid": 1}, database=table)


# --- write-back


def test_write_back_writes_at_the_timer_what_became_of_each_contact(table: Path):
    async def scenario(house: House) -> None:
        await house.register(f"<{A}>, <{B}>")
        await house.register(f"<{A}>;q=0.5", cseq=2)
        await house.register(f"<{B}>;expires=0", cseq=3)
        assert rows(table) == []
        house.core.advance(60)
        await house.core.settle()
        assert rows(table, "contact, q") == [(A, 0.5)]
        assert (await house.dump())["bob@example.com"][0]["State"] == "CS_SYNC"
        await house.register(f"<{A}>", cseq=4)
        assert (await house.dump())["bob@example.com"][0]["State"] == "CS_DIRTY"
        await house.register(f"<{A}>;expires=0", cseq=5)
        assert await house.core.mi_call("usrloc:flush") == "OK"
        assert rows(table) == []

    play(scenario, usrloc=BACK, database=table)


def test_write_back_writes_what_is_pending_when_it_stops(table: Path):
    async def scenario(house: House) -> None:
        await house.register(f"<{A}>")

    play(scenario, usrloc=BACK, database=table)
    assert rows(table) == [(A,)]


def test_write_back_keeps_changes_while_the_table_is_locked(table: Path, caplog: pytest.LogCaptureFixture):
    async def scenario(house: House) -> None:
        other = sqlite3.connect(table, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert (await house.register(f"<{A}>")).code == 200, "phones do not wait for the database"
        for _ in range(3):
            house.core.advance(60)
            await house.core.settle()
        with pytest.raises(MiError, match="Database failure"):
            await house.core.mi_call("usrloc:flush")
        other.execute("ROLLBACK")
        other.close()
        house.core.advance(60)
        await house.core.settle()
        assert rows(table) == [(A,)]

    with caplog.at_level(logging.WARNING):
        play(scenario, usrloc=BACK, database=table)
    assert sum("cannot be read or written" in m for m in caplog.messages) == 1


def test_sync_makes_the_table_what_memory_holds(table: Path):
    async def scenario(house: House) -> None:
        await house.register(f"<{A}>")
        await house.register(f"<{B}>", user="sip:carol@example.com", callid="c")
        change(table, "INSERT INTO location (username, domain, contact, expires) VALUES ('x', 'y', 'sip:stray@z', 0)")
        assert await house.core.mi_call("usrloc:sync", ["location", "bob@example.com"]) == "OK"
        assert rows(table) == [(A,), ("sip:stray@z",)]
        assert await house.core.mi_call("ul_sync", ["location"]) == "OK"
        assert rows(table) == [(A,), (B,)]

    play(scenario, usrloc=BACK, database=table)


# --- SQL only


def test_sql_only_keeps_nothing_in_memory(table: Path):
    async def scenario(house: House) -> None:
        assert bindings(await house.register(f"<{A}>;q=0.5, <{B}>;q=0.6")) == {A: 3600, B: 3600}
        assert await house.dump() == {}
        assert rows(table) == [(A,), (B,)]
        result, run = await house.lookup()
        assert (result, run.ruri, [b.uri for b in run.branches]) == (1, B, [A])
        change(table, "DELETE FROM location WHERE contact = ?", B)
        assert (await house.lookup())[1].ruri == A, "another server removed it"
        shown = await house.core.mi_call("usrloc:show_contact", ["location", "bob@example.com"])
        assert [c["Contact"] for c in shown["Contacts"]] == [A]
        run = house.run(request("INVITE", from_="<sip:bob@example.com>;tag=1"))
        assert await house.core.call("is_registered", run, "location") == 1
        assert await house.core.call("remove_ip_port", run, "192.0.2.4", 5060, "location") == 1
        assert rows(table) == []

    play(scenario, usrloc=SQL_ONLY, database=table)


def test_sql_only_clears_what_ran_out_and_lives_without_its_file(table: Path):
    away = table.with_name("away")

    async def scenario(house: House) -> None:
        await house.register(f"<{A}>;expires=60, <{B}>;expires=600")
        house.core.advance(60)
        await house.core.settle()
        assert rows(table) == [(B,)]
        os.rename(table, away)
        assert (await house.lookup())[0] == -3
        assert (await house.register(f"<{A}>", cseq=2)).code == 503
        os.rename(away, table)
        assert (await house.lookup())[0] == 1

    play(scenario, usrloc=SQL_ONLY, database=table)


# --- parameters


@pytest.mark.parametrize(
    "params",
    [
        {"working_mode_preset": "full-sharing-cluster"},
        {"working_mode_preset": "fast"},
        {"cluster_mode": "full-sharing"},
        {"restart_persistency": "sync-from-cluster"},
        {"restart_persistency": "tape"},
        {"sql_write_mode": "write-around"},
        {"pinging_mode": "never"},
        {"matching_mode": 2},
        {"hash_size": 17},
        {"working_mode_preset": "single-instance-sql-write-through"},
    ],
)
def test_parameters_that_cannot_be_stop_the_start(params: dict[str, Any]):
    async def run() -> None:
        house = House(usrloc=params)
        with pytest.raises(ParamError):
            await house.usrloc.start()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("params", "mode"),
    [
        ({}, 0),
        ({"restart_persistency": "load-from-sql"}, 2),
        ({"restart_persistency": "load-from-sql", "sql_write_mode": "write-through"}, 1),
        ({"cluster_mode": "sql-only"}, 3),
        ({"sql_write_mode": "write-through"}, 0),
        ({"cluster_mode": "sql-only", "working_mode_preset": "single-instance-no-db"}, 0),
    ],
)
def test_the_mode_follows_from_its_parts(params: dict[str, Any], mode: int):
    assert Usrloc(**params).working_mode() == mode


def test_columns_can_have_other_names(table: Path):
    change(table, "ALTER TABLE location RENAME COLUMN contact TO uri")
    change(table, "ALTER TABLE location RENAME COLUMN username TO who")

    async def scenario(house: House) -> None:
        assert (await house.register(f"<{A}>")).code == 200

    params = THROUGH | {"contact_column": "uri", "user_column": "who"}
    play(scenario, usrloc=params, database=table)
    connection = sqlite3.connect(table)
    assert connection.execute("SELECT who, uri FROM location").fetchall() == [("bob", A)]
    connection.close()


# --- size


def test_a_contact_is_small():
    """Bytes per registered contact without its texts: slots, no dict."""
    contact = Contact(A, 0)
    assert not hasattr(contact, "__dict__")
    assert sys.getsizeof(contact) < 256


@pytest.mark.parametrize(("q", "text"), [(-1, ""), (0, "0"), (1, "0.001"), (500, "0.5"), (1000, "1")])
def test_q_values_as_sip_writes_them(q: int, text: str):
    assert q_text(q) == text
