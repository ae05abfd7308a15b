"""mmgeoip: where an IP address is, from a MaxMind GeoIP2 or GeoLite2 City database file.

The file is looked at once a minute and opened again when it has been replaced; look-ups go on with the old one until
the new one is open.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import re
from typing import Annotated, Any, Final

from opensipspy.module import Module, Omittable, Param, ParamError, StartError, Timer, WritableVar, script_function
from opensipspy.script.kinds import ALL
from opensipspy.script.run import Run, VarRef

SHORT_FIELDS: Final = {
    "lat": "location.latitude",
    "lon": "location.longitude",
    "cont": "continent.names.en",
    "cc": "country.iso_code",
    "reg": "subdivisions.0.iso_code",
    "rn": "subdivisions.0.names.en",
    "city": "city.names.en",
    "pc": "postal.code",
    "dma": "location.metro_code",
    "tz": "location.time_zone",
}
"""The short names of fields. `ac` (area code) is in the legacy database only."""
DEFAULT_FIELD: Final = "cc"
DELIMITERS: Final = re.compile(r"[:|,/ ]+")
MAX_FIELDS_TEXT: Final = 4096
MAX_ADDRESS: Final = 64
MAX_VALUE: Final = 4096
CHECK_S: Final = 60
MODES: Final = {"STANDARD": "MODE_FILE", "MMAP_CACHE": "MODE_AUTO", "MEM_CACHE_CHECK": "MODE_MEMORY"}
"""What each cache type is for the library."""


class MmGeoIp(Module):
    """Look up countries, cities and places of IP addresses."""

    name = "mmgeoip"

    mmgeoip_city_db_path = Param(str, None, "The database file; it has to be set.")
    cache_type = Param(
        str,
        "MMAP_CACHE",
        "STANDARD reads the file at each question, MMAP_CACHE maps it, MEM_CACHE_CHECK copies it into memory.",
        func=True,
    )
    check = Timer(CHECK_S, "reopen_if_changed")

    def __init__(self, **params: Any) -> None:
        self._mode = MODES["MMAP_CACHE"]
        self._library: Any = None
        self._reader: Any = None
        self._seen: tuple[int, int, int] = (0, 0, 0)
        super().__init__(**params)

    def set_cache_type(self, value: str) -> None:
        if value not in MODES:
            raise ParamError(self.name, "cache_type", "is one of " + ", ".join(MODES))
        self._mode = MODES[value]

    # --- the file

    async def start(self) -> None:
        if not self.mmgeoip_city_db_path:
            raise ParamError(self.name, "mmgeoip_city_db_path", "has to be set")
        if importlib.util.find_spec("maxminddb") is None:
            raise StartError("mmgeoip needs the Python package maxminddb: pip install 'opensipspy[geoip]'")
        self._library = await asyncio.to_thread(importlib.import_module, "maxminddb")
        try:
            self._seen = self._stamp()
            self._reader = await asyncio.to_thread(self._open)
        except (OSError, ValueError, self._library.InvalidDatabaseError) as error:
            raise StartError(f"mmgeoip: {self.mmgeoip_city_db_path} cannot be used: {error}") from error

    async def stop(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _open(self) -> Any:
        return self._library.open_database(self.mmgeoip_city_db_path, getattr(self._library, self._mode))

    def _stamp(self) -> tuple[int, int, int]:
        """What changes when the file is another one."""
        found = os.stat(self.mmgeoip_city_db_path or "")
        return found.st_ino, found.st_mtime_ns, found.st_size

    async def reopen_if_changed(self) -> None:
        """Open the file again when it is another one; one that cannot be used leaves the old one in use."""
        try:
            stamp = self._stamp()
            if stamp == self._seen:
                return
            self._seen = stamp
            new = await asyncio.to_thread(self._open)
        except (OSError, ValueError, self._library.InvalidDatabaseError) as error:
            self.core.log.error("mmgeoip: %s cannot be used, the old one is: %s", self.mmgeoip_city_db_path, error)
            return
        old, self._reader = self._reader, new
        if old is not None:
            old.close()
        self.core.log.info("mmgeoip: %s has been opened again", self.mmgeoip_city_db_path)

    # --- for scripts

    @script_function(routes=ALL)
    def mmg_lookup(
        self,
        run: Run,
        fields: Annotated[str | None, Omittable()],
        src: str,
        dst: Annotated[VarRef, WritableVar("avp")],
    ) -> int:
        """Put what is known of the address `src` into an AVP, the last of the fields on top.

        fields: separated by `:`, `|`, `,`, `/` or blanks; short names (lat, lon, cont, cc, reg, rn, city, pc, dma, tz)
        or paths such as `subdivisions.0.iso_code`; `cc` when left out. Returns 1; -1 when the address is unknown or one
        of the fields is (nothing is put then).
        """
        wanted = [field for field in DELIMITERS.split(fields or DEFAULT_FIELD) if field]
        address = (src or "").strip().removeprefix("[").removesuffix("]")
        if not wanted or len(fields or "") > MAX_FIELDS_TEXT or self._reader is None:
            return -1
        if len(address) > MAX_ADDRESS or not address.isascii():
            return -1
        try:
            record = self._reader.get(address)
        except (ValueError, self._library.InvalidDatabaseError) as error:
            self.core.log.info("mmg_lookup(): %s", error)
            return -1
        if record is None:
            return -1
        values = []
        for field in wanted:
            value = _text(_follow(record, SHORT_FIELDS.get(field, field)))
            if value is None:
                self.core.log.info("mmg_lookup(): nothing is known of %.100s for %s", field, address)
                return -1
            values.append(value)
        for value in values:
            dst.set(run, value)
        return 1


def _follow(record: Any, path: str) -> Any:
    """The value at a path of keys and indexes, None when it leads nowhere."""
    for key in path.split("."):
        if isinstance(record, dict):
            record = record.get(key)
        elif isinstance(record, list) and key.isascii() and key.isdigit() and len(key) < 6 and int(key) < len(record):
            record = record[int(key)]
        else:
            return None
    return record


def _text(value: Any) -> str | None:
    """A value as scripts get it; None for what is no single value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:f}"
    if isinstance(value, bytes):
        return value.hex()[:MAX_VALUE]
    if isinstance(value, int):
        return str(value)
    return value[:MAX_VALUE] if isinstance(value, str) else None
