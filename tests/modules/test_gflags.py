"""gflags: one bitmap of flags for scripts and management."""

from __future__ import annotations

import pytest

from opensipspy.module import MiError
from opensipspy.module.testing import FakeCore, make_run, request
from opensipspy.modules.gflags import GFlags
from tests.modules.asynchronous import in_loop


def test_a_flag_is_seen_by_other_messages() -> None:
    core = FakeCore()
    core.add(GFlags(initial=0x3))
    run, other = make_run(request(), core=core), make_run(request("OPTIONS"), core=core)
    assert [core.call("is_gflag", run, flag) for flag in (0, 1, 2)] == [1, 1, -1]
    assert core.call("set_gflag", run, 31) == 1
    assert core.call("is_gflag", other, 31) == 1
    assert core.call("reset_gflag", other, 31) == 1
    assert core.call("is_gflag", run, 31) == -1


@pytest.mark.parametrize("flag", [-1, 32, 10**9])
@pytest.mark.parametrize("function", ["set_gflag", "reset_gflag", "is_gflag"])
def test_there_are_32_flags(function: str, flag: int) -> None:
    core = FakeCore()
    core.add(GFlags(initial=-1))
    assert core.call(function, make_run(request(), core=core), flag) == -1


@in_loop
async def test_management_uses_bitmaps() -> None:
    """The manual: decimal or hexadecimal; true when all flags of the mask are set."""
    core = FakeCore()
    core.add(GFlags())
    await core.mi_call("gflags:set", ["0x410"])
    assert await core.mi_call("gflags:check", ["1024"]) is True
    assert await core.mi_call("is_gflag", ["1025"]) is False
    assert await core.mi_call("gflags:get") == {"hex": "0x410", "dec": "1040"}
    await core.mi_call("gflags:reset", ["16"])
    assert await core.mi_call("get_gflags") == {"hex": "0x400", "dec": "1024"}


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "0x100000000", "9" * 5000, "1_0_x"])
@in_loop
async def test_what_is_no_bitmap_is_refused(text: str) -> None:
    core = FakeCore()
    core.add(GFlags())
    with pytest.raises(MiError, match="Bad parameter value"):
        await core.mi_call("gflags:set", [text])
