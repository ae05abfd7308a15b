"""Ports on loopback for servers under test.

A port is chosen before the server that is to have it starts, so nobody else may take it in between. Each test process
therefore has ports of its own, and all are below those that the system gives to outgoing connections (from 32768 up on
Linux).
"""

from __future__ import annotations

import errno
import functools
import itertools
import os
import socket
from collections.abc import Iterator

# A Redis cluster also takes the port that is 10,000 higher: up to 29999.
FIRST = 10_000
LAST = 19_999
BLOCK = 500


@functools.cache
def _own_ports() -> Iterator[int]:
    """The ports of this process, over and over."""
    blocks = list(range(FIRST, LAST + 1, BLOCK))
    # Beginning anywhere, so that what an earlier run has left behind is met seldom.
    start = os.getpid() % len(blocks)
    for first in blocks[start:] + blocks[:start]:
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0opensipspy-test-ports-{first}")
        except OSError:
            claim.close()
            continue
        # The name is kept until the process ends.
        claim.detach()
        return itertools.cycle(range(first, first + BLOCK))
    raise RuntimeError("too many test processes at a time")


def free_port() -> int:
    """A port that nobody has, for UDP or TCP, IPv4 or IPv6; a different one at each call."""
    return next(port for port in itertools.islice(_own_ports(), BLOCK) if _is_free(port))


def _is_free(port: int) -> bool:
    for family, address in ((socket.AF_INET, ""), (socket.AF_INET6, "::")):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            try:
                with socket.socket(family, kind) as probe:
                    if family == socket.AF_INET6:
                        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    probe.bind((address, port))
            except OSError as error:
                # Other errors: a system without IPv6.
                if error.errno == errno.EADDRINUSE:
                    return False
    return True
