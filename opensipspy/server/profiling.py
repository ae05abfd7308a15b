"""What routes cost: the event E_PROFILING_SCRIPT, raised as a run begins, enters and leaves routes, and ends.

While nobody wants the event nothing is measured and no route is the slower for it: the routes of the program are
wrapped when the first subscriber is seen, at most a second later, and unwrapped when the last has gone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from opensipspy.script import kinds
from opensipspy.script.run import Run
from opensipspy.server.core import ServerCore

EVENT: Final = "E_PROFILING_SCRIPT"
PARAMS: Final = (
    ("sec", "int"),
    ("usec", "int"),
    ("session", "int"),
    ("verb", "string"),
    ("name", "string"),
    ("type", "int"),
    ("depth", "int"),
    ("file", "string"),
    ("line", "int"),
    ("status", "int"),
)
# Keys in Run.ctx: how many routes deep the run is, and the number that its events share.
DEPTH: Final = "core.profiled_depth"
SESSION: Final = "core.profiled_session"
MAIN: Final = "<root>"
FAILED: Final = -1


class Profiler:
    """Wraps the routes of the program in force while E_PROFILING_SCRIPT is wanted."""

    def __init__(self, core: ServerCore) -> None:
        self._core = core
        self._program: Any = None
        # (the route, its function, the names under which other routes call it).
        self._wrapped: list[tuple[Any, Callable[[Run], Any], list[str]]] = []
        self._sessions = 0
        self._raising = False

    def look(self) -> None:
        """See whether somebody wants the event, and whether the program is still the one that is wrapped."""
        program = self._core.program if self._core.events.wanted(EVENT) else None
        if program is not self._program:
            self._unwrap()
            self._wrap(program)

    def _wrap(self, program: Any) -> None:
        self._program = program
        if program is None:
            return
        for route in program.all_routes():
            # Whoever listens with a route does not want to hear of that route.
            if route.kind == kinds.EVENT and route.name == EVENT:
                continue
            plain = route.fn
            space = plain.__globals__
            names = [name for name, value in space.items() if value is plain]
            wrapper = self._watched(route, plain)
            self._wrapped.append((route, plain, names))
            route.fn = wrapper
            for name in names:
                space[name] = wrapper

    def _unwrap(self) -> None:
        for route, plain, names in self._wrapped:
            route.fn = plain
            for name in names:
                plain.__globals__[name] = plain
        self._wrapped.clear()

    def _watched(self, route: Any, plain: Callable[[Run], Any]) -> Callable[[Run], Any]:
        if route.is_async:

            async def waiting(run: Run) -> int:
                self._enter(run, route)
                status: int = FAILED
                try:
                    status = await plain(run)
                    return status
                finally:
                    self._leave(run, route, status)

            return waiting

        def direct(run: Run) -> int:
            self._enter(run, route)
            status: int = FAILED
            try:
                status = plain(run)
                return status
            finally:
                self._leave(run, route, status)

        return direct

    def _enter(self, run: Run, route: Any) -> None:
        depth = self._depth(run)
        if depth == 0:
            self._sessions += 1
            run.ctx[SESSION] = self._sessions
            self._tell(run, route, "start", 0)
        run.ctx[DEPTH] = depth + 1
        self._tell(run, route, "enter", depth + 1, place=True)

    def _leave(self, run: Run, route: Any, status: int) -> None:
        depth = max(0, self._depth(run) - 1)
        run.ctx[DEPTH] = depth
        self._tell(run, route, "exit", depth, status, place=True)
        if depth == 0:
            self._tell(run, route, "end", 0, status)

    @staticmethod
    def _depth(run: Run) -> int:
        found = run.ctx.get(DEPTH, 0)
        return found if isinstance(found, int) else 0

    def _tell(
        self, run: Run, route: Any, verb: str, depth: int, status: int | None = None, *, place: bool = False
    ) -> None:
        if self._raising:
            return
        now = self._core.time()
        told: dict[str, object] = {
            "sec": int(now),
            "usec": int(now * 1e6) % 1_000_000,
            "session": run.ctx.get(SESSION, 0),
            "verb": verb,
            "name": route.name or MAIN,
            "type": route.kind,
            "depth": depth,
        }
        if place and route.code is not None:
            told["file"] = route.code.co_filename
            told["line"] = route.code.co_firstlineno
        if status is not None:
            told["status"] = status
        self._raising = True
        try:
            self._core.events.raise_event(EVENT, told)
        finally:
            self._raising = False
