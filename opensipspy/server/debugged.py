"""A server whose calls can be held at lines of the script: the debug adapter opens before anything else."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from opensipspy.server.adapter import DebugAdapter
from opensipspy.server.debugger import Debugger
from opensipspy.server.server import Server

LOG: Final = logging.getLogger("opensipspy.core")


class DebuggedServer(Server):
    """`Server` with the adapter of its script's `Debugger`."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        debugger = self.options.watch
        assert isinstance(debugger, Debugger)
        self.adapter = DebugAdapter(debugger, self.core, self.options.debug_adapter)

    async def start(self) -> None:
        await self.adapter.open()
        if self.options.debug_wait:
            LOG.warning("waiting for a debugger to connect")
            waits = [asyncio.ensure_future(event.wait()) for event in (self.adapter.configured, self._stopping)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        await super().start()

    async def drain(self) -> None:
        await self.adapter.close()
        await super().drain()

    async def shut_down(self) -> None:
        await self.adapter.close()
        await super().shut_down()
