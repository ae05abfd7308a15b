"""Who may come in and where calls may go: address tables in memory, and files of allowed and denied pairs of URIs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

from opensipspy.db import Column, DatabaseError, Table, auto_id
from opensipspy.management.registry import Json
from opensipspy.module import Fixup, MiError, Module, Param, mi_command, script_function
from opensipspy.module.partitions import parse_partition
from opensipspy.module.table_cache import TableCache, open_database
from opensipspy.modules.permissions.addresses import ANY_GROUP, ANY_PROTO, AddressTable, Row, protocol
from opensipspy.modules.permissions.rules import LONGEST_VALUE, RuleFiles, found
from opensipspy.script.formats import FormatString
from opensipspy.script.kinds import ALL, BRANCH, ERROR, FAILURE, LOCAL, ONREPLY, REQUEST
from opensipspy.script.run import Run, VarRef
from opensipspy.sip import ParseError, parse_uri

ADDRESS_TABLE: Final = Table(
    "address",
    5,
    (
        auto_id(),
        Column("grp", "unsigned short", 5, default="0"),
        Column("ip", "string", 50),
        Column("mask", "unsigned short", default="32"),
        Column("port", "unsigned short", 5, default="0"),
        Column("proto", "string", 4, default="any"),
        Column("pattern", "string", 64, null=True, default=None),
        Column("context_info", "string", 32, null=True, default=None),
    ),
)
DEFAULT: Final = "default"
NO_TEXT: Final = "(NULL)"
"""This very object stands for a text that is NULL, as that of an absent header: no row fits it, no address neither."""
LONGEST_BASENAME: Final = 1024
NO_SUCH_GROUP: Final = -2

SOURCE_ROUTES: Final = REQUEST | FAILURE | BRANCH | LOCAL
ANYWHERE: Final = ALL & ~(ONREPLY | ERROR)


def pattern_text(text: FormatString) -> Callable[[Run], str]:
    """What reads the text for the pattern: for a text that is left out nothing is compared, for NULL nothing fits."""

    def read(run: Run) -> str:
        value = text.value(run)
        return NO_TEXT if value is None else str(value)

    return read


PatternText = Annotated[str | None, Fixup(pattern_text, "string", takes_format=True)]


class Permissions(Module):
    """Check addresses against a table, and pairs of URIs against files of rules."""

    name = "permissions"
    tables = (ADDRESS_TABLE,)

    db_url = Param(str, None, "The database of the default partition; without it there is none.")
    address_table = Param(str, "address", "Table of partitions that name no other.")
    partition = Param(
        str,
        None,
        'A further set of addresses: "name: db_url=...; table_name=...".',
        repeated=True,
        func=True,
    )
    ip_col = Param(str, "ip", "Column of the address.")
    mask_col = Param(str, "mask", "Column of the network's length.", unit="bits")
    grp_col = Param(str, "grp", "Column of the group.")
    port_col = Param(str, "port", "Column of the port; 0 fits each.")
    proto_col = Param(str, "proto", "Column of the protocol; any fits each.")
    pattern_col = Param(str, "pattern", "Column of the shell wildcard that a text is compared with.")
    info_col = Param(str, "context_info", "Column of the text for the script.")
    default_allow_file = Param(str, "permissions.allow", "Rules of allow_routing() without a file name.")
    default_deny_file = Param(str, "permissions.deny", "Rules of allow_routing() without a file name.")
    allow_suffix = Param(str, ".allow", "What is added to a base name for the file of allowed pairs.")
    deny_suffix = Param(str, ".deny", "What is added to a base name for the file of denied pairs.")
    check_all_branches = Param(int, 1, "1: allow_routing() looks at each branch, 0: at the Request-URI only.")

    def __init__(self, **params: Any) -> None:
        self._wanted: dict[str, dict[str, str]] = {}
        self._caches: dict[str, TableCache[AddressTable]] = {}
        self._files: dict[str, RuleFiles] = {}
        self._default_files: RuleFiles | None = None
        self._folder = Path()
        super().__init__(**params)

    def set_partition(self, text: str) -> None:
        name, properties, word = parse_partition(text)
        if word:
            raise ValueError(f'"{word}" is no property of a partition')
        self._wanted[name] = properties

    # --- life

    async def start(self) -> None:
        self._folder = Path(self.core.script_folder)
        self._default_files = self._files.setdefault(
            self.default_allow_file, RuleFiles(self.default_allow_file, self.default_deny_file)
        )
        for files in self._files.values():
            files.load(self._folder)
        wanted = dict(self._wanted)
        if self.db_url and DEFAULT not in wanted:
            wanted = {DEFAULT: {}, **wanted}
        for name, properties in wanted.items():
            cache = self._cache(properties)
            self._caches[name] = cache
            await cache.start()

    def _cache(self, properties: dict[str, str]) -> TableCache[AddressTable]:
        database = open_database(self, properties.get("db_url") or self.db_url)
        columns = (
            "id",
            self.ip_col,
            self.grp_col,
            self.mask_col,
            self.port_col,
            self.proto_col,
            self.pattern_col,
            self.info_col,
        )
        table = properties.get("table_name") or self.address_table
        version = ADDRESS_TABLE.version or 0
        return TableCache(
            self.core, database, table, version, columns, AddressTable, AddressTable.add, finish=AddressTable.finish
        )

    async def stop(self) -> None:
        for cache in self._caches.values():
            cache.stop()

    # --- addresses

    def _partition(self, name: str | None) -> AddressTable | None:
        cache = self._caches.get(name or DEFAULT)
        if cache is None:
            self.core.log.error("permissions: there is no partition %s", name or DEFAULT)
            return None
        return cache.data

    def _named_partition(self, name: str) -> str:
        """A partition that the script names has to be there, found at load."""
        if name not in self._wanted and not (name == DEFAULT and self.db_url):
            raise ValueError(f"there is no partition {name!r}")
        return name

    def _check(
        self,
        run: Run,
        group: int,
        address: str,
        port: int,
        proto: int,
        context_info: VarRef | None,
        pattern: str | None,
        partition: str | None,
    ) -> int:
        table = self._partition(partition)
        if table is None:
            return -1
        if pattern is NO_TEXT:
            self.core.log.error("permissions: the text for the pattern is NULL")
            return -1
        try:
            row = table.find(group, address, port, proto, pattern)
        except ValueError as error:
            self.core.log.error("permissions: %s", error)
            return -1
        if row is None:
            return -1 if group == ANY_GROUP or table.has_group(group) else NO_SUCH_GROUP
        if context_info is not None:
            context_info.set(run, row.info)
        return 1

    @script_function(routes=ANYWHERE)
    def check_address(
        self,
        run: Run,
        group_id: int,
        ip: str,
        port: int,
        proto: Annotated[int, Fixup(protocol)],
        context_info: VarRef | None = None,
        pattern: PatternText = None,
        partition: Annotated[str | None, Fixup("_named_partition")] = None,
    ) -> int:
        """Whether an address, a port (0: any) and a protocol ("any": each) are in a group (0: any group).

        pattern: a text that the row's wildcard, if it has one, must fit. context_info gets the row's text. A host's own
        row is taken first, then those of its networks, the widest first; of equals the last of the table.
        Returns 1 yes, -1 no, -2 there is no such group.
        """
        return self._check(run, group_id, ip or "", port, proto, context_info, pattern, partition)

    @script_function(routes=SOURCE_ROUTES)
    def check_source_address(
        self,
        run: Run,
        group_id: int,
        context_info: VarRef | None = None,
        pattern: PatternText = None,
        partition: Annotated[str | None, Fixup("_named_partition")] = None,
    ) -> int:
        """Whether the message's source address, port and protocol are in a group. As check_address()."""
        source = run.msg.source
        return self._check(run, group_id, source.address, source.port, source.proto, context_info, pattern, partition)

    @script_function(routes=SOURCE_ROUTES)
    def get_source_group(
        self, run: Run, var: VarRef, partition: Annotated[str | None, Fixup("_named_partition")] = None
    ) -> int:
        """Put the lowest group that the message's source address and port are in into `var`. Returns 1, or -1: none."""
        table = self._partition(partition)
        if table is None:
            return -1
        source = run.msg.source
        row: Row | None = table.find(ANY_GROUP, source.address, source.port, ANY_PROTO, None)
        if row is None:
            return -1
        var.set(run, row.group)
        return 1

    # --- files

    def _rule_files(self, basename: str) -> RuleFiles:
        if not basename or len(basename) > LONGEST_BASENAME or "\0" in basename:
            raise ValueError("the base name of the rule files cannot be used")
        allow = basename + self.allow_suffix
        known = self._files.get(allow)
        if known is None:
            known = self._files[allow] = RuleFiles(allow, basename + self.deny_suffix)
        return known

    def _ready(self, files: RuleFiles) -> RuleFiles:
        files.load(self._folder)
        return files

    @script_function(routes=REQUEST | FAILURE | LOCAL)
    def allow_routing(self, run: Run, basename: Annotated[RuleFiles | None, Fixup("_rule_files")] = None) -> int:
        """Whether the pair of From URI and Request-URI, and of From URI and each branch, is allowed by rule files.

        Returns 1 allowed, -1 denied or unreadable.
        """
        files = self._default_files if basename is None else self._ready(basename)
        if files is None or files.empty:
            return 1
        try:
            left = _short(run.msg.from_.uri)
            uri = parse_uri(run.ruri)
            right = _short(f"sip:{uri.user}@{uri.host_text}")
            if found(files.allow, left, right):
                if not self.check_all_branches:
                    return 1
            elif found(files.deny, left, right):
                return -1
            if not self.check_all_branches:
                return 1
            return 1 if all(files.allows(left, plain_uri(branch.uri)) for branch in run.branches) else -1
        except (ParseError, ValueError, TimeoutError) as error:
            return self._unreadable("allow_routing", error)

    @script_function(routes=REQUEST | FAILURE | LOCAL)
    def allow_register(self, run: Run, basename: Annotated[RuleFiles, Fixup("_rule_files")]) -> int:
        """Whether the pair of To URI and each Contact is allowed by rule files. Returns 1 allowed, -1 denied."""
        files = self._ready(basename)
        if files.empty:
            return 1
        try:
            contacts = run.msg.contacts
            if not contacts or run.msg.contact_star:
                # Nothing is registered by such a request.
                return 1
            left = _short(run.msg.to.uri)
            for contact in contacts:
                right = plain_uri(contact.uri)
                if self.check_all_branches and found(files.allow, left, right):
                    continue
                if found(files.deny, left, right):
                    return -1
        except (ParseError, ValueError, TimeoutError) as error:
            return self._unreadable("allow_register", error)
        return 1

    @script_function(routes=ANYWHERE)
    def allow_uri(self, run: Run, basename: Annotated[RuleFiles, Fixup("_rule_files")], uri: str | None) -> int:
        """Whether the pair of From URI and another URI is allowed by rule files. Returns 1 allowed, -1 denied."""
        if uri is None:
            self.core.log.error("permissions: allow_uri() denies: the URI is NULL")
            return -1
        files = self._ready(basename)
        if files.empty:
            return 1
        try:
            return 1 if files.allows(_short(run.msg.from_.uri), _short(uri)) else -1
        except (ParseError, ValueError, TimeoutError) as error:
            return self._unreadable("allow_uri", error)

    def _unreadable(self, function: str, error: Exception) -> int:
        why = "an expression takes too long" if isinstance(error, TimeoutError) else str(error)
        self.core.log.error("permissions: %s() denies: %s", function, why)
        return -1

    # --- management

    def _asked(self, partition: str) -> TableCache[AddressTable]:
        cache = self._caches.get(partition)
        if cache is None:
            raise MiError(404, "No such partition")
        return cache

    def _dump(self, partition: str | None, hosts: bool) -> Json:
        if partition is not None:
            return {"part": partition, "Destinations": list(self._asked(partition).data.listed(hosts))}
        shown = [{"name": name, "Destinations": list(cache.data.listed(hosts))} for name, cache in self._caches.items()]
        return {"Partitions": shown}

    @mi_command("permissions:address_dump", params=((), ("partition",)), types={"partition": "string"})
    def address_dump(self, partition: str | None = None) -> Json:
        """The single addresses in memory."""
        return self._dump(partition, hosts=True)

    @mi_command("permissions:subnet_dump", params=((), ("partition",)), types={"partition": "string"})
    def subnet_dump(self, partition: str | None = None) -> Json:
        """The networks in memory."""
        return self._dump(partition, hosts=False)

    @mi_command("permissions:address_reload", params=((), ("partition",)), types={"partition": "string"})
    async def address_reload(self, partition: str | None = None) -> Json:
        """Read the addresses again; what is there serves until the new table is whole, and on when that fails."""
        if partition is not None and partition not in self._caches:
            raise MiError(400, "Trusted table reload failed", f"there is no partition {partition!r}")
        caches = self._caches if partition is None else {partition: self._caches[partition]}
        for name, cache in caches.items():
            try:
                await cache.load()
            except DatabaseError as error:
                raise MiError(500, f"Failed to reload partition {name}", str(error)) from error
        return "OK"

    @mi_command(
        "permissions:allow_uri",
        params=(("basename", "uri", "contact"),),
        types={"basename": "string", "uri": "string", "contact": "string"},
    )
    def mi_allow_uri(self, basename: str, uri: str, contact: str) -> Json:
        """Ask the rule files, which the script has to use, about a pair of URIs."""
        for text, what, longest in (
            (basename, "Basename", LONGEST_BASENAME),
            (uri, "URI", LONGEST_VALUE),
            (contact, "Contact", LONGEST_VALUE),
        ):
            if not text:
                raise MiError(404, f"{what} is empty")
            if len(text) > longest:
                raise MiError(404, f"{what} is too long")
        files = self._files.get(basename + self.allow_suffix)
        try:
            if files is not None and (files.empty or files.allows(uri, contact)):
                return "OK"
        except TimeoutError as error:
            self._unreadable("allow_uri", error)
        raise MiError(403, "Forbidden")


def _short(text: str) -> str:
    if len(text) > LONGEST_VALUE:
        raise ValueError(f"a URI has more than {LONGEST_VALUE} characters")
    return text


def plain_uri(text: str) -> str:
    """ "sip:user@host" of a URI, whatever else it has; raises ParseError and ValueError."""
    uri = parse_uri(text)
    return _short(f"sip:{uri.user}@{uri.host_text}" if uri.user else f"sip:{uri.host_text}")


__all__ = ["ADDRESS_TABLE", "Permissions"]
