"""diversion: the header of RFC 5806, newest on top."""

from __future__ import annotations

from opensipspy import sip
from opensipspy.module.testing import FakeCore, make_run, request
from opensipspy.modules.diversion import Diversion
from opensipspy.script.run import Run


def made(headers: str = "", **params: str) -> tuple[FakeCore, Run]:
    core = FakeCore()
    core.add(Diversion(**params))
    return core, make_run(request(headers=headers), core=core)


def lines(run: Run) -> list[str]:
    via = "SIP/2.0/UDP h;branch=z9hG4bKx"
    text = sip.build_request(run.msg, run.edits, run.ruri, via, run.msg.socket).decode()
    return [line for line in text.split("\r\n") if line.startswith("Diversion")]


def test_the_received_address_is_the_diverting_one() -> None:
    """The manual: the Request-URI as it came, whatever the script made of it since."""
    core, run = made(suffix=";privacy=full")
    run.ruri = "sip:carol@example.net"
    assert core.call("add_diversion", run, "user-busy") == 1
    assert lines(run) == ["Diversion: <sip:bob@example.org>;reason=user-busy;privacy=full"]


def test_the_newest_stands_on_top() -> None:
    """RFC 5806 §4: a new Diversion goes above those that are there."""
    core, run = made("Diversion: <sip:old@example.org>;reason=unknown\r\n")
    core.call("add_diversion", run, "user-busy", "sip:a@x", 2)
    core.call("add_diversion", run, "no-answer", "sip:b@x")
    assert lines(run) == [
        "Diversion: <sip:b@x>;reason=no-answer",
        "Diversion: <sip:a@x>;reason=user-busy;counter=2",
        "Diversion: <sip:old@example.org>;reason=unknown",
    ]


def test_without_one_before_the_order_is_the_same() -> None:
    core, run = made()
    core.call("add_diversion", run, "one", "sip:a@x")
    core.call("add_diversion", run, "two", "sip:b@x")
    assert [line.rpartition("=")[2] for line in lines(run)] == ["two", "one"]


def test_a_line_end_is_refused() -> None:
    """A text from a message cannot add headers of its own."""
    core, run = made()
    assert core.call("add_diversion", run, "x\r\nEvil: 1") == -1
    assert core.call("add_diversion", run, "x", "sip:a\n@x") == -1
    assert lines(run) == []
