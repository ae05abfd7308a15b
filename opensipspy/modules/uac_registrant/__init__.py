"""Registrations of this server at registrars elsewhere: trunks of providers that want their customers to register.

RFC 3261 §10.2. The registrations live in buckets by a hash of their address of record. Every `timer_interval` seconds
each bucket is looked at once, one after the other, and what is due in a bucket is sent evenly over the time until the
next bucket's turn: a thousand registrations make a steady trickle, at the start too.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from opensipspy.cluster import ClusterApi, parse_tag
from opensipspy.db import Column, Database, DatabaseError, Index, Table, auto_id
from opensipspy.management.status import STATUS_LOADING, STATUS_NO_DATA, STATUS_READY
from opensipspy.module import (
    CancelHandle,
    Event,
    MiError,
    Module,
    Param,
    ParamError,
    Requires,
    mi_command,
)
from opensipspy.module.table_cache import TableCache, cell_int, cell_text, open_database
from opensipspy.modules.tm.api import Reply, TmApi
from opensipspy.modules.uac_auth.api import Login, UacAuthApi, answer, answer_all, is_stale, read_challenges
from opensipspy.modules.uac_registrant.record import (
    AUTHENTICATING,
    AUTHENTICATING_UNREGISTER,
    FAILED,
    INTERNAL_ERROR,
    LEAST_MIN_EXPIRES_S,
    LONGEST_EXPIRES_S,
    NOT_REGISTERED,
    REGISTER_TIMEOUT,
    REGISTERED,
    REGISTERING,
    REGISTRAR_ERROR,
    STATE_NAMES,
    UNREGISTERING,
    WAITING,
    WRONG_CREDENTIALS,
    Details,
    Key,
    Registrant,
)
from opensipspy.sip import (
    H_MIN_EXPIRES,
    H_PROXY_AUTHENTICATE,
    H_WWW_AUTHENTICATE,
    Credentials,
    Message,
    ParseError,
    Socket,
)

REGISTRANT_TABLE: Final = Table(
    "registrant",
    3,
    (
        auto_id(),
        Column("registrar", "string", 255, default=""),
        Column("proxy", "string", 255, null=True, default=None),
        Column("aor", "string", 255, default=""),
        Column("third_party_registrant", "string", 255, null=True, default=None),
        Column("username", "string", 64, null=True, default=None),
        Column("password", "string", 64, null=True, default=None),
        Column("binding_URI", "string", 255, default=""),
        Column("binding_params", "string", 64, null=True, default=None),
        Column("expiry", "unsigned int", 1, null=True, default=None),
        Column("forced_socket", "string", 64, null=True, default=None),
        Column("cluster_shtag", "string", 64, null=True, default=None),
        Column("state", "int", default="0"),
    ),
    (Index("registrant_idx", ("aor", "binding_URI", "registrar"), unique=True),),
)
ALL: Final = ("aor", "contact", "registrar")
TYPES: Final = dict.fromkeys(ALL, "string")
GROUP: Final = "uac_registrant"
ENABLED: Final = 0
DISABLED: Final = 1
MOST_BUCKETS_BITS: Final = 16
TAKE_OVER_S: Final = 0.01
"""Between two registrations that are taken over from another node."""
MOST_CHALLENGES: Final = 4
"""As often may one request be challenged: by a proxy, by the registrar, and each with a stale nonce."""
EVENTS: Final = {
    REGISTERING: "registering",
    AUTHENTICATING: "authenticating",
    REGISTERED: "registered",
    REGISTER_TIMEOUT: "register_timeout",
    INTERNAL_ERROR: "internal_error",
    WRONG_CREDENTIALS: "wrong_credentials",
    REGISTRAR_ERROR: "registrar_error",
    UNREGISTERING: "unregistering",
    AUTHENTICATING_UNREGISTER: "authenticating_unregister",
}


class UacRegistrant(Module):
    """Register at other servers, renew in time, and tell how each registration stands."""

    name = "uac_registrant"
    requires = (Requires("tm"), Requires("uac_auth"), Requires("clusterer", param="enable_clustering"))
    wants = ("clusterer",)
    tables = (REGISTRANT_TABLE,)

    hash_size = Param(int, 1, "Buckets, as a power of two.")
    timer_interval = Param(int, 100, "How long it takes to look at all buckets.", unit="s")
    failure_retry_interval = Param(int, 0, "Wait after a failure; the time of the registration when 0.", unit="s")
    default_expires = Param(int, 3600, "Time to register for when the table says none.", unit="s")
    reregister_expiry_percentage = Param(int, 100, "Renew when this part of the time has passed.", unit="%")
    enable_clustering = Param(
        int, 0, "1: a registration with a sharing tag is kept up by the node where that is active."
    )
    db_url = Param(str, None, "The database; the global db_default_url when not set.")
    table_name = Param(str, "registrant", "The table.")
    registrar_column = Param(str, "registrar", "Column: URI of the registrar.")
    proxy_column = Param(str, "proxy", "Column: URI of an outbound proxy, NULL or empty for none.")
    aor_column = Param(str, "aor", "Column: the address of record, for To.")
    third_party_registrant_column = Param(
        str, "third_party_registrant", "Column: URI for From; NULL or empty for the address of record."
    )
    username_column = Param(str, "username", "Column: user name for authentication.")
    password_column = Param(str, "password", "Column: password, or 0x and the HA1.")
    binding_URI_column = Param(str, "binding_URI", "Column: URI of the contact.")
    binding_params_column = Param(str, "binding_params", "Column: parameters of the contact, ;name=value.")
    expiry_column = Param(str, "expiry", "Column: seconds to register for.")
    forced_socket_column = Param(str, "forced_socket", "Column: the socket to send from.")
    cluster_shtag_column = Param(str, "cluster_shtag", "Column: a sharing tag, name/cluster; NULL or empty for none.")
    state_column = Param(str, "state", "Column: 0 enabled, 1 disabled.")

    registering = Event("E_REGISTRANT_REGISTERING", ALL, "The first REGISTER was sent.")
    authenticating = Event("E_REGISTRANT_AUTHENTICATING", ALL, "A REGISTER with credentials was sent.")
    registered = Event("E_REGISTRANT_REGISTERED", ALL, "The registrar has accepted.")
    register_timeout = Event("E_REGISTRANT_REGISTER_TIMEOUT", ALL, "The registrar does not answer.")
    internal_error = Event("E_REGISTRANT_INTERNAL_ERROR", ALL, "The request could not be sent, or the reply not read.")
    wrong_credentials = Event("E_REGISTRANT_WRONG_CREDENTIALS", ALL, "The credentials were refused.")
    registrar_error = Event("E_REGISTRANT_REGISTRAR_ERROR", ALL, "The registrar refuses.")
    unregistering = Event("E_REGISTRANT_UNREGISTERING", ALL, "A REGISTER that ends the registration was sent.")
    authenticating_unregister = Event(
        "E_REGISTRANT_AUTHENTICATING_UNREGISTER", ALL, "A REGISTER with credentials that ends it was sent."
    )

    def __init__(self, **params: Any) -> None:
        self._records: dict[Key, Registrant] = {}
        self._cluster: ClusterApi | None = None
        # Whether it was said that sharing tags need the cluster.
        self._told = False
        self._turn = 0
        self._ticks: CancelHandle | None = None
        self._planned: dict[Registrant, CancelHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        super().__init__(**params)

    # -- life ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        if not 0 <= self.hash_size <= MOST_BUCKETS_BITS:
            raise ParamError(self.name, "hash_size", f"{self.hash_size} is not 0 to {MOST_BUCKETS_BITS}")
        self._buckets = 1 << self.hash_size
        if self.timer_interval < self._buckets:
            raise ParamError(
                self.name, "timer_interval", f"{self.timer_interval} s is less than the {self._buckets} buckets"
            )
        if not 0 < self.reregister_expiry_percentage <= 100:
            raise ParamError(self.name, "reregister_expiry_percentage", "is 1 to 100")
        if self.failure_retry_interval < 0 or not 0 < self.default_expires <= LONGEST_EXPIRES_S:
            raise ParamError(self.name, "failure_retry_interval", "is 0 or more; default_expires is above 0")
        if self.enable_clustering:
            try:
                self._cluster = self.core.api("clusterer", ClusterApi)  # type: ignore[type-abstract]
            except LookupError as error:
                raise ParamError(self.name, "enable_clustering", str(error)) from error
            self._cluster.on_tag(self._tag_changed)
        self._tm = self.core.api("tm", TmApi)  # type: ignore[type-abstract]
        self._auth = self.core.api("uac_auth", UacAuthApi)  # type: ignore[type-abstract]
        database = open_database(self, self.db_url)
        self._table = self._reader(database)
        await self._table.start()
        self._tick_s = self.timer_interval / self._buckets
        self._ticks = self.core.every(self._tick_s, self._next_bucket)

    async def stop(self) -> None:
        if self._ticks is not None:
            self._ticks.cancel()
            self._table.stop()
        for handle in self._planned.values():
            handle.cancel()
        self._planned.clear()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- the table -----------------------------------------------------------------------------------------------

    def _columns(self) -> tuple[str, ...]:
        return (
            self.aor_column,
            self.binding_URI_column,
            self.registrar_column,
            self.proxy_column,
            self.third_party_registrant_column,
            self.username_column,
            self.password_column,
            self.binding_params_column,
            self.expiry_column,
            self.forced_socket_column,
            self.state_column,
            self.cluster_shtag_column,
        )

    def _reader(self, database: Database) -> TableCache[dict[Key, Details]]:
        return TableCache(
            self.core,
            database,
            self.table_name,
            REGISTRANT_TABLE.version or 0,
            self._columns(),
            dict,
            self._add_row,
            finish=self._take_all,
            order=self.aor_column,
        )

    def _add_row(self, data: dict[Key, Details], row: Any) -> None:
        details = self._read_row(row)
        data[details.key] = details

    def _read_row(self, row: Any) -> Details:
        """One row; raises ValueError."""
        expires = cell_int(row[8], "expiry", 0, LONGEST_EXPIRES_S, null=0)
        return Details(
            cell_text(row[0], "aor", most=255),
            cell_text(row[1], "binding_URI", most=255),
            cell_text(row[2], "registrar", most=255),
            proxy=cell_text(row[3], "proxy", null="", most=255),
            third_party=cell_text(row[4], "third_party_registrant", null="", most=255),
            user=cell_text(row[5], "username", null="", most=255),
            password=cell_text(row[6], "password", null="", most=255),
            params=cell_text(row[7], "binding_params", null="", most=1024),
            expires_s=expires or self.default_expires,
            socket=self._socket(cell_text(row[9], "forced_socket", null="", most=255)),
            enabled=cell_int(row[10], "state", -(2**31), 2**31, null=ENABLED) == ENABLED,
            tag=self._tag(cell_text(row[11], "cluster_shtag", null="", most=255)),
        )

    def _tag(self, text: str) -> tuple[str, int] | None:
        """The sharing tag that is meant, None for none; raises ValueError."""
        if not text.strip():
            return None
        if self._cluster is None and not self._told:
            self._told = True
            self.core.log.warning("uac_registrant: what has a sharing tag is registered with enable_clustering only")
        return parse_tag(text)

    def _is_mine(self, record: Registrant) -> bool:
        """Whether this node keeps a registration up, and not another one of the cluster."""
        tag = record.details.tag
        return tag is None or (self._cluster is not None and self._cluster.tag_active(*tag))

    def _tag_changed(self, name: str, cluster_id: int, active: bool) -> None:
        """A sharing tag is active here now: its registrations are taken over at once; or another node does it."""
        concerned = [record for record in self._records.values() if record.details.tag == (name, cluster_id)]
        for place, record in enumerate(concerned):
            if not active:
                self._forget_plan(record)
                self._change(record, NOT_REGISTERED)
            elif record.details.enabled:
                self._plan(record, place * TAKE_OVER_S)

    def _socket(self, text: str) -> Socket | None:
        """The listening point that is meant; raises ValueError for one that is not there."""
        if not text:
            return None
        wanted = text.lower()
        for socket in self.core.sockets:
            place = f"{socket.host_text}:{socket.port}".lower()
            if wanted in (socket.text.lower(), place):
                return socket
        raise ValueError(f"forced_socket {text} is none of our sockets")

    def _take_all(self, data: dict[Key, Details]) -> None:
        """What the table says now: registrations that are still there keep their state."""
        for key in [key for key in self._records if key not in data]:
            self._drop(self._records[key])
        for details in data.values():
            self._take(details)

    def _take(self, details: Details) -> Registrant:
        record = self._records.get(details.key)
        if record is None:
            call_id, from_tag = (f"{self.core.random.getrandbits(bits):0{bits // 4}x}" for bits in (96, 64))
            record = self._records[details.key] = Registrant(details, self._buckets, call_id, from_tag)
            self.core.status.add(GROUP, record.identifier, STATUS_NO_DATA, STATE_NAMES[NOT_REGISTERED])
            self.core.status.report(GROUP, f"created with state {STATE_NAMES[NOT_REGISTERED]}", record.identifier)
            return record
        before = record.details
        record.details = details
        record.wanted_s = details.expires_s
        if before.enabled != details.enabled:
            self._talk(record)
        return record

    def _drop(self, record: Registrant) -> None:
        record.gone = True
        self._forget_plan(record)
        del self._records[record.details.key]
        self.core.status.remove(GROUP, record.identifier)

    # -- when ----------------------------------------------------------------------------------------------------

    def _next_bucket(self) -> None:
        """Spread what is due in the bucket whose turn it is over the time until the next one's."""
        turn, self._turn = self._turn, (self._turn + 1) % self._buckets
        due = [record for record in self._records.values() if record.bucket == turn and self._is_due(record)]
        for place, record in enumerate(due):
            self._plan(record, place * self._tick_s / len(due))

    def _is_due(self, record: Registrant) -> bool:
        """Whether to send something before this bucket's next turn."""
        if record.busy or record in self._planned or not self._is_mine(record):
            return False
        now = self.core.time()
        if record.state == REGISTERED:
            return now + self.timer_interval >= record.due_at
        if record.state in FAILED:
            return (record.details.enabled or record.leaving) and now >= record.due_at
        return record.details.enabled

    def _plan(self, record: Registrant, delay_s: float) -> None:
        self._forget_plan(record)
        self._planned[record] = self.core.call_later(delay_s, self._talk, record)

    def _forget_plan(self, record: Registrant) -> None:
        handle = self._planned.pop(record, None)
        if handle is not None:
            handle.cancel()

    def _talk(self, record: Registrant) -> None:
        """Begin to send; while a reply is awaited, whoever waits for it looks again at what is wanted."""
        self._forget_plan(record)
        if record.busy or record.gone or not self._is_mine(record):
            return
        record.busy = True
        task = self.core.spawn(self._converse(record), "registrant")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _failed(self, record: Registrant, state: int, reply: Message | None = None) -> None:
        """Note a failure and when to try again: not before the registrar says (RFC 3261 §20.33)."""
        wait_s = float(self.failure_retry_interval or record.expires_s * self.reregister_expiry_percentage / 100)
        header = reply.named("Retry-After")[:1] if reply is not None else []
        if header:
            text = header[0].value.split(";")[0].split("(")[0].strip()
            if text.isascii() and text.isdigit():
                wait_s = max(wait_s, min(float(text[:9]), LONGEST_EXPIRES_S))
        record.leaving = not record.details.enabled
        record.due_at = self.core.time() + wait_s
        self._change(record, state)

    def _succeeded(self, record: Registrant, expires_s: int) -> None:
        record.expires_s = expires_s
        part_s = expires_s * self.reregister_expiry_percentage / 100
        record.due_at = self.core.time() + part_s
        record.leaving = False
        self._change(record, REGISTERED)
        if part_s <= self.timer_interval:
            # It would be over before this bucket's next turn but one: it gets a time of its own, just before.
            self._plan(record, max(1.0, min(part_s, expires_s * 0.9)))

    def _change(self, record: Registrant, state: int) -> None:
        record.state = state
        if record.gone:
            return
        name = STATE_NAMES[state]
        status = STATUS_READY if state == REGISTERED else STATUS_LOADING if state in WAITING else STATUS_NO_DATA
        self.core.status.set_status(GROUP, status, name, record.identifier)
        self.core.status.report(GROUP, f"state changed to {name}", record.identifier)
        event = EVENTS.get(state)
        if event is not None:
            aor, contact, registrar = record.details.key
            getattr(self, event)(aor=aor, contact=contact, registrar=registrar)

    # -- talking -------------------------------------------------------------------------------------------------

    async def _converse(self, record: Registrant) -> None:
        """Bring the registrar to what the record wants, also when that changes while a reply is awaited."""
        try:
            while not record.gone:
                wanted = record.details.enabled
                if wanted:
                    await self._register(record)
                else:
                    await self._unregister(record)
                if record.details.enabled == wanted:
                    return
        except ParseError as error:
            self.core.log.warning("uac_registrant: a reply for %s cannot be read: %s", record.details.aor, error)
            self._failed(record, INTERNAL_ERROR)
        finally:
            record.busy = False
            if not record.gone and not self._is_mine(record):
                self._forget_plan(record)
                self._change(record, NOT_REGISTERED)

    async def _register(self, record: Registrant) -> None:
        cleared = False
        shortened = 0
        while True:
            record.last_sent_at = self.core.time()
            headers = record.contact_line(record.wanted_s)
            reply = await self._exchange(record, headers, REGISTERING, AUTHENTICATING)
            if reply is None:
                return
            message = reply.message
            if message is None:
                self._failed(record, REGISTER_TIMEOUT if reply.status == 408 else INTERNAL_ERROR)
                return
            if reply.status == 423 and shortened < 2:
                least = min_expires(message)
                if least >= LEAST_MIN_EXPIRES_S and record.wanted_s < least:
                    # RFC 3261 §10.2.8: the same again, for at least as long as the registrar wants.
                    shortened += 1
                    record.wanted_s = least
                    continue
            if not 200 <= reply.status < 300:
                self._failed(record, REGISTER_TIMEOUT if reply.status == 408 else REGISTRAR_ERROR, message)
                return
            if not message.contacts:
                self._failed(record, INTERNAL_ERROR)
                return
            if record.details.single and len(message.contacts) > 1 and not cleared:
                # Bindings of former instances stand in the way: all go, and this one comes again.
                cleared = True
                if not await self._clear(record):
                    return
                continue
            self._succeeded(record, record.granted_s(message))
            return

    async def _clear(self, record: Registrant) -> bool:
        """Take all bindings of the address away (RFC 3261 §10.2.2)."""
        headers = "Contact: *\r\nExpires: 0\r\n"
        reply = await self._exchange(record, headers, UNREGISTERING, AUTHENTICATING_UNREGISTER)
        if reply is None:
            return False
        if reply.message is None or not 200 <= reply.status < 300:
            self._failed(record, REGISTER_TIMEOUT if reply.status == 408 else REGISTRAR_ERROR, reply.message)
            return False
        return True

    async def _unregister(self, record: Registrant) -> None:
        reply = await self._exchange(record, record.contact_line(0), UNREGISTERING, AUTHENTICATING_UNREGISTER)
        if reply is None:
            return
        if 200 <= reply.status < 300 and reply.message is not None:
            record.due_at = 0.0
            record.leaving = False
            self._change(record, NOT_REGISTERED)
        elif reply.message is None and reply.status != 408:
            self._failed(record, INTERNAL_ERROR)
        else:
            self._failed(record, REGISTER_TIMEOUT if reply.status == 408 else REGISTRAR_ERROR, reply.message)

    async def _exchange(self, record: Registrant, headers: str, first: int, then: int) -> Reply | None:
        """Send a REGISTER, answer challenges, and return the final reply; None when the record's state tells all."""
        answers: dict[tuple[str, str], str] = {}
        self._change(record, first)
        for _ in range(MOST_CHALLENGES + 1):
            reply = await self._send(record, headers + "".join(answers.values()))
            if record.gone:
                return None
            if reply.message is not None:
                record.peer = reply.message.source.address
            if reply.status not in (401, 407) or reply.message is None:
                return reply
            if not record.details.user or not record.details.password:
                self._failed(record, WRONG_CREDENTIALS)
                return None
            state = self._answer(record, reply.message, answers)
            if state:
                self._failed(record, state)
                return None
            self._change(record, then)
        self._failed(record, WRONG_CREDENTIALS)
        return None

    def _answer(self, record: Registrant, reply: Message, answers: dict[tuple[str, str], str]) -> int:
        """Add answers to the challenges of a reply; the state that tells why not, else 0 (RFC 3261 §22.1 to §22.3)."""
        kind, header = (
            (H_WWW_AUTHENTICATE, "Authorization")
            if reply.status == 401
            else (H_PROXY_AUTHENTICATE, "Proxy-Authorization")
        )
        details = record.details
        challenges = read_challenges(found.value for found in reply.all(kind))
        for challenge in challenges:
            if (header, challenge.realm) in answers and not is_stale(challenge):
                return WRONG_CREDENTIALS

        def make(challenge: Credentials, login: Login) -> str | None:
            return answer(challenge, login, "REGISTER", details.registrar, b"", self._auth.cnonce())

        made = answer_all(challenges, lambda realm: Login(details.user, realm, details.password), make)
        for challenge, text in made:
            answers[header, challenge.realm] = f"{header}: {text}\r\n"
        return 0 if made else INTERNAL_ERROR

    async def _send(self, record: Registrant, headers: str) -> Reply:
        details = record.details
        record.cseq += 1
        return await self._tm.request(
            "REGISTER",
            details.registrar,
            f"<{details.third_party or details.aor}>;tag={record.from_tag}",
            f"<{details.aor}>",
            f"Call-ID: {record.call_id}\r\nCSeq: {record.cseq} REGISTER\r\n{headers}",
            next_hop=details.proxy or None,
            socket=details.socket,
        )

    # -- management ----------------------------------------------------------------------------------------------

    def _record(self, aor: str, contact: str, registrar: str) -> Registrant:
        record = self._records.get((aor, contact, registrar))
        if record is None:
            raise MiError(404, "No such registrant")
        return record

    @mi_command("uac_registrant:list", aliases=("reg_list",), params=((), ALL), types=TYPES)
    def list_registrants(self, aor: str = "", contact: str = "", registrar: str = "") -> Any:
        """All registrations and how they stand, or one."""
        if aor or contact or registrar:
            return {"Registrant": shown(self._record(aor, contact, registrar))}
        return {"Records": [shown(record) for record in self._records.values()]}

    @mi_command("uac_registrant:reload", aliases=("reg_reload",), params=((), ALL), types=TYPES)
    async def reload_registrants(self, aor: str = "", contact: str = "", registrar: str = "") -> str:
        """Read the table again, or one row of it."""
        try:
            if not (aor or contact or registrar):
                await self._table.load()
                return "OK"
            where = (
                (self.aor_column, "=", aor),
                (self.binding_URI_column, "=", contact),
                (self.registrar_column, "=", registrar),
            )
            rows = await self._table.database.select(self.table_name, self._columns(), where)
            if not rows:
                raise MiError(404, "No such registrant in database")
            self._take(self._read_row(rows[0]))
        except DatabaseError as error:
            self.core.log.error("uac_registrant: %s", error)
            raise MiError(500, "Failed to reload", str(error)) from error
        except ValueError as error:
            raise MiError(500, "Failed to reload", str(error)) from error
        return "OK"

    @mi_command("uac_registrant:enable", aliases=("reg_enable",), params=(ALL,), types=TYPES)
    async def enable(self, aor: str, contact: str, registrar: str) -> str:
        """Register from now on, at once; the table is changed too."""
        return await self._set_enabled(self._record(aor, contact, registrar), enabled=True)

    @mi_command("uac_registrant:disable", aliases=("reg_disable",), params=(ALL,), types=TYPES)
    async def disable(self, aor: str, contact: str, registrar: str) -> str:
        """End a registration at once and register no more; the table is changed too."""
        return await self._set_enabled(self._record(aor, contact, registrar), enabled=False)

    async def _set_enabled(self, record: Registrant, *, enabled: bool) -> str:
        if record.details.enabled == enabled:
            return "OK"
        record.details.enabled = enabled
        self._talk(record)
        aor, contact, registrar = record.details.key
        where = (
            (self.aor_column, "=", aor),
            (self.binding_URI_column, "=", contact),
            (self.registrar_column, "=", registrar),
        )
        row = {self.state_column: ENABLED if enabled else DISABLED}
        try:
            await self._table.database.update(self.table_name, row, where)
        except DatabaseError as error:
            self.core.log.error("uac_registrant: the new state of %s is not in the table: %s", aor, error)
            raise MiError(500, "Failed to update the database", str(error)) from error
        return "OK"

    @mi_command("uac_registrant:force_register", aliases=("reg_force_register",), params=(ALL,), types=TYPES)
    def force_register(self, aor: str, contact: str, registrar: str) -> str:
        """Register again at once a registration that is enabled."""
        record = self._record(aor, contact, registrar)
        if not record.details.enabled:
            raise MiError(400, "The registrant is disabled")
        if not self._is_mine(record):
            raise MiError(400, "The sharing tag is not active here")
        self._talk(record)
        return "OK"

    @mi_command(
        "uac_registrant:upsert",
        aliases=("reg_upsert",),
        params=(
            (
                *ALL,
                "proxy",
                "third_party_registrant",
                "username",
                "password",
                "binding_params",
                "expiry",
                "forced_socket",
                "cluster_shtag",
                "state",
            ),
        ),
        types={
            **TYPES,
            "proxy": "string",
            "third_party_registrant": "string",
            "username": "string",
            "password": "string",
            "binding_params": "string",
            "expiry": "int",
            "forced_socket": "string",
            "cluster_shtag": "string",
            "state": "int",
        },
    )
    def upsert(
        self,
        aor: str,
        contact: str,
        registrar: str,
        proxy: str,
        third_party_registrant: str,
        username: str,
        password: str,
        binding_params: str,
        expiry: int,
        forced_socket: str,
        cluster_shtag: str,
        state: int,
    ) -> str:
        """Add or change a registration in memory only."""
        try:
            details = Details(
                aor,
                contact,
                registrar,
                proxy=proxy,
                third_party=third_party_registrant,
                user=username,
                password=password,
                params=binding_params,
                expires_s=expiry or self.default_expires,
                socket=self._socket(forced_socket),
                enabled=state == ENABLED,
                tag=self._tag(cluster_shtag),
            )
        except ValueError as error:
            raise MiError(400, "Bad parameter value", str(error)) from error
        record = self._take(details)
        if record.details.enabled and not record.busy:
            record.due_at = 0.0
        return "OK"

    @mi_command("uac_registrant:delete", aliases=("reg_delete",), params=(ALL,), types=TYPES)
    def delete(self, aor: str, contact: str, registrar: str) -> str:
        """Forget a registration in memory only; the registrar keeps the binding until its time is over."""
        self._drop(self._record(aor, contact, registrar))
        return "OK"


def min_expires(reply: Message) -> int:
    """The value of Min-Expires, 0 without a sane one."""
    header = reply.first(H_MIN_EXPIRES)
    text = header.value.strip() if header is not None else ""
    return min(int(text), LONGEST_EXPIRES_S) if text.isascii() and text.isdigit() and len(text) < 12 else 0


def shown(record: Registrant) -> dict[str, Any]:
    """One registration as management clients read it; the password stays here."""
    details = record.details
    found: dict[str, Any] = {
        "AOR": details.aor,
        "expires": record.expires_s,
        "state": STATE_NAMES[record.state],
        "enabled": "yes" if details.enabled else "no",
        "last_register_sent": time.ctime(record.last_sent_at),
        "registration_t_out": time.ctime(record.due_at),
        "registrar": details.registrar,
        "binding": details.contact,
    }
    if details.params:
        found["binding_params"] = details.params
    if details.third_party:
        found["third_party_registrant"] = details.third_party
    if details.socket is not None:
        found["socket"] = details.socket.text
    if details.proxy:
        found["proxy"] = details.proxy
    if details.tag is not None:
        found["shtag"], found["cluster_id"] = details.tag
    if record.peer:
        found["dst_IP"] = "IPv6" if ":" in record.peer else "IPv4"
        found["ip"] = record.peer
    return found
