"""python: scripts call the methods of an object that the operator's own Python file makes.

The file's functions run in the server's own loop. An `async def` is awaited and holds nothing up; a plain function that
takes long holds up everything, which is measured and told.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import inspect
import logging
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from opensipspy.module import Core, Module, Param, StartError, script_function
from opensipspy.script.declare import FunctionDecl, ParamDecl
from opensipspy.script.formats import FormatString, parse_format
from opensipspy.script.kinds import BRANCH, FAILURE, ONREPLY, REQUEST
from opensipspy.script.patterns import Pattern
from opensipspy.script.run import Run
from opensipspy.script.varsyntax import parse_variable
from opensipspy.sip import ParseError, parse_uri

SLOW_S: Final = 0.05
"""A plain function that takes longer is named in the log, once."""
MAX_FORMATS: Final = 1000
"""Texts with variables in them that are kept parsed."""
MAX_FRAMES: Final = 20
"""Places of a failure that are logged, the innermost ones."""
HELPER_MODULE: Final = "OpenSIPS"
"""What the operator's file imports the log functions from."""
LOG_FUNCTIONS: Final = {
    "LM_ALERT": logging.CRITICAL,
    "LM_CRIT": logging.CRITICAL,
    "LM_ERR": logging.ERROR,
    "LM_WARN": logging.WARNING,
    "LM_NOTICE": logging.INFO,
    "LM_INFO": logging.INFO,
    "LM_DBG": logging.DEBUG,
}
RANK: Final = 1
"""The one worker's number, as the init method of a child gets it."""


class Result(int):
    """What a script function returned; `await` gives it too, so that async code need not know which functions wait."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, int]:
        return self._ready().__await__()

    async def _ready(self) -> int:
        return int(self)


class Waiting:
    """A script function that has to wait: `await` it, once."""

    __slots__ = ("_awaitable",)

    def __init__(self, awaitable: Awaitable[int]) -> None:
        self._awaitable = awaitable

    def __await__(self) -> Generator[Any, None, int]:
        return self._awaitable.__await__()


class Formats:
    """Texts of the operator's file with variables in them, parsed once."""

    __slots__ = ("_core", "_kept")

    def __init__(self, core: Core) -> None:
        self._core = core
        self._kept: dict[str, FormatString] = {}

    def get(self, text: str) -> FormatString:
        """Raises ValueError."""
        found = self._kept.get(text)
        if found is None:
            found = parse_format(text, self._core.catalogue)
            if len(self._kept) >= MAX_FORMATS:
                self._kept.clear()
            self._kept[text] = found
        return found


class SipMessage:
    """The message that a method gets. It is valid until the method ends.

    Type: "SIP_REQUEST" or "SIP_REPLY". Method. Status: of a reply, a text. RURI: of a request, as the script has left
    it. src_address, dst_address: (IP, port) of the sender and of our socket.
    """

    __slots__ = ("_async_ok", "_core", "_formats", "_run")

    def __init__(self, core: Core, run: Run, formats: Formats, async_ok: bool) -> None:
        self._core = core
        self._run: Run | None = run
        self._formats = formats
        self._async_ok = async_ok

    def _here(self) -> Run:
        if self._run is None:
            raise RuntimeError("the message is gone: the method that got it has ended")
        return self._run

    def _request(self, what: str) -> Run:
        run = self._here()
        if not run.msg.is_request:
            raise RuntimeError(f"not a request: {what}")
        return run

    def invalidate(self) -> None:
        """The method has ended; what it kept of the message must not reach into another one's."""
        self._run = None

    @property
    def Type(self) -> str:
        return "SIP_REQUEST" if self._here().msg.is_request else "SIP_REPLY"

    @property
    def Method(self) -> str:
        return self._here().msg.method

    @property
    def Status(self) -> str:
        run = self._here()
        if run.msg.is_request:
            raise RuntimeError("not a reply: it has no status")
        return str(run.msg.status)

    @property
    def RURI(self) -> str:
        return self._request("it has no R-URI").ruri

    @property
    def src_address(self) -> tuple[str, int]:
        source = self._here().msg.source
        return source.address, source.port

    @property
    def dst_address(self) -> tuple[str, int]:
        socket = self._here().msg.socket
        return socket.address, socket.port

    def getType(self) -> str:
        """The same as `Type`."""
        return self.Type

    def copy(self) -> SipMessage:
        """Another object for the same message."""
        return SipMessage(self._core, self._here(), self._formats, self._async_ok)

    def rewrite_ruri(self, uri: str) -> None:
        """Set the R-URI of a request; raises RuntimeError for what is no URI."""
        run = self._request("the R-URI cannot be set")
        self._set(run, "$ru", _uri(uri))

    def set_dst_uri(self, uri: str) -> None:
        """Set the destination of a request; raises RuntimeError for what is no URI."""
        run = self._request("the destination cannot be set")
        self._set(run, "$du", _uri(uri))

    def _set(self, run: Run, variable: str, value: str) -> None:
        writer = parse_variable(variable, 0, self._core.catalogue).writer()
        writer(run, value)

    def getHeader(self, name: str) -> str | None:
        """The value of the first header of that name, None when there is none."""
        found = self._here().msg.named(name)
        return found[0].value if found else None

    def get_pseudoVar(self, name: str) -> str:
        """A variable, or a text with variables in it, as text; NULL is "<null>"."""
        run = self._here()
        return str(self._formats.get(name)(run))

    def set_pseudoVar(self, name: str, value: str) -> None:
        """Give a variable of the script a value; raises RuntimeError when it cannot have one."""
        run = self._here()
        spec = parse_variable(name, 0, self._core.catalogue)
        if spec.end != len(name):
            raise RuntimeError(f"{name!r} is no variable")
        if not spec.writable:
            raise RuntimeError(f"{name} cannot be written")
        spec.writer()(run, value)

    def call_function(self, name: str, *args: str | int | None) -> Result | Waiting:
        """Call a function of the core or of a module, its parameters as the script would write them; None leaves one
        out. Returns what the function does. In an `async def` write `await msg.call_function(...)`; elsewhere functions
        that have to wait cannot be called. Raises RuntimeError.
        """
        run = self._here()
        decl = self._core.catalogue.functions.get(name)
        if decl is None:
            raise RuntimeError(f"there is no function {name}()")
        if not run.kind & decl.routes:
            raise RuntimeError(f"{name}() cannot be called in this kind of route")
        if decl.async_only or (decl.waits == "always" and not self._async_ok):
            raise RuntimeError(f"{name}() waits: make the method async def and await the call")
        result = decl.call(run, *self._arguments(run, decl, args))
        if not inspect.isawaitable(result):
            return Result(result)
        if self._async_ok:
            return Waiting(result)
        if inspect.iscoroutine(result):
            result.close()
        raise RuntimeError(f"{name}() has to wait here: make the method async def and await the call")

    def _arguments(self, run: Run, decl: FunctionDecl, args: tuple[str | int | None, ...]) -> list[object]:
        if len(args) > len(decl.params):
            raise RuntimeError(f"{decl.name}() takes at most {len(decl.params)} parameters")
        given: list[object] = []
        for at, param in enumerate(decl.params):
            value = args[at] if at < len(args) else None
            if value is None:
                if not param.optional:
                    raise RuntimeError(f"{decl.name}() needs the parameter {param.name}")
                given.append(None)
                continue
            try:
                given.append(self._argument(run, param, value))
            except ValueError as error:
                raise RuntimeError(f"{decl.name}(): {param.name}: {error}") from error
        while given and len(given) > len(args) and given[-1] is None:
            given.pop()
        return given

    def _argument(self, run: Run, param: ParamDecl, value: str | int) -> object:
        """One parameter as the function takes it; raises ValueError."""
        if param.type == "var":
            spec = parse_variable(str(value), 0, self._core.catalogue)
            return param.fixup(spec.reference()) if param.fixup is not None else spec.reference()
        text = str(value)
        if isinstance(value, str) and not param.verbatim:
            text = str(self._formats.get(value)(run))
        read: object = text
        if param.type == "int":
            read = int(text)
        elif param.type == "regex" and param.fixup is None:
            read = Pattern(text, lines=True)
        return param.fixup(read) if param.fixup is not None else read


class Python(Module):
    """Run methods of the operator's own Python file from the script.

    The file has a function (`mod_init`) that returns an object; the script calls that object's methods, each with the
    message and perhaps a text. Methods may be `async def`. `from OpenSIPS import LM_ERR` gives the file the log.
    """

    name = "python"

    script_name = Param(str, "/usr/local/etc/opensips/handler.py", "The operator's file.")
    mod_init_function = Param(str, "mod_init", "Its function that makes the object.")
    child_init_method = Param(str, "child_init", "The object's method that is called once at the start.")

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self._handler: Any = None
        self._formats: Formats | None = None
        self._told_slow: set[str] = set()
        self._loaded: list[str] = []
        self._folder = ""

    # --- life

    async def start(self) -> None:
        self._formats = Formats(self.core)
        module = self._load(Path(self.script_name))
        make = getattr(module, self.mod_init_function, None)
        if not callable(make):
            raise StartError(f"python: {self.script_name} has no function {self.mod_init_function}()")
        self._handler = await self._initial(make, self.mod_init_function)
        if self._handler is None:
            raise StartError(f"python: {self.mod_init_function}() of {self.script_name} returned no object")
        child_init = getattr(self._handler, self.child_init_method, None)
        if not callable(child_init):
            raise StartError(f"python: the object of {self.script_name} has no method {self.child_init_method}()")
        ready = await self._initial(child_init, self.child_init_method, RANK)
        if not isinstance(ready, int) or ready < 0:
            raise StartError(f"python: {self.child_init_method}() of {self.script_name} returned {ready!r}")

    async def stop(self) -> None:
        self._handler = None
        for name in self._loaded:
            sys.modules.pop(name, None)
        self._loaded.clear()
        if self._folder in sys.path:
            sys.path.remove(self._folder)

    def _load(self, path: Path) -> ModuleType:
        """Run the file; raises StartError with the file and the line where it fails."""
        try:
            source = path.read_bytes()
            code = compile(source, str(path), "exec")
        except OSError as error:
            raise StartError(f"python: script_name {path} cannot be read: {error.strerror}") from error
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None) or 1
            raise StartError(f"{path}:{line}: {getattr(error, 'msg', error)}") from error
        loader = importlib.machinery.SourceFileLoader(path.stem, str(path))
        spec = importlib.util.spec_from_file_location(path.stem, path, loader=loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        self._offer(HELPER_MODULE, self._log_module())
        # Data classes and pickles look their own module up by its name.
        self._offer(path.stem, module)
        self._folder = str(path.parent.resolve())
        sys.path.insert(0, self._folder)
        try:
            exec(code, module.__dict__)
        except (Exception, SystemExit) as error:
            raise StartError(self._failure(error, str(path))) from error
        return module

    def _offer(self, name: str, module: ModuleType) -> None:
        if name not in sys.modules:
            sys.modules[name] = module
            self._loaded.append(name)

    def _log_module(self) -> ModuleType:
        module = ModuleType(HELPER_MODULE, "The log of the server.")
        for name, level in LOG_FUNCTIONS.items():
            setattr(module, name, self._log_function(level))
        return module

    def _log_function(self, level: int) -> Callable[[str], None]:
        def log(text: str) -> None:
            self.core.log.log(level, "%s", str(text).rstrip("\n"))

        return log

    async def _initial(self, function: Callable[..., Any], name: str, *args: object) -> Any:
        try:
            result = function(*args)
            return await result if inspect.isawaitable(result) else result
        except (Exception, SystemExit) as error:
            raise StartError(self._failure(error, f"{name}() of {self.script_name}")) from error

    @staticmethod
    def _failure(error: BaseException, where: str) -> str:
        """One line for the operator: his own file and line, not ours."""
        frames = _own_frames(error)
        at = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else where
        return f"{at}: {type(error).__name__}: {error}"

    # --- for scripts

    @script_function(routes=REQUEST | ONREPLY | FAILURE | BRANCH)
    def python_exec(self, run: Run, method_name: str, extra_args: str | None = None) -> int | Awaitable[int]:
        """Call a method of the operator's object with the message, and with `extra_args` where that is given.

        Returns the integer that the method does (0 ends the script); -1 when there is no such method, when it raises or
        when it returns something else.
        """
        method = getattr(self._handler, method_name or "", None)
        if not callable(method):
            self.core.log.error("python_exec(): there is no method %.100s", method_name)
            return -1
        assert self._formats is not None
        msg = SipMessage(self.core, run, self._formats, inspect.iscoroutinefunction(method))
        args = (msg,) if extra_args is None else (msg, extra_args)
        started = time.perf_counter()
        try:
            result = method(*args)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the operator's code may raise anything
            msg.invalidate()
            return self._raised(method_name, error)
        took_s = time.perf_counter() - started
        if took_s > SLOW_S and method_name not in self._told_slow:
            self._told_slow.add(method_name)
            self.core.log.warning(
                "python_exec(): %s held the server up for %d ms: make it async def and await what it waits for",
                method_name,
                int(took_s * 1000),
            )
        if inspect.isawaitable(result):
            return self._later(method_name, msg, result)
        msg.invalidate()
        return self._result(method_name, result)

    async def _later(self, name: str, msg: SipMessage, result: Awaitable[Any]) -> int:
        try:
            return self._result(name, await self.core.wait(result))
        except (Exception, SystemExit) as error:  # noqa: BLE001
            return self._raised(name, error)
        finally:
            msg.invalidate()

    def _result(self, name: str, result: object) -> int:
        if isinstance(result, int) and -(2**31) <= result < 2**31:
            return int(result)
        self.core.log.error("python_exec(): %s returned %.100r, which is no integer of 32 bits", name, result)
        return -1

    def _raised(self, name: str, error: BaseException) -> int:
        self.core.log.error("python_exec(): %s failed: %s: %.500s", name, type(error).__name__, error)
        # A record for each place, the innermost last: a log has lines, and a record is one of them.
        for frame in _own_frames(error)[-MAX_FRAMES:]:
            self.core.log.error("  %s:%s, in %s: %s", frame.filename, frame.lineno, frame.name, frame.line)
        return -1


def _own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Where the operator's code was when it failed, without our own frames around it."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = {index for index, frame in enumerate(frames) if frame.filename == __file__}
    first = next((index for index in range(len(frames)) if index not in ours and not _asyncio(frames[index])), None)
    return [] if first is None else [f for i, f in enumerate(frames) if i >= first and i not in ours]


def _asyncio(frame: traceback.FrameSummary) -> bool:
    """Whether a frame belongs to what awaited the operator's coroutine."""
    return "/asyncio/" in frame.filename or "/opensipspy/" in frame.filename or frame.filename.startswith("<frozen")


def _uri(text: str) -> str:
    try:
        parse_uri(text)
    except ParseError as error:
        raise RuntimeError(f"{text!r} is no URI: {error.reason}") from None
    return text


__all__ = ["Python", "SipMessage"]
