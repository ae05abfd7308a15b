"""Global parameters: names, types, defaults and the structured values (core.json, global_parameters)."""

from __future__ import annotations

from typing import Any

import pytest

from opensipspy.script import Finding, Globals, ScriptErrors, parse_script
from opensipspy.script.globals import PARAMETERS, AliasDef
from tests.script.lab import NAME


def parse(text: str) -> Globals:
    return parse_script(NAME, text=text + "\nroute { }\n").globals


def wrong(text: str) -> Finding:
    with pytest.raises(ScriptErrors) as raised:
        parse(text)
    (finding,) = raised.value.findings
    return finding


def test_every_parameter_has_an_attribute() -> None:
    """OpenSIPS 4.x has 101 names at top level; loadmodule and modparam are statements."""
    settings = parse("")
    assert len(PARAMETERS) == 101 - 2
    for name in PARAMETERS:
        getattr(settings, name.replace("-", "_"))
    assert settings.given == set()


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("log_level=3", "log_level", 3),
        ("log_level = -1", "log_level", -1),
        ("udp_workers=4", "udp_workers", 4),
        ("udp_workers=4 use_auto_scaling_profile PROFILE", "udp_workers", 4),
        ("check_via=yes", "check_via", True),
        ("check_via=off", "check_via", False),
        ("check_via=1;", "check_via", True),
        ('server_header="Server: x"', "server_header", "Server: x"),
        ('server_header="Server: "\n  "folded"', "server_header", "Server: folded"),
        ("syslog_facility=LOG_LOCAL0", "syslog_facility", "LOG_LOCAL0"),
        ('syslog_facility="LOG_LOCAL0"', "syslog_facility", "LOG_LOCAL0"),
        ("advertised_address=192.0.2.9", "advertised_address", "192.0.2.9"),
        ("advertised_address=sip.example.com", "advertised_address", "sip.example.com"),
        ('advertised_address="sip.example.com"', "advertised_address", "sip.example.com"),
        ("tos=IPTOS_LOWDELAY", "tos", 0x10),
        ("tos=0x20", "tos", 0x20),
        ("poll_method=epoll", "poll_method", "epoll"),
        ("workdir=\"/tmp\"", "wdir", "/tmp"),
        ('mpath="/a/:/b"', "mpath", ["/a/", "/b"]),
        ('mpath="/a":"/b"', "mpath", ["/a", "/b"]),
        ('mpath="/a"\nmpath="/b"', "mpath", ["/a", "/b"]),
    ],
)  # fmt: skip
def test_values(line: str, name: str, value: Any) -> None:
    settings = parse(line)
    assert getattr(settings, name) == value
    assert name in settings.given


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("udp:192.0.2.1", ("udp", "192.0.2.1", (), "", 0, "", {})),
        ("udp:192.0.2.1:5062", ("udp", "192.0.2.1", (5062,), "", 0, "", {})),
        ("UDP:192.0.2.1:5062", ("udp", "192.0.2.1", (5062,), "", 0, "", {})),
        ("tcp:*:5060", ("tcp", "*", (5060,), "", 0, "", {})),
        ("udp:eth0:5060", ("udp", "eth0", (5060,), "", 0, "", {})),
        ("udp:eth0.100", ("udp", "eth0.100", (), "", 0, "", {})),
        ("tls:sip-1.example.com:5061", ("tls", "sip-1.example.com", (5061,), "", 0, "", {})),
        ("udp:[2001:db8::1]:5060", ("udp", "2001:db8::1", (5060,), "", 0, "", {})),
        ('udp:"192.0.2.1":5060', ("udp", "192.0.2.1", (5060,), "", 0, "", {})),
        ("udp:192.0.2.1:5060-5062, 5070", ("udp", "192.0.2.1", (5060, 5061, 5062, 5070), "", 0, "", {})),
        ("udp:192.0.2.1:5060 as 198.51.100.1:5080", ("udp", "192.0.2.1", (5060,), "198.51.100.1", 5080, "", {})),
        ("udp:192.0.2.1 AS sip.example.com tag outside", ("udp", "192.0.2.1", (), "sip.example.com", 0, "outside", {})),
        (
            "udp:192.0.2.1:5060 use_workers 3 reuse_port anycast tos 16 allow_proxy_protocol",
            ("udp", "192.0.2.1", (5060,), "", 0, "", {"use_workers": 3, "reuse_port": 1, "anycast": 1, "tos": 16,
                                                       "allow_proxy": 1}),
        ),
    ],
)  # fmt: skip
def test_sockets(value: str, expected: tuple[Any, ...]) -> None:
    (socket,) = parse(f"socket={value}").sockets
    assert tuple(socket)[:-1] == expected
    assert socket.pos.line == 1


def test_several_sockets_keep_their_order() -> None:
    settings = parse("socket=udp:192.0.2.1:5060\nsocket=tcp:192.0.2.1:5060\nsocket=udp:[::1]:5060\n")
    assert [(socket.proto, socket.host) for socket in settings.sockets] == [
        ("udp", "192.0.2.1"), ("tcp", "192.0.2.1"), ("udp", "::1"),
    ]  # fmt: skip


def test_a_bond_holds_sockets() -> None:
    settings = parse("socket = bond:pair { udp:192.0.2.1:5060, tcp:192.0.2.1 }")
    assert settings.bonds == {"pair": ("udp:192.0.2.1:5060", "tcp:192.0.2.1")}


def test_aliases() -> None:
    settings = parse(
        'alias=sip.example.com\nalias=udp:"b.example":5060\nalias=any:c.example:5061 accept_subdomain\nalias=192.0.2.5'
    )
    assert settings.aliases == [
        AliasDef("", "sip.example.com", 0, False),
        AliasDef("udp", "b.example", 5060, False),
        AliasDef("", "c.example", 5061, True),
        AliasDef("", "192.0.2.5", 0, False),
    ]


def test_blacklists() -> None:
    settings = parse(
        'dst_blacklist = gw/expire,default : { (tcp, 192.0.2.0/24, 5060, "x"), !(any, 198.51.100.1), ! 10.0.0.0/8 }\n'
        "dst_blacklist = empty : { }\n"
        "dst_blacklist = named/read-only\n"
    )
    assert [(b.name, b.flags) for b in settings.blacklists] == [
        ("gw", ("expire", "default")), ("empty", ()), ("named", ("read-only",)),
    ]  # fmt: skip
    assert settings.blacklists[0].rules == (
        (False, "tcp", "192.0.2.0/24", 5060, "x"),
        (True, "", "198.51.100.1", 0, ""),
        (True, "", "10.0.0.0/8", 0, ""),
    )


@pytest.mark.parametrize(
    "profile",
    [
        "p scale up to 6 on 70% for 4 cycles within 5 scale down to 2 on 20% for 10 cycles",
        "p scale up to 6 on 70% for 4 cycles scale down to 2 on 20% for 10 cycles",
        "p scale up to 6 on 70% for 4 cycles within 5",
        "p SCALE UP TO 6 ON 70% FOR 4 CYCLES",
    ],
)
def test_auto_scaling_profiles_are_taken(profile: str) -> None:
    assert len(parse(f"auto_scaling_profile = {profile}").auto_scaling_profiles) == 1


@pytest.mark.parametrize(
    ("line", "col", "message", "hint"),
    [
        ("log_lvel=3", 1, "unknown global parameter log_lvel", "did you mean log_level?"),
        ("children=4", 1, "global parameter children", "udp_workers"),
        ("listen=udp:1.2.3.4", 1, "global parameter listen", "socket="),
        ("log_facility=LOG_LOCAL0", 1, "global parameter log_facility", "syslog_facility"),
        ("log_stderror=yes", 1, "global parameter log_stderror", "stderror_enabled"),
        ("log_level=high", 11, "log_level expects a number, not 'high'", ""),
        ("log_level=\"3\"", 11, "log_level expects a number, not '\"3\"'", ""),
        ("check_via=maybe", 11, "check_via expects yes or no, not 'maybe'", ""),
        ("log_level=", 1, "log_level has no value", ""),
        ("log_level=3 4", 13, "unexpected '4'", ""),
        ("tos=300", 5, "a type of service is 0 to 255", ""),
        ("syslog_facility=LOG_LOCAL9", 17, "syslog_facility cannot be 'LOG_LOCAL9'", "did you mean LOG_LOCAL"),
        ("socket=udq:192.0.2.1", 8, "unknown protocol udq", "did you mean udp?"),
        ("socket=192.0.2.1:5060", 8, "socket expects a protocol", ""),
        ("socket=udp:192.0.2.1:70000", 22, "70000 is no port", ""),
        ("socket=udp:192.0.2.1:5062-5060", 27, "5062-5060 is no range of ports", ""),
        ("socket=udp:192.0.2.1:5060 fast", 27, "unknown option 'fast'", "use_workers"),
        ("auto_scaling_profile=p scale sideways", 24, "expected: name scale up to N", ""),
    ],
)  # fmt: skip
def test_mistakes_show_the_word_and_the_cure(line: str, col: int, message: str, hint: str) -> None:
    finding = wrong(line)
    assert (finding.line, finding.col) == (1, col)
    assert message in finding.message
    assert hint in finding.hint


def test_kept_settings_come_back_the_same() -> None:
    settings = parse(
        'socket=udp:192.0.2.1:5060 tag x\nalias=b.example\nmpath="/a"\ncheck_via=yes\ndst_blacklist=g: {10.0.0.1}\n'
        "socket=bond:pair { udp:192.0.2.1 }\n"
    )
    again = Globals.from_data(settings.as_data())
    assert vars(again) == vars(settings)


def test_a_bond_has_its_sockets_in_quotes() -> None:
    text = 'socket=udp:192.0.2.1:5060\nsocket=bond:both { "udp:192.0.2.1:5060", "tcp:[2001:db8::1]:5061" }\nlog_level=2'
    settings = parse(text)
    assert settings.bonds == {"both": ("udp:192.0.2.1:5060", "tcp:[2001:db8::1]:5061")}
    assert settings.log_level == 2
    assert "no socket" in wrong('socket=bond:both {"192.0.2.1"}').message


def test_a_statement_outside_of_a_route_is_no_option_of_the_socket_above() -> None:
    finding = wrong('socket=udp:192.0.2.1:5060\nxlog("hello");')
    assert (finding.line, finding.message) == (2, "unexpected 'xlog'")
    assert "route block" in finding.hint
