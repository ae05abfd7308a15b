"""RFC 4474: what is signed, what is verified, and what each way to cheat is told."""

from __future__ import annotations

import datetime
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from opensipspy.module import StartError
from opensipspy.module.testing import START_TIME, FakeCore, make_run, request
from opensipspy.modules.identity import Identity, date_seconds, digest_string, file_name, host_fits
from opensipspy.script.run import Run
from opensipspy.sip import build_request
from tests.modules.asynchronous import in_loop

x509 = pytest.importorskip("cryptography.x509")

from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: E402

URI = "https://example.com/cert.pem"
NOW = datetime.datetime.fromtimestamp(START_TIME, datetime.UTC)
YEAR = datetime.timedelta(days=365)
HEADERS = "Contact: <sip:alice@192.0.2.10>\r\nContent-Type: text/plain\r\n"


class Authority:
    """A certificate and its key; without an issuer it is a root."""

    def __init__(self, name: str, issuer: Authority | None = None, *, ca: bool = True, **more: Any) -> None:
        self.key = more.get("key") or rsa.generate_private_key(65537, 2048)
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        signer = issuer or self
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(signer.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(more.get("since", NOW - YEAR))
            .not_valid_after(more.get("until", NOW + YEAR))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
        )
        if more.get("dns"):
            names = [x509.DNSName(name) for name in more["dns"]]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        self.certificate = builder.sign(signer.key, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        return bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def revoke(self, *certificates: Any, until: datetime.datetime = NOW + YEAR) -> bytes:
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.name).last_update(NOW - YEAR)
        for certificate in certificates:
            revoked = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number)
            builder = builder.add_revoked_certificate(revoked.revocation_date(NOW - YEAR).build())
        made = builder.next_update(until).sign(self.key, hashes.SHA256())
        return bytes(made.public_bytes(serialization.Encoding.PEM))


class House:
    """A folder with a root, an end certificate for example.com, and modules that use them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = Authority("root")
        self.end = Authority("example.com", self.root, ca=False)
        form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        self.key_pem = self.end.key.private_bytes(serialization.Encoding.PEM, form, none)
        (folder / "certs").mkdir()

    def write(self, name: str, data: bytes) -> str:
        (self.folder / name).write_bytes(data)
        return str(self.folder / name)

    def publish(self, *chain: Authority) -> None:
        self.write(f"certs/{file_name(URI)}", b"".join(one.pem for one in chain))

    async def module(self, **more: Any) -> FakeCore:
        params: dict[str, Any] = {
            "privKey": self.write("key.pem", self.key_pem),
            "authCert": self.write("end.pem", self.end.pem),
            "certUri": URI,
            "verCert": str(self.folder / "certs"),
            "caList": self.write("roots.pem", self.root.pem),
        } | more
        core = FakeCore()
        await core.add(Identity(**params)).start()
        return core


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> House:
    return House(tmp_path_factory.mktemp("identity"))


@pytest.fixture
def house(made: House) -> House:
    made.publish(made.end)
    return made


def incoming(core: FakeCore, **more: Any) -> Run:
    return make_run(request(headers=more.pop("headers", HEADERS), body=more.pop("body", "hello"), **more), core=core)


def as_sent(run: Run) -> str:
    socket = run.msg.socket
    data = build_request(run.msg, run.edits, run.msg.ruri, "SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bK-o", socket)
    return data.decode()


def signed(core: FakeCore, **more: Any) -> str:
    run = incoming(core, **more)
    assert core.call("authservice", run) == 1
    return as_sent(run)


async def verify(core: FakeCore, text: str) -> int:
    return int(await core.call("verifier", make_run(text, core=core)))


def test_what_is_signed(house: House) -> None:
    """RFC 4474 §9: the digest-string."""
    run = incoming(FakeCore())
    assert digest_string(run.msg, "D") == (
        b"sip:alice@example.com|sip:bob@example.org|call-1@example.com|1 INVITE|D|sip:alice@192.0.2.10|hello"
    )
    bare = make_run(request("BYE"))
    assert digest_string(bare.msg, "D").endswith(b"|1 BYE|D||")


@in_loop
async def test_signed_by_us_and_verified(house: House) -> None:
    core = await house.module()
    text = signed(core)
    assert f"Identity-Info: <{URI}>;alg=rsa-sha1\r\n" in text
    assert f"Date: {formatdate(START_TIME, usegmt=True)}\r\n" in text
    assert await verify(core, text) == 1
    # As OpenSIPS writes it.
    assert await verify(core, text.replace('"\r\nIdentity-Info', '\0"\r\nIdentity-Info')) == 1
    date = f"Date: {formatdate(START_TIME - 500, usegmt=True)}\r\n"
    text = signed(core, headers=HEADERS + date)
    assert text.count("Date:") == 1
    assert await verify(core, text) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\r\n\r\nhello", "\r\n\r\nhallo"),
        ("From: <sip:alice@example.com>", "From: <sip:mallory@example.com>"),
        ("To: <sip:bob@example.org>", "To: <sip:eve@example.org>"),
        ("Call-ID: call-1", "Call-ID: call-2"),
        ("CSeq: 1 INVITE", "CSeq: 2 INVITE"),
        ("sip:alice@192.0.2.10>", "sip:alice@192.0.2.66>"),
        ('Identity: "', 'Identity: "AAAA'),
        ('Identity: "', 'Identity: "!'),
    ],
)
def test_a_changed_message_is_not_the_one_that_was_signed(house: House, old: str, new: str) -> None:
    @in_loop
    async def scenario() -> None:
        core = await house.module()
        text = signed(core)
        assert old in text
        assert await verify(core, text.replace(old, new)) == -438

    scenario()


@in_loop
async def test_headers_that_are_missing_or_odd(house: House) -> None:
    core = await house.module()
    assert await verify(core, request()) == -428
    text = signed(core)
    for info in ("", "<https://example.com/other.pem>", URI, f"<{URI}>;alg=rsa-md5", "<../../etc/passwd>", "<>"):
        other = text.replace(f"<{URI}>;alg=rsa-sha1", info)
        assert await verify(core, other) == -436, info
    assert await verify(core, text.replace(f"<{URI}>;alg=rsa-sha1", f"<{URI}>")) == 1
    assert await verify(core, text.replace('Identity: "', 'Identity: "' + "A" * 5000)) == -1


@in_loop
async def test_certificates_that_nobody_trusts(house: House) -> None:
    core = await house.module()
    text = signed(core)
    key = house.end.key
    other = Authority("root")
    not_ca = Authority("server.example.com", house.root, ca=False)
    for chain in (
        (Authority("example.com", other, ca=False, key=key),),
        (Authority("example.com", other, ca=False, key=key), other),
        (Authority("example.com", house.root, ca=False, key=key, until=NOW - YEAR / 2),),
        (Authority("example.com", house.root, ca=False, key=key, since=NOW + YEAR / 2),),
        (Authority("example.com", not_ca, ca=False, key=key), not_ca),
    ):
        house.publish(*chain)
        assert await verify(core, text) == -437
    house.write(f"certs/{file_name(URI)}", b"nonsense")
    assert await verify(core, text) == -436


@in_loop
async def test_a_chain_with_an_intermediate(house: House) -> None:
    core = await house.module()
    text = signed(core)
    middle = Authority("middle", house.root)
    end = Authority("example.com", middle, ca=False, key=house.end.key)
    house.publish(end, middle)
    assert await verify(core, text) == 1
    house.publish(end)
    assert await verify(core, text) == -437


@in_loop
async def test_the_domain_has_to_be_that_of_the_certificate(house: House) -> None:
    """RFC 4474 §13.4: DNS names first, the common name only without them."""
    core = await house.module()
    text = signed(core)
    for dns, result in ((["example.org"], -2), (["x.org", "EXAMPLE.com"], 1), (["*.com"], 1), (["*.example.com"], -2)):
        house.publish(Authority("example.com", house.root, ca=False, key=house.end.key, dns=dns))
        assert await verify(core, text) == result, dns


@in_loop
async def test_dates(house: House) -> None:
    core = await house.module()
    for offset, result in ((0, 1), (-599, 1), (599, 1), (-600, -2), (600, -2), (-90_000_000, -2)):
        date = f"Date: {formatdate(START_TIME + offset, usegmt=True)}\r\n"
        assert core.call("authservice", incoming(core, headers=HEADERS + date)) == result, offset
    assert core.call("authservice", incoming(core, headers=HEADERS + "Date: yesterday\r\n")) == -1
    text = signed(core)
    core.advance(3600)
    assert await verify(core, text) == 1
    core.advance(2)
    assert await verify(core, text) == -3


@in_loop
async def test_revoked_certificates(house: House) -> None:
    core = await house.module()
    text = signed(core)
    lists = {
        "none": (house.root.revoke(), 1),
        "revoked": (house.root.revoke(house.end.certificate), -437),
        "old": (house.root.revoke(until=NOW - datetime.timedelta(days=1)), -437),
        "of another": (Authority("root").revoke(), -437),
    }
    for name, (data, result) in lists.items():
        core = await house.module(useCrls=1, crlList=house.write("crls.pem", data))
        assert await verify(core, text) == result, name


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"privKey": None, "verCert": None}, "needs privKey"),
        ({"privKey": "/nonexistent"}, "No such file"),
        ({"verCert": "/nonexistent"}, "is no folder"),
        ({"useCrls": 1}, "needs crlList"),
    ],
)
def test_parameters_that_cannot_be(house: House, params: dict[str, Any], text: str) -> None:
    @in_loop
    async def scenario() -> None:
        with pytest.raises(StartError, match=text):
            await house.module(**params)

    scenario()


@in_loop
async def test_a_certificate_of_another_key_or_time_stops_the_start(house: House) -> None:
    with pytest.raises(StartError, match="does not belong to privKey"):
        await house.module(authCert=house.write("other.pem", house.root.pem))
    old = Authority("example.com", house.root, ca=False, key=house.end.key, until=NOW - YEAR / 2)
    with pytest.raises(StartError, match="is not valid now"):
        await house.module(authCert=house.write("old.pem", old.pem))


@in_loop
async def test_only_one_half(house: House) -> None:
    verifying = await house.module(privKey=None)
    assert verifying.call("authservice", incoming(verifying)) == -1
    signing = await house.module(verCert=None)
    assert await verify(signing, signed(signing)) == -1


def test_names_of_files_and_hosts() -> None:
    assert file_name("http://www.test.com/cert.pem") == "http---www.test.com-cert.pem"
    for wrong in ("", ".x", "x" * 300):
        with pytest.raises(ValueError, match="cannot be"):
            file_name(wrong)
    assert host_fits("foo.a.com", "*.a.com")
    assert host_fits("foo.com", "f*.com")
    assert not host_fits("bar.foo.a.com", "*.a.com")
    assert not host_fits("foo.com", "fo?.com")
    assert date_seconds("Tue, 14 Nov 2023 22:13:20 GMT") == START_TIME
    for wrong in ("", "now GMT", "Tue, 14 Nov 2023 22:13:20 +0100", "Tue, 99 Nov 2023 22:13:20 GMT"):
        with pytest.raises(ValueError, match=r"."):
            date_seconds(wrong)
