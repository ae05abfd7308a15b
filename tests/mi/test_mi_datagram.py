"""Management commands in datagrams: UDP and Unix sockets, who is trusted, and what does not fit."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from opensipspy.management import CommandDecl
from opensipspy.mi.mi_datagram import MiDatagram
from opensipspy.module import ParamError, StartError
from opensipspy.module.testing import FakeCore

CALL = b'{"jsonrpc":"2.0","method":"uptime","id":"7","params":{}}'


def serve(scenario: Callable[[FakeCore, MiDatagram], Coroutine[Any, Any, Any]], **params: Any) -> Any:
    async def main() -> Any:
        core = FakeCore()
        core.mi.add(CommandDecl("core:uptime", lambda: {"Up time": "1 [sec]"}))
        core.mi.add(CommandDecl("core:big", lambda: "x" * 5000))
        door = core.add(MiDatagram(**params))
        await door.launch()
        try:
            return await asyncio.wait_for(scenario(core, door), 60)
        finally:
            await core.settle()
            await door.shutdown()

    return asyncio.run(main())


async def ask(address: Any, *requests: bytes, family: int = socket.AF_INET, bind: str | None = None) -> list[Any]:
    """Send each request from one socket and read one answer for each, on another thread as a client would."""

    def talk() -> list[Any]:
        with socket.socket(family, socket.SOCK_DGRAM) as client:
            client.settimeout(30)
            if bind:
                client.bind(bind)
            answers = []
            for request in requests:
                client.sendto(request, address)
                answers.append(json.loads(client.recv(70_000)))
            return answers

    return await asyncio.to_thread(talk)


def test_a_request_and_its_answer_over_udp() -> None:
    async def scenario(core: FakeCore, door: MiDatagram) -> Any:
        return await ask(door.address, CALL, b"garbage", b"\xff\xfe", CALL)

    first, garbage, binary, again = serve(scenario, socket_name="udp:127.0.0.1:0")
    assert first == again == {"jsonrpc": "2.0", "result": {"Up time": "1 [sec]"}, "id": "7"}
    assert garbage["error"]["code"] == binary["error"]["code"] == -32700


def test_ipv6() -> None:
    async def scenario(core: FakeCore, door: MiDatagram) -> Any:
        return await ask(door.address, CALL, family=socket.AF_INET6)

    assert serve(scenario, socket_name="udp:[::1]:0")[0]["id"] == "7"


def test_a_unix_socket_with_its_rights(tmp_path: Path) -> None:
    path = tmp_path / "mi.sock"

    async def scenario(core: FakeCore, door: MiDatagram) -> Any:
        mode = stat.S_IMODE(os.stat(path).st_mode)
        answers = await ask(str(path), CALL, family=socket.AF_UNIX, bind=str(tmp_path / "client"))
        return mode, answers

    mode, answers = serve(scenario, socket_name=str(path), unix_socket_mode=0o620)
    assert mode == 0o620
    assert answers[0]["result"]
    assert not path.exists()


def test_an_answer_or_a_request_that_does_not_fit_is_an_error_with_the_same_id() -> None:
    async def scenario(core: FakeCore, door: MiDatagram) -> Any:
        return await ask(door.address, b'{"jsonrpc":"2.0","method":"big","id":9}', b" " * 2000 + CALL)

    answer, request = serve(scenario, socket_name="udp:127.0.0.1:0", socket_buf_size=1000)
    assert answer["id"] == 9
    assert "socket_buf_size" in answer["error"]["data"]
    assert "at most 1000 bytes" in request["error"]["data"]


def test_only_loopback_and_named_networks_are_trusted() -> None:
    door = MiDatagram(trusted=["192.0.2.0/24", "2001:db8::1"])
    answered = [
        (address, door._is_trusted((address, 5)))
        for address in (
            "127.9.9.9",
            "::1",
            "192.0.2.77",
            "::ffff:192.0.2.77",
            "2001:db8::1",
            "198.51.100.1",
            "fe80::1%lo",
        )
    ]
    assert [address for address, yes in answered if not yes] == ["198.51.100.1", "fe80::1%lo"]
    with pytest.raises(ParamError, match="an address or a network"):
        MiDatagram(trusted="everybody")


def test_a_client_that_does_not_read_is_given_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "mi.sock"

    async def scenario(core: FakeCore, door: MiDatagram) -> Any:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
            deaf.bind(str(tmp_path / "deaf"))
            deaf.setblocking(False)
            for _ in range(60):
                while True:
                    try:
                        deaf.sendto(CALL, str(path))
                        break
                    except BlockingIOError:
                        await asyncio.sleep(0)
                await asyncio.sleep(0)
            await core.settle()
            return await ask(str(path), CALL, family=socket.AF_UNIX, bind=str(tmp_path / "client"))

    assert serve(scenario, socket_name=str(path), socket_timeout=50)[0]["result"]
    assert "does not read" in caplog.text


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (None, "socket_name is not set"),
        ("udp:127.0.0.1", "is no IP address"),
        ("udp:localhost:8080", "is no IP address"),
        ("udp:127.0.0.1:99999", "is no port"),
        ("/" + "x" * 120, "at most 107 bytes"),
    ],
)
def test_what_cannot_be_started_is_told(name: str | None, reason: str) -> None:
    async def nothing(core: FakeCore, door: MiDatagram) -> None:
        raise AssertionError("must not start")

    with pytest.raises(StartError, match=reason):
        serve(nothing, socket_name=name)
