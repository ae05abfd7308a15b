"""mem:*: what fills the memory, in the log."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from opensipspy.management import MiError
from tests.server.house import House, free_port
from tests.server.test_reload import HEAD, reloading

pytestmark = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


def test_the_log_tells_how_much_there_is_and_of_what(loop: str, tmp_path: Path) -> None:
    text = HEAD.format(port=free_port()) + "route { exit; }\n"

    async def scene(house: House, write: Callable[[str], None]) -> None:
        mi = house.core.mi
        assert await mi.call("mem:shm_dump", None) == "OK"
        assert sum("KiB now" in line for line in house.log) == 1
        assert any(" of builtins.dict" in line for line in house.log)
        assert await mi.call("mem_pkg_dump", {"pid": os.getpid(), "log_level": 1}) == "OK"
        assert sum("KiB now" in line for line in house.log) == 2
        for params in ({"pid": 1}, {"pid": os.getpid(), "log_level": 9}):
            with pytest.raises(MiError) as caught:
                await mi.call("mem:pkg_dump", params)
            assert caught.value.code == -32602

    reloading(loop, tmp_path, text, scene)
