"""Database URLs as OpenSIPS writes them: `driver://user:password@host:port/name?options`, and files `sqlite:/path`."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl, unquote

HIDDEN: Final = "xxxxxx"


class DbUrl:
    """A parsed URL. `str()` and `repr()` hide the password.

    path: what follows the host, or the whole of a file URL: relative to the working directory (`sqlite:name.db`) or
    absolute (`sqlite:/a`, `sqlite:///a`). Of a `cachedb://scheme:group` URL all behind the first colon.
    """

    __slots__ = ("host", "options", "password", "path", "port", "scheme", "user")

    def __init__(
        self,
        scheme: str,
        path: str,
        *,
        user: str = "",
        password: str = "",
        host: str = "",
        port: int = 0,
        options: dict[str, str] | None = None,
    ) -> None:
        self.scheme = scheme
        self.path = path
        self.user = user
        self.password = password
        self.host = host
        self.port = port
        self.options = options or {}

    @property
    def database(self) -> str:
        """The database's name: the path without its slash."""
        return self.path.removeprefix("/")

    def __str__(self) -> str:
        account = self.user + (f":{HIDDEN}" if self.password else "") + "@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        where = account + host + (f":{self.port}" if self.port else "")
        return f"{self.scheme}:{'//' if where else ''}{where}{self.path}"

    __repr__ = __str__


def parse_url(text: str) -> DbUrl:
    """Raises ValueError, whose words do not repeat the URL: it may hold a password."""
    scheme, colon, rest = text.strip().partition(":")
    if not colon or not scheme or not scheme.replace("_", "").replace("+", "").isalnum():
        raise ValueError("a database URL begins with the driver's name and a colon")
    if scheme.lower() == "cachedb":
        # What follows is the name of a key-value store, which has a colon of its own.
        return DbUrl("cachedb", rest)
    if rest.startswith("//"):
        rest = rest[2:]
        rest, _, query = rest.partition("?")
        where, slash, path = rest.partition("/")
    else:
        rest, _, query = rest.partition("?")
        where, slash, path = "", "", rest
    account, at, host = where.rpartition("@")
    user, _, password = account.partition(":")
    port = 0
    name, found, number = host.rpartition(":")
    if found and not number.endswith("]"):
        if not number.isascii() or not number.isdigit() or not 0 < int(number) < 65536:
            raise ValueError("the port of a database URL is a number from 1 to 65535")
        host, port = name, int(number)
    return DbUrl(
        scheme.lower(),
        slash + path,
        user=unquote(user) if at else "",
        password=unquote(password) if at else "",
        host=host.strip("[]"),
        port=port,
        options=dict(parse_qsl(query, keep_blank_values=True)),
    )
