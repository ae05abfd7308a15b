"""The worked example of the documents, tried as its reader would try it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import opensipspy
import opensipspy.scripts

EXAMPLES = Path(opensipspy.scripts.__path__[0]).resolve() / "examples"
# The wheel brings the scripts and not their examples.
pytestmark = pytest.mark.skipif(
    not (EXAMPLES / "office.cfg").is_file(), reason="the examples are not part of this installation"
)


def opensipspy_command(*arguments: str, folder: Path = EXAMPLES) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "opensipspy", *arguments]
    environment = {
        "PYTHONPATH": str(Path(opensipspy.__file__).resolve().parents[1]),
        "PATH": "/usr/bin:/bin",
        "HOME": "/nonexistent",
    }
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=60, check=False, env=environment)


def test_the_tests_of_the_example_pass_and_cover_it(tmp_path: Path) -> None:
    reports = [f"--cfg-coverage=html:{tmp_path}/html", f"--cfg-coverage=lcov:{tmp_path}/office.info"]
    quiet = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = opensipspy_command(
        "test", "--cfg-coverage", *reports, "--cfg-coverage-fail-under=90", "test_office.py", *quiet
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "office.cfg:71: $var(status) != 200 was never true" in done.stdout
    page = (tmp_path / "html" / "index.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "http://" not in page.replace("https://", "")
    assert "t_relay() was never false" in page
    info = (tmp_path / "office.info").read_text(encoding="utf-8")
    assert f"SF:{EXAMPLES}/office.cfg" in info
    assert "DA:27," in info
    assert "BRDA:27,0,0," in info


def test_workers_add_their_figures_up() -> None:
    pytest.importorskip("xdist")
    quiet = ["-q", "-p", "no:cacheprovider", "-n", "2"]
    done = opensipspy_command("test", "--cfg-coverage", "--cfg-coverage-fail-under=90", "test_office.py", *quiet)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "office.cfg: lines that never ran: 91" in done.stdout


def test_too_little_coverage_fails_the_run() -> None:
    quiet = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = opensipspy_command("test", "--cfg-coverage-fail-under=90", "test_office.py", "-k", "refused", *quiet)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "below 90 %" in done.stdout


def test_a_message_through_the_example_is_told_in_lines_of_the_script() -> None:
    done = opensipspy_command(
        "simulate", "-f", "office.cfg", "--answers", "answers.json", "call-outside.sip", "--advance", "4"
    )
    assert done.returncode == 0, done.stderr
    for part in (
        "? has_totag(): false (returned -1)",
        '? $rU =~ "^0[0-9]+$": true  [$rU = "0301234567"]',
        "ask      http: GET https://rating.example.org/credit/101 -> 200 250",
        "= $var(cents) = 250",
        "? default: taken",
        "udp:127.0.0.1:5060 -> udp:192.0.2.10:5060  INVITE sip:0301234567@127.0.0.1 SIP/2.0",
        "edit     + Max-Forwards: 69",
        "state    ended by exit",
        "3.000 s  udp:127.0.0.1:5060 -> udp:192.0.2.1:5060  SIP/2.0 200 OK",
    ):
        assert part in done.stdout, part


def test_what_has_no_answer_is_told_and_fails(tmp_path: Path) -> None:
    (tmp_path / "none.json").write_text("{}", encoding="utf-8")
    done = opensipspy_command("simulate", "-f", "office.cfg", "--answers", f"{tmp_path}/none.json", "call-outside.sip")
    assert done.returncode == 0, done.stderr
    assert "connection refused: no answer was given for this URL" in done.stdout
    assert "SIP/2.0 503 No rating" in done.stdout
    assert "== not answered: http GET https://rating.example.org/credit/101" in done.stdout


def test_everything_comes_out_as_json(tmp_path: Path) -> None:
    (tmp_path / "ringing.sip").write_text("# after 1\nSIP/2.0 180 Ringing\nX-Note: by hand\n", encoding="utf-8")
    (tmp_path / "answers.toml").write_text(
        '[http]\n"https://rating.example.org/*" = {status = 200, body = "1"}\n'
        '[gateways]\n"192.0.2.10:5060" = "silence"\n',
        encoding="utf-8",
    )
    done = opensipspy_command(
        "simulate", "--json", "-f", "office.cfg", "--answers", f"{tmp_path}/answers.toml",
        "call-outside.sip", f"{tmp_path}/ringing.sip", "--advance", "35",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    call, waited, ringing, later = json.loads(done.stdout)["steps"]
    assert call["state"]["variables"]["$var(cents)"] == 1
    assert [sent["to"] for sent in call["sent"]] == ["udp:192.0.2.1:5060", "udp:192.0.2.10:5060"]
    assert waited["advanced_s"] == 1
    [passed] = ringing["sent"]
    assert "X-Note: by hand" in passed["message"]
    assert passed["message"].startswith("SIP/2.0 180 Ringing")
    assert any(entry["kind"] == "timer" for entry in later["journal"])
    assert "failure_route[second_carrier]" in {entry.get("route") for entry in later["journal"]}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-f", "none.cfg", "call-outside.sip"], "none.cfg: No such file or directory"),
        (["-f", "office.cfg", "none.sip"], "none.sip: No such file or directory"),
        (["-f", "office.cfg", "call-outside.sip", "--answers", "office.cfg"], "office.cfg: Expecting value"),
        (["-f", "office.cfg", "call-outside.sip", "--source", "here"], "'here' is no proto:address:port"),
        (["-f", "office.cfg", "call-outside.sip", "--to", "tls:1.2.3.4:1"], "does not listen on tls:1.2.3.4:1"),
        (["-f", "office.cfg", "call-outside.sip", "-o", "name"], "-o takes NAME=VALUE, not 'name'"),
        (["-f", "office.cfg", "call-outside.sip", "--route", "outsid"], "did you mean 'outside'?"),
    ],
)
def test_a_mistake_on_the_command_line_is_told_in_one_line(arguments: list[str], said: str) -> None:
    done = opensipspy_command("simulate", *arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.strip().split("\n")) == 1
