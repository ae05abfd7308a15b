"""The script of `make run`: digest registration and calls with SIPp, management doors, contacts over a restart."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scenarios.peer import Phone, until
from tests.scenarios.server import ServerProcess, shipped
from tests.scenarios.sipp_peer import Sipp

pytestmark = pytest.mark.scenario


class Site:
    """A prepared working folder, the server on it, and its two subscribers."""

    def __init__(self, folder: Path, port: int, http: int, start: Callable[..., ServerProcess]) -> None:
        self.folder, self.port, self.http, self._start = folder, port, http, start
        prepare = [sys.executable, "-m", "opensipspy", "quickstart", "--directory", str(folder), "--prepare-only"]
        done = subprocess.run(prepare, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        self.passwords: dict[str, str] = json.loads((folder / "demo-subscribers.json").read_text())
        text = shipped("opensips.cfg").replace("127.0.0.1:5060", f"127.0.0.1:{port}")
        self.script = text.replace('"port", 8888', f'"port", {http}').replace(
            '"reply_dir", "/tmp/"', f'"reply_dir", "{folder}/"'
        )
        self.server = start(self.script)

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def phone(self, user: str, password: str = "") -> Phone:
        return Phone(user, ("127.0.0.1", self.port), password=password or self.passwords[user])

    def restart(self) -> None:
        self.server = self._start(self.script)

    def fifo(self, method: str, params: object = None) -> object:
        """One command through the FIFO as opensips-cli sends it: `:REPLY_FIFO:` and a JSON-RPC request."""
        reply = self.folder / f"reply_{os.getpid()}"
        os.mkfifo(reply)
        try:
            request = {"jsonrpc": "2.0", "id": 7, "method": method, **({"params": params} if params else {})}
            with (self.folder / "opensips_fifo").open("w", encoding="utf-8") as door:
                door.write(f":{reply.name}:{json.dumps(request)}")
            answer = json.loads(reply.read_text(encoding="utf-8"))
        finally:
            reply.unlink()
        assert answer["id"] == 7
        assert "error" not in answer, answer
        return answer["result"]

    def rpc(self, method: str, params: object = None) -> object:
        """One command over HTTP (JSON-RPC 2.0)."""
        request = {"jsonrpc": "2.0", "id": 1, "method": method, **({"params": params} if params else {})}
        call = urllib.request.Request(
            f"http://127.0.0.1:{self.http}/mi",
            json.dumps(request).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(call, timeout=30) as response:
            answer = json.loads(response.read())
        assert "error" not in answer, answer
        return answer["result"]


@pytest.fixture
def site(tmp_path: Path, free_port: Callable[[], int], start_server: Callable[..., ServerProcess]) -> Site:
    return Site(tmp_path, free_port(), free_port(), start_server)


def register(site: Site, sipp: Callable[..., Sipp], user: str, contact: int, port: int, **options: str) -> None:
    keys = {"contact": f"127.0.0.1:{contact}", "lifetime": "600"}
    peer = sipp("register", site.target, port=port, username=user, password=site.passwords[user], keys=keys, **options)
    peer.finish()


@pytest.mark.parametrize("transport", ["u1", "t1"])
def test_two_phones_register_and_call(
    site: Site, sipp: Callable[..., Sipp], free_port: Callable[[], int], transport: str
) -> None:
    """RFC 3261 §22: digest for REGISTER and INVITE; then a call between the two, over UDP and TCP."""
    answering, calling = free_port(), free_port()
    callee = sipp("answer", site.target, port=answering, transport=transport)
    keys = {"contact": f"127.0.0.1:{answering};transport={'tcp' if transport == 't1' else 'udp'}", "lifetime": "600"}
    sipp(
        "register",
        site.target,
        port=free_port(),
        username="bob",
        password=site.passwords["bob"],
        keys=keys,
        transport=transport,
    ).finish()
    register(site, sipp, "alice", calling, free_port())
    sipp(
        "call_authenticated",
        site.target,
        port=calling,
        username="alice",
        password=site.passwords["alice"],
        keys={"callee": "bob"},
        transport=transport,
    ).finish()
    callee.finish()

    def rows() -> list[tuple[object, ...]]:
        with sqlite3.connect(site.folder / "opensipspy.sqlite") as connection:
            return connection.execute("SELECT method, sip_code FROM acc").fetchall()

    until(lambda: ("INVITE", "200") in rows(), what="the accounting row")
    assert rows().count(("INVITE", "200")) == 1


def test_a_wrong_password_never_registers(site: Site, sipp: Callable[..., Sipp], free_port: Callable[[], int]) -> None:
    """RFC 3261 §22.1: wrong credentials are challenged again; nothing is stored."""
    keys = {"contact": "127.0.0.1:9", "lifetime": "600"}
    sipp("register_refused", site.target, port=free_port(), username="alice", password="wrong", keys=keys).finish()
    assert site.fifo("usrloc:dump") == {"Domains": [{"name": "location", "hash_size": 512, "AORs": []}]}


def test_a_caller_may_not_use_another_name(site: Site) -> None:
    """The script lets nobody register or call under a name that is not his."""
    mallory = site.phone("bob")
    uri = "sip:127.0.0.1"
    mallory.send(mallory.request("REGISTER", uri, to="<sip:alice@127.0.0.1>", call_id="theft"))
    challenge = mallory.expect(401)
    credentials = mallory.authorization(challenge, "REGISTER", uri)
    mallory.send(
        mallory.request("REGISTER", uri, to="<sip:alice@127.0.0.1>", call_id="theft", cseq=2, headers=(credentials,))
    )
    assert mallory.expect(403)
    mallory.close()


def test_contacts_survive_a_restart_and_a_crash(site: Site) -> None:
    """usrloc in write-through mode: what was answered with 200 is in the table."""
    bob = site.phone("bob")
    assert bob.register().status == 200
    assert f"sip:bob@127.0.0.1:{bob.port}" in json.dumps(site.fifo("usrloc:dump"))
    site.server.kill()
    site.restart()
    assert f"sip:bob@127.0.0.1:{bob.port}" in json.dumps(site.fifo("usrloc:dump"))
    assert site.server.stop() == 0
    site.restart()
    assert f"sip:bob@127.0.0.1:{bob.port}" in json.dumps(site.rpc("usrloc:dump"))
    bob.close()


def test_management_answers_at_both_doors(site: Site) -> None:
    """The commands that an operator tries first, by their new and their flat names."""
    assert "Up time" in site.fifo("core:uptime")  # type: ignore[operator]
    assert "Up time" in site.rpc("uptime")  # type: ignore[operator]
    assert "Server" in site.rpc("core:version")  # type: ignore[operator]
    names = site.rpc("core:which")
    assert isinstance(names, list)
    assert "usrloc:dump" in names
    assert site.rpc("core:ps")
    assert site.rpc("statistics:get", {"statistics": ["core:", "tm:"]})
    assert site.fifo("get_statistics", {"statistics": ["core:rcv_requests"]}) == {"core:rcv_requests": 0}


def test_options_for_the_server_are_answered(site: Site) -> None:
    """RFC 3261 §11.2."""
    probe = site.phone("alice")
    probe.send(probe.request("OPTIONS", f"sip:{site.target}"))
    assert probe.expect(200)["CSeq"] == "1 OPTIONS"
    probe.close()


def test_a_missing_table_costs_the_request_not_the_server(site: Site) -> None:
    """The database goes away under the server: requests that need it fail, it lives, and it recovers."""
    phone = site.phone("alice")
    database = site.folder / "opensipspy.sqlite"
    with sqlite3.connect(database) as connection:
        connection.execute("ALTER TABLE subscriber RENAME TO hidden")
    assert phone.register().status >= 400
    with sqlite3.connect(database) as connection:
        connection.execute("ALTER TABLE hidden RENAME TO subscriber")
    assert phone.register().status == 200
    phone.close()


def test_the_client_of_the_command_line_reaches_the_shipped_script(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """`opensipspy mi --fifo ...` as quickstart advises it, with the script's own reply folder."""
    site = tmp_path / "site"
    prepare = [sys.executable, "-m", "opensipspy", "quickstart", "--directory", str(site), "--prepare-only"]
    done = subprocess.run(prepare, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"opensipspy mi --fifo {site}/opensips_fifo usrloc:dump" in done.stdout
    script = tmp_path / "opensips.cfg"
    text = shipped("opensips.cfg").replace("127.0.0.1:5060", f"127.0.0.1:{free_port()}")
    script.write_text(text.replace('"port", 8888', f'"port", {free_port()}'), encoding="utf-8")
    server = ServerProcess(script, site)
    server.start()
    try:
        ask = [sys.executable, "-m", "opensipspy", "mi", "--fifo", str(site / "opensips_fifo"), "core:uptime"]
        asked = subprocess.run(ask, cwd=tmp_path, capture_output=True, text=True, timeout=20, check=False)
    finally:
        server.stop()
    assert asked.returncode == 0, asked.stderr
    assert "Up time" in json.loads(asked.stdout)
