"""Routes that wait are stepped in place: no task, on every kind of loop, and never without a limit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from opensipspy.server.stepper import Stepper, TooManySuspended, WaitedTooLong

Loop = asyncio.AbstractEventLoop


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Run a coroutine to its end on a loop of each kind."""

    def runner(coroutine: Coroutine[Any, Any, Any]) -> Any:
        loop: Loop = request.param()
        try:
            return loop.run_until_complete(coroutine)
        finally:
            loop.close()

    return runner


class Outcome:
    """What became of a stepped coroutine."""

    def __init__(self) -> None:
        self.results: list[Any] = []
        self.errors: list[BaseException] = []
        self.ended = asyncio.Event()

    def done(self, result: Any) -> None:
        self.results.append(result)
        self.ended.set()

    def failed(self, error: BaseException) -> None:
        self.errors.append(error)
        self.ended.set()


def stepper(**limits: Any) -> Stepper:
    loop = asyncio.get_running_loop()
    return Stepper(loop.call_soon, loop.call_later, **limits)


def test_a_route_that_does_not_wait_ends_in_place(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async def route() -> int:
            return 7

        outcome = Outcome()
        steps = stepper()
        assert steps.start(route(), outcome.done, outcome.failed)
        assert outcome.results == [7]
        assert steps.suspensions == 0

    run(main())


def test_a_route_goes_on_when_its_future_is_done(run: Callable[..., Any]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str] = loop.create_future()
        seen: list[object] = []

        async def route() -> int:
            seen.append(await future)
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            # No task: nothing here may count on one.
            seen.append(asyncio.current_task())
            return 1

        outcome = Outcome()
        steps = stepper()
        assert not steps.start(route(), outcome.done, outcome.failed)
        assert len(steps.suspended) == 1
        future.set_result("answer")
        await outcome.ended.wait()
        assert outcome.results == [1]
        assert seen == ["answer", None]
        assert not steps.suspended

    run(main())


def test_the_error_of_a_future_is_raised_where_the_route_waits(run: Callable[..., Any]) -> None:
    async def main() -> None:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def route() -> str:
            try:
                await future
            except ValueError as error:
                return f"caught {error}"
            return "not raised"

        outcome = Outcome()
        stepper().start(route(), outcome.done, outcome.failed)
        future.set_exception(ValueError("down"))
        await outcome.ended.wait()
        assert outcome.results == ["caught down"]

    run(main())


def test_an_error_of_the_route_is_reported_before_and_after_a_wait(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async def at_once() -> None:
            raise KeyError("early")

        async def later() -> None:
            await asyncio.sleep(0)
            raise KeyError("late")

        for route in (at_once, later):
            outcome = Outcome()
            stepper().start(route(), outcome.done, outcome.failed)
            await outcome.ended.wait()
            assert isinstance(outcome.errors[0], KeyError)

    run(main())


def test_a_task_is_waited_for_like_any_future(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async def work() -> int:
            await asyncio.sleep(0)
            return 5

        async def route() -> int:
            return await asyncio.ensure_future(work())

        outcome = Outcome()
        stepper().start(route(), outcome.done, outcome.failed)
        await outcome.ended.wait()
        assert outcome.results == [5]

    run(main())


def test_a_wait_that_exceeds_the_limit_is_ended(run: Callable[..., Any]) -> None:
    async def main() -> None:
        forever: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        cleaned: list[str] = []

        async def route() -> None:
            try:
                await forever
            finally:
                cleaned.append("yes")

        outcome = Outcome()
        steps = stepper(longest_wait_s=0.001)
        steps.start(route(), outcome.done, outcome.failed)
        await outcome.ended.wait()
        assert isinstance(outcome.errors[0], WaitedTooLong)
        assert cleaned == ["yes"]
        assert steps.timed_out == 1
        assert not steps.suspended
        # The future is everybody's: it is not cancelled, and its end later disturbs nobody.
        assert not forever.done()
        forever.set_result(None)
        await asyncio.sleep(0)

    run(main())


def test_a_route_that_waits_on_after_its_time_is_closed(run: Callable[..., Any]) -> None:
    async def main() -> None:
        forever: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def route() -> None:
            try:
                await forever
            except TimeoutError:
                await forever

        outcome = Outcome()
        steps = stepper(longest_wait_s=0.001)
        steps.start(route(), outcome.done, outcome.failed)
        await outcome.ended.wait()
        assert isinstance(outcome.errors[0], WaitedTooLong)
        assert not steps.suspended

    run(main())


def test_no_more_routes_wait_than_allowed(run: Callable[..., Any]) -> None:
    async def main() -> None:
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def route() -> None:
            await asyncio.shield(gate)

        steps = stepper(most_suspended=2)
        outcomes = [Outcome() for _ in range(3)]
        for outcome in outcomes:
            steps.start(route(), outcome.done, outcome.failed)
        assert isinstance(outcomes[2].errors[0], TooManySuspended)
        assert steps.refused == 1
        gate.set_result(None)
        await outcomes[0].ended.wait()
        await outcomes[1].ended.wait()
        assert not outcomes[0].errors

    run(main())


def test_what_is_no_future_is_an_error(run: Callable[..., Any]) -> None:
    async def main() -> None:
        class Strange:
            def __await__(self) -> Any:
                yield "nonsense"

        async def route() -> None:
            await Strange()

        outcome = Outcome()
        stepper().start(route(), outcome.done, outcome.failed)
        assert isinstance(outcome.errors[0], RuntimeError)

    run(main())


def test_stopping_ends_every_suspended_route(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async def route() -> None:
            await asyncio.get_running_loop().create_future()

        steps = stepper()
        outcomes = [Outcome(), Outcome()]
        for outcome in outcomes:
            steps.start(route(), outcome.done, outcome.failed)
        steps.cancel_all()
        assert all(isinstance(outcome.errors[0], asyncio.CancelledError) for outcome in outcomes)
        assert not steps.suspended

    run(main())
