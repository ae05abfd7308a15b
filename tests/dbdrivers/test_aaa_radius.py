"""aaa_radius against FreeRADIUS, and against servers that misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from opensipspy.aaa import AaaError, AaaReply, open_client, sip_avps
from opensipspy.dbdrivers.aaa_radius import AaaRadius, parse_set
from opensipspy.dbdrivers.aaa_radius.config import ConfigError, read_config
from opensipspy.dbdrivers.aaa_radius.dictionary import Dictionary, DictionaryError
from opensipspy.module.testing import FakeCore, make_run, request
from opensipspy.script.declare import VariableDecl
from opensipspy.script.run import Run
from tests.backends import FreeradiusServer, free_port

USERS = 'bob Cleartext-Password := "hello"\n\tSIP-AVP += "email:joe@example.com",\n\tSIP-AVP += "#14#28"\n'


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


def test_authentication_accounting_and_a_killed_server(radius: FreeradiusServer) -> None:
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
        assert await core.call("radius_send_acct", run, "nothing") == -1
        radius.kill()
        assert await core.call("radius_send_acct", run, "acct") == -1
        (radius.folder / "log" / "stdout").unlink()
        await asyncio.to_thread(radius.start)
        assert await core.call("radius_send_acct", run, "acct") == 1
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
