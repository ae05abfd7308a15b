"""What is believed of the answers of name servers, with a name server of the test's own that says what it is told."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence

import pytest

from opensipspy.net import cares
from opensipspy.net.cares import CaresClient

A = 1
CNAME = 5
Row = tuple[str, int, int, bytes]
"""Owner, type, TTL, data."""


def wire(name: str) -> bytes:
    return b"".join(bytes((len(label),)) + label.encode() for label in name.split(".")) + b"\0"


def address(text: str) -> bytes:
    return socket.inet_aton(text)


class NameServer:
    """Answers each question with what `answers` holds for its name and type; NOERROR without records otherwise."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, int], Sequence[Row]] = {}
        self.asked: list[tuple[str, int]] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.place = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            data, asker = self._socket.recvfrom(4096)
            if not data:
                self._socket.close()
                return
            labels, at = [], 12
            while data[at]:
                labels.append(data[at + 1 : at + 1 + data[at]].decode().lower())
                at += 1 + data[at]
            kind = int.from_bytes(data[at + 1 : at + 3], "big")
            question = (".".join(labels), kind)
            self.asked.append(question)
            rows = self.answers.get(question, ())
            reply = data[:2] + b"\x81\x80\0\1" + len(rows).to_bytes(2, "big") + bytes(4) + data[12 : at + 5]
            for owner, of, ttl, content in rows:
                reply += wire(owner) + of.to_bytes(2, "big") + b"\0\1" + ttl.to_bytes(4, "big")
                reply += len(content).to_bytes(2, "big") + content
            self._socket.sendto(reply, asker)

    def stop(self) -> None:
        host, _, port = self.place.partition(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.sendto(b"", (host, int(port)))
        self._thread.join()


@pytest.fixture
def server() -> Iterator[NameServer]:
    made = NameServer()
    yield made
    made.stop()


def ask(server: NameServer, name: str) -> list[tuple[str, float]]:
    async def scene() -> list[tuple[str, float]]:
        client = CaresClient([server.place], 1, 5.0)
        found = await client.query(name, "A")
        await client.close()
        return [(record.target, record.ttl) for record in found]

    return asyncio.run(scene())


def test_an_address_lives_no_longer_than_the_alias_that_leads_to_it(server: NameServer) -> None:
    """RFC 1034 §3.6.2: who moves a service to another host changes the CNAME, whose TTL says how soon that counts."""
    server.answers["sip.test", A] = (
        ("sip.test", CNAME, 900, wire("now.test")),
        ("now.test", CNAME, 5, wire("host.test")),
        ("host.test", A, 86400, address("192.0.2.1")),
    )
    assert ask(server, "SIP.test.") == [("192.0.2.1", 5)]


def test_an_address_of_another_name_is_no_answer(server: NameServer) -> None:
    """RFC 5452 §6: what was not asked for is not believed, whichever place it has in the answer."""
    server.answers["mine.test", A] = (
        ("bank.test", A, 60, address("192.0.2.66")),
        ("host.test", A, 60, address("192.0.2.1")),
        ("mine.test", CNAME, 60, wire("host.test")),
    )
    assert ask(server, "mine.test") == [("192.0.2.1", 60)]


def test_aliases_in_a_circle_lead_nowhere(server: NameServer) -> None:
    server.answers["a.test", A] = (("a.test", CNAME, 60, wire("b.test")), ("b.test", CNAME, 60, wire("a.test")))
    assert ask(server, "a.test") == []


def test_that_a_name_has_nothing_is_not_believed_for_an_hour(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 2308 §5: an answer without SOA is not to be kept; the records that come later are found."""
    monkeypatch.setattr(cares, "NOTHING_S", 0.01)

    async def scene() -> list[str]:
        client = CaresClient([server.place], 1, 5.0)
        assert await client.query("new.test", "A") == []
        server.answers["new.test", A] = (("new.test", A, 60, address("192.0.2.1")),)
        async with asyncio.timeout(20):
            found = []
            while not found:
                await asyncio.sleep(0.01)
                found = await client.query("new.test", "A")
        await client.close()
        return [record.target for record in found]

    assert asyncio.run(scene()) == ["192.0.2.1"]


def test_a_client_is_closed_while_it_means_to_forget(server: NameServer) -> None:
    assert ask(server, "nothing.test") == []
