"""The Debug Adapter Protocol on the debugger: what editors speak to stop a call at a line of the script.

JSON messages with a Content-Length header over a loopback TCP port or a Unix socket, one client at a time. A thread is
a call that is held; thread 1 stands for all the others. When the client leaves, by `disconnect` or by dying, everything
held goes on.

There is no password: who can connect reads the messages of calls and can change what the script does with them. So only
loopback addresses are taken; a Unix socket (mode 0600) also keeps other users of the machine out.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import os
from collections.abc import Callable
from typing import Any, Final

from opensipspy.script import kinds
from opensipspy.script.run import Run, Value
from opensipspy.server.console import Expression, ExpressionError, shown, variable
from opensipspy.server.core import ServerCore
from opensipspy.server.debugger import (
    CONTINUE,
    NEXT,
    SERVER_THREAD,
    STEP_IN,
    STEP_OUT,
    Client,
    Debugger,
    Frame,
    Held,
)
from opensipspy.server.errors import StartError

LOG: Final = logging.getLogger("opensipspy.core")

LONGEST_HEADER: Final = 4096
LONGEST_MESSAGE: Final = 1 << 20
# What a client that does not read may leave unread before it is taken for dead.
MOST_UNREAD: Final = 4 << 20
FRAMES_EACH: Final = 1000
LONGEST_VALUE: Final = 10_000
# Longest time that an expression typed by the client may wait for a back-end.
EVALUATION_S: Final = 10.0

CAPABILITIES: Final = {
    "supportsConfigurationDoneRequest": True,
    "supportsConditionalBreakpoints": True,
    "supportsHitConditionalBreakpoints": True,
    "supportsLogPoints": True,
    "supportsEvaluateForHovers": True,
    "supportsSetVariable": True,
    "supportsBreakpointLocationsRequest": True,
    "supportsExceptionInfoRequest": True,
    "supportsSingleThreadExecutionRequests": True,
    "exceptionBreakpointFilters": [
        {
            "filter": "errors",
            "label": "Errors of the script",
            "description": "Hold a call whose script is about to be given up because of an error.",
            "default": False,
        }
    ],
}
OF_REQUESTS: Final = ("rm", "ru", "rU", "rd", "rp", "du")
OF_REPLIES: Final = ("rs", "rr")
OF_ALL: Final = ("fu", "fU", "fd", "tu", "tU", "td", "ci", "cs", "ua", "si", "sp", "pr", "Ri", "Rp", "mf", "ct", "rb")

Variables = Callable[[], list[dict[str, Any]]]


class Refused(Exception):
    """A request that cannot be carried out; its text is shown to the client's user."""


def parse_address(text: str) -> tuple[str, int] | str:
    """ "127.0.0.1:4711" as (address, port), "unix:/path" as the path. Raises ValueError."""
    if text.startswith("unix:"):
        if len(text) == len("unix:"):
            raise ValueError("unix: is followed by the path of a socket")
        # The working directory may change later.
        return os.path.abspath(text.removeprefix("unix:"))
    host, _, port = text.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"the debug adapter listens on ADDRESS:PORT or unix:PATH, not on {text!r}")
    if host != "localhost":
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError as error:
            raise ValueError(f"{host!r} is no address") from error
        if not loopback:
            raise ValueError(
                f"the debug adapter has no password and listens on loopback addresses only, not on {host}: "
                "come through a tunnel, such as ssh -L 4711:127.0.0.1:4711"
            )
    return ("127.0.0.1" if host == "localhost" else host), int(port)


class DebugAdapter:
    """Listens for the client of a debugger. `address` is where, once it is open; port 0 takes any free one."""

    def __init__(self, debugger: Debugger, core: ServerCore, address: str) -> None:
        self.debugger = debugger
        self.address = address
        self.configured = asyncio.Event()
        self._core = core
        self._server: asyncio.Server | None = None
        self._session: Session | None = None
        debugger.attach(core)

    async def open(self) -> None:
        """Raises StartError."""
        try:
            place = parse_address(self.address)
            if isinstance(place, str):
                self._server = await self._open_unix(place)
                self.address = f"unix:{place}"
            else:
                self._server = await asyncio.start_server(self._connected, *place, limit=LONGEST_HEADER)
                host, port = self._server.sockets[0].getsockname()[:2]
                self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        except ValueError as error:
            raise StartError(str(error)) from error
        except OSError as error:
            raise StartError(f"the debug adapter cannot listen on {self.address}: {error.strerror or error}") from error
        LOG.warning(
            "the debug adapter listens on %s: whoever connects reads the messages of calls and can change what the "
            "script does",
            self.address,
        )

    async def _open_unix(self, path: str) -> asyncio.Server:
        before = os.umask(0o177)
        try:
            return await asyncio.start_unix_server(self._connected, path, limit=LONGEST_HEADER)
        finally:
            os.umask(before)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = Session(self, self._core, writer)
        if self._session is not None:
            session.event("output", {"category": "important", "output": "another debugger is connected already\n"})
            session.event("terminated", {})
            writer.close()
            return
        self._session = session
        LOG.warning("debug adapter: a client has connected")
        try:
            await session.serve(reader)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            # The client is gone, which is one of the ways to end.
            pass
        except ValueError as error:
            LOG.warning("debug adapter: the client sent what is no message of the protocol: %s", error)
        finally:
            self._session = None
            self.debugger.disconnect()
            writer.close()
            LOG.warning("debug adapter: the client has left, nothing is held")

    async def close(self) -> None:
        """Let everything go on and listen no more."""
        self.debugger.disconnect()
        if self._session is not None:
            self._session.event("terminated", {})
            self._session.close()
        if self._server is not None:
            self._server.close()
        if self.address.startswith("unix:"):
            with contextlib.suppress(OSError):
                os.unlink(self.address.removeprefix("unix:"))


class Session(Client):
    """One client."""

    def __init__(self, adapter: DebugAdapter, core: ServerCore, writer: asyncio.StreamWriter) -> None:
        self._adapter = adapter
        self._debugger = adapter.debugger
        self._core = core
        self._writer = writer
        self._sequence = 0
        self._base = 1
        self._variables: dict[int, tuple[int, Variables, Run]] = {}
        self._references = 0
        self._ended = False

    # -- the wire

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Answer requests until the client leaves. Raises ValueError for what is no message."""
        while not self._ended:
            head = await reader.readuntil(b"\r\n\r\n")
            length = content_length(head)
            try:
                message = json.loads(await reader.readexactly(length))
            except RecursionError as error:
                raise ValueError("the message is nested too deep") from error
            if not isinstance(message, dict):
                raise ValueError("a message is a JSON object")
            if message.get("type") == "request":
                await self._request(message)
            await self._writer.drain()

    def send(self, message: dict[str, Any]) -> None:
        self._sequence += 1
        data = json.dumps({"seq": self._sequence, **message}, ensure_ascii=True).encode()
        if self._writer.is_closing():
            return
        if self._writer.transport.get_write_buffer_size() > MOST_UNREAD:
            LOG.warning("debug adapter: the client does not read what it is sent, and is cut off")
            self._writer.transport.abort()
            return
        self._writer.write(b"Content-Length: %d\r\n\r\n" % len(data) + data)

    def event(self, name: str, body: dict[str, Any]) -> None:
        self.send({"type": "event", "event": name, "body": body})

    def close(self) -> None:
        self._ended = True
        self._writer.close()

    async def _request(self, message: dict[str, Any]) -> None:
        command = str(message.get("command"))
        given = message.get("arguments")
        handler = getattr(self, f"_do_{command}", None) if command.isalpha() else None
        answer: dict[str, Any] = {"type": "response", "request_seq": message.get("seq", 0), "command": command}
        try:
            if handler is None:
                raise Refused(f"{command} is not supported")
            body = handler(given if isinstance(given, dict) else {})
            if asyncio.iscoroutine(body):
                body = await body
            self.send({**answer, "success": True, "body": body or {}})
        except (Refused, ExpressionError) as error:
            self.send({**answer, "success": False, "message": str(error)})
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
            self.send({**answer, "success": False, "message": f"{command}: the arguments are not understood: {error}"})
        # What has to come after the answer.
        if command == "initialize":
            self.event("initialized", {})
        elif command == "disconnect":
            self.close()

    # -- what the debugger tells

    def stopped(self, held: Held, breakpoint_number: int) -> None:
        self.event("thread", {"reason": "started", "threadId": held.number})
        body: dict[str, Any] = {
            "reason": held.reason,
            "threadId": held.number,
            "allThreadsStopped": False,
            "preserveFocusHint": False,
        }
        if held.text:
            body["text"] = held.text
        if breakpoint_number:
            body["hitBreakpointIds"] = [breakpoint_number]
        self.event("stopped", body)

    def exited(self, number: int) -> None:
        self._forget(number)
        self.event("thread", {"reason": "exited", "threadId": number})

    def output(self, text: str, file: str, line: int) -> None:
        self.event(
            "output",
            {"category": "console", "output": text + "\n", "source": source(file), "line": line - 1 + self._base},
        )

    # -- life

    def _do_initialize(self, given: dict[str, Any]) -> dict[str, Any]:
        self._base = 1 if given.get("linesStartAt1", True) else 0
        return dict(CAPABILITIES)

    def _do_attach(self, given: dict[str, Any]) -> None:
        self._debugger.connect(self)

    # The server runs already: to launch is to attach.
    _do_launch = _do_attach

    def _do_configurationDone(self, given: dict[str, Any]) -> None:
        self._debugger.connect(self)
        self._adapter.configured.set()

    def _do_disconnect(self, given: dict[str, Any]) -> None:
        self._debugger.disconnect()

    _do_terminate = _do_disconnect

    # -- breakpoints

    def _do_setBreakpoints(self, given: dict[str, Any]) -> dict[str, Any]:
        path = given["source"].get("path")
        if not path:
            raise Refused("breakpoints are set in a file with a path")
        wanted = [
            {**each, "line": int(each["line"]) + 1 - self._base}
            for each in given.get("breakpoints") or [{"line": line} for line in given.get("lines", ())]
        ]
        return {"breakpoints": [self._breakpoint(made) for made in self._debugger.set_breakpoints(str(path), wanted)]}

    def _breakpoint(self, made: Any) -> dict[str, Any]:
        shown_: dict[str, Any] = {"id": made.number, "verified": not made.problem, "source": source(made.file)}
        if made.line:
            shown_["line"] = made.line - 1 + self._base
        if made.problem:
            shown_["message"] = made.problem
        return shown_

    def _do_breakpointLocations(self, given: dict[str, Any]) -> dict[str, Any]:
        first = int(given["line"]) + 1 - self._base
        last = int(given.get("endLine", given["line"])) + 1 - self._base
        lines = self._debugger.statement_lines(str(given["source"]["path"]))
        return {"breakpoints": [{"line": line - 1 + self._base} for line in lines if first <= line <= last]}

    def _do_setExceptionBreakpoints(self, given: dict[str, Any]) -> None:
        self._debugger.on_errors = "errors" in given.get("filters", ())

    # -- going on

    def _held(self, number: Any) -> Held:
        held = self._debugger.held.get(int(number))
        if held is None:
            raise Refused("this call is not held any more" if int(number) != SERVER_THREAD else "the server runs")
        return held

    def _go(self, given: dict[str, Any], mode: str) -> None:
        held = self._held(given["threadId"])
        self._forget(held.number)
        self._debugger.resume(held.number, mode)

    def _do_continue(self, given: dict[str, Any]) -> dict[str, Any]:
        # A client that runs on with everything says thread 1.
        if int(given["threadId"]) == SERVER_THREAD:
            for number in list(self._debugger.held):
                self._forget(number)
                self._debugger.resume(number)
        else:
            self._go(given, CONTINUE)
        return {"allThreadsContinued": False}

    def _do_next(self, given: dict[str, Any]) -> None:
        self._go(given, NEXT)

    def _do_stepIn(self, given: dict[str, Any]) -> None:
        self._go(given, STEP_IN)

    def _do_stepOut(self, given: dict[str, Any]) -> None:
        self._go(given, STEP_OUT)

    def _do_pause(self, given: dict[str, Any]) -> None:
        self._debugger.pause()

    # -- looking

    def _do_threads(self, given: dict[str, Any]) -> dict[str, Any]:
        threads = [{"id": SERVER_THREAD, "name": "server (all calls that are not held)"}]
        threads += [{"id": held.number, "name": held.name} for held in self._debugger.held.values()]
        return {"threads": threads}

    def _do_stackTrace(self, given: dict[str, Any]) -> dict[str, Any]:
        if int(given["threadId"]) == SERVER_THREAD:
            return {"stackFrames": [], "totalFrames": 0}
        held = self._held(given["threadId"])
        start = int(given.get("startFrame") or 0)
        count = int(given.get("levels") or 0) or len(held.frames)
        frames = [
            {
                "id": held.number * FRAMES_EACH + index,
                "name": frame.name,
                "source": source(frame.file),
                "line": frame.line - 1 + self._base,
                "column": self._base,
            }
            for index, frame in enumerate(held.frames)
        ]
        return {"stackFrames": frames[start : start + count], "totalFrames": len(frames)}

    def _frame(self, number: Any) -> tuple[Held, Frame, Run]:
        held = self._held(int(number) // FRAMES_EACH)
        index = int(number) % FRAMES_EACH
        if index >= len(held.frames):
            raise Refused("there is no such route")
        frame = held.frames[index]
        return held, frame, frame.run or held.run

    def _do_scopes(self, given: dict[str, Any]) -> dict[str, Any]:
        held, _, run = self._frame(given["frameId"])
        scopes: list[tuple[str, Variables]] = [
            ("Message", lambda: self._of_message(run)),
            ("Script variables", lambda: self._of_script(held, run)),
            ("Headers", lambda: self._headers(run)),
            ("Route and flags", lambda: self._of_route(run)),
        ]
        return {
            "scopes": [
                {
                    "name": name,
                    "variablesReference": self._refer(held.number, variables, run),
                    "expensive": name == "Headers",
                }
                for name, variables in scopes
            ]
        }

    def _refer(self, thread: int, variables: Variables, run: Run) -> int:
        self._references += 1
        self._variables[self._references] = (thread, variables, run)
        return self._references

    def _forget(self, thread: int) -> None:
        """What was shown of a run is not true any more."""
        self._variables = {number: each for number, each in self._variables.items() if each[0] != thread}

    def _do_variables(self, given: dict[str, Any]) -> dict[str, Any]:
        found = self._variables.get(int(given["variablesReference"]))
        if found is None:
            raise Refused("this call is not held any more")
        return {"variables": found[1]()}

    def _of_message(self, run: Run) -> list[dict[str, Any]]:
        first = OF_REQUESTS if run.msg.is_request else OF_REPLIES
        return [self._read(f"${name}", run) for name in (*first, *OF_ALL) if self._core.catalogue.variable(f"${name}")]

    def _read(self, text: str, run: Run) -> dict[str, Any]:
        try:
            value: Any = variable(text, self._core.catalogue).reader()(run)
        except Exception as error:  # noqa: BLE001 - a message may be broken where this variable looks
            return entry(text, None, str(error))
        return entry(text, value)

    def _of_script(self, held: Held, run: Run) -> list[dict[str, Any]]:
        found = [entry(f"$var({name})", value) for name, value in sorted(run.vars.items())]
        for name, stack in sorted(run.avps.items()):
            top = entry(f"$avp({name})", stack[-1] if stack else None)
            if len(stack) > 1:
                values = list(reversed(stack))
                top["variablesReference"] = self._refer(held.number, several(name, values), run)
                top["indexedVariables"] = len(values)
            found.append(top)
        return found

    def _headers(self, run: Run) -> list[dict[str, Any]]:
        return [entry(header.name, header.value, evaluate="") for header in run.msg.headers]

    def _of_route(self, run: Run) -> list[dict[str, Any]]:
        found = []
        params = run.params[-1] if run.params else ()
        if isinstance(params, dict):
            found += [entry(f"$param({name})", value) for name, value in params.items()]
        else:
            found += [entry(f"$param({index})", value) for index, value in enumerate(params, 1)]
        flags = self._core.flags
        found.append(entry("route kind", kinds.kind_keyword(run.kind), evaluate=""))
        found.append(entry("message flags", " ".join(flags.names("message", run.msg_flags)), evaluate=""))
        found.append(entry("branch flags", " ".join(flags.names("branch", run.branch_flags)), evaluate=""))
        found += [entry(f"branch {index}", branch.uri, evaluate="") for index, branch in enumerate(run.branches, 1)]
        found.append(entry("answered or relayed", int(run.handled), evaluate=""))
        return found

    async def _do_evaluate(self, given: dict[str, Any]) -> dict[str, Any]:
        if not given.get("frameId"):
            raise Refused("an expression is read for a call that is held")
        _, _, run = self._frame(given["frameId"])
        hover = given.get("context") in ("hover", "variables", "watch")
        text = str(given["expression"])
        expression = Expression(text, self._core.catalogue, harmless=given.get("context") == "hover")
        try:
            value = await asyncio.wait_for(expression.result(run), EVALUATION_S)
        except TimeoutError:
            raise Refused(f"no result within {EVALUATION_S:.0f} s") from None
        except Exception as error:
            raise Refused(str(error) or type(error).__name__) from error
        if not hover:
            self.event("invalidated", {"areas": ["variables"]})
        return {"result": shown(value)[:LONGEST_VALUE], "variablesReference": 0, "type": type_of(value)}

    def _do_setVariable(self, given: dict[str, Any]) -> dict[str, Any]:
        found = self._variables.get(int(given["variablesReference"]))
        if found is None:
            raise Refused("this call is not held any more")
        run = found[2]
        spec = variable(str(given["name"]), self._core.catalogue)
        if not spec.writable:
            raise Refused(f"{given['name']} cannot be assigned to")
        spec.writer()(run, constant(str(given["value"])))
        value = spec.reader()(run)
        return {"value": shown(value), "type": type_of(value), "variablesReference": 0}

    def _do_exceptionInfo(self, given: dict[str, Any]) -> dict[str, Any]:
        held = self._held(given["threadId"])
        return {"exceptionId": held.text.partition(":")[0], "description": held.text, "breakMode": "always"}


def content_length(head: bytes) -> int:
    """The length that a message's header gives. Raises ValueError.

    Other fields than the protocol's are refused: a web page that lets a browser POST to this port must not get through.
    """
    length = 0
    for line in head.rstrip(b"\r\n").split(b"\r\n"):
        name, _, value = line.partition(b":")
        field = name.strip().lower()
        if field == b"content-length":
            text = value.strip()
            if not text.isdigit() or len(text) > len(str(LONGEST_MESSAGE)) or not 0 < int(text) <= LONGEST_MESSAGE:
                raise ValueError(f"Content-Length is 1 to {LONGEST_MESSAGE}")
            length = int(text)
        elif field != b"content-type":
            raise ValueError("a message begins with Content-Length, and has no other fields")
    if not length:
        raise ValueError("a message begins with Content-Length")
    return length


def source(file: str) -> dict[str, Any]:
    """A script as the protocol names it."""
    return {"name": os.path.basename(file), "path": os.path.realpath(file)}


def type_of(value: object) -> str:
    if value is None:
        return "NULL"
    return "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "string"


def entry(name: str, value: Value, problem: str = "", *, evaluate: str | None = None) -> dict[str, Any]:
    """One variable. problem: why it cannot be read. evaluate: the expression that reads it, when not its name."""
    made: dict[str, Any] = {
        "name": name,
        "value": problem or shown(value)[:LONGEST_VALUE],
        "type": type_of(value),
        "variablesReference": 0,
    }
    if evaluate != "":
        made["evaluateName"] = evaluate or name
    return made


def several(name: str, values: list[Value]) -> Variables:
    """The values of an AVP, the last added first."""
    return lambda: [entry(f"$(avp({name})[{index}])", value) for index, value in enumerate(values)]


def constant(text: str) -> Value:
    """A value as it is typed: a number, NULL, or a text with or without quotes."""
    text = text.strip()
    if text.upper() in ("NULL", "<NULL>"):
        return None
    if text.lstrip("-").isdigit() and text.isascii():
        return int(text)
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1].replace("\\r", "\r").replace("\\n", "\n")
    return text
