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


def _of_c(function: Callable[..., float]) -> Callable[..., float]:
    """A function of `math` that answers as C's library does where Python raises: out of range is infinite, out of the
    domain is not a number."""

    def answer(*args: float) -> float:
        try:
            return function(*args)
        except OverflowError:
            odd_power = len(args) > 1 and args[1] % 2 == 1
            negative = args[0] < 0 and (odd_power or function is math.sinh)
            return -math.inf if negative else math.inf
        except ValueError:
            if args[0] == 0 and function in (math.log, math.log10):
                return -math.inf
            return math.inf if args[0] == 0 and function is math.pow else math.nan

    return answer


def _quotient(left: float, right: float) -> float:
    """Division as processors do it: by 0 it is infinite, and 0 by 0 is not a number."""
    if right:
        return left / right
    return math.copysign(math.inf, left) * math.copysign(1.0, right) if left else math.nan


def _whole(function: Callable[[float], float]) -> Callable[[float], float]:
    """Rounding, which leaves what is infinite as it is."""
    return lambda a: function(a) if math.isfinite(a) else a


FUNCTIONS: Final[dict[str, Callable[[float], float]]] = {
    "abs": math.fabs,
    "acos": _of_c(math.acos),
    "asin": _of_c(math.asin),
    "atan": math.atan,
    "ceil": _whole(math.ceil),
    "cos": _of_c(math.cos),
    "cosh": _of_c(math.cosh),
    "exp": _of_c(math.exp),
    "floor": _whole(math.floor),
    "ln": _of_c(math.log),
    "log": _of_c(math.log10),
    "log10": _of_c(math.log10),
    "sin": _of_c(math.sin),
    "sinh": _of_c(math.sinh),
    "sqrt": _of_c(math.sqrt),
    "tan": _of_c(math.tan),
    "tanh": math.tanh,
}
CONSTANTS: Final = {"e": math.e, "pi": math.pi}
_POWER: Final = _of_c(math.pow)
_REST: Final = _of_c(math.fmod)
RPN_UNARY: Final[dict[str, Callable[[float], float]]] = {
    "neg": lambda a: -a,
    "exp": _of_c(math.exp),
    "ln": _of_c(math.log),
    "log10": _of_c(math.log10),
    "abs": math.fabs,
    "sqrt": _of_c(math.sqrt),
    "cbrt": lambda a: math.copysign(abs(a) ** (1 / 3), a),
    "floor": _whole(math.floor),
    "ceil": _whole(math.ceil),
    "round": _whole(_half_away),
    "nearbyint": _whole(round),
    "trunc": _whole(math.trunc),
}
RPN_BINARY: Final[dict[str, Callable[[float, float], float]]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": _quotient,
    "mod": _REST,
    "pow": _POWER,
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
            value = value * right if sign == "*" else _quotient(value, right) if sign == "/" else _REST(value, right)
        return value

    def power(self) -> float:
        value = self.signed()
        while self.symbol() == "^":
            self.at += 1
            value = _POWER(value, self.signed())
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
    return _number_of(lambda: _Parser(text).whole())


def evaluate_rpn(text: str) -> float:
    """The value of an expression in reverse Polish notation; raises MathError."""
    if len(text) > LONGEST:
        raise MathError(f"longer than {LONGEST} characters")
    return _number_of(lambda: _rpn(text.split()))


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


def _number_of(function: Callable[[], float]) -> float:
    try:
        value = float(function())
    except MathError:
        raise
    except (ArithmeticError, ValueError) as error:
        raise MathError(str(error)) from error
    if math.isnan(value):
        raise MathError("the result is not a number")
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
        """Evaluate + - * / ^ % with parentheses and the functions of C: 1/0 is "inf"; -1 when it has no result."""
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
