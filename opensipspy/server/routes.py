"""The routes that no message starts: startup, timers and events; and how a new version of the script takes over.

What runs on the old routes ends on them, for each run keeps its own program; what begins afterwards takes the new ones.
A timer that keeps its name and interval keeps its rhythm too, or reloading often would keep slow timers from ever
firing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from opensipspy.module.blank import blank_run
from opensipspy.script import kinds
from opensipspy.script.run import Run

if TYPE_CHECKING:
    from opensipspy.module import CancelHandle
    from opensipspy.server.core import ServerCore


class TimerRoute:
    """One timer_route with its clock."""

    def __init__(self, owner: Routes, interval_s: int, route: Any, core: ServerCore) -> None:
        self.interval_s = interval_s
        self.route = route
        self._owner = owner
        self._core = core
        self._running = False
        self._clock: CancelHandle = core.every(interval_s, self._tick)

    def _tick(self) -> None:
        # A round that waits for something is not doubled.
        if not self._running:
            self._running = True
            self._core.run_route(self.route, self._owner.made_up_run(kinds.TIMER), self._ended)

    def _ended(self, run: Run, result: int) -> None:
        self._running = False

    def cancel(self) -> None:
        self._clock.cancel()


class Routes:
    """Keeps timers and event subscriptions of the routes in force."""

    def __init__(self, core: ServerCore) -> None:
        self._core = core
        self._timers: dict[tuple[str, int], TimerRoute] = {}
        self._listening: list[Callable[[], None]] = []

    def start(self) -> None:
        """Run startup_route, then let timers and events begin."""
        startup = self._core.program.route(kinds.STARTUP, "")
        if startup is not None:
            self._core.run_route(startup, self.made_up_run(kinds.STARTUP), ignored)
        self._install(self._core.program)

    def replace(self, program: Any) -> None:
        """Put another program in force, in one step of the loop. startup_route belongs to the start, and is not run."""
        self._core.program = program
        self._install(program)

    def _install(self, program: Any) -> None:
        wanted = {(route.name, interval_s): route for interval_s, route in program.timer_routes}
        for key in [key for key in self._timers if key not in wanted]:
            self._timers.pop(key).cancel()
        for (name, interval_s), route in wanted.items():
            timer = self._timers.get((name, interval_s))
            if timer is not None:
                timer.route = route
            else:
                self._timers[name, interval_s] = TimerRoute(self, interval_s, route, self._core)
        for end in self._listening:
            end()
        self._listening = [
            self._core.events.listen(name, self._on_event(route)) for name, route in program.event_routes
        ]

    def _on_event(self, route: Any) -> Callable[[str, Any], None]:
        def raised(name: str, params: Any) -> None:
            run = self.made_up_run(kinds.EVENT)
            run.params.append(dict(params))
            self._core.run_route(route, run, ignored)

        return raised

    def made_up_run(self, kind: int) -> Run:
        """A run without a message from the network: routes that run for none see this one."""
        return blank_run(self._core, kind)

    def close(self) -> None:
        """No timer and no event starts a route any more."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for end in self._listening:
            end()
        self._listening.clear()


def ignored(run: Run, result: int) -> None:
    """A route of which no result is wanted."""
