"""A call held at a line of the script, in a real server with an editor's protocol, while other calls go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from opensipspy.module.testing import FakeCore, make_run, request
from opensipspy.server.adapter import DebugAdapter, parse_address
from opensipspy.server.debugger import Client, Debugger
from opensipspy.server.load import load
from opensipspy.server.options import Options
from opensipspy.server.stepper import Stepper
from tests.scenarios.peer import Phone, until
from tests.scenarios.server import ServerProcess
from tests.server.dap import DapClient

SCRIPT = """\
log_level=3
stderror_enabled=yes
syslog_enabled=no
socket=udp:127.0.0.1:PORT
loadmodule "proto_udp.so"
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "signaling.so"
loadmodule "sipmsgops.so"
loadmodule "cfgutils.so"

route {
    $var(user) = $fU;
    $avp(list) = "one";
    $avp(list) = "two";
    route(ANSWER, $rU, 7);
    xlog("L_NOTICE", "after the answer of $var(user)\\n");
    exit;
}

route[ANSWER] {
    if ($var(user) == "broken") {
        route(BROKEN);
    }
    $var(code) = 480;
    send_reply($var(code), "Not now");
    return(1);
}

route[BROKEN] {
    $var(x) = 1;
    fail_on_purpose();
}
"""


class Site:
    def __init__(self, server: ServerProcess, port: int) -> None:
        self.server = server
        self.phones: list[Phone] = []
        self.port = port
        lines = server.log_text().splitlines()
        [told] = [line for line in lines if "debug adapter listens on" in line]
        self.adapter = told.partition("listens on ")[2].partition(": who")[0]
        self.script = str(server.script)
        self.lines = server.script.read_text(encoding="utf-8").split("\n")

    def line(self, text: str) -> int:
        """The number of the first line with a text."""
        return next(number for number, line in enumerate(self.lines, 1) if text in line)

    def phone(self, user: str) -> Phone:
        phone = Phone(user, ("127.0.0.1", self.port))
        self.phones.append(phone)
        return phone

    def log_has(self, text: str) -> None:
        until(lambda: text in self.server.log_text(), what=f"{text!r} in the log")


@pytest.fixture
def site(
    start_server: Callable[..., ServerProcess], free_port: Callable[[], int], tmp_path: Path
) -> Iterator[Callable[..., Site]]:
    made: list[Site] = []
    (tmp_path / "failing.py").write_text(
        "from opensipspy.module import Module, script_function\n"
        "from opensipspy.script.kinds import ALL\n"
        "from opensipspy.script.run import Run\n"
        "class Failing(Module):\n"
        '    """Fails."""\n'
        '    name = "failing"\n'
        "    @script_function(routes=ALL)\n"
        "    def fail_on_purpose(self, run: Run) -> int:\n"
        '        """Raise."""\n'
        '        raise RuntimeError("on purpose")\n',
        encoding="utf-8",
    )

    def make(address: str = "127.0.0.1:0", *more: str) -> Site:
        port = free_port()
        text = SCRIPT.replace("PORT", str(port))
        text = text.replace("\nroute {", f'mpath="{tmp_path}/"\nloadmodule "failing.so"\nroute {{', 1)
        made.append(Site(start_server(text, "--debug-adapter", address, *more), port))
        return made[-1]

    yield make
    for each in made:
        for phone in each.phones:
            phone.close()


def test_one_call_is_held_while_another_completes(site: Callable[..., Site]) -> None:
    """The whole of it: hold, look, change, step, go on; copies of the held request are absorbed (RFC 3261 §17.2)."""
    house = site()
    alice, bob = house.phone("alice"), house.phone("bob")
    with DapClient(house.adapter) as editor:
        [made] = editor.begin(
            house.script, {"line": house.line("$var(code) = 480"), "condition": '$fU == "alice" && is_method("INVITE")'}
        )
        assert made["verified"], made
        invite = alice.request("INVITE", "sip:carol@127.0.0.1", call_id="held-call")
        alice.send(invite)
        stop = editor.event("stopped")
        thread = stop["threadId"]
        assert (stop["reason"], stop["allThreadsStopped"]) == ("breakpoint", False)
        assert stop["hitBreakpointIds"] == [made["id"]]
        # A copy is absorbed, a caller who does not meet the condition is answered.
        alice.send(invite)
        bob.send(bob.request("INVITE", "sip:carol@127.0.0.1"))
        assert bob.expect(480).status == 480
        alice.expect_nothing(0.2)
        names = {each["name"] for each in editor.get("threads")["threads"]}
        assert "held-call INVITE" in names
        assert len(names) == 2
        # Where it is, and what it has.
        inner, outer = house.line("$var(code) = 480"), house.line("route(ANSWER")
        assert editor.stack(thread) == [("route[ANSWER]", inner), ("route", outer)]
        assert editor.read(thread, "$ru") == '"sip:carol@127.0.0.1"'
        assert editor.read(thread, "$(ru{uri.user})") == '"carol"'
        assert editor.read(thread, '"$fU calls $rU"') == '"alice calls carol"'
        assert editor.read(thread, '$fU == "alice" && !is_method("BYE")') == "true"
        assert editor.read(thread, "$hdr(X-None)") == "NULL"
        script = editor.scope(thread, "Script variables")
        assert script == {"$avp(list)": '"two"', "$var(user)": '"alice"'}
        assert editor.scope(thread, "Message")["$ci"] == '"held-call"'
        assert editor.scope(thread, "Headers")["CSeq"] == '"1 INVITE"'
        assert editor.scope(thread, "Route and flags")["$param(1)"] == '"carol"'
        frame = editor.get("stackTrace", threadId=thread)["stackFrames"][0]["id"]
        wrong = editor.ask("evaluate", expression="$nosuch", frameId=frame, context="repl")
        assert not wrong["success"]
        assert "nosuch" in wrong["message"]
        # Step over the assignment, and change what it did.
        editor.get("next", threadId=thread)
        assert editor.event("stopped")["reason"] == "step"
        assert editor.stack(thread)[0] == ("route[ANSWER]", house.line("send_reply("))
        assert editor.read(thread, "$var(code)") == "480"
        frame = editor.get("stackTrace", threadId=thread)["stackFrames"][0]["id"]
        scope = editor.get("scopes", frameId=frame)["scopes"][1]["variablesReference"]
        assert editor.get("setVariable", variablesReference=scope, name="$var(code)", value="486")["value"] == "486"
        editor.get("stepOut", threadId=thread)
        assert editor.event("stopped")["threadId"] == thread
        assert editor.stack(thread) == [("route", house.line("after the answer"))]
        assert alice.expect(486).status == 486
        editor.get("continue", threadId=thread)
        while (gone := editor.event("thread"))["reason"] != "exited":
            pass
        assert gone["threadId"] == thread
        house.log_has("after the answer of alice")
        assert house.server.log_text().count("after the answer of alice") == 1


def test_stepping_goes_into_routes_and_out_at_their_end(site: Callable[..., Site]) -> None:
    house = site()
    alice = house.phone("alice")
    with DapClient(house.adapter) as editor:
        editor.begin(house.script, {"line": house.line("route(ANSWER")})
        alice.send(alice.request("OPTIONS", "sip:carol@127.0.0.1"))
        thread = editor.event("stopped")["threadId"]
        seen = []
        for command in ("stepIn", "stepIn", "next", "next", "next", "next"):
            editor.get(command, threadId=thread)
            editor.event("stopped")
            seen.append(editor.stack(thread)[0])
        first = house.line('if ($var(user) == "broken")')
        code = house.line("$var(code) = 480")
        assert seen == [
            ("route[ANSWER]", first),
            ("route[ANSWER]", code),
            ("route[ANSWER]", code + 1),
            ("route[ANSWER]", code + 2),
            ("route", house.line("after the answer")),
            ("route", house.line("after the answer") + 1),
        ]
        # The last statement of the message: the thread ends with it.
        editor.get("next", threadId=thread)
        while (gone := editor.event("thread"))["reason"] != "exited":
            pass
        assert gone["threadId"] == thread


def test_a_pause_holds_whatever_runs_next_and_a_log_point_holds_nothing(site: Callable[..., Site]) -> None:
    house = site()
    alice = house.phone("alice")
    with DapClient(house.adapter) as editor:
        message = "reply {$var(code)} to {$(fu{uri.user})}"
        editor.begin(house.script, {"line": house.line("send_reply("), "logMessage": message})
        alice.send(alice.request("OPTIONS", "sip:carol@127.0.0.1"))
        assert alice.expect(480).status == 480
        assert editor.event("output")["output"] == "reply 480 to alice\n"
        editor.get("pause", threadId=1)
        alice.send(alice.request("OPTIONS", "sip:carol@127.0.0.1"))
        stop = editor.event("stopped")
        assert stop["reason"] == "pause"
        assert editor.stack(stop["threadId"]) == [("route", house.line("$var(user) = $fU"))]
        editor.get("disconnect")
        assert alice.expect(480).status == 480


def test_an_error_of_the_script_holds_the_call_where_it_happened(site: Callable[..., Site]) -> None:
    house = site()
    broken = house.phone("broken")
    with DapClient(house.adapter) as editor:
        editor.begin(house.script, errors=True)
        broken.send(broken.request("OPTIONS", "sip:carol@127.0.0.1"))
        stop = editor.event("stopped")
        thread = stop["threadId"]
        assert (stop["reason"], stop["text"]) == ("exception", "RuntimeError: on purpose")
        assert editor.stack(thread)[0] == ("route[BROKEN]", house.line("fail_on_purpose"))
        assert len(editor.stack(thread)) == 3
        assert editor.get("exceptionInfo", threadId=thread)["exceptionId"] == "RuntimeError"
        editor.get("continue", threadId=thread)
        assert broken.expect(500).status == 500


def test_a_killed_client_and_a_stop_of_the_server_let_everything_go_on(site: Callable[..., Site]) -> None:
    house = site()
    alice, bob = house.phone("alice"), house.phone("bob")
    editor = DapClient(house.adapter)
    editor.begin(house.script, {"line": house.line("$var(user) = $fU")})
    for phone in (alice, bob):
        phone.send(phone.request("OPTIONS", "sip:carol@127.0.0.1"))
        editor.event("stopped")
    assert len(editor.get("threads")["threads"]) == 3
    editor.close()
    assert alice.expect(480).status == 480
    assert bob.expect(480).status == 480
    # Nothing is held any more, and the next client begins anew.
    alice.send(alice.request("OPTIONS", "sip:carol@127.0.0.1"))
    assert alice.expect(480).status == 480
    house.log_has("the client has left")
    with DapClient(house.adapter) as again:
        again.begin(house.script, {"line": house.line("$var(user) = $fU")})
        alice.send(alice.request("OPTIONS", "sip:carol@127.0.0.1"))
        again.event("stopped")
        assert house.server.stop() == 0
        assert alice.expect(480).status == 480


def test_a_second_client_and_bytes_that_are_no_message_are_sent_away(site: Callable[..., Site]) -> None:
    house = site()
    with DapClient(house.adapter) as editor:
        editor.begin(house.script)
        with DapClient(house.adapter) as second:
            assert "another debugger" in second.event("output")["output"]
            assert second.event("terminated") == {}
            assert second.closed()
        assert not editor.ask("nonsense")["success"]
        assert not editor.ask("stackTrace", threadId=99)["success"]
        assert not editor.ask("setBreakpoints")["success"]
        editor.socket.sendall(b"Content-Length: 99999999\r\n\r\n")
        assert editor.closed()
    house.log_has("no message of the protocol")


def test_breakpoints_hold_in_the_routes_of_a_reload_too(tmp_path: Path) -> None:
    """core:reload_routes: what runs ends on the old routes, what comes runs on the new ones; both are watched."""
    path = tmp_path / "reload.cfg"
    head = 'socket=udp:127.0.0.1:5060\nloadmodule "proto_udp.so"\n'
    path.write_text(head + "route {\n    $var(x) = 1;\n    exit;\n}\n", encoding="utf-8")
    options = Options()
    options.script, options.watch = str(path), Debugger()
    debugger = options.watch
    assert isinstance(debugger, Debugger)
    loaded = load(options)
    debugger.catalogue = loaded.catalogue
    debugger.connect(Client())
    [made] = debugger.set_breakpoints(str(path), [{"line": 5}])
    assert (made.line, made.problem) == (5, "")
    run = make_run(request("OPTIONS", "sip:x@127.0.0.1"))
    before = [number for number in range(len(debugger.points)) if debugger.halts(run, number)]
    path.write_text(head + "route {\n    $var(y) = 2;\n    $var(x) = 1;\n    exit;\n}\n", encoding="utf-8")
    loaded.reload(options)
    after = [number for number in range(len(debugger.points)) if debugger.halts(run, number)]
    assert [debugger.points[number].text for number in before] == ["exit"]
    assert [debugger.points[number].text for number in after] == ["exit", "$var(x) = 1"]
    debugger.disconnect()
    assert not any(debugger.halts(run, number) for number in after)


@pytest.mark.parametrize(
    "data",
    [
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n{}",
        b"Content-Length: 0\r\n\r\n",
        b"Content-Length: " + b"9" * 3000 + b"\r\n\r\n",
        b"X" * 10_000,
        b"\r\n\r\n",
        b"Content-Length: 2\r\n\r\n[]",
        b"Content-Length: 4\r\n\r\n\xff\xfe\x00\x01",
        b"Content-Length: 100000\r\n\r\n" + b"[" * 100_000,
    ],
)
def test_the_adapter_takes_nothing_but_its_protocol(data: bytes) -> None:
    """A browser on this machine can be made to POST to any port; strange bytes end the connection and nothing more."""

    async def talk() -> bytes:
        core = FakeCore()
        core.stepper = Stepper(lambda *_: None, lambda *_: None)  # type: ignore[attr-defined,arg-type,return-value]
        adapter = DebugAdapter(Debugger(), core, "127.0.0.1:0")  # type: ignore[arg-type]
        await adapter.open()
        host, _, port = adapter.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(data)
        try:
            return await asyncio.wait_for(reader.read(), 60)
        except ConnectionError:
            return b""
        finally:
            writer.close()
            await adapter.close()

    assert asyncio.run(talk()) == b""


def test_a_breakpoint_that_cannot_be_says_why(site: Callable[..., Site], tmp_path: Path) -> None:
    house = site(f"unix:{tmp_path}/d.sock")
    mode = (tmp_path / "d.sock").stat().st_mode
    assert mode & 0o777 == 0o600
    with DapClient(house.adapter) as editor:
        moved, wrong, beyond = editor.begin(
            house.script,
            {"line": house.line("route[ANSWER] {")},
            {"line": house.line("exit;"), "condition": "no_such_function()"},
            {"line": 9999},
        )
        assert (moved["verified"], moved["line"]) == (True, house.line('if ($var(user) == "broken")'))
        assert not wrong["verified"]
        assert "no_such_function" in wrong["message"]
        assert not beyond["verified"]


RELAYING = """\
log_level=3
stderror_enabled=yes
syslog_enabled=no
socket=udp:127.0.0.1:PORT
loadmodule "proto_udp.so"
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "signaling.so"
loadmodule "cfgutils.so"

route {
    t_on_branch("out");
    t_on_reply("back");
    t_on_failure("failed");
    $du = "sip:127.0.0.1:CALLEE";
    t_relay();
}
branch_route[out] {
    xlog("L_NOTICE", "in the branch\\n");
}
onreply_route[back] {
    xlog("L_NOTICE", "in the reply\\n");
}
failure_route[failed] {
    t_reply(603, "Declined");
}
"""


def test_a_call_is_held_in_branch_reply_and_failure_routes(
    start_server: Callable[..., ServerProcess], free_port: Callable[[], int]
) -> None:
    """What a route of any kind does comes out as without a debugger, only later; nothing is sent twice."""
    port = free_port()
    callee, caller = Phone("callee", ("127.0.0.1", port)), Phone("caller", ("127.0.0.1", port))
    text = RELAYING.replace("PORT", str(port)).replace("CALLEE", str(callee.port))
    house = Site(start_server(text, "--debug-adapter", "127.0.0.1:0"), port)
    house.phones += [callee, caller]
    try:
        with DapClient(house.adapter) as editor:
            wanted = ("in the branch", "in the reply", "t_reply(603")
            editor.begin(house.script, *[{"line": house.line(each)} for each in wanted])
            caller.send(caller.request("OPTIONS", "sip:x@127.0.0.1"))
            thread = editor.event("stopped")["threadId"]
            assert editor.stack(thread)[0][0] == "branch_route[out]"
            callee.expect_nothing(0.2)
            editor.get("continue", threadId=thread)
            request = callee.expect("OPTIONS")
            callee.send(callee.reply(request, 486, "Busy"))
            thread = editor.event("stopped")["threadId"]
            assert editor.stack(thread) == [("onreply_route[back]", house.line("in the reply"))]
            assert editor.read(thread, "$rs") in ('"486"', "486")
            caller.expect_nothing(0.2)
            editor.get("continue", threadId=thread)
            thread = editor.event("stopped")["threadId"]
            assert editor.stack(thread)[0] == ("failure_route[failed]", house.line("t_reply(603"))
            editor.get("continue", threadId=thread)
            assert caller.expect(603).status == 603
    finally:
        for phone in house.phones:
            phone.close()


def test_a_breakpoint_may_let_the_first_calls_pass(site: Callable[..., Site]) -> None:
    house = site()
    with DapClient(house.adapter) as editor:
        editor.begin(house.script, {"line": house.line("$var(code) = 480"), "hitCondition": ">= 2"})
        alice = house.phone("alice")
        alice.send(alice.request("OPTIONS", "sip:carol@127.0.0.1"))
        assert alice.expect(480).status == 480
        alice.send(alice.request("OPTIONS", "sip:carol@127.0.0.1"))
        editor.event("stopped")
        editor.get("disconnect")
        assert alice.expect(480).status == 480


@pytest.mark.parametrize("address", ["0.0.0.0:4711", "192.0.2.1:4711", "4711x", "example.org:1", "unix:"])
def test_the_adapter_listens_on_this_machine_only(address: str) -> None:
    """It has no password."""
    with pytest.raises(ValueError, match=r"address|ADDRESS|loopback|unix"):
        parse_address(address)


def test_loopback_addresses_are_taken() -> None:
    assert parse_address("127.0.0.1:4711") == ("127.0.0.1", 4711)
    assert parse_address("[::1]:4711") == ("::1", 4711)
    assert parse_address("localhost:0") == ("127.0.0.1", 0)
    assert parse_address(":4711") == ("127.0.0.1", 4711)
    assert parse_address("unix:/run/x") == "/run/x"
