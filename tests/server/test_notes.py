"""What has no effect is said, once, and only when the script asks for it."""

from __future__ import annotations

from opensipspy.script import parse_script
from opensipspy.script.globals import PARAMETERS
from opensipspy.server.notes import GLOBALS, notes


def told(text: str) -> list[str]:
    return notes(parse_script("x.cfg", "", text + "\nroute { exit; }\n").globals)


def test_a_parameter_without_effect_is_one_line_with_the_reason() -> None:
    lines = told("udp_workers=4\nmemdump=3\nlog_level=3")
    assert [line.partition(":")[0] for line in lines] == ["memdump has no effect", "udp_workers has no effect"]
    assert "event loop" in lines[1]


def test_defaults_are_not_talked_about() -> None:
    assert told("log_level=3") == []


def test_words_of_a_socket_without_effect_are_told_too() -> None:
    lines = told("socket=udp:127.0.0.1:5060 use_workers 4 frag reuse_port\nsocket=tcp:127.0.0.1:5060 frag anycast")
    assert [line.split(" has ")[0] for line in lines] == [
        "socket=udp:127.0.0.1: use_workers",
        "socket=tcp:127.0.0.1: frag",
        "socket=tcp:127.0.0.1: anycast",
    ]


def test_only_names_that_exist_are_in_the_table() -> None:
    assert GLOBALS.keys() <= PARAMETERS.keys()
