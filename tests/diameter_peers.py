"""What the tests of Diameter share: files of the peer, real peers as child processes, and peers in this process."""

from __future__ import annotations

import asyncio
import logging
import random
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from opensipspy.modules.aaa_diameter.codec import Message
from opensipspy.modules.aaa_diameter.config import Config
from opensipspy.modules.aaa_diameter.dictionary import Dictionary
from opensipspy.modules.aaa_diameter.node import Held, Node, Owner
from opensipspy.modules.aaa_diameter.tls import Tls
from tests.backends import free_port, program

LOG = logging.getLogger("opensipspy.tests.diameter")
REALM = "t.test"
CLIENT = "sip.t.test"
CX = 16777216
HSS = Path(__file__).with_name("diameter_hss.py")

# The AVPs of 3GPP TS 29.229 as the module's manual wants them named.
CX_DICTIONARY = """
VENDOR 10415 TGPP
ATTRIBUTE Public-Identity                     601 string     10415
ATTRIBUTE Server-Name                         602 string     10415
ATTRIBUTE 3GPP-SIP-Number-Auth-Items          607 unsigned32 10415
ATTRIBUTE 3GPP-SIP-Authentication-Scheme      608 utf8string 10415
ATTRIBUTE 3GPP-SIP-Authenticate               609 hexstring  10415
ATTRIBUTE 3GPP-SIP-Authorization              610 hexstring  10415
ATTRIBUTE 3GPP-SIP-Item-Number                613 unsigned32 10415
ATTRIBUTE Confidentiality-Key                 625 hexstring  10415
ATTRIBUTE Integrity-Key                       626 hexstring  10415
ATTRIBUTE 3GPP-SIP-Auth-Data-Item             612 grouped    10415
{
	3GPP-SIP-Item-Number | OPTIONAL | 1
	3GPP-SIP-Authentication-Scheme | OPTIONAL | 1
	3GPP-SIP-Authenticate | OPTIONAL | 1
	3GPP-SIP-Authorization | OPTIONAL | 1
	Confidentiality-Key | OPTIONAL | 1
	Integrity-Key | OPTIONAL | 1
}
APPLICATION-AUTH 16777216/10415 3GPP Cx
REQUEST 303 Multimedia-Auth Request
{
	Session-Id | REQUIRED | 1
	User-Name | REQUIRED | 1
}
ANSWER 303 Multimedia-Auth Answer
{
	Session-Id | REQUIRED | 1
}
"""


def peer_text(name: str, port: int) -> str:
    return f'ConnectPeer = "{name}" {{ ConnectTo = "127.0.0.1"; Port = {port}; No_TLS; }};\n'


def write_files(folder: Path, peers: str, port: int = 0) -> str:
    """The configuration and the dictionary; returns the URL for `aaa_url`."""
    listen = f'Port = {port};\nListenOn = "127.0.0.1";\n' if port else "Port = 0;\n"
    text = f'Identity = "{CLIENT}";\nRealm = "{REALM}";\nTcTimer = 1;\n{listen}{peers}'
    (folder / "fd.conf").write_text(text, encoding="utf-8")
    (folder / "cx.dictionary").write_text(CX_DICTIONARY, encoding="utf-8")
    return f"diameter:{folder}/fd.conf;extra-avps-file:{folder}/cx.dictionary"


def start_hss(port: int, name: str = "hss.t.test", res: str = "aabbccdd", *more: str) -> subprocess.Popen[str]:
    """A home subscriber server of python-diameter; returns when it listens."""
    pytest.importorskip("diameter", reason="needs the Python package python-diameter")
    arguments = [sys.executable, str(HSS), str(port), name, CLIENT, res, *more]
    child = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert child.stdout is not None
    if child.stdout.readline() != "ready\n":
        end(child)
        raise AssertionError("the home subscriber server did not start")
    return child


def end(child: subprocess.Popen[Any]) -> None:
    child.kill()
    child.wait()
    if child.stdout is not None:
        child.stdout.close()


@contextmanager
def hss(port: int, name: str = "hss.t.test", res: str = "aabbccdd", *more: str) -> Iterator[subprocess.Popen[str]]:
    child = start_hss(port, name, res, *more)
    try:
        yield child
    finally:
        end(child)


class FreeDiameter:
    """freeDiameterd, which relays between peers of the realm."""

    def __init__(self, folder: Path) -> None:
        found = program("freeDiameterd")
        if found is None:
            pytest.skip("needs the Debian packages freediameterd and freediameter-extensions")
        self.port = free_port()
        self.folder = folder
        key, certificate = folder / "k.pem", folder / "c.pem"
        subject = "/CN=relay.t.test"
        subprocess.run(
            f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {key.name} "
            f"-out {certificate.name} -subj {subject} -days 2".split(),
            cwd=folder,
            check=True,
            capture_output=True,
        )
        (folder / "acl.conf").write_text(f"ALLOW_IPSEC {CLIENT}\nALLOW_IPSEC hss.t.test\n", encoding="utf-8")
        extensions = "/usr/lib/freeDiameter"
        (folder / "relay.conf").write_text(
            f'Identity = "relay.t.test";\nRealm = "{REALM}";\nPort = {self.port};\nSecPort = 0;\nNo_SCTP;\nNo_IPv6;\n'
            f'ListenOn = "127.0.0.1";\nTLS_Cred = "{certificate}", "{key}";\nTLS_CA = "{certificate}";\n'
            f'LoadExtension = "{extensions}/acl_wl.fdx" : "{folder}/acl.conf";\n'
            f'LoadExtension = "{extensions}/dict_nasreq.fdx";\n',
            encoding="utf-8",
        )
        with open(folder / "relay.log", "ab") as log:
            self.process = subprocess.Popen([found, "-c", str(folder / "relay.conf")], stdout=log, stderr=log)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


class Other(Owner):
    """A peer in this process. It answers requests with `answer`, or keeps them in `held`."""

    def __init__(
        self,
        name: str,
        answer: Callable[[Other, Held], Message | None] | None = None,
        config: Config | None = None,
        tls: Tls | None = None,
    ) -> None:
        config = config or Config()
        config.identity, config.realm, config.listen_on, config.port = name, REALM, ["127.0.0.1"], 0
        config.allowed = ["*"]
        self.dictionary = Dictionary()
        self.dictionary.load(CX_DICTIONARY)
        self.events: list[tuple[str, bool, str]] = []
        self.held: list[Held] = []
        self.came = asyncio.Event()
        self._answer = answer
        loop = asyncio.get_running_loop()
        self.node = Node(config, self.dictionary, self, random.Random(2), loop.time, LOG, tls=tls)

    @property
    def port(self) -> int:
        return self.node.port

    def request_came(self, held: Held) -> None:
        self.held.append(held)
        self.came.set()
        answer = self._answer(self, held) if self._answer is not None else None
        if answer is not None:
            self.node.answer(held, answer)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work, name=name)

    def peer_changed(self, identity: str, is_open: bool, why: str) -> None:
        self.events.append((identity, is_open, why))


def success(other: Other, held: Held) -> Message:
    return other.node.base_answer(held.message, 2001)


async def until(ready: Callable[[], object], limit_s: float = 10.0) -> None:
    """Wait for something that other tasks bring about."""
    async with asyncio.timeout(limit_s):
        while not ready():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
