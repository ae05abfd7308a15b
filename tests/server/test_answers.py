"""Made-up back-ends: what an answers file may say, and what a script then sees."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from opensipspy.server.answers import Answers, AnswersError, fits
from opensipspy.server.simulation import Simulation

MESSAGE = """
    MESSAGE sip:bob@example.org SIP/2.0
    Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKm1
    From: <sip:alice@example.com>;tag=1
    To: <sip:bob@example.org>
    Call-ID: m1
    CSeq: 1 MESSAGE
    Max-Forwards: 70
"""
HEAD = """
socket=udp:127.0.0.1:5060
loadmodule "proto_udp.so"
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "signaling.so"
loadmodule "sqlops.so"
loadmodule "rest_client.so"
loadmodule "exec.so"
modparam("sqlops", "db_url", "mysql://nobody@db.example.org/opensips")
"""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "has to be a table"),
        ("{", "Expecting"),
        ('{"dsn": {}}', "there is no section 'dsn'"),
        ('{"dns": []}', "section 'dns' is a table"),
        ('{"gateways": {"x": [99]}}', "gateways: 'x': 99 is no SIP status"),
        ('{"gateways": {"x": ["busy"]}}', "'busy' is no reply"),
        ('{"gateways": {"x": [{"code": 200}]}}', "a reply has no code"),
        ('{"gateways": {"x": [{"after": 1}]}}', "'status' is missing"),
        ('{"gateways": {"x": [{"status": 200, "after": -1}]}}', "cannot come before"),
        ('{"http": {"x": "gone"}}', "one of refused"),
        ('{"database": {"x": [1]}}', "a row is a table"),
        ('{"exec": {"x": 1}}', "is a text"),
        ('{"cache": {"local": 1}}', "from key to value"),
    ],
)
def test_a_wrong_answers_file_says_where(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "answers.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(AnswersError, match=said.replace("[", r"\[")) as caught:
        Answers.read(str(path))
    assert str(caught.value).startswith(str(path))


def test_a_pattern_takes_anything_for_a_star_and_nothing_else() -> None:
    assert fits("https://a.example/*?x=[1]", "https://A.example/b/c?x=[1]")
    assert not fits("https://a.example/", "https://a.example/b")
    assert not fits("a.example", "aXexample")


def run(body: str, answers: Answers, **options: bool) -> Simulation:
    return Simulation("script.cfg", text=HEAD + body, answers=answers, **options)


def test_a_database_answers_whatever_its_driver_and_takes_writes() -> None:
    answers = Answers()
    answers.table("people", {"name": "bob", "age": 30}, {"name": "eve", "age": 40})
    answers.query("call best_route(*)", ("gw7", 5))
    body = """
    route {
        sql_query("SELECT age FROM people WHERE name = '$rU'", "$avp(age)");
        sql_query("CALL best_route('$rU')", "$avp(gw);$avp(cost)");
        sql_query("UPDATE people SET age = 31 WHERE name = 'bob'");
        sql_query("SELECT age FROM people WHERE name = 'bob'", "$avp(after)");
        if (!sql_query("SELECT x FROM nowhere", "$avp(none)")) $var(failed) = 1;
        exit;
    }
    """
    with run(body, answers) as site:
        asked = site.receive(MESSAGE)
        assert [asked.value(f"$avp({name})") for name in ("age", "gw", "cost", "after")] == [30, "gw7", 5, 31]
        assert asked.value("$var(failed)") == 1
        assert [lookup.answered for lookup in asked.lookups] == [True, True, True, True, False]
        assert "nowhere" in asked.lookups[-1].answer


def test_http_and_programs_answer_or_fail_as_the_manuals_say() -> None:
    answers = Answers()
    answers.http("POST https://api.example.org/*", 201, '{"ok": true}', "application/json")
    answers.http_failure("https://slow.example.org/*", "timeout")
    answers.command("/bin/route *", "gw1\ngw2\n")
    body = """
    route {
        rest_post("https://api.example.org/x", "data", "text/plain", $var(body), $var(type), $var(status));
        rest_get("https://slow.example.org/", $var(none));
        $var(slow) = $rc;
        rest_get("https://api.example.org/x", $var(none));
        exec("/bin/route $rU", , $avp(gw));
        exec("/bin/other", , $avp(none));
        $var(exec) = $rc;
        exit;
    }
    """
    with run(body, answers) as site:
        asked = site.receive(MESSAGE)
        assert (asked.value("$var(status)"), asked.value("$var(type)")) == (201, "application/json")
        assert asked.value("$var(body)") == '{"ok": true}'
        assert asked.value("$var(slow)") == -3
        assert asked.value("$avp(gw)") == "gw2"
        assert asked.value("$var(exec)") == -1
        assert [(each.kind, each.answered) for each in asked.lookups] == [
            ("http", True), ("http", True), ("http", False), ("exec", True), ("exec", False)
        ]  # fmt: skip


def test_a_store_holds_what_was_said_and_what_the_script_writes() -> None:
    answers = Answers()
    answers.cache("redis:calls", {"bob": 3})
    body = """
    route {
        cache_fetch("redis:calls", "$rU", $var(found));
        cache_add("redis:calls", "$rU", 2, 60);
        cache_fetch("redis:calls", "$rU", $var(more));
        cache_store("redis:calls", "eve", "x");
        exit;
    }
    """
    module = (
        'loadmodule "cachedb_redis.so"\nmodparam("cachedb_redis", "cachedb_url", "redis:calls://db.example.org/")\n'
    )
    with run(module + body, answers) as site:
        asked = site.receive(MESSAGE)
        assert (asked.value("$var(found)"), asked.value("$var(more)")) == ("3", "5")
        assert [each.question for each in asked.lookups] == [
            "redis:calls: fetch bob", "redis:calls: add 2 bob", "redis:calls: fetch bob", "redis:calls: store 'x' eve"
        ]  # fmt: skip


def test_names_have_the_records_that_were_said() -> None:
    """RFC 3263 §4: SRV, then the address; a name that nobody knows is a look-up without an answer."""
    answers = Answers()
    answers.add(
        {
            "dns": {
                "_sip._udp.far.example": [{"priority": 1, "weight": 1, "port": 5070, "target": "one.far.example"}],
                "one.far.example": "198.51.100.1",
            }
        }
    )
    body = 'route { $ru = "sip:" + $rU + "@" + $fU + ".example"; if (!t_relay()) send_reply(500, "Lost"); }'
    with run(body, answers) as site:
        sent = site.receive(MESSAGE.replace("alice@", "far@"))
        assert sent.relayed.to == "198.51.100.1:5070"
        lost = site.receive(MESSAGE.replace("alice@", "near@").replace("m1", "m2"))
        assert lost.reply.status in (404, 476, 500)
        assert not any(each.answered for each in lost.lookups)


def test_a_gateway_answers_is_silent_or_cannot_be_reached() -> None:
    """The failure of RFC 3261 §16.7 after fr_timeout, of which the test takes none; §16.9 for what cannot be sent."""
    body = 'route { $ru = "sip:" + $rU + "@192.0.2." + $fU; t_relay(); }'
    with run(body, Answers()) as site:
        site.gateway(
            "192.0.2.7:5060", {"status": 202, "headers": {"X-By": "gw"}, "after": 1, "body": "hi", "type": "a/b"}
        )
        site.gateway("192.0.2.8:*", "silence")
        site.gateway("udp:192.0.2.9:5060", "unreachable")
        site.receive(MESSAGE.replace("alice@", "7@"))
        [reply] = site.advance(1.1).replies
        assert (reply.status, reply.header("X-By"), reply.message.body) == (202, "gw", b"hi")
        site.receive(MESSAGE.replace("alice@", "8@").replace("m1", "m2").replace("MESSAGE", "INVITE"))
        assert site.advance(30.4).statuses == [408]
        gone = site.receive(MESSAGE.replace("alice@", "9@").replace("m1", "m3"))
        assert gone.requests == []


def test_nothing_leaves_the_process_unless_told() -> None:
    """Without answers too: an HTTP server is not there, and any other connection is refused before it begins."""
    body = 'route { rest_get("http://127.0.0.1:9/", $var(body)); $var(code) = $rc; exit; }'
    text = "\n".join(line for line in HEAD.split("\n") if "sqlops" not in line)
    with Simulation("script.cfg", text=text + body) as site:
        asked = site.receive(MESSAGE)
        assert asked.value("$var(code)") == -1
        assert [(each.kind, each.answered) for each in asked.lookups] == [("http", False)]
        for work in (
            asyncio.open_connection("127.0.0.1", 9),
            asyncio.open_unix_connection("/nowhere"),
            asyncio.create_subprocess_shell("true"),
            site.loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=("127.0.0.1", 9)),
        ):
            with pytest.raises(ConnectionRefusedError, match="no network"):
                site.loop.run_until_complete(work)
        assert [each.kind for each in site.lookups[1:]] == ["network"] * 4


def test_one_route_runs_by_itself_with_what_a_test_gives_it() -> None:
    body = """
    route { exit; }
    route[price] { $var(total) = $param(1) * $var(factor); if ($var(total) > 10) return(2); return(-3); }
    onreply_route[late] { if ($rs == 183) drop; }
    """
    with run(body, Answers()) as site:
        priced = site.run("price", params=(4,), variables={"$var(factor)": 3})
        assert (priced.returned, priced.value("$var(total)"), priced.exited) == (2, 12, False)
        assert site.run("price", params=(1,), variables={"$var(factor)": 3}).returned == -3
        reply = MESSAGE.replace("MESSAGE sip:bob@example.org SIP/2.0", "SIP/2.0 183 Ringing")
        assert site.run("late", reply, kind="onreply_route").dropped
        with pytest.raises(LookupError, match="did you mean 'price'"):
            site.run("prize")
        with pytest.raises(LookupError, match="no kind of route"):
            site.run("price", kind="routes")


def test_events_and_statistics_are_seen() -> None:
    with run('route { raise_event("E_SCRIPT_EVENT"); send_reply(200, "OK"); exit; }', Answers()) as site:
        site.receive(MESSAGE)
        assert site.statistic("core:rcv_requests") == 1
        with pytest.raises(LookupError):
            site.statistic("core:none")


def test_what_answers_say_is_plain_data(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('[dns]\n"a.example" = ["192.0.2.1", "2001:db8::1"]\n[exec]\nid = "x"\n', encoding="utf-8")
    made = Answers.read(str(path))
    assert {kind for _, kind in made.names} == {"A", "AAAA"}
    assert made.command_for("id") == (True, "x")
    assert json.dumps(made.tables) == "{}"
