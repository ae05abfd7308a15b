"""The event loop that serves everything, and how it waits for packets."""

from __future__ import annotations

import asyncio
import os
import selectors
from concurrent.futures import ThreadPoolExecutor
from typing import Final

FASTEST: Final = "epoll"
SELECTORS: Final = {"poll": selectors.PollSelector, "select": selectors.SelectSelector}
HELPING_THREADS: Final = 32
"""Where names of back-ends are looked up. With asyncio's own number, six on two cores, a name server that stalls while
some back-ends try to come back would hold up everybody else who needs a thread. They are made when needed."""
POLL_METHODS: Final = frozenset({FASTEST, *SELECTORS})


def new_event_loop(poll_method: str = "") -> asyncio.AbstractEventLoop:
    """uvloop's when it is installed, which polls with epoll; else asyncio's, which has what `poll_method` asks for."""
    loop = _new_event_loop(poll_method)
    loop.set_default_executor(ThreadPoolExecutor(HELPING_THREADS, thread_name_prefix="helper"))
    return loop


def _new_event_loop(poll_method: str) -> asyncio.AbstractEventLoop:
    selector = SELECTORS.get(poll_method)
    if selector is not None:
        return asyncio.SelectorEventLoop(selector())
    if os.environ.get("OPENSIPSPY_LOOP", "") != "asyncio":
        try:
            import uvloop
        except ImportError:
            pass
        else:
            # Its library looks names up in threads of its own, four unless told otherwise.
            os.environ.setdefault("UV_THREADPOOL_SIZE", str(HELPING_THREADS))
            return uvloop.new_event_loop()
    return asyncio.new_event_loop()
