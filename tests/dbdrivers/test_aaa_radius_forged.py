"""aaa_radius against FreeRADIUS, and against servers that misbehave."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from opensipspy.aaa import AaaError, open_client
from opensipspy.dbdrivers.aaa_radius import AaaRadius, packet
from opensipspy.module.testing import FakeCore
from opensipspy.script.declare import VariableDecl
from opensipspy.script.run import Run
from tests.backends import FreeradiusServer

USERS = 'bob Cleartext-Password := "hello"\n\tSIP-AVP += "email:joe@example.com",\n\tSIP-AVP += "#14#28"\n'
SECRET = b"testing123"


def variable(name: str, kind: str) -> VariableDecl:
    """A variable of the core, as far as sets need it."""

    def read(run: Run, name: Any, index: object) -> Any:
        return run.vars.get(name) if kind else run.msg.call_id

    def write(run: Run, name: Any, index: object, value: Any) -> None:
        run.avps.setdefault(name, []).append(value)

    return VariableDecl(name, "core", get=read, set=write, name_arg=bool(kind), writable=True)


@pytest.fixture(scope="module")
def radius() -> Iterator[FreeradiusServer]:
    if FreeradiusServer.programs() is None:
        pytest.skip("FreeRADIUS is missing: apt-get install freeradius")
    server = FreeradiusServer()
    server.prepare(USERS)
    try:
        server.start()
        yield server
    finally:
        server.stop()


class Liar(asyncio.DatagramProtocol):
    """Answers first with a wrong authenticator, then with a wrong Message-Authenticator, then nothing."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.seen.append(data)
        head = bytes((packet.ACCESS_ACCEPT, data[1], 0, 20))
        self.transport.sendto(head + bytes(16), addr)
        tail = bytes((80, 18)) + bytes(16)
        head = bytes((packet.ACCESS_ACCEPT, data[1], 0, 38))
        seal = hashlib.md5(head + data[4:20] + tail + SECRET).digest()
        self.transport.sendto(head + seal + tail, addr)
        self.transport.sendto(b"\x02", addr)


def test_forged_replies_do_not_count_and_the_next_server_is_asked(
    radius: FreeradiusServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """RFC 2865 §3, RFC 3579 §3.2: forged replies are dropped; RFC 5080 §2.2.1: the same packet is sent again."""
    module = AaaRadius()
    core = FakeCore()
    core.add(module)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        transport, liar = await loop.create_datagram_endpoint(Liar, local_addr=("127.0.0.1", 0))
        port = transport.get_extra_info("sockname")[1]
        conf = tmp_path / "radiusclient.conf"
        conf.write_text(
            f"authserver 127.0.0.1:{port}:testing123,127.0.0.1:{radius.port}:testing123\n"
            "radius_timeout 0.2\nradius_retries 2\nradius_deadtime 60\n"
        )
        client = await open_client(core, f"radius:{conf}")
        question = [("User-Name", "bob"), ("User-Password", "hello")]
        assert (await client.authenticate(question)).accepted
        assert len(liar.seen) == 2
        assert liar.seen[0] == liar.seen[1]
        assert liar.seen[0][20:22] == bytes((80, 18))
        assert (await client.authenticate(question)).accepted
        assert len(liar.seen) == 2
        with pytest.raises(AaaError, match="User-Name has 254 octets"):
            await client.authenticate([("User-Name", "x" * 254)])
        transport.close()
        await module.stop()

    asyncio.run(scenario())
    assert "testing123" not in caplog.text
    assert caplog.text.count("does not answer") == 1
