"""A server's life: how it starts, what it refuses to start with, and that it ends in time."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from opensipspy import sip
from opensipspy.module import LocateError, Module
from opensipspy.script import kinds
from opensipspy.script.run import Run
from opensipspy.server.listening import Listen
from opensipspy.server.options import Options
from tests.server.house import Peer, Route, Script, free_port, play, request, running, settled

pytestmark = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


class Recorder(Module):
    """Writes down its life."""

    name = "recorder"

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.life: list[str] = []

    async def start(self) -> None:
        self.life.append(f"start in {Path.cwd().name}")

    async def stop(self) -> None:
        self.life.append("stop")


class Stubborn(Recorder):
    """Does not stop."""

    name = "stubborn"

    async def stop(self) -> None:
        await asyncio.sleep(3600)


class Broken(Recorder):
    name = "broken"

    async def start(self) -> None:
        raise RuntimeError("no licence file")


def route(run: Run) -> int:
    return 1


def test_modules_start_in_the_working_directory_and_stop(loop: str, tmp_path: Path) -> None:
    before = Path.cwd()
    recorder = Recorder()

    async def scene() -> None:
        options = Options()
        options.workdir = str(tmp_path)
        options.pid_file = str(tmp_path / "server.pid")
        async with running(Script(route, modules=[recorder]), options) as house:
            assert (tmp_path / "server.pid").read_text() == f"{os.getpid()}\n"
            assert house.core.module("recorder") is recorder
        assert not (tmp_path / "server.pid").exists()

    try:
        play(loop, scene)
    finally:
        os.chdir(before)
    assert recorder.life == [f"start in {tmp_path.name}", "stop"]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (lambda: Script(route, modules=[Broken()]), "broken does not start: RuntimeError: no licence file"),
        (lambda: Script(route, listen=[Listen(sip.PROTO_TLS, "127.0.0.1", 5061)]), "proto_tls"),
        (lambda: Script(route, listen=[Listen(sip.PROTO_UDP, "192.0.2.1", 5060)]), "cannot listen on udp:192.0.2.1"),
        (lambda: Script(route, wdir="/does/not/exist"), "cannot change to /does/not/exist"),
    ],
)
def test_what_it_does_not_start_with_is_said_in_one_line(loop: str, script: Any, reason: str) -> None:
    async def scene() -> None:
        async with running(script()) as house:
            assert await house.task == 1
            assert [line for line in house.log if reason in line]
            assert not [line for line in house.log if "Traceback" in line]

    play(loop, scene)


def test_a_port_in_use_ends_the_start(loop: str) -> None:
    async def scene() -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", 0))
            script = Script(route, listen=[Listen(sip.PROTO_UDP, "127.0.0.1", taken.getsockname()[1])])
            async with running(script) as house:
                assert await house.task == 1

    play(loop, scene)


def test_it_ends_in_time_while_routes_wait_and_modules_hang(loop: str) -> None:
    """TERM means an end within 5 s, whatever waits."""

    async def scene() -> None:
        ended: list[str] = []

        async def waiting(run: Run) -> int:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.append("route")
            return 1

        async with running(Script(waiting, modules=[Stubborn()])) as house:
            with Peer(house.port) as peer:
                peer.send(request("INVITE"))
                await settled(lambda: house.stat("suspended_runs") == 1)
                house.server.stop()
                assert await asyncio.wait_for(house.task, 60) == 0
                assert any("stubborn did not end" in line for line in house.log)
        assert ended == ["route"]

    play(loop, scene)


def test_while_it_stops_nothing_new_begins_and_what_runs_may_end(loop: str) -> None:
    async def scene() -> None:
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        seen: list[str] = []

        async def waiting(run: Run) -> int:
            seen.append(run.msg.call_id)
            if run.msg.call_id == "old":
                await gate
            run.services._core.send_reply(run, 200, "OK")  # type: ignore[union-attr]
            return 1

        async with running(Script(waiting)) as house:
            with Peer(house.port) as peer:
                peer.send(request(call_id="old"))
                await settled(lambda: seen == ["old"])
                house.server.stop()
                await settled(lambda: house.server.steps.draining)
                peer.send(request(call_id="new"))
                peer.send(request(call_id="inside", to_tag="t"))
                assert "Call-ID: inside" in await peer.receive()
                gate.set_result(None)
                assert "Call-ID: old" in await peer.receive()
                assert await house.task == 0
        assert seen == ["old", "inside"]

    play(loop, scene)


def test_startup_timer_and_event_routes_run(loop: str) -> None:
    async def scene() -> None:
        seen: list[tuple[int, object]] = []

        def note(run: Run) -> int:
            seen.append((run.kind, run.params[-1] if run.params else None))
            return 1

        script = Script(route, others=[Route(note, kinds.STARTUP)])
        script.program.timer_routes = [(0, Route(note, kinds.TIMER, "t"))]
        script.program.event_routes = [("E_TEST", Route(note, kinds.EVENT, "E_TEST"))]
        async with running(script) as house:
            assert seen[0] == (kinds.STARTUP, None), "before packets are taken"
            await settled(lambda: (kinds.TIMER, None) in seen)
            house.core.events.declare("E_TEST")
            house.core.events.raise_event("E_TEST", {"who": "me"})
            assert (kinds.EVENT, {"who": "me"}) in seen

    play(loop, scene)


def test_a_mistake_in_a_timer_does_not_end_the_others(loop: str) -> None:
    async def scene() -> None:
        rounds: list[int] = []
        async with running(Script(route)) as house:
            house.core.call_later(0.0, lambda: 1 // 0)
            repeating = house.core.every(0.001, lambda: rounds.append(1))
            await settled(lambda: len(rounds) > 3)
            repeating.cancel()
            count = len(rounds)
            await asyncio.sleep(0.03)
            assert len(rounds) == count
            assert house.stat("internal_errors") == 1
            assert any("ZeroDivisionError" in line for line in house.log)

    play(loop, scene)


def test_background_work_that_fails_is_one_line_and_ends_with_the_server(loop: str) -> None:
    async def scene() -> None:
        async def failing() -> None:
            raise OSError("gone")

        async with running(Script(route)) as house:
            house.core.spawn(failing(), "fetch")
            endless = house.core.spawn(asyncio.sleep(3600), "endless")
            await settled(lambda: any("fetch: OSError: gone" in line for line in house.log))
        assert endless.cancelled()

    play(loop, scene)


def test_management_commands_answer(loop: str) -> None:
    async def scene() -> None:
        async with running(Script(route)) as house:
            with Peer(house.port) as peer:
                peer.send(request())
                await settled(lambda: house.stat("rcv_requests") == 1)
            mi = house.core.mi
            assert (await mi.call("core:ps"))["Processes"][0]["PID"] == os.getpid()
            assert "Up time" in await mi.call("uptime")
            assert (await mi.call("statistics:get", {"statistics": ["core:"]}))["core:rcv_requests"] == 1
            assert (await mi.call("log_level", {"level": 4})) is not None
            assert house.server.logs.level == 4
            await mi.call("core:kill")
            assert await house.task == 0

    play(loop, scene)


def test_readiness_is_told(loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service manager's socket hears READY=1 and STOPPING=1 (sd_notify)."""
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", address)

        async def scene() -> None:
            async with running(Script(route)):
                pass

        play(loop, scene)
        assert [manager.recv(100), manager.recv(100)] == [b"READY=1", b"STOPPING=1"]


def test_locate_knows_addresses_hosts_and_our_protocols(loop: str) -> None:
    async def scene() -> None:
        port = free_port()
        listen = [Listen(sip.PROTO_UDP, "127.0.0.1", port), Listen(sip.PROTO_TCP, "127.0.0.1", port)]
        async with running(Script(route, listen=listen)) as house:
            found = house.core.locate("sip:bob@127.0.0.9:5070;transport=tcp")
            assert [t.peer.text for t in found] == ["tcp:127.0.0.9:5070"]
            assert found[0].socket is house.core.sockets[1]
            found = house.core.locate("sip:bob@example.com;maddr=127.0.0.8")
            assert [t.peer.text for t in found] == ["udp:127.0.0.8:5060"]
            for uri in ("sips:bob@127.0.0.1", "sip:[::1]", "tel:+123", "nonsense", "sip:"):
                with pytest.raises(LocateError):
                    house.core.locate(uri)
        only_tcp = Script(route, listen=[Listen(sip.PROTO_TCP, "127.0.0.1", port)])
        async with running(only_tcp) as house:
            assert [t.peer.text for t in house.core.locate("sip:127.0.0.9")] == ["tcp:127.0.0.9:5060"]

    play(loop, scene)
