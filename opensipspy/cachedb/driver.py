"""Drivers by the scheme of their URL, the stores that are open, and the names that scripts have for them."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, ClassVar

from opensipspy.cachedb.errors import CacheError
from opensipspy.cachedb.store import CacheDb, Watcher
from opensipspy.cachedb.url import CacheUrl, parse_url


class CacheDbDriver(ABC):
    """A back-end: what a module of `dbdrivers/` is beside being a module."""

    schemes: ClassVar[Sequence[str]] = ()
    """The URL schemes that the driver serves."""

    @abstractmethod
    def open_store(self, url: CacheUrl) -> CacheDb:
        """The store of a URL; it connects when first used. Raises CacheError for a URL that cannot be right."""

    def __init__(self, **params: Any) -> None:
        # Before the parameters are set.
        self._urls: list[CacheUrl] = []
        super().__init__(**params)

    def set_cachedb_url(self, text: str) -> None:
        """One occurrence of the parameter of that name; raises ValueError."""
        url = parse_url(text)
        if url.scheme not in self.schemes:
            raise ValueError(f"the URL begins with {self.schemes[0]}: or {self.schemes[0]}:group:")
        try:
            self.check_url(url)
        except CacheError as error:
            raise ValueError(error.reason) from error
        self._urls.append(url)

    def check_url(self, url: CacheUrl) -> None:  # noqa: B027 - most URLs can be right
        """Raises CacheError for a URL that cannot be right."""

    def script_urls(self) -> Sequence[CacheUrl]:
        """The URLs whose stores scripts call by `scheme:group`; of several with one name the last counts."""
        return self._urls

    async def connect_all(self, open_store: Callable[[str], CacheDb]) -> list[CacheError]:
        """Connect the stores of the script; what went wrong is in the log already, where the server may come back."""
        stores = {id(store): store for store in (open_store(url.text) for url in self.script_urls())}
        results = await asyncio.gather(*(store.connect() for store in stores.values()), return_exceptions=True)
        failures = []
        for result in results:
            if isinstance(result, CacheError):
                failures.append(result)
            elif isinstance(result, BaseException):
                raise result
        return failures


class CacheDbs:
    """The stores of one server: those who name the same URL share one `CacheDb`."""

    def __init__(self) -> None:
        self._drivers: dict[str, CacheDbDriver] = {}
        self._open: dict[str, CacheDb] = {}
        self._named: dict[str, CacheDb] = {}
        self._watcher: Watcher | None = None

    def watch(self, watcher: Watcher) -> None:
        """Tell of each store when it is opened, lost, and available again."""
        self._watcher = watcher

    def __bool__(self) -> bool:
        """Whether a driver is loaded."""
        return bool(self._drivers)

    def add(self, driver: CacheDbDriver) -> None:
        """Let the driver serve its schemes."""
        for scheme in driver.schemes:
            self._drivers[scheme] = driver

    def get(self, url: str) -> CacheDb:
        """The store behind a URL; raises CacheError for a bad URL and for one whose driver is not loaded."""
        found = self._open.get(url)
        if found is not None:
            return found
        try:
            parsed = parse_url(url)
        except ValueError as error:
            raise CacheError(str(error)) from error
        driver = self._drivers.get(parsed.scheme)
        if driver is None:
            near = get_close_matches(parsed.scheme, list(self._drivers), n=1)
            hint = f"did you mean {near[0]}?" if near else f'loadmodule "cachedb_{parsed.scheme}.so" is missing?'
            raise CacheError(f"no driver for {parsed.scheme} URLs is loaded ({hint})")
        found = self._open[url] = driver.open_store(parsed)
        found.watcher = self._watcher
        if self._watcher is not None:
            self._watcher(str(found.url), found.available, "")
        return found

    def known(self, name: str) -> bool:
        """Whether `scheme` or `scheme:group` names a store for scripts."""
        return self._script_url(name) is not None

    def named(self, name: str) -> CacheDb:
        """The store that scripts call by `scheme` or `scheme:group`; raises LookupError."""
        found = self._named.get(name)
        if found is None:
            url = self._script_url(name)
            if url is None:
                raise LookupError(f"no cachedb_url of a loaded module is for the store {name!r}")
            found = self._named[name] = self.get(url.text)
        return found

    def _script_url(self, name: str) -> CacheUrl | None:
        driver = self._drivers.get(name.partition(":")[0])
        urls = driver.script_urls() if driver is not None else ()
        return next((url for url in reversed(urls) if url.name == name), None)

    @property
    def open(self) -> list[CacheDb]:
        """The stores in use."""
        return list(self._open.values())

    async def close(self) -> list[CacheError]:
        """Close all of them; returns what went wrong, for the log."""
        failures = []
        for store in self._open.values():
            try:
                await store.close()
            except CacheError as error:
                failures.append(error)
        self._open.clear()
        self._named.clear()
        return failures
