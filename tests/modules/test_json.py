"""json: values set, read, linked and merged by scripts; the outputs are those of the OpenSIPS manual."""

from __future__ import annotations

import pytest

from opensipspy.module.testing import FakeCore, make_run, make_var, request
from opensipspy.modules.json import Json, Path
from opensipspy.script.declare import VarRef
from opensipspy.script.run import INDEX_ALL, Run, Value


class Lab:
    def __init__(self, **params: int) -> None:
        self.core = FakeCore()
        self.core.add(Json(**params))
        self.run = self.message()

    def message(self) -> Run:
        return make_run(request(), core=self.core)

    def parse(self, name: str, text: Value, run: Run | None = None) -> None:
        replace = self.core.catalogue.variables["json"].replace
        assert replace is not None
        replace(run or self.run, Path(name), None, text)

    def put(self, name: str, value: Value) -> None:
        self.core.write("$json", self.run, value, name)

    def get(self, name: str, variable: str = "$json", index: int | str | None = None, run: Run | None = None) -> Value:
        return self.core.read(variable, run or self.run, name, index)

    def var(self, name: str) -> VarRef:
        def put(run: Run, value: Value) -> None:
            self.core.write("$json", run, value, name)

        return VarRef(f"$json({name})", "$json", name, lambda run: self.get(name, run=run), put, put)

    def link(self, dest: str, source: str) -> int:
        return int(self.core.call("json_link", self.run, self.var(dest), self.var(source)))


def test_paths_lead_into_objects_and_arrays() -> None:
    lab = Lab()
    lab.parse("a", '{"k": [[1, 2], {"x y": "deep"}], "n": null, "t": true, "f": 1.5}')
    assert lab.get("a/k[0][-1]") == 2
    assert lab.get("a/k[1]/x y") == "deep"
    assert [lab.get(f"a/{key}") for key in "ntf"] == ["null", "true", "1.5"]
    assert lab.get("a/k[7]") is None
    assert lab.get("a/none/none") is None
    assert lab.get("nothing") is None


def test_equals_takes_a_value_as_it_is_and_colon_equals_reads_json() -> None:
    lab = Lab()
    lab.parse("o", "{}")
    lab.put("o/text", "[1]")
    lab.parse("o/list", "[1]")
    lab.put("o/list[]", 5)
    lab.put("o/list[0]", "one")
    assert lab.get("o") == '{ "text": "[1]", "list": [ "one", 5 ] }'
    lab.put("o/list[-1]", None)
    lab.put("o/text", None)
    assert lab.get("o") == '{ "list": [ "one" ] }'
    lab.put("o", None)
    assert lab.get("o") is None


def test_a_value_is_not_put_where_nothing_is() -> None:
    lab = Lab()
    lab.put("none/key", 1)
    assert lab.get("none") is None
    lab.parse("l", "[]")
    lab.put("l/key", 1)
    lab.put("l[4]", 1)
    assert lab.get("l") == "[ ]"


def test_the_forms_of_text() -> None:
    lab = Lab()
    lab.parse("o", '{"path": "/a", "l": [1, {}], "e": "é"}')
    assert lab.get("o", "$json_compact") == '{"path":"\\/a","l":[1,{}],"e":"é"}'
    assert lab.get("o", "$json_compact_noescape") == '{"path":"/a","l":[1,{}],"e":"é"}'
    assert lab.get("o", "$json_pretty") == '{\n  "path":"\\/a",\n  "l":[\n    1,\n    {}\n  ],\n  "e":"é"\n}'


def test_keys_and_values_are_iterated_over() -> None:
    lab = Lab()
    lab.parse("o", '{"a": 1, "b": {"c": 2}}')
    assert [lab.get("o.keys", index=i) for i in range(3)] == ["a", "b", None]
    assert [lab.get("o.values", index=i) for i in range(3)] == [1, '{ "c": 2 }', None]
    assert lab.get("o", index=-2) == 1
    assert lab.get("o.keys", index=INDEX_ALL) == '[ "a", "b" ]'


def test_long_integers_are_strings_when_asked_for() -> None:
    """The manual: enable_long_quoting gives what does not fit into 4 bytes as a string."""
    lab = Lab(enable_long_quoting=1)
    lab.parse("l", "[2147483647, 2147483648, -2147483649]")
    assert [lab.get(f"l[{i}]") for i in range(3)] == [2147483647, "2147483648", "-2147483649"]
    plain = Lab()
    plain.parse("n", "2147483648")
    assert plain.get("n") == 2147483648


@pytest.mark.parametrize(
    "text", ["{", "NaN", "[1,]", "[" * 100_000, "[" * 101 + "]" * 101, "9" * 5000, '"' + "x" * 5_000_000 + '"']
)
def test_bad_json_leaves_no_old_value_behind(text: str) -> None:
    lab = Lab()
    lab.put("v", "old")
    lab.parse("v", text)
    assert lab.get("v") is None


@pytest.mark.parametrize("text", ["", "/a", "a/", "a[", "a[x]", "a[1]b", "a[1234567890]", "a" + "/b" * 101])
def test_a_wrong_path_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Path(text)


def test_links_share_the_value() -> None:
    lab = Lab()
    lab.parse("b", "[{},{},{}]")
    assert lab.link("stub", "b[0]") == 1
    lab.put("stub/ana", "are")
    lab.parse("stub/ar", "[1,2,3]")
    lab.put("b[0]/ar[0]", None)
    assert lab.get("stub") == '{ "ana": "are", "ar": [ 2, 3 ] }'
    lab.put("stub", None)
    assert lab.get("b") == '[ { "ana": "are", "ar": [ 2, 3 ] }, { }, { } ]'


def test_a_circle_of_links_is_refused() -> None:
    lab = Lab()
    lab.parse("b", "[1]")
    assert lab.link("b[0]", "b") == -1
    assert lab.link("x", "nothing") == -1
    assert lab.core.call("json_link", lab.run, make_var(), lab.var("b")) == -1
    assert lab.get("b") == "[ 1 ]"


def test_links_deeper_than_can_be_written_read_as_null() -> None:
    lab = Lab()
    lab.parse("root", "[]")
    lab.link("at", "root")
    for _ in range(5000):
        lab.parse("next", "[]")
        assert lab.link("at[]", "next") == 1
        assert lab.link("at", "next") == 1
    assert lab.get("root") is None


def test_merge_puts_the_patch_over() -> None:
    lab = Lab()
    out = make_var("out")
    main, patch = '{"a": {"x": 1, "y": 2}, "b": "/"}', '{"a": {"y": 3}, "c": [1]}'
    assert lab.core.call("json_merge", lab.run, main, patch, out) == 1
    assert out.get(lab.run) == '{"a":{"x":1,"y":3},"b":"/","c":[1]}'
    assert lab.core.call("json_merge", lab.run, "{", patch, out) == -1


def test_values_outlive_a_message_but_a_message_keeps_its_own() -> None:
    lab = Lab()
    first, second = lab.message(), lab.message()
    lab.parse("body", '{"of": 1}', first)
    assert lab.get("body/of", run=second) == 1
    lab.parse("body", '{"of": 2}', second)
    assert lab.get("body/of", run=first) == 1
    assert lab.get("body/of", run=lab.message()) == 2
