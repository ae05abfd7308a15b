"""A directory as the configuration file describes it: its servers, and threads that ask them.

ldap3 waits for its sockets, so that each connection belongs to a thread of a small pool. Servers are tried in their
order; when none answers, searches fail at once until a moment has passed, so that calls do not queue up behind a
directory that is away.
"""

from __future__ import annotations

import asyncio
import configparser
import functools
import importlib
import logging
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

LOG: Final = logging.getLogger(__name__)

MOST_ENTRIES: Final = 1000
MOST_WAITING: Final = 2000
PAUSE_S: Final = 1.0
SEARCH_MS: Final = 5000
MOST_BYTES: Final = 1024 * 1024

Entry = Mapping[str, list[str]]
"""The values of one entry, by the attribute's name in small letters."""

VALIDATION: Final = {
    "NEVER": ssl.CERT_NONE,
    "ALLOW": ssl.CERT_NONE,
    "TRY": ssl.CERT_REQUIRED,
    "DEMAND": ssl.CERT_REQUIRED,
    "HARD": ssl.CERT_REQUIRED,
}
SCOPES: Final = {"base": "BASE", "one": "LEVEL", "sub": "SUBTREE"}


class LdapError(Exception):
    """A search failed. away: no server could be asked."""

    def __init__(self, reason: str, *, away: bool = False) -> None:
        super().__init__(reason)
        self.away = away


class Settings:
    """One section of the file. Times in milliseconds."""

    __slots__ = (
        "bind_dn",
        "bind_password",
        "bind_timeout",
        "ca_file",
        "cert_file",
        "key_file",
        "name",
        "network_timeout",
        "search_timeout",
        "servers",
        "validation",
        "version",
    )

    def __init__(self, name: str, values: Mapping[str, str]) -> None:
        """Raises ValueError."""
        known = dict(values)
        self.name = name
        self.servers = [url.strip() for url in known.pop("ldap_server_url", "").split(",") if url.strip()]
        if not self.servers:
            raise ValueError("ldap_server_url is missing")
        for url in self.servers:
            if not url.lower().startswith(("ldap://", "ldaps://", "ldapi://")):
                raise ValueError(f"{url}: a server is ldap://host:port or ldaps://host:port")
        self.version = number(known, "ldap_version", 3)
        if self.version not in (2, 3):
            raise ValueError("ldap_version is 2 or 3")
        self.bind_dn = known.pop("ldap_bind_dn", "")
        self.bind_password = known.pop("ldap_bind_password", "")
        self.network_timeout = number(known, "ldap_network_timeout", 1000)
        self.bind_timeout = number(known, "ldap_client_bind_timeout", 1000)
        self.search_timeout = number(known, "ldap_client_search_timeout", SEARCH_MS)
        self.ca_file = known.pop("ldap_ca_cert_file", "")
        self.cert_file = known.pop("ldap_cert_file", "")
        self.key_file = known.pop("ldap_key_file", "")
        word = known.pop("ldap_require_certificate", "NEVER").upper()
        if word not in VALIDATION:
            raise ValueError(f"ldap_require_certificate is one of {', '.join(VALIDATION)}")
        self.validation = VALIDATION[word]
        if known:
            raise ValueError(f"unknown setting {min(known)}")

    @property
    def start_tls(self) -> bool:
        """StartTLS is asked for by naming an authority or a certificate."""
        return bool(self.ca_file or self.cert_file)


def number(known: dict[str, str], name: str, default: int) -> int:
    text = known.pop(name, "").strip()
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 600_000:
        raise ValueError(f"{name} is a number from 1 to 600000")
    return int(text)


def read_settings(path: Path) -> dict[str, Settings]:
    """The sessions of a file. Raises ValueError with the file's name and what is wrong."""
    parser = configparser.ConfigParser(
        interpolation=None,
        comment_prefixes=("#", ";"),
        inline_comment_prefixes=None,
        delimiters=("=",),
        default_section="\0",
        strict=True,
    )
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path}: too large")
        parser.read_string(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except (configparser.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
    found = {}
    for name in parser.sections():
        try:
            found[name] = Settings(name, {key: plain(value) for key, value in parser.items(name)})
        except ValueError as error:
            raise ValueError(f"{path}: section {name}: {error}") from error
    if not found:
        raise ValueError(f"{path}: has no section")
    return found


def plain(text: str) -> str:
    """A value without its quotes, or without the comment behind it."""
    text = " ".join(line.strip() for line in text.splitlines()).strip()
    if text[:1] in ("'", '"'):
        end = text.find(text[0], 1)
        if end > 0:
            return text[1:end]
    for mark in (" ;", "\t;", ";"):
        at = text.find(mark)
        if at >= 0:
            text = text[:at]
    return text.strip()


class Session:
    """The connections to one directory. Used by one event loop."""

    def __init__(self, settings: Settings, connections: int) -> None:
        self.settings = settings
        self._connections = connections
        self._threads = ThreadPoolExecutor(max(1, connections), thread_name_prefix=f"ldap {settings.name}")
        self._own = threading.local()
        self._opened: list[Any] = []
        self._lock = threading.Lock()
        self._waiting = 0
        self._away_until = 0.0
        self._available = True
        self._now: Callable[[], float] = time.monotonic
        self._client: Any = importlib.import_module("ldap3")
        self._errors: Any = importlib.import_module("ldap3.core.exceptions")
        self._codes: Any = importlib.import_module("ldap3.core.results")

    async def search(self, dn: str, scope: str, filter_text: str, attributes: Sequence[str]) -> list[Entry]:
        """The entries. Raises LdapError."""
        if self._now() < self._away_until:
            raise LdapError("no server answers", away=True)
        if self._waiting >= MOST_WAITING:
            raise LdapError(f"{self._waiting} searches are waiting already", away=True)
        self._waiting += 1
        try:
            found = await asyncio.get_running_loop().run_in_executor(
                self._threads, self._search, dn, scope, filter_text, list(attributes)
            )
        except LdapError as error:
            if error.away:
                self._away_until = self._now() + PAUSE_S
                if self._available:
                    self._available = False
                    LOG.error("ldap: the directory %s is not available: %s", self.settings.name, error)
            raise
        finally:
            self._waiting -= 1
        if not self._available:
            self._available = True
            LOG.warning("ldap: the directory %s is available again", self.settings.name)
        return found

    # --- in a thread

    def _search(self, dn: str, scope: str, filter_text: str, attributes: list[str]) -> list[Entry]:
        for attempt in (1, 2):
            fresh = getattr(self._own, "connection", None) is None
            connection = self._connection()
            try:
                _, result, response, _ = connection.search(
                    dn,
                    filter_text,
                    search_scope=SCOPES[scope],
                    attributes=attributes or self._client.ALL_ATTRIBUTES,
                    size_limit=MOST_ENTRIES,
                    time_limit=max(1, self.settings.search_timeout // 1000),
                )
            except (self._errors.LDAPInvalidFilterError, self._errors.LDAPInvalidDnError) as error:
                raise LdapError(f"the search is malformed: {words(error)}") from error
            except self._errors.LDAPObjectClassError as error:
                raise LdapError(words(error)) from error
            except (self._errors.LDAPExceptionError, OSError, ValueError) as error:
                self._forget()
                # A connection that lay idle may have been closed by the server.
                if fresh or attempt == 2 or isinstance(error, self._errors.LDAPSocketReceiveError | TimeoutError):
                    raise LdapError(words(error), away=True) from error
                continue
            code = int(result["result"])
            if code == self._codes.RESULT_NO_SUCH_OBJECT:
                return []
            if code in (self._codes.RESULT_BUSY, self._codes.RESULT_UNAVAILABLE):
                self._forget()
                raise LdapError(str(result["description"]), away=True)
            if code not in (self._codes.RESULT_SUCCESS, self._codes.RESULT_SIZE_LIMIT_EXCEEDED):
                raise LdapError(str(result["description"]))
            return [entry_of(item) for item in response or () if item.get("type") == "searchResEntry"]
        raise LdapError("no server answers", away=True)

    def _connection(self) -> Any:
        """This thread's connection; raises LdapError when no server takes one."""
        connection = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._own.connection = self._connect()
            with self._lock:
                self._opened.append(connection)
        return connection

    def _connect(self) -> Any:
        settings = self.settings
        reasons = []
        for url in settings.servers:
            connection = None
            try:
                secure = settings.start_tls or url.lower().startswith("ldaps:")
                server = self._client.Server(
                    url,
                    get_info=self._client.NONE,
                    connect_timeout=settings.network_timeout / 1000,
                    tls=self._client.Tls() if secure else None,
                )
                if secure:
                    # The client's own way has no server name in its hello, and a host check that Python has dropped.
                    server.tls.wrap_socket = functools.partial(secured, self._context(), server.host)
                connection = self._client.Connection(
                    server,
                    user=settings.bind_dn or None,
                    password=settings.bind_password if settings.bind_dn else None,
                    version=settings.version,
                    client_strategy=self._client.SAFE_SYNC,
                    auto_referrals=False,
                    check_names=False,
                    raise_exceptions=False,
                )
                connection.open()
                # The client's own receive_timeout knows whole seconds only.
                connection.socket.settimeout(settings.bind_timeout / 1000)
                if settings.start_tls and not url.lower().startswith("ldaps:"):
                    connection.start_tls()
                bound, result, _, _ = connection.bind()
                if not bound:
                    raise LdapError(f"bind: {result['description']}", away=True)
                # From here on it is searches that are waited for.
                connection.socket.settimeout(settings.search_timeout / 1000)
                return connection
            except (self._errors.LDAPException, OSError, LdapError, ValueError) as error:
                reasons.append(f"{url}: {words(error)}")
                if connection is not None:
                    self._end(connection)
        raise LdapError("; ".join(reasons), away=True)

    def _context(self) -> ssl.SSLContext:
        """Raises OSError, ssl.SSLError among them, for files that cannot be used."""
        settings = self.settings
        context = ssl.create_default_context(cafile=settings.ca_file or None)
        context.check_hostname = settings.validation != ssl.CERT_NONE
        context.verify_mode = settings.validation
        if settings.cert_file:
            context.load_cert_chain(settings.cert_file, settings.key_file or None)
        return context

    def _forget(self) -> None:
        connection, self._own.connection = getattr(self._own, "connection", None), None
        if connection is not None:
            with self._lock:
                self._opened.remove(connection)
            self._end(connection)

    def _end(self, connection: Any) -> None:
        """End a connection, in whatever state it is."""
        socket = connection.socket
        try:
            connection.unbind()
        except (self._errors.LDAPException, OSError, AttributeError):
            pass  # it was gone already
        finally:
            if socket is not None:  # the client does not always close what is broken
                socket.close()

    # ---

    async def close(self) -> None:
        """Let go of the connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            opened, self._opened = self._opened, []
        for connection in opened:
            await asyncio.get_running_loop().run_in_executor(None, self._end, connection)


def secured(context: ssl.SSLContext, host: str, connection: Any, do_handshake: bool = True) -> None:
    """Put TLS over the connection's socket; raises OSError."""
    connection.socket = context.wrap_socket(connection.socket, server_hostname=host, do_handshake_on_connect=True)


def entry_of(item: Mapping[str, Any]) -> Entry:
    """The values as text, as they came: no phone number becomes an integer."""
    return {
        str(name).lower(): [
            value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value) for value in values
        ]
        for name, values in item.get("raw_attributes", {}).items()
    }


def words(error: BaseException) -> str:
    """The words of an error, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
