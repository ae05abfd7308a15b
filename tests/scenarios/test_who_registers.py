"""Phones that register with digest: their passwords are in a table, with FreeRADIUS, and in slapd (H.350)."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from opensipspy.cli import main
from tests.backends import FreeradiusServer, SlapdServer, free_port
from tests.scenarios.oracle import answer, challenge_of, digest_hash
from tests.scenarios.peer import Phone
from tests.scenarios.server import ServerProcess
from tests.scenarios.test_baresip import Baresip

pytestmark = pytest.mark.scenario

REALM = "127.0.0.1"
PASSWORD = "zanzibar"
RADIUS_USERS = f'radio@{REALM} Cleartext-Password := "{PASSWORD}"\n'
DIRECTORY = f"""dn: dc=example,dc=com
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: ou=h350,dc=example,dc=com
objectClass: organizationalUnit
ou: h350

dn: commUniqueId=1,ou=h350,dc=example,dc=com
objectClass: commObject
objectClass: SIPIdentity
commUniqueId: 1
SIPIdentityUserName: direct
SIPIdentityPassword: {PASSWORD}
"""
SCRIPT = """
log_level=3
stderror_enabled=yes
socket=udp:127.0.0.1:{port}
loadmodule "proto_udp.so"
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "rr.so"
loadmodule "signaling.so"
loadmodule "sipmsgops.so"
loadmodule "db_sqlite.so"
loadmodule "auth.so"
loadmodule "auth_db.so"
loadmodule "aaa_radius.so"
loadmodule "auth_aaa.so"
loadmodule "ldap.so"
loadmodule "h350.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
modparam("auth_db", "db_url", "sqlite://{folder}/tables.db")
modparam("auth_aaa", "aaa_url", "{radius}")
modparam("ldap", "config_file", "{folder}/ldap.cfg")
modparam("h350", "ldap_session", "main")
modparam("h350", "base_dn", "ou=h350,dc=example,dc=com")
modparam("auth", "username_spec", "$avp(user)")
modparam("auth", "password_spec", "$avp(password)")
modparam("auth", "calculate_ha1", 1)

route {{
    if ($rm != "REGISTER") {{
        sl_send_reply(405, "Only registrations");
        exit;
    }}
    $var(rc) = -1;
    if ($fU == "radio") {{
        aaa_www_authorize("{realm}");
        $var(rc) = $rc;
    }} else if ($fU == "direct") {{
        if (h350_auth_lookup("$au", $avp(user), $avp(password))) {{
            pv_www_authorize("{realm}");
            $var(rc) = $rc;
        }}
    }} else {{
        www_authorize("{realm}", "subscriber");
        $var(rc) = $rc;
    }}
    if ($var(rc) < 0) {{
        if ($fU == "both")
            www_challenge("{realm}", "auth", "SHA-256,MD5");
        else if ($fU == "strong")
            www_challenge("{realm}", "auth", "SHA-256");
        else
            www_challenge("{realm}", "auth", "MD5");
        exit;
    }}
    save("location");
}}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, int]]:
    for made in (FreeradiusServer, SlapdServer):
        if made.programs() is None:
            pytest.skip(f"needs the package {made.package}")
    folder = tmp_path_factory.mktemp("who")
    radius, slapd = FreeradiusServer(), SlapdServer()
    port = free_port()
    assert main.main(["db", "create", "--url", f"sqlite://{folder}/tables.db", "--modules", "auth_db"]) == 0
    connection = sqlite3.connect(folder / "tables.db")
    for user in ("table", "both", "strong"):
        hashes = [digest_hash(name, f"{user}:{REALM}:{PASSWORD}") for name in ("MD5", "SHA-256")]
        connection.execute(
            "INSERT INTO subscriber(username, domain, ha1, ha1_sha256) VALUES(?, ?, ?, ?)", (user, REALM, *hashes)
        )
    connection.commit()
    connection.close()
    running = None
    try:
        radius.prepare(RADIUS_USERS)
        radius.start()
        slapd.prepare(DIRECTORY)
        slapd.start()
        (folder / "ldap.cfg").write_text(f'[main]\nldap_server_url = "{slapd.url}"\n', encoding="utf-8")
        script = folder / "who.cfg"
        script.write_text(SCRIPT.format(port=port, folder=folder, radius=radius.url, realm=REALM), encoding="utf-8")
        running = ServerProcess(script, folder)
        running.start()
        yield running, port
        assert "Traceback" not in running.log_text()
        assert PASSWORD not in running.log_text()
    finally:
        if running is not None:
            running.stop()
        radius.stop()
        slapd.stop()


@pytest.mark.skipif(shutil.which("baresip") is None, reason="baresip is missing: apt-get install baresip-core")
@pytest.mark.parametrize("user", ["table", "radio", "direct"])
def test_baresip_registers(user: str, server: tuple[ServerProcess, int], tmp_path: Path) -> None:
    """RFC 3261 §22 with MD5, the one hash that this baresip knows; and with another password it does not."""
    phone = Baresip(tmp_path, user, PASSWORD, free_port(), f"127.0.0.1:{server[1]}", "udp")
    try:
        phone.start()
        phone.expect("200 OK")
        assert "401 Unauthorized" in phone.shown()
    finally:
        phone.stop()
    (tmp_path / "wrong").mkdir()
    stranger = Baresip(tmp_path / "wrong", user, "guess", free_port(), f"127.0.0.1:{server[1]}", "udp")
    try:
        stranger.start()
        stranger.expect("401 Unauthorized")
        assert "200 OK" not in stranger.shown()
    finally:
        stranger.stop()


@pytest.mark.parametrize(
    ("user", "algorithms"),
    [
        ("table", ["MD5"]),
        ("radio", ["MD5"]),
        ("direct", ["MD5"]),
        ("both", ["SHA-256", "MD5"]),
        ("strong", ["SHA-256"]),
    ],
)
def test_a_phone_registers(user: str, algorithms: list[str], server: tuple[ServerProcess, int]) -> None:
    """RFC 8760 §2.4: of several challenges a phone answers one that it knows, each is as good."""
    phone = Phone(user, ("127.0.0.1", server[1]))
    uri = f"sip:127.0.0.1:{server[1]}"
    try:
        for algorithm in algorithms:
            for password, status in (("guess", 401), (PASSWORD, 200)):
                phone.send(phone.request("REGISTER", uri))
                reply = phone.expect(401)
                offered = reply.all("WWW-Authenticate")
                found = [re.search(r"algorithm=([\w-]+)", value) for value in offered]
                assert [made.group(1) if made else "" for made in found] == algorithms
                reply.headers = [("WWW-Authenticate", offered[algorithms.index(algorithm)])]
                header = answer(challenge_of(reply), user, password, uri=uri, algorithm=algorithm)
                phone.send(phone.request("REGISTER", uri, headers=(header, f"Contact: {phone.contact}")))
                assert phone.receive(20).status == status
    finally:
        phone.close()
