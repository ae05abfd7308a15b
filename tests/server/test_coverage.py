"""Lines and branches of scripts, counted over several simulations, and the reports of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import opensipspy
from opensipspy.server.coverage import Coverage, ranges
from opensipspy.server.simulation import Simulation

HEAD = 'socket=udp:127.0.0.1:5060\nloadmodule "proto_udp.so"\nloadmodule "sl.so"\nloadmodule "cfgutils.so"\n'
SCRIPT = (
    HEAD
    + """include_file "more.cfg"
route {
    if ($rU == "a" && $fU == "test")
        $var(x) = 1;
    switch ($rU) {
        case "a": $var(y) = 1; break;
        case "b": $var(y) = 2; break;
    }
    $var(n) = 0;
    route(MORE);
    while ($var(n) < 2) $var(n) = $var(n) + 1;
    exit;
    }
route[UNUSED] { xlog("never <b>"); }
"""
)
MORE = 'route[MORE] {\n    if ($rU == "c") return(1);\n    $var(more) = 1;\n}\n'
MESSAGE = """
    OPTIONS sip:{user}@127.0.0.1 SIP/2.0
    Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKtest{user}
    From: <sip:test@127.0.0.1>;tag=test
    To: <sip:service@127.0.0.1>
    Call-ID: test{user}
    CSeq: 1 OPTIONS
    Max-Forwards: 70
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "more.cfg").write_text(MORE, encoding="utf-8")
    path = tmp_path / "main.cfg"
    path.write_text(SCRIPT, encoding="utf-8")
    return path


def measured(script: Path, *users: str) -> Coverage:
    """Each user in a simulation of his own."""
    coverage = Coverage()
    for user in users:
        with Simulation(str(script)) as site:
            site.receive(MESSAGE.replace("{user}", user))
            files = {point.file for point in site.journal.points}
            coverage.add(site.journal, {file: site.lines_of(file) for file in files})
    return coverage


def missed(coverage: Coverage, name: str) -> list[str]:
    [file] = [file for file in coverage.sorted_files() if file.path.endswith(name)]
    return [branch.text for branch in file.missed_branches]


def test_lines_and_branches_add_up_over_tests_and_included_files(script: Path) -> None:
    once = measured(script, "a")
    [main, more] = once.sorted_files()
    assert [Path(file.path).name for file in (main, more)] == ["main.cfg", "more.cfg"]
    unused = SCRIPT.split("\n").index('route[UNUSED] { xlog("never <b>"); }') + 1
    assert unused in main.missed_lines
    assert set(missed(once, "main.cfg")) == {
        '$rU == "a" was never false',
        '$fU == "test" was never false',
        'case "b" was never taken',
        "no case was never taken",
    }
    assert missed(once, "more.cfg") == ['$rU == "c" was never true']
    thrice = measured(script, "a", "b", "c")
    assert missed(thrice, "main.cfg") == ['$fU == "test" was never false']
    assert missed(thrice, "more.cfg") == []
    assert once.percent < thrice.percent < 100


def test_the_page_shows_each_line_with_what_is_missing_and_is_safe_to_open(script: Path) -> None:
    page = measured(script, "a").html()
    assert 'class="l m"' in page
    assert 'class="l p"' in page
    assert "never &lt;b&gt;" in page
    assert "&quot;a&quot; was never false" in page or "$rU == &quot;a&quot; was never false" in page
    assert "src=" not in page


def test_the_lcov_report_has_lines_branches_and_totals(script: Path) -> None:
    records = measured(script, "a").lcov().split("end_of_record\n")
    assert len(records) == 3
    main = records[0].split("\n")
    assert main[0] == "TN:"
    line = HEAD.count("\n") + 3
    assert f"DA:{line},1" in main
    assert f"BRDA:{line},0,0,1" in main
    assert f"BRDA:{line},0,1,0" in main
    assert any(each.startswith("BRF:") for each in main)
    # A condition that was never reached has "-" and not 0.
    assert "BRDA:2,0,0,0" in records[1]


def test_line_numbers_are_told_in_short() -> None:
    assert ranges([1, 2, 3, 7, 9, 10]) == "1-3, 7, 9-10"
    assert ranges([]) == ""


FAILING = '''
def test_it(opensips):
    site = opensips("main.cfg")
    assert site.receive("""{message}""").reply.status == 200
'''


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "opensipspy", "test", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments]
    environment = {"PYTHONPATH": str(Path(opensipspy.__file__).resolve().parents[1]), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=60, check=False, env=environment)


def test_a_failing_test_shows_the_path_through_the_script(script: Path) -> None:
    test = FAILING.replace("{message}", MESSAGE.replace("{user}", "a"))
    (script.parent / "test_it.py").write_text(test, encoding="utf-8")
    done = run_pytest(script.parent)
    assert done.returncode == 1
    assert "path through main.cfg" in done.stdout
    assert '? $rU == "a": true  [$rU = "a"]' in done.stdout
    assert "no reply was sent" in done.stdout


def test_a_wrong_report_is_refused_before_anything_runs(script: Path) -> None:
    done = run_pytest(script.parent, "--cfg-coverage=xml:x")
    assert done.returncode == 4
    assert "none of text, html:FILE and lcov:FILE" in done.stderr
