"""Records over outages of FreeRADIUS and ends of the server: stopped in an orderly way, and killed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.backends import FreeradiusServer, free_port
from tests.scenarios.peer import Phone
from tests.scenarios.server import ServerProcess

pytestmark = pytest.mark.scenario

SCRIPT = """
log_level=3
stderror_enabled=yes
socket=udp:127.0.0.1:{port}
loadmodule "proto_udp.so"
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "aaa_radius.so"
loadmodule "acc.so"
modparam("acc", "aaa_url", "radius:{radius}")
modparam("acc", "aaa_queue_file", "records.journal")

route {{
    if (acc_aaa_request("200 OK"))
        sl_send_reply(200, "Accounted");
    else
        sl_send_reply(500, "Lost");
    exit;
}}
"""


@pytest.fixture
def radius() -> Iterator[FreeradiusServer]:
    if FreeradiusServer.programs() is None:
        pytest.skip("FreeRADIUS is missing: apt-get install freeradius")
    server = FreeradiusServer()
    server.prepare("")
    try:
        server.start()
        yield server
    finally:
        server.stop()


def eventually(true: Callable[[], bool], what: Callable[[], object]) -> None:
    end = time.monotonic() + 60.0
    while not true():
        assert time.monotonic() < end, what()
        time.sleep(0.02)


def test_no_record_is_lost_when_both_ends_are_ended(radius: FreeradiusServer, tmp_path: Path) -> None:
    """RFC 2866 §2: records are kept until a server acknowledged them; over SIGTERM and kill -9, from disk."""
    port = free_port()
    script, journal = tmp_path / "outage.cfg", tmp_path / "records.journal"
    script.write_text(SCRIPT.format(port=port, radius=radius.url.partition(":")[2]), encoding="utf-8")
    server = ServerProcess(script, tmp_path)
    phone = Phone("alice", ("127.0.0.1", port))
    sent: list[str] = []

    def send(count: int) -> None:
        for _ in range(count):
            call_id = f"outage-{len(sent)}"
            phone.send(phone.request("MESSAGE", f"sip:x@127.0.0.1:{port}", call_id=call_id))
            assert phone.expect(200)["Call-ID"] == call_id
            sent.append(call_id)

    def taken() -> Counter[str]:
        return Counter(record["Acct-Session-Id"] for record in radius.records())

    def up() -> None:
        (radius.folder / "log" / "stdout").unlink()
        radius.start()

    def complete() -> None:
        eventually(lambda: set(taken()) >= set(sent), lambda: set(sent) - set(taken()))

    server.start()
    try:
        # Killed under load, and the server stopped while it is away.
        send(100)
        radius.kill()
        under_way = set(sent) - set(taken())
        send(100)
        assert server.stop() == 0
        assert len(journal.read_bytes().splitlines()) >= 100
        server.start()
        up()
        complete()
        twice = {call_id for call_id, count in taken().items() if count > 1}
        assert twice <= under_way | set(sent[:100]), "only those whose answer was lost"
        eventually(lambda: journal.read_bytes() == b"", journal.read_bytes)

        # The server is killed: what had waited for longer than two seconds is on disk.
        before = taken()
        radius.kill()
        send(100)
        eventually(lambda: len(journal.read_bytes().splitlines()) >= 100, journal.read_bytes)
        server.kill()
        up()
        server.start()
        complete()
        after = taken() - before
        assert after == Counter(sent[200:]), "each once"
        delays = [int(record["Acct-Delay-Time"]) for record in radius.records()[-100:]]
        assert min(delays) > 0
        assert server.stop() == 0
        assert "records are in the log only" not in server.log_text()
    finally:
        server.stop()
        phone.close()
