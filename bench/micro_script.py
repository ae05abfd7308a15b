"""Nanoseconds for typical statements of a compiled route on one core: `python -m bench.micro_script`."""

from __future__ import annotations

import timeit
from typing import Final

from opensipspy.script import check, compile_script, has_errors, kinds, parse_script
from opensipspy.script.declare import FunctionDecl, ParamDecl
from opensipspy.script.run import Run
from opensipspy.sip import PROTO_UDP, Peer, parse_message
from tests.script.fakes import INVITE, UDP_SOCKET, Bench

STATEMENTS: Final = (
    ("a function without arguments", "plain();"),
    ("a function with two constants", 'pair("a", 5);'),
    ("a function with a format", 'pair("x $rU y", 5);'),
    ("a function in a condition", "if (!plain()) exit;"),
    ("a function that may wait and does not", "maybe();"),
    ("$var = number", "$var(x) = 5;"),
    ("$var = $var + number", "$var(x) = $var(x) + 1;"),
    ('if ($rU == "text")', 'if ($rU == "alice") exit;'),
    ("if ($var == number)", "if ($var(x) == 6) exit;"),
    ('if ($rU =~ "regular expression")', 'if ($rU =~ "^[0-9]{4}$") exit;'),
    ("if ($hdr(name) != NULL)", "if ($hdr(X-None) != NULL) exit;"),
    ("$avp = text", '$avp(a) := "text";'),
    ("route(name, value)", 'route(empty, "x");'),
    ("switch with three cases",
     'switch ($var(x)) { case 1: plain(); break; case 2: plain(); break; default: plain(); }'),
    ("xlog that is not printed", 'xlog("L_DBG", "$rU");'),
)  # fmt: skip
COPIES: Final = 20


def one(run: Run, *args: object) -> int:
    return 1


def measure(statement: str, rounds: int = 2000) -> float:
    """Nanoseconds for one execution of the statement."""
    bench = Bench()
    text, number = ParamDecl("text"), ParamDecl("number", "int")
    bench.catalogue.add_function(FunctionDecl("plain", "bench", (), kinds.ALL, one))
    bench.catalogue.add_function(FunctionDecl("pair", "bench", (text, number), kinds.ALL, one))
    bench.catalogue.add_function(FunctionDecl("maybe", "bench", (), kinds.ALL, one, waits="maybe"))
    script = parse_script("bench.cfg", text=f"route {{ {statement * COPIES} }} route[empty] {{ return(1); }}")
    assert not has_errors(check(script, bench.catalogue))
    program = compile_script(script, bench.catalogue)
    message = parse_message(INVITE.encode(), Peer(PROTO_UDP, "198.51.100.7", 5099), UDP_SOCKET)
    run = Run(message, program=program, services=bench.services)
    run.vars["x"] = 5
    main = program.main
    assert main is not None

    def step() -> None:
        result = main.fn(run)
        if main.is_async:
            try:
                result.send(None)
            except StopIteration:
                pass

    return min(timeit.repeat(step, number=rounds, repeat=5)) / rounds / COPIES * 1e9


def main() -> None:
    for name, statement in STATEMENTS:
        print(f"{name:<42} {measure(statement):8.0f} ns")


if __name__ == "__main__":
    main()
