"""Requests that the server makes itself: by management command over the pipe, and by t_new_request(), seen and changed
by local_route of a real script."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.scenarios.server import ServerProcess

SCRIPT = """
log_level=3
socket=udp:127.0.0.1:{port}
loadmodule "proto_udp.so"
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "sipmsgops.so"
loadmodule "mi_fifo.so"
modparam("mi_fifo", "fifo_name", "{folder}/fifo")
modparam("mi_fifo", "reply_dir", "{folder}")
route {{
	t_new_request("MESSAGE", "sip:there@127.0.0.1:{peer}", "Server sip:me@example.com", "sip:there@example.com",
		"text/plain the body", "from the script");
	sl_send_reply(200, "OK");
}}
local_route {{
	append_hf("X-Context: $avp(uac_ctx)\\r\\n");
	if ($rm == "INFO") $ru = "sip:elsewhere@127.0.0.1:{peer}";
}}
"""


class Site:
    """The server and one peer."""

    def __init__(self, folder: Path, port: int, peer: socket.socket) -> None:
        self.folder = folder
        self.port = port
        self.peer = peer

    @property
    def peer_port(self) -> int:
        return int(self.peer.getsockname()[1])

    def command(self, *words: str) -> subprocess.Popen[str]:
        program = [sys.executable, "-m", "opensipspy", "mi", "--fifo", f"{self.folder}/fifo"]
        program += ["--reply-dir", str(self.folder), *words]
        return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def received(self) -> str:
        return self.peer.recv(65535).decode()

    def answer(self, text: str, status: str) -> None:
        lines = [
            line + (";tag=peer" if line.startswith("To:") else "")
            for line in text.split("\r\n")
            if line.split(":")[0] in ("Via", "From", "To", "Call-ID", "CSeq")
        ]
        data = "\r\n".join([f"SIP/2.0 {status}", *lines, "Content-Length: 0", "", ""])
        self.peer.sendto(data.encode(), ("127.0.0.1", self.port))


@pytest.fixture
def site(start_server: Callable[..., ServerProcess], free_port: Callable[[], int], tmp_path: Path) -> Iterator[Site]:
    with socket.socket(type=socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(30)
        port = free_port()
        start_server(SCRIPT.format(port=port, folder=tmp_path, peer=peer.getsockname()[1]))
        yield Site(tmp_path, port, peer)


def test_uac_dlg_gives_the_final_reply_over_the_pipe(site: Site) -> None:
    """tm manual, tm:uac_dlg: a status line and the message."""
    asked = site.command(
        "tm:uac_dlg",
        "method=OPTIONS",
        f"ruri=sip:there@127.0.0.1:{site.peer_port}",
        "headers=From: sip:me@example.com\\r\\nTo: sip:there@example.com\\r\\nContact: sip:me@example.com\\r\\n",
    )
    options = site.received()
    assert options.startswith(f"OPTIONS sip:there@127.0.0.1:{site.peer_port} SIP/2.0\r\n")
    assert "Contact: sip:me@example.com\r\n" in options
    assert "\r\nUser-Agent: " in options
    site.answer(options, "100 Trying")
    site.answer(options, "404 Nobody here")
    output, errors = asked.communicate(timeout=60)
    assert asked.returncode == 0, errors
    answer = json.loads(output)
    assert answer["Status"] == "404 Nobody here"
    assert answer["Message"].startswith("Via: ")


def test_local_route_can_send_it_elsewhere(site: Site) -> None:
    asked = site.command(
        "tm:uac_dlg",
        "method=INFO",
        f"ruri=sip:there@127.0.0.1:{site.peer_port}",
        "headers=From: sip:me@example.com\\r\\nTo: sip:there@example.com\\r\\n",
    )
    info = site.received()
    assert info.startswith(f"INFO sip:elsewhere@127.0.0.1:{site.peer_port} SIP/2.0\r\n")
    assert info.count("\r\nVia: ") == 1
    site.answer(info, "200 OK")
    output, _ = asked.communicate(timeout=60)
    assert json.loads(output)["Status"] == "200 OK"


def test_t_new_request_sends_what_the_script_says(site: Site) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as caller:
        caller.bind(("127.0.0.1", 0))
        caller.settimeout(30)
        port = caller.getsockname()[1]
        text = (
            f"OPTIONS sip:x@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{port};branch=z9hG4bKa\r\n"
            "Max-Forwards: 70\r\nFrom: <sip:a@example.com>;tag=a\r\nTo: <sip:x@example.com>\r\n"
            "Call-ID: one\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
        )
        caller.sendto(text.encode(), ("127.0.0.1", site.port))
        assert caller.recv(65535).startswith(b"SIP/2.0 200")
    message = site.received()
    head, _, body = message.partition("\r\n\r\n")
    assert head.startswith(f"MESSAGE sip:there@127.0.0.1:{site.peer_port} SIP/2.0\r\n")
    assert '\r\nFrom: "Server" <sip:me@example.com>;tag=' in head
    assert "\r\nContent-Type: text/plain\r\n" in head
    assert "\r\nX-Context: from the script" in head
    assert f"\r\nContent-Length: {len(body)}" in head
    assert body == "the body"
    site.answer(message, "200 OK")
