"""What a module may ask of the server: `server/` implements it, `module.testing.FakeCore` stands in for it in tests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from logging import Logger
from random import Random
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from asyncio import Task

    from opensipspy.cachedb import CacheDb
    from opensipspy.db import Database
    from opensipspy.events import Hub
    from opensipspy.management import Registry, Statistics, StatusReports
    from opensipspy.module.module import Module
    from opensipspy.module.target import Target
    from opensipspy.module.tls import TlsSession
    from opensipspy.script.declare import Catalogue
    from opensipspy.script.run import Run
    from opensipspy.sip import Peer, Socket, Uri

T = TypeVar("T")


class LocateError(Exception):
    """A destination cannot be found: the name does not resolve, or no listening socket fits its protocol."""


class NoSocketError(LocateError):
    """A destination was found, and no listening socket fits its protocol and address family."""


class Naptr:
    """A NAPTR record (RFC 3403 §4), for what is found through names of numbers and of domains."""

    __slots__ = ("flags", "order", "preference", "regexp", "replacement", "service")

    def __init__(
        self, order: int, preference: int, flags: str, service: str, regexp: str, replacement: str = ""
    ) -> None:
        self.order = order
        self.preference = preference
        self.flags = flags
        self.service = service
        self.regexp = regexp
        self.replacement = replacement


class DnsStore(ABC):
    """Keeps answers of name servers beside the memory of the server, and may be shared by several. Never raises."""

    @abstractmethod
    async def fetch(self, name: str, kind: str) -> tuple[str, float] | None:
        """What was kept for a name and a kind of records, and for how many seconds it is still true."""

    @abstractmethod
    async def keep(self, name: str, kind: str, text: str, ttl_s: float | None) -> float:
        """Keep an answer; ttl_s is None when there are no such records. Returns the seconds for which it counts."""


class CancelHandle(Protocol):
    """A pending timer."""

    def cancel(self) -> None:
        """Forget the call; harmless when it has happened."""


class Core(ABC):
    """The server as modules see it. Times are seconds; `now` never jumps, `time` is the wall clock."""

    globals: Any
    """Global parameters of the script, typed attributes with defaults (`script.Globals`)."""
    program: Any
    """The compiled script (`script.Program`); None until it is compiled. Replaced by a reload."""
    script_folder: str = ""
    """Where the script lies, "" for a script without a file: rule files without a folder are looked for there."""
    services: Any = None
    """What scripts ask of the server (`script.ScriptServices`); None in tests without scripts."""
    catalogue: Catalogue
    sockets: list[Socket]
    stats: Statistics
    mi: Registry
    status: StatusReports
    events: Hub
    flags: Any
    """Script flag names to masks: `flags.mask("message" | "branch", name)`."""
    random: Random
    log: Logger

    @abstractmethod
    def now(self) -> float:
        """Seconds of a clock that only goes forward."""

    @abstractmethod
    def time(self) -> float:
        """Seconds since 1970, as clocks on walls show them."""

    @abstractmethod
    def module(self, name: str) -> Module | None:
        """A loaded module, None when it is not loaded."""

    @abstractmethod
    def api(self, name: str, cls: type[T]) -> T:
        """What module `name` offers to others; raises LookupError when it is not loaded or offers something else."""

    @abstractmethod
    def send(self, data: bytes, target: Target, on_failure: Callable[[], None] | None = None) -> bool:
        """Hand bytes to the network. False when they certainly do not leave; a later failure calls `on_failure`."""

    def receive(self, data: bytes, source: Peer, socket: Socket) -> None:  # noqa: B027 - a core without a network
        """Take a message as if `source` had sent it to a listening point; what is wrong with it is found as then."""

    def barred(self, run: Run, peer: Peer, data: bytes) -> bool:
        """Whether a blacklist keeps the request of `run` from going to `peer`; data: as it would leave."""
        return False

    def destination_failed(self, peer: Peer) -> None:  # noqa: B027 - a core without blacklists need not remember it
        """One of several addresses of a name did not work: it is avoided for a while, if the operator wants that."""

    def keep_connection(self, peer: Peer, seconds: float) -> bool:
        """Do not close the connection that `peer` names for being idle before so many seconds; False when it is not
        there."""
        return False

    def tls_session(self, peer: Peer) -> TlsSession | None:
        """What is known of the TLS connection that a message from `peer` came over; None when it is none."""
        return None

    def on_disconnect(self, callback: Callable[[int, str, tuple[int, ...], int], None]) -> None:  # noqa: B027
        """Call `callback(protocol, address, ports, connection)` when a connection to a peer is lost.

        ports: those of the peer that it stood for. A core without connections never calls.
        """

    @abstractmethod
    def locate(self, uri: Uri | str, proto: int = 0) -> list[Target] | Awaitable[list[Target]]:
        """Targets of a URI in the order to try them (RFC 3263); at once for addresses and cached names.

        Raises LocateError, at once or when awaited.
        """

    async def naptr(self, name: str) -> list[Naptr]:
        """The NAPTR records of a name, as they were answered; [] for none or no answer. Raises LocateError."""
        raise LocateError("there are no name servers")

    async def txt(self, name: str) -> list[str]:
        """The texts of the TXT records of a name; [] for none or no answer. Raises LocateError."""
        raise LocateError("there are no name servers")

    def keep_dns_answers(self, store: DnsStore) -> None:
        """Have answers of name servers kept in a store from now on. Raises LookupError without name servers."""
        raise LookupError("there are no name servers")

    def open_socket(self, socket: Socket, words: Mapping[str, int | str]) -> None:
        """Listen at one more point, also while the server runs. words: as of a `socket=` line (reuse_port, tos, ...).

        Raises OSError from the system, LookupError when no loaded module serves the protocol.
        """
        raise LookupError("this server opens no sockets")

    def close_socket(self, socket: Socket) -> None:
        """Listen no more at such a point. Raises LookupError for one that is not open."""
        raise LookupError("this server opens no sockets")

    @abstractmethod
    def choose_socket(self, peer: Peer, forced: Socket | None = None, received: Socket | None = None) -> Socket | None:
        """The listening socket to reach `peer` from; `forced` when it fits the protocol and the address family.

        received: where the request came in that now leaves; over UDP it leaves there when nothing else is asked for.
        """

    @abstractmethod
    def is_myself(self, host: str, port: int = 0, proto: int = 0) -> bool:
        """Whether the address is one of our sockets or aliases; 0 means any."""

    @abstractmethod
    def call_later(self, delay_s: float, fn: Callable[..., object], *args: Any) -> CancelHandle:
        """Call `fn(*args)` in `delay_s` seconds, to about 10 ms. Cheap: thousands may be pending."""

    @abstractmethod
    def every(self, interval_s: float, fn: Callable[[], object]) -> CancelHandle:
        """Call `fn()` every `interval_s` seconds until cancelled."""

    @abstractmethod
    def spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> Task[Any]:
        """Run a coroutine in the background; its failure is logged, and it is cancelled when the server stops."""

    @abstractmethod
    async def wait(self, awaitable: Awaitable[T], timeout_s: float | None = None) -> T:
        """Await something of asyncio's from a script coroutine, which runs without a task. Raises TimeoutError."""

    @abstractmethod
    def run_route(self, route: Any, run: Run, done: Callable[[Run, int], None]) -> None:
        """Run a route in place; `done(run, result)` follows at once unless the route really waits."""

    @abstractmethod
    def on_reply(self, handler: Callable[[Run], bool | Awaitable[bool]]) -> None:
        """Offer every reply to `handler` first; it answers True when the reply was its own."""

    @abstractmethod
    def before_script(self, callback: Callable[[Run], bool | None]) -> None:
        """Call `callback(run)` before the script sees a request; False keeps the script from running.

        The request counts as dropped then, unless the callback has set `run.handled`."""

    @abstractmethod
    def after_script(self, callback: Callable[[Run], None]) -> None:
        """Call `callback(run)` after the script has ended for a request."""

    @abstractmethod
    def on_copy(self, callback: Callable[[Run], None]) -> None:
        """Call `callback(run)` when a copy of a request comes whose script, with `run`, is still waiting."""

    @abstractmethod
    def send_reply(self, run: Run, code: int, reason: str, headers: str = "", body: bytes = b"") -> int:
        """Answer the request of `run`, through its transaction when there is one. Returns a script result."""

    @abstractmethod
    def database(self, url: str) -> Database:
        """The database behind a URL; modules that give the same URL share it."""

    def cachedb(self, url: str) -> CacheDb:
        """The key-value store behind a URL; modules that give the same URL share it. Raises cachedb.CacheError."""
        raise LookupError("this core has no key-value stores")
