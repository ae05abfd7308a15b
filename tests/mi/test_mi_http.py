"""JSON-RPC 2.0 over HTTP, as `opensips-cli` and any other client post it."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine
from typing import Any

from opensipspy.management import CommandDecl, MiError
from opensipspy.mi.mi_http import MiHttp
from opensipspy.module.testing import FakeCore
from opensipspy.modules.httpd import Httpd


def serve(scenario: Callable[[FakeCore, str], Coroutine[Any, Any, Any]], **params: Any) -> Any:
    async def main() -> Any:
        core = FakeCore()
        httpd = core.add(Httpd(port=0, receive_buf_size=100_000))
        door = core.add(MiHttp(**params))

        def refuse() -> None:
            raise MiError(404, "Nothing there", "details")

        core.mi.add(CommandDecl("core:uptime", lambda: {"Up time": "1 [sec]"}))
        core.mi.add(CommandDecl("core:refuse", refuse))
        await httpd.launch()
        await door.launch()
        try:
            await asyncio.wait_for(httpd.serving.wait(), 60)
            host, port = httpd.address
            return await asyncio.wait_for(scenario(core, f"http://{host}:{port}"), 60)
        finally:
            await door.shutdown()
            await httpd.shutdown()

    return asyncio.run(main())


async def post(url: str, body: Any) -> tuple[int, Any]:
    """What opensips-cli does: POST through urllib, on another thread."""

    def call() -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            text = response.read()
            return response.status, json.loads(text) if text else None

    return await asyncio.to_thread(call)


def call(method: str, id: Any = 1, **more: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method, "id": id, **more}


def test_commands_results_and_errors() -> None:
    async def scenario(core: FakeCore, base: str) -> Any:
        return [
            await post(f"{base}/mi", call("uptime", "a", params={})),
            await post(f"{base}/mi/", call("core:refuse", 2)),
            await post(f"{base}/mi", b"{broken"),
        ]

    result, refused, broken = serve(scenario)
    assert result == (200, {"jsonrpc": "2.0", "result": {"Up time": "1 [sec]"}, "id": "a"})
    assert refused[1]["error"] == {"code": 404, "message": "Nothing there", "data": "details"}
    assert broken[0] == 200
    assert broken[1]["error"]["code"] == -32700
    assert broken[1]["id"] is None


def test_a_notification_gets_202_and_no_body() -> None:
    """JSON-RPC 2.0 §4.1: the server must not reply to a notification."""

    async def scenario(core: FakeCore, base: str) -> Any:
        return await post(f"{base}/mi", {"jsonrpc": "2.0", "method": "uptime"})

    assert serve(scenario) == (202, None)


def test_a_batch_gets_the_answers_that_are_due() -> None:
    """JSON-RPC 2.0 §6."""

    async def scenario(core: FakeCore, base: str) -> Any:
        return await post(f"{base}/mi", [call("uptime", 1), {"jsonrpc": "2.0", "method": "uptime"}, 1, call("no", 3)])

    status, answers = serve(scenario)
    assert status == 200
    assert [(a["id"], "result" in a) for a in answers] == [(1, True), (None, False), (3, False)]


def test_the_root_is_a_parameter_and_only_post_is_taken() -> None:
    async def status(url: str, data: bytes | None) -> int:
        def fetch() -> int:
            try:
                with urllib.request.urlopen(url, data, timeout=30) as response:
                    return int(response.status)
            except urllib.error.HTTPError as error:
                with error:
                    return error.code

        return await asyncio.to_thread(fetch)

    async def scenario(core: FakeCore, base: str) -> Any:
        body = json.dumps(call("uptime")).encode()
        return [
            await status(f"{base}/opensips_mi", body),
            await status(f"{base}/mi", body),
            await status(f"{base}/opensips_mi/deeper", body),
            await status(f"{base}/opensips_mi", None),
        ]

    assert serve(scenario, root="opensips_mi") == [200, 404, 404, 405]


def test_fifty_clients_at_once() -> None:
    async def scenario(core: FakeCore, base: str) -> Any:
        return await asyncio.gather(*(post(f"{base}/mi", call("uptime", i)) for i in range(50)))

    assert [answer[1]["id"] for answer in serve(scenario)] == list(range(50))
