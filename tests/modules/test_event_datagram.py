"""event_datagram: what subscribers at UDP and UNIX sockets receive."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest

from opensipspy.events.hub import SubscribeError
from opensipspy.module.testing import FakeCore
from opensipspy.modules.event_datagram import EventDatagram


def loaded() -> tuple[FakeCore, EventDatagram]:
    core = FakeCore()
    module = core.add(EventDatagram())
    core.events.declare("E_TEST", (("ip", "string"),))
    return core, module


def peer(family: int, address: object) -> socket.socket:
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.settimeout(30)
    made.bind(address)  # type: ignore[arg-type]
    return made


WANTED = {"jsonrpc": "2.0", "method": "E_TEST", "params": {"ip": "192.0.2.1", "n": 3}}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_udp_subscribers_get_a_json_rpc_notification(host: str) -> None:
    asyncio.run(udp_case(host))


async def udp_case(host: str) -> None:
    core, module = loaded()
    with peer(socket.AF_INET, ("127.0.0.1", 0)) as receiver:
        core.events.subscribe("E_TEST", f"udp:{host}:{receiver.getsockname()[1]}")
        for _ in range(3):
            core.events.raise_event("E_TEST", {"ip": "192.0.2.1", "n": 3})
        while any(s.worker for s in core.events.subscriptions("E_TEST")):
            (subscription,) = core.events.subscriptions("E_TEST")
            assert subscription.worker is not None
            await subscription.worker
        assert [json.loads(receiver.recv(65536)) for _ in range(3)] == [WANTED] * 3
    await module.stop()


def test_unix_subscribers_get_it_too_and_a_missing_one_is_a_failure(tmp_path: Path) -> None:
    asyncio.run(unix_case(tmp_path))


async def unix_case(tmp_path: Path) -> None:
    core, module = loaded()
    path = str(tmp_path / "s")
    subscription = core.events.subscribe("E_TEST", f"unix:{path}")
    core.events.raise_event("E_TEST", {})
    assert subscription.failed == 1
    with peer(socket.AF_UNIX, path) as receiver:
        core.events.raise_event("E_TEST", {"ip": "192.0.2.1", "n": 3})
        assert json.loads(receiver.recv(65536)) == WANTED
        core.events.raise_event("E_TEST", {"ip": "x" * 65457})
        assert (subscription.delivered, subscription.failed) == (1, 2)
    await module.stop()


@pytest.mark.parametrize(
    "address",
    [
        "udp:",
        "udp:host",
        "udp:host:0",
        "udp:host:65536",
        "udp::5060",
        "udp:::1:5060",
        "udp:[x]:1",
        "unix:",
        "unix:" + "p" * 108,
    ],
)
def test_wrong_addresses_are_refused(address: str) -> None:
    core, _ = loaded()
    with pytest.raises(SubscribeError):
        core.events.subscribe("E_TEST", address)


def test_one_address_is_one_subscription_however_it_is_spelled() -> None:
    core, _ = loaded()
    first = core.events.subscribe("E_TEST", "udp:[0:0::1]:9")
    assert core.events.subscribe("E_TEST", "udp:[::1]:9") is first
    assert first.socket == "udp:[::1]:9"
