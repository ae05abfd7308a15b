"""options: what the server says about itself (RFC 3261 §11.2)."""

from __future__ import annotations

import pytest

from opensipspy.module.testing import FakeCore, make_run, request
from opensipspy.modules.options import Options


def answered(text: str, **params: str) -> tuple[int, FakeCore]:
    core = FakeCore()
    core.add(Options(**params))
    return core.call("options_reply", make_run(text, core=core)), core


def test_options_for_the_server_is_answered_with_its_capabilities() -> None:
    """RFC 3261 §11.2: a 200 with Accept, Accept-Encoding, Accept-Language and Supported."""
    code, core = answered(request("OPTIONS", "sip:127.0.0.1"), accept_encoding="gzip", support="100rel")
    assert code == 1
    (reply,) = core.replies
    assert (reply.code, reply.reason) == (200, "OK")
    assert reply.headers == ("Accept: */*\r\nAccept-Encoding: gzip\r\nAccept-Language: en\r\nSupported: 100rel\r\n")


def test_empty_parameters_leave_headers_out() -> None:
    """The manual: "" adds no header."""
    _, core = answered(request("OPTIONS", "sip:127.0.0.1"), accept="", accept_language="")
    assert core.replies[0].headers == ""


@pytest.mark.parametrize(
    "text", [request("INVITE", "sip:127.0.0.1"), request("OPTIONS", "sip:bob@127.0.0.1")], ids=["INVITE", "user"]
)
def test_other_requests_are_not_answered(text: str) -> None:
    """The manual: false for another method, and for a Request-URI with a user."""
    code, core = answered(text)
    assert code == -1
    assert core.replies == []


def test_a_reply_that_fails_is_an_error() -> None:
    """The manual: 500 is tried, and the function is false."""
    core = FakeCore()
    core.add(Options())
    core.reply_result = -1
    assert core.call("options_reply", make_run(request("OPTIONS", "sip:127.0.0.1"), core=core)) == -1
    assert [reply.code for reply in core.replies] == [200, 500]
