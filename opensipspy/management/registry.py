"""The registry of management commands: what exists, under which names, and how parameters reach it."""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

LOG: Final = logging.getLogger(__name__)

# JSON-RPC 2.0 §5.1.
PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
# In the range that JSON-RPC leaves to servers.
SERVER_ERROR: Final = -32000
AMBIGUOUS_METHOD: Final = -32001

Json = Any
"""A JSON value: dict, list, str, int, float, bool or None."""


class MiError(Exception):
    """A command's refusal: `code` (a SIP-like status or a JSON-RPC code), `message`, optional `data` with details."""

    def __init__(self, code: int, message: str, data: Json = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data

    def __str__(self) -> str:
        return f"{self.code} {self.message}" + (f" ({self.data})" if self.data is not None else "")


class CommandDecl:
    """One command. `params` lists the accepted sets of parameter names; `types` gives "string", "int" or "array".

    `call(**params)` returns a JSON value or an awaitable of one.
    """

    __slots__ = ("aliases", "call", "doc", "name", "named_params_only", "params", "types")

    def __init__(
        self,
        name: str,
        call: Callable[..., Json | Awaitable[Json]],
        *,
        aliases: Sequence[str] = (),
        params: Sequence[Sequence[str]] = ((),),
        types: Mapping[str, str] | None = None,
        doc: str = "",
        named_params_only: bool = False,
    ) -> None:
        if ":" not in name:
            raise ValueError(f"command {name!r} needs the form module:command")
        self.name = name
        self.call = call
        self.aliases = tuple(aliases)
        self.params = tuple(tuple(group) for group in params)
        self.types = dict(types or {})
        self.doc = doc
        self.named_params_only = named_params_only

    @property
    def module(self) -> str:
        return self.name.partition(":")[0]

    @property
    def command(self) -> str:
        return self.name.partition(":")[2]

    def arguments(self, given: Mapping[str, Json] | Sequence[Json] | None) -> dict[str, Json]:
        """Name -> value, converted to the declared types; raises MiError(-32602)."""
        # Clients that have no parameters send an empty object or an empty array as they like.
        if not given:
            given = {}
        if isinstance(given, Mapping):
            named = self._check_names(given)
        else:
            named = self._from_list(given)
        return {name: self._convert(name, value) for name, value in named.items()}

    def _check_names(self, given: Mapping[str, Json]) -> dict[str, Json]:
        names = set(given)
        if any(names == set(group) for group in self.params):
            return dict(given)
        raise MiError(INVALID_PARAMS, "Invalid params", self._accepted())

    def _from_list(self, given: Sequence[Json]) -> dict[str, Json]:
        """Positional values belong to the only set of their length; with several of it, names are needed."""
        if self.named_params_only and given:
            raise MiError(INVALID_PARAMS, "Invalid params", "only named parameters are accepted")
        fitting = [group for group in self.params if len(group) == len(given)]
        if not fitting:
            raise MiError(INVALID_PARAMS, "Invalid params", self._accepted())
        if len(fitting) > 1:
            raise MiError(INVALID_PARAMS, "Invalid params", "ambiguous call, use named parameters: " + self._accepted())
        return dict(zip(fitting[0], given, strict=True))

    def _convert(self, name: str, value: Json) -> Json:
        kind = self.types.get(name)
        if kind == "int":
            return self._integer(name, value)
        if kind == "array":
            return value if isinstance(value, list) else [value]
        if kind == "string":
            # A number typed by the caller without quotes is still the text he typed (a port, a user name).
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise MiError(INVALID_PARAMS, "Invalid params", f"{name} must be a string")
            return value if isinstance(value, str) else str(value)
        return value

    @staticmethod
    def _integer(name: str, value: Json) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, str):
            text = value.strip()
            digits = text[1:] if text[:1] in "+-" else text
            # Not int() alone: it takes underscores and digits of other scripts, and texts of any length.
            if digits.isascii() and digits.isdigit() and len(digits) <= 19:
                return int(text)
        raise MiError(INVALID_PARAMS, "Invalid params", f"{name} must be an integer")

    def _accepted(self) -> str:
        return f"{self.name} takes " + " or ".join("(" + ", ".join(group) + ")" for group in self.params)


class Registry:
    """The commands of one server. Every door (FIFO, HTTP, datagram, script) calls through it."""

    def __init__(self) -> None:
        self._commands: dict[str, CommandDecl] = {}
        self._aliases: dict[str, str] = {}
        self._bare: dict[str, list[str]] = {}

    def add(self, command: CommandDecl) -> None:
        """Make a command known; raises ValueError when a name or an alias is taken."""
        taken = [n for n in (command.name, *command.aliases) if n in self._commands or n in self._aliases]
        if taken:
            raise ValueError(f"management command {taken[0]!r} exists already")
        self._commands[command.name] = command
        for alias in command.aliases:
            self._aliases[alias] = command.name
        self._bare.setdefault(command.command, []).append(command.name)

    def remove_module(self, module: str) -> None:
        """Forget the commands of a module."""
        for name in [n for n in self._commands if n.partition(":")[0] == module]:
            command = self._commands.pop(name)
            for alias in command.aliases:
                del self._aliases[alias]
            self._bare[command.command].remove(name)

    def commands(self) -> list[CommandDecl]:
        return list(self._commands.values())

    def names(self) -> Iterable[str]:
        return self._commands.keys()

    def flat_names(self) -> Iterable[str]:
        """The old names that commands answer to as well, such as `uptime` and `ul_dump`."""
        return self._aliases.keys()

    def find(self, name: str) -> CommandDecl | None:
        """A command by full name, by an old flat name, or by its bare name while only one module has it.

        A bare name of the core wins over the modules', as `ps`, `uptime` and `which` always meant the core's.
        """
        found = self._commands.get(name) or self._commands.get(self._aliases.get(name, ""))
        if found is not None:
            return found
        bare = self._bare.get(name, [])
        if len(bare) == 1:
            return self._commands[bare[0]]
        return self._commands.get(f"core:{name}") if bare else None

    def suggest(self, name: str) -> list[str]:
        """Names that look like `name`, best first; all the candidates when a bare name is ambiguous."""
        bare = self._bare.get(name, [])
        if len(bare) > 1:
            return list(bare)
        return difflib.get_close_matches(name, [*self._commands, *self._aliases, *self._bare], n=3, cutoff=0.6)

    async def call(self, name: str, params: Mapping[str, Json] | Sequence[Json] | None = None) -> Json:
        """Run a command; raises MiError for everything that the caller has to be told."""
        command = self.find(name)
        if command is None:
            near = self.suggest(name)
            if len(self._bare.get(name, [])) > 1:
                raise MiError(AMBIGUOUS_METHOD, "Method ambiguous", ", ".join(near))
            hint = "did you mean " + ", ".join(near) + "?" if near else None
            raise MiError(METHOD_NOT_FOUND, "Method not found", hint)
        arguments = command.arguments(params)
        try:
            result = command.call(**arguments)
            if inspect.isawaitable(result):
                result = await result
        except MiError:
            raise
        except Exception as error:
            LOG.exception("management command %s failed", command.name)
            raise MiError(INTERNAL_ERROR, "Internal error") from error
        return result
