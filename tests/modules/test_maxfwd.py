"""maxfwd: one hop taken off on the wire, or the header added."""

from __future__ import annotations

import pytest

from opensipspy import sip
from opensipspy.module import ParamError
from opensipspy.module.testing import FakeCore, make_run, request
from opensipspy.modules.maxfwd import MaxFwd
from opensipspy.script.run import Run


def wire(run: Run) -> str:
    """The request as it would leave."""
    socket = run.msg.socket
    return sip.build_request(run.msg, run.edits, run.ruri, "SIP/2.0/UDP h;branch=z9hG4bKx", socket).decode()


def processed(value: str | None, max_value: int = 10, **params: int) -> tuple[int, str]:
    core = FakeCore()
    core.add(MaxFwd(**params))
    headers = "" if value is None else f"Max-Forwards: {value}"
    run = make_run(request(headers=headers, without=("Max-Forwards",)), core=core)
    return core.call("mf_process_maxfwd_header", run, max_value), wire(run)


def test_a_hop_is_taken_off() -> None:
    """RFC 3261 §16.6 step 3: the proxy decrements Max-Forwards by one."""
    code, text = processed("70")
    assert code == 1
    assert "\r\nMax-Forwards: 69\r\n" in text
    assert text.lower().count("max-forwards") == 1


def test_the_header_is_added_when_it_is_missing() -> None:
    """RFC 3261 §16.6 step 3: a copy without Max-Forwards gets one."""
    code, text = processed(None, 17)
    assert code == 2
    assert "\r\nMax-Forwards: 17\r\n" in text


def test_no_hop_is_left() -> None:
    """RFC 3261 §16.3 step 3: a request with 0 is not forwarded."""
    assert processed("0")[0] == -1


@pytest.mark.parametrize("value", ["", "-1", "x", "1 2", "٣", "9" * 500, "0x10"])
def test_what_is_no_number_is_an_error(value: str) -> None:
    """The manual: -2 for an error while processing; nothing is changed then."""
    code, text = processed(value)
    assert code == -2
    assert f"Max-Forwards: {value}".rstrip() in text


def test_the_limit_cuts_what_leaves() -> None:
    """max_limit: a larger value is let out as the limit."""
    assert "Max-Forwards: 32\r\n" in processed("200", max_limit=32)[1]
    assert "Max-Forwards: 32\r\n" in processed(None, 200, max_limit=32)[1]


@pytest.mark.parametrize("limit", [0, 257, -1])
def test_a_limit_outside_1_to_256_is_refused(limit: int) -> None:
    """RFC 3261 §20.22 allows 0 to 255; the manual takes 1 to 256."""
    with pytest.raises(ParamError, match="256"):
        MaxFwd(max_limit=limit)


def test_processing_twice_takes_one_hop() -> None:
    """One pass through the proxy is one hop, however often the script asks."""
    core = FakeCore()
    core.add(MaxFwd())
    run = make_run(request(), core=core)
    core.call("mf_process_maxfwd_header", run, 10)
    core.call("mf_process_maxfwd_header", run, 10)
    assert "Max-Forwards: 69\r\n" in wire(run)


@pytest.mark.parametrize(
    ("value", "limit", "expected"),
    [("5", 6, 1), ("5", 5, -1), ("5", 4, -1), (None, 5, -2), ("x", 5, -3)],
)
def test_comparing_what_was_received(value: str | None, limit: int, expected: int) -> None:
    """The manual: 1 less, -1 not less, -2 absent, -3 unreadable."""
    core = FakeCore()
    core.add(MaxFwd())
    headers = "" if value is None else f"Max-Forwards: {value}"
    run = make_run(request(headers=headers, without=("Max-Forwards",)), core=core)
    assert core.call("is_maxfwd_lt", run, limit) == expected


def test_comparing_sees_the_processed_value() -> None:
    """The manual: the value of a header that was added here counts, too."""
    core = FakeCore()
    core.add(MaxFwd())
    run = make_run(request(without=("Max-Forwards",)), core=core)
    core.call("mf_process_maxfwd_header", run, 3)
    assert core.call("is_maxfwd_lt", run, 4) == 1
    assert core.call("is_maxfwd_lt", run, 3) == -1
