"""Log lines: levels as OpenSIPS numbers them, one line for each, floods summed up, never a wait."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from opensipspy.server.logs import (
    L_DBG,
    L_ERR,
    L_INFO,
    L_NOTICE,
    L_WARN,
    REPEATS,
    WINDOW_S,
    LogHandler,
    Logs,
    Sink,
    StreamSink,
    SyslogSink,
    printable,
)


class Kept(Sink):
    """Keeps the lines."""

    def __init__(self, level_filter: int = 0) -> None:
        super().__init__(level_filter)
        self.lines: list[str] = []

    def write(self, level: int, text: str, fields: dict[str, Any]) -> None:
        self.lines.append(self.styled(level, text, fields))


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    made = logging.getLogger("opensipspy.test_logs")
    yield made
    made.handlers = []


def test_a_line_names_level_and_part(logger: logging.Logger) -> None:
    sink = Kept()
    Logs(logger, [sink], L_INFO, prefix="edge1")
    logger.warning("socket %s is slow", "udp:192.0.2.1:5060")
    assert sink.lines == ["edge1:WARNING:test_logs: socket udp:192.0.2.1:5060 is slow"]


def test_log_level_is_a_number_of_the_manual_and_can_change(logger: logging.Logger) -> None:
    sink = Kept()
    logs = Logs(logger, [sink], L_ERR)
    logger.warning("quiet")
    logs.set_level(L_DBG)
    logger.debug("loud")
    logs.set_level(None)
    logger.info("quiet again")
    logs.set_level(99)
    assert logs.level == L_DBG
    assert len(sink.lines) == 1


def test_a_sink_with_a_level_filter_takes_less(logger: logging.Logger) -> None:
    all_lines, warnings = Kept(), Kept(L_WARN)
    Logs(logger, [all_lines, warnings], L_INFO)
    logger.info("one")
    logger.error("two")
    assert (len(all_lines.lines), len(warnings.lines)) == (2, 1)


def test_a_peer_cannot_forge_lines_or_drive_the_terminal() -> None:
    assert printable("a\r\nERROR: b\x1b[2J\udcff") == "a\\x0d\\x0aERROR: b\\x1b[2J\\xff"


def test_a_flood_of_one_message_is_summed_up(logger: logging.Logger) -> None:
    now = [0.0]
    sink = Kept()
    logger.handlers = [LogHandler([sink], now=lambda: now[0])]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for number in range(1000):
        logger.warning("bad message from %s", number)
    assert len(sink.lines) == REPEATS
    now[0] = WINDOW_S
    logger.warning("bad message from %s", "another")
    assert f"and {1000 - REPEATS} more" in sink.lines[-1]


def test_lines_of_the_script_are_never_summed_up(logger: logging.Logger) -> None:
    """xlog() is the operator's own; how often he calls it is his business."""
    sink = Kept()
    Logs(logger, [sink], L_INFO)
    for _ in range(REPEATS * 3):
        logger.info("%s", "INVITE", extra={"script": True})
    assert len(sink.lines) == REPEATS * 3


def test_arguments_that_do_not_fit_the_text_do_no_harm(logger: logging.Logger) -> None:
    sink = Kept()
    Logs(logger, [sink], L_INFO)
    logger.info("%d calls", "many")
    assert "many" in sink.lines[0]


def test_json_lines_can_be_read_by_a_machine(logger: logging.Logger, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        Logs(logger, [StreamSink(file.fileno(), style="json")], L_NOTICE)
        logger.error('said "hello"')
    document = json.loads(path.read_text())
    assert document["level"] == "ERROR"
    assert document["message"] == 'said "hello"'


def test_a_reader_that_does_not_read_never_holds_up_the_server(logger: logging.Logger) -> None:
    reader, writer = os.pipe()
    try:
        sink = StreamSink(writer)
        Logs(logger, [sink], L_DBG)
        for number in range(3000):
            logger.debug("%d %s", number, "x" * 900)
        assert sink.lost > 0
        assert os.read(reader, 100).startswith(b"")
    finally:
        os.close(reader)
        os.close(writer)


def test_syslog_gets_priority_and_name(logger: logging.Logger, tmp_path: Path) -> None:
    """RFC 3164 §4.1.1: the priority is facility * 8 + severity; LOG_LOCAL0 is 16, an error is 3."""
    address = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(address)
        sink = SyslogSink("opensips", "LOG_LOCAL0", address=address)
        Logs(logger, [sink], L_INFO)
        logger.error("down")
        line = daemon.recv(4096).decode()
        sink.close()
    assert line.startswith(f"<131>opensips[{os.getpid()}]: ")
    assert line.endswith("down")


def test_syslog_that_is_away_loses_lines_and_counts_them(logger: logging.Logger, tmp_path: Path) -> None:
    sink = SyslogSink("opensips", address=str(tmp_path / "nobody"))
    Logs(logger, [sink], L_INFO)
    logger.error("down")
    assert sink.lost == 1


def test_syslog_is_found_again_after_a_restart(logger: logging.Logger, tmp_path: Path) -> None:
    address = tmp_path / "log"
    sink = SyslogSink("opensips", address=str(address))
    Logs(logger, [sink], L_INFO)
    for text in ("first", "second"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
            daemon.bind(str(address))
            logger.info("%s", text)
            assert daemon.recv(4096).decode().endswith(text)
        address.unlink()
    sink.close()


def test_a_log_file_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    """HUP after a rotation: standard error goes to a new file of the old name."""
    path, moved = tmp_path / "log", tmp_path / "log.1"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        sink = StreamSink(descriptor)
        fields = {"prefix": "", "name": "core", "clock": "now", "pid": 1}
        sink.write(2, "before", fields)
        path.rename(moved)
        sink.write(2, "moved", fields)
        sink.reopen()
        sink.write(2, "after", fields)
    finally:
        os.close(descriptor)
    assert "moved" in moved.read_text()
    assert "after" not in moved.read_text()
    assert "after" in path.read_text()
