"""The management commands of `tm`."""

from __future__ import annotations

import re
from typing import Any, Final

from opensipspy import sip
from opensipspy.module import MiError, mi_command
from opensipspy.modules.tm.local import TmLocal
from opensipspy.modules.tm.uac import is_token, split_headers

# Hexadecimal digits of a label: drawn, computed (`syn_branch` 0), or without zeros in front.
LABEL_WIDTHS: Final = (8, 16, 1)
LONGEST_ID: Final = 64
OWN_FORM: Final = re.compile("[0-9a-f]+[.][0-9a-f]+")

# What the C server says of a request that did not leave.
UNSENT: Final = {476: "Unresolvable destination", 477: "Send failed"}


class TmCommands(TmLocal):
    """tm:hash, tm:reply, tm:uac_cancel and tm:uac_dlg."""

    @mi_command("tm:hash", aliases=("t_hash",), params=((),))
    def mi_hash(self) -> Any:
        """How many transactions each entry of the hash table holds now, as a list; entries without any are left out."""
        counts: dict[int, int] = {}
        for found in self.flow.layer.transactions():
            counts[found.hash] = counts.get(found.hash, 0) + 1
        return [{"index": at, "Current": count} for at, count in sorted(counts.items())]

    @mi_command(
        "tm:reply",
        aliases=("t_reply",),
        params=(
            ("code", "reason", "trans_id", "to_tag"),
            ("code", "reason", "trans_id", "to_tag", "new_headers"),
            ("code", "reason", "trans_id", "to_tag", "body"),
            ("code", "reason", "trans_id", "to_tag", "new_headers", "body"),
        ),
        types={
            "body": "string",
            "code": "int",
            "new_headers": "string",
            "reason": "string",
            "to_tag": "string",
            "trans_id": "string",
        },
        named_params_only=True,
    )
    def mi_reply(
        self, code: int, reason: str, trans_id: str, to_tag: str, new_headers: str = "", body: str = ""
    ) -> str:
        """Answer a received request: trans_id is "hash:label" in decimal, or $T_id."""
        if not 100 <= code <= 699:
            raise MiError(400, "Invalid reply code")
        forms = _transaction_ids(trans_id)
        if not forms:
            raise MiError(400, "Invalid trans_id")
        for form in forms:
            found = self.flow.layer.find_id(form)
            if found is not None:
                break
        if found is None or found.local:
            raise MiError(404, "Transaction not found")
        try:
            once, rest = split_headers(new_headers)
        except ValueError as error:
            raise MiError(400, f"Bad headers: {error}") from error
        if once:
            raise MiError(400, f"Bad headers: {next(iter(once))} cannot be given")
        data = body.encode("utf-8", "surrogateescape")
        if not self.flow.reply_locally(found, code, reason, found.run, rest, data, "", to_tag):
            raise MiError(500, "Reply failed")
        return "OK"

    @mi_command(
        "tm:uac_cancel",
        aliases=("t_uac_cancel",),
        params=(("callid", "cseq"),),
        types={"callid": "string", "cseq": "string"},
    )
    def mi_uac_cancel(self, callid: str, cseq: str) -> str:
        """Cancel an INVITE by its Call-ID and CSeq ("1 INVITE")."""
        number, _, method = cseq.partition(" ")
        found = self.find_invite(callid, number)
        if found is None or method.strip() not in ("", "INVITE"):
            raise MiError(481, "No such transaction")
        self.flow.layer.cancel_pending(found, self.core.now())
        self.flow.arm()
        return "OK"

    @mi_command(
        "tm:uac_dlg",
        aliases=("t_uac_dlg",),
        params=(
            ("method", "ruri", "headers"),
            ("method", "ruri", "headers", "next_hop"),
            ("method", "ruri", "headers", "socket"),
            ("method", "ruri", "headers", "body"),
            ("method", "ruri", "headers", "next_hop", "socket"),
            ("method", "ruri", "headers", "next_hop", "body"),
            ("method", "ruri", "headers", "socket", "body"),
            ("method", "ruri", "headers", "next_hop", "socket", "body"),
        ),
        types={
            "body": "string",
            "headers": "string",
            "method": "string",
            "next_hop": "string",
            "ruri": "string",
            "socket": "string",
        },
        named_params_only=True,
    )
    async def mi_uac_dlg(
        self, method: str, ruri: str, headers: str, next_hop: str = "", socket: str = "", body: str = ""
    ) -> Any:
        """Send a request and give its final reply; `headers` has at least From and To.

        Message: header lines and body of the reply. RURI, Next-hop: of later requests, when it was answered.
        """
        if not is_token(method) or method in ("ACK", "CANCEL"):
            raise MiError(400, "Invalid method")
        try:
            sip.parse_uri(ruri)
        except sip.ParseError as error:
            raise MiError(400, "Invalid ruri") from error
        if next_hop and next_hop != ".":
            try:
                sip.parse_uri(next_hop)
            except sip.ParseError as error:
                raise MiError(400, "Invalid next_hop") from error
        chosen = None
        if socket and socket != ".":
            chosen = next((s for s in self.core.sockets if socket in (s.text, s.tag)), None)
            if chosen is None:
                raise MiError(404, "Local socket not found")
        lines = _unescape(headers)
        once = self._checked_headers(method, lines, bool(body))
        reply = await self.request(
            method,
            ruri,
            once["from"],
            once["to"],
            lines,
            body.encode("utf-8", "surrogateescape"),
            next_hop if next_hop != "." and next_hop else None,
            chosen,
        )
        message = reply.message
        if message is None and reply.status in UNSENT:
            raise MiError(reply.status, f"{UNSENT[reply.status]} ({reply.status}/MI/UAC)")
        answer: dict[str, Any] = {"Status": f"{reply.status} {reply.reason}"}
        if message is None:
            return answer
        if reply.status < 300 and message.contacts:
            routes = message.record_routes
            answer["RURI"] = message.contacts[0].uri
            answer["Next-hop"] = routes[-1].uri if routes else answer["RURI"]
        _, _, lines = message.head.partition("\r\n")
        answer["Message"] = lines + "\r\n" + message.body.decode("utf-8", "replace")
        return answer

    def _checked_headers(self, method: str, lines: str, has_body: bool) -> dict[str, str]:
        try:
            once, rest = split_headers(lines)
        except ValueError as error:
            raise MiError(400, "Bad headers") from error
        if "content-length" in once:
            raise MiError(400, "Content-Length disallowed")
        for name in ("to", "from"):
            if name not in once:
                raise MiError(400, f"{name.capitalize()} missing")
        if has_body and "content-type:" not in rest.lower():
            raise MiError(400, "Content-Type missing")
        if "cseq" in once:
            number, _, of = once["cseq"].partition(" ")
            if not number.isascii() or not number.isdigit() or int(number) >= 1 << 31:
                raise MiError(400, "Bad CSeq number")
            if of.strip() != method:
                raise MiError(400, "CSeq method mismatch")
        return once


def _transaction_ids(text: str) -> tuple[str, ...]:
    """What a transaction may be called in the layer, from "hash:label" in decimal or from its own form; () for what
    is neither."""
    first, colon, second = text.partition(":")
    if len(text) > LONGEST_ID or not text.isascii():
        return ()
    if not colon:
        return (text,) if OWN_FORM.fullmatch(text) else ()
    if not (first.isdigit() and second.isdigit()):
        return ()
    # A number does not tell how many zeros its label begins with.
    return tuple(f"{int(first):x}.{int(second):0{width}x}" for width in LABEL_WIDTHS)


def _unescape(headers: str) -> str:
    """Header lines as command line clients send them: "\\r\\n" may be spelled out."""
    return headers.replace("\\r\\n", "\r\n").replace("\\n", "\r\n")
