"""Statistics that scripts make: counters, series over a window of time, and a way through the members of a group."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from opensipspy.management import Counter
from opensipspy.module import Module, Param, ParamError, script_function, variable
from opensipspy.script.declare import Index, Value
from opensipspy.script.kinds import ALL, ERROR
from opensipspy.script.run import Run, VarRef

MOST_KINDS: Final = ALL & ~ERROR
DYNAMIC: Final = "dynamic"
MOST_MADE: Final = 100_000
"""Names may come from messages; so many statistics a script may make."""
ALGORITHMS: Final = ("accumulate", "average", "percentage")
NUMBERS: Final = ("hash_size", "window", "slots", "percentage_factor")


class Profile:
    """How a series is computed; raises ValueError for a faulty definition `name: attr=value ...`."""

    def __init__(self, text: str) -> None:
        name, _, rest = text.partition(":")
        self.name = name.strip()
        if not self.name:
            raise ValueError("a profile needs a name")
        self.algorithm = "accumulate"
        self.group = self.name
        numbers: dict[str, int] = {"window": 60, "percentage_factor": 100}
        for part in rest.replace(";", " ").replace(",", " ").split():
            key, _, value = part.partition("=")
            if key == "algorithm" and value in ALGORITHMS:
                self.algorithm = value
            elif key == "group" and value:
                self.group = value
            elif key in NUMBERS and value.isascii() and value.isdigit() and 0 < int(value[:10]) < 10**7:
                numbers[key] = int(value[:10])
            else:
                raise ValueError(f"{part!r} is no setting of a profile")
        self.window = numbers["window"]
        self.slots = min(numbers.get("slots", self.window), self.window)
        self.factor = numbers["percentage_factor"]


class Series:
    """One statistic of a profile: slots of (number of the slot, sum, values, positive values)."""

    def __init__(self, profile: Profile, now: Callable[[], float]) -> None:
        self.profile = profile
        self.now = now
        self.slots: deque[list[int]] = deque()

    def _current(self) -> int:
        slot = int(self.now() * self.profile.slots / self.profile.window)
        while self.slots and self.slots[0][0] <= slot - self.profile.slots:
            self.slots.popleft()
        return slot

    def add(self, value: int) -> None:
        slot = self._current()
        if not self.slots or self.slots[-1][0] != slot:
            self.slots.append([slot, 0, 0, 0])
        last = self.slots[-1]
        last[1] += value
        last[2] += 1
        last[3] += value > 0

    def value(self) -> int:
        self._current()
        count = sum(slot[2] for slot in self.slots)
        if self.profile.algorithm == "percentage":
            return sum(slot[3] for slot in self.slots) * self.profile.factor // count if count else 0
        total = sum(slot[1] for slot in self.slots)
        if self.profile.algorithm == "average":
            return int(total / count) if count else 0
        return total


class StatisticsModule(Module):
    """Let scripts make, change and read statistics."""

    name = "statistics"

    variable_ = Param(str, None, "A counter: name or group:name, with /no_reset behind it.", func="add_variable")
    stat_groups = Param(str, None, "Groups that scripts may use, separated by commas.", func="add_groups")
    stat_series_profile = Param(
        str, None, "A series: name: algorithm=, window=, slots=, group=...", repeated=True, func="add_profile"
    )

    def __init__(self, **params: Any) -> None:
        self.defined: list[tuple[str, bool]] = []
        self.groups: set[str] = {DYNAMIC}
        self.profiles: dict[str, Profile] = {}
        self.series: dict[tuple[str, str], Series] = {}
        self.ways: dict[str, list[tuple[str, Counter]]] = {}
        self.made = 0
        super().__init__(**params)

    def add_variable(self, value: str) -> None:
        name, slash, flag = value.partition("/")
        if not name.strip() or (slash and flag.strip() != "no_reset"):
            raise ParamError(self.name, "variable", f"{value!r} has not the form name or name/no_reset")
        self.defined.append((name.strip(), bool(slash)))

    def add_groups(self, value: str) -> None:
        self.groups.update(name.strip() for name in value.split(",") if name.strip())

    def add_profile(self, value: str) -> None:
        try:
            profile = Profile(value)
        except ValueError as error:
            raise ParamError(self.name, "stat_series_profile", str(error)) from error
        self.profiles[profile.name] = profile

    async def start(self) -> None:
        for name, no_reset in self.defined:
            self._counter(name, no_reset=no_reset)

    def _counter(self, name: str, *, no_reset: bool = False) -> Counter | None:
        """The counter of that name, made when its group is one of the script's; None when it cannot be made."""
        found = self.core.stats.find(name)
        if found is None:
            group, colon, rest = name.partition(":")
            group, rest = (group, rest) if colon else (DYNAMIC, name)
            if group not in self.groups or not rest or self.made >= MOST_MADE:
                self.core.log.error("statistic %s cannot be made: unknown group, or too many", name)
                return None
            self.made += 1
            found = self.core.stats.counter(group, rest, no_reset=no_reset)
        return found

    @script_function(routes=MOST_KINDS)
    def update_stat(self, run: Run, variable: str, value: int) -> int:
        """Add `value`, which may be negative, to a statistic; a new one is made. -1 when that cannot be."""
        counter = self._counter(variable)
        if counter is None or counter.computed:
            return -1
        counter.inc(value)
        return 1

    @script_function(routes=MOST_KINDS)
    def reset_stat(self, run: Run, variable: str) -> int:
        """Set a statistic to 0; -1 when it cannot be reset."""
        counter = self._counter(variable)
        if counter is None or counter.computed or counter.no_reset:
            return -1
        counter.reset()
        return 1

    @script_function(routes=MOST_KINDS)
    def stat_iter_init(self, run: Run, group: str, iter: str) -> int:
        """Begin to go through a group; -1 when there is no such group."""
        if group not in self.core.stats.groups() or (iter not in self.ways and len(self.ways) >= MOST_MADE):
            return -1
        self.ways[iter] = list(self.core.stats.group(group).items())[::-1]
        return 1

    @script_function(routes=MOST_KINDS)
    def stat_iter_next(self, run: Run, name: VarRef, val: VarRef, iter: str) -> int:
        """Write the next statistic's name and value; -1 at the end."""
        way = self.ways.get(iter)
        if not way:
            self.ways.pop(iter, None)
            return -1
        key, counter = way.pop()
        name.set(run, key)
        val.set(run, counter.read())
        return 1

    @script_function(routes=ALL)
    def update_stat_series(self, run: Run, profile: str, variable: str, value: int) -> int:
        """Add a value to a series; -1 for an unknown profile or a name that is taken."""
        key = (profile, variable)
        series = self.series.get(key)
        if series is None:
            rules = self.profiles.get(profile)
            if rules is None or not variable or self.made >= MOST_MADE:
                return -1
            series = Series(rules, self.core.now)
            try:
                self.core.stats.computed(rules.group, variable, series.value)
            except ValueError:
                return -1
            self.made += 1
            self.series[key] = series
        series.add(value)
        return 1

    @variable("$stat", name_arg=True)
    def stat(self, run: Run, name: str, index: Index) -> Value:
        """A statistic's value, name or group:name; NULL when there is none. Writing 0 resets it."""
        counter = self.core.stats.find(name)
        return None if counter is None else counter.read()

    @stat.setter
    def stat_reset(self, run: Run, name: str, index: Index, value: Value) -> None:
        counter = self.core.stats.find(name)
        if value == 0 and counter is not None and not counter.no_reset and not counter.computed:
            counter.reset()
