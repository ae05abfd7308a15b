"""Trunks from tables: the server registers at a provider, and opens and closes listening points while it runs."""

from __future__ import annotations

import json
import socket
import sqlite3
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from opensipspy.cli.db import create
from opensipspy.sip import digest
from tests.scenarios.peer import Phone, until
from tests.scenarios.server import ServerProcess

pytestmark = pytest.mark.scenario

SCRIPT = """
log_level=3
socket=udp:127.0.0.1:PORT
db_default_url="sqlite:DATABASE"
loadmodule "proto_udp.so"
loadmodule "proto_tcp.so"
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "db_sqlite.so"
loadmodule "httpd.so"
loadmodule "mi_http.so"
loadmodule "uac_auth.so"
loadmodule "uac_registrant.so"
loadmodule "sockets_mgm.so"
modparam("httpd", "port", HTTP)
modparam("uac_registrant", "timer_interval", 1)
modparam("uac_registrant", "hash_size", 0)
route {
    sl_send_reply(200, "came to $socket_in");
}
event_route[E_REGISTRANT_REGISTERED] {
    xlog("event: $param(aor) is registered\\n");
}
"""


class Trunks:
    """A running server with its tables."""

    def __init__(self, folder: Path, free_port: Callable[[], int]) -> None:
        self.port, self.http, self.extra = free_port(), free_port(), free_port()
        self.database = folder / "trunks.sqlite"
        create(f"sqlite:{self.database}", ["uac_registrant", "sockets_mgm"])
        script = folder / "trunks.cfg"
        text = SCRIPT.replace("PORT", str(self.port)).replace("HTTP", str(self.http))
        script.write_text(text.replace("DATABASE", str(self.database)), encoding="utf-8")
        self.process = ServerProcess(script, folder)

    def write(self, sql: str, *values: Any) -> None:
        with closing(sqlite3.connect(self.database)) as connection, connection:
            connection.execute(sql, values)

    def mi(self, method: str, **params: Any) -> Any:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        url = f"http://127.0.0.1:{self.http}/mi"
        with urllib.request.urlopen(url, json.dumps(request).encode(), timeout=30) as answer:
            return json.load(answer)["result"]


@pytest.fixture
def trunks(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Trunks]:
    made = Trunks(tmp_path, free_port)
    yield made
    made.process.stop()


@pytest.fixture
def registrar(trunks: Trunks) -> Iterator[Phone]:
    phone = Phone("trunk", ("127.0.0.1", trunks.port), domain="provider.example")
    yield phone
    phone.close()


def test_register_at_a_provider(trunks: Trunks, registrar: Phone) -> None:
    """RFC 3261 §10.2, §22.2: REGISTER, 401, REGISTER with credentials, 200; then disabled by command."""
    key = ("sip:trunk@provider.example", f"sip:trunk@127.0.0.1:{trunks.port}", f"sip:127.0.0.1:{registrar.port}")
    trunks.write(
        "INSERT INTO registrant (aor, binding_URI, registrar, username, password, expiry) VALUES (?, ?, ?, ?, ?, ?)",
        *key,
        "trunk",
        "s3cret",
        300,
    )
    trunks.process.start()
    first = registrar.expect("REGISTER", 10)
    challenge = digest.challenge("provider.example", "n1", qop="auth", algorithm="SHA-256")
    registrar.send(
        registrar.reply(first, 401, "Unauthorized").replace("Contact:", f"WWW-Authenticate: {challenge}\r\nX-Not:")
    )
    second = registrar.expect("REGISTER")
    credentials = digest.parse_credentials(second["Authorization"])
    assert digest.verify(credentials, digest.ha1("trunk", "provider.example", "s3cret", "SHA-256"), "REGISTER")
    assert second["Contact"] == f"<{key[1]}>;expires=300"
    registrar.contact = second["Contact"]
    registrar.send(registrar.reply(second, 200))

    def state() -> str:
        return str(trunks.mi("uac_registrant:list")["Records"][0]["state"])

    until(lambda: state() == "REGISTERED_STATE", what="the registration")
    until(lambda: "event: sip:trunk@provider.example is registered" in trunks.process.log_text(), what="the event")
    names = dict(zip(("aor", "contact", "registrar"), key, strict=True))
    assert trunks.mi("uac_registrant:disable", **names) == "OK"
    leaving = registrar.expect("REGISTER")
    assert leaving["Contact"].endswith(";expires=0")
    registrar.send(registrar.reply(leaving, 200))
    until(lambda: state() == "NOT_REGISTERED_STATE", what="the end of the registration")
    with closing(sqlite3.connect(trunks.database)) as connection:
        assert connection.execute("SELECT state FROM registrant").fetchall() == [(1,)]
    assert "s3cret" not in trunks.process.log_text()


def test_listening_points_come_and_go(trunks: Trunks, registrar: Phone) -> None:
    """The manual of sockets_mgm: after a reload the server listens where the table says, over UDP and TCP."""
    trunks.process.start()
    assert trunks.mi("sockets_mgm:list") == []
    for proto in ("udp", "tcp"):
        trunks.write("INSERT INTO sockets (socket, tag) VALUES (?, 'extra')", f"{proto}:127.0.0.1:{trunks.extra}")
    assert trunks.mi("sockets_mgm:reload") == "OK"
    assert [found["socket"] for found in trunks.mi("sockets_mgm:list")] == [
        f"udp:127.0.0.1:{trunks.extra}",
        f"tcp:127.0.0.1:{trunks.extra}",
    ]
    registrar.server = ("127.0.0.1", trunks.extra)
    registrar.send(registrar.request("OPTIONS", f"sip:127.0.0.1:{trunks.extra}"))
    assert registrar.receive().first == f"SIP/2.0 200 came to udp:127.0.0.1:{trunks.extra}"
    with socket.create_connection(("127.0.0.1", trunks.extra), 5) as connection:
        request = registrar.request("OPTIONS", f"sip:127.0.0.1:{trunks.extra};transport=tcp")
        connection.sendall(request.replace("SIP/2.0/UDP", "SIP/2.0/TCP").encode())
        assert b"200 came to tcp:" in connection.recv(4096)

    trunks.write("DELETE FROM sockets")
    assert trunks.mi("sockets_mgm:reload") == "OK"
    assert trunks.mi("sockets_mgm:list") == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", trunks.extra), 5)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", trunks.extra))
    registrar.server = ("127.0.0.1", trunks.port)
    registrar.send(registrar.request("OPTIONS", f"sip:127.0.0.1:{trunks.port}"))
    assert registrar.receive().first == f"SIP/2.0 200 came to udp:127.0.0.1:{trunks.port}"
