"""One script that reads documents, settings and prefixes, calls the operator's Python and asks other servers."""

from __future__ import annotations

import json
import socketserver
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from opensipspy.cli.db import create
from tests.scenarios.peer import Phone, Received
from tests.scenarios.server import ServerProcess

pytest.importorskip("lxml", reason="the Python package lxml is missing")
pytest.importorskip("maxminddb", reason="the Python package maxminddb is missing")
mmdb_writer = pytest.importorskip("mmdb_writer", reason="the Python package mmdb-writer is missing")
netaddr = pytest.importorskip("netaddr", reason="the Python package netaddr is missing")

pytestmark = pytest.mark.scenario

SCRIPT = """
log_level=3
stderror_enabled=yes
socket=udp:127.0.0.1:PORT
db_default_url="sqlite:FOLDER/data.sqlite"
loadmodule "proto_udp.so"
loadmodule "db_sqlite.so"
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "rr.so"
loadmodule "sipmsgops.so"
loadmodule "xml.so"
loadmodule "config.so"
loadmodule "trie.so"
loadmodule "python.so"
loadmodule "mi_script.so"
loadmodule "jsonrpc.so"
loadmodule "mmgeoip.so"
loadmodule "script_helper.so"
modparam("python", "script_name", "FOLDER/handler.py")
modparam("mmgeoip", "mmgeoip_city_db_path", "FOLDER/city.mmdb")
modparam("jsonrpc", "read_timeout", 5000)
modparam("script_helper", "sequential_route", "seq")
route {
    append_to_reply("Contact: <sip:server@127.0.0.1>\\r\\n");
    $xml(doc) = "<presence><tuple id='a'/></presence>";
    $var(element) = "tuple";
    $xml(doc/presence/$var(element)) = "<status>open</status>";
    $xml(doc/presence/tuple.attr/id) = $rU;
    append_to_reply("X-Xml: $xml(doc/presence/tuple)\\r\\n");

    $config(level) = $(config(level){s.int}) + 1;
    append_to_reply("X-Config: $config(level) $config.description(level)\\r\\n");

    if (trie_search($rU, , $var(attrs), $var(prefix)))
        append_to_reply("X-Trie: $var(prefix) $var(attrs)\\r\\n");
    if (!trie_search($rU, "L"))
        append_to_reply("X-Strict: no\\r\\n");

    $var(rc) = python_exec("greet", "$fU");
    if ($var(rc) == 7)
        append_to_reply("X-Python: $var(greeting)\\r\\n");
    python_exec("breaks");
    append_to_reply("X-Broken: $rc\\r\\n");

    mi("trie:search", $var(ret), $avp(none));
    $var(rc) = $rc;
    $avp(names) = "number"; $avp(vals) = "4021999";
    mi("trie:search", $var(ret), $avp(names), $avp(vals));
    append_to_reply("X-Mi: $var(rc) $var(ret)\\r\\n");
    mi("config:push color blue");
    append_to_reply("X-Pushed: $config(color)\\r\\n");

    jsonrpc_request("127.0.0.1:RPC", "add", "[1, $var(rc), 2]", $var(sum));
    append_to_reply("X-Rpc: $var(sum)\\r\\n");
    $var(rc) = jsonrpc_request("127.0.0.1:RPC", "fail", "{}", $var(error));
    append_to_reply("X-Rpc-Error: $var(rc) $var(error)\\r\\n");

    if (mmg_lookup("lon:lat", "192.0.2.7", $avp(place)))
        append_to_reply("X-Place: $(avp(place)[0]) $(avp(place)[1])\\r\\n");
    if (!mmg_lookup(, "$si", $avp(country)))
        append_to_reply("X-Country: unknown\\r\\n");
    sl_send_reply(200, "OK");
}
route[seq] {
    append_to_reply("X-Sequential: $rm\\r\\n");
    sl_send_reply(202, "Accepted");
    exit;
}
"""

HANDLER = """
import asyncio
from OpenSIPS import LM_INFO

def mod_init():
    return Handler()

class Handler:
    def child_init(self, rank):
        return 0

    async def greet(self, msg, name):
        await asyncio.sleep(0.01)
        msg.set_pseudoVar("$var(greeting)", f"hello {name}, {msg.Method} of {msg.src_address[0]}")
        await msg.call_function("append_to_reply", "X-From-Python: $rm\\r\\n")
        return 7

    def breaks(self, msg):
        return {}["missing"]
"""


class Rpc(socketserver.StreamRequestHandler):
    """Adds numbers; any other method is refused."""

    def handle(self) -> None:
        asked = json.loads(self.rfile.readline())
        reply = {"jsonrpc": "2.0", "id": asked["id"]}
        if asked["method"] == "add":
            reply["result"] = sum(asked["params"])
        else:
            reply["error"] = {"code": -32601, "message": "Method not found"}
        self.wfile.write(json.dumps(reply).encode())


@pytest.fixture
def rpc_port() -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Rpc) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create(f"sqlite:{tmp_path}/data.sqlite", ["config", "trie"])
    connection = sqlite3.connect(tmp_path / "data.sqlite")
    connection.execute("INSERT INTO config (name, value, description) VALUES ('level', '4', 'How loud')")
    connection.execute("INSERT INTO trie_table (prefix, attrs) VALUES ('40', 'ro'), ('4021', 'bucharest')")
    connection.commit()
    connection.close()
    (tmp_path / "handler.py").write_text(HANDLER)
    writer = mmdb_writer.MMDBWriter(ip_version=4)
    record = {"location": {"latitude": 44.5, "longitude": 26.25}, "country": {"iso_code": "RO"}}
    writer.insert_network(netaddr.IPSet(["192.0.2.0/24"]), record)
    writer.to_db_file(str(tmp_path / "city.mmdb"))
    return tmp_path


def phone_route(text: str, port: int, phone: Phone) -> Received:
    """Send a request along the route through the server."""
    phone.send(text.replace("Max-Forwards:", f"Route: <sip:127.0.0.1:{port};lr>\r\nMax-Forwards:", 1))
    return phone.expect(202)


def test_a_script_that_uses_them_all(
    start_server: Callable[..., ServerProcess], free_port: Callable[[], int], folder: Path, rpc_port: int
) -> None:
    port = free_port()
    text = SCRIPT.replace("PORT", str(port)).replace("FOLDER", str(folder)).replace("RPC", str(rpc_port))
    server = start_server(text)
    phone = Phone("alice", ("127.0.0.1", port))
    try:
        phone.send(phone.request("OPTIONS", f"sip:40215@127.0.0.1:{port}"))
        answer = phone.expect(200)
        assert answer["X-Xml"] == '<tuple id="40215"><status>open</status></tuple>'
        assert answer["X-Config"] == "5 How loud"
        assert answer["X-Trie"] == "4021 bucharest"
        assert answer["X-Strict"] == "no"
        assert answer["X-Python"] == "hello alice, OPTIONS of 127.0.0.1"
        assert answer["X-From-Python"] == "OPTIONS"
        assert answer["X-Broken"] == "-1"
        assert answer["X-Mi"] == '-32602 {"Matched Prefix":"4021","ATTRS":"bucharest"}'
        assert answer["X-Pushed"] == "blue"
        assert answer["X-Rpc"] == str(1 - 32602 + 2)
        assert answer["X-Rpc-Error"] == '-3 {"code":-32601,"message":"Method not found"}'
        assert answer["X-Place"] == "44.500000 26.250000"
        assert answer["X-Country"] == "unknown"
        log = server.log_text()
        assert 'return {}["missing"]' in log
        assert "KeyError" in log
        invite = phone.request("INVITE", f"sip:40215@127.0.0.1:{port}")
        phone.send(invite)
        final = phone.expect(200)
        bye = phone.in_dialog("BYE", invite, final)
        assert phone_route(bye, port, phone)["X-Sequential"] == "BYE"
    finally:
        phone.close()
    assert server.stop() == 0
