"""benchmark: what parts of a script take, by a clock that the tests turn."""

from __future__ import annotations

import logging

import pytest

from opensipspy.module import MiError, ParamError
from opensipspy.module.testing import FakeCore, make_run, request
from opensipspy.modules.benchmark import MOST_TIMERS, Benchmark
from opensipspy.script.run import Run

from .asynchronous import in_loop


class Bench:
    """A server with the module; `take(micros)` is a part of a script that takes so long."""

    def __init__(self, **params: int) -> None:
        self.core = FakeCore()
        self.module = self.core.add(Benchmark(**params))
        self.now = 5.0
        self.module.clock = lambda: self.now
        self.timer = self.module.timer("part")

    def run(self) -> Run:
        return make_run(request(), core=self.core)

    def take(self, micros: int, run: Run | None = None) -> Run:
        run = run or self.run()
        assert self.core.call("bm_start_timer", run, self.timer) == 1
        self.now += micros / 1_000_000
        assert self.core.call("bm_log_timer", run, self.timer) == 1
        return run


def test_the_time_is_read_in_microseconds() -> None:
    bench = Bench(enable=1)
    assert bench.core.read("$BM_time_diff", bench.run()) == 0
    assert bench.core.read("$BM_time_diff", bench.take(1500)) == 1500


def test_figures_are_logged_after_so_many_calls(caplog: pytest.LogCaptureFixture) -> None:
    """The manual: calls, sum, min, max and average, of the last interval and of all."""
    caplog.set_level(logging.WARNING)
    bench = Bench(enable=1, granularity=2, loglevel=1)
    for micros in (10, 20, 40):
        bench.take(micros)
    assert len(caplog.records) == 1
    bench.take(50)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "last 2/30/10/20/15.000000, all 2/30/10/20/15.000000" in caplog.records[0].getMessage()
    assert "last 2/90/40/50/45.000000, all 4/120/10/50/30.000000" in caplog.records[1].getMessage()


def test_messages_do_not_disturb_each_other() -> None:
    """One message waits while another is measured."""
    bench = Bench(enable=1)
    slow = bench.run()
    bench.core.call("bm_start_timer", slow, bench.timer)
    bench.take(100)
    bench.core.call("bm_log_timer", slow, bench.timer)
    assert bench.core.read("$BM_time_diff", slow) == 100


def test_a_timer_that_was_not_started_measures_nothing() -> None:
    bench = Bench(enable=1)
    run = bench.run()
    assert bench.core.call("bm_log_timer", run, bench.timer) == -1
    assert bench.core.read("$BM_time_diff", run) == 0


@in_loop
async def test_timers_are_enabled_one_by_one_or_all() -> None:
    """The manual: 0 leaves it to each timer, 1 is all, -1 is none."""
    bench = Bench(granularity=0)
    bench.take(10)
    assert await bench.core.mi_call("benchmark:enable_timer", {"timer": "part", "enable": 1}) == "OK"
    bench.take(20)
    await bench.core.mi_call("bm_enable_global", {"enable": -1})
    bench.take(30)
    await bench.core.mi_call("benchmark:enable_timer", {"timer": "part", "enable": 0})
    await bench.core.mi_call("benchmark:enable_global", {"enable": 1})
    bench.take(40)
    assert await bench.core.mi_call("benchmark:poll_results") == {
        "part": ["2/60/20/40/30.000000", "2/60/20/40/30.000000"]
    }


@in_loop
async def test_polling_starts_the_recent_figures_anew() -> None:
    bench = Bench(enable=1)
    with pytest.raises(MiError, match="granularity"):
        await bench.core.mi_call("benchmark:poll_results")
    await bench.core.mi_call("benchmark:granularity", {"granularity": 0})
    bench.take(7)
    await bench.core.mi_call("benchmark:poll_results")
    assert await bench.core.mi_call("bm_poll_results") == {"part": ["0/0/0/0/0.000000", "1/7/7/7/7.000000"]}


@in_loop
async def test_the_level_can_be_changed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    bench = Bench(enable=1, granularity=1)
    await bench.core.mi_call("benchmark:loglevel", {"log_level": 4})
    bench.take(1)
    assert [record.levelno for record in caplog.records if "part" in record.getMessage()] == [logging.DEBUG]


@pytest.mark.parametrize(
    ("command", "params"),
    [
        ("benchmark:enable_global", {"enable": 2}),
        ("benchmark:enable_timer", {"timer": "none", "enable": 1}),
        ("benchmark:enable_timer", {"timer": "part", "enable": 2}),
        ("benchmark:granularity", {"granularity": -1}),
        ("benchmark:loglevel", {"log_level": 0}),
    ],
)
def test_commands_refuse_what_cannot_be(command: str, params: dict[str, object]) -> None:
    @in_loop
    async def check() -> None:
        with pytest.raises(MiError):
            await Bench().core.mi_call(command, params)

    check()


@pytest.mark.parametrize("params", [{"enable": 2}, {"granularity": -1}, {"loglevel": 0}])
def test_parameters_refuse_what_cannot_be(params: dict[str, int]) -> None:
    with pytest.raises(ParamError):
        Benchmark(**params)


def test_the_number_of_timers_has_an_end() -> None:
    """Names that are made of messages do not fill the memory."""
    module = Benchmark()
    for number in range(MOST_TIMERS):
        module.timer(str(number))
    with pytest.raises(ValueError, match="at most"):
        module.timer("one more")
