"""From a method's signature to the declaration that the checker and the compiler use, resolved once per class."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, cast

from opensipspy.module.annotations import Fixup, Flags, Named, NoExpand, Omittable, RouteName, Static, WritableVar
from opensipspy.script.declare import ParamDecl, ParamType, VarRef

_KIND_OF_TRANSFORMATION_PARAM: Final = {"string": "string", "int": "number"}

Default = Any
NO_DEFAULT: Final = inspect.Parameter.empty


class DeclarationError(TypeError):
    """A module's author declared something that cannot be: the message names class and method."""


class ParamSpec:
    """One parameter of a method: its declaration and its Python default."""

    __slots__ = ("decl", "default", "python_name")

    def __init__(self, decl: ParamDecl, default: Default, python_name: str) -> None:
        self.decl = decl
        self.default = default
        self.python_name = python_name


def resolve(function: Callable[..., Any], annotation: Any) -> Any:
    """An annotation as an object. Only the needed ones are resolved: others may be names for type checkers only."""
    if not isinstance(annotation, str):
        return annotation
    scope = getattr(function, "__globals__", None) or vars(sys.modules[function.__module__])
    return eval(annotation, dict(scope))  # our own source text, as typing.get_type_hints does it


def parameters(function: Callable[..., Any], skip: int) -> list[tuple[inspect.Parameter, Any]]:
    """(parameter, resolved annotation) of a method, without the first `skip` ones (`self`, `run` ...)."""
    found = []
    for parameter in list(inspect.signature(function).parameters.values())[skip:]:
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            raise DeclarationError(f"{function.__qualname__}: *{parameter.name} cannot be declared to a script")
        if parameter.annotation is NO_DEFAULT:
            raise DeclarationError(f"{function.__qualname__}: {parameter.name} needs a type")
        try:
            found.append((parameter, resolve(function, parameter.annotation)))
        except NameError as error:
            raise DeclarationError(f"{function.__qualname__}: {parameter.name}: {error}") from error
    return found


def unwrap(annotation: Any) -> tuple[Any, list[Any], bool]:
    """(plain type, `Annotated` extras, whether None is allowed)."""
    extras: list[Any] = []
    nullable = False
    while True:
        origin = typing.get_origin(annotation)
        if origin is typing.Annotated:
            annotation, *more = typing.get_args(annotation)
            extras += more
        elif origin in (typing.Union, types.UnionType):
            rest = [a for a in typing.get_args(annotation) if a is not type(None)]
            nullable = nullable or len(rest) < len(typing.get_args(annotation))
            if len(rest) != 1:
                return annotation, extras, nullable
            annotation = rest[0]
        else:
            return annotation, extras, nullable


def script_type(annotation: Any) -> str:
    """The catalogue's word for a type, "" when there is none."""
    if annotation is str:
        return "string"
    if annotation is int:
        return "int"
    if annotation is VarRef:
        return "var"
    origin = typing.get_origin(annotation) or annotation
    return "regex" if getattr(origin, "__name__", "") == "Pattern" else ""


def catalogue_name(python_name: str) -> str:
    """`class_` is `class`; a leading underscore only keeps a linter quiet."""
    return python_name.strip("_")


def function_params(function: Callable[..., Any], owner: object | None) -> list[ParamSpec]:
    """The parameters of a script function. owner: the instance on which a `Fixup` named by a text is looked up."""
    specs = []
    for parameter, annotation in parameters(function, 2):
        plain, extras, _ = unwrap(annotation)
        by_type = {type(extra): extra for extra in extras}
        fixup = cast("Fixup | None", by_type.get(Fixup))
        flags = cast("Flags | None", by_type.get(Flags))
        writable = cast("WritableVar | None", by_type.get(WritableVar))
        named = cast("Named | None", by_type.get(Named))
        route = cast("RouteName | None", by_type.get(RouteName))
        kind = fixup.type if fixup else "var" if writable else script_type(plain)
        if kind not in ("string", "int", "var", "regex"):
            raise DeclarationError(f"{function.__qualname__}: {parameter.name} has a type unknown to scripts: {plain}")
        specs.append(
            ParamSpec(
                ParamDecl(
                    name=named.name if named else catalogue_name(parameter.name),
                    type=cast("ParamType", kind),
                    optional=parameter.default is not NO_DEFAULT or Omittable in by_type,
                    static=Static in by_type,
                    no_expand=NoExpand in by_type,
                    must_be=writable.must_be if writable else "",
                    fixup=_fixup(fixup.function, owner) if fixup else None,
                    route_kind=route.kind if route else 0,
                    flags=flags.names if flags else (),
                    key_value_flags=flags.key_values if flags else (),
                    at_call=_fixup(fixup.at_call, owner) if fixup and fixup.at_call is not None else None,
                    takes_format=fixup is not None and fixup.takes_format,
                ),
                None if Omittable in by_type and parameter.default is NO_DEFAULT else parameter.default,
                parameter.name,
            )
        )
    return specs


def _fixup(function: Callable[[Any], object] | str, owner: object | None) -> Callable[[Any], object]:
    if callable(function):
        return function
    name = function
    if owner is None:
        return lambda value: value
    bound: Callable[[Any], object] = getattr(owner, name)
    return bound


def how_it_waits(function: Callable[..., Any], given: str | None) -> Literal["no", "maybe", "always"]:
    """Whether a call may have to be awaited, from the signature when the author did not say."""
    if given is not None:
        return cast('Literal["no", "maybe", "always"]', given)
    if inspect.iscoroutinefunction(function):
        return "always"
    returned = inspect.signature(function).return_annotation
    text = returned if isinstance(returned, str) else str(returned)
    return "maybe" if Awaitable.__name__ in text or "Coroutine" in text else "no"


def transformation_params(function: Callable[..., Any]) -> tuple[str, ...]:
    """ "string" or "number" of each parameter after `self` and `value`, with "?" when it is optional."""
    kinds = []
    for parameter, annotation in parameters(function, 2):
        plain, _, _ = unwrap(annotation)
        # A parameter annotated as a whole Value takes either; a text is the wider of the two.
        kind = _KIND_OF_TRANSFORMATION_PARAM.get(script_type(plain), "string")
        kinds.append(kind + ("?" if parameter.default is not NO_DEFAULT else ""))
    return tuple(kinds)
