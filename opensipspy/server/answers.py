"""What the world says to a script that runs in memory: names, databases, HTTP servers, programs and gateways.

An answers file (JSON or TOML) has these tables; patterns take `*` for anything, and the first that fits counts:

    {
      "dns": {"sip.example.org": ["192.0.2.10"],
              "_sip._udp.example.org": [{"priority": 10, "weight": 1, "port": 5060, "target": "sip.example.org"}]},
      "database": {"subscriber": [{"username": "bob", "domain": "example.org", "ha1": "..."}]},
      "queries": {"select credit from *": [[120]]},
      "http": {"https://lcr.example.org/*": {"status": 200, "body": "gw1", "type": "text/plain"}},
      "exec": {"/usr/local/bin/route *": "gw2"},
      "cache": {"redis:calls": {"bob": "3"}},
      "gateways": {"192.0.2.20:5060": [180, {"status": 200, "after": 2}], "192.0.2.21:5060": "silence",
                   "192.0.2.22:5060": "unreachable"}
    }
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any, Final

from opensipspy.net import Record

SECTIONS: Final = ("dns", "database", "queries", "http", "exec", "cache", "gateways")
LARGEST_FILE: Final = 16 << 20
SILENCE: Final = "silence"
UNREACHABLE: Final = "unreachable"
# What an HTTP server may do instead of answering, with what rest_client gives the script for it.
HTTP_FAILURES: Final = {"refused": -1, "no connection": -2, "timeout": -3, "error": -10}
TTL_S: Final = 60.0


class AnswersError(ValueError):
    """An answers file is wrong; says where."""


class Reply:
    """One reply of a gateway. after_s: seconds after the one before, or after the request."""

    def __init__(
        self, status: int, reason: str = "", after_s: float = 0.0, headers: str = "", body: str = "", type: str = ""
    ) -> None:
        self.status = status
        self.reason = reason
        self.after_s = after_s
        self.headers = headers
        self.body = body
        self.type = type


class Gateway:
    """How a destination behaves. replies: to an INVITE; other requests get 200. None: nothing arrives there."""

    def __init__(self, replies: list[Reply] | None = None, *, reachable: bool = True) -> None:
        self.replies = replies
        self.reachable = reachable


class HttpAnswer:
    """A server's reply, or (failure below 0) why there is none."""

    def __init__(self, status: int = 200, body: str = "", type: str = "", failure: int = 0) -> None:
        self.status = status
        self.body = body
        self.type = type
        self.failure = failure


class Answers:
    """Answers by what is asked. Use the methods, or `Answers.read(path)`."""

    def __init__(self) -> None:
        self.names: dict[tuple[str, str], list[Record]] = {}
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self.queries: list[tuple[str, list[tuple[Any, ...]]]] = []
        self.urls: list[tuple[str, HttpAnswer]] = []
        self.commands: list[tuple[str, str | None]] = []
        self.caches: dict[str, dict[str, str]] = {}
        self.gateways: list[tuple[str, Gateway]] = []

    @classmethod
    def read(cls, path: str) -> Answers:
        """The answers of a file, JSON or (by its name) TOML. Raises AnswersError, OSError."""
        file = Path(path)
        if file.stat().st_size > LARGEST_FILE:
            raise AnswersError(f"{path}: is larger than {LARGEST_FILE >> 20} MiB")
        try:
            text = file.read_text(encoding="utf-8")
            data = tomllib.loads(text) if file.suffix.lower() == ".toml" else json.loads(text)
        except ValueError as error:
            raise AnswersError(f"{path}: {error}") from error
        if not isinstance(data, dict):
            raise AnswersError(f"{path}: has to be a table with {', '.join(SECTIONS)}")
        made = cls()
        try:
            made.add(data)
        except AnswersError as error:
            raise AnswersError(f"{path}: {error}") from error
        return made

    def add(self, data: dict[str, Any]) -> None:
        """Take what a file's table holds. Raises AnswersError."""
        for section, content in data.items():
            if section not in SECTIONS:
                raise AnswersError(f"there is no section {section!r}, only {', '.join(SECTIONS)}")
            if not isinstance(content, dict):
                raise AnswersError(f"section {section!r} is a table from what is asked to what is answered")
            for asked, answer in content.items():
                try:
                    getattr(self, f"_add_{section}")(str(asked), answer)
                except (TypeError, KeyError, ValueError) as error:
                    raise AnswersError(f"{section}: {asked!r}: {reason_of(error)}") from error

    # -- one at a time

    def name(self, name: str, *addresses: str) -> None:
        """Let a host name have these addresses; none: it does not exist."""
        self.names.setdefault((name.lower(), "A"), [])
        for address in addresses:
            kind = "AAAA" if ":" in address else "A"
            self.names.setdefault((name.lower(), kind), []).append(Record(address, TTL_S))

    def service(self, name: str, *targets: tuple[int, int, int, str]) -> None:
        """Let an SRV name have (priority, weight, port, target) records."""
        records = self.names.setdefault((name.lower(), "SRV"), [])
        for priority, weight, port, target in targets:
            records.append(Record(target, TTL_S, priority=priority, weight=weight, port=port))

    def table(self, name: str, *rows: dict[str, Any]) -> None:
        """Add rows to a table of the database."""
        self.tables.setdefault(name, []).extend(rows)

    def query(self, pattern: str, *rows: tuple[Any, ...]) -> None:
        """Answer raw queries that fit with these rows."""
        self.queries.append((pattern, [tuple(row) for row in rows]))

    def http(self, pattern: str, status: int = 200, body: str = "", type: str = "text/plain") -> None:
        """Answer requests to URLs that fit; a pattern may begin with a method: "POST https://..."."""
        self.urls.append((pattern, HttpAnswer(status, body, type)))

    def http_failure(self, pattern: str, why: str = "refused") -> None:
        """Let requests to URLs fail; why: "refused", "no connection", "timeout" or "error"."""
        self.urls.append((pattern, HttpAnswer(0, "", "", HTTP_FAILURES[why])))

    def command(self, pattern: str, output: str | None) -> None:
        """What exec()'s commands that fit print; None: they cannot be run."""
        self.commands.append((pattern, output))

    def cache(self, storage: str, values: dict[str, str | int]) -> None:
        """What a key-value store such as "redis:calls" holds; the script's own writes change it."""
        self.caches.setdefault(storage, {}).update({key: str(value) for key, value in values.items()})

    def gateway(self, destination: str, *replies: int | dict[str, Any] | Reply | str) -> None:
        """How "192.0.2.20:5060" (or "udp:...", or with `*`) answers: statuses, `Reply`s, "silence", "unreachable"."""
        self.gateways.append((destination, gateway_of(list(replies))))

    # -- from a file

    def _add_dns(self, asked: str, answer: Any) -> None:
        for record in answer if isinstance(answer, list) else [answer]:
            if isinstance(record, str):
                self.name(asked, record)
                continue
            known = dict(record)
            if "service" in known:
                made = Record(
                    str(known.get("target", known.get("replacement", "."))),
                    TTL_S,
                    priority=int(known.get("order", 0)),
                    weight=int(known.get("preference", 0)),
                    flags=str(known.get("flags", "s")),
                    service=str(known["service"]),
                )
                self.names.setdefault((asked.lower(), "NAPTR"), []).append(made)
            else:
                target = str(known["target"]), int(known.get("priority", 0)), int(known.get("weight", 0))
                self.service(asked, (target[1], target[2], int(known["port"]), target[0]))
        if answer == []:
            self.name(asked)

    def _add_database(self, asked: str, answer: Any) -> None:
        for row in answer:
            if not isinstance(row, dict):
                raise TypeError("a row is a table from column to value")
        self.table(asked, *answer)

    def _add_queries(self, asked: str, answer: Any) -> None:
        self.query(asked, *[tuple(row.values()) if isinstance(row, dict) else tuple(row) for row in answer])

    def _add_http(self, asked: str, answer: Any) -> None:
        if isinstance(answer, dict):
            body = answer.get("body", "")
            text = body if isinstance(body, str) else json.dumps(body)
            kind = "text/plain" if isinstance(body, str) else "application/json"
            self.http(asked, int(answer.get("status", 200)), text, str(answer.get("type", kind)))
        elif isinstance(answer, int):
            self.http(asked, answer)
        elif answer in HTTP_FAILURES:
            self.http_failure(asked, answer)
        else:
            raise ValueError(f"a status, a table with status, body and type, or one of {', '.join(HTTP_FAILURES)}")

    def _add_exec(self, asked: str, answer: Any) -> None:
        if answer is not None and not isinstance(answer, str):
            raise TypeError("what the command prints is a text")
        self.command(asked, answer)

    def _add_cache(self, asked: str, answer: Any) -> None:
        if not isinstance(answer, dict):
            raise TypeError("what a store holds is a table from key to value")
        self.cache(asked, answer)

    def _add_gateways(self, asked: str, answer: Any) -> None:
        self.gateway(asked, *(answer if isinstance(answer, list) else [answer]))

    # -- asked

    def http_for(self, method: str, url: str) -> HttpAnswer | None:
        for pattern, answer in self.urls:
            if fits(pattern, url) or fits(pattern, f"{method} {url}"):
                return answer
        return None

    def query_for(self, sql: str) -> list[tuple[Any, ...]] | None:
        flat = " ".join(sql.split())
        return next((rows for pattern, rows in self.queries if fits(" ".join(pattern.split()), flat)), None)

    def command_for(self, command: str) -> tuple[bool, str | None]:
        """(whether there is an answer, what is printed)."""
        for pattern, output in self.commands:
            if fits(pattern, command):
                return True, output
        return False, None

    def gateway_for(self, place: str) -> Gateway | None:
        """How "udp:192.0.2.20:5060" behaves, None when nothing is said about it."""
        short = place.partition(":")[2]
        host = short.rpartition(":")[0]
        # What was said last counts, so that a test can change its mind.
        for pattern, gateway in reversed(self.gateways):
            if any(fits(pattern, each) for each in (place, short, host)):
                return gateway
        return None


def fits(pattern: str, text: str) -> bool:
    """Whether a text fits a pattern with `*` for anything, without regard to case."""
    parts = (re.escape(part) for part in pattern.split("*"))
    return re.fullmatch(".*".join(parts), text, re.IGNORECASE | re.DOTALL) is not None


def gateway_of(replies: list[Any]) -> Gateway:
    """Raises ValueError, TypeError."""
    if replies == [SILENCE]:
        return Gateway(None)
    if replies == [UNREACHABLE]:
        return Gateway(None, reachable=False)
    return Gateway([reply_of(reply) for reply in replies])


def reply_of(given: Any) -> Reply:
    if isinstance(given, Reply):
        return given
    if isinstance(given, dict):
        known = dict(given)
        wrong = set(known) - {"status", "reason", "after", "headers", "body", "type"}
        if wrong:
            raise ValueError(f"a reply has no {', '.join(sorted(wrong))}")
        headers = known.get("headers", "")
        if isinstance(headers, dict):
            headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        after_s = float(known.get("after", 0))
        return reply_checked(
            Reply(
                int(known["status"]),
                str(known.get("reason", "")),
                after_s,
                str(headers),
                str(known.get("body", "")),
                str(known.get("type", "")),
            )
        )
    if isinstance(given, int) and not isinstance(given, bool):
        return reply_checked(Reply(given))
    raise ValueError(f"{given!r} is no reply: give a status, a table with a status, {SILENCE!r} or {UNREACHABLE!r}")


def reply_checked(reply: Reply) -> Reply:
    if not 100 <= reply.status <= 699:
        raise ValueError(f"{reply.status} is no SIP status (100 to 699)")
    if reply.after_s < 0:
        raise ValueError("a reply cannot come before the request")
    if reply.headers and not reply.headers.endswith("\r\n"):
        reply.headers += "\r\n"
    return reply


def reason_of(error: Exception) -> str:
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
