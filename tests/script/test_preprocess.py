"""Included files and the external preprocessor: what is read, and where a line is said to be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from opensipspy.script import Finding, ScriptErrors, parse_script, tree

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a file below the working directory; gives its path from there."""
    monkeypatch.chdir(tmp_path)

    def make(name: str, *lines: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return name

    return make


def findings(path: str, preprocessor: str = "") -> list[Finding]:
    with pytest.raises(ScriptErrors) as raised:
        parse_script(path, preprocessor)
    return raised.value.findings


def test_include_and_import_stand_at_top_level_and_inside_a_route(write: Write) -> None:
    write("inside.cfg", "  exit;")
    write("top.cfg", "route[a] {", "  drop;", "}")
    main = write("main.cfg", 'include_file "top.cfg"', "route {", "  import_file 'inside.cfg'", "}")
    script = parse_script(main)
    assert [(block.name, block.body[0].pos[:2]) for block in script.blocks] == [
        ("a", ("top.cfg", 2)),
        ("", ("inside.cfg", 1)),
    ]
    assert script.files == ["main.cfg", "top.cfg", "inside.cfg"]


def test_a_relative_path_is_looked_for_in_the_working_directory_then_beside_the_file(write: Write) -> None:
    write("sub/near.cfg", "route[near] { }")
    write("sub/both.cfg", "route[beside] { }")
    write("both.cfg", "route[working] { }")
    main = write("sub/main.cfg", 'include_file "near.cfg"', 'include_file "both.cfg"')
    assert [block.name for block in parse_script(main).blocks] == ["near", "working"]


def test_findings_name_the_file_and_line_they_are_in(write: Write) -> None:
    write("inner.cfg", "route[a] {", "  $var(x) = ;", "}")
    main = write("main.cfg", "route { exit; }", 'include_file "inner.cfg"', "route[b] {", "  $var(y) = ;", "}")
    assert [f.pos[:3] for f in findings(main)] == [("inner.cfg", 2, 13), ("main.cfg", 4, 13)]
    with pytest.raises(ScriptErrors) as raised:
        parse_script(main)
    assert "inner.cfg:2:13: error: unexpected ';' (expected a value)\n      $var(x) = ;\n" in raised.value.render()


def test_a_missing_file_is_shown_where_it_is_asked_for(write: Write) -> None:
    main = write("main.cfg", "route { }", '  include_file "none.cfg"')
    (finding,) = findings(main)
    assert finding.pos[:3] == ("main.cfg", 2, 17)
    assert "none.cfg" in finding.message


def test_a_missing_script_is_an_error_with_its_name(write: Write) -> None:
    (finding,) = findings("nothing.cfg")
    assert "nothing.cfg" in finding.message


def test_include_needs_a_quoted_path(write: Write) -> None:
    (finding,) = findings(write("main.cfg", "include_file other.cfg"))
    assert (finding.line, finding.hint) == (1, 'include_file "path", alone on its line')


def test_files_that_include_each_other_are_an_error(write: Write) -> None:
    write("a.cfg", 'include_file "b.cfg"')
    write("b.cfg", 'include_file "a.cfg"')
    (finding,) = findings("a.cfg")
    assert finding.message == "files include each other 20 deep"


def test_twenty_levels_of_files_are_read(write: Write) -> None:
    for level in range(20):
        write(f"{level}.cfg", f'include_file "{level + 1}.cfg"')
    write("20.cfg", "route { }")
    assert len(parse_script("0.cfg").blocks) == 1


def test_lines_may_end_in_cr_lf(write: Write, tmp_path: Path) -> None:
    (tmp_path / "dos.cfg").write_bytes(b'route {\r\n  xlog("a\r\nb");\r\n  bad bad;\r\n}\r\n')
    (finding,) = findings("dos.cfg")
    assert finding.line == 4


def test_text_that_is_not_utf_8_keeps_its_octets(write: Write, tmp_path: Path) -> None:
    (tmp_path / "latin.cfg").write_bytes(b'route { xlog("caf\xe9"); }\n')
    (statement,) = parse_script("latin.cfg").blocks[0].body
    assert isinstance(statement, tree.Log)
    assert statement.text.value.encode("utf-8", "surrogateescape") == b"caf\xe9"


# -- -p


def test_the_preprocessor_filters_the_text_with_its_includes(write: Write) -> None:
    write("inner.cfg", "route[NAME] { }")
    main = write("main.cfg", "route { }", 'include_file "inner.cfg"')
    script = parse_script(main, "sed s/NAME/name/")
    assert [block.name for block in script.blocks] == ["", "name"]
    assert script.blocks[1].pos[:2] == ("inner.cfg", 1)


def test_line_marks_of_the_preprocessor_are_followed(write: Write) -> None:
    main = write("main.cfg", "route { }")
    command = """printf '#line 40 "macros.m4"\\nroute {\\n  bad bad;\\n}\\n'"""
    (finding,) = findings(main, command)
    assert finding.pos[:2] == ("macros.m4", 41)


def test_without_line_marks_a_finding_shows_the_line_that_was_read(write: Write) -> None:
    main = write("main.cfg", "one", "two", "three", "four")
    with pytest.raises(ScriptErrors) as raised:
        parse_script(main, "printf 'route {\\n  bad bad;\\n}\\n'")
    assert "    " + "  bad bad;" in raised.value.render()


@pytest.mark.parametrize("command", ["exit 3", "echo 'no such macro' >&2; exit 3"])
def test_a_preprocessor_that_fails_is_told_with_what_it_said(write: Write, command: str) -> None:
    (finding,) = findings(write("main.cfg", "route { }"), command)
    assert "status 3" in finding.message
    assert ("no such macro" in finding.message) is ("macro" in command)


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    script = tmp_path / "opensips.cfg"
    script.write_bytes(b"\xef\xbb\xbflog_level=3\nroute { exit; }\n")
    assert parse_script(str(script)).findings == []
