"""sockets_mgm: listening points that follow a table."""

from __future__ import annotations

from typing import Any

import pytest

from opensipspy import sip
from opensipspy.management import MiError
from opensipspy.module import ParamError
from opensipspy.module.testing import FakeCore
from opensipspy.modules.sockets_mgm import SOCKETS_TABLE, Row, SocketsMgm, read_socket
from tests.modules.asynchronous import in_loop
from tests.modules.databases import database_with

URL = "sqlite:sockets"


def row(socket: str, **given: str) -> Row:
    return (socket, *(given.get(name, "") for name in ("advertised", "tag", "flags", "tos")))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("given", "text", "words"),
    [
        (row("udp:127.0.0.1:5070"), "udp:127.0.0.1:5070", {}),
        (row("tls:192.0.2.1"), "tls:192.0.2.1:5061", {}),
        (row("TCP:[2001:db8::1]:5080"), "tcp:[2001:db8::1]:5080", {}),
        (
            row("udp:127.0.0.1:5070", flags="reuse_port, frag", tos="0x10"),
            "udp:127.0.0.1:5070",
            {"reuse_port": 1, "frag": 1, "tos": 16},
        ),
    ],
)
def test_rows(given: Row, text: str, words: dict[str, int]) -> None:
    """The manual: protocol, address and port; flags and TOS as on a socket= line."""
    socket, found = read_socket(given)
    assert (socket.text, found) == (text, words)


@pytest.mark.parametrize(
    "given",
    [
        row(""),
        row("127.0.0.1:5060"),
        row("udp:eth0:5060"),
        row("udp:sip.example.org:5060"),
        row("udp:127.0.0.1:0"),
        row("udp:127.0.0.1:70000"),
        row("smtp:127.0.0.1:25"),
        row("udp:127.0.0.1:5060", flags="nonsense"),
        row("udp:127.0.0.1:5060", tos="1000"),
        row("udp:127.0.0.1:5060", tos="high"),
        row("udp:127.0.0.1:5060", advertised="a b:5060"),
        row("udp:127.0.0.1:5060", advertised="host:x"),
        row("udp:127.0.0.1:5060", tag="a;b"),
    ],
)
def test_rows_that_cannot_be(given: Row) -> None:
    """The manual: one address and port, no interface and no name."""
    with pytest.raises(ValueError):  # noqa: PT011 - ipaddress's and our own
        read_socket(given)


@in_loop
async def test_the_table_is_followed() -> None:
    """The manual: a reload adds what is new and removes what is gone; the script's own sockets stay."""
    async with database_with(SOCKETS_TABLE) as database:
        core = FakeCore(databases={URL: database})
        own = core.sockets[0]
        first: dict[str, Any] = {"socket": "udp:127.0.0.1:5070", "tag": "extra", "advertised": "198.51.100.1:5090"}
        await database.insert("sockets", first)
        module = core.add(SocketsMgm(db_url=URL, max_sockets=3))
        await module.launch()
        assert [socket.text for socket in core.sockets] == ["udp:127.0.0.1:5060", "udp:127.0.0.1:5070"]
        extra = core.sockets[1]
        assert (extra.tag, extra.via_host, extra.via_port) == ("extra", "198.51.100.1", 5090)
        await database.insert("sockets", {"socket": "udp:127.0.0.1:5071", "flags": "reuse_port", "tos": "16"})
        assert await core.mi_call("sockets_reload") == "OK"
        assert core.sockets[1] is extra
        assert await core.mi_call("sockets_mgm:list") == [
            {"socket": "udp:127.0.0.1:5070", "advertised": "198.51.100.1:5090", "tag": "extra"},
            {"socket": "udp:127.0.0.1:5071", "flags": "reuse_port", "tos": 16},
        ]
        # Another tag: the point is closed, and opened anew in the same place.
        await database.update("sockets", {"tag": "other"}, [("socket", "=", "udp:127.0.0.1:5070")])
        await core.mi_call("sockets_reload")
        assert {socket.tag for socket in core.sockets} == {"", "other"}
        await database.delete("sockets", [])
        await core.mi_call("sockets_reload")
        assert core.sockets == [own]
        await module.shutdown()


@in_loop
async def test_what_cannot_be_opened_is_told() -> None:
    """The other sockets are opened all the same."""
    async with database_with(SOCKETS_TABLE) as database:
        core = FakeCore(databases={URL: database})
        module = core.add(SocketsMgm(db_url=URL, max_sockets=3))
        await module.launch()
        for port in (5060, 5070):
            await database.insert("sockets", {"socket": f"udp:127.0.0.1:{port}"})
        with pytest.raises(MiError) as caught:
            await core.mi_call("sockets_reload")
        assert caught.value.data == ["udp:127.0.0.1:5060: Address already in use"]
        assert len(await core.mi_call("sockets_list")) == 1
        for port in (5080, 5081, 5082):
            await database.insert("sockets", {"socket": f"udp:127.0.0.1:{port}"})
        with pytest.raises(MiError):
            await core.mi_call("sockets_reload")
        assert len(core.sockets) <= 4


@pytest.mark.parametrize("params", [{"max_sockets": 0}, {"processes": 0}])
@in_loop
async def test_parameters_that_cannot_be(params: dict[str, int]) -> None:
    core = FakeCore()
    with pytest.raises(ParamError):
        await core.add(SocketsMgm(db_url=URL, **params)).launch()


def test_protocols() -> None:
    """Every protocol of SIP may be named; whether a module serves it is found when it is opened."""
    for name in ("udp", "tcp", "tls", "ws", "wss", "sctp"):
        assert read_socket(row(f"{name}:127.0.0.1:5070"))[0].proto == sip.proto_number(name)
