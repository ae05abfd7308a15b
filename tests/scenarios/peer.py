"""A SIP phone of few words for the races that need exact timing: each message is sent and expected by the test itself.

It reads messages with code of its own, so that a fault of the server's parser cannot hide here.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

COUNTER = itertools.count(1)


@dataclass
class Received:
    """One datagram as it came: first line, header fields in order, body."""

    raw: bytes
    source: tuple[str, int]
    first: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    def __post_init__(self) -> None:
        head, _, self.body = self.raw.partition(b"\r\n\r\n")
        lines = head.decode("utf-8", "surrogateescape").split("\r\n")
        self.first = lines[0]
        for line in lines[1:]:
            name, _, value = line.partition(":")
            self.headers.append((name.strip(), value.strip()))

    @property
    def status(self) -> int:
        return int(self.first.split()[1]) if self.first.startswith("SIP/2.0 ") else 0

    @property
    def method(self) -> str:
        return self["CSeq"].split()[1] if self.status else self.first.split()[0]

    @property
    def request_uri(self) -> str:
        return self.first.split()[1]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def __getitem__(self, name: str) -> str:
        return self.all(name)[0]

    def get(self, name: str) -> str:
        return next(iter(self.all(name)), "")


class Phone:
    """A UDP socket on loopback that speaks as `sip:USER@DOMAIN`."""

    def __init__(self, user: str, server: tuple[str, int], *, domain: str = "127.0.0.1", password: str = "") -> None:
        self.user, self.server, self.domain, self.password = user, server, domain, password
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = int(self.socket.getsockname()[1])
        self.contact = f"<sip:{user}@127.0.0.1:{self.port}>"
        self._seen: set[bytes] = set()

    def close(self) -> None:
        self.socket.close()

    def send(self, text: str | bytes) -> None:
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
        self.socket.sendto(data, self.server)

    def receive(self, limit_s: float = 30.0) -> Received:
        """The next datagram. Raises TimeoutError."""
        self.socket.settimeout(max(limit_s, 0.001))
        data, source = self.socket.recvfrom(65535)
        return Received(data, source)

    def expect(self, what: int | str, limit_s: float = 30.0, *, skip: tuple[int | str, ...] = (100,)) -> Received:
        """The next message, which must be this status or method; those in `skip` and what came before are passed over.

        What came before: on a loaded machine the server may have sent something again before it saw our answer.
        """
        end = time.monotonic() + limit_s
        while True:
            message = self.receive(end - time.monotonic())
            repeated = message.raw in self._seen
            self._seen.add(message.raw)
            if what in (message.status, message.method if not message.status else None):
                return message
            if repeated:
                continue
            if message.status in skip or (not message.status and message.method in skip):
                continue
            raise AssertionError(f"expected {what}, got:\n{message.raw.decode(errors='replace')}")

    def expect_nothing(self, limit_s: float = 0.5) -> None:
        try:
            message = self.receive(limit_s)
        except TimeoutError:
            return
        raise AssertionError(f"expected silence, got:\n{message.raw.decode(errors='replace')}")

    def expect_nothing_but(self, what: int | str, limit_s: float = 0.5) -> None:
        """Only copies of what came before, for as long."""
        end = time.monotonic() + limit_s
        while (left := end - time.monotonic()) > 0:
            try:
                message = self.receive(left)
            except TimeoutError:
                return
            assert what in (message.status, message.method), message.raw.decode(errors="replace")

    # --- as a client

    def request(
        self,
        method: str,
        uri: str,
        *,
        to: str = "",
        call_id: str = "",
        cseq: int = 1,
        from_tag: str = "",
        branch: str = "",
        headers: tuple[str, ...] = (),
        body: str = "",
        max_forwards: int = 70,
    ) -> str:
        number = next(COUNTER)
        lines = [
            f"{method} {uri} SIP/2.0",
            f"Via: SIP/2.0/UDP 127.0.0.1:{self.port};rport;branch={branch or f'z9hG4bK-{self.port}-{number}'}",
            f"Max-Forwards: {max_forwards}",
            f"From: <sip:{self.user}@{self.domain}>;tag={from_tag or f'f{self.port}'}",
            f"To: {to or f'<{uri}>'}",
            f"Call-ID: {call_id or f'c{number}-{self.port}@test'}",
            f"CSeq: {cseq} {method}",
            f"Contact: {self.contact}",
            *headers,
        ]
        if body:
            lines.append("Content-Type: application/sdp")
        lines.append(f"Content-Length: {len(body.encode())}")
        return "\r\n".join(lines) + "\r\n\r\n" + body

    def authorization(self, challenge: Received, method: str, uri: str) -> str:
        """The credentials header that answers a 401 or 407 (RFC 7616 §3.4, MD5 with or without qop)."""
        name, answer = ("WWW-Authenticate", "Authorization")
        if challenge.status == 407:
            name, answer = ("Proxy-Authenticate", "Proxy-Authorization")
        fields = dict(re.findall(r'(\w+)="?([^",]+)"?', challenge[name].partition(" ")[2]))

        def md5(text: str) -> str:
            return hashlib.md5(text.encode()).hexdigest()

        ha1 = md5(f"{self.user}:{fields['realm']}:{self.password}")
        ha2 = md5(f"{method}:{uri}")
        text = f'Digest username="{self.user}", realm="{fields["realm"]}", nonce="{fields["nonce"]}", uri="{uri}"'
        if "qop" in fields:
            response = md5(f"{ha1}:{fields['nonce']}:00000001:abcdef:auth:{ha2}")
            text += ', qop=auth, nc=00000001, cnonce="abcdef"'
        else:
            response = md5(f"{ha1}:{fields['nonce']}:{ha2}")
        if "opaque" in fields:
            text += f', opaque="{fields["opaque"]}"'
        return f'{answer}: {text}, response="{response}"'

    def register(self, *, expires: int = 600, uri: str = "") -> Received:
        """Register, answering a challenge when there is one; returns the final reply."""
        uri = uri or f"sip:{self.domain}"
        call_id = f"reg{next(COUNTER)}-{self.port}"
        to = f"<sip:{self.user}@{self.domain}>"
        extra: tuple[str, ...] = (f"Expires: {expires}",)
        self.send(self.request("REGISTER", uri, to=to, call_id=call_id, headers=extra))
        reply = self.receive()
        if reply.status == 401:
            extra = (*extra, self.authorization(reply, "REGISTER", uri))
            self.send(self.request("REGISTER", uri, to=to, call_id=call_id, cseq=2, headers=extra))
            reply = self.receive()
        return reply

    def ack(self, final: Received, invite: str) -> str:
        """The ACK: in the INVITE's transaction for a failure (RFC 3261 §17.1.1.3), its own for a 2xx (§13.2.2.4)."""
        sent = Received(invite.encode(), ("", 0))
        number = sent["CSeq"].split()[0]
        if final.status >= 300:
            lines = [f"ACK {sent.request_uri} SIP/2.0", f"Via: {sent['Via']}"]
        else:
            target = final["Contact"].split("<")[1].split(">")[0]
            branch = f"z9hG4bK-ack-{next(COUNTER)}-{self.port}"
            lines = [f"ACK {target} SIP/2.0", f"Via: SIP/2.0/UDP 127.0.0.1:{self.port};rport;branch={branch}"]
            lines += [f"Route: {route}" for route in reversed(final.all("Record-Route"))]
        lines += [
            "Max-Forwards: 70",
            f"From: {sent['From']}",
            f"To: {final['To']}",
            f"Call-ID: {sent['Call-ID']}",
            f"CSeq: {number} ACK",
            "Content-Length: 0",
        ]
        return "\r\n".join(lines) + "\r\n\r\n"

    def cancel(self, invite: str) -> str:
        """The CANCEL of an INVITE that was sent (RFC 3261 §9.1)."""
        sent = Received(invite.encode(), ("", 0))
        lines = [
            f"CANCEL {sent.request_uri} SIP/2.0",
            f"Via: {sent['Via']}",
            "Max-Forwards: 70",
            f"From: {sent['From']}",
            f"To: {sent['To']}",
            f"Call-ID: {sent['Call-ID']}",
            f"CSeq: {sent['CSeq'].split()[0]} CANCEL",
            "Content-Length: 0",
        ]
        return "\r\n".join(lines) + "\r\n\r\n"

    def in_dialog(self, method: str, invite: str, final: Received, *, cseq: int = 2, body: str = "") -> str:
        """A request of the caller inside the dialog that `final` (a 2xx) made."""
        target = final["Contact"].split("<")[1].split(">")[0]
        sent = Received(invite.encode(), ("", 0))
        routes = tuple(f"Route: {route}" for route in reversed(final.all("Record-Route")))
        return self.request(
            method,
            target,
            to=final["To"],
            call_id=sent["Call-ID"],
            cseq=cseq,
            from_tag=sent["From"].partition("tag=")[2],
            headers=routes,
            body=body,
        )

    # --- as a server

    def reply(self, request: Received, status: int, reason: str = "OK", *, body: str = "", tag: str = "") -> str:
        lines = [f"SIP/2.0 {status} {reason}"]
        lines += [f"Via: {via}" for via in request.all("Via")]
        lines += [f"Record-Route: {route}" for route in request.all("Record-Route")]
        to = request["To"]
        if "tag=" not in to and status > 100:
            to += f";tag={tag or f't{self.port}'}"
        lines += [
            f"From: {request['From']}",
            f"To: {to}",
            f"Call-ID: {request['Call-ID']}",
            f"CSeq: {request['CSeq']}",
            f"Contact: {self.contact}",
        ]
        if body:
            lines.append("Content-Type: application/sdp")
        lines.append(f"Content-Length: {len(body.encode())}")
        return "\r\n".join(lines) + "\r\n\r\n" + body

    def callee_request(self, method: str, invite: Received, *, cseq: int = 1) -> str:
        """A request of the callee inside the dialog: From and To change places, the route set keeps its order."""
        target = invite["Contact"].split("<")[1].split(">")[0]
        branch = f"z9hG4bK-{self.port}-{next(COUNTER)}"
        lines = [
            f"{method} {target} SIP/2.0",
            f"Via: SIP/2.0/UDP 127.0.0.1:{self.port};rport;branch={branch}",
            *[f"Route: {route}" for route in invite.all("Record-Route")],
            "Max-Forwards: 70",
            f"From: {invite['To']};tag=t{self.port}",
            f"To: {invite['From']}",
            f"Call-ID: {invite['Call-ID']}",
            f"CSeq: {cseq} {method}",
            f"Contact: {self.contact}",
            "Content-Length: 0",
        ]
        return "\r\n".join(lines) + "\r\n\r\n"


def until(condition: Callable[[], bool], limit_s: float = 30.0, what: str = "the condition") -> None:
    """Poll something that gives no event of its own, such as a file that another process writes."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"{what} did not come true in {limit_s} s"
        time.sleep(0.02)
