"""The statistics that are computed when they are read."""

from __future__ import annotations

import pytest

from opensipspy.script.run import Run
from tests.server.house import Peer, Script, play, request, running

pytestmark = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


def route(run: Run) -> int:
    return 1


def test_memory_load_and_uptime_have_sensible_values(loop: str) -> None:
    async def scene() -> None:
        async with running(Script(route)) as house:
            used = house.stat("shmem:used_size")
            assert 1 << 20 < used <= house.stat("shmem:max_used_size") + (1 << 20)
            assert used < house.stat("shmem:total_size")
            assert house.stat("pkmem:0-total_size") == house.stat("shmem:total_size")
            assert 0 <= house.stat("load:load-all") <= 100
            assert house.stat("core:timestamp") < 60
            assert house.stat("net:waiting_udp") == 0
            assert house.stat("net:waiting_tls") == 0

    play(loop, scene)


def test_a_slow_name_server_is_counted_and_told(loop: str) -> None:
    async def scene() -> None:
        told: list[dict[str, object]] = []
        async with running(Script(route, exec_dns_threshold=1000)) as house:
            house.core.events.listen("E_CORE_THRESHOLD", lambda name, params: told.append(dict(params)))
            house.server._looked_up("fast.example", 0.0005)
            house.server._looked_up("slow.example", 0.25)
            assert house.stat("dns:dns_slow_queries") == 1
        assert told == [{"source": "dns", "time": "250000", "extra": "slow.example"}]

    play(loop, scene)


def test_limits_are_shown(loop: str) -> None:
    async def scene() -> None:
        async with running(Script(route, tcp_max_connections=64)) as house:
            with Peer(house.port) as peer:
                peer.send(request())
            assert house.stat("server:tcp_connections_limit") == 64
            assert house.stat("server:tcp_per_source_limit") == 16
            assert house.stat("server:suspended_runs_limit") > 0

    play(loop, scene)
