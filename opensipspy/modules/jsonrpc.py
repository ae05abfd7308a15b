"""jsonrpc: calls of a JSON-RPC 2.0 server over TCP, a connection for each.

The protocol has no frames on a stream: a reply ends where its outermost brace closes.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Coroutine
from typing import Annotated, Any, Final

from opensipspy.module import Module, Param, ParamError, WritableVar, script_function
from opensipspy.script.run import Run, Value, VarRef

OK: Final = 1
INTERNAL: Final = -1
NO_CONNECTION: Final = -2
REFUSED: Final = -3

MAX_CALLS: Final = 10_000
"""Calls at the same time; a further one fails at once."""
MAX_TEXT: Final = 4 * 1024 * 1024
"""Octets of a request or a reply."""
PART: Final = 64 * 1024
MILLISECOND: Final = 0.001
INT32: Final = 0x7FFFFFFF
STRUCTURE: Final = re.compile(rb'["\\{}\[\]]')
BLANKS: Final = b" \t\r\n"


class ServerError(Exception):
    """The server's reply is an error object, or no reply at all; value: for the script."""

    def __init__(self, text: str, value: Value = None) -> None:
        super().__init__(text)
        self.value = value


class ReplyReader:
    """Finds the end of each JSON object in a stream; every octet is looked at once."""

    __slots__ = ("_at", "_depth", "_in_string", "data")

    def __init__(self) -> None:
        self.data = bytearray()
        self._at = 0
        self._depth = 0
        self._in_string = False

    def feed(self, part: bytes) -> None:
        """Raises ServerError for what cannot become a JSON object."""
        self.data += part
        if len(self.data) > MAX_TEXT:
            raise ServerError("the reply is too long")
        if self._depth == 0:
            start = bytes(self.data[:PART]).lstrip(BLANKS)[:1]
            if start and start != b"{":
                raise ServerError("the reply is no JSON object")

    def take(self) -> bytes | None:
        """The next whole object, None when it is not there yet."""
        while (found := STRUCTURE.search(self.data, self._at)) is not None:
            self._at = found.end()
            char = found.group()
            if self._in_string:
                if char == b"\\":
                    self._at += 1
                elif char == b'"':
                    self._in_string = False
            elif char == b'"':
                self._in_string = True
            elif char in b"{[":
                self._depth += 1
            elif char in b"}]":
                self._depth -= 1
                if self._depth <= 0:
                    whole = bytes(self.data[: self._at])
                    del self.data[: self._at]
                    self._at = self._depth = 0
                    return whole
        self._at = max(self._at, len(self.data))
        return None


class JsonRpc(Module):
    """Call methods of JSON-RPC 2.0 servers over TCP, and send them notifications."""

    name = "jsonrpc"

    connect_timeout = Param(int, 500, "Longest time until a connection is there.", unit="ms")
    write_timeout = Param(int, 500, "Longest time until a request is sent.", unit="ms")
    read_timeout = Param(int, 500, "Longest time until the reply to a request is there.", unit="ms")

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        for name in ("connect_timeout", "write_timeout", "read_timeout"):
            if getattr(self, name) < 1:
                raise ParamError(self.name, name, "is at least 1 ms")
        self._calls = 0
        self._last_id = 0

    # --- for scripts

    @script_function()
    async def jsonrpc_request(
        self, run: Run, destination: str, method: str, params: str, ret_var: Annotated[VarRef, WritableVar()]
    ) -> int:
        """Call a method at IP:port with `params`, a JSON array or object; its result is written, or its error object.

        An integer is written as such, anything else as JSON. Returns 1; -1 when the parameters cannot be used, -2 when
        there is no connection or no reply in time, -3 when the server answered with an error.
        """
        self._last_id = self._last_id % INT32 + 1
        call = self._prepare(destination, method, params, self._last_id)
        if call is None:
            return INTERNAL
        code, value = await self.core.wait(call)
        if code in (OK, REFUSED):
            ret_var.set(run, value)
        return code

    @script_function()
    async def jsonrpc_notification(self, run: Run, destination: str, method: str, params: str) -> int:
        """Send a notification to IP:port, which has no reply. Returns as `jsonrpc_request()`, but never -3."""
        call = self._prepare(destination, method, params, None)
        if call is None:
            return INTERNAL
        return (await self.core.wait(call))[0]

    # --- a call

    def _prepare(
        self, destination: str, method: str, params: str, id: int | None
    ) -> Coroutine[Any, Any, tuple[int, Value]] | None:
        """The call, ready to be waited for; None when what the script gave cannot be used."""
        try:
            host, port = _address(destination or "")
            data = _request(method or "", params or "", id)
        except ValueError as error:
            self.core.log.error("jsonrpc: %s", error)
            return None
        if self._calls >= MAX_CALLS:
            self.core.log.error("jsonrpc: %d calls are waiting already", self._calls)
            return None
        return self._carry(host, port, data, id)

    async def _carry(self, host: str, port: int, data: bytes, id: int | None) -> tuple[int, Value]:
        """Make the call; never raises for the network or for what the server says."""
        self._calls += 1
        writer: asyncio.StreamWriter | None = None
        doing = "connect"
        try:
            async with asyncio.timeout(self.connect_timeout * MILLISECOND):
                reader, writer = await asyncio.open_connection(host, port, limit=PART)
            # drain() is to wait until all has left, so that nothing is pending where the connection is closed.
            writer.transport.set_write_buffer_limits(0)
            doing = "send"
            async with asyncio.timeout(self.write_timeout * MILLISECOND):
                # The end of the line is nothing to JSON, and something to servers that read by lines.
                writer.write(data + b"\n")
                await writer.drain()
            doing = "read"
            if id is None:
                return OK, None
            async with asyncio.timeout(self.read_timeout * MILLISECOND):
                return OK, await self._reply(reader, id)
        except TimeoutError:
            self.core.log.error("jsonrpc: %s:%d: %s timeout", host, port, doing)
            return NO_CONNECTION, None
        except ServerError as error:
            self.core.log.warning("jsonrpc: %s:%d: %s", host, port, error)
            return REFUSED, error.value
        except OSError as error:
            self.core.log.error("jsonrpc: %s:%d: %s: %s", host, port, doing, error.strerror or type(error).__name__)
            return NO_CONNECTION, None
        finally:
            self._calls -= 1
            if writer is not None and doing == "read":
                writer.close()
            elif writer is not None:
                writer.transport.abort()

    async def _reply(self, reader: asyncio.StreamReader, id: int) -> Value:
        """The result in the reply to request `id`. Raises ServerError, and OSError when the stream ends before."""
        stream = ReplyReader()
        while True:
            part = await reader.read(PART)
            if not part:
                raise ConnectionResetError(0, "closed before the reply")
            stream.feed(part)
            while (whole := stream.take()) is not None:
                reply = _decoded(whole)
                # A server may send notifications of its own in between.
                if "method" in reply and "result" not in reply and "error" not in reply:
                    continue
                return _result(reply, id)


def _address(text: str) -> tuple[str, int]:
    """Host and port of IP:port, [IPv6]:port; raises ValueError."""
    host, colon, port = text.strip().rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not (port.isascii() and port.isdigit()) or not 0 < int(port[:6]) < 65536:
        raise ValueError(f"a destination has the form IP:port, not {text[:100]!r}")
    return host, int(port)


def _request(method: str, params: str, id: int | None) -> bytes:
    """JSON-RPC 2.0 §4 and §4.1; raises ValueError."""
    if not method:
        raise ValueError("the method is missing")
    if len(params) > MAX_TEXT:
        raise ValueError("the parameters are too long")
    try:
        given = json.loads(params)
    except (ValueError, RecursionError):
        raise ValueError("the parameters are no JSON") from None
    if not isinstance(given, list | dict):
        raise ValueError("the parameters are a JSON array or object")
    request: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": given}
    if id is not None:
        request["id"] = id
    return json.dumps(request, separators=(",", ":")).encode("ascii")


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        reply = json.loads(data.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        raise ServerError("the reply is no JSON") from None
    if not isinstance(reply, dict):
        raise ServerError("the reply is no JSON object")
    return reply


def _result(reply: dict[str, Any], id: int) -> Value:
    """JSON-RPC 2.0 §5; raises ServerError."""
    if reply.get("error") is not None:
        raise ServerError("the server answered with an error", _value(reply["error"]))
    # A reply to a request that could not be read has no id, but an error; see above.
    if "result" not in reply or reply.get("id") != id:
        raise ServerError("the reply has no result, or is one to something else")
    return _value(reply["result"])


def _value(value: Any) -> Value:
    if isinstance(value, int) and not isinstance(value, bool) and -INT32 - 1 <= value <= INT32:
        return value
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
