"""Every variable of `tls_mgm`, and the parameters of `tls_mgm`, `proto_tls`, `proto_ws` and `proto_wss` that other
scenarios leave at their defaults, with openssl s_client, openssl s_server and plain sockets as peers."""

from __future__ import annotations

import datetime
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from tests.certificates import Authority, Identity
from tests.ports import free_port
from tests.scenarios.functions import Site
from tests.scenarios.peer import Received, until

pytestmark = pytest.mark.scenario

SUBJECT = (
    (NameOID.COUNTRY_NAME, "DE"),
    (NameOID.STATE_OR_PROVINCE_NAME, "Berlin"),
    (NameOID.LOCALITY_NAME, "Mitte"),
    (NameOID.ORGANIZATION_NAME, "Example"),
    (NameOID.ORGANIZATIONAL_UNIT_NAME, "Voice"),
)
PARTS = {"country": "DE", "state": "Berlin", "locality": "Mitte", "organization": "Example", "unit": "Voice"}
CERTIFICATE = (
    "version serial subject issuer subject_cn issuer_cn subject_serial san_email san_hostname san_uri san_ip "
    + " ".join(f"{whose}_{part}" for whose in ("subject", "issuer") for part in PARTS)
).split()
OF_PEER = (*CERTIFICATE, "verified", "revoked", "expired", "selfsigned", "notBefore", "notAfter")
CONNECTION = ("cipher_info", "cipher_bits", "description", "version")
NAMES = (
    *(f"tls_peer_{name}" for name in OF_PEER),
    *(f"tls_my_{name}" for name in CERTIFICATE),
    *(f"tls_{name}" for name in CONNECTION),
)

SCRIPT = """
loadmodule "@library@.so"
loadmodule "tls_mgm.so"
modparam("tls_mgm", "tls_library", "@short@")
modparam("tls_mgm", "client_tls_domain_avp", "domain")
modparam("tls_mgm", "server_domain", "home")
modparam("tls_mgm", "match_sip_domain", "[home]home.test")
modparam("tls_mgm", "match_ip_address", "[home]127.0.0.1:@tls@, 127.0.0.1:@wss@")
modparam("tls_mgm", "certificate", "[home]@cert@")
modparam("tls_mgm", "private_key", "[home]@key@")
modparam("tls_mgm", "ca_list", "[home]@ca@")
modparam("tls_mgm", "verify_cert", "[home]1")
modparam("tls_mgm", "require_cert", "[home]0")
modparam("tls_mgm", "server_domain", "narrow")
modparam("tls_mgm", "match_sip_domain", "[narrow]narrow.test")
modparam("tls_mgm", "match_ip_address", "[narrow]127.0.0.1:@tls@")
modparam("tls_mgm", "certificate", "[narrow]@cert@")
modparam("tls_mgm", "private_key", "[narrow]@key@")
modparam("tls_mgm", "ca_dir", "[narrow]@folder@/hashed")
modparam("tls_mgm", "crl_dir", "[narrow]@folder@/revoked")
modparam("tls_mgm", "crl_check_all", "[narrow]1")
modparam("tls_mgm", "tls_method", "[narrow]TLSv1_2")
modparam("tls_mgm", "ciphers_list", "[narrow]ECDHE-ECDSA-AES128-GCM-SHA256")
modparam("tls_mgm", "ec_curve", "[narrow]prime256v1")
modparam("tls_mgm", "dh_params", "[narrow]@folder@/dh.pem")
modparam("tls_mgm", "verify_cert", "[narrow]1")
modparam("tls_mgm", "require_cert", "[narrow]1")
modparam("tls_mgm", "client_domain", "shy")
modparam("tls_mgm", "ca_list", "[shy]@ca@")
modparam("tls_mgm", "client_domain", "named")
modparam("tls_mgm", "certificate", "[named]@cert@")
modparam("tls_mgm", "private_key", "[named]@key@")
modparam("tls_mgm", "ca_list", "[named]@ca@")
loadmodule "proto_tls.so"
modparam("proto_tls", "tls_port", @tls@)
modparam("proto_tls", "tls_handshake_timeout", 300)
modparam("proto_tls", "tls_send_timeout", 300)
modparam("proto_tls", "tls_max_msg_chunks", 3)
modparam("proto_tls", "tls_crlf_pingpong", 0)
modparam("proto_tls", "tls_crlf_drop", 1)
modparam("proto_tls", "tls_async", 1)
modparam("proto_tls", "tls_async_max_postponed_chunks", 8)
modparam("proto_tls", "cert_check_on_conn_reusage", 1)
loadmodule "proto_ws.so"
modparam("proto_ws", "ws_port", @ws@)
modparam("proto_ws", "ws_resource", "/sip")
modparam("proto_ws", "ws_handshake_timeout", 300)
modparam("proto_ws", "ws_send_timeout", 300)
modparam("proto_ws", "ws_max_msg_chunks", 3)
loadmodule "proto_wss.so"
modparam("proto_wss", "wss_port", @wss@)
modparam("proto_wss", "wss_resource", "/secret-sip")
modparam("proto_wss", "wss_handshake_timeout", 300)
modparam("proto_wss", "wss_send_timeout", 300)
modparam("proto_wss", "wss_tls_handshake_timeout", 300)
modparam("proto_wss", "wss_max_msg_chunks", 3)
modparam("proto_wss", "cert_check_on_conn_reusage", 1)
route {
	if (is_method("OPTIONS")) {
@look@
		sl_send_reply(200, "Here");
		exit;
	}
	if ($hdr(X-Domain) != NULL)
		$avp(domain) = $hdr(X-Domain);
	$du = $hdr(X-To);
	t_relay();
}
"""


class House(Site):
    """A server whose TLS, WS and WSS sockets name no port."""

    def __init__(self, folder: Path, library: str) -> None:
        self.authority = Authority(folder, subject=SUBJECT)
        others = (x509.RFC822Name("a@home.test"), x509.UniformResourceIdentifier("sip:home.test"))
        serial = ((NameOID.SERIAL_NUMBER, "0815"),)
        self.home = self.authority.issue("home.test", subject=(*SUBJECT, *serial), others=others)
        self.client = self.authority.issue("client.test", subject=(*SUBJECT, *serial), others=others)
        self.gone = self.authority.issue("gone.test")
        self.authority.revocations(folder / "revoked", self.gone)
        self.openssl("dhparam", "-dsaparam", "-out", str(folder / "dh.pem"), "2048")
        for name in ("hashed", "revoked"):
            (folder / name).mkdir(exist_ok=True)
        shutil.copy(self.authority.path, folder / "hashed" / "ca.pem")
        for name in ("hashed", "revoked"):
            self.openssl("rehash", str(folder / name))
        self.ports = {name: free_port() for name in ("tls", "ws", "wss")}
        look = "\n".join(f'\t\tappend_to_reply("X-{name}: ${name}\\r\\n");' for name in NAMES)
        super().__init__(
            folder,
            SCRIPT,
            sockets="socket=tls:127.0.0.1\nsocket=ws:127.0.0.1\nsocket=wss:127.0.0.1",
            library=library,
            short=library.removeprefix("tls_"),
            look=look,
            cert=self.home.cert,
            key=self.home.key,
            ca=self.authority.path,
            **self.ports,
        )

    @staticmethod
    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=60)


def options(proto: str = "TLS", name: str = "OPTIONS", more: str = "") -> bytes:
    return (
        f"{name} sip:home.test SIP/2.0\r\nVia: SIP/2.0/{proto} 127.0.0.1:9;branch=z9hG4bKo\r\nMax-Forwards: 70\r\n"
        f"From: <sip:o@home.test>;tag=1\r\nTo: <sip:home.test>\r\nCall-ID: o{proto}\r\nCSeq: 1 {name}\r\n{more}"
        "Content-Length: 0\r\n\r\n"
    ).encode()


@pytest.fixture(scope="module", params=["tls_openssl", "tls_wolfssl"])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed (Debian: openssl)")
    made = House(tmp_path_factory.mktemp("tls"), request.param)
    yield made
    made.close()


def s_client(house: House, name: str, *words: str, identity: Identity | None = None) -> Received | None:
    """What `openssl s_client` gets for an OPTIONS; None when it is not let in."""
    if identity is not None:
        words = (*words, "-cert", str(identity.cert), "-key", str(identity.key))
    command = ["openssl", "s_client", "-quiet", "-connect", f"127.0.0.1:{house.ports['tls']}", "-servername", name]
    with subprocess.Popen(
        [*command, "-CAfile", str(house.authority.path), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        data = b""
        try:
            client.stdin.write(options())
            client.stdin.flush()
            while b"\r\n\r\n" not in data:
                line = client.stdout.readline()
                if not line:
                    return None
                data += line
        except BrokenPipeError:
            return None
        finally:
            client.kill()
    return Received(data, ("", 0))


def of_certificate(side: str, identity: Identity, name: str) -> dict[str, str]:
    """What the variables of a certificate must say."""
    subject = "/C=DE/ST=Berlin/L=Mitte/O=Example/OU=Voice"
    values = {
        "version": "2",
        "serial": str(identity.certificate.serial_number),
        "subject": f"{subject}/serialNumber=0815/CN={name}",
        "issuer": f"{subject}/CN=Test Authority",
        "subject_cn": name,
        "issuer_cn": "Test Authority",
        "subject_serial": "0815",
        "san_email": "a@home.test",
        "san_hostname": name,
        "san_uri": "sip:home.test",
        "san_ip": "127.0.0.1",
        **{f"{whose}_{part}": text for whose in ("subject", "issuer") for part, text in PARTS.items()},
    }
    return {f"tls_{side}_{word}": text for word, text in values.items()}


def at(time: datetime.datetime) -> str:
    return f"{time:%b} {time.day:2d} {time:%H:%M:%S %Y} GMT"


def seen(answer: Received) -> dict[str, str]:
    return {name: answer[f"X-{name}"] for name in NAMES}


def test_every_variable_with_a_certificate(house: House) -> None:
    """tls_mgm manual, exported variables: the certificates of both sides and the connection, as s_client made it."""
    answer = s_client(house, "home.test", "-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384", identity=house.client)
    assert answer is not None
    client = house.client.certificate
    assert seen(answer) == {
        **of_certificate("peer", house.client, "client.test"),
        **of_certificate("my", house.home, "home.test"),
        "tls_peer_verified": "1",
        "tls_peer_revoked": "0",
        "tls_peer_expired": "0",
        "tls_peer_selfsigned": "0",
        "tls_peer_notBefore": at(client.not_valid_before_utc),
        "tls_peer_notAfter": at(client.not_valid_after_utc),
        "tls_cipher_info": "TLS_AES_256_GCM_SHA384",
        "tls_cipher_bits": "256",
        "tls_description": "TLS_AES_256_GCM_SHA384 TLSv1.3 Enc(256)",
        "tls_version": "TLSv1.3",
    }


def test_every_variable_without_a_certificate(house: House) -> None:
    """tls_mgm manual: of a peer that shows none, nothing is known, and it is not verified."""
    answer = s_client(house, "home.test")
    assert answer is not None
    told = seen(answer)
    assert {told[f"tls_peer_{name}"] for name in CERTIFICATE} == {"<null>"}
    assert told["tls_peer_verified"] == "0"
    assert told["tls_my_subject_cn"] == "home.test"


def test_every_variable_without_tls(house: House) -> None:
    """tls_mgm manual: over another transport there is neither a connection nor a certificate."""
    caller = house.phone("caller")
    answer = house.ask(caller, "OPTIONS", "look")
    assert set(seen(answer).values()) <= {"<null>", "0"}
    house.hang_up()


def test_a_domain_that_is_strict(house: House) -> None:
    """tls_mgm manual: tls_method, ciphers_list, ec_curve, dh_params, ca_dir, crl_dir with crl_check_all,
    match_ip_address and match_sip_domain of one domain."""
    answer = s_client(house, "narrow.test", identity=house.client)
    assert answer is not None
    told = seen(answer)
    assert (told["tls_version"], told["tls_cipher_info"]) == ("TLSv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256")
    assert told["tls_peer_verified"] == "1"
    expired = house.authority.issue("late.test", valid=datetime.timedelta(days=-1))
    strangers = Authority(house.folder, "Strangers")
    for words, identity in (
        (("-tls1_3",), house.client),
        (("-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"), house.client),
        (("-tls1_2", "-curves", "secp384r1"), house.client),
        ((), None),
        ((), house.gone),
        ((), expired),
        ((), strangers.issue("stranger.test")),
    ):
        assert s_client(house, "narrow.test", *words, identity=identity) is None, (words, identity)
    assert s_client(house, "home.test") is not None


@pytest.mark.parametrize(("domain", "shown"), [("named", True), ("shy", False)])
def test_the_script_chooses_the_client_domain_by_name(house: House, domain: str, shown: bool) -> None:
    """client_tls_domain_avp: openssl s_server sees our certificate, or none, and gets the request."""
    port = free_port()
    command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-verify", "1", "-naccept", "1"]
    with subprocess.Popen(
        [*command, "-cert", str(house.client.cert), "-key", str(house.client.key), "-CAfile", house.authority.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as far:
        assert far.stdout is not None
        said = b""
        while b"ACCEPT" not in said:
            said += far.stdout.readline()
        caller = house.phone("caller")
        caller.send(
            caller.request(
                "MESSAGE",
                "sip:b@home.test",
                headers=(f"X-Domain: {domain}", f"X-To: sip:127.0.0.1:{port};transport=tls"),
            )
        )
        while b"MESSAGE sip:b@home.test SIP/2.0" not in said:
            line = far.stdout.readline()
            assert line, said
            said += line
        far.kill()
    assert (b"CN = home.test" in said or b"CN=home.test" in said) == shown
    house.hang_up()


def test_connections_that_say_nothing_have_their_time(house: House) -> None:
    """tls_handshake_timeout, ws_handshake_timeout, wss_tls_handshake_timeout: each ends before tcp_max_msg_time."""
    for port in house.ports.values():
        with socket.create_connection(("127.0.0.1", port), 30) as silent:
            assert silent.recv(10) == b""


def test_a_websocket_handshake_in_tls_has_its_time(house: House) -> None:
    """wss_handshake_timeout: the HTTP request has to follow the handshake of TLS."""
    with context_of(house).wrap_socket(
        socket.create_connection(("127.0.0.1", house.ports["wss"]), 30), server_hostname="home.test"
    ) as silent:
        assert silent.recv(10) == b""


def context_of(house: House) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(house.authority.path)
    return context


def test_double_line_ends_are_not_answered(house: House) -> None:
    """tls_crlf_pingpong 0, tls_crlf_drop 1: line ends between messages are passed over; what follows is answered."""
    with context_of(house).wrap_socket(
        socket.create_connection(("127.0.0.1", house.ports["tls"]), 30), server_hostname="home.test"
    ) as made:
        made.sendall(b"\r\n\r\n")
        made.sendall(options())
        assert made.recv(4) == b"SIP/"


def test_a_message_in_too_many_pieces(house: House) -> None:
    """tls_max_msg_chunks: so many reads a message may take, then the connection is closed."""
    with context_of(house).wrap_socket(
        socket.create_connection(("127.0.0.1", house.ports["tls"]), 30), server_hostname="home.test"
    ) as made:
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = options()
        with pytest.raises((ConnectionError, ssl.SSLError, AssertionError)):  # noqa: PT012
            for piece in (data[at : at + 20] for at in range(0, len(data), 20)):
                made.sendall(piece)
                made.settimeout(0.1)
                try:
                    assert made.recv(10) == b"SIP/2.0 20"
                except TimeoutError:
                    continue


@pytest.mark.parametrize(("proto", "resource"), [("ws", b"/sip"), ("wss", b"/secret-sip")])
def test_what_our_own_websocket_connections_ask_for(house: House, proto: str, resource: bytes) -> None:
    """ws_resource, wss_resource (RFC 7118 §4.1): the GET of a connection that the server opens."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(house.client.cert, house.client.key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        caller = house.phone("caller")
        far = f"sip:127.0.0.1:{listener.getsockname()[1]};transport={proto}"
        caller.send(caller.request("MESSAGE", "sip:b@home.test", headers=("X-Domain: shy", f"X-To: {far}")))
        made, _ = listener.accept()
        made.settimeout(30)
        with closing(context.wrap_socket(made, server_side=True) if proto == "wss" else made) as wire:
            head = b""
            while b"\r\n\r\n" not in head:
                piece = wire.recv(4096)
                assert piece
                head += piece
    assert head.startswith(b"GET " + resource + b" HTTP/1.1\r\n")
    assert b"Sec-WebSocket-Protocol: sip\r\n" in head
    house.hang_up()


def test_a_log_without_keys(house: House) -> None:
    """What has been done above left its reasons in the log, and no secret."""
    until(lambda: "certificate" in house.server.log_text())
    assert "PRIVATE KEY" not in house.server.log_text()
