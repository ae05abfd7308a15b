"""The process around the server: pid file, users, and what the waiting parent of a background server is told."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from opensipspy.server.process import PidFile, ProcessError, Readiness, enter, find_ids, process_lives


def dead_process() -> int:
    """The id of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_the_pid_file_holds_the_number_and_goes_away(tmp_path: Path) -> None:
    file = PidFile(str(tmp_path / "pid"))
    file.write(os.getpid())
    assert (tmp_path / "pid").read_text() == f"{os.getpid()}\n"
    file.remove()
    file.remove()
    assert not (tmp_path / "pid").exists()


def test_a_pid_file_of_a_living_process_is_respected(tmp_path: Path) -> None:
    (tmp_path / "pid").write_text(f"{os.getppid()}\n")
    with pytest.raises(ProcessError, match="is running"):
        PidFile(str(tmp_path / "pid")).write(os.getpid())


@pytest.mark.parametrize("old", ["", "nonsense", "-1", "\udcff"])
def test_a_pid_file_that_says_nothing_is_overwritten(tmp_path: Path, old: str) -> None:
    (tmp_path / "pid").write_bytes(old.encode("utf-8", "surrogateescape"))
    PidFile(str(tmp_path / "pid")).write(1234)
    assert (tmp_path / "pid").read_text() == "1234\n"


def test_a_pid_file_of_a_process_that_has_ended_is_overwritten(tmp_path: Path) -> None:
    old = dead_process()
    assert not process_lives(old)
    (tmp_path / "pid").write_text(str(old))
    PidFile(str(tmp_path / "pid")).write(1234)


def test_a_pid_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match="No such file"):
        PidFile(str(tmp_path / "no" / "pid")).write(1)


def test_users_and_groups_by_name_and_number() -> None:
    assert find_ids("", "") == (-1, -1)
    assert find_ids("root", "") == (0, 0)
    assert find_ids("0", "root") == (0, 0)
    assert find_ids("54321", "54322") == (54321, 54322)
    with pytest.raises(ProcessError, match="no user 'nobody-of-that-name'"):
        find_ids("nobody-of-that-name", "")
    with pytest.raises(ProcessError, match="no group"):
        find_ids("", "no-such-group")


def test_a_folder_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ProcessError, match="cannot change to /does/not/exist"):
        enter("/does/not/exist", root=False)


def test_readiness_reaches_an_abstract_socket() -> None:
    name = f"opensipspy-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name)
        manager.settimeout(30)
        Readiness("@" + name).tell("READY=1")
        assert manager.recv(100) == b"READY=1"


def test_nobody_to_tell_is_no_error(tmp_path: Path) -> None:
    Readiness("").tell("READY=1")
    Readiness(str(tmp_path / "manager")).tell("READY=1")
    assert list(tmp_path.iterdir()) == []


def test_a_manager_that_does_not_read_is_not_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / "manager")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.setblocking(False)
        for number in range(2000):
            Readiness(path).tell(f"STATUS={number}")
        heard = []
        with contextlib.suppress(BlockingIOError):
            while True:
                heard.append(manager.recv(100).decode())
        assert heard == [f"STATUS={number}" for number in range(len(heard))]
        assert 0 < len(heard) < 2000, "what does not fit its queue is dropped"


DETACH = """
import os, sys
from opensipspy.server.process import detach, report_started
fd = detach()
{then}
"""


@pytest.mark.parametrize(("then", "status"), [("report_started(fd)", 0), ("os._exit(7)", 1)])
def test_the_parent_waits_for_the_start_and_tells_how_it_went(then: str, status: int) -> None:
    ended = subprocess.run([sys.executable, "-c", DETACH.format(then=then)], timeout=20, check=False)
    assert ended.returncode == status
