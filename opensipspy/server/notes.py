"""What a script asks for that means nothing to this server: one line of the log for each, said at the start."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from opensipspy.server.loops import POLL_METHODS

MEMORY: Final = "memory is managed by Python"
WORKERS: Final = "one event loop serves everything; a lookup that waits needs no worker of its own"
RECEIVED: Final = "a Via with a name always gets received= (RFC 3261 §18.2.1), so there is nothing to look up"
NO_LIMIT: Final = "texts have no buffer that could be too small"

GLOBALS: Final[Mapping[str, str]] = {
    "auto_scaling_cycle": WORKERS,
    "auto_scaling_profile": WORKERS,
    "dns": RECEIVED,
    "dns_use_search_list": "names in SIP are complete (RFC 3263 §4), so the search list is never used",
    "event_pkg_threshold": MEMORY,
    "event_shm_threshold": MEMORY,
    "log_json_buf_size": NO_LIMIT,
    "log_msg_buf_size": NO_LIMIT,
    "mem-group": MEMORY,
    "mem_warming": MEMORY,
    "mem_warming_pattern_file": MEMORY,
    "mem_warming_percentage": MEMORY,
    "memdump": MEMORY,
    "memlog": MEMORY,
    "pi_framework": "there is no provisioning interface yet",
    "pv_print_buf_size": NO_LIMIT,
    "restart_persistency_size": "what is kept over a restart is a file that grows as it must",
    "rev_dns": RECEIVED,
    "shm_hash_split_percentage": MEMORY,
    "shm_memlog_size": MEMORY,
    "shm_secondary_hash_size": MEMORY,
    "tcp_threads": WORKERS,
    "tcp_threshold": "sending never waits for the peer",
    "tcp_workers": WORKERS,
    "timer_workers": WORKERS,
    "udp_workers": WORKERS,
    "worker_reactor_timeout": WORKERS,
    "xlog_buf_size": NO_LIMIT,
}
SOCKET_WORDS: Final[Mapping[str, str]] = {
    "use_workers": WORKERS,
    "use_auto_scaling_profile": WORKERS,
}
UDP_ONLY: Final = "it concerns datagrams only"


def notes(settings: Any) -> list[str]:
    """A line for each global parameter and each word of a `socket=` that the script gives and that has no effect."""
    given: Iterable[str] = getattr(settings, "given", ())
    found = [f"{name} has no effect: {GLOBALS[name]}" for name in sorted(given) if name in GLOBALS]
    if settings.poll_method and settings.poll_method not in POLL_METHODS:
        found.append(f"poll_method={settings.poll_method} has no effect: this system has epoll, poll and select")
    for socket in settings.sockets:
        place = f"socket={socket.proto}:{socket.host}"
        for word in socket.options:
            if word in SOCKET_WORDS:
                found.append(f"{place}: {word} has no effect: {SOCKET_WORDS[word]}")
            elif word in ("send_proxy", "proxy") and socket.proto == "udp":
                found.append(f"{place}: send_proxy has no effect: only connections begin with a PROXY header")
            elif word in ("frag", "anycast") and socket.proto != "udp":
                found.append(f"{place}: {word} has no effect: {UDP_ONLY}")
    return found
