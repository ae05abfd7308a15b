"""auth_aaa: digest credentials that FreeRADIUS checks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from opensipspy import sip
from opensipspy.dbdrivers.aaa_radius import AaaRadius
from opensipspy.module import ParamError
from opensipspy.module.testing import FakeCore, make_run, request
from opensipspy.modules.auth import Auth
from opensipspy.modules.auth_aaa import AuthAaa
from opensipspy.script.run import Run
from tests.backends import FreeradiusServer

REALM = "example.com"
USERS = (
    'alice@example.com Cleartext-Password := "zanzibar"\n\tSIP-AVP += "rpid:+441",\n\tSIP-AVP += "age#28"\n\n'
    'alice Auth-Type := Accept\n\tSIP-AVP += "email:alice@example.com"\n'
)


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


def answer(core: FakeCore, password: str, qop: int, user: str = "alice") -> Run:
    """A REGISTER with the response to a fresh challenge. qop: 1 for auth, 0 for none."""
    core.call("www_challenge", make_run(request(), core=core), REALM, qop, (0,))
    challenge = sip.parse_credentials(core.replies[-1].headers.strip().partition(": ")[2])
    credentials = sip.Credentials()
    credentials.username, credentials.realm, credentials.nonce = user, REALM, challenge.nonce
    credentials.uri = "sip:example.com"
    if qop:
        credentials.qop, credentials.nc, credentials.cnonce = "auth", "00000001", "xyz"
    ha1 = sip.digest.ha1(user, REALM, password, "")
    credentials.response = sip.digest.response(
        ha1, "REGISTER", credentials.uri, credentials.nonce, credentials.qop, credentials.nc, credentials.cnonce, ""
    )
    line = f"Authorization: {sip.digest.authorization(credentials)}"
    return make_run(request("REGISTER", headers=line, to="<sip:alice@example.com>"), core=core)


@pytest.mark.parametrize("qop", [0, 1])
def test_digest_credentials_and_look_ups(radius: FreeradiusServer, qop: int) -> None:
    """draft-sterman-aaa-sip-00: the server checks the response; SIP-AVP becomes AVPs."""
    core = FakeCore()
    modules = [core.add(AaaRadius()), core.add(Auth(rpid_avp="")), core.add(AuthAaa(aaa_url=radius.url))]

    async def scenario() -> None:
        for module in modules:
            await module.start()
        run = answer(core, "zanzibar", qop)
        assert await core.call("aaa_www_authorize", run, REALM) == 1
        assert run.avps == {"rpid": ["+441"], "age": [28]}
        assert await core.call("aaa_www_authorize", answer(core, "wrong", qop), REALM) == -2
        assert await core.call("aaa_www_authorize", make_run(request("REGISTER"), core=core), REALM) == -4
        run = make_run(request(), core=core)
        assert await core.call("aaa_does_uri_exist", run, "sip:alice@example.com") == 1
        assert run.avps == {"email": ["alice@example.com"]}
        assert await core.call("aaa_does_uri_user_exist", run, "sip:nobody@example.com") == -1
        assert await core.call("aaa_does_uri_exist", run, "sip:example.com") == -2
        for module in modules:
            await module.stop()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("user", "code"),
    [("a" * 300, -5), ("alice\x00", -2), ("%{exec:id}", -2), ("' OR 1=1 --", -2), ("\udcff\udcfe", -2)],
)
def test_hostile_names_are_refused(
    radius: FreeradiusServer, user: str, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    """RFC 2865 §5: values have at most 253 octets, so a longer one is asked of nobody; others are names like any."""
    core = FakeCore()
    modules = [core.add(AaaRadius()), core.add(Auth(rpid_avp="")), core.add(AuthAaa(aaa_url=radius.url))]

    async def scenario() -> None:
        for module in modules:
            await module.start()
        assert await core.call("aaa_www_authorize", answer(core, "zanzibar", 0, user), REALM) == code
        assert await core.call("aaa_www_authorize", answer(core, "zanzibar", 0), REALM) == 1
        for module in modules:
            await module.stop()

    asyncio.run(scenario())
    assert caplog.text.count("more than 253") == (code == -5)


def test_the_driver_is_needed() -> None:
    """One line says which module is missing."""
    core = FakeCore()
    core.add(Auth(rpid_avp=""))
    module = core.add(AuthAaa(aaa_url="radius:/nowhere"))
    with pytest.raises(ParamError, match=r"aaa_radius\.so"):
        asyncio.run(module.start())
