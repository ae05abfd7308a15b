"""NULL in place of texts, as an AVP that was never set: the call fails, as in the C server, and lets nobody in."""

from __future__ import annotations

from pathlib import Path

import pytest

from opensipspy.module.testing import request
from opensipspy.modules.acc import ACC
from opensipspy.modules.alias_db import ALIAS_TABLE
from opensipspy.modules.auth_db import SUBSCRIBER, URI
from opensipspy.server.simulation import Simulation
from tests.modules.tables import make_tables

MODULES = ("db_sqlite", "sl", "signaling", "tm", "rr", "auth", "auth_db", "permissions", "alias_db", "userblacklist")
CALLS = (
    'db_does_uri_exist($avp(none), "subscriber")',
    'db_get_auth_id("uri", $avp(none), $avp(a), $avp(b))',
    'allow_uri("files", $avp(none))',
    'alias_db_find("dbaliases", "sip:a@b", $avp(a), $avp(none))',
    'alias_db_lookup("dbaliases", $avp(none))',
    'check_user_blacklist($avp(none), "example.com", "4930")',
    'check_user_blacklist("alice", $avp(none), "4930")',
    "acc_log_request($avp(none))",
    "acc_evi_request($avp(none))",
    'acc_db_request($avp(none), "acc")',
    'acc_db_request("200 Fine", $avp(none))',
    'aka_av_add("a", "b", $avp(none), "00", "00", "00")',
)


@pytest.mark.parametrize("call", CALLS)
def test_null_is_no_text(tmp_path: Path, call: str) -> None:
    database, script = tmp_path / "test.sqlite", tmp_path / "opensips.cfg"
    make_tables(database, SUBSCRIBER, URI, ALIAS_TABLE, ACC)
    modules = "\n".join(f'loadmodule "{name}.so"' for name in (*MODULES, "acc", "auth_aka"))
    owners = ("auth_db", "alias_db", "userblacklist", "acc")
    urls = "\n".join(f'modparam("{name}", "db_url", "sqlite:{database}")' for name in owners)
    script.write_text(
        f"""
log_level=3
socket=udp:127.0.0.1:5060
loadmodule "proto_udp.so"
{modules}
{urls}
route {{
    {call};
    xlog("@ $rc\\n");
}}
"""
    )
    with Simulation(str(script)) as site:
        site.receive(request("OPTIONS", "sip:b@127.0.0.1"))
        assert [line.partition("@ ")[2].strip() for line in site.log if "@ " in line] == ["-1"]
