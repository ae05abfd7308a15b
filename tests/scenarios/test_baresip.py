"""Two real phones: baresip registers with digest, calls through the shipped script, and hangs up."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.scenarios.oracle import digest_hash
from tests.scenarios.peer import until
from tests.scenarios.server import ServerProcess, shipped

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.skipif(shutil.which("baresip") is None, reason="baresip is missing: apt-get install baresip-core"),
]

# No sound card: what is heard is what is said.
CONFIG = """
sip_listen 127.0.0.1:PORT
audio_source aubridge,nil
audio_player aubridge,nil
audio_alert aubridge,nil
call_max_calls CALLS
module_path MODULES
module g711.so
module aubridge.so
module stdio.so
module_app account.so
module_app menu.so
"""
ACCOUNTED = "SELECT method, sip_code FROM acc ORDER BY id"


def modules_folder() -> str:
    found = [*Path("/usr/lib").glob("baresip/modules"), *Path("/usr/lib").glob("*/baresip/modules")]
    if not found:
        pytest.skip("baresip's modules are missing: apt-get install baresip-core")
    return str(found[0])


class Baresip:
    """One phone with one account; bob and carol answer by themselves."""

    def __init__(
        self, folder: Path, user: str, password: str, port: int, server: str, transport: str, calls: int = 1
    ) -> None:
        self.folder = folder / f"baresip-{user}"
        self.folder.mkdir()
        self.output = self.folder / "output"
        config = CONFIG.replace("PORT", str(port)).replace("MODULES", modules_folder()).replace("CALLS", str(calls))
        (self.folder / "config").write_text(config, encoding="utf-8")
        answer = "auto" if user in ("bob", "carol") else "manual"
        account = (
            f"<sip:{user}@127.0.0.1;transport={transport}>;auth_user={user};auth_pass={password};regint=60;"
            f'outbound="sip:{server};transport={transport};lr";answermode={answer}\n'
        )
        (self.folder / "accounts").write_text(account, encoding="utf-8")
        (self.folder / "contacts").write_text("", encoding="utf-8")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *commands: str) -> None:
        words = ["baresip", "-4", "-s", "-v", "-f", str(self.folder)]
        for command in commands:
            words += ["-e", command]
        with self.output.open("ab") as out:
            self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=out, stderr=out, cwd=self.folder)

    def type(self, text: str) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()

    def shown(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace") if self.output.exists() else ""

    def expect(self, text: str, limit_s: float = 60.0) -> None:
        try:
            until(lambda: text in self.shown(), limit_s, f"{text!r} of baresip")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.shown()[-6000:]}") from None

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            if self.process.stdin is not None:
                self.process.stdin.close()


@pytest.fixture
def phones() -> Iterator[list[Baresip]]:
    made: list[Baresip] = []
    yield made
    for phone in made:
        phone.stop()


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_two_phones_register_call_and_hang_up(
    tmp_path: Path,
    free_port: Callable[[], int],
    start_server: Callable[..., ServerProcess],
    phones: list[Baresip],
    transport: str,
) -> None:
    """RFC 3261 §10, §13, §15 and §22 as a phone of other authors understands them."""
    prepare = [sys.executable, "-m", "opensipspy", "quickstart", "--directory", str(tmp_path), "--prepare-only"]
    subprocess.run(prepare, cwd=tmp_path, capture_output=True, check=True)
    passwords = json.loads((tmp_path / "demo-subscribers.json").read_text())
    port = free_port()
    script = shipped("opensips.cfg").replace("127.0.0.1:5060", f"127.0.0.1:{port}")
    # A call to a phone opens a connection, for which a loaded machine needs more than the usual 100 ms.
    script = "tcp_connect_timeout=10000\n" + script
    start_server(script.replace('"port", 8888', f'"port", {free_port()}'))
    server = f"127.0.0.1:{port}"
    for user in ("bob", "alice"):
        phones.append(Baresip(tmp_path, user, passwords[user], free_port(), server, transport))
        phones[-1].start()
        phones[-1].expect("200 OK")
    bob, alice = phones
    alice.type("/dial sip:bob@127.0.0.1")
    alice.expect("Call established")
    bob.expect("Call established")
    alice.type("/hangup")
    bob.expect("BYE sip:")

    def rows() -> list[tuple[str, str]]:
        with closing(sqlite3.connect(tmp_path / "opensipspy.sqlite")) as connection:
            return connection.execute(ACCOUNTED).fetchall()

    until(lambda: ("INVITE", "200") in rows(), what="the accounting of the call")
    assert rows().count(("INVITE", "200")) == 1


def test_two_phones_call_over_tls(
    tmp_path: Path,
    free_port: Callable[[], int],
    start_server: Callable[..., ServerProcess],
    phones: list[Baresip],
) -> None:
    """RFC 3261 §26.2.1 as a phone of other authors understands it: it checks our certificate, and we call its."""
    authority = Authority(tmp_path)
    ours = authority.issue("127.0.0.1", hosts=["localhost"])
    udp, port = free_port(), free_port()
    script = shipped("tls_ws.cfg").replace("tls/cert.pem", str(ours.cert)).replace("tls/key.pem", str(ours.key))
    script = script.replace(f"[others]{ours.cert}", f"[others]{authority.path}")
    script = script.replace("127.0.0.1:5061", f"127.0.0.1:{port}").replace("127.0.0.1:5060", f"127.0.0.1:{udp}")
    script = "tcp_connect_timeout=10000\n" + script
    start_server(script.replace("127.0.0.1:8080", f"127.0.0.1:{free_port()}").replace(":8443", f":{free_port()}"))
    for user in ("bob", "alice"):
        phone = Baresip(tmp_path, user, "none", free_port(), f"127.0.0.1:{port}", "tls")
        theirs = authority.issue(f"{user}.test")
        pem = phone.folder / "certificate.pem"
        pem.write_text(theirs.key_pem + theirs.cert_pem)
        with (phone.folder / "config").open("a") as config:
            config.write(f"sip_certificate {pem}\nsip_cafile {authority.path}\n")
        phones.append(phone)
        phone.start()
        phone.expect("200 OK")
    bob, alice = phones
    alice.type("/dial sip:bob@127.0.0.1;transport=tls")
    alice.expect("Call established")
    bob.expect("Call established")
    alice.type("/hold")
    bob.expect("a=sendonly")
    alice.expect("a=recvonly")
    alice.type("/hangup")
    bob.expect("BYE sip:")


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_call_is_held_and_handed_on(
    tmp_path: Path,
    free_port: Callable[[], int],
    start_server: Callable[..., ServerProcess],
    phones: list[Baresip],
    transport: str,
) -> None:
    """RFC 3261 §14, RFC 3515, RFC 3261 §9: alice holds bob, takes him back and sends him to carol.

    Then dave finds carol busy, calls alice, and hangs up while it rings.
    """
    users = ("bob", "carol", "alice", "dave")
    prepare = [sys.executable, "-m", "opensipspy", "quickstart", "--directory", str(tmp_path), "--prepare-only"]
    subprocess.run(prepare, cwd=tmp_path, capture_output=True, check=True)
    with closing(sqlite3.connect(tmp_path / "opensipspy.sqlite")) as connection:
        connection.execute("DELETE FROM subscriber")
        for user in users:
            digests = [digest_hash(kind, f"{user}:127.0.0.1:open") for kind in ("MD5", "SHA-256", "SHA-512-256")]
            connection.execute(
                "INSERT INTO subscriber (username, domain, password, ha1, ha1_sha256, ha1_sha512t256)"
                " VALUES (?, '127.0.0.1', 'open', ?, ?, ?)",
                (user, *digests),
            )
        connection.commit()
    port = free_port()
    script = "tcp_connect_timeout=10000\n" + shipped("opensips.cfg").replace("127.0.0.1:5060", f"127.0.0.1:{port}")
    start_server(script.replace('"port", 8888', f'"port", {free_port()}'))
    for user in users:
        calls = 2 if user == "bob" else 1
        phones.append(Baresip(tmp_path, user, "open", free_port(), f"127.0.0.1:{port}", transport, calls))
        phones[-1].start()
        phones[-1].expect("200 OK")
    bob, carol, alice, dave = phones
    alice.type("/dial sip:bob@127.0.0.1")
    alice.expect("Call established")
    bob.expect("Call established")

    alice.type("/hold")
    bob.expect("a=sendonly")
    alice.expect("a=recvonly")
    alice.type("/resume")
    until(lambda: bob.shown().rfind("a=sendrecv") > bob.shown().rfind("a=recvonly"), what="the call taken back")

    alice.type("/transfer sip:carol@127.0.0.1")
    bob.expect("REFER sip:bob")
    carol.expect("Call established")
    alice.expect("Subscription-State: terminated")
    alice.expect("BYE sip:")

    dave.type("/dial sip:carol@127.0.0.1")
    dave.expect("SIP/2.0 486 ")

    dave.type("/dial sip:alice@127.0.0.1")
    dave.expect("SIP/2.0 180 ")
    dave.type("/hangup")
    alice.expect("CANCEL sip:alice")
    dave.expect("SIP/2.0 487 ")
