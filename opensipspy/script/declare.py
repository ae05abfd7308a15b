"""What exists in a script: functions, variables, transformations and events as they are declared.

The core and every module fill one `Catalogue`; the checker compares a script with it and the compiler takes the
callables out of it. Calling conventions:

*Function.* `call(run, *args) -> int`: above 0 is true, below 0 false, 0 ends the script. One argument per parameter,
in order; an omitted optional parameter is not passed when nothing follows it and is `None` when something does.
An argument arrives as
  string   `str`, or `None` when a format is one variable that is NULL; a `no_expand` text arrives as it was written
  int      `int`
  var      `VarRef`: read with `.get(run)`, written with `.set(run, value)`
  regex    a compiled `opensipspy.script.patterns.Pattern` with `.search(text) -> bool`
  fixup    what `fixup(value)` returned: computed once at load for a constant (ValueError becomes a finding), at the
           call for a value that is only known then (ValueError makes the call return -1); `at_call(value)` there,
           when the declaration has it, so that `fixup` sees nothing but what the script says itself
  format   with `takes_format` what `fixup(FormatString)(run)` returns, the first half at load: for every argument that
           is not left out, a constant or not
`waits` says how: "no" is a plain function, "always" an `async def`, "maybe" a plain function that returns an int or an
awaitable of one.

*Variable.* `get(run, name, index) -> Value` and `set(run, name, index, value)`. `name` is the text in parentheses
(`None` without), or what `parse_name` made of it: at load for a constant name (ValueError becomes a finding), at the
read for one with variables inside (ValueError reads as NULL). `index` is `None`, an int (negative counts from the
end), `INDEX_ALL` or `INDEX_APPEND`. `replace` stands for `:=` where that differs from `=`.

*Transformation.* `apply(value, args) -> Value`: args are the declared parameters, each an int or a str, evaluated.
A NULL value goes in only when `takes_null`; an error is NULL, never an exception.
"""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from opensipspy.script import kinds
from opensipspy.script.run import INDEX_ALL, INDEX_APPEND, Index, Run, Value, VarRef

__all__ = [
    "INDEX_ALL",
    "INDEX_APPEND",
    "Catalogue",
    "EventDecl",
    "FlagNames",
    "FunctionDecl",
    "Index",
    "ParamDecl",
    "TransformationDecl",
    "Value",
    "VarRef",
    "VariableDecl",
]

FunctionCall = Callable[..., int | Awaitable[int]]
VariableGet = Callable[[Run, Any, Index], Value]
VariableSet = Callable[[Run, Any, Index, Value], None]
TransformationApply = Callable[[Value, list[Value]], Value]
ParamType = Literal["string", "int", "var", "regex"]
Waits = Literal["no", "maybe", "always"]
# How alike a name must be to be worth a "did you mean": a letter or two, not half of the word.
NEAR: Final = 0.75
# As many different names of a script are looked up for what they may have meant; each takes a millisecond.
MAX_SUGGESTIONS: Final = 500


@dataclass(frozen=True, slots=True)
class ParamDecl:
    """One parameter of a script function.

    static: no variables may stand in it. no_expand: a `$` in it is plain text. must_be: what a "var" has to be
    ("writable variable", "avp"). route_kind: the bit of the route kind whose route it must name, 0 when it names none.
    flags: the words allowed in a comma-separated flag list; key_value_flags: those that take `=value`. at_call: the
    preparation of what a variable holds at the call, which may come from a stranger: it must not expand it.
    takes_format: the fixup gets the argument as a `FormatString`, constant or not, and returns a function of the run
    whose result is the argument: so the values of variables are placed by what surrounds them, and NULL is not the same
    as a parameter left out. `str()` of that result is the text.
    """

    name: str
    type: ParamType = "string"
    optional: bool = False
    static: bool = False
    no_expand: bool = False
    must_be: str = ""
    fixup: Callable[[Any], object] | None = None
    route_kind: int = 0
    flags: tuple[str, ...] = ()
    key_value_flags: tuple[str, ...] = ()
    at_call: Callable[[Any], object] | None = None
    takes_format: bool = False

    @property
    def verbatim(self) -> bool:
        """Whether a constant is taken as it is written; a `$` in a regular expression is the end of the text."""
        return self.static or self.no_expand or self.type == "regex"


@dataclass(frozen=True, slots=True)
class FunctionDecl:
    """One script function; `routes` is a mask of `kinds`."""

    name: str
    module: str
    params: tuple[ParamDecl, ...]
    routes: int
    call: FunctionCall
    waits: Waits = "no"
    async_ok: bool = False
    async_only: bool = False
    doc: str = ""

    @property
    def least(self) -> int:
        """The number of parameters that a call cannot leave out."""
        return sum(1 for param in self.params if not param.optional)

    @property
    def most(self) -> int:
        """The number of parameters that a call can give."""
        return len(self.params)


@dataclass(frozen=True, slots=True)
class VariableDecl:
    """One variable; `name` carries its `$`.

    name_arg: whether `(inner)` must, may or must not follow the name. fixed_names: the only inner names there are,
    empty when any goes. inline: a Python expression over `run` (and `{name!r}`) that reads it without a call when there
    is no index; inline_store: a Python target that writes it. Both are hints: `get` and `set` mean the same.
    index_words: what may stand in the brackets beside a number, a variable and `*`. index_scopes: what may follow a
    number or a variable there, `[0/active]`; `get` then has the text "0/active".
    """

    name: str
    module: str
    get: VariableGet
    set: VariableSet | None = None
    name_arg: bool | Literal["optional"] = False
    index: bool = False
    writable: bool = False
    fixed_names: tuple[str, ...] = ()
    parse_name: Callable[[str], object] | None = None
    replace: VariableSet | None = None
    inline: str = ""
    inline_store: str = ""
    doc: str = ""
    index_words: tuple[str, ...] = ()
    index_scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TransformationDecl:
    """One transformation `{cls.name,params...}`; `name` is without the class.

    params: "string", "number" or "char" for each parameter, with a trailing "?" when it is optional. with_run: `apply`
    takes the run before the value.
    """

    cls: str
    name: str
    params: tuple[str, ...]
    apply: Callable[..., Value]
    takes_null: bool = False
    doc: str = ""
    with_run: bool = False


@dataclass(frozen=True, slots=True)
class EventDecl:
    """One event and the names of its parameters."""

    name: str
    module: str
    params: tuple[str, ...] = ()
    doc: str = ""


MAX_FLAGS: Final = 32


class FlagNames:
    """The bits behind flag names, one numbering for "message" flags and one for "branch" flags.

    A name gets the next free bit when the script first mentions it; 32 of each kind, as the manual says.
    """

    def __init__(self) -> None:
        self._bits: dict[str, dict[str, int]] = {"message": {}, "branch": {}}

    def mask(self, kind: str, name: str) -> int:
        """The bit mask of one flag; a new name is given a bit. Raises ValueError when all 32 are taken."""
        bits = self._bits[kind]
        mask = bits.get(name)
        if mask is None:
            if not name:
                raise ValueError("a flag needs a name")
            if len(bits) >= MAX_FLAGS:
                raise ValueError(f"too many {kind} flags: {MAX_FLAGS} names are the most")
            mask = bits[name] = 1 << len(bits)
        return mask

    def known(self, kind: str, name: str) -> int:
        """The bit mask of a flag that was named before, else 0."""
        return self._bits[kind].get(name, 0)

    def snapshot(self) -> dict[str, dict[str, int]]:
        """The names known now, for `restore`."""
        return {kind: dict(bits) for kind, bits in self._bits.items()}

    def restore(self, snapshot: dict[str, dict[str, int]]) -> None:
        """Forget the names mentioned since, as by a script that turned out to be wrong."""
        self._bits = {kind: dict(bits) for kind, bits in snapshot.items()}

    def names(self, kind: str, mask: int) -> list[str]:
        """The names of the flags set in a mask, in order of first mention."""
        return [name for name, bit in self._bits[kind].items() if bit & mask]


@dataclass(slots=True)
class Catalogue:
    """Everything a script may name, filled while the core and the modules are loaded."""

    functions: dict[str, FunctionDecl] = field(default_factory=dict)
    variables: dict[str, VariableDecl] = field(default_factory=dict)
    transformations: dict[str, TransformationDecl] = field(default_factory=dict)
    events: dict[str, EventDecl] = field(default_factory=dict)
    modules: list[str] = field(default_factory=list)
    flags: FlagNames = field(default_factory=FlagNames)
    # What has been looked up for the script that is checked.
    suggestions: dict[tuple[str, str], str | None] = field(default_factory=dict)

    def add_function(self, decl: FunctionDecl) -> None:
        """Make a function known. A later module's function of the same name is kept beside under its arity rules:
        the first one wins, as in the C server, where core functions and earlier modules are looked at first."""
        self.functions.setdefault(decl.name, decl)

    def add_variable(self, decl: VariableDecl) -> None:
        """Make a variable known; the first of a name wins."""
        self.variables.setdefault(decl.name.removeprefix("$"), decl)

    def add_transformation(self, decl: TransformationDecl) -> None:
        """Make a transformation known; the first of a name wins."""
        self.transformations.setdefault(f"{decl.cls}.{decl.name}", decl)

    def add_event(self, decl: EventDecl) -> None:
        """Make an event known."""
        self.events.setdefault(decl.name, decl)

    def function(self, name: str) -> FunctionDecl | None:
        return self.functions.get(name)

    def variable(self, name: str) -> VariableDecl | None:
        """A variable by its name, with or without `$`, without parentheses."""
        return self.variables.get(name.removeprefix("$"))

    def transformation(self, name: str) -> TransformationDecl | None:
        """A transformation by "class.name"."""
        return self.transformations.get(name)

    def suggest(self, kind: str, name: str) -> str | None:
        """The nearest known name: kind is "function", "variable", "transformation", "event" or "module". None where no
        name is near, and once a script has asked for so many that it is no script of this language."""
        key = (kind, name)
        if key not in self.suggestions:
            if len(self.suggestions) >= MAX_SUGGESTIONS:
                return None
            self.suggestions[key] = self._nearest(kind, name)
        return self.suggestions[key]

    def _nearest(self, kind: str, name: str) -> str | None:
        pools: dict[str, Iterable[str]] = {
            "function": self.functions,
            "variable": self.variables,
            "transformation": self.transformations,
            "event": self.events,
            "module": self.modules,
        }
        bare = name.removeprefix("$")
        near = difflib.get_close_matches(bare, pools[kind], n=1, cutoff=NEAR)
        if not near:
            folded = {known.lower(): known for known in pools[kind]}
            near = [folded[bare.lower()]] if bare.lower() in folded else []
        if not near:
            return None
        return f"${near[0]}" if kind == "variable" else near[0]

    def route_mask(self, words: Iterable[str]) -> int:
        """The mask of kinds for the catalogue's words."""
        mask = 0
        for word in words:
            mask |= kinds.kind_bit(word)
        return mask
