"""JSON-RPC 2.0 over bytes: what every management door does with a request it has read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Final

from opensipspy.management.registry import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    PARSE_ERROR,
    SERVER_ERROR,
    Json,
    MiError,
    Registry,
)

BATCH_LIMIT: Final = 200
"""Calls in one batch."""
DEPTH_LIMIT: Final = 64
"""Brackets inside each other in a request."""

COMMAND_S: Final = 60.0
"""How long a command may take before its caller is told that it failed."""

Traced = Callable[[str, Json, Json], None]
"""Told (method, params, response or None) of each call that was looked at."""


class Unreadable(ValueError):
    """The bytes are no JSON."""


def decode(data: bytes | str) -> Json:
    """Read a JSON text; raises Unreadable for anything that is none, also for numbers that JSON does not have."""
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        _check_depth(text)
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Unreadable(str(error)) from error


def _no_constant(name: str) -> Json:
    raise ValueError(f"{name} is no JSON value")


def _check_depth(text: str) -> None:
    """Refuse deep nesting before the decoder recurses into it. Brackets inside strings do not count."""
    if text.count("[") + text.count("{") <= DEPTH_LIMIT:
        return
    depth = 0
    quoted = escaped = False
    for char in text:
        if quoted:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                quoted = False
        elif char == '"':
            quoted = True
        elif char in "[{":
            depth += 1
            if depth > DEPTH_LIMIT:
                raise ValueError("nested too deeply")
        elif char in "]}":
            depth -= 1


def encode(value: Json, *, pretty: bool = False) -> bytes:
    """The bytes of a JSON value. Text that is not UTF-8 (script values keep such bytes) goes out escaped."""
    if pretty:
        return json.dumps(value, indent=4).encode("ascii")
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def error_response(code: int, message: str, data: Json = None, id: Json = None) -> dict[str, Json]:
    """An error object (JSON-RPC 2.0 §5.1)."""
    error: dict[str, Json] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return {"jsonrpc": "2.0", "error": error, "id": id}


async def handle(
    data: bytes | str,
    registry: Registry,
    *,
    pretty: bool = False,
    traced: Traced | None = None,
    limit_s: float = COMMAND_S,
) -> bytes | None:
    """Answer a request, a notification (None) or a batch; never raises for what the bytes hold."""
    try:
        request = decode(data)
    except Unreadable as error:
        return encode(error_response(PARSE_ERROR, "Parse error", str(error)), pretty=pretty)
    response = await handle_value(request, registry, traced=traced, limit_s=limit_s)
    if response is None:
        return None
    try:
        return encode(response, pretty=pretty)
    except (TypeError, ValueError):
        broken = response if isinstance(response, dict) else {}
        return encode(error_response(INTERNAL_ERROR, "Internal error", "unprintable result", broken.get("id")))


async def handle_value(
    request: Json, registry: Registry, *, traced: Traced | None = None, limit_s: float = COMMAND_S
) -> Json:
    """As `handle`, for a request that was decoded already; None when there is nothing to answer."""
    if not isinstance(request, list):
        return await _call(request, registry, traced, limit_s)
    if not request:
        return error_response(INVALID_REQUEST, "Invalid Request")
    if len(request) > BATCH_LIMIT:
        return error_response(INVALID_REQUEST, "Invalid Request", f"a batch has at most {BATCH_LIMIT} calls")
    # One after the other: commands of a batch may build on each other (store, then fetch).
    answers = [await _call(item, registry, traced, limit_s) for item in request]
    return [answer for answer in answers if answer is not None] or None


async def _call(request: Json, registry: Registry, traced: Traced | None, limit_s: float) -> dict[str, Json] | None:
    if not isinstance(request, dict):
        return error_response(INVALID_REQUEST, "Invalid Request")
    id = request.get("id")
    method = request.get("method")
    params = request.get("params")
    readable_id = id is None or (isinstance(id, str | int | float) and not isinstance(id, bool))
    if (
        request.get("jsonrpc") != "2.0"
        or not isinstance(method, str)
        or not readable_id
        or not (params is None or isinstance(params, dict | list))
    ):
        return error_response(INVALID_REQUEST, "Invalid Request", id=id if readable_id else None)
    try:
        async with asyncio.timeout(limit_s):
            result = await registry.call(method, params)
        response = {"jsonrpc": "2.0", "result": result, "id": id}
    except MiError as error:
        response = error_response(error.code, error.message, error.data, id)
    except TimeoutError:
        response = error_response(SERVER_ERROR, "Server error", f"no result within {limit_s:g} s", id)
    wanted = response if "id" in request else None
    if traced is not None:
        traced(method, params, wanted)
    return wanted
