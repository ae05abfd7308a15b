"""The core pseudo-variables of the message, one table row for each (manual: Script-CoreVar)."""

from __future__ import annotations

import pytest

from opensipspy.script.varsyntax import VariableError, parse_variable
from tests.script.fakes import INVITE, REPLY, SDP, Bench


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("$$", "$"),
        ("$ru", "sip:bob:secret@biloxi.example:5070;transport=tcp;user=phone"),
        ("$ruri", "sip:bob:secret@biloxi.example:5070;transport=tcp;user=phone"),
        ("$rU", "bob"),
        ("$ruri.user", "bob"),
        ("$rd", "biloxi.example"),
        ("$ruri.domain", "biloxi.example"),
        ("$rp", 5070),
        ("$rP", "tcp"),
        ("$ru_q", -1),
        ("$ou", "sip:bob:secret@biloxi.example:5070;transport=tcp;user=phone"),
        ("$oU", "bob"),
        ("$od", "biloxi.example"),
        ("$op", 5070),
        ("$oP", "tcp"),
        ("$du", None),
        ("$dd", None),
        ("$dp", None),
        ("$dP", None),
        ("$path", None),
        ("$ds", None),
        ("$rm", "INVITE"),
        ("$rs", None),
        ("$rr", None),
        ("$msg.is_request", 1),
        ("$msg.type", "request"),
        ("$mb", INVITE),
        ("$ml", len(INVITE)),
        ("$mi", 1),
        ("$mf", ""),
        ("$bf", ""),
        ("$msg.flag(unknown)", 0),
        ("$si", "198.51.100.7"),
        ("$src_ip", "198.51.100.7"),
        ("$sp", 5099),
        ("$socket_in", "udp:192.0.2.100:5060"),
        ("$socket_in(ip)", "192.0.2.100"),
        ("$socket_in(port)", 5060),
        ("$socket_in(proto)", "udp"),
        ("$socket_in(advertised_ip)", "203.0.113.5"),
        ("$socket_in(advertised_port)", 5080),
        ("$socket_in(tag)", "outside"),
        ("$socket_in(anycast)", 0),
        ("$socket_in(af)", "INET"),
        ("$socket_out", "udp:192.0.2.100:5060"),
        ("$socket_out(forced)", None),
        ("$proxy_protocol(src_ip)", None),
        ("$hdr(X-Custom)", "one"),
        ("$(hdr(x-custom)[1])", "two"),
        ("$(hdr(X-Custom)[-1])", "two"),
        ("$(hdr(X-Custom)[-2])", "one"),
        ("$(hdr(X-Custom)[*])", "one, two"),
        ("$(hdr(X-Custom)[2])", None),
        ("$(hdr(X-Custom)[-3])", None),
        ("$(hdr(X-Custom)[2147483647])", None),
        ("$hdr(v)", "SIP/2.0/UDP 192.0.2.7:5062;branch=z9hG4bK74bf9;rport=5099;received=198.51.100.7"),
        ("$hdr(No-Such)", None),
        ("$(hdr(No-Such)[*])", None),
        ("$hdrcnt(Via)", 2),
        ("$hdrcnt(No-Such)", 0),
        ("$hdr_name", "Via"),
        ("$(hdr_name[2])", "From"),
        ("$(hdr_name[-1])", "Content-Length"),
        ("$ci", "3848276298220188511@atlanta.example"),
        ("$cs", "4711"),
        ("$ua", "Softphone 1.0"),
        ("$cl", len(SDP)),
        ("$cT", "application/sdp"),
        ("$ct", '"Al" <sip:alice@192.0.2.7>;q=0.5;expires=60'),
        ("$(ct[1])", "<sip:alice@192.0.2.8>"),
        ("$(ct[-1])", '<sip:alice@192.0.2.9>;methods="INVITE, BYE";received="sip:198.51.100.7:5099"'),
        ("$(ct[3])", None),
        ("$ct.fields(name)", '"Al"'),
        ("$ct.fields(uri)", "sip:alice@192.0.2.7"),
        ("$ct.fields(q)", "0.5"),
        ("$ct.fields(expires)", "60"),
        ("$ct.fields(methods)", None),
        ("$(ct.fields(methods)[2])", "INVITE, BYE"),
        ("$(ct.fields(received)[-1])", "sip:198.51.100.7:5099"),
        ("$(ct.fields(uri)[*])", "sip:alice@192.0.2.7, sip:alice@192.0.2.8, sip:alice@192.0.2.9"),
        ("$ct.fields(params)", "q=0.5;expires=60"),
        ("$fu", "sip:alice@atlanta.example"),
        ("$from", "sip:alice@atlanta.example"),
        ("$fU", "alice"),
        ("$from.user", "alice"),
        ("$fd", "atlanta.example"),
        ("$from.domain", "atlanta.example"),
        ("$ft", "9fxced76sl"),
        ("$fn", '"Alice A."'),
        ("$tu", "sip:bob@biloxi.example"),
        ("$to", "sip:bob@biloxi.example"),
        ("$tU", "bob"),
        ("$to.user", "bob"),
        ("$td", "biloxi.example"),
        ("$to.domain", "biloxi.example"),
        ("$tt", "314159"),
        ("$tn", "Bob"),
        ("$pu", "sip:pref@atlanta.example"),
        ("$pU", "pref"),
        ("$pd", "atlanta.example"),
        ("$pn", '"Preferred"'),
        ("$rt", "sip:refer@atlanta.example"),
        ("$re", "sip:rpid@atlanta.example"),
        ("$di", "sip:div@atlanta.example"),
        ("$dip", "full"),
        ("$dir", "user-busy"),
        ("$ai", "sip:+15551234@atlanta.example"),
        ("$au", "alice"),
        ("$ad", "realm.example"),
        ("$aU", "alice@realm.example"),
        ("$ar", "atlanta.example"),
        ("$adu", "sip:biloxi.example"),
        ("$an", "abc123"),
        ("$auth.nonce", "abc123"),
        ("$auth.resp", "00112233445566778899aabbccddeeff"),
        ("$auth.opaque", "op"),
        ("$auth.alg", "MD5"),
        ("$auth.qop", "auth"),
        ("$auth.nc", "00000001"),
        ("$auth.cnonce", "0a4f"),
        ("$Au", "alice@atlanta.example"),
        ("$challenge.realm", None),
        ("$Ts", 1_700_000_000),
        ("$Tsm", 250_000),
        ("$TS", 1_700_000_000),
        ("$time(%%%Y)", "%2023"),
        ("$pp", 4242),
        ("$argv(foo)", "0"),
        ("$argv(bar)", None),
        ("$log_level", 3),
        ("$xlog_level", 3),
        ("$rc", 1),
        ("$retcode", 1),
        ("$return(0)", None),
        ("$param(1)", None),
        ("$route", "route"),
        ("$route.name", ""),
        ("$route.type", "route"),
        ("$C(bg)", ""),
        ("$err.class", 0),
        ("$err.level", 0),
        ("$err.info", ""),
        ("$err.rcode", 0),
        ("$err.rreason", ""),
        ("$rb", SDP),
        ("$(rb[*])", SDP),
        ("$(rb[0])", SDP),
        ("$(rb[1])", None),
        ("$rb(application/sdp)", SDP),
        ("$rb(text/plain)", None),
        ("$sdp", SDP),
    ],
)
def test_a_request_shows(variable: str, expected: object) -> None:
    assert Bench().read(variable) == expected


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("$rs", 407),
        ("$rr", "Proxy Authentication Required"),
        ("$rm", "INVITE"),
        ("$msg.is_request", 0),
        ("$msg.type", "reply"),
        ("$ru", None),
        ("$rU", None),
        ("$ds", None),
        ("$challenge.realm", "atlanta.example"),
        ("$challenge.nonce", "f84f1cec"),
        ("$challenge.qop", "auth,auth-int"),
        ("$challenge.opaque", "5ccc"),
        ("$challenge.algorithm", "MD5"),
        ("$challenge.ck", None),
        ("$challenge.ik", None),
        ("$rb", None),
        ("$sdp", None),
        ("$au", None),
        ("$Au", "alice@atlanta.example"),
        ("$fn", None),
        ("$ct", None),
        ("$ct.fields(uri)", None),
        ("$cT", None),
        ("$(cT[*])", None),
    ],
)
def test_a_reply_shows(variable: str, expected: object) -> None:
    assert Bench(REPLY).read(variable) == expected


def test_acknowledgements_show_no_credentials() -> None:
    """RFC 3261 §22.1: an ACK cannot be challenged, so its credentials mean nothing."""
    text = INVITE.replace("INVITE sip:", "ACK sip:").replace("4711 INVITE", "4711 ACK")
    assert Bench(text).read("$au") is None


# -- writing


def test_the_request_uri_is_written_in_parts() -> None:
    bench = Bench()
    bench.write("$rU", "carol")
    assert bench.read("$ru") == "sip:carol:secret@biloxi.example:5070;transport=tcp;user=phone"
    bench.write("$rd", "2001:db8::5")
    bench.write("$rp", 5090)
    assert bench.read("$ru") == "sip:carol:secret@[2001:db8::5]:5090;transport=tcp;user=phone"
    bench.write("$rp", None)
    bench.write("$rU", None)
    assert bench.read("$ru") == "sip:[2001:db8::5];transport=tcp;user=phone"
    bench.write("$ru", "sip:new@example.com")
    assert bench.read("$rU") == "new"
    assert bench.read("$ou") == bench.message.ruri


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("$ru", None),
        ("$rd", None),
        ("$rd", "a b"),
        ("$rd", "evil>\r\nX: y"),
        ("$rU", "a\r\nb"),
        ("$rp", "70000"),
        ("$rp", "12x"),
        ("$rd", "host@other"),
    ],
)
def test_a_part_that_would_break_the_request_uri_is_refused(variable: str, value: str | None) -> None:
    bench = Bench()
    before = bench.read("$ru")
    bench.write(variable, value)
    assert bench.read("$ru") == before
    assert bench.log


def test_the_destination_uri_is_written_and_reset() -> None:
    bench = Bench()
    bench.write("$du", "sips:proxy.example")
    assert (bench.read("$dd"), bench.read("$dp"), bench.read("$dP")) == ("proxy.example", 5061, "tls")
    bench.write("$dp", 5070)
    assert bench.read("$duri") == "sips:proxy.example:5070"
    bench.write("$dd", "other.example")
    assert bench.read("$du") == "sips:other.example:5070"
    bench.write("$du", None)
    assert bench.read("$du") is None
    bench.write("$dd", "10.0.0.1")
    assert bench.read("$du") == "sip:10.0.0.1"


def test_the_outgoing_socket_is_forced_and_released() -> None:
    bench = Bench()
    bench.write("$socket_out", "tcp:[2001:db8::1]:5061")
    assert bench.read("$socket_out(forced)") == "tcp:[2001:db8::1]:5061"
    assert bench.read("$socket_out(af)") == "INET6"
    bench.write("$socket_out", "udp:10.9.9.9:5060")
    assert bench.read("$socket_out(proto)") == "tcp"
    assert "no listening socket" in bench.log
    bench.write("$socket_out", None)
    assert bench.read("$socket_out(forced)") is None


def test_q_of_the_request_uri_has_a_ceiling() -> None:
    bench = Bench()
    bench.write("$ru_q", 5000)
    assert bench.read("$ru_q") == 1000
    bench.write("$ru_q", "high")
    assert bench.read("$ru_q") == 1000


def test_flags_have_names() -> None:
    bench = Bench()
    bench.write("$msg.flag(NAT)", 1)
    bench.write("$msg.flag(ACC)", 1)
    assert bench.read("$mf") == "NAT ACC"
    bench.write("$msg.flag(NAT)", 0)
    assert bench.read("$msg.flag(NAT)") == 0
    assert bench.read("$mf") == "ACC"
    bench.write("$branch.flag(B1)", 1)
    assert bench.read("$bf") == "B1"


def test_the_33rd_flag_name_is_refused() -> None:
    """The manual allows 32 flags of each kind."""
    bench = Bench()
    for number in range(32):
        bench.spec(f"$msg.flag(f{number})")
    with pytest.raises(VariableError, match="32"):
        bench.spec("$msg.flag(one_more)")


def test_log_levels_are_set_and_restored() -> None:
    bench = Bench()
    bench.write("$log_level", 4)
    bench.write("$xlog_level", -1)
    assert (bench.read("$log_level"), bench.read("$xlog_level")) == (4, -1)
    bench.write("$log_level", None)
    bench.write("$xlog_level", None)
    assert (bench.read("$log_level"), bench.read("$xlog_level")) == (3, 3)


# -- $var and $avp


def test_var_is_null_until_it_is_set() -> None:
    bench = Bench()
    assert bench.read("$var(x)") is None
    bench.write("$var(x)", 5)
    assert bench.read("$var(x)") == 5
    bench.write("$var(x)", None)
    assert bench.read("$var(x)") is None


def test_an_avp_is_a_stack() -> None:
    """The manual's example: one, two, three; the last added is the first read."""
    bench = Bench()
    for word in ("one", "two", "three"):
        bench.write("$avp(demo)", word)
    assert bench.read("$avp(demo)") == "three"
    assert bench.read("$(avp(demo)[2])") == "one"
    assert bench.read("$(avp(demo)[-1])") == "one"
    assert bench.read("$(avp(demo)[*])") == "three, two, one"
    bench.write("$avp(demo)", None)
    assert bench.read("$(avp(demo)[*])") == "two, one"
    bench.write("$(avp(demo)[0])", "zero")
    bench.write("$(avp(demo)[append])", "last")
    assert bench.read("$(avp(demo)[*])") == "zero, one, last"
    bench.write("$(avp(demo)[1])", None)
    assert bench.read("$(avp(demo)[*])") == "zero, last"
    bench.replace("$avp(demo)", 7)
    assert bench.read("$(avp(demo)[*])") == "7"
    bench.replace("$avp(demo)", None)
    assert bench.read("$avp(demo)") is None


@pytest.mark.parametrize("index", ["5", "-5", "2147483647", "-2147483648", "$var(no)", "$var(word)"])
def test_an_avp_index_out_of_range_is_null_and_writes_nothing(index: str) -> None:
    bench = Bench()
    bench.write("$avp(a)", "x")
    bench.write("$var(word)", "many")
    assert bench.read(f"$(avp(a)[{index}])") is None
    bench.write(f"$(avp(a)[{index}])", "y")
    assert bench.read("$(avp(a)[*])") == "x"


def test_names_and_indexes_take_variables() -> None:
    bench = Bench()
    bench.write("$var(name)", "X-Custom")
    bench.write("$var(i)", 1)
    assert bench.read("$hdr($var(name))") == "one"
    assert bench.read("$(hdr($var(name))[$var(i)])") == "two"
    bench.write("$avp(X-Custom)", "deep")
    assert bench.read("$avp($var(name))") == "deep"
    assert bench.read("$(avp($(var(name)))[0])") == "deep"
    assert bench.read("$hdr($var(nothing))") is None


# -- the script's own state


def test_route_names_are_indexed_from_the_innermost() -> None:
    """The manual's stack "route > route[A] > route[B]"."""
    bench = Bench()
    bench.run.route_stack = [(1, ""), (1, "A"), (1, "B")]
    shown = [bench.read(text) for text in ("$route", "$(route[0])", "$(route[1])", "$(route[2])", "$(route[-1])")]
    assert shown == ["route[B]", "route[B]", "route[A]", "route", "route"]
    assert [bench.read(text) for text in ("$(route[-2])", "$(route[-3])", "$(route[3])", "$(route[-4])")] == [
        "route[A]",
        "route[B]",
        None,
        None,
    ]
    assert bench.read("$(route[*])") == "route > route[A] > route[B]"
    assert bench.read("$route.name") == "B"
    assert bench.read("$(route.type[-1])") == "route"


def test_parameters_are_read_by_number_and_by_name() -> None:
    bench = Bench()
    bench.run.params.append(("a", 5, None))
    bench.write("$var(i)", 2)
    assert [bench.read(text) for text in ("$param(1)", "$param($var(i))", "$param(3)", "$param(4)", "$param(0)")] == [
        "a",
        5,
        None,
        None,
        None,
    ]
    bench.run.params.append({"source": "event", "code": 3})
    assert [bench.read(text) for text in ("$param(source)", "$param(code)", "$param(2)")] == ["event", 3, 3]
    bench.run.return_values = ["id", 2]
    assert [bench.read(text) for text in ("$return(0)", "$return(1)", "$return(2)")] == ["id", 2, None]


def test_contexts_name_the_other_message() -> None:
    """$(<request>...) and $(<reply>...) in a reply route."""
    request = Bench()
    reply = Bench(REPLY)
    view = request.run.for_reply(reply.message)
    assert request.spec("$(<request>ru)").reader()(view) == request.message.ruri
    assert request.spec("$(<reply>rs)").reader()(view) == 407
    assert request.read("$(<reply>rs)") is None
    assert request.read("$(<request>rm)") == "INVITE"


def test_line_and_file_are_those_of_the_script() -> None:
    bench = Bench()
    assert parse_variable("$cfg_line", 0, bench.catalogue, "a.cfg", 12).reader()(bench.run) == 12
    assert parse_variable("$cfg_file", 0, bench.catalogue, "a.cfg", 12).inline_expression() == "'a.cfg'"
