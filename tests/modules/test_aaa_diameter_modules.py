"""auth_aaa, acc and group whose aaa_url is a Diameter peer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from opensipspy import sip
from opensipspy.aaa import AaaClient, AaaError, open_client
from opensipspy.module import ParamError
from opensipspy.module.testing import START_TIME, make_run, request
from opensipspy.modules.aaa_diameter.codec import Message
from opensipspy.modules.aaa_diameter.node import Held
from opensipspy.modules.acc import Acc
from opensipspy.modules.auth import Auth
from opensipspy.modules.auth_aaa import AuthAaa
from opensipspy.modules.group import Group
from opensipspy.modules.rr import Rr
from tests.backends import free_port
from tests.diameter_peers import Other, hss, peer_text, success, until, write_files
from tests.modules.asynchronous import in_loop
from tests.modules.test_aaa_diameter import Client
from tests.modules.test_acc import Call, FakeTm

REALM = "example.com"


def seen(other: Other) -> dict[str, Any]:
    """The AVPs of the last request that came."""
    return {name: value for avp in other.dictionary.decode(other.held[-1].message.avps) for name, value in avp.items()}


class Checking:
    """A server that grants what its function says of a request's AVPs; result: what it answers then."""

    def __init__(self, result: int = 2001) -> None:
        self.result = result

    def __call__(self, other: Other, held: Held) -> Message:
        avps = seen(other)
        ha1 = sip.digest.ha1("alice", REALM, "zanzibar", "")
        good = "Digest-Response" not in avps or avps["Digest-Response"] == sip.digest.response(
            ha1, avps["Digest-Method"], avps["Digest-URI"], avps["Digest-Nonce"], "", "", "", ""
        )
        answer = other.node.base_answer(held.message, self.result if good else 4001)
        answer.avps.append(other.dictionary.make("SIP-AVP", "tariff:gold"))
        return answer


async def serve(folder: Path, answer: Any) -> tuple[Other, str]:
    """A peer in this process, and the URL that names it."""
    other = Other("server.t.test", answer)
    await other.node.start()
    return other, write_files(folder, peer_text("server.t.test", other.port))


@in_loop
async def test_digest_credentials_are_checked_by_a_peer(tmp_path: Path) -> None:
    """RFC 4740 §8.7: a Multimedia-Auth-Request with the credentials; SIP-AVPs of its answer become AVPs."""
    checking = Checking()
    other, url = await serve(tmp_path, checking)
    client = Client(url)
    core = client.core
    modules = [core.add(Auth(rpid_avp="")), core.add(AuthAaa(aaa_url=url))]
    async with client:
        for module in modules:
            await module.start()
        await client.open("server.t.test")
        for password, code in (("zanzibar", 1), ("guess", -2)):
            core.call("www_challenge", make_run(request(), core=core), REALM, 0, (0,))
            challenge = sip.parse_credentials(core.replies[-1].headers.strip().partition(": ")[2])
            found = sip.Credentials()
            found.username, found.realm, found.nonce, found.uri = "alice", REALM, challenge.nonce, "sip:example.com"
            ha1 = sip.digest.ha1("alice", REALM, password, "")
            found.response = sip.digest.response(ha1, "REGISTER", found.uri, found.nonce, "", "", "", "")
            line = f"Authorization: {sip.digest.authorization(found)}"
            run = make_run(request("REGISTER", headers=line, to="<sip:alice@example.com>"), core=core)
            assert await core.call("aaa_www_authorize", run, REALM) == code
            assert run.avps == ({"tariff": ["gold"]} if code == 1 else {})
        avps = seen(other)
        assert (avps["SIP-AOR"], avps["User-Name"]) == ("alice@example.com", "alice@example.com")
        assert (avps["Auth-Application-Id"], avps["Service-Type"]) == (6, 15)
        assert other.held[-1].message.application == 6
        # Any other success grants nothing: 2008 (RFC 4740 §10.1.4) is a challenge that was sent.
        checking.result = 2008
        assert await core.call("aaa_does_uri_exist", run, "sip:alice@example.com") == -1
        checking.result = 3004
        assert await core.call("aaa_does_uri_exist", run, "sip:alice@example.com") == -2
        await other.node.stop()
        assert await core.call("aaa_does_uri_exist", run, "sip:alice@example.com") == -2
        for module in modules:
            await module.stop()


@in_loop
async def test_records_for_a_peer_wait_until_it_is_there(tmp_path: Path) -> None:
    """RFC 6733 §9.7: an Accounting-Request of the type EVENT_RECORD for each record."""
    other, url = await serve(tmp_path, success)
    client = Client(url)
    core = client.core
    core.add(FakeTm())
    core.add(Rr())
    acc = core.add(Acc(aaa_url=url))
    acc.set_param("extra_fields", "aaa: setup->Sip-Call-Duration; who->Class")
    async with client:
        await acc.start()
        call = Call(core)
        call.do("do_accounting", "aaa")
        core.write("$acc_extra", call.run, "x" * 5000, "who")
        core.write("$acc_extra", call.run, "no number", "setup")
        call.answered(200)
        await client.open("server.t.test")

        def came() -> bool:
            core.advance(1.0)
            return bool(other.held)

        await until(came)
        avps = seen(other)
        assert (avps["Acct-Status-Type"], avps["Sip-Response-Code"], avps["Accounting-Record-Type"]) == (1, 200, 1)
        assert (avps["Acct-Session-Id"], avps["Sip-From-Tag"], avps["Sip-To-Tag"]) == ("call-1@example.com", "a1", "b1")
        assert avps["Event-Timestamp"] == int(START_TIME)
        assert avps["Class"] == "x" * 5000
        assert "Sip-Call-Duration" not in avps
        await until(lambda: not acc.unfinished())
        assert acc.lost_records.read() == 0
        await acc.stop()
    await other.node.stop()


@in_loop
async def test_a_real_peer_takes_records_and_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    """The home subscriber server takes Accounting-Requests; it does not have the SIP application."""
    port = free_port()
    with hss(port, "server.t.test"):
        url = write_files(tmp_path, peer_text("server.t.test", port))
        async with Client(url) as client:
            await client.open("server.t.test")
            servers = await open_client(client.core, url)
            assert isinstance(servers, AaaClient)
            record = [("Acct-Session-Id", "c"), ("Acct-Status-Type", 1), ("Event-Timestamp", 1700000000)]
            reply = await servers.account(record)
            assert reply.accepted
            assert reply.all("Result-Code") == [2001]
            with pytest.raises(AaaError):
                await servers.authenticate([("User-Name", "alice")])
            with pytest.raises(AaaError, match="no number"):
                await servers.account([("Acct-Status-Type", "x")])
            with pytest.raises(AaaError, match="no AVP Nothing"):
                await servers.account([("Nothing", "x")])


@in_loop
async def test_what_is_wrong_is_told_at_start(tmp_path: Path) -> None:
    """One peer in a server; AVPs that are not in the dictionary are named, as group's Sip-Group is."""
    url = write_files(tmp_path, "")
    async with Client(url) as client:
        core = client.core
        with pytest.raises(ParamError, match="Sip-Group"):
            await core.add(Group(aaa_url=url)).start()
        with pytest.raises(AaaError, match="which is in use"):
            await open_client(core, "diameter:another.conf")
