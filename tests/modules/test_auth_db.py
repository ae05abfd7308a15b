"""auth_db: passwords, and who may use which URI, from tables."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any

import pytest

from opensipspy import sip
from opensipspy.module import ParamError
from opensipspy.module.testing import FakeCore, make_run, make_var, request
from opensipspy.modules.auth import Auth
from opensipspy.modules.auth_db import AuthDb
from opensipspy.script.run import Run
from tests.modules.memory_database import MemoryDatabase

REALM = "example.com"
URL = "sqlite:test"
PASSWORD = "zanzibar"


def hashed(user: str, algorithm: str) -> str:
    return sip.digest.ha1(user, REALM, PASSWORD, algorithm)


def subscriber(user: str, domain: str = REALM, **more: Any) -> dict[str, Any]:
    return {
        "username": user,
        "domain": domain,
        "password": PASSWORD,
        "ha1": hashed(user, "MD5"),
        "ha1_sha256": hashed(user, "SHA-256"),
        "ha1_sha512t256": hashed(user, "SHA-512-256"),
        **more,
    }


def loaded(**params: Any) -> tuple[FakeCore, MemoryDatabase]:
    database = MemoryDatabase(
        {
            "subscriber": [subscriber("alice", rpid="+441", email=None, flags=7), subscriber("bob", "other.example")],
            "uri": [{"username": "alice", "domain": REALM, "uri_user": "sales"}],
        },
        subscriber=8,
        uri=2,
    )
    core = FakeCore(databases={URL: database})
    for module in (core.add(Auth(rpid_avp="")), core.add(AuthDb(**{"db_url": URL, **params}))):
        asyncio.run(module.start())
    return core, database


def answer(
    core: FakeCore,
    password: str = PASSWORD,
    *,
    user: str = "alice",
    algorithm: str = "MD5",
    to: str = "<sip:alice@example.com>",
    proxy: bool = False,
    realm: str = REALM,
) -> Run:
    """A request with the response to a fresh challenge."""
    fixup = core.catalogue.functions["www_challenge"].params[2].fixup
    assert fixup is not None
    core.call("www_challenge", make_run(request(), core=core), realm, 1, fixup(algorithm))
    challenge = sip.parse_credentials(core.replies[-1].headers.strip().partition(": ")[2])
    credentials = sip.Credentials()
    credentials.username, credentials.realm, credentials.nonce = user, challenge.realm, challenge.nonce
    credentials.uri, credentials.algorithm = "sip:example.com", algorithm
    credentials.qop, credentials.nc, credentials.cnonce = "auth", "00000001", "xyz"
    ha1 = sip.digest.ha1(user, challenge.realm, password, algorithm)
    method = "INVITE" if proxy else "REGISTER"
    credentials.response = sip.digest.response(
        ha1, method, credentials.uri, credentials.nonce, "auth", credentials.nc, credentials.cnonce, algorithm
    )
    header = "Proxy-Authorization" if proxy else "Authorization"
    line = f"{header}: {sip.digest.authorization(credentials)}"
    text = request(method, "sip:example.com", to=to, from_="<sip:alice@example.com>;tag=1", headers=line)
    return make_run(text, core=core)


def call(core: FakeCore, function: str, run: Run, *args: Any) -> int:
    async def inside() -> int:
        result: int | Awaitable[int] = core.call(function, run, *args)
        return result if isinstance(result, int) else await result

    return asyncio.run(inside())


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256", "SHA-512-256", "SHA-512-256-sess"])
@pytest.mark.parametrize("plain", [False, True], ids=["hashes", "passwords"])
def test_the_right_password_is_let_in(algorithm: str, plain: bool) -> None:
    """RFC 8760: the column fits the algorithm; with calculate_ha1 one plain password serves all."""
    params = {"calculate_ha1": 1, "password_column": "password"} if plain else {}
    core, _ = loaded(**params)
    assert call(core, "www_authorize", answer(core, algorithm=algorithm), "", "subscriber") == 1
    assert call(core, "proxy_authorize", answer(core, algorithm=algorithm, proxy=True), "", "subscriber") == 1


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256", "SHA-512-256"])
def test_a_wrong_password_is_not(algorithm: str) -> None:
    """The manual: -2 for a valid user with a wrong password."""
    core, _ = loaded()
    assert call(core, "www_authorize", answer(core, "wrong", algorithm=algorithm), "", "subscriber") == -2


def test_an_unknown_user() -> None:
    """The manual: -1 when the authentication user does not exist, in this domain."""
    core, _ = loaded()
    assert call(core, "www_authorize", answer(core, user="carol"), "", "subscriber") == -1
    assert call(core, "www_authorize", answer(core, user="bob"), "", "subscriber") == -1


def test_without_domains_the_user_is_enough() -> None:
    """use_domain=0: one name space for all domains."""
    core, _ = loaded(use_domain=0)
    assert call(core, "www_authorize", answer(core, user="bob"), "", "subscriber") == 1


@pytest.mark.parametrize("empty", ["", None])
def test_a_missing_hash_lets_nobody_in(empty: str | None) -> None:
    """A subscriber without a hash for the algorithm has no password that fits."""
    core, database = loaded()
    database.tables["subscriber"][0]["ha1_sha256"] = empty
    assert call(core, "www_authorize", answer(core, algorithm="SHA-256"), "", "subscriber") == -2


def test_no_credentials_and_a_stale_nonce() -> None:
    """The manual: -4 and -3; the database is not asked."""
    core, database = loaded()
    assert call(core, "www_authorize", make_run(request("REGISTER"), core=core), "", "subscriber") == -4
    run = answer(core)
    core.advance(60)
    assert call(core, "www_authorize", run, REALM, "subscriber") == -3
    assert database.asked == []


def test_a_database_that_is_away(caplog: pytest.LogCaptureFixture) -> None:
    """-5 while it is away, told once; 1 when it is back."""
    core, database = loaded()
    database.away = True
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert call(core, "www_authorize", answer(core), "", "subscriber") == -5
    assert caplog.text.count("not available") == 1
    database.away = False
    assert call(core, "www_authorize", answer(core), "", "subscriber") == 1


def test_a_table_of_another_layout() -> None:
    """skip_version_check: the version of a table counts unless the operator says it does not."""
    core, database = loaded()
    database.versions["subscriber"] = 5
    assert call(core, "www_authorize", answer(core), "", "subscriber") == -5
    core, database = loaded(skip_version_check=1)
    database.versions.clear()
    assert call(core, "www_authorize", answer(core), "", "subscriber") == 1
    assert call(core, "www_authorize", answer(core), "", "nowhere") == -5


def test_tables_that_the_script_names_are_looked_at_when_the_server_starts(caplog: pytest.LogCaptureFixture) -> None:
    """The log says what to run before the first phone is refused; the server serves what it can."""
    database = MemoryDatabase({"old": []}, old=7, uri=2)
    core = FakeCore(databases={URL: database})
    core.add(Auth(rpid_avp=""))
    module = core.add(AuthDb(db_url=URL))
    for function, place, table in (
        ("www_authorize", 1, "old"),
        ("proxy_authorize", 1, "gone"),
        ("db_get_auth_id", 0, "uri"),
    ):
        fixup = core.catalogue.functions[function].params[place].fixup
        assert fixup is not None
        assert fixup(table) == table

    async def scenario() -> None:
        await module.start()
        await core.settle()

    asyncio.run(scenario())
    assert "table old has version 7, 8 is needed: see `opensipspy db migrate`" in caplog.text
    assert "table gone is not there: see `opensipspy db create`" in caplog.text
    assert len(caplog.records) == 2


def test_columns_are_loaded_into_avps() -> None:
    """load_credentials: $avp(name)=column or column; NULL and "" make no AVP, a wrong password none at all."""
    core, database = loaded(load_credentials="$avp(13)=rpid;email; flags; empty")
    for row in database.tables["subscriber"]:
        row["empty"] = ""
    run = answer(core)
    assert call(core, "www_authorize", run, "", "subscriber") == 1
    assert run.avps == {"13": ["+441"], "flags": [7]}
    run = answer(core, "wrong")
    call(core, "www_authorize", run, "", "subscriber")
    assert run.avps == {}


@pytest.mark.parametrize("text", ["$var(x)=a", "$avp()=a", "=a", "$avp(x)="])
def test_a_broken_list_is_refused(text: str) -> None:
    """A typing error is found at load."""
    with pytest.raises(ParamError, match="load_credentials"):
        AuthDb(load_credentials=text)


@pytest.mark.parametrize(
    ("to", "expected"), [("<sip:sales@example.com>", 1), ("<sip:alice@example.com>", -1), ("<sip:example.com>", -1)]
)
def test_who_may_use_a_uri(to: str, expected: int) -> None:
    """The manual: the uri table says which users the credentials may appear as."""
    core, _ = loaded()
    run = answer(core, to=to)
    assert call(core, "db_is_to_authorized", run, "uri") == -1
    assert call(core, "www_authorize", run, "", "subscriber") == 1
    assert call(core, "db_is_to_authorized", run, "uri") == expected
    assert call(core, "db_is_from_authorized", run, "uri") == -1


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sip:alice@example.com", 1),
        ("sip:alice@example.com;transport=tcp", 1),
        ("sip:alice@other.example", -1),
        ("sip:example.com", -1),
        ("garbage", -1),
        ("sip:al' OR '1'='1@example.com", -1),
    ],
)
def test_whether_a_uri_exists(uri: str, expected: int) -> None:
    """The manual: user and domain are looked up; a URI without user is none."""
    core, _ = loaded()
    assert call(core, "db_does_uri_exist", make_run(request(), core=core), uri, "subscriber") == expected


def test_a_subscriber_is_looked_for_in_the_columns_of_subscribers() -> None:
    """user_column and domain_column are those of subscriber tables, db_does_uri_exist() among their readers."""
    core, database = loaded(user_column="u", domain_column="d", uri_user_column="x", uri_domain_column="y")
    database.tables["subscriber"] = [{"u": "alice", "d": REALM}]
    assert call(core, "db_does_uri_exist", make_run(request(), core=core), "sip:alice@example.com", "subscriber") == 1


def test_the_credentials_of_a_uri() -> None:
    """The manual: user and realm go into two variables."""
    core, database = loaded()
    run = make_run(request(), core=core)
    found = (make_var("user"), make_var("realm"))
    assert call(core, "db_get_auth_id", run, "uri", "sip:sales@example.com", *found) == 1
    assert run.vars == {"user": "alice", "realm": REALM}
    assert call(core, "db_get_auth_id", run, "uri", "sip:nobody@example.com", *found) == -1
    assert call(core, "db_get_auth_id", run, "uri", "sip:", *found) == -1
    database.away = True
    assert call(core, "db_get_auth_id", run, "uri", "sip:sales@example.com", *found) == -1


def test_other_column_names_are_asked_for() -> None:
    """The column parameters: the names in the operator's own table."""
    core, database = loaded(user_column="u", domain_column="d", hash_column_sha256="h")
    database.tables["subscriber"] = [{"u": "alice", "d": REALM, "h": hashed("alice", "SHA-256")}]
    assert call(core, "www_authorize", answer(core, algorithm="SHA-256"), "", "subscriber") == 1
    assert database.asked == [("subscriber", ("h",), (("u", "=", "alice"), ("d", "=", REALM)))]


def test_the_default_database_of_the_script() -> None:
    """db_default_url stands in for db_url."""
    database = MemoryDatabase({"subscriber": [subscriber("alice")]}, subscriber=8)
    core = FakeCore(databases={URL: database}, globals={"db_default_url": URL})
    for module in (core.add(Auth(rpid_avp="")), core.add(AuthDb())):
        asyncio.run(module.start())
    assert call(core, "www_authorize", answer(core), "", "subscriber") == 1
