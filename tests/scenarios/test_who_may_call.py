"""One script that decides who may call what, on SQLite: addresses, number plan, aliases, groups, short and barred
numbers, asked by real messages."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from opensipspy.modules.alias_db import ALIAS_TABLE
from opensipspy.modules.dialplan import DIALPLAN_TABLE
from opensipspy.modules.group import EXPRESSION_TABLE, GROUP_TABLE
from opensipspy.modules.permissions import ADDRESS_TABLE
from opensipspy.modules.speeddial import SPEED_DIAL_TABLE
from opensipspy.modules.userblacklist import GLOBAL_TABLE, USER_TABLE
from tests.modules.tables import change, make_tables
from tests.scenarios.peer import Phone, Received
from tests.scenarios.server import ServerProcess

pytestmark = pytest.mark.scenario

SCRIPT = """
log_level=3
stderror_enabled=yes
socket=udp:127.0.0.1:{port}
loadmodule "proto_udp.so"
loadmodule "sl.so"
loadmodule "signaling.so"
loadmodule "sipmsgops.so"
loadmodule "db_sqlite.so"
loadmodule "permissions.so"
loadmodule "dialplan.so"
loadmodule "alias_db.so"
loadmodule "group.so"
loadmodule "speeddial.so"
loadmodule "userblacklist.so"
loadmodule "mi_datagram.so"
db_default_url="sqlite:{db}"
modparam("mi_datagram", "socket_name", "{mi}")
modparam("permissions", "db_url", "sqlite:{db}")
modparam("dialplan", "db_url", "sqlite:{db}")
modparam("group", "re_table", "re_grp")
modparam("userblacklist", "use_domain", 0)

route {
    if (!check_source_address(1, $avp(info), $fu)) {
        sl_send_reply(403, "Unknown address");
        exit;
    }
    if (sd_lookup("speed_dial"))
        append_to_reply("X-Short: $rU\\r\\n");
    if (alias_db_lookup("dbaliases"))
        append_to_reply("X-Alias: $ru\\r\\n");
    if (dp_translate(1, $rU, $var(number), $var(attrs))) {
        $rU = $var(number);
        append_to_reply("X-Plan: $var(number) $var(attrs)\\r\\n");
    }
    if (!allow_routing()) {
        sl_send_reply(403, "No route");
        exit;
    }
    if (!check_blacklist("globalblacklist") || !check_user_blacklist($fU, $fd)) {
        sl_send_reply(403, "Barred");
        exit;
    }
    if ($var(attrs) == "international" && !db_is_user_in("From", "int")) {
        sl_send_reply(403, "No international calls");
        exit;
    }
    if (db_get_user_group("From", $avp(group)))
        append_to_reply("X-Group: $avp(group)\\r\\n");
    get_source_group($var(source));
    append_to_reply("X-Source: $var(source) $avp(info)\\r\\n");
    sl_send_reply(200, "OK");
}
"""

Call = Callable[..., Received]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "who.sqlite"
    make_tables(
        path,
        ADDRESS_TABLE,
        DIALPLAN_TABLE,
        ALIAS_TABLE,
        GROUP_TABLE,
        EXPRESSION_TABLE,
        SPEED_DIAL_TABLE,
        USER_TABLE,
        GLOBAL_TABLE,
    )
    change(
        path,
        "INSERT INTO address (grp, ip, mask, proto, pattern, context_info) VALUES (?, ?, ?, ?, ?, ?)",
        [(1, "127.0.0.0", 8, "udp", "sip:[ab]*", "loop"), (2, "192.0.2.0", 24, "any", None, None)],
    )
    change(
        path,
        "INSERT INTO dialplan (dpid, pr, match_op, match_exp, subst_exp, repl_exp, attrs) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (1, 1, 1, "^(00|\\+)[1-9]", "^(00|\\+)(.*)", "\\2", "international"),
            (1, 1, 1, "^0[1-9]", "^0(.*)", "40\\1", "national"),
            (1, 0, 0, "112", None, "emergency", "free"),
        ],
    )
    change(
        path,
        "INSERT INTO dbaliases (alias_username, alias_domain, username, domain) VALUES (?, ?, ?, ?)",
        [("sales", "127.0.0.1", "0211234", "127.0.0.1")],
    )
    change(path, "INSERT INTO grp (username, domain, grp) VALUES (?, ?, ?)", [("alice", "127.0.0.1", "int")])
    change(path, "INSERT INTO re_grp (reg_exp, group_id) VALUES (?, ?)", [("^sip:alice@", 7)])
    change(
        path,
        "INSERT INTO speed_dial (username, domain, sd_username, sd_domain, new_uri) VALUES (?, ?, ?, ?, ?)",
        [("alice", "127.0.0.1", "11", "127.0.0.1", "sip:sales@127.0.0.1")],
    )
    change(path, "INSERT INTO globalblacklist (prefix, whitelist) VALUES (?, ?)", [("90", "0"), ("9011", "1")])
    change(
        path,
        "INSERT INTO userblacklist (username, domain, prefix, whitelist) VALUES (?, ?, ?, ?)",
        [("bob", "", "4021", "0")],
    )
    # permissions looks for them in the folder of the script.
    (tmp_path / "permissions.allow").write_text('"^sip:alice@" : ALL\n')
    (tmp_path / "permissions.deny").write_text('ALL : "^sip:666"\n')
    return path


@pytest.fixture
def mi_socket(tmp_path: Path) -> Path:
    return tmp_path / "mi.sock"


@pytest.fixture
def call(
    database: Path,
    mi_socket: Path,
    start_server: Callable[..., ServerProcess],
    free_port: Callable[[], int],
) -> Iterator[Call]:
    port = free_port()
    script = SCRIPT.replace("{port}", str(port)).replace("{db}", str(database)).replace("{mi}", str(mi_socket))
    start_server(script)
    phones = {user: Phone(user, ("127.0.0.1", port)) for user in ("alice", "bob", "mallory")}

    def options(user: str, number: str) -> Received:
        phones[user].send(phones[user].request("OPTIONS", f"sip:{number}@127.0.0.1"))
        return phones[user].receive()

    yield options
    for phone in phones.values():
        phone.close()


def command(path: Path, method: str, **params: str) -> Any:
    """Ask the server through its datagram door."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.settimeout(30)
        client.bind(f"{path}.client")
        try:
            client.sendto(
                json.dumps({"jsonrpc": "2.0", "method": method, "params": params, "id": 1}).encode(), str(path)
            )
            return json.loads(client.recv(65536))
        finally:
            Path(f"{path}.client").unlink()


def test_who_may_call_what(call: Call, database: Path, mi_socket: Path) -> None:
    first = call("alice", "11")
    assert (first.status, first["X-Short"], first["X-Alias"]) == (200, "sales", "sip:0211234@127.0.0.1")
    assert (first["X-Plan"], first["X-Group"], first["X-Source"]) == ("40211234 national", "7", "1 loop")

    abroad = call("alice", "+33123")
    assert (abroad.status, abroad["X-Plan"]) == (200, "33123 international")

    refused = [
        ("bob", "+33123", "No international calls"),
        ("bob", "021999", "Barred"),
        ("bob", "666", "No route"),
        ("alice", "9000", "Barred"),
        ("mallory", "1", "Unknown address"),
    ]
    for user, number, reason in refused:
        answer = call(user, number)
        assert answer.status == 403
        assert reason in answer.first, (user, number)
    assert [call(user, number).status for user, number in (("bob", "022"), ("alice", "9011"), ("alice", "666"))] == [
        200,
        200,
        200,
    ]
    assert call("bob", "112")["X-Plan"] == "emergency free"

    # What is in memory stays until a command reads it again; what is asked for each time changes at once.
    change(database, "UPDATE dialplan SET repl_exp = 'rescue' WHERE match_exp = '112'")
    change(database, "INSERT INTO grp (username, domain, grp) VALUES ('bob', '127.0.0.1', 'int')")
    assert call("bob", "112")["X-Plan"] == "emergency free"
    assert call("bob", "+33123").status == 200
    assert command(mi_socket, "dialplan:reload")["result"] == "OK"
    assert call("bob", "112")["X-Plan"] == "rescue free"
    assert command(mi_socket, "dialplan:translate", dpid="1", input="0045")["result"] == {
        "Output": "45",
        "ATTRIBUTES": "international",
    }

    # A reload that fails says so and changes nothing.
    change(database, "ALTER TABLE address RENAME TO away")
    assert command(mi_socket, "permissions:address_reload")["error"]["message"] == "Failed to reload partition default"
    assert call("bob", "022").status == 200
    change(database, "ALTER TABLE away RENAME TO address")
    change(database, "DELETE FROM address WHERE grp = 1")
    assert command(mi_socket, "permissions:address_reload")["result"] == "OK"
    assert call("bob", "022").status == 403
