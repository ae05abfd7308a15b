"""aaa_diameter with peers that lie, stop in the middle, claim to be others, and come in storms."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from opensipspy.modules import aaa_diameter
from opensipspy.modules.aaa_diameter import node
from opensipspy.modules.aaa_diameter.codec import (
    DEVICE_WATCHDOG,
    DISCONNECT_PEER,
    ELECTION_LOST,
    MAX_FIRST,
    PROXIABLE,
    REQUEST,
    SUCCESS,
    UNKNOWN_PEER,
    Avp,
    Message,
    decode,
    encode,
    encode_avps,
)
from opensipspy.modules.aaa_diameter.dictionary import Dictionary
from tests.backends import free_port
from tests.diameter_peers import CLIENT, CX, CX_DICTIONARY, peer_text, until, write_files
from tests.modules.asynchronous import in_loop
from tests.modules.test_aaa_diameter import Client

NAMES = Dictionary()
NAMES.load(CX_DICTIONARY)


def message(command: int, avps: Sequence[Avp], application: int = 0, hop: int = 7, end: int = 9) -> Message:
    return Message(command, application, REQUEST, list(avps), hop, end)


def hello(name: str = "evil.t.test", realm: str = "t.test", *more: Avp) -> Message:
    """A Capabilities-Exchange-Request."""
    make = NAMES.make
    avps = [make("Origin-Host", name), make("Origin-Realm", realm), make("Host-IP-Address", "127.0.0.1")]
    avps += [make("Vendor-Id", 0), make("Product-Name", "x"), make("Acct-Application-Id", 3), *more]
    return message(257, avps)


def question(*more: Avp, end: int = 9) -> Message:
    """A Multimedia-Auth-Request that a script would see."""
    make = NAMES.make
    avps = [make("Session-Id", "a;b"), make("Origin-Host", "evil.t.test"), make("Origin-Realm", "t.test")]
    avps += [make("Destination-Realm", "t.test"), make("User-Name", "u"), *more]
    made = message(303, avps, CX, end=end)
    made.flags |= PROXIABLE
    return made


class Stranger:
    """A connection that says what the test wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, *what: Message | bytes) -> None:
        for data in what:
            self._writer.write(data if isinstance(data, bytes) else encode(data))

    async def answer(self) -> Message:
        async with asyncio.timeout(10):
            head = await self._reader.readexactly(4)
            return decode(head + await self._reader.readexactly(int.from_bytes(head[1:], "big") - 4))

    async def introduced(self, name: str = "evil.t.test") -> None:
        self.send(hello(name))
        assert (await self.answer()).number(268) == SUCCESS

    async def ended(self) -> bool:
        """Once the server has closed the connection."""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(10):
                while await self._reader.read(65536):
                    pass
        return True

    async def close(self) -> None:
        self._writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


class Scene:
    """A server that admits anybody of its realm, and the strangers."""

    def __init__(self, client: Client, port: int) -> None:
        self.client = client
        self.port = port
        self.strangers: list[Stranger] = []

    @property
    def node(self) -> node.Node:
        return self.client.node

    async def stranger(self) -> Stranger:
        self.strangers.append(Stranger(*await asyncio.open_connection("127.0.0.1", self.port)))
        return self.strangers[-1]

    async def works(self) -> None:
        """Whether an honest peer is served."""
        peer = await self.stranger()
        await peer.introduced("honest.t.test")
        peer.send(message(DEVICE_WATCHDOG, hello("honest.t.test").avps[:2]))
        assert (await peer.answer()).number(268) == SUCCESS
        await peer.close()
        await until(lambda: "honest.t.test" not in self.node.links)


@contextlib.asynccontextmanager
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    port = free_port()
    (tmp_path / "acl").write_text("*.t.test\n", encoding="utf-8")
    url = write_files(tmp_path, f'LoadExtension = "acl_wl.fdx" : "{tmp_path}/acl";\n', port)
    client = Client(url)
    client.core.program = SimpleNamespace(event_routes=[("E_DM_REQUEST", None)])
    async with client:
        made = Scene(client, port)
        try:
            yield made
        finally:
            for stranger in made.strangers:
                await stranger.close()


LIES: dict[str, bytes] = {
    "another version": b"\x02\x00\x00\x14" + bytes(16),
    "shorter than a header": b"\x01\x00\x00\x10" + bytes(16),
    "no multiple of four": b"\x01\x00\x00\x15" + bytes(17),
    "larger than allowed": b"\x01\xff\xff\xfc" + bytes(64),
    "an AVP of length 0": b"\x01\x00\x00\x1c\x80\x00\x01\x18" + bytes(12) + b"\x00\x00\x01\x08\x40\x00\x00\x00",
    "an AVP of length 7": b"\x01\x00\x00\x1c\x80\x00\x01\x18" + bytes(12) + b"\x00\x00\x01\x08\x40\x00\x00\x07",
    "an AVP beyond the end": b"\x01\x00\x00\x1c\x80\x00\x01\x18" + bytes(12) + b"\x00\x00\x01\x08\x40\x00\x00\x40",
    "a vendor that is cut off": b"\x01\x00\x00\x1c\x80\x00\x01\x18" + bytes(12) + b"\x00\x00\x01\x08\xc0\x00\x00\x08",
    "half an AVP": b"\x01\x00\x00\x18\x80\x00\x01\x18" + bytes(12) + b"\x00\x00\x01\x08",
    "5000 AVPs": encode(message(280, [Avp(1, b"")] * 5000)),
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("introduced", [False, True], ids=["first", "later"])
@pytest.mark.parametrize("lie", list(LIES))
@in_loop
async def test_what_is_no_message_ends_the_connection(lie: str, introduced: bool, tmp_path: Path) -> None:
    """RFC 6733 §7.1.5, §3: lengths that lie end this connection, and only this one."""
    async with scene(tmp_path) as made:
        liar = await made.stranger()
        if introduced:
            await liar.introduced()
        liar.send(LIES[lie])
        assert await liar.ended()
        await until(lambda: not made.node.links)
        await made.works()


@in_loop
async def test_half_a_message_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who says hello in pieces is heard; who stops in the middle is left after a while."""
    async with scene(tmp_path) as made:
        slow, silent, half = await made.stranger(), await made.stranger(), await made.stranger()
        data = encode(hello())
        half.send(data[:30])
        for octet in range(len(data)):
            slow.send(data[octet : octet + 1])
        assert (await slow.answer()).number(268) == SUCCESS
        await made.works()
    monkeypatch.setattr(node, "HANDSHAKE_S", 0.05)
    async with scene(tmp_path) as made:
        silent, half = await made.stranger(), await made.stranger()
        half.send(data[:30])
        assert await silent.ended()
        assert await half.ended()


@in_loop
async def test_a_stranger_may_not_say_much(tmp_path: Path) -> None:
    """Before it is known who somebody is, a message has less room."""
    async with scene(tmp_path) as made:
        loud = await made.stranger()
        loud.send(hello("evil.t.test", "t.test", Avp(9999, bytes(MAX_FIRST), flags=0)))
        assert await loud.ended()
        friend = await made.stranger()
        await friend.introduced()
        friend.send(question(Avp(9999, bytes(MAX_FIRST), flags=0)))
        await until(lambda: made.client.module._waiting)


@pytest.mark.parametrize(
    ("first", "result"),
    [
        (hello("evil.other.test"), UNKNOWN_PEER),
        (hello(CLIENT), UNKNOWN_PEER),
        (hello(CLIENT.upper()), UNKNOWN_PEER),
        (hello("evil.t.test\0.other.test"), UNKNOWN_PEER),
        (hello(""), None),
        (hello("evil.t.test", ""), None),
        (message(DEVICE_WATCHDOG, hello().avps), None),
        (question(), None),
        (Message(257, 0, 0, hello().avps), None),
        (hello("evil.t.test", "t.test", Avp(260, b"\0\0\1\2\x40\0\0\x40")), None),
    ],
    ids=["other realm", "us", "us in capitals", "NUL", "nobody", "no realm", "watchdog", "question", "answer", "group"],
)
@in_loop
async def test_other_identities_are_refused(first: Message, result: int | None, tmp_path: Path) -> None:
    """RFC 6733 §5.3: who may not come gets 3010; who says nothing of himself gets nothing."""
    async with scene(tmp_path) as made:
        stranger = await made.stranger()
        stranger.send(first)
        if result is not None:
            assert (await stranger.answer()).number(268) == result
        assert await stranger.ended()
        assert not made.node.links
        await made.works()


@in_loop
async def test_a_second_connection_does_not_take_the_place_of_the_first(tmp_path: Path) -> None:
    """RFC 6733 §5.6.4: whoever claims the identity of an open peer loses the election."""
    async with scene(tmp_path) as made:
        honest, thief = await made.stranger(), await made.stranger()
        await honest.introduced("hss.t.test")
        thief.send(hello("HSS.t.test"))
        assert (await thief.answer()).number(268) == ELECTION_LOST
        assert await thief.ended()
        honest.send(message(DEVICE_WATCHDOG, hello("hss.t.test").avps[:2]))
        assert (await honest.answer()).number(268) == SUCCESS
        honest.send(hello("hss.t.test"))
        assert await honest.ended()


@in_loop
async def test_groups_within_groups_end(tmp_path: Path) -> None:
    """RFC 6733 §4.4: a group may hold itself, as often as there is room; we stop at a depth and close."""
    async with scene(tmp_path) as made:
        for depth, is_kept in ((10, True), (300, False)):
            stranger = await made.stranger()
            await stranger.introduced()
            data = b""
            for _ in range(depth):
                data = encode_avps([Avp(279, data)])
            stranger.send(question(Avp(279, data), end=depth))
            if is_kept:
                await until(lambda: made.client.module._waiting)
                await stranger.close()
            else:
                assert await stranger.ended()
            await until(lambda: not made.node.links)
        await made.works()


@in_loop
async def test_answers_that_nobody_waits_for(tmp_path: Path) -> None:
    """RFC 6733 §3: only the answer with the hop-by-hop identifier and the command of a request is its answer."""
    port = free_port()
    came: list[Message] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Stranger(reader, writer)
        with contextlib.suppress(ConnectionError, EOFError, TimeoutError):
            request = await peer.answer()
            answer = hello("hss.t.test")
            answer.flags, answer.hop_by_hop, answer.end_to_end = 0, request.hop_by_hop, request.end_to_end
            answer.avps.insert(0, NAMES.make("Result-Code", SUCCESS))
            peer.send(answer)
            while True:
                request = await peer.answer()
                came.append(request)
                avps = [NAMES.make("Result-Code", 5012), *hello("hss.t.test").avps[:2]]
                hop, end = request.hop_by_hop, request.end_to_end
                peer.send(Message(271, 3, 0, avps, hop ^ 1, end), Message(303, 3, 0, avps, hop, end))
                peer.send(Message(280, 0, 0, avps, hop, end), Message(271, 3, 0, avps, 0, 0))
                avps = [NAMES.make("Result-Code", SUCCESS), *avps[1:]]
                good = Message(271, 3, 0, avps, hop, end)
                bad = Message(271, 3, 0, [NAMES.make("Result-Code", 5012)], hop, end)
                peer.send(good, bad, good)
        await peer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    async with Client(write_files(tmp_path, peer_text("hss.t.test", port))) as client:
        await client.open("hss.t.test")
        for _ in range(3):
            code, avps = await client.send()
            assert (code, avps[0]) == (1, {"Result-Code": SUCCESS})
        assert not client.node.links["hss.t.test"].pending
    server.close()
    await server.wait_closed()
    assert len({request.hop_by_hop for request in came[:3]}) == 3


@in_loop
async def test_a_storm_of_connections_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Peers that come and go, with and without a word of leave."""
    monkeypatch.setattr(aaa_diameter, "MAX_SHOWN", 5)
    async with scene(tmp_path) as made:
        tasks = len(asyncio.all_tasks())
        for number in range(150):
            stranger = await made.stranger()
            await stranger.introduced(f"p{number % 7}.t.test" if number % 3 else "one.t.test")
            if number % 2:
                leave = message(DISCONNECT_PEER, [*hello().avps[:2], NAMES.make("Disconnect-Cause", 0)])
                stranger.send(leave)
                assert (await stranger.answer()).number(268) == SUCCESS
            await stranger.close()
            await until(lambda: not made.node.links)
        await until(lambda: len(asyncio.all_tasks()) == tasks)
        assert not made.node._incoming
        assert not made.node._tasks
        shown = made.client.core.status.group("aaa") or {}
        assert len(shown) == 5, "names that the file does not have are shown up to a number"
        await made.works()


@in_loop
async def test_silent_connections_leave_room_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One address holds only so many connections that say nothing."""
    monkeypatch.setattr(node, "MAX_UNKNOWN", 3)
    async with scene(tmp_path) as made:
        known = await made.stranger()
        await known.introduced("known.t.test")
        silent = [await made.stranger() for _ in range(3)]
        await until(lambda: len(made.node._incoming) == 4)
        assert await (await made.stranger()).ended()
        await silent[0].close()
        await until(lambda: len(made.node._incoming) == 3)
        await made.works()
