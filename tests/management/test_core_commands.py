"""The core's commands answer in the shapes that clients of the C server read."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from opensipspy.events import Hub, Transport
from opensipspy.management import (
    CacheCommands,
    CacheControl,
    CoreCommands,
    EventCommands,
    LogConsumer,
    LogConsumerCommands,
    MiError,
    ProcessInfo,
    Registry,
    ServerControl,
    Statistics,
    StatisticsCommands,
    StatusCommands,
    StatusReports,
    TcpCommands,
    TcpControl,
)


class Server(ServerControl):
    argv = ("opensipspy", "-f", "x.cfg")
    started_at = 1_700_000_000.0
    version = "opensipspy (0.1.0 (x86_64/linux))"

    def __init__(self) -> None:
        self.level, self.xlevel, self.did = 3, 4, []  # type: tuple[int, int, list[Any]]

    def time(self) -> float:
        return self.started_at + 61.9

    def processes(self) -> list[ProcessInfo]:
        return [ProcessInfo(0, 100, "main"), ProcessInfo(1, 101, "worker")]

    def log_level(self, pid: int) -> int:
        return self.level

    def set_log_level(self, level: int, pid: int | None = None) -> None:
        self.did.append((level, pid))

    def xlog_level(self) -> int:
        return self.xlevel

    def set_xlog_level(self, level: int) -> None:
        self.xlevel = level

    def stop(self) -> None:
        self.did.append("stop")

    async def reload_routes(self) -> None:
        raise MiError(500, "reload failed", "x.cfg:3:1: unknown function")


class Box:
    """A registry with one group of commands."""

    def __init__(self) -> None:
        self.registry = Registry()

    def __call__(self, name: str, params: Any = None) -> Any:
        return asyncio.run(self.registry.call(name, params))

    def refused(self, name: str, params: Any = None) -> tuple[int, str]:
        with pytest.raises(MiError) as caught:
            self(name, params)
        return caught.value.code, caught.value.message


def test_the_server_tells_about_itself() -> None:
    box, server = Box(), Server()
    CoreCommands(box.registry, server).register()
    assert box("uptime")["Up time"] == "61 [sec]"
    assert len(box("uptime")["Now"]) == len("Mon Nov  3 09:05:00 2025")
    assert box("version") == {"Server": "opensipspy (0.1.0 (x86_64/linux))"}
    assert box("version", ["x"])["release"] == "0.1.0"
    assert box("ps")["Processes"][1] == {"ID": 1, "PID": 101, "Type": "worker"}
    assert box("arg") == ["opensipspy", "-f", "x.cfg"]
    assert list(box("pwd")) == ["WD"]
    assert box("kill") == "OK"
    assert server.did == ["stop"]
    assert box.refused("reload_routes") == (500, "reload failed")


def test_commands_are_listed_and_explained() -> None:
    box = Box()
    CoreCommands(box.registry, Server()).register()
    StatisticsCommands(box.registry, Statistics()).register()
    assert "core:ps" in box("which")
    assert box("which", ["statistics:"]) == [
        "statistics:get", "statistics:list", "statistics:reset", "statistics:reset_all",
    ]  # fmt: skip
    assert box("which", {"command": "log_level"}) == [[], ["level"], ["level", "pid"]]
    assert box.refused("which", ["nosuch"]) == (404, "unknown MI command")
    assert box("help", ["get_statistics"])["Exported by"] == "statistics"
    assert "Usage" in box("help")


def test_log_levels() -> None:
    box, server = Box(), Server()
    CoreCommands(box.registry, server).register()
    assert box("log_level")["Processes"][0] == {"PID": 100, "Log level": 3, "Type": "main"}
    assert box("log_level", ["4"]) == {"New global log level": 4}
    assert box("log_level", [2, 101]) == {"Log level": 2}
    assert server.did == [(4, None), (2, 101)]
    assert box.refused("log_level", [2, 999]) == (-32602, "Invalid params")
    assert box.refused("log_level", [9]) == (-32602, "Invalid params")
    assert box("xlog_level") == {"xLog Level": 4}
    assert box("xlog_level", [1]) == {"New xLog level": 1}
    assert server.xlevel == 1


def test_statistics_by_all_group_and_name(caplog: pytest.LogCaptureFixture) -> None:
    box, stats = Box(), Statistics()
    StatisticsCommands(box.registry, stats).register()
    stats.counter("tm", "2xx").inc(3)
    kept = stats.counter("tm", "inuse", no_reset=True)
    kept.inc()
    stats.counter("core", "2xx").inc(9)
    stats.computed("core", "timestamp", lambda: 77)
    stats.computed("core", "broken", lambda: 1 // 0)
    assert box("get_statistics", [["tm:"]]) == {"tm:2xx": 3, "tm:inuse": 1}
    assert box("statistics:get", {"statistics": "2xx"}) == {"tm:2xx": 3}, "the first group that has the name"
    assert box("statistics:get", [["core:2xx", "nosuch", "timestamp"]]) == {"core:2xx": 9, "core:timestamp": 77}
    assert len(box("statistics:get", [["all"]])) == 4, "a broken one is left out"
    assert "core:broken" in caplog.text
    assert box.refused("statistics:get", [["nosuch"]]) == (404, "Statistics Not Found")
    assert box.refused("statistics:get", [[]]) == (-32602, "Invalid params")
    assert box.refused("statistics:get", [[1]]) == (-32602, "Invalid params")
    assert box("statistics:list")["tm:inuse"] == "non-incremental"
    assert box("statistics:list", [["2xx", "tm:"]]) == {
        "2xx": "incremental", "tm:2xx": "incremental", "tm:inuse": "non-incremental",
    }  # fmt: skip
    assert box("reset_statistics", [["tm:"]]) == "OK"
    assert box("statistics:get", [["tm:"]]) == {"tm:2xx": 0, "tm:inuse": 1}
    assert box("reset_all_statistics") == "OK"
    assert box("statistics:get", [["core:2xx"]]) == {"core:2xx": 0}
    stats.remove_group("tm")
    assert stats.find("tm:2xx") is None
    with pytest.raises(ValueError, match="exists already"):
        stats.computed("core", "timestamp", lambda: 1)


class Lines(Transport):
    scheme = "line"

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, Any]] = []

    def parse(self, address: str) -> str:
        if not address:
            raise ValueError("empty")
        return address

    def deliver(self, address: str, name: str, params: Any) -> None:
        self.sent.append((address, name, dict(params)))


def test_events_are_listed_subscribed_to_and_raised() -> None:
    box, clock, lines = Box(), [100.0], Lines()
    hub = Hub(now=lambda: clock[0])
    EventCommands(box.registry, hub, lambda: clock[0]).register()
    hub.declare("E_A", [("x", "int"), ("y", "")])
    hub.declare("E_B")
    hub.add_transport(lines)
    assert box("events_list") == {"Events": [{"name": "E_A", "id": 0}, {"name": "E_B", "id": 1}]}
    assert box.refused("raise_event", ["E_A"]) == (480, "Temporarily Unavailable")
    assert box.refused("raise_event", ["E_NO"]) == (404, "Event not registered")
    assert box("event_subscribe", ["E_A", "line:a", 60]) == "OK"
    clock[0] += 10
    shown = box("subscribers_list", ["E_A"])["Event"]["Subscribers"][0]
    assert (shown["socket"], shown["expire"], shown["ttl"]) == ("line:a", 60, 50)
    assert [e["name"] for e in box("evi:subscribers")["Events"]] == ["E_A"]
    assert box("evi:subscribers", ["E_A", "line:a"])["Event"]["Subscriber"]["socket"] == "line:a"
    assert box.refused("evi:subscribers", ["E_A", "line:b"]) == (404, "Subscriber does not exist")
    assert box.refused("evi:subscribers", ["E_NO"]) == (404, "Event not published")
    box("evi:raise", ["E_A", [1, "two", 3]])
    box("evi:raise", {"event": "E_A", "params": {"x": {"deep": True}}})
    box("evi:raise", {"event": "E_A", "params": '{"y": "text"}'})
    assert [params for _, _, params in lines.sent] == [
        {"x": 1, "y": "two", "2": 3}, {"x": json.dumps({"deep": True})}, {"y": "text"},
    ]  # fmt: skip
    assert box.refused("evi:raise", ["E_A", "{broken"]) == (400, "Bad Params")
    assert box.refused("evi:subscribe", ["E_A", "nosuch:a"]) == (400, "Bad parameter value")
    assert box.refused("evi:subscribe", ["E_A", "line:"]) == (400, "Bad parameter value")
    assert box.refused("evi:subscribe", ["E_A", "line:a", -1]) == (-32602, "Invalid params")
    assert box("evi:subscribe", ["E_A", "line:a", 0]) == "OK"
    assert box("evi:subscribers") == {"Events": []}


class Tcp(TcpControl):
    def connections(self, proto: str | None) -> list[dict[str, Any]]:
        return [{"ID": 1, "Type": proto or "tcp"}]

    def close(self, address: str, port: int) -> int:
        return int((address, port) in (("192.0.2.1", 5060), ("2001:db8::1", 5061)))


def test_connections() -> None:
    box = Box()
    TcpCommands(box.registry, Tcp()).register()
    assert box("list_tcp_conns") == {"Connections": [{"ID": 1, "Type": "tcp"}]}
    assert box("tcp:list", ["TLS"])["Connections"][0]["Type"] == "tls"
    assert box("tcp:close", ["192.0.2.1:5060"]) == box("tcp:close", ["[2001:db8::1]:5061"]) == "OK"
    assert box.refused("tcp:close", ["192.0.2.1:1"]) == (404, "Connection not found")
    for wrong in ("192.0.2.1", "host:5060", "192.0.2.1:0", "192.0.2.1:99999", "192.0.2.1:" + "9" * 400, ":"):
        assert box.refused("tcp:close", [wrong])[0] == -32602


class Cache(CacheControl):
    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    async def fetch(self, system: str, key: str) -> str | None:
        if system != "local":
            raise LookupError(system)
        return self.kept.get(key)

    def store(self, system: str, key: str, value: str, expire_s: int) -> None:
        self.kept[key] = value

    def remove(self, system: str, key: str) -> None:
        raise OSError("connection refused")


def test_cached_values() -> None:
    box = Box()
    CacheCommands(box.registry, Cache()).register()
    assert box.refused("cache_fetch", ["local", "k"]) == (400, "Value not found")
    assert box("cache_store", ["local", "k", "v", 60]) == "OK"
    assert box("cache_fetch", ["local", "k"]) == {"key": "k", "value": "v"}
    assert box.refused("cache:fetch", ["other", "k"]) == (500, "Cache fetch command failed")
    assert box.refused("cache:remove", ["local", "k"]) == (500, "Cache remove command failed")
    for wrong in (["", "k", "v"], ["local", "", "v"], ["local", "k", ""], ["local", "k", "v", -1]):
        assert box.refused("cache:store", wrong)[0] == -32602


def test_log_consumers() -> None:
    class Consumer(LogConsumer):
        level_filter = 0
        muted = False

    box, consumer = Box(), Consumer()
    LogConsumerCommands(box.registry, {"syslog": consumer}).register()
    assert box("core:log_level_filter", ["syslog", 2]) == "OK"
    assert box("core:log_level_filter", ["syslog"]) == {"Log level filter": 2}
    assert box("core:log_mute_state", ["syslog", 1]) == "OK"
    assert box("core:log_mute_state", ["syslog"]) == {"mute state": 1}
    assert box.refused("core:log_mute_state", ["x"]) == (404, "Unknown log consumer")


def test_status_reports() -> None:
    box, seen = Box(), []  # type: tuple[Box, list[Any]]
    reports = StatusReports(lambda: 1_700_000_000.5, lambda *change: seen.append(change))
    StatusCommands(box.registry, reports).register()
    reports.add("dispatcher", "default", -2, "loading")
    reports.set_status("dispatcher", 1, "ready", "default")
    reports.set_status("dispatcher", 1, "ready", "default")
    reports.report("dispatcher", "12 destinations", "default")
    assert seen == [("dispatcher", "default", 1, "ready", -2)], "only changes are told"
    one = {"Readiness": True, "Status": 1, "Details": "ready"}
    assert box("sr_get_status", ["dispatcher", "default"]) == one
    assert box("sr_list_status", ["dispatcher"]) == [{"Name": "default", **one}]
    assert box("sr_list_status") == [{"Name": "dispatcher", "Identifiers": [{"Name": "default", **one}]}]
    log = box("sr_list_reports", ["dispatcher", "default"])
    assert (log[0]["Timestamp"], log[0]["Log"]) == (1_700_000_000, "12 destinations")
    assert box("sr_list_reports")[0]["Identifiers"][0]["Reports"] == log
    assert box("sr_list_reports", ["dispatcher"])[0]["Name"] == "default"
    assert box("sr_list_identifiers") == [{"Group": "dispatcher", "Identifiers": ["default"]}]
    assert box("sr_list_identifiers", ["dispatcher"]) == {"Group": "dispatcher", "Identifiers": ["default"]}
    assert box.refused("sr_get_status", ["nosuch"]) == (404, "Group not found")
    assert box.refused("sr_get_status", ["dispatcher"]) == (404, "Identity not found")
    assert box.refused("sr_list_reports", ["dispatcher", "x"]) == (404, "Identifier not found")
    for i in range(500):
        reports.report("dispatcher", str(i), "default")
    assert len(box("sr_list_reports", ["dispatcher", "default"])) == 200
    reports.remove("dispatcher", "default")
    assert box("sr_list_identifiers", ["dispatcher"])["Identifiers"] == []
