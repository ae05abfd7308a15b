"""ldap and h350 against a real slapd: sessions, searches, results, hostile values, servers that are away or stall."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
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

    async def back(self) -> None:
        """Wait until the directory is available."""
        while not self.ldap._sessions["main"].available:  # noqa: ASYNC110 - it tells a status report only
            await asyncio.sleep(0.02)

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
    [
        "*",
        "alice)(uid=*",
        "*)(|(uid=*",
        "al%69ce",
        "%2a",
        "alice)%28uid=%2a",
        "\\2a",
        "a?b",
        "\0",
        "ali\0ce",
        "é",
        "a\udcffb",
    ],
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
        url = f"{PEOPLE}??one?(uid=alice)"
        assert await asyncio.gather(*(house.ldap.ldap_search(house.new_run(), url) for _ in range(20))) == [1] * 20
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, slapd.kill)
        try:
            assert await house.search(url) == -2
            assert await house.search(url) == -2
        finally:
            await loop.run_in_executor(None, slapd.start)
        await house.back()
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
            asked._search = None  # type: ignore[assignment,method-assign]
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
        await house.back()
        assert await house.search(url) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "cfg:1:1: has no section"),
        ("x = 1\n", r"cfg:1:1: a \[section\] comes first"),
        ("[a]\nldap_server_url = ldap://h\nnonsense\n", "cfg:3:1: this line is no name = value"),
        ("[a]\nldap_server_url = ldap://h\nldap_server_url = ldap://h\n", "cfg:3:1: section a: ldap_server_url is"),
        ("# a\n\n[a]\n", "cfg:3:1: section a: ldap_server_url is missing"),
        ("[b]\nldap_server_url = ldap://h\n[a]\nldap_server_url = host\n", "cfg:4:1: .*a server is ldap://"),
        ("[a]\nldap_server_url = ldap://h\nldap_version = 4\n", "cfg:3:1: .*ldap_version is 2 or 3"),
        ("[a]\nldap_server_url = ldap://h\nldap_network_timeout = soon\n", "ldap_network_timeout is a number"),
        ("[a]\nldap_server_url = ldap://h\nldap_require_certificate = perhaps\n", "is one of NEVER"),
        ("[a]\nldap_server_url = ldap://h\nldap_colour = red\n", "unknown setting ldap_colour"),
        ("[a]\nldap_server_url = ldap://h\n[a]\nldap_server_url = ldap://h\n", "cfg:3:1: section a is there twice"),
    ],
)
@in_loop
async def test_files_that_cannot_be_right(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "ldap.cfg"
    file.write_text(text)
    with pytest.raises(StartError, match=reason):
        await FakeCore().add(Ldap(config_file=str(file))).start()


def test_octets_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "ldap.cfg"
    file.write_bytes(b"[a]\nldap_server_url = ldap://h\nldap_bind_dn = cn=\xff\n")
    with pytest.raises(ValueError, match=r"cfg:3:19: the octet 0xff is no UTF-8"):
        read_settings(file)


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


# --- directories that do not keep to the protocol


def element(tag: int, content: bytes) -> bytes:
    """BER, X.690 §8.1."""
    size = len(content)
    return bytes([tag]) + (bytes([size]) if size < 128 else b"\x84" + size.to_bytes(4, "big")) + content


def message(number: bytes, operation: bytes) -> bytes:
    """RFC 4511 §4.1.1."""
    return element(0x30, number + operation)


def entry(number: bytes, name: bytes, value: bytes) -> bytes:
    """RFC 4511 §4.5.2."""
    attribute = element(0x30, element(4, name) + element(0x31, element(4, value)))
    return message(number, element(0x64, element(4, b"cn=x") + element(0x30, attribute)))


def done(number: bytes, code: int = 0, *, bind: bool = False) -> bytes:
    result = element(0x0A, bytes([code])) + element(4, b"") + element(4, b"")
    return message(number, element(0x61 if bind else 0x65, result))


Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


class Liar:
    """A directory that lets everybody in and answers searches as `answer` likes; `silent` lets nobody in."""

    def __init__(self, answer: Answer, *, silent: bool = False) -> None:
        self.answer = answer
        self.silent = silent
        self.binds = 0
        self.searches = 0

    async def __aenter__(self) -> Liar:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *details: object) -> None:
        self._server.close()

    @property
    def settings(self) -> str:
        return f"[main]\nldap_server_url = ldap://127.0.0.1:{self.port}\n"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readexactly(2)
                size = head[1]
                if size & 0x80:
                    size = int.from_bytes(await reader.readexactly(size & 0x7F), "big")
                body = await reader.readexactly(size)
                number, operation = body[: 2 + body[1]], body[2 + body[1]]
                if operation == 0x60:
                    self.binds += 1
                    if not self.silent:
                        writer.write(done(number, bind=True))
                elif operation == 0x63:
                    self.searches += 1
                    await self.answer(number, writer)
                else:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # it went
        finally:
            writer.close()


async def honest(number: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(entry(number, b"cn", b"Alice") + done(number))


URL = "ldap://main/dc=x?cn?sub?(uid=alice)"


@pytest.mark.parametrize(
    "octets",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x30\x03\x02\x01\x02", b"\x30\x80\x00\x00", bytes(range(256)), b"\x30\x00"],
)
@in_loop
async def test_octets_that_are_no_ldap(tmp_path: Path, octets: bytes) -> None:
    async def garbage(number: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(octets)

    async with Liar(garbage) as liar, House(tmp_path, f"{liar.settings}ldap_client_search_timeout = 500\n") as house:
        assert await house.search(URL) == -2
        liar.answer = honest
        await house.back()
        assert await house.search(URL) == 1
        assert house.values("cn") == (1, ["Alice"])


@in_loop
async def test_a_connection_that_ends_in_mid_result(tmp_path: Path) -> None:
    async def half(number: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(entry(number, b"cn", b"Mallory") + done(number)[:4])
        writer.close()

    async with Liar(half) as liar, House(tmp_path, liar.settings) as house:
        assert await house.search(URL) == -2
        assert house.values("cn") == (-2, [])


@in_loop
async def test_a_late_answer_is_nobodys(tmp_path: Path) -> None:
    async def late(number: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.6)
        writer.write(entry(number, b"cn", b"Mallory") + done(number))

    settings = "ldap_client_search_timeout = 300\n"
    async with Liar(late) as liar, House(tmp_path, liar.settings + settings, max_async_connections=1) as house:
        assert await house.search(URL) == -2
        liar.answer = honest
        await house.back()
        await asyncio.sleep(0.5)
        assert await house.search(URL) == 1
        assert house.values("cn") == (1, ["Alice"])


@in_loop
async def test_an_answer_that_drips(tmp_path: Path) -> None:
    """An octet now and then does not keep a search alive beyond its time."""

    async def drip(number: bytes, writer: asyncio.StreamWriter) -> None:
        for octet in entry(number, b"cn", b"x" * 1000):
            writer.write(bytes([octet]))
            await asyncio.sleep(0.05)

    async with Liar(drip) as liar, House(tmp_path, f"{liar.settings}ldap_client_search_timeout = 400\n") as house:
        async with asyncio.timeout(20):  # the answer takes 50 s
            assert await house.search(URL) == -2


@in_loop
async def test_an_answer_without_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def flood(number: bytes, writer: asyncio.StreamWriter) -> None:
        piece = entry(number, b"cn", b"x" * 1_000_000)
        while True:
            writer.write(piece)
            await writer.drain()

    async with Liar(flood) as liar, House(tmp_path, f"{liar.settings}ldap_client_search_timeout = 60000\n") as house:
        assert await house.search(URL) == -2
        liar.answer = honest
        assert await house.search(URL) == 1, "the directory is there all the same"
    assert "octets" in caplog.text


@in_loop
async def test_large_and_binary_values(tmp_path: Path) -> None:
    value = bytes(range(256)) * 40_000

    async def large(number: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(entry(number, b"jpegPhoto", value) + done(number))

    async with Liar(large) as liar, House(tmp_path, f"{liar.settings}ldap_client_search_timeout = 60000\n") as house:
        assert await house.search(URL) == 1
        count, seen = house.values("jpegPhoto")
        assert count == 1
        assert seen[0].encode("utf-8", "surrogateescape") == value


@in_loop
async def test_referrals_are_not_followed(tmp_path: Path) -> None:
    """RFC 4511 §4.5.3: a reference among the entries is passed over; §4.1.10: a referral is a failure."""
    async with Liar(honest) as other:

        async def refer(number: bytes, writer: asyncio.StreamWriter) -> None:
            url = f"ldap://127.0.0.1:{other.port}/dc=x".encode()
            writer.write(message(number, element(0x73, element(4, url))) + entry(number, b"cn", b"A") + done(number))

        async def elsewhere(number: bytes, writer: asyncio.StreamWriter) -> None:
            result = element(0x0A, b"\x0a") + element(4, b"") + element(4, b"")
            url = f"ldap://127.0.0.1:{other.port}/dc=x".encode()
            writer.write(message(number, element(0x65, result + element(0xA3, element(4, url)))))

        async with Liar(refer) as liar, House(tmp_path, liar.settings) as house:
            assert await house.search(URL) == 1
            liar.answer = elsewhere
            assert await house.search(URL) == -2
            liar.answer = honest
            assert await house.search(URL) == 1
        assert other.binds == 0


@pytest.mark.parametrize(
    "filter_text",
    [
        "(uid=\udcff)",
        "(" * 3000,
        "(!" * 2000 + "(a=b)" + ")" * 2000,
        "(&)(|)",
        "(=)",
        "(a:=",
        "\0",
        "(\udcff=x)",
        "(a=\\zz)",
    ],
)
@in_loop
async def test_a_malformed_search_is_no_outage(slapd: SlapdServer, tmp_path: Path, filter_text: str) -> None:
    """Whoever gets something odd into a search does not cut others off."""
    async with House(tmp_path, session(slapd)) as house:
        ldap = house.ldap
        assert await ldap.search(house.run, "main", "dc=example,dc=com", "sub", filter_text) in (-1, -2)
        assert await ldap.search(house.run, "main", "uid=\udcff,,=", "sub", "(uid=alice)") == -2
        assert await ldap.search(house.run, "main", "dc=example,dc=com", "sub", "(uid=alice)", ["\udcff"]) == -2
        assert ldap._sessions["main"].available
        assert await house.search(f"{PEOPLE}??one?(uid=alice)") == 1


@in_loop
async def test_a_short_stall_loses_no_search(tmp_path: Path) -> None:
    """While one connection waits for its answer, others that cannot even be opened wait as long."""
    gate = asyncio.Event()

    async def stalled(number: bytes, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        await honest(number, writer)

    settings = "ldap_client_bind_timeout = 100\nldap_client_search_timeout = 20000\n"
    async with Liar(honest) as liar, House(tmp_path, liar.settings + settings) as house:
        assert await house.search(URL) == 1
        liar.answer, liar.silent = stalled, True
        searches = [asyncio.ensure_future(house.ldap.ldap_search(house.new_run(), URL)) for _ in range(5)]
        while liar.binds < 10:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        liar.silent = False
        gate.set()
        assert await asyncio.gather(*searches) == [1] * 5


@in_loop
async def test_a_pattern_that_takes_for_ever(tmp_path: Path) -> None:
    async def values(number: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(entry(number, b"cn", b"a" * 5000 + b"!") + done(number))

    async with Liar(values) as liar, House(tmp_path, liar.settings) as house:
        assert await house.search(URL) == 1
        assert house.values("cn", None, "/^(a+)+$/x/") == (-1, [])


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
