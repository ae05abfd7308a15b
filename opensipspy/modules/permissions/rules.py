"""Files of rules as tcpd's hosts.allow has them, with regular expressions over pairs of URIs.

    left [EXCEPT left] : right [EXCEPT right]        # a comment

Each side is `ALL` or a list of POSIX extended expressions with commas, in quotes where they hold `,`, `:` or `#`; case
does not count.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from opensipspy.script.patterns import Pattern

LOG: Final = logging.getLogger(__name__)

LONGEST_LINE: Final = 4096
LONGEST_VALUE: Final = 4096
MOST_RULES: Final = 100_000
LARGEST_FILE: Final = 16 << 20
EXCEPT: Final = " EXCEPT "


class Side:
    """What one side of a rule takes; no expressions: everything."""

    __slots__ = ("but", "only")

    def __init__(self, text: str) -> None:
        taken, excepted, but = text.partition(EXCEPT)
        self.only: Sequence[Pattern] = () if taken.strip() == "ALL" else expressions(taken)
        self.but: Sequence[Pattern] = expressions(but) if excepted else ()

    def takes(self, value: str) -> bool:
        """May raise TimeoutError."""
        if self.only and not any(pattern.search(value) for pattern in self.only):
            return False
        return not any(pattern.search(value) for pattern in self.but)


class Rule:
    """One line."""

    __slots__ = ("left", "right")

    def __init__(self, line: str) -> None:
        left, right = sides(line)
        self.left = Side(left)
        self.right = Side(right)


def without_comment(line: str) -> str:
    quoted = False
    for at, char in enumerate(line):
        if char == '"':
            quoted = not quoted
        elif char == "#" and not quoted:
            return line[:at]
    return line


def sides(line: str) -> tuple[str, str]:
    """The two sides; the last colon outside quotes parts them. Raises ValueError."""
    quoted = False
    colon = -1
    for at, char in enumerate(line):
        if char == '"':
            quoted = not quoted
        elif char == ":" and not quoted:
            colon = at
    left, right = line[:colon], line[colon + 1 :]
    if colon < 0 or not left.strip() or not right.strip():
        raise ValueError("needs the form `expressions : expressions`")
    return left, right


def expressions(text: str) -> list[Pattern]:
    """The expressions of a list with commas; raises ValueError."""
    words: list[str] = []
    word: list[str] = []
    quoted = False
    for char in text:
        if char == '"':
            quoted = not quoted
        if char == "," and not quoted:
            words.append("".join(word))
            word = []
        else:
            word.append(char)
    words.append("".join(word))
    found = []
    for item in words:
        bare = item.strip().removeprefix('"').removesuffix('"')
        if not bare:
            raise ValueError("an expression is empty")
        found.append(Pattern(bare, ignore_case=True))
    return found


def parse_rules(text: str, name: str) -> list[Rule]:
    """The rules of a file; a line that is none is left out, and the log says which."""
    rules: list[Rule] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = without_comment(raw)
        if not line.strip():
            continue
        try:
            if len(line) > LONGEST_LINE:
                raise ValueError(f"has more than {LONGEST_LINE} characters")
            if len(rules) == MOST_RULES:
                raise ValueError(f"is behind {MOST_RULES} rules")
            rules.append(Rule(line))
        except ValueError as error:
            LOG.error("%s: line %d is left out: %s", name, number, error)
    return rules


def read_rules(path: Path) -> list[Rule]:
    """The rules of a file; a file that is not there has none."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            LOG.error("%s is left out: it has more than %d octets", path, LARGEST_FILE)
            return []
        text = path.read_text("utf-8", "surrogateescape")
    except FileNotFoundError:
        LOG.info("%s is not there: no rules", path)
        return []
    except OSError as error:
        LOG.error("%s cannot be read: %s", path, error.strerror)
        return []
    return parse_rules(text, str(path))


def found(rules: Sequence[Rule], left: str, right: str) -> bool:
    """Whether a rule takes the pair. May raise TimeoutError."""
    return any(rule.left.takes(left) and rule.right.takes(right) for rule in rules)


class RuleFiles:
    """A file of allowed and one of denied pairs."""

    __slots__ = ("allow", "allow_path", "deny", "deny_path", "read")

    def __init__(self, allow_path: str, deny_path: str) -> None:
        self.allow_path = allow_path
        self.deny_path = deny_path
        self.allow: list[Rule] = []
        self.deny: list[Rule] = []
        self.read = False

    def load(self, folder: Path) -> None:
        """Read both files, once; names without a folder are those of the script's folder."""
        if not self.read:
            self.allow = read_rules(within(folder, self.allow_path))
            self.deny = read_rules(within(folder, self.deny_path))
            self.read = True

    @property
    def empty(self) -> bool:
        return not self.allow and not self.deny

    def allows(self, left: str, right: str) -> bool:
        """The first word has the allow file, the second the deny file; what none names is allowed."""
        return found(self.allow, left, right) or not found(self.deny, left, right)


def within(folder: Path, name: str) -> Path:
    return Path(name) if "/" in name else folder / name
