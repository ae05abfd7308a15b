"""Hundreds of registrations at a registrar in another process, Kamailio's and our own: challenges, refusals, a
registrar that dies and comes back with nothing in memory, and one that is found by name."""

from __future__ import annotations

import collections
import json
import shutil
import socket
import sqlite3
import subprocess
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from opensipspy.cli.db import create
from tests.scenarios.peer import Phone, until
from tests.scenarios.server import ServerProcess

pytestmark = pytest.mark.scenario

MANY = 280
TRUNKS = """
log_level=2
socket=udp:127.0.0.1:PORT
db_default_url="sqlite:DATABASE"
dns_retr_time=1
dns_retr_no=1
loadmodule "proto_udp.so"
loadmodule "sl.so"
loadmodule "tm.so"
modparam("tm", "fr_timeout", 1)
loadmodule "db_sqlite.so"
loadmodule "httpd.so"
loadmodule "mi_http.so"
modparam("httpd", "port", HTTP)
loadmodule "statistics.so"
modparam("statistics", "variable", "registered")
modparam("statistics", "variable", "challenged")
modparam("statistics", "variable", "refused")
modparam("statistics", "variable", "wrong")
modparam("statistics", "variable", "silent")
modparam("statistics", "variable", "leaving")
modparam("statistics", "variable", "challenged_leaving")
modparam("statistics", "variable", "begun")
modparam("statistics", "variable", "broken")
loadmodule "uac_auth.so"
loadmodule "uac_registrant.so"
modparam("uac_registrant", "timer_interval", 2)
modparam("uac_registrant", "hash_size", 1)
modparam("uac_registrant", "failure_retry_interval", 2)
modparam("uac_registrant", "reregister_expiry_percentage", 50)
route {
	sl_send_reply(200, "OK");
}
event_route[E_REGISTRANT_REGISTERED] {
	update_stat("registered", 1);
}
event_route[E_REGISTRANT_AUTHENTICATING] {
	update_stat("challenged", 1);
}
event_route[E_REGISTRANT_REGISTRAR_ERROR] {
	update_stat("refused", 1);
}
event_route[E_REGISTRANT_WRONG_CREDENTIALS] {
	update_stat("wrong", 1);
}
event_route[E_REGISTRANT_REGISTER_TIMEOUT] {
	update_stat("silent", 1);
}
event_route[E_REGISTRANT_UNREGISTERING] {
	update_stat("leaving", 1);
}
event_route[E_REGISTRANT_AUTHENTICATING_UNREGISTER] {
	update_stat("challenged_leaving", 1);
}
event_route[E_REGISTRANT_REGISTERING] {
	update_stat("begun", 1);
}
event_route[E_REGISTRANT_INTERNAL_ERROR] {
	update_stat("broken", 1);
}
"""
# What both registrars do: who is called f... is refused, b... is told to come later, m... has to ask for more time,
# p... is challenged by a proxy. OPTIONS tells who is registered.
REGISTRAR = """
	if (is_method("OPTIONS")) {
		if (lookup("location"))
			sl_send_reply(Q200Q, "There");
		else
			sl_send_reply(Q404Q, "Not there");
		exit;
	}
	if ($tU =~ "^f") {
		sl_send_reply(Q403Q, "Forbidden");
		exit;
	}
	if ($tU =~ "^b") {
		append_to_reply("Retry-After: 3600\\r\\n");
		sl_send_reply(Q503Q, "Busy");
		exit;
	}
	if ($tU =~ "^m" && $ct =~ "expires=4$") {
		append_to_reply("Min-Expires: 600\\r\\n");
		sl_send_reply(Q423Q, "Interval Too Brief");
		exit;
	}
	if ($tU =~ "^p") {
		if (!PROXYCHECK) {
			proxy_challenge("provider", CHALLENGE);
			exit;
		}
	} else if (!CHECK) {
		www_challenge("provider", CHALLENGE);
		exit;
	}
	save("location");
"""
OURS = """
log_level=2
socket=udp:127.0.0.1:PORT
loadmodule "proto_udp.so"
loadmodule "sl.so"
loadmodule "signaling.so"
loadmodule "sipmsgops.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
modparam("registrar", "min_expires", 1)
loadmodule "auth.so"
modparam("auth", "username_spec", "$var(user)")
modparam("auth", "password_spec", "$var(password)")
modparam("auth", "calculate_ha1", 1)
route {
	$var(user) = $au;
	$var(password) = "secret of " + $au;
"""
KAMAILIO = """
debug=0
log_stderror=yes
children=1
auto_aliases=no
disable_tcp=yes
listen=udp:127.0.0.1:PORT
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "pv.so"
loadmodule "textops.so"
loadmodule "siputils.so"
loadmodule "usrloc.so"
modparam("usrloc", "db_mode", 0)
loadmodule "registrar.so"
modparam("registrar", "min_expires", 1)
loadmodule "auth.so"
request_route {
"""


class Registrar(ABC):
    """A registrar that can be killed and started again."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def kill(self) -> None: ...


class OurRegistrar(Registrar):
    def __init__(self, folder: Path, port: int) -> None:
        super().__init__(folder, port)
        body = REGISTRAR.replace("PROXYCHECK", 'pv_proxy_authorize("provider")')
        body = body.replace("CHECK", 'pv_www_authorize("provider")').replace("CHALLENGE", '"auth", "MD5,SHA-256"')
        script = folder / "registrar.cfg"
        script.write_text(OURS.replace("PORT", str(port)) + body.replace("Q", "") + "}\n", encoding="utf-8")
        self.process = ServerProcess(script, folder)

    def start(self) -> None:
        self.process.start()

    def kill(self) -> None:
        self.process.kill()


class Kamailio(Registrar):
    def __init__(self, folder: Path, port: int) -> None:
        super().__init__(folder, port)
        self.process: subprocess.Popen[bytes] | None = None
        body = REGISTRAR.replace("PROXYCHECK", 'pv_proxy_authenticate("provider", "secret of $au", "0")')
        body = body.replace("CHECK", 'pv_www_authenticate("provider", "secret of $au", "0")')
        body = body.replace("CHALLENGE", '"1"').replace("Q", '"')
        self.script = folder / "kamailio.cfg"
        self.script.write_text(KAMAILIO.replace("PORT", str(port)) + body + "}\n", encoding="utf-8")

    def start(self) -> None:
        command = ["kamailio", "-DD", "-E", "-f", str(self.script), "-Y", str(self.folder), "-m", "64", "-M", "8"]
        with (self.folder / "kamailio.out").open("ab") as out:
            self.process = subprocess.Popen(
                [*command, "-P", str(self.folder / "kamailio.pid")], stdout=out, stderr=out, start_new_session=True
            )
        with closing(Phone("probe", ("127.0.0.1", self.port))) as probe:

            def answers() -> bool:
                assert self.process is not None
                assert self.process.poll() is None, (self.folder / "kamailio.out").read_text()
                with suppress(OSError):
                    probe.send(probe.request("OPTIONS", f"sip:nobody@127.0.0.1:{self.port}"))
                    return probe.receive(0.2).status == 404
                return False

            until(answers, what="the start of Kamailio")

    def kill(self) -> None:
        if self.process is not None:
            # Its children end when they see that it has gone.
            self.process.terminate()
            self.process.wait(30)


REGISTRARS: dict[str, type[Registrar]] = {"ours": OurRegistrar, "kamailio": Kamailio}


class Site:
    """The server that registers, its table and its commands."""

    def __init__(self, folder: Path, free_port: Callable[[], int]) -> None:
        self.port, self.http = free_port(), free_port()
        self.database = folder / "trunks.sqlite"
        create(f"sqlite:{self.database}", ["uac_registrant"])
        script = folder / "trunks.cfg"
        text = TRUNKS.replace("PORT", str(self.port)).replace("HTTP", str(self.http))
        script.write_text(text.replace("DATABASE", str(self.database)), encoding="utf-8")
        self.process = ServerProcess(script, folder)

    def add(self, registrar: str, users: dict[str, str], expires_s: int = 4) -> None:
        """Rows of the table; user -> password."""
        rows = [
            (registrar, f"sip:{user}@provider", user, password, f"sip:{user}@127.0.0.1:{self.port}", expires_s)
            for user, password in users.items()
        ]
        columns = "registrar, aor, username, password, binding_URI, expiry, state"
        with closing(sqlite3.connect(self.database)) as connection, connection:
            connection.executemany(f"INSERT INTO registrant ({columns}) VALUES (?, ?, ?, ?, ?, ?, 0)", rows)

    def mi(self, method: str, **params: Any) -> Any:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        url = f"http://127.0.0.1:{self.http}/mi"
        with urllib.request.urlopen(url, json.dumps(request).encode(), timeout=30) as answer:
            return json.load(answer)["result"]

    def states(self) -> collections.Counter[tuple[str, str]]:
        """How many of each first letter stand how."""
        records = self.mi("uac_registrant:list")["Records"]
        return collections.Counter(
            (found["AOR"].removeprefix("sip:")[0], found["state"].removesuffix("_STATE")) for found in records
        )

    def state(self, user: str) -> str:
        return next(
            found["state"].removesuffix("_STATE")
            for found in self.mi("uac_registrant:list")["Records"]
            if found["AOR"] == f"sip:{user}@provider"
        )

    def count(self, event: str) -> int:
        found = self.mi("statistics:get", statistics=[event])
        return int(next(iter(found.values()), 0))

    def key(self, user: str, registrar: str) -> dict[str, str]:
        contact = f"sip:{user}@127.0.0.1:{self.port}"
        return {"aor": f"sip:{user}@provider", "contact": contact, "registrar": registrar}


@pytest.fixture
def site(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Site]:
    made = Site(tmp_path, free_port)
    yield made
    made.process.stop()
    assert "Traceback" not in made.process.log_text(), made.process.log_text()


def users(letter: str, count: int) -> dict[str, str]:
    return {f"{letter}{number:03}": f"secret of {letter}{number:03}" for number in range(count)}


@pytest.fixture(params=list(REGISTRARS))
def registrar(request: pytest.FixtureRequest, tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Registrar]:
    if request.param == "kamailio" and shutil.which("kamailio") is None:
        pytest.skip("Kamailio is missing: apt-get install kamailio")
    made = REGISTRARS[request.param](tmp_path, free_port())
    made.start()
    yield made
    made.kill()


def is_there(phone: Phone, user: str) -> bool:
    """Whether the registrar has a contact of the user."""
    phone.send(phone.request("OPTIONS", f"sip:{user}@provider"))
    return phone.receive().status == 200


def test_hundreds_of_registrations(site: Site, registrar: Registrar) -> None:
    """RFC 3261 §10.2, §10.2.8, §20.33, §22.2, §22.3: each stands as the registrar wants; all return."""
    where = f"sip:127.0.0.1:{registrar.port}"
    all_of = {letter: users(letter, count) for letter, count in (("u", MANY), ("p", 10), ("m", 5), ("f", 3), ("b", 3))}
    for rows in all_of.values():
        site.add(where, rows)
    site.add(where, {"w000": "not the secret"})
    site.process.start()
    settled = {
        ("u", "REGISTERED"): MANY,
        ("p", "REGISTERED"): 10,
        ("m", "REGISTERED"): 5,
        ("f", "REGISTRAR_ERROR"): 3,
        ("b", "REGISTRAR_ERROR"): 3,
        ("w", "WRONG_CREDENTIALS"): 1,
    }

    def as_expected() -> bool:
        found = site.states()
        # A renewal is under way now and then.
        return all(found[key] >= count * 0.8 for key, count in settled.items()) and site.count("registered") > MANY

    until(as_expected, 60.0, "all registrations")
    assert site.count("challenged") >= MANY
    assert site.count("refused") >= 6
    assert site.count("wrong") >= 1
    listed = {found["AOR"]: found for found in site.mi("uac_registrant:list")["Records"]}
    assert listed["sip:m000@provider"]["expires"] == 600
    phone = Phone("asks", ("127.0.0.1", registrar.port))
    until(lambda: all(is_there(phone, user) for user in ("u000", f"u{MANY - 1:03}", "p003", "m001")), what="bindings")
    assert not is_there(phone, "f000")
    # Gone without a word: the bindings are lost, and so are the nonces.
    silent = site.count("silent")
    registrar.kill()
    until(lambda: site.count("silent") > silent + 10, 60.0, "registrations that notice")
    registrar.start()
    until(lambda: all(is_there(phone, user) for user in list(all_of["u"])[::40]), 60.0, "their return")
    until(lambda: site.states()["u", "REGISTERED"] >= MANY * 0.8, 60.0, "their state")
    # Who was told to come in an hour does not come before (RFC 3261 §20.33).
    refused = site.state("b000")
    assert refused == "REGISTRAR_ERROR"
    # By command: away at once, there at once.
    leaving = site.count("leaving")
    assert site.mi("uac_registrant:disable", **site.key("u007", where)) == "OK"
    until(lambda: not is_there(phone, "u007"), what="the end of a registration")
    assert site.count("leaving") == leaving + 1
    assert site.count("challenged_leaving") >= 1
    until(lambda: site.state("u007") == "NOT_REGISTERED", what="its state")
    assert site.mi("uac_registrant:enable", **site.key("u007", where)) == "OK"
    until(lambda: is_there(phone, "u007"), what="a registration")
    assert site.mi("uac_registrant:force_register", **site.key("m000", where)) == "OK"
    assert site.mi("uac_registrant:delete", **site.key("m004", where)) == "OK"
    assert site.states()["m", "REGISTERED"] + site.states()["m", "REGISTERING"] <= 4
    phone.close()


def test_registrations_by_command(site: Site, registrar: Registrar) -> None:
    """uac_registrant manual: upsert in memory, reload of one row and of the table, an address that resolves nowhere."""
    where = f"sip:127.0.0.1:{registrar.port}"
    site.add(where, users("u", 2), 600)
    site.process.start()
    phone = Phone("asks", ("127.0.0.1", registrar.port))
    until(lambda: is_there(phone, "u000") and is_there(phone, "u001"), what="the first two")
    more = {"proxy": "", "third_party_registrant": "", "binding_params": "", "forced_socket": "", "cluster_shtag": ""}
    login = {"username": "n000", "password": "secret of n000", "expiry": 600, "state": 0}
    assert site.mi("uac_registrant:upsert", **site.key("n000", where), **more, **login) == "OK"
    nowhere = "sip:no.such.host.invalid"
    assert site.mi("uac_registrant:upsert", **site.key("x000", nowhere), **more, **login) == "OK"
    until(lambda: is_there(phone, "n000"), what="the one made by command")
    until(lambda: site.count("broken") >= 1, what="the one without an address")
    assert site.count("begun") >= 4
    site.add(where, users("p", 1), 600)
    assert site.mi("uac_registrant:reload", **site.key("p000", where)) == "OK"
    until(lambda: is_there(phone, "p000"), what="the row that was read")
    assert site.mi("uac_registrant:reload") == "OK"
    # What the table does not have is forgotten; what it has keeps its state.
    assert {letter for letter, _ in site.states()} == {"u", "p"}
    assert site.states()["u", "REGISTERED"] == 2
    phone.close()


def test_a_registrar_that_is_found_by_name(
    site: Site, tmp_path: Path, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 3263 §4.3: the first of the set is dead; each registration comes to the second, within its transaction."""
    if shutil.which("dnsmasq") is None:
        pytest.skip("dnsmasq is missing: apt-get install dnsmasq-base")
    registrar = OurRegistrar(tmp_path, free_port())
    dead, port = free_port(), free_port()
    words = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user="]
    words += [f"--port={port}", "--listen-address=127.0.0.1", "--bind-interfaces", "--pid-file", "--log-facility=-"]
    words += ["--local=/test/", "--host-record=host.test,127.0.0.1"]
    words += [f"--srv-host=_sip._udp.provider.test,host.test,{dead},1"]
    words += [f"--srv-host=_sip._udp.provider.test,host.test,{registrar.port},2"]
    with (tmp_path / "dnsmasq.out").open("wb") as out:
        names = subprocess.Popen(words, stdout=out, stderr=out)
    try:

        def listening() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        until(listening, what="the start of dnsmasq")
        monkeypatch.setenv("OPENSIPSPY_NAME_SERVERS", f"127.0.0.1:{port}")
        site.add("sip:provider.test", users("u", 40), 600)
        registrar.start()
        site.process.start()
        until(lambda: site.states()["u", "REGISTERED"] == 40, 60.0, "all registrations")
        assert site.count("silent") == 0
    finally:
        names.kill()
        names.wait()
        registrar.process.stop()
