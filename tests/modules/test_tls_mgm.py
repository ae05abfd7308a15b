"""tls_mgm: which domain a connection gets, what is made of the parameters and the table, and what scripts see."""

from __future__ import annotations

import asyncio
import datetime
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from opensipspy.db import Database
from opensipspy.management import MiError
from opensipspy.module import ParamError, StartError
from opensipspy.module.testing import FakeCore, make_run, request
from opensipspy.module.tls import TlsDomain, TlsSession
from opensipspy.modules.tls_mgm import TLS_TABLE, TlsMgm
from opensipspy.modules.tls_mgm.domains import (
    Description,
    DomainError,
    DomainStore,
    addresses,
    make_context,
    versions,
)
from opensipspy.modules.tls_openssl import TlsOpenssl
from opensipspy.modules.tls_wolfssl import TlsWolfssl
from opensipspy.net.tls import TlsError, TlsLayer
from opensipspy.script.run import Run
from opensipspy.sip import Peer
from tests.certificates import Authority, Identity
from tests.modules.databases import database_with


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def home(authority: Authority) -> Identity:
    subject = (
        (NameOID.COUNTRY_NAME, "DE"),
        (NameOID.STATE_OR_PROVINCE_NAME, "Berlin"),
        (NameOID.LOCALITY_NAME, "Mitte"),
        (NameOID.ORGANIZATION_NAME, "Example"),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, "Voice"),
        (NameOID.SERIAL_NUMBER, "0815"),
    )
    others = (x509.RFC822Name("a@home.test"), x509.UniformResourceIdentifier("sip:home.test"))
    return authority.issue("home.test", subject=subject, others=others)


def module(home: Identity | None = None, **more: Any) -> TlsMgm:
    """A module with a server domain `srv` (when there is a certificate) and a client domain `cli`."""
    made = TlsMgm(tls_library="none", **more)
    if home is not None:
        define(made, home, "srv")
    made.set_param("client_domain", "cli")
    return made


def define(made: TlsMgm, identity: Identity, name: str, **attributes: str) -> None:
    made.set_param("server_domain", name)
    made.set_param("certificate", f"[{name}]{identity.cert}")
    made.set_param("private_key", f"[{name}] {identity.key}")
    for attribute, value in attributes.items():
        made.set_param(attribute, f"[{name}]{value}")


def start(made: TlsMgm, **core: Any) -> FakeCore:
    fake = FakeCore(**core)
    fake.add(made)
    asyncio.run(made.start())
    return fake


def shake(server: TlsDomain, client: TlsDomain, name: str = "") -> tuple[TlsLayer, TlsLayer]:
    """Both ends after their handshake. Raises TlsError of the end that refuses."""
    near, far = TlsLayer(client, name), TlsLayer(choose=lambda _: server)
    near.start()
    for _ in range(4):
        far.feed(near.outgoing() or b"")
        near.feed(far.outgoing() or b"")
    return far, near


def test_the_most_specific_name_of_an_address_wins(home: Identity) -> None:
    """match_ip_address, match_sip_domain: names before patterns before *; an exact address shuts out the others."""
    made = module()
    define(made, home, "any")
    define(made, home, "wild", match_sip_domain="*.foo.com, other.com")
    define(made, home, "exact", match_sip_domain="a.foo.com")
    define(made, home, "bare", match_sip_domain="none")
    define(made, home, "there", match_ip_address="10.0.0.1:5061, [2001:db8::1]:5061", match_sip_domain="x.com")
    start(made)

    def found(name: str, address: str = "127.0.0.1") -> str:
        domain = made.store.server_domain(address, 5061, name)
        return domain.name if domain is not None else ""

    assert found("a.foo.com") == found("A.FOO.COM") == "exact"
    assert found("b.foo.com") == found("other.com") == "wild"
    assert found("unknown.com") == found("foo.com") == "any"
    assert found("") == "bare"
    assert found("x.com", "10.0.0.1") == found("x.com", "2001:db8::1") == "there"
    assert found("a.foo.com", "10.0.0.1") == found("", "10.0.0.1") == ""


def test_without_a_name_any_domain_serves(home: Identity) -> None:
    made = module(home)
    start(made)
    domain = made.store.server_domain("127.0.0.1", 5061)
    assert domain is not None
    assert domain.name == "srv"


def test_client_domains_by_destination_by_sip_domain_and_by_name(authority: Authority) -> None:
    made = module()
    for name, attribute, value in (
        ("gw", "match_ip_address", "192.0.2.1:5061"),
        ("atlanta", "match_sip_domain", "atlanta.com"),
    ):
        made.set_param("client_domain", name)
        made.set_param(attribute, f"[{name}]{value}")
    start(made)

    def found(address: str, sip_domain: str = "", name: str = "") -> str:
        domain = made.store.client_domain(address, 5061, sip_domain, name)
        return domain.name if domain is not None else ""

    assert found("192.0.2.1") == "gw"
    assert found("192.0.2.9") == "cli"
    assert found("192.0.2.9", "atlanta.com") == "atlanta"
    assert found("192.0.2.1", "atlanta.com", "cli") == "cli"
    assert found("192.0.2.1", "", "nobody") == ""
    assert made.api().client_context("atlanta").verify_mode is ssl.CERT_REQUIRED
    with pytest.raises(LookupError):
        made.api().client_context("nobody")


@pytest.mark.parametrize(
    ("method", "low", "high"),
    [
        ("SSLv23", None, None),
        ("TLSv1_2", ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2),
        ("tlsv1_3", ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3),
        ("TLSv1-TLSv1_3", ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_3),
        ("TLSv1_2-", ssl.TLSVersion.TLSv1_2, None),
        ("-TLSv1_2", None, ssl.TLSVersion.TLSv1_2),
        ("-", None, None),
    ],
)
def test_methods(method: str, low: ssl.TLSVersion | None, high: ssl.TLSVersion | None) -> None:
    assert versions(method) == (low, high)


def test_old_versions_only_when_asked_for(home: Identity, authority: Authority) -> None:
    plain = Description("plain", server=False)
    assert make_context(plain)[0].minimum_version >= ssl.TLSVersion.TLSv1_2
    old = Description("old", server=False)
    old.method = "TLSv1-"
    assert make_context(old)[0].minimum_version is ssl.TLSVersion.TLSv1
    for method in ("-", "-TLSv1_2"):
        old.method = method
        assert make_context(old)[0].minimum_version is ssl.TLSVersion.MINIMUM_SUPPORTED


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("match_ip_address", "[cli]example.com:5061"),
        ("match_ip_address", "[cli]10.0.0.1"),
        ("match_ip_address", "[cli]10.0.0.1:70000"),
        ("tls_method", "[cli]SSLv2"),
        ("verify_cert", "[cli]yes"),
        ("verify_cert", "1"),
        ("verify_cert", "[cli]"),
        ("ca_list", "[unknown]/x"),
        ("client_domain", "cli"),
        ("server_domain", "cli"),
        ("client_domain", " "),
    ],
)
def test_parameters_that_cannot_be(param: str, value: str) -> None:
    made = module()
    with pytest.raises(ParamError):
        made.set_param(param, value)


@pytest.mark.parametrize(
    ("attribute", "value", "word"),
    [
        ("certificate", "/nonexistent/cert.pem", "No such file"),
        ("ciphers_list", "NOSUCHCIPHER", "ciphers_list"),
        ("ca_list", "/nonexistent/ca.pem", "No such file"),
        ("ca_dir", "/nonexistent", "ca_dir"),
        ("crl_dir", "/nonexistent", "No such file"),
        ("dh_params", "/nonexistent/dh.pem", "No such file"),
        ("ec_curve", "nosuchcurve", "ec_curve"),
    ],
)
def test_a_domain_that_cannot_be_stops_the_start(home: Identity, attribute: str, value: str, word: str) -> None:
    made = module(home)
    made.set_param(attribute, f"[srv]{value}")
    with pytest.raises(StartError, match=word) as failed:
        start(made)
    assert "srv" in str(failed.value)
    assert "PRIVATE" not in str(failed.value)


def test_a_server_needs_a_certificate_and_a_key_without_password(home: Identity, tmp_path: Path) -> None:
    made = module()
    made.set_param("server_domain", "bare")
    with pytest.raises(StartError, match="bare"):
        start(made)
    made = module(home)
    made.set_param("private_key", f"[srv]{home.cert}")
    with pytest.raises(StartError, match="private_key"):
        start(made)


def test_the_library_has_to_be_there(home: Identity) -> None:
    """tls_library: auto wants exactly one of the two modules."""
    for library, loaded, works in (
        ("auto", (), False),
        ("auto", (TlsOpenssl,), True),
        ("auto", (TlsOpenssl, TlsWolfssl), False),
        ("openssl", (TlsOpenssl, TlsWolfssl), True),
        ("wolfssl", (TlsOpenssl,), False),
        ("none", (), True),
        ("gnutls", (), False),
    ):
        core = FakeCore()
        for cls in loaded:
            core.add(cls())
        made = TlsMgm(tls_library=library)
        core.add(made)
        if works:
            asyncio.run(made.start())
        else:
            with pytest.raises((StartError, ParamError)):
                asyncio.run(made.start())


def test_verification_of_clients(home: Identity, authority: Authority, tmp_path: Path) -> None:
    """verify_cert and require_cert: a client's certificate is wanted, checked, or not asked for."""
    stranger = Authority(tmp_path, "Stranger").issue("stranger.test")
    made = module()
    ca = str(authority.path)
    define(made, home, "must", ca_list=ca)
    define(made, home, "may", ca_list=ca, require_cert="0")
    define(made, home, "none", verify_cert="0")
    for name, identity in (("bare", None), ("known", home), ("strange", stranger)):
        made.set_param("client_domain", name)
        made.set_param("ca_list", f"[{name}]{ca}")
        if identity is not None:
            made.set_param("certificate", f"[{name}]{identity.cert}")
            made.set_param("private_key", f"[{name}]{identity.key}")
    start(made)
    domains = {domain.name: domain for domain in made.store.domains}
    results = {}
    for server in ("must", "may", "none"):
        for client in ("bare", "known", "strange"):
            try:
                far, near = shake(domains[server], domains[client])
                results[server, client] = (far.verified, near.verified)
            except TlsError:
                results[server, client] = (False, False)
    assert results == {
        ("must", "bare"): (False, False),
        ("must", "known"): (True, True),
        ("must", "strange"): (False, False),
        ("may", "bare"): (False, True),
        ("may", "known"): (True, True),
        ("may", "strange"): (False, False),
        ("none", "bare"): (False, True),
        ("none", "known"): (False, True),
        ("none", "strange"): (False, True),
    }


def test_expired_and_revoked_certificates(home: Identity, authority: Authority, tmp_path: Path) -> None:
    """crl_dir, crl_check_all: who is on the list is refused, whoever has expired always."""
    expired = authority.issue("expired.test", valid=-datetime.timedelta(hours=1))
    revoked = authority.issue("revoked.test")
    lists = authority.revocations(tmp_path / "crl", revoked)
    made = module()
    for name, identity in (("good", home), ("expired", expired), ("revoked", revoked)):
        define(made, identity, name, verify_cert="0")
    made.set_param("ca_list", f"[cli]{authority.path}")
    made.set_param("crl_dir", f"[cli]{lists}")
    made.set_param("crl_check_all", "[cli]0")
    start(made)
    domains = {domain.name: domain for domain in made.store.domains}
    assert shake(domains["good"], domains["cli"])[1].verified
    with pytest.raises(TlsError, match="expired"):
        shake(domains["expired"], domains["cli"])
    with pytest.raises(TlsError, match="revoked"):
        shake(domains["revoked"], domains["cli"])


def test_versions_ciphers_and_curves_are_kept_to(home: Identity, authority: Authority) -> None:
    made = module()
    define(
        made,
        home,
        "narrow",
        tls_method="TLSv1_2",
        ciphers_list="ECDHE-ECDSA-AES128-GCM-SHA256",
        ec_curve="prime256v1",
        verify_cert="0",
    )
    made.set_param("client_domain", "new")
    made.set_param("tls_method", "[new]TLSv1_3")
    made.set_param("verify_cert", "[new]0")
    made.set_param("verify_cert", "[cli]0")
    start(made)
    domains = {domain.name: domain for domain in made.store.domains}
    far, _ = shake(domains["narrow"], domains["cli"])
    assert far.version == "TLSv1.2"
    assert far.cipher == ("ECDHE-ECDSA-AES128-GCM-SHA256", 128)
    with pytest.raises(TlsError):
        shake(domains["narrow"], domains["new"])


class Session(TlsSession):
    """A connection of which everything is known."""

    def __init__(self, certificate: bytes, domain: TlsDomain, verified: bool = True) -> None:
        self.domain = domain
        self._certificate = certificate
        self._verified = verified

    @property
    def version(self) -> str:
        return "TLSv1.3"

    @property
    def cipher(self) -> tuple[str, int]:
        return "TLS_AES_256_GCM_SHA384", 256

    @property
    def peer_certificate(self) -> bytes:
        return self._certificate

    @property
    def verified(self) -> bool:
        return self._verified


class TlsCore(FakeCore):
    """A core whose messages all came over one TLS connection."""

    session: TlsSession | None = None

    def tls_session(self, peer: Peer) -> TlsSession | None:
        return self.session


@pytest.fixture
def seen(home: Identity) -> tuple[TlsCore, Run]:
    made = module(home)
    core = TlsCore()
    core.add(made)
    asyncio.run(made.start())
    domain = made.store.server_domain("127.0.0.1", 5061)
    assert domain is not None
    core.session = Session(home.certificate.public_bytes(encoding()), domain)
    return core, make_run(request("INVITE", "sip:x@y"), core=core)


def encoding() -> Any:
    from cryptography.hazmat.primitives.serialization import Encoding

    return Encoding.DER


EXPECTED = {
    "version": 2,
    "subject": "/C=DE/ST=Berlin/L=Mitte/O=Example/OU=Voice/serialNumber=0815/CN=home.test",
    "issuer": "/CN=Test Authority",
    "subject_cn": "home.test",
    "issuer_cn": "Test Authority",
    "subject_country": "DE",
    "issuer_country": None,
    "subject_state": "Berlin",
    "issuer_state": None,
    "subject_locality": "Mitte",
    "issuer_locality": None,
    "subject_organization": "Example",
    "issuer_organization": None,
    "subject_unit": "Voice",
    "issuer_unit": None,
    "subject_serial": "0815",
    "san_email": "a@home.test",
    "san_hostname": "home.test",
    "san_uri": "sip:home.test",
    "san_ip": "127.0.0.1",
}


@pytest.mark.parametrize(("name", "value"), EXPECTED.items())
@pytest.mark.parametrize("side", ["peer", "my"])
def test_certificates_are_read(seen: tuple[TlsCore, Run], side: str, name: str, value: object) -> None:
    core, run = seen
    assert core.read(f"$tls_{side}_{name}", run) == value


def test_the_connection_is_described(seen: tuple[TlsCore, Run], home: Identity) -> None:
    core, run = seen
    assert core.read("$tls_version", run) == "TLSv1.3"
    assert core.read("$tls_cipher_info", run) == "TLS_AES_256_GCM_SHA384"
    assert core.read("$tls_cipher_bits", run) == 256
    assert core.read("$tls_description", run) == "TLS_AES_256_GCM_SHA384 TLSv1.3 Enc(256)"
    assert core.read("$tls_peer_serial", run) == str(home.certificate.serial_number)
    until = home.certificate.not_valid_after_utc
    assert core.read("$tls_peer_notAfter", run) == f"{until:%b} {until.day:2d} {until:%H:%M:%S %Y} GMT"
    since = home.certificate.not_valid_before_utc
    assert core.read("$tls_peer_notBefore", run) == f"{since:%b} {since.day:2d} {since:%H:%M:%S %Y} GMT"
    assert [core.read(f"$tls_peer_{name}", run) for name in ("verified", "revoked", "expired", "selfsigned")] == [
        1,
        0,
        0,
        0,
    ]
    assert core.call("is_peer_verified", run) == 1
    core.time = lambda: time.time() + 10 * 86400  # type: ignore[method-assign]
    assert core.read("$tls_peer_expired", run) == 1


def test_nothing_is_known_of_a_peer_without_certificate_or_tls(seen: tuple[TlsCore, Run]) -> None:
    core, run = seen
    assert core.session is not None
    core.session = Session(b"", core.session.domain, verified=False)
    assert core.read("$tls_peer_subject", run) is None
    assert core.read("$tls_my_subject_cn", run) == "home.test"
    assert [core.read(f"$tls_peer_{name}", run) for name in ("verified", "expired", "selfsigned")] == [0, 0, 0]
    assert core.call("is_peer_verified", run) == -1
    core.session = Session(b"nonsense", core.session.domain)
    assert core.read("$tls_peer_subject", run) is None
    core.session = None
    for name in ("version", "cipher_bits", "peer_verified", "my_subject", "description", "peer_revoked"):
        assert core.read(f"$tls_{name}", run) is None
    assert core.call("is_peer_verified", run) == -1


def row(name: str, kind: int, identity: Identity | None, **more: object) -> dict[str, Any]:
    found: dict[str, Any] = {"domain": name, "type": kind, **more}
    if identity is not None:
        found |= {"certificate": identity.cert_pem.encode(), "private_key": identity.key_pem.encode()}
    return found


def test_domains_of_the_table_and_a_reload(home: Identity, authority: Authority, tmp_path: Path) -> None:
    """tls_mgm:reload replaces what the table says and reads files again; a mistake changes nothing."""

    async def scene() -> None:
        async with database_with(TLS_TABLE) as database:
            await fill(database)

    async def fill(database: Database) -> None:
        await database.insert("tls_mgm", row("table", 2, home, match_sip_domain="t.test", ca_list=authority.pem))
        await database.insert("tls_mgm", row("out", 1, None, match_sip_domain="o.test", ca_list=authority.pem))
        made = module(home, db_url="sqlite:///x")
        core = FakeCore(databases={"sqlite:///x": database})
        core.add(made)
        await made.start()
        first = made.store.server_domain("127.0.0.1", 5061, "t.test")
        client = made.store.client_domain("192.0.2.1", 5061, "o.test")
        assert first is not None
        assert client is not None
        assert (first.name, client.name) == ("table", "out")
        # The key came through a file in memory; a handshake shows that it fits.
        assert shake(first, client) is not None if not first.description.verify_cert else True
        listed = await core.mi.call("tls_mgm:list", {})
        assert [entry["name"] for entry in listed["Domains"]] == ["cli", "out", "srv", "table"]
        assert "PRIVATE KEY" not in str(listed)
        fresh = authority.issue("home.test")
        await database.update("tls_mgm", {"certificate": fresh.cert_pem.encode()}, (("domain", "=", "table"),))
        with pytest.raises(MiError) as failed:
            await core.mi.call("tls_mgm:reload", {})
        assert "PRIVATE" not in str(failed.value.data)
        assert made.store.server_domain("127.0.0.1", 5061, "t.test") is first
        await database.update("tls_mgm", {"private_key": fresh.key_pem.encode()}, (("domain", "=", "table"),))
        assert await core.mi.call("tls_reload", {}) == "OK"
        second = made.store.server_domain("127.0.0.1", 5061, "t.test")
        assert second is not None
        assert second.certificate == fresh.cert_pem
        await database.insert("tls_mgm", row("srv", 2, home))
        with pytest.raises(MiError):
            await core.mi.call("tls_mgm:reload", {})

    asyncio.run(scene())


def test_filters_are_read_in_their_forms() -> None:
    assert addresses("*, 10.0.0.1:5061 ,[2001:DB8::1]:5062") == ["*", "10.0.0.1:5061", "2001:db8::1:5062"]
    with pytest.raises(DomainError):
        addresses(", ".join(["10.0.0.1:1"] * 100))


def test_the_names_in_a_certificate_of_a_stranger(home: Identity) -> None:
    """RFC 5280 section 4.1.2: what breaks it is no certificate with names; OpenSSL may let it pass unverified."""
    whole = home.certificate.public_bytes(Encoding.DER)
    names = DomainStore().names
    found = names(whole)
    assert found is not None
    assert found[1] == "/CN=Test Authority"
    assert names(home.cert_pem.encode()) == found
    version = bytes.fromhex("a003020102")
    text = b"\x0c\x0eTest Authority"
    assert whole.count(version) == whole.count(text) == 1
    for broken in (
        whole.replace(version, bytes.fromhex("a003020105")),
        whole.replace(text, b"\x0c\x0e\xff\xffst Authority"),
        whole[:50],
        b"\0" * 50,
        b"-----BEGIN CERTIFICATE-----",
    ):
        assert names(broken) is None
