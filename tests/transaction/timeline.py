"""A made-up clock, wire and transaction user for the machines: what goes in, and what must come out, line by line.

    play(client("INVITE"), [
        # now   in        out
        (0.0,   start,    ["INVITE"]),
        (0.5,   tick,     ["INVITE"]),
    ])

Out is a list of words: the method of a request that left, the status of a response that left, and what the layer above
was told ("deliver 180", "timeout", "failed", "no ack", "pass ack", "absorb ack", "gone").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from opensipspy import sip
from opensipspy.transaction import DELIVERED, Branch, Client, Hooks, Settings, Transaction, TransactionLayer

SOCKET = sip.Socket(sip.PROTO_UDP, "192.0.2.1", 5060)
UPSTREAM = sip.Peer(sip.PROTO_UDP, "192.0.2.10", 5060)
DOWNSTREAM = sip.Peer(sip.PROTO_UDP, "192.0.2.20", 5060)


def request_text(
    method: str = "INVITE",
    branch: str = "z9hG4bK-up",
    *,
    to: str = "<sip:bob@example.org>",
    ruri: str = "sip:bob@example.org",
    call_id: str = "c1@example.com",
    cseq: int = 1,
    via: str = "SIP/2.0/UDP 192.0.2.10:5060",
    headers: str = "",
) -> str:
    return (
        f"{method} {ruri} SIP/2.0\r\nVia: {via};branch={branch}\r\nFrom: <sip:alice@example.com>;tag=a1\r\n"
        f"To: {to}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} {method}\r\nMax-Forwards: 70\r\n{headers}"
        "Content-Length: 0\r\n\r\n"
    )


def request(method: str = "INVITE", branch: str = "z9hG4bK-up", **given: object) -> sip.Message:
    """A request as it came from upstream."""
    text = request_text(method, branch, **given)  # type: ignore[arg-type]
    return sip.parse_message(text.encode(), UPSTREAM, SOCKET)


class Bench(Hooks):
    """A transaction layer whose every act is a word in `out`."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.out: list[str] = []
        self.wire: list[bytes] = []
        self.layer = TransactionLayer(settings or Settings(), self, Random(7))
        self.sending = True
        self.transaction: Transaction | None = None
        self.branch: Branch | None = None

    # what the layer asks

    def send_request(self, client: Client, data: bytes) -> bool:
        if self.sending:
            self.out.append(data.split(b" ", 1)[0].decode())
            self.wire.append(data)
        return self.sending

    def send_reply(self, transaction: Transaction, data: bytes) -> bool:
        self.out.append(data.decode())
        return self.sending

    def timed_out(self, branch: Branch, now: float) -> None:
        self.out.append("timeout")

    def transport_failed(self, branch: Branch, now: float) -> None:
        self.out.append("failed")

    def not_acknowledged(self, transaction: Transaction) -> None:
        self.out.append("no ack")

    def repeated_2xx(self, branch: Branch, msg: sip.Message) -> None:
        self.out.append("repeated 2xx")

    def destroyed(self, transaction: Transaction) -> None:
        self.out.append("gone")

    # what a test does

    def add_branch(self, now: float, reliable: bool = False) -> Branch:
        """One more branch of the transaction, sent."""
        assert self.transaction is not None
        branch = self.layer.add_branch(self.transaction, "sip:bob@192.0.2.20")
        assert branch is not None
        self.send(branch, now, reliable)
        return branch

    def send(self, branch: Branch, now: float, reliable: bool = False) -> bool:
        via = SOCKET.via_prefix + self.layer.via_branch(branch)
        method = branch.transaction.method
        text = request_text(method, "", via="X").replace("Via: X;branch=", f"Via: {via}")
        return self.layer.start(branch, text.encode(), DOWNSTREAM, reliable, now)

    def reply_message(
        self, status: int, branch: Branch | None = None, method: str = "", to_tag: str = "b1", headers: str = ""
    ) -> sip.Message:
        """A response from downstream."""
        branch = branch or self.branch
        assert branch is not None
        via = SOCKET.via_prefix + self.layer.via_branch(branch)
        text = (
            f"SIP/2.0 {status} Whatever\r\nVia: {via}\r\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK-up\r\n"
            f"From: <sip:alice@example.com>;tag=a1\r\nTo: <sip:bob@example.org>;tag={to_tag}\r\n"
            f"Call-ID: c1@example.com\r\nCSeq: 1 {method or branch.transaction.method}\r\n{headers}"
            "Content-Length: 0\r\n\r\n"
        )
        return sip.parse_message(text.encode(), DOWNSTREAM, SOCKET)

    def receive(self, msg: sip.Message, now: float) -> Client | None:
        client = self.layer.match_reply(msg)
        if client is not None and self.layer.receive_reply(client, msg, now) == DELIVERED:
            self.out.append(f"deliver {msg.status}")
            client.transaction.busy += 1
            self.layer.unbusy(client.transaction, now)
        return client


Step = Callable[[Bench, float], object]


def start(bench: Bench, now: float) -> None:
    """Send the request for the first time."""
    assert bench.branch is not None
    bench.send(bench.branch, now, bench.branch.reliable)


def tick(bench: Bench, now: float) -> None:
    """Nothing but time."""
    bench.layer.wake(now)


def recv(status: int, method: str = "", to_tag: str = "b1") -> Step:
    """A response comes from downstream."""
    return lambda bench, now: bench.receive(bench.reply_message(status, method=method, to_tag=to_tag), now)


def cancel(bench: Bench, now: float) -> None:
    """The transaction user cancels the branch."""
    assert bench.branch is not None
    bench.layer.cancel(bench.branch, now)


def transport_error(bench: Bench, now: float) -> None:
    """The network reports that the request did not leave."""
    assert bench.branch is not None
    bench.layer.transport_error(bench.branch, now)


def again(bench: Bench, now: float) -> None:
    """The request comes again from upstream."""
    assert bench.transaction is not None
    bench.layer.retransmission(bench.transaction, now)


def ack(bench: Bench, now: float) -> None:
    """An ACK of this transaction comes from upstream."""
    assert bench.transaction is not None
    bench.out.append("absorb ack" if bench.layer.acknowledge(bench.transaction, now) else "pass ack")


def respond(status: int, local: bool = False) -> Step:
    """The transaction user sends a response; its "bytes" are the status."""

    def step(bench: Bench, now: float) -> None:
        assert bench.transaction is not None
        if not bench.layer.reply(bench.transaction, status, str(status).encode(), "t1", local, now):
            bench.out.append("refused")

    return step


def server(method: str = "INVITE", *, reliable: bool = False, settings: Settings | None = None) -> Bench:
    """A bench with one server transaction."""
    bench = Bench(settings)
    msg = request(method)
    bench.transaction = bench.layer.create(msg, bench.layer.key_of(msg), 0.0)
    bench.transaction.reliable = reliable
    return bench


def client(method: str = "INVITE", *, reliable: bool = False, settings: Settings | None = None) -> Bench:
    """A bench with one client transaction that is not sent yet; its server side is silent."""
    bench = Bench(settings)
    bench.transaction = bench.layer.create_local(method, "c1@example.com", 0.0)
    bench.branch = bench.layer.add_branch(bench.transaction, "sip:bob@192.0.2.20")
    assert bench.branch is not None
    bench.branch.reliable = reliable
    return bench


def play(bench: Bench, script: Sequence[tuple[float, Step, list[str]]]) -> Bench:
    """Carry out each line; time passes up to it first, and may bring nothing that the line does not name."""
    expected: list[tuple[float, list[str]]] = []
    seen: list[tuple[float, list[str]]] = []
    for now, step, out in script:
        bench.out.clear()
        at = bench.layer.next_wake()
        while at is not None and at < now - 1e-6:
            bench.layer.wake(at)
            assert not bench.out, f"at {at}, before {now}: {bench.out}"
            at = bench.layer.next_wake()
        step(bench, now)
        expected.append((now, out))
        seen.append((now, list(bench.out)))
    assert seen == expected
    return bench
