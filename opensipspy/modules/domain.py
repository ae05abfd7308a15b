"""Which domains are ours: the domain table, in memory or asked for each time."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from typing import Annotated, Any, Final

from opensipspy.db import Column, Database, DatabaseError, DbValue, Index, Table, as_int, as_text, auto_id
from opensipspy.module import MiError, Module, Param, ParamError, WritableVar, mi_command, script_function
from opensipspy.script.kinds import BRANCH, FAILURE, LOCAL, REQUEST
from opensipspy.script.run import Run, VarRef
from opensipspy.sip import ParseError, parse_uri

LOG: Final = logging.getLogger(__name__)

DOMAIN_TABLE: Final = Table(
    "domain",
    4,
    (
        auto_id(),
        Column("domain", "string", 64, default=""),
        Column("attrs", "string", 255, null=True, default=None),
        Column("accept_subdomain", "unsigned int", 11, default="0"),
        Column("last_modified", "datetime", default="1900-01-01 00:00:01"),
    ),
    (Index("domain_idx", ("domain",), unique=True),),
)

NO_CACHE: Final = 0
CACHE: Final = 1
# Each label of a name in a request costs a question where nothing is kept in memory.
MAX_LABELS: Final = 16
LONGEST_HOST: Final = 255

AttrsVar = Annotated[VarRef | None, WritableVar()]


class LocalDomain:
    """One row. attrs: None when the column is NULL."""

    __slots__ = ("attrs", "name", "subdomains")

    def __init__(self, name: str, attrs: str | None, subdomains: bool) -> None:
        self.name = name
        self.attrs = attrs
        self.subdomains = subdomains


class DomainModule(Module):
    """Tell whether a domain is one that this server is responsible for."""

    name = "domain"
    tables = (DOMAIN_TABLE,)

    accept_subdomain_col = Param(str, "accept_subdomain", "Column that tells whether subdomains are local too.")
    attrs_col = Param(str, "attrs", "Column of the domain's attributes.")
    db_mode = Param(int, NO_CACHE, "0 asks the table each time, 1 keeps it in memory.")
    db_url = Param(str, None, "The database; the global db_default_url when not set.")
    domain_col = Param(str, "domain", "Column of the domain.")
    domain_table = Param(str, "domain", "The table.")

    def __init__(self, **params: Any) -> None:
        self._domains: dict[str, LocalDomain] = {}
        self._database: Database | None = None
        self._loaded = False
        self._told_failure = False
        self.skipped_rows = 0
        super().__init__(**params)

    async def start(self) -> None:
        if self.db_mode not in (NO_CACHE, CACHE):
            raise ParamError(self.name, "db_mode", "is 0 or 1")
        url = self.db_url or getattr(self.core.globals, "db_default_url", None)
        if not url:
            raise ParamError(self.name, "db_url", "is needed")
        try:
            self._database = self.core.database(url)
        except DatabaseError as error:
            raise ParamError(self.name, "db_url", str(error)) from error
        if self.db_mode == CACHE:
            try:
                await self._load()
            except DatabaseError as error:
                # The server starts without: each question tries again until the table has been read once.
                self._failed(error)

    # --- the table

    async def _load(self) -> None:
        rows = await self._select(())
        domains: dict[str, LocalDomain] = {}
        for domain in self._read(rows):
            domains[domain.name] = domain
        self._domains = domains
        self._loaded = True
        self._worked()

    async def _select(self, names: Sequence[str]) -> list[tuple[DbValue, ...]]:
        assert self._database is not None
        columns = (self.domain_col, self.attrs_col, self.accept_subdomain_col)
        if not names:
            return await self._database.select(self.domain_table, columns)
        rows = []
        for name in names:
            rows += await self._database.select(self.domain_table, columns, ((self.domain_col, "=", name),))
        return rows

    def _read(self, rows: Sequence[Sequence[DbValue]]) -> list[LocalDomain]:
        found = []
        skipped, first = 0, ""
        for name, attrs, subdomains in rows:
            try:
                text = spelled(as_text(name).strip())
                if not text:
                    raise ValueError("no domain")
                if attrs is not None and not isinstance(attrs, str):
                    attrs = as_text(attrs)
                found.append(LocalDomain(text, attrs, subdomains is not None and as_int(subdomains) > 0))
            except ValueError as error:
                skipped += 1
                first = first or str(error)
        if skipped and not self.skipped_rows:
            LOG.warning("table %s: %d rows are skipped; the first: %s", self.domain_table, skipped, first)
        self.skipped_rows += skipped
        return found

    def _failed(self, error: DatabaseError) -> None:
        if not self._told_failure:
            self._told_failure = True
            LOG.error("local domains are not known: %s", error)

    def _worked(self) -> None:
        if self._told_failure:
            self._told_failure = False
            LOG.warning("local domains are known again")

    # --- the question

    def is_local(self, host: str) -> bool | Awaitable[bool]:
        """Whether a host is a local domain or a subdomain of one that takes them. Waits where the table is asked."""
        found = self._find(host)
        return found is not None if found is None or isinstance(found, LocalDomain) else _exists(found)

    def _find(self, host: str) -> LocalDomain | Awaitable[LocalDomain | None] | None:
        name = spelled(host)
        if self.db_mode == CACHE and self._loaded:
            domain = self._domains.get(name)
            if domain is not None:
                return domain
            return self._parent(self._domains, name)
        return self._find_waiting(name)

    @staticmethod
    def _parent(domains: dict[str, LocalDomain], name: str) -> LocalDomain | None:
        """The nearest domain above that takes subdomains."""
        for parent in parents(name):
            domain = domains.get(parent)
            if domain is not None and domain.subdomains:
                return domain
        return None

    async def _find_waiting(self, name: str) -> LocalDomain | None:
        try:
            if self.db_mode == CACHE:
                await self._load()
                found = self._find(name)
                return found if isinstance(found, LocalDomain) else None
            names = [name, *((f"[{name}]",) if ":" in name else parents(name))]
            domains = {domain.name: domain for domain in self._read(await self._select(names))}
        except DatabaseError as error:
            self._failed(error)
            return None
        self._worked()
        return domains.get(name) or self._parent(domains, name)

    def _answer(self, run: Run, host: str, attrs_var: VarRef | None) -> int | Awaitable[int]:
        # What is no name of a host is not asked for: a database that refuses the text would seem to be at fault.
        if not host or len(host) > LONGEST_HOST or not host.isprintable():
            return -1
        found = self._find(host)
        if found is None or isinstance(found, LocalDomain):
            return _told(run, found, attrs_var)
        return _told_later(run, found, attrs_var)

    @script_function(routes=REQUEST | FAILURE | BRANCH | LOCAL)
    def is_from_local(self, run: Run, attrs_var: AttrsVar = None) -> int | Awaitable[int]:
        """Whether the host of the From URI is local; `attrs_var` gets the domain's attributes. Returns 1 yes, -1 no."""
        try:
            message = run.request if run.request is not None else run.msg
            host = message.from_.parsed_uri().host
        except ParseError:
            return -1
        return self._answer(run, host, attrs_var)

    @script_function(routes=REQUEST | FAILURE | BRANCH | LOCAL)
    def is_uri_host_local(self, run: Run, attrs_var: AttrsVar = None) -> int | Awaitable[int]:
        """Whether the host of the Request-URI (in a branch route: the branch's) is local. Returns 1 yes, -1 no."""
        try:
            host = parse_uri(run.ruri).host
        except ParseError:
            return -1
        return self._answer(run, host, attrs_var)

    @script_function(routes=REQUEST | FAILURE | BRANCH | LOCAL)
    def is_domain_local(self, run: Run, domain: str, attrs_var: AttrsVar = None) -> int | Awaitable[int]:
        """Whether a domain is local; `attrs_var` gets its attributes. Returns 1 yes, -1 no."""
        return self._answer(run, (domain or "").strip(), attrs_var)

    # --- management

    @mi_command("domain:reload")
    async def reload_table(self) -> str:
        """Read the table again."""
        if self.db_mode == NO_CACHE:
            raise MiError(500, "DB is disabled (db_mode=0)")
        try:
            await self._load()
        except DatabaseError as error:
            raise MiError(500, "Domain table reload failed") from error
        return "OK"

    @mi_command("domain:dump")
    async def dump(self) -> dict[str, Any]:
        """The domains in memory."""
        if self.db_mode == NO_CACHE:
            raise MiError(500, "DB is disabled (db_mode=0)")
        shown = []
        for domain in self._domains.values():
            item = {"name": domain.name}
            if domain.attrs is not None:
                item["attributes"] = domain.attrs
            shown.append(item)
        return {"Domains": shown}


def spelled(host: str) -> str:
    """A host as it is compared: small letters, no dot at the end, an IPv6 address without its brackets."""
    host = host.lower().rstrip(".")
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def parents(name: str) -> list[str]:
    """The domains above one, nearest first: "a.b.c" has "b.c" and "c"."""
    labels = name.split(".")[:MAX_LABELS]
    return [".".join(labels[i:]) for i in range(1, len(labels))]


def _told(run: Run, domain: LocalDomain | None, attrs_var: VarRef | None) -> int:
    if domain is None:
        return -1
    if attrs_var is not None and domain.attrs is not None:
        attrs_var.set(run, domain.attrs)
    return 1


async def _told_later(run: Run, found: Awaitable[LocalDomain | None], attrs_var: VarRef | None) -> int:
    return _told(run, await found, attrs_var)


async def _exists(found: Awaitable[LocalDomain | None]) -> bool:
    return await found is not None
