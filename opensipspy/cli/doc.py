"""`opensipspy doc`: the reference manual of modules as Markdown, printed from their declarations."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from opensipspy.module import ModuleLoadError, find_module, module_names
from opensipspy.module.describe import manual

SUMMARY: Final = "write the reference manual of modules"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="module names")
    parser.add_argument("--all", action="store_true", help="all modules that can be loaded here")
    parser.add_argument("-o", dest="folder", type=Path, metavar="DIR", help="write DIR/NAME.md instead of printing")


def run(args: argparse.Namespace) -> int:
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
