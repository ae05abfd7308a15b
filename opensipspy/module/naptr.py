"""The rule of a NAPTR record: a substitution expression that its publisher wrote (RFC 3402 §3.2).

Publishers are strangers: expressions are limited in length and in matching time, and so is what they make.
"""

from __future__ import annotations

from typing import Final

from opensipspy.script.patterns import PatternCache

LONGEST_EXPRESSION: Final = 512
LONGEST_RESULT: Final = 512
MOST_FLAGS: Final = 8


def parse_rule(regexp: str) -> tuple[str, str, bool] | None:
    """Pattern, replacement and whether case is ignored, of "!pattern!replacement!flags"; None when it is malformed.

    The first character is the delimiter; behind a backslash it is itself.
    """
    if not 3 <= len(regexp) <= LONGEST_EXPRESSION or regexp[0].isdigit() or regexp[0] in "\\i":
        return None
    delimiter = regexp[0]
    parts = [""]
    at = 1
    while at < len(regexp):
        char = regexp[at]
        at += 1
        if char == "\\" and at < len(regexp):
            parts[-1] += delimiter if regexp[at] == delimiter else char + regexp[at]
            at += 1
        elif char == delimiter and len(parts) < 3:
            parts.append("")
        else:
            parts[-1] += char
    if len(parts) != 3 or len(parts[2]) > MOST_FLAGS or parts[2].lower().strip("i"):
        return None
    return parts[0], parts[1], bool(parts[2])


def apply_rule(regexp: str, text: str, patterns: PatternCache) -> str | None:
    """What a rule makes of a text; None when it does not match, is malformed or makes too much.

    Raises TimeoutError when matching takes too long. The result is the replacement with \\1 to \\9 filled in, \\0 being
    the whole match; nothing of the text is kept around it (RFC 6116 §3.4.3 uses the whole result as URI).
    """
    rule = parse_rule(regexp)
    if rule is None:
        return None
    pattern, replacement, ignore_case = rule
    try:
        match = patterns.get(pattern, ignore_case=ignore_case).find(text)
    except ValueError:
        return None
    if match is None:
        return None
    made: list[str] = []
    groups = len(match.groups())
    at = 0
    while at < len(replacement):
        char = replacement[at]
        at += 1
        if char == "\\" and at < len(replacement):
            char = replacement[at]
            at += 1
            if "0" <= char <= "9":
                number = ord(char) - ord("0")
                if number > groups:
                    return None
                char = match.group(number) or ""
        made.append(char)
    result = "".join(made)
    return result if len(result) <= LONGEST_RESULT else None
