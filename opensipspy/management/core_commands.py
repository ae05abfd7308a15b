"""The management commands of the core, answered in the shapes that clients of the C server expect.

Each class belongs to one ability of the server; the server registers those it has.
"""

from __future__ import annotations

import inspect
import ipaddress
import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from opensipspy.management.control import CacheControl, LogConsumer, ServerControl, TcpControl
from opensipspy.management.registry import INVALID_PARAMS, CommandDecl, Json, MiError, Registry
from opensipspy.management.statistics import Counter, Statistics
from opensipspy.management.status import MAIN, Identifier, StatusReports

if TYPE_CHECKING:
    from opensipspy.events import EventDecl, Hub, Subscription

STREAMS: Final = ("tcp", "tls", "ws", "wss")
OK: Final = "OK"
DEFAULT_EXPIRE_S: Final = 3600
NOTICE: Final = 2
LOWEST_LEVEL: Final = -3
HIGHEST_LEVEL: Final = 4


def invalid(details: str) -> MiError:
    """A parameter has a value that it cannot have."""
    return MiError(INVALID_PARAMS, "Invalid params", details)


def date_text(seconds: float) -> str:
    """Local time as C's ctime writes it: `Mon Nov  3 09:05:00 2025`."""
    when = datetime.fromtimestamp(seconds)
    return when.strftime("%a %b ") + f"{when.day:2d}" + when.strftime(" %H:%M:%S %Y")


class CoreCommands:
    """`core:*`: the server itself."""

    def __init__(self, registry: Registry, control: ServerControl) -> None:
        self._registry = registry
        self._control = control

    def register(self) -> None:
        add = self._registry.add
        level = {"level": "int", "pid": "int"}
        add(CommandDecl("core:which", self.which, params=((), ("command",)), types={"command": "string"}, doc=_WHICH))
        add(CommandDecl("core:help", self.help, params=((), ("mi_cmd",)), types={"mi_cmd": "string"}, doc=_HELP))
        add(CommandDecl("core:ps", self.ps, doc="List the processes of the server."))
        add(CommandDecl("core:uptime", self.uptime, doc="Tell when the server was started and how long it runs."))
        add(CommandDecl("core:version", self.version, params=((), ("revision",)), doc="Tell the server's version."))
        add(CommandDecl("core:pwd", self.pwd, doc="Tell the working directory."))
        add(CommandDecl("core:arg", self.arg, doc="List the arguments that the server was started with."))
        add(CommandDecl("core:kill", self.kill, doc="End the server in good order."))
        add(CommandDecl("core:reload_routes", self.reload_routes, doc="Load the routes of the script again."))
        levels = ((), ("level",), ("level", "pid"))
        add(CommandDecl("core:log_level", self.log_level, params=levels, types=level, doc=_LOG_LEVEL))
        add(CommandDecl("core:xlog_level", self.xlog_level, params=((), ("level",)), types=level, doc=_XLOG_LEVEL))

    def which(self, command: str | None = None) -> Json:
        if command is None:
            # Clients offer what is listed here, so the old flat names stand behind the full ones.
            return [*self._registry.names(), *self._registry.flat_names()]
        if command.endswith(":"):
            names = [name for name in self._registry.names() if name.startswith(command)]
            if names:
                return names
        found = self._registry.find(command)
        if found is None:
            raise MiError(404, "unknown MI command")
        return [list(group) for group in found.params]

    def help(self, mi_cmd: str | None = None) -> Json:
        if mi_cmd is None:
            return {
                "Usage": "help mi_cmd - returns information about 'mi_cmd'",
                "which": "lists all commands",
            }
        found = self._registry.find(mi_cmd)
        if found is None:
            raise MiError(404, "unknown MI command")
        shown: dict[str, Json] = {"Command": found.name, "Help": found.doc, "Exported by": found.module}
        shown["Parameters"] = [list(group) for group in found.params]
        if found.aliases:
            shown["Aliases"] = list(found.aliases)
        return shown

    def ps(self) -> Json:
        processes = self._control.processes()
        return {"Processes": [{"ID": p.id, "PID": p.pid, "Type": p.type} for p in processes]}

    def uptime(self) -> Json:
        now = self._control.time()
        return {
            "Now": date_text(now),
            "Up since": date_text(self._control.started_at),
            "Up time": f"{max(0, int(now - self._control.started_at))} [sec]",
        }

    def version(self, revision: Json = None) -> Json:
        shown = {"Server": self._control.version}
        if revision is not None:
            # There is no build from a working copy to name: the release is the revision.
            shown["release"] = self._control.version.partition("(")[2].partition(" ")[0]
        return shown

    def pwd(self) -> Json:
        return {"WD": os.getcwd()}

    def arg(self) -> Json:
        return list(self._control.argv)

    def kill(self) -> Json:
        self._control.stop()
        return OK

    async def reload_routes(self) -> Json:
        await self._control.reload_routes()
        return OK

    def log_level(self, level: int | None = None, pid: int | None = None) -> Json:
        processes = self._control.processes()
        if level is None:
            return {
                "Processes": [
                    {"PID": p.pid, "Log level": self._control.log_level(p.pid), "Type": p.type} for p in processes
                ]
            }
        _check_level(level)
        if pid is not None and all(p.pid != pid for p in processes):
            raise invalid("Bad PID")
        self._control.set_log_level(level, pid)
        return {"New global log level" if pid is None else "Log level": level}

    def xlog_level(self, level: int | None = None) -> Json:
        if level is None:
            return {"xLog Level": self._control.xlog_level()}
        _check_level(level)
        self._control.set_xlog_level(level)
        return {"New xLog level": level}


def _check_level(level: int) -> None:
    if not LOWEST_LEVEL <= level <= HIGHEST_LEVEL:
        raise invalid(f"level must be between {LOWEST_LEVEL} and {HIGHEST_LEVEL}")


_WHICH: Final = "List all commands, those of a module (`tm:`), or the parameters that a command takes."
_HELP: Final = "Tell what a command does and which parameters it takes."
_LOG_LEVEL: Final = "Show or set the log level of all processes or of one."
_XLOG_LEVEL: Final = "Show or set the level up to which the script's xlog writes."


class StatisticsCommands:
    """`statistics:*`."""

    def __init__(self, registry: Registry, statistics: Statistics) -> None:
        self._registry = registry
        self._statistics = statistics

    def register(self) -> None:
        add = self._registry.add
        names: dict[str, Any] = {"types": {"statistics": "array"}}
        one = (("statistics",),)
        get, reset = ("get_statistics",), ("reset_statistics",)
        add(CommandDecl("statistics:get", self.get, aliases=get, params=one, doc=_GET, **names))
        listed = ((), ("statistics",))
        add(CommandDecl("statistics:list", self.list, aliases=("list_statistics",), params=listed, doc=_LIST, **names))
        add(CommandDecl("statistics:reset", self.reset, aliases=reset, params=one, doc=_RESET, **names))
        aliases = ("reset_all_statistics",)
        add(CommandDecl("statistics:reset_all", self.reset_all, aliases=aliases, doc="Set all statistics to 0."))

    def get(self, statistics: Sequence[Json]) -> Json:
        values = self._statistics.read(_texts(statistics))
        if not values:
            raise MiError(404, "Statistics Not Found")
        return values

    def list(self, statistics: Sequence[Json] | None = None) -> Json:
        if statistics is None:
            return {name: _kind(counter) for name, counter in self._statistics.select(["all"])}
        shown: dict[str, str] = {}
        for wanted in _texts(statistics):
            for name, counter in self._statistics.select([wanted]):
                # A single one is listed under the name that was asked for, a group's with the group.
                shown[name if wanted.endswith(":") or wanted == "all" else wanted] = _kind(counter)
        if not shown:
            raise MiError(404, "Statistics Not Found")
        return shown

    def reset(self, statistics: Sequence[Json]) -> Json:
        found = list(self._statistics.select(_texts(statistics)))
        if not found:
            raise MiError(404, "Statistics Not Found")
        for _, counter in found:
            counter.reset()
        return OK

    def reset_all(self) -> Json:
        for _, counter in self._statistics.select(["all"]):
            counter.reset()
        return OK


_GET: Final = "Values of statistics: `all`, a group (`tm:`), `name` or `group:name`."
_LIST: Final = "Names and kinds of all statistics, or of those that are named."
_RESET: Final = "Set statistics to 0."


def _kind(counter: Counter) -> str:
    return "non-incremental" if counter.no_reset or counter.computed else "incremental"


def _texts(values: Sequence[Json]) -> list[str]:
    if not values:
        raise invalid("Empty array in parameter 'statistics'")
    if not all(isinstance(value, str) for value in values):
        raise invalid("Bad type for array item in parameter 'statistics'")
    return [str(value) for value in values]


class EventCommands:
    """`evi:*`: events and their subscribers."""

    def __init__(self, registry: Registry, hub: Hub, now: Any) -> None:
        self._registry = registry
        self._hub = hub
        self._now = now

    def register(self) -> None:
        add = self._registry.add
        text = {"event": "string", "socket": "string", "expire": "int"}
        subscribe = (("event", "socket"), ("event", "socket", "expire"))
        one = ("event_subscribe",)
        add(CommandDecl("evi:subscribe", self.subscribe, aliases=one, params=subscribe, types=text, doc=_SUBSCRIBE))
        aliases, listed = ("subscribers_list",), ((), ("event",), ("event", "socket"))
        add(CommandDecl("evi:subscribers", self.subscribers, aliases=aliases, params=listed, types=text, doc=_SUBS))
        add(CommandDecl("evi:list", self.list, aliases=("events_list",), doc="List the declared events."))
        # The parameters may be an array or an object, also as a text that holds either: no single type.
        given, types = (("event",), ("event", "params")), {"event": "string"}
        add(CommandDecl("evi:raise", self.raise_, aliases=("raise_event",), params=given, types=types, doc=_RAISE))

    def subscribe(self, event: str, socket: str, expire: int = DEFAULT_EXPIRE_S) -> Json:
        if expire < 0:
            raise invalid("Negative expire value")
        try:
            if expire == 0:
                self._hub.unsubscribe(event, socket)
            else:
                self._hub.subscribe(event, socket, expire)
        except ValueError as error:
            raise MiError(400, "Bad parameter value", str(error)) from error
        return OK

    def list(self) -> Json:
        return {"Events": [{"name": event.name, "id": event.id} for event in self._hub.events()]}

    def subscribers(self, event: str | None = None, socket: str | None = None) -> Json:
        if event is None:
            shown = [self._event(e, self._hub.subscriptions(e.name)) for e in self._hub.events()]
            return {"Events": [entry for entry in shown if entry]}
        declared = self._hub.event(event)
        if declared is None:
            raise MiError(404, "Event not published")
        if socket is None:
            return {"Event": self._event(declared, self._hub.subscriptions(event))}
        try:
            found = self._hub.subscription(event, socket)
        except ValueError:
            found = None
        if found is None:
            raise MiError(404, "Subscriber does not exist")
        return {"Event": {"name": declared.name, "id": declared.id, "Subscriber": self._subscriber(found)}}

    def _event(self, event: EventDecl, subscriptions: Sequence[Subscription]) -> dict[str, Json]:
        if not subscriptions:
            return {}
        shown = [self._subscriber(subscription) for subscription in subscriptions]
        return {"name": event.name, "id": event.id, "Subscribers": shown}

    def _subscriber(self, subscription: Subscription) -> dict[str, Json]:
        shown: dict[str, Json] = {"socket": subscription.socket}
        if subscription.expires_at is None:
            shown["expire"] = "never"
        else:
            shown["expire"] = subscription.expire_s
            shown["ttl"] = max(0, int(subscription.expires_at - self._now()))
        # Beyond what the C server shows: whether events were lost on the way to this subscriber.
        shown["delivered"] = subscription.delivered
        shown["dropped"] = subscription.dropped
        shown["failed"] = subscription.failed
        return shown

    def raise_(self, event: str, params: Json = None) -> Json:
        declared = self._hub.event(event)
        if declared is None:
            raise MiError(404, "Event not registered")
        given = self._params(declared, params)
        if not self._hub.wanted(event):
            raise MiError(480, "Temporarily Unavailable")
        self._hub.raise_event(event, given)
        return OK

    @staticmethod
    def _params(declared: EventDecl, params: Json) -> Mapping[str, Json]:
        if isinstance(params, str):
            try:
                params = json.loads(params)
            except ValueError as error:
                raise MiError(400, "Bad Params") from error
        if params is None:
            return {}
        if isinstance(params, Mapping):
            return {name: _simple(value) for name, value in params.items()}
        if isinstance(params, list):
            names = [name for name, _ in declared.params]
            return {names[i] if i < len(names) else str(i): _simple(value) for i, value in enumerate(params)}
        raise MiError(400, "Bad Params")


def _simple(value: Json) -> int | str:
    """Events carry numbers and texts; anything else goes as its JSON text."""
    if isinstance(value, int | str) and not isinstance(value, bool):
        return value
    return json.dumps(value)


_SUBSCRIBE: Final = (
    "Send an event to a socket (`udp:10.0.0.5:8888`) for `expire` seconds, 3600 when not given; 0 ends it."
)
_SUBS: Final = "List who gets which event, until when, and what was lost."
_RAISE: Final = "Raise an event."


class TcpCommands:
    """`tcp:*`."""

    def __init__(self, registry: Registry, control: TcpControl) -> None:
        self._registry = registry
        self._control = control

    def register(self) -> None:
        aliases, text = ("list_tcp_conns",), {"proto": "string", "ipport": "string"}
        listed, doc = ((), ("proto",)), "List the connections of the stream transports, of one protocol or all."
        self._registry.add(CommandDecl("tcp:list", self.list, aliases=aliases, params=listed, types=text, doc=doc))
        doc = "Close a connection by its ID, or those to a remote address, `ip:port` or `proto:ip:port`."
        self._registry.add(CommandDecl("tcp:close", self.close, params=(("ipport",),), types=text, doc=doc))

    def list(self, proto: str | None = None) -> Json:
        return {"Connections": list(self._control.connections(proto.lower() if proto else None))}

    def close(self, ipport: str) -> Json:
        if ipport.isascii() and ipport.isdigit():
            if not self._control.close_connection(int(ipport[:18])):
                raise MiError(404, "Connection not found")
            return OK
        proto, separator, rest = ipport.partition(":")
        proto = proto.lower() if separator and proto.lower() in STREAMS else ""
        address, colon, port = (rest if proto else ipport).rpartition(":")
        bare = address.removeprefix("[").removesuffix("]")
        try:
            ipaddress.ip_address(bare)
        except ValueError as error:
            raise invalid("ipport must be ip:port or [ipv6]:port") from error
        if not colon or not (port.isascii() and port.isdigit()) or not 0 < int(port[:6]) < 65536:
            raise invalid("ipport must be ip:port or [ipv6]:port")
        closed = self._control.close_of(proto, bare, int(port)) if proto else self._control.close(bare, int(port))
        if not closed:
            raise MiError(404, "Connection not found")
        return OK


class CacheCommands:
    """`cache:*`: values in the key-value stores."""

    def __init__(self, registry: Registry, control: CacheControl) -> None:
        self._registry = registry
        self._control = control

    def register(self) -> None:
        add = self._registry.add
        text = {"system": "string", "attr": "string", "value": "string", "expire": "int"}
        fetch, remove, store = ("cache_fetch",), ("cache_remove",), ("cache_store",)
        two = (("system", "attr"),)
        add(CommandDecl("cache:fetch", self.fetch, aliases=fetch, params=two, types=text, doc="Value of a key."))
        add(CommandDecl("cache:remove", self.remove, aliases=remove, params=two, types=text, doc="Forget a key."))
        params = (("system", "attr", "value"), ("system", "attr", "value", "expire"))
        add(CommandDecl("cache:store", self.store, aliases=store, params=params, types=text, doc="Keep a value."))

    async def fetch(self, system: str, attr: str) -> Json:
        value = await self._ask("fetch", system, attr)
        if not value:
            raise MiError(400, "Value not found")
        return {"key": attr, "value": value}

    async def store(self, system: str, attr: str, value: str, expire: int = 0) -> Json:
        if not value:
            raise invalid("Empty value")
        if expire < 0:
            raise invalid("Negative expire value")
        await self._ask("store", system, attr, value, expire)
        return OK

    async def remove(self, system: str, attr: str) -> Json:
        await self._ask("remove", system, attr)
        return OK

    async def _ask(self, what: str, system: str, attr: str, *rest: Any) -> Any:
        if not system:
            raise invalid("Empty memory cache id")
        if not attr:
            raise invalid("Empty attribute name")
        try:
            result = getattr(self._control, what)(system, attr, *rest)
            return await result if inspect.isawaitable(result) else result
        except (LookupError, OSError) as error:
            raise MiError(500, f"Cache {what} command failed", str(error)) from error


class MemoryCommands:
    """`mem:*`: what the memory of the server is filled with. There is one memory, so both commands tell the same."""

    def __init__(self, registry: Registry, control: ServerControl, dump: Callable[[int], None]) -> None:
        """dump: writes what it finds to the log, at that level."""
        self._registry = registry
        self._control = control
        self._dump = dump

    def register(self) -> None:
        add = self._registry.add
        types = {"pid": "int", "log_level": "int"}
        one = (("pid",), ("pid", "log_level"))
        add(CommandDecl("mem:pkg_dump", self.process, aliases=("mem_pkg_dump",), params=one, types=types, doc=_DUMP))
        level = {"log_level": "int"}
        alias, both = ("mem_shm_dump",), ((), ("log_level",))
        add(CommandDecl("mem:shm_dump", self.all, aliases=alias, params=both, types=level, doc=_DUMP))

    def process(self, pid: int, log_level: int = NOTICE) -> Json:
        if all(process.pid != pid for process in self._control.processes()):
            raise invalid("Bad PID")
        return self.all(log_level)

    def all(self, log_level: int = NOTICE) -> Json:
        _check_level(log_level)
        self._dump(log_level)
        return OK


_DUMP: Final = "Write to the log how much memory there is and which kinds of objects are most. Takes a moment."


class LogConsumerCommands:
    """`core:log_level_filter` and `core:log_mute_state`: the places that log lines go to."""

    def __init__(self, registry: Registry, consumers: Mapping[str, LogConsumer]) -> None:
        self._registry = registry
        self._consumers = consumers

    def register(self) -> None:
        add = self._registry.add
        types = {"consumer": "string", "level_filter": "int", "mute_state": "int"}
        params: tuple[tuple[str, ...], ...] = (("consumer",), ("consumer", "level_filter"))
        doc = "Show or set the highest level that a log consumer lets through."
        add(CommandDecl("core:log_level_filter", self.level_filter, params=params, types=types, doc=doc))
        params = (("consumer",), ("consumer", "mute_state"))
        doc = "Show or set whether a log consumer is silent."
        add(CommandDecl("core:log_mute_state", self.mute_state, params=params, types=types, doc=doc))

    def _find(self, name: str) -> LogConsumer:
        found = self._consumers.get(name)
        if found is None:
            raise MiError(404, "Unknown log consumer")
        return found

    def level_filter(self, consumer: str, level_filter: int | None = None) -> Json:
        found = self._find(consumer)
        if level_filter is None:
            return {"Log level filter": found.level_filter}
        _check_level(level_filter)
        found.level_filter = level_filter
        return OK

    def mute_state(self, consumer: str, mute_state: int | None = None) -> Json:
        found = self._find(consumer)
        if mute_state is None:
            return {"mute state": int(found.muted)}
        found.muted = bool(mute_state)
        return OK


class StatusCommands:
    """`status_report:*`."""

    def __init__(self, registry: Registry, reports: StatusReports) -> None:
        self._registry = registry
        self._reports = reports

    def register(self) -> None:
        add = self._registry.add
        text = {"group": "string", "identifier": "string"}
        one = (("group",), ("group", "identifier"))
        get, status = ("sr_get_status",), ("sr_list_status",)
        add(CommandDecl("status_report:get", self.get, aliases=get, params=one, types=text, doc="One status."))
        some, doc = ((), ("group",)), "The statuses of all identifiers or of a group's."
        add(CommandDecl("status_report:status", self.status, aliases=status, params=some, types=text, doc=doc))
        deep, doc = ((), *one), "What has happened to identifiers lately."
        aliases = ("sr_list_reports",)
        add(CommandDecl("status_report:reports", self.reports, aliases=aliases, params=deep, types=text, doc=doc))
        aliases, doc = ("sr_list_identifiers",), "The identifiers of all groups or of one."
        add(
            CommandDecl(
                "status_report:identifiers", self.identifiers, aliases=aliases, params=some, types=text, doc=doc
            )
        )

    def _group(self, name: str) -> dict[str, Identifier]:
        found = self._reports.group(name)
        if found is None:
            raise MiError(404, "Group not found")
        return found

    def get(self, group: str, identifier: str = MAIN) -> Json:
        found = self._group(group).get(identifier)
        if found is None:
            raise MiError(404, "Identity not found")
        return found.as_json(named=False)

    def status(self, group: str | None = None) -> Json:
        if group is not None:
            return [member.as_json() for member in self._group(group).values()]
        return [
            {"Name": name, "Identifiers": [member.as_json() for member in members.values()]}
            for name, members in self._reports.groups().items()
        ]

    def reports(self, group: str | None = None, identifier: str | None = None) -> Json:
        if group is None:
            return [
                {"Name": name, "Identifiers": [_reports_of(member) for member in members.values()]}
                for name, members in self._reports.groups().items()
            ]
        members = self._group(group)
        if identifier is None:
            return [_reports_of(member) for member in members.values()]
        found = members.get(identifier)
        if found is None:
            raise MiError(404, "Identifier not found")
        return _log(found)

    def identifiers(self, group: str | None = None) -> Json:
        if group is not None:
            return {"Group": group, "Identifiers": list(self._group(group))}
        groups = self._reports.groups()
        return [{"Group": name, "Identifiers": list(members)} for name, members in groups.items()]


def _log(identifier: Identifier) -> list[dict[str, Json]]:
    return [{"Timestamp": at, "Date": date_text(at), "Log": text} for at, text in identifier.reports]


def _reports_of(identifier: Identifier) -> dict[str, Json]:
    return {"Name": identifier.name, "Reports": _log(identifier)}
