"""What a declaration becomes: parameters, functions, variables, commands, events, statistics, timers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from pathlib import Path
from typing import Annotated, Any

import pytest

from opensipspy.module import (
    DeclarationError,
    Event,
    Fixup,
    Flags,
    MiError,
    Module,
    ModuleLoadError,
    Named,
    NoExpand,
    Param,
    ParamError,
    Requires,
    RouteName,
    Stat,
    Static,
    Timer,
    WritableVar,
    find_module,
    mi_command,
    script_function,
    transformation,
    variable,
)
from opensipspy.module.describe import describe, manual
from opensipspy.module.testing import FakeCore, make_run, make_var, request
from opensipspy.script.declare import Catalogue, Index, Value, VarRef
from opensipspy.script.kinds import ALL, FAILURE, REQUEST
from opensipspy.script.run import Run


class Sample(Module):
    """A module with one of everything."""

    name = "sample"
    requires = ("tm", Requires("dialog", param="use_dialog"))
    wants = ("rr",)

    limit = Param(int, 10, "Most of them.", unit="s")
    prefix = Param(str, "x", "What comes first.")
    unset = Param(str, None, "Nothing by default.")
    either = Param((int, str), 5, "A number or a name.")
    each = Param(str, None, "Several.", repeated=True)
    handled = Param(str, None, "Each occurrence is looked at.", func=True)
    use_dialog = Param(int, 0, "Whether.")

    hits = Stat("Calls of the function.")
    double = Stat("Twice the hits.", name="double_hits", computed="_double")
    happened = Event("E_SAMPLE", params=("who", ("count", "int")), help="Something happened.")
    tick = Timer("limit", "on_tick")
    slow = Timer(1, "on_slow")

    def __init__(self, **params: Any) -> None:
        self.seen: list[str] = []
        self.gate: asyncio.Event | None = None
        self.ticks = 0
        super().__init__(**params)

    def set_handled(self, value: str) -> None:
        if value == "bad":
            raise ValueError("cannot be bad")
        self.seen.append(value)

    def _double(self) -> int:
        return self.hits.value * 2

    @script_function(routes=REQUEST | FAILURE)
    def sample_do(self, run: Run, text: str, count: int = 7, flag: int | None = None, out: VarRef | None = None) -> int:
        """Do it."""
        self.hits.inc()
        if out is not None:
            out.set(run, f"{text}{count}{flag}")
        return count

    @script_function(name="sample.wait", async_ok=True)
    async def wait_a_bit(
        self,
        run: Run,
        route: Annotated[str, RouteName(FAILURE), Static()],
        pattern: re.Pattern[str],
        raw: Annotated[str, NoExpand()],
        flags: Annotated[str | None, Flags(("a", "b"), ("c",))] = None,
        number: Annotated[object, Fixup("to_number", "string"), Named("no-of")] = None,
        target: Annotated[VarRef | None, WritableVar("avp")] = None,
    ) -> int:
        """Wait."""
        return 1

    @script_function()
    def sample_maybe(self, run: Run) -> int | Awaitable[int]:
        """Wait, perhaps."""
        return 1

    def to_number(self, text: str) -> int:
        return int(text) + self.limit

    @variable("$sample", index=True, name_arg="optional", fixed_names=("a", "b"), parse_name=str.upper)
    def read(self, run: Run, name: Any, index: Index) -> Value:
        """A variable."""
        return run.vars.get(f"{name}{index}")

    @read.setter
    def write(self, run: Run, name: Any, index: Index, value: Value) -> None:
        run.vars[f"{name}{index}"] = value

    @transformation("sample.cut")
    def cut(self, value: Value, start: int, end: str = "") -> Value:
        """Cut."""
        return str(value)[start:] + end

    @mi_command("sample:show", aliases=("sample_show",), params=((), ("from", "max-age")), types={"max-age": "int"})
    async def show(self, from_: str = "", max_age: int = 0) -> dict[str, Any]:
        """Show."""
        if max_age < 0:
            raise MiError(400, "Negative")
        return {"from": from_, "age": max_age}

    def on_tick(self) -> None:
        self.ticks += 1

    async def on_slow(self) -> None:
        self.ticks += 100
        if self.gate is not None:
            await self.gate.wait()


def test_parameters_have_defaults_and_take_values() -> None:
    plain, given = Sample(), Sample(limit=3, each=["a", "b"], either="name", handled="h")
    assert (plain.limit, plain.prefix, plain.unset, plain.either, plain.each) == (10, "x", None, 5, [])
    assert (given.limit, given.each, given.either, given.seen) == (3, ["a", "b"], "name", ["h"])
    given.set_param("each", "c")
    given.set_param("handled", "i")
    assert (given.each, given.seen) == (["a", "b", "c"], ["h", "i"])
    assert plain.each == []
    assert given.given("limit")
    assert not plain.given("limit")


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("limt", 1, "sample: limt: no such parameter (did you mean limit?)"),
        ("limit", "5", "sample: limit: takes an integer, not '5' (write 5 without the quotes)"),
        ("prefix", 5, 'sample: prefix: takes a string, not 5 (write "5" with quotes)'),
        ("limit", True, "sample: limit: takes an integer, not True"),
        ("either", None, "sample: either: takes a string or an integer, not None"),
        ("handled", "bad", "sample: handled: cannot be bad"),
    ],
)
def test_wrong_parameters_are_told_with_what_would_fit(name: str, value: Any, text: str) -> None:
    with pytest.raises(ParamError) as caught:
        Sample().set_param(name, value)
    assert str(caught.value) == text


def test_functions_are_declared_from_their_signatures() -> None:
    catalogue = Catalogue()
    sample = Sample()
    sample.declare(catalogue)
    do = catalogue.functions["sample_do"]
    assert [(p.name, p.type, p.optional) for p in do.params] == [
        ("text", "string", False), ("count", "int", True), ("flag", "int", True), ("out", "var", True),
    ]  # fmt: skip
    assert (do.routes, do.waits, do.async_ok, do.doc, do.module) == (REQUEST | FAILURE, "no", False, "Do it.", "sample")
    wait = catalogue.functions["sample.wait"]
    assert (wait.routes, wait.waits, wait.async_ok) == (ALL, "always", True)
    by_name = {p.name: p for p in wait.params}
    assert by_name["route"].static
    assert by_name["route"].route_kind == FAILURE
    assert by_name["pattern"].type == "regex"
    assert by_name["raw"].no_expand
    assert (by_name["flags"].flags, by_name["flags"].key_value_flags) == (("a", "b"), ("c",))
    assert by_name["no-of"].fixup is not None
    assert by_name["no-of"].fixup("5") == 15, "a fixup named by a text is the instance's method"
    assert (by_name["target"].type, by_name["target"].must_be) == ("var", "avp")
    assert catalogue.functions["sample_maybe"].waits == "maybe"
    assert catalogue.events["E_SAMPLE"].params == ("who", "count")


def test_an_argument_left_out_in_the_middle_has_its_default() -> None:
    core = FakeCore()
    core.add(Sample())
    run = make_run(request("OPTIONS"), core=core)
    out = make_var("o")
    assert core.call("sample_do", run, "t", None, None, out) == 7
    assert run.vars["o"] == "t7None"
    assert core.call("sample_do", run, "t", 2) == 2


def test_variables_and_transformations() -> None:
    core = FakeCore()
    core.add(Sample())
    run = make_run(request())
    core.write("$sample", run, "v", "a", 2)
    assert core.read("$sample", run, "a", 2) == "v"
    assert run.vars == {"A2": "v"}
    cut = core.catalogue.transformations["sample.cut"]
    assert cut.params == ("number", "string?")
    assert cut.apply("hello", [2, "!"]) == "llo!"


def test_commands_statistics_and_events_reach_the_server() -> None:
    core = FakeCore()
    sample = core.add(Sample())
    sample.hits.inc(4)
    assert core.stats.read(["sample:"]) == {"sample:hits": 4, "sample:double_hits": 8}
    assert asyncio.run(core.mi_call("sample_show", {"from": "f", "max-age": "3"})) == {"from": "f", "age": 3}
    with pytest.raises(MiError, match="Negative"):
        asyncio.run(core.mi_call("sample:show", ["f", -1]))
    assert not sample.happened.wanted
    heard: list[Any] = []
    core.events.listen("E_SAMPLE", lambda name, params: heard.append(dict(params)))
    sample.happened(who="alice", count=1)
    assert heard == [{"who": "alice", "count": 1}]
    assert sample.happened.wanted


def test_timers_run_between_launch_and_shutdown_and_never_twice_at_once() -> None:
    async def scenario() -> None:
        core = FakeCore()
        sample = core.add(Sample(limit=10))
        sample.gate = asyncio.Event()
        core.advance(100)
        assert sample.ticks == 0
        await sample.launch()
        core.advance(10)
        await asyncio.sleep(0)
        assert sample.ticks == 101, "ten seconds: one tick, one slow round that has not ended"
        sample.gate.set()
        await core.settle()
        core.advance(1)
        await core.settle()
        assert sample.ticks == 201
        await sample.shutdown()
        core.advance(100)
        assert sample.ticks == 201
        assert core.pending_timers == 0

    asyncio.run(scenario())


def test_a_timer_whose_interval_is_0_never_runs() -> None:
    core = FakeCore()
    sample = core.add(Sample(limit=0))
    asyncio.run(sample.launch())
    assert core.pending_timers == 1


def test_two_instances_share_nothing() -> None:
    one, two = Sample(), Sample()
    one.hits.inc()
    assert (one.hits.value, two.hits.value) == (1, 0)


def test_an_undeclarable_signature_is_told() -> None:
    class Wrong(Module):
        @script_function()
        def untyped(self, run: Run, a) -> int:  # type: ignore[no-untyped-def]
            return 1

    class Strange(Module):
        @script_function()
        def strange(self, run: Run, a: dict[str, int]) -> int:
            return 1

    with pytest.raises(DeclarationError, match=r"untyped: a needs a type"):
        Wrong().functions()
    with pytest.raises(DeclarationError, match="unknown to scripts"):
        Strange().functions()
    with pytest.raises(ValueError, match=r"class\.name"):
        transformation("plain")
    with pytest.raises(ValueError, match="name its params"):
        transformation("sample.sees", with_run=True)


def test_a_transformation_may_look_at_the_message() -> None:
    class Seeing(Module):
        name = "seeing"

        @transformation("seeing.method", ("string?",), with_run=True)
        def method(self, run: Run, value: Value, end: str = "") -> Value:
            """Add the method."""
            return f"{value}{run.msg.method}{end}"

    core = FakeCore()
    core.add(Seeing())
    found = core.catalogue.transformations["seeing.method"]
    assert found.with_run
    assert found.apply(make_run(request("OPTIONS")), "x", ["!"]) == "xOPTIONS!"


def test_a_subclass_inherits_and_replaces() -> None:
    class Child(Sample):
        name = "child"
        limit = Param(int, 99, "More.")

        @script_function(routes=REQUEST)
        def sample_do(self, run: Run, text: str) -> int:  # type: ignore[override]
            """Do less."""
            return 5

    child = Child()
    assert child.limit == 99
    functions = {f.name: f for f in child.functions()}
    assert len(functions["sample_do"].params) == 1
    assert "sample.wait" in functions


def test_the_description_of_everything() -> None:
    shown = describe(Sample)
    assert shown["depends_on"] == {
        "hard": ["tm"],
        "soft": ["rr"],
        "by_param": [{"param": "use_dialog", "needs": ["dialog"]}],
        "documented": ["dialog", "tm"],
    }
    assert [f["name"] for f in shown["functions"]] == ["sample.wait", "sample_do", "sample_maybe"]
    assert shown["functions"][0]["params"][2] == {
        "name": "raw", "type": "string", "optional": False, "no_expand": True,
    }  # fmt: skip
    assert shown["params"][0] == {"name": "each", "type": "string", "repeated": True}
    assert shown["params"][2] == {"name": "handled", "type": "string", "default": None, "func": True}
    assert shown["mi_commands"][0]["param_types"] == {"from": "string", "max-age": "int"}
    assert shown["events"][0]["params"] == [{"name": "who"}, {"name": "count", "type": "int"}]
    assert shown["pseudo_variables"] == [
        {"name": "$sample", "index": True, "name_arg": True, "writable": True, "fields": ["a", "b"]}
    ]
    assert shown["statistics"][0] == {"name": "double_hits", "computed": True, "no_reset": True}
    assert shown["transformations"][0]["transformations"][0]["params"][1] == {"kind": "string", "optional": True}
    page = manual(Sample)
    for text in (
        "### `$(sample(name)[index])`",
        "{sample.cut,number[,string]}",
        "`c=...`",
        "default 10 s",
        "every route",
    ):
        assert text in page


def test_modules_are_found_by_name_and_in_mpath(tmp_path: Path) -> None:
    assert find_module("/usr/lib/opensips/modules/mi_fifo.so").name == "mi_fifo"
    text = "from opensipspy.module import Module\n\n\nclass Mine(Module):\n    '''My module.'''\n"
    (tmp_path / "mine.py").write_text(text)
    (tmp_path / "wrong.py").write_text("x = 1\n")
    (tmp_path / "broken.py").write_text("import nosuchpackage\n")
    mine = find_module("mine.so", [str(tmp_path)])
    assert (mine.name, mine is find_module("mine", [str(tmp_path)])) == ("mine", True)
    for name, reason in (
        ("wrong", "defines no class"),
        ("broken", "ModuleNotFoundError"),
        ("maxfw", "did you mean maxfwd"),
        ("../etc/x y", "is no module name"),
        ("", "is no module name"),
    ):
        with pytest.raises(ModuleLoadError, match=reason):
            find_module(name, [str(tmp_path)])
