"""The management pipe: framing, reply pipes, and what hostile writers cannot do."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from opensipspy.management import CommandDecl, Json
from opensipspy.mi.mi_fifo import NAME_LIMIT, REQUEST_LIMIT, Framer, MiFifo
from opensipspy.module import ParamError, StartError
from opensipspy.module.testing import FakeCore


def run_door(folder: Path, scenario: Callable[[FakeCore, MiFifo], Coroutine[Any, Any, Any]], **params: Any) -> Any:
    """Run a scenario against a started door in its own folder."""

    async def main() -> Any:
        core = FakeCore()
        core.mi.add(CommandDecl("core:uptime", lambda: {"Up time": "1 [sec]"}))
        core.mi.add(CommandDecl("core:echo", lambda text: text, params=(("text",),)))
        door = core.add(MiFifo(fifo_name=str(folder / "fifo"), reply_dir=str(folder), **params))
        await door.launch()
        try:
            return await asyncio.wait_for(scenario(core, door), 60)
        finally:
            await door.shutdown()
            for task in core.tasks:
                task.cancel()

    return asyncio.run(main())


def request(method: str, params: Json = None, id: Json = "7") -> str:
    return json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params or {}})


def ask(folder: Path, command: str, name: str = "opensips_fifo_reply_1_2") -> str:
    """What opensips-cli does: make the reply pipe, write the command, then open the reply pipe and read a line."""
    path = folder / name
    os.mkfifo(path)
    try:
        with open(folder / "fifo", "w", encoding="utf-8") as fifo:
            fifo.write(f":{name}:{command}")
        with open(path, encoding="utf-8") as reply:
            return reply.readline()
    finally:
        os.unlink(path)


def test_a_command_is_answered_through_the_reply_pipe(tmp_path: Path) -> None:
    async def scenario(core: FakeCore, door: MiFifo) -> str:
        return await asyncio.to_thread(ask, tmp_path, request("uptime"))

    answer = json.loads(run_door(tmp_path, scenario))
    assert answer == {"jsonrpc": "2.0", "result": {"Up time": "1 [sec]"}, "id": "7"}
    assert not (tmp_path / "fifo").exists(), "the pipe is removed at the end"


def test_an_unknown_command_is_an_error_object(tmp_path: Path) -> None:
    """JSON-RPC 2.0 §5.1: -32601 method not found."""

    async def scenario(core: FakeCore, door: MiFifo) -> str:
        return await asyncio.to_thread(ask, tmp_path, request("uptme"))

    answer = json.loads(run_door(tmp_path, scenario))
    assert answer["error"]["code"] == -32601
    assert "uptime" in answer["error"]["data"], "the nearest name is told"


def test_twenty_clients_at_once_get_their_own_answers(tmp_path: Path) -> None:
    async def scenario(core: FakeCore, door: MiFifo) -> list[str]:
        asks = [asyncio.to_thread(ask, tmp_path, request("echo", {"text": f"t{i}"}, i), f"reply{i}") for i in range(20)]
        return await asyncio.gather(*asks)

    answers = [json.loads(text) for text in run_door(tmp_path, scenario)]
    assert [(a["id"], a["result"]) for a in answers] == [(i, f"t{i}") for i in range(20)]


def test_an_answer_larger_than_the_pipe_reaches_a_slow_reader_whole(tmp_path: Path) -> None:
    long = "x" * 60_000

    async def scenario(core: FakeCore, door: MiFifo) -> bytes:
        core.mi.add(CommandDecl("core:big", lambda: [long] * 10))
        read = threading.Event()
        path = tmp_path / "slow"
        os.mkfifo(path)

        def client() -> bytes:
            with open(tmp_path / "fifo", "wb") as fifo:
                fifo.write(b":slow:" + request("big").encode())
            with open(path, "rb") as reply:
                read.wait(10)
                return reply.read()

        pending = asyncio.create_task(asyncio.to_thread(client))
        # While one client does not read, another one is served.
        other = await asyncio.to_thread(ask, tmp_path, request("uptime"))
        assert json.loads(other)["result"]
        read.set()
        return await pending

    assert json.loads(run_door(tmp_path, scenario))["result"] == [long] * 10


def test_a_notification_and_a_request_without_a_reply_pipe_are_carried_out_silently(tmp_path: Path) -> None:
    async def scenario(core: FakeCore, door: MiFifo) -> list[str]:
        seen: list[str] = []
        both = asyncio.Event()

        def note(text: str) -> None:
            seen.append(text)
            if len(seen) == 2:
                both.set()

        core.mi.add(CommandDecl("core:note", note, params=(("text",),)))

        def client() -> None:
            with open(tmp_path / "fifo", "w") as fifo:
                fifo.write('::{"jsonrpc":"2.0","method":"note","params":["a"],"id":1}')
                fifo.write(':nobody:{"jsonrpc":"2.0","method":"note","params":["b"]}\n')

        await asyncio.to_thread(client)
        await both.wait()
        return seen

    assert run_door(tmp_path, scenario) == ["a", "b"]


@pytest.mark.parametrize(
    "garbage",
    [
        b"hello\n",
        b"\x00\xff\xfe\n",
        b":../../etc/passwd:{}\n",
        b":a/b:{}\n",
        b":x:GET / HTTP/1.0\n",
        b':x:{"a": "\n"}\n',
    ],
)
def test_garbage_does_not_keep_the_next_command_from_its_answer(tmp_path: Path, garbage: bytes) -> None:
    async def scenario(core: FakeCore, door: MiFifo) -> str:
        def client() -> str:
            with open(tmp_path / "fifo", "wb") as fifo:
                fifo.write(garbage)
            return ask(tmp_path, request("uptime"))

        return await asyncio.to_thread(client)

    assert json.loads(run_door(tmp_path, scenario))["result"]


def test_a_reply_goes_only_into_a_pipe_of_the_reply_folder(tmp_path: Path) -> None:
    """A plain file, a link and a hard link are left alone; names with a dot or a slash are refused by the framer."""
    target = tmp_path / "precious"
    target.write_text("untouched")
    outside = tmp_path / "outside"
    os.mkfifo(outside)

    async def scenario(core: FakeCore, door: MiFifo) -> None:
        (tmp_path / "link").symlink_to(outside)
        os.link(outside, tmp_path / "hard")
        reader = os.open(outside, os.O_RDONLY | os.O_NONBLOCK)
        for name in ("precious", "link", "hard"):
            (tmp_path / "fifo").write_text(f":{name}:{request('uptime')}")
            await asyncio.to_thread(ask, tmp_path, request("uptime"))
        await core.settle()
        assert os.read(reader, 100) == b"", "nothing was written through the links"
        os.close(reader)

    run_door(tmp_path, scenario)
    assert target.read_text() == "untouched"


def test_the_pipe_is_made_anew_when_somebody_deletes_it(tmp_path: Path) -> None:
    async def scenario(core: FakeCore, door: MiFifo) -> str:
        (tmp_path / "fifo").unlink()
        core.advance(30)
        return await asyncio.to_thread(ask, tmp_path, request("uptime"))

    assert json.loads(run_door(tmp_path, scenario))["result"]


def test_mode_and_owner_are_those_of_the_parameters(tmp_path: Path) -> None:
    async def scenario(core: FakeCore, door: MiFifo) -> os.stat_result:
        return os.stat(tmp_path / "fifo")

    found = run_door(tmp_path, scenario, fifo_mode=0o622, fifo_user=os.getuid(), fifo_group=os.getgid())
    assert stat.S_ISFIFO(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o622
    assert (found.st_uid, found.st_gid) == (os.getuid(), os.getgid())


def test_pretty_printing_indents(tmp_path: Path) -> None:
    async def scenario(core: FakeCore, door: MiFifo) -> bytes:
        return await door.answer(request("uptime").encode()) or b""

    assert b'\n    "result"' in run_door(tmp_path, scenario, pretty_printing=1)


def test_what_cannot_be_started_is_told(tmp_path: Path) -> None:
    async def nothing(core: FakeCore, door: MiFifo) -> None:
        raise AssertionError("must not start")

    (tmp_path / "fifo").write_text("mine")
    with pytest.raises(StartError, match="is no pipe"):
        run_door(tmp_path, nothing)
    assert (tmp_path / "fifo").read_text() == "mine"
    with pytest.raises(StartError, match="no user 'nobody-of-that-name'"):
        run_door(tmp_path, nothing, fifo_user="nobody-of-that-name")
    with pytest.raises(ParamError, match="fifo_mode: takes an integer"):
        MiFifo(fifo_mode="0660")
    with pytest.raises(ParamError, match="trace_bwlist"):
        MiFifo(trace_bwlist="ps, which")


def test_the_framer_takes_requests_in_pieces_and_several_at_once() -> None:
    whole = b':a:{"x": "}{\\"", "y": [1, {"z": 2}]} \n::{"q":1}'
    framer = Framer()
    found = [r for i in range(len(whole)) for r in framer.feed(whole[i : i + 1])]
    assert [(r.reply, json.loads(r.body)) for r in found] == [
        ("a", {"x": '}{"', "y": [1, {"z": 2}]}),
        ("", {"q": 1}),
    ]
    assert not framer.errors
    assert not framer.partial
    assert [r.reply for r in Framer().feed(whole)] == ["a", ""]


@pytest.mark.parametrize(
    "unfinished", [b":a", b":a:", b':a:{"jsonrpc": "2.0", "params": ["', b':a:{"jsonrpc": "2.0", "par']
)
@pytest.mark.parametrize("together", [True, False])
def test_a_request_that_never_ends_holds_up_nobody(unfinished: bytes, together: bool) -> None:
    framer = Framer()
    good = b':b:{"jsonrpc": "2.0", "method": "ps", "params": [":x:{", "{\\"method\\"", "a:b:["], "id": 1}'
    found = framer.feed(unfinished + good) if together else framer.feed(unfinished) + framer.feed(good)
    assert [(r.reply, json.loads(r.body)["params"][0]) for r in found] == [("b", ":x:{")]
    assert len(framer.errors) == 1
    assert not framer.partial


def test_the_framer_bounds_what_it_keeps() -> None:
    framer = Framer()
    assert framer.feed(b":" + b"n" * (NAME_LIMIT + 1) + b":{}") == []
    assert framer.errors.pop()
    assert framer.feed(b':r:{"a": "' + b"x" * REQUEST_LIMIT) == []
    assert "at most" in framer.errors.pop()
    assert not framer.partial
    assert [r.reply for r in framer.feed(b":r:{}")] == ["r"], "the next write is read again"


def test_the_folder_of_the_pipe_is_made_when_only_it_is_missing(tmp_path: Path) -> None:
    """/run/opensips does not outlive a boot; a path that is wrong further up is still a mistake."""

    async def started(name: str) -> None:
        core = FakeCore()
        door = core.add(MiFifo(fifo_name=str(tmp_path / name), reply_dir=str(tmp_path)))
        await door.launch()
        assert stat.S_ISFIFO(os.stat(tmp_path / name).st_mode)
        await door.shutdown()

    asyncio.run(started("opensips/opensips_fifo"))
    assert stat.S_IMODE((tmp_path / "opensips").stat().st_mode) & 0o022 == 0
    with pytest.raises(StartError, match="No such file"):
        asyncio.run(started("no/such/opensips_fifo"))
