"""Says in one line what went wrong, and where in the script: the user's own line first, never a page of ours."""

from __future__ import annotations

from traceback import walk_tb
from types import FrameType


def script_place(error: BaseException) -> str:
    """`file:line` of the innermost line of the script that was running, "" when none was."""
    found = ""
    for frame, line in walk_tb(error.__traceback__):
        if not _is_python(frame):
            found = f"{frame.f_code.co_filename}:{line}"
    return found


def script_routes(error: BaseException) -> str:
    """The routes that were running, innermost first, each with its line: `route[b] (x.cfg:9) < route (x.cfg:2)`."""
    found = []
    for frame, line in walk_tb(error.__traceback__):
        if not _is_python(frame):
            found.append(f"{frame.f_code.co_name} ({frame.f_code.co_filename}:{line})")
    return " < ".join(reversed(found))


def python_place(error: BaseException) -> str:
    """`file:line` of the innermost Python line, with the file's last two parts only."""
    found = ""
    for frame, line in walk_tb(error.__traceback__):
        if _is_python(frame):
            found = "/".join(frame.f_code.co_filename.split("/")[-2:]) + f":{line}"
    return found


def _is_python(frame: FrameType) -> bool:
    name = frame.f_code.co_filename
    return name.endswith(".py") or name.startswith("<")


def describe_failure(error: BaseException) -> str:
    """One line: place in the script, kind of error, its text, place in our code."""
    place = script_place(error)
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    inner = python_place(error)
    return (f"{place}: " if place else "") + text + (f" [{inner}]" if inner else "")
