"""`opensipspy disasm`: bytecode beside the source."""

from __future__ import annotations

from pathlib import Path

import pytest

from opensipspy.cli.main import main

SCRIPT = """
socket=udp:127.0.0.1:5060
loadmodule "proto_udp.so"
loadmodule "tm.so"
route {
    $var(x) = 5;
    route(relay);
}
route[relay] {
    if (!t_relay())
        exit;
}
"""


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "test.cfg"
    path.write_text(SCRIPT)
    return str(path)


def test_every_route_with_its_lines(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["disasm", script]) == 0
    out = capsys.readouterr().out
    assert "route: a coroutine" in out
    assert "     6  $var(x) = 5;" in out
    assert "    10  if (!t_relay())" in out
    assert "# call 't_relay'" in out


@pytest.mark.parametrize("name", ["relay", "route[relay]"])
def test_one_route(script: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["disasm", script, name]) == 0
    out = capsys.readouterr().out
    assert "t_relay" in out
    assert "$var(x)" not in out


def test_what_cannot_be_shown(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["disasm", script, "other"]) == 1
    assert "the script has route, route[relay]" in capsys.readouterr().err
    Path(script).write_text("route {")
    assert main(["disasm", script]) == 1
    assert "not closed" in capsys.readouterr().err
