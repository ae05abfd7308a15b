"""uac_auth: logins by realm, and answers to digest challenges (RFC 7616, RFC 8760)."""

from __future__ import annotations

import hashlib

import pytest

from opensipspy.module import ParamError
from opensipspy.module.testing import FakeCore, make_run, request
from opensipspy.modules.uac_auth import UacAuth
from opensipspy.modules.uac_auth.api import (
    Login,
    UacAuthApi,
    algorithm_names,
    answer,
    answer_all,
    chosen_qop,
    is_stale,
    read_challenges,
)
from opensipspy.script.core import build_catalogue
from opensipspy.sip import digest
from tests.modules.asynchronous import in_loop
from tests.script.fakes import FakeServices

HA1 = "939e7578ed9e3c518a452acee763bce9"


def test_the_example_of_rfc_7616() -> None:
    """RFC 7616 §3.9.1: user Mufasa, both algorithms of the example."""
    nonce, cnonce = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
    for algorithm, expected in (
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ):
        (challenge,) = read_challenges(
            [f'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={algorithm}, nonce="{nonce}"']
        )
        login = Login("Mufasa", "http-auth@example.org", "Circle of Life")
        text = answer(challenge, login, "GET", "/dir/index.html", b"", cnonce)
        assert text is not None
        made = digest.parse_credentials(text)
        assert (made.response, made.qop, made.nc) == (expected, "auth", "00000001")


@pytest.mark.parametrize("algorithm", ["", "MD5", "MD5-sess", "SHA-256", "SHA-256-sess", "SHA-512-256"])
@pytest.mark.parametrize("qop", ["", "auth", "auth-int"])
def test_servers_take_the_answers(algorithm: str, qop: str) -> None:
    """RFC 7616 §3.4, RFC 8760 §2.1: what is made here is what the other side computes."""
    text = digest.challenge("example.org", "n0nce", qop=qop, algorithm=algorithm, opaque='o"p')
    (challenge,) = read_challenges([text])
    login = Login("alice", "example.org", "s:ec ret")
    value = answer(challenge, login, "INVITE", "sip:bob@example.org", b"body", "c0", 2)
    assert value is not None
    made = digest.parse_credentials(value)
    assert digest.verify(made, digest.ha1("alice", "example.org", "s:ec ret", algorithm), "INVITE", b"body")
    assert made.opaque == 'o"p'
    assert made.nc == ("00000002" if qop else "")


def test_a_stored_ha1_answers_for_its_hash_only() -> None:
    """The manual: the password may be "0x" and the HA1; it was made with one algorithm."""
    login = Login("Mufasa", "testrealm@host.com", "0x" + HA1)
    md5, sha = read_challenges(
        ['Digest realm="testrealm@host.com",nonce="n"', 'Digest realm="testrealm@host.com",nonce="n",algorithm=SHA-256']
    )
    assert answer(sha, login, "GET", "/", b"", "c") is None
    value = answer(md5, login, "GET", "/", b"", "c")
    assert value is not None
    assert digest.verify(digest.parse_credentials(value), HA1, "GET")
    made = answer_all([sha, md5], lambda realm: login, lambda c, found: answer(c, found, "GET", "/", b"", "c"))
    assert [challenge is md5 for challenge, _ in made] == [True]


def test_the_first_algorithm_of_a_realm_is_answered() -> None:
    """RFC 8760 §2.4: the topmost challenge that the client supports; each realm has its own answer."""
    found = read_challenges(
        [
            'Digest realm="a",nonce="1",algorithm=SHA-1024',
            'Digest realm="a",nonce="2",algorithm=SHA-256',
            'Digest realm="b",nonce="3"',
            'Digest realm="a",nonce="4",algorithm=MD5',
        ]
    )
    assert [challenge.nonce for challenge in found] == ["2", "3", "4"]
    made = answer_all(found, lambda realm: Login("u", realm, "p"), lambda c, found: c.nonce)
    assert [text for _, text in made] == ["2", "3"]
    only = read_challenges(
        [f'Digest realm="a",nonce="{name}",algorithm={name}' for name in ("SHA-256", "MD5")], frozenset({"md5"})
    )
    assert [challenge.nonce for challenge in only] == ["MD5"]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Basic realm=x",
        "Digest",
        'Digest realm="a"',
        'Digest nonce="n"',
        'Digest realm="a",nonce="n",qop="auth-conf"',
        'Digest realm="a",nonce="n",nonce="m"',
        'Digest realm="' + "r" * 2000 + '",nonce="n"',
        'Digest realm="a",nonce="n',
        "\udc80",
    ],
)
def test_what_is_no_challenge_is_left_out(value: str) -> None:
    """RFC 3261 §22.4: unknown schemes, algorithms and qops, and broken headers, are ignored."""
    assert read_challenges([value]) == []
    assert len(read_challenges([value, 'Digest realm="a",nonce="n"'])) == 1


def test_qop_and_stale() -> None:
    """The manual: auth is preferred to auth-int. RFC 7616 §3.3: stale is a token in any case."""
    (one,) = read_challenges(['Digest realm="a",nonce="n",qop="auth-int,auth",stale=TRUE'])
    assert chosen_qop(one) == "auth"
    assert is_stale(one)
    (two,) = read_challenges(['Digest realm="a",nonce="n",qop="auth-int"'])
    assert chosen_qop(two) == "auth-int"
    assert not is_stale(two)


def test_algorithm_names() -> None:
    """The argument of uac_auth(), in any case."""
    assert algorithm_names(" MD5, sha-256-SESS ,") == {"md5", "sha-256-sess"}
    with pytest.raises(ValueError, match="sha-1"):
        algorithm_names("SHA-1")


def test_nothing_breaks_out_of_the_header() -> None:
    """A user name from an AVP may hold anything."""
    (challenge,) = read_challenges(['Digest realm="a",nonce="n"'])
    assert answer(challenge, Login("x\r\nVia: y", "a", "p"), "INVITE", "sip:b@c", b"", "c") is None
    value = answer(challenge, Login('x", realm="z', "a", "p"), "INVITE", "sip:b@c", b"", "c")
    assert value is not None
    assert digest.parse_credentials(value).username == 'x", realm="z'


# --- the module


@pytest.mark.parametrize(
    ("text", "realm", "user", "password"),
    [
        ("alice:example.org:secret", "example.org", "alice", "secret"),
        ("alice:example.org:se:cr:et", "example.org", "alice", "se:cr:et"),
        ("alice:[2001:db8::1]:pw", "[2001:db8::1]", "alice", "pw"),
        (f"alice:example.org:0x{HA1}", "example.org", "alice", f"0x{HA1}"),
    ],
)
def test_credential(text: str, realm: str, user: str, password: str) -> None:
    """The manual: credential is "username:domain:password", any number of times."""
    core = FakeCore()
    module = UacAuth()
    module.set_param("credential", "other:other.example:pw")
    module.set_param("credential", text)
    api = core.add(module) and core.api("uac_auth", UacAuthApi)  # type: ignore[type-abstract]
    login = api.login(None, realm)
    assert login is not None
    assert (login.user, login.password) == (user, password)
    assert api.login(None, "unknown") is None
    assert password not in repr(login)


@pytest.mark.parametrize("text", ["alice", "alice:realm", "alice:realm:", ":realm:secret1", "alice::secret1"])
def test_a_credential_that_is_none(text: str) -> None:
    """The error names the form and never the secret."""
    with pytest.raises(ParamError) as caught:
        UacAuth().set_param("credential", text)
    assert "secret1" not in str(caught.value)


@in_loop
async def test_the_avps_come_first() -> None:
    """The manual: the three AVPs give the login of one request."""
    core = FakeCore()
    module = UacAuth(auth_realm_avp="$avp(r)", auth_username_avp="$avp(u)", auth_password_avp="$avp(p)")
    module.set_param("credential", "static:example.org:pw")
    core.catalogue = build_catalogue(FakeServices())
    core.add(module)
    await module.launch()
    run = make_run(request(), core=core)
    run.avps.update({"r": ["example.org"], "u": ["dynamic"], "p": ["pw2"]})
    found = module.login(run, "example.org")
    assert found is not None
    assert (found.user, found.password) == ("dynamic", "pw2")
    run.avps["r"] = ["elsewhere"]
    found = module.login(run, "example.org")
    assert found is not None
    assert found.user == "static"
    await module.shutdown()


@in_loop
async def test_all_three_avps_or_none() -> None:
    """The manual: whoever defines one has to define the two others."""
    core = FakeCore()
    module = core.add(UacAuth(auth_realm_avp="$avp(r)"))
    with pytest.raises(ParamError, match="auth_username_avp"):
        await module.launch()


def test_cnonces_differ() -> None:
    """RFC 7616 §5.4: the client's nonce is chosen anew."""
    module = FakeCore().add(UacAuth())
    assert len({module.cnonce() for _ in range(20)}) == 20


def test_ha1_of_a_plain_password() -> None:
    """RFC 7616 §3.4.2."""
    expected = hashlib.md5(b"u:r:p").hexdigest()
    assert Login("u", "r", "p").ha1("r", "") == expected
