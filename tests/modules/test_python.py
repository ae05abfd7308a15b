"""python: the operator's own file, its mistakes included."""

from __future__ import annotations

import asyncio
import inspect
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from opensipspy.module import Module, StartError, script_function
from opensipspy.module.testing import FakeCore, make_run, reply, request
from opensipspy.modules import python as python_module
from opensipspy.modules.python import Python
from opensipspy.script.core import build_catalogue
from opensipspy.script.declare import VarRef
from opensipspy.script.kinds import BRANCH, ONREPLY
from opensipspy.script.run import Run
from opensipspy.server.logs import L_INFO
from opensipspy.server.services import Services
from opensipspy.sip import Peer


class Functions(Module):
    name = "functions"

    def __init__(self) -> None:
        super().__init__()
        self.got: list[tuple[Any, ...]] = []

    @script_function()
    def plain(self, run: Run, text: str, number: int = 0, var: VarRef | None = None) -> int:
        self.got.append((text, number))
        if var is not None:
            var.set(run, "written")
        return 7

    @script_function()
    async def waits(self, run: Run, text: str = "") -> int:
        await asyncio.sleep(0)
        return 9

    @script_function(routes=BRANCH)
    def branch_only(self, run: Run) -> int:
        return 1


class Lab:
    def __init__(self, folder: Path, body: str, **params: Any) -> None:
        self.path = folder / "operator_handler.py"
        self.path.write_text(
            "from OpenSIPS import LM_ERR, LM_INFO\n"
            "def mod_init():\n    return Handler()\n"
            "class Handler:\n    def child_init(self, rank):\n        return 0\n"
            + textwrap.indent(textwrap.dedent(body), "    ")
        )
        self.core = FakeCore()
        self.core.catalogue = build_catalogue(Services(L_INFO, {}))
        self.functions = self.core.add(Functions())
        self.module = self.core.add(Python(script_name=str(self.path), **params))
        self.run = make_run(request(headers="X-A: one\r\n"), core=self.core, source=Peer(1, "192.0.2.7", 5070))

    def exec(self, *args: str, run: Run | None = None) -> int:
        async def go() -> int:
            await self.module.launch()
            try:
                result = self.core.call("python_exec", run or self.run, *args)
                return int(await result if inspect.isawaitable(result) else result)
            finally:
                await self.module.shutdown()

        return asyncio.run(go())


def test_a_method_gets_the_message_and_its_result_is_the_scripts(tmp_path: Path):
    """Manual, overview: the fields of the message."""
    lab = Lab(
        tmp_path,
        """
        def show(self, msg):
            assert msg.Type == msg.getType() == "SIP_REQUEST"
            assert (msg.Method, msg.RURI) == ("INVITE", "sip:bob@example.org")
            assert msg.src_address == ("192.0.2.7", 5070)
            assert msg.dst_address == ("127.0.0.1", 5060)
            assert msg.getHeader("x-a") == "one"
            assert msg.getHeader("f").endswith("tag=a1")
            assert msg.getHeader("none") is None
            assert msg.copy().RURI == msg.RURI
            return 42
        def extra(self, msg, args):
            LM_ERR("got %s\\n" % args)
            return int(args)
        """,
    )
    assert lab.exec("show") == 42
    assert lab.exec("extra", "-3") == -3
    assert lab.exec("extra", "0") == 0


def test_a_reply_has_a_status_and_no_request_uri(tmp_path: Path):
    lab = Lab(
        tmp_path,
        """
        def show(self, msg):
            assert (msg.Type, msg.Method, msg.Status) == ("SIP_REPLY", "INVITE", "180")
            for change in (lambda: msg.RURI, lambda: msg.rewrite_ruri("sip:a@b"), lambda: msg.set_dst_uri("sip:b")):
                try:
                    change()
                except RuntimeError:
                    continue
                return -7
            return 1
        """,
    )
    assert lab.exec("show", run=make_run(reply(180, "Ringing"), ONREPLY, core=lab.core)) == 1


def test_the_request_uri_and_the_destination_are_set(tmp_path: Path):
    lab = Lab(
        tmp_path,
        """
        def change(self, msg):
            msg.rewrite_ruri("sip:carol@192.0.2.24:5073")
            msg.set_dst_uri("sip:192.0.2.25")
            assert msg.RURI == "sip:carol@192.0.2.24:5073"
            return 1
        def wrong(self, msg):
            msg.rewrite_ruri("no uri\\r\\nX: y")
            return 1
        """,
    )
    assert lab.exec("change") == 1
    assert (lab.run.ruri, lab.run.dst_uri) == ("sip:carol@192.0.2.24:5073", "sip:192.0.2.25")
    assert lab.exec("wrong") == -1
    assert lab.run.ruri == "sip:carol@192.0.2.24:5073"


def test_variables_are_read_and_written(tmp_path: Path):
    lab = Lab(
        tmp_path,
        """
        def go(self, msg):
            msg.set_pseudoVar("$var(a)", "x")
            msg.set_pseudoVar("$avp(list)", "y")
            assert msg.get_pseudoVar("$var(a)") == "x"
            assert msg.get_pseudoVar("$(hdr(X-A){s.len})-$rm") == "3-INVITE"
            assert msg.get_pseudoVar("$avp(none)") == "<null>"
            return 1
        def wrong(self, msg, name):
            msg.set_pseudoVar(name, "x")
            return 1
        """,
    )
    assert lab.exec("go") == 1
    assert lab.run.vars["a"] == "x"
    for name in ("$rm", "$nothing", "plain", "$var(a) more", ""):
        assert lab.exec("wrong", name) == -1


def test_functions_of_the_script_are_called(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    lab = Lab(
        tmp_path,
        """
        def plain(self, msg):
            assert msg.call_function("plain", "$rm!", "5", "$var(out)") == 7
            assert msg.call_function("plain", "x", None, "$var(out)") == 7
            return msg.call_function("plain", "y")
        def wrong(self, msg, args):
            return msg.call_function(*args.split())
        async def later(self, msg):
            assert await msg.call_function("plain", "z") == 7
            return await msg.call_function("waits")
        """,
    )
    assert lab.exec("plain") == 7
    assert lab.functions.got == [("INVITE!", 5), ("x", 0), ("y", 0)]
    assert lab.run.vars["out"] == "written"
    assert lab.exec("later") == 9
    for args, why in (
        ("unknown", "no function"),
        ("plain", "needs the parameter text"),
        ("plain a b", "plain(): number"),
        ("plain a 1 $var(x) more", "at most 3"),
        ("plain $nothing", "text"),
        ("branch_only", "kind of route"),
        ("waits", "async def"),
    ):
        caplog.clear()
        assert lab.exec("wrong", args) == -1
        assert why in caplog.text


def test_an_async_method_is_awaited_while_others_go_on(tmp_path: Path):
    lab = Lab(
        tmp_path,
        """
        async def slow(self, msg):
            import asyncio
            await asyncio.sleep(0)
            return 3
        async def broken(self, msg):
            import asyncio
            await asyncio.sleep(0)
            return 1 / 0
        """,
    )
    assert lab.exec("slow") == 3
    assert lab.exec("broken") == -1


def test_an_exception_is_logged_with_the_operators_own_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    lab = Lab(
        tmp_path,
        """
        def outer(self, msg):
            return self.inner({})
        def inner(self, table):
            return table["missing"]
        async def later(self, msg):
            return self.inner({})
        def leaves(self, msg):
            raise SystemExit(1)
        """,
    )
    for method in ("outer", "later"):
        caplog.clear()
        assert lab.exec(method) == -1
        assert "KeyError" in caplog.text
        assert 'return table["missing"]' in caplog.text
        assert f"{lab.path}:11, in inner: " in caplog.text
        assert "opensipspy/modules/python.py" not in caplog.text
        assert "asyncio" not in caplog.text.partition("Traceback")[0].partition("KeyError")[2]
    assert lab.exec("leaves") == -1


def test_what_is_no_integer_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    lab = Lab(
        tmp_path,
        """
        value = 3
        def none(self, msg):
            pass
        def text(self, msg):
            return "x" * 100000
        def big(self, msg):
            return 2 ** 40
        def yes(self, msg):
            return True
        """,
    )
    for name in ("none", "text", "big", "value", "unknown", ""):
        assert lab.exec(name) == -1
    assert lab.exec("yes") == 1
    assert len(caplog.text) < 3000


def test_a_message_that_is_kept_is_dead(tmp_path: Path):
    lab = Lab(
        tmp_path,
        """
        def keep(self, msg):
            self.__class__.kept = msg
            return 1
        """,
    )
    assert lab.exec("keep") == 1
    kept = sys.modules.get("operator_handler")
    assert kept is None, "the file is forgotten at the stop"


def test_a_plain_function_that_takes_long_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(python_module, "SLOW_S", -1.0)
    lab = Lab(tmp_path, "def slow(self, msg):\n    return 1\n")
    assert lab.exec("slow") == 1
    assert lab.exec("slow") == 1
    assert caplog.text.count("slow held the server up") == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("def mod_init(:\n", r"handler\.py:1: "),
        ("x = 1\n\nraise ValueError('no')\n", r"handler\.py:3: ValueError: no"),
        ("import no_such_module_anywhere\n", r"handler\.py:1: ModuleNotFoundError"),
        ("x = 1\n", r"no function mod_init\(\)"),
        ("def mod_init():\n    return None\n", "returned no object"),
        ("def mod_init():\n    return [][0]\n", r"handler\.py:2: IndexError"),
        ("def mod_init():\n    return object()\n", r"no method child_init\(\)"),
        (
            "class A:\n    def child_init(self, r):\n        return -1\n\ndef mod_init():\n    return A()\n",
            "returned -1",
        ),
        ("raise SystemExit(3)\n", r"handler\.py:1: SystemExit"),
        ("\0", r"handler\.py:1: "),
    ],
    ids=range(10),
)
def test_a_file_with_a_mistake_refuses_the_start(tmp_path: Path, text: str, why: str):
    path = tmp_path / "handler.py"
    path.write_text(text)
    core = FakeCore()
    module = core.add(Python(script_name=str(path)))
    with pytest.raises(StartError, match=why):
        asyncio.run(module.launch())
    asyncio.run(module.shutdown())


def test_a_missing_file_refuses_the_start(tmp_path: Path):
    module = FakeCore().add(Python(script_name=str(tmp_path / "none.py")))
    with pytest.raises(StartError, match="cannot be read"):
        asyncio.run(module.launch())


def test_names_of_the_init_functions_and_neighbour_files(tmp_path: Path):
    (tmp_path / "neighbour_of_handler.py").write_text("VALUE = 5\n")
    path = tmp_path / "own.py"
    path.write_text(
        "import neighbour_of_handler\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass A:\n    n: int\n    async def ready(self, rank):\n        return rank\n"
        "    def go(self, msg):\n        return self.n\n"
        "async def build():\n    return A(neighbour_of_handler.VALUE)\n"
    )
    core = FakeCore()
    module = core.add(Python(script_name=str(path), mod_init_function="build", child_init_method="ready"))

    async def go() -> int:
        await module.launch()
        result = core.call("python_exec", make_run(request(), core=core), "go")
        await module.shutdown()
        return int(result)

    assert asyncio.run(go()) == 5
    sys.modules.pop("neighbour_of_handler", None)
