"""Format strings: texts with variables in them, as xlog() and most string parameters take."""

from __future__ import annotations

from opensipspy.script.declare import Catalogue
from opensipspy.script.varsyntax import FormatString, VariableError, VarSpec, parse_format_text

__all__ = ["FormatString", "VarSpec", "VariableError", "parse_format"]


def parse_format(text: str, catalogue: Catalogue, file: str = "", line: int = 0) -> FormatString:
    """Parse a text once; the result is called with a `Run` and gives the text for it, NULL shown as "<null>".

    `$$` is a dollar sign. file, line: where the text stands in a script. Raises VariableError (a ValueError) with the
    offsets of the mistake.
    """
    return parse_format_text(text, catalogue, file, line)
