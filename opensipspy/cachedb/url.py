"""URLs of key-value stores as OpenSIPS writes them: `scheme[:group]://[user[:password]@]host[:port][,...]/name?opts`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import parse_qsl, unquote

HIDDEN: Final = "xxxxxx"
MOST_HOSTS: Final = 64


class CacheUrl:
    """A parsed URL. `str()` and `repr()` hide the password and the values of options.

    group: what follows the scheme, "" for the scheme's default store. hosts: (host, port) pairs, IPv6 addresses without
    brackets, port 0 when none is given. database: the path without its first slash. text: the URL as it was written.
    """

    __slots__ = ("database", "group", "hosts", "options", "password", "scheme", "text", "user")

    def __init__(
        self,
        scheme: str,
        group: str = "",
        *,
        user: str = "",
        password: str = "",
        hosts: Sequence[tuple[str, int]] = (),
        database: str = "",
        options: dict[str, str] | None = None,
        text: str = "",
    ) -> None:
        self.scheme = scheme
        self.group = group
        self.user = user
        self.password = password
        self.hosts = tuple(hosts)
        self.database = database
        self.options = options or {}
        self.text = text

    @property
    def host(self) -> str:
        """The first host, "" when there is none."""
        return self.hosts[0][0] if self.hosts else ""

    @property
    def port(self) -> int:
        """The first host's port, 0 when none is given."""
        return self.hosts[0][1] if self.hosts else 0

    @property
    def name(self) -> str:
        """What scripts call the store: `scheme` or `scheme:group`."""
        return f"{self.scheme}:{self.group}" if self.group else self.scheme

    def __str__(self) -> str:
        account = self.user + (f":{HIDDEN}" if self.password else "") + "@" if self.user or self.password else ""
        hosts = ",".join(
            (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "") for host, port in self.hosts
        )
        return f"{self.name}://{account}{hosts}/{self.database}"

    __repr__ = __str__


def parse_url(text: str) -> CacheUrl:
    """Raises ValueError, whose words do not repeat the URL: it may hold a password."""
    text = text.strip()
    head, found, rest = text.partition("://")
    scheme, _, group = head.partition(":")
    # OpenSIPS's manual also writes `local:group:///name`, with a colon after the group.
    group = group.removesuffix(":")
    if not found or not scheme.replace("_", "").isalnum():
        raise ValueError("the URL of a key-value store looks like scheme:group://host:port/name")
    if ":" in group or not (group == "" or group.isprintable()):
        raise ValueError("the group of a store's URL has no colon")
    # The account may hold anything, a slash or a question mark too: it ends at the last "@" before the last slash.
    account = ""
    last_slash = rest.rfind("/", 0, rest.rfind("?") if "?" in rest else len(rest))
    at = rest.rfind("@", 0, last_slash if last_slash >= 0 else len(rest))
    if at >= 0:
        account, rest = rest[:at], rest[at + 1 :]
    rest, _, query = rest.partition("?")
    where, _, database = rest.partition("/")
    user, _, password = account.partition(":")
    return CacheUrl(
        scheme.lower(),
        group,
        user=unquote(user),
        password=unquote(password),
        hosts=parse_hosts(where),
        database=unquote(database),
        options=dict(parse_qsl(query, keep_blank_values=True)),
        text=text,
    )


def parse_hosts(text: str) -> list[tuple[str, int]]:
    """The pairs of `host:port,[v6]:port,host`. Raises ValueError."""
    if not text:
        return []
    words = text.split(",")
    if len(words) > MOST_HOSTS:
        raise ValueError(f"a store's URL names at most {MOST_HOSTS} hosts")
    return [parse_host(word.strip()) for word in words]


def parse_host(word: str) -> tuple[str, int]:
    """(host, port) of `host`, `host:port` or `[v6]:port`; port 0 when none is given. Raises ValueError."""
    if word.startswith("["):
        host, bracket, tail = word[1:].partition("]")
        colon, number = tail[:1], tail[1:]
        if not bracket or colon not in ("", ":"):
            raise ValueError("an IPv6 address in a store's URL looks like [::1]:6379")
    else:
        host, colon, number = word.partition(":")
    if colon and not (number.isascii() and number.isdigit() and len(number) < 6 and 0 < int(number) < 65536):
        raise ValueError("the port of a store's URL is a number from 1 to 65535")
    if not host:
        raise ValueError("a host in the store's URL is empty")
    return host, int(number) if colon else 0
