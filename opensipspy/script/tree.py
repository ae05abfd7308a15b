"""The tree of a script: what the grammar says was written, each node with its place. Nothing is resolved yet."""

from __future__ import annotations

from dataclasses import dataclass

from opensipspy.script.errors import Pos


@dataclass(frozen=True, slots=True)
class Node:
    pos: Pos


# -- values and expressions


@dataclass(frozen=True, slots=True)
class Text(Node):
    value: str


@dataclass(frozen=True, slots=True)
class Number(Node):
    value: int


@dataclass(frozen=True, slots=True)
class Null(Node):
    pass


@dataclass(frozen=True, slots=True)
class Net(Node):
    """An address or network."""

    text: str


@dataclass(frozen=True, slots=True)
class Var(Node):
    """A variable as it is spelled."""

    text: str


@dataclass(frozen=True, slots=True)
class Word(Node):
    """An unquoted word where a value stands: a mistake that deserves its own message."""

    name: str


@dataclass(frozen=True, slots=True)
class Call(Node):
    """A function call; an omitted argument is None."""

    name: str
    args: tuple[Expr | None, ...]


@dataclass(frozen=True, slots=True)
class Compare(Node):
    op: str
    left: Var
    right: Expr


@dataclass(frozen=True, slots=True)
class Not(Node):
    operand: Expr


@dataclass(frozen=True, slots=True)
class Logic(Node):
    """`&&` or `||`; op is "and" or "or"."""

    op: str
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Binary(Node):
    op: str
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class BitNot(Node):
    operand: Expr


@dataclass(frozen=True, slots=True)
class Group(Node):
    """Statements in a condition: `{ ... }`; true when the last one is."""

    body: tuple[Stm, ...]


# -- statements


@dataclass(frozen=True, slots=True)
class Assign(Node):
    op: str
    target: Var
    value: Expr


@dataclass(frozen=True, slots=True)
class If(Node):
    condition: Expr
    then: tuple[Stm, ...]
    otherwise: tuple[Stm, ...]


@dataclass(frozen=True, slots=True)
class While(Node):
    condition: Expr
    body: tuple[Stm, ...]


@dataclass(frozen=True, slots=True)
class For(Node):
    target: Var
    source: Var
    body: tuple[Stm, ...]


@dataclass(frozen=True, slots=True)
class Case(Node):
    """value is None for `default`."""

    value: Text | Number | None
    body: tuple[Stm, ...]


@dataclass(frozen=True, slots=True)
class Switch(Node):
    subject: Var
    cases: tuple[Case, ...]


@dataclass(frozen=True, slots=True)
class Break(Node):
    pass


@dataclass(frozen=True, slots=True)
class Exit(Node):
    pass


@dataclass(frozen=True, slots=True)
class Drop(Node):
    pass


@dataclass(frozen=True, slots=True)
class Return(Node):
    """value is None for a bare return; more: what `$return(n)` reads from 1 on."""

    value: Expr | None
    more: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class RouteCall(Node):
    """name: Text for a constant name (which may be a format), or Var."""

    name: Text | Var
    args: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Async(Node):
    call: Call
    route: Text
    timeout_s: int


@dataclass(frozen=True, slots=True)
class Launch(Node):
    call: Call
    route: Text | None
    param: Text | None


@dataclass(frozen=True, slots=True)
class Assert(Node):
    condition: Expr
    message: str


@dataclass(frozen=True, slots=True)
class Log(Node):
    """xlog, xdbg and log; level is None for the default."""

    keyword: str
    level: Text | Number | None
    text: Text


@dataclass(frozen=True, slots=True)
class ErrorStm(Node):
    """error("class", "reason"): parsed, and only logged, as in the C server."""

    kind: str
    reason: str


Expr = (
    Text
    | Number
    | Null
    | Net
    | Var
    | Word
    | Call
    | Compare
    | Not
    | Logic
    | Binary
    | BitNot
    | Group
    | Assign
    | RouteCall
    | Return
    | Exit
    | Drop
    | Log
    | Assert
    | ErrorStm
    | If
)
Stm = (
    Call
    | Assign
    | If
    | While
    | For
    | Switch
    | Break
    | Exit
    | Drop
    | Return
    | RouteCall
    | Async
    | Launch
    | Assert
    | Log
    | ErrorStm
)


# -- the file


@dataclass(frozen=True, slots=True)
class Block(Node):
    """One route block. kind: a bit of `kinds`; name "" for an unnamed one; interval_s for timer routes."""

    kind: int
    name: str
    interval_s: int
    body: tuple[Stm, ...]
    name_pos: Pos


@dataclass(frozen=True, slots=True)
class LoadModule(Node):
    name: str


@dataclass(frozen=True, slots=True)
class ModParam(Node):
    module: str
    name: str
    value: str | int
    module_pos: Pos
    name_pos: Pos
    value_pos: Pos
