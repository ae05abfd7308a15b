"""Answers of name servers in a key-value store, which outlives the server and may serve several.

The server keeps answers in its own memory as long as they are true; what is not there is looked for in the store
before a name server is asked. An answer that a name, or a kind of records of it, does not exist is kept too. Without
any answer nothing is kept: a name server that is away says nothing about the name.
"""

from __future__ import annotations

from typing import Final

from opensipspy.cachedb import CacheDb, CacheError
from opensipspy.module import DnsStore, Module, Param, ParamError, StartError

LONGEST_S: Final = 7 * 86400
LONGEST_ENTRY: Final = 256 * 1024
PREFIX: Final = "dns"


class DnsCache(Module, DnsStore):
    """Keep answers of name servers in a key-value store, for as long as they are true."""

    name = "dns_cache"

    cachedb_url = Param(str, None, "The store, for example local:// or redis://localhost:6379/.")
    blacklist_timeout = Param(int, 3600, "How long it is remembered that something does not exist.", unit="s")
    min_ttl = Param(int, 0, "The shortest time to keep an answer, whatever it says itself.", unit="s")

    async def start(self) -> None:
        if not self.cachedb_url:
            raise ParamError(self.name, "cachedb_url", "is needed")
        for param in ("blacklist_timeout", "min_ttl"):
            if not 0 <= getattr(self, param) <= LONGEST_S:
                raise ParamError(self.name, param, f"is not 0 to {LONGEST_S} s")
        try:
            self._store: CacheDb = self.core.cachedb(self.cachedb_url)
        except (CacheError, LookupError) as error:
            raise ParamError(self.name, "cachedb_url", str(error)) from error
        try:
            self.core.keep_dns_answers(self)
        except LookupError as error:
            raise StartError(f"dns_cache: {error}") from error

    async def fetch(self, name: str, kind: str) -> tuple[str, float] | None:
        try:
            value = await self._store.fetch(f"{PREFIX}:{kind}:{name}")
        except CacheError as error:
            self.core.log.info("dns_cache: %s", error)
            return None
        if value is None or len(value) > LONGEST_ENTRY:
            return None
        # A store may give whole seconds of life only, and it counts them by its own clock.
        end, space, text = value.partition(" ")
        if not space or not end.isascii() or not end.isdigit() or len(end) > 12:
            return None
        left_s = int(end) - self.core.time()
        return (text, min(left_s, LONGEST_S)) if left_s > 0 else None

    async def keep(self, name: str, kind: str, text: str, ttl_s: float | None) -> float:
        life_s = float(self.blacklist_timeout) if ttl_s is None else max(ttl_s, float(self.min_ttl))
        if life_s < 1 or len(text) > LONGEST_ENTRY:
            return life_s
        value = f"{int(self.core.time() + life_s)} {text}"
        try:
            await self._store.store(f"{PREFIX}:{kind}:{name}", value, int(life_s))
        except CacheError as error:
            self.core.log.info("dns_cache: %s", error)
        return life_s
