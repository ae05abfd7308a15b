"""Diameter over TLS: peers that show whose they are, and those that show something else (RFC 6733 §13.1)."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from opensipspy.module import ParamError
from opensipspy.module.testing import FakeCore
from opensipspy.modules.aaa_diameter import AaaDiameter
from opensipspy.modules.aaa_diameter.config import Config, parse_config
from opensipspy.modules.aaa_diameter.node import DEVICE_WATCHDOG
from opensipspy.modules.aaa_diameter.tls import Tls, names_identity
from tests.backends import free_port, program
from tests.certificates import Authority
from tests.diameter_peers import CLIENT, REALM, Other, success, until
from tests.modules.asynchronous import in_loop
from tests.modules.test_aaa_diameter import Client

SERVER = "hss.t.test"


def server_config(authority: Authority, name: str, port: int) -> Config:
    config = Config()
    identity = authority.issue(name)
    config.certificate, config.key = str(identity.cert), str(identity.key)
    config.authorities, config.secure_port = str(authority.path), port
    return config


def client_url(
    folder: Path, authority: Authority, port: int, name: str = CLIENT, plain: str = "", peer: str = SERVER
) -> str:
    identity = authority.issue(name)
    (folder / "fd.conf").write_text(
        f'Identity = "{CLIENT}";\nRealm = "{REALM}";\nTcTimer = 1;\nPort = 0;\nSecPort = 0;\n'
        f'TLS_Cred = "{identity.cert}", "{identity.key}";\nTLS_CA = "{authority.path}";\n'
        f'ConnectPeer = "{peer}" {{ ConnectTo = "127.0.0.1"; Port = {port}; {plain} }};\n',
        encoding="utf-8",
    )
    return f"diameter:{folder}/fd.conf"


async def serve(folder: Path, authority: Authority, name: str = SERVER) -> tuple[Other, int]:
    """A peer that listens for TLS, with a certificate for a name."""
    port = free_port()
    config = server_config(authority, name, port)
    other = Other(SERVER, success, config, Tls(config, folder))
    await other.node.start()
    return other, port


@in_loop
async def test_requests_and_watchdogs_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    other, port = await serve(tmp_path, authority)
    async with Client(client_url(tmp_path, authority, port)) as client:
        await client.open(SERVER)
        code, avps = await client.send()
        assert code == 1
        assert {"Result-Code": 2001} in avps
        link = client.node.links[SERVER]
        assert link.secure
        link._waiting = True
        link.send(client.node.base_request(DEVICE_WATCHDOG))
        await until(lambda: not link._waiting)
    await other.node.stop()


@contextmanager
def freediameter(folder: Path, authority: Authority, port: int) -> Iterator[None]:
    """A real peer, which takes connections of TLS only."""
    found = program("freeDiameterd")
    if found is None:
        pytest.skip("needs the Debian packages freediameterd and freediameter-extensions")
    identity = authority.issue("relay.t.test")
    extensions = "/usr/lib/freeDiameter"
    (folder / "acl.conf").write_text(f"{CLIENT}\n", encoding="utf-8")
    (folder / "relay.conf").write_text(
        f'Identity = "relay.t.test";\nRealm = "{REALM}";\nPort = {free_port()};\nSecPort = {port};\nNo_SCTP;\n'
        f'No_IPv6;\nListenOn = "127.0.0.1";\nTLS_Cred = "{identity.cert}", "{identity.key}";\n'
        f'TLS_CA = "{authority.path}";\nLoadExtension = "{extensions}/acl_wl.fdx" : "{folder}/acl.conf";\n'
        f'LoadExtension = "{extensions}/dict_nasreq.fdx";\n',
        encoding="utf-8",
    )
    with (folder / "relay.log").open("ab") as log:
        relay = subprocess.Popen([found, "-c", str(folder / "relay.conf")], stdout=log, stderr=log)
    try:
        yield
    finally:
        relay.kill()
        relay.wait()


@in_loop
async def test_freediameter_over_tls(tmp_path: Path) -> None:
    """The handshake, the capabilities exchange, and a watchdog that it answers."""
    authority, port = Authority(tmp_path), free_port()
    with freediameter(tmp_path, authority, port):
        async with Client(client_url(tmp_path, authority, port, peer="relay.t.test")) as client:
            await client.open("relay.t.test")
            link = client.node.links["relay.t.test"]
            assert link.secure
            link._waiting = True
            link.send(client.node.base_request(DEVICE_WATCHDOG))
            await until(lambda: not link._waiting)


@pytest.mark.parametrize("who", ["server", "client", "authority", "plain"])
@in_loop
async def test_a_peer_that_is_another_is_refused(who: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its certificate names another identity, is of another authority, or it comes without TLS where that is asked."""
    authority = Authority(tmp_path)
    (tmp_path / "strangers").mkdir()
    strangers = Authority(tmp_path / "strangers", "Strangers")
    other, port = await serve(tmp_path, authority, "else.t.test" if who == "server" else SERVER)
    if who == "client":
        url = client_url(tmp_path, authority, port, "else.t.test")
    elif who == "plain":
        other.node.config.peers = parse_config(
            f'Identity = "x.y"; TLS_Cred = "a", "b"; TLS_CA = "c"; ConnectPeer = "{CLIENT}" {{ Port = 1; }};'
        ).peers
        url = client_url(tmp_path, authority, other.port, plain="No_TLS;")
    else:
        url = client_url(tmp_path, strangers if who == "authority" else authority, port)
    async with Client(url) as client:
        await until(lambda: f"no connection to {SERVER}" in caplog.text)
        assert not client.node.links
        assert (await client.send())[0] == -1
    assert not other.node.links
    await other.node.stop()


def test_certificates_name_identities() -> None:
    """RFC 6125 §6.4: without regard to case; an asterisk for the first label; a common name if it is the only one."""
    names = {"subject": ((("commonName", "c.t.test"),),), "subjectAltName": (("DNS", "A.t.test"), ("DNS", "*.w.test"))}
    assert names_identity(names, "a.T.test")
    assert names_identity(names, "any.w.test")
    for wrong in ("c.t.test", "a.b.w.test", "w.test", "", "xa.t.test"):
        assert not names_identity(names, wrong)
    assert names_identity({"subject": ((("commonName", "c.t.test"),),)}, "c.t.test")
    assert not names_identity(None, "c.t.test")


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    url = client_url(tmp_path, authority, 1)
    path = Path(url.removeprefix("diameter:"))
    whole = path.read_text(encoding="utf-8")
    for old, new, words in (
        (str(authority.path), f"{tmp_path}/nowhere.pem", "TLS_CA"),
        (".key.pem", ".cert.pem", "TLS_Cred"),
    ):
        path.write_text(whole.replace(old, new), encoding="utf-8")
        core = FakeCore()
        core.script_folder = ""
        with pytest.raises(ParamError, match=words):
            asyncio.run(core.add(AaaDiameter(aaa_url=url)).start())
