"""aaa_diameter: the codec, the dictionary, and the peer against python-diameter, freeDiameter and peers of its own."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opensipspy.module import ParamError
from opensipspy.module.testing import FakeCore, make_run, make_var, request
from opensipspy.modules.aaa_diameter import AaaDiameter
from opensipspy.modules.aaa_diameter.codec import (
    DEVICE_WATCHDOG,
    REQUEST,
    RETRANSMITTED,
    Avp,
    DiameterError,
    Framer,
    Message,
    decode,
    encode,
)
from opensipspy.modules.aaa_diameter.config import ConfigError, parse_config, parse_url
from opensipspy.modules.aaa_diameter.dictionary import Dictionary, DictionaryError
from opensipspy.modules.aaa_diameter.node import Node
from opensipspy.script.kinds import EVENT
from tests.backends import free_port
from tests.diameter_peers import (
    CLIENT,
    CX,
    FreeDiameter,
    Other,
    end,
    hss,
    peer_text,
    start_hss,
    success,
    until,
    write_files,
)
from tests.modules.asynchronous import in_loop

MANUAL = """
ATTRIBUTE out_gw            232 string
ATTRIBUTE call_cost         235 integer
ATTRIBUTE Exponent          429 integer32
ATTRIBUTE Value-Digits      447 integer64
ATTRIBUTE Currency-Code     425 unsigned32
ATTRIBUTE Unit-Value  445 grouped
{
	Value-Digits | REQUIRED | 1
	Exponent | OPTIONAL | 1
}
ATTRIBUTE Cost-Information  423 grouped
{
	Unit-Value | REQUIRED | 1
	Currency-Code | REQUIRED | 1
}
ATTRIBUTE Where 900 ip
ATTRIBUTE When 901 time
ATTRIBUTE Raw 902 hexstring
APPLICATION 42 My Diameter Application
REQUEST 92001 My-Custom-Request
{
	Origin-Host | REQUIRED | 1
	out_gw | REQUIRED | 1
}
"""


# --- octets


def test_a_message_is_laid_out_as_rfc_6733_sections_3_and_4_say() -> None:
    message = Message(280, 0, REQUEST, [Avp(264, b"a.b.c"), Avp(601, b"x", 10415)], 1, 2)
    assert encode(message) == bytes.fromhex(
        "01000034 80000118 00000000 00000001 00000002"
        "00000108 4000000d 612e622e63 000000"
        "00000259 c000000d 000028af 78 000000"
    )
    again = decode(encode(message))
    assert again.avps == message.avps
    assert again.is_request
    assert again.text(264) == "a.b.c"


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_no_octets_crash_the_codec(data: bytes) -> None:
    framer = Framer()
    try:
        pieces = list(framer.feed(data))
        assert sum(map(len, pieces)) <= len(data)
        for piece in pieces:
            decode(piece)
    except DiameterError:
        pass
    header = b"\x01" + (20 + len(data)).to_bytes(3, "big") + bytes(16)
    try:
        Dictionary().decode(decode(header + data).avps)
    except DiameterError:
        pass


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_changed_message_is_read_or_refused(data: Any) -> None:
    known = Dictionary()
    known.load(MANUAL)
    avps = known.encode([{"Session-Id": "a"}, {"Cost-Information": [{"Unit-Value": [{"Value-Digits": 7}]}]}])
    octets = bytearray(encode(Message(271, 3, REQUEST, avps)))
    for _ in range(data.draw(st.integers(1, 4))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = known.decode(decode(bytes(octets)).avps)
        assert json.loads(json.dumps(read, allow_nan=False)) == read
    except DiameterError:
        pass


def test_messages_are_cut_from_a_stream_wherever_its_pieces_end() -> None:
    stream = encode(Message(280, 0, REQUEST, [Avp(264, b"a")])) * 3
    framer = Framer()
    found = [piece for i in range(len(stream)) for piece in framer.feed(stream[i : i + 1])]
    assert b"".join(found) == stream
    assert len(found) == 3


@pytest.mark.parametrize("start", [b"\x02\0\0\x14", b"\x01\0\0\x10", b"\x01\0\0\x15", b"\x01\xff\xff\xfc", b"GET "])
def test_a_stream_of_something_else_is_refused_at_its_first_word(start: bytes) -> None:
    with pytest.raises(DiameterError):
        Framer().feed(start)


def test_groups_in_groups_have_an_end() -> None:
    known = Dictionary()
    data = b""
    for _ in range(40):
        data = encode(Message(1, 0, 0, [Avp(279, data)]))[20:]
    with pytest.raises(DiameterError, match="deeper"):
        known.decode([Avp(279, data)])


# --- names and values


def test_json_becomes_avps_and_back_as_in_the_manual() -> None:
    known = Dictionary()
    known.load(MANUAL)
    avps: list[dict[str, object]] = [
        {"Session-Id": "a59c-dff0d9efd167"},
        {"Sip-Call-Duration": 6},
        {"out_gw": "GW-774"},
        {"call_cost": -10},
        {"Cost-Information": [{"Unit-Value": [{"Value-Digits": 1 << 40}]}, {"Currency-Code": 35}]},
        {"Where": "2001:db8::1"},
        {"When": 1700000000},
        {"Raw": "00ff"},
    ]
    assert known.decode(decode(encode(Message(92001, 42, REQUEST, known.encode(avps)))).avps) == avps
    assert known.encode([{"232": "x"}])[0].code == 232


@pytest.mark.parametrize(
    "avps",
    [
        {"Session-Id": "a"},
        ["Session-Id"],
        [{"Session-Id": "a", "User-Name": "b"}],
        [{"No-Such": 1}],
        [{"Result-Code": "2001"}],
        [{"Result-Code": -1}],
        [{"Result-Code": True}],
        [{"Session-Id": 7}],
        [{"Raw": "0g"}],
        [{"Cost-Information": "x"}],
        [{"Session-Id": chr(0xD800)}],
        [{chr(0xD800): 1}],
        [{"When": float("nan")}],
        [{"When": float("inf")}],
        [{"Result-Code": float("nan")}],
    ],
)
def test_json_that_is_no_avps_is_refused(avps: object) -> None:
    known = Dictionary()
    known.load(MANUAL)
    with pytest.raises(DiameterError) as refused:
        known.encode(avps)
    assert str(refused.value).isascii()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("ATTRIBUTE x\n", 1),
        ("\nATTRIBUTE x 1 nonsense\n", 2),
        ("ATTRIBUTE x 0 string\n", 1),
        ("# fine\nNOTHING 1\n", 2),
        ("APPLICATION-AUTH 1/77 Name\n", 1),
        ("REQUEST 1 Name\n{\nNo-Such | REQUIRED | 1\n}\n", 3),
        ("REQUEST 1 Name\n{\nSession-Id | MAYBE | 1\n}\n", 3),
        ("REQUEST 1 Name\n{\n", 1),
    ],
)
def test_a_wrong_line_of_a_dictionary_is_named(text: str, line: int) -> None:
    with pytest.raises(DictionaryError) as caught:
        Dictionary().load(text)
    assert caught.value.line == line


def test_a_configuration_file_of_freediameter_is_read() -> None:
    config = parse_config(
        '# a comment\nIdentity = "a.b.c";\nPort = 3870;\nSecPort = 0;\nNo_SCTP;\nTwTimer = 6;\n'
        'ListenOn = "127.0.0.1";\n'
        'TLS_Cred = "c.pem", "k.pem";\nLoadExtension = "dict_sip.fdx";\nLoadExtension = "acl_wl.fdx" : "acl";\n'
        'ConnectPeer = "hss.b.c" { ConnectTo = "192.0.2.1"; Port = 3868; No_TLS; Realm = "b.c"; TcTimer = 5; };\n'
    )
    assert (config.identity, config.realm, config.port, config.watchdog_s) == ("a.b.c", "b.c", 3870, 6.0)
    assert config.listen_on == ["127.0.0.1"]
    assert config.allow_files == ["acl"]
    peer = config.peers[0]
    assert (peer.identity, peer.address, peer.port, peer.connect_s) == ("hss.b.c", "192.0.2.1", 3868, 5.0)
    config.allowed = ["*.x.org"]
    assert config.admits("HSS.b.c")
    assert config.admits("a.x.org")
    assert not config.admits("x.org")


@pytest.mark.parametrize(
    "text",
    [
        "",
        'Identity = "a"',
        'Identity = "a.b"; Nonsense = 1;',
        'Identity = "a.b"; Port = 70000;',
        'Identity = "a.b"; ConnectPeer = "c" { ConnectTo = "d" };',
        'Identity = "a.b"; ConnectPeer = "c";',
        'Identity = "a.b"; TLS_Cred = "c", "k"; ConnectPeer = "c";',
        'Identity = "a.b"; TLS_Cred = "c";',
        'Identity = "a.b"; ConnectPeer = "c" { No_TLS; TLS_Old_Method; };',
        "Identity = $;",
    ],
)
def test_a_wrong_configuration_file_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_config(text)


def test_the_url_names_both_files() -> None:
    assert parse_url("diameter:fd.conf;extra-avps-file:dictionary.opensips") == ("fd.conf", "dictionary.opensips")
    assert parse_url("diameter:fd.conf") == ("fd.conf", "")
    for url in ("radius:x", "diameter:", "diameter:a;b:c"):
        with pytest.raises(ConfigError):
            parse_url(url)


# --- real peers

ACCOUNTING = [{"Session-Id": "a;1;3"}, {"Accounting-Record-Type": 1}, {"Accounting-Record-Number": 0}]


class Client:
    """The module with a core around it."""

    def __init__(self, url: str, **params: Any) -> None:
        self.core = FakeCore()
        self.core.script_folder = ""
        self.core.now = asyncio.get_running_loop().time  # type: ignore[method-assign]
        self.module = self.core.add(AaaDiameter(aaa_url=url, **params))

    @property
    def node(self) -> Node:
        assert self.module.node is not None
        return self.module.node

    async def __aenter__(self) -> Client:
        await self.module.launch()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.module.shutdown()

    async def open(self, *names: str) -> None:
        for name in names:
            await asyncio.wait_for(self.node.wait_open(name), 10)

    async def send(self, avps: object = ACCOUNTING, application: int = 3, command: int = 271) -> tuple[int, Any]:
        run = make_run(request("OPTIONS"), core=self.core)
        code = await self.core.call("dm_send_request", run, application, command, json.dumps(avps), make_var("r"))
        reply = run.vars.get("r")
        return code, None if reply is None else json.loads(str(reply))


@in_loop
async def test_a_real_peer_answers_dies_and_answers_again(tmp_path: Path) -> None:
    port = free_port()
    child = start_hss(port)
    try:
        async with Client(write_files(tmp_path, peer_text("hss.t.test", port))) as client:
            await client.open("hss.t.test")
            shown = (client.core.status.group("aaa") or {})["hss.t.test"]
            code, avps = await client.send()
            assert (code, shown.status, shown.details) == (1, 1, "connected over TCP")
            assert {"Result-Code": 2001} in avps
            end(child)
            await until(lambda: not client.node.links)
            assert (shown.status, shown.details.partition(":")[0]) == (-1, "lost")
            assert await client.send() == (-1, None)
            child = start_hss(port)
            await client.open("hss.t.test")
            assert (await client.send())[0] == 1
            assert shown.status == 1
    finally:
        end(child)


@in_loop
async def test_a_real_peer_asks_us_and_the_event_route_answers(tmp_path: Path) -> None:
    port = free_port()
    with hss(port, "hss.t.test", "aa", "ask") as child:
        client = Client(write_files(tmp_path, peer_text("hss.t.test", port)))
        client.core.program = SimpleNamespace(event_routes=[("E_DM_REQUEST", None)])
        came: list[dict[str, Any]] = []

        def route(name: str, params: Any) -> None:
            came.append(dict(params))
            run = make_run(request("OPTIONS"), EVENT, core=client.core)
            run.params.append(dict(params))
            answer = json.dumps([{"Result-Code": 2001}, {"Auth-Session-State": 1}, {"User-Name": "answered"}])
            assert client.core.call("dm_send_answer", run, answer) == 1
            assert client.core.call("dm_send_answer", run, answer) == -1

        client.core.events.listen("E_DM_REQUEST", route)
        async with client:
            assert child.stdout is not None
            line = await asyncio.wait_for(asyncio.to_thread(child.stdout.readline), 10)
        assert line == "answer 2001 answered\n"
        assert (came[0]["app_id"], came[0]["cmd_code"]) == (CX, 303)
        assert {"Session-Id": came[0]["sess_id"]} in json.loads(came[0]["avps_json"])


@in_loop
async def test_freediameter_takes_us_as_its_peer_and_relays(tmp_path: Path) -> None:
    relay = FreeDiameter(tmp_path)
    try:
        async with Client(write_files(tmp_path, peer_text("relay.t.test", relay.port))) as client:
            server = Other("hss.t.test", success)
            server.node.config.peers = parse_config(
                'Identity = "hss.t.test";' + peer_text("relay.t.test", relay.port)
            ).peers
            await server.node.start()
            await client.open("relay.t.test")
            await asyncio.wait_for(server.node.wait_open("relay.t.test"), 10)
            code, avps = await client.send()
            assert code == 1
            assert {"Result-Code": 2001} in avps
            assert {"Origin-Host": "hss.t.test"} in avps
            # RFC 6733 §5.5: it answers a watchdog, or it would be lost.
            link = client.node.links["relay.t.test"]
            link._waiting = True
            link.send(client.node.base_request(DEVICE_WATCHDOG))
            await until(lambda: not link._waiting)
            await server.node.stop()
            # RFC 6733 §7.1.3: now it cannot deliver, and says so with the E flag.
            await until(lambda: True)
            code, avps = await client.send()
            assert code == -1
            assert {"Result-Code": 3002} in avps
    finally:
        relay.close()


# --- peers in this process


async def started(*others: Other) -> None:
    for other in others:
        await other.node.start()


@in_loop
async def test_a_lost_peer_leaves_its_requests_to_the_next(tmp_path: Path) -> None:
    first, second = Other("one.t.test"), Other("two.t.test", success)
    await started(first, second)
    peers = peer_text("one.t.test", first.port) + peer_text("two.t.test", second.port)
    async with Client(write_files(tmp_path, peers), peer_identity="one", realm="t.test") as client:
        await client.open("one.t.test", "two.t.test")
        sending = asyncio.create_task(client.send())
        await asyncio.wait_for(first.came.wait(), 10)
        first.node.links[CLIENT].close("crash")
        code, avps = await sending
        assert code == 1
        assert {"Origin-Host": "two.t.test"} in avps
        # RFC 6733 §5.5.4: sent again, so it may be a duplicate.
        assert second.held[0].message.flags & RETRANSMITTED
        assert second.held[0].message.end_to_end == first.held[0].message.end_to_end
    await first.node.stop()
    await second.node.stop()


@in_loop
async def test_a_stalled_peer_is_noticed_by_the_watchdog(tmp_path: Path) -> None:
    """RFC 3539 §3.4.1: no answer to the watchdog moves its requests, no answer at all closes the connection."""
    first, second = Other("one.t.test"), Other("two.t.test", success)
    await started(first, second)
    first.node.take = lambda link, message: first.came.set()  # type: ignore[method-assign]
    first.node.config.watchdog_s = 60
    peers = peer_text("one.t.test", first.port) + peer_text("two.t.test", second.port)
    client = Client(write_files(tmp_path, peers), peer_identity="one", realm="t.test")
    config = parse_config((tmp_path / "fd.conf").read_text(encoding="utf-8"))
    assert config.watchdog_s == 30
    await client.module.start()
    client.node.config.watchdog_s = 0.1
    try:
        await client.open("one.t.test", "two.t.test")
        link = client.node.links["one.t.test"]
        code, avps = await client.send()
        assert code == 1
        assert {"Origin-Host": "two.t.test"} in avps
        await asyncio.wait_for(link.closed(), 5)
        assert link.why == "it does not answer the watchdog"
        assert not client.node.links["two.t.test"].suspect
    finally:
        await client.module.stop()
        await first.node.stop()
        await second.node.stop()


@in_loop
async def test_a_peer_that_is_busy_is_passed_over(tmp_path: Path) -> None:
    busy = Other("one.t.test", lambda other, held: other.node.base_answer(held.message, 3004, "busy"))
    good = Other("two.t.test", success)
    await started(busy, good)
    peers = peer_text("one.t.test", busy.port) + peer_text("two.t.test", good.port)
    async with Client(write_files(tmp_path, peers), peer_identity="one.t.test") as client:
        await client.open("one.t.test", "two.t.test")
        code, avps = await client.send()
        assert code == 1
        assert {"Origin-Host": "two.t.test"} in avps
        await busy.node.stop()
        await good.node.stop()


@in_loop
async def test_no_answer_in_time_is_minus_two_and_a_late_one_is_nobodys(tmp_path: Path) -> None:
    silent = Other("one.t.test")
    await started(silent)
    async with Client(write_files(tmp_path, peer_text("one.t.test", silent.port)), answer_timeout=50) as client:
        await client.open("one.t.test")
        assert await client.send() == (-2, None)
        link = client.node.links["one.t.test"]
        assert not link.pending
        assert silent.node.answer(silent.held[0], success(silent, silent.held[0]))
        silent._answer = success
        assert (await client.send())[0] == 1
        await silent.node.stop()


@in_loop
async def test_bad_requests_of_scripts_are_minus_one_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with Client(write_files(tmp_path, ""), max_json_log_size=4) as client:
        assert await client.send() == (-1, None)
        assert await client.send(command=999) == (-1, None)
        assert await client.send([{"No-Such": 1}]) == (-1, None)
        run = make_run(request("OPTIONS"), core=client.core)
        assert await client.core.call("dm_send_request", run, 3, 271, "[secret", None) == -1
        assert await client.core.call("dm_send_request", run, 3, 271, None, None) == -1
    assert "no peer is connected" in caplog.text
    assert "command 999 is not in the dictionary" in caplog.text
    assert "No-Such" in caplog.text
    assert "[sec" in caplog.text
    assert "secret" not in caplog.text


async def knock(port: int, data: bytes) -> bytes:
    """Send octets to a port, and return what comes until the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@in_loop
async def test_garbage_closes_the_connection_with_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with Client(write_files(tmp_path, peer_text("hss.t.test", free_port()), free_port())) as client:
        for data in (b"GET / HTTP/1.1\r\n\r\n", encode(Message(280, 0, REQUEST)), b"\x01\0\0\x18" + bytes(20)):
            caplog.clear()
            caplog.set_level(logging.WARNING)
            assert await knock(client.node.port, data) == b""
            await until(lambda: any("closed a connection" in r.getMessage() for r in caplog.records))
            assert len([r for r in caplog.records if "no connection to" not in r.getMessage()]) == 1


@in_loop
async def test_a_stranger_is_refused(tmp_path: Path) -> None:
    async with Client(write_files(tmp_path, peer_text("hss.t.test", free_port()), free_port())) as client:
        stranger = Other("evil.t.test")
        hello = stranger.node.base_request(257)
        hello.avps.append(stranger.dictionary.make("Auth-Application-Id", CX))
        answer = decode(await knock(client.node.port, encode(hello)))
        # RFC 6733 §5.3: DIAMETER_UNKNOWN_PEER
        assert answer.number(268) == 3010
        assert answer.is_error
        assert not client.node.links


async def connected(client: Client, other: Other) -> None:
    """Make `other` call the client."""
    other.node.config.peers = parse_config(f'Identity = "x.y";{peer_text(CLIENT, client.node.port)}').peers
    await other.node.start()
    await asyncio.wait_for(other.node.wait_open(CLIENT), 10)


def question(other: Other, *avps: dict[str, object], command: int = 303, application: int = CX) -> Message:
    named: list[dict[str, object]] = [{"Origin-Host": "hss.t.test"}, {"Origin-Realm": "t.test"}, *avps]
    return Message(command, application, REQUEST, other.dictionary.encode(named))


@pytest.mark.parametrize(
    ("avps", "command", "application", "result"),
    [
        ([{"Session-Id": "s"}, {"User-Name": "u"}], 303, CX, 3001),
        ([{"Session-Id": "s"}, {"User-Name": "u"}], 999, CX, 3001),
        ([{"Session-Id": "s"}], 303, CX, 5005),
        ([{"Session-Id": "s"}, {"Destination-Realm": "other"}], 303, CX, 3003),
        ([{"Session-Id": "s"}, {"Destination-Host": "other"}], 303, CX, 3002),
        ([{"Session-Id": "s"}, {"User-Name": "u"}, {"Extra": "x"}], 303, CX, 5001),
    ],
)
def test_requests_that_no_script_answers(
    tmp_path: Path, avps: list[dict[str, object]], command: int, application: int, result: int
) -> None:
    """RFC 6733 §7.1; without an event_route every request is 3001, as the manual says."""

    @in_loop
    async def run() -> None:
        async with Client(write_files(tmp_path, peer_text("hss.t.test", free_port()), free_port())) as client:
            other = Other("hss.t.test")
            other.dictionary.load("ATTRIBUTE Extra 990 string\n")
            await connected(client, other)
            answer = await other.node.request(question(other, *avps, command=command, application=application), 5)
            assert answer.number(268) == result
            assert answer.is_error == (3000 <= result < 4000)
            assert answer.text(263) == "s"
            assert bool(answer.find(279)) == (result in (5001, 5005))
            await other.node.stop()

    run()


@in_loop
async def test_a_request_that_comes_twice_is_answered_twice_and_handled_once() -> None:
    """RFC 6733 §3: Origin-Host and End-to-End Identifier tell a duplicate."""
    server, other = Other("hss.t.test", success), Other("sip.t.test")
    await server.node.start()
    other.node.config.peers = parse_config('Identity = "x.y";' + peer_text("hss.t.test", server.port)).peers
    await other.node.start()
    await asyncio.wait_for(other.node.wait_open("hss.t.test"), 10)
    message = question(other, {"Session-Id": "s"}, {"User-Name": "u"})
    first = await other.node.request(message, 5)
    pending = other.node._post(other.node.links["hss.t.test"], message)
    assert pending is not None
    second = await asyncio.wait_for(pending.answer, 5)
    assert first.avps == second.avps
    assert second.hop_by_hop != first.hop_by_hop
    assert len(server.held) == 1
    await other.node.stop()
    await server.node.stop()


@in_loop
async def test_leaving_says_goodbye() -> None:
    """RFC 6733 §5.4."""
    server, other = Other("hss.t.test", success), Other("sip.t.test")
    await server.node.start()
    other.node.config.peers = parse_config('Identity = "x.y";' + peer_text("hss.t.test", server.port)).peers
    await other.node.start()
    await asyncio.wait_for(other.node.wait_open("hss.t.test"), 10)
    await other.node.stop()
    await until(lambda: len(server.events) == 2)
    assert server.events == [("sip.t.test", True, "TCP"), ("sip.t.test", False, "it took leave")]
    await server.node.stop()


@in_loop
async def test_the_log_level_is_read_and_set(tmp_path: Path) -> None:
    core = FakeCore()
    core.add(AaaDiameter())
    await core.modules["aaa_diameter"].launch()
    assert await core.mi_call("aaa_diameter:fd_log_level") == {"log_level": 3}
    assert await core.mi_call("aaa_diameter:fd_log_level", {"log_level": 0}) == {"log_level": 0}
    assert core.modules["aaa_diameter"].fd_log_level == 3  # type: ignore[attr-defined]
    await core.modules["aaa_diameter"].shutdown()


@in_loop
async def test_a_url_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "bad.conf").write_text("Identity", encoding="utf-8")
    (tmp_path / "good.conf").write_text('Identity = "a.b"; Port = 0;', encoding="utf-8")
    (tmp_path / "bad.dict").write_text("NOPE", encoding="utf-8")
    for name in ("none.conf", "bad.conf", "good.conf;extra-avps-file:bad.dict"):
        core = FakeCore()
        core.script_folder = str(tmp_path)
        module = core.add(AaaDiameter(aaa_url=f"diameter:{name}"))
        with pytest.raises(ParamError, match="aaa_url"):
            await module.start()


def test_repr_shows_no_values() -> None:
    assert "secret" not in repr(Avp(1, b"secret"))
    assert "secret" not in repr(Message(1, 2, 0, [Avp(1, b"secret")]))
