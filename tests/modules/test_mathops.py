"""mathops: expressions, reverse Polish notation and rounding."""

from __future__ import annotations

import pytest

from opensipspy.module import ParamError
from opensipspy.module.testing import FakeCore, make_run, make_var, request
from opensipspy.modules.mathops import MathOps
from opensipspy.script.declare import Value


def result(function: str, *args: object, digits: int = 6) -> Value:
    """What the function writes; None when it fails."""
    core = FakeCore()
    core.add(MathOps(decimal_digits=digits))
    run = make_run(request(), core=core)
    before = 2 if function == "math_compare" else 1
    code = core.call(function, run, *args[:before], make_var("r"), *args[before:])
    assert (code == 1) == ("r" in run.vars)
    return run.vars.get("r")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1+2*3", "7.000000"),
        ("(1+2)*3", "9.000000"),
        ("-2^2", "4.000000"),
        ("2^3^2", "64.000000"),
        ("7 % 4 - -1", "4.000000"),
        ("sqrt(16) + abs(-2) + floor 1.5", "7.000000"),
        ("ln(e) + log(100) + cos(pi)", "2.000000"),
        ("3.141592 * (123.45678 - (3.141592 - 2.71828)) / 123.45678", "3.130820"),
        ("1e3 + .5", "1000.500000"),
    ],
)
def test_expressions(text: str, expected: str) -> None:
    """The manual: the usual precedence, ^ from left to right, functions of C."""
    assert result("math_eval", text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "1+", "(1", "1)", "1 2", "0/0", "5%0", "sqrt(-1)", "foo(1)", "__import__('os')", "(" * 5000 + "1",
     "-" * 3000, "abs " * 900 + "1", "1" * 5000],
)  # fmt: skip
def test_what_has_no_result_fails(text: str) -> None:
    assert result("math_eval", text) is None


def test_the_number_of_decimals() -> None:
    assert result("math_eval", "1/3", digits=2) == "0.33"
    with pytest.raises(ParamError):
        MathOps(decimal_digits=-1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 3 swap swap dup drop / exp ln 1 swap /", "3.000000"),
        ("2 10 pow", "1024.000000"),
        ("27 cbrt neg", "-3.000000"),
        ("2.5 round 2.5 nearbyint +", "5.000000"),
        ("-2.7 trunc 7 4 mod *", "-6.000000"),
        ("1 2", None),
        ("+", None),
        ("", None),
        ("1 0 /", "inf"),
        ("nan", None),
    ],
)
def test_reverse_polish_notation(text: str, expected: str | None) -> None:
    assert result("math_rpn", text) == expected


@pytest.mark.parametrize(
    ("function", "number", "expected"),
    [
        ("math_trunc", "3.7", 3),
        ("math_trunc", "-2.9", -2),
        ("math_floor", "3.7", 3),
        ("math_floor", "-2.9", -3),
        ("math_ceil", "3.2", 4),
        ("math_ceil", "-2.9", -2),
        ("math_round", "1.2", 1),
        ("math_round", "0.5", 1),
        ("math_round", "-0.5", -1),
        ("math_round", "x", None),
        ("math_trunc", "1e20", None),
        ("math_trunc", "1e9999", None),
        ("math_floor", "", None),
        ("math_ceil", "inf", None),
    ],
)
def test_rounding_to_integers(function: str, number: str, expected: int | None) -> None:
    assert result(function, number) == expected


def test_rounding_to_decimals() -> None:
    assert result("math_round", "3.141492", 4) == "3.1415"
    assert result("math_round", "1.005", 2) == "1.01"
    assert result("math_round", "1", -1) is None


@pytest.mark.parametrize(
    ("figures", "expected"),
    [(1, "20000"), (2, "18000"), (3, "17900"), (4, "17890"), (5, "17893"), (6, "17893.0"), (7, "17892.99")],
)
def test_significant_figures(figures: int, expected: str) -> None:
    """The manual's table."""
    assert result("math_round_sf", "17892.987", figures) == expected


def test_significant_figures_of_small_numbers() -> None:
    assert result("math_round_sf", "0.0012345", 2) == "0.0012"
    assert result("math_round_sf", "0", 2) == "0.0"
    assert result("math_round_sf", "1", 0) is None


def test_comparing() -> None:
    assert result("math_compare", "1 + 8", "7/2") == 1
    assert result("math_compare", "1", "2") == -1
    assert result("math_compare", "2*2", "4") == 0
    assert result("math_compare", "1", "0/0") is None


@pytest.mark.parametrize(
    ("expression", "value"),
    [("1/0", "inf"), ("-1/0", "-inf"), ("ln(0)", "-inf"), ("10^400", "inf"), ("1e400", "inf"), ("(-10)^401", "-inf"),
     ("exp(1000)", "inf"), ("0^(-1)", "inf"), ("floor(1/0)", "inf"), ("1/(1/0)", "0.000000")],
)  # fmt: skip
def test_out_of_range_is_infinite_as_in_c(expression: str, value: str) -> None:
    assert result("math_eval", expression) == value


def test_the_larger_may_be_infinite() -> None:
    assert result("math_compare", "1/0", "2") == 1
