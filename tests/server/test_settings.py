"""Global parameters of a script, each by what is seen of it outside: messages, log lines, what the system says."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import socket as os_socket
import sqlite3
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from opensipspy import sip
from opensipspy.cli.db import create
from opensipspy.net.cares import CaresClient
from opensipspy.net.dns import DnsError
from opensipspy.script.globals import PARAMETERS
from opensipspy.server.answers import Answers
from opensipspy.server.launch import open_logs
from opensipspy.server.listening import reverse_names
from opensipspy.server.load import load
from opensipspy.server.logs import StreamSink, SyslogSink
from opensipspy.server.loops import new_event_loop
from opensipspy.server.notes import GLOBALS, notes
from opensipspy.server.options import Options
from opensipspy.server.simulation import Simulation
from tests.scenarios.server import ServerProcess
from tests.server.house import House, Peer, free_port, play, request, running, settled

LOG = logging.getLogger("opensipspy.core")
OK = 'sl_send_reply(200, "OK");'
START = 'loadmodule "proto_udp.so"\nloadmodule "proto_tcp.so"\nloadmodule "sl.so"\n'
RELAY = 'loadmodule "tm.so"\n'


def simulated(settings: str, route: str = OK, modules: str = "", answers: dict[str, Any] | None = None) -> Simulation:
    """A server in memory with these settings."""
    text = f"{settings}\nsocket=udp:127.0.0.1:5060\n{START}{modules}route {{ {route} }}\n"
    world = Answers()
    world.add(answers or {})
    return Simulation("-", text=text, answers=world)


@contextlib.asynccontextmanager
async def served(settings: str, route: str = OK, modules: str = "") -> AsyncIterator[House]:
    """A server on a UDP and a TCP socket with these settings."""
    port = free_port()
    options = Options()
    options.script = "-"
    options.text = (
        f"socket=udp:127.0.0.1:{port}\nsocket=tcp:127.0.0.1:{port}\n{settings}\n{START}{modules}route {{ {route} }}\n"
    )
    async with running(cast(Any, load(options)), options) as house:
        yield house


def on_both_loops(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    play("asyncio", scene)


def system_sockets(port: int, kind: int, *, listening: bool | None = None) -> list[os_socket.socket]:
    """Copies of this process's sockets on a port, as the system has them."""
    found = []
    taken = set()
    for name in os.listdir("/proc/self/fd"):
        # The copy may have the number that the listing itself had.
        if int(name) in taken:
            continue
        try:
            number = os.dup(int(name))
        except OSError:
            continue
        try:
            copy = os_socket.socket(fileno=number)
        except OSError:
            os.close(number)
            continue
        taken.add(number)
        with contextlib.suppress(OSError):
            if copy.type == kind and copy.family == os_socket.AF_INET and copy.getsockname()[1] == port:
                accepts = bool(copy.getsockopt(os_socket.SOL_SOCKET, os_socket.SO_ACCEPTCONN))
                if listening is None or accepts == listening:
                    found.append(copy)
                    continue
        copy.close()
    return found


@contextlib.contextmanager
def limits_kept(which: int) -> Iterator[None]:
    before = resource.getrlimit(which)
    try:
        yield
    finally:
        resource.setrlimit(which, before)


# -- what replies and requests carry


def test_sip_warning_tells_testers_what_the_server_saw() -> None:
    """RFC 3261 §20.43: code 392, who says it, and a quoted text."""
    route = '$ru = "sip:made\\"up@example.com"; sl_send_reply(404, "Not Found");'
    with simulated("sip_warning=yes", route) as site:
        reply = site.receive(request(), "udp:192.0.2.7:5070").reply
        warning = reply.header("Warning")
        assert warning.startswith(f'392 127.0.0.1:5060 "Noisy feedback tells: pid={os.getpid()} ')
        assert (
            'req_src_ip=192.0.2.7 req_src_port=5070 in_uri=sip:127.0.0.1 out_uri=sip:made\\"up@example.com' in warning
        )
        assert warning.endswith('via_cnt==1"')
    with simulated("", OK) as site:
        assert not site.receive(request()).reply.header("Warning")


@pytest.mark.parametrize("route", ['t_reply(404, "Not Found");', 't_newtran(); t_reply(200, "OK");'])
def test_sip_warning_is_in_replies_with_state_too(route: str) -> None:
    with simulated("sip_warning=1", route, RELAY) as site:
        assert site.receive(request("INVITE")).reply.header("Warning").startswith("392 ")


def test_a_warning_that_a_peer_makes_too_long_is_left_out() -> None:
    with simulated("sip_warning=1") as site:
        reply = site.receive(request(ruri=f"sip:{'u' * 1200}@127.0.0.1")).reply
        assert reply.status == 200
        assert not reply.header("Warning")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ('server_header="Server: front door"', "front door"),
        ("server_signature=no", ""),
        ('server_header="Server: x"\nserver_signature=off', ""),
    ],
)
def test_the_name_of_the_server_is_what_the_script_says(settings: str, expected: str) -> None:
    with simulated(settings) as site:
        assert site.receive(request()).reply.header("Server") == expected


def test_the_server_names_itself_when_nothing_is_said() -> None:
    with simulated("") as site:
        assert site.receive(request()).reply.header("Server").startswith("opensipspy ")


def test_requests_leave_with_the_advertised_place() -> None:
    settings = 'advertised_address="sip.example.com"\nadvertised_port=5999'
    with simulated(settings, '$du = "sip:192.0.2.9"; t_relay();', RELAY) as site:
        sent = site.receive(request("INVITE")).relayed
        assert sent.header("Via").startswith("SIP/2.0/UDP sip.example.com:5999;")


@pytest.mark.parametrize(("settings", "status"), [("", 500), ("disable_503_translation=yes", 503)])
def test_a_503_from_behind_becomes_500(settings: str, status: int) -> None:
    """RFC 3261 §16.7 step 6: a 503 says that the sender is overloaded, which the caller must not believe of us."""
    answers = {"gateways": {"192.0.2.9:5060": [503]}}
    with simulated(settings, '$du = "sip:192.0.2.9"; t_relay();', RELAY, answers) as site:
        site.receive(request("INVITE"))
        assert site.sent[-1].status == status


# -- names and destinations

DNS = {
    "dns": {
        "_sip._udp.gw.example.org": [
            {"priority": 1, "weight": 1, "port": 5060, "target": "a.example.org"},
            {"priority": 2, "weight": 1, "port": 5060, "target": "b.example.org"},
        ],
        "a.example.org": ["192.0.2.1"],
        "b.example.org": ["192.0.2.2"],
    },
    "gateways": {"192.0.2.1:5060": "unreachable", "192.0.2.2:5060": [200]},
}


@pytest.mark.parametrize(("settings", "second"), [("", True), ("disable_dns_failover=yes", False)])
def test_the_next_address_of_a_name_is_tried_unless_that_is_off(settings: str, second: bool) -> None:
    """RFC 3263 §4.3."""
    with simulated(settings, '$du = "sip:gw.example.org"; t_relay();', RELAY, DNS) as site:
        site.receive(request("INVITE"), "udp:192.0.2.77:5060")
        site.advance(40)
        tried = {sent.peer.address for sent in site.sent if sent.is_request}
        assert ("192.0.2.2" in tried) == second


@pytest.mark.parametrize(("settings", "again"), [("", True), ("disable_dns_blacklist=no", False)])
def test_an_address_that_failed_is_left_alone_for_a_while(settings: str, again: bool) -> None:
    silent = {**DNS, "gateways": {"192.0.2.1:5060": "silence", "192.0.2.2:5060": [200]}}
    with simulated(settings, '$du = "sip:gw.example.org"; t_relay();', RELAY, silent) as site:
        site.receive(request("INVITE"), "udp:192.0.2.77:5060")
        site.advance(40)
        before = len(site.sent)
        site.receive(request("INVITE", call_id="second", branch="z9hG4bK2"), "udp:192.0.2.77:5060")
        site.advance(5)
        tried = {sent.peer.address for sent in site.sent[before:] if sent.is_request}
        assert ("192.0.2.1" in tried) == again
        assert again or "192.0.2.2" in tried


@pytest.mark.parametrize(("settings", "asked"), [("", True), ("dns_try_naptr=no", False)])
def test_naptr_records_are_asked_for_unless_that_is_off(settings: str, asked: bool) -> None:
    """RFC 3263 §4.1."""
    with simulated(settings, '$du = "sip:gw.example.org"; t_relay();', RELAY, DNS) as site:
        site.receive(request("INVITE"), "udp:192.0.2.77:5060")
        assert any("NAPTR" in lookup.question for lookup in site.lookups) == asked


def test_only_so_many_name_servers_are_asked() -> None:
    """dns_servers_no=1: the second is not asked when the first keeps silent."""

    async def scene() -> None:
        with Peer(9) as first, Peer(9) as second:
            servers = [f"127.0.0.1:{name_server(peer)}" for peer in (first, second)]
            client = CaresClient(servers, 1, 0.1, 1)
            with pytest.raises(DnsError):
                await client.query("nowhere.example.org", "A")
            await client.close()
            assert arrived(first) > 0
            assert arrived(second) == 0

    on_both_loops(scene)


def name_server(peer: Peer) -> int:
    """Makes a socket of its own of the peer; returns the port."""
    peer.os.close()
    peer.os = os_socket.socket(type=os_socket.SOCK_DGRAM)
    peer.os.setblocking(False)
    peer.os.bind(("127.0.0.1", 0))
    return int(peer.os.getsockname()[1])


def arrived(peer: Peer) -> int:
    count = 0
    while not peer.nothing():
        count += 1
    return count


def test_names_of_our_addresses_are_ours_with_auto_aliases() -> None:
    names = reverse_names("127.0.0.1")
    if not names:
        pytest.skip("this system has no name for 127.0.0.1")

    async def scene() -> None:
        async with served("auto_aliases=yes") as house:
            assert all(house.core.is_myself(name, house.port, sip.PROTO_UDP) for name in names)
        async with served("") as house:
            assert not any(house.core.is_myself(name, house.port, sip.PROTO_UDP) for name in names)

    on_both_loops(scene)


# -- the log


@pytest.mark.parametrize(("settings", "shown"), [("", "[]"), ("xlog_force_color=yes", "[\x1b[1;31;49m]")])
def test_colours_are_in_texts_only_when_forced(settings: str, shown: str) -> None:
    with simulated(settings, f'xlog("[$C(Rx)]\\n"); {OK}') as site:
        site.receive(request())
        assert any(shown in line for line in site.log), site.log


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ("xlog_level=2", {"plain", "notice"}),
        ("xlog_level=3", {"plain", "notice", "info"}),
        ("xlog_level=1", set()),
        ("xlog_level=2\nxlog_print_level=3", {"notice"}),
        ("xlog_level=3\nxlog_print_level=3", {"plain", "notice", "info"}),
        ("log_level=1\nxlog_level=3", {"plain", "notice", "info"}),
    ],
)
def test_xlog_says_what_the_levels_let_through(settings: str, shown: set[str]) -> None:
    route = f'xlog("it is plain"); xlog("L_NOTICE", "it is notice"); xlog("L_INFO", "it is info"); {OK}'
    log = "" if "log_level=1" in settings else "log_level=4\n"
    with simulated(log + settings, route) as site:
        site.receive(request())
        said = "\n".join(site.log)
        assert {word for word in ("plain", "notice", "info") if f"it is {word}" in said} == shown


def settings_of(text: str) -> Any:
    options = Options()
    options.script, options.text = "-", f"socket=udp:127.0.0.1:5060\n{START}{text}\nroute {{ exit; }}\n"
    return load(options)


def test_sinks_are_those_that_the_script_asks_for(capfd: pytest.CaptureFixture[str]) -> None:
    text = (
        'stderror_enabled=yes\nstderror_level_filter=1\nstderror_log_format="json"\nlog_prefix="blue"\nlog_level=3\n'
        'syslog_enabled=yes\nsyslog_level_filter=-1\nsyslog_facility=LOG_LOCAL3\nsyslog_name="voip"\n'
    )
    logs = open_logs(Options(), settings_of(text))
    try:
        [stream, syslog] = logs.handler.sinks
        assert isinstance(stream, StreamSink)
        assert isinstance(syslog, SyslogSink)
        assert syslog.level_filter == -1
        LOG.warning("a warning")
        LOG.info("an information")
    finally:
        logs.close()
    told = capfd.readouterr().err
    assert '"message": "a warning"' in told
    assert '"prefix": "blue' in told
    assert "an information" not in told


@pytest.mark.parametrize(("text", "out"), [("log_stdout=yes", True), ("log_stdout=no", False)])
def test_the_log_goes_to_standard_output_when_asked(text: str, out: bool, capfd: pytest.CaptureFixture[str]) -> None:
    logs = open_logs(Options(), settings_of("stderror_enabled=yes\n" + text))
    LOG.error("here")
    logs.close()
    captured = capfd.readouterr()
    assert ("here" in captured.out, "here" in captured.err) == (out, not out)


def test_syslog_gets_facility_name_and_format(tmp_path: Path) -> None:
    """RFC 3164 §4.1.1: facility * 8 + severity; local3 is 19, a warning 4."""
    with os_socket.socket(os_socket.AF_UNIX, os_socket.SOCK_DGRAM) as daemon:
        daemon.bind(str(tmp_path / "log"))
        settings = settings_of('syslog_facility=LOG_LOCAL3\nsyslog_name="voip"\nsyslog_log_format="json"').globals
        sink = SyslogSink(
            settings.syslog_name, settings.syslog_facility, 0, settings.syslog_log_format, str(tmp_path / "log")
        )
        logs = open_logs(Options(), settings_of("stderror_enabled=no\nsyslog_enabled=no\nlog_level=3"))
        logs.handler.sinks[:] = [sink]
        LOG.warning("hot")
        line = daemon.recv(4096).decode()
        logs.close()
    assert line.startswith(f"<{19 * 8 + 4}>voip[{os.getpid()}]: {{")
    assert '"hot"' in line


def test_debug_mode_says_everything(capfd: pytest.CaptureFixture[str]) -> None:
    logs = open_logs(Options(), settings_of("debug_mode=yes\nstderror_enabled=no\nsyslog_enabled=yes\nlog_level=1"))
    LOG.debug("a detail")
    assert [sink.name for sink in logs.handler.sinks] == ["stderror"], "debug mode stays at the terminal"
    logs.close()
    assert "a detail" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("settings", "heard"),
    [
        ("", []),
        ("log_event_enabled=yes", ["warned", "noted"]),
        ("log_event_enabled=yes\nlog_event_level_filter=1", ["warned"]),
    ],
)
def test_log_lines_are_events_when_asked(settings: str, heard: list[str]) -> None:
    async def scene() -> None:
        route = f'xlog("L_WARN", "warned\\n"); xlog("L_NOTICE", "noted\\n"); {OK}'
        async with served("log_level=3\n" + settings, route) as house:
            seen: list[str] = []
            house.core.events.listen("E_CORE_LOG", lambda name, params: seen.append(str(params["message"]).strip()))
            with Peer(house.port) as peer:
                peer.send(request())
                await peer.receive()
            assert [text for text in seen if text in ("warned", "noted")] == heard

    on_both_loops(scene)


@pytest.mark.parametrize("threshold", [0, 1])
def test_a_message_that_takes_too_long_is_told(threshold: int) -> None:
    """exec_msg_threshold, in microseconds."""

    async def scene() -> None:
        async with served(f"exec_msg_threshold={threshold}\nlog_level=3") as house:
            raised: list[object] = []
            house.core.events.listen("E_CORE_THRESHOLD", lambda name, params: raised.append(params["source"]))
            with Peer(house.port) as peer:
                peer.send(request())
                await peer.receive()
            await settled(lambda: bool(raised) or not threshold)
            assert any(" took " in line for line in house.log) == bool(threshold)

    on_both_loops(scene)


# -- assertions


@pytest.mark.parametrize(
    ("settings", "statuses"),
    [("", [200]), ("enable_asserts=yes", []), ("enable_asserts=no\nabort_on_assert=yes", [200])],
)
def test_assertions_end_a_message_only_when_enabled(settings: str, statuses: list[int]) -> None:
    with simulated(settings, f'assert($var(x) == 2, "one is not two"); {OK}') as site:
        assert site.receive(request()).statuses == statuses
        assert any("one is not two" in line for line in site.log) == (not statuses)


def test_abort_on_assert_ends_the_server_with_a_failure() -> None:
    async def scene() -> None:
        settings = "enable_asserts=yes\nabort_on_assert=yes"
        async with served(settings, f'assert($var(x) == 2, "one is not two"); {OK}') as house:
            with Peer(house.port) as peer:
                peer.send(request())
                assert await asyncio.wait_for(asyncio.shield(house.task), 60) == 1
            assert any("the server ends" in line and "one is not two" in line for line in house.log)

    on_both_loops(scene)


def test_a_loop_ends_after_so_many_rounds() -> None:
    rounds = "$var(i) = 0; while ($var(i) >= 0) { $var(i) = $var(i) + 1; }"
    route = f'{rounds} append_to_reply("X-Rounds: $var(i)\\r\\n"); {OK}'
    with simulated("max_while_loops=25", route, 'loadmodule "sipmsgops.so"\n') as site:
        assert site.receive(request()).reply.header("X-Rounds") == "25"


# -- the process


def test_core_dumps_are_off_when_asked() -> None:
    async def scene() -> None:
        async with served("disable_core_dump=yes"):
            assert resource.getrlimit(resource.RLIMIT_CORE)[0] == 0

    with limits_kept(resource.RLIMIT_CORE):
        on_both_loops(scene)


def test_more_open_files_are_allowed_when_asked() -> None:
    async def scene() -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
        async with served("open_files_limit=700"):
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 700
        async with served("open_files_limit=300"):
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 700, "it is never lowered"

    with limits_kept(resource.RLIMIT_NOFILE):
        on_both_loops(scene)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change the root directory")
def test_the_root_directory_is_the_one_of_the_script(
    start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    port = free_port()
    root = tmp_path / "root"
    (root / tmp_path.relative_to("/")).mkdir(parents=True)
    server = start_server(f'chroot="{root}"\nsocket=udp:127.0.0.1:{port}\n{START}route {{ {OK} }}\n')
    assert os.readlink(f"/proc/{server.pid}/root") == str(root)
    with os_socket.socket(type=os_socket.SOCK_DGRAM) as peer:
        peer.settimeout(30)
        peer.connect(("127.0.0.1", port))
        peer.send(request().encode())
        assert peer.recv(4096).startswith(b"SIP/2.0 200")


def test_the_table_of_versions_has_the_name_of_the_script(tmp_path: Path) -> None:
    path = tmp_path / "some.sqlite"
    url = f"sqlite://{path}"
    create(url, ["domain"])
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("ALTER TABLE version RENAME TO releases")
        database.execute("INSERT INTO domain (domain) VALUES ('example.org')")
        database.commit()
    modules = 'loadmodule "db_sqlite.so"\nloadmodule "domain.so"\nmodparam("domain", "db_mode", 1)\n'
    route = f'if (is_domain_local("example.org")) {{ {OK} }} else {{ sl_send_reply(404, "No"); }}'

    async def scene() -> None:
        settings = f'db_default_url="{url}"\ndb_version_table="releases"'
        async with served(settings, route, modules) as house:
            with Peer(house.port) as peer:
                peer.send(request())
                assert (await peer.receive()).startswith("SIP/2.0 200")

    on_both_loops(scene)


# -- sockets


def test_datagram_sockets_have_the_options_of_the_script() -> None:
    async def scene() -> None:
        settings = "maxbuffer=65536\ntos=184"
        async with served(settings) as house:
            [copy] = system_sockets(house.port, os_socket.SOCK_DGRAM)
            with copy:
                assert copy.getsockopt(os_socket.IPPROTO_IP, os_socket.IP_TOS) == 184
                # The system doubles what it is asked for, for its own books.
                assert copy.getsockopt(os_socket.SOL_SOCKET, os_socket.SO_RCVBUF) >= 65536

    on_both_loops(scene)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("tcp_keepidle=77\ntcp_keepinterval=7\ntcp_keepcount=5", (1, 77, 7, 5)),
        ("tcp_keepalive=yes", (1, None, None, None)),
        ("tcp_keepalive=no", (0, None, None, None)),
    ],
)
def test_connections_are_kept_alive_as_the_script_says(settings: str, expected: tuple[int | None, ...]) -> None:
    async def scene() -> None:
        async with served(settings) as house:
            reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
            writer.write(request(via="SIP/2.0/TCP 127.0.0.1:5999").encode())
            assert (await reader.readline()).startswith(b"SIP/2.0 200")
            [copy] = system_sockets(house.port, os_socket.SOCK_STREAM, listening=False)
            with copy:
                tcp = os_socket.IPPROTO_TCP
                found = (
                    copy.getsockopt(os_socket.SOL_SOCKET, os_socket.SO_KEEPALIVE),
                    copy.getsockopt(tcp, os_socket.TCP_KEEPIDLE),
                    copy.getsockopt(tcp, os_socket.TCP_KEEPINTVL),
                    copy.getsockopt(tcp, os_socket.TCP_KEEPCNT),
                )
            assert all(want is None or want == have for want, have in zip(expected, found, strict=True)), found
            writer.close()
            await writer.wait_closed()

    on_both_loops(scene)


def test_the_queue_of_new_connections_has_the_length_of_the_script() -> None:
    async def scene() -> None:
        # OpenSIPS's own default, 10, is there when a script asks for it.
        for line, length in (("tcp_socket_backlog=23", 23), ("tcp_socket_backlog=10", 10), ("", 512)):
            async with served(line) as house:
                [copy] = system_sockets(house.port, os_socket.SOCK_STREAM, listening=True)
                with copy:
                    # struct tcp_info of a listening socket: tcpi_sacked (octet 28 on) holds the backlog.
                    info = copy.getsockopt(os_socket.IPPROTO_TCP, os_socket.TCP_INFO, 104)
                assert struct.unpack_from("I", info, 28)[0] == length

    on_both_loops(scene)


@pytest.mark.parametrize("accepted", [False, True])
def test_a_connection_stands_for_the_port_of_its_alias(accepted: bool) -> None:
    """RFC 5923 §8: `alias` in the Via lets requests to the advertised port use the connection."""
    alias = free_port()

    async def scene() -> None:
        async with served(f"tcp_accept_aliases={'yes' if accepted else 'no'}") as house:
            reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
            writer.write(request(via=f"SIP/2.0/TCP 127.0.0.1:{alias};alias").encode())
            assert (await reader.readline()).startswith(b"SIP/2.0 200")
            transport = house.server.network.transport(sip.PROTO_TCP)
            assert transport.reaches(sip.Peer(sip.PROTO_TCP, "127.0.0.1", alias)) == accepted
            writer.close()
            await writer.wait_closed()

    on_both_loops(scene)


# -- what has no effect


@pytest.mark.parametrize("name", sorted(GLOBALS))
def test_what_has_no_effect_starts_and_is_noted(name: str) -> None:
    kind = PARAMETERS[name][0] if isinstance(PARAMETERS[name], tuple) else ""
    value = {
        "auto_scaling_profile": "P\n scale up to 4 on 70 % for 4 cycles within 5\n scale down to 2 on 20% for 5 cycles",
        "mem-group": '"g" : "core"',
        "mem_warming_pattern_file": '"x"',
        "pi_framework": '"x"',
    }.get(name, "yes" if str(kind).endswith("bool") else "1")
    loaded = settings_of(f"{name}={value}")
    assert [line.split(" has ")[0] for line in notes(loaded.globals)] == [name]


def test_a_way_of_polling_that_the_system_lacks_is_noted() -> None:
    assert notes(settings_of("poll_method=kqueue").globals)
    assert not notes(settings_of("poll_method=poll").globals)


@pytest.mark.parametrize(("method", "selector"), [("poll", "PollSelector"), ("select", "SelectSelector")])
def test_packets_are_waited_for_as_the_script_says(method: str, selector: str) -> None:
    loop = new_event_loop(method)
    try:
        assert type(vars(loop)["_selector"]).__name__ == selector
    finally:
        loop.close()


def test_a_server_serves_whatever_it_polls_with(start_server: Callable[..., ServerProcess]) -> None:
    port = free_port()
    start_server(f"poll_method=poll\nsocket=udp:127.0.0.1:{port}\n{START}route {{ {OK} }}\n")
    with os_socket.socket(type=os_socket.SOCK_DGRAM) as peer:
        peer.settimeout(30)
        peer.connect(("127.0.0.1", port))
        peer.send(request().encode())
        assert peer.recv(4096).startswith(b"SIP/2.0 200")


@pytest.mark.parametrize(("settings", "expected"), [("mcast_ttl=7\nmcast_loopback=yes", (7, 1)), ("", (1, 0))])
def test_multicast_goes_as_far_as_the_script_says(settings: str, expected: tuple[int, int]) -> None:
    async def scene() -> None:
        port = free_port()
        async with served(f"socket=udp:224.0.1.75:{port}\n{settings}"):
            [copy] = system_sockets(port, os_socket.SOCK_DGRAM)
            with copy:
                found = [
                    copy.getsockopt(os_socket.IPPROTO_IP, option)
                    for option in (os_socket.IP_MULTICAST_TTL, os_socket.IP_MULTICAST_LOOP)
                ]
            assert tuple(found) == expected

    on_both_loops(scene)
