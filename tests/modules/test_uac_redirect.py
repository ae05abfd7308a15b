"""uac_redirect: 3xx replies that are followed by the proxy (RFC 3261 §16.5, §16.7)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from opensipspy.module import ParamError
from opensipspy.modules.uac_redirect import UacRedirect, resets
from opensipspy.script.patterns import Pattern
from opensipspy.script.run import Run

from .tm_bench import CAROL, TmBench

Route = Callable[[TmBench, Run], int]


def follow(bench: TmBench, run: Run) -> int:
    result = bench.call("get_redirects", run)
    return int(bench.call("t_relay", run)) if result > 0 else 1


def redirected(contacts: str, route: Route = follow, more: tuple[str, str] | None = None, **params: Any) -> list[str]:
    """What leaves after a 302 with `contacts`; `more`: a second branch and the Contacts of its 302."""
    bench = TmBench()
    module = bench.core.add(UacRedirect(**params))
    asyncio.run(module.start())
    bench.failure("redirect", lambda run: route(bench, run))
    bench.invite(*(more[:1] if more else ()), arm={"t_on_failure": "redirect"})
    sent = [msg for msg in bench.take() if msg.is_request]
    for msg, text in zip(sent, (contacts, *(more[1:] if more else ())), strict=True):
        headers = f"Contact: {text}\r\n" if text else ""
        bench.answer(msg, 302, headers=headers)
    left = [msg.ruri if msg.is_request else str(msg.status) for msg in bench.take() if msg.method != "ACK"]
    return [text for text in left if text != "100"]


def test_the_contacts_are_called_the_best_first() -> None:
    """RFC 3261 §8.1.3.4: ordered by q; one without q comes last."""
    assert redirected("<sip:x@192.0.2.61>, <sip:y@192.0.2.62>;q=0.5, <sip:z@192.0.2.63>;q=0.9") == [
        "sip:z@192.0.2.63",
        "sip:y@192.0.2.62",
        "sip:x@192.0.2.61",
    ]


def test_the_way_to_the_redirect_server_is_not_taken_again() -> None:
    """RFC 3261 §16.5: the Contact is a new target; the next hop and the Path of the old one do not lead there."""
    bench = TmBench()
    asyncio.run(bench.core.add(UacRedirect()).start())
    bench.failure("redirect", lambda run: follow(bench, run))
    run = bench.run()
    run.dst_uri, run.path = "sip:192.0.2.99:5090", "<sip:192.0.2.99:5090;lr>"
    assert bench.call("t_on_failure", run, "redirect") == 1
    assert bench.call("t_relay", run) == 1
    bench.end(run)
    (sent,) = [msg for msg in bench.take() if msg.is_request]
    assert (sent.source.address, len(sent.routes)) == ("192.0.2.99", 1)
    bench.answer(sent, 302, headers="Contact: <sip:x@192.0.2.61>\r\n")
    (again,) = [msg for msg in bench.take() if msg.method == "INVITE" and msg.is_request]
    assert (again.ruri, again.source.address, again.routes) == ("sip:x@192.0.2.61", "192.0.2.61", [])


def test_the_script_may_send_redirected_calls_through_a_proxy() -> None:
    """What the failure_route itself has put into $du stays: get_redirects() changes the Request-URI only."""
    bench = TmBench()
    asyncio.run(bench.core.add(UacRedirect()).start())

    def through(run: Run) -> int:
        run.dst_uri = "sip:192.0.2.77"
        return follow(bench, run)

    bench.failure("redirect", through)
    bench.invite(arm={"t_on_failure": "redirect"})
    (sent,) = [msg for msg in bench.take() if msg.is_request]
    bench.answer(sent, 302, headers="Contact: <sip:x@192.0.2.61>\r\n")
    (again,) = [msg for msg in bench.take() if msg.method == "INVITE" and msg.is_request]
    assert (again.ruri, again.source.address) == ("sip:x@192.0.2.61", "192.0.2.77")


def test_all_redirected_branches_count() -> None:
    """The manual: the contacts are gathered from all 3xx branches."""
    assert redirected("<sip:x@192.0.2.61>", more=(CAROL, "<sip:y@192.0.2.62>")) == [
        "sip:x@192.0.2.61",
        "sip:y@192.0.2.62",
    ]


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((), ["x1", "x2", "y1", "y2"]),
        ((3,), ["x1", "x2", "y1"]),
        ((None, 1), ["x1", "y1"]),
        ((3, 1), ["x1", "y1"]),
        ((1, 2), ["x1"]),
    ],
)
def test_limits_in_all_and_for_each_reply(limits: tuple[int | None, ...], expected: list[str]) -> None:
    def route(bench: TmBench, run: Run) -> int:
        assert bench.call("get_redirects", run, *limits) == 1
        return int(bench.call("t_relay", run))

    found = redirected(
        "<sip:x1@192.0.2.61>, <sip:x2@192.0.2.62>",
        route,
        more=(CAROL, "<sip:y1@192.0.2.63>, <sip:y2@192.0.2.64>"),
    )
    assert [uri[4:].partition("@")[0] for uri in found] == expected


@pytest.mark.parametrize("contacts", ["", "<sip:bob@192.0.2.20>", "<sip:bob@192.0.2.20:port>", "<<<", "*"])
def test_nothing_to_follow_leaves_the_reply_as_it_is(contacts: str) -> None:
    """RFC 3261 §16.5: who was called already is not called again; what cannot be read is not followed either."""
    assert redirected(contacts) == ["302"]


def test_only_sip_uris_are_followed_and_without_their_headers() -> None:
    """RFC 3261 §19.1.1 table 1: a Request-URI has no headers; a proxy cannot send to a mailbox."""
    assert redirected("<mailto:bob@example.org>, <sip:x@192.0.2.61;a=b?Subject=sale>") == ["sip:x@192.0.2.61;a=b"]


def test_the_number_of_contacts_has_an_end() -> None:
    """A hostile reply does not fork a call without end."""
    assert len(redirected(", ".join(f"<sip:x@192.0.2.{n}>" for n in range(50, 90)))) == 16


TWO = "<sip:a@192.0.2.61>, <sip:b@192.0.2.62>"


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"deny_filter": "A@"}, ["sip:b@192.0.2.62"]),
        ({"deny_filter": ".*", "accept_filter": "^sip:a@"}, ["sip:a@192.0.2.61"]),
        ({"default_filter": "deny", "accept_filter": "b@"}, ["sip:b@192.0.2.62"]),
        ({"default_filter": "deny"}, ["302"]),
    ],
)
def test_the_filters_of_the_parameters(params: dict[str, Any], expected: list[str]) -> None:
    """The manual: accepted is followed; of the rest, where the default is accept, what is not denied."""
    assert redirected(TWO, **params) == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", ["302"]),
        ("reset_added", ["sip:a@192.0.2.61"]),
        ("reset_default", ["sip:b@192.0.2.62"]),
        ("reset_all", ["sip:a@192.0.2.61", "sip:b@192.0.2.62"]),
    ],
)
def test_filters_of_the_script_reset_earlier_ones(flags: str, expected: list[str]) -> None:
    """Denied are b (the parameter), a (the script), and then what nobody has; its flags drop the earlier ones."""

    def route(bench: TmBench, run: Run) -> int:
        assert bench.call("set_deny_filter", run, Pattern("a@"), resets("")) == 1
        assert bench.call("set_deny_filter", run, Pattern("nobody@"), resets(flags)) == 1
        return follow(bench, run)

    assert redirected(TWO, route, deny_filter="b@") == expected


def test_six_filters_at_most() -> None:
    def route(bench: TmBench, run: Run) -> int:
        results = [bench.call("set_accept_filter", run, Pattern("x"), resets("")) for _ in range(6)]
        assert results == [1, 1, 1, 1, 1, -1]
        assert bench.call("set_accept_filter", run, Pattern("a@"), resets("reset_all")) == 1
        return follow(bench, run)

    assert redirected(TWO, route, default_filter="deny", accept_filter="b@") == ["sip:a@192.0.2.61"]


def test_filters_end_with_the_route() -> None:
    """The manual: they have no global effect; the next failure_route of the call starts anew."""
    bench = TmBench()
    asyncio.run(bench.core.add(UacRedirect()).start())
    results: list[int] = []

    def route(run: Run) -> int:
        if not results:
            bench.call("set_deny_filter", run, Pattern("b@"), resets(""))
        results.append(bench.call("get_redirects", run))
        bench.call("t_on_failure", run, "redirect")
        return int(bench.call("t_relay", run)) if results[-1] > 0 else 1

    bench.failure("redirect", route)
    bench.invite(arm={"t_on_failure": "redirect"})
    bench.answer(next(msg for msg in bench.take() if msg.is_request), 302, headers=f"Contact: {TWO}\r\n")
    second = next(msg for msg in bench.take() if msg.ruri == "sip:a@192.0.2.61" and msg.method == "INVITE")
    bench.answer(second, 302, headers=f"Contact: {TWO}\r\n")
    assert [msg.ruri for msg in bench.take() if msg.method == "INVITE" and msg.is_request] == ["sip:b@192.0.2.62"]
    assert results == [1, 1]


@pytest.mark.parametrize("params", [{"default_filter": "maybe"}, {"accept_filter": "("}, {"deny_filter": "[a"}])
def test_a_parameter_that_cannot_be_is_refused(params: dict[str, str]) -> None:
    with pytest.raises(ParamError):
        UacRedirect(**params)


def test_unknown_flags_are_found_at_load() -> None:
    with pytest.raises(ValueError, match="reset_all"):
        resets("reset")
