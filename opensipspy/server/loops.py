"""The event loop that serves everything, and how it waits for packets."""

from __future__ import annotations

import asyncio
import os
import selectors
from typing import Final

FASTEST: Final = "epoll"
SELECTORS: Final = {"poll": selectors.PollSelector, "select": selectors.SelectSelector}
POLL_METHODS: Final = frozenset({FASTEST, *SELECTORS})


def new_event_loop(poll_method: str = "") -> asyncio.AbstractEventLoop:
    """uvloop's when it is installed, which polls with epoll; else asyncio's, which has what `poll_method` asks for."""
    selector = SELECTORS.get(poll_method)
    if selector is not None:
        return asyncio.SelectorEventLoop(selector())
    if os.environ.get("OPENSIPSPY_LOOP", "") != "asyncio":
        try:
            import uvloop

            return uvloop.new_event_loop()
        except ImportError:
            pass
    return asyncio.new_event_loop()
