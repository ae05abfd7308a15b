"""Whether a domain may be called, and how: policies that domains publish as NAPTR records, rules of a table.

draft-lendl-domain-policy-ddds: the records of a domain lead to names of federations or standards (`D2P+SIP:fed`,
`D2P+SIP:std`) that the table knows or not; the table may name the domain itself (`dom`). What it has for a rule is put
into AVPs, from which dp_apply_policy() makes the destination.
"""

from __future__ import annotations

from typing import Final

from opensipspy.db import Column, Index, Table, auto_id
from opensipspy.module import LocateError, Module, Naptr, Param, script_function
from opensipspy.module.table_cache import cell_text, open_database, own_or_default_url
from opensipspy.module.table_query import TableQuery, is_uri, uri_of
from opensipspy.script.kinds import REQUEST
from opensipspy.script.patterns import PatternCache
from opensipspy.script.run import Run
from opensipspy.sip import Socket, proto_name

POLICY_TABLE: Final = Table(
    "domainpolicy",
    3,
    (
        auto_id(),
        Column("rule", "string", 255),
        Column("type", "string", 255),
        Column("att", "string", 255, null=True),
        Column("val", "string", 128, null=True),
        Column("description", "string", 255),
    ),
    (Index("rav_idx", ("rule", "att", "val"), unique=True), Index("rule_idx", ("rule",))),
)

POSITIVE: Final = 1
NOT_FOUND: Final = 2
NEGATIVE: Final = -1
FAILED: Final = -2
NOTHING_TO_DO: Final = 2

DEEPEST: Final = 5
MOST_RECORDS: Final = 32
MOST_ATTRIBUTES: Final = 64
LONGEST_DOMAIN: Final = 255
LONGEST_RULE: Final = 255
SERVICE: Final = "D2P+SIP"
TYPES: Final = frozenset({"fed", "std", "dom"})

Attributes = list[tuple[str, str]]


def avp_name(text: str) -> str:
    """The name of an AVP, which a script may also write as $avp(name)."""
    text = text.strip()
    return text[len("$avp(") : -1] if text.startswith("$avp(") and text.endswith(")") else text


def expanded(regexp: str, domain: str, patterns: PatternCache) -> str | None:
    """What the regexp of a record ("!pattern!replacement!flags") makes of a domain; None when it does not fit."""
    parts = regexp.split("!")
    if len(parts) != 4 or parts[0]:
        return None
    try:
        match = patterns.get(parts[1], ignore_case=True).find(domain)
    except (ValueError, TimeoutError):
        return None
    if match is None:
        return None
    made: list[str] = []
    at = 0
    while at < len(parts[2]):
        char = parts[2][at]
        if char == "\\" and parts[2][at + 1 : at + 2].isdigit():
            at += 1
            number = ord(parts[2][at]) - ord("0")
            if not 0 <= number <= len(match.groups()):
                return None
            made.append(match.group(number) or "")
        else:
            made.append(char)
        at += 1
    text = "".join(made)
    return text if len(text) <= LONGEST_RULE else None


class DomainPolicy(Module):
    """Connect domains by the policies that they publish."""

    name = "domainpolicy"
    tables = (POLICY_TABLE,)

    db_url = Param(str, "mysql://opensipsro:opensipsro@localhost/opensips", "The database.")
    dp_table = Param(str, "domainpolicy", "The table of rules.")
    dp_col_rule = Param(str, "rule", "Column of the rule: a URI that domains publish, or a domain.")
    dp_col_type = Param(str, "type", "Column of the rule's type: fed, std or dom.")
    dp_col_att = Param(str, "att", "Column of the AVP that a rule sets.")
    dp_col_val = Param(str, "val", "Column of that AVP's value.")
    port_override_avp = Param(str, "portoverride", "AVP with the port of the destination.")
    transport_override_avp = Param(str, "transportoverride", "AVP with the transport of the destination.")
    domain_replacement_avp = Param(str, "domainreplacement", "AVP with the domain in place of the Request-URI's.")
    domain_prefix_avp = Param(str, "domainprefix", "AVP with labels before the domain.")
    domain_suffix_avp = Param(str, "domainsuffix", "AVP with labels after the domain.")
    send_socket_avp = Param(str, "sendsocket", "AVP with the socket to send from.")

    async def start(self) -> None:
        database = open_database(self, own_or_default_url(self, self.db_url))
        self._query = TableQuery(database, POLICY_TABLE.version or 0)
        self._patterns = PatternCache()

    # --- may it be called

    @script_function(routes=REQUEST)
    async def dp_can_connect(self, run: Run) -> int:
        """Whether a policy of the Request-URI's domain is one of ours; its attributes are put into AVPs.

        Returns 1 yes, 2 the domain publishes no policy, -1 it has policies and none is ours, -2 the table or the name
        servers do not answer.
        """
        uri = uri_of(run.ruri)
        if uri is None or not uri.host or len(uri.host) > LONGEST_DOMAIN:
            return NEGATIVE
        attributes: Attributes = []
        result = await self._connect(uri.host.lower(), 0, attributes)
        if result == POSITIVE:
            for name, value in attributes:
                run.avps.setdefault(name, []).append(value)
        return result

    async def _connect(self, domain: str, depth: int, found: Attributes) -> int:
        if depth > DEEPEST:
            self.core.log.error("domainpolicy: too many records lead on, the last to %.100s", domain)
            return FAILED
        # A domain that another's record led to is where the call has to go.
        led = [(avp_name(self.domain_replacement_avp), domain)] if depth else []
        rules = await self._rule(domain, "dom")
        if rules is None:
            return FAILED
        if rules:
            found += led + rules[0]
            return POSITIVE
        try:
            records = await self.core.naptr(domain)
        except LocateError as error:
            self.core.log.info("domainpolicy: no policy of %.100s: %s", domain, error)
            return FAILED
        published = sorted(
            (r for r in records[:MOST_RECORDS] if r.service.upper().startswith(SERVICE)),
            key=lambda r: (r.order, r.preference),
        )
        return await self._published(domain, published, depth, led, found)

    async def _published(
        self, domain: str, records: list[Naptr], depth: int, led: Attributes, found: Attributes
    ) -> int:
        """Records of one order stand or fall together; the first order whose records all are ours decides."""
        order, failed = -1, False
        gathered: Attributes | None = None
        for record in records:
            if record.order != order:
                if gathered is not None:
                    break
                order, failed = record.order, False
            elif failed:
                continue
            if record.service.upper() == SERVICE and not record.flags:
                if sum(r.order == order for r in records) > 1:
                    self.core.log.error("domainpolicy: %.100s has several records where one leads on", domain)
                    return FAILED
                result = await self._connect(record.replacement.rstrip(".").lower(), depth + 1, found)
                if result != NEGATIVE:
                    return result
                continue
            rule = expanded(record.regexp, domain, self._patterns) if record.flags.lower() == "u" else None
            if rule is None:
                self.core.log.info("domainpolicy: a record of %.100s cannot be used", domain)
                continue
            rules = await self._rule(rule, record.service[len(SERVICE) + 1 :].lower())
            if rules is None:
                return FAILED
            if rules:
                gathered = [*(gathered or []), *rules[0]]
            else:
                failed, gathered = True, None
        if gathered is not None:
            found += led + gathered
            return POSITIVE
        return NEGATIVE if records else NOT_FOUND

    async def _rule(self, rule: str, kind: str) -> list[Attributes] | None:
        """[its attributes] of a rule that the table knows, [] when it does not; None without an answer."""
        if kind not in TYPES:
            return []
        where = ((self.dp_col_rule, "=", rule), (self.dp_col_type, "=", kind))
        rows = await self._query.rows(self.dp_table, (self.dp_col_att, self.dp_col_val), where, MOST_ATTRIBUTES)
        if not rows:
            return None if rows is None else []
        attributes = []
        for name, value in rows:
            if name is None or value is None:
                continue
            try:
                attributes.append((cell_text(name, "att", most=255), cell_text(value, "val", most=255)))
            except ValueError as error:
                self.core.log.error("domainpolicy: a row of rule %.100s is skipped: %s", rule, error)
        return [attributes]

    # --- how

    @script_function(routes=REQUEST)
    def dp_apply_policy(self, run: Run) -> int:
        """Make the destination of what dp_can_connect() put into AVPs: domain, port, transport, socket.

        Returns 1 the destination is set, 2 there is nothing to set, -1 an AVP holds what cannot be used.
        """
        try:
            socket = self._value(run, self.send_socket_avp)
            prefix = self._value(run, self.domain_prefix_avp)
            domain = self._value(run, self.domain_replacement_avp)
            suffix = self._value(run, self.domain_suffix_avp)
            port = self._value(run, self.port_override_avp)
            transport = self._value(run, self.transport_override_avp)
        except ValueError as error:
            self.core.log.error("domainpolicy: %s", error)
            return -1
        uri = uri_of(run.ruri)
        if uri is None:
            return -1
        if socket:
            self._send_from(run, socket)
        if not (prefix or domain or suffix or port or transport):
            return NOTHING_TO_DO
        host = f"{prefix + '.' if prefix else ''}{domain or uri.host_text}{'.' + suffix if suffix else ''}"
        port = port or (str(uri.port) if uri.port else "")
        transport = transport or uri.transport
        made = f"sip:{host}{':' + port if port else ''}{';transport=' + transport if transport else ''}"
        if not is_uri(made):
            self.core.log.error("domainpolicy: %r cannot be a destination", made[:200])
            return -1
        run.dst_uri = made
        return 1

    @staticmethod
    def _value(run: Run, name: str) -> str:
        """The text of an AVP, "" when it is not there; raises ValueError for what is no text."""
        values = run.avps.get(avp_name(name))
        if not values:
            return ""
        if not isinstance(values[-1], str) or not values[-1]:
            raise ValueError(f"$avp({avp_name(name)}) is empty or no text")
        return values[-1]

    def _send_from(self, run: Run, text: str) -> None:
        for socket in self.core.sockets:
            if text.lower() in _names(socket):
                run.socket_out = socket
                return
        self.core.log.warning("domainpolicy: no listening socket matches %.100r", text)


def _names(socket: Socket) -> tuple[str, ...]:
    place = f"{socket.host_text}:{socket.port}"
    return (socket.text, place, f"{proto_name(socket.proto)}:{socket.host_text}", socket.host_text)
