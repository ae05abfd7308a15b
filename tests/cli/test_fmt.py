"""`opensipspy fmt`: what it writes, what it only says, and the exit status."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from opensipspy.cli.main import main

UGLY = 'route{if(is_method("INVITE")){exit;}# done\n}\n'
NICE = 'route {\n\tif (is_method("INVITE")) {\n\t\texit;\n\t}  # done\n}\n'


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "test.cfg"
    path.write_text(UGLY)
    path.chmod(0o600)
    return path


def test_a_script_is_laid_out_in_its_place(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fmt", str(script)]) == 0
    assert script.read_text() == NICE
    assert script.stat().st_mode & 0o777 == 0o600
    assert "laid out anew" in capsys.readouterr().out
    assert main(["fmt", "--check", str(script)]) == 0
    assert capsys.readouterr().out == ""
    assert [path.name for path in script.parent.iterdir()] == ["test.cfg"]


def test_check_and_diff_write_nothing(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fmt", "--check", str(script)]) == 1
    assert "would be laid out anew" in capsys.readouterr().out
    assert main(["fmt", "--diff", str(script)]) == 1
    assert "-route{if" in (out := capsys.readouterr().out)
    assert "+route {\n" in out
    assert script.read_text() == UGLY


def test_a_link_stays_a_link(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = script.with_name("link.cfg")
    link.symlink_to(script)
    assert main(["fmt", str(link)]) == 0
    assert link.is_symlink()
    assert script.read_text() == NICE
    capsys.readouterr()


def test_a_script_with_mistakes_stays_as_it_is(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script.write_text("route { exit }\n")
    assert main(["fmt", str(script), str(script.with_name("missing.cfg"))]) == 2
    said = capsys.readouterr().err
    assert "test.cfg:1:13: error: ';' is missing here" in said
    assert "missing.cfg: left as it is: No such file" in said
    assert script.read_text() == "route { exit }\n"


def test_standard_input_goes_to_output(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(UGLY))
    assert main(["fmt", "-"]) == 0
    assert capsys.readouterr().out == NICE
