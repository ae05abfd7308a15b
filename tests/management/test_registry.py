"""Names, parameters and failures of management commands."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from opensipspy.management import CommandDecl, Json, MiError, Registry


def make() -> Registry:
    registry = Registry()

    async def rm(**given: Json) -> Json:
        return given

    types = {"aor": "string", "count": "int", "names": "array"}
    sets = (("aor",), ("aor", "contact"), ("aor", "count"), ("names", "aor", "count"), ())
    registry.add(CommandDecl("usrloc:rm", rm, aliases=("ul_rm",), params=sets, types=types))
    registry.add(CommandDecl("usrloc:list", lambda: "usrloc"))
    registry.add(CommandDecl("dialog:list", lambda: "dialog"))
    registry.add(CommandDecl("core:boom", lambda: 1 / 0))
    return registry


def call(registry: Registry, name: str, params: Any = None) -> Any:
    return asyncio.run(registry.call(name, params))


def refusal(registry: Registry, name: str, params: Any = None) -> MiError:
    with pytest.raises(MiError) as caught:
        call(registry, name, params)
    return caught.value


@pytest.mark.parametrize("name", ["usrloc:rm", "ul_rm", "rm"])
def test_full_old_and_bare_names(name: str) -> None:
    assert call(make(), name, {"aor": "a"}) == {"aor": "a"}


def test_a_bare_name_of_two_modules_is_ambiguous() -> None:
    error = refusal(make(), "list")
    assert (error.code, error.data) == (-32001, "usrloc:list, dialog:list")


def test_an_unknown_command_names_its_neighbour() -> None:
    """JSON-RPC 2.0 §5.1: -32601."""
    error = refusal(make(), "usrloc:lst")
    assert error.code == -32601
    assert "usrloc:list" in error.data


@pytest.mark.parametrize("nothing", [None, {}, []])
def test_no_parameters_may_be_written_in_three_ways(nothing: Any) -> None:
    assert call(make(), "usrloc:rm", nothing) == {}


def test_values_are_converted_to_their_types() -> None:
    registry = make()
    assert call(registry, "rm", {"aor": 5, "count": " 12 "}) == {"aor": "5", "count": 12}
    assert call(registry, "rm", ["x", "a", -3]) == {"names": ["x"], "aor": "a", "count": -3}


@pytest.mark.parametrize("value", ["x", "", "1_0", "٣", None, True, 1.5, [1], "9" * 5000])
def test_what_is_no_integer_is_refused(value: Any) -> None:
    error = refusal(make(), "rm", {"aor": "a", "count": value})
    assert (error.code, error.data) == (-32602, "count must be an integer")


@pytest.mark.parametrize("value", [None, True, {}, ["a"]])
def test_what_is_no_string_is_refused(value: Any) -> None:
    assert refusal(make(), "rm", {"aor": value}).data == "aor must be a string"


def test_wrong_sets_of_parameters_are_refused_with_the_right_ones() -> None:
    registry = make()
    assert "(aor, contact)" in refusal(registry, "rm", {"contact": "c"}).data
    assert refusal(registry, "rm", [1, 2, 3, 4]).code == -32602
    assert "ambiguous" in refusal(registry, "rm", ["a", "b"]).data, "two sets have two parameters"


def test_a_broken_command_is_an_internal_error_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert refusal(make(), "boom").code == -32603
    assert "core:boom failed" in caplog.text


def test_names_are_taken_once_and_free_again_after_removal() -> None:
    registry = make()
    with pytest.raises(ValueError, match="exists already"):
        registry.add(CommandDecl("other:x", lambda: 1, aliases=("ul_rm",)))
    registry.remove_module("usrloc")
    assert call(registry, "list") == "dialog"
    registry.add(CommandDecl("other:x", lambda: 1, aliases=("ul_rm",)))
    with pytest.raises(ValueError, match="module:command"):
        CommandDecl("plain", lambda: 1)
