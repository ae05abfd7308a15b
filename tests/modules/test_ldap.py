"""ldap and h350 against a real slapd: sessions, searches, results, hostile values, servers that are away or stall."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from opensipspy.module import StartError
from opensipspy.module.testing import FakeCore, make_run, make_var, request
from opensipspy.modules.h350 import H350
from opensipspy.modules.ldap import Ldap
from opensipspy.modules.ldap.session import read_settings
from opensipspy.modules.ldap.url import escape_filter_url, parse_ldap_url
from opensipspy.script.run import Run
from tests.backends import SlapdServer
from tests.certificates import Authority
from tests.modules.asynchronous import in_loop

BASE = """dn: dc=example,dc=com
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: ou=people,dc=example,dc=com
objectClass: organizationalUnit
ou: people

dn: uid=alice,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: alice
cn: Alice
sn: Müller
telephoneNumber: +155500099
telephoneNumber: 0042
mail: alice@example.com

dn: uid=bob,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: bob
cn: Bob (the *)
sn: Builder
telephoneNumber: +155500100

dn: ou=h350,dc=example,dc=com
objectClass: organizationalUnit
ou: h350

dn: commUniqueId=1,ou=h350,dc=example,dc=com
objectClass: commObject
objectClass: SIPIdentity
objectClass: callPreferenceURIObject
commUniqueId: 1
SIPIdentitySIPURI: sip:bob@example.com
SIPIdentitySIPURI: sip:+1919123456@alias.example.com
SIPIdentityUserName: bob
SIPIdentityPassword: pwd
SIPIdentityServiceLevel: long_distance
SIPIdentityServiceLevel: 900
callPreferenceURI: sip:bob@voicemail.example.com n:20000
callPreferenceURI: sip:bob@voicemail.example.com b
callPreferenceURI: this is no rule

dn: commUniqueId=2,ou=h350,dc=example,dc=com
objectClass: commObject
objectClass: SIPIdentity
commUniqueId: 2
SIPIdentityUserName: carol
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def slapd(authority: Authority) -> Iterator[SlapdServer]:
    if SlapdServer.programs() is None:
        pytest.skip(f"needs the package {SlapdServer.package}")
    server = SlapdServer()
    identity = authority.issue("localhost")
    lines = [
        f"TLSCACertificateFile {authority.path}",
        f"TLSCertificateFile {identity.cert}",
        f"TLSCertificateKeyFile {identity.key}",
    ]
    try:
        server.prepare(BASE, *lines)
        server.start()
        yield server
    finally:
        server.stop()


class House:
    def __init__(self, folder: Path, text: str, **params: Any) -> None:
        file = folder / "ldap.cfg"
        file.write_text(text)
        self.core = FakeCore()
        self.ldap = self.core.add(Ldap(config_file=str(file), **params))
        self.h350 = self.core.add(H350(ldap_session="main", base_dn="ou=h350,dc=example,dc=com"))
        self.run = self.new_run()

    def new_run(self) -> Run:
        return make_run(request("INVITE", "sip:x@example.com"), core=self.core)

    async def __aenter__(self) -> House:
        await self.ldap.start()
        await self.h350.start()
        return self

    async def __aexit__(self, *details: object) -> None:
        await self.ldap.stop()

    async def search(self, url: str) -> int:
        return await self.ldap.ldap_search(self.run, url)

    def values(self, attribute: str, *more: Any) -> tuple[int, list[Any]]:
        seen: list[Any] = []
        variable = make_var("x")
        variable.set = lambda run, value: seen.append(value)
        subst = self.ldap.substitution(more[1]) if len(more) > 1 else None
        return self.ldap.ldap_result(self.run, attribute, variable, more[0] if more else None, subst), seen


def session(slapd: SlapdServer, **more: str) -> str:
    # A loaded machine answers late.
    patient = {"ldap_network_timeout": "30000", "ldap_client_bind_timeout": "30000"}
    lines = [f"{key} = {value}" for key, value in (patient | more).items()]
    return "\n".join(["[main]", f'ldap_server_url = "{slapd.url}"', *lines, ""])


PEOPLE = "ldap://main/ou=people,dc=example,dc=com"


@in_loop
async def test_searches_and_results(slapd: SlapdServer, tmp_path: Path) -> None:
    async with House(tmp_path, session(slapd)) as house:
        assert await house.search(f"{PEOPLE}??one?(uid=alice)") == 1
        assert house.values("TelephoneNumber") == (2, ["+155500099", "0042"])
        assert house.values("telephoneNumber", "int") == (2, [155500099, 42])
        assert house.values("mail", "int") == (-1, [])
        assert house.values("sn") == (1, ["Müller"])
        assert house.values("nothing") == (-1, [])
        assert house.values("mail", None, r"/^[^@]+@(.+)$/\1/") == (1, ["example.com"])
        assert house.values("mail", None, "/^sip:(.+)$/\\1/") == (-1, [])
        assert house.values("mail", "float") == (-2, [])
        check = house.ldap.ldap_result_check
        assert check(house.run, "mail", "alice@example.com") == 1
        assert check(house.run, "mail", "alice") == -1
        assert check(house.run, "mail", "alice", house.ldap.substitution(r"/^([^@]+)@.*$/\1/")) == 1
        assert house.ldap.ldap_result_next(house.run) == -1


@in_loop
async def test_several_entries(slapd: SlapdServer, tmp_path: Path) -> None:
    async with House(tmp_path, session(slapd)) as house:
        assert await house.search("ldap://main/dc=example,dc=com?uid?sub?(objectClass=inetOrgPerson)") == 2
        assert house.values("uid") == (1, ["alice"])
        assert house.values("mail") == (-1, []), "not among the attributes asked for"
        assert house.ldap.ldap_result_next(house.run) == 1
        assert house.values("uid") == (1, ["bob"])
        assert house.ldap.ldap_result_next(house.run) == -1
        assert house.values("uid") == (1, ["bob"])


@pytest.mark.parametrize(
    ("url", "found"),
    [
        (f"{PEOPLE}??one?(uid=nobody)", -1),
        ("ldap://main/ou=nowhere,dc=example,dc=com??sub?(uid=alice)", -1),
        ("ldap://main/uid=alice,ou=people,dc=example,dc=com", 1),
        ("ldap://main/uid=alice,ou=people,dc=example,dc=com?cn", 1),
        (f"{PEOPLE}??one?uid=alice", 1),
        ("ldap://main/ou=people,dc=example,dc=com?\n  cn,sn?sub?(uid=alice)", 1),
        (f"{PEOPLE}??one?(uid=alice", -2),
        (f"{PEOPLE}??one?((", -2),
        (f"{PEOPLE}??one?", 2),
        (f"{PEOPLE}??deep?(uid=alice)", -2),
        (f"{PEOPLE}??one?(uid=alice)?x", -2),
        ("ldap://other/dc=example,dc=com", -2),
        ("http://main/dc=example,dc=com", -2),
        ("ldap://main/no name at all??one?(uid=alice)", -2),
        ("", -2),
    ],
)
@in_loop
async def test_urls(slapd: SlapdServer, tmp_path: Path, url: str, found: int) -> None:
    async with House(tmp_path, session(slapd)) as house:
        assert await house.search(f"{PEOPLE}??one?(uid=bob)") == 1
        assert await house.search(url) == found
        if found < 0:
            assert house.values("sn") == (-2, []), "nothing is left of the search before"


@pytest.mark.parametrize(
    "value",
    ["*", "alice)(uid=*", "*)(|(uid=*", "al%69ce", "%2a", "alice)%28uid=%2a", "\\2a", "a?b", "\0", "ali\0ce", "é"],
)
@in_loop
async def test_nobody_writes_a_filter(slapd: SlapdServer, tmp_path: Path, value: str) -> None:
    """RFC 4515 §3 and RFC 4516 §2.1: a value from a message finds nothing but itself."""
    async with House(tmp_path, session(slapd)) as house:
        assert await house.search(f"{PEOPLE}??one?(uid={escape_filter_url(value)})") == -1
        assert parse_ldap_url(f"ldap://x/?a?sub?(u={escape_filter_url(value)})").filter.count("(") == 1


@in_loop
async def test_an_escaped_value_finds_itself(slapd: SlapdServer, tmp_path: Path) -> None:
    async with House(tmp_path, session(slapd)) as house:
        avp = make_var("x")
        assert house.ldap.ldap_filter_url_encode(house.run, "cn=Bob (the *)", avp) == 1
        assert house.run.vars["x"] == "cn=Bob \\28the \\2a\\29"
        assert await house.search(f"{PEOPLE}??one?({house.run.vars['x']})") == 1


@in_loop
async def test_results_belong_to_their_message(slapd: SlapdServer, tmp_path: Path) -> None:
    async with House(tmp_path, session(slapd)) as house:
        first, second = house.new_run(), house.new_run()
        found = await asyncio.gather(
            house.ldap.ldap_search(first, f"{PEOPLE}??one?(uid=alice)"),
            house.ldap.ldap_search(second, f"{PEOPLE}??one?(uid=bob)"),
        )
        assert found == [1, 1]
        assert house.ldap.values(first, "uid") == ["alice"]
        assert house.ldap.values(second, "uid") == ["bob"]
        assert house.values("uid") == (-2, []), "this one never searched"
        assert house.ldap.ldap_result_check(house.run, "uid", "bob") == -2
        assert house.ldap.ldap_result_next(house.run) == -2
        assert await house.ldap.ldap_search(first, f"{PEOPLE}??one?(uid=nobody)") == -1
        assert house.ldap.values(first, "uid") is None


@in_loop
async def test_accounts(slapd: SlapdServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    account = {"ldap_bind_dn": '"cn=admin,dc=example,dc=com"'}
    async with House(tmp_path, session(slapd, **account, ldap_bind_password="secret ; the password")) as house:
        assert await house.search(f"{PEOPLE}??one?(uid=alice)") == 1
    async with House(tmp_path, session(slapd, **account, ldap_bind_password="geheim")) as house:
        assert await house.search(f"{PEOPLE}??one?(uid=alice)") == -2
    assert "invalidCredentials" in caplog.text
    assert "geheim" not in caplog.text


@pytest.mark.parametrize(
    ("level", "foreign", "found"), [("DEMAND", False, 1), ("DEMAND", True, -2), ("never", True, 1)]
)
@in_loop
async def test_start_tls(
    slapd: SlapdServer, authority: Authority, tmp_path: Path, level: str, foreign: bool, found: int
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    trusted = Authority(folder) if foreign else authority
    own = trusted.issue("client")
    settings = {
        "ldap_ca_cert_file": f'"{trusted.path}"',
        "ldap_cert_file": f'"{own.cert}"',
        "ldap_key_file": f'"{own.key}"',
        "ldap_require_certificate": level,
    }
    async with House(tmp_path, session(slapd, **settings)) as house:
        assert await house.search(f"{PEOPLE}??one?(uid=alice)") == found


@in_loop
async def test_the_next_server_is_asked(slapd: SlapdServer, tmp_path: Path) -> None:
    """A server that is not there, and one that accepts and says nothing: both cost their time-outs and no more."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        text = (
            "[main]\n"
            f'ldap_server_url = "ldap://127.0.0.1:1,\n    ldap://127.0.0.1:{silent.getsockname()[1]}, {slapd.url}"\n'
            "ldap_network_timeout = 1000\nldap_client_bind_timeout = 1000\n"
        )
        async with House(tmp_path, text) as house:
            assert await house.search(f"{PEOPLE}??one?(uid=alice)") == 1


@in_loop
async def test_a_directory_that_dies_and_comes_back(
    slapd: SlapdServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with House(tmp_path, session(slapd), max_async_connections=4) as house:
        times = iter(range(0, 10_000, 10))
        house.ldap._sessions["main"]._now = lambda: float(next(times))
        url = f"{PEOPLE}??one?(uid=alice)"
        assert await asyncio.gather(*(house.ldap.ldap_search(house.new_run(), url) for _ in range(20))) == [1] * 20
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, slapd.kill)
        try:
            assert await house.search(url) == -2
            assert await house.search(url) == -2
        finally:
            await loop.run_in_executor(None, slapd.start)
        assert await asyncio.gather(*(house.ldap.ldap_search(house.new_run(), url) for _ in range(20))) == [1] * 20
    lines = [record.getMessage() for record in caplog.records]
    assert sum("is not available" in line for line in lines) == 1
    assert sum("is available again" in line for line in lines) == 1


@in_loop
async def test_while_it_is_away_nobody_waits(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as silent:
        text = (
            f'[main]\nldap_server_url = "ldap://127.0.0.1:{silent.getsockname()[1]}"\nldap_client_bind_timeout = 100\n'
        )
        async with House(tmp_path, text, max_async_connections=1) as house:
            url = f"{PEOPLE}??one?(uid=alice)"
            assert await house.search(url) == -2
            asked = house.ldap._sessions["main"]
            asked._threads.shutdown()
            assert await house.search(url) == -2, "answered without a thread"


@in_loop
async def test_a_stalled_directory(slapd: SlapdServer, tmp_path: Path) -> None:
    async with House(tmp_path, session(slapd, ldap_client_search_timeout="1500")) as house:
        url = f"{PEOPLE}??one?(uid=alice)"
        assert await house.search(url) == 1
        slapd.signal(signal.SIGSTOP)
        try:
            assert await house.search(url) == -2
        finally:
            slapd.signal(signal.SIGCONT)
        house.ldap._sessions["main"]._away_until = 0.0
        assert await house.search(url) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has no section"),
        ("x = 1\n", "section"),
        ("[a]\n", "section a: ldap_server_url is missing"),
        ("[a]\nldap_server_url = host\n", "a server is ldap://"),
        ("[a]\nldap_server_url = ldap://h\nldap_version = 4\n", "ldap_version is 2 or 3"),
        ("[a]\nldap_server_url = ldap://h\nldap_network_timeout = soon\n", "ldap_network_timeout is a number"),
        ("[a]\nldap_server_url = ldap://h\nldap_require_certificate = perhaps\n", "is one of NEVER"),
        ("[a]\nldap_server_url = ldap://h\nldap_colour = red\n", "unknown setting ldap_colour"),
        ("[a]\nldap_server_url = ldap://h\n[a]\nldap_server_url = ldap://h\n", "already exists"),
    ],
)
@in_loop
async def test_files_that_cannot_be_right(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "ldap.cfg"
    file.write_text(text)
    with pytest.raises(StartError, match=reason):
        await FakeCore().add(Ldap(config_file=str(file))).start()


@in_loop
async def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="No such file"):
        await FakeCore().add(Ldap(config_file=str(tmp_path / "nothing"))).start()


def test_the_file_of_the_manual(tmp_path: Path) -> None:
    file = tmp_path / "ldap.cfg"
    file.write_text(
        "# LDAP session\n[sipaccounts]\n"
        'ldap_server_url = "ldap://h350-1.example.com, ldap://h350-2.example.com"\n'
        'ldap_bind_dn = "cn=sip_proxy,ou=accounts,dc=example,dc=com";\n'
        'ldap_bind_password = "p;w#d"\n'
        "ldap_network_timeout = 500 ; setting TCP timeout to 500 ms\n\n"
        '[campus]\nldap_version = 2\nldap_server_url = "ldap://ldap1.example.com,\n    ldap://ldap2.example.com:80389"\n'
    )
    found = read_settings(file)
    assert found["sipaccounts"].servers == ["ldap://h350-1.example.com", "ldap://h350-2.example.com"]
    assert found["sipaccounts"].bind_dn == "cn=sip_proxy,ou=accounts,dc=example,dc=com"
    assert found["sipaccounts"].bind_password == "p;w#d"
    assert found["sipaccounts"].network_timeout == 500
    assert found["campus"].version == 2
    assert found["campus"].servers == ["ldap://ldap1.example.com", "ldap://ldap2.example.com:80389"]


# --- H.350


@in_loop
async def test_h350_lookups(slapd: SlapdServer, tmp_path: Path) -> None:
    async with House(tmp_path, session(slapd)) as house:
        h350, run = house.h350, house.run
        user, password = make_var("user"), make_var("password")
        assert await h350.h350_auth_lookup(run, "bob", user, password) == 1
        assert (run.vars["user"], run.vars["password"]) == ("bob", "pwd")
        for nobody in ("nobody", "*", "bob)(uid=*", "carol"):
            assert await h350.h350_auth_lookup(run, nobody, user, password) == -2
        assert await h350.h350_sipuri_lookup(run, "sip:+1919123456@alias.example.com") == 1
        assert h350.h350_result_call_preferences(run, "pref_") == 2
        assert run.avps["pref_n"] == ["sip:bob@voicemail.example.com"]
        assert run.avps["pref_n_t"] == [20]
        assert run.avps["pref_b"] == ["sip:bob@voicemail.example.com"]
        assert h350.h350_result_service_level(run, "sl_") == 2
        assert run.avps["sl_long_distance"] == run.avps["sl_900"] == [1]
        assert await h350.h350_sipuri_lookup(run, "sip:*") == -2
        assert h350.h350_result_call_preferences(run, "pref_") == -1


@in_loop
async def test_h350_needs_its_session(slapd: SlapdServer, tmp_path: Path) -> None:
    house = House(tmp_path, session(slapd).replace("[main]", "[other]"))
    with pytest.raises(StartError, match="no session 'main'"):
        await house.__aenter__()
    await house.ldap.stop()
