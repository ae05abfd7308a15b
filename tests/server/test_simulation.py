"""A script in memory: what is sent, when, and which lines ran, without sockets and without waiting."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from opensipspy.server.errors import LoadError
from opensipspy.server.simulation import Simulation, wire
from tests.scenarios.server import shipped

REGISTER = """
    REGISTER sip:127.0.0.1 SIP/2.0
    Via: SIP/2.0/UDP 192.0.2.9:5062;branch=z9hG4bKr1
    From: <sip:bob@127.0.0.1>;tag=1
    To: <sip:bob@127.0.0.1>
    Call-ID: r1
    CSeq: 1 REGISTER
    Contact: <sip:bob@192.0.2.9:5062>
    Max-Forwards: 70
    Expires: 600
"""
INVITE = """
    INVITE sip:bob@127.0.0.1 SIP/2.0
    Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKi1
    From: <sip:alice@127.0.0.1>;tag=1
    To: <sip:bob@127.0.0.1>
    Call-ID: i1
    CSeq: 1 INVITE
    Contact: <sip:alice@192.0.2.1:5060>
    Max-Forwards: 70
"""


@pytest.fixture
def residential(tmp_path: Path) -> Path:
    path = tmp_path / "opensips.cfg"
    path.write_text(shipped("residential.cfg"), encoding="utf-8")
    return path


def test_timers_run_on_the_simulated_clock(residential: Path) -> None:
    """RFC 3261 §17.1.1.2: 0.5, 1, 2 s between copies, and 408 after the script's fr_timeout of 5 s."""
    with Simulation(str(residential)) as site:
        [registered] = site.receive(REGISTER, "udp:192.0.2.9:5062")
        assert registered.first_line == "SIP/2.0 200 OK"
        trying, invite = site.receive(INVITE)
        assert trying.first_line.startswith("SIP/2.0 100")
        assert (invite.peer.address, invite.peer.port) == ("192.0.2.9", 5062)
        later = site.advance(5.2)
        assert [round(sent.at_s, 1) for sent in later] == [0.5, 1.5, 3.5, 5.0]
        assert [sent.first_line.split()[0] for sent in later] == ["INVITE"] * 3 + ["SIP/2.0"]
        assert later[-1].message.status == 408
        assert any("ACC: call missed" in line for line in site.log)


def test_a_contact_expires_without_waiting(residential: Path) -> None:
    with Simulation(str(residential)) as site:
        site.receive(REGISTER, "udp:192.0.2.9:5062")
        assert site.command("usrloc:show_contact", {"table_name": "location", "aor": "bob@127.0.0.1"})
        site.advance(700)
        assert site.receive(INVITE)[-1].message.status == 404


def test_a_peer_answers_and_the_reply_goes_back(residential: Path) -> None:
    """RFC 3261 §16.7: one Via less, to where the request came from."""
    with Simulation(str(residential)) as site:
        site.receive(REGISTER, "udp:192.0.2.9:5062")
        _, invite = site.receive(INVITE)
        vias = "\n".join(f"Via: {value.value}" for value in invite.message.named("Via"))
        answer = f"""SIP/2.0 180 Ringing
            {vias}
            From: <sip:alice@127.0.0.1>;tag=1
            To: <sip:bob@127.0.0.1>;tag=2
            Call-ID: i1
            CSeq: 1 INVITE
        """
        [ringing] = site.receive(answer, "udp:192.0.2.9:5062")
        assert ringing.message.status == 180
        assert len(ringing.message.vias) == 1
        assert ringing.peer.address == "192.0.2.1"
        # A provisional stops timer A (§17.1.1.2).
        assert site.advance(4) == []


def test_the_path_of_a_message_is_told_in_lines_of_the_script(residential: Path) -> None:
    with Simulation(str(residential)) as site:
        site.receive(REGISTER, "udp:192.0.2.9:5062")
        lines = residential.read_text(encoding="utf-8").split("\n")
        ran = [lines[step.line - 1].strip() for step in site.steps]
        assert ran[0] == "if (!mf_process_maxfwd_header(10)) {"
        assert 'if (!save("location"))' in ran
        assert 'send_reply(483,"Too Many Hops");' not in ran
        assert {step.route for step in site.steps} == {"route"}


def test_functions_names_and_destinations_can_be_made_up(tmp_path: Path) -> None:
    script = """
        socket=udp:127.0.0.1:5060
        loadmodule "proto_udp.so"
        loadmodule "sl.so"
        loadmodule "tm.so"
        loadmodule "sipmsgops.so"
        route {
            if (!is_method("INVITE")) { sl_send_reply(405, "No"); exit; }
            $ru = "sip:far.example";
            if (!t_relay()) sl_send_reply(500, "Lost");
        }
    """
    with Simulation(str(tmp_path / "made-up.cfg"), text=script) as site:
        site.service("_sip._udp.far.example", (1, 1, 5070, "one.far.example"))
        site.resolve("one.far.example", "198.51.100.1")
        sent = site.receive(INVITE)
        assert [(m.peer.address, m.peer.port) for m in sent if m.first_line.startswith("INVITE")] == [
            ("198.51.100.1", 5070)
        ]
    with Simulation(str(tmp_path / "made-up.cfg"), text=script, functions={"is_method": lambda run, *args: -1}) as site:
        [reply] = site.receive(INVITE)
        assert reply.message.status == 405


def test_a_wrong_script_does_not_begin(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="no_such_function"):
        Simulation(str(tmp_path / "x.cfg"), text="socket=udp:127.0.0.1:5060\nroute { no_such_function(); }\n")


def test_messages_of_a_test_become_wire_format() -> None:
    assert wire("A b SIP/2.0\n  X: 1\n\nbody\nmore") == b"A b SIP/2.0\r\nX: 1\r\n\r\nbody\r\nmore"


def test_simulate_prints_path_log_and_messages(residential: Path, tmp_path: Path) -> None:
    message = tmp_path / "register.sip"
    message.write_bytes(wire(REGISTER))
    command = [sys.executable, "-m", "opensipspy", "simulate", "-f", str(residential), "--source", "udp:192.0.2.9:5062"]
    done = subprocess.run(
        [*command, str(message)], capture_output=True, text=True, cwd=tmp_path, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    assert 'if (!save("location"))' in done.stdout
    assert "udp:127.0.0.1:5060 -> udp:192.0.2.9:5062  SIP/2.0 200 OK" in done.stdout


PLUGIN_TEST = '''
def test_strangers_are_refused(opensips):
    site = opensips("opensips.cfg")
    [reply] = site.receive("""
        INVITE sip:x@elsewhere.example SIP/2.0
        Via: SIP/2.0/UDP 203.0.113.7:5060;branch=z9hG4bK1
        From: <sip:m@foreign.example>;tag=1
        To: <sip:x@elsewhere.example>
        Call-ID: 1
        CSeq: 1 INVITE
        Max-Forwards: 70
    """, "udp:203.0.113.7:5060")
    assert reply.first_line == "SIP/2.0 403 Relay Forbidden"
'''


def test_the_pytest_plugin_runs_scripts_and_reports_their_coverage(
    residential: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "test_script.py").write_text(PLUGIN_TEST, encoding="utf-8")
    plugin = ["-p", "opensipspy.pytest_plugin", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-q", *plugin, "--cfg-coverage", "test_script.py"]
    root = str(Path(__file__).resolve().parents[2])
    monkeypatch.setenv("PYTHONPATH", root)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [told] = [line for line in done.stdout.splitlines() if "lines that never ran" in line]
    missed = {number for part in told.rpartition(": ")[2].split(", ") for number in expand(part)}
    lines = (tmp_path / "opensips.cfg").read_text(encoding="utf-8").split("\n")
    refusal = next(n for n, line in enumerate(lines, 1) if "Relay Forbidden" in line)
    assert refusal not in missed
    assert refusal + 2 not in missed
    assert next(n for n, line in enumerate(lines, 1) if "Address Incomplete" in line) in missed


def expand(part: str) -> range:
    """ "7-9" as numbers."""
    first, _, last = part.partition("-")
    return range(int(first), int(last or first) + 1)


def test_the_socket_to_send_from_is_named_in_the_script(tmp_path: Path) -> None:
    """force_send_socket() with a constant: which socket that is shows once the sockets are open."""
    path = tmp_path / "sockets.cfg"
    path.write_text(
        """
socket=udp:127.0.0.1:5060
socket=udp:127.0.0.1:5070 tag "outside"
loadmodule "proto_udp.so"
loadmodule "sl.so"
route {
    if ($rU == "nobody")
        force_send_socket("udp:127.0.0.1:5090");
    else if ($rU == "bob")
        force_send_socket("udp:127.0.0.1:5070");
    xlog("from $socket_out\\n");
    sl_send_reply(200, "OK");
}
""",
        encoding="utf-8",
    )
    with Simulation(str(path)) as site:
        site.receive(INVITE)
        assert any("from udp:127.0.0.1:5070" in line for line in site.log)
        site.receive(INVITE.replace("bob@", "nobody@"))
        assert any("no listening socket matches 'udp:127.0.0.1:5090'" in line for line in site.log)


def test_a_node_of_a_cluster_runs_alone(tmp_path: Path) -> None:
    path = tmp_path / "opensips.cfg"
    path.write_text(
        """
        socket=udp:127.0.0.1:5060 anycast
        socket=bin:127.0.0.1
        loadmodule "proto_udp.so"
        loadmodule "proto_bin.so"
        loadmodule "sl.so"
        loadmodule "tm.so"
        modparam("tm", "tm_replication_cluster", 1)
        loadmodule "clusterer.so"
        modparam("clusterer", "db_mode", 0)
        modparam("clusterer", "my_node_id", 1)
        modparam("clusterer", "my_node_info", "cluster_id=1,url=bin:127.0.0.1")
        modparam("clusterer", "neighbor_node_info", "cluster_id=1,node_id=2,url=bin:127.0.0.2")
        modparam("clusterer", "sharing_tag", "vip/1=active")
        route {
            cluster_send_req(1, 2, "is anybody there?");
            xlog("sent $rc, the tag is $cluster.sh_tag(vip/1), anycast $socket_in(anycast)\n");
            sl_send_reply(200, "OK");
        }
        """,
        encoding="utf-8",
    )
    with Simulation(str(path)) as site:
        [answer] = site.receive(REGISTER, "udp:192.0.2.9:5062")
        assert answer.first_line == "SIP/2.0 200 OK"
        assert any("sent -2, the tag is active, anycast 1" in line for line in site.log), site.log
