"""Modules that scripts use as part of the language, called from the routes of a running server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import UUID

import pytest

from tests.scenarios.peer import Phone, Received
from tests.scenarios.server import ServerProcess

pytestmark = pytest.mark.scenario

HEAD = """
log_level=3
stderror_enabled=yes
socket=udp:127.0.0.1:{port}
loadmodule "proto_udp.so"
loadmodule "sl.so"
loadmodule "signaling.so"
loadmodule "sipmsgops.so"
"""

Ask = Callable[..., Received]


@pytest.fixture
def ask(start_server: Callable[..., ServerProcess], free_port: Callable[[], int]) -> Iterator[Callable[[str], Ask]]:
    """Starts a server with a script and gives a function that sends it OPTIONS and returns the answer."""
    phones: list[Phone] = []

    def start(script: str) -> Ask:
        port = free_port()
        start_server(HEAD.replace("{port}", str(port)) + script)
        phone = Phone("alice", ("127.0.0.1", port))
        phones.append(phone)

        def options(user: str = "x") -> Received:
            phone.send(phone.request("OPTIONS", f"sip:{user}@127.0.0.1:{port}"))
            return phone.expect(200)

        return options

    yield start
    for phone in phones:
        phone.close()


def test_shared_state_arithmetic_and_identifiers(ask: Callable[[str], Ask]) -> None:
    options = ask("""
loadmodule "cfgutils.so"
loadmodule "mathops.so"
loadmodule "uuid.so"
loadmodule "gflags.so"
modparam("cfgutils", "shvset", "count=i:40")
modparam("cfgutils", "varset", "first=s:yes")
modparam("mathops", "decimal_digits", 2)
route {
    get_static_lock("counter");
    $shv(count) = $shv(count) + 1;
    usleep(20000);
    release_static_lock("counter");
    math_eval("$shv(count) / 2", $var(half));
    uuid($var(id), 7);
    $var(flag) = "no";
    if (is_gflag(3)) { $var(flag) = "yes"; }
    set_gflag(3);
    $avp(n) = 1;
    $avp(n) = 2;
    set_count($avp(n), $var(n));
    $var(open) = "closed";
    if (check_time_rec("UTC|20210101T000000||P1D|DAILY")) { $var(open) = "open"; }
    append_to_reply("X-Result: $shv(count) $var(half) $var(flag) $var(n) $var(open) $var(first)\\r\\n");
    append_to_reply("X-Id: $var(id)\\r\\n");
    sl_send_reply(200, "OK");
}
""")
    first, second = options(), options()
    assert first["X-Result"] == "41 20.50 no 2 open yes"
    assert second["X-Result"] == "42 21.00 yes 2 open yes"
    assert UUID(first["X-Id"]).version == UUID(second["X-Id"]).version == 7


def test_asynchronous_waiting_resumes_in_its_route(ask: Callable[[str], Ask]) -> None:
    options = ask("""
loadmodule "tm.so"
loadmodule "cfgutils.so"
route {
    $avp(kept) = "kept";
    async(usleep(30000), resumed);
}
route[resumed] {
    append_to_reply("X-Result: $avp(kept)\\r\\n");
    t_reply(200, "OK");
}
""")
    assert options()["X-Result"] == "kept"


def test_statistics_and_expressions(ask: Callable[[str], Ask]) -> None:
    options = ask("""
loadmodule "statistics.so"
loadmodule "regex.so"
loadmodule "diversion.so"
modparam("statistics", "stat_groups", "method")
modparam("statistics", "variable", "method:options")
modparam("statistics", "stat_series_profile", "avg: algorithm=average")
route {
    update_stat("method:options", 1);
    update_stat_series("avg", "size", 10);
    $var(m) = "none";
    pcre_match($rU, "(?i)^ALI[a-z]+", $var(m));
    $var(reg) = "/\\Q+12\\E/00/";
    $var(in) = "+12";
    $var(out) = $(var(in){pcre.subst,$var(reg)});
    add_diversion("user-busy");
    append_to_reply("X-Result: $stat(method:options) $stat(avg:size) $var(m) $var(out)\\r\\n");
    sl_send_reply(200, "OK");
}
""")
    assert options("alice")["X-Result"] == "1 10 alice 00"
    assert options("alice")["X-Result"] == "2 10 alice 00"


def test_a_command_that_the_script_waits_for(ask: Callable[[str], Ask]) -> None:
    options = ask("""
loadmodule "tm.so"
loadmodule "mi_script.so"
route {
    mi("core:no_such_command", $avp(error));
    $avp(code) = $rc;
    async(mi("core:log_level", $avp(answer)), resumed);
}
route[resumed] {
    append_to_reply("X-Result: $avp(code) $avp(error) $rc $avp(answer)\\r\\n");
    t_reply(200, "OK");
}
""")
    result = options()["X-Result"]
    assert result.startswith("-1 Method not found 1 {")
    assert '"Log level":3' in result
