"""A registrar with its location table on a made-up clock, and REGISTER requests to feed it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from opensipspy import sip
from opensipspy.db import parse_url
from opensipspy.dbdrivers.db_sqlite import DbSqlite, SqliteDatabase
from opensipspy.module.testing import FakeCore, Replied, make_run, request
from opensipspy.modules.registrar import Registrar
from opensipspy.modules.registrar.lookup import parse_lookup_flags
from opensipspy.modules.registrar.request import parse_save_flags
from opensipspy.modules.usrloc import Usrloc
from opensipspy.modules.usrloc.rows import LOCATION_TABLE
from opensipspy.script.kinds import REQUEST
from opensipspy.script.run import Run

DB_URL = "sqlite:location"


class House:
    """A FakeCore with usrloc and registrar. database: a file makes SQL modes possible."""

    def __init__(
        self,
        *,
        usrloc: dict[str, Any] | None = None,
        registrar: dict[str, Any] | None = None,
        database: Path | None = None,
    ) -> None:
        self.database: SqliteDatabase | None = None
        self.refreshes: list[dict[str, Any]] = []
        databases = {}
        if database is not None:
            self.database = DbSqlite(busy_timeout=10).open_database(parse_url(f"sqlite:{database}"))
            databases[DB_URL] = self.database
        self.core = FakeCore(databases=databases)
        given = dict(usrloc or {})
        if database is not None:
            given.setdefault("db_url", DB_URL)
        self.usrloc = self.core.add(Usrloc(**given))
        self.registrar = self.core.add(Registrar(**(registrar or {})))

    async def __aenter__(self) -> House:
        await self.usrloc.launch()
        self.registrar.use_domain("location")
        await self.registrar.launch()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.registrar.shutdown()
        await self.usrloc.shutdown()
        if self.database is not None:
            await self.database.close()

    def run(self, text: str, kind: int = REQUEST, **options: Any) -> Run:
        return make_run(text, kind, core=self.core, **options)

    async def register(
        self,
        contact: str = "",
        *,
        user: str = "sip:bob@example.com",
        headers: str = "",
        callid: str = "reg-1@phone",
        cseq: int = 1,
        flags: str = "",
        aor: str | None = None,
        prepare: Any = None,
    ) -> Replied:
        """Send a REGISTER through save(); returns the answer."""
        lines = "".join(f"Contact: {one}\r\n" for one in contact.split("\n") if one)
        text = request(
            "REGISTER",
            "sip:example.com",
            to=f"<{user}>",
            from_=f"<{user}>;tag=1",
            call_id=callid,
            cseq=cseq,
            headers=lines + headers,
        )
        run = self.run(text)
        if prepare is not None:
            prepare(run)
        before = len(self.core.replies)
        result = self.core.call("save", run, "location", parse_save_flags(flags), aor)
        if inspect.isawaitable(result):
            result = await result
        assert len(self.core.replies) == before + 1, "one answer for each request"
        answer = self.core.replies[-1]
        assert result == (1 if answer.code == 200 else -1)
        return answer

    async def lookup(
        self, uri: str = "sip:bob@example.com", flags: str = "", method: str = "INVITE"
    ) -> tuple[int, Run]:
        run = self.run(request(method, uri))
        result = self.core.call("lookup", run, "location", parse_lookup_flags(flags))
        if inspect.isawaitable(result):
            result = await result
        return int(result), run

    async def dump(self) -> dict[str, list[dict[str, Any]]]:
        """AOR -> contacts, as usrloc:dump shows them."""
        shown = await self.core.mi_call("usrloc:dump")
        return {r["AOR"]: r["Contacts"] for d in shown["Domains"] for r in d["AORs"]}

    async def uris(self, aor: str = "bob@example.com") -> list[str]:
        return [c["Contact"] for c in (await self.dump()).get(aor, [])]

    def stat(self, name: str) -> int:
        counter = self.core.stats.find(name)
        assert counter is not None, name
        return counter.read()


async def make_table(path: Path) -> None:
    await DbSqlite().create_tables(parse_url(f"sqlite:{path}"), [LOCATION_TABLE])


def bindings(answer: Replied) -> dict[str, int]:
    """URI -> remaining seconds of the Contact header of a 200."""
    lines = [line for line in answer.headers.split("\r\n") if line.startswith("Contact: ")]
    assert len(lines) <= 1
    if not lines:
        return {}
    return {c.uri: c.expires for c in sip.parse_name_addr_list(lines[0].removeprefix("Contact: "))}


def wire(answer: Replied) -> str:
    """The answer as it leaves, built by the same code that the server uses."""
    data = sip.build_reply(answer.run.msg, answer.code, answer.reason, "tag1", answer.headers, answer.body)
    return data.decode("utf-8", "surrogateescape")
