"""Calls of every outcome at once, over wires that lose datagrams: `python -m bench.mixed --calls 2000 --rate 100`.

SIPp calls phones that answer, are busy, ring until the caller gives up, or say nothing; 2 % of what passes between
phones and server is lost. Ends with status 1 when a call had another outcome than it should, when the server's
statistics differ from what SIPp counted, when a transaction is left after its time, or when memory grows by more than
`--growth` after the first quarter and the time that ended transactions are kept for. `--calls 200000 --rate 400` takes
nine minutes.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.load import SHARED, free_port, sipp
from bench.loss import LossyRelay
from bench.servers import ROOT, Server

# Shares of all calls, in tenths.
SHARES = {"answer": 6, "busy": 2, "cancel": 1, "silent": 1}
# Every timer of a transaction has run by then (64*T1 and more).
SETTLE_S = 45
HEADER = '<?xml version="1.0" encoding="UTF-8"?>\n<scenario name="mixed">\n'
INVITE = """  <send retrans="500"><![CDATA[
    INVITE sip:[callee]@[remote_ip]:[remote_port] SIP/2.0
    Via: SIP/2.0/[transport] [local_ip]:[local_port];rport;branch=z9hG4bK-[pid]-[call_number]
    Max-Forwards: 70
    From: <sip:caller[call_number]@[remote_ip]>;tag=[pid]c[call_number]
    To: <sip:[callee]@[remote_ip]>
    Call-ID: [call_id]
    CSeq: 1 INVITE
    Contact: <sip:caller@[local_ip]:[local_port]>
    Content-Length: 0

  ]]></send>
  <recv response="100" optional="true"/>
"""
FAILS = """  <recv response="180" optional="true"/>
  <recv response="@STATUS@"/>
"""
GIVES_UP = """  <recv response="180"/>
  <send retrans="500"><![CDATA[
    CANCEL sip:[callee]@[remote_ip]:[remote_port] SIP/2.0
    Via: SIP/2.0/[transport] [local_ip]:[local_port];rport;branch=z9hG4bK-[pid]-[call_number]
    Max-Forwards: 70
    From: <sip:caller[call_number]@[remote_ip]>;tag=[pid]c[call_number]
    To: <sip:[callee]@[remote_ip]>
    Call-ID: [call_id]
    CSeq: 1 CANCEL
    Content-Length: 0

  ]]></send>
  <recv response="200" optional="true"/>
  <recv response="487"/>
"""
ACK = """  <send><![CDATA[
    ACK sip:[callee]@[remote_ip]:[remote_port] SIP/2.0
    Via: SIP/2.0/[transport] [local_ip]:[local_port];rport;branch=z9hG4bK-[pid]-[call_number]
    Max-Forwards: 70
    From: <sip:caller[call_number]@[remote_ip]>;tag=[pid]c[call_number]
    [last_To:]
    Call-ID: [call_id]
    CSeq: 1 ACK
    Content-Length: 0

  ]]></send>
  <timewait milliseconds="4000"/>
</scenario>
"""
REPLY = """  <send@RETRANS@><![CDATA[
    SIP/2.0 @STATUS@
    [last_Via:]
    [last_Record-Route:]
    [last_From:]
    [last_To:]@TAG@
    [last_Call-ID:]
    CSeq: 1 @METHOD@
    Content-Length: 0

  ]]></send>
"""


def reply(status: str, method: str = "INVITE", *, final: bool = False) -> str:
    text = REPLY.replace("@STATUS@", status).replace("@METHOD@", method)
    text = text.replace("@TAG@", ";tag=[pid]a[call_number]" if method == "INVITE" else "")
    return text.replace("@RETRANS@", ' retrans="500"' if final else "")


def scenarios(folder: Path) -> dict[str, tuple[Path, Path | None]]:
    """The caller's and the callee's part of each outcome."""
    wait = '  <timewait milliseconds="4000"/>\n</scenario>\n'
    ringing = HEADER + '  <recv request="INVITE" rrs="true"/>\n' + reply("180 Ringing")
    # SIPp copies what the last message had: a CANCEL has the Via, From and Call-ID of its INVITE.
    cancelled = '  <recv request="CANCEL"/>\n' + reply("200 OK", "CANCEL") + reply("487 Request Terminated", final=True)
    texts = {
        "busy": HEADER + INVITE + FAILS.replace("@STATUS@", "486") + ACK,
        "cancel": HEADER + INVITE + GIVES_UP + ACK,
        "silent": HEADER + INVITE + FAILS.replace("@STATUS@", "408") + ACK,
        "is_busy": ringing + reply("486 Busy Here", final=True) + '  <recv request="ACK"/>\n' + wait,
        "is_cancelled": ringing + cancelled + '  <recv request="ACK"/>\n' + wait,
    }
    paths = {}
    for name, text in texts.items():
        paths[name] = folder / f"{name}.xml"
        paths[name].write_text(text, encoding="ascii")
    # A phone that hangs up stays a while, for what is repeated because it was lost.
    called = (SHARED / "answer.xml").read_text(encoding="ascii").replace('milliseconds="200"', 'milliseconds="4000"')
    # Its caller hangs up whether or not the ACK was lost, and a 200 that is repeated for want of it must not be taken
    # for the BYE's: SIPp does not tell them apart, so the call is held for longer than the first repetition takes.
    called = called.replace('<recv request="ACK"/>', '<recv request="ACK" optional="true"/>')
    calling = (SHARED / "call.xml").read_text(encoding="ascii").replace(";branch=", ";rport;branch=")
    calling = calling.replace("</scenario>", wait)
    (folder / "answer.xml").write_text(called, encoding="ascii")
    (folder / "call.xml").write_text(calling, encoding="ascii")
    return {
        "answer": (folder / "call.xml", folder / "answer.xml"),
        "busy": (paths["busy"], paths["is_busy"]),
        "cancel": (paths["cancel"], paths["is_cancelled"]),
        "silent": (paths["silent"], None),
    }


def statistics(python: str, folder: Path) -> dict[str, int]:
    """The server's own figures of `tm`."""
    command = [python, "-m", "opensipspy", "mi", "--fifo", f"{folder}/fifo", "--reply-dir", str(folder)]
    done = subprocess.run([*command, "get_statistics", "tm:"], cwd=ROOT, capture_output=True, text=True, timeout=30)
    found: dict[str, int] = json.loads(done.stdout)
    return {name.removeprefix("tm:"): int(value) for name, value in found.items()}


def expected(calls: dict[str, int]) -> dict[str, int]:
    """What the server has to have counted: an answered call is an INVITE and a BYE, a cancelled one has a CANCEL."""
    answered, cancelled = calls["answer"], calls["cancel"]
    failed = calls["busy"] + cancelled + calls["silent"]
    return {
        "UAS_transactions": 2 * answered + failed + cancelled,
        "2xx_transactions": 2 * answered + cancelled,
        "4xx_transactions": failed,
        "5xx_transactions": 0,
        "inuse_transactions": 0,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.mixed", description=__doc__)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--rate", type=int, default=100)
    parser.add_argument("--loss", type=float, default=0.02)
    parser.add_argument("--growth", type=float, default=0.1)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--compiled", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        return run(arguments, Path(name))


def run(arguments: argparse.Namespace, folder: Path) -> int:
    parts = scenarios(folder)
    port, phones = free_port(), {name: free_port() for name in SHARES}
    relays = {name: LossyRelay(phone, arguments.loss, seed) for seed, (name, phone) in enumerate(phones.items())}
    front = LossyRelay(port, arguments.loss, 99)
    values = {name.upper(): str(relay.port) for name, relay in relays.items()}
    values |= {"PORT": str(port), "FOLDER": str(folder)}
    python = arguments.python
    server = Server("compiled" if arguments.compiled else "plain", "mixed", values, python=python)
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    silent.bind(("127.0.0.1", phones["silent"]))
    processes: list[subprocess.Popen[bytes]] = []
    callers: dict[str, subprocess.Popen[bytes]] = {}
    samples: list[int] = []
    calls = {name: arguments.calls * share // 10 for name, share in SHARES.items()}
    try:
        for relay in (front, *relays.values()):
            relay.start()
        before = statistics(python, folder)
        patient = ("-default_behaviors", "all,-abortunexp,-bye", "-recv_timeout", "40000")
        target = f"127.0.0.1:{front.port}"
        for name, (_, callee) in parts.items():
            if callee is not None:
                processes.append(sipp(folder, callee, target, phones[name], *patient))
        used = server.cpu_s()
        for name, (caller, _) in parts.items():
            rate = max(1, arguments.rate * SHARES[name] // 10)
            options = ["-m", str(calls[name]), "-r", str(rate), "-d", "2000", "-key", "callee", name]
            callers[name] = sipp(folder, caller, target, free_port(), *options, *patient)
        limit = time.monotonic() + arguments.calls / arguments.rate * 1.5 + 90
        while any(process.poll() is None for process in callers.values()) and time.monotonic() < limit:
            time.sleep(1)
            samples.append(server.rss_bytes())
        used = server.cpu_s() - used
        time.sleep(SETTLE_S)
        after = statistics(python, folder)
    finally:
        for process in (*processes, *callers.values()):
            if process.poll() is None:
                process.kill()
                process.wait()
        server.stop()
        silent.close()
        for relay in (front, *relays.values()):
            relay.stop()
    good = True
    for name, caller in callers.items():
        good &= caller.returncode == 0
        print(f"{name:8} {calls[name]:7d} calls, SIPp's status {caller.returncode}")
    for name, wanted in expected(calls).items():
        counted = after[name] - (0 if name == "inuse_transactions" else before[name])
        good &= counted == wanted
        print(f"{name:20} {counted:8d} counted, {wanted:8d} expected")
    lost, carried = (sum(getattr(relay, what) for relay in (front, *relays.values())) for what in ("lost", "carried"))
    # Until the first transactions are over the server holds more of them each second.
    growth = samples[-1] / samples[min(max(len(samples) // 4, SETTLE_S), len(samples) - 1)] - 1
    print(f"{lost} of {lost + carried} datagrams lost, {used / arguments.calls * 1e6:.0f} us CPU a call")
    print(f"sent again: {after['retransmission_req_T1_1']} requests, {after['retransmission_rpl_T2']} replies")
    print(f"memory {samples[-1] >> 10} KiB at the end, {growth:+.1%} since the first quarter")
    return 0 if good and growth <= arguments.growth else 1


if __name__ == "__main__":
    sys.exit(main())
