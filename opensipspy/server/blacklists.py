"""Blacklists of destinations (`dst_blacklist`): where requests must not go, by address, port, protocol and text.

A list belongs to the script (`readonly`), or its rules come and go (`expire`). The list `dns`, when the operator wants
it, remembers for a while which addresses of a name did not work, so that the next call does not try them first.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

from opensipspy import sip
from opensipspy.management import CommandDecl, Json, MiError, Registry
from opensipspy.script.corefuncs_server import USED_BLACKLISTS
from opensipspy.script.globals import BlacklistDef
from opensipspy.script.run import Run
from opensipspy.sip import Peer

DNS: Final = "dns"
DNS_LIFETIME_S: Final = 240
MOST_RULES: Final = 10_000
# What a pattern is compared with: no more of a message is looked at.
MOST_TEXT: Final = 65535
READ_ONLY: Final = "read-only"
EXPIRE: Final = "expire"
DEFAULT: Final = "default"
NEGATED: Final = 1

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
NetworkAddress = ipaddress.IPv4Network | ipaddress.IPv6Network


class Rule:
    """One rule; proto 0, port 0 and pattern "" match anything. ends_at: 0 for never."""

    __slots__ = ("ends_at", "negated", "network", "pattern", "port", "proto")

    def __init__(self, negated: bool, proto: int, network: NetworkAddress, port: int, pattern: str) -> None:
        self.negated = negated
        self.proto = proto
        self.network = network
        self.port = port
        self.pattern = pattern
        self.ends_at = 0.0

    @property
    def key(self) -> tuple[bool, int, NetworkAddress, int, str]:
        return (self.negated, self.proto, self.network, self.port, self.pattern)

    def matches(self, address: Address, port: int, proto: int, text: Callable[[], str]) -> bool:
        found = (
            self.port in (0, port)
            and self.proto in (0, proto)
            and address in self.network
            and (not self.pattern or fnmatchcase(text(), self.pattern))
        )
        return found is not self.negated

    def shown(self, now: float) -> dict[str, Json]:
        """The rule as management clients read it."""
        row: dict[str, Json] = {
            "flags": NEGATED if self.negated else 0,
            "IP": str(self.network.network_address),
            "Mask": str(self.network.netmask),
            "Proto": sip.proto_name(self.proto) if self.proto else "any",
            "Port": self.port,
        }
        if self.pattern:
            row["Match"] = self.pattern
        if self.ends_at:
            row["Expire"] = max(0, int(self.ends_at - now))
        return row


class Blacklist:
    """One list."""

    def __init__(self, name: str, flags: Iterable[str]) -> None:
        self.name = name
        self.flags = tuple(flags) or (READ_ONLY,)
        self.rules: dict[tuple[bool, int, NetworkAddress, int, str], Rule] = {}

    def first(self, address: Address, port: int, proto: int, text: Callable[[], str], now: float) -> Rule | None:
        """The first rule that matches; those whose time is over are taken off."""
        over = [key for key, rule in self.rules.items() if 0 < rule.ends_at <= now] if EXPIRE in self.flags else []
        for key in over:
            del self.rules[key]
        return next((rule for rule in self.rules.values() if rule.matches(address, port, proto, text)), None)


class Blacklists:
    """All lists of a server. now() never goes back, seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.lists: dict[str, Blacklist] = {}
        self._now = now

    def define(self, definitions: Sequence[BlacklistDef], *, dns: bool) -> None:
        """Make the script's lists, and `dns` when it is wanted. Raises ValueError with the list at fault."""
        for definition in definitions:
            if definition.name in self.lists:
                raise ValueError(f"dst_blacklist {definition.name} is there twice")
            made = Blacklist(definition.name, definition.flags)
            if READ_ONLY in made.flags and EXPIRE in made.flags:
                raise ValueError(f"dst_blacklist {definition.name} cannot be read-only and expire")
            for negated, proto, network, port, pattern in definition.rules:
                rule = Rule(negated, sip.proto_number(proto), parse_network(network), port, pattern)
                made.rules[rule.key] = rule
            self.lists[made.name] = made
        if dns:
            self.lists.setdefault(DNS, Blacklist(DNS, (EXPIRE, DEFAULT)))

    def defaults(self) -> frozenset[str]:
        """The lists that count unless the script says otherwise."""
        return frozenset(name for name, found in self.lists.items() if DEFAULT in found.flags)

    def bars(self, run: Run, peer: Peer, data: bytes) -> bool:
        """Whether a list that counts for the message keeps it from going to `peer`."""
        chosen = run.ctx.get(USED_BLACKLISTS)
        names = chosen if isinstance(chosen, set) else self.defaults()
        if not names:
            return False
        address = ipaddress.ip_address(peer.address.partition("%")[0])
        now = self._now()

        def text() -> str:
            return data[:MOST_TEXT].decode("utf-8", "replace")

        return any(
            found.first(address, peer.port, peer.proto, text, now) is not None
            for name, found in self.lists.items()
            if name in names
        )

    def failed(self, peer: Peer) -> None:
        """A destination did not work: keep others from trying it for a while, when there is such a list."""
        found = self.lists.get(DNS)
        if found is not None and len(found.rules) < MOST_RULES:
            self.put(found, Rule(False, peer.proto, parse_network(peer.address), peer.port, ""), DNS_LIFETIME_S)

    def put(self, found: Blacklist, rule: Rule, expire_s: int) -> None:
        """Add a rule, or let it begin anew. Raises ValueError when the list does not take it."""
        if READ_ONLY in found.flags:
            raise ValueError(f"blacklist {found.name} is read-only")
        if expire_s and EXPIRE not in found.flags:
            raise ValueError(f"rules of blacklist {found.name} do not expire")
        if len(found.rules) >= MOST_RULES and rule.key not in found.rules:
            raise ValueError(f"blacklist {found.name} is full")
        rule.ends_at = self._now() + expire_s if expire_s > 0 else 0.0
        found.rules[rule.key] = rule

    def take(self, found: Blacklist, rule: Rule) -> bool:
        """Take a rule off; False when it is not there. Raises ValueError."""
        if READ_ONLY in found.flags:
            raise ValueError(f"blacklist {found.name} is read-only")
        return found.rules.pop(rule.key, None) is not None

    def check(self, found: Blacklist, ip: str, port: int, proto: str, text: str) -> Rule | None:
        """The rule that bars a destination. Raises ValueError for what is no address or protocol."""
        return found.first(ipaddress.ip_address(ip.strip("[]")), port, parse_proto(proto), lambda: text, self._now())

    # -- management

    def register(self, registry: Registry) -> None:
        extra = (("name", "ip"), ("name", "proto", "ip"), ("name", "proto", "ip", "port"))
        types = {"ip": "string", "name": "string", "pattern": "string", "port": "int", "proto": "string"}
        rule = {"expire": "int", "name": "string", "rule": "string"}
        for name, alias, handler, params, kinds, text in (
            ("list", "list_blacklists", self._mi_list, ((), ("name",)), {"name": "string"}, "Show lists."),
            (
                "check",
                "check_blacklist",
                self._mi_check,
                (*extra, ("name", "proto", "ip", "port", "pattern")),
                types,
                "Show the rule of a list that bars a destination.",
            ),
            (
                "check_all",
                "check_blacklists",
                self._mi_check_all,
                (*(names[1:] for names in extra), ("proto", "ip", "port", "pattern")),
                {key: value for key, value in types.items() if key != "name"},
                "Show the lists that bar a destination.",
            ),
            (
                "add_rule",
                "add_blacklist_rule",
                self._mi_add,
                (("name", "rule"), ("name", "rule", "expire")),
                rule,
                "Add a rule, [!][proto,]network[,port[,pattern]].",
            ),
            (
                "del_rule",
                "del_blacklist_rule",
                self._mi_delete,
                (("name", "rule"),),
                {"name": "string", "rule": "string"},
                "Take a rule off a list.",
            ),
        ):
            registry.add(
                CommandDecl(f"blacklists:{name}", handler, aliases=(alias,), params=params, types=kinds, doc=text)
            )

    def _named(self, name: str) -> Blacklist:
        found = self.lists.get(name)
        if found is None:
            raise MiError(404, "Unknown name")
        return found

    def _changeable(self, name: str) -> Blacklist:
        found = self._named(name)
        if READ_ONLY in found.flags:
            raise MiError(403, f"blacklist {name} is read-only")
        return found

    def _shown(self, found: Blacklist) -> dict[str, Json]:
        now = self._now()
        rules: list[Json] = [rule.shown(now) for rule in found.rules.values() if not 0 < rule.ends_at <= now]
        owner = "dns" if found.name == DNS else "script"
        return {"name": found.name, "owner": owner, "flags": list(found.flags), "Rules": rules}

    def _mi_list(self, name: str | None = None) -> Json:
        if name is not None:
            return self._shown(self._named(name))
        return {"Lists": [self._shown(found) for found in self.lists.values()]}

    def _mi_check(self, name: str, ip: str, proto: str = "", port: int = 0, pattern: str = "") -> Json:
        found = self._named(name)
        try:
            rule = self.check(found, ip, port, proto, pattern)
        except ValueError as error:
            raise MiError(400, str(error)) from error
        if rule is None:
            raise MiError(404, "No match")
        return rule.shown(self._now())

    def _mi_check_all(self, ip: str, proto: str = "", port: int = 0, pattern: str = "") -> Json:
        try:
            return [
                name for name, found in self.lists.items() if self.check(found, ip, port, proto, pattern) is not None
            ]
        except ValueError as error:
            raise MiError(400, str(error)) from error

    def _mi_add(self, name: str, rule: str, expire: int = 0) -> Json:
        found = self._changeable(name)
        try:
            self.put(found, parse_rule(rule), max(0, expire))
        except ValueError as error:
            raise MiError(400, str(error)) from error
        return "OK"

    def _mi_delete(self, name: str, rule: str) -> Json:
        found = self._changeable(name)
        try:
            if not self.take(found, parse_rule(rule)):
                raise MiError(404, "No such rule")
        except ValueError as error:
            raise MiError(400, str(error)) from error
        return "OK"


def parse_network(text: str) -> NetworkAddress:
    """An address or a network with a mask of either kind. Raises ValueError."""
    return ipaddress.ip_network(text.strip().replace("[", "").replace("]", ""), strict=False)


def parse_proto(text: str) -> int:
    """A protocol by name, 0 for any. Raises ValueError."""
    number = sip.proto_number(text)
    if not number and text.lower() not in ("", "any"):
        raise ValueError(f"{text!r} is no protocol")
    return number


def parse_rule(text: str) -> Rule:
    """`[!][proto,]network[,port[,pattern]]`. Raises ValueError."""
    rest = text.strip()
    negated = rest.startswith("!")
    parts: list[Any] = rest.removeprefix("!").split(",")
    proto = 0
    if parts[0].strip().lower() == "any" or sip.proto_number(parts[0].strip()):
        proto = parse_proto(parts.pop(0).strip())
    if not parts:
        raise ValueError("the network is missing")
    network = parse_network(parts.pop(0))
    port = parts.pop(0).strip() if parts else ""
    if port and not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise ValueError(f"{port!r} is no port")
    return Rule(negated, proto, network, int(port or 0), ",".join(parts))


def make_rule(address: str, port: int, proto: str, pattern: str) -> Rule:
    """A rule from the arguments of the script's functions; the address may begin with "!". Raises ValueError."""
    negated = address.strip().startswith("!")
    return Rule(negated, parse_proto(proto), parse_network(address.strip().removeprefix("!")), port, pattern)
