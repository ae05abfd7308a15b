"""Statistics: counters and gauges in groups (`core:`, `tm:` ...), as `statistics:get` and exporters show them.

A `Counter` is a plain object on the instance that counts, so that counting is one attribute addition and no look-up by
name; the `Statistics` registry only knows where the counters are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Final

LOG: Final = logging.getLogger(__name__)


class Counter:
    """One number: `value` is what it shows. `no_reset` counters keep their value when statistics are reset."""

    __slots__ = ("help", "name", "no_reset", "value")

    def __init__(self, name: str = "", *, help: str = "", no_reset: bool = False) -> None:
        self.name = name
        self.help = help
        self.no_reset = no_reset
        self.value = 0

    def inc(self, n: int = 1) -> None:
        """Add `n`, which may be negative."""
        self.value += n

    def dec(self, n: int = 1) -> None:
        """Take `n` off; a gauge never shows less than nothing."""
        self.value = max(0, self.value - n)

    def set(self, value: int) -> None:
        """Show `value` from now on."""
        self.value = value

    def reset(self) -> None:
        """Start again from 0, unless the counter is declared as not resettable."""
        if not self.no_reset:
            self.value = 0

    def read(self) -> int:
        """The value now; a computed statistic asks its function."""
        return self.value

    @property
    def computed(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}={self.read()}>"


class Computed(Counter):
    """A statistic that a function answers when it is read; it is never reset."""

    __slots__ = ("_function",)

    def __init__(self, name: str, function: Callable[[], int], *, help: str = "") -> None:
        super().__init__(name, help=help, no_reset=True)
        self._function = function

    def read(self) -> int:
        return int(self._function())

    @property
    def computed(self) -> bool:
        return True


class UnknownStatistic(KeyError):
    """No statistic or group has that name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"no statistic {self.name!r}"


class Statistics:
    """All statistics of one server, by group and name.

    Names are `group:name` in answers. A bare name is looked for in all groups; the first group that has it wins, in
    the order in which groups were added, which is how the C server answers it.
    """

    def __init__(self) -> None:
        self._groups: dict[str, dict[str, Counter]] = {}
        self._first: dict[str, tuple[str, Counter]] = {}

    def add(self, group: str, counter: Counter) -> Counter:
        """Make `counter` known as `group:counter.name`; raises ValueError when the name is taken."""
        members = self._groups.setdefault(group, {})
        if counter.name in members:
            raise ValueError(f"statistic {group}:{counter.name} exists already")
        members[counter.name] = counter
        self._first.setdefault(counter.name, (group, counter))
        return counter

    def counter(self, group: str, name: str, *, help: str = "", no_reset: bool = False) -> Counter:
        """The counter of that name, created when it does not exist."""
        found = self._groups.get(group, {}).get(name)
        return found if found is not None else self.add(group, Counter(name, help=help, no_reset=no_reset))

    def computed(self, group: str, name: str, function: Callable[[], int], *, help: str = "") -> Counter:
        """Declare a statistic that `function` answers when it is read."""
        return self.add(group, Computed(name, function, help=help))

    def remove_group(self, group: str) -> None:
        """Forget a group, for a module that is unloaded or a test."""
        for name, counter in self._groups.pop(group, {}).items():
            if self._first.get(name) == (group, counter):
                del self._first[name]

    def groups(self) -> list[str]:
        return list(self._groups)

    def group(self, name: str) -> dict[str, Counter]:
        """Name -> counter of one group; raises UnknownStatistic."""
        try:
            return dict(self._groups[name])
        except KeyError:
            raise UnknownStatistic(name) from None

    def find(self, name: str) -> Counter | None:
        """The counter called `name` or `group:name`, or None."""
        group, colon, rest = name.partition(":")
        if colon:
            return self._groups.get(group, {}).get(rest)
        found = self._first.get(name)
        return found[1] if found else None

    def select(self, names: Sequence[str]) -> Iterator[tuple[str, Counter]]:
        """(`group:name`, counter) of each name; `all`, `group:`, `name` and `group:name` are understood.

        A name that nobody knows is left out, so that one misspelt name of a list does not lose the others; the
        caller sees by the empty answer when nothing matched.
        """
        for name in names:
            if name == "all":
                for group, members in self._groups.items():
                    for key, counter in members.items():
                        yield f"{group}:{key}", counter
            elif name.endswith(":"):
                for key, counter in self._groups.get(name[:-1], {}).items():
                    yield f"{name}{key}", counter
            elif ":" in name:
                found = self.find(name)
                if found is not None:
                    yield name, found
            else:
                first = self._first.get(name)
                if first is not None:
                    yield f"{first[0]}:{name}", first[1]

    def read(self, names: Sequence[str]) -> dict[str, int]:
        """Values of the named statistics; one whose function fails is left out and logged."""
        values: dict[str, int] = {}
        for name, counter in self.select(names):
            try:
                values[name] = counter.read()
            except Exception:
                LOG.exception("statistic %s cannot be computed", name)
        return values
