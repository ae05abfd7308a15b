"""aaa_radius against FreeRADIUS, and against servers that misbehave."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from opensipspy.aaa import AaaError, AaaReply, open_client, sip_avps
from opensipspy.dbdrivers.aaa_radius import AaaRadius, packet, parse_set
from opensipspy.dbdrivers.aaa_radius.client import RadiusClient
from opensipspy.dbdrivers.aaa_radius.config import ConfigError, read_config
from opensipspy.dbdrivers.aaa_radius.dictionary import Dictionary, DictionaryError
from opensipspy.module.testing import FakeCore, make_run, request
from opensipspy.script.declare import VariableDecl
from opensipspy.script.run import Run
from tests.backends import FreeradiusServer, free_port

USERS = 'bob Cleartext-Password := "hello"\n\tSIP-AVP += "email:joe@example.com",\n\tSIP-AVP += "#14#28"\n'
SECRET = b"testing123"
DELAY = "Acct-Delay-Time"


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


def test_authentication_accounting_and_a_killed_server(
    radius: FreeradiusServer, caplog: pytest.LogCaptureFixture
) -> None:
    """RFC 2865 and RFC 2866 with a real server; after kill -9 requests fail, and work when it is back."""
    sets = ("in = (User-Name=$var(user), User-Password=$var(pass))", "out = (SIP-AVP=$avp(all))")
    core = FakeCore()
    for name, at in (("$var", "vars"), ("$avp", "avps"), ("$ci", "")):
        core.catalogue.add_variable(variable(name, at))
    module = AaaRadius(radius_config=f"{radius.folder}/radiusclient.conf", fetch_all_values=1)
    for text in (*sets, "acct = (Acct-Status-Type=$var(type), Acct-Session-Id=$ci, User-Name=$var(user))"):
        module.set_sets(text)
    core.add(module)

    async def scenario() -> None:
        await module.start()
        run = make_run(request(), core=core)
        run.vars.update({"user": "bob", "pass": "hello", "type": 1})
        assert await core.call("radius_send_auth", run, "in", "out") == 1
        assert run.avps["all"] == ["email:joe@example.com", "#14#28"]
        assert run.avps["email"] == ["joe@example.com"]
        assert run.avps["14"] == [28]
        run.vars["pass"] = "wrong"
        assert await core.call("radius_send_auth", run, "in", "out") == -2
        for number in (1, 3, 2):
            run.vars["type"] = number
            assert await core.call("radius_send_acct", run, "acct") == 1
        kinds = [record["Acct-Status-Type"] for record in radius.records()]
        assert kinds == ["Start", "Interim-Update", "Stop"]
        # As radcli does: what it is sent from, the port of SIP, and how long it took to be sent.
        record = radius.records()[-1]
        assert (record["NAS-IP-Address"], record["NAS-Port"], record["Acct-Delay-Time"]) == ("127.0.0.1", "5060", "0")
        assert "NAS-Identifier" not in record
        assert await core.call("radius_send_acct", run, "nothing") == -1
        run.vars["type"] = "no number"
        assert await core.call("radius_send_acct", run, "acct") == -1
        run.vars["type"] = None
        assert await core.call("radius_send_acct", run, "acct") == 1
        assert "Acct-Status-Type" not in radius.records()[-1]
        run.vars["pass"] = None
        assert await core.call("radius_send_auth", run, "in", "out") == -2
        run.vars["pass"] = "x" * 129
        assert await core.call("radius_send_auth", run, "in", "out") == -1
        server = (core.status.group("aaa") or {})[f"127.0.0.1:{radius.acct_port}"]
        assert (server.status, server.details) == (1, "answers")
        assert module.failed_requests.read() == 2
        radius.kill()
        for _ in range(3):
            assert await core.call("radius_send_acct", run, "acct") == -1
        assert server.status == -1
        (radius.folder / "log" / "stdout").unlink()
        await asyncio.to_thread(radius.start)
        assert await core.call("radius_send_acct", run, "acct") == 1
        assert (server.status, server.details) == (1, "answers again")
        assert len(server.reports) == 2
        assert module.failed_requests.read() == 5
        await module.stop()

    asyncio.run(scenario())
    assert caplog.text.count("does not answer") == 1
    assert caplog.text.count("answers again") == 1
    assert "the value of Acct-Status-Type is no integer" in caplog.text


def test_what_requests_say_of_this_server(radius: FreeradiusServer) -> None:
    """RFC 2865 §5.4, §5.32: NAS-Identifier comes from the configuration; what a request has of its own stays."""
    module = AaaRadius()
    core = FakeCore()
    core.add(module)
    conf = radius.folder / "identified.conf"
    text = (radius.folder / "radiusclient.conf").read_text(encoding="utf-8")
    conf.write_text(text + "nas-identifier edge-1\n", encoding="utf-8")

    async def scenario() -> None:
        client = await open_client(core, f"radius:{conf}")
        await client.account([("Acct-Status-Type", 1), ("Acct-Session-Id", "a")])
        first = radius.records()[-1]
        assert (first["NAS-Identifier"], first["NAS-IP-Address"]) == ("edge-1", "127.0.0.1")
        own = [("NAS-Port", 7), ("nas-identifier", "mine"), ("NAS-IPv6-Address", "2001:db8::1"), (DELAY, 60)]
        await client.account([("Acct-Status-Type", 1), ("Acct-Session-Id", "b"), *own])
        second = radius.records()[-1]
        assert (second["NAS-Identifier"], second["NAS-IPv6-Address"]) == ("mine", "2001:db8::1")
        assert (second["NAS-Port"], second["Acct-Delay-Time"]) == ("7", "60")
        assert "NAS-IP-Address" not in second
        await module.stop()

    asyncio.run(scenario())


def test_many_requests_at_a_time(radius: FreeradiusServer) -> None:
    """RFC 2865 §3: an identifier has one octet, so more than 256 requests need more ports."""
    module = AaaRadius()
    core = FakeCore()
    core.add(module)

    async def scenario() -> None:
        client = await open_client(core, radius.url)
        replies = await asyncio.gather(
            *(client.authenticate([("User-Name", "bob"), ("User-Password", "hello")]) for _ in range(300))
        )
        assert all(reply.accepted for reply in replies)
        await module.stop()

    asyncio.run(scenario())


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


def test_a_text_that_is_none_is_no_value() -> None:
    """Half of a surrogate pair: a question with it cannot be made, a record goes without it."""
    known = Dictionary()
    attributes = [("User-Name", chr(0xD800)), ("Acct-Session-Id", "1")]
    with pytest.raises(AaaError, match="the value of User-Name is no text"):
        packet.encode(known, attributes, b"secret", bytes(16))
    assert packet.fitted(known, attributes) == ([("Acct-Session-Id", "1")], ["User-Name"])


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


def sealed(request: bytes, code: int, attributes: bytes, length: int = -1) -> bytes:
    """A reply with the right authenticator. length: what its header says, the truth by default."""
    head = bytes((code, request[1])) + (20 + len(attributes) if length < 0 else length).to_bytes(2, "big")
    return head + hashlib.md5(head + request[4:20] + attributes + SECRET).digest() + attributes


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda request: b"",
    "a header cut off": lambda request: sealed(request, 2, b"")[:19],
    "another identifier": lambda request: sealed(bytes((1, request[1] ^ 1)) + request[2:], 2, b""),
    "longer than it is": lambda request: sealed(request, 2, b"", 200),
    "shorter than a header": lambda request: sealed(request, 2, b"", 19),
    "longer than allowed": lambda request: sealed(request, 2, b"\x12\x80" + bytes(126) + b"\x12\xff" * 4000),
    "an attribute cut off": lambda request: sealed(request, 2, b"\x12\x30abc"),
    "an attribute without length": lambda request: sealed(request, 2, b"\x12"),
    "an attribute of length 0": lambda request: sealed(request, 2, b"\x12\x00"),
    "the request itself": lambda request: request,
    "another secret": lambda request: sealed(request, 2, b"")[:4] + bytes(16),
}


class Answering(asyncio.DatagramProtocol):
    """A server that answers each request with what a function makes of it. requests: those that came."""

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self._answer = answer
        self.requests: list[tuple[bytes, tuple[str, int]]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.requests.append((data, addr))
        reply = self._answer(data)
        if reply:
            self.transport.sendto(reply, addr)


async def answering(
    answer: Callable[[bytes], bytes], folder: Path, more: str = "", setting: str = ""
) -> tuple[Answering, str]:
    """A server and the URL of its configuration."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: Answering(answer), local_addr=("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    conf = folder / "answering.conf"
    conf.write_text(f"authserver 127.0.0.1:{port}:testing123{more}\nradius_timeout 0.05\nradius_retries 2\n{setting}\n")
    return server, f"radius:{conf}"


@pytest.mark.parametrize("kind", list(BROKEN))
def test_broken_replies_are_dropped_and_counted(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """RFC 2865 §3: a packet that is not whole, or not the server's, is discarded silently; the request is repeated."""
    module = AaaRadius()
    core = FakeCore()
    core.add(module)

    async def scenario() -> None:
        server, url = await answering(BROKEN[kind], tmp_path)
        client = await open_client(core, url)
        with pytest.raises(AaaError, match="no RADIUS server answers"):
            await client.authenticate([("User-Name", "bob")])
        assert len(server.requests) == 2
        counts = (module.requests.read(), module.retransmissions.read(), module.failed_requests.read())
        assert counts == (1, 1, 1)
        wrong = module.dropped_replies.read() + module.late_replies.read()
        assert wrong == (0 if kind == "empty" else 2)
        server.transport.close()
        await module.stop()

    asyncio.run(scenario())
    assert caplog.text.count("does not answer: timeout") == 1
    assert "testing123" not in caplog.text


def test_a_reply_without_message_authenticator_is_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """CVE-2024-3596: its authenticator alone can be made by those between; a setting requires the other one."""
    module = AaaRadius()
    core = FakeCore()
    core.add(module)

    async def scenario() -> None:
        setting = "require-message-authenticator yes"
        server, url = await answering(lambda request: sealed(request, 2, b""), tmp_path, setting=setting)
        client = await open_client(core, url)
        with pytest.raises(AaaError, match="no RADIUS server answers"):
            await client.authenticate([("User-Name", "bob")])
        assert module.dropped_replies.read() == 2
        server.transport.close()
        server, url = await answering(lambda request: sealed(request, 2, b""), tmp_path)
        await module.stop()
        client = await open_client(core, url)
        assert (await client.authenticate([("User-Name", "bob")])).accepted
        server.transport.close()
        await module.stop()

    asyncio.run(scenario())
    assert "it has no Message-Authenticator" in caplog.text


@pytest.mark.parametrize(("setting", "taken"), [("", False), ("require-message-authenticator no", True)])
def test_what_a_server_has_sent_once_it_has_to_send(setting: str, taken: bool, tmp_path: Path) -> None:
    """CVE-2024-3596: who forges a reply cannot make a Message-Authenticator, so he leaves it out."""
    module = AaaRadius()
    core = FakeCore()
    core.add(module)
    seals = [False, True, False]

    def answer(request: bytes) -> bytes:
        if not seals[0]:
            return sealed(request, 2, b"")
        head = bytes((2, request[1], 0, 38))
        blank = head + request[4:20] + bytes((80, 18)) + bytes(16)
        return sealed(request, 2, bytes((80, 18)) + hmac.digest(SECRET, blank, "md5"))

    async def scenario() -> None:
        server, url = await answering(answer, tmp_path, setting=setting)
        client = await open_client(core, url)
        for _ in range(2):
            assert (await client.authenticate([("User-Name", "bob")])).accepted
            del seals[0]
        if taken:
            assert (await client.authenticate([("User-Name", "bob")])).accepted
        else:
            with pytest.raises(AaaError, match="no RADIUS server answers"):
                await client.authenticate([("User-Name", "bob")])
            assert module.dropped_replies.read() == 2
        server.transport.close()
        await module.stop()

    asyncio.run(scenario())


def test_an_unexpected_code_is_an_error(tmp_path: Path) -> None:
    """An authentic Accounting-Response to an Access-Request grants nothing; neither does an Access-Challenge."""
    module = AaaRadius()
    core = FakeCore()
    core.add(module)

    async def scenario() -> None:
        codes = [5, 11]
        server, url = await answering(lambda request: sealed(request, codes.pop(0), b""), tmp_path)
        client = await open_client(core, url)
        with pytest.raises(AaaError, match="unexpected code 5"):
            await client.authenticate([("User-Name", "bob")])
        assert not (await client.authenticate([("User-Name", "bob")])).accepted
        server.transport.close()
        await module.stop()

    asyncio.run(scenario())


def test_an_answer_that_comes_too_late(tmp_path: Path) -> None:
    """It is counted, and neither this request nor the next one gets it."""
    module = AaaRadius()
    core = FakeCore()
    core.add(module)

    async def scenario() -> None:
        server, url = await answering(lambda request: b"", tmp_path)
        client = await open_client(core, url)
        with pytest.raises(AaaError, match="no RADIUS server answers"):
            await client.authenticate([("User-Name", "bob")])
        data, source = server.requests[0]
        server.transport.sendto(sealed(data, 2, b""), source)
        with pytest.raises(AaaError, match="no RADIUS server answers"):
            await client.authenticate([("User-Name", "carol")])
        assert module.late_replies.read() == 1
        server.transport.close()
        await module.stop()

    asyncio.run(scenario())


def test_a_silent_server_is_not_waited_for_twice(radius: FreeradiusServer, tmp_path: Path) -> None:
    """With another one at hand; when its time is over a single request tries it."""
    module = AaaRadius()
    core = FakeCore()
    core.add(module)

    async def scenario() -> None:
        server, url = await answering(
            lambda request: b"", tmp_path, f",127.0.0.1:{radius.port}:testing123\nradius_deadtime 60"
        )
        client = await open_client(core, url)
        question = [("User-Name", "bob"), ("User-Password", "hello")]
        assert (await client.authenticate(question)).accepted
        assert len(server.requests) == 2
        replies = await asyncio.gather(*(client.authenticate(question) for _ in range(20)))
        assert all(reply.accepted for reply in replies)
        assert len(server.requests) == 2
        assert isinstance(client, RadiusClient)
        client._auth[0].dead_until = 0.0
        replies = await asyncio.gather(*(client.authenticate(question) for _ in range(20)))
        assert all(reply.accepted for reply in replies)
        assert len(server.requests) == 4
        server.transport.close()
        await module.stop()

    asyncio.run(scenario())
