"""tcp_mgm: which row counts for a connection, what it changes, and rows that cannot be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from opensipspy import sip
from opensipspy.db import Database
from opensipspy.management import MiError
from opensipspy.module import ParamError, StartError
from opensipspy.module.testing import FakeCore
from opensipspy.modules.tcp_mgm import TCP_TABLE, TcpMgm
from opensipspy.net import TcpSettings, TcpTransport
from opensipspy.sip import Peer, Socket
from tests.modules.databases import database_with

URL = "sqlite:paths"


def play(rows: list[dict[str, Any]], scene: Callable[[TcpMgm, FakeCore, Database], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with database_with(TCP_TABLE) as database:
            for row in rows:
                await database.insert("tcp_mgm", row)
            module = TcpMgm(db_url=URL)
            core = FakeCore(databases={URL: database})
            core.add(module)
            await module.start()
            await scene(module, core, database)

    asyncio.run(run())


def test_priority_then_the_more_exact_row() -> None:
    rows: list[dict[str, Any]] = [
        {"con_lifetime": 1},
        {"con_lifetime": 2, "proto": "tls"},
        {"con_lifetime": 3, "remote_addr": "192.0.2.0/24"},
        {"con_lifetime": 4, "remote_addr": "192.0.2.7"},
        {"con_lifetime": 5, "remote_addr": "192.0.2.7", "remote_port": 5070},
        {"con_lifetime": 6, "remote_addr": "any", "local_addr": "10.0.0.1", "local_port": 5060, "priority": -1},
        {"con_lifetime": 7, "remote_addr": "2001:db8::/32"},
    ]

    async def scene(module: TcpMgm, core: FakeCore, database: Database) -> None:
        def found(proto: int, remote: str, port: int, local: str = "10.0.0.9") -> float:
            settings = module.api().find(proto, local, 5060, remote, port)
            return settings.lifetime_s if settings is not None else 0

        assert found(sip.PROTO_TCP, "198.51.100.1", 1) == 1
        assert found(sip.PROTO_TLS, "198.51.100.1", 1) == 2
        assert found(sip.PROTO_TCP, "192.0.2.9", 1) == 3
        assert found(sip.PROTO_WS, "192.0.2.7", 1) == 4
        assert found(sip.PROTO_TCP, "192.0.2.7", 5070) == 5
        assert found(sip.PROTO_TCP, "192.0.2.7", 5070, "10.0.0.1") == 6
        assert found(sip.PROTO_TCP, "2001:db8::7", 1) == 7

    play(rows, scene)


def test_a_row_takes_the_place_of_the_global_parameters() -> None:
    row = {
        "proto": "tcp",
        "remote_addr": "127.0.0.1",
        "connect_timeout": 250,
        "con_lifetime": 30,
        "msg_read_timeout": 2,
        "no_new_conn": 1,
        "alias_mode": 2,
        "keepalive": 0,
        "keepidle": 3,
        "attrs": "max_msg_chunks=9",
    }

    async def scene(module: TcpMgm, core: FakeCore, database: Database) -> None:
        transport = TcpTransport(lambda *_: None, asyncio.get_running_loop(), TcpSettings(max_chunks=4))
        transport.paths = module.api()
        socket = Socket(sip.PROTO_TCP, "127.0.0.1", 5060)
        made = transport.settings_for(socket, "127.0.0.1", 5061)
        assert (made.connect_timeout_s, made.lifetime_s, made.message_time_s, made.max_chunks) == (0.25, 30, 2, 9)
        assert (made.no_new_connection, made.alias_mode, made.keepalive, made.keepalive_idle_s) == (True, 2, False, 3)
        assert not transport.send(b"x", Peer(sip.PROTO_TCP, "127.0.0.1", 5061), socket)
        assert transport.settings_for(socket, "127.0.0.2", 5061) is transport.settings

    play([row], scene)


def test_a_reload_takes_new_rows_and_refuses_bad_ones() -> None:
    async def scene(module: TcpMgm, core: FakeCore, database: Database) -> None:
        def lifetime() -> float:
            found = module.api().find(sip.PROTO_TCP, "10.0.0.1", 5060, "192.0.2.1", 5060)
            return found.lifetime_s if found is not None else 0

        assert lifetime() == 0
        await database.insert("tcp_mgm", {"con_lifetime": 11})
        assert lifetime() == 0
        assert await core.mi.call("tcp_mgm:reload", {}) == "OK"
        assert lifetime() == 11
        await database.insert("tcp_mgm", {"proto": "udp"})
        with pytest.raises(MiError):
            await core.mi.call("tcp_reload", {})
        assert lifetime() == 11

    play([], scene)


@pytest.mark.parametrize(
    "row",
    [
        {"proto": "sctp"},
        {"remote_addr": "example.com"},
        {"remote_port": 70000},
        {"local_addr": "10.0.0.1", "remote_addr": "::1"},
        {"alias_mode": 3},
        {"attrs": "colour=blue"},
        {"attrs": "max_msg_chunks=many"},
    ],
)
def test_a_row_that_cannot_be_stops_the_start(row: dict[str, Any]) -> None:
    async def scene(*_: object) -> None:
        raise AssertionError("it starts")

    with pytest.raises(StartError, match=r"tcp_mgm"):
        play([row], scene)


def test_a_database_is_needed() -> None:
    module = TcpMgm()
    FakeCore().add(module)
    with pytest.raises(ParamError):
        asyncio.run(module.start())
