"""A directory as the configuration file describes it: its servers, and threads that ask them.

ldap3 waits for its sockets, so that each connection belongs to a thread of a small pool. Servers are tried in their
order; when none answers, searches fail at once while one thread tries to reach them, less and less often, so that calls
do not queue up behind a directory that is away. A search ends when `ldap_client_search_timeout` is over, whether it
waits for a thread, for a connection, or for an answer of which there is always one more octet.
"""

from __future__ import annotations

import asyncio
import codecs
import configparser
import contextlib
import functools
import importlib
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

LOG: Final = logging.getLogger(__name__)

MOST_ENTRIES: Final = 1000
MOST_WAITING: Final = 2000
FIRST_RETRY_S: Final = 0.1
LONGEST_RETRY_S: Final = 5.0
MOST_ANSWER: Final = 32 * 1024 * 1024
"""Octets of the answer to one search."""
RECEIVED: Final = 64 * 1024
LONGEST_WORDS: Final = 300
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


Watcher = Callable[[str, bool, str], None]
"""Told of a directory that is lost or comes back: its session, whether it is available, and why not."""


class LdapError(Exception):
    """A search failed. away: no server could be asked. silent: only because it did not answer in time."""

    def __init__(self, reason: str, *, away: bool = False, silent: bool = False) -> None:
        super().__init__(reason)
        self.away = away
        self.silent = silent


class SettingError(ValueError):
    """A setting is wrong or, with an empty name, the section is."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.name = name


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
        """Raises SettingError."""
        known = dict(values)
        self.name = name
        self.servers = [url.strip() for url in known.pop("ldap_server_url", "").split(",") if url.strip()]
        if not self.servers:
            raise SettingError("", "ldap_server_url is missing")
        for url in self.servers:
            if not url.lower().startswith(("ldap://", "ldaps://", "ldapi://")):
                raise SettingError("ldap_server_url", f"{url}: a server is ldap://host:port or ldaps://host:port")
        self.version = number(known, "ldap_version", 3)
        if self.version not in (2, 3):
            raise SettingError("ldap_version", "ldap_version is 2 or 3")
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
            raise SettingError(
                "ldap_require_certificate", f"ldap_require_certificate is one of {', '.join(VALIDATION)}"
            )
        self.validation = VALIDATION[word]
        if known:
            raise SettingError(min(known), f"unknown setting {min(known)}")

    @property
    def start_tls(self) -> bool:
        """StartTLS is asked for by naming an authority or a certificate."""
        return bool(self.ca_file or self.cert_file)


def number(known: dict[str, str], name: str, default: int) -> int:
    text = known.pop(name, "").strip()
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 600_000:
        raise SettingError(name, f"{name} is a number from 1 to 600000")
    return int(text)


def read_settings(path: Path) -> dict[str, Settings]:
    """The sessions of a file. Raises ValueError with the file's name, line and column, and what is wrong."""
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
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    try:
        text = data.decode()
        parser.read_string(text, str(path))
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        raise ValueError(f"{path}:{line}:{column}: the octet {data[error.start]:#04x} is no UTF-8") from error
    except configparser.DuplicateSectionError as error:
        raise ValueError(f"{path}:{error.lineno}:1: section {error.section} is there twice") from error
    except configparser.DuplicateOptionError as error:
        reason = f"section {error.section}: {error.option} is there twice"
        raise ValueError(f"{path}:{error.lineno}:1: {reason}") from error
    except configparser.MissingSectionHeaderError as error:
        raise ValueError(f"{path}:{error.lineno}:1: a [section] comes first") from error
    except configparser.ParsingError as error:
        raise ValueError(f"{path}:{error.errors[0][0]}:1: this line is no name = value") from error
    found = {}
    for name in parser.sections():
        try:
            found[name] = Settings(name, {key: plain(value) for key, value in parser.items(name)})
        except SettingError as error:
            line, column = place_of(text, name, error.name)
            raise ValueError(f"{path}:{line}:{column}: section {name}: {error}") from error
    if not found:
        raise ValueError(f"{path}:1:1: has no section")
    return found


def place_of(text: str, section: str, setting: str) -> tuple[int, int]:
    """(line, column) of a setting's name; without one, of the section."""
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip()
        if bare.startswith("["):
            inside = bare.startswith(f"[{section}]")
            if inside and not setting:
                return number, 1
        elif inside and bare.partition("=")[0].strip().lower() == setting:
            return number, len(line) - len(line.lstrip()) + 1
    return 1, 1


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


class Guarded:
    """A connection's socket with a limit of time and size for the answer to a request, however slowly it drips.

    Of the threads of a directory one works at a time, the others wait for their sockets or for their turn: when the
    answers to many come at once, the thread of the server does not have to wait for all of them.
    """

    def __init__(self, inner: Any, turn: threading.Lock) -> None:
        self.inner = inner
        self._turn = turn
        self._until = 0.0
        self._left = 0

    @contextlib.contextmanager
    def request(self, seconds: float) -> Iterator[None]:
        """A request, whose answer is complete in so many seconds."""
        self._until = time.monotonic() + seconds
        self._left = MOST_ANSWER
        self.inner.settimeout(max(seconds, 0.001))
        with self._turn:
            yield

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        """Others may work meanwhile. Within a request."""
        self._turn.release()
        try:
            yield
        finally:
            self._turn.acquire()

    def recv(self, _: int) -> bytes:
        """Raises OSError: TimeoutError when the time is over, LargeAnswerError beyond the size."""
        seconds = self._until - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("timed out")
        if self._left <= 0:
            raise LargeAnswerError(f"the answer has more than {MOST_ANSWER} octets")
        self.inner.settimeout(seconds)
        with self._waiting():
            data: bytes = self.inner.recv(RECEIVED)
        self._left -= len(data)
        return data

    def secure(self, context: ssl.SSLContext, host: str) -> None:
        """Put TLS over it; raises OSError."""
        with self._waiting():
            self.inner = context.wrap_socket(self.inner, server_hostname=host)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class LargeAnswerError(OSError):
    """A directory gives more than anybody asked for."""


class Session:
    """The connections to one directory. Used by one event loop."""

    def __init__(self, settings: Settings, connections: int, watcher: Watcher | None = None) -> None:
        self.settings = settings
        self._threads = ThreadPoolExecutor(max(1, connections), thread_name_prefix=f"ldap {settings.name}")
        self._own = threading.local()
        self._opened: list[Any] = []
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._waiting = 0
        self._available = True
        self._closed = False
        self._returning: asyncio.Task[None] | None = None
        self._watcher = watcher
        self._client: Any = importlib.import_module("ldap3")
        self._errors: Any = importlib.import_module("ldap3.core.exceptions")
        self._codes: Any = importlib.import_module("ldap3.core.results")

    @property
    def available(self) -> bool:
        """Whether searches are sent."""
        return self._available and not self._closed

    async def search(self, dn: str, scope: str, filter_text: str, attributes: Sequence[str]) -> list[Entry]:
        """The entries. Raises LdapError."""
        if not self.available:
            raise LdapError("no server answers", away=True)
        if self._waiting >= MOST_WAITING:
            raise LdapError(f"{self._waiting} searches are waiting already", away=True)
        self._waiting += 1
        until = time.monotonic() + self.settings.search_timeout / 1000
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, self._search, until, dn, scope, filter_text, list(attributes)
            )
        except LdapError as error:
            if error.away:
                self._lost(error)
            raise
        finally:
            self._waiting -= 1

    # --- away and back

    def _lost(self, error: LdapError) -> None:
        if not self.available:
            return
        self._available = False
        LOG.error("ldap: the directory %s is not available: %s", self.settings.name, error)
        if self._watcher is not None:
            self._watcher(self.settings.name, False, str(error))
        name = f"reconnect to the directory {self.settings.name}"
        self._returning = asyncio.get_running_loop().create_task(self._return(), name=name)

    async def _return(self) -> None:
        delay = FIRST_RETRY_S
        while True:
            await asyncio.sleep(delay)
            delay = min(2 * delay, LONGEST_RETRY_S)
            try:
                await asyncio.get_running_loop().run_in_executor(self._threads, self._connect_anew)
            except LdapError:
                continue  # the log was told when it began
            self._available = True
            LOG.warning("ldap: the directory %s is available again", self.settings.name)
            if self._watcher is not None:
                self._watcher(self.settings.name, True, "")
            return

    # --- in a thread

    def _search(self, until: float, dn: str, scope: str, filter_text: str, attributes: list[str]) -> list[Entry]:
        for attempt in (1, 2):
            fresh = getattr(self._own, "connection", None) is None
            connection = self._connection(until)
            try:
                with connection.socket.request(until - time.monotonic()):
                    _, result, response, _ = connection.search(
                        dn,
                        filter_text,
                        search_scope=SCOPES[scope],
                        attributes=attributes or self._client.ALL_ATTRIBUTES,
                        size_limit=MOST_ENTRIES,
                        time_limit=max(1, self.settings.search_timeout // 1000),
                    )
                    code = int(result["result"])
                    if code in (self._codes.RESULT_SUCCESS, self._codes.RESULT_SIZE_LIMIT_EXCEEDED):
                        return [entry_of(item) for item in response or () if item.get("type") == "searchResEntry"]
            except Exception as error:  # the client raises anything at all for octets that are no LDAP
                if isinstance(error, LargeAnswerError):
                    self._forget()
                    raise LdapError(words(error)) from error
                if not isinstance(error, OSError):
                    self._check(dn, filter_text, scope, attributes)
                self._forget()
                # A connection that lay idle may have been closed by the server.
                if fresh or attempt == 2 or isinstance(error, TimeoutError):
                    raise LdapError(words(error), away=True) from error
                continue
            if code == self._codes.RESULT_NO_SUCH_OBJECT:
                return []
            if code in (self._codes.RESULT_BUSY, self._codes.RESULT_UNAVAILABLE):
                self._forget()
                raise LdapError(words(result["description"]), away=True)
            raise LdapError(words(result["description"]))
        raise AssertionError("unreachable")

    def _check(self, dn: str, filter_text: str, scope: str, attributes: list[str]) -> None:
        """Whether it is the request, never sent, that was wrong, and nothing that the server said; raises LdapError."""
        operation = importlib.import_module("ldap3.operation.search")
        encoder = importlib.import_module("pyasn1.codec.ber.encoder")
        try:
            name = importlib.import_module("ldap3.utils.dn").safe_dn(dn)
            wanted = attributes or [self._client.ALL_ATTRIBUTES]
            encoder.encode(
                operation.search_operation(
                    name, filter_text, SCOPES[scope], "ALWAYS", wanted, MOST_ENTRIES, 1, False, True, True
                )
            )
        except Exception as error:  # it is the words of a stranger that are tried here
            raise LdapError(f"the search is malformed: {words(error)}") from error

    def _connection(self, until: float) -> Any:
        """This thread's connection; raises LdapError when no server takes one until then."""
        connection = getattr(self._own, "connection", None)
        while connection is None:
            if not self.available:
                raise LdapError("no server answers", away=True)
            if time.monotonic() >= until:
                raise LdapError("no server answers in time", away=True, silent=True)
            try:
                connection = self._connect_anew()
            except LdapError as error:
                # While others wait for their answers, this one may wait as long as they do.
                if not error.silent or not self._opened or time.monotonic() >= until:
                    raise
        return connection

    def _connect_anew(self) -> Any:
        """Another connection for this thread; raises LdapError when no server takes one."""
        self._forget()
        connection = self._connect()
        with self._lock:
            if not self._closed:
                self._opened.append(connection)
                self._own.connection = connection
                return connection
        self._end(connection)
        raise LdapError("closed", away=True)

    def _connect(self) -> Any:
        settings = self.settings
        reasons = []
        silent = True
        for url in settings.servers:
            connection = None
            try:
                with self._turn:  # it takes longer than a search
                    connection = self._made(url)
                connection.open()
                # The client's own receive_timeout knows whole seconds only.
                connection.socket = Guarded(connection.socket, self._turn)
                if settings.start_tls and not url.lower().startswith("ldaps:"):
                    with connection.socket.request(settings.bind_timeout / 1000):
                        connection.start_tls()
                with connection.socket.request(settings.bind_timeout / 1000):
                    bound, result, _, _ = connection.bind()
                if not bound:
                    raise LdapError(f"bind: {result['description']}", away=True)
                return connection
            except Exception as error:  # noqa: BLE001 - as for searches
                reasons.append(f"{url}: {words(error)}")
                silent = silent and isinstance(error, TimeoutError)
                if connection is not None:
                    self._end(connection)
        raise LdapError("; ".join(reasons), away=True, silent=silent)

    def _made(self, url: str) -> Any:
        """A connection that is not open yet."""
        settings = self.settings
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
        return self._client.Connection(
            server,
            user=settings.bind_dn or None,
            password=settings.bind_password if settings.bind_dn else None,
            version=settings.version,
            client_strategy=self._client.SAFE_SYNC,
            auto_referrals=False,
            check_names=False,
            raise_exceptions=False,
        )

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
                if connection in self._opened:
                    self._opened.remove(connection)
            self._end(connection)

    def _end(self, connection: Any) -> None:
        """End a connection, in whatever state it is."""
        socket = connection.socket
        try:
            connection.unbind()
        except (self._errors.LDAPExceptionError, OSError, AttributeError):
            pass  # it was gone already
        finally:
            if socket is not None:  # the client does not always close what is broken
                socket.close()

    # ---

    async def close(self) -> None:
        """Let go of the connections."""
        self._closed = True
        if self._returning is not None:
            self._returning.cancel()
            await asyncio.wait((self._returning,))
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            opened, self._opened = self._opened, []
        for connection in opened:
            await asyncio.get_running_loop().run_in_executor(None, self._end, connection)


def secured(context: ssl.SSLContext, host: str, connection: Any, do_handshake: bool = True) -> None:
    """Put TLS over the connection's socket; raises OSError. The handshake has the time-out of the socket."""
    if isinstance(connection.socket, Guarded):
        connection.socket.secure(context, host)
    else:
        connection.socket = context.wrap_socket(connection.socket, server_hostname=host)


def entry_of(item: Mapping[str, Any]) -> Entry:
    """The values as text, as they came: no phone number becomes an integer."""
    return {
        str(name).lower(): [text_of(value) if isinstance(value, bytes) else str(value) for value in values]
        for name, values in item.get("raw_attributes", {}).items()
    }


def text_of(value: bytes) -> str:
    """A piece at a time: megabytes that are no text keep all other threads from running for a tenth of a second."""
    if len(value) <= RECEIVED:
        return value.decode("utf-8", "surrogateescape")
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    pieces = [decoder.decode(value[start : start + RECEIVED]) for start in range(0, len(value), RECEIVED)]
    return "".join([*pieces, decoder.decode(b"", True)])


def words(error: object) -> str:
    """The words of an error, in one line that is not too long."""
    return " ".join(str(error).split())[:LONGEST_WORDS] or type(error).__name__
