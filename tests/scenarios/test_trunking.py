"""Calls through the shipped trunk script: who is a customer, the carrier's turn, and the next one when it is ill."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from opensipspy.cli.db import create
from tests.scenarios.peer import Phone
from tests.scenarios.server import ServerProcess, shipped

pytestmark = pytest.mark.scenario

ROW = "INSERT INTO address (grp, ip, mask, port, proto, context_info) VALUES (?, '127.0.0.1', 32, ?, 'any', ?)"


class Trunk:
    """The server, a customer, a stranger and two carriers."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.customer, self.stranger = Phone("pbx", ("127.0.0.1", port)), Phone("eve", ("127.0.0.1", port))
        self.first, self.second = Phone("one", ("127.0.0.1", port)), Phone("two", ("127.0.0.1", port))

    def close(self) -> None:
        for phone in (self.customer, self.stranger, self.first, self.second):
            phone.close()

    def invite(self, caller: Phone, number: str) -> str:
        text = caller.request("INVITE", f"sip:{number}@127.0.0.1:{self.port}")
        caller.send(text)
        return text


@pytest.fixture
def trunk(start_server: Callable[..., ServerProcess], free_port: Callable[[], int], tmp_path: Path) -> Iterator[Trunk]:
    made = Trunk(free_port())
    url = f"sqlite:{tmp_path}/trunk.sqlite"
    create(url, ["permissions"])
    with sqlite3.connect(tmp_path / "trunk.sqlite") as database:
        database.execute(ROW, (1, made.customer.port, "acme"))
        database.execute(ROW, (2, made.first.port, None))
    database.close()
    text = shipped("trunking.cfg")
    for old, new in {
        "udp:127.0.0.1:5060": f"udp:127.0.0.1:{made.port}",
        'sqlite:opensipspy.sqlite")': f'{url}")',
        '"5081"': f'"{made.first.port}"',
        '"5082"': f'"{made.second.port}"',
    }.items():
        assert old in text
        text = text.replace(old, new)
    start_server(text)
    yield made
    made.close()


def test_a_call_of_a_customer_reaches_the_carrier_in_e164_form(trunk: Trunk) -> None:
    trunk.invite(trunk.customer, "004930123456")
    received = trunk.first.expect("INVITE")
    assert received.request_uri == f"sip:+4930123456@127.0.0.1:{trunk.first.port}"
    trunk.first.send(trunk.first.reply(received, 486, "Busy Here"))
    # What the called person says is not overruled.
    trunk.customer.expect(486)
    trunk.second.expect_nothing(0.2)


def test_the_next_carrier_is_tried_when_the_first_is_ill(trunk: Trunk) -> None:
    invite = trunk.invite(trunk.customer, "004930123456")
    received = trunk.first.expect("INVITE")
    trunk.first.send(trunk.first.reply(received, 503, "Service Unavailable"))
    again = trunk.second.expect("INVITE")
    assert again.request_uri == f"sip:+4930123456@127.0.0.1:{trunk.second.port}"
    trunk.second.send(trunk.second.reply(again, 200))
    trunk.customer.send(trunk.customer.ack(trunk.customer.expect(200), invite))
    trunk.second.expect("ACK")


def test_who_is_refused(trunk: Trunk) -> None:
    for caller, number, status in (
        (trunk.stranger, "+4930123456", 403),
        (trunk.first, "+4930123456", 404),
        (trunk.customer, "12", 484),
    ):
        trunk.invite(caller, number)
        caller.expect(status)
    trunk.second.expect_nothing(0.2)
