"""`opensipspy fmt`: scripts in canonical layout, with every comment in its place."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import tempfile
from pathlib import Path
from typing import Final

from opensipspy.script.errors import ScriptErrors
from opensipspy.script.layout import LayoutError, layout

SUMMARY: Final = "lay a routing script out anew, without changing what it says"
FAILED: Final = 2


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scripts", nargs="+", metavar="FILE", help="routing script, - for standard input to output")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 when a script would change")
    parser.add_argument("--diff", action="store_true", help="write nothing; show what would change")


def run(args: argparse.Namespace) -> int:
    """0 when all is well, 1 when --check or --diff found a script to change, 2 when a script cannot be laid out."""
    status = 0
    for path in args.scripts:
        status = max(status, _one(path, args.check, args.diff))
    return status


def _one(path: str, check: bool, diff: bool) -> int:
    try:
        text = sys.stdin.read() if path == "-" else read_script(path)
        new = layout(text, path)
    except ScriptErrors as errors:
        print(errors.render(), file=sys.stderr)
        print(f"{path}: left as it is: a script with mistakes has no layout", file=sys.stderr)
        return FAILED
    except (LayoutError, OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        print(f"{path}: left as it is: {reason}", file=sys.stderr)
        return FAILED
    if check or diff:
        if new == text:
            return 0
        if diff:
            print(unified(path, text, new), end="")
        else:
            print(f"{path}: would be laid out anew")
        return 1
    if path == "-":
        print(new, end="")
    elif new != text:
        write_script(path, new)
        print(f"{path}: laid out anew")
    return 0


def read_script(path: str) -> str:
    """The text of a file, as it is; what is not UTF-8 comes back as it was when written again."""
    return Path(path).read_bytes().decode("utf-8", "surrogateescape").removeprefix("\ufeff")


def write_script(path: str, text: str) -> None:
    """Replace a file by one with another text at once: whoever reads it sees the old or the new one, never a half."""
    target = Path(os.path.realpath(path))
    mode = target.stat().st_mode
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
            os.fchmod(file.fileno(), mode & 0o7777)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def unified(path: str, old: str, new: str) -> str:
    """The difference of two texts as `diff -u` shows it, fit for a terminal and for `patch`."""
    lines = difflib.unified_diff(old.splitlines(keepends=True), new.splitlines(keepends=True), path, path)
    text = "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
    return text.encode("utf-8", "replace").decode("utf-8")
