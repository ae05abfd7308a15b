"""`opensipspy new-module NAME`: a module and its test to start from."""

from __future__ import annotations

import argparse
import keyword
import sys
from pathlib import Path
from typing import Final

from opensipspy.module import module_names

SUMMARY: Final = "write a new module and its test to start from"

MODULE_TEXT: Final = '''\
"""{title}."""

from __future__ import annotations

from opensipspy.module import Module, Param, Stat, mi_command, script_function
from opensipspy.script.kinds import REQUEST
from opensipspy.script.run import Run


class {cls}(Module):
    """{title}."""

    greeting = Param(str, "Hello", "Word that {name}_greet() puts before the name.")
    greeted = Stat("Names that were greeted.")

    @script_function(routes=REQUEST)
    def {name}_greet(self, run: Run, who: str) -> int:
        """Log a greeting.

        Returns 1, or -1 when `who` is empty.
        """
        if not who:
            return -1
        self.greeted.inc()
        self.core.log.info("%s, %s", self.greeting, who)
        return 1

    @mi_command("{name}:greeted")
    def count(self) -> dict[str, int]:
        """How many names were greeted."""
        return {{"greeted": self.greeted.value}}
'''

TEST_TEXT: Final = '''\
"""{title}: what a script sees."""

from __future__ import annotations

import asyncio
{path_lines}
from opensipspy.module import find_module
from opensipspy.module.testing import FakeCore, make_run, request


def test_a_name_is_greeted_and_counted() -> None:
    core = FakeCore()
    core.add(find_module("{name}"{mpath})(greeting="Welcome"))
    run = make_run(request("OPTIONS"), core=core)
    assert core.call("{name}_greet", run, "alice") == 1
    assert core.call("{name}_greet", run, "") == -1
    assert asyncio.run(core.mi_call("{name}:greeted")) == {{"greeted": 1}}
'''


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the module, as loadmodule will give it")
    parser.add_argument(
        "-o",
        dest="folder",
        type=Path,
        metavar="DIR",
        help="folder for NAME.py and test_NAME.py (a script finds it by mpath); default: this source tree",
    )


def run(args: argparse.Namespace) -> int:
    name: str = args.name
    if not name.isidentifier() or not name.isascii() or keyword.iskeyword(name) or name.startswith("_"):
        print(f"opensipspy new-module: {name!r} is no module name: use letters, digits and _", file=sys.stderr)
        return 2
    if name in module_names():
        print(f"opensipspy new-module: there is a module {name} already", file=sys.stderr)
        return 1
    if args.folder is None:
        root = Path(__file__).resolve().parent.parent.parent
        if not (root / "tests" / "modules").is_dir():
            print("opensipspy new-module: this is no source tree, say with -o where to write", file=sys.stderr)
            return 1
        paths = (root / "opensipspy" / "modules" / f"{name}.py", root / "tests" / "modules" / f"test_{name}.py")
    else:
        args.folder.mkdir(parents=True, exist_ok=True)
        paths = (args.folder / f"{name}.py", args.folder / f"test_{name}.py")
    words = {
        "name": name,
        "cls": "".join(part.capitalize() for part in name.split("_") if part) or "New",
        "title": f"The {name} module",
        "path_lines": "" if args.folder is None else "from pathlib import Path\n",
        "mpath": "" if args.folder is None else ", [str(Path(__file__).parent)]",
    }
    for path, text in zip(paths, (MODULE_TEXT, TEST_TEXT), strict=True):
        try:
            # "x": a file that is there is somebody's work.
            with path.open("x", encoding="utf-8") as file:
                file.write(text.format(**words))
        except FileExistsError:
            print(f"opensipspy new-module: {path} exists already", file=sys.stderr)
            return 1
        print(f"wrote {path}")
    print(f'next: loadmodule "{name}.so" in a script, and pytest {paths[1]}')
    return 0
