"""A Diameter peer (RFC 6733): requests and answers of scripts, and the base protocol with the peers around.

The peers are named in a file of freeDiameter's syntax: `Identity`, `Realm`, `Port`, `ListenOn`, `TcTimer`, `TwTimer`,
`ConnectPeer = "hss.example.org" { ConnectTo = "192.0.2.1"; Port = 3868; No_TLS; };`. Without No_TLS the connection is
one of TLS (port 5658), for which `TLS_Cred = "CERTIFICATE", "KEY";` and `TLS_CA = "FILE";` are needed, and optionally
`TLS_CRL`; with them others connect to `SecPort`. Certificates have to name the Diameter identity of the peer. The
status report of the group `aaa` shows for each peer whether it is connected. Modules whose `aaa_url` is diameter:FILE
(auth_aaa, acc, group, peering) share this peer.

Where the kernel has SCTP (Linux: the module `sctp`), peers with No_TLS are connected over it, and over TCP when that
does not come about; others connect to `Port` with either. `No_SCTP`, `No_TCP` and `Prefer_TCP` say otherwise, for all
or within ConnectPeer; `SCTP_streams` is what an association is opened with. DTLS over SCTP is not provided.

With several peers the one named by `peer_identity` is preferred, then their order in the file counts; a request whose
peer is lost goes to the next. Origin-Host, Origin-Realm and Destination-Realm are added where a script leaves them out.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

from opensipspy.aaa import AaaClient, AaaDriver, AaaError
from opensipspy.management.registry import Json
from opensipspy.module import (
    Event,
    MiError,
    Module,
    Param,
    ParamError,
    StartError,
    mi_command,
    script_function,
)
from opensipspy.modules.aaa_diameter.aaa import DiameterClient
from opensipspy.modules.aaa_diameter.api import Avps, DiameterApi, DiameterFailure, DiameterReply
from opensipspy.modules.aaa_diameter.codec import (
    APPLICATION_UNSUPPORTED,
    AVP_UNSUPPORTED,
    COMMAND_UNSUPPORTED,
    ERROR,
    MISSING_AVP,
    PROXIABLE,
    REALM_NOT_SERVED,
    REQUEST,
    RETRANSMITTED,
    UNABLE_TO_DELIVER,
    Avp,
    DiameterError,
    Message,
    encode_avps,
)
from opensipspy.modules.aaa_diameter.config import Config, ConfigError, parse_allowed, parse_config, parse_url
from opensipspy.modules.aaa_diameter.dictionary import Dictionary, DictionaryError
from opensipspy.modules.aaa_diameter.node import (
    DESTINATION_HOST,
    DESTINATION_REALM,
    ERROR_MESSAGE,
    ORIGIN_HOST,
    ORIGIN_REALM,
    PROXY_INFO,
    RESULT_CODE,
    SESSION_ID,
    Held,
    Node,
    Owner,
    Unreachable,
)
from opensipspy.modules.aaa_diameter.tls import Tls
from opensipspy.script.kinds import ALL, EVENT
from opensipspy.script.run import Run, VarRef

OK: Final = 1
FAILED: Final = -1
TIMED_OUT: Final = -2
TRANSACTION_ID: Final = 231
FAILED_AVP: Final = 279
LOG_LEVELS: Final = (0, 1, 3, 5, 6)
QUIET: Final = 5
"""From this level on peers that come are not told; below it, those that come are."""
CHATTY: Final = 1
"""Up to this level each request and answer is told."""
MAX_FILE: Final = 1 << 20
TOKEN: Final = "_fdmsg_"
REQUEST_EVENT: Final = "E_DM_REQUEST"
STATUS_GROUP: Final = "aaa"
MAX_SHOWN: Final = 256
"""Peers in the status report; of those that are let in by a pattern no more are shown."""
CONNECTED: Final = 1
AWAY: Final = -1


class AaaDiameter(Module, DiameterApi, AaaDriver, Owner):
    """Talk Diameter (RFC 6733): send requests, answer those of peers, keep the connections."""

    name = "aaa_diameter"

    fd_log_level = Param(int, 3, "How quiet: 0 and 1 tell of each message, 3 of peers, 5 of lost ones, 6 of none.")
    realm = Param(str, "diameter.test", "The realm that requests go to when neither they nor the file names one.")
    peer_identity = Param(str, "server", "The peer to prefer: its host name in the realm, or its whole identity.")
    aaa_url = Param(str, None, "diameter:FILE, optionally with ;extra-avps-file:FILE; nothing is connected without it.")
    answer_timeout = Param(int, 2000, "How long a request waits for its answer.", unit="ms")
    max_json_log_size = Param(int, 512, "Characters of a malformed JSON text that are logged.")

    request_event = Event(
        REQUEST_EVENT, params=("sess_id", "app_id", "cmd_code", "avps_json", TOKEN), help="A peer sent a request."
    )

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        if self.answer_timeout < 1:
            raise ParamError(self.name, "answer_timeout", "is at least 1")
        if not self.peer_identity:
            raise ParamError(self.name, "peer_identity", "is not empty")
        self.dictionary = Dictionary()
        self.node: Node | None = None
        self._url = ""
        self._config: Config | None = None
        self._tls: Tls | None = None
        self._level = self.fd_log_level
        self._waiting: dict[str, Held] = {}
        self._sessions = 0

    # --- life

    def api(self) -> DiameterApi:
        return self

    async def start(self) -> None:
        self._level = self.fd_log_level
        if self.aaa_url:
            try:
                self.use(self.aaa_url)
            except ValueError as error:
                raise ParamError(self.name, "aaa_url", str(error)) from error
            await self._begin()

    def use(self, url: str) -> None:
        if self._config is not None:
            if url != self._url:
                raise ValueError(f"is another than {self._url}, which is in use: there is one peer in a server")
            return
        name, extra = parse_url(url)
        config = parse_config(self._read(name))
        for file in config.allow_files:
            config.allowed += parse_allowed(self._read(file))
        if extra:
            try:
                self.dictionary.load(self._read(extra))
            except DictionaryError as error:
                raise ConfigError(f"{extra}, {error}") from error
        if config.certificate and config.authorities:
            self._tls = Tls(config, Path(self.core.script_folder))
        self._url, self._config = url, config

    async def open(self) -> None:
        """Connect and listen as `use` said; called by modules that bring their own URL."""
        await self._begin()

    async def open_client(self, url: str) -> AaaClient:
        """The client for a module's `aaa_url`; all of them share the one peer."""
        try:
            self.use(url)
        except ValueError as error:
            raise AaaError(f"{url} {error}") from error
        await self._begin()
        return DiameterClient(self, self.dictionary, self._session_id)

    def _session_id(self) -> str:
        """RFC 6733 §8.8."""
        return f"{self.identity};{int(self.core.time())};{self.core.random.getrandbits(32)}"

    async def _begin(self) -> None:
        if self.node is not None or self._config is None:
            return
        prefer = self.peer_identity if "." in self.peer_identity else f"{self.peer_identity}.{self.realm}"
        random, now, log = self.core.random, self.core.now, self.core.log
        self.node = Node(self._config, self.dictionary, self, random, now, log, prefer, self._tls)
        for peer in self._config.peers:
            self.core.status.add(STATUS_GROUP, peer.identity.lower(), AWAY, "not connected yet")
        try:
            await self.node.start()
        except OSError as error:
            raise StartError(f"aaa_diameter: cannot listen: {error}") from error

    async def stop(self) -> None:
        if self.node is not None:
            await self.node.stop()

    def _read(self, name: str) -> str:
        path = Path(self.core.script_folder, name)
        try:
            with path.open("rb") as file:
                data = file.read(MAX_FILE + 1)
        except OSError as error:
            raise ConfigError(f"{name}: {error.strerror}") from error
        if len(data) > MAX_FILE:
            raise ConfigError(f"{name} has more than {MAX_FILE} octets")
        return data.decode("utf-8", "surrogateescape")

    # --- Owner

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        return self.core.spawn(work, name)

    def peer_changed(self, identity: str, is_open: bool, why: str) -> None:
        text = f"connected over {why}" if is_open else f"lost: {why}"
        shown = self.core.status.group(STATUS_GROUP) or {}
        if identity in shown or len(shown) < MAX_SHOWN:
            self.core.status.set_status(STATUS_GROUP, CONNECTED if is_open else AWAY, text, identity)
            self.core.status.report(STATUS_GROUP, text, identity)
        if is_open and self._level < QUIET:
            self.core.log.info("aaa_diameter: connected with %s over %s", identity, why)
        elif not is_open and self._level <= QUIET:
            self.core.log.warning("aaa_diameter: lost %s: %s", identity, why)

    def request_came(self, held: Held) -> None:
        message = held.message
        if self._level <= CHATTY:
            self.core.log.info("aaa_diameter: from %s: %r", held.link.identity, message)
        refusal = self._refusal(message)
        if refusal is not None:
            self._refuse(held, *refusal)
            return
        try:
            avps = self.dictionary.decode(message.avps)
        except DiameterError as error:
            held.link.close(f"it sent garbage: {error}")
            return
        if not self._has_route():
            self._refuse(held, COMMAND_UNSUPPORTED, "Command Not Implemented")
            return
        session = message.find(SESSION_ID) or message.find(TRANSACTION_ID)
        self._forget_old()
        self._sessions += 1
        token = f"{self._sessions:x}"
        self._waiting[token] = held
        # Not by calling the event: a call would take the last underscore off the name of the token.
        params = {
            "sess_id": None if session is None else session.data.decode("utf-8", "surrogateescape"),
            "app_id": message.application,
            "cmd_code": message.command,
            "avps_json": _json(avps),
            TOKEN: token,
        }
        self.core.events.raise_event(REQUEST_EVENT, params)

    def _has_route(self) -> bool:
        return any(name == REQUEST_EVENT for name, _ in getattr(self.core.program, "event_routes", ()))

    def _forget_old(self) -> None:
        """Forget the tokens of requests that the node has forgotten."""
        node = self.node
        for token, held in list(self._waiting.items()):
            if node is not None and node.holds(held):
                break
            del self._waiting[token]

    def _refusal(self, message: Message) -> tuple[int, str, Avp | None] | None:
        """Why a request is not for a script (RFC 6733 §6.1, §7.1): a result, its text, the AVP at fault."""
        config = self._config
        assert config is not None
        realm, host = message.text(DESTINATION_REALM).lower(), message.text(DESTINATION_HOST).lower()
        if realm and realm != config.realm.lower():
            return REALM_NOT_SERVED, "this realm is not served here", None
        if host and host != config.identity.lower():
            return UNABLE_TO_DELIVER, "requests are not relayed here", None
        if message.application not in self.dictionary.applications:
            return APPLICATION_UNSUPPORTED, "this application is not supported here", None
        rules = self.dictionary.requests.get(message.command)
        if rules is None:
            return COMMAND_UNSUPPORTED, "Command Not Implemented", None
        unknown = self.dictionary.unknown(message.avps)
        if unknown is not None:
            return AVP_UNSUPPORTED, f"AVP {unknown.code} of vendor {unknown.vendor} is not supported", unknown
        missing = self.dictionary.missing(rules, message.avps)
        if missing is not None:
            return MISSING_AVP, f"{missing.name} is missing", Avp(missing.code, b"", missing.vendor, missing.flags)
        return None

    def _refuse(self, held: Held, result: int, text: str, failed: Avp | None = None) -> None:
        node = self.node
        assert node is not None
        answer = node.base_answer(held.message, result, text)
        if failed is not None:
            answer.avps.append(Avp(FAILED_AVP, encode_avps([failed])))
        node.answer(held, answer)

    # --- requests

    @property
    def identity(self) -> str:
        return self._config.identity if self._config is not None else ""

    def knows_command(self, command: int) -> bool:
        return command in self.dictionary.requests

    def end_to_end(self) -> int:
        return self.node.next_end() if self.node is not None else 0

    async def request(
        self, application: int, command: int, avps: Avps, end_to_end: int = 0, again: bool = False
    ) -> DiameterReply:
        node, config = self.node, self._config
        if node is None or config is None:
            raise DiameterFailure("no aaa_url is set")
        if not self.knows_command(command):
            raise DiameterFailure(f"command {command} is not in the dictionary: define it in the extra-avps-file")
        try:
            flags = REQUEST | PROXIABLE | (RETRANSMITTED if again else 0)
            message = Message(command, application, flags, self.dictionary.encode(avps), end_to_end=end_to_end)
            self._complete(message, config)
            if self._level <= CHATTY:
                self.core.log.info("aaa_diameter: sends %r", message)
            answer = await node.request(message, self.answer_timeout / 1000)
            found = self.dictionary.decode(answer.avps)
        except TimeoutError:
            raise DiameterFailure(f"no answer in {self.answer_timeout} ms", timed_out=True) from None
        except (Unreachable, DiameterError) as error:
            away = isinstance(error, Unreachable)
            raise DiameterFailure(str(error), unreachable=away, sent=getattr(error, "sent", False)) from error
        if self._level <= CHATTY:
            self.core.log.info("aaa_diameter: got %r", answer)
        failed = answer.is_error or answer.find(ERROR_MESSAGE) is not None
        return DiameterReply(found, failed, answer.number(RESULT_CODE) or 0)

    def _complete(self, message: Message, config: Config) -> None:
        """What every request carries (RFC 6733 §6.1.1), where it is not there."""
        make = self.dictionary.make
        if message.find(SESSION_ID) is None and message.find(TRANSACTION_ID) is None:
            message.avps.append(make("Transaction-Id", f"{self.core.random.getrandbits(64):016x}"))
        if message.find(ORIGIN_HOST) is None:
            message.avps.append(make("Origin-Host", config.identity))
        if message.find(ORIGIN_REALM) is None:
            message.avps.append(make("Origin-Realm", config.realm))
        if message.find(DESTINATION_REALM) is None:
            message.avps.append(make("Destination-Realm", self.realm if self.given("realm") else config.realm))
        # §8.8: the Session-Id comes first.
        message.avps.sort(key=lambda avp: avp.code != SESSION_ID or avp.vendor != 0)

    @script_function(routes=ALL, async_ok=True)
    async def dm_send_request(
        self, run: Run, app_id: int, cmd_code: int, avps_json: str | None, rpl_avps_pv: VarRef | None = None
    ) -> int:
        """Send a request with the AVPs of a JSON array, and put those of the answer into a variable.

        Returns 1, -1 for an error (the peer's too), -2 when no answer came in `answer_timeout`.
        """
        reply = None
        result = FAILED
        try:
            reply = await self.core.wait(self.request(app_id, cmd_code, self._parse(avps_json)))
            result = FAILED if reply.is_error else OK
        except DiameterFailure as error:
            self.core.log.error("aaa_diameter: request %d of application %d: %s", cmd_code, app_id, error)
            result = TIMED_OUT if error.timed_out else FAILED
        if rpl_avps_pv is not None:
            rpl_avps_pv.set(run, None if reply is None else _json(reply.avps))
        return result

    def _parse(self, text: str | None) -> Avps:
        text = text or ""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, list):
            shown = text[: max(0, self.max_json_log_size)]
            raise DiameterFailure(f"the AVPs are no JSON array ({shown!r}, {len(text)} characters)")
        return value

    @script_function(routes=EVENT)
    def dm_send_answer(self, run: Run, avps_json: str | None, is_error: int | None = 0) -> int:
        """Answer the request of this E_DM_REQUEST with the AVPs of a JSON array; `is_error` sets the E flag.

        Session-Id, Transaction-Id and Proxy-Info are copied from the request. Returns -1 when it was answered, is
        older than two minutes, or its peer is gone.
        """
        node, config = self.node, self._config
        # The event's parameters lie below those of routes that the event route called.
        token = next((str(given[TOKEN]) for given in run.params if isinstance(given, dict) and TOKEN in given), "")
        held = self._waiting.get(token)
        if node is None or config is None or held is None:
            self.core.log.error("aaa_diameter: dm_send_answer: no request waits for this answer")
            return FAILED
        request = held.message
        try:
            avps = self.dictionary.encode(self._parse(avps_json))
            flags = request.flags & PROXIABLE | (ERROR if is_error else 0)
            answer = Message(request.command, request.application, flags, avps)
            session = request.find(SESSION_ID) or request.find(TRANSACTION_ID)
            if session is not None and answer.find(session.code) is None:
                answer.avps.insert(0, session)
            if answer.find(ORIGIN_HOST) is None:
                answer.avps.append(self.dictionary.make("Origin-Host", config.identity))
            if answer.find(ORIGIN_REALM) is None:
                answer.avps.append(self.dictionary.make("Origin-Realm", config.realm))
            answer.avps += [avp for avp in request.avps if avp.code == PROXY_INFO and not avp.vendor]
            sent = node.answer(held, answer)
        except (DiameterFailure, DiameterError) as error:
            self.core.log.error("aaa_diameter: dm_send_answer: %s", error)
            return FAILED
        del self._waiting[token]
        return OK if sent else FAILED

    # --- management

    @mi_command("aaa_diameter:fd_log_level", params=((), ("log_level",)), types={"log_level": "int"})
    def set_log_level(self, log_level: int | None = None) -> Json:
        """How quiet the peer is; with a level (0, 1, 3, 5, 6), set it."""
        if log_level is not None:
            if log_level not in LOG_LEVELS:
                raise MiError(400, "log_level is 0, 1, 3, 5 or 6")
            self._level = log_level
        return {"log_level": self._level}


def _json(avps: Avps) -> str:
    return json.dumps(avps, separators=(",", ":"), ensure_ascii=False)
