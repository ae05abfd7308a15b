"""Compiled scripts kept between starts: used when nothing has changed and nobody else can have written them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from opensipspy.script import ProgramCache, check, compile_script, parse_script
from tests.script.lab import Lab

SCRIPT = """socket=udp:127.0.0.1:5060 tag inside
mpath="/nowhere"
loadmodule "sl.so"
modparam("sl", "x", "y")
route { $avp(n) = "7"; route(a, 5); if (even("$avp(n)") || find("^beta$")) note("to $rU $rc"); setflag("F"); }
route[a] { note("$param(1)"); return(3); }
timer_route[t, 10] { note("t"); }
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "main.cfg"
    path.write_text(SCRIPT)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def keep(path: Path, folder: Path) -> bool:
    lab = Lab()
    script = parse_script(str(path))
    assert not [f for f in check(script, lab.catalogue) if f.severity == "error"]
    return ProgramCache(folder).store(script, compile_script(script, lab.catalogue))


def test_a_kept_script_is_the_same_program(script: Path, folder: Path) -> None:
    assert ProgramCache(folder).load(str(script)) is None
    assert keep(script, folder)
    cached = ProgramCache(folder).load(str(script))
    assert cached is not None
    assert cached.compiled
    assert [module.name for module in cached.loadmodules] == ["sl.so"]
    assert [(p.module, p.name, p.value, p.value_pos.line) for p in cached.modparams] == [("sl", "x", "y", 4)]
    assert cached.mpath == ["/nowhere"]
    assert cached.globals.sockets[0].tag == "inside"
    lab = Lab()
    assert check(cached, lab.catalogue) == []  # type: ignore[arg-type]
    program = compile_script(cached, lab.catalogue)
    assert program.main is not None
    run = lab.new_run(program)
    assert program.main.fn(run) == 1
    assert lab.notes == ["5", "to bob 1"]
    assert run.msg_flags == lab.catalogue.flags.mask("message", "F")
    assert [seconds for seconds, _ in program.timer_routes] == [10]


def test_loading_a_kept_script_needs_neither_parser_nor_checker(script: Path, folder: Path) -> None:
    keep(script, folder)
    code = (
        "import sys; from opensipspy.script import ProgramCache\n"
        "assert ProgramCache(sys.argv[1]).load(sys.argv[2]) is not None\n"
        "print([m for m in ('opensipspy.script.parse', 'opensipspy.script.checker', 'lark.lark') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(script)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def _change_text(script: Path, folder: Path) -> None:
    script.write_text(SCRIPT + "# more\n")


def _damage(script: Path, folder: Path) -> None:
    for file in folder.iterdir():
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(bytes(data))


def _cut(script: Path, folder: Path) -> None:
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[:40])


def _empty(script: Path, folder: Path) -> None:
    for file in folder.iterdir():
        file.write_bytes(b"")


def _open_file(script: Path, folder: Path) -> None:
    for file in folder.iterdir():
        file.chmod(0o620)


def _open_folder(script: Path, folder: Path) -> None:
    folder.chmod(0o777)


def _unreadable_script(script: Path, folder: Path) -> None:
    script.unlink()


@pytest.mark.parametrize(
    "spoil",
    [_change_text, _damage, _cut, _empty, _open_file, _open_folder, _unreadable_script],
    ids=lambda f: f.__name__,
)
def test_what_is_stale_damaged_or_open_to_others_is_not_used(
    script: Path, folder: Path, spoil: Callable[[Path, Path], None]
) -> None:
    keep(script, folder)
    spoil(script, folder)
    assert ProgramCache(folder).load(str(script)) is None


def test_a_change_in_an_included_file_counts(script: Path, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.cfg"
    other.write_text("route[b] { exit; }\n")
    script.write_text(SCRIPT + f'include_file "{other}"\n')
    keep(script, folder)
    assert ProgramCache(folder).load(str(script)) is not None
    other.write_text("route[b] { drop; }\n")
    assert ProgramCache(folder).load(str(script)) is None


def test_a_change_in_a_module_of_mpath_counts(script: Path, folder: Path, tmp_path: Path) -> None:
    """Which functions wait is part of the code, so a changed module makes it stale."""
    modules = tmp_path / "modules" / "big"
    modules.mkdir(parents=True)
    (modules / "part.py").write_text("x = 1\n")
    script.write_text(SCRIPT.replace("/nowhere", str(tmp_path / "modules")))
    keep(script, folder)
    assert ProgramCache(folder).load(str(script)) is not None
    (modules / "part.py").write_text("x = 1000\n")
    assert ProgramCache(folder).load(str(script)) is None


def test_a_preprocessed_script_is_never_kept(script: Path, folder: Path) -> None:
    """What a preprocessor writes may depend on anything."""
    lab = Lab()
    parsed = parse_script(str(script), "cat")
    assert not ProgramCache(folder).store(parsed, compile_script(parsed, lab.catalogue))
    assert ProgramCache(folder).load(str(script), "cat") is None


def test_a_folder_that_cannot_be_used_is_no_error(script: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert not keep(script, blocked / "cache")
    assert ProgramCache(blocked / "cache").load(str(script)) is None


def test_the_folder_is_made_for_this_user_alone(script: Path, folder: Path) -> None:
    keep(script, folder)
    assert folder.stat().st_mode & 0o077 == 0
    assert [file.stat().st_uid for file in folder.iterdir()] == [os.geteuid()]
