"""`opensipspy doc`: the reference manual of modules as Markdown, printed from their declarations."""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path
from typing import Final

from opensipspy.module import ModuleLoadError, find_module, module_names
from opensipspy.module.describe import manual
from opensipspy.script import names as old
from opensipspy.script.known import MODULES
from opensipspy.server import notes

REPLACED: Final = (
    "OpenSIPS 4 refuses these, and so does this server, with the place and the new name. "
    "`opensipspy check --fix` rewrites what can be rewritten safely."
)
SUMMARY: Final = "write the reference manual of modules"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="module names")
    parser.add_argument("--all", action="store_true", help="all modules that can be loaded here")
    parser.add_argument("--list", action="store_true", help="one line for each module, and what OpenSIPS 4 has besides")
    parser.add_argument("--replaced", action="store_true", help="names of OpenSIPS 1.x to 3.x, with those of today")
    parser.add_argument("-o", dest="folder", type=Path, metavar="DIR", help="write DIR/NAME.md instead of printing")


def run(args: argparse.Namespace) -> int:
    if args.list or args.replaced:
        print(overview() if args.list else replaced(), end="")
        return 0
    names = module_names() if args.all else args.modules
    if not names:
        print("opensipspy doc: name modules, or give --all", file=sys.stderr)
        return 2
    pages: dict[str, str] = {}
    for name in names:
        try:
            cls = find_module(name)
        except ModuleLoadError as error:
            print(f"opensipspy doc: {error}", file=sys.stderr)
            if not args.all:
                return 1
            continue
        pages[cls.name] = manual(cls)
    if args.folder is None:
        print("\n".join(pages.values()), end="")
        return 0
    args.folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        (args.folder / f"{name}.md").write_text(text, encoding="utf-8")
    index = "".join(f"- [{name}]({name}.md)\n" for name in sorted(pages))
    (args.folder / "index.md").write_text("# Modules\n\n" + index, encoding="utf-8")
    return 0


def overview() -> str:
    """Which modules are here, which of OpenSIPS 4 are not, and which never will be, as Markdown."""
    here = set(module_names())
    told = ["# Modules", "", "`opensipspy doc NAME` prints the manual of one, `opensipspy doc --list` this page.", ""]
    told += ["| module | what for |", "| --- | --- |"]
    for name in sorted(here):
        try:
            purpose = (find_module(name).__doc__ or "").strip().partition("\n")[0]
        except ModuleLoadError as error:
            purpose = str(error)
        told.append(f"| `{name}` | {purpose} |")
    missing = [name for name in sorted(MODULES) if name not in here and name not in old.NOT_PROVIDED]
    told += ["", "## Not here yet", "", "A script that loads one of these is refused, with the line and the name.", ""]
    told.append(textwrap.fill(", ".join(f"`{name}`" for name in missing), 120, break_on_hyphens=False))
    told += ["", "## Not provided", "", "| module | why | instead |", "| --- | --- | --- |"]
    told += [f"| `{name}` | {why} | {instead} |" for name, (why, instead) in sorted(old.NOT_PROVIDED.items())]
    return "\n".join(told) + "\n"


def replaced() -> str:
    """What OpenSIPS 1.x to 3.x said otherwise, and the global parameters that mean nothing here, as Markdown."""
    told = ["# Names of OpenSIPS 1.x to 3.x", ""]
    told.append(textwrap.fill(REPLACED, 120))
    words = {name: (now, old.KEYWORDS_GONE) for name, now in old.KEYWORDS.items()}
    for title, table in (
        ("Global parameters", old.GLOBALS),
        ("Words of comparisons", words),
        ("Functions", old.FUNCTIONS),
        ("Variables", {f"${name}": found for name, found in old.VARIABLES.items()}),
        ("Modules", old.MODULES),
        (
            "Parameters of modules",
            {f"{m}: {name}": found for m, names in old.PARAMETERS.items() for name, found in names.items()},
        ),
    ):
        told += ["", f"## {title}", "", "| was | now | gone since |", "| --- | --- | --- |"]
        told += [f"| `{name}` | {_cell(now)} | {since} |" for name, (now, since) in sorted(table.items())]
    told += ["", "## Accepted without effect", "", "Each is told once, in the log of the start.", ""]
    told += ["| global parameter | why |", "| --- | --- |"]
    told += [f"| `{name}` | {why} |" for name, why in sorted(notes.GLOBALS.items())]
    return "\n".join(told) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
