"""jsonrpc: calls over real TCP connections to servers that behave and servers that do not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from opensipspy.module import ParamError
from opensipspy.module.testing import FakeCore, make_run, make_var, request
from opensipspy.modules import jsonrpc as jsonrpc_module
from opensipspy.modules.jsonrpc import JsonRpc
from tests.modules.asynchronous import in_loop
from tests.ports import free_port

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(behave: Behaviour, port: int = 0):
    """A server, on a free port unless told; gives its address."""
    tasks: set[asyncio.Task[None]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await behave(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", port)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def answering(*parts: bytes, wait: bool = True) -> Behaviour:
    """Sends these octets once a request is there; %ID% is its id."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = json.loads(await reader.readline())
        for part in parts:
            writer.write(part.replace(b"%ID%", str(asked.get("id")).encode()))
            await writer.drain()
            await asyncio.sleep(0)
        if wait:
            await reader.read()

    return behave


async def ask(address: str, params: str = "[1,2]", method: str = "add", core: FakeCore | None = None, **given: int):
    core = core or FakeCore()
    if "jsonrpc" not in core.modules:
        # A loaded machine answers late.
        patient = dict.fromkeys(("connect_timeout", "write_timeout", "read_timeout"), 30_000)
        core.add(JsonRpc(**(patient | given)))
    run = make_run(request(), core=core)
    result = await core.call("jsonrpc_request", run, address, method, params, make_var("ret", "untouched"))
    return int(result), run.vars.get("ret", "untouched")


@in_loop
async def test_jsonrpc_request_gives_the_result():
    asked: list[Any] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(json.loads(await reader.readline()))
        reply = {"jsonrpc": "2.0", "result": sum(asked[-1]["params"]), "id": asked[-1]["id"]}
        writer.write(json.dumps(reply).encode())
        await writer.drain()

    async with serving(behave) as address:
        assert await ask(address) == (1, 3)
    assert asked == [{"jsonrpc": "2.0", "method": "add", "params": [1, 2], "id": 1}]


@pytest.mark.parametrize(
    ("result", "value"),
    [
        (b"-7", -7),
        (b'"text"', '"text"'),
        (b'{ "a": [ 1, "\\u00e9" ] }', '{"a":[1,"\u00e9"]}'),
        (b"null", "null"),
        (b"true", "true"),
        (b"1.5", "1.5"),
        (b"99999999999", "99999999999"),
    ],
)
def test_the_result_is_an_integer_or_json(result: bytes, value: object):
    @in_loop
    async def run() -> None:
        async with serving(answering(b'{"id":%ID%,"result":' + result + b"}")) as address:
            assert await ask(address, '{"a": 1}') == (1, value)

    run()


@in_loop
async def test_an_error_of_the_server_is_handed_over():
    error = b'{"jsonrpc":"2.0","error":{"code":-32601,"message":"Method not found"},"id":null}'
    async with serving(answering(error)) as address:
        assert await ask(address) == (-3, '{"code":-32601,"message":"Method not found"}')


@in_loop
async def test_a_reply_may_come_in_pieces_and_after_notifications():
    parts = (b'\r\n {"method":"hello","params":[]}\n{"id":%ID', b'%,"result":"}\\', b'""', b" } trailing")
    whole = b"".join(parts)
    async with serving(answering(whole)) as address:
        assert await ask(address) == (1, '"}\\""')
    pieces = [whole.replace(b"%ID%", b"1")[i : i + 1] for i in range(len(whole) - 3)]
    async with serving(answering(*pieces)) as address:
        assert await ask(address) == (1, '"}\\""')


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"[1]",
        b'"text"',
        b"{broken}",
        b'{"result":1,"id":999}',
        b'{"id":%ID%}',
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b"{]",
        b'{"x":"' + b"y" * 1000 + b"\xff" + b'"}',
    ],
    ids=range(9),
)
def test_what_is_no_reply_fails_without_a_result(reply: bytes):
    @in_loop
    async def run() -> None:
        async with serving(answering(reply)) as address:
            assert await ask(address) == (-3, None)

    run()


@in_loop
async def test_an_endless_reply_is_cut():
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'{"a":"')
        while True:
            writer.write(b"x" * 100_000)
            await writer.drain()

    async with serving(behave) as address:
        assert await ask(address, read_timeout=20_000) == (-3, None)


@in_loop
async def test_a_server_that_says_nothing_runs_into_the_read_timeout():
    async with serving(answering()) as address:
        assert await ask(address, read_timeout=20) == (-2, "untouched")


@in_loop
async def test_a_server_that_closes_or_is_not_there():
    async with serving(answering(b'{"id":', wait=False)) as address:
        assert await ask(address) == (-2, "untouched")
    assert await ask(address) == (-2, "untouched")


@in_loop
async def test_a_server_that_comes_back_is_reached_again():
    core, port = FakeCore(), free_port()
    async with serving(answering(b'{"id":%ID%,"result":1}'), port) as address:
        assert await ask(address, core=core) == (1, 1)
    assert (await ask(address, core=core))[0] == -2
    async with serving(answering(b'{"id":%ID%,"result":2}'), port):
        assert await ask(address, core=core) == (1, 2)


@in_loop
async def test_a_server_that_does_not_read_runs_into_the_write_timeout():
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with serving(behave) as address:
        params = json.dumps(["x" * 4_000_000])
        assert await ask(address, params, write_timeout=20, read_timeout=20) == (-2, "untouched")


@in_loop
async def test_calls_run_side_by_side_and_are_limited():
    there = 0
    all_there = asyncio.Event()

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal there
        asked = json.loads(await reader.readline())
        there += 1
        if there == 50:
            all_there.set()
        await all_there.wait()
        writer.write(json.dumps({"id": asked["id"], "result": asked["params"][0]}).encode())
        await writer.drain()

    core = FakeCore()
    async with serving(behave) as address:
        calls = [ask(address, f"[{i}]", core=core, read_timeout=20_000, connect_timeout=20_000) for i in range(50)]
        assert await asyncio.gather(*calls) == [(1, i) for i in range(50)]


def test_more_calls_than_allowed_fail_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jsonrpc_module, "MAX_CALLS", 0)
    assert asyncio.run(ask("127.0.0.1:1")) == (-1, "untouched")


@in_loop
async def test_jsonrpc_notification_has_no_id_and_waits_for_nothing():
    """JSON-RPC 2.0 §4.1."""
    asked: asyncio.Queue[Any] = asyncio.Queue()

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.put_nowait(json.loads(await reader.readline()))
        await reader.read()

    core = FakeCore()
    core.add(JsonRpc())
    run = make_run(request(), core=core)
    async with serving(behave) as address:
        assert await core.call("jsonrpc_notification", run, address, "block_ip", '{"ip":"192.0.2.1"}') == 1
        assert await asked.get() == {"jsonrpc": "2.0", "method": "block_ip", "params": {"ip": "192.0.2.1"}}
    assert await core.call("jsonrpc_notification", run, address, "block_ip", "[]") == -2
    assert await core.call("jsonrpc_notification", run, address, "block_ip", "7") == -1


@in_loop
async def test_what_the_script_gives_is_checked():
    for address in ("127.0.0.1", "", ":5", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:99999", "127.0.0.1:" + "9" * 5000):
        assert await ask(address) == (-1, "untouched")
    for params in ("", "1", '"x"', "{", "[" * 100_000, "nul"):
        assert await ask("127.0.0.1:1", params) == (-1, "untouched")
    assert await ask("127.0.0.1:1", method="") == (-1, "untouched")


def test_timeouts_are_above_zero():
    with pytest.raises(ParamError, match="at least 1 ms"):
        JsonRpc(read_timeout=0)
