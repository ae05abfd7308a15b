"""The core's script functions that act on the rest of the server: stores, blacklists, events, connections, status."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from opensipspy.script.corefuncs import prepared
from opensipspy.script.declare import Catalogue, FunctionDecl, ParamDecl, Waits
from opensipspy.script.kinds import ALL
from opensipspy.script.rawquery import raw_query
from opensipspy.script.run import Run, Value, VarRef
from opensipspy.script.runtime import report
from opensipspy.script.services import ScriptServices

# The blacklists chosen for the message by name; the sender asks for them.
USED_BLACKLISTS = "core.blacklists"


def used_blacklists(run: Run) -> frozenset[str]:
    """The blacklists that use_blacklist() chose for the message."""
    used = run.ctx.get(USED_BLACKLISTS)
    return frozenset(used) if isinstance(used, set) else frozenset()


class ServerFunctions:
    """The functions, bound to one server; `register` makes them known."""

    def __init__(self, services: ScriptServices) -> None:
        self.services: ScriptServices = services

    # -- key-value stores

    def storage(self, name: str) -> str:
        """Check that a loaded module serves a store; ValueError when none does."""
        if not self.services.cache_known(name):
            raise ValueError(f"no loaded module serves the key-value store {name!r}")
        return name

    def _failed(self, run: Run, function: str, storage_id: str, error: Exception) -> int:
        # A store that is away has said so once; a line for each call would only fill the log.
        if not getattr(error, "transient", False):
            report(run, f"{function}({storage_id}): {error}")
        return -1

    async def cache_fetch(self, run: Run, storage_id: str, attribute: str | None, result: VarRef) -> int:
        """Read a value; -2 when there is none, -1 when the store does not answer."""
        if not attribute:
            return -1
        try:
            found = self.services.cache_fetch(storage_id, attribute)
            value = await found if isinstance(found, Awaitable) else found
        except (LookupError, OSError) as error:
            return self._failed(run, "cache_fetch", storage_id, error)
        if value is None:
            return -2
        result.set(run, value)
        return 1

    async def cache_counter_fetch(
        self, run: Run, storage_id: str, counter_attribute: str | None, result: VarRef
    ) -> int:
        """Read a counter; -2 when there is none, -1 when it is no number or the store does not answer."""
        if not counter_attribute:
            return -1
        try:
            found = self.services.cache_counter(storage_id, counter_attribute)
            value = await found if isinstance(found, Awaitable) else found
        except (LookupError, OSError) as error:
            return self._failed(run, "cache_counter_fetch", storage_id, error)
        if value is None:
            return -2
        result.set(run, value)
        return 1

    async def cache_store(
        self, run: Run, storage_id: str, attribute: str | None, value: str | None, timeout: int | None = None
    ) -> int:
        """Store a value for `timeout` seconds, for ever without."""
        if not attribute or value is None:
            return -1
        try:
            stored = self.services.cache_store(storage_id, attribute, value, timeout or 0)
            if stored is not None:
                await stored
        except (LookupError, OSError) as error:
            return self._failed(run, "cache_store", storage_id, error)
        return 1

    async def cache_remove(self, run: Run, storage_id: str, attribute: str | None) -> int:
        """Remove a value; it is no failure when there is none."""
        if not attribute:
            return -1
        try:
            removed = self.services.cache_remove(storage_id, attribute)
            if isinstance(removed, Awaitable):
                await removed
        except (LookupError, OSError) as error:
            return self._failed(run, "cache_remove", storage_id, error)
        return 1

    async def _count(
        self, run: Run, storage_id: str, attribute: str | None, amount: int, expire: int, new_val: VarRef | None
    ) -> int:
        if not attribute:
            return -1
        try:
            found = self.services.cache_add(storage_id, attribute, amount, expire)
            value = await found if isinstance(found, Awaitable) else found
        except (LookupError, OSError) as error:
            return self._failed(run, "cache_add" if amount >= 0 else "cache_sub", storage_id, error)
        if new_val is not None:
            new_val.set(run, value)
        return 1

    async def cache_add(
        self,
        run: Run,
        storage_id: str,
        attribute: str | None,
        increment: int,
        expire: int,
        new_val: VarRef | None = None,
    ) -> int:
        """Add to a counter, in one step; `expire` in seconds, 0 for ever."""
        return await self._count(run, storage_id, attribute, increment, expire, new_val)

    async def cache_sub(
        self,
        run: Run,
        storage_id: str,
        attribute: str | None,
        decrement: int,
        expire: int,
        new_val: VarRef | None = None,
    ) -> int:
        """Subtract from a counter, in one step; `expire` in seconds, 0 for ever."""
        return await self._count(run, storage_id, attribute, -decrement, expire, new_val)

    def result_names(self, text: str) -> tuple[str, ...]:
        """The AVP names in "$avp(a);$avp(b)". Raises ValueError."""
        names: list[str] = []
        for word in text.replace(",", ";").split(";"):
            spelled = word.strip()
            if not (spelled.startswith("$avp(") and spelled.endswith(")") and len(spelled) > 6):
                raise ValueError(f"{spelled!r} is not an $avp(name)")
            names.append(spelled[5:-1])
        return tuple(names)

    async def cache_raw_query(
        self, run: Run, storage_id: str, raw_query: str | None, result: tuple[str, ...] | None = None
    ) -> int:
        """Run a query in the store's own language; each column of the rows goes to an AVP, the first row on top.

        What a variable brings is part of one argument, or stays within the quotes around it; a query that is one
        variable is taken as it is. -2 when there are no rows for the AVPs, -1 when the query fails.
        """
        if not raw_query:
            return -1
        try:
            found = self.services.cache_raw(storage_id, raw_query)
            rows = await found if isinstance(found, Awaitable) else found
        except (LookupError, OSError) as error:
            return self._failed(run, "cache_raw_query", storage_id, error)
        for row in reversed(rows):
            for name, value in zip(result or (), row, strict=False):
                run.avps.setdefault(name, []).append(value)
        return 1 if rows or not result else -2

    # -- blacklists

    def blacklist(self, name: str) -> str:
        if not self.services.blacklist_known(name):
            raise ValueError(f"there is no blacklist {name!r}")
        return name

    def chosen_blacklists(self, name: str) -> frozenset[str]:
        """One list, or every list for "all"."""
        return self.services.blacklist_names() if name.lower() == "all" else frozenset((self.blacklist(name),))

    def use_blacklist(self, run: Run, bl_name: frozenset[str]) -> int:
        """Keep this message from going where the list says, or any list for "all"."""
        used = run.ctx.setdefault(USED_BLACKLISTS, set(self.services.blacklist_defaults()))
        if isinstance(used, set):
            used |= bl_name
        return 1

    def unuse_blacklist(self, run: Run, bl_name: frozenset[str]) -> int:
        """Take use_blacklist() back; "all" lets the message go anywhere, whichever lists count by default."""
        used = run.ctx.setdefault(USED_BLACKLISTS, set(self.services.blacklist_defaults()))
        if isinstance(used, set):
            used -= bl_name
        return 1

    def add_blacklist_rule(
        self,
        run: Run,
        bl_name: str,
        ip: str | None,
        port: int | None = None,
        proto: str | None = None,
        pattern: str | None = None,
        expire: int | None = None,
    ) -> int:
        """Add "[!]address[/prefix]" to a list, for `expire` seconds or for ever; `pattern` as a shell has it."""
        if not ip:
            return -1
        return self.services.blacklist_add(bl_name, ip, port or 0, proto or "", pattern or "", expire or 0)

    def del_blacklist_rule(
        self,
        run: Run,
        bl_name: str,
        ip: str | None,
        port: int | None = None,
        proto: str | None = None,
        pattern: str | None = None,
    ) -> int:
        """Take a rule off a list."""
        return self.services.blacklist_delete(bl_name, ip, port or 0, proto or "", pattern or "") if ip else -1

    def check_blacklist_rule(
        self,
        run: Run,
        bl_name: str,
        ip: str | None,
        port: int | None = None,
        proto: str | None = None,
        pattern: str | None = None,
    ) -> int:
        """True when the list bars the destination."""
        return self.services.blacklist_check(bl_name, ip, port or 0, proto or "", pattern or "") if ip else -1

    # -- events and status

    def raise_event(self, run: Run, event: str | None, attrs: VarRef | None = None, vals: VarRef | None = None) -> int:
        """Raise an event; the values of `vals`, top first, are its parameters and those of `attrs` their names."""
        if not event:
            return -1
        values = self._stack(run, vals)
        names = self._stack(run, attrs) if vals is not None else []
        if attrs is None or vals is None:
            return self.services.raise_event(event, [("", value) for value in values])
        if len(names) < len(values) or not all(isinstance(name, str) for name in names):
            report(run, f"event {event}: each of the {len(values)} values needs a name")
            return -1
        if len(names) > len(values):
            report(run, f"event {event}: {len(names)} names for {len(values)} values")
        pairs = zip(names, values, strict=False)
        return self.services.raise_event(event, [(str(name), value) for name, value in pairs])

    def _stack(self, run: Run, ref: VarRef | None) -> list[Value]:
        """The values of an AVP, top first."""
        return list(reversed(run.avps.get(ref.name, ()))) if ref is not None else []

    def subscribe_event(self, run: Run, event: str | None, socket: str | None, expire: int | None = None) -> int:
        """Subscribe a socket "udp:host:port", "unix:path" ... to an event for `expire` seconds, or for ever."""
        return self.services.subscribe_event(event, socket, expire or 0) if event and socket else -1

    def sr_check_status(self, run: Run, group: str | None, identifier: str | None = None) -> int:
        """The value of a status/report identifier: positive is good, negative is not."""
        return (self.services.status(group, identifier or "") or -1) if group else -1

    def tcp_close_conn(self, run: Run, ipport: str | None) -> int:
        """Close the connection to "[proto:]ip:port"."""
        return self.services.tcp_close(ipport) if ipport else -1

    # -- the table

    def register(self, catalogue: Catalogue) -> None:
        def add(
            name: str,
            call: Callable[..., int | Awaitable[int]],
            params: tuple[ParamDecl, ...],
            waits: Waits = "no",
        ) -> None:
            catalogue.add_function(
                FunctionDecl(name, "core", params, ALL, call, waits, doc=(call.__doc__ or "").strip())
            )

        store = ParamDecl("storage_id", fixup=prepared(self.storage))
        key = ParamDecl("attribute")
        result = ParamDecl("result", "var", must_be="writable variable")
        new_value = ParamDecl("new_val", "var", optional=True, must_be="writable variable")
        expire = ParamDecl("expire", "int")
        add("cache_fetch", self.cache_fetch, (store, key, result), "always")
        add("cache_counter_fetch", self.cache_counter_fetch, (store, ParamDecl("counter_attribute"), result), "always")
        add(
            "cache_store",
            self.cache_store,
            (store, key, ParamDecl("value"), ParamDecl("timeout", "int", optional=True)),
            "always",
        )
        add("cache_remove", self.cache_remove, (store, key), "always")
        add("cache_add", self.cache_add, (store, key, ParamDecl("increment", "int"), expire, new_value), "always")
        add("cache_sub", self.cache_sub, (store, key, ParamDecl("decrement", "int"), expire, new_value), "always")
        add(
            "cache_raw_query",
            self.cache_raw_query,
            (
                store,
                ParamDecl("raw_query", fixup=raw_query, takes_format=True),
                ParamDecl("result", optional=True, no_expand=True, fixup=prepared(self.result_names)),
            ),
            "always",
        )
        blacklist = ParamDecl("bl_name", fixup=prepared(self.blacklist))
        rule = (
            blacklist,
            ParamDecl("ip"),
            ParamDecl("port", "int", optional=True),
            ParamDecl("proto", optional=True),
            ParamDecl("pattern", optional=True),
        )
        chosen = ParamDecl("bl_name", fixup=prepared(self.chosen_blacklists))
        add("use_blacklist", self.use_blacklist, (chosen,))
        add("unuse_blacklist", self.unuse_blacklist, (chosen,))
        add("add_blacklist_rule", self.add_blacklist_rule, (*rule, ParamDecl("expire", "int", optional=True)))
        add("del_blacklist_rule", self.del_blacklist_rule, rule)
        add("check_blacklist_rule", self.check_blacklist_rule, rule)
        avps = (
            ParamDecl("attrs", "var", optional=True, must_be="avp"),
            ParamDecl("vals", "var", optional=True, must_be="avp"),
        )
        add("raise_event", self.raise_event, (ParamDecl("event"), *avps))
        add(
            "subscribe_event",
            self.subscribe_event,
            (ParamDecl("event"), ParamDecl("socket"), ParamDecl("expire", "int", optional=True)),
        )
        add("sr_check_status", self.sr_check_status, (ParamDecl("group"), ParamDecl("identifier", optional=True)))
        add("tcp_close_conn", self.tcp_close_conn, (ParamDecl("ipport"),))
