"""`opensipspy db`: make the tables that modules need, upgrade old ones, and show what is there."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import cast

from opensipspy.cachedb import CacheDbDriver, CacheDbs
from opensipspy.db import TABLES_OF_ABSENT_MODULES, VERSION_TABLE, DatabaseError, DbDriver, DbUrl, Table, parse_url
from opensipspy.dbdrivers.db_cachedb import DbCachedb
from opensipspy.module import Core, Module, ModuleLoadError, find_module, module_names

SUMMARY = "make or upgrade the tables of the database, or show them"

DEFAULT_URL = "sqlite:opensipspy.sqlite"


def configure(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    create_parser = commands.add_parser("create", help="make the tables that are missing; others stay as they are")
    show_parser = commands.add_parser("show", help="list the tables with their versions")
    migrate_parser = commands.add_parser(
        "migrate", help="upgrade tables of older versions; rows are copied, the old tables stay under another name"
    )
    migrate_parser.add_argument("--dry-run", action="store_true", help="only print the plan")
    migrate_parser.add_argument("--yes", action="store_true", help="do not ask before acting")
    for sub in (create_parser, show_parser, migrate_parser):
        sub.add_argument("--url", default=DEFAULT_URL, help=f"the database (default: {DEFAULT_URL})")
        sub.add_argument(
            "--store", default="", metavar="URL", help="the store of a cachedb URL, as the cachedb_url of db_cachedb"
        )
        which = sub.add_mutually_exclusive_group()
        which.add_argument("--modules", nargs="+", metavar="NAME", help="only the tables of these modules")
        which.add_argument("--all", action="store_true", help="the tables of all modules (the default)")


def declared_tables(modules: Sequence[str] | None) -> list[Table]:
    """The tables of the named modules (of all, those of OpenSIPS that are not here included, when None), each once, by
    name.

    Raises ModuleLoadError for a named module that cannot be loaded.
    """
    found: dict[str, Table] = {}
    for name in module_names() if modules is None else modules:
        try:
            tables = find_module(name).tables
        except ModuleLoadError:
            if modules is None:
                continue  # a module whose optional client is not installed: its tables are made when it is named
            if name not in TABLES_OF_ABSENT_MODULES:
                raise
            tables = TABLES_OF_ABSENT_MODULES[name]
        for table in tables:
            known = found.setdefault(table.name, table)
            if known.version != table.version:
                raise ModuleLoadError(
                    name, f"table {table.name} is declared in versions {known.version} and {table.version}"
                )
    if modules is None:
        for tables in TABLES_OF_ABSENT_MODULES.values():
            for table in tables:
                found.setdefault(table.name, table)
    return [found[name] for name in sorted(found)]


class WallClock:
    """What the driver of a store asks of a server, where there is none."""

    def time(self) -> float:
        return time.time()


@asynccontextmanager
async def working_driver(url: DbUrl, store: str = "") -> AsyncIterator[DbDriver]:
    """The driver of a URL's scheme while it is worked with. store: of a cachedb URL. Raises DatabaseError."""
    driver = driver_for(url)
    stores = CacheDbs()
    if store:
        if not isinstance(driver, DbCachedb):
            raise DatabaseError(f"{url}: only a cachedb URL has a store")
        try:
            driver.set_cachedb_url(store)
            below = find_module(f"cachedb_{store.partition(':')[0]}")()
        except (ModuleLoadError, ValueError) as error:
            raise DatabaseError(f"{url}: --store: {error}") from error
        below.core = cast("Core", WallClock())
        if isinstance(below, CacheDbDriver):
            stores.add(below)
        driver.work_alone(stores.get)
    try:
        yield driver
    finally:
        for failure in await stores.close():
            print(f"opensipspy db: {failure}", file=sys.stderr)


def driver_for(url: DbUrl) -> DbDriver:
    """The driver of a URL's scheme; raises DatabaseError."""
    try:
        cls: type[Module] = find_module(f"db_{url.scheme}")
    except ModuleLoadError as error:
        raise DatabaseError(f"no driver for {url.scheme} URLs: {error}") from error
    driver = cls()
    if not isinstance(driver, DbDriver):
        raise DatabaseError(f"{driver.name} is no database driver")
    return driver


def parsed(url: str) -> DbUrl:
    try:
        return parse_url(url)
    except ValueError as error:
        raise DatabaseError(str(error)) from error


def create(url: str, modules: Sequence[str] | None = None, store: str = "") -> list[str]:
    """Make the missing tables of the modules (all modules when None); returns the names of those that were made.

    Raises DatabaseError and ModuleLoadError; with a table there in another version, nothing is changed.
    """
    target = parsed(url)

    async def make() -> list[str]:
        async with working_driver(target, store) as driver:
            return await driver.create_tables(target, declared_tables(modules))

    return asyncio.run(make())


async def versions(url: DbUrl, store: str = "") -> dict[str, int]:
    """The version of each table that the database knows."""
    async with working_driver(url, store) as driver:
        database = driver.open_database(url)
        try:
            rows = await database.select(VERSION_TABLE.name, ("table_name", "table_version"), order="table_name")
        finally:
            await database.close()
    return {str(name): version if isinstance(version, int) else 0 for name, version in rows}


def show(url: str, modules: Sequence[str] | None, store: str = "") -> int:
    target = parsed(url)
    there = asyncio.run(versions(target, store))
    status = 0
    print(f"{target}")
    for table in declared_tables(modules):
        version = there.pop(table.name, None)
        if version is None:
            note, status = f"missing (version {table.version})", 1
        elif version != table.version:
            note, status = f"version {version}, needed is {table.version}", 1
        else:
            note = f"version {version}"
        print(f"  {table.name:20} {note}")
    for name, version in there.items():
        print(f"  {name:20} version {version} (of no module)")
    return status


def migrate(url: str, modules: Sequence[str] | None, *, dry_run: bool, confirm: Callable[[], bool]) -> int:
    """Print the plan and, when `confirm` agrees, upgrade one table after the other. Returns the exit status."""
    target = parsed(url)
    driver = driver_for(target)
    print(f"{target}")
    found = asyncio.run(driver.old_tables(target, declared_tables(modules)))
    for old in found:
        print(f"  {old.plan()}")
    todo = [old for old in found if not old.too_new]
    if not todo:
        print("nothing to upgrade")
        return 1 if found else 0
    if dry_run:
        return 0
    if not confirm():
        print("nothing was changed")
        return 1
    for old in todo:
        rows = asyncio.run(driver.migrate_table(target, old))
        print(
            f"{old.table.name}: version {old.table.version}, {rows} rows; once it serves, {old.backup} can be dropped"
        )
    return 0 if len(todo) == len(found) else 1


def asked() -> bool:
    """Whether somebody at a terminal agrees; without a terminal nobody does."""
    if not sys.stdin.isatty():
        print("not at a terminal: say --yes to act")
        return False
    return input("Stop servers that use these tables and have a backup. Upgrade now? [y/N] ").strip().lower() == "y"


def run(args: argparse.Namespace) -> int:
    try:
        if args.command == "show":
            return show(args.url, args.modules, args.store)
        if args.command == "migrate":
            confirm = (lambda: True) if args.yes else asked
            return migrate(args.url, args.modules, dry_run=args.dry_run, confirm=confirm)
        tables = declared_tables(args.modules)
        print(f"{parsed(args.url)}: {', '.join(table.name for table in tables)}")
        made = create(args.url, args.modules, args.store)
    except (DatabaseError, ModuleLoadError) as error:
        print(f"opensipspy db: {error}", file=sys.stderr)
        return 1
    print(f"made {', '.join(made)}" if made else "all of them are there")
    return 0
