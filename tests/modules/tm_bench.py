"""`tm` on a made-up server: routes are Python functions, the wire is a list, peers answer by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from opensipspy import sip
from opensipspy.module.testing import FakeCore, make_run, request
from opensipspy.modules.tm import Tm
from opensipspy.script import kinds
from opensipspy.script.run import Branch, Run
from opensipspy.transaction import Transaction

Route = Callable[[Run], Any]

BOB = "sip:bob@192.0.2.20"
CAROL = "sip:carol@192.0.2.30"
DAVE = "sip:dave@192.0.2.40"


class FakeRoute:
    """What `Program.route` gives."""

    def __init__(self, kind: int, name: str, fn: Route) -> None:
        self.kind = kind
        self.name = name
        self.fn = fn


class FakeProgram:
    """Routes by kind and name."""

    def __init__(self) -> None:
        self.table: dict[tuple[int, str], FakeRoute] = {}

    def add(self, kind: int, name: str, fn: Route) -> None:
        self.table[kind, name] = FakeRoute(kind, name, fn)

    def route(self, kind: int, name: str) -> FakeRoute | None:
        return self.table.get((kind, name))


class TmBench:
    """A server with `tm`; `sent` is taken off by the tests that look at it."""

    def __init__(self, *, globals: Mapping[str, Any] | None = None, tcp: bool = False, **params: Any) -> None:
        sockets = [sip.Socket(sip.PROTO_UDP, "127.0.0.1", 5060)]
        if tcp:
            sockets.append(sip.Socket(sip.PROTO_TCP, "127.0.0.1", 5060, index=1))
        self.core = FakeCore(globals=globals, sockets=sockets)
        self.program = FakeProgram()
        self.core.program = self.program
        self.tm = self.core.add(Tm(**params))
        self.runs: dict[str, Run] = {}

    # routes

    def failure(self, name: str, fn: Route) -> None:
        self.program.add(kinds.FAILURE, name, fn)

    def onreply(self, name: str, fn: Route) -> None:
        self.program.add(kinds.ONREPLY, name, fn)

    def branch(self, name: str, fn: Route) -> None:
        self.program.add(kinds.BRANCH, name, fn)

    # messages

    def run(self, method: str = "INVITE", ruri: str = BOB, **given: Any) -> Run:
        """A request that just came in."""
        made = make_run(request(method, ruri, **given), core=self.core)
        made.program = self.program
        return made

    def call(self, function: str, run: Run, *args: Any) -> Any:
        """Call a function; the arguments of those of `tm` are prepared as for a script."""
        decl = self.core.catalogue.functions[function]
        if decl.module == "tm":
            args = tuple(
                param.fixup(arg) if param.fixup is not None and arg is not None else arg
                for param, arg in zip(decl.params, args, strict=False)
            )
        return self.core.call(function, run, *args)

    def end(self, run: Run) -> None:
        """The script has ended for a request."""
        for callback in self.core.after:
            callback(run)

    def invite(self, *more: str, arm: Mapping[str, str] | None = None, **given: Any) -> Run:
        """An INVITE that was relayed to bob, and in parallel to `more`."""
        run = self.run(**given)
        for function, route in (arm or {}).items():
            assert self.call(function, run, route) == 1
        run.branches = [Branch(uri) for uri in more]
        assert self.call("t_relay", run) == 1
        self.end(run)
        return run

    def take(self) -> list[sip.Message]:
        """What left since the last time, parsed."""
        found = [sip.parse_message(s.data, s.target.peer, s.target.socket) for s in self.core.sent]
        self.core.sent.clear()
        return found

    def words(self) -> list[str]:
        """What left since the last time: "180" for a reply, "INVITE 192.0.2.20" for a request."""
        return [f"{msg.method} {msg.source.address}" if msg.is_request else str(msg.status) for msg in self.take()]

    def answer(
        self,
        sent: sip.Message,
        status: int,
        reason: str = "",
        *,
        to_tag: str = "b1",
        headers: str = "",
        body: str = "",
    ) -> bool:
        """The peer answers a request that left; True when `tm` took the reply."""
        data = sip.build_reply(sent, status, reason, to_tag, headers, body.encode(), "application/sdp")
        peer = sip.Peer(sent.source.proto, sent.source.address, sent.source.port)
        msg = sip.parse_message(data, peer, sent.socket)
        run = Run(msg, kinds.ONREPLY, self.program)
        taken = self.core.reply_handlers[0](run)
        assert isinstance(taken, bool)
        return taken

    def cancel(self, **given: Any) -> Any:
        """The caller cancels; the script does what scripts do."""
        run = self.run("CANCEL", **given)
        if self.call("t_check_trans", run) == 1:
            result = self.call("t_relay", run)
            self.end(run)
            return result
        return -1

    def ack(self, to_tag: str, *, branch: str = "z9hG4bK-1", ruri: str = BOB) -> Run:
        """An ACK from the caller, not yet given to the script."""
        via = f"SIP/2.0/UDP 192.0.2.10:5060;branch={branch}"
        return self.run("ACK", ruri, via=via, to=f"<sip:bob@example.org>;tag={to_tag}")

    def transaction(self, run: Run) -> Transaction:
        found = run.transaction
        assert isinstance(found, Transaction)
        return found

    def stat(self, name: str) -> int:
        return next(getattr(self.tm, stat.attribute).read() for stat in self.tm.stats() if stat.name == name)

    def run_out(self) -> None:
        """Let all timers end; nothing may be left."""
        self.core.advance(400)
        assert len(self.tm.flow.layer) == 0
        assert self.tm.flow.layer.pending_timers == 0
