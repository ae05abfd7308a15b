"""config: settings that scripts read by name, kept in memory and loaded from a table.

The script and the management commands change the memory only; `config:flush` writes it to the table, `config:reload`
reads the table again.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Final

from opensipspy.db import Column, Database, DatabaseError, Index, Table, as_text, auto_id
from opensipspy.management.registry import Json
from opensipspy.management.status import STATUS_NO_DATA, STATUS_READY
from opensipspy.module import MiError, Module, Param, ParamError, StartError, Timer, mi_command, variable
from opensipspy.script.declare import Index as VarIndex
from opensipspy.script.declare import Value
from opensipspy.script.run import Run

CONFIG_TABLE: Final = Table(
    "config",
    1,
    (
        auto_id(),
        Column("name", "string", 255),
        Column("value", "text", 4096, null=True, default=None),
        Column("description", "string", 255, null=True, default=None),
    ),
    (Index("name_idx", ("name",), unique=True),),
)

MAX_NAME: Final = 255
MAX_VALUE: Final = 65_535
MAX_SETTINGS: Final = 100_000
"""Settings in memory: a script that takes names from messages must not eat the memory of the server."""
CACHE_FILE: Final = ".restart_persistency.cache"
KEEP_S: Final = 5
"""How often changes are kept for the next start, so that a crash loses little."""
RETRY_S: Final = 5
"""How long a database that was away at the start is left alone before it is asked again."""


class Setting:
    """One row as it is in memory."""

    __slots__ = ("description", "value")

    def __init__(self, value: str | None, description: str | None) -> None:
        self.value = value
        self.description = description


class Config(Module):
    """Settings that scripts read with `$config(name)` and operators change while the server runs."""

    name = "config"
    tables = (CONFIG_TABLE,)

    db_url = Param(str, None, "The database; the global db_default_url when not set.")
    table_name = Param(str, "config", "The table.")
    name_column = Param(str, "name", "Column of the names.")
    value_column = Param(str, "value", "Column of the values.")
    description_column = Param(str, "description", "Column of the descriptions.")
    enable_restart_persistency = Param(
        int, 0, "Whether the memory is kept over a restart, in place of reading the table."
    )
    hash_size = Param(int, 16, "Accepted for compatibility: there is no table of fixed size.")
    keep = Timer(KEEP_S, "keep_changes")

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self._settings: dict[str, Setting] = {}
        self._database: Database | None = None
        self._loaded = False
        self._changed = False

    # --- life

    async def start(self) -> None:
        url = self.db_url or getattr(self.core.globals, "db_default_url", None)
        if not url:
            raise ParamError(self.name, "db_url", "is needed")
        try:
            self._database = self.core.database(url)
        except DatabaseError as error:
            raise ParamError(self.name, "db_url", str(error)) from error
        self.core.status.add(self.name, status=STATUS_NO_DATA, details="no data loaded")
        if self.enable_restart_persistency and self._restore():
            self._ready("kept settings restored")
            return
        try:
            await self._database.check_version(self.table_name, CONFIG_TABLE.version or 0)
            await self._load()
        except DatabaseError as error:
            if not error.transient:
                raise StartError(f"config: table {self.table_name} cannot be read: {error}") from error
            self.core.log.error("config: no settings, the database is asked again: %s", error)
            self.core.call_later(RETRY_S, self._retry)

    async def stop(self) -> None:
        await self.keep_changes()

    async def keep_changes(self) -> None:
        """Write the memory to its file where it has changed and is to outlive a restart."""
        if self.enable_restart_persistency and self._changed:
            self._changed = False
            rows = [[name, s.value, s.description] for name, s in self._settings.items()]
            await asyncio.to_thread(self._keep, rows)

    def _ready(self, text: str) -> None:
        self._loaded = self._changed = True
        self.core.status.set_status(self.name, STATUS_READY, "data available")
        self.core.status.report(self.name, f"{text} ({len(self._settings)} settings)")

    def _retry(self) -> None:
        if not self._loaded:
            self.core.spawn(self._load_late(), "config.load")

    async def _load_late(self) -> None:
        try:
            await self._load()
        except DatabaseError as error:
            self.core.log.info("config: still no settings: %s", error)
            self.core.call_later(RETRY_S, self._retry)

    # --- the table

    async def _load(self) -> int:
        """Read the table in place of the memory; returns the number of settings. Raises DatabaseError."""
        assert self._database is not None
        columns = (self.name_column, self.value_column, self.description_column)
        settings: dict[str, Setting] = {}
        skipped = 0
        for name, value, description in await self._database.select(self.table_name, columns):
            try:
                settings[as_text(name)] = Setting(_optional(value), _optional(description))
            except ValueError:
                skipped += 1
        if skipped:
            self.core.log.warning("table %s: %d rows have no name and are skipped", self.table_name, skipped)
        self._settings = settings
        self._ready("settings loaded")
        return len(settings)

    def _kept_file(self) -> Path:
        """Where the memory outlives a restart: beside the other things that the server keeps."""
        return Path(getattr(self.core.globals, "restart_persistency_cache_file", CACHE_FILE) + ".config")

    def _keep(self, rows: list[list[str | None]]) -> None:
        """Write rows to the file, whole or not at all."""
        kept = self._kept_file()
        new = kept.with_name(kept.name + ".new")
        try:
            new.write_text(json.dumps(rows), encoding="utf-8")
            new.replace(kept)
        except OSError as error:
            self.core.log.error("config: settings cannot be kept over the restart: %s", error)

    def _restore(self) -> bool:
        """Read what the last run kept; False when it kept nothing that can be read."""
        try:
            rows = json.loads(self._kept_file().read_text(encoding="utf-8"))
            restored = {str(name): Setting(value, description) for name, value, description in rows}
        except FileNotFoundError:
            return False
        except (OSError, ValueError, TypeError) as error:
            self.core.log.error("config: kept settings cannot be read, the table is: %s", error)
            return False
        self._settings = restored
        return True

    # --- for scripts

    @variable("$config", name_arg=True, writable=True)
    def config(self, run: Run, name: str, index: VarIndex) -> Value:
        """The value of a setting; NULL when there is none."""
        setting = self._settings.get(name)
        return None if setting is None else setting.value

    @config.setter
    def config_set(self, run: Run, name: str, index: VarIndex, value: Value) -> None:
        """Change a setting in memory; NULL leaves it without a value."""
        try:
            self._push(name, None if value is None else str(value))
        except ValueError as error:
            self.core.log.warning("$config(%.100s): %s", name, error)

    @variable("$config.description", name_arg=True)
    def config_description(self, run: Run, name: str, index: VarIndex) -> Value:
        """The description of a setting; NULL when it has none."""
        setting = self._settings.get(name)
        return None if setting is None else setting.description

    def _push(self, name: str, value: str | None, description: str | None = None) -> None:
        """Change a setting in memory; without a new description it keeps its own. Raises ValueError."""
        if not name or len(name) > MAX_NAME:
            raise ValueError(f"a name has 1 to {MAX_NAME} characters")
        if value is not None and len(value) > MAX_VALUE:
            raise ValueError(f"a value has at most {MAX_VALUE} characters")
        if description is not None and len(description) > MAX_NAME:
            raise ValueError(f"a description has at most {MAX_NAME} characters")
        setting = self._settings.get(name)
        if setting is None and len(self._settings) >= MAX_SETTINGS:
            raise ValueError(f"there are {MAX_SETTINGS} settings already")
        self._changed = True
        if setting is None:
            self._settings[name] = Setting(value, description)
            return
        setting.value = value
        if description is not None:
            setting.description = description

    # --- management

    @mi_command("config:reload", aliases=("config_reload",))
    async def reload_settings(self) -> str:
        """Read the table again; what was changed in memory only is lost."""
        try:
            await self._load()
        except DatabaseError as error:
            self.core.status.report(self.name, "reload failed, the settings stay as they are")
            raise MiError(500, "Failed to reload the settings") from error
        return "OK"

    @mi_command("config:list", aliases=("config_list",), params=((), ("description",)), types={"description": "int"})
    def list_settings(self, description: int = 0) -> Json:
        """Every setting in memory with its value; with `description` other than 0 an array that has those too."""
        if not description:
            return {name: setting.value for name, setting in self._settings.items()}
        return [
            {"name": name, "value": setting.value, "description": setting.description}
            for name, setting in self._settings.items()
        ]

    @mi_command(
        "config:push",
        aliases=("config_push",),
        params=(("name",), ("name", "value"), ("name", "value", "description")),
        types={"name": "string", "value": "string", "description": "string"},
    )
    def push(self, name: str, value: str | None = None, description: str | None = None) -> str:
        """Change a setting in memory; without a value it has none."""
        try:
            self._push(name, value, description)
        except ValueError as error:
            raise MiError(400, str(error)) from error
        return "OK"

    @mi_command("config:push_bulk", aliases=("config_push_bulk",), params=(("configs",),), types={"configs": "array"})
    def push_bulk(self, configs: list[Json]) -> int:
        """Change several settings in memory, each an object with name, value and perhaps description.

        Returns how many were changed; none is when one of them is no such object.
        """
        found = []
        for at, item in enumerate(configs):
            if not isinstance(item, dict) or not isinstance(item.get("name"), str):
                raise MiError(400, f"item {at} is no object with a name")
            value, description = item.get("value"), item.get("description")
            if isinstance(value, int | float) and not isinstance(value, bool):
                value = str(value)
            if not isinstance(value, str | None) or not isinstance(description, str | None):
                raise MiError(400, f"item {at}: value and description are strings or null")
            found.append((item["name"], value, description))
        pushed = 0
        for name, value, description in found:
            try:
                self._push(name, value, description)
                pushed += 1
            except ValueError as error:
                self.core.log.warning("config:push_bulk: %.100s: %s", name, error)
        return pushed

    @mi_command("config:flush", aliases=("config_flush",), params=((), ("name",)), types={"name": "string"})
    async def flush(self, name: str | None = None) -> int:
        """Write the memory, or one setting of it, to the table; returns how many settings were written."""
        assert self._database is not None
        names = list(self._settings) if name is None else [name] if name in self._settings else []
        written = 0
        for one in names:
            setting = self._settings.get(one)
            if setting is None:  # a reload came in between
                continue
            row = {
                self.name_column: one,
                self.value_column: setting.value,
                self.description_column: setting.description,
            }
            try:
                await self._database.insert_update(self.table_name, row, (self.name_column,))
            except DatabaseError as error:
                raise MiError(500, "Failed to write the settings", f"{written} are written") from error
            written += 1
        return written


def _optional(value: Any) -> str | None:
    return None if value is None else as_text(value)
