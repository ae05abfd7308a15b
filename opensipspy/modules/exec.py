"""exec: shell commands started by scripts, without holding up the server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process, SubprocessStreamProtocol
from collections.abc import Awaitable
from typing import Annotated, Any, Final

from opensipspy.module import Module, Param, WritableVar, script_function
from opensipspy.script.kinds import EVENT, FAILURE, LOCAL, ONREPLY, REQUEST, STARTUP, TIMER
from opensipspy.script.run import Run, VarRef
from opensipspy.sip import ParseError, parse_uri

MAX_OUTPUT: Final = 1024 * 1024
"""Bytes of one stream; a program that writes more is ended."""
MAX_RUNNING: Final = 200
"""Programs at the same time."""
MAX_ENVIRONMENT: Final = 100_000
"""Bytes of one value in the environment (the system refuses 128 KiB)."""
KILL_AFTER_S: Final = 2.0
"""How long a program may go on after SIGTERM."""
CHUNK: Final = 65536


class TooMuch(Exception):
    """A program wrote more than MAX_OUTPUT."""


class Exec(Module):
    """Run commands with /bin/sh, hand them text and take what they print.

    A script that asks for output waits, other messages do not. Each program has a process group of its own, so that
    ending it ends what it started.
    """

    name = "exec"

    setvars = Param(int, 0, "Give the programs SIP_HF_*, SIP_RURI, SIP_USER and others as environment variables.")
    time_to_kill = Param(int, 0, "Longest time that a program may run; 0 for no limit.", unit="s")

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self._programs: set[Process] = set()
        self._starting = 0
        self._stopped = False

    @script_function(routes=REQUEST | FAILURE | ONREPLY | LOCAL | STARTUP | TIMER | EVENT, waits="maybe", async_ok=True)
    def exec(
        self,
        run: Run,
        command: str,
        stdin: str | None = None,
        stdout: Annotated[VarRef | None, WritableVar()] = None,
        stderr: Annotated[VarRef | None, WritableVar()] = None,
        envavp: Annotated[VarRef | None, WritableVar("avp")] = None,
    ) -> int | Awaitable[int]:
        """Run a command. Each line that it prints is assigned to the variable in turn: an AVP holds all of them.

        Without `stdout` and `stderr` the script goes on at once. Returns 1 when the command was run, -1 when it could
        not be, took longer than `time_to_kill` or printed too much.
        """
        if not command or "\0" in command:
            return -1
        if len(self._programs) + self._starting >= MAX_RUNNING:
            self.core.log.error("exec(): %d programs run already", MAX_RUNNING)
            return -1
        self._starting += 1
        environment = dict(os.environ)
        if self.setvars:
            environment.update(sip_variables(run))
        if envavp is not None:
            values = run.avps.get(envavp.name, [])
            environment.update({f"OSIPS_EXEC_{i}": safe(str(v)) for i, v in enumerate(reversed(values))})
        work = self._execute(command, stdin, stdout is not None, stderr is not None, environment)
        if stdout is None and stderr is None:
            self.core.spawn(work, "exec")
            return 1
        return self._wait(run, work, stdout, stderr)

    async def _wait(self, run: Run, work: Any, stdout: VarRef | None, stderr: VarRef | None) -> int:
        result = await self.core.wait(work)
        if result is None:
            return -1
        for var, output in zip((stdout, stderr), result, strict=True):
            if var is not None:
                for line in output.decode("utf-8", "surrogateescape").splitlines():
                    var.set(run, line)
        return 1

    async def _execute(
        self, command: str, stdin: str | None, out: bool, err: bool, environment: dict[str, str]
    ) -> tuple[bytes, bytes] | None:
        """Run it to its end; what it printed on both streams, None when that failed. Never raises for the program."""
        try:
            loop = asyncio.get_running_loop()
            # Not create_subprocess_shell(): the pipes of an ended program are closed through its transport only.
            transport, protocol = await loop.subprocess_shell(
                lambda: SubprocessStreamProtocol(CHUNK, loop),
                command,
                stdin=DEVNULL if stdin is None else PIPE,
                stdout=PIPE if out else DEVNULL,
                stderr=PIPE if err else DEVNULL,
                env=environment,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            self.core.log.error("exec(): the command could not be started: %s", error)
            return None
        finally:
            self._starting -= 1
        program = Process(transport, protocol, loop)
        self._programs.add(program)
        try:
            if self._stopped:
                return None
            async with asyncio.timeout(self.time_to_kill or None):
                _, output, errors, _ = await asyncio.gather(
                    _feed(program, stdin), _read(program.stdout), _read(program.stderr), program.wait()
                )
        except TimeoutError:
            _signal(program, signal.SIGTERM)
            self.core.log.warning("exec(): process %d ran longer than %d s", program.pid, self.time_to_kill)
            return None
        except TooMuch:
            _signal(program, signal.SIGTERM)
            self.core.log.warning("exec(): process %d printed more than %d bytes", program.pid, MAX_OUTPUT)
            return None
        finally:
            await _end(program)
            transport.close()
            self._programs.discard(program)
        return output, errors

    async def stop(self) -> None:
        """End the programs that still run; one that is just being started ends itself."""
        self._stopped = True
        await asyncio.gather(*(_end(program) for program in list(self._programs)))


async def _feed(program: Process, text: str | None) -> None:
    if program.stdin is None or text is None:
        return
    # A program need not read what it is given.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        program.stdin.write(text.encode("utf-8", "surrogateescape"))
        await program.stdin.drain()
    program.stdin.close()


async def _read(stream: asyncio.StreamReader | None) -> bytes:
    parts: list[bytes] = []
    size = 0
    while stream is not None and (part := await stream.read(CHUNK)):
        size += len(part)
        if size > MAX_OUTPUT:
            raise TooMuch
        parts.append(part)
    return b"".join(parts)


async def _end(program: Process) -> None:
    """SIGTERM to the whole group and SIGKILL to what is left; the program is waited for, so none is left a zombie."""
    if program.returncode is not None:
        return
    _signal(program, signal.SIGTERM)
    try:
        async with asyncio.timeout(KILL_AFTER_S):
            await program.wait()
    except TimeoutError:
        _signal(program, signal.SIGKILL)
        await program.wait()


def _signal(program: Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(program.pid, number)


def safe(text: str) -> str:
    """The text as a value of the environment: no NUL, not longer than the system takes, no shell function."""
    text = text.replace("\0", "")[:MAX_ENVIRONMENT]
    return " " + text if text.startswith("()") else text


def sip_variables(run: Run) -> dict[str, str]:
    """What `setvars` tells about the message."""
    msg = run.msg
    found: dict[str, str] = {}
    for header in msg.headers:
        name = "SIP_HF_" + "".join(c if c.isascii() and c.isalnum() else "_" for c in header_title(header)).upper()
        found[name] = f"{found[name]},{header.value}" if name in found else header.value
    found["SIP_SRCIP"] = msg.source.address
    found["SIP_DID"] = msg.to_tag
    if msg.is_request:
        found["SIP_ORURI"], found["SIP_RURI"] = msg.ruri, run.ruri
        found["SIP_OUSER"], found["SIP_USER"] = user_of(msg.ruri), user_of(run.ruri)
        found["SIP_TID"] = msg.via.branch
    return {name: safe(value) for name, value in found.items()}


def header_title(header: Any) -> str:
    """The header's long name."""
    compact = {"v": "Via", "f": "From", "t": "To", "i": "Call-ID", "m": "Contact", "c": "Content-Type"}
    compact |= {"l": "Content-Length", "k": "Supported", "o": "Event", "u": "Allow-Events", "s": "Subject"}
    compact |= {"e": "Content-Encoding", "r": "Refer-To", "b": "Referred-By", "x": "Session-Expires"}
    title = compact.get(header.name.lower(), header.name)
    return "CallID" if title.lower() == "call-id" else title


def user_of(uri: str) -> str:
    """The user part, "" when there is none or the text is no URI."""
    try:
        return parse_uri(uri).user or ""
    except ParseError:
        return ""
