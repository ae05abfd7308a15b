"""Holds single calls at lines of the script while the others go on.

Routes are compiled so that they may wait before each statement (`Debugger` is the `Watch` of such a program). A held
run waits like one that asks a database: copies of its request are absorbed, other messages pass. Nothing is held while
no client is connected, and everything held goes on as soon as the client is gone.

The client's protocol is another file's business (adapter.py).
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from opensipspy.script import kinds
from opensipspy.script.probes import STATEMENT, Watch
from opensipspy.script.run import Run
from opensipspy.server.console import Expression, ExpressionError, shown

if TYPE_CHECKING:
    from opensipspy.script.declare import Catalogue
    from opensipspy.server.core import ServerCore

LOG: Final = logging.getLogger("opensipspy.core")

# Runs held at once; what comes to a breakpoint beyond them passes.
MOST_HELD: Final = 100
# How long a run may be held: the limit on waiting routes must not end what a person looks at.
LONGEST_HOLD_S: Final = 24 * 3600.0
# The thread that stands for all calls that are not held: it can be paused, which holds whatever runs next.
SERVER_THREAD: Final = 1

CONTINUE: Final = "continue"
NEXT: Final = "next"
STEP_IN: Final = "stepIn"
STEP_OUT: Final = "stepOut"


class Breakpoint:
    """A line where runs are held, or (message) where a text goes to the client and nothing is held.

    hits: 0 each time, else only from that many passes on. line: of the statement; 0 when there is none.
    """

    def __init__(self, number: int, file: str, line: int) -> None:
        self.number = number
        self.file = file
        self.line = line
        self.condition: Expression | None = None
        self.message: list[str | Expression] | None = None
        self.hits = 0
        self.passed = 0
        self.problem = ""


class Frame:
    """One route of a held run: where it is, and its view of the message."""

    def __init__(self, frame: FrameType, line: int = 0) -> None:
        self.frame = frame
        self.file = frame.f_code.co_filename
        self.line = line or frame.f_lineno
        self.name = frame.f_code.co_name
        self.run: Run | None = frame.f_locals.get("run")


class Held:
    """A run that is held: a thread, to the client. frames: innermost first. reason: as the protocol names it."""

    def __init__(self, number: int, run: Run, frames: list[Frame], reason: str, text: str) -> None:
        self.number = number
        self.run = run
        self.frames = frames
        self.reason = reason
        self.text = text
        self.name = thread_name(run)
        self.go_on: asyncio.Future[str] = asyncio.get_running_loop().create_future()


class Stepping:
    """A run that was let go for one step. frames: those it was in when it went, innermost first."""

    def __init__(self, held: Held, mode: str) -> None:
        self.number = held.number
        self.mode = mode
        self.frames = [frame.frame for frame in held.frames]

    def ends_at(self, frames: list[FrameType]) -> bool:
        """Whether the step is over before the statement that the innermost of `frames` is about to run."""
        if self.mode == STEP_IN:
            return any(frame in self.frames for frame in frames)
        return frames[0] in (self.frames if self.mode == NEXT else self.frames[1:])


class Client:
    """Who is told of what happens; the adapter's connection is one."""

    def stopped(self, held: Held, breakpoint_number: int) -> None:
        """A run is held."""

    def exited(self, number: int) -> None:
        """A thread is no more."""

    def output(self, text: str, file: str, line: int) -> None:
        """A log point was passed."""


class Debugger(Watch):
    """The breakpoints and held runs of one server."""

    halting = True

    def __init__(self) -> None:
        super().__init__()
        self.client: Client | None = None
        self.held: dict[int, Held] = {}
        self.on_errors = False
        self.catalogue: Catalogue | None = None
        self._breakpoints: dict[str, list[Breakpoint]] = {}
        self._armed: dict[int, Breakpoint] = {}
        self._armed_points = 0
        self._files: frozenset[str] = frozenset()
        self._pausing = False
        self._stepping: dict[int, Stepping] = {}
        self._threads = SERVER_THREAD
        self._numbers = 0
        self._last_error: Exception | None = None

    def attach(self, core: ServerCore) -> None:
        """Become part of a server."""
        self.catalogue = core.catalogue
        core.stepper.longest_wait_s = max(core.stepper.longest_wait_s, LONGEST_HOLD_S)

    # -- what the client wants

    def connect(self, client: Client) -> None:
        self.client = client

    def disconnect(self) -> None:
        """Nothing is held any more, and everything that is goes on."""
        self.client = None
        self.on_errors = self._pausing = False
        self._last_error = None
        self._breakpoints.clear()
        self._stepping.clear()
        self._arm()
        for number in list(self.held):
            self.resume(number)

    def set_breakpoints(self, file: str, wanted: list[dict[str, Any]]) -> list[Breakpoint]:
        """The breakpoints of a file, in place of those it had. wanted: as the protocol describes them."""
        assert self.catalogue is not None
        path = os.path.realpath(file)
        made = []
        for each in wanted:
            self._numbers += 1
            breakpoint_ = Breakpoint(self._numbers, path, self._line_at(path, int(each.get("line", 0))))
            if not breakpoint_.line:
                breakpoint_.problem = "there is no statement on this line or after it"
            try:
                self._qualify(breakpoint_, each)
            except ExpressionError as error:
                breakpoint_.problem = str(error)
            made.append(breakpoint_)
        self._breakpoints[path] = made
        self._arm()
        return made

    def _qualify(self, breakpoint_: Breakpoint, wanted: dict[str, Any]) -> None:
        assert self.catalogue is not None
        if wanted.get("condition"):
            breakpoint_.condition = Expression(str(wanted["condition"]), self.catalogue)
        hits = str(wanted.get("hitCondition") or "0").lstrip(">= ")
        if not hits.isdigit():
            raise ExpressionError("a hit count is a number: the run is held from that many passes on")
        breakpoint_.hits = int(hits)
        if wanted.get("logMessage"):
            breakpoint_.message = log_message(str(wanted["logMessage"]), self.catalogue)

    def _line_at(self, path: str, line: int) -> int:
        """The first line from `line` on that has a statement, 0 when there is none."""
        lines = {
            point.line for point in self.points if point.kind == STATEMENT and os.path.realpath(point.file) == path
        }
        return min((each for each in lines if each >= line), default=0)

    def statement_lines(self, file: str) -> list[int]:
        """Where a breakpoint can be."""
        path = os.path.realpath(file)
        return sorted({p.line for p in self.points if p.kind == STATEMENT and os.path.realpath(p.file) == path})

    def _arm(self) -> None:
        """Find the statements of the breakpoints: the first on its line, in each version of the script."""
        wanted = {
            (breakpoint_.file, breakpoint_.line): breakpoint_
            for several in self._breakpoints.values()
            for breakpoint_ in several
            if breakpoint_.line and not breakpoint_.problem
        }
        paths = {file: os.path.realpath(file) for file in {point.file for point in self.points}}
        self._files = frozenset(paths)
        self._armed = {}
        before = ("", 0, "")
        for number, point in enumerate(self.points):
            if point.kind != STATEMENT:
                continue
            place = (point.file, point.line, point.route)
            if place != before:
                found = wanted.get((paths[point.file], point.line))
                if found is not None:
                    self._armed[number] = found
            before = place
        self._armed_points = len(self.points)

    def pause(self) -> None:
        """Hold whatever runs next."""
        self._pausing = True

    def resume(self, number: int, mode: str = CONTINUE) -> bool:
        """Let a held run go on; False when there is none of that number."""
        held = self.held.pop(number, None)
        if held is None:
            return False
        if mode != CONTINUE:
            self._stepping[number] = Stepping(held, mode)
        if not held.go_on.done():
            held.go_on.set_result(mode)
        return True

    # -- what the script tells

    def halts(self, run: Run, number: int) -> bool:
        if self.client is None:
            return False
        if self._armed_points != len(self.points):
            self._arm()
        return self._pausing or bool(self._stepping) or number in self._armed

    async def halt(self, run: Run, number: int) -> None:
        frames = self._frames(sys._getframe(1))
        if not frames:
            return
        plain = [frame.frame for frame in frames]
        step = next((step for step in self._stepping.values() if step.ends_at(plain)), None)
        breakpoint_ = self._armed.get(number)
        hit = breakpoint_ is not None and await self._hit(breakpoint_, run)
        if step is not None:
            del self._stepping[step.number]
            await self._hold(run, frames, "step", "", step.number)
        elif hit:
            assert breakpoint_ is not None
            await self._hold(run, frames, "breakpoint", "", 0, breakpoint_.number)
        elif self._pausing:
            self._pausing = False
            await self._hold(run, frames, "pause", "")

    async def _hit(self, breakpoint_: Breakpoint, run: Run) -> bool:
        """Whether the run is to be held at a breakpoint that it has come to."""
        if breakpoint_.condition is not None:
            try:
                if not await breakpoint_.condition.result(run):
                    return False
            except Exception as error:  # noqa: BLE001 - the condition is the client's, and so is its failure
                self._output(f"condition {breakpoint_.condition.text}: {error}", breakpoint_)
                return False
        breakpoint_.passed += 1
        if breakpoint_.passed < breakpoint_.hits:
            return False
        if breakpoint_.message is None:
            return True
        parts = []
        for part in breakpoint_.message:
            if isinstance(part, str):
                parts.append(part)
                continue
            try:
                value = await part.result(run)
                parts.append(value if isinstance(value, str) else shown(value))
            except Exception as error:  # noqa: BLE001
                parts.append(f"<{error}>")
        self._output("".join(parts), breakpoint_)
        return False

    def _output(self, text: str, breakpoint_: Breakpoint) -> None:
        if self.client is not None:
            self.client.output(text, breakpoint_.file, breakpoint_.line)

    def failing(self, run: Run, error: Exception) -> bool:
        # It passes through every route that called the failing one, and is shown once.
        if self.client is None or not self.on_errors or error is self._last_error:
            return False
        self._last_error = error
        return True

    async def halt_failed(self, run: Run, error: Exception) -> None:
        frames = self._frames(sys._getframe(1))
        trace = error.__traceback__
        if frames and trace is not None:
            frames[0].line = trace.tb_lineno
        await self._hold(run, frames, "exception", f"{type(error).__name__}: {error}")

    def left(self, run: Run) -> None:
        if not self._stepping:
            return
        frame = sys._getframe(1)
        for step in list(self._stepping.values()):
            if step.frames[-1] is frame:
                del self._stepping[step.number]
                if self.client is not None:
                    self.client.exited(step.number)

    def _frames(self, frame: FrameType | None) -> list[Frame]:
        found = []
        while frame is not None:
            if frame.f_code.co_filename in self._files:
                found.append(Frame(frame))
            frame = frame.f_back
        return found

    async def _hold(
        self, run: Run, frames: list[Frame], reason: str, text: str, number: int = 0, breakpoint_number: int = 0
    ) -> None:
        # An expression of the breakpoint may have waited, and the client may be gone since.
        if self.client is None:
            return
        if len(self.held) >= MOST_HELD:
            LOG.warning("debugger: %d calls are held; Call-ID %s passes", MOST_HELD, run.msg.call_id)
            return
        if not number:
            self._threads += 1
            number = self._threads
        held = self.held[number] = Held(number, run, frames, reason, text)
        self.client.stopped(held, breakpoint_number)
        try:
            mode = await held.go_on
        finally:
            self.held.pop(number, None)
        if mode == CONTINUE and self.client is not None:
            self.client.exited(number)


def thread_name(run: Run) -> str:
    """What a held run is called: its Call-ID and the method or status."""
    msg = run.msg
    what = msg.method if msg.is_request else f"{msg.status} {msg.reason} ({msg.method})"
    if run.kind in (kinds.TIMER, kinds.STARTUP, kinds.EVENT):
        return kinds.kind_keyword(run.kind)
    return f"{msg.call_id} {what}"


def log_message(text: str, catalogue: Catalogue) -> list[str | Expression]:
    """The parts of a log point's text: `{...}` holds an expression. Raises ExpressionError."""
    parts: list[str | Expression] = []
    rest = text
    while rest:
        before, brace, rest = rest.partition("{")
        if before:
            parts.append(before)
        if not brace:
            break
        depth = 1
        end = 0
        # A transformation has braces of its own.
        while end < len(rest) and depth:
            depth += {"{": 1, "}": -1}.get(rest[end], 0)
            end += 1
        if depth:
            raise ExpressionError("a { has no }")
        parts.append(Expression(rest[: end - 1], catalogue))
        rest = rest[end:]
    return parts
