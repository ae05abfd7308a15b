"""The management client: parameters as words, both doors, and errors."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from opensipspy.cli.main import main
from opensipspy.cli.mi import parameters
from opensipspy.management import CommandDecl, EventCommands, StatisticsCommands
from opensipspy.mi.mi_fifo import MiFifo
from opensipspy.mi.mi_http import MiHttp
from opensipspy.module.testing import FakeCore
from opensipspy.modules.httpd import Httpd


def test_words_become_parameters() -> None:
    assert parameters("core:uptime", []) == []
    assert parameters("core:log_level", ["3"]) == ["3"]
    assert parameters("ul:rm", ["table_name=location", "aor=a=b"]) == {"table_name": "location", "aor": "a=b"}
    assert parameters("x:y", ["sip:a@b;x=y", "c=d"]) == ["sip:a@b;x=y", "c=d"]
    assert parameters("statistics:get", ["core:", "tm:"]) == {"statistics": ["core:", "tm:"]}
    assert parameters("evi:raise", ["E_X", '{"a": 1}', "[broken"]) == ["E_X", {"a": 1}, "[broken"]


def test_both_doors_are_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> list[int]:
        core = FakeCore()
        core.stats.counter("core", "rcv_requests").inc(5)
        core.mi.add(CommandDecl("core:level", lambda level: level + 1, params=(("level",),), types={"level": "int"}))
        StatisticsCommands(core.mi, core.stats).register()
        EventCommands(core.mi, core.events, core.now).register()
        pipe = core.add(MiFifo(fifo_name=str(tmp_path / "fifo"), reply_dir=str(tmp_path)))
        httpd, http = core.add(Httpd(port=0)), core.add(MiHttp())
        for module in (pipe, httpd, http):
            await module.launch()
        await asyncio.wait_for(httpd.serving.wait(), 60)
        url = "http://{}:{}/mi".format(*httpd.address)
        fifo = ["--fifo", str(tmp_path / "fifo"), "--reply-dir", str(tmp_path)]
        statuses = [
            await asyncio.to_thread(main, ["mi", *fifo, "get_statistics", "core:"]),
            await asyncio.to_thread(main, ["mi", "--url", url, "core:level", "3"]),
            await asyncio.to_thread(main, ["mi", *fifo, "core:level", "level=x"]),
        ]
        for module in (http, httpd, pipe):
            await module.shutdown()
        return statuses

    assert asyncio.run(scenario()) == [0, 0, 1]
    shown = capsys.readouterr()
    assert json.loads(shown.out.split("}")[0] + "}") == {"core:rcv_requests": 5}
    assert shown.out.endswith("4\n")
    assert "-32602 Invalid params (level must be an integer)" in shown.err
    assert not list(tmp_path.glob("opensipspy_mi_*")), "reply pipes are removed"


def test_a_server_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mi", "--fifo", str(tmp_path / "none"), "core:uptime"]) == 1
    assert main(["mi", "--url", "http://127.0.0.1:9/mi", "core:uptime"]) == 1
    assert main(["mi", "--url", "file:///etc/passwd", "core:uptime"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert "no server reads" in errors[0]
    assert "refused" in errors[1]
    assert "no http:// or https:// address" in errors[2]
