"""What modules of authentication and of callers' settings answer, row by row, held against the C server where it is.

A row says what this server answers; the C server is expected to answer the same unless the row says what it does, and
a comment why that is not followed. Without OPENSIPS and OPENSIPS_MODULES (see `oracle`) only this server is asked.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backends import FreeradiusServer, SlapdServer
from tests.modules.test_ldap import BASE
from tests.scenarios.oracle import ANYTHING, Site, Twins, answer, challenge_of, digest_hash

pytestmark = pytest.mark.scenario

REALM = "atlanta.com"
ALGORITHMS = ("MD5", "MD5-sess", "SHA-256", "SHA-256-sess", "SHA-512-256", "SHA-512-256-sess")

# --- auth, auth_db


def subscriber(user: str, password: str, domain: str = REALM) -> str:
    hashes = [digest_hash(name, f"{user}:{domain}:{password}") for name in ("MD5", "SHA-256", "SHA-512-256")]
    values = "','".join(text.replace("'", "''") for text in (user, domain, password, *hashes))
    return f"INSERT INTO subscriber(username,domain,password,ha1,ha1_sha256,ha1_sha512t256) VALUES('{values}');\n"


SUBSCRIBERS = (
    subscriber("alice", "wonder") + subscriber("o''brien".replace("''", "'"), "irish") + subscriber("empty", "")
)
AUTH = """
loadmodule "db_sqlite.so"
loadmodule "auth.so"
loadmodule "auth_db.so"
modparam("auth", "nonce_expire", 2)
modparam("auth_db", "db_url", "@DB@")
modparam("auth_db", "calculate_ha1", {calculate})
{column}
modparam("auth_db", "load_credentials", "$avp(home)=domain;$avp(zone)=username")

route {{
    $var(rc) = 0;
    switch ($rU) {{
        case "challenge":
            www_challenge("atlanta.com", "$hdr(X-Qop)", "$hdr(X-Alg)");
            exit;
        case "noqop":
            www_challenge("atlanta.com", , "$hdr(X-Alg)");
            exit;
        case "again":
            www_authorize("atlanta.com", "subscriber");
            www_challenge("atlanta.com", "auth");
            exit;
        case "www":
            www_authorize("atlanta.com", "subscriber");
            $var(rc) = $rc;
            break;
        case "from":
            www_authorize("", "subscriber");
            $var(rc) = $rc;
            break;
        case "used":
            www_authorize("atlanta.com", "subscriber");
            consume_credentials();
            $var(rc) = $rc;
            break;
    }}
    append_to_reply("X-Out: $var(rc) home=$avp(home) zone=$avp(zone) au=$au ar=$ar\\r\\n");
    sl_send_reply(200, "OK");
}}
"""


@pytest.fixture(scope="module", params=[1, 0], ids=["passwords", "hashes"])
def auth(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    column = 'modparam("auth_db", "password_column", "password")' if request.param else ""
    script = AUTH.format(calculate=request.param, column=column)
    folder = tmp_path_factory.mktemp("auth")
    twins = Twins(folder, [], script, ["auth_db"], SUBSCRIBERS)
    yield twins
    twins.stop()


def challenged(site: Site, algorithm: str = "MD5", qop: str = "auth") -> dict[str, str]:
    headers = (f"X-Alg: {algorithm}", f"X-Qop: {qop}")
    return challenge_of(site.ask("REGISTER", "challenge" if qop else "noqop", headers))


def authorized(site: Site, case: str = "www", pause_s: float = 0.0, body: str = "", **how: Any) -> object:
    """What comes of the answer to a fresh challenge: the header X-Out up to the fields, or the status."""
    qop = how.get("qop", "auth")
    offered = how.pop("offered", how.get("algorithm", "MD5"))
    challenge = challenged(site, offered, how.pop("offered_qop", qop))
    time.sleep(pause_s)
    reply = site.ask("REGISTER", case, [answer(challenge, body=body, **how)], body)
    return reply.get("X-Out").partition(" ")[0] or reply.status


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("qop", ["auth", "auth-int", ""])
def test_every_algorithm(auth: Twins, algorithm: str, qop: str) -> None:
    """RFC 7616 §3.4, RFC 8760: each hash, each kind of protection; -2 for a wrong password."""
    if algorithm.endswith("-sess") and not qop:
        pytest.skip("RFC 7616 §3.4.2: -sess has a cnonce, which needs a qop")
    body = "BODY" if qop == "auth-int" else ""
    assert not auth.each(lambda site: authorized(site, algorithm=algorithm, qop=qop, body=body), "1")
    assert not auth.each(lambda site: authorized(site, algorithm=algorithm, qop=qop, password="guess"), "-2")


# what differs in the answer, ours, theirs (None: the same)
ANSWERS: list[tuple[dict[str, Any], object, object | None]] = [
    ({"user": "o'brien", "password": "irish"}, "1", None),
    ({"user": "nobody"}, "-1", None),
    ({"user": "ALICE"}, "-1", None),
    ({"user": "x' or '1'='1"}, "-1", None),
    ({"user": "alice@other.com"}, "-1", None),
    ({"algorithm": "SHA-256", "offered": "MD5"}, "-3", None),
    ({"offered_qop": "auth,auth-int", "qop": "auth-int", "body": "B"}, "1", None),
    ({"offered_qop": "auth", "qop": "auth-int", "body": "B"}, "-3", None),
    ({"realm": "other.com"}, "-4", None),
    ({"nonce": '"abcdef"'}, "-3", None),
    ({"response": '"abcd"'}, "-2", None),
    ({"response": '"' + "0" * 32 + '"'}, "-2", None),
    ({"uri": "sip:other"}, "1", None),
    ({"method": "INVITE"}, "-2", None),
    ({"nc": "00000002"}, "1", None),
    ({"pause_s": 3.1}, "-3", None),
    ({"case": "used"}, "1", None),
]


@pytest.mark.parametrize(("how", "ours", "theirs"), ANSWERS, ids=[str(row[0]) for row in ANSWERS])
def test_answers(auth: Twins, how: dict[str, Any], ours: object, theirs: object | None) -> None:
    """The manual of auth_db: -1 unknown user, -2 wrong password, -3 stale nonce, -4 no credentials."""
    assert not auth.each(lambda site: authorized(site, **dict(how)), ours, theirs)


def test_a_user_with_a_domain(auth: Twins, request: pytest.FixtureRequest) -> None:
    """The hash is over the user name as it was sent, domain and all; a stored one is not."""
    expected = "1" if "passwords" in request.node.name else "-2"
    assert not auth.each(lambda site: authorized(site, user="alice@atlanta.com"), expected)


def test_columns_are_loaded(auth: Twins) -> None:
    def play(site: Site) -> object:
        return site.ask("REGISTER", "www", [answer(challenged(site))])["X-Out"]

    assert not auth.each(play, "1 home=atlanta.com zone=alice au=alice ar=atlanta.com")


def test_a_nonce_is_good_once_and_an_old_one_is_called_stale(auth: Twins) -> None:
    """RFC 7616 §3.3: stale=true says that only the nonce is too old; a wrong password does not get it."""

    def replayed(site: Site) -> object:
        header = answer(challenged(site))
        first = site.ask("REGISTER", "www", [header])["X-Out"].split()[0]
        second = site.ask("REGISTER", "www", [header])["X-Out"].split()[0]
        return first, second, challenge_of(site.ask("REGISTER", "again", [header])).get("stale")

    # The C server looks for replays only from nonce_expire seconds after its start on.
    assert not auth.each(replayed, ("1", "-3", "true"), ANYTHING)

    def expired(site: Site) -> object:
        header = answer(challenged(site))
        time.sleep(3.1)
        return challenge_of(site.ask("REGISTER", "again", [header])).get("stale")

    assert not auth.each(expired, "true")

    def wrong(site: Site) -> object:
        header = answer(challenged(site), password="guess")
        return challenge_of(site.ask("REGISTER", "again", [header])).get("stale")

    assert not auth.each(wrong, None)


@pytest.mark.parametrize(
    ("qop", "offered"), [("auth", "SHA-512-256,SHA-256,MD5"), ("auth-int", "SHA-256"), ("auth", "MD5")]
)
def test_what_is_offered(auth: Twins, qop: str, offered: str) -> None:
    """RFC 8760 §2.4: a challenge for each algorithm, the strongest first; RFC 7616 §3.3 for what is in it."""

    def play(site: Site) -> object:
        reply = site.ask("REGISTER", "challenge", [f"X-Alg: {offered}", f"X-Qop: {qop}"])
        found = []
        for value in reply.all("WWW-Authenticate"):
            reply.headers = [("WWW-Authenticate", value)]
            made = challenge_of(reply)
            found.append((made.get("algorithm", "MD5"), made["realm"], made["qop"]))
        return found

    assert not auth.each(play, [(name, REALM, qop) for name in offered.split(",")])


# --- auth_aka

RAND, AUTN = bytes(range(16)), bytes.fromhex("00112233445566778899aabbccddeeff")
RES, CK, IK = bytes.fromhex("a54211d5e3ba50bf"), "0f" * 16, "f0" * 16
VECTOR = base64.b64encode(RAND + AUTN).decode()
AKA = f"""
loadmodule "auth.so"
loadmodule "auth_aka.so"
modparam("auth_aka", "sync_timeout", 100)

route {{
    $var(rc) = 0;
    switch ($rU) {{
        case "add":
            aka_av_add("sip:alice@127.0.0.1", "alice@ims.test", "{(RAND + AUTN).hex()}", "{RES.hex()}", "{CK}", "{IK}");
            $var(rc) = $rc;
            break;
        case "challenge":
            aka_www_challenge("none", "ims.test", "$hdr(X-Qop)", "$hdr(X-Alg)");
            $var(rc) = $rc;
            if ($var(rc) > 0)
                exit;
            break;
        case "www":
            aka_www_authorize("ims.test");
            $var(rc) = $rc;
            break;
        case "drop":
            aka_av_drop_all("sip:alice@127.0.0.1", "alice@ims.test", $var(count));
            $var(rc) = $var(count);
            break;
    }}
    append_to_reply("X-Out: $var(rc)\\r\\n");
    sl_send_reply(200, "OK");
}}
"""
EMPTY = 'Authorization: Digest username="alice@ims.test", realm="ims.test", uri="sip:x", nonce="", response=""'


@pytest.fixture(scope="module")
def aka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    # The C server starts with an AV manager only, and the one there is needs a library of freeDiameter.
    twins = Twins(tmp_path_factory.mktemp("aka"), [], AKA, with_c=False)
    yield twins
    twins.stop()


def vectored(site: Site, algorithm: str, qop: str = "auth") -> dict[str, str]:
    site.ask("OPTIONS", "add")
    to = "<sip:alice@127.0.0.1>"
    return challenge_of(site.ask("REGISTER", "challenge", [EMPTY, f"X-Qop: {qop}", f"X-Alg: {algorithm}"], to=to))


@pytest.mark.parametrize("algorithm", ["AKAv1-MD5", "AKAv1-MD5-sess", "AKAv1-SHA-256", "AKAv1-SHA-512-256-sess"])
@pytest.mark.parametrize("qop", ["auth", "auth-int"])
def test_aka_vectors(aka: Twins, algorithm: str, qop: str) -> None:
    """RFC 3310 §3.2, §3.3: RAND and AUTN are the nonce, RES the password; a vector is good once."""

    def play(site: Site) -> object:
        challenge = vectored(site, algorithm, qop)
        how: dict[str, Any] = {"user": "alice@ims.test", "qop": qop}
        results = []
        for password in (b"guess", RES, RES):
            header = answer(challenge, password=password, **how)
            reply = site.ask("REGISTER", "www", [header], to="<sip:alice@127.0.0.1>")
            results.append(reply.get("X-Out") or reply.status)
        site.ask("OPTIONS", "drop")
        return challenge["nonce"], challenge["algorithm"], challenge["qop"], results

    assert not aka.each(play, (VECTOR, algorithm, qop, ["-2", "1", "-3"]))


def test_aka_without_a_vector_or_credentials(aka: Twins) -> None:
    """The manual: -2 when no vector could be fetched, -4 without credentials, -3 for a nonce that nobody gave."""

    def play(site: Site) -> object:
        to = "<sip:alice@127.0.0.1>"
        none = site.ask("REGISTER", "www", to=to)["X-Out"]
        unknown = {"realm": "ims.test", "nonce": VECTOR, "algorithm": "AKAv1-MD5"}
        header = answer(unknown, "alice@ims.test", RES)
        return none, site.ask("REGISTER", "www", [header], to=to)["X-Out"]

    assert not aka.each(play, ("-4", "-3"))


# --- auth_jwt


def part(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(claims: dict[str, object], key: str = "secret", header: dict[str, object] | None = None) -> str:
    head = f"{part(header or {'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}"
    return f"{head}.{part(hmac.digest(key.encode(), head.encode(), 'sha256'))}"


JWT = """
loadmodule "db_sqlite.so"
loadmodule "auth_jwt.so"
modparam("auth_jwt", "db_mode", 1)
modparam("auth_jwt", "db_url", "@DB@")

route {
    $var(rc) = 0;
    $avp(text) = "-";
    $avp(user) = "-";
    switch ($rU) {
        case "script":
            jwt_script_authorize("$hdr(X-Token)", "secret", $avp(text));
            $var(rc) = $rc;
            break;
        case "db":
            jwt_db_authorize("$hdr(X-Token)", $avp(text), $avp(user));
            $var(rc) = $rc;
            break;
    }
    append_to_reply("X-Out: $var(rc) $avp(user)\\r\\n");
    sl_send_reply(200, "OK");
}
"""
NOW = int(time.time())
JWT_ROWS = f"""
INSERT INTO jwt_profiles(tag, sip_username) VALUES('one', 'alice'), ('o''b', 'brien'), ('old', 'x');
INSERT INTO jwt_secrets(corresponding_tag, secret, start_ts, end_ts) VALUES
 ('one', 'secret', 0, {NOW + 100000}), ('o''b', 'secret', 0, {NOW + 100000}), ('old', 'secret', 0, {NOW - 1000});
"""


@pytest.fixture(scope="module")
def jwt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    pytest.importorskip("cryptography", reason="needs the extra opensipspy[jwt]")
    twins = Twins(tmp_path_factory.mktemp("jwt"), [], JWT, ["auth_jwt"], JWT_ROWS)
    yield twins
    twins.stop()


TOKENS: list[tuple[str, str, str, object, object | None]] = [
    ("good", "script", token({"a": 1}), "1 -", None),
    ("another key", "script", token({"a": 1}, "guess"), "-1 -", None),
    # RFC 7519 §4.1.4, §4.1.5: such a token is not accepted. The C server takes it.
    ("expired", "script", token({"exp": NOW - 100}), "-1 -", "1 -"),
    ("not yet", "script", token({"nbf": NOW + 10000}), "-1 -", "1 -"),
    ("none", "script", f"{part({'alg': 'none'})}.{part({'a': 1})}.", "-1 -", None),
    ("None", "script", f"{part({'alg': 'None'})}.{part({'a': 1})}.", "-1 -", None),
    ("no token", "script", "nonsense", "-2 -", None),
    ("two dots", "script", "..", "-2 -", None),
    ("signature cut", "script", token({"a": 1})[:-4], "-1 -", None),
    ("by tag", "db", token({"tag": "one"}), "1 alice", None),
    # The C server's statement ends at the quote.
    ("quote in tag", "db", token({"tag": "o'b"}), "1 brien", "-1 -"),
    ("SQL in tag", "db", token({"tag": "x' OR '1'='1"}), "-1 -", None),
    ("secret is over", "db", token({"tag": "old"}), "-1 -", None),
    ("no tag", "db", token({"a": 1}), "-1 -", None),
    ("tag of a number", "db", token({"tag": 7}), "-1 -", None),
]


@pytest.mark.parametrize(
    ("case", "text", "ours", "theirs"), [row[1:] for row in TOKENS], ids=[row[0] for row in TOKENS]
)
def test_tokens(jwt: Twins, case: str, text: str, ours: object, theirs: object | None) -> None:
    """RFC 7519 §7.2, RFC 8725 §2.1: what is signed with the secret, in its time; nothing else."""
    assert not jwt.each(lambda site: site.ask("OPTIONS", case, [f"X-Token: {text}"])["X-Out"], ours, theirs)


# --- peering, auth_aaa, group and aaa_radius, with FreeRADIUS

RADIUS_USERS = """biloxi.com Auth-Type := Accept, Service-Type == Sip-Verify-Destination
\tSIP-AVP += "prh:hash@1"

atlanta.com Auth-Type := Accept, SIP-Request-Hash == "hash@1"
\tSIP-AVP += "prh:checked"

alice@atlanta.com Cleartext-Password := "wonder"
\tSIP-AVP += "tariff:gold"

bob Cleartext-Password := "pin"
\tReply-Message := "premium"
"""
# What radcli's dictionary lacks.
RADCLI = """
$INCLUDE /etc/radcli/dictionary
$INCLUDE /etc/radcli/dictionary.sip
ATTRIBUTE SIP-URI-User 208 string
ATTRIBUTE SIP-From-Tag 206 string
ATTRIBUTE SIP-Call-Id 232 string
ATTRIBUTE SIP-Request-Hash 233 string
ATTRIBUTE SIP-AVP 225 string
ATTRIBUTE User-Password 2 string
ATTRIBUTE Sip-Uri-Host 209 string
ATTRIBUTE Sip-Group 211 string
ATTRIBUTE Digest-Algorithm 1068 string
ATTRIBUTE Digest-Username 1072 string
ATTRIBUTE Digest-Opaque 1073 string
VALUE Service-Type Sip-Session 15
VALUE Service-Type Call-Check 10
VALUE Service-Type Group-Check 12
VALUE Service-Type Sip-Verify-Destination 21
VALUE Service-Type Sip-Verify-Source 22
"""
RADIUS = """
loadmodule "auth.so"
loadmodule "aaa_radius.so"
loadmodule "auth_aaa.so"
loadmodule "peering.so"
modparam("auth_aaa", "aaa_url", "radius:{folder}/@SITE@.conf")
modparam("peering", "aaa_url", "radius:{folder}/@SITE@.conf")
modparam("aaa_radius", "radius_config", "{folder}/@SITE@.conf")
modparam("aaa_radius", "sets", "question = (User-Name=$var(user), User-Password=$var(pin))")
modparam("aaa_radius", "sets", "reply = (Reply-Message=$avp(prh))")

route {{
    $var(rc) = 0;
    $var(what) = $rU;
    $avp(prh) = NULL;
    $avp(tariff) = NULL;
    switch ($var(what)) {{
        case "challenge":
            www_challenge("atlanta.com", "$hdr(X-Qop)", "MD5");
            exit;
        case "www":
            aaa_www_authorize("atlanta.com");
            $var(rc) = $rc;
            break;
        case "destination":
            $ru = "sip:x@" + $hdr(X-Host);
            verify_destination();
            $var(rc) = $rc;
            break;
        case "source":
            $ru = "sip:x@" + $hdr(X-Host);
            verify_source();
            $var(rc) = $rc;
            break;
        case "send":
            $var(user) = $hdr(X-User);
            $var(pin) = $hdr(X-Pin);
            radius_send_auth("question", "reply");
            $var(rc) = $rc;
            break;
    }}
    append_to_reply("X-Out: $var(rc) $avp(prh) $avp(tariff)\\r\\n");
    sl_send_reply(200, "OK");
}}
"""


@pytest.fixture(scope="module")
def radius(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    if FreeradiusServer.programs() is None:
        pytest.skip("FreeRADIUS is missing: apt-get install freeradius")
    server = FreeradiusServer()
    folder = tmp_path_factory.mktemp("radius")
    twins = None
    try:
        server.prepare(RADIUS_USERS)
        server.start()
        ports = f"authserver localhost:{server.port}\nacctserver localhost:{server.acct_port}\n"
        (folder / "servers").write_text("localhost testing123\n127.0.0.1 testing123\n")
        (folder / "dictionary").write_text(RADCLI)
        own = f"{ports}servers {folder}/servers\ndictionary {server.folder}/dictionary\n"
        (folder / "own.conf").write_text(own + "radius_timeout 5\nradius_retries 2\n")
        theirs = f"nas-identifier x\n{ports}servers {folder}/servers\ndictionary {folder}/dictionary\n"
        (folder / "c.conf").write_text(theirs + "radius_timeout 5\nradius_retries 2\nbindaddr *\n")
        twins = Twins(folder, [], RADIUS.format(folder=folder), with_c=Path("/etc/radcli/dictionary").exists())
        yield twins
    finally:
        if twins is not None:
            twins.stop()
        server.stop()


@pytest.mark.parametrize(
    ("case", "headers", "expected"),
    [
        ("destination", ("X-Host: biloxi.com",), "1 hash@1 <null>"),
        ("destination", ("X-Host: stranger.com",), "-1 <null> <null>"),
        ("source", ("X-Host: atlanta.com", "P-Request-Hash: hash@1"), "1 checked <null>"),
        ("source", ("X-Host: atlanta.com", "P-Request-Hash: other"), "-1 <null> <null>"),
        ("source", ("X-Host: atlanta.com",), "-1 <null> <null>"),
        ("send", ("X-User: bob", "X-Pin: pin"), "1 premium <null>"),
        # A refusal brings attributes, too.
        ("send", ("X-User: bob", "X-Pin: guess"), "-2 premium <null>"),
    ],
)
def test_questions_to_radius(radius: Twins, case: str, headers: tuple[str, ...], expected: str) -> None:
    """The manuals of peering and aaa_radius."""
    assert not radius.each(lambda site: site.ask("OPTIONS", case, headers)["X-Out"], expected)


@pytest.mark.parametrize(
    ("how", "expected", "theirs"),
    [
        ({}, "1 <null> gold", None),
        # A refusal is -2 here, as with auth_db; the C server gives -5, as when no RADIUS server answers.
        ({"password": "guess"}, "-2 <null> <null>", "-5 <null> <null>"),
        ({"user": "nobody"}, "-2 <null> <null>", "-5 <null> <null>"),
        ({"realm": "other.com"}, "-4 <null> <null>", None),
        ({"nonce": '"abc"'}, "-3 <null> <null>", None),
    ],
)
def test_digest_with_radius(radius: Twins, how: dict[str, Any], expected: str, theirs: str | None) -> None:
    """The manual of auth_aaa: -3 stale nonce, -4 no credentials."""

    def play(site: Site) -> object:
        challenge = challenge_of(site.ask("REGISTER", "challenge", ["X-Qop: auth"]))
        return site.ask("REGISTER", "www", [answer(challenge, **how)])["X-Out"]

    assert not radius.each(play, expected, theirs)


# --- ldap and h350, with slapd

DIRECTORY = """
loadmodule "ldap.so"
loadmodule "h350.so"
modparam("ldap", "config_file", "{folder}/ldap.cfg")
modparam("h350", "ldap_session", "main")
modparam("h350", "base_dn", "ou=h350,dc=example,dc=com")

route {{
    $var(rc) = 0;
    $avp(a) = NULL;
    $avp(b) = NULL;
    switch ($rU) {{
        case "auth":
            h350_auth_lookup("$hdr(X-What)", $avp(a), $avp(b));
            $var(rc) = $rc;
            break;
        case "uri":
            h350_sipuri_lookup("$hdr(X-What)");
            $var(rc) = $rc;
            if ($var(rc) > 0)
                ldap_result("SIPIdentityUserName", $avp(a));
            break;
        case "preferences":
            h350_sipuri_lookup("$hdr(X-What)");
            h350_result_call_preferences("prefer_");
            $var(rc) = $rc;
            $avp(a) = $avp(prefer_n) + " " + $avp(prefer_n_t);
            $avp(b) = $avp(prefer_b);
            break;
        case "level":
            h350_sipuri_lookup("$hdr(X-What)");
            h350_result_service_level("level_");
            $var(rc) = $rc;
            $avp(a) = $avp(level_long_distance);
            break;
        case "search":
            ldap_search("ldap://main/ou=people,dc=example,dc=com?cn,telephoneNumber?one?$hdr(X-What)");
            $var(rc) = $rc;
            if ($var(rc) > 0) {{
                ldap_result("cn", $avp(a));
                ldap_result("telephoneNumber", $avp(b), , "/^\\+//");
            }}
            break;
    }}
    append_to_reply("X-Out: $var(rc) $avp(a) $avp(b)\\r\\n");
    sl_send_reply(200, "OK");
}}
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    if SlapdServer.programs() is None:
        pytest.skip("slapd is missing: apt-get install slapd")
    server = SlapdServer()
    folder = tmp_path_factory.mktemp("directory")
    twins = None
    try:
        server.prepare(BASE)
        server.start()
        # The C server can bind with a name and a password only.
        login = 'ldap_bind_dn = "cn=admin,dc=example,dc=com"\nldap_bind_password = "secret"\n'
        (folder / "ldap.cfg").write_text(f'[main]\nldap_server_url = "{server.url}"\n{login}')
        has_c = Path(os.environ.get("OPENSIPS_MODULES", ""), "h350.so").exists()
        twins = Twins(folder, [], DIRECTORY.format(folder=folder), with_c=has_c)
        yield twins
    finally:
        if twins is not None:
            twins.stop()
        server.stop()


@pytest.mark.parametrize(
    ("case", "what", "expected"),
    [
        ("auth", "bob", "1 bob pwd"),
        ("auth", "nobody", "-2 <null> <null>"),
        ("auth", "b*", "-2 <null> <null>"),
        ("auth", "bob)(objectClass=*", "-2 <null> <null>"),
        ("uri", "sip:bob@example.com", "1 bob <null>"),
        ("uri", "sip:+1919123456@alias.example.com", "1 bob <null>"),
        ("uri", "sip:*", "-2 <null> <null>"),
        ("preferences", "sip:bob@example.com", "2 sip:bob@voicemail.example.com 20 sip:bob@voicemail.example.com"),
        ("level", "sip:bob@example.com", "2 1 <null>"),
        ("search", "(uid=bob)", "1 Bob (the *) 155500100"),
        ("search", "(uid=nobody)", "-1 <null> <null>"),
        ("search", "(uid=*", "-2 <null> <null>"),
        ("search", "(cn=Bob \\28the \\2a\\29)", "1 Bob (the *) 155500100"),
    ],
)
def test_directories(directory: Twins, case: str, what: str, expected: str) -> None:
    """The manuals of ldap and h350; RFC 4515 §3 for what a name may not do to a filter."""
    assert not directory.each(lambda site: site.ask("OPTIONS", case, [f"X-What: {what}"])["X-Out"], expected)


# --- alias_db, speeddial, userblacklist, domainpolicy

SETTINGS = """
loadmodule "db_sqlite.so"
loadmodule "tm.so"
loadmodule "alias_db.so"
loadmodule "speeddial.so"
loadmodule "userblacklist.so"
loadmodule "domainpolicy.so"
modparam("alias_db", "db_url", "@DB@")
modparam("speeddial", "db_url", "@DB@")
modparam("userblacklist", "db_url", "@DB@")
modparam("userblacklist", "use_domain", 1)
modparam("domainpolicy", "db_url", "@DB@")

route {
    $var(rc) = 0;
    $var(what) = $rU;
    $ru = $hdr(X-Uri);
    switch ($var(what)) {
        case "alias":
            alias_db_lookup("dbaliases");
            $var(rc) = $rc;
            break;
        case "aliasd":
            alias_db_lookup("dbaliases", "d");
            $var(rc) = $rc;
            break;
        case "find":
            alias_db_find("dbaliases", $hdr(X-Uri), $var(found), "r");
            $var(rc) = $rc;
            $ru = "sip:" + $(var(found){uri.user}) + "@x";
            break;
        case "dial":
            sd_lookup("speed_dial", "sip:alice@atlanta.com");
            $var(rc) = $rc;
            break;
        case "user":
            check_user_blacklist("alice", "atlanta.com", "$rU");
            $var(rc) = $rc;
            break;
        case "all":
            check_blacklist("globalblacklist");
            $var(rc) = $rc;
            break;
        case "policy":
            $avp(domainprefix) = $hdr(X-Prefix);
            $avp(domainsuffix) = $hdr(X-Suffix);
            $avp(domainreplacement) = $hdr(X-Replacement);
            $avp(portoverride) = $hdr(X-Port);
            $avp(transportoverride) = $hdr(X-Transport);
            dp_apply_policy();
            $var(rc) = $rc;
            $ru = $du;
            break;
        case "connect":
            dp_can_connect();
            $var(rc) = $rc;
            dp_apply_policy();
            $ru = $du;
            break;
    }
    append_to_reply("X-Out: $var(rc) $ru\\r\\n");
    sl_send_reply(200, "OK");
}
"""
SETTINGS_ROWS = """
INSERT INTO dbaliases(alias_username, alias_domain, username, domain) VALUES
 ('ali', 'atlanta.com', 'alice', 'home.com'), ('ali', 'other.com', 'carol', 'home.com');
INSERT INTO speed_dial(username, domain, sd_username, sd_domain, new_uri, fname, lname, description) VALUES
 ('alice', 'atlanta.com', '22', 'biloxi.com', 'sip:bob@far.com', '', '', ''),
 ('alice', 'atlanta.com', '25', 'biloxi.com', '"X" <sip:bob@far.com>;a=b', '', '', '');
INSERT INTO userblacklist(username, domain, prefix, whitelist) VALUES
 ('alice', 'atlanta.com', '1900', 0), ('alice', 'atlanta.com', '19005', 1);
INSERT INTO globalblacklist(prefix, whitelist, description) VALUES ('0190', 0, ''), ('01905', 1, '');
INSERT INTO domainpolicy(rule, type, att, val, description) VALUES
 ('peer.test', 'dom', 'domainprefix', 'inbound', ''), ('peer.test', 'dom', 'portoverride', '5070', ''),
 ('peer.test', 'dom', 'transportoverride', 'tcp', '');
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    tables = ["alias_db", "speeddial", "userblacklist", "domainpolicy"]
    twins = Twins(tmp_path_factory.mktemp("settings"), [], SETTINGS, tables, SETTINGS_ROWS)
    yield twins
    twins.stop()


SETTINGS_CASES: list[tuple[str, str, tuple[str, ...], str, str | None]] = [
    ("alias", "sip:ali@atlanta.com", (), "1 sip:alice@home.com", None),
    ("alias", "sip:ali@other.com", (), "1 sip:carol@home.com", None),
    ("alias", "sip:zz@atlanta.com", (), "-1 sip:zz@atlanta.com", None),
    ("alias", "sip:x'y@atlanta.com", (), "-1 sip:x'y@atlanta.com", None),
    ("find", "sip:alice@home.com", (), "1 sip:ali@x", None),
    ("dial", "sip:22@biloxi.com", (), "1 sip:bob@far.com", None),
    ("dial", "sip:99@biloxi.com", (), "-1 sip:99@biloxi.com", None),
    # The C server refuses the numbers that its SQLite gives as texts, and allows everything.
    ("user", "sip:1900123@x", (), "-1 sip:1900123@x", "1 sip:1900123@x"),
    ("user", "sip:190051@x", (), "1 sip:190051@x", None),
    ("user", "sip:777@x", (), "1 sip:777@x", None),
    ("all", "sip:0190123@x", (), "-1 sip:0190123@x", "1 sip:0190123@x"),
    ("all", "sip:019051@x", (), "1 sip:019051@x", None),
    ("all", "sip:7@x", (), "1 sip:7@x", None),
    ("policy", "sip:a@b.test", ("X-Prefix: in", "X-Suffix: out"), "1 sip:in.b.test.out", None),
    ("policy", "sip:a@b.test", ("X-Replacement: c.test",), "1 sip:c.test", None),
    ("policy", "sip:a@b.test", ("X-Port: 5070", "X-Transport: tcp"), "1 sip:b.test:5070;transport=tcp", None),
    ("policy", "sip:a@b.test:5099", ("X-Prefix: p",), "1 sip:p.b.test:5099", None),
    ("connect", "sip:a@peer.test", (), "1 sip:inbound.peer.test:5070;transport=tcp", None),
]


@pytest.mark.parametrize(
    ("case", "uri", "headers", "ours", "theirs"),
    SETTINGS_CASES,
    ids=[f"{row[0]} {row[1]} {row[2]}" for row in SETTINGS_CASES],
)
def test_settings_of_callers(
    settings: Twins, case: str, uri: str, headers: tuple[str, ...], ours: str, theirs: str | None
) -> None:
    """The manuals of alias_db, speeddial, userblacklist and domainpolicy."""

    def play(site: Site) -> object:
        return site.ask("OPTIONS", case, [f"X-Uri: {uri}", *headers])["X-Out"]

    assert not settings.each(play, ours, theirs)
