"""JSON-RPC 2.0 over bytes, with the examples of the specification's §7 and hostile input."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensipspy.management import CommandDecl, Json, Registry, jsonrpc


def make() -> Registry:
    registry = Registry()
    numbers = (("minuend", "subtrahend"),)
    registry.add(CommandDecl("x:subtract", lambda minuend, subtrahend: minuend - subtrahend, params=numbers))
    registry.add(CommandDecl("x:bad", lambda: {"a": object()}))
    registry.add(CommandDecl("x:bytes", lambda: "caf\udce9"))
    return registry


def answer(text: str | bytes) -> Any:
    data = asyncio.run(jsonrpc.handle(text, make()))
    return None if data is None else json.loads(data)


def test_positional_and_named_parameters() -> None:
    """§4.2."""
    want = {"jsonrpc": "2.0", "result": 19, "id": 1}
    assert answer('{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}') == want
    named = '{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 1}'
    assert answer(named) == want


def test_a_notification_is_not_answered_even_when_it_fails() -> None:
    """§4.1."""
    assert answer('{"jsonrpc": "2.0", "method": "subtract", "params": [1, 2]}') is None
    assert answer('{"jsonrpc": "2.0", "method": "foobar"}') is None


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]', -32700),
        (b"\xff\xfe{}", -32700),
        ("", -32700),
        ("NaN", -32700),
        ("[" * 100_000, -32700),
        ('{"a":' * 1000 + "1" + "}" * 1000, -32700),
        ('{"jsonrpc": "2.0", "method": 1, "params": "bar"}', -32600),
        ('{"jsonrpc": "1.0", "method": "subtract", "id": 1}', -32600),
        ('{"jsonrpc": "2.0", "method": "subtract", "params": "x", "id": 1}', -32600),
        ('{"jsonrpc": "2.0", "method": "subtract", "id": {"a": 1}}', -32600),
        ('{"jsonrpc": "2.0", "method": "subtract", "id": true}', -32600),
        ("[]", -32600),
        ("1", -32600),
        ("[" + ",".join(["1"] * 1000) + "]", -32600),
    ],
)
def test_what_is_no_request_is_an_error_object(text: str | bytes, code: int) -> None:
    """§5.1; the id is null when it cannot be told."""
    found = answer(text)
    assert found["error"]["code"] == code
    assert found["id"] in (None, 1)


def test_a_batch() -> None:
    """§6: answers for calls, none for notifications; nothing at all when there are only notifications."""
    one = '{"jsonrpc": "2.0", "method": "subtract", "params": [3, 1], "id": "1"}'
    note = '{"jsonrpc": "2.0", "method": "subtract", "params": [3, 1]}'
    assert [a.get("result") for a in answer(f"[{one}, {note}, 1]")] == [2, None]
    assert answer(f"[{note}, {note}]") is None


def test_a_command_that_never_ends_is_an_error() -> None:
    async def scenario() -> Any:
        registry = Registry()
        registry.add(CommandDecl("x:never", asyncio.Event().wait))
        call = '{"jsonrpc": "2.0", "method": "never", "id": 5}'
        return json.loads(await jsonrpc.handle(call, registry, limit_s=0.01) or b"")

    found = asyncio.run(scenario())
    assert (found["error"]["code"], found["id"]) == (-32000, 5)


def test_brackets_inside_strings_are_no_nesting() -> None:
    text = json.dumps({"jsonrpc": "2.0", "method": "subtract", "params": ["[" * 500 + '\\"' * 9, 1], "id": 1})
    assert answer(text)["error"]["code"] == -32603, "it reached the command, which cannot subtract texts"


def test_a_result_that_is_no_json_is_an_internal_error_with_the_id() -> None:
    found = answer('{"jsonrpc": "2.0", "method": "bad", "id": 4}')
    assert (found["error"]["code"], found["id"]) == (-32603, 4)


def test_script_text_that_is_not_utf8_goes_out_escaped() -> None:
    assert answer('{"jsonrpc": "2.0", "method": "bytes", "id": 4}')["result"] == "caf\udce9"


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_no_input_raises(data: bytes | str) -> None:
    data_out = asyncio.run(jsonrpc.handle(data, Registry()))
    assert data_out is None or json.loads(data_out)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_values_come_back_as_they_went(value: Json) -> None:
    assert json.loads(jsonrpc.encode(value)) == value
