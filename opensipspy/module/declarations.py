"""The members a module class is declared with: parameters, functions, variables, commands, events, statistics, timers.

A declaration is found on the class by its type or, for a function, by the note that its decorator left on it. Values
live in the instance's `__dict__`, which hides the (non-data) descriptor, so that reading a parameter or a counter costs
no more than reading any attribute.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, overload

from opensipspy.management import Computed, Counter
from opensipspy.script.declare import Index, Value
from opensipspy.script.run import Run

if TYPE_CHECKING:
    from opensipspy.module.module import Module

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

SPEC: Final = "__opensipspy__"
"""Attribute that a decorated method carries."""

ParamValue = int | str


class ParamError(ValueError):
    """A module parameter is unknown or has a value that it cannot take; `hint` is the nearest name or what fits."""

    def __init__(self, module: str, param: str, reason: str, hint: str = "") -> None:
        super().__init__(f"{module}: {param}: {reason}" + (f" ({hint})" if hint else ""))
        self.module = module
        self.param = param
        self.reason = reason
        self.hint = hint


class Param(Generic[T]):
    """A `modparam` of the module, read as a typed attribute of the instance.

    type: int, str or (int, str). repeated: every occurrence counts, the attribute is the list of them.
    func: True calls the method `set_NAME(value)` at each occurrence, a text names another method; the attribute then
    shows the last value. unit: "s", "ms", "bytes" ..., for the manual.
    """

    @overload
    def __init__(
        self: Param[int],
        type: type[int],
        default: int,
        help: str,
        *,
        repeated: Literal[False] = False,
        func: bool | str = False,
        unit: str = "",
    ) -> None: ...
    @overload
    def __init__(
        self: Param[int | None],
        type: type[int],
        default: None,
        help: str,
        *,
        repeated: Literal[False] = False,
        func: bool | str = False,
        unit: str = "",
    ) -> None: ...
    @overload
    def __init__(
        self: Param[str],
        type: type[str],
        default: str,
        help: str,
        *,
        repeated: Literal[False] = False,
        func: bool | str = False,
        unit: str = "",
    ) -> None: ...
    @overload
    def __init__(
        self: Param[str | None],
        type: type[str],
        default: None,
        help: str,
        *,
        repeated: Literal[False] = False,
        func: bool | str = False,
        unit: str = "",
    ) -> None: ...
    @overload
    def __init__(
        self: Param[int | str],
        type: tuple[type[int], type[str]],
        default: int | str,
        help: str,
        *,
        repeated: Literal[False] = False,
        func: bool | str = False,
        unit: str = "",
    ) -> None: ...
    @overload
    def __init__(
        self: Param[int | str | None],
        type: tuple[type[int], type[str]],
        default: None,
        help: str,
        *,
        repeated: Literal[False] = False,
        func: bool | str = False,
        unit: str = "",
    ) -> None: ...
    @overload
    def __init__(
        self: Param[list[int]],
        type: type[int],
        default: tuple[int, ...] | None,
        help: str,
        *,
        repeated: Literal[True],
        func: bool | str = False,
        unit: str = "",
    ) -> None: ...
    @overload
    def __init__(
        self: Param[list[str]],
        type: type[str],
        default: tuple[str, ...] | None,
        help: str,
        *,
        repeated: Literal[True],
        func: bool | str = False,
        unit: str = "",
    ) -> None: ...
    @overload
    def __init__(
        self: Param[list[int | str]],
        type: tuple[type[int], type[str]],
        default: tuple[int | str, ...] | None,
        help: str,
        *,
        repeated: Literal[True],
        func: bool | str = False,
        unit: str = "",
    ) -> None: ...

    def __init__(
        self,
        type: Any,
        default: Any,
        help: str,
        *,
        repeated: bool = False,
        func: bool | str = False,
        unit: str = "",
    ) -> None:
        self.types: tuple[type, ...] = type if isinstance(type, tuple) else (type,)
        self.default = default
        self.help = help
        self.repeated = repeated
        self.func = func
        self.unit = unit
        self.attribute = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.attribute = name

    @property
    def name(self) -> str:
        """The name that `modparam` uses: the attribute's, without the underscore that makes a keyword legal."""
        return self.attribute.rstrip("_")

    @overload
    def __get__(self, instance: None, owner: type) -> Param[T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: object | None, owner: type) -> Param[T] | T:
        if instance is None:
            return self
        return self.initial()  # only before __init__ has filled the instance

    if TYPE_CHECKING:

        def __set__(self, instance: object, value: T) -> None: ...

    def initial(self) -> T:
        """The value of an unset parameter."""
        value: Any = list(self.default or ()) if self.repeated else self.default
        return value  # type: ignore[no-any-return]

    @property
    def type_name(self) -> str:
        """The type in the catalogue's words: "int", "string" or "string|int"."""
        if len(self.types) > 1:
            return "string|int"
        return "int" if self.types[0] is int else "string"

    def convert(self, module: str, value: object) -> ParamValue:
        """One occurrence's value, checked; raises ParamError. A text is not taken for a number, nor the reverse."""
        if not isinstance(value, bool) and isinstance(value, self.types):
            return value  # type: ignore[return-value]
        wanted = {"int": "an integer", "string": "a string", "string|int": "a string or an integer"}[self.type_name]
        hint = ""
        if self.types == (int,) and isinstance(value, str) and value.strip().lstrip("+-").isdigit():
            hint = f"write {value.strip()} without the quotes"
        elif self.types == (str,) and isinstance(value, int):
            hint = f'write "{value}" with quotes'
        raise ParamError(module, self.name, f"takes {wanted}, not {value!r}", hint)


class Stat:
    """A statistic of the module; on an instance it is a `Counter`.

    name: where the manual's name is not the attribute's. computed: the name of a method, or a function of the module,
    that returns the number when it is asked for. group: where it is not the module's name.
    """

    def __init__(
        self,
        help: str,
        name: str | None = None,
        *,
        no_reset: bool = False,
        computed: str | Callable[[Any], int] | None = None,
        group: str = "",
    ) -> None:
        self.help = help
        self.exported = name
        self.no_reset = no_reset
        self.computed = computed
        self.group = group
        self.attribute = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.attribute = name

    @property
    def name(self) -> str:
        return self.exported or self.attribute

    @overload
    def __get__(self, instance: None, owner: type) -> Stat: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Counter: ...

    def __get__(self, instance: object | None, owner: type) -> Stat | Counter:
        if instance is None:
            return self
        counter = self.make(instance)
        instance.__dict__[self.attribute] = counter
        return counter

    def make(self, instance: object) -> Counter:
        """The counter of one instance."""
        if self.computed is None:
            return Counter(self.name, help=self.help, no_reset=self.no_reset)
        if isinstance(self.computed, str):
            method = self.computed
            return Computed(self.name, lambda: int(getattr(instance, method)()), help=self.help)
        function = self.computed
        return Computed(self.name, lambda: function(instance), help=self.help)


class EventParam:
    """One parameter of an event; type "string" or "int" where it is known."""

    __slots__ = ("name", "type")

    def __init__(self, name: str, type: str = "") -> None:
        self.name = name
        self.type = type


class Event:
    """An event that the module raises: `self.NAME(param=value, ...)` on an instance.

    params: names, or (name, "int" | "string").
    """

    def __init__(self, name: str, params: Sequence[str | tuple[str, str]] = (), help: str = "") -> None:
        self.name = name
        self.params = tuple(EventParam(p) if isinstance(p, str) else EventParam(*p) for p in params)
        self.help = help
        self.attribute = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.attribute = name

    @overload
    def __get__(self, instance: None, owner: type) -> Event: ...
    @overload
    def __get__(self, instance: Module, owner: type) -> BoundEvent: ...

    def __get__(self, instance: Module | None, owner: type) -> Event | BoundEvent:
        if instance is None:
            return self
        bound = BoundEvent(instance, self)
        instance.__dict__[self.attribute] = bound
        return bound


class BoundEvent:
    """An event of one module instance."""

    __slots__ = ("_event", "_module")

    def __init__(self, module: Module, event: Event) -> None:
        self._module = module
        self._event = event

    @property
    def wanted(self) -> bool:
        """Whether anybody listens; ask before collecting parameters that are costly to make."""
        return self._module.core.events.wanted(self._event.name)

    def __call__(self, **params: Any) -> None:
        """Raise the event. A trailing underscore is taken off a name (`from_` is `from`)."""
        hub = self._module.core.events
        if hub.wanted(self._event.name):
            hub.raise_event(self._event.name, {name.rstrip("_"): value for name, value in params.items()})


class Timer:
    """Calls a method of the module regularly once it has started.

    interval: seconds, or the name of a parameter that holds them (0 or less: never). method: name of a method, plain or
    async; an async one is not called again before it has ended. unit: seconds that one step of `interval` means.
    """

    def __init__(self, interval: float | str, method: str, *, unit: float = 1.0) -> None:
        self.interval = interval
        self.method = method
        self.unit = unit

    def seconds(self, module: object) -> float:
        value = getattr(module, self.interval) if isinstance(self.interval, str) else self.interval
        return float(value) * self.unit


class Requires(str):
    """A module without which this one does not start; `param`: only when that parameter is set."""

    param: str

    def __new__(cls, name: str, *, param: str = "") -> Requires:
        made = super().__new__(cls, name)
        made.param = param
        return made


class Wants(str):
    """A module that is started before this one when it is loaded."""

    __slots__ = ()


class FunctionSpec:
    """What `script_function` noted about a method."""

    __slots__ = ("async_ok", "async_only", "name", "routes", "waits")

    def __init__(self, routes: int, name: str | None, waits: str | None, async_ok: bool, async_only: bool) -> None:
        self.routes = routes
        self.name = name
        self.waits = waits
        self.async_ok = async_ok
        self.async_only = async_only


def script_function(
    routes: int = 0,
    name: str | None = None,
    waits: Literal["no", "maybe", "always"] | None = None,
    async_ok: bool = False,
    async_only: bool = False,
) -> Callable[[F], F]:
    """Let scripts call the method: `def f(self, run: Run, a: str, b: int = 0) -> int`, plain or async.

    routes: mask of `script.kinds`, 0 for all kinds. name: the script's name where it is not the method's. waits: found
    from the signature when not given: "always" for an `async def`, "maybe" when it returns `int | Awaitable[int]`.
    async_ok: may stand in `async()` and `launch()`; async_only: only there. Parameters are declared by annotations:
    `str`, `int`, `VarRef`, `Pattern`, `X | None = None`, `Annotated[str, Static()]` and the others of `annotations`.
    """

    def decorate(function: F) -> F:
        setattr(function, SPEC, FunctionSpec(routes, name, waits, async_ok or async_only, async_only))
        return function

    return decorate


class TransformationSpec:
    """What `transformation` noted about a method."""

    __slots__ = ("name", "params", "takes_null", "with_run")

    def __init__(self, name: str, params: Sequence[str] | None, takes_null: bool, with_run: bool) -> None:
        self.name = name
        self.params = tuple(params) if params is not None else None
        self.takes_null = takes_null
        self.with_run = with_run


def transformation(
    name: str, params: Sequence[str] | None = None, *, takes_null: bool = False, with_run: bool = False
) -> Callable[[F], F]:
    """Let scripts write `{name,args}`: `def t(self, value: Value, a: str, b: int = 0) -> Value`; name is "class.name".

    params: "string", "number" or "char", with "?" when optional; found from the annotations when not given. with_run:
    the method takes the run before the value (`params` is needed then).
    """
    if with_run and params is None:
        raise ValueError(f"transformation {name!r} takes a run: name its params")
    if "." not in name:
        raise ValueError(f"transformation {name!r} needs the form class.name")

    def decorate(function: F) -> F:
        setattr(function, SPEC, TransformationSpec(name, params, takes_null, with_run))
        return function

    return decorate


class CommandSpec:
    """What `mi_command` noted about a method."""

    __slots__ = ("aliases", "name", "named_params_only", "params", "types")

    def __init__(
        self,
        name: str,
        aliases: Sequence[str],
        params: Sequence[Sequence[str]],
        types: Mapping[str, str] | None,
        named_params_only: bool,
    ) -> None:
        self.name = name
        self.aliases = tuple(aliases)
        self.params = tuple(tuple(group) for group in params)
        self.types = dict(types or {})
        self.named_params_only = named_params_only


def mi_command(
    name: str,
    aliases: Sequence[str] = (),
    params: Sequence[Sequence[str]] = ((),),
    types: Mapping[str, str] | None = None,
    *,
    named_params_only: bool = False,
) -> Callable[[F], F]:
    """Make the method a management command, plain or async; it raises MiError to refuse.

    name: "module:command". params: the accepted sets of names, `((), ("aor",))`. types: "string" (as when absent),
    "int" or "array" by name. A method takes them as keyword arguments, with `_` after a Python keyword and for `-`.
    """

    def decorate(function: F) -> F:
        setattr(function, SPEC, CommandSpec(name, aliases, params, types, named_params_only))
        return function

    return decorate


class variable:
    """Make the method a script variable: `@variable("$name")` on `def v(self, run, name, index) -> Value`.

    name_arg: `(inner name)` must (True) or may ("optional") follow. index: `[index]` may follow. fixed_names: the only
    inner names there are. parse_name: what `name` becomes, once at load for a constant: a function or the name of a
    method. index_scopes: see VariableDecl. `@v.setter` on `def v_set(self, run, name, index, value)` makes it writable,
    `@v.replacer` gives `:=`.
    """

    def __init__(
        self,
        name: str,
        *,
        index: bool = False,
        name_arg: bool | Literal["optional"] = False,
        writable: bool = False,
        fixed_names: Sequence[str] = (),
        parse_name: Callable[[str], object] | str | None = None,
        index_scopes: Sequence[str] = (),
    ) -> None:
        self.name = name if name.startswith("$") else "$" + name
        self.index = index
        self.name_arg: bool | Literal["optional"] = name_arg
        self.writable = writable
        self.fixed_names = tuple(fixed_names)
        self.parse_name = parse_name
        self.index_scopes = tuple(index_scopes)
        self.get_method: Callable[..., Value] | None = None
        self.set_method: Callable[..., None] | None = None
        self.replace_method: Callable[..., None] | None = None

    def __call__(self, getter: Callable[[Any, Run, Any, Index], Value]) -> variable:
        self.get_method = getter
        return self

    def setter(self, function: Callable[[Any, Run, Any, Index, Value], None]) -> variable:
        """Use the method for `$name = value`; None removes."""
        self.set_method = function
        self.writable = True
        return self

    def replacer(self, function: Callable[[Any, Run, Any, Index, Value], None]) -> variable:
        """Use the method for `$name := value` where that differs from `=`."""
        self.replace_method = function
        return self

    @property
    def doc(self) -> str:
        return (self.get_method.__doc__ or "") if self.get_method else ""

    @overload
    def __get__(self, instance: None, owner: type) -> variable: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Callable[..., Value]: ...

    def __get__(self, instance: object | None, owner: type) -> variable | Callable[..., Value]:
        if instance is None or self.get_method is None:
            return self
        bound: Callable[..., Value] = self.get_method.__get__(instance, owner)
        return bound


def members(cls: type) -> list[tuple[str, Any]]:
    """(attribute, declared object) of a class and its bases, in the order of definition, overridden ones once.

    Descriptors come as themselves; a decorated method as the function that carries `SPEC`.
    """
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            if isinstance(value, Param | Stat | Event | Timer | variable) or hasattr(value, SPEC):
                found[name] = value
            else:
                found.pop(name, None)  # a subclass replaced the declaration by something plain
    # `@v.setter` leaves the same variable under a second name.
    first: dict[int, tuple[str, Any]] = {}
    for name, value in found.items():
        first.setdefault(id(value), (name, value))
    return list(first.values())


def near(name: str, names: Sequence[str]) -> str:
    """ "did you mean X?", or "" when nothing looks like `name`."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else ""
