"""What the script's core needs from the server it runs in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Coroutine
from typing import TYPE_CHECKING, Any

from opensipspy.script.patterns import PatternCache

if TYPE_CHECKING:
    from opensipspy.script.run import Run, Value
    from opensipspy.sip import Socket


class ScriptServices(ABC):
    """The server as seen by core functions and core variables; implemented by server/, faked by tests.

    Every default is what a server without that ability answers. A method that says "awaitable" may return the value
    itself when it is known at once.
    """

    def __init__(self) -> None:
        self.patterns: PatternCache = PatternCache()

    # -- the world

    @abstractmethod
    def log(self, level: int, text: str) -> None:
        """Write one line at a level of `runtime.L_*`; the server drops what is above `log_level`."""

    def xlog(self, level: int, text: str) -> None:
        """Write a line of xlog(), which `xlog_level` has let through: `log_level` does not hold it back."""
        self.log(level, text)

    @abstractmethod
    def now(self) -> float:
        """Seconds of a clock that never goes back."""

    @abstractmethod
    def time(self) -> float:
        """Seconds since 1970-01-01 UTC."""

    @abstractmethod
    def log_level(self) -> int:
        """The level up to which the server logs."""

    @abstractmethod
    def set_log_level(self, level: int | None) -> None:
        """Change `log_level` of this process; None restores the configured value."""

    @abstractmethod
    def xlog_level(self) -> int:
        """The level up to which xlog() prints."""

    @abstractmethod
    def set_xlog_level(self, level: int | None) -> None:
        """Change `xlog_level` of this process; None restores the configured value."""

    def process_id(self) -> int:
        return 0

    def start_argument(self, name: str) -> Value:
        """`$argv(name)`: an extra argument of the command line, NULL when there is none."""
        return None

    # -- addresses

    @abstractmethod
    def is_myself(self, host: str, port: int = 0, proto: int = 0) -> bool:
        """Whether host[:port] is this server (sockets and aliases); port 0 and proto 0 match any."""

    @abstractmethod
    def find_socket(self, text: str) -> Socket | None:
        """The listening socket written "proto:address:port", or with another's tag or address; None when unknown."""

    def socket_in_bond(self, socket: str, bond: str) -> bool | None:
        """Whether a socket is a member of a bond; None when either is unknown."""
        return None

    def resolve(self, name: str, family: int = 0) -> str | None:
        """The first address of a host name that is known without waiting; family 4, 6 or 0 for either."""
        return None

    # -- sending

    @abstractmethod
    def forward(self, run: Run, destination: str) -> int | Awaitable[int]:
        """Send the request on, stateless (RFC 3261 §16.11); destination "" means its own. 1 sent, else negative."""

    @abstractmethod
    def send(self, run: Run, destination: str, headers: str) -> int | Awaitable[int]:
        """Send the message as it was received, with more header lines, to "[proto:]host[:port]"."""

    def tcp_alias(self, run: Run, port: int) -> int:
        """Let the message's connection serve requests to its address and `port` too (RFC 5923)."""
        return -1

    def tcp_close(self, address: str) -> int:
        """Close the connection to "[proto:]ip:port"; 1 when there was one."""
        return -1

    def proxied(self, run: Run) -> dict[str, str | int] | None:
        """What the PROXY protocol said about the connection of the message: src_ip, src_port, dst_ip, dst_port, af."""
        return None

    # -- blacklists

    def blacklist_known(self, name: str) -> bool:
        return False

    def blacklist_names(self) -> frozenset[str]:
        """All lists of the script."""
        return frozenset()

    def blacklist_defaults(self) -> frozenset[str]:
        """The lists that count for a message unless the script says otherwise."""
        return frozenset()

    def blacklist_add(self, name: str, address: str, port: int, proto: str, pattern: str, expire_s: int) -> int:
        return -1

    def blacklist_delete(self, name: str, address: str, port: int, proto: str, pattern: str) -> int:
        return -1

    def blacklist_check(self, name: str, address: str, port: int, proto: str, pattern: str) -> int:
        return -1

    # -- key-value stores. Answers may have to be awaited. OSError: the store refuses or does not answer.

    def cache_known(self, storage: str) -> bool:
        """Whether a loaded module serves "system[:group]"."""
        return False

    def cache_fetch(self, storage: str, key: str) -> str | Awaitable[str | None] | None:
        """The value of a key, None when there is none."""
        raise OSError("there are no key-value stores")

    def cache_counter(self, storage: str, key: str) -> int | Awaitable[int | None] | None:
        """The value of a counter, None when there is none."""
        raise OSError("there are no key-value stores")

    def cache_store(self, storage: str, key: str, value: str, expire_s: int) -> Awaitable[None] | None:
        """Keep a value; expire_s 0 for ever."""
        raise OSError("there are no key-value stores")

    def cache_remove(self, storage: str, key: str) -> bool | Awaitable[bool]:
        """Forget a key; whether it was there."""
        raise OSError("there are no key-value stores")

    def cache_add(self, storage: str, key: str, amount: int, expire_s: int) -> int | Awaitable[int]:
        """Add to a counter; the new value."""
        raise OSError("there are no key-value stores")

    def cache_raw(self, storage: str, query: str) -> list[list[Value]] | Awaitable[list[list[Value]]]:
        """Run a query in the store's own language: rows of values."""
        raise OSError("there are no key-value stores")

    # -- events and status

    def raise_event(self, name: str, params: list[tuple[str, Value]]) -> int:
        """Raise an event; a parameter without a name has "". 1 when somebody could be told."""
        return -1

    def subscribe_event(self, name: str, socket: str, expire_s: int) -> int:
        return -1

    def status(self, group: str, identifier: str) -> int:
        """The status/report value of an identifier ("" for the main one); 0 when unknown."""
        return 0

    # -- work beside the script

    async def within(self, work: Awaitable[int], limit_s: float) -> int:
        """Wait for work at most so long; raises TimeoutError, and the work is given up."""
        return await work

    def abort(self, reason: str) -> None:
        """The server is to end with a failure (`abort_on_assert`)."""
        self.log(-2, reason)

    def spawn(self, work: Coroutine[Any, Any, object]) -> None:
        """Run launch()'s work as a task of the server, which logs what goes wrong in it."""
        work.close()
        self.log(-1, "launch() needs a server that can run tasks")
