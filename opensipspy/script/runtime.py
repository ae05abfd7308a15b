"""What compiled routes call: comparison, conditions, arithmetic and assignment with OpenSIPS's typing.

A value is an int, a str or None (NULL). The rules, as the C server has them:

* An int is also the text of its digits, so an int compares with a string as text; a string never becomes an int by
  itself (`{s.int}` does that), and comparing one with a number is an error.
* Strings compare without regard to ASCII case; a string that is a prefix of the other is the lesser.
* NULL equals NULL only. Every other comparison with it is false, `!=` and `!~` are true.
* A comparison gives 1, 0, or -1 for an error. `!` keeps an error, `&&` and `||` stop at one, `if` takes it as false.
* `=~` is a POSIX extended expression, found anywhere, without regard to case.
* Integers are 32 bits, signed, and wrap.

Errors that a script can cause raise `EvaluationError`; the statement logs it with its line and goes on.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Callable
from typing import Final

from opensipspy.script.kinds import kind_keyword
from opensipspy.script.patterns import Pattern, PatternCache
from opensipspy.script.run import Run, Value

MAX_ROUTE_DEPTH: Final = 100
# Key in `Run.ctx` of what script_trace() asked for.
TRACE: Final = "core.trace"

L_ALERT: Final = -3
L_CRIT: Final = -2
L_ERR: Final = -1
L_WARN: Final = 1
L_NOTICE: Final = 2
L_INFO: Final = 3
L_DBG: Final = 4

OP_EQ: Final = 0
OP_NE: Final = 1
OP_LT: Final = 2
OP_GT: Final = 3
OP_LE: Final = 4
OP_GE: Final = 5

_OPERATORS: Final = ("==", "!=", "<", ">", "<=", ">=")
COMPARISONS: Final = {"==": OP_EQ, "!=": OP_NE, "<": OP_LT, ">": OP_GT, "<=": OP_LE, ">=": OP_GE}


class Network:
    """A network of addresses as numbers. v6: which of the two families."""

    __slots__ = ("first", "mask", "v6")

    def __init__(self, v6: bool, first: int, mask: int) -> None:
        self.v6: bool = v6
        self.first: int = first
        self.mask: int = mask


class EvaluationError(Exception):
    """An operator met operands it has no result for; the statement it stands in is not carried out."""


class DivisionByZero(EvaluationError):
    """A number was to be divided by 0 or NULL."""

    def __init__(self) -> None:
        super().__init__("division by zero")


def lower(text: str) -> str:
    """ASCII letters in lower case and nothing else: SIP's and the script's comparisons know no other case."""
    return text.lower() if text.isascii() else "".join(c.lower() if c < "\x80" else c for c in text)


def wrap(number: int) -> int:
    """A number as the 32-bit signed integer that the script language has."""
    return ((number + 0x80000000) & 0xFFFFFFFF) - 0x80000000


def to_text(value: Value) -> str:
    """A value as a format string shows it; NULL is "<null>"."""
    if value is None:
        return "<null>"
    return value if isinstance(value, str) else str(value)


def position() -> str:
    """Where the script is, as "file:line": the nearest frame that is not Python source; "" outside of a script."""
    frame = sys._getframe(0)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.endswith(".py") and not name.startswith("<"):
            return f"{name}:{frame.f_lineno}"
        if frame.f_back is None:
            break
        frame = frame.f_back
    return ""


def report(run: Run, reason: str, level: int = L_ERR) -> None:
    """Log a run-time error of the script with its position, the routes on the way and the call it happened in."""
    if run.services is not None:
        where = position()
        run.services.log(level, f"{where}: {reason}{circumstances(run)}" if where else reason + circumstances(run))


def enter(run: Run, kind: int, name: str, params: tuple[Value, ...]) -> bool:
    """Begin a called route; False when routes call each other too deep, which ends the script."""
    stack = run._route_stack
    if stack is None:
        stack = run.route_stack
    elif len(stack) >= MAX_ROUTE_DEPTH:
        report(run, f"routes call each other more than {MAX_ROUTE_DEPTH} deep at route[{name}]")
        run.exited = True
        return False
    stack.append((kind, name))
    run.params.append(params)
    return True


def leave(run: Run) -> None:
    """End a called route."""
    stack, frames = run._route_stack, run._params
    if stack and frames:
        stack.pop()
        frames.pop()


def circumstances(run: Run) -> str:
    """The routes that are running, innermost first, and the call: " in route[b] < route[a], Call-ID x"."""
    names = [f"{kind_keyword(kind)}[{name}]" if name else kind_keyword(kind) for kind, name in run.route_stack]
    inside = " in " + " < ".join(reversed(names)) if names else ""
    return f"{inside}, Call-ID {run.msg.call_id}"


def level_of(word: str) -> int:
    """The log level that a word names by its third letter, as xlog() has it: "L_ALERT", "L_CRIT", "L_ERR", "L_WARN",
    "L_NOTICE", "L_INFO", "L_DBG". Raises ValueError."""
    letters = {"A": L_ALERT, "C": L_CRIT, "E": L_ERR, "W": L_WARN, "N": L_NOTICE, "I": L_INFO, "D": L_DBG}
    if len(word) < 3 or word[2].upper() not in letters:
        raise ValueError(f"{word!r} is no log level")
    return letters[word[2].upper()]


class Trace:
    """What script_trace() asked for: a log level, what to show with each statement, and a mark of the region."""

    __slots__ = ("info", "level", "values")

    def __init__(self, level: int, values: Callable[[Run], str] | None, info: str) -> None:
        self.level: int = level
        self.values: Callable[[Run], str] | None = values
        self.info: str = info


def trace(run: Run, place: str, action: str) -> None:
    """Log the statement that comes next, if the message is traced."""
    found = run.ctx.get(TRACE)
    if not isinstance(found, Trace) or run.services is None:
        return
    mark = f"[{found.info}]" if found.info else ""
    shown = found.values(run) if found.values is not None else ""
    run.services.log(found.level, f"[Script Trace][{place}]{mark}[{action}] -> ({shown})")


def xlog(run: Run, level: int, text: Callable[[Run], str]) -> int:
    """The statement xlog(): the text is made only when `xlog_level` lets it through. Always 1."""
    services = run.services
    if services is not None and level <= services.xlog_level():
        services.xlog(level, text(run))
    return 1


def xlog_dynamic(run: Run, level: Value, text: Callable[[Run], str]) -> int:
    """xlog() whose level is a variable: a number, or a word as above; anything else is L_ERR."""
    if isinstance(level, int):
        return xlog(run, level, text)
    try:
        return xlog(run, level_of(level or ""), text)
    except ValueError:
        return xlog(run, L_ERR, text)


# -- comparison ----------------------------------------------------------------------------------------------------


def _ordered(op: int, sign: int) -> int:
    if op == OP_EQ:
        return 1 if sign == 0 else 0
    if op == OP_NE:
        return 1 if sign != 0 else 0
    if op == OP_LT:
        return 1 if sign < 0 else 0
    if op == OP_GT:
        return 1 if sign > 0 else 0
    if op == OP_LE:
        return 1 if sign <= 0 else 0
    return 1 if sign >= 0 else 0


def _compare_text(op: int, left: str, right: str) -> int:
    if left == right:
        return _ordered(op, 0)
    folded_left, folded_right = lower(left), lower(right)
    if folded_left == folded_right:
        return _ordered(op, 0)
    return _ordered(op, -1 if folded_left < folded_right else 1)


def compare(run: Run, op: int, left: Value, right: Value) -> int:
    """`left op right` for two variables; op is one of OP_*. Returns 1, 0, or -1 (error)."""
    if left is None or right is None:
        if left is right:
            return 1 if op == OP_EQ else 0
        return 1 if op == OP_NE else 0
    if isinstance(left, int) and isinstance(right, int):
        return _ordered(op, (left > right) - (left < right))
    return _compare_text(op, to_text(left), to_text(right))


def compare_text(run: Run, op: int, left: Value, right: str) -> int:
    """`$variable op "constant"`."""
    if left is None:
        return 1 if op == OP_NE else 0
    return _compare_text(op, left if isinstance(left, str) else str(left), right)


def compare_int(run: Run, op: int, left: Value, right: int) -> int:
    """`$variable op number`; a string on the left is an error, as in the C server."""
    if isinstance(left, int):
        if left == right:
            return 1 if op in (OP_EQ, OP_LE, OP_GE) else 0
        if left > right:
            return 1 if op in (OP_GT, OP_NE, OP_GE) else 0
        return 1 if op in (OP_LT, OP_NE, OP_LE) else 0
    if left is None:
        return 1 if op == OP_NE else 0
    report(run, f"invalid {_OPERATORS[op]} operation: left is a string, right is an integer", L_WARN)
    return -1


def equal_text(left: Value, right: str, folded: str) -> bool:
    """`$variable == "constant"`; folded is `lower(right)`, computed once by the compiler. Never an error."""
    if left == right:
        return True
    if isinstance(left, str):
        return len(left) == len(right) and lower(left) == folded
    return left is not None and str(left) == right


def compare_net(run: Run, op: int, left: Value, network: Network) -> int:
    """`$variable == address/prefix`. A value that is no address is an error."""
    if left is None:
        return 1 if op == OP_NE else 0
    inside = address_in(to_text(left), network)
    if inside is None:
        return -1
    return int(inside) if op == OP_EQ else int(not inside)


def parse_network(text: str) -> Network:
    """A network from "address", "address/prefix" or "address/mask", v6 with or without brackets. Raises ValueError."""
    found = ipaddress.ip_network(text.replace("[", "").replace("]", ""), strict=False)
    return Network(found.version == 6, int(found.network_address), int(found.netmask))


def address_in(text: str, network: Network) -> bool | None:
    """Whether an address (v6 with or without brackets) lies in a network; None when it is no address."""
    number = ipv4_number(text)
    if number >= 0:
        return not network.v6 and number & network.mask == network.first
    try:
        address = ipaddress.IPv6Address(text[1:-1] if text.startswith("[") else text)
    except ValueError:
        return None
    return network.v6 and int(address) & network.mask == network.first


def ipv4_number(text: str) -> int:
    """A dotted IPv4 address as its number, -1 when the text is none. Digits with a leading zero are none."""
    parts = text.split(".")
    if len(parts) != 4 or not text.isascii():
        return -1
    number = 0
    for part in parts:
        if not part.isdigit() or len(part) > 3 or (len(part) > 1 and part[0] == "0"):
            return -1
        octet = int(part)
        if octet > 255:
            return -1
        number = number << 8 | octet
    return number


def match(run: Run, left: Value, pattern: Pattern) -> int:
    """`$variable =~ "constant"`; the pattern was compiled at load."""
    if left is None:
        return 0
    try:
        return 1 if pattern.search(left if isinstance(left, str) else str(left)) else 0
    except TimeoutError:
        report(run, f"gave up matching /{pattern.text}/: it takes too long on this text")
        return -1


def match_dynamic(run: Run, left: Value, right: Value) -> int:
    """`$variable =~ $variable`; NULL matches NULL only."""
    if left is None or right is None:
        return 1 if left is right else 0
    cache = run.services.patterns if run.services is not None else PatternCache()
    try:
        pattern = cache.get(to_text(right))
    except ValueError as error:
        report(run, f"bad regular expression: {error}", L_WARN)
        return -1
    return match(run, left, pattern)


def not_match(run: Run, left: Value, pattern: Pattern) -> int:
    """`$variable !~ "constant"`; true for NULL."""
    found = match(run, left, pattern)
    return found if found < 0 else 1 - found


def not_match_dynamic(run: Run, left: Value, right: Value) -> int:
    """`$variable !~ $variable`."""
    found = match_dynamic(run, left, right)
    return found if found < 0 else 1 - found


def truth(value: Value) -> bool:
    """A bare variable as a condition: a number but 0, or a string but the empty one."""
    return bool(value)


def negate(result: int) -> int:
    """`!` of a comparison: an error stays an error."""
    return result if result < 0 else 1 - (1 if result > 0 else 0)


# -- arithmetic ----------------------------------------------------------------------------------------------------


def _type_name(value: Value) -> str:
    if value is None:
        return "NULL"
    return "a string" if isinstance(value, str) else "an integer"


def _bad(op: str, left: Value, right: Value) -> EvaluationError:
    return EvaluationError(f"unsupported operands for {op}: {_type_name(left)} and {_type_name(right)}")


def add(left: Value, right: Value) -> Value:
    """`left + right`, right being written or calculated: a sum when the left side is an int, else a concatenation,
    which takes no number. NULL on the right counts as nothing."""
    if isinstance(left, int):
        if isinstance(right, int):
            return wrap(left + right)
        if right is None:
            return left
        raise _bad("+", left, right)
    if right is None:
        return left if left is not None else ""
    if isinstance(right, int):
        raise _bad("+", left, right)
    return right if left is None else left + right


def add_variable(left: Value, right: Value) -> Value:
    """`left + $variable`: as `add`, and a number behind a string or NULL is the text of its digits."""
    if isinstance(right, int) and not isinstance(left, int):
        return str(right) if left is None else left + str(right)
    return add(left, right)


def add_to_port(left: Value, right: Value) -> Value:
    """`$rp + right`: the port of a URI is a number, and text in front of a string."""
    if isinstance(left, int) and isinstance(right, str):
        return str(left) + right
    return add(left, right)


def _numbers(op: str, left: Value, right: Value) -> tuple[int, int]:
    if not isinstance(left, int) or isinstance(right, str):
        raise _bad(op, left, right)
    return left, right or 0


def subtract(left: Value, right: Value) -> Value:
    a, b = _numbers("-", left, right)
    return wrap(a - b)


def multiply(left: Value, right: Value) -> Value:
    a, b = _numbers("*", left, right)
    return wrap(a * b)


def divide(left: Value, right: Value) -> Value:
    """Integer division that rounds toward zero, as C's does."""
    a, b = _numbers("/", left, right)
    if b == 0:
        raise DivisionByZero
    quotient = abs(a) // abs(b)
    return wrap(quotient if (a < 0) == (b < 0) else -quotient)


def modulo(left: Value, right: Value) -> Value:
    """The remainder, with the sign of the left side, as C's has."""
    a, b = _numbers("%", left, right)
    if b == 0:
        raise DivisionByZero
    rest = abs(a) % abs(b)
    return -rest if a < 0 else rest


def quotient(run: Run, left: Value, right: Value) -> Value:
    """`left / right` in an expression: division by zero is logged and gives 0."""
    try:
        return divide(left, right)
    except DivisionByZero as error:
        report(run, str(error))
        return 0


def remainder(run: Run, left: Value, right: Value) -> Value:
    """`left % right` in an expression: division by zero is logged and gives 0."""
    try:
        return modulo(left, right)
    except DivisionByZero as error:
        report(run, str(error))
        return 0


def _bytewise(op: str, left: Value, right: Value) -> Value:
    """`&`, `|` and `^` of two strings of one length work on their bytes."""
    if not isinstance(left, str) or not isinstance(right, str):
        raise _bad(op, left, right)
    a, b = left.encode("utf-8", "surrogateescape"), right.encode("utf-8", "surrogateescape")
    if len(a) != len(b):
        raise EvaluationError(f"strings of different length for {op}")
    if op == "&":
        mixed = bytes(x & y for x, y in zip(a, b, strict=True))
    elif op == "|":
        mixed = bytes(x | y for x, y in zip(a, b, strict=True))
    else:
        mixed = bytes(x ^ y for x, y in zip(a, b, strict=True))
    return mixed.decode("utf-8", "surrogateescape")


def bit_and(left: Value, right: Value) -> Value:
    if isinstance(left, int):
        a, b = _numbers("&", left, right)
        return wrap(a & b)
    return _bytewise("&", left, right)


def bit_or(left: Value, right: Value) -> Value:
    if isinstance(left, int):
        a, b = _numbers("|", left, right)
        return wrap(a | b)
    return _bytewise("|", left, right)


def bit_xor(left: Value, right: Value) -> Value:
    if isinstance(left, int):
        a, b = _numbers("^", left, right)
        return wrap(a ^ b)
    return _bytewise("^", left, right)


def shift_left(left: Value, right: Value) -> Value:
    """`<<`; the distance counts modulo 32, as the processors that run the C server take it."""
    a, b = _numbers("<<", left, right)
    return wrap(a << (b & 31))


def shift_right(left: Value, right: Value) -> Value:
    """`>>`, keeping the sign; the distance counts modulo 32."""
    a, b = _numbers(">>", left, right)
    return a >> (b & 31)


def bit_not(value: Value) -> Value:
    if not isinstance(value, int):
        raise EvaluationError(f"~ needs an integer, not {_type_name(value)}")
    return wrap(~value)


BINARY: Final = {
    "+": add,
    "-": subtract,
    "*": multiply,
    "/": divide,
    "%": modulo,
    "&": bit_and,
    "|": bit_or,
    "^": bit_xor,
    "<<": shift_left,
    ">>": shift_right,
}


def compound(op: str, left: Value, right: Value) -> Value:
    """The new value of `left op= right`, op being "+", "-", ... Raises EvaluationError for NULL on either side, for two
    types, and for strings with anything but "+"."""
    if left is None or right is None:
        raise EvaluationError(f"NULL in {op}=")
    if isinstance(left, str) != isinstance(right, str) or (isinstance(left, str) and op != "+"):
        raise _bad(f"{op}=", left, right)
    return BINARY[op](left, right)
