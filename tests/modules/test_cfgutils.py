"""cfgutils: random decisions, shared variables, locks, waiting and clocks."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from opensipspy.module import MiError, ParamError
from opensipspy.module.testing import FakeCore, make_run, make_var, request
from opensipspy.modules.cfgutils import CfgUtils
from opensipspy.script.run import Run, VarRef
from tests.modules.asynchronous import in_loop


def made(**params: object) -> tuple[FakeCore, CfgUtils, Run]:
    core = FakeCore()
    module = core.add(CfgUtils(**params))
    return core, module, make_run(request(), core=core)


def unix(text: str) -> int:
    return int(datetime.strptime(text, "%Y%m%dT%H%M%S").replace(tzinfo=UTC).timestamp())


def test_a_probability_decides() -> None:
    """0 percent is never, 100 percent always; between them about as often as it says."""
    core, _, run = made(initial_probability=0)
    assert {core.call("rand_event", run, None) for _ in range(100)} == {-1}
    assert {core.call("rand_event", run, 100) for _ in range(100)} == {1}
    core.call("rand_set_prob", run, 30)
    hits = [core.call("rand_event", run, None) for _ in range(1000)].count(1)
    assert 200 < hits < 400
    assert core.call("rand_get_prob", run) == 30
    core.call("rand_reset_prob", run)
    assert core.call("rand_get_prob", run) == 0
    assert core.call("rand_set_prob", run, 101) == -1


@in_loop
async def test_shared_variables_are_seen_by_all_messages() -> None:
    core, _, run = made(shvset=["debug=i:1", "gw=s:sip:10.10.10.10"])
    other = make_run(request("OPTIONS"), core=core)
    assert core.read("$shv", run, "debug") == 1
    assert core.read("$shv", run, "gw") == "sip:10.10.10.10"
    assert core.read("$shv", run, "new") == 0
    core.write("$shv", run, 7, "new")
    assert core.read("$shv", other, "new") == 7
    assert await core.mi_call("cfgutils:shv_set", {"name": "new", "type": "str", "value": "x"}) == "OK"
    assert core.read("$shv", other, "new") == "x"
    assert await core.mi_call("cfgutils:shv_set", {"name": "new", "type": "int", "value": 5}) == "OK"
    assert await core.mi_call("cfgutils:shv_get", {"name": "new"}) == {
        "VAR": {"name": "new", "type": "integer", "value": 5}
    }
    assert len((await core.mi_call("cfgutils:shv_get"))[0]) == 3
    with pytest.raises(MiError, match="Not found"):
        await core.mi_call("cfgutils:shv_get", {"name": "nobody"})


@pytest.mark.parametrize("text", ["x", "x=1", "x=i:a", "=i:1", "x=f:1"])
def test_a_wrong_first_value_is_refused(text: str) -> None:
    with pytest.raises(ParamError):
        CfgUtils(shvset=[text])


@pytest.mark.parametrize("size", [0, 3, -4])
def test_the_lock_pool_is_a_power_of_two(size: int) -> None:
    with pytest.raises(ParamError, match="power of 2"):
        CfgUtils(lock_pool_size=size)


@in_loop
async def test_script_variables_have_a_first_value() -> None:
    core, module, run = made(varset=["init=i:1"])
    await module.start()
    assert core.before[0](run)
    assert run.vars == {"init": 1}


@pytest.mark.parametrize("kind", ["static", "dynamic"])
@in_loop
async def test_a_lock_makes_the_second_wait(kind: str) -> None:
    core, _, run = made()
    assert core.call(f"get_{kind}_lock", run, "a") == 1
    second = asyncio.ensure_future(core.call(f"get_{kind}_lock", run, "a"))
    gone = asyncio.ensure_future(core.call(f"get_{kind}_lock", run, "a"))
    third = asyncio.ensure_future(core.call(f"get_{kind}_lock", run, "a"))
    await asyncio.sleep(0)
    assert not second.done()
    gone.cancel()
    core.call(f"release_{kind}_lock", run, "a")
    assert await second == 1
    assert not third.done()
    core.call(f"release_{kind}_lock", run, "a")
    assert await third == 1
    core.call(f"release_{kind}_lock", run, "a")
    assert core.call(f"release_{kind}_lock", run, "a") == 1
    assert core.call(f"get_{kind}_lock", run, "a") == 1


def test_keys_share_a_lock() -> None:
    core, _, run = made(lock_pool_size=1)
    assert core.call("strings_share_lock", run, "a", "b") == 1
    core, _, run = made(lock_pool_size=1024)
    assert core.call("strings_share_lock", run, "a", "a") == 1
    assert core.call("strings_share_lock", run, "a", "b") == -1


@pytest.mark.parametrize(("function", "amount"), [("sleep", 3), ("usleep", 3_000_000)])
@in_loop
async def test_waiting_suspends_for_the_time_given(function: str, amount: int) -> None:
    core, _, run = made()
    waiting = asyncio.ensure_future(core.call(function, run, amount))
    await asyncio.sleep(0)
    core.advance(2.9)
    await asyncio.sleep(0)
    assert not waiting.done()
    core.advance(0.2)
    assert await waiting == 1
    assert core.catalogue.functions[function].async_ok


def test_times_and_their_distance() -> None:
    core, _, run = made()
    core.wall = 1234.000005
    core.call("get_accurate_time", run, make_var("s"), make_var("u"), make_var("t"))
    assert run.vars["s"] == 1234
    assert run.vars["t"] == f"1234.{run.vars['u']:06}"
    assert core.call("ts_usec_delta", run, 10, 5, 12, 3, make_var("str"), make_var("int")) == 1
    assert (run.vars["str"], run.vars["int"]) == ("1999998", 1999998)
    assert core.call("ts_usec_delta", run, 0, 0, 3000, 0, make_var("str"), make_var("int")) == -1
    assert run.vars["str"] == "3000000000"


@pytest.mark.parametrize(
    ("text", "moment", "expected"),
    [
        ("UTC|20210104T080000|20210104T180000", "20210104T080000", 1),
        ("UTC|20210104T080000|20210104T180000", "20210104T180000", -1),
        ("UTC|20210104T080000|20210104T180000||WEEKLY|||MO,TU,WE,TH,FR", "20210315T120000", 1),
        ("UTC|20210104T080000|20210104T180000||WEEKLY|||MO,TU,WE,TH,FR", "20210314T120000", -1),
        ("UTC|20210104T080000|20210104T180000||WEEKLY|||MO,TU,WE,TH,FR", "20210315T190000", -1),
        ("UTC|20121101T000000||p30d", "20121130T235959", 1),
        ("UTC|20121101T000000||p30d", "20121201T000000", -1),
        ("UTC|20210101T220000||PT8H|DAILY", "20210601T030000", 1),
        ("UTC|20210101T220000||PT8H|DAILY", "20210601T063000", -1),
        ("UTC|20210101T000000||P1D|MONTHLY|||-1FR", "20210528T100000", 1),
        ("UTC|20210101T000000||P1D|MONTHLY|||-1FR", "20210521T100000", -1),
        ("UTC|20210101T000000||P1D|DAILY||2", "20210103T100000", 1),
        ("UTC|20210101T000000||P1D|DAILY||2", "20210104T100000", -1),
        ("UTC|20210101T000000||P1D|DAILY|20210201T000000", "20210301T000000", -1),
        ("UTC|20210101T000000||P1D|YEARLY||||25|||12", "20231225T100000", 1),
        ("Europe/Bucharest|20120101T000000|20130101T000000", "20111231T220000", 1),
        ("Europe/Bucharest|20120101T000000|20130101T000000", "20111231T215959", -1),
        ("UTC|20210101T000000||P1D & !(Europe/London|20210101T120000||PT1H / UTC|20210101T000000||PT1H)",
         "20210101T100000", 1),
        ("UTC|20210101T000000||P1D & !(Europe/London|20210101T120000||PT1H / UTC|20210101T000000||PT1H)",
         "20210101T123000", -1),
        ("UTC|20210101T000000||P1D|||2", "20210101T123000", -2),
        ("Nowhere/City|20210101T000000", "20210101T123000", -2),
        ("UTC|20211301T000000", "20210101T123000", -2),
        ("(UTC|20210101T000000", "20210101T123000", -2),
        ("UTC|20210101T000000||P1D|HOURLY", "20210101T123000", -2),
        ("!" * 500 + "UTC|20210101T000000", "20210101T123000", -2),
    ],
)  # fmt: skip
def test_time_recurrences(text: str, moment: str, expected: int) -> None:
    """RFC 2445 §4.3.10 and the manual's operators."""
    core, _, run = made()
    assert core.call("check_time_rec", run, text, unix(moment)) == expected


def test_a_recurrence_is_compared_with_the_clock() -> None:
    core, _, run = made()
    core.wall = float(unix("20210104T090000"))
    assert core.call("check_time_rec", run, "UTC|20210104T080000|20210104T180000", None) == 1


def test_counting_choosing_and_shuffling() -> None:
    core, _, run = made()
    avp = VarRef("$avp(x)", "$avp", "x", lambda r: r.avps["x"][-1], lambda r, v: None, lambda r, v: None)
    assert core.call("shuffle_avps", run, avp) == -1
    run.avps["x"] = list(range(50))
    assert core.call("shuffle_avps", run, avp) == 1
    assert run.avps["x"] != list(range(50))
    assert set(run.avps["x"]) == set(range(50))
    assert core.call("set_count", run, make_var("one", 3), make_var("n")) == 1
    assert run.vars["n"] == 1
    assert core.call("set_select_weight", run, make_var("t", "text")) == -1
    assert core.call("set_select_weight", run, make_var("w", 5)) == 0


def test_variables_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    core, _, run = made()
    monkeypatch.setenv("CFGUTILS_TEST", "yes")
    assert core.read("$env", run, "CFGUTILS_TEST") == "yes"
    assert core.read("$env", run, "CFGUTILS_NOT_SET") is None
    number = core.read("$RANDOM", run)
    assert isinstance(number, int)
    assert 0 <= number < 2**31
    here = datetime.fromtimestamp(core.wall)
    assert core.read("$ctime", run, "year") == here.year
    assert core.read("$ctime", run, "mon") == here.month
    assert core.read("$ctime", run, "wday") == here.isoweekday() % 7 + 1


def test_debugging_functions(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    core, _, run = made()
    caplog.set_level("INFO")
    assert core.call("pkg_status", run) == 1
    assert core.call("shm_status", run) == 1
    assert caplog.text.count("memory:") == 2
    aborted: list[int] = []
    monkeypatch.setattr(os, "abort", lambda: aborted.append(1))
    core.call("abort", run)
    assert aborted


@in_loop
async def test_a_changed_file_is_found(tmp_path: Path) -> None:
    file = tmp_path / "x.cfg"
    file.write_text("one")
    core, module, _ = made(hash_file=str(file))
    await module.start()
    assert await core.mi_call("cfgutils:get_config_hash") == "f97c5d29941bfb1b2fdab0874906ab82"
    assert "is identical" in await core.mi_call("cfgutils:check_config_hash")
    file.write_text("two")
    with pytest.raises(MiError, match="not identical"):
        await core.mi_call("cfgutils:check_config_hash")
    file.unlink()
    with pytest.raises(MiError, match="Internal error"):
        await core.mi_call("cfgutils:check_config_hash")
    core, _, _ = made()
    with pytest.raises(MiError, match="disabled"):
        await core.mi_call("cfgutils:get_config_hash")


@in_loop
async def test_the_probability_over_management() -> None:
    core, _, run = made()
    await core.mi_call("cfgutils:rand_set_prob", {"prob_proc": 33})
    assert await core.mi_call("cfgutils:rand_get_prob") == {"actual probability percent": 33}
    await core.mi_call("cfgutils:rand_reset_prob")
    assert core.call("rand_get_prob", run) == 10
    with pytest.raises(MiError, match="Bad parameter"):
        await core.mi_call("cfgutils:rand_set_prob", {"prob_proc": 1000})
