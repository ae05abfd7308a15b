"""Connections that bring much take turns, so that those that bring little are served in between."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest

from opensipspy.net import turns
from opensipspy.net.turns import LITTLE_BEFORE_MUCH, READS_AT_ONCE, SLICE_BYTES, Turns
from opensipspy.sip import Peer, Socket
from tests.net.test_tcp import MESSAGE, ends, read
from tests.server.house import play, settled

pytestmark = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


class Worker:
    """Has `parts` to do and notes each."""

    def __init__(self, name: str, parts: int, done: list[str], then: Callable[[], None] | None = None) -> None:
        self.name = name
        self.parts = parts
        self.done = done
        self.then = then

    def work_on(self) -> bool:
        self.parts -= 1
        self.done.append(self.name)
        if self.then is not None:
            self.then()
        return self.parts > 0


def test_one_part_of_each_after_the_other(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has little is through first, whenever he came; each round of the loop does a part."""
    monkeypatch.setattr(turns, "TURN_S", 0.0)

    async def scene() -> None:
        queue = Turns(asyncio.get_running_loop())
        done: list[str] = []
        queue.wait(Worker("a", 4, done), little=False)
        queue.wait(Worker("b", 1, done, lambda: queue.wait(Worker("c", 2, done), little=False)), little=False)
        assert done == []
        assert not queue.allows(), "nobody passes those who wait"
        assert queue.waiting == 2
        await settled(lambda: len(done) == 7)
        assert done == ["a", "b", "a", "c", "a", "c", "a"]
        assert queue.allows()

    play(loop, scene)


def test_who_has_little_comes_first_but_not_for_ever(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that asks for little is not behind hundreds that flood, and they have their turn too."""
    monkeypatch.setattr(turns, "TURN_S", 0.0)

    async def scene() -> None:
        queue = Turns(asyncio.get_running_loop())
        done: list[str] = []
        for _ in range(3):
            queue.wait(Worker("much", 2, done), little=False)
        for _ in range(2 * LITTLE_BEFORE_MUCH):
            queue.wait(Worker("little", 1, done), little=True)
        await settled(lambda: not queue.waiting)
        eight = ["little"] * LITTLE_BEFORE_MUCH
        assert done == [*eight, "much", *eight, *["much"] * 5]

    play(loop, scene)


def test_a_few_small_reads_need_no_turn(loop: str) -> None:
    async def scene() -> None:
        queue = Turns(asyncio.get_running_loop())
        assert [queue.allows() for _ in range(READS_AT_ONCE + 1)] == [True] * READS_AT_ONCE + [False]
        await asyncio.sleep(0)
        assert queue.allows(), "the next round of the loop"

    play(loop, scene)


def test_a_flood_lets_others_through(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One peer sends as fast as it can; another one's message is not behind all of that."""
    monkeypatch.setattr(turns, "TURN_S", 0.0)

    async def scene() -> None:
        async with ends() as tcp:
            order: list[int] = []
            with tcp.client() as flooding, tcp.client() as calm:
                calm_port = calm.getsockname()[1]

                def deliver(data: bytes, peer: Peer, at: Socket) -> None:
                    if not order:
                        calm.send(MESSAGE)
                    order.append(peer.port)

                tcp.deliver = deliver
                flood = MESSAGE * (8 * SLICE_BYTES // len(MESSAGE))
                asyncio.get_running_loop().create_task(send_all(flooding, flood))
                count = len(flood) // len(MESSAGE)
                await settled(lambda: len(order) == count + 1)
                assert order.index(calm_port) < count / 2

    play(loop, scene)


async def send_all(made: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(made, data)


def test_what_came_before_the_end_of_the_connection_is_delivered(loop: str) -> None:
    """A peer that sends much and closes has said it all the same."""

    async def scene() -> None:
        async with ends() as tcp:
            flood = MESSAGE * (4 * SLICE_BYTES // len(MESSAGE))
            with tcp.client() as client:
                await send_all(client, flood)
            await settled(lambda: len(tcp.received) == len(flood) // len(MESSAGE))
            await settled(lambda: not tcp.transport.connections())

    play(loop, scene)


def test_a_connection_that_is_closed_has_no_turn_any_more(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """tcp:close, or a stop of the server, in the middle of a flood."""
    monkeypatch.setattr(turns, "TURN_S", 0.0)

    async def scene() -> None:
        for end in ("close", "break"):
            async with ends() as tcp:
                heard: list[bytes] = []

                def deliver(data: bytes, peer: Peer, at: Socket, end: str = end, heard: list[bytes] = heard) -> None:
                    heard.append(data)
                    if end == "close" and len(heard) == 5:
                        tcp.transport.close_number(peer.connection)

                tcp.deliver = deliver
                with tcp.client() as client:
                    broken = b"not a message\r\n\r\n" if end == "break" else b""
                    await send_all(client, MESSAGE * 300 + broken + MESSAGE * 300)
                    await settled(lambda: not tcp.transport.connections() and bool(heard))  # noqa: B023
                    count = len(heard)
                    for _ in range(20):
                        await asyncio.sleep(0)
                    # RFC 3261 §18.3: behind what cannot be followed nothing is a message.
                    assert len(heard) == count == (5 if end == "close" else 301)

    play(loop, scene)


def test_who_waits_for_us_is_not_late(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tcp_max_msg_time` is the peer's time: an end of a message that we have not looked at yet is there."""
    monkeypatch.setattr(turns, "TURN_S", 0.0)

    async def scene() -> None:
        async with ends(message_time_s=0.0, sweep_s=0.0) as tcp:
            flood = MESSAGE * (20 * SLICE_BYTES // len(MESSAGE))
            with tcp.client() as client:
                await send_all(client, flood)
                await settled(lambda: len(tcp.received) == len(flood) // len(MESSAGE))

    play(loop, scene)


@pytest.mark.parametrize("pings", [1, 3, 5000])
def test_pings_that_come_together_are_answered_together(loop: str, pings: int) -> None:
    """RFC 5626 §4.4.1: each has its answer, but not each a packet of its own."""

    async def scene() -> None:
        async with ends() as tcp:
            with tcp.client() as client:
                await send_all(client, b"\r\n\r\n" * pings + MESSAGE)
                answer = b""
                while len(answer) < 2 * pings:
                    answer += await read(client)
                assert answer == b"\r\n" * pings
                await settled(lambda: len(tcp.received) == 1)

    play(loop, scene)


def test_a_flood_of_refused_connections_is_a_line_a_second(loop: str, caplog: pytest.LogCaptureFixture) -> None:
    """`tcp_max_connections`: who comes again and again does not fill the log."""

    async def scene() -> None:
        async with ends(max_connections=1, backlog=100) as tcp:
            first = tcp.client()
            await settled(lambda: bool(tcp.transport.connections()))
            with caplog.at_level("WARNING"):
                others = [tcp.client() for _ in range(50)]
                await settled(lambda: tcp.transport.traffic.refused == 50)
            assert len(caplog.records) < 10
            for client in (first, *others):
                client.close()

    play(loop, scene)
