"""mi_script: management commands from scripts, with the forms of the OpenSIPS manual."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from opensipspy.management import CommandDecl, Json, MiError
from opensipspy.module import Module
from opensipspy.module.testing import FakeCore, make_run, make_var, request
from opensipspy.module.tracing import Ends, TraceSink
from opensipspy.modules.mi_script import MiScript
from opensipspy.script.declare import VarRef
from opensipspy.script.run import Run


class Sink(Module, TraceSink):
    name = "proto_hep"

    def __init__(self) -> None:
        super().__init__()
        self.traced: list[tuple[str, str, str, Json, Json]] = []

    def trace_mi(
        self, destination: str, door: str, method: str, params: Json, response: Json, ends: Ends | None = None
    ) -> None:
        assert ends is None
        self.traced.append((destination, door, method, params, response))


def avp(name: str) -> VarRef:
    def put(run: Run, value: Any) -> None:
        run.avps.setdefault(name, []).append(value)

    return VarRef(f"$avp({name})", "$avp", name, lambda run: run.avps[name][-1], put, put)


class Lab:
    def __init__(self, **params: Any) -> None:
        self.core = FakeCore()
        self.module = self.core.add(MiScript(**params))
        self.got: list[dict[str, Any]] = []
        sets = ((), ("group", "key"))
        self.core.mi.add(
            CommandDecl("lab:show", self.show, aliases=("lab_show",), params=sets, types={"key": "string"})
        )
        self.core.mi.add(CommandDecl("lab:fail", self.fail))
        self.core.mi.add(CommandDecl("lab:odd", lambda: object()))
        self.core.mi.add(CommandDecl("lab:later", self.later))
        self.message = make_run(request(), core=self.core)
        self.ret = make_var("ret")

    def show(self, **given: Any) -> Json:
        self.got.append(given)
        return {"a": [1, None], "b": 'é"x'}

    def fail(self) -> Json:
        raise MiError(404, "Not here")

    async def later(self) -> Json:
        await asyncio.sleep(0)
        return "OK"

    def mi(self, *args: Any) -> int:
        async def call() -> int:
            await self.module.launch()
            return int(await self.core.call("mi", self.message, *args))

        return asyncio.run(call())

    def avps(self, name: str, *values: str | int) -> VarRef:
        self.message.avps[name] = list(values)
        return avp(name)

    @property
    def answer(self) -> Any:
        return self.message.vars.get("ret")


def test_a_command_without_parameters():
    lab = Lab()
    assert lab.mi("lab_show") == 1
    assert lab.got == [{}]
    assert lab.mi("lab:show", lab.ret) == 1
    assert lab.answer == '{"a":[1,null],"b":"é\\"x"}'


def test_pretty_printing():
    lab = Lab(pretty_printing=1)
    assert lab.mi("lab:show", lab.ret) == 1
    assert lab.answer == '{\n    "a": [\n        1,\n        null\n    ],\n    "b": "é\\"x"\n}'


def test_parameters_in_the_command_stand_one_after_the_other():
    lab = Lab()
    assert lab.mi("lab_show  local   password_user1 ", lab.ret) == 1
    assert lab.got == [{"group": "local", "key": "password_user1"}]


def test_parameters_from_an_avp_go_first_added_first():
    lab = Lab()
    lab.core.mi.add(CommandDecl("cache:remove", lab.show, params=(("system", "attr"),)))
    assert lab.mi("cache:remove ignored", None, lab.avps("params", "local", 7)) == 1
    assert lab.mi("cache:remove", None, None, lab.avps("vals", "a", "b")) == 1
    assert lab.got == [{"system": "local", "attr": "7"}, {"system": "a", "attr": "b"}]


def test_named_parameters_from_two_avps():
    lab = Lab()
    names, values = lab.avps("names", "group", "key"), lab.avps("vals", "g", 5, "one too many")
    assert lab.mi("lab:show", lab.ret, names, values) == 1
    assert lab.got == [{"group": "g", "key": "5"}]


def test_an_array_value():
    lab = Lab()
    lab.core.mi.add(CommandDecl("fs:subscribe", lab.show, params=(("name", "events"),)))
    names, values = lab.avps("names", "name", "events"), lab.avps("vals", "fs", "__array(HEARTBEAT  BACKGROUND_JOB)")
    assert lab.mi("fs:subscribe", lab.ret, names, values) == 1
    assert lab.got == [{"name": "fs", "events": ["HEARTBEAT", "BACKGROUND_JOB"]}]


def test_the_code_of_an_error_comes_back_negative_with_its_text():
    lab = Lab()
    assert lab.mi("lab:fail", lab.ret) == -404
    assert lab.answer == "Not here"
    assert lab.mi("lab:show one two three", lab.ret) == -32602
    assert lab.answer == "Invalid params"
    assert lab.mi("lab:fail") == -404


def test_internal_errors():
    lab = Lab()
    assert lab.mi("lab:unknown", lab.ret) == -1
    assert lab.answer == "Method not found"
    assert lab.mi("", lab.ret) == -1
    assert lab.mi("lab:odd", lab.ret) == -3
    assert lab.mi("lab:show", lab.ret, lab.avps("n", "group", "key"), lab.avps("v", "x")) == -2
    assert "2 names" in lab.answer
    assert lab.mi("lab:show", lab.ret, lab.avps("n", *["x"] * 2000)) == -2
    assert (
        lab.mi("lab:show", lab.ret, VarRef("$avp($var(x))", "$avp", "", lambda r: None, avp("a").set, avp("a").set))
        == -2
    )
    assert lab.mi("lab:show " + "x " * 5000, lab.ret) == -32602
    assert lab.got == []


def test_a_command_that_waits_is_waited_for():
    lab = Lab()
    assert lab.mi("lab:later", lab.ret) == 1
    assert lab.answer == '"OK"'


@pytest.mark.parametrize(("bwlist", "count"), [("", 3), ("w: lab_show", 2), ("b: fail", 2), ("w: fail", 1)])
def test_traces_go_to_the_destination_and_follow_the_list(bwlist: str, count: int):
    lab = Lab(trace_destination="hep", **({"trace_bwlist": bwlist} if bwlist else {}))
    sink = lab.core.add(Sink())
    assert lab.mi("lab_show") == 1
    assert lab.mi("lab:show g k") == 1
    assert lab.mi("lab:fail") == -404
    assert len(sink.traced) == count
    assert all(entry[:2] == ("hep", "mi_script") for entry in sink.traced)
    if count == 3:
        assert sink.traced[2][4] == {"error": {"code": 404, "message": "Not here"}}
