"""The registrar module: parameters and script functions. The rules are in `binding`, the destinations in `lookup`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from secrets import token_hex
from typing import Annotated, Any, Final

from opensipspy.module import (
    Fixup,
    Flags,
    LocateError,
    Module,
    Named,
    Param,
    ParamError,
    Requires,
    Stat,
    Static,
    Wants,
    script_function,
)
from opensipspy.modules.registrar.answer import contact_header
from opensipspy.modules.registrar.aor import AorRules
from opensipspy.modules.registrar.binding import plan
from opensipspy.modules.registrar.gruu import (
    DEFAULT_SECRET,
    TEMPORARY,
    open_temporary,
    plain_instance,
    public_gruu,
    temporary_gruu,
    usable_instance,
)
from opensipspy.modules.registrar.lookup import (
    FAILED,
    FOUND,
    METHOD_NOT_SUPPORTED,
    NOT_FOUND,
    WOKEN,
    LookupFlags,
    branch_of,
    parse_lookup_flags,
    put,
    suitable,
)
from opensipspy.modules.registrar.push import Push, purr_of, strip_params
from opensipspy.modules.registrar.refusal import Refusal, bad_request
from opensipspy.modules.registrar.request import (
    PATH_IGNORED,
    PATH_OFF,
    Registration,
    SaveFlags,
    Settings,
    parse_save_flags,
    read_request,
)
from opensipspy.modules.usrloc.api import (
    FL_PN,
    INSERT,
    UPDATE,
    Change,
    Contact,
    Domain,
    Location,
    Record,
    StoreError,
    method_bit,
)
from opensipspy.script.declare import FunctionDecl
from opensipspy.script.kinds import BRANCH, FAILURE, LOCAL, ONREPLY, REQUEST
from opensipspy.script.run import Branch, Run, VarRef
from opensipspy.sip import (
    M_REGISTER,
    Message,
    ParseError,
    Socket,
    Uri,
    parse_name_addr_list,
    parse_uri,
    unescape,
    uri_equal,
)

LOG: Final = logging.getLogger(__name__)

ANY_MESSAGE: Final = REQUEST | FAILURE | ONREPLY | BRANCH | LOCAL
SAVE_FLAGS: Final = Flags(
    (
        "memory-only",
        "no-reply",
        "socket-header",
        "path-strict",
        "path-lazy",
        "path-off",
        "path-received",
        "force-registration",
        "only-request-contacts",
    ),
    ("max-contacts", "min-expires", "max-expires", "matching-mode"),
)
LOOKUP_FLAGS: Final = Flags(
    (
        "method-filtering",
        "no-branches",
        "global",
        "sort-by-latency",
        "branch",
        "to-branches-only",
        "case-insensitive",
        "extended-regexp",
    ),
    ("ua-filtering", "max-ping-latency"),
)
MAX_EXPANDED: Final = 64
NO_FLAG: Final = "-1"
NO_SAVE_FLAGS: Final = parse_save_flags("")
NO_LOOKUP_FLAGS: Final = parse_lookup_flags("")

DomainName = Annotated[str, Static()]


class Registrar(Module):
    """Accept REGISTER requests (RFC 3261 §10.3), and find where the users are that requests are for."""

    name = "registrar"
    requires = (Requires("usrloc"), Requires("signaling"), Requires("event_routing", param="pn_enable"))
    wants = (Wants("tm"),)

    allow_dup_cseq = Param(int, 1, "Accept a REGISTER that repeats Call-ID and CSeq of an earlier one.")
    attr_avp = Param(str, None, "AVP with the script's own attributes of a contact.")
    case_sensitive = Param(int, 1, "Whether letters' case tells users apart.")
    default_expires = Param(int, 3600, "Lifetime of a contact that asks for none.", unit="s")
    default_q = Param(int, 0, "q of a contact that gives none, in thousandths; none at all when not set.")
    disable_gruu = Param(int, 1, "Do not make or recognise GRUUs (RFC 5627).")
    expires_max_deviation = Param(int, 0, "Random change of lifetimes, up or down.", unit="s")
    gruu_secret = Param(str, None, "Secret that hides whose a temporary GRUU is.")
    max_aor_len = Param(int, 256, "Longest address of record.")
    max_contact_len = Param(int, 255, "Longest URI of a contact.")
    max_contacts = Param(int, 0, "Most contacts of a user; 0 for any number.")
    max_domain_len = Param(int, 64, "Longest domain of a user.")
    max_expires = Param(int, 0, "Longest lifetime granted; 0 for any.", unit="s")
    max_username_len = Param(int, 64, "Longest user name.")
    mcontact_avp = Param(str, None, "AVP with the Contact sent to the main registrar, for save() on its reply.")
    min_expires = Param(int, 60, "Shortest lifetime granted; 0 for any.", unit="s")
    pn_ct_match_params = Param(
        str, "pn-provider, pn-prid, pn-param", "Contact parameters that make two sleeping phones the same."
    )
    pn_enable = Param(int, 0, "Support push notifications (RFC 8599).")
    pn_enable_purr = Param(int, 0, "Support push notifications within dialogs (RFC 8599 §6).")
    pn_pnsreg_interval = Param(int, 130, "When a phone that wakes itself has to refresh, before its end.", unit="s")
    pn_providers = Param(str, None, "Providers that are supported; any when not set.")
    pn_refresh_timeout = Param(int, 6, "How long a request waits for a woken phone.", unit="s")
    pn_skip_pn_interval = Param(int, 0, "How long after a registration a phone is not woken.", unit="s")
    pn_trigger_interval = Param(int, 120, "When a phone is woken to refresh, before its end.", unit="s")
    realm_prefix = Param(str, "", "Prefix of a domain that is taken off.")
    received_avp = Param(str, None, "AVP with the URI that the request came from.")
    received_param = Param(str, "received", "Contact parameter that shows where a phone's requests come from.")
    retry_after = Param(int, 0, "Retry-After of 5xx answers; 0 for none.", unit="s")
    sock_hdr_name = Param(str, None, "Header with the socket that a registration came to.")
    tcp_persistent_flag = Param(str, NO_FLAG, "Message flag: keep the phone's connection as long as its contact.")

    accepted_regs = Stat("REGISTER requests accepted.")
    rejected_regs = Stat("REGISTER requests refused.")
    shown_default_expire = Stat("The parameter default_expires.", name="default_expire", no_reset=True)
    shown_max_contacts = Stat("The parameter max_contacts.", name="max_contacts", no_reset=True)
    shown_max_expires = Stat("The parameter max_expires.", name="max_expires", no_reset=True)

    def __init__(self, **params: Any) -> None:
        self._settings = Settings()
        self._rules = AorRules()
        self._push: Push | None = None
        self._location: Location | None = None
        self._domains: dict[str, Domain] = {}
        self._used: list[str] = []
        self._waiting: dict[int, list[asyncio.Future[None]]] = {}
        self._secret = ""
        super().__init__(**params)

    # --- life

    async def start(self) -> None:
        self._configure()
        location = self._locations()
        for name in self._used:
            await location.open_domain(name)

    def _locations(self) -> Location:
        found = self._location
        if found is None:
            self._configure()
            assert self._location is not None
            found = self._location
        return found

    def _configure(self) -> None:
        if self._location is not None:
            return
        location = self._location = self.core.api("usrloc", Location)  # type: ignore[type-abstract]
        settings = self._settings
        settings.allow_dup_cseq = bool(self.allow_dup_cseq)
        settings.cseq_delay = location.cseq_delay
        settings.default_expires = self.default_expires
        settings.default_q = self.default_q if self.given("default_q") else -1
        settings.deviation = self.expires_max_deviation
        settings.matching_mode = location.matching_mode
        settings.max_contact_len = self.max_contact_len
        settings.max_contacts = self.max_contacts
        settings.max_expires = self.max_expires
        settings.min_expires = self.min_expires
        settings.retry_after = self.retry_after
        if not -1 <= settings.default_q <= 1000:
            raise ParamError(self.name, "default_q", "takes 0 to 1000")
        if self.max_expires and self.min_expires > self.max_expires:
            raise ParamError(self.name, "max_expires", "is less than min_expires")
        self._rules = AorRules(
            bool(location.use_domain),
            bool(self.case_sensitive),
            self.realm_prefix,
            self.max_username_len,
            self.max_domain_len,
            self.max_aor_len,
        )
        self._secret = self.gruu_secret or DEFAULT_SECRET
        if self.pn_enable:
            self._push = Push(
                self.pn_providers,
                self.pn_ct_match_params,
                self.pn_pnsreg_interval,
                self.pn_trigger_interval,
                self.pn_skip_pn_interval,
                bool(self.pn_enable_purr),
            )
            settings.pn_params = self._push.match_params
            location.on(self._refreshed)
            self._purr_secret = token_hex(16)
        self.shown_default_expire.set(self.default_expires)
        self.shown_max_contacts.set(self.max_contacts)
        self.shown_max_expires.set(self.max_expires)

    def use_domain(self, name: str) -> str:
        """Note while the script is compiled that it uses a domain: its contacts are loaded at start."""
        if not name:
            raise ValueError("a domain has a name")
        if name not in self._used:
            self._used.append(name)
        return name

    def _domain(self, name: str) -> Domain:
        found = self._domains.get(name)
        if found is None:
            found = self._domains[name] = self._locations().domain(name)
        return found

    def functions(self) -> list[FunctionDecl]:
        """As declared, and one parameter optional before others that are not: no Python signature can say that."""
        return [_with_optional(f, "AOR") if f.name == "is_ip_registered" else f for f in super().functions()]

    # --- save

    @script_function(routes=REQUEST | ONREPLY)
    def save(
        self,
        run: Run,
        domain: Annotated[str, Fixup("use_domain"), Static()],
        flags: Annotated[SaveFlags | None, Fixup(parse_save_flags), SAVE_FLAGS] = None,
        aor: str | None = None,
        ownership_tag: str | None = None,
    ) -> int | Awaitable[int]:
        """Register what a REGISTER request asks for, and answer it.

        flags: comma-separated, see the manual. aor: URI to register for, the To URI when not given. ownership_tag: kept
        with the contacts. Returns 1 registered (or listed), -1 refused; the answer is sent either way.
        """
        flags = flags or NO_SAVE_FLAGS
        message = run.request
        if message is None or message.method_id != M_REGISTER:
            LOG.error("save(): this is no REGISTER request")
            return -1
        try:
            location = self._domain(domain)
            asked = self._read(run, message, flags, aor, ownership_tag)
            if location.waits_to_read or (location.waits_to_write and not flags.memory_only and _changes(asked)):
                return self._save_waiting(run, location, asked, flags)
            record = location.get(asked.aor)
            change = self._plan(asked, record, flags)
            if change:
                location.commit_now(change)
        except Refusal as refusal:
            return self._refuse(run, flags, refusal)
        return self._accept(run, message, location, asked, flags)

    async def _save_waiting(self, run: Run, location: Domain, asked: Registration, flags: SaveFlags) -> int:
        message = run.request
        assert message is not None
        try:
            async with location.changing(asked.aor) as record:
                change = self._plan(asked, record, flags)
                if change:
                    await location.commit(change)
        except Refusal as refusal:
            return self._refuse(run, flags, refusal)
        except StoreError:
            return self._refuse(run, flags, self._settings.unavailable("the location table cannot be written"))
        return self._accept(run, message, location, asked, flags)

    def _plan(self, asked: Registration, record: Record | None, flags: SaveFlags) -> Change:
        location = self._location
        assert location is not None  # save() has asked it for the domain
        now = int(self.core.time())
        pn_flags = self._push.flags if self._push is not None else None
        return plan(asked, record, flags, self._settings, now, location.new_contact_id, pn_flags)

    def _read(
        self, run: Run, message: Message, flags: SaveFlags, aor: str | None, ownership_tag: str | None
    ) -> Registration:
        granted = -1
        if run.kind == ONREPLY and run.reply is not None:
            granted = self._granted(run)
        try:
            key = self._rules.aor(aor) if aor else self._rules.of(message.to.parsed_uri())
        except ParseError as error:
            raise bad_request(f"the To header cannot be understood: {error.reason}") from error
        asked = read_request(message, key, flags, self._settings, self.core.random, granted)
        asked.socket = message.socket
        if flags.socket_header and self.sock_hdr_name:
            asked.socket = self._named_socket(message) or asked.socket
        asked.cflags = run.branch_flags
        if run.avps:
            asked.received = _plain_uri(self._avp(run, self.received_avp))
            asked.attr = self._avp(run, self.attr_avp)
        if ownership_tag:
            asked.shtag = ownership_tag
        if flags.path_received and asked.path:
            received = _path_received(asked.path)
            if received:
                asked.received = received
                asked.cflags |= self._locations().nat_flag
        return asked

    def _granted(self, run: Run) -> int:
        """The lifetime that the main registrar gives to the contact in `mcontact_avp`; -1 when it gives none."""
        wanted = self._avp(run, self.mcontact_avp)
        reply = run.reply
        if not wanted or reply is None:
            return -1
        try:
            for contact in reply.contacts:
                if contact.uri == wanted or uri_equal(contact.uri, wanted):
                    return contact.expires if contact.expires >= 0 else reply.expires
        except ParseError as error:
            raise bad_request(f"the reply's Contact cannot be understood: {error.reason}") from error
        return -1

    def _named_socket(self, message: Message) -> Socket | None:
        for header in message.named(self.sock_hdr_name or ""):
            for socket in self.core.sockets:
                if header.value == socket.text:
                    return socket
            LOG.error("%s names a socket that this server does not have: %s", self.sock_hdr_name, header.value)
        return None

    @staticmethod
    def _avp(run: Run, spelled: str | None) -> str:
        if not spelled:
            return ""
        stack = run.avps.get(avp_name(spelled))
        return str(stack[-1]) if stack and stack[-1] is not None else ""

    def _refuse(self, run: Run, flags: SaveFlags, refusal: Refusal) -> int:
        self.rejected_regs.inc()
        if not flags.no_reply and run.kind == REQUEST:
            detail = refusal.detail.replace("\r", " ").replace("\n", " ")
            headers = f"{refusal.headers}P-Registrar-Error: {detail}\r\n"
            self.core.send_reply(run, refusal.status, refusal.reason, headers)
        return -1

    def _accept(self, run: Run, message: Message, location: Domain, asked: Registration, flags: SaveFlags) -> int:
        self.accepted_regs.value += 1
        if run.msg.source.connection:
            self._keep_connection(run, asked)
        if flags.no_reply or run.kind != REQUEST:
            return 1
        contacts = asked.kept
        if flags.only_request_contacts:
            named = {one.name_addr.uri for one in asked.asked}
            contacts = [contact for contact in contacts if contact.uri in named]
        gruus: Callable[[Contact], str] | None = None
        if not self.disable_gruu and "gruu" in asked.supported:
            gruus = self._gruu_params(asked.aor, message)
        headers = contact_header(contacts, int(self.core.time()), self.received_param, gruus)
        if asked.path and flags.path_mode not in (PATH_IGNORED, PATH_OFF) and "path" in asked.supported:
            headers += f"Path: {asked.path}\r\n"
        if self._push is not None:
            headers += self._feature_caps(asked)
        return 1 if self.core.send_reply(run, 200, "OK", headers) > 0 else -1

    def _gruu_params(self, aor: str, message: Message) -> Callable[[Contact], str]:
        host = self._gruu_host(aor, message)
        address = aor if "@" in aor else f"{aor}@{host}"

        def params(contact: Contact) -> str:
            if not usable_instance(contact.sip_instance):
                return ""
            public = public_gruu(address, contact.sip_instance)
            temporary = temporary_gruu(aor, contact.sip_instance, contact.callid, host, self._secret, self.core.random)
            return f';pub-gruu="{public}";temp-gruu="{temporary}"'

        return params

    def _gruu_host(self, aor: str, message: Message) -> str:
        _, at, domain = aor.rpartition("@")
        return domain if at else message.to.parsed_uri().host_text

    def _feature_caps(self, asked: Registration) -> str:
        assert self._push is not None
        for one in asked.asked:
            if one.uri.param("pn-provider") is None or not self._push.flags(one)[0]:
                continue
            kept = next((c for c in asked.kept if c.uri == one.name_addr.uri), None)
            purr = purr_of(kept, self._purr_secret) if kept is not None and self._push.purr else ""
            return self._push.feature_caps(one.uri, one.name_addr.param("+sip.pnsreg") is not None, purr)
        return ""

    def _keep_connection(self, run: Run, asked: Registration) -> None:
        """A stream that a phone registered over stays open as long as its contact does."""
        source = run.msg.source
        if self.tcp_persistent_flag == NO_FLAG:
            return
        if run.msg_flags & self.core.catalogue.flags.mask("message", self.tcp_persistent_flag):
            longest = max((one.expires_s for one in asked.asked), default=0)
            keep: Callable[[Any, float], object] | None = getattr(self.core, "keep_connection", None)
            if longest > 0 and keep is not None:
                keep(source, longest)

    # --- lookup

    @script_function(routes=REQUEST | FAILURE | ONREPLY)
    def lookup(
        self,
        run: Run,
        domain: Annotated[str, Fixup("use_domain"), Static()],
        flags: Annotated[LookupFlags | None, Fixup(parse_lookup_flags), LOOKUP_FLAGS] = None,
        aor: str | None = None,
    ) -> int | Awaitable[int]:
        """Replace the Request-URI by the contacts of the user it names.

        flags: comma-separated, see the manual. aor: URI to look up instead. Returns 1 found, 2 all of them have to be
        woken first, -1 none, -2 none that takes this method, -3 failed.
        """
        flags = flags or NO_LOOKUP_FLAGS
        location = self._domain(domain)
        try:
            uri = parse_uri(aor or run.ruri)
            key, instance, callid = self._wanted(uri)
        except (ParseError, Refusal):
            return FAILED
        if key is None:
            return NOT_FOUND
        if location.waits_to_read:
            return self._lookup_waiting(run, location, flags, key, instance, callid)
        return self._lookup_record(run, location, flags, key, location.get(key), instance, callid)

    async def _lookup_waiting(
        self, run: Run, location: Domain, flags: LookupFlags, key: str, instance: str, callid: str
    ) -> int:
        try:
            record = await location.find(key)
            expanded = await self._expand_waiting(run, location, flags)
        except StoreError:
            return FAILED
        return self._finish(run, location, flags, key, record, instance, callid, expanded)

    def _wanted(self, uri: Uri) -> tuple[str | None, str, str]:
        """(AOR, instance, Call-ID) that a Request-URI is for: the latter two only from a GRUU. AOR None: nobody's."""
        if not self.disable_gruu:
            instance = uri.param("gr")
            if instance:
                return self._rules.of(uri), instance, ""
            if instance is not None and uri.user.startswith(TEMPORARY):
                meant = open_temporary(uri.user, self._secret)
                return (None, "", "") if meant is None else (meant.aor, meant.instance, meant.callid)
        return self._rules.of(uri), "", ""

    def _lookup_record(
        self,
        run: Run,
        location: Domain,
        flags: LookupFlags,
        key: str,
        record: Record | None,
        instance: str,
        callid: str,
    ) -> int:
        expanded = self._expand(run, location, flags) if flags.expand_branches else None
        if (
            expanded is None
            and record is not None
            and len(record.contacts) == 1
            and not flags.filters
            and not flags.branches_only
            and not instance
            and self._push is None
            and not self.attr_avp
        ):
            # The usual case: one phone, nothing to choose.
            contact = record.contacts[0]
            if contact.valid(self.core.time()):
                put(run, (branch_of(contact),), flags)
                return FOUND
        return self._finish(run, location, flags, key, record, instance, callid, expanded)

    def _finish(
        self,
        run: Run,
        location: Domain,
        flags: LookupFlags,
        key: str,
        record: Record | None,
        instance: str,
        callid: str,
        expanded: list[Branch] | None,
    ) -> int:
        contacts = record.valid(self.core.time()) if record is not None else []
        if instance:
            contacts = [
                c for c in contacts if plain_instance(c.sip_instance) == instance and (not callid or c.callid == callid)
            ]
        method = run.request.method if run.request is not None else run.msg.method
        chosen = suitable(contacts, method_bit(method), flags)
        if expanded is not None:
            run.branches[:] = expanded
        if not chosen:
            if expanded:
                return FOUND
            return METHOD_NOT_SUPPORTED if contacts else NOT_FOUND
        branches, woken = self._branches(run, location, key, chosen)
        if branches:
            return put(run, branches, flags)
        return WOKEN if woken else NOT_FOUND

    def _branches(self, run: Run, location: Domain, key: str, contacts: list[Contact]) -> tuple[list[Branch], bool]:
        attr = avp_name(self.attr_avp) if self.attr_avp else ""
        if self._push is None:
            return [branch_of(contact, attr) for contact in contacts], False
        branches = []
        woken = False
        for contact in contacts:
            if contact.flags & FL_PN and not self._push.awake(contact, self.core.time()):
                self._wake(location, key, contact, f"ini-{run.msg.method}", run.msg.call_id)
                woken = True
                continue
            branches.append(branch_of(contact, attr, strip_params(contact.uri, self._push.match_params)))
        return branches, woken

    def _expand(self, run: Run, location: Domain, flags: LookupFlags) -> list[Branch]:
        """The branches with the users among them replaced by their contacts."""
        found: list[Branch] = []
        for branch in run.branches:
            key = self._branch_key(branch)
            if key is not None:
                found += self._contacts_of(run, location.get(key), flags)
        return found[:MAX_EXPANDED]

    async def _expand_waiting(self, run: Run, location: Domain, flags: LookupFlags) -> list[Branch] | None:
        if not flags.expand_branches:
            return None
        found: list[Branch] = []
        for branch in list(run.branches):
            key = self._branch_key(branch)
            if key is not None:
                found += self._contacts_of(run, await location.find(key), flags)
        return found[:MAX_EXPANDED]

    def _branch_key(self, branch: Branch) -> str | None:
        try:
            return self._rules.aor(branch.uri)
        except Refusal:
            return None

    def _contacts_of(self, run: Run, record: Record | None, flags: LookupFlags) -> list[Branch]:
        if record is None:
            return []
        attr = avp_name(self.attr_avp) if self.attr_avp else ""
        chosen = suitable(record.valid(self.core.time()), method_bit(run.msg.method), flags)
        return [branch_of(contact, attr) for contact in chosen]

    # --- questions

    def _asked_aor(self, run: Run, aor: str | None) -> str | None:
        """The AOR of a question: the given one, To of a REGISTER, From of anything else; None when there is none."""
        try:
            if aor:
                return self._rules.aor(aor)
            if run.kind == ONREPLY or run.request is None:
                return None
            message = run.request
            header = message.to if message.method_id == M_REGISTER else message.from_
            return self._rules.of(header.parsed_uri())
        except (Refusal, ParseError):
            return None

    def _answer(
        self, run: Run, domain: str, aor: str | None, question: Callable[[list[Contact]], bool]
    ) -> int | Awaitable[int]:
        key = self._asked_aor(run, aor)
        if key is None:
            return -1
        location = self._domain(domain)
        if location.waits_to_read:
            return self._answer_waiting(location, key, question)
        record = location.get(key)
        return 1 if record is not None and question(record.valid(self.core.time())) else -1

    async def _answer_waiting(self, location: Domain, key: str, question: Callable[[list[Contact]], bool]) -> int:
        try:
            record = await location.find(key)
        except StoreError:
            return -1
        return 1 if record is not None and question(record.valid(self.core.time())) else -1

    @script_function(routes=ANY_MESSAGE)
    def is_registered(
        self,
        run: Run,
        domain: Annotated[str, Fixup("use_domain"), Static()],
        aor: Annotated[str | None, Named("AOR")] = None,
    ) -> int | Awaitable[int]:
        """Whether a user has a contact: the one of `aor`, or of To in a REGISTER and of From elsewhere.

        Returns 1 yes, -1 no. In a reply `aor` has to be given. The contact's attributes are put into `attr_avp`.
        """

        def any_contact(contacts: list[Contact]) -> bool:
            if contacts and self.attr_avp:
                attrs: list[Any] = [c.attr for c in contacts if c.attr]
                if attrs:
                    run.avps[avp_name(self.attr_avp)] = attrs
            return bool(contacts)

        return self._answer(run, domain, aor, any_contact)

    @script_function(routes=ANY_MESSAGE)
    def is_contact_registered(
        self,
        run: Run,
        domain: Annotated[str, Fixup("use_domain"), Static()],
        aor: Annotated[str | None, Named("AOR")] = None,
        contact: str | None = None,
        callid: str | None = None,
    ) -> int | Awaitable[int]:
        """Whether a user has this contact, or one with this Call-ID; without either, the request's first Contact.

        Returns 1 yes, -1 no.
        """
        if not contact and not callid:
            try:
                named = run.msg.contacts
            except ParseError:
                return -1
            if not named:
                return -1
            contact = named[0].uri
        return self._answer(
            run,
            domain,
            aor,
            lambda contacts: any(
                (not contact or _same_uri(c.uri, contact)) and (not callid or c.callid == callid) for c in contacts
            ),
        )

    @script_function(routes=ANY_MESSAGE)
    def is_ip_registered(
        self,
        run: Run,
        domain: Annotated[str, Fixup("use_domain"), Static()],
        aor: Annotated[str | None, Named("AOR")],
        ip: Annotated[VarRef, Named("IPvar")],
        port: Annotated[VarRef | None, Named("PORTvar")] = None,
    ) -> int | Awaitable[int]:
        """Whether a user has a contact at the address (and port) in the variables; an AVP may hold several.

        Returns 1 yes, -1 no.
        """
        addresses = [str(v).strip("[]").lower() for v in _values(run, ip) if v is not None]
        ports = [str(v) for v in _values(run, port) if v is not None] if port is not None else []
        if not addresses or (ports and len(ports) != len(addresses)):
            return -1
        wanted = [(a, int(p) if p.isascii() and p.isdigit() else -1) for a, p in zip(addresses, ports, strict=False)]

        def at_address(contacts: list[Contact]) -> bool:
            places = [_place(c.received or c.uri) for c in contacts]
            return any(place in wanted if ports else place[0] in addresses for place in places)

        return self._answer(run, domain, aor, at_address)

    # --- removal

    @script_function(routes=REQUEST | ONREPLY)
    def remove(
        self,
        run: Run,
        domain: Annotated[str, Fixup("use_domain"), Static()],
        aor: Annotated[str, Named("AOR")],
        contact: str | None = None,
        next_hop: str | None = None,
        sip_instance: str | None = None,
        bflag: str | None = None,
    ) -> int | Awaitable[int]:
        """Remove the contacts of a user that fit every filter given.

        contact: the URI as it was registered. next_hop: address or name of the way back. sip_instance: as registered.
        bflag: a branch flag that is set. Returns 1, -1 when nothing could be looked at or written.
        """
        key = self._asked_aor(run, aor)
        if key is None:
            return -1
        mask = self.core.catalogue.flags.known("branch", bflag) if bflag else 0

        def fits(one: Contact) -> bool:
            if contact and not _same_uri(one.uri, contact):
                return False
            if sip_instance and plain_instance(one.sip_instance) != plain_instance(sip_instance):
                return False
            return not bflag or bool(one.cflags & mask)

        location = self._domain(domain)
        if next_hop or location.waits_to_write:
            return self._remove_waiting(location, key, fits, (next_hop or "").strip("[]").lower())
        record = location.get(key)
        if record is not None:
            change = Change(key)
            change.deletes = [c for c in record.contacts if fits(c)]
            location.commit_now(change)
        return 1

    async def _remove_waiting(self, location: Domain, key: str, fits: Callable[[Contact], bool], next_hop: str) -> int:
        wanted = await self._addresses(next_hop) if next_hop else set()
        try:
            async with location.changing(key) as record:
                if record is None:
                    return 1
                change = Change(key)
                for contact in record.contacts:
                    if not fits(contact):
                        continue
                    host = _way_back(contact)
                    if not next_hop or host == next_hop or wanted & await self._addresses(host):
                        change.deletes.append(contact)
                if change:
                    await location.commit(change)
        except StoreError:
            return -1
        return 1

    async def _addresses(self, host: str) -> set[str]:
        """The addresses that a name stands for; none when it does not resolve."""
        try:
            found = self.core.locate(f"sip:{f'[{host}]' if ':' in host else host}")
            targets = found if isinstance(found, list) else await found
        except (LocateError, ParseError):
            return set()
        return {target.peer.address for target in targets}

    @script_function()
    def remove_ip_port(
        self,
        run: Run,
        ip: Annotated[str, Named("IP")],
        port: Annotated[int, Named("Port")],
        domain: Annotated[str, Fixup("use_domain"), Static()],
        aor: Annotated[str | None, Named("AOR")] = None,
    ) -> int | Awaitable[int]:
        """Remove the contacts at an address and port, of one user or of all. Returns 1, -1 when it failed."""
        key = None
        if aor:
            key = self._asked_aor(run, aor)
            if key is None:
                return -1
        place = (ip.strip("[]").lower(), port)
        location = self._domain(domain)
        if location.waits_to_write:
            return self._remove_place_waiting(location, key, place)
        if key is not None:
            record = location.get(key)
            records = [record] if record is not None else []
        else:
            records = list(location.records())
        for record in records:
            change = Change(record.aor)
            change.deletes = [c for c in record.contacts if _place(c.received or c.uri) == place]
            if change:
                location.commit_now(change)
        return 1

    async def _remove_place_waiting(self, location: Domain, key: str | None, place: tuple[str, int]) -> int:
        try:
            if key is not None:
                keys = [key]
            else:
                keys = [
                    record.aor
                    for record in await location.all_records()
                    if any(_place(c.received or c.uri) == place for c in record.contacts)
                ]
            for one in keys:
                async with location.changing(one) as record:
                    change = Change(one)
                    if record is not None:
                        change.deletes = [c for c in record.contacts if _place(c.received or c.uri) == place]
                    if change:
                        await location.commit(change)
        except StoreError:
            return -1
        return 1

    @script_function(routes=ANY_MESSAGE)
    def add_sock_hdr(self, run: Run, hdr_name: str) -> int:
        """Add a header with the socket (proto:address:port) that the request came to.

        Returns 1, -1 for what is no header name.
        """
        if not hdr_name or not all(c.isascii() and (c.isalnum() or c in "-.!%*_+`'~") for c in hdr_name):
            return -1
        run.edits.append(f"{hdr_name}: {run.msg.socket.text}\r\n")
        return 1

    # --- push notifications within dialogs

    @script_function(async_only=True)
    async def pn_process_purr(self, run: Run, domain: Annotated[str, Fixup("use_domain"), Static()]) -> int:
        """Wake the phone that a request within a dialog is for, and wait until it has registered (RFC 8599 §6).

        Returns 1 it was woken (whether it came back in time or not), 2 nothing had to be done, -1 failed.
        """
        if self._push is None or not self._push.purr:
            return 2
        purr = self._purr_in(run)
        if not purr:
            return 2
        location = self._domain(domain)
        try:
            records = await location.all_records()
        except StoreError:
            return -1
        now = self.core.time()
        for record in records:
            for contact in record.contacts:
                if contact.flags & FL_PN and contact.valid(now) and purr_of(contact, self._purr_secret) == purr:
                    if self._push.awake(contact, now):
                        return 2
                    awake = asyncio.get_running_loop().create_future()
                    self._waiting.setdefault(contact.contact_id, []).append(awake)
                    timer = self.core.call_later(self.pn_refresh_timeout, _give_up, awake)
                    self._wake(location, record.aor, contact, f"mid-{run.msg.method}", run.msg.call_id)
                    try:
                        await awake
                    finally:
                        timer.cancel()
                        self._no_longer(contact.contact_id, awake)
                    return 1
        return 2

    def _purr_in(self, run: Run) -> str:
        uris = [run.ruri]
        try:
            uris += [route.uri for route in run.msg.routes[:1]]
        except ParseError:
            LOG.debug("a Route that cannot be understood")
        for text in uris:
            try:
                found = parse_uri(text).param("pn-purr")
            except ParseError:
                continue
            if found:
                return found
        return ""

    def _wake(self, location: Domain, key: str, contact: Contact, reason: str, callid: str) -> None:
        self._locations().raise_refresh(location, key, contact, reason, callid)

    def _refreshed(self, what: str, location: Domain, aor: str, contact: Contact) -> None:
        if what in (INSERT, UPDATE):
            for awake in self._waiting.pop(contact.contact_id, ()):
                _give_up(awake)

    def _no_longer(self, contact_id: int, awake: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(contact_id)
        if waiting is not None:
            if awake in waiting:
                waiting.remove(awake)
            if not waiting:
                del self._waiting[contact_id]


def _with_optional(function: FunctionDecl, name: str) -> FunctionDecl:
    params = tuple(replace(p, optional=True) if p.name == name else p for p in function.params)
    return replace(function, params=params)


def _give_up(awake: asyncio.Future[None]) -> None:
    if not awake.done():
        awake.set_result(None)


def _changes(asked: Registration) -> bool:
    return bool(asked.star or asked.asked)


def avp_name(spelled: str) -> str:
    """ "$avp(name)" is "name"; so is "name"."""
    text = spelled.strip()
    if text.startswith("$avp(") and text.endswith(")"):
        text = text[5:-1]
    return text


def _values(run: Run, ref: VarRef) -> list[Any]:
    """All values of an AVP, or the one of any other variable."""
    if ref.is_avp and ref.name:
        return list(run.avps.get(ref.name, ()))
    return [ref.get(run)]


def _plain_uri(text: str) -> str:
    """The text when it is a URI that may stand in a header, else ""."""
    if not text:
        return ""
    try:
        return str(parse_uri(text))
    except ParseError:
        return ""


def _path_received(path: str) -> str:
    """The `received` parameter of the first Path URI as a URI, "" when there is none that is one."""
    try:
        found = parse_uri(parse_name_addr_list(path)[0].uri).param("received")
    except ParseError:
        return ""
    return _plain_uri(unescape(found or ""))


def _same_uri(one: str, two: str) -> bool:
    if one == two:
        return True
    try:
        return uri_equal(one, two)
    except ParseError:
        return False


def _place(uri: str) -> tuple[str, int]:
    """(host, port) of a URI; port 5060 (5061 for TLS) when it names none. ("", 0) for what is no URI."""
    try:
        parsed = parse_uri(uri)
    except ParseError:
        return "", 0
    secure = parsed.scheme == "sips" or parsed.transport.lower() == "tls"
    return parsed.host.lower(), parsed.port or (5061 if secure else 5060)


def _way_back(contact: Contact) -> str:
    """The host on the way back to a contact: of its first Path URI, of where it came from, or its own."""
    if contact.path:
        try:
            return _place(parse_name_addr_list(contact.path)[0].uri)[0]
        except ParseError:
            return ""
    return _place(contact.received or contact.uri)[0]
