"""Turn texts, numbers above all, into others by rules of a table that is kept in memory."""

from __future__ import annotations

from typing import Annotated, Any, Final

from opensipspy.db import Column, DatabaseError, Table, auto_id
from opensipspy.management.registry import Json
from opensipspy.module import Fixup, MiError, Module, Param, StartError, WritableVar, mi_command, script_function
from opensipspy.module.partitions import parse_partition
from opensipspy.module.table_cache import TableCache, open_database
from opensipspy.modules.dialplan.rules import LONGEST_INPUT, Plan, Rule, Rules, TranslationError
from opensipspy.script.kinds import ALL, ERROR, ONREPLY
from opensipspy.script.run import Run, VarRef

DIALPLAN_TABLE: Final = Table(
    "dialplan",
    5,
    (
        auto_id(),
        Column("dpid", "int", 11),
        Column("pr", "int", 11, default="0"),
        Column("match_op", "int", 11),
        Column("match_exp", "string", 64),
        Column("match_flags", "int", 11, default="0"),
        Column("subst_exp", "string", 64, null=True, default=None),
        Column("repl_exp", "string", 32, null=True, default=None),
        Column("timerec", "string", 255, null=True, default=None),
        Column("disabled", "int", 11, default="0"),
        Column("attrs", "string", 255, null=True, default=None),
    ),
)
DEFAULT: Final = "default"
GROUP: Final = "dialplan"
READY: Final = 1
NO_DATA: Final = -2
LOADING: Final = -1
RELOADING: Final = 2

OutputVar = Annotated[VarRef | None, WritableVar()]


class Dialplan(Module):
    """Translate texts by rules: equal texts and Perl compatible expressions, priorities, times, attributes."""

    name = "dialplan"
    tables = (DIALPLAN_TABLE,)

    db_url = Param(str, None, "The database of partitions that name no other; else db_default_url.")
    table_name = Param(str, "dialplan", "The table of partitions that name no other.")
    partition = Param(
        str,
        None,
        'A further set of rules: "name: db_url=...; table_name=...", or "default: name" for the one to use.',
        repeated=True,
        func=True,
    )
    dpid_col = Param(str, "dpid", "Column of the dialplan's id.")
    pr_col = Param(str, "pr", "Column of the priority; the lowest wins.")
    match_op_col = Param(str, "match_op", "Column of the way to match: 0 equal, 1 expression.")
    match_exp_col = Param(str, "match_exp", "Column of the text or the expression to match.")
    match_flags_col = Param(str, "match_flags", "Column of the flags: 1 ignores the case.")
    subst_exp_col = Param(str, "subst_exp", "Column of the expression whose groups the replacement takes.")
    repl_exp_col = Param(str, "repl_exp", "Column of the replacement.")
    timerec_col = Param(str, "timerec", "Column of the time recurrence in which the rule counts.")
    disabled_col = Param(str, "disabled", "Column that is 0 for the rules to load.")
    attrs_col = Param(str, "attrs", "Column of the text for the script.")

    def __init__(self, **params: Any) -> None:
        self._wanted: dict[str, dict[str, str]] = {}
        self._default = DEFAULT
        self._caches: dict[str, TableCache[Rules]] = {}
        super().__init__(**params)

    def set_partition(self, text: str) -> None:
        name, properties, word = parse_partition(text)
        if not word:
            self._wanted[name] = properties
        elif name == DEFAULT:
            self._default = word
        else:
            raise ValueError(f'"{word}" is no property of a partition')

    # --- life

    async def start(self) -> None:
        wanted = dict(self._wanted)
        if self._default == DEFAULT and DEFAULT not in wanted and self.db_url:
            wanted[DEFAULT] = {}
        if self._default != DEFAULT and self._default not in wanted:
            raise StartError(f"dialplan: the default partition {self._default} is not there")
        for name, properties in wanted.items():
            cache = self._caches[name] = self._cache(name, properties)
            self.core.status.set_status(GROUP, LOADING, "startup data loading", name)
            await cache.start()
            self._tell_status(name)

    def _cache(self, name: str, properties: dict[str, str]) -> TableCache[Rules]:
        columns = (
            "id",
            self.dpid_col,
            self.pr_col,
            self.match_op_col,
            self.match_exp_col,
            self.match_flags_col,
            self.subst_exp_col,
            self.repl_exp_col,
            self.attrs_col,
            self.timerec_col,
        )

        def changed(text: str) -> None:
            self.core.status.report(GROUP, text, name)
            self._tell_status(name)

        return TableCache(
            self.core,
            open_database(self, properties.get("db_url") or self.db_url),
            properties.get("table_name") or self.table_name,
            DIALPLAN_TABLE.version or 0,
            columns,
            lambda: Rules(self.core.catalogue),
            Rules.add,
            finish=Rules.finish,
            where=((self.disabled_col, "=", 0),),
            order=self.pr_col,
            changed=changed,
        )

    def _tell_status(self, name: str) -> None:
        cache = self._caches[name]
        if cache.loading:
            number, text = (RELOADING, "data re-loading") if cache.loaded else (LOADING, "startup data loading")
        else:
            number, text = (READY, "data available") if cache.loaded else (NO_DATA, "no data loaded")
        self.core.status.set_status(GROUP, number, text, name)

    async def stop(self) -> None:
        for cache in self._caches.values():
            cache.stop()

    # --- the script

    def _named_partition(self, name: str) -> str:
        """A partition that the script names has to be there, found at load."""
        if name not in self._wanted and not (name == DEFAULT and self.db_url):
            raise ValueError(f"there is no partition {name!r}")
        return name

    def _translate(self, plan: Plan, text: str, run: Run | None) -> tuple[Rule, str | None] | None:
        """(the rule, the output or None when it has none); None when no rule is found or it cannot be applied."""
        if not text or len(text) > LONGEST_INPUT:
            return None
        rule: Rule | None = None
        try:
            rule = plan.find(text, self.core.time())
            return None if rule is None else (rule, rule.output(text, run))
        except TimeoutError as error:
            slow = rule or (error.args[0] if error.args else None)
            number = slow.id if isinstance(slow, Rule) else "?"
            self.core.log.error("dialplan: rule %s takes too long, nothing is translated", number)
        except TranslationError as error:
            self.core.log.error("dialplan: rule %s is not applied: %s", rule.id if rule is not None else "?", error)
        return None

    @script_function(routes=ALL & ~(ONREPLY | ERROR))
    def dp_translate(
        self,
        run: Run,
        id: int,
        input: str,
        out_var: OutputVar = None,
        attrs_var: OutputVar = None,
        partition: Annotated[str | None, Fixup("_named_partition")] = None,
    ) -> int:
        """Translate a text by the rules of a dialplan id.

        out_var gets the output, if the rule has a replacement; attrs_var gets the rule's attributes, "" for none.
        Returns 1, or -1 when no rule matches or the one that does cannot be applied.
        """
        name = partition or self._default
        cache = self._caches.get(name)
        if cache is None:
            self.core.log.error("dialplan: there is no partition %s", name)
            return -1
        plan = cache.data.plans.get(id)
        if plan is None:
            return -1
        found = self._translate(plan, input or "", run)
        if found is None:
            return -1
        rule, output = found
        if out_var is not None and output:
            out_var.set(run, output)
        if attrs_var is not None:
            attrs_var.set(run, rule.attrs)
        return 1

    # --- management

    @mi_command("dialplan:reload", aliases=("dp_reload",), params=((), ("partition",)), types={"partition": "string"})
    async def reload_rules(self, partition: str | None = None) -> Json:
        """Read the rules again; those in memory serve until the new ones are whole, and on when that fails."""
        if partition is not None and partition not in self._caches:
            raise MiError(400, "Partition not found")
        for name in self._caches if partition is None else (partition,):
            try:
                await self._caches[name].load()
            except DatabaseError as error:
                raise MiError(500, f"Failed to reload partition {name}", str(error)) from error
        return "OK"

    @mi_command(
        "dialplan:translate",
        aliases=("dp_translate",),
        params=(("dpid", "input"), ("dpid", "input", "partition")),
        types={"dpid": "string", "input": "string", "partition": "string"},
    )
    def translate(self, dpid: str, input: str, partition: str | None = None) -> Json:
        """Translate a text as the script would, variables of replacements left out."""
        cache = self._caches.get(self._default if partition is None else partition)
        if cache is None:
            raise (
                MiError(404, "'default' partition not found")
                if partition is None
                else MiError(400, "Partition not found")
            )
        if not dpid:
            raise MiError(404, "Empty id parameter")
        digits = dpid.strip().lstrip("+-")
        if not digits.isascii() or not digits.isdigit() or len(digits) > 10:
            raise MiError(404, "Wrong id parameter")
        if not input:
            raise MiError(404, "Empty input parameter")
        plan = cache.data.plans.get(-int(digits) if dpid.strip().startswith("-") else int(digits))
        if plan is None:
            raise MiError(404, "No information available for dpid")
        found = self._translate(plan, input, None)
        if found is None:
            raise MiError(404, "No translation")
        return {"Output": found[1] or "", "ATTRIBUTES": found[0].attrs}

    @mi_command(
        "dialplan:show_partition",
        aliases=("dp_show_partition",),
        params=((), ("partition",)),
        types={"partition": "string"},
    )
    def show_partition(self, partition: str | None = None) -> Json:
        """The partitions, or one of them: table and database, without its password."""
        if partition is None:
            return {
                "Partitions": [
                    {"name": name, "table": cache.table, "db_url": str(cache.database.url)}
                    for name, cache in self._caches.items()
                ]
            }
        cache = self._caches.get(partition)
        if cache is None:
            raise MiError(404, "Partition Not Found")
        return {"Partition": partition, "Table": cache.table, "db_url": str(cache.database.url)}


__all__ = ["DIALPLAN_TABLE", "Dialplan"]
