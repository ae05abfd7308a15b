"""The usrloc module: parameters, management commands, events and statistics of the table of contacts."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Annotated, Any, Final

from opensipspy.db import Database, DatabaseError
from opensipspy.module import (
    Event,
    MiError,
    Module,
    Param,
    ParamError,
    Stat,
    Static,
    Timer,
    mi_command,
    script_function,
)
from opensipspy.modules.usrloc.api import (
    DELETE,
    EXPIRE,
    INSERT,
    STATE_NAMES,
    UPDATE,
    Callback,
    Change,
    Contact,
    Domain,
    Location,
    Record,
    StoreError,
    q_text,
)
from opensipspy.modules.usrloc.rows import FIELDS, LOCATION_TABLE, Rows
from opensipspy.modules.usrloc.store import MEMORY, SQL_ONLY, WRITE_BACK, WRITE_THROUGH, DomainStore
from opensipspy.script.run import Run, VarRef

LOG: Final = logging.getLogger(__name__)

# Preset -> (cluster_mode, restart_persistency, sql_write_mode).
PRESETS: Final = {
    "single-instance-no-db": ("none", "none", "none"),
    "single-instance-sql-write-through": ("none", "load-from-sql", "write-through"),
    "single-instance-sql-write-back": ("none", "load-from-sql", "write-back"),
    "sql-only": ("sql-only", "none", "none"),
}
DEFAULT_PRESET: Final = "single-instance-no-db"
CLUSTER_PRESETS: Final = ("federation-cachedb-cluster", "full-sharing-cluster", "full-sharing-cachedb-cluster")
CLUSTER_MODES: Final = ("federation-cachedb", "full-sharing", "full-sharing-cachedb")
# Fields whose parameter is not FIELD_column; last_modified has none.
COLUMN_PARAMS: Final = {"username": "user_column"}
NOT_ALONE: Final = "needs a cluster of servers, which this server does not join"

CONTACT_PARAMS: Final = (
    ("domain", "string"),
    ("aor", "string"),
    ("uri", "string"),
    ("received", "string"),
    ("path", "string"),
    ("qval", "int"),
    ("user_agent", "string"),
    ("socket", "string"),
    ("bflags", "int"),
    ("expires", "int"),
    ("callid", "string"),
    ("cseq", "int"),
    ("attr", "string"),
    ("latency", "int"),
    ("shtag", "string"),
)
REFRESH_PARAMS: Final = (
    *(p for p in CONTACT_PARAMS if p[0] not in ("path", "qval", "cseq", "latency")),
    ("reason", "string"),
    ("req_callid", "string"),
)
AOR_PARAMS: Final = (("domain", "string"), ("aor", "string"))

MI_CALL_ID: Final = "mi-command@opensipspy"
MI_USER_AGENT: Final = "opensipspy management"
REFRESH_CHECK_S: Final = 1.0


class Usrloc(Module, Location):
    """Keep the contacts that users have registered, for the registrar and for whoever looks them up."""

    name = "usrloc"
    wants = ("clusterer",)
    tables = (LOCATION_TABLE,)

    attr_column = Param(str, "attr", "Column of the script's own attributes.")
    cachedb_url = Param(str, None, "NoSQL database of the cluster modes that need one.")
    callid_column = Param(str, "callid", "Column of the Call-ID.")
    cflags_column = Param(str, "cflags", "Column of the branch flags.")
    cluster_mode = Param(str, None, '"none" or "sql-only": who shares the contacts.')
    contact_column = Param(str, "contact", "Column of the contact's URI.")
    contact_id_column = Param(str, "contact_id", "Column of the contact's number.")
    contact_refresh_timer = Param(int, 0, "Raise E_UL_CONTACT_REFRESH for contacts that must be woken to refresh.")
    cseq_column = Param(str, "cseq", "Column of the CSeq number.")
    cseq_delay = Param(
        int, 20, "How long a REGISTER with the same Call-ID and CSeq is a retransmission; 0 never.", unit="s"
    )
    db_url = Param(str, None, "The database; the global db_default_url when not set.")
    desc_time_order = Param(int, 0, "Order an AOR's contacts newest first instead of by q.")
    domain_column = Param(str, "domain", "Column of the user's domain.")
    expires_column = Param(str, "expires", "Column of the time the contact ends.")
    flags_column = Param(str, "flags", "Column of the internal flags.")
    ha_cluster = Param(int, 0, "Cluster of the hot-standby pair (federated clusters only).")
    ha_shtag = Param(str, None, "Sharing tag of the hot-standby pair (federated clusters only).")
    hash_size = Param(int, 9, "Power of two that the management commands show as hash_size; memory needs none.")
    kv_store_column = Param(str, "kv_store", "Column of the keys and values.")
    latency_event_min_us = Param(int, 0, "Raise E_UL_LATENCY_UPDATE for pings at least this slow.", unit="us")
    latency_event_min_us_delta = Param(int, 0, "Raise E_UL_LATENCY_UPDATE for changes this large.", unit="us")
    location_cluster = Param(int, 0, "Cluster that shares the contacts; 0 for none.")
    matching_mode = Param(int, 0, "What makes two contacts the same: 0 the URI, 1 the URI and the Call-ID.")
    max_contact_delete = Param(int, 10, "Rows deleted from the table in one go.")
    methods_column = Param(str, "methods", "Column of the methods the contact takes.")
    mi_dump_kv_store = Param(int, 0, "Show keys and values in management replies.")
    nat_bflag = Param(str, None, "Branch flag that marks contacts behind a NAT.")
    path_column = Param(str, "path", "Column of the Path.")
    pinging_mode = Param(str, None, '"ownership" or "cooperation": which server of a cluster pings a contact.')
    q_column = Param(str, "q", "Column of the q value.")
    received_column = Param(str, "received", "Column of the address the registration came from.")
    regen_broken_contactid = Param(int, 0, "Give contacts of the table with an unusable number a new one at start.")
    restart_persistency = Param(str, None, '"none" or "load-from-sql": where contacts come from at start.')
    sip_instance_column = Param(str, "sip_instance", "Column of +sip.instance.")
    skip_replicated_db_ops = Param(int, 0, "Write no rows for contacts that other servers of a cluster report.")
    socket_column = Param(str, "socket", "Column of the socket the registration came to.")
    sql_write_mode = Param(str, None, '"none", "write-through" or "write-back".')
    timer_interval = Param(int, 60, "How often expired contacts go and write-back writes.", unit="s")
    use_domain = Param(int, 1, "Whether the domain is a part of an AOR.")
    user_agent_column = Param(str, "user_agent", "Column of the User-Agent.")
    user_column = Param(str, "username", "Column of the user name.")
    working_mode_preset = Param(str, DEFAULT_PRESET, "A name for a choice of the three mode parameters.")

    registered_users = Stat("AORs in memory, of all domains.", computed="count_users")

    aor_insert = Event("E_UL_AOR_INSERT", AOR_PARAMS, "A user has a first contact.")
    aor_delete = Event("E_UL_AOR_DELETE", AOR_PARAMS, "A user has no contact any more.")
    contact_insert = Event("E_UL_CONTACT_INSERT", CONTACT_PARAMS, "A new contact.")
    contact_delete = Event("E_UL_CONTACT_DELETE", CONTACT_PARAMS, "A contact was removed or ran out.")
    contact_update = Event("E_UL_CONTACT_UPDATE", CONTACT_PARAMS, "A contact was registered again.")
    contact_refresh = Event("E_UL_CONTACT_REFRESH", REFRESH_PARAMS, "A contact has to be woken to register.")
    latency_update = Event("E_UL_LATENCY_UPDATE", CONTACT_PARAMS, "A ping of a contact came back.")

    expiry = Timer("timer_interval", "on_timer")
    refresh = Timer("refresh_interval", "on_refresh_timer")

    def __init__(self, **params: Any) -> None:
        self._domains: dict[str, DomainStore] = {}
        self._callbacks: list[Callback] = []
        self._refreshes: list[tuple[int, int, str, str]] = []  # (when, contact_id, domain, AOR), a heap
        self._to_refresh: set[int] = set()
        self._database: Database | None = None
        self._told_failure = False
        self._prepared = False
        self.mode = MEMORY
        super().__init__(**params)

    @property
    def refresh_interval(self) -> float:
        """Seconds between two looks for contacts to wake; 0 when nobody asked for it."""
        return REFRESH_CHECK_S if self.contact_refresh_timer else 0.0

    # --- life

    def working_mode(self) -> int:
        """The mode that the parameters choose; raises ParamError for a value or a combination that cannot be."""
        given = (self.cluster_mode or "none", self.restart_persistency or "none", self.sql_write_mode or "none")
        preset = self.working_mode_preset
        # As a default it gives way to the three pieces; given by the script it overrides them.
        if self.given("working_mode_preset"):
            if preset in CLUSTER_PRESETS:
                raise ParamError(self.name, "working_mode_preset", f'"{preset}" {NOT_ALONE}')
            if preset not in PRESETS:
                raise ParamError(self.name, "working_mode_preset", f'"{preset}" is none of {", ".join(PRESETS)}')
            given = PRESETS[preset]
        cluster, persistency, write_mode = given
        if cluster in CLUSTER_MODES:
            raise ParamError(self.name, "cluster_mode", f'"{cluster}" {NOT_ALONE}')
        if cluster not in ("none", "sql-only"):
            raise ParamError(self.name, "cluster_mode", f'"{cluster}" is neither none nor sql-only')
        if persistency == "sync-from-cluster":
            raise ParamError(self.name, "restart_persistency", f'"{persistency}" {NOT_ALONE}')
        if persistency not in ("none", "load-from-sql"):
            raise ParamError(self.name, "restart_persistency", f'"{persistency}" is neither none nor load-from-sql')
        if write_mode not in ("none", "write-through", "write-back"):
            raise ParamError(self.name, "sql_write_mode", f'"{write_mode}" is no write mode')
        if self.pinging_mode is not None and self.pinging_mode not in ("ownership", "cooperation"):
            raise ParamError(self.name, "pinging_mode", f'"{self.pinging_mode}" is neither ownership nor cooperation')
        if cluster == "sql-only":
            return SQL_ONLY
        if persistency == "none":
            return MEMORY
        return WRITE_THROUGH if write_mode == "write-through" else WRITE_BACK

    async def start(self) -> None:
        self._prepare()
        for domain in list(self._domains.values()):
            await self._load(domain)

    def _prepare(self) -> None:
        if self._prepared:
            return
        self._prepared = True
        for param in ("matching_mode", "hash_size"):
            low, high = (0, 1) if param == "matching_mode" else (0, 16)
            if not low <= getattr(self, param) <= high:
                raise ParamError(self.name, param, f"takes {low} to {high}")
        self.mode = self.working_mode()
        if self.mode != MEMORY:
            url = self.db_url or getattr(self.core.globals, "db_default_url", None)
            if not url:
                raise ParamError(self.name, "db_url", "is needed by this working mode")
            try:
                self._database = self.core.database(url)
            except DatabaseError as error:
                raise ParamError(self.name, "db_url", str(error)) from error

    async def _load(self, domain: DomainStore) -> None:
        try:
            count = await domain.load(self.new_contact_id if self.regen_broken_contactid else None)
        except StoreError as error:
            # The server lives without yesterday's contacts; the next timer run tries again.
            self._failed(error)
        else:
            self._worked()
            if count:
                LOG.info("%d contacts loaded from table %s", count, domain.name)

    async def stop(self) -> None:
        for domain in self._domains.values():
            try:
                await domain.flush()
            except StoreError as error:
                LOG.error("%d contacts of %s are not written: %s", domain.pending, domain.name, error)

    # --- Location

    @property
    def nat_flag(self) -> int:
        return self.core.catalogue.flags.mask("branch", self.nat_bflag) if self.nat_bflag else 0

    def domain(self, name: str) -> DomainStore:
        found = self._domains.get(name)
        if found is None:
            self._prepare()
            columns = {field: getattr(self, COLUMN_PARAMS.get(field, f"{field}_column"), field) for field in FIELDS}
            found = self._domains[name] = DomainStore(
                name,
                self.mode,
                Rows(columns, bool(self.use_domain), self.core.catalogue.flags, lambda: self.core.sockets),
                database=self._database,
                clock=self.core.time,
                new_id=self.new_contact_id,
                notify=self._changed,
                newest_first=bool(self.desc_time_order),
                max_delete=self.max_contact_delete,
            )
            self.core.stats.computed(
                self.name, f"{name}-users", lambda: self._domains[name].users, help="AORs in memory."
            )
            self.core.stats.add(self.name, found.contacts)
            self.core.stats.add(self.name, found.expired)
        return found

    async def open_domain(self, name: str) -> DomainStore:
        domain = self.domain(name)
        await self._load(domain)
        return domain

    def domains(self) -> list[Domain]:
        return list(self._domains.values())

    def new_contact_id(self) -> int:
        return self.core.random.getrandbits(62) | 1

    def on(self, callback: Callback) -> None:
        self._callbacks.append(callback)

    def set_latency(self, domain: Domain, aor: str, contact: Contact, latency_us: int) -> None:
        before = contact.latency
        contact.latency = latency_us
        low, delta = self.latency_event_min_us, self.latency_event_min_us_delta
        if (not low and not delta) or (low and latency_us >= low) or (delta and abs(latency_us - before) >= delta):
            self._raise(self.latency_update, domain, aor, contact)

    def raise_refresh(self, domain: Domain, aor: str, contact: Contact, reason: str, req_callid: str = "") -> None:
        if self.contact_refresh.wanted:
            params = self._event_params(domain, aor, contact)
            for name in ("path", "qval", "cseq", "latency"):
                del params[name]
            self.contact_refresh(**params, reason=reason, req_callid=req_callid)

    def count_users(self) -> int:
        """AORs in memory, of all domains."""
        return sum(domain.users for domain in self._domains.values())

    # --- events

    def _changed(self, what: str, domain: Domain, aor: str, contact: Contact | None) -> None:
        if contact is None:
            event = self.aor_insert if what == INSERT else self.aor_delete
            if event.wanted:
                event(domain=domain.name, aor=aor)
            return
        if what == INSERT:
            self._raise(self.contact_insert, domain, aor, contact)
        elif what == UPDATE:
            self._raise(self.contact_update, domain, aor, contact)
        elif what == DELETE:
            self._raise(self.contact_delete, domain, aor, contact)
        if contact.refresh_at and what in (INSERT, UPDATE) and self.contact_refresh_timer:
            self._refresh_later(domain.name, aor, contact)
        for callback in self._callbacks:
            callback(what, domain, aor, contact)

    def _raise(self, event: Any, domain: Domain, aor: str, contact: Contact) -> None:
        if event.wanted:
            event(**self._event_params(domain, aor, contact))

    @staticmethod
    def _event_params(domain: Domain, aor: str, contact: Contact) -> dict[str, str | int]:
        return {
            "domain": domain.name,
            "aor": aor,
            "uri": contact.uri,
            "received": contact.received,
            "path": contact.path,
            "qval": max(0, contact.q) // 100,
            "user_agent": contact.user_agent,
            "socket": contact.socket.text if contact.socket is not None else "",
            "bflags": contact.cflags,
            "expires": contact.expires,
            "callid": contact.callid,
            "cseq": contact.cseq,
            "attr": contact.attr,
            "latency": contact.latency,
            "shtag": contact.shtag,
        }

    # --- timers

    async def on_timer(self) -> None:
        """Contacts that ran out go, write-back writes, and a table that could not be read at start is read."""
        try:
            for domain in list(self._domains.values()):
                if not domain.loaded:
                    await domain.load(self.new_contact_id if self.regen_broken_contactid else None)
                await domain.expire()
                await domain.flush()
        except StoreError as error:
            self._failed(error)
        else:
            self._worked()

    def on_refresh_timer(self) -> None:
        """Ask for the contacts to be woken whose time of re-registration has come."""
        now = self.core.time()
        while self._refreshes and self._refreshes[0][0] <= now:
            _, contact_id, name, aor = heappop(self._refreshes)
            self._to_refresh.discard(contact_id)
            domain = self._domains[name]
            record = domain.get(aor)
            for contact in record.valid(now) if record is not None else ():
                if contact.contact_id != contact_id or not contact.refresh_at:
                    continue
                if contact.refresh_at > now:  # it has registered again meanwhile
                    self._refresh_later(name, aor, contact)
                else:
                    self.raise_refresh(domain, aor, contact, "reg-refresh")

    def _refresh_later(self, domain: str, aor: str, contact: Contact) -> None:
        # One entry for each contact, however often it registers.
        if contact.contact_id not in self._to_refresh:
            self._to_refresh.add(contact.contact_id)
            heappush(self._refreshes, (contact.refresh_at, contact.contact_id, domain, aor))

    def _failed(self, error: StoreError) -> None:
        if not self._told_failure:
            self._told_failure = True
            LOG.error("contacts cannot be read or written: %s", error)

    def _worked(self) -> None:
        if self._told_failure:
            self._told_failure = False
            LOG.warning("contacts can be read and written again")

    # --- script functions

    @script_function()
    def ul_add_key(
        self, run: Run, domain: Annotated[str, Static()], aor: str, key_name: str, key_value: str | None = None
    ) -> int:
        """Keep a value under a name with a registered user; without a value (or with an empty one) forget it.

        Returns 1, -1 when the user is not registered.
        """
        record = self.domain(domain).get(self._plain_aor(aor))
        if record is None:
            return -1
        if not key_value:
            self._drop_key(record, key_name)
            return 1
        if record.kv is None:
            record.kv = {}
        record.kv[key_name] = key_value
        return 1

    @script_function()
    def ul_get_key(
        self, run: Run, domain: Annotated[str, Static()], aor: str, key_name: str, destination: VarRef
    ) -> int:
        """Read into `destination` what `ul_add_key` kept. Returns 1, -1 when there is no such user or name."""
        record = self.domain(domain).get(self._plain_aor(aor))
        if record is None or record.kv is None or key_name not in record.kv:
            return -1
        destination.set(run, record.kv[key_name])
        return 1

    @script_function()
    def ul_del_key(self, run: Run, domain: Annotated[str, Static()], aor: str, key_name: str) -> int:
        """Forget what `ul_add_key` kept. Returns 1, -1 when the user is not registered."""
        record = self.domain(domain).get(self._plain_aor(aor))
        if record is None:
            return -1
        self._drop_key(record, key_name)
        return 1

    @staticmethod
    def _drop_key(record: Record, key: str) -> None:
        if record.kv is not None:
            record.kv.pop(key, None)
            if not record.kv:
                record.kv = None

    def _plain_aor(self, aor: str | None) -> str:
        text = aor or ""
        return text if self.use_domain else text.partition("@")[0]

    # --- management commands

    def _find(self, table_name: str) -> DomainStore:
        domain = self._domains.get(table_name)
        if domain is None:
            raise MiError(404, "Table not found")
        return domain

    def _aor(self, aor: str) -> str:
        if self.use_domain and "@" not in aor:
            raise MiError(400, "Domain missing in AOR")
        return self._plain_aor(aor)

    @mi_command("usrloc:dump", aliases=("ul_dump",), params=((), ("brief",)), types={"brief": "int"})
    async def dump(self, brief: int = 0) -> dict[str, Any]:
        """All contacts in memory, by domain and AOR; `brief` leaves the contacts out."""
        domains = []
        for domain in self._domains.values():
            aors = [self._show(record, bool(brief)) for record in domain.records()]
            domains.append({"name": domain.name, "hash_size": 1 << self.hash_size, "AORs": aors})
        return {"Domains": domains}

    @mi_command("usrloc:show_contact", aliases=("ul_show_contact",), params=(("table_name", "aor"),))
    async def show_contact(self, table_name: str, aor: str) -> dict[str, Any]:
        """The contacts of one AOR."""
        domain = self._find(table_name)
        try:
            record = await domain.find(self._aor(aor))
        except StoreError as error:
            raise MiError(500, "Internal Error") from error
        if record is None:
            raise MiError(404, "AOR not found")
        return self._show(record, False)

    def _show(self, record: Record, brief: bool) -> dict[str, Any]:
        shown: dict[str, Any] = {"AOR": record.aor}
        if brief:
            return shown
        now = int(self.core.time())
        shown["Contacts"] = [self._show_contact(contact, now) for contact in record.contacts]
        if self.mi_dump_kv_store and record.kv:
            shown["KV-Store"] = json.dumps(record.kv)
        return shown

    def _show_contact(self, contact: Contact, now: int) -> dict[str, Any]:
        expires: str | int = contact.expires - now
        if contact.expires == 0:
            expires = "permanent"
        elif now > contact.expires:
            expires = "expired"
        shown: dict[str, Any] = {
            "Contact": contact.uri,
            "ContactID": str(contact.contact_id),
            "Expires": expires,
            "Q": q_text(contact.q),
            "Callid": contact.callid,
            "Cseq": contact.cseq,
        }
        told = (("User-agent", contact.user_agent), ("Received", contact.received), ("Path", contact.path))
        shown |= {name: value for name, value in told if value}
        shown["State"] = STATE_NAMES[contact.state]
        shown["Flags"] = contact.flags
        shown["Cflags"] = " ".join(self.core.catalogue.flags.names("branch", contact.cflags))
        if contact.socket is not None:
            shown["Socket"] = contact.socket.text
        shown["Methods"] = contact.methods
        if contact.attr:
            shown["Attr"] = contact.attr
        if contact.sip_instance:
            shown["SIP_instance"] = contact.sip_instance
        if contact.latency > 0:
            shown["Ping-Latency"] = contact.latency
        if self.mi_dump_kv_store and contact.kv:
            shown["KV-Store"] = json.dumps(contact.kv)
        return shown

    @mi_command(
        "usrloc:add",
        aliases=("ul_add",),
        params=(("table_name", "aor", "contact", "expires", "q", "flags", "cflags", "methods"),),
        types={"expires": "int", "flags": "int", "cflags": "int", "methods": "int"},
    )
    async def add(
        self, table_name: str, aor: str, contact: str, expires: int, q: str, flags: int, cflags: int, methods: int
    ) -> str:
        """Add a contact, or refresh the one with the same URI; `expires` 0 makes it permanent."""
        domain = self._find(table_name)
        name = self._aor(aor)
        try:
            # str.isprintable would refuse names in other scripts' spaces; only what breaks a header line matters.
            if not contact or any(c in contact for c in "\r\n\0") or expires < 0:
                raise ValueError(contact)
            parts = float(q) if q else -1.0
            if q and not 0 <= parts <= 1:
                raise ValueError(q)
        except ValueError as error:
            raise MiError(400, "Bad parameter value") from error
        now = int(self.core.time())
        made = Contact(
            contact,
            now + expires if expires else 0,
            q=round(parts * 1000) if q else -1,
            callid=MI_CALL_ID,
            cseq=1,
            flags=flags,
            cflags=cflags,
            user_agent=MI_USER_AGENT,
            methods=methods,
            last_modified=now,
        )
        change = Change(name)
        async with self._held(domain, name) as record:
            same = next((c for c in record.contacts if c.uri == contact), None) if record is not None else None
            if same is None:
                change.inserts.append(made)
            else:
                made.socket, made.received, made.path = same.socket, same.received, same.path
                change.updates.append((same, made))
            await domain.commit(change)
        return "OK"

    @mi_command("usrloc:rm", aliases=("ul_rm",), params=(("table_name", "aor"),))
    async def rm(self, table_name: str, aor: str) -> str:
        """Remove an AOR with all its contacts."""
        domain = self._find(table_name)
        name = self._aor(aor)
        change = Change(name)
        async with self._held(domain, name) as record:
            if record is None:
                raise MiError(404, "AOR not found")
            change.deletes = list(record.contacts)
            await domain.commit(change)
        return "OK"

    @mi_command("usrloc:rm_contact", aliases=("ul_rm_contact",), params=(("table_name", "aor", "contact"),))
    async def rm_contact(self, table_name: str, aor: str, contact: str) -> str:
        """Remove the contact with exactly this URI from an AOR."""
        domain = self._find(table_name)
        name = self._aor(aor)
        change = Change(name)
        async with self._held(domain, name) as record:
            if record is None:
                raise MiError(404, "AOR not found")
            change.deletes = [c for c in record.contacts if c.uri == contact]
            if not change.deletes:
                raise MiError(404, "Contact not found")
            await domain.commit(change)
        return "OK"

    def _held(self, domain: DomainStore, aor: str) -> _Held:
        return _Held(domain, aor)

    @mi_command("usrloc:flush", aliases=("ul_flush",))
    async def flush(self) -> str:
        """Write now what write-back would write at the next timer run."""
        try:
            for domain in self._domains.values():
                await domain.flush()
                if domain.database is not None:
                    await domain.database.ping()
        except StoreError as error:
            raise MiError(500, "Database failure") from error
        return "OK"

    @mi_command("usrloc:sync", aliases=("ul_sync",), params=(("table_name",), ("table_name", "aor")))
    async def sync(self, table_name: str, aor: str | None = None) -> str:
        """Empty the table (or the rows of one AOR) and write what memory holds."""
        domain = self._find(table_name)
        if self.mode in (MEMORY, SQL_ONLY):
            raise MiError(400, "Not available in this working mode")
        name = self._aor(aor) if aor is not None else None
        if name is not None and domain.get(name) is None:
            raise MiError(404, "AOR not found")
        try:
            await domain.synchronize(name)
        except StoreError as error:
            raise MiError(500, "Database failure") from error
        return "OK"

    @mi_command("usrloc:cluster_sync", aliases=("ul_cluster_sync",))
    async def cluster_sync(self) -> str:
        """Fetch all contacts from another server of the cluster; a server on its own answers 400."""
        raise MiError(400, "Clustering not enabled")


class _Held:
    """`Domain.changing` for management commands: a database that fails is error 500 of the command."""

    __slots__ = ("_held",)

    def __init__(self, domain: DomainStore, aor: str) -> None:
        self._held = domain.changing(aor)

    async def __aenter__(self) -> Record | None:
        try:
            return await self._held.__aenter__()
        except StoreError as error:
            raise MiError(500, "Internal Error") from error

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        await self._held.__aexit__(kind, error, trace)
        if isinstance(error, StoreError):
            raise MiError(500, "Internal Error") from error


def all_contacts(domain: Domain) -> Iterator[tuple[str, Contact]]:
    """(AOR, contact) of everything a domain holds in memory."""
    for record in domain.records():
        for contact in record.contacts:
            yield record.aor, contact


__all__ = ["EXPIRE", "Usrloc", "all_contacts"]
