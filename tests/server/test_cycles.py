"""What a message made is freed when it has gone: nothing is left to the collector of cycles.

With thousands of calls in memory a search for cycles takes long, and nobody is served meanwhile. Compiled files matter
most here: a compiled nested function refers to itself.
"""

from __future__ import annotations

import asyncio
import gc
import socket
from pathlib import Path

import pytest

from opensipspy import sip
from opensipspy.db import parse_url
from opensipspy.dbdrivers.db_sqlite import DbSqlite
from opensipspy.modules.auth_db import SUBSCRIBER
from opensipspy.server.launch import open_logs
from opensipspy.server.load import load
from opensipspy.server.options import Options
from opensipspy.server.server import Server
from opensipspy.sip import Peer
from tests.server.house import free_port

SCRIPT = """
log_level=3
stderror_enabled=yes
socket=udp:127.0.0.1:{port}
loadmodule "proto_udp.so"
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "rr.so"
loadmodule "maxfwd.so"
loadmodule "sipmsgops.so"
loadmodule "signaling.so"
loadmodule "db_sqlite.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
loadmodule "auth.so"
loadmodule "auth_db.so"
modparam("auth_db", "db_url", "sqlite:{folder}/users.sqlite")
modparam("auth_db", "calculate_ha1", 1)
modparam("auth_db", "password_column", "password")
route {{
    if (is_method("REGISTER")) {{
        if (!www_authorize("127.0.0.1", "subscriber")) {{ www_challenge("127.0.0.1", "auth"); exit; }}
        save("location");
        exit;
    }}
    if (!mf_process_maxfwd_header(10)) {{ sl_send_reply(483, "Too Many Hops"); exit; }}
    if (has_totag()) {{
        if (loose_route()) {{ t_relay(); exit; }}
        sl_send_reply(404, "Not here");
        exit;
    }}
    if (is_method("OPTIONS")) {{ sl_send_reply(200, "OK"); exit; }}
    $avp(caller) = $fU;
    record_route();
    t_on_branch("out");
    t_on_reply("back");
    t_on_failure("failed");
    t_relay();
}}
branch_route[out] {{ append_hf("X-Branch: $T_branch_idx\\r\\n"); }}
onreply_route[back] {{ xlog("L_DBG", "reply $rs\\n"); }}
failure_route[failed] {{ if (t_check_status("486")) {{ t_reply(603, "Declined"); }} }}
"""


class House:
    """A server in this process. Its clients speak over real sockets, but each message is handed in by hand."""

    def __init__(self, server: Server, port: int) -> None:
        self.server = server
        self.uri = f"sip:bob@127.0.0.1:{port}"
        self.phones = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
        for phone in self.phones:
            phone.bind(("127.0.0.1", 0))
            phone.settimeout(30)
        self.caller, self.callee = (phone.getsockname()[1] for phone in self.phones)

    def give(self, text: str, port: int) -> None:
        source = Peer(sip.PROTO_UDP, "127.0.0.1", port)
        self.server.steps.receive(text.encode(), source, self.server.core.sockets[0])

    def heard(self, who: int) -> str:
        return self.phones[who].recv(65536).decode()

    def request(self, method: str, number: int, uri: str, to: str = "<sip:bob@127.0.0.1>", more: str = "") -> None:
        self.give(
            f"{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{self.caller};branch=z9hG4bK-{number}-{method}\r\n"
            f"{more}Max-Forwards: 70\r\nFrom: <sip:alice@127.0.0.1>;tag=a{number}\r\nTo: {to}\r\n"
            f"Call-ID: {number}\r\nCSeq: {1 if method in ('INVITE', 'ACK') else 2} {method}\r\n"
            f"Contact: <sip:alice@127.0.0.1:{self.caller}>\r\nContent-Length: 0\r\n\r\n",
            self.caller,
        )

    def answer(self, request: str, status: str) -> None:
        kept = [
            line + (";tag=b" if line.startswith("To:") and ";tag=" not in line else "")
            for line in request.split("\r\n")
            if line.partition(":")[0] in ("Via", "Record-Route", "From", "To", "Call-ID", "CSeq")
        ]
        head = "\r\n".join(kept)
        self.give(
            f"SIP/2.0 {status}\r\n{head}\r\nContact: <sip:bob@127.0.0.1:{self.callee}>\r\nContent-Length: 0\r\n\r\n",
            self.callee,
        )

    def call(self, number: int, status: str) -> None:
        """An INVITE that rings and ends with `status`; an answered one is hung up."""
        self.request("INVITE", number, f"sip:bob@127.0.0.1:{self.callee}")
        assert self.heard(0).startswith("SIP/2.0 100")
        invite = self.heard(1)
        assert "X-Branch: 0" in invite
        self.answer(invite, "180 Ringing")
        assert self.heard(0).startswith("SIP/2.0 180")
        self.answer(invite, status)
        final = self.heard(0)
        routes = "".join(
            line.replace("Record-Route", "Route") + "\r\n" for line in final.split("\r\n") if line.startswith("Record-")
        )
        if final.startswith("SIP/2.0 200"):
            target = f"sip:bob@127.0.0.1:{self.callee}"
            self.request("ACK", number, target, "<sip:bob@127.0.0.1>;tag=b", routes)
            assert self.heard(1).startswith("ACK")
            self.request("BYE", number, target, "<sip:bob@127.0.0.1>;tag=b", routes)
            self.answer(self.heard(1), "200 OK")
            assert self.heard(0).startswith("SIP/2.0 200")
        else:
            assert final.startswith("SIP/2.0 603")
            assert self.heard(1).startswith("ACK")
            self.request("ACK", number, f"sip:bob@127.0.0.1:{self.callee}", "<sip:bob@127.0.0.1>;tag=b")

    def options(self, number: int) -> None:
        self.request("OPTIONS", number, self.uri)
        assert self.heard(0).startswith("SIP/2.0 200")

    def register(self, number: int) -> None:
        """REGISTER, 401, REGISTER with credentials: the user is looked up in SQLite, the contact kept in memory."""
        self.request("REGISTER", number, "sip:127.0.0.1", "<sip:alice@127.0.0.1>")
        challenge = next(line for line in self.heard(0).split("\r\n") if line.startswith("WWW-Authenticate"))
        answer = sip.parse_credentials(challenge.partition(": ")[2])
        answer.username, answer.uri, answer.nc, answer.cnonce = "alice", "sip:127.0.0.1", "00000001", "c"
        ha1 = sip.digest.ha1("alice", "127.0.0.1", "secret")
        answer.response = sip.digest.response(ha1, "REGISTER", answer.uri, answer.nonce, "auth", answer.nc, "c")
        line = f"Authorization: {sip.digest.authorization(answer)}\r\n"
        self.request("REGISTER", number, "sip:127.0.0.1", "<sip:alice@127.0.0.1>", line)
        assert self.heard(0).startswith("SIP/2.0 200")

    def close(self) -> None:
        for phone in self.phones:
            phone.close()


@pytest.mark.parametrize("kind", ["answered", "refused", "options", "registered", "unreadable", "not ours"])
def test_nothing_is_left_to_the_collector(kind: str, tmp_path: Path) -> None:
    def play(house: House, number: int) -> None:
        if kind == "options":
            house.options(number)
        elif kind == "registered":
            house.register(number)
        elif kind == "unreadable":
            house.give(f"INVITE sip:x SIP/2.0\r\nVia: nonsense {number}\r\n\r\n", house.caller)
        elif kind == "not ours":
            house.request("BYE", number, house.uri, "<sip:bob@127.0.0.1>;tag=b")
            assert house.heard(0).startswith("SIP/2.0 404")
        else:
            house.call(number, "200 OK" if kind == "answered" else "486 Busy Here")

    async def scenario() -> int:
        port = free_port()
        users = parse_url(f"sqlite:{tmp_path}/users.sqlite")
        await DbSqlite().create_tables(users, [SUBSCRIBER])
        database = DbSqlite().open_database(users)
        await database.insert("subscriber", {"username": "alice", "domain": "127.0.0.1", "password": "secret"})
        await database.close()
        script = tmp_path / "opensips.cfg"
        script.write_text(SCRIPT.format(port=port, folder=tmp_path), encoding="utf-8")
        settings = Options()
        settings.script, settings.workdir, settings.log_stderr = str(script), str(tmp_path), True
        loaded = load(settings)
        server = Server(settings, loaded, open_logs(settings, loaded), asyncio.get_running_loop())
        await server.start()
        house = House(server, port)
        try:
            for number in range(5):
                play(house, number)
            gc.collect()
            gc.disable()
            for number in range(100, 120):
                play(house, number)
            return gc.collect()
        finally:
            gc.enable()
            house.close()
            await server.shut_down()

    assert asyncio.run(scenario()) == 0
