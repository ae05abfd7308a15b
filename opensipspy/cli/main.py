"""The command `opensipspy`: OpenSIPS's flags start the server, a first word names a subcommand.

A subcommand is a file of this folder with `SUMMARY`, `configure(parser)` and `run(args) -> int`. Only the one that is
asked for is imported, so that starting the server does not pay for the others.
"""

from __future__ import annotations

import ast
import difflib
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Final

PACKAGE: Final = "opensipspy.cli"
# Files of the folder that are no subcommands.
NOT_COMMANDS: Final = frozenset({"__init__", "main"})
USAGE_ERROR: Final = 2
# What a shell reports of a program that SIGPIPE ended.
READER_GONE: Final = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0].startswith("-"):
        return serve(arguments)
    name = arguments[0].replace("-", "_")
    if name == "run":
        return serve(arguments[1:])
    if name not in command_names():
        near = difflib.get_close_matches(name, command_names(), n=1)
        hint = f" Did you mean {near[0].replace('_', '-')}?" if near else ""
        print(f"opensipspy: there is no command {arguments[0]!r}.{hint} `opensipspy -h` lists them.", file=sys.stderr)
        return USAGE_ERROR
    return subcommand(name, arguments[1:])


def serve(arguments: list[str]) -> int:
    """Start the server with OpenSIPS's flags."""
    # A start makes next to no garbage, and looking for it takes a tenth of the time; the server enables it when ready.
    gc.disable()
    try:
        from opensipspy.cli import run

        return run.main(arguments)
    finally:
        gc.enable()


def subcommand(name: str, arguments: list[str]) -> int:
    """Run one subcommand by the name of its file."""
    import argparse

    module: ModuleType = importlib.import_module(f"{PACKAGE}.{name}")
    parser = argparse.ArgumentParser(prog=f"opensipspy {name.replace('_', '-')}", description=module.SUMMARY)
    module.configure(parser)
    try:
        status: int = module.run(parser.parse_args(arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads has seen enough (`| head`). What is still buffered goes nowhere, so that the end says nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    return status


def command_names() -> list[str]:
    """File names of the subcommands, sorted."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in NOT_COMMANDS)


def summaries() -> list[tuple[str, str]]:
    """(name, SUMMARY) of each subcommand, read without importing it."""
    found = []
    for name in command_names():
        tree = ast.parse((Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8"))
        for node in tree.body:
            target = (
                node.target
                if isinstance(node, ast.AnnAssign)
                else node.targets[0]
                if isinstance(node, ast.Assign)
                else None
            )
            if isinstance(target, ast.Name) and target.id == "SUMMARY" and isinstance(node, ast.Assign | ast.AnnAssign):
                if isinstance(node.value, ast.Constant):
                    found.append((name.replace("_", "-"), str(node.value.value)))
                break
    return found
