"""A server without a network for the script's run time, and one message to read from."""

from __future__ import annotations

from opensipspy.script.core import build_catalogue
from opensipspy.script.declare import Catalogue
from opensipspy.script.formats import parse_format
from opensipspy.script.kinds import REQUEST
from opensipspy.script.run import Run, Value
from opensipspy.script.services import ScriptServices
from opensipspy.script.varsyntax import VarSpec, parse_variable
from opensipspy.sip import PROTO_TCP, PROTO_UDP, Peer, Socket, parse_message

SDP = (
    "v=0\r\n"
    "o=alice 1 1 IN IP4 192.0.2.1\r\n"
    "s=-\r\n"
    "c=IN IP4 192.0.2.1\r\n"
    "t=0 0\r\n"
    "m=audio 27292 RTP/AVP 9 8 0 101\r\n"
    "a=rtpmap:101 telephone-event/8000\r\n"
    "a=ptime:20\r\n"
    "m=video 27294 RTP/AVP 97\r\n"
    "a=fmtp:97 profile-level-id=42e01f;packetization-mode=1\r\n"
    "a=ptime:40\r\n"
)

INVITE = (
    "INVITE sip:bob:secret@biloxi.example:5070;transport=tcp;user=phone SIP/2.0\r\n"
    "Via: SIP/2.0/UDP 192.0.2.7:5062;branch=z9hG4bK74bf9;rport=5099;received=198.51.100.7\r\n"
    "Via: SIP/2.0/TCP [2001:db8::9];branch=z9hG4bKfirst\r\n"
    'From: "Alice A." <sip:alice@atlanta.example>;tag=9fxced76sl\r\n'
    "To: Bob <sip:bob@biloxi.example>;tag=314159\r\n"
    "Call-ID: 3848276298220188511@atlanta.example\r\n"
    "CSeq: 4711 INVITE\r\n"
    'Contact: "Al" <sip:alice@192.0.2.7>;q=0.5;expires=60, <sip:alice@192.0.2.8>\r\n'
    'Contact: <sip:alice@192.0.2.9>;methods="INVITE, BYE";received="sip:198.51.100.7:5099"\r\n'
    'Proxy-Authorization: Digest username="alice@realm.example", realm="atlanta.example", nonce="abc123", '
    'uri="sip:biloxi.example", response="00112233445566778899aabbccddeeff", algorithm=MD5, cnonce="0a4f", opaque="op", '
    "qop=auth, nc=00000001\r\n"
    'P-Asserted-Identity: "Al" <sip:+15551234@atlanta.example>\r\n'
    'P-Preferred-Identity: "Preferred" <sip:pref@atlanta.example>\r\n'
    "Remote-Party-ID: <sip:rpid@atlanta.example>;party=calling\r\n"
    "Diversion: <sip:div@atlanta.example>;reason=user-busy;privacy=full\r\n"
    "Refer-To: <sip:refer@atlanta.example>\r\n"
    "User-Agent: Softphone 1.0\r\n"
    "X-Custom: one\r\n"
    "x-custom: two\r\n"
    "Content-Type: application/sdp\r\n"
    f"Content-Length: {len(SDP)}\r\n"
    "\r\n" + SDP
)

REPLY = (
    "SIP/2.0 407 Proxy Authentication Required\r\n"
    "Via: SIP/2.0/UDP 192.0.2.7:5062;branch=z9hG4bK74bf9\r\n"
    "From: <sip:alice@atlanta.example>;tag=9fxced76sl\r\n"
    "To: <sip:bob@biloxi.example>;tag=314159\r\n"
    "Call-ID: 3848276298220188511@atlanta.example\r\n"
    "CSeq: 4711 INVITE\r\n"
    'Proxy-Authenticate: Digest realm="atlanta.example", nonce="f84f1cec", qop="auth,auth-int", opaque="5ccc", '
    "algorithm=MD5\r\n"
    "Content-Length: 0\r\n"
    "\r\n"
)

UDP_SOCKET = Socket(PROTO_UDP, "192.0.2.100", 5060, "203.0.113.5", 5080, "outside")
TCP_SOCKET = Socket(PROTO_TCP, "2001:db8::1", 5061)


class FakeServices(ScriptServices):
    """Two sockets, one name that resolves, one key-value store "local", and a record of what was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[int, str]] = []
        self.levels: dict[str, int] = {"log": 3, "xlog": 3}
        self.events: list[tuple[str, list[tuple[str, Value]]]] = []
        self.sent: list[tuple[str, str]] = []
        self.store: dict[str, str] = {}
        self.counters: dict[str, int] = {}
        self.rules: set[tuple[str, int, str, str]] = set()
        self.aliases: list[int] = []
        self.subscriptions: list[tuple[str, str, int]] = []

    def log(self, level: int, text: str) -> None:
        self.lines.append((level, text))

    def now(self) -> float:
        return 100.0

    def time(self) -> float:
        return 1_700_000_000.25

    def log_level(self) -> int:
        return self.levels["log"]

    def set_log_level(self, level: int | None) -> None:
        self.levels["log"] = 3 if level is None else level

    def xlog_level(self) -> int:
        return self.levels["xlog"]

    def set_xlog_level(self, level: int | None) -> None:
        self.levels["xlog"] = 3 if level is None else level

    def process_id(self) -> int:
        return 4242

    def start_argument(self, name: str) -> Value:
        return {"foo": "0"}.get(name)

    def is_myself(self, host: str, port: int = 0, proto: int = 0) -> bool:
        return host == "192.0.2.100" and port in (0, 5060)

    def find_socket(self, text: str) -> Socket | None:
        for socket in (UDP_SOCKET, TCP_SOCKET):
            if text in (socket.text, socket.tag):
                return socket
        return None

    def socket_in_bond(self, socket: str, bond: str) -> bool | None:
        return (socket, bond) == (UDP_SOCKET.text, "pair")

    def resolve(self, name: str, family: int = 0) -> str | None:
        return "192.0.2.44" if name == "opensips.example" and family in (0, 4) else None

    def forward(self, run: Run, destination: str) -> int:
        self.sent.append(("forward", destination))
        return 1

    def send(self, run: Run, destination: str, headers: str) -> int:
        self.sent.append((destination, headers))
        return 1

    def tcp_alias(self, run: Run, port: int) -> int:
        self.aliases.append(port)
        return 1

    def tcp_close(self, address: str) -> int:
        return 1 if address == "192.0.2.1:5060" else -1

    def cache_known(self, storage: str) -> bool:
        return storage == "local"

    def cache_fetch(self, storage: str, key: str) -> str | None:
        if key == "down":
            raise OSError("the store does not answer")
        return self.store.get(key)

    def cache_counter(self, storage: str, key: str) -> int | None:
        return self.counters.get(key)

    def cache_store(self, storage: str, key: str, value: str, expire_s: int) -> None:
        if key == "down":
            raise OSError("the store does not answer")
        self.store[key] = value

    def cache_remove(self, storage: str, key: str) -> bool:
        self.store.pop(key, None)
        return True

    async def cache_add(self, storage: str, key: str, amount: int, expire_s: int) -> int:
        if key == "down":
            raise OSError("the store does not answer")
        self.counters[key] = self.counters.get(key, 0) + amount
        return self.counters[key]

    def cache_raw(self, storage: str, query: str) -> list[list[Value]]:
        if query == "nonsense":
            raise OSError("the store does not know that")
        return [["a", 1], ["b", 2]] if query == "rows" else []

    def blacklist_known(self, name: str) -> bool:
        return name in self.blacklist_names()

    def blacklist_names(self) -> frozenset[str]:
        return frozenset(("pstn", "mobile"))

    def blacklist_add(self, name: str, address: str, port: int, proto: str, pattern: str, expire_s: int) -> int:
        self.rules.add((address, port, proto, pattern))
        return 1

    def blacklist_delete(self, name: str, address: str, port: int, proto: str, pattern: str) -> int:
        rule = (address, port, proto, pattern)
        if rule not in self.rules:
            return -1
        self.rules.remove(rule)
        return 1

    def blacklist_check(self, name: str, address: str, port: int, proto: str, pattern: str) -> int:
        return 1 if (address, port, proto, pattern) in self.rules else -1

    def raise_event(self, name: str, params: list[tuple[str, Value]]) -> int:
        self.events.append((name, params))
        return 1

    def subscribe_event(self, name: str, socket: str, expire_s: int) -> int:
        self.subscriptions.append((name, socket, expire_s))
        return 1

    def status(self, group: str, identifier: str) -> int:
        return {("core", ""): 1, ("core", "bad"): -5}.get((group, identifier), 0)


class Bench:
    """One message in one script: read and write variables, call functions, as a script spells them."""

    def __init__(self, text: str = INVITE, kind: int = REQUEST) -> None:
        self.services = FakeServices()
        self.catalogue: Catalogue = build_catalogue(self.services)
        data = text.encode("utf-8", "surrogateescape")
        self.message = parse_message(data, Peer(PROTO_UDP, "198.51.100.7", 5099), UDP_SOCKET)
        self.run = Run(self.message, kind, None, self.services)

    def spec(self, text: str) -> VarSpec:
        spec = parse_variable(text, 0, self.catalogue)
        assert spec.end == len(text), f"{text[spec.end :]!r} is left over"
        return spec

    def read(self, text: str) -> Value:
        """Through the closure, and through the inlined expression where there is one: both must agree."""
        spec = self.spec(text)
        value = spec.reader()(self.run)
        inline = spec.inline_expression()
        if inline is not None:
            assert eval(inline, {"run": self.run}) == value
        return value

    def write(self, text: str, value: Value) -> None:
        self.spec(text).writer()(self.run, value)

    def replace(self, text: str, value: Value) -> None:
        self.spec(text).replacer()(self.run, value)

    def format(self, text: str) -> str:
        return parse_format(text, self.catalogue)(self.run)

    @property
    def log(self) -> str:
        return "\n".join(line for _level, line in self.services.lines)
