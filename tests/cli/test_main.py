"""The command line: OpenSIPS's flags, subcommands by file name, exit statuses."""

from __future__ import annotations

import subprocess
import sys

import pytest

from opensipspy import __version__
from opensipspy.cli import main as cli
from opensipspy.cli import run


def flags(*arguments: str) -> run.Options:
    given, rest = run.getopt.gnu_getopt(list(arguments), run.FLAGS)
    assert not rest
    return run.read_flags(given)


def test_flags_that_the_server_obeys() -> None:
    options = flags(
        *(
            "-f",
            "a.cfg",
            "-cF",
            "-E",
            "-D",
            "-ddd",
            "-w",
            "/w",
            "-t",
            "/t",
            "-u",
            "sip",
            "-g",
            "sip",
            "-P",
            "p",
            "-G",
            "g",
        ),
        *("-p", "m4", "-A", "192.0.2.1", "-l", "udp:127.0.0.1:5060", "-l", "lo", "-o", "mode=x=y", "-b", "65536", "-v"),
    )
    assert options.script == "a.cfg"
    assert (options.check_only, options.foreground, options.log_stderr, options.debug_mode) == (1, True, True, True)
    assert (options.verbosity, options.workdir, options.chroot) == (3, "/w", "/t")
    assert (options.user, options.group, options.pid_file, options.pgid_file) == ("sip", "sip", "p", "g")
    assert (options.preprocessor, options.advertised_address) == ("m4", "192.0.2.1")
    assert options.listen == ["udp:127.0.0.1:5060", "lo"]
    assert options.arguments == {"mode": "x=y"}
    assert (options.receive_buffer_bytes, options.check_via) == (65536, True)
    assert options.notes == []
    assert flags("-f", "a.cfg", "-C").check_only == 2


def test_memory_flags_are_accepted_with_a_note() -> None:
    options = flags(
        *(
            "-f",
            "a.cfg",
            "-m",
            "64",
            "-M",
            "8",
            "-a",
            "F_MALLOC",
            "-s",
            "Q",
            "-k",
            "Q",
            "-e",
            "Q",
            "-n",
            "4",
            "-N",
            "4",
        ),
        *("-i", "-r", "-R"),
    )
    assert len(options.notes) == 11
    assert "-m has no effect: memory is managed by Python" in options.notes


@pytest.mark.parametrize(
    "arguments",
    [
        ["-f"],
        ["-m", "much", "-f", "x"],
        ["-b", "0", "-f", "x"],
        ["-o", "novalue", "-f", "x"],
        ["-Z"],
        ["-T", "-f", "x"],
        ["-f", "x", "stray"],
    ],
)
def test_flags_that_make_no_sense_are_said_and_end_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err.startswith("opensipspy: ")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["-V"]) == 0
    assert f"opensipspy {__version__} (" in capsys.readouterr().out


def test_help_lists_flags_and_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["-h"]) == 0
    text = capsys.readouterr().out
    for flag in "fcCpAlFDdEwtugPGobvVh":
        assert f"  -{flag} " in text
    for name, summary in cli.summaries():
        assert name in text
        assert summary in text


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["quickstrat"]) == 2
    assert "Did you mean quickstart?" in capsys.readouterr().err


def test_a_subcommand_gets_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(run, "main", lambda arguments: seen.append(list(arguments)) or 5)
    assert cli.main(["run", "-f", "x.cfg"]) == 5
    assert cli.main(["-f", "y.cfg"]) == 5
    assert seen == [["-f", "x.cfg"], ["-f", "y.cfg"]]


def test_without_a_script_there_is_nothing_to_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "DEFAULT_SCRIPTS", ("/does/not/exist",))
    assert cli.main([]) == 1
    assert "no script" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_trouble() -> None:
    command = [sys.executable, "-m", "opensipspy", "describe", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(1) == b"["
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()
        assert process.wait(30) == cli.READER_GONE


def test_the_way_of_polling_is_one_that_the_system_has() -> None:
    assert flags("-W", "poll").poll_method == "poll"
    assert run.main(["-f", "x.cfg", "-W", "kqueue"]) == run.USAGE_ERROR
