"""The language item by item: each name of `core_names` is here, does something, and bears what scripts do to it.

What an item does in detail is tested in its own file; here stand the cases that all of a kind have in common: NULL, the
empty text, a number in place of a text, hostile octets, an index beyond the end, too many arguments, a wrong type.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import opensipspy
from opensipspy.cli.describe import core_interface
from opensipspy.script import kinds
from opensipspy.script.core import build_catalogue
from opensipspy.script.declare import FunctionDecl
from opensipspy.script.globals import PARAMETERS
from opensipspy.server.notes import GLOBALS as WITHOUT_EFFECT
from tests.script import core_names
from tests.script.fakes import REPLY, Bench, FakeServices
from tests.script.lab import Lab

CATALOGUE = build_catalogue(FakeServices())
SOURCES = Path(opensipspy.__file__).parent


def error_codes(text: str) -> set[str]:
    return {finding.code for finding in Lab().findings(text) if finding.severity == "error"}


# -- global parameters

# name -> (a line, the value that it gives)
GLOBAL_LINES: dict[str, tuple[str, Any]] = {
    **{
        name: (f"{name}={'no' if default else 'yes'}", not default)
        for name, (kind, default) in PARAMETERS.items()
        if kind == "bool"
    },
    **{name: (f"{name}=7", 7) for name, (kind, _) in PARAMETERS.items() if kind in ("int", "workers")},
    **{name: (f'{name}="some text"', "some text") for name, (kind, _) in PARAMETERS.items() if kind == "string"},
    **{name: (f"{name}=word", "word") for name, (kind, _) in PARAMETERS.items() if kind == "identifier or string"},
    "advertised_address": ("advertised_address=sip.example.com", "sip.example.com"),
    "alias": ("alias=udp:example.com:5060", None),
    "auto_scaling_profile": (
        "auto_scaling_profile=P scale up to 6 on 80% for 4 cycles within 5 scale down to 2 on 20% for 5 cycles",
        None,
    ),
    "dst_blacklist": ('dst_blacklist=pstn:{ (udp, 192.0.2.0/24, 5060, "") }', None),
    "mem-group": ('mem-group="fast": "tm" "sl"', None),
    "mpath": ('mpath="/usr/lib/a/"', ["/usr/lib/a/"]),
    "socket": ("socket=udp:127.0.0.1:5060", None),
    "tos": ("tos=0x20", 0x20),
    "poll_method": ("poll_method=epoll", "epoll"),
    "stderror_log_format": ('stderror_log_format="json"', "json"),
    "syslog_log_format": ('syslog_log_format="json_cee"', "json_cee"),
    "syslog_facility": ("syslog_facility=LOG_LOCAL1", "LOG_LOCAL1"),
}
STATEMENTS_AT_TOP_LEVEL = {"loadmodule": 'loadmodule "sl.so"', "modparam": 'loadmodule "sl.so"\nmodparam("sl", "x", 1)'}


def test_every_global_parameter_has_a_line_here() -> None:
    assert GLOBAL_LINES.keys() | STATEMENTS_AT_TOP_LEVEL.keys() == core_names.GLOBALS
    assert PARAMETERS.keys() == GLOBAL_LINES.keys()


@pytest.mark.parametrize("name", sorted(GLOBAL_LINES))
def test_a_global_parameter_is_taken(name: str) -> None:
    line, value = GLOBAL_LINES[name]
    settings = Lab().parse(f"{line}\nroute {{ exit; }}\n").globals
    assert name in settings.given
    if value is not None:
        assert getattr(settings, name.replace("-", "_")) == value


@pytest.mark.parametrize("name", sorted(STATEMENTS_AT_TOP_LEVEL))
def test_modules_and_their_parameters_are_taken(name: str) -> None:
    script = Lab().parse(STATEMENTS_AT_TOP_LEVEL[name] + "\nroute { exit; }\n")
    assert [line.name for line in script.loadmodules] == ["sl.so"]
    assert len(script.modparams) == (name == "modparam")


@pytest.mark.parametrize(
    "name", sorted(name for name, (kind, _) in PARAMETERS.items() if kind in ("bool", "int", "workers", "tos"))
)
@pytest.mark.parametrize("value", ['"no number"', "", "{"])
def test_a_global_parameter_refuses_another_type(name: str, value: str) -> None:
    assert error_codes(f"{name}={value}\nroute {{ exit; }}\n")


def test_a_global_parameter_has_an_effect_or_a_note_that_tells_why_not() -> None:
    """Something outside of the reader reads it, or the start says that it means nothing here."""
    texts = [
        path.read_text(encoding="utf-8")
        for folder in (SOURCES, SOURCES / "dbdrivers", SOURCES / "mi")
        for path in folder.rglob("*.py")
        if path.name not in ("globals.py", "notes.py", "names.py", "known.py")
    ]
    source = "\n".join(texts)
    elsewhere = {
        # Read under the name of what the line makes.
        "socket": "sockets",
        "alias": "aliases",
        "dst_blacklist": "blacklists",
    }
    idle = {
        name
        for name in PARAMETERS
        if name not in WITHOUT_EFFECT and not re.search(rf"[.\"]{elsewhere.get(name, name)}\b", source)
    }
    assert idle == set()


# -- functions

# A call of each function on the INVITE of the fakes, and whether it is true.
CALLS: dict[str, tuple[str, str]] = {
    "add_blacklist_rule": ('add_blacklist_rule("pstn", "192.0.2.1", 5060, "udp")', "yes"),
    "add_local_rport": ("add_local_rport()", "yes"),
    "append_branch_old": ('append_branch_old("sip:a@b.example")', "yes"),
    "append_msg_branch": ('append_msg_branch("sip:a@b.example")', "yes"),
    "avp_print": ("avp_print()", "yes"),
    "cache_add": ('cache_add("local", "n", 2, 0, $var(n))', "yes"),
    "cache_counter_fetch": ('cache_counter_fetch("local", "none", $var(n))', "no"),
    "cache_fetch": ('cache_fetch("local", "none", $var(n))', "no"),
    "cache_raw_query": ('cache_raw_query("local", "rows", "$avp(a);$avp(b)")', "yes"),
    "cache_remove": ('cache_remove("local", "a")', "yes"),
    "cache_store": ('cache_store("local", "a", "b")', "yes"),
    "cache_sub": ('cache_sub("local", "n", 2, 0, $var(n))', "yes"),
    "check_blacklist_rule": ('check_blacklist_rule("pstn", "192.0.2.77")', "no"),
    "construct_uri": ('construct_uri("sip", "a", "b.example", "", "", $avp(u))', "yes"),
    "del_blacklist_rule": ('del_blacklist_rule("pstn", "192.0.2.77")', "no"),
    "force_rport": ("force_rport()", "yes"),
    "force_send_socket": ('force_send_socket("udp:192.0.2.100:5060")', "yes"),
    "force_tcp_alias": ("force_tcp_alias()", "yes"),
    "forward": ('forward("192.0.2.5:5060")', "yes"),
    "get_timestamp": ("get_timestamp($avp(s), $avp(us))", "yes"),
    "is_myself": ('is_myself("elsewhere.example")', "no"),
    "isbflagset": ('isbflagset("B")', "no"),
    "isdsturiset": ("isdsturiset()", "no"),
    "isflagset": ('isflagset("F")', "no"),
    "move_msg_branch": ("move_msg_branch(5, 6)", "no"),
    "next_branches": ("next_branches()", "no"),
    "prefix": ('prefix("00")', "yes"),
    "pv_printf": ('pv_printf($var(v), "$rU")', "yes"),
    "raise_event": ('raise_event("E_LAB")', "yes"),
    "remove_msg_branch": ("remove_msg_branch(7)", "no"),
    "resetbflag": ('resetbflag("B")', "yes"),
    "resetdsturi": ("resetdsturi()", "yes"),
    "resetflag": ('resetflag("F")', "yes"),
    "revert_uri": ("revert_uri()", "yes"),
    "script_trace": ('script_trace(1, "$rm")', "yes"),
    "send": ('send("192.0.2.5:5060")', "yes"),
    "serialize_branches": ("serialize_branches(1)", "yes"),
    "set_advertised_address": ('set_advertised_address("192.0.2.9")', "yes"),
    "set_advertised_port": ('set_advertised_port("5070")', "yes"),
    "set_via_handling": ('set_via_handling("force-rport")', "yes"),
    "setbflag": ('setbflag("B")', "yes"),
    "setdsturi": ('setdsturi("sip:192.0.2.5")', "yes"),
    "setflag": ('setflag("F")', "yes"),
    "sethost": ('sethost("b.example")', "yes"),
    "sethostport": ('sethostport("b.example:5070")', "yes"),
    "setport": ('setport("5070")', "yes"),
    "seturi": ('seturi("sip:a@b.example")', "yes"),
    "setuser": ('setuser("carol")', "yes"),
    "setuserpass": ('setuserpass("pw")', "yes"),
    "socket_belongs_to_bond": ('socket_belongs_to_bond("udp:192.0.2.100:5060", "pair")', "yes"),
    "sr_check_status": ('sr_check_status("core", "bad")', "no"),
    "strip": ("strip(1)", "yes"),
    "strip_tail": ("strip_tail(1)", "yes"),
    "subscribe_event": ('subscribe_event("E_LAB", "udp:192.0.2.1:9", 60)', "yes"),
    "swap_msg_branches": ("swap_msg_branches(4, 5)", "no"),
    "tcp_close_conn": ('tcp_close_conn("192.0.2.1:5060")', "yes"),
    "unuse_blacklist": ('unuse_blacklist("pstn")', "yes"),
    "use_blacklist": ('use_blacklist("pstn")', "yes"),
}


def test_every_function_is_called_here() -> None:
    assert CALLS.keys() == core_names.FUNCTIONS


def function(name: str) -> FunctionDecl:
    decl = CATALOGUE.function(name)
    assert decl is not None, f"{name} is missing"
    return decl


@pytest.mark.parametrize("name", sorted(CALLS))
def test_a_function_in_a_condition(name: str) -> None:
    call, result = CALLS[name]
    lab = Lab()
    assert lab.body(f'if ({call}) note("yes"); else note("no");') == [result], lab.log


@pytest.mark.parametrize("name", sorted(CALLS))
def test_a_function_refuses_more_arguments_than_it_has(name: str) -> None:
    call = f"{name}({', '.join(['1'] * (len(function(name).params) + 1))})"
    assert error_codes(f"route {{ {call}; }}")


@pytest.mark.parametrize("name", sorted(name for name in CALLS if any(not p.optional for p in function(name).params)))
def test_a_function_refuses_to_go_without_what_it_needs(name: str) -> None:
    assert error_codes(f"route {{ {name}(); }}")


@pytest.mark.parametrize("name", sorted(CALLS))
def test_a_function_bears_null_in_every_string(name: str) -> None:
    """A variable that is NULL may make the call fail; it never ends the script with an error of ours."""
    given = [
        "$var(null)" if param.type == "string" and not param.static else argument
        for param, argument in zip(function(name).params, _arguments(CALLS[name][0]), strict=False)
    ]
    if error_codes(f"route {{ {name}({', '.join(given)}); }}"):
        pytest.skip("the parameter has to be a constant")
    assert Lab().body(f'{name}({", ".join(given)}); note("on");') == ["on"]


def _arguments(call: str) -> list[str]:
    inside = call.partition("(")[2].rpartition(")")[0]
    return [part.strip() for part in re.findall(r'(?:"[^"]*"|\([^)]*\)|[^,])+', inside)]


# -- variables

NAMES_OF: dict[str, str] = {
    "$C": "xg", "$argv": "x", "$avp": "x", "$var": "x", "$hdr": "X", "$hdrcnt": "X", "$param": "1", "$return": "0",
    "$time": "%Y", "$msg.flag": "F", "$branch.flag": "F", "$msg.branch.flag": "F", "$msg.branch.attr": "x",
    "$branch": "uri", "$ct.fields": "uri", "$proxy_protocol": "src_ip", "$sdp.line": "v", "$sdp.session": "v",
    "$sdp.stream": "audio", "$sdp.stream.idx": "audio",
}  # fmt: skip
# What is not NULL on a request that is nothing but its first line.
ON_A_BARE_REQUEST: dict[str, object] = {
    "$$": "$", "$C": "", "$TS": 1_700_000_000, "$Ts": 1_700_000_000, "$Tsm": 250_000, "$bf": "",
    "$branch.flag": 0, "$err.class": 0, "$err.info": "", "$err.level": 0,
    "$err.rreason": "", "$err.rcode": 0, "$hdrcnt": 0,
    "$log_level": 3, "$mb": "OPTIONS sip:h SIP/2.0\r\n\r\n", "$mf": "", "$mi": 1, "$ml": 25, "$msg.branch": "sip:h",
    "$msg.branch.flag": 0, "$msg.branch.flags": "", "$msg.branch.last_idx": 0, "$msg.branch.q": "",
    "$msg.branch.uri": "sip:h", "$msg.flag": 0, "$msg.is_request": 1, "$msg.type": "request", "$oP": "udp", "$od": "h",
    "$op": 5060, "$ou": "sip:h", "$ouri": "sip:h", "$pp": 4242, "$rP": "udp", "$rc": 1, "$rd": "h", "$retcode": 1,
    "$rm": "OPTIONS", "$route": "route", "$route.name": "", "$route.type": "route", "$rp": 5060, "$ru": "sip:h",
    "$ru_q": -1, "$ruri": "sip:h", "$ruri.domain": "h", "$si": "198.51.100.7", "$socket_in": "udp:192.0.2.100:5060",
    "$socket_out": "udp:192.0.2.100:5060", "$sp": 5099, "$src_ip": "198.51.100.7", "$time": "2023", "$xlog_level": 3,
}  # fmt: skip
BARE = "OPTIONS sip:h SIP/2.0\r\n\r\n"
# Local time: what it shows depends on where the test runs.
LOCAL = {"$Tf"}


def spelled(name: str, index: str = "") -> str:
    inner = f"({NAMES_OF[name]})" if name in NAMES_OF else ""
    if name == "$C":
        return name + inner
    return f"$({name[1:]}{inner}{index})" if index else name + inner


def test_every_variable_is_there() -> None:
    assert {name for name in core_names.VARIABLES if CATALOGUE.variable(name) is None} == set()
    assert ON_A_BARE_REQUEST.keys() | NAMES_OF.keys() <= core_names.VARIABLES


@pytest.mark.parametrize("name", sorted(core_names.VARIABLES - LOCAL))
def test_a_variable_of_what_is_not_there_is_null(name: str) -> None:
    assert Bench(BARE).read(spelled(name)) == ON_A_BARE_REQUEST.get(name)


@pytest.mark.parametrize("name", sorted(core_names.VARIABLES))
def test_a_variable_can_be_read_in_a_reply(name: str) -> None:
    bench = Bench(REPLY, kinds.ONREPLY)
    assert isinstance(bench.read(spelled(name)), int | str | None)


@pytest.mark.parametrize(
    "name",
    # The index of a line of SDP is in its name.
    sorted(n for n in core_names.VARIABLES if getattr(CATALOGUE.variable(n), "index", 0) and not n.startswith("$sdp")),
)
def test_an_index_beyond_the_end_is_null(name: str) -> None:
    bench = Bench()
    assert bench.read(spelled(name, "[99]")) is None
    assert bench.read(spelled(name, "[-99]")) is None
    bench.run.vars["i"] = None
    assert bench.read(spelled(name, "[$var(i)]")) is None


@pytest.mark.parametrize("name", sorted(core_names.VARIABLES - {"$$"}))
def test_only_what_can_be_written_may_stand_on_the_left(name: str) -> None:
    decl = CATALOGUE.variable(name)
    assert decl is not None
    codes = error_codes(f"route {{ {spelled(name)} = 1; }}")
    assert bool(codes) != bool(decl.writable and decl.set), codes


@pytest.mark.parametrize("name", sorted(n for n in core_names.VARIABLES if getattr(CATALOGUE.variable(n), "set", None)))
@pytest.mark.parametrize("value", [None, "", -1, 2**31 - 1, "\x00\udcff(", "x" * 5000])
def test_writing_anything_never_breaks_the_script(name: str, value: int | str | None) -> None:
    decl = CATALOGUE.variable(name)
    if decl is None or not decl.writable:
        pytest.skip("read only")
    bench = Bench()
    bench.write(spelled(name), value)
    assert isinstance(bench.read(spelled(name)), int | str | None)


# -- transformations

ARGUMENTS: dict[str, str] = {
    "s.fill.left": ",0,3", "s.fill.right": ",0,3", "s.index": ",a", "s.rindex": ",a", "s.select": ",0,x",
    "s.substr": ",0,1", "s.width": ",3", "s.xor": ",k", "uri.param": ",x", "via.param": ",x", "param.exist": ",x",
    "param.exists": ",x", "param.name": ",0", "param.value": ",x", "param.valueat": ",0", "nameaddr.param": ",x",
    "ip.matches": ",10.0.0.0/8", "csv.value": ",0", "sdp.line": ",v", "sdp.stream": ",0", "sdp.stream-delete": ",0",
    "re.subst": ",/a/b/", "s.sha1_hmac": ",k", "s.sha224_hmac": ",k", "s.sha256_hmac": ",k", "s.sha384_hmac": ",k",
    "s.sha512_hmac": ",k",
}  # fmt: skip
# What the empty text and the number 7 become; NULL where nothing is said. Digests have tests with vectors.
OF_NOTHING: dict[str, object] = {
    "csv.value": "", "s.hex2dec": 0, "param.exist": 0,
    "param.exists": 0, "s.b64decode": "", "s.b64encode": "", "s.crc32": "4294967295", "s.decode.hexa": "",
    "s.encode.hexa": "", "s.escape.common": "", "s.escape.param": "", "s.escape.user": "", "s.eval": "",
    "s.fill.left": "000", "s.fill.right": "000", "s.int": 0, "s.len": 0, "s.reverse": "", "s.select": "",
    "s.tolower": "", "s.toupper": "", "s.trim": "", "s.triml": "", "s.trimr": "", "s.unescape.common": "",
    "s.unescape.param": "", "s.unescape.user": "", "s.width": "   ", "s.xor": "",
}  # fmt: skip
OF_SEVEN: dict[str, object] = {
    "csv.count": 1, "csv.value": "7", "ip.isip": 0, "ip.isip4": 0, "ip.isip6": 0, "ip.isprivate": 0,
    "nameaddr.len": 1,
    "nameaddr.uri": "7", "param.count": 1, "param.exist": 0, "param.exists": 0, "param.name": "7",
    "param.valueat": "", "re.subst": "7", "s.b64decode": "", "s.b64encode": "Nw==", "s.crc32": "2504045949",
    "s.dec2hex": "7", "s.decode.hexa": "",
    "s.encode.hexa": "37", "s.escape.common": "7", "s.escape.param": "7", "s.escape.user": "7",
    "s.eval": "7", "s.fill.left": "007", "s.fill.right": "700", "s.hex2dec": 7, "s.int": 7, "s.len": 1,
    "s.reverse": "7", "s.select": "7", "s.substr": "7", "s.tolower": "7", "s.toupper": "7", "s.trim": "7",
    "s.triml": "7", "s.trimr": "7", "s.unescape.common": "7", "s.unescape.param": "7", "s.unescape.user": "7",
    "s.width": "7  ", "s.xor": "\\",
}  # fmt: skip
DIGESTS = {name for name in core_names.TRANSFORMATIONS if re.match(r"s\.(md5|sha)", name)}


def transformed(name: str, value: int | str | None) -> object:
    bench = Bench()
    bench.run.vars["v"] = value
    return bench.read(f"$(var(v){{{name}{ARGUMENTS.get(name, '')}}})")


def test_every_transformation_is_there() -> None:
    assert {name for name in core_names.TRANSFORMATIONS if CATALOGUE.transformation(name) is None} == set()
    assert ARGUMENTS.keys() | OF_NOTHING.keys() | OF_SEVEN.keys() <= core_names.TRANSFORMATIONS


@pytest.mark.parametrize("name", sorted(core_names.TRANSFORMATIONS))
def test_a_transformation_of_null_is_null(name: str) -> None:
    assert transformed(name, None) is None


@pytest.mark.parametrize("name", sorted(core_names.TRANSFORMATIONS - DIGESTS))
def test_a_transformation_of_the_empty_text_and_of_a_number(name: str) -> None:
    assert (transformed(name, ""), transformed(name, 7)) == (OF_NOTHING.get(name), OF_SEVEN.get(name))


@pytest.mark.parametrize("name", sorted(core_names.TRANSFORMATIONS))
@pytest.mark.parametrize("value", ["\x00\udcff(", "%", "<" * 3000, ";=,:@[]" * 300, "$(", -(2**31)])
def test_a_transformation_of_anything_gives_a_value_or_null(name: str, value: int | str) -> None:
    assert isinstance(transformed(name, value), int | str | None)


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_a_transformation_refuses_to_go_without_its_argument(name: str) -> None:
    assert error_codes(f'route {{ xlog("$(var(v){{{name}}})"); }}')


@pytest.mark.parametrize("name", sorted(core_names.TRANSFORMATIONS - ARGUMENTS.keys()))
def test_a_transformation_refuses_an_argument_that_it_has_not(name: str) -> None:
    assert error_codes(f'route {{ xlog("$(var(v){{{name},1}})"); }}')


# -- statements and operators: each form of the language's grammar, and what notes it leaves


@pytest.mark.parametrize(
    ("statements", "noted"),
    [
        ('assert($rU == "bob", "who"); note("on");', ["on"]),
        ('assert($rU == "bob"); note("on");', ["on"]),
        ('drop; note("never");', []),
        ('drop(); note("never");', []),
        ('exit; note("never");', []),
        ('exit(); note("never");', []),
        ('return $var(x); note("never");', []),
        ('return ($var(x)); note("never");', []),
        ('return (1, "a", 2, NULL, $var(x)); note("never");', []),
        ("return -1;", []),
        ("return (-1);", []),
        ("return ();", []),
        ('return (, "a");', []),
        ("return;", []),
        ('log("text"); log(1, "text"); note("on");', ["on"]),
        ('error("class", "reason"); note("on");', ["on"]),
        ('route(r); note("on");', ["r", "on"]),
        ('route("r"); route($var(r)); note("on");', ["r", "on"]),
        ('route(r, "a", -2, NULL, $rU); note("on");', ["r", "on"]),
        ('xdbg("a"); xdbg("a" "b"); xlog("a"); xlog("a" "b"); xlog("L_INFO", "a"); xlog("L_INFO", "a" "b");', []),
        ("async(later(1), r);", ["later 1", "r"]),
        ("async(later(1), r, 5);", ["later 1", "r"]),
        ('launch(later(1)); launch(later(1), r); launch(later(1), r, "x"); note("on");', ["on"]),
        ('if ($rU == "bob") note("yes");', ["yes"]),
        ('if ($rU == "eve") note("no"); else note("yes");', ["yes"]),
        ('if ($rU == "eve") note("no"); else if (1) { note("yes"); } else { }', ["yes"]),
        ("$var(i) = 0; while ($var(i) < 2) $var(i) += 1; note($var(i));", ["2"]),
        ("$var(i) = 0; while (1) { $var(i) += 1; if ($var(i) > 2) break; } note($var(i));", ["3"]),
        ('for ($var(i) in $(hdr(X-Custom)[*])) note($var(i)); note("on");', ["one", "two", "on"]),
        ('switch ($rU) { case "eve": note("no"); case "bob": note("a"); case 3: note("b"); break; default: exit; }',
         ["a", "b"]),
        ('switch ($rU) { case "eve": note("no"); break; default: note("c"); }', ["c"]),
        ('switch ($var(none)) { case "": note("no"); case 0: note("no"); }', []),
        (';; note("on"); ;', ["on"]),
        ('if (1) { } note("on");', ["on"]),
        ('$var(x) = NULL; $avp(x) := NULL; if ($var(x) == NULL && $avp(x) == null) note("yes");', ["yes"]),
        ('omit("a", , 3);', [("a", None, 3)]),
        ('omit("a",);', [("a",)]),
    ],
)  # fmt: skip
def test_a_statement(statements: str, noted: list[Any]) -> None:
    lab = Lab()
    lab.notes.clear()
    program = f'enable_asserts=yes\nroute {{\n{statements}\n}}\nroute[r] {{ note("r"); }}\n'
    lab.run(program)
    for work in lab.services.started:
        work.close()
    assert [note for note in lab.notes if not (isinstance(note, tuple) and note == ())] == noted


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("5", 5), ("-5", -5), ("+5", 5), ("0x1F", 31), ("010", 8), ('"text"', "text"), ("$rU", "bob"),
        ("$var(n)", None), ("7 + 2", 9), ("7 - 2", 5), ("7 * 2", 14), ("7 / 2", 3), ("7 % 2", 1), ("6 & 3", 2),
        ("6 | 3", 7), ("6 ^ 3", 5), ("1 << 4", 16), ("-16 >> 2", -4), ("~5", -6), ("(1 + 2) * 2", 6),
        ('$rU == "bob"', 1), ("give(4)", 4), ("give(4) + 1", 5), ("$Ts - $Ts", 0),
        ('$rU + "@" + $rd', "bob@biloxi.example"), ("5 + $var(n)", 5), ('"a" + $var(n)', "a"),
        ("2147483647 + 1", -2147483648), ("2 + 3 * 2", 10),
    ],
)  # fmt: skip
def test_an_expression(expression: str, value: object) -> None:
    assert Lab().value(expression) == value
    # The same where nothing is known at load.
    lab = Lab()
    lab.run(f"route {{ $var(r) = {expression}; $var(v) = $var(r); }}")
    assert lab.last.vars.get("v") == value


@pytest.mark.parametrize(
    ("statement", "value"),
    [
        ("$var(v) = 7;", 7), ("$var(v) := 7;", 7), ("$var(v) = 7; $var(v) += 2;", 9), ("$var(v) = 7; $var(v) -= 2;", 5),
        ("$var(v) = 7; $var(v) *= 2;", 14), ("$var(v) = 7; $var(v) /= 2;", 3), ("$var(v) = 7; $var(v) %= 4;", 3),
        ("$var(v) = 7; $var(v) &= 3;", 3), ("$var(v) = 6; $var(v) |= 1;", 7), ("$var(v) = 6; $var(v) ^= 3;", 5),
        ('$var(v) = "a"; $var(v) += "b";', "ab"),
        # NULL on either side, two types, a division by zero: the statement is not carried out
        ("$var(v) = 7; $var(v) += $var(n);", 7), ("$var(v) += 1;", None), ('$var(v) = 7; $var(v) += "b";', 7),
        ('$var(v) = "a"; $var(v) -= "b";', "a"), ("$var(v) = 7; $var(v) /= 0;", 7),
    ],
)  # fmt: skip
def test_an_assignment(statement: str, value: object) -> None:
    lab = Lab()
    lab.run(f"route {{ {statement} }}")
    assert lab.last.vars.get("v") == value


@pytest.mark.parametrize(
    ("condition", "true"),
    [
        ('$rU == "BOB"', True), ('$rU != "bob"', False), ('$rU > "alice"', True), ('$rU < "alice"', False),
        ('$rU >= "bob"', True), ('$rU <= "bob"', True), ("$rp == 5070", True), ("$rp != 5070", False),
        ("$rp > 1", True), ("$rp < 1", False), ("$rp >= 5070", True), ("$rp <= 5069", False), ('$rp == "5070"', True),
        ("$rU == 5", False), ("!($rU == 5)", False), ("$var(n) == NULL", True), ("$var(n) != NULL", False),
        ('$var(n) == "x"', False), ('$var(n) != "x"', True), ("$var(n) < 5", False), ("$var(n) != 5", True),
        ("$var(n) == $var(m)", True), ("$var(n) == $rU", False), ('$rU =~ "^B"', True), ('$rU !~ "^B"', False),
        ('$var(n) =~ "^$"', False), ('$var(n) !~ "^$"', True), ("$si == 198.51.100.0/24", True),
        ("$si != 198.51.100.7", False), ("$si == 198.51.100.0/255.255.255.0", True), ("$rU == 10.0.0.0/8", False),
        ("$si == [2001:db8::]/32", False), ("$rU", True), ("$var(n)", False), ("1", True), ("0", False),
        ("[ $rp & 2 ]", True), ("[ $rp - 5070 ]", False), ("1 && 0", False), ("1 and 1", True), ("0 || 1", True),
        ("0 or 0", False), ("not 0", True), ("!1", False), ("1 || 1 && 0", False), ("(0 || 1) && 1", True),
        ("give(2)", True), ("give(-2)", False), ("!give(-2)", True), ("$var(x) = 5", True),
        ("{ give(1); give(-1); }", False),
    ],
)  # fmt: skip
def test_a_condition(condition: str, true: bool) -> None:
    assert Lab().holds(condition) is true


@pytest.mark.parametrize(
    "statement",
    [
        "break;", "route();", "route(nowhere);", "async(later(1));", "async(give(1), r);", "launch();", "return 1 2;",
        "if $rU note(1);", "while { }", "for ($ru in $(avp(x)[*])) { }", "switch ($rU) { note(1); }",
        "switch ($rU) { default: break; case 1: break; }", "switch (5) { case 1: break; }", "$var(x) = ;", "= 5;",
        "$var(x){s.len} = 5;", "$var(x) == 5;", "give(1)", "$var(x) += NULL;", "if (5 == $rU) exit;",
        'if ("a" == $rU) exit;', "if ($rU =~ 5) exit;", 'if ($rU =~ "(") exit;', "if ($rU > NULL) exit;",
        "if ($si > 10.0.0.0/8) exit;", "xlog();", "xlog(5);", "assert();", "error(1);", "drop 5;", "exit 1;",
        "$var(x) = 1 +;", "$var(x) = (1;", "$nope = 1;", "$var(x) = $(ru{s.nope});", "unknown();",
    ],
)  # fmt: skip
def test_a_misused_statement_is_an_error_with_a_place(statement: str) -> None:
    found = [f for f in Lab().findings(f"route {{\n  {statement}\n}}\nroute[r] {{ exit; }}\n") if f.severity == "error"]
    assert found
    assert all(finding.pos.line in (2, 3) for finding in found)


# -- management commands, events and statistics of the core

# What needs something that this server does not have: a provisioning interface, memory pools, several processes.
NOT_HERE = {
    "core:pi_list", "core:pi_reload", "core:profiling_proc", "mem:rpm_dump", "mem:shm_check",
    "E_CORE_PKG_THRESHOLD", "E_CORE_SHM_THRESHOLD", "E_CORE_PROC_AUTO_SCALE", "E_PROFILING_PROC",
    "fragments", "rpm_fragments", "rpm_free_size", "rpm_max_used_size", "rpm_real_used_size", "rpm_total_size",
    "rpm_used_size",
}  # fmt: skip


def test_commands_events_and_statistics_are_there() -> None:
    core = core_interface()
    there = {entry["name"] for entry in (*core["mi"], *core["events"])}
    there |= {entry["name"] for group in core["statistics"].values() for entry in group}
    wanted = core_names.COMMANDS | core_names.EVENTS | core_names.STATISTICS
    assert wanted - there == NOT_HERE
