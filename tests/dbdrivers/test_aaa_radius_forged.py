"""aaa_radius against FreeRADIUS, and against servers that misbehave."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from opensipspy.aaa import AaaError, AaaReply, open_client, sip_avps
from opensipspy.dbdrivers.aaa_radius import AaaRadius, packet, parse_set
from opensipspy.dbdrivers.aaa_radius.config import ConfigError, read_config
from opensipspy.dbdrivers.aaa_radius.dictionary import Dictionary, DictionaryError
from opensipspy.module.testing import FakeCore
from opensipspy.script.declare import VariableDecl
from opensipspy.script.run import Run
from tests.backends import FreeradiusServer, free_port

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


def test_nobody_there(tmp_path: Path) -> None:
    """A closed port is no reason to wait."""
    module = AaaRadius()
    core = FakeCore()
    core.add(module)
    conf = tmp_path / "conf"
    conf.write_text(f"authserver 127.0.0.1:{free_port()}:hidden\nradius_timeout 600\n")

    async def scenario() -> None:
        client = await open_client(core, f"radius:{conf}")
        with pytest.raises(AaaError, match="no RADIUS server answers"):
            await client.authenticate([("User-Name", "bob")])
        await module.stop()

    asyncio.run(scenario())


def test_files(tmp_path: Path) -> None:
    """Dictionaries include each other, have vendors and values; errors name the line and no secret."""
    (tmp_path / "more").write_text(
        "VENDOR Cisco 9\nBEGIN-VENDOR Cisco\nATTRIBUTE Cisco-AVPair 1 string\nEND-VENDOR Cisco\n"
        "VALUE Service-Type Mine 0x63\n"
    )
    (tmp_path / "main").write_text("$INCLUDE more\nATTRIBUTE Digest-Realm 104 string\n")
    dictionary = Dictionary()
    dictionary.read(tmp_path / "main")
    found = dictionary.attribute("cisco-avpair")
    assert found is not None
    assert (found.vendor, found.number) == (9, 1)
    assert dictionary.value("service-type", "MINE") == 99
    realm = dictionary.attribute("Digest-Realm")
    assert realm is not None
    assert realm.number == 1063
    (tmp_path / "loop").write_text("$INCLUDE loop\n")
    with pytest.raises(DictionaryError, match="include each other"):
        Dictionary().read(tmp_path / "loop")
    (tmp_path / "bad").write_text("ATTRIBUTE X\n")
    with pytest.raises(DictionaryError, match="line 1"):
        Dictionary().read(tmp_path / "bad")
    (tmp_path / "conf").write_text("authserver 127.0.0.1:99999:hushhush\n")
    with pytest.raises(ConfigError, match="line 1") as caught:
        read_config(tmp_path / "conf")
    assert "hushhush" not in str(caught.value)


def test_set_syntax_and_sip_avps() -> None:
    """The manual: name = ( attribute = variable [, attribute = variable]* ), and the forms of SIP-AVP."""
    text = "set4  =  (  Sip-User-ID  =   $avp(10)\n , Sip-From-Tag=$si )  "
    assert parse_set(text) == ("set4", [("Sip-User-ID", "$avp(10)"), ("Sip-From-Tag", "$si")])
    for bad in ("x", "x = y", "x = (a)", "= (a=$b)", "x = (a=b)"):
        with pytest.raises(ValueError, match="of the form"):
            parse_set(bad)
    values = ["email:joe", "#14:joe", "age#28", "#14#28", "nothing", "age#x", ":x"]
    reply = AaaReply(True, [("SIP-AVP", value) for value in values])
    assert sip_avps(reply) == [("email", "joe"), ("14", "joe"), ("age", 28), ("14", 28)]
