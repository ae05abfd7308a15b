"""The steps of a message through the server.

A request: parse, checks, gate (is an earlier copy still in its script?), before-script call-backs, main route,
after-script call-backs. A reply: parse, checks, global onreply_route, the reply handlers of modules (transactions),
forward by Via. A step that cannot go on at once leaves; what it waited for calls the next step. The
default action of a request is nothing: a script that neither answers nor relays has dropped it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from opensipspy import sip
from opensipspy.module import LocateError, Target
from opensipspy.net.tcp import TcpTransport
from opensipspy.script import kinds
from opensipspy.script.run import Run
from opensipspy.server.core import ServerCore
from opensipspy.server.trouble import describe_failure
from opensipspy.sip import Message, ParseError, Peer, Socket

LOG: Final = logging.getLogger("opensipspy.core")

# Shorter packets are keep-alives (RFC 5626 §3.5.1, or NUL bytes of older devices), never SIP.
SHORTEST_MESSAGE: Final = 20
# Requests that may wait for one earlier request's script.
MOST_HELD: Final = 8
# $err.class of a message that cannot be parsed, and $err.level: what the C server's script writers test for.
ERROR_CLASS_PARSE: Final = 2
ERROR_LEVEL: Final = 1

# What stands for the future that a script waits for when it waits for none.
_ENDED: Final = object()

GateKey = tuple[str, int, str]


class Gate:
    """A request whose script is suspended, and the requests that must not overtake it."""

    __slots__ = ("held", "method", "run")

    def __init__(self, run: Run) -> None:
        self.run: Run = run
        self.method: str = run.msg.method
        self.held: list[Message] = []


class SuspendedRequest:
    """A request whose script waits. No closures: compiled ones refer to each other, and every run of a script would
    be left to the collector of cycles."""

    __slots__ = ("_steps", "gate", "key", "run")

    def __init__(self, steps: Steps, run: Run) -> None:
        self._steps: Steps = steps
        self.run: Run = run
        self.key: GateKey = gate_key(run.msg)
        self.gate: Gate = Gate(run)

    def done(self, result: Any) -> None:
        """The script ended."""
        self._steps._resumed(self)

    def failed(self, error: BaseException) -> None:
        """The script failed."""
        self._steps._script_failed(self, error)


class Steps:
    """Takes packets from the network and carries each through its steps."""

    def __init__(self, core: ServerCore) -> None:
        self._core = core
        # What every message asks of the core, without the way there.
        self._before: list[Callable[[Run], bool | None]] = core.before
        self._after: list[Callable[[Run], None]] = core.after
        self._rcv_requests = core.counters.rcv_requests
        self._rcv_replies = core.counters.rcv_replies
        self._gates: dict[GateKey, Gate] = {}
        self.check_via = False
        self.accept_aliases = False
        # Whether paths of connections have their own word on aliases.
        self.alias_profiles = False
        self.forward_strays = True
        self.limits: sip.Limits = sip.DEFAULT_LIMITS
        self._memo = sip.Memo()
        self.slow_after_s = 0.0
        # While the server stops: what would begin something new is left to whoever takes over.
        self.draining = False

    @property
    def gates(self) -> int:
        """Requests whose script is suspended."""
        return len(self._gates)

    # -- step 1: bytes to a message

    def receive(self, data: bytes, source: Peer, socket: Socket) -> None:
        """One message from the network. Never raises."""
        if len(data) < SHORTEST_MESSAGE and not data.strip(b"\r\n\0 \t"):
            return
        started = self._core.now() if self.slow_after_s else 0.0
        try:
            try:
                msg = sip.parse_message(data, source, socket, self.limits, self._memo)
                if msg.is_request:
                    sip.validate_request(msg)
                else:
                    sip.validate_reply(msg)
            except ParseError as error:
                self._unreadable(error, data, source, socket)
                return
            if msg.is_request:
                self.request(msg)
            else:
                self.reply(msg)
        except Exception as error:
            self._core.counters.internal_errors.inc()
            LOG.error(
                "message from %s: %s",
                source.text,
                describe_failure(error),
                exc_info=error if self._core.debug else None,
            )
        if started and self._core.now() - started > self.slow_after_s:
            self._core.counters.slow_messages.inc()
            took_us = int((self._core.now() - started) * 1e6)
            LOG.warning("message from %s took %d us", source.text, took_us)
            self._core.events.raise_event("E_CORE_THRESHOLD", {"source": "msg", "time": str(took_us), "extra": ""})

    def _unreadable(self, error: ParseError, data: bytes, source: Peer, socket: Socket) -> None:
        """A packet that breaks the grammar: answered with the status it deserves when a reply can be made."""
        counters = self._core.counters
        counters.bad_headers.inc()
        msg = error.message
        if data.startswith(b"SIP/"):
            counters.rcv_replies.inc()
            counters.err_replies.inc()
        else:
            counters.rcv_requests.inc()
            counters.err_requests.inc()
        LOG.info("%s: bad message from %s: %s (offset %d)", socket.text, source.text, error.reason, error.offset)
        if msg is None or not msg.is_request or error.status == sip.DROP or msg.method_id == sip.M_ACK:
            return
        run = Run(msg, kinds.ERROR, self._core.program, self._core.services)
        run.error_class = ERROR_CLASS_PARSE
        run.error_level = ERROR_LEVEL
        run.error_info = error.reason
        run.error_code = error.status
        run.error_reason = sip.reason_phrase(error.status)
        route = self._core.program.route(kinds.ERROR, "")
        if route is not None:
            self._core.run_route(route, run, _nothing)
            return
        self._core.reply_stateless(run, error.status, sip.reason_phrase(error.status))

    # -- requests

    def request(self, msg: Message) -> None:
        """Step 2: checks that every request has to pass."""
        self._rcv_requests.value += 1
        if msg.method_id == sip.M_ACK and msg.to_tag.startswith(self._core.tag_prefix):
            return  # it acknowledges what was answered without the script, and goes no further (RFC 3261 §17.1.1.3)
        if self._gates and self._gated(msg):
            return
        if self.draining and not msg.to_tag and msg.method_id not in (sip.M_ACK, sip.M_CANCEL):
            # Not answered: over UDP the sender asks again, and the next server answers (RFC 3261 §17.1).
            self._core.counters.drop_requests.inc()
            return
        self._begin(msg)

    def _begin(self, msg: Message) -> None:
        """Step 3: what modules want to see before the script."""
        core = self._core
        if msg.source.connection:
            self._know_peer(msg)
        run = Run(msg, kinds.REQUEST, core.program, core.services)
        for callback in self._before:
            if callback(run) is False:
                if not run.handled:
                    core.counters.drop_requests.inc()
                return
        self._script(run)

    def _know_peer(self, msg: Message) -> None:
        """By what else a connection is found: a port, when its Via says `alias` (RFC 5923 §5), or, over WebSocket, a
        name that resolves nowhere (RFC 7118 §5.2)."""
        via = msg.via
        asked = via.param("alias") is not None
        if not asked and not self.alias_profiles and not via.host.endswith(".invalid"):
            return
        transport = self._core.network.transport(msg.source.proto)
        if not isinstance(transport, TcpTransport):
            return
        if transport.takes_alias(msg.source, asked, self.accept_aliases):
            transport.add_alias(msg.source, via.port or sip.default_port(msg.source.proto))
        if via.host.endswith(".invalid"):
            transport.add_name(msg.source, via.host.lower())

    def _gated(self, msg: Message) -> bool:
        """Whether the request has to wait for, or is a copy of, one whose script is suspended."""
        gate = self._gates.get(gate_key(msg))
        if gate is None:
            return False
        if msg.method == gate.method:
            self._core.counters.absorbed.inc()
            for callback in self._core.copies:
                callback(gate.run)
            return True
        if gate.run.transaction is not None:
            # There is something to cancel, and to acknowledge, already.
            return False
        if len(gate.held) >= MOST_HELD:
            self._core.counters.drop_requests.inc()
            return True
        self._core.counters.held_requests.inc()
        gate.held.append(msg)
        return True

    def _script(self, run: Run) -> None:
        """Step 4: the main route."""
        core = self._core
        route = core.program.main
        if route is None:
            self._request_ended(run)
            return
        if not route.is_async:
            try:
                route.fn(run)
            except Exception as error:  # noqa: BLE001 - the server lives, the request gets 500
                core.script_failed(run, error)
            self._request_ended(run)
            return
        try:
            coroutine = route.fn(run)
            # Most scripts wait for nothing, and then this makes no exception of their end, as send() would.
            yielded = next(coroutine.__await__(), _ENDED)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001
            core.script_failed(run, error)
            self._request_ended(run)
            return
        if yielded is _ENDED:
            self._request_ended(run)
            return
        suspended = SuspendedRequest(self, run)
        # Before it is suspended, which may fail and end it at once.
        self._gates[suspended.key] = suspended.gate
        core.stepper.suspend(coroutine, yielded, suspended.done, suspended.failed)

    def _resumed(self, suspended: SuspendedRequest) -> None:
        """The script of a request that had to wait has ended."""
        if self._gates.get(suspended.key) is suspended.gate:
            del self._gates[suspended.key]
            for held in suspended.gate.held:
                self._core.loop.call_soon(self._release, held)
        self._request_ended(suspended.run)

    def _script_failed(self, suspended: SuspendedRequest, error: BaseException) -> None:
        self._core.script_failed(suspended.run, error)
        self._resumed(suspended)

    def _release(self, msg: Message) -> None:
        """A request that waited for an earlier one goes through its own steps."""
        try:
            if not (self._gates and self._gated(msg)):
                self._begin(msg)
        except Exception as error:  # noqa: BLE001
            self._core.counters.internal_errors.inc()
            LOG.error("held request from %s: %s", msg.source.text, describe_failure(error))

    def _request_ended(self, run: Run) -> None:
        """Step 5: after the script."""
        for callback in self._after:
            try:
                callback(run)
            except Exception as error:  # noqa: BLE001 - a module's mistake must not keep the others from cleaning up
                self._core.counters.internal_errors.inc()
                LOG.error("after script: %s, Call-ID %s", describe_failure(error), run.msg.call_id)

    # -- replies

    def reply(self, msg: Message) -> None:
        """Step 2 of a reply: is it for us?"""
        core = self._core
        self._rcv_replies.value += 1
        if self.check_via and not core.is_myself(msg.via.host, msg.via.port):
            # RFC 3261 §18.1.2: a reply whose topmost Via is not ours is dropped.
            core.counters.drop_replies.inc()
            return
        run = Run(msg, kinds.ONREPLY, core.program, core.services)
        route = core.program.route(kinds.ONREPLY, "") if core.program is not None else None
        if route is None:
            self._offer(run)
        else:
            core.run_route(route, run, self._reply_routed)

    def _reply_routed(self, run: Run, result: int) -> None:
        """Step 3 of a reply: `drop` ends provisional replies only, as no final one may be lost."""
        if run.dropped and run.msg.status < 200:
            self._core.counters.drop_replies.inc()
            return
        run.exited = False
        run.dropped = False
        self._offer(run)

    def _offer(self, run: Run, start: int = 0) -> None:
        """Step 4: modules first, then forward by Via."""
        handlers = self._core.reply_handlers
        for index in range(start, len(handlers)):
            taken = handlers[index](run)
            if taken is True:
                return
            if taken is not False:
                self._offer_later(run, index, taken)
                return
        self._forward_reply(run)

    def _offer_later(self, run: Run, index: int, taken: Awaitable[bool]) -> None:
        async def ask() -> bool:
            return await taken

        self._core.stepper.start(ask(), partial(self._offered, run, index), partial(self._reply_failed, run))

    def _offered(self, run: Run, index: int, handled: Any) -> None:
        if not handled:
            self._offer(run, index + 1)

    def _reply_failed(self, run: Run, error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError):
            return
        self._core.counters.internal_errors.inc()
        LOG.error("reply: %s, Call-ID %s", describe_failure(error), run.msg.call_id)

    def _forward_reply(self, run: Run) -> None:
        """RFC 3261 §16.11: to what the second Via says, where the script works without transactions."""
        core = self._core
        if not self.forward_strays:
            core.counters.drop_replies.inc()
            return
        msg = run.msg
        try:
            peer = sip.reply_destination(msg)
            found = core.locate_host(peer.address, peer.port, peer.proto)
        except (ParseError, LocateError) as error:
            core.counters.drop_replies.inc()
            LOG.info("reply from %s dropped: %s", msg.source.text, error)
            return
        if isinstance(found, list):
            self._send_reply(run, found[0])
            return

        async def later() -> None:
            targets = await found
            self._send_reply(run, targets[0])

        self._core.stepper.start(later(), _ignore, partial(self._reply_failed, run))

    def _send_reply(self, run: Run, target: Any) -> None:
        core = self._core
        if core.no_connection_reply & run.msg_flags:
            target = Target(target.peer, target.socket, connect=False)
        data = sip.build_forwarded_reply(run.msg, run.edits, target.socket)
        if core.send(data, target):
            core.counters.fwd_replies.inc()
        else:
            core.counters.drop_replies.inc()


def gate_key(msg: Message) -> GateKey:
    """What a request, its copies, its CANCEL and the ACK of its failure have in common (RFC 3261 §17.2.3, §9.1)."""
    return (msg.call_id, msg.cseq_number, msg.via.branch)


def _nothing(run: Run, result: int) -> None:
    """A route of which no result is wanted."""


def _ignore(_: object) -> None:
    """A step of which no result is wanted."""


Receive = Callable[[bytes, Peer, Socket], None]
