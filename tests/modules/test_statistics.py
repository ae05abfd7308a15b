"""statistics: counters and series that scripts make."""

from __future__ import annotations

import pytest

from opensipspy.module import ParamError
from opensipspy.module.testing import FakeCore, make_run, make_var, request
from opensipspy.modules.statistics import StatisticsModule
from opensipspy.script.run import Run
from tests.modules.asynchronous import in_loop


def made(*settings: tuple[str, str]) -> tuple[FakeCore, StatisticsModule, Run]:
    core = FakeCore()
    module = StatisticsModule()
    for name, value in settings:
        module.set_param(name, value)
    core.add(module)
    return core, module, make_run(request(), core=core)


@in_loop
async def test_counters() -> None:
    core, module, run = made(
        ("stat_groups", "method, packet"), ("variable", "method:invite"), ("variable", "a/no_reset")
    )
    await module.start()
    assert core.stats.read(["method:"]) == {"method:invite": 0}
    assert core.call("update_stat", run, "method:invite", 5) == 1
    assert core.call("update_stat", run, "a", 2) == 1
    assert core.call("update_stat", run, "new", -1) == 1
    assert core.read("$stat", run, "method:invite") == 5
    assert core.read("$stat", run, "new") == -1
    assert core.read("$stat", run, "unknown") is None
    assert core.call("reset_stat", run, "method:invite") == 1
    assert core.call("reset_stat", run, "a") == -1
    core.write("$stat", run, 0, "new")
    core.write("$stat", run, 0, "a")
    assert core.stats.read(["all"]) == {"method:invite": 0, "dynamic:a": 2, "dynamic:new": 0}
    assert core.call("update_stat", run, "nogroup:x", 1) == -1


def test_going_through_a_group() -> None:
    core, _, run = made(("stat_groups", "packet"))
    core.call("update_stat", run, "packet:a", 1)
    core.call("update_stat", run, "packet:b", 2)
    assert core.call("stat_iter_init", run, "packet", "i") == 1
    seen = {}
    while core.call("stat_iter_next", run, make_var("n"), make_var("v"), "i") == 1:
        seen[run.vars["n"]] = run.vars["v"]
    assert seen == {"a": 1, "b": 2}
    assert core.call("stat_iter_init", run, "nobody", "i") == -1


@pytest.mark.parametrize(("algorithm", "expected"), [("accumulate", 4), ("average", 1), ("percentage", 66)])
def test_a_series_forgets(algorithm: str, expected: int) -> None:
    """The manual: values out of the window are discarded."""
    core, _, run = made(("stat_series_profile", f"p: algorithm={algorithm} window=60 slots=6"))
    for value in (-1, 2, 3):
        assert core.call("update_stat_series", run, "p", "x", value) == 1
    assert core.read("$stat", run, "p:x") == expected
    core.advance(30)
    assert core.read("$stat", run, "p:x") == expected
    core.advance(40)
    assert core.read("$stat", run, "p:x") == 0
    assert core.call("update_stat_series", run, "other", "x", 1) == -1


@pytest.mark.parametrize("text", ["", ": window=1", "p: window=0", "p: algorithm=x", "p: colour=red"])
def test_a_faulty_profile_is_refused(text: str) -> None:
    with pytest.raises(ParamError):
        made(("stat_series_profile", text))
