"""A phone registers with AKAv1-MD5 at a whole server, which fetches the vector from a home subscriber server."""

from __future__ import annotations

import hashlib
import re
import socket
import time
from pathlib import Path

import pytest

from tests.backends import free_port
from tests.diameter_peers import hss, peer_text, write_files
from tests.scenarios.server import ServerProcess

pytestmark = pytest.mark.scenario

IMPI, DOMAIN = "alice@t.test", "t.test"
RES = "a54211d5e3ba50bf"
SCRIPT = """
log_level=3
stderror_enabled=yes
socket=udp:127.0.0.1:{port}
loadmodule "proto_udp.so"
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "signaling.so"
loadmodule "auth.so"
loadmodule "auth_aka.so"
loadmodule "aaa_diameter.so"
loadmodule "aka_av_diameter.so"
modparam("auth_aka", "default_av_mgm", "diameter")
modparam("aka_av_diameter", "aaa_url", "{url}")
modparam("aka_av_diameter", "realm", "t.test")

route {{
    $var(rc) = aka_www_authorize("t.test");
    if ($var(rc) < 0) {{
        if (!aka_www_challenge())
            sl_send_reply(500, "No vector");
        exit;
    }}
    sl_send_reply(200, "Let in");
}}
"""


def ask(phone: socket.socket, port: int, cseq: int, rest: str) -> str:
    """Send REGISTER and return the reply."""
    host, own = phone.getsockname()
    phone.sendto(
        (
            f"REGISTER sip:{DOMAIN} SIP/2.0\r\nVia: SIP/2.0/UDP {host}:{own};branch=z9hG4bK{cseq}\r\n"
            f"From: <sip:{IMPI}>;tag=1\r\nTo: <sip:{IMPI}>\r\nCall-ID: aka\r\nCSeq: {cseq} REGISTER\r\n"
            f"Max-Forwards: 70\r\nContact: <sip:{host}:{own}>\r\n"
            f'Authorization: Digest username="{IMPI}", realm="{DOMAIN}", uri="sip:{DOMAIN}", {rest}\r\n'
            "Content-Length: 0\r\n\r\n"
        ).encode(),
        ("127.0.0.1", port),
    )
    return phone.recv(65536).decode()


def h(*parts: bytes) -> bytes:
    return hashlib.md5(b":".join(parts)).hexdigest().encode()


def test_a_phone_registers_with_a_vector_of_the_home_server(tmp_path: Path) -> None:
    diameter, port = free_port(), free_port()
    url = write_files(tmp_path, peer_text("hss.t.test", diameter))
    script = tmp_path / "aka.cfg"
    script.write_text(SCRIPT.format(port=port, url=url), encoding="utf-8")
    with hss(diameter, "hss.t.test", RES), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as phone:
        phone.bind(("127.0.0.1", 0))
        phone.settimeout(10)
        server = ServerProcess(script, tmp_path)
        server.start()
        try:
            # The server connects beside serving: until then a phone is told so, and asks again.
            cseq, reply = 0, "SIP/2.0 500"
            end = time.monotonic() + 15
            while reply.startswith("SIP/2.0 500") and time.monotonic() < end:
                cseq += 1
                reply = ask(phone, port, cseq, 'nonce="", response=""')
            assert reply.startswith("SIP/2.0 401 "), reply
            found = re.search(
                r'nonce="([^"]+)", algorithm=AKAv1-MD5, ck="0f0f[^"]*", ik="f0f0[^"]*", qop="auth"', reply
            )
            assert found, reply
            nonce = found.group(1)
            for secret, expected in ((b"guess", "SIP/2.0 401 "), (bytes.fromhex(RES), "SIP/2.0 200 ")):
                cseq += 1
                key = h(IMPI.encode(), DOMAIN.encode(), secret)
                asked = h(b"REGISTER", f"sip:{DOMAIN}".encode())
                response = h(key, nonce.encode(), b"00000001", b"c", b"auth", asked).decode()
                reply = ask(
                    phone,
                    port,
                    cseq,
                    f'nonce="{nonce}", response="{response}", algorithm=AKAv1-MD5, qop=auth, nc=00000001, cnonce="c"',
                )
                assert reply.startswith(expected), reply
        finally:
            assert server.stop() == 0
        assert "Traceback" not in server.log_text()
        assert "RuntimeError" not in server.log_text()
