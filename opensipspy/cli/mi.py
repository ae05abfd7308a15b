"""`opensipspy mi COMMAND ...`: a small client for the management commands, over the pipe or HTTP."""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import sys
import tempfile
import time
import urllib.error
import urllib.request
from typing import Any, Final

SUMMARY: Final = "send a management command to a running server"

DEFAULT_FIFO: Final = "/tmp/opensips_fifo"
DEFAULT_REPLY_DIR: Final = "/tmp"
TIMEOUT_S: Final = 10.0
ANSWER_LIMIT: Final = 64 << 20
# Commands whose one parameter is a list: the words that follow are its items.
LISTED: Final = {
    "statistics:get": "statistics",
    "get_statistics": "statistics",
    "statistics:list": "statistics",
    "list_statistics": "statistics",
    "statistics:reset": "statistics",
    "reset_statistics": "statistics",
}


class ClientError(Exception):
    """The server cannot be asked, or its answer cannot be read."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("command", metavar="COMMAND", help="for instance core:uptime; core:which lists them")
    parser.add_argument(
        "arguments", nargs="*", metavar="ARG", help="values in order, or name=value; JSON where it parses"
    )
    parser.add_argument("--url", help="ask over HTTP, for instance http://127.0.0.1:8888/mi")
    parser.add_argument("--fifo", default=DEFAULT_FIFO, help="the server's pipe (default %(default)s)")
    parser.add_argument("--reply-dir", default=DEFAULT_REPLY_DIR, help="the server's reply_dir (default %(default)s)")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, metavar="S", help="seconds to wait for the answer")


def run(args: argparse.Namespace) -> int:
    call = {"jsonrpc": "2.0", "id": 1, "method": args.command}
    params = parameters(args.command, args.arguments)
    if params:
        call["params"] = params
    text = json.dumps(call)
    try:
        if args.url:
            data = ask_http(args.url, text, args.timeout)
        else:
            data = ask_fifo(args.fifo, args.reply_dir, text, args.timeout)
        answer = json.loads(data)
    except (ClientError, OSError, ValueError) as error:
        print(f"opensipspy mi: {error}", file=sys.stderr)
        return 1
    if not isinstance(answer, dict) or "error" in answer:
        refusal = answer.get("error") if isinstance(answer, dict) else answer
        shown: dict[str, Any] = refusal if isinstance(refusal, dict) else {"message": str(refusal)}
        details = f" ({shown['data']})" if shown.get("data") else ""
        print(f"opensipspy mi: {shown.get('code', '')} {shown.get('message', '')}{details}", file=sys.stderr)
        return 1
    result = answer.get("result")
    print(result if isinstance(result, str) else json.dumps(result, indent=4, ensure_ascii=False))
    return 0


def parameters(command: str, words: list[str]) -> dict[str, Any] | list[Any]:
    """`name=value` words become named parameters when all are, else the words are positional."""
    named = [re.fullmatch(r"([A-Za-z_][\w.-]*)=(.*)", word, re.DOTALL) for word in words]
    if command in LISTED:
        return {LISTED[command]: words} if words else {}
    if words and all(named):
        return {match[1]: value(match[2]) for match in named if match}
    return [value(word) for word in words]


def value(word: str) -> Any:
    """A JSON object or array as such; anything else is text: the server makes a number of it where it wants one."""
    if word[:1] in ("{", "["):
        try:
            return json.loads(word)
        except ValueError:
            return word
    return word


def ask_http(url: str, text: str, timeout_s: float) -> bytes:
    """Post a command."""
    if not url.startswith(("http://", "https://")):
        raise ClientError(f"{url} is no http:// or https:// address")
    request = urllib.request.Request(url, text.encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            data: bytes = response.read(ANSWER_LIMIT)
            return data
    except urllib.error.URLError as error:
        raise ClientError(f"{url}: {error.reason}") from error


def ask_fifo(fifo: str, reply_dir: str, text: str, timeout_s: float) -> bytes:
    """Write a command into the pipe and read the answer from a pipe of our own."""
    # A name that nobody else has: made as a plain file first, then replaced by the pipe.
    fd, path = tempfile.mkstemp(prefix="opensipspy_mi_", dir=reply_dir)
    os.close(fd)
    os.unlink(path)
    os.mkfifo(path, 0o600)
    try:
        os.chmod(path, 0o666)  # the server may run as another user
        # Opened before the command is sent, without blocking: the server may answer at once, or never.
        reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            _write(fifo, f":{os.path.basename(path)}:{text}\n".encode())
            return _read(reading, timeout_s)
        finally:
            os.close(reading)
    finally:
        os.unlink(path)


def _write(fifo: str, data: bytes) -> None:
    try:
        writing = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        raise ClientError(f"no server reads {fifo}: {error.strerror}") from error
    try:
        os.set_blocking(writing, True)
        with os.fdopen(writing, "wb", closefd=False) as pipe:
            pipe.write(data)
    finally:
        os.close(writing)


def _read(reading: int, timeout_s: float) -> bytes:
    data = bytearray()
    end = time.monotonic() + timeout_s
    waiting = select.poll()  # select() knows descriptors below 1024 only
    waiting.register(reading, select.POLLIN)
    while len(data) < ANSWER_LIMIT:
        left = end - time.monotonic()
        if left <= 0 or not waiting.poll(left * 1000):
            raise ClientError(f"no answer within {timeout_s:g} s")
        try:
            piece = os.read(reading, 65536)
        except BlockingIOError:
            continue
        if not piece:
            break
        data += piece
    return bytes(data)
