"""What a parameter of a script function may carry beside its type: `a: Annotated[str, Static()]`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any


class Static:
    """The parameter takes a constant only: no variables in it."""

    __slots__ = ()


class NoExpand:
    """The text reaches the function as it was written: the function expands its variables itself."""

    __slots__ = ()


class RouteName:
    """The parameter names a route of `kind` (a bit of `opensipspy.script.kinds`); the checker looks it up at load."""

    __slots__ = ("kind",)

    def __init__(self, kind: int) -> None:
        self.kind = kind


class Flags:
    """A comma-separated list of `names`, and of `NAME=value` for each of `key_values`; others are found at load."""

    __slots__ = ("key_values", "names")

    def __init__(self, names: Sequence[str] = (), key_values: Sequence[str] = ()) -> None:
        self.names = tuple(names)
        self.key_values = tuple(key_values)


class WritableVar:
    """The parameter is a variable that the function writes to; `must_be` may ask for "avp"."""

    __slots__ = ("must_be",)

    def __init__(self, must_be: str = "writable variable") -> None:
        self.must_be = must_be


class Fixup:
    """The function gets `function(value)`: computed at load for a constant, at the call (and cached) otherwise.

    function: a callable, or the name of a method of the module. type: how the script writes the value ("string",
    "int" or "regex"). It raises ValueError with the words that the script's author should read. at_call: used instead
    for what a variable holds at the call, which nobody but the script may have expanded. takes_format: the function is
    given the argument as a `FormatString` at load, and returns a function of the run (see `ParamDecl`).
    """

    __slots__ = ("at_call", "function", "takes_format", "type")

    def __init__(
        self,
        function: Callable[[Any], object] | str,
        type: str = "string",
        *,
        at_call: Callable[[Any], object] | str | None = None,
        takes_format: bool = False,
    ) -> None:
        self.function = function
        self.type = type
        self.at_call = at_call
        self.takes_format = takes_format


class Omittable:
    """The parameter may be left out although others follow it, as in `f(, $var(x))`: the function gets None then."""

    __slots__ = ()


class Named:
    """The parameter's name in the manual, where that is no Python name (`class`, `next-hop`)."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


def between(low: int, high: int, what: str) -> Fixup:
    """The parameter is a whole number from `low` to `high`: another is found at load, or at the call when a variable
    holds it. what: what the number is, for the message."""

    def checked(value: object) -> int:
        try:
            number = int(value) if isinstance(value, int | str) else low - 1
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise ValueError(f"{value} is no {what} ({low} to {high})")
        return number

    return Fixup(checked, "int")


ReplyCode = Annotated[int, between(100, 699, "status of a reply")]
"""The status of a reply that the script sends."""
