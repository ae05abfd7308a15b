"""t_write_req() and t_write_unix(): a request told to another program, line by line, which then answers it over `mi`.

The text has 20 parts, each ended by "\\n" (version 0.3 of this format of old, see `description`). The program answers
with the management command `tm:reply`, naming the transaction as hash:label.
"""

from __future__ import annotations

import asyncio
import os
import socket as os_socket
import stat
from collections.abc import Awaitable
from typing import Any, Final

from opensipspy import sip
from opensipspy.module import ParamError, script_function
from opensipspy.modules.tm.base import TmBase
from opensipspy.modules.tm.flow import E_UNSPEC, transaction_of
from opensipspy.script.declare import Catalogue
from opensipspy.script.kinds import BRANCH, FAILURE, REQUEST
from opensipspy.script.run import Run, VarRef
from opensipspy.script.varsyntax import VariableError, parse_variable
from opensipspy.transaction import Transaction

VERSION: Final = "0.3"
ABSENT: Final = "."
MAX_ROUTE: Final = 512
MAX_APPEND: Final = 4096
MAX_ACTION: Final = 115
# Of the paths that a UNIX socket can have.
MAX_PATH: Final = 107
RETRY_S: Final = 0.01


class Append:
    """One `tw_append`: what is told beside the fixed parts. body: of requests other than INVITE too."""

    def __init__(self, elements: list[tuple[str, VarRef]], body: bool) -> None:
        self.elements = elements
        self.body = body


def parse_append(text: str, catalogue: Catalogue) -> tuple[str, Append]:
    """(name in lower case, append) of "name: [title=]variable; ..."; raises ValueError."""
    name, colon, rest = text.partition(":")
    name = name.strip()
    if not colon or not name or " " in name:
        raise ValueError(f"{text!r} does not begin with a name and a colon")
    elements: list[tuple[str, VarRef]] = []
    body = False
    at = 0
    while True:
        while at < len(rest) and rest[at].isspace():
            at += 1
        dollar = rest.find("$", at)
        title, equals, between = rest[at:dollar].partition("=")
        title = title.strip()
        if dollar < 0 or between.strip() or bool(title) != bool(equals):
            raise ValueError(f"{rest[at:]!r} is no [name=]variable")
        found = parse_variable(rest, dollar, catalogue)
        if title:
            elements.append((title, found.reference()))
        elif found.text == "$rb":
            body = True
        else:
            raise ValueError(f"{found.text} needs a name; only $rb has none")
        at = found.end
        while at < len(rest) and rest[at].isspace():
            at += 1
        if at == len(rest):
            return name.lower(), Append(elements, body)
        if rest[at] != ";":
            raise ValueError(f"';' expected before {rest[at:]!r}")
        at += 1


def route_set(msg: sip.Message) -> tuple[str, str, str]:
    """(URI of later requests, route set, next hop) of a dialog that the answering program would be the callee of.

    RFC 3261 section 12.1.1 and 12.2.1.1; "." stands for none. Raises ParseError, and ValueError when it is too long.
    """
    contacts = msg.contacts
    target = contacts[0].uri if contacts else msg.from_.uri
    hops = [hop.uri for hop in msg.record_routes]
    if not hops:
        return target, ABSENT, ABSENT
    if sip.parse_uri(hops[0]).lr:
        routes, following = hops, hops[0]
    else:
        routes, following, target = [*hops[1:], target], ABSENT, hops[0]
    text = ",".join(f"<{uri}>" for uri in routes)
    if len(text) > MAX_ROUTE:
        raise ValueError("the route set is too long")
    return target, text, following


def description(run: Run, transaction: Transaction, action: str, append: Append | None) -> bytes:
    """The request as 20 parts, each ended by "\\n". Raises ParseError and ValueError for one that cannot be told.

    Version, "sip_request." and the action, method, user and host of the Request-URI, address and port it came in on
    ("." for 5060), Request-URI, URI of later requests, From, To, Call-ID, tags of From and To, CSeq number,
    transaction, route set, next hop, lines "name: value" that end with ".", body.
    """
    msg = run.msg
    uri = sip.parse_uri(run.ruri)
    target, routes, following = route_set(msg)
    # Hexadecimal digits from the lowest on, as the programs that read it expect.
    lines = ["P-MsgFlags: " + f"{run.msg_flags:x}"[::-1]]
    if append is not None:
        for name, variable in append.elements:
            value = variable.get(run)
            if value is not None:
                lines.append(f"{name}: {value}")
    more = "\n".join(lines) + "\n."
    if len(more) > MAX_APPEND:
        raise ValueError("what tw_append adds is too long")
    number, _, label = transaction.id.partition(".")
    with_body = msg.method == "INVITE" or (append is not None and append.body)
    parts = [
        VERSION,
        f"sip_request.{action}",
        msg.method,
        uri.user,
        uri.host_text,
        msg.socket.address,
        ABSENT if msg.socket.port == sip.default_port(sip.PROTO_UDP) else str(msg.socket.port),
        run.ruri,
        target,
        msg.value(sip.H_FROM),
        msg.value(sip.H_TO),
        msg.call_id,
        msg.from_tag,
        msg.to_tag,
        str(msg.cseq_number),
        f"{int(number, 16)}:{int(label, 16)}",
        routes,
        following,
        more,
    ]
    head = "\n".join(parts) + "\n"
    return head.encode("utf-8", "surrogateescape") + (msg.body if with_body else b".") + b"\n"


def write_fifo(path: str, data: bytes) -> None:
    """Write to a FIFO that somebody reads; never waits. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is no FIFO")
        if os.write(descriptor, data) != len(data):
            raise OSError(f"{path} took a part only")
    finally:
        os.close(descriptor)


class TmWrites(TmBase):
    """The functions that tell other programs of a request."""

    def __init__(self, **params: Any) -> None:
        self._append_texts: list[str] = []
        self._appends: dict[str, Append] = {}
        super().__init__(**params)

    def set_tw_append(self, value: str) -> None:
        """One more `tw_append`; its variables are looked up when all modules are loaded."""
        self._append_texts.append(value)

    async def start(self) -> None:
        await super().start()
        if not 0 < self.unix_tx_timeout <= 60:
            raise ParamError("tm", "unix_tx_timeout", f"{self.unix_tx_timeout} is out of range")
        for text in self._append_texts:
            try:
                name, append = parse_append(text, self.core.catalogue)
            except (ValueError, VariableError) as error:
                raise ParamError("tm", "tw_append", str(error)) from error
            if name in self._appends:
                raise ParamError("tm", "tw_append", f"{name} is there twice")
            self._appends[name] = append

    @script_function(routes=REQUEST | FAILURE | BRANCH)
    def t_write_req(self, run: Run, info: str, fifo: str) -> int:
        """Write the request to a FIFO and keep its transaction open for an answer over `mi`.

        info: "action" or "action/name of a tw_append". False when nobody reads the FIFO.
        """
        transaction, data = self._described(run, info)
        if transaction is None:
            return E_UNSPEC
        try:
            write_fifo(fifo, data)
        except (OSError, ValueError) as error:
            self.core.log.error("tm: t_write_req: %s: %s", fifo, error)
            return E_UNSPEC
        return self._await_answer(run, transaction)

    @script_function(routes=REQUEST | FAILURE | BRANCH)
    def t_write_unix(self, run: Run, info: str, sock: str) -> int | Awaitable[int]:
        """Send the request to a UNIX datagram socket and keep its transaction open for an answer over `mi`.

        info: as of t_write_req(). Waits up to unix_tx_timeout for a reader whose queue is full.
        """
        transaction, data = self._described(run, info)
        if transaction is None:
            return E_UNSPEC
        if not 0 < len(sock) <= MAX_PATH:
            self.core.log.error("tm: t_write_unix: %r is no path of a socket", sock)
            return E_UNSPEC
        sent = self._send_unix(sock, data)
        if sent == 0:
            return self._send_unix_later(run, transaction, sock, data)
        return self._await_answer(run, transaction) if sent > 0 else E_UNSPEC

    def _described(self, run: Run, info: str) -> tuple[Transaction | None, bytes]:
        action, slash, name = info.partition("/")
        append = self._appends.get(name.lower())
        transaction = transaction_of(run)
        if not action or len(action) > MAX_ACTION or (slash and append is None):
            self.core.log.error("tm: %r is no action, or names no tw_append", info)
            return None, b""
        if transaction is None or transaction.answered or not run.msg.is_request:
            self.core.log.error("tm: a request can be written when it has an open transaction, see t_newtran()")
            return None, b""
        try:
            return transaction, description(run, transaction, action, append)
        except ValueError as error:  # ParseError is one
            self.core.log.error("tm: the request cannot be written: %s", error)
            return None, b""

    def _send_unix(self, path: str, data: bytes) -> int:
        """1 sent, 0 the reader's queue is full, -1 failed."""
        with os_socket.socket(os_socket.AF_UNIX, os_socket.SOCK_DGRAM) as made:
            made.setblocking(False)
            try:
                made.sendto(data, path)
            except BlockingIOError:
                return 0
            except (OSError, ValueError) as error:
                self.core.log.error("tm: t_write_unix: %s: %s", path, error)
                return -1
        return 1

    async def _send_unix_later(self, run: Run, transaction: Transaction, path: str, data: bytes) -> int:
        end = self.core.now() + self.unix_tx_timeout
        while self.core.now() < end:
            await self.core.wait(asyncio.sleep(RETRY_S))
            sent = self._send_unix(path, data)
            if sent:
                return self._await_answer(run, transaction) if sent > 0 else E_UNSPEC
        self.core.log.error("tm: t_write_unix: %s does not read", path)
        return E_UNSPEC

    def _await_answer(self, run: Run, transaction: Transaction) -> int:
        """Keep the transaction open; without an answer in time it ends as one that nobody answered."""
        if transaction.answered or not self.flow.wait_for_branches(transaction, 0):
            return E_UNSPEC
        run.handled = True
        return 1
