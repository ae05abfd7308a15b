"""Tokens, keys and secrets: what is valid, and the known ways to cheat (RFC 8725)."""

from __future__ import annotations

import base64
import datetime
import hmac
import json
from pathlib import Path
from typing import Any

import pytest

from opensipspy.module import ParamError
from opensipspy.module.testing import START_TIME, make_var
from opensipspy.modules.auth_jwt import PROFILES, SECRETS, AuthJwt
from tests.modules.memory_database import MemoryDatabase
from tests.modules.tables import URL, House, change, make_tables, play

jwt = pytest.importorskip("jwt")
ec = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec")

from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa  # noqa: E402
from cryptography.x509.oid import NameOID  # noqa: E402

SECRET = "a secret that is long enough for each of the HMAC algorithms, as RFC 7518 wants it"
CLAIMS = {"tag": "gold", "sub": "alice"}


def public_pem(key: Any) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return str(key.public_key().public_bytes(serialization.Encoding.PEM, form).decode())


@pytest.fixture(scope="module")
def rsa_key() -> Any:
    return rsa.generate_private_key(65537, 2048)


def certificate(key: Any) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "example.org")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(2020, 1, 1))
        .not_valid_after(datetime.datetime(2040, 1, 1))
        .sign(key, hashes.SHA256())
    )
    return str(made.public_bytes(serialization.Encoding.PEM).decode())


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


async def check(house: House, token: str, key: str) -> tuple[int, object]:
    house.new()
    result = await house.ask("jwt_script_authorize", token, key, make_var("out"))
    return result, house.run.vars.get("out")


def script(scenario: Any) -> None:
    play(MemoryDatabase({}), AuthJwt, scenario)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_shared_secrets(algorithm: str):
    async def scenario(house: House) -> None:
        token = jwt.encode(CLAIMS, SECRET, algorithm=algorithm)
        shown = '{"alg":"' + algorithm + '","typ":"JWT"}.{"sub":"alice","tag":"gold"}'
        assert await check(house, token, SECRET) == (1, shown)
        assert await check(house, token, SECRET + "x") == (-1, shown)
        assert await check(house, token, "") == (-1, shown)
        assert await check(house, token[:-4] + "AAAA", SECRET) == (-1, shown)

    script(scenario)


def test_public_keys(rsa_key: Any):
    keys: list[tuple[Any, list[str]]] = [
        (rsa_key, ["RS256", "RS384", "RS512", "PS256", "PS512"]),
        (ec.generate_private_key(ec.SECP256R1()), ["ES256"]),
        (ec.generate_private_key(ec.SECP384R1()), ["ES384"]),
        (ec.generate_private_key(ec.SECP521R1()), ["ES512"]),
        (ed25519.Ed25519PrivateKey.generate(), ["EdDSA"]),
    ]

    async def scenario(house: House) -> None:
        for key, algorithms in keys:
            for algorithm in algorithms:
                token = jwt.encode(CLAIMS, key, algorithm=algorithm)
                assert (await check(house, token, public_pem(key)))[0] == 1, algorithm
                for other, _ in keys:
                    if other is not key:
                        assert (await check(house, token, public_pem(other)))[0] == -1, algorithm
        token = jwt.encode(CLAIMS, rsa_key, algorithm="RS256")
        assert (await check(house, token, certificate(rsa_key)))[0] == 1

    script(scenario)


def test_a_public_key_is_no_shared_secret(rsa_key: Any):
    """RFC 8725 §2.1: an HMAC made with the text of the public key is not taken for a signature."""
    pem = public_pem(rsa_key)
    signed = f"{part({'alg': 'HS256'})}.{part(CLAIMS)}"
    mac = base64.urlsafe_b64encode(hmac.digest(pem.encode(), signed.encode(), "sha256")).rstrip(b"=").decode()

    async def scenario(house: House) -> None:
        assert (await check(house, f"{signed}.{mac}", pem))[0] == -1

    script(scenario)


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", None, 5, ["HS256"]])
def test_tokens_without_a_signature_are_never_valid(algorithm: object):
    async def scenario(house: House) -> None:
        for key in (SECRET, ""):
            assert (await check(house, f"{part({'alg': algorithm})}.{part(CLAIMS)}.", key))[0] == -1

    script(scenario)


@pytest.mark.parametrize(
    "token",
    [
        "",
        "a.b",
        "a.b.c",
        "....",
        f"{part([])}.{part(CLAIMS)}.x",
        f"{part({'alg': 'HS256'})}.{part('text')}.AAAA",
        f"{part({'alg': 'HS256', 'crit': ['x']})}.{part(CLAIMS)}.AAAA",
        f"{part({'alg': 'HS256'})}.{part(CLAIMS)}.A A",
        f"{part({'alg': 'HS256'})}.{part(CLAIMS)}.A",
        "x" * 20_000,
        "ü.ü.ü",
        base64.urlsafe_b64encode(b"[" * 9000).decode().rstrip("=") + ".e30.",
        base64.urlsafe_b64encode(b"\xff\xfe").decode().rstrip("=") + ".e30.",
        f"{part({'alg': 'HS256'})}.{part({'tag': chr(0xD800)})}.AAAA",
        f"{part({'alg': chr(0xDFFF)})}.{part(CLAIMS)}.AAAA",
        f"{part({'alg': 'HS256'})}.{part({'exp': float('nan')})}.AAAA",
        f"{part({'alg': 'HS256'})}.{part({'exp': float('inf')})}.AAAA",
        f"{part({'alg': 'HS256'})}." + base64.urlsafe_b64encode(b'{"exp":1e999}').decode().rstrip("=") + ".AAAA",
        f"{part({'alg': 'HS256'})}." + base64.urlsafe_b64encode(b'{"exp":%s}' % (b"9" * 5000)).decode() + ".AAAA",
        f"{part({'alg': 'HS256'})}.{part({'a' * 9000: 'b' * 9000})}.AAAA",
    ],
)
def test_what_is_no_token(token: str):
    async def scenario(house: House) -> None:
        assert await check(house, token, SECRET) == (-2, None)

    script(scenario)


@pytest.mark.parametrize(
    ("claims", "result"),
    [
        ({"exp": START_TIME + 10}, 1),
        ({"exp": START_TIME}, -1),
        ({"nbf": START_TIME + 1}, -1),
        ({"nbf": START_TIME}, 1),
        ({"exp": "tomorrow"}, -1),
        ({"exp": True}, -1),
    ],
)
def test_times(claims: dict[str, object], result: int):
    """RFC 7519 §4.1.4 and §4.1.5."""

    async def scenario(house: House) -> None:
        signed = f"{part({'alg': 'HS256'})}.{part(claims)}"
        mac = base64.urlsafe_b64encode(hmac.digest(SECRET.encode(), signed.encode(), "sha256")).rstrip(b"=").decode()
        assert (await check(house, f"{signed}.{mac}", SECRET))[0] == result

    script(scenario)


def test_keys_that_are_none(rsa_key: Any, caplog: pytest.LogCaptureFixture):
    token = jwt.encode(CLAIMS, SECRET, algorithm="HS256")
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    private = rsa_key.private_bytes(serialization.Encoding.PEM, form, none).decode()

    async def scenario(house: House) -> None:
        for key in ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", private, "x" * 20_000):
            assert (await check(house, token, key))[0] == -1

    script(scenario)
    assert "AAAA" not in caplog.text
    assert private[50:80] not in caplog.text


def test_keys_from_certificates_and_numbers(rsa_key: Any):
    numbers = rsa_key.public_key().public_numbers()

    def b64(number: int) -> str:
        data = number.to_bytes((number.bit_length() + 7) // 8, "big")
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    async def scenario(house: House) -> None:
        out = make_var("out")
        house.new()
        assert await house.ask("extract_pub_key_from_cert", certificate(rsa_key), out) == 1
        assert house.run.vars["out"] == public_pem(rsa_key)
        house.new()
        assert await house.ask("extract_pub_key_from_exp_mod", b64(numbers.e), b64(numbers.n), out) == 1
        assert house.run.vars["out"] == public_pem(rsa_key)
        house.new()
        for wrong in ("", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"):
            assert await house.ask("extract_pub_key_from_cert", wrong, out) == -1
        for e, n in (("", ""), ("AQAB", ""), ("AQAB", "A+A="), ("AQAB", "A" * 9000), ("A" * 20, b64(numbers.n))):
            assert await house.ask("extract_pub_key_from_exp_mod", e, n, out) == -1
        assert "out" not in house.run.vars

    script(scenario)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "jwt.sqlite"
    make_tables(path, PROFILES, SECRETS)
    change(path, "ALTER TABLE jwt_profiles ADD COLUMN plan")
    change(
        path,
        "INSERT INTO jwt_profiles (tag, sip_username, plan) VALUES (?, ?, ?)",
        [("gold", "alice", "premium"), ("old", "bob", None)],
    )
    now = int(START_TIME)
    change(
        path,
        "INSERT INTO jwt_secrets (corresponding_tag, secret, start_ts, end_ts) VALUES (?, ?, ?, ?)",
        [
            ("gold", SECRET + "1", now - 100, now),
            ("gold", SECRET + "2", now - 10, now + 100),
            ("gold", SECRET + "3", now, now + 1000),
            ("gold", SECRET + "4", now + 1, now + 1000),
            ("old", SECRET + "5", 0, now - 1),
        ],
    )
    return path


@pytest.mark.parametrize(
    ("claims", "secret", "result"),
    [
        (CLAIMS, "1", -1),
        (CLAIMS, "2", 1),
        (CLAIMS, "3", 1),
        (CLAIMS, "4", -1),
        ({"tag": "old"}, "5", -1),
        ({"tag": "nobody"}, "2", -1),
        ({"tag": "gold' OR '1'='1"}, "2", -1),
        ({"tag": 5}, "2", -1),
        ({"tag": "x" * 200}, "2", -1),
        ({}, "2", -1),
    ],
)
def test_secrets_of_the_database_in_their_time(table: Path, claims: dict[str, Any], secret: str, result: int):
    async def scenario(house: House) -> None:
        house.new()
        token = jwt.encode(claims, SECRET + secret, algorithm="HS256")
        assert await house.ask("jwt_db_authorize", token, make_var("out"), make_var("user")) == result
        assert house.run.vars.get("user") == ("alice" if result == 1 else None)
        assert house.run.avps == ({"kind": ["premium"]} if result == 1 else {})

    play(table, lambda: AuthJwt(db_mode=1, db_url=URL, load_credentials="$avp(kind)=plan"), scenario)


def test_a_secret_that_is_replaced_counts_at_once(table: Path):
    async def scenario(house: House) -> None:
        token = jwt.encode(CLAIMS, "another secret that is long enough for the algorithm", algorithm="HS256")
        house.new()
        assert await house.ask("jwt_db_authorize", token, make_var("out"), make_var("user")) == -1
        change(table, "UPDATE jwt_secrets SET secret = 'another secret that is long enough for the algorithm'")
        assert await house.ask("jwt_db_authorize", token, make_var("out"), make_var("user")) == 1
        change(table, "DELETE FROM jwt_secrets")
        assert await house.ask("jwt_db_authorize", token, make_var("out"), make_var("user")) == -1

    play(table, lambda: AuthJwt(db_mode=1, db_url=URL), scenario)


def test_without_a_database_nobody_is_found(caplog: pytest.LogCaptureFixture):
    database = MemoryDatabase({}, jwt_profiles=1, jwt_secrets=1)
    database.away = True

    async def scenario(house: House) -> None:
        house.new()
        token = jwt.encode(CLAIMS, SECRET, algorithm="HS256")
        assert await house.ask("jwt_db_authorize", token, make_var("out"), make_var("user")) == -1

    play(database, lambda: AuthJwt(db_mode=1, db_url=URL), scenario)
    script(scenario)
    assert any("needs db_mode=1" in m for m in caplog.messages)


def test_credentials_to_load():
    with pytest.raises(ParamError):
        AuthJwt(load_credentials="$var(x)=y")
