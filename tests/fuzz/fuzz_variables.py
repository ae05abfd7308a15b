"""Puts random variables, formats and regular expressions together, reads and writes them for one message.

Only VariableError (from parsing a format), ValueError (from a pattern) and TimeoutError (from a search) may come out.
`python -m tests.fuzz.fuzz_variables --seconds 60 --seed 1`; exits with 1 and prints the text at the first finding.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from random import Random
from typing import Final

from opensipspy.script.formats import parse_format
from opensipspy.script.patterns import Pattern
from opensipspy.script.run import Value
from opensipspy.script.varsyntax import VariableError
from tests.script.fakes import Bench

PIECES: Final = (
    *("$", "(", ")", "[", "]", "{", "}", "<", ">", "$(", "$$", "$avp(", "$var(x)", "/", "\\", ",", ".", " ", "%"),
    *(
        "ru",
        "avp",
        "var",
        "hdr",
        "x",
        "rb",
        "ct.fields",
        "uri",
        "branch",
        "msg.branch.uri",
        "param",
        "C",
        "time",
        "return",
    ),
    *(
        "s.",
        "s.len",
        "s.substr",
        "s.select",
        "re.subst",
        "nameaddr.",
        "name",
        "0.",
        "csv.value",
        "uri.param",
        "ip.pton",
    ),
    *(
        "sdp.line",
        "sdp.stream",
        "a=",
        "m=",
        "1",
        "-1",
        "*",
        "append",
        "insert",
        "request",
        "reply",
        "é",
        "\udcff",
        "return",
    ),
)
VALUES: Final[tuple[Value, ...]] = (None, "", 0, -1, 2147483647, "x", "sip:a@b.example", "v=0\r\n", "\r\n", "/a/b/g")
SIGNS: Final = "()[]{}*+?|^$.\\a1-:,<>=w"


def one_format(bench: Bench, random: Random, text: str) -> None:
    """Parse, print, read and write."""
    try:
        parsed = parse_format(text, bench.catalogue)
    except VariableError as error:
        if not 0 <= error.start <= error.end <= len(text) + 1:
            raise AssertionError(f"{error.start}..{error.end} is not in the text") from error
        return
    parsed(bench.run)
    parsed.value(bench.run)
    for spec in parsed.variables():
        if spec.writable:
            spec.writer()(bench.run, random.choice(VALUES))
            spec.replacer()(bench.run, random.choice(VALUES))


def one_pattern(random: Random, text: str) -> None:
    """Compile and search."""
    try:
        pattern = Pattern(text, lines=random.random() < 0.5)
    except ValueError:
        return
    try:
        pattern.search("a1-:aaaaw<>=" * random.randint(1, 40))
    except TimeoutError:
        return


def run(seed: int, iterations: int = 0, seconds: float = 0.0) -> int:
    """Try so many texts, or for so long; returns how many were tried. The first finding is raised with its text."""
    random = Random(seed)
    bench = Bench()
    end = time.monotonic() + seconds
    tried = 0
    while tried < iterations or (seconds and time.monotonic() < end):
        if tried % 200 == 0:
            bench = Bench()
        if random.random() < 0.8:
            text = "".join(random.choice(PIECES) for _ in range(random.randint(1, 14)))
        else:
            text = "".join(random.choice(SIGNS) for _ in range(random.randint(1, 12)))
        try:
            one_format(bench, random, text)
            one_pattern(random, text)
        except Exception as error:
            raise AssertionError(f"seed {seed}, text {text!r}") from error
        tried += 1
    return tried


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    try:
        print(f"{run(args.seed, seconds=args.seconds)} texts, no finding")
    except AssertionError:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
