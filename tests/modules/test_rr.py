"""rr: Record-Route on the wire, and where Route headers lead (RFC 3261 §16.4, §16.6, §16.12; RFC 5658)."""

from __future__ import annotations

import logging

import pytest

from opensipspy import sip
from opensipspy.module.testing import FakeCore, make_run, request
from opensipspy.modules.rr import Rr
from opensipspy.modules.rr.api import RrApi
from opensipspy.script.kinds import BRANCH, FAILURE
from opensipspy.script.patterns import Pattern
from opensipspy.script.run import Branch, Run

UDP = sip.Socket(sip.PROTO_UDP, "192.0.2.1", 5060, index=0)
TCP = sip.Socket(sip.PROTO_TCP, "192.0.2.1", 5060, index=1)
NAT = sip.Socket(sip.PROTO_UDP, "10.0.0.1", 5070, "198.51.100.7", 5080, index=2)
V6 = sip.Socket(sip.PROTO_UDP, "2001:db8::1", 5060, index=3)
TLS = sip.Socket(sip.PROTO_TLS, "192.0.2.1", 5061, index=4)

DIALOG = "<sip:bob@example.org>;tag=b1"


def loaded(**params: int | str) -> tuple[FakeCore, Rr]:
    core = FakeCore(sockets=[UDP, TCP, NAT, V6, TLS])
    return core, core.add(Rr(**params))


def wire(run: Run, out: sip.Socket = UDP) -> str:
    """The request as it would leave from `out`."""
    return sip.build_request(run.msg, run.edits, run.ruri, "SIP/2.0/UDP h;branch=z9hG4bKx", out).decode()


def lines(text: str, name: str) -> list[str]:
    return [line.partition(": ")[2] for line in text.split("\r\n") if line.lower().startswith(name.lower() + ":")]


# --- recording


def test_record_route_names_the_outgoing_socket_and_the_from_tag() -> None:
    """RFC 3261 §16.6 step 4: the URI resolves to the proxy and has the lr parameter."""
    core, _ = loaded()
    run = make_run(request(), core=core)
    assert core.call("record_route", run) == 1
    assert lines(wire(run), "Record-Route") == ["<sip:192.0.2.1:5060;lr;ftag=a1>"]


def test_record_route_goes_before_others() -> None:
    """RFC 3261 §16.6 step 4: the value is inserted before any existing one."""
    core, _ = loaded(append_fromtag=0)
    run = make_run(request(headers="Record-Route: <sip:p1.example.com;lr>\r\nRecord-Route: <sip:p0;lr>"), core=core)
    core.call("record_route", run)
    assert lines(wire(run), "Record-Route") == [
        "<sip:192.0.2.1:5060;lr>",
        "<sip:p1.example.com;lr>",
        "<sip:p0;lr>",
    ]


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        (TCP, "sip:192.0.2.1:5060;transport=tcp"),
        (NAT, "sip:198.51.100.7:5080"),
        (V6, "sip:[2001:db8::1]:5060"),
        (TLS, "sip:192.0.2.1:5061;transport=tls"),
    ],
    ids=["protocol", "advertised", "IPv6", "TLS"],
)
def test_two_headers_when_the_sockets_differ(out: sip.Socket, expected: str) -> None:
    """RFC 5658 §5: the side of the callee first, then the side of the caller."""
    core, _ = loaded(append_fromtag=0)
    run = make_run(request(), core=core)
    core.call("record_route", run)
    assert lines(wire(run, out), "Record-Route") == [
        f"<{expected};lr;r2=on>",
        "<sip:192.0.2.1:5060;lr;r2=on>",
    ]


def test_each_copy_gets_its_own_socket() -> None:
    """Parallel forks may leave from different sockets: the text is made for each copy."""
    core, _ = loaded(append_fromtag=0)
    run = make_run(request(), core=core)
    core.call("record_route", run)
    assert len(lines(wire(run, UDP), "Record-Route")) == 1
    assert len(lines(wire(run, TCP), "Record-Route")) == 2
    assert len(lines(wire(run, UDP), "Record-Route")) == 1


def test_one_header_when_double_recording_is_off() -> None:
    """enable_double_rr=0 writes the outgoing side only."""
    core, _ = loaded(append_fromtag=0, enable_double_rr=0)
    run = make_run(request(), core=core)
    core.call("record_route", run)
    assert lines(wire(run, TCP), "Record-Route") == ["<sip:192.0.2.1:5060;transport=tcp;lr>"]


def test_sips_is_recorded_as_sips() -> None:
    """RFC 3261 §16.6 step 4: a SIPS Request-URI asks for a SIPS URI in Record-Route."""
    core, _ = loaded(append_fromtag=0)
    run = make_run(request(ruri="sips:bob@example.org"), core=core, socket=TLS)
    core.call("record_route", run)
    assert lines(wire(run, TLS), "Record-Route") == ["<sips:192.0.2.1:5061;lr>"]


def test_parameters_before_and_after_recording() -> None:
    """The manual: add_rr_param() works on both sides of record_route(), whose own parameters come first."""
    core, _ = loaded(append_fromtag=0, add_username=1)
    run = make_run(request(), core=core)
    assert core.call("add_rr_param", run, ";nat=yes") == 1
    assert core.call("record_route", run, ";did=5") == 1
    assert core.call("add_rr_param", run, ";late") == 1
    assert lines(wire(run), "Record-Route") == ["<sip:bob@192.0.2.1:5060;lr;did=5;nat=yes;late>"]


@pytest.mark.parametrize("param", ["", ";", "x=1", ";a=1>\r\nX: y", ";a b", ";a?x"])
def test_a_parameter_cannot_break_out_of_the_uri(param: str) -> None:
    """What ends the URI or the header is refused."""
    core, _ = loaded()
    run = make_run(request(), core=core)
    assert core.call("add_rr_param", run, param) == -1


def test_recording_twice_is_refused() -> None:
    """The request would pass us twice."""
    core, _ = loaded()
    run = make_run(request(), core=core)
    assert core.call("record_route", run) == 1
    assert core.call("record_route", run) == -1
    assert len(lines(wire(run), "Record-Route")) == 1


def test_a_branch_records_for_itself() -> None:
    """The manual: allowed in a branch route; other branches do not see it."""
    core, _ = loaded(append_fromtag=0)
    run = make_run(request(), core=core)
    one, two = (run.for_branch(Branch("sip:x@192.0.2.9"), index) for index in (0, 1))
    assert one.kind == BRANCH
    assert core.call("add_rr_param", one, ";b=1") == 1
    assert core.call("record_route", one) == 1
    assert lines(wire(one), "Record-Route") == ["<sip:192.0.2.1:5060;lr;b=1>"]
    assert lines(wire(two), "Record-Route") == []


@pytest.mark.parametrize("kind", [BRANCH, FAILURE], ids=["branch", "failure"])
def test_a_parameter_for_all_copies_counts_for_those_of_a_branch_too(kind: int) -> None:
    """The manual: add_rr_param() works on both sides of record_route(), also when nothing was known before."""
    core, _ = loaded(append_fromtag=0)
    run = make_run(request(), core=core)
    core.call("record_route", run)
    one = run.for_branch(Branch("sip:x@192.0.2.9"), 0)
    one.kind = kind
    core.call("add_rr_param", one, ";b=1")
    core.call("add_rr_param", run, ";late=1")
    assert lines(wire(one), "Record-Route") == ["<sip:192.0.2.1:5060;lr;late=1;b=1>"]
    assert lines(wire(run), "Record-Route") == ["<sip:192.0.2.1:5060;lr;late=1>"]


@pytest.mark.parametrize("preset", [False, True], ids=["record_route", "record_route_preset"])
@pytest.mark.parametrize("kind", [BRANCH, FAILURE], ids=["branch", "failure"])
def test_a_parameter_of_some_copies(kind: int, preset: bool) -> None:
    """The manual: add_rr_param() in a branch or failure route counts for its copies, recorded in the main route."""
    core, _ = loaded(append_fromtag=0)
    run = make_run(request(), core=core)
    core.call("add_rr_param", run, ";a=1")
    if preset:
        core.call("record_route_preset", run, "192.0.2.1:5060")
    else:
        core.call("record_route", run)
    one, two = (run.for_branch(Branch("sip:x@192.0.2.9"), index) for index in (0, 1))
    one.kind = two.kind = kind
    assert core.call("add_rr_param", one, ";b=1") == 1
    assert core.call("add_rr_param", one, ";c") == 1
    assert core.call("add_rr_param", one, ";a=2") == 1
    nested = one.for_branch(Branch("sip:y@192.0.2.9"))
    assert core.call("add_rr_param", nested, ";b=3") == 1
    assert lines(wire(one), "Record-Route") == ["<sip:192.0.2.1:5060;lr;b=1;c;a=2>"]
    assert lines(wire(nested), "Record-Route") == ["<sip:192.0.2.1:5060;lr;c;a=2;b=3>"]
    assert lines(wire(two), "Record-Route") == ["<sip:192.0.2.1:5060;lr;a=1>"]
    assert lines(wire(run), "Record-Route") == ["<sip:192.0.2.1:5060;lr;a=1>"]


def test_each_failure_route_may_record() -> None:
    """What one failure route noted is not in the copies of the next."""
    core, _ = loaded(append_fromtag=0)
    run = make_run(request(), core=core)
    for index in (0, 1):
        view = run.for_branch(Branch("sip:x@192.0.2.9"), index)
        view.kind = FAILURE
        assert core.call("add_rr_param", view, f";try={index}") == 1
        assert core.call("record_route", view) == 1
        assert core.call("record_route", view) == -1
        assert lines(wire(view), "Record-Route") == [f"<sip:192.0.2.1:5060;lr;try={index}>"]


def test_preset_texts(caplog: pytest.LogCaptureFixture) -> None:
    """The manual: the first text faces the way out, the second the way in; a foreign address is warned about."""
    core, _ = loaded(append_fromtag=0)
    run = make_run(request(), core=core)
    with caplog.at_level(logging.WARNING):
        assert core.call("record_route_preset", run, "203.0.113.1:5090", "10.9.9.9") == 1
        assert lines(wire(run), "Record-Route") == [
            "<sip:203.0.113.1:5090;lr;r2=on>",
            "<sip:10.9.9.9;lr;r2=on>",
        ]
    assert "203.0.113.1" in caplog.text


# --- following: RFC 3261 §16.12


def routed(core: FakeCore, routes: str, ruri: str = "sip:callee@u2.domain.com", to: str = DIALOG) -> tuple[int, Run]:
    run = make_run(request("BYE", ruri, headers=routes, to=to), core=core)
    return core.call("loose_route", run), run


def test_no_route_is_false() -> None:
    """The manual: without Route the Request-URI alone decides."""
    core, _ = loaded()
    code, run = routed(core, "")
    assert code == -1
    assert run.dst_uri == ""


def test_our_own_route_goes_and_the_request_uri_decides() -> None:
    """RFC 3261 §16.12.1.1: the last proxy removes itself and sends to the Request-URI."""
    core, rr = loaded()
    code, run = routed(core, "Route: <sip:192.0.2.1:5060;lr;ftag=a1>")
    assert (code, run.ruri, run.dst_uri) == (1, "sip:callee@u2.domain.com", "")
    assert lines(wire(run), "Route") == []
    assert rr.route_params(run) == ";lr;ftag=a1"
    assert core.read("$rr_params", run) == "lr;ftag=a1"


@pytest.mark.parametrize(
    "routes",
    [
        "Route: <sip:192.0.2.1;lr>\r\nRoute: <sip:p2.domain.com;lr;x=1>, <sip:p3.domain.com;lr>",
        "Route: <sip:192.0.2.1;lr>,<sip:p2.domain.com;lr;x=1> , <sip:p3.domain.com;lr>",
    ],
    ids=["two headers", "one header"],
)
def test_the_next_loose_router_is_the_next_hop(routes: str) -> None:
    """RFC 3261 §16.4 and §16.12.1.1: our value goes, the next one stays and is where the request is sent."""
    core, _ = loaded()
    code, run = routed(core, routes)
    assert (code, run.dst_uri) == (1, "sip:p2.domain.com;lr;x=1")
    assert run.ruri == "sip:callee@u2.domain.com"
    assert ", ".join(lines(wire(run), "Route")) == "<sip:p2.domain.com;lr;x=1>, <sip:p3.domain.com;lr>"


def test_a_foreign_route_is_followed_as_it_is() -> None:
    """RFC 3261 §16.6 step 6: the top Route is not ours, it stays."""
    core, rr = loaded()
    code, run = routed(core, "Route: <sip:p2.domain.com;lr>")
    assert (code, run.dst_uri) == (1, "sip:p2.domain.com;lr")
    assert lines(wire(run), "Route") == ["<sip:p2.domain.com;lr>"]
    assert rr.route_params(run) == ""


def test_a_route_of_another_program_at_our_address_is_foreign() -> None:
    """`ignore_user`: the user part tells two programs apart, and is never what we record."""
    core, _ = loaded(ignore_user="neighbour", append_fromtag=0, add_username=1)
    code, run = routed(core, "Route: <sip:neighbour@192.0.2.1;lr>")
    assert (code, run.dst_uri) == (1, "sip:neighbour@192.0.2.1;lr")
    assert lines(wire(run), "Route") == ["<sip:neighbour@192.0.2.1;lr>"]
    code, run = routed(core, "Route: <sip:bob@192.0.2.1;lr>")
    assert lines(wire(run), "Route") == []
    for user, shown in (("neighbour", "xeighbour"), ("bob", "bob")):
        run = make_run(request(ruri=f"sip:{user}@example.org"), core=core)
        core.call("record_route", run)
        assert lines(wire(run), "Record-Route") == [f"<sip:{shown}@192.0.2.1:5060;lr>"]


def test_maddr_says_whose_a_route_is() -> None:
    """RFC 3261 §19.1.1: it stands for the host; a strict router of old writes it."""
    core, _ = loaded()
    code, run = routed(core, "Route: <sip:name.of.ours;maddr=192.0.2.1;lr>, <sip:p4.domain.com;lr>")
    assert (code, run.dst_uri) == (1, "sip:p4.domain.com;lr")
    code, run = routed(core, "Route: <sip:192.0.2.1;maddr=198.51.100.1;lr>")
    assert lines(wire(run), "Route") == ["<sip:192.0.2.1;maddr=198.51.100.1;lr>"]


def test_a_strict_router_comes_next() -> None:
    """RFC 3261 §16.12.1.2: the strict router goes into the Request-URI, the Request-URI to the end of Route."""
    core, _ = loaded()
    code, run = routed(core, "Route: <sip:192.0.2.1;lr>, <sip:p3.middle.com>, <sip:p4.domain.com;lr>")
    assert (code, run.ruri, run.dst_uri) == (1, "sip:p3.middle.com", "")
    assert lines(wire(run), "Route") == ["<sip:p4.domain.com;lr>", "<sip:callee@u2.domain.com>"]


def test_a_strict_router_came_before() -> None:
    """RFC 3261 §16.4, §16.12.1.2: our own Record-Route in the Request-URI gives way to the last Route."""
    core, rr = loaded()
    code, run = routed(
        core, "Route: <sip:p4.domain.com;lr>\r\nRoute: <sip:callee@u2.domain.com>", "sip:192.0.2.1:5060;lr;ftag=a1"
    )
    assert (code, run.ruri, run.dst_uri) == (1, "sip:callee@u2.domain.com", "sip:p4.domain.com;lr")
    assert lines(wire(run), "Route") == ["<sip:p4.domain.com;lr>"]
    assert rr.route_param(run, "ftag") == "a1"


def test_a_strict_router_before_two_of_our_own() -> None:
    """RFC 5658 with a strict router: the second of our values is on top of Route."""
    core, _ = loaded()
    code, run = routed(
        core,
        "Route: <sip:192.0.2.1:5060;transport=tcp;lr;r2=on>, <sip:callee@u2.domain.com>",
        "sip:192.0.2.1:5060;lr;r2=on",
    )
    assert (code, run.ruri, run.dst_uri) == (1, "sip:callee@u2.domain.com", "")
    assert lines(wire(run), "Route") == []
    assert run.socket_out is TCP


def test_both_of_our_own_go_and_the_second_is_the_way_out() -> None:
    """RFC 5658 §5: the two values belong together; the second one tells the other side."""
    core, _ = loaded()
    code, run = routed(core, "Route: <sip:192.0.2.1:5060;lr;r2=on;ftag=a1>, <sip:198.51.100.7:5080;lr;r2=on;ftag=a1>")
    assert code == 1
    assert lines(wire(run), "Route") == []
    assert run.socket_out is NAT


def test_a_spiral_keeps_our_other_value() -> None:
    """RFC 3261 §16.12.1.3: a request that passed twice comes back for the second value, which is removed then."""
    core, _ = loaded()
    code, run = routed(core, "Route: <sip:192.0.2.1;lr>, <sip:192.0.2.1;lr>")
    assert (code, run.dst_uri) == (1, "sip:192.0.2.1;lr")
    assert lines(wire(run), "Route") == ["<sip:192.0.2.1;lr>"]


def test_a_preloaded_route_to_us_alone_is_removed_and_false() -> None:
    """The manual: an initial request with nothing but our address in Route."""
    core, _ = loaded()
    code, run = routed(core, "Route: <sip:192.0.2.1;lr>", to="<sip:bob@example.org>")
    assert code == -1
    assert lines(wire(run), "Route") == []


def test_a_preloaded_route_beyond_us_is_true() -> None:
    """The manual: scripts refuse it, so that nobody gets past authentication."""
    core, _ = loaded()
    code, run = routed(core, "Route: <sip:192.0.2.1;lr>, <sip:gw.example.net;lr>", to="<sip:bob@example.org>")
    assert (code, run.dst_uri) == (1, "sip:gw.example.net;lr")


def test_a_gruu_of_ours_is_no_strict_route() -> None:
    """RFC 5627: a Request-URI with gr names a device, even at our own address."""
    core, _ = loaded()
    code, run = routed(core, "Route: <sip:p2.domain.com;lr>", "sip:bob@192.0.2.1;gr=x;lr")
    assert (code, run.ruri) == (1, "sip:bob@192.0.2.1;gr=x;lr")


@pytest.mark.parametrize(
    "routes",
    [
        "Route: <sip:192.0.2.1;lr",
        "Route: <sip:>",
        "Route: <sip:192.0.2.1;lr>, <sip:[::1;lr>",
        "Route: ,,,",
        "Route: <mailto:x>, garbage here",
        "Route: <http://192.0.2.1/x>, <sip:p2.domain.com;lr>",
        "Route: <tel:+123>",
    ],
)
def test_malformed_routes_are_false_and_change_nothing(routes: str) -> None:
    """RFC 3261 §16.3: what cannot be read is not followed."""
    core, _ = loaded()
    code, run = routed(core, routes)
    assert code == -1
    assert (run.ruri, run.dst_uri) == ("sip:callee@u2.domain.com", "")
    assert routes in wire(run)


def test_many_routes_cost_no_more_than_their_length() -> None:
    """A long Route set is cut once."""
    core, _ = loaded()
    rest = ", ".join(f"<sip:p{n}.example.com;lr>" for n in range(150))
    code, run = routed(core, f"Route: <sip:192.0.2.1;lr>, {rest}")
    assert code == 1
    assert lines(wire(run), "Route") == [rest]


# --- asking


@pytest.mark.parametrize(
    ("ftag", "upstream"), [(";ftag=a1", False), (";ftag=b1", True), ("", False)], ids=["caller", "callee", "unknown"]
)
def test_direction_by_the_from_tag(ftag: str, upstream: bool) -> None:
    """The manual: the tag in our Route is the From tag of the request that made the dialog."""
    core, rr = loaded()
    _, run = routed(core, f"Route: <sip:192.0.2.1;lr{ftag}>")
    fixup = core.catalogue.functions["is_direction"].params[0].fixup
    assert fixup is not None
    assert (core.call("is_direction", run, fixup("UPSTREAM")) == 1) is upstream
    assert (core.call("is_direction", run, fixup("downstream")) == 1) is not upstream
    assert rr.is_upstream(run) is upstream
    with pytest.raises(ValueError, match="sideways"):
        fixup("sideways")


def test_route_parameters_are_searched() -> None:
    """The manual's example: ";foo=true" is there after loose_route(), not before."""
    core, _ = loaded()
    run = make_run(request("BYE", headers="Route: <sip:192.0.2.1;lr;foo=true>", to=DIALOG), core=core)
    assert core.call("check_route_param", run, Pattern(";foo=true")) == -1
    core.call("loose_route", run)
    assert core.call("check_route_param", run, Pattern(";foo=true")) == 1
    assert core.call("check_route_param", run, Pattern("bar")) == -1


def test_other_modules_hear_of_our_route() -> None:
    """The interface: callbacks with the parameters, parameters by name, parameters added."""
    core, _ = loaded(append_fromtag=0)
    api = core.api("rr", RrApi)  # type: ignore[type-abstract]
    heard: list[str] = []
    api.on_loose_route(lambda run, params: heard.append(params))
    _, run = routed(core, "Route: <sip:192.0.2.1;lr;did=f1.2;Empty>")
    assert heard == [";lr;did=f1.2;Empty"]
    assert (api.route_param(run, "DID"), api.route_param(run, "empty"), api.route_param(run, "x")) == ("f1.2", "", None)
    routed(core, "Route: <sip:p2.domain.com;lr>")
    assert len(heard) == 1
    fresh = make_run(request(), core=core)
    assert api.add_param(fresh, ";did=1")
    core.call("record_route", fresh)
    assert lines(wire(fresh), "Record-Route") == ["<sip:192.0.2.1:5060;lr;did=1>"]
