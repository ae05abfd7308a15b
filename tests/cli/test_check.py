"""`opensipspy check`: findings as text and JSON, and the exit status."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from opensipspy.cli.main import main

GOOD = """
socket=udp:127.0.0.1:5060
loadmodule "proto_udp.so"
loadmodule "sl.so"
loadmodule "signaling.so"
route {
    send_reply(200, "OK");
}
"""
# Ten mistakes of ten kinds, each to be found at its line and column in one run.
TEN = """
udp_wrkers=4
socket=upd:127.0.0.1:5060
loadmodule "proto_udp.so"
loadmodule "sl.so"
modparam("sl", "enable_stat", 1)
route {
    sl_send_reply(200);
    $var(x) = 5
    t_relay();
    if ($rU == "bob" {
        $rX = 1;
    }
    xlog("L_INFO", "hello $rm);
    $si = "192.0.2.1";
    route(missing);
}
route[other] {
    $var(y) == 1;
}
"""
PLACES = [
    (2, 1, "unknown global parameter udp_wrkers"),
    (3, 8, "unknown protocol upd"),
    (6, 16, "sl: enable_stat"),
    (8, 5, "sl_send_reply needs at least 2 arguments"),
    (9, 16, "';' is missing here"),
    (10, 5, "t_relay() is a function of module tm, not loaded"),
    (11, 22, "')' is missing"),
    (12, 9, "unknown variable"),
    (14, 20, "this string is not closed"),
    (15, 5, "$si cannot be written"),
    (16, 11, "there is no route[missing]"),
    (19, 13, "'==' compares"),
]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "test.cfg"


def test_a_good_script(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script.write_text(GOOD)
    assert main(["check", str(script)]) == 0
    assert "the script is valid" in capsys.readouterr().out
    assert main(["check", "--json", str(script)]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_every_mistake_is_found_in_one_run(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script.write_text(TEN)
    assert main(["check", "--json", str(script)]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [(f["line"], f["column"]) for f in found] == [(line, column) for line, column, _ in PLACES]
    for finding, (_, _, message) in zip(found, PLACES, strict=True):
        assert message in finding["message"]
        assert finding["severity"] == "error"


def test_text_shows_the_line_and_a_caret(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script.write_text(GOOD.replace("send_reply", "send_replay"))
    assert main(["check", str(script)]) == 1
    out = capsys.readouterr().out
    assert "test.cfg:7:5: error: unknown function send_replay (did you mean send_reply?)" in out
    assert '        send_replay(200, "OK");\n        ^^^^^^^^^^^\n1 error, 0 warnings' in out


def test_warnings_are_shown_and_fail_only_when_strict(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script.write_text(GOOD + "route[unused] { exit; }\n")
    assert main(["check", str(script)]) == 0
    assert "warning: no statement calls route[unused]" in capsys.readouterr().out
    assert main(["check", "--strict", str(script)]) == 1


def test_several_files_and_one_that_cannot_be_read(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script.write_text(GOOD)
    missing = script.parent / "missing.cfg"
    assert main(["check", str(script), str(missing)]) == 1
    assert "cannot read" in "".join(capsys.readouterr())


def test_standard_input_and_the_preprocessor(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(GOOD.replace("send_reply", "send_replay")))
    assert main(["check", "-"]) == 1
    assert "-:7:5: error" in capsys.readouterr().out
    script.write_text(GOOD.replace("200", "CODE"))
    assert main(["check", "-p", "sed s/CODE/200/", str(script)]) == 0
