"""Blacklists: rules, the script's functions, tm's -5, management commands, and the memory of failed destinations."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opensipspy import sip
from opensipspy.management import MiError
from opensipspy.script.globals import BlacklistDef
from opensipspy.server.blacklists import Blacklists, parse_rule
from opensipspy.server.errors import LoadError
from opensipspy.server.load import load
from opensipspy.server.options import Options
from tests.server.house import House, Peer, free_port, request
from tests.server.test_reload import HEAD, reloading


class Now:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def lists(*rules: tuple[bool, str, str, int, str], flags: tuple[str, ...] = ()) -> tuple[Blacklists, Now]:
    now = Now()
    made = Blacklists(now)
    made.define([BlacklistDef("l", flags, rules)], dns=False)
    return made, now


def barred(made: Blacklists, ip: str, port: int = 5060, proto: str = "udp", text: str = "") -> bool:
    return made.check(made.lists["l"], ip, port, proto, text) is not None


@pytest.mark.parametrize(
    ("rule", "yes", "no"),
    [
        ((False, "", "192.0.2.1", 0, ""), ("192.0.2.1", 9, "tcp", ""), ("192.0.2.2", 9, "tcp", "")),
        ((False, "tcp", "192.0.2.0/24", 0, ""), ("192.0.2.9", 9, "tcp", ""), ("192.0.2.9", 9, "udp", "")),
        ((False, "", "192.0.2.0/255.255.255.0", 5060, ""), ("192.0.2.9", 5060, "udp", ""), ("192.0.2.9", 1, "udp", "")),
        ((False, "", "2001:db8::/32", 0, ""), ("2001:db8::1", 1, "udp", ""), ("192.0.2.1", 1, "udp", "")),
        ((True, "", "192.0.2.0/24", 0, ""), ("198.51.100.1", 1, "udp", ""), ("192.0.2.1", 1, "udp", "")),
        (
            (False, "", "192.0.2.0/24", 0, "MESSAGE*ugly*"),
            ("192.0.2.1", 1, "udp", "MESSAGE sip:a\r\n\r\nan ugly word"),
            ("192.0.2.1", 1, "udp", "INVITE sip:a\r\n\r\nan ugly word"),
        ),
    ],
)
def test_a_rule_bars_what_it_says(rule: Any, yes: Any, no: Any) -> None:
    made, _ = lists(rule)
    assert barred(made, *yes)
    assert not barred(made, *no)


def test_rules_expire_where_the_list_lets_them() -> None:
    made, now = lists(flags=("expire",))
    made.put(made.lists["l"], parse_rule("192.0.2.1"), 10)
    made.put(made.lists["l"], parse_rule("192.0.2.2"), 0)
    assert barred(made, "192.0.2.1")
    now.now += 10
    assert not barred(made, "192.0.2.1")
    assert barred(made, "192.0.2.2")
    assert len(made.lists["l"].rules) == 1


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("192.0.2.1", (False, 0, "192.0.2.1/32", 0, "")),
        ("!tcp,192.0.2.0/24,5060", (True, sip.PROTO_TCP, "192.0.2.0/24", 5060, "")),
        ("any,192.0.2.1,0,a,b*", (False, 0, "192.0.2.1/32", 0, "a,b*")),
    ],
)
def test_a_rule_is_read_as_the_manual_writes_it(text: str, key: tuple[Any, ...]) -> None:
    negated, proto, network, port, pattern = parse_rule(text).key
    assert (negated, proto, str(network), port, pattern) == key


@pytest.mark.parametrize("text", ["", "!", "udp", "x.example", "192.0.2.1,x", "192.0.2.1,70000", "192.0.2.1/33"])
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_rule(text)


def test_the_dns_list_remembers_failures_for_four_minutes() -> None:
    now = Now()
    made = Blacklists(now)
    made.define([], dns=True)
    made.failed(sip.Peer(sip.PROTO_UDP, "192.0.2.1", 5060))
    assert made.check(made.lists["dns"], "192.0.2.1", 5060, "udp", "") is not None
    assert made.check(made.lists["dns"], "192.0.2.1", 5070, "udp", "") is None
    now.now += 240
    assert made.check(made.lists["dns"], "192.0.2.1", 5060, "udp", "") is None


def test_two_lists_of_one_name_are_an_error_at_load(tmp_path: Path) -> None:
    options = Options()
    options.script = str(tmp_path / "x.cfg")
    Path(options.script).write_text("dst_blacklist=a/expire\ndst_blacklist=a/expire\nroute { exit; }\n")
    with pytest.raises(LoadError) as caught:
        load(options)
    assert "twice" in caught.value.text


SCRIPT = (
    HEAD
    + """
dst_blacklist = here: {{ (udp, 127.0.0.1, {callee}) }}
dst_blacklist = now/expire
dst_blacklist = usual/default,expire
route {{
	$du = "sip:127.0.0.1:{callee}";
	if ($rU == "here") use_blacklist("here");
	if ($rU == "taken") {{ use_blacklist("here"); unuse_blacklist("here"); }}
	if ($rU == "unusual") unuse_blacklist("usual");
	if ($rU == "nobody") use_blacklist("all");
	if ($rU == "free") unuse_blacklist("all");
	if ($rU == "add") {{ add_blacklist_rule("now", "127.0.0.1", {callee}, "udp"); use_blacklist("now"); }}
	if (!t_relay("no-auto-477")) {{ sl_send_reply(499, "t_relay $retcode"); }}
}}
"""
)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_t_relay_gives_minus_5_where_a_list_bars_the_way(loop: str, tmp_path: Path) -> None:
    port = free_port()
    with socket.socket(type=socket.SOCK_DGRAM) as there:
        there.bind(("127.0.0.1", 0))
        there.settimeout(30)
        script = SCRIPT.format(port=port, callee=there.getsockname()[1])

        async def scene(house: House, write: Callable[[str], None]) -> None:
            def goes() -> bool:
                return "OPTIONS" in there.recv(65535).decode()

            async def call(name: str, params: Any = None) -> Any:
                return await house.core.mi.call(f"blacklists:{name}", params)

            with Peer(port) as caller:

                async def refused(user: str) -> None:
                    caller.send(request(ruri=f"sip:{user}@127.0.0.1", branch=f"z9hG4bK{user}", call_id=user))
                    assert (await caller.receive()).startswith("SIP/2.0 499 t_relay -5")

                def sent(user: str) -> None:
                    caller.send(request(ruri=f"sip:{user}@127.0.0.1", branch=f"z9hG4bK{user}", call_id=user))

                await refused("here")
                sent("taken")
                assert await house.core.loop.run_in_executor(None, goes)
                await refused("add")
                there_port = there.getsockname()[1]
                rule = f"udp,127.0.0.1,{there_port}"
                assert await call("check_all", {"ip": "127.0.0.1", "proto": "udp", "port": there_port}) == [
                    "here",
                    "now",
                ]
                assert await call("add_rule", {"name": "usual", "rule": rule, "expire": 60}) == "OK"
                await refused("anybody")
                for user in ("unusual", "free"):
                    sent(user)
                    assert await house.core.loop.run_in_executor(None, goes)
                await refused("nobody")
                shown = await call("list", {"name": "usual"})
                assert shown["flags"] == ["default", "expire"]
                assert shown["owner"] == "script"
                assert shown["Rules"][0]["IP"] == "127.0.0.1"
                assert 58 <= shown["Rules"][0]["Expire"] <= 60
                assert await call("del_rule", {"name": "usual", "rule": rule}) == "OK"
                with pytest.raises(MiError) as caught:
                    await call("add_rule", {"name": "here", "rule": rule})
                assert caught.value.code == 403

        reloading(loop, tmp_path, script, scene)
