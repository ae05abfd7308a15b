"""`opensipspy describe`: the interface that modules and the core declare, for people or as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, Final, cast

from opensipspy.events import Hub
from opensipspy.management import (
    CacheCommands,
    CoreCommands,
    EventCommands,
    LogConsumerCommands,
    MemoryCommands,
    Registry,
    Statistics,
    StatisticsCommands,
    StatusCommands,
    TcpCommands,
)
from opensipspy.module import ModuleLoadError, find_module, module_names
from opensipspy.module.describe import describe, describe_catalogue, manual
from opensipspy.script.core import build_catalogue
from opensipspy.script.globals import PARAMETERS
from opensipspy.script.services import ScriptServices
from opensipspy.server.blacklists import Blacklists
from opensipspy.server.core_events import EVENTS
from opensipspy.server.counters import CoreCounters
from opensipspy.server.figures import Figures
from opensipspy.server.stores import count_queries, count_stores

SUMMARY: Final = "show what modules offer to scripts and operators"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print a JSON list in the shape of the catalogue")
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="module names, `core` for the core; all when none")


def run(args: argparse.Namespace) -> int:
    every = not args.modules
    names = [*module_names(), "core"] if every else args.modules
    described, texts = [], []
    for name in names:
        try:
            if name == "core":
                described.append(core_interface())
                texts.append(core_text(described[-1]))
            else:
                cls = find_module(name)
                described.append(describe(cls))
                texts.append(f"{cls.name}: {_first_line(cls.__doc__)}" if every else manual(cls))
        except ModuleLoadError as error:
            print(f"opensipspy describe: {error}", file=sys.stderr)
            # A list of everything goes on without a module whose optional package is missing.
            if not every:
                return 1
    print(json.dumps(described, indent=1) if args.json else "\n".join(texts))
    return 0


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n")[0]


def nothing_behind(cls: type[Any]) -> Any:
    """An instance of an abstract class whose every method answers 0: enough to collect what is declared on it."""

    def nothing(self: object, *args: object) -> int:
        return 0

    made = type(f"Declared{cls.__name__}", (cls,), dict.fromkeys(cls.__abstractmethods__, nothing))
    return made()


def core_interface() -> dict[str, Any]:
    """The core's interface, collected from the same declarations that a server registers."""
    catalogue = build_catalogue(cast(ScriptServices, nothing_behind(ScriptServices)))
    registry, statistics = Registry(), Statistics()
    hub = Hub(now=lambda: 0.0)
    nobody: Any = None
    CoreCommands(registry, nobody).register()
    StatisticsCommands(registry, statistics).register()
    EventCommands(registry, hub, nobody).register()
    StatusCommands(registry, nobody).register()
    TcpCommands(registry, nobody).register()
    LogConsumerCommands(registry, {}).register()
    CacheCommands(registry, nobody).register()
    MemoryCommands(registry, nobody, nobody).register()
    Blacklists(nobody).register(registry)
    CoreCounters(statistics)
    Figures(statistics, nobody).declare()
    count_stores(statistics, nobody)
    count_queries(statistics, nobody)
    for name, params in EVENTS.items():
        hub.declare(name, params, module="core")
    return describe_catalogue(
        catalogue,
        commands=registry.commands(),
        events=[(event.name, event.params) for event in hub.events()],
        global_parameters=[
            {"name": name, "type": kind, "default": default} for name, (kind, default) in sorted(PARAMETERS.items())
        ],
        statistics={group: list(statistics.group(group)) for group in statistics.groups()},
    )


def core_text(core: dict[str, Any]) -> str:
    """A short list of the core's names."""
    transformations = [t for group in core["transformations"] for t in group["transformations"]]
    lines = ["core: the script language's own functions, variables and commands"]
    for title, entries in (
        ("global parameters", core["global_parameters"]),
        ("functions", core["functions"]),
        ("variables", core["pseudo_variables"]),
        ("transformations", transformations),
        ("commands", core["mi"]),
        ("events", core["events"]),
        ("statistics", [entry for group in core["statistics"].values() for entry in group]),
    ):
        lines.append(f"  {title}: " + ", ".join(entry["name"] for entry in entries))
    return "\n".join(lines)
