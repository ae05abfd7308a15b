"""Floating point arithmetic for scripts: numbers and results are texts, with `decimal_digits` decimals.

Expressions are read by a small parser of our own: nothing of the text is ever executed. What has no finite result (a
division by zero, the root of a negative number, an overflow) fails.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import Final

from opensipspy.module import Module, Param, ParamError, script_function
from opensipspy.script.kinds import ALL
from opensipspy.script.run import Run, VarRef

LONGEST: Final = 4096
DEEPEST: Final = 64
MOST_DIGITS: Final = 300
TOKEN: Final = re.compile(r"\s*(?:([0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?)|([a-z0-9]+)|(\S))")
NUMBER: Final = re.compile(r"\s*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?\s*\Z")


def _half_away(value: float) -> float:
    return math.copysign(math.floor(abs(value) + 0.5), value)


FUNCTIONS: Final[dict[str, Callable[[float], float]]] = {
    "abs": math.fabs,
    "acos": math.acos,
    "asin": math.asin,
    "atan": math.atan,
    "ceil": math.ceil,
    "cos": math.cos,
    "cosh": math.cosh,
    "exp": math.exp,
    "floor": math.floor,
    "ln": math.log,
    "log": math.log10,
    "log10": math.log10,
    "sin": math.sin,
    "sinh": math.sinh,
    "sqrt": math.sqrt,
    "tan": math.tan,
    "tanh": math.tanh,
}
CONSTANTS: Final = {"e": math.e, "pi": math.pi}
RPN_UNARY: Final[dict[str, Callable[[float], float]]] = {
    "neg": lambda a: -a,
    "exp": math.exp,
    "ln": math.log,
    "log10": math.log10,
    "abs": math.fabs,
    "sqrt": math.sqrt,
    "cbrt": lambda a: math.copysign(abs(a) ** (1 / 3), a),
    "floor": math.floor,
    "ceil": math.ceil,
    "round": _half_away,
    "nearbyint": round,
    "trunc": math.trunc,
}
RPN_BINARY: Final[dict[str, Callable[[float, float], float]]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "mod": math.fmod,
    "pow": math.pow,
}


class MathError(ValueError):
    """The text cannot be evaluated."""


class _Parser:
    """sum: product {+|- product}; product: power {*|/|% power}; power: signed {^ signed}, from left to right."""

    def __init__(self, text: str) -> None:
        self.tokens = [match.groups() for match in TOKEN.finditer(text)]
        self.at = 0
        self.depth = 0

    def symbol(self) -> str:
        return (self.tokens[self.at][2] or "") if self.at < len(self.tokens) else ""

    def whole(self) -> float:
        value = self.sum()
        if self.at < len(self.tokens):
            raise MathError(f"unexpected {''.join(part or '' for part in self.tokens[self.at])!r}")
        return value

    def sum(self) -> float:
        value = self.product()
        while (sign := self.symbol()) in ("+", "-"):
            self.at += 1
            right = self.product()
            value = value + right if sign == "+" else value - right
        return value

    def product(self) -> float:
        value = self.power()
        while (sign := self.symbol()) in ("*", "/", "%"):
            self.at += 1
            right = self.power()
            value = value * right if sign == "*" else value / right if sign == "/" else math.fmod(value, right)
        return value

    def power(self) -> float:
        value = self.signed()
        while self.symbol() == "^":
            self.at += 1
            value = math.pow(value, self.signed())
        return value

    def signed(self) -> float:
        negative = False
        while (sign := self.symbol()) in ("+", "-"):
            negative ^= sign == "-"
            self.at += 1
        value = self.base()
        return -value if negative else value

    def base(self) -> float:
        if self.at >= len(self.tokens):
            raise MathError("a number is missing at the end")
        number, name, symbol = self.tokens[self.at]
        self.at += 1
        if number:
            return float(number)
        self.depth += 1
        if self.depth > DEEPEST:
            raise MathError(f"nested deeper than {DEEPEST}")
        try:
            if name in FUNCTIONS:
                return FUNCTIONS[name](self.base())
            if name in CONSTANTS:
                if self.symbol() == "(":
                    self.at += 1
                    self.close()
                return CONSTANTS[name]
            if symbol == "(":
                value = self.sum()
                self.close()
                return value
        finally:
            self.depth -= 1
        raise MathError(f"unexpected {name or symbol!r}")

    def close(self) -> None:
        if self.symbol() != ")":
            raise MathError("a closing parenthesis is missing")
        self.at += 1


def evaluate(text: str) -> float:
    """The value of an expression; raises MathError."""
    if len(text) > LONGEST:
        raise MathError(f"longer than {LONGEST} characters")
    return _finite(lambda: _Parser(text).whole())


def evaluate_rpn(text: str) -> float:
    """The value of an expression in reverse Polish notation; raises MathError."""
    if len(text) > LONGEST:
        raise MathError(f"longer than {LONGEST} characters")
    return _finite(lambda: _rpn(text.split()))


def _rpn(words: list[str]) -> float:
    stack: list[float] = []
    for word in words:
        if word in RPN_BINARY and len(stack) >= 2:
            right = stack.pop()
            stack.append(RPN_BINARY[word](stack.pop(), right))
        elif word in RPN_UNARY and stack:
            stack.append(RPN_UNARY[word](stack.pop()))
        elif word in CONSTANTS:
            stack.append(CONSTANTS[word])
        elif word == "drop" and stack:
            stack.pop()
        elif word == "dup" and stack:
            stack.append(stack[-1])
        elif word == "swap" and len(stack) >= 2:
            stack[-1], stack[-2] = stack[-2], stack[-1]
        elif NUMBER.match(word):
            stack.append(float(word))
        else:
            raise MathError(f"{word!r} is unknown or finds too little on the stack")
    if len(stack) != 1:
        raise MathError(f"{len(stack)} values are left, not one")
    return stack[0]


def _finite(function: Callable[[], float]) -> float:
    try:
        value = float(function())
    except MathError:
        raise
    except (ArithmeticError, ValueError) as error:
        raise MathError(str(error)) from error
    if not math.isfinite(value):
        raise MathError("the result is no finite number")
    return value


def _number(text: str) -> Decimal:
    """A number as a script writes it; raises MathError."""
    if len(text) > MOST_DIGITS or not NUMBER.match(text):
        raise MathError(f"{text[:40]!r} is no number")
    value = Decimal(text.strip())
    if abs(value.adjusted()) > MOST_DIGITS:
        raise MathError("the number is out of range")
    return value


def round_decimals(value: Decimal, decimals: int) -> Decimal:
    """Round to so many decimals, ties away from zero."""
    with localcontext() as context:
        context.prec = 2 * MOST_DIGITS + 20 + abs(decimals)
        return value.quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_HALF_UP)


class MathOps(Module):
    """Floating point operations."""

    name = "mathops"

    decimal_digits = Param(int, 6, "Decimals of the results, 0 to 300.")

    def set_param(self, name: str, value: object) -> None:
        super().set_param(name, value)
        if not 0 <= self.decimal_digits <= MOST_DIGITS:
            raise ParamError(self.name, "decimal_digits", f"is from 0 to {MOST_DIGITS}, not {self.decimal_digits}")

    def _write(self, run: Run, result: VarRef, function: Callable[[], str | int]) -> int:
        try:
            value = function()
        except MathError as error:
            self.core.log.warning("mathops: %s", error)
            return -1
        result.set(run, value)
        return 1

    def _text(self, value: float) -> str:
        return f"{value:.{self.decimal_digits}f}"

    @script_function(routes=ALL)
    def math_eval(self, run: Run, expression: str, result_var: VarRef) -> int:
        """Evaluate + - * / ^ % with parentheses and the functions of C; -1 when it has no result."""
        return self._write(run, result_var, lambda: self._text(evaluate(expression)))

    @script_function(routes=ALL)
    def math_rpn(self, run: Run, expression: str, result_var: VarRef) -> int:
        """Evaluate an expression in reverse Polish notation; -1 when it has no result."""
        return self._write(run, result_var, lambda: self._text(evaluate_rpn(expression)))

    @script_function(routes=ALL)
    def math_trunc(self, run: Run, number: str, result_var: VarRef) -> int:
        """Round a number towards zero and write an integer; -1 when it is no number."""
        return self._write(run, result_var, lambda: _small(math.trunc(_number(number))))

    @script_function(routes=ALL)
    def math_floor(self, run: Run, number: str, result_var: VarRef) -> int:
        """Round a number down and write an integer; -1 when it is no number."""
        return self._write(run, result_var, lambda: _small(math.floor(_number(number))))

    @script_function(routes=ALL)
    def math_ceil(self, run: Run, number: str, result_var: VarRef) -> int:
        """Round a number up and write an integer; -1 when it is no number."""
        return self._write(run, result_var, lambda: _small(math.ceil(_number(number))))

    @script_function(routes=ALL)
    def math_round(self, run: Run, number: str, result_var: VarRef, decimals: int = 0) -> int:
        """Round to the nearest, ties away from zero: to an integer, or to a text with so many decimals."""

        def rounded() -> str | int:
            if not 0 <= decimals <= MOST_DIGITS:
                raise MathError(f"{decimals} is no number of decimals")
            value = round_decimals(_number(number), decimals)
            return f"{value:f}" if decimals else _small(int(value))

        return self._write(run, result_var, rounded)

    @script_function(routes=ALL)
    def math_round_sf(self, run: Run, number: str, result_var: VarRef, figures: int = 1) -> int:
        """Round to so many significant figures and write a text."""

        def rounded() -> str:
            if not 1 <= figures <= MOST_DIGITS:
                raise MathError(f"{figures} is no number of figures")
            value = _number(number)
            decimals = figures - 1 - (value.adjusted() if value else 0)
            value = round_decimals(value, decimals)
            return f"{value:.{decimals if decimals > 0 else 0}f}"

        return self._write(run, result_var, rounded)

    @script_function(routes=ALL)
    def math_compare(self, run: Run, exp1: str, exp2: str, result_var: VarRef) -> int:
        """Write 1 when the first expression is the larger one, -1 when the second is, 0 when they are equal."""

        def compared() -> int:
            first, second = evaluate(exp1), evaluate(exp2)
            return (first > second) - (first < second)

        return self._write(run, result_var, compared)


def _small(value: int) -> int:
    """An integer of a script has 32 bits; raises MathError for a larger one."""
    if not -(2**31) <= value < 2**31:
        raise MathError("the result is no integer of 32 bits")
    return value
