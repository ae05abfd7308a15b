"""Requests made here: sent, acknowledged, shown to the routes that look on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from opensipspy import sip
from opensipspy.module import LocateError, Target
from opensipspy.modules.tm.api import Reply
from opensipspy.modules.tm.base import TmBase
from opensipspy.modules.tm.flow import E_BAD_ADDRESS, Flow
from opensipspy.modules.tm.uac import ack_for_2xx, header_lines, request_text, split_headers, token, with_tag
from opensipspy.script.kinds import LOCAL, REQUEST
from opensipspy.script.run import Run
from opensipspy.transaction import Branch, Transaction

if TYPE_CHECKING:
    from opensipspy.module import Core
    from opensipspy.sip import Message, Socket


class TmLocal(TmBase):
    """Send requests of our own."""

    def bind(self, core: Core) -> None:
        super().bind(core)
        self.flow = Flow(self, core, self.settings())
        core.on_reply(self.flow.receive_reply)
        core.after_script(self.flow.release_unused)
        core.on_copy(self.flow.copy_came)

    async def request(
        self,
        method: str,
        ruri: str,
        from_: str,
        to: str,
        headers: str = "",
        body: bytes = b"",
        next_hop: str | None = None,
        socket: Socket | None = None,
        context: str = "",
    ) -> Reply:
        if len(self.flow.layer) >= self.flow.most_transactions:
            self.refused_transactions.inc()
            return Reply(503, "Too many transactions")
        try:
            hop = next_hop or ruri
            found = self.core.locate(hop, sip.forced_proto(socket, hop))
            targets = found if isinstance(found, list) else await found
        except (LocateError, sip.ParseError) as error:
            return Reply(476, f"Unresolvable destination: {error}")
        if not targets:
            return Reply(476, "Unresolvable destination")
        chosen = self.core.choose_socket(targets[0].peer, socket) or targets[0].socket
        try:
            once, rest = split_headers(headers)
            call_id = once.get("call-id") or f"{token(self.core.random)}@{chosen.via_host}"
            cseq = int(once["cseq"].split()[0]) if "cseq" in once else 10
            from_value = with_tag(once.get("from", from_), token(self.core.random, 64))
            placeholder = chosen.via_prefix + "z9hG4bK0"
            rest = self._with_user_agent(rest)
            text = request_text(method, ruri, from_value, once.get("to", to), call_id, cseq, rest, body, placeholder)
            own = sip.Peer(chosen.proto, chosen.address, chosen.port)
            msg = sip.parse_message(text, own, chosen)
        except (ValueError, IndexError) as error:
            return Reply(400, f"Bad request: {error}")
        run = Run(msg, LOCAL, self.core.program, self._services())
        if context:
            run.avps["uac_ctx"] = [context]
        transaction = self.flow.layer.create_local(method, call_id, self.core.now())
        transaction.request = msg
        transaction.run = run
        run.transaction = transaction
        if self.enable_stats:
            self.uac_transactions.value += 1
        transaction.busy += 1
        try:
            await self._local_route(run)
            placed = msg.first(sip.H_VIA)
            if placed is not None:
                run.edits.remove(placed)
            return await self._send_local(transaction, run, targets, next_hop or "", socket)
        finally:
            self.flow.layer.unbusy(transaction, self.core.now())
            self.flow.arm()

    def _with_user_agent(self, headers: str) -> str:
        """Say who asks, unless the headers do or the operator does not want it (`server_signature`)."""
        line = str(getattr(self.core.globals, "user_agent_header", "") or "")
        if not line or not getattr(self.core.globals, "server_signature", True):
            return headers
        named = any(name.lower() == "user-agent" for name, _ in header_lines(headers))
        return headers if named else f"{headers}{line}\r\n"

    def _services(self) -> Any:
        """What core functions of a route made here need; a core made for tests has none."""
        return getattr(self.core, "services", None)

    async def _local_route(self, run: Run) -> None:
        """Let local_route and the looking-on route see the request."""
        program = self.core.program
        local = program.route(LOCAL, "") if program is not None else None
        if local is not None:
            await self._run(local, run)
        if self.local_request_route:
            shown = self.flow.route(REQUEST, self.local_request_route)
            if shown is not None:
                await self._run(shown, Run(run.msg, REQUEST, program, self._services()))

    async def _run(self, route: Any, run: Run) -> None:
        over = asyncio.Event()
        self.core.run_route(route, run, lambda ended, result: over.set())
        await over.wait()

    async def _send_local(
        self, transaction: Transaction, run: Run, targets: list[Target], proxy: str, socket: Socket | None
    ) -> Reply:
        transaction.flags = run.msg_flags
        changed = run.ruri != run.msg.ruri or run.dst_uri or run.socket_out is not None
        if changed:
            try:
                hop = run.dst_uri or proxy or run.ruri
                found = self.core.locate(hop, sip.forced_proto(run.socket_out or socket, hop))
                targets = found if isinstance(found, list) else await found
            except (LocateError, sip.ParseError) as error:
                return Reply(476, f"Unresolvable destination: {error}")
        destination = run.main_branch()
        destination.socket = run.socket_out or socket
        branch = self.flow.add(transaction, run, destination)
        if branch is None:
            return Reply(500, "Server Internal Error")
        branch.on_reply = ""
        branch.socket = destination.socket
        result: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def completed(status: int, reason: str, reply: Message | None) -> None:
            if not result.done():
                result.set_result(Reply(status, reason, reply))

        transaction.context = completed
        sent = self.flow.send_branch(branch, targets)
        if sent <= 0:
            transaction.context = None
            return Reply(476 if sent == E_BAD_ADDRESS else 477, "Send failed (477/TM)")
        return await result

    def dialog_ack(self, branch: Branch, reply: Message) -> bytes:
        """Acknowledge a 2xx to an INVITE made here; gives the bytes to send again when it comes again."""
        request = branch.transaction.request
        target: Target = branch.target
        if request is None:
            return b""
        via = f"{target.socket.via_prefix}z9hG4bK{branch.transaction.id}.{token(self.core.random, 32)}"
        data, hop = ack_for_2xx(request, reply, via)
        try:
            found = self.core.locate(hop)
        except (LocateError, sip.ParseError):
            found = [target]
        if isinstance(found, list):
            # Kept on the branch for retransmissions: its own request is not needed any more.
            branch.targets = found[:1]
            self.core.send(data, found[0] if found else target)
        else:
            self.core.spawn(self._ack_later(branch, data, found, target), "tm ACK")
        return data

    async def _ack_later(self, branch: Branch, data: bytes, waiting: Awaitable[list[Target]], target: Target) -> None:
        try:
            found = await waiting
        except LocateError:
            found = [target]
        branch.targets = found[:1]
        self.core.send(data, found[0] if found else target)

    def resend_dialog_ack(self, branch: Branch, msg: Message) -> None:
        """A 2xx came again, so its ACK was lost."""
        data = branch.to_tags.get(msg.to_tag) if branch.to_tags is not None else None
        if data:
            self.core.send(data, branch.targets[0] if branch.targets else branch.target)

    def show_reply(self, transaction: Transaction, data: bytes) -> None:
        """Run local_reply_route, if any, for a reply made here."""
        if not self.local_reply_route:
            return
        route = self.flow.route(REQUEST, self.local_reply_route)
        if route is None:
            return
        target: Target = transaction.upstream
        msg = sip.parse_message(data, target.peer, target.socket)
        shown = Run(msg, REQUEST, self.core.program, self._services())
        self.core.run_route(route, shown, lambda run, result: None)
