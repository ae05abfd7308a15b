"""Tables of `uac_registrant`, `sockets_mgm`, `tcp_mgm` and `tls_mgm` under names of an operator's own: the table and
each column has another name, and what a row says is what peers see."""

from __future__ import annotations

import socket
import sqlite3
import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from opensipspy.cli.db import create
from tests.certificates import Authority, Identity
from tests.ports import free_port
from tests.scenarios.functions import Site, way_to
from tests.scenarios.peer import Phone, Received, until
from tests.scenarios.wires import End, StreamWire

pytestmark = pytest.mark.scenario

# module: (the table, its parameter, column -> parameter)
REGISTRANT = (
    "registrar proxy aor third_party_registrant username password binding_URI binding_params expiry forced_socket "
    "cluster_shtag state"
)
TCP = (
    "id proto remote_addr remote_port local_addr local_port priority attrs connect_timeout con_lifetime "
    "msg_read_timeout send_threshold no_new_conn alias_mode keepalive keepcount keepidle keepinterval"
)
TLS = (
    "domain match_ip_address match_sip_domain verify_cert require_cert certificate private_key crl_check_all "
    "crl_dir ca_list ca_dir dh_params ec_curve"
)
TABLES: dict[str, tuple[str, str, dict[str, str]]] = {
    "uac_registrant": ("registrant", "table_name", {name: f"{name}_column" for name in REGISTRANT.split()}),
    "sockets_mgm": (
        "sockets",
        "table_name",
        {name: f"{name}_column" for name in ("socket", "advertised", "tag", "flags", "tos")},
    ),
    "tcp_mgm": ("tcp_mgm", "db_table", {name: f"{name}_col" for name in TCP.split()}),
    "tls_mgm": (
        "tls_mgm",
        "db_table",
        {
            **{name: f"{name}_col" for name in TLS.split()},
            "method": "tls_method_col",
            "cipher_list": "ciphers_list_col",
        },
    ),
}
SCRIPT = """
loadmodule "db_sqlite.so"
loadmodule "tls_openssl.so"
loadmodule "tls_mgm.so"
loadmodule "proto_tls.so"
loadmodule "tcp_mgm.so"
loadmodule "sockets_mgm.so"
loadmodule "uac_auth.so"
loadmodule "uac_registrant.so"
modparam("uac_registrant", "timer_interval", 2)
modparam("uac_registrant", "hash_size", 1)
modparam("uac_registrant", "failure_retry_interval", 1)
modparam("uac_registrant", "default_expires", 77)
modparam("sockets_mgm", "processes", 1)
@names@
route {
	if (is_method("OPTIONS")) {
		sl_send_reply(200, "$socket_in(tag) $tls_my_subject_cn $tls_version $tls_cipher_info");
		exit;
	}
	$du = $hdr(X-To);
	t_relay();
}
"""


def column(name: str) -> str:
    return f"our_{name.lower()}"


class House(Site):
    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.home = self.authority.issue("home.test")
        self.tls = free_port()
        self.database = folder / "tables.sqlite"
        url = f"sqlite:{self.database}"
        create(url, list(TABLES))
        lines = []
        with closing(sqlite3.connect(self.database)) as connection, connection:
            for module, (table, param, columns) in TABLES.items():
                lines += [f'modparam("{module}", "db_url", "{url}")', f'modparam("{module}", "{param}", "my_{table}")']
                connection.execute(f"ALTER TABLE {table} RENAME TO my_{table}")
                connection.execute("UPDATE version SET table_name = ? WHERE table_name = ?", (f"my_{table}", table))
                for name, its_param in columns.items():
                    lines.append(f'modparam("{module}", "{its_param}", "{column(name)}")')
                    connection.execute(f'ALTER TABLE my_{table} RENAME COLUMN "{name}" TO {column(name)}')
        self.insert("tls_mgm", domain="first", match_sip_domain="home.test", **self.serving(self.home))
        super().__init__(
            folder, SCRIPT, sockets=f"socket=tls:127.0.0.1:{self.tls}", names="\n".join(lines)
        )  # fmt: skip

    def serving(self, identity: Identity) -> dict[str, object]:
        """What each server domain of these tests has in common."""
        return {
            "type": 2,
            "certificate": identity.cert_pem,
            "private_key": identity.key_pem,
            "ca_list": self.authority.pem,
            "verify_cert": 0,
            "require_cert": 0,
            "match_ip_address": "*",
        }

    def insert(self, module: str, **values: object) -> None:
        table, _, columns = TABLES[module]
        names = ", ".join(column(name) if name in columns else name for name in values)
        with closing(sqlite3.connect(self.database)) as connection, connection:
            marks = ", ".join("?" for _ in values)
            connection.execute(f"INSERT INTO my_{table} ({names}) VALUES ({marks})", tuple(values.values()))

    def clear(self, module: str) -> None:
        with closing(sqlite3.connect(self.database)) as connection, connection:
            connection.execute(f"DELETE FROM my_{TABLES[module][0]}")

    def dial(self, name: str, *, highest: ssl.TLSVersion | None = None) -> End:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.authority.path)
        if highest is not None:
            context.maximum_version = highest
        made = socket.create_connection(("127.0.0.1", self.tls), 30)
        wire = StreamWire.__new__(StreamWire)
        wire.address = made.getsockname()[:2]
        try:
            wire._socket = context.wrap_socket(made, server_hostname=name)
        except (ssl.SSLError, ConnectionError):
            made.close()
            raise
        wire._buffer = b""
        return End("alice", "tls", wire)

    def asked(self, end: End) -> str:
        """What the server says of a connection."""
        lines = ["From: <sip:a@home.test>;tag=1", "To: <sip:home.test>"]
        end.request("OPTIONS", "sip:home.test", lines, f"ask-{end.wire.address[1]}", 1)
        got = end.receive()
        end.close()
        return got.first


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    made = House(tmp_path_factory.mktemp("tables"))
    yield made
    made.close()


@pytest.fixture
def site(house: House) -> Iterator[House]:
    yield house
    house.hang_up()


def test_a_registration_from_the_table(site: House) -> None:
    """uac_registrant manual: registrar, proxy, AOR, third party, binding with its parameters, expiry, socket and
    credentials are those of the row; a row whose state is 1 rests."""
    registrar = site.phone("registrar")
    proxy = site.phone("proxy")
    row = {
        "registrar": way_to(registrar).replace("registrar@", ""),
        "proxy": way_to(proxy).replace("proxy@", ""),
        "third_party_registrant": "sip:boss@home.test",
        "username": "auth-alice",
        "password": "secret",
        "binding_URI": "sip:alice@127.0.0.1:5",
        "binding_params": ";q=0.5",
        "forced_socket": f"udp:127.0.0.1:{site.port}",
    }
    site.insert("uac_registrant", **row, aor="sip:alice@home.test", expiry=55, state=0)
    site.insert("uac_registrant", **row, aor="sip:resting@home.test", expiry=55, state=1)
    assert site.command("uac_registrant:reload") == "OK"
    first = proxy.expect("REGISTER")
    assert first.request_uri == row["registrar"]
    assert first["To"] == "<sip:alice@home.test>"
    assert first["From"].startswith("<sip:boss@home.test>;tag=")
    assert first["Contact"] == "<sip:alice@127.0.0.1:5>;q=0.5;expires=55"
    assert first.source == ("127.0.0.1", site.port)
    challenge = proxy.reply(first, 401, "Unauthorized").replace(
        "Content-Length", 'WWW-Authenticate: Digest realm="home.test", nonce="n1"\r\nContent-Length'
    )
    proxy.send(challenge)
    second = proxy.expect("REGISTER")
    while second.get("Authorization") == "":
        second = proxy.expect("REGISTER")
    assert 'username="auth-alice"' in second["Authorization"]
    stranger = Phone("auth-alice", site.address, password="secret")
    asked = Received(challenge.encode(), ("", 0))
    wanted = stranger.authorization(asked, "REGISTER", second.request_uri)
    stranger.close()
    assert wanted.partition('response="')[2].strip('"') in second["Authorization"]
    proxy.send(proxy.reply(second, 200).replace(f"Contact: {proxy.contact}", f"Contact: {second['Contact']}"))
    until(lambda: "REGISTERED_STATE" in str(site.command("uac_registrant:list")))
    shown = str(site.command("uac_registrant:list"))
    assert "sip:alice@home.test" in shown
    assert "secret" not in shown
    registrar.expect_nothing(0.1)
    site.clear("uac_registrant")


def test_the_time_that_no_row_gives(site: House) -> None:
    """uac_registrant manual, default_expires: the time of a row that says none."""
    registrar = site.phone("registrar")
    site.insert(
        "uac_registrant",
        registrar=way_to(registrar).replace("registrar@", ""),
        aor="sip:timeless@home.test",
        binding_URI="sip:timeless@127.0.0.1:5",
        state=0,
    )
    assert site.command("uac_registrant:reload") == "OK"
    register = registrar.expect("REGISTER")
    while register["To"] != "<sip:timeless@home.test>":
        register = registrar.expect("REGISTER")
    assert register["Contact"] == "<sip:timeless@127.0.0.1:5>;expires=77"
    registrar.send(registrar.reply(register, 200))
    site.clear("uac_registrant")
    assert site.command("uac_registrant:reload") == "OK"


def test_a_socket_from_the_table(site: House) -> None:
    """sockets_mgm manual: a socket opens while the server runs, shows what it is told to, and closes again."""
    port = free_port()
    site.insert("sockets_mgm", socket=f"udp:127.0.0.1:{port}", advertised="203.0.113.7:5077", tag="late", tos="0x10")
    assert site.command("sockets_mgm:reload") == "OK"
    shown = str(site.command("sockets_mgm:list"))
    assert f"127.0.0.1:{port}" in shown
    assert "203.0.113.7:5077" in shown
    callee = site.phone("callee")
    with closing(Phone("caller", ("127.0.0.1", port))) as caller:
        caller.send(caller.request("OPTIONS", "sip:home.test"))
        assert caller.receive().first.startswith("SIP/2.0 200 late ")
        caller.send(caller.request("MESSAGE", "sip:b@home.test", headers=(f"X-To: {way_to(callee)}",)))
        message = callee.expect("MESSAGE")
        assert message.source == ("127.0.0.1", port)
        assert message.all("Via")[0].startswith("SIP/2.0/UDP 203.0.113.7:5077;")
        callee.send(callee.reply(message, 200))
        # The answer is sent to where the request came from, not to what is advertised.
        site.clear("sockets_mgm")
        assert site.command("sockets_mgm:reload") == "OK"
        assert f"127.0.0.1:{port}" not in str(site.command("sockets_mgm:list"))


def test_connections_by_a_row_of_the_table(site: House) -> None:
    """tcp_mgm manual: no_new_conn forbids to open one, connect_timeout and con_lifetime are a row's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        far = f"sip:127.0.0.1:{port};transport=tcp"
        site.insert("tcp_mgm", proto="tcp", remote_addr="127.0.0.1", remote_port=port, priority=1, no_new_conn=1)
        assert site.command("tcp_mgm:reload") == "OK"
        caller = site.phone("caller")
        text = caller.request("INVITE", "sip:b@home.test", headers=(f"X-To: {far}",))
        caller.send(text)
        final = caller.expect(477, skip=(100,))
        caller.send(caller.ack(final, text))
        listener.settimeout(0.1)
        with pytest.raises(TimeoutError):
            listener.accept()
        site.clear("tcp_mgm")
        site.insert(
            "tcp_mgm", proto="tcp", remote_addr="127.0.0.1", remote_port=port, con_lifetime=1, connect_timeout=500
        )
        assert site.command("tcp_mgm:reload") == "OK"
        caller.send(caller.request("MESSAGE", "sip:b@home.test", headers=(f"X-To: {far}",)))
        listener.settimeout(30)
        made, _ = listener.accept()
        with made:
            made.settimeout(30)
            data = b""
            while piece := made.recv(4096):
                data += piece
        assert data.startswith(b"MESSAGE "), "and closed when its time was over"
    site.clear("tcp_mgm")
    assert site.command("tcp_mgm:reload") == "OK"


def test_domains_of_the_table(site: House) -> None:
    """tls_mgm manual: by name, with versions, ciphers and curves of its own; a reload brings and takes domains."""
    assert site.asked(site.dial("home.test")).split()[2:5] == ["<null>", "home.test", "TLSv1.3"]
    other = site.authority.issue("other.test")
    site.insert(
        "tls_mgm",
        domain="second",
        match_sip_domain="other.test",
        method="TLSv1_2",
        cipher_list="ECDHE-ECDSA-AES128-GCM-SHA256",
        ec_curve="prime256v1",
        **site.serving(other),
    )
    with pytest.raises(ssl.SSLError):
        site.dial("other.test")
    assert site.command("tls_mgm:reload") == "OK"
    told = site.asked(site.dial("other.test")).split()
    assert told[3:] == ["other.test", "TLSv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256"]
    shown = str(site.command("tls_mgm:list"))
    assert "second" in shown
    with closing(sqlite3.connect(site.database)) as connection, connection:
        connection.execute(f"UPDATE my_tls_mgm SET {column('verify_cert')} = 1, {column('require_cert')} = 1")
    assert site.command("tls_mgm:reload") == "OK"
    # TLS 1.2 tells within the handshake that a certificate is needed (RFC 5246 §7.4.6).
    with pytest.raises((ssl.SSLError, ConnectionError)):
        site.dial("other.test", highest=ssl.TLSVersion.TLSv1_2)
