"""The rules of a dialplan in memory, laid out so that an input meets few of them.

Rules for equal texts are in dicts. Expressions that begin with known characters, as most number plans do, are in dicts
by those characters; only the others are tried one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from heapq import merge
from typing import Any, Final

import regex

from opensipspy.db import DbValue
from opensipspy.module.table_cache import cell_int, cell_text
from opensipspy.module.time_rec import Check, parse
from opensipspy.script.declare import Catalogue, Value
from opensipspy.script.formats import VariableError
from opensipspy.script.pcre import compiled, is_simple, literal_prefixes
from opensipspy.script.run import Run
from opensipspy.script.varsyntax import parse_variable

EQUAL: Final = 0
EXPRESSION: Final = 1
IGNORE_CASE: Final = 1
SEARCH_SECONDS: Final = 0.1
LONGEST_INPUT: Final = 1024
LONGEST_OUTPUT: Final = 1024
LONGEST_SIMPLE: Final = 128
INT_MIN: Final = -(1 << 31)
INT_MAX: Final = (1 << 31) - 1

Reader = Callable[[Run], Value]
Piece = str | int | Reader
"""A part of a replacement: text, the number of a group, or a variable."""


class TranslationError(Exception):
    """The rule was found, and cannot be applied."""


def request_uri(run: Run) -> Value:
    return run.ruri


def parse_replacement(text: str, groups: int, catalogue: Catalogue) -> list[Piece]:
    """The parts of a replacement: \\0 to \\9, \\u for the Request-URI, variables. Raises ValueError."""
    pieces: list[Piece] = []
    literal: list[str] = []

    def put(piece: int | Reader) -> None:
        if literal:
            pieces.append("".join(literal))
            literal.clear()
        pieces.append(piece)

    at = 0
    while at < len(text):
        char = text[at]
        if char == "\\" and at + 1 < len(text):
            at += 1
            char = text[at]
            if "0" <= char <= "9":
                if int(char) > groups:
                    raise ValueError(f"repl_exp names group {char}, subst_exp has {groups}")
                put(int(char))
            elif char == "u":
                put(request_uri)
            else:
                literal.append({"n": "\n", "r": "\r", "t": "\t"}.get(char, char))
        elif char == "$":
            try:
                spec = parse_variable(text, at, catalogue)
            except VariableError as error:
                raise ValueError(f"repl_exp: {error}") from error
            put(spec.reader())
            at = spec.end
            continue
        else:
            literal.append(char)
        at += 1
    if literal:
        pieces.append("".join(literal))
    return pieces


class Rule:
    """One row. order: (priority, id), the lowest of the rules that match is taken. search, subst: bound searches."""

    __slots__ = (
        "attrs",
        "dpid",
        "exact",
        "expression",
        "id",
        "ignore_case",
        "is_equal",
        "order",
        "pieces",
        "replacement",
        "search",
        "simple",
        "subst",
        "subst_simple",
        "when",
    )

    def __init__(self, cells: Sequence[DbValue], catalogue: Catalogue) -> None:
        """cells: id, dpid, pr, match_op, match_exp, match_flags, subst_exp, repl_exp, attrs, timerec."""
        id, dpid, pr, op, match_exp, flags, subst_exp, repl_exp, attrs, timerec = cells
        self.id = cell_int(id, "id", INT_MIN, (1 << 63) - 1)
        self.dpid = cell_int(dpid, "dpid", INT_MIN, INT_MAX)
        self.order = (cell_int(pr, "pr", INT_MIN, INT_MAX, null=0), self.id)
        self.is_equal = cell_int(op, "match_op", EQUAL, EXPRESSION) == EQUAL
        self.expression = cell_text(match_exp, "match_exp")
        self.ignore_case = bool(cell_int(flags, "match_flags", 0, INT_MAX, null=0) & IGNORE_CASE)
        self.attrs = cell_text(attrs, "attrs", null="")
        self.replacement = cell_text(repl_exp, "repl_exp", null="")
        recurrence = cell_text(timerec, "timerec", null="").strip()
        self.when: Check | None = parse(recurrence) if recurrence else None
        case = int(regex.IGNORECASE) if self.ignore_case else 0
        self.search: Any = None
        self.simple = False
        if not self.expression:
            raise ValueError("match_exp is empty")
        if not self.is_equal:
            try:
                self.search = compiled(self.expression, case).search
            except ValueError as error:
                raise ValueError(f"match_exp: {error}") from None
            self.simple = is_simple(self.expression)
        subst = cell_text(subst_exp, "subst_exp", null="")
        self.subst: Any = None
        self.subst_simple = False
        self.pieces: list[Piece] | None = None
        if subst:
            try:
                expression = compiled(subst, case)
            except ValueError as error:
                raise ValueError(f"subst_exp: {error}") from None
            self.subst = expression.search
            self.subst_simple = is_simple(subst)
            if self.replacement:
                self.pieces = parse_replacement(self.replacement, expression.groups, catalogue)

    def matches(self, text: str) -> bool:
        """Whether the expression is found in the text. May raise TimeoutError."""
        if self.simple and len(text) <= LONGEST_SIMPLE:
            return self.search(text) is not None
        return self.search(text, timeout=SEARCH_SECONDS) is not None

    def output(self, text: str, run: Run | None) -> str | None:
        """What the text becomes; None when the rule has no replacement. May raise TimeoutError, TranslationError."""
        if not self.replacement:
            return None
        if self.subst is None or self.pieces is None:
            return self.replacement
        if self.subst_simple and len(text) <= LONGEST_SIMPLE:
            match = self.subst(text)
        else:
            match = self.subst(text, timeout=SEARCH_SECONDS)
        if match is None:
            raise TranslationError("its match_exp fits and its subst_exp does not")
        out: list[str] = []
        for piece in self.pieces:
            if isinstance(piece, str):
                out.append(piece)
            elif isinstance(piece, int):
                out.append(match.group(piece) or "")
            elif run is not None:
                value = piece(run)
                out.append("" if value is None else str(value))
        made = "".join(out)
        if len(made) > LONGEST_OUTPUT:
            raise TranslationError(f"its output has {len(made)} characters, {LONGEST_OUTPUT} are allowed")
        return made


class Plan:
    """The rules of one dialplan id."""

    __slots__ = ("caseless", "equal", "lengths", "others", "prefixed")

    def __init__(self) -> None:
        self.equal: dict[str, list[Rule]] = {}
        self.caseless: dict[str, list[Rule]] = {}
        self.prefixed: dict[str, list[Rule]] = {}
        self.others: list[Rule] = []
        self.lengths: list[int] = []

    def add(self, rule: Rule) -> None:
        if rule.is_equal:
            if rule.ignore_case:
                self.caseless.setdefault(rule.expression.lower(), []).append(rule)
            else:
                self.equal.setdefault(rule.expression, []).append(rule)
            return
        prefixes = [] if rule.ignore_case else literal_prefixes(rule.expression)
        for prefix in dict.fromkeys(prefixes):
            self.prefixed.setdefault(prefix, []).append(rule)
        if not prefixes:
            self.others.append(rule)

    def finish(self) -> None:
        for several in (self.equal, self.caseless, self.prefixed):
            for rules in several.values():
                rules.sort(key=_order)
        self.others.sort(key=_order)
        self.lengths = sorted({len(prefix) for prefix in self.prefixed})

    def find(self, text: str, now: float) -> Rule | None:
        """The rule for a text; among those that match the one with the lowest priority, then id. May raise
        TimeoutError, for the rule in `args[0]`."""
        best: Rule | None = None
        for rules in (self.equal.get(text), self.caseless.get(text.lower()) if self.caseless else None):
            for rule in rules or ():
                if rule.when is None or rule.when(now):
                    if best is None or rule.order < best.order:
                        best = rule
                    break
        for rule in self._candidates(text):
            if best is not None and best.order < rule.order:
                break
            try:
                if rule.matches(text) and (rule.when is None or rule.when(now)):
                    return rule
            except TimeoutError:
                raise TimeoutError(rule) from None
        return best

    def _candidates(self, text: str) -> Iterable[Rule]:
        """The expressions that may match, in their order."""
        found: list[list[Rule]] = []
        for length in self.lengths:
            rules = self.prefixed.get(text[:length])
            if rules is not None:
                found.append(rules)
        if not found:
            return self.others
        if len(found) == 1 and not self.others:
            return found[0]
        return merge(*found, self.others, key=_order)


def _order(rule: Rule) -> tuple[int, int]:
    return rule.order


class Rules:
    """The rules of one partition, by dialplan id."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.plans: dict[int, Plan] = {}
        self._catalogue = catalogue

    def add(self, cells: Sequence[DbValue]) -> None:
        """Take a row, as `Rule` does; raises ValueError."""
        rule = Rule(cells, self._catalogue)
        plan = self.plans.get(rule.dpid)
        if plan is None:
            plan = self.plans[rule.dpid] = Plan()
        plan.add(rule)

    def finish(self) -> None:
        for plan in self.plans.values():
            plan.finish()
