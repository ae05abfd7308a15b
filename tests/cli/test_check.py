"""`opensipspy check`: findings as text and JSON, and the exit status."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from opensipspy.cli.main import main
from opensipspy.script import Finding
from opensipspy.script.errors import Pos
from opensipspy.script.sarif import sarif
from opensipspy.server.load import examine
from opensipspy.server.options import Options
from tests.script.test_check import expectations

WHOLE = Path(__file__).parents[1] / "script" / "cfg" / "whole"

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


def test_a_wrong_global_hides_no_warning(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Old scripts begin with parameters that are gone; what is odd about their routes is told in the same run."""
    script.write_text(
        "listen=udp:127.0.0.1:5060\n"
        "route { exit; }\n"
        "route[orphan] { exit; drop; }\n"
        'route[x] { force_send_socket("udp:127.0.0.1:5999"); }\n'
        "route[y] { if ($var(never) == 1) exit; }\n"
    )
    assert main(["check", "--json", str(script)]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [(finding["line"], finding["severity"], finding["code"]) for finding in found] == [
        (1, "error", "removed"),
        (3, "warning", "unused-route"),
        (3, "warning", "unreachable"),
        (4, "warning", "unused-route"),
        (5, "warning", "unused-route"),
        (5, "warning", "never-set"),
    ]


def test_text_shows_the_line_and_a_caret(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script.write_text(GOOD.replace("send_reply", "send_replay"))
    assert main(["check", str(script)]) == 1
    out = capsys.readouterr().out
    assert "test.cfg:7:5: error: unknown function send_replay (did you mean send_reply?)" in out
    assert '        send_replay(200, "OK");\n        ^^^^^^^^^^^\n1 error, 0 warnings' in out


def test_routes_that_a_missing_module_may_run_are_not_called_unused(
    script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.write_text('loadmodule "b2b_logic.so"\n' + GOOD + "route[b2b_logic_request] { exit; }\n")
    assert main(["check", str(script)]) == 1
    out = capsys.readouterr().out
    assert "module b2b_logic: this version does not have it yet" in out
    assert "no statement calls" not in out


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


@pytest.mark.parametrize("name", sorted(path.name for path in WHOLE.glob("*.cfg")))
def test_what_is_told_of_whole_scripts(name: str) -> None:
    """With real modules: each finding is expected on its own line, and nothing else is told."""
    options = Options()
    options.script = str(WHOLE / name)
    findings, source = examine(options)
    wanted = expectations((WHOLE / name).read_text(encoding="utf-8"))
    shown = "\n".join(finding.render(source) for finding in findings)
    assert [(f.line, f.severity) for f in findings] == [(line, severity) for line, severity, _ in wanted], shown
    for finding, (_line, _severity, part) in zip(findings, wanted, strict=True):
        assert part in finding.message, shown


def test_what_the_c_server_refuses_is_an_error_when_strict(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script.write_text('loadmodule "proto_tcp.so"\n' + GOOD)
    assert main(["check", str(script)]) == 0
    assert "warning: module proto_tcp is loaded" in capsys.readouterr().out
    assert main(["check", "--strict", str(script)]) == 1
    assert "error: module proto_tcp is loaded" in capsys.readouterr().out


def test_a_rule_can_be_disabled_and_an_error_cannot(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script.write_text(GOOD + "route[unused] { exit; }\n")
    assert main(["check", "--strict", "--disable", "unused-route", str(script)]) == 0
    script.write_text(GOOD.replace("send_reply", "send_replay"))
    assert main(["check", "--disable", "unknown-function", str(script)]) == 1
    capsys.readouterr()


def test_a_comment_takes_a_warning_back(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script.write_text(GOOD + "# opensipspy: ignore[unused-route]\nroute[unused] { exit; }\n")
    assert main(["check", "--strict", str(script)]) == 0
    assert "valid" in capsys.readouterr().out


def test_sarif(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SARIF 2.1.0: version, runs, tool.driver.name, message.text are required; ruleIndex points at the rule."""
    script.write_text(TEN)
    assert main(["check", "--sarif", str(script)]) == 1
    log = json.loads(capsys.readouterr().out)
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert run["tool"]["driver"]["name"] == "opensipspy"
    assert len(run["results"]) == len(PLACES)
    for result, (line, column, message) in zip(run["results"], PLACES, strict=True):
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] == "error"
        assert message in result["message"]["text"]
        (location,) = result["locations"]
        place = location["physicalLocation"]
        assert place["artifactLocation"]["uri"] == script.as_uri()
        assert (place["region"]["startLine"], place["region"]["startColumn"]) == (line, column)


def test_sarif_names_relative_files_as_uris() -> None:
    log = sarif([Finding(Pos("a b/x.cfg", 1, 1), "note", "x", "m", "h")], "1")
    (result,) = log["runs"][0]["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "a%20b/x.cfg"
    assert (result["level"], result["message"]["text"]) == ("note", "m (h)")


def test_colours_and_the_summary_of_several_scripts(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script.write_text(GOOD + "route[unused] { exit; }\n")
    assert main(["check", "--color", "always", "--rules", str(script), str(script)]) == 0
    out = capsys.readouterr().out
    assert "\x1b[1;33mwarning:\x1b[0m no statement calls route[unused] [unused-route]" in out
    assert out.endswith("2 scripts: 0 errors, 2 warnings\n")
    assert main(["check", str(script)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_fix_rewrites_in_place_and_keeps_the_old_one(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = GOOD.replace("socket=", "listen=").replace("send_reply(200", 'send_reply("200"')
    script.write_text(old)
    script.chmod(0o640)
    assert main(["check", "--fix", "--diff", str(script)]) == 0
    out = capsys.readouterr().out
    assert "-listen=udp:127.0.0.1:5060\n+socket=udp:127.0.0.1:5060\n" in out
    assert script.read_text() == old
    assert main(["check", "--fix", str(script)]) == 0
    assert script.read_text() == GOOD
    assert script.stat().st_mode & 0o777 == 0o640
    kept = script.with_name("test.cfg.orig")
    assert kept.read_text() == old
    kept.unlink()
    script.write_text(old)
    assert main(["check", "--fix", "--no-orig", str(script)]) == 0
    assert not kept.exists()
    assert [path.name for path in script.parent.iterdir()] == ["test.cfg"]


def test_a_name_near_one_of_a_module_that_is_not_loaded(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script.write_text(GOOD.replace('send_reply(200, "OK")', "t_rellay()"))
    assert main(["check", str(script)]) == 1
    assert "unknown function t_rellay (did you mean t_relay of module tm?)" in capsys.readouterr().out


def test_modparam_names_modules_without_regard_to_case(tmp_path: Path) -> None:
    path = tmp_path / "names.cfg"
    path.write_text(
        GOOD.replace("route {", 'modparam("SL", "enable_stats", 0)\nmodparam("S.", "enable_stats", 0)\nroute {')
    )
    options = Options()
    options.script = str(path)
    assert [finding.message for finding in examine(options)[0]] == []


def test_fix_loads_the_modules_whose_functions_are_used(tmp_path: Path) -> None:
    """t_relay() needs tm, and tm what it needs; each is loaded once, behind the others."""
    script = tmp_path / "opensips.cfg"
    script.write_text(
        'socket=udp:127.0.0.1:5060\nloadmodule "proto_udp.so" # the wire\n'
        'route {\n    if (mf_process_maxfwd_header(10) && is_myself("$rd")) t_relay();\n    t_relay();\n}\n'
    )
    main(["check", "--fix", "--no-orig", str(script)])
    lines = script.read_text().split("\n")
    assert lines[1] == 'loadmodule "proto_udp.so" # the wire'
    assert sorted(lines[2:4]) == ['loadmodule "maxfwd.so"', 'loadmodule "tm.so"']
    assert lines[4] == "route {"


def test_a_parameter_that_names_no_route_is_told_where_it_stands(tmp_path: Path) -> None:
    script = tmp_path / "opensips.cfg"
    script.write_text(
        'socket=udp:127.0.0.1:5060\nloadmodule "proto_udp.so"\nloadmodule "tm.so"\n'
        'modparam("tm", "local_request_route", "mine")\nroute { exit; }\n'
    )
    options = Options()
    options.script = str(script)
    [finding] = examine(options)[0]
    assert (finding.line, finding.col, finding.severity) == (4, 39, "error")
    assert finding.message == "module tm uses route[mine], which is missing"
