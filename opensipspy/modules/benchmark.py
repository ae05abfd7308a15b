"""How long parts of a script take: a timer is started and read within the same route, in microseconds.

A start belongs to the run that made it, so messages that wait between start and end do not disturb each other. Time
spent waiting counts: it is what the caller waits for too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Annotated, Any, Final

from opensipspy.management.registry import Json
from opensipspy.module import Fixup, MiError, Module, Param, ParamError, mi_command, script_function, variable
from opensipspy.script.declare import Index, Value
from opensipspy.script.kinds import ALL, ERROR
from opensipspy.script.run import Run

ROUTES: Final = ALL & ~ERROR
STARTED: Final = "benchmark:"
"""Key in `run.ctx`, before the timer's name: when it was started."""
LAST: Final = "benchmark"
"""Key in `run.ctx`: microseconds of the last bm_log_timer()."""
MOST_TIMERS: Final = 1000
LOG_LEVELS: Final = {
    -3: logging.CRITICAL,
    -2: logging.CRITICAL,
    -1: logging.ERROR,
    1: logging.WARNING,
    2: logging.INFO,
    3: logging.INFO,
    4: logging.DEBUG,
}


class Figures:
    """Calls and what they took, in microseconds."""

    __slots__ = ("calls", "highest", "lowest", "total")

    def __init__(self) -> None:
        self.calls = 0
        self.total = 0
        self.lowest = 0
        self.highest = 0

    def add(self, micros: int) -> None:
        self.lowest = min(self.lowest, micros) if self.calls else micros
        self.highest = max(self.highest, micros)
        self.calls += 1
        self.total += micros

    def text(self) -> str:
        """calls/sum/min/max/average."""
        average = self.total / self.calls if self.calls else 0.0
        return f"{self.calls}/{self.total}/{self.lowest}/{self.highest}/{average:.6f}"


class BenchTimer:
    """One name: what it took since it was last told, and in all."""

    __slots__ = ("enabled", "ever", "name", "recent")

    def __init__(self, name: str) -> None:
        self.name = name
        self.enabled = False
        self.recent = Figures()
        self.ever = Figures()


Named = Annotated[BenchTimer, Fixup("timer", "string")]


class Benchmark(Module):
    """Measure how long parts of a script take."""

    name = "benchmark"

    enable = Param(int, 0, "1 measures all timers, 0 those that were enabled one by one, -1 none.")
    granularity = Param(int, 100, "Calls of bm_log_timer() for one line in the log; 0 logs none.")
    loglevel = Param(int, 3, "Level of these lines: -3 alert, -2 crit, -1 err, 1 warn, 2 notice, 3 info, 4 dbg.")

    def __init__(self, **params: Any) -> None:
        self.known: dict[str, BenchTimer] = {}
        self.clock: Callable[[], float] = time.perf_counter
        super().__init__(**params)

    def set_param(self, name: str, value: object) -> None:
        super().set_param(name, value)
        if self.enable not in (-1, 0, 1):
            raise ParamError(self.name, "enable", f"is -1, 0 or 1, not {self.enable}")
        if self.granularity < 0:
            raise ParamError(self.name, "granularity", f"is 0 or more, not {self.granularity}")
        if self.loglevel not in LOG_LEVELS:
            raise ParamError(self.name, "loglevel", f"is one of -3 to -1 and 1 to 4, not {self.loglevel}")

    def timer(self, name: str) -> BenchTimer:
        """The timer of a name, made at load for those that a script names."""
        found = self.known.get(name)
        if found is None:
            if not name or len(self.known) >= MOST_TIMERS:
                raise ValueError(f"a timer has a name, and there are {MOST_TIMERS} at most")
            found = self.known[name] = BenchTimer(name)
        return found

    def _measured(self, timer: BenchTimer) -> bool:
        return self.enable > 0 or (self.enable == 0 and timer.enabled)

    @script_function(routes=ROUTES)
    def bm_start_timer(self, run: Run, name: Named) -> int:
        """Start a timer."""
        if self._measured(name):
            run.ctx[STARTED + name.name] = self.clock()
        return 1

    @script_function(routes=ROUTES)
    def bm_log_timer(self, run: Run, name: Named) -> int:
        """Note how long it is since the timer was started; every `granularity` calls the figures are logged.

        Returns 1, or -1 when this message did not start the timer.
        """
        if not self._measured(name):
            return 1
        started = run.ctx.pop(STARTED + name.name, None)
        if not isinstance(started, float):
            return -1
        micros = round((self.clock() - started) * 1_000_000)
        run.ctx[LAST] = micros
        name.recent.add(micros)
        name.ever.add(micros)
        if self.granularity and name.recent.calls >= self.granularity:
            self.core.log.log(
                LOG_LEVELS[self.loglevel],
                "benchmark: %s took %d us (calls/sum/min/max/average: last %s, all %s)",
                name.name,
                micros,
                name.recent.text(),
                name.ever.text(),
            )
            name.recent = Figures()
        return 1

    @variable("$BM_time_diff")
    def time_diff(self, run: Run, name: object, index: Index) -> Value:
        """Microseconds that the last bm_log_timer() of this message found; 0 before."""
        micros = run.ctx.get(LAST, 0)
        return micros if isinstance(micros, int) else 0

    # --- management

    @mi_command(
        "benchmark:enable_global", aliases=("bm_enable_global",), params=(("enable",),), types={"enable": "int"}
    )
    def mi_enable_global(self, enable: int) -> Json:
        """Measure all timers (1), those that were enabled one by one (0), or none (-1)."""
        if enable not in (-1, 0, 1):
            raise MiError(400, "Bad parameter value")
        self.enable = enable
        return "OK"

    @mi_command(
        "benchmark:enable_timer",
        aliases=("bm_enable_timer",),
        params=(("timer", "enable"),),
        types={"timer": "string", "enable": "int"},
    )
    def mi_enable_timer(self, timer: str, enable: int) -> Json:
        """Measure one timer (1) or not (0); it counts while `enable` of the module is 0."""
        if enable not in (0, 1):
            raise MiError(400, "Bad parameter value")
        found = self.known.get(timer)
        if found is None:
            raise MiError(404, "No such timer")
        found.enabled = bool(enable)
        return "OK"

    @mi_command(
        "benchmark:granularity", aliases=("bm_granularity",), params=(("granularity",),), types={"granularity": "int"}
    )
    def mi_granularity(self, granularity: int) -> Json:
        """Log after so many calls; 0 never."""
        if granularity < 0:
            raise MiError(400, "Bad parameter value")
        self.granularity = granularity
        return "OK"

    @mi_command("benchmark:loglevel", aliases=("bm_loglevel",), params=(("log_level",),), types={"log_level": "int"})
    def mi_loglevel(self, log_level: int) -> Json:
        """Change the level that figures are logged with."""
        if log_level not in LOG_LEVELS:
            raise MiError(400, "Bad parameter value")
        self.loglevel = log_level
        return "OK"

    @mi_command("benchmark:poll_results", aliases=("bm_poll_results",))
    def mi_poll_results(self) -> Json:
        """Show the figures of each timer since the last poll and in all; only while `granularity` is 0."""
        if self.granularity:
            raise MiError(400, "Only while granularity is 0")
        results: dict[str, Json] = {}
        for timer in self.known.values():
            results[timer.name] = [timer.recent.text(), timer.ever.text()]
            timer.recent = Figures()
        return results
