"""The base class of every module, and how its declarations reach the script, the management commands and the events."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from opensipspy.management import CommandDecl
from opensipspy.module.declarations import (
    SPEC,
    CommandSpec,
    Event,
    FunctionSpec,
    Param,
    ParamError,
    Stat,
    Timer,
    TransformationSpec,
    members,
    near,
    variable,
)
from opensipspy.module.signature import function_params, how_it_waits, transformation_params
from opensipspy.script.declare import (
    Catalogue,
    EventDecl,
    FunctionDecl,
    TransformationDecl,
    Value,
    VariableDecl,
)
from opensipspy.script.kinds import ALL

if TYPE_CHECKING:
    from opensipspy.db import Table
    from opensipspy.module.core import CancelHandle, Core


class StartError(Exception):
    """A module cannot start with what it was given; the text says what has to be changed."""


class Module:
    """A module: the subclass's docstring is its purpose, its members are its interface.

    Life: `__init__(**params)` (works without a server), `bind(core)`, `await launch()` (`start`, then the timers), and
    at the end `await shutdown()` (the timers, then `stop`). A subclass that declares `func` parameters sets up its own
    state before it calls `super().__init__(**params)`.
    """

    name: ClassVar[str] = ""
    """The exported name; the file's name when not given."""
    requires: ClassVar[Sequence[str]] = ()
    wants: ClassVar[Sequence[str]] = ()
    tables: ClassVar[Sequence[Table]] = ()
    kind: ClassVar[str] = "default"
    """"default", "sql", "cachedb" or "aaa", as the catalogue says it."""

    core: Core

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            parts = cls.__module__.split(".")
            # modules/NAME/__init__.py and modules/NAME/module.py both belong to NAME.
            known = [i for i, part in enumerate(parts) if part in ("modules", "dbdrivers", "mi")]
            cls.name = parts[known[-1] + 1] if known and known[-1] + 1 < len(parts) else parts[-1]

    def __init__(self, **params: Any) -> None:
        self._timers: list[CancelHandle] = []
        self._running: set[str] = set()
        self._given: set[str] = set()
        declared = self.params()
        for param in declared.values():
            self.__dict__[param.attribute] = param.initial()
        for attribute, member in members(type(self)):
            if isinstance(member, Stat):
                self.__dict__[attribute] = member.make(self)
        for name, value in params.items():
            found = declared.get(name) or declared.get(name.rstrip("_"))
            if found is not None and found.repeated and isinstance(value, list | tuple):
                for one in value:
                    self.set_param(found.name, one)
            elif found is not None and value is None and found.default is None:
                continue
            else:
                self.set_param(name, value)

    # --- parameters

    @classmethod
    def params(cls) -> dict[str, Param[Any]]:
        """The declared parameters by the name that `modparam` uses."""
        return {m.name: m for _, m in members(cls) if isinstance(m, Param)}

    def set_param(self, name: str, value: object) -> None:
        """One `modparam` line; raises ParamError with the nearest name or what would fit."""
        declared = self.params()
        param = declared.get(name) or declared.get(name.rstrip("_"))
        if param is None:
            raise ParamError(self.name, name, "no such parameter", near(name, list(declared)))
        converted = param.convert(self.name, value)
        self._given.add(param.name)
        if param.repeated:
            self.__dict__[param.attribute].append(converted)
        else:
            self.__dict__[param.attribute] = converted
        if param.func:
            method = param.func if isinstance(param.func, str) else f"set_{param.name}"
            try:
                getattr(self, method)(converted)
            except ParamError:
                raise
            except ValueError as error:
                raise ParamError(self.name, param.name, str(error)) from error

    def given(self, name: str) -> bool:
        """Whether the script (or the constructor) set the parameter."""
        return name in self._given

    def routes_used(self) -> Sequence[tuple[int, str]]:
        """(route kind, name) of the routes that parameters name: a script that is loaded again must still have them."""
        return ()

    # --- what the script sees

    def declare(self, catalogue: Catalogue) -> None:
        """Add the functions, variables, transformations and events to what scripts may name."""
        for function in self.functions():
            catalogue.add_function(function)
        for var in self.variables():
            catalogue.add_variable(var)
        for trans in self.transformations():
            catalogue.add_transformation(trans)
        for event in self.events():
            catalogue.add_event(EventDecl(event.name, self.name, tuple(p.name for p in event.params), event.help))
        if self.name not in catalogue.modules:
            catalogue.modules.append(self.name)

    def functions(self) -> list[FunctionDecl]:
        """The script functions, bound to this instance."""
        found = []
        for attribute, member in members(type(self)):
            spec = getattr(member, SPEC, None)
            if not isinstance(spec, FunctionSpec):
                continue
            params = function_params(member, self)
            waits = how_it_waits(member, spec.waits)
            call = getattr(self, attribute)
            defaults = [p.default for p in params if p.decl.optional]
            # An omitted parameter before a given one arrives as None; its Python default may be something else.
            if len(defaults) > 1 and any(d is not None for d in defaults[:-1]):
                call = _with_defaults(call, [p.default if p.decl.optional else None for p in params])
            found.append(
                FunctionDecl(
                    name=spec.name or attribute.rstrip("_"),
                    module=self.name,
                    params=tuple(p.decl for p in params),
                    routes=spec.routes or ALL,
                    call=call,
                    waits=waits,
                    async_ok=spec.async_ok,
                    async_only=spec.async_only,
                    doc=inspect.getdoc(member) or "",
                )
            )
        return found

    def variables(self) -> list[VariableDecl]:
        """The script variables, bound to this instance."""
        found = []
        for _, member in members(type(self)):
            if not isinstance(member, variable) or member.get_method is None:
                continue
            parse = member.parse_name
            found.append(
                VariableDecl(
                    name=member.name,
                    module=self.name,
                    get=member.get_method.__get__(self),
                    set=member.set_method.__get__(self) if member.set_method else None,
                    name_arg=member.name_arg,
                    index=member.index,
                    writable=member.writable,
                    fixed_names=member.fixed_names,
                    parse_name=getattr(self, parse) if isinstance(parse, str) else parse,
                    replace=member.replace_method.__get__(self) if member.replace_method else None,
                    doc=inspect.cleandoc(member.doc),
                    index_scopes=member.index_scopes,
                )
            )
        return found

    def transformations(self) -> list[TransformationDecl]:
        """The transformations, bound to this instance."""
        found = []
        for attribute, member in members(type(self)):
            spec = getattr(member, SPEC, None)
            if isinstance(spec, TransformationSpec):
                cls, _, name = spec.name.partition(".")
                params = transformation_params(member) if spec.params is None else spec.params
                method = getattr(self, attribute)
                apply = _spread_with_run(method) if spec.with_run else _spread(method)
                doc = inspect.getdoc(member) or ""
                found.append(TransformationDecl(cls, name, params, apply, spec.takes_null, doc, spec.with_run))
        return found

    def commands(self) -> list[CommandDecl]:
        """The management commands, bound to this instance."""
        found = []
        for attribute, member in members(type(self)):
            spec = getattr(member, SPEC, None)
            if isinstance(spec, CommandSpec):
                found.append(
                    CommandDecl(
                        spec.name,
                        _keywords(getattr(self, attribute), spec.params),
                        aliases=spec.aliases,
                        params=spec.params,
                        types=spec.types,
                        doc=inspect.getdoc(member) or "",
                        named_params_only=spec.named_params_only,
                    )
                )
        return found

    @classmethod
    def events(cls) -> list[Event]:
        """The declared events."""
        return [m for _, m in members(cls) if isinstance(m, Event)]

    @classmethod
    def stats(cls) -> list[Stat]:
        """The declared statistics."""
        return [m for _, m in members(cls) if isinstance(m, Stat)]

    @classmethod
    def timers(cls) -> list[Timer]:
        """The declared timers."""
        return [m for _, m in members(cls) if isinstance(m, Timer)]

    # --- life

    def api(self) -> object:
        """What other modules get from `core.api(NAME, cls)`: this instance, unless a subclass offers less."""
        return self

    def bind(self, core: Core) -> None:
        """Become part of a server: commands, statistics and events are registered. Called once, before `start`."""
        self.core = core
        for command in self.commands():
            core.mi.add(command)
        for stat in self.stats():
            core.stats.add(stat.group or self.name, self.__dict__[stat.attribute])
        for event in self.events():
            core.events.declare(event.name, [(p.name, p.type) for p in event.params], module=self.name)

    async def start(self) -> None:
        """Get ready: all modules are loaded and bound, no message arrives yet. Raise to stop the server's start."""

    async def stop(self) -> None:
        """Write what is pending and let go of everything; messages no longer arrive."""

    async def launch(self) -> None:
        """What the server calls: `start`, then the declared timers run."""
        await self.start()
        for timer in self.timers():
            seconds = timer.seconds(self)
            if seconds > 0:
                self._timers.append(self.core.every(seconds, self._ticker(timer.method)))

    async def shutdown(self) -> None:
        """What the server calls at the end: the timers stop, then `stop`."""
        for handle in self._timers:
            handle.cancel()
        self._timers.clear()
        await self.stop()

    def _ticker(self, method: str) -> Callable[[], object]:
        function: Callable[[], Any] = getattr(self, method)
        if not inspect.iscoroutinefunction(function):
            return function

        async def run() -> None:
            try:
                await function()
            finally:
                self._running.discard(method)

        def tick() -> None:
            # A round that has not ended yet is not doubled: a slow database would pile them up.
            if method not in self._running:
                self._running.add(method)
                self.core.spawn(run(), f"{self.name}.{method}")

        return tick


def _with_defaults(call: Callable[..., Any], defaults: Sequence[Any]) -> Callable[..., Any]:
    """Give omitted (None) arguments their Python default."""

    def filled(run: Any, *args: Any) -> Any:
        return call(run, *[d if a is None else a for a, d in zip(args, defaults, strict=False)])

    return filled


def _spread(apply: Callable[..., Value]) -> Callable[..., Value]:
    return lambda value, args: apply(value, *args)


def _spread_with_run(apply: Callable[..., Value]) -> Callable[..., Value]:
    return lambda run, value, args: apply(run, value, *args)


def _keywords(call: Callable[..., Any], params: Iterable[Iterable[str]]) -> Callable[..., Any]:
    """Management names that are no Python names reach the method under the nearest legal one."""
    accepted = set(inspect.signature(call).parameters)
    renamed = {}
    for name in {n for group in params for n in group}:
        legal = name.replace("-", "_").replace(".", "_")
        legal = next((n for n in (name, legal, legal + "_") if n in accepted), name)
        if legal != name:
            renamed[name] = legal
    if not renamed:
        return call
    return lambda **given: call(**{renamed.get(name, name): value for name, value in given.items()})
