"""A start with a kept program: no parser, no checker, and the full way when the kept form does not fit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = 'socket=udp:127.0.0.1:5060\nloadmodule "proto_udp.so"\nroute { $var(x) = 5; if ($rU =~ "^b") exit; }\n'
CODE = """
import sys
from opensipspy.server.load import load
from opensipspy.server.options import Options
options = Options()
options.script = sys.argv[1]
loaded = load(options)
parts = ("lark", "opensipspy.script.parse", "opensipspy.script.checker")
print(loaded.script.compiled, [name for name in parts if name in sys.modules])
"""
WARNINGS = CODE.partition("parts")[0] + "print(loaded.script.compiled, loaded.warnings)"


def start(script: Path, home: Path, code: str = CODE) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, str(script)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "XDG_CACHE_HOME": str(home)},
    )
    return done.stdout.strip()


def test_the_second_start_loads_neither_parser_nor_checker(tmp_path: Path) -> None:
    script, home = tmp_path / "a.cfg", tmp_path / "cache"
    home.mkdir(mode=0o700)
    script.write_text(SCRIPT)
    assert start(script, home).startswith("False ['lark'")
    assert start(script, home) == "True []"
    script.write_text(SCRIPT + "# changed\n")
    assert start(script, home).startswith("False")


def test_the_second_start_tells_the_same_warnings(tmp_path: Path) -> None:
    script, home = tmp_path / "a.cfg", tmp_path / "cache"
    home.mkdir(mode=0o700)
    script.write_text(SCRIPT + "route[nobody_calls_me] { exit; }\n")
    first, second = (start(script, home, WARNINGS) for _ in range(2))
    assert "nobody_calls_me" in first
    assert first.removeprefix("False") == second.removeprefix("True")
