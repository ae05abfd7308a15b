"""A small SIP phone over UDP: it registers with digest, calls, answers and hangs up. Enough for a demonstration."""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
from types import TracebackType

from opensipspy import sip
from opensipspy.demo.ladder import Ladder

T1_S = 0.5
REPLY_LIMIT_S = 8.0
SDP = (
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 40000 RTP/AVP 8\r\n"
    "a=rtpmap:8 PCMA/8000\r\n"
)


class Call:
    """What a caller must remember of a dialog that its INVITE made (RFC 3261 §12.1.2)."""

    def __init__(self, answer: sip.Message) -> None:
        self.call_id = answer.call_id
        self.remote = answer.value(sip.H_TO)
        self.local = answer.value(sip.H_FROM)
        self.target = answer.contacts[0].uri
        self.routes = [header.value for header in reversed(answer.all(sip.H_RECORD_ROUTE))]
        self.cseq = answer.cseq_number


class Phone(asyncio.DatagramProtocol):
    """One account on one UDP port of loopback. Use it as an asynchronous context."""

    def __init__(
        self, user: str, password: str, host: str, server_port: int, ladder: Ladder, *, verbose: bool = False
    ) -> None:
        self.user = user
        self._password = password
        self._host = host
        self._server = (host, server_port)
        self._ladder = ladder
        self._verbose = verbose
        self._inbox: asyncio.Queue[sip.Message] = asyncio.Queue(1000)
        self._numbers = itertools.count(1)
        self._tag = secrets.token_hex(4)
        self._port = 0
        self._transport: asyncio.DatagramTransport | None = None

    async def __aenter__(self) -> Phone:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(self._host, 0))
        self._port = self._transport.get_extra_info("sockname")[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._transport is not None:
            self._transport.close()

    @property
    def address_of_record(self) -> str:
        return f"sip:{self.user}@{self._host}"

    # --- the wire

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        here = sip.Socket(sip.PROTO_UDP, self._host, self._port)
        try:
            message = sip.parse_message(data, sip.Peer(sip.PROTO_UDP, addr[0], addr[1]), here)
        except sip.ParseError:
            return  # a stray datagram of another program; the server's are checked by what we wait for
        self._note("opensipspy", self.user, data)
        if not self._inbox.full():
            self._inbox.put_nowait(message)

    def _send(self, text: str) -> None:
        assert self._transport is not None
        data = text.encode("utf-8", "surrogateescape")
        self._note(self.user, "opensipspy", data)
        self._transport.sendto(data, self._server)

    def _note(self, source: str, destination: str, data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        if self._verbose:
            print(f"--- {source} to {destination}\n{text}")
        first = text.partition("\r\n")[0]
        label = first.removeprefix("SIP/2.0 ") if first.startswith("SIP/2.0 ") else first.split()[0]
        self._ladder.note(asyncio.get_running_loop().time(), source, destination, label)

    def _request(self, method: str, uri: str, lines: list[str], body: str = "") -> str:
        head = [
            f"{method} {uri} SIP/2.0",
            f"Via: SIP/2.0/UDP {self._host}:{self._port};rport;branch=z9hG4bK{secrets.token_hex(8)}",
            "Max-Forwards: 70",
            *lines,
            f"Contact: <sip:{self.user}@{self._host}:{self._port}>",
            "User-Agent: opensipspy demo",
        ]
        if body:
            head.append("Content-Type: application/sdp")
        head.append(f"Content-Length: {len(body)}")
        return "\r\n".join(head) + "\r\n\r\n" + body

    async def _exchange(self, text: str, method: str) -> sip.Message:
        """Send a request until an answer comes (RFC 3261 §17.1), and return its final response."""
        loop = asyncio.get_running_loop()
        end = loop.time() + REPLY_LIMIT_S
        wait_s, answered = T1_S, False
        self._send(text)
        while True:
            limit = min(end, end if answered else loop.time() + wait_s)
            try:
                async with asyncio.timeout_at(limit):
                    message = await self._inbox.get()
            except TimeoutError:
                if loop.time() >= end:
                    raise RuntimeError(f"{self.user}: no answer to {method}") from None
                wait_s *= 2
                self._send(text)
                continue
            if not message.is_request and message.cseq_method == method:
                answered = True
                if message.status >= 200:
                    return message

    def _credentials(self, challenge: sip.Message, method: str, uri: str) -> str:
        """The header that answers a 401 or 407."""
        asked, header = sip.H_WWW_AUTHENTICATE, "Authorization"
        if challenge.status == 407:
            asked, header = sip.H_PROXY_AUTHENTICATE, "Proxy-Authorization"
        fields = dict(re.findall(r'(\w+)="?([^",]+)"?', challenge.value(asked).partition(" ")[2]))
        algorithm = fields.get("algorithm", "MD5")
        nonce, realm, cnonce = fields["nonce"], fields["realm"], secrets.token_hex(4)
        secret = sip.digest.ha1(self.user, realm, self._password, algorithm)
        qop = "auth" if "qop" in fields else ""
        answer = sip.digest.response(secret, method, uri, nonce, qop, "00000001" if qop else "", cnonce, algorithm)
        text = f'{header}: Digest username="{self.user}", realm="{realm}", nonce="{nonce}", uri="{uri}"'
        text += f', algorithm={algorithm}, response="{answer}"'
        if qop:
            text += f', qop={qop}, nc=00000001, cnonce="{cnonce}"'
        if "opaque" in fields:
            text += f', opaque="{fields["opaque"]}"'
        return text

    # --- what a user does

    async def register(self) -> None:
        """Register for ten minutes. Raises RuntimeError when the registrar refuses."""
        uri, call_id = f"sip:{self._host}", secrets.token_hex(8)
        lines = [
            f"From: <{self.address_of_record}>;tag={self._tag}",
            f"To: <{self.address_of_record}>",
            f"Call-ID: {call_id}",
            "CSeq: 1 REGISTER",
            "Expires: 600",
        ]
        reply = await self._exchange(self._request("REGISTER", uri, lines), "REGISTER")
        if reply.status == 401:
            lines[3] = "CSeq: 2 REGISTER"
            lines.append(self._credentials(reply, "REGISTER", uri))
            reply = await self._exchange(self._request("REGISTER", uri, lines), "REGISTER")
        if reply.status != 200:
            raise RuntimeError(f"{self.user} could not register: {reply.status} {reply.reason}")

    async def call(self, callee: str) -> Call:
        """Call another user of the same domain and acknowledge the answer."""
        uri = f"sip:{callee}@{self._host}"
        tag, call_id, cseq = secrets.token_hex(4), secrets.token_hex(8), 1
        lines = [
            f"From: <{self.address_of_record}>;tag={tag}",
            f"To: <{uri}>",
            f"Call-ID: {call_id}",
            f"CSeq: {cseq} INVITE",
        ]
        request = self._request("INVITE", uri, lines, SDP)
        reply = await self._exchange(request, "INVITE")
        if reply.status == 407:
            self._acknowledge_failure(request, reply)
            lines[3] = "CSeq: 2 INVITE"
            request = self._request("INVITE", uri, [*lines, self._credentials(reply, "INVITE", uri)], SDP)
            reply = await self._exchange(request, "INVITE")
        if reply.status != 200:
            if reply.status >= 300:
                self._acknowledge_failure(request, reply)
            raise RuntimeError(f"{self.user}: the call was refused: {reply.status} {reply.reason}")
        call = Call(reply)
        self._send(self._in_dialog("ACK", call))
        return call

    def _acknowledge_failure(self, invite: str, reply: sip.Message) -> None:
        """The ACK of a failure has the INVITE's Via (RFC 3261 §17.1.1.3)."""
        head = invite.partition("\r\n\r\n")[0].split("\r\n")
        uri = head[0].split()[1]
        kept = [line for line in head[1:] if line.startswith(("Via:", "From:", "Call-ID:"))]
        lines = [f"ACK {uri} SIP/2.0", *kept, f"To: {reply.value(sip.H_TO)}", f"CSeq: {reply.cseq_number} ACK"]
        self._send("\r\n".join([*lines, "Max-Forwards: 70", "Content-Length: 0", "", ""]))

    def _in_dialog(self, method: str, call: Call) -> str:
        if method != "ACK":
            call.cseq += 1
        lines = [f"Route: {route}" for route in call.routes]
        lines += [
            f"From: {call.local}",
            f"To: {call.remote}",
            f"Call-ID: {call.call_id}",
            f"CSeq: {call.cseq} {method}",
        ]
        return self._request(method, call.target, lines)

    async def hang_up(self, call: Call) -> None:
        reply = await self._exchange(self._in_dialog("BYE", call), "BYE")
        if reply.status != 200:
            raise RuntimeError(f"{self.user}: BYE was answered {reply.status}")

    async def _expect(self, method: str) -> sip.Message:
        async with asyncio.timeout(REPLY_LIMIT_S):
            while True:
                message = await self._inbox.get()
                if message.is_request and message.method == method:
                    return message

    def _reply(self, request: sip.Message, status: int, reason: str, body: str = "") -> None:
        to = request.value(sip.H_TO)
        if not request.to_tag:
            to += f";tag={self._tag}"
        lines = [f"SIP/2.0 {status} {reason}"]
        lines += [f"Via: {header.value}" for header in request.all(sip.H_VIA)]
        lines += [f"Record-Route: {header.value}" for header in request.all(sip.H_RECORD_ROUTE)]
        lines += [
            f"From: {request.value(sip.H_FROM)}",
            f"To: {to}",
            f"Call-ID: {request.call_id}",
            f"CSeq: {request.value(sip.H_CSEQ)}",
            f"Contact: <sip:{self.user}@{self._host}:{self._port}>",
        ]
        if body:
            lines.append("Content-Type: application/sdp")
        lines.append(f"Content-Length: {len(body)}")
        self._send("\r\n".join(lines) + "\r\n\r\n" + body)

    async def answer(self) -> None:
        """Wait for a call, ring, answer, and wait for the ACK."""
        invite = await self._expect("INVITE")
        self._reply(invite, 180, "Ringing")
        await asyncio.sleep(0.2)
        self._reply(invite, 200, "OK", SDP)
        await self._expect("ACK")

    async def wait_for_bye(self) -> None:
        self._reply(await self._expect("BYE"), 200, "OK")
