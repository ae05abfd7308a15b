"""The event loop: what its threads are enough for."""

from __future__ import annotations

import asyncio
import threading

import pytest

from opensipspy.server.loops import new_event_loop


@pytest.mark.parametrize("kind", ["", "asyncio"])
def test_work_that_hangs_in_threads_holds_up_no_other(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty look-ups of names that a stalled name server does not answer, and a thread is still free."""
    monkeypatch.setenv("OPENSIPSPY_LOOP", kind)
    answered = threading.Event()

    async def run() -> None:
        hanging = [asyncio.create_task(asyncio.to_thread(answered.wait)) for _ in range(20)]
        try:
            async with asyncio.timeout(60):
                assert await asyncio.to_thread(lambda: "done") == "done"
        finally:
            answered.set()
            await asyncio.gather(*hanging)

    loop = new_event_loop()
    try:
        loop.run_until_complete(run())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
