"""async() with a time limit on a running server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.server.house import House, Peer, free_port, request
from tests.server.test_reload import HEAD, reloading

pytestmark = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


def test_the_resume_route_runs_when_the_time_is_over(loop: str, tmp_path: Path) -> None:
    """The function is given up, $rc is -1, and nothing of the script waits any more."""
    port = free_port()
    text = (
        HEAD.format(port=port)
        + 'loadmodule "cfgutils.so"\nroute {\n\tasync(sleep(30), go_on, 1);\n}\n'
        + 'route[go_on] {\n\tsl_send_reply(200, "rc $rc");\n}\n'
    )

    async def scene(house: House, write: Callable[[str], None]) -> None:
        with Peer(port) as peer:
            peer.send(request())
            assert (await peer.receive()).startswith("SIP/2.0 200 rc -1")
        assert not house.core.stepper.suspended
        assert any("async(): no result within 1 s" in line for line in house.log)

    reloading(loop, tmp_path, text, scene)
