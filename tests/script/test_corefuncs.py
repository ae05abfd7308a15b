"""The core's script functions (manual: Script-CoreFunctions)."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from opensipspy.script.corefuncs import split_destination
from opensipspy.script.corefuncs_server import used_blacklists
from opensipspy.script.declare import FunctionDecl
from opensipspy.script.run import VIA_FORCE_RPORT, VIA_LOCAL_RPORT, VIA_REPLY_TO_VIA, Branch
from tests.script.fakes import REPLY, UDP_SOCKET, Bench
from tests.script.lab import Lab


class Caller(Bench):
    def call(self, name: str, *args: Any) -> int:
        """Call as compiled code does: constants go through their fixup first."""
        decl = self.decl(name)
        ready = [
            param.fixup(arg) if param.fixup is not None and arg is not None and not param.takes_format else arg
            for param, arg in zip(decl.params, args, strict=False)
        ]
        result = decl.call(self.run, *ready)
        if inspect.isawaitable(result):
            return asyncio.run(_wait(result))
        assert isinstance(result, int)
        return result

    def decl(self, name: str) -> FunctionDecl:
        decl = self.catalogue.function(name)
        assert decl is not None
        return decl

    def ref(self, text: str) -> Any:
        return self.spec(text).reference()


async def _wait(result: Any) -> int:
    value = await result
    assert isinstance(value, int)
    return value


# -- flags


def test_message_flags_are_set_by_name() -> None:
    bench = Caller()
    assert bench.call("isflagset", "NAT") == -1
    assert bench.call("setflag", "NAT") == 1
    assert bench.call("isflagset", "NAT") == 1
    assert bench.read("$msg.flag(NAT)") == 1
    assert bench.call("resetflag", "NAT") == 1
    assert bench.call("isflagset", "NAT") == -1


def test_branch_flags_belong_to_a_branch() -> None:
    bench = Caller()
    bench.call("append_msg_branch", "sip:one@a.example")
    assert bench.call("setbflag", "B", 1) == 1
    assert (bench.call("isbflagset", "B"), bench.call("isbflagset", "B", 1)) == (-1, 1)
    assert bench.call("setbflag", "B") == 1
    assert bench.call("resetbflag", "B", 1) == 1
    assert (bench.call("isbflagset", "B", 0), bench.call("isbflagset", "B", 1)) == (1, -1)
    assert bench.call("setbflag", "B", 5) == -1
    assert bench.call("isbflagset", "B", -3) == -1


# -- Request-URI

RURI = "sip:bob:secret@biloxi.example:5070;transport=tcp;user=phone"


@pytest.mark.parametrize(
    ("function", "arg", "expected"),
    [
        ("seturi", "sip:x@y.example", "sip:x@y.example"),
        ("sethost", "h.example", "sip:bob:secret@h.example:5070;transport=tcp;user=phone"),
        ("sethostport", "h.example:99", "sip:bob:secret@h.example:99;transport=tcp;user=phone"),
        ("sethostport", "h.example", "sip:bob:secret@h.example;transport=tcp;user=phone"),
        ("sethostport", "[2001:db8::1]:99", "sip:bob:secret@[2001:db8::1]:99;transport=tcp;user=phone"),
        ("setport", "5090", "sip:bob:secret@biloxi.example:5090;transport=tcp;user=phone"),
        ("setport", "", "sip:bob:secret@biloxi.example;transport=tcp;user=phone"),
        ("setuser", "carol", "sip:carol:secret@biloxi.example:5070;transport=tcp;user=phone"),
        ("setuserpass", "carol:pw", "sip:carol:pw@biloxi.example:5070;transport=tcp;user=phone"),
        ("prefix", "00", "sip:00bob:secret@biloxi.example:5070;transport=tcp;user=phone"),
        ("strip", 1, "sip:ob:secret@biloxi.example:5070;transport=tcp;user=phone"),
        ("strip_tail", 2, "sip:b:secret@biloxi.example:5070;transport=tcp;user=phone"),
        ("strip", 99, "sip:biloxi.example:5070;transport=tcp;user=phone"),
        ("strip_tail", 0, RURI),
    ],
)
def test_the_request_uri_becomes(function: str, arg: str | int, expected: str) -> None:
    bench = Caller()
    assert bench.call(function, arg) == 1
    assert bench.read("$ru") == expected
    assert bench.call("revert_uri") == 1
    assert bench.read("$ru") == RURI


@pytest.mark.parametrize(
    ("function", "arg"),
    [
        ("seturi", None),
        ("sethost", None),
        ("sethost", "a b"),
        ("sethost", "h\r\nX: y"),
        ("setport", "99999"),
        ("setport", "ten"),
        ("setuser", "a>b"),
        ("prefix", "a b"),
        ("prefix", None),
        ("strip", -1),
        ("strip_tail", -1),
    ],
)
def test_a_broken_part_is_refused(function: str, arg: str | int | None) -> None:
    bench = Caller()
    assert bench.call(function, arg) == -1
    assert bench.read("$ru") == RURI


def test_a_new_host_drops_maddr() -> None:
    """The request must go to the host that was set."""
    bench = Caller()
    bench.run.ruri = "sip:u@h;maddr=10.0.0.1;lr"
    assert bench.call("sethost", "k") == 1
    assert bench.run.ruri == "sip:u@k;lr"


def test_the_destination_is_set_and_reset() -> None:
    bench = Caller()
    assert bench.call("isdsturiset") == -1
    assert bench.call("setdsturi", "sip:proxy.example:5062") == 1
    assert bench.call("isdsturiset") == 1
    assert bench.read("$du") == "sip:proxy.example:5062"
    assert bench.call("setdsturi", "not a uri") == -1
    assert bench.call("resetdsturi") == 1
    assert bench.call("isdsturiset") == -1


# -- the destination set


def uris(bench: Bench) -> list[str]:
    return [bench.run.ruri, *(branch.uri for branch in bench.run.branches)]


def test_append_branch_old_without_a_uri_moves_the_attributes() -> None:
    bench = Caller()
    bench.run.dst_uri = "sip:hop.example"
    bench.run.q = 700
    assert bench.call("append_branch_old") == 1
    assert uris(bench) == [RURI, RURI]
    assert (bench.run.branches[0].dst_uri, bench.run.branches[0].q) == ("sip:hop.example", 700)
    assert (bench.run.dst_uri, bench.run.q) == ("", -1)


def test_append_msg_branch_takes_over_attributes_only_when_told() -> None:
    bench = Caller()
    bench.run.dst_uri = "sip:hop.example"
    assert bench.call("append_msg_branch", "sip:a@a.example", "0.5") == 1
    assert bench.call("append_msg_branch", "sip:b@b.example", None, "inherite") == 1
    assert [(branch.dst_uri, branch.q) for branch in bench.run.branches] == [("", 500), ("sip:hop.example", -1)]
    assert bench.call("append_msg_branch", None) == -1
    with pytest.raises(ValueError, match="unknown flag"):
        bench.call("append_msg_branch", "sip:c@c.example", None, "inherit")
    with pytest.raises(ValueError, match="q value"):
        bench.call("append_msg_branch", "sip:c@c.example", "half")


@pytest.mark.parametrize("q", ["1.1", "-1", "2", ".", "0.1234", "0,5"])
def test_a_bad_q_is_found_at_load(q: str) -> None:
    with pytest.raises(ValueError, match=r"q value|above 1"):
        Caller().call("append_msg_branch", "sip:a@a.example", q)


def test_branches_are_removed_moved_and_swapped() -> None:
    bench = Caller()
    for name in "abc":
        bench.call("append_msg_branch", f"sip:{name}@x.example")
    assert bench.call("swap_msg_branches", 0, 2) == 1
    assert uris(bench)[1:] == ["sip:c@x.example", "sip:b@x.example", "sip:a@x.example"]
    assert bench.call("swap_msg_branches", None, 1) == 1
    assert uris(bench) == ["sip:b@x.example", "sip:c@x.example", RURI, "sip:a@x.example"]
    assert bench.call("move_msg_branch", 2, 0) == 1
    assert uris(bench) == ["sip:b@x.example", "sip:a@x.example", RURI]
    assert bench.call("move_msg_branch", 1, None, "keep") == 1
    assert uris(bench) == [RURI, "sip:a@x.example", RURI]
    assert bench.call("remove_msg_branch", 0) == 1
    assert uris(bench) == [RURI, RURI]
    for call in (
        ("remove_msg_branch", 9),
        ("move_msg_branch", 9),
        ("swap_msg_branches", 0, 9),
        ("remove_msg_branch", -1),
    ):
        assert bench.call(*call) == -1


def test_branches_are_tried_by_falling_q() -> None:
    """serialize_branches() puts groups of one q aside, next_branches() takes them one after the other."""
    bench = Caller()
    bench.run.q = 500
    for name, q in (("a", 900), ("b", 500), ("c", 100)):
        bench.run.branches.append(Branch(f"sip:{name}@x.example", q=q))
    assert bench.call("serialize_branches", 1) == 1
    assert bench.run.branches == []
    assert bench.call("next_branches") == 1
    assert uris(bench) == ["sip:a@x.example"]
    assert bench.call("next_branches") == 1
    assert uris(bench) == [RURI, "sip:b@x.example"]
    assert bench.call("next_branches") == 2
    assert uris(bench) == ["sip:c@x.example"]
    assert bench.call("next_branches") == -1


def test_a_serialized_branch_with_a_path_goes_to_its_first_hop() -> None:
    """RFC 3327 §5.3: the Path becomes the route set, its first element the next hop."""
    bench = Caller()
    bench.run.branches.append(Branch("sip:a@x.example", q=900, path="<sip:edge.example;lr>, <sip:p2.example;lr>"))
    bench.run.q = 100
    assert bench.call("serialize_branches", 1) == 1
    assert bench.call("next_branches") == 1
    assert (bench.run.ruri, bench.run.dst_uri) == ("sip:a@x.example", "sip:edge.example;lr")


def test_a_negative_index_is_the_request_uri() -> None:
    bench = Caller()
    bench.call("append_msg_branch", "sip:a@x.example")
    assert bench.call("swap_msg_branches", -1, 0) == 1
    assert uris(bench) == ["sip:a@x.example", RURI]


def test_branches_keep_their_order_when_told() -> None:
    bench = Caller()
    bench.call("append_msg_branch", "sip:a@x.example")
    bench.call("append_msg_branch", "sip:b@x.example")
    assert bench.call("serialize_branches", 1, 1) == 1
    seen = []
    while bench.call("next_branches") > 0:
        seen.append(bench.run.ruri)
    assert seen == [RURI, "sip:a@x.example", "sip:b@x.example"]


def test_branches_of_one_q_stay_parallel() -> None:
    bench = Caller()
    bench.call("append_msg_branch", "sip:a@x.example")
    assert bench.call("serialize_branches", 1) == 1
    assert uris(bench) == [RURI, "sip:a@x.example"]


@pytest.mark.parametrize("name", sorted(Bench().catalogue.functions))
def test_a_value_that_cannot_be_prepared_is_a_value_error(name: str) -> None:
    """What a variable holds is only known at the call: NULL and nonsense must not be another exception."""
    reasons = []
    for param in Caller().decl(name).params:
        for value in (None, 5, "", "\r\n", "$", "9" * 50):
            if param.fixup is not None and not param.takes_format:
                try:
                    param.fixup(value)
                except ValueError as error:
                    reasons.append(str(error))
    assert all(reasons), "the log tells what is wrong"


# -- Via, sockets, sending


def test_via_handling_is_noted() -> None:
    bench = Caller()
    assert bench.call("force_rport") == 1
    assert bench.run.via_flags == VIA_FORCE_RPORT
    assert bench.call("add_local_rport") == 1
    assert bench.call("set_via_handling", "reply-to-via,force-rport") == 1
    assert bench.run.via_flags == VIA_FORCE_RPORT | VIA_LOCAL_RPORT | VIA_REPLY_TO_VIA
    with pytest.raises(ValueError, match="unknown flag"):
        bench.call("set_via_handling", "sideways")


def test_only_connections_have_aliases() -> None:
    bench = Caller()
    assert bench.call("force_tcp_alias") == 1
    assert bench.services.aliases == []
    bench.message.source.connection = 7
    assert bench.call("force_tcp_alias") == 1
    assert bench.call("force_tcp_alias", 5099) == 1
    assert bench.services.aliases == [5062, 5099]


def test_advertised_address_and_port_are_checked() -> None:
    bench = Caller()
    assert bench.call("set_advertised_address", "2001:db8::7") == 1
    assert bench.call("set_advertised_port", "5099") == 1
    assert (bench.run.advertised_address, bench.run.advertised_port) == ("[2001:db8::7]", 5099)
    for call in (("set_advertised_port", "0"), ("set_advertised_port", "x"), ("set_advertised_address", "a b")):
        assert bench.call(*call) == -1


def test_a_socket_is_forced() -> None:
    bench = Caller()
    assert bench.call("force_send_socket", "outside") == 1
    assert bench.run.socket_out is UDP_SOCKET
    assert bench.call("force_send_socket", "udp:9.9.9.9:5060") == -1
    assert bench.run.socket_out is UDP_SOCKET
    with pytest.raises(ValueError, match="names no socket"):
        bench.call("force_send_socket", "udp:")
    assert bench.call("socket_belongs_to_bond", "udp:192.0.2.100:5060", "pair") == 1
    assert bench.call("socket_belongs_to_bond", "udp:192.0.2.100:5060", "other") == -1


def test_is_myself_asks_the_server() -> None:
    bench = Caller()
    assert bench.call("is_myself", "192.0.2.100") == 1
    assert bench.call("is_myself", "192.0.2.100", 5060) == 1
    assert bench.call("is_myself", "192.0.2.100", 5070) == -1
    assert bench.call("is_myself", None) == -1


def test_messages_are_sent_on() -> None:
    bench = Caller()
    assert bench.call("forward") == 1
    assert bench.call("forward", "udp:10.0.0.1:5062") == 1
    assert bench.call("send", "10.0.0.2", "X: y\r\n") == 1
    assert bench.services.sent == [("forward", ""), ("forward", "udp:10.0.0.1:5062"), ("10.0.0.2", "X: y\r\n")]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("host", ("", "host", 0)),
        ("host:5070", ("", "host", 5070)),
        ("TCP:host:5070", ("tcp", "host", 5070)),
        ("udp:[2001:db8::1]:5070", ("udp", "2001:db8::1", 5070)),
        ("[2001:db8::1]", ("", "2001:db8::1", 0)),
        ("sip:u@host:5070;transport=tcp", ("tcp", "host", 5070)),
    ],
)
def test_a_destination_is_read(text: str, parts: tuple[str, str, int]) -> None:
    assert split_destination(text) == parts


@pytest.mark.parametrize("text", ["", "udp:", "host:x", "host:99999", "[2001:db8::1", "[x]:5", "[::1]5"])
def test_a_bad_destination_is_found_at_load(text: str) -> None:
    with pytest.raises(ValueError, match=r"host|port|destination|Expected|permitted|IPv6|colon|least"):
        Caller().call("forward", text)


# -- values


def test_a_uri_is_constructed_into_an_avp() -> None:
    bench = Caller()
    result = bench.ref("$avp(uri)")
    assert bench.call("construct_uri", "sip", "bob", "2001:db8::1", "5070", "transport=tcp", result) == 1
    assert bench.read("$avp(uri)") == "sip:bob@[2001:db8::1]:5070;transport=tcp"
    assert bench.call("construct_uri", "sip", None, "h.example", None, None, result) == 1
    assert bench.read("$avp(uri)") == "sip:h.example"
    assert bench.call("construct_uri", None, "x", "h", None, None, result) == -1
    assert bench.call("construct_uri", "sip", "a b", "h", None, None, result) == -1


def test_the_time_goes_to_two_avps() -> None:
    bench = Caller()
    assert bench.call("get_timestamp", bench.ref("$avp(s)"), bench.ref("$avp(u)")) == 1
    assert (bench.read("$avp(s)"), bench.read("$avp(u)")) == (1_700_000_000, 250_000)


def test_pv_printf_writes_a_text() -> None:
    bench = Caller()
    assert bench.call("pv_printf", bench.ref("$var(x)"), "text") == 1
    assert bench.read("$var(x)") == "text"


def test_avps_are_printed() -> None:
    bench = Caller()
    bench.write("$avp(a)", "x")
    bench.write("$avp(a)", 5)
    assert bench.call("avp_print") == 1
    assert bench.log.splitlines() == ["avp a = 5", "avp a = 'x'"]


# -- key-value stores


def test_values_are_stored_fetched_and_removed() -> None:
    bench = Caller()
    value = bench.ref("$avp(v)")
    assert bench.call("cache_fetch", "local", "k", value) == -2
    assert bench.call("cache_store", "local", "k", "v1", 60) == 1
    assert bench.call("cache_fetch", "local", "k", value) == 1
    assert bench.read("$avp(v)") == "v1"
    assert bench.call("cache_remove", "local", "k") == 1
    assert bench.call("cache_fetch", "local", "k", value) == -2
    assert bench.call("cache_store", "local", None, "v", 60) == -1


def test_counters_go_up_and_down() -> None:
    bench = Caller()
    value = bench.ref("$var(n)")
    assert bench.call("cache_add", "local", "c", 5, 0, value) == 1
    assert bench.call("cache_sub", "local", "c", 2, 0) == 1
    assert bench.call("cache_counter_fetch", "local", "c", value) == 1
    assert bench.read("$var(n)") == 3
    assert bench.call("cache_counter_fetch", "local", "none", value) == -2


def test_a_raw_query_fills_avps_with_the_first_row_on_top() -> None:
    bench = Caller()
    assert bench.call("cache_raw_query", "local", "rows", "$avp(word);$avp(number)") == 1
    assert bench.read("$(avp(word)[*])") == "a, b"
    assert bench.read("$(avp(number)[*])") == "1, 2"
    assert bench.call("cache_raw_query", "local", "nonsense") == -1
    with pytest.raises(ValueError, match="not an"):
        bench.call("cache_raw_query", "local", "rows", "$var(x)")


def test_a_store_that_fails_gives_minus_one_and_one_line() -> None:
    bench = Caller()
    value = bench.ref("$avp(v)")
    assert bench.call("cache_fetch", "local", "down", value) == -1
    assert bench.call("cache_store", "local", "down", "v") == -1
    assert bench.call("cache_add", "local", "down", 1, 0) == -1
    assert bench.call("cache_sub", "local", "down", 1, 0) == -1
    assert bench.call("cache_raw_query", "local", "nothing", "$avp(word)") == -2
    lines = [line for line in bench.log.splitlines() if "does not answer" in line]
    assert len(lines) == 4
    assert "cache_sub(local)" in lines[3]


def test_a_store_that_no_module_serves_is_found_at_load() -> None:
    bench = Caller()
    with pytest.raises(ValueError, match="no loaded module"):
        bench.call("cache_fetch", "redis:x", "k", bench.ref("$avp(v)"))


# -- blacklists, events, status


def test_blacklists_are_chosen_and_changed() -> None:
    bench = Caller()
    assert bench.call("use_blacklist", "pstn") == 1
    assert used_blacklists(bench.run) == {"pstn"}
    assert bench.call("unuse_blacklist", "pstn") == 1
    assert used_blacklists(bench.run) == frozenset()
    assert bench.call("use_blacklist", "all") == 1
    assert used_blacklists(bench.run) == {"pstn", "mobile"}
    assert bench.call("unuse_blacklist", "mobile") == 1
    assert used_blacklists(bench.run) == {"pstn"}
    assert bench.call("unuse_blacklist", "ALL") == 1
    assert used_blacklists(bench.run) == frozenset()
    assert bench.call("check_blacklist_rule", "pstn", "10.0.0.1") == -1
    assert bench.call("add_blacklist_rule", "pstn", "10.0.0.1", 5060, "udp", "^x", 60) == 1
    assert bench.call("check_blacklist_rule", "pstn", "10.0.0.1", 5060, "udp", "^x") == 1
    assert bench.call("del_blacklist_rule", "pstn", "10.0.0.1", 5060, "udp", "^x") == 1
    assert bench.call("del_blacklist_rule", "pstn", "10.0.0.1", 5060, "udp", "^x") == -1
    with pytest.raises(ValueError, match="no blacklist"):
        bench.call("use_blacklist", "nope")
    with pytest.raises(ValueError, match="no blacklist"):
        bench.call("check_blacklist_rule", "all", "10.0.0.1")


def test_an_event_carries_names_and_values() -> None:
    """The AVPs are read from the top; values alone are positional, names alone are nothing."""
    bench = Caller()
    names, values = bench.ref("$avp(names)"), bench.ref("$avp(values)")
    for name, value in (("caller", "alice"), ("code", 5)):
        bench.write("$avp(names)", name)
        bench.write("$avp(values)", value)
    assert bench.call("raise_event", "E_MINE", names, values) == 1
    assert bench.call("raise_event", "E_MINE", None, values) == 1
    assert bench.call("raise_event", "E_MINE", names) == 1
    assert bench.call("raise_event", "E_MINE") == 1
    assert bench.services.events == [
        ("E_MINE", [("code", 5), ("caller", "alice")]),
        ("E_MINE", [("", 5), ("", "alice")]),
        ("E_MINE", []),
        ("E_MINE", []),
    ]
    bench.write("$avp(values)", "more")
    assert bench.call("raise_event", "E_MINE", names, values) == -1


def test_events_are_subscribed_to() -> None:
    bench = Caller()
    assert bench.call("subscribe_event", "E_MINE", "udp:127.0.0.1:9000", 60) == 1
    assert bench.call("subscribe_event", "E_MINE", None) == -1
    assert bench.services.subscriptions == [("E_MINE", "udp:127.0.0.1:9000", 60)]


def test_status_is_passed_on() -> None:
    bench = Caller()
    assert bench.call("sr_check_status", "core") == 1
    assert bench.call("sr_check_status", "core", "bad") == -5
    assert bench.call("sr_check_status", "nothing") == -1


def test_a_connection_is_closed() -> None:
    bench = Caller()
    assert bench.call("tcp_close_conn", "192.0.2.1:5060") == 1
    assert bench.call("tcp_close_conn", "192.0.2.2:5060") == -1


@pytest.mark.parametrize("name", sorted(Bench().catalogue.functions))
def test_no_function_raises_on_null(name: str) -> None:
    """NULL for every text and extremes for every number: a code comes back, in a request and in a reply."""
    for bench in (Caller(), Caller(REPLY)):
        decl = bench.decl(name)
        for number in (0, -1, 2147483647):
            args: list[object] = []
            for param in decl.params:
                if param.type == "var":
                    args.append(bench.ref("$avp(x)"))
                elif param.type == "int":
                    args.append(number)
                elif param.name == "flag":
                    args.append("F")
                elif param.name == "storage_id":
                    args.append("local")
                elif param.name == "socket" and param.fixup is not None:
                    args.append("outside")
                elif param.name == "bl_name":
                    args.append("pstn")
                elif param.name == "flags" and not param.optional:
                    args.append("force-rport")
                else:
                    args.append(None)
            assert isinstance(bench.call(name, *args), int)


def test_a_trace_reads_no_variable_that_another_names() -> None:
    """What it holds may come from a message."""
    lab = Lab()
    lab.run(
        """route {
            $var(secret) = "geheim";
            $var(sent) = "sent " + "$" + "var(secret)";
            script_trace(1, $var(sent));
            $var(x) = 1;
            script_trace(1, "meant $var(secret)");
            $var(x) = 2;
        }"""
    )
    told = str(lab.services.lines)
    assert "sent $var(secret)" in told
    assert "meant geheim" in told
    assert "sent geheim" not in told
