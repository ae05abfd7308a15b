"""t_write_req and t_write_unix: what the other program reads, and how its answer reaches the caller."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from opensipspy import sip
from opensipspy.module import ParamError
from opensipspy.modules.tm.writes import parse_append, route_set
from opensipspy.script.core import build_catalogue
from opensipspy.script.run import Run
from tests.script.fakes import FakeServices

from .tm_bench import TmBench

SDP = "v=0\r\ns=-\r\n"
CATALOGUE = build_catalogue(FakeServices())


def bench(*appends: str, **params: Any) -> TmBench:
    made = TmBench(**params)
    own, made.core.catalogue = made.core.catalogue, CATALOGUE
    for text in appends:
        made.tm.set_tw_append(text)
    asyncio.run(made.tm.start())
    made.core.catalogue = own
    return made


def reader(folder: Path) -> tuple[socket.socket, str]:
    path = str(folder / "app.sock")
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(path)
    made.setblocking(False)
    return made, path


def held(made: TmBench, **given: Any) -> Run:
    run = made.run(**given)
    assert made.call("t_newtran", run) == 1
    made.take()
    return run


def test_the_other_program_reads_twenty_parts_and_answers(tmp_path: Path) -> None:
    """tm manual, t_write_unix: the request is written, and tm:reply with its transaction answers it."""
    made = bench("more: ua=$ua; user=$rU ;$rb")
    run = held(
        made,
        headers="Contact: <sip:alice@192.0.2.10:5070>\r\nUser-Agent: Phone\r\nContent-Type: application/sdp\r\n",
        body=SDP,
    )
    run.msg_flags = 0x12
    app, path = reader(tmp_path)
    with app:
        assert made.call("t_write_unix", run, "voicemail/MORE", path) == 1
        text = app.recv(65536).decode()
    lines = text.split("\n")
    assert lines[:7] == ["0.3", "sip_request.voicemail", "INVITE", "bob", "192.0.2.20", "127.0.0.1", "."]
    assert lines[7:9] == ["sip:bob@192.0.2.20", "sip:alice@192.0.2.10:5070"]
    assert lines[9:11] == ["<sip:alice@example.com>;tag=a1", "<sip:bob@example.org>"]
    assert lines[11:15] == ["call-1@example.com", "a1", "", "1"]
    assert lines[16:18] == [".", "."]
    assert lines[18:22] == ["P-MsgFlags: 21", "ua: Phone", "user: bob", "."]
    assert text.endswith(".\n" + SDP + "\n")
    made.end(run)
    answer = {"code": 486, "reason": "Full", "trans_id": lines[15], "to_tag": "vm"}
    assert asyncio.run(made.core.mi_call("tm:reply", answer)) == "OK"
    (busy,) = made.take()
    assert (busy.status, busy.reason, busy.to_tag) == (486, "Full", "vm")
    made.run_out()


def test_without_an_answer_the_call_ends(tmp_path: Path) -> None:
    """The caller does not wait for a program that never answers."""
    made = bench(fr_inv_timeout=5)
    run = held(made)
    app, path = reader(tmp_path)
    with app:
        assert made.call("t_write_unix", run, "voicemail", path) == 1
    made.end(run)
    made.core.advance(6)
    assert "408" in made.words()
    made.run_out()


def test_a_fifo_is_written_when_somebody_reads_it(tmp_path: Path) -> None:
    """tm manual, t_write_req; nobody waits for a reader."""
    made = bench()
    run = held(made)
    path = str(tmp_path / "app.fifo")
    os.mkfifo(path)
    assert made.call("t_write_req", run, "vm", path) == -1
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert made.call("t_write_req", run, "vm", path) == 1
        assert os.read(descriptor, 65536).startswith(b"0.3\nsip_request.vm\nINVITE\n")
    finally:
        os.close(descriptor)
    plain = tmp_path / "file"
    plain.write_bytes(b"")
    assert made.call("t_write_req", run, "vm", str(plain)) == -1
    assert plain.read_bytes() == b""


def test_a_full_queue_is_waited_for_a_bounded_time(tmp_path: Path) -> None:
    """tm manual, unix_tx_timeout."""
    made = bench(unix_tx_timeout=1)
    run = held(made)
    app, path = reader(tmp_path)
    filler = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    filler.setblocking(False)
    with app, filler:
        filled = 0
        while True:
            try:
                filler.sendto(b"x", path)
            except BlockingIOError:
                break
            filled += 1

        async def write_and_read() -> tuple[int, bytes]:
            waiting = made.tm.t_write_unix(run, "vm", path)
            assert not isinstance(waiting, int)
            task = asyncio.ensure_future(waiting)
            for _ in range(filled):
                app.recv(16)
            return await task, app.recv(65536)

        result, data = asyncio.run(write_and_read())
        assert result == 1
        assert data.startswith(b"0.3\n")


@pytest.mark.parametrize("info", ["", "/more", "vm/unknown", "x" * 200])
def test_bad_actions_write_nothing(tmp_path: Path, info: str) -> None:
    made = bench("more: ua=$ua")
    run = held(made)
    app, path = reader(tmp_path)
    with app:
        assert made.call("t_write_unix", run, info, path) == -1
        with pytest.raises(BlockingIOError):
            app.recv(16)


def test_nothing_is_written_for_a_request_without_transaction(tmp_path: Path) -> None:
    made = bench()
    app, path = reader(tmp_path)
    with app:
        assert made.call("t_write_unix", made.run(), "vm", path) == -1
        assert made.call("t_write_unix", held(made), "vm", str(tmp_path / "nobody")) == -1
        assert (
            made.call("t_write_unix", held(made, via="SIP/2.0/UDP 192.0.2.10;branch=z9hG4bK-2"), "vm", "x" * 200) == -1
        )


@pytest.mark.parametrize("text", ["", "a", ":$ua", "a: ", "a: $ua", "a: x=1", "a: x=$ua y=$ua", "a: x=$nothing"])
def test_a_wrong_append_stops_the_start(text: str) -> None:
    with pytest.raises(ParamError, match="tw_append"):
        bench(text)


def test_two_appends_of_one_name_stop_the_start() -> None:
    with pytest.raises(ParamError, match="twice"):
        bench("a: x=$ua", "A: y=$ua")


def test_an_append_may_end_with_the_body() -> None:
    name, append = parse_append("test: ua=$hdr(User-Agent) ;avp=$avp(avp);$rb;time=$Ts", CATALOGUE)
    assert name == "test"
    assert [title for title, _ in append.elements] == ["ua", "avp", "time"]
    assert append.body


def test_route_sets() -> None:
    """RFC 3261 §12.1.1 and §12.2.1.1: loose and strict first hops."""

    def message(*routes: str) -> sip.Message:
        lines = "".join(f"Record-Route: <{uri}>\r\n" for uri in routes)
        text = (
            "INVITE sip:b@example.org SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10;branch=z9hG4bK1\r\n"
            f"{lines}Contact: <sip:a@192.0.2.10>\r\nFrom: <sip:a@x>;tag=1\r\nTo: <sip:b@x>\r\nCall-ID: 1\r\n"
            "CSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
        )
        here = sip.Socket(sip.PROTO_UDP, "127.0.0.1", 5060)
        return sip.parse_message(text.encode(), sip.Peer(sip.PROTO_UDP, "192.0.2.10", 5060), here)

    assert route_set(message()) == ("sip:a@192.0.2.10", ".", ".")
    loose = message("sip:p2;lr", "sip:p1;lr")
    assert route_set(loose) == ("sip:a@192.0.2.10", "<sip:p2;lr>,<sip:p1;lr>", "sip:p2;lr")
    strict = message("sip:p2", "sip:p1;lr")
    assert route_set(strict) == ("sip:p2", "<sip:p1;lr>,<sip:a@192.0.2.10>", ".")
    with pytest.raises(ValueError, match="long"):
        route_set(message(*[f"sip:proxy{number}.example.org;lr" for number in range(40)]))
